//! What is seen of the ledger from outside.

use super::{AppendError, AppendOutcome, LedgerDoor};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

/// Frames by what became of them; clones count the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    frames: Family<Outcome, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

impl Counts {
    pub(super) fn frame(&self, result: Result<AppendOutcome, &AppendError>) {
        let outcome = match result {
            Ok(AppendOutcome::Applied) => "applied",
            Ok(AppendOutcome::Duplicate) => "duplicate",
            Ok(AppendOutcome::Gap) => "gap",
            Err(AppendError::BadFrame(_)) => "bad",
            Err(AppendError::Closed(_)) => "closed",
        };
        self.frames.get_or_create(&Outcome { outcome }).inc();
    }
}

/// Reads the ledger when it is asked.
#[derive(Debug)]
struct Levels(LedgerDoor);

impl Collector for Levels {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let health = self.0.ledger().ok().map(|ledger| ledger.health());
        let up = health.as_ref().is_some_and(|h| h.problem.is_none());
        let mut tell = |name, help, value: f64| {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
        };
        tell("ledger_up", "1 while the ledger takes records", f64::from(u8::from(up)))?;
        #[expect(clippy::cast_precision_loss, reason = "a reader gets floating point in any case")]
        let bytes = health.map(|h| h.size_on_disk as f64);
        // A closed ledger's size is not known: no value rather than a wrong one.
        bytes.map_or(Ok(()), |bytes| tell("metering_store_bytes", "Bytes of the ledger on disk", bytes))
    }
}

impl LedgerDoor {
    /// Puts what is seen of the ledger into a registry.
    pub fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("dormouse");
        r.register("ledger_frames", "Frames of records by what became of them", self.counts().frames.clone());
        r.register_collector(Box::new(Levels(self.clone())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Place;
    use dormouse_core::price::PricePlan;

    #[tokio::test]
    async fn a_closed_ledger_is_down_and_has_no_size() {
        let folder = tempfile::tempdir().unwrap();
        let door = LedgerDoor::new(Place::folder(folder.path()), PricePlan::default());
        let mut registry = Registry::default();
        door.register(&mut registry);
        let text = || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            text
        };
        assert!(text().contains("dormouse_ledger_up 0.0\n") && !text().contains("store_bytes"), "{}", text());
        let ledger = door.open().await.unwrap();
        let open = text();
        assert!(open.contains("dormouse_ledger_up 1.0\n") && open.contains("dormouse_metering_store_bytes "), "{open}");
        door.counts().frame(Ok(AppendOutcome::Gap));
        door.counts().frame(Err(&AppendError::Closed(String::new())));
        assert!(text().contains("dormouse_ledger_frames_total{outcome=\"gap\"} 1\n"), "{}", text());
        drop(ledger);
        door.close("over");
        assert!(text().contains("dormouse_ledger_up 0.0\n"));
    }
}
