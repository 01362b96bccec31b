//! The controller's numbers; label values are closed sets, and the names of functions, whose series go with them.

mod dues;
mod replicas;

pub use dues::Dues;
pub use replicas::Replicas;

use crate::fleet::{FleetError, PoolKey};
use crate::parking::Parking;
use crate::reconcile::apply::Applied;
use crate::reconcile::observe::Lane;
use dormouse_daemon::Histogram;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::time::Duration;

/// Numbers of the office; cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    reconciles: Histogram,
    scales: Counter,
    claims: Counter,
    parked: Family<OfPool, Gauge>,
    /// What is kept parked, by pool.
    pub parking: Parking,
    errors: Family<Failure, Counter>,
    replicas: Family<OfState, Gauge>,
    starts: Family<OfPhase, Histogram, fn() -> Histogram>,
    dues: Family<OfOutcome, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            reconciles: Histogram::of_steps(),
            scales: Counter::default(),
            claims: Counter::default(),
            parked: Family::default(),
            parking: Parking::default(),
            errors: Family::default(),
            replicas: Family::default(),
            starts: Family::new_with_constructor(Histogram::of_starts),
            dues: Family::default(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfState {
    namespace: String,
    function: String,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfOutcome {
    namespace: String,
    function: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPool {
    namespace: String,
    pool: String,
}

impl From<&PoolKey> for OfPool {
    fn from(key: &PoolKey) -> Self {
        Self { namespace: key.namespace.clone(), pool: key.name.clone() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPhase {
    phase: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failure {
    effect: &'static str,
    reason: &'static str,
}

impl Metrics {
    /// Numbers that are told by `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let m = Self::default();
        let r = registry.sub_registry_with_prefix("dormouse");
        r.register("reconcile_duration_seconds", "Planning one function and asking for it", m.reconciles.clone());
        r.register("reconcile_errors", "What was asked of the fleet and failed", m.errors.clone());
        r.register("scales", "Numbers of instances written", m.scales.clone());
        r.register("claims", "Parked pods claimed for a function", m.claims.clone());
        r.register("parked", "Pods of a warm pool that can be claimed", m.parked.clone());
        r.register_collector(Box::new(m.parking.clone()));
        r.register("replicas", "Instances by what they are at", m.replicas.clone());
        r.register(
            "cold_start_duration_seconds",
            "Parts of an instance's start: from its first sight to a running process, from there to an open port",
            m.starts.clone(),
        );
        r.register("schedule_due", "Due times of schedules, by what became of them", m.dues.clone());
        m
    }

    /// A plan was made and applied in that time.
    pub fn planned(&self, applied: &Applied, took: Duration) {
        self.reconciles.observe(took);
        self.scales.inc_by(u64::from(applied.scaled));
    }

    /// A parked pod was claimed.
    pub fn claimed(&self) {
        self.claims.inc();
    }

    /// So many pods of a pool can be claimed; `None`: the pool is gone.
    pub fn parked(&self, pool: &PoolKey, pods: Option<usize>) {
        match pods {
            Some(pods) => {
                self.parked.get_or_create(&pool.into()).set(i64::try_from(pods).unwrap_or(i64::MAX));
            }
            None => {
                self.parked.remove(&pool.into());
            }
        }
    }

    /// An effect failed.
    pub fn effect_failed(&self, lane: &Lane, error: &FleetError) {
        let effect = match lane {
            Lane::Adopt => "adopt",
            Lane::Prepare(_) => "prepare",
            Lane::Mend(_) => "mend",
            Lane::Scale(_) => "scale",
            Lane::Graft(_) => "graft",
            Lane::LookInto(_) => "look-into",
            Lane::Own(_) => "own",
            Lane::Retire(_) => "retire",
            Lane::Remove(_) => "remove",
            Lane::Probe(_) => return,
            Lane::Report => "report",
            Lane::Release => "release",
        };
        let reason = match error {
            FleetError::Broken(_) => "broken",
            FleetError::Gone(_) => "gone",
            FleetError::Conflict(_) => "conflict",
            FleetError::TimedOut(_) => "timed_out",
            FleetError::Refused(_) => "refused",
            FleetError::Failed(_) => "failed",
        };
        self.errors.get_or_create(&Failure { effect, reason }).inc();
    }
}
