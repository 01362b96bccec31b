//! Frames become batches: blocks, sums and watermarks in one atomic write, each record once.

use super::super::frame::Checked;
use super::super::store::Closed;
use super::super::times::{day_of, hour_of, minute_of, today};
use super::super::warm::{self, Counted};
use super::super::{Appended, Level, Month, ReadError, WarmSpan};
use super::CorruptValue;
use super::block::OpenBlock;
use super::closed::closed;
use super::dict::{Known, Numbers};
use super::growth::Growth;
use super::key::{self, BlockId, EpochId, RollupId};
use super::open::Folder;
use crate::ledger::codec::{decode_sum, encode_sum};
use dormouse_core::price::Metering;
use dormouse_core::record::CallRecord;
use dormouse_core::usage::UsageSum;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Records in one atomic batch: about 90 blocks, 360 KiB of sled's log.
const MAX_BATCH: usize = 16_384;
/// Sums kept in memory: about 500 B each with two rules, so at most 8 MB.
const MAX_SUMS: usize = 16_384;
/// The newest time of the sums of functions, by level: what is there, and what the next batch writes.
type Newest = HashMap<(Level, u32), Option<u32>>;
/// Watermarks kept in memory: about 40 B each.
const MAX_WATERMARKS: usize = 16_384;
/// Short blocks kept to go on with: at most 1 KiB and their index each.
const MAX_TAILS: usize = 1_024;

/// The writer's state. What it caches is what was written: it may be forgotten between batches.
pub(super) struct Applier {
    pub(super) store: Arc<Folder>,
    rules: Vec<Metering>,
    pub(super) numbers: Numbers,
    watermarks: HashMap<EpochId, u64>,
    pub(super) sums: HashMap<RollupId, UsageSum>,
    newest: Newest,
    /// Up to when the warm time of subjects has been counted.
    pub(super) warm: HashMap<u32, Counted>,
    /// The last block of each epoch, while it takes more.
    pub(super) tails: HashMap<EpochId, OpenBlock>,
    growth: Growth,
    pub(super) closed: Closed,
    /// Where the next step of tidying goes on: functions, among sums of minutes and of hours.
    pub(super) tidied: [u32; 2],
    /// Of what came late: what is noted.
    late: HashSet<(u32, u32)>,
    open: Pending,
    /// Something was written since the last commit.
    pub(super) unsynced: bool,
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
    pub(super) fn new(store: Arc<Folder>, rules: Vec<Metering>) -> Result<Self, ReadError> {
        let open = Pending::default();
        let numbers = Numbers::open(&store)?;
        let growth = Growth::new(store.size_on_disk());
        let (watermarks, sums, newest, tails) = (HashMap::new(), HashMap::new(), HashMap::new(), HashMap::new());
        let (warm, late, closed, tidied) = (HashMap::new(), HashSet::new(), closed(&store)?, [0; 2]);
        Ok(Self {
            store,
            rules,
            numbers,
            watermarks,
            sums,
            newest,
            warm,
            tails,
            growth,
            closed,
            tidied,
            late,
            open,
            unsynced: false,
        })
    }

    /// Takes what is new of a frame; it is durable after [`Applier::commit`].
    pub(super) fn apply(&mut self, frame: &Checked) -> Result<Appended, ReadError> {
        let epoch = EpochId { activator: frame.activator, epoch: frame.epoch };
        let watermark = self.watermark(epoch)?;
        let new = match frame.behind(watermark) {
            Ok(new) => new,
            Err(nothing) => return Ok(nothing),
        };
        let today = today();
        // Each with the day up to which it is noted as seen.
        let mut subjects: Vec<Option<(Known, u32)>> = vec![None; frame.subjects.len()];
        for (seq, record) in (watermark + 1..).zip(new) {
            let slot = &mut subjects[record.subject as usize];
            let day = day_of(record.received_at_us).max(today);
            let subject = match *slot {
                Some((subject, seen)) if seen >= day => subject,
                _ => {
                    let (store, batch) = (&self.store, &mut self.open.batch);
                    let subject = self.numbers.of(store, batch, &frame.subjects[record.subject as usize])?;
                    self.numbers.see(store, batch, subject.subject, day)?;
                    slot.insert((subject, day)).0
                }
            };
            self.record(epoch, seq, record, subject)?;
            if self.open.records >= MAX_BATCH {
                self.write()?;
            }
        }
        Ok(frame.applied())
    }

    /// Writes the rest and makes everything durable.
    pub(super) fn commit(&mut self) -> Result<(), ReadError> {
        self.write()?;
        if self.unsynced {
            self.store.commit()?;
            self.unsynced = false;
        }
        if self.growth.must_look() && self.growth.is_too_much(self.store.size_on_disk()) {
            return Err(ReadError::Closed("sled no longer cleans its file: it must be opened again".to_owned()));
        }
        Ok(())
    }

    fn record(&mut self, epoch: EpochId, seq: u64, record: &CallRecord, known: Known) -> Result<(), ReadError> {
        if let Some(full) = self.tails.get(&epoch).filter(|block| !block.has_room()) {
            full.write(&mut self.open.batch);
            self.tails.remove(&epoch);
        }
        let mut record = CallRecord { subject: known.subject, ..*record };
        if record.first {
            record.first = self.numbers.start(&self.store, &mut self.open.batch, known.subject)?;
        }
        let new = || OpenBlock::new(BlockId { epoch, first_seq: seq });
        let block = self.tails.entry(epoch).or_insert_with(new);
        block.push(&record, known.function);
        let at = record.received_at_us;
        self.note_late(known.function, hour_of(at));
        for (level, time) in [(Level::Hour, hour_of(at)), (Level::Minute, minute_of(at))] {
            let id = RollupId { level, function: known.function, time };
            let sum = sum_of(&self.store, (&mut self.sums, &mut self.newest), id)?;
            sum.add(&record, known.size, &self.rules);
            self.open.sums.insert(id);
        }
        self.open.epochs.insert(epoch);
        self.watermarks.insert(epoch, seq);
        self.open.records += 1;
        Ok(())
    }

