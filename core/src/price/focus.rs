//! A statement as FOCUS rows (FinOps Open Cost and Usage Specification, dataset Cost and Usage): one for each function,
//! hour, line of the statement and tier of its price, so that their BilledCost adds up to the statement's total exactly.
//!
//! What is free is told as usage at its price and, beside it, as a credit of the same amount; what rounding the total
//! adds or takes is an adjustment. Where the statement is closed, what came to its month later is taken off by another
//! one; what it takes back of single records is a third; and where it corrects earlier months, each of them is a correction. These are the last rows. Tiers are those of
//! the whole tenant's month, taken in the order of time: hours come in order, and within an hour functions do.

mod columns;
#[cfg(test)]
mod tests;

pub use columns::{Version, columns, values};

use super::cost::{Charge, Item};
use super::exact::{Exact, TooLarge};
use super::plan::{MemoryUnit, PricePlan};
use super::signed::Signed;
use super::tiers::Slice;
use crate::usage::UsageSum;
use rust_decimal::Decimal;
use std::ops::Range;

/// A function, as rows name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The Function's uid.
    pub uid: String,
}

/// Whose statement it is, and for which month.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Period {
    /// The paying tenant.
    pub tenant: String,
    /// Hours since 1970 UTC, the end not included.
    pub hours: Range<u32>,
    /// The statement's id; `None` for one that nobody pays, such as what another plan would have cost.
    pub invoice: Option<String>,
}

/// Makes the rows of one statement.
#[derive(Clone, Debug)]
pub struct Export {
    plan: PricePlan,
    period: Period,
    /// How much of each item came before: where its next row begins within the tiers.
    before: [Exact; 9],
    billed: Exact,
    rows: u64,
}

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    resource: Option<&'a Resource>,
    hours: Range<u32>,
    charge: RowCharge,
    cost: Signed,
    counts: Option<Counts>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RowCharge {
    /// So much of an item at its price.
    Usage { item: Item, slice: Slice },
    /// What is not paid of the row before.
    Credit { item: Item, slice: Slice },
    /// Between the exact sum and the rounded one.
    Rounding,
    /// What came after the month was closed: a later statement has it.
    Late,
    /// What records cost that are taken back.
    Reversal,
    /// What an earlier month cost more, or less, than was billed for it.
    Correction,
}

/// What a statement says beside usage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// What it bills for usage, where that is fixed whatever came later.
    pub usage: Option<Decimal>,
    /// What of it is taken back: zero or less.
    pub reversed: Decimal,
    /// Earlier months, as hours since 1970 UTC, and what they cost more than was billed for them.
    pub corrections: Vec<(Range<u32>, Decimal)>,
}

/// What is counted of a function's hour: told once of it, with its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counts {
    calls: u64,
    cold: u64,
    unmetered: u64,
}

/// What the rows of an export are in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Total {
    /// How many.
    pub rows: u64,
    /// The sum of their BilledCost: the statement's total.
    pub amount: Decimal,
}

impl Export {
    /// An export of what a tenant used in a month, priced by a plan.
    #[must_use]
    pub fn new(plan: PricePlan, period: Period) -> Self {
        Self { plan, period, before: [Exact::default(); 9], billed: Exact::default(), rows: 0 }
    }

