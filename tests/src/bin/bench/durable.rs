//! What it costs that the end of a response waits until its record is safe: the modes of a price plan, beside each other.

use crate::proxy::Proxy;
use crate::{say, stage};
use anyhow::{Context, Result};
use clap::Args;
use dormouse_core::price::Durability;
use dormouse_tests::ground;
use dormouse_tests::lean::{Lean, Lines, Sample, answers, paced};
use dormouse_tests::postgres::Postgres;
use dormouse_tests::proc::cpu_seconds;
use dormouse_tests::quantiles::Times;
use dormouse_tests::script::host;
use dormouse_tests::wait::until;
use std::net::SocketAddr;
use std::time::Duration;

/// Connections of the fixed rate.
const PACED: u32 = 16;

/// Bytes of a response.
const BODY: &str = "/1024";

/// Longest time until an arm answers after its start.
const UP: Duration = Duration::from_secs(30);

/// What is measured, and on which cores.
#[derive(Args)]
pub(crate) struct Plan {
    /// Rounds; each round measures every arm once
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of one measurement
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// Connections of the closed loops
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64])]
    connections: Vec<usize>,
    /// Calls per second of the latency part
    #[arg(long, default_value_t = 500)]
    rate: u32,
    /// Core of the activators
    #[arg(long, default_value = "0")]
    proxy_core: String,
    /// Core of the client, of the instance, of the controllers with their ledgers, and of PostgreSQL
    #[arg(long, default_value = "1")]
    pub(crate) client_core: String,
}

/// One way to the instance.
struct Arm {
    name: &'static str,
    lean: Lean,
    /// Its activator.
    proxy: Vec<u32>,
    /// Whoever keeps its ledger.
    ledger: Vec<u32>,
}

#[derive(Default)]
struct Sum {
    times: Times,
    calls: u64,
    seconds: f64,
    /// Calls per CPU-second of the activator, of each round.
    rounds: Vec<f64>,
    ledger_cpu: f64,
}

struct World {
    arms: Vec<Arm>,
    _running: Vec<Proxy>,
    _database: Postgres,
    _folder: tempfile::TempDir,
}

/// Starts everything, measures, prints.
pub(crate) async fn run(plan: Plan) -> Result<()> {
    anyhow::ensure!(plan.rounds > 0 && plan.seconds > 0 && plan.rate > 0, "nothing to measure");
    let world = World::new(&plan).await?;
    let (rounds, seconds) = (plan.rounds, plan.seconds);
    for &connections in &plan.connections {
        let mut sums: Vec<Sum> = world.arms.iter().map(|_| Sum::default()).collect();
        for _ in 0..rounds {
            for (arm, sum) in world.arms.iter().zip(&mut sums) {
                let mut lines = Lines::open(std::slice::from_ref(&arm.lean), connections).await?;
                let before = arm.cpu()?;
                let sample = lines.run(Duration::from_secs(seconds)).await?;
                sum.add(arm, &sample, before)?;
            }
        }
        say(&format!("\nclosed loop, {connections} connections, {rounds} rounds of {seconds} s"));
        table(&world.arms, &sums);
    }
    let mut sums: Vec<Sum> = world.arms.iter().map(|_| Sum::default()).collect();
    for _ in 0..rounds {
        for (arm, sum) in world.arms.iter().zip(&mut sums) {
            let (lean, rate, before) = ([arm.lean.clone()], plan.rate, arm.cpu()?);
            let length = Duration::from_secs(seconds);
            let sample = tokio::task::spawn_blocking(move || paced(&lean, rate, length, PACED)).await??;
            sum.add(arm, &sample, before)?;
        }
    }
    say(&format!("\n{} calls per second on {PACED} connections, {rounds} rounds of {seconds} s", plan.rate));
    table(&world.arms, &sums);
    Ok(())
}

