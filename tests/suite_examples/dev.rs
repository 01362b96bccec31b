//! `dormouse dev` as a child process.

use crate::LIMIT;
use crate::place::Place;
use anyhow::{Context, Result, ensure};
use dormouse_tests::client::{Answer, Target};
use dormouse_tests::proc::{Process, Program};
use dormouse_tests::wait::until;
use std::path::PathBuf;

/// One that runs.
pub(crate) struct Dev {
    process: Process,
    log: PathBuf,
    calls: std::net::SocketAddr,
}

impl Dev {
    /// Starts it in a place and waits until it serves.
    pub(crate) async fn start(place: &Place, words: &[&str]) -> Result<Self> {
        let log = place.log("dev");
        let words = words.iter().copied().map(str::to_owned);
        let args = ["-C".to_owned(), place.path().display().to_string(), "dormouse".into()].into_iter().chain(words);
        let mut program = Program::new("env", &log).args(args);
        for (name, value) in &place.envs {
            program = program.env(name, value);
        }
        let dev = Self { process: program.start()?, log, calls: place.calls };
        dev.says("usage API").await?;
        Ok(dev)
    }

    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) async fn says(&self, text: &str) -> Result<()> {
        until(&format!("it says {text:?}"), LIMIT, async || {
            let said = self.said();
            said.contains(text).then_some(()).context(said)
        })
        .await
    }

    /// Instances of a function that it has started.
    pub(crate) fn started(&self, function: &str) -> usize {
        let said = self.said();
        let of = format!(" {function}-");
        said.lines().filter(|line| line.contains(&of) && line.contains(" started: process ")).count()
    }

    /// Where a function is called.
    pub(crate) fn target(&self, function: &str, rest: &str) -> Target {
        Target::new(self.calls, "any.example", format!("/fn/default/{function}/{rest}"))
    }

    pub(crate) async fn get(&self, function: &str, rest: &str) -> Result<Answer> {
        Ok(self.target(function, rest).call(1).await?)
    }

    pub(crate) async fn post(&self, function: &str, body: impl Into<bytes::Bytes>) -> Result<Answer> {
        let target = self.target(function, "");
        Ok(target.send(target.post(1, body)).await?)
    }

    /// Ends it in order.
    pub(crate) fn end(self) -> Result<()> {
        let status = self.process.end(LIMIT)?;
        ensure!(status.success(), "{status}: {}", std::fs::read_to_string(&self.log)?);
        Ok(())
    }
}
