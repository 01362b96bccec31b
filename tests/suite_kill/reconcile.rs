//! Nobody is killed: what a load generator counts and measures, and how long instances live, is what the ledger has, function
//! by function and both ways.
//!
//! Times are compared, not judged: a call's metered time is at least what its function worked and at most what its caller
//! waited, and warm time is that of the instances, within a second of each.

use crate::programs;
use anyhow::{Context, Result};
use dormouse_controller::ledger::{Filter, Granularity, GroupBy, Ledger, RecordRow, RecordsQuery, UsageQuery};
use dormouse_core::price::PricePlan;
use dormouse_core::usage::UsageSum;
use dormouse_tests::agree::LIMIT;
use dormouse_tests::checker;
use dormouse_tests::env::Env;
use dormouse_tests::journal::{Entry, Journal};
use dormouse_tests::load::{Until, closed};
use dormouse_tests::pair::{FUNCTION, Pair, Placed};
use dormouse_tests::wait::until;
use jiff::Timestamp;
use serde_json::json;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A function and its load.
struct Kind {
    name: &'static str,
    /// What a call works in it, in milliseconds.
    work_ms: u64,
    /// Instances that are kept warm, of one call each; 0: it wakes.
    warm: u32,
    callers: usize,
}

const KINDS: [Kind; 3] = [
    Kind { name: "quick", work_ms: 0, warm: 0, callers: 4 },
    Kind { name: "slow", work_ms: 20, warm: 0, callers: 8 },
    Kind { name: "warm", work_ms: 5, warm: 2, callers: 2 },
];
/// Memory of each, in MiB.
const MIB: u128 = 256;
/// How far the metered time of a warm instance may be from its own.
const OFF: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn ledger_load_generator_and_instances_agree() {
    let folder = tempfile::tempdir().unwrap();
    let result = agree(folder.path()).await;
    if result.is_err() {
        println!("logs, spool and ledger are kept in {}", folder.keep().display());
    }
    result.unwrap();
}

/// What a function's callers know.
struct Called {
    kind: &'static Kind,
    entries: Vec<Entry>,
}

async fn agree(folder: &Path) -> Result<()> {
    let env = Env::read()?;
    let calls = if env.long { 50_000 } else { 500 };
    let functions = KINDS.iter().map(|kind| kind.placed(folder)).collect::<Result<Vec<_>>>()?;
    let mut pair = Pair::with(folder, &programs(&env)?, &functions, &[])?;
    let loads = KINDS.iter().map(|kind| kind.load(&pair, calls));
    let called = futures::future::try_join_all(loads).await?;
    let answered: usize = called.iter().map(|called| called.entries.len()).sum();
    until("every call has its record", LIMIT, || async {
        let recorded = pair.recorded().await?.len();
        anyhow::ensure!(recorded == answered, "{recorded} of {answered}");
        Ok(())
    })
    .await?;
    let before_end = Timestamp::now();
    let place = pair.end().await?;
    let lived = before_end..Timestamp::now();
    let ledger = Ledger::open(place, PricePlan::default()).await?;
    anyhow::ensure!(ledger.verify().await?.holds(), "the ledger does not agree with itself");
    for Called { kind, entries } in called {
        let filter = Filter { functions: vec![kind.name.into()], ..Filter::default() };
        let query = RecordsQuery { times_us: 0..i64::MAX, filter: filter.clone(), after: None, limit: 1_000_000 };
        let records = ledger.records(&query).await?.rows;
        let usage = used(&ledger, filter).await?;
        kind.check_calls(&entries, &records, &usage).with_context(|| kind.name)?;
        kind.check_warm(folder, &lived, &usage).with_context(|| kind.name)?;
    }
    Ok(())
}

async fn used(ledger: &Ledger, filter: Filter) -> Result<UsageSum> {
    let now = u32::try_from(Timestamp::now().as_second() / 3600)?;
    let (granularity, group_by) = (Granularity::Total, GroupBy::default());
    let query =
        UsageQuery { hours: now - 24..now + 1, granularity, local: None, group_by, filter, after: None, limit: 1 };
    Ok(ledger.usage(&query).await?.rows.pop().context("no usage")?.usage)
}

impl Kind {
    fn opened(&self, folder: &Path) -> PathBuf {
        folder.join(format!("{}.opened", self.name))
    }

    fn placed(&self, folder: &Path) -> Result<Placed> {
        let mut spec = json!({"idleTimeoutSeconds": 600, "timeoutSeconds": 30});
        if self.warm > 0 {
            spec["concurrency"] = 1.into();
            spec["warmUpConcurrency"] = self.warm.into();
        }
        let opened = self.opened(folder);
        let command = [env!("CARGO_BIN_EXE_backend"), "--opened", opened.to_str().context("a path that is no text")?];
        Ok(Placed { name: self.name.into(), spec, command: command.map(str::to_owned).to_vec() })
    }

