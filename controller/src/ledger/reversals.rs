//! Records that somebody takes back: of a call that should not have been billed. The record stays as it came, and so do the
//! sums that it is in; a reversal beside it says who took it back, when and why, and what it had added to the sums. A month
//! that is not closed is priced without it; one that is closed is corrected, as by anything that comes to it late.

use super::codec::{CorruptValue, Reader, put, put_text};
use super::fold::{Calendar, Fold};
use super::store::{Scan, Store};
use super::times::hour_of;
use super::{AppendError, Filter, FunctionId, Granularity, Level, Month, ReadError, RecordKey, RecordRow};
use dormouse_core::RequestId;
use dormouse_core::price::Metering;
use dormouse_core::record::{CallRecord, Packer, Subject, unpack};
use dormouse_core::usage::{Class, UsageSum};
use jiff::Timestamp;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

/// Most records that are taken back at once.
pub const MAX_AT_ONCE: usize = 1_000;
/// Most of one function and month, since a statement reads all of them: 10,000 x about 300 B = 3 MB.
const MAX_OF_MONTH: usize = 10_000;
/// Longest reason in bytes.
pub const MAX_REASON: usize = 500;
/// Longest name of who takes back, in bytes; longer ones are cut.
const MAX_BY: usize = 253;
/// Rows that are read at once to find a record.
const PAGE: usize = 10_000;
/// Version of the stored form.
const VERSION: u8 = 1;

/// Which record: as `/v1/records` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordId {
    /// The activator's id.
    pub activator: u64,
    /// Its epoch.
    pub epoch: u32,
    /// The record's sequence.
    pub seq: u64,
    /// When the call came, microseconds since 1970 UTC: where it is looked for.
    pub received_at_us: i64,
}

/// Who takes records back, and why.
#[derive(Clone, Copy, Debug)]
pub struct Order<'a> {
    /// Who: a user's name.
    pub by: &'a str,
    /// Why: 1 to [`MAX_REASON`] characters.
    pub reason: &'a str,
    /// When.
    pub at: Timestamp,
}

/// What became of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reversed {
    /// It is taken back.
    Now,
    /// It was taken back before: nothing changed.
    Before,
    /// There is no such record, or not any more.
    Unknown,
}

/// Why nothing was taken back.
#[derive(Debug, thiserror::Error)]
pub enum ReverseError {
    /// The order cannot be taken: the message says what and why.
    #[error("{0}")]
    Refused(String),
    /// The ledger could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It could not be written: some may be taken back, and are not taken back twice.
    #[error(transparent)]
    Write(#[from] AppendError),
}

/// A record that was taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reversal {
    /// Which.
    pub id: RecordId,
    /// As its caller knows it.
    pub request_id: RequestId,
    /// What ran.
    pub subject: Subject,
    /// What it used; its `subject` means nothing here.
    pub record: CallRecord,
    /// When it was taken back, microseconds since 1970 UTC.
    pub at_us: i64,
    /// By whom.
    pub by: String,
    /// Why.
    pub reason: String,
    /// The rules by which its time had been counted.
    rules: Vec<Metering>,
}

/// A reversal as a store keeps it, in the order of function, hour and record: one for each record, for ever.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Entry {
    /// The store's number of the function.
    pub(super) function: u32,
    /// The hour that the record is billed in, hours since 1970 UTC.
    pub(super) hour: u32,
    pub(super) activator: u64,
    pub(super) epoch: u32,
    pub(super) seq: u64,
    /// What it says.
    pub(super) body: Vec<u8>,
}

impl Reversal {
    /// The hour that the record is billed in, hours since 1970 UTC.
    #[must_use]
    pub fn hour(&self) -> u32 {
        hour_of(self.record.received_at_us)
    }

    /// What the record had added to the sums.
    fn sum(&self) -> UsageSum {
        let mut sum = UsageSum::default();
        sum.add(&self.record, (self.subject.memory_mib, self.subject.cpu_millis), &self.rules);
        sum
    }

