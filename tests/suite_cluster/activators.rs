//! Two activators: one is replaced, one is killed, one is lost with what it ran.

use crate::world::{World, function, ok};
use anyhow::{Context, Result};
use dormouse_tests::checker::Verdict;
use dormouse_tests::client::{Answer, CallError, Target};
use dormouse_tests::cluster::{LIMIT, SYSTEM, Space, pod_name};
use dormouse_tests::journal::{Entry, Fate, Journal};
use dormouse_tests::load::{Report, open};
use dormouse_tests::proc::{find_in_pod, signal};
use dormouse_tests::usage::lately;
use dormouse_tests::wait::until;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::runtime::{WatchStreamExt, watcher};
use nix::sys::signal::Signal;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const ACTIVATOR: &str = "app.kubernetes.io/component=activator";
const DEPLOYMENT: &str = "deployment/dormouse-activator";

/// Calls per second while activators are replaced, and calls that wait all the time.
const RATE: u32 = 300;
const WAITING: u64 = 200;

/// Calls that run on each activator when one is killed.
const RUNNING: u64 = 20;

/// Both activators are replaced under load, with calls waiting that nobody can answer before: none fails, each has its
/// record, and each of the old ones ends with 0.
pub(crate) async fn replaced_activators_fail_no_call(world: World) -> Result<()> {
    let rounds = if world.long { 5 } else { 1 };
    with_two(&world, |world| async move {
        for _ in 0..rounds {
            world.alone("replaced", replaced).await?;
        }
        Ok(())
    })
    .await
}

async fn replaced(world: World, space: Space) -> Result<()> {
    space.apply(&function("warm", &["idleTimeoutSeconds: 120"]))?;
    // No node has so many cores: its calls wait until it is told to want fewer.
    let big = function("big", &["startCheck: Never", "idleTimeoutSeconds: 5", "queue: {maxWaitSeconds: 80}"]);
    space.apply(&big.replace("cpu: 10m", "cpu: '256'"))?;
    space.ready("warm", "True").await?;
    space.ready("big", "True").await?;
    ok(&world.by_host(&space, "warm", "/")).await?;
    let before = activators(&world).await?;
    let ends = Ends::watch(&world);
    let (stop, journal) = (CancellationToken::new(), Arc::new(Journal::default()));
    let load = tokio::spawn({
        let (target, stop, journal) = (world.by_host(&space, "warm", "/delay?ms=5"), stop.clone(), journal.clone());
        async move { open(&target, RATE, stop, journal).await }
    });
    let waiting = calls_at_once(WAITING, |_| world.by_host(&space, "big", "/"));
    let result = async {
        until("calls are answered", LIMIT, || async {
            anyhow::ensure!(journal.entries().len() > 100, "{}", journal.entries().len());
            Ok(())
        })
        .await?;
        world.cluster.kubectl(&["rollout", "restart", DEPLOYMENT, "-n", SYSTEM])?;
        world.cluster.kubectl(&["rollout", "status", DEPLOYMENT, "-n", SYSTEM, "--timeout=120s"])?;
        // Those that are replaced have the calls that wait, and may not end before these have.
        space.patch("big", &json!({"spec": {"resources": {"cpu": "10m"}}})).await?;
        let all: BTreeSet<String> = before.iter().map(pod_name).collect();
        ends.of(&all).await
    };
    let result = result.await;
    stop.cancel();
    let report = load.await?;
    let codes = result.with_context(|| report.to_string())?;
    anyhow::ensure!(report.failed() == 0 && report.calls() > 300, "{report}");
    anyhow::ensure!(codes.iter().all(|(_, code)| *code == 0), "exit codes {codes:?}");
    let answers = waiting.await?;
    let answered = answers.iter().filter(|a| a.as_ref().is_ok_and(|a| a.status == 200)).count();
    let other = answers.iter().find(|a| !a.as_ref().is_ok_and(|a| a.status == 200));
    anyhow::ensure!(answered == usize::try_from(WAITING)?, "{answered} of the waiting calls answered, one: {other:?}");
    let expected = usize::try_from(report.calls() + WAITING)? + 1;
    world.recorded(&space.name, expected).await?;
    crate::say(&format!("    {report}; {answered} waiting calls answered; exit codes {codes:?}"));
    Ok(())
}

/// `kill -9` in one of two: the calls that it was running break, all others are answered, records agree, and it comes back.
pub(crate) async fn a_killed_activator_takes_only_its_own_calls(world: World) -> Result<()> {
    needs_the_node()?;
    with_two(&world, |world| async move { world.alone("killed-one", killed).await }).await
}

