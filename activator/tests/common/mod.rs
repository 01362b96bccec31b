//! What the suites share: a controller that speaks the real wire, origins, raw-socket clients.
#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    reason = "each suite uses a part of it"
)]

pub mod client;
pub mod controller;
pub mod h2c;
pub mod origin;

pub use client::{Answer, Client};
pub use controller::Controller;
pub use origin::Origin;

use dormouse_activator::{Activator, Config, Identity};
use dormouse_core::record::{CallRecord, Subject};
use dormouse_daemon::Token;
use dormouse_proto::v1;
use prometheus_client::registry::Registry;
use std::{net::SocketAddr, path::Path, time::Duration};
use tokio_util::sync::CancellationToken;

pub const TOKEN: &str = "secret";

/// Longest time for anything that must happen; never a measure.
const LIMIT: Duration = Duration::from_secs(20);

/// Waits until something is so.
pub async fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + LIMIT;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.unwrap_or_else(|_| panic!("never happened: {what}"))
}

/// A running activator.
pub struct Running {
    pub addr: SocketAddr,
    pub identity: Identity,
    pub health: dormouse_daemon::Health,
    registry: Registry,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    pub async fn start(controller: &str, spool: &Path, change: impl FnOnce(&mut Config)) -> Self {
        let any = "127.0.0.1:0".parse().unwrap();
        let mut config = Config::new(any, controller.into(), Token::new(TOKEN).unwrap(), spool.to_owned());
        config.drain_limit = Duration::from_secs(5);
        change(&mut config);
        let activator = Activator::bind(config).await.unwrap();
        let (addr, identity, health) = (activator.traffic_addr(), activator.identity(), activator.health());
        let mut registry = Registry::default();
        activator.register(&mut registry);
        let stop = CancellationToken::new();
        let task = tokio::spawn(activator.run(stop.clone()));
        Self { addr, identity, health, registry, stop, task }
    }

    /// Its metrics, as a scrape gets them.
    pub fn metrics(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text
    }

    /// The value of one series; `None` when there is no such line.
    pub fn metric(&self, series: &str) -> Option<f64> {
        let text = self.metrics();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map(|value| value.parse().unwrap())
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.addr).await
    }

    /// One call on a connection of its own.
    pub async fn call(&self, request: &str) -> Answer {
        let mut client = self.client().await;
        client.send(request).await;
        client.answer().await
    }

    /// Waits until the metrics have this line.
    pub async fn shows(&self, line: &str) {
        until(line, || self.metrics().lines().any(|l| l == line).then_some(())).await;
    }

    pub fn ask_to_stop(&self) {
        self.stop.cancel();
    }

    pub async fn stop(self) {
        self.stop.cancel();
        within("the end of the activator", self.task).await.unwrap();
    }
}

/// Controller, activator and a spool folder.
pub struct House {
    pub controller: Controller,
    pub activator: Running,
    pub folder: tempfile::TempDir,
}

impl House {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let controller = Controller::start().await;
        let folder = tempfile::tempdir().unwrap();
        let activator = Running::start(&controller.url(), folder.path(), change).await;
        let house = Self { controller, activator, folder };
        until("routes are known", || house.controller.has_reports().then_some(())).await;
        house
    }

    /// Publishes a function, and waits until the activator acts by it.
    pub async fn publish(&self, function: v1::Function) {
        let version = self.controller.set(function);
        self.controller.applied(version).await;
    }

    /// Waits for `n` records at the ledger.
    pub async fn records(&self, n: usize) -> Vec<(Subject, CallRecord)> {
        until(&format!("{n} records"), || Some(self.controller.records()).filter(|r| r.len() >= n)).await
    }
}

/// A function without instances.
pub fn function(name: &str) -> v1::Function {
    v1::Function {
        uid: format!("uid-{name}"),
        namespace: "ns".into(),
        name: name.into(),
        hosts: vec![format!("{name}.ns.example.com")],
        concurrency: 1,
        timeout_ms: 10_000,
        queue_max_calls: 100,
        queue_max_wait_ms: 10_000,
        tenant: "ns".into(),
        ..Default::default()
    }
}

pub fn instance(id: &str, addr: SocketAddr, state: v1::InstanceState, slots: u32) -> v1::Instance {
    v1::Instance {
        id: id.into(),
        address: addr.to_string(),
        state: state.into(),
        slots,
        revision: "r1".into(),
        memory_mib: 256,
        cpu_millis: 100,
        ..Default::default()
    }
}

/// A function with one ready instance.
pub fn ready(name: &str, addr: SocketAddr, slots: u32) -> v1::Function {
    v1::Function { instances: vec![instance("i1", addr, v1::InstanceState::Ready, slots)], ..function(name) }
}

/// The same, and its instance speaks HTTP/2.
pub fn ready_h2c(name: &str, addr: SocketAddr, slots: u32) -> v1::Function {
    let instance = v1::Instance { h2c: true, ..instance("i1", addr, v1::InstanceState::Ready, slots) };
    v1::Function { instances: vec![instance], ..function(name) }
}

/// A port on which nothing listens.
pub fn free_addr() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
