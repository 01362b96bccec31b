//! The series of one function, at hand without a look-up.

use super::{CLASSES, Families, OfClass, OfFunction, OfKind, OfPhase, PHASES};
use crate::meter::Before;
use dormouse_core::record::Outcome;
use dormouse_daemon::Histogram;
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

/// What goes wrong between us and an instance, or with a body on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// No connection could be had.
    Connect,
    /// The instance accepted a connection and ended it before it was used.
    ClosedAtOnce,
    /// It broke off before the head of its response.
    Died,
    /// It broke off within its response.
    ResponseBroke,
    /// It let the call's time pass.
    Timeout,
    /// The client broke its body off, or sent it too slowly.
    UploadBroke,
    /// The client did not read its response in time.
    ResponseUnread,
    /// The record could not be written, so the response was broken off.
    NotRecorded,
}

impl Trouble {
    /// All of them, in the order of their numbers.
    pub(crate) const ALL: [Self; 8] = [
        Self::Connect,
        Self::ClosedAtOnce,
        Self::Died,
        Self::ResponseBroke,
        Self::Timeout,
        Self::UploadBroke,
        Self::ResponseUnread,
        Self::NotRecorded,
    ];

    /// As a label.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::ClosedAtOnce => "closed_at_once",
            Self::Died => "died",
            Self::ResponseBroke => "response_broke",
            Self::Timeout => "timeout",
            Self::UploadBroke => "upload_broke",
            Self::ResponseUnread => "response_unread",
            Self::NotRecorded => "not_recorded",
        }
    }
}

/// The series of one function.
#[derive(Debug)]
pub(crate) struct FuncMetrics {
    families: Arc<Families>,
    labels: OfFunction,
    pub(crate) queued: Gauge,
    pub(crate) running: Gauge,
    cold_starts: Counter,
    classes: [OnceLock<Counter>; CLASSES.len()],
    duration: OnceLock<Histogram>,
    wait: OnceLock<Histogram>,
    queue_bytes: OnceLock<Gauge>,
    /// Its series are dropped: what still happens to the function makes no new ones.
    gone: AtomicBool,
}

impl FuncMetrics {
    pub(super) fn new(families: Arc<Families>, labels: OfFunction) -> Self {
        Self {
            queued: families.queue_depth.get_or_create_owned(&labels),
            running: families.inflight.get_or_create_owned(&labels),
            cold_starts: families.cold_starts.get_or_create_owned(&labels),
            classes: Default::default(),
            duration: OnceLock::new(),
            wait: OnceLock::new(),
            queue_bytes: OnceLock::new(),
            gone: AtomicBool::new(false),
            families,
            labels,
        }
    }

    /// Its calls that wait, and the bytes held of them.
    pub(crate) fn waiting(&self) -> (i64, i64) {
        (self.queued.get(), self.queue_bytes.get().map_or(0, Gauge::get))
    }

    /// No series is made for it any more.
    pub(crate) fn retire(&self) {
        self.gone.store(true, Relaxed);
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.gone.load(Relaxed)
    }

    fn names(&self) -> (String, String) {
        (self.labels.namespace.clone(), self.labels.function.clone())
    }

    /// A dispatched call is over.
    pub(crate) fn answered(&self, status: u16, outcome: Outcome) {
        if self.is_retired() {
            return;
        }
        let given = status != 0 && outcome != Outcome::Aborted;
        let class = if given { usize::from(status / 100).min(CLASSES.len() - 1) } else { 0 };
        let counter = self.classes[class].get_or_init(|| {
            let (namespace, function) = self.names();
            self.families.requests.get_or_create_owned(&OfClass { namespace, function, code: CLASSES[class] })
        });
        counter.inc();
    }

    /// How long a dispatched call took in all, and how long of that it waited for a slot.
    pub(crate) fn took(&self, whole: Duration, wait: Duration) {
        if self.is_retired() {
            return;
        }
        self.duration.get_or_init(|| self.families.durations.get_or_create_owned(&self.labels)).observe(whole);
        self.wait.get_or_init(|| self.families.waits.get_or_create_owned(&self.labels)).observe(wait);
    }

    /// A cold call is over: where its time went before it ran, and then until the head of the response, if one came.
    pub(crate) fn cold(&self, before: Before, first_byte: Option<Duration>) {
        self.cold_starts.inc();
        if self.is_retired() {
            return;
        }
        let Before { wait, claim, start, connect } = before;
        let parts = [Some(wait), Some(claim), Some(start), Some(connect), first_byte];
        for (phase, took) in PHASES.into_iter().zip(parts) {
            let Some(took) = took else { continue };
            let (namespace, function) = self.names();
            // Looked up anew: cold calls are few, and five handles would cost each function 40 bytes.
            self.families.cold_durations.get_or_create(&OfPhase { namespace, function, phase }).observe(took);
        }
    }

    /// Bytes of the head of a call that waits from now on.
    pub(crate) fn held(&self, bytes: usize) {
        if let Some(gauge) = self.bytes() {
            gauge.inc_by(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
    }

    /// It waits no more.
    pub(crate) fn let_go(&self, bytes: usize) {
        if let Some(gauge) = self.queue_bytes.get() {
            gauge.dec_by(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
    }

    fn bytes(&self) -> Option<&Gauge> {
        if self.is_retired() {
            return self.queue_bytes.get();
        }
        Some(self.queue_bytes.get_or_init(|| self.families.queue_bytes.get_or_create_owned(&self.labels)))
    }

    /// Something went wrong on the way to an instance or back.
    pub(crate) fn trouble(&self, trouble: Trouble) {
        if self.is_retired() {
            return;
        }
        let (namespace, function) = self.names();
        self.families.errors.get_or_create(&OfKind { namespace, function, kind: trouble.name() }).inc();
    }
}
