//! Warm calls: the same client, the same instance, several ways to it.

use crate::count::{Counter, Counts};
use crate::proxy::Proxy;
use crate::{haproxy, nginx, plain, say, stage};
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use dormouse_tests::lean::{Lean, Lines, Sample, answers, paced};
use dormouse_tests::proc::{cpu_seconds, switches};
use dormouse_tests::quantiles::Times;
use dormouse_tests::script::host;
use dormouse_tests::wait::until;
use std::path::Path;
use std::time::Duration;

/// Connections of the fixed rate: at 2,000 calls/s each makes a call every 8 ms.
const PACED: u32 = 16;

/// Length of a run in which perf counts.
const COUNTED: Duration = Duration::from_secs(1);

/// Longest time until an arm answers after its start.
const UP: Duration = Duration::from_secs(30);

/// What is measured, and on which cores.
#[derive(Args)]
pub(crate) struct Plan {
    /// Arms
    #[arg(long, value_delimiter = ',', default_values_t = Way::ALL)]
    arms: Vec<Way>,
    /// Rounds; each round measures every arm once
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of one measurement
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// Connections of the closed loops
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64, 256])]
    connections: Vec<usize>,
    /// Bytes of the response, GET
    #[arg(long, value_delimiter = ',', default_values_t = [1024, 102_400])]
    bodies: Vec<usize>,
    /// Bytes of the request's body, POST with a response of 2 bytes
    #[arg(long, value_delimiter = ',')]
    uploads: Vec<usize>,
    /// Calls per second of the latency part; 0: none
    #[arg(long, default_value_t = 2000)]
    rate: u32,
    /// Do not count system calls (by perf, in runs of their own)
    #[arg(long)]
    no_counts: bool,
    /// Core of the proxies
    #[arg(long, default_value = "0")]
    proxy_core: String,
    /// Core of the client, of the instance and of the controller with its ledger
    #[arg(long, default_value = "1")]
    pub(crate) client_core: String,
}

/// A way to the instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Way {
    /// No proxy
    Direct,
    /// nginx without access log
    Nginx,
    /// nginx with access log
    NginxLog,
    /// HAProxy
    Haproxy,
    /// The activator's HTTP library and nothing else
    Plain,
    /// The activator, a record per call
    Activator,
}

impl Way {
    const ALL: [Self; 6] = [Self::Direct, Self::Nginx, Self::NginxLog, Self::Haproxy, Self::Plain, Self::Activator];

    fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nginx => "nginx",
            Self::NginxLog => "nginx-log",
            Self::Haproxy => "haproxy",
            Self::Plain => "plain",
            Self::Activator => "activator",
        }
    }
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What a call is.
#[derive(Clone, Copy, Debug)]
enum Shape {
    Down(usize),
    Up(usize),
}

impl Shape {
    fn lean(self, addr: std::net::SocketAddr) -> Lean {
        let host = host(stage::FUNCTION);
        match self {
            Self::Down(bytes) => Lean::get(addr, &host, &format!("/{bytes}")),
            Self::Up(bytes) => Lean::post(addr, &host, "/2", bytes),
        }
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Down(bytes) => write!(f, "GET, response of {bytes} bytes"),
            Self::Up(bytes) => write!(f, "POST of {bytes} bytes, response of 2"),
        }
    }
}

/// One way, running.
struct Arm {
    way: Way,
    proxy: Option<Proxy>,
    addr: std::net::SocketAddr,
    /// The proxy's processes; none when there is no proxy.
    pids: Vec<u32>,
}

/// What one arm did at one number of connections, or at the fixed rate.
#[derive(Default)]
struct Sum {
    times: Times,
    calls: u64,
    /// Calls per CPU-second of the proxy, of each round.
    rounds: Vec<f64>,
    seconds: f64,
    switches: u64,
    /// CPU seconds of the client, the instance and the controller.
    others: [f64; 3],
    /// What perf counted, and in how many calls.
    counts: (Counts, u64),
}

struct World {
    folder: tempfile::TempDir,
    arms: Vec<Arm>,
    /// The client, the instance, the controller.
    others: [Vec<u32>; 3],
    _origin: Proxy,
    _script: Proxy,
}

