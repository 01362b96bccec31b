//! The wall: a NetworkPolicy in each namespace that has anything of ours, so that nothing goes around the meter.
//!
//! One task writes, and it alone. The other watches tell it which namespaces are in use; it watches the policies itself,
//! so that one that somebody deletes or changes is there again at once. A policy goes with the last function of its
//! namespace, and all of them go when the operator opts out. A policy of our name that somebody else made is told as an
//! event on it and left alone.

mod place;

use super::MANAGER;
use super::effects::{of_uid, within};
use crate::fleet::FleetError;
use crate::labels;
use crate::reconcile::build::network_policy::{NAME, Platform, is_as_wanted, network_policy};
use futures::StreamExt;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use place::{Due, Known, Place, Seen, Stands, Write};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Namespaces told and not read yet; whoever tells more waits.
const MAX_TOLD: usize = 1024;

/// Writes at once: a controller that is new in a cluster of 1,000 such namespaces makes 63 rounds of a few ms.
const MAX_WRITES: usize = 16;

/// What is to become of policies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Policies {
    /// They are nobody's business here.
    #[default]
    Leave,
    /// They are made, kept, and removed with the last function.
    Make(Platform),
    /// Those that exist are removed.
    Remove,
}

/// Where the watches tell which namespaces are in use.
#[derive(Clone)]
pub(super) struct Wall(Option<mpsc::Sender<Told>>);

enum Told {
    More(String),
    Fewer(String),
    Complete,
}

impl Wall {
    /// Nobody has to know.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self(None)
    }

    /// One more object of ours is in a namespace.
    pub(super) async fn more(&self, namespace: &str) {
        self.tell(|| Told::More(namespace.to_owned())).await;
    }

    /// One object of ours in a namespace is gone.
    pub(super) async fn fewer(&self, namespace: &str) {
        self.tell(|| Told::Fewer(namespace.to_owned())).await;
    }

    /// All that exist were told.
    pub(super) async fn complete(&self) {
        self.tell(|| Told::Complete).await;
    }

    async fn tell(&self, told: impl FnOnce() -> Told) {
        if let Some(sender) = &self.0 {
            // Nobody receives only when the controller ends.
            let _ = sender.send(told()).await;
        }
    }
}

/// A wall, and the task that keeps it (none when policies are left alone).
pub(super) fn wall(policies: &Policies, client: &Client, recorder: &Recorder) -> (Wall, Option<Keeper>) {
    let platform = match policies {
        Policies::Leave => return (Wall(None), None),
        Policies::Make(platform) => Some(Arc::new(platform.clone())),
        Policies::Remove => None,
    };
    let (sender, told) = mpsc::channel(MAX_TOLD);
    let keeper = Keeper {
        client: client.clone(),
        recorder: recorder.clone(),
        known: Known { make: platform.is_some(), ..Known::default() },
        platform,
        told,
        places: HashMap::new(),
        timers: BTreeSet::new(),
        permits: Arc::new(Semaphore::new(MAX_WRITES)),
        writes: JoinSet::new(),
        listing: None,
    };
    (Wall(Some(sender)), Some(keeper))
}

/// Keeps the wall.
pub(super) struct Keeper {
    client: Client,
    recorder: Recorder,
    /// `None`: every policy is to go.
    platform: Option<Arc<Platform>>,
    told: mpsc::Receiver<Told>,
    places: HashMap<String, Place>,
    known: Known,
    /// When to look at which namespace again.
    timers: BTreeSet<(Instant, String)>,
    permits: Arc<Semaphore>,
    writes: JoinSet<(String, Write, Result<(), FleetError>)>,
    /// Namespaces in the list of policies that is being read.
    listing: Option<HashSet<String>>,
}

impl Keeper {
    /// Works until it is dropped.
    pub(super) async fn run(mut self, api: Api<NetworkPolicy>) {
        let config = watcher::Config::default().fields(&format!("metadata.name={NAME}"));
        let mut policies = std::pin::pin!(watcher(api, config).default_backoff());
        loop {
            let wake = self.timers.first().map(|(at, _)| *at);
            tokio::select! {
                told = self.told.recv() => match told {
                    Some(told) => self.hear(told),
                    None => return,
                },
                Some(event) = policies.next() => match event {
                    Ok(event) => self.see(event),
                    Err(error) => tracing::warn!(kind = "NetworkPolicy", %error, "a watch broke; it begins anew"),
                },
                Some(answer) = self.writes.join_next() => if let Ok((namespace, write, result)) = answer {
                    self.answered(namespace, &write, result);
                },
                () = tokio::time::sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => self.wake(),
            }
        }
    }

