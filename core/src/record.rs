//! What one dispatched call used, and its packed form.
//!
//! Packed: every field an LEB128 varint in the order of [`CallRecord`], `received_at_us` as a zigzag difference to the
//! record before it (the first one to 0), `outcome` and `cold` in one byte (`outcome << 1 | cold`). Where that byte has
//! the bit [`MORE`], `claim_us` and `connect_us` follow; else both are 0, and so they are in records of the first
//! version, which knew neither. Typical length 18 to 26 bytes.

/// Why a dispatched call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Outcome {
    /// Answered with a status below 500.
    Ok = 0,
    /// Answered by the function with 500 or above, or its instance died before or within the answer.
    FunctionError = 1,
    /// Ended by us without the function being at fault.
    PlatformError = 2,
    /// `timeoutSeconds` was over.
    Timeout = 3,
    /// The client left; the instance ran to its end or broke off.
    ClientGone = 4,
    /// In flight when the activator died; billed 0.
    Aborted = 5,
}

impl Outcome {
    /// Every outcome, in the order of its number.
    pub const ALL: [Self; 6] =
        [Self::Ok, Self::FunctionError, Self::PlatformError, Self::Timeout, Self::ClientGone, Self::Aborted];

    /// The stable name used by the usage API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::FunctionError => "function_error",
            Self::PlatformError => "platform_error",
            Self::Timeout => "timeout",
            Self::ClientGone => "client_gone",
            Self::Aborted => "aborted",
        }
    }
}

/// What a record is about: kept once per block or frame, named by number.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Subject {
    /// The Function's uid.
    pub function_uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The revision that ran.
    pub revision: String,
    /// Who pays.
    pub tenant: String,
    /// Configured memory in MiB, what GB-seconds are counted with.
    pub memory_mib: u32,
    /// Configured cpu in thousandths.
    pub cpu_millis: u32,
}

/// One dispatched call. Durations are of a monotonic clock, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallRecord {
    /// Number of its [`Subject`] in the surrounding frame or block.
    pub subject: u32,
    /// Number of the call in its activator's epoch: see [`crate::RequestId`].
    pub call: u64,
    /// Wall clock at the first byte, microseconds since 1970 UTC: decides the hour it is billed in.
    pub received_at_us: i64,
    /// Waited for a free slot on running instances.
    pub wait_us: u64,
    /// Waited until there was an instance for it: claimed from a warm pool, or made, with an address (0 for a warm call).
    pub claim_us: u64,
    /// Waited after that until the instance had opened its port (0 for a warm call).
    pub start_us: u64,
    /// Waited, with its slot, for a connection.
    pub connect_us: u64,
    /// From dispatch to the end of the response.
    pub run_us: u64,
    /// Body bytes from the client to the instance.
    pub request_bytes: u64,
    /// Body bytes from the instance.
    pub response_bytes: u64,
    /// HTTP status that the caller was given; 0 when it was given none.
    pub status: u16,
    /// Why it ended.
    pub outcome: Outcome,
    /// Waited for an instance to start.
    pub cold: bool,
}

/// Packed bytes that are no records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackedError {
    /// The bytes end inside a record.
    #[error("packed records end early")]
    Short,
    /// A number does not fit its field.
    #[error("packed field {0} is out of range")]
    Range(&'static str),
    /// Bytes follow the last record.
    #[error("{0} bytes follow the last packed record")]
    Trailing(usize),
}

/// Appends records to a packed run; `last_received_us` carries the difference base from one record to the next.
#[derive(Clone, Debug, Default)]
pub struct Packer {
    bytes: Vec<u8>,
    count: u32,
    last_received_us: i64,
}

impl Packer {
    /// Adds one record.
    pub fn push(&mut self, r: &CallRecord) {
        let out = &mut self.bytes;
        put(out, u64::from(r.subject));
        put(out, r.call);
        put(out, zigzag(r.received_at_us.wrapping_sub(self.last_received_us)));
        for v in [r.wait_us, r.start_us, r.run_us, r.request_bytes, r.response_bytes, u64::from(r.status)] {
            put(out, v);
        }
        let tail = (r.outcome as u8) << 1 | u8::from(r.cold);
        if r.claim_us == 0 && r.connect_us == 0 {
            out.push(tail);
        } else {
            out.push(tail | MORE);
            put(out, r.claim_us);
            put(out, r.connect_us);
        }
        self.last_received_us = r.received_at_us;
        self.count += 1;
    }

