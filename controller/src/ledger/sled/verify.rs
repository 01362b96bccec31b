//! Counts everything that is stored, and compares.

use super::super::{Conservation, Level, ReadError};
use super::CorruptValue;
use super::apply::{forgotten, stored_watermark};
use super::block::Block;
use super::key::{self, BlockId, EpochId};
use super::open::Folder;
use crate::ledger::codec::decode_sum;

/// Reads everything.
pub(super) fn whole(store: &Folder) -> Result<Conservation, ReadError> {
    let mut found = Conservation::default();
    for entry in store.db.scan_prefix(key::WATERMARKS) {
        let (key, _) = entry?;
        let epoch = EpochId::read(&key).ok_or(CorruptValue("watermark"))?;
        found.epochs += 1;
        let watermark = stored_watermark(store, epoch)?;
        found.by_watermark += watermark;
        let forgotten = forgotten(store, epoch)?;
        found.by_record += forgotten;
        let (mut next, mut there) = (1, forgotten);
        for entry in store.db.scan_prefix(epoch.blocks()) {
            let (key, value) = entry?;
            let id = BlockId::read(&key).ok_or(CorruptValue("block"))?;
            let records = Block::read(&value)?.records()?.len() as u64;
            found.by_record += records;
            there += records;
            // Where blocks are not kept any longer there are gaps: what is missing in all is compared below.
            if id.first_seq < next || (id.first_seq > next && forgotten == 0) {
                found.fault.get_or_insert_with(|| format!("{epoch:?}: a block begins at {}, not {next}", id.first_seq));
            }
            next = id.first_seq + records;
        }
        if next > watermark + 1 || there != watermark {
            let is = format!("{epoch:?}: {there} records, {forgotten} of them forgotten, which end before {next}");
            found.fault.get_or_insert_with(|| format!("{is}; watermark {watermark}"));
        }
    }
    for level in [Level::Hour, Level::Day] {
        for entry in store.db.scan_prefix(key::rollups(level)) {
            found.by_sum += decode_sum(&entry?.1)?.calls();
        }
    }
    Ok(found)
}

/// The cheap part, at every start: the last block of each epoch ends at its watermark.
pub(super) fn check_tails(store: &Folder) -> Result<(), ReadError> {
    for entry in store.db.scan_prefix(key::WATERMARKS) {
        let (key, _) = entry?;
        let epoch = EpochId::read(&key).ok_or(CorruptValue("watermark"))?;
        let (watermark, forgotten) = (stored_watermark(store, epoch)?, forgotten(store, epoch)?);
        let end = match store.db.scan_prefix(epoch.blocks()).next_back().transpose()? {
            Some((key, value)) => {
                let first = BlockId::read(&key).ok_or(CorruptValue("block"))?.first_seq;
                first + u64::from(Block::read(&value)?.count)
            }
            None if forgotten > 0 => forgotten + 1,
            None => return Err(CorruptValue("last block").into()),
        };
        // Of a late block that is not kept any longer, an older one may be the last.
        if end != watermark + 1 && (forgotten == 0 || end > watermark + 1) {
            return Err(CorruptValue("watermark").into());
        }
    }
    Ok(())
}
