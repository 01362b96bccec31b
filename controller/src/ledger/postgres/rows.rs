//! Records and sums as rows.

use super::names::Known;
use super::{Trouble, signed};
use crate::ledger::Level;
use crate::ledger::times::hour_of;
use deadpool_postgres::Transaction;
use dormouse_core::record::CallRecord;
use dormouse_core::usage::UsageSum;
use jiff::civil::Date;
use std::collections::BTreeMap;
use std::pin::pin;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::{ToSql, Type};

/// What a frame adds, in the order of its keys.
pub(super) type Sums = BTreeMap<(Level, i32, u32), UsageSum>;

/// The day that begins so many days after 1970, UTC; none behind the last one that a calendar shows.
pub(super) fn date(day: i32) -> Option<Date> {
    Date::constant(1970, 1, 1).checked_add(jiff::Span::new().days(day)).ok()
}

/// A number that its column holds; beyond 9.2 x 10^18 it is cut off, which no time or count reaches.
fn number(value: impl TryInto<i64>) -> i64 {
    value.try_into().unwrap_or(i64::MAX)
}

const COPY: &str = "COPY record (day, hour, function, subject, activator, epoch, seq, call, received_at_us, wait_us, \
    claim_us, start_us, connect_us, run_us, request_bytes, response_bytes, key, status, warm_slots, outcome, cold, first, \
    due_us, schedule, replaced) \
    FROM STDIN (FORMAT binary)";

/// Writes records; the first of them has the sequence told.
pub(super) async fn write_records(
    step: &Transaction<'_>,
    (activator, epoch, first_seq): (u64, u32, u64),
    records: &[(CallRecord, Known)],
) -> Result<(), Trouble> {
    let copy = step.prepare_cached(COPY).await?;
    let (four, eight) = (Type::INT4, Type::INT8);
    let mut types = vec![Type::DATE, four.clone(), four.clone(), four.clone()];
    types.extend(std::iter::repeat_n(eight.clone(), 13));
    types.extend([four.clone(), four, Type::INT2, Type::BOOL, Type::BOOL, eight, Type::TEXT, Type::BOOL]);
    let mut writer = pin!(BinaryCopyInWriter::new(step.copy_in(&copy).await?, &types));
    for (seq, (r, known)) in (first_seq..).zip(records) {
        let hour = i32::try_from(hour_of(r.received_at_us)).unwrap_or(i32::MAX);
        let day = Day(hour / 24);
        let numbers = [
            signed(activator),
            i64::from(epoch),
            number(seq),
            r.call as i64,
            r.received_at_us,
            number(r.wait_us),
            number(r.claim_us),
            number(r.start_us),
            number(r.connect_us),
            number(r.run_us),
            number(r.request_bytes),
            number(r.response_bytes),
            r.key as i64,
        ];
        let (status, slots, outcome) = (i32::from(r.status), i32::from(r.warm_slots), r.outcome as i16);
        let mut row: Vec<&(dyn ToSql + Sync)> = vec![&day, &hour, &known.function, &known.subject];
        row.extend(numbers.iter().map(|n| n as &(dyn ToSql + Sync)));
        row.extend([&status as &(dyn ToSql + Sync), &slots, &outcome, &r.cold, &r.first]);
        let timed = r.timed.as_ref();
        let due = timed.map(|timed| timed.due_us);
        let (schedule, replaced) = timed.map(|timed| (timed.schedule.as_str(), timed.replaced)).unzip();
        row.extend([&due as &(dyn ToSql + Sync), &schedule, &replaced]);
        writer.as_mut().write(&row).await?;
    }
    writer.finish().await?;
    Ok(())
}

/// A date as PostgreSQL writes it: days since 2000.
#[derive(Debug)]
pub(super) struct Day(pub(super) i32);

/// Days from 1970 to 2000: 30 years, 7 of them leap years.
const DAYS_TO_2000: i32 = 30 * 365 + 7;

impl ToSql for Day {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut bytes::BytesMut,
    ) -> Result<tokio_postgres::types::IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(&(self.0 - DAYS_TO_2000).to_be_bytes());
        Ok(tokio_postgres::types::IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::DATE
    }

    tokio_postgres::types::to_sql_checked!();
}

