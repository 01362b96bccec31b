//! `kill -9` of activator and controller under load. The client's journal and the ledger must agree:
//! `answered <= recorded <= answered + in flight at a kill`, nothing twice, every answered call once.
//!
//! Counts are asserted, never times. The seed is printed; `DORMOUSE_TEST_SEED` runs the same moments again.

#![expect(clippy::print_stdout, reason = "a suite tells its seed and what it counted")]

use anyhow::{Context, Result};
use dormouse_controller::ledger::Ledger;
use dormouse_core::price::PricePlan;
use dormouse_tests::checker::Verdict;
use dormouse_tests::env::Env;
use dormouse_tests::journal::{Entry, Journal};
use dormouse_tests::load::open;
use dormouse_tests::pair::{Pair, Programs};
use dormouse_tests::postgres::Postgres;
use dormouse_tests::wait::until;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Calls per second.
const RATE: u32 = 50;

/// Longest time for calls to be answered again after a kill, and for the ledger to have every record at the end.
const LIMIT: Duration = Duration::from_secs(60);

/// Calls that must be answered after a kill before the next one counts as survived.
const ALIVE: usize = 5;

#[tokio::test(flavor = "multi_thread")]
async fn killed_processes_lose_no_record_and_double_none() {
    survives(None).await.unwrap();
}

/// The same with the ledger in PostgreSQL, which is killed as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_database_loses_no_record_and_doubles_none() {
    survives(Some(Postgres::start().await.unwrap())).await.unwrap();
}

async fn survives(database: Option<Postgres>) -> Result<()> {
    let env = Env::read()?;
    let seed = std::env::var("DORMOUSE_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("seed {seed}");
    let folder = tempfile::tempdir()?;
    let result = survive(&env, folder.path(), seed, database).await;
    if result.is_err() {
        let kept = folder.keep();
        println!("logs, spool and ledger are kept in {}", kept.display());
    }
    result
}

async fn survive(env: &Env, folder: &std::path::Path, seed: u64, mut database: Option<Postgres>) -> Result<()> {
    let (kills, mut rng) = (if env.long { 200 } else { 20 }, StdRng::seed_from_u64(seed));
    let programs = Programs {
        house: env!("CARGO_BIN_EXE_house").into(),
        activator: env.program("dormouse-activator")?,
        dormouse: env.program("dormouse")?,
    };
    let spec =
        json!({"idleTimeoutSeconds": 60, "timeoutSeconds": 30, "queue": {"maxCalls": 10_000, "maxWaitSeconds": 60}});
    let mut pair = match &database {
        None => Pair::start(folder, &programs, spec)?,
        Some(server) => Pair::start_on(&server.database()?, folder, &programs, spec)?,
    };
    let journal = Arc::new(Journal::to_file(&folder.join("journal"))?);
    // The first answer is waited for by a call of the journal, so that the journal has every call there ever was.
    until("the first call is answered", LIMIT, || async {
        let began = Instant::now();
        let result = pair.target("/").call(0).await;
        let entry = Entry::of(0, Duration::ZERO, began.elapsed(), &result);
        journal.add(entry.clone());
        anyhow::ensure!(entry.status == 200, "{entry:?}");
        Ok(())
    })
    .await?;
    let stop = CancellationToken::new();
    let load = tokio::spawn({
        let (target, stop, journal) = (pair.target("/delay?ms=20"), stop.clone(), journal.clone());
        async move { open(&target, RATE, stop, journal).await }
    });
    let result = kill_often(&mut pair, &mut database, &journal, &mut rng, kills).await;
    stop.cancel();
    let report = load.await?;
    result.with_context(|| format!("{report}"))?;
    println!("{kills} kills under {RATE} calls/s: {report}");
    agree(&mut pair, &journal).await
}

/// Kills one of them at a random moment, again and again; every second kill or so comes before calls are answered
/// again, so that restarts are hit as well.
async fn kill_often(
    pair: &mut Pair,
    database: &mut Option<Postgres>,
    journal: &Journal,
    rng: &mut StdRng,
    kills: usize,
) -> Result<()> {
    for n in 1..=kills {
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..600))).await;
        let away = Duration::from_millis(rng.random_range(0..200));
        match (rng.random_range(0..3), database.as_mut()) {
            (0, Some(server)) => {
                server.kill()?;
                tokio::time::sleep(away).await;
                server.run().await?;
            }
            _ => {
                let (process, program) = match rng.random_bool(0.5) {
                    true => (&mut pair.activator, &pair.activator_program),
                    false => (&mut pair.house, &pair.house_program),
                };
                let mut victim = process.take().context("not running")?;
                victim.check().with_context(|| format!("before kill {n}"))?;
                tokio::task::spawn_blocking(move || victim.kill()).await??;
                tokio::time::sleep(away).await;
                *process = Some(program.start()?);
            }
        }
        if n == kills || rng.random_bool(0.5) {
            let before = answered(journal);
            until(&format!("calls are answered after kill {n}"), LIMIT, || async {
                let more = answered(journal) - before;
                anyhow::ensure!(more >= ALIVE, "{more} of {ALIVE}");
                Ok(())
            })
            .await?;
        }
    }
    Ok(())
}

fn answered(journal: &Journal) -> usize {
    journal.entries().iter().filter(|e| e.must_be_recorded()).count()
}

/// The ledger comes to agree with the journal, stays so when everything is handed over, and agrees with itself.
async fn agree(pair: &mut Pair, journal: &Journal) -> Result<()> {
    let entries = journal.entries();
    let verdict = until("the ledger agrees with the client", LIMIT, || async {
        let verdict = Verdict::of(&entries, &pair.recorded().await?);
        anyhow::ensure!(verdict.good(), "{verdict}");
        Ok(verdict)
    })
    .await?;
    println!("{verdict}");
    let usage = pair.usage.get(&format!("/v1/usage?{}", dormouse_tests::usage::lately())).await?;
    let counted: u64 = usage["rows"].as_array().context("no rows")?.iter().filter_map(|r| r["calls"].as_u64()).sum();
    anyhow::ensure!(counted >= verdict.recorded, "usage counts {counted}, recorded are {}", verdict.recorded);

    let place = pair.end().await?;
    let ledger = Ledger::open(place, PricePlan::default()).await?;
    let conservation = ledger.verify().await?;
    println!("{conservation:?}");
    let query = dormouse_controller::ledger::RecordsQuery {
        times_us: 0..i64::MAX,
        filter: dormouse_controller::ledger::Filter::default(),
        after: None,
        limit: 1_000_000,
    };
    let page = ledger.records(&query).await?;
    let ids: Vec<String> = page.rows.iter().map(|r| r.request_id.to_string()).collect();
    let verdict = Verdict::of(&entries, &ids);
    anyhow::ensure!(verdict.good(), "after both ended: {verdict}");
    Ok(())
}
