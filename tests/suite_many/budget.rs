//! A budget over three activators: nothing is spent beyond it but by the calls that run when it is crossed, nobody is
//! refused while anything is left, a raised one serves again, and an end of the controller in between changes none of it.

use crate::crew::{Crew, FLAGS};
use crate::{LIMIT, in_folder};
use anyhow::{Context, Result};
use dormouse_tests::client::Target;
use dormouse_tests::team::{Function, NAMESPACE};
use dormouse_tests::usage::lately;
use dormouse_tests::wait::until;
use rust_decimal::Decimal;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use tokio::task::JoinSet;

/// Callers at each activator, each with one call at a time: so many calls run at most when the budget is crossed.
const CALLERS: usize = 3;
const ACTIVATORS: usize = 3;

/// About 300 calls of 10 ms with 1 GiB, each 0.0000002 + 0.01 x 0.00003.
const FIRST: &str = "0.000150000";
const SECOND: &str = "0.000300000";
const THIRD: &str = "0.000450000";

/// Of a caller that was told of trouble.
const PAUSE: Duration = Duration::from_millis(50);

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_spent_than_the_budget_and_what_runs() {
    in_folder(async |folder| spends(folder).await).await.unwrap();
}

fn budget(amount: &str) -> Value {
    json!({
        "apiVersion": "dormouse.dev/v1alpha1", "kind": "Budget",
        "metadata": {"name": NAMESPACE}, "spec": {"amount": amount, "warnPercent": 50},
    })
}

async fn spends(folder: &Path) -> Result<()> {
    let spec = json!({
        "concurrency": 3, "timeoutSeconds": 10, "resources": {"memory": "1Gi"},
        "queue": {"maxCalls": 1000, "maxWaitSeconds": 30},
    });
    let function = Function::new("spends", spec);
    let mut crew = Crew::start(folder, std::slice::from_ref(&function), ACTIVATORS, &FLAGS).await?;
    crew.warm(&function).await?;
    for (round, amount) in [FIRST, SECOND, THIRD].into_iter().enumerate() {
        let answer = crew.team.usage.put("/budgets", &json!([budget(amount)])).await?;
        anyhow::ensure!(answer.status == 200, "{answer}");
        if round > 0 {
            serves_again(&crew, &function).await?;
        }
        let spending = tokio::spawn(spend(doors(&crew, &function)));
        if round == 1 {
            // What activators were given goes on to hold; what they said they spent comes back with them.
            tokio::time::sleep(Duration::from_millis(150)).await;
            crew.team.kill_house().await?;
            crew.team.house_program =
                crew.team.house_program.clone().args([format!("--budget={}", file(folder, amount)?)]);
            crew.team.begin_house()?;
        }
        let told = spending.await??;
        println!("{amount}: {told:?}");
        check(&crew, amount, round as u32 + 1).await?;
    }
    while let Some(mut mate) = crew.mates.pop() {
        crew.front.forgets(&mate.door);
        mate.member.leave().await?;
    }
    crew.end().await
}

fn file(folder: &Path, amount: &str) -> Result<String> {
    let file = folder.join("budget.json");
    std::fs::write(&file, serde_json::to_vec(&budget(amount))?)?;
    Ok(file.display().to_string())
}

fn doors(crew: &Crew, function: &Function) -> Vec<Target> {
    let path = function.path("/work?ms=10");
    crew.mates.iter().map(|mate| Target::new(mate.member.traffic, "localhost", &path)).collect()
}

/// Calls everywhere until every caller is refused; how often what was answered.
async fn spend(doors: Vec<Target>) -> Result<BTreeMap<String, usize>> {
    let mut callers = JoinSet::new();
    for (n, door) in doors.into_iter().cycle().take(CALLERS * ACTIVATORS).enumerate() {
        callers.spawn(async move {
            let mut told: BTreeMap<String, usize> = BTreeMap::new();
            loop {
                let answer = door.call(n as u64).await?;
                *told.entry(format!("{} {}", answer.status.as_u16(), answer.reason())).or_default() += 1;
                match (answer.status.as_u16(), answer.reason()) {
                    (200, _) => {}
                    // Its instances end with the controller that is killed; nobody can say what is left while it is away.
                    (502, "InstanceDied") | (503, "BudgetUnknown" | "WaitTimeout") => tokio::time::sleep(PAUSE).await,
                    (429, "BudgetExceeded") => return Ok(told),
                    _ => anyhow::bail!("{answer}"),
                }
            }
        });
    }
    let mut all: BTreeMap<String, usize> = BTreeMap::new();
    while let Some(told) = callers.join_next().await {
        told??.into_iter().for_each(|(what, n)| *all.entry(what).or_default() += n);
    }
    Ok(all)
}

/// A raised budget is told to every activator.
async fn serves_again(crew: &Crew, function: &Function) -> Result<()> {
    for door in doors(crew, function) {
        until("a raised budget serves again", LIMIT, || async {
            let answer = door.call(0).await?;
            anyhow::ensure!(answer.status == 200, "{answer}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// What the ledger says was spent is the budget, and at most what ran when each activator's part of it was crossed.
async fn check(crew: &Crew, amount: &str, rounds: u32) -> Result<()> {
    let limit: Decimal = amount.parse()?;
    let usage = crew.team.usage.clone();
    // Nothing is dispatched any more; the last records are on their way.
    let costs = until("the ledger has every record", LIMIT, || async {
        let costs = costs(&usage).await?;
        let told = usage.get("/v1/budgets").await?;
        let row = &told["budgets"][0];
        let spent: Decimal = row["spent"].as_str().context("no amount")?.parse()?;
        let sum: Decimal = costs.iter().sum();
        anyhow::ensure!(row["state"] == "Stopped", "{row}");
        anyhow::ensure!(spent == sum.round_dp(spent.scale()), "{sum} is recorded: {row}");
        Ok(costs)
    })
    .await?;
    let sum: Decimal = costs.iter().sum();
    let dearest: Decimal = costs.iter().rev().take(CALLERS * ACTIVATORS).sum();
    println!("{} calls cost {sum} of {limit}; at most {dearest} may be beyond it", costs.len());
    anyhow::ensure!(sum >= limit, "{sum} of {limit}: refused while something is left");
    anyhow::ensure!(sum <= limit + dearest, "{sum} of {limit}, and only {dearest} ran (round {rounds})");
    Ok(())
}

/// What each recorded call cost, the dearest last.
async fn costs(usage: &dormouse_tests::usage::Usage) -> Result<Vec<Decimal>> {
    let records = usage.records(&lately()).await?;
    let cost = |record: &Value| Ok(record["cost"].as_str().context("a record without a cost")?.parse()?);
    let mut costs: Vec<Decimal> = records.iter().map(cost).collect::<Result<_>>()?;
    costs.sort();
    Ok(costs)
}
