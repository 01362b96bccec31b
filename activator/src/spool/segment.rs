//! A segment file: a header, then entries, each with its length and CRC-32C.
//!
//! ```text
//! header  "DMSPOOL2" activator:u64 epoch:u32 first_seq:u64 reserved:u32 crc32c:u32     36 bytes, little endian
//! entry   len:u32 crc32c:u32 payload[len]
//! payload 1 number:u32 JSON                a subject, before the first record that names it
//!         2 packed record                  as dormouse_core::record packs a single one; its number is its place
//! ```

use super::Segment;
use dormouse_core::record::{self, CallRecord, Packer, Subject};
use std::{
    collections::{HashMap, VecDeque},
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

const MAGIC: &[u8; 8] = b"DMSPOOL2";
pub(super) const HEADER_LEN: usize = 36;
const ENTRY_HEAD: usize = 8;
/// Longest payload: a subject (see [`super::RESERVED_BYTES`]).
const MAX_PAYLOAD: usize = 2048;
const SUBJECT: u8 = 1;
const RECORD: u8 = 2;
const EXTENSION: &str = "seg";
/// Extension of what was set aside; nobody reads or deletes it but people.
const ASIDE: &str = "bad";
/// Most that copies take: four of the largest segments.
const KEPT_BYTES: u64 = 4 * super::MAX_SEGMENT;

/// Whose records a segment holds, and where they begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) activator: u64,
    pub(super) epoch: u32,
    pub(super) first_seq: u64,
}

impl Header {
    fn bytes(self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[..8].copy_from_slice(MAGIC);
        out[8..16].copy_from_slice(&self.activator.to_le_bytes());
        out[16..20].copy_from_slice(&self.epoch.to_le_bytes());
        out[20..28].copy_from_slice(&self.first_seq.to_le_bytes());
        let sum = crc32c::crc32c(&out[..32]);
        out[32..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..HEADER_LEN)?;
        if &bytes[..8] != MAGIC || crc32c::crc32c(&bytes[..32]) != u32_at(bytes, 32)? {
            return None;
        }
        Some(Self { activator: u64_at(bytes, 8)?, epoch: u32_at(bytes, 16)?, first_seq: u64_at(bytes, 20)? })
    }

    fn path(self, folder: &Path) -> PathBuf {
        let Self { activator, epoch, first_seq } = self;
        folder.join(format!("{activator:016x}-{epoch:08x}-{first_seq:016x}.{EXTENSION}"))
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
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
        let path = header.path(folder);
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

    /// Writes a record, and its subject when it is new here, with one write(2). After an error nothing of it remains.
    pub(super) fn append(&mut self, subject: &Arc<Subject>, record: &CallRecord) -> io::Result<u64> {
        self.buffer.clear();
        let place = Arc::as_ptr(subject) as usize;
        let known = self.subjects.get(&place).map(|(_, number)| *number);
        let number = match known {
            Some(number) => number,
            None => {
                let number = u32::try_from(self.subjects.len()).map_err(io::Error::other)?;
                let json = serde_json::to_vec(subject.as_ref())?;
                put_entry(&mut self.buffer, &[&[SUBJECT], &number.to_le_bytes(), &json])?;
                number
            }
        };
        let mut packer = Packer::default();
        packer.push(&CallRecord { subject: number, ..*record });
        put_entry(&mut self.buffer, &[&[RECORD], &packer.finish()])?;
        if let Err(e) = self.file.write_all(&self.buffer) {
            // Half an entry would hide whatever follows it.
            self.file.set_len(self.bytes)?;
            io::Seek::seek(&mut self.file, io::SeekFrom::Start(self.bytes))?;
            return Err(e);
        }
        if known.is_none() {
            self.subjects.insert(place, (subject.clone(), number));
        }
        let written = self.buffer.len() as u64;
        self.bytes += written;
        Ok(written)
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
        _ => return None,
    };
    Some((entry, ENTRY_HEAD + len))
}

/// Finds the segments of former lives, oldest first; what follows the last whole entry is cut off, and kept in a copy
/// when it is more than a torn write. Files without a record are deleted, such whose header is harmed are set aside.
/// Says also how many records were lost.
pub(super) fn recover(folder: &Path) -> io::Result<(VecDeque<Segment>, u64)> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)?
        .filter_map(|entry| entry.map(|e| e.path()).ok())
        .filter(|path| path.extension().is_some_and(|e| e == EXTENSION))
        .collect();
    paths.sort();
    let (mut segments, mut lost) = (VecDeque::new(), 0);
    for path in paths {
        let bytes = fs::read(&path)?;
        let Some(header) = Header::read(&bytes) else {
            lost += bytes.get(HEADER_LEN..).map_or(0, records_in);
            set_aside(&path, bytes.len())?;
            continue;
        };
        let (count, end) = scan(&bytes);
        let rest = &bytes[end..];
        if !is_torn(rest) {
            let records = records_in(rest);
            lost += records;
            tracing::error!(path = %path.display(), records, bytes = rest.len(), "harmed within: what follows is lost");
            keep_copy(&path)?;
        }
        if count == 0 {
            fs::remove_file(&path)?;
            continue;
        }
        if end < bytes.len() {
            tracing::warn!(path = %path.display(), "cut {} bytes after the last whole record", rest.len());
            OpenOptions::new().write(true).open(&path)?.set_len(end as u64)?;
        }
        segments.push_back(Segment { path, header, count, bytes: end as u64 });
    }
    Ok((segments, lost))
}

