//! Sums of what calls used, and of what was kept warm for them: integers only, so that adding up is exact in any order.

use crate::price::{Metering, PricePlan};
use crate::record::{CallRecord, Outcome};

/// Time of calls as one metering rule counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time {
    /// Calls whose time it is.
    pub calls: u64,
    /// Billed milliseconds.
    pub ms: u128,
    /// Billed milliseconds x configured MiB.
    pub mib_ms: u128,
    /// Billed milliseconds x configured thousandths of a cpu.
    pub mcpu_ms: u128,
}

/// Which calls a sum is of: what decides whether and how they are billed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Class {
    // In the order in which their numbers count.
    /// They failed by the platform's fault and carried an `Idempotency-Key`: the caller's next attempt is the one that
    /// is billed, whatever the plan says.
    pub excused: bool,
    /// They ran on instances that were kept warm.
    pub warm: bool,
    /// How they ended.
    pub outcome: Outcome,
}

/// The calls of one class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassSum {
    /// Which.
    pub class: Class,
    /// How many.
    pub calls: u64,
    /// Their time by each rule that was in use when they came, in the rules' order. Rounding up is not linear: what a
    /// rule makes of calls cannot be had from sums later.
    pub times: Vec<(Metering, Time)>,
}

/// Capacity that was kept warm, and how much of it calls used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Warm {
    /// Milliseconds that warm instances were ready x their MiB.
    pub mib_ms: u128,
    /// The same x thousandths of a cpu.
    pub mcpu_ms: u128,
    /// Milliseconds that calls held slots of warm instances x MiB / slots of the instance, rounded down with each call.
    pub used_mib_ms: u128,
    /// The same x thousandths of a cpu / slots.
    pub used_mcpu_ms: u128,
}

/// Sums over calls. Times in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsageSum {
    /// By class, in order, without those that have no call.
    pub classes: Vec<ClassSum>,
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
    /// What was kept warm.
    pub warm: Warm,
}

/// What of a sum a plan bills.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Billed {
    /// Calls.
    pub calls: u64,
    /// Time of those on instances that were there for calls only.
    pub time: Time,
    /// Time of those on instances that were kept warm.
    pub warm_time: Time,
    /// Calls among them whose time is not known under the plan's rule: it was not in use when they came. They are in
    /// `calls` and in neither time.
    pub unmetered: u64,
}

impl Time {
    /// One call's milliseconds with this memory in MiB and cpu in thousandths.
    #[must_use]
    pub fn of(ms: u64, (memory_mib, cpu_millis): (u32, u32)) -> Self {
        let ms = u128::from(ms);
        Self { calls: 1, ms, mib_ms: ms * u128::from(memory_mib), mcpu_ms: ms * u128::from(cpu_millis) }
    }

    /// Takes a part of it back.
    fn take_back(&mut self, part: &Self) {
        self.calls = self.calls.saturating_sub(part.calls);
        self.ms = self.ms.saturating_sub(part.ms);
        self.mib_ms = self.mib_ms.saturating_sub(part.mib_ms);
        self.mcpu_ms = self.mcpu_ms.saturating_sub(part.mcpu_ms);
    }

    /// Adds another. Saturates: 2^128 MiB-milliseconds are out of reach.
    pub fn merge(&mut self, other: &Self) {
        self.calls = self.calls.saturating_add(other.calls);
        self.ms = self.ms.saturating_add(other.ms);
        self.mib_ms = self.mib_ms.saturating_add(other.mib_ms);
        self.mcpu_ms = self.mcpu_ms.saturating_add(other.mcpu_ms);
    }
}

impl Class {
    /// The class of a call.
    #[must_use]
    pub fn of(record: &CallRecord) -> Self {
        let excused = record.key != 0 && record.outcome == Outcome::PlatformError;
        Self { outcome: record.outcome, warm: record.warm_slots != 0, excused }
    }

    /// A number below 24 that means this class.
    #[must_use]
    pub fn number(self) -> u8 {
        self.outcome as u8 + 6 * u8::from(self.warm) + 12 * u8::from(self.excused)
    }

    /// The class of a number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        let outcome = *Outcome::ALL.get(usize::from(number % 6))?;
        (number < 24).then_some(Self { outcome, warm: number / 6 % 2 == 1, excused: number >= 12 })
    }
}

