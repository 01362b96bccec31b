//! Giving up what is kept no longer, in steps that are short enough for frames to wait for.
//!
//! Each step is atomic, and what is gone is said before the first: a reader never finds a part of it without being told.

use super::super::retention::Bounds;
use super::super::store::Marks;
use super::super::{Level, ReadError};
use super::CorruptValue;
use super::apply::{Applier, forgotten, stored_watermark};
use super::block::Block;
use super::key::{self, BlockId, EpochId, RollupId};
use super::open::Folder;
use crate::ledger::codec::{decode_sum, encode_sum};
use crate::ledger::times::hour_of;
use dormouse_core::usage::UsageSum;
use sled::Batch;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Keys that one step takes out: some milliseconds.
const STEP: usize = 4_096;
/// Blocks of records that one step reads: 256 x 4 KiB, which may have to come from a disk.
const BLOCKS: usize = 256;

impl Applier {
    /// One step; answers whether there is more to do. It is durable after [`Applier::commit`].
    pub(super) fn tidy(&mut self, bounds: Bounds, marks: Option<&Marks>) -> Result<bool, ReadError> {
        self.write()?;
        self.say_gone(bounds)?;
        self.sums.retain(|id, _| id.time >= before(bounds, id.level));
        let mut batch = Batch::default();
        let mut room = STEP;
        self.minutes(bounds, &mut batch, &mut room)?;
        if room > 0 {
            self.hours(bounds, &mut batch, &mut room)?;
        }
        if room > 0 {
            self.records(bounds, marks, &mut batch, &mut room)?;
        }
        if room > 0 {
            self.subjects(bounds, &mut batch, &mut room)?;
        }
        if room < STEP {
            self.store.db.apply_batch(batch)?;
            self.unsynced = true;
        }
        Ok(room == 0)
    }

    /// How far epochs were applied. Blocks that are not full take no more: each is behind the mark whole, or not at all.
    pub(super) fn mark(&mut self) -> Result<Marks, ReadError> {
        self.write()?;
        self.tails.clear();
        let mut marks = Marks::new();
        for key in self.store.db.scan_prefix(key::WATERMARKS).keys() {
            let id = EpochId::read(&key?).ok_or(CorruptValue("watermark"))?;
            marks.insert((id.activator, id.epoch), stored_watermark(&self.store, id)?);
        }
        Ok(marks)
    }

    fn say_gone(&mut self, bounds: Bounds) -> Result<(), ReadError> {
        let before = *self.store.gone.lock();
        let now = before.max(bounds);
        if now != before {
            self.store.db.insert(key::GONE, encode_gone(now))?;
            *self.store.gone.lock() = now;
            self.unsynced = true;
        }
        Ok(())
    }

    /// Goes through the functions that have old sums of a level, from where the last step ended.
    fn old_functions(
        &mut self,
        level: Level,
        room: &mut usize,
        mut each: impl FnMut(&Self, u32, &mut usize) -> Result<(), ReadError>,
    ) -> Result<(), ReadError> {
        let slot = usize::from(level == Level::Hour);
        while let Some(function) = self.function_behind(level, self.tidied[slot])? {
            if *room == 0 {
                return Ok(());
            }
            each(self, function, room)?;
            if *room > 0 {
                self.tidied[slot] = function.saturating_add(1);
            }
        }
        self.tidied[slot] = 0;
        Ok(())
    }

    /// The first function with sums of a level, from one on.
    fn function_behind(&self, level: Level, from: u32) -> Result<Option<u32>, ReadError> {
        let at = |function| RollupId { level, function, time: 0 }.key();
        let first = self.store.db.range(at(from)..).next().transpose()?;
        let of_level = first.filter(|(key, _)| key.starts_with(&key::rollups(level)));
        let read = |(key, _): (sled::IVec, _)| RollupId::read(&key).ok_or(CorruptValue("sum's key"));
        Ok(of_level.map(read).transpose()?.map(|(function, _)| function))
    }

    fn minutes(&mut self, bounds: Bounds, batch: &mut Batch, room: &mut usize) -> Result<(), ReadError> {
        self.old_functions(Level::Minute, room, |this, function, room| {
            for key in this.old_sums(Level::Minute, function, bounds).keys().take(*room) {
                batch.remove(key?);
                *room -= 1;
            }
            Ok(())
        })
    }

