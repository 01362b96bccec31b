//! The ledger as a whole: data in, expected out, on a real folder.

use super::*;
use dormouse_core::record::{CallRecord, Outcome, Packer, Subject};
use proptest::prelude::*;
use std::ops::Range;

const HOUR_US: i64 = 3_600_000_000;
/// 2026-11-01T00:00:00Z in hours since 1970.
const NOVEMBER: u32 = 498_192;

fn subject(namespace: &str, name: &str, revision: &str) -> Subject {
    Subject {
        function_uid: format!("uid-{namespace}-{name}"),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        revision: revision.to_owned(),
        tenant: namespace.to_owned(),
        memory_mib: 512,
        cpu_millis: 100,
    }
}

fn subjects() -> Vec<Subject> {
    vec![subject("shop", "cart", "r1"), subject("shop", "cart", "r2"), subject("blog", "feed", "r1")]
}

/// The record that every test has at a sequence: spread over subjects, hours and outcomes.
fn record(seq: u64) -> CallRecord {
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
    }
}

fn frame_of(activator: u64, first_seq: u64, records: &[CallRecord], subjects: Vec<Subject>) -> Frame {
    let mut packer = Packer::default();
    for record in records {
        packer.push(record);
    }
    let (count, records) = (packer.count(), packer.finish());
    let crc32c = crc32c::crc32c(&records);
    Frame { activator, epoch: 1, first_seq, count, subjects, records, crc32c }
}

fn frame(activator: u64, seqs: Range<u64>) -> Frame {
    let first = seqs.start;
    let records: Vec<_> = seqs.map(record).collect();
    frame_of(activator, first, &records, subjects())
}

fn open(dir: &Path) -> Ledger {
    Ledger::open(dir, PricePlan::default()).unwrap()
}

fn all_hours() -> UsageQuery {
    UsageQuery {
        hours: NOVEMBER..NOVEMBER + 720,
        granularity: Granularity::Hour,
        group_by: GroupBy { function: true, ..GroupBy::default() },
        filter: Filter::default(),
        after: None,
        limit: 10_000,
    }
}

fn all_records() -> RecordsQuery {
    RecordsQuery { times_us: 0..i64::MAX, filter: Filter::default(), after: None, limit: 10_000 }
}

/// The sums as they must be, straight from the records.
fn expected(seqs: Range<u64>) -> Vec<(String, u32, UsageSum)> {
    let mut sums = std::collections::BTreeMap::<(String, u32), UsageSum>::new();
    for r in seqs.map(record) {
        let s = &subjects()[r.subject as usize];
        let hour = u32::try_from(r.received_at_us / HOUR_US).unwrap();
        let sum = sums.entry((format!("{}/{}", s.namespace, s.name), hour)).or_default();
        sum.add(&r, s.memory_mib, &PricePlan::default().metering());
    }
    sums.into_iter().map(|((name, hour), sum)| (name, hour, sum)).collect()
}

fn found(ledger: &Ledger) -> Vec<(String, u32, UsageSum)> {
    let page = ledger.usage(&all_hours()).unwrap();
    assert_eq!(page.next, None);
    let name = |g: &GroupKey| format!("{}/{}", g.namespace.as_ref().unwrap(), g.function.as_ref().unwrap());
    page.rows.into_iter().map(|row| (name(&row.group), row.hours.start, row.usage)).collect()
}

#[tokio::test]
async fn a_frame_is_applied_once_and_a_gap_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let told = |watermark, outcome| Ok(Appended { watermark, outcome });
    assert_eq!(ledger.append(frame(1, 1..11)).await, told(10, AppendOutcome::Applied));
    assert_eq!(ledger.append(frame(1, 1..11)).await, told(10, AppendOutcome::Duplicate));
    assert_eq!(ledger.append(frame(1, 12..20)).await, told(10, AppendOutcome::Gap));
    assert_eq!(ledger.append(frame(1, 5..21)).await, told(20, AppendOutcome::Applied));
    assert_eq!(ledger.append(frame(2, 2..3)).await, told(0, AppendOutcome::Gap));
    let other_epoch = Frame { epoch: 2, ..frame(1, 1..4) };
    assert_eq!(ledger.append(other_epoch).await, told(3, AppendOutcome::Applied));
    let check = ledger.verify().await.unwrap();
    assert!(check.holds(), "{check:?}");
    assert_eq!((check.by_record, check.epochs), (23, 2));
}

