//! The data path: a call comes, waits for its function to wake if it must, is forwarded, and leaves one record.
//!
//! No Kubernetes client and no cluster rights: routes come from the controller by one stream, demand goes to it by
//! another, records by a third; a warm call needs none of them.

mod access;
mod alarm;
mod answer;
mod body;
mod check;
mod clock;
pub mod cost;
mod dial;
mod drain;
mod durable;
mod event;
mod feed;
mod files;
mod fires;
mod flight;
mod forward;
mod func;
mod grpc;
mod handover;
mod headers;
mod instance;
mod introduce;
mod knock;
mod link;
mod memory;
mod meter;
mod metered;
mod metrics;
mod otlp;
mod peer;
mod pool;
mod purse;
mod room;
mod route;
mod server;
mod shared;
mod ship;
mod spend;
mod spool;
#[cfg(test)]
mod strangers;
mod text;
mod through;
mod trace;
mod trail;
mod trust;
mod tunnel;
mod wire;

pub use access::AccessLog;
pub use files::raise_file_limit;
pub use link::LinkError;
pub use memory::allowance as memory_allowance;
pub use otlp::BadEndpoint;
pub use server::Limits;
pub use spool::{Fdatasync, Identity, SpoolError, Syncer};
pub use trust::{BadNetwork, Network};

use dormouse_core::{
    RequestId,
    record::{CallRecord, Subject},
};
use dormouse_daemon::{Health, Token};
use prometheus_client::registry::Registry;
use shared::{Bounds, Shared};
use spool::Spool;
use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How an activator runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where calls come in.
    pub listen: SocketAddr,
    /// The controller's gRPC address: `http://HOST:7070`.
    pub controller: String,
    /// The shared token.
    pub token: Token,
    /// Place of running: pod name, or "dev".
    pub name: String,
    /// Folder of the spool; made if it is missing.
    pub spool_dir: PathBuf,
    /// Bound of the spool in bytes: over it calls are refused.
    pub spool_max_bytes: u64,
    /// What makes the spool's records durable: fdatasync(2) unless something else is said.
    pub syncer: Arc<dyn Syncer>,
    /// The spool has a word of each call before it is dispatched, so that every call has a record after any end of the
    /// process; else of those that have run for a while. Costs a write(2) a call.
    pub every_intent: bool,
    /// Where other activators hand calls over; `None`: they do not.
    pub peer_listen: Option<SocketAddr>,
    /// Where they reach that port: an address with or without a port. `None`: at the address it is bound to.
    pub peer_advertise: Option<String>,
    /// Bounds of the traffic port.
    pub limits: Limits,
    /// Memory of the process over which new calls are refused; `None`: unbounded.
    pub max_memory_bytes: Option<u64>,
    /// Proxies whose word about a caller counts.
    pub trusted_proxies: Vec<Network>,
    /// After the stop is asked for: not ready, but still serving, until every proxy in front has noticed. Each answer
    /// tells its connection to close, so that connections in use are elsewhere before the port closes.
    pub drain_delay: Duration,
    /// After that: how long running calls may take before they are broken off.
    pub drain_limit: Duration,
    /// When everything else has ended: how long records may take to leave. As long as the spool lasts no longer than the
    /// process (a pod's emptyDir), what has not left by then is lost.
    pub ship_limit: Duration,
    /// Where a line for each call goes; `None`: nowhere.
    pub access_log: Option<AccessLog>,
    /// The collector that traces go to (OTLP over gRPC): `http://HOST:4317`; `None`: nowhere.
    pub otlp_endpoint: Option<String>,
    /// Part of the calls that come without a caller's decision whose trace is sampled, from 0 to 1. The decision is told
    /// to the function, whether traces are exported or not.
    pub trace_ratio: f64,
    /// Gets a copy of every record as its call ends; a full channel loses copies, never records.
    pub seen: Option<tokio::sync::mpsc::Sender<SeenCall>>,
}

impl Config {
    /// A configuration with the usual bounds.
    #[must_use]
    pub fn new(listen: SocketAddr, controller: String, token: Token, spool_dir: PathBuf) -> Self {
        Self {
            listen,
            controller,
            token,
            name: "activator".into(),
            spool_dir,
            spool_max_bytes: 256 << 20,
            syncer: Arc::new(Fdatasync),
            every_intent: false,
            peer_listen: None,
            peer_advertise: None,
            limits: Limits::default(),
            max_memory_bytes: None,
            trusted_proxies: Vec::new(),
            drain_delay: Duration::ZERO,
            drain_limit: Duration::from_secs(30),
            ship_limit: Duration::from_secs(5),
            access_log: None,
            otlp_endpoint: None,
            trace_ratio: 1.0,
            seen: None,
        }
    }
}

