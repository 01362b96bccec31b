//! Every key of the ledger's one tree: a prefix byte names the keyspace, then big-endian numbers of fixed width, so
//! that range scans read in order.

use super::super::reversals::Entry;
use super::super::{Level, Month};

/// The format.
const META: u8 = 0;
/// Packed records.
const BLOCK: u8 = 1;
/// Sums by length of time, function and time.
const ROLLUP: u8 = 2;
/// Highest applied sequence by activator and epoch.
const WATERMARK: u8 = 3;
/// Documents of tenants by month, in parts.
const DOCUMENT: u8 = 4;
/// What a subject number means.
const SUBJECT: u8 = 5;
/// Checksum of a subject's text to its numbers.
const SUBJECT_BY_SUM: u8 = 6;
/// What a function number means.
const FUNCTION: u8 = 7;
/// Checksum of a function's text to its numbers.
const FUNCTION_BY_SUM: u8 = 8;
/// Which blocks hold records of an hour.
const HOUR: u8 = 9;
/// Subjects whose instance's start has been counted.
const STARTED: u8 = 10;
/// Up to when a subject's warm time has been counted.
const WARM: u8 = 11;

/// The day on which a subject was last seen.
const SEEN: u8 = 12;
/// Subjects by that day.
const SEEN_ON: u8 = 13;
/// How many records of an epoch are not kept any longer.
const FORGOTTEN: u8 = 14;
/// What a tenant number means.
const TENANT: u8 = 15;
/// Checksum of a tenant's name to its numbers.
const TENANT_BY_SUM: u8 = 16;
/// Functions and months to which something was added after the month had been closed.
const LATE: u8 = 17;
/// What says that a record is taken back, by function and hour.
const REVERSAL: u8 = 18;

/// The format version's key.
pub(super) const FORMAT: [u8; 2] = [META, 0];
/// What is kept no longer.
pub(super) const GONE: [u8; 2] = [META, 1];
/// Up to when months are closed.
pub(super) const CLOSED: [u8; 2] = [META, 2];
/// An import did not come to its end.
pub(super) const HALF: [u8; 2] = [META, 3];

/// One activator's run from one start to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct EpochId {
    pub(super) activator: u64,
    pub(super) epoch: u32,
}

/// One row of sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct RollupId {
    pub(super) level: Level,
    pub(super) function: u32,
    /// In the level's unit.
    pub(super) time: u32,
}

/// One packed block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct BlockId {
    pub(super) epoch: EpochId,
    pub(super) first_seq: u64,
}

/// A two-way dictionary of the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dictionary {
    Subject,
    Function,
    Tenant,
}

impl Dictionary {
    fn prefix(self) -> u8 {
        match self {
            Self::Subject => SUBJECT,
            Self::Function => FUNCTION,
            Self::Tenant => TENANT,
        }
    }

    fn sum_prefix(self) -> u8 {
        match self {
            Self::Subject => SUBJECT_BY_SUM,
            Self::Function => FUNCTION_BY_SUM,
            Self::Tenant => TENANT_BY_SUM,
        }
    }

    /// Key of an entry.
    pub(super) fn entry(self, number: u32) -> [u8; 5] {
        one(self.prefix(), number)
    }

    /// Key that finds an entry by the checksum of its value.
    pub(super) fn by_sum(self, sum: u32, number: u32) -> [u8; 9] {
        join(self.sum_prefix(), &sum.to_be_bytes(), &number.to_be_bytes())
    }

    /// Prefix of all entries with a checksum.
    pub(super) fn with_sum(self, sum: u32) -> [u8; 5] {
        one(self.sum_prefix(), sum)
    }

    /// Prefix of all entries.
    pub(super) fn all(self) -> [u8; 1] {
        [self.prefix()]
    }
}

