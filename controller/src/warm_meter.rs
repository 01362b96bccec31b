//! Meters the capacity that is kept warm: tells the ledger the time of each warm instance, at least once a minute, until
//! it has it.
//!
//! What is told again is not counted again: the ledger knows up to when each instance was counted. So nothing is lost
//! while the ledger is away, and a controller that is started anew goes on from the start of the instance's process.

use crate::fleet::{FunctionUid, InstanceId};
use crate::ledger::{LedgerDoor, WarmSpan};
use dormouse_core::record::Subject;
use jiff::Timestamp;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often the time of instances that go on is told: what a bill shows is at most this old.
const TICK: Duration = Duration::from_secs(60);
/// What has begun or is over waits that long for others that do as well.
const GATHER: Duration = Duration::from_secs(1);
/// Pause after the ledger did not take it.
const PAUSE: Duration = Duration::from_secs(5);
/// Spans in one write: a row of three levels each, far below what a transaction holds.
const BATCH: usize = 1_000;
/// Instances that have ended and are not counted yet: about 600 B each with its names, so 60 MB after days without a
/// ledger. Beyond it the oldest are given up, and that is said.
const MAX_ENDED: usize = 100_000;

/// What is kept warm of a function now: all of it.
#[derive(Clone, Debug)]
pub struct Change {
    /// Whose.
    pub function: FunctionUid,
    /// Its instances that are kept warm, and since when, microseconds since 1970 UTC.
    pub warm: BTreeMap<InstanceId, (Subject, i64)>,
    /// When that became so.
    pub at_us: i64,
}

/// What is open and what waits for the ledger.
#[derive(Debug, Default)]
struct Meter {
    open: HashMap<FunctionUid, BTreeMap<InstanceId, (Subject, i64)>>,
    ended: Vec<WarmSpan>,
    /// Some are open of which nothing was told.
    begun: bool,
}

impl Meter {
    fn see(&mut self, change: Change) {
        let before = self.open.remove(&change.function).unwrap_or_default();
        let mut now = change.warm;
        for (id, (subject, from_us)) in before {
            match now.get_mut(&id) {
                // It goes on; what was told of it stays told.
                Some(open) => open.1 = from_us,
                None => self.end(WarmSpan { subject, from_us, to_us: change.at_us }),
            }
        }
        if !now.is_empty() {
            self.begun = true;
            self.open.insert(change.function, now);
        }
    }

    fn end(&mut self, span: WarmSpan) {
        if span.from_us >= span.to_us {
            return;
        }
        if self.ended.len() >= MAX_ENDED {
            self.ended.remove(0);
            tracing::error!("the ledger was away for too long: warm time of an instance is not billed");
        }
        self.ended.push(span);
    }

    /// What is to be told: everything that ended, and what is open up to now.
    fn spans(&self, now_us: i64) -> Vec<WarmSpan> {
        let open = self.open.values().flat_map(BTreeMap::values);
        let open =
            open.map(|(subject, from_us)| WarmSpan { subject: subject.clone(), from_us: *from_us, to_us: now_us });
        self.ended.iter().cloned().chain(open).filter(|span| span.from_us < span.to_us).collect()
    }

    /// The ledger has everything up to then. What has ended since is behind the `ended` that it was told.
    fn told(&mut self, ended: usize, now_us: i64) {
        self.ended.drain(..ended.min(self.ended.len()));
        self.begun = false;
        for (_, from_us) in self.open.values_mut().flat_map(BTreeMap::values_mut) {
            *from_us = (*from_us).max(now_us);
        }
    }

    fn is_empty(&self) -> bool {
        self.open.is_empty() && self.ended.is_empty()
    }
}

/// What is kept warm, as the office sees it and the ledger is told. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct WarmMeter {
    meter: Arc<Mutex<Meter>>,
    /// What is kept warm has changed.
    changed: Arc<Notify>,
}

impl WarmMeter {
    /// What of a function is kept warm has changed.
    pub fn see(&self, change: Change) {
        self.meter.lock().see(change);
        self.changed.notify_one();
    }

