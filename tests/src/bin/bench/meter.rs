//! What a record costs, without the call around it.

use crate::say;
use anyhow::Result;
use clap::Args;
use dormouse_activator::cost;
use dormouse_tests::proc::cpu_seconds;
use std::io::Write;
use std::time::{Duration, Instant};

/// Bytes of a usual record in the spool: 8 of its entry's head, 1 of its kind, 20 packed.
const RECORD: [u8; 29] = [b'x'; 29];

/// What is measured.
#[derive(Args)]
pub(crate) struct Plan {
    /// Records of one measurement
    #[arg(long, default_value_t = 1_000_000)]
    records: u32,
    /// Threads that write at once
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4])]
    threads: Vec<u32>,
    /// Rounds; each round measures every arm once
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

/// Wall and CPU time of one measurement.
#[derive(Clone, Copy)]
struct Took {
    wall: Duration,
    cpu: f64,
}

/// Measures and prints.
pub(crate) fn run(plan: &Plan) -> Result<()> {
    anyhow::ensure!(plan.records > 0 && plan.rounds > 0 && !plan.threads.contains(&0), "nothing to measure");
    let mut floor = Vec::new();
    // Each with the usual intents, and with every one written.
    let arms: Vec<(u32, bool)> =
        plan.threads.iter().flat_map(|threads| [(*threads, false), (*threads, true)]).collect();
    let mut spools: Vec<Vec<Took>> = arms.iter().map(|_| Vec::new()).collect();
    for _ in 0..plan.rounds {
        floor.push(timed(|folder| plain(folder, plan.records))?);
        for (&(threads, every_intent), took) in arms.iter().zip(&mut spools) {
            let each = plan.records / threads;
            took.push(timed(|folder| Ok(cost::of_records(folder, threads, each, every_intent)?))?);
        }
    }
    say(&format!("\n{} records a round, {} rounds; the median of the rounds", plan.records, plan.rounds));
    say("| what | ns per record | ns of CPU per record | records/s |\n|---|---|---|---|");
    row(&format!("write(2) of {} bytes alone", RECORD.len()), &floor, plan.records);
    for ((threads, every_intent), took) in arms.iter().zip(&spools) {
        let intents = if *every_intent { ", every intent written" } else { "" };
        row(&format!("a record into the spool, {threads} threads{intents}"), took, plan.records / threads * threads);
    }
    say("target: metering takes at most 20 us of CPU per call");
    Ok(())
}

fn timed(work: impl FnOnce(&std::path::Path) -> Result<Duration>) -> Result<Took> {
    let (folder, me) = (tempfile::tempdir()?, [std::process::id()]);
    let before = cpu_seconds(&me)?;
    let wall = work(folder.path())?;
    Ok(Took { wall, cpu: cpu_seconds(&me)? - before })
}

/// As many writes as there are records: what the kernel alone takes.
fn plain(folder: &std::path::Path, records: u32) -> Result<Duration> {
    let mut file = std::fs::File::create(folder.join("plain"))?;
    let began = Instant::now();
    for _ in 0..records {
        file.write_all(&RECORD)?;
    }
    Ok(began.elapsed())
}

fn row(name: &str, took: &[Took], records: u32) {
    let median = |of: fn(&Took) -> f64| {
        let mut values: Vec<f64> = took.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    };
    let (wall, cpu, records) = (median(|t| t.wall.as_secs_f64()), median(|t| t.cpu), f64::from(records));
    say(&format!("| {name} | {:.0} | {:.0} | {:.0} |", wall / records * 1e9, cpu / records * 1e9, records / wall));
}
