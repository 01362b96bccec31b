//! Sums by time and group, from the hourly rows.

use super::codec::{FunctionId, decode_sum};
use super::dict;
use super::key::RollupId;
use super::open::Store;
use super::{CorruptValue, Page, ReadError};
use dormouse_core::usage::UsageSum;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use std::collections::BTreeMap;
use std::ops::Range;

/// Longest period of a question: ten years with their leap days. Bounds the months of a calendar to 121.
pub const MAX_DAYS: u32 = 3_653;

/// How long a row's time is; all in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granularity {
    /// `PT1H`.
    Hour,
    /// `P1D`.
    Day,
    /// `P1M`.
    Month,
    /// The whole period.
    Total,
}

/// What rows are kept apart by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupBy {
    /// The paying tenant.
    pub tenant: bool,
    /// The namespace.
    pub namespace: bool,
    /// The function's name (with its namespace: a name alone names nothing).
    pub function: bool,
    /// The Function's uid: tells a deleted one from its successor.
    pub function_uid: bool,
}

/// What a row is about; the parts that were not asked for are `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupKey {
    /// The paying tenant.
    pub tenant: Option<String>,
    /// The namespace.
    pub namespace: Option<String>,
    /// The function's name.
    pub function: Option<String>,
    /// The Function's uid.
    pub function_uid: Option<String>,
}

/// Which functions count: each list holds any of its values, an empty one everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Tenants.
    pub tenants: Vec<String>,
    /// Namespaces.
    pub namespaces: Vec<String>,
    /// Functions, as `name` or `namespace/name`.
    pub functions: Vec<String>,
    /// Function uids.
    pub function_uids: Vec<String>,
}

/// A question for sums.
#[derive(Clone, Debug)]
pub struct UsageQuery {
    /// Whole hours since 1970 UTC, the end not included; at most [`MAX_DAYS`].
    pub hours: Range<u32>,
    /// Length of a row's time.
    pub granularity: Granularity,
    /// What rows are kept apart by.
    pub group_by: GroupBy,
    /// Which functions count.
    pub filter: Filter,
    /// Only rows after this one.
    pub after: Option<RowKey>,
    /// Most rows.
    pub limit: usize,
}

/// Rows are in this order: by group, then time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowKey {
    /// What the row is about.
    pub group: GroupKey,
    /// First hour of the row's time.
    pub start: u32,
}

/// One row. Times without usage have none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageRow {
    /// What it is about.
    pub group: GroupKey,
    /// Its time, cut to the period asked for.
    pub hours: Range<u32>,
    /// What was used.
    pub usage: UsageSum,
}

impl Filter {
    /// Whether a function counts.
    #[must_use]
    pub fn takes(&self, id: &FunctionId) -> bool {
        let any = |list: &[String], value: &str| list.is_empty() || list.iter().any(|v| v == value);
        let named = |wanted: &String| match wanted.split_once('/') {
            Some((namespace, name)) => namespace == id.namespace && name == id.name,
            None => *wanted == id.name,
        };
        any(&self.tenants, &id.tenant)
            && any(&self.namespaces, &id.namespace)
            && any(&self.function_uids, &id.uid)
            && (self.functions.is_empty() || self.functions.iter().any(named))
    }

    /// Whether every function counts.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl GroupBy {
    fn key(self, id: FunctionId) -> GroupKey {
        GroupKey {
            tenant: self.tenant.then_some(id.tenant),
            namespace: (self.namespace || self.function).then_some(id.namespace),
            function: self.function.then_some(id.name),
            function_uid: self.function_uid.then_some(id.uid),
        }
    }
}

/// Answers a question. Only the functions of the page's groups are read, so a page costs what it shows.
pub(super) fn query(store: &Store, query: &UsageQuery) -> Result<Page<UsageRow, RowKey>, ReadError> {
    let calendar = Calendar::new(query.granularity, query.hours.clone());
    let mut functions = Vec::new();
    for entry in dict::functions(store) {
        let (number, id) = entry?;
        if query.filter.takes(&id) {
            let group = query.group_by.key(id);
            if query.after.as_ref().is_none_or(|after| group >= after.group) {
                functions.push((group, number));
            }
        }
    }
    functions.sort_unstable();
    let mut rows = Vec::new();
    for group in functions.chunk_by(|a, b| a.0 == b.0) {
        let key = &group[0].0;
        let after = query.after.as_ref().filter(|after| after.group == *key);
        let hours = after.map_or(query.hours.start, |a| calendar.time_of(a.start).end)..query.hours.end;
        // One row more than asked for tells that there are more.
        let room = query.limit + 1 - rows.len();
        for (start, usage) in sums(store, group.iter().map(|g| g.1), &hours, &calendar, room)? {
            rows.push(UsageRow { group: key.clone(), hours: calendar.time_of(start), usage });
        }
        if rows.len() > query.limit {
            break;
        }
    }
    let more = rows.len() > query.limit;
    rows.truncate(query.limit);
    let next = rows.last().filter(|_| more).map(|r| RowKey { group: r.group.clone(), start: r.hours.start });
    Ok(Page { rows, next })
}

/// Everything of a tenant in a period.
pub(super) fn of_tenant(store: &Store, tenant: &str, hours: Range<u32>) -> Result<UsageSum, ReadError> {
    let mut known = false;
    let mut sum = UsageSum::default();
    let calendar = Calendar::new(Granularity::Total, hours.clone());
    for entry in dict::functions(store) {
        let (number, id) = entry?;
        if id.tenant == tenant {
            known = true;
            for part in sums(store, std::iter::once(number), &hours, &calendar, 1)?.values() {
                sum.merge(part);
            }
        }
    }
    if known { Ok(sum) } else { Err(ReadError::UnknownTenant(tenant.to_owned())) }
}

