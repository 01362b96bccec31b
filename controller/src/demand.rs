//! What all activators together say: merged per function and per instance.
//!
//! An activator is known by its name (its place of running). When its stream breaks it keeps its last state, because it
//! goes on working by its last routes, until one of the same name comes back, its process is known to have ended, or
//! [`SILENT`] is over. One that ends its stream properly has drained and is forgotten at once.

use crate::fleet::{FunctionUid, InstanceId};
use crate::reconcile::observe::{InstanceSaid, Moment};
use dormouse_proto::v1;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

/// How long the last state of a silent activator counts: longer than a rolling update of it takes, and than any
/// reconnect pause; after it, what it still runs is protected by the pods' own grace only.
pub const SILENT: Duration = Duration::from_secs(120);

/// Most activators; each holds a few bytes per function that it has calls of.
pub const MAX_ACTIVATORS: usize = 64;

/// Most functions or instances one report may speak of: as many as a cluster of 10,000 functions at 10 instances has.
pub const MAX_ENTRIES: usize = 100_000;

/// How long an activator that watches the routes may take to tell what it runs; one that only watches calls nobody.
pub const EXPECTED: Duration = Duration::from_secs(10);

/// All activators.
#[derive(Debug, Default)]
pub struct Demand {
    activators: BTreeMap<String, Activator>,
    /// Those that were told routes and have not said what they run, since when.
    expected: BTreeMap<String, Moment>,
}

#[derive(Debug, Default)]
struct Activator {
    /// Number of its present stream.
    stream: u64,
    /// The same by its own count.
    begun: Begun,
    /// Since when it has none.
    silent_since: Option<Moment>,
    /// Its process is known to have ended, and nothing was heard of it since: a break of its stream is its end.
    ended: bool,
    /// False until its first whole report: what it runs is not known.
    told: bool,
    applied: u64,
    functions: HashMap<FunctionUid, Calls>,
    instances: HashMap<InstanceId, InstanceSaid>,
}

/// A stream by its process's own count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Begun {
    /// Id of the process's spool.
    pub activator: u64,
    /// Grows with every start on that spool.
    pub epoch: u32,
    /// Grows with every stream of the process; 0 when it does not say.
    pub number: u32,
}

/// Calls of one function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// Waiting.
    pub queued: u32,
    /// Running.
    pub running: u32,
    /// The most of both since it was last told.
    pub peak: u32,
}

/// What a report changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Functions whose calls changed, with their peak.
    pub functions: BTreeMap<FunctionUid, Calls>,
    /// Instances of which something changed, with the function named beside them.
    pub instances: BTreeSet<(FunctionUid, InstanceId)>,
    /// An activator acts by newer routes.
    pub applied: bool,
}

/// A report refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DemandError {
    /// Too many activators.
    #[error("more than {MAX_ACTIVATORS} activators")]
    TooMany,
}

impl Demand {
    /// An activator watches the routes: it may send calls, and what it runs is not known.
    pub fn expect(&mut self, name: &str, now: Moment) {
        let known = self.activators.get(name).is_some_and(|a| a.silent_since.is_none());
        if !known && self.expected.len() < MAX_ACTIVATORS {
            self.expected.insert(name.to_owned(), now);
        }
    }

    /// An activator's stream began; one of the same name before it is replaced when it reports.
    ///
    /// # Errors
    /// When there are too many.
    pub fn join(&mut self, name: &str, stream: u64) -> Result<(), DemandError> {
        if !self.activators.contains_key(name) && self.activators.len() >= MAX_ACTIVATORS {
            return Err(DemandError::TooMany);
        }
        let activator = self.activators.entry(name.to_owned()).or_default();
        activator.stream = stream;
        activator.silent_since = None;
        activator.ended = false;
        self.expected.remove(name);
        Ok(())
    }

    /// True when a later stream of the same process was heard: this one is over, whatever is still read of it. What it
    /// said would be older than what is known, and its end would be taken for that of the later one.
    #[must_use]
    pub fn is_late(&self, name: &str, begun: Begun) -> bool {
        let known = self.activators.get(name).map(|a| a.begun);
        known.is_some_and(|known| {
            (known.activator, known.epoch) == (begun.activator, begun.epoch)
                && 0 < begun.number
                && begun.number < known.number
        })
    }

