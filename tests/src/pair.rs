//! Controller and activator as two processes on this machine: what a suite kills and a bench measures.
//!
//! The controller is the harness's `house` (the product's crates with local processes as instances), the activator is
//! the release program.

use crate::client::{Answer, Target};
use crate::ground::{self, Ground};
pub use crate::ports::free as free_ports;
use crate::proc::{Process, Program};
use crate::usage::Usage;
use crate::wait::until;
use anyhow::{Context, Result};
use dormouse_controller::fleet::process::leftover;
use dormouse_controller::ledger::Place;
use dormouse_core::valid::LOCAL_COMMAND;
use serde_json::Value;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Name and namespace of the function of a pair that has only one.
pub const FUNCTION: (&str, &str) = ("paired", "default");

/// How long a process may take to end when asked.
const ENDING: Duration = Duration::from_secs(40);

/// Longest time until a call is answered after a start.
const UP: Duration = Duration::from_secs(60);

/// The programs that a pair is made of.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The harness's controller.
    pub house: PathBuf,
    /// `dormouse-activator`.
    pub activator: PathBuf,
    /// `dormouse`, whose `sample` is the function.
    pub dormouse: PathBuf,
}

/// A function of a pair.
#[derive(Clone, Debug)]
pub struct Placed {
    /// Its name; its namespace is `default`.
    pub name: String,
    /// Its spec as JSON, without image.
    pub spec: Value,
    /// The program of its instances and its arguments; it runs in the pair's folder.
    pub command: Vec<String>,
}

/// A running pair with its functions, in a folder.
pub struct Pair {
    /// How the controller is started.
    pub house_program: Program,
    /// How the activator is started.
    pub activator_program: Program,
    /// The controller, unless it was taken out.
    pub house: Option<Process>,
    /// The activator, unless it was taken out.
    pub activator: Option<Process>,
    /// Where usage is read.
    pub usage: Usage,
    traffic: SocketAddr,
    ready: [Target; 2],
    ledger: Place,
    mark: String,
}

impl Pair {
    /// Starts both with one function, whose instances are `dormouse sample`; `spec` is as in [`Placed`].
    ///
    /// # Errors
    /// When one cannot be started.
    pub fn start(folder: &Path, programs: &Programs, spec: Value) -> Result<Self> {
        Self::start_on(&Ground::of(folder), programs, spec, &[])
    }

    /// The same on a ground of its own; `flags` are more ones of the activator.
    ///
    /// # Errors
    /// When one cannot be started.
    pub fn start_on(ground: &Ground, programs: &Programs, spec: Value, flags: &[&str]) -> Result<Self> {
        let command = vec![text(&programs.dormouse)?, "sample".into()];
        Self::on(ground, programs, &[Placed { name: FUNCTION.0.into(), spec, command }], flags)
    }

    /// Starts both with these functions; `flags` are more ones of the activator.
    ///
    /// # Errors
    /// When one cannot be started.
    pub fn with(folder: &Path, programs: &Programs, functions: &[Placed], flags: &[&str]) -> Result<Self> {
        Self::on(&Ground::of(folder), programs, functions, flags)
    }

    /// Starts both with these functions on a ground of its own.
    ///
    /// # Errors
    /// When one cannot be started.
    pub fn on(ground: &Ground, programs: &Programs, functions: &[Placed], flags: &[&str]) -> Result<Self> {
        let (mark, folder) = (format!("{:016x}", rand::random::<u64>()), &ground.folder);
        let manifests = functions.iter().map(|f| Ok(format!("--function={}", text(&f.write(folder, &mark)?)?)));
        let manifests: Vec<String> = manifests.collect::<Result<_>>()?;
        let [grpc, usage, traffic, admin, house_admin] = free_ports()?;
        let house_program = Program::new(&programs.house, folder.join("house.log"))
            .args([format!("--grpc={grpc}"), format!("--usage={usage}"), format!("--admin={house_admin}")])
            .args([format!("--mark={mark}"), format!("--durability={}", ground::name(ground.durability))])
            .args([format!("--token={mark}"), format!("--ledger-dir={}", text(&ground.ledger)?)])
            .env("DORMOUSE_LEDGER_URL", ground.database.clone().unwrap_or_default())
            .args(manifests);
        let activator_program = Program::new(&programs.activator, folder.join("activator.log"))
            .args([format!("--listen={traffic}"), format!("--admin={admin}"), format!("--controller=http://{grpc}")])
            .args([format!("--spool-dir={}", text(&ground.spool)?), "--name=pair".into()])
            .args(flags.iter().copied())
            .env("DORMOUSE_TOKEN", &mark);
        let ledger = ground.place()?;
        let house = Some(house_program.start()?);
        let activator = Some(activator_program.start()?);
        let usage = Usage::at(usage, Some(mark.clone()));
        let ready = [house_admin, admin].map(|addr| Target::new(addr, "admin", "/readyz?verbose"));
        Ok(Self { house_program, activator_program, house, activator, usage, traffic, ready, ledger, mark })
    }

