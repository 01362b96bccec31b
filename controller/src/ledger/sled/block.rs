//! Records packed into values of at most 4 KiB: sled's pages stay far below the size from which it writes blob files,
//! which it never syncs.

use super::CorruptValue;
use super::key::BlockId;
use crate::ledger::times::hour_of;
use dormouse_core::record::{CallRecord, MAX_PACKED_LEN, Packer, unpack};
use std::collections::BTreeMap;

/// Longest value of a block. A leaf of sled holds up to 17 items: 17 x 4 KiB = 68 KiB, below the 128 KiB from which a
/// page goes to a blob file.
pub(super) const MAX_BLOCK: usize = 4096;
/// version 1, count 2, first and last time 2 x 8, checksum 4.
const HEADER: usize = 1 + 2 + 16 + 4;
const VERSION: u8 = 1;

/// Bit of a function in the hour index's masks.
pub(super) fn mask_of(function: u32) -> u128 {
    1 << (function % 128)
}

/// A block that still takes records. It may be written many times, each time with more of them.
pub(super) struct OpenBlock {
    id: BlockId,
    packer: Packer,
    first_us: i64,
    last_us: i64,
    /// Functions in it by hour, as masks.
    hours: BTreeMap<u32, u128>,
}

/// A block as it is stored.
pub(super) struct Block {
    pub(super) count: u16,
    pub(super) first_us: i64,
    pub(super) last_us: i64,
    body: Vec<u8>,
}

impl OpenBlock {
    pub(super) fn new(id: BlockId) -> Self {
        Self { id, packer: Packer::default(), first_us: i64::MAX, last_us: i64::MIN, hours: BTreeMap::new() }
    }

    /// Whether it is so short that the next batch should go on with it: a quiet activator's frames hold a record or
    /// two, and a block for each would take five times the space. A longer one would cost more to write again than
    /// the space is worth.
    pub(super) fn is_short(&self) -> bool {
        self.packer.len() < MAX_BLOCK / 4
    }

    /// Which it is.
    pub(super) fn id(&self) -> BlockId {
        self.id
    }

    /// Whether any record fits.
    pub(super) fn has_room(&self) -> bool {
        HEADER + self.packer.len() + MAX_PACKED_LEN <= MAX_BLOCK
    }

    /// Adds a record whose subject number is the ledger's.
    pub(super) fn push(&mut self, record: &CallRecord, function: u32) {
        self.packer.push(record);
        self.first_us = self.first_us.min(record.received_at_us);
        self.last_us = self.last_us.max(record.received_at_us);
        *self.hours.entry(hour_of(record.received_at_us)).or_default() |= mask_of(function);
    }

    /// The block and its entries in the hour index.
    pub(super) fn write(&self, batch: &mut sled::Batch) {
        for (&hour, mask) in &self.hours {
            batch.insert(&self.id.in_hour(hour), &mask.to_be_bytes());
        }
        batch.insert(&self.id.key(), self.value());
    }

    fn value(&self) -> Vec<u8> {
        let count = self.packer.count() as u16; // At least 10 bytes a record: at most 409.
        let body = self.packer.clone().finish();
        let mut value = Vec::with_capacity(HEADER + body.len());
        value.push(VERSION);
        value.extend_from_slice(&count.to_be_bytes());
        value.extend_from_slice(&self.first_us.to_be_bytes());
        value.extend_from_slice(&self.last_us.to_be_bytes());
        value.extend_from_slice(&crc32c::crc32c(&body).to_be_bytes());
        value.extend_from_slice(&body);
        value
    }
}

impl Block {
    /// Reads a stored block; the checksum is checked.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, CorruptValue> {
        let (header, body) = bytes.split_first_chunk::<HEADER>().ok_or(CorruptValue("block"))?;
        let at = |from: usize| header.get(from..).and_then(<[u8]>::first_chunk::<8>).map(|b| i64::from_be_bytes(*b));
        let [version, count_a, count_b, .., c0, c1, c2, c3] = *header;
        let (Some(first_us), Some(last_us)) = (at(3), at(11)) else { return Err(CorruptValue("block")) };
        if version != VERSION || u32::from_be_bytes([c0, c1, c2, c3]) != crc32c::crc32c(body) {
            return Err(CorruptValue("block"));
        }
        let count = u16::from_be_bytes([count_a, count_b]);
        Ok(Self { count, first_us, last_us, body: body.to_vec() })
    }

    /// Its records.
    pub(super) fn records(&self) -> Result<Vec<CallRecord>, CorruptValue> {
        unpack(&self.body, u32::from(self.count)).map_err(|_| CorruptValue("block"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::key::EpochId;
    use super::*;
    use dormouse_core::record::{Outcome, Timed, Word};

    fn record(at: i64, big: u64) -> CallRecord {
        CallRecord {
            subject: u32::MAX,
            call: big,
            received_at_us: at,
            wait_us: big,
            claim_us: big,
            start_us: big,
            connect_us: big,
            run_us: big,
            request_bytes: big,
            response_bytes: big,
            status: u16::MAX,
            outcome: Outcome::Ok,
            cold: false,
            first: false,
            warm_slots: u16::MAX,
            key: big,
            timed: Some(Timed { due_us: i64::MIN, schedule: Word::new(&[b'x'; 63]).unwrap(), replaced: true }),
        }
    }

    #[test]
    fn full_blocks_stay_below_the_limit_and_read_back() {
        for big in [0, 100_000, u64::MAX] {
            let id = BlockId { epoch: EpochId { activator: 1, epoch: 2 }, first_seq: 3 };
            let mut open = OpenBlock::new(id);
            let mut pushed = Vec::new();
            while open.has_room() {
                let at = if pushed.len() % 2 == 0 { i64::MIN } else { i64::MAX };
                pushed.push(record(at, big));
                open.push(&pushed[pushed.len() - 1], 9);
            }
            let mut value = open.value();
            assert!(value.len() <= MAX_BLOCK && value.len() > MAX_BLOCK - 2 * MAX_PACKED_LEN, "{}", value.len());
            let block = Block::read(&value).unwrap();
            assert_eq!((block.first_us, block.last_us), (i64::MIN, i64::MAX));
            assert_eq!(block.records().unwrap(), pushed);
            let last = value.len() - 1;
            value[last] ^= 1;
            assert!(Block::read(&value).is_err(), "a changed byte is seen");
        }
    }
}
