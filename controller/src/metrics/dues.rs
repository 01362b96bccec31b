//! What became of the due times of schedules.

use super::{Metrics, OfOutcome};
use crate::fleet::FunctionUid;
use crate::reconcile::observe::Observed;
use dormouse_core::FunctionKey;
use dormouse_core::function::Fired;
use std::collections::HashMap;

const OUTCOMES: [Fired; 4] = [Fired::Ran, Fired::Failed, Fired::Skipped, Fired::Unknown];

fn name(outcome: Fired) -> &'static str {
    match outcome {
        Fired::Ran => "ran",
        Fired::Failed => "failed",
        Fired::Skipped => "skipped",
        Fired::Unknown => "unknown",
    }
}

/// Counts them by function. One without schedules has no series.
#[derive(Debug)]
pub struct Dues {
    metrics: Metrics,
    functions: HashMap<FunctionUid, FunctionKey>,
}

impl Dues {
    /// Nothing is counted yet.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Self { metrics, functions: HashMap::new() }
    }

    /// Counts what was decided of a function's due times since the last time.
    pub fn note(&mut self, observed: &mut Observed) {
        let decided = observed.schedules.decided();
        let Some(valid) = observed.object.as_ref().and_then(|o| o.valid.as_ref()).filter(|_| !decided.is_empty())
        else {
            return;
        };
        self.functions.insert(observed.uid.clone(), valid.key.clone());
        for (schedule, decided) in decided {
            let (outcome, function) = (name(decided.outcome), &valid.key);
            self.metrics.dues.get_or_create(&of(function, outcome)).inc_by(decided.count);
            let (due, reason) = (decided.due, &*decided.reason);
            match decided.outcome {
                // Events may be held back, and the status has only the last one.
                Fired::Failed | Fired::Unknown if reason != "Replaced" => {
                    tracing::warn!(%function, schedule, %due, outcome, reason, "a due time did not run as it should");
                }
                _ => tracing::debug!(%function, schedule, %due, outcome, reason, "a due time"),
            }
        }
    }

    /// A function is gone, and its series with it.
    pub fn forget(&mut self, uid: &FunctionUid) {
        let Some(key) = self.functions.remove(uid) else { return };
        if self.functions.values().all(|other| *other != key) {
            for outcome in OUTCOMES {
                self.metrics.dues.remove(&of(&key, name(outcome)));
            }
        }
    }
}

fn of(key: &FunctionKey, outcome: &'static str) -> OfOutcome {
    OfOutcome { namespace: key.namespace.clone(), function: key.name.clone(), outcome }
}
