//! Days and months of a time zone, made of the rows that are kept in UTC: of hours, or of minutes where the zone's own
//! days do not begin on a whole hour.

use super::fold::Calendar;
use super::usage::{Granularity, Level, MAX_DAYS};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use std::ops::Range;

/// A period and how a time zone cuts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalTimes {
    level: Level,
    /// Beginnings of its times, and the end of the last one, in the unit of the level. At least two, rising.
    cuts: Vec<u32>,
}

impl LocalTimes {
    /// Cuts a period, in seconds since 1970 UTC, at the days or months of a zone; by any other granularity it is one
    /// whole. `None` when it or a cut is not on a whole minute, or it is empty, longer than [`MAX_DAYS`] or out of range.
    #[must_use]
    pub fn new(seconds: &Range<i64>, granularity: Granularity, zone: &TimeZone) -> Option<Self> {
        if seconds.is_empty() || seconds.end - seconds.start > i64::from(MAX_DAYS) * 86_400 {
            return None;
        }
        let mut cuts = vec![seconds.start];
        let mut date = Timestamp::from_second(seconds.start).ok()?.to_zoned(zone.clone()).date();
        // At most 3,655 days: the period's, and those that it touches.
        while let Some(next) = next(date, granularity) {
            date = next;
            let at = date.to_zoned(zone.clone()).ok()?.timestamp().as_second();
            if at >= seconds.end {
                break;
            }
            // A zone that moved across the date line has days without any time.
            if cuts.last().is_some_and(|last| *last < at) {
                cuts.push(at);
            }
        }
        cuts.push(seconds.end);
        let level = if cuts.iter().all(|at| at % 3600 == 0) { Level::Hour } else { Level::Minute };
        let unit = level.seconds();
        let whole = |at: &i64| u32::try_from(at / unit).ok().filter(|_| at % unit == 0);
        Some(Self { level, cuts: cuts.iter().map(whole).collect::<Option<_>>()? })
    }

    /// Which rows it is made of.
    #[must_use]
    pub fn level(&self) -> Level {
        self.level
    }

    /// How many times there are.
    pub(super) fn count(&self) -> usize {
        self.cuts.len() - 1
    }

    /// The rows with their period, and which time each belongs to.
    pub(super) fn rows(&self) -> (Vec<(Level, Range<u32>)>, Calendar) {
        let (first, last) = (self.cuts.first().copied(), self.cuts.last().copied());
        let period = first.unwrap_or_default()..last.unwrap_or_default();
        (vec![(self.level, period.clone())], Calendar::cut_at(self.cuts.clone(), period))
    }
}

