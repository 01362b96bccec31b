//! A controller that says what a test wants, over the real wire.

use super::{TOKEN, until};
use dormouse_core::record::{CallRecord, Subject, unpack};
use dormouse_proto::v1::{
    self, appended,
    demand_server::{Demand, DemandServer},
    fires_server::{Fires, FiresServer},
    ledger_server::{Ledger, LedgerServer},
    routes_server::{Routes, RoutesServer},
};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
};
use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::UnboundedReceiverStream};
use tonic::{Request, Response, Status, Streaming, transport::server::TcpIncoming};

#[derive(Default)]
struct State {
    version: u64,
    functions: BTreeMap<String, v1::Function>,
    /// What single activators are told in place of that.
    own: HashMap<(u64, String), v1::Function>,
    watchers: Vec<(u64, mpsc::UnboundedSender<Result<v1::RouteUpdate, Status>>)>,
    peers: Vec<v1::Peer>,
    reports: Vec<v1::DemandReport>,
    progress: Vec<v1::Progress>,
    watermarks: HashMap<(u64, u32), u64>,
    records: Vec<(Subject, CallRecord)>,
    deaf: bool,
    /// Frames that came while deaf.
    unheard: usize,
    /// A frame with this call is called invalid.
    poison: Option<u64>,
    /// Where orders go, by activator.
    takers: HashMap<u64, mpsc::UnboundedSender<Result<v1::FireOrder, Status>>>,
    /// What was said of orders.
    fires: Vec<v1::FireReport>,
}

#[derive(Clone)]
struct Service(Arc<Mutex<State>>);

pub struct Controller {
    service: Service,
    inner: SocketAddr,
    addr: SocketAddr,
    /// Carries bytes between the activator and the service: what is cut when the controller goes down.
    relay: Option<tokio::task::JoinHandle<()>>,
}

impl Controller {
    pub async fn start() -> Self {
        let service = Service(Arc::default());
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let inner = incoming.local_addr().unwrap();
        let server = tonic::transport::Server::builder()
            .add_service(RoutesServer::with_interceptor(service.clone(), check))
            .add_service(DemandServer::with_interceptor(service.clone(), check))
            .add_service(FiresServer::with_interceptor(service.clone(), check))
            .add_service(LedgerServer::with_interceptor(service.clone(), check))
            .serve_with_incoming(incoming);
        tokio::spawn(server);
        let mut controller = Self { service, inner, addr: super::free_addr(), relay: None };
        controller.up().await;
        controller
    }

    /// Serves (again) on the same address.
    pub async fn up(&mut self) {
        let listener = tokio::net::TcpListener::bind(self.addr).await.unwrap();
        let inner = self.inner;
        self.relay = Some(tokio::spawn(async move {
            let mut lines = tokio::task::JoinSet::new();
            loop {
                let (mut from, _) = listener.accept().await.unwrap();
                lines.spawn(async move {
                    let mut to = tokio::net::TcpStream::connect(inner).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
                });
            }
        }));
    }

