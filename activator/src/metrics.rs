//! What can be seen from outside. Labels are bounded: namespace and function, whose series go with the function, a code
//! class, and reasons from a fixed list.

use dormouse_core::{FunctionKey, record::Outcome};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use std::sync::OnceLock;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfFunction {
    namespace: String,
    function: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfClass {
    namespace: String,
    function: String,
    code: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfReason {
    reason: String,
}

/// Classes of status codes; a call whose caller got none is "none".
const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];
/// Reasons by which refusals are counted; others (the controller's) are counted as "Failed".
const REASONS: [&str; 14] = [
    "UnknownFunction",
    "BadRequest",
    "HeadersTooLarge",
    "UnsupportedTransferCoding",
    "QueueFull",
    "WaitTimeout",
    "InstanceDied",
    "Timeout",
    "RequestTimeout",
    "FunctionDeleted",
    "SpoolFull",
    "ShuttingDown",
    "NotReady",
    "Connections",
];

/// Everything that is counted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    requests: Family<OfClass, Counter>,
    queue_depth: Family<OfFunction, Gauge>,
    inflight: Family<OfFunction, Gauge>,
    cold_starts: Family<OfFunction, Counter>,
    rejected: Family<OfReason, Counter>,
    pub(crate) records: Counter,
    pub(crate) records_lost: Counter,
    pub(crate) records_shipped: Counter,
    pub(crate) spool_bytes: Gauge,
    pub(crate) connections: Gauge,
    pub(crate) controller_up: Gauge,
}

impl Metrics {
    /// Puts everything under its name.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("dormouse");
        r.register("requests", "Calls that were dispatched to an instance, by class of status", self.requests.clone());
        r.register("queue_depth", "Calls that wait for a slot", self.queue_depth.clone());
        r.register("inflight_requests", "Calls that hold a slot", self.inflight.clone());
        r.register("cold_starts", "Calls that waited for an instance to start", self.cold_starts.clone());
        r.register("queue_rejected", "Calls that were refused or broke off, by reason", self.rejected.clone());
        r.register("metering_records", "Records written to the spool", self.records.clone());
        r.register("metering_records_lost", "Records that could not be written", self.records_lost.clone());
        r.register("metering_records_shipped", "Records that the ledger has", self.records_shipped.clone());
        r.register("spool_bytes", "Bytes of the spool on disk", self.spool_bytes.clone());
        r.register("connections", "Open client connections", self.connections.clone());
        r.register("controller_up", "1 while the stream of routes is up", self.controller_up.clone());
    }

    /// The series of a function.
    pub(crate) fn of(&self, namespace: &str, name: &str) -> FuncMetrics {
        let labels = OfFunction { namespace: namespace.to_owned(), function: name.to_owned() };
        FuncMetrics {
            queued: self.queue_depth.get_or_create_owned(&labels),
            running: self.inflight.get_or_create_owned(&labels),
            cold_starts: self.cold_starts.get_or_create_owned(&labels),
            requests: self.requests.clone(),
            classes: Default::default(),
            labels,
        }
    }

    /// Drops the series of a function that is gone.
    pub(crate) fn forget(&self, key: &FunctionKey) {
        let labels = OfFunction { namespace: key.namespace.clone(), function: key.name.clone() };
        self.queue_depth.remove(&labels);
        self.inflight.remove(&labels);
        self.cold_starts.remove(&labels);
        for code in CLASSES {
            let OfFunction { namespace, function } = labels.clone();
            self.requests.remove(&OfClass { namespace, function, code });
        }
    }

    /// A call was refused, or an error was told in the function's place.
    pub(crate) fn refused(&self, code: &str) {
        let reason = if REASONS.contains(&code) { code } else { "Failed" };
        self.rejected.get_or_create(&OfReason { reason: reason.to_owned() }).inc();
    }
}

/// The series of one function, at hand without a look-up.
#[derive(Debug)]
pub(crate) struct FuncMetrics {
    pub(crate) queued: Gauge,
    pub(crate) running: Gauge,
    pub(crate) cold_starts: Counter,
    requests: Family<OfClass, Counter>,
    classes: [OnceLock<Counter>; CLASSES.len()],
    labels: OfFunction,
}

impl FuncMetrics {
    /// A dispatched call is over.
    pub(crate) fn answered(&self, status: u16, outcome: Outcome) {
        let given = status != 0 && outcome != Outcome::Aborted;
        let class = if given { usize::from(status / 100).min(CLASSES.len() - 1) } else { 0 };
        let counter = self.classes[class].get_or_init(|| {
            let OfFunction { namespace, function } = self.labels.clone();
            self.requests.get_or_create_owned(&OfClass { namespace, function, code: CLASSES[class] })
        });
        counter.inc();
    }
}
