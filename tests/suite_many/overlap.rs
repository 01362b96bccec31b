//! No instance runs more calls at once than its concurrency, no function more than its reserved concurrency, whatever
//! becomes of the activators (rule 2); and no call is sent twice (rule 3), cut off (rule 6) or recorded twice (rule 9).

use crate::crew::{Crew, FLAGS};
use crate::{in_folder, seeded};
use anyhow::Result;
use dormouse_tests::calls::Bound;
use dormouse_tests::env::long;
use dormouse_tests::front::{Choice, Front, Placed};
use dormouse_tests::team::Function;
use nix::sys::signal::Signal;
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde_json::json;
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

/// Callers of each function, each with one call at a time.
const CALLERS: usize = 6;

/// Pause of a caller between two calls.
const THINK: Duration = Duration::from_millis(8);

/// How long a caller waits for its calls before it makes one more.
const PATIENCE: Duration = Duration::from_secs(1);

/// A silent stream is given up by the controller after 10 + 5 s: a pause above that is one after which the paused
/// activator has been missed.
const MISSED: Duration = Duration::from_secs(17);

/// What is done to activators.
#[derive(Clone, Copy, Debug)]
enum Deed {
    /// One is killed and started again at its place, with its spool.
    Kill,
    /// One leaves while another one joins, as in a rolling update.
    Replace,
    /// One is stopped for less than anybody misses it.
    Pause,
    /// One is stopped until its streams were given up.
    LongPause,
    /// One more joins, and another one leaves.
    Join,
}

use Deed::{Join, Kill, LongPause, Pause, Replace};

/// All of one round, in an order of its own each time.
const ROUND: [Deed; 12] = [Kill, Kill, Kill, Kill, Replace, Replace, Pause, Pause, Pause, LongPause, Join, Kill];

/// A function, and how many calls of it may run at once.
struct Bounded {
    function: Function,
    bound: Bound,
}

#[tokio::test(flavor = "multi_thread")]
async fn never_more_at_once_than_allowed() {
    in_folder(async |folder| overlaps(folder).await).await.unwrap();
}

fn functions() -> Vec<Bounded> {
    let queue = json!({"maxCalls": 10_000, "maxWaitSeconds": 60});
    // The time of a call is short: so long a slot stays taken whose activator was killed.
    let spec = |concurrency: usize| json!({"concurrency": concurrency, "timeoutSeconds": 5, "idleTimeoutSeconds": 30, "queue": queue});
    let mut reserved = spec(2);
    // Three instances have six slots; one of them is never used.
    reserved["reservedConcurrency"] = json!(5);
    vec![
        Bounded { function: Function::new("one", spec(1)), bound: Bound { on_one: 1, on_all: usize::MAX } },
        Bounded { function: Function::new("three", spec(3)), bound: Bound { on_one: 3, on_all: usize::MAX } },
        Bounded { function: Function::new("reserved", reserved), bound: Bound { on_one: 2, on_all: 5 } },
    ]
}

async fn overlaps(folder: &Path) -> Result<()> {
    let mut rng = seeded("overlap");
    let wanted = if long() { 100_000 } else { 5_000 };
    let functions = functions();
    let plain: Vec<Function> = functions.iter().map(|b| b.function.clone()).collect();
    let mut crew = Crew::start(folder, &plain, 3, &FLAGS).await?;
    let (stop, counts) = (CancellationToken::new(), Arc::new([const { AtomicUsize::new(0) }; 3]));
    let mut callers = JoinSet::new();
    for (at, function) in plain.iter().enumerate() {
        for _ in 0..CALLERS {
            callers.spawn(call_on(crew.front.clone(), function.clone(), stop.clone(), counts.clone(), at));
        }
    }
    let mut deeds = Vec::new();
    let result = loop {
        let mut round = ROUND;
        round.shuffle(&mut rng);
        let done = disturb(&mut crew, &round, &mut rng).await;
        deeds.extend(round);
        if done.is_err() || counts[0].load(Ordering::Relaxed) >= wanted {
            break done;
        }
    };
    stop.cancel();
    while let Some(caller) = callers.join_next().await {
        caller?;
    }
    let tally = crew.front.tally();
    println!("{} deeds; {tally}", deeds.len());
    result?;
    tally.check()?;
    anyhow::ensure!(counts.iter().all(|c| c.load(Ordering::Relaxed) > 0), "a function was never answered: {counts:?}");
    agree(crew, &functions).await
}

