//! What one dispatched call used, and its packed form.
//!
//! Packed: varints (LEB128) in the order of [`CallRecord`], `received_at_us` as a zigzag difference to the record before
//! it (the first one to 0), and then one byte: the outcome in its lowest three bits and a bit for each of the fields that
//! most records do not have. What those bits announce follows it, in their order. Typical length 18 to 26 bytes.
//!
//! Of a call that the platform made the three bits are all set. Last comes then a byte with its outcome (and
//! [`Timed::replaced`] as bit 3), when it was due as a zigzag difference to `received_at_us`, and its schedule's name behind
//! its length.

mod timed;

pub use timed::{MAX_WORD, Timed, Word};

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
    /// The instance that ran it: a pod's uid, or a local process's id; never used again.
    pub instance: String,
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
    /// It was the first call on an instance whose start it waited for: that start is billed with it, if at all.
    pub first: bool,
    /// Slots of its instance, when that is kept warm: the call used one of them. 0 for an instance that is there for
    /// calls only.
    pub warm_slots: u16,
    /// Hash of the caller's `Idempotency-Key`; 0 when it sent none.
    pub key: u64,
    /// The platform made it; `None`: a caller did.
    pub timed: Option<Timed>,
}

impl CallRecord {
    /// Wall clock at its dispatch, microseconds since 1970 UTC.
    #[must_use]
    pub fn dispatched_at_us(&self) -> i64 {
        let Self { wait_us, claim_us, start_us, connect_us, .. } = *self;
        let waited = [wait_us, claim_us, start_us, connect_us].into_iter().fold(0, u64::saturating_add);
        self.received_at_us.saturating_add(i64::try_from(waited).unwrap_or(i64::MAX))
    }

