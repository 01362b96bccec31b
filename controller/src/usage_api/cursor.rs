//! Cursors: where a page ended, as opaque text that only fits the question it came from.

use super::params::Params;
use crate::ledger::{GroupKey, RecordKey, RowKey};

/// Longest cursor as text: four texts of 253 bytes and 40 bytes of numbers, twice as hexadecimal.
const MAX_TEXT: usize = 2 * (4 * (253 + 3) + 40);
const USAGE: u8 = 1;
const RECORDS: u8 = 2;

/// Writes and reads the cursors of one question.
pub(super) struct Cursor {
    /// Checksum of everything asked for except the place and the size of the page.
    question: u32,
}

impl Cursor {
    pub(super) fn new(params: &Params) -> Self {
        Self { question: crc32c::crc32c(params.question().as_bytes()) }
    }

    pub(super) fn usage(&self, key: &RowKey) -> String {
        let mut bytes = self.head(USAGE);
        bytes.extend_from_slice(&key.start.to_be_bytes());
        let GroupKey { tenant, namespace, function, function_uid } = &key.group;
        for text in [tenant, namespace, function, function_uid] {
            match text {
                // A text is at most 253 bytes: 255 stands for none.
                Some(text) => {
                    bytes.push(u8::try_from(text.len()).unwrap_or(254));
                    bytes.extend_from_slice(text.as_bytes());
                }
                None => bytes.push(255),
            }
        }
        seal(bytes)
    }

    pub(super) fn read_usage(&self, text: &str) -> Option<RowKey> {
        let bytes = self.unseal(text, USAGE)?;
        let (start, mut rest) = bytes.split_first_chunk()?;
        let mut texts = [None, None, None, None];
        for slot in &mut texts {
            let (&len, after) = rest.split_first()?;
            rest = after;
            if len != 255 {
                let (text, after) = rest.split_at_checked(usize::from(len))?;
                *slot = Some(String::from_utf8(text.to_vec()).ok()?);
                rest = after;
            }
        }
        let [tenant, namespace, function, function_uid] = texts;
        let group = GroupKey { tenant, namespace, function, function_uid };
        rest.is_empty().then(|| RowKey { group, start: u32::from_be_bytes(*start) })
    }

    pub(super) fn records(&self, key: &RecordKey) -> String {
        let RecordKey { hour, activator, epoch, block, seq } = key;
        let mut bytes = self.head(RECORDS);
        for number in [u64::from(*hour), *activator, u64::from(*epoch), *block, *seq] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        seal(bytes)
    }

    pub(super) fn read_records(&self, text: &str) -> Option<RecordKey> {
        let bytes = self.unseal(text, RECORDS)?;
        let (numbers, rest) = bytes.as_chunks::<8>();
        let [hour, activator, epoch, block, seq] = *numbers else { return None };
        let [hour, activator, epoch, block, seq] = [hour, activator, epoch, block, seq].map(u64::from_be_bytes);
        let (hour, epoch) = (u32::try_from(hour).ok()?, u32::try_from(epoch).ok()?);
        rest.is_empty().then_some(RecordKey { hour, activator, epoch, block, seq })
    }

    fn head(&self, kind: u8) -> Vec<u8> {
        [&[kind][..], &self.question.to_be_bytes()].concat()
    }

    fn unseal(&self, text: &str, kind: u8) -> Option<Vec<u8>> {
        if text.len() > MAX_TEXT || !text.len().is_multiple_of(2) || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let bytes: Vec<u8> = text.as_bytes().chunks(2).map(pair).collect::<Option<_>>()?;
        let (bytes, sum) = bytes.split_last_chunk()?;
        let body = bytes.strip_prefix(&*self.head(kind))?;
        (crc32c::crc32c(bytes) == u32::from_be_bytes(*sum)).then(|| body.to_vec())
    }
}

fn seal(mut bytes: Vec<u8>) -> String {
    let sum = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&sum.to_be_bytes());
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn cursors_read_back_for_their_question_only(start in any::<u32>(), texts in any::<[Option<String>; 4]>(), numbers in any::<(u32, u64, u32, u64, u64)>(), junk in ".{0,40}") {
            let [mine, other] = [Cursor { question: 7 }, Cursor { question: 8 }];
            let [tenant, namespace, function, function_uid] = texts.map(|t| t.filter(|t| t.len() <= 253));
            let row = RowKey { group: GroupKey { tenant, namespace, function, function_uid }, start };
            let (hour, activator, epoch, block, seq) = numbers;
            let record = RecordKey { hour, activator, epoch, block, seq };
            prop_assert_eq!(other.read_usage(&mine.usage(&row)), None);
            prop_assert_eq!(mine.read_records(&mine.usage(&row)), None);
            prop_assert_eq!(mine.read_usage(&mine.records(&record)), None);
            prop_assert_eq!(mine.read_usage(&mine.usage(&row)), Some(row));
            prop_assert_eq!(mine.read_records(&mine.records(&record)), Some(record));
            prop_assert_eq!(mine.read_usage(&junk), None);
        }
    }
}
