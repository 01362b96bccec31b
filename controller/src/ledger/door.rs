//! The door to a ledger that may be closed: waking functions never depends on it, so whoever holds the door goes on and
//! the ledger is tried again.

use super::counts::Counts;
use super::{ArchiveError, Filesystem, Ledger, OpenError, Plans, Retention};
use crate::through::Through;
use dormouse_core::price::PricePlan;
use jiff::{SignedDuration, Timestamp};
use parking_lot::RwLock;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// First and longest pause between two tries to open.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// A text that names no PostgreSQL database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not the URL of a PostgreSQL database: write for example postgres://user:password@host:5432/name?sslmode=require"
)]
pub struct NotADatabase;

/// Where a ledger is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a folder of this machine.
    Folder {
        /// The folder.
        dir: PathBuf,
        /// What to do on a file system that the ledger is not proven on.
        filesystem: Filesystem,
    },
    /// In a PostgreSQL database.
    Postgres(Box<tokio_postgres::Config>),
}

impl Place {
    /// A folder on a file system that the ledger is proven on.
    pub fn folder(dir: impl Into<PathBuf>) -> Self {
        Self::Folder { dir: dir.into(), filesystem: Filesystem::Checked }
    }

    /// A database by its URL, as in `postgres://user:password@host:5432/name?sslmode=require`.
    ///
    /// # Errors
    /// When it is none; the message does not repeat it, because of the password in it.
    pub fn postgres(url: &str) -> Result<Self, NotADatabase> {
        // Over TLS the server's certificate and name are always checked: what others call verify-full.
        let url = url
            .trim()
            .replace("sslmode=verify-full", "sslmode=require")
            .replace("sslmode=verify-ca", "sslmode=require");
        let config: tokio_postgres::Config = url.parse().map_err(|_| NotADatabase)?;
        if config.get_hosts().is_empty() || config.get_user().is_none() {
            return Err(NotADatabase);
        }
        Ok(Self::Postgres(Box::new(config)))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder { dir, .. } => write!(f, "{}", dir.display()),
            Self::Postgres(config) => f.write_str(&super::postgres::place(config)),
        }
    }
}

/// Pause between two looks at what is not kept any longer.
const TIDY: Duration = Duration::from_secs(3600);
/// A clock that is so much later than at the last look is given an hour to be put right, as machines do after they start:
/// what is closed or given up by a wrong one stays so.
const JUMP: SignedDuration = SignedDuration::from_hours(31 * 24);
/// Pause when one failed.
const TIDY_AGAIN: Duration = Duration::from_secs(60);

/// A ledger, or why there is none at the moment. Clones share it.
#[derive(Clone, Debug)]
pub struct LedgerDoor {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    place: Place,
    plans: Plans,
    retention: Retention,
    /// Where records go that are kept no longer.
    archive: Option<PathBuf>,
    state: RwLock<DoorState>,
    counts: Counts,
    through: Through,
    /// Held while opening, so that two who open at once do not meet at the file lock.
    opening: tokio::sync::Mutex<()>,
}

/// What is behind the door.
#[derive(Clone, Debug)]
pub enum DoorState {
    /// A ledger.
    Open(Ledger),
    /// Nothing, and why.
    Closed(String),
}

/// Each hour: closes the months that are due, and gives up what is kept no longer. Ends never.
async fn tidy(ledger: &Ledger, Inner { plans, retention, archive, .. }: &Inner) {
    let mut believed = false;
    loop {
        let now = Timestamp::now();
        if !std::mem::replace(&mut believed, true) && ledger.last_tidied().is_some_and(|last| now > last + JUMP) {
            tracing::warn!(%now, "the clock is weeks behind the last time: nothing is closed or given up for an hour, in case it is wrong");
            tokio::time::sleep(TIDY).await;
            continue;
        }
        let closed = ledger.close_months(plans, retention.close_after_days, now).await;
        if let Err(error) = &closed {
            tracing::warn!(%error, "months that are over are not closed yet");
        }
        let hour = u32::try_from(now.as_second() / 3600).unwrap_or_default();
        let tidied = match archive {
            None => ledger.tidy(*retention, hour).await.map_err(ArchiveError::from),
            Some(dir) => ledger.archive(*retention, hour, dir).await.map(|records| {
                if records > 0 {
                    tracing::info!(records, dir = %dir.display(), "records were archived");
                }
            }),
        };
        if let Err(error) = &tidied {
            tracing::warn!(%error, "what is kept no longer is kept for a while");
        }
        tokio::time::sleep(if closed.is_ok() && tidied.is_ok() { TIDY } else { TIDY_AGAIN }).await;
    }
}

