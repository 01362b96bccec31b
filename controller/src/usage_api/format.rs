//! How an answer is written: by what its asker can read.

use super::error::ApiError;
use super::params::Params;
use crate::table;
use axum::http::{HeaderMap, header};

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    /// Its rows alone.
    Table(table::Format),
}

const CSV: Format = Format::Table(table::Format::Csv);
const JSON_LINES: Format = Format::Table(table::Format::JsonLines);
const PARQUET: Format = Format::Table(table::Format::Parquet);

/// What answers are written in; the first when anything will do.
pub(super) const ANSWERS: [Format; 4] = [Format::Json, CSV, JSON_LINES, PARQUET];
/// What exports are.
pub(super) const EXPORTS: [Format; 3] = [CSV, JSON_LINES, PARQUET];

/// Most media ranges of an Accept header that are looked at: a browser sends about eight.
const MAX_RANGES: usize = 32;

impl Format {
    fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Table(format) => format.name(),
        }
    }

    fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Table(format) => format.media_type(),
        }
    }

    /// By the parameter, else by the Accept header, else the first that is offered.
    pub(super) fn of(params: &mut Params, headers: &HeaderMap, offered: &[Self]) -> Result<Self, ApiError> {
        if let Some(name) = params.one("format") {
            let named = offered.iter().find(|format| format.name() == name);
            return Ok(named.copied().unwrap_or_else(|| {
                let names: Vec<&str> = offered.iter().map(|format| format.name()).collect();
                params.fault("format", &format!("must be one of {}", names.join(", ")));
                Self::Json
            }));
        }
        let accept: Vec<&str> =
            headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
        negotiated(&accept.join(","), offered).ok_or_else(|| {
            ApiError::NotAcceptable(offered.iter().map(|format| format.media_type()).collect::<Vec<_>>().join(", "))
        })
    }
}

/// One media range: what it names, how well it is liked in thousandths, and where it stands.
struct Range<'a> {
    name: &'a str,
    quality: u32,
    at: usize,
}

/// The one that is liked best (RFC 9110, 12.5.1): each is judged by the most exact range that names it. Of equals the
/// one whose range stands first, then the one that is offered first. `None` when nothing will do.
fn negotiated(accept: &str, offered: &[Format]) -> Option<Format> {
    let ranges: Vec<Range<'_>> = accept.split(',').take(MAX_RANGES).enumerate().filter_map(range).collect();
    if ranges.is_empty() {
        return offered.first().copied();
    }
    let judged = offered.iter().filter_map(|format| {
        let media_type = format.media_type();
        let (kind, _) = media_type.split_once('/')?;
        let names = [media_type.to_owned(), format!("{kind}/*"), "*/*".to_owned()];
        let of = |name: &String| ranges.iter().find(|range| range.name.eq_ignore_ascii_case(name));
        let range = names.iter().find_map(of)?;
        (range.quality > 0).then_some((range.quality, range.at, *format))
    });
    // The first of the best: max_by_key would take the last.
    judged.min_by_key(|(quality, at, _)| (1000 - quality, *at)).map(|(_, _, format)| format)
}

/// A media range with its weight; nothing for an empty part. A weight that is none counts as 1: the asker named it.
fn range((at, part): (usize, &str)) -> Option<Range<'_>> {
    let mut parts = part.split(';').map(str::trim);
    let name = parts.next().filter(|name| !name.is_empty())?;
    let weight = parts.find_map(|p| p.strip_prefix("q=").or_else(|| p.strip_prefix("Q=")));
    Some(Range { name, quality: weight.and_then(thousandths).unwrap_or(1000), at })
}

/// `0`, `1`, or one of them with up to three digits after the point, at most 1.
fn thousandths(weight: &str) -> Option<u32> {
    let (whole, fraction) = weight.split_once('.').unwrap_or((weight, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if !matches!(whole, "0" | "1") || fraction.len() > 3 || !digits(fraction) {
        return None;
    }
    let thousandths = format!("{whole}{fraction:0<3}").parse().ok()?;
    (thousandths <= 1000).then_some(thousandths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_liked_is_written() {
        for (accept, format) in [
            ("", Some(Format::Json)),
            ("*/*", Some(Format::Json)),
            ("application/*", Some(Format::Json)),
            ("text/*", Some(CSV)),
            ("text/csv, */*;q=0.1", Some(CSV)),
            ("text/csv;q=0.5, application/json", Some(Format::Json)),
            ("text/csv, application/json", Some(CSV)),
            ("application/x-ndjson;q=0.9, application/vnd.apache.parquet", Some(PARQUET)),
            ("*/*, application/json;q=0", Some(CSV)),
            ("*/*;q=0.2, application/json;q=0.1, text/csv;q=0", Some(JSON_LINES)),
            ("TEXT/CSV; header=present; Q=1.0", Some(CSV)),
            ("text/csv;q=nonsense", Some(CSV)),
            ("text/html, application/xhtml+xml, */*;q=0.8", Some(Format::Json)),
            ("text/html", None),
            ("application/json;q=0", None),
            ("*/*;q=0.000", None),
            (", ,", Some(Format::Json)),
        ] {
            assert_eq!(negotiated(accept, &ANSWERS), format, "{accept}");
        }
        assert_eq!(negotiated("*/*", &EXPORTS), Some(CSV));
        assert_eq!(negotiated("application/json", &EXPORTS), None);
        let many = format!("{}text/csv", "text/html,".repeat(MAX_RANGES));
        assert_eq!(negotiated(&many, &ANSWERS), None);
    }

    #[test]
    fn weights_are_thousandths() {
        let good = [("0", 0), ("1", 1000), ("0.5", 500), ("0.123", 123), ("1.000", 1000), ("0.", 0)];
        assert!(good.iter().all(|(text, weight)| thousandths(text) == Some(*weight)));
        assert!(["", "2", "1.001", "0.1234", "-1", "+1", "0.x"].iter().all(|text| thousandths(text).is_none()));
    }
}
