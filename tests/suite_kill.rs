//! `kill -9` of activator and controller under load. The client's journal and the ledger must agree:
//! `answered <= recorded <= answered + in flight at a kill`, nothing twice, every answered call once. And the function keeps
//! a log of its own: whatever it had has a record, aborted and billed 0 where its end is not known.
//!
//! Counts are asserted, never times. The seed is printed; `DORMOUSE_TEST_SEED` runs the same moments again.

#![expect(clippy::print_stdout, reason = "a suite tells its seed and what it counted")]

#[path = "suite_kill/reconcile.rs"]
mod reconcile;

use anyhow::{Context, Result};
use dormouse_tests::agree::{Agreed, LIMIT, Load, agree};
use dormouse_tests::calls::{Bound, Calls};
use dormouse_tests::checker;
use dormouse_tests::env::Env;
use dormouse_tests::ground::Ground;
use dormouse_tests::pair::{FUNCTION, Pair, Placed, Programs};
use dormouse_tests::postgres::Postgres;
use dormouse_tests::usage::lately;
use dormouse_tests::wait::until;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use std::time::Duration;

/// Calls per second.
const RATE: u32 = 50;
/// Number of the calls that ask whether there is an answer yet.
const UNNUMBERED: u64 = 0;

#[tokio::test(flavor = "multi_thread")]
async fn killed_processes_lose_no_record_and_double_none() {
    survives(None).await.unwrap();
}

/// The same with the ledger in PostgreSQL, which is killed as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_database_loses_no_record_and_doubles_none() {
    survives(Some(Postgres::start().await.unwrap())).await.unwrap();
}

fn programs(env: &Env) -> Result<Programs> {
    Ok(Programs {
        house: env!("CARGO_BIN_EXE_house").into(),
        activator: env.program("dormouse-activator")?,
        dormouse: env.program("dormouse")?,
    })
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
    let programs = programs(env)?;
    let spec =
        json!({"idleTimeoutSeconds": 60, "timeoutSeconds": 30, "queue": {"maxCalls": 10_000, "maxWaitSeconds": 60}});
    let database_url = database.as_ref().map(Postgres::database).transpose()?;
    let ground = Ground { database: database_url, ..Ground::of(folder) };
    let log = folder.join("calls.log");
    let command = [env!("CARGO_BIN_EXE_backend"), "--log", log.to_str().context("a path that is no text")?];
    let command = command.map(str::to_owned).to_vec();
    let function = Placed { name: FUNCTION.0.into(), spec, command };
    let mut pair = Pair::on(&ground, &programs, &[function], &["--every-intent"])?;
    let load = Load::begin(&pair, folder, RATE).await?;
    let result = kill_often(&mut pair, &mut database, &load, &mut rng, kills).await;
    let (report, entries) = load.end().await?;
    result.with_context(|| format!("{report}"))?;
    println!("{kills} kills under {RATE} calls/s: {report}");
    until("nothing is billed of aborted calls", LIMIT, || unbilled(&pair)).await?;
    let Agreed { verdict, conservation, records } = agree(&mut pair, &entries).await?;
    let begun = Calls::read(&log, Bound { on_one: usize::MAX, on_all: usize::MAX })?.begun;
    let begun = begun.into_iter().filter(|number| *number != UNNUMBERED).collect();
    let aborted = checker::dispatched(&begun, &entries, &records)?;
    println!("{verdict}\n{} calls were begun, {aborted} of all are recorded as aborted\n{conservation:?}", begun.len());
    Ok(())
}

/// What is billed of aborted calls is nothing, whatever they took.
async fn unbilled(pair: &Pair) -> Result<()> {
    let records = pair.usage.records(&lately()).await?;
    let aborted: Vec<_> = records.iter().filter(|r| r["outcome"] == "aborted").collect();
    let billed: Vec<_> = aborted.iter().filter(|r| r["cost"] != "0").collect();
    anyhow::ensure!(billed.is_empty(), "{billed:?}");
    Ok(())
}

/// Kills one of them at a random moment, again and again; every second kill or so comes before calls are answered
/// again, so that restarts are hit as well.
async fn kill_often(
    pair: &mut Pair,
    database: &mut Option<Postgres>,
    load: &Load,
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
            load.goes_on(&format!("kill {n}")).await?;
        }
    }
    Ok(())
}