/// The callers, the instances and the ledger tell the same.
async fn agree(mut crew: Crew, functions: &[Bounded]) -> Result<()> {
    let placed = crew.front.calls();
    println!("ledger: {}", crew.settle().await?);
    let mut begun: HashSet<u64> = HashSet::new();
    let mut faults = Vec::new();
    // Instances end with the controller: what is cut off then is seen as well.
    let logs: Vec<_> = functions.iter().map(|b| (b.function.clone(), b.bound)).collect();
    crew.team.end().await?;
    for (function, bound) in logs {
        let calls = crew.team.calls(&function, bound)?;
        println!("{}: {calls}", function.name);
        faults.extend(calls.check().err().map(|e| format!("{}: {e}", function.name)));
        begun.extend(calls.begun);
    }
    anyhow::ensure!(faults.is_empty(), "{}", faults.join("\n"));
    let missing: Vec<_> = placed.iter().filter(|p| p.is_answered() && !begun.contains(&p.entry.number)).collect();
    anyhow::ensure!(missing.is_empty(), "answered by no instance: {missing:?}");
    Ok(())
}

/// Calls one after the other until told to stop; the next one does not wait longer than [`PATIENCE`] for the one before,
/// or all callers would soon hang on one activator that is stopped. One in forty takes as long as a hundred of the
/// others, so that there is a call to be met by whatever is done.
async fn call_on(front: Front, function: Function, stop: CancellationToken, counts: Arc<[AtomicUsize; 3]>, at: usize) {
    let mut calls = JoinSet::new();
    let count = |done: Option<Result<Placed, JoinError>>| {
        if done.is_some_and(|done| done.is_ok_and(|placed| placed.is_answered())) {
            counts[at].fetch_add(1, Ordering::Relaxed);
        }
    };
    while !stop.is_cancelled() {
        let ms = if rand::random_ratio(1, 40) { 400 } else { rand::random_range(1..6) };
        let (front, path) = (front.clone(), function.path(&format!("/work?ms={ms}")));
        calls.spawn(async move { front.call(&path, Choice::InTurn).await.0 });
        count(tokio::time::timeout(PATIENCE, calls.join_next()).await.ok().flatten());
        tokio::time::sleep(THINK).await;
    }
    while let Some(done) = calls.join_next().await {
        count(Some(done));
    }
}

async fn disturb(crew: &mut Crew, round: &[Deed], rng: &mut StdRng) -> Result<()> {
    for deed in round {
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..800))).await;
        let at = rng.random_range(0..crew.mates.len());
        crew.mates[at].member.check()?;
        match deed {
            Kill => {
                crew.kill(at).await?;
                tokio::time::sleep(Duration::from_millis(rng.random_range(0..300))).await;
                crew.revive(at)?;
            }
            Replace | Join => {
                crew.join()?;
                if matches!(deed, Join) {
                    crew.all_ready().await?;
                    tokio::time::sleep(Duration::from_millis(rng.random_range(0..2000))).await;
                }
                crew.mates[at].member.signal(Signal::SIGTERM)?;
                let status = crew.gone(at).await?;
                anyhow::ensure!(status.success(), "an activator that was asked to leave ended with {status}");
            }
            Pause => crew.pause(at, Duration::from_millis(rng.random_range(50..1500))).await?,
            LongPause => crew.pause(at, MISSED).await?,
        }
        // Every second time the next deed comes before this one is over for everybody.
        if rng.random_bool(0.5) {
            crew.all_ready().await?;
        }
    }
    crew.all_ready().await
}
