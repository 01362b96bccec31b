//! What a pair of controller and activator stands on: where each keeps what lasts, and how safe a record is to be when
//! its response ends.

use anyhow::{Context, Result};
use dormouse_controller::ledger::Place;
use dormouse_core::price::Durability;
use std::path::{Path, PathBuf};

/// Where things are.
#[derive(Clone, Debug)]
pub struct Ground {
    /// Logs and manifests; instances run in it.
    pub folder: PathBuf,
    /// The activator's spool.
    pub spool: PathBuf,
    /// The folder of the ledger.
    pub ledger: PathBuf,
    /// URL of a database in which the ledger is kept in place of the folder.
    pub database: Option<String>,
    /// How safe a record is when its response ends.
    pub durability: Durability,
}

impl Ground {
    /// Everything in one folder, records as safe as they are by default.
    #[must_use]
    pub fn of(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            spool: folder.join("spool"),
            ledger: folder.join("ledger"),
            database: None,
            durability: Durability::default(),
        }
    }

    /// Where the ledger is.
    ///
    /// # Errors
    /// When the URL is none.
    pub fn place(&self) -> Result<Place> {
        Ok(match &self.database {
            Some(url) => Place::postgres(url)?,
            None => Place::folder(&self.ledger),
        })
    }
}

/// All modes, the weakest first.
pub const MODES: [Durability; 3] = [Durability::Process, Durability::Disk, Durability::Ledger];

/// A mode's name.
#[must_use]
pub fn name(mode: Durability) -> &'static str {
    match mode {
        Durability::Process => "process",
        Durability::Disk => "disk",
        Durability::Ledger => "ledger",
    }
}

/// A mode by its name.
///
/// # Errors
/// When there is none of that name.
pub fn durability(text: &str) -> Result<Durability> {
    let named = MODES.into_iter().find(|mode| name(*mode) == text);
    named.with_context(|| format!("{text}: expected process, disk or ledger"))
}
