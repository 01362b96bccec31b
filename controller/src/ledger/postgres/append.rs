//! A frame as one transaction.

use super::closed::{CLOSING, closed_now, hour, note_late};
use super::names::Known;
use super::rows::{self, Sums};
use super::{PostgresStore, Trouble, signed};
use crate::ledger::frame::Checked;
use crate::ledger::times::{day_of, hour_of, minute_of, today};
use crate::ledger::warm::{self, Counted};
use crate::ledger::{Appended, Level, WarmSpan};
use deadpool_postgres::{Object, Transaction};
use dormouse_core::record::CallRecord;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use tokio_postgres::error::SqlState;

/// Held while a partition is made: "days" as a number.
const PARTITIONS: i64 = 0x6461_7973;

/// Tries of a frame whose day's table goes while it comes: each time between its being made and the frame's lock, by a
/// further look at what is old. It was seen three times in a row where the looks followed each other without a pause.
const TRIES: usize = 8;

/// Applies what is new of a frame.
pub(super) async fn frame(store: &PostgresStore, frame: &Checked) -> Result<Appended, Trouble> {
    for _ in 1..TRIES {
        match once(store, frame).await {
            // Its day was given up between two looks, here or by another process: it is made anew.
            Err(Trouble::Asked(error)) if error.code() == Some(&SqlState::CHECK_VIOLATION) => {
                store.days.lock().clear();
            }
            other => return other,
        }
    }
    once(store, frame).await
}

async fn once(store: &PostgresStore, frame: &Checked) -> Result<Appended, Trouble> {
    let mut client = store.client().await?;
    let applied = apply(store, &mut client, frame).await;
    client.after(applied)
}

async fn apply(store: &PostgresStore, client: &mut Object, frame: &Checked) -> Result<Appended, Trouble> {
    let subjects = subjects(store, client, frame).await?;
    let days: BTreeSet<i32> = frame.records.iter().map(|r| day_of(r.received_at_us).cast_signed()).collect();
    partitions(store, client, days).await?;
    let step = client.transaction().await?;
    let (watermark, closed_before) = lock(&step, frame).await?;
    let new = match frame.behind(watermark) {
        Ok(new) => new_records(&step, new, &subjects).await?,
        Err(nothing) => return Ok(nothing),
    };
    rows::write_records(&step, (frame.activator, frame.epoch, watermark + 1), &new).await?;
    let (mut sums, mut late) = (Sums::default(), BTreeSet::new());
    for (record, known) in &new {
        let at = record.received_at_us;
        if hour_of(at) < closed_before {
            late.insert((known.function, hour_of(at)));
        }
        for (level, time) in [(Level::Minute, minute_of(at)), (Level::Hour, hour_of(at))] {
            sums.entry((level, known.function, time)).or_default().add(record, known.size, &store.rules);
        }
    }
    rows::add_sums(&step, &sums).await?;
    note_late(&step, late).await?;
    let set = step.prepare_cached("UPDATE epoch SET watermark = $3 WHERE activator = $1 AND epoch = $2").await?;
    step.execute(&set, &[&signed(frame.activator), &i64::from(frame.epoch), &(frame.last() as i64)]).await?;
    step.commit().await?;
    Ok(frame.applied())
}

/// What the frame's subject numbers mean; only of those that a record names.
async fn subjects(store: &PostgresStore, client: &Object, frame: &Checked) -> Result<Vec<Option<Known>>, Trouble> {
    let (today, mut days) = (today(), vec![None; frame.subjects.len()]);
    for record in &frame.records {
        let day = &mut days[record.subject as usize];
        *day = (*day).max(Some(day_of(record.received_at_us).max(today)));
    }
    let mut known = vec![None; days.len()];
    for (at, day) in days.into_iter().enumerate() {
        if let Some(day) = day {
            known[at] = Some(store.names.of(client, &frame.subjects[at], day).await?);
        }
    }
    Ok(known)
}

/// Makes sure that each of the days has its partition. It is made beside the table and then attached, which holds up neither
/// readers nor writers.
pub(super) async fn partitions(store: &PostgresStore, client: &mut Object, days: BTreeSet<i32>) -> Result<(), Trouble> {
    let missing: Vec<i32> = days.into_iter().filter(|day| !store.days.lock().contains(day)).collect();
    for day in missing {
        let from = rows::date(day).ok_or(Trouble::Corrupt("day"))?.to_string();
        let to = rows::date(day + 1).map_or("MAXVALUE".to_owned(), |day| format!("'{day}'"));
        let name = format!("record_{}", from.replace('-', "_"));
        let step = client.transaction().await?;
        // One process at a time, each day once.
        step.execute("SELECT pg_advisory_xact_lock($1)", &[&PARTITIONS]).await?;
        let there = step.query_one("SELECT to_regclass($1) IS NOT NULL", &[&name]).await?;
        if !there.get::<_, bool>(0) {
            step.batch_execute(&format!(
                "SET LOCAL lock_timeout = '5s';
                 CREATE TABLE {name} (LIKE record INCLUDING DEFAULTS);
                 ALTER TABLE record ATTACH PARTITION {name} FOR VALUES FROM ('{from}') TO ({to})"
            ))
            .await?;
        }
        step.commit().await?;
        store.days.lock().insert(day);
    }
    Ok(())
}