    /// The one function by its path.
    #[must_use]
    pub fn target(&self, path: &str) -> Target {
        self.function(FUNCTION.0, path)
    }

    /// A function by its path.
    #[must_use]
    pub fn function(&self, name: &str, path: &str) -> Target {
        Target::new(self.traffic, "localhost", format!("/fn/{}/{name}{path}", FUNCTION.1))
    }

    /// The traffic port.
    #[must_use]
    pub fn traffic(&self) -> SocketAddr {
        self.traffic
    }

    /// Waits until a call is answered; `call` makes one and says whether it was.
    ///
    /// # Errors
    /// When a process ended, or none is answered in time.
    pub async fn answers(&mut self) -> Result<()> {
        let target = self.target("/");
        let (house, activator) = (&mut self.house, &mut self.activator);
        let began = std::time::Instant::now();
        loop {
            for process in [&mut *house, &mut *activator].into_iter().flatten() {
                process.check()?;
            }
            match target.call(0).await {
                Ok(answer) if answer.status == 200 => return Ok(()),
                other => anyhow::ensure!(began.elapsed() < UP, "no answer: {other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What the controller and the activator say of being ready.
    ///
    /// # Errors
    /// When one does not answer.
    pub async fn ready(&self) -> Result<[Answer; 2]> {
        let [house, activator] = &self.ready;
        Ok([house.call(0).await?, activator.call(0).await?])
    }

    /// Request ids of every record.
    ///
    /// # Errors
    /// When the ledger does not answer.
    pub async fn recorded(&self) -> Result<Vec<String>> {
        self.usage.request_ids(&crate::usage::lately()).await
    }

    /// Asks both to end, the activator first so that it hands over what it has, and says where the ledger is.
    ///
    /// # Errors
    /// When one does not end, or a process of the function is left.
    pub async fn end(&mut self) -> Result<Place> {
        for process in [self.activator.take(), self.house.take()].into_iter().flatten() {
            let name = format!("{process:?}");
            let status = tokio::task::spawn_blocking(move || process.end(ENDING)).await??;
            anyhow::ensure!(status.success(), "{name} ended with {status}");
        }
        let mark = self.mark.clone();
        until("no process of the function is left", ENDING, || async {
            let left = leftover::find(&mark)?;
            anyhow::ensure!(left.is_empty(), "left: {left:?}");
            Ok(())
        })
        .await?;
        Ok(self.ledger.clone())
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.activator = None;
        self.house = None;
        leftover::kill_all(&self.mark);
    }
}

impl Placed {
    /// Writes its manifest for the house.
    fn write(&self, folder: &Path, mark: &str) -> Result<PathBuf> {
        let (mut spec, name) = (self.spec.clone(), &self.name);
        spec["image"] = Value::from("local");
        let function = serde_json::json!({
            "apiVersion": "dormouse.dev/v1alpha1", "kind": "Function", "spec": spec,
            "metadata": {
                "name": name, "namespace": FUNCTION.1, "uid": format!("uid-{name}-{mark}"),
                "annotations": {LOCAL_COMMAND: serde_json::to_string(&self.command)?},
            },
        });
        let manifest = folder.join(format!("{name}.json"));
        std::fs::write(&manifest, serde_json::to_vec(&function)?)?;
        Ok(manifest)
    }
}

fn text(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).context("a path that is no text")
}
