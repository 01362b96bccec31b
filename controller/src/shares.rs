//! Who may use which slots: each activator's share of every instance, and of every `reservedConcurrency`.
//!
//! The rule is [`dormouse_core::share`]; here it meets the processes that there are. A process is known by the name of
//! its place, its random id and its epoch. While its stream is broken it keeps its shares, because it goes on working by
//! its last routes; they come back with the same process, or when its end is known: it left cleanly, its place runs
//! another process, or the fleet saw it end. After an end that was not clean its calls may run on: its slots then belong
//! to nobody for the function's `timeoutSeconds`.

use crate::demand::{Demand, SILENT};
use crate::fleet::{FunctionUid, InstanceId};
use crate::reconcile::observe::{Moment, Observed};
use crate::routes::View;
use dormouse_core::share::{Deal, Pool, Wants};
use dormouse_proto::v1;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// How long an activator may be silent before instances that it alone may use are replaced: a break of a connection is
/// mended within two pauses of at most 2 s each.
const REPLACE: Duration = Duration::from_secs(5);

/// For how long after the start nothing is granted on instances found at the start beyond what their users say: each
/// activator comes back within its connect timeout and its longest pause (2 s each), with room for a loaded machine. One
/// that is cut off from the controller for longer than this while the controller is started anew, and goes on serving,
/// is not known: its slots are then given to others.
pub const SHARES_HOLD: Duration = Duration::from_secs(10);

/// One life of one activator.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Process {
    /// Its place of running: pod name, or "dev".
    pub name: Arc<str>,
    /// The random id of its spool.
    pub activator: u64,
    /// Grows with every start on that spool.
    pub epoch: u32,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:016x}.{})", self.name, self.activator, self.epoch)
    }
}

/// All shares of all functions.
#[derive(Debug, Default)]
pub struct Shares {
    /// Functions that have instances or a limit on their calls.
    deals: HashMap<FunctionUid, Deal<InstanceId, Process>>,
    members: BTreeMap<Process, Member>,
    /// Ids of activators that take calls over from others, each with its streams: a new one may begin before the old
    /// one is seen to end.
    peers: BTreeMap<u64, u32>,
}

#[derive(Debug, Default)]
struct Member {
    /// Since when it has no stream.
    silent_since: Option<Moment>,
    /// It is silent for so long that instances which only it may use are replaced.
    missed: bool,
    /// Its end is known, and nothing was heard of it since: a break of its stream is its end.
    ended: bool,
    /// It was asked to stop: nobody hands calls to it any more.
    leaving: bool,
    /// Functions whose shares it was told, by the version that it has to act by.
    pending: BTreeMap<u64, Vec<FunctionUid>>,
    /// By which share of a limit it acts, as it said at its start; `None`: by no limit, though it may run calls.
    said: HashMap<FunctionUid, Option<u32>>,
}

/// Functions to be planned anew.
pub type Touched = BTreeSet<FunctionUid>;

/// What a function's activators are told of their shares.
#[derive(Debug, Default)]
pub struct Dealt {
    /// What each is told.
    pub views: BTreeMap<Process, View>,
    /// Who may run calls on open instances, when there are others that they could take calls over from.
    pub holders: Vec<u64>,
    /// When to deal again although nothing happens.
    pub look_again_at: Option<Moment>,
}

/// What a deal is made for.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a> {
    /// What is known of the function.
    pub observed: &'a Observed,
    /// What its activators are told of it beside their shares.
    pub route: &'a v1::Function,
    /// Calls.
    pub demand: &'a Demand,
    /// The moment.
    pub now: Moment,
    /// Until then nothing is granted on instances that were found at the start.
    pub hold_until: Moment,
}

impl Shares {
    /// True when a later life of the same spool is known: this one is over, whatever is heard of it.
    #[must_use]
    pub fn is_over(&self, process: &Process) -> bool {
        self.members.keys().any(|p| p.activator == process.activator && p.epoch > process.epoch)
    }

    /// A process says for the first time on a stream what it holds: [`Shares::report`] follows.
    pub fn join(&mut self, process: &Process, now: Moment, timeout: impl Fn(&FunctionUid) -> Duration) -> Touched {
        let is_before = |p: &&Process| p.name == process.name && *p != process;
        let same_place: Vec<Process> = self.members.keys().filter(is_before).cloned().collect();
        let mut touched = Touched::new();
        for before in same_place {
            tracing::info!(activator = %before, by = %process, "its place runs another process: it has ended");
            touched.append(&mut self.lost(&before, now, &timeout));
        }
        let member = self.members.entry(process.clone()).or_default();
        (member.silent_since, member.missed, member.ended) = (None, false, false);
        touched.extend(self.deals.keys().cloned());
        touched
    }

