//! A controller and several activators as processes on this machine, with the harness's `backend` as every function:
//! what the suites with several activators end, kill, pause and start again. Each activator has a name, a spool and
//! ports of its own.

use crate::calls::{Bound, Calls};
use crate::ports;
use crate::proc::{Process, Program, signal};
use crate::usage::Usage;
use crate::wait::until;
use anyhow::{Context, Result};
use dormouse_controller::fleet::process::leftover;
use dormouse_core::valid::LOCAL_COMMAND;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

/// Namespace of the functions.
pub const NAMESPACE: &str = "default";

/// How long a process may take to end when asked: more than any drain of a suite, with what comes after it.
pub const ENDING: Duration = Duration::from_secs(60);

/// The programs that a team is made of.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The harness's controller.
    pub house: PathBuf,
    /// `dormouse-activator`.
    pub activator: PathBuf,
    /// The harness's function.
    pub backend: PathBuf,
}

/// One function of a team.
#[derive(Clone, Debug)]
pub struct Function {
    /// Its name.
    pub name: &'static str,
    /// Its spec, without image and environment.
    pub spec: Value,
    /// How long its port takes to open.
    pub start_after: Duration,
}

impl Function {
    /// A function that starts at once.
    #[must_use]
    pub fn new(name: &'static str, spec: Value) -> Self {
        Self { name, spec, start_after: Duration::ZERO }
    }

    /// The path below which it is called.
    #[must_use]
    pub fn path(&self, rest: &str) -> String {
        format!("/fn/{NAMESPACE}/{}{rest}", self.name)
    }
}

/// One activator: a place of running, and the process that is there now.
#[derive(Debug)]
pub struct Member {
    /// Its name, as the controller knows it.
    pub name: String,
    /// Where calls go.
    pub traffic: SocketAddr,
    /// Where `/readyz` is.
    pub admin: SocketAddr,
    /// How it is started.
    pub program: Program,
    /// The process, unless it was ended.
    pub process: Option<Process>,
    /// How many processes it has had.
    pub lives: u32,
}

/// A controller and its activators, in a folder.
#[derive(Debug)]
pub struct Team {
    /// How the controller is started.
    pub house_program: Program,
    /// The controller, unless it was ended.
    pub house: Option<Process>,
    /// Where usage is read.
    pub usage: Usage,
    folder: PathBuf,
    activator: PathBuf,
    grpc: SocketAddr,
    mark: String,
    flags: Vec<String>,
    named: usize,
}

impl Team {
    /// Starts the controller; `flags` are for every activator.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(folder: &Path, programs: &Programs, functions: &[Function], flags: &[&str]) -> Result<Self> {
        let mark = format!("{:016x}", rand::random::<u64>());
        let [grpc, usage, admin] = ports::free()?;
        let mut house_program = Program::new(&programs.house, folder.join("house.log"))
            .args([format!("--grpc={grpc}"), format!("--usage={usage}"), format!("--admin={admin}")])
            .args([format!("--mark={mark}"), format!("--token={mark}")])
            .args([format!("--ledger-dir={}", text(&folder.join("ledger"))?)]);
        for function in functions {
            let file = folder.join(format!("{}.json", function.name));
            std::fs::write(&file, serde_json::to_vec(&manifest(function, &programs.backend, folder, &mark)?)?)?;
            house_program = house_program.args([format!("--function={}", text(&file)?)]);
        }
        Ok(Self {
            house: Some(house_program.start()?),
            house_program,
            usage: Usage::at(usage, Some(mark.clone())),
            folder: folder.to_owned(),
            activator: programs.activator.clone(),
            grpc,
            mark,
            flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
            named: 0,
        })
    }

    /// Starts an activator with a name, ports and a spool that no other has or had.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn join(&mut self) -> Result<Member> {
        let name = format!("activator-{}", self.named);
        self.named += 1;
        let [traffic, admin, peer] = ports::free()?;
        let program = Program::new(&self.activator, self.folder.join(format!("{name}.log")))
            .args([format!("--listen={traffic}"), format!("--admin={admin}"), format!("--name={name}")])
            .args([format!("--controller=http://{}", self.grpc), format!("--peer-listen={peer}")])
            .args([format!("--spool-dir={}", text(&self.folder.join(format!("spool-{name}")))?)])
            .args(self.flags.iter().cloned())
            .env("DORMOUSE_TOKEN", &self.mark);
        let mut member = Member { name, traffic, admin, program, process: None, lives: 0 };
        member.begin()?;
        Ok(member)
    }

    /// What the instances of a function say of their calls.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn calls(&self, function: &Function, bound: Bound) -> Result<Calls> {
        Calls::read(&log_of(&self.folder, function.name), bound)
    }

    /// Request ids of every record.
    ///
    /// # Errors
    /// When the ledger does not answer.
    pub async fn recorded(&self) -> Result<Vec<String>> {
        self.usage.request_ids(&crate::usage::lately()).await
    }

    /// Processes of functions that run now.
    ///
    /// # Errors
    /// When they cannot be counted.
    pub fn instances(&self) -> Result<usize> {
        Ok(leftover::find(&self.mark)?.len())
    }

    /// Kills the controller.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill_house(&mut self) -> Result<()> {
        let house = self.house.take().context("the controller does not run")?;
        tokio::task::spawn_blocking(move || house.kill()).await??;
        Ok(())
    }

    /// Starts the controller again.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn begin_house(&mut self) -> Result<()> {
        self.house = Some(self.house_program.start()?);
        Ok(())
    }

    /// Ends the controller; all its instances go with it.
    ///
    /// # Errors
    /// When it does not end well, or a process of a function is left.
    pub async fn end(&mut self) -> Result<()> {
        let house = self.house.take().context("the controller does not run")?;
        let status = tokio::task::spawn_blocking(move || house.end(ENDING)).await??;
        anyhow::ensure!(status.success(), "the controller ended with {status}");
        until("no process of a function is left", ENDING, || async {
            let left = self.instances()?;
            anyhow::ensure!(left == 0, "{left} are left");
            Ok(())
        })
        .await
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.house = None;
        leftover::kill_all(&self.mark);
    }
}