impl World {
    async fn new(plan: &Plan) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let (path, theirs) = (folder.path(), Some(plan.client_core.as_str()));
        let database = Postgres::start().await?;
        for pid in database.pids()? {
            dormouse_tests::proc::pin(pid, &plan.client_core)?;
        }
        let url = database.database()?;
        let origin = stage::origin(path, theirs).await?;
        let mut arms = vec![Arm::new("direct", origin.addr, Durability::Process, Vec::new(), Vec::new())];
        let mut running = vec![origin];
        for (store, database_url) in [("folder", None), ("postgres", Some(url.as_str()))] {
            let place = path.join(store);
            std::fs::create_dir(&place)?;
            let script = stage::ledger(&place, running[0].addr, theirs, database_url).await?;
            let activator = stage::activator(&place, store, script.addr, Some(&plan.proxy_core)).await?;
            let (proxy, mut ledger) = (activator.pids()?, script.pids()?);
            let arm = |name, mode| Arm::new(name, activator.addr, mode, proxy.clone(), ledger.clone());
            if database_url.is_none() {
                arms.push(arm("process", Durability::Process));
                arms.push(arm("disk", Durability::Disk));
                arms.push(arm("ledger, in a folder", Durability::Ledger));
            } else {
                ledger.extend(database.pids()?);
                arms.push(Arm::new("ledger, in PostgreSQL", activator.addr, Durability::Ledger, proxy.clone(), ledger));
            }
            running.extend([script, activator]);
        }
        for arm in &arms {
            until(&format!("{} answers", arm.name), UP, || answers(&arm.lean)).await?;
        }
        Ok(Self { arms, _running: running, _database: database, _folder: folder })
    }
}

impl Arm {
    fn new(name: &'static str, addr: SocketAddr, mode: Durability, proxy: Vec<u32>, ledger: Vec<u32>) -> Self {
        Self { name, lean: Lean::get(addr, &host(ground::name(mode)), BODY), proxy, ledger }
    }

    /// CPU seconds of its activator and of its ledger so far.
    fn cpu(&self) -> Result<(f64, f64)> {
        Ok((cpu_seconds(&self.proxy)?, cpu_seconds(&self.ledger)?))
    }
}

#[expect(clippy::cast_precision_loss, reason = "call counts of a bench are far below 2^53")]
impl Sum {
    fn add(&mut self, arm: &Arm, sample: &Sample, before: (f64, f64)) -> Result<()> {
        let after = arm.cpu()?;
        sample.all(200).with_context(|| arm.name)?;
        self.times.merge(&sample.times);
        self.calls += sample.calls();
        self.seconds += sample.lasted.as_secs_f64();
        self.ledger_cpu += after.1 - before.1;
        let cpu = after.0 - before.0;
        if cpu > 0.0 {
            self.rounds.push(sample.calls() as f64 / cpu);
        }
        Ok(())
    }

    /// Median over the rounds.
    fn per_cpu_second(&self) -> Option<f64> {
        let mut rounds = self.rounds.clone();
        rounds.sort_by(f64::total_cmp);
        rounds.get(rounds.len() / 2).copied()
    }
}

#[expect(clippy::cast_precision_loss, reason = "call counts of a bench are far below 2^53")]
fn table(arms: &[Arm], sums: &[Sum]) {
    say(
        "| mode | calls/s | calls per CPU-second of the activator | beside `process` | p50 ms | p99 ms | ledger, us of CPU per call |",
    );
    say("|---|---|---|---|---|---|---|");
    let find = |name| arms.iter().position(|arm| arm.name == name).and_then(|at| sums.get(at));
    let (direct, process) = (find("direct"), find("process").and_then(Sum::per_cpu_second));
    for (arm, sum) in arms.iter().zip(sums) {
        let none = || "-".to_owned();
        let median = sum.per_cpu_second();
        let time = |q: f64| {
            let ms = sum.times.ms(q);
            let added = direct.filter(|_| !arm.proxy.is_empty()).map(|d| format!(" ({:+.3})", ms - d.times.ms(q)));
            format!("{ms:.3}{}", added.unwrap_or_default())
        };
        let ledger = sum.ledger_cpu / sum.calls.max(1) as f64 * 1e6;
        say(&format!(
            "| {} | {:.0} | {} | {} | {} | {} | {} |",
            arm.name,
            sum.calls as f64 / sum.seconds.max(f64::MIN_POSITIVE),
            median.map_or_else(none, |m| format!("{m:.0}")),
            median.zip(process).map_or_else(none, |(m, p)| format!("{:.2}", m / p)),
            time(0.5),
            time(0.99),
            if arm.ledger.is_empty() { none() } else { format!("{ledger:.0}") },
        ));
    }
}
