//! A segment file: a header, then entries, each with its length and CRC-32C.
//!
//! ```text
//! header  "DMSPOOL2" activator:u64 epoch:u32 first_seq:u64 kind:u32 crc32c:u32         36 bytes, little endian
//! kind    0 what a life wrote              1 what a later one made of its intents
//! entry   len:u32 crc32c:u32 payload[len]
//! payload 1 number:u32 JSON                a subject, before the first record that names it
//!         2 packed record                  as dormouse_core::record packs a single one; its number is its place
//!         3 packed record                  an intent: what the record is if nothing more is heard of the call; no number
//!         4 call:u64                       the intent of this call is void: it was not dispatched
//! ```

use super::Segment;
use dormouse_core::record::{self, CallRecord, Packer, Subject};
use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

const MAGIC: &[u8; 8] = b"DMSPOOL2";
pub(super) const HEADER_LEN: usize = 36;
pub(super) const ENTRY_HEAD: usize = 8;
/// Longest payload: a subject (see [`super::RESERVED_BYTES`]).
pub(super) const MAX_PAYLOAD: usize = 2048;
const SUBJECT: u8 = 1;
pub(super) const RECORD: u8 = 2;
const INTENT: u8 = 3;
const VOID: u8 = 4;
pub(super) const EXTENSION: &str = "seg";
/// Memory that is kept between two writes: a record and some intents.
const MAX_BUFFER: usize = 4 << 10;

/// Whose records a segment holds, and where they begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) activator: u64,
    pub(super) epoch: u32,
    pub(super) first_seq: u64,
    /// Its records are what became of intents: the epoch's last numbers.
    pub(super) aborted: bool,
}

impl Header {
    pub(super) fn bytes(self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[..8].copy_from_slice(MAGIC);
        out[8..16].copy_from_slice(&self.activator.to_le_bytes());
        out[16..20].copy_from_slice(&self.epoch.to_le_bytes());
        out[20..28].copy_from_slice(&self.first_seq.to_le_bytes());
        out[28..32].copy_from_slice(&u32::from(self.aborted).to_le_bytes());
        let sum = crc32c::crc32c(&out[..32]);
        out[32..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..HEADER_LEN)?;
        if &bytes[..8] != MAGIC || crc32c::crc32c(&bytes[..32]) != u32_at(bytes, 32)? {
            return None;
        }
        let (activator, epoch, first_seq) = (u64_at(bytes, 8)?, u32_at(bytes, 16)?, u64_at(bytes, 20)?);
        Some(Self { activator, epoch, first_seq, aborted: u32_at(bytes, 28)? == 1 })
    }

    pub(super) fn path(self, folder: &Path) -> PathBuf {
        let Self { activator, epoch, first_seq, .. } = self;
        folder.join(format!("{activator:016x}-{epoch:08x}-{first_seq:016x}.{EXTENSION}"))
    }
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Appends to one segment.
#[derive(Debug)]
pub(super) struct Writer {
    file: File,
    bytes: u64,
    /// Subjects written in this segment, by where they stand in memory; held, so that the place stays theirs.
    subjects: HashMap<usize, (Arc<Subject>, u32)>,
    buffer: Vec<u8>,
}

impl Writer {
    /// Makes the file with its header. Its name is durable once the folder is synced: see [`super::Spool::sync`].
    pub(super) fn begin(folder: &Path, header: Header) -> io::Result<(Self, Segment)> {
        Self::begin_at(header.path(folder), header)
    }

    /// The same under another name.
    pub(super) fn begin_at(path: PathBuf, header: Header) -> io::Result<(Self, Segment)> {
        // Left over by a failure before its first record: a file with records is never begun again.
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&path)?;
        file.write_all(&header.bytes())?;
        let bytes = HEADER_LEN as u64;
        let segment = Segment { path, header, count: 0, bytes };
        Ok((Self { file, bytes, subjects: HashMap::new(), buffer: Vec::new() }, segment))
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes words, and subjects that are new here, with one write(2); says how many bytes that took. After an error
    /// nothing of them remains.
    pub(super) fn append<'a>(&mut self, words: impl IntoIterator<Item = &'a Word>) -> io::Result<u64> {
        self.buffer.clear();
        self.buffer.shrink_to(MAX_BUFFER);
        let mut fresh = Vec::new();
        let put = words.into_iter().try_for_each(|word| self.put(word, &mut fresh));
        if let Err(e) = put.and_then(|()| self.write()) {
            fresh.iter().for_each(|place| drop(self.subjects.remove(place)));
            return Err(e);
        }
        let written = self.buffer.len() as u64;
        self.bytes += written;
        Ok(written)
    }

