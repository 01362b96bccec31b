//! Who waits for the disk is told by the first sync that begins afterwards, and by no other.

use super::*;
use std::{
    collections::HashSet,
    os::unix::fs::MetadataExt,
    sync::mpsc::{self, Receiver, Sender},
    thread,
};

/// A disk that says when a sync begins, and of which file, and ends it as it is told.
#[derive(Debug)]
struct Scripted {
    begun: Sender<u64>,
    ends: Mutex<Receiver<bool>>,
}

impl Syncer for Scripted {
    fn sync(&self, file: &File) -> io::Result<()> {
        self.begun.send(file.metadata()?.ino()).unwrap();
        if self.ends.lock().recv().unwrap() { Ok(()) } else { Err(io::Error::other("scripted")) }
    }
}

struct House {
    spool: Arc<Spool>,
    begun: Receiver<u64>,
    end: Sender<bool>,
    _folder: tempfile::TempDir,
}

impl House {
    fn new(max_bytes: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(folder.path(), max_bytes).unwrap();
        let ((began, begun), (end, ends)) = (mpsc::channel(), mpsc::channel());
        spool.syncer = Arc::new(Scripted { begun: began, ends: Mutex::new(ends) });
        Self { spool: Arc::new(spool), begun, end, _folder: folder }
    }

    fn write(&self, call: u64) -> u64 {
        self.spool.append(&subject("a"), &record(call), self.spool.reserve().unwrap()).unwrap()
    }

    /// Writes a record and waits for it; whether the spool must be committed by whoever waits.
    fn waits(&self, call: u64) -> (Told, bool) {
        self.spool.wait_for_disk(self.write(call))
    }

    fn commit(&self) -> thread::JoinHandle<()> {
        let spool = self.spool.clone();
        thread::spawn(move || spool.commit())
    }
}

fn is_open(told: &mut Told) -> bool {
    told.try_recv() == Err(tokio::sync::oneshot::error::TryRecvError::Empty)
}

#[test]
fn a_group_is_who_wrote_before_its_sync_began() {
    let house = House::new(1 << 20);
    let (mut one, alone) = house.waits(1);
    assert!(alone, "nobody syncs yet");
    let commit = house.commit();
    house.begun.recv().unwrap();
    // The first sync runs: these are of the second group, and nobody else is to sync for them.
    let mut later: Vec<_> = (2..=50).map(|call| house.waits(call)).collect();
    assert!(later.iter().all(|(_, alone)| !alone) && is_open(&mut one));
    house.end.send(true).unwrap();
    assert_eq!(one.blocking_recv(), Ok(true));
    house.begun.recv().unwrap();
    assert!(later.iter_mut().all(|(told, _)| is_open(told)), "the first sync began before they were written");
    house.end.send(true).unwrap();
    assert!(later.into_iter().all(|(told, _)| told.blocking_recv() == Ok(true)));
    commit.join().unwrap();
    assert_eq!((house.spool.syncs.get(), house.begun.try_recv().is_err()), (2, true), "one for each group");
    assert!(house.waits(51).1, "nobody syncs any more");
}

#[test]
fn what_another_sync_has_covered_needs_none_of_its_own() {
    let house = House::new(1 << 20);
    let first = house.write(1);
    let spool = house.spool.clone();
    let second = thread::spawn(move || spool.sync());
    house.begun.recv().unwrap();
    // Written before that sync began; but it has not ended.
    let (mut told, alone) = house.spool.wait_for_disk(first);
    assert!(alone);
    let commit = house.commit();
    assert!(is_open(&mut told));
    house.end.send(true).unwrap();
    assert_eq!(told.blocking_recv(), Ok(true));
    commit.join().unwrap();
    second.join().unwrap();
    assert_eq!(house.spool.syncs.get(), 1);
}

#[test]
fn a_failed_sync_is_told_to_its_group_and_ends_with_a_new_segment() {
    let house = House::new(1 << 20);
    let (lost, _) = house.waits(1);
    let place = house.spool.reserve().unwrap();
    let commit = house.commit();
    house.begun.recv().unwrap();
    let (also, _) = house.waits(2);
    house.end.send(false).unwrap();
    assert_eq!((lost.blocking_recv(), also.blocking_recv()), (Ok(false), Ok(false)));
    commit.join().unwrap();
    assert!(house.spool.has_failed() && house.spool.reserve().is_err(), "as after a failed write");
    // A call that was dispatched before; its record shares the segment with what may be lost.
    let third = house.spool.append(&subject("a"), &record(3), place).unwrap();
    // The disk is looked at again: the old segment is synced once more, whatever that is worth, and the new one.
    (0..2).for_each(|_| house.end.send(true).unwrap());
    house.spool.sync();
    assert!(!house.spool.has_failed());
    let (late, _) = house.spool.wait_for_disk(third);
    house.spool.commit();
    assert_eq!(late.blocking_recv(), Ok(false), "no later sync makes up for the one that failed");
    let (good, _) = house.waits(4);
    house.end.send(true).unwrap();
    house.spool.commit();
    assert_eq!(good.blocking_recv(), Ok(true));
    assert_eq!(all(&house.spool).len(), 4, "every record is still there");
}

#[test]
fn a_group_waits_for_every_segment_that_it_is_in() {
    // Segments of 4 KiB.
    let house = House::new(32 << 10);
    let mut calls = 0;
    while house.spool.segments().len() < 3 {
        calls += 1;
        house.write(calls);
    }
    let (told, _) = house.waits(calls + 1);
    (0..3).for_each(|_| house.end.send(true).unwrap());
    house.spool.commit();
    assert_eq!(told.blocking_recv(), Ok(true));
    let synced: HashSet<u64> = house.begun.try_iter().collect();
    let there = house.spool.segments().iter().map(|s| fs::metadata(&s.path).unwrap().ino()).collect();
    assert_eq!((synced, house.spool.syncs.get()), (there, 1));
}

#[test]
fn who_waits_for_the_ledger_hears_of_its_own_epoch_only_and_of_what_it_will_never_have() {
    let house = House::new(1 << 20);
    let mut told: Vec<_> = (1..=3).map(|call| house.spool.wait_for_ledger(house.write(call))).collect();
    let Identity { activator, epoch } = house.spool.identity();
    house.spool.trim(activator, epoch + 1, 3);
    house.spool.trim(activator + 1, epoch, 3);
    assert!(told.iter_mut().all(is_open));
    house.spool.trim(activator, epoch, 1);
    assert_eq!((told[0].try_recv(), is_open(&mut told[1])), (Ok(true), true));
    let mut cursor = Cursor::default();
    cursor.seek(activator, epoch, 2);
    let batch = cursor.next(&house.spool).unwrap().unwrap();
    house.spool.pass_over(&batch).unwrap();
    assert_eq!((told[1].try_recv(), told[2].try_recv()), (Ok(false), Ok(false)), "the ledger refuses them for good");
}
