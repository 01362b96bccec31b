//! What calls cost: the price plan, exact amounts and statement arithmetic. No floating point anywhere; sums stay
//! integers, an amount is an exact rational. Each line of a statement is rounded once, half-even, and so is its total;
//! what lies between the total and the lines is a line of its own.

#![deny(clippy::float_arithmetic)]

mod cost;
mod exact;
pub mod focus;
mod metering;
mod plan;
mod read;
#[cfg(test)]
pub(crate) mod sample;
mod shipped;
mod signed;
mod statement;
mod tiers;

pub use cost::Item;
pub use exact::{Exact, ExactText, TooLarge};
pub use metering::Metering;
pub use plan::{BilledOutcomes, Durability, Free, MemoryUnit, PricePlan, WarmPrices};
pub use read::{PlanFault, PlanFaults};
pub use signed::Signed;
pub use statement::{Line, Saving, Statement, saving};
pub use tiers::{Tier, Tiers};
