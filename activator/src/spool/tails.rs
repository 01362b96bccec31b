//! The end of a former life's epoch, made of its intents: the calls that it had dispatched and not recorded.
//!
//! They get the epoch's next numbers, not those of the life that finds them: a call's number, and so the request id that
//! its caller and the function's own log may have, is one within its epoch. And the ledger can tell then whether the log
//! that they were made of was whole. After the end of a process it is: everything that was shipped is in it. After the end
//! of the power it need not be: records may be in the ledger that are lost here, and intents of the same calls are not. The
//! ledger then has numbers that a tail claims. So a tail is applied only where the ledger has none of them, and is given up
//! otherwise: no call has two records, and what is lost with that is only an explanation of calls that are billed 0.
//! (The same is seen when an answer to the tail itself was lost: then the ledger has it.)

use super::{Batch, Segment, Spool};
use std::{fs, sync::atomic::Ordering::Relaxed};

impl Spool {
    /// The ledger has an epoch up to `watermark`: that is its answer to this batch, which it may have refused as a gap. A
    /// tail of that epoch whose numbers are others' is given up. True: there was one.
    pub(crate) fn judge_tail(&self, batch: &Batch, watermark: u64, refused: bool) -> bool {
        let is_taken = |s: &Segment| {
            s.of() == (batch.activator, batch.epoch) && s.header.aborted && s.header.first_seq <= watermark
        };
        // One that was just applied, or is being, has its own numbers.
        if batch.aborted && !(refused && batch.first_seq <= watermark) {
            return false;
        }
        let mut log = self.log.lock();
        let Some(at) = log.segments.iter().position(is_taken) else { return false };
        let Some(tail) = log.segments.remove(at) else { return false };
        drop(log);
        self.room.used.fetch_sub(tail.bytes, Relaxed);
        let calls = tail.count;
        tracing::warn!(
            calls,
            watermark,
            "calls that a former life did not end stay unexplained: the ledger has more of it"
        );
        if let Err(e) = fs::remove_file(&tail.path) {
            tracing::warn!(path = %tail.path.display(), "a tail that was given up stays: {e}");
        }
        true
    }
}