    /// Which of its streams a process counts the present one as.
    pub fn began(&mut self, name: &str, begun: Begun) {
        if let Some(activator) = self.activators.get_mut(name) {
            activator.begun = begun;
        }
    }

    /// A process of that name has certainly ended. One that is silent is forgotten; one whose stream has not been seen to
    /// break is forgotten as soon as it does, unless it is heard again: then it is the next process of the same name.
    pub fn gone(&mut self, name: &str) -> Touched {
        match self.activators.get_mut(name) {
            Some(activator) if activator.silent_since.is_none() => {
                activator.ended = true;
                Touched::default()
            }
            Some(_) => self.forget(name),
            None => Touched::default(),
        }
    }

    /// A stream ended: properly (`clean`: it has nothing any more), or broken.
    pub fn leave(&mut self, name: &str, stream: u64, clean: bool, now: Moment) -> Touched {
        let Some(activator) = self.activators.get_mut(name) else { return Touched::default() };
        if activator.stream != stream {
            return Touched::default();
        }
        if clean || activator.ended {
            return self.forget(name);
        }
        activator.silent_since = Some(now);
        Touched::default()
    }

    /// Forgets those that have been silent for too long; answers what that changes.
    pub fn expire(&mut self, now: Moment) -> Touched {
        let over = |a: &Activator| a.silent_since.is_some_and(|since| now >= since + SILENT);
        let names: Vec<String> = self.activators.iter().filter(|(_, a)| over(a)).map(|(n, _)| n.clone()).collect();
        let before = self.expected.len();
        self.expected.retain(|_, since| now < *since + EXPECTED);
        let mut touched = Touched { applied: self.expected.len() < before, ..Touched::default() };
        for name in names {
            tracing::warn!(activator = %name, "silent for {} s: what it ran is not counted any more", SILENT.as_secs());
            touched.add(self.forget(&name));
        }
        touched
    }

    /// When [`Demand::expire`] has something to do.
    #[must_use]
    pub fn expires_at(&self) -> Option<Moment> {
        let silent = self.activators.values().filter_map(|a| a.silent_since).map(|since| since + SILENT);
        silent.chain(self.expected.values().map(|since| *since + EXPECTED)).min()
    }

    fn forget(&mut self, name: &str) -> Touched {
        let mut touched = Touched { applied: true, ..Touched::default() };
        if let Some(activator) = self.activators.remove(name) {
            touched.functions = activator.functions.into_keys().map(|uid| (uid, Calls::default())).collect();
            // Which function an instance is of is not kept here: the office knows.
            touched.instances = activator.instances.into_keys().map(|id| (FunctionUid::from(""), id)).collect();
        }
        touched
    }

    /// Takes a report; says what it touched.
    pub fn report(&mut self, name: &str, stream: u64, report: v1::DemandReport) -> Touched {
        let mut touched = Touched::default();
        let Some(activator) = self.activators.get_mut(name).filter(|a| a.stream == stream) else { return touched };
        activator.ended = false;
        if report.whole {
            for uid in activator.functions.drain().map(|(uid, _)| uid) {
                touched.functions.insert(uid, Calls::default());
            }
            for id in activator.instances.drain().map(|(id, _)| id) {
                touched.instances.insert((FunctionUid::from(""), id));
            }
            activator.told = true;
            touched.applied = true;
        }
        touched.applied |= report.applied_version != activator.applied;
        activator.applied = report.applied_version;
        for said in report.functions.into_iter().take(MAX_ENTRIES) {
            let uid = FunctionUid::from(said.uid);
            let calls = Calls { queued: said.queued, running: said.running, peak: said.peak };
            if said.queued == 0 && said.running == 0 {
                activator.functions.remove(&uid);
            } else {
                activator.functions.insert(uid.clone(), calls);
            }
            touched.functions.insert(uid, calls);
        }
        for said in report.instances.into_iter().take(MAX_ENTRIES) {
            let (uid, id) = (FunctionUid::from(said.function_uid), InstanceId::from(said.id));
            let known = activator.instances.entry(id.clone()).or_default();
            *known = InstanceSaid {
                open: said.port_open,
                in_flight: said.in_flight,
                retired: said.retired || known.retired,
                first_call: said.first_call_sent || known.first_call,
            };
            touched.instances.insert((uid, id));
        }
        touched
    }