    /// Notes what comes to a month that is closed.
    fn note_late(&mut self, function: u32, hour: u32) {
        // What came in hours that follow each other came in one month, mostly: it is looked up once an hour.
        if hour < self.closed.before && self.late.insert((function, hour)) {
            self.open.batch.insert(&key::late(function, Month::of_hour(hour)), &[]);
        }
    }

    /// Counts warm time that was not counted; it is durable after [`Applier::commit`].
    pub(super) fn keep_warm(&mut self, spans: &[WarmSpan]) -> Result<(), ReadError> {
        for span in spans {
            let known = self.numbers.of(&self.store, &mut self.open.batch, &span.subject)?;
            let counted = match self.warm.get(&known.subject) {
                Some(counted) => *counted,
                None => stored_count(&self.store, known.subject)?,
            };
            let Some((from_us, now)) = span.count(counted) else { continue };
            let day = day_of(span.to_us).max(today());
            self.numbers.see(&self.store, &mut self.open.batch, known.subject, day)?;
            for (level, time, warm) in warm::rows(from_us, span.to_us, known.size) {
                let id = RollupId { level, function: known.function, time };
                sum_of(&self.store, (&mut self.sums, &mut self.newest), id)?.warm.merge(&warm);
                self.open.sums.insert(id);
                if level == Level::Hour {
                    self.note_late(known.function, time);
                }
            }
            self.open.batch.insert(&key::warm(known.subject), encode_count(now));
            self.warm.insert(known.subject, now);
            self.open.records += 1;
            if self.open.sums.len() >= MAX_BATCH {
                self.write()?;
            }
        }
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
    pub(super) fn write(&mut self) -> Result<(), ReadError> {
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
        if self.warm.len() > MAX_SUMS {
            self.warm.clear();
        }
        if self.late.len() > MAX_SUMS {
            self.late.clear();
        }
        if self.newest.len() > MAX_SUMS {
            self.newest.clear();
        }
        if self.watermarks.len() > MAX_WATERMARKS {
            self.watermarks.clear();
        }
        if self.sums.len() > MAX_SUMS {
            // The last two of each are what comes next; when even they are too many, nothing is kept.
            let newest = |level| self.sums.keys().filter(|id| id.level == level).map(|id| id.time).max().unwrap_or(0);
            let newest = [newest(Level::Minute), newest(Level::Hour), newest(Level::Day)];
            self.sums.retain(|id, _| newest.get(id.level as usize).is_none_or(|newest| id.time + 1 >= *newest));
            if self.sums.len() > MAX_SUMS {
                self.sums.clear();
            }
        }
    }
}

/// The sum of an id, from those that are known or from the store. Most new ones are of a time that comes after all that
/// their function has: those are not looked for.
fn sum_of<'a>(
    store: &Folder,
    (sums, newest): (&'a mut HashMap<RollupId, UsageSum>, &mut Newest),
    id: RollupId,
) -> Result<&'a mut UsageSum, ReadError> {
    match sums.entry(id) {
        Entry::Occupied(known) => Ok(known.into_mut()),
        Entry::Vacant(new) => {
            let newest = match newest.entry((id.level, id.function)) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(stored_newest(store, id)?),
            };
            let stored = if *newest < Some(id.time) { None } else { store.db.get(id.key())? };
            *newest = (*newest).max(Some(id.time));
            let sum = stored.map_or_else(|| Ok(UsageSum::default()), |value| decode_sum(&value))?;
            Ok(new.insert(sum))
        }
    }
}

/// The newest time of which a function has a sum of a level, if it has any.
fn stored_newest(store: &Folder, RollupId { level, function, .. }: RollupId) -> Result<Option<u32>, ReadError> {
    let at = |time| RollupId { level, function, time }.key();
    let last = store.db.range(at(0)..=at(u32::MAX)).next_back().transpose()?;
    last.map(|(key, _)| RollupId::time_in(&key).ok_or(CorruptValue("sum's key").into())).transpose()
}

pub(super) fn encode_count(Counted { until_us, open }: Counted) -> Vec<u8> {
    [&until_us.to_be_bytes()[..], &[u8::from(open)]].concat()
}

/// Up to when a subject's warm time has been counted; 1970 before the first.
pub(super) fn stored_count(store: &Folder, subject: u32) -> Result<Counted, ReadError> {
    let Some(value) = store.db.get(key::warm(subject))? else { return Ok(Counted::default()) };
    match value.split_first_chunk() {
        Some((until_us, &[open @ (0 | 1)])) => Ok(Counted { until_us: i64::from_be_bytes(*until_us), open: open == 1 }),
        _ => Err(CorruptValue("warm time").into()),
    }
}

/// Highest applied sequence of an epoch; 0 before the first.
pub(super) fn stored_watermark(store: &Folder, epoch: EpochId) -> Result<u64, ReadError> {
    stored_number(store, &epoch.watermark(), "watermark")
}

/// How many records of an epoch are not kept any longer.
pub(super) fn forgotten(store: &Folder, epoch: EpochId) -> Result<u64, ReadError> {
    stored_number(store, &epoch.forgotten(), "count of forgotten records")
}

fn stored_number(store: &Folder, key: &[u8], what: &'static str) -> Result<u64, ReadError> {
    match store.db.get(key)? {
        None => Ok(0),
        Some(value) => Ok(u64::from_be_bytes((*value).try_into().map_err(|_| CorruptValue(what))?)),
    }
}
