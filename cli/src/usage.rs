//! `dormouse usage`: what functions used, by whom and when.

pub(crate) use dormouse_controller::usage_api::encoded;

use crate::args::{By, Format, UsageArgs};
use crate::exit::{Failure, Outcome};
use crate::say;
use crate::table::{table, text};
use crate::target::Target;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

/// Most pages that are asked for: 100 x 10,000 rows is more than anyone reads.
const MAX_PAGES: usize = 100;

/// A page, as far as it is shown; rows keep every field they have.
#[derive(Debug, Deserialize, Serialize)]
struct Page {
    from: String,
    to: String,
    #[serde(default)]
    complete_through: Option<String>,
    #[serde(default)]
    time_zone: Option<String>,
    granularity: String,
    group_by: Vec<String>,
    plan: String,
    currency: String,
    rows: Vec<serde_json::Map<String, serde_json::Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

pub(crate) async fn run(args: &UsageArgs) -> Outcome {
    let question = question(args, Timestamp::now())?;
    let target = Target::find(&args.target).await?;
    let door = target.usage().await?;
    let mut whole: Option<Page> = None;
    let mut cursor = String::new();
    for _ in 0..MAX_PAGES {
        let body = door.get(&format!("/v1/usage?{question}{cursor}")).await?;
        let page: Page = read(&body)?;
        cursor = page.next_cursor.as_deref().map(|c| format!("&cursor={}", encoded(c))).unwrap_or_default();
        match &mut whole {
            None => whole = Some(page),
            Some(whole) => whole.rows.extend(page.rows),
        }
        if cursor.is_empty() {
            break;
        }
    }
    let Some(mut page) = whole else { return Ok(()) };
    page.next_cursor = None;
    match args.output {
        Format::Json => say::out(serde_json::to_string_pretty(&page).map_err(Failure::failed)?),
        Format::Table => show(&page, &args.by),
    }
    if !cursor.is_empty() {
        say::note("there is more: ask for a shorter time");
    }
    Ok(())
}

/// An answer of the usage API.
pub(crate) fn read<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|e| Failure::failed(format!("the answer is of another version: {e}")))
}

/// The query of the usage API.
fn question(args: &UsageArgs, now: Timestamp) -> Result<String, Failure> {
    let mut query = String::from("limit=10000");
    let times: Vec<&str> = args.by.iter().filter_map(|by| step(*by)).collect();
    if times.len() > 1 {
        return Err(Failure::usage("--by takes one of hour, day and month"));
    }
    let granularity = times.first().copied().unwrap_or("total");
    let _ = write!(query, "&granularity={granularity}");
    let groups: Vec<&str> = args.by.iter().flat_map(|by| groups(*by).iter().copied()).collect();
    let mut kept: Vec<&str> = Vec::new();
    groups.into_iter().for_each(|g| {
        if !kept.contains(&g) {
            kept.push(g);
        }
    });
    if !kept.is_empty() {
        let _ = write!(query, "&group_by={}", kept.join(","));
    }
    for (name, value) in [("from", &args.from), ("to", &args.to)] {
        if let Some(text) = value {
            let _ = write!(query, "&{name}={}", encoded(&hour(name, text, now)?));
        }
    }
    for (name, value) in [("function", &args.function), ("namespace", &args.namespace)] {
        if let Some(text) = value {
            let _ = write!(query, "&filter%5B{name}%5D={}", encoded(text));
        }
    }
    Ok(query)
}

fn step(by: By) -> Option<&'static str> {
    match by {
        By::Hour => Some("PT1H"),
        By::Day => Some("P1D"),
        By::Month => Some("P1M"),
        By::Function | By::Namespace | By::Tenant => None,
    }
}

fn groups(by: By) -> &'static [&'static str] {
    match by {
        By::Function => &["namespace", "function"],
        By::Namespace => &["namespace"],
        By::Tenant => &["tenant"],
        By::Hour | By::Day | By::Month => &[],
    }
}

/// A time as the usage API takes it: whole hours, since usage is kept by the hour. Of a time within an hour, the whole
/// hour belongs to the period.
fn hour(name: &str, text: &str, now: Timestamp) -> Result<String, Failure> {
    let wrong = || {
        Failure::usage(format!("--{name} {text:?} is no time: write 2026-11, 2026-11-24, 2026-11-24T10:00:00Z or now"))
    };
    let midnight = |date: Date| date.to_zoned(TimeZone::UTC).map(|z| z.timestamp()).map_err(|_| wrong());
    let time = match text {
        "now" => now,
        _ if text.len() == 7 => midnight(format!("{text}-01").parse().map_err(|_| wrong())?)?,
        _ if text.len() == 10 => midnight(text.parse().map_err(|_| wrong())?)?,
        _ => text.parse().map_err(|_| wrong())?,
    };
    let begun = Timestamp::from_second(time.as_second().div_euclid(3600) * 3600).map_err(|_| wrong())?;
    let whole = if name == "to" && begun < time { begun.checked_add(1.hour()).map_err(|_| wrong())? } else { begun };
    Ok(whole.to_string())
}