impl LedgerDoor {
    /// A closed door to the ledger of a place, which keeps its fine grains for as long as most do.
    #[must_use]
    pub fn new(place: Place, plans: impl Into<Plans>) -> Self {
        Self::keeping(place, plans, Retention::default(), None)
    }

    /// The same, with a retention, and a folder for the records that are kept no longer.
    #[must_use]
    pub fn keeping(place: Place, plans: impl Into<Plans>, retention: Retention, archive: Option<PathBuf>) -> Self {
        let state = RwLock::new(DoorState::Closed("it is not open yet".to_owned()));
        let (plans, counts, opening) = (plans.into(), Counts::default(), tokio::sync::Mutex::new(()));
        let through = Through::default();
        Self { inner: Arc::new(Inner { place, plans, retention, archive, state, counts, through, opening }) }
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.inner.counts
    }

    /// Opens it now, once its store has recovered.
    ///
    /// # Errors
    /// When the ledger cannot be opened; the door then tells the same to whoever asks.
    pub async fn open(&self) -> Result<Ledger, OpenError> {
        let _alone = self.inner.opening.lock().await;
        if let Ok(ledger) = self.ledger() {
            return Ok(ledger);
        }
        let opened = Ledger::open(self.inner.place.clone(), self.inner.plans.clone()).await;
        *self.inner.state.write() = match &opened {
            Ok(ledger) => DoorState::Open(ledger.clone()),
            Err(e) => DoorState::Closed(e.to_string()),
        };
        opened
    }

    /// The ledger, or why there is none.
    ///
    /// # Errors
    /// The reason, in words.
    pub fn ledger(&self) -> Result<Ledger, String> {
        match &*self.inner.state.read() {
            DoorState::Open(ledger) => Ok(ledger.clone()),
            DoorState::Closed(why) => Err(why.clone()),
        }
    }

    /// The prices in force, ledger or not.
    #[must_use]
    pub fn plan(&self) -> &PricePlan {
        self.inner.plans.in_force()
    }

    /// All plans that usage can be priced by.
    #[must_use]
    pub fn plans(&self) -> &Plans {
        &self.inner.plans
    }

    /// How far its records are complete.
    #[must_use]
    pub fn through(&self) -> &Through {
        &self.inner.through
    }

    /// Why records are not taken or not safe, if so.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        match self.ledger() {
            Ok(ledger) => ledger.health().problem,
            Err(why) => Some(why),
        }
    }

    /// Keeps the door open until stopped: opens the ledger, again after growing pauses when that fails, and again
    /// when it failed later. On stop the door is closed and the ledger with it, once its last user is done.
    pub async fn keep_open(self, stop: CancellationToken) {
        let mut pause = RETRY.0;
        let mut told = String::new();
        while !stop.is_cancelled() {
            match self.open().await {
                Ok(ledger) => {
                    (pause, told) = (RETRY.0, String::new());
                    tracing::info!(place = %ledger.place(), "the ledger is open");
                    tokio::select! {
                        () = ledger.failed() => {}
                        () = tidy(&ledger, &self.inner) => {}
                        () = stop.cancelled() => {}
                    }
                    drop(ledger);
                    self.close("it is being opened again after a failure");
                }
                Err(error) => {
                    let text = error.to_string();
                    if text != told {
                        tracing::error!(error = text, "records wait in the activators until the ledger can be opened");
                        told = text;
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => {}
            }
            pause = (pause * 2).min(RETRY.1);
        }
        // The last handle's drop waits for the writer and for sled's threads.
        let closed = tokio::task::spawn_blocking(move || self.close("it is closed"));
        let _ = closed.await;
    }

    /// Closes the door; the ledger itself closes when its last handle goes.
    pub fn close(&self, why: &str) {
        let before = std::mem::replace(&mut *self.inner.state.write(), DoorState::Closed(why.to_owned()));
        drop(before);
    }
}
