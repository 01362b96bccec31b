//! Calls and what is counted of them.

use crate::world::{World, function, ok};
use anyhow::{Context, Result};
use dormouse_tests::checker::Verdict;
use dormouse_tests::journal::Journal;
use dormouse_tests::load::{Until, closed};
use dormouse_tests::usage::lately;
use std::sync::Arc;

/// Calls of the counting case.
const CALLS: u64 = 40;

/// Records, usage by hour and the statement all say how many calls the client made.
pub(crate) async fn every_call_is_recorded_and_counted(world: World) -> Result<()> {
    world
        .alone("counts", |world, space| async move {
            space.apply(&function("counted", &["idleTimeoutSeconds: 5"]))?;
            space.ready("counted", "True").await?;
            let journal = Arc::new(Journal::default());
            let target = world.by_host(&space, "counted", "/");
            let report = closed(&target, 4, Until::Calls(CALLS), Some(journal.clone())).await;
            anyhow::ensure!(report.failed() == 0, "{report}");
            let ids = world.recorded(&space.name, usize::try_from(CALLS)?).await?;
            let verdict = Verdict::of(&journal.entries(), &ids);
            anyhow::ensure!(verdict.good() && verdict.answered == CALLS, "{verdict}");

            let query = format!("/v1/usage?{}&granularity=PT1H&filter[namespace]={}", lately(), space.name);
            let usage = world.usage.get(&query).await?;
            let rows = usage.get("rows").and_then(|rows| rows.as_array()).context("no rows in the answer")?;
            let counted: u64 = rows.iter().filter_map(|r| r.get("calls")?.as_u64()).sum();
            anyhow::ensure!(counted == CALLS, "usage by hour says {counted}: {usage}");
            let month = jiff::Timestamp::now().strftime("%Y-%m").to_string();
            let statement = world.usage.get(&format!("/v1/statements/{}/{month}", space.name)).await?;
            let lines = statement.get("lines").and_then(|l| l.as_array()).context("no lines")?;
            let calls = lines.iter().find(|l| l["item"] == "calls").context("no line for calls")?;
            let quantity = calls["quantity"].to_string();
            anyhow::ensure!(quantity.trim_matches('"') == CALLS.to_string(), "the statement says {quantity}");
            Ok(())
        })
        .await
}

/// A host or path that names no function: 404, with a code and naming nothing but what was asked.
pub(crate) async fn what_is_no_function_is_not_found(world: World) -> Result<()> {
    world
        .alone("unknown", |world, space| async move {
            space.apply(&function("known", &["startCheck: Never"]))?;
            space.ready("known", "True").await?;
            ok(&world.by_host(&space, "known", "/")).await?;
            for target in [world.by_host(&space, "other", "/"), world.by_path(&space, "other", "/")] {
                let answer = target.call(1).await?;
                anyhow::ensure!(answer.status == 404 && answer.reason() == "UnknownFunction", "{answer}");
                anyhow::ensure!(!answer.text().contains("known."), "it names a function not asked for: {answer}");
            }
            Ok(())
        })
        .await
}
