//! The activator's durable outbox of records: an append-only log of segments, trimmed as the ledger acknowledges.
//!
//! A record is written with one write(2) before its call ends, so that no kill of the process loses it; a task syncs
//! every second, so that a power cut loses at most that second. Whoever wants more waits for a sync of the disk or for the
//! ledger: see [`waits`]. The log has a bound in bytes: over it calls are refused
//! before they are dispatched; when the disk is full sooner, the same by [`reserve`]. What is known of calls without a
//! record is in the log as well: see [`intents`]. See [`segment`] for the file format, [`identity`] for who writes it.

mod cursor;
mod former;
mod home;
mod identity;
mod intents;
mod reserve;
mod segment;
mod tails;
mod waits;

pub(crate) use cursor::{Batch, Cursor};
pub(crate) use home::Home;
pub use identity::Identity;
pub(crate) use waits::Told;

use crate::answer::Refusal;
use dormouse_core::record::{CallRecord, Subject};
use former::Former;
use home::Homes;
use intents::{Intents, Place};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use reserve::Reserve;
use segment::{Header, Word, Writer};
use std::{
    collections::VecDeque,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};
use tokio::sync::Notify;
use waits::{Acks, Group};

/// Most that one record can take: its subject (six names of at most 253 bytes and JSON around them), itself (129 bytes)
/// and the header of a new segment (36 bytes); rounded up.
const RESERVED_BYTES: u64 = 2048;
/// Largest segment. An eighth of the bound when that is less, so that trimming frees room long before the bound.
const MAX_SEGMENT: u64 = 8 << 20;
const MIN_SEGMENT: u64 = 4 << 10;

/// What makes a file's bytes durable. Who embeds an activator may have a disk that wants something else for it.
pub trait Syncer: std::fmt::Debug + Send + Sync {
    /// Returns once whatever was written to the file before is durable. Blocks.
    ///
    /// # Errors
    /// When that is not known to be so.
    fn sync(&self, file: &File) -> io::Result<()>;
}

/// fdatasync(2).
#[derive(Clone, Copy, Debug, Default)]
pub struct Fdatasync;

impl Syncer for Fdatasync {
    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }
}

/// Why the spool does not take a record.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The folder cannot be used.
    #[error("spool folder {path}: {source}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has it.
    #[error("spool folder {0} is used by another activator: give each its own --spool-dir")]
    Taken(PathBuf),
    /// A write failed.
    #[error("spool: {0}")]
    Io(#[from] io::Error),
    /// The bound in bytes is reached, or the disk failed.
    #[error("spool is full")]
    Full,
}

impl From<SpoolError> for Refusal {
    fn from(_: SpoolError) -> Self {
        Self::spool_full()
    }
}

/// A place in the spool for one record; given back when dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    room: Arc<Room>,
    intent: Option<Place>,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.room.reserved.fetch_sub(RESERVED_BYTES, Relaxed);
        if let Some(place) = self.intent.take() {
            self.room.intents.lock().end(place);
        }
    }
}

/// What is promised: bytes, beside those that are used, and a record of each call that is dispatched.
#[derive(Debug, Default)]
struct Room {
    reserved: AtomicU64,
    used: AtomicU64,
    /// Taken while the log is held, or alone.
    intents: Mutex<Intents>,
}

/// A segment file and what is in it.
#[derive(Clone, Debug)]
struct Segment {
    path: PathBuf,
    header: Header,
    /// Whole records in it.
    count: u64,
    /// Bytes up to the end of the last whole entry.
    bytes: u64,
}

impl Segment {
    /// Whose records it holds: writer and epoch.
    fn of(&self) -> (u64, u32) {
        (self.header.activator, self.header.epoch)
    }
}

/// What the ledger does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unshipped {
    /// The first record of this life that it does not have and may still get.
    pub(crate) first: Option<u64>,
    /// There are records of former lives.
    pub(crate) of_former_lives: bool,
}

