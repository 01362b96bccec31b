//! The whole tree as items, and back.

use super::super::times::{hour_of, today};
use super::super::transfer::{Item, SubjectItem, Summary};
use super::super::{FunctionId, Level, ReadError};
use super::apply::{forgotten, stored_count, stored_watermark};
use super::block::{Block, OpenBlock};
use super::closed::{self, closed};
use super::dict;
use super::key::{self, BlockId, Dictionary, EpochId, RollupId, trailing_number};
use super::open::Folder;
use crate::ledger::codec::{CorruptValue, StoredSubject, decode_sum, encode_function, encode_sum};
use dormouse_core::record::CallRecord;
use sled::Batch;
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use tokio::sync::mpsc;

/// Keys of one batch while a ledger is filled.
const BATCH: usize = 1_024;

/// Gives everything to who takes it; ends early, and well, when nobody does.
pub(super) fn dump(folder: &Folder, taken: &impl Fn(Item) -> bool) -> Result<(), ReadError> {
    let mut tenants = BTreeSet::new();
    if !taken(Item::State { gone: *folder.gone.lock(), closed: closed(folder)? }) {
        return Ok(());
    }
    for entry in dict::functions(folder) {
        let (number, id) = entry?;
        tenants.insert(id.tenant.clone());
        if !taken(Item::Function(number, id)) {
            return Ok(());
        }
    }
    for entry in folder.db.scan_prefix(Dictionary::Subject.all()) {
        let (key, value) = entry?;
        let number = trailing_number(&key).ok_or(CorruptValue("dictionary key"))?;
        if !taken(Item::Subject(subject(folder, number, StoredSubject::decode(&value)?)?)) {
            return Ok(());
        }
    }
    if !epochs(folder, taken)? || !sums(folder, taken)? {
        return Ok(());
    }
    for (function, month) in closed::late(folder)? {
        taken(Item::Late { function, month });
    }
    for entry in closed::all_reversals(folder) {
        if !taken(Item::Reversal(entry?)) {
            return Ok(());
        }
    }
    for tenant in tenants {
        for (month, document) in closed::documents(folder, &tenant)? {
            taken(Item::Document { tenant: tenant.clone(), month, document });
        }
    }
    Ok(())
}

fn subject(folder: &Folder, number: u32, subject: StoredSubject) -> Result<SubjectItem, ReadError> {
    let started = folder.db.contains_key(key::started(number))?;
    let warm = folder.db.contains_key(key::warm(number))?.then(|| stored_count(folder, number)).transpose()?;
    let seen = dict::seen(folder, number)?.unwrap_or_else(today);
    Ok(SubjectItem { number, subject, started, seen, warm })
}

