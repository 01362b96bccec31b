//! What a tenant may spend: a Budget of the cluster, told to its owner and to callers.

use crate::usage_api::called;
use crate::world::{World, ok};
use anyhow::Result;
use dormouse_tests::cluster::{LIMIT, Space};
use dormouse_tests::wait::until;

/// Used up, it refuses calls, keeps nothing warm, and says so; raised it serves again; gone nobody is bounded.
pub(crate) async fn a_budget_stops_and_serves_again(world: World) -> Result<()> {
    world
        .alone("budget", |world, space| async move {
            let result = bounded(&world, &space).await;
            space.cluster.kubectl(&["delete", "budget", &space.name, "--ignore-not-found"])?;
            result
        })
        .await
}

fn budget(space: &Space, spec: &str) -> String {
    format!("apiVersion: dormouse.dev/v1alpha1\nkind: Budget\nmetadata: {{name: {}}}\nspec: {{{spec}}}\n", space.name)
}

/// What `kubectl get` says of it.
fn told(space: &Space, field: &str) -> Result<String> {
    let path = format!("jsonpath={{.status.{field}}}");
    space.cluster.kubectl(&["get", "budget", &space.name, "-o", &path])
}

async fn bounded(world: &World, space: &Space) -> Result<()> {
    let both = space.apply(&budget(space, "amount: \"1\", gbSeconds: \"1\"")).err().map(|e| e.to_string());
    anyhow::ensure!(both.as_deref().is_some_and(|e| e.contains("either amount or gbSeconds")), "{both:?}");
    called(world, space).await?;
    space.patch("called", &serde_json::json!({"spec": {"warmUpConcurrency": 1}})).await?;
    space.pods_are("called", 1).await?;
    // A call costs 0.0000002 alone.
    space.apply(&budget(space, "amount: \"0.0000001\", currency: CNY"))?;
    let call = world.by_host(space, "called", "/");
    until("a used-up budget refuses calls", LIMIT, || async {
        let answer = call.call(0).await?;
        anyhow::ensure!(answer.status == 429 && answer.reason() == "BudgetExceeded", "{answer}");
        Ok(())
    })
    .await?;
    until("its status says so", LIMIT, || async {
        let state = told(space, "state")?;
        anyhow::ensure!(state == "Stopped", "{state}");
        Ok(())
    })
    .await?;
    let shown = space.cluster.kubectl(&["get", "budgets"])?;
    anyhow::ensure!(shown.contains("Stopped") && shown.contains("0.0000001 CNY"), "{shown}");
    let listed = space.cluster.dormouse(&["budgets", "--tenant", &space.name])?;
    anyhow::ensure!(listed.contains("Stopped"), "{listed}");
    until("an event says so", LIMIT, || async {
        let name = format!("regarding.name={}", space.name);
        let events = space.cluster.kubectl(&["get", "events.events.k8s.io", "-A", "--field-selector", &name])?;
        anyhow::ensure!(events.contains("BudgetExceeded"), "{events}");
        Ok(())
    })
    .await?;
    // Its warm floor is gone with it.
    space.pods_are("called", 0).await?;
    space.apply(&budget(space, "amount: \"100\", currency: CNY"))?;
    until("a raised budget serves again", LIMIT, || async { ok(&call).await.map(drop) }).await?;
    space.pods_are("called", 1).await?;
    until("its status says so", LIMIT, || async {
        let state = told(space, "state")?;
        anyhow::ensure!(state == "Within", "{state}");
        Ok(())
    })
    .await?;
    space.apply(&budget(space, "amount: \"0.0000001\", currency: USD"))?;
    until("an amount in another currency bounds nothing", LIMIT, || async {
        ok(&call).await?;
        let reason = told(space, "conditions[0].reason")?;
        anyhow::ensure!(reason == "OtherCurrency", "{reason}");
        Ok(())
    })
    .await
}
