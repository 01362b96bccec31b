//! The items of an export, as bytes.

use super::super::codec::{CorruptValue, Reader, StoredSubject, decode_function, decode_sum, encode_function};
use super::super::codec::{encode_sum, put, put_text};
use super::super::retention::Bounds;
use super::super::reversals::Entry;
use super::super::store::Closed;
use super::super::warm::Counted;
use super::super::{FunctionId, Level, Month};
use dormouse_core::record::{CallRecord, Packer, unpack};
use dormouse_core::usage::UsageSum;

/// Most records in one item.
pub(in crate::ledger) const RECORDS: usize = 4_096;

/// The kind of the last item, which is the count of those before it.
pub(super) const END: u8 = 0;
const STATE: u8 = 1;
const FUNCTION: u8 = 2;
const SUBJECT: u8 = 3;
const EPOCH: u8 = 4;
const RECORD: u8 = 5;
const SUM: u8 = 6;
const LATE: u8 = 7;
const DOCUMENT: u8 = 8;
const REVERSAL: u8 = 9;

/// A part of a ledger. They come in the order in which they stand here: what an item names came before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::ledger) enum Item {
    /// What is gone and what is closed.
    State { gone: Bounds, closed: Closed },
    /// What a function's number means.
    Function(u32, FunctionId),
    /// What a subject's number means.
    Subject(SubjectItem),
    /// How far an epoch was applied, and how many of its records are gone.
    Epoch { activator: u64, epoch: u32, watermark: u64, forgotten: u64 },
    /// Records that follow each other, at most [`RECORDS`].
    Records { activator: u64, epoch: u32, first_seq: u64, records: Vec<CallRecord> },
    /// A row of sums, in the order of level, function and time.
    Sum { level: Level, function: u32, time: u32, sum: UsageSum },
    /// A function's month that something came to late.
    Late { function: u32, month: Month },
    /// What says that a record is taken back, in the order of function, hour and record.
    Reversal(Entry),
    /// What is kept of a closed month.
    Document { tenant: String, month: Month, document: Vec<u8> },
    /// There is no more. Where it does not come, what came before is of no use.
    End,
}

/// A subject and what is known of its instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::ledger) struct SubjectItem {
    pub(in crate::ledger) number: u32,
    pub(in crate::ledger) subject: StoredSubject,
    /// Its start was counted.
    pub(in crate::ledger) started: bool,
    /// The day on which it was last seen, days since 1970 UTC.
    pub(in crate::ledger) seen: u32,
    /// Up to when its warm time was counted.
    pub(in crate::ledger) warm: Option<Counted>,
}