    /// Takes a report of the current stream of a process; answers whose shares may have changed by it.
    pub fn report(&mut self, process: &Process, report: &v1::DemandReport) -> Touched {
        let mut touched = Touched::new();
        let Some(member) = self.members.get_mut(process) else { return touched };
        member.ended = false;
        if std::mem::replace(&mut member.leaving, report.leaving) != report.leaving {
            touched.extend(self.deals.keys().cloned());
        }
        if report.whole {
            self.reset(process, report);
            touched.extend(self.deals.keys().cloned());
        }
        // First what runs, then what is acknowledged: the calls are as of the acknowledgement or later.
        for said in &report.instances {
            let (uid, id) = (FunctionUid::from(said.function_uid.as_str()), InstanceId::from(said.id.as_str()));
            let known = self.deals.get_mut(&uid);
            let deal = match known {
                Some(deal) => deal,
                None if report.whole => self.deals.entry(uid.clone()).or_default(),
                None => continue,
            };
            let pool = deal.instance_mut(&id, 0);
            let before = pool.held(process);
            if let (true, Some(slots)) = (report.whole, said.slots) {
                pool.found(process, slots);
            }
            pool.runs(process, said.in_flight);
            if pool.held(process) != before {
                touched.insert(uid);
            }
        }
        for said in &report.functions {
            let uid = FunctionUid::from(said.uid.as_str());
            if let Some(pool) = self.deals.get_mut(&uid).and_then(Deal::reserved_mut) {
                pool.runs(process, said.running);
                touched.insert(uid);
            }
        }
        self.acknowledged(process, report.applied_version, &mut touched);
        touched
    }

    /// What a whole report does not name is nothing.
    fn reset(&mut self, process: &Process, report: &v1::DemandReport) {
        // One that says its shares says all of them.
        let says = report.applied_life != 0;
        for pool in self.deals.values_mut().flat_map(Deal::pools_mut) {
            if pool.held(process) > 0 {
                pool.runs(process, 0);
                if says {
                    pool.found(process, 0);
                }
            }
        }
        let mut all: HashMap<FunctionUid, Option<u32>> = HashMap::new();
        for said in report.instances.iter().filter(|i| i.in_flight > 0 || i.slots.is_some_and(|n| n > 0)) {
            all.insert(FunctionUid::from(said.function_uid.as_str()), None);
        }
        for said in report.functions.iter().filter(|f| f.reserved.is_some()) {
            let uid = FunctionUid::from(said.uid.as_str());
            if let (Some(pool), Some(share)) = (self.deals.get_mut(&uid).and_then(Deal::reserved_mut), said.reserved) {
                pool.found(process, share);
            }
            all.insert(uid, said.reserved);
        }
        if let Some(member) = self.members.get_mut(process) {
            member.said = all;
        }
    }

    fn acknowledged(&mut self, process: &Process, version: u64, touched: &mut Touched) {
        let Some(member) = self.members.get_mut(process) else { return };
        let later = member.pending.split_off(&version.saturating_add(1));
        let done = std::mem::replace(&mut member.pending, later);
        for uid in done.into_values().flatten() {
            if let Some(deal) = self.deals.get_mut(&uid) {
                deal.pools_mut().for_each(|pool| pool.acknowledged(process, version));
                touched.insert(uid);
            }
        }
    }

    /// A stream ended: properly, or broken.
    pub fn leave(
        &mut self,
        process: &Process,
        clean: bool,
        now: Moment,
        timeout: impl Fn(&FunctionUid) -> Duration,
    ) -> Touched {
        let Some(member) = self.members.get_mut(process) else { return Touched::new() };
        if !clean {
            if member.ended {
                return self.lost(process, now, timeout);
            }
            member.silent_since = Some(now);
            return self.of(process);
        }
        let touched = self.of(process);
        self.members.remove(process);
        self.deals.values_mut().flat_map(Deal::pools_mut).for_each(|pool| pool.left(process));
        touched
    }

    /// A process in that place has certainly ended. One whose stream has not broken yet may be the next in the same
    /// place: it ends with its stream, unless it is heard again.
    pub fn gone(&mut self, name: &str, now: Moment, timeout: impl Fn(&FunctionUid) -> Duration) -> Touched {
        let there: Vec<Process> = self.members.keys().filter(|p| &*p.name == name).cloned().collect();
        let mut touched = Touched::new();
        for process in there {
            match self.members.get_mut(&process) {
                Some(member) if member.silent_since.is_none() => member.ended = true,
                _ => touched.append(&mut self.lost(&process, now, &timeout)),
            }
        }
        touched
    }