impl Warm {
    /// Adds another.
    pub fn merge(&mut self, other: &Self) {
        self.mib_ms = self.mib_ms.saturating_add(other.mib_ms);
        self.mcpu_ms = self.mcpu_ms.saturating_add(other.mcpu_ms);
        self.used_mib_ms = self.used_mib_ms.saturating_add(other.used_mib_ms);
        self.used_mcpu_ms = self.used_mcpu_ms.saturating_add(other.used_mcpu_ms);
    }

    /// What was used, in MiB-milliseconds and in thousandths of a cpu x milliseconds: never more than there was. The
    /// rest was idle.
    #[must_use]
    pub fn used(&self) -> (u128, u128) {
        (self.used_mib_ms.min(self.mib_ms), self.used_mcpu_ms.min(self.mcpu_ms))
    }

    /// A call counts in the hour in which it came, and may run on into the next one. Within its hour it used no more
    /// than there was: to be said of each row before rows are added up, so that used and idle capacity of the parts add
    /// up to those of the whole.
    #[must_use]
    pub fn bounded(self) -> Self {
        let (used_mib_ms, used_mcpu_ms) = self.used();
        Self { used_mib_ms, used_mcpu_ms, ..self }
    }
}

impl ClassSum {
    fn empty(class: Class) -> Self {
        Self { class, calls: 0, times: Vec::new() }
    }

    fn add_time(&mut self, rule: Metering, time: &Time) {
        match self.times.binary_search_by_key(&rule, |(known, _)| *known) {
            Ok(at) => self.times[at].1.merge(time),
            Err(at) => self.times.insert(at, (rule, *time)),
        }
    }

    /// Their time by a rule.
    #[must_use]
    pub fn time(&self, rule: &Metering) -> Option<&Time> {
        self.times.iter().find(|(known, _)| known == rule).map(|(_, time)| time)
    }
}

impl UsageSum {
    /// Adds one call on an instance of this memory in MiB and cpu in thousandths, by each of the rules.
    pub fn add(&mut self, record: &CallRecord, size: (u32, u32), rules: &[Metering]) {
        let class = self.class(Class::of(record));
        class.calls = class.calls.saturating_add(1);
        for rule in rules {
            class.add_time(*rule, &Time::of(rule.billed_ms(record), size));
        }
        self.cold += u64::from(record.cold);
        self.wait_us = self.wait_us.saturating_add(u128::from(record.wait_us));
        self.claim_us = self.claim_us.saturating_add(u128::from(record.claim_us));
        self.start_us = self.start_us.saturating_add(u128::from(record.start_us));
        self.connect_us = self.connect_us.saturating_add(u128::from(record.connect_us));
        self.run_us = self.run_us.saturating_add(u128::from(record.run_us));
        self.request_bytes = self.request_bytes.saturating_add(u128::from(record.request_bytes));
        self.response_bytes = self.response_bytes.saturating_add(u128::from(record.response_bytes));
        if record.warm_slots != 0 {
            let slots = 1000 * u128::from(record.warm_slots);
            let part = |of: u32| u128::from(record.run_us) * u128::from(of) / slots;
            let used = Warm { used_mib_ms: part(size.0), used_mcpu_ms: part(size.1), ..Warm::default() };
            self.warm.merge(&used);
        }
    }

    fn class(&mut self, class: Class) -> &mut ClassSum {
        let at = match self.classes.binary_search_by_key(&class, |sum| sum.class) {
            Ok(at) => at,
            Err(at) => {
                self.classes.insert(at, ClassSum::empty(class));
                at
            }
        };
        &mut self.classes[at]
    }

    /// Adds another sum: in any order and grouping, the result is the same.
    pub fn merge(&mut self, other: &Self) {
        let Self { classes, cold, wait_us, claim_us, start_us, connect_us, run_us, .. } = other;
        let Self { request_bytes, response_bytes, warm, .. } = other;
        for theirs in classes {
            let mine = self.class(theirs.class);
            mine.calls = mine.calls.saturating_add(theirs.calls);
            for (rule, time) in &theirs.times {
                mine.add_time(*rule, time);
            }
        }
        self.cold = self.cold.saturating_add(*cold);
        self.wait_us = self.wait_us.saturating_add(*wait_us);
        self.claim_us = self.claim_us.saturating_add(*claim_us);
        self.start_us = self.start_us.saturating_add(*start_us);
        self.connect_us = self.connect_us.saturating_add(*connect_us);
        self.run_us = self.run_us.saturating_add(*run_us);
        self.request_bytes = self.request_bytes.saturating_add(*request_bytes);
        self.response_bytes = self.response_bytes.saturating_add(*response_bytes);
        self.warm.merge(warm);
    }

