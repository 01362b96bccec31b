//! Watches become one stream of events.
//!
//! A watch that breaks lists again. What the new list does not have is asked for by name before it is told as gone: an
//! API server that answers an empty list after an outage must not take everything down.

use super::codes::Codes;
use super::gate::{self, Gate, Place};
use super::instance;
use super::wall::Wall;
use crate::fleet::{Code, Event, FunctionUid, InstanceId, PoolKey, Trouble, Workload};
use crate::labels;
use dormouse_core::WarmPool;
use dormouse_core::function::Function;
use dormouse_core::revision::Revision;
use futures::{Stream, StreamExt};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use serde::de::DeserializeOwned;
use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

/// Longest wait for the answer whether an object is really gone.
const CONFIRM: Duration = Duration::from_secs(10);

/// Where events go.
#[derive(Clone)]
pub(super) struct Port {
    pub(super) sender: mpsc::Sender<Event>,
    /// Watches that have not listed yet.
    pub(super) missing: Arc<AtomicUsize>,
    pub(super) restarts: Restarts,
    /// Who has to know which namespaces are in use.
    pub(super) wall: Wall,
    /// Who finds the code of Functions, where that is looked for.
    pub(super) codes: Option<Codes>,
}

/// Counts watches that broke.
pub(super) type Restarts = Family<OfKind, Counter>;

/// Kind of the objects that are watched.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfKind {
    kind: String,
}

impl Port {
    /// Tells an event; a Function with its code.
    pub(super) async fn send(&self, event: Event) {
        let event = match (&self.codes, event) {
            (Some(codes), Event::Function(function)) => return codes.tell(function, self).await,
            (Some(codes), Event::FunctionGone(uid)) => {
                codes.forget(&uid).await;
                Event::FunctionGone(uid)
            }
            (_, event) => event,
        };
        self.send_as_is(event).await;
    }

    /// Nobody receives only when the controller ends.
    pub(super) async fn send_as_is(&self, event: Event) {
        let _ = self.sender.send(event).await;
    }

    pub(super) async fn listed(&self) {
        if self.missing.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.wall.complete().await;
            self.send(Event::Synced).await;
        }
    }

    /// The watch of a kind broke.
    pub(super) fn broke<K: Resource<DynamicType = ()>>(&self) {
        self.restarts.get_or_create(&OfKind { kind: K::kind(&()).into_owned() }).inc();
    }
}

/// An object that becomes events.
pub(super) trait Seen:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Send + 'static
{
    /// What is told when it is there.
    fn seen(self) -> Option<Event>;
    /// What is told when it is gone.
    fn gone(&self) -> Option<Event>;
    /// Tells the gate that it is there.
    fn show(&self, _: &Gate) {}
    /// How the gate knows it.
    fn place(&self) -> Option<Place> {
        None
    }
}

impl Seen for Pod {
    /// One at the gate is no instance: it may be taken back before anybody starts it.
    fn seen(self) -> Option<Event> {
        if gate::is_waiting(&self) {
            return None;
        }
        if let Some(instance) = instance::read(&self) {
            return Some(Event::Instance(instance));
        }
        labels::pool(self.metadata.labels.as_ref())?;
        match instance::parked(&self) {
            Some(parked) => Some(Event::Parked(parked)),
            None => self.uid().map(|uid| Event::Unparked(InstanceId::from(uid))),
        }
    }

    fn show(&self, gate: &Gate) {
        gate.pod(self);
    }

    fn place(&self) -> Option<Place> {
        Some(Place::Pod(labels::owner(self.metadata.labels.as_ref())?, InstanceId::from(self.uid()?)))
    }

    fn gone(&self) -> Option<Event> {
        self.uid().map(|uid| Event::InstanceGone(InstanceId::from(uid)))
    }
}

impl Seen for Deployment {
    fn show(&self, gate: &Gate) {
        if let Some(key) = labels::owner(self.metadata.labels.as_ref()) {
            gate.deployment(key, replicas(self));
        }
    }

    fn place(&self) -> Option<Place> {
        labels::owner(self.metadata.labels.as_ref()).map(Place::Deployment)
    }

