//! The period of `/v1/usage`, and what cuts it into times: UTC, or a time zone that was asked for.

use super::params::Params;
use super::times;
use crate::ledger::{Granularity, KeptFrom, Level, LocalTimes, MAX_DAYS, MINUTES_KEPT_HOURS};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use std::ops::Range;

/// Longest name of a time zone: the longest that there is has 32 bytes.
const MAX_ZONE: usize = 64;

/// A period and how it is cut.
#[derive(Clone, Debug)]
pub(super) struct Period {
    /// In seconds since 1970 UTC.
    pub(super) seconds: Range<i64>,
    /// The whole hours that it touches.
    pub(super) hours: Range<u32>,
    pub(super) granularity: Granularity,
    /// How the time zone cuts it, where that is not as UTC does.
    pub(super) local: Option<LocalTimes>,
    /// Name of the time zone.
    pub(super) zone: String,
}

impl Period {
    /// Its first moment and the first one after it, as text.
    pub(super) fn text(&self) -> (String, String) {
        (times::second_text(self.seconds.start), times::second_text(self.seconds.end))
    }

    /// Whether times of rows are in minutes, not hours.
    pub(super) fn in_minutes(&self) -> bool {
        match &self.local {
            Some(local) => local.level() == Level::Minute,
            None => self.granularity == Granularity::Minute,
        }
    }

    /// What keeps it from being answered by what is kept.
    pub(super) fn out_of_reach(&self, kept: KeptFrom) -> Option<String> {
        let before = self.local.is_some() && self.hours.start < kept.hours;
        let since = times::hour_text(kept.hours);
        before.then(|| {
            format!("must not be before {since} with time_zone {}: before, there are only days of UTC", self.zone)
        })
    }
}

impl Params {
    /// The period of `/v1/usage`: by default from the start of this month to the end of this hour.
    pub(super) fn period(&mut self, now: Timestamp) -> Period {
        if let Some((zone, name)) = self.zone() {
            return self.local_period(now, &zone, name);
        }
        let hours = self.hours(now);
        let granularity = self.granularity(&hours, now);
        let seconds = i64::from(hours.start) * 3600..i64::from(hours.end) * 3600;
        Period { seconds, hours, granularity, local: None, zone: "UTC".to_owned() }
    }

    /// The time zone that was asked for, unless it is UTC.
    fn zone(&mut self) -> Option<(TimeZone, String)> {
        let name = self.one("time_zone")?;
        let zone = if name.len() <= MAX_ZONE { TimeZone::get(&name).ok() } else { None };
        let Some(zone) = zone else {
            self.fault("time_zone", "must be a name of the IANA time zone database, as in Asia/Shanghai");
            return None;
        };
        let name = zone.iana_name().map_or(name, str::to_owned);
        (zone != TimeZone::UTC).then_some((zone, name))
    }

    fn local_period(&mut self, now: Timestamp, zone: &TimeZone, name: String) -> Period {
        let this_hour = now.as_second().div_euclid(3600) * 3600;
        let month = now.to_zoned(zone.clone()).date().first_of_month().to_zoned(zone.clone());
        // Where a zone's months begin within an hour, the one that nobody asked for is a whole one.
        let month = month.map_or(0, |month| month.timestamp().as_second().div_euclid(3600) * 3600);
        let to = self.second("to", zone).unwrap_or(this_hour + 3600);
        let from = self.second("from", zone).unwrap_or(month.min(to - 3600).max(0));
        let (seconds, most) = (from..to, i64::from(MAX_DAYS) * 86_400);
        let hour = |second: i64| u32::try_from(second.div_euclid(3600)).unwrap_or_default();
        let hours = hour(from)..hour(to + 3599);
        let granularity = self.granularity(&hours, now);
        let mut period = Period { seconds, hours, granularity, local: None, zone: name };
        if from >= to {
            self.fault("to", "must be after from");
        } else if to - from > most {
            self.fault("from", &format!("must be at most {MAX_DAYS} days before to"));
        } else if matches!(granularity, Granularity::Minute | Granularity::Hour) {
            // They are everybody's own: the zone says what dates mean.
            for (parameter, second) in [("from", from), ("to", to)] {
                if second % 3600 != 0 {
                    self.fault(parameter, "must be on a whole hour UTC: usage is kept by the hour");
                }
            }
        } else {
            period.local = LocalTimes::new(&period.seconds, granularity, zone);
            self.check_local(&period, now);
        }
        period
    }

    /// Minutes are kept for a while only.
    fn check_local(&mut self, period: &Period, now: Timestamp) {
        let Some(local) = &period.local else {
            return self.fault("from", "must be on a whole minute, as must be to and the days between them");
        };
        let oldest = now.checked_sub(i64::from(MINUTES_KEPT_HOURS).hours()).map_or(0, |oldest| oldest.as_second());
        if local.level() == Level::Minute && period.seconds.start < oldest.div_euclid(3600) * 3600 {
            let zone = &period.zone;
            let why = format!(
                "must be at most {MINUTES_KEPT_HOURS} hours ago: it, to, or days of {zone} between them do not begin on \
                 a whole hour UTC, and minutes are not kept for longer"
            );
            self.fault("from", &why);
        }
    }

    /// A moment in whole seconds; a date is its first moment in the zone.
    fn second(&mut self, name: &str, zone: &TimeZone) -> Option<i64> {
        let time = self.moment_in(name, zone)?;
        if time.subsec_nanosecond() != 0 {
            self.fault(name, "must be on a whole minute");
        }
        Some(time.as_second())
    }
}
