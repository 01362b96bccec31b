//! `dormouse bill`: a tenant's statement of a month, beside what a server that is always on would cost.

mod explain;
mod export;

use crate::args::{BillArgs, BillFormat};
use crate::exit::{Failure, Outcome};
use crate::say;
use crate::table::{table, text};
use crate::target::Target;
use crate::usage::{encoded, read};
use jiff::tz::TimeZone;
use jiff::{Timestamp, civil};
use rust_decimal::Decimal;
use serde::Deserialize;
use std::fmt::Write as _;

#[derive(Debug, Deserialize)]
pub(crate) struct Statement {
    pub(crate) tenant: String,
    pub(crate) period: String,
    pub(crate) from: String,
    pub(crate) to: String,
    period_over: bool,
    pub(crate) state: State,
    closed_at: Option<String>,
    /// Every call before this moment has its record in the ledger; `None`: that cannot be said now.
    complete_through: Option<Timestamp>,
    pub(crate) plan: String,
    currency: String,
    calls: u64,
    pub(crate) billed_calls: u64,
    pub(crate) reversed_calls: u64,
    pub(crate) unmetered_calls: u64,
    pub(crate) lines: Vec<Line>,
    corrections: Vec<Correction>,
    total: String,
    comparison: Option<Comparison>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Line {
    pub(crate) item: String,
    pub(crate) tier: u32,
    pub(crate) quantity: String,
    pub(crate) unit: String,
    unit_price: String,
    amount: String,
}

/// Whether anything of a statement can change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    Open,
    Closed,
    Estimate,
}

#[derive(Debug, Deserialize)]
struct Correction {
    period: String,
    billed: String,
    restated: String,
    amount: String,
}

#[derive(Debug, Deserialize)]
struct Comparison {
    fixed_server: String,
    saving: String,
    saving_percent: String,
}

pub(crate) async fn run(args: &BillArgs) -> Outcome {
    let path = path(args, Timestamp::now())?;
    let target = Target::find(&args.target).await?;
    let door = target.usage().await?;
    if let Some(format) = args.export {
        return export::run(&door, args, format).await;
    }
    let body = door.get(&path).await?;
    if let Some(line) = &args.explain {
        return explain::run(&door, &read(&body)?, line, args).await;
    }
    match args.output {
        BillFormat::Csv => say::bytes(&body)?,
        BillFormat::Json => {
            let value: serde_json::Value = serde_json::from_slice(&body).map_err(Failure::failed)?;
            say::out(serde_json::to_string_pretty(&value).map_err(Failure::failed)?);
        }
        BillFormat::Table => {
            say::out(page(&read(&body)?));
        }
    }
    Ok(())
}

fn path(args: &BillArgs, now: Timestamp) -> Result<String, Failure> {
    let month = match &args.month {
        Some(month) if month.len() == 7 && format!("{month}-01").parse::<civil::Date>().is_ok() => month.clone(),
        Some(month) => return Err(Failure::usage(format!("--month {month:?} is no month: write for example 2026-11"))),
        None => now.to_zoned(TimeZone::UTC).strftime("%Y-%m").to_string(),
    };
    let mut path = format!("/v1/statements/{}/{month}", encoded(&args.tenant));
    let csv = args.output == BillFormat::Csv && args.explain.is_none();
    let _ = write!(path, "?format={}", if csv { "csv" } else { "json" });
    if let Some(plan) = &args.as_plan {
        let _ = write!(path, "&as={}", encoded(plan));
    }
    if let Some(price) = &args.fixed_server {
        if price.parse::<Decimal>().ok().is_none_or(|p| p <= Decimal::ZERO) {
            return Err(Failure::usage(format!(
                "--fixed-server {price:?} is no price above zero: write for example 350"
            )));
        }
        let _ = write!(path, "&fixed_server={}", encoded(price));
    }
    Ok(path)
}

fn page(statement: &Statement) -> String {
    let Statement { tenant, period, plan, currency, calls, billed_calls, .. } = statement;
    let so_far = if statement.period_over { "" } else { " so far" };
    let title = if statement.state == State::Estimate { "Estimate for" } else { "Statement of" };
    let mut page = format!("{title} tenant {tenant} for {period}{so_far} (UTC), plan {plan}\n");
    match &statement.closed_at {
        Some(at) => drop(writeln!(page, "Closed on {}: nothing changes it", at.get(..10).unwrap_or(at))),
        None if statement.period_over && statement.state == State::Open => {
            page.push_str("Not closed yet: what comes late is still counted\n");
        }
        None => {}
    }
    let reversed = match statement.reversed_calls {
        0 => String::new(),
        reversed => format!(", {reversed} of those taken back (--explain reversals)"),
    };
    let _ = writeln!(page, "{calls} calls, {billed_calls} of them billed{reversed}\n");
    let (price, amount) = (format!(">PRICE {currency}"), format!(">AMOUNT {currency}"));
    let mut rows = table(&["ITEM", ">QUANTITY", "UNIT", &price, &amount]);
    for line in &statement.lines {
        let several = statement.lines.iter().filter(|other| other.item == line.item).count() > 1;
        let item = match line.tier {
            0 => format!("{}, free", line.item),
            tier if several => format!("{}, tier {tier}", line.item),
            _ => line.item.clone(),
        };
        rows.add_row([&item, &line.quantity, &line.unit, &line.unit_price, &line.amount]);
    }
    for correction in &statement.corrections {
        rows.add_row([
            &format!("correction of {}", correction.period),
            "1",
            "month",
            &correction.amount,
            &correction.amount,
        ]);
    }
    rows.add_row(["total", "", "", "", &statement.total]);
    page.push_str(&text(&rows));
    for Correction { period, billed, restated, .. } in &statement.corrections {
        let _ = write!(
            page,
            "\n\n{period} was billed {billed} {currency}, and costs {restated} {currency} with what came after it was closed"
        );
    }
    if statement.unmetered_calls > 0 {
        let _ = write!(
            page,
            "\n\n{} calls came before the ledger knew how plan {plan} rounds time: they are in no line but calls",
            statement.unmetered_calls
        );
    }
    if let Some(missing) = missing(statement) {
        let _ = write!(page, "\n\n{missing}");
    }
    if let Some(c) = &statement.comparison {
        let _ = write!(
            page,
            "\n\nA server that is always on: {} {currency}. This: {} {currency}, ",
            c.fixed_server, statement.total
        );
        let _ = match c.saving_percent.strip_prefix('-') {
            Some(more) => write!(page, "{more} % more ({} {currency})", c.saving.trim_start_matches('-')),
            None => write!(page, "{} % less ({} {currency} saved)", c.saving_percent, c.saving),
        };
    }
    page
}

