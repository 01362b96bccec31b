//! Things go wrong one after the other while calls go to five functions: every call is answered but those that ran in a
//! process at the moment at which it was killed, and in the end everything is as if nothing had been.

use crate::activators::needs_the_node;
use crate::world::{World, function};
use anyhow::{Context, Result};
use dormouse_tests::checker::Verdict;
use dormouse_tests::client::Target;
use dormouse_tests::cluster::{FUNCTION_LABEL, LIMIT, Space, pod_name, unless_gone};
use dormouse_tests::journal::{Entry, Journal};
use dormouse_tests::load::open;
use dormouse_tests::trouble::{Cordoned, Stopped, kill, kill_controller};
use dormouse_tests::usage::lately;
use dormouse_tests::wait::until;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, EvictParams};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Name, spec, path and calls per second of each function. The load is light: one node of two cores carries everything.
const FUNCTIONS: [(&str, &[&str], &str, u32); 5] = [
    ("steady", &["idleTimeoutSeconds: 5"], "/delay?ms=20", 20),
    ("edge", &["idleTimeoutSeconds: 1", "startCheck: Never"], "/delay?ms=5", 1),
    // Bounded: what waits while nothing can start would else want an instance for each call, more than a node carries.
    ("single", &["concurrency: 1", "reservedConcurrency: 6", "idleTimeoutSeconds: 3"], "/delay?ms=100", 12),
    (
        "ready",
        &["concurrency: 1", "reservedConcurrency: 4", "warmUpConcurrency: 2", "idleTimeoutSeconds: 3"],
        "/delay?ms=50",
        10,
    ),
    ("slow", &["idleTimeoutSeconds: 2", "startCheck: Never"], "/delay?ms=900", 2),
];

/// Parked pods, which two of the functions wake in at first.
const PARKED: u32 = 2;

/// Most failed calls that are told one by one.
const MAX_TOLD: usize = 100;

/// What goes wrong.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    /// Some pods are deleted, as by `kubectl delete`.
    Delete,
    /// The node takes no pods for a while, and those that it has are evicted.
    Evict,
    /// The tasks of some containers are killed.
    Kill,
    /// The API server stands still.
    Away,
    /// The controller is killed.
    Controller,
}

const ALL: [Trouble; 5] = [Trouble::Delete, Trouble::Evict, Trouble::Kill, Trouble::Away, Trouble::Controller];

pub(crate) async fn calls_survive_what_goes_wrong(world: World) -> Result<()> {
    needs_the_node()?;
    let seed = jiff::Timestamp::now().as_nanosecond().unsigned_abs() as u64;
    world
        .alone("chaos", |world, space| async move { run(&world, &space, seed).await.context(format!("seed {seed}")) })
        .await
}

async fn run(world: &World, space: &Space, seed: u64) -> Result<()> {
    crate::warm::full_pool(space, PARKED).await?;
    for (name, spec, ..) in FUNCTIONS {
        space.apply(&function(
            name,
            &[spec, &["timeoutSeconds: 20", "queue: {maxWaitSeconds: 120, maxCalls: 5000}"]].concat(),
        ))?;
    }
    for (name, ..) in FUNCTIONS {
        space.ready(name, "True").await?;
    }
    let (stop, began) = (CancellationToken::new(), Instant::now());
    let loads: Vec<Load> = FUNCTIONS
        .iter()
        .map(|(name, _, path, rate)| Load::start(world.by_host(space, name, path), *rate, stop.clone()))
        .collect();
    let mut chaos = Chaos { world, space, rng: StdRng::seed_from_u64(seed), kills: Vec::new(), began };
    let result = chaos.rounds(if world.long { 8 } else { 1 }).await;
    let kills = chaos.kills;
    stop.cancel();
    let (mut entries, mut failed) = (Vec::new(), Vec::new());
    for ((name, ..), load) in FUNCTIONS.iter().zip(loads) {
        let of = load.entries().await?;
        failed.extend(of.iter().filter(|e| !(200..300).contains(&e.status)).map(|e| (*name, e.clone())));
        entries.extend(of);
    }
    result?;
    crate::say(&format!(
        "    {} calls, {} failed in {} killed processes (seed {seed})",
        entries.len(),
        failed.len(),
        kills.len()
    ));
    let unexplained: Vec<String> = failed
        .iter()
        .filter(|(name, entry)| !explained(name, entry, &kills))
        .map(|(name, e)| {
            format!("{name}: {} {} due at {} ms, took {} ms", e.status, e.reason, e.due_us / 1000, e.took_us / 1000)
        })
        .collect();
    let (number, first) = (unexplained.len(), &unexplained[..unexplained.len().min(MAX_TOLD)]);
    anyhow::ensure!(unexplained.is_empty(), "{number} unexplained: {first:#?}; killed {kills:?}");
    converged(world, space).await?;
    until("the ledger agrees with the callers", LIMIT, || async {
        let ids = world.usage.request_ids(&format!("{}&namespace={}", lately(), space.name)).await?;
        let verdict = Verdict::of(&entries, &ids);
        anyhow::ensure!(verdict.good(), "{verdict}");
        Ok(())
    })
    .await
}

