//! How many instances each function has, and how long they take to start.

use super::{Metrics, OfPhase, OfState};
use crate::fleet::{FunctionUid, InstanceId, Phase};
use crate::reconcile::observe::{InstanceSeen, Moment, Observed};
use std::collections::HashMap;

/// What an instance is at.
const STATES: [&str; 3] = ["starting", "ready", "draining"];

/// Follows the instances of every function. A function that never had one has no series: idle ones cost nothing.
#[derive(Debug)]
pub struct Replicas {
    metrics: Metrics,
    functions: HashMap<FunctionUid, Told>,
}

#[derive(Debug)]
struct Told {
    namespace: String,
    function: String,
    counts: [i64; STATES.len()],
    /// Instances that have not opened their port yet.
    starting: HashMap<InstanceId, Start>,
}

/// How far a start is.
#[derive(Clone, Copy, Debug)]
struct Start {
    since: Moment,
    running: Option<Moment>,
    over: bool,
}

impl Replicas {
    /// Follows nobody yet.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Self { metrics, functions: HashMap::new() }
    }

    /// Looks at a function's instances.
    pub fn note(&mut self, observed: &Observed, now: Moment) {
        if observed.instances.is_empty() && !self.functions.contains_key(&observed.uid) {
            return;
        }
        let Some(object) = &observed.object else { return };
        let told = self.functions.entry(observed.uid.clone()).or_insert_with(|| {
            let meta = &object.function.metadata;
            let (namespace, function) = (meta.namespace.clone(), meta.name.clone());
            Told {
                namespace: namespace.unwrap_or_default(),
                function: function.unwrap_or_default(),
                counts: [0; STATES.len()],
                starting: HashMap::new(),
            }
        });
        let mut counts = [0; STATES.len()];
        for (id, instance) in &observed.instances {
            counts[state_of(instance)] += 1;
            told.follow(id, instance, now, &self.metrics);
        }
        told.starting.retain(|id, _| observed.instances.contains_key(id));
        for (at, state) in STATES.into_iter().enumerate() {
            if told.counts[at] != counts[at] {
                let (namespace, function) = (told.namespace.clone(), told.function.clone());
                self.metrics.replicas.get_or_create(&OfState { namespace, function, state }).set(counts[at]);
            }
        }
        told.counts = counts;
    }

    /// A function is gone, and its series with it.
    pub fn forget(&mut self, uid: &FunctionUid) {
        let Some(Told { namespace, function, .. }) = self.functions.remove(uid) else { return };
        let lives_on = self.functions.values().any(|t| t.namespace == namespace && t.function == function);
        for state in STATES.into_iter().filter(|_| !lives_on) {
            let (namespace, function) = (namespace.clone(), function.clone());
            self.metrics.replicas.remove(&OfState { namespace, function, state });
        }
    }
}

impl Told {
    /// Takes the time of a start, once for each part. What was there before this controller is not known to have
    /// started at any time.
    fn follow(&mut self, id: &InstanceId, instance: &InstanceSeen, now: Moment, metrics: &Metrics) {
        if instance.found {
            return;
        }
        let start = self.starting.entry(id.clone()).or_insert(Start { since: now, running: None, over: false });
        let took = |phase, since| {
            metrics.starts.get_or_create(&OfPhase { phase }).observe(now.saturating_sub(since));
        };
        if start.running.is_none() && instance.seen.phase == Phase::Running {
            start.running = Some(now);
            took("start", start.since);
        }
        if let (false, true, Some(since)) = (start.over, instance.is_open(), start.running) {
            start.over = true;
            took("ready", since);
        }
    }
}

/// Place in [`STATES`].
fn state_of(instance: &InstanceSeen) -> usize {
    let draining = instance.published.is_some_and(|p| p.draining);
    match (draining || instance.condemned || !instance.is_live(), instance.is_open()) {
        (true, _) => 2,
        (false, true) => 1,
        (false, false) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Instance;
    use dormouse_core::revision::Revision;
    use prometheus_client::registry::Registry;
    use std::sync::Arc;

    fn instance(id: &str, phase: Phase) -> Instance {
        Instance {
            id: id.into(),
            name: id.into(),
            namespace: "default".into(),
            function: "f".into(),
            revision: Revision::from("r"),
            address: Some("10.0.0.1:8080".parse().unwrap()),
            h2c: false,
            claim: None,
            started_at_us: None,
            phase,
            trouble: None,
            restarts: 0,
            image_digest: None,
            memory_mib: 256,
            cpu_millis: 100,
        }
    }

    #[test]
    fn instances_are_counted_by_state_and_starts_timed_once() {
        let mut registry = Registry::default();
        let mut replicas = Replicas::new(Metrics::register(&mut registry));
        let text = |registry: &Registry| {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
            text
        };
        let function = serde_json::json!({"metadata": {"name": "hello", "namespace": "ns", "uid": "f"},
            "spec": {"image": "i"}});
        let function = Arc::new(serde_json::from_value(function).unwrap());
        let mut observed = Observed::new("f".into());
        observed.function(function, |_| Revision::from("r"), true, Moment::ZERO);
        replicas.note(&observed, Moment::ZERO);
        assert!(!text(&registry).contains("hello"), "one that never ran has no series");
        observed.instance(instance("a", Phase::Starting), false, Moment::ZERO);
        observed.instance(instance("b", Phase::Running), true, Moment::ZERO);
        replicas.note(&observed, Moment::from_secs(1));
        observed.instance(instance("a", Phase::Running), false, Moment::ZERO);
        replicas.note(&observed, Moment::from_secs(3));
        replicas.note(&observed, Moment::from_secs(4));
        for known in observed.instances.values_mut() {
            known.open = true;
        }
        replicas.note(&observed, Moment::from_secs(8));
        replicas.note(&observed, Moment::from_secs(9));
        observed.instance(instance("b", Phase::Ending), true, Moment::ZERO);
        replicas.note(&observed, Moment::from_secs(9));
        let now = text(&registry);
        for line in [
            "dormouse_replicas{namespace=\"ns\",function=\"hello\",state=\"ready\"} 1",
            "dormouse_replicas{namespace=\"ns\",function=\"hello\",state=\"draining\"} 1",
            "dormouse_replicas{namespace=\"ns\",function=\"hello\",state=\"starting\"} 0",
            "dormouse_cold_start_duration_seconds_count{phase=\"start\"} 1",
            "dormouse_cold_start_duration_seconds_sum{phase=\"start\"} 2.0",
            "dormouse_cold_start_duration_seconds_count{phase=\"ready\"} 1",
            "dormouse_cold_start_duration_seconds_sum{phase=\"ready\"} 5.0",
        ] {
            assert!(now.lines().any(|l| l == line), "{line} is not in {now}");
        }
        replicas.forget(&"f".into());
        assert!(!text(&registry).contains("hello"));
    }
}