    fn seen(self) -> Option<Event> {
        if let Some(pool) = pool_of(&self) {
            if self.metadata.deletion_timestamp.is_some() {
                return Some(Event::PoolWorkloadGone(pool));
            }
            return Some(Event::PoolWorkload { pool, replicas: replicas(&self), trouble: refused(&self) });
        }
        let (function, revision) = labels::owner(self.metadata.labels.as_ref())?;
        if self.metadata.deletion_timestamp.is_some() {
            return Some(Event::WorkloadGone(function, revision));
        }
        Some(Event::Workload(Workload { function, revision, replicas: replicas(&self), trouble: refused(&self) }))
    }

    fn gone(&self) -> Option<Event> {
        if let Some(pool) = pool_of(self) {
            return Some(Event::PoolWorkloadGone(pool));
        }
        let (function, revision): (FunctionUid, Revision) = labels::owner(self.metadata.labels.as_ref())?;
        Some(Event::WorkloadGone(function, revision))
    }
}

fn pool_of(deployment: &Deployment) -> Option<PoolKey> {
    let name = labels::pool(deployment.metadata.labels.as_ref())?.to_owned();
    Some(PoolKey { namespace: deployment.namespace()?, name })
}

fn replicas(deployment: &Deployment) -> u32 {
    u32::try_from(deployment.spec.replicas.unwrap_or(1)).unwrap_or(0)
}

/// Why a Deployment cannot make pods, as its ReplicaSet told it.
fn refused(deployment: &Deployment) -> Option<Trouble> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    let is_failure =
        |type_: Option<&str>, status: Option<&str>| type_ == Some("ReplicaFailure") && status == Some("True");
    let condition = conditions.iter().find(|c| is_failure(c.type_.as_deref(), c.status.as_deref()))?;
    let message = condition.message.clone().unwrap_or_default();
    let code = if message.contains("exceeded quota") { Code::QuotaExceeded } else { Code::AdmissionRefused };
    Some(Trouble::new(code, message))
}

/// An object that somebody wrote. One that cannot be read (written by another version) is said in the log and skipped: it
/// must not stop the others.
fn readable<K: Resource<DynamicType = ()>>(object: DeserializeGuard<K>) -> Option<Arc<K>> {
    match object.0 {
        Ok(object) => Some(Arc::new(object)),
        Err(error) => {
            let (namespace, name) = (error.metadata.namespace.as_deref(), error.metadata.name.as_deref());
            tracing::error!(namespace, name, %error, "a {} cannot be read and is left as it is", K::kind(&()));
            None
        }
    }
}

impl Seen for DeserializeGuard<Function> {
    fn seen(self) -> Option<Event> {
        readable(self).map(Event::Function)
    }

    fn gone(&self) -> Option<Event> {
        self.uid().map(|uid| Event::FunctionGone(FunctionUid::from(uid)))
    }
}

impl Seen for DeserializeGuard<WarmPool> {
    fn seen(self) -> Option<Event> {
        readable(self).map(Event::Pool)
    }

    fn gone(&self) -> Option<Event> {
        Some(Event::PoolGone(PoolKey { namespace: self.namespace()?, name: self.name_any() }, self.uid()?))
    }
}

/// Watches what we made.
pub(super) async fn owned<K: Seen>(api: Api<K>, client: Client, port: Port, gate: Gate) {
    let config = watcher::Config::default().labels(labels::OURS);
    Follower::<K>::new(client, port, gate).run(watcher(api, config)).await;
}

/// Watches what others write: Functions, warm pools.
pub(super) async fn written<K: Seen>(api: Api<K>, client: Client, port: Port, gate: Gate) {
    Follower::<K>::new(client, port, gate).run(watcher(api, watcher::Config::default())).await;
}

/// An object that was told.
struct Told {
    namespace: String,
    name: String,
    /// What is told when it is gone.
    gone: Event,
    /// How the gate knows it.
    place: Option<Place>,
}

/// One watch.
struct Follower<K> {
    client: Client,
    port: Port,
    gate: Gate,
    /// What was told, by uid.
    told: HashMap<String, Told>,
    kind: PhantomData<fn() -> K>,
    /// Uids in the list that is being read; `None` between lists.
    listing: Option<HashSet<String>>,
    /// True once a whole list was read.
    complete: bool,
}

