//! Orders under a lock: what callers get, what is in the database, and how many connections were made for it.

use crate::LIMIT;
use crate::dev::Dev;
use crate::place::Place;
use anyhow::{Context, Result, ensure};
use dormouse_tests::client::Answer;
use dormouse_tests::orders::{Told, all_at_once, order};
use dormouse_tests::postgres::{Postgres, name_of};
use dormouse_tests::redis::Redis;
use dormouse_tests::wait::until;
use serde_json::Value;
use std::collections::BTreeSet;

const NAME: &str = "place-order";
/// `reservedConcurrency` of the manifest.
const MOST_INSTANCES: usize = 8;

struct Shop {
    redis: Redis,
    postgres: Postgres,
    place: Place,
}

impl Shop {
    async fn new() -> Result<Self> {
        let (redis, postgres) = (Redis::start().await?, Postgres::start().await?);
        let place = Place::of(NAME, Some(&redis), Some(&postgres))?;
        Ok(Self { redis, postgres, place })
    }

    fn sql(&self, statement: &str) -> Result<String> {
        self.postgres.sql(name_of(self.place.database()?), statement)
    }

    /// Connections of the function to Redis and to PostgreSQL.
    fn connections(&self) -> Result<(usize, usize)> {
        let postgres = self.postgres.connections(self.place.database()?, NAME)?;
        Ok((usize::try_from(self.redis.connections()?)?, postgres))
    }

    /// What callers ask, and it alone, was sold.
    fn sold(&self) -> Result<(BTreeSet<String>, String)> {
        let ids = self.sql("SELECT id FROM orders")?;
        Ok((ids.lines().map(str::to_owned).collect(), self.sql("SELECT stock FROM items WHERE name = 'lamp'")?))
    }
}

