//! The writes of warm pools: their Deployments, and the two steps of a claim.

use super::effects::{make_asleep, within};
use super::{Kubernetes, MANAGER};
use crate::fleet::{Claim, Code, Fit, FleetError, Parked, PoolKey, Target, Trouble, Victim};
use crate::labels;
use crate::load::{self, Load, LoadError};
use crate::reconcile::build::deployment;
use crate::reconcile::build::graft::{self, Graft, LOADED, Mark};
use crate::reconcile::build::pool::{self, Parking};
use dormouse_core::WarmPool;
use dormouse_core::function::Function;
use dormouse_core::valid::ValidFunction;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kube::{Api, Resource, ResourceExt};
use serde_json::json;
use std::collections::BTreeMap;

impl Kubernetes {
    /// Makes a parked pod an instance: what keeps the function's runtime is loaded, any other gets its container, which is
    /// loaded too where the code is not in its image.
    pub(super) async fn claim(
        &self,
        function: &Function,
        target: &Target,
        parked: &Parked,
        claim: u64,
    ) -> Result<(), FleetError> {
        let valid = ValidFunction::from_function(function).map_err(|_| FleetError::Refused("not valid".into()))?;
        if parked.runtime.is_none() {
            self.add_container(&valid, target, parked, claim).await?;
        }
        if parked.runtime.is_none() && !valid.brings_code() {
            return Ok(());
        }
        let Some(handler) = &valid.source else { return Err(FleetError::Refused("there is no handler".into())) };
        let revision = deployment::name(target);
        let (pod, grafted) = (parked.id.as_str(), parked.runtime.is_none());
        let load = Load { valid: &valid, handler, revision: &revision, pod, grafted };
        match load::send(&self.options.load_key, load, (parked.ip, load::PORT).into()).await {
            Ok(()) => Ok(()),
            Err(LoadError::Broken { code, message }) => {
                Err(FleetError::Broken(Trouble::new(Code::HandlerFailed, format!("{code}: {message}"))))
            }
            Err(LoadError::Held(by)) => {
                tracing::warn!(pod = parked.name, %by, "a parked runtime is held already");
                self.let_go(parked).await?;
                Err(FleetError::Conflict(parked.name.clone()))
            }
            Err(LoadError::Failed(why)) => Err(FleetError::Failed(why)),
        }
    }

    /// Of one that was started anew nobody knows whose files lie there.
    pub(super) async fn let_go_if_held(&self, parked: &Parked) -> Result<(), FleetError> {
        if parked.restarts == 0 && load::is_held((parked.ip, load::PORT).into()).await != Some(true) {
            return Ok(());
        }
        tracing::info!(pod = parked.name, "a parked runtime was given away in an earlier life and is let go");
        self.let_go(parked).await
    }

    /// Ends a parked pod that may be serving.
    async fn let_go(&self, parked: &Parked) -> Result<(), FleetError> {
        let victim = Victim { id: parked.id.clone(), name: parked.name.clone() };
        self.end_pod_in_its_time(&parked.pool.namespace, &victim).await
    }

    /// The graft itself. What is refused may have been refused because somebody else was first: the pod tells.
    async fn add_container(
        &self,
        valid: &ValidFunction,
        target: &Target,
        parked: &Parked,
        claim: u64,
    ) -> Result<(), FleetError> {
        let api: Api<Pod> = self.in_namespace(&parked.pool.namespace);
        let graft = Graft { parked, claim, rules: &self.options.rules, key: &self.options.load_key };
        let container = graft::container(valid, target, &graft);
        // The uid keeps this from another pod of the same name.
        let body = json!({"metadata": {"uid": parked.id.as_str()}, "spec": {"ephemeralContainers": [container]}});
        let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
        let body = Patch::Strategic(body);
        match within(&parked.name, api.patch_ephemeral_containers(&parked.name, &params, &body)).await {
            // 409: the patch met other writers too often; nobody knows of whom.
            Err(FleetError::Refused(why) | FleetError::Conflict(why)) => {
                let found = within(&parked.name, api.get_opt(&parked.name)).await?;
                match found.filter(|pod| pod.uid().as_deref() == Some(parked.id.as_str())) {
                    None => Err(FleetError::Gone(parked.name.clone())),
                    Some(pod) if Mark::of(&pod).is_some_and(|mark| mark.claim == claim) => Ok(()),
                    Some(pod) if graft::is_grafted(&pod) => Err(FleetError::Conflict(parked.name.clone())),
                    Some(_) if why == parked.name => Err(FleetError::Failed("it was changed meanwhile".into())),
                    Some(_) => Err(FleetError::Refused(why)),
                }
            }
            answer => answer.map(drop),
        }
    }

