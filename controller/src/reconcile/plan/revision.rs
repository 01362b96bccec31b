//! One revision: up at once, from a warm pool first; down by stop routing -> idle on every activator -> end exactly those.

use super::{Draft, Scale, Wanted};
use crate::fleet::Phase;
use crate::reconcile::observe::{InstanceSeen, Lane};
use dormouse_core::revision::Revision;
use std::cmp::Reverse;

impl Draft<'_> {
    /// Brings a revision's instances to what is wanted, and removes its workload when it is not to be kept and has none.
    pub(super) fn revision(&mut self, revision: &Revision, wanted: Wanted, forced: bool) {
        let Wanted { target, floor, keep, claims } = wanted;
        let observed = self.observed;
        let workload = observed.workloads.get(revision);
        let replicas = workload.map_or(0, |workload| workload.number.at(self.context.now));
        self.later.at(workload.and_then(|workload| workload.number.unsure_until(self.context.now)));
        let live: Vec<&InstanceSeen> =
            observed.instances.values().filter(|i| i.is_live() && i.seen.revision == *revision).collect();
        if target == 0 && replicas == 0 && live.is_empty() {
            if !keep && self.may(&Lane::Remove(revision.clone())) {
                self.effects.remove.push(revision.clone());
            }
            return;
        }
        let (claimed, made): (Vec<_>, Vec<_>) = live.into_iter().partition(|i| i.claimed.is_some());
        let made = Made::new(made, replicas);
        let stay = self.claimed(claimed, &made, target, forced);
        let short = if claims { self.shortfall(revision, stay.all + made.supply(floor), target) } else { 0 };
        let parked = self.context.parked.iter().take(usize::try_from(short).unwrap_or(usize::MAX));
        self.effects.claim.extend(parked.cloned());
        let claimed = (stay.all - stay.settling).saturating_add(number(self.effects.claim.len()));
        if workload.is_some() {
            self.made(revision, made, target.saturating_sub(claimed).max(floor), forced);
        }
    }

    /// The claimed instances. They go before the workload's do, and those that calls have outlived go as soon as the
    /// workload's take their calls. Answers those that stay.
    fn claimed(&mut self, mut claimed: Vec<&InstanceSeen>, made: &Made<'_>, target: u32, forced: bool) -> Stay {
        let good = number(claimed.iter().filter(|i| !i.is_spent()).count());
        let leave = made.open().saturating_add(good).saturating_sub(target).min(good);
        claimed.sort_by_key(|i| {
            let settles = i.claimed.as_ref().is_some_and(|c| c.settles);
            let first = Reverse((i.is_spent(), is_draining(i), settles));
            (first, i.in_flight, i.idle_since, i.seen.id.clone())
        });
        let spent = number(claimed.len()) - good;
        let leaving = usize::try_from(spent + leave).unwrap_or(usize::MAX);
        for instance in claimed.iter().take(leaving) {
            self.drained.insert(instance.seen.id.clone());
            if self.is_quiet(instance, forced) && self.may(&Lane::Retire(instance.seen.id.clone())) {
                self.effects.retire.push(instance.seen.id.clone());
            }
        }
        let stay = claimed.iter().skip(leaving);
        let settling = number(stay.filter(|i| i.claimed.as_ref().is_some_and(|c| c.settles)).count());
        Stay { all: good - leave, settling }
    }

    /// How many instances the calls that there are need at once, beyond those that there are or that are on their way.
    fn shortfall(&self, revision: &Revision, supply: u32, target: u32) -> u32 {
        let observed = self.observed;
        if !observed.claiming.may(revision, self.context.now) {
            return 0;
        }
        let needed = observed.policy().map_or(0, |policy| policy.needed(observed.scaler.calls()));
        needed.min(target).saturating_sub(supply)
    }

    /// The workload's instances.
    fn made(&mut self, revision: &Revision, made: Made<'_>, target: u32, forced: bool) {
        let Made { mut live, replicas, surplus } = made;
        let condemned = |i: &InstanceSeen| i.asked || surplus && i.condemned;
        // First those that are going anyway, then those that take no calls yet, then the choice made before, so that it
        // does not change with every call; the longest idle of the rest.
        live.sort_by_key(|i| {
            let first = Reverse((condemned(i), i.is_spent(), !i.is_open() && i.in_flight == 0, is_draining(i)));
            (first, i.in_flight, i.idle_since, i.seen.id.clone())
        });
        let to_replace = number(live.iter().filter(|i| i.is_spent() && !condemned(i)).count());
        let drain = live.len().saturating_sub(usize::try_from(target).unwrap_or(usize::MAX));
        let leaving =
            live.iter().enumerate().filter(|(n, i)| *n < drain || i.is_spent() || condemned(i)).map(|(_, i)| *i);
        let mut victims = Vec::new();
        for instance in leaving {
            self.drained.insert(instance.seen.id.clone());
            if !condemned(instance) && self.is_quiet(instance, forced) {
                victims.push(instance.seen.id.clone());
            }
        }
        let up = target.saturating_add(to_replace);
        let next = if up > replicas {
            victims.clear();
            up
        } else {
            // Instances that were asked for and do not exist yet are given up without asking anybody.
            let uncreated = replicas.saturating_sub(number(live.len()));
            let floor = target.saturating_add(to_replace.saturating_sub(number(victims.len())));
            replicas.saturating_sub(uncreated).saturating_sub(number(victims.len())).max(floor).min(replicas)
        };
        if next != replicas && self.may(&Lane::Scale(revision.clone())) {
            self.effects.scale.push(Scale { revision: revision.clone(), replicas: next, victims });
        }
    }
}

/// Claimed instances that stay.
struct Stay {
    all: u32,
    /// Of those, the ones that the workload's are to take over from.
    settling: u32,
}

/// A revision's instances that its workload carries.
struct Made<'a> {
    live: Vec<&'a InstanceSeen>,
    /// How many it is to have.
    replicas: u32,
    /// Those named in a scale-down that was written are going while there are more instances than it left: whoever sends
    /// them a call now sends it to a pod that is being deleted.
    surplus: bool,
}

impl<'a> Made<'a> {
    fn new(live: Vec<&'a InstanceSeen>, replicas: u32) -> Self {
        let surplus = number(live.len()) > replicas;
        Self { live, replicas, surplus }
    }

    fn goes(&self, i: &InstanceSeen) -> bool {
        i.asked || self.surplus && i.condemned || i.is_spent()
    }

    /// Those that take calls.
    fn open(&self) -> u32 {
        number(self.live.iter().filter(|i| i.is_open() && !self.goes(i)).count())
    }

    /// Those that take calls or are on their way to calls that wait. What is started to be kept ready is not: a call that
    /// comes before it is ready need not wait for it.
    fn supply(&self, floor: u32) -> u32 {
        let good = self.replicas.saturating_sub(number(self.live.iter().filter(|i| self.goes(i)).count()));
        let starting = good.saturating_sub(self.open());
        good - starting.min(floor.saturating_sub(self.open()))
    }
}

/// By a choice made before. One that does not run is told as draining by that alone.
fn is_draining(instance: &InstanceSeen) -> bool {
    instance.seen.phase == Phase::Running && instance.published.is_some_and(|p| p.draining)
}

fn number(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