/// The spool.
#[derive(Debug)]
pub(crate) struct Spool {
    folder: PathBuf,
    identity: Identity,
    max_bytes: u64,
    segment_bytes: u64,
    room: Arc<Room>,
    log: Mutex<Log>,
    /// A write failed: nothing is taken until a new segment could be begun.
    failed: AtomicBool,
    unsynced: AtomicBool,
    /// Held by whoever syncs: who finds everything synced must not overtake who is still at it.
    disk: Mutex<Disk>,
    pub(crate) syncer: Arc<dyn Syncer>,
    /// Syncs made.
    pub(crate) syncs: Counter,
    group: Group,
    acks: Acks,
    written: Notify,
    homes: Homes,
    reserve: Reserve,
    /// Records that could not be read or were not wanted, since this was last asked.
    lost: AtomicU64,
    /// Calls that former lives had dispatched and not recorded: recorded as aborted now.
    aborted: u64,
    /// Each intent is written before its call is dispatched.
    each: bool,
    /// Held for as long as the folder is ours.
    _lock: File,
}

#[derive(Debug)]
struct Log {
    writer: Writer,
    /// Bytes of intents that the writer's segment began with: they do not fill it.
    carried: u64,
    /// Oldest first; the last one is the writer's.
    segments: VecDeque<Segment>,
    /// Full segments that are not synced since they were written to.
    full: Vec<File>,
    /// A segment was begun whose name is not synced.
    begun: bool,
}

impl Log {
    /// Number of the last record; 0 without one.
    fn last_seq(&self) -> u64 {
        self.segments.back().map_or(0, |s| (s.header.first_seq + s.count).saturating_sub(1))
    }

    /// Everything that is to be synced now.
    fn take_unsynced(&mut self) -> io::Result<Vec<File>> {
        let current = self.writer.handle()?;
        let mut files = std::mem::take(&mut self.full);
        files.push(current);
        Ok(files)
    }
}

/// A folder in which the next epoch has begun.
struct Begun {
    identity: Identity,
    log: Log,
    homes: Homes,
    lost: u64,
    aborted: u64,
}

impl Begun {
    fn in_folder(folder: &Path) -> io::Result<Self> {
        let Former { mut segments, lost, aborted } = former::recover(folder)?;
        let identity = Identity::next(folder, segments.iter().map(|s| &s.header))?;
        let header = Header { activator: identity.activator, epoch: identity.epoch, first_seq: 1, aborted: false };
        let (writer, first) = Writer::begin(folder, header)?;
        segment::sync_folder(folder)?;
        segments.push_back(first);
        let log = Log { writer, carried: 0, segments, full: Vec::new(), begun: false };
        Ok(Self { identity, log, homes: Homes::open(folder)?, lost, aborted })
    }
}

/// What is known of the disk.
#[derive(Debug, Default)]
struct Disk {
    /// A sync failed, and no new segment was begun since. What a later sync of the same file says is worth nothing: the
    /// kernel tells of a lost page once.
    broken: bool,
    /// Records up to this one share a segment with such a failure.
    harmed: u64,
}

