//! What the clock calls: each handler by the event that a schedule sends, at its runtime's own door, and under `dormouse dev`.

use crate::place::Place;
use crate::{LIMIT, ROOT};
use anyhow::{Context, Result, ensure};
use dormouse_tests::client::{Answer, Target};
use dormouse_tests::ports;
use dormouse_tests::postgres::Postgres;
use dormouse_tests::proc::{Process, Program};
use dormouse_tests::redis::Redis;
use dormouse_tests::wait::until;
use http::HeaderValue;
use serde_json::{Value, json};
use std::net::SocketAddr;

/// A language runtime that booted with an example's code: an instance, without what is around it.
struct Instance {
    address: SocketAddr,
    _process: Process,
}

impl Instance {
    /// Starts one; of its environment it gets what a manifest's `env` would give.
    async fn start(place: &Place, example: &str, env: [(&str, &str); 1]) -> Result<Self> {
        let [address] = ports::free()?;
        let (interpreter, file) = if place.example(example).join("index.js").exists() {
            ("node", "nodejs")
        } else {
            ("/usr/bin/python3", "python")
        };
        let main = format!("{ROOT}/runtimes/{file}/main.{}", if file == "nodejs" { "js" } else { "py" });
        let mut program = Program::new(interpreter, place.log("instance"))
            .args([main])
            .env("HOST", "127.0.0.1")
            .env("PORT", address.port().to_string())
            .env("DORMOUSE_HANDLER", "index.handler")
            .env("DORMOUSE_CODE_DIR", place.example(example).display().to_string())
            .env("K_SERVICE", example)
            .env("PYTHONDONTWRITEBYTECODE", "1");
        for (name, value) in env {
            program = program.env(name, value);
        }
        let mut process = program.start()?;
        until("it is ready", LIMIT, || {
            let runs = process.check();
            async move {
                runs?;
                Ok(tokio::net::TcpStream::connect(address).await.map(drop)?)
            }
        })
        .await?;
        Ok(Self { address, _process: process })
    }

    /// What the clock sends when a schedule is due.
    async fn due(&self, at: &str) -> Result<Value> {
        let target = Target::new(self.address, "instance", "/");
        let mut request = target.post(1, "");
        for (name, value) in [("dormouse-event", "schedule"), ("dormouse-event-time", at), ("dormouse-event-name", "s")]
        {
            request.headers_mut().insert(name, HeaderValue::from_str(value)?);
        }
        json_of(&target.send(request).await?)
    }
}

fn json_of(answer: &Answer) -> Result<Value> {
    ensure!(answer.status == 200, "{answer}");
    serde_json::from_slice(&answer.body).with_context(|| answer.to_string())
}

fn visits(redis: &Redis) -> Result<()> {
    redis.call(&["HSET", "visits:2026-11-26", "/lamps", "3", "/", "5", "/chairs", "3"])?;
    redis.call(&["HSET", "visits:2026-11-27", "/", "100"]).map(drop)
}

fn report() -> Value {
    let page = |page: &str, visits: u32| json!({"page": page, "visits": visits});
    json!({"day": "2026-11-26", "total": 11, "pages": [page("/", 5), page("/chairs", 3), page("/lamps", 3)]})
}

