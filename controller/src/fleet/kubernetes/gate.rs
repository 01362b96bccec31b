//! Pods are made with a scheduling gate and let through by us, as many as a revision is to have.
//!
//! Why: an idle pod must go within a second or two, a pod that Kubernetes ends on its own must have as long as a call
//! may take, and only the first delete of a pod decides which (a kubelet that has begun a `preStop` sleep sleeps it to
//! the end, whatever grace a second delete gives: `SyncTerminatingPod` runs without a context that could be cancelled;
//! seen on 1.36). A ReplicaSet deletes with the pod's own, long grace, so it must never have to choose: victims are
//! deleted by us, by name, at the moment the number is lowered. Until the lower number has come through the Deployment
//! the ReplicaSet makes up for them; without the gate such a pod would be scheduled and started for nothing (seen). With
//! it, it is an object that nobody has looked at when the ReplicaSet takes it back.
//! The price is one write per start, about 5 ms.

use crate::fleet::{FunctionUid, InstanceId};
use crate::labels;
use crate::reconcile::build::graft;
use dormouse_core::revision::Revision;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use parking_lot::Mutex;
use serde_json::json;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// The gate's name.
pub const GATE: &str = "dormouse.dev/start";

/// How long a number that we wrote counts against an older one that the watch still tells.
const WRITTEN_COUNTS: Duration = Duration::from_secs(2);

/// Time limit of one write, and the first and longest pause before it is tried again.
const WRITE: Duration = Duration::from_secs(5);
const AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Pods let through at once: a burst of 500 takes 8 rounds of about 5 ms.
const MAX_WRITES: usize = 64;

pub(super) type Key = (FunctionUid, Revision);

/// How the gate knows an object.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// A revision's Deployment.
    Deployment(Key),
    /// One of its pods.
    Pod(Key, InstanceId),
}

/// Lets pods through.
#[derive(Clone)]
pub(super) struct Gate {
    client: Client,
    writes: Arc<Semaphore>,
    revisions: Arc<Mutex<HashMap<Key, Revisions>>>,
}

/// The pods of one revision.
#[derive(Debug, Default)]
struct Revisions {
    seen: u32,
    written: Option<(u32, Instant)>,
    /// Through, and not told to end.
    through: HashSet<InstanceId>,
    /// At the gate: namespace and name.
    waiting: BTreeMap<InstanceId, (String, String)>,
}

impl Revisions {
    fn replicas(&self, now: Instant) -> u32 {
        match self.written {
            Some((replicas, at)) if now < at + WRITTEN_COUNTS => replicas,
            _ => self.seen,
        }
    }

    /// Those to let through now; they count as through from here on.
    fn due(&mut self, now: Instant) -> Vec<(InstanceId, String, String)> {
        let room = usize::try_from(self.replicas(now)).unwrap_or(usize::MAX).saturating_sub(self.through.len());
        let ids: Vec<InstanceId> = self.waiting.keys().take(room).cloned().collect();
        ids.into_iter()
            .filter_map(|id| {
                let (namespace, name) = self.waiting.remove(&id)?;
                self.through.insert(id.clone());
                Some((id, namespace, name))
            })
            .collect()
    }
}

/// Whether a pod still waits at the gate.
pub(super) fn is_waiting(pod: &Pod) -> bool {
    let gates = pod.spec.as_ref().and_then(|s| s.scheduling_gates.as_ref());
    gates.is_some_and(|gates| gates.iter().any(|g| g.name == GATE))
}

impl Gate {
    pub(super) fn new(client: Client) -> Self {
        Self { client, writes: Arc::new(Semaphore::new(MAX_WRITES)), revisions: Arc::default() }
    }

