//! What warm pools keep parked: the operator's own meter, beside the ledger. No tenant pays for a pod that nobody has
//! claimed, and no statement shows one.
//!
//! Integers only: microseconds x the MiB, or thousandths of a cpu, of the pods that could be claimed. It counts from the
//! controller's start on, as its other numbers do.

use crate::fleet::PoolKey;
use jiff::Timestamp;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::registry::Unit;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The meter; clones share it.
#[derive(Clone, Debug)]
pub struct Parking {
    since: Timestamp,
    began: Instant,
    pools: Arc<Mutex<BTreeMap<PoolKey, Parked>>>,
}

/// What was kept of one pool, in whole units, rounded down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Pods that are parked now.
    pub parked: u64,
    /// MiB x seconds.
    pub mib_seconds: u64,
    /// vCPU x milliseconds.
    pub vcpu_milliseconds: u64,
}

/// The pods of one pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Parked {
    /// Up to when it is counted, from the beginning.
    until: Duration,
    pods: u64,
    mib: u128,
    mcpu: u128,
    mib_us: u128,
    mcpu_us: u128,
}

impl Parked {
    /// Counts up to a moment; one that is before the last changes nothing.
    fn count(&mut self, now: Duration) {
        let us = now.saturating_sub(self.until).as_micros();
        // 2^128 / (10^6 us x 2^20 MiB) are more seconds than there will be.
        self.mib_us = self.mib_us.saturating_add(us * self.mib);
        self.mcpu_us = self.mcpu_us.saturating_add(us * self.mcpu);
        self.until = self.until.max(now);
    }
}

impl Default for Parking {
    fn default() -> Self {
        Self { since: Timestamp::now(), began: Instant::now(), pools: Arc::default() }
    }
}

impl Parking {
    /// From now on these pods of a pool are parked, each by its MiB and thousandths of a cpu.
    pub fn see(&self, pool: &PoolKey, pods: impl Iterator<Item = (u32, u32)>) {
        let mut pools = self.pools.lock();
        let parked = pools.entry(pool.clone()).or_insert_with(|| Parked { until: self.now(), ..Parked::default() });
        parked.count(self.now());
        (parked.pods, parked.mib, parked.mcpu) = pods
            .fold((0, 0, 0), |(pods, mib, mcpu), size| (pods + 1, mib + u128::from(size.0), mcpu + u128::from(size.1)));
    }

    /// A pool is gone, and with it what was counted of it.
    pub fn forget(&self, pool: &PoolKey) {
        self.pools.lock().remove(pool);
    }

    /// When it began to count.
    #[must_use]
    pub fn since(&self) -> Timestamp {
        self.since
    }

    /// What was counted up to now, by pool.
    #[must_use]
    pub fn told(&self) -> Vec<(PoolKey, Kept)> {
        let kept = |parked: Parked| Kept {
            parked: parked.pods,
            mib_seconds: whole(parked.mib_us, 1_000_000),
            vcpu_milliseconds: whole(parked.mcpu_us, 1_000_000),
        };
        self.counted().into_iter().map(|(key, parked)| (key, kept(parked))).collect()
    }

    /// How many pods of a pool count now.
    #[cfg(test)]
    pub(crate) fn pods(&self, pool: &PoolKey) -> u64 {
        self.pools.lock().get(pool).map_or(0, |parked| parked.pods)
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn counted(&self) -> BTreeMap<PoolKey, Parked> {
        let (mut pools, now) = (self.pools.lock(), self.now());
        pools.values_mut().for_each(|parked| parked.count(now));
        pools.clone()
    }
}

fn whole(sum: u128, unit: u128) -> u64 {
    u64::try_from(sum / unit).unwrap_or(u64::MAX)
}

impl Collector for Parking {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let pools = self.counted();
        // A thousandth of a cpu for a microsecond is 10^-9 vCPU-seconds: a quotient of the exact sum each time, so that
        // nothing drifts.
        let memory: fn(&Parked) -> f64 = |parked| parked.mib_us as f64 / 1e6;
        let cpu: fn(&Parked) -> f64 = |parked| parked.mcpu_us as f64 / 1e9;
        for (name, help, unit, of) in [
            (
                "parked_memory",
                "MiB of parked pods of a warm pool x the time that they were parked",
                "mib_seconds",
                memory,
            ),
            ("parked_cpu", "vCPU of parked pods of a warm pool x the time that they were parked", "vcpu_seconds", cpu),
        ] {
            let unit = Unit::Other(unit.to_owned());
            let mut family =
                encoder.encode_descriptor(name, help, Some(&unit), ConstCounter::new(0.0).metric_type())?;
            for (key, parked) in &pools {
                let labels = [("namespace", key.namespace.as_str()), ("pool", key.name.as_str())];
                ConstCounter::new(of(parked)).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::registry::Registry;
    use tokio::time::advance;

    fn key(name: &str) -> PoolKey {
        PoolKey { namespace: "shop".into(), name: name.into() }
    }

    fn told(parking: &Parking) -> Vec<(String, u64, u64, u64)> {
        let row = |(key, kept): (PoolKey, Kept)| (key.name, kept.parked, kept.mib_seconds, kept.vcpu_milliseconds);
        parking.told().into_iter().map(row).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_parked_is_counted_while_it_is_and_by_its_size() {
        let parking = Parking::default();
        advance(Duration::from_secs(5)).await;
        parking.see(&key("small"), [(256, 100), (256, 100)].into_iter());
        advance(Duration::from_secs(10)).await;
        parking.see(&key("small"), [(256, 100)].into_iter());
        parking.see(&key("large"), [(1024, 1000)].into_iter());
        advance(Duration::from_millis(1_500)).await;
        let expected = [("large".to_owned(), 1, 1_536, 1_500), ("small".to_owned(), 1, 20 * 256 + 384, 2_000 + 150)];
        assert_eq!(told(&parking), expected);
        assert_eq!(told(&parking), expected, "asked twice it is counted once");
        parking.see(&key("small"), std::iter::empty());
        advance(Duration::from_secs(100)).await;
        assert_eq!(told(&parking)[1], ("small".to_owned(), 0, 5_504, 2_150));
        let (mut registry, mut text) = (Registry::default(), String::new());
        registry.sub_registry_with_prefix("dormouse").register_collector(Box::new(parking.clone()));
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let series = |line: &str| assert!(text.contains(line), "{line} is not in {text}");
        series("dormouse_parked_memory_mib_seconds_total{namespace=\"shop\",pool=\"small\"} 5504.0");
        series("dormouse_parked_cpu_vcpu_seconds_total{namespace=\"shop\",pool=\"small\"} 2.15");
        parking.forget(&key("small"));
        assert_eq!(told(&parking).len(), 1);
    }
}