impl Member {
    /// Its process, for the one who tells lives apart.
    #[must_use]
    pub fn life(&self) -> String {
        format!("{}/{}", self.name, self.lives)
    }

    /// Starts its process: the same name, ports and spool as before.
    ///
    /// # Errors
    /// When it runs, or cannot be started.
    pub fn begin(&mut self) -> Result<()> {
        anyhow::ensure!(self.process.is_none(), "{} runs", self.name);
        self.process = Some(self.program.start()?);
        self.lives += 1;
        Ok(())
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill(&mut self) -> Result<()> {
        self.check()?;
        let process = self.process.take().with_context(|| format!("{} does not run", self.name))?;
        tokio::task::spawn_blocking(move || process.kill()).await??;
        Ok(())
    }

    /// Sends its process a signal.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&mut self, what: Signal) -> Result<()> {
        self.check()?;
        signal(self.process.as_ref().map_or(0, Process::pid), what)
    }

    /// Waits until its process has ended by itself.
    ///
    /// # Errors
    /// When it does not, or did not run.
    pub async fn ended(&mut self) -> Result<ExitStatus> {
        let process = self.process.take().with_context(|| format!("{} does not run", self.name))?;
        tokio::task::spawn_blocking(move || process.wait(ENDING)).await?
    }

    /// Asks it to end and waits until it has, with code 0.
    ///
    /// # Errors
    /// When it does not, or with another code.
    pub async fn leave(&mut self) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        let status = self.ended().await?;
        anyhow::ensure!(status.success(), "{} ended with {status}", self.life());
        Ok(())
    }

    /// Fails when it does not run.
    ///
    /// # Errors
    /// How it ended.
    pub fn check(&mut self) -> Result<()> {
        self.process.as_mut().with_context(|| format!("{} does not run", self.name))?.check()
    }
}

fn manifest(function: &Function, backend: &Path, folder: &Path, mark: &str) -> Result<Value> {
    let mut spec = function.spec.clone();
    spec["image"] = Value::from("local");
    spec["env"] = json!([
        {"name": "CALLS_LOG", "value": text(&log_of(folder, function.name))?},
        {"name": "START_AFTER_MS", "value": function.start_after.as_millis().to_string()},
    ]);
    Ok(json!({
        "apiVersion": "dormouse.dev/v1alpha1", "kind": "Function", "spec": spec,
        "metadata": {
            "name": function.name, "namespace": NAMESPACE, "uid": format!("uid-{}-{mark}", function.name),
            "annotations": {LOCAL_COMMAND: serde_json::to_string(&[text(backend)?])?},
        },
    }))
}

fn log_of(folder: &Path, function: &str) -> PathBuf {
    folder.join(format!("{function}.calls"))
}

fn text(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).context("a path that is no text")
}