async fn killed(world: World, space: Space) -> Result<()> {
    space.apply(&function("killed", &["idleTimeoutSeconds: 120", "queue: {maxWaitSeconds: 60}"]))?;
    space.ready("killed", "True").await?;
    ok(&world.by_host(&space, "killed", "/")).await?;
    let pods = activators(&world).await?;
    let [victim, other] = pods.as_slice() else { anyhow::bail!("{} activators", pods.len()) };
    let to = |pod: &Pod, path: &str| -> Result<Target> {
        Ok(Target { addr: address(pod)?, ..world.by_host(&space, "killed", path) })
    };
    for pod in &pods {
        until("it serves", LIMIT, || async { ok(&to(pod, "/")?).await.map(drop) }).await?;
    }
    let (stop, journal) = (CancellationToken::new(), Arc::new(Journal::default()));
    let load = tokio::spawn({
        let (target, stop, journal) = (to(other, "/delay?ms=5")?, stop.clone(), journal.clone());
        async move { open(&target, RATE / 3, stop, journal).await }
    });
    let (there, here) = (to(victim, "/delay?ms=4000")?, to(other, "/delay?ms=4000")?);
    let lost = calls_at_once(RUNNING, |_| there.clone());
    let kept = calls_at_once(RUNNING, |_| here.clone());
    // They must run before the kill: a quarter of their length is plenty.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let uid = victim.metadata.uid.clone().unwrap_or_default();
    signal(find_in_pod(&uid, "dormouse-activator")?, Signal::SIGKILL)?;
    let (lost, kept) = (lost.await?, kept.await?);
    until("it serves again", LIMIT, || async { ok(&to(victim, "/")?).await.map(drop) }).await?;
    stop.cancel();
    let report = load.await?;
    anyhow::ensure!(report.failed() == 0 && report.calls() > 100, "on the other one: {report}");
    let whole = kept.iter().filter(|a| a.as_ref().is_ok_and(|a| a.status == 200)).count();
    let broken = lost.iter().filter(|a| matches!(a, Err(CallError::Indeterminate(_)))).count();
    anyhow::ensure!((whole, broken) == (kept.len(), lost.len()), "{whole} {broken} {kept:?} {lost:?}");
    let mut entries = journal.entries();
    let others = kept.iter().chain(&lost).enumerate();
    entries.extend(others.map(|(n, a)| Entry::of(n as u64, Duration::ZERO, Duration::ZERO, &copy(a))));
    until("the ledger agrees with the client", LIMIT, || async {
        let ids = world.usage.request_ids(&format!("{}&namespace={}", lately(), space.name)).await?;
        // Each probe above is answered and recorded too, and is not in the journal.
        let known: BTreeSet<&str> = entries.iter().map(|e| e.request_id.as_str()).collect();
        let missing = entries.iter().filter(|e| e.fate == Fate::Ok && !ids.contains(&e.request_id)).count();
        let ours: Vec<&String> = ids.iter().filter(|id| known.contains(id.as_str())).collect();
        let verdict = Verdict::of(&entries, &ours);
        anyhow::ensure!(missing == 0 && verdict.good(), "{missing} missing; {verdict}");
        Ok(())
    })
    .await
}

/// An activator that is lost with its pod while it runs calls: what it ran is forgotten when its pod is gone, so that the
/// instance it was using goes to sleep.
pub(crate) async fn a_lost_activator_keeps_no_instance_awake(world: World) -> Result<()> {
    needs_the_node()?;
    with_two(&world, |world| async move {
        world
            .alone("lost", |world, space| async move {
                space.apply(&function("lost", &["idleTimeoutSeconds: 2", "timeoutSeconds: 10"]))?;
                space.ready("lost", "True").await?;
                let pods = activators(&world).await?;
                let victim = pods.first().context("no activator")?;
                let target = Target { addr: address(victim)?, ..world.by_host(&space, "lost", "/delay?ms=8000") };
                let running = calls_at_once(RUNNING, |_| target.clone());
                until("the calls run", LIMIT, || async {
                    let status = space.function("lost").await?.status.unwrap_or_default();
                    anyhow::ensure!(status.state == Some(dormouse_core::function::State::Active), "{status:?}");
                    Ok(())
                })
                .await?;
                // They must all have arrived: an eighth of their length is plenty.
                tokio::time::sleep(Duration::from_secs(1)).await;
                // Its container is kept from coming back under its name by the pod's end.
                let uid = victim.metadata.uid.clone().unwrap_or_default();
                let name = pod_name(victim);
                let pid = find_in_pod(&uid, "dormouse-activator")?;
                world.cluster.kubectl(&["delete", "pod", &name, "-n", SYSTEM, "--grace-period=1", "--wait=false"])?;
                signal(pid, Signal::SIGKILL)?;
                let answers = running.await?;
                let broken = answers.iter().filter(|a| a.is_err()).count();
                anyhow::ensure!(broken == answers.len(), "{broken} of {} broken", answers.len());
                // Sooner than a silent activator is given up for lost (120 s): LIMIT is half of that.
                space.pods_are("lost", 0).await?;
                world.cluster.system_ready().await
            })
            .await
    })
    .await
}

