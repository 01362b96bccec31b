//! Conservation: what the watermarks say was applied, what is found as records, and what the sums count are one
//! number.

use super::apply::stored_watermark;
use super::block::Block;
use super::codec::decode_sum;
use super::key::{self, BlockId, EpochId};
use super::open::Store;
use super::{CorruptValue, ReadError};

/// Three ways to count the same records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conservation {
    /// By the epochs' watermarks.
    pub by_watermark: u64,
    /// Records found in blocks, read and checked one by one.
    pub by_record: u64,
    /// By the hourly sums.
    pub by_sum: u64,
    /// Epochs seen.
    pub epochs: u64,
    /// The first missing or doubled sequence, as text.
    pub fault: Option<String>,
}

impl Conservation {
    /// Whether nothing is missing and nothing is double.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.fault.is_none() && self.by_watermark == self.by_record && self.by_record == self.by_sum
    }
}

/// Reads everything.
pub(super) fn whole(store: &Store) -> Result<Conservation, ReadError> {
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
    for entry in store.db.scan_prefix(key::ROLLUPS) {
        found.by_sum += decode_sum(&entry?.1)?.calls();
    }
    Ok(found)
}

/// The cheap part, at every start: the last block of each epoch ends at its watermark.
pub(super) fn check_tails(store: &Store) -> Result<(), ReadError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_does_not_hold() {
        let good = Conservation { by_watermark: 3, by_record: 3, by_sum: 3, epochs: 1, fault: None };
        assert!(good.holds());
        assert!(!Conservation { by_sum: 4, ..good.clone() }.holds());
        assert!(!Conservation { by_record: 2, ..good.clone() }.holds());
        assert!(!Conservation { fault: Some(String::new()), ..good }.holds());
    }
}
