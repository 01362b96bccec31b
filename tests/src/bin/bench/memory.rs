//! Memory of a process, as it stands and while something goes on.

use anyhow::Result;
use dormouse_tests::proc::memory;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Pause between two looks at a process.
const PAUSE: Duration = Duration::from_millis(10);

/// Time in which a process that has nothing to do comes to rest.
pub(crate) const SETTLE: Duration = Duration::from_secs(2);

/// KiB as MiB.
#[expect(clippy::cast_precision_loss, reason = "memory in KiB is far below 2^53")]
pub(crate) fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

/// KiB resident of a process once it has come to rest.
pub(crate) async fn at_rest(pid: u32) -> Result<u64> {
    tokio::time::sleep(SETTLE).await;
    Ok(memory(pid)?.resident)
}

/// Least and most KiB resident, and how often that was looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    pub(crate) least: u64,
    pub(crate) most: u64,
    pub(crate) looks: u64,
}

/// Looks at a process in a thread of its own until it is asked.
pub(crate) struct Watch {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Result<Range>>,
}

impl Watch {
    pub(crate) fn begin(pid: u32) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let ended = over.clone();
        let thread = std::thread::spawn(move || {
            let mut range = Range { least: u64::MAX, most: 0, looks: 0 };
            while !ended.load(Ordering::Relaxed) {
                let now = memory(pid)?.resident;
                range = Range { least: range.least.min(now), most: range.most.max(now), looks: range.looks + 1 };
                std::thread::sleep(PAUSE);
            }
            Ok(range)
        });
        Self { over, thread }
    }

    /// What was seen.
    pub(crate) fn end(self) -> Result<Range> {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the thread that looks failed"))?
    }
}
