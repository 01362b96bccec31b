//! What former lives left in the folder: their segments, and of calls without a record the intents, which become records.

use super::{
    Segment,
    segment::{
        self, ENTRY_HEAD, EXTENSION, Entry, HEADER_LEN, Header, MAX_PAYLOAD, RECORD, Word, Writer, read_entry, u32_at,
    },
};
use dormouse_core::record::{CallRecord, Subject};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fs::{self, OpenOptions},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Extension of what was set aside; nobody reads or deletes it but people.
const ASIDE: &str = "bad";
/// Most that copies take: four of the largest segments.
const KEPT_BYTES: u64 = 4 * super::MAX_SEGMENT;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Former {
    /// Oldest first.
    pub(super) segments: VecDeque<Segment>,
    /// Records that were lost.
    pub(super) lost: u64,
    /// Calls that had no record, and have one now.
    pub(super) aborted: u64,
}

/// One life, as its segments tell it in their order.
struct Life {
    activator: u64,
    epoch: u32,
    /// Number of its next record.
    next_seq: u64,
    /// Calls that it had dispatched and not recorded, by their number.
    open: BTreeMap<u64, (Arc<Subject>, CallRecord)>,
    /// Segments without a record.
    empty: Vec<PathBuf>,
}

/// Finds the segments of former lives, oldest first; what follows the last whole entry is cut off, and kept in a copy
/// when it is more than a torn write. Files without a record are deleted, such whose header is harmed are set aside.
/// Calls that a life has not ended become its last records: see [`super::tails`].
pub(super) fn recover(folder: &Path) -> io::Result<Former> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)?
        .filter_map(|entry| entry.map(|e| e.path()).ok())
        .filter(|path| path.extension().is_some_and(|e| e == EXTENSION))
        .collect();
    // By writer, epoch and first number: a life's segments follow each other.
    paths.sort();
    let (mut former, mut life) = (Former::default(), None);
    for path in paths {
        let bytes = fs::read(&path)?;
        let Some(header) = Header::read(&bytes) else {
            former.lost += bytes.get(HEADER_LEN..).map_or(0, records_in);
            set_aside(&path, bytes.len())?;
            continue;
        };
        let life = former.life_of(&header, &mut life, folder)?;
        if let Some(segment) = life.read(path, header, &bytes, &mut former.lost)? {
            former.segments.push_back(segment);
        }
    }
    if let Some(life) = life {
        former.end(life, folder)?;
    }
    Ok(former)
}

impl Former {
    /// The life that wrote a segment: the one before it, or a new one.
    fn life_of<'a>(&mut self, header: &Header, life: &'a mut Option<Life>, folder: &Path) -> io::Result<&'a mut Life> {
        let &Header { activator, epoch, first_seq, .. } = header;
        if let Some(before) = life.take_if(|life| (life.activator, life.epoch) != (activator, epoch)) {
            self.end(before, folder)?;
        }
        let new = || Life { activator, epoch, next_seq: first_seq, open: BTreeMap::new(), empty: Vec::new() };
        Ok(life.get_or_insert_with(new))
    }

    /// Nothing more is found of a life.
    fn end(&mut self, life: Life, folder: &Path) -> io::Result<()> {
        let Life { activator, epoch, next_seq, open, empty } = life;
        let tail = match open.len() {
            0 => None,
            calls => {
                tracing::warn!(epoch, calls, "calls that a former life did not end are recorded as aborted");
                self.aborted += calls as u64;
                Some(write_tail(folder, Header { activator, epoch, first_seq: next_seq, aborted: true }, open)?)
            }
        };
        // The tail may have taken the name of one.
        for path in empty.into_iter().filter(|path| tail.as_ref().is_none_or(|tail| tail.path != *path)) {
            fs::remove_file(&path)?;
        }
        self.segments.extend(tail);
        Ok(())
    }
}

impl Life {
    /// Takes a segment in: what it holds is whole then. `None` when it holds no record.
    fn read(&mut self, path: PathBuf, header: Header, bytes: &[u8], lost: &mut u64) -> io::Result<Option<Segment>> {
        // Records between this and what was read before are lost: of calls whose intents are there nobody knows whether they
        // had one. What was still open when this began is in it.
        if header.first_seq > self.next_seq {
            self.open.clear();
        }
        let (count, end) = self.scan(bytes);
        self.next_seq = self.next_seq.max(header.first_seq + count);
        let rest = &bytes[end..];
        if !is_torn(rest) {
            let records = records_in(rest);
            *lost += records;
            tracing::error!(path = %path.display(), records, bytes = rest.len(), "harmed within: what follows is lost");
            keep_copy(&path)?;
        }
        if count == 0 {
            self.empty.push(path);
            return Ok(None);
        }
        if end < bytes.len() {
            tracing::warn!(path = %path.display(), "cut {} bytes after the last whole record", rest.len());
            OpenOptions::new().write(true).open(&path)?.set_len(end as u64)?;
        }
        Ok(Some(Segment { path, header, count, bytes: end as u64 }))
    }

    /// Whole records in a segment, and where the last whole entry ends.
    fn scan(&mut self, bytes: &[u8]) -> (u64, usize) {
        let (mut at, mut count, mut subjects) = (HEADER_LEN, 0, HashMap::new());
        while let Some((entry, len)) = bytes.get(at..).and_then(read_entry) {
            at += len;
            match entry {
                Entry::Subject(number, subject) => drop(subjects.insert(number, Arc::new(subject))),
                Entry::Record(record) => {
                    count += 1;
                    self.open.remove(&record.call);
                }
                Entry::Intent(record) => {
                    if let Some(subject) = subjects.get(&record.subject) {
                        self.open.insert(record.call, (subject.clone(), record));
                    }
                }
                Entry::Void(call) => drop(self.open.remove(&call)),
            }
        }
        (count, at)
    }
}

/// Writes the records that become of intents. It has its name once it is whole and durable: a start that is killed leaves
/// the intents, for the next one.
fn write_tail(folder: &Path, header: Header, open: BTreeMap<u64, (Arc<Subject>, CallRecord)>) -> io::Result<Segment> {
    let words: Vec<Word> = open.into_values().map(|(subject, record)| Word::Record(subject, record)).collect();
    let draft = folder.join("tail.new");
    let (mut writer, segment) = Writer::begin_at(draft.clone(), header)?;
    let bytes = segment.bytes + writer.append(&words)?;
    writer.finish().sync_all()?;
    let path = header.path(folder);
    fs::rename(&draft, &path)?;
    segment::sync_folder(folder)?;
    Ok(Segment { path, count: words.len() as u64, bytes, ..segment })
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
