//! How far records are complete, over all activators: every call that came before that moment has its record in the
//! ledger, or is known to have none.
//!
//! Each activator says of itself how far its own are; the least of them counts. One that is not heard any more holds it
//! back at its last word: it may run calls, and its spool may come back. It counts no longer once it has said that it is
//! over, once its spool is known to be lost (what was in it is missing then), or once its place runs another spool.

use crate::shares::Process;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Nothing is said for so long after the start: activators that were there before have to be heard first. They come back
/// within their connect timeout and their longest pause (2 s each), with room for a loaded machine.
pub const HOLD: Duration = Duration::from_secs(10);

/// Most spools. Each takes about 400 B; beyond it nothing is said any more, until a restart.
const MAX_SPOOLS: usize = 1024;

/// How far records are complete. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Through(Arc<Mutex<Table>>);

#[derive(Debug)]
struct Table {
    began: Instant,
    /// By the random id of the spool.
    spools: BTreeMap<u64, Spool>,
    /// There were too many to remember.
    overflowed: bool,
}

#[derive(Debug)]
struct Spool {
    /// The place that its activator runs in.
    name: Arc<str>,
    /// Microseconds since 1970; `None`: it cannot be said.
    through_us: Option<i64>,
}

impl Default for Table {
    fn default() -> Self {
        Self { began: Instant::now(), spools: BTreeMap::new(), overflowed: false }
    }
}

impl Through {
    /// Up to when records are complete, microseconds since 1970; `None` while that cannot be said.
    #[must_use]
    pub fn at_us(&self) -> Option<i64> {
        self.0.lock().at_us()
    }

    /// As if the first time of a controller were over.
    #[cfg(test)]
    pub(crate) fn without_hold(&self) {
        let mut table = self.0.lock();
        table.began = table.began.checked_sub(HOLD).unwrap();
    }

    /// An activator is about to be told routes: from now on it may have calls.
    pub fn expect(&self, process: &Process) {
        self.0.lock().know(process);
    }

    /// An activator says how far its own records are complete (0: it cannot say), or that it is over.
    pub fn say(&self, process: &Process, through_us: i64, over: bool) {
        let mut table = self.0.lock();
        table.know(process);
        if over {
            table.spools.remove(&process.activator);
        } else if let Some(spool) = table.spools.get_mut(&process.activator).filter(|_| through_us > 0) {
            // A restart says nothing until what its former life left is shipped: the last word stays.
            spool.through_us = spool.through_us.max(Some(through_us));
        }
    }

    /// The place of an activator is gone, and its spool with it.
    pub fn lost(&self, name: &str) {
        self.0.lock().spools.retain(|id, spool| {
            let lost = &*spool.name == name;
            if lost {
                tracing::info!(
                    activator = name,
                    id = format!("{id:016x}"),
                    "its spool is gone: what was in it is missing"
                );
            }
            !lost
        });
    }
}

impl Table {
    fn at_us(&self) -> Option<i64> {
        if self.overflowed || self.spools.is_empty() || self.began.elapsed() < HOLD {
            return None;
        }
        // `None` is the least: one that cannot say speaks for all.
        self.spools.values().map(|spool| spool.through_us).min().flatten()
    }

    fn know(&mut self, process: &Process) {
        if self.spools.contains_key(&process.activator) {
            return;
        }
        // Before it was known nothing that came to it was promised to be there: what was said until now stays true.
        let through_us = self.at_us();
        self.spools.retain(|_, spool| spool.name != process.name);
        if self.spools.len() >= MAX_SPOOLS {
            if !std::mem::replace(&mut self.overflowed, true) {
                tracing::error!("more than {MAX_SPOOLS} activators: nobody can say how far records are complete");
            }
            return;
        }
        self.spools.insert(process.activator, Spool { name: process.name.clone(), through_us });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(name: &str, activator: u64, epoch: u32) -> Process {
        Process { name: name.into(), activator, epoch }
    }

    async fn begun() -> Through {
        let through = Through::default();
        tokio::time::advance(HOLD).await;
        through
    }

    #[tokio::test(start_paused = true)]
    async fn the_least_counts_and_nothing_is_said_too_early() {
        let through = Through::default();
        let (a, b) = (process("a", 1, 1), process("b", 2, 1));
        through.say(&a, 50, false);
        assert_eq!(through.at_us(), None, "others may not have come back yet");
        tokio::time::advance(HOLD).await;
        assert_eq!(through.at_us(), Some(50));
        through.expect(&b);
        assert_eq!(through.at_us(), Some(50), "as was said before it was known");
        through.say(&a, 90, false);
        assert_eq!(through.at_us(), Some(50), "b has said nothing");
        through.say(&b, 0, false);
        assert_eq!(through.at_us(), Some(50));
        through.say(&b, 70, false);
        assert_eq!(through.at_us(), Some(70));
        through.say(&b, 60, false);
        assert_eq!(through.at_us(), Some(70), "what was told late says nothing new");
        through.say(&b, 70, true);
        assert_eq!(through.at_us(), Some(90), "it is over, with nothing left");
        through.say(&a, 90, true);
        assert_eq!(through.at_us(), None, "nobody is there to say it");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_not_heard_holds_it_back_until_its_spool_is_back_or_lost() {
        let through = begun().await;
        let (a, b) = (process("a", 1, 1), process("b", 2, 1));
        through.say(&a, 50, false);
        through.say(&b, 50, false);
        through.say(&b, 90, false);
        tokio::time::advance(Duration::from_secs(86_400)).await;
        assert_eq!(through.at_us(), Some(50), "a is silent");
        let again = process("a", 1, 2);
        through.expect(&again);
        through.say(&again, 0, false);
        assert_eq!(through.at_us(), Some(50), "its records of before are not shipped yet");
        through.say(&again, 95, false);
        assert_eq!(through.at_us(), Some(90));
        through.say(&b, 99, false);
        through.lost("b");
        assert_eq!(through.at_us(), Some(95));
        through.expect(&process("a", 3, 1));
        assert_eq!(through.at_us(), Some(95), "another spool in the place of a");
        through.say(&process("a", 3, 1), 97, false);
        assert_eq!(through.at_us(), Some(97));
    }

    #[tokio::test(start_paused = true)]
    async fn too_many_are_said_to_be() {
        let through = begun().await;
        (0..=MAX_SPOOLS as u64).for_each(|id| through.say(&process(&format!("a{id}"), id, 1), 50, false));
        assert_eq!(through.at_us(), None);
    }
}