/// A case with two activators; afterwards there is one again, whatever came.
async fn with_two<F, Fut>(world: &World, case: F) -> Result<()>
where
    F: FnOnce(World) -> Fut,
    Fut: Future<Output = Result<()>>,
{
    let scale = |n: &str| world.cluster.kubectl(&["scale", DEPLOYMENT, "-n", SYSTEM, n]);
    scale("--replicas=2")?;
    let result = async {
        world.cluster.system_ready().await?;
        case(world.clone()).await
    };
    let result = result.await;
    scale("--replicas=1")?;
    result?;
    until("one activator is left", LIMIT, || async {
        let left = world.cluster.pods(SYSTEM, ACTIVATOR).await?.len();
        anyhow::ensure!(left == 1, "{left}");
        Ok(())
    })
    .await
}

/// The activators that serve.
async fn activators(world: &World) -> Result<Vec<Pod>> {
    let pods = world.cluster.pods(SYSTEM, ACTIVATOR).await?;
    Ok(pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect())
}

fn address(pod: &Pod) -> Result<SocketAddr> {
    let ip = pod.status.as_ref().and_then(|s| s.pod_ip.as_deref()).context("a pod without address")?;
    Ok(SocketAddr::new(ip.parse()?, 8080))
}

pub(crate) fn needs_the_node() -> Result<()> {
    anyhow::ensure!(
        std::env::var_os("DORMOUSE_TEST_NETNS").is_some(),
        "processes of this cluster's nodes cannot be reached from here: run it on the project's own test cluster"
    );
    Ok(())
}

type Outcome = Result<Answer, CallError>;

/// Calls at once, each on a connection of its own; how they ended, in any order.
fn calls_at_once(n: u64, target: impl Fn(u64) -> Target) -> tokio::task::JoinHandle<Vec<Outcome>> {
    let mut calls = JoinSet::new();
    for number in 0..n {
        let target = target(number);
        calls.spawn(async move { target.call(number).await });
    }
    tokio::spawn(async move { calls.join_all().await })
}

fn copy(outcome: &Outcome) -> Outcome {
    match outcome {
        Ok(answer) => Ok(answer.clone()),
        Err(CallError::NotSent(why)) => Err(CallError::NotSent(why.clone())),
        Err(CallError::Indeterminate(why)) => Err(CallError::Indeterminate(why.clone())),
    }
}

/// With which code the activators' processes ended, pod by pod: told by a watch, because a pod that has ended is soon gone.
struct Ends {
    seen: tokio::sync::watch::Receiver<BTreeMap<String, i32>>,
    _watch: tokio_util::task::AbortOnDropHandle<()>,
}

impl Ends {
    fn watch(world: &World) -> Self {
        let (tell, seen) = tokio::sync::watch::channel(BTreeMap::new());
        let api = Api::<Pod>::namespaced(world.cluster.client.clone(), SYSTEM);
        let stream = watcher(api, watcher::Config::default().labels(ACTIVATOR)).default_backoff();
        let watch = tokio::spawn(async move {
            let mut stream = std::pin::pin!(stream.applied_objects());
            while let Some(event) = stream.next().await {
                let Ok(pod) = event else { continue };
                let containers = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
                let code = containers.filter_map(|c| c.state.as_ref()?.terminated.as_ref()).map(|t| t.exit_code).next();
                if let Some(code) = code {
                    tell.send_modify(|seen| {
                        seen.insert(pod_name(&pod), code);
                    });
                }
            }
        });
        Self { seen, _watch: tokio_util::task::AbortOnDropHandle::new(watch) }
    }

    /// The codes of these pods, once all have ended.
    async fn of(&self, pods: &BTreeSet<String>) -> Result<BTreeMap<String, i32>> {
        until("the replaced activators have ended", 2 * LIMIT, || async {
            let seen = self.seen.borrow().clone();
            anyhow::ensure!(pods.iter().all(|pod| seen.contains_key(pod)), "{pods:?}: ended {seen:?}");
            Ok(seen.into_iter().filter(|(pod, _)| pods.contains(pod)).collect())
        })
        .await
    }
}

/// How a load went that nothing may disturb.
pub(crate) fn none_failed(report: &Report) -> Result<()> {
    anyhow::ensure!(report.failed() == 0 && report.calls() > 0, "{report}");
    Ok(())
}
