//! One revision: up at once; down by stop routing -> idle on every activator -> end exactly those.

use super::{Draft, Scale};
use crate::reconcile::observe::{InstanceSeen, Lane};
use dormouse_core::revision::Revision;
use std::cmp::Reverse;

impl Draft<'_> {
    /// Brings a revision's instances to `target`, and removes its workload when it is not to be kept and has none.
    pub(super) fn revision(&mut self, revision: &Revision, target: u32, keep: bool, forced: bool) {
        let observed = self.observed;
        let Some(workload) = observed.workloads.get(revision) else { return };
        let replicas = workload.replicas(self.context.now);
        self.later.at(workload.unsure_until(self.context.now));
        let mut live: Vec<&InstanceSeen> =
            observed.instances.values().filter(|i| i.is_live() && i.seen.revision == *revision).collect();
        if target == 0 && replicas == 0 && live.is_empty() {
            if !keep && self.may(&Lane::Remove(revision.clone())) {
                self.effects.remove.push(revision.clone());
            }
            return;
        }
        // Those named in a scale-down that was asked, or written while there are more instances than it left: whoever
        // sends them a call now sends it to a pod that is being deleted.
        let surplus = number(live.len()) > replicas;
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

fn is_draining(instance: &InstanceSeen) -> bool {
    instance.published.is_some_and(|p| p.draining)
}

fn number(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
