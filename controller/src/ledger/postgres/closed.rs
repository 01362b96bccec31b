//! Closed months: what was told of them, and what came to them late.

use super::connect::Pool;
use super::{Trouble, signed, unsigned};
use crate::ledger::Month;
use crate::ledger::reversals::Entry;
use crate::ledger::store::Closed;
use deadpool_postgres::Transaction;
use std::collections::{BTreeSet, HashSet};
use std::ops::Range;
use tokio_postgres::{Client, Row};

/// Held, shared, by who applies something, and alone by who closes months: "closed" as a number. What is applied before
/// the months are closed is seen by who tells of them, and what is applied behind that is noted as late.
pub(super) const CLOSING: i64 = 0x636c_6f73_6564;

/// Moves the bounds.
pub(super) async fn close(pool: &Pool, closed: Closed) -> Result<(), Trouble> {
    let mut client = pool.client().await?;
    let moved = async {
        let step = client.transaction().await?;
        step.execute("SELECT pg_advisory_xact_lock($1)", &[&CLOSING]).await?;
        let bounds = [closed.before, closed.told_before].map(i64::from);
        let set =
            "UPDATE state SET closed_before = greatest(closed_before, $1), told_before = greatest(told_before, $2)";
        step.execute(set, &[&bounds[0], &bounds[1]]).await?;
        Ok(step.commit().await?)
    };
    let moved = moved.await;
    client.after(moved)
}

/// What is closed.
pub(super) async fn closed(pool: &Pool) -> Result<Closed, Trouble> {
    let client = pool.client().await?;
    let closed = closed_now(&client).await;
    client.after(closed)
}

/// The same, by a connection; while [`CLOSING`] is held it stays so.
pub(super) async fn closed_now(client: &Client) -> Result<Closed, Trouble> {
    let row = client.query_one("SELECT closed_before, told_before FROM state", &[]).await?;
    Ok(Closed { before: hour(&row, 0)?, told_before: hour(&row, 1)? })
}

pub(super) fn hour(row: &Row, at: usize) -> Result<u32, Trouble> {
    u32::try_from(row.get::<_, i64>(at)).map_err(|_| Trouble::Corrupt("note of what is closed"))
}

/// Notes what came late, each function and hour of it.
pub(super) async fn note_late(step: &Transaction<'_>, late: BTreeSet<(i32, u32)>) -> Result<(), Trouble> {
    if late.is_empty() {
        return Ok(());
    }
    let months: BTreeSet<(i32, Month)> =
        late.into_iter().map(|(function, hour)| (function, Month::of_hour(hour))).collect();
    let (functions, months): (Vec<i32>, Vec<i64>) =
        months.into_iter().map(|(function, month)| (function, i64::from(month.number()))).unzip();
    let note = "INSERT INTO late SELECT * FROM unnest($1::int4[], $2::int8[]) ON CONFLICT DO NOTHING";
    step.execute(&step.prepare_cached(note).await?, &[&functions, &months]).await?;
    Ok(())
}

/// What came late.
pub(super) async fn late(pool: &Pool) -> Result<Vec<(u32, Month)>, Trouble> {
    let client = pool.client().await?;
    let rows = client.query("SELECT function, month FROM late ORDER BY function, month", &[]).await;
    let rows = client.after(rows.map_err(Trouble::from))?;
    rows.iter().map(|row| Ok((row.get::<_, i32>(0).cast_unsigned(), month(row, 1)?))).collect()
}

pub(super) fn month(row: &Row, at: usize) -> Result<Month, Trouble> {
    let number = u32::try_from(row.get::<_, i64>(at)).ok();
    number.and_then(Month::numbered).ok_or(Trouble::Corrupt("month"))
}

const REVERSE: &str = "INSERT INTO reversal \
    SELECT * FROM unnest($1::int4[], $2::int8[], $3::int8[], $4::int8[], $5::int8[], $6::bytea[]) \
    ON CONFLICT DO NOTHING RETURNING function, hour, activator, epoch, seq";

