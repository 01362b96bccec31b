//! Meters the capacity that is kept warm: tells the ledger the time of each warm instance, at least once a minute, until
//! it has it.
//!
//! What is told again is not counted again: the ledger knows up to when each instance was counted, and whether it was kept
//! warm behind that. So nothing is lost while the ledger is away, and a controller that is started anew goes on from there.

use crate::fleet::{FunctionUid, InstanceId};
use crate::ledger::{LedgerDoor, WarmSpan};
use jiff::Timestamp;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap, VecDeque};
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
/// How long the ledger may take for a write, and a stop for what is left.
const PATIENCE: Duration = Duration::from_secs(5);
/// Spans in one write: a few rows each.
const BATCH: usize = 200;
/// Instances that have ended and are not counted yet: about 600 B each with its names, so 60 MB after days without a
/// ledger. Beyond it the oldest are given up, and that is said.
const MAX_ENDED: usize = 100_000;

/// What is kept warm of a function now: all of it.
#[derive(Clone, Debug)]
pub struct Change {
    /// Whose.
    pub function: FunctionUid,
    /// Its instances that are kept warm, each with the beginning of its span.
    pub warm: BTreeMap<InstanceId, WarmSpan>,
    /// When that became so.
    pub at_us: i64,
}

/// What is open and what waits for the ledger.
#[derive(Debug, Default)]
struct Meter {
    open: HashMap<FunctionUid, BTreeMap<InstanceId, WarmSpan>>,
    ended: VecDeque<WarmSpan>,
    /// How many have left `ended`, told or given up.
    left: u64,
    /// Grows as instances begin to be kept warm.
    begun: u64,
    /// What of `begun` was told.
    told: u64,
}

/// What the ledger is told at once.
struct Telling {
    spans: Vec<WarmSpan>,
    /// Everything that had ended by then.
    ended: u64,
    begun: u64,
    open: Vec<(FunctionUid, InstanceId)>,
    to_us: i64,
}

impl Meter {
    fn see(&mut self, change: Change) {
        let before = self.open.remove(&change.function).unwrap_or_default();
        let mut now = change.warm;
        for (id, span) in before {
            match now.get_mut(&id) {
                // It goes on; what was told of it stays told.
                Some(open) if open.subject.tenant == span.subject.tenant => *open = span,
                // Somebody else pays from now on.
                Some(_) => self.end(WarmSpan { to_us: change.at_us, open: false, ..span }),
                None => self.end(WarmSpan { to_us: change.at_us, open: false, ..span }),
            }
        }
        if !now.is_empty() {
            self.begun += 1;
            self.open.insert(change.function, now);
        }
    }

    fn end(&mut self, span: WarmSpan) {
        if self.ended.len() >= MAX_ENDED {
            self.ended.pop_front();
            self.left += 1;
            tracing::error!("the ledger was away for too long: warm time of an instance is not billed");
        }
        self.ended.push_back(span);
    }

    /// What is to be told: everything that ended, and what is open up to now.
    fn telling(&self, to_us: i64) -> Telling {
        let mut spans: Vec<WarmSpan> = self.ended.iter().cloned().collect();
        let mut open = Vec::new();
        for (function, instances) in &self.open {
            for (id, span) in instances.iter().filter(|(_, span)| span.from_us < to_us) {
                spans.push(WarmSpan { to_us, ..span.clone() });
                open.push((function.clone(), id.clone()));
            }
        }
        Telling { spans, ended: self.left + self.ended.len() as u64, begun: self.begun, open, to_us }
    }