/// What is there already is added to: of a sum.
macro_rules! add_usage {
    () => {
        "ON CONFLICT (level, function, time) DO UPDATE SET cold = u.cold + excluded.cold, \
        wait_us = u.wait_us + excluded.wait_us, claim_us = u.claim_us + excluded.claim_us, \
        start_us = u.start_us + excluded.start_us, connect_us = u.connect_us + excluded.connect_us, \
        run_us = u.run_us + excluded.run_us, request_bytes = u.request_bytes + excluded.request_bytes, \
        response_bytes = u.response_bytes + excluded.response_bytes, \
        warm_mib_ms = u.warm_mib_ms + excluded.warm_mib_ms, warm_mcpu_ms = u.warm_mcpu_ms + excluded.warm_mcpu_ms, \
        warm_used_mib_ms = u.warm_used_mib_ms + excluded.warm_used_mib_ms, \
        warm_used_mcpu_ms = u.warm_used_mcpu_ms + excluded.warm_used_mcpu_ms"
    };
}
/// The same of a class of calls.
macro_rules! add_class {
    () => {
        "ON CONFLICT (level, function, time, class, step_ms, min_ms, start) DO UPDATE SET calls = u.calls + excluded.calls, \
        ms = u.ms + excluded.ms, mib_ms = u.mib_ms + excluded.mib_ms, mcpu_ms = u.mcpu_ms + excluded.mcpu_ms"
    };
}
pub(super) use {add_class, add_usage};

const USAGE: &str = concat!(
    "INSERT INTO usage AS u \
    SELECT * FROM unnest($1::int2[], $2::int4[], $3::int8[], $4::int8[], $5::int8[], $6::int8[], $7::int8[], $8::int8[], \
        $9::int8[], $10::int8[], $11::int8[], $12::int8[], $13::int8[], $14::int8[], $15::int8[]) ",
    add_usage!()
);

const CLASSES: &str = concat!(
    "INSERT INTO usage_class AS u \
    SELECT * FROM unnest($1::int2[], $2::int4[], $3::int8[], $4::int2[], $5::int8[], $6::int8[], $7::bool[], $8::int8[], \
        $9::int8[], $10::int8[], $11::int8[]) ",
    add_class!()
);

/// Columns of [`USAGE`] and [`CLASSES`].
#[derive(Default)]
struct Columns {
    level: Vec<i16>,
    function: Vec<i32>,
    time: Vec<i64>,
    class: Vec<i16>,
    start: Vec<bool>,
    numbers: Vec<Vec<i64>>,
}

impl Columns {
    fn key(&mut self, (level, function, time): &(Level, i32, u32)) {
        self.level.push(*level as i16);
        self.function.push(*function);
        self.time.push(i64::from(*time));
    }

    fn numbers(&mut self, values: &[i64]) {
        self.numbers.resize_with(values.len(), Vec::new);
        for (column, value) in self.numbers.iter_mut().zip(values) {
            column.push(*value);
        }
    }
}

/// Adds sums to what is there, in the order of their keys.
pub(super) async fn add_sums(step: &Transaction<'_>, sums: &Sums) -> Result<(), Trouble> {
    if sums.is_empty() {
        return Ok(());
    }
    let (mut usage, mut classes) = (Columns::default(), Columns::default());
    for (key, sum) in sums {
        usage.key(key);
        let w = &sum.warm;
        usage.numbers(&[
            number(sum.cold),
            number(sum.wait_us),
            number(sum.claim_us),
            number(sum.start_us),
            number(sum.connect_us),
            number(sum.run_us),
            number(sum.request_bytes),
            number(sum.response_bytes),
            number(w.mib_ms),
            number(w.mcpu_ms),
            number(w.used_mib_ms),
            number(w.used_mcpu_ms),
        ]);
        for class in &sum.classes {
            let mut row = |(step_ms, min_ms, start): (u32, u32, bool), numbers: [i64; 4]| {
                classes.key(key);
                classes.class.push(i16::from(class.class.number()));
                classes.start.push(start);
                let [calls, ms, mib_ms, mcpu_ms] = numbers;
                classes.numbers(&[i64::from(step_ms), i64::from(min_ms), calls, ms, mib_ms, mcpu_ms]);
            };
            row((0, 0, false), [number(class.calls), 0, 0, 0]);
            for (rule, time) in &class.times {
                let times = [number(time.calls), number(time.ms), number(time.mib_ms), number(time.mcpu_ms)];
                row((rule.step_ms, rule.min_ms, rule.start), times);
            }
        }
    }
    let Columns { level, function, time, numbers, .. } = &usage;
    let mut values: Vec<&(dyn ToSql + Sync)> = vec![level, function, time];
    values.extend(numbers.iter().map(|column| column as &(dyn ToSql + Sync)));
    step.execute(&step.prepare_cached(USAGE).await?, &values).await?;
    let Columns { level, function, time, class, start, numbers } = &classes;
    let [step_ms, min_ms, rest @ ..] = numbers.as_slice() else { return Ok(()) };
    let mut values: Vec<&(dyn ToSql + Sync)> = vec![level, function, time, class, step_ms, min_ms, start];
    values.extend(rest.iter().map(|column| column as &(dyn ToSql + Sync)));
    step.execute(&step.prepare_cached(CLASSES).await?, &values).await?;
    Ok(())
}
