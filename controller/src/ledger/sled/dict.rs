//! Subjects and functions by number: kept once in the ledger, so that records and sums carry four bytes.

use super::super::{FunctionId, ReadError};
use super::CorruptValue;
use super::key::{self, Dictionary, trailing_number};
use super::open::Folder;
use crate::ledger::codec::{StoredSubject, decode_function, encode_function};
use dormouse_core::record::Subject;
use std::collections::{HashMap, HashSet};

/// Entries kept in memory for the writer: about 500 B each with its texts, so at most 8 MB.
const MAX_CACHED: usize = 16_384;

/// What the writer must know of a subject.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) subject: u32,
    pub(super) function: u32,
    /// Memory in MiB and cpu in thousandths.
    pub(super) size: (u32, u32),
}

/// The writer's side: gives numbers out.
pub(super) struct Numbers {
    subjects: HashMap<Subject, Known>,
    /// Subjects of `subjects` whose instance's start is known to be counted.
    started: HashSet<u32>,
    /// The day on which subjects were last seen, as the store knows it.
    seen: HashMap<u32, u32>,
    functions: HashMap<FunctionId, u32>,
    next_subject: u32,
    next_function: u32,
}

impl Numbers {
    pub(super) fn open(store: &Folder) -> Result<Self, ReadError> {
        let [next_subject, next_function] =
            [next_number(store, Dictionary::Subject)?, next_number(store, Dictionary::Function)?];
        Ok(Self {
            subjects: HashMap::new(),
            started: HashSet::new(),
            seen: HashMap::new(),
            functions: HashMap::new(),
            next_subject,
            next_function,
        })
    }

    /// Number of a subject; a new one is written with the batch.
    pub(super) fn of(
        &mut self,
        store: &Folder,
        batch: &mut sled::Batch,
        subject: &Subject,
    ) -> Result<Known, ReadError> {
        if let Some(known) = self.subjects.get(subject) {
            return Ok(*known);
        }
        let id = FunctionId::of(subject);
        let function = match self.functions.get(&id) {
            Some(&number) => number,
            None => {
                let number =
                    number_of(store, batch, Dictionary::Function, &encode_function(&id), &mut self.next_function)?;
                self.functions.insert(id, number);
                number
            }
        };
        let Subject { memory_mib, cpu_millis, ref revision, ref instance, .. } = *subject;
        let (revision, instance) = (revision.clone(), instance.clone());
        let stored = StoredSubject { function, memory_mib, cpu_millis, revision, instance };
        let number = number_of(store, batch, Dictionary::Subject, &stored.encode(), &mut self.next_subject)?;
        let known = Known { subject: number, function, size: (memory_mib, cpu_millis) };
        self.subjects.insert(subject.clone(), known);
        Ok(known)
    }

    /// Whether a call is the first whose record says that it waited for the start of its instance. Several activators may
    /// each have had a first call there; each instance has a subject of its own.
    pub(super) fn start(&mut self, store: &Folder, batch: &mut sled::Batch, subject: u32) -> Result<bool, ReadError> {
        if !self.started.insert(subject) || store.db.contains_key(key::started(subject))? {
            return Ok(false);
        }
        batch.insert(&key::started(subject), &[]);
        Ok(true)
    }

    /// Notes that a subject is referred to by something of a day, days since 1970 UTC: it is kept for as long as that is.
    pub(super) fn see(
        &mut self,
        store: &Folder,
        batch: &mut sled::Batch,
        subject: u32,
        day: u32,
    ) -> Result<(), ReadError> {
        let before = match self.seen.get(&subject) {
            Some(&before) => Some(before),
            None => seen(store, subject)?,
        };
        if before.is_none_or(|before| before < day) {
            if let Some(before) = before {
                batch.remove(&key::seen_on(before, subject));
            }
            batch.insert(&key::seen(subject), &day.to_be_bytes());
            batch.insert(&key::seen_on(day, subject), &[]);
        }
        self.seen.insert(subject, before.map_or(day, |before| before.max(day)));
        Ok(())
    }

