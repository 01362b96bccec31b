//! Single records, from the blocks of the hours asked for.

use super::super::store::Scan;
use super::super::{FunctionId, Page, ReadError, RecordKey, RecordRow};
use super::block::{Block, mask_of};
use super::key::{self, BlockId, EpochId};
use super::open::Folder;
use super::{CorruptValue, dict};
use crate::ledger::times::hour_of;
use dormouse_core::RequestId;
use dormouse_core::record::Subject;
use std::collections::{HashMap, HashSet};

/// Blocks unpacked for one page: 512 x about 180 records, some 10 ms.
const MAX_BLOCKS: usize = 512;
/// Blocks passed over for one page because the function is not in them, by the index alone.
const MAX_SKIPPED: usize = 65_536;

/// See [`super::super::store::Store::records`].
pub(super) fn scan(store: &Folder, query: &Scan) -> Result<Page<RecordRow, RecordKey>, ReadError> {
    let mut reader = Reader::new(store, query);
    let from = match query.after {
        Some(after) => block_id(after).in_hour(after.hour).to_vec(),
        None => key::hour(hour_of(query.times_us.start)).to_vec(),
    };
    let to = key::hour(hour_of(query.times_us.end - 1).saturating_add(1));
    let (mut read, mut skipped) = (0, 0);
    for entry in store.db.range(from..to.to_vec()) {
        let (key, mask) = entry?;
        let (hour, id) = BlockId::read_in_hour(&key).ok_or(CorruptValue("hour index"))?;
        let mask = u128::from_be_bytes((*mask).try_into().map_err(|_| CorruptValue("hour index"))?);
        // How far the block was seen: it may get more records later, and they come on a later page.
        let mut seen = 0;
        if mask & reader.mask == 0 {
            skipped += 1;
        } else {
            read += 1;
            seen = reader.block(hour, id)?;
        }
        if let Some(&next) = reader.keys.get(query.limit.saturating_sub(1)).filter(|_| reader.rows.len() > query.limit)
        {
            reader.rows.truncate(query.limit);
            return Ok(Page { rows: reader.rows, next: Some(next) });
        }
        if read >= MAX_BLOCKS || skipped >= MAX_SKIPPED {
            let EpochId { activator, epoch } = id.epoch;
            let next = RecordKey { hour, activator, epoch, block: id.first_seq, seq: seen };
            return Ok(Page { rows: reader.rows, next: Some(next) });
        }
    }
    Ok(Page { rows: reader.rows, next: None })
}

fn block_id(key: RecordKey) -> BlockId {
    BlockId { epoch: EpochId { activator: key.activator, epoch: key.epoch }, first_seq: key.block }
}

struct Reader<'a> {
    store: &'a Folder,
    query: &'a Scan,
    mask: u128,
    /// What numbers mean, for this page.
    subjects: HashMap<u32, (u32, Subject)>,
    names: HashMap<u32, FunctionId>,
    rows: Vec<RecordRow>,
    keys: Vec<RecordKey>,
}

impl<'a> Reader<'a> {
    fn new(store: &'a Folder, query: &'a Scan) -> Self {
        let of = |numbers: &HashSet<u32>| numbers.iter().fold(0, |mask, &number| mask | mask_of(number));
        let mask = query.functions.as_ref().map_or(u128::MAX, of);
        Self { store, query, mask, subjects: HashMap::new(), names: HashMap::new(), rows: Vec::new(), keys: Vec::new() }
    }

    /// Takes what is asked for out of one block and returns its last sequence; stops one row beyond the limit.
    fn block(&mut self, hour: u32, id: BlockId) -> Result<u64, ReadError> {
        let Some(value) = self.store.db.get(id.key())? else {
            // It may go before its entries in the index do.
            let gone = hour < self.store.gone.lock().record_hour;
            return if gone { Ok(u64::MAX) } else { Err(CorruptValue("block").into()) };
        };
        let block = Block::read(&value)?;
        let last = id.first_seq + u64::from(block.count).saturating_sub(1);
        if block.last_us < self.query.times_us.start || block.first_us >= self.query.times_us.end {
            return Ok(last);
        }
        for (seq, record) in (id.first_seq..).zip(block.records()?) {
            let EpochId { activator, epoch } = id.epoch;
            let key = RecordKey { hour, activator, epoch, block: id.first_seq, seq };
            let at = record.received_at_us;
            // A block with several hours stands in the index once for each.
            let wanted = hour_of(at) == hour && self.query.times_us.contains(&at);
            if !wanted || self.query.after.is_some_and(|after| key <= after) {
                continue;
            }
            let subject = match self.subject(record.subject) {
                // It may go before who reads its records has come to them.
                Err(ReadError::Corrupt(_)) if hour < self.store.gone.lock().record_hour => continue,
                subject => subject?,
            };
            let Some(subject) = subject else { continue };
            let request_id = RequestId { activator, epoch, call: record.call };
            self.rows.push(RecordRow { key, request_id, subject, record });
            self.keys.push(key);
            if self.rows.len() > self.query.limit {
                break;
            }
        }
        Ok(last)
    }

    /// What a number means, when its function is asked for.
    fn subject(&mut self, number: u32) -> Result<Option<Subject>, ReadError> {
        if !self.subjects.contains_key(&number) {
            let stored = dict::subject(self.store, number)?;
            if !self.names.contains_key(&stored.function) {
                self.names.insert(stored.function, dict::function(self.store, stored.function)?);
            }
            let name = self.names.get(&stored.function).ok_or(CorruptValue("function"))?;
            let size = (stored.memory_mib, stored.cpu_millis);
            let subject = name.subject(size, stored.revision, stored.instance);
            self.subjects.insert(number, (stored.function, subject));
        }
        let known = self.subjects.get(&number);
        let asked = |function: &u32| self.query.functions.as_ref().is_none_or(|f| f.contains(function));
        Ok(known.filter(|(function, _)| asked(function)).map(|(_, subject)| subject.clone()))
    }
}