/// Keeps what says that records are taken back, of each the first.
pub(super) async fn reverse(pool: &Pool, entries: &[Entry]) -> Result<Vec<bool>, Trouble> {
    let mut client = pool.client().await?;
    let kept = async {
        let step = client.transaction().await?;
        step.execute("SELECT pg_advisory_xact_lock_shared($1)", &[&CLOSING]).await?;
        let closed_before = closed_now(step.client()).await?.before;
        let of = |number: fn(&Entry) -> i64| entries.iter().map(number).collect::<Vec<i64>>();
        let functions: Vec<i32> = entries.iter().map(|entry| entry.function.cast_signed()).collect();
        let (hours, activators) = (of(|e| e.hour.into()), of(|e| signed(e.activator)));
        let (epochs, seqs) = (of(|e| e.epoch.into()), of(|e| e.seq.cast_signed()));
        let bodies: Vec<&[u8]> = entries.iter().map(|entry| &*entry.body).collect();
        let rows = step.query(REVERSE, &[&functions, &hours, &activators, &epochs, &seqs, &bodies]).await?;
        let mut new = rows.iter().map(|row| entry(row, Vec::new())).collect::<Result<HashSet<_>, _>>()?;
        let late = new.iter().filter(|entry| entry.hour < closed_before);
        let late = late.map(|entry| (entry.function.cast_signed(), entry.hour)).collect();
        note_late(&step, late).await?;
        step.commit().await?;
        // One that is named twice is new once.
        Ok(entries.iter().map(|entry| new.remove(&Entry { body: Vec::new(), ..entry.clone() })).collect())
    };
    let kept = kept.await;
    client.after(kept)
}

/// What was kept of functions in a period.
pub(super) async fn reversals(pool: &Pool, functions: &[u32], hours: &Range<u32>) -> Result<Vec<Entry>, Trouble> {
    let client = pool.client().await?;
    let of = "SELECT function, hour, activator, epoch, seq, body FROM reversal \
        WHERE function = ANY ($1) AND hour >= $2 AND hour < $3 ORDER BY function, hour, activator, epoch, seq";
    let functions: Vec<i32> = functions.iter().map(|function| function.cast_signed()).collect();
    let rows = client.query(of, &[&functions, &i64::from(hours.start), &i64::from(hours.end)]).await;
    let rows = client.after(rows.map_err(Trouble::from))?;
    rows.iter().map(|row| entry(row, row.get(5))).collect()
}

/// One from the columns of its key.
pub(super) fn entry(row: &Row, body: Vec<u8>) -> Result<Entry, Trouble> {
    let small = |at: usize| u32::try_from(row.get::<_, i64>(at)).map_err(|_| Trouble::Corrupt("reversal"));
    Ok(Entry {
        function: row.get::<_, i32>(0).cast_unsigned(),
        hour: small(1)?,
        activator: unsigned(row.get(2)),
        epoch: small(3)?,
        seq: row.get::<_, i64>(4).cast_unsigned(),
        body,
    })
}

/// Keeps a document, if there is none.
pub(super) async fn keep_document(pool: &Pool, tenant: &str, month: Month, document: &[u8]) -> Result<(), Trouble> {
    let client = pool.client().await?;
    let keep = "INSERT INTO statement VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
    let kept = client.execute(keep, &[&tenant, &i64::from(month.number()), &document]).await;
    client.after(kept.map_err(Trouble::from))?;
    Ok(())
}

/// A tenant's documents.
pub(super) async fn documents(pool: &Pool, tenant: &str) -> Result<Vec<(Month, Vec<u8>)>, Trouble> {
    let client = pool.client().await?;
    let all = "SELECT month, document FROM statement WHERE tenant = $1 ORDER BY month";
    let rows = client.query(all, &[&tenant]).await;
    let rows = client.after(rows.map_err(Trouble::from))?;
    rows.iter().map(|row| Ok((month(row, 0)?, row.get(1)))).collect()
}
