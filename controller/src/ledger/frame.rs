//! A batch of records as it comes from an activator, and the check that nothing in it is damaged.

use super::{AppendError, AppendOutcome, Appended};
use dormouse_core::record::{CallRecord, Subject, unpack};
use dormouse_proto::{WireError, v1};
use tokio::sync::OwnedSemaphorePermit;

/// Most records in a frame. Unpacked they take 104 B each: 6.8 MB.
pub const MAX_FRAME_RECORDS: u32 = 65_536;
/// Most subjects in a frame.
pub const MAX_FRAME_SUBJECTS: usize = 16_384;
/// Longest text of a subject in bytes: as on the wire. Six of them stay far below a 4 KiB value.
const MAX_TEXT: usize = 253;

/// A batch of records with contiguous sequence numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The activator's random id.
    pub activator: u64,
    /// Its epoch: grows by one at each start.
    pub epoch: u32,
    /// Sequence of the first record; the first of an epoch is 1.
    pub first_seq: u64,
    /// Number of records.
    pub count: u32,
    /// What the records' subject numbers mean.
    pub subjects: Vec<Subject>,
    /// `count` records, packed as [`dormouse_core::record`] describes.
    pub records: Vec<u8>,
    /// CRC-32C of `records`.
    pub crc32c: u32,
    /// It is applied only where the ledger has none of its numbers: else nothing is, as in a gap.
    pub unseen: bool,
}

/// A frame that was found whole.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) activator: u64,
    pub(super) epoch: u32,
    pub(super) first_seq: u64,
    pub(super) subjects: Vec<Subject>,
    pub(super) records: Vec<CallRecord>,
    /// See [`Frame::unseen`].
    pub(super) unseen: bool,
    /// The room that it takes among frames that wait.
    pub(super) room: Option<OwnedSemaphorePermit>,
}

impl Checked {
    /// Its last sequence. It has a record, and the end of its numbers was looked at.
    pub(super) fn last(&self) -> u64 {
        self.first_seq + (self.records.len() as u64 - 1)
    }

    /// What is new of it behind the watermark of its epoch; else why nothing is.
    pub(super) fn behind(&self, watermark: u64) -> Result<&[CallRecord], Appended> {
        if self.unseen && self.first_seq <= watermark {
            return Err(Appended { watermark, outcome: AppendOutcome::Gap });
        }
        if self.last() <= watermark {
            return Err(Appended { watermark, outcome: AppendOutcome::Duplicate });
        }
        if self.first_seq > watermark + 1 {
            return Err(Appended { watermark, outcome: AppendOutcome::Gap });
        }
        // The overlap is smaller than the frame: last > watermark.
        Ok(&self.records[(watermark + 1 - self.first_seq) as usize..])
    }

    /// It was applied whole.
    pub(super) fn applied(&self) -> Appended {
        Appended { watermark: self.last(), outcome: AppendOutcome::Applied }
    }
}

impl TryFrom<v1::Frame> for Frame {
    type Error = WireError;

    fn try_from(frame: v1::Frame) -> Result<Self, WireError> {
        let v1::Frame { activator, epoch, first_seq, count, subjects, records, crc32c, unseen } = frame;
        let subjects = subjects.into_iter().map(Subject::try_from).collect::<Result<_, _>>()?;
        Ok(Self { activator, epoch, first_seq, count, subjects, records: records.into(), crc32c, unseen })
    }
}

impl Frame {
    /// What can be said before anything is unpacked.
    pub(super) fn check_size(&self) -> Result<(), AppendError> {
        let bad = |why: String| Err(AppendError::BadFrame(why));
        if self.count == 0 || self.count > MAX_FRAME_RECORDS {
            return bad(format!("it has {} records, expected 1 to {MAX_FRAME_RECORDS}", self.count));
        }
        if self.subjects.len() > MAX_FRAME_SUBJECTS {
            return bad(format!("it has {} subjects, more than {MAX_FRAME_SUBJECTS}", self.subjects.len()));
        }
        if self.first_seq == 0 || self.first_seq.checked_add(u64::from(self.count)).is_none() {
            return bad(format!("its first sequence {} is out of range", self.first_seq));
        }
        Ok(())
    }

