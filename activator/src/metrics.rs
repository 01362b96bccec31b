//! What can be seen from outside. Labels are bounded: namespace and function, whose series go with the function, a code
//! class, and reasons, kinds and phases from fixed lists.
//!
//! On the way of a call nothing is looked up and nothing is locked: a function holds its series ([`FuncMetrics`]), and
//! each is an atomic number. Series that an idle function has no use for are made with their first value.

mod func;
mod levels;

pub(crate) use func::{FuncMetrics, Trouble};
pub(crate) use levels::Levels;

use dormouse_core::{FunctionKey, price::Durability};
use dormouse_daemon::Histogram;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::Duration,
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

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfKind {
    namespace: String,
    function: String,
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfPhase {
    namespace: String,
    function: String,
    phase: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Lost {
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfMode {
    mode: &'static str,
}

/// Classes of status codes; a call whose caller got none is "none".
const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];
/// Reasons by which refusals are counted; the last one stands for the controller's codes.
pub(crate) const REASONS: [&str; 22] = [
    "UnknownFunction",
    "BadRequest",
    "HeadersTooLarge",
    "UnsupportedTransferCoding",
    "LoopDetected",
    "QueueFull",
    "WaitTimeout",
    "InstanceDied",
    "Timeout",
    "RequestTimeout",
    "FunctionDeleted",
    "SpoolFull",
    "Memory",
    "ShuttingDown",
    "NotReady",
    "Connections",
    "ReservedConcurrency",
    "BudgetExceeded",
    "BudgetUnknown",
    "PeerLost",
    "Unauthorized",
    "Failed",
];
/// Parts of a cold call: for a slot on an open instance; until there is an instance, until it has opened its port, until
/// the call has a connection, until the head of its response.
const PHASES: [&str; 5] = ["wait", "claim", "start", "connect", "first_byte"];

type Histograms<S> = Family<S, Histogram, fn() -> Histogram>;

/// Series by function, and by what ends of responses wait for.
#[derive(Debug)]
struct Families {
    requests: Family<OfClass, Counter>,
    durations: Histograms<OfFunction>,
    waits: Histograms<OfFunction>,
    queue_depth: Family<OfFunction, Gauge>,
    queue_bytes: Family<OfFunction, Gauge>,
    inflight: Family<OfFunction, Gauge>,
    cold_starts: Family<OfFunction, Counter>,
    cold_durations: Histograms<OfPhase>,
    rejected: Family<OfReason, Counter>,
    errors: Family<OfKind, Counter>,
    safe: Histograms<OfMode>,
}

impl Default for Families {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(Histogram::of_calls),
            waits: Family::new_with_constructor(Histogram::of_starts),
            queue_depth: Family::default(),
            queue_bytes: Family::default(),
            inflight: Family::default(),
            cold_starts: Family::default(),
            cold_durations: Family::new_with_constructor(Histogram::of_starts),
            rejected: Family::default(),
            errors: Family::default(),
            safe: Family::new_with_constructor(Histogram::of_steps),
        }
    }
}

/// Everything that is counted; clones count the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    families: Arc<Families>,
    pub(crate) records: Counter,
    pub(crate) records_lost: Counter,
    pub(crate) records_aborted: Counter,
    pub(crate) records_shipped: Counter,
    pub(crate) spool_bytes: Gauge,
    spool_syncs: Counter,
    pub(crate) connections: Gauge,
    pub(crate) streams: Gauge,
    /// Over all functions, like the bytes held of them.
    pub(crate) waiting: Gauge,
    pub(crate) waiting_bytes: Gauge,
    pub(crate) controller_up: Gauge,
    pub(crate) controller_streams: Counter,
    pub(crate) access_lines: Counter,
    pub(crate) access_dropped: Counter,
    pub(crate) traces_exported: Counter,
    traces_lost: Family<Lost, Counter>,
    /// Wall clock at the end of the oldest call whose record the ledger does not have; 0 when it has all.
    unshipped_since_us: Arc<AtomicI64>,
    pub(crate) handed_over: Counter,
}

impl Metrics {
    /// With the syncs that the spool counts.
    pub(crate) fn with_syncs(spool_syncs: Counter) -> Self {
        Self { spool_syncs, ..Self::default() }
    }

