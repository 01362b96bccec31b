//! Sums as they are read: of each function two walks along the primary keys, of what a row has once and of its classes, put
//! together here. A join repeats twelve columns with each class, and its plan depends on statistics that a young table does
//! not have.

use super::Trouble;
use super::connect::Pool;
use super::read::all_functions;
use crate::ledger::Level;
use crate::ledger::fold::Fold;
use crate::ledger::transfer::Item;
use deadpool_postgres::{Object, Transaction};
use dormouse_core::price::Metering;
use dormouse_core::usage::{Class, ClassSum, Time, UsageSum, Warm};
use futures::future::try_join;
use futures::{StreamExt, TryStreamExt};
use std::ops::Range;
use std::pin::pin;
use tokio::sync::mpsc;
use tokio_postgres::types::ToSql;
use tokio_postgres::{IsolationLevel, Row, Statement};

/// Functions whose rows are asked for at once, so that the database works on one while another is put together here. Of a
/// month by the hour one has 720 rows, of 13 months 9,500, each of about 1 KB in memory with its classes: 19 MB.
const AT_ONCE: usize = 2;

const SUMS: &str = "SELECT time, cold, wait_us, claim_us, start_us, connect_us, run_us, request_bytes, response_bytes, \
        warm_mib_ms, warm_mcpu_ms, warm_used_mib_ms, warm_used_mcpu_ms \
    FROM usage WHERE level = $1 AND function = $2 AND time >= $3 AND time < $4 ORDER BY time";
const CLASSES: &str = "SELECT time, class, step_ms, min_ms, start, calls, ms, mib_ms, mcpu_ms \
    FROM usage_class WHERE level = $1 AND function = $2 AND time >= $3 AND time < $4 \
    ORDER BY time, class, step_ms, min_ms, start";

/// See [`crate::ledger::store::Store::fold`].
pub(super) async fn fold(
    pool: &Pool,
    functions: &[u32],
    levels: Vec<(Level, Range<u32>)>,
    fold: Fold,
) -> Result<Fold, Trouble> {
    let mut client = pool.client().await?;
    let folded = fold_levels(&mut client, functions, levels, fold).await;
    client.after(folded)
}

/// Everything is read as it is at one moment: frames come meanwhile, and hours may become days, by whoever writes here.
async fn fold_levels(
    client: &mut Object,
    functions: &[u32],
    levels: Vec<(Level, Range<u32>)>,
    mut fold: Fold,
) -> Result<Fold, Trouble> {
    let step = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true);
    let step = step.start().await?;
    for (level, period) in levels {
        fold = fold_rows(&step, functions, level, &period, fold.of(level)).await?;
    }
    step.commit().await?;
    Ok(fold)
}

async fn fold_rows(
    step: &Transaction<'_>,
    functions: &[u32],
    level: Level,
    period: &Range<u32>,
    mut fold: Fold,
) -> Result<Fold, Trouble> {
    let asked = &Asked::new(step, level).await?;
    let wanted: Vec<_> = functions.iter().map(|&f| (f, fold.starts_at(f, period)..period.end)).collect();
    let read = |(function, period)| async move { Ok::<_, Trouble>((function, asked.of(function, period).await?)) };
    let mut read = pin!(futures::stream::iter(wanted).map(read).buffered(AT_ONCE));
    while let Some((function, rows)) = read.try_next().await? {
        if fold.is_full_before(function) {
            break;
        }
        for (time, sum) in rows {
            if fold.take(function, time, sum).is_break() {
                break;
            }
        }
    }
    Ok(fold)
}