impl Spool {
    /// Opens the folder, made if it is missing: cuts torn tails, and begins the next epoch.
    ///
    /// # Errors
    /// When the folder is another activator's, or cannot be written.
    pub(crate) fn open(folder: &Path, max_bytes: u64) -> Result<Self, SpoolError> {
        let at = |source| SpoolError::Folder { path: folder.to_owned(), source };
        fs::create_dir_all(folder).map_err(at)?;
        let lock = File::create(folder.join("lock")).map_err(at)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(SpoolError::Taken(folder.to_owned())),
            Err(fs::TryLockError::Error(e)) => return Err(at(e)),
        }
        let reserve = Reserve::of(folder, max_bytes);
        let begun = match Begun::in_folder(folder) {
            Err(e) if reserve::is_full(&e) && reserve.give_up() => Begun::in_folder(folder),
            begun => begun,
        };
        let Begun { identity, log, homes, lost, aborted } = begun.map_err(at)?;
        let kept = reserve.keep();
        if let Err(e) = &kept {
            tracing::error!(folder = %folder.display(), "no call is taken: the spool's disk has no room: {e}");
        }
        let room = Room::default();
        room.used.store(log.segments.iter().map(|s| s.bytes).sum(), Relaxed);
        Ok(Self {
            folder: folder.to_owned(),
            identity,
            max_bytes,
            segment_bytes: (max_bytes / 8).clamp(MIN_SEGMENT, MAX_SEGMENT),
            room: Arc::new(room),
            log: Mutex::new(log),
            failed: AtomicBool::new(kept.is_err()),
            unsynced: AtomicBool::new(true),
            disk: Mutex::default(),
            syncer: Arc::new(Fdatasync),
            syncs: Counter::default(),
            group: Group::default(),
            acks: Acks::default(),
            written: Notify::new(),
            homes,
            reserve,
            lost: AtomicU64::new(lost),
            aborted,
            each: false,
            _lock: lock,
        })
    }

    /// Who writes it, in this life of the process.
    pub(crate) fn identity(&self) -> Identity {
        self.identity
    }

    /// Bytes on disk.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.room.used.load(Relaxed)
    }

    /// Fails when no record would be taken now.
    pub(crate) fn check(&self) -> Result<(), SpoolError> {
        if !self.has_room_for(1) || self.failed.load(Relaxed) { Err(SpoolError::Full) } else { Ok(()) }
    }

    /// Whether there is room for so many more records beside what is promised.
    fn has_room_for(&self, records: usize) -> bool {
        let promised = self.room.reserved.load(Relaxed) + self.used_bytes();
        promised + (records as u64).saturating_mul(RESERVED_BYTES) <= self.max_bytes
    }

    /// From now on each intent is written before its call is dispatched. A call that comes meanwhile may be of either kind.
    pub(crate) fn intend_each(&mut self) {
        self.each = true;
        self.room.intents.lock().each = true;
    }

    /// How many calls former lives had dispatched and not recorded, when this one began.
    pub(crate) fn aborted(&self) -> u64 {
        self.aborted
    }

    /// Makes sure that a call's record will find its place.
    pub(crate) fn reserve(&self) -> Result<Reservation, SpoolError> {
        let reserved = self.room.reserved.fetch_add(RESERVED_BYTES, Relaxed) + RESERVED_BYTES;
        let reservation = Reservation { room: self.room.clone(), intent: None };
        let full = reserved + self.used_bytes() > self.max_bytes;
        if full || self.failed.load(Relaxed) { Err(SpoolError::Full) } else { Ok(reservation) }
    }

    /// Writes a record, and says its number in this epoch. When this returns, no end of the process loses it.
    pub(crate) fn append(
        &self,
        subject: &Arc<Subject>,
        record: &CallRecord,
        mut reservation: Reservation,
    ) -> Result<u64, SpoolError> {
        let word = Word::Record(subject.clone(), *record);
        let mut log = self.log.lock();
        if let Some(place) = reservation.intent.take() {
            self.room.intents.lock().end(place);
        }
        let mut written = self.write(&mut log, &word, &self.due(record.ended_at_us()));
        if matches!(&written, Err(e) if reserve::is_full(e)) && self.reserve.give_up() {
            // This call and those that run beside it were promised a place; no further one is.
            self.failed.store(true, Relaxed);
            written = self.write(&mut log, &word, &[]);
        }
        let result = written.map(|bytes| (bytes, log.last_seq()));
        drop(log);
        drop(reservation);
        match result {
            Ok((bytes, seq)) => {
                self.room.used.fetch_add(bytes, Relaxed);
                self.unsynced.store(true, Relaxed);
                self.written.notify_one();
                Ok(seq)
            }
            Err(e) => {
                self.failed.store(true, Relaxed);
                Err(e.into())
            }
        }
    }

    /// Writes a record, and with it what is due of others.
    fn write(&self, log: &mut Log, record: &Word, others: &[Word]) -> io::Result<u64> {
        if log.writer.bytes() - log.carried >= self.segment_bytes {
            self.begin_segment(log)?;
        }
        let bytes = log.writer.append(std::iter::once(record).chain(others))?;
        if let Some(current) = log.segments.back_mut() {
            current.count += 1;
            current.bytes += bytes;
        }
        Ok(bytes)
    }

    /// Starts a new segment. The bytes that it takes already count from here on, whatever becomes of what follows.
    fn begin_segment(&self, log: &mut Log) -> io::Result<()> {
        // What is in the old one is synced by whoever syncs next: here it would hold up every call.
        let Identity { activator, epoch } = self.identity;
        let header = Header { activator, epoch, first_seq: log.last_seq() + 1, aborted: false };
        let (writer, segment) = Writer::begin(&self.folder, header)?;
        let old = std::mem::replace(&mut log.writer, writer);
        log.full.push(old.finish());
        log.begun = true;
        // One without a record began with the same number: the file is the same, and the new one has its place.
        if log.segments.back().is_some_and(|s| s.count == 0)
            && let Some(empty) = log.segments.pop_back()
        {
            self.room.used.fetch_sub(empty.bytes, Relaxed);
        }
        log.carried = self.carry(log);
        let bytes = segment.bytes + log.carried;
        log.segments.push_back(Segment { bytes, ..segment });
        self.room.used.fetch_add(bytes, Relaxed);
        Ok(())
    }

    /// Number of the last record of this life; 0 without one.
    pub(crate) fn last_seq(&self) -> u64 {
        self.log.lock().last_seq()
    }

    /// What the ledger does not have yet.
    pub(crate) fn unshipped(&self) -> Unshipped {
        let log = self.log.lock();
        let (mine, former): (Vec<&Segment>, Vec<&Segment>) = log.segments.iter().partition(|s| self.is_mine(s.of()));
        let wanted = self.acks.watermark() + 1;
        let ends_behind = |s: &&&Segment| wanted < s.header.first_seq + s.count;
        let first = mine.iter().filter(ends_behind).map(|s| s.header.first_seq.max(wanted)).min();
        Unshipped { first, of_former_lives: former.iter().any(|s| s.count > 0) }
    }

    /// Syncs what was written. Blocks; call it each second.
    pub(crate) fn sync(&self) {
        self.note_young();
        let mut disk = self.disk.lock();
        if self.failed.load(Relaxed) {
            self.recover_from_failure(&mut disk);
        }
        self.sync_written(&mut disk);
    }

    /// Waits until a sync that begins after this has ended. True: see to it that [`Spool::commit`] runs.
    pub(crate) fn wait_for_disk(&self, seq: u64) -> (Told, bool) {
        self.group.join(seq)
    }

    /// Waits until the ledger has a record. [`Spool::leave`] says that nobody does any more.
    pub(crate) fn wait_for_ledger(&self, seq: u64) -> Told {
        self.acks.join(seq)
    }

    /// Nobody waits for the ledger to have this record.
    pub(crate) fn leave(&self, seq: u64) {
        self.acks.leave(seq);
    }

    /// Ends when somebody waits for the ledger.
    pub(crate) async fn awaited(&self) {
        self.acks.awaited().await;
    }

    /// Syncs until nobody waits for it: one sync for all who wait when it begins; who comes while it runs is of the next
    /// group. Blocks.
    pub(crate) fn commit(&self) {
        loop {
            let mut disk = self.disk.lock();
            let Some(group) = self.group.take() else { return };
            self.sync_written(&mut disk);
            let Disk { broken, harmed } = *disk;
            drop(disk);
            for (seq, teller) in group {
                // One whose client left does not hear it.
                let _ = teller.send(!broken && seq > harmed);
            }
        }
    }

    fn sync_written(&self, disk: &mut Disk) {
        if disk.broken || !self.unsynced.swap(false, Relaxed) {
            return;
        }
        let mut log = self.log.lock();
        let (files, begun) = (log.take_unsynced(), std::mem::take(&mut log.begun));
        drop(log);
        let synced = files.and_then(|files| files.iter().try_for_each(|file| self.syncer.sync(file)));
        match synced.and_then(|()| if begun { segment::sync_folder(&self.folder) } else { Ok(()) }) {
            Ok(()) => drop(self.syncs.inc()),
            Err(e) => {
                tracing::error!("spool cannot be synced: {e}");
                disk.broken = true;
                self.failed.store(true, Relaxed);
            }
        }
    }

    /// After a failed write or sync a fresh segment shows whether the disk works again.
    fn recover_from_failure(&self, disk: &mut Disk) {
        if let Err(e) = self.reserve.keep() {
            return tracing::warn!("spool still fails: {e}");
        }
        let mut log = self.log.lock();
        let last = log.last_seq();
        match self.begin_segment(&mut log) {
            Ok(()) => {
                if std::mem::take(&mut disk.broken) {
                    disk.harmed = last;
                }
                self.failed.store(false, Relaxed);
                tracing::info!("spool takes records again");
            }
            Err(e) => tracing::warn!("spool still fails: {e}"),
        }
    }

    /// True while records are refused because the disk fails.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Relaxed)
    }

    /// Waits until something may have been written since the last time.
    pub(crate) async fn written(&self) {
        self.written.notified().await;
    }

    /// Everything up to `watermark` of an epoch is in the ledger: who waits for that is told, and whole segments below it
    /// are deleted.
    pub(crate) fn trim(&self, activator: u64, epoch: u32, watermark: u64) {
        if self.is_mine((activator, epoch)) {
            self.acks.acknowledge(watermark);
        }
        let mut log = self.log.lock();
        let current = log.segments.back().map(|s| s.path.clone());
        let mut freed = 0;
        let mut gone = Vec::new();
        log.segments.retain(|s| {
            let below = s.of() == (activator, epoch)
                && s.header.first_seq + s.count <= watermark + 1
                && Some(&s.path) != current.as_ref();
            if below {
                freed += s.bytes;
                gone.push(s.path.clone());
            }
            !below
        });
        drop(log);
        self.room.used.fetch_sub(freed, Relaxed);
        for path in gone {
            if let Err(e) = fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), "an acknowledged segment stays: {e}");
            }
        }
    }

    /// Under which identity a batch is shipped.
    pub(crate) fn home(&self, batch: &Batch) -> Home {
        self.homes.of((batch.activator, batch.epoch))
    }

    /// The ledger has lost what came before a batch: from there on its epoch is shipped under a new identity.
    pub(crate) fn move_home(&self, batch: &Batch) -> io::Result<Home> {
        let living: Vec<_> = self.segments().iter().map(Segment::of).collect();
        self.homes.move_on((batch.activator, batch.epoch), batch.first_seq, &living)
    }

    /// Puts a segment that cannot be read where it holds up nothing. `from` is the first record that is lost with it.
    fn set_aside(&self, harmed: &Segment, from: u64) -> io::Result<()> {
        let mut log = self.log.lock();
        if log.segments.back().is_some_and(|s| s.path == harmed.path) {
            self.begin_segment(&mut log)?;
        }
        let Some(at) = log.segments.iter().position(|s| s.path == harmed.path) else { return Ok(()) };
        let Some(gone) = log.segments.remove(at) else { return Ok(()) };
        drop(log);
        self.room.used.fetch_sub(gone.bytes, Relaxed);
        let end = gone.header.first_seq + gone.count;
        if self.is_mine(gone.of()) {
            self.acks.give_up(from..end);
        }
        let records = end.saturating_sub(from);
        self.lost.fetch_add(records, Relaxed);
        tracing::error!(path = %gone.path.display(), records, "a harmed segment is set aside: its records are lost");
        former::rename_aside(&gone.path)
    }

    /// Goes on behind a batch that the ledger will never take: its records are lost to the ledger, and kept in a copy.
    /// What follows gets a new identity, as after a gap.
    pub(crate) fn pass_over(&self, batch: &Batch) -> io::Result<()> {
        let (of, last) = ((batch.activator, batch.epoch), batch.last_seq());
        let segments = self.segments();
        let first_in = |s: &&Segment| s.header.first_seq <= last && batch.first_seq < s.header.first_seq + s.count;
        for segment in segments.iter().filter(|s| s.of() == of).filter(first_in) {
            former::keep_copy(&segment.path)?;
        }
        let living: Vec<_> = segments.iter().map(Segment::of).collect();
        self.homes.move_on(of, last + 1, &living)?;
        self.lost.fetch_add(batch.records.len() as u64, Relaxed);
        if self.is_mine(of) {
            self.acks.give_up(batch.first_seq..last + 1);
        }
        self.trim(batch.activator, batch.epoch, last);
        Ok(())
    }

    /// How many records were lost since this was last asked.
    pub(crate) fn take_lost(&self) -> u64 {
        self.lost.swap(0, Relaxed)
    }

    /// Whether records of a writer and epoch are of this life.
    fn is_mine(&self, of: (u64, u32)) -> bool {
        of == (self.identity.activator, self.identity.epoch)
    }

    fn segments(&self) -> Vec<Segment> {
        self.log.lock().segments.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests;