    /// The ledger has it.
    fn told(&mut self, telling: &Telling) {
        while self.left < telling.ended && self.ended.pop_front().is_some() {
            self.left += 1;
        }
        self.told = telling.begun;
        for (function, id) in &telling.open {
            if let Some(span) = self.open.get_mut(function).and_then(|instances| instances.get_mut(id)) {
                span.from_us = span.from_us.max(telling.to_us);
                span.resumes = false;
            }
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
                (meter.is_empty(), meter.begun != meter.told || !meter.ended.is_empty())
            };
            // What has begun or is over is told soon: the bill shows it, and a controller that ends here loses little.
            let due = if soon { tick.min(Instant::now() + GATHER) } else { tick }.max(closed_until);
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.changed.notified() => {}
                () = tokio::time::sleep_until(due), if !idle => {
                    // What was counted, and not heard to be, is told again.
                    match stop.run_until_cancelled(self.tell(&ledger, now_us())).await {
                        Some(true) => tick = Instant::now() + TICK,
                        _ => closed_until = Instant::now() + PAUSE,
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

    /// Tells the ledger; false when it did not take all of it in time.
    async fn tell(&self, ledger: &LedgerDoor, now_us: i64) -> bool {
        let Ok(ledger) = ledger.ledger() else { return self.meter.lock().is_empty() };
        let telling = self.meter.lock().telling(now_us);
        for some in telling.spans.chunks(BATCH) {
            match tokio::time::timeout(PATIENCE, ledger.keep_warm(some.to_vec())).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::debug!(%error, "warm time waits");
                    return false;
                }
                Err(_) => {
                    tracing::debug!("warm time waits: the ledger does not answer");
                    return false;
                }
            }
        }
        self.meter.lock().told(&telling);
        true
    }
}

fn now_us() -> i64 {
    Timestamp::now().as_microsecond()
}

#[cfg(test)]
mod tests {
    use super::*;
    use dormouse_core::record::Subject;

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
        let span = |id, from_us| WarmSpan { subject: subject(id), resumes: true, open: true, from_us, to_us: from_us };
        let warm = warm.iter().map(|(id, from_us)| (InstanceId::from(*id), span(id, *from_us))).collect();
        Change { function: FunctionUid::from("f"), warm, at_us }
    }

    fn spans(telling: &Telling) -> Vec<(String, i64, i64)> {
        telling.spans.iter().map(|s| (s.subject.instance.clone(), s.from_us, s.to_us)).collect()
    }

    fn span(id: &str, from: i64, to: i64) -> (String, i64, i64) {
        (id.to_owned(), from, to)
    }

    #[test]
    fn an_instance_is_metered_from_when_it_is_ready_until_it_is_not_kept_any_more() {
        let mut meter = Meter::default();
        meter.see(change(&[("a", 10)], 10));
        meter.see(change(&[("a", 10), ("b", 20)], 20));
        let first = meter.telling(30);
        assert_eq!(spans(&first), [span("a", 10, 30), span("b", 20, 30)]);
        assert!(first.spans.iter().all(|span| span.resumes));
        meter.told(&first);
        meter.see(change(&[("b", 20)], 45));
        let second = meter.telling(50);
        assert_eq!(spans(&second), [span("a", 30, 45), span("b", 30, 50)], "each part once");
        assert!(second.spans.iter().all(|span| !span.resumes), "what was told goes on from there");
        meter.told(&second);
        meter.see(change(&[], 60));
        let third = meter.telling(70);
        assert_eq!(spans(&third), [span("b", 50, 60)]);
        meter.told(&third);
        assert!(meter.is_empty());
    }

    #[test]
    fn another_tenant_pays_from_when_it_does() {
        let mut meter = Meter::default();
        meter.see(change(&[("a", 10)], 10));
        let first = meter.telling(30);
        meter.told(&first);
        let mut other = change(&[("a", 40)], 40);
        other.warm.values_mut().for_each(|span| span.subject.tenant = "team".to_owned());
        meter.see(other);
        let second = meter.telling(50);
        assert_eq!(spans(&second), [span("a", 30, 40), span("a", 40, 50)]);
        let payers: Vec<_> = second.spans.iter().map(|s| (s.subject.tenant.as_str(), s.open)).collect();
        assert_eq!(payers, [("shop", false), ("team", true)]);
    }

    #[test]
    fn what_was_not_told_is_told_whole_later() {
        let mut meter = Meter::default();
        meter.see(change(&[("a", 10)], 10));
        let first = spans(&meter.telling(70));
        meter.see(change(&[], 100));
        let second = spans(&meter.telling(200));
        assert_eq!((first, second), (vec![span("a", 10, 70)], vec![span("a", 10, 100)]));
    }

    #[test]
    fn what_comes_while_the_ledger_is_told_is_told_next() {
        let mut meter = Meter::default();
        meter.see(change(&[("a", 10)], 10));
        let under_way = meter.telling(30);
        meter.see(change(&[("b", 20)], 20));
        meter.told(&under_way);
        assert_ne!(meter.begun, meter.told, "soon");
        assert_eq!(spans(&meter.telling(40)), [span("a", 10, 20), span("b", 20, 40)]);
    }
}