    /// Adds hours to their days.
    fn hours(&mut self, bounds: Bounds, batch: &mut Batch, room: &mut usize) -> Result<(), ReadError> {
        self.old_functions(Level::Hour, room, |this, function, room| {
            let mut days: BTreeMap<u32, UsageSum> = BTreeMap::new();
            for entry in this.old_sums(Level::Hour, function, bounds).take(*room) {
                let (key, value) = entry?;
                let hour = RollupId::time_in(&key).ok_or(CorruptValue("sum's key"))?;
                let mut sum = decode_sum(&value)?;
                sum.warm = sum.warm.bounded();
                days.entry(hour / 24).or_default().merge(&sum);
                batch.remove(key);
                *room -= 1;
            }
            for (time, mut sum) in days {
                let id = RollupId { level: Level::Day, function, time };
                if let Some(there) = this.store.db.get(id.key())? {
                    sum.merge(&decode_sum(&there)?);
                }
                batch.insert(&id.key(), encode_sum(&sum));
            }
            Ok(())
        })
    }

    fn old_sums(&self, level: Level, function: u32, bounds: Bounds) -> sled::Iter {
        let at = |time| RollupId { level, function, time }.key();
        self.store.db.range(at(0)..at(before(bounds, level)))
    }

    /// Forgets records. A block with records of several hours goes with the last of them.
    fn records(
        &mut self,
        bounds: Bounds,
        marks: Option<&Marks>,
        batch: &mut Batch,
        room: &mut usize,
    ) -> Result<(), ReadError> {
        let (mut counts, mut gone): (HashMap<EpochId, u64>, HashSet<BlockId>) = (HashMap::new(), HashSet::new());
        let mut blocks = BLOCKS;
        for entry in self.store.db.range(key::hour(0)..key::hour(bounds.record_hour)).keys() {
            let key = entry?;
            let (_, id) = BlockId::read_in_hour(&key).ok_or(CorruptValue("hour index"))?;
            let mark = |marks: &Marks| marks.get(&(id.epoch.activator, id.epoch.epoch)).copied().unwrap_or_default();
            if marks.is_some_and(|marks| id.first_seq > mark(marks)) {
                continue;
            }
            if *room == 0 || blocks == 0 {
                *room = 0;
                break;
            }
            batch.remove(&key);
            (*room, blocks) = (*room - 1, blocks - 1);
            let Some(value) = self.store.db.get(id.key())?.filter(|_| !gone.contains(&id)) else { continue };
            let block = Block::read(&value)?;
            if hour_of(block.last_us) < bounds.record_hour {
                batch.remove(&id.key());
                gone.insert(id);
                *counts.entry(id.epoch).or_default() += u64::from(block.count);
            }
        }
        for (epoch, count) in counts {
            let before = forgotten(&self.store, epoch)?;
            batch.insert(&epoch.forgotten(), &(before + count).to_be_bytes());
        }
        // A block that is gone takes no more records, short or not.
        self.tails.retain(|_, tail| !gone.contains(&tail.id()));
        Ok(())
    }

    /// Forgets subjects that no record and no warm time refers to any longer.
    fn subjects(&mut self, bounds: Bounds, batch: &mut Batch, room: &mut usize) -> Result<(), ReadError> {
        let mut old = Vec::new();
        for key in self.store.db.range(key::seen_from(0)..key::seen_from(bounds.record_hour / 24)).keys().take(*room) {
            old.push(key::read_seen_on(&key?).ok_or(CorruptValue("day of a subject"))?);
        }
        *room -= old.len();
        self.numbers.forget(&self.store, batch, &old)?;
        for (subject, _) in old {
            self.warm.remove(&subject);
        }
        Ok(())
    }
}

/// Up to when sums of a level are not kept.
fn before(bounds: Bounds, level: Level) -> u32 {
    match level {
        Level::Minute => bounds.minute,
        Level::Hour => bounds.hour,
        Level::Day => 0,
    }
}

pub(super) fn encode_gone(Bounds { minute, hour, record_hour }: Bounds) -> Vec<u8> {
    [minute, hour, record_hour].iter().flat_map(|number| number.to_be_bytes()).collect()
}

/// What is kept no longer, as the store says.
pub(super) fn stored_gone(folder: &Folder) -> Result<Bounds, ReadError> {
    let Some(value) = folder.db.get(key::GONE)? else { return Ok(Bounds::default()) };
    let number = |at: usize| value.get(4 * at..).and_then(<[u8]>::first_chunk).map(|bytes| u32::from_be_bytes(*bytes));
    match (value.len(), number(0), number(1), number(2)) {
        (12, Some(minute), Some(hour), Some(record_hour)) => Ok(Bounds { minute, hour, record_hour }),
        _ => Err(CorruptValue("note of what is gone").into()),
    }
}
