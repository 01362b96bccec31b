//! `examples/place-order` under load, on real Redis and PostgreSQL: orders placed, refused as busy, and the connections that
//! all of them were made over.

use crate::say;
use anyhow::{Context, Result, ensure};
use clap::Args;
use dormouse_tests::client::{Connection, Target};
use dormouse_tests::env::Env;
use dormouse_tests::page::{POSTGRES, REDIS};
use dormouse_tests::pair::free_ports;
use dormouse_tests::postgres::{Postgres, name_of};
use dormouse_tests::proc::{Process, Program};
use dormouse_tests::quantiles::Times;
use dormouse_tests::redis::Redis;
use dormouse_tests::wait::until;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/place-order");
const NAME: &str = "place-order";

/// Longest wait for a start.
const LIMIT: Duration = Duration::from_secs(60);

/// How much, and how long.
#[derive(Args)]
pub(crate) struct Plan {
    /// Seconds of each row
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Callers, each with one order at a time and a connection that it keeps
    #[arg(long, default_value_t = 32)]
    callers: usize,
    /// Items among which each caller chooses by turns: fewer are locked more often
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 64])]
    items: Vec<usize>,
}

/// The function, and what it stands on.
struct Shop {
    redis: Redis,
    postgres: Postgres,
    url: String,
    _folder: tempfile::TempDir,
    /// Not in the function's folder: every file there is code.
    home: tempfile::TempDir,
    target: Target,
    process: Process,
}

/// What callers were told.
#[derive(Default)]
struct Told {
    placed: usize,
    busy: usize,
    times: Times,
}

/// Measures and prints.
pub(crate) async fn run(plan: Plan) -> Result<()> {
    say(&format!("\n{} callers, rows of {} s", plan.callers, plan.seconds));
    say(
        "| items | placed per s | busy per s | p50 ms | p99 ms | calls | instances | connections to Redis | to PostgreSQL |",
    );
    say("|---|---|---|---|---|---|---|---|---|");
    for items in &plan.items {
        row(&plan, *items).await?;
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "counts of a bench are far below 2^53")]
async fn row(plan: &Plan, items: usize) -> Result<()> {
    let shop = Shop::open(items).await?;
    let began = Instant::now();
    let end = began + Duration::from_secs(plan.seconds);
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..plan.callers {
        callers.spawn(call(shop.target.clone(), caller, items, end));
    }
    let mut all = Told::default();
    while let Some(told) = callers.join_next().await {
        let told = told??;
        all.placed += told.placed;
        all.busy += told.busy;
        all.times.merge(&told.times);
    }
    let seconds = began.elapsed().as_secs_f64();
    let rows: usize = shop.sql("SELECT count(*) FROM orders")?.parse()?;
    let taken: usize = shop.sql("SELECT sum(1000000 - stock) FROM items")?.parse()?;
    ensure!(rows == all.placed && taken == all.placed, "{} told, {rows} rows, {taken} taken", all.placed);
    let (redis, postgres) = (shop.redis.connections()?, shop.postgres.connections(&shop.url, NAME)?);
    let per_second = |count: usize| count as f64 / seconds;
    say(&format!(
        "| {items} | {:.0} | {:.0} | {:.1} | {:.1} | {} | {} | {redis} | {postgres} |",
        per_second(all.placed),
        per_second(all.busy),
        all.times.ms(0.5),
        all.times.ms(0.99),
        all.placed + all.busy,
        shop.instances()?,
    ));
    let status = shop.process.end(LIMIT)?;
    ensure!(status.success(), "dormouse dev: {status}");
    Ok(())
}

/// One caller, until the end.
async fn call(target: Target, caller: usize, items: usize, end: Instant) -> Result<Told> {
    let mut told = Told::default();
    let mut connection = Connection::open(target.addr).await?;
    for number in 0.. {
        if Instant::now() >= end {
            break;
        }
        let order =
            json!({"order": format!("o-{caller}-{number}"), "item": format!("item-{}", (caller + number) % items)});
        if !connection.usable() {
            connection = Connection::open(target.addr).await?;
        }
        let answer = connection.call(target.post(1, order.to_string())).await?;
        let body: Value = serde_json::from_slice(&answer.body).with_context(|| answer.to_string())?;
        match (answer.status.as_u16(), body["result"].as_str()) {
            (201, Some("placed")) => {
                told.placed += 1;
                told.times.record(answer.took);
            }
            (409, Some("busy")) => told.busy += 1,
            _ => anyhow::bail!("{answer}"),
        }
    }
    Ok(told)
}

impl Shop {
    async fn open(items: usize) -> Result<Self> {
        let (redis, postgres) = (Redis::start().await?, Postgres::start().await?);
        let (folder, home) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let (url, [calls, usage]) = (postgres.database()?, free_ports()?);
        for file in ["function.yaml", "secret.yaml", "index.py", "database.py"] {
            let text = std::fs::read_to_string(Path::new(EXAMPLE).join(file))?;
            let text = text.replace(REDIS, &redis.url()).replace(POSTGRES, &url);
            std::fs::write(folder.path().join(file), text)?;
        }
        let path = format!("/usr/bin:/bin:{}", std::env::var("PATH").unwrap_or_default());
        let process = Program::new(Env::read()?.program("dormouse")?, Self::log(home.path()))
            .args(["dev".to_owned(), folder.path().display().to_string()])
            .args([format!("--port={}", calls.port()), format!("--usage-port={}", usage.port())])
            .env("XDG_RUNTIME_DIR", home.path().display().to_string())
            // The distribution's interpreter has the distribution's packages.
            .env("PATH", path)
            .start()?;
        let target = Target::new(calls, "bench", format!("/fn/default/{NAME}/"));
        let shop = Self { redis, postgres, url, _folder: folder, home, target, process };
        shop.sql(&std::fs::read_to_string(Path::new(EXAMPLE).join("schema.sql"))?)?;
        shop.sql(&format!("INSERT INTO items SELECT 'item-' || n, 1000000 FROM generate_series(0, {}) n", items - 1))?;
        shop.sql("DELETE FROM items WHERE name = 'lamp'")?;
        until("it takes calls", LIMIT, async || {
            let answer = shop.target.call(1).await?;
            // No order: what it answers first without having asked anybody.
            ensure!(answer.status == 400, "{answer}");
            Ok(())
        })
        .await?;
        Ok(shop)
    }

    fn log(home: &Path) -> PathBuf {
        home.join("dev.log")
    }

    fn sql(&self, statement: &str) -> Result<String> {
        self.postgres.sql(name_of(&self.url), statement)
    }

    /// Instances that were started.
    fn instances(&self) -> Result<usize> {
        let said = std::fs::read_to_string(Self::log(self.home.path()))?;
        Ok(said.lines().filter(|line| line.contains(" started: process ")).count())
    }
}
