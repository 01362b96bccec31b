//! Times as quantiles: recorded in microseconds, told in milliseconds.

use hdrhistogram::Histogram;
use std::fmt;
use std::time::Duration;

/// Longest time told apart: one hour in microseconds.
const MAX_US: u64 = 3_600_000_000;

/// A set of times.
#[derive(Clone, Debug)]
pub struct Times(Histogram<u64>);

impl Default for Times {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, MAX_US, 3).unwrap_or_else(|_| unreachable!("constant bounds are valid")))
    }
}

impl Times {
    /// Adds one.
    pub fn record(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_micros()).unwrap_or(MAX_US).max(1));
    }

    /// Adds another set.
    pub fn merge(&mut self, other: &Self) {
        // Equal bounds: adding cannot fail.
        let _ = self.0.add(&other.0);
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The time that a share `q` (0 to 1) of them does not exceed, in milliseconds.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "an hour in microseconds is exact in 53 bits")]
    pub fn ms(&self, q: f64) -> f64 {
        if self.0.is_empty() { 0.0 } else { self.0.value_at_quantile(q) as f64 / 1000.0 }
    }

    /// The shortest, in milliseconds.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "an hour in microseconds is exact in 53 bits")]
    pub fn min_ms(&self) -> f64 {
        if self.0.is_empty() { 0.0 } else { self.0.min() as f64 / 1000.0 }
    }
}

impl FromIterator<Duration> for Times {
    fn from_iter<I: IntoIterator<Item = Duration>>(times: I) -> Self {
        let mut set = Self::default();
        times.into_iter().for_each(|t| set.record(t));
        set
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (min, p50, p90, p99, max) = (self.min_ms(), self.ms(0.5), self.ms(0.9), self.ms(0.99), self.ms(1.0));
        write!(f, "n {} ms: min {min:.3} p50 {p50:.3} p90 {p90:.3} p99 {p99:.3} max {max:.3}", self.count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_known_times() {
        let times: Times = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(times.count(), 100);
        for (q, want) in [(0.5, 50.0), (0.9, 90.0), (1.0, 100.0)] {
            assert!((times.ms(q) - want).abs() / want < 0.002, "{q}: {}", times.ms(q));
        }
        assert!((times.min_ms() - 1.0).abs() < 0.002);
        assert!((Times::default().ms(0.5)).abs() < f64::EPSILON);
    }
}
