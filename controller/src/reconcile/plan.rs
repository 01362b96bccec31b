//! What is to be done for one function: a pure function of what is observed, of what is wanted and of the time.
//!
//! Planning again on the result changes nothing, and no instance that is busy, or that an activator may still send a
//! call to, is ever ended by a plan (rule 6; the one exception is a deleted function whose calls have had all the time
//! that a call may have).

mod revision;
mod route;
#[cfg(test)]
mod tests;

pub(super) use route::urls;

use super::claims::{CALM, LOOK_INTO, OWN, TAKE};
use super::observe::{InstanceSeen, Lane, LaneOpen, Moment, Object, Observed};
use super::report;
use crate::fleet::{InstanceId, Note, Parked, Phase, Trouble};
use dormouse_core::function::{FunctionStatus, StartCheck};
use dormouse_core::price::Durability;
use dormouse_core::revision::Revision;
use dormouse_core::scale::{Decision, Why};
use dormouse_proto::v1;
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

/// How long a new revision is tried before the check gives up and lets it sleep: what a Deployment takes for "no
/// progress" (600 s).
pub const CHECK_LIMIT: Duration = Duration::from_secs(600);

/// An instance that boots with code and has not begun after so long may wait for a copy of it that somebody deleted: no pod
/// says so. One whose image is there begins within a second.
const SLOW: Duration = Duration::from_secs(5);

/// On top of a call's longest time, what a deleted function is given to drain.
const CLOSING_MARGIN: Duration = Duration::from_secs(5);

/// What the plan of one function needs to know beyond the function.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The moment.
    pub now: Moment,
    /// The wall clock, for conditions only.
    pub wall: Timestamp,
    /// The newest version of the routes that every activator acts by.
    pub applied: u64,
    /// Whether any activator is connected: then activators dial.
    pub watched: bool,
    /// Until then, instances found at the start are left alone: activators that use them may not have called yet.
    pub hold_until: Moment,
    /// Where functions are called.
    pub urls: &'a Urls,
    /// What the price plan in force has responses wait for.
    pub durability: Durability,
    /// Parked pods that the function fits into, the best first.
    pub parked: &'a [Parked],
}

/// What a function without a valid spec wants.
pub const NOTHING: Decision = Decision { wanted: 0, why: Why::Idle, look_again_at: None };

/// How the addresses of functions are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Urls {
    /// The domain below which each function has a name.
    pub domain: String,
    /// Where activators are reached, without a slash at the end: `http://host:port`.
    pub activator: String,
}

/// What is to be done, told and looked at again.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The revision that takes traffic from now on.
    pub serving: Option<Revision>,
    /// The revision that is being started for the first time, and since when.
    pub checking: Option<(Revision, Moment)>,
    /// What to ask of the fleet.
    pub effects: Effects,
    /// What activators are told; `None` when there is nothing to route yet.
    pub route: Option<v1::Function>,
    /// The status.
    pub status: FunctionStatus,
    /// What the owner is told when the status changes.
    pub notes: Vec<Note>,
    /// When to plan again if nothing happens.
    pub look_again_at: Option<Moment>,
    /// Why as many instances are wanted.
    pub why: Why,
}

/// What to ask of the fleet; each in its own lane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Put the finalizer on.
    pub adopt: bool,
    /// Make these workloads.
    pub prepare: Vec<Revision>,
    /// Make again what its instances need, where somebody removed it.
    pub mend: Option<Revision>,
    /// Make these parked pods instances: they are to be reserved, and the plan made anew.
    pub claim: Vec<Parked>,
    /// Add the function's container to these.
    pub graft: Vec<InstanceId>,
    /// Ask these whether they have their code.
    pub look_into: Vec<InstanceId>,
    /// Take these out of their pool.
    pub own: Vec<InstanceId>,
    /// Set these numbers of instances.
    pub scale: Vec<Scale>,
    /// End these at once: they are ending and idle.
    pub retire: Vec<InstanceId>,
    /// Dial these: no activator does.
    pub probe: Vec<(InstanceId, SocketAddr)>,
    /// Remove these workloads.
    pub remove: Vec<Revision>,
    /// Take the finalizer off.
    pub release: bool,
}

/// A number of instances to set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Of this revision.
    pub revision: Revision,
    /// So many.
    pub replicas: u32,
    /// Those to end.
    pub victims: Vec<InstanceId>,
}

/// The earliest of several moments.
#[derive(Clone, Copy, Debug, Default)]
struct Later(Option<Moment>);

impl Later {
    fn at(&mut self, moment: impl Into<Option<Moment>>) {
        self.0 = [self.0, moment.into()].into_iter().flatten().min();
    }
}