#[tokio::test]
async fn a_damaged_frame_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let good = frame(1, 1..5);
    let mut flipped = good.clone();
    flipped.records[7] ^= 4;
    let mut named = good.clone();
    named.subjects[0].tenant = String::new();
    let mut long = good.clone();
    long.subjects[1].revision = "r".repeat(254);
    let lying = |count| Frame { count, ..good.clone() };
    let bad = [
        (flipped, "checksum"),
        (lying(0), "0 records"),
        (lying(3), "follow the last"),
        (lying(5), "end early"),
        (lying(MAX_FRAME_RECORDS + 1), "expected 1 to"),
        (Frame { first_seq: 0, ..good.clone() }, "sequence"),
        (Frame { first_seq: u64::MAX, ..good.clone() }, "sequence"),
        (Frame { subjects: subjects()[..1].to_vec(), ..good.clone() }, "names subject"),
        (named, "1 to 253"),
        (long, "1 to 253"),
    ];
    for (frame, why) in bad {
        let error = ledger.append(frame).await.unwrap_err();
        assert!(matches!(&error, AppendError::BadFrame(text) if text.contains(why)), "{error} lacks {why:?}");
    }
    assert_eq!(ledger.append(good).await.map(|a| a.watermark), Ok(4));
    assert_eq!(ledger.verify().await.unwrap().by_record, 4);
}

#[tokio::test]
async fn it_reopens_with_everything_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    ledger.append(frame(1, 1..400)).await.unwrap();
    drop(ledger);
    let ledger = open(dir.path());
    assert_eq!(found(&ledger), expected(1..400));
    ledger.append(frame(1, 300..2_001)).await.unwrap();
    drop(ledger);
    let ledger = open(dir.path());
    assert_eq!(found(&ledger), expected(1..2_001));
    assert!(ledger.verify().await.unwrap().holds());
    assert_eq!(ledger.health().problem, None);
    // Subjects and functions were not numbered twice.
    assert_eq!(dict::functions(&ledger.inner.store).count(), 2);
    assert_eq!(ledger.inner.store.last_number(&key::Dictionary::Subject.all()).unwrap(), Some(2));
}

#[tokio::test]
async fn a_second_opener_is_told_the_file_and_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let error = Ledger::open(dir.path(), PricePlan::default()).unwrap_err().to_string();
    let file = dir.path().join("sled").join("db");
    assert!(error.contains(&file.display().to_string()), "{error}");
    assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
    drop(ledger);
    open(dir.path());
}

#[test]
fn a_former_format_is_read_and_becomes_the_present_one() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let (file, sled) = (dir.path().join("FORMAT"), dir.path().join("sled"));
    let present = std::fs::read(&file).unwrap();
    std::fs::write(&file, "dormouse-ledger 1\n").unwrap();
    let db = sled::open(&sled).unwrap();
    let number = db.insert(key::FORMAT, &1u32.to_be_bytes()).unwrap();
    drop(db);
    drop(open(dir.path()));
    assert_eq!(std::fs::read(&file).unwrap(), present);
    assert_eq!(sled::open(&sled).unwrap().get(key::FORMAT).unwrap(), number);
}

#[test]
fn a_newer_format_and_strange_folders_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    std::fs::write(dir.path().join("FORMAT"), "dormouse-ledger 3\n").unwrap();
    let before = std::fs::metadata(dir.path().join("sled/db")).unwrap().modified().unwrap();
    let error = Ledger::open(dir.path(), PricePlan::default()).unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 3, .. }), "{error}");
    assert_eq!(std::fs::metadata(dir.path().join("sled/db")).unwrap().modified().unwrap(), before);

    // The key inside counts as well, in case the file was replaced.
    std::fs::remove_file(dir.path().join("FORMAT")).unwrap();
    let db = sled::open(dir.path().join("sled")).unwrap();
    db.insert(key::FORMAT, &7u32.to_be_bytes()).unwrap();
    drop(db);
    let error = Ledger::open(dir.path(), PricePlan::default()).unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 7, .. }), "{error}");

    let foreign = tempfile::tempdir().unwrap();
    drop(sled::open(foreign.path()).unwrap());
    let error = Ledger::open(foreign.path(), PricePlan::default()).unwrap_err();
    assert!(matches!(error, OpenError::NotALedger { .. }), "{error}");
    let file = foreign.path().join("conf").join("x");
    let error = Ledger::open(&file, PricePlan::default()).unwrap_err().to_string();
    assert!(error.contains("conf"), "{error}");
}

#[test]
fn damage_becomes_an_error_that_names_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let conf = dir.path().join("sled").join("conf");
    std::fs::write(&conf, [0xff; 64]).unwrap();
    let error = Ledger::open(dir.path(), PricePlan::default()).unwrap_err().to_string();
    assert!(error.contains(&dir.path().display().to_string()) && error.contains("copy"), "{error}");
}

