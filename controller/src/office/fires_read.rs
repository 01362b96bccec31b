//! The office's part in calls by the clock: what activators say of them goes to the functions, orders go to activators.

use super::Office;
use crate::fires::asked::{Answer, Wanted};
use crate::fires::{self, Letter, holder, is_named};
use crate::fleet::{Fleet, FunctionUid};
use crate::reconcile::observe::{Moment, Observed};
use crate::shares::Process;
use dormouse_core::function::Overlap;
use dormouse_core::schedule::{Do, Said};
use dormouse_proto::v1;
use jiff::Timestamp;
use std::collections::{BTreeSet, HashMap};

impl<F: Fleet> Office<F> {
    pub(super) fn read_fires(&mut self, letter: Letter, now: Moment) {
        match letter {
            Letter::Join { process, stream, report, out } => {
                tracing::info!(activator = %process, "takes orders");
                self.takers.join(holder(&process), stream, report.leaving, out);
                self.taker_joined(&process, &report, now);
            }
            Letter::Report { process, stream, report } => {
                let holder = holder(&process);
                if !self.takers.hears(&holder, stream, report.leaving) {
                    return;
                }
                let mut touched = BTreeSet::new();
                for fate in &report.fates {
                    let uid = FunctionUid::from(fate.function_uid.as_str());
                    let said = fires::said(fate);
                    if let Some(said) = said.as_ref().filter(|_| fate.schedule.is_empty()) {
                        self.asked.heard(&uid, fate.due_us, &holder, said);
                    }
                    if let (Some(observed), Some(said)) = (self.functions.get_mut(&uid), said) {
                        let of = (fires::due(fate.due_us), said);
                        observed.schedules.heard(&fate.schedule, of, &holder, now);
                        touched.insert(uid);
                    }
                }
                self.plan_all(touched, now);
            }
            Letter::Leave { process, stream } => {
                let holder = holder(&process);
                let left = self.takers.leave(&holder, stream);
                if left.is_some() {
                    self.asked.lost(|other| other == &*holder);
                }
                match left {
                    Some(true) => self.lost(now, |other| other == &*holder),
                    Some(false) => self.plan_all(self.timed(), now),
                    None => {}
                }
            }
        }
    }

    /// Somebody asks for an event of a function.
    pub(super) fn invoke(&mut self, wanted: Wanted) {
        let called = |o: &&Observed| {
            let object = o.object.as_ref().filter(|_| o.closing_since.is_none());
            object.and_then(|object| object.valid.as_ref()).is_some_and(|valid| valid.key == wanted.key)
        };
        match self.functions.values().find(called).map(|o| o.uid.clone()) {
            Some(uid) => self.asked.order(uid, wanted, &mut self.takers, (self.wall)()),
            None => drop(wanted.answer.send(Answer::NoFunction)),
        }
    }

    /// One is heard anew. Whatever ran in its place before has ended.
    fn taker_joined(&mut self, process: &Process, report: &v1::FireReport, now: Moment) {
        let me = holder(process);
        let mut known: HashMap<(&str, &str, i64), Said> = HashMap::new();
        let mut asked = BTreeSet::new();
        for fate in &report.fates {
            let said = fires::said(fate);
            if let Some(said) = said.as_ref().filter(|_| fate.schedule.is_empty()) {
                let uid = FunctionUid::from(fate.function_uid.as_str());
                self.asked.heard(&uid, fate.due_us, &me, said);
                asked.insert((uid, fate.due_us));
            }
            if let Some(said) = said {
                known.insert((&fate.function_uid, &fate.schedule, fate.due_us), said);
            }
        }
        self.asked.joined(&me, &asked);
        self.asked.lost(|other| is_named(other, &process.name) && other != &*me);
        for observed in self.functions.values_mut().filter(|o| !o.schedules.is_empty()) {
            let knows = |schedule: &str, due: Timestamp| {
                known.get(&(observed.uid.as_str(), schedule, due.as_microsecond())).cloned()
            };
            observed.schedules.joined(&me, knows, fires::due(report.forgot_through_us), now);
        }
        self.lost(now, |other| is_named(other, &process.name) && other != &*me);
    }

    /// An activator's process has certainly ended.
    pub(super) fn taker_gone(&mut self, name: &str, now: Moment) {
        self.takers.gone(name);
        let present: BTreeSet<_> = self.takers.present_of(name);
        self.lost(now, |other| is_named(other, name) && !present.contains(other));
    }

    /// What certain processes had is unknown; and everybody with schedules is looked at.
    fn lost(&mut self, now: Moment, is: impl Fn(&str) -> bool) {
        for observed in self.functions.values_mut() {
            observed.schedules.lost(&is);
        }
        self.plan_all(self.timed(), now);
    }

    /// Functions with schedules.
    fn timed(&self) -> Vec<FunctionUid> {
        let timed = |o: &&Observed| !o.schedules.is_empty();
        self.functions.values().filter(timed).map(|o| o.uid.clone()).collect()
    }

    /// Sends what a look has come to.
    pub(super) fn order(&mut self, uid: &FunctionUid, todo: Vec<(String, Do)>) {
        let Some(valid) = self.functions.get(uid).and_then(|o| o.object.as_ref()?.valid.clone()) else { return };
        for (schedule, order) in todo {
            let (due, holder, end) = match order {
                Do::Fire { due, holder } => (due, holder, false),
                Do::End { due, holder } => (due, holder, true),
            };
            let due_us = due.as_microsecond();
            let mut order = v1::FireOrder { function_uid: uid.to_string(), due_us, end, ..Default::default() };
            if let Some(planned) = valid.schedules.get(&schedule).filter(|_| !end) {
                order.event.clone_from(&planned.event);
                order.body = planned.body.as_deref().unwrap_or_default().as_bytes().to_vec().into();
                order.content_type = planned.content_type.to_owned();
                order.ends_early = planned.overlap == Overlap::Replace;
            }
            order.schedule = schedule;
            self.takers.send(&holder, order);
        }
    }
}