    fn entry(&self, function: u32) -> Entry {
        let RecordId { activator, epoch, seq, received_at_us } = self.id;
        Entry { function, hour: hour_of(received_at_us), activator, epoch, seq, body: self.encode() }
    }

    fn encode(&self) -> Vec<u8> {
        let Self { subject, record, at_us, by, reason, rules, .. } = self;
        let mut out = vec![VERSION];
        let mut packer = Packer::default();
        packer.push(&CallRecord { subject: 0, ..*record });
        let packed = packer.finish();
        put(&mut out, packed.len() as u128);
        out.extend_from_slice(&packed);
        put(&mut out, u128::from(subject.memory_mib));
        put(&mut out, u128::from(subject.cpu_millis));
        put(&mut out, u128::from(at_us.cast_unsigned()));
        for text in [&subject.revision, &subject.instance, by, reason] {
            put_text(&mut out, text);
        }
        put(&mut out, rules.len() as u128);
        for Metering { step_ms, min_ms, start } in rules {
            [*step_ms, *min_ms, u32::from(*start)].into_iter().for_each(|number| put(&mut out, u128::from(number)));
        }
        out
    }

    /// Reads what a store kept of a function.
    fn decode(entry: &Entry, function: &FunctionId) -> Result<Self, CorruptValue> {
        let bad = CorruptValue("reversal");
        let mut of = Reader { bytes: &entry.body, what: "reversal" };
        if of.byte()? != VERSION {
            return Err(bad);
        }
        let (packed, rest) = of.number().ok().and_then(|len: usize| of.bytes.split_at_checked(len)).ok_or(bad)?;
        let record = unpack(packed, 1).ok().and_then(|records| records.first().copied()).ok_or(bad)?;
        let mut of = Reader { bytes: rest, what: "reversal" };
        let (size, at_us) = ((of.number()?, of.number()?), of.number::<u64>()?.cast_signed());
        let [revision, instance, by, reason] = [of.text()?, of.text()?, of.text()?, of.text()?];
        let count: u8 = of.number()?;
        let rule =
            |of: &mut Reader<'_>| Ok(Metering { step_ms: of.number()?, min_ms: of.number()?, start: of.flag()? });
        let rules = (0..count).map(|_| rule(&mut of)).collect::<Result<_, CorruptValue>>()?;
        of.end()?;
        let &Entry { activator, epoch, seq, .. } = entry;
        Ok(Self {
            id: RecordId { activator, epoch, seq, received_at_us: record.received_at_us },
            request_id: RequestId { activator, epoch, call: record.call },
            subject: function.subject(size, revision, instance),
            record,
            at_us,
            by,
            reason,
            rules,
        })
    }
}

impl Entry {
    /// Whether a store may have written it.
    pub(super) fn is_good(&self) -> bool {
        let name = String::new;
        let nobody = FunctionId { uid: name(), namespace: name(), name: name(), tenant: name() };
        Reversal::decode(self, &nobody).is_ok_and(|reversal| hour_of(reversal.record.received_at_us) == self.hour)
    }
}

/// Takes records back; answers what became of each, in their order.
pub(super) async fn reverse(
    store: &dyn Store,
    ids: &[RecordId],
    order: Order<'_>,
) -> Result<Vec<Reversed>, ReverseError> {
    check(ids, order)?;
    let found = find(store, ids).await?;
    let functions: HashMap<FunctionId, u32> = store.functions().await?.into_iter().map(|(n, id)| (id, n)).collect();
    let (mut sums, mut entries) = (HashMap::new(), Vec::with_capacity(found.len()));
    for (id, row) in &found {
        let function =
            *functions.get(&FunctionId::of(&row.subject)).ok_or(CorruptValue("function")).map_err(ReadError::from)?;
        let hour = hour_of(id.received_at_us);
        let sum = match sums.get(&(function, hour)) {
            Some(sum) => sum,
            None => {
                let sum = sum_of(store, function, hour).await?;
                sums.entry((function, hour)).or_insert(sum)
            }
        };
        let reversal = Reversal {
            id: *id,
            request_id: row.request_id,
            subject: row.subject.clone(),
            record: row.record,
            at_us: order.at.as_microsecond(),
            by: cut(order.by),
            reason: order.reason.to_owned(),
            rules: rules(sum, Class::of(&row.record)),
        };
        entries.push(reversal.entry(function));
    }
    bounded(store, &entries).await?;
    let new = store.reverse(entries.clone()).await?;
    let done: HashMap<(u64, u32, u64), bool> =
        entries.iter().zip(new).map(|(entry, new)| ((entry.activator, entry.epoch, entry.seq), new)).collect();
    let mut told = HashSet::new();
    let outcome = |id: &RecordId| match done.get(&(id.activator, id.epoch, id.seq)) {
        _ if !found.contains_key(id) => Reversed::Unknown,
        // Named twice in one order it is taken back once.
        Some(true) if told.insert(*id) => Reversed::Now,
        _ => Reversed::Before,
    };
    Ok(ids.iter().map(outcome).collect())
}

