//! Warm calls: the same client, the same instance, three ways to it.

use crate::nginx::Nginx;
use crate::say;
use anyhow::{Context, Result};
use dormouse_tests::client::Target;
use dormouse_tests::env::Env;
use dormouse_tests::journal::Journal;
use dormouse_tests::load::{Report, Until, closed, open};
use dormouse_tests::pair::{Pair, Programs};
use dormouse_tests::proc::{cpu_seconds, pin};
use dormouse_tests::quantiles::Times;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Connections that are tried before anything is measured.
const WARM_UP: usize = 8;

/// What is measured, and on which cores.
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    pub(crate) length: Duration,
    pub(crate) connections: Vec<usize>,
    pub(crate) rate: u32,
    pub(crate) proxy_core: String,
    pub(crate) client_core: String,
}

/// One way to the function.
struct Arm {
    name: &'static str,
    target: Target,
    /// The proxy's processes; none when there is no proxy.
    pids: Vec<u32>,
}

/// What one arm did at one number of connections, or at the fixed rate.
#[derive(Default)]
struct Sum {
    times: Times,
    calls: u64,
    cpu: f64,
    /// Calls per CPU-second of each round.
    rounds: Vec<f64>,
    seconds: f64,
}

/// Starts everything, measures, prints.
pub(crate) async fn run(plan: Plan) -> Result<()> {
    let (env, folder) = (Env::read()?, tempfile::tempdir()?);
    let house = std::env::current_exe()?.parent().context("no folder")?.join("house");
    anyhow::ensure!(house.is_file(), "{} is missing: cargo build --release -p dormouse-tests --bins", house.display());
    let programs =
        Programs { house, activator: env.program("dormouse-activator")?, dormouse: env.program("dormouse")? };
    let spec = json!({"idleTimeoutSeconds": 86_400, "concurrency": 1000, "timeoutSeconds": 60});
    let mut pair = Pair::start(folder.path(), &programs, spec)?;
    pair.answers().await?;
    let instance = pair.instance().await?;
    let nginx = Nginx::start(folder.path(), instance).await?;
    let activator = pair.activator.as_ref().context("no activator")?.pid();
    pin(activator, &plan.proxy_core)?;
    for pid in nginx.pids()? {
        pin(pid, &plan.proxy_core)?;
    }
    let arms = [
        Arm { name: "direct", target: Target::new(instance, "localhost", "/"), pids: Vec::new() },
        Arm { name: "nginx", target: nginx.target(), pids: nginx.pids()? },
        Arm { name: "activator", target: pair.target("/"), pids: vec![activator] },
    ];
    for arm in &arms {
        closed(&arm.target, WARM_UP, Until::Time(Duration::from_secs(1)), None).await;
    }
    say(&format!(
        "proxies on core {}, client and function on core {}; nginx {}",
        plan.proxy_core,
        plan.client_core,
        version()?
    ));
    for &connections in &plan.connections {
        throughput(&plan, &arms, connections).await?;
    }
    latency(&plan, &arms).await?;
    nginx.end()?;
    pair.end().await.map(drop)
}

async fn throughput(plan: &Plan, arms: &[Arm], connections: usize) -> Result<()> {
    let mut sums: Vec<Sum> = arms.iter().map(|_| Sum::default()).collect();
    for _ in 0..plan.rounds {
        for (arm, sum) in arms.iter().zip(&mut sums) {
            let before = cpu_seconds(&arm.pids)?;
            let report = closed(&arm.target, connections, Until::Time(plan.length), None).await;
            sum.add(arm, &report, cpu_seconds(&arm.pids)? - before)?;
        }
    }
    say(&format!("\n{connections} connections, closed loop, {} rounds of {} s", plan.rounds, plan.length.as_secs()));
    table(arms, &sums);
    Ok(())
}

async fn latency(plan: &Plan, arms: &[Arm]) -> Result<()> {
    let mut sums: Vec<Sum> = arms.iter().map(|_| Sum::default()).collect();
    for _ in 0..plan.rounds {
        for (arm, sum) in arms.iter().zip(&mut sums) {
            let (stop, journal) = (CancellationToken::new(), Arc::new(Journal::default()));
            let before = cpu_seconds(&arm.pids)?;
            let (timer, length) = (stop.clone(), plan.length);
            tokio::spawn(async move {
                tokio::time::sleep(length).await;
                timer.cancel();
            });
            let report = open(&arm.target, plan.rate, stop, journal).await;
            sum.add(arm, &report, cpu_seconds(&arm.pids)? - before)?;
        }
    }
    say(&format!("\nopen loop, {} calls per second, {} rounds of {} s", plan.rate, plan.rounds, plan.length.as_secs()));
    table(arms, &sums);
    Ok(())
}

impl Sum {
    #[expect(clippy::cast_precision_loss, reason = "call counts of a bench are far below 2^53")]
    fn add(&mut self, arm: &Arm, report: &Report, cpu: f64) -> Result<()> {
        anyhow::ensure!(report.failed() == 0 && report.calls() > 0, "{}: {report}", arm.name);
        self.times.merge(&report.times);
        self.calls += report.calls();
        self.cpu += cpu;
        self.seconds += report.lasted.as_secs_f64();
        if cpu > 0.0 {
            self.rounds.push(report.calls() as f64 / cpu);
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
    say("| arm | calls/s | calls per CPU-second of the proxy (median; rounds) | p50 ms | p99 ms |");
    say("|---|---|---|---|---|");
    let direct = sums.first().map(|s| (s.times.ms(0.5), s.times.ms(0.99))).unwrap_or_default();
    for (arm, sum) in arms.iter().zip(sums) {
        let cpu = sum.per_cpu_second().map_or("-".to_owned(), |median| {
            let (low, high) = sum.rounds.iter().fold((f64::MAX, 0.0_f64), |(l, h), &r| (l.min(r), h.max(r)));
            format!("{median:.0} ({low:.0} to {high:.0})")
        });
        let (p50, p99) = (sum.times.ms(0.5), sum.times.ms(0.99));
        let added = match arm.pids.is_empty() {
            true => (String::new(), String::new()),
            false => (format!(" (+{:.3})", p50 - direct.0), format!(" (+{:.3})", p99 - direct.1)),
        };
        let rate = sum.calls as f64 / sum.seconds.max(f64::MIN_POSITIVE);
        say(&format!("| {} | {rate:.0} | {cpu} | {p50:.3}{} | {p99:.3}{} |", arm.name, added.0, added.1));
    }
    if let (Some(nginx), Some(ours)) = (sums[1].per_cpu_second(), sums[2].per_cpu_second()) {
        say(&format!("activator / nginx in calls per CPU-second: {:.2}", ours / nginx));
    }
}

fn version() -> Result<String> {
    let output =
        std::process::Command::new("nginx").arg("-v").output().context("nginx (Debian package nginx-light)")?;
    Ok(String::from_utf8_lossy(&output.stderr).trim().replace("nginx version: ", ""))
}