    /// Puts everything under its name.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let (r, f) = (registry.sub_registry_with_prefix("dormouse"), &self.families);
        r.register("requests", "Calls that were dispatched to an instance, by class of status", f.requests.clone());
        r.register("request_duration_seconds", "From a call's head to the end of its response", f.durations.clone());
        r.register("queue_wait_seconds", "Dispatched calls by their wait for a slot, 0 for none", f.waits.clone());
        r.register("queue_depth", "Calls that wait for a slot", f.queue_depth.clone());
        r.register("queue_bytes", "Bytes buffered of calls that wait", f.queue_bytes.clone());
        r.register("queue_rejected", "Calls that were refused or broke off, by reason", f.rejected.clone());
        r.register("inflight_requests", "Calls that hold a slot", f.inflight.clone());
        r.register("cold_starts", "Calls that waited for an instance to start", f.cold_starts.clone());
        r.register("cold_start_duration_seconds", "Parts of cold calls", f.cold_durations.clone());
        r.register("proxy_errors", "Calls and connects that failed between us and an instance", f.errors.clone());
        r.register("metering_records", "Records written to the spool", self.records.clone());
        r.register("metering_records_lost", "Records that could not be written", self.records_lost.clone());
        let aborted = "Calls that a former life of the process did not end, recorded as aborted";
        r.register("metering_records_aborted", aborted, self.records_aborted.clone());
        r.register("metering_records_shipped", "Records that the ledger has", self.records_shipped.clone());
        r.register("spool_bytes", "Bytes of the spool on disk", self.spool_bytes.clone());
        r.register("spool_syncs", "Syncs of the spool's disk", self.spool_syncs.clone());
        r.register("record_wait_seconds", "Ends of responses by their wait for disk or ledger", f.safe.clone());
        r.register("connections", "Open client connections", self.connections.clone());
        r.register("http2_streams", "Open streams of client connections of HTTP/2", self.streams.clone());
        r.register("handed_over", "Calls that another activator took over", self.handed_over.clone());
        r.register("waiting_calls", "Calls that wait for a slot, over all functions", self.waiting.clone());
        r.register("waiting_bytes", "Bytes buffered of calls that wait", self.waiting_bytes.clone());
        r.register("controller_up", "1 while the stream of routes is up", self.controller_up.clone());
        r.register("controller_streams", "Streams of routes that began", self.controller_streams.clone());
        r.register("access_log_lines", "Lines written to the access log", self.access_lines.clone());
        r.register("access_log_dropped", "Lines that its queue or its file did not take", self.access_dropped.clone());
        r.register("traces_exported", "Calls whose trace the collector has", self.traces_exported.clone());
        r.register("traces_dropped", "Calls whose trace was lost, by reason", self.traces_lost.clone());
    }

    /// The series of a function.
    pub(crate) fn of(&self, namespace: &str, name: &str) -> FuncMetrics {
        let labels = OfFunction { namespace: namespace.to_owned(), function: name.to_owned() };
        FuncMetrics::new(self.families.clone(), labels)
    }

    /// Drops the series of a function that is gone.
    pub(crate) fn forget(&self, key: &FunctionKey) {
        let f = &self.families;
        let labels = OfFunction { namespace: key.namespace.clone(), function: key.name.clone() };
        f.queue_depth.remove(&labels);
        f.queue_bytes.remove(&labels);
        f.inflight.remove(&labels);
        f.cold_starts.remove(&labels);
        f.durations.remove(&labels);
        f.waits.remove(&labels);
        let OfFunction { namespace, function } = labels;
        let names = || (namespace.clone(), function.clone());
        for code in CLASSES {
            let (namespace, function) = names();
            f.requests.remove(&OfClass { namespace, function, code });
        }
        for reason in REASONS {
            let (namespace, function) = names();
            f.rejected.remove(&OfReason { namespace, function, reason });
        }
        for kind in Trouble::ALL.map(Trouble::name) {
            let (namespace, function) = names();
            f.errors.remove(&OfKind { namespace, function, kind });
        }
        for phase in PHASES {
            let (namespace, function) = names();
            f.cold_durations.remove(&OfPhase { namespace, function, phase });
        }
    }

    /// A call was refused, or an error was told in the function's place.
    pub(crate) fn refused(&self, key: Option<&FunctionKey>, code: &str) {
        let (namespace, function) = key.map_or_else(Default::default, |k| (k.namespace.clone(), k.name.clone()));
        self.families.rejected.get_or_create(&OfReason { namespace, function, reason: reason_of(code) }).inc();
    }

    /// The end of a response has waited so long until its record was safe, or was not in time.
    pub(crate) fn waited(&self, durability: Durability, wait: Duration) {
        let mode = match durability {
            Durability::Process => "process",
            Durability::Disk => "disk",
            Durability::Ledger => "ledger",
        };
        self.families.safe.get_or_create(&OfMode { mode }).observe(wait);
    }

    /// Traces were lost.
    pub(crate) fn traces_dropped(&self, reason: &'static str, calls: u64) {
        self.traces_lost.get_or_create(&Lost { reason }).inc_by(calls);
    }

    /// The oldest call whose record the ledger does not have ended then; `None`: it has all.
    pub(crate) fn unshipped_since(&self, ended_us: Option<i64>) {
        self.unshipped_since_us.store(ended_us.unwrap_or(0), Relaxed);
    }
}