fn is(answer: &Answer, status: u16, result: &str) -> Result<()> {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    ensure!(answer.status == status && body["result"] == result, "not {status} {result}: {answer}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_placed_once_busy_out_of_stock_or_failed() -> Result<()> {
    let shop = Shop::new().await?;
    let (dev, said) = shop.place.by_its_readme(NAME).await?;
    ensure!(said == "{\"result\": \"placed\", \"order\": \"o-1\", \"item\": \"lamp\"}\n", "{said}");
    is(&dev.post(NAME, order("o-1", "lamp")).await?, 200, "placed before")?;
    is(&dev.post(NAME, order("o-2", "chair")).await?, 404, "no such item")?;
    for broken in ["{", "[]", "{\"order\": 1, \"item\": \"lamp\"}", "{\"order\": \"\\u0000\", \"item\": \"lamp\"}"] {
        is(&dev.post(NAME, broken).await?, 400, "send {\"order\": \"an id of yours\", \"item\": \"lamp\"}")?;
    }

    // Another caller holds the lock: nothing happens, and it says when to come again.
    shop.redis.call(&["SET", "place-order:lamp", "another caller's"])?;
    let busy = dev.post(NAME, order("o-2", "lamp")).await?;
    is(&busy, 409, "busy")?;
    ensure!(busy.header("retry-after") == "1", "{:?}", busy.headers);
    ensure!(shop.redis.call(&["DEL", "place-order:lamp"])? == "1", "another caller's lock was taken away");
    is(&dev.post(NAME, order("o-2", "lamp")).await?, 201, "placed")?;
    // The same id for another item is nobody's second try.
    shop.sql("INSERT INTO items VALUES ('chair', 1)")?;
    is(&dev.post(NAME, order("o-2", "chair")).await?, 409, "the id is another order's")?;
    // All of that by one instance over one connection to each; another instance makes its own.
    ensure!(dev.started(NAME) == 1 && shop.connections()? == (1, 1), "{:?}", shop.connections()?);
    let again = format!("dormouse invoke {NAME} --cold -d '{}'", order("o-1", "lamp"));
    let said = shop.place.shell()?.paste(&again).await?;
    ensure!(said.contains("placed before"), "{said}");
    ensure!(dev.started(NAME) == 2 && shop.connections()? == (2, 2), "{:?}", shop.connections()?);

    shop.sql("UPDATE items SET stock = 0")?;
    is(&dev.post(NAME, order("o-3", "lamp")).await?, 409, "out of stock")?;
    shop.sql("UPDATE items SET stock = 1")?;
    fails(&shop, &dev).await?;
    is(&dev.post(NAME, order("o-3", "lamp")).await?, 201, "placed")?;
    let wanted = ["o-1", "o-2", "o-3"].map(str::to_owned).into();
    ensure!(shop.sold()? == (wanted, "0".to_owned()), "{:?}", shop.sold()?);
    dev.end()
}

/// A connection that broke is a failure that is told, leaves no lock and no half of an order, and is made anew.
async fn fails(shop: &Shop, dev: &Dev) -> Result<()> {
    shop.postgres.disconnect(NAME)?;
    let failed = dev.post(NAME, order("o-3", "lamp")).await?;
    ensure!(failed.status == 500 && failed.text().contains("HandlerError"), "{failed}");
    dev.says("psycopg2.OperationalError").await?;
    ensure!(shop.redis.call(&["EXISTS", "place-order:lamp"])? == "0", "the lock was left");
    ensure!(!shop.sold()?.0.contains("o-3"), "half an order");
    ensure!(dev.started(NAME) == 2, "an instance ended");
    Ok(())
}

/// A call that holds its lock for too long loses it to another: then the database alone keeps both from selling the last one.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_was_lost_sells_nothing_twice() -> Result<()> {
    let shop = Shop::new().await?;
    shop.sql(&std::fs::read_to_string(shop.place.example(NAME).join("schema.sql"))?)?;
    shop.sql("UPDATE items SET stock = 1")?;
    let dev = Dev::start(&shop.place, &["dev", &format!("examples/{NAME}")]).await?;
    let held = shop.postgres.begin("ledger0", "SELECT FROM items FOR UPDATE")?;
    let mut calls = tokio::task::JoinSet::new();
    for n in 1..=2 {
        let target = dev.target(NAME, "");
        calls.spawn(async move { target.send(target.post(1, order(&format!("o-{n}"), "lamp"))).await });
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        until("its order waits in the database", LIMIT, async || {
            let count = shop.sql(waiting)?;
            (count == n.to_string()).then_some(()).context(count)
        })
        .await?;
        // As if its time were over.
        shop.redis.call(&["DEL", "place-order:lamp"])?;
    }
    drop(held);
    let mut told = Vec::new();
    while let Some(answer) = calls.join_next().await {
        let answer = answer??;
        told.push((answer.status.as_u16(), serde_json::from_slice::<Value>(&answer.body)?["result"].clone()));
    }
    told.sort_by_key(|(status, _)| *status);
    ensure!(told == [(201, "placed".into()), (409, "out of stock".into())], "{told:?}");
    let (sold, left) = shop.sold()?;
    ensure!(sold.len() == 1 && left == "0", "{left} left, {sold:?} sold");
    dev.says("the order took longer than its lock").await?;
    dev.end()
}

/// Two hundred who want one of fifty, all at once. Each tries again while it is told that others are at it.
#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_orders_for_fifty_items_sell_fifty() -> Result<()> {
    const CALLERS: usize = 200;
    let shop = Shop::new().await?;
    let schema = std::fs::read_to_string(shop.place.example(NAME).join("schema.sql"))?;
    shop.sql(&schema)?;
    let dev = Dev::start(&shop.place, &["dev", &format!("examples/{NAME}")]).await?;
    let Told { placed, out_of_stock, calls } = all_at_once(&dev.target(NAME, ""), CALLERS).await?;
    ensure!((placed.len(), out_of_stock) == (50, CALLERS - 50), "{} placed, {out_of_stock} not", placed.len());
    let (sold, left) = shop.sold()?;
    ensure!(sold == placed && left == "0", "{left} left; sold {sold:?}, told {placed:?}");
    let (started, (redis, postgres)) = (dev.started(NAME), shop.connections()?);
    let busy = calls - CALLERS;
    say(&format!(
        "{calls} calls ({busy} busy) by {started} instances: {redis} connections to Redis, {postgres} to PostgreSQL"
    ));
    ensure!((1..=MOST_INSTANCES).contains(&started), "{started} instances");
    ensure!((1..=started).contains(&redis) && (1..=started).contains(&postgres), "connections are not used again");
    dev.end()
}

#[expect(clippy::print_stdout, reason = "counts of a run, for BENCHMARKS.md")]
fn say(text: &str) {
    println!("{text}");
}
