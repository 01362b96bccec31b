//! `dormouse bill --export`: the statement as FOCUS rows in a file, which is there whole or not at all.

use super::{State, Statement, path};
use crate::args::{BillArgs, ExportFormat};
use crate::exit::{Failure, Outcome};
use crate::say;
use crate::target::Door;
use crate::usage::{encoded, read};
use dormouse_controller::table::each_decimal;
use jiff::Timestamp;
use rust_decimal::Decimal;
use serde::Deserialize;
use std::fmt::Write as _;
use std::fs::{File, Permissions};
use std::io::{self, BufRead, BufReader, IsTerminal, Seek};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The column that is added up.
const COST: &str = "BilledCost";
/// Digits after the point that an amount has at most.
const SCALE: u32 = 25;

/// What a file adds up to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sum {
    rows: u64,
    /// In units of 10^-25.
    units: i128,
}

/// Writes the export, when it adds up to the statement.
pub(super) async fn run(door: &Door, args: &BillArgs, format: ExportFormat) -> Outcome {
    let file = args.file.as_deref().filter(|file| *file != Path::new("-"));
    if file.is_none() && format == ExportFormat::Parquet && io::stdout().is_terminal() {
        return Err(Failure::usage("Parquet is not for a terminal: write it to a file with --file FILE"));
    }
    let mut builder = tempfile::Builder::new();
    // As any file that one makes: the umask says who may read it.
    let builder = builder.prefix(".dormouse-export-").permissions(Permissions::from_mode(0o666));
    let made = match file {
        Some(file) => {
            builder.tempfile_in(file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))
        }
        None => builder.tempfile(),
    };
    let mut made = made.map_err(|e| Failure::failed(format!("no file can be written there: {e}")))?;
    let now = Timestamp::now();
    door.download(&question(args, format, now)?, made.as_file_mut()).await?;
    let sum = sum(format, made.as_file_mut())?;
    let statement: Statement = read(&door.get(&path(args, now)?).await?)?;
    let told = told(&sum, &statement)?;
    match file {
        Some(file) => {
            made.as_file().sync_all()?;
            made.persist(file).map_err(|e| Failure::failed(format!("cannot write {}: {e}", file.display())))?;
        }
        None => {
            made.as_file_mut().rewind()?;
            say::copy(made.as_file_mut())?;
        }
    }
    say::note(told);
    Ok(())
}

fn question(args: &BillArgs, format: ExportFormat, now: Timestamp) -> Result<String, Failure> {
    let path = path(args, now)?;
    let (statement, _) = path.split_once('?').unwrap_or((&path, ""));
    let mut question = format!("{statement}/focus?format={}&version={}", format.name(), args.focus_version.name());
    if let Some(plan) = &args.as_plan {
        let _ = write!(question, "&as={}", encoded(plan));
    }
    Ok(question)
}

/// How many rows, and that they are what the statement says. Until a month is closed, calls come in between.
fn told(sum: &Sum, statement: &Statement) -> Result<String, Failure> {
    let Statement { total, currency, .. } = statement;
    let amount = sum.amount().ok_or_else(|| Failure::failed("the rows add up to more than 28 digits"))?;
    let rows = format!("{} rows, sum", sum.rows);
    match total.parse::<Decimal>() {
        Ok(of_statement) if of_statement == amount => {
            Ok(format!("{rows} {total} {currency}: the statement's total, exactly"))
        }
        Ok(_) if statement.state != State::Closed => Ok(format!(
            "{rows} {amount} {currency}; the statement's total is {total} by now: calls have come in between"
        )),
        _ => Err(Failure::failed(format!(
            "{rows} {amount} {currency}, and the statement's total is {total}: nothing was written, ask again"
        ))),
    }
}

/// Reads a file from its beginning.
fn sum(format: ExportFormat, file: &mut File) -> Result<Sum, Failure> {
    let wrong = |e: &dyn std::fmt::Display| Failure::failed(format!("the answer is no whole {}: {e}", format.name()));
    file.rewind()?;
    let mut sum = Sum::default();
    match format {
        ExportFormat::Csv => {
            let mut reader = csv::Reader::from_reader(BufReader::new(file));
            let head = reader.headers().map_err(|e| wrong(&e))?;
            let at = head.iter().position(|name| name == COST).ok_or_else(|| wrong(&"it has no BilledCost"))?;
            for row in reader.records() {
                sum.add(row.map_err(|e| wrong(&e))?.get(at).unwrap_or_default())?;
            }
        }
        ExportFormat::Jsonl => {
            #[derive(Deserialize)]
            struct Row {
                #[serde(rename = "BilledCost")]
                cost: String,
            }
            for line in BufReader::new(file).lines() {
                let row: Row = serde_json::from_str(&line?).map_err(|e| wrong(&e))?;
                sum.add(&row.cost)?;
            }
        }
        ExportFormat::Parquet => {
            let (mut rows, mut units) = (0u64, Some(0i128));
            let each = |cost| {
                rows += 1;
                units = units.and_then(|sum| sum.checked_add(cost));
            };
            let scale = each_decimal(file.try_clone()?, COST, each).map_err(|e| wrong(&e))?;
            let units = units.filter(|_| scale == SCALE).ok_or_else(|| wrong(&"it is of another version"))?;
            sum = Sum { rows, units };
        }
    }
    Ok(sum)
}

