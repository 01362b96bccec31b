//! The WarmPool resource: pods started ahead that belong to no function yet.

#![expect(unreachable_pub, reason = "the schema derive repeats each struct inside a function")]

use crate::function::status::conditions;
use crate::function::{LocalName, Resources, Runtime};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::core::cel::Rule;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a pool may be called: its Deployment is `NAME-parked`, and pods add 17 characters to that.
pub const NAME_MESSAGE: &str = "a pool's name is at most 39 lower-case letters, digits and '-', begins with a letter and ends with a letter or digit";

fn name_rule() -> Rule {
    Rule::new("self.metadata.name.size() <= 39 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message(NAME_MESSAGE)
}

fn size_rule() -> Rule {
    Rule::new("self.size.min <= self.size.max")
        .message("size.min is more than size.max: raise the one or lower the other")
}

/// A warm pool: pods that are started ahead and parked, so that a function of its namespace wakes in one of them.
///
/// A pod serves one function, once: it is claimed, and deleted when it is idle.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[kube(
    group = "dormouse.dev",
    version = "v1alpha1",
    kind = "WarmPool",
    plural = "warmpools",
    singular = "warmpool",
    shortname = "wp",
    category = "dormouse",
    namespaced,
    status = "WarmPoolStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "A warm pool: pods that are started ahead and parked, so that a function of its namespace wakes in one of them.",
    validation = name_rule(),
    printcolumn = r#"{"name":"PARKED","type":"integer","jsonPath":".status.parked","description":"Pods that can be claimed now."}"#,
    printcolumn = r#"{"name":"WANTED","type":"integer","jsonPath":".status.wanted","description":"Pods that are to be parked."}"#,
    printcolumn = r#"{"name":"REASON","type":"string","jsonPath":".status.reason","description":"Why so many."}"#,
    printcolumn = r#"{"name":"RUNTIME","type":"string","jsonPath":".spec.runtime","description":"Whose handler code is loaded into them."}"#,
    printcolumn = r#"{"name":"MEMORY","type":"string","jsonPath":".spec.resources.memory","description":"Most memory of a function that it serves."}"#,
    printcolumn = r#"{"name":"CPU","type":"string","jsonPath":".spec.resources.cpu","description":"Most cpu of a function that it serves."}"#,
    printcolumn = r#"{"name":"AGE","type":"date","jsonPath":".metadata.creationTimestamp","description":"Since it was made."}"#
)]
#[x_kube(validation = size_rule())]
#[serde(rename_all = "camelCase")]
pub struct WarmPoolSpec {
    /// How many pods are parked.
    #[serde(default)]
    pub size: PoolSize,

    /// Memory and cpu of each pod: the most that a function has which is served by it.
    #[serde(default)]
    pub resources: Resources,

    /// Language runtime that its pods keep: they serve functions with handler code for it, which is loaded into them. Without
    /// one they serve functions of any image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<Runtime>,

    /// Runtime class of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub runtime_class_name: Option<String>,

    /// Labels of the nodes that the pods may run on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(length(max = 16))]
    pub node_selector: BTreeMap<String, String>,

    /// Taints that the pods tolerate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub tolerations: Vec<Toleration>,

    /// Secrets of this namespace with which images are pulled. A function that names others is not served by the pool.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub image_pull_secrets: Vec<LocalName>,

    /// Pod Security level that the pods keep, and with them every function in them.
    #[serde(default)]
    pub security: Security,
}

/// How many pods are parked: as many as were claimed within the time of a refill (99.9 % of the last hour), between
/// these two. The same number twice is a fixed size.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolSize {
    /// At least.
    #[serde(default = "default_min")]
    #[schemars(range(min = 0, max = 500))]
    pub min: i32,
    /// At most.
    #[serde(default = "default_max")]
    #[schemars(range(min = 0, max = 500))]
    pub max: i32,
}

impl Default for PoolSize {
    fn default() -> Self {
        Self { min: default_min(), max: default_max() }
    }
}

fn default_min() -> i32 {
    1
}
fn default_max() -> i32 {
    10
}

/// A Pod Security level.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Security {
    /// Images may run as root; no capabilities, no privilege escalation.
    #[default]
    Baseline,
    /// Images that run as root are refused.
    Restricted,
}

/// A taint that is tolerated.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
pub struct Toleration {
    /// Its key; without one, all taints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 317))]
    pub key: Option<String>,
    /// `Exists`, or `Equal` to the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<TolerationOperator>,
    /// Its value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub value: Option<String>,
    /// Its effect; without one, all effects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub effect: Option<String>,
}

/// How a taint's value is compared.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum TolerationOperator {
    /// It is not.
    Exists,
    /// It is the same.
    Equal,
}

/// What the controller sees of a pool.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct WarmPoolStatus {
    /// The generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
    /// Pods that are to be parked.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub wanted: i32,
    /// Pods that can be claimed now.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub parked: i32,
    /// Why so many are wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub reason: Option<String>,
    /// Ready: pods are parked as wanted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
}
