//! Callers of `examples/place-order`, wherever that runs: each wants one lamp, and tries again while others are at it.

use crate::client::Target;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Longest time that one caller is told to come again.
const LIMIT: Duration = Duration::from_secs(180);

/// What callers were told.
#[derive(Debug)]
pub struct Told {
    /// The orders that were placed.
    pub placed: BTreeSet<String>,
    /// How many were told that nothing is left.
    pub out_of_stock: usize,
    /// Calls that it took.
    pub calls: usize,
}

/// The body of an order.
#[must_use]
pub fn order(id: &str, item: &str) -> String {
    json!({"order": id, "item": item}).to_string()
}

/// So many callers, all at once.
///
/// # Errors
/// When one gets an answer that is none of the example's, or is told to come again for ever.
pub async fn all_at_once(target: &Target, callers: usize) -> Result<Told> {
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..callers {
        let target = target.clone();
        tasks.spawn(async move { until_told(target, format!("o-{n}")).await });
    }
    let mut told = Told { placed: BTreeSet::new(), out_of_stock: 0, calls: 0 };
    while let Some(caller) = tasks.join_next().await {
        let (id, is_placed, calls) = caller??;
        told.calls += calls;
        match is_placed {
            true => drop(told.placed.insert(id)),
            false => told.out_of_stock += 1,
        }
    }
    Ok(told)
}

/// One caller: its order, whether it was placed, and its calls.
async fn until_told(target: Target, id: String) -> Result<(String, bool, usize)> {
    let began = Instant::now();
    for calls in 1.. {
        let answer = target.send(target.post(1, order(&id, "lamp"))).await?;
        let body: Value = serde_json::from_slice(&answer.body).with_context(|| answer.to_string())?;
        match (answer.status.as_u16(), body["result"].as_str()) {
            (409, Some("busy")) => {}
            (201, Some("placed")) => return Ok((id, true, calls)),
            (409, Some("out of stock")) => return Ok((id, false, calls)),
            _ => anyhow::bail!("{answer}"),
        }
        ensure!(began.elapsed() < LIMIT, "{id} is told that others are at it for ever");
        tokio::time::sleep(Duration::from_millis(rand::random_range(20..200))).await;
    }
    anyhow::bail!("never")
}
