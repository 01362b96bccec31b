//! Where records end: each frame applied exactly once, kept in a store for a while, summed by minute and hour, and by day
//! for ever.
//!
//! What every store does is [`store::Store`]; what is said here and beside it is said once for all of them.

mod archive;
mod codec;
mod conservation;
mod counts;
mod door;
mod fold;
mod frame;
mod function;
mod groups;
mod local;
mod month;
mod plans;
mod postgres;
mod records;
mod retention;
pub mod reversals;
mod rpc;
mod sled;
pub mod statements;
mod store;
mod times;
pub mod transfer;
mod usage;
mod warm;

pub use self::sled::{Filesystem, FolderError};
pub use archive::ArchiveError;
pub use conservation::Conservation;
pub use door::{DoorState, LedgerDoor, NotADatabase, Place};
pub use frame::{Frame, MAX_FRAME_RECORDS, MAX_FRAME_SUBJECTS};
pub use function::FunctionId;
pub use groups::Groups;
pub use local::LocalTimes;
pub use month::{Month, NotAMonth};
pub use plans::{Plans, TooManyRules};
pub use postgres::PostgresError;
pub use records::{RecordKey, RecordRow, RecordsQuery};
pub use retention::{BadRetention, MINUTES_KEPT_HOURS, Retention};
pub use rpc::service;
pub use usage::{Filter, Granularity, GroupBy, GroupKey, Level, MAX_DAYS, RowKey, UsageQuery, UsageRow};
pub use warm::WarmSpan;

use self::postgres::PostgresStore;
use self::sled::SledStore;
use dormouse_core::price::{PricePlan, TooLarge};
use dormouse_core::usage::UsageSum;
use jiff::Timestamp;
use retention::Bounds;
use reversals::{Order, RecordId, Reversal, ReverseError, Reversed};
use statements::CloseError;
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use store::{Marks, Store};
use tokio::sync::Semaphore;

/// Records that wait for the store, unpacked: 131,072 x 104 B = 13.6 MB.
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
    /// The store could not read.
    #[error("the ledger could not be read")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A value is not what was written.
    #[error("{0}")]
    Corrupt(String),
    /// An amount has too many digits.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// The ledger knows no usage of this tenant.
    #[error("tenant {0:?} has no usage in this ledger")]
    UnknownTenant(String),
    /// The writer is gone.
    #[error("the ledger is closed: {0}")]
    Closed(String),
}

/// A ledger that cannot be opened. The messages are for people: where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// In a folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// In a database.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    /// Opening it ended in a panic, which was logged.
    #[error("the ledger in {0} could not be opened: see the log")]
    Panicked(String),
}

/// Some rows and where to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<R, K> {
    /// The rows, at most as many as asked for.
    pub rows: Vec<R>,
    /// The last place looked at, when there may be more.
    pub next: Option<K>,
}

/// What a ledger still has in fine grains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptFrom {
    /// Sums by the hour, from this one on: hours since 1970 UTC, the beginning of a day.
    pub hours: u32,
    /// Single records of this hour and later ones.
    pub records: u32,
}

/// Whether the ledger can be relied on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Why it takes no records, or may lose some.
    pub problem: Option<String>,
    /// Bytes that the store takes.
    pub size_on_disk: u64,
}

/// An open ledger; clones share it. The last one to go closes it.
#[derive(Clone)]
pub struct Ledger {
    store: Arc<dyn Store>,
    place: Place,
    room: Arc<Semaphore>,
}

