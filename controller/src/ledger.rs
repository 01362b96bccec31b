//! Where records end: each frame applied exactly once, kept in sled, summed by the hour.
//!
//! How sled is used, so that a power cut loses nothing that was acknowledged: one `Db`, one tree, values of at most
//! 4 KiB, one writer thread that groups frames into atomic batches of blocks, sums and watermarks, then flushes sled
//! and syncs its file through a second handle (sled itself only starts the write-back), and only then acknowledges.
//! After the first write error the ledger acknowledges nothing more and must be opened again.

mod apply;
mod block;
mod codec;
mod counts;
mod dict;
mod door;
mod frame;
mod growth;
mod key;
mod open;
mod records;
mod rpc;
mod usage;
mod verify;
mod writer;

#[cfg(test)]
mod tests;

pub use codec::FunctionId;
pub use door::{DoorState, LedgerDoor};
pub use frame::{Frame, MAX_FRAME_RECORDS, MAX_FRAME_SUBJECTS};
pub use open::{Filesystem, OpenError};
pub use records::{RecordKey, RecordRow, RecordsQuery};
pub use rpc::service;
pub use usage::{Filter, Granularity, GroupBy, GroupKey, MAX_DAYS, RowKey, UsageQuery, UsageRow, month_hours};
pub use verify::Conservation;

use dormouse_core::price::{PricePlan, TooLarge};
use dormouse_core::usage::UsageSum;
use open::Store;
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc, oneshot};

/// Frames that wait for the writer.
const QUEUE_FRAMES: usize = 256;
/// Records that wait for the writer, unpacked: 131,072 x 80 B = 10.5 MB.
const QUEUE_RECORDS: u32 = 2 * MAX_FRAME_RECORDS;

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Everything of the epoch up to here is durable.
    pub watermark: u64,
    /// What was done.
    pub outcome: AppendOutcome,
}

/// What was done with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendOutcome {
    /// At least one record was new, and was applied.
    Applied,
    /// The ledger had all of it.
    Duplicate,
    /// It begins after watermark + 1: nothing was applied.
    Gap,
}

/// A frame that was not applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// It is damaged: sending it again will not help.
    #[error("bad frame: {0}")]
    BadFrame(String),
    /// The ledger is closed or failed: send it again later.
    #[error("the ledger takes no records: {0}")]
    Closed(String),
}

/// A question that could not be answered.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// sled could not read.
    #[error("the ledger could not be read")]
    Store(#[from] sled::Error),
    /// A value is not what was written.
    #[error(transparent)]
    Corrupt(#[from] CorruptValue),
    /// An amount has too many digits.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// The ledger knows no usage of this tenant.
    #[error("tenant {0:?} has no usage in this ledger")]
    UnknownTenant(String),
    /// The file grew far more than what was put in.
    #[error("sled no longer cleans its file: it must be opened again")]
    Outgrown,
    /// The writer is gone.
    #[error("the ledger is closed: {0}")]
    Closed(String),
}

/// A stored value that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a stored {0} is damaged")]
pub struct CorruptValue(&'static str);

/// Some rows and where to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<R, K> {
    /// The rows, at most as many as asked for.
    pub rows: Vec<R>,
    /// The last place looked at, when there may be more.
    pub next: Option<K>,
}

/// Whether the ledger can be relied on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Why it takes no records, or may lose some.
    pub problem: Option<String>,
    /// Bytes of sled's files.
    pub size_on_disk: u64,
}

/// An open ledger; clones share it. The last one to go closes it.
#[derive(Clone)]
pub struct Ledger {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<Store>,
    plan: PricePlan,
    /// Taken at the end, so that the writer sees it close.
    queue: Option<mpsc::Sender<writer::Command>>,
    room: Arc<Semaphore>,
    failure: Failure,
    writer: Option<std::thread::JoinHandle<()>>,
}

/// Why the writer stopped; shared between it and the handles.
#[derive(Clone, Default)]
struct Failure(Arc<Mutex<Option<String>>>);

impl Failure {
    fn set(&self, why: &str) {
        self.0.lock().get_or_insert_with(|| why.to_owned());
    }

    fn why(&self) -> Option<String> {
        self.0.lock().clone()
    }
}

impl Ledger {
    /// Opens the ledger in a folder, which is made if it is not there. Blocks while sled recovers.
    ///
    /// # Errors
    /// When it cannot be opened: the message names the folder and what to do.
    pub fn open(dir: &Path, plan: PricePlan) -> Result<Self, OpenError> {
        Self::open_on(dir, plan, Filesystem::Checked)
    }

