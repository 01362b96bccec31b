//! Cron expressions in a time zone: what windows open by and schedules are due by.
//!
//! When a clock is put forward, a fixed time that it leaves out is at the first instant after the gap; when it is put
//! back, a fixed time that comes twice is the first of them. Times given by `*` or `*/n` follow the clock on the wall.

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// An expression in its zone.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rule {
    cron: Cron,
    zone: TimeZone,
}

/// What is wrong with an expression and with a zone.
pub(crate) type Wrong = (Option<String>, Option<String>);

impl Rule {
    /// Reads the five fields of crontab(5); with `seconds`, six are taken too.
    pub(crate) fn read(cron: &str, zone: Option<&str>, seconds: bool) -> Result<Self, Wrong> {
        let fields = if seconds { Seconds::Optional } else { Seconds::Disallowed };
        let parser = CronParser::builder().seconds(fields).year(Year::Disallowed).build();
        let more = if seconds { ", or six fields with the second before them" } else { "" };
        // The one name of crontab's that the parser does not know.
        let known = if cron == "@midnight" { "@daily" } else { cron };
        let cron = parser.parse(known).map_err(|e| {
            format!("{cron:?} is no cron expression ({e}): write minute, hour, day of month, month and day of week, for example \"30 7 * * 1-5\"{more}")
        });
        match (cron, self::zone(zone)) {
            (Ok(cron), Ok(zone)) => Ok(Self { cron, zone }),
            (cron, zone) => Err((cron.err(), zone.err())),
        }
    }

    /// The first time after an instant.
    pub(crate) fn after(&self, at: Timestamp) -> Option<Timestamp> {
        self.cron.find_next_occurrence(&at.to_zoned(self.zone.clone()), false).ok().map(|z| z.timestamp())
    }

    /// The last time at or before an instant.
    pub(crate) fn before(&self, at: Timestamp) -> Option<Timestamp> {
        self.cron.find_previous_occurrence(&at.to_zoned(self.zone.clone()), true).ok().map(|z| z.timestamp())
    }
}

fn zone(name: Option<&str>) -> Result<TimeZone, String> {
    let Some(name) = name else { return Ok(TimeZone::UTC) };
    TimeZone::get(name).map_err(|_| format!("{name:?} is no IANA time zone: write for example \"Europe/Berlin\""))
}