/// A call that was dispatched and is over.
#[derive(Clone, Debug)]
pub struct SeenCall {
    /// As its caller saw it.
    pub request_id: RequestId,
    /// What ran.
    pub subject: Arc<Subject>,
    /// Its record; `subject` in it means nothing here.
    pub record: CallRecord,
    /// Of the request.
    pub method: http::Method,
    /// As the caller wrote it, without the query.
    pub path: String,
}

/// Why an activator does not start.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The port cannot be had.
    #[error("cannot listen on {addr}: {source}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Nobody could hand calls over.
    #[error("where do other activators reach {bound}? Say it: an IP address, with or without a port, not {said:?}")]
    Advertise {
        /// The port that is bound.
        bound: SocketAddr,
        /// What was said.
        said: String,
    },
    /// The spool cannot be used.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The controller cannot be meant.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The access log cannot be written.
    #[error("access log {0}: {1}")]
    AccessLog(AccessLog, io::Error),
    /// The trace collector cannot be meant.
    #[error(transparent)]
    Collector(#[from] BadEndpoint),
}

/// An activator that has its port and its spool.
#[derive(Debug)]
pub struct Activator {
    config: Config,
    listener: TcpListener,
    addr: SocketAddr,
    peer_door: Option<TcpSocket>,
    link: link::Link,
    shared: Arc<Shared>,
    exporter: Option<otlp::Exporter>,
    health: Health,
}

/// Length of the queue of connections that are not accepted yet.
const BACKLOG: u32 = 4096;
/// How long the last traces, lines of the access log and words to the ledger have.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// How often the spool is synced.
const SYNC: Duration = Duration::from_secs(1);
/// Readiness checks.
const CHECKS: [&str; 2] = ["routes", "spool"];

/// Who is ending lets go of its spool within this: what it asked of the disk may be answered a moment after it.
const LET_GO: Duration = Duration::from_secs(1);

/// Opens the spool, waiting for who is just letting go of it.
async fn open_spool(config: &Config) -> Result<Spool, SpoolError> {
    let began = Instant::now();
    loop {
        let (folder, bytes) = (config.spool_dir.clone(), config.spool_max_bytes);
        let opened = tokio::task::spawn_blocking(move || Spool::open(&folder, bytes)).await;
        match opened.map_err(|e| SpoolError::Io(io::Error::other(e)))? {
            Err(SpoolError::Taken(_)) if began.elapsed() < LET_GO => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            opened => return opened,
        }
    }
}

impl Activator {
    /// Takes the port and the spool; serves nothing yet.
    ///
    /// # Errors
    /// When the port, the spool folder, the controller's address or the token cannot be used.
    pub async fn bind(config: Config) -> Result<Self, BindError> {
        let addr = config.listen;
        let listener = listen(addr).map_err(|source| BindError::Listen { addr, source })?;
        let addr = listener.local_addr().map_err(|source| BindError::Listen { addr, source })?;
        let peers = config.peer_listen.map(|addr| bind_peers(addr, config.peer_advertise.as_deref())).transpose()?;
        let (peer_door, peer_address) = peers.unzip();
        let link = link::Link::new(&config.controller, &config.token)?;
        let mut spool = open_spool(&config).await?;
        spool.syncer = config.syncer.clone();
        if config.every_intent {
            spool.intend_each();
        }
        let metrics = metrics::Metrics::with_syncs(spool.syncs.clone());
        metrics.records_aborted.inc_by(spool.aborted());
        let (outlets, exporter) = outlets(&config, &metrics)?;
        let me = spool.identity().activator;
        let peers = peer::Peers::new(me, config.token.clone(), peer_address.unwrap_or_default());
        let peers = peers.ok_or(link::LinkError::Token)?;
        let health = Health::default();
        CHECKS.iter().for_each(|check| health.expect(check));
        let shared = Arc::new(Shared {
            clock: clock::Clock::start(),
            limits: Bounds {
                max_waiting: config.limits.waiting,
                max_waiting_bytes: config.limits.waiting_bytes,
                header_lines: config.limits.header_lines,
                unread: config.limits.head,
            },
            memory: memory::Memory::new(config.max_memory_bytes),
            trusted: config.trusted_proxies.clone(),
            routes: Default::default(),
            spool,
            board: knock::Board::default(),
            through: through::Through::new(clock::wall_us()),
            peers,
            purses: Default::default(),
            fires: Default::default(),
            metrics,
            outlets: Arc::new(outlets),
            seen: config.seen.clone(),
            fed: Default::default(),
            known: CancellationToken::new(),
            leaving: Default::default(),
            broken_off: Default::default(),
            calls: Default::default(),
            tracker: TaskTracker::new(),
            hard_stop: CancellationToken::new(),
        });
        Ok(Self { config, listener, addr, peer_door, link, shared, exporter, health })
    }

