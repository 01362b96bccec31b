//! Watches the activators' own pods. An activator that cannot be heard may still serve, so what it runs counts on; one
//! whose process has ended serves nobody, and only Kubernetes can tell the two apart.

use super::watch::is_gone;
use crate::fleet::Event;
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::core::PartialObjectMeta;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use std::collections::{BTreeMap, HashMap, HashSet};
use tokio::sync::mpsc;

/// Name of the container that an activator runs in; others of its pod (a mesh's, say) may come and go.
pub const CONTAINER: &str = "activator";

/// Name of the volume that an activator's spool is on.
const SPOOL: &str = "spool";

/// Watches the pods that have these labels in a namespace.
pub(super) async fn watch(
    client: Client,
    namespace: String,
    labels: BTreeMap<String, String>,
    events: mpsc::Sender<Event>,
) {
    let selector: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let config = watcher::Config::default().labels(&selector.join(","));
    let stream = watcher(Api::<Pod>::namespaced(client.clone(), &namespace), config);
    let names = Api::namespaced(client, &namespace);
    Follower { names, events, pods: HashMap::new(), listing: None }.run(stream).await;
}

/// A pod that was seen: all that is kept of it.
#[derive(Debug)]
struct Known {
    name: String,
    ended: u32,
    /// Its spool outlives it.
    keeps: bool,
}

struct Follower {
    names: Api<PartialObjectMeta<Pod>>,
    events: mpsc::Sender<Event>,
    /// By uid.
    pods: HashMap<String, Known>,
    /// Uids in the list that is being read.
    listing: Option<HashSet<String>>,
}

impl Follower {
    async fn run(mut self, stream: impl Stream<Item = watcher::Result<watcher::Event<Pod>>> + Send) {
        let mut stream = std::pin::pin!(stream.default_backoff());
        while let Some(event) = stream.next().await {
            match event {
                Ok(watcher::Event::Init) => self.listing = Some(HashSet::new()),
                Ok(watcher::Event::InitApply(pod) | watcher::Event::Apply(pod)) => self.seen(&pod).await,
                Ok(watcher::Event::Delete(pod)) => self.gone(&pod.uid().unwrap_or_default()).await,
                Ok(watcher::Event::InitDone) => self.listed().await,
                Err(error) => tracing::warn!(kind = "activators' pods", %error, "a watch broke; it begins anew"),
            }
        }
    }

    async fn seen(&mut self, pod: &Pod) {
        let Some(uid) = pod.uid() else { return };
        if let Some(listing) = &mut self.listing {
            listing.insert(uid.clone());
        }
        let now = Known { name: pod.name_any(), ended: ended(pod), keeps: keeps_spool(pod) };
        let (name, count) = (now.name.clone(), now.ended);
        // One that has failed as a whole is never started anew.
        let lost = count == u32::MAX && !now.keeps;
        // Of one that is seen for the first time nothing was heard by this controller that could count too long.
        if self.pods.insert(uid, now).is_some_and(|before| count > before.ended) {
            self.tell(name, lost).await;
        }
    }

    async fn gone(&mut self, uid: &str) {
        if let Some(Known { name, keeps, .. }) = self.pods.remove(uid) {
            self.tell(name, !keeps).await;
        }
    }

    async fn listed(&mut self) {
        let listing = self.listing.take().unwrap_or_default();
        let missing: Vec<String> = self.pods.keys().filter(|uid| !listing.contains(*uid)).cloned().collect();
        for uid in missing {
            let Some(name) = self.pods.get(&uid).map(|known| known.name.clone()) else { continue };
            if is_gone(&self.names, &name, &uid).await {
                self.gone(&uid).await;
            }
        }
    }

    async fn tell(&self, name: String, lost: bool) {
        // Nobody receives only when the controller ends.
        let _ = self.events.send(Event::ActivatorGone { name, lost }).await;
    }
}

/// Whether the spool is on a volume that outlives the pod: any that is not made with it.
fn keeps_spool(pod: &Pod) -> bool {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.into_iter().any(|volume| volume.name == SPOOL && volume.empty_dir.is_none())
}

/// How many processes of the activator have ended in this pod: it only grows.
fn ended(pod: &Pod) -> u32 {
    let Some(status) = &pod.status else { return 0 };
    if matches!(status.phase.as_deref(), Some("Failed" | "Succeeded")) {
        return u32::MAX;
    }
    let all = status.container_statuses.as_deref().unwrap_or_default();
    all.iter().find(|container| container.name == CONTAINER).map_or(0, of_container)
}

