//! A Redis server for a test: the distribution's own program, in a folder that goes with it.

use crate::ports;
use crate::proc::{Process, Program};
use crate::wait::until;
use anyhow::{Context, Result, ensure};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// How long a start may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server on a port of its own. It ends with this.
#[derive(Debug)]
pub struct Redis {
    /// Ends before its folder goes.
    _process: Process,
    _folder: tempfile::TempDir,
    address: SocketAddr,
    /// Connections that this made.
    asked: AtomicU64,
}

impl Redis {
    /// Starts a server that keeps nothing.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub async fn start() -> Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST.into()).await
    }

    /// The same at an address of this machine, for whoever reaches that.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub async fn start_at(ip: IpAddr) -> Result<Self> {
        let (folder, [free]) = (tempfile::tempdir()?, ports::free()?);
        let address = SocketAddr::new(ip, free.port());
        let (path, ip, port) = (folder.path().display().to_string(), ip.to_string(), free.port().to_string());
        let args =
            ["--bind", &ip, "--protected-mode", "no", "--save", "", "--appendonly", "no", "--dir", &path, "--port"];
        let program = Program::new("redis-server", folder.path().join("log"));
        let process = program.args(args).args([port]).start().context("install the package redis-server")?;
        let server = Self { _process: process, _folder: folder, address, asked: AtomicU64::new(0) };
        until("Redis answers", PATIENCE, async || server.call(&["PING"]).map(drop)).await?;
        Ok(server)
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// What a command answers, as text.
    ///
    /// # Errors
    /// When the server is not there or refuses it.
    pub fn call(&self, words: &[&str]) -> Result<String> {
        let (ip, port) = (self.address.ip().to_string(), self.address.port().to_string());
        let mut cli = Command::new("redis-cli");
        let told = cli.args(["-e", "-h", &ip, "-p", &port]).args(words).output().context("redis-cli")?;
        ensure!(told.status.success(), "{words:?}: {}", String::from_utf8_lossy(&told.stderr));
        self.asked.fetch_add(1, Relaxed);
        Ok(String::from_utf8(told.stdout)?.trim().to_owned())
    }

    /// Connections that others have made since it started, closed ones included.
    ///
    /// # Errors
    /// When the server does not tell.
    pub fn connections(&self) -> Result<u64> {
        let told = self.call(&["INFO", "stats"])?;
        let count = told.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
        let count: u64 = count.context("no count of connections")?.trim().parse()?;
        Ok(count - self.asked.load(Relaxed))
    }
}
