//! Calls by the clock, while controllers are killed.

use crate::activators::needs_the_node;
use crate::world::{World, function};
use anyhow::{Context, Result};
use dormouse_core::function::{Fired, Function};
use dormouse_tests::cluster::{LIMIT, Space};
use dormouse_tests::trouble::kill_controller;
use dormouse_tests::usage::lately;
use dormouse_tests::wait::until;
use jiff::Timestamp;
use serde_json::Value;
use std::collections::BTreeSet;

/// Kills, with some calls between them.
const KILLS: usize = 3;
/// Calls between two of them.
const CALLS: usize = 3;

/// Every second second a call is due. However often the controller is killed, each due time is called once at most, and what
/// the status says last of it is so; the columns and the description show it.
pub(crate) async fn a_due_time_is_called_once_whoever_is_killed(world: World) -> Result<()> {
    needs_the_node()?;
    world
        .alone("clock", |world, space| async move {
            let schedule = "schedules: [{name: tick, cron: \"*/2 * * * * *\", body: '{\"a\": 1}'}]";
            space.apply(&function("clock", &["idleTimeoutSeconds: 60", schedule]))?;
            space.ready("clock", "True").await?;
            for kill in 1..=KILLS {
                called(&world, &space, kill * CALLS).await?;
                kill_controller(&world.cluster).await?;
                world.cluster.system_ready().await?;
            }
            let records = called(&world, &space, (KILLS + 1) * CALLS).await?;
            let due: Vec<&str> = records.iter().filter_map(|r| r["due_at"].as_str()).collect();
            let different: BTreeSet<&str> = due.iter().copied().collect();
            anyhow::ensure!(due.len() == records.len() && different.len() == due.len(), "called twice: {due:?}");
            for record in &records {
                let of = (&record["trigger"], &record["schedule"], &record["outcome"]);
                anyhow::ensure!(of == (&"schedule".into(), &"tick".into(), &"ok".into()), "{record}");
            }
            shown(&space).await
        })
        .await
}

/// The records of its calls, once there are so many.
async fn called(world: &World, space: &Space, calls: usize) -> Result<Vec<Value>> {
    until(&format!("{calls} calls by the clock"), LIMIT, || async {
        let records = world.usage.records(&format!("{}&namespace={}", lately(), space.name)).await?;
        anyhow::ensure!(records.len() >= calls, "{} calls", records.len());
        Ok(records)
    })
    .await
}

async fn shown(space: &Space) -> Result<()> {
    until("its last due time ran", LIMIT, || async {
        let status = space.api::<Function>().get("clock").await?.status.unwrap_or_default();
        let schedule = status.schedules.first().context("no schedule")?;
        let last = schedule.last.as_ref().context("none was due")?;
        anyhow::ensure!(last.outcome == Fired::Ran && schedule.name == "tick", "{schedule:?}");
        Ok(())
    })
    .await?;
    let columns = space.cluster.kubectl(&["get", "fn", "clock", "-n", &space.name])?;
    let next = columns.split_whitespace().find_map(|word| word.parse::<Timestamp>().ok());
    anyhow::ensure!(columns.contains("NEXT") && next.is_some(), "{columns}");
    let described = space.cluster.dormouse(&["describe", "clock", "-n", &space.name])?;
    anyhow::ensure!(described.contains("tick") && described.contains("Ran (Status200)"), "{described}");
    Ok(())
}