/// Whether what follows the last whole entry is nothing, or the beginning of one entry: the end of the process or of the
/// power came within its write. Anything else was whole once, and harmed since.
fn is_torn(rest: &[u8]) -> bool {
    match u32_at(rest, 0).map(|len| len as usize) {
        Some(0) => rest.iter().all(|byte| *byte == 0),
        Some(len) if rest.len() >= ENTRY_HEAD => len <= MAX_PAYLOAD && ENTRY_HEAD + len >= rest.len(),
        _ => true,
    }
}

/// Records among entries that are harmed, as far as their lengths lead.
fn records_in(entries: &[u8]) -> u64 {
    let (mut at, mut count) = (0, 0);
    while let Some(len) = u32_at(entries, at).map(|len| len as usize).filter(|len| (1..=MAX_PAYLOAD).contains(len))
        && let Some(kind) = entries.get(at + ENTRY_HEAD)
    {
        count += u64::from(*kind == RECORD);
        at += ENTRY_HEAD + len;
    }
    count
}

/// Keeps what a segment holds for people to look at; not more than [`KEPT_BYTES`] in all.
pub(super) fn keep_copy(path: &Path) -> io::Result<()> {
    let kept = path.with_extension(ASIDE);
    let others = fs::read_dir(path.parent().unwrap_or(path))?.flatten().map(|e| e.path());
    let others = others.filter(|p| *p != kept && p.extension().is_some_and(|e| e == ASIDE));
    let used: u64 = others.filter_map(|p| fs::metadata(p).ok()).map(|m| m.len()).sum();
    if used + fs::metadata(path)?.len() > KEPT_BYTES {
        tracing::error!(path = %path.display(), "no copy is kept: there are {used} bytes of *.{ASIDE} already");
        return Ok(());
    }
    fs::copy(path, kept).map(drop)
}

/// Puts a segment where it is not read any more.
pub(super) fn rename_aside(path: &Path) -> io::Result<()> {
    match fs::rename(path, path.with_extension(ASIDE)) {
        // Whoever took it away took what was in it.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// A file shorter than a header was begun and never written to; a longer one is kept for people to look at.
fn set_aside(path: &Path, len: usize) -> io::Result<()> {
    if len <= HEADER_LEN {
        return fs::remove_file(path);
    }
    tracing::error!(path = %path.display(), "not a spool segment: set aside");
    rename_aside(path)
}

/// Whole records in a segment, and where the last whole entry ends.
fn scan(bytes: &[u8]) -> (u64, usize) {
    let (mut at, mut count) = (HEADER_LEN, 0);
    while let Some((entry, len)) = bytes.get(at..).and_then(read_entry) {
        at += len;
        count += u64::from(matches!(entry, Entry::Record(_)));
    }
    (count, at)
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