fn check(ids: &[RecordId], order: Order<'_>) -> Result<(), ReverseError> {
    let refused = |why: String| Err(ReverseError::Refused(why));
    if !(1..=MAX_AT_ONCE).contains(&ids.len()) {
        return refused(format!("{} records: take 1 to {MAX_AT_ONCE} back at once", ids.len()));
    }
    let reason = order.reason;
    if reason.trim().is_empty() || reason.chars().count() > MAX_REASON || reason.contains(char::is_control) {
        return refused(format!("a reason is a line of 1 to {MAX_REASON} characters"));
    }
    Ok(())
}

fn cut(by: &str) -> String {
    by.char_indices().take_while(|(at, c)| at + c.len_utf8() <= MAX_BY).map(|(_, c)| c).collect()
}

/// Records of one hour and epoch, by their number there and their time.
type Wanted = BTreeMap<(u64, i64), RecordId>;

/// Activator, epoch and the number there: what a reversal is kept by.
type Number = (u64, u32, u64);

/// The records that there are. Those of an hour and an epoch stand together: they are looked for in one go.
async fn find(store: &dyn Store, ids: &[RecordId]) -> Result<BTreeMap<RecordId, RecordRow>, ReadError> {
    let mut places: BTreeMap<(u32, u64, u32), Wanted> = BTreeMap::new();
    for id in ids {
        let place = (hour_of(id.received_at_us), id.activator, id.epoch);
        places.entry(place).or_default().insert((id.seq, id.received_at_us), *id);
    }
    let mut found = BTreeMap::new();
    for ((hour, activator, epoch), wanted) in places {
        let times: Vec<i64> = wanted.values().map(|id| id.received_at_us).collect();
        let (Some(first), Some(last)) = (times.iter().min(), times.iter().max()) else { continue };
        let times_us = *first..last.saturating_add(1);
        let mut after = Some(RecordKey { hour, activator, epoch, block: 0, seq: 0 });
        // Where there is nothing behind, the answer has no next page.
        while let Some(from) = after.filter(|key| (key.hour, key.activator, key.epoch) == (hour, activator, epoch)) {
            let scan = Scan { times_us: times_us.clone(), functions: None, after: Some(from), limit: PAGE };
            let page = store.records(scan).await?;
            for row in page.rows {
                let RecordKey { activator: of, epoch: life, seq, .. } = row.key;
                let id = wanted.get(&(seq, row.record.received_at_us));
                if let Some(id) = id.filter(|_| (of, life) == (activator, epoch)) {
                    found.insert(*id, row);
                }
            }
            after = page.next;
        }
    }
    Ok(found)
}

/// What a function used in an hour; in its day, where hours are not kept any longer.
async fn sum_of(store: &dyn Store, function: u32, hour: u32) -> Result<UsageSum, ReadError> {
    let day = hour / 24;
    let calendar = Calendar::new(Granularity::Total, day * 24..(day + 1) * 24);
    let levels = vec![(Level::Hour, hour..hour + 1), (Level::Day, day..day + 1)];
    let rows = store.fold(vec![function], levels, Fold::new(calendar, [(function, 0)].into(), None, 1)).await?;
    Ok(rows.rows().next().map(|(_, _, sum)| sum).unwrap_or_default())
}

