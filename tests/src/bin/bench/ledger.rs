//! What a ledger takes and answers: a month of calls through the door by which activators send them, then questions over
//! HTTP. Both stores, one after the other.

mod ask;
mod feed;
mod keep;

pub(crate) use keep::{Keep, keep};

use crate::memory::{at_rest, mib};
use crate::{say, stage};
use anyhow::{Context, Result};
use ask::Asked;
use clap::{Args, ValueEnum};
use dormouse_tests::postgres::Postgres;
use dormouse_tests::proc::{cpu_seconds, memory};
use feed::{Month, Rate};
use keep::Keeper;
use std::path::Path;
use std::time::Instant;

/// What is measured.
#[derive(Args)]
pub(crate) struct Plan {
    /// Calls of the month; the long form has 100,000,000
    #[arg(long, default_value_t = 5_000_000)]
    calls: u64,
    /// Functions; each has calls in each hour
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    functions: u32,
    /// Activators that send at once
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=64))]
    activators: u32,
    /// Questions of each kind
    #[arg(long, default_value_t = 300)]
    questions: u32,
    /// Where the ledger is kept
    #[arg(long, value_delimiter = ',', default_values_t = [Kind::Folder, Kind::Postgres])]
    stores: Vec<Kind>,
}

/// A kind of store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// A folder, by sled
    Folder,
    /// PostgreSQL, the distribution's
    Postgres,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Folder => "folder",
            Self::Postgres => "postgres",
        })
    }
}

/// What was found of one store.
struct Found {
    month: Rate,
    fresh: Rate,
    opened_s: f64,
    bytes: u64,
    peak: u64,
    rest: u64,
    answering: u64,
    asked: Asked,
}

/// Measures and prints.
pub(crate) async fn run(plan: Plan) -> Result<()> {
    anyhow::ensure!(plan.calls >= u64::from(plan.functions) * 720, "fewer calls than functions have hours");
    say(&format!(
        "\n{} calls of {} functions in 30 days, each in each hour; frames of {} records from {} activators at once",
        plan.calls,
        plan.functions,
        feed::FRAME,
        plan.activators
    ));
    for &kind in &plan.stores {
        let found = measure(&plan, kind).await.with_context(|| kind.to_string())?;
        table(&plan, kind, &found);
    }
    Ok(())
}

async fn measure(plan: &Plan, kind: Kind) -> Result<Found> {
    let folder = tempfile::tempdir()?;
    let database = match kind {
        Kind::Folder => None,
        Kind::Postgres => Some(Postgres::start().await?),
    };
    let url = database.as_ref().map(Postgres::database).transpose()?;
    let mut keeper = Keeper::start(folder.path(), url.as_deref()).await?;
    let month = Month::ending_now(plan.calls, plan.functions, plan.activators);
    let workers = Workers { keeper: keeper.pid(), database: database.as_ref() };
    let taken = feed::month(&month, &mut keeper, &workers).await?;
    let fresh = feed::fresh(&month, &keeper, &workers).await?;
    let peak = memory(keeper.pid())?.peak;
    keeper.end()?;
    let began = Instant::now();
    let keeper = Keeper::start(folder.path(), url.as_deref()).await?;
    let opened_s = began.elapsed().as_secs_f64();
    let bytes = match &database {
        Some(server) => server.sql(name_of(url.as_deref())?, "SELECT pg_database_size(current_database())")?.parse()?,
        None => size_of(folder.path())?,
    };
    let rest = at_rest(keeper.pid()).await?;
    let asked = ask::all(&month, &keeper, plan.questions).await?;
    let answering = memory(keeper.pid())?.peak;
    keeper.end()?;
    Ok(Found { month: taken, fresh, opened_s, bytes, peak, rest, answering, asked })
}

/// The name of a database in its URL.
fn name_of(url: Option<&str>) -> Result<&str> {
    let last = url.and_then(|url| url.rsplit('/').next()).context("no database")?;
    last.split('?').next().context("no name")
}

/// Bytes of the files of a folder.
fn size_of(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let about = entry.metadata()?;
        sum += if about.is_dir() { size_of(&entry.path())? } else { about.len() };
    }
    Ok(sum)
}

#[expect(clippy::cast_precision_loss, reason = "counts and bytes of a bench are far below 2^53")]
fn table(plan: &Plan, kind: Kind, found: &Found) {
    let Found { month, fresh, opened_s, bytes, peak, rest, answering, asked } = found;
    let records = (plan.calls + fresh.records) as f64;
    let ms = |times: &dormouse_tests::quantiles::Times| format!("{:.2} / {:.2}", times.ms(0.5), times.ms(0.99));
    say(&format!("\n{kind}:\n| what | found | target |\n|---|---|---|"));
    let row = |what: &str, found: String, target: &str| say(&format!("| {what} | {found} | {target} |"));
    row("records/s durable, a month of hours", month.to_string(), "200,000");
    row("records/s durable, calls of this minute", fresh.to_string(), "200,000");
    row("one function, 30 days by hour, p50 / p99 ms", ms(&asked.one), "p99 at most 5");
    let all =
        format!("{:.0} ({} rows, {} pages, {:.1} MB)", asked.all_ms, asked.rows, asked.pages, asked.bytes as f64 / 1e6);
    row("all functions by hour, every page of JSON, ms", all, "-");
    let ask::Whole { first_ms, ms: whole_ms, bytes: whole } = asked.whole;
    let whole = format!("{whole_ms:.0} ({:.1} MB; its first rows after {first_ms:.1})", whole as f64 / 1e6);
    row("all functions by hour, streamed as CSV, ms", whole, "at most 500");
    row("one hour's records of one function, every page, p50 / p99 ms", ms(&asked.hour), "at most 50");
    row("from a frame's sending to its being in the answer, p50 / p99 ms", ms(&asked.fresh), "-");
    row("bytes on disk per record, sums included", format!("{:.1}", *bytes as f64 / records), "-");
    let resident = format!("{:.1} / {:.1} / {:.1}", mib(*peak), mib(*rest), mib(*answering));
    row("MiB resident: filling at most / opened, at rest / answering at most", resident, "- / 30 / -");
    row("opened again in s", format!("{opened_s:.2}"), "-");
}

/// This program as the keeper of a ledger.
fn program(folder: &Path) -> Result<dormouse_tests::proc::Program> {
    Ok(dormouse_tests::proc::Program::new(stage::this()?, folder.join("keeper.log")))
}

/// Whoever works at a ledger.
struct Workers<'a> {
    keeper: u32,
    database: Option<&'a Postgres>,
}

impl Workers<'_> {
    /// CPU seconds of those that run now: the connections of a ledger stay, what else comes and goes is little.
    fn cpu(&self) -> Result<f64> {
        let of_database = self.database.map(Postgres::pids).transpose()?.unwrap_or_default();
        // One that has just ended tells nothing any more.
        let others: f64 = of_database.iter().filter_map(|pid| cpu_seconds(&[*pid]).ok()).sum();
        Ok(cpu_seconds(&[self.keeper])? + others)
    }
}
