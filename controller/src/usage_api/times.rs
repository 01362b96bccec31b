//! Times of questions and answers: RFC 3339 or a date; answers are always in UTC.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

/// A moment from text: `2026-11-01T00:00:00Z` (any offset) or `2026-11-01` (its first moment in a zone).
pub(super) fn moment(text: &str, zone: &TimeZone) -> Option<Timestamp> {
    // Longest sensible text: date, time with nine digits after the second, offset.
    if text.len() > 40 {
        return None;
    }
    let time = match text.parse::<Timestamp>() {
        Ok(time) => time,
        Err(_) if text.len() == 10 => text.parse::<Date>().ok()?.to_zoned(zone.clone()).ok()?.timestamp(),
        Err(_) => return None,
    };
    // From 1970 to 9998: what the ledger's hours can hold and a month after it too.
    (0..253_370_764_800).contains(&time.as_second()).then_some(time)
}

/// The hour that begins at a moment, if one does.
pub(super) fn whole_hour(time: Timestamp) -> Option<u32> {
    let us = time.as_microsecond();
    let whole = time.subsec_nanosecond() % 1000 == 0 && us % 3_600_000_000 == 0;
    u32::try_from(us / 3_600_000_000).ok().filter(|_| whole)
}

/// Text of an hour's beginning.
pub(super) fn hour_text(hour: u32) -> String {
    second_text(i64::from(hour) * 3600)
}

/// Text of a moment in whole seconds.
pub(super) fn second_text(second: i64) -> String {
    Timestamp::from_second(second).unwrap_or(Timestamp::MAX).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_times_are_read() {
        let at = |text| moment(text, &TimeZone::UTC).map(|t| t.as_second());
        assert_eq!(at("2026-11-01"), at("2026-11-01T00:00:00Z"));
        assert_eq!(at("2026-11-01T02:00:00+02:00"), at("2026-11-01"));
        for bad in ["", "2026-11", "2026-13-01", "yesterday", "1969-12-31", "2026-11-01T00:00:00", "9999-01-01"] {
            assert_eq!(at(bad), None, "{bad}");
        }
        assert_eq!(moment("2026-11-01", &TimeZone::UTC).and_then(whole_hour), Some(498_192));
        assert_eq!(moment("2026-11-01T00:30:00Z", &TimeZone::UTC).and_then(whole_hour), None);
        assert_eq!(moment("2026-11-01T00:00:00.000000001Z", &TimeZone::UTC).and_then(whole_hour), None);
        assert_eq!(hour_text(498_192), "2026-11-01T00:00:00Z");
    }
}
