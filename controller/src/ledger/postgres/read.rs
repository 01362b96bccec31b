//! What is asked of the database.

use super::connect::Pool;
use super::{Trouble, signed, unsigned};
use crate::ledger::retention::Bounds;
use crate::ledger::store::Scan;
use crate::ledger::times::hour_of;
use crate::ledger::{Conservation, FunctionId, Page, RecordKey, RecordRow};
use deadpool_postgres::{GenericClient, Object};
use dormouse_core::RequestId;
use dormouse_core::record::{CallRecord, Outcome, Timed, Word};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, IsolationLevel, Row};

/// Hours that are looked through for one page of records.
const HOURS: i64 = 512;

/// Every function.
pub(super) async fn functions(pool: &Pool) -> Result<Vec<(u32, FunctionId)>, Trouble> {
    let client = pool.client().await?;
    let all = all_functions(&*client).await;
    client.after(all)
}

pub(super) async fn all_functions(client: &impl GenericClient) -> Result<Vec<(u32, FunctionId)>, Trouble> {
    let all = client.prepare_cached("SELECT id, uid, namespace, name, tenant FROM function").await?;
    let rows = client.query(&all, &[]).await?;
    let function = |row: &Row| {
        let id = FunctionId { uid: row.get(1), namespace: row.get(2), name: row.get(3), tenant: row.get(4) };
        (row.get::<_, i32>(0).unsigned_abs(), id)
    };
    Ok(rows.iter().map(function).collect())
}

/// Hours with records: those that have sums, and of the days that have no hours any longer, those that still have records.
const BUSY: &str = "SELECT time FROM usage \
    WHERE level = 1 AND time >= $1 AND time < $2 AND ($3::int4[] IS NULL OR function = ANY ($3)) \
    UNION SELECT hour FROM record \
    WHERE day < $5 AND hour >= $1 AND hour < $2 AND ($3::int4[] IS NULL OR function = ANY ($3)) ORDER BY 1 LIMIT $4";

/// What [`plain_record`] reads.
macro_rules! record_columns {
    () => {
        "r.activator, r.epoch, r.seq, r.call, r.received_at_us, r.wait_us, r.claim_us, r.start_us, r.connect_us, r.run_us, \
         r.request_bytes, r.response_bytes, r.key, r.status, r.warm_slots, r.outcome, r.cold, r.first, r.subject, \
         r.due_us, r.schedule, r.replaced"
    };
}

/// The records of a day as each epoch wrote them.
pub(super) const DAY_RECORDS: &str =
    concat!("SELECT ", record_columns!(), " FROM record r WHERE r.day = $1 ORDER BY r.activator, r.epoch, r.seq");

const RECORDS: &str = concat!(
    "SELECT ",
    record_columns!(),
    ", s.memory_mib, s.cpu_millis, s.revision, s.instance, f.uid, f.namespace, f.name, f.tenant \
    FROM record r JOIN subject s ON s.id = r.subject JOIN function f ON f.id = r.function \
    WHERE r.day = $1 AND r.hour = $2 AND r.received_at_us >= $3 AND r.received_at_us < $4 \
        AND ($5::int4[] IS NULL OR r.function = ANY ($5)) \
        AND ($6::int8 IS NULL OR (r.activator, r.epoch, r.seq) > ($6, $7, $8)) \
    ORDER BY r.activator, r.epoch, r.seq LIMIT $9"
);

/// See [`crate::ledger::store::Store::records`].
pub(super) async fn records(pool: &Pool, scan: &Scan, gone: Bounds) -> Result<Page<RecordRow, RecordKey>, Trouble> {
    let client = pool.client().await?;
    let page = page(&client, scan, gone).await;
    client.after(page)
}

async fn page(client: &Object, scan: &Scan, gone: Bounds) -> Result<Page<RecordRow, RecordKey>, Trouble> {
    let functions: Option<Vec<i32>> =
        scan.functions.as_ref().map(|all| all.iter().map(|number| number.cast_signed()).collect());
    let from = i64::from(scan.after.map_or_else(|| hour_of(scan.times_us.start), |after| after.hour));
    let to = i64::from(hour_of(scan.times_us.end - 1)) + 1;
    let hours_from = super::rows::Day((gone.hour / 24).cast_signed());
    let busy =
        client.query(&client.prepare_cached(BUSY).await?, &[&from, &to, &functions, &HOURS, &hours_from]).await?;
    let records = client.prepare_cached(RECORDS).await?;
    let mut rows: Vec<RecordRow> = Vec::new();
    for hour in busy.iter().filter_map(|row| i32::try_from(row.get::<_, i64>(0)).ok()) {
        let after = scan.after.filter(|after| after.hour.cast_signed() == hour);
        let [activator, epoch, seq] = match after {
            Some(key) => [signed(key.activator), i64::from(key.epoch), key.seq.cast_signed()].map(Some),
            None => [None; 3],
        };
        // One row more than asked for tells that there are more.
        let room = i64::try_from(scan.limit + 1 - rows.len()).unwrap_or(i64::MAX);
        let day = super::rows::Day(hour / 24);
        let (start, end) = (scan.times_us.start, scan.times_us.end);
        let values: [&(dyn ToSql + Sync); 9] = [&day, &hour, &start, &end, &functions, &activator, &epoch, &seq, &room];
        for row in client.query(&records, &values).await? {
            rows.push(record(&row, hour.cast_unsigned())?);
        }
        if rows.len() > scan.limit {
            rows.truncate(scan.limit);
            let next = rows.last().map(|row| row.key);
            return Ok(Page { rows, next });
        }
    }
    let looked_at_all = (busy.len() as i64) < HOURS;
    let last = busy.last().and_then(|row| u32::try_from(row.get::<_, i64>(0)).ok());
    let behind =
        |hour| RecordKey { hour, activator: u64::MAX, epoch: u32::MAX, block: 0, seq: i64::MAX.cast_unsigned() };
    Ok(Page { rows, next: last.filter(|_| !looked_at_all).map(behind) })
}

