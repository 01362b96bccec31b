//! Single records, from the blocks of the hours asked for.

use super::apply::rules;
use super::block::{Block, hour_of, mask_of};
use super::codec::FunctionId;
use super::key::{self, BlockId, EpochId};
use super::open::Store;
use super::usage::Filter;
use super::{CorruptValue, Page, ReadError, dict};
use dormouse_core::RequestId;
use dormouse_core::price::Metering;
use dormouse_core::record::{CallRecord, Subject};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

/// Blocks unpacked for one page: 512 x about 180 records, some 10 ms.
const MAX_BLOCKS: usize = 512;
/// Blocks passed over for one page because the function is not in them, by the index alone.
const MAX_SKIPPED: usize = 65_536;

/// A question for single records.
#[derive(Clone, Debug)]
pub struct RecordsQuery {
    /// By the time of the first byte, microseconds since 1970 UTC, the end not included.
    pub times_us: Range<i64>,
    /// Which functions' records.
    pub filter: Filter,
    /// Only records after this one.
    pub after: Option<RecordKey>,
    /// Most rows.
    pub limit: usize,
}

/// Records are in this order: by the hour they are billed in, then as each activator's epoch wrote them. A record that
/// comes late is behind those of its epoch that came before: no page ever shows a record twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RecordKey {
    /// Hours since 1970 UTC.
    pub hour: u32,
    /// The activator's id.
    pub activator: u64,
    /// Its epoch.
    pub epoch: u32,
    /// First sequence of the block that holds the record.
    pub block: u64,
    /// The record's own sequence.
    pub seq: u64,
}

/// One record with everything it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordRow {
    /// Its place.
    pub key: RecordKey,
    /// The id the caller was given.
    pub request_id: RequestId,
    /// What ran.
    pub subject: Subject,
    /// What it used; its `subject` is the ledger's number.
    pub record: CallRecord,
    /// How its time was metered when it was applied.
    pub metering: Metering,
}

/// Answers a question. A page may be short, even empty, and yet have a next one: the work for one page is bounded.
pub(super) fn query(store: &Store, query: &RecordsQuery) -> Result<Page<RecordRow, RecordKey>, ReadError> {
    if query.times_us.is_empty() || query.limit == 0 {
        return Ok(Page { rows: Vec::new(), next: None });
    }
    let mut reader = Reader::new(store, query)?;
    if reader.functions.as_ref().is_some_and(HashSet::is_empty) {
        return Ok(Page { rows: Vec::new(), next: None });
    }
    let from = match query.after {
        Some(after) => after.block_id().in_hour(after.hour).to_vec(),
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

impl RecordKey {
    fn block_id(self) -> BlockId {
        BlockId { epoch: EpochId { activator: self.activator, epoch: self.epoch }, first_seq: self.block }
    }
}

struct Reader<'a> {
    store: &'a Store,
    query: &'a RecordsQuery,
    /// Numbers of the functions asked for; `None` for all.
    functions: Option<HashSet<u32>>,
    mask: u128,
    rules: BTreeMap<u16, Metering>,
    /// What numbers mean, for this page.
    subjects: HashMap<u32, (u32, Subject)>,
    names: HashMap<u32, FunctionId>,
    rows: Vec<RecordRow>,
    keys: Vec<RecordKey>,
}

impl<'a> Reader<'a> {
    fn new(store: &'a Store, query: &'a RecordsQuery) -> Result<Self, ReadError> {
        let (mut functions, mut mask) = (None, u128::MAX);
        if !query.filter.is_empty() {
            let mut numbers = HashSet::new();
            for entry in dict::functions(store) {
                let (number, id) = entry?;
                if query.filter.takes(&id) {
                    numbers.insert(number);
                }
            }
            mask = numbers.iter().fold(0, |mask, &number| mask | mask_of(number));
            functions = Some(numbers);
        }
        let (subjects, names) = (HashMap::new(), HashMap::new());
        let rules = rules(store)?;
        Ok(Self { store, query, functions, mask, rules, subjects, names, rows: Vec::new(), keys: Vec::new() })
    }

    /// Takes what is asked for out of one block and returns its last sequence; stops one row beyond the limit.
    fn block(&mut self, hour: u32, id: BlockId) -> Result<u64, ReadError> {
        let value = self.store.db.get(id.key())?.ok_or(CorruptValue("block"))?;
        let block = Block::read(&value)?;
        let last = id.first_seq + u64::from(block.count).saturating_sub(1);
        if block.last_us < self.query.times_us.start || block.first_us >= self.query.times_us.end {
            return Ok(last);
        }
        let metering = *self.rules.get(&block.rule).ok_or(CorruptValue("metering rule"))?;
        for (seq, record) in (id.first_seq..).zip(block.records()?) {
            let EpochId { activator, epoch } = id.epoch;
            let key = RecordKey { hour, activator, epoch, block: id.first_seq, seq };
            let at = record.received_at_us;
            // A block with several hours stands in the index once for each.
            let wanted = hour_of(at) == hour && self.query.times_us.contains(&at);
            if !wanted || self.query.after.is_some_and(|after| key <= after) {
                continue;
            }
            let Some(subject) = self.subject(record.subject)? else { continue };
            let request_id = RequestId { activator, epoch, call: record.call };
            self.rows.push(RecordRow { key, request_id, subject, record, metering });
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
            let subject = Subject {
                function_uid: name.uid.clone(),
                namespace: name.namespace.clone(),
                name: name.name.clone(),
                revision: stored.revision,
                tenant: name.tenant.clone(),
                memory_mib: stored.memory_mib,
                cpu_millis: stored.cpu_millis,
            };
            self.subjects.insert(number, (stored.function, subject));
        }
        let known = self.subjects.get(&number);
        let asked = |function: &u32| self.functions.as_ref().is_none_or(|f| f.contains(function));
        Ok(known.filter(|(function, _)| asked(function)).map(|(_, subject)| subject.clone()))
    }
}