    fn put(&mut self, word: &Word, fresh: &mut Vec<usize>) -> io::Result<()> {
        let (kind, subject, record) = match word {
            Word::Record(subject, record) => (RECORD, subject, record),
            Word::Intent(subject, record) => (INTENT, subject, record),
            Word::Void(call) => return put_entry(&mut self.buffer, &[&[VOID], &call.to_le_bytes()]),
        };
        let place = Arc::as_ptr(subject) as usize;
        let number = match self.subjects.get(&place) {
            Some((_, number)) => *number,
            None => {
                let number = u32::try_from(self.subjects.len()).map_err(io::Error::other)?;
                let json = serde_json::to_vec(subject.as_ref())?;
                put_entry(&mut self.buffer, &[&[SUBJECT], &number.to_le_bytes(), &json])?;
                self.subjects.insert(place, (subject.clone(), number));
                fresh.push(place);
                number
            }
        };
        let mut packer = Packer::default();
        packer.push(&CallRecord { subject: number, ..*record });
        put_entry(&mut self.buffer, &[&[kind], &packer.finish()])
    }

    fn write(&mut self) -> io::Result<()> {
        let written = self.file.write_all(&self.buffer);
        if written.is_err() {
            // Half an entry would hide whatever follows it.
            self.file.set_len(self.bytes)?;
            io::Seek::seek(&mut self.file, io::SeekFrom::Start(self.bytes))?;
        }
        written
    }

    /// A second handle, to sync while others write.
    pub(super) fn handle(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// No more is written: another one has begun. What is left to sync of it, and the name of the other, are synced by
    /// whoever syncs next, not under the lock that all calls take.
    pub(super) fn finish(self) -> File {
        self.file
    }
}

/// What is written of a call.
#[derive(Debug)]
pub(super) enum Word {
    Record(Arc<Subject>, CallRecord),
    /// Its record, if nothing more is heard of it.
    Intent(Arc<Subject>, CallRecord),
    /// The intent of this call is void.
    Void(u64),
}

fn put_entry(out: &mut Vec<u8>, parts: &[&[u8]]) -> io::Result<()> {
    let len = parts.iter().map(|p| p.len()).sum::<usize>();
    if len > MAX_PAYLOAD {
        return Err(io::Error::other("a spool entry is longer than its limit"));
    }
    let sum = parts.iter().fold(0, |sum, part| crc32c::crc32c_append(sum, part));
    out.extend_from_slice(&(len as u32).to_le_bytes());
    out.extend_from_slice(&sum.to_le_bytes());
    parts.iter().for_each(|p| out.extend_from_slice(p));
    Ok(())
}

/// What an entry holds.
#[derive(Debug, PartialEq)]
pub(super) enum Entry {
    Subject(u32, Subject),
    Record(CallRecord),
    Intent(CallRecord),
    Void(u64),
}

/// The entry at the beginning of `bytes` and its whole length; `None` when there is no whole, unharmed one.
pub(super) fn read_entry(bytes: &[u8]) -> Option<(Entry, usize)> {
    let len = u32_at(bytes, 0)? as usize;
    if len == 0 || len > MAX_PAYLOAD {
        return None;
    }
    let payload = bytes.get(ENTRY_HEAD..ENTRY_HEAD + len)?;
    if crc32c::crc32c(payload) != u32_at(bytes, 4)? {
        return None;
    }
    let (&kind, rest) = payload.split_first()?;
    let entry = match kind {
        SUBJECT => Entry::Subject(u32_at(rest, 0)?, serde_json::from_slice(rest.get(4..)?).ok()?),
        RECORD => Entry::Record(*record::unpack(rest, 1).ok()?.first()?),
        INTENT => Entry::Intent(*record::unpack(rest, 1).ok()?.first()?),
        VOID => Entry::Void(u64_at(rest, 0)?),
        _ => return None,
    };
    Some((entry, ENTRY_HEAD + len))
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
