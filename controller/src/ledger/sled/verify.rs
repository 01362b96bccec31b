//! Counts everything that is stored, and compares.

use super::super::{Conservation, Level, ReadError};
use super::CorruptValue;
use super::apply::stored_watermark;
use super::block::Block;
use super::codec::decode_sum;
use super::key::{self, BlockId, EpochId};
use super::open::Folder;

/// Reads everything.
pub(super) fn whole(store: &Folder) -> Result<Conservation, ReadError> {
    let mut found = Conservation::default();
    for entry in store.db.scan_prefix(key::WATERMARKS) {
        let (key, _) = entry?;
        let epoch = EpochId::read(&key).ok_or(CorruptValue("watermark"))?;
        found.epochs += 1;
        let watermark = stored_watermark(store, epoch)?;
        found.by_watermark += watermark;
        let mut next = 1;
        for entry in store.db.scan_prefix(epoch.blocks()) {
            let (key, value) = entry?;
            let id = BlockId::read(&key).ok_or(CorruptValue("block"))?;
            let records = Block::read(&value)?.records()?.len() as u64;
            found.by_record += records;
            if id.first_seq != next {
                found.fault.get_or_insert_with(|| format!("{epoch:?}: a block begins at {}, not {next}", id.first_seq));
            }
            next = id.first_seq + records;
        }
        if next != watermark + 1 {
            found.fault.get_or_insert_with(|| format!("{epoch:?}: records end before {next}, watermark {watermark}"));
        }
    }
    for entry in store.db.scan_prefix(key::rollups(Level::Hour)) {
        found.by_sum += decode_sum(&entry?.1)?.calls();
    }
    Ok(found)
}

/// The cheap part, at every start: the last block of each epoch ends at its watermark.
pub(super) fn check_tails(store: &Folder) -> Result<(), ReadError> {
    for entry in store.db.scan_prefix(key::WATERMARKS) {
        let (key, _) = entry?;
        let epoch = EpochId::read(&key).ok_or(CorruptValue("watermark"))?;
        let (key, value) =
            store.db.scan_prefix(epoch.blocks()).next_back().transpose()?.ok_or(CorruptValue("last block"))?;
        let first = BlockId::read(&key).ok_or(CorruptValue("block"))?.first_seq;
        let end = first + u64::from(Block::read(&value)?.count);
        if end != stored_watermark(store, epoch)? + 1 {
            return Err(CorruptValue("watermark").into());
        }
    }
    Ok(())
}