#[tokio::test]
async fn a_file_outside_the_log_makes_it_not_ready() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    std::fs::write(dir.path().join("sled/blobs/1"), "x").unwrap();
    assert!(ledger.health().problem.unwrap().contains("blobs"));
}

#[tokio::test]
async fn records_page_through_without_a_hole_or_a_double() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    for activator in 1..4 {
        ledger.append(frame(activator, 1..1_001)).await.unwrap();
    }
    let all = ledger.records(&all_records()).unwrap();
    assert_eq!((all.rows.len(), all.next), (3_000, None));
    assert!(all.rows.is_sorted_by(|a, b| a.key < b.key));
    let row = all.rows.iter().find(|r| r.key.activator == 2 && r.key.seq == 77).unwrap();
    assert_eq!(row.request_id.to_string(), "0000000000000002-1-9a");
    assert_eq!(row.subject, subjects()[77 % 3]);
    assert_eq!(CallRecord { subject: 77 % 3, ..row.record }, record(77));
    let mut paged = Vec::new();
    let mut query = RecordsQuery { limit: 7, ..all_records() };
    loop {
        let page = ledger.records(&query).unwrap();
        assert!(page.rows.len() <= 7);
        paged.extend(page.rows);
        query.after = page.next;
        if query.after.is_none() {
            break;
        }
    }
    assert_eq!(paged, all.rows);
    let filter = Filter { functions: vec!["blog/feed".into()], ..Filter::default() };
    assert_eq!(ledger.records(&RecordsQuery { filter, ..all_records() }).unwrap().rows.len(), 999);
    let filter = Filter { functions: vec!["nobody".into()], ..Filter::default() };
    assert_eq!(ledger.records(&RecordsQuery { filter, ..all_records() }).unwrap().rows, []);
    let times_us = record(10).received_at_us..record(20).received_at_us;
    let some = ledger.records(&RecordsQuery { times_us, ..all_records() }).unwrap();
    let mut seqs: Vec<_> = some.rows.iter().map(|r| r.key.seq).collect();
    seqs.sort_unstable();
    seqs.dedup();
    assert_eq!(seqs, (10..20).collect::<Vec<_>>());
}

#[tokio::test]
async fn usage_pages_and_grains_add_up() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    ledger.append(frame(1, 1..3_001)).await.unwrap();
    let whole = ledger.tenant_usage("shop", NOVEMBER..NOVEMBER + 720).unwrap();
    for granularity in [Granularity::Hour, Granularity::Day, Granularity::Month, Granularity::Total] {
        for group_by in [GroupBy { function: true, tenant: true, ..GroupBy::default() }, GroupBy::default()] {
            let filter = Filter { tenants: vec!["shop".into()], ..Filter::default() };
            let mut query = UsageQuery { granularity, group_by, filter, limit: 3, ..all_hours() };
            let (mut sum, mut keys) = (UsageSum::default(), Vec::new());
            loop {
                let page = ledger.usage(&query).unwrap();
                for row in &page.rows {
                    sum.merge(&row.usage);
                    keys.push((row.group.clone(), row.hours.start));
                }
                query.after = page.next;
                if query.after.is_none() {
                    break;
                }
            }
            assert_eq!(sum, whole, "{granularity:?}");
            assert!(keys.is_sorted_by(|a, b| a < b), "{granularity:?}");
        }
    }
    assert_eq!(whole.calls(), 2_000);
    assert!(matches!(ledger.tenant_usage("nobody", 0..1), Err(ReadError::UnknownTenant(_))));
}

#[tokio::test]
async fn a_changed_plan_keeps_what_was_metered() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    ledger.append(frame(1, 1..7)).await.unwrap();
    drop(ledger);
    let plan = PricePlan { step_ms: 100, ..PricePlan::default() };
    let ledger = Ledger::open(dir.path(), plan.clone()).unwrap();
    ledger.append(frame(1, 7..13)).await.unwrap();
    let mut sum = UsageSum::default();
    for seq in 1..13 {
        let metering = if seq < 7 { PricePlan::default().metering() } else { plan.metering() };
        sum.add(&record(seq), 512, &metering);
    }
    let query = UsageQuery { granularity: Granularity::Total, group_by: GroupBy::default(), ..all_hours() };
    assert_eq!(ledger.usage(&query).unwrap().rows[0].usage, sum);
    let rows = ledger.records(&all_records()).unwrap().rows;
    assert_eq!(rows.iter().map(|r| r.metering.step_ms).collect::<Vec<_>>(), [[1; 6], [100; 6]].concat());
}