fn show(page: &Page, by: &[By]) {
    say::note(format_args!("{} to {} UTC, plan {}", page.from, page.to, page.plan));
    if page.rows.is_empty() {
        say::note("no calls in this time");
        return;
    }
    let cost = format!(">COST {}", page.currency);
    let mut headers: Vec<&str> = Vec::new();
    if page.granularity != "total" {
        headers.push("START");
    }
    headers.extend(by.iter().flat_map(|by| groups(*by)).map(|g| match *g {
        "namespace" => "NAMESPACE",
        "tenant" => "TENANT",
        _ => "FUNCTION",
    }));
    let numbers = [">CALLS", ">COLD", ">ERRORS", ">BILLED CALLS", ">BILLED MS", ">GB-SECONDS", &cost];
    let mut rows = table(&[&headers, &numbers[..]].concat());
    for row in &page.rows {
        let mut cells: Vec<String> = headers.iter().map(|h| cell(row, &h.to_lowercase())).collect();
        let number = |name: &str| row.get(name).and_then(serde_json::Value::as_u64).unwrap_or(0);
        let errors: u64 = ["function_error", "platform_error", "timeout", "aborted"].iter().map(|n| number(n)).sum();
        cells.extend([cell(row, "calls"), cell(row, "cold_calls"), errors.to_string()]);
        cells.extend(["billed_calls", "billed_ms", "gb_seconds", "cost"].map(|name| cell(row, name)));
        rows.add_row(cells);
    }
    if page.rows.len() > 1 {
        let sum = |name: &str| {
            let values = page.rows.iter().map(|r| cell(r, name).parse::<Decimal>().ok());
            values
                .into_iter()
                .try_fold(Decimal::ZERO, |sum, v| sum.checked_add(v?))
                .map_or_else(|| "-".into(), |d| d.normalize().to_string())
        };
        let mut cells = vec![String::new(); headers.len()];
        if let Some(first) = cells.first_mut() {
            *first = "total".into();
        }
        let errors =
            ["function_error", "platform_error", "timeout", "aborted"].map(|n| sum(n).parse::<u64>().unwrap_or(0));
        cells.extend([sum("calls"), sum("cold_calls"), errors.iter().sum::<u64>().to_string()]);
        cells.extend(["billed_calls", "billed_ms", "gb_seconds", "cost"].map(sum));
        rows.add_row(cells);
    }
    say::out(text(&rows));
}

pub(crate) fn cell(row: &serde_json::Map<String, serde_json::Value>, name: &str) -> String {
    match row.get(name) {
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(serde_json::Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn asked(line: &str) -> Result<String, String> {
        let words = ["dormouse", "usage"].into_iter().chain(line.split_whitespace());
        let Command::Usage(args) = Cli::try_parse_from(words).unwrap().command else { panic!() };
        question(&args, "2026-11-24T10:30:00Z".parse().unwrap()).map_err(|f| f.message().to_owned())
    }

    #[test]
    fn the_question_is_the_apis() {
        assert_eq!(asked("").unwrap(), "limit=10000&granularity=total&group_by=namespace,function");
        assert_eq!(asked("--by day").unwrap(), "limit=10000&granularity=P1D");
        assert_eq!(
            asked("--by function,hour,namespace --function hello").unwrap(),
            "limit=10000&granularity=PT1H&group_by=namespace,function&filter%5Bfunction%5D=hello"
        );
        assert!(asked("--by day,hour").is_err());
    }

    #[test]
    fn times_are_whole_hours() {
        let from =
            |t: &str| asked(&format!("--by tenant --from {t}")).map(|q| q.rsplit('=').next().unwrap().to_owned());
        let to = |t: &str| asked(&format!("--by tenant --to {t}")).map(|q| q.rsplit('=').next().unwrap().to_owned());
        assert_eq!(from("2026-11").unwrap(), "2026-11-01T00%3A00%3A00Z");
        assert_eq!(from("2026-11-24").unwrap(), "2026-11-24T00%3A00%3A00Z");
        assert_eq!(from("now").unwrap(), "2026-11-24T10%3A00%3A00Z");
        assert_eq!(to("now").unwrap(), "2026-11-24T11%3A00%3A00Z");
        assert_eq!(to("2026-11-24T10:00:00Z").unwrap(), "2026-11-24T10%3A00%3A00Z");
        assert!(from("yesterday").is_err());
        assert!(from("2026-13").is_err());
    }
}
