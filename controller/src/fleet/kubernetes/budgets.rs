//! Watches Budgets, which belong to no namespace.
//!
//! A budget that a new list does not have is asked for by name before it is told as gone: an API server that answers an
//! empty list after an outage must not let everybody spend.

use super::watch::is_gone;
use crate::budgets::BudgetEvent;
use dormouse_core::Budget;
use futures::{Stream, StreamExt};
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use tokio::sync::mpsc;

type Seen = DeserializeGuard<Budget>;

/// Watches all budgets. Where the kind is not installed there are none.
pub(super) async fn watch(client: Client, events: mpsc::Sender<BudgetEvent>) {
    let stream = watcher(Api::<Seen>::all(client.clone()), watcher::Config::default());
    Follower { names: Api::all(client), events, uids: HashMap::new(), listing: None, complete: false }
        .run(stream)
        .await;
}

struct Follower {
    names: Api<PartialObjectMeta<Budget>>,
    events: mpsc::Sender<BudgetEvent>,
    /// Uids by name.
    uids: HashMap<String, String>,
    /// Names in the list that is being read.
    listing: Option<HashSet<String>>,
    complete: bool,
}

impl Follower {
    async fn run(mut self, stream: impl Stream<Item = watcher::Result<watcher::Event<Seen>>> + Send) {
        let mut stream = std::pin::pin!(stream.default_backoff());
        while let Some(event) = stream.next().await {
            match event {
                Ok(watcher::Event::Init) => self.listing = Some(HashSet::new()),
                Ok(watcher::Event::InitApply(budget) | watcher::Event::Apply(budget)) => self.seen(budget).await,
                Ok(watcher::Event::Delete(budget)) => self.gone(&budget.name_any()).await,
                Ok(watcher::Event::InitDone) => self.listed().await,
                Err(error) if is_unknown(&error) => {
                    if !self.complete {
                        tracing::warn!("the cluster does not know Budgets: nobody has one until it does");
                    }
                    self.complete().await;
                }
                Err(error) => {
                    let unknown = if self.complete {
                        ""
                    } else {
                        ": no call is served before they are known (the ClusterRole dormouse-controller-cluster gives the right)"
                    };
                    tracing::warn!(%error, "the watch of budgets broke; it begins anew{unknown}");
                }
            }
        }
    }

    async fn seen(&mut self, budget: Seen) {
        let name = budget.name_any();
        if let Some(listing) = &mut self.listing {
            listing.insert(name.clone());
        }
        match budget.0 {
            Ok(mut budget) => {
                budget.metadata.managed_fields = None;
                self.uids.insert(name, budget.uid().unwrap_or_default());
                self.tell(BudgetEvent::There(Arc::new(budget))).await;
            }
            // What was known of it goes on to hold.
            Err(error) => tracing::error!(budget = name, %error, "a Budget cannot be read and is left as it is"),
        }
    }

    async fn gone(&mut self, name: &str) {
        if self.uids.remove(name).is_some() {
            self.tell(BudgetEvent::Gone(name.to_owned())).await;
        }
    }

    async fn listed(&mut self) {
        let listing = self.listing.take().unwrap_or_default();
        let missing: Vec<String> = self.uids.keys().filter(|name| !listing.contains(*name)).cloned().collect();
        for name in missing {
            let uid = self.uids.get(&name).cloned().unwrap_or_default();
            if is_gone(&self.names, &name, &uid).await {
                self.gone(&name).await;
            }
        }
        self.complete().await;
    }

    async fn complete(&mut self) {
        if !std::mem::replace(&mut self.complete, true) {
            self.tell(BudgetEvent::Synced).await;
        }
    }

    async fn tell(&self, event: BudgetEvent) {
        // Nobody receives only when the controller ends.
        let _ = self.events.send(event).await;
    }
}

/// The API server has no such kind.
fn is_unknown(error: &watcher::Error) -> bool {
    let (watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error)) = error else {
        return false;
    };
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};

    fn budget(name: &str, amount: &str) -> Seen {
        serde_json::from_value(json!({
            "apiVersion": "dormouse.dev/v1alpha1", "kind": "Budget",
            "metadata": {"name": name, "uid": name}, "spec": {"amount": amount},
        }))
        .unwrap()
    }

    fn not_found() -> watcher::Error {
        watcher::Error::InitialListFailed(kube::Error::Api(Box::new(
            kube::core::Status::failure("no such kind", "NotFound").with_code(404),
        )))
    }

    /// What is told of these events, by a follower whose API server is away.
    async fn told(events: Vec<watcher::Result<watcher::Event<Seen>>>) -> Vec<String> {
        let (sender, mut told) = mpsc::channel(16);
        let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
        let names = Api::all(Client::try_from(config).unwrap());
        let follower = Follower { names, events: sender, uids: HashMap::new(), listing: None, complete: false };
        follower.run(futures::stream::iter(events)).await;
        let mut seen = Vec::new();
        while let Some(event) = told.recv().await {
            seen.push(match event {
                BudgetEvent::There(budget) => {
                    format!("{} {}", budget.name_any(), budget.spec.amount.clone().unwrap_or_default())
                }
                BudgetEvent::Gone(name) => format!("{name} gone"),
                BudgetEvent::Synced => "synced".to_owned(),
            });
        }
        seen
    }

    #[tokio::test]
    async fn the_first_list_is_told_and_then_what_changes() {
        let events = [Init, InitApply(budget("a", "1")), InitDone, Apply(budget("a", "2")), Delete(budget("a", "2"))];
        assert_eq!(told(events.map(Ok).into()).await, ["a 1", "synced", "a 2", "a gone"]);
    }

    #[tokio::test]
    async fn an_empty_list_alone_takes_no_budget_away_and_an_unknown_kind_is_none() {
        let events = [Init, InitApply(budget("a", "1")), InitDone, Init, InitDone];
        assert_eq!(told(events.map(Ok).into()).await, ["a 1", "synced"]);
        assert_eq!(told(vec![Err(not_found()), Err(not_found())]).await, ["synced"]);
    }
}
