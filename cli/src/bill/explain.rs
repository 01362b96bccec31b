//! `dormouse bill --explain LINE`: the calls behind a line, and that they add up to it.

use super::{State, Statement};
use crate::args::{BillArgs, BillFormat};
use crate::exit::{Failure, Outcome};
use crate::say;
use crate::table::{table, text};
use crate::target::Door;
use crate::usage::{cell, encoded, read};
use rust_decimal::Decimal;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::fmt::Write as _;

/// Lines that are about single calls, and what of a call they count.
const OF_CALLS: [(&str, Part); 6] = [
    ("calls", Part::Call),
    ("compute", Part::Memory),
    ("cpu", Part::Cpu),
    ("warm_calls_compute", Part::Memory),
    ("warm_calls_cpu", Part::Cpu),
    (REVERSALS, Part::Reversed),
];

/// The line of what is taken back.
const REVERSALS: &str = "reversals";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Call,
    Memory,
    Cpu,
    /// One that is taken back.
    Reversed,
}

#[derive(Debug, Deserialize)]
struct Page {
    rows: Vec<Map<String, Value>>,
    next_cursor: Option<String>,
}

/// What calls add up to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sum {
    calls: u64,
    mib_ms: u128,
    mcpu_ms: u128,
}

/// Prints the calls behind a line of a statement; fails when they do not add up to it.
pub(super) async fn run(door: &Door, statement: &Statement, line: &str, args: &BillArgs) -> Outcome {
    let part = OF_CALLS.iter().find(|(item, _)| *item == line).map(|(_, part)| *part);
    let lines: Vec<&str> = statement.lines.iter().map(|l| l.item.as_str()).collect();
    let Some(part) = part.filter(|_| lines.contains(&line)) else {
        let known: Vec<&str> = OF_CALLS.iter().map(|(item, _)| *item).filter(|item| lines.contains(item)).collect();
        return Err(Failure::usage(format!(
            "--explain {line:?} is no line of this statement that calls are behind: write one of {}",
            known.join(", ")
        )));
    };
    let wanted = |row: &Map<String, Value>| {
        let is_in = |field: &str| row.get(field).and_then(Value::as_str) == Some(line);
        let of_line = match part {
            Part::Call | Part::Reversed => true,
            Part::Memory => is_in("compute_line"),
            Part::Cpu => is_in("cpu_line"),
        };
        of_line && row.get("billed").and_then(Value::as_bool).unwrap_or_default()
    };
    let (mut sum, mut cursor, mut first) = (Sum::default(), String::new(), true);
    loop {
        let page: Page = read(&door.get(&question(statement, part, &cursor)).await?)?;
        if page.rows.first().is_some_and(|row| !row.contains_key("compute_line")) {
            return Err(Failure::failed("the answer is of another version: it does not say which line a call is in"));
        }
        let rows: Vec<_> = page.rows.into_iter().filter(wanted).collect();
        rows.iter().for_each(|row| sum.add(row));
        print(&rows, args.output, first)?;
        first &= rows.is_empty();
        let Some(next) = page.next_cursor else { break };
        cursor = format!("&cursor={}", encoded(&next));
    }
    check(statement, line, part, &sum)
}

fn question(statement: &Statement, part: Part, cursor: &str) -> String {
    let list = if part == Part::Reversed { REVERSALS } else { "records" };
    let Statement { tenant, from, to, plan, .. } = statement;
    let [tenant, from, to, plan] = [tenant, from, to, plan].map(|text| encoded(text));
    format!("/v1/{list}?limit=10000&tenant={tenant}&from={from}&to={to}&as={plan}{cursor}")
}

impl Sum {
    fn add(&mut self, row: &Map<String, Value>) {
        let number = |name: &str| row.get(name).and_then(Value::as_u64).unwrap_or_default();
        let ms = u128::from(number("billed_ms"));
        self.calls += 1;
        self.mib_ms += ms * u128::from(number("memory_mib"));
        self.mcpu_ms += ms * u128::from(number("cpu_millis"));
    }
}

