//! Sums by time and group, from the rows of minutes, hours or days.

use super::fold::{Calendar, Fold};
use super::groups::Groups;
use super::store::Store;
use super::{FunctionId, LocalTimes, Month, Page, ReadError};
use dormouse_core::usage::UsageSum;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// Longest period of a question: ten years with their leap days. Bounds the months of a calendar to 121.
pub const MAX_DAYS: u32 = 3_653;

/// How long a row's time is; all in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granularity {
    /// `PT1M`: for as long as minutes are kept.
    Minute,
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
    /// The same period as a time zone cuts it, and not by days and months of UTC.
    pub local: Option<LocalTimes>,
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
    /// Beginning of the row's time, in the unit of its granularity.
    pub start: u32,
}

/// One row. Times without usage have none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageRow {
    /// What it is about; rows of one group share it.
    pub group: Arc<GroupKey>,
    /// Its time, cut to the period asked for: minutes since 1970 UTC for [`Granularity::Minute`] and for local times that
    /// are made of minutes, else hours.
    pub time: Range<u32>,
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
    pub(super) fn key(self, id: FunctionId) -> GroupKey {
        GroupKey {
            tenant: self.tenant.then_some(id.tenant),
            namespace: (self.namespace || self.function).then_some(id.namespace),
            function: self.function.then_some(id.name),
            function_uid: self.function_uid.then_some(id.uid),
        }
    }
}

/// Rows are kept for this long a time each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// Minutes since 1970 UTC.
    Minute = 0,
    /// Hours since 1970 UTC.
    Hour = 1,
    /// Days since 1970 UTC: hours that are not kept by themselves any longer.
    Day = 2,
}

/// Which rows the times of an answer are made of: levels, each with its period in its own unit. What happened is in one
/// of them only. Where hours are not kept any longer, days count that lie in the period as a whole.
pub(super) fn levels(granularity: Granularity, hours: &Range<u32>) -> Vec<(Level, Range<u32>)> {
    if granularity == Granularity::Minute {
        return vec![(Level::Minute, hours.start.saturating_mul(60)..hours.end.saturating_mul(60))];
    }
    let mut levels = vec![(Level::Hour, hours.clone())];
    let days = hours.start.div_ceil(24)..hours.end / 24;
    if granularity != Granularity::Hour && !days.is_empty() {
        levels.push((Level::Day, days));
    }
    levels
}

impl Level {
    /// Length of a row's time.
    #[must_use]
    pub fn seconds(self) -> i64 {
        match self {
            Self::Minute => 60,
            Self::Hour => 3600,
            Self::Day => 86_400,
        }
    }
}

/// Answers a question with a page. Only the functions of the page's groups are read, so a page costs what it shows.
pub(super) async fn query(store: &dyn Store, query: &UsageQuery) -> Result<Page<UsageRow, RowKey>, ReadError> {
    if query.limit == 0 || query.hours.is_empty() {
        return Ok(Page { rows: Vec::new(), next: None });
    }
    let groups = Groups::find(store, query).await?;
    // One row more than asked for tells that there are more.
    let mut rows = groups.read(store, 0..groups.len(), query.limit.saturating_add(1)).await?;
    let more = rows.len() > query.limit;
    rows.truncate(query.limit);
    let next = rows.last().filter(|_| more).map(|r| RowKey { group: (*r.group).clone(), start: r.time.start });
    Ok(Page { rows, next })
}

/// Everything of a tenant in a period.
pub(super) async fn of_tenant(store: &dyn Store, tenant: &str, hours: Range<u32>) -> Result<UsageSum, ReadError> {
    let (numbers, groups) = functions_of(store, tenant).await?;
    if numbers.is_empty() {
        return Err(ReadError::UnknownTenant(tenant.to_owned()));
    }
    let levels = levels(Granularity::Total, &hours);
    let rows = Fold::new(Calendar::new(Granularity::Total, hours), groups, None, 1);
    let rows = store.fold(numbers, levels, rows).await?;
    Ok(rows.rows().next().map(|(_, _, sum)| sum).unwrap_or_default())
}

/// The months of a period in which a tenant used anything, in order.
pub(super) async fn months(store: &dyn Store, tenant: &str, hours: Range<u32>) -> Result<Vec<Month>, ReadError> {
    let (numbers, groups) = functions_of(store, tenant).await?;
    // There are 96,348 months at most, each once.
    let rows = Fold::new(Calendar::new(Granularity::Month, hours.clone()), groups, None, usize::MAX);
    let rows = store.fold(numbers, levels(Granularity::Month, &hours), rows).await?;
    Ok(rows.rows().map(|(_, time, _)| Month::of_hour(time.start)).collect())
}

/// The functions of a tenant in order, all in one group.
pub(super) async fn functions_of(
    store: &dyn Store,
    tenant: &str,
) -> Result<(Vec<u32>, HashMap<u32, usize>), ReadError> {
    let all = store.functions().await?;
    let mut numbers: Vec<u32> =
        all.into_iter().filter(|(_, id)| id.tenant == tenant).map(|(number, _)| number).collect();
    numbers.sort_unstable();
    let groups = numbers.iter().map(|number| (*number, 0)).collect();
    Ok((numbers, groups))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_alone_or_with_its_namespace_selects() {
        let [uid, namespace, name, tenant] = ["u", "shop", "cart", "t"].map(str::to_owned);
        let id = FunctionId { uid, namespace, name, tenant };
        let by = |f: &str| Filter { functions: vec![f.to_owned()], ..Filter::default() }.takes(&id);
        assert_eq!([by("cart"), by("shop/cart"), by("other/cart"), by("shop")], [true, true, false, false]);
        assert!(Filter::default().takes(&id));
        assert!(!Filter { tenants: vec!["x".into()], ..Filter::default() }.takes(&id));
    }
}