/// Epochs, then their records: whether somebody took them. A record that is kept only because its block has others of a
/// later day is gone: it stays behind, and is counted as such.
fn epochs(folder: &Folder, taken: &impl Fn(Item) -> bool) -> Result<bool, ReadError> {
    let mut epochs = Vec::new();
    for entry in folder.db.scan_prefix(key::WATERMARKS).keys() {
        let id = EpochId::read(&entry?).ok_or(CorruptValue("watermark"))?;
        epochs.push(id);
        let mut hidden = 0;
        for entry in folder.db.scan_prefix(id.blocks()) {
            let block = Block::read(&entry?.1)?;
            if is_gone(folder, block.first_us) {
                hidden += block.records()?.iter().filter(|r| is_gone(folder, r.received_at_us)).count() as u64;
            }
        }
        let EpochId { activator, epoch } = id;
        let (watermark, forgotten) = (stored_watermark(folder, id)?, forgotten(folder, id)? + hidden);
        if !taken(Item::Epoch { activator, epoch, watermark, forgotten }) {
            return Ok(false);
        }
    }
    for id in epochs {
        for entry in folder.db.scan_prefix(id.blocks()) {
            let (key, value) = entry?;
            let first_seq = BlockId::read(&key).ok_or(CorruptValue("block"))?.first_seq;
            if !records(folder, (id, first_seq), Block::read(&value)?.records()?, taken) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

fn is_gone(folder: &Folder, received_at_us: i64) -> bool {
    hour_of(received_at_us) < folder.gone.lock().record_hour
}

/// The records of a block, at most 409, in runs between those that are gone.
fn records(
    folder: &Folder,
    (EpochId { activator, epoch }, first_seq): (EpochId, u64),
    records: Vec<CallRecord>,
    taken: &impl Fn(Item) -> bool,
) -> bool {
    let mut first_seq = first_seq;
    for run in records.chunk_by(|a, b| is_gone(folder, a.received_at_us) == is_gone(folder, b.received_at_us)) {
        let gone = run.first().is_some_and(|first| is_gone(folder, first.received_at_us));
        if !gone && !taken(Item::Records { activator, epoch, first_seq, records: run.to_vec() }) {
            return false;
        }
        first_seq += run.len() as u64;
    }
    true
}

fn sums(folder: &Folder, taken: &impl Fn(Item) -> bool) -> Result<bool, ReadError> {
    for level in [Level::Minute, Level::Hour, Level::Day] {
        for entry in folder.db.scan_prefix(key::rollups(level)) {
            let (key, value) = entry?;
            let (function, time) = RollupId::read(&key).ok_or(CorruptValue("sum's key"))?;
            if !taken(Item::Sum { level, function, time, sum: decode_sum(&value)? }) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Takes everything; without an end it fails, and the folder says for ever that it is not whole.
pub(super) fn restore(folder: &Folder, mut items: mpsc::Receiver<Item>) -> Result<(), ReadError> {
    folder.db.insert(key::HALF, &[])?;
    folder.commit()?;
    let mut filler = Filler { folder, batch: Batch::default(), keys: 0, functions: HashMap::new(), tenants: 0 };
    let mut taken = Summary::default();
    loop {
        let item = items.blocking_recv();
        let item = item.ok_or_else(|| ReadError::Closed("what was to be imported ended early".to_owned()))?;
        if item == Item::End {
            break;
        }
        taken.count(&item);
        filler.take(item)?;
    }
    filler.write()?;
    // What is in it is what came, and durable, before it is called whole.
    folder.commit()?;
    *folder.gone.lock() = super::tidy::stored_gone(folder)?;
    let found = RefCell::new(Summary::default());
    dump(folder, &|item| {
        found.borrow_mut().count(&item);
        true
    })?;
    if *found.borrow() != taken {
        return Err(ReadError::Corrupt("what was imported is not what is in the file".to_owned()));
    }
    folder.db.remove(key::HALF)?;
    Ok(folder.commit()?)
}

/// Writes items straight to the tree: nobody else does.
struct Filler<'a> {
    folder: &'a Folder,
    batch: Batch,
    keys: usize,
    /// The function of each subject.
    functions: HashMap<u32, u32>,
    tenants: u32,
}

impl Filler<'_> {
    fn insert(&mut self, key: &[u8], value: impl Into<sled::IVec>) {
        self.batch.insert(key, value);
        self.keys += 1;
    }

    fn write(&mut self) -> Result<(), ReadError> {
        self.folder.db.apply_batch(std::mem::take(&mut self.batch))?;
        self.keys = 0;
        Ok(())
    }

    fn take(&mut self, item: Item) -> Result<(), ReadError> {
        match item {
            Item::State { gone, closed } => {
                self.insert(&key::GONE, super::tidy::encode_gone(gone));
                self.insert(&key::CLOSED, closed::encode_closed(closed));
            }
            Item::Function(number, id) => self.function(number, &id),
            Item::Subject(item) => self.subject(&item),
            Item::Epoch { activator, epoch, watermark, forgotten } => {
                let id = EpochId { activator, epoch };
                self.insert(&id.watermark(), &watermark.to_be_bytes());
                if forgotten > 0 {
                    self.insert(&id.forgotten(), &forgotten.to_be_bytes());
                }
            }
            Item::Records { activator, epoch, first_seq, records } => {
                let mut block = OpenBlock::new(BlockId { epoch: EpochId { activator, epoch }, first_seq });
                for (seq, record) in (first_seq..).zip(&records) {
                    if !block.has_room() {
                        block.write(&mut self.batch);
                        self.keys += 2;
                        block = OpenBlock::new(BlockId { epoch: EpochId { activator, epoch }, first_seq: seq });
                    }
                    let function = *self.functions.get(&record.subject).ok_or(CorruptValue("subject of a record"))?;
                    block.push(record, function);
                }
                block.write(&mut self.batch);
                self.keys += 2;
            }
            Item::Sum { level, function, time, sum } => {
                self.insert(&RollupId { level, function, time }.key(), encode_sum(&sum));
            }
            Item::Reversal(entry) => self.insert(&key::reversal(&entry), entry.body),
            Item::Late { function, month } => self.insert(&key::late(function, month), &[]),
            Item::Document { tenant, month, document } => {
                let tenant = dict::number_of(
                    self.folder,
                    &mut self.batch,
                    Dictionary::Tenant,
                    tenant.as_bytes(),
                    &mut self.tenants,
                )?;
                closed::put_document(&mut self.batch, tenant, month, &document)?;
                // The next document's tenant is looked up in the tree.
                self.keys = BATCH;
            }
            Item::End => {}
        }
        if self.keys >= BATCH { self.write() } else { Ok(()) }
    }

    fn function(&mut self, number: u32, id: &FunctionId) {
        let value = encode_function(id);
        self.insert(&Dictionary::Function.by_sum(crc32c::crc32c(&value), number), &[]);
        self.insert(&Dictionary::Function.entry(number), value);
    }

    fn subject(&mut self, item: &SubjectItem) {
        let SubjectItem { number, subject, started, seen, warm } = item;
        let value = subject.encode();
        self.functions.insert(*number, subject.function);
        self.insert(&Dictionary::Subject.by_sum(crc32c::crc32c(&value), *number), &[]);
        self.insert(&Dictionary::Subject.entry(*number), value);
        self.insert(&key::seen(*number), &seen.to_be_bytes());
        self.insert(&key::seen_on(*seen, *number), &[]);
        if *started {
            self.insert(&key::started(*number), &[]);
        }
        if let Some(counted) = warm {
            self.insert(&key::warm(*number), super::apply::encode_count(*counted));
        }
    }
}