    /// Unpacks it.
    pub(super) fn check(self) -> Result<Checked, AppendError> {
        self.check_size()?;
        if crc32c::crc32c(&self.records) != self.crc32c {
            return Err(AppendError::BadFrame("its checksum does not match its records".to_owned()));
        }
        let records = unpack(&self.records, self.count).map_err(|e| AppendError::BadFrame(e.to_string()))?;
        if let Some(record) = records.iter().find(|r| r.subject as usize >= self.subjects.len()) {
            let why = format!("a record names subject {} of {}", record.subject, self.subjects.len());
            return Err(AppendError::BadFrame(why));
        }
        for subject in &self.subjects {
            let Subject { function_uid, namespace, name, revision, tenant, instance, .. } = subject;
            if [function_uid, namespace, name, revision, tenant, instance]
                .iter()
                .any(|t| t.is_empty() || t.len() > MAX_TEXT)
            {
                return Err(AppendError::BadFrame(format!("a subject has a text not of 1 to {MAX_TEXT} bytes")));
            }
        }
        let Self { activator, epoch, first_seq, subjects, unseen, .. } = self;
        Ok(Checked { activator, epoch, first_seq, subjects, records, unseen, room: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dormouse_core::record::{Outcome, Packer};
    use proptest::prelude::*;

    fn subject(name: String) -> v1::Subject {
        let text = |t: &str| t.to_owned();
        v1::Subject {
            function_uid: text("uid"),
            namespace: text("ns"),
            name,
            revision: text("r1"),
            tenant: text("t"),
            memory_mib: 256,
            cpu_millis: 100,
            instance: text("i"),
        }
    }

    /// A frame whose checksum is right, whatever else is wrong.
    fn frame(records: Vec<u8>, count: u32, subjects: Vec<v1::Subject>, first_seq: u64) -> v1::Frame {
        let crc32c = crc32c::crc32c(&records);
        v1::Frame { activator: 1, epoch: 1, first_seq, count, subjects, records: records.into(), crc32c, unseen: false }
    }

    fn packed(calls: u32) -> Vec<u8> {
        let mut packer = Packer::default();
        for call in 0..calls {
            packer.push(&CallRecord {
                subject: call % 2,
                call: u64::from(call),
                received_at_us: 1_700_000_000_000_000,
                wait_us: 1,
                claim_us: 0,
                start_us: 0,
                connect_us: 0,
                run_us: 300,
                request_bytes: 5,
                response_bytes: 7,
                status: 200,
                outcome: Outcome::Ok,
                cold: false,
                first: false,
                warm_slots: 0,
                key: 0,
                timed: None,
            });
        }
        packer.finish()
    }

    /// What is taken is whole: as many records as it says, each of a subject that it has, numbers that can follow.
    fn any_frame(wire: v1::Frame) -> bool {
        let (count, first_seq) = (wire.count, wire.first_seq);
        let Ok(frame) = Frame::try_from(wire) else { return false };
        let Ok(checked) = frame.check() else { return false };
        assert!(checked.records.len() == count as usize && (1..=MAX_FRAME_RECORDS).contains(&count));
        assert!(checked.records.iter().all(|r| (r.subject as usize) < checked.subjects.len()));
        assert!(first_seq > 0 && first_seq.checked_add(u64::from(count)).is_some());
        assert!(checked.subjects.iter().all(|s| (1..=MAX_TEXT).contains(&s.name.len())));
        true
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_frame_that_holds_or_none(
            bytes in prop::collection::vec(any::<u8>(), 0..120),
            count in prop_oneof![0..20_u32, any::<u32>()],
            names in prop::collection::vec("[a-z]{0,300}", 0..4),
            first_seq in prop_oneof![Just(0), Just(1), Just(u64::MAX), any::<u64>()],
        ) {
            any_frame(frame(bytes, count, names.into_iter().map(subject).collect(), first_seq));
        }

        /// One changed bit anywhere in the records is seen, by the checksum or (with a right one) by what they say.
        #[test]
        fn a_flipped_bit_is_seen(calls in 1..20_u32, at in any::<prop::sample::Index>(), bit in 0..8_u32) {
            let subjects = || vec![subject("a".into()), subject("b".into())];
            prop_assert!(any_frame(frame(packed(calls), calls, subjects(), 1)));
            let mut harmed = frame(packed(calls), calls, subjects(), 1);
            let mut records = harmed.records.to_vec();
            let at = at.index(records.len());
            records[at] ^= 1 << bit;
            harmed.records = records.clone().into();
            prop_assert!(!any_frame(harmed));
            any_frame(frame(records, calls, subjects(), 1));
        }
    }

    /// Frames as they are sent, and former faults: `good|bad COUNT FIRST_SEQ RECORDS`, records in hexadecimal.
    #[test]
    fn the_corpus_of_frames_is_taken_as_it_was() {
        for line in include_str!("../../corpus/frames.txt").lines().filter(|line| !line.starts_with('#')) {
            let words: Vec<&str> = line.split(' ').collect();
            let digit = |at: usize| u8::from_str_radix(&words[3][at..at + 2], 16).unwrap();
            let bytes: Vec<u8> = (0..words[3].len()).step_by(2).map(digit).collect();
            let subjects = vec![subject("a".into()), subject("b".into())];
            let taken = any_frame(frame(bytes, words[1].parse().unwrap(), subjects, words[2].parse().unwrap()));
            assert_eq!(taken, words[0] == "good", "{line}");
        }
    }
}
