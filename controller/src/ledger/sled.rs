//! The store in a folder, for one controller and no other server: everything in sled.
//!
//! How sled is used, so that a power cut loses nothing that was acknowledged: one `Db`, one tree, values of at most
//! 4 KiB, one writer thread that groups frames into atomic batches of blocks, sums and watermarks, then flushes sled
//! and syncs its file through a second handle (sled itself only starts the write-back), and only then acknowledges.
//! After the first write error the store acknowledges nothing more and must be opened again.

mod apply;
mod block;
mod closed;
mod dict;
mod growth;
mod key;
mod open;
mod records;
mod tidy;
mod transfer;
mod verify;
mod writer;

#[cfg(test)]
mod tests;

pub use open::{Filesystem, FolderError};

use super::codec::{self, CorruptValue};
use super::fold::Fold;
use super::frame::Checked;
use super::retention::Bounds;
use super::reversals::Entry;
use super::store::{Closed, Marks, Scan, Store};
use super::transfer::Item;
use super::{
    AppendError, Appended, Conservation, FunctionId, Health, Level, Month, Page, ReadError, RecordKey, RecordRow,
    WarmSpan,
};
use dormouse_core::price::Metering;
use key::RollupId;
use open::Folder;
use parking_lot::Mutex;
use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::sync::Arc;
use tokio::sync::{RwLock, mpsc, oneshot};
use writer::Command;

/// Frames that wait for the writer.
const QUEUE_FRAMES: usize = 256;

impl From<sled::Error> for ReadError {
    fn from(error: sled::Error) -> Self {
        Self::Store(Box::new(error))
    }
}

/// The open folder and its writer. Dropping it waits until what was asked is written.
pub(super) struct SledStore {
    folder: Arc<Folder>,
    /// Taken at the end, so that the writer sees it close.
    queue: Option<mpsc::Sender<Command>>,
    failure: Failure,
    /// Held by who adds up rows, alone by who moves them from hours to days.
    rows: RwLock<()>,
    writer: Option<std::thread::JoinHandle<()>>,
}

/// Why the writer stopped; shared between it and the store.
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

impl SledStore {
    /// Opens the folder, which is made if it is not there. Blocks while sled recovers.
    pub(super) fn open(dir: &Path, filesystem: Filesystem, rules: Vec<Metering>) -> Result<Self, FolderError> {
        let folder = Arc::new(Folder::open(dir, filesystem)?);
        let read = |source| FolderError::Read { dir: dir.to_owned(), source };
        *folder.gone.lock() = tidy::stored_gone(&folder).map_err(read)?;
        let applier = apply::Applier::new(Arc::clone(&folder), rules).map_err(read)?;
        verify::check_tails(&folder).map_err(read)?;
        let (queue, commands) = mpsc::channel(QUEUE_FRAMES);
        let failure = Failure::default();
        let thread = std::thread::Builder::new().name("ledger".to_owned());
        let writer = thread
            .spawn({
                let failure = failure.clone();
                move || writer::run(commands, applier, &failure)
            })
            .map_err(|source| FolderError::Io { dir: dir.to_owned(), source })?;
        Ok(Self { folder, queue: Some(queue), failure, rows: RwLock::default(), writer: Some(writer) })
    }

    /// Asks on a thread that may block.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Folder) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let folder = Arc::clone(&self.folder);
        let answer = tokio::task::spawn_blocking(move || question(&folder)).await;
        answer.unwrap_or_else(|_| Err(ReadError::Closed("a read of the store ended in a panic".to_owned())))
    }

    /// Gives the writer a command, and answers what it does when it is done; else why it takes none.
    async fn tell<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, String> {
        let closed = || self.failure.why().unwrap_or_else(|| "it is closed".to_owned());
        let (done, answer) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or_else(closed)?;
        queue.send(command(done)).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())
    }
}

#[tonic::async_trait]
impl Store for SledStore {
    async fn append(&self, frame: Checked) -> Result<Appended, AppendError> {
        self.tell(|done| Command::Append { frame, done }).await.map_err(AppendError::Closed)
    }

    async fn keep_warm(&self, spans: Vec<WarmSpan>) -> Result<(), AppendError> {
        self.tell(|done| Command::Warm { spans, done }).await.map_err(AppendError::Closed)
    }

    async fn mark(&self) -> Result<Marks, AppendError> {
        self.tell(|done| Command::Mark { done }).await.map_err(AppendError::Closed)
    }

