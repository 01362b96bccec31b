//! A function that never wakes, with its room full and callers hammering it, beside one that is well.

use crate::say;
use crate::stage::{self, TOKEN};
use anyhow::{Context, Result};
use clap::Args;
use dormouse_tests::lean::{Lean, Lines, Sample, begin, paced};
use dormouse_tests::pair::free_ports;
use dormouse_tests::proc::cpu_seconds;
use dormouse_tests::script::{Script, awake, function, host};
use dormouse_tests::wait::until;
use std::time::Duration;
use tokio::task::JoinSet;

/// The two functions.
const WELL: &str = "well";
const STUCK: &str = "stuck";

/// Connections of each of the two loads.
const CONNECTIONS: u32 = 16;
const HAMMERS: u32 = 64;

/// Longest time until the room is full.
const LIMIT: Duration = Duration::from_secs(60);

/// What is measured, and on which cores.
#[derive(Args)]
pub(crate) struct Plan {
    /// Rounds; each round measures every arm once
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of one measurement
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Calls per second of the function that is well
    #[arg(long, default_value_t = 500)]
    rate: u32,
    /// Calls per second for the function that never wakes
    #[arg(long, default_value_t = 4000)]
    hammer: u32,
    /// Calls that fill its room
    #[arg(long, default_value_t = 1000)]
    room: u32,
    /// Core of the activator
    #[arg(long, default_value = "0")]
    proxy_core: String,
    /// Core of the clients, of the instance and of the controller with its ledger
    #[arg(long, default_value = "1")]
    pub(crate) client_core: String,
}

/// What goes on beside the measured calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beside {
    Nothing,
    /// The room is full, nobody else comes.
    FullRoom,
    /// As many calls per second as hammer, but straight to the instance: what the load costs the machine and not the
    /// activator.
    Control,
    /// The room is full, and so many calls per second are refused.
    Hammered,
    /// The room is full, and connections call again as soon as they are refused.
    Flooded,
}

const ARMS: [(Beside, &str); 5] = [
    (Beside::Nothing, "quiet"),
    (Beside::Control, "control: the hammering calls go straight to the instance"),
    (Beside::FullRoom, "the other's room is full"),
    (Beside::Hammered, "full and hammered at a fixed rate"),
    (Beside::Flooded, "full and hammered without pause"),
];

#[derive(Default)]
struct Sum {
    well: Sample,
    hammer: Sample,
    cpu: f64,
    /// Until the last call of both loads had its answer.
    seconds: f64,
}

/// The loads and what they go through.
struct World {
    script: Script,
    activator: crate::proxy::Proxy,
    well: Lean,
    stuck: Lean,
    straight: Lean,
    _origin: crate::proxy::Proxy,
    _folder: tempfile::TempDir,
}

/// Measures and prints.
pub(crate) async fn run(plan: Plan) -> Result<()> {
    anyhow::ensure!(plan.rounds > 0 && plan.seconds > 0 && plan.room > 0, "nothing to measure");
    let world = World::new(&plan).await?;
    let mut sums: [Sum; ARMS.len()] = Default::default();
    for _ in 0..plan.rounds {
        for ((beside, name), sum) in ARMS.into_iter().zip(&mut sums) {
            world.measure(&plan, beside, sum).await.with_context(|| name)?;
        }
    }
    told(&plan, &sums);
    Ok(())
}

impl World {
    async fn new(plan: &Plan) -> Result<Self> {
        let (folder, [grpc]) = (tempfile::tempdir()?, free_ports()?);
        let script = Script::start(grpc, TOKEN, &folder.path().join("ledger")).await?;
        let origin = stage::origin(folder.path(), Some(&plan.client_core)).await?;
        let activator = stage::activator(folder.path(), "fair", grpc, Some(&plan.proxy_core)).await?;
        let stuck = dormouse_proto::v1::Function { queue_max_calls: plan.room, ..function(STUCK) };
        script.applied("fair", script.tell(vec![awake(WELL, origin.addr), stuck])).await?;
        let get = |name| Lean::get(activator.addr, &host(name), "/1024");
        let (well, stuck, straight) = (get(WELL), get(STUCK), Lean::get(origin.addr, &host(STUCK), "/1024"));
        Ok(Self { script, activator, well, stuck, straight, _origin: origin, _folder: folder })
    }