/// What may come to the statement of a month that is over.
fn missing(statement: &Statement) -> Option<String> {
    let end: Timestamp =
        statement.to.parse().ok().filter(|_| statement.period_over && statement.state != State::Closed)?;
    match statement.complete_through {
        Some(through) if through >= end => None,
        Some(through) => Some(format!(
            "Not complete yet: calls that came after {} may still be missing. Ask again later.",
            through.strftime("%Y-%m-%d %H:%M:%S UTC")
        )),
        None => Some("Calls may still be missing: how far the ledger is complete cannot be said now.".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn asked(line: &str) -> Result<String, String> {
        let words = ["dormouse", "bill"].into_iter().chain(line.split_whitespace());
        let Command::Bill(args) = Cli::try_parse_from(words).unwrap().command else { panic!() };
        path(&args, "2026-11-24T10:30:00Z".parse().unwrap()).map_err(|f| f.message().to_owned())
    }

    #[test]
    fn the_question_is_the_apis() {
        assert_eq!(asked("").unwrap(), "/v1/statements/default/2026-11?format=json");
        let all = asked("--tenant a/b --month 2026-10 --fixed-server 350 --as lambda -o csv").unwrap();
        assert_eq!(all, "/v1/statements/a%2Fb/2026-10?format=csv&as=lambda&fixed_server=350");
        for wrong in ["--month 2026", "--month 2026-13", "--fixed-server 0", "--fixed-server x"] {
            assert!(asked(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_articles_bill_reads_as_the_article_says() {
        let mut statement = Statement {
            tenant: "default".into(),
            period: "2026-11".into(),
            period_over: true,
            state: State::Closed,
            closed_at: Some("2026-12-04T00:00:09Z".into()),
            complete_through: None,
            plan: "article".into(),
            currency: "CNY".into(),
            from: "2026-11-01T00:00:00Z".into(),
            to: "2026-12-01T00:00:00Z".into(),
            calls: 15_000_000,
            billed_calls: 15_000_000,
            reversed_calls: 0,
            unmetered_calls: 0,
            lines: [
                ("calls", "15000000", "call", "0.0000002", "3.00"),
                ("compute", "750000", "GB-second", "0.00003", "22.50"),
            ]
            .map(|(item, quantity, unit, unit_price, amount)| Line {
                item: item.into(),
                tier: 1,
                quantity: quantity.into(),
                unit: unit.into(),
                unit_price: unit_price.into(),
                amount: amount.into(),
            })
            .into(),
            corrections: vec![Correction {
                period: "2026-10".into(),
                billed: "7.00".into(),
                restated: "7.10".into(),
                amount: "0.10".into(),
            }],
            total: "25.60".into(),
            comparison: Some(Comparison {
                fixed_server: "350".into(),
                saving: "324.50".into(),
                saving_percent: "92.7".into(),
            }),
        };
        assert_eq!(
            page(&statement),
            "Statement of tenant default for 2026-11 (UTC), plan article\n\
             Closed on 2026-12-04: nothing changes it\n\
             15000000 calls, 15000000 of them billed\n\
             \n\
             ITEM                    QUANTITY   UNIT        PRICE CNY   AMOUNT CNY\n\
             calls                   15000000   call        0.0000002         3.00\n\
             compute                   750000   GB-second     0.00003        22.50\n\
             correction of 2026-10          1   month            0.10         0.10\n\
             total                                                           25.60\n\
             \n\
             2026-10 was billed 7.00 CNY, and costs 7.10 CNY with what came after it was closed\n\
             \n\
             A server that is always on: 350 CNY. This: 25.60 CNY, 92.7 % less (324.50 CNY saved)"
        );
        (statement.state, statement.closed_at) = (State::Open, None);
        statement.complete_through = Some("2026-12-01T00:00:00Z".parse().unwrap());
        assert!(!page(&statement).contains("missing"), "it is complete");
        statement.complete_through = Some("2026-11-30T23:59:59.5Z".parse().unwrap());
        let told = page(&statement);
        assert!(told.contains("calls that came after 2026-11-30 23:59:59 UTC may still be missing"), "{told}");
        statement.complete_through = None;
        assert!(page(&statement).contains("cannot be said now"));
        statement.period_over = false;
        assert!(!page(&statement).contains("missing"), "so far is said above");
    }
}
