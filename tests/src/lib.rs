//! What the suites and benches share: a load generator with a client-side journal, processes that can be killed, a
//! cluster, and a client of the usage API.
//!
//! Suites assert counts and order, never times: times are printed, and compared only as ratios within one run.

pub mod agree;
pub mod calls;
pub mod checker;
pub mod client;
pub mod cluster;
pub mod env;
pub mod front;
pub mod ground;
pub mod journal;
pub mod lean;
pub mod load;
pub mod machine;
pub mod orders;
pub mod page;
pub mod pair;
pub mod ports;
pub mod postgres;
pub mod proc;
pub mod quantiles;
pub mod redis;
pub mod script;
pub mod shell;
pub mod team;
pub mod trouble;
pub mod usage;
pub mod volume;
pub mod wait;
