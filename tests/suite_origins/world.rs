//! The pair of `dormouse_tests::pair` with functions whose instances are real servers.

use crate::raw::{LIMIT, Raw};
use anyhow::{Context, Result, ensure};
use dormouse_tests::env::Env;
use dormouse_tests::pair::{Pair, Placed, Programs};
use dormouse_tests::wait::until;
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use tempfile::TempDir;

/// The sources of the origins.
pub(crate) const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/origins");

/// The folder that the check script fills: `python` is a virtual environment, `node` has `node_modules`.
pub(crate) fn tools() -> Result<PathBuf> {
    let dir = std::env::var_os("DORMOUSE_ORIGINS_DIR");
    Ok(dir.context("DORMOUSE_ORIGINS_DIR is not set: run ./test --only origins")?.into())
}

/// A program of the virtual environment.
pub(crate) fn python(program: &str) -> Result<String> {
    let path = tools()?.join("python/bin").join(program);
    ensure!(path.is_file(), "{} is missing: tests/checks/origins.sh installs it", path.display());
    Ok(path.display().to_string())
}

/// What can be an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Node's own server: keeps idle connections 5 s and says so.
    Node,
    /// gunicorn's default worker: one connection at a time, closed after each answer.
    Gunicorn,
    /// gunicorn with threads: keeps idle connections 2 s and does not say so.
    Threads,
    /// uvicorn: keeps idle connections 5 s and does not say so.
    Uvicorn,
    /// nginx: keeps idle connections 75 s, at most 1,000 requests each.
    Nginx,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] = [Self::Node, Self::Gunicorn, Self::Threads, Self::Uvicorn, Self::Nginx];
    /// Those that do what `x-do` says.
    pub(crate) const TALKING: [Self; 3] = [Self::Node, Self::Threads, Self::Uvicorn];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Gunicorn => "gunicorn",
            Self::Threads => "threads",
            Self::Uvicorn => "uvicorn",
            Self::Nginx => "nginx",
        }
    }

    fn command(self) -> Result<Vec<String>> {
        let words: Vec<String> = match self {
            Self::Node => vec!["node".into(), format!("{SOURCES}/node.mjs")],
            Self::Nginx => vec![format!("{SOURCES}/nginx.sh")],
            Self::Uvicorn => {
                let run = r#"exec "$0" --app-dir "$1" --host 127.0.0.1 --port "$PORT" --no-proxy-headers --log-level warning asgi:app"#;
                vec!["sh".into(), "-c".into(), run.into(), python("uvicorn")?, SOURCES.into()]
            }
            Self::Gunicorn | Self::Threads => {
                let run = r#"exec "$0" --chdir "$1" --bind "127.0.0.1:$PORT" --log-level warning $2 wsgi:app"#;
                let threads = if self == Self::Threads { "--threads=16" } else { "" };
                let words = ["sh", "-c", run, &python("gunicorn")?, SOURCES, threads];
                words.map(str::to_owned).into()
            }
        };
        Ok(words)
    }

    /// A function of this kind. `more` is added to its spec.
    pub(crate) fn function(self, name: &str, more: Value) -> Result<Placed> {
        let mut spec = json!({
            "concurrency": 16, "idleTimeoutSeconds": 600, "timeoutSeconds": 60,
            "queue": {"maxCalls": 10_000, "maxWaitSeconds": 60}, "env": [],
        });
        for (name, value) in more.as_object().into_iter().flatten() {
            spec[name] = value.clone();
        }
        Ok(Placed { name: name.into(), spec, command: self.command()? })
    }

    /// A function of this kind with its kind's name.
    pub(crate) fn plain(self) -> Result<Placed> {
        self.function(self.name(), json!({}))
    }
}

/// Programs and functions that run.
pub(crate) struct World {
    pub(crate) pair: Pair,
    pub(crate) folder: TempDir,
}

/// Runs a test in a world with these functions; what failed is told with the logs' last lines, and the folder is kept.
pub(crate) async fn world(
    functions: Result<Vec<Placed>>,
    flags: &[&str],
    test: impl AsyncFnOnce(&mut World) -> Result<()>,
) {
    let mut world = World::start(functions.expect("functions"), flags).expect("a world");
    let result = async {
        test(&mut world).await?;
        world.pair.end().await
    };
    if let Err(e) = result.await {
        let log = |name: &str| dormouse_tests::proc::tail(&world.folder.path().join(name), 15);
        let (activator, house) = (log("activator.log"), log("house.log"));
        let kept = world.folder.path().to_owned();
        world.folder.disable_cleanup(true);
        panic!("{e:?}\n\nactivator:\n{activator}\n\nhouse:\n{house}\n\nkept: {}", kept.display());
    }
}

