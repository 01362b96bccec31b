//! The bound of all that the process holds: heads, bodies on their way in both directions, tables.
//!
//! Each buffer has a bound of its own, but the buffers of all connections together, filled by clients and instances that
//! do not read, would be more than a pod has. Counting them one by one would miss what the libraries hold: so the process
//! is asked how much memory it has, and takes no new call while that is too much. Calls that run go on.

use crate::{answer::Refusal, shared::Shared};
use std::{
    fs, io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// How often memory is read: it takes 30 us. Within a tenth of a second a network of 1 GB/s brings 100 MB at most, and
/// only to connections whose buffers (128 KiB each way) are not full.
const LOOK: Duration = Duration::from_millis(100);

/// Memory of the process in bytes.
#[derive(Debug)]
pub(crate) struct Memory {
    /// Most before new calls are refused.
    pub(crate) max: Option<u64>,
    pub(crate) used: AtomicU64,
    over: AtomicBool,
}

impl Memory {
    pub(crate) fn new(max: Option<u64>) -> Self {
        Self { max, used: AtomicU64::new(resident().unwrap_or(0)), over: AtomicBool::new(false) }
    }

    /// Whether there is room for another call.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        if self.over.load(Relaxed) { Err(Refusal::memory()) } else { Ok(()) }
    }

    /// What is used now; true when that has become, or ceased to be, too much.
    fn note(&self, used: u64) -> bool {
        self.used.store(used, Relaxed);
        let was = self.over.load(Relaxed);
        let over = self.max.is_some_and(|max| is_over(used, max, was));
        self.over.store(over, Relaxed);
        over != was
    }
}

/// Too much is more than the bound, and then until a sixteenth of it is free: no flapping at each call that ends.
fn is_over(used: u64, max: u64, was: bool) -> bool {
    used > if was { max - max / 16 } else { max }
}

/// Reads the process's memory until dropped.
pub(crate) async fn watch(shared: Arc<Shared>) {
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let Ok(used) = resident() else { continue };
        if shared.memory.note(used) {
            match shared.memory.check() {
                Ok(()) => tracing::info!(used, "memory is below its bound again: new calls are taken"),
                Err(_) => {
                    tracing::warn!(used, max = shared.memory.max, "memory is over its bound: new calls are refused")
                }
            }
        }
    }
}

/// Bytes of this process that are in memory.
fn resident() -> io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    of_status(&status).ok_or_else(|| io::Error::other("no VmRSS in /proc/self/status"))
}

/// `VmRSS:     4940 kB`
fn of_status(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// What this process should stay below: nine tenths of what its control group (version 2) may have; `None` where that is
/// not bounded. In a container that is the container's memory limit.
#[must_use]
pub fn allowance() -> Option<u64> {
    let group = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = group.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let max = fs::read_to_string(Path::new("/sys/fs/cgroup").join(path).join("memory.max")).ok()?;
    nine_tenths(&max)
}

/// Of `536870912`; `None` of `max`.
fn nine_tenths(max: &str) -> Option<u64> {
    max.trim().parse::<u64>().ok().map(|bytes| bytes / 10 * 9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory() {
        assert!((1 << 20..1 << 40).contains(&resident().unwrap()));
        assert_eq!(of_status("Name:\tx\nVmRSS:\t    4940 kB\nThreads:\t1\n"), Some(4940 * 1024));
        assert_eq!(of_status("Name:\tx\n"), None);
    }

    #[test]
    fn a_bound_is_left_only_with_some_room() {
        assert!(!is_over(1600, 1600, false) && is_over(1601, 1600, false));
        assert!(is_over(1501, 1600, true) && !is_over(1500, 1600, true));
    }

    #[test]
    fn a_change_is_told_once() {
        let memory = Memory::new(Some(1600));
        assert!(memory.note(1601) && !memory.note(1700) && !memory.note(1550));
        assert_eq!(memory.check(), Err(Refusal::memory()));
        assert!(memory.note(1400) && memory.check().is_ok());
        assert!(!Memory::new(None).note(u64::MAX));
    }

    #[test]
    fn a_group_may_be_unbounded() {
        assert_eq!(nine_tenths("536870912\n"), Some(483_183_819));
        assert_eq!(nine_tenths("max\n"), None);
    }
}
