//! The store in a PostgreSQL database that the user runs: in a schema of its own, made and brought up to date here.
//!
//! A frame is one transaction. It locks the row of its epoch's watermark first: a second writer of the same epoch waits
//! there and then sees what the first one did, so no record is ever applied twice, whoever writes. Sums are added to in
//! the order of their keys, so that no two transactions wait for each other. A failed transaction changes nothing, and the
//! activator sends its frame again: while the database is away records wait in the activators.

mod append;
mod closed;
mod connect;
mod names;
mod read;
mod rows;
mod sums;
mod tidy;
mod transfer;

pub use connect::PostgresError;

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
use connect::{Held, Pool};
use dormouse_core::price::Metering;
use names::Names;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_postgres::Config;

/// A database and what this process knows of it.
pub(super) struct PostgresStore {
    pool: Pool,
    rules: Vec<Metering>,
    names: Names,
    /// Days for which there is a partition of records.
    days: Mutex<HashSet<i32>>,
    /// Why the last write failed, if it did.
    problem: Mutex<Option<String>>,
    /// Bytes of the schema, as last asked.
    size: Mutex<u64>,
    /// What is kept no longer, as last asked.
    gone: Mutex<Bounds>,
}

/// Why the database gave no answer.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("no connection: {0}")]
    Pool(#[from] deadpool_postgres::PoolError),
    #[error(transparent)]
    Asked(#[from] tokio_postgres::Error),
    /// What is stored is not what is written.
    #[error("a stored {0} is damaged")]
    Corrupt(&'static str),
}

impl Trouble {
    /// With its cause: the driver keeps what the server said in there.
    fn words(&self) -> String {
        let asked = match self {
            Self::Pool(deadpool_postgres::PoolError::Backend(error)) | Self::Asked(error) => error,
            other => return other.to_string(),
        };
        match (asked.as_db_error(), std::error::Error::source(asked)) {
            (Some(db), _) => format!("{} (SQLSTATE {})", db.message(), db.code().code()),
            (None, Some(cause)) => format!("{asked}: {cause}"),
            (None, None) => asked.to_string(),
        }
    }
}

impl PostgresStore {
    /// Connects, and makes the schema or brings it up to date.
    pub(super) async fn open(config: &Config, rules: Vec<Metering>) -> Result<Self, PostgresError> {
        let pool = Pool::open(config).await?;
        let (days, problem, size, gone) = Default::default();
        let store = Self { pool, rules, names: Names::default(), days, problem, size, gone };
        store.look().await.map_err(|e| PostgresError::Failed { place: place(config), why: e.words() })?;
        Ok(store)
    }

    /// A connection to write by. With a new one nothing is taken for known: it may be to another database, behind the same
    /// address, whose numbers are its own.
    async fn client(&self) -> Result<Held, Trouble> {
        let client = self.pool.client().await?;
        if client.is_new() {
            self.names.forget();
            self.days.lock().clear();
        }
        Ok(client)
    }

    /// Asks how large it is, and what is kept no longer.
    async fn look(&self) -> Result<(), Trouble> {
        let client = self.pool.client().await?;
        let row = client.query_one(SIZE, &[]).await.map_err(Trouble::from);
        let gone = self.read_gone(&client).await;
        let size: i64 = client.after(gone.and(row))?.get(0);
        *self.size.lock() = size.unsigned_abs();
        Ok(())
    }

    async fn read_gone(&self, client: &tokio_postgres::Client) -> Result<(), Trouble> {
        *self.gone.lock() = gone(client).await?;
        Ok(())
    }

    /// Remembers how a write went.
    fn wrote<T>(&self, result: Result<T, Trouble>) -> Result<T, AppendError> {
        let told = result.map_err(|e| e.words());
        let mut problem = self.problem.lock();
        if let Err(why) = &told
            && problem.as_ref() != Some(why)
        {
            tracing::warn!(why, "PostgreSQL takes no records");
        }
        *problem = told.as_ref().err().cloned();
        told.map_err(AppendError::Closed)
    }
}

/// What is kept no longer.
async fn gone(client: &tokio_postgres::Client) -> Result<Bounds, Trouble> {
    let row = client.query_one("SELECT minute, hour, record_hour FROM state", &[]).await?;
    let at = |at: usize| u32::try_from(row.get::<_, i64>(at)).map_err(|_| Trouble::Corrupt("note of what is gone"));
    Ok(Bounds { minute: at(0)?, hour: at(1)?, record_hour: at(2)? })
}

/// What who writes something else than records is told: nothing of it is worth being called not ready.
fn written<T>(answer: Result<T, Trouble>) -> Result<T, AppendError> {
    answer.map_err(|trouble| AppendError::Closed(trouble.words()))
}

/// What a reader is told.
fn read<T>(answer: Result<T, Trouble>) -> Result<T, ReadError> {
    answer.map_err(|trouble| match trouble {
        Trouble::Corrupt(_) => ReadError::Corrupt(trouble.to_string()),
        other => {
            let why = other.words();
            tracing::warn!(why, "PostgreSQL gives no answer");
            ReadError::Closed(why)
        }
    })
}

/// Bytes of all tables with their indexes.
const SIZE: &str = "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c \
    WHERE c.relnamespace = 'dormouse'::regnamespace AND c.relkind IN ('r', 'p')";

/// Where a database is, without the password.
pub(super) fn place(config: &Config) -> String {
    let hosts = config.get_hosts().iter().map(|host| match host {
        tokio_postgres::config::Host::Tcp(name) => name.clone(),
        tokio_postgres::config::Host::Unix(path) => path.display().to_string(),
    });
    let hosts: Vec<String> = hosts.collect();
    let user = config.get_user().unwrap_or("?");
    format!("PostgreSQL {user}@{}/{}", hosts.join(","), config.get_dbname().unwrap_or(user))
}

/// Numbers without a sign, in the order in which they count.
fn signed(value: u64) -> i64 {
    (value ^ (1 << 63)) as i64
}

/// Back from [`signed`].
fn unsigned(value: i64) -> u64 {
    value as u64 ^ (1 << 63)
}

#[tonic::async_trait]
impl Store for PostgresStore {
    async fn append(&self, frame: Checked) -> Result<Appended, AppendError> {
        self.wrote(append::frame(self, &frame).await)
    }

    async fn keep_warm(&self, spans: Vec<WarmSpan>) -> Result<(), AppendError> {
        self.wrote(append::keep_warm(self, &spans).await)
    }

    async fn mark(&self) -> Result<Marks, AppendError> {
        written(tidy::marks(&self.pool).await)
    }

    async fn tidy(&self, bounds: Bounds, marks: Option<Arc<Marks>>) -> Result<bool, AppendError> {
        written(tidy::all(self, bounds, marks.as_deref()).await)?;
        let _ = self.look().await;
        Ok(false)
    }

    fn gone(&self) -> Bounds {
        *self.gone.lock()
    }

    async fn close(&self, closed: Closed) -> Result<(), AppendError> {
        written(closed::close(&self.pool, closed).await)
    }

    async fn closed(&self) -> Result<Closed, ReadError> {
        read(closed::closed(&self.pool).await)
    }

    async fn late(&self) -> Result<Vec<(u32, Month)>, ReadError> {
        read(closed::late(&self.pool).await)
    }

    async fn reverse(&self, entries: Vec<Entry>) -> Result<Vec<bool>, AppendError> {
        written(closed::reverse(&self.pool, &entries).await)
    }

    async fn reversals(&self, functions: Vec<u32>, hours: Range<u32>) -> Result<Vec<Entry>, ReadError> {
        read(closed::reversals(&self.pool, &functions, &hours).await)
    }

    async fn keep_document(&self, tenant: &str, month: Month, document: Vec<u8>) -> Result<(), AppendError> {
        written(closed::keep_document(&self.pool, tenant, month, &document).await)
    }

    async fn documents(&self, tenant: &str) -> Result<Vec<(Month, Vec<u8>)>, ReadError> {
        read(closed::documents(&self.pool, tenant).await)
    }

    async fn functions(&self) -> Result<Vec<(u32, FunctionId)>, ReadError> {
        read(read::functions(&self.pool).await)
    }

    async fn fold(&self, functions: Vec<u32>, levels: Vec<(Level, Range<u32>)>, fold: Fold) -> Result<Fold, ReadError> {
        read(sums::fold(&self.pool, &functions, levels, fold).await)
    }

    async fn records(&self, scan: Scan) -> Result<Page<RecordRow, RecordKey>, ReadError> {
        read(read::records(&self.pool, &scan, self.gone()).await)
    }

    async fn verify(&self) -> Result<Conservation, ReadError> {
        read(read::verify(&self.pool).await)
    }

    async fn dump(&self, items: mpsc::Sender<Item>) -> Result<(), ReadError> {
        read(transfer::dump(self, &items).await)
    }

    async fn restore(&self, items: mpsc::Receiver<Item>) -> Result<(), AppendError> {
        written(transfer::restore(self, items).await)
    }

    async fn failed(&self) {
        // A connection that broke is replaced: there is nothing that has to be opened again.
        std::future::pending::<()>().await;
    }

    fn health(&self) -> Health {
        Health { problem: self.problem.lock().clone(), size_on_disk: *self.size.lock() }
    }
}