impl Ledger {
    /// Opens the ledger at a place, once its store has recovered.
    ///
    /// # Errors
    /// When it cannot be opened: the message says where and what to do.
    pub async fn open(place: Place, plans: impl Into<Plans>) -> Result<Self, OpenError> {
        let rules = plans.into().rules();
        let store: Arc<dyn Store> = match &place {
            Place::Folder { dir, filesystem } => {
                let (dir, filesystem) = (dir.clone(), *filesystem);
                let opened = tokio::task::spawn_blocking(move || SledStore::open(&dir, filesystem, rules));
                Arc::new(opened.await.map_err(|_| OpenError::Panicked(place.to_string()))??)
            }
            Place::Postgres(config) => Arc::new(PostgresStore::open(config, rules).await?),
        };
        let room = Arc::new(Semaphore::new(QUEUE_RECORDS as usize));
        Ok(Self { store, place, room })
    }

    /// Applies what is new of a frame and returns when that is durable.
    ///
    /// # Errors
    /// When the frame is damaged or the ledger failed.
    pub async fn append(&self, frame: Frame) -> Result<Appended, AppendError> {
        frame.check_size()?;
        // The room is taken before anything is unpacked: memory is bounded by it.
        let room = Arc::clone(&self.room).acquire_many_owned(frame.count).await;
        let room = room.map_err(|_| AppendError::Closed("it is closed".to_owned()))?;
        let mut frame = frame.check()?;
        frame.room = Some(room);
        self.store.append(frame).await
    }

    /// Counts the time that instances were kept warm; returns when that is durable.
    ///
    /// # Errors
    /// When the ledger failed: tell it again later.
    pub async fn keep_warm(&self, spans: Vec<WarmSpan>) -> Result<(), AppendError> {
        self.store.keep_warm(spans).await
    }

    /// Gives up what is kept no longer, seen from an hour since 1970 UTC: see [`Retention`].
    ///
    /// # Errors
    /// When the ledger failed; what was not given up yet is, next time.
    pub async fn tidy(&self, retention: Retention, now: u32) -> Result<(), AppendError> {
        self.give_up(retention.bounds(now), None).await
    }

    /// The same, once the records that go are in files of a folder: one for each day. Answers how many there were.
    ///
    /// # Errors
    /// When they cannot be written, or the ledger failed: then nothing of them is gone.
    pub async fn archive(&self, retention: Retention, now: u32, dir: &Path) -> Result<u64, ArchiveError> {
        let bounds = retention.bounds(now).max(self.store.gone());
        let mut count = 0;
        // A day goes before the next one is written: there are never two copies of more than one.
        while let Some(day) = archive::first_day(&*self.store, bounds.record_hour).await? {
            let marks = Arc::new(self.store.mark().await?);
            let record_hour = (day + 1) * 24;
            count += archive::write(&*self.store, dir, record_hour, &marks).await?;
            self.give_up(Bounds { record_hour, ..self.store.gone() }, Some(marks)).await?;
        }
        // What came meanwhile stays until the next time.
        self.give_up(bounds, Some(Arc::default())).await?;
        Ok(count)
    }

    async fn give_up(&self, bounds: Bounds, marks: Option<Arc<Marks>>) -> Result<(), AppendError> {
        let bounds = bounds.max(self.store.gone());
        while self.store.tidy(bounds, marks.clone()).await? {}
        Ok(())
    }

    /// When something was last given up; `None` before the first time.
    pub(super) fn last_tidied(&self) -> Option<Timestamp> {
        let minute = Some(self.store.gone().minute).filter(|minute| *minute > 0)?;
        Timestamp::from_second((i64::from(minute) + i64::from(MINUTES_KEPT_HOURS) * 60) * 60).ok()
    }

    /// From when on sums by the hour are there, and single records: hours since 1970 UTC, beginnings of days. Before, sums
    /// are there by the day.
    #[must_use]
    pub fn kept_from(&self) -> KeptFrom {
        let gone = self.store.gone();
        KeptFrom { hours: gone.hour, records: gone.record_hour }
    }

