//! The rules of Dormouse, pure: no clock, socket, file or randomness. Time comes in as an argument; a decision
//! returns why it was taken.

pub mod admit;
pub mod allowance;
pub mod budget;
mod cron;
pub mod function;
pub mod history;
pub mod id;
pub mod pool;
pub mod price;
pub mod quantity;
pub mod record;
pub mod revision;
pub mod scale;
pub mod schedule;
pub mod share;
pub mod source;
pub mod table;
pub mod usage;
pub mod valid;
pub mod warm;
pub mod warm_pool;

pub use budget::{Budget, BudgetSpec, BudgetStatus};
pub use function::{Function, FunctionSpec, FunctionStatus};
pub use id::{FunctionKey, RequestId};
pub use valid::{Fault, ValidFunction};
pub use warm_pool::{WarmPool, WarmPoolSpec, WarmPoolStatus};
