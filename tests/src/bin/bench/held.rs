//! Calls that wait for a function without an instance: what each of them costs the activator in memory.

use crate::memory::{at_rest, mib};
use crate::say;
use crate::stage::{self, TOKEN};
use anyhow::{Context, Result};
use clap::Args;
use dormouse_activator::raise_file_limit;
use dormouse_tests::lean::{Lean, begin};
use dormouse_tests::pair::free_ports;
use dormouse_tests::proc::memory;
use dormouse_tests::script::{Script, awake, function, host};
use dormouse_tests::wait::until;
use std::time::Duration;
use tokio::task::JoinSet;

/// The function that they wait for.
const NAME: &str = "held";

/// Longest time until all of them wait, and until all are answered.
const LIMIT: Duration = Duration::from_secs(120);

/// Calls that the instance answers at once in the end.
const SLOTS: u32 = 500;

/// What is measured.
#[derive(Args)]
pub(crate) struct Plan {
    /// Calls that wait at once
    #[arg(long, default_value_t = 10_000)]
    calls: u32,
    /// Bytes of each one's body, of which the client sends as many as go without being read; 0: a GET
    #[arg(long, value_delimiter = ',', default_values_t = [0, 65_536])]
    bodies: Vec<usize>,
}

/// KiB resident of the activator.
struct Found {
    idle: u64,
    held: u64,
    peak: u64,
    after: u64,
}

/// Measures and prints.
pub(crate) async fn run(plan: Plan) -> Result<()> {
    anyhow::ensure!(plan.calls > 0, "no calls to hold");
    let files = raise_file_limit();
    anyhow::ensure!(files > u64::from(plan.calls) + 200, "{files} open files are too few (ulimit -Hn)");
    say(&format!("\n{} calls at once for a function without an instance; then one instance answers all", plan.calls));
    say("| body of each | idle MiB | all wait: MiB | KiB per call | peak while they are answered MiB | after MiB |");
    say("|---|---|---|---|---|---|");
    for &body in &plan.bodies {
        let Found { idle, held, peak, after } = measure(plan.calls, body).await?;
        let kind = if body == 0 { "none (GET)".into() } else { format!("{body} bytes, unread") };
        let each = mib(held.saturating_sub(idle)) * 1024.0 / f64::from(plan.calls);
        let [idle, held, peak, after] = [idle, held, peak, after].map(mib);
        say(&format!("| {kind} | {idle:.1} | {held:.1} | {each:.1} | {peak:.1} | {after:.1} |"));
    }
    say("targets: idle at most 15 MiB, 10,000 held calls at most 250 MiB");
    Ok(())
}

async fn measure(calls: u32, body: usize) -> Result<Found> {
    let folder = tempfile::tempdir()?;
    let [grpc] = free_ports()?;
    let script = Script::start(grpc, TOKEN, &folder.path().join("ledger")).await?;
    let origin = stage::origin(folder.path(), None).await?;
    let activator = stage::activator(folder.path(), NAME, grpc, None).await?;
    script.applied(NAME, 0).await?;
    let idle = at_rest(activator.pid()).await?;
    let roomy = |f| dormouse_proto::v1::Function { queue_max_calls: calls, ..f };
    script.applied(NAME, script.tell(vec![roomy(function(NAME))])).await?;
    let lean = match body {
        0 => Lean::get(activator.addr, &host(NAME), "/2"),
        body => Lean::post(activator.addr, &host(NAME), "/2", body),
    };
    let mut waiting = JoinSet::new();
    for _ in 0..calls {
        waiting.spawn(begin(&lean, LIMIT * 2).await?);
    }
    let uid = function(NAME).uid;
    until("all calls wait", LIMIT, || async {
        let demand = script.demand(&uid);
        anyhow::ensure!(demand == (calls, 0), "queued and running: {demand:?}");
        Ok(())
    })
    .await?;
    let held = at_rest(activator.pid()).await?;
    // As an instance may be told: an address that thousands connect to at once would refuse some of them.
    let mut ready = roomy(awake(NAME, origin.addr));
    ready.instances.iter_mut().for_each(|instance| instance.slots = SLOTS);
    script.tell(vec![ready]);
    while let Some(answered) = waiting.join_next().await {
        let status = answered?.context("a call that waited")?;
        anyhow::ensure!(status == 200, "a call that waited was answered {status}");
    }
    let peak = memory(activator.pid())?.peak;
    Ok(Found { idle, held, peak, after: at_rest(activator.pid()).await? })
}
