//! The writes, each with its time limit, each the same when done twice.

use super::{Kubernetes, MANAGER, SCALER};
use crate::fleet::{FINALIZER, FleetError, Note, NoteKind, Target, Victim, cut};
use crate::labels;
use crate::reconcile::apply::SHORT_GRACE;
use crate::reconcile::build::deployment;
use dormouse_core::function::{Function, FunctionStatus};
use dormouse_core::valid::ValidFunction;
use futures::future::join_all;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::events::{Event, EventType};
use kube::{Api, Resource, ResourceExt};
use serde_json::json;
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

    /// Created by the scaler with no instances, so that `replicas` is the scaler's from the beginning; what it is, is
    /// then applied without that field.
    pub(super) async fn make_deployment(&self, function: &Function, target: &Target) -> Result<(), FleetError> {
        let valid = ValidFunction::from_function(function).map_err(|faults| {
            FleetError::Refused(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
        })?;
        let api: Api<Deployment> = self.in_namespace(&target.key.namespace);
        let wanted = deployment::deployment(function, &valid, target, self.options.rules);
        let name = deployment::name(target);
        let mut asleep = wanted.clone();
        asleep.spec.replicas = Some(0);
        let created =
            within(&name, api.create(&PostParams { field_manager: Some(SCALER.into()), dry_run: false }, &asleep))
                .await;
        match created {
            Ok(_) => {}
            Err(FleetError::Conflict(_)) => self.check_owner(&api, &name, target).await?,
            Err(error) => return Err(error),
        }
        within(&name, api.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&wanted))).await.map(drop)
    }

    /// One of that name exists. When it belongs to a function of the same name that is gone, it has to go first.
    async fn check_owner(&self, api: &Api<Deployment>, name: &str, target: &Target) -> Result<(), FleetError> {
        let Some(found) = within(name, api.get_opt(name)).await? else {
            return Err(FleetError::Conflict(name.into()));
        };
        match labels::owner(found.metadata.labels.as_ref()) {
            Some((uid, _)) if uid == target.uid => Ok(()),
            Some(_) => {
                if found.metadata.deletion_timestamp.is_none() {
                    within(name, api.delete(name, &of_uid(found.uid(), DeleteParams::background()))).await?;
                }
                Err(FleetError::Conflict(name.into()))
            }
            None => Err(FleetError::Refused(format!("a Deployment named {name} exists and is not ours: rename one"))),
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
        let api: Api<Deployment> = self.in_namespace(&target.key.namespace);
        let name = deployment::name(target);
        let params = PatchParams { field_manager: Some(SCALER.into()), ..PatchParams::default() };
        let body = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        let key = (target.uid.clone(), target.revision.clone());
        self.gate.set(key, replicas, victims.iter().map(|v| &v.id));
        // In this order: a request is sent when it is first polled.
        let (ended, scaled) = tokio::join!(
            join_all(victims.iter().map(|victim| self.end_pod(target, victim, SHORT_GRACE))),
            within(&name, api.patch_scale(&name, &params, &body))
        );
        for error in ended.into_iter().filter_map(Result::err) {
            tracing::warn!(deployment = %name, %error, "an idle pod was not ended by name; its ReplicaSet ends one");
        }
        scaled.map(drop)
    }

    pub(super) async fn end_pod(&self, target: &Target, pod: &Victim, grace: Duration) -> Result<(), FleetError> {
        self.delete_pod(&target.key.namespace, pod, grace).await
    }

    pub(super) async fn delete_pod(&self, namespace: &str, pod: &Victim, grace: Duration) -> Result<(), FleetError> {
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

    pub(super) async fn remove_deployment(&self, target: &Target) -> Result<(), FleetError> {
        let api: Api<Deployment> = self.in_namespace(&target.key.namespace);
        let name = deployment::name(target);
        within(&name, api.delete(&name, &DeleteParams::background())).await.map(drop)
    }

    pub(super) async fn write_status(&self, function: &Function, status: &FunctionStatus) -> Result<(), FleetError> {
        let name = function.name_any();
        // Applied, so that what it does not name any more is removed.
        let body = json!({
            "apiVersion": Function::api_version(&()), "kind": Function::kind(&()),
            "metadata": {"name": name, "uid": function.uid()}, "status": status,
        });
        let api = self.of(function);
        within(&name, api.patch_status(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(body)))
            .await
            .map(drop)
    }

    pub(super) async fn write_event(&self, function: &Function, note: &Note) -> Result<(), FleetError> {
        let mut words = note.message.clone();
        cut(&mut words, MAX_NOTE);
        let type_ = match note.kind {
            NoteKind::Normal => EventType::Normal,
            NoteKind::Warning => EventType::Warning,
        };
        let event =
            Event { type_, reason: note.reason.into(), note: Some(words), action: note.action.into(), secondary: None };
        within(note.reason, self.recorder.publish(&event, &function.object_ref(&()))).await
    }
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