fn print(rows: &[Map<String, Value>], output: BillFormat, first: bool) -> Outcome {
    const COLUMNS: [&str; 12] = [
        "received_at",
        "request_id",
        "namespace",
        "function",
        "trigger",
        "schedule",
        "due_at",
        "outcome",
        "status",
        "billed_ms",
        "memory_mib",
        "cost",
    ];
    match output {
        // A line each: they may be millions.
        BillFormat::Json => {
            for row in rows {
                say::out(serde_json::to_string(row).map_err(Failure::failed)?);
            }
        }
        BillFormat::Csv => {
            if first && !rows.is_empty() {
                say::out(COLUMNS.join(","));
            }
            for row in rows {
                say::out(COLUMNS.map(|name| cell(row, name)).join(","));
            }
        }
        BillFormat::Table if rows.is_empty() => {}
        BillFormat::Table => {
            let heads = [
                "RECEIVED AT",
                "REQUEST ID",
                "NAMESPACE",
                "FUNCTION",
                "TRIGGER",
                "SCHEDULE",
                "DUE AT",
                "OUTCOME",
                ">STATUS",
                ">BILLED MS",
                ">MIB",
                ">COST",
            ];
            let mut page = table(&heads);
            for row in rows {
                page.add_row(COLUMNS.map(|name| cell(row, name)));
            }
            say::out(text(&page));
        }
    }
    Ok(())
}

/// Whether the calls are what the line says.
fn check(statement: &Statement, line: &str, part: Part, sum: &Sum) -> Outcome {
    let of_line = statement.lines.iter().filter(|l| l.item == line);
    let unit = of_line.clone().next().map_or("", |l| l.unit.as_str());
    let quantities = of_line.map(|l| l.quantity.parse::<Decimal>().ok());
    let quantity = quantities.into_iter().try_fold(Decimal::ZERO, |all, one| all.checked_add(one?));
    // That line counts one adjustment: its calls are told beside.
    let (quantity, unit) = match part {
        Part::Reversed => (Some(Decimal::from(statement.reversed_calls)), "call"),
        _ => (quantity, unit),
    };
    let found = match part {
        Part::Call | Part::Reversed => Some(Decimal::from(sum.calls)),
        Part::Memory => of(sum.mib_ms, unit),
        Part::Cpu => of(sum.mcpu_ms, unit),
    };
    let mut told = format!("{} billed calls", sum.calls);
    match part {
        Part::Call | Part::Reversed => {}
        Part::Memory => drop(write!(told, ", {} MiB-ms", sum.mib_ms)),
        Part::Cpu => drop(write!(told, ", {} mCPU-ms", sum.mcpu_ms)),
    }
    let shown = quantity.map_or_else(|| "?".to_owned(), |q| q.normalize().to_string());
    if found.zip(quantity).is_some_and(|(found, quantity)| found == quantity) {
        say::note(format_args!("{told}: the line's {shown} {unit}, exactly"));
        return Ok(());
    }
    let found = found.map_or_else(|| "?".to_owned(), |f| f.normalize().to_string());
    let why = match statement.unmetered_calls {
        _ if statement.state == State::Closed => {
            "what came to the month since it was closed is corrected by a later statement".to_owned()
        }
        _ if matches!(part, Part::Call | Part::Reversed) => "calls have come in between: ask again".to_owned(),
        0 => "calls have come in between: ask again".to_owned(),
        unmetered => format!("the time of {unmetered} calls is in no line, see the statement"),
    };
    Err(Failure::failed(format!("{told} are {found} {unit}, and the line says {shown}: {why}")))
}

/// A sum in a line's unit: exact, since 1/1024000, 2^20/10^12 and 1/10^6 have finite decimals.
fn of(sum: u128, unit: &str) -> Option<Decimal> {
    let sum = Decimal::from_i128_with_scale(i128::try_from(sum).ok()?, 0);
    match unit {
        "GB-second" => sum.checked_div(Decimal::from(1_024_000)),
        "decimal GB-second" => {
            sum.checked_mul(Decimal::from(1 << 20))?.checked_div(Decimal::from(1_000_000_000_000i64))
        }
        _ => sum.checked_div(Decimal::from(1_000_000)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_exact() {
        let text = |sum, unit| of(sum, unit).unwrap().normalize().to_string();
        assert_eq!(text(768_000_000_000, "GB-second"), "750000");
        assert_eq!(text(1, "GB-second"), "0.0000009765625");
        assert_eq!(text(1, "decimal GB-second"), "0.000001048576");
        assert_eq!(text(1_500_000, "vCPU-second"), "1.5");
    }

    #[test]
    fn calls_add_up_by_what_was_billed() {
        let row = serde_json::json!({"billed_ms": 100, "memory_mib": 512, "cpu_millis": 250});
        let mut sum = Sum::default();
        sum.add(row.as_object().unwrap());
        assert_eq!(sum, Sum { calls: 1, mib_ms: 51_200, mcpu_ms: 25_000 });
    }
}
