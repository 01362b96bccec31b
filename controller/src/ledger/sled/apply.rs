//! Frames become batches: blocks, sums and watermarks in one atomic write, each record once.

use super::block::{OpenBlock, hour_of};
use super::codec::{decode_rule, decode_sum, encode_rule, encode_sum};
use super::dict::{Known, Numbers};
use super::frame::Checked;
use super::growth::Growth;
use super::key::{self, BlockId, EpochId, RollupId};
use super::open::Store;
use super::{AppendOutcome, Appended, CorruptValue, ReadError};
use dormouse_core::price::Metering;
use dormouse_core::record::CallRecord;
use dormouse_core::usage::UsageSum;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Records in one atomic batch: about 90 blocks, 360 KiB of sled's log.
const MAX_BATCH: usize = 16_384;
/// Sums kept in memory: about 350 B each, so at most 6 MB.
const MAX_SUMS: usize = 16_384;
/// Watermarks kept in memory: about 40 B each.
const MAX_WATERMARKS: usize = 16_384;
/// Short blocks kept to go on with: at most 1 KiB and their index each.
const MAX_TAILS: usize = 1_024;

/// The writer's state. What it caches is what was written: it may be forgotten between batches.
pub(super) struct Applier {
    store: Arc<Store>,
    metering: Metering,
    rule: u16,
    numbers: Numbers,
    watermarks: HashMap<EpochId, u64>,
    sums: HashMap<RollupId, UsageSum>,
    /// The last block of each epoch, while it takes more.
    tails: HashMap<EpochId, OpenBlock>,
    growth: Growth,
    open: Pending,
    /// Something was written since the last commit.
    unsynced: bool,
}

/// What the next batch will write.
#[derive(Default)]
struct Pending {
    batch: sled::Batch,
    sums: HashSet<RollupId>,
    epochs: HashSet<EpochId>,
    records: usize,
}

impl Applier {
    pub(super) fn new(store: Arc<Store>, metering: Metering) -> Result<Self, ReadError> {
        let mut open = Pending::default();
        let rule = rule_number(&store, &mut open.batch, &metering)?;
        let numbers = Numbers::open(&store)?;
        let growth = Growth::new(store.size_on_disk());
        let (watermarks, sums, tails) = (HashMap::new(), HashMap::new(), HashMap::new());
        Ok(Self { store, metering, rule, numbers, watermarks, sums, tails, growth, open, unsynced: false })
    }

    pub(super) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Takes what is new of a frame; it is durable after [`Applier::commit`].
    pub(super) fn apply(&mut self, frame: &Checked) -> Result<Appended, ReadError> {
        let epoch = EpochId { activator: frame.activator, epoch: frame.epoch };
        let watermark = self.watermark(epoch)?;
        let last = frame.first_seq + (frame.records.len() as u64 - 1);
        if last <= watermark {
            return Ok(Appended { watermark, outcome: AppendOutcome::Duplicate });
        }
        if frame.first_seq > watermark + 1 {
            return Ok(Appended { watermark, outcome: AppendOutcome::Gap });
        }
        // The overlap is smaller than the frame: last > watermark.
        let known = (watermark + 1 - frame.first_seq) as usize;
        let mut subjects: Vec<Option<Known>> = vec![None; frame.subjects.len()];
        for (seq, record) in (watermark + 1..).zip(&frame.records[known..]) {
            let slot = &mut subjects[record.subject as usize];
            let subject = match *slot {
                Some(subject) => subject,
                None => {
                    let text = &frame.subjects[record.subject as usize];
                    *slot.insert(self.numbers.of(&self.store, &mut self.open.batch, text)?)
                }
            };
            self.record(epoch, seq, record, subject)?;
            if self.open.records >= MAX_BATCH {
                self.write()?;
            }
        }
        Ok(Appended { watermark: last, outcome: AppendOutcome::Applied })
    }

    /// Writes the rest and makes everything durable.
    pub(super) fn commit(&mut self) -> Result<(), ReadError> {
        self.write()?;
        if self.unsynced {
            self.store.commit()?;
            self.unsynced = false;
        }
        if self.growth.must_look() && self.growth.is_too_much(self.store.size_on_disk()) {
            return Err(ReadError::Outgrown);
        }
        Ok(())
    }

