//! The client's own record of every call that it made: what a ledger is held against. One JSON line per call.

use crate::client::{Answer, CallError};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// What the client knows of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// Answered whole, by the function.
    Ok,
    /// Not sent, or answered by the platform in the function's place.
    Fail,
    /// Sent, and no whole answer came.
    Indeterminate,
}

/// One call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The caller's own number.
    pub number: u64,
    /// The id told by the answer; empty without one.
    pub request_id: String,
    /// Status of the answer; 0 without one.
    pub status: u16,
    /// What is known of it.
    pub fate: Fate,
    /// The platform's reason code, or why there was no answer.
    pub reason: String,
    /// Whether it says that it waited for a start.
    pub cold: bool,
    /// When it was due, microseconds since the journal began.
    pub due_us: u64,
    /// From when it was due to its end, in microseconds.
    pub took_us: u64,
}

/// Reasons that the platform gives for a call which did reach an instance: such a call has a record.
const DISPATCHED: [&str; 3] = ["InstanceDied", "Timeout", "RequestTimeout"];

/// Reason that an activator gives when another one, which had taken the call over, was lost with it.
pub const LOST_WITH_PEER: &str = "PeerLost";

impl Entry {
    /// An entry for how a call went.
    #[must_use]
    pub fn of(number: u64, due: Duration, took: Duration, result: &Result<Answer, CallError>) -> Self {
        let us = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
        let (due_us, took_us) = (us(due), us(took));
        match result {
            Ok(answer) => Self {
                number,
                request_id: answer.request_id().into(),
                status: answer.status.as_u16(),
                fate: match answer.reason() {
                    "" => Fate::Ok,
                    LOST_WITH_PEER => Fate::Indeterminate,
                    _ => Fate::Fail,
                },
                reason: answer.reason().into(),
                cold: answer.cold(),
                due_us,
                took_us,
            },
            Err(error) => Self {
                number,
                request_id: String::new(),
                status: 0,
                fate: if matches!(error, CallError::NotSent(_)) { Fate::Fail } else { Fate::Indeterminate },
                reason: error.to_string(),
                cold: false,
                due_us,
                took_us,
            },
        }
    }

    /// True when an instance had the call and the client was told how it ended: exactly one record must exist.
    #[must_use]
    pub fn must_be_recorded(&self) -> bool {
        match self.fate {
            Fate::Ok => true,
            Fate::Fail => DISPATCHED.contains(&self.reason.as_str()),
            Fate::Indeterminate => false,
        }
    }
}

/// Calls as they end; shared by all connections. Kept whole in memory (a suite makes at most some 100,000 calls of
/// about 200 bytes: 20 MB) and, where asked, as a file.
#[derive(Debug, Default)]
pub struct Journal {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: Vec<Entry>,
    file: Option<BufWriter<File>>,
}

impl Journal {
    /// A journal that is also written to a file.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn to_file(path: &Path) -> io::Result<Self> {
        let file = Some(BufWriter::new(File::create(path)?));
        Ok(Self { inner: Mutex::new(Inner { entries: Vec::new(), file }) })
    }

    /// Adds a call.
    pub fn add(&self, entry: Entry) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(file), Ok(line)) = (&mut inner.file, serde_json::to_string(&entry)) {
            let _ = writeln!(file, "{line}");
        }
        inner.entries.push(entry);
    }

    /// Every call so far.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &mut inner.file {
            let _ = file.flush();
        }
        inner.entries.clone()
    }
}

/// Reads a journal file.
///
/// # Errors
/// When it cannot be read or a line is no entry.
pub fn read(path: &Path) -> io::Result<Vec<Entry>> {
    let parse = |line: io::Result<String>| serde_json::from_str(&line?).map_err(io::Error::other);
    BufReader::new(File::open(path)?).lines().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let journal = Journal::to_file(&path).unwrap();
        let broken = Err(CallError::Indeterminate("reset".into()));
        let unsent = Err(CallError::NotSent("refused".into()));
        journal.add(Entry::of(1, Duration::from_millis(2), Duration::from_micros(30), &broken));
        journal.add(Entry::of(2, Duration::from_millis(3), Duration::from_micros(40), &unsent));
        let entries = journal.entries();
        assert_eq!(read(&path).unwrap(), entries);
        assert_eq!((entries[0].fate, entries[0].due_us), (Fate::Indeterminate, 2000));
        assert_eq!((entries[1].fate, entries[1].must_be_recorded()), (Fate::Fail, false));
    }
}