/// A process that was killed.
#[derive(Debug)]
struct Killed {
    function: String,
    /// Since the loads began.
    at: Duration,
}

/// The loads begin a little after the clock of the kills.
const APART: Duration = Duration::from_millis(700);

/// Its instance died, and its caller was told so: it ran, or was about to, when a process of the function was killed.
/// However late it was told.
fn explained(function: &str, entry: &Entry, kills: &[Killed]) -> bool {
    let (begin, end) = (Duration::from_micros(entry.due_us), Duration::from_micros(entry.due_us + entry.took_us));
    let met = |killed: &Killed| killed.function == function && begin < killed.at + APART && killed.at < end + APART;
    entry.status == 502 && entry.reason == "InstanceDied" && kills.iter().any(met)
}

fn function_of(pod: &Pod) -> Option<String> {
    pod.metadata.labels.as_ref()?.get(FUNCTION_LABEL).cloned()
}

/// Nothing is left but what is to be there.
async fn converged(world: &World, space: &Space) -> Result<()> {
    world.cluster.system_ready().await?;
    for (name, ..) in FUNCTIONS {
        space.ready(name, "True").await?;
    }
    until("only warm and parked pods are left", LIMIT, || async {
        let pods = space.cluster.pods(&space.name, "").await?;
        let parked = pods.iter().filter(|p| function_of(p).is_none()).count();
        let names: Vec<String> = pods.iter().map(pod_name).collect();
        let warm = pods.iter().filter(|p| function_of(p).is_some_and(|f| f == "ready")).count();
        anyhow::ensure!((parked, warm, pods.len()) == (PARKED as usize, 2, PARKED as usize + 2), "{names:?}");
        Ok(())
    })
    .await?;
    for (name, ..) in FUNCTIONS {
        let wanted = if name == "ready" { 2 } else { 0 };
        let made: Vec<_> = space.deployments(name).await?.iter().map(|d| d.spec.replicas).collect();
        anyhow::ensure!(made == [Some(wanted)], "{name} has Deployments with {made:?}");
    }
    crate::warm::full_pool(space, PARKED).await
}

struct Load {
    journal: Arc<Journal>,
    task: JoinHandle<dormouse_tests::load::Report>,
}

impl Load {
    fn start(target: Target, rate: u32, stop: CancellationToken) -> Self {
        let journal = Arc::new(Journal::default());
        let own = journal.clone();
        let task = tokio::spawn(async move { open(&target, rate, stop, own).await });
        Self { journal, task }
    }

    async fn entries(self) -> Result<Vec<Entry>> {
        self.task.await?;
        Ok(self.journal.entries())
    }
}

struct Chaos<'a> {
    world: &'a World,
    space: &'a Space,
    rng: StdRng,
    kills: Vec<Killed>,
    began: Instant,
}

impl Chaos<'_> {
    async fn rounds(&mut self, rounds: u32) -> Result<()> {
        for round in 0..rounds {
            let mut order = ALL;
            order.shuffle(&mut self.rng);
            for trouble in order {
                tokio::time::sleep(Duration::from_millis(self.rng.random_range(2000..5000))).await;
                self.bring(trouble).await.with_context(|| format!("{trouble:?} in round {round}"))?;
            }
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
        Ok(())
    }

    async fn bring(&mut self, trouble: Trouble) -> Result<()> {
        match trouble {
            Trouble::Delete => {
                for pod in self.some().await? {
                    let gone = self.space.api::<Pod>().delete(&pod_name(&pod), &DeleteParams::default()).await;
                    unless_gone(gone)?;
                }
            }
            Trouble::Evict => {
                let cordoned = Cordoned::all(&self.space.cluster)?;
                self.evict_all().await?;
                tokio::time::sleep(Duration::from_secs(2)).await;
                drop(cordoned);
            }
            Trouble::Kill => {
                let api = self.space.api::<Pod>();
                for pod in self.some().await? {
                    let at = self.began.elapsed();
                    // It may have ended by itself since.
                    if kill(&api, &pod, "dormouse").await? {
                        self.kills.push(Killed { function: function_of(&pod).unwrap_or_default(), at });
                    }
                }
            }
            Trouble::Away => {
                let stopped = Stopped::api_server()?;
                tokio::time::sleep(Duration::from_secs(if self.world.long { 30 } else { 10 })).await;
                drop(stopped);
            }
            Trouble::Controller => kill_controller(&self.world.cluster).await?,
        }
        Ok(())
    }

    /// About a half of the pods that serve functions.
    async fn some(&mut self) -> Result<Vec<Pod>> {
        let mut pods = self.space.cluster.pods(&self.space.name, FUNCTION_LABEL).await?;
        pods.retain(|p| p.metadata.deletion_timestamp.is_none());
        Ok(pods.sample(&mut self.rng, pods.len().div_ceil(2)).cloned().collect())
    }

    async fn evict_all(&self) -> Result<()> {
        for pod in self.space.cluster.pods(&self.space.name, FUNCTION_LABEL).await? {
            unless_gone(self.space.api::<Pod>().evict(&pod_name(&pod), &EvictParams::default()).await)?;
        }
        Ok(())
    }
}