    fn record(&mut self, epoch: EpochId, seq: u64, record: &CallRecord, known: Known) -> Result<(), ReadError> {
        if let Some(full) = self.tails.get(&epoch).filter(|block| !block.has_room()) {
            full.write(&mut self.open.batch);
            self.tails.remove(&epoch);
        }
        let new = || OpenBlock::new(BlockId { epoch, first_seq: seq }, self.rule);
        let block = self.tails.entry(epoch).or_insert_with(new);
        block.push(&CallRecord { subject: known.subject, ..*record }, known.function);
        let id = RollupId { function: known.function, hour: hour_of(record.received_at_us), rule: self.rule };
        if !self.sums.contains_key(&id) {
            let stored = self.store.db.get(id.key())?;
            let sum = stored.map_or_else(|| Ok(UsageSum::default()), |value| decode_sum(&value))?;
            self.sums.insert(id, sum);
        }
        if let Some(sum) = self.sums.get_mut(&id) {
            sum.add(record, known.memory_mib, &self.metering);
        }
        self.open.sums.insert(id);
        self.open.epochs.insert(epoch);
        self.watermarks.insert(epoch, seq);
        self.open.records += 1;
        Ok(())
    }

    fn watermark(&mut self, epoch: EpochId) -> Result<u64, ReadError> {
        if let Some(&watermark) = self.watermarks.get(&epoch) {
            return Ok(watermark);
        }
        let watermark = stored_watermark(&self.store, epoch)?;
        self.watermarks.insert(epoch, watermark);
        Ok(watermark)
    }

    /// One atomic batch of everything pending.
    fn write(&mut self) -> Result<(), ReadError> {
        if self.open.records == 0 {
            return Ok(());
        }
        let Pending { mut batch, sums, epochs, records } = std::mem::take(&mut self.open);
        for id in sums {
            if let Some(sum) = self.sums.get(&id) {
                batch.insert(&id.key(), encode_sum(sum));
            }
        }
        for epoch in epochs {
            if let Some(block) = self.tails.get(&epoch) {
                block.write(&mut batch);
            }
            if let Some(watermark) = self.watermarks.get(&epoch) {
                batch.insert(&epoch.watermark(), &watermark.to_be_bytes());
            }
        }
        self.store.db.apply_batch(batch)?;
        self.unsynced = true;
        self.growth.wrote(records);
        self.trim();
        Ok(())
    }

    fn trim(&mut self) {
        self.numbers.trim();
        self.tails.retain(|_, block| block.is_short());
        if self.tails.len() > MAX_TAILS {
            self.tails.clear();
        }
        if self.watermarks.len() > MAX_WATERMARKS {
            self.watermarks.clear();
        }
        if self.sums.len() > MAX_SUMS {
            // The last two hours are what comes next; when even they are too many, nothing is kept.
            let newest = self.sums.keys().map(|id| id.hour).max().unwrap_or_default();
            self.sums.retain(|id, _| id.hour + 1 >= newest);
            if self.sums.len() > MAX_SUMS {
                self.sums.clear();
            }
        }
    }
}

/// Highest applied sequence of an epoch; 0 before the first.
pub(super) fn stored_watermark(store: &Store, epoch: EpochId) -> Result<u64, ReadError> {
    match store.db.get(epoch.watermark())? {
        None => Ok(0),
        Some(value) => Ok(u64::from_be_bytes((*value).try_into().map_err(|_| CorruptValue("watermark"))?)),
    }
}

/// Number of a metering rule; a new one is written with the batch.
fn rule_number(store: &Store, batch: &mut sled::Batch, metering: &Metering) -> Result<u16, ReadError> {
    let mut next = 0u16;
    for (number, known) in rules(store)? {
        if known == *metering {
            return Ok(number);
        }
        next = number.checked_add(1).ok_or(CorruptValue("metering rule: all numbers are taken"))?;
    }
    batch.insert(&key::rule(next), encode_rule(metering));
    Ok(next)
}

/// Every metering rule that records were ever counted by: one per change of a plan's step, minimum or start.
pub(super) fn rules(store: &Store) -> Result<std::collections::BTreeMap<u16, Metering>, ReadError> {
    let mut rules = std::collections::BTreeMap::new();
    for entry in store.db.scan_prefix(key::RULES) {
        let (key, value) = entry?;
        let number = key.last_chunk().map(|b| u16::from_be_bytes(*b)).ok_or(CorruptValue("metering rule"))?;
        rules.insert(number, decode_rule(&value)?);
    }
    Ok(rules)
}
