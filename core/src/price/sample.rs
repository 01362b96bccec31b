//! A call for tests.

use crate::record::{CallRecord, Outcome};

/// A call that ran so long in microseconds, on an instance that was there for calls only.
pub(crate) fn record(outcome: Outcome, run_us: u64) -> CallRecord {
    CallRecord {
        subject: 0,
        call: 1,
        received_at_us: 0,
        wait_us: 0,
        claim_us: 0,
        start_us: 0,
        connect_us: 0,
        run_us,
        request_bytes: 0,
        response_bytes: 0,
        status: 200,
        outcome,
        cold: false,
        first: false,
        warm_slots: 0,
        key: 0,
        timed: None,
    }
}