/// Starts everything, measures, prints.
pub(crate) async fn run(plan: Plan) -> Result<()> {
    anyhow::ensure!(plan.rounds > 0 && plan.seconds > 0 && !plan.arms.is_empty(), "nothing to measure");
    let mut world = World::new(&plan).await?;
    let shapes = plan.bodies.iter().map(|b| Shape::Down(*b)).chain(plan.uploads.iter().map(|b| Shape::Up(*b)));
    for shape in shapes {
        for &connections in &plan.connections {
            closed(&plan, &mut world, shape, connections).await?;
        }
    }
    if plan.rate > 0 {
        open(&plan, &mut world).await?;
    }
    Ok(())
}

impl World {
    async fn new(plan: &Plan) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let (path, core) = (folder.path(), &plan.proxy_core);
        let origin = stage::origin(path, Some(&plan.client_core)).await?;
        let script = stage::script(path, origin.addr, Some(&plan.client_core)).await?;
        let mut arms = Vec::new();
        for &way in &plan.arms {
            let proxy = match way {
                Way::Direct => None,
                Way::Nginx => Some(nginx::start(path, origin.addr, core, false).await?),
                Way::NginxLog => Some(nginx::start(path, origin.addr, core, true).await?),
                Way::Haproxy => Some(haproxy::start(path, origin.addr, core).await?),
                Way::Plain => Some(plain::start(path, origin.addr, core).await?),
                Way::Activator => Some(stage::activator(path, "warm", script.addr, Some(core)).await?),
            };
            let addr = proxy.as_ref().map_or(origin.addr, |p| p.addr);
            let first = Shape::Down(2).lean(addr);
            until(&format!("{way} answers"), UP, || answers(&first)).await?;
            let pids = proxy.as_ref().map_or(Ok(Vec::new()), Proxy::pids)?;
            arms.push(Arm { way, proxy, addr, pids });
        }
        told(plan, &arms)?;
        let others = [vec![std::process::id()], origin.pids()?, script.pids()?];
        Ok(Self { folder, arms, others, _origin: origin, _script: script })
    }
}

fn told(plan: &Plan, arms: &[Arm]) -> Result<()> {
    let mut versions = Vec::new();
    if arms.iter().any(|a| matches!(a.way, Way::Nginx | Way::NginxLog)) {
        versions.push(nginx::version()?);
    }
    if arms.iter().any(|a| a.way == Way::Haproxy) {
        versions.push(haproxy::version()?);
    }
    let pids: Vec<_> = arms.iter().filter(|a| a.proxy.is_some()).map(|a| format!("{} {:?}", a.way, a.pids)).collect();
    say(&format!(
        "each proxy has core {}; client, instance and controller with ledger share core {}; {}; processes: {}",
        plan.proxy_core,
        plan.client_core,
        versions.join(", "),
        pids.join(", ")
    ));
    Ok(())
}

async fn closed(plan: &Plan, world: &mut World, shape: Shape, connections: usize) -> Result<()> {
    let mut sums: Vec<Sum> = world.arms.iter().map(|_| Sum::default()).collect();
    for _ in 0..plan.rounds {
        for (arm, sum) in world.arms.iter().zip(&mut sums) {
            let mut lines = Lines::open(&[shape.lean(arm.addr)], connections).await?;
            let before = Before::now(arm, &world.others)?;
            let sample = lines.run(Duration::from_secs(plan.seconds)).await?;
            sum.add(arm, &sample, &before, &world.others)?;
        }
    }
    if !plan.no_counts {
        for (arm, sum) in world.arms.iter().zip(&mut sums).filter(|(a, _)| a.proxy.is_some()) {
            sum.counts = counted(world.folder.path(), arm, shape, connections).await?;
        }
    }
    say(&format!("\n{shape}, {connections} connections, closed loop, {} rounds of {} s", plan.rounds, plan.seconds));
    table(&world.arms, &sums);
    Ok(())
}

async fn counted(folder: &Path, arm: &Arm, shape: Shape, connections: usize) -> Result<(Counts, u64)> {
    let mut lines = Lines::open(&[shape.lean(arm.addr)], connections).await?;
    let counter = Counter::begin(folder, &arm.pids).await?;
    let sample = lines.run(COUNTED).await?;
    let counts = counter.end()?;
    sample.all(200).with_context(|| arm.way.name())?;
    Ok((counts, sample.calls()))
}

