//! Many functions that sleep: what they cost in memory, and that a call finds its own among 10,000 as soon as among 10.

use crate::memory::{at_rest, mib};
use crate::proxy::Proxy;
use crate::say;
use crate::stage::{self, TOKEN};
use anyhow::Result;
use clap::Args;
use dormouse_tests::lean::{Lean, Lines};
use dormouse_tests::pair::free_ports;
use dormouse_tests::proc::{cpu_seconds, pin};
use dormouse_tests::quantiles::Times;
use dormouse_tests::script::{Script, awake, function, host};
use std::time::Duration;

/// Functions of each table that are called, by turns.
const AWAKE: u32 = 8;

/// What is measured, and on which cores.
#[derive(Args)]
pub(crate) struct Plan {
    /// Functions in the table of each activator
    #[arg(long, value_delimiter = ',', default_values_t = [10, 1000, 10_000])]
    functions: Vec<u32>,
    /// Rounds of calls; each round measures every table once
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of one measurement
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// Connections
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Core of the activators
    #[arg(long, default_value = "0")]
    proxy_core: String,
    /// Core of the client, of the instance and of the controller with its ledger
    #[arg(long, default_value = "1")]
    pub(crate) client_core: String,
}

/// An activator with so many functions.
struct Table {
    functions: u32,
    activator: Proxy,
    /// KiB resident without any, and with all asleep.
    empty: u64,
    asleep: u64,
    calls: Vec<Lean>,
    times: Times,
    /// Calls per CPU-second of each round.
    rounds: Vec<f64>,
}

/// Measures and prints.
pub(crate) async fn run(plan: Plan) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let origin = stage::origin(folder.path(), Some(&plan.client_core)).await?;
    let mut tables = Vec::new();
    for &functions in &plan.functions {
        anyhow::ensure!(functions >= AWAKE, "at least {AWAKE} functions");
        tables.push(table(functions, folder.path(), &origin).await?);
    }
    for table in &tables {
        pin(table.activator.pid(), &plan.proxy_core)?;
    }
    for _ in 0..plan.rounds {
        for table in &mut tables {
            measure(table, &plan).await?;
        }
    }
    told(&tables, &plan);
    Ok(())
}

async fn table(functions: u32, folder: &std::path::Path, origin: &Proxy) -> Result<Table> {
    let (name, [grpc]) = (format!("table-{functions}"), free_ports()?);
    let script = Script::start(grpc, TOKEN, &folder.join(format!("ledger-{functions}"))).await?;
    let activator = stage::activator(folder, &name, grpc, None).await?;
    script.applied(&name, 0).await?;
    let empty = at_rest(activator.pid()).await?;
    let names: Vec<String> = (0..functions).map(|n| format!("function-{n}")).collect();
    script.applied(&name, script.tell(names.iter().map(|n| function(n)).collect())).await?;
    let asleep = at_rest(activator.pid()).await?;
    // Spread over the table.
    let called: Vec<&String> = names.iter().step_by((functions / AWAKE) as usize).take(AWAKE as usize).collect();
    script.applied(&name, script.tell(called.iter().map(|n| awake(n, origin.addr)).collect())).await?;
    let calls = called.iter().map(|n| Lean::get(activator.addr, &host(n), "/2")).collect();
    Ok(Table { functions, activator, empty, asleep, calls, times: Times::default(), rounds: Vec::new() })
}

#[expect(clippy::cast_precision_loss, reason = "call counts of a bench are far below 2^53")]
async fn measure(table: &mut Table, plan: &Plan) -> Result<()> {
    let mut lines = Lines::open(&table.calls, plan.connections).await?;
    let before = cpu_seconds(&[table.activator.pid()])?;
    let sample = lines.run(Duration::from_secs(plan.seconds)).await?;
    let cpu = cpu_seconds(&[table.activator.pid()])? - before;
    sample.all(200)?;
    anyhow::ensure!(cpu > 0.0, "too short to see any CPU time");
    table.times.merge(&sample.times);
    table.rounds.push(sample.calls() as f64 / cpu);
    Ok(())
}

fn told(tables: &[Table], plan: &Plan) {
    say(&format!(
        "\nmemory: idle functions without instance; calls: to {AWAKE} of them by turns, {} connections, {} rounds of {} s",
        plan.connections, plan.rounds, plan.seconds
    ));
    say(
        "| functions | none: MiB | all asleep: MiB | KiB per function | calls per CPU-second (median; rounds) | us of CPU per call | p50 ms | p99 ms |",
    );
    say("|---|---|---|---|---|---|---|---|");
    for table in tables {
        let each = mib(table.asleep.saturating_sub(table.empty)) * 1024.0 / f64::from(table.functions);
        let mut rounds = table.rounds.clone();
        rounds.sort_by(f64::total_cmp);
        let [low, median, high] =
            [0, rounds.len() / 2, rounds.len().saturating_sub(1)].map(|i| rounds.get(i).copied().unwrap_or(f64::NAN));
        say(&format!(
            "| {} | {:.1} | {:.1} | {each:.2} | {median:.0} ({low:.0} to {high:.0}) | {:.2} | {:.3} | {:.3} |",
            table.functions,
            mib(table.empty),
            mib(table.asleep),
            1e6 / median,
            table.times.ms(0.5),
            table.times.ms(0.99),
        ));
    }
    say("targets: 10,000 idle functions at most 80 MiB; the CPU of a call the same in every row");
}
