//! The spool across ends of its process, torn tails and its bound.

mod commit;
mod intents;

use super::*;
use dormouse_core::record::Outcome;
use proptest::prelude::*;
use std::io::Write;

fn subject(name: &str) -> Arc<Subject> {
    Arc::new(Subject {
        function_uid: format!("uid-{name}"),
        namespace: "ns".into(),
        name: name.into(),
        revision: "r1".into(),
        tenant: "ns".into(),
        memory_mib: 256,
        cpu_millis: 100,
        instance: "i1".into(),
    })
}

fn record(call: u64) -> CallRecord {
    CallRecord {
        subject: 0,
        call,
        received_at_us: 1_700_000_000_000_000 + call as i64,
        wait_us: 0,
        claim_us: 2,
        start_us: 5,
        connect_us: 0,
        run_us: call,
        request_bytes: 1,
        response_bytes: 2,
        status: 200,
        outcome: Outcome::Ok,
        cold: true,
        first: true,
        warm_slots: 0,
        key: 0,
        timed: None,
    }
}

fn add(spool: &Spool, subject: &Arc<Subject>, call: u64) {
    let place = spool.reserve().unwrap();
    spool.append(subject, &record(call), place).unwrap();
}

/// Epoch, number, name of the function and number of the call of everything in the spool.
fn all(spool: &Spool) -> Vec<(u32, u64, String, u64)> {
    let mut cursor = Cursor::default();
    let mut found = Vec::new();
    while let Some(batch) = cursor.next(spool).unwrap() {
        for (i, r) in batch.records.iter().enumerate() {
            let name = batch.subjects[r.subject as usize].name.clone();
            found.push((batch.epoch, batch.first_seq + i as u64, name, r.call));
        }
    }
    found
}

#[test]
fn records_outlive_the_process_and_each_life_has_its_epoch() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path(), 1 << 20).unwrap();
    let first = spool.identity();
    let (a, b) = (subject("a"), subject("b"));
    add(&spool, &a, 1);
    add(&spool, &b, 2);
    add(&spool, &a, 3);
    drop(spool);
    let spool = Spool::open(folder.path(), 1 << 20).unwrap();
    assert_eq!(spool.identity(), Identity { epoch: first.epoch + 1, ..first });
    add(&spool, &a, 1);
    let name = |s: &str| s.to_owned();
    let expected = [(1, 1, name("a"), 1), (1, 2, name("b"), 2), (1, 3, name("a"), 3), (2, 1, name("a"), 1)];
    assert_eq!(all(&spool), expected);
    spool.trim(first.activator, 1, 3);
    assert_eq!(all(&spool), expected[3..]);
}

#[test]
fn a_torn_tail_is_cut_and_the_rest_stays() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path(), 1 << 20).unwrap();
    let a = subject("a");
    (1..=3).for_each(|call| add(&spool, &a, call));
    let path = spool.segments()[0].path.clone();
    drop(spool);
    let whole = fs::read(&path).unwrap();
    for cut in 1..=20 {
        fs::write(&path, &whole[..whole.len() - cut]).unwrap();
        let spool = Spool::open(folder.path(), 1 << 20).unwrap();
        assert_eq!(all(&spool).iter().map(|r| r.3).collect::<Vec<_>>(), [1, 2], "cut {cut}");
    }
    let mut noisy = whole.clone();
    noisy.write_all(&[7; 100]).unwrap();
    fs::write(&path, &noisy).unwrap();
    let spool = Spool::open(folder.path(), 1 << 20).unwrap();
    assert_eq!(all(&spool).len(), 3);
    assert_eq!(fs::metadata(&path).unwrap().len(), whole.len() as u64);
}

#[test]
fn the_bound_refuses_before_it_is_passed_and_trimming_frees() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path(), 64 << 10).unwrap();
    let a = subject("a");
    let mut calls = 0;
    while let Ok(place) = spool.reserve() {
        calls += 1;
        spool.append(&a, &record(calls), place).unwrap();
    }
    assert!(spool.check().is_err());
    let on_disk: u64 = spool.segments().iter().map(|s| fs::metadata(&s.path).unwrap().len()).sum();
    assert!(on_disk <= 64 << 10 && on_disk == spool.used_bytes(), "{on_disk}");
    assert!(spool.segments().len() > 4);
    assert_eq!(
        all(&spool).iter().map(|r| (r.1, r.3)).collect::<Vec<_>>(),
        (1..=calls).map(|c| (c, c)).collect::<Vec<_>>()
    );
    spool.trim(spool.identity().activator, spool.identity().epoch, calls);
    assert_eq!(spool.segments().len(), 1);
    assert!(spool.reserve().is_ok());
}

