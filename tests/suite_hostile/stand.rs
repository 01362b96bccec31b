//! The activator's program with a scripted controller, and what can be seen of it from outside.

use crate::common::{Controller, TOKEN, free_addr, until};
use dormouse_proto::v1;
use dormouse_tests::client::Target;
use dormouse_tests::env::Env;
use dormouse_tests::proc::{Process, Program};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

pub(crate) struct Stand {
    pub(crate) controller: Controller,
    pub(crate) activator: Process,
    pub(crate) traffic: SocketAddr,
    admin: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Stand {
    /// Starts both, and waits until the activator has heard its first routes.
    pub(crate) async fn start(flags: &[&str]) -> Self {
        let program = Env::read().unwrap().program("dormouse-activator").unwrap();
        let controller = Controller::start().await;
        let folder = tempfile::tempdir().unwrap();
        let (traffic, admin) = (free_addr(), free_addr());
        let activator = Program::new(program, folder.path().join("activator.log"))
            .args([format!("--listen={traffic}"), format!("--admin={admin}")])
            .args([format!("--controller={}", controller.url()), "--name=hostile".into()])
            .args([format!("--spool-dir={}", folder.path().join("spool").display())])
            .args(flags.iter().copied())
            .env("DORMOUSE_TOKEN", TOKEN)
            .start()
            .unwrap();
        let mut stand = Self { controller, activator, traffic, admin, _folder: folder };
        let activator = &mut stand.activator;
        let heard = || {
            activator.check().unwrap();
            stand.controller.has_reports().then_some(())
        };
        until("routes are known", heard).await;
        stand
    }

    /// Publishes a function, and waits until the activator acts by it.
    pub(crate) async fn publish(&self, function: v1::Function) {
        let version = self.controller.set(function);
        self.controller.applied(version).await;
    }

    /// A function by its host.
    pub(crate) fn target(&self, name: &str, path: &str) -> Target {
        Target::new(self.traffic, host(name), path)
    }

    /// KiB of memory that the process has.
    pub(crate) fn resident_kib(&self) -> u64 {
        resident_kib(self.activator.pid())
    }

    /// One value of /metrics; 0 while the series is not there.
    pub(crate) async fn metric(&self, series: &str) -> i64 {
        let text = Target::new(self.admin, "localhost", "/metrics").call(0).await.unwrap().text();
        let value = |line: &str| line.strip_prefix(series)?.strip_prefix(' ')?.trim().parse::<f64>().ok();
        // Counts and bytes, which a floating-point number holds exactly.
        text.lines().find_map(value).unwrap_or(0.0) as i64
    }

    /// Waits until a value of /metrics is as it should be.
    pub(crate) async fn metric_is(&self, series: &str, limit: std::time::Duration, good: impl Fn(i64) -> bool) {
        let seen = dormouse_tests::wait::until(series, limit, || async {
            let value = self.metric(series).await;
            anyhow::ensure!(good(value), "{value}");
            Ok(())
        });
        seen.await.unwrap();
    }
}

/// The host of a function that `common::function` makes.
pub(crate) fn host(name: &str) -> String {
    format!("{name}.ns.example.com")
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Watches the memory of a process until asked for the most it had.
pub(crate) struct Memory {
    before: u64,
    stop: Arc<AtomicBool>,
    watch: std::thread::JoinHandle<u64>,
}

impl Memory {
    pub(crate) fn watch(stand: &Stand) -> Self {
        let (pid, before, stop) = (stand.activator.pid(), stand.resident_kib(), Arc::new(AtomicBool::new(false)));
        let stopped = stop.clone();
        let watch = std::thread::spawn(move || {
            let mut most = before;
            while !stopped.load(Relaxed) {
                most = most.max(resident_kib(pid));
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            most
        });
        Self { before, stop, watch }
    }

    /// By how many KiB it has grown at most.
    pub(crate) fn growth_kib(self) -> u64 {
        self.stop.store(true, Relaxed);
        self.watch.join().unwrap() - self.before
    }
}

/// Ordinary callers, one call after the other, while something else goes on.
pub(crate) struct Others {
    stop: Arc<AtomicBool>,
    callers: Vec<tokio::task::JoinHandle<(u64, Vec<String>)>>,
}

/// How many call at once, each on a connection of its own.
pub(crate) const OTHERS: usize = 4;

impl Others {
    pub(crate) fn call(target: &Target) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let callers = (0..OTHERS).map(|_| tokio::spawn(call_on(target.clone(), stop.clone()))).collect();
        Self { stop, callers }
    }

    /// How many calls were answered; every one must have been.
    pub(crate) async fn answered(self) -> u64 {
        self.stop.store(true, Relaxed);
        let (mut answered, mut failures) = (0, Vec::new());
        for caller in self.callers {
            let (n, failed) = caller.await.unwrap();
            answered += n;
            failures.extend(failed);
        }
        assert!(failures.is_empty(), "{} ordinary calls failed: {:?}", failures.len(), failures.first());
        assert!(answered >= OTHERS as u64, "{answered} ordinary calls were answered");
        answered
    }
}

async fn call_on(target: Target, stop: Arc<AtomicBool>) -> (u64, Vec<String>) {
    use dormouse_tests::client::Connection;
    let (mut answered, mut failures, mut number) = (0, Vec::new(), 0);
    let mut connection = None;
    while !stop.load(Relaxed) {
        number += 1;
        let usable = connection.take().filter(Connection::usable);
        let mut open = match usable {
            Some(open) => open,
            None => match Connection::open(target.addr).await {
                Ok(open) => open,
                Err(e) => {
                    failures.push(format!("call {number}: {e}"));
                    continue;
                }
            },
        };
        match open.call(target.get(number)).await {
            Ok(answer) if answer.status == 200 => answered += 1,
            Ok(answer) => failures.push(format!("call {number}: {answer}")),
            Err(e) => failures.push(format!("call {number}: {e}")),
        }
        connection = Some(open);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    (answered, failures)
}