/// The label for a code: one of ours, or the last for whatever the controller says.
fn reason_of(code: &str) -> &'static str {
    REASONS.iter().find(|r| **r == code).unwrap_or(&REASONS[REASONS.len() - 1])
}

#[cfg(test)]
impl Metrics {
    /// As it is read from outside.
    pub(crate) fn text(&self) -> String {
        let (mut registry, mut text) = (Registry::default(), String::new());
        self.register(&mut registry);
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap_or_default();
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::Before;
    use dormouse_core::record::Outcome;
    use std::time::Duration;

    fn started(ms: u64) -> Before {
        Before { start: Duration::from_millis(ms), ..Before::default() }
    }

    #[test]
    fn series_have_their_names_and_go_with_their_function() {
        let metrics = Metrics::default();
        let of = metrics.of("ns", "hello");
        of.answered(200, Outcome::Ok);
        of.answered(0, Outcome::ClientGone);
        of.queued.inc();
        of.took(Duration::from_millis(7), Duration::ZERO);
        of.held(12);
        of.trouble(Trouble::Connect);
        of.cold(started(30), None);
        let key = FunctionKey::new("ns", "hello");
        metrics.refused(Some(&key), "QueueFull");
        metrics.refused(None, "UnknownFunction");
        metrics.refused(Some(&key), "ImagePullFailed");
        let labels = r#"namespace="ns",function="hello""#;
        let before = metrics.text();
        for line in [
            format!("dormouse_requests_total{{{labels},code=\"2xx\"}} 1"),
            format!("dormouse_requests_total{{{labels},code=\"none\"}} 1"),
            format!("dormouse_queue_depth{{{labels}}} 1"),
            format!("dormouse_queue_bytes{{{labels}}} 12"),
            format!("dormouse_request_duration_seconds_bucket{{le=\"0.01\",{labels}}} 1"),
            format!("dormouse_request_duration_seconds_sum{{{labels}}} 0.007"),
            format!("dormouse_queue_wait_seconds_bucket{{le=\"0.005\",{labels}}} 1"),
            format!("dormouse_cold_starts_total{{{labels}}} 1"),
            format!("dormouse_cold_start_duration_seconds_bucket{{le=\"0.05\",{labels},phase=\"start\"}} 1"),
            format!("dormouse_cold_start_duration_seconds_bucket{{le=\"60.0\",{labels},phase=\"connect\"}} 1"),
            format!("dormouse_cold_start_duration_seconds_bucket{{le=\"60.0\",{labels},phase=\"claim\"}} 1"),
            format!("dormouse_cold_start_duration_seconds_bucket{{le=\"60.0\",{labels},phase=\"wait\"}} 1"),
            format!("dormouse_proxy_errors_total{{{labels},kind=\"connect\"}} 1"),
            format!("dormouse_queue_rejected_total{{{labels},reason=\"QueueFull\"}} 1"),
            format!("dormouse_queue_rejected_total{{{labels},reason=\"Failed\"}} 1"),
        ] {
            assert!(before.contains(&line), "{line} is not in {before}");
        }
        metrics.forget(&key);
        let after = metrics.text();
        assert!(!after.contains("hello") && after.contains("UnknownFunction"), "{after}");
    }

    #[test]
    fn a_function_that_is_gone_makes_no_new_series() {
        let metrics = Metrics::default();
        let of = metrics.of("ns", "hello");
        of.retire();
        metrics.forget(&FunctionKey::new("ns", "hello"));
        of.answered(200, Outcome::Ok);
        of.took(Duration::from_millis(7), Duration::ZERO);
        of.held(12);
        of.trouble(Trouble::Died);
        of.cold(started(30), Some(Duration::ZERO));
        assert!(!metrics.text().contains("hello"), "{}", metrics.text());
    }
}