/// Everything a part of the plan may write to.
struct Draft<'a> {
    observed: &'a Observed,
    context: &'a Context<'a>,
    effects: Effects,
    later: Later,
    /// Instances that take no new calls.
    drained: BTreeSet<InstanceId>,
}

impl Draft<'_> {
    /// Whether a lane may be asked now; if not, remembers when.
    fn may(&mut self, lane: &Lane) -> bool {
        match self.observed.lane(lane, self.context.now) {
            LaneOpen::Now => true,
            LaneOpen::Later(at) => {
                self.later.at(at);
                false
            }
        }
    }

    /// True when no call runs on an instance and no activator may send it one any more.
    fn is_quiet(&mut self, instance: &InstanceSeen, forced: bool) -> bool {
        if forced {
            return true;
        }
        if instance.found && self.context.now < self.context.hold_until {
            self.later.at(self.context.hold_until);
            return false;
        }
        if let Some(until) = instance.blocked_until {
            self.later.at(until);
            return false;
        }
        let acknowledged = match instance.published {
            None => true,
            Some(published) => published.draining && self.context.applied >= published.since,
        };
        acknowledged && instance.in_flight == 0
    }
}

/// What a revision is to have.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    /// Instances.
    target: u32,
    /// Of those, as many that its workload carries whatever calls there are.
    floor: u32,
    /// Its workload is kept without any.
    keep: bool,
    /// Parked pods may be made instances of it.
    claims: bool,
}

/// Who is who among the revisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roles {
    /// The revision of the spec.
    pub wanted: Revision,
    /// The one that takes traffic.
    pub serving: Option<Revision>,
    /// Whether `wanted` is to be started although no call asks for it.
    pub check: Check,
}

/// How far the start check is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Nothing to check, or checked.
    None,
    /// Under way since.
    Since(Moment),
    /// Given up: began at, and never opened its port.
    Expired(Moment),
}

/// Plans.
#[must_use]
pub fn plan(observed: &Observed, decision: Decision, context: &Context<'_>) -> Plan {
    let mut draft =
        Draft { observed, context, effects: Effects::default(), later: Later::default(), drained: BTreeSet::new() };
    let Some(object) = &observed.object else { return forgotten(draft, decision) };
    let closing = observed.closing_since.is_some();
    let roles = roles(observed, object, closing, context.now);
    draft.later.at(decision.look_again_at);
    draft.later.at(observed.floor.until);
    if let Check::Since(since) = roles.check {
        draft.later.at(since + CHECK_LIMIT);
    }
    let floor = if closing { 0 } else { observed.floor() };
    let targets = targets(observed, &roles, if closing { 0 } else { decision.wanted.max(floor) });
    let forced = closing && {
        let deadline = closing_deadline(observed, object);
        draft.later.at(deadline.filter(|at| context.now < *at));
        deadline.is_some_and(|at| context.now >= at)
    };
    if !closing {
        draft.effects.adopt = !is_ours(object) && draft.may(&Lane::Adopt);
        if object.valid.is_some() && !observed.workloads.contains_key(&roles.wanted) {
            let prepare = draft.may(&Lane::Prepare(roles.wanted.clone()));
            draft.effects.prepare.extend(prepare.then(|| roles.wanted.clone()));
        } else if draft.lacks(object, &roles) {
            let mend = draft.may(&Lane::Mend(roles.wanted.clone()));
            draft.effects.mend = mend.then(|| roles.wanted.clone());
        }
    }
    // A spec that is not valid and was not seen valid says nothing of how many: what runs is left to run.
    let known = closing || object.valid.is_some();
    let claimed = observed.instances.values().filter(|i| i.claimed.is_some()).map(|i| &i.seen.revision);
    let revisions: BTreeSet<&Revision> = observed.workloads.keys().chain(claimed).collect();
    for revision in revisions.into_iter().filter(|_| known) {
        let target = targets.get(revision).copied().unwrap_or(0);
        let keep = !closing && (*revision == roles.wanted || roles.serving.as_ref() == Some(revision));
        let claims = !closing && *revision == roles.wanted && roles.serving.as_ref() == Some(revision);
        // The old revision is not made larger for it.
        let floor = if claims { floor } else { 0 };
        draft.revision(revision, Wanted { target, floor, keep, claims }, forced);
    }
    draft.claims();
    draft.endings(forced);
    draft.probes(&roles);
    if closing
        && is_ours(object)
        && observed.workloads.is_empty()
        && !observed.instances.values().any(InstanceSeen::is_live)
    {
        draft.effects.release = draft.may(&Lane::Release);
    }
    let standing = report::standing(observed, object, &roles, &targets, &draft.drained, context);
    // A call must not be billed to the wrong tenant.
    let tenant = observed.tenant.as_deref();
    let route = tenant.map(|tenant| route::route((observed, tenant), object, &standing, &draft.drained, context));
    let status = report::status(observed, &standing, context.wall);
    let notes = report::notes(&observed.status, &status);
    Plan {
        serving: roles.serving,
        checking: match roles.check {
            Check::None => None,
            Check::Since(at) | Check::Expired(at) => Some((roles.wanted, at)),
        },
        effects: draft.effects,
        route,
        status,
        notes,
        look_again_at: draft.later.0,
        why: decision.why,
    }
}