    /// One patch takes the pod from its pool, which refills, and gives it to the function; then it is made as small as
    /// the function is. A pod is never made larger.
    pub(super) async fn take_out_of_pool(
        &self,
        function: &Function,
        target: &Target,
        instance: &Victim,
        (claim, (memory_mib, cpu_millis)): (&Claim, (u32, u32)),
    ) -> Result<Fit, FleetError> {
        let api: Api<Pod> = self.in_namespace(&claim.pool.namespace);
        let mut labels: BTreeMap<String, Option<String>> =
            labels::of(target).into_iter().map(|(key, value)| (key, Some(value))).collect();
        labels.insert(labels::POOL.into(), None);
        labels.insert(labels::CLAIMED_FROM.into(), Some(claim.pool.name.clone()));
        let owner = function.controller_owner_ref(&());
        let mark = claim.loaded.map(|restarts| Mark {
            function_uid: target.uid.to_string(),
            revision: target.revision.to_string(),
            claim: 0,
            port: load::CALLS,
            h2c: false,
            memory_mib,
            cpu_millis,
            restarts: Some(restarts),
            sent: false,
        });
        let mark = mark.and_then(|mark| serde_json::to_string(&mark).ok());
        let body = json!({"metadata": {
            "uid": instance.id.as_str(), "labels": labels, "ownerReferences": [owner], "annotations": {LOADED: mark}}});
        let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
        within(&instance.name, api.patch(&instance.name, &params, &Patch::Merge(body))).await?;
        let memory = format!("{memory_mib}Mi");
        let size = json!({"spec": {"resources": {
            "requests": {"memory": memory, "cpu": format!("{cpu_millis}m")}, "limits": {"memory": memory}}}});
        match within(&instance.name, api.patch_resize(&instance.name, &params, &Patch::Strategic(size))).await {
            Ok(_) => Ok(Fit::Own),
            Err(FleetError::Gone(_)) => Ok(Fit::Pools("this version of Kubernetes does not resize pods".into())),
            Err(error) => Ok(Fit::Pools(error.to_string())),
        }
    }

    pub(super) async fn make_pool(&self, pool: &WarmPool) -> Result<(), FleetError> {
        let image = self.options.parker.as_deref().ok_or_else(|| FleetError::Refused("no parker's image".into()))?;
        let api: Api<Deployment> = self.in_namespace(&pool.namespace().unwrap_or_default());
        let parking = Parking { parker: image, rules: &self.options.rules, key: &self.options.load_key };
        let wanted = pool::deployment(pool, &parking);
        make_asleep(&api, &wanted, |found| {
            let named = labels::pool(found.metadata.labels.as_ref()) == Some(&pool.name_any());
            named.then(|| found.owner_references().iter().any(|owner| Some(&owner.uid) == pool.meta().uid.as_ref()))
        })
        .await
    }

    /// Victims are deleted by name: a ReplicaSet that had to choose might choose a pod that is being claimed.
    pub(super) async fn set_parked(&self, key: &PoolKey, replicas: u32, victims: &[Victim]) -> Result<(), FleetError> {
        self.set_number(&key.namespace, &pool::name(&key.name), replicas, victims).await
    }
}
