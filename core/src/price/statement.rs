//! What a tenant owes for a period, and what the same would have cost on a server at a fixed price.

use super::exact::{Exact, TooLarge};
use super::plan::PricePlan;
use crate::usage::UsageSum;
use rust_decimal::Decimal;

/// What a statement line is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// Billed calls.
    Calls,
    /// Memory held for billed time.
    Compute,
}

/// One priced quantity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What for.
    pub item: Item,
    /// How much, exactly, in [`Item::unit`]s.
    pub quantity: Exact,
    /// Price of one unit.
    pub unit_price: Decimal,
    /// Quantity x price, rounded half-even to the currency's minor unit.
    pub amount: Decimal,
}

/// Lines and their sum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// One line per [`Item`].
    pub lines: Vec<Line>,
    /// Sum of the lines' amounts.
    pub total: Decimal,
}

/// A statement beside a fixed price for the same period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Saving {
    /// Fixed price minus total; negative when the fixed price is less.
    pub amount: Decimal,
    /// That in percent of the fixed price, one digit after the point, half-even.
    pub percent: Decimal,
}

impl Item {
    /// The stable name used by the usage API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Calls => "calls",
            Self::Compute => "compute",
        }
    }

    /// What it is counted in (GB = 1024 MiB).
    #[must_use]
    pub fn unit(self) -> &'static str {
        match self {
            Self::Calls => "call",
            Self::Compute => "GB-second",
        }
    }
}

impl PricePlan {
    /// Prices a usage sum.
    ///
    /// # Errors
    /// When an amount has more than 28 digits.
    pub fn statement(&self, usage: &UsageSum) -> Result<Statement, TooLarge> {
        let billed = usage.billed(self);
        let lines = [
            (Item::Calls, Exact::whole(u128::from(billed.calls)), self.per_call),
            (Item::Compute, Exact::gb_seconds(billed.time.mib_ms), self.per_gb_second),
        ];
        let mut total = Decimal::new(0, self.minor_digits);
        let mut priced = Vec::with_capacity(lines.len());
        for (item, quantity, unit_price) in lines {
            let amount = quantity.at(unit_price).round(self.minor_digits)?;
            total = total.checked_add(amount).ok_or(TooLarge)?;
            priced.push(Line { item, quantity, unit_price, amount });
        }
        Ok(Statement { lines: priced, total })
    }
}

impl Statement {
    /// Beside a fixed price. `None` when that is not above zero, or beyond 28 digits.
    #[must_use]
    pub fn saving(&self, fixed: Decimal) -> Option<Saving> {
        if fixed <= Decimal::ZERO {
            return None;
        }
        let amount = fixed.checked_sub(self.total)?;
        let percent = amount.checked_mul(Decimal::ONE_HUNDRED)?.checked_div(fixed)?;
        let percent = percent.round_dp_with_strategy(1, rust_decimal::RoundingStrategy::MidpointNearestEven);
        // "90.0", not "90": one digit always.
        let mut shown = percent;
        shown.rescale(1);
        Some(Saving { amount, percent: shown })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{CallRecord, Outcome};
    use proptest::prelude::*;

    fn decimal(text: &str) -> Decimal {
        text.parse().unwrap()
    }

    fn record(run_us: u64, outcome: Outcome) -> CallRecord {
        CallRecord {
            subject: 0,
            call: 1,
            received_at_us: 0,
            wait_us: 1,
            claim_us: 9,
            start_us: 2,
            connect_us: 0,
            run_us,
            request_bytes: 3,
            response_bytes: 4,
            status: 200,
            outcome,
            cold: true,
            first: false,
            warm_slots: 0,
            key: 0,
        }
    }

    #[test]
    fn the_bill_of_the_article() {
        let plan = PricePlan::default();
        let mut one = UsageSum::default();
        one.add(&record(100_000, Outcome::Ok), (512, 100), &[plan.metering()]);
        let mut all = UsageSum::default();
        for bit in 0..24 {
            // 15,000,000 calls by doubling: each power of two is the sum before it, twice.
            if 15_000_000u32 >> bit & 1 == 1 {
                all.merge(&one);
            }
            let same = one.clone();
            one.merge(&same);
        }
        assert_eq!(all.calls(), 15_000_000);
        let statement = plan.statement(&all).unwrap();
        let lines: Vec<_> = statement.lines.iter().map(|l| (l.quantity.to_string(), l.amount.to_string())).collect();
        assert_eq!(lines, [("15000000".into(), "3.00".into()), ("750000".into(), "22.50".into())]);
        assert_eq!(statement.total.to_string(), "25.50");
        let saving = statement.saving(decimal("350")).unwrap();
        assert_eq!((saving.amount.to_string(), saving.percent.to_string()), ("324.50".into(), "92.7".into()));
    }

    #[test]
    fn a_fixed_price_may_be_lower_and_must_be_above_zero() {
        let statement = Statement { lines: Vec::new(), total: decimal("30.00") };
        assert_eq!(statement.saving(decimal("20")).unwrap().percent.to_string(), "-50.0");
        assert_eq!(statement.saving(decimal("30")).unwrap().percent.to_string(), "0.0");
        assert_eq!(statement.saving(Decimal::ZERO), None);
        assert_eq!(statement.saving(decimal("-1")), None);
    }

    #[test]
    fn each_line_is_rounded_once_and_the_total_is_their_sum() {
        // 5 calls x 0.001 = 0.005 -> 0.00 and 0.005 GB-seconds x 1 = 0.005 -> 0.00: the total is 0.00, not 0.01.
        let plan = PricePlan { per_call: decimal("0.001"), per_gb_second: Decimal::ONE, ..PricePlan::default() };
        let mut sum = UsageSum::default();
        for _ in 0..5 {
            sum.add(&record(1_000, Outcome::Ok), (1024, 100), &[plan.metering()]);
        }
        assert_eq!(plan.statement(&sum).unwrap().total.to_string(), "0.00");
    }

    fn calls() -> impl Strategy<Value = Vec<(u64, u32, usize)>> {
        prop::collection::vec((0u64..10_000_000, 1u32..10_000, 0usize..6), 0..60)
    }

    fn sum(calls: &[(u64, u32, usize)], plan: &PricePlan) -> UsageSum {
        let mut sum = UsageSum::default();
        for &(run_us, memory, outcome) in calls {
            sum.add(&record(run_us, Outcome::ALL[outcome]), (memory, 100), &[plan.metering()]);
        }
        sum
    }

    proptest! {
        #[test]
        fn splitting_a_period_changes_no_total(calls in calls(), cut in 0usize..60, step in 1u32..200) {
            let plan = PricePlan { step_ms: step, ..PricePlan::default() };
            let (left, right) = calls.split_at(cut.min(calls.len()));
            let mut parts = sum(left, &plan);
            parts.merge(&sum(right, &plan));
            let whole = sum(&calls, &plan);
            prop_assert_eq!(&parts, &whole);
            prop_assert_eq!(plan.statement(&parts), plan.statement(&whole));
        }

        #[test]
        fn the_sum_of_single_prices_is_the_unrounded_total(calls in calls()) {
            let plan = PricePlan::default();
            let single: Decimal = calls.iter()
                .map(|&(run_us, memory, outcome)| plan.price_of(&record(run_us, Outcome::ALL[outcome]), (memory, 100)))
                .sum();
            let billed = sum(&calls, &plan).billed(&plan);
            prop_assert_eq!(plan.cost(billed.calls, billed.time.mib_ms).nearest().unwrap(), single.normalize());
        }
    }
}
