//! Subjects and functions by the database's numbers.

use super::Trouble;
use super::rows::Day;
use crate::ledger::FunctionId;
use deadpool_postgres::Object;
use dormouse_core::record::Subject;
use parking_lot::Mutex;
use std::collections::HashMap;

/// Entries kept in memory: about 500 B each with its texts, so at most 8 MB.
const MAX_CACHED: usize = 16_384;

/// What must be known of a subject.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) subject: i32,
    pub(super) function: i32,
    /// Memory in MiB and cpu in thousandths.
    pub(super) size: (u32, u32),
}

/// What is known of them, with the day up to which the database knows that they were seen. Numbers are given out in a transaction of their own: one that is left without a record is no
/// harm, and one that another transaction took back would be.
#[derive(Default)]
pub(super) struct Names(Mutex<HashMap<Subject, (Known, u32)>>);

const FUNCTION: &str = "WITH new AS (
        INSERT INTO function (uid, tenant, namespace, name) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING RETURNING id)
    SELECT id FROM new
    UNION ALL SELECT id FROM function WHERE uid = $1 AND tenant = $2 AND namespace = $3 AND name = $4 LIMIT 1";
const SUBJECT: &str = "INSERT INTO subject AS s (function, revision, instance, memory_mib, cpu_millis, seen) \
    VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (function, revision, instance, memory_mib, cpu_millis) \
    DO UPDATE SET seen = greatest(s.seen, excluded.seen) RETURNING id";

impl Names {
    /// Forgets all of them.
    pub(super) fn forget(&self) {
        self.0.lock().clear();
    }

    /// The number of a subject; a new one is written. It is kept for as long as records of a day are, days since 1970 UTC.
    pub(super) async fn of(&self, client: &Object, subject: &Subject, day: u32) -> Result<Known, Trouble> {
        if let Some((known, seen)) = self.0.lock().get(subject)
            && *seen >= day
        {
            return Ok(*known);
        }
        let FunctionId { uid, namespace, name, tenant } = FunctionId::of(subject);
        let function = number(client, FUNCTION, &[&uid, &tenant, &namespace, &name]).await?;
        let Subject { revision, instance, memory_mib, cpu_millis, .. } = subject;
        let (memory, cpu) = (i64::from(*memory_mib), i64::from(*cpu_millis));
        let subject_number =
            number(client, SUBJECT, &[&function, revision, instance, &memory, &cpu, &Day(day.cast_signed())]).await?;
        let known = Known { subject: subject_number, function, size: (*memory_mib, *cpu_millis) };
        let mut all = self.0.lock();
        if all.len() >= MAX_CACHED {
            all.clear();
        }
        all.insert(subject.clone(), (known, day));
        Ok(known)
    }
}

/// The one number that a statement answers. Where another process has written the same row at the same moment, neither of
/// its halves sees it: it does when asked again.
async fn number(
    client: &Object,
    statement: &str,
    values: &[&(dyn tokio_postgres::types::ToSql + Sync)],
) -> Result<i32, Trouble> {
    let statement = client.prepare_cached(statement).await?;
    for _ in 0..3 {
        if let Some(row) = client.query_opt(&statement, values).await? {
            return Ok(row.get(0));
        }
    }
    Err(Trouble::Corrupt("name"))
}
