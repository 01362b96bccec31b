//! The price list of an installation.

use super::exact::Exact;
use super::metering::Metering;
use super::tiers::Tiers;
use crate::record::Outcome;
use crate::usage::Class;
use jiff::civil::Date;
use rust_decimal::Decimal;
use serde::Serialize;

/// What a call costs, what capacity that is kept warm costs, and which calls cost anything. Prices are decimal text,
/// never floating point. In a file the fields have the names below in camelCase; [`PricePlan::from_value`] reads one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PricePlan {
    /// Name shown on statements.
    pub name: String,
    /// ISO 4217 letters.
    pub currency: String,
    /// Digits after the point of the currency's minor unit, to which statement lines are rounded.
    pub minor_digits: u32,
    /// Where the prices stand: an address, or words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The day on which that was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub date: Option<Date>,
    /// Price of one billed call.
    pub per_call: Tiers,
    /// Price of one GB-second of billed time (see [`PricePlan::memory_unit`]): time x the memory that the function asks
    /// for. Calls that overlap on one instance are each billed their own time.
    pub per_gb_second: Tiers,
    /// Price of one vCPU-second of billed time: time x the cpu that the function asks for.
    pub per_vcpu_second: Tiers,
    /// Prices of capacity that is kept warm, and of calls on it.
    pub warm: WarmPrices,
    /// What costs nothing.
    pub free: Free,
    /// What a GB is.
    pub memory_unit: MemoryUnit,
    /// Billed time is rounded up to a multiple of this, in milliseconds.
    pub step_ms: u32,
    /// Least billed time of a call in milliseconds.
    pub min_ms: u32,
    /// What is billed at all.
    pub bill: BilledOutcomes,
    /// What a response's end waits for.
    pub durability: Durability,
}

/// Prices of instances that are kept warm, from the opening of their port to their end. A call uses one of an instance's
/// slots for as long as it runs; what no call used is idle. The first four are 0 where nothing else is said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WarmPrices {
    /// Price of one GB-second of capacity that calls used.
    pub per_gb_second_used: Decimal,
    /// Price of one GB-second of idle capacity.
    pub per_gb_second_idle: Decimal,
    /// Price of one vCPU-second of capacity that calls used.
    pub per_vcpu_second_used: Decimal,
    /// Price of one vCPU-second of idle capacity.
    pub per_vcpu_second_idle: Decimal,
    /// Price of one GB-second of the billed time of calls on warm instances: a line of its own, of which nothing is free.
    /// Without it that time is part of what [`PricePlan::per_gb_second`] is the price of, in the same tiers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calls_per_gb_second: Option<Decimal>,
    /// The same of one vCPU-second, and of [`PricePlan::per_vcpu_second`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calls_per_vcpu_second: Option<Decimal>,
}

/// What costs nothing, per tenant and month: a first tier at the price 0. The ends of other tiers are counted from zero
/// all the same. Warm capacity is never part of it, nor is the time of calls that [`WarmPrices`] has a price for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Free {
    /// Calls, a whole number.
    pub calls: Decimal,
    /// GB-seconds of billed time.
    pub gb_seconds: Decimal,
    /// vCPU-seconds of billed time.
    pub vcpu_seconds: Decimal,
}

/// What a GB is where a plan says GB-second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum MemoryUnit {
    /// 1024 MiB, as Lambda and others count. Shown as "GB-second", which is what they call it.
    #[default]
    #[serde(rename = "GiB")]
    Binary,
    /// 10^9 bytes. Shown as "decimal GB-second".
    #[serde(rename = "GB")]
    Decimal,
}

/// How safe the record of a call is when its response ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// It is written: no end of the activator's process loses it. A power cut loses what the last second wrote.
    #[default]
    Process,
    /// It is synced to the activator's disk: a power cut does not lose it. The loss of that disk does.
    Disk,
    /// The ledger has it on its disk: the loss of the activator's machine does not lose it. No response ends while the
    /// ledger is away.
    Ledger,
}

