//! The Budget resource: what a tenant may spend in a month.

#![expect(unreachable_pub, reason = "the schema derive repeats each struct inside a function")]

use crate::allowance::Amount;
use crate::function::status::conditions;
use crate::price::{Exact, PricePlan};
use crate::record::CallRecord;
use crate::usage::{Class, Time, UsageSum};
use crate::valid::{Fault, schema};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::core::cel::Rule;
use kube::{CustomResource, KubeSchema};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

/// Digits after the point of a currency's unit that amounts of money are counted in: a call of a millisecond with 128 MiB
/// costs about 4 x 10^-9, so that what is dropped is a millionth of the smallest call.
const MONEY_DIGITS: u32 = 15;

const ONE_MESSAGE: &str = "say what is bounded: either amount or gbSeconds";
const CURRENCY_MESSAGE: &str = "currency goes with amount: remove it, or say amount in place of gbSeconds";

fn one_rule() -> Rule {
    Rule::new("has(self.amount) != has(self.gbSeconds)").message(ONE_MESSAGE)
}

fn currency_rule() -> Rule {
    Rule::new("!has(self.currency) || has(self.amount)").message(CURRENCY_MESSAGE)
}

/// A budget: what one tenant may spend in a calendar month, UTC. Calls that would be beyond it are refused.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[kube(
    group = "dormouse.dev",
    version = "v1alpha1",
    kind = "Budget",
    plural = "budgets",
    singular = "budget",
    category = "dormouse",
    status = "BudgetStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "A budget: what one tenant may spend in a calendar month, UTC. Calls that would be beyond it are refused.",
    printcolumn = r#"{"name":"TENANT","type":"string","jsonPath":".status.tenant","description":"Who pays."}"#,
    printcolumn = r#"{"name":"STATE","type":"string","jsonPath":".status.state","description":"Whether calls are served."}"#,
    printcolumn = r#"{"name":"SPENT","type":"string","jsonPath":".status.spent","description":"What was spent in this month."}"#,
    printcolumn = r#"{"name":"LIMIT","type":"string","jsonPath":".status.limit","description":"What may be spent."}"#,
    printcolumn = r#"{"name":"PERCENT","type":"integer","jsonPath":".status.percent","description":"Spent, in percent of the limit."}"#,
    printcolumn = r#"{"name":"REASON","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].reason","description":"Why it is in force or not."}"#,
    printcolumn = r#"{"name":"AGE","type":"date","jsonPath":".metadata.creationTimestamp","description":"Since it was made."}"#
)]
#[x_kube(validation = one_rule(), validation = currency_rule())]
#[serde(rename_all = "camelCase")]
pub struct BudgetSpec {
    /// Whose: a namespace, or what the label `dormouse.dev/tenant` of namespaces says. Without it the budget's own name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub tenant: Option<String>,

    /// Most money in a month, by the price plan in force: decimal text, as in "250.00".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 24), regex(pattern = r"^[0-9]{1,12}(\.[0-9]{1,9})?$"))]
    pub amount: Option<String>,

    /// The currency that the amount is meant in. When the price plan in force has another one, the budget is not in force,
    /// and its status says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[A-Z]{3}$"))]
    pub currency: Option<String>,

    /// Most GB-seconds in a month, as statements count them: of billed calls, and of warm capacity while it is idle. Decimal
    /// text, as in "400000".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 24), regex(pattern = r"^[0-9]{1,12}(\.[0-9]{1,9})?$"))]
    pub gb_seconds: Option<String>,

    /// Percent of it at which the status and an event warn.
    #[serde(default = "default_warn")]
    #[schemars(range(min = 1, max = 1000))]
    pub warn_percent: i32,

    /// Percent of it at which calls are refused, and nothing is kept warm any more.
    #[serde(default = "default_stop")]
    #[schemars(range(min = 1, max = 1000))]
    pub stop_percent: i32,

    /// Whether calls are refused at all.
    #[serde(default)]
    pub action: Action,
}

/// What happens when a budget is used up.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Action {
    /// Calls are refused with 429 until the month is over or the budget is raised. Calls that run then run to their end.
    #[default]
    Stop,
    /// The status and an event say so.
    Warn,
}

fn default_warn() -> i32 {
    80
}
fn default_stop() -> i32 {
    100
}

/// How far a budget is used.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BudgetState {
    /// It cannot be said yet: the ledger was not asked, or does not answer.
    #[default]
    Unknown,
    /// Less is spent than it warns at.
    Within,
    /// It warns.
    Warning,
    /// It is used up; calls are refused.
    Stopped,
}

/// What the controller sees of a budget.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct BudgetStatus {
    /// The generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
    /// Who pays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub tenant: Option<String>,
    /// The month, as in `2026-11`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub period: Option<String>,
    /// What was spent in it, with its unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub spent: Option<String>,
    /// What may be spent in it, with its unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub limit: Option<String>,
    /// The one in percent of the other, rounded down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub percent: Option<i64>,
    /// Whether calls are served.
    #[serde(default)]
    pub state: BudgetState,
    /// Ready: the budget is in force.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
}