/// While a container waits to be started anew its number of restarts is that of the process before.
fn of_container(container: &ContainerStatus) -> u32 {
    let restarts = u32::try_from(container.restart_count).unwrap_or(0);
    let is_over = container.state.as_ref().is_some_and(|s| s.terminated.is_some() || s.waiting.is_some());
    let was_over = [&container.state, &container.last_state].into_iter().flatten().any(|s| s.terminated.is_some());
    restarts.saturating_add(u32::from(is_over && was_over))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(uid: &str, phase: &str, restarts: i32, state: Value, last: Value) -> Pod {
        let other = json!({"name": "mesh", "restartCount": 9, "ready": true, "image": "", "imageID": "",
            "state": {"terminated": {"exitCode": 1}}});
        let ours = json!({"name": "activator", "restartCount": restarts, "ready": true, "image": "", "imageID": "",
            "state": state, "lastState": last});
        serde_json::from_value(json!({
            "metadata": {"name": format!("pod-{uid}"), "namespace": "system", "uid": uid},
            "status": {"phase": phase, "containerStatuses": [other, ours]}
        }))
        .unwrap()
    }

    #[test]
    fn ends_are_counted_through_a_crash_loop() {
        let over = || json!({"terminated": {"exitCode": 137}});
        let life = [
            (0, json!({"waiting": {"reason": "ContainerCreating"}}), json!({}), 0),
            (0, json!({"running": {}}), json!({}), 0),
            (0, over(), json!({}), 1),
            (1, json!({"running": {}}), over(), 1),
            (1, over(), over(), 2),
            (1, json!({"waiting": {"reason": "CrashLoopBackOff"}}), over(), 2),
            (2, json!({"running": {}}), over(), 2),
        ];
        for (restarts, state, last, count) in life {
            let text = format!("{restarts} {state}");
            assert_eq!(ended(&pod("a", "Running", restarts, state, last)), count, "{text}");
        }
        assert_eq!(ended(&pod("a", "Failed", 0, json!({}), json!({}))), u32::MAX);
        assert_eq!(ended(&Pod::default()), 0);
    }

    /// A client that reaches nobody: what a list does not have cannot be confirmed as gone.
    fn follower() -> (Follower, mpsc::Receiver<Event>) {
        let (events, told) = mpsc::channel(16);
        let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
        let names = Api::namespaced(Client::try_from(config).unwrap(), "system");
        (Follower { names, events, pods: HashMap::new(), listing: None }, told)
    }

    async fn told(events: Vec<watcher::Event<Pod>>) -> Vec<String> {
        let (follower, mut told) = follower();
        follower.run(futures::stream::iter(events.into_iter().map(Ok))).await;
        let mut names = Vec::new();
        while let Some(event) = told.recv().await {
            match event {
                Event::ActivatorGone { name, lost } => names.push(if lost { format!("{name} lost") } else { name }),
                other => panic!("{other:?}"),
            }
        }
        names
    }

    #[tokio::test]
    async fn an_end_is_told_once() {
        use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
        let running = |uid: &str, restarts| pod(uid, "Running", restarts, json!({"running": {}}), json!({}));
        let over = |uid: &str| pod(uid, "Running", 0, json!({"terminated": {"exitCode": 137}}), json!({}));
        // Found at the start: what it did before is nobody's business.
        assert_eq!(told(vec![Init, InitApply(running("a", 3)), InitDone]).await, Vec::<String>::new());
        let crashed = vec![Apply(running("a", 0)), Apply(over("a")), Apply(over("a")), Apply(running("a", 1))];
        assert_eq!(told(crashed).await, ["pod-a"]);
        let restarted = vec![Apply(running("a", 0)), Apply(running("a", 1)), Apply(running("a", 1))];
        assert_eq!(told(restarted).await, ["pod-a"]);
        let deleted = vec![Apply(running("a", 0)), Apply(running("b", 0)), Delete(running("b", 0))];
        assert_eq!(told(deleted).await, ["pod-b lost"]);
        let on = |volume: Value| {
            let mut pod = running("c", 0);
            pod.spec = serde_json::from_value(json!({"containers": [], "volumes": [volume]})).unwrap();
            vec![Apply(pod.clone()), Delete(pod)]
        };
        assert_eq!(told(on(json!({"name": "spool", "emptyDir": {}}))).await, ["pod-c lost"]);
        let claim = json!({"name": "spool", "persistentVolumeClaim": {"claimName": "x"}});
        assert_eq!(told(on(claim)).await, ["pod-c"], "its volume is kept");
        // Over first, then its object.
        let failed = pod("a", "Failed", 0, json!({}), json!({}));
        assert_eq!(told(vec![Apply(running("a", 0)), Apply(failed.clone()), Delete(failed)]).await.len(), 2);
    }

    #[tokio::test]
    async fn an_empty_list_alone_ends_nobody() {
        use watcher::Event::{Apply, Init, InitDone};
        let running = pod("a", "Running", 0, json!({"running": {}}), json!({}));
        assert_eq!(told(vec![Apply(running), Init, InitDone]).await, Vec::<String>::new());
    }
}
