//! A histogram of durations that calls may observe without a lock: two additions to atomic numbers each.
//!
//! prometheus-client's own histogram keeps its buckets behind a mutex, which all calls of a function would share. Taken
//! by one thread at a time that is even a little cheaper (`examples/observe.rs`); but whoever meets it held is put to
//! sleep, and a holder that the system puts to sleep holds everybody up.

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds in microseconds: those that OpenTelemetry recommends for `http.server.request.duration`, 5 ms to 10 s.
const CALLS: [u64; 14] = [
    5_000, 10_000, 25_000, 50_000, 75_000, 100_000, 250_000, 500_000, 750_000, 1_000_000, 2_500_000, 5_000_000,
    7_500_000, 10_000_000,
];
/// The same, and 20, 40 and 60 s: nodes are added and images pulled in that time.
const STARTS: [u64; 17] = [
    5_000, 10_000, 25_000, 50_000, 75_000, 100_000, 250_000, 500_000, 750_000, 1_000_000, 2_500_000, 5_000_000,
    7_500_000, 10_000_000, 20_000_000, 40_000_000, 60_000_000,
];
/// For what is done within the process: 50 us to 1 s.
const STEPS: [u64; 11] = [50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 50_000, 250_000, 1_000_000];

/// Durations counted by buckets; clones share the numbers. 8 bytes for each bucket, one for what is longer than the
/// last bound, and one for the sum: 128 bytes for [`Histogram::of_calls`].
#[derive(Clone, Debug)]
pub struct Histogram {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    bounds: &'static [u64],
    /// Observations per bucket, not cumulative; one more than there are bounds.
    buckets: Box<[AtomicU64]>,
    /// Whole microseconds: 2^64 of them are 58 years of 10,000 calls at once.
    sum: AtomicU64,
}

impl Histogram {
    fn new(bounds: &'static [u64]) -> Self {
        let buckets = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { inner: Arc::new(Inner { bounds, buckets, sum: AtomicU64::new(0) }) }
    }

    /// For durations of calls: 5 ms to 10 s.
    #[must_use]
    pub fn of_calls() -> Self {
        Self::new(&CALLS)
    }

    /// For starts of instances: 5 ms to 60 s.
    #[must_use]
    pub fn of_starts() -> Self {
        Self::new(&STARTS)
    }

    /// For steps within the process: 50 us to 1 s.
    #[must_use]
    pub fn of_steps() -> Self {
        Self::new(&STEPS)
    }

    /// Counts one duration.
    pub fn observe(&self, duration: Duration) {
        let inner = &*self.inner;
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let bucket = inner.bounds.partition_point(|bound| bound.saturating_mul(1_000) < nanos);
        inner.buckets[bucket].fetch_add(1, Relaxed);
        // To the nearest: warm calls take some tens of microseconds, and always rounding down would show in their mean.
        let micros = nanos.saturating_add(500) / 1_000;
        if micros > 0 {
            inner.sum.fetch_add(micros, Relaxed);
        }
    }

    /// How many durations were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.inner.buckets.iter().map(|b| b.load(Relaxed)).sum()
    }
}

impl TypedMetric for Histogram {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder) -> Result<(), std::fmt::Error> {
        let inner = &*self.inner;
        let counts: Vec<u64> = inner.buckets.iter().map(|b| b.load(Relaxed)).collect();
        // From the same reading: the count is that of the last bucket, whatever is observed meanwhile.
        let count = counts.iter().sum();
        #[expect(clippy::cast_precision_loss, reason = "a reader gets floating point in any case")]
        let seconds = |micros: u64| micros as f64 / 1e6;
        let bounds = inner.bounds.iter().map(|bound| seconds(*bound)).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        encoder.encode_histogram::<NoLabelSet>(seconds(inner.sum.load(Relaxed)), count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::{encoding::text, registry::Registry};

    fn text(histogram: &Histogram) -> String {
        let (mut registry, mut text) = (Registry::default(), String::new());
        registry.register("h_seconds", "Some", histogram.clone());
        text::encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn a_duration_is_in_the_first_bucket_that_is_not_below_it() {
        let histogram = Histogram::of_calls();
        for micros in [0, 5_000, 5_001, 10_000_000, 10_000_001] {
            histogram.observe(Duration::from_micros(micros));
        }
        histogram.observe(Duration::from_nanos(5_000_001));
        let text = text(&histogram);
        for line in [
            "h_seconds_bucket{le=\"0.005\"} 2",
            "h_seconds_bucket{le=\"0.01\"} 4",
            "h_seconds_bucket{le=\"7.5\"} 4",
            "h_seconds_bucket{le=\"10.0\"} 5",
            "h_seconds_bucket{le=\"+Inf\"} 6",
            "h_seconds_count 6",
            "h_seconds_sum 20.015002",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in {text}");
        }
        assert_eq!(histogram.count(), 6);
    }

    #[test]
    fn no_observation_is_lost_between_threads() {
        let histogram = Histogram::of_steps();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|i| histogram.observe(Duration::from_micros(i))));
            }
        });
        assert_eq!(histogram.count(), 40_000);
        // 4 x (0 + 1 + ... + 9,999) us
        assert!(text(&histogram).contains("h_seconds_sum 199.98\n"), "{}", text(&histogram));
    }

    #[test]
    fn bounds_grow() {
        for bounds in [&CALLS[..], &STARTS, &STEPS] {
            assert!(bounds.is_sorted_by(|a, b| a < b));
        }
        assert_eq!(STARTS[..CALLS.len()], CALLS);
    }
}