impl Budget {
    /// Reads a manifest as it was written.
    ///
    /// # Errors
    /// Every fault.
    pub fn from_value(manifest: &serde_json::Value) -> Result<Self, Vec<Fault>> {
        let faults = schema::check_budget(manifest);
        if !faults.is_empty() {
            return Err(faults);
        }
        let budget: Self = serde_json::from_value(manifest.clone()).map_err(|e| vec![Fault::new("", e.to_string())])?;
        Limit::of(&budget).map_err(|fault| vec![fault])?;
        Ok(budget)
    }
}

/// What a budget bounds, and how it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Measure {
    /// Money of the price plan in force, in units of 10^-15.
    Money,
    /// Memory x time, in MiB-milliseconds.
    Memory,
}

/// A budget that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Whose.
    pub tenant: String,
    /// What is counted.
    pub measure: Measure,
    /// All of it, as it is written.
    pub whole: Decimal,
    /// The currency that it must be in, if it says one.
    pub currency: Option<String>,
    /// At which percent of it to warn.
    pub warn_percent: u32,
    /// At which percent of it to stop; `None`: never.
    pub stop_percent: Option<u32>,
}

impl Limit {
    /// Understands a budget.
    ///
    /// # Errors
    /// What is wrong with it: the schema and the rules of the resource say the same.
    pub fn of(budget: &Budget) -> Result<Self, Fault> {
        let BudgetSpec { tenant, amount, currency, gb_seconds, warn_percent, stop_percent, action } = &budget.spec;
        let (measure, text, path) = match (amount, gb_seconds) {
            (Some(text), None) => (Measure::Money, text, "spec.amount"),
            (None, Some(text)) => (Measure::Memory, text, "spec.gbSeconds"),
            _ => return Err(Fault::new("spec", ONE_MESSAGE)),
        };
        if currency.is_some() && measure == Measure::Memory {
            return Err(Fault::new("spec.currency", CURRENCY_MESSAGE));
        }
        let whole = text.parse::<Decimal>().ok().filter(|whole| !whole.is_sign_negative() && text.len() <= 24);
        let whole =
            whole.ok_or_else(|| Fault::new(path, format!("must be decimal text as in \"250.00\", is {text:?}")))?;
        let percent = |percent: i32| u32::try_from(percent.clamp(1, 1000)).unwrap_or(1);
        let tenant = tenant.clone().or_else(|| budget.metadata.name.clone()).unwrap_or_default();
        Ok(Self {
            tenant,
            measure,
            whole,
            currency: currency.clone(),
            warn_percent: percent(*warn_percent),
            stop_percent: (*action == Action::Stop).then(|| percent(*stop_percent)),
        })
    }

    /// So many percent of it, as it is counted under a plan; rounded down.
    #[must_use]
    pub fn part(&self, percent: u32, plan: &PricePlan) -> Amount {
        let part = Exact::of(self.whole).at(Decimal::new(i64::from(percent), 2));
        match self.measure {
            Measure::Money => part.floor(MONEY_DIGITS),
            Measure::Memory => plan.memory_unit.mib_ms(part),
        }
    }

    /// What a month's usage is, as the budget counts it; money rounded up.
    #[must_use]
    pub fn counted(&self, usage: &UsageSum, plan: &PricePlan) -> Amount {
        match self.measure {
            Measure::Money => plan.statement(usage).map_or(Amount::MAX, |s| s.unrounded.ceil(MONEY_DIGITS)),
            Measure::Memory => {
                let billed = usage.billed(plan);
                let idle = usage.warm.mib_ms - usage.warm.used().0;
                billed.time.mib_ms.saturating_add(billed.warm_time.mib_ms).saturating_add(idle)
            }
        }
    }

    /// An amount for people, in the unit of the budget: money in the plan's minor unit, GB-seconds to the thousandth; with
    /// more digits where the budget itself has them.
    #[must_use]
    pub fn shown(&self, amount: Amount, plan: &PricePlan) -> Decimal {
        let (exact, digits) = match self.measure {
            Measure::Money => (Exact::whole(amount).at(Decimal::new(1, MONEY_DIGITS)), plan.minor_digits),
            Measure::Memory => (plan.memory_unit.gb_seconds(amount), 3),
        };
        exact.round(digits.max(self.whole.scale())).unwrap_or(Decimal::MAX)
    }

    /// What it is counted in, for people.
    #[must_use]
    pub fn unit<'a>(&self, plan: &'a PricePlan) -> &'a str {
        match self.measure {
            Measure::Money => &plan.currency,
            Measure::Memory => plan.memory_unit.second(),
        }
    }
}

impl Measure {
    /// The most that one call can cost under a plan, on an instance of this memory in MiB and cpu in thousandths, as a
    /// budget counts it. `dearest` is [`PricePlan::dearest`] of the plan: which tier a call falls into is decided by the
    /// whole month.
    #[must_use]
    pub fn cost(self, record: &CallRecord, size: (u32, u32), dearest: &PricePlan) -> Amount {
        match self {
            Self::Money => dearest.cost_of(record, size).ceil(MONEY_DIGITS),
            Self::Memory if dearest.bills(Class::of(record)) => {
                Time::of(dearest.metering().billed_ms(record), size).mib_ms
            }
            Self::Memory => 0,
        }
    }
}

#[cfg(test)]
mod tests;
