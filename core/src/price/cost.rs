//! What is charged for: the quantities of a plan's items, each with its price.

use super::exact::Exact;
use super::plan::{MemoryUnit, PricePlan};
use super::tiers::{Part, Slice, Tiers};
use crate::record::CallRecord;
use crate::usage::{Billed, Class, Time, Warm};
use rust_decimal::Decimal;

/// What a statement line is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Item {
    /// Billed calls.
    Calls,
    /// Memory held for billed time.
    Compute,
    /// Cpu held for billed time.
    Cpu,
    /// Memory held for billed time of calls on warm instances, where that has its own price.
    WarmCallsCompute,
    /// Cpu held for billed time of calls on warm instances, where that has its own price.
    WarmCallsCpu,
    /// Memory that was kept warm and that calls used.
    WarmUsed,
    /// Memory that was kept warm, idle.
    WarmIdle,
    /// Cpu that was kept warm and that calls used.
    WarmCpuUsed,
    /// Cpu that was kept warm, idle.
    WarmCpuIdle,
    /// What the total is above the sum of the other lines, each of which is rounded by itself; below it when negative.
    Rounding,
}

/// One item with how much of it there is and its price.
pub(super) struct Charge<'a> {
    pub(super) item: Item,
    pub(super) quantity: Exact,
    price: Price<'a>,
}

enum Price<'a> {
    /// The same for any quantity.
    Flat(Decimal),
    /// By tiers, after so much that is free.
    Tiered(&'a Tiers, Decimal),
}

impl Item {
    /// The stable name used by the usage API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Calls => "calls",
            Self::Compute => "compute",
            Self::Cpu => "cpu",
            Self::WarmCallsCompute => "warm_calls_compute",
            Self::WarmCallsCpu => "warm_calls_cpu",
            Self::WarmUsed => "warm_used",
            Self::WarmIdle => "warm_idle",
            Self::WarmCpuUsed => "warm_cpu_used",
            Self::WarmCpuIdle => "warm_cpu_idle",
            Self::Rounding => "rounding",
        }
    }

    /// What it is counted in.
    #[must_use]
    pub fn unit(self, memory: MemoryUnit) -> &'static str {
        match self {
            Self::Calls => "call",
            Self::Compute | Self::WarmCallsCompute | Self::WarmUsed | Self::WarmIdle => memory.second(),
            Self::Cpu | Self::WarmCallsCpu | Self::WarmCpuUsed | Self::WarmCpuIdle => "vCPU-second",
            Self::Rounding => "adjustment",
        }
    }
}

impl Charge<'_> {
    /// By tiers, without those in which nothing lies. Nothing at all for what costs nothing, but calls and compute are
    /// always told.
    pub(super) fn parts(&self) -> Vec<Part> {
        let told = matches!(self.item, Item::Calls | Item::Compute);
        let parts = match self.price {
            _ if !told && self.first_price().is_zero() => Vec::new(),
            Price::Flat(_) if self.quantity.is_zero() => Vec::new(),
            Price::Flat(price) => vec![Part { tier: 1, quantity: self.quantity, price }],
            Price::Tiered(tiers, free) => tiers.parts(self.quantity, free),
        };
        if told && parts.is_empty() {
            return vec![Part { tier: 1, quantity: self.quantity, price: self.first_price() }];
        }
        parts
    }

    /// What of it lies in which tier, by the prices that it has without what is free, when `from` of the same was used
    /// before it in the month.
    pub(super) fn slices(&self, from: Exact) -> Vec<Slice> {
        match self.price {
            Price::Flat(_) if self.quantity.is_zero() => Vec::new(),
            Price::Flat(price) => vec![Slice { tier: 1, free: false, quantity: self.quantity, price }],
            Price::Tiered(tiers, free) => tiers.slices(from, self.quantity, free),
        }
    }

    /// The price of the first tier that costs anything.
    pub(super) fn first_price(&self) -> Decimal {
        match self.price {
            Price::Flat(price) => price,
            Price::Tiered(tiers, _) => tiers.first_price(),
        }
    }
}

impl PricePlan {
    /// What the memory of a call is charged as, on an instance that was kept warm or on another.
    #[must_use]
    pub fn memory_item(&self, warm: bool) -> Item {
        if warm && self.warm.calls_per_gb_second.is_some() { Item::WarmCallsCompute } else { Item::Compute }
    }

    /// The same of its cpu.
    #[must_use]
    pub fn cpu_item(&self, warm: bool) -> Item {
        if warm && self.warm.calls_per_vcpu_second.is_some() { Item::WarmCallsCpu } else { Item::Cpu }
    }

