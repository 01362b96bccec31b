//! A batch of records as it comes from an activator, and the check that nothing in it is damaged.

use super::AppendError;
use dormouse_core::record::{CallRecord, Subject, unpack};
use dormouse_proto::{WireError, v1};

/// Most records in a frame. Unpacked they take 72 B each: 4.7 MB.
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
}

/// A frame that was found whole.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) activator: u64,
    pub(super) epoch: u32,
    pub(super) first_seq: u64,
    pub(super) subjects: Vec<Subject>,
    pub(super) records: Vec<CallRecord>,
}

impl TryFrom<v1::Frame> for Frame {
    type Error = WireError;

    fn try_from(frame: v1::Frame) -> Result<Self, WireError> {
        let v1::Frame { activator, epoch, first_seq, count, subjects, records, crc32c } = frame;
        let subjects = subjects.into_iter().map(Subject::try_from).collect::<Result<_, _>>()?;
        Ok(Self { activator, epoch, first_seq, count, subjects, records: records.into(), crc32c })
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
            let Subject { function_uid, namespace, name, revision, tenant, memory_mib: _, cpu_millis: _ } = subject;
            if [function_uid, namespace, name, revision, tenant].iter().any(|t| t.is_empty() || t.len() > MAX_TEXT) {
                return Err(AppendError::BadFrame(format!("a subject has a text not of 1 to {MAX_TEXT} bytes")));
            }
        }
        let Self { activator, epoch, first_seq, subjects, .. } = self;
        Ok(Checked { activator, epoch, first_seq, subjects, records })
    }
}