    /// Takes calls back that are in it: their number and their time, each by the rules that it was counted by. What they
    /// waited and moved stays, and so does what was kept warm: that it was there for them is true all the same.
    pub fn take_back(&mut self, calls: &Self) {
        for theirs in &calls.classes {
            let Ok(at) = self.classes.binary_search_by_key(&theirs.class, |sum| sum.class) else { continue };
            let mine = &mut self.classes[at];
            mine.calls = mine.calls.saturating_sub(theirs.calls);
            for (rule, time) in &theirs.times {
                if let Some((_, mine)) = mine.times.iter_mut().find(|(known, _)| known == rule) {
                    mine.take_back(time);
                }
            }
        }
        self.classes.retain(|sum| sum.calls > 0);
    }

    /// Every call, billed or not.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.classes.iter().fold(0, |sum, c| sum.saturating_add(c.calls))
    }

    /// Calls that ended so.
    #[must_use]
    pub fn ended(&self, outcome: Outcome) -> u64 {
        let of = self.classes.iter().filter(|c| c.class.outcome == outcome);
        of.fold(0, |sum, c| sum.saturating_add(c.calls))
    }

    /// What of it a plan bills.
    #[must_use]
    pub fn billed(&self, plan: &PricePlan) -> Billed {
        let rule = plan.metering();
        let mut billed = Billed::default();
        for sum in self.classes.iter().filter(|sum| plan.bills(sum.class)) {
            billed.calls = billed.calls.saturating_add(sum.calls);
            let times = if sum.class.warm { &mut billed.warm_time } else { &mut billed.time };
            let known = sum.time(&rule).copied().unwrap_or_default();
            times.merge(&known);
            billed.unmetered = billed.unmetered.saturating_add(sum.calls.saturating_sub(known.calls));
        }
        billed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::price::BilledOutcomes;
    use crate::price::sample::record;
    use proptest::prelude::*;

    const RULES: [Metering; 2] =
        [Metering { step_ms: 1, min_ms: 0, start: false }, Metering { step_ms: 100, min_ms: 0, start: true }];

    fn any_time() -> impl Strategy<Value = Time> {
        (any::<u32>(), any::<[u64; 3]>()).prop_map(|(calls, n)| {
            let [ms, mib_ms, mcpu_ms] = n.map(u128::from);
            Time { calls: u64::from(calls), ms, mib_ms, mcpu_ms }
        })
    }

    fn any_sum() -> impl Strategy<Value = UsageSum> {
        let times = (any_time(), prop::option::of(any_time())).prop_map(|(first, second)| {
            let first = Some((RULES[0], first));
            first.into_iter().chain(second.map(|time| (RULES[1], time))).collect::<Vec<_>>()
        });
        let classes = prop::collection::btree_map(0u8..24, (1u32.., times), 0..6);
        (classes, any::<u32>(), any::<[u64; 7]>(), any::<[u64; 4]>()).prop_map(|(classes, cold, rest, warm)| {
            let mut classes: Vec<_> = classes
                .into_iter()
                .map(|(number, (calls, mut times)): (u8, (u32, Vec<(Metering, Time)>))| {
                    let calls = u64::from(calls);
                    // No rule has counted more calls than came.
                    times.iter_mut().for_each(|(_, time)| time.calls = time.calls.min(calls));
                    ClassSum { class: Class::from_number(number).unwrap(), calls, times }
                })
                .collect();
            classes.sort_by_key(|sum| sum.class);
            let [wait_us, claim_us, start_us, connect_us, run_us, request_bytes, response_bytes] = rest.map(u128::from);
            let [mib_ms, mcpu_ms, used_mib_ms, used_mcpu_ms] = warm.map(u128::from);
            UsageSum {
                classes,
                cold: u64::from(cold),
                wait_us,
                claim_us,
                start_us,
                connect_us,
                run_us,
                request_bytes,
                response_bytes,
                warm: Warm { mib_ms, mcpu_ms, used_mib_ms, used_mcpu_ms },
            }
        })
    }

    fn merged(a: &UsageSum, b: &UsageSum) -> UsageSum {
        let mut sum = a.clone();
        sum.merge(b);
        sum
    }

    #[test]
    fn every_class_has_its_number() {
        let classes: Vec<_> = (0..24).map(|n| Class::from_number(n).unwrap()).collect();
        assert_eq!(classes.iter().map(|c| c.number()).collect::<Vec<_>>(), (0..24).collect::<Vec<_>>());
        assert!(classes.is_sorted());
        assert_eq!((Class::from_number(24), Class::from_number(255)), (None, None));
    }

    #[test]
    fn used_capacity_is_the_share_of_slots_and_never_more_than_there_was() {
        let call = |slots, run_us| CallRecord { warm_slots: slots, ..record(Outcome::Ok, run_us) };
        let mut sum = UsageSum::default();
        sum.warm.merge(&Warm { mib_ms: 1000 * 512, mcpu_ms: 1000 * 100, ..Warm::default() });
        for _ in 0..3 {
            sum.add(&call(4, 1_000_000), (512, 100), &RULES);
        }
        sum.add(&call(0, 1_000_000), (512, 100), &RULES);
        assert_eq!(sum.warm.used(), (750 * 512, 750 * 100), "three of four slots for a second; one call elsewhere");
        assert_eq!(sum.warm.bounded(), sum.warm);
        sum.add(&call(1, 9_000_000), (512, 100), &RULES);
        assert_eq!(sum.warm.used(), (1000 * 512, 1000 * 100), "it ran on beyond the time of this row");
        assert_eq!(sum.warm.bounded().used_mib_ms, 1_000 * 512);
    }

    #[test]
    fn an_attempt_with_a_key_that_the_platform_failed_is_billed_by_no_plan() {
        let everything = BilledOutcomes {
            start: true,
            function_errors: true,
            timeouts: true,
            platform_errors: true,
            client_gone: true,
        };
        let plan = PricePlan { bill: everything, ..PricePlan::default() };
        let class = |outcome, excused| Class { outcome, warm: false, excused };
        assert!(plan.bills(class(Outcome::PlatformError, false)));
        assert!(!plan.bills(class(Outcome::PlatformError, true)));
        assert!(!plan.bills(class(Outcome::Aborted, false)));
    }

    #[test]
    fn a_rule_that_was_not_in_use_is_told_as_unmetered() {
        let plan = PricePlan { step_ms: 7, ..PricePlan::default() };
        let class = Class { outcome: Outcome::Ok, warm: false, excused: false };
        let times = vec![(RULES[0], Time { calls: 1, ms: 5, mib_ms: 6, mcpu_ms: 7 })];
        let sum = UsageSum { classes: vec![ClassSum { class, calls: 3, times }], ..UsageSum::default() };
        let billed = sum.billed(&plan);
        assert_eq!((billed.calls, billed.unmetered, billed.time), (3, 3, Time::default()));
        assert_eq!(sum.billed(&PricePlan::default()).unmetered, 2, "one of them came when it was in use");
    }

    proptest! {
        #[test]
        fn merging_is_associative_and_commutative(a in any_sum(), b in any_sum(), c in any_sum()) {
            prop_assert_eq!(merged(&a, &b), merged(&b, &a));
            prop_assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)));
            prop_assert_eq!(merged(&a, &UsageSum::default()), a);
        }

        #[test]
        fn what_is_taken_back_is_as_if_it_had_not_come(a in any_sum(), b in any_sum()) {
            let (mut left, plan) = (merged(&a, &b), PricePlan::default());
            left.take_back(&b);
            prop_assert_eq!(left.billed(&plan), a.billed(&plan));
            prop_assert_eq!((left.calls(), left.warm), (a.calls(), merged(&a, &b).warm));
            left.take_back(&merged(&a, &b));
            prop_assert_eq!(left.classes, vec![]);
        }

        #[test]
        fn billed_is_a_filter(a in any_sum(), b in any_sum()) {
            let plan = PricePlan::default();
            let (mut parts, other) = (a.billed(&plan), b.billed(&plan));
            parts.calls += other.calls;
            parts.unmetered += other.unmetered;
            parts.time.merge(&other.time);
            parts.warm_time.merge(&other.warm_time);
            prop_assert_eq!(merged(&a, &b).billed(&plan), parts);
            prop_assert!(a.billed(&plan).calls <= a.calls());
        }
    }
}