/// The first day after this one at which something begins.
fn next(date: Date, granularity: Granularity) -> Option<Date> {
    match granularity {
        Granularity::Day => date.checked_add(1.day()).ok(),
        Granularity::Month => date.first_of_month().checked_add(1.month()).ok(),
        Granularity::Minute | Granularity::Hour | Granularity::Total => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn second(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_second()
    }

    fn cut(from: &str, to: &str, granularity: Granularity, zone: &str) -> Option<(Level, Vec<String>)> {
        let zone = TimeZone::get(zone).unwrap();
        let times = LocalTimes::new(&(second(from)..second(to)), granularity, &zone)?;
        let text = |at: &u32| Timestamp::from_second(i64::from(*at) * times.level.seconds()).unwrap().to_string();
        Some((times.level, times.cuts.iter().map(text).collect()))
    }

    #[test]
    fn days_and_months_begin_where_the_zone_has_them() {
        let texts = |texts: &[&str]| texts.iter().map(|t| format!("{t}:00Z")).collect::<Vec<_>>();
        let shanghai = cut("2026-10-31T16:00:00Z", "2026-11-02T16:00:00Z", Granularity::Day, "Asia/Shanghai");
        assert_eq!(
            shanghai.unwrap(),
            (Level::Hour, texts(&["2026-10-31T16:00", "2026-11-01T16:00", "2026-11-02T16:00"]))
        );
        // The clock is put forward and back: days of 23 and 25 hours.
        let spring = cut("2026-03-28T23:00:00Z", "2026-03-30T22:00:00Z", Granularity::Day, "Europe/Berlin");
        assert_eq!(spring.unwrap().1, texts(&["2026-03-28T23:00", "2026-03-29T22:00", "2026-03-30T22:00"]));
        let autumn = cut("2026-10-24T22:00:00Z", "2026-10-26T23:00:00Z", Granularity::Day, "Europe/Berlin");
        assert_eq!(autumn.unwrap().1, texts(&["2026-10-24T22:00", "2026-10-25T23:00", "2026-10-26T23:00"]));
        let months = cut("2026-09-15T04:00:00Z", "2026-12-01T05:00:00Z", Granularity::Month, "America/New_York");
        let expected = ["2026-09-15T04:00", "2026-10-01T04:00", "2026-11-01T04:00", "2026-12-01T05:00"];
        assert_eq!(months.unwrap(), (Level::Hour, texts(&expected)), "the first one is cut to the period");
        let whole = cut("2026-09-15T04:00:00Z", "2026-12-01T05:00:00Z", Granularity::Total, "America/New_York");
        assert_eq!(whole.unwrap().1, texts(&["2026-09-15T04:00", "2026-12-01T05:00"]));
    }

    #[test]
    fn a_zone_beside_the_hours_needs_minutes() {
        let level = |from, to, zone| cut(from, to, Granularity::Day, zone).map(|(level, _)| level);
        assert_eq!(level("2026-10-31T18:30:00Z", "2026-11-02T18:30:00Z", "Asia/Kolkata"), Some(Level::Minute));
        assert_eq!(level("2026-10-31T18:00:00Z", "2026-11-02T18:00:00Z", "Asia/Kathmandu"), Some(Level::Minute));
        // Lord Howe: half an hour of summer time, so whole hours from UTC in summer only.
        assert_eq!(level("2026-11-01T13:00:00Z", "2026-11-03T13:00:00Z", "Australia/Lord_Howe"), Some(Level::Hour));
        assert_eq!(level("2026-06-01T13:30:00Z", "2026-06-03T13:30:00Z", "Australia/Lord_Howe"), Some(Level::Minute));
        // Until 1972 Liberia was 44 minutes and 30 seconds from UTC.
        assert_eq!(level("1971-06-01T00:00:00Z", "1971-06-03T00:00:00Z", "Africa/Monrovia"), None);
        assert_eq!(level("2026-11-01T00:00:30Z", "2026-11-03T00:00:00Z", "UTC"), None);
        assert_eq!(level("2026-11-01T00:00:00Z", "2026-11-01T00:00:00Z", "UTC"), None);
    }

    #[test]
    fn a_day_that_never_was_is_no_row() {
        // Samoa went from 29 to 31 December 2011.
        let samoa = cut("2011-12-29T10:00:00Z", "2012-01-01T10:00:00Z", Granularity::Day, "Pacific/Apia").unwrap();
        assert_eq!(
            samoa.1,
            ["2011-12-29T10:00:00Z", "2011-12-30T10:00:00Z", "2011-12-31T10:00:00Z", "2012-01-01T10:00:00Z"]
        );
    }

    proptest! {
        /// Whatever the zone: the times cover the period, each lies within one local day (or month), and no two share one.
        #[test]
        fn times_are_the_zones_own(
            zone in prop::sample::select(vec!["UTC", "Asia/Shanghai", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "America/St_Johns", "Pacific/Apia", "Africa/Cairo", "America/Santiago"]),
            from in 0i64..600_000, hours in 1i64..20_000, months in any::<bool>(),
        ) {
            let zone = TimeZone::get(zone).unwrap();
            let granularity = if months { Granularity::Month } else { Granularity::Day };
            let seconds = from * 3600..(from + hours) * 3600;
            let Some(times) = LocalTimes::new(&seconds, granularity, &zone) else { return Ok(()) };
            let (rows, calendar) = times.rows();
            let (unit, period) = (rows[0].0.seconds(), rows[0].1.clone());
            prop_assert_eq!((i64::from(period.start) * unit, i64::from(period.end) * unit), (seconds.start, seconds.end));
            let name = |at: u32| {
                let date = Timestamp::from_second(i64::from(at) * unit).unwrap().to_zoned(zone.clone()).date();
                if months { date.first_of_month() } else { date }
            };
            let (mut at, mut before) = (period.start, None);
            while at < period.end {
                let time = calendar.time_of(at);
                prop_assert_eq!(time.start, at);
                prop_assert!(time.end > at && time.end <= period.end);
                prop_assert_eq!(name(time.start), name(time.end - 1));
                prop_assert!(before < Some(name(at)), "{:?} again", before);
                prop_assert_eq!(calendar.time_of(time.end - 1), time.clone());
                (before, at) = (Some(name(at)), time.end);
            }
        }
    }
}
