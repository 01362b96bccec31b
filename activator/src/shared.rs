//! What all parts of a running activator share.

use crate::{
    SeenCall, clock::Clock, fires::Book, func::Func, instance::Instance, knock::Board, memory::Memory,
    metrics::Metrics, peer::Peers, purse::Purses, room::Seat, route::Table, spool::Spool, through::Through,
    trail::Outlets, trust::Network,
};
use arc_swap::ArcSwap;
use dormouse_core::RequestId;
use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Bounds over all functions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Calls that wait.
    pub(crate) max_waiting: usize,
    /// Bytes held of them.
    pub(crate) max_waiting_bytes: usize,
    /// Header lines of a request.
    pub(crate) header_lines: usize,
    /// How long a refusal may wait for its client to read it: as long as a request head may take.
    pub(crate) unread: Duration,
}

/// The state of a running activator.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) clock: Clock,
    pub(crate) limits: Bounds,
    pub(crate) memory: Memory,
    pub(crate) trusted: Vec<Network>,
    pub(crate) routes: ArcSwap<Table>,
    pub(crate) spool: Spool,
    pub(crate) board: Board,
    /// How far the records are complete.
    pub(crate) through: Through,
    pub(crate) peers: Peers,
    /// What may be spent of tenants' budgets.
    pub(crate) purses: Purses,
    /// What is known of calls that the platform ordered.
    pub(crate) fires: Book,
    pub(crate) metrics: Metrics,
    /// Who is told of calls that are over.
    pub(crate) outlets: Arc<Outlets>,
    pub(crate) seen: Option<tokio::sync::mpsc::Sender<SeenCall>>,
    /// The stream of routes is up: what it said last is true now.
    pub(crate) fed: AtomicBool,
    /// Cancelled once routes are known.
    pub(crate) known: CancellationToken,
    /// We were asked to stop: connections are told to close, so that their callers go to another activator.
    pub(crate) leaving: AtomicBool,
    /// Calls were cut off to end in time: their instances may be working on them still.
    pub(crate) broken_off: AtomicBool,
    pub(crate) calls: AtomicU64,
    /// Work that outlives its connection.
    pub(crate) tracker: TaskTracker,
    /// Everything ends at once.
    pub(crate) hard_stop: CancellationToken,
}

impl Shared {
    /// The number of a call that has come.
    pub(crate) fn next_call(&self) -> u64 {
        self.calls.fetch_add(1, Relaxed) + 1
    }

    pub(crate) fn request_id(&self, call: u64) -> RequestId {
        let identity = self.spool.identity();
        RequestId { activator: identity.activator, epoch: identity.epoch, call }
    }

    /// False when the address may belong to somebody else by now: its connections have all broken, and the controller
    /// has said nothing since.
    pub(crate) fn may_dial(&self, instance: &Instance) -> bool {
        self.fed.load(Relaxed) || !instance.broken.load(Relaxed)
    }

    pub(crate) fn is_trusted(&self, ip: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(ip))
    }
}

impl Func {
    /// Its demand changed: the controller is told, at once or soon.
    pub(crate) fn note(self: &Arc<Self>, shared: &Shared, at_once: bool) {
        shared.board.note(self, at_once);
    }
}

impl Instance {
    /// A connect to it failed. While the controller is silent that is the end of what is known about its address.
    pub(crate) fn note_unreachable(&self) {
        self.failures.fetch_add(1, Relaxed);
        if self.pool.is_bare() {
            self.broken.store(true, Relaxed);
        }
    }
}

impl Seat {
    /// Tells the controller about the instance without delay.
    pub(crate) fn tell_soon(&self) {
        self.func().note(self.shared(), true);
    }
}
