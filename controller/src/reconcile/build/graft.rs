//! A function in a parked pod: the container that is added to it, and what tells a claimed pod from all others.
//!
//! An ephemeral container is never changed, restarted or removed, and a second one of its name is refused. So its name
//! is the lock of a claim, and what stands in its environment says for ever whose it is: after a restart of the
//! controller the pods alone tell everything.

use super::code;
use super::deployment::{CONTAINER, PodRules, env_from, environment, image, own, pull_policy, restrictions, some};
use crate::fleet::{FunctionUid, Parked, Target};
use crate::labels;
use crate::load::{self, LoadKey};
use dormouse_core::function::Protocol;
use dormouse_core::revision::Revision;
use dormouse_core::valid::ValidFunction;
use k8s_openapi::api::core::v1::{EnvVar, EphemeralContainer, Pod};
use serde::{Deserialize, Serialize};

/// The variable that says whose a claimed pod is.
const CLAIM: &str = "DORMOUSE_CLAIM";

/// The annotation that says it of one that was loaded: it has the pool's container, and nothing was added to it.
pub const LOADED: &str = "dormouse.dev/loaded";

/// What stands in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mark {
    /// The function's uid.
    pub function_uid: String,
    /// The revision.
    pub revision: String,
    /// Another number for each claim: two of the same function do not look alike.
    pub claim: u64,
    /// Where it listens.
    pub port: u16,
    /// It speaks HTTP/2 there.
    pub h2c: bool,
    /// Memory in MiB and cpu in thousandths of the revision.
    pub memory_mib: u32,
    /// See there.
    pub cpu_millis: u32,
    /// It was loaded, when its runtime had been started anew so often: with one more it has lost its code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restarts: Option<u32>,
    /// It was grafted, and its code is sent to it once its container runs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sent: bool,
}

impl Mark {
    /// The mark of a claim.
    #[must_use]
    pub fn new(valid: &ValidFunction, target: &Target, claim: u64) -> Self {
        Self {
            function_uid: target.uid.to_string(),
            revision: target.revision.to_string(),
            claim,
            port: valid.port,
            h2c: valid.protocol == Protocol::H2c,
            memory_mib: valid.memory_mib,
            cpu_millis: valid.cpu_millis,
            restarts: None,
            // Nothing can be mounted into a parked pod.
            sent: valid.brings_code(),
        }
    }

    /// The mark of a claimed pod; `None` when it was not claimed by us.
    #[must_use]
    pub fn of(pod: &Pod) -> Option<Self> {
        // Once the pool has let it go: before, whatever stands there is not believed.
        let loaded = pod.metadata.annotations.as_ref().and_then(|a| a.get(LOADED));
        if let (Some(mark), None) = (loaded, labels::pool(pod.metadata.labels.as_ref())) {
            return serde_json::from_str(mark).ok();
        }
        let containers = pod.spec.as_ref()?.ephemeral_containers.as_ref()?;
        let grafted = containers.iter().find(|c| c.name == CONTAINER)?;
        let mark = grafted.env.as_ref()?.iter().find(|e| e.name == CLAIM)?;
        serde_json::from_str(mark.value.as_deref()?).ok()
    }

    /// Whose it is.
    #[must_use]
    pub fn owner(&self) -> (FunctionUid, Revision) {
        (FunctionUid::from(self.function_uid.as_str()), Revision::from(self.revision.as_str()))
    }
}

/// Whether a pod has the container of a claim, whoever added it.
#[must_use]
pub fn is_grafted(pod: &Pod) -> bool {
    let containers = pod.spec.as_ref().and_then(|s| s.ephemeral_containers.as_ref());
    containers.is_some_and(|containers| containers.iter().any(|c| c.name == CONTAINER))
}

/// What a graft is made of beside the function.
#[derive(Clone, Copy, Debug)]
pub struct Graft<'a> {
    /// The pod.
    pub parked: &'a Parked,
    /// Tells this claim from others.
    pub claim: u64,
    /// What every pod keeps.
    pub rules: &'a PodRules,
    /// What loads are signed with.
    pub key: &'a LoadKey,
}