    /// A process ended, and its calls may run on.
    fn lost(&mut self, process: &Process, now: Moment, timeout: impl Fn(&FunctionUid) -> Duration) -> Touched {
        let touched = self.of(process);
        self.members.remove(process);
        for (uid, deal) in &mut self.deals {
            let until = now + timeout(uid);
            // It could run its calls only where it had slots.
            let most = deal.held(process);
            if let Some(reserved) = deal.reserved_mut() {
                reserved.at_most(process, most);
            }
            deal.pools_mut().for_each(|pool| pool.lost(process, until));
        }
        touched
    }

    /// Functions of which a process may be running calls, or is told shares.
    fn of(&self, process: &Process) -> Touched {
        let has = |deal: &Deal<InstanceId, Process>| deal.pools().any(|pool| pool.held(process) > 0);
        self.deals.iter().filter(|(_, deal)| has(deal)).map(|(uid, _)| uid.clone()).collect()
    }

    /// Takes note of who has been silent for too long; answers whose instances may have to be replaced.
    pub fn expire(&mut self, now: Moment) -> Touched {
        let missed: Vec<Process> = self
            .members
            .iter_mut()
            .filter(|(_, m)| !m.missed && m.silent_since.is_some_and(|since| now >= since + REPLACE))
            .map(|(process, m)| {
                m.missed = true;
                process.clone()
            })
            .collect();
        let ghosts = self.members.iter().filter(|(_, m)| m.silent_since.is_some_and(|since| now >= since + SILENT));
        let mut ghosts: Vec<Process> = ghosts.map(|(process, _)| process.clone()).collect();
        // A ghost that may use nothing any more is forgotten.
        ghosts.retain(|process| {
            let holds = !self.of(process).is_empty();
            if !holds {
                self.members.remove(process);
            }
            holds
        });
        missed.iter().chain(&ghosts).flat_map(|process| self.of(process)).collect()
    }

    /// When [`Shares::expire`] has something to do.
    #[must_use]
    pub fn expires_at(&self, now: Moment) -> Option<Moment> {
        let at = |m: &Member| {
            let since = m.silent_since?;
            let at = if m.missed { since + SILENT } else { since + REPLACE };
            (at > now || !m.missed).then_some(at)
        };
        self.members.values().filter_map(at).min()
    }

    /// An activator that takes calls over from others watches the routes, or does so no longer.
    pub fn set_peer(&mut self, activator: u64, takes: bool) -> Touched {
        let streams = self.peers.entry(activator).or_default();
        let before = *streams > 0;
        *streams = if takes { streams.saturating_add(1) } else { streams.saturating_sub(1) };
        let after = *streams > 0;
        if !after {
            self.peers.remove(&activator);
        }
        if before != after { self.deals.keys().cloned().collect() } else { Touched::new() }
    }

    /// A function is gone.
    pub fn function_gone(&mut self, uid: &FunctionUid) {
        self.deals.remove(uid);
    }

    /// True when no activator that is heard may use any slot of an instance: it counts as missing. Also when one that has
    /// been silent for very long holds some of its slots: they come back only with another instance.
    #[must_use]
    pub fn is_lost(&self, uid: &FunctionUid, id: &InstanceId, now: Moment) -> bool {
        let Some(pool) = self.deals.get(uid).and_then(|deal| deal.instance(id)) else { return false };
        if !self.members.values().any(|m| m.silent_since.is_none()) {
            return false;
        }
        let held = |p: &Process, long: bool| {
            let silent = self.members.get(p).and_then(|m| m.silent_since.filter(|_| m.missed));
            let counts = silent.is_some_and(|since| !long || now >= since + SILENT);
            if counts { pool.held(p) } else { 0 }
        };
        let missed: u32 = pool.members().map(|p| held(p, false)).fold(pool.blocked(), u32::saturating_add);
        pool.total() > 0 && missed >= pool.total() || pool.members().any(|p| held(p, true) > 0)
    }

    /// Until when calls of an activator that ended badly may run on an instance.
    #[must_use]
    pub fn blocked_until(&self, uid: &FunctionUid, id: &InstanceId) -> Option<Moment> {
        self.deals.get(uid)?.instance(id)?.blocked_until()
    }