    /// Tells the ledger until it is stopped, and then once more. While nothing is warm there is no timer.
    pub async fn run(self, ledger: LedgerDoor, stop: CancellationToken) {
        let mut tick = Instant::now() + TICK;
        // Not before that: the ledger did not take it.
        let mut closed_until = Instant::now();
        loop {
            let (idle, soon) = {
                let meter = self.meter.lock();
                (meter.is_empty(), meter.begun || !meter.ended.is_empty())
            };
            // What has begun or is over is told soon: the bill shows it, and a controller that ends here loses little.
            let due = if soon { tick.min(Instant::now() + GATHER) } else { tick }.max(closed_until);
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.changed.notified() => {}
                () = tokio::time::sleep_until(due), if !idle => {
                    if self.tell(&ledger, now_us()).await {
                        tick = Instant::now() + TICK;
                    } else {
                        closed_until = Instant::now() + PAUSE;
                    }
                }
            }
            if idle {
                tick = Instant::now() + TICK;
            }
        }
        if !self.tell(&ledger, now_us()).await {
            tracing::warn!(
                "the last warm time was not told to the ledger: the next controller goes on from what it has"
            );
        }
    }

    /// Tells the ledger; false when it did not take all of it.
    async fn tell(&self, ledger: &LedgerDoor, now_us: i64) -> bool {
        let (spans, ended) = {
            let meter = self.meter.lock();
            (meter.spans(now_us), meter.ended.len())
        };
        if spans.is_empty() {
            return true;
        }
        let Ok(ledger) = ledger.ledger() else { return false };
        for some in spans.chunks(BATCH) {
            if let Err(error) = ledger.keep_warm(some.to_vec()).await {
                tracing::debug!(%error, "warm time waits");
                return false;
            }
        }
        self.meter.lock().told(ended, now_us);
        true
    }
}

fn now_us() -> i64 {
    Timestamp::now().as_microsecond()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(instance: &str) -> Subject {
        let text = |text: &str| text.to_owned();
        Subject {
            function_uid: text("f"),
            namespace: text("shop"),
            name: text("cart"),
            revision: text("r1"),
            tenant: text("shop"),
            memory_mib: 512,
            cpu_millis: 100,
            instance: text(instance),
        }
    }

    fn change(warm: &[(&str, i64)], at_us: i64) -> Change {
        let warm = warm.iter().map(|(id, since)| (InstanceId::from(*id), (subject(id), *since))).collect();
        Change { function: FunctionUid::from("f"), warm, at_us }
    }

    fn spans(meter: &Meter, now_us: i64) -> Vec<(String, i64, i64)> {
        meter.spans(now_us).into_iter().map(|s| (s.subject.instance, s.from_us, s.to_us)).collect()
    }

    fn span(id: &str, from: i64, to: i64) -> (String, i64, i64) {
        (id.to_owned(), from, to)
    }

    #[test]
    fn an_instance_is_metered_from_when_it_is_ready_until_it_is_not_kept_any_more() {
        let mut meter = Meter::default();
        meter.see(change(&[("a", 10)], 10));
        meter.see(change(&[("a", 10), ("b", 20)], 20));
        assert_eq!(spans(&meter, 30), [span("a", 10, 30), span("b", 20, 30)]);
        meter.told(0, 30);
        meter.see(change(&[("b", 20)], 45));
        assert_eq!(spans(&meter, 50), [span("a", 30, 45), span("b", 30, 50)], "each part once");
        meter.told(1, 50);
        meter.see(change(&[], 60));
        assert_eq!(spans(&meter, 70), [span("b", 50, 60)]);
        meter.told(1, 70);
        assert!(meter.is_empty());
    }

    #[test]
    fn what_was_not_told_is_told_whole_later() {
        let mut meter = Meter::default();
        meter.see(change(&[("a", 10)], 10));
        let first = spans(&meter, 70);
        meter.see(change(&[], 100));
        assert_eq!((first, spans(&meter, 200)), (vec![span("a", 10, 70)], vec![span("a", 10, 100)]));
    }
}
