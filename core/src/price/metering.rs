//! How a call's time becomes billed time.

use crate::record::{CallRecord, Outcome};

/// How a call's time becomes billed time: the part of a plan that is applied when a record enters the ledger, because
/// rounding up is not linear and cannot be done on sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Metering {
    /// See [`super::PricePlan::step_ms`].
    pub step_ms: u32,
    /// See [`super::PricePlan::min_ms`].
    pub min_ms: u32,
    /// See [`super::BilledOutcomes::start`].
    pub start: bool,
}

impl Metering {
    /// Billed milliseconds of one call: run time, and if the plan says so the start of its instance when it was the first
    /// call there, rounded up to a step, at least the minimum. Waiting for a free slot is never billed; an aborted call is billed 0.
    #[must_use]
    pub fn billed_ms(&self, record: &CallRecord) -> u64 {
        if record.outcome == Outcome::Aborted {
            return 0;
        }
        let start = if self.start && record.first { record.claim_us.saturating_add(record.start_us) } else { 0 };
        let us = record.run_us.saturating_add(start);
        let step = u64::from(self.step_ms.max(1));
        us.div_ceil(step * 1000).saturating_mul(step).max(u64::from(self.min_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::record;
    use super::*;

    #[test]
    fn billed_time_by_step_minimum_and_start() {
        let m = |step_ms, min_ms, start| Metering { step_ms, min_ms, start };
        // A start of 30.5 ms in two parts; it waited for a slot and for a connection as well.
        let r = CallRecord {
            wait_us: 7_000_000,
            claim_us: 10_166,
            start_us: 20_334,
            connect_us: 9_000_000,
            cold: true,
            first: true,
            ..record(Outcome::Ok, 100_001)
        };
        assert_eq!(m(1, 0, false).billed_ms(&r), 101);
        assert_eq!(m(1, 0, true).billed_ms(&r), 131);
        assert_eq!(m(1, 0, true).billed_ms(&CallRecord { first: false, ..r }), 101, "once per instance");
        assert_eq!(m(100, 0, false).billed_ms(&r), 200);
        assert_eq!(m(100, 0, true).billed_ms(&r), 200);
        assert_eq!(m(1, 1000, false).billed_ms(&r), 1000);
        assert_eq!(m(1, 0, false).billed_ms(&record(Outcome::Ok, 0)), 0);
        assert_eq!(m(1, 50, false).billed_ms(&record(Outcome::Aborted, 9_000_000)), 0);
        assert_eq!(m(1, 0, false).billed_ms(&record(Outcome::Ok, u64::MAX)), u64::MAX.div_ceil(1000));
    }
}
