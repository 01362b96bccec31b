//! What every store of a ledger does; everything else is said once, above it.

use super::fold::Fold;
use super::frame::Checked;
use super::retention::Bounds;
use super::reversals::Entry;
use super::transfer::Item;
use super::{
    AppendError, Appended, Conservation, FunctionId, Health, Level, Month, Page, ReadError, RecordKey, RecordRow,
    WarmSpan,
};
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::mpsc;

/// A question for records, by the store's numbers.
#[derive(Clone, Debug)]
pub(super) struct Scan {
    /// By the time of the first byte, microseconds since 1970 UTC, the end not included; never empty.
    pub(super) times_us: Range<i64>,
    /// Whose records; `None` for everybody's, never empty.
    pub(super) functions: Option<HashSet<u32>>,
    /// Only records after this one.
    pub(super) after: Option<RecordKey>,
    /// Most rows; at least one.
    pub(super) limit: usize,
}

/// How far epochs were applied, by activator and epoch.
pub(super) type Marks = HashMap<(u64, u32), u64>;

/// Up to when months are closed, hours since 1970 UTC: beginnings of months.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Closed {
    /// Months before this hour are closed.
    pub(super) before: u32,
    /// Of those before this hour every tenant that was known has its document.
    pub(super) told_before: u32,
}

/// Where a ledger keeps records and sums.
#[tonic::async_trait]
pub(super) trait Store: Send + Sync {
    /// Applies what is new of a frame, in one step with its sums and its epoch's watermark, and returns when that is
    /// durable. What was refused or failed has changed nothing.
    async fn append(&self, frame: Checked) -> Result<Appended, AppendError>;

    /// Counts the time that instances were kept warm, of each only what is behind what was counted of it before, and
    /// returns when that is durable.
    async fn keep_warm(&self, spans: Vec<WarmSpan>) -> Result<(), AppendError>;

    /// How far each epoch was applied: what comes later is not behind these marks, wherever the store keeps it.
    async fn mark(&self) -> Result<Marks, AppendError>;

    /// Gives up a part of what is kept no longer; answers whether there is more of it. Sums of hours are added to their
    /// days; with single records goes what only they refer to. From its beginning on [`Store::gone`] says so. Where there
    /// are marks, records go that are behind them, and no others.
    async fn tidy(&self, bounds: Bounds, marks: Option<Arc<Marks>>) -> Result<bool, AppendError>;

    /// What is kept no longer. Cheap.
    fn gone(&self) -> Bounds;

    /// Closes months: what is applied from now on for an hour before this one is late, and that is noted by function and
    /// month. Neither of the two bounds ever goes back.
    async fn close(&self, closed: Closed) -> Result<(), AppendError>;

    /// What is closed.
    async fn closed(&self) -> Result<Closed, ReadError>;

    /// Functions, by the store's number, and months to which something late was added.
    async fn late(&self) -> Result<Vec<(u32, Month)>, ReadError>;

    /// Keeps what says that records are taken back, in one step, with a note where that comes to a closed month; of each
    /// record the first. Says of each whether it was new; returns when that is durable.
    async fn reverse(&self, entries: Vec<Entry>) -> Result<Vec<bool>, AppendError>;

    /// What was kept of these functions in a period, hours since 1970 UTC, in order.
    async fn reversals(&self, functions: Vec<u32>, hours: Range<u32>) -> Result<Vec<Entry>, ReadError>;

    /// Keeps a tenant's document of a month for ever. One that is there stays as it is.
    async fn keep_document(&self, tenant: &str, month: Month, document: Vec<u8>) -> Result<(), AppendError>;

    /// A tenant's documents in the order of their months.
    async fn documents(&self, tenant: &str) -> Result<Vec<(Month, Vec<u8>)>, ReadError>;

    /// Every function that was ever recorded, by the store's number.
    async fn functions(&self) -> Result<Vec<(u32, FunctionId)>, ReadError>;

    /// Gives the rows of some functions to `fold`, level by level, each with its period in its own unit, as they are at one
    /// moment: function by function in the order given, each in the order of time, until it has had enough.
    async fn fold(&self, functions: Vec<u32>, levels: Vec<(Level, Range<u32>)>, fold: Fold) -> Result<Fold, ReadError>;

    /// Single records in the order of their keys. A page may be short, even empty, and yet have a next one: the work for
    /// one page is bounded.
    async fn records(&self, scan: Scan) -> Result<Page<RecordRow, RecordKey>, ReadError>;

    /// Reads everything and compares watermarks, records and sums, while nothing is written.
    async fn verify(&self) -> Result<Conservation, ReadError>;

    /// Gives everything that is kept, in the order of [`Item`]'s kinds, without the end. Nothing may be added meanwhile.
    async fn dump(&self, items: mpsc::Sender<Item>) -> Result<(), ReadError>;

    /// Takes everything that another ledger gave, into an empty one, and compares. Without [`Item::End`], or where it is not
    /// the same, it fails, and what is there then cannot be opened, or is nothing.
    async fn restore(&self, items: mpsc::Receiver<Item>) -> Result<(), AppendError>;

    /// Returns when it takes no more records and has to be opened again.
    async fn failed(&self);

    /// Whether it can be relied on. Cheap, but not for every call.
    fn health(&self) -> Health;
}
