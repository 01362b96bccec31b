//! What a developer waits for: `dormouse dev` until its first call is answered, a save until the new code answers, and a cold
//! call, beside the language runtime's own start with the same handler.

use crate::say;
use anyhow::{Context, Result, ensure};
use clap::Args;
use dormouse_tests::client::Target;
use dormouse_tests::env::Env;
use dormouse_tests::pair::free_ports;
use dormouse_tests::proc::{Process, Program};
use dormouse_tests::quantiles::Times;
use serde_json::Value;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The repository's runtimes, which `dormouse` holds copies of.
const RUNTIMES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../runtimes");

/// Longest wait for anything.
const LIMIT: Duration = Duration::from_secs(60);

/// Pause between two dials, and two calls that wait for new code: far below what is measured.
const PAUSE: Duration = Duration::from_millis(1);

/// How long an end may take.
const END: Duration = Duration::from_secs(30);

/// How often.
#[derive(Args)]
pub(crate) struct Plan {
    /// Samples of each arm
    #[arg(short, default_value_t = 20)]
    n: usize,
}

/// A language, its file, and a handler that answers with a number.
struct Language {
    name: &'static str,
    interpreter: &'static str,
    main: &'static str,
    file: &'static str,
    code: &'static str,
}

const LANGUAGES: [Language; 2] = [
    Language {
        name: "nodejs",
        interpreter: "node",
        main: "nodejs/main.js",
        file: "index.js",
        code: "exports.handler = async () => ({ statusCode: 200, body: 'version NUMBER' })\n",
    },
    Language {
        name: "python",
        interpreter: "python3",
        main: "python/main.py",
        file: "index.py",
        code: "def handler(event, context):\n    return {'statusCode': 200, 'body': 'version NUMBER'}\n",
    },
];

/// What is measured, the runtime's own start first.
const ARMS: [&str; 4] = [
    "runtime alone, until its port is open",
    "`dormouse dev`, until its first call is answered",
    "save, until the new code answers",
    "cold call",
];

/// A folder with one function, and what runs in it.
struct Bench {
    language: &'static Language,
    program: PathBuf,
    folder: tempfile::TempDir,
    home: tempfile::TempDir,
    version: usize,
}

/// Measures and prints.
pub(crate) async fn run(plan: Plan) -> Result<()> {
    say("\n| runtime | what | n | min ms | p50 ms | p90 ms | max ms | p50 / runtime alone |");
    say("|---|---|---|---|---|---|---|---|");
    for language in &LANGUAGES {
        let mut bench = Bench::new(language)?;
        let mut times: [Times; 4] = Default::default();
        for _ in 0..plan.n {
            // By turns: a noisy minute is noisy for all.
            times[0].record(bench.boot().await?);
            let (dev, first) = bench.first_call().await?;
            times[1].record(first);
            times[2].record(bench.save(&dev).await?);
            times[3].record(bench.cold_call(&dev)?);
            dev.end()?;
        }
        let alone = times[0].ms(0.5);
        for (what, times) in ARMS.iter().zip(&times) {
            let [min, p50, p90, max] = [times.min_ms(), times.ms(0.5), times.ms(0.9), times.ms(1.0)];
            let ratio = p50 / alone;
            say(&format!(
                "| {} | {what} | {} | {min:.0} | {p50:.0} | {p90:.0} | {max:.0} | {ratio:.2} |",
                language.name,
                times.count()
            ));
        }
    }
    Ok(())
}

/// A `dormouse dev` and where it takes calls.
struct Dev {
    process: Process,
    target: Target,
}

impl Dev {
    fn end(self) -> Result<()> {
        let status = self.process.end(END)?;
        ensure!(status.success(), "dormouse dev: {status}");
        Ok(())
    }
}

impl Bench {
    fn new(language: &'static Language) -> Result<Self> {
        let (folder, home) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let manifest = format!(
            "apiVersion: dormouse.dev/v1alpha1\nkind: Function\nmetadata: {{name: bench}}\n\
             spec: {{source: {{runtime: {}, handler: index.handler}}, idleTimeoutSeconds: 600}}\n",
            language.name
        );
        std::fs::write(folder.path().join("function.yaml"), manifest)?;
        let bench = Self { language, program: Env::read()?.program("dormouse")?, folder, home, version: 0 };
        bench.write()?;
        Ok(bench)
    }