/// The object is gone (or was never seen): what it owned is collected by its owner references; nothing is routed.
fn forgotten(mut draft: Draft<'_>, decision: Decision) -> Plan {
    // But for pods that are a pool's still.
    let observed = draft.observed;
    let unowned = observed.instances.iter().filter(|(_, i)| i.seen.claim.as_ref().is_some_and(|c| !c.owned));
    for (id, _) in unowned {
        if draft.may(&Lane::Retire(id.clone())) {
            draft.effects.retire.push(id.clone());
        }
    }
    Plan {
        serving: None,
        checking: None,
        effects: draft.effects,
        route: None,
        status: draft.observed.status.clone(),
        notes: Vec::new(),
        look_again_at: None,
        why: decision.why,
    }
}

fn roles(observed: &Observed, object: &Object, closing: bool, now: Moment) -> Roles {
    let wanted = object.revision.clone();
    let has_open =
        |r: &Revision| observed.instances.values().any(|i| i.seen.revision == *r && i.is_live() && i.is_open());
    let has_live = |r: &Revision| observed.instances.values().any(|i| i.seen.revision == *r && i.is_live());
    let always = object.valid.as_ref().is_none_or(|v| v.start_check == StartCheck::Always);
    let asleep = observed.scaler.calls() == 0;
    let serving = match &observed.serving {
        _ if has_open(&wanted) => Some(wanted.clone()),
        // Without a check the manifest is what is believed: a revision that nobody calls gives way at once.
        Some(old) if *old != wanted && !always && asleep && !has_live(old) => Some(wanted.clone()),
        // Its pods cannot be made again: the spec that they came from is gone.
        Some(old) if *old != wanted && !observed.workloads.contains_key(old) && !has_live(old) => None,
        Some(old) => Some(old.clone()),
        None if !always => Some(wanted.clone()),
        None => None,
    };
    let unchecked = always && !closing && object.valid.is_some() && serving.as_ref() != Some(&wanted);
    let check = match &observed.checking {
        _ if !unchecked => Check::None,
        Some((revision, at)) if *revision == wanted && now >= *at + CHECK_LIMIT => Check::Expired(*at),
        Some((revision, at)) if *revision == wanted => Check::Since(*at),
        _ => Check::Since(now),
    };
    Roles { wanted, serving, check }
}

/// How many instances each revision is to have. At most two revisions are above zero: the serving one, and the one
/// that comes before it or after it.
fn targets(observed: &Observed, roles: &Roles, wanted: u32) -> BTreeMap<Revision, u32> {
    let count = |r: &Revision, f: fn(&InstanceSeen) -> bool| {
        let n = observed
            .instances
            .values()
            .filter(|i| i.seen.revision == *r && i.is_live() && !i.is_spent() && f(i))
            .count();
        u32::try_from(n).unwrap_or(u32::MAX)
    };
    let mut targets = BTreeMap::new();
    let checked = u32::from(matches!(roles.check, Check::Since(_)));
    match &roles.serving {
        None => {
            targets.insert(roles.wanted.clone(), wanted.max(checked));
        }
        Some(serving) if *serving == roles.wanted => {
            targets.insert(serving.clone(), wanted);
            // What the new revision cannot take yet, the newest of the old ones keeps.
            let missing = wanted.saturating_sub(count(serving, InstanceSeen::is_open));
            let before = observed.serving.as_ref().filter(|r| *r != serving).or_else(|| {
                observed.workloads.keys().filter(|r| *r != serving).max_by_key(|r| count(r, InstanceSeen::is_open))
            });
            if let Some(before) = before {
                targets.insert(before.clone(), missing.min(count(before, InstanceSeen::is_open)));
            }
        }
        Some(serving) => {
            targets.insert(serving.clone(), wanted);
            let first = if matches!(roles.check, Check::None) { u32::from(wanted > 0) } else { checked };
            targets.insert(roles.wanted.clone(), first);
        }
    }
    targets
}

fn is_ours(object: &Object) -> bool {
    object.function.metadata.finalizers.as_ref().is_some_and(|f| f.iter().any(|f| f == crate::fleet::FINALIZER))
}

/// When a deleted function's calls have had all their time.
fn closing_deadline(observed: &Observed, object: &Object) -> Option<Moment> {
    let timeout = object.valid.as_ref().map_or(Duration::ZERO, |v| v.timeout);
    Some(observed.closing_since? + timeout + CLOSING_MARGIN)
}

