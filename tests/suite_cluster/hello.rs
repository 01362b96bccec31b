//! The example, as its reader runs it.

use crate::world::{DOMAIN, World, ok};
use anyhow::{Context, Result};
use dormouse_core::function::Function;
use dormouse_tests::client::Target;
use dormouse_tests::cluster::{LIMIT, Space};
use dormouse_tests::usage::lately;
use dormouse_tests::wait::until;

const MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/hello/function.yaml");

/// apply, get, call by host and by path, 0 -> 1 -> 0 pods, records, delete.
pub(crate) async fn one_function_from_apply_to_delete(world: World) -> Result<()> {
    let result = example(&world).await;
    world.cluster.kubectl(&["delete", "-f", MANIFEST, "--ignore-not-found", "--timeout=60s"])?;
    result?;
    let space = Space { cluster: world.cluster.clone(), name: "default".into() };
    space.pods_are("hello", 0).await?;
    let left = space.deployments("hello").await?;
    anyhow::ensure!(left.is_empty(), "Deployments are left: {left:?}");
    Ok(())
}

async fn example(world: &World) -> Result<()> {
    let space = Space { cluster: world.cluster.clone(), name: "default".into() };
    world.cluster.kubectl(&["apply", "-f", MANIFEST])?;
    world.cluster.kubectl(&["wait", "--for=condition=Ready", "fn/hello", "--timeout=60s"])?;
    let function = space.ready("hello", "True").await?;
    seen_by_the_start_check(&space, &function).await?;
    columns(&world.cluster.kubectl(&["get", "fn", "hello"])?)?;
    space.pods_are("hello", 0).await?;

    let by_host = Target::new(world.activator, format!("hello.default.{DOMAIN}"), "/");
    let cold = ok(&by_host).await?;
    anyhow::ensure!(cold.cold(), "the first call did not wait for a start: {:?}", cold.headers);
    anyhow::ensure!(cold.text().starts_with("Hello from hello"), "{cold}");
    let warm = ok(&world.by_path(&space, "hello", "/echo/x?y=1")).await?;
    anyhow::ensure!(!warm.cold(), "the second call waited for a start: {:?}", warm.headers);
    anyhow::ensure!(warm.header("x-echo-path") == "/echo/x?y=1", "the prefix is not stripped: {:?}", warm.headers);
    let prefix = warm.header("x-echo-x-forwarded-prefix");
    anyhow::ensure!(prefix == "/fn/default/hello", "X-Forwarded-Prefix is {prefix:?}");
    space.pods_are("hello", 1).await?;
    space.pods_are("hello", 0).await.context("idleTimeoutSeconds after the last call")?;
    let asleep = space.ready("hello", "True").await?;
    anyhow::ensure!(no_false_condition(&asleep), "an idle function has a False condition: {:?}", asleep.status);

    let uid = function.metadata.uid.context("no uid")?;
    let query = format!("{}&namespace=default&function=hello", lately());
    let records = until("the two calls are recorded", LIMIT, || async {
        let mut records = world.usage.records(&query).await?;
        records.retain(|r| r["function_uid"] == uid.as_str());
        anyhow::ensure!(records.len() == 2, "{records:?}");
        Ok(records)
    })
    .await?;
    for (call, started) in [(&cold, true), (&warm, false)] {
        let record = records.iter().find(|r| r["request_id"] == call.request_id());
        let record = record.with_context(|| format!("{} is not recorded: {records:?}", call.request_id()))?;
        anyhow::ensure!(record["cold"] == started && record["status"] == 200 && record["outcome"] == "ok", "{record}");
    }
    Ok(())
}

/// Ready by a start that was seen: a pod was there, the digest of its image is known, and it was told.
async fn seen_by_the_start_check(space: &Space, function: &Function) -> Result<()> {
    let status = function.status.clone().unwrap_or_default();
    anyhow::ensure!(no_false_condition(function), "a False condition: {status:?}");
    let resolved = status.conditions.iter().find(|c| c.type_ == "ImageResolved");
    anyhow::ensure!(resolved.is_some_and(|c| c.status == "True"), "the image was not seen: {status:?}");
    let events = until("an event of hello", LIMIT, || async {
        let events = space.events("hello").await?;
        anyhow::ensure!(!events.is_empty(), "none");
        Ok(events)
    });
    events.await.map(drop)
}

fn no_false_condition(function: &Function) -> bool {
    let status = function.status.clone().unwrap_or_default();
    status.conditions.iter().all(|c| c.status != "False")
}

fn columns(table: &str) -> Result<()> {
    let (head, row) = table.split_once('\n').context("no row")?;
    let names: Vec<&str> = head.split_whitespace().collect();
    anyhow::ensure!(names == ["NAME", "URL", "READY", "REASON", "INSTANCES", "NEXT", "AGE"], "{names:?}");
    let cells: Vec<&str> = row.split_whitespace().collect();
    // Without schedules there is no next time.
    anyhow::ensure!(cells.len() == 6, "empty cells: {row}");
    anyhow::ensure!(cells[0] == "hello" && cells[1].starts_with("http://") && cells[2] == "True", "{row}");
    Ok(())
}