impl World {
    fn start(functions: Vec<Placed>, flags: &[&str]) -> Result<Self> {
        let (env, folder) = (Env::read()?, tempfile::tempdir()?);
        let programs = Programs {
            house: env!("CARGO_BIN_EXE_house").into(),
            activator: env.program("dormouse-activator")?,
            dormouse: PathBuf::new(),
        };
        let pair = Pair::with(folder.path(), &programs, &functions, flags)?;
        Ok(Self { pair, folder })
    }

    /// A connection to the activator, once it listens.
    pub(crate) async fn raw(&self) -> Result<Raw> {
        until("the activator listens", LIMIT, || Raw::open(self.pair.traffic())).await
    }

    /// Waits until every one of these functions answers: they are started, and their routes known. Gives the request
    /// ids of the answers.
    pub(crate) async fn up(&self, functions: &[&str]) -> Result<Vec<String>> {
        let mut ids = Vec::new();
        for name in functions {
            let what = format!("{name} answers");
            let id = until(&what, LIMIT, || async {
                let (head, body) = self.raw().await?.call(get(name, "/", "")).await?;
                ensure!(head.status == 200, "{head:?} {}", body.text());
                Ok(head.one("dormouse-request-id").to_owned())
            });
            ids.push(id.await?);
        }
        Ok(ids)
    }

    /// Waits until the routes are known: a function that is not among them is then unknown.
    pub(crate) async fn routed(&self) -> Result<()> {
        until("routes are known", LIMIT, || async {
            let (head, _) = self.raw().await?.call(get("nobody", "/", "")).await?;
            ensure!(head.status == 404, "{head:?}");
            Ok(())
        })
        .await
    }

    /// How many records of a function there are, once those of all its calls so far are there: they come in order.
    pub(crate) async fn counted(&self, name: &str) -> Result<usize> {
        let (head, _) = self.raw().await?.call(get(name, "/", "")).await?;
        self.record(name, head.one("dormouse-request-id")).await?;
        Ok(self.records(name).await?.len())
    }

    /// What a function's instance says to a word that is no call of the test, asked of it directly around the activator.
    pub(crate) async fn ask(&self, port: u16, word: &str) -> Result<Value> {
        let mut raw = Raw::open(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
        let (_, body) = raw.call(format!("GET / HTTP/1.1\r\nhost: direct\r\nx-do: {word}\r\n\r\n")).await?;
        Ok(serde_json::from_slice(&body.start)?)
    }

    /// The port of a function's one instance.
    pub(crate) async fn port(&self, name: &str) -> Result<u16> {
        let (_, body) = self.raw().await?.call(get(name, "/", "")).await?;
        Ok(u16::try_from(seen(&body.start)?["port"].as_u64().context("no port")?)?)
    }

    /// The records of a function.
    pub(crate) async fn records(&self, name: &str) -> Result<Vec<Value>> {
        self.pair.usage.records(&format!("{}&function={name}", dormouse_tests::usage::lately())).await
    }

    /// The record of a call by its request id, once the ledger has it.
    pub(crate) async fn record(&self, name: &str, request_id: &str) -> Result<Value> {
        until("a record", LIMIT, || async {
            let mut records = self.records(name).await?;
            records.retain(|r| r["request_id"] == request_id);
            ensure!(records.len() == 1, "{} records of {request_id}", records.len());
            records.pop().context("none")
        })
        .await
    }

    /// The records of a function that are not 200, once there are as many.
    pub(crate) async fn odd_records(&self, name: &str, n: usize) -> Result<Vec<Value>> {
        until("records", LIMIT, || async {
            let mut records = self.records(name).await?;
            records.retain(|r| r["outcome"] != "ok");
            ensure!(records.len() == n, "{} of {n}: {records:?}", records.len());
            Ok(records)
        })
        .await
    }
}

/// A request without a body to a function by its host; `more` are header lines with their ends.
pub(crate) fn get(name: &str, path: &str, more: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {name}.default.localhost\r\n{more}\r\n")
}

/// A POST to a function by its host with a body of known length.
pub(crate) fn post(name: &str, path: &str, more: &str, body: &[u8]) -> Vec<u8> {
    let host = format!("Host: {name}.default.localhost\r\n{more}Content-Length: {}\r\n\r\n", body.len());
    [format!("POST {path} HTTP/1.1\r\n{host}").as_bytes(), body].concat()
}

/// What an origin says it saw.
pub(crate) fn seen(body: &[u8]) -> Result<Value> {
    serde_json::from_slice(body).with_context(|| format!("no JSON: {}", String::from_utf8_lossy(body)))
}

/// The values of a header that an origin saw, in order.
pub(crate) fn header(seen: &Value, name: &str) -> Vec<String> {
    let pairs = seen["headers"].as_array().into_iter().flatten();
    pairs.filter(|p| p[0] == name).filter_map(|p| p[1].as_str().map(str::to_owned)).collect()
}
