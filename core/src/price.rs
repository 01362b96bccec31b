//! What calls cost: the price plan, exact amounts and statement arithmetic. No floating point anywhere; sums stay
//! integers, an amount is an exact rational and is rounded once, half-even, on its statement line.

mod exact;
mod plan;
mod statement;

pub use exact::{Exact, TooLarge};
pub use plan::{BilledOutcomes, Metering, PlanFault, PlanFaults, PricePlan};
pub use statement::{Item, Line, Saving, Statement};