    /// Breaks every connection.
    pub async fn down(&mut self) {
        if let Some(relay) = self.relay.take() {
            relay.abort();
            let _ = relay.await;
        }
        let mut state = self.service.0.lock();
        state.watchers.clear();
        state.takers.clear();
        state.reports.clear();
        state.fires.clear();
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The ledger answers nothing while deaf.
    pub fn deaf(&self, deaf: bool) {
        self.service.0.lock().deaf = deaf;
    }

    /// Frames that came while deaf.
    pub fn unheard(&self) -> usize {
        self.service.0.lock().unheard
    }

    /// The ledger calls frames with this call invalid.
    pub fn poison(&self, call: Option<u64>) {
        self.service.0.lock().poison = call;
    }

    /// The ledger loses what it has of every epoch; what it was told stays in `records`.
    pub fn forget(&self) {
        self.service.0.lock().watermarks.clear();
    }

    pub fn set(&self, function: v1::Function) -> u64 {
        let mut state = self.service.0.lock();
        state.functions.insert(function.uid.clone(), function.clone());
        state.tell(v1::RouteUpdate { functions: vec![function], ..Default::default() })
    }

    /// Tells one activator alone.
    pub fn set_of(&self, activator: u64, function: v1::Function) -> u64 {
        let mut state = self.service.0.lock();
        state.own.insert((activator, function.uid.clone()), function.clone());
        state.version += 1;
        let update = v1::RouteUpdate { version: state.version, functions: vec![function], ..Default::default() };
        state.watchers.retain(|(of, w)| *of != activator || w.send(Ok(update.clone())).is_ok());
        state.version
    }

    /// Waits until one activator acts by a version.
    pub async fn applied_by(&self, activator: u64, version: u64) {
        until("routes are acted by", || {
            let state = self.service.0.lock();
            let mut reports = state.reports.iter().filter(|r| r.activator == activator);
            reports.any(|r| r.applied_version >= version).then_some(())
        })
        .await;
    }

    /// Orders a call from an activator, once it takes orders.
    pub async fn order(&self, activator: u64, order: v1::FireOrder) {
        until("it takes orders", || self.service.0.lock().takers.get(&activator).cloned())
            .await
            .send(Ok(order))
            .unwrap();
    }

    /// What was said of orders on the present streams.
    pub fn fires(&self) -> Vec<v1::FireReport> {
        self.service.0.lock().fires.clone()
    }

    /// Waits for the newest word on an order to be this.
    pub async fn fate(&self, due_us: i64, state: v1::FateState) -> v1::Fate {
        until(&format!("{state:?} of {due_us}"), || {
            let reports = self.fires();
            let mut of = reports.iter().flat_map(|r| &r.fates).filter(|f| f.due_us == due_us);
            of.next_back().filter(|fate| fate.state() == state).cloned()
        })
        .await
    }

    /// Where calls are handed over.
    pub fn peers(&self) -> Vec<v1::Peer> {
        self.service.0.lock().peers.clone()
    }

    pub fn remove(&self, uid: &str) -> u64 {
        let mut state = self.service.0.lock();
        state.functions.remove(uid);
        state.tell(v1::RouteUpdate { removed: vec![uid.into()], ..Default::default() })
    }

    pub async fn applied(&self, version: u64) {
        until("routes are acted by", || {
            self.service.0.lock().reports.iter().any(|r| r.applied_version >= version).then_some(())
        })
        .await;
    }

    pub fn has_reports(&self) -> bool {
        !self.service.0.lock().reports.is_empty()
    }

    pub fn reports(&self) -> Vec<v1::DemandReport> {
        self.service.0.lock().reports.clone()
    }

    pub fn records(&self) -> Vec<(Subject, CallRecord)> {
        self.service.0.lock().records.clone()
    }

    pub fn epochs(&self) -> Vec<(u64, u32, u64)> {
        let mut epochs: Vec<_> = self.service.0.lock().watermarks.iter().map(|(k, v)| (k.0, k.1, *v)).collect();
        epochs.sort();
        epochs
    }

    /// How far records were said to be complete, each time.
    pub fn progress(&self) -> Vec<v1::Progress> {
        self.service.0.lock().progress.clone()
    }

    /// What was last told of a function: queued and running.
    pub fn demand(&self, uid: &str) -> Option<(u32, u32)> {
        let state = self.service.0.lock();
        let mut told = state.reports.iter().flat_map(|r| &r.functions).filter(|f| f.uid == uid);
        told.next_back().map(|f| (f.queued, f.running))
    }

    /// How much was told by now.
    pub fn mark(&self) -> usize {
        self.service.0.lock().reports.len()
    }

    /// Waits until as many calls of a function were told to wait and run after `mark`.
    pub async fn told(&self, mark: usize, uid: &str, demand: (u32, u32)) {
        until(&format!("{demand:?} of {uid}"), || {
            let state = self.service.0.lock();
            let mut told = state.reports.iter().skip(mark).flat_map(|r| &r.functions).filter(|f| f.uid == uid);
            told.any(|f| (f.queued, f.running) == demand).then_some(())
        })
        .await;
    }

    /// What was last told of an instance.
    pub fn instance(&self, id: &str) -> Option<v1::InstanceDemand> {
        let state = self.service.0.lock();
        state.reports.iter().flat_map(|r| &r.instances).rfind(|i| i.id == id).cloned()
    }
}

impl State {
    fn tell(&mut self, mut update: v1::RouteUpdate) -> u64 {
        self.version += 1;
        update.version = self.version;
        self.watchers.retain(|(_, w)| w.send(Ok(update.clone())).is_ok());
        self.version
    }
}

fn check(request: Request<()>) -> Result<Request<()>, Status> {
    let token = request.metadata().get(dormouse_proto::AUTHORIZATION).and_then(|v| v.to_str().ok());
    if token == Some(&format!("Bearer {TOKEN}")) { Ok(request) } else { Err(Status::unauthenticated("token")) }
}

#[tonic::async_trait]
impl Routes for Service {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::RouteUpdate, Status>> + Send>>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let v1::WatchRequest { activator, name, peer_address, .. } = request.into_inner();
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut state = self.0.lock();
        let own = |f: &v1::Function| state.own.get(&(activator, f.uid.clone())).unwrap_or(f).clone();
        let functions = state.functions.values().map(own).collect();
        let snapshot =
            v1::RouteUpdate { version: state.version, snapshot: true, functions, ..v1::RouteUpdate::default() };
        sender.send(Ok(snapshot)).unwrap();
        state.watchers.push((activator, sender));
        if !peer_address.is_empty() {
            state.peers.retain(|p| p.activator != activator);
            state.peers.push(v1::Peer { activator, name, address: peer_address });
        }
        if !state.peers.is_empty() {
            let peers = Some(v1::PeerList { peers: state.peers.clone() });
            state.tell(v1::RouteUpdate { peers, ..v1::RouteUpdate::default() });
        }
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(receiver))))
    }
}

