//! A revision's Deployment.
//!
//! Its pods: no service-account token unless an account is named, no service links (a namespace with many Services
//! would fill the environment), no capabilities, no privilege escalation, the runtime's seccomp profile. Their grace
//! and `preStop` sleep are as long as a call may be: a pod that Kubernetes ends on its own (a drained node, a wrong
//! choice when scaling down) finishes its calls; one that we end is idle and gets a short grace instead.
//! No probes: activators dial. Handler code is a runtime's image that boots with the files of a ConfigMap (`code`).

use super::code::{self, RuntimeImages, plain};
use crate::fleet::Target;
use crate::fleet::kubernetes::gate::GATE;
use crate::labels;
use dormouse_core::function::{EnvFrom, EnvVar, Function, LocalName, Protocol};
use dormouse_core::valid::ValidFunction;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapEnvSource, ConfigMapKeySelector, Container, ContainerPort, EnvFromSource,
    EnvVar as PodEnvVar, EnvVarSource, Lifecycle, LifecycleHandler, LocalObjectReference, PodSchedulingGate,
    PodSecurityContext, PodSpec, PodTemplateSpec, ResourceRequirements, SeccompProfile, SecretEnvSource,
    SecretKeySelector, SecurityContext, SleepAction, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Resource;
use std::collections::BTreeMap;

/// Name of the container that takes calls.
pub const CONTAINER: &str = "fn";

/// Name of its port, by what is spoken there; the names that meshes and Knative know.
#[must_use]
pub fn port_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http1 => "http",
        Protocol::H2c => "h2c",
    }
}

/// On top of the `preStop` sleep: what a process gets to end after SIGTERM.
const STOP_MARGIN: i64 = 5;

/// A Deployment is stuck when it makes no progress for so long (Kubernetes' own default, said because we read it).
const PROGRESS_DEADLINE: i32 = 600;

/// What the cluster's operator wants of every pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodRules {
    /// What handler code runs on.
    pub runtimes: RuntimeImages,
    /// Pods must keep the restricted Pod Security level: images that run as root are refused.
    pub restricted: bool,
}

/// Name of a revision's Deployment.
#[must_use]
pub fn name(target: &Target) -> String {
    format!("{}-{}", target.key.name, target.revision)
}

/// The Deployment, with no `replicas`: that field is the scaler's.
#[must_use]
pub fn deployment(function: &Function, valid: &ValidFunction, target: &Target, rules: &PodRules) -> Deployment {
    let metadata = ObjectMeta {
        name: Some(name(target)),
        namespace: Some(target.key.namespace.clone()),
        labels: Some(labels::of(target)),
        owner_references: function.controller_owner_ref(&()).map(|owner| vec![owner]),
        ..ObjectMeta::default()
    };
    let mut made = of_pods(metadata, labels::selector(target), pod(valid, target, rules));
    made.spec.progress_deadline_seconds = Some(PROGRESS_DEADLINE);
    made
}

/// A Deployment of pods that have its labels. A roll takes no pod away before another one stands.
pub(super) fn of_pods(metadata: ObjectMeta, selector: BTreeMap<String, String>, pod: PodSpec) -> Deployment {
    let labels = metadata.labels.clone();
    Deployment {
        metadata,
        spec: DeploymentSpec {
            revision_history_limit: Some(0),
            selector: LabelSelector { match_labels: Some(selector), match_expressions: None },
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".into()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::String("100%".into())),
                    max_unavailable: Some(IntOrString::Int(0)),
                }),
            }),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta { labels, ..ObjectMeta::default() }),
                spec: Some(pod),
            },
            ..DeploymentSpec::default()
        },
        status: None,
    }
}

/// What holds for every pod of ours.
pub(super) fn pod_security(restricted: bool) -> PodSecurityContext {
    PodSecurityContext {
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
        run_as_non_root: restricted.then_some(true),
        ..PodSecurityContext::default()
    }
}

/// What holds for every container of ours.
pub(super) fn confined() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), add: None }),
        ..SecurityContext::default()
    }
}

/// Memory as request and limit, cpu as request only.
pub(super) fn resources(memory: Quantity, cpu: Quantity) -> ResourceRequirements {
    ResourceRequirements {
        requests: Some(BTreeMap::from([("memory".into(), memory.clone()), ("cpu".into(), cpu)])),
        limits: Some(BTreeMap::from([("memory".into(), memory)])),
        claims: None,
    }
}

pub(super) fn pull_secrets(named: &[LocalName]) -> Option<Vec<LocalObjectReference>> {
    some(named.iter().map(|s| LocalObjectReference { name: s.name.clone() }).collect())
}

