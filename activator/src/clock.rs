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
        u64::try_from(self.now().as_millis()).unwrap_or(u64::MAX)
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

/// Whole microseconds of a duration.
pub(crate) fn micros(d: Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}
