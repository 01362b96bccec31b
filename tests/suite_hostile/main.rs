//! Clients that mean harm: bytes that are no HTTP or mean two things, clients that drag, floods, and more than there is
//! room for. The real activator in front of real servers, with a scripted controller.
//!
//! Run by ./test. Statuses, what instances saw, counts and memory are asserted; times never.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

#[path = "../../activator/tests/common/mod.rs"]
mod common;

mod caps;
mod cases;
mod conformance;
mod corpus;
mod floods;
mod frames;
mod held;
mod origins;
mod raw;
mod slow;
mod stand;
