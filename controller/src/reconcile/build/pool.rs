//! A warm pool's Deployment: pods that are parked until a function is started in them.
//!
//! Their size stands on the pod, not on a container: a container that is added later is bound by it. They hold what
//! every instance holds: no service-account token, no service links, no capabilities, the runtime's seccomp profile. The
//! grace is as long as the longest call: a pod that Kubernetes ends on its own may be serving one by then. What we end
//! ourselves is idle and gets a short grace.

use super::code;
use super::deployment::{PodRules, confined, of_pods, pod_security, pull_policy, pull_secrets, resources, some};
use crate::labels;
use crate::load::LoadKey;
use dormouse_core::warm_pool::{Security, Toleration, TolerationOperator};
use dormouse_core::{WarmPool, quantity};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{
    Container, EnvVar, EnvVarSource, ObjectFieldSelector, PodSpec, SecurityContext, Toleration as PodToleration,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, ResourceExt};

/// Name of the container that keeps a parked pod.
pub const CONTAINER: &str = "parked";

/// The longest call (3600 s) and what a process gets to end after it.
const GRACE: i64 = 3605;

/// Name of a pool's Deployment. Not that of any function's, which ends with a revision of eight characters.
#[must_use]
pub fn name(pool: &str) -> String {
    format!("{pool}-parked")
}

/// What parks pods.
#[derive(Clone, Copy, Debug)]
pub struct Parking<'a> {
    /// Image of the program that parks those of a pool without a runtime.
    pub parker: &'a str,
    /// What every pod keeps, and the images of runtimes.
    pub rules: &'a PodRules,
    /// What loads are signed with.
    pub key: &'a LoadKey,
}

/// The Deployment, with no `replicas`: that field is the scaler's.
#[must_use]
pub fn deployment(pool: &WarmPool, parking: &Parking<'_>) -> Deployment {
    let name_of_pool = pool.name_any();
    let metadata = ObjectMeta {
        name: Some(name(&name_of_pool)),
        namespace: pool.namespace(),
        labels: Some(labels::of_pool(&name_of_pool)),
        owner_references: pool.controller_owner_ref(&()).map(|owner| vec![owner]),
        ..ObjectMeta::default()
    };
    let mut made = of_pods(metadata, labels::pool_selector(&name_of_pool), pod(pool, parking));
    if let (Some(runtime), Some(meta)) = (pool.spec.runtime, &mut made.spec.template.metadata) {
        let labels = meta.labels.get_or_insert_default();
        labels.insert(labels::RUNTIME.into(), runtime.name().into());
    }
    made
}

fn pod(pool: &WarmPool, parking: &Parking<'_>) -> PodSpec {
    let spec = &pool.spec;
    let restricted = parking.rules.restricted;
    PodSpec {
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        runtime_class_name: spec.runtime_class_name.clone(),
        node_selector: (!spec.node_selector.is_empty()).then(|| spec.node_selector.clone()),
        tolerations: some(spec.tolerations.iter().map(toleration).collect()),
        image_pull_secrets: pull_secrets(&spec.image_pull_secrets),
        security_context: Some(pod_security(restricted || spec.security == Security::Restricted)),
        termination_grace_period_seconds: Some(GRACE),
        resources: Some(resources(Quantity(spec.resources.memory.clone()), Quantity(spec.resources.cpu.clone()))),
        volumes: spec.runtime.map(|_| vec![code::tmp().0]),
        containers: vec![container(pool, parking)],
        ..PodSpec::default()
    }
}

/// What keeps a parked pod: the parker, or a runtime that waits for its load.
fn container(pool: &WarmPool, parking: &Parking<'_>) -> Container {
    let kept = Container {
        name: CONTAINER.into(),
        image: Some(parking.parker.into()),
        image_pull_policy: Some("IfNotPresent".into()),
        security_context: Some(SecurityContext { read_only_root_filesystem: Some(true), ..confined() }),
        ..Container::default()
    };
    let Some(runtime) = pool.spec.runtime else { return kept };
    let image = parking.rules.runtimes.of(runtime);
    let field = ObjectFieldSelector { field_path: "metadata.uid".into(), api_version: None };
    let uid = EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() };
    let uid = EnvVar { value_from: Some(uid), ..EnvVar::default() };
    let memory_mib = quantity::memory_mib(&pool.spec.resources.memory).unwrap_or(0);
    Container {
        image: Some(image.into()),
        image_pull_policy: Some(pull_policy(image).into()),
        env: Some(code::parked(parking.key, uid, runtime, memory_mib)),
        volume_mounts: Some(vec![code::tmp().1]),
        termination_message_policy: Some("FallbackToLogsOnError".into()),
        ..kept
    }
}

fn toleration(of: &Toleration) -> PodToleration {
    let operator = of.operator.map(|operator| match operator {
        TolerationOperator::Exists => "Exists".to_owned(),
        TolerationOperator::Equal => "Equal".to_owned(),
    });
    PodToleration {
        key: of.key.clone(),
        operator,
        value: of.value.clone(),
        effect: of.effect.clone(),
        toleration_seconds: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pool(spec: serde_json::Value) -> WarmPool {
        let metadata = json!({"name": "small", "namespace": "default", "uid": "u-1"});
        let kind =
            json!({"apiVersion": "dormouse.dev/v1alpha1", "kind": "WarmPool", "metadata": metadata, "spec": spec});
        serde_json::from_value(kind).unwrap()
    }

    fn built(spec: serde_json::Value) -> Deployment {
        let key = LoadKey::from_secret("0123456789abcdef0123456789abcdef").unwrap();
        let runtimes = code::RuntimeImages { nodejs: "runtime-nodejs:1".into(), python: "runtime-python:1".into() };
        let rules = PodRules { runtimes, restricted: false };
        deployment(&pool(spec), &Parking { parker: "dormouse/parker:1", rules: &rules, key: &key })
    }

    #[test]
    fn of_a_runtime() {
        insta::assert_yaml_snapshot!(
            built(json!({"runtime": "nodejs", "resources": {"memory": "128Mi"}})).spec.template
        );
    }

    #[test]
    fn smallest() {
        insta::assert_yaml_snapshot!(built(json!({})));
    }

    #[test]
    fn everything() {
        let spec = json!({
            "size": {"min": 2, "max": 2}, "resources": {"memory": "1Gi", "cpu": "2"}, "runtimeClassName": "crun",
            "nodeSelector": {"zone": "a"}, "imagePullSecrets": [{"name": "pull"}], "security": "Restricted",
            "tolerations": [{"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule"}],
        });
        insta::assert_yaml_snapshot!(built(spec));
    }
}