const EPOCH: &str = "INSERT INTO epoch (activator, epoch, watermark) \
    SELECT $1::int8, $2::int8, 0 FROM pg_advisory_xact_lock_shared($3) ON CONFLICT DO NOTHING";
const WATERMARK: &str = "SELECT e.watermark, s.closed_before FROM epoch e, state s \
    WHERE e.activator = $1 AND e.epoch = $2 FOR UPDATE OF e";

/// The epoch's watermark, which nobody else moves until the transaction is over, and before which hour months are closed,
/// which stays as it is until then.
async fn lock(step: &Transaction<'_>, frame: &Checked) -> Result<(u64, u32), Trouble> {
    let (activator, epoch) = (signed(frame.activator), i64::from(frame.epoch));
    step.execute(&step.prepare_cached(EPOCH).await?, &[&activator, &epoch, &CLOSING]).await?;
    let row = step.query_one(&step.prepare_cached(WATERMARK).await?, &[&activator, &epoch]).await?;
    Ok((row.get::<_, i64>(0).unsigned_abs(), hour(&row, 1)?))
}

const START: &str = "UPDATE subject SET started = true WHERE id IN ( \
        SELECT id FROM subject WHERE id = ANY ($1) AND NOT started ORDER BY id FOR UPDATE) \
    RETURNING id";

/// The records with their subjects; of those that say that they were the first on an instance, only one for each is.
async fn new_records(
    step: &Transaction<'_>,
    records: &[CallRecord],
    subjects: &[Option<Known>],
) -> Result<Vec<(CallRecord, Known)>, Trouble> {
    let known = |record: &CallRecord| subjects[record.subject as usize].ok_or(Trouble::Corrupt("subject"));
    let mut firsts = BTreeSet::new();
    for record in records.iter().filter(|record| record.first) {
        firsts.insert(known(record)?.subject);
    }
    let mut started: HashSet<i32> = HashSet::new();
    if !firsts.is_empty() {
        // All at once and in one order, so that no two frames wait for each other.
        let firsts: Vec<i32> = firsts.into_iter().collect();
        let rows = step.query(&step.prepare_cached(START).await?, &[&firsts]).await?;
        started = rows.iter().map(|row| row.get(0)).collect();
    }
    let new = records.iter().map(|record| {
        let known = known(record)?;
        let first = record.first && started.remove(&known.subject);
        Ok((CallRecord { first, ..*record }, known))
    });
    new.collect()
}

/// Counts warm time that was not counted.
pub(super) async fn keep_warm(store: &PostgresStore, spans: &[WarmSpan]) -> Result<(), Trouble> {
    let mut client = store.client().await?;
    let kept = count_warm(store, &mut client, spans).await;
    client.after(kept)
}

const WARM_NEW: &str = "INSERT INTO warm (subject) SELECT unnest($1::int4[]) FROM pg_advisory_xact_lock_shared($2) \
    ON CONFLICT DO NOTHING";
const WARM_LOCK: &str = "SELECT subject, until_us, open FROM warm WHERE subject = ANY ($1) ORDER BY subject FOR UPDATE";
const WARM_SET: &str = "UPDATE warm w SET until_us = n.until_us, open = n.open \
    FROM unnest($1::int4[], $2::int8[], $3::bool[]) AS n (subject, until_us, open) WHERE w.subject = n.subject";

async fn count_warm(store: &PostgresStore, client: &mut Object, spans: &[WarmSpan]) -> Result<(), Trouble> {
    let mut known = Vec::with_capacity(spans.len());
    for span in spans {
        let day = day_of(span.to_us).max(today());
        known.push((store.names.of(client, &span.subject, day).await?, span));
    }
    let subjects: BTreeSet<i32> = known.iter().map(|(known, _)| known.subject).collect();
    // All at once and in one order, so that no two writers wait for each other.
    let subjects: Vec<i32> = subjects.into_iter().collect();
    let step = client.transaction().await?;
    step.execute(&step.prepare_cached(WARM_NEW).await?, &[&subjects, &CLOSING]).await?;
    let closed_before = closed_now(step.client()).await?.before;
    let rows = step.query(&step.prepare_cached(WARM_LOCK).await?, &[&subjects]).await?;
    let mut counted: BTreeMap<i32, Counted> =
        rows.iter().map(|row| (row.get(0), Counted { until_us: row.get(1), open: row.get(2) })).collect();
    let (mut sums, mut late) = (Sums::default(), BTreeSet::new());
    for (known, span) in known {
        let counted = counted.entry(known.subject).or_default();
        let Some((from_us, now)) = span.count(*counted) else { continue };
        *counted = now;
        for (level, time, warm) in warm::rows(from_us, span.to_us, known.size) {
            sums.entry((level, known.function, time)).or_default().warm.merge(&warm);
            if level == Level::Hour && time < closed_before {
                late.insert((known.function, time));
            }
        }
    }
    let until: Vec<i64> = counted.values().map(|counted| counted.until_us).collect();
    let open: Vec<bool> = counted.values().map(|counted| counted.open).collect();
    let subjects: Vec<i32> = counted.into_keys().collect();
    step.execute(&step.prepare_cached(WARM_SET).await?, &[&subjects, &until, &open]).await?;
    rows::add_sums(&step, &sums).await?;
    note_late(&step, late).await?;
    step.commit().await?;
    Ok(())
}