    fn hear(&mut self, told: Told) {
        match told {
            Told::More(namespace) => {
                self.places.entry(namespace.clone()).or_default().users += 1;
                self.step(&namespace);
            }
            Told::Fewer(namespace) => {
                let place = self.places.entry(namespace.clone()).or_default();
                place.users = place.users.saturating_sub(1);
                self.step(&namespace);
            }
            Told::Complete => {
                self.known.users = true;
                self.step_all();
            }
        }
    }

    fn see(&mut self, event: watcher::Event<NetworkPolicy>) {
        match event {
            watcher::Event::Init => self.listing = Some(HashSet::new()),
            watcher::Event::InitApply(policy) | watcher::Event::Apply(policy) => {
                let namespace = policy.namespace().unwrap_or_default();
                if let Some(listing) = &mut self.listing {
                    listing.insert(namespace.clone());
                }
                let wanted = self.platform.as_ref().map(|platform| network_policy(&namespace, platform));
                let stands = match wanted {
                    _ if !is_ours(&policy) => Stands::Foreign,
                    Some(wanted) if is_as_wanted(&policy, &wanted) => Stands::AsWanted,
                    _ => Stands::Otherwise,
                };
                let seen = Seen { uid: policy.uid().unwrap_or_default(), stands };
                self.places.entry(namespace.clone()).or_default().see(seen);
                self.step(&namespace);
            }
            watcher::Event::Delete(policy) => self.lost(&policy.namespace().unwrap_or_default()),
            watcher::Event::InitDone => {
                let listing = self.listing.take().unwrap_or_default();
                // One that a list does not have is made again where it is needed: nothing is taken down by a wrong list.
                let missing: Vec<String> = self.places.keys().filter(|n| !listing.contains(*n)).cloned().collect();
                missing.iter().for_each(|namespace| self.lost(namespace));
                self.known.policies = true;
                self.step_all();
            }
        }
    }

    fn lost(&mut self, namespace: &str) {
        if let Some(place) = self.places.get_mut(namespace) {
            place.lose();
            self.step(namespace);
        }
    }

