//! What a life leaves of calls that it did not end: each is recorded as aborted by the next one, once, and none that ended
//! or was not dispatched.

use super::*;
use crate::spool::{cursor::Batch, segment::HEADER_LEN};
use std::collections::{BTreeMap, BTreeSet};

/// Far below how long a call runs before it is written with others' records.
const SHORT_US: u64 = 10;
const LONG_US: u64 = 1_000_000;

fn spool_in(folder: &Path, each: bool, max_bytes: u64) -> Spool {
    let mut spool = Spool::open(folder, max_bytes).unwrap();
    if each {
        spool.intend_each();
    }
    spool
}

/// The record of a call as it is at its dispatch.
fn begun(call: u64) -> CallRecord {
    CallRecord { run_us: 0, status: 0, request_bytes: 0, response_bytes: 0, ..record(call) }
}

fn dispatch(spool: &Spool, subject: &Arc<Subject>, call: u64) -> Reservation {
    let mut place = spool.reserve().unwrap();
    spool.intend(&mut place, subject, &begun(call)).unwrap();
    place
}

fn end(spool: &Spool, subject: &Arc<Subject>, call: u64, place: Reservation, run_us: u64) {
    spool.append(subject, &CallRecord { run_us, ..record(call) }, place).unwrap();
}

/// Everything in the spool: epoch, number, call, whether it is aborted.
fn found(spool: &Spool) -> Vec<(u32, u64, u64, bool)> {
    let (mut cursor, mut found) = (Cursor::default(), Vec::new());
    while let Some(batch) = cursor.next(spool).unwrap() {
        for (seq, r) in (batch.first_seq..).zip(&batch.records) {
            let aborted = r.outcome == Outcome::Aborted;
            assert_eq!(aborted, batch.aborted);
            assert!(!aborted || (r.run_us, r.status, r.received_at_us) == (0, 0, record(r.call).received_at_us));
            found.push((batch.epoch, seq, r.call, aborted));
        }
    }
    found
}

#[test]
fn what_had_no_record_gets_the_next_numbers_of_its_epoch_and_once() {
    for each in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let spool = spool_in(folder.path(), each, 1 << 20);
        let (a, b) = (subject("a"), subject("b"));
        let places = [(1, &a), (2, &b), (3, &a), (4, &b)].map(|(call, of)| (call, of, dispatch(&spool, of, call)));
        let [_one, (_, _, two), _three, (_, _, four)] = places;
        end(&spool, &b, 2, two, LONG_US);
        spool.withdraw(four);
        spool.sync();
        assert_eq!(found(&spool), [(1, 1, 2, false)]);
        drop(spool);
        let expected = [(1, 1, 2, false), (1, 2, 1, true), (1, 3, 3, true)];
        for life in 2..=4 {
            let spool = spool_in(folder.path(), each, 1 << 20);
            assert_eq!((spool.aborted(), spool.identity().epoch), (if life == 2 { 2 } else { 0 }, life));
            assert_eq!(found(&spool), expected, "each: {each}");
            let names: Vec<_> = all(&spool).into_iter().map(|r| r.2).collect();
            assert_eq!(names, ["b", "a", "a"]);
            let on_disk: u64 = spool.segments().iter().map(|s| fs::metadata(&s.path).unwrap().len()).sum();
            assert_eq!(on_disk, spool.used_bytes());
        }
        let spool = spool_in(folder.path(), each, 1 << 20);
        spool.trim(spool.identity().activator, 1, 3);
        assert_eq!(found(&spool), []);
        drop(spool);
        assert_eq!(spool_in(folder.path(), each, 1 << 20).aborted(), 0);
    }
}

#[test]
fn a_short_call_costs_nothing_and_one_that_has_run_for_a_while_goes_with_the_next_record() {
    let folder = tempfile::tempdir().unwrap();
    let spool = spool_in(folder.path(), false, 1 << 20);
    let a = subject("a");
    let bytes = |spool: &Spool| spool.used_bytes();
    let place = dispatch(&spool, &a, 1);
    assert_eq!(bytes(&spool), HEADER_LEN as u64);
    end(&spool, &a, 1, place, SHORT_US);
    let place = dispatch(&spool, &a, 2);
    end(&spool, &a, 2, place, SHORT_US);
    let (before, third, fourth) = (bytes(&spool), dispatch(&spool, &a, 3), dispatch(&spool, &a, 4));
    end(&spool, &a, 4, fourth, SHORT_US);
    let short = bytes(&spool) - before;
    let (before, fifth) = (bytes(&spool), dispatch(&spool, &a, 5));
    end(&spool, &a, 5, fifth, LONG_US);
    let with_the_third = bytes(&spool) - before;
    assert!(with_the_third > short && with_the_third < 3 * short, "{short} {with_the_third}");
    let (before, sixth) = (bytes(&spool), dispatch(&spool, &a, 6));
    spool.sync();
    spool.sync();
    assert!(bytes(&spool) > before && bytes(&spool) < before + 2 * short, "the sixth, and once");
    drop((third, sixth));
    drop(spool);
    let calls: Vec<_> = found(&spool_in(folder.path(), false, 1 << 20)).into_iter().map(|f| (f.2, f.3)).collect();
    assert_eq!(calls, [(1, false), (2, false), (4, false), (5, false), (3, true), (6, true)]);
}

