//! The whole schema as items, and back.

use super::append::partitions;
use super::names::Known;
use super::read::{self, all_functions};
use super::rows::{self, Day, Sums};
use super::sums;
use super::{PostgresStore, Trouble, closed, signed, unsigned};
use crate::ledger::FunctionId;
use crate::ledger::codec::StoredSubject;
use crate::ledger::reversals::Entry;
use crate::ledger::times::day_of;
use crate::ledger::transfer::{Item, QUEUE, RECORDS, SubjectItem, Summary};
use crate::ledger::warm::Counted;
use deadpool_postgres::Transaction;
use dormouse_core::record::CallRecord;
use futures::TryStreamExt;
use std::collections::{BTreeSet, HashMap};
use std::pin::pin;
use tokio::sync::mpsc;
use tokio_postgres::types::ToSql;
use tokio_postgres::{IsolationLevel, Row};

/// What is asked, and what item each row of the answer is.
type Question = (&'static str, fn(&Row) -> Result<Item, Trouble>);

/// A whole ledger takes longer than any question may, and waits for a file.
const NO_LIMITS: &str = "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0";

/// Rows of sums that are written at once.
const SUMS: usize = 1_000;

/// Gives everything as it was at one moment; ends early, and well, when nobody takes it.
pub(super) async fn dump(store: &PostgresStore, items: &mpsc::Sender<Item>) -> Result<(), Trouble> {
    let mut client = store.pool.client().await?;
    let dumped = async {
        let step = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true);
        let step = step.start().await?;
        // It may take longer than any question may.
        step.batch_execute(NO_LIMITS).await?;
        all(&step, items).await
    };
    let dumped = dumped.await;
    client.after(dumped)
}

async fn all(step: &Transaction<'_>, items: &mpsc::Sender<Item>) -> Result<(), Trouble> {
    let (gone, closed) = (super::gone(step.client()).await?, closed::closed_now(step.client()).await?);
    let mut first = vec![Item::State { gone, closed }];
    let mut functions = all_functions(step).await?;
    functions.sort_unstable_by_key(|(number, _)| *number);
    first.extend(functions.into_iter().map(|(number, id)| Item::Function(number, id)));
    for item in first {
        if items.send(item).await.is_err() {
            return Ok(());
        }
    }
    let plain: [Question; 2] = [(SUBJECTS, subject), (EPOCHS, epoch)];
    let last: [Question; 3] = [(LATE, late), (REVERSALS, reversal), (DOCUMENTS, document)];
    for (question, item) in plain {
        give(step, question, item, items).await?;
    }
    records(step, items).await?;
    sums::all_sums(step, items).await?;
    for (question, item) in last {
        give(step, question, item, items).await?;
    }
    Ok(())
}

/// Gives every row of an answer as an item.
async fn give(
    step: &Transaction<'_>,
    question: &str,
    item: fn(&Row) -> Result<Item, Trouble>,
    items: &mpsc::Sender<Item>,
) -> Result<(), Trouble> {
    let mut rows = pin!(step.query_raw(question, std::iter::empty::<&(dyn ToSql + Sync)>()).await?);
    while let Some(row) = rows.try_next().await? {
        if items.send(item(&row)?).await.is_err() {
            break;
        }
    }
    Ok(())
}

const SUBJECTS: &str = "SELECT s.id, s.function, s.memory_mib, s.cpu_millis, s.revision, s.instance, s.started, \
        s.seen - date '1970-01-01', w.until_us, w.open \
    FROM subject s LEFT JOIN warm w ON w.subject = s.id ORDER BY s.id";

fn subject(row: &Row) -> Result<Item, Trouble> {
    let small = |at: usize| u32::try_from(row.get::<_, i64>(at)).map_err(|_| Trouble::Corrupt("subject"));
    let subject = StoredSubject {
        function: row.get::<_, i32>(1).cast_unsigned(),
        memory_mib: small(2)?,
        cpu_millis: small(3)?,
        revision: row.get(4),
        instance: row.get(5),
    };
    let warm = row.get::<_, Option<i64>>(8).zip(row.get(9)).map(|(until_us, open)| Counted { until_us, open });
    let (number, seen) = (row.get::<_, i32>(0).cast_unsigned(), row.get::<_, i32>(7).cast_unsigned());
    Ok(Item::Subject(SubjectItem { number, subject, started: row.get(6), seen, warm }))
}

const EPOCHS: &str = "SELECT activator, epoch, watermark, forgotten FROM epoch ORDER BY activator, epoch";