    /// Forgets subjects that nothing refers to, each with the day on which it was last seen: `batch` takes them out of the
    /// store.
    pub(super) fn forget(
        &mut self,
        store: &Folder,
        batch: &mut sled::Batch,
        subjects: &[(u32, u32)],
    ) -> Result<(), ReadError> {
        for &(subject, day) in subjects {
            if let Some(value) = store.db.get(Dictionary::Subject.entry(subject))? {
                batch.remove(&Dictionary::Subject.by_sum(crc32c::crc32c(&value), subject));
            }
            batch.remove(&Dictionary::Subject.entry(subject));
            [key::started(subject), key::warm(subject), key::seen(subject)].iter().for_each(|key| batch.remove(key));
            batch.remove(&key::seen_on(day, subject));
            self.started.remove(&subject);
            self.seen.remove(&subject);
        }
        let gone: HashSet<u32> = subjects.iter().map(|(subject, _)| *subject).collect();
        self.subjects.retain(|_, known| !gone.contains(&known.subject));
        Ok(())
    }

    /// Forgets what the store knows as well. Only between batches: numbers of an unwritten batch are nowhere else.
    pub(super) fn trim(&mut self) {
        if self.subjects.len() > MAX_CACHED {
            self.subjects.clear();
            self.started.clear();
            self.seen.clear();
        }
        if self.functions.len() > MAX_CACHED {
            self.functions.clear();
        }
    }
}

/// The first number that was never given out.
pub(super) fn next_number(store: &Folder, dictionary: Dictionary) -> Result<u32, ReadError> {
    Ok(store.last_number(&dictionary.all())?.map_or(0, |n| n.saturating_add(1)))
}

/// The day on which a subject was last seen.
pub(super) fn seen(store: &Folder, subject: u32) -> Result<Option<u32>, ReadError> {
    let Some(value) = store.db.get(key::seen(subject))? else { return Ok(None) };
    Ok(Some(u32::from_be_bytes((*value).try_into().map_err(|_| CorruptValue("day of a subject"))?)))
}

/// Number of a value that is there: found by its checksum.
pub(super) fn find(store: &Folder, dictionary: Dictionary, value: &[u8]) -> Result<Option<u32>, ReadError> {
    // Different values with one checksum stand side by side.
    for found in store.db.scan_prefix(dictionary.with_sum(crc32c::crc32c(value))).keys() {
        let number = trailing_number(&found?).ok_or(CorruptValue("dictionary key"))?;
        if store.db.get(dictionary.entry(number))?.is_some_and(|v| v == value) {
            return Ok(Some(number));
        }
    }
    Ok(None)
}

/// Number of a value; a new one is written with the batch, under the next number.
pub(super) fn number_of(
    store: &Folder,
    batch: &mut sled::Batch,
    dictionary: Dictionary,
    value: &[u8],
    next: &mut u32,
) -> Result<u32, ReadError> {
    if let Some(number) = find(store, dictionary, value)? {
        return Ok(number);
    }
    let sum = crc32c::crc32c(value);
    let number = *next;
    *next = next.checked_add(1).ok_or(CorruptValue("dictionary: all its numbers are taken"))?;
    batch.insert(&dictionary.entry(number), value);
    batch.insert(&dictionary.by_sum(sum, number), &[]);
    Ok(number)
}

/// Every function the ledger knows, by number.
pub(super) fn functions(store: &Folder) -> impl Iterator<Item = Result<(u32, FunctionId), ReadError>> {
    store.db.scan_prefix(Dictionary::Function.all()).map(|entry| {
        let (key, value) = entry?;
        let number = trailing_number(&key).ok_or(CorruptValue("dictionary key"))?;
        Ok((number, decode_function(&value)?))
    })
}

/// What a subject number means.
pub(super) fn subject(store: &Folder, number: u32) -> Result<StoredSubject, ReadError> {
    let value = store.db.get(Dictionary::Subject.entry(number))?.ok_or(CorruptValue("subject"))?;
    Ok(StoredSubject::decode(&value)?)
}

/// What a function number means.
pub(super) fn function(store: &Folder, number: u32) -> Result<FunctionId, ReadError> {
    let value = store.db.get(Dictionary::Function.entry(number))?.ok_or(CorruptValue("function"))?;
    Ok(decode_function(&value)?)
}