    /// Fills the room; whoever waits leaves when the answer is dropped.
    async fn fill(&self, room: u32) -> Result<JoinSet<Result<u16>>> {
        let mut waiting = JoinSet::new();
        for _ in 0..room {
            waiting.spawn(begin(&self.stuck, LIMIT * 10).await?);
        }
        self.waiting(room).await?;
        Ok(waiting)
    }

    async fn waiting(&self, want: u32) -> Result<()> {
        until("the room is as it is meant to be", LIMIT, || async {
            let demand = self.script.demand(&function(STUCK).uid);
            anyhow::ensure!(demand == (want, 0), "queued and running: {demand:?}");
            Ok(())
        })
        .await
    }

    async fn measure(&self, plan: &Plan, beside: Beside, sum: &mut Sum) -> Result<()> {
        let full = matches!(beside, Beside::FullRoom | Beside::Hammered | Beside::Flooded);
        let mut waiting = if full { self.fill(plan.room).await? } else { JoinSet::new() };
        let length = Duration::from_secs(plan.seconds);
        let before = cpu_seconds(&[self.activator.pid()])?;
        let well = [self.well.clone()];
        let rate = plan.rate;
        let well = tokio::task::spawn_blocking(move || paced(&well, rate, length, CONNECTIONS));
        let (hammer, expected) = match beside {
            Beside::Nothing | Beside::FullRoom => (Sample::default(), None),
            Beside::Control => (self.hammer(&self.straight, plan, length).await?, Some(200)),
            Beside::Hammered => (self.hammer(&self.stuck, plan, length).await?, Some(429)),
            Beside::Flooded => {
                let mut lines = Lines::open(std::slice::from_ref(&self.stuck), HAMMERS as usize).await?;
                (lines.run(length).await?, Some(429))
            }
        };
        let well = well.await??;
        sum.cpu += cpu_seconds(&[self.activator.pid()])? - before;
        sum.seconds += well.lasted.max(hammer.lasted).as_secs_f64();
        well.all(200).context("the function that is well")?;
        if let Some(status) = expected {
            hammer.all(status).context("the hammering calls")?;
        }
        if full {
            anyhow::ensure!(waiting.try_join_next().is_none(), "a waiting call was answered");
            waiting.shutdown().await;
            self.waiting(0).await?;
        }
        sum.well.merge(&well);
        sum.hammer.merge(&hammer);
        Ok(())
    }

    async fn hammer(&self, lean: &Lean, plan: &Plan, length: Duration) -> Result<Sample> {
        let (lean, rate) = ([lean.clone()], plan.hammer);
        tokio::task::spawn_blocking(move || paced(&lean, rate, length, HAMMERS)).await?
    }
}

#[expect(clippy::cast_precision_loss, reason = "call counts of a bench are far below 2^53")]
fn told(plan: &Plan, sums: &[Sum]) {
    say(&format!(
        "\na function at {} calls per second, beside one that never wakes with {} calls in its room ({} rounds of {} s)",
        plan.rate, plan.room, plan.rounds, plan.seconds
    ));
    say("| beside | p50 ms | p99 ms | p99.9 ms | hammering calls/s | of those p50 / p99 ms | activator, % of a core |");
    say("|---|---|---|---|---|---|---|");
    for ((_, name), sum) in ARMS.iter().zip(sums) {
        let seconds = sum.seconds.max(f64::MIN_POSITIVE);
        let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|q| sum.well.times.ms(q));
        let hammer = match sum.hammer.calls() {
            0 => "- | -".to_owned(),
            n => {
                let times = &sum.hammer.times;
                format!("{:.0} | {:.3} / {:.3}", n as f64 / seconds, times.ms(0.5), times.ms(0.99))
            }
        };
        say(&format!("| {name} | {p50:.3} | {p99:.3} | {p999:.3} | {hammer} | {:.0} |", sum.cpu / seconds * 100.0));
    }
}
