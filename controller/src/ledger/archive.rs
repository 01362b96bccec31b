//! Records that are kept no longer, as Parquet files: one for each day, there before any of its records goes.
//!
//! What is in the files is what goes: records that come while they are written stay until the next time, when their
//! day has another file. Whoever is stopped between a file and the end of what goes with it writes some of it
//! again: a record is in two files then, by the same activator, epoch and sequence.

use super::records::RecordRow;
use super::store::{Marks, Scan, Store};
use super::times::HOUR_US;
use super::{AppendError, ReadError};
use crate::table::{Format, WriteError, Writer};
use dormouse_core::table::{Column, Kind, Value};
use jiff::ToSpan;
use jiff::civil::Date;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Records that are read, and written, at once: 10,000 x about 500 B = 5 MB.
const PAGE: usize = 10_000;
/// A file until it is whole.
const DRAFT: &str = "records.parquet.new";
/// Most files of a day: it has a second one only for what came later than records are kept.
const FILES: u32 = 1_000;

/// Why records were not archived; they stay where they are.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// A file cannot be written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file, or its folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A table cannot be written.
    #[error("the file of a day cannot be made: {0}")]
    Table(#[from] WriteError),
    /// Records could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] AppendError),
    /// A thread ended.
    #[error("the file of a day could not be written: {0}")]
    Thread(#[from] tokio::task::JoinError),
}

/// The first day before an hour that has records.
pub(super) async fn first_day(store: &dyn Store, before: u32) -> Result<Option<u32>, ReadError> {
    let mut scan = scan(before, 1);
    loop {
        let page = store.records(scan.clone()).await?;
        if let Some(row) = page.rows.first() {
            return Ok(Some(row.key.hour / 24));
        }
        scan.after = page.next;
        if scan.after.is_none() {
            return Ok(None);
        }
    }
}

fn scan(before: u32, limit: usize) -> Scan {
    Scan { times_us: i64::MIN..i64::from(before) * HOUR_US, functions: None, after: None, limit }
}

/// Writes the records before an hour, as far as they are behind the marks, and answers how many there were. What was
/// written before a failure is of no use, and not there.
pub(super) async fn write(store: &dyn Store, dir: &Path, before: u32, marks: &Marks) -> Result<u64, ArchiveError> {
    let written = write_all(store, dir, before, marks).await;
    if written.is_err() {
        let _ = tokio::fs::remove_file(dir.join(DRAFT)).await;
    }
    written
}

async fn write_all(store: &dyn Store, dir: &Path, before: u32, marks: &Marks) -> Result<u64, ArchiveError> {
    let mut scan = scan(before, PAGE);
    let (mut sheet, mut count): (Option<Sheet>, u64) = (None, 0);
    loop {
        let page = store.records(scan.clone()).await?;
        let behind =
            |row: &RecordRow| marks.get(&(row.key.activator, row.key.epoch)).is_some_and(|m| row.key.seq <= *m);
        let rows: Vec<RecordRow> = page.rows.into_iter().filter(behind).collect();
        count += rows.len() as u64;
        let dir = dir.to_owned();
        // Thousands of rows and a file are not for a thread that others wait for.
        sheet = tokio::task::spawn_blocking(move || add(&dir, sheet, &rows)).await??;
        scan.after = page.next;
        if scan.after.is_none() {
            break;
        }
    }
    if let Some(sheet) = sheet {
        let dir = dir.to_owned();
        tokio::task::spawn_blocking(move || sheet.finish(&dir)).await??;
    }
    Ok(count)
}

/// The file of a day while it is written.
struct Sheet {
    day: u32,
    writer: Writer,
    draft: PathBuf,
    file: File,
}

/// Adds rows, which come day by day: a file is finished when the next day begins.
fn add(dir: &Path, sheet: Option<Sheet>, rows: &[RecordRow]) -> Result<Option<Sheet>, ArchiveError> {
    let mut sheet = sheet;
    for row in rows {
        let day = row.key.hour / 24;
        let mut current = match sheet.take() {
            Some(current) if current.day == day => current,
            Some(former) => {
                former.finish(dir)?;
                Sheet::new(dir, day)?
            }
            None => Sheet::new(dir, day)?,
        };
        current.writer.row(values(row).into_iter())?;
        sheet = Some(current);
    }
    if let Some(current) = &mut sheet {
        current.flush()?;
    }
    Ok(sheet)
}

impl Sheet {
    fn new(dir: &Path, day: u32) -> Result<Self, ArchiveError> {
        std::fs::create_dir_all(dir).map_err(at(dir))?;
        // A draft that somebody left is of no use.
        let draft = dir.join(DRAFT);
        let file = File::create(&draft).map_err(at(&draft))?;
        Ok(Self { day, writer: Writer::new(Format::Parquet, columns())?, draft, file })
    }

    fn flush(&mut self) -> Result<(), ArchiveError> {
        let bytes = self.writer.take()?;
        self.file.write_all(&bytes).map_err(at(&self.draft))
    }

    fn finish(mut self, dir: &Path) -> Result<(), ArchiveError> {
        self.flush()?;
        let end = self.writer.finish(&[])?;
        self.file.write_all(&end).and_then(|()| self.file.sync_all()).map_err(at(&self.draft))?;
        let path = free_name(dir, self.day)?;
        std::fs::rename(&self.draft, &path).map_err(at(&path))?;
        // Its name is there after a power cut as well.
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(at(dir))
    }
}

fn at(path: &Path) -> impl Fn(io::Error) -> ArchiveError {
    let path = path.to_owned();
    move |source| ArchiveError::File { path: path.clone(), source }
}

/// `records-2026-11-01.parquet`, or with `-2` and so on behind the day.
fn free_name(dir: &Path, day: u32) -> Result<PathBuf, ArchiveError> {
    let date = Date::constant(1970, 1, 1).checked_add(i64::from(day).days()).unwrap_or(Date::MAX);
    let names = std::iter::once(format!("records-{date}.parquet"));
    let mut names = names.chain((2..=FILES).map(|number| format!("records-{date}-{number}.parquet")));
    let free = names.find_map(|name| Some(dir.join(name)).filter(|path| !path.exists()));
    free.ok_or_else(|| at(dir)(io::Error::other(format!("{date} has {FILES} files already"))))
}

fn columns() -> Vec<Column> {
    let text = ["request_id", "activator", "tenant", "namespace", "function", "function_uid", "revision", "instance"];
    let text = text.map(|name| Column { name, kind: Kind::Text, nullable: false });
    let numbers = [
        "epoch",
        "seq",
        "memory_mib",
        "cpu_millis",
        "wait_us",
        "claim_us",
        "start_us",
        "connect_us",
        "run_us",
        "request_bytes",
        "response_bytes",
        "status",
        "warm_slots",
    ];
    let numbers = numbers.map(|name| Column { name, kind: Kind::Integer, nullable: false });
    let flags = ["cold", "first"].map(|name| Column { name, kind: Kind::Bool, nullable: false });
    let rest = [
        Column { name: "received_at", kind: Kind::Time, nullable: false },
        Column { name: "outcome", kind: Kind::Text, nullable: false },
        Column { name: "idempotency_key", kind: Kind::Text, nullable: true },
        Column { name: "schedule", kind: Kind::Text, nullable: true },
        Column { name: "due_at", kind: Kind::Time, nullable: true },
        Column { name: "replaced", kind: Kind::Bool, nullable: false },
    ];
    text.into_iter().chain(numbers).chain(flags).chain(rest).collect()
}

/// In the order of [`columns`].
fn values(row: &RecordRow) -> Vec<Value<'_>> {
    let RecordRow { key, request_id, subject: s, record: r } = row;
    let text = [&s.tenant, &s.namespace, &s.name, &s.function_uid, &s.revision, &s.instance];
    let text = text.map(|text| Value::from(text.as_str()));
    let numbers = [
        u64::from(key.epoch),
        key.seq,
        u64::from(s.memory_mib),
        u64::from(s.cpu_millis),
        r.wait_us,
        r.claim_us,
        r.start_us,
        r.connect_us,
        r.run_us,
        r.request_bytes,
        r.response_bytes,
        u64::from(r.status),
        u64::from(r.warm_slots),
    ];
    let ids = [request_id.to_string(), format!("{:016x}", key.activator)].map(Value::from);
    let idempotency_key = (r.key != 0).then(|| format!("{:016x}", r.key));
    let timed = r.timed.as_ref();
    let rest = [
        Value::Time(r.received_at_us),
        r.outcome.name().into(),
        idempotency_key.into(),
        timed.map_or(Value::Null, |timed| timed.schedule.as_str().into()),
        timed.map_or(Value::Null, |timed| Value::Time(timed.due_us)),
        Value::Bool(timed.is_some_and(|timed| timed.replaced)),
    ];
    let flags = [r.cold, r.first].map(Value::Bool);
    ids.into_iter().chain(text).chain(numbers.map(Value::Integer)).chain(flags).chain(rest).collect()
}