fn epoch(row: &Row) -> Result<Item, Trouble> {
    let epoch = u32::try_from(row.get::<_, i64>(1)).map_err(|_| Trouble::Corrupt("epoch"))?;
    let [watermark, forgotten] = [2, 3].map(|at| row.get::<_, i64>(at).unsigned_abs());
    Ok(Item::Epoch { activator: unsigned(row.get(0)), epoch, watermark, forgotten })
}

const LATE: &str = "SELECT function, month FROM late ORDER BY function, month";

fn late(row: &Row) -> Result<Item, Trouble> {
    Ok(Item::Late { function: row.get::<_, i32>(0).cast_unsigned(), month: closed::month(row, 1)? })
}

const REVERSALS: &str = "SELECT function, hour, activator, epoch, seq, body FROM reversal \
    ORDER BY function, hour, activator, epoch, seq";

fn reversal(row: &Row) -> Result<Item, Trouble> {
    Ok(Item::Reversal(closed::entry(row, row.get(5))?))
}

const DOCUMENTS: &str = "SELECT tenant, month, document FROM statement ORDER BY tenant, month";

fn document(row: &Row) -> Result<Item, Trouble> {
    Ok(Item::Document { tenant: row.get(0), month: closed::month(row, 1)?, document: row.get(2) })
}

/// Gives records day by day, those that follow each other together.
async fn records(step: &Transaction<'_>, items: &mpsc::Sender<Item>) -> Result<(), Trouble> {
    let days = step.query("SELECT DISTINCT day - date '1970-01-01' FROM record ORDER BY 1", &[]).await?;
    for day in &days {
        let day = Day(day.get::<_, i32>(0));
        let mut rows = pin!(step.query_raw(read::DAY_RECORDS, [&day as &(dyn ToSql + Sync)]).await?);
        let mut run: Option<(u64, u32, u64, Vec<CallRecord>)> = None;
        while let Some(row) = rows.try_next().await? {
            let (activator, epoch, seq, record) = read::plain_record(&row)?;
            let goes_on = run.as_ref().is_some_and(|(a, e, first, records)| {
                (*a, *e, first + records.len() as u64) == (activator, epoch, seq) && records.len() < RECORDS
            });
            match &mut run {
                Some((.., records)) if goes_on => records.push(record),
                _ => {
                    if let Some((activator, epoch, first_seq, records)) =
                        run.replace((activator, epoch, seq, vec![record]))
                        && items.send(Item::Records { activator, epoch, first_seq, records }).await.is_err()
                    {
                        return Ok(());
                    }
                }
            }
        }
        if let Some((activator, epoch, first_seq, records)) = run
            && items.send(Item::Records { activator, epoch, first_seq, records }).await.is_err()
        {
            return Ok(());
        }
    }
    Ok(())
}

/// Takes everything in one transaction: all or nothing.
pub(super) async fn restore(store: &PostgresStore, items: mpsc::Receiver<Item>) -> Result<(), Trouble> {
    let mut client = store.client().await?;
    let restored = async {
        let step = client.transaction().await?;
        step.batch_execute(NO_LIMITS).await?;
        let taken = take_all(store, &step, items).await?;
        // What is there now must be what came, before it counts.
        if count(&step).await? != taken {
            return Err(Trouble::Corrupt("file: what is there is not what is in it"));
        }
        Ok(step.commit().await?)
    };
    let restored = restored.await;
    client.after(restored)?;
    store.names.forget();
    store.look().await
}

/// What there is.
async fn count(step: &Transaction<'_>) -> Result<Summary, Trouble> {
    let (items, mut given) = mpsc::channel(QUEUE);
    let counted = async {
        let mut found = Summary::default();
        while let Some(item) = given.recv().await {
            found.count(&item);
        }
        found
    };
    let dumped = async {
        let items = items;
        all(step, &items).await
    };
    let (dumped, found) = tokio::join!(dumped, counted);
    dumped.map(|()| found)
}