/// The container. Ports, probes and a size of its own are not for an ephemeral one to have.
#[must_use]
pub fn container(valid: &ValidFunction, target: &Target, graft: &Graft<'_>) -> EphemeralContainer {
    let Graft { parked, claim, rules, key } = *graft;
    let mark = serde_json::to_string(&Mark::new(valid, target, claim)).unwrap_or_default();
    let image = image(valid, rules);
    let mut env = environment(valid, target);
    let told = valid.source.as_ref().map_or(Vec::new(), |handler| match handler.code {
        Some(_) => {
            let pod = code::plain("", parked.id.as_str());
            let port = code::plain("DORMOUSE_LOAD_PORT", load::PORT.to_string());
            code::parked(key, pod, handler.runtime, valid.memory_mib).into_iter().chain([port]).collect()
        }
        None => code::boot(valid, handler),
    });
    env.extend(own(valid, told));
    env.insert(0, EnvVar { name: CLAIM.into(), value: Some(mark), value_from: None });
    EphemeralContainer {
        name: CONTAINER.into(),
        image: Some(image.into()),
        image_pull_policy: Some(pull_policy(image).into()),
        command: some(valid.command.clone()),
        args: some(valid.args.clone()),
        env: Some(env),
        env_from: some(valid.env_from.iter().map(env_from).collect()),
        termination_message_policy: Some("FallbackToLogsOnError".into()),
        security_context: Some(restrictions(valid)),
        ..EphemeralContainer::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dormouse_core::function::Function;
    use k8s_openapi::api::core::v1::PodSpec;
    use serde_json::json;

    fn grafted() -> (EphemeralContainer, Mark) {
        let spec = json!({"image": "registry/hello:1", "command": ["/hello"], "port": 9000, "protocol": "h2c",
            "env": [{"name": "A", "value": "1"}], "envFrom": [{"secretRef": {"name": "s"}}],
            "resources": {"memory": "128Mi", "cpu": "50m"}, "securityContext": {"runAsUser": 1000}});
        let metadata = json!({"name": "hello", "namespace": "default", "uid": "u-1"});
        let kind =
            json!({"apiVersion": "dormouse.dev/v1alpha1", "kind": "Function", "metadata": metadata, "spec": spec});
        let function: Function = serde_json::from_value(kind).unwrap();
        let valid = ValidFunction::from_function(&function).unwrap();
        let target = Target { uid: "u-1".into(), key: valid.key.clone(), revision: Revision::of(&function.spec) };
        let key = LoadKey::from_secret("0123456789abcdef0123456789abcdef").unwrap();
        let pool = crate::fleet::PoolKey { namespace: "default".into(), name: "small".into() };
        let parked = Parked {
            id: "p-1".into(),
            name: "small-1".into(),
            pool,
            ip: [10, 0, 0, 1].into(),
            size: (128, 100),
            runtime: None,
            restarts: 0,
        };
        let rules = PodRules::default();
        let graft = Graft { parked: &parked, claim: 7, rules: &rules, key: &key };
        (container(&valid, &target, &graft), Mark::new(&valid, &target, 7))
    }

    #[test]
    fn golden() {
        insta::assert_yaml_snapshot!(grafted().0);
    }

    #[test]
    fn the_pod_alone_says_whose_it_is() {
        let (container, mark) = grafted();
        let spec = PodSpec { ephemeral_containers: Some(vec![container]), ..PodSpec::default() };
        let pod = Pod { spec: Some(spec), ..Pod::default() };
        assert_eq!(Mark::of(&pod), Some(mark));
        assert!(is_grafted(&pod) && !is_grafted(&Pod::default()));
    }

    #[test]
    fn a_container_of_somebody_else_says_nothing() {
        let container = EphemeralContainer { name: CONTAINER.into(), ..EphemeralContainer::default() };
        let spec = PodSpec { ephemeral_containers: Some(vec![container]), ..PodSpec::default() };
        let pod = Pod { spec: Some(spec), ..Pod::default() };
        assert!(is_grafted(&pod) && Mark::of(&pod).is_none());
    }
}