#[test]
fn a_call_that_outlasts_its_segment_is_still_explained() {
    for each in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        // Segments of 4 KiB.
        let spool = spool_in(folder.path(), each, 32 << 10);
        let a = subject("a");
        let long = dispatch(&spool, &a, 1);
        let (mut calls, Identity { activator, epoch }) = (1, spool.identity());
        for _ in 0..3 {
            let begun = spool.segments().last().unwrap().header.first_seq;
            while spool.segments().last().unwrap().header.first_seq == begun {
                calls += 1;
                let place = dispatch(&spool, &a, calls);
                end(&spool, &a, calls, place, LONG_US);
            }
            spool.trim(activator, epoch, calls - 1);
        }
        assert_eq!(spool.segments().len(), 1, "what is acknowledged goes, whoever runs");
        drop((long, spool));
        let spool = spool_in(folder.path(), each, 32 << 10);
        assert_eq!((spool.aborted(), found(&spool).pop()), (1, Some((1, calls, 1, true))), "each: {each}");
    }
}

#[test]
fn a_life_without_a_record_is_explained_too() {
    let folder = tempfile::tempdir().unwrap();
    let spool = spool_in(folder.path(), true, 1 << 20);
    let place = dispatch(&spool, &subject("a"), 7);
    drop((place, spool));
    // What a start that was killed left behind.
    fs::write(folder.path().join("tail.new"), "half of it").unwrap();
    let spool = spool_in(folder.path(), true, 1 << 20);
    assert_eq!(found(&spool), [(1, 1, 7, true)]);
    assert!(!folder.path().join("tail.new").exists());
}

#[test]
fn a_call_that_goes_again_after_all_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let spool = spool_in(folder.path(), true, 1 << 20);
    let a = subject("a");
    spool.withdraw(dispatch(&spool, &a, 1));
    let again = dispatch(&spool, &a, 1);
    spool.withdraw(dispatch(&spool, &a, 2));
    drop((again, spool));
    assert_eq!(found(&spool_in(folder.path(), true, 1 << 20)), [(1, 1, 1, true)]);
}

#[test]
fn an_intent_takes_no_room_that_a_record_was_promised() {
    let folder = tempfile::tempdir().unwrap();
    let spool = spool_in(folder.path(), true, 16 << 10);
    let a = subject("a");
    let mut places = Vec::new();
    let refused = loop {
        let Ok(mut place) = spool.reserve() else { break "the record" };
        match spool.intend(&mut place, &a, &begun(places.len() as u64)) {
            Ok(()) => places.push(place),
            Err(_) => break "the intent",
        }
    };
    assert_eq!((refused, places.len(), spool.has_failed()), ("the intent", 6, false));
    for (call, place) in places.into_iter().enumerate() {
        end(&spool, &a, call as u64, place, LONG_US);
    }
    assert!(spool.used_bytes() <= 16 << 10);
    assert_eq!(found(&spool).len(), 6);
}

/// Records that a life wrote, and what it left open.
fn crashed(folder: &Path) -> Spool {
    let spool = spool_in(folder, true, 1 << 20);
    let a = subject("a");
    let _open = [3, 4].map(|call| dispatch(&spool, &a, call));
    for call in [1, 2] {
        let place = dispatch(&spool, &a, call);
        end(&spool, &a, call, place, LONG_US);
    }
    drop((_open, spool));
    spool_in(folder, true, 1 << 20)
}

fn batches(spool: &Spool) -> Vec<Batch> {
    let mut cursor = Cursor::default();
    std::iter::from_fn(|| cursor.next(spool).unwrap()).collect()
}

