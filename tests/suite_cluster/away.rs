//! The API server is away: it is stopped, so that every connection to it stays open and nobody answers.

use crate::activators::{needs_the_node, none_failed};
use crate::world::{World, function, ok};
use anyhow::Result;
use dormouse_core::function::Function;
use dormouse_tests::cluster::{LIMIT, pod_name};
use dormouse_tests::journal::Journal;
use dormouse_tests::load::open;
use dormouse_tests::trouble::Stopped;
use dormouse_tests::wait::until;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Calls per second meanwhile.
const RATE: u32 = 50;

/// How long before it comes back the waiting calls are made; they may wait for longer than that by far.
const LAST: Duration = Duration::from_secs(20);

/// Warm calls are all answered, calls that need a start wait and are answered afterwards, and what was applied and called
/// then is as if nothing had been.
pub(crate) async fn the_api_server_goes_and_comes_back(world: World) -> Result<()> {
    needs_the_node()?;
    let away = Duration::from_secs(if world.long { 180 } else { 30 });
    world
        .alone("away", |world, space| async move {
            space.apply(&function("warm", &["idleTimeoutSeconds: 600"]))?;
            space.apply(&function("cold", &["idleTimeoutSeconds: 1", "queue: {maxWaitSeconds: 80}"]))?;
            space.ready("warm", "True").await?;
            space.ready("cold", "True").await?;
            space.pods_are("cold", 0).await?;
            ok(&world.by_host(&space, "warm", "/")).await?;
            let before: Vec<_> = space.pods("warm").await?.iter().map(pod_name).collect();
            let (stop, journal) = (CancellationToken::new(), Arc::new(Journal::default()));
            let load = tokio::spawn({
                let (target, stop, journal) = (world.by_host(&space, "warm", "/"), stop.clone(), journal.clone());
                async move { open(&target, RATE, stop, journal).await }
            });

            let stopped = Stopped::api_server()?;
            tokio::time::sleep(away.saturating_sub(LAST)).await;
            let waiting: Vec<_> = (0..10)
                .map(|number| {
                    let target = world.by_host(&space, "cold", "/");
                    tokio::spawn(async move { target.call(number).await })
                })
                .collect();
            let (unknown, operator) = (world.usage.with(Some("nobody-can-say")), world.usage.ask("/v1/prices").await?);
            let unasked = unknown.ask("/v1/prices").await?;
            anyhow::ensure!(operator.status == 200, "the operator's token needs no API server: {operator}");
            anyhow::ensure!(unasked.status == 503 && !unasked.header("retry-after").is_empty(), "{unasked}");
            tokio::time::sleep(LAST).await;
            let early = waiting.iter().filter(|call| call.is_finished()).count();
            let meanwhile = journal.entries().len();
            drop(stopped);
            anyhow::ensure!(early == 0, "{early} calls that need a start ended without an API server");
            for call in waiting {
                let answer = call.await??;
                anyhow::ensure!(answer.status == 200 && answer.cold(), "{answer}");
            }
            // What is new after it works as ever.
            space.apply(&function("new", &["idleTimeoutSeconds: 1"]))?;
            space.ready("new", "True").await?;
            ok(&world.by_host(&space, "new", "/")).await?;
            stop.cancel();
            let report = load.await?;
            none_failed(&report)?;
            let cold = journal.entries().iter().filter(|e| e.cold).count();
            anyhow::ensure!(cold == 0, "{cold} calls of a warm function waited for a start");
            let least = usize::try_from(away.as_secs() * u64::from(RATE) / 2)?;
            anyhow::ensure!(meanwhile > least, "{meanwhile} calls meanwhile: the load did not run");
            let after: Vec<_> = space.pods("warm").await?.iter().map(pod_name).collect();
            anyhow::ensure!(before == after, "a running pod was replaced: {before:?}, now {after:?}");
            space.pods_are("cold", 0).await?;
            space.pods_are("new", 0).await?;
            until("every function is told whole", LIMIT, || async {
                let all = space.api::<Function>().list(&kube::api::ListParams::default()).await?;
                let told =
                    |f: &Function| f.status.as_ref().and_then(|s| s.observed_generation) == f.metadata.generation;
                anyhow::ensure!(all.items.len() == 3 && all.items.iter().all(told), "{:?}", all.items);
                Ok(())
            })
            .await?;
            world.cluster.system_ready().await?;
            crate::say(&format!("    {meanwhile} calls in the {} s without it; {report}", away.as_secs()));
            // The first one, ten that waited, one of the new function.
            world.recorded(&space.name, usize::try_from(report.calls())? + 12).await.map(drop)
        })
        .await
}