    /// A revision is about to be given a number of instances; `ending` are being deleted.
    pub(super) fn set<'a>(&self, key: Key, replicas: u32, ending: impl Iterator<Item = &'a InstanceId>) {
        self.change(key, |revision| {
            revision.written = Some((replicas, Instant::now()));
            for id in ending {
                revision.through.remove(id);
            }
        });
    }

    /// What a Deployment has.
    pub(super) fn deployment(&self, key: Key, replicas: u32) {
        self.change(key, |revision| {
            revision.seen = replicas;
            if revision.written.is_some_and(|(written, _)| written == replicas) {
                revision.written = None;
            }
        });
    }

    /// A pod as it is now.
    pub(super) fn pod(&self, pod: &Pod) {
        // One that was claimed has no gate, and is none of those that the revision's workload is to have.
        if graft::is_grafted(pod) {
            return;
        }
        let (Some(key), Some(uid)) = (labels::owner(pod.metadata.labels.as_ref()), pod.uid()) else { return };
        let id = InstanceId::from(uid);
        let ending = pod.metadata.deletion_timestamp.is_some()
            || matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Failed" | "Succeeded"));
        self.change(key, |revision| {
            if ending {
                revision.through.remove(&id);
                revision.waiting.remove(&id);
            } else if !is_waiting(pod) {
                revision.waiting.remove(&id);
                revision.through.insert(id);
            } else if !revision.through.contains(&id) {
                revision.waiting.insert(id, (pod.namespace().unwrap_or_default(), pod.name_any()));
            }
        });
    }

    /// Something is gone.
    pub(super) fn hide(&self, place: Place) {
        match place {
            Place::Deployment(key) => {
                self.revisions.lock().remove(&key);
            }
            // Of a revision that is gone nothing is kept.
            Place::Pod(key, id) if self.revisions.lock().contains_key(&key) => self.change(key, |revision| {
                revision.through.remove(&id);
                revision.waiting.remove(&id);
            }),
            Place::Pod(..) => {}
        }
    }

    fn change(&self, key: Key, change: impl FnOnce(&mut Revisions)) {
        let due = {
            let mut revisions = self.revisions.lock();
            let revision = revisions.entry(key.clone()).or_default();
            change(revision);
            revision.due(Instant::now())
        };
        for (id, namespace, name) in due {
            tokio::spawn(self.clone().let_through(key.clone(), id, namespace, name));
        }
    }

    async fn let_through(self, key: Key, id: InstanceId, namespace: String, name: String) {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
        let body = Patch::Strategic(json!({
            "metadata": {"uid": id.as_str()},
            "spec": {"schedulingGates": [{"$patch": "delete", "name": GATE}]},
        }));
        let params = PatchParams { field_manager: Some(super::SCALER.into()), ..PatchParams::default() };
        let mut pause = AGAIN.0;
        // Until it is through or gone: a pod at the gate is a call that waits.
        loop {
            let permit = self.writes.acquire().await;
            let result = tokio::time::timeout(WRITE, api.patch_metadata(&name, &params, &body)).await;
            drop(permit);
            match result {
                Ok(Ok(_)) => return,
                Ok(Err(kube::Error::Api(status))) if status.code == 404 || status.code == 409 => break,
                Ok(Err(error)) => tracing::warn!(pod = %name, %error, "a pod was not let through"),
                Err(_) => tracing::warn!(pod = %name, "letting a pod through took longer than {} s", WRITE.as_secs()),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(AGAIN.1);
        }
        // Gone: the place is free again.
        self.hide(Place::Pod(key, id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(ids: &[&str]) -> BTreeMap<InstanceId, (String, String)> {
        ids.iter().map(|id| (InstanceId::from(*id), ("ns".to_owned(), (*id).to_owned()))).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn as_many_as_are_to_be_there() {
        let now = Instant::now();
        let mut revision = Revisions { seen: 2, waiting: waiting(&["a", "b", "c"]), ..Revisions::default() };
        assert_eq!(revision.due(now).len(), 2);
        assert_eq!(revision.due(now), vec![], "asking again lets nobody through");
        revision.through.clear();
        assert_eq!(revision.due(now).len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_makes_up_for_a_victim_stays_outside() {
        let now = Instant::now();
        let mut revision =
            Revisions { seen: 1, written: Some((0, now)), waiting: waiting(&["a"]), ..Revisions::default() };
        assert_eq!(revision.due(now), vec![], "the watch still tells 1");
        assert_eq!(revision.due(now + WRITTEN_COUNTS).len(), 1, "somebody else has set 1");
    }
}
