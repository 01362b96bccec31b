//! Calls for tests, and frames of them.

use crate::ledger::Frame;
use dormouse_core::record::{CallRecord, Outcome, Packer, Subject};

/// A function of a tenant in a namespace, with 512 MiB and a tenth of a cpu.
pub(crate) fn subject(tenant: &str, namespace: &str, name: &str) -> Subject {
    Subject {
        function_uid: format!("uid-{name}"),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        revision: "r1".to_owned(),
        tenant: tenant.to_owned(),
        memory_mib: 512,
        cpu_millis: 100,
        instance: format!("i-{name}"),
    }
}

/// A warm call of 100 ms that went well; bodies of 1 byte in and 2 out.
pub(crate) fn call(call: u64, received_at_us: i64) -> CallRecord {
    CallRecord {
        subject: 0,
        call,
        received_at_us,
        wait_us: 0,
        claim_us: 0,
        start_us: 0,
        connect_us: 0,
        run_us: 100_000,
        request_bytes: 1,
        response_bytes: 2,
        status: 200,
        outcome: Outcome::Ok,
        cold: false,
        first: false,
        warm_slots: 0,
        key: 0,
        timed: None,
    }
}

/// The first frame of an activator's epoch.
pub(crate) fn frame(
    (activator, epoch): (u64, u32),
    subjects: Vec<Subject>,
    calls: impl IntoIterator<Item = CallRecord>,
) -> Frame {
    let mut packer = Packer::default();
    calls.into_iter().for_each(|call| packer.push(&call));
    let (count, records) = (packer.count(), packer.finish());
    let crc32c = crc32c::crc32c(&records);
    Frame { activator, epoch, first_seq: 1, count, subjects, records, crc32c, unseen: false }
}