    /// What is charged for, in the order in which a statement tells it.
    pub(super) fn charges(&self, billed: &Billed, warm: &Warm) -> [Charge<'_>; 9] {
        let Self { warm: rates, free, .. } = self;
        // Time on warm instances: of the common item, or of its own one at its own price.
        let apart = |own: Option<Decimal>, time: u128| match own {
            Some(price) => (0, time, price),
            None => (time, 0, Decimal::ZERO),
        };
        let (memory, warm_memory, memory_price) = apart(rates.calls_per_gb_second, billed.warm_time.mib_ms);
        let (cpu, warm_cpu, cpu_price) = apart(rates.calls_per_vcpu_second, billed.warm_time.mcpu_ms);
        let memory = billed.time.mib_ms.saturating_add(memory);
        let cpu = billed.time.mcpu_ms.saturating_add(cpu);
        let (used_memory, used_cpu) = warm.used();
        let (idle_memory, idle_cpu) = (warm.mib_ms - used_memory, warm.mcpu_ms - used_cpu);

        let by_memory = |mib_ms| self.memory_unit.gb_seconds(mib_ms);
        let by_cpu = Exact::vcpu_seconds;
        let tiered = |item, quantity, tiers, free| Charge { item, quantity, price: Price::Tiered(tiers, free) };
        let flat = |item, quantity, price| Charge { item, quantity, price: Price::Flat(price) };
        [
            tiered(Item::Calls, Exact::whole(billed.calls.into()), &self.per_call, free.calls),
            tiered(Item::Compute, by_memory(memory), &self.per_gb_second, free.gb_seconds),
            tiered(Item::Cpu, by_cpu(cpu), &self.per_vcpu_second, free.vcpu_seconds),
            flat(Item::WarmCallsCompute, by_memory(warm_memory), memory_price),
            flat(Item::WarmCallsCpu, by_cpu(warm_cpu), cpu_price),
            flat(Item::WarmUsed, by_memory(used_memory), rates.per_gb_second_used),
            flat(Item::WarmIdle, by_memory(idle_memory), rates.per_gb_second_idle),
            flat(Item::WarmCpuUsed, by_cpu(used_cpu), rates.per_vcpu_second_used),
            flat(Item::WarmCpuIdle, by_cpu(idle_cpu), rates.per_vcpu_second_idle),
        ]
    }

    /// What billed calls and warm capacity cost, exactly, each item at the price of its first tier that costs anything:
    /// what is free and further tiers are of a whole month, and only [`PricePlan::statement`] knows one.
    #[must_use]
    pub fn cost(&self, billed: &Billed, warm: &Warm) -> Exact {
        let charges = self.charges(billed, warm);
        // Of nine items a row of usage has two or three.
        let used = charges.iter().filter(|charge| !charge.quantity.is_zero());
        used.fold(Exact::default(), |sum, charge| sum.plus(charge.quantity.at(charge.first_price())))
    }

    /// What one call costs on an instance of this memory in MiB and cpu in thousandths, exactly, at the prices of
    /// [`PricePlan::cost`]. Warm capacity is no part of it: it is there, and paid for, with and without calls.
    #[must_use]
    pub fn cost_of(&self, record: &CallRecord, size: (u32, u32)) -> Exact {
        let class = Class::of(record);
        if !self.bills(class) {
            return Exact::default();
        }
        let time = Time::of(self.metering().billed_ms(record), size);
        let mut billed = Billed { calls: 1, ..Billed::default() };
        *(if class.warm { &mut billed.warm_time } else { &mut billed.time }) = time;
        self.cost(&billed, &Warm::default())
    }

    /// The same as a decimal, rounded only where it has more than 28 digits; [`Decimal::MAX`] for times beyond all sense.
    #[must_use]
    pub fn price_of(&self, record: &CallRecord, size: (u32, u32)) -> Decimal {
        self.cost_of(record, size).nearest().unwrap_or(Decimal::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::WarmPrices;
    use super::super::sample::record;
    use super::*;
    use crate::record::Outcome;

    fn decimal(text: &str) -> Decimal {
        text.parse().unwrap()
    }

    #[test]
    fn one_call_of_the_article_costs() {
        let plan = PricePlan::default();
        // 0.0000002 + 0.05 GB-seconds x 0.00003
        assert_eq!(plan.price_of(&record(Outcome::Ok, 100_000), (512, 100)).to_string(), "0.0000017");
        assert_eq!(plan.price_of(&record(Outcome::PlatformError, 100_000), (512, 100)), Decimal::ZERO);
        assert_eq!(plan.price_of(&record(Outcome::Aborted, 100_000), (512, 100)), Decimal::ZERO);
        assert!(plan.price_of(&record(Outcome::Ok, u64::MAX), (u32::MAX, 0)) > Decimal::ZERO);
    }

    #[test]
    fn a_call_on_a_warm_instance_costs_what_the_plan_says_of_those() {
        let warm = CallRecord { warm_slots: 4, ..record(Outcome::Ok, 1_000_000) };
        let mut plan = PricePlan {
            per_call: Tiers::flat(Decimal::ZERO),
            per_gb_second: Tiers::flat(decimal("3")),
            per_vcpu_second: Tiers::flat(decimal("5")),
            ..PricePlan::default()
        };
        let size = (2048, 500);
        assert_eq!(plan.price_of(&warm, size).to_string(), "8.5", "2 GB-seconds x 3 + 0.5 vCPU-seconds x 5");
        plan.warm.calls_per_gb_second = Some(decimal("1"));
        assert_eq!(plan.price_of(&warm, size).to_string(), "4.5");
        plan.warm.calls_per_vcpu_second = Some(decimal("0.2"));
        assert_eq!(plan.price_of(&warm, size).to_string(), "2.1");
        assert_eq!(plan.price_of(&CallRecord { warm_slots: 0, ..warm }, size).to_string(), "8.5");
    }

    #[test]
    fn capacity_costs_by_what_was_used_of_it() {
        let plan = PricePlan {
            warm: WarmPrices {
                per_gb_second_used: decimal("4"),
                per_gb_second_idle: decimal("1"),
                per_vcpu_second_used: decimal("40"),
                per_vcpu_second_idle: decimal("10"),
                ..WarmPrices::default()
            },
            ..PricePlan::default()
        };
        // 10 s of 1 GB and 1 cpu, of which 3 s were used.
        let warm = Warm {
            mib_ms: 10_000 * 1024,
            mcpu_ms: 10_000 * 1000,
            used_mib_ms: 3_000 * 1024,
            used_mcpu_ms: 3_000 * 1000,
        };
        assert_eq!(plan.cost(&Billed::default(), &warm).to_string(), "209", "3 x 44 + 7 x 11");
    }
}