    /// Sums by function and time, grouped as asked.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn usage(&self, query: &UsageQuery) -> Result<Page<UsageRow, RowKey>, ReadError> {
        usage::query(&*self.store, query).await
    }

    /// What a question for sums is about, to be read part by part: see [`Groups::parts`].
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn groups(&self, query: &UsageQuery) -> Result<Groups, ReadError> {
        Groups::find(&*self.store, query).await
    }

    /// Every row of one part.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn part(&self, groups: &Groups, part: std::ops::Range<usize>) -> Result<Vec<UsageRow>, ReadError> {
        groups.read(&*self.store, part, usize::MAX).await
    }

    /// Single records.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn records(&self, query: &RecordsQuery) -> Result<Page<RecordRow, RecordKey>, ReadError> {
        records::query(&*self.store, query).await
    }

    /// Takes records back: what they are billed is billed no longer, in their month, or where that is closed by a correction.
    /// Answers what became of each; returns when that is durable.
    ///
    /// # Errors
    /// When the order cannot be taken, or the ledger failed.
    pub async fn reverse(&self, ids: &[RecordId], order: Order<'_>) -> Result<Vec<Reversed>, ReverseError> {
        reversals::reverse(&*self.store, ids, order).await
    }

    /// What was taken back of calls that came in a period, microseconds since 1970 UTC: at most `limit` behind `after`, and
    /// whether there is more.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn reversals(
        &self,
        filter: &Filter,
        times_us: &Range<i64>,
        (after, limit): (Option<RecordId>, usize),
    ) -> Result<(Vec<Reversal>, bool), ReadError> {
        reversals::of(&*self.store, filter, times_us, (after, limit)).await
    }

    /// What was taken back among these records.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn reversed_among(&self, rows: &[RecordRow]) -> Result<HashMap<RecordId, Reversal>, ReadError> {
        reversals::among(&*self.store, rows).await
    }

    /// The namespaces of all functions that a tenant ever paid for.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn namespaces_of(&self, tenant: &str) -> Result<BTreeSet<String>, ReadError> {
        let all = self.store.functions().await?;
        Ok(all.into_iter().filter(|(_, id)| id.tenant == tenant).map(|(_, id)| id.namespace).collect())
    }

    /// Everything a tenant used in a period of whole hours; of whole days where hours are not kept any longer.
    ///
    /// # Errors
    /// When the store cannot be read or knows no such tenant.
    pub async fn tenant_usage(&self, tenant: &str, hours: std::ops::Range<u32>) -> Result<UsageSum, ReadError> {
        usage::of_tenant(&*self.store, tenant, hours).await
    }

    /// A tenant's statement of a month, by the plan in force; or an estimate of it by another plan.
    ///
    /// # Errors
    /// When the store cannot be read or knows no such tenant, or an amount is too large.
    pub async fn statement(
        &self,
        tenant: &str,
        month: Month,
        plans: &Plans,
        by: Option<&PricePlan>,
        now: Timestamp,
    ) -> Result<statements::Answer, ReadError> {
        statements::of(&*self.store, (tenant, month), (plans, by), now).await
    }

    /// Closes the months that ended `after_days` days ago, or earlier: their statements are made, and stay as they are.
    ///
    /// # Errors
    /// When the ledger failed; what was not done is, next time.
    pub async fn close_months(&self, plans: &Plans, after_days: u32, now: Timestamp) -> Result<(), CloseError> {
        statements::close(&*self.store, plans, after_days, now).await
    }

    /// Where it is.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Whether it can be relied on. Cheap, but not for every call.
    #[must_use]
    pub fn health(&self) -> Health {
        self.store.health()
    }

    /// Reads everything and compares watermarks, records and sums, while nothing is written.
    ///
    /// # Errors
    /// When the store cannot be read; differences are no error but told in the result.
    pub async fn verify(&self) -> Result<Conservation, ReadError> {
        self.store.verify().await
    }

    /// Returns when the ledger takes no more records.
    pub async fn failed(&self) {
        self.store.failed().await;
    }
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").field("place", &self.place).finish_non_exhaustive()
    }
}