    /// An instance is gone: nobody can say anything of it any more.
    pub fn instance_gone(&mut self, id: &InstanceId) {
        for activator in self.activators.values_mut() {
            activator.instances.remove(id);
        }
    }

    /// An instance's process started anew: that its port was open before says nothing.
    pub fn instance_restarted(&mut self, id: &InstanceId) {
        for activator in self.activators.values_mut() {
            if let Some(said) = activator.instances.get_mut(id) {
                said.open = false;
            }
        }
    }

    /// A function is gone.
    pub fn function_gone(&mut self, uid: &FunctionUid) {
        for activator in self.activators.values_mut() {
            activator.functions.remove(uid);
        }
    }

    /// Calls of a function over all activators. `peak` is of one report: the others' present calls are added to it.
    #[must_use]
    pub fn calls(&self, uid: &FunctionUid, said: Calls) -> Calls {
        let mut sum = Calls::default();
        for calls in self.activators.values().filter_map(|a| a.functions.get(uid)) {
            sum.queued = sum.queued.saturating_add(calls.queued);
            sum.running = sum.running.saturating_add(calls.running);
        }
        let others = sum.queued.saturating_add(sum.running).saturating_sub(said.queued.saturating_add(said.running));
        sum.peak = others.saturating_add(said.peak);
        sum
    }

    /// Calls of a function at one activator.
    #[must_use]
    pub fn of(&self, name: &str, uid: &FunctionUid) -> Calls {
        self.activators.get(name).and_then(|a| a.functions.get(uid)).copied().unwrap_or_default()
    }

    /// Whether this is the present stream of an activator.
    #[must_use]
    pub fn is_present(&self, name: &str, stream: u64) -> bool {
        self.activators.get(name).is_some_and(|a| a.stream == stream && a.silent_since.is_none())
    }

    /// What is said of an instance over all activators.
    #[must_use]
    pub fn instance(&self, id: &InstanceId) -> InstanceSaid {
        let mut sum = InstanceSaid::default();
        for said in self.activators.values().filter_map(|a| a.instances.get(id)) {
            sum.open |= said.open;
            sum.retired |= said.retired;
            sum.first_call |= said.first_call;
            sum.in_flight = sum.in_flight.saturating_add(said.in_flight);
        }
        sum
    }

    /// The version of the routes that every activator acts by; one that has not told counts as acting by none.
    #[must_use]
    pub fn applied(&self) -> u64 {
        if !self.expected.is_empty() {
            return 0;
        }
        self.activators.values().map(|a| if a.told { a.applied } else { 0 }).min().unwrap_or(u64::MAX)
    }

    /// Whether any activator is connected.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.activators.values().any(|a| a.told && a.silent_since.is_none())
    }
}