    /// Where calls come in; tells the port when it was chosen by the system.
    #[must_use]
    pub fn traffic_addr(&self) -> SocketAddr {
        self.addr
    }

    /// The readiness checks, for the admin port.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// Puts the metrics under their names.
    pub fn register(&self, registry: &mut Registry) {
        self.shared.metrics.register(registry);
        let (limits, spool) = (self.config.limits, self.config.spool_max_bytes);
        let levels = metrics::Levels::new(Arc::downgrade(&self.shared), limits, spool);
        registry.sub_registry_with_prefix("dormouse").register_collector(Box::new(levels));
        dormouse_daemon::version::register(registry, "dormouse-activator", env!("CARGO_PKG_VERSION"));
    }

    /// The random id and epoch of this life.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.shared.spool.identity()
    }

    /// Serves until the token is cancelled, then ends in order: not ready, no new connections, running calls to their
    /// end (within the limit), records to the ledger.
    pub async fn run(self, stop: CancellationToken) {
        let Self { config, listener, peer_door, link, shared, exporter, health, .. } = self;
        // Streams stay up while calls drain: they may still wait for instances.
        let (streams_end, ship_end) = (CancellationToken::new(), CancellationToken::new());
        let name = config.name.clone();
        let feed = tokio::spawn(feed::run(shared.clone(), link.clone(), name.clone(), streams_end.clone()));
        let knock = tokio::spawn(knock::run(shared.clone(), link.clone(), name.clone(), streams_end.clone()));
        let spend = tokio::spawn(spend::run(shared.clone(), link.clone(), name.clone(), streams_end.clone()));
        let fires = tokio::spawn(fires::run(shared.clone(), link.clone(), name, streams_end.clone()));
        let mut ship = tokio::spawn(ship::run(shared.clone(), link.clone(), ship_end.clone()));
        let through_end = CancellationToken::new();
        let through = tokio::spawn(through::run(shared.clone(), link, config.name.clone(), through_end.clone()));
        let traces_end = CancellationToken::new();
        let traces = exporter.map(|exporter| tokio::spawn(exporter.run(traces_end.clone())));
        let tell = tokio::spawn(tell(shared.clone(), health.clone()));
        let sync = tokio::spawn(sync(shared.clone()));
        let memory = tokio::spawn(memory::watch(shared.clone()));
        let accept_end = CancellationToken::new();
        let server = tokio::spawn(server::run(listener, shared.clone(), config.limits, false, accept_end.clone()));
        let taker =
            peer_door.map(|door| tokio::spawn(take_over(door, shared.clone(), config.limits, accept_end.clone())));

        stop.cancelled().await;
        tell.abort();
        let _ = tell.await;
        // Before anybody can see that we are not ready: whoever comes afterwards is told.
        shared.leaving.store(true, Relaxed);
        shared.board.tell();
        shared.fires.tell();
        health.fail(CHECKS[0], "shutting down");
        tokio::time::sleep(config.drain_delay).await;
        accept_end.cancel();
        let _ = server.await;
        if let Some(taker) = taker {
            let _ = taker.await;
        }
        shared.tracker.close();
        if tokio::time::timeout(config.drain_limit, shared.tracker.wait()).await.is_err() {
            tracing::warn!("calls still run: they are broken off");
            shared.broken_off.store(true, Relaxed);
            shared.hard_stop.cancel();
            // Breaking off is quick; whoever still holds on is dropped with the runtime.
            let _ = tokio::time::timeout(Duration::from_secs(1), shared.tracker.wait()).await;
        }
        shared.hard_stop.cancel();
        streams_end.cancel();
        let _ = tokio::join!(feed, knock, spend, fires);
        ship_end.cancel();
        if tokio::time::timeout(config.ship_limit, &mut ship).await.is_err() {
            tracing::warn!("records stay in the spool: the ledger does not take them");
            // It would go on trying, and hold the spool's folder.
            ship.abort();
            let _ = ship.await;
        }
        // With everything shipped: that nothing of it is left is its last word.
        through_end.cancel();
        let _ = tokio::time::timeout(LAST_WORDS, through).await;
        memory.abort();
        sync.abort();
        traces_end.cancel();
        end_outlets(traces, &shared).await;
        let _ = tokio::task::spawn_blocking(move || shared.spool.sync()).await;
    }
}