/// The rules by which calls of a class were counted in an hour. In the hour in which a rule came into use a call counts as
/// one that came after it.
fn rules(sum: &UsageSum, class: Class) -> Vec<Metering> {
    let of_class = sum.classes.iter().filter(|sum| sum.class == class).flat_map(|sum| &sum.times);
    of_class.filter(|(_, time)| time.calls > 0).map(|(rule, _)| *rule).collect()
}

/// Fails when a function's month would have more reversals than a statement reads.
async fn bounded(store: &dyn Store, entries: &[Entry]) -> Result<(), ReverseError> {
    let mut months: BTreeMap<(u32, Month), HashSet<Number>> = BTreeMap::new();
    let of = |entry: &Entry| (entry.activator, entry.epoch, entry.seq);
    for entry in entries {
        months.entry((entry.function, Month::of_hour(entry.hour))).or_default().insert(of(entry));
    }
    for ((function, month), mut more) in months {
        let there = store.reversals(vec![function], month.hours()).await?;
        let kept = there.len();
        // An order that is given again takes nothing more back.
        for entry in &there {
            more.remove(&of(entry));
        }
        if kept + more.len() > MAX_OF_MONTH && !more.is_empty() {
            let why = format!(
                "{kept} records of this function are taken back in {month} already, and at most {MAX_OF_MONTH} can be: \
                 credit the rest outside of this ledger"
            );
            return Err(ReverseError::Refused(why));
        }
    }
    Ok(())
}

/// What was taken back of functions in a period, hours since 1970 UTC, as a sum to take from theirs.
pub(super) async fn sum(store: &dyn Store, functions: Vec<u32>, hours: Range<u32>) -> Result<UsageSum, ReadError> {
    let mut sum = UsageSum::default();
    let nobody =
        FunctionId { uid: String::new(), namespace: String::new(), name: String::new(), tenant: String::new() };
    for entry in store.reversals(functions, hours).await? {
        sum.merge(&Reversal::decode(&entry, &nobody)?.sum());
    }
    Ok(sum)
}

/// Reversals of calls that came in a period, microseconds since 1970 UTC, in the order in which records are told; at most
/// `limit` behind `after`.
pub(super) async fn of(
    store: &dyn Store,
    filter: &Filter,
    times_us: &Range<i64>,
    (after, limit): (Option<RecordId>, usize),
) -> Result<(Vec<Reversal>, bool), ReadError> {
    let functions: HashMap<u32, FunctionId> =
        store.functions().await?.into_iter().filter(|(_, id)| filter.takes(id)).collect();
    let mut numbers: Vec<u32> = functions.keys().copied().collect();
    numbers.sort_unstable();
    let hours = hour_of(times_us.start)..hour_of(times_us.end.saturating_sub(1)) + 1;
    let mut found = Vec::new();
    for entry in store.reversals(numbers, hours).await? {
        let Some(function) = functions.get(&entry.function) else { continue };
        let reversal = Reversal::decode(&entry, function)?;
        if times_us.contains(&reversal.record.received_at_us) {
            found.push(reversal);
        }
    }
    found.sort_by_key(|reversal| place(reversal.id));
    let behind = after.map_or(0, |after| found.partition_point(|reversal| place(reversal.id) <= place(after)));
    let mut page = found.split_off(behind);
    let more = page.len() > limit;
    page.truncate(limit);
    Ok((page, more))
}

/// Where a record stands among others.
fn place(id: RecordId) -> (u32, u64, u32, u64) {
    (hour_of(id.received_at_us), id.activator, id.epoch, id.seq)
}

