//! Function -> instances: observe -> plan -> apply -> report, one file each.
//!
//! [`observe`] keeps what is known of one function. [`plan`] is a pure function of that and of the time: it says what is
//! to be done, what activators are told, and why. [`report`] is pure as well: what the function's owner is told.
//! [`apply`] alone has a fleet in its hands. An effect's outcome comes back as an observation, and the plan is made anew.

pub mod apply;
pub mod build;
pub mod claims;
pub mod observe;
pub mod plan;
pub mod report;
pub mod schedules;