#[test]
fn reservations_count_towards_the_bound() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path(), 16 << 10).unwrap();
    let held: Vec<_> = std::iter::from_fn(|| spool.reserve().ok()).collect();
    assert_eq!(held.len(), 7);
    drop(held);
    assert!(spool.reserve().is_ok());
}

#[test]
fn a_folder_has_one_activator_and_a_lost_folder_is_a_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path(), 1 << 20).unwrap();
    let id = spool.identity().activator;
    assert!(matches!(Spool::open(folder.path(), 1 << 20), Err(SpoolError::Taken(_))));
    drop(spool);
    fs::write(folder.path().join("identity"), "garbage").unwrap();
    let spool = Spool::open(folder.path(), 1 << 20).unwrap();
    assert_ne!(spool.identity().activator, id);
    assert_eq!(spool.identity().epoch, 1);
}

#[test]
fn reading_goes_on_where_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path(), 1 << 20).unwrap();
    let a = subject("a");
    (1..=10).for_each(|call| add(&spool, &a, call));
    let Identity { activator, epoch } = spool.identity();
    let mut cursor = Cursor::default();
    assert_eq!(cursor.next(&spool).unwrap().unwrap().last_seq(), 10);
    assert!(cursor.next(&spool).unwrap().is_none());
    add(&spool, &a, 11);
    assert_eq!(cursor.next(&spool).unwrap().unwrap().first_seq, 11);
    cursor.seek(activator, epoch, 4);
    let again = cursor.next(&spool).unwrap().unwrap();
    assert_eq!((again.first_seq, again.records[0].call, again.last_seq()), (4, 4, 11));
}

#[test]
fn a_segment_begun_again_after_a_failure_is_not_deleted_with_its_empty_self() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path(), 32 << 10).unwrap();
    let Identity { activator, epoch } = spool.identity();
    spool.failed.store(true, Relaxed);
    spool.sync();
    assert!(!spool.has_failed());
    assert_eq!((spool.segments().len(), spool.used_bytes()), (1, segment::HEADER_LEN as u64));
    let a = subject("a");
    let mut calls = 0;
    while spool.segments().len() < 3 {
        calls += 1;
        add(&spool, &a, calls);
    }
    spool.trim(activator, epoch, 0);
    assert_eq!(all(&spool).iter().map(|r| r.3).collect::<Vec<_>>(), (1..=calls).collect::<Vec<_>>());
}

fn set_aside(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().flatten().filter(|f| f.path().extension().is_some_and(|e| e == "bad")).count()
}

fn harm(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn harm_within_a_segment_is_counted_and_kept_and_a_torn_tail_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path(), 1 << 20).unwrap();
    let a = subject("a");
    add(&spool, &a, 1);
    let end = spool.segments()[0].bytes as usize;
    (2..=5).for_each(|call| add(&spool, &a, call));
    let path = spool.segments()[0].path.clone();
    drop(spool);
    let torn = fs::metadata(&path).unwrap().len() - 1;
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(torn).unwrap();
    let spool = Spool::open(folder.path(), 1 << 20).unwrap();
    assert_eq!((all(&spool).len(), spool.take_lost(), set_aside(folder.path())), (4, 0, 0));
    drop(spool);
    harm(&path, end + 8 + 4);
    let spool = Spool::open(folder.path(), 1 << 20).unwrap();
    assert_eq!((all(&spool).len(), spool.take_lost(), set_aside(folder.path())), (1, 3, 1));
}

#[test]
fn a_segment_that_is_harmed_while_it_waits_holds_up_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path(), 64 << 10).unwrap();
    let a = subject("a");
    let mut calls = 0;
    while spool.segments().len() < 4 {
        calls += 1;
        add(&spool, &a, calls);
    }
    let segments = spool.segments();
    harm(&segments[1].path, segment::HEADER_LEN);
    let last = segments[3].path.clone();
    harm(&last, segment::HEADER_LEN + 8 + 1);
    let left: Vec<_> = all(&spool).iter().map(|r| r.3).collect();
    let held = |n: usize| segments[n].header.first_seq..segments[n].header.first_seq + segments[n].count;
    assert_eq!(left, held(0).chain(held(2)).collect::<Vec<_>>());
    assert_eq!((spool.take_lost(), set_aside(folder.path())), (segments[1].count + segments[3].count, 2));
    let on_disk: u64 = spool.segments().iter().map(|s| fs::metadata(&s.path).unwrap().len()).sum();
    assert_eq!(on_disk, spool.used_bytes());
    add(&spool, &a, calls + 1);
    assert_eq!(all(&spool).last().map(|r| (r.1, r.3)), Some((calls + 1, calls + 1)));
}