    /// Deals out a function's slots as its instances, its limit and its calls are now.
    pub fn deal(&mut self, table: &Table<'_>) -> Dealt {
        let Table { observed, route, now, .. } = *table;
        let uid = &observed.uid;
        if route.instances.is_empty() && route.reserved.is_none() && !self.deals.contains_key(uid) {
            return Dealt::default();
        }
        let deal = self.deals.entry(uid.clone()).or_default();
        let held_back = |id: &InstanceId| observed.instances.get(id).is_some_and(|i| i.found) && now < table.hold_until;
        deal.retain(|id| observed.instances.contains_key(id));
        deal.set_instances(route.instances.iter().map(|i| {
            let id = InstanceId::from(i.id.as_str());
            let taking = i.state() != v1::InstanceState::Draining && !held_back(&id);
            (id, i.slots, taking)
        }));
        let acts_by = self.members.iter_mut().map(|(process, member)| {
            // What it said at its start is true only until it is first told something.
            let said = member.said.remove(uid);
            let idle = deal.held(process) == 0;
            (process.clone(), said.unwrap_or(idle.then_some(0)))
        });
        let acts_by: Vec<_> = acts_by.collect();
        deal.set_reserved(route.reserved, acts_by);
        let held = observed.instances.keys().any(held_back);
        deal.hold_reserved(held);
        let later = deal.expire(now);
        let mut live = BTreeMap::new();
        for (process, member) in &self.members {
            if member.silent_since.is_none() {
                live.insert(process.clone(), table.demand.wants(&process.name, uid));
            } else {
                let most = deal.held(process);
                if let Some(reserved) = deal.reserved_mut() {
                    reserved.at_most(process, most);
                }
            }
        }
        let again = deal.balance(now, &live);
        let hold = held.then_some(table.hold_until);
        let views = self.members.keys().map(|p| (p.clone(), view(deal, route, p))).collect();
        let staying = live.keys().filter(|p| self.members.get(*p).is_some_and(|m| !m.leaving));
        let holders = if self.members.len() > 1 { holders(deal, route, staying, &self.peers) } else { Vec::new() };
        if route.instances.is_empty() && route.reserved.is_none() && deal.pools().all(|p| p.members().next().is_none())
        {
            self.deals.remove(uid);
        }
        Dealt { views, holders, look_again_at: [later, again, hold].into_iter().flatten().min() }
    }

    /// What was dealt last is told with this version.
    pub fn sent(&mut self, uid: &FunctionUid, version: u64) {
        let Some(deal) = self.deals.get_mut(uid) else { return };
        for process in deal.pools_mut().flat_map(|pool| pool.sent(version)) {
            if let Some(member) = self.members.get_mut(&process) {
                let uids = member.pending.entry(version).or_default();
                if uids.last() != Some(uid) {
                    uids.push(uid.clone());
                }
            }
        }
    }
}

/// What one activator is told.
fn view(deal: &Deal<InstanceId, Process>, route: &v1::Function, process: &Process) -> View {
    let slots = |i: &v1::Instance| deal.instance(&InstanceId::from(i.id.as_str())).map_or(0, |pool| pool.goal(process));
    View {
        slots: route.instances.iter().map(slots).collect(),
        reserved: deal.reserved().map(|pool| pool.goal(process)),
    }
}

/// Who may run calls on open instances and takes them over, as far as it has said that it acts by its share.
fn holders<'a>(
    deal: &Deal<InstanceId, Process>,
    route: &v1::Function,
    live: impl Iterator<Item = &'a Process>,
    peers: &BTreeMap<u64, u32>,
) -> Vec<u64> {
    let has = |pool: &Pool<Process>, p: &Process| pool.applied(p).min(pool.goal(p)) > 0;
    let open: Vec<&Pool<Process>> = route
        .instances
        .iter()
        .filter(|i| i.state() == v1::InstanceState::Ready)
        .filter_map(|i| deal.instance(&InstanceId::from(i.id.as_str())))
        .collect();
    live.filter(|p| peers.contains_key(&p.activator))
        .filter(|p| open.iter().any(|pool| has(pool, p)) && deal.reserved().is_none_or(|pool| has(pool, p)))
        .map(|p| p.activator)
        .collect()
}

impl Demand {
    /// Calls of a function at one activator.
    #[must_use]
    pub fn wants(&self, name: &str, uid: &FunctionUid) -> Wants {
        let calls = self.of(name, uid);
        Wants { queued: calls.queued, running: calls.running }
    }
}
