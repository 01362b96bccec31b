//! A runtime as a process, parked or booted, and who may load it.

use crate::client::{Client, LIMIT, Reply, Request};
use anyhow::{Context, Result, ensure};
use base64::{Engine, engine::general_purpose::STANDARD};
use dormouse_tests::ports;
use dormouse_tests::proc::{Process, Program};
use dormouse_tests::wait::until;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use tempfile::TempDir;

/// The pod that a runtime of this suite thinks it is.
pub(crate) const POD: &str = "5b1d1a5e-pod";

/// A language.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Nodejs,
    Python,
}

impl Kind {
    pub(crate) const ALL: [Self; 2] = [Self::Nodejs, Self::Python];

    pub(crate) fn runtime(self) -> dormouse_core::function::Runtime {
        match self {
            Self::Nodejs => dormouse_core::function::Runtime::Nodejs,
            Self::Python => dormouse_core::function::Runtime::Python,
        }
    }

    /// The interpreter and the runtime's file.
    fn command(self) -> [&'static str; 2] {
        match self {
            Self::Nodejs => ["node", concat!(env!("CARGO_MANIFEST_DIR"), "/../runtimes/nodejs/main.js")],
            Self::Python => ["python3", concat!(env!("CARGO_MANIFEST_DIR"), "/../runtimes/python/main.py")],
        }
    }

    /// The file of a handler `index.handler`.
    pub(crate) fn file(self) -> &'static str {
        match self {
            Self::Nodejs => "index.js",
            Self::Python => "index.py",
        }
    }

    /// Whether a process ended because the runtime's watch ended it.
    pub(crate) fn is_killed(self, status: ExitStatus) -> bool {
        match self {
            Self::Nodejs => status.signal() == Some(9),
            Self::Python => status.code() == Some(128 + 9),
        }
    }

    /// One of two texts, by language.
    pub(crate) fn of<'a>(self, nodejs: &'a str, python: &'a str) -> &'a str {
        match self {
            Self::Nodejs => nodejs,
            Self::Python => python,
        }
    }
}

/// The platform's key.
pub(crate) struct Key(Ed25519KeyPair);

impl Key {
    pub(crate) fn new() -> Result<Self> {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).ok().context("no key was made")?;
        Ok(Self(Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).ok().context("the key cannot be read")?))
    }

    pub(crate) fn public(&self) -> String {
        STANDARD.encode(self.0.public_key())
    }

    pub(crate) fn sign(&self, body: &[u8]) -> String {
        STANDARD.encode(self.0.sign(body))
    }
}

/// A load of code as `index.handler`; `more` replaces fields of it.
pub(crate) fn load(kind: Kind, code: &str, more: Value) -> Value {
    load_files(&[(kind.file(), code)], more)
}

pub(crate) fn load_files(files: &[(&str, &str)], more: Value) -> Value {
    let files: Map<_, _> = files.iter().map(|(n, text)| ((*n).to_owned(), STANDARD.encode(text).into())).collect();
    let mut load = json!({
        "pod": POD, "function": {"uid": "1-2-3", "namespace": "default", "name": "hello"}, "revision": "hello-1",
        "handler": "index.handler", "files": files, "env": {}, "memoryMiB": 256, "timeoutMs": 30_000, "concurrency": 1,
    });
    for (name, value) in more.as_object().into_iter().flatten() {
        load[name] = value.clone();
    }
    load
}

/// A process.
pub(crate) struct Runtime {
    pub(crate) kind: Kind,
    pub(crate) process: Process,
    pub(crate) traffic: SocketAddr,
    pub(crate) door: SocketAddr,
    pub(crate) key: Key,
    /// Holds the log, and what the runtime keeps in its temporary folder `tmp`.
    pub(crate) folder: TempDir,
}

impl Runtime {
    /// Starts one with these variables and waits for nothing.
    pub(crate) fn start(kind: Kind, variables: &[(&str, &str)]) -> Result<Self> {
        Self::start_by(&[], kind, variables)
    }

