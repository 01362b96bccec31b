//! Reads the spool in order, a batch at a time, for whoever ships it.

use super::{
    Segment, Spool,
    segment::{self, Entry, HEADER_LEN},
};
use dormouse_core::record::{CallRecord, Subject};
use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    sync::Arc,
};

/// Most records of a batch.
const MAX_RECORDS: usize = 2000;
/// Most records of a tail: what the ledger takes as one frame. 20,000 connections have fewer calls in flight, unless each
/// has many streams; what is beyond it is a second batch.
const MAX_TAIL: usize = 65_536;
/// Most bytes read for a batch: 2000 records of about 35 bytes and their subjects.
const MAX_READ: u64 = 256 << 10;

/// Records that follow each other.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) activator: u64,
    pub(crate) epoch: u32,
    pub(crate) first_seq: u64,
    /// They are what became of intents: see [`super::tails`].
    pub(crate) aborted: bool,
    /// What the records' subject numbers mean.
    pub(crate) subjects: Vec<Arc<Subject>>,
    pub(crate) records: Vec<CallRecord>,
}

impl Batch {
    /// Number of the last record.
    pub(crate) fn last_seq(&self) -> u64 {
        self.first_seq + self.records.len() as u64 - 1
    }
}

/// Where reading stands.
#[derive(Debug, Default)]
pub(crate) struct Cursor {
    /// The next record to read of each writer and epoch; as many as have segments.
    at: HashMap<(u64, u32), u64>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    first_seq: u64,
    file: File,
    position: u64,
    next_seq: u64,
    subjects: HashMap<u32, Arc<Subject>>,
}

impl Cursor {
    /// The next records, or nothing when all there is was read. Blocks on the disk.
    pub(crate) fn next(&mut self, spool: &Spool) -> io::Result<Option<Batch>> {
        let segments = spool.segments();
        self.at.retain(|of, _| segments.iter().any(|s| s.of() == *of));
        for segment in segments {
            let Some(from) = self.wanted(&segment, spool.homes.of(segment.of()).offset + 1) else { continue };
            match self.read(&segment, from) {
                Ok(Some(batch)) => {
                    self.at.insert(segment.of(), batch.last_seq() + 1);
                    return Ok(Some(batch));
                }
                Ok(None) => {}
                // It would be so for ever, and everything behind it would wait.
                Err(e) if is_harm(&e) => {
                    tracing::error!("spool: {e}");
                    self.open = None;
                    spool.set_aside(&segment, from)?;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(None)
    }

    /// Goes on at another record of an epoch.
    pub(crate) fn seek(&mut self, activator: u64, epoch: u32, seq: u64) {
        self.at.insert((activator, epoch), seq);
        self.open = None;
    }

    /// Whether the spool still has a record of the batch's epoch.
    pub(crate) fn holds(&self, spool: &Spool, batch: &Batch, seq: u64) -> bool {
        let of_epoch = |s: &Segment| s.of() == (batch.activator, batch.epoch);
        let holds = |s: &Segment| s.header.first_seq <= seq && seq < s.header.first_seq + s.count;
        spool.segments().iter().any(|s| of_epoch(s) && holds(s))
    }

    /// The first record to read in a segment; `None` when there is nothing in it for us. What is below `home` was
    /// shipped, or passed over, by another identity.
    fn wanted(&self, segment: &Segment, home: u64) -> Option<u64> {
        let first = segment.header.first_seq;
        let end = first + segment.count;
        let from = self.at.get(&segment.of()).map_or(first, |&next| next.max(first));
        let from = from.max(home);
        (from < end).then_some(from)
    }

    fn read(&mut self, segment: &Segment, from: u64) -> io::Result<Option<Batch>> {
        let open = match self.open.take() {
            Some(open)
                if open.first_seq == segment.header.first_seq && open.next_seq <= from && open.is(segment)? =>
            {
                open
            }
            _ => Open::new(segment)?,
        };
        let open = self.open.insert(open);
        loop {
            let (records, subjects, first_seq) = open.records(segment, from)?;
            if !records.is_empty() {
                let segment::Header { activator, epoch, aborted, .. } = segment.header;
                return Ok(Some(Batch { activator, epoch, first_seq, aborted, subjects, records }));
            }
            if open.position >= segment.bytes {
                return Ok(None);
            }
        }
    }
}

impl Open {
    fn new(segment: &Segment) -> io::Result<Self> {
        Ok(Self {
            first_seq: segment.header.first_seq,
            file: File::open(&segment.path)?,
            position: HEADER_LEN as u64,
            next_seq: segment.header.first_seq,
            subjects: HashMap::new(),
        })
    }

    /// Whether this is the file of that segment: two epochs have segments that begin with 1.
    fn is(&self, segment: &Segment) -> io::Result<bool> {
        use std::os::unix::fs::MetadataExt;
        let (ours, theirs) = (self.file.metadata()?, std::fs::metadata(&segment.path)?);
        Ok((ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino()))
    }

    /// One read's worth of records from `from` on, with the subjects they name.
    fn records(&mut self, segment: &Segment, from: u64) -> io::Result<(Vec<CallRecord>, Vec<Arc<Subject>>, u64)> {
        // A tail is one batch: of one that the ledger has in part it could not be told whether the rest is.
        let (most, most_bytes) = if segment.header.aborted { (MAX_TAIL, u64::MAX) } else { (MAX_RECORDS, MAX_READ) };
        let len = segment.bytes.saturating_sub(self.position).min(most_bytes);
        let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        self.file.seek(SeekFrom::Start(self.position))?;
        self.file.read_exact(&mut bytes)?;
        let (mut records, mut numbers, mut subjects) = (Vec::new(), HashMap::new(), Vec::new());
        let mut at = 0;
        while records.len() < most
            && let Some((entry, len)) = segment::read_entry(&bytes[at..])
        {
            at += len;
            match entry {
                Entry::Subject(number, subject) => {
                    self.subjects.insert(number, Arc::new(subject));
                }
                // Numbers are of records.
                Entry::Intent(_) | Entry::Void(_) => {}
                Entry::Record(record) => {
                    self.next_seq += 1;
                    if self.next_seq > from {
                        let known = self.subjects.get(&record.subject).ok_or_else(|| harmed(segment))?;
                        let number = *numbers.entry(record.subject).or_insert_with(|| {
                            subjects.push(known.clone());
                            subjects.len() as u32 - 1
                        });
                        records.push(CallRecord { subject: number, ..record });
                    }
                }
            }
        }
        if at == 0 && !bytes.is_empty() {
            return Err(harmed(segment));
        }
        self.position += at as u64;
        let first = self.next_seq - records.len() as u64;
        Ok((records, subjects, first))
    }
}

fn harmed(segment: &Segment) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{} is harmed", segment.path.display()))
}

/// Whether a segment is to blame and not the disk of this moment: harmed, shorter than what was written, or gone.
fn is_harm(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound)
}