impl<K: Seen> Follower<K> {
    fn new(client: Client, port: Port, gate: Gate) -> Self {
        Self { client, port, gate, told: HashMap::new(), kind: PhantomData, listing: None, complete: false }
    }

    async fn run(mut self, stream: impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send) {
        let mut stream = std::pin::pin!(stream.default_backoff());
        while let Some(event) = stream.next().await {
            match event {
                Ok(watcher::Event::Apply(object)) => self.seen(object).await,
                Ok(watcher::Event::Delete(object)) => {
                    if let Some(uid) = object.uid() {
                        self.gone(&uid).await;
                    }
                }
                Ok(watcher::Event::Init) => self.listing = Some(HashSet::new()),
                Ok(watcher::Event::InitApply(object)) => {
                    if let (Some(listing), Some(uid)) = (&mut self.listing, object.uid()) {
                        listing.insert(uid);
                    }
                    self.seen(object).await;
                }
                Ok(watcher::Event::InitDone) => self.listed().await,
                Err(error) => {
                    let kind = K::kind(&());
                    tracing::warn!(%kind, %error, "a watch broke; it begins anew");
                    self.port.broke::<K>();
                }
            }
        }
    }

    async fn seen(&mut self, mut object: K) {
        let meta = object.meta_mut();
        meta.managed_fields = None;
        let (namespace, name) = (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
        if let (Some(uid), Some(gone)) = (object.uid(), object.gone()) {
            if !self.told.contains_key(&uid) {
                self.port.wall.more(&namespace).await;
            }
            self.told.insert(uid, Told { namespace, name, gone, place: object.place() });
        }
        object.show(&self.gate);
        if let Some(event) = object.seen() {
            self.port.send(event).await;
        }
    }

    async fn gone(&mut self, uid: &str) {
        let Some(Told { gone, place, namespace, .. }) = self.told.remove(uid) else { return };
        self.port.wall.fewer(&namespace).await;
        if let Some(place) = place {
            self.gate.hide(place);
        }
        self.port.send(gone).await;
    }

    async fn listed(&mut self) {
        let listing = self.listing.take().unwrap_or_default();
        let missing: Vec<String> = self.told.keys().filter(|uid| !listing.contains(*uid)).cloned().collect();
        for uid in missing {
            if self.is_gone(&uid).await {
                self.gone(&uid).await;
            }
        }
        if !self.complete {
            self.complete = true;
            self.port.listed().await;
        }
    }

    /// Whether an object that a list does not have is really gone. No answer means no.
    async fn is_gone(&self, uid: &str) -> bool {
        let Some(told) = self.told.get(uid) else { return false };
        let api: Api<PartialObjectMeta<K>> = Api::namespaced(self.client.clone(), &told.namespace);
        is_gone(&api, &told.name, uid).await
    }
}

/// Whether an object is certainly gone. No answer means no.
pub(super) async fn is_gone<K>(api: &Api<PartialObjectMeta<K>>, name: &str, uid: &str) -> bool
where
    K: Resource<DynamicType = ()> + Clone + Debug,
{
    match tokio::time::timeout(CONFIRM, api.get_metadata_opt(name)).await {
        Ok(Ok(None)) => true,
        Ok(Ok(Some(object))) => object.uid().as_deref() != Some(uid),
        Ok(Err(_)) | Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment(status: serde_json::Value) -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"name": "hello-abc", "namespace": "default", "uid": "d", "labels":
                {"dormouse.dev/function-uid": "f", "dormouse.dev/revision": "abc"}},
            "spec": {"replicas": 2, "selector": {}, "template": {}},
            "status": status
        }))
        .unwrap()
    }

    #[test]
    fn a_deployment_says_why_it_has_no_pods() {
        let failure = |message: &str| json!({"conditions": [{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message}]});
        let code = |status| match deployment(status).seen() {
            Some(Event::Workload(w)) => (w.replicas, w.trouble.map(|t| t.code)),
            other => panic!("{other:?}"),
        };
        assert_eq!(code(json!({})), (2, None));
        assert_eq!(code(failure("pods \"x\" is forbidden: exceeded quota: q")), (2, Some(Code::QuotaExceeded)));
        assert_eq!(code(failure("violates PodSecurity")), (2, Some(Code::AdmissionRefused)));
    }
}