/// Those of some records, by their place.
pub(super) async fn among(store: &dyn Store, rows: &[RecordRow]) -> Result<HashMap<RecordId, Reversal>, ReadError> {
    let hours = rows.iter().map(|row| row.key.hour);
    let (Some(first), Some(last)) = (hours.clone().min(), hours.max()) else { return Ok(HashMap::new()) };
    let wanted: HashSet<FunctionId> = rows.iter().map(|row| FunctionId::of(&row.subject)).collect();
    let functions: HashMap<u32, FunctionId> =
        store.functions().await?.into_iter().filter(|(_, id)| wanted.contains(id)).collect();
    let mut found = HashMap::new();
    for entry in store.reversals(functions.keys().copied().collect(), first..last + 1).await? {
        let Some(function) = functions.get(&entry.function) else { continue };
        let reversal = Reversal::decode(&entry, function)?;
        found.insert(reversal.id, reversal);
    }
    Ok(found)
}

impl RecordId {
    /// Of a record that is told.
    #[must_use]
    pub fn of(row: &RecordRow) -> Self {
        let RecordKey { activator, epoch, seq, .. } = row.key;
        Self { activator, epoch, seq, received_at_us: row.record.received_at_us }
    }
}

#[cfg(test)]
mod tests {
    use super::super::times::HOUR_US;
    use super::*;
    use dormouse_core::record::{Outcome, Timed, Word};
    use proptest::prelude::*;

    fn reversal(numbers: [u64; 4], texts: [String; 3], rules: Vec<Metering>) -> (Reversal, FunctionId) {
        let [activator, seq, call, us] = numbers;
        let [revision, by, reason] = texts;
        let function = FunctionId { uid: "u".into(), namespace: "n".into(), name: "f".into(), tenant: "t".into() };
        let record = CallRecord {
            subject: 0,
            call,
            received_at_us: us.cast_signed(),
            wait_us: us,
            claim_us: us,
            start_us: seq,
            connect_us: 0,
            run_us: us,
            request_bytes: us,
            response_bytes: call,
            status: 200,
            outcome: Outcome::Timeout,
            cold: true,
            first: true,
            warm_slots: 3,
            key: call,
            timed: call.is_multiple_of(2).then(|| Timed {
                due_us: 1,
                schedule: Word::new(b"nightly").unwrap(),
                replaced: false,
            }),
        };
        let id = RecordId { activator, epoch: 7, seq, received_at_us: record.received_at_us };
        let request_id = RequestId { activator, epoch: 7, call };
        let subject = function.subject((512, 100), revision, "i".into());
        let reversal = Reversal { id, request_id, subject, record, at_us: us.cast_signed(), by, reason, rules };
        (reversal, function)
    }

    proptest! {
        #[test]
        fn what_is_kept_reads_back(
            numbers in any::<[u64; 4]>(),
            texts in any::<[String; 3]>(),
            rules in prop::collection::vec((any::<u32>(), any::<u32>(), any::<bool>()), 0..4),
        ) {
            let rules = rules.into_iter().map(|(step_ms, min_ms, start)| Metering { step_ms, min_ms, start }).collect();
            let (reversal, function) = reversal(numbers, texts, rules);
            let entry = reversal.entry(3);
            prop_assert_eq!(Reversal::decode(&entry, &function), Ok(reversal));
            prop_assert!(entry.is_good());
            let short = Entry { body: entry.body[1..].to_vec(), ..entry };
            prop_assert!(!short.is_good());
        }

        #[test]
        fn any_bytes_are_refused_or_read_without_panic(body in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = Entry { function: 1, hour: 1, activator: 1, epoch: 1, seq: 1, body }.is_good();
        }
    }

    #[test]
    fn an_order_says_what_and_why() {
        let id = RecordId { activator: 1, epoch: 1, seq: 1, received_at_us: HOUR_US };
        let order = |reason| Order { by: "alice", reason, at: Timestamp::UNIX_EPOCH };
        assert!(check(&[id], order("a retry storm of ours")).is_ok());
        for (ids, reason) in [(0, "x"), (MAX_AT_ONCE + 1, "x"), (1, ""), (1, "  "), (1, "a\nb")] {
            assert!(check(&vec![id; ids], order(reason)).is_err(), "{ids} {reason:?}");
        }
        assert!(check(&[id], order(&"x".repeat(MAX_REASON + 1))).is_err());
        assert_eq!(cut(&"ä".repeat(200)).len(), 252);
    }
}