    /// Calls it from several connections, and waits before until it answers.
    async fn load(&'static self, pair: &Pair, calls: u64) -> Result<Called> {
        let journal = Arc::new(Journal::default());
        let target = pair.function(self.name, &format!("/work?ms={}", self.work_ms)).keyed();
        until(&format!("{} answers", self.name), LIMIT, || async {
            let began = Instant::now();
            let result = target.call(0).await;
            let entry = Entry::of(0, Duration::ZERO, began.elapsed(), &result);
            anyhow::ensure!(entry.status == 200, "{entry:?}");
            journal.add(entry);
            Ok(())
        })
        .await?;
        let report = closed(&target, self.callers, Until::Calls(calls), Some(journal.clone())).await;
        anyhow::ensure!(report.calls() == calls && report.failed() == 0, "{}: {report}", self.name);
        println!("{}/{}: {report}", FUNCTION.1, self.name);
        Ok(Called { kind: self, entries: journal.entries() })
    }

    /// Each call has its record and each record its call; what is metered of it lies between work and wait.
    fn check_calls(&self, entries: &[Entry], records: &[RecordRow], usage: &UsageSum) -> Result<()> {
        let ids: Vec<String> = records.iter().map(|row| row.request_id.to_string()).collect();
        let verdict = checker::Verdict::of(entries, &ids);
        anyhow::ensure!(verdict.good() && records.len() == entries.len(), "{verdict}");
        let called: HashMap<&str, &Entry> = entries.iter().map(|entry| (entry.request_id.as_str(), entry)).collect();
        let (mut metered_ms, mut waited_us) = (0u128, 0u128);
        for (id, row) in ids.iter().zip(records) {
            let (entry, run_us) = (called[id.as_str()], row.record.run_us);
            let bounds = self.work_ms * 1000..=entry.took_us;
            anyhow::ensure!(bounds.contains(&run_us), "{run_us} us are not within {bounds:?}: {entry:?}");
            metered_ms += u128::from(run_us.div_ceil(1000));
            waited_us += u128::from(entry.took_us);
        }
        let calls = records.len() as u128;
        let rule = PricePlan::default().metering();
        let times: Vec<_> = usage.classes.iter().filter_map(|class| class.time(&rule)).collect();
        let told = times.iter().fold((0, 0), |(calls, ms), time| (calls + u128::from(time.calls), ms + time.ms));
        anyhow::ensure!(told == (calls, metered_ms), "sums have {told:?}, records {calls}, {metered_ms} ms");
        // Rounded up to a millisecond, each call by less than one.
        let bounds = calls * u128::from(self.work_ms)..=waited_us / 1000 + calls;
        anyhow::ensure!(bounds.contains(&metered_ms), "{metered_ms} ms are not within {bounds:?}");
        println!("{}: {calls} calls, {metered_ms} ms metered, {} ms waited", self.name, waited_us / 1000);
        Ok(())
    }

    /// Warm time is that from each instance's open port to the end; of what wakes there is none.
    fn check_warm(&self, folder: &Path, end: &std::ops::Range<Timestamp>, usage: &UsageSum) -> Result<()> {
        anyhow::ensure!(usage.warm.mib_ms.is_multiple_of(MIB), "{:?}", usage.warm);
        let metered = Duration::from_millis(u64::try_from(usage.warm.mib_ms / MIB)?);
        let opened = std::fs::read_to_string(self.opened(folder))?;
        let opened = opened.lines().map(|line| Ok(Timestamp::from_microsecond(line.parse()?)?));
        let opened: Vec<Timestamp> = opened.collect::<Result<_>>()?;
        if self.warm == 0 {
            anyhow::ensure!(metered.is_zero(), "{metered:?} of what is not kept warm");
            return Ok(());
        }
        anyhow::ensure!(opened.len() == self.warm as usize, "{} instances", opened.len());
        let until = |end: Timestamp| -> Duration {
            opened.iter().map(|opened| end.duration_since(*opened).unsigned_abs()).sum()
        };
        let bounds = until(end.start).saturating_sub(OFF * self.warm)..=until(end.end) + OFF * self.warm;
        anyhow::ensure!(bounds.contains(&metered), "{metered:?} are not within {bounds:?}");
        println!("{}: {} instances, {metered:?} warm, of {bounds:?}", self.name, self.warm);
        Ok(())
    }
}
