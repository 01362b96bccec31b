//! The one clock of the process: monotonic time since its start, and wall time for records.

use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// Monotonic time since the process began; cheap to copy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    origin: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { origin: Instant::now() }
    }

    /// Since the start.
    pub(crate) fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// Since the start, in milliseconds.
    pub(crate) fn now_ms(&self) -> u64 {
        millis(self.now())
    }

    /// The instant that a time since the start names.
    pub(crate) fn instant(&self, at: Duration) -> Instant {
        self.origin + at
    }
}

/// Wall clock in microseconds since 1970 UTC.
pub(crate) fn wall_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// Whole milliseconds of a duration.
pub(crate) fn millis(d: Duration) -> u64 {
    // Not `as_millis`: that one divides in 128 bits.
    d.as_secs().saturating_mul(1000).saturating_add(u64::from(d.subsec_millis()))
}

/// Whole microseconds of a duration.
pub(crate) fn micros(d: Duration) -> u64 {
    d.as_secs().saturating_mul(1_000_000).saturating_add(u64::from(d.subsec_micros()))
}