/// The first `room` times with usage of some functions together.
fn sums(
    store: &Store,
    functions: impl Iterator<Item = u32>,
    hours: &Range<u32>,
    calendar: &Calendar,
    room: usize,
) -> Result<BTreeMap<u32, UsageSum>, ReadError> {
    let mut times: BTreeMap<u32, UsageSum> = BTreeMap::new();
    for function in functions {
        let at = |hour| RollupId { function, hour, rule: 0 }.key();
        for entry in store.db.range(at(hours.start)..at(hours.end)) {
            let (key, value) = entry?;
            let id = RollupId::read(&key).ok_or(CorruptValue("rollup"))?;
            let start = calendar.time_of(id.hour).start;
            // Once `room` times are known, later ones are of the next page: whatever is dropped here stays behind
            // `room` earlier times, so a kept sum is always whole.
            if times.len() >= room && times.last_key_value().is_some_and(|(&last, _)| start > last) {
                break;
            }
            times.entry(start).or_default().merge(&decode_sum(&value)?);
            if times.len() > room {
                times.pop_last();
            }
        }
    }
    Ok(times)
}

/// Which row an hour belongs to.
struct Calendar {
    granularity: Granularity,
    hours: Range<u32>,
    /// First hours of the months that touch the period, and of the one after it.
    months: Vec<u32>,
}

impl Calendar {
    fn new(granularity: Granularity, hours: Range<u32>) -> Self {
        let mut months = Vec::new();
        if granularity == Granularity::Month {
            let mut month = month_of(hours.start);
            while let Some(hour) = month.and_then(first_hour) {
                months.push(hour);
                if hour >= hours.end {
                    break;
                }
                month = month.and_then(next_month);
            }
        }
        Self { granularity, hours, months }
    }

    /// The time an hour belongs to, cut to the period.
    fn time_of(&self, hour: u32) -> Range<u32> {
        let whole = match self.granularity {
            Granularity::Hour => hour..hour.saturating_add(1),
            Granularity::Day => hour / 24 * 24..(hour / 24).saturating_add(1).saturating_mul(24),
            Granularity::Month => {
                let after = self.months.partition_point(|&start| start <= hour);
                let start = after.checked_sub(1).and_then(|i| self.months.get(i)).copied();
                start.unwrap_or(self.hours.start)..self.months.get(after).copied().unwrap_or(self.hours.end)
            }
            Granularity::Total => self.hours.clone(),
        };
        whole.start.max(self.hours.start)..whole.end.min(self.hours.end)
    }
}

/// The hours of a calendar month, UTC. `None` for a month outside 1970 to 9998.
#[must_use]
pub fn month_hours(year: i16, month: i8) -> Option<Range<u32>> {
    let date = Date::new(year, month, 1).ok()?;
    Some(first_hour(date)?..first_hour(next_month(date)?)?)
}

fn month_of(hour: u32) -> Option<Date> {
    let time = Timestamp::from_second(i64::from(hour) * 3600).ok()?;
    Some(time.to_zoned(TimeZone::UTC).date().first_of_month())
}

fn next_month(month: Date) -> Option<Date> {
    month.checked_add(jiff::Span::new().months(1)).ok()
}

fn first_hour(date: Date) -> Option<u32> {
    let second = date.to_zoned(TimeZone::UTC).ok()?.timestamp().as_second();
    u32::try_from(second / 3600).ok().filter(|_| second >= 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn months_know_leap_years() {
        assert_eq!(month_hours(1970, 1), Some(0..744));
        assert_eq!(month_hours(2024, 2).map(|h| h.len()), Some(29 * 24));
        assert_eq!(month_hours(2026, 11).map(|h| h.start), Some(498_192));
        assert_eq!((month_hours(1969, 12), month_hours(2026, 13), month_hours(9999, 12)), (None, None, None));
    }

    #[test]
    fn a_name_alone_or_with_its_namespace_selects() {
        let [uid, namespace, name, tenant] = ["u", "shop", "cart", "t"].map(str::to_owned);
        let id = FunctionId { uid, namespace, name, tenant };
        let by = |f: &str| Filter { functions: vec![f.to_owned()], ..Filter::default() }.takes(&id);
        assert_eq!([by("cart"), by("shop/cart"), by("other/cart"), by("shop")], [true, true, false, false]);
        assert!(Filter::default().takes(&id));
        assert!(!Filter { tenants: vec!["x".into()], ..Filter::default() }.takes(&id));
    }

    proptest! {
        #[test]
        fn times_cover_the_period_without_overlap(start in 0u32..600_000, len in 1u32..20_000, pick in 0usize..4) {
            let hours = start..start + len;
            let all = [Granularity::Hour, Granularity::Day, Granularity::Month, Granularity::Total];
            let calendar = Calendar::new(all[pick], hours.clone());
            let mut hour = hours.start;
            while hour < hours.end {
                let time = calendar.time_of(hour);
                prop_assert_eq!(time.start, hour);
                prop_assert!(time.end > hour && time.end <= hours.end);
                prop_assert_eq!(calendar.time_of(time.end - 1), time.clone());
                hour = time.end;
            }
        }
    }
}
