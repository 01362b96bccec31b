//! `ledger export` and `ledger import`, the same in every program that has them.

use super::{Summary, TransferError};
use crate::ledger::{Filesystem, Ledger, NotADatabase, Place};
use clap::{Args, Subcommand};
use dormouse_core::price::PricePlan;
use std::fs::File;
use std::io::{self, BufReader, BufWriter};
use std::path::{Path, PathBuf};

/// Moving a ledger.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write a ledger to a file. Nothing may use a ledger in a folder meanwhile: stop its controller, or its `dev`
    Export {
        /// Where it is.
        #[command(flatten)]
        place: LedgerAt,
        /// File to write, which must not be there yet
        file: PathBuf,
    },
    /// Read a file that `export` wrote into an empty ledger, and look whether everything arrived
    Import {
        /// Where it is.
        #[command(flatten)]
        place: LedgerAt,
        /// File to read
        file: PathBuf,
    },
}

/// Where a ledger is: in a folder or in a database.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub struct LedgerAt {
    /// Folder of the ledger; of a `dormouse dev`, FOLDER/.dormouse/ledger
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
    /// File that holds the URL of a PostgreSQL database (postgres://user:password@host/name?sslmode=require)
    #[arg(long, value_name = "FILE")]
    url_file: Option<PathBuf>,
}

/// Why nothing was moved.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// A file cannot be opened.
    #[error("{}: {source}", file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What a file holds is no URL.
    #[error("{}: {source}", file.display())]
    Url {
        /// Which.
        file: PathBuf,
        /// Why.
        #[source]
        source: NotADatabase,
    },
    /// There is no ledger to export.
    #[error("{} holds no ledger", .0.display())]
    NoLedger(PathBuf),
    /// It was not moved.
    #[error(transparent)]
    Transfer(#[from] TransferError),
}

impl LedgerAt {
    fn place(&self, filesystem: Filesystem) -> Result<Place, CommandError> {
        match (&self.dir, &self.url_file) {
            (Some(dir), _) => Ok(Place::Folder { dir: dir.clone(), filesystem }),
            (None, Some(file)) => {
                let url = std::fs::read_to_string(file).map_err(|source| at(file, source))?;
                Place::postgres(&url).map_err(|source| CommandError::Url { file: file.clone(), source })
            }
            (None, None) => Err(CommandError::NoLedger(PathBuf::new())),
        }
    }
}

fn at(file: &Path, source: io::Error) -> CommandError {
    CommandError::File { file: file.to_owned(), source }
}

/// Does what is asked and answers what was moved.
///
/// # Errors
/// When it was not moved, or not whole.
pub async fn run(command: &Command) -> Result<Summary, CommandError> {
    match command {
        Command::Export { place, file } => {
            // Whatever it is on, it can be had.
            let from = place.place(Filesystem::Any)?;
            if let Some(dir) = place.dir.as_ref().filter(|dir| !dir.join("FORMAT").exists()) {
                return Err(CommandError::NoLedger(dir.clone()));
            }
            let ledger = Ledger::open(from, PricePlan::default()).await.map_err(TransferError::from)?;
            let out = File::create_new(file).map_err(|source| at(file, source))?;
            let synced = out.try_clone().map_err(|source| at(file, source))?;
            let exported = ledger.export(BufWriter::new(out)).await;
            let exported = exported.and_then(|summary| Ok(synced.sync_all().map(|()| summary)?));
            if exported.is_err() {
                // Half a file is of no use.
                let _ = std::fs::remove_file(file);
            }
            Ok(exported?)
        }
        Command::Import { place, file } => {
            let input = File::open(file).map_err(|source| at(file, source))?;
            Ok(Ledger::import(place.place(Filesystem::Checked)?, BufReader::new(input)).await?)
        }
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { functions, subjects, records, sums, sums_crc32c, statements, reversals } = self;
        write!(
            f,
            "{functions} functions, {subjects} instances, {records} records, {sums} sums (checksum {sums_crc32c:08x}), \
             {statements} closed statements, {reversals} reversals"
        )
    }
}
