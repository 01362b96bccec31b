//! Answers as bytes. What JSON says around the rows is said in headers where there are only rows.

use super::error::ApiError;
use super::format::Format;
use crate::table::{Writer, moment};
use axum::Json;
use axum::extract::Query;
use axum::http::{HeaderName, HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};
use dormouse_core::price::Exact;
use dormouse_core::table::{Column, Kind, Value};
use rust_decimal::Decimal;
use serde::{Serialize, Serializer};
use std::fmt::Write as _;

/// An answer that is also a table.
pub(super) trait Table: Serialize {
    /// Its columns.
    fn columns(&self) -> Vec<Column>;

    /// Its rows: a value for each column.
    fn rows(&self) -> impl Iterator<Item = impl IntoIterator<Item = Value<'_>>>;

    /// Where the next page begins.
    fn next(&self) -> Option<&str> {
        None
    }

    /// What it says beside its rows, as headers.
    fn told(&self) -> Vec<(&'static str, &str)>;
}

/// Writes the answer to a question.
pub(super) fn answer(format: Format, view: &impl Table, question: &Uri) -> Result<Response, ApiError> {
    let Format::Table(format) = format else {
        let mut response = Json(view).into_response();
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
        return Ok(response);
    };
    let mut writer = Writer::new(format, view.columns())?;
    for row in view.rows() {
        writer.row(row.into_iter())?;
    }
    let mut bytes = writer.take()?;
    bytes.extend(writer.finish(&[])?);
    let mut response = (head(format), bytes).into_response();
    tell(&mut response, &view.told());
    if let Some(next) = view.next() {
        let link = format!("<{}>; rel=\"next\"", with_cursor(question, next));
        tell(&mut response, &[("dormouse-next-cursor", next), ("link", &link)]);
    }
    Ok(response)
}

/// Says as headers what JSON says around the rows. What a header cannot say is not said: JSON does.
pub(super) fn tell(response: &mut Response, told: &[(&'static str, &str)]) {
    for (name, value) in told {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(*name, value);
        }
    }
}

/// The same for an answer whose text in JSON is known.
pub(super) fn kept(format: Format, view: &impl Table, text: String, question: &Uri) -> Result<Response, ApiError> {
    if format != Format::Json {
        return answer(format, view, question);
    }
    let head = [(header::CONTENT_TYPE, "application/json"), (header::VARY, "accept")];
    Ok((head, text).into_response())
}

/// Headers of a table.
pub(super) fn head(format: crate::table::Format) -> [(HeaderName, HeaderValue); 2] {
    let kind = match format {
        crate::table::Format::Csv => "text/csv; charset=utf-8; header=present",
        other => other.media_type(),
    };
    [(header::CONTENT_TYPE, HeaderValue::from_static(kind)), (header::VARY, HeaderValue::from_static("accept"))]
}

/// The same question, for the next page.
fn with_cursor(question: &Uri, next: &str) -> String {
    let pairs = Query::<Vec<(String, String)>>::try_from_uri(question).map(|query| query.0).unwrap_or_default();
    let mut link = format!("{}?", question.path());
    for (name, value) in pairs.iter().filter(|(name, _)| name != "cursor") {
        let _ = write!(link, "{}={}&", encoded(name), encoded(value));
    }
    link + "cursor=" + next
}

/// Percent-encoding of everything but letters, digits and `-._~`: a text as a part of a path or of a question.
#[must_use]
pub fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

/// A moment in microseconds since 1970 UTC, told as text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment(i64);

impl Moment {
    pub(super) fn micros(us: i64) -> Self {
        Self(us)
    }

    pub(super) fn minute(minute: u32) -> Self {
        Self(i64::from(minute) * 60_000_000)
    }

    pub(super) fn hour(hour: u32) -> Self {
        Self(i64::from(hour) * 3_600_000_000)
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&moment(self.0))
    }
}

/// A field as a cell of a table.
pub(super) trait Cell {
    const KIND: Kind;
    const NULLABLE: bool = false;
    fn value(&self) -> Value<'_>;
}

/// Exact numbers of any field: 13 digits before the point, 25 behind it, which is what an amount of memory x time has.
pub(super) const DECIMAL: Kind = Kind::Decimal { scale: 25 };

macro_rules! cells {
    ($($kind:ty: $column:expr, |$field:ident| $value:expr;)*) => {
        $(impl Cell for $kind {
            const KIND: Kind = $column;
            fn value(&self) -> Value<'_> {
                let $field = self;
                $value
            }
        })*
    };
}
cells! {
    String: Kind::Text, |text| text.as_str().into();
    bool: Kind::Bool, |is| Value::Bool(*is);
    u16: Kind::Integer, |number| Value::Integer((*number).into());
    u32: Kind::Integer, |number| Value::Integer((*number).into());
    u64: Kind::Integer, |number| Value::Integer(*number);
    u128: Kind::Wide, |number| Value::Wide(*number);
    Exact: DECIMAL, |exact| Value::Decimal((*exact).into());
    Decimal: DECIMAL, |decimal| Value::Amount(*decimal);
    Moment: Kind::Time, |moment| Value::Time(moment.0);
}

impl Cell for &str {
    const KIND: Kind = Kind::Text;
    fn value(&self) -> Value<'_> {
        (*self).into()
    }
}

impl<T: Cell> Cell for Option<T> {
    const KIND: Kind = T::KIND;
    const NULLABLE: bool = true;
    fn value(&self) -> Value<'_> {
        self.as_ref().map_or(Value::Null, Cell::value)
    }
}

/// Declares a row: the same fields in JSON and, in the same order, as columns.
macro_rules! row {
    ($(#[$meta:meta])* $name:ident $(<$life:lifetime>)? { $($field:ident: $kind:ty,)* }) => {
        $(#[$meta])*
        #[derive(Serialize)]
        pub(super) struct $name $(<$life>)? { $($field: $kind,)* }

        impl $(<$life>)? $name $(<$life>)? {
            pub(super) fn columns() -> Vec<Column> {
                vec![$(Column {
                    name: stringify!($field),
                    kind: <$kind as Cell>::KIND,
                    nullable: <$kind as Cell>::NULLABLE,
                }),*]
            }

            pub(super) fn values(&self) -> [Value<'_>; [$(stringify!($field)),*].len()] {
                [$(Cell::value(&self.$field)),*]
            }
        }
    };
}
pub(super) use row;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_the_same_question_with_its_cursor() {
        let question: Uri = "/v1/usage?filter%5Btenant%5D=a%26b&cursor=old&limit=3&as=x%3E".parse().unwrap();
        assert_eq!(with_cursor(&question, "0aff"), "/v1/usage?filter%5Btenant%5D=a%26b&limit=3&as=x%3E&cursor=0aff");
        assert_eq!(with_cursor(&"/v1/records".parse().unwrap(), "00"), "/v1/records?cursor=00");
    }
}
