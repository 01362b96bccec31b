//! What can be seen from outside. Labels are bounded: namespace and function, whose series go with the function, a code
//! class, and reasons from a fixed list.

use dormouse_core::{FunctionKey, record::Outcome};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use std::sync::{
    OnceLock,
    atomic::{AtomicBool, Ordering::Relaxed},
};

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
    /// Empty, like `function`, when none was found for the call.
    namespace: String,
    function: String,
    reason: &'static str,
}

/// Classes of status codes; a call whose caller got none is "none".
const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];
/// Reasons by which refusals are counted; the last one stands for the controller's codes.
const REASONS: [&str; 18] = [
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
    "ReservedConcurrency",
    "PeerLost",
    "Unauthorized",
    "Failed",
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
    pub(crate) handed_over: Counter,
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
        r.register("handed_over", "Calls that another activator took over", self.handed_over.clone());
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
            gone: AtomicBool::new(false),
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
        for reason in REASONS {
            let OfFunction { namespace, function } = labels.clone();
            self.rejected.remove(&OfReason { namespace, function, reason });
        }
    }

    /// A call was refused, or an error was told in the function's place.
    pub(crate) fn refused(&self, key: Option<&FunctionKey>, code: &str) {
        let reason = REASONS.iter().find(|r| **r == code).unwrap_or(&REASONS[REASONS.len() - 1]);
        let (namespace, function) = key.map_or_else(Default::default, |k| (k.namespace.clone(), k.name.clone()));
        self.rejected.get_or_create(&OfReason { namespace, function, reason }).inc();
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
    /// Its series are dropped: what still happens to the function makes no new ones.
    gone: AtomicBool,
}

impl FuncMetrics {
    /// No series is made for it any more.
    pub(crate) fn retire(&self) {
        self.gone.store(true, Relaxed);
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.gone.load(Relaxed)
    }

    /// A dispatched call is over.
    pub(crate) fn answered(&self, status: u16, outcome: Outcome) {
        if self.is_retired() {
            return;
        }
        let given = status != 0 && outcome != Outcome::Aborted;
        let class = if given { usize::from(status / 100).min(CLASSES.len() - 1) } else { 0 };
        let counter = self.classes[class].get_or_init(|| {
            let OfFunction { namespace, function } = self.labels.clone();
            self.requests.get_or_create_owned(&OfClass { namespace, function, code: CLASSES[class] })
        });
        counter.inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(metrics: &Metrics) -> String {
        let (mut registry, mut text) = (Registry::default(), String::new());
        metrics.register(&mut registry);
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn series_have_their_names_and_go_with_their_function() {
        let metrics = Metrics::default();
        let of = metrics.of("ns", "hello");
        of.answered(200, Outcome::Ok);
        of.answered(0, Outcome::ClientGone);
        of.queued.inc();
        let key = FunctionKey::new("ns", "hello");
        metrics.refused(Some(&key), "QueueFull");
        metrics.refused(None, "UnknownFunction");
        metrics.refused(Some(&key), "ImagePullFailed");
        let labels = r#"namespace="ns",function="hello""#;
        let before = text(&metrics);
        for line in [
            format!("dormouse_requests_total{{{labels},code=\"2xx\"}} 1"),
            format!("dormouse_requests_total{{{labels},code=\"none\"}} 1"),
            format!("dormouse_queue_depth{{{labels}}} 1"),
            format!("dormouse_queue_rejected_total{{{labels},reason=\"QueueFull\"}} 1"),
            format!("dormouse_queue_rejected_total{{{labels},reason=\"Failed\"}} 1"),
        ] {
            assert!(before.contains(&line), "{line} is not in {before}");
        }
        metrics.forget(&key);
        let after = text(&metrics);
        assert!(!after.contains("hello") && after.contains("UnknownFunction"), "{after}");
    }
}