fn pod(valid: &ValidFunction, target: &Target, rules: &PodRules) -> PodSpec {
    let timeout = i64::try_from(valid.timeout.as_secs()).unwrap_or(i64::MAX - STOP_MARGIN);
    let (volumes, mounts) = volumes(valid, target).into_iter().unzip();
    PodSpec {
        automount_service_account_token: Some(valid.service_account_name.is_some()),
        service_account_name: valid.service_account_name.clone(),
        enable_service_links: Some(false),
        image_pull_secrets: pull_secrets(&valid.image_pull_secrets),
        security_context: Some(pod_security(rules.restricted)),
        termination_grace_period_seconds: Some(timeout + STOP_MARGIN),
        scheduling_gates: Some(vec![PodSchedulingGate { name: GATE.into() }]),
        containers: vec![Container { volume_mounts: some(mounts), ..container(valid, target, rules, timeout) }],
        volumes: some(volumes),
        ..PodSpec::default()
    }
}

/// Of handler code: its files, and a place to write to where nothing else may be written.
fn volumes(valid: &ValidFunction, target: &Target) -> Vec<(Volume, VolumeMount)> {
    let Some(handler) = &valid.source else { return Vec::new() };
    let read_only = valid.security_context.as_ref().and_then(|s| s.read_only_root_filesystem) == Some(true);
    let code = handler.code.as_ref().map(|code| code::volume(code, target));
    code.into_iter().chain(read_only.then(code::tmp)).collect()
}

/// The image that runs: the function's own, or its runtime's.
pub(super) fn image<'a>(valid: &'a ValidFunction, rules: &'a PodRules) -> &'a str {
    let runtime = valid.source.as_ref().map_or("", |handler| rules.runtimes.of(handler.runtime));
    valid.image.as_deref().unwrap_or(runtime)
}

fn container(valid: &ValidFunction, target: &Target, rules: &PodRules, timeout: i64) -> Container {
    let image = image(valid, rules);
    let mut env = environment(valid, target);
    env.extend(own(valid, valid.source.iter().flat_map(|handler| code::boot(valid, handler)).collect()));

    let memory = Quantity(format!("{}Mi", valid.memory_mib));
    let cpu = Quantity(format!("{}m", valid.cpu_millis));
    Container {
        name: CONTAINER.into(),
        image: Some(image.into()),
        image_pull_policy: Some(pull_policy(image).into()),
        command: some(valid.command.clone()),
        args: some(valid.args.clone()),
        ports: Some(vec![ContainerPort {
            name: Some(port_name(valid.protocol).into()),
            container_port: i32::from(valid.port),
            protocol: Some("TCP".into()),
            ..ContainerPort::default()
        }]),
        env: Some(env),
        env_from: some(valid.env_from.iter().map(env_from).collect()),
        resources: Some(resources(memory, cpu)),
        lifecycle: Some(Lifecycle {
            pre_stop: Some(LifecycleHandler {
                sleep: Some(SleepAction { seconds: timeout }),
                ..LifecycleHandler::default()
            }),
            ..Lifecycle::default()
        }),
        termination_message_policy: Some("FallbackToLogsOnError".into()),
        security_context: Some(restrictions(valid)),
        ..Container::default()
    }
}

pub(super) fn restrictions(valid: &ValidFunction) -> SecurityContext {
    let asked = valid.security_context.clone().unwrap_or_default();
    SecurityContext {
        run_as_user: asked.run_as_user,
        run_as_group: asked.run_as_group,
        run_as_non_root: asked.run_as_non_root,
        read_only_root_filesystem: asked.read_only_root_filesystem,
        ..confined()
    }
}

/// The platform's variables come first, so that the function's own may refer to them as `$(PORT)`.
pub(super) fn environment(valid: &ValidFunction, target: &Target) -> Vec<PodEnvVar> {
    let mut env = vec![
        plain("PORT", valid.port.to_string()),
        plain("K_SERVICE", &*valid.key.name),
        plain("K_CONFIGURATION", &*valid.key.name),
        plain("K_REVISION", name(target)),
    ];
    env.extend(valid.env.iter().map(env_var));
    env
}

/// Of what a runtime is told, what the function does not set itself (`NODE_OPTIONS`; the others it may not).
pub(super) fn own(valid: &ValidFunction, told: Vec<PodEnvVar>) -> impl Iterator<Item = PodEnvVar> {
    told.into_iter().filter(|var| !valid.env.iter().any(|set| set.name == var.name))
}

fn env_var(var: &EnvVar) -> PodEnvVar {
    let value_from = var.value_from.as_ref().map(|from| EnvVarSource {
        secret_key_ref: from.secret_key_ref.as_ref().map(|r| SecretKeySelector {
            name: r.name.clone(),
            key: r.key.clone(),
            optional: r.optional,
        }),
        config_map_key_ref: from.config_map_key_ref.as_ref().map(|r| ConfigMapKeySelector {
            name: r.name.clone(),
            key: r.key.clone(),
            optional: r.optional,
        }),
        ..EnvVarSource::default()
    });
    PodEnvVar { name: var.name.clone(), value: var.value.clone(), value_from }
}

