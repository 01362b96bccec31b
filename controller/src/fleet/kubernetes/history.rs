//! What is kept of a function's revisions, so that one can go back to them ([`dormouse_core::history`]).

use super::effects::{of_uid, within};
use super::{Kubernetes, MANAGER};
use crate::fleet::{FleetError, Target};
use crate::labels;
use crate::reconcile::build::{deployment, revision};
use dormouse_core::function::Function;
use dormouse_core::history::{self, Entry};
use dormouse_core::revision::Revision;
use k8s_openapi::api::apps::v1::{ControllerRevision, Deployment};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use std::collections::HashSet;

/// Most objects of one answer; a function has at most [`history::KEPT`] and two live ones, and one that is being made.
const PAGE: u32 = 100;

impl Kubernetes {
    /// Keeps the revision that comes into use, as the newest, and lets go of those that are too many.
    pub(super) async fn keep_revision(&self, function: &Function, target: &Target) -> Result<(), FleetError> {
        let api: Api<ControllerRevision> = self.in_namespace(&target.key.namespace);
        let ours = ListParams::default().labels(&format!("{}={}", labels::FUNCTION_UID, target.uid)).limit(PAGE);
        let name = deployment::name(target);
        let found = within(&name, api.list(&ours)).await?.items;
        let mut kept: Vec<Entry> = found.iter().filter_map(revision::entry).collect();
        if let Some(number) = history::number(&kept, target.revision.as_str()) {
            put(&api, &revision::controller_revision(function, target, number)).await?;
            kept.retain(|entry| entry.revision != target.revision.as_str());
            kept.push(Entry { revision: target.revision.to_string(), number });
        }
        if kept.len() > history::KEPT {
            let deployments: Api<Deployment> = self.in_namespace(&target.key.namespace);
            let carried = within(&name, deployments.list_metadata(&ours)).await?;
            let carried = carried.items.iter().filter_map(|d| labels::owner(d.metadata.labels.as_ref()));
            let mut live: HashSet<String> = carried.map(|(_, revision)| revision.to_string()).collect();
            live.insert(target.revision.to_string());
            for revision in history::surplus(&kept, &live) {
                let gone = found.iter().filter(|f| revision::entry(f).is_some_and(|e| e.revision == revision));
                for old in gone {
                    let params = of_uid(old.uid(), DeleteParams::background());
                    match within(&old.name_any(), api.delete(&old.name_any(), &params)).await {
                        // Gone, or another of that name by now.
                        Ok(_) | Err(FleetError::Gone(_) | FleetError::Conflict(_)) => {}
                        Err(error) => return Err(error),
                    }
                }
                kept.retain(|entry| entry.revision != revision);
            }
            let copies: Api<ConfigMap> = self.in_namespace(&target.key.namespace);
            let copies = within(&name, copies.list_metadata(&ours)).await?;
            let copies = copies.items.iter().filter_map(|c| labels::owner(c.metadata.labels.as_ref()));
            for (_, revision) in copies.filter(|(_, revision)| !is_needed(revision, &kept, &live)) {
                self.remove_code(&Target { revision, ..target.clone() }).await?;
            }
        }
        Ok(())
    }

    /// Whether one can go back to a revision.
    pub(super) async fn is_kept(&self, target: &Target) -> Result<bool, FleetError> {
        let api: Api<ControllerRevision> = self.in_namespace(&target.key.namespace);
        let name = deployment::name(target);
        let found = within(&name, api.get_metadata_opt(&name)).await?;
        Ok(found.is_some_and(|f| labels::owner(f.metadata.labels.as_ref()).is_some_and(|(uid, _)| uid == target.uid)))
    }
}

/// Whether a revision's code is needed: one can go back to it, or it is live. What a rollback has named meanwhile is looked
/// at when it is removed; once nothing names it any more it goes with the next that are too many.
fn is_needed(revision: &Revision, kept: &[Entry], live: &HashSet<String>) -> bool {
    live.contains(revision.as_str()) || kept.iter().any(|entry| entry.revision == revision.as_str())
}

/// Makes it, or gives the one that is there its new place in the order: what it holds never changes.
async fn put(api: &Api<ControllerRevision>, wanted: &ControllerRevision) -> Result<(), FleetError> {
    let name = wanted.name_any();
    let params = PostParams { field_manager: Some(MANAGER.into()), dry_run: false };
    match within(&name, api.create(&params, wanted)).await {
        Err(FleetError::Conflict(_)) => {}
        made => return made.map(drop),
    }
    let Some(found) = within(&name, api.get_opt(&name)).await? else { return Err(FleetError::Conflict(name)) };
    let owner = |of: &ControllerRevision| labels::owner(of.metadata.labels.as_ref());
    match owner(&found) {
        same if same == owner(wanted) => {}
        // Of a function of that name that is gone: it goes, too.
        Some(_) => {
            within(&name, api.delete(&name, &of_uid(found.uid(), DeleteParams::background()))).await?;
            return within(&name, api.create(&params, wanted)).await.map(drop);
        }
        None => {
            let why = format!("a ControllerRevision named {name} exists and is not ours: rename one");
            return Err(FleetError::Refused(why));
        }
    }
    let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
    let body = json!({"metadata": {"uid": found.uid()}, "revision": wanted.revision});
    within(&name, api.patch(&name, &params, &Patch::Merge(body))).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_needed_by_what_is_kept_or_live() {
        let kept = [Entry { revision: "kept".into(), number: 1 }];
        let live = HashSet::from(["live".to_owned()]);
        let needed = ["kept", "live", "old"].map(|revision| is_needed(&Revision::from(revision), &kept, &live));
        assert_eq!(needed, [true, true, false]);
    }
}
