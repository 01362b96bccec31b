//! What a tenant owes for a period, and what the same would have cost on a server at a fixed price.

use super::cost::Item;
use super::exact::{Exact, TooLarge};
use super::plan::PricePlan;
use crate::usage::UsageSum;
use rust_decimal::Decimal;

/// One priced quantity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What for.
    pub item: Item,
    /// The plan's tier, counted from 1; 0 for what is free. 1 for an item that has one price.
    pub tier: u32,
    /// How much, exactly, in units.
    pub quantity: Exact,
    /// What is counted: see [`Item::unit`].
    pub unit: &'static str,
    /// Price of one unit.
    pub unit_price: Decimal,
    /// Quantity x price, rounded half-even to the currency's minor unit.
    pub amount: Decimal,
}

/// Lines and their sum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// A line for each item and tier that something was used of, and at least one for calls and one for compute. Items
    /// that cost nothing in this plan have none.
    ///
    /// Each amount is rounded by itself, and so is the total. The last line, [`Item::Rounding`], is what lies between; it
    /// is not there when that is nothing. It counts one adjustment whose price is its amount, which may be negative.
    pub lines: Vec<Line>,
    /// The unrounded amounts' sum, rounded half-even to the currency's minor unit. It is the sum of the lines' amounts.
    pub total: Decimal,
    /// The same, not rounded.
    pub unrounded: Exact,
    /// Billed calls that came before the plan's rounding rule (its step, minimum and start) was in use: they are in the
    /// line of calls, but what they are billed of time is not known, and is in no line.
    pub unmetered: u64,
}

/// A statement beside a fixed price for the same period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Saving {
    /// Fixed price minus total; negative when the fixed price is less.
    pub amount: Decimal,
    /// That in percent of the fixed price, one digit after the point, half-even.
    pub percent: Decimal,
}

impl PricePlan {
    /// Prices what one tenant used in one month.
    ///
    /// # Errors
    /// When an amount has more than 28 digits.
    pub fn statement(&self, usage: &UsageSum) -> Result<Statement, TooLarge> {
        let billed = usage.billed(self);
        let mut lines = Vec::new();
        let (mut unrounded, mut told) = (Exact::default(), Decimal::ZERO);
        for charge in self.charges(&billed, &usage.warm) {
            for part in charge.parts() {
                let exact = part.quantity.at(part.price);
                let amount = exact.round(self.minor_digits)?;
                unrounded = unrounded.plus(exact);
                told = told.checked_add(amount).ok_or(TooLarge)?;
                let unit = charge.item.unit(self.memory_unit);
                let (tier, quantity, unit_price) = (part.tier, part.quantity, part.price);
                lines.push(Line { item: charge.item, tier, quantity, unit, unit_price, amount });
            }
        }
        let total = unrounded.round(self.minor_digits)?;
        let rest = total.checked_sub(told).ok_or(TooLarge)?;
        if !rest.is_zero() {
            let (item, quantity) = (Item::Rounding, Exact::whole(1));
            let unit = item.unit(self.memory_unit);
            lines.push(Line { item, tier: 1, quantity, unit, unit_price: rest, amount: rest });
        }
        Ok(Statement { lines, total, unrounded, unmetered: billed.unmetered })
    }
}

/// A total beside a fixed price. `None` when that is not above zero, or beyond 28 digits.
#[must_use]
pub fn saving(total: Decimal, fixed: Decimal) -> Option<Saving> {
    if fixed <= Decimal::ZERO {
        return None;
    }
    let amount = fixed.checked_sub(total)?;
    let percent = amount.checked_mul(Decimal::ONE_HUNDRED)?.checked_div(fixed)?;
    let percent = percent.round_dp_with_strategy(1, rust_decimal::RoundingStrategy::MidpointNearestEven);
    // "90.0", not "90": one digit always.
    let mut shown = percent;
    shown.rescale(1);
    Some(Saving { amount, percent: shown })
}

#[cfg(test)]
pub(super) mod tests;
