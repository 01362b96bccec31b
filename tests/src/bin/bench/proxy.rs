//! A program between the client and the instance.

use anyhow::Result;
use dormouse_tests::pair::free_ports;
use dormouse_tests::proc::{Process, Program, children};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// Longest time until it listens.
const UP: Duration = Duration::from_secs(20);

/// A running one.
pub(crate) struct Proxy {
    process: Process,
    /// Where it takes calls.
    pub(crate) addr: SocketAddr,
}

impl Proxy {
    /// Starts the program that `made` makes for an address.
    pub(crate) async fn start(name: &str, made: impl FnOnce(SocketAddr) -> Result<Program>) -> Result<Self> {
        let [addr] = free_ports()?;
        let mut process = made(addr)?.start()?;
        let began = Instant::now();
        loop {
            process.check()?;
            if TcpStream::connect(addr).await.is_ok() {
                return Ok(Self { process, addr });
            }
            anyhow::ensure!(began.elapsed() < UP, "{name} does not listen: {}", process.tail());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The process that was started.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// It and its children: a master and its workers.
    pub(crate) fn pids(&self) -> Result<Vec<u32>> {
        let mut pids = vec![self.process.pid()];
        pids.extend(children(self.process.pid())?);
        Ok(pids)
    }
}