impl Sum {
    fn add(&mut self, cost: &str) -> Result<(), Failure> {
        let units = units(cost).and_then(|units| self.units.checked_add(units));
        self.units = units.ok_or_else(|| Failure::failed(format!("{COST} {cost:?} is no amount")))?;
        self.rows += 1;
        Ok(())
    }

    fn amount(&self) -> Option<Decimal> {
        let (mut units, mut scale) = (self.units, SCALE);
        while scale > 0 && units % 10 == 0 {
            (units, scale) = (units / 10, scale - 1);
        }
        Decimal::try_from_i128_with_scale(units, scale).ok()
    }
}

/// A decimal in units of 10^-25.
fn units(text: &str) -> Option<i128> {
    let (below, size) = text.strip_prefix('-').map_or((false, text), |size| (true, size));
    let (whole, fraction) = size.split_once('.').unwrap_or((size, ""));
    let plain = size.bytes().all(|b| b.is_ascii_digit() || b == b'.') && !whole.is_empty();
    if !plain || fraction.len() > SCALE as usize {
        return None;
    }
    let units: i128 = format!("{whole}{fraction:0<width$}", width = SCALE as usize).parse().ok()?;
    Some(if below { -units } else { units })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;
    use std::io::Write as _;

    fn args(line: &str) -> BillArgs {
        let words = ["dormouse", "bill"].into_iter().chain(line.split_whitespace());
        let Command::Bill(args) = Cli::try_parse_from(words).unwrap().command else { panic!() };
        args
    }

    #[test]
    fn the_question_is_the_apis() {
        let now = "2026-11-24T10:30:00Z".parse().unwrap();
        let asked = |line: &str| question(&args(line), args(line).export.unwrap(), now).ok().unwrap();
        assert_eq!(asked("--export csv"), "/v1/statements/default/2026-11/focus?format=csv&version=1.2");
        assert_eq!(
            asked("--tenant a/b --month 2026-10 --as x&y --export parquet --focus-version 1.4 --file f"),
            "/v1/statements/a%2Fb/2026-10/focus?format=parquet&version=1.4&as=x%26y"
        );
        for wrong in
            ["--file f", "--focus-version 1.2", "--export csv -o json", "--export xml", "--export csv --explain calls"]
        {
            let words = ["dormouse", "bill"].into_iter().chain(wrong.split_whitespace());
            assert!(Cli::try_parse_from(words).is_err(), "{wrong}");
        }
    }

    #[test]
    fn amounts_are_exact() {
        assert_eq!(units("0.0000000000000000000000001"), Some(1));
        assert_eq!((units("-2.5"), units("7")), (Some(-25 * 10i128.pow(24)), Some(7 * 10i128.pow(25))));
        for wrong in ["", "-", "1.2.3", "1e5", "+1", ".5", "0.00000000000000000000000001", "99999999999999"] {
            assert_eq!(units(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn rows_are_counted_and_added_up() {
        let summed = |format, text: &str| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            sum(format, &mut file).map_err(|e| e.message().to_owned())
        };
        for (format, text) in [
            (ExportFormat::Csv, "a,BilledCost\r\n\"x,\r\ny\",3\r\nz,-0.45\r\n"),
            (ExportFormat::Jsonl, "{\"BilledCost\":\"3\"}\n{\"BilledCost\":\"-0.45\",\"a\":1}\n"),
        ] {
            let sum = summed(format, text).unwrap();
            assert_eq!(sum, Sum { rows: 2, units: 255 * 10i128.pow(23) });
            assert_eq!(sum.amount().unwrap().to_string(), "2.55");
        }
        assert!(summed(ExportFormat::Csv, "a,b\r\n1,2\r\n").unwrap_err().contains("no BilledCost"));
        assert!(summed(ExportFormat::Csv, "BilledCost\r\nx\r\n").unwrap_err().contains("no amount"));
        assert!(summed(ExportFormat::Jsonl, "{\"BilledCost\":\"3\"").unwrap_err().contains("no whole jsonl"));
        assert!(summed(ExportFormat::Parquet, "PAR1").unwrap_err().contains("no whole parquet"));
    }
}