    /// The rows of what a function used in a time, which is an hour, or a day where hours are not kept any longer. Times
    /// must come in order.
    pub fn used<'r>(&mut self, resource: &'r Resource, hours: &Range<u32>, usage: &UsageSum) -> Vec<Row<'r>> {
        let Self { plan, .. } = self;
        let billed = usage.billed(plan);
        let mut counts = Some(Counts { calls: usage.calls(), cold: usage.cold, unmetered: billed.unmetered });
        let mut rows = Vec::new();
        for (charge, before) in plan.charges(&billed, &usage.warm).iter().zip(&mut self.before) {
            let mut slices = if is_told(charge) { charge.slices(*before) } else { Vec::new() };
            *before = before.plus(charge.quantity);
            let item = charge.item;
            if item == Item::Calls && slices.is_empty() && usage.calls() > 0 {
                // Calls none of which is billed are counted all the same.
                let (quantity, price) = (charge.quantity, charge.first_price());
                slices.push(Slice { tier: 1, free: false, quantity, price });
            }
            for slice in slices {
                let counts = if item == Item::Calls { counts.take() } else { None };
                let cost = slice.quantity.at(slice.price);
                let mut row = |charge, cost, counts| {
                    rows.push(Row { resource: Some(resource), hours: hours.clone(), charge, cost, counts });
                };
                row(RowCharge::Usage { item, slice }, cost.into(), counts);
                match slice.free {
                    true if cost.is_zero() => {}
                    true => row(RowCharge::Credit { item, slice }, Signed::negative(cost), None),
                    false => self.billed = self.billed.plus(cost),
                }
            }
        }
        self.rows = self.rows.saturating_add(rows.len() as u64);
        rows
    }

    /// The last rows, if there are any, and what all of them are.
    ///
    /// # Errors
    /// When the total has more than 28 digits.
    pub fn finish(&mut self, told: &Told) -> Result<(Vec<Row<'static>>, Total), TooLarge> {
        let month = &self.period.hours;
        let rounded = self.billed.round(self.plan.minor_digits)?;
        let usage = told.usage.unwrap_or(rounded);
        let late = usage.checked_sub(rounded).ok_or(TooLarge)?;
        let last = [
            (RowCharge::Rounding, month, Signed::difference(Exact::of(rounded), self.billed)),
            (RowCharge::Late, month, Signed::of(late)),
            (RowCharge::Reversal, month, Signed::of(told.reversed)),
        ];
        let corrections = told.corrections.iter();
        let corrections = corrections.map(|(hours, amount)| (RowCharge::Correction, hours, Signed::of(*amount)));
        let rows = last.into_iter().chain(corrections).filter(|(.., cost)| !cost.is_zero());
        let rows: Vec<_> = rows
            .map(|(charge, hours, cost)| Row { resource: None, hours: hours.clone(), charge, cost, counts: None })
            .collect();
        self.rows = self.rows.saturating_add(rows.len() as u64);
        let mut amounts = told.corrections.iter().map(|(_, amount)| *amount);
        // Nothing added to 0.00 would be 0: a total keeps its digits.
        let used = if told.reversed.is_zero() { Some(usage) } else { usage.checked_add(told.reversed) };
        let used = used.ok_or(TooLarge)?;
        let amount = amounts.try_fold(used, Decimal::checked_add).ok_or(TooLarge)?;
        Ok((rows, Total { rows: self.rows, amount }))
    }
}

/// Requests, time and warm capacity are told whatever they cost: the rows are usage as well. Of the rest only what has a
/// price.
fn is_told(charge: &Charge<'_>) -> bool {
    let always = [Item::Calls, Item::Compute, Item::WarmUsed, Item::WarmIdle];
    always.contains(&charge.item) || !charge.first_price().is_zero()
}

/// What an item is counted in, many and one. GB is 10^9 bytes and GiB 2^30 there, and a core what Kubernetes calls a cpu.
fn unit(item: Item, memory: MemoryUnit) -> (&'static str, &'static str) {
    match (item, memory) {
        (Item::Calls, _) => ("Requests", "Request"),
        (Item::Cpu | Item::WarmCallsCpu | Item::WarmCpuUsed | Item::WarmCpuIdle, _) => ("Core-Seconds", "Core-Second"),
        (_, MemoryUnit::Binary) => ("GiB-Seconds", "GiB-Second"),
        (_, MemoryUnit::Decimal) => ("GB-Seconds", "GB-Second"),
    }
}

/// What is measured of an item.
fn meter(item: Item) -> &'static str {
    match item {
        Item::Calls => "Requests",
        Item::Compute => "Memory Time",
        Item::Cpu => "CPU Time",
        Item::WarmCallsCompute => "Memory Time on Warm Instances",
        Item::WarmCallsCpu => "CPU Time on Warm Instances",
        Item::WarmUsed => "Warm Memory, Used",
        Item::WarmIdle => "Warm Memory, Idle",
        Item::WarmCpuUsed => "Warm CPU, Used",
        Item::WarmCpuIdle => "Warm CPU, Idle",
        Item::Rounding => "Rounding",
    }
}

/// Whether an item is the used or the unused part of what was kept warm. The time of calls on it is neither: it is charged
/// beside the capacity, which would count twice.
fn reservation(item: Item) -> Option<&'static str> {
    match item {
        Item::WarmUsed | Item::WarmCpuUsed => Some("Used"),
        Item::WarmIdle | Item::WarmCpuIdle => Some("Unused"),
        _ => None,
    }
}