    /// Wall clock at its end, microseconds since 1970 UTC.
    #[must_use]
    pub fn ended_at_us(&self) -> i64 {
        self.dispatched_at_us().saturating_add(i64::try_from(self.run_us).unwrap_or(i64::MAX))
    }
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

/// [`CallRecord::key`] of an `Idempotency-Key`: FNV-1a with 64 bits (RFC 9923), the same in every activator; never 0.
#[must_use]
pub fn key_of(value: &[u8]) -> u64 {
    let hash = value
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    hash.max(1)
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
        let parts = r.claim_us != 0 || r.connect_us != 0;
        let bits = [(r.cold, COLD), (r.first, FIRST), (parts, PARTS), (r.warm_slots != 0, WARM), (r.key != 0, KEYED)];
        let outcome = if r.timed.is_some() { TIMED } else { r.outcome as u8 };
        out.push(bits.iter().fold(outcome, |byte, (set, bit)| if *set { byte | bit } else { byte }));
        if parts {
            put(out, r.claim_us);
            put(out, r.connect_us);
        }
        if r.warm_slots != 0 {
            put(out, u64::from(r.warm_slots));
        }
        if r.key != 0 {
            out.extend_from_slice(&r.key.to_le_bytes());
        }
        if let Some(Timed { due_us, schedule, replaced }) = &r.timed {
            out.push(r.outcome as u8 | if *replaced { REPLACED } else { 0 });
            put(out, zigzag(due_us.wrapping_sub(r.received_at_us)));
            let name = schedule.as_str();
            out.push(name.len() as u8);
            out.extend_from_slice(name.as_bytes());
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

/// The outcome in a packed record's byte of bits.
const OUTCOME: u8 = 0x07;
/// In place of the outcome: it follows last, with `timed`.
const TIMED: u8 = 0x07;
/// [`Timed::replaced`], beside the outcome.
const REPLACED: u8 = 0x08;
/// [`CallRecord::cold`].
const COLD: u8 = 0x08;
/// [`CallRecord::first`].
const FIRST: u8 = 0x10;
/// `claim_us` and `connect_us` follow; else both are 0.
const PARTS: u8 = 0x20;
/// `warm_slots` follows.
const WARM: u8 = 0x40;
/// `key` follows, eight bytes, little endian.
const KEYED: u8 = 0x80;

/// Longest packed record: 13 varints of at most 10 bytes, one byte, a key of 8, and two bytes with a name.
pub const MAX_PACKED_LEN: usize = 13 * 10 + 1 + 8 + 2 + MAX_WORD;

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
        let bits = self.byte()?;
        let [claim_us, connect_us] = if bits & PARTS == 0 { [0, 0] } else { [self.take()?, self.take()?] };
        let warm_slots = if bits & WARM == 0 { 0 } else { self.take()? };
        let warm_slots = u16::try_from(warm_slots).map_err(|_| PackedError::Range("warm_slots"))?;
        let key = if bits & KEYED == 0 { 0 } else { self.eight()? };
        let (outcome, timed) = match bits & OUTCOME {
            TIMED => self.timed(received_at_us).map(|(outcome, timed)| (outcome, Some(timed)))?,
            plain => (outcome(plain)?, None),
        };
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
            cold: bits & COLD != 0,
            first: bits & FIRST != 0,
            warm_slots,
            key,
            timed,
        })
    }

    fn timed(&mut self, received_at_us: i64) -> Result<(Outcome, Timed), PackedError> {
        let bits = self.byte()?;
        let due_us = received_at_us.wrapping_add(unzigzag(self.take()?));
        let len = usize::from(self.byte()?);
        let (name, rest) = self.bytes.split_at_checked(len).ok_or(PackedError::Short)?;
        self.bytes = rest;
        let schedule = Word::new(name).ok_or(PackedError::Range("schedule"))?;
        let outcome = outcome(bits & !REPLACED)?;
        Ok((outcome, Timed { due_us, schedule, replaced: bits & REPLACED != 0 }))
    }

    fn byte(&mut self) -> Result<u8, PackedError> {
        let (&byte, rest) = self.bytes.split_first().ok_or(PackedError::Short)?;
        self.bytes = rest;
        Ok(byte)
    }

    fn eight(&mut self) -> Result<u64, PackedError> {
        let (bytes, rest) = self.bytes.split_first_chunk().ok_or(PackedError::Short)?;
        self.bytes = rest;
        Ok(u64::from_le_bytes(*bytes))
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

fn outcome(number: u8) -> Result<Outcome, PackedError> {
    Outcome::ALL.get(usize::from(number)).copied().ok_or(PackedError::Range("outcome"))
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
        let rest = (any::<u64>(), any::<u64>(), any::<u16>(), 0usize..6);
        let timed = (any::<i64>(), "[A-Za-z0-9-]{0,63}", any::<bool>()).prop_map(|(due_us, name, replaced)| Timed {
            due_us,
            schedule: Word::new(name.as_bytes()).unwrap(),
            replaced,
        });
        let bits = (any::<bool>(), any::<bool>(), prop_oneof![Just(0), any::<u16>()], maybe(), prop::option::of(timed));
        (any::<u32>(), any::<u64>(), times, rest, bits).prop_map(|(subject, call, t, r, b)| CallRecord {
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
            cold: b.0,
            first: b.1,
            warm_slots: b.2,
            key: b.3,
            timed: b.4,
        })
    }

    #[test]
    fn keys_hash_as_published() {
        // Test vectors of the algorithm's authors.
        assert_eq!((key_of(b""), key_of(b"a")), (0xcbf2_9ce4_8422_2325, 0xaf63_dc4c_8601_ec8c));
        assert_eq!(key_of(b"foobar"), 0x8594_4171_f739_67e8);
    }

    /// The form is on disks and on the wire: it does not change by accident.
    #[test]
    fn bytes_are_as_described() {
        let short = CallRecord {
            subject: 0,
            call: 1,
            received_at_us: 0,
            wait_us: 10,
            claim_us: 0,
            start_us: 20,
            connect_us: 0,
            run_us: 300,
            request_bytes: 5,
            response_bytes: 7,
            status: 200,
            outcome: Outcome::Timeout,
            cold: true,
            first: false,
            warm_slots: 0,
            key: 0,
            timed: None,
        };
        let packed = |record: &CallRecord| {
            let mut packer = Packer::default();
            packer.push(record);
            packer.finish()
        };
        let bytes = [0, 1, 0, 10, 20, 0xac, 2, 5, 7, 0xc8, 1];
        assert_eq!(packed(&short), [&bytes[..], &[3 | COLD]].concat());
        let long = CallRecord { claim_us: 3, connect_us: 4, first: true, warm_slots: 80, key: 9, ..short };
        let bits = 3 | COLD | FIRST | PARTS | WARM | KEYED;
        assert_eq!(packed(&long), [&bytes[..], &[bits, 3, 4, 80, 9, 0, 0, 0, 0, 0, 0, 0]].concat());
        let timed = Some(Timed { due_us: -3, schedule: Word::new(b"ab").unwrap(), replaced: true });
        let timed = packed(&CallRecord { timed, warm_slots: 80, ..short });
        assert_eq!(timed, [&bytes[..], &[7 | COLD | WARM, 80, 3 | 8, 5, 2, b'a', b'b']].concat());
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
