//! The controller's numbers; label values are closed sets.

use crate::fleet::FleetError;
use crate::reconcile::apply::Applied;
use crate::reconcile::observe::Lane;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Counters of the office; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    plans: Counter,
    scales: Counter,
    failures: Family<Failure, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failure {
    effect: &'static str,
    kind: &'static str,
}

impl Metrics {
    /// Counters that are told by `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("dormouse_controller_plans", "Functions planned", metrics.plans.clone());
        registry.register("dormouse_controller_scales", "Numbers of instances written", metrics.scales.clone());
        registry.register("dormouse_controller_effect_failures", "Effects that failed", metrics.failures.clone());
        metrics
    }

    /// A plan was applied.
    pub fn planned(&self, applied: &Applied) {
        self.plans.inc();
        self.scales.inc_by(u64::from(applied.scaled));
    }

    /// An effect failed.
    pub fn effect_failed(&self, lane: &Lane, error: &FleetError) {
        let effect = match lane {
            Lane::Adopt => "adopt",
            Lane::Prepare(_) => "prepare",
            Lane::Scale(_) => "scale",
            Lane::Retire(_) => "retire",
            Lane::Remove(_) => "remove",
            Lane::Probe(_) => return,
            Lane::Report => "report",
            Lane::Release => "release",
        };
        let kind = match error {
            FleetError::Gone(_) => "gone",
            FleetError::Conflict(_) => "conflict",
            FleetError::TimedOut(_) => "timed_out",
            FleetError::Refused(_) => "refused",
            FleetError::Failed(_) => "failed",
        };
        self.failures.get_or_create(&Failure { effect, kind }).inc();
    }
}
