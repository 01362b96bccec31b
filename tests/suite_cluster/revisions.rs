//! What a change of the spec does to pods and callers.

use crate::world::{World, function, ok};
use anyhow::{Context, Result};
use dormouse_tests::cluster::{LIMIT, Space, pod_name};
use dormouse_tests::journal::Journal;
use dormouse_tests::load::open;
use dormouse_tests::wait::until;
use serde_json::json;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Calls per second while a revision rolls.
const RATE: u32 = 20;

/// A changed env: a second Deployment, traffic moves, the first one goes; not one call fails, long ones included.
pub(crate) async fn a_changed_env_rolls_without_a_failed_call(world: World) -> Result<()> {
    world
        .alone("roll", |world, space| async move {
            space.apply(&function("roll", &["idleTimeoutSeconds: 30"]))?;
            let before = space.ready("roll", "True").await?.status.and_then(|s| s.revision).context("no revision")?;
            ok(&world.by_host(&space, "roll", "/")).await?;
            let (stop, journal) = (CancellationToken::new(), Arc::new(Journal::default()));
            let load = tokio::spawn({
                let (target, stop, journal) =
                    (world.by_host(&space, "roll", "/delay?ms=50"), stop.clone(), journal.clone());
                async move { open(&target, RATE, stop, journal).await }
            });
            let long = tokio::spawn({
                let target = world.by_host(&space, "roll", "/delay?ms=4000");
                async move { target.call(1).await }
            });
            until("calls are running", LIMIT, || async {
                anyhow::ensure!(journal.entries().len() >= 10, "{} so far", journal.entries().len());
                Ok(())
            })
            .await?;

            space.patch("roll", &json!({"spec": {"env": [{"name": "GREETING", "value": "changed"}]}})).await?;
            let both = until("two Deployments", LIMIT, || two_deployments(&space)).await?;
            let answer = until("the new revision answers", LIMIT, || async {
                let answer = ok(&world.by_host(&space, "roll", "/env")).await?;
                anyhow::ensure!(answer.text().contains("GREETING=changed"), "{answer}");
                Ok(answer)
            });
            let answer = answer.await?;
            anyhow::ensure!(!answer.text().contains(&before), "the revision's name did not change: {answer}");
            let long = long.await??;
            anyhow::ensure!(long.status == 200, "a call that ran over the change: {long}");
            until("the old Deployment is gone", LIMIT, || async {
                let left = space.deployments("roll").await?.len();
                anyhow::ensure!(left == 1, "{left} Deployments of {both:?}");
                Ok(())
            })
            .await?;
            stop.cancel();
            let report = load.await?;
            anyhow::ensure!(report.failed() == 0, "{report}");
            Ok(())
        })
        .await
}

async fn two_deployments(space: &Space) -> Result<Vec<String>> {
    let names: Vec<String> = space.deployments("roll").await?.into_iter().filter_map(|d| d.metadata.name).collect();
    anyhow::ensure!(names.len() == 2, "{names:?}");
    Ok(names)
}

/// A revision whose image cannot be pulled: the old one keeps answering.
pub(crate) async fn a_revision_that_cannot_start_takes_no_traffic(world: World) -> Result<()> {
    world
        .alone("stuck", |world, space| async move {
            space.apply(&function("stuck", &["idleTimeoutSeconds: 60", "timeoutSeconds: 5"]))?;
            space.ready("stuck", "True").await?;
            ok(&world.by_host(&space, "stuck", "/")).await?;
            space.patch("stuck", &json!({"spec": {"image": "registry.invalid/no/such:image"}})).await?;
            until("the trouble is told", LIMIT, || async {
                let status = space.function("stuck").await?.status.unwrap_or_default();
                let told = status.conditions.iter().any(|c| c.reason == "ImagePullFailed");
                anyhow::ensure!(told, "{:?}", status.conditions);
                Ok(())
            })
            .await?;
            for _ in 0..20 {
                ok(&world.by_host(&space, "stuck", "/")).await?;
            }
            Ok(())
        })
        .await
}

/// Scaling fields: the same pod before and after.
pub(crate) async fn scaling_fields_roll_nothing(world: World) -> Result<()> {
    world
        .alone("scaling", |world, space| async move {
            space.apply(&function("scaling", &["idleTimeoutSeconds: 60"]))?;
            space.ready("scaling", "True").await?;
            ok(&world.by_host(&space, "scaling", "/")).await?;
            let before: Vec<_> = space.pods_are("scaling", 1).await?.iter().map(pod_name).collect();
            let spec =
                json!({"idleTimeoutSeconds": 90, "concurrency": 7, "queue": {"maxCalls": 11, "maxWaitSeconds": 13}});
            let changed = space.patch("scaling", &json!({ "spec": spec })).await?.metadata.generation;
            until("the change is observed", LIMIT, || async {
                let status = space.function("scaling").await?.status.unwrap_or_default();
                anyhow::ensure!(status.observed_generation == changed, "{status:?}");
                Ok(())
            })
            .await?;
            let warm = ok(&world.by_host(&space, "scaling", "/")).await?;
            anyhow::ensure!(!warm.cold(), "{:?}", warm.headers);
            let after: Vec<_> = space.pods("scaling").await?.iter().map(pod_name).collect();
            anyhow::ensure!(before == after, "pods were {before:?} and are {after:?}");
            anyhow::ensure!(space.deployments("scaling").await?.len() == 1, "a second Deployment");
            Ok(())
        })
        .await
}