impl Touched {
    fn add(&mut self, other: Self) {
        self.functions.extend(other.functions);
        self.instances.extend(other.instances);
        self.applied |= other.applied;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(whole: bool, queued: u32, in_flight: u32) -> v1::DemandReport {
        v1::DemandReport {
            whole,
            applied_version: 7,
            functions: vec![v1::FunctionDemand {
                uid: "f".into(),
                queued,
                running: in_flight,
                peak: queued + in_flight,
                reserved: None,
            }],
            instances: vec![v1::InstanceDemand {
                function_uid: "f".into(),
                id: "i".into(),
                port_open: true,
                in_flight,
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    #[test]
    fn activators_add_up_and_a_broken_one_keeps_counting() {
        let (f, i) = (FunctionUid::from("f"), InstanceId::from("i"));
        let mut demand = Demand::default();
        assert_eq!(demand.applied(), u64::MAX);
        demand.join("a", 1).unwrap();
        assert_eq!(demand.applied(), 0, "it has not told by what it acts");
        demand.join("b", 2).unwrap();
        demand.report("a", 1, report(true, 3, 1));
        demand.report("b", 2, report(true, 0, 2));
        assert_eq!(demand.calls(&f, Calls::default()), Calls { queued: 3, running: 3, peak: 6 });
        assert_eq!(demand.instance(&i).in_flight, 3);
        assert_eq!(demand.applied(), 7);
        assert_eq!(demand.leave("b", 2, false, Moment::from_secs(1)), Touched::default());
        assert_eq!(demand.instance(&i).in_flight, 3);
        assert_eq!(demand.expires_at(), Some(Moment::from_secs(1) + SILENT));
        demand.join("b", 3).unwrap();
        assert_eq!(demand.expires_at(), None);
        let touched = demand.report("b", 3, v1::DemandReport { whole: true, ..Default::default() });
        assert!(touched.functions.contains_key(&f), "what a whole report does not name is zero");
        assert_eq!(demand.instance(&i).in_flight, 1);
        assert_eq!(demand.report("b", 2, report(false, 9, 9)), Touched::default(), "a replaced stream says nothing");
        demand.leave("a", 1, true, Moment::from_secs(2));
        assert_eq!(demand.calls(&f, Calls::default()), Calls::default());
    }

    #[test]
    fn a_stream_that_is_heard_late_changes_nothing() {
        let begun = |activator, epoch, number| Begun { activator, epoch, number };
        let mut demand = Demand::default();
        assert!(!demand.is_late("a", begun(7, 1, 1)));
        demand.join("a", 10).unwrap();
        demand.began("a", begun(7, 1, 3));
        for (other, late) in
            [((7, 1, 2), true), ((7, 1, 4), false), ((7, 1, 0), false), ((7, 2, 1), false), ((8, 1, 1), false)]
        {
            assert_eq!(demand.is_late("a", begun(other.0, other.1, other.2)), late, "{other:?}");
        }
    }

    #[test]
    fn who_watches_is_waited_for() {
        let mut demand = Demand::default();
        demand.expect("a", Moment::ZERO);
        assert_eq!((demand.applied(), demand.expires_at()), (0, Some(EXPECTED)));
        demand.join("a", 1).unwrap();
        demand.report("a", 1, report(true, 0, 0));
        assert_eq!((demand.applied(), demand.expires_at()), (7, None));
        demand.expect("only-watches", Moment::ZERO);
        assert_eq!(demand.applied(), 0);
        assert!(demand.expire(EXPECTED).applied);
        assert_eq!(demand.applied(), 7);
    }

    #[test]
    fn one_whose_process_ended_is_not_waited_for() {
        let f = FunctionUid::from("f");
        let joined = || {
            let mut demand = Demand::default();
            demand.join("a", 1).unwrap();
            demand.report("a", 1, report(true, 0, 2));
            demand
        };
        // The stream broke first.
        let mut demand = joined();
        demand.leave("a", 1, false, Moment::ZERO);
        assert_eq!(demand.calls(&f, Calls::default()).running, 2);
        let touched = demand.gone("a");
        assert!(touched.applied && touched.functions.contains_key(&f));
        assert_eq!((demand.calls(&f, Calls::default()).running, demand.expires_at()), (0, None));
        // The end was told first.
        let mut demand = joined();
        assert_eq!(demand.gone("a"), Touched::default(), "its stream may still hold reports");
        assert!(demand.leave("a", 1, false, Moment::ZERO).functions.contains_key(&f));
        assert_eq!(demand.expires_at(), None);
        // What is heard after it is of the next process of that name, which is not to be forgotten with the first.
        let mut demand = joined();
        demand.gone("a");
        demand.report("a", 1, report(false, 0, 1));
        assert_eq!(demand.leave("a", 1, false, Moment::ZERO), Touched::default());
        demand.join("a", 2).unwrap();
        demand.report("a", 2, report(true, 0, 1));
        assert_eq!(demand.leave("a", 2, false, Moment::ZERO), Touched::default());
        assert_eq!(demand.gone("unknown"), Touched::default());
    }

    #[test]
    fn the_silent_are_forgotten_in_the_end() {
        let mut demand = Demand::default();
        demand.join("a", 1).unwrap();
        demand.report("a", 1, report(true, 3, 1));
        demand.leave("a", 1, false, Moment::ZERO);
        assert_eq!(demand.expire(SILENT - Duration::from_secs(1)), Touched::default());
        assert!(demand.expire(SILENT).functions.contains_key(&FunctionUid::from("f")));
        assert_eq!(demand.expires_at(), None);
        assert!(!demand.is_watched());
    }
}
