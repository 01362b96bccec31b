//! `kubectl delete fn` while a call runs.

use crate::world::{World, function, ok};
use anyhow::Result;
use dormouse_core::function::Function;
use dormouse_tests::cluster::{LIMIT, is_gone};
use dormouse_tests::wait::until;
use std::time::Duration;

/// The running call ends as it would have; new ones are refused; afterwards nothing is left.
pub(crate) async fn a_running_call_ends_before_the_function_does(world: World) -> Result<()> {
    world
        .alone("delete", |world, space| async move {
            space.apply(&function("going", &["idleTimeoutSeconds: 60"]))?;
            space.ready("going", "True").await?;
            ok(&world.by_host(&space, "going", "/")).await?;
            let running = tokio::spawn({
                let target = world.by_host(&space, "going", "/delay?ms=4000");
                async move { target.call(1).await }
            });
            // The call must be on its way before the delete: a tenth of its length is plenty.
            tokio::time::sleep(Duration::from_millis(400)).await;
            space.cluster.kubectl(&["delete", "fn", "going", "-n", &space.name, "--wait=false"])?;
            until("new calls are refused", LIMIT, || async {
                let answer = world.by_host(&space, "going", "/").call(2).await?;
                let refused = [("FunctionDeleted", 503), ("UnknownFunction", 404)];
                let given = (answer.reason(), answer.status.as_u16());
                anyhow::ensure!(refused.contains(&given), "{answer}");
                Ok(())
            })
            .await?;
            let answer = running.await??;
            anyhow::ensure!(answer.status == 200 && answer.text().starts_with("waited"), "{answer}");
            until("everything is gone", LIMIT, || async {
                let left = (space.pods("going").await?.len(), space.deployments("going").await?.len());
                anyhow::ensure!(left == (0, 0), "pods and Deployments left: {left:?}");
                match space.api::<Function>().get("going").await {
                    Err(error) if is_gone(&error) => Ok(()),
                    other => anyhow::bail!("{other:?}"),
                }
            })
            .await
        })
        .await
}
