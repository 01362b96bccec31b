//! Records that every test means by the same sequence, and what must be found of them.

use dormouse_controller::ledger::{
    Filter, Frame, Granularity, GroupBy, GroupKey, Ledger, Place, RecordsQuery, UsageQuery,
};
use dormouse_core::price::PricePlan;
use dormouse_core::record::{CallRecord, Outcome, Packer, Subject, Timed, Word};
use dormouse_core::usage::UsageSum;
use std::ops::Range;

pub const HOUR_US: i64 = 3_600_000_000;
/// 2026-11-01T00:00:00Z in hours since 1970.
pub const NOVEMBER: u32 = 498_192;

pub fn subject(namespace: &str, name: &str, revision: &str) -> Subject {
    Subject {
        function_uid: format!("uid-{namespace}-{name}"),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        revision: revision.to_owned(),
        tenant: namespace.to_owned(),
        memory_mib: 512,
        cpu_millis: 100,
        instance: format!("i-{name}-{revision}"),
    }
}

pub fn subjects() -> Vec<Subject> {
    vec![subject("shop", "cart", "r1"), subject("shop", "cart", "r2"), subject("blog", "feed", "r1")]
}

/// The record that every test has at a sequence: spread over subjects, hours and outcomes.
pub fn record(seq: u64) -> CallRecord {
    CallRecord {
        subject: (seq % 3) as u32,
        call: seq * 2,
        received_at_us: i64::from(NOVEMBER) * HOUR_US + (seq as i64 / 7) * (HOUR_US / 3) + seq as i64,
        wait_us: 10,
        claim_us: if seq.is_multiple_of(5) { 6_000 } else { 0 },
        connect_us: 3,
        start_us: if seq.is_multiple_of(5) { 40_000 } else { 0 },
        run_us: 1000 * (seq % 50) + 1,
        request_bytes: 100,
        response_bytes: 1000,
        status: 200,
        outcome: Outcome::ALL[(seq % 6) as usize],
        cold: seq.is_multiple_of(5),
        first: false,
        warm_slots: if seq.is_multiple_of(4) { 80 } else { 0 },
        key: if seq.is_multiple_of(9) { seq } else { 0 },
        timed: seq.is_multiple_of(5).then(|| Timed {
            due_us: 1_767_225_600_000_000 + seq as i64,
            schedule: Word::new(if seq.is_multiple_of(10) { b"nightly" } else { b"" }).unwrap(),
            replaced: seq.is_multiple_of(15),
        }),
    }
}

pub fn frame_of(activator: u64, first_seq: u64, records: &[CallRecord], subjects: Vec<Subject>) -> Frame {
    let mut packer = Packer::default();
    for record in records {
        packer.push(record);
    }
    let (count, records) = (packer.count(), packer.finish());
    let crc32c = crc32c::crc32c(&records);
    Frame { activator, epoch: 1, first_seq, count, subjects, records, crc32c, unseen: false }
}

pub fn frame(activator: u64, seqs: Range<u64>) -> Frame {
    let first = seqs.start;
    let records: Vec<_> = seqs.map(record).collect();
    frame_of(activator, first, &records, subjects())
}

pub async fn open(place: &Place) -> Ledger {
    Ledger::open(place.clone(), PricePlan::default()).await.unwrap()
}

pub fn all_hours() -> UsageQuery {
    UsageQuery {
        hours: NOVEMBER..NOVEMBER + 720,
        granularity: Granularity::Hour,
        local: None,
        group_by: GroupBy { function: true, ..GroupBy::default() },
        filter: Filter::default(),
        after: None,
        limit: 10_000,
    }
}

pub fn all_records() -> RecordsQuery {
    RecordsQuery { times_us: 0..i64::MAX, filter: Filter::default(), after: None, limit: 10_000 }
}

/// The sums as they must be, straight from the records.
pub fn expected(seqs: Range<u64>) -> Vec<(String, u32, UsageSum)> {
    let mut sums = std::collections::BTreeMap::<(String, u32), UsageSum>::new();
    for r in seqs.map(record) {
        let s = &subjects()[r.subject as usize];
        let hour = u32::try_from(r.received_at_us / HOUR_US).unwrap();
        let sum = sums.entry((format!("{}/{}", s.namespace, s.name), hour)).or_default();
        sum.add(&r, (s.memory_mib, s.cpu_millis), &[PricePlan::default().metering()]);
    }
    // No instance was kept warm as far as the ledger was told: nothing of it can have been used.
    let bounded = |sum: UsageSum| UsageSum { warm: sum.warm.bounded(), ..sum };
    sums.into_iter().map(|((name, hour), sum)| (name, hour, bounded(sum))).collect()
}

pub async fn found(ledger: &Ledger) -> Vec<(String, u32, UsageSum)> {
    let page = ledger.usage(&all_hours()).await.unwrap();
    assert_eq!(page.next, None);
    let name = |g: &GroupKey| format!("{}/{}", g.namespace.as_ref().unwrap(), g.function.as_ref().unwrap());
    page.rows.into_iter().map(|row| (name(&row.group), row.time.start, row.usage)).collect()
}