#[tokio::test(flavor = "multi_thread")]
async fn the_report_is_that_of_the_day_before_it_was_due() -> Result<()> {
    let redis = Redis::start().await?;
    let place = Place::of("nightly-report", Some(&redis), None)?;
    visits(&redis)?;
    let instance = Instance::start(&place, "nightly-report", [("REDIS_URL", &format!("{}/0", redis.url()))]).await?;
    for _ in 0..2 {
        ensure!(instance.due("2026-11-27T00:05:00Z").await? == report());
    }
    ensure!(serde_json::from_str::<Value>(&redis.call(&["GET", "report:2026-11-26"])?)? == report());
    ensure!(instance.due("2026-11-25T23:59:59Z").await? == json!({"day": "2026-11-24", "total": 0, "pages": []}));
    // Three calls, one connection; when it breaks the next call makes another.
    ensure!(redis.connections()? == 1, "{}", redis.connections()?);
    redis.call(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"])?;
    until("it has a connection again", LIMIT, async || instance.due("2026-11-27T00:05:00Z").await.map(drop)).await?;
    ensure!(redis.connections()? == 2, "{}", redis.connections()?);
    Ok(())
}

/// The report that is kept, as its README asks for it, by many callers: all by one connection.
#[tokio::test(flavor = "multi_thread")]
async fn the_report_is_read_by_many_over_one_connection() -> Result<()> {
    let redis = Redis::start().await?;
    let place = Place::of("nightly-report", Some(&redis), None)?;
    let (dev, said) = place.by_its_readme("nightly-report").await?;
    ensure!(said == "there is no report of 2026-11-26\n", "{said}");
    ensure!(redis.call(&["HGET", "visits:2026-11-26", "/lamps"])? == "3");
    redis.call(&["SET", "report:2026-11-26", &report().to_string()])?;
    let calls = (0..50).map(|_| dev.get("nightly-report", "?day=2026-11-26"));
    for answer in futures::future::try_join_all(calls).await? {
        ensure!(json_of(&answer)? == report(), "{answer}");
    }
    let bad = dev.get("nightly-report", "?day=today").await?;
    ensure!(bad.status == 400, "{bad}");
    // One for each instance; one of redis-cli in the README.
    let (instances, connections) = (dev.started("nightly-report"), redis.connections()?);
    ensure!(connections <= instances as u64 + 1 && instances <= 5, "{connections} of {instances}");
    dev.end()
}

const ORDERS: &str =
    "INSERT INTO orders VALUES ('due', 'open', '2026-11-26T09:59:00Z'), ('now', 'open', '2026-11-26T10:00:00Z'),
    ('later', 'open', '2026-11-26T10:00:01Z'), ('paid', 'paid', '2026-11-26T09:00:00Z')";

#[tokio::test(flavor = "multi_thread")]
async fn orders_are_closed_that_were_open_when_it_was_due() -> Result<()> {
    let postgres = Postgres::start().await?;
    let place = Place::of("close-orders", None, Some(&postgres))?;
    postgres.sql("ledger0", &std::fs::read_to_string(place.example("close-orders").join("schema.sql"))?)?;
    postgres.sql("ledger0", ORDERS)?;
    let url = place.database()?;
    let instance = Instance::start(&place, "close-orders", [("DATABASE_URL", url)]).await?;
    let due = "2026-11-26T10:00:00Z";
    ensure!(instance.due(due).await? == json!({"closed": ["due", "now"]}));
    // Late, or twice: nothing more.
    ensure!(instance.due(due).await? == json!({"closed": []}));
    ensure!(instance.due("2026-11-26T11:00:00Z").await? == json!({"closed": ["later"]}));
    ensure!(postgres.sql("ledger0", "SELECT state FROM orders WHERE id = 'paid'")? == "paid");
    ensure!(postgres.connections(url, "close-orders")? == 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_is_nobodys_but_the_clocks() -> Result<()> {
    let postgres = Postgres::start().await?;
    let place = Place::of("close-orders", None, Some(&postgres))?;
    let (dev, said) = place.by_its_readme("close-orders").await?;
    ensure!(said == "this is done by the clock\n", "{said}");
    ensure!(postgres.sql("ledger0", "SELECT state FROM orders")? == "open");
    dev.end()
}

/// The whole way, by a clock that strikes every second.
#[tokio::test(flavor = "multi_thread")]
async fn the_clock_of_dev_closes_orders() -> Result<()> {
    let postgres = Postgres::start().await?;
    let place = Place::of("close-orders", None, Some(&postgres))?;
    let manifest = place.example("close-orders").join("function.yaml");
    let text = std::fs::read_to_string(&manifest)?;
    ensure!(text.contains("cron: \"0 * * * *\""), "{text}");
    std::fs::write(&manifest, text.replace("cron: \"0 * * * *\"", "cron: \"* * * * * *\""))?;
    let (dev, _) = place.by_its_readme("close-orders").await?;
    until("the order of the README is closed", LIMIT, async || {
        let state = postgres.sql("ledger0", "SELECT state FROM orders")?;
        (state == "closed").then_some(()).context(state)
    })
    .await?;
    dev.end()
}
