//! Calls that come just when an instance is about to go.

use crate::world::{World, function};
use anyhow::Result;
use dormouse_tests::quantiles::Times;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::time::Duration;
use tokio::task::JoinSet;

/// Functions that are tried at the same time.
const FUNCTIONS: u64 = 10;

/// What one function's caller saw.
#[derive(Default)]
struct Seen {
    cold: u32,
    starts: Times,
}

/// Each call comes 0.7 to 1.7 s after the one before it, with an idle timeout of 1 s: every one is answered.
pub(crate) async fn calls_at_the_idle_edge_never_fail(world: World) -> Result<()> {
    let each = if world.long { 200 } else { 20 };
    let seed = jiff::Timestamp::now().as_nanosecond().unsigned_abs() as u64;
    world
        .alone("idle", |world, space| async move {
            for i in 0..FUNCTIONS {
                space.apply(&function(&format!("edge{i}"), &["idleTimeoutSeconds: 1", "startCheck: Never"]))?;
            }
            for i in 0..FUNCTIONS {
                space.ready(&format!("edge{i}"), "True").await?;
            }
            let mut tries = JoinSet::new();
            for i in 0..FUNCTIONS {
                let target = world.by_host(&space, &format!("edge{i}"), "/delay?ms=5");
                tries.spawn(async move {
                    let (mut rng, mut seen) = (StdRng::seed_from_u64(seed + i), Seen::default());
                    for n in 0..each {
                        let answer = target.call(n).await?;
                        anyhow::ensure!(answer.status == 200, "seed {seed}: call {n} of edge{i}: {answer}");
                        if answer.cold() {
                            seen.cold += 1;
                            seen.starts.record(answer.took);
                        }
                        tokio::time::sleep(Duration::from_millis(rng.random_range(700..1700))).await;
                    }
                    Ok(seen)
                });
            }
            let (mut all, calls) = (Seen::default(), u32::try_from(FUNCTIONS * each)?);
            while let Some(done) = tries.join_next().await {
                let seen = done??;
                all.cold += seen.cold;
                all.starts.merge(&seen.starts);
            }
            let Seen { cold, starts } = all;
            crate::say(&format!("    {calls} calls, {cold} cold, 0 failed (seed {seed}); cold ones: {starts}"));
            anyhow::ensure!(cold > 0 && cold < calls, "the edge was never met: {cold} of {calls} cold");
            Ok(())
        })
        .await
}