async fn take_all(
    store: &PostgresStore,
    step: &Transaction<'_>,
    mut items: mpsc::Receiver<Item>,
) -> Result<Summary, Trouble> {
    let (mut sums, mut subjects, mut taken) = (Sums::default(), HashMap::new(), Summary::default());
    loop {
        let item = items.recv().await.ok_or(Trouble::Corrupt("file: it ended early"))?;
        taken.count(&item);
        match item {
            Item::End => break,
            Item::Sum { level, function, time, sum } => {
                sums.insert((level, function.cast_signed(), time), sum);
                if sums.len() >= SUMS {
                    rows::add_sums(step, &std::mem::take(&mut sums)).await?;
                }
            }
            Item::Records { activator, epoch, first_seq, records } => {
                let days: BTreeSet<i32> = records.iter().map(|r| day_of(r.received_at_us).cast_signed()).collect();
                // Where there is none yet it is made beside: the transaction sees it.
                let mut beside = store.pool.client().await?;
                let made = partitions(store, &mut beside, days).await;
                beside.after(made)?;
                let known = records.into_iter().map(|record| {
                    let known = subjects.get(&record.subject).copied();
                    known.map(|known| (record, known)).ok_or(Trouble::Corrupt("subject of a record"))
                });
                rows::write_records(step, (activator, epoch, first_seq), &known.collect::<Result<Vec<_>, _>>()?)
                    .await?;
            }
            other => one(step, other, &mut subjects).await?,
        }
    }
    rows::add_sums(step, &sums).await?;
    // The next new one has a number of its own.
    for table in ["function", "subject"] {
        let next = format!(
            "SELECT setval(pg_get_serial_sequence('dormouse.{table}', 'id'), coalesce(max(id), 0) + 1, false) FROM {table}"
        );
        step.query(&next, &[]).await?;
    }
    Ok(taken)
}

/// Takes what there is little of, row by row.
async fn one(step: &Transaction<'_>, item: Item, subjects: &mut HashMap<u32, Known>) -> Result<(), Trouble> {
    let write = async |statement: &str, values: &[&(dyn ToSql + Sync)]| {
        step.execute(&step.prepare_cached(statement).await?, values).await.map(drop)
    };
    match item {
        Item::State { gone, closed } => {
            let all = [gone.minute, gone.hour, gone.record_hour, closed.before, closed.told_before].map(i64::from);
            let set = "UPDATE state SET minute = $1, hour = $2, record_hour = $3, closed_before = $4, told_before = $5";
            write(set, &[&all[0], &all[1], &all[2], &all[3], &all[4]]).await?;
        }
        Item::Function(number, FunctionId { uid, namespace, name, tenant }) => {
            let new = "INSERT INTO function (id, uid, namespace, name, tenant) OVERRIDING SYSTEM VALUE \
                VALUES ($1, $2, $3, $4, $5)";
            write(new, &[&number.cast_signed(), &uid, &namespace, &name, &tenant]).await?;
        }
        Item::Subject(SubjectItem { number, subject, started, seen, warm }) => {
            let StoredSubject { function, memory_mib, cpu_millis, revision, instance } = subject;
            let (id, function) = (number.cast_signed(), function.cast_signed());
            subjects.insert(number, Known { subject: id, function, size: (memory_mib, cpu_millis) });
            let (memory, cpu, seen) = (i64::from(memory_mib), i64::from(cpu_millis), Day(seen.cast_signed()));
            let new = "INSERT INTO subject (id, function, revision, instance, memory_mib, cpu_millis, started, seen) \
                OVERRIDING SYSTEM VALUE VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
            write(new, &[&id, &function, &revision, &instance, &memory, &cpu, &started, &seen]).await?;
            if let Some(Counted { until_us, open }) = warm {
                write("INSERT INTO warm VALUES ($1, $2, $3)", &[&id, &until_us, &open]).await?;
            }
        }
        Item::Epoch { activator, epoch, watermark, forgotten } => {
            let [watermark, forgotten] = [watermark, forgotten].map(u64::cast_signed);
            let new = "INSERT INTO epoch VALUES ($1, $2, $3, $4)";
            write(new, &[&signed(activator), &i64::from(epoch), &watermark, &forgotten]).await?;
        }
        Item::Late { function, month } => {
            let month = i64::from(month.number());
            write("INSERT INTO late VALUES ($1, $2)", &[&function.cast_signed(), &month]).await?;
        }
        Item::Reversal(Entry { function, hour, activator, epoch, seq, body }) => {
            let (function, hour, epoch) = (function.cast_signed(), i64::from(hour), i64::from(epoch));
            let new = "INSERT INTO reversal VALUES ($1, $2, $3, $4, $5, $6)";
            write(new, &[&function, &hour, &signed(activator), &epoch, &seq.cast_signed(), &body]).await?;
        }
        Item::Document { tenant, month, document } => {
            let month = i64::from(month.number());
            write("INSERT INTO statement VALUES ($1, $2, $3)", &[&tenant, &month, &document]).await?;
        }
        Item::Records { .. } | Item::Sum { .. } | Item::End => {}
    }
    Ok(())
}
