//! `dormouse ledger reverse`: calls that are not to be billed.

use crate::args::ReverseArgs;
use crate::exit::{Failure, Outcome};
use crate::say;
use crate::table::{table, text};
use crate::target::{Door, Target};
use crate::usage::{cell, encoded, read};
use rust_decimal::Decimal;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Most records of one order.
const AT_ONCE: usize = 1_000;
/// Most that one command takes back: what a function and month may have.
const MOST: usize = 10_000;

type Row = Map<String, Value>;

#[derive(Debug, Deserialize)]
struct Page {
    currency: String,
    rows: Vec<Row>,
    next_cursor: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Reversed {
    reversed: usize,
    reversed_before: usize,
    unknown: usize,
}

pub(crate) async fn run(args: &ReverseArgs) -> Outcome {
    let target = Target::find(&args.target).await?;
    let door = target.usage().await?;
    let (found, currency) = find(&door, args).await?;
    let (before, wanted): (Vec<Row>, Vec<Row>) =
        found.into_iter().partition(|row| !cell(row, "reversed_at").is_empty());
    if !before.is_empty() {
        say::note(format_args!("{} of them are taken back already", before.len()));
    }
    let cost = wanted.iter().try_fold(Decimal::ZERO, |sum, row| sum.checked_add(cell(row, "cost").parse().ok()?));
    let cost = cost.map_or_else(|| "?".to_owned(), |cost| cost.normalize().to_string());
    if args.dry_run {
        show(&wanted);
        say::note(format_args!("{} calls would be taken back, which cost {cost} {currency}", wanted.len()));
        return Ok(());
    }
    let mut all = Reversed::default();
    for some in wanted.chunks(AT_ONCE) {
        let order = serde_json::to_vec(&order(&args.reason, some)).map_err(Failure::failed)?;
        let told: Reversed = read(&door.post("/v1/reversals", order).await?)?;
        all.reversed += told.reversed;
        all.reversed_before += told.reversed_before;
        all.unknown += told.unknown;
    }
    say::note(format_args!("{} calls are taken back, which cost {cost} {currency}", all.reversed));
    match (all.reversed_before, all.unknown) {
        (0, 0) => Ok(()),
        (before, unknown) => Err(Failure::failed(format!(
            "meanwhile {before} of them were taken back by somebody else, and {unknown} are not kept any longer"
        ))),
    }
}

/// The records that are meant. One that is named and not found is a failure: nothing is taken back then.
async fn find(door: &Door, args: &ReverseArgs) -> Result<(Vec<Row>, String), Failure> {
    let named: BTreeSet<String> = args.request_ids.iter().map(ToString::to_string).collect();
    let (mut found, mut cursor) = (Vec::new(), String::new());
    let currency = loop {
        let page: Page = read(&door.get(&format!("{}{cursor}", question(args))).await?)?;
        found.extend(page.rows.into_iter().filter(|row| args.all || named.contains(&cell(row, "request_id"))));
        if found.len() > MOST {
            return Err(Failure::usage(format!("more than {MOST} calls match: name a shorter time or one function")));
        }
        let done = !args.all && found.len() == named.len();
        let Some(next) = page.next_cursor.filter(|_| !done) else { break page.currency };
        cursor = format!("&cursor={}", encoded(&next));
    };
    let there: BTreeSet<String> = found.iter().map(|row| cell(row, "request_id")).collect();
    let missing: Vec<&str> = named.difference(&there).map(String::as_str).collect();
    if !missing.is_empty() {
        return Err(Failure::not_found(format!(
            "no record of {} between --from and --to (without them: of the last hour); nothing was taken back",
            missing.join(", ")
        )));
    }
    if found.is_empty() {
        return Err(Failure::not_found("no call matches; nothing was taken back"));
    }
    Ok((found, currency))
}

fn question(args: &ReverseArgs) -> String {
    let ReverseArgs { from, to, tenant, namespace, function, .. } = args;
    let mut question = String::from("/v1/records?limit=10000");
    let all = [("from", from), ("to", to), ("tenant", tenant), ("namespace", namespace), ("function", function)];
    for (name, value) in all {
        if let Some(value) = value {
            let _ = write!(question, "&{name}={}", encoded(value));
        }
    }
    question
}

fn order(reason: &str, rows: &[Row]) -> Value {
    let name = |row: &Row| {
        let part = |name: &str| row.get(name).cloned().unwrap_or_default();
        json!({
            "activator": part("activator"), "epoch": part("epoch"), "seq": part("seq"), "received_at": part("received_at"),
        })
    };
    json!({"reason": reason, "records": rows.iter().map(name).collect::<Vec<_>>()})
}

fn show(rows: &[Row]) {
    const COLUMNS: [&str; 6] = ["received_at", "request_id", "namespace", "function", "outcome", "cost"];
    let mut page = table(&["RECEIVED AT", "REQUEST ID", "NAMESPACE", "FUNCTION", "OUTCOME", ">COST"]);
    for row in rows {
        page.add_row(COLUMNS.map(|name| cell(row, name)));
    }
    say::out(text(&page));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_names_records_as_they_are_told() {
        let row = json!({
            "activator": "0000000000000007", "epoch": 1, "seq": 3, "received_at": "2026-11-01T00:02:00Z", "cost": "1",
        });
        let named = json!({
            "activator": "0000000000000007", "epoch": 1, "seq": 3, "received_at": "2026-11-01T00:02:00Z",
        });
        let rows = [row.as_object().cloned().unwrap_or_default()];
        assert_eq!(order("ours", &rows), json!({"reason": "ours", "records": [named]}));
    }
}
