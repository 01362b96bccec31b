//! Giving up what is kept no longer.
//!
//! Each step is a transaction. What is gone is said before the first, so that a reader never finds a part of it without
//! being told. No frame is applied during a step: of a frame, either all is there or nothing, and neither side waits for
//! rows of the other.

use super::append::partitions;
use super::closed::CLOSING;
use super::connect::Pool;
use super::rows::{Day, add_class, add_usage, date};
use super::{PostgresStore, Trouble, read, signed, unsigned};
use crate::ledger::retention::Bounds;
use crate::ledger::store::Marks;
use crate::ledger::times::today;
use deadpool_postgres::{Object, Transaction};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

/// Functions whose sums are looked through at once: by the key's order, of each only what goes.
const FUNCTIONS: usize = 64;
/// Days of hours that move at once, of so many functions: 64 x 7 x 24 rows and their classes, well within a second.
const DAYS: i64 = 7;
/// How long a day's table is waited for, in milliseconds: whoever reads through all of them holds up everybody behind us.
const PATIENCE_MS: u32 = 500;

/// Everything that there is to do.
pub(super) async fn all(store: &PostgresStore, bounds: Bounds, marks: Option<&Marks>) -> Result<(), Trouble> {
    let mut client = store.client().await?;
    let done = each(store, &mut client, bounds, marks).await;
    client.after(done)
}

/// How far epochs were applied.
pub(super) async fn marks(pool: &Pool) -> Result<Marks, Trouble> {
    let client = pool.client().await?;
    let rows = client.query("SELECT activator, epoch, watermark FROM epoch", &[]).await;
    let rows = client.after(rows.map_err(Trouble::from))?;
    let mark = |row: &Row| {
        let epoch = u32::try_from(row.get::<_, i64>(1)).map_err(|_| Trouble::Corrupt("epoch"))?;
        Ok(((unsigned(row.get(0)), epoch), row.get::<_, i64>(2).unsigned_abs()))
    };
    rows.iter().map(mark).collect()
}

async fn each(
    store: &PostgresStore,
    client: &mut Object,
    bounds: Bounds,
    marks: Option<&Marks>,
) -> Result<(), Trouble> {
    // What comes next: what waits for a lock then holds up no frame.
    let today = today().cast_signed();
    partitions(store, client, (today..=today + 2).collect()).await?;
    let values: [i64; 3] = [bounds.minute, bounds.hour, bounds.record_hour].map(i64::from);
    client.execute(GONE, &[&values[0], &values[1], &values[2]]).await?;
    store.read_gone(client).await?;
    let functions: Vec<i32> = read::all_functions(&*client).await?.iter().map(|(id, _)| id.cast_signed()).collect();
    for some in functions.chunks(FUNCTIONS) {
        while sums(client, some, values[0], values[1]).await? {}
    }
    records(store, client, bounds, marks).await?;
    if client.execute(SUBJECTS, &[&Day((bounds.record_hour / 24).cast_signed())]).await? > 0 {
        store.names.forget();
    }
    Ok(())
}

/// A part of what goes of some functions' sums; answers whether there is more of it.
async fn sums(client: &mut Object, functions: &[i32], minute: i64, hour: i64) -> Result<bool, Trouble> {
    let step = client.transaction().await?;
    step.execute("SELECT pg_advisory_xact_lock($1)", &[&CLOSING]).await?;
    for table in ["usage", "usage_class"] {
        let old = format!("DELETE FROM {table} WHERE level = 0 AND function = ANY ($1) AND time < $2");
        step.execute(&old, &[&functions, &minute]).await?;
    }
    let oldest = "SELECT min(time) FROM usage WHERE level = 1 AND function = ANY ($1) AND time < $2";
    let oldest: Option<i64> = step.query_one(oldest, &[&functions, &hour]).await?.get(0);
    let end = oldest.map_or(hour, |oldest| hour.min((oldest / 24 + DAYS) * 24));
    for days in [USAGE_DAYS, CLASS_DAYS] {
        step.execute(days, &[&functions, &end]).await?;
    }
    step.commit().await?;
    Ok(end < hour)
}

const GONE: &str = "UPDATE state SET minute = greatest(minute, $1), hour = greatest(hour, $2), \
    record_hour = greatest(record_hour, $3)";

/// Hours become days: in one statement, so that what is added to an hour meanwhile is either part of what moves, or makes
/// the hour anew. Used capacity is bounded by what there was in each hour, before they are added up.
const USAGE_DAYS: &str = concat!(
    "WITH old AS ( \
        DELETE FROM usage WHERE level = 1 AND function = ANY ($1) AND time < $2 RETURNING *) \
    INSERT INTO usage AS u SELECT 2, function, time / 24, sum(cold), sum(wait_us), sum(claim_us), sum(start_us), \
        sum(connect_us), sum(run_us), sum(request_bytes), sum(response_bytes), sum(warm_mib_ms), sum(warm_mcpu_ms), \
        sum(least(warm_used_mib_ms, warm_mib_ms)), sum(least(warm_used_mcpu_ms, warm_mcpu_ms)) \
    FROM old GROUP BY function, time / 24 ORDER BY function, time / 24 ",
    add_usage!()
);