    async fn tidy(&self, bounds: Bounds, marks: Option<Arc<Marks>>) -> Result<bool, AppendError> {
        let _rows = self.rows.write().await;
        let tidied = self.tell(|done| Command::Tidy { bounds, marks, done }).await;
        tidied.and_then(|tidied| tidied).map_err(AppendError::Closed)
    }

    fn gone(&self) -> Bounds {
        *self.folder.gone.lock()
    }

    async fn close(&self, closed: Closed) -> Result<(), AppendError> {
        self.tell(|done| Command::Close { closed, done }).await.map_err(AppendError::Closed)
    }

    async fn closed(&self) -> Result<Closed, ReadError> {
        self.ask(closed::closed).await
    }

    async fn late(&self) -> Result<Vec<(u32, Month)>, ReadError> {
        self.ask(closed::late).await
    }

    async fn reverse(&self, entries: Vec<Entry>) -> Result<Vec<bool>, AppendError> {
        self.tell(|done| Command::Reverse { entries, done }).await.map_err(AppendError::Closed)
    }

    async fn reversals(&self, functions: Vec<u32>, hours: Range<u32>) -> Result<Vec<Entry>, ReadError> {
        self.ask(move |folder| closed::reversals(folder, &functions, &hours)).await
    }

    async fn keep_document(&self, tenant: &str, month: Month, document: Vec<u8>) -> Result<(), AppendError> {
        let tenant = tenant.to_owned();
        let told = self.tell(|done| Command::Document { tenant, month, document, done }).await;
        told.and_then(|told| told).map_err(AppendError::Closed)
    }

    async fn documents(&self, tenant: &str) -> Result<Vec<(Month, Vec<u8>)>, ReadError> {
        let tenant = tenant.to_owned();
        self.ask(move |folder| closed::documents(folder, &tenant)).await
    }

    async fn functions(&self) -> Result<Vec<(u32, FunctionId)>, ReadError> {
        self.ask(|folder| dict::functions(folder).collect()).await
    }

    async fn fold(&self, functions: Vec<u32>, levels: Vec<(Level, Range<u32>)>, fold: Fold) -> Result<Fold, ReadError> {
        // Nothing moves from one level to another meanwhile.
        let _rows = self.rows.read().await;
        self.ask(move |folder| {
            let of = |fold: Fold, (level, period)| fold_rows(folder, &functions, level, &period, fold.of(level));
            levels.into_iter().try_fold(fold, of)
        })
        .await
    }

    async fn records(&self, scan: Scan) -> Result<Page<RecordRow, RecordKey>, ReadError> {
        self.ask(move |folder| records::scan(folder, &scan)).await
    }

    async fn verify(&self) -> Result<Conservation, ReadError> {
        self.tell(|done| Command::Verify { done }).await.map_err(ReadError::Closed)?
    }

    async fn dump(&self, items: mpsc::Sender<Item>) -> Result<(), ReadError> {
        self.ask(move |folder| transfer::dump(folder, &|item| items.blocking_send(item).is_ok())).await
    }

    async fn restore(&self, items: mpsc::Receiver<Item>) -> Result<(), AppendError> {
        let restored = self.ask(move |folder| transfer::restore(folder, items)).await;
        restored.map_err(|e| AppendError::Closed(e.to_string()))
    }

    async fn failed(&self) {
        if let Some(queue) = &self.queue {
            queue.closed().await;
        }
    }

    fn health(&self) -> Health {
        let problem = self.failure.why().or_else(|| self.folder.problem());
        Health { problem, size_on_disk: self.folder.size_on_disk() }
    }
}

fn fold_rows(
    folder: &Folder,
    functions: &[u32],
    level: Level,
    period: &Range<u32>,
    mut fold: Fold,
) -> Result<Fold, ReadError> {
    for &function in functions {
        if fold.is_full_before(function) {
            break;
        }
        let at = |time| RollupId { level, function, time }.key();
        for entry in folder.db.range(at(fold.starts_at(function, period))..at(period.end)) {
            let (key, value) = entry?;
            let time = RollupId::time_in(&key).ok_or(CorruptValue("sum's key"))?;
            if let ControlFlow::Break(()) = fold.take(function, time, codec::decode_sum(&value)?) {
                break;
            }
        }
    }
    Ok(fold)
}

impl Drop for SledStore {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(writer) = self.writer.take() {
            // The writer ends once the queue is closed and what was in it is committed: one group's time. Its panic
            // was already told where it was caught.
            let _ = writer.join();
        }
    }
}
