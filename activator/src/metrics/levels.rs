//! What stands somewhere anyway is read when it is asked for, not counted twice: how full each bounded thing is, and
//! its bound.

use crate::{clock, server, shared::Shared};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::gauge::ConstGauge,
};
use std::{
    fmt,
    sync::{Weak, atomic::Ordering::Relaxed},
};

/// Reads the levels of a running activator.
#[derive(Debug)]
pub(crate) struct Levels {
    shared: Weak<Shared>,
    limits: server::Limits,
    spool_max_bytes: u64,
}

impl Levels {
    pub(crate) fn new(shared: Weak<Shared>, limits: server::Limits, spool_max_bytes: u64) -> Self {
        Self { shared, limits, spool_max_bytes }
    }

    fn read(&self, shared: &Shared) -> [(&'static str, &'static str, f64); 11] {
        let (limits, table) = (&self.limits, shared.routes.load());
        #[expect(clippy::cast_precision_loss, reason = "a reader gets floating point in any case")]
        let number = |n: usize| n as f64;
        #[expect(clippy::cast_precision_loss, reason = "as above")]
        let bytes = |n: u64| n as f64;
        [
            ("functions", "Functions that are routed", number(table.by_uid.len())),
            ("connections_limit", "Most client connections at once", number(limits.connections)),
            (
                "connections_per_address_limit",
                "Most client connections at once from one address",
                number(limits.connections_per_address),
            ),
            (
                "http2_streams_limit",
                "Most open streams of one client connection of HTTP/2",
                f64::from(limits.http2_streams),
            ),
            ("waiting_calls_limit", "Most calls that may wait", number(limits.waiting)),
            (
                "waiting_bytes_limit",
                "Most bytes held of calls that wait: heads, and what was read ahead of bodies",
                number(limits.waiting_bytes),
            ),
            (
                "memory_bytes",
                "Memory of the process, of which new calls are refused when it is too much",
                bytes(shared.memory.used.load(Relaxed)),
            ),
            ("memory_bytes_limit", "Most of it; 0 when it is unbounded", bytes(shared.memory.max.unwrap_or(0))),
            ("head_bytes_limit", "Largest request head", number(limits.head_bytes)),
            ("spool_bytes_limit", "Most bytes of the spool", bytes(self.spool_max_bytes)),
            (
                "metering_lag_seconds",
                "Age of the oldest record that the ledger does not have; 0 when it has all",
                lag(shared.metrics.unshipped_since_us.load(Relaxed), clock::wall_us()),
            ),
        ]
    }
}

/// Seconds since `since_us`; none when that is 0.
fn lag(since_us: i64, now_us: i64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "microseconds of hours are below 2^52")]
    let seconds = now_us.saturating_sub(since_us) as f64 / 1e6;
    if since_us == 0 { 0.0 } else { seconds.max(0.0) }
}

impl Collector for Levels {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(shared) = self.shared.upgrade() else { return Ok(()) };
        for (name, help, value) in self.read(&shared) {
            let gauge = ConstGauge::new(value);
            let place = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(place)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_is_the_age_of_the_oldest_and_never_negative() {
        assert_eq!(lag(0, 5_000_000), 0.0);
        assert_eq!(lag(3_000_000, 5_500_000), 2.5);
        assert_eq!(lag(6_000_000, 5_500_000), 0.0, "the clock was set back");
    }
}