#[test]
fn a_tail_whose_numbers_are_taken_is_given_up() {
    // What the ledger answers to the records: it has as much as was written, and then it has more.
    for (watermark, left) in [(2, 2), (3, 1), (4, 1), (9, 1)] {
        let folder = tempfile::tempdir().unwrap();
        let spool = crashed(folder.path());
        let [records, tail] = batches(&spool).try_into().unwrap();
        assert_eq!((records.first_seq, records.aborted, tail.first_seq, tail.aborted), (1, false, 3, true));
        assert_eq!(spool.judge_tail(&records, watermark, false), left == 1, "{watermark}");
        assert_eq!(batches(&spool).len(), left, "{watermark}");
        let on_disk: u64 = spool.segments().iter().map(|s| fs::metadata(&s.path).unwrap().len()).sum();
        assert_eq!(on_disk, spool.used_bytes());
    }
    // What it answers to the tail: applied; it has all of that already; a gap, since it has lost what came before.
    for (watermark, refused, left) in [(4, false, 2), (4, true, 1), (9, true, 1), (1, true, 2)] {
        let folder = tempfile::tempdir().unwrap();
        let spool = crashed(folder.path());
        let [_, tail] = batches(&spool).try_into().unwrap();
        assert_eq!(spool.judge_tail(&tail, watermark, refused), left == 1, "{watermark} {refused}");
        assert_eq!(batches(&spool).len(), left, "{watermark} {refused}");
    }
}

/// What may happen to a spool.
#[derive(Clone, Copy, Debug)]
enum Step {
    Dispatch,
    /// One of those that run ends, or was not dispatched after all.
    End(prop::sample::Index),
    Withdraw(prop::sample::Index),
    Sync,
    /// The ledger has this part of the records.
    Acknowledge(prop::sample::Index),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let index = any::<prop::sample::Index>;
    let step = prop_oneof![
        4 => Just(Step::Dispatch),
        4 => index().prop_map(Step::End),
        1 => index().prop_map(Step::Withdraw),
        1 => Just(Step::Sync),
        1 => index().prop_map(Step::Acknowledge),
    ];
    prop::collection::vec(step, 0..300)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever came before the end: what was dispatched has a record, one, under numbers that follow each other.
    #[test]
    fn dispatched_is_recorded_after_any_end(steps in steps()) {
        let folder = tempfile::tempdir().unwrap();
        let spool = spool_in(folder.path(), true, 256 << 10);
        let subjects = [subject("a"), subject("b")];
        let of = |call: u64| &subjects[(call % 2) as usize];
        let (mut calls, mut running, mut recorded, mut ledger) = (0, BTreeMap::new(), Vec::new(), BTreeMap::new());
        for step in steps {
            let one = |index: prop::sample::Index, running: &BTreeMap<u64, Reservation>| {
                (!running.is_empty()).then(|| *running.keys().nth(index.index(running.len())).unwrap())
            };
            match step {
                Step::Dispatch if running.len() < 30 => {
                    calls += 1;
                    running.insert(calls, dispatch(&spool, of(calls), calls));
                }
                Step::End(index) => if let Some(call) = one(index, &running) {
                    end(&spool, of(call), call, running.remove(&call).unwrap(), LONG_US);
                    recorded.push(call);
                }
                Step::Withdraw(index) => if let Some(call) = one(index, &running) {
                    spool.withdraw(running.remove(&call).unwrap());
                }
                Step::Sync => spool.sync(),
                Step::Acknowledge(index) if !recorded.is_empty() => {
                    let upto = index.index(recorded.len()) as u64 + 1;
                    ledger.extend(found(&spool).into_iter().filter(|f| f.1 <= upto).map(|f| (f.1, f.2)));
                    spool.trim(spool.identity().activator, 1, upto);
                }
                _ => {}
            }
        }
        let open: BTreeSet<u64> = running.keys().copied().collect();
        drop((running, spool));
        let spool = spool_in(folder.path(), true, 256 << 10);
        let aborted: BTreeSet<u64> = found(&spool).into_iter().filter(|f| f.3).map(|f| f.2).collect();
        prop_assert_eq!(&aborted, &open);
        // The ledger takes each number once.
        ledger.extend(found(&spool).into_iter().map(|f| (f.1, f.2)));
        let expected: Vec<u64> = recorded.into_iter().chain(open).collect();
        prop_assert_eq!(ledger.keys().copied().collect::<Vec<_>>(), (1..=expected.len() as u64).collect::<Vec<_>>());
        prop_assert_eq!(ledger.into_values().collect::<Vec<_>>(), expected);
    }
}
