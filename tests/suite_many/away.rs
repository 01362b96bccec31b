//! The controller is away for a while, silent or dead: warm calls are answered all the same, waiting calls wait and are
//! answered when it is back, and then everything is as if it had never been away.

use crate::crew::{Crew, FLAGS};
use crate::{LIMIT, in_folder};
use anyhow::{Context, Result};
use dormouse_tests::calls::{Bound, Calls};
use dormouse_tests::env::long;
use dormouse_tests::front::{Choice, Front, Placed};
use dormouse_tests::proc::{Process, signal};
use dormouse_tests::team::Function;
use dormouse_tests::wait::until;
use nix::sys::signal::Signal;
use serde_json::json;
use std::path::Path;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Calls per second.
const RATE: u32 = 60;

/// Calls that wait for a function to wake, which it cannot before the controller is back.
const WAITING: usize = 30;

/// Calls that one instance of the warm function runs at once.
const CONCURRENCY: usize = 8;

const BOUND: Bound = Bound { on_one: CONCURRENCY, on_all: usize::MAX };

fn absence() -> Duration {
    Duration::from_secs(if long() { 300 } else { 30 })
}

fn functions() -> [Function; 2] {
    // Waiting calls wait longer than the controller is away.
    let queue = json!({"maxCalls": 10_000, "maxWaitSeconds": absence().as_secs() + 60});
    let spec = |idle: u64| json!({"concurrency": CONCURRENCY, "timeoutSeconds": 10, "idleTimeoutSeconds": idle, "queue": queue});
    // It is not started once when applied: it sleeps until its calls come.
    let mut asleep = spec(5);
    asleep["startCheck"] = json!("Never");
    [Function::new("warm", spec(5)), Function::new("asleep", asleep)]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_controller_is_not_missed() {
    in_folder(async |folder| away(folder, Away::Silent).await).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_controller_is_not_missed() {
    in_folder(async |folder| away(folder, Away::Dead).await).await.unwrap();
}

/// How a controller is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Away {
    /// Stopped: its connections stay open, and nothing comes.
    Silent,
    /// Killed. Local instances do not outlive the next start of their controller, as pods do: the warm calls are over
    /// before that.
    Dead,
}

async fn away(folder: &Path, how: Away) -> Result<()> {
    let [warm, asleep] = functions();
    let mut crew = Crew::start(folder, &[warm.clone(), asleep.clone()], 3, &FLAGS).await?;
    crew.warm(&warm).await?;
    let stop = CancellationToken::new();
    let load = tokio::spawn(open(crew.front.clone(), warm.clone(), stop.clone()));
    let house = crew.team.house.as_ref().map(Process::pid).context("no controller")?;
    match how {
        Away::Silent => signal(house, Signal::SIGSTOP)?,
        Away::Dead => crew.team.kill_house().await?,
    }
    // One activator starts anew while nobody can tell it any routes. The calls that wait come after that: none of them
    // is on it.
    tokio::time::sleep(absence() / 4).await;
    crew.mates[2].member.leave().await?;
    crew.front.forgets(&crew.mates[2].door);
    crew.revive(2)?;
    let waiting = wait_for(&crew.front, &asleep);
    tokio::time::sleep(absence() * 3 / 4).await;
    let calls = crew.team.calls(&asleep, BOUND)?;
    anyhow::ensure!(calls.begun.is_empty(), "woken by nobody: {calls}");
    let known = crew.front.listed();
    anyhow::ensure!(!known.contains(&crew.mates[2].member.life()), "ready without routes: {known:?}");
    match how {
        Away::Silent => signal(house, Signal::SIGCONT)?,
        Away::Dead => {
            stop.cancel();
            until("no warm call runs", LIMIT, || async {
                let cut = crew.team.calls(&warm, BOUND)?.cut.len();
                anyhow::ensure!(cut == 0, "{cut} run");
                Ok(())
            })
            .await?;
            crew.team.begin_house()?;
        }
    }
    back(&mut crew, waiting).await?;
    stop.cancel();
    load.await?;
    whole(&crew, &warm).await?;
    anyhow::ensure!(crew.front.tally().explained.is_empty(), "{}", crew.front.tally());
    crew.front.tally().check()?;
    println!("{how:?}: {}; ledger: {}", crew.front.tally(), crew.settle().await?);
    for function in [&warm, &asleep] {
        let calls = crew.team.calls(function, BOUND)?;
        println!("{how:?}: {}: {calls}", function.name);
        calls.check()?;
    }
    crew.end().await
}

/// Everybody who waited is answered, and every activator is ready.
async fn back(crew: &mut Crew, waiting: JoinSet<Placed>) -> Result<()> {
    let waited = waiting.join_all().await;
    let unanswered: Vec<_> = waited.iter().filter(|p| !p.is_answered()).collect();
    anyhow::ensure!(unanswered.is_empty(), "{} of {WAITING} waited in vain: {unanswered:?}", unanswered.len());
    crew.all_ready().await
}

/// No slot is lost: one instance runs as many calls at once as it may. No demand is left: without calls all sleep.
async fn whole(crew: &Crew, warm: &Function) -> Result<()> {
    let front = crew.front.clone();
    until("all slots of an instance are used", LIMIT, || async {
        let mut calls = JoinSet::new();
        // As many as all together may run: activators tell the peaks of their calls, and the sum of those may have kept
        // one instance more than the calls themselves need.
        for _ in 0..CONCURRENCY * crew.team.instances()?.max(1) {
            let (front, path) = (front.clone(), warm.path("/work?ms=300"));
            calls.spawn(async move { front.call(&path, Choice::InTurn).await.0 });
        }
        calls.join_all().await;
        let calls: Calls = crew.team.calls(warm, BOUND)?;
        anyhow::ensure!(calls.most_on_one == CONCURRENCY, "{calls}");
        Ok(())
    })
    .await?;
    until("everything sleeps", LIMIT, || async {
        let awake = crew.team.instances()?;
        anyhow::ensure!(awake == 0, "{awake} instances");
        Ok(())
    })
    .await
}

fn wait_for(front: &Front, function: &Function) -> JoinSet<Placed> {
    let mut calls = JoinSet::new();
    for _ in 0..WAITING {
        let (front, path) = (front.clone(), function.path("/work"));
        calls.spawn(async move { front.call(&path, Choice::Fresh).await.0 });
    }
    calls
}

async fn open(front: Front, function: Function, stop: CancellationToken) {
    let mut calls = JoinSet::new();
    let mut tick = tokio::time::interval(Duration::from_secs(1) / RATE);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        let (front, path) = (front.clone(), function.path("/work?ms=2"));
        calls.spawn(async move { front.call(&path, Choice::InTurn).await.0 });
        while calls.try_join_next().is_some() {}
    }
    while calls.join_next().await.is_some() {}
}