    /// [`Ledger::open`] with a word on file systems that cannot be trusted with it.
    ///
    /// # Errors
    /// As [`Ledger::open`].
    pub fn open_on(dir: &Path, plan: PricePlan, filesystem: Filesystem) -> Result<Self, OpenError> {
        let store = Arc::new(Store::open(dir, filesystem)?);
        let applier = apply::Applier::new(Arc::clone(&store), plan.metering())
            .map_err(|source| OpenError::Read { dir: dir.to_owned(), source })?;
        verify::check_tails(&store).map_err(|source| OpenError::Read { dir: dir.to_owned(), source })?;
        let (queue, commands) = mpsc::channel(QUEUE_FRAMES);
        let failure = Failure::default();
        let thread = std::thread::Builder::new().name("ledger".to_owned());
        let writer = thread
            .spawn({
                let failure = failure.clone();
                move || writer::run(commands, applier, &failure)
            })
            .map_err(|source| OpenError::Io { dir: dir.to_owned(), source })?;
        let room = Arc::new(Semaphore::new(QUEUE_RECORDS as usize));
        let inner = Inner { store, plan, queue: Some(queue), room, failure, writer: Some(writer) };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Applies what is new of a frame and returns when that is durable.
    ///
    /// # Errors
    /// When the frame is damaged or the ledger failed.
    pub async fn append(&self, frame: Frame) -> Result<Appended, AppendError> {
        frame.check_size()?;
        // The room is taken before anything is unpacked: memory is bounded by it.
        let room = Arc::clone(&self.inner.room).acquire_many_owned(frame.count).await;
        let room = room.map_err(|_| self.closed())?;
        let frame = frame.check()?;
        let (done, answer) = oneshot::channel();
        let queue = self.inner.queue.as_ref().ok_or_else(|| self.closed())?;
        queue.send(writer::Command::Append { frame, room, done }).await.map_err(|_| self.closed())?;
        answer.await.map_err(|_| self.closed())
    }

    /// Sums by function and hour, grouped as asked. Blocks on the disk.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn usage(&self, query: &UsageQuery) -> Result<Page<UsageRow, RowKey>, ReadError> {
        usage::query(&self.inner.store, query)
    }

    /// Single records. Blocks on the disk.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn records(&self, query: &RecordsQuery) -> Result<Page<RecordRow, RecordKey>, ReadError> {
        records::query(&self.inner.store, query)
    }

    /// Everything a tenant used in a period of whole hours. Blocks on the disk.
    ///
    /// # Errors
    /// When the store cannot be read or knows no such tenant.
    pub fn tenant_usage(&self, tenant: &str, hours: std::ops::Range<u32>) -> Result<UsageSum, ReadError> {
        usage::of_tenant(&self.inner.store, tenant, hours)
    }

    /// The prices in force.
    #[must_use]
    pub fn plan(&self) -> &PricePlan {
        &self.inner.plan
    }

    /// The folder it is in.
    #[must_use]
    pub fn dir(&self) -> &PathBuf {
        &self.inner.store.dir
    }

    /// Whether it can be relied on. Reads a folder: cheap, but not for every call.
    #[must_use]
    pub fn health(&self) -> Health {
        let problem = self.inner.failure.why().or_else(|| self.inner.store.problem());
        Health { problem, size_on_disk: self.inner.store.size_on_disk() }
    }

    /// Reads everything and compares watermarks, records and sums, while nothing is written.
    ///
    /// # Errors
    /// When the store cannot be read; differences are no error but told in the result.
    pub async fn verify(&self) -> Result<Conservation, ReadError> {
        let (done, answer) = oneshot::channel();
        let closed = || ReadError::Closed(self.inner.failure.why().unwrap_or_default());
        let queue = self.inner.queue.as_ref().ok_or_else(closed)?;
        queue.send(writer::Command::Verify { done }).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    fn closed(&self) -> AppendError {
        AppendError::Closed(self.inner.failure.why().unwrap_or_else(|| "it is closed".to_owned()))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(writer) = self.writer.take() {
            // The writer ends once the queue is closed and what was in it is committed: one group's time. Its panic
            // was already told where it was caught.
            let _ = writer.join();
        }
    }
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").field("dir", &self.inner.store.dir).finish_non_exhaustive()
    }
}