#[tokio::test]
async fn a_failed_ledger_takes_nothing_and_the_door_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let door = LedgerDoor::new(dir.path(), PricePlan::default(), Filesystem::Checked);
    assert!(door.ledger().unwrap_err().contains("not open"));
    let ledger = door.open().unwrap();
    // A stored watermark that is no number makes the writer stop, as a failed write would.
    let epoch = key::EpochId { activator: 9, epoch: 1 };
    ledger.inner.store.db.insert(epoch.watermark(), b"x").unwrap();
    let error = ledger.append(frame(9, 1..3)).await.unwrap_err();
    assert!(matches!(&error, AppendError::Closed(_)), "{error}");
    ledger.failed().await;
    assert!(ledger.append(frame(1, 1..3)).await.is_err());
    assert!(ledger.health().problem.unwrap().contains("damaged"));
    assert!(door.problem().unwrap().contains("damaged"));
}

#[tokio::test]
async fn many_at_once_are_all_applied() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let tasks: Vec<_> = (0..8u64)
        .map(|activator| {
            let ledger = ledger.clone();
            tokio::spawn(async move {
                for part in 0..20 {
                    let first = 1 + part * 100;
                    let appended = ledger.append(frame(activator, first..first + 100)).await.unwrap();
                    assert_eq!(appended, Appended { watermark: first + 99, outcome: AppendOutcome::Applied });
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let check = ledger.verify().await.unwrap();
    assert!(check.holds(), "{check:?}");
    assert_eq!(check.by_record, 16_000);
}

#[tokio::test]
async fn small_frames_share_blocks_and_no_page_loses_one() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let mut query = RecordsQuery { limit: 5, ..all_records() };
    let mut seen = Vec::new();
    for seq in 1..201 {
        ledger.append(frame(1, seq..seq + 1)).await.unwrap();
        if seq % 3 == 0 {
            // Paging goes on while blocks grow.
            let page = ledger.records(&query).unwrap();
            seen.extend(page.rows.iter().map(|r| r.key.seq));
            query.after = page.rows.last().map(|r| r.key).or(query.after);
        }
    }
    while let Some(last) = ledger.records(&query).unwrap().rows.last().map(|r| r.key) {
        seen.extend(ledger.records(&query).unwrap().rows.iter().map(|r| r.key.seq));
        query.after = Some(last);
    }
    assert_eq!(seen, (1..201).collect::<Vec<_>>());
    let check = ledger.verify().await.unwrap();
    assert!(check.holds() && check.by_record == 200, "{check:?}");
    let epoch = key::EpochId { activator: 1, epoch: 1 };
    let blocks = ledger.inner.store.db.scan_prefix(epoch.blocks()).count();
    assert!(blocks < 10, "{blocks} blocks");
    drop(ledger);
    assert_eq!(found(&open(dir.path())), expected(1..201));
}

/// Frames as a broken network delivers them: any cut, order and repetition, then everything once from the start.
fn deliveries() -> impl Strategy<Value = (Vec<(u64, u64)>, Vec<u64>)> {
    let any_frames = prop::collection::vec((1u64..300, 1u64..80), 0..25);
    let cuts = prop::collection::btree_set(2u64..300, 0..6);
    (any_frames, cuts.prop_map(|cuts| cuts.into_iter().chain([301]).collect()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn any_split_resend_and_order_gives_the_same_state((wild, cuts) in deliveries(), reopen in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        runtime.block_on(async {
            let mut ledger = open(dir.path());
            for (first, len) in wild {
                ledger.append(frame(1, first..(first + len).min(301))).await.unwrap();
            }
            if reopen {
                drop(ledger);
                ledger = open(dir.path());
            }
            let mut first = 1;
            for cut in cuts {
                let appended = ledger.append(frame(1, first..cut)).await.unwrap();
                assert!(appended.watermark >= cut - 1);
                first = cut;
            }
            assert_eq!(found(&ledger), expected(1..301));
            let mut records = ledger.records(&all_records()).unwrap().rows;
            records.sort_unstable_by_key(|r| r.key.seq);
            let plain: Vec<_> = records.iter().map(|r| CallRecord { subject: (r.key.seq % 3) as u32, ..r.record }).collect();
            assert_eq!(plain, (1..301).map(record).collect::<Vec<_>>());
            let check = ledger.verify().await.unwrap();
            assert!(check.holds() && check.by_record == 300, "{check:?}");
        });
    }
}
