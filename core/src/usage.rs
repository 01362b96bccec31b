//! Sums of what calls used: integers only, so that adding up is exact in any order.

use crate::price::{Metering, PricePlan};
use crate::record::{CallRecord, Outcome};

/// Sums over the calls that ended in one way. Billed time is counted for every outcome; which of them are billed is a
/// filter when a statement is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutcomeSum {
    /// Calls.
    pub calls: u64,
    /// Their billed milliseconds.
    pub billed_ms: u128,
    /// Billed milliseconds x configured MiB.
    pub mib_ms: u128,
}

/// Sums over calls. Times in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsageSum {
    /// By outcome, in the order of [`Outcome::ALL`].
    pub by_outcome: [OutcomeSum; Outcome::ALL.len()],
    /// Calls that waited for an instance to start.
    pub cold: u64,
    /// Waited for a free slot.
    pub wait_us: u128,
    /// Waited until there was an instance.
    pub claim_us: u128,
    /// Waited for it to open its port.
    pub start_us: u128,
    /// Waited for a connection.
    pub connect_us: u128,
    /// From dispatch to the end of the response.
    pub run_us: u128,
    /// Body bytes in.
    pub request_bytes: u128,
    /// Body bytes out.
    pub response_bytes: u128,
}

impl OutcomeSum {
    /// Adds another sum. Saturates: 2^64 calls or 2^128 MiB-milliseconds are out of reach.
    pub fn merge(&mut self, other: &Self) {
        self.calls = self.calls.saturating_add(other.calls);
        self.billed_ms = self.billed_ms.saturating_add(other.billed_ms);
        self.mib_ms = self.mib_ms.saturating_add(other.mib_ms);
    }
}

impl UsageSum {
    /// Adds one call.
    pub fn add(&mut self, record: &CallRecord, memory_mib: u32, metering: &Metering) {
        let billed_ms = u128::from(metering.billed_ms(record));
        let one = OutcomeSum { calls: 1, billed_ms, mib_ms: billed_ms * u128::from(memory_mib) };
        self.by_outcome[record.outcome as usize].merge(&one);
        self.cold += u64::from(record.cold);
        self.wait_us = self.wait_us.saturating_add(u128::from(record.wait_us));
        self.claim_us = self.claim_us.saturating_add(u128::from(record.claim_us));
        self.start_us = self.start_us.saturating_add(u128::from(record.start_us));
        self.connect_us = self.connect_us.saturating_add(u128::from(record.connect_us));
        self.run_us = self.run_us.saturating_add(u128::from(record.run_us));
        self.request_bytes = self.request_bytes.saturating_add(u128::from(record.request_bytes));
        self.response_bytes = self.response_bytes.saturating_add(u128::from(record.response_bytes));
    }

    /// Adds another sum: in any order and grouping, the result is the same.
    pub fn merge(&mut self, other: &Self) {
        let Self { by_outcome, cold, wait_us, claim_us, start_us, connect_us, run_us, request_bytes, response_bytes } =
            other;
        for (mine, theirs) in self.by_outcome.iter_mut().zip(by_outcome) {
            mine.merge(theirs);
        }
        self.cold = self.cold.saturating_add(*cold);
        self.wait_us = self.wait_us.saturating_add(*wait_us);
        self.claim_us = self.claim_us.saturating_add(*claim_us);
        self.start_us = self.start_us.saturating_add(*start_us);
        self.connect_us = self.connect_us.saturating_add(*connect_us);
        self.run_us = self.run_us.saturating_add(*run_us);
        self.request_bytes = self.request_bytes.saturating_add(*request_bytes);
        self.response_bytes = self.response_bytes.saturating_add(*response_bytes);
    }

    /// Every call, billed or not.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.by_outcome.iter().fold(0, |sum, o| sum.saturating_add(o.calls))
    }

    /// The sum of one outcome.
    #[must_use]
    pub fn of(&self, outcome: Outcome) -> &OutcomeSum {
        &self.by_outcome[outcome as usize]
    }

    /// What of it a plan bills.
    #[must_use]
    pub fn billed(&self, plan: &PricePlan) -> OutcomeSum {
        let mut sum = OutcomeSum::default();
        for outcome in Outcome::ALL.into_iter().filter(|&o| plan.bills(o)) {
            sum.merge(self.of(outcome));
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_sum() -> impl Strategy<Value = UsageSum> {
        let outcome = (any::<u32>(), any::<u64>(), any::<u64>());
        let one = |(calls, ms, mib): (u32, u64, u64)| OutcomeSum {
            calls: u64::from(calls),
            billed_ms: u128::from(ms),
            mib_ms: u128::from(mib),
        };
        (prop::collection::vec(outcome, 6), any::<u32>(), any::<[u64; 7]>()).prop_map(move |(outcomes, cold, rest)| {
            let [wait_us, claim_us, start_us, connect_us, run_us, request_bytes, response_bytes] = rest.map(u128::from);
            let mut by_outcome = [OutcomeSum::default(); 6];
            for (slot, values) in by_outcome.iter_mut().zip(outcomes) {
                *slot = one(values);
            }
            let cold = u64::from(cold);
            let times = UsageSum { wait_us, claim_us, start_us, connect_us, run_us, ..UsageSum::default() };
            UsageSum { by_outcome, cold, request_bytes, response_bytes, ..times }
        })
    }

    fn merged(a: &UsageSum, b: &UsageSum) -> UsageSum {
        let mut sum = a.clone();
        sum.merge(b);
        sum
    }

    proptest! {
        #[test]
        fn merging_is_associative_and_commutative(a in any_sum(), b in any_sum(), c in any_sum()) {
            prop_assert_eq!(merged(&a, &b), merged(&b, &a));
            prop_assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)));
            prop_assert_eq!(merged(&a, &UsageSum::default()), a);
        }

        #[test]
        fn billed_is_a_filter(a in any_sum(), b in any_sum()) {
            let plan = PricePlan::default();
            let mut parts = a.billed(&plan);
            parts.merge(&b.billed(&plan));
            prop_assert_eq!(merged(&a, &b).billed(&plan), parts);
            prop_assert!(a.billed(&plan).calls <= a.calls());
        }
    }
}
