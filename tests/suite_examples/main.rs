//! The functions of `examples/`, the README's tour and the tutorial, run as their pages say: their commands are taken out of
//! the pages and pasted.

mod clock;
mod dev;
mod hello;
mod orders;
mod payments;
mod pictures;
mod place;
mod tour;

use std::time::Duration;

/// Longest wait for anything; what is waited for usually takes well under a second.
const LIMIT: Duration = Duration::from_secs(60);

/// The repository.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Whether this version knows `spec.schedules`. While it does not, manifests are run without them, and what needs a clock
/// is tried by the event that the clock will send.
const SCHEDULES: bool = false;
