//! Processes of the platform that go away under load.

use crate::activators::{needs_the_node, none_failed};
use crate::world::{World, function, ok};
use anyhow::{Context, Result};
use dormouse_tests::checker::Verdict;
use dormouse_tests::cluster::{LIMIT, SYSTEM, pod_name};
use dormouse_tests::journal::Journal;
use dormouse_tests::load::open;
use dormouse_tests::proc::{find_in_pod, signal};
use dormouse_tests::usage::lately;
use dormouse_tests::wait::until;
use nix::sys::signal::Signal;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const CONTROLLER: &str = "app.kubernetes.io/component=controller";
const ACTIVATOR: &str = "app.kubernetes.io/component=activator";

/// Calls per second.
const RATE: u32 = 50;

/// How long the controller is away: in the long form for minutes.
const AWAY: [Duration; 2] = [Duration::from_secs(30), Duration::from_secs(180)];

/// How long before the controller comes back the call is made that waits for it: it may wait for 80 s.
const LAST: Duration = Duration::from_secs(5);

/// Without a controller warm calls go on, and a call that needs a start waits until it is back.
pub(crate) async fn the_controller_goes_and_comes_back(world: World) -> Result<()> {
    world
        .alone("restart", |world, space| async move {
            space.apply(&function("warm", &["idleTimeoutSeconds: 600"]))?;
            space.apply(&function("cold", &["idleTimeoutSeconds: 1", "queue: {maxWaitSeconds: 80}"]))?;
            space.ready("warm", "True").await?;
            space.ready("cold", "True").await?;
            space.pods_are("cold", 0).await?;
            ok(&world.by_host(&space, "warm", "/")).await?;
            let warm_pods: Vec<_> = space.pods("warm").await?.iter().map(pod_name).collect();

            world.cluster.kubectl(&["scale", "deployment/dormouse-controller", "-n", SYSTEM, "--replicas=0"])?;
            until("the controller's pod is gone", LIMIT, || async {
                let left = world.cluster.pods(SYSTEM, CONTROLLER).await?.len();
                anyhow::ensure!(left == 0, "{left} left");
                Ok(())
            })
            .await?;
            let (stop, journal) = (CancellationToken::new(), Arc::new(Journal::default()));
            let load = tokio::spawn({
                let (target, stop, journal) = (world.by_host(&space, "warm", "/"), stop.clone(), journal.clone());
                async move { open(&target, RATE, stop, journal).await }
            });
            tokio::time::sleep(AWAY[usize::from(world.long)].saturating_sub(LAST)).await;
            let waiting = tokio::spawn({
                let target = world.by_host(&space, "cold", "/");
                async move { target.call(1).await }
            });
            tokio::time::sleep(LAST).await;
            let early = waiting.is_finished();
            stop.cancel();
            let report = load.await?;
            world.cluster.kubectl(&["scale", "deployment/dormouse-controller", "-n", SYSTEM, "--replicas=1"])?;
            none_failed(&report)?;
            anyhow::ensure!(!early, "a call that needs a start ended without a controller");
            let cold = journal.entries().iter().filter(|e| e.cold).count();
            anyhow::ensure!(cold == 0, "{cold} calls of a warm function waited for a start");
            let answer = waiting.await??;
            anyhow::ensure!(answer.status == 200 && answer.cold(), "{answer}");
            let after: Vec<_> = space.pods("warm").await?.iter().map(pod_name).collect();
            anyhow::ensure!(warm_pods == after, "a running pod was replaced: {warm_pods:?}, now {after:?}");
            world.cluster.system_ready().await?;
            // The first one and the one that waited.
            world.recorded(&space.name, usize::try_from(report.calls())? + 2).await.map(drop)
        })
        .await
}

/// `kill -9` of each process in its container, under load: records and answers agree.
pub(crate) async fn killed_processes_lose_no_record(world: World) -> Result<()> {
    needs_the_node()?;
    let victims: &[(&str, &str)] =
        &[(ACTIVATOR, "dormouse-activator"), (CONTROLLER, "dormouse-controller"), (ACTIVATOR, "dormouse-activator")];
    world
        .alone("kill", |world, space| async move {
            space.apply(&function("killed", &["idleTimeoutSeconds: 120", "queue: {maxWaitSeconds: 60}"]))?;
            space.ready("killed", "True").await?;
            let (stop, journal) = (CancellationToken::new(), Arc::new(Journal::default()));
            let load = tokio::spawn({
                let (target, stop, journal) =
                    (world.by_host(&space, "killed", "/delay?ms=20"), stop.clone(), journal.clone());
                async move { open(&target, RATE, stop, journal).await }
            });
            let result = kill_all(&world, victims, &journal).await;
            stop.cancel();
            let report = load.await?;
            result.with_context(|| report.to_string())?;
            let entries = journal.entries();
            until("the ledger agrees with the client", LIMIT, || async {
                let query = format!("{}&namespace={}", lately(), space.name);
                let verdict = Verdict::of(&entries, &world.usage.request_ids(&query).await?);
                anyhow::ensure!(verdict.good(), "{verdict}");
                Ok(())
            })
            .await
        })
        .await
}

async fn kill_all(world: &World, victims: &[(&str, &str)], journal: &Journal) -> Result<()> {
    for (label, program) in victims {
        // Some calls before each kill, so that there is something to lose.
        tokio::time::sleep(Duration::from_millis(700)).await;
        let pods = world.cluster.pods(SYSTEM, label).await?;
        let uid = pods.first().and_then(|p| p.metadata.uid.clone()).context("no pod")?;
        let pid = find_in_pod(&uid, program)?;
        signal(pid, Signal::SIGKILL)?;
        let answered = journal.entries().iter().filter(|e| e.must_be_recorded()).count();
        until(&format!("{program} is back"), LIMIT, || async {
            anyhow::ensure!(find_in_pod(&uid, program).is_ok_and(|new| new != pid), "not started again");
            Ok(())
        })
        .await?;
        until("calls are answered again", LIMIT, || async {
            let now = journal.entries().iter().filter(|e| e.must_be_recorded()).count();
            anyhow::ensure!(now > answered + 10, "{now} after {answered}");
            Ok(())
        })
        .await?;
    }
    world.cluster.system_ready().await
}
