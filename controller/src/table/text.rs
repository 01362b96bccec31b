//! Rows as text. An answer has millions of cells: they are appended to one buffer, each without memory of its own.

use dormouse_core::price::Signed;
use dormouse_core::table::{Column, Value};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::io::Write as _;

/// Text of a moment in microseconds since 1970 UTC; a moment no calendar shows becomes the nearest one.
#[must_use]
pub fn moment(us: i64) -> String {
    let edge = if us < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::from_microsecond(us).unwrap_or(edge).to_string()
}

/// Appends [`moment`]'s text.
fn put_moment(out: &mut Vec<u8>, us: i64) {
    let whole = Timestamp::from_microsecond(us).ok().filter(|_| us >= 0 && us % 1_000_000 == 0);
    // Whole seconds from 1970 on are all that sums have.
    let Some(time) = whole else { return out.extend_from_slice(moment(us).as_bytes()) };
    let time = TimeZone::UTC.to_datetime(time);
    let mut text = *b"0000-00-00T00:00:00Z";
    let year = time.year().unsigned_abs();
    let [century, of_it] = [(year / 100) as u8, (year % 100) as u8];
    let pairs = [century, of_it]
        .into_iter()
        .chain([time.month(), time.day(), time.hour(), time.minute(), time.second()].map(i8::unsigned_abs));
    for (at, pair) in [0, 2, 5, 8, 11, 14, 17].into_iter().zip(pairs) {
        text[at] += pair / 10;
        text[at + 1] += pair % 10;
    }
    out.extend_from_slice(&text);
}

/// Appends a whole number.
fn put_number(out: &mut Vec<u8>, mut number: u64) {
    // 2^64 has 20 digits.
    let (mut digits, mut at) = ([0; 20], 20);
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

fn put_wide(out: &mut Vec<u8>, number: u128) {
    match u64::try_from(number) {
        Ok(number) => put_number(out, number),
        Err(_) => put_shown(out, number),
    }
}

fn put_signed(out: &mut Vec<u8>, value: Signed) {
    if value.is_below() {
        out.push(b'-');
    }
    out.extend_from_slice(value.size().text().as_str().as_bytes());
}

fn put_shown(out: &mut Vec<u8>, value: impl std::fmt::Display) {
    // Writing to memory cannot fail.
    let _ = write!(out, "{value}");
}

/// The line of names.
pub(super) fn head(columns: &[Column]) -> Vec<u8> {
    let mut out = Vec::new();
    csv_row(&mut out, columns.iter().map(|column| column.name.into()));
    out
}

/// RFC 4180: cells with a comma, quote or line break stand in quotes; lines end with CR LF.
pub(super) fn csv_row<'a>(out: &mut Vec<u8>, values: impl Iterator<Item = Value<'a>>) {
    for (at, value) in values.enumerate() {
        if at > 0 {
            out.push(b',');
        }
        match value {
            Value::Null => {}
            Value::Text(text) if text.bytes().any(|byte| matches!(byte, b',' | b'"' | b'\r' | b'\n')) => {
                put_shown(out, format_args!("\"{}\"", text.replace('"', "\"\"")));
            }
            Value::Text(text) => out.extend_from_slice(text.as_bytes()),
            Value::Bool(value) => put_shown(out, value),
            Value::Integer(value) => put_number(out, value),
            Value::Wide(value) => put_wide(out, value),
            Value::Decimal(value) => put_signed(out, value),
            Value::Amount(value) => put_shown(out, value),
            Value::Time(us) => put_moment(out, us),
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// An object of all columns on one line.
pub(super) fn json_line<'a>(out: &mut Vec<u8>, columns: &[Column], values: impl Iterator<Item = Value<'a>>) {
    let mut before = b'{';
    for (column, value) in columns.iter().zip(values) {
        out.extend_from_slice(&[before, b'"']);
        out.extend_from_slice(column.name.as_bytes());
        out.extend_from_slice(b"\":");
        before = b',';
        match value {
            Value::Null => out.extend_from_slice(b"null"),
            // Neither a text nor memory can fail.
            Value::Text(text) => drop(serde_json::to_writer(&mut *out, &*text)),
            Value::Bool(value) => put_shown(out, value),
            Value::Integer(value) => put_number(out, value),
            Value::Wide(value) => put_wide(out, value),
            Value::Decimal(value) => quoted(out, |out| put_signed(out, value)),
            Value::Amount(value) => quoted(out, |out| put_shown(out, value)),
            Value::Time(us) => quoted(out, |out| put_moment(out, us)),
        }
    }
    out.extend_from_slice(b"}\n");
}

/// In quotes what has nothing in it that would have to be escaped.
fn quoted(out: &mut Vec<u8>, put: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    put(out);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use dormouse_core::price::Exact;
    use proptest::prelude::*;

    fn put(put: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        put(&mut out);
        String::from_utf8(out).unwrap()
    }

    proptest! {
        #[test]
        fn cells_are_what_their_values_show(us in any::<i64>(), second in 0i64..253_402_300_800, number in any::<u128>(), bits in 0u32..128) {
            for us in [us, second * 1_000_000] {
                prop_assert_eq!(put(|out| put_moment(out, us)), moment(us));
            }
            let number = number >> bits;
            prop_assert_eq!(put(|out| put_wide(out, number)), number.to_string());
            for value in [Signed::from(Exact::gb_seconds(number)), Signed::negative(Exact::vcpu_seconds(number))] {
                prop_assert_eq!(put(|out| put_signed(out, value)), value.to_string());
            }
        }
    }
}