impl Item {
    pub(super) fn kind(&self) -> u8 {
        match self {
            Self::State { .. } => STATE,
            Self::Function(..) => FUNCTION,
            Self::Subject(_) => SUBJECT,
            Self::Epoch { .. } => EPOCH,
            Self::Records { .. } => RECORD,
            Self::Sum { .. } => SUM,
            Self::Late { .. } => LATE,
            Self::Reversal(_) => REVERSAL,
            Self::Document { .. } => DOCUMENT,
            Self::End => END,
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut numbers = |numbers: &[u64]| numbers.iter().for_each(|number| put(&mut out, u128::from(*number)));
        match self {
            Self::State { gone: Bounds { minute, hour, record_hour }, closed: Closed { before, told_before } } => {
                numbers(&[minute, hour, record_hour, before, told_before].map(|number| u64::from(*number)));
            }
            Self::Function(number, id) => {
                numbers(&[u64::from(*number)]);
                out.extend(encode_function(id));
            }
            Self::Subject(SubjectItem { number, subject, started, seen, warm }) => {
                let Counted { until_us, open } = warm.unwrap_or_default();
                let flags = u64::from(*started) + 2 * u64::from(warm.is_some()) + 4 * u64::from(open);
                numbers(&[u64::from(*number), flags, u64::from(*seen), until_us.cast_unsigned()]);
                out.extend(subject.encode());
            }
            Self::Epoch { activator, epoch, watermark, forgotten } => {
                numbers(&[*activator, u64::from(*epoch), *watermark, *forgotten]);
            }
            Self::Records { activator, epoch, first_seq, records } => {
                numbers(&[*activator, u64::from(*epoch), *first_seq, records.len() as u64]);
                let mut packer = Packer::default();
                records.iter().for_each(|record| packer.push(record));
                out.extend(packer.finish());
            }
            Self::Sum { level, function, time, sum } => {
                numbers(&[u64::from(*level as u8), u64::from(*function), u64::from(*time)]);
                out.extend(encode_sum(sum));
            }
            Self::Late { function, month } => numbers(&[u64::from(*function), u64::from(month.number())]),
            Self::Reversal(Entry { function, hour, activator, epoch, seq, body }) => {
                numbers(&[u64::from(*function), u64::from(*hour), *activator, u64::from(*epoch), *seq]);
                out.extend(body);
            }
            Self::Document { tenant, month, document } => {
                numbers(&[u64::from(month.number())]);
                put_text(&mut out, tenant);
                out.extend(document);
            }
            Self::End => {}
        }
        out
    }

    pub(super) fn decode(kind: u8, bytes: &[u8]) -> Result<Self, CorruptValue> {
        const WHAT: &str = "item";
        let mut of = Reader { bytes, what: WHAT };
        let month = |of: &mut Reader<'_>| Month::numbered(of.number()?).ok_or(CorruptValue("month"));
        Ok(match kind {
            STATE => {
                let gone = Bounds { minute: of.number()?, hour: of.number()?, record_hour: of.number()? };
                let closed = Closed { before: of.number()?, told_before: of.number()? };
                of.end()?;
                Self::State { gone, closed }
            }
            FUNCTION => Self::Function(of.number()?, decode_function(of.bytes)?),
            SUBJECT => {
                let (number, flags, seen): (_, u8, _) = (of.number()?, of.number()?, of.number()?);
                let counted = Counted { until_us: of.number::<u64>()?.cast_signed(), open: flags & 4 != 0 };
                let (started, warm) = (flags & 1 != 0, (flags & 2 != 0).then_some(counted));
                Self::Subject(SubjectItem { number, subject: StoredSubject::decode(of.bytes)?, started, seen, warm })
            }
            EPOCH => {
                let (activator, epoch) = (of.number()?, of.number()?);
                let (watermark, forgotten) = (of.number()?, of.number()?);
                of.end()?;
                Self::Epoch { activator, epoch, watermark, forgotten }
            }
            RECORD => {
                let (activator, epoch, first_seq) = (of.number()?, of.number()?, of.number()?);
                let records = unpack_some(of.number()?, of.bytes)?;
                Self::Records { activator, epoch, first_seq, records }
            }
            SUM => {
                let level = match of.number::<u8>()? {
                    0 => Level::Minute,
                    1 => Level::Hour,
                    2 => Level::Day,
                    _ => return Err(CorruptValue("sum")),
                };
                let (function, time) = (of.number()?, of.number()?);
                Self::Sum { level, function, time, sum: decode_sum(of.bytes)? }
            }
            LATE => {
                let function = of.number()?;
                let month = month(&mut of)?;
                of.end()?;
                Self::Late { function, month }
            }
            REVERSAL => {
                let (function, hour, activator) = (of.number()?, of.number()?, of.number()?);
                let (epoch, seq) = (of.number()?, of.number()?);
                Self::Reversal(Entry { function, hour, activator, epoch, seq, body: of.bytes.to_vec() })
            }
            DOCUMENT => {
                let (month, tenant) = (month(&mut of)?, of.text()?);
                Self::Document { tenant, month, document: of.bytes.to_vec() }
            }
            _ => return Err(CorruptValue(WHAT)),
        })
    }
}

fn unpack_some(count: u32, bytes: &[u8]) -> Result<Vec<CallRecord>, CorruptValue> {
    let records = unpack(bytes, count).map_err(|_| CorruptValue("record"))?;
    if records.is_empty() || records.len() > RECORDS { Err(CorruptValue("record")) } else { Ok(records) }
}