    /// Starts one by another program, whose words come first.
    pub(crate) fn start_by(by: &[&str], kind: Kind, variables: &[(&str, &str)]) -> Result<Self> {
        let (folder, key, [traffic, door]) = (tempfile::tempdir()?, Key::new()?, ports::free()?);
        std::fs::create_dir(folder.path().join("tmp"))?;
        let path = std::env::var("PATH").unwrap_or_default();
        let mut words = vec!["-i".to_owned(), format!("PATH={path}"), "HOST=127.0.0.1".into()];
        words.extend([
            format!("TMPDIR={}", folder.path().join("tmp").display()),
            format!("PORT={}", traffic.port()),
            format!("DORMOUSE_LOAD_PORT={}", door.port()),
            format!("DORMOUSE_LOAD_KEY={}", key.public()),
            format!("DORMOUSE_POD_UID={POD}"),
            // What it compiles would lie in the folder that images are made of.
            "PYTHONDONTWRITEBYTECODE=1".into(),
        ]);
        words.extend(variables.iter().map(|(name, value)| format!("{name}={value}")));
        words.extend(by.iter().copied().chain(kind.command()).map(str::to_owned));
        // Nothing of this process's environment is the runtime's.
        let process = Program::new("env", folder.path().join("log")).args(words).start()?;
        Ok(Self { kind, process, traffic, door, key, folder })
    }

    /// Starts one and waits until it is parked.
    pub(crate) async fn park(kind: Kind) -> Result<Self> {
        let mut runtime = Self::start(kind, &[])?;
        runtime.parked().await?;
        Ok(runtime)
    }

    pub(crate) async fn parked(&mut self) -> Result<()> {
        self.opens(self.door).await
    }

    /// Waits until a port is open; fails when the process has ended.
    pub(crate) async fn opens(&mut self, port: SocketAddr) -> Result<()> {
        until("a port is open", LIMIT, || {
            let running = self.process.check();
            async move {
                running?;
                Client::open(port).await.map(drop)
            }
        })
        .await
    }

    /// Starts one and has it run this code.
    pub(crate) async fn with(kind: Kind, code: &str, more: Value) -> Result<Self> {
        let runtime = Self::park(kind).await?;
        let reply = runtime.load(&load(kind, code, more)).await?;
        ensure!(reply.status == 200, "not loaded: {}", reply.text());
        Ok(runtime)
    }

    /// Sends a signed load.
    pub(crate) async fn load(&self, load: &Value) -> Result<Reply> {
        let body = load.to_string().into_bytes();
        let signature = self.key.sign(&body);
        let request = Request::post("/load", body).with("dormouse-signature", &signature);
        Client::open(self.door).await?.call(&request).await
    }

    pub(crate) async fn client(&self) -> Result<Client> {
        Client::open(self.traffic).await
    }

    /// One call on a connection of its own.
    pub(crate) async fn get(&self, path: &str) -> Result<Reply> {
        self.client().await?.call(&Request::get(path)).await
    }

    /// The log so far: each line has what every line has.
    pub(crate) fn log(&self) -> Result<Vec<Value>> {
        let text = std::fs::read_to_string(self.folder.path().join("log"))?;
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let line = |line: &str| {
            let line: Value = serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))?;
            let (time, level) = (line["time"].as_str().unwrap_or_default(), line["level"].as_str().unwrap_or_default());
            ensure!(time.len() == 24 && time.ends_with('Z'), "no time: {line}");
            ensure!(["debug", "info", "warn", "error"].contains(&level) && line["message"].is_string(), "{line}");
            Ok(line)
        };
        whole.lines().map(line).collect()
    }

    /// Waits for a line with this code, and gives it.
    pub(crate) async fn logged(&self, code: &str) -> Result<Value> {
        until(&format!("{code} is in the log"), LIMIT, async || {
            let log = self.log()?;
            log.iter().find(|line| line["error"] == code).cloned().with_context(|| format!("{log:?}"))
        })
        .await
    }

    /// Its folder for temporary files.
    pub(crate) fn tmp(&self) -> PathBuf {
        self.folder.path().join("tmp")
    }

    /// How many folders it has left behind.
    pub(crate) fn leftovers(&self) -> Result<usize> {
        Ok(std::fs::read_dir(self.tmp())?.count())
    }
}

/// Runs a test with both languages, one after the other.
pub(crate) async fn each(test: impl AsyncFn(Kind) -> Result<()>) {
    for kind in Kind::ALL {
        test(kind).await.with_context(|| format!("{kind:?}")).expect("a runtime keeps the protocol");
    }
}