/// The number at the end of a dictionary key.
pub(super) fn trailing_number(key: &[u8]) -> Option<u32> {
    key.last_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// Key of one part of a tenant's document of a month.
pub(super) fn document(tenant: u32, month: Month, part: u8) -> [u8; 10] {
    let [a, b, c, d] = month.number().to_be_bytes();
    join(DOCUMENT, &tenant.to_be_bytes(), &[a, b, c, d, part])
}

/// Prefix of a tenant's documents.
pub(super) fn documents(tenant: u32) -> [u8; 5] {
    one(DOCUMENT, tenant)
}

/// The month and the part of a document's key.
pub(super) fn read_document(key: &[u8]) -> Option<(Month, u8)> {
    let (month, part) = key.get(5..)?.split_first_chunk()?;
    Some((Month::numbered(u32::from_be_bytes(*month))?, *part.first().filter(|_| part.len() == 1)?))
}

/// Key that says that something was added to a function's month after that had been closed.
pub(super) fn late(function: u32, month: Month) -> [u8; 9] {
    join(LATE, &function.to_be_bytes(), &month.number().to_be_bytes())
}

/// Prefix of all of these.
pub(super) const LATE_ALL: [u8; 1] = [LATE];

/// The function and the month of one.
pub(super) fn read_late(key: &[u8]) -> Option<(u32, Month)> {
    let function: &[u8; 4] = key.get(1..)?.first_chunk()?;
    let month = Month::numbered(trailing_number(key).filter(|_| key.len() == 9)?)?;
    Some((u32::from_be_bytes(*function), month))
}

/// Key of what says that a record is taken back.
pub(super) fn reversal(entry: &Entry) -> [u8; 29] {
    let (from, to) = (reversals_from(entry.function, entry.hour), EpochId::of(entry).watermark());
    let mut key = [0; 29];
    key[..9].copy_from_slice(&from);
    key[9..21].copy_from_slice(&to[1..]);
    key[21..].copy_from_slice(&entry.seq.to_be_bytes());
    key
}

/// First key of these of a function and an hour.
pub(super) fn reversals_from(function: u32, hour: u32) -> [u8; 9] {
    join(REVERSAL, &function.to_be_bytes(), &hour.to_be_bytes())
}

/// Prefix of all of these.
pub(super) const REVERSALS: [u8; 1] = [REVERSAL];

/// One of these from its key and its value.
pub(super) fn read_reversal(key: &[u8], body: &[u8]) -> Option<Entry> {
    let (head, seq) = key.split_at_checked(21).filter(|(_, seq)| seq.len() == 8)?;
    let function: &[u8; 4] = head.get(1..)?.first_chunk()?;
    let hour: &[u8; 4] = head.get(5..)?.first_chunk()?;
    // The hour's last byte stands where a watermark's key has its prefix.
    let EpochId { activator, epoch } = EpochId::read(head.get(8..)?)?;
    let (function, hour) = (u32::from_be_bytes(*function), u32::from_be_bytes(*hour));
    let seq = u64::from_be_bytes(seq.try_into().ok()?);
    Some(Entry { function, hour, activator, epoch, seq, body: body.to_vec() })
}

/// Key that says that the start of a subject's instance has been counted.
pub(super) fn started(subject: u32) -> [u8; 5] {
    one(STARTED, subject)
}

/// Key of the time up to which a subject's warm time has been counted.
pub(super) fn warm(subject: u32) -> [u8; 5] {
    one(WARM, subject)
}

/// Key of the day on which a subject was last seen.
pub(super) fn seen(subject: u32) -> [u8; 5] {
    one(SEEN, subject)
}

/// Key by which a subject is found under the day on which it was last seen.
pub(super) fn seen_on(day: u32, subject: u32) -> [u8; 9] {
    join(SEEN_ON, &day.to_be_bytes(), &subject.to_be_bytes())
}

/// A subject and the day under which it is found.
pub(super) fn read_seen_on(key: &[u8]) -> Option<(u32, u32)> {
    let day: &[u8; 4] = key.get(1..)?.first_chunk()?;
    Some((trailing_number(key).filter(|_| key.len() == 9)?, u32::from_be_bytes(*day)))
}

/// First key of all subjects that were last seen on a day.
pub(super) fn seen_from(day: u32) -> [u8; 5] {
    one(SEEN_ON, day)
}

/// Prefix of all sums of a level.
pub(super) fn rollups(level: Level) -> [u8; 2] {
    [ROLLUP, level as u8]
}

/// Prefix of all watermarks.
pub(super) const WATERMARKS: [u8; 1] = [WATERMARK];

impl EpochId {
    /// That of a record that is taken back.
    fn of(entry: &Entry) -> Self {
        Self { activator: entry.activator, epoch: entry.epoch }
    }

    /// Key of its watermark.
    pub(super) fn watermark(self) -> [u8; 13] {
        join(WATERMARK, &self.activator.to_be_bytes(), &self.epoch.to_be_bytes())
    }

    /// Key of how many of its records are not kept any longer.
    pub(super) fn forgotten(self) -> [u8; 13] {
        join(FORGOTTEN, &self.activator.to_be_bytes(), &self.epoch.to_be_bytes())
    }

    /// Prefix of its blocks.
    pub(super) fn blocks(self) -> [u8; 13] {
        join(BLOCK, &self.activator.to_be_bytes(), &self.epoch.to_be_bytes())
    }

    /// From a watermark's key.
    pub(super) fn read(key: &[u8]) -> Option<Self> {
        let rest: &[u8; 12] = key.get(1..)?.try_into().ok()?;
        Some(Self {
            activator: u64::from_be_bytes(*rest.first_chunk()?),
            epoch: u32::from_be_bytes(*rest.last_chunk()?),
        })
    }
}

impl BlockId {
    /// Its key.
    pub(super) fn key(self) -> [u8; 21] {
        join(BLOCK, &self.epoch.blocks()[1..], &self.first_seq.to_be_bytes())
    }

    /// Its key in the index of an hour.
    pub(super) fn in_hour(self, hour: u32) -> [u8; 25] {
        join(HOUR, &hour.to_be_bytes(), &self.key()[1..])
    }

    /// From a block's key.
    pub(super) fn read(key: &[u8]) -> Option<Self> {
        let epoch = EpochId::read(key.get(..13)?)?;
        Some(Self { epoch, first_seq: u64::from_be_bytes(key.get(13..)?.try_into().ok()?) })
    }

    /// From a key of the hour index.
    pub(super) fn read_in_hour(key: &[u8]) -> Option<(u32, Self)> {
        let hour = u32::from_be_bytes(*key.get(1..)?.first_chunk()?);
        // The hour's last byte stands where a block key has its prefix.
        Some((hour, Self::read(key.get(4..)?)?))
    }
}

/// First key of an hour's index.
pub(super) fn hour(hour: u32) -> [u8; 5] {
    one(HOUR, hour)
}

impl RollupId {
    /// Its key.
    pub(super) fn key(self) -> [u8; 10] {
        let [a, b, c, d] = self.function.to_be_bytes();
        join(ROLLUP, &[self.level as u8, a, b, c, d], &self.time.to_be_bytes())
    }

    /// The function and the time of a rollup's key.
    pub(super) fn read(key: &[u8]) -> Option<(u32, u32)> {
        let function: &[u8; 4] = key.get(2..)?.first_chunk()?;
        Some((u32::from_be_bytes(*function), Self::time_in(key)?))
    }

    /// The time in a rollup's key.
    pub(super) fn time_in(key: &[u8]) -> Option<u32> {
        trailing_number(key).filter(|_| key.len() == 10)
    }
}

fn one(prefix: u8, number: u32) -> [u8; 5] {
    join(prefix, &[], &number.to_be_bytes())
}

/// A prefix and two parts that together fill the key.
fn join<const N: usize>(prefix: u8, a: &[u8], b: &[u8]) -> [u8; N] {
    let mut key = [0; N];
    key[0] = prefix;
    key[1..=a.len()].copy_from_slice(a);
    key[1 + a.len()..].copy_from_slice(b);
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keys_read_back_and_sort_as_their_numbers(a in any::<[(u64, u32, u64); 2]>(), hours in any::<[u32; 2]>(), f in any::<[u32; 2]>(), level in 0..3) {
            let [x, y] = a.map(|(activator, epoch, first_seq)| BlockId { epoch: EpochId { activator, epoch }, first_seq });
            prop_assert_eq!(BlockId::read(&x.key()), Some(x));
            prop_assert_eq!(BlockId::read_in_hour(&x.in_hour(hours[0])), Some((hours[0], x)));
            prop_assert_eq!(EpochId::read(&x.epoch.watermark()), Some(x.epoch));
            prop_assert_eq!(x.key().cmp(&y.key()), x.cmp(&y));
            prop_assert_eq!(x.in_hour(hours[0]).cmp(&y.in_hour(hours[1])), (hours[0], x).cmp(&(hours[1], y)));
            let level = [Level::Minute, Level::Hour, Level::Day][level as usize];
            let [r, s] = [0, 1].map(|i| RollupId { level, function: f[i], time: hours[i] });
            prop_assert_eq!(RollupId::read(&r.key()), Some((r.function, r.time)));
            let month = Month::numbered(hours[0] % 10_000).unwrap();
            prop_assert_eq!(read_document(&document(f[0], month, 7)), Some((month, 7)));
            prop_assert!(document(f[0], month, 7).starts_with(&documents(f[0])));
            prop_assert_eq!(read_late(&late(f[0], month)), Some((f[0], month)));
            let entry = Entry { function: f[0], hour: hours[0], activator: x.epoch.activator, epoch: x.epoch.epoch, seq: x.first_seq, body: vec![7] };
            let other = Entry { function: f[1], hour: hours[1], activator: y.epoch.activator, epoch: y.epoch.epoch, seq: y.first_seq, body: vec![7] };
            prop_assert_eq!(reversal(&entry).cmp(&reversal(&other)), entry.cmp(&other));
            prop_assert!(reversal(&entry).starts_with(&reversals_from(f[0], hours[0])));
            prop_assert_eq!(read_reversal(&reversal(&entry), &[7]), Some(entry));
            prop_assert_eq!(read_seen_on(&seen_on(hours[0], f[0])), Some((f[0], hours[0])));
            prop_assert!(r.key().starts_with(&rollups(level)));
            prop_assert_eq!(r.key().cmp(&s.key()), r.cmp(&s));
        }

        #[test]
        fn any_bytes_are_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..30)) {
            let _ = (BlockId::read(&bytes), BlockId::read_in_hour(&bytes), EpochId::read(&bytes), RollupId::time_in(&bytes), read_seen_on(&bytes));
            let _ = (read_document(&bytes), read_late(&bytes), read_reversal(&bytes, &[]));
        }
    }
}
