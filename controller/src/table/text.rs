//! Rows as text.

use dormouse_core::table::{Column, Value};
use jiff::Timestamp;
use std::fmt::Write as _;

/// Text of a moment in microseconds since 1970 UTC; a moment no calendar shows becomes the nearest one.
#[must_use]
pub fn moment(us: i64) -> String {
    let edge = if us < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::from_microsecond(us).unwrap_or(edge).to_string()
}

/// The line of names.
pub(super) fn head(columns: &[Column]) -> String {
    let mut out = String::new();
    csv_row(&mut out, columns.iter().map(|column| column.name.into()));
    out
}

/// RFC 4180: cells with a comma, quote or line break stand in quotes; lines end with CR LF.
pub(super) fn csv_row<'a>(out: &mut String, values: impl Iterator<Item = Value<'a>>) {
    for (at, value) in values.enumerate() {
        if at > 0 {
            out.push(',');
        }
        // Writing to a String cannot fail.
        let _ = match value {
            Value::Null => Ok(()),
            Value::Text(text) if text.contains([',', '"', '\r', '\n']) => {
                write!(out, "\"{}\"", text.replace('"', "\"\""))
            }
            Value::Text(text) => out.write_str(&text),
            Value::Bool(value) => write!(out, "{value}"),
            Value::Integer(value) => write!(out, "{value}"),
            Value::Wide(value) => write!(out, "{value}"),
            Value::Decimal(value) => write!(out, "{value}"),
            Value::Amount(value) => write!(out, "{value}"),
            Value::Time(us) => out.write_str(&moment(us)),
        };
    }
    out.push_str("\r\n");
}

/// An object of all columns on one line.
pub(super) fn json_line<'a>(out: &mut String, columns: &[Column], values: impl Iterator<Item = Value<'a>>) {
    out.push('{');
    for (at, (column, value)) in columns.iter().zip(values).enumerate() {
        if at > 0 {
            out.push(',');
        }
        let _ = match value {
            Value::Null => write!(out, "\"{}\":null", column.name),
            Value::Text(text) => write!(out, "\"{}\":{}", column.name, serde_json::Value::from(text)),
            Value::Bool(value) => write!(out, "\"{}\":{value}", column.name),
            Value::Integer(value) => write!(out, "\"{}\":{value}", column.name),
            Value::Wide(value) => write!(out, "\"{}\":{value}", column.name),
            Value::Decimal(value) => write!(out, "\"{}\":\"{value}\"", column.name),
            Value::Amount(value) => write!(out, "\"{}\":\"{value}\"", column.name),
            Value::Time(us) => write!(out, "\"{}\":\"{}\"", column.name, moment(us)),
        };
    }
    out.push_str("}\n");
}