async fn open(plan: &Plan, world: &mut World) -> Result<()> {
    let mut sums: Vec<Sum> = world.arms.iter().map(|_| Sum::default()).collect();
    let shape = Shape::Down(plan.bodies.first().copied().unwrap_or(1024));
    let (rate, length) = (plan.rate, Duration::from_secs(plan.seconds));
    for _ in 0..plan.rounds {
        for (arm, sum) in world.arms.iter().zip(&mut sums) {
            let lean = [shape.lean(arm.addr)];
            let before = Before::now(arm, &world.others)?;
            let sample = tokio::task::spawn_blocking(move || paced(&lean, rate, length, PACED)).await??;
            sum.add(arm, &sample, &before, &world.others)?;
        }
    }
    say(&format!(
        "\n{shape}, open loop of {rate} calls per second on {PACED} connections, {} rounds of {} s",
        plan.rounds, plan.seconds
    ));
    table(&world.arms, &sums);
    Ok(())
}

/// How things stood before a measurement.
struct Before {
    cpu: f64,
    switches: u64,
    others: [f64; 3],
}

impl Before {
    fn now(arm: &Arm, others: &[Vec<u32>; 3]) -> Result<Self> {
        let [client, instance, controller] = others;
        Ok(Self {
            cpu: cpu_seconds(&arm.pids)?,
            switches: switches(&arm.pids)?,
            others: [cpu_seconds(client)?, cpu_seconds(instance)?, cpu_seconds(controller)?],
        })
    }
}

impl Sum {
    #[expect(clippy::cast_precision_loss, reason = "call counts of a bench are far below 2^53")]
    fn add(&mut self, arm: &Arm, sample: &Sample, before: &Before, others: &[Vec<u32>; 3]) -> Result<()> {
        let after = Before::now(arm, others)?;
        sample.all(200).with_context(|| arm.way.name())?;
        self.times.merge(&sample.times);
        self.calls += sample.calls();
        self.seconds += sample.lasted.as_secs_f64();
        self.switches += after.switches.saturating_sub(before.switches);
        for (sum, (after, before)) in self.others.iter_mut().zip(after.others.iter().zip(before.others)) {
            *sum += after - before;
        }
        let cpu = after.cpu - before.cpu;
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

const COLUMNS: &str = "| arm | calls/s | calls per CPU-second of the proxy (median; rounds) | to nginx | p50 ms | p99 ms | p99.9 ms \
     | switches per call | syscalls per call | instructions, cycles per call | client + instance + ledger, % of a core |\n\
     |---|---|---|---|---|---|---|---|---|---|---|";

fn table(arms: &[Arm], sums: &[Sum]) {
    say(COLUMNS);
    let find = |way| arms.iter().position(|a| a.way == way).and_then(|i| sums.get(i));
    let (direct, nginx) = (find(Way::Direct), find(Way::Nginx).and_then(Sum::per_cpu_second));
    for (arm, sum) in arms.iter().zip(sums) {
        say(&row(arm, sum, direct, nginx));
    }
}

#[expect(clippy::cast_precision_loss, reason = "call counts of a bench are far below 2^53")]
fn row(arm: &Arm, sum: &Sum, direct: Option<&Sum>, nginx: Option<f64>) -> String {
    let none = || "-".to_owned();
    let median = sum.per_cpu_second();
    let cpu = median.map_or_else(none, |median| {
        let (low, high) = sum.rounds.iter().fold((f64::MAX, 0.0_f64), |(l, h), &r| (l.min(r), h.max(r)));
        format!("{median:.0} ({low:.0} to {high:.0})")
    });
    let ratio = median.zip(nginx).map_or_else(none, |(ours, theirs)| format!("{:.2}", ours / theirs));
    let time = |q: f64| {
        let ms = sum.times.ms(q);
        let added = direct.filter(|_| arm.proxy.is_some()).map(|d| format!(" ({:+.3})", ms - d.times.ms(q)));
        format!("{ms:.3}{}", added.unwrap_or_default())
    };
    let calls = sum.calls.max(1) as f64;
    let (counts, counted) = &sum.counts;
    let per_call = |count: Option<u64>, digits: usize| {
        count.map_or_else(none, |c| format!("{:.digits$}", c as f64 / (*counted).max(1) as f64))
    };
    let seconds = sum.seconds.max(f64::MIN_POSITIVE);
    let others = sum.others.map(|cpu| format!("{:.0}", cpu / seconds * 100.0)).join(" + ");
    format!(
        "| {} | {:.0} | {cpu} | {ratio} | {} | {} | {} | {} | {} | {}, {} | {others} |",
        arm.way,
        calls / seconds,
        time(0.5),
        time(0.99),
        time(0.999),
        if arm.proxy.is_some() { format!("{:.2}", sum.switches as f64 / calls) } else { none() },
        per_call(counts.syscalls, 2),
        per_call(counts.instructions, 0),
        per_call(counts.cycles, 0),
    )
}
