//! The writes, each with its time limit, each the same when done twice.

use super::{Kubernetes, MANAGER, SCALER};
use crate::fleet::{Code, FINALIZER, FleetError, Note, NoteKind, Target, Trouble, Victim, cut};
use crate::labels;
use crate::reconcile::apply::SHORT_GRACE;
use crate::reconcile::build::{code, deployment};
use dormouse_core::function::Function;
use dormouse_core::valid::ValidFunction;
use futures::future::join_all;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::events::{Event, EventType};
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::fmt::Debug;
use std::time::Duration;

/// Time limit of one write: an API server that needs longer is asked again.
const WRITE: Duration = Duration::from_secs(10);

/// Longest note of an event in bytes.
const MAX_NOTE: usize = 1024;

impl Kubernetes {
    pub(super) fn in_namespace<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    fn of(&self, function: &Function) -> Api<Function> {
        self.in_namespace(&function.namespace().unwrap_or_default())
    }

    pub(super) async fn put_finalizer(&self, function: &Function) -> Result<(), FleetError> {
        let name = function.name_any();
        let body = json!({
            "apiVersion": Function::api_version(&()), "kind": Function::kind(&()),
            // The uid keeps this from making a Function that was deleted meanwhile.
            "metadata": {"name": name, "uid": function.uid(), "finalizers": [FINALIZER]},
        });
        let api = self.of(function);
        within(&name, api.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(body))).await.map(drop)
    }

    pub(super) async fn take_finalizer_off(&self, function: &Function) -> Result<(), FleetError> {
        let name = function.name_any();
        let api = self.of(function);
        let Some(now) = within(&name, api.get_metadata_opt(&name)).await? else { return Ok(()) };
        if now.uid() != function.uid() {
            return Ok(());
        }
        let left: Vec<&String> = now.finalizers().iter().filter(|f| *f != FINALIZER).collect();
        // The version makes it fail when somebody else changed the list meanwhile.
        let body = json!({"metadata": {"resourceVersion": now.resource_version(), "finalizers": left}});
        within(&name, api.patch(&name, &PatchParams::default(), &Patch::Merge(body))).await.map(drop)
    }

    /// Makes what a revision's instances need, and answers the Deployment that is to carry them.
    pub(super) async fn make_ready(&self, function: &Function, target: &Target) -> Result<Deployment, FleetError> {
        let valid = ValidFunction::from_function(function).map_err(|faults| {
            FleetError::Refused(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
        })?;
        if valid.source.as_ref().is_some_and(|handler| handler.code.is_none() && valid.image.is_none()) {
            let why = function.spec.source.as_ref().and_then(|source| source.missing.clone());
            let why = why.unwrap_or_else(|| "nobody has said where its code is".into());
            return Err(FleetError::Broken(Trouble::new(Code::ConfigMissing, why)));
        }
        if let Some(wanted) = code::config_map(function, &valid, target) {
            self.make_code(&wanted, target).await?;
        }
        Ok(deployment::deployment(function, &valid, target, &self.options.rules))
    }

    pub(super) async fn make_deployment(&self, target: &Target, wanted: &Deployment) -> Result<(), FleetError> {
        let api: Api<Deployment> = self.in_namespace(&target.key.namespace);
        make_asleep(&api, wanted, |found| {
            labels::owner(found.metadata.labels.as_ref()).map(|(uid, _)| uid == target.uid)
        })
        .await
    }

    /// The copy of a revision's code. Its content follows from its name: one that is there is not written again.
    async fn make_code(&self, wanted: &ConfigMap, target: &Target) -> Result<(), FleetError> {
        let name = wanted.name_any();
        let api: Api<ConfigMap> = self.in_namespace(&target.key.namespace);
        let params = PostParams { field_manager: Some(MANAGER.into()), dry_run: false };
        match within(&name, api.create(&params, wanted)).await {
            Err(FleetError::Conflict(_)) => {}
            made => return made.map(drop),
        }
        let Some(found) = within(&name, api.get_metadata_opt(&name)).await? else {
            return Err(FleetError::Conflict(name));
        };
        match labels::owner(found.metadata.labels.as_ref()) {
            Some((uid, _)) if uid == target.uid => Ok(()),
            // Of a function of that name that is gone: it goes, too.
            Some(_) => {
                within(&name, api.delete(&name, &of_uid(found.uid(), DeleteParams::background()))).await?;
                Err(FleetError::Conflict(name))
            }
            None => Err(FleetError::Refused(format!("a ConfigMap named {name} exists and is not ours: rename one"))),
        }
    }

    /// Makes that copy again where somebody deleted it.
    pub(super) async fn mend_code(&self, function: &Function, target: &Target) -> Result<(), FleetError> {
        let wanted = ValidFunction::from_function(function).ok();
        let wanted = wanted.and_then(|valid| code::config_map(function, &valid, target));
        let Some(wanted) = wanted else { return Ok(()) };
        let api: Api<ConfigMap> = self.in_namespace(&target.key.namespace);
        let name = wanted.name_any();
        match within(&name, api.get_metadata_opt(&name)).await? {
            Some(_) => Ok(()),
            None => self.make_code(&wanted, target).await,
        }
    }

    /// Removes the copy of a revision's code, if that has one. A rollback makes a function's spec name a copy: that one
    /// stays.
    pub(super) async fn remove_code(&self, target: &Target) -> Result<(), FleetError> {
        let name = deployment::name(target);
        let api: Api<ConfigMap> = self.in_namespace(&target.key.namespace);
        let Some(found) = within(&name, api.get_metadata_opt(&name)).await? else { return Ok(()) };
        if labels::owner(found.metadata.labels.as_ref()).is_none_or(|(uid, _)| uid != target.uid) {
            return Ok(());
        }
        let functions: Api<Function> = self.in_namespace(&target.key.namespace);
        let function = within(&target.key.name, functions.get_opt(&target.key.name)).await?;
        if function.is_some_and(|function| names_code(&function, &name)) {
            return Ok(());
        }
        match within(&name, api.delete(&name, &of_uid(found.uid(), DeleteParams::background()))).await {
            // Gone, or another of that name by now.
            Ok(_) | Err(FleetError::Gone(_) | FleetError::Conflict(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The victims are deleted by name and with a short grace at the same moment as the number is lowered; [`super::gate`]
    /// says why.
    pub(super) async fn set_replicas(
        &self,
        target: &Target,
        replicas: u32,
        victims: &[Victim],
    ) -> Result<(), FleetError> {
        let key = (target.uid.clone(), target.revision.clone());
        self.gate.set(key, replicas, victims.iter().map(|v| &v.id));
        self.set_number(&target.key.namespace, &deployment::name(target), replicas, victims).await
    }

    /// Writes a number of replicas and ends the victims of a smaller one.
    pub(super) async fn set_number(
        &self,
        namespace: &str,
        name: &str,
        replicas: u32,
        victims: &[Victim],
    ) -> Result<(), FleetError> {
        let api: Api<Deployment> = self.in_namespace(namespace);
        let params = PatchParams { field_manager: Some(SCALER.into()), ..PatchParams::default() };
        let body = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        // In this order: a request is sent when it is first polled.
        let (ended, scaled) = tokio::join!(
            join_all(victims.iter().map(|victim| self.end_pod(namespace, victim, SHORT_GRACE))),
            within(name, api.patch_scale(name, &params, &body))
        );
        for error in ended.into_iter().filter_map(Result::err) {
            tracing::warn!(namespace, deployment = name, %error, "an idle pod was not ended by name; its ReplicaSet ends one");
        }
        scaled.map(drop)
    }

    pub(super) async fn end_pod(&self, namespace: &str, pod: &Victim, grace: Duration) -> Result<(), FleetError> {
        let api: Api<Pod> = self.in_namespace(namespace);
        let params = DeleteParams {
            grace_period_seconds: Some(u32::try_from(grace.as_secs()).unwrap_or(u32::MAX)),
            ..DeleteParams::default()
        };
        let params = of_uid(Some(pod.id.to_string()), params);
        match within(&pod.name, api.delete(&pod.name, &params)).await {
            // A pod of that name with another uid: the one that was meant is gone.
            Ok(_) | Err(FleetError::Gone(_) | FleetError::Conflict(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Ends a pod that may be serving: it has its own grace.
    pub(super) async fn end_pod_in_its_time(&self, namespace: &str, pod: &Victim) -> Result<(), FleetError> {
        let api: Api<Pod> = self.in_namespace(namespace);
        let params = of_uid(Some(pod.id.to_string()), DeleteParams::default());
        match within(&pod.name, api.delete(&pod.name, &params)).await {
            Ok(_) | Err(FleetError::Gone(_) | FleetError::Conflict(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn remove_deployment(&self, target: &Target) -> Result<(), FleetError> {
        let api: Api<Deployment> = self.in_namespace(&target.key.namespace);
        let name = deployment::name(target);
        // First: instances that start need the code.
        let removed = within(&name, api.delete(&name, &DeleteParams::background())).await.map(drop);
        if !matches!(removed, Ok(()) | Err(FleetError::Gone(_))) {
            return removed;
        }
        // As long as one can go back to the revision its code stays; as long as nobody knows, too.
        if !self.is_kept(target).await.unwrap_or(true) {
            self.remove_code(target).await?;
        }
        removed
    }

    /// Of a Function, a warm pool or a budget.
    pub(super) async fn write_status<K>(
        &self,
        object: &K,
        api: Api<K>,
        status: &impl Serialize,
    ) -> Result<(), FleetError>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let name = object.name_any();
        // Applied, so that what it does not name any more is removed.
        let body = json!({
            "apiVersion": K::api_version(&()), "kind": K::kind(&()),
            "metadata": {"name": name, "uid": object.uid()}, "status": status,
        });
        within(&name, api.patch_status(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(body)))
            .await
            .map(drop)
    }

    pub(super) async fn write_event<K>(&self, object: &K, note: &Note) -> Result<(), FleetError>
    where
        K: Resource<DynamicType = ()>,
    {
        let mut words = note.message.clone();
        cut(&mut words, MAX_NOTE);
        let type_ = match note.kind {
            NoteKind::Normal => EventType::Normal,
            NoteKind::Warning => EventType::Warning,
        };
        let event =
            Event { type_, reason: note.reason.into(), note: Some(words), action: note.action.into(), secondary: None };
        within(note.reason, self.recorder.publish(&event, &object.object_ref(&()))).await
    }
}

/// Makes a Deployment: created by the scaler with no pods, so that `replicas` is the scaler's from the beginning; what it
/// is, is then applied without that field. `is_ours` tells whether one of that name that exists already is this one
/// (`true`), a former one of ours, which has to go first (`false`), or somebody else's (`None`).
pub(super) async fn make_asleep(
    api: &Api<Deployment>,
    wanted: &Deployment,
    is_ours: impl Fn(&Deployment) -> Option<bool>,
) -> Result<(), FleetError> {
    let name = wanted.name_any();
    let mut asleep = wanted.clone();
    asleep.spec.replicas = Some(0);
    let params = PostParams { field_manager: Some(SCALER.into()), dry_run: false };
    match within(&name, api.create(&params, &asleep)).await {
        Ok(_) => {}
        Err(FleetError::Conflict(_)) => {
            let found = within(&name, api.get_opt(&name)).await?;
            let Some(found) = found else { return Err(FleetError::Conflict(name)) };
            match is_ours(&found) {
                Some(true) => {}
                Some(false) => {
                    if found.metadata.deletion_timestamp.is_none() {
                        within(&name, api.delete(&name, &of_uid(found.uid(), DeleteParams::background()))).await?;
                    }
                    return Err(FleetError::Conflict(name));
                }
                None => {
                    let why = format!("a Deployment named {name} exists and is not ours: rename one");
                    return Err(FleetError::Refused(why));
                }
            }
        }
        Err(error) => return Err(error),
    }
    within(&name, api.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(wanted))).await.map(drop)
}

/// Whether a function's spec says that its code is in this ConfigMap.
fn names_code(function: &Function, name: &str) -> bool {
    let named = function.spec.source.as_ref().and_then(|source| source.config_map.as_ref());
    named.is_some_and(|named| named.name == name)
}

pub(super) fn of_uid(uid: Option<String>, params: DeleteParams) -> DeleteParams {
    DeleteParams { preconditions: Some(Preconditions { uid, resource_version: None }), ..params }
}

/// Every call has an end, and one of few outcomes.
pub(super) async fn within<T>(what: &str, call: impl Future<Output = kube::Result<T>>) -> Result<T, FleetError> {
    match tokio::time::timeout(WRITE, call).await {
        Err(_) => Err(FleetError::TimedOut(WRITE)),
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) => Err(match status.code {
            404 => FleetError::Gone(what.into()),
            409 => FleetError::Conflict(what.into()),
            400 | 403 | 422 => FleetError::Refused(status.message.clone()),
            _ => FleetError::Failed(status.message.clone()),
        }),
        Ok(Err(error)) => Err(FleetError::Failed(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As after a rollback: the copy of revision R1 is what the spec says.
    #[test]
    fn a_copy_that_the_spec_names_is_in_use() {
        let function = |source: serde_json::Value| -> Function {
            serde_json::from_value(json!({
                "apiVersion": "dormouse.dev/v1alpha1", "kind": "Function", "metadata": {"name": "hello"},
                "spec": {"source": source}
            }))
            .unwrap()
        };
        let back = function(json!({"runtime": "nodejs", "handler": "a.b", "configMap": {"name": "hello-r1"}}));
        assert!(names_code(&back, "hello-r1") && !names_code(&back, "hello-r2"));
        assert!(!names_code(&function(json!({"runtime": "nodejs", "handler": "a.b", "inline": "x"})), "hello-r1"));
    }
}
