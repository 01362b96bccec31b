//! Bursts on zero, and the hard limit of calls per instance.

use crate::world::{World, function};
use anyhow::{Context, Result};
use dormouse_tests::checker::Verdict;
use dormouse_tests::journal::Journal;
use dormouse_tests::load::burst;
use std::collections::HashSet;
use std::sync::Arc;
use tokio::task::JoinSet;

/// Calls of a burst.
const BURST: u64 = 20;

/// Calls that all come while nothing runs: one instance takes them, none fails, each has a record.
pub(crate) async fn twenty_calls_at_once_on_zero(world: World) -> Result<()> {
    world
        .alone("burst", |world, space| async move {
            space.apply(&function("burst", &["idleTimeoutSeconds: 5"]))?;
            space.ready("burst", "True").await?;
            space.pods_are("burst", 0).await?;
            let journal = Arc::new(Journal::default());
            let report = burst(&world.by_host(&space, "burst", "/"), BURST, Some(journal.clone())).await;
            anyhow::ensure!(report.failed() == 0 && report.calls() == BURST, "{report}");
            let entries = journal.entries();
            anyhow::ensure!(entries.iter().all(|e| e.cold), "a call on zero pods says that it did not wait for one");
            let pods = space.pods("burst").await?;
            anyhow::ensure!(pods.len() == 1, "{} pods for {BURST} calls at concurrency 80", pods.len());
            let verdict = Verdict::of(&entries, &world.recorded(&space.name, usize::try_from(BURST)?).await?);
            anyhow::ensure!(verdict.good(), "{verdict}");
            Ok(())
        })
        .await
}

/// `concurrency: 1`: the sample says how many calls its process ran at once, and it never says two.
pub(crate) async fn one_at_a_time_is_a_hard_limit(world: World) -> Result<()> {
    let calls = if world.long { 100 } else { BURST };
    world
        .alone("one", |world, space| async move {
            space
                .apply(&function("one", &["concurrency: 1", "idleTimeoutSeconds: 5", "queue: {maxWaitSeconds: 60}"]))?;
            space.ready("one", "True").await?;
            space.pods_are("one", 0).await?;
            let mut running = JoinSet::new();
            for number in 0..calls {
                let target = world.by_host(&space, "one", "/delay?ms=300");
                running.spawn(async move { target.call(number).await });
            }
            let (mut most, mut instances) = (0_u32, HashSet::new());
            while let Some(answer) = running.join_next().await {
                let answer = answer??;
                anyhow::ensure!(answer.status == 200, "{answer}");
                let at_once =
                    answer.header("x-sample-running").parse().context("the sample does not count its calls")?;
                most = most.max(at_once);
                instances.insert(answer.header("x-sample-instance").to_owned());
            }
            anyhow::ensure!(most == 1, "an instance ran {most} calls at once");
            anyhow::ensure!(instances.len() > 1, "{calls} calls at once never had a second instance");
            Ok(())
        })
        .await
}
