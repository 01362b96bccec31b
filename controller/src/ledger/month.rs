//! Calendar months, UTC: what statements are of.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

/// A calendar month, UTC, from 1970-01 to 9998-12. Written as `2026-11`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Month(u32);

/// A text that is no month.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a month from 1970-01 to 9998-12, as in 2026-11")]
pub struct NotAMonth;

impl Month {
    /// The last that there is: the one after it has hours that a calendar can still show.
    const LAST: u32 = (9998 - 1970) * 12 + 11;

    /// By its number since 1970-01, which is 0.
    #[must_use]
    pub fn numbered(number: u32) -> Option<Self> {
        (number <= Self::LAST).then_some(Self(number))
    }

    /// Its number since 1970-01.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0
    }

    /// The month with an hour, counted since 1970 UTC; the last one for hours behind it.
    #[must_use]
    pub fn of_hour(hour: u32) -> Self {
        let date = Timestamp::from_second(i64::from(hour) * 3600).map(|time| time.to_zoned(TimeZone::UTC).date());
        let number = date.ok().and_then(|date| {
            let years = u32::try_from(date.year()).ok()?.checked_sub(1970)?;
            Some(years * 12 + u32::try_from(date.month()).ok()? - 1)
        });
        Self(number.unwrap_or(Self::LAST).min(Self::LAST))
    }

    /// The month of a moment; the first for moments before it.
    #[must_use]
    pub fn of(time: Timestamp) -> Self {
        Self::of_hour(u32::try_from(time.as_second().div_euclid(3600)).unwrap_or_default())
    }

    /// The one after it; the last has none.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        Self::numbered(self.0 + 1)
    }

    /// The one before it; the first has none.
    #[must_use]
    pub fn before(self) -> Option<Self> {
        self.0.checked_sub(1).map(Self)
    }

    /// Its hours, counted since 1970 UTC, the end not included.
    #[must_use]
    pub fn hours(self) -> Range<u32> {
        Self::first_hour(self.0)..Self::first_hour(self.0 + 1)
    }

    fn first_hour(number: u32) -> u32 {
        let year = i16::try_from(1970 + number / 12).unwrap_or(i16::MAX);
        let date = Date::new(year, i8::try_from(number % 12 + 1).unwrap_or(1), 1).unwrap_or(Date::MAX);
        let second = date.to_zoned(TimeZone::UTC).map_or(0, |time| time.timestamp().as_second());
        u32::try_from(second / 3600).unwrap_or_default()
    }
}

impl FromStr for Month {
    type Err = NotAMonth;

    fn from_str(text: &str) -> Result<Self, NotAMonth> {
        let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        let parts = text.split_once('-').filter(|(y, m)| y.len() == 4 && m.len() == 2 && digits(y) && digits(m));
        let (year, month) = parts.ok_or(NotAMonth)?;
        let number = |part: &str| part.parse::<u32>().map_err(|_| NotAMonth);
        let (year, month) = (number(year)?.checked_sub(1970).ok_or(NotAMonth)?, number(month)?);
        let within = (1..=12).contains(&month).then_some(month).ok_or(NotAMonth)?;
        Self::numbered(year * 12 + within - 1).ok_or(NotAMonth)
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", 1970 + self.0 / 12, self.0 % 12 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn months_know_leap_years() {
        let hours = |text: &str| text.parse::<Month>().map(Month::hours);
        assert_eq!(hours("1970-01"), Ok(0..744));
        assert_eq!(hours("2024-02").map(|h| h.len()), Ok(29 * 24));
        assert_eq!(hours("2026-11").map(|h| h.start), Ok(498_192));
        for bad in ["1969-12", "2026-13", "2026-00", "9999-01", "2026-1", "26-11", "2026/11", "+026-11", ""] {
            assert_eq!(hours(bad), Err(NotAMonth), "{bad}");
        }
        assert_eq!("9998-12".parse::<Month>().map(Month::next), Ok(None));
        assert_eq!("1970-01".parse::<Month>().map(Month::before), Ok(None));
        assert_eq!(Month::of_hour(u32::MAX).to_string(), "9998-12");
        assert_eq!(Month::of(Timestamp::MIN).to_string(), "1970-01");
    }

    proptest! {
        #[test]
        fn months_follow_each_other(number in 0..Month::LAST, within in any::<prop::sample::Index>()) {
            let month = Month::numbered(number).unwrap();
            let next = month.next().unwrap();
            prop_assert_eq!(month.hours().end, next.hours().start);
            prop_assert_eq!(next.before(), Some(month));
            let hours = month.hours();
            prop_assert_eq!(Month::of_hour(hours.start + within.index(hours.len()) as u32), month);
            prop_assert_eq!(month.to_string().parse(), Ok(month));
        }
    }
}