    fn write(&self) -> Result<()> {
        let code = self.language.code.replace("NUMBER", &self.version.to_string());
        Ok(std::fs::write(self.folder.path().join(self.language.file), code)?)
    }

    fn answer(&self) -> String {
        format!("version {}", self.version)
    }

    async fn boot(&self) -> Result<Duration> {
        let [address] = free_ports()?;
        let program = Program::new(self.language.interpreter, self.home.path().join("boot.log"))
            .args([Path::new(RUNTIMES).join(self.language.main).display().to_string()])
            .env("HOST", "127.0.0.1")
            .env("PORT", address.port().to_string())
            .env("DORMOUSE_HANDLER", "index.handler")
            .env("DORMOUSE_CODE_DIR", self.folder.path().display().to_string());
        let began = Instant::now();
        let mut process = program.start()?;
        while tokio::net::TcpStream::connect(address).await.is_err() {
            process.check()?;
            ensure!(began.elapsed() < LIMIT, "its port never opened");
            tokio::time::sleep(PAUSE).await;
        }
        let took = began.elapsed();
        let answer = Target::new(address, "bench", "/").call(1).await?;
        ensure!(answer.text() == self.answer(), "{answer}");
        process.end(END)?;
        Ok(took)
    }

    /// From the program's start; without the records of the sample before.
    async fn first_call(&self) -> Result<(Dev, Duration)> {
        let [calls, usage]: [SocketAddr; 2] = free_ports()?;
        let state = tempfile::tempdir_in(self.home.path())?.keep();
        let program = Program::new(&self.program, self.home.path().join("dev.log"))
            .args(["dev".to_owned(), self.folder.path().display().to_string()])
            .args(["--state-dir".to_owned(), state.display().to_string()])
            .args([format!("--port={}", calls.port()), format!("--usage-port={}", usage.port())])
            .env("XDG_RUNTIME_DIR", self.home.path().display().to_string());
        let target = Target::new(calls, "bench", "/fn/default/bench/");
        let began = Instant::now();
        let mut dev = Dev { process: program.start()?, target };
        loop {
            dev.process.check()?;
            match dev.target.call(1).await {
                Ok(answer) if answer.status == 200 => {
                    ensure!(answer.text() == self.answer(), "{answer}");
                    return Ok((dev, began.elapsed()));
                }
                // It listens before it knows its functions.
                Ok(answer) => ensure!(answer.status == 404 || answer.status == 503, "{answer}"),
                Err(_) => {}
            }
            ensure!(began.elapsed() < LIMIT, "no call was answered: {}", dev.process.tail());
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Calls go on meanwhile: each is answered, by the old code or the new.
    async fn save(&mut self, dev: &Dev) -> Result<Duration> {
        let old = self.answer();
        self.version += 1;
        self.write()?;
        let began = Instant::now();
        loop {
            let answer = dev.target.call(1).await?;
            ensure!(answer.status == 200, "{answer}");
            if answer.text() == self.answer() {
                return Ok(began.elapsed());
            }
            ensure!(answer.text() == old && began.elapsed() < LIMIT, "the new code never answered: {answer}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn cold_call(&self, dev: &Dev) -> Result<Duration> {
        let mut invoke = Command::new(&self.program);
        invoke.args(["invoke", "bench", "--cold", "-o", "json"]).env("XDG_RUNTIME_DIR", self.home.path());
        let told = invoke.current_dir(self.folder.path()).output()?;
        let text = String::from_utf8_lossy(&told.stdout).into_owned();
        ensure!(told.status.success(), "{text}{}{}", String::from_utf8_lossy(&told.stderr), dev.process.tail());
        let answer: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
        ensure!(answer["body"] == self.answer() && answer["timing"]["cold"] == true, "{answer}");
        let total = answer["timing"]["totalMs"].as_f64().with_context(|| answer.to_string())?;
        Ok(Duration::from_secs_f64(total / 1e3))
    }
}