    /// Bytes so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// True before the first record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Records so far.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The packed run.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// In a packed record's last byte: two more numbers follow it.
const MORE: u8 = 0x10;

/// Longest packed record: 11 varints of at most 10 bytes, and one byte.
pub const MAX_PACKED_LEN: usize = 11 * 10 + 1;

/// Reads `count` records that fill `bytes` exactly.
///
/// # Errors
/// When bytes are missing, left over, or out of a field's range.
pub fn unpack(bytes: &[u8], count: u32) -> Result<Vec<CallRecord>, PackedError> {
    let mut reader = Reader { bytes };
    // A record is at least 10 bytes: a lying count cannot make a large allocation.
    let mut records = Vec::with_capacity((count as usize).min(bytes.len() / 10));
    let mut last = 0i64;
    for _ in 0..count {
        let record = reader.record(last)?;
        last = record.received_at_us;
        records.push(record);
    }
    if reader.bytes.is_empty() { Ok(records) } else { Err(PackedError::Trailing(reader.bytes.len())) }
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl Reader<'_> {
    fn record(&mut self, last_received_us: i64) -> Result<CallRecord, PackedError> {
        let subject = u32::try_from(self.take()?).map_err(|_| PackedError::Range("subject"))?;
        let call = self.take()?;
        let received_at_us = last_received_us.wrapping_add(unzigzag(self.take()?));
        let [wait_us, start_us, run_us] = [self.take()?, self.take()?, self.take()?];
        let [request_bytes, response_bytes] = [self.take()?, self.take()?];
        let status = u16::try_from(self.take()?).map_err(|_| PackedError::Range("status"))?;
        let (&tail, rest) = self.bytes.split_first().ok_or(PackedError::Short)?;
        self.bytes = rest;
        let outcome = usize::from((tail & !MORE) >> 1);
        let outcome = *Outcome::ALL.get(outcome).ok_or(PackedError::Range("outcome"))?;
        let [claim_us, connect_us] = if tail & MORE == 0 { [0, 0] } else { [self.take()?, self.take()?] };
        let cold = tail & 1 == 1;
        Ok(CallRecord {
            subject,
            call,
            received_at_us,
            wait_us,
            claim_us,
            start_us,
            connect_us,
            run_us,
            request_bytes,
            response_bytes,
            status,
            outcome,
            cold,
        })
    }

    fn take(&mut self) -> Result<u64, PackedError> {
        let mut value = 0u64;
        for (i, &byte) in self.bytes.iter().enumerate().take(10) {
            let part = u64::from(byte & 0x7f);
            if i == 9 && part > 1 {
                return Err(PackedError::Range("varint"));
            }
            value |= part << (7 * i);
            if byte < 0x80 {
                self.bytes = &self.bytes[i + 1..];
                return Ok(value);
            }
        }
        Err(if self.bytes.len() < 10 { PackedError::Short } else { PackedError::Range("varint") })
    }
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn zigzag(v: i64) -> u64 {
    ((v << 1) ^ (v >> 63)) as u64
}

fn unzigzag(v: u64) -> i64 {
    (v >> 1) as i64 ^ -((v & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_record() -> impl Strategy<Value = CallRecord> {
        let maybe = || prop_oneof![Just(0), any::<u64>()];
        let times = (any::<i64>(), [maybe(), maybe(), maybe(), maybe(), maybe()]);
        let rest = (any::<u64>(), any::<u64>(), any::<u16>(), 0usize..6, any::<bool>());
        (any::<u32>(), any::<u64>(), times, rest).prop_map(|(subject, call, t, r)| CallRecord {
            subject,
            call,
            received_at_us: t.0,
            wait_us: t.1[0],
            claim_us: t.1[1],
            start_us: t.1[2],
            connect_us: t.1[3],
            run_us: t.1[4],
            request_bytes: r.0,
            response_bytes: r.1,
            status: r.2,
            outcome: Outcome::ALL[r.3],
            cold: r.4,
        })
    }

    /// As the first version wrote it, and as it reads what has more: not at all.
    #[test]
    fn records_of_the_first_version_are_read_and_newer_ones_are_no_older_ones() {
        let bytes = [0, 1, 0, 10, 20, 0xac, 2, 5, 7, 0xc8, 1, 1];
        let record = unpack(&bytes, 1).unwrap()[0];
        assert_eq!((record.wait_us, record.start_us, record.run_us, record.status), (10, 20, 300, 200));
        assert_eq!((record.claim_us, record.connect_us, record.cold), (0, 0, true));
        let mut packer = Packer::default();
        packer.push(&CallRecord { claim_us: 3, connect_us: 4, ..record });
        let more = packer.finish();
        assert_eq!(more, [&bytes[..11], &[1 | MORE, 3, 4]].concat());
        assert!(Outcome::ALL.get(usize::from(more[11] >> 1)).is_none(), "it would be read as another outcome");
    }

    proptest! {
        #[test]
        fn packed_reads_back(records in prop::collection::vec(any_record(), 0..50)) {
            let mut packer = Packer::default();
            for r in &records {
                let before = packer.len();
                packer.push(r);
                prop_assert!(packer.len() - before <= MAX_PACKED_LEN);
            }
            let count = packer.count();
            prop_assert_eq!(unpack(&packer.finish(), count), Ok(records));
        }

        #[test]
        fn any_bytes_are_refused_or_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), count in 0u32..20) {
            let _ = unpack(&bytes, count);
        }

        #[test]
        fn a_cut_is_seen(records in prop::collection::vec(any_record(), 1..10), cut in 1usize..20) {
            let mut packer = Packer::default();
            for r in &records { packer.push(r); }
            let count = packer.count();
            let bytes = packer.finish();
            prop_assert!(unpack(&bytes[..bytes.len().saturating_sub(cut)], count).is_err());
        }
    }
}