/// Gives every row of sums, in the order of level, function and time; ends early, and well, when nobody takes them.
pub(super) async fn all_sums(step: &Transaction<'_>, items: &mpsc::Sender<Item>) -> Result<(), Trouble> {
    let mut functions: Vec<u32> = all_functions(step).await?.into_iter().map(|(number, _)| number).collect();
    functions.sort_unstable();
    for level in [Level::Minute, Level::Hour, Level::Day] {
        let asked = Asked::new(step, level).await?;
        for &function in &functions {
            for (time, sum) in asked.of(function, 0..u32::MAX).await? {
                if items.send(Item::Sum { level, function, time, sum }).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

/// What is asked within a transaction.
struct Asked<'a> {
    step: &'a Transaction<'a>,
    level: i16,
    sums: Statement,
    classes: Statement,
}

impl<'a> Asked<'a> {
    async fn new(step: &'a Transaction<'_>, level: Level) -> Result<Self, Trouble> {
        let (sums, classes) = (step.prepare_cached(SUMS).await?, step.prepare_cached(CLASSES).await?);
        Ok(Self { step, level: level as i16, sums, classes })
    }

    /// The rows of a function in the order of time.
    async fn of(&self, function: u32, period: Range<u32>) -> Result<Vec<(u32, UsageSum)>, Trouble> {
        let (function, [from, to]) = (function.cast_signed(), [period.start, period.end].map(i64::from));
        let values: [&(dyn ToSql + Sync); 4] = [&self.level, &function, &from, &to];
        let both = try_join(self.step.query(&self.sums, &values), self.step.query(&self.classes, &values));
        let (sums, classes) = both.await?;
        let mut classes = classes.iter().peekable();
        let row = |row: &Row| -> Result<(u32, UsageSum), Trouble> {
            let (time, mut sum) = (row.get::<_, i64>(0), scalars(row));
            while let Some(of) = classes.next_if(|of| of.get::<_, i64>(0) == time) {
                class(of, &mut sum)?;
            }
            Ok((u32::try_from(time).map_err(|_| Trouble::Corrupt("sum"))?, sum))
        };
        let rows: Vec<_> = sums.iter().map(row).collect::<Result<_, Trouble>>()?;
        // One without its sum would hide those behind it: calls that are not billed must not go unnoticed.
        match classes.next() {
            None => Ok(rows),
            Some(_) => Err(Trouble::Corrupt("sum")),
        }
    }
}

fn scalars(row: &Row) -> UsageSum {
    let n = |at: usize| u128::from(row.get::<_, i64>(at).unsigned_abs());
    UsageSum {
        classes: Vec::new(),
        cold: row.get::<_, i64>(1).unsigned_abs(),
        wait_us: n(2),
        claim_us: n(3),
        start_us: n(4),
        connect_us: n(5),
        run_us: n(6),
        request_bytes: n(7),
        response_bytes: n(8),
        warm: Warm { mib_ms: n(9), mcpu_ms: n(10), used_mib_ms: n(11), used_mcpu_ms: n(12) },
    }
}

/// Adds one class, or its time by one rule.
fn class(row: &Row, sum: &mut UsageSum) -> Result<(), Trouble> {
    let corrupt = || Trouble::Corrupt("sum");
    let class = u8::try_from(row.get::<_, i16>(1)).ok().and_then(Class::from_number).ok_or_else(corrupt)?;
    let n = |at: usize| row.get::<_, i64>(at).unsigned_abs();
    let small = |at: usize| u32::try_from(n(at)).map_err(|_| corrupt());
    let rule = Metering { step_ms: small(2)?, min_ms: small(3)?, start: row.get(4) };
    if sum.classes.last().is_none_or(|last| last.class != class) {
        sum.classes.push(ClassSum { class, calls: 0, times: Vec::new() });
    }
    let Some(of) = sum.classes.last_mut() else { return Ok(()) };
    if rule.step_ms == 0 {
        of.calls = n(5);
    } else {
        let [ms, mib_ms, mcpu_ms] = [6, 7, 8].map(|at| u128::from(n(at)));
        of.times.push((rule, Time { calls: n(5), ms, mib_ms, mcpu_ms }));
    }
    Ok(())
}
