//! The language runtimes, each held to `runtimes/README.md` in the same way: what a handler gets and gives as a table of
//! cases (`cases.yaml`), then loads, failures and ends one by one.

mod cases;
mod client;
mod ends;
mod failures;
mod loads;
mod runtime;
mod stops;
#[allow(dead_code, reason = "part of it is for functions on a cluster")]
mod table;
