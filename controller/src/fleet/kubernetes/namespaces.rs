//! Watches Namespace objects, their metadata only: a label on them says who pays for what runs in them.
//!
//! What was last known stays while the watch is broken; a namespace that a new list does not have is asked for by name
//! before it is forgotten.

use super::watch::{Port, is_gone};
use crate::fleet::Event;
use crate::tenants::Tenants;
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Namespace;
use kube::core::PartialObjectMeta;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use std::collections::{HashMap, HashSet};

type Seen = PartialObjectMeta<Namespace>;

/// Watches all namespaces, or the one of that name.
pub(super) async fn watch(client: Client, only: Option<String>, tenants: Tenants, port: Port) {
    let config = only.map_or_else(watcher::Config::default, |name| {
        watcher::Config::default().fields(&format!("metadata.name={name}"))
    });
    let names = Api::<Seen>::all(client);
    let stream = watcher(names.clone(), config);
    Follower { names, tenants, port, uids: HashMap::new(), listing: None, complete: false }.run(stream).await;
}

struct Follower {
    names: Api<Seen>,
    tenants: Tenants,
    port: Port,
    /// Uids by name: one of the same name may be another one.
    uids: HashMap<String, String>,
    /// Names in the list that is being read.
    listing: Option<HashSet<String>>,
    /// True once a whole list was read.
    complete: bool,
}

impl Follower {
    async fn run(mut self, stream: impl Stream<Item = watcher::Result<watcher::Event<Seen>>> + Send) {
        let mut stream = std::pin::pin!(stream.default_backoff());
        while let Some(event) = stream.next().await {
            match event {
                Ok(watcher::Event::Init) => self.listing = Some(HashSet::new()),
                Ok(watcher::Event::InitApply(namespace) | watcher::Event::Apply(namespace)) => {
                    self.seen(&namespace).await;
                }
                Ok(watcher::Event::Delete(namespace)) => self.gone(&namespace.name_any()),
                Ok(watcher::Event::InitDone) => self.listed().await,
                Err(error) => {
                    let unknown = if self.complete {
                        ""
                    } else {
                        ": nothing is routed before they are known (the ClusterRole dormouse-controller-cluster gives the right)"
                    };
                    tracing::warn!(%error, "the watch of namespaces broke; it begins anew{unknown}");
                    self.port.broke::<Namespace>();
                }
            }
        }
    }

    async fn seen(&mut self, namespace: &Seen) {
        let name = namespace.name_any();
        if let Some(listing) = &mut self.listing {
            listing.insert(name.clone());
        }
        self.uids.insert(name.clone(), namespace.uid().unwrap_or_default());
        // Before the first list is whole nothing is planned by it.
        if self.tenants.see(&name, namespace.metadata.labels.as_ref()) && self.complete {
            self.port.send(Event::Tenant { namespace: name }).await;
        }
    }

    fn gone(&mut self, name: &str) {
        self.uids.remove(name);
        self.tenants.forget(name);
    }

    async fn listed(&mut self) {
        let listing = self.listing.take().unwrap_or_default();
        let missing: Vec<String> = self.uids.keys().filter(|name| !listing.contains(*name)).cloned().collect();
        for name in missing {
            let uid = self.uids.get(&name).cloned().unwrap_or_default();
            if is_gone(&self.names, &name, &uid).await {
                self.gone(&name);
            }
        }
        if !self.complete {
            self.complete = true;
            self.tenants.complete();
            self.port.listed().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::wall::Wall;
    use super::*;
    use crate::tenants::LABEL;
    use serde_json::json;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use tokio::sync::mpsc;
    use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};

    fn namespace(name: &str, tenant: Option<&str>) -> Seen {
        let labels = tenant.map(|tenant| json!({LABEL: tenant})).unwrap_or_default();
        serde_json::from_value(json!({"metadata": {"name": name, "uid": name, "labels": labels}})).unwrap()
    }

    /// What is told of these events, by a follower whose API server is away; and what is known then.
    async fn told(events: Vec<watcher::Event<Seen>>) -> (Vec<String>, Tenants) {
        let (sender, mut told) = mpsc::channel(16);
        let missing = Arc::new(AtomicUsize::new(1));
        let port = Port { sender, missing, restarts: Default::default(), wall: Wall::none(), codes: None };
        let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
        let (names, tenants) = (Api::all(Client::try_from(config).unwrap()), Tenants::labelled());
        let follower =
            Follower { names, tenants: tenants.clone(), port, uids: HashMap::new(), listing: None, complete: false };
        follower.run(futures::stream::iter(events.into_iter().map(Ok))).await;
        let mut seen = Vec::new();
        while let Some(event) = told.recv().await {
            seen.push(match event {
                Event::Tenant { namespace } => namespace,
                Event::Synced => "synced".to_owned(),
                other => panic!("{other:?}"),
            });
        }
        (seen, tenants)
    }

    #[tokio::test]
    async fn the_first_list_is_told_as_a_whole_and_then_what_changes() {
        let events = vec![
            Init,
            InitApply(namespace("a", Some("team"))),
            InitApply(namespace("b", None)),
            InitDone,
            Apply(namespace("b", None)),
            Apply(namespace("a", Some("other"))),
            Delete(namespace("b", None)),
        ];
        let (seen, tenants) = told(events).await;
        assert_eq!(seen, ["synced", "a"]);
        assert_eq!((tenants.of("a").as_deref(), tenants.of("b")), (Some("other"), None));
    }

    #[tokio::test]
    async fn an_empty_list_alone_forgets_nobody() {
        let (seen, tenants) = told(vec![Init, InitApply(namespace("a", Some("t"))), InitDone, Init, InitDone]).await;
        assert_eq!(seen, ["synced"]);
        assert_eq!(tenants.of("a").as_deref(), Some("t"));
    }
}