#[tonic::async_trait]
impl Fires for Service {
    type TakeStream = Pin<Box<dyn Stream<Item = Result<v1::FireOrder, Status>> + Send>>;

    async fn take(&self, request: Request<Streaming<v1::FireReport>>) -> Result<Response<Self::TakeStream>, Status> {
        let mut reports = request.into_inner();
        let first = reports.message().await?.ok_or_else(|| Status::invalid_argument("no report"))?;
        let (sender, receiver) = mpsc::unbounded_channel();
        self.0.lock().takers.insert(first.activator, sender);
        self.0.lock().fires.push(first);
        let state = self.0.clone();
        tokio::spawn(async move {
            while let Ok(Some(report)) = reports.message().await {
                state.lock().fires.push(report);
            }
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(receiver))))
    }
}

#[tonic::async_trait]
impl Demand for Service {
    async fn report(
        &self,
        request: Request<Streaming<v1::DemandReport>>,
    ) -> Result<Response<v1::DemandClosed>, Status> {
        let mut reports = request.into_inner();
        while let Some(report) = reports.message().await? {
            self.0.lock().reports.push(report);
        }
        Ok(Response::new(v1::DemandClosed {}))
    }
}

#[tonic::async_trait]
impl Ledger for Service {
    async fn tell(&self, request: Request<v1::Progress>) -> Result<Response<v1::ProgressNoted>, Status> {
        self.0.lock().progress.push(request.into_inner());
        Ok(Response::new(v1::ProgressNoted {}))
    }

    async fn append(&self, request: Request<v1::Frame>) -> Result<Response<v1::Appended>, Status> {
        let frame = request.into_inner();
        if self.0.lock().deaf {
            self.0.lock().unheard += 1;
            return Err(Status::unavailable("deaf"));
        }
        assert_eq!(frame.crc32c, crc32c::crc32c(&frame.records));
        let records = unpack(&frame.records, frame.count).unwrap();
        let subjects: Vec<Subject> = frame.subjects.into_iter().map(|s| s.try_into().unwrap()).collect();
        let mut state = self.0.lock();
        if records.iter().any(|r| Some(r.call) == state.poison) {
            return Err(Status::invalid_argument("poison"));
        }
        let watermark = state.watermarks.entry((frame.activator, frame.epoch)).or_insert(0);
        let last = frame.first_seq + u64::from(frame.count) - 1;
        let outcome = if frame.first_seq > *watermark + 1 {
            appended::Outcome::Gap
        } else if last <= *watermark {
            appended::Outcome::Duplicate
        } else if frame.first_seq <= *watermark {
            // Half of it is known: it is not taken apart here.
            appended::Outcome::Duplicate
        } else {
            *watermark = last;
            appended::Outcome::Applied
        };
        let watermark = *watermark;
        if outcome == appended::Outcome::Applied {
            state.records.extend(records.into_iter().map(|r| (subjects[r.subject as usize].clone(), r)));
        }
        Ok(Response::new(v1::Appended { watermark, outcome: outcome.into() }))
    }
}
