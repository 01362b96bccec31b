//! `dormouse budgets`: what tenants may spend, and what they did.

use crate::args::{BudgetsArgs, Format};
use crate::exit::{Failure, Outcome};
use crate::say;
use crate::table::{table, text};
use crate::target::Target;
use crate::usage::{encoded, read};
use serde::{Deserialize, Serialize};

/// Answer of the usage API, as far as it is shown.
#[derive(Debug, Deserialize, Serialize)]
struct Answer {
    complete_through: Option<String>,
    budgets: Vec<Row>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Row {
    name: String,
    tenant: String,
    period: String,
    state: String,
    in_force: bool,
    problem: Option<String>,
    unit: String,
    limit: String,
    spent: Option<String>,
    left: Option<String>,
    percent: Option<u64>,
    warn_percent: u64,
    stop_percent: Option<u64>,
}

pub(crate) async fn run(args: &BudgetsArgs) -> Outcome {
    let target = Target::find(&args.target).await?;
    let filter = args.tenant.as_ref().map(|tenant| format!("?filter%5Btenant%5D={}", encoded(tenant)));
    let body = target.usage().await?.get(&format!("/v1/budgets{}", filter.unwrap_or_default())).await?;
    let answer: Answer = read(&body)?;
    match args.output {
        Format::Json => say::out(serde_json::to_string_pretty(&answer).map_err(Failure::failed)?),
        Format::Table if answer.budgets.is_empty() => say::note("no budgets"),
        Format::Table => show(&answer.budgets),
    }
    Ok(())
}

fn show(budgets: &[Row]) {
    let mut rows = table(&["TENANT", "MONTH", "STATE", ">SPENT", ">LIMIT", ">LEFT", ">PERCENT", "UNIT"]);
    for row in budgets {
        let told = |amount: &Option<String>| amount.clone().unwrap_or_else(|| "-".to_owned());
        let percent = row.percent.map_or_else(|| "-".to_owned(), |percent| percent.to_string());
        let state = if row.in_force { &row.state } else { "NotInForce" };
        let (spent, left) = (told(&row.spent), told(&row.left));
        rows.add_row([&*row.tenant, &*row.period, state, &*spent, &*row.limit, &*left, &*percent, &*row.unit]);
    }
    say::out(text(&rows));
    for row in budgets {
        if let Some(problem) = &row.problem {
            say::note(format_args!("{} is not in force: {problem}", row.name));
        }
    }
}
