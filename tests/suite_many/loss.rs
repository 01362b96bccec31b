//! One of three activators is killed, again and again: the only calls that fail are calls that were on it, and every
//! call that was answered has its one record.

use crate::crew::{Crew, FLAGS};
use crate::{LIMIT, in_folder, seeded};
use anyhow::Result;
use dormouse_tests::calls::Bound;
use dormouse_tests::env::long;
use dormouse_tests::front::{Choice, Front};
use dormouse_tests::team::Function;
use dormouse_tests::wait::until;
use rand::RngExt;
use serde_json::json;
use std::path::Path;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Calls per second.
const RATE: u32 = 150;

/// Calls that must be answered after a kill before the next one.
const ALIVE: usize = 30;

#[tokio::test(flavor = "multi_thread")]
async fn only_calls_on_a_killed_activator_fail() {
    in_folder(async |folder| kills(folder).await).await.unwrap();
}

async fn kills(folder: &Path) -> Result<()> {
    let mut rng = seeded("loss");
    let kills = if long() { 200 } else { 10 };
    let queue = json!({"maxCalls": 10_000, "maxWaitSeconds": 60});
    let function =
        Function::new("loss", json!({"concurrency": 4, "timeoutSeconds": 5, "idleTimeoutSeconds": 60, "queue": queue}));
    let mut crew = Crew::start(folder, std::slice::from_ref(&function), 3, &FLAGS).await?;
    crew.warm(&function).await?;
    let stop = CancellationToken::new();
    let load = tokio::spawn(open(crew.front.clone(), function.clone(), RATE, stop.clone()));
    let result = async {
        for n in 1..=kills {
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..600))).await;
            let at = rng.random_range(0..crew.mates.len());
            crew.kill(at).await?;
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..400))).await;
            crew.revive(at)?;
            let (front, before) = (crew.front.clone(), crew.front.answered());
            until(&format!("calls are answered after kill {n}"), LIMIT, || async {
                let more = front.answered() - before;
                anyhow::ensure!(more >= ALIVE, "{more} of {ALIVE}");
                Ok(())
            })
            .await?;
        }
        crew.all_ready().await
    };
    let result = result.await;
    stop.cancel();
    load.await?;
    let tally = crew.front.tally();
    println!("{kills} kills of one of three under {RATE} calls/s: {tally}");
    result?;
    tally.check()?;
    println!("ledger: {}", crew.settle().await?);
    let calls = crew.team.calls(&function, Bound { on_one: 4, on_all: usize::MAX })?;
    println!("{calls}");
    calls.check()?;
    crew.end().await
}

/// `rate` calls per second to the activators in turn; one in ten takes a while, so that every kill meets calls.
async fn open(front: Front, function: Function, rate: u32, stop: CancellationToken) {
    let mut calls = JoinSet::new();
    let mut tick = tokio::time::interval(Duration::from_secs(1) / rate);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        let ms = if rand::random_ratio(1, 10) { 300 } else { 2 };
        let (front, path) = (front.clone(), function.path(&format!("/work?ms={ms}")));
        calls.spawn(async move { front.call(&path, Choice::InTurn).await.0 });
        while calls.try_join_next().is_some() {}
    }
    while calls.join_next().await.is_some() {}
}
