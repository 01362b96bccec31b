//! The rules of Dormouse, pure: no clock, socket, file or randomness. Time comes in as an argument; a decision
//! returns why it was taken.

pub mod id;
pub mod record;

pub use id::{FunctionKey, RequestId};
