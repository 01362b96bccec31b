//! The door to a ledger that may be closed: waking functions never depends on it, so whoever holds the door goes on and
//! the ledger is tried again.

use super::counts::Counts;
use super::{Filesystem, Ledger, OpenError};
use dormouse_core::price::PricePlan;
use parking_lot::{Mutex, RwLock};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// First and longest pause between two tries to open.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// A ledger, or why there is none at the moment. Clones share it.
#[derive(Clone, Debug)]
pub struct LedgerDoor {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    plan: PricePlan,
    filesystem: Filesystem,
    state: RwLock<DoorState>,
    counts: Counts,
    /// Held while opening, so that two who open at once do not meet at the file lock.
    opening: Mutex<()>,
}

/// What is behind the door.
#[derive(Clone, Debug)]
pub enum DoorState {
    /// A ledger.
    Open(Ledger),
    /// Nothing, and why.
    Closed(String),
}

impl LedgerDoor {
    /// A closed door to the ledger of a folder.
    #[must_use]
    pub fn new(dir: &Path, plan: PricePlan, filesystem: Filesystem) -> Self {
        let state = RwLock::new(DoorState::Closed("it is not open yet".to_owned()));
        Self {
            inner: Arc::new(Inner {
                dir: dir.to_owned(),
                plan,
                filesystem,
                state,
                counts: Counts::default(),
                opening: Mutex::new(()),
            }),
        }
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.inner.counts
    }

    /// Opens it now. Blocks while sled recovers.
    ///
    /// # Errors
    /// When the ledger cannot be opened; the door then tells the same to whoever asks.
    pub fn open(&self) -> Result<Ledger, OpenError> {
        let _alone = self.inner.opening.lock();
        if let Ok(ledger) = self.ledger() {
            return Ok(ledger);
        }
        let opened = Ledger::open_on(&self.inner.dir, self.inner.plan.clone(), self.inner.filesystem);
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
        &self.inner.plan
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
            let door = self.clone();
            let opened = tokio::task::spawn_blocking(move || door.open()).await;
            match opened {
                Ok(Ok(ledger)) => {
                    (pause, told) = (RETRY.0, String::new());
                    tracing::info!(dir = %ledger.dir().display(), "the ledger is open");
                    tokio::select! {
                        () = ledger.failed() => {}
                        () = stop.cancelled() => {}
                    }
                    drop(ledger);
                    self.close("it is being opened again after a failure");
                }
                Ok(Err(error)) => {
                    let text = error.to_string();
                    if text != told {
                        tracing::error!(error = text, "records wait in the activators until the ledger can be opened");
                        told = text;
                    }
                }
                Err(_panicked) => self.close("opening it ended in a panic"),
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

impl Ledger {
    /// Returns when the ledger takes no more records.
    pub async fn failed(&self) {
        if let Some(queue) = &self.inner.queue {
            queue.closed().await;
        }
    }
}
