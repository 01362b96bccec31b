//! The ledger's stores, held to the same tests.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, reason = "tests")]

mod conformance;
mod data;
#[cfg(feature = "suites")]
mod postgres;
mod reversals;
mod sled;
