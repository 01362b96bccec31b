//! Pauses that grow.

use std::time::Duration;

/// The pause before something that has failed so often before is tried again: the first one, twice as long with each
/// failure, and never longer than the longest.
#[must_use]
pub fn pause(failures: u32, (first, longest): (Duration, Duration)) -> Duration {
    // 2^16 times a millisecond is over a minute already.
    first.saturating_mul(1 << failures.min(16)).min(longest)
}