pub(super) fn env_from(from: &EnvFrom) -> EnvFromSource {
    EnvFromSource {
        prefix: from.prefix.clone(),
        secret_ref: from.secret_ref.as_ref().map(|r| SecretEnvSource { name: r.name.clone(), optional: None }),
        config_map_ref: from
            .config_map_ref
            .as_ref()
            .map(|r| ConfigMapEnvSource { name: r.name.clone(), optional: None }),
    }
}

/// A tag that names one build, or a digest, is pulled once per node; `latest` (written or meant) may change.
pub(super) fn pull_policy(image: &str) -> &'static str {
    if image.contains('@') {
        return "IfNotPresent";
    }
    let tag = image.rsplit('/').next().and_then(|last| last.split_once(':')).map(|(_, tag)| tag);
    if tag.is_none_or(|tag| tag == "latest") { "Always" } else { "IfNotPresent" }
}

pub(super) fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dormouse_core::revision::Revision;
    use serde_json::json;

    fn built(mut manifest: serde_json::Value, rules: PodRules) -> Deployment {
        manifest["apiVersion"] = json!("dormouse.dev/v1alpha1");
        manifest["kind"] = json!("Function");
        manifest["metadata"] = json!({"name": "hello", "namespace": "default", "uid": "u-1"});
        let function: Function = serde_json::from_value(manifest).unwrap();
        let valid = ValidFunction::from_function(&function).unwrap();
        let target = Target { uid: "u-1".into(), key: valid.key.clone(), revision: Revision::of(&function.spec) };
        deployment(&function, &valid, &target, &rules)
    }

    #[test]
    fn smallest() {
        let spec = json!({"spec": {"image": "registry/hello:1"}});
        insta::assert_yaml_snapshot!(built(spec, PodRules::default()));
    }

    #[test]
    fn handler_code_boots_on_its_runtime() {
        let runtimes = RuntimeImages { nodejs: "runtime-nodejs:1".into(), python: "runtime-python:1".into() };
        let rules = PodRules { runtimes, ..PodRules::default() };
        let source = json!({"runtime": "nodejs", "handler": "index.handler", "inline": "exports.handler = () => 1"});
        let spec = json!({"spec": {"source": source, "securityContext": {"readOnlyRootFilesystem": true}}});
        insta::assert_yaml_snapshot!(built(spec, rules.clone()).spec.template.spec.unwrap());
        // Code in an image of its own, and an option that the function sets itself.
        let source = json!({"runtime": "nodejs", "handler": "index.handler"});
        let env = json!([{"name": "NODE_OPTIONS", "value": "--trace-gc"}]);
        let pod = built(json!({"spec": {"source": source, "image": "own:1", "env": env}}), rules);
        let pod = pod.spec.template.spec.unwrap();
        let env = pod.containers[0].env.as_ref().unwrap();
        let set: Vec<&str> =
            env.iter().filter(|e| e.name == "NODE_OPTIONS").filter_map(|e| e.value.as_deref()).collect();
        assert_eq!((pod.containers[0].image.as_deref(), pod.volumes, set), (Some("own:1"), None, vec!["--trace-gc"]));
        assert!(env.iter().any(|e| e.name == "DORMOUSE_HANDLER") && !env.iter().any(|e| e.name == "DORMOUSE_CODE_DIR"));
    }

    #[test]
    fn the_port_is_named_by_what_is_spoken() {
        let spec = json!({"spec": {"image": "a", "protocol": "h2c"}});
        let pod = built(spec, PodRules::default()).spec.template.spec.unwrap();
        assert_eq!(pod.containers[0].ports.as_ref().unwrap()[0].name.as_deref(), Some("h2c"));
    }

    #[test]
    fn everything() {
        let spec = json!({"spec": {
            "image": "registry/hello", "command": ["/hello"], "args": ["-v"], "port": 9000,
            "env": [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
            "envFrom": [{"configMapRef": {"name": "c"}, "prefix": "C_"}, {"secretRef": {"name": "s"}}],
            "resources": {"memory": "1Gi", "cpu": "2"}, "imagePullSecrets": [{"name": "pull"}],
            "serviceAccountName": "runner", "securityContext": {"runAsUser": 1000, "readOnlyRootFilesystem": true},
            "timeoutSeconds": 3600
        }});
        insta::assert_yaml_snapshot!(built(spec, PodRules { restricted: true, ..PodRules::default() }));
    }

    #[test]
    fn fixed_tags_are_pulled_once() {
        for (image, policy) in [
            ("hello", "Always"),
            ("hello:latest", "Always"),
            ("host:5000/hello", "Always"),
            ("hello:1", "IfNotPresent"),
            ("host:5000/a/hello:v1", "IfNotPresent"),
            ("hello@sha256:00", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }
}