/// The same of their classes.
const CLASS_DAYS: &str = concat!(
    "WITH old AS ( \
        DELETE FROM usage_class WHERE level = 1 AND function = ANY ($1) AND time < $2 RETURNING *) \
    INSERT INTO usage_class AS u SELECT 2, function, time / 24, class, step_ms, min_ms, start, \
        sum(calls), sum(ms), sum(mib_ms), sum(mcpu_ms) \
    FROM old GROUP BY function, time / 24, class, step_ms, min_ms, start \
    ORDER BY function, time / 24, class, step_ms, min_ms, start ",
    add_class!()
);

/// Subjects that nothing refers to, and up to when their warm time was counted.
const SUBJECTS: &str = "WITH old AS (DELETE FROM subject WHERE seen < $1 RETURNING id) \
    , counted AS (DELETE FROM warm WHERE subject IN (SELECT id FROM old)) SELECT 1 FROM old";

/// Days of records, the oldest first.
const PARTITIONS: &str = "SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
    WHERE i.inhparent = 'dormouse.record'::regclass ORDER BY c.relname";

/// Counts the records of old days, by epoch, and drops them.
async fn records(
    store: &PostgresStore,
    client: &mut Object,
    bounds: Bounds,
    marks: Option<&Marks>,
) -> Result<(), Trouble> {
    let kept = bounds.record_hour / 24;
    let first_kept = date(kept.cast_signed()).ok_or(Trouble::Corrupt("day"))?.to_string().replace('-', "_");
    let names = client.query(PARTITIONS, &[]).await?;
    let old = names
        .iter()
        .map(|row: &Row| row.get::<_, String>(0))
        .filter(|name| name.strip_prefix("record_").is_some_and(|day| day < first_kept.as_str()));
    for name in old {
        let step = client.transaction().await?;
        // Nobody adds to it from here on; who does later makes it anew. Who reads it goes on, until it is dropped.
        step.execute("SELECT pg_advisory_xact_lock($1)", &[&CLOSING]).await?;
        step.batch_execute(&format!("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = {PATIENCE_MS}")).await?;
        if let Some(marks) = marks
            && take_marked(&step, &name, marks).await?
        {
            // What came while the others were archived stays.
            step.commit().await?;
            continue;
        }
        step.batch_execute(&format!(
            "UPDATE epoch e SET forgotten = e.forgotten + r.records \
             FROM (SELECT activator, epoch, count(*) AS records FROM {name} GROUP BY activator, epoch) r \
             WHERE e.activator = r.activator AND e.epoch = r.epoch; \
             DROP TABLE {name}"
        ))
        .await?;
        step.commit().await?;
    }
    store.days.lock().retain(|day| day.cast_unsigned() >= kept);
    Ok(())
}

/// Takes what is behind the marks out of a day that has more than that; answers whether it has.
async fn take_marked(step: &Transaction<'_>, name: &str, marks: &Marks) -> Result<bool, Trouble> {
    let marks =
        marks.iter().map(|((activator, epoch), seq)| (signed(*activator), (i64::from(*epoch), seq.cast_signed())));
    let (activators, (epochs, seqs)): (Vec<i64>, (Vec<i64>, Vec<i64>)) = marks.unzip();
    let marked = "unnest($1::int8[], $2::int8[], $3::int8[]) AS m (activator, epoch, seq)";
    let behind = "m.activator = r.activator AND m.epoch = r.epoch AND r.seq <= m.seq";
    let values: [&(dyn ToSql + Sync); 3] = [&activators, &epochs, &seqs];
    let more =
        format!("SELECT EXISTS (SELECT 1 FROM {name} r WHERE NOT EXISTS (SELECT 1 FROM {marked} WHERE {behind}))");
    if !step.query_one(&more, &values).await?.get::<_, bool>(0) {
        return Ok(false);
    }
    let take = format!(
        "WITH old AS (DELETE FROM {name} r USING {marked} WHERE {behind} RETURNING r.activator, r.epoch) \
         UPDATE epoch e SET forgotten = e.forgotten + n.records \
         FROM (SELECT activator, epoch, count(*) AS records FROM old GROUP BY activator, epoch) n \
         WHERE e.activator = n.activator AND e.epoch = n.epoch"
    );
    step.execute(&take, &values).await?;
    Ok(true)
}