/// What of a plan is billed. Successful calls always are; aborted ones never.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BilledOutcomes {
    /// The time until an instance had opened its port counts as billed time of the first call on it.
    pub start: bool,
    /// Calls that the function failed.
    pub function_errors: bool,
    /// Calls that ran into `timeoutSeconds`.
    pub timeouts: bool,
    /// Calls that the platform failed.
    pub platform_errors: bool,
    /// Calls whose client left.
    pub client_gone: bool,
}

impl Default for PricePlan {
    /// The plan `article`, as `core/plans/article.yaml` has it: CNY 0.0000002 a call and CNY 0.00003 a GB-second, by the
    /// millisecond.
    fn default() -> Self {
        Self {
            name: "article".to_owned(),
            currency: "CNY".to_owned(),
            minor_digits: 2,
            source: Some("15000000 calls of 100 ms with 512 MiB for CNY 25.50, beside a server for CNY 350".to_owned()),
            date: Some(jiff::civil::date(2026, 11, 26)),
            per_call: Tiers::flat(Decimal::new(2, 7)),
            per_gb_second: Tiers::flat(Decimal::new(3, 5)),
            per_vcpu_second: Tiers::flat(Decimal::ZERO),
            warm: WarmPrices::default(),
            free: Free::default(),
            memory_unit: MemoryUnit::default(),
            step_ms: 1,
            min_ms: 0,
            bill: BilledOutcomes::default(),
            durability: Durability::default(),
        }
    }
}

impl Default for BilledOutcomes {
    fn default() -> Self {
        Self { start: false, function_errors: true, timeouts: true, platform_errors: false, client_gone: true }
    }
}

impl MemoryUnit {
    /// GB-seconds of a sum of MiB-milliseconds.
    #[must_use]
    pub fn gb_seconds(self, mib_ms: u128) -> Exact {
        match self {
            Self::Binary => Exact::gb_seconds(mib_ms),
            Self::Decimal => Exact::decimal_gb_seconds(mib_ms),
        }
    }

    /// Whole MiB-milliseconds of an amount of GB-seconds, rounded down: the inverse of [`MemoryUnit::gb_seconds`].
    #[must_use]
    pub fn mib_ms(self, gb_seconds: Exact) -> u128 {
        match self {
            // 1024 MiB x 1000 ms
            Self::Binary => gb_seconds.at(Decimal::from(1_024_000)).floor(0),
            // 10^9 bytes x 1000 ms, in MiB of 2^20 bytes
            Self::Decimal => gb_seconds.at(Decimal::from(1_000_000_000_000_u64)).floor(0) >> 20,
        }
    }

    /// What memory x time is counted in.
    #[must_use]
    pub fn second(self) -> &'static str {
        match self {
            Self::Binary => "GB-second",
            Self::Decimal => "decimal GB-second",
        }
    }
}

impl PricePlan {
    /// The plan with nothing free and the price of its dearest tier for everything: what calls cost by it, one by one, is
    /// never less than what they cost together in any month.
    #[must_use]
    pub fn dearest(&self) -> Self {
        Self {
            per_call: self.per_call.dearest(),
            per_gb_second: self.per_gb_second.dearest(),
            per_vcpu_second: self.per_vcpu_second.dearest(),
            free: Free::default(),
            ..self.clone()
        }
    }

    /// How time is measured under this plan.
    #[must_use]
    pub fn metering(&self) -> Metering {
        Metering { step_ms: self.step_ms, min_ms: self.min_ms, start: self.bill.start }
    }

    /// Whether calls of a class are billed.
    #[must_use]
    pub fn bills(&self, class: Class) -> bool {
        match class.outcome {
            _ if class.excused => false,
            Outcome::Ok => true,
            Outcome::FunctionError => self.bill.function_errors,
            Outcome::PlatformError => self.bill.platform_errors,
            Outcome::Timeout => self.bill.timeouts,
            Outcome::ClientGone => self.bill.client_gone,
            Outcome::Aborted => false,
        }
    }
}