/// A row that begins with [`record_columns`]: activator, epoch, sequence and what was used.
pub(super) fn plain_record(row: &Row) -> Result<(u64, u32, u64, CallRecord), Trouble> {
    let corrupt = || Trouble::Corrupt("record");
    let n = |at: usize| row.get::<_, i64>(at).unsigned_abs();
    let short = |at: usize| u16::try_from(row.get::<_, i32>(at)).map_err(|_| corrupt());
    let outcome = usize::try_from(row.get::<_, i16>(15)).ok().and_then(|n| Outcome::ALL.get(n).copied());
    let timed = match (row.get(19), row.get::<_, Option<&str>>(20), row.get(21)) {
        (Some(due_us), Some(schedule), Some(replaced)) => {
            let schedule = Word::new(schedule.as_bytes()).ok_or_else(corrupt)?;
            Some(Timed { due_us, schedule, replaced })
        }
        _ => None,
    };
    let record = CallRecord {
        subject: row.get::<_, i32>(18).cast_unsigned(),
        call: row.get::<_, i64>(3).cast_unsigned(),
        received_at_us: row.get(4),
        wait_us: n(5),
        claim_us: n(6),
        start_us: n(7),
        connect_us: n(8),
        run_us: n(9),
        request_bytes: n(10),
        response_bytes: n(11),
        status: short(13)?,
        outcome: outcome.ok_or_else(corrupt)?,
        cold: row.get(16),
        first: row.get(17),
        warm_slots: short(14)?,
        key: row.get::<_, i64>(12).cast_unsigned(),
        timed,
    };
    let epoch = u32::try_from(row.get::<_, i64>(1)).map_err(|_| corrupt())?;
    Ok((unsigned(row.get(0)), epoch, n(2), record))
}

fn record(row: &Row, hour: u32) -> Result<RecordRow, Trouble> {
    let small = |at: usize| u32::try_from(row.get::<_, i64>(at)).map_err(|_| Trouble::Corrupt("record"));
    let (activator, epoch, seq, record) = plain_record(row)?;
    let function = FunctionId { uid: row.get(26), namespace: row.get(27), name: row.get(28), tenant: row.get(29) };
    Ok(RecordRow {
        key: RecordKey { hour, activator, epoch, block: 0, seq },
        request_id: RequestId { activator, epoch, call: record.call },
        subject: function.subject((small(22)?, small(23)?), row.get(24), row.get(25)),
        record,
    })
}

const EPOCHS: &str = "SELECT e.activator, e.epoch, e.watermark, count(r.seq), coalesce(min(r.seq), 1), \
        coalesce(max(r.seq), 0), count(DISTINCT r.seq), e.forgotten \
    FROM epoch e LEFT JOIN record r ON r.activator = e.activator AND r.epoch = e.epoch \
    GROUP BY e.activator, e.epoch, e.watermark, e.forgotten";
const COUNTED: &str = "SELECT coalesce(sum(calls), 0)::bigint FROM usage_class WHERE level IN (1, 2) AND step_ms = 0";

/// Counts everything, as it was at one moment.
pub(super) async fn verify(pool: &Pool) -> Result<Conservation, Trouble> {
    let mut client = pool.client().await?;
    let found = count(&mut client).await;
    client.after(found)
}

async fn count(client: &mut Client) -> Result<Conservation, Trouble> {
    let step = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true);
    let step = step.start().await?;
    // It may take longer than any question may.
    step.batch_execute("SET LOCAL statement_timeout = 0").await?;
    let mut found = Conservation::default();
    for row in step.query(EPOCHS, &[]).await? {
        let [watermark, records, first, last, distinct, forgotten] =
            [2, 3, 4, 5, 6, 7].map(|at| row.get::<_, i64>(at).unsigned_abs());
        found.epochs += 1;
        found.by_watermark += watermark;
        found.by_record += records + forgotten;
        let whole = first >= 1 && last <= watermark && distinct == records && records + forgotten == watermark;
        if !whole {
            let of = format!("activator {:016x}, epoch {}", unsigned(row.get(0)), row.get::<_, i64>(1));
            let is = format!(
                "{records} records, {distinct} different ones from {first} to {last}, {forgotten} forgotten, watermark {watermark}"
            );
            found.fault.get_or_insert(format!("{of}: {is}"));
        }
    }
    found.by_sum = step.query_one(COUNTED, &[]).await?.get::<_, i64>(0).unsigned_abs();
    Ok(found)
}