    fn wake(&mut self) {
        let now = Instant::now();
        while self.timers.first().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, namespace)) = self.timers.pop_first() {
                self.step(&namespace);
            }
        }
    }

    fn step_all(&mut self) {
        let all: Vec<String> = self.places.keys().cloned().collect();
        all.iter().for_each(|namespace| self.step(namespace));
    }

    /// Does what is due in a namespace.
    fn step(&mut self, namespace: &str) {
        let now = Instant::now();
        let Some(place) = self.places.get_mut(namespace) else { return };
        match place.due(self.known, now) {
            Due::Now(write) => {
                place.begin(now);
                let work = carry_out(self.client.clone(), self.platform.clone(), namespace.to_owned(), write.clone());
                let (permits, namespace) = (self.permits.clone(), namespace.to_owned());
                self.writes.spawn(async move {
                    let _permit = permits.acquire_owned().await;
                    (namespace, write, work.await)
                });
            }
            Due::At(at) => {
                self.timers.insert((at, namespace.to_owned()));
            }
            Due::Tell => {
                place.tell();
                tracing::warn!(%namespace, "a NetworkPolicy named {NAME} is not ours: its functions are not walled in");
                self.tell(namespace, EventType::Warning, "NetworkPolicyNotOurs", NOT_OURS);
            }
            Due::Nothing if place.is_empty() => {
                self.places.remove(namespace);
            }
            Due::Nothing => {}
        }
    }

    fn answered(&mut self, namespace: String, write: &Write, result: Result<(), FleetError>) {
        let place = self.places.entry(namespace.clone()).or_default();
        place.answered(matches!(result, Err(FleetError::Refused(_))), Instant::now());
        match (write, result) {
            (Write::Apply { .. }, Ok(())) if std::mem::take(&mut place.stood) => {
                tracing::warn!(%namespace, "its NetworkPolicy was changed or deleted by somebody; it is as it was again");
                self.tell(&namespace, EventType::Normal, "NetworkPolicyRestored", RESTORED);
            }
            (Write::Apply { .. }, Ok(())) => tracing::info!(%namespace, "only activators reach its functions now"),
            (Write::Remove(_), Ok(())) => {
                place.stood = false;
                tracing::info!(%namespace, "its NetworkPolicy is removed");
            }
            // A namespace that is being deleted takes nothing new.
            (_, Err(FleetError::Refused(why))) if why.contains("it is being terminated") => {
                tracing::debug!(%namespace, %why, "no NetworkPolicy");
            }
            (_, Err(error)) => tracing::warn!(%namespace, ?write, %error, "a NetworkPolicy was not written"),
        }
        self.step(&namespace);
    }

    /// Tells it where people look: an event on the policy.
    fn tell(&self, namespace: &str, type_: EventType, reason: &str, note: &str) {
        let mut about = NetworkPolicy::default();
        (about.metadata.namespace, about.metadata.name) = (Some(namespace.to_owned()), Some(NAME.to_owned()));
        let (about, recorder) = (about.object_ref(&()), self.recorder.clone());
        let (reason, action) = (reason.to_owned(), "Wall".to_owned());
        let event = Event { type_, reason, note: Some(note.to_owned()), action, secondary: None };
        tokio::spawn(async move {
            if let Err(error) = within(NAME, recorder.publish(&event, &about)).await {
                tracing::debug!(%error, "an event was not written");
            }
        });
    }
}

const RESTORED: &str = "It was changed or deleted by somebody else and is as it was again: without it calls could go \
    around the meter. To do without these policies set the chart's value networkPolicy.functions to false.";
const NOT_OURS: &str = "This name is the one that Dormouse needs here, and this policy is not its own: it is left alone, \
    and pods of functions may be reached by others than the activators. Give it another name.";

/// One write, the same when done twice.
async fn carry_out(
    client: Client,
    platform: Option<Arc<Platform>>,
    namespace: String,
    write: Write,
) -> Result<(), FleetError> {
    let api: Api<NetworkPolicy> = Api::namespaced(client, &namespace);
    match (write, platform) {
        (Write::Apply { force }, Some(platform)) => {
            let params = PatchParams { force, ..PatchParams::apply(MANAGER) };
            let wanted = network_policy(&namespace, &platform);
            within(NAME, api.patch(NAME, &params, &Patch::Apply(wanted))).await.map(drop)
        }
        (Write::Apply { .. }, None) => Err(FleetError::Refused("no policies are wanted".into())),
        (Write::Remove(uid), _) => {
            match within(NAME, api.delete(NAME, &of_uid(Some(uid), DeleteParams::default()))).await {
                // Another one of that name: it is told by the watch.
                Ok(_) | Err(FleetError::Gone(_) | FleetError::Conflict(_)) => Ok(()),
                Err(error) => Err(error),
            }
        }
    }
}

/// Ours by its label, or by who wrote it: somebody may have taken the label off.
fn is_ours(found: &NetworkPolicy) -> bool {
    let labelled = found.metadata.labels.as_ref().is_some_and(labels::is_ours);
    labelled || found.managed_fields().iter().any(|f| f.manager.as_deref() == Some(MANAGER))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_policy_is_ours_by_its_label_or_its_writer() {
        let policy = |meta: serde_json::Value| serde_json::from_value(json!({ "metadata": meta })).unwrap();
        assert!(is_ours(&policy(json!({"labels": {"app.kubernetes.io/managed-by": "dormouse"}}))));
        assert!(is_ours(&policy(json!({"managedFields": [{"manager": "kubectl"}, {"manager": MANAGER}]}))));
        assert!(!is_ours(&policy(json!({"labels": {"app.kubernetes.io/managed-by": "Helm"}}))));
        assert!(!is_ours(&policy(json!({"managedFields": [{"manager": "kubectl"}]}))));
    }
}
