//! Events on their way to the office. An object's newer state takes the place of one that was not fetched yet, so the
//! queue holds at most a few events per object however long the office is busy, and an effect never waits for it.

use crate::fleet::{Event, FunctionUid, InstanceId};
use dormouse_core::revision::Revision;
use parking_lot::Mutex;
use std::collections::VecDeque;
use tokio::sync::{Notify, mpsc};

/// What an event is about.
#[derive(PartialEq)]
enum Object {
    Function(FunctionUid),
    Instance(InstanceId),
    Workload(FunctionUid, Revision),
    Fleet,
}

/// The object of an event, and whether the event tells its state (a newer one says more).
fn object(event: &Event) -> (Object, bool) {
    match event {
        Event::Function(f) => (Object::Function(f.metadata.uid.clone().unwrap_or_default().into()), true),
        Event::FunctionGone(uid) => (Object::Function(uid.clone()), false),
        Event::Instance(i) => (Object::Instance(i.id.clone()), true),
        Event::InstanceGone(id) => (Object::Instance(id.clone()), false),
        Event::Workload(w) => (Object::Workload(w.function.clone(), w.revision.clone()), true),
        Event::WorkloadGone(uid, revision) => (Object::Workload(uid.clone(), revision.clone()), false),
        // There are no pools here.
        _ => (Object::Fleet, false),
    }
}

#[derive(Default)]
pub(super) struct Queue {
    events: Mutex<VecDeque<Event>>,
    filled: Notify,
}

impl Queue {
    pub(super) fn push(&self, event: Event) {
        let (about, state) = object(&event);
        let mut events = self.events.lock();
        let newest = events.iter_mut().rev().map(|e| (object(e), e)).find(|((o, _), _)| *o == about);
        match newest {
            Some(((_, true), old)) if state => *old = event,
            _ => events.push_back(event),
        }
        drop(events);
        self.filled.notify_one();
    }

    /// Hands the events on, in order, until nobody takes them.
    pub(super) async fn pump(&self, out: mpsc::Sender<Event>) {
        while let Ok(permit) = out.reserve().await {
            let next = loop {
                let filled = self.filled.notified();
                let next = self.events.lock().pop_front();
                match next {
                    Some(event) => break event,
                    None => tokio::select! {
                        () = filled => {}
                        () = out.closed() => return,
                    },
                }
            };
            permit.send(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_state_replaces_and_an_end_does_not() {
        let queue = Queue::default();
        let workload = |replicas| {
            let (function, revision) = ("u".into(), Revision::from("r"));
            Event::Workload(crate::fleet::Workload { function, revision, replicas, trouble: None })
        };
        queue.push(workload(1));
        queue.push(Event::Synced);
        queue.push(workload(2));
        queue.push(Event::WorkloadGone("u".into(), "r".into()));
        queue.push(workload(3));
        queue.push(workload(4));
        let told: Vec<String> = queue.events.lock().iter().map(|e| format!("{e:?}")).collect();
        let short: Vec<&str> = told
            .iter()
            .map(|t| t.split("replicas: ").nth(1).map_or(t.as_str(), |r| r.split(',').next().unwrap_or(r)))
            .collect();
        assert_eq!(short[0], "2");
        assert_eq!(short[1], "Synced");
        assert!(short[2].starts_with("WorkloadGone"));
        assert_eq!(&short[3..], ["4"]);
    }
}
