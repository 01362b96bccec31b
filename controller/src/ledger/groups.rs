//! A question for sums whose functions were found: answered as a page, or part by part.

use super::ReadError;
use super::fold::{Calendar, Fold};
use super::store::Store;
use super::usage::{Granularity, GroupKey, UsageQuery, UsageRow, levels};
use std::ops::Range;
use std::sync::Arc;

/// The groups that a question is about, in the order in which they are shown, and their functions.
#[derive(Debug)]
pub struct Groups {
    query: UsageQuery,
    groups: Vec<Arc<GroupKey>>,
    /// Numbers of the store, each with its group, in the order of groups.
    functions: Vec<(usize, u32)>,
}

impl Groups {
    /// Finds them; without those that are before the row behind which the question begins.
    pub(super) async fn find(store: &dyn Store, query: &UsageQuery) -> Result<Self, ReadError> {
        let mut found = Vec::new();
        for (number, id) in store.functions().await? {
            if query.filter.takes(&id) {
                let group = query.group_by.key(id);
                if query.after.as_ref().is_none_or(|after| group >= after.group) {
                    found.push((group, number));
                }
            }
        }
        found.sort_unstable();
        let (mut groups, mut functions) = (Vec::<Arc<GroupKey>>::new(), Vec::with_capacity(found.len()));
        for (group, number) in found {
            if groups.last().is_none_or(|last| **last != group) {
                groups.push(Arc::new(group));
            }
            functions.push((groups.len() - 1, number));
        }
        Ok(Self { query: query.clone(), groups, functions })
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.groups.len()
    }

    /// All of them cut into parts, of as many groups as can have so many rows; at least one.
    pub fn parts(&self, rows: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let UsageQuery { hours, granularity, local, .. } = &self.query;
        let times = match (local, granularity) {
            (Some(local), _) => local.count(),
            (None, Granularity::Minute) => hours.len() * 60,
            (None, Granularity::Hour) => hours.len(),
            // Months are fewer.
            (None, Granularity::Day | Granularity::Month) => hours.len() / 24 + 2,
            (None, Granularity::Total) => 1,
        };
        let (all, step) = (self.groups.len(), (rows / times.max(1)).max(1));
        (0..all).step_by(step).map(move |from| from..(from + step).min(all))
    }

    /// The first rows of some of the groups, at most `room` of them.
    pub(super) async fn read(
        &self,
        store: &dyn Store,
        groups: Range<usize>,
        room: usize,
    ) -> Result<Vec<UsageRow>, ReadError> {
        let place = |group: usize| self.functions.partition_point(|(of, _)| *of < group);
        let functions = &self.functions[place(groups.start)..place(groups.end)];
        let at = |group: &GroupKey| self.groups.binary_search_by(|known| (**known).cmp(group)).ok();
        let after = self.query.after.as_ref().and_then(|after| Some((at(&after.group)?, after.start)));
        let (levels, calendar) = match &self.query.local {
            Some(local) => local.rows(),
            None => {
                let levels = levels(self.query.granularity, &self.query.hours);
                let calendar = Calendar::new(self.query.granularity, levels[0].1.clone());
                (levels, calendar)
            }
        };
        let of = functions.iter().map(|(group, number)| (*number, *group)).collect();
        let numbers = functions.iter().map(|(_, number)| *number).collect();
        let rows = store.fold(numbers, levels, Fold::new(calendar, of, after, room)).await?;
        let row = |(group, time, usage): (usize, Range<u32>, _)| {
            self.groups.get(group).map(|group| UsageRow { group: Arc::clone(group), time, usage })
        };
        Ok(rows.rows().filter_map(row).collect())
    }
}