/// Opens whatever is told of calls.
fn outlets(config: &Config, metrics: &metrics::Metrics) -> Result<(trail::Outlets, Option<otlp::Exporter>), BindError> {
    let to = config.access_log.as_ref();
    let access = to.map(|to| access::Writer::begin(to, metrics).map_err(|e| BindError::AccessLog(to.clone(), e)));
    let collector = config.otlp_endpoint.as_deref();
    let (traces, exporter) = collector.map(|at| otlp::Exporter::new(at, &config.name, metrics)).transpose()?.unzip();
    let sampling = trace::Sampling::new(traces.is_some(), config.trace_ratio);
    Ok((trail::Outlets { access: access.transpose()?, traces, sampling }, exporter))
}

/// The last traces and lines leave; both at once, and neither for longer than [`LAST_WORDS`].
async fn end_outlets(traces: Option<tokio::task::JoinHandle<()>>, shared: &Arc<Shared>) {
    let exported = async {
        if let Some(traces) = traces {
            let _ = traces.await;
        }
    };
    let writer = shared.outlets.access.clone();
    let written = tokio::task::spawn_blocking(move || writer.is_none_or(|writer| writer.end(LAST_WORDS)));
    let both = async { tokio::join!(tokio::time::timeout(LAST_WORDS, exported), written) };
    if !matches!(both.await, (Ok(()), Ok(true))) {
        tracing::warn!("the last traces or lines of the access log are lost: nobody takes them");
    }
}

/// The port for other activators, and where they reach it. Nobody can connect yet.
fn bind_peers(addr: SocketAddr, said: Option<&str>) -> Result<(TcpSocket, String), BindError> {
    let socket = bind(addr).map_err(|source| BindError::Listen { addr, source })?;
    let bound = socket.local_addr().map_err(|source| BindError::Listen { addr, source })?;
    let told = peer::advertised(bound, said);
    let told = told.ok_or_else(|| BindError::Advertise { bound, said: said.unwrap_or_default().to_owned() })?;
    Ok((socket, told))
}

/// Takes calls over from other activators as soon as routes are known. One that is started anew has the address of its
/// former life, to which others hand calls until they are told: nobody may connect before it knows what to do with them.
async fn take_over(door: TcpSocket, shared: Arc<Shared>, limits: Limits, stop: CancellationToken) {
    if stop.run_until_cancelled(shared.known.cancelled()).await.is_none() {
        return;
    }
    match door.listen(BACKLOG) {
        Ok(listener) => server::run(listener, shared, limits.of_peers(), true, stop).await,
        Err(e) => tracing::error!("no calls are taken over from other activators: {e}"),
    }
}

fn bind(addr: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    Ok(socket)
}

fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    bind(addr)?.listen(BACKLOG)
}

/// Each second.
fn each_second() -> tokio::time::Interval {
    let mut tick = tokio::time::interval(SYNC);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    tick
}

/// Syncs the spool, also while calls drain.
async fn sync(shared: Arc<Shared>) {
    let mut tick = each_second();
    loop {
        tick.tick().await;
        let syncing = shared.clone();
        let _ = tokio::task::spawn_blocking(move || syncing.spool.sync()).await;
    }
}

/// Says how things stand.
async fn tell(shared: Arc<Shared>, health: Health) {
    let mut tick = each_second();
    loop {
        tick.tick().await;
        shared.metrics.spool_bytes.set(i64::try_from(shared.spool.used_bytes()).unwrap_or(i64::MAX));
        if shared.routes.load().known {
            // Once known they serve, whether the controller is up or not.
            health.pass(CHECKS[0]);
        } else {
            let up = shared.fed.load(Relaxed);
            health.fail(CHECKS[0], if up { "no routes yet" } else { "the controller has not answered yet" });
        }
        match (shared.spool.has_failed(), shared.spool.check()) {
            (true, _) => health.fail(CHECKS[1], "the disk fails"),
            (_, Err(_)) => health.fail(CHECKS[1], "full"),
            _ => health.pass(CHECKS[1]),
        }
    }
}
