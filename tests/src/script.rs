//! A controller that says what it is told to say, over the real wire, with the real ledger behind it: thousands of
//! functions that no pod and no process stands for.

use anyhow::{Context, Result};
use dormouse_controller::ledger::{self, LedgerDoor, Place};
use dormouse_core::price::PricePlan;
use dormouse_proto::v1;
use dormouse_proto::v1::demand_server::{Demand, DemandServer};
use dormouse_proto::v1::routes_server::{Routes, RoutesServer};
use futures::Stream;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

/// Longest time until an activator acts by what it was told.
const LIMIT: Duration = Duration::from_secs(60);

/// What is told, and what was heard.
#[derive(Default)]
struct State {
    version: u64,
    functions: BTreeMap<String, v1::Function>,
    watchers: Vec<mpsc::UnboundedSender<Result<v1::RouteUpdate, Status>>>,
    /// Version by which each activator acts.
    applied: HashMap<String, u64>,
    /// Queued and running calls of each function, by what one activator said last.
    demand: HashMap<String, (u32, u32)>,
}

/// The scripted controller; serves until the runtime ends.
#[derive(Clone)]
pub struct Script(Arc<Mutex<State>>);

impl Script {
    /// Serves at `addr`; the ledger is in `folder`. Needs a tokio runtime around it.
    ///
    /// # Errors
    /// When the address or the ledger cannot be had.
    pub async fn start(addr: SocketAddr, token: &str, folder: &Path) -> Result<Self> {
        Self::start_on(addr, token, Place::folder(folder)).await
    }

    /// The same with the ledger at a place.
    ///
    /// # Errors
    /// When the address or the ledger cannot be had.
    pub async fn start_on(addr: SocketAddr, token: &str, place: Place) -> Result<Self> {
        let door = LedgerDoor::new(place, PricePlan::default());
        door.open().await?;
        let script = Self(Arc::default());
        let bearer = format!("Bearer {token}");
        let check = move |request: Request<()>| {
            let shown = request.metadata().get(dormouse_proto::AUTHORIZATION);
            match shown.is_some_and(|shown| shown.as_bytes() == bearer.as_bytes()) {
                true => Ok(request),
                false => Err(Status::unauthenticated("token")),
            }
        };
        let incoming = TcpIncoming::bind(addr).map_err(|e| anyhow::anyhow!("{e}")).context("the script's port")?;
        let server = tonic::transport::Server::builder()
            .add_service(RoutesServer::with_interceptor(script.clone(), check.clone()))
            .add_service(DemandServer::with_interceptor(script.clone(), check.clone()))
            .add_service(tonic::service::interceptor::InterceptedService::new(ledger::service(door), check));
        tokio::spawn(server.serve_with_incoming(incoming.with_nodelay(Some(true))));
        Ok(script)
    }

    /// Tells functions: new ones, and others in place of what they were. Answers the version of it.
    pub fn tell(&self, functions: Vec<v1::Function>) -> u64 {
        let mut state = self.lock();
        state.version += 1;
        for function in &functions {
            state.functions.insert(function.uid.clone(), function.clone());
        }
        let update = v1::RouteUpdate { version: state.version, functions, ..Default::default() };
        state.watchers.retain(|w| w.send(Ok(update.clone())).is_ok());
        state.version
    }

    /// Waits until an activator acts by a version.
    ///
    /// # Errors
    /// When it does not.
    pub async fn applied(&self, activator: &str, version: u64) -> Result<()> {
        crate::wait::until("routes are acted by", LIMIT, || async {
            let at = self.lock().applied.get(activator).copied();
            anyhow::ensure!(at.is_some_and(|at| at >= version), "{activator} is at {at:?}, not {version}");
            Ok(())
        })
        .await
    }

    /// Queued and running calls of a function, as last told.
    #[must_use]
    pub fn demand(&self, uid: &str) -> (u32, u32) {
        self.lock().demand.get(uid).copied().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A function without instances in namespace `bench`, which answers at `NAME.bench.example`.
#[must_use]
pub fn function(name: &str) -> v1::Function {
    v1::Function {
        uid: format!("7b1c5f0e-0000-4000-8000-{name:0>12}"),
        namespace: "bench".into(),
        name: name.into(),
        hosts: vec![host(name)],
        concurrency: 1000,
        timeout_ms: 600_000,
        queue_max_calls: 1000,
        queue_max_wait_ms: 600_000,
        tenant: "bench".into(),
        ..Default::default()
    }
}

/// Its host.
#[must_use]
pub fn host(name: &str) -> String {
    format!("{name}.bench.example")
}

/// The function with one instance that is ready.
#[must_use]
pub fn awake(name: &str, addr: SocketAddr) -> v1::Function {
    let instance = v1::Instance {
        id: format!("{name}-1"),
        address: addr.to_string(),
        state: v1::InstanceState::Ready.into(),
        slots: 1000,
        revision: "1".into(),
        memory_mib: 256,
        cpu_millis: 100,
        ..Default::default()
    };
    v1::Function { instances: vec![instance], ..function(name) }
}

#[tonic::async_trait]
impl Routes for Script {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::RouteUpdate, Status>> + Send>>;

    async fn watch(&self, _: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut state = self.lock();
        let functions = state.functions.values().cloned().collect();
        let whole = v1::RouteUpdate { version: state.version, snapshot: true, functions, ..Default::default() };
        // The receiver is held below.
        let _ = sender.send(Ok(whole));
        state.watchers.push(sender);
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(receiver))))
    }
}

#[tonic::async_trait]
impl Demand for Script {
    async fn report(
        &self,
        request: Request<Streaming<v1::DemandReport>>,
    ) -> Result<Response<v1::DemandClosed>, Status> {
        let mut reports = request.into_inner();
        let mut name = String::new();
        while let Some(report) = reports.message().await? {
            if !report.name.is_empty() {
                name = report.name;
            }
            let mut state = self.lock();
            state.applied.insert(name.clone(), report.applied_version);
            state.demand.extend(report.functions.into_iter().map(|f| (f.uid, (f.queued, f.running))));
        }
        Ok(Response::new(v1::DemandClosed {}))
    }
}
