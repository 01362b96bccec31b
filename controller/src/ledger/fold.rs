//! Rows of a store become rows of an answer: by group and time, only as many as a page shows.

use super::Level;
use super::month::Month;
use super::usage::Granularity;
use dormouse_core::usage::UsageSum;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::ops::{ControlFlow, Range};

/// Takes rows in the order of their groups and keeps the first `room` rows of the answer.
#[derive(Debug)]
pub(super) struct Fold {
    calendar: Calendar,
    /// How many of the calendar's units a row is long.
    unit: u32,
    /// The group of each function, groups in the order in which they are shown.
    groups: HashMap<u32, usize>,
    /// Only rows behind this one: its group and its time.
    after: Option<(usize, u32)>,
    room: usize,
    rows: BTreeMap<(usize, u32), UsageSum>,
    /// The function that rows came of last, with its group.
    last: Option<(u32, usize)>,
}

impl Fold {
    /// `room` is at least one.
    pub(super) fn new(
        calendar: Calendar,
        groups: HashMap<u32, usize>,
        after: Option<(usize, u32)>,
        room: usize,
    ) -> Self {
        Self { calendar, unit: 1, groups, after, room, rows: BTreeMap::new(), last: None }
    }

    /// The rows that it is given next are of a level. Several may be given one after the other: they add up.
    pub(super) fn of(self, level: Level) -> Self {
        Self { unit: if level == Level::Day { 24 } else { 1 }, ..self }
    }

    /// Where the rows of a function begin to count, in their own unit.
    pub(super) fn starts_at(&self, function: u32, period: &Range<u32>) -> u32 {
        match (self.after, self.groups.get(&function)) {
            (Some((after, start)), Some(group)) if *group == after => {
                self.calendar.time_of(start).end.div_ceil(self.unit)
            }
            _ => period.start,
        }
    }

    /// Whether a function's rows are all behind the last one that is kept: nothing of it, or of those after it, is wanted.
    pub(super) fn is_full_before(&self, function: u32) -> bool {
        let last = self.rows.last_key_value().map(|(key, _)| key.0);
        self.rows.len() >= self.room && self.groups.get(&function).zip(last).is_some_and(|(group, last)| *group > last)
    }

    /// Takes a row, its time in its own unit. Break: the following rows of this function are not wanted.
    pub(super) fn take(&mut self, function: u32, time: u32, mut sum: UsageSum) -> ControlFlow<()> {
        let Some(group) = self.group_of(function) else { return ControlFlow::Break(()) };
        let key = (group, self.calendar.time_of(time.saturating_mul(self.unit)).start);
        if self.after.is_some_and(|after| key <= after) {
            return ControlFlow::Continue(());
        }
        // Whatever is dropped here is behind `room` other rows: a row that is kept is always whole.
        if self.rows.len() >= self.room && self.rows.last_key_value().is_some_and(|(last, _)| key > *last) {
            return ControlFlow::Break(());
        }
        sum.warm = sum.warm.bounded();
        match self.rows.entry(key) {
            Entry::Vacant(new) => _ = new.insert(sum),
            Entry::Occupied(known) => known.into_mut().merge(&sum),
        }
        if self.rows.len() > self.room {
            self.rows.pop_last();
        }
        ControlFlow::Continue(())
    }

    fn group_of(&mut self, function: u32) -> Option<usize> {
        if self.last.is_none_or(|(last, _)| last != function) {
            self.last = self.groups.get(&function).map(|group| (function, *group));
        }
        self.last.map(|(_, group)| group)
    }

    /// The rows: group, time, sum.
    pub(super) fn rows(self) -> impl Iterator<Item = (usize, Range<u32>, UsageSum)> {
        let calendar = self.calendar;
        self.rows.into_iter().map(move |((group, start), sum)| (group, calendar.time_of(start), sum))
    }
}

/// Which row of an answer an hour belongs to, or, for answers that are made of minutes, a minute.
#[derive(Debug)]
pub(super) struct Calendar {
    granularity: Granularity,
    hours: Range<u32>,
    /// First hours of the months that touch the period, and of the one after it.
    months: Vec<u32>,
}

impl Calendar {
    pub(super) fn new(granularity: Granularity, hours: Range<u32>) -> Self {
        let mut months = Vec::new();
        if granularity == Granularity::Month {
            let mut month = Some(Month::of_hour(hours.start));
            while let Some(hour) = month.map(|month| month.hours().start) {
                months.push(hour);
                if hour >= hours.end {
                    break;
                }
                month = month.and_then(Month::next);
            }
        }
        Self { granularity, hours, months }
    }

    /// One whose times begin at these, from the beginning of the period to its end.
    pub(super) fn cut_at(cuts: Vec<u32>, period: Range<u32>) -> Self {
        Self { granularity: Granularity::Month, hours: period, months: cuts }
    }

    /// The time an hour belongs to, cut to the period.
    pub(super) fn time_of(&self, hour: u32) -> Range<u32> {
        let whole = match self.granularity {
            Granularity::Minute | Granularity::Hour => hour..hour.saturating_add(1),
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