#[test]
fn what_a_lost_identity_left_behind_is_read_once() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path(), 1 << 20).unwrap();
    add(&spool, &subject("a"), 1);
    drop(spool);
    fs::remove_file(folder.path().join("identity")).unwrap();
    let spool = Spool::open(folder.path(), 1 << 20).unwrap();
    add(&spool, &subject("b"), 1);
    let names: std::collections::BTreeSet<_> = all(&spool).into_iter().map(|r| r.2).collect();
    assert_eq!((all(&spool).len(), names.into_iter().collect::<String>()), (2, "ab".into()));
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(64))]

    #[test]
    fn harmed_bytes_cost_what_follows_them_and_no_panic(at in 0usize..600, flip in 1u8..=255) {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::open(folder.path(), 1 << 20).unwrap();
        let a = subject("a");
        (1..=10).for_each(|call| add(&spool, &a, call));
        let path = spool.segments()[0].path.clone();
        drop(spool);
        let mut bytes = fs::read(&path).unwrap();
        let at = at % bytes.len();
        bytes[at] ^= flip;
        fs::write(&path, bytes).unwrap();
        let spool = Spool::open(folder.path(), 1 << 20).unwrap();
        let calls: Vec<u64> = all(&spool).iter().map(|r| r.3).collect();
        proptest::prop_assert_eq!(&calls, &(1..=calls.len() as u64).collect::<Vec<_>>());
        proptest::prop_assert!(calls.len() < 10);
    }
}

/// Bytes of a segment with a few records of two functions, and where each entry ends.
fn segment_bytes() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path(), 1 << 20).unwrap();
    let (a, b) = (subject("a"), subject("b"));
    (1..=4).for_each(|call| add(&spool, if call % 2 == 0 { &a } else { &b }, call));
    let path = spool.segments()[0].path.clone();
    drop(spool);
    fs::read(path).unwrap()
}

/// The calls that a spool gives which finds this file from a former life.
fn calls_of(bytes: &[u8]) -> Vec<u64> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("0000000000000007-00000001-0000000000000001.seg"), bytes).unwrap();
    let spool = Spool::open(folder.path(), 1 << 20).unwrap();
    let calls = all(&spool).iter().map(|r| r.3).collect();
    // What was found is taken by the next life as well, and whatever was not is not between its records.
    drop(spool);
    let spool = Spool::open(folder.path(), 1 << 20).unwrap();
    assert_eq!(all(&spool).iter().map(|r| r.3).collect::<Vec<_>>(), calls);
    add(&spool, &subject("c"), 99);
    assert_eq!(all(&spool).last().unwrap().3, 99);
    calls
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if std::env::var_os("DORMOUSE_LONG").is_some() { 5_000 } else { 48 }))]

    /// Of a harmed segment the records before the harm are found, none that was never written, and none doubled.
    #[test]
    fn any_harm_to_a_segment_leaves_what_is_before_it(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8_u32), 0..3),
        cut in prop::option::of(any::<prop::sample::Index>()),
        noise in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut bytes = segment_bytes();
        let mut intact = bytes.len();
        for (at, bit) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            intact = intact.min(at);
        }
        if let Some(cut) = cut {
            let cut = cut.index(bytes.len());
            bytes.truncate(cut);
            intact = intact.min(cut);
        }
        bytes.extend(noise);
        let calls = calls_of(&bytes);
        prop_assert!([1, 2, 3, 4].starts_with(&calls), "{:?}", calls);
        // Two flips of the same bit are none; else whatever lies wholly before the first harm is there.
        let before = calls_of(&segment_bytes()[..intact.max(1)]);
        prop_assert!(calls.starts_with(&before), "{:?} {:?}", calls, before);
    }

    #[test]
    fn any_bytes_are_no_segment_or_one(mut bytes in prop::collection::vec(any::<u8>(), 0..300), magic in any::<bool>()) {
        if magic && bytes.len() >= 8 {
            bytes[..8].copy_from_slice(b"DMSPOOL2");
        }
        prop_assert_eq!(calls_of(&bytes), Vec::<u64>::new());
    }

    #[test]
    fn any_bytes_are_read_as_an_entry_within_them_or_not_at_all(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        if let Some((_, len)) = segment::read_entry(&bytes) {
            prop_assert!(len <= bytes.len());
        }
    }
}

/// Segments as they are written, and former faults, as bytes in hexadecimal: `CALLS... | BYTES`.
#[test]
fn the_corpus_of_segments_reads_as_it_did() {
    for line in include_str!("../../corpus/segments.txt").lines().filter(|line| !line.starts_with('#')) {
        let (calls, hex) = line.split_once(" | ").unwrap();
        let calls: Vec<u64> = calls.split_whitespace().map(|c| c.parse().unwrap()).collect();
        let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(digit).collect();
        assert_eq!(calls_of(&bytes), calls, "{line}");
    }
}