impl Draft<'_> {
    /// Whether an instance of the wanted revision may wait for what its code is mounted from.
    fn lacks(&mut self, object: &Object, roles: &Roles) -> bool {
        if !object.valid.as_ref().is_some_and(|valid| valid.brings_code()) {
            return false;
        }
        let starts = |i: &&InstanceSeen| i.seen.phase == Phase::Starting && i.seen.trouble.is_none();
        let waits = self.observed.instances.values().filter(|i| i.seen.revision == roles.wanted).filter(starts);
        let slow_at = waits.map(|i| i.since + SLOW).min();
        self.later.at(slow_at.filter(|at| self.context.now < *at));
        slow_at.is_some_and(|at| self.context.now >= at)
    }

    /// The next step of each claim.
    fn claims(&mut self) {
        let (observed, now) = (self.observed, self.context.now);
        for (id, instance) in observed.instances.iter().filter(|(_, i)| i.is_live()) {
            let (Some(claimed), Some(claim)) = (&instance.claimed, &instance.seen.claim) else { continue };
            if claimed.given_up {
                continue;
            }
            if claim.sent && claimed.parked.is_none() && !instance.open {
                // Found, and no activator has said that it is open.
                let due = claimed.at + LOOK_INTO;
                if now < due {
                    self.later.at(due);
                } else if self.may(&Lane::LookInto(id.clone())) {
                    self.effects.look_into.push(id.clone());
                }
            }
            if !claimed.grafted {
                if self.may(&Lane::Graft(id.clone())) {
                    self.effects.graft.push(id.clone());
                }
            } else if !(claim.owned && claim.shrunk) {
                // Not before a call is on its way: the pod that takes its place would compete with its start.
                // With a load the start is over by then, and the call is what it would compete with.
                let calm = if claim.loaded.is_some() { claimed.at + CALM } else { now };
                let due = if claimed.first_call { calm } else { claimed.at + OWN };
                if now < due {
                    self.later.at(due);
                } else if self.effects.retire.contains(id) {
                    // It is deleted with the next step.
                } else if self.may(&Lane::Own(id.clone())) {
                    self.effects.own.push(id.clone());
                }
            }
            if !instance.is_taken() {
                self.later.at(claimed.at + TAKE);
            }
        }
    }

    /// Instances that end: the idle ones need not take their whole grace.
    fn endings(&mut self, forced: bool) {
        let observed = self.observed;
        for (id, instance) in &observed.instances {
            if instance.seen.phase != Phase::Ending {
                continue;
            }
            self.drained.insert(id.clone());
            if self.is_quiet(instance, forced) && self.may(&Lane::Retire(id.clone())) {
                self.effects.retire.push(id.clone());
            }
        }
    }

    /// While no activator is connected, the controller dials what has to be seen open.
    fn probes(&mut self, roles: &Roles) {
        let observed = self.observed;
        if self.context.watched || observed.closing_since.is_some() {
            return;
        }
        for (id, instance) in &observed.instances {
            let (Phase::Running, false, Some(address)) = (instance.seen.phase, instance.open, instance.seen.address)
            else {
                continue;
            };
            if instance.seen.revision == roles.wanted && self.may(&Lane::Probe(id.clone())) {
                self.effects.probe.push((id.clone(), address));
            }
        }
    }
}

/// The reason why nothing of a revision runs, when there is one and waiting does not help.
pub(super) fn stuck<'a>(observed: &'a Observed, revision: &Revision) -> Option<&'a Trouble> {
    let mut live = observed.instances.values().filter(|i| i.is_live() && i.seen.revision == *revision).peekable();
    if live.peek().is_none() {
        // None can be made.
        return refused(observed, revision).filter(|trouble| trouble.code.terminal());
    }
    let mut first = None;
    for instance in live {
        if !instance.is_stuck() {
            return None;
        }
        first = first.or(instance.seen.trouble.as_ref());
    }
    first
}

/// The reason why a revision has fewer instances than it is to have, when waiting may help.
pub(super) fn waiting<'a>(observed: &'a Observed, revision: &Revision) -> Option<&'a Trouble> {
    let instances = observed.instances.values().filter(|i| i.is_live() && i.seen.revision == *revision);
    instances
        .filter(|i| !i.is_open())
        .find_map(|i| i.seen.trouble.as_ref())
        .or_else(|| observed.workloads.get(revision).and_then(|w| w.trouble.as_ref()))
        .or_else(|| refused(observed, revision))
}

/// Why the fleet refuses to make a revision's workload or its instances.
pub(super) fn refused<'a>(observed: &'a Observed, revision: &Revision) -> Option<&'a Trouble> {
    observed.refused.as_ref().filter(|(of, _)| of == revision).map(|(_, trouble)| trouble)
}
