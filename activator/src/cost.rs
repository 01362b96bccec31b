//! What a record costs without a call around it: a door for the bench, which cannot reach the spool otherwise.

use crate::spool::{Spool, SpoolError};
use dormouse_core::record::{CallRecord, Outcome, Subject};
use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

/// Bound of the spool that is written: far above what a bench writes (64 bytes x 10 million records = 640 MB).
const MAX_BYTES: u64 = 4 << 30;

/// Pause between two looks whether the next sync is due, and between two syncs.
const SYNC: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// Takes a place for, intends and writes `records` records from each of `threads` threads into a fresh spool in `folder`,
/// while another thread syncs it each second, as in a running activator; with `every_intent` each intent is written before.
/// Answers how long that took.
///
/// # Errors
/// When the folder cannot be used or the disk fails.
pub fn of_records(folder: &Path, threads: u32, records: u32, every_intent: bool) -> Result<Duration, SpoolError> {
    let mut spool = Spool::open(folder, MAX_BYTES)?;
    if every_intent {
        spool.intend_each();
    }
    let over = AtomicBool::new(false);
    let spool = &spool;
    thread::scope(|scope| {
        let syncer = scope.spawn(|| sync(spool, &over));
        let began = Instant::now();
        let writers: Vec<_> = (0..threads).map(|n| scope.spawn(move || write(spool, n, records))).collect();
        let written: Vec<_> = writers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        let took = began.elapsed();
        over.store(true, Relaxed);
        let synced = syncer.join();
        for result in written {
            result.map_err(|_| io::Error::other("a writer failed"))??;
        }
        synced.map_err(|_| io::Error::other("the sync failed"))?;
        Ok(took)
    })
}

fn sync(spool: &Spool, over: &AtomicBool) {
    let mut last = Instant::now();
    while !over.load(Relaxed) {
        thread::sleep(SYNC.0);
        if last.elapsed() >= SYNC.1 {
            spool.sync();
            last = Instant::now();
        }
    }
}

fn write(spool: &Spool, thread: u32, records: u32) -> Result<(), SpoolError> {
    let subject = Arc::new(Subject {
        function_uid: format!("7b1c5f0e-0000-4000-8000-{thread:012}"),
        namespace: "bench".into(),
        name: format!("function-{thread}"),
        revision: "1".into(),
        tenant: "bench".into(),
        memory_mib: 256,
        cpu_millis: 100,
        instance: format!("0f1c5f0e-0000-4000-8000-{thread:012}"),
    });
    for call in 0..records {
        let record = CallRecord {
            subject: 0,
            call: u64::from(call),
            received_at_us: 1_790_000_000_000_000 + i64::from(call) * 20,
            wait_us: 0,
            claim_us: 0,
            start_us: 0,
            connect_us: 0,
            run_us: 850,
            request_bytes: 0,
            response_bytes: 1024,
            status: 200,
            outcome: Outcome::Ok,
            cold: false,
            first: false,
            warm_slots: 0,
            key: 0,
            timed: None,
        };
        let mut place = spool.reserve()?;
        spool.intend(&mut place, &subject, &CallRecord { run_us: 0, response_bytes: 0, status: 0, ..record })?;
        spool.append(&subject, &record, place)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::Cursor;

    #[test]
    fn every_record_is_in_the_spool() {
        let folder = tempfile::tempdir().unwrap();
        for (every_intent, expected) in [(false, 2000), (true, 4000)] {
            of_records(folder.path(), 2, 1000, every_intent).unwrap();
            let spool = Spool::open(folder.path(), MAX_BYTES).unwrap();
            let (mut cursor, mut count) = (Cursor::default(), 0);
            while let Some(batch) = cursor.next(&spool).unwrap() {
                count += batch.records.len();
            }
            assert_eq!((count, spool.aborted()), (expected, 0));
        }
    }
}
