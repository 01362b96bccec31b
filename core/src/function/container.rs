//! The part of a Function that says what runs: the fields that make a revision.

#![allow(
    dead_code,
    reason = "the schema derive repeats each struct inside a function, and reads no field that is skipped"
)]

use crate::source::Code;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What a function speaks on its port.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 without TLS.
    H2c,
}

/// An object of the same namespace, by name.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
pub struct LocalName {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Memory and cpu of one instance.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Resources {
    /// Memory as a Kubernetes quantity, request and limit; what GB-seconds are counted with. 16Mi to 1Ti.
    #[serde(default = "default_memory")]
    #[schemars(length(min = 1, max = 20), regex(pattern = "^[0-9]{1,13}(Ki|Mi|Gi|Ti|k|M|G|T)?$"))]
    pub memory: String,
    /// Cpu as a Kubernetes quantity, request only. 1m to 256.
    #[serde(default = "default_cpu")]
    #[schemars(length(min = 1, max = 20), regex(pattern = "^[0-9]{1,9}(m|(\\.[0-9]{1,3}))?$"))]
    pub cpu: String,
}

impl Default for Resources {
    fn default() -> Self {
        Self { memory: default_memory(), cpu: default_cpu() }
    }
}

fn default_memory() -> String {
    "256Mi".into()
}
fn default_cpu() -> String {
    "100m".into()
}

/// One environment variable: a value, or where it comes from.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct EnvVar {
    /// Its name.
    #[schemars(length(min = 1, max = 128), regex(pattern = "^[A-Za-z_][A-Za-z0-9_.-]*$"))]
    pub name: String,
    /// Its value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32_768))]
    pub value: Option<String>,
    /// Where its value comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_from: Option<EnvVarSource>,
}

/// Where a value comes from: exactly one of the two.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct EnvVarSource {
    /// A key of a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<KeyRef>,
    /// A key of a ConfigMap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<KeyRef>,
}

/// A key of a Secret or ConfigMap of the same namespace.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
pub struct KeyRef {
    /// The object's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key in it.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
    /// Whether the function starts without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
}

/// A Secret or ConfigMap whose keys become environment variables: exactly one of the two.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct EnvFrom {
    /// Put before each key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub prefix: Option<String>,
    /// The Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalName>,
    /// The ConfigMap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_ref: Option<LocalName>,
}

/// The subset of a container's security context that a function may set.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct SecurityContext {
    /// User id of the process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub run_as_user: Option<i64>,
    /// Group id of the process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub run_as_group: Option<i64>,
    /// Refuse to start as root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_as_non_root: Option<bool>,
    /// Mount the image read-only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only_root_filesystem: Option<bool>,
}

/// Handler code on a language runtime: exactly one of `inline`, `configMap` and the function's `image`, which then is built
/// from a runtime's image and holds the code.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// The language runtime.
    pub runtime: Runtime,
    /// File and export, for example `index.handler`.
    #[schemars(length(min = 3, max = 255), regex(pattern = "^[^./][^/]*(/[^/]+)*\\.[A-Za-z_$][A-Za-z0-9_$]*$"))]
    pub handler: String,
    /// The code itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 262_144))]
    pub inline: Option<String>,
    /// A ConfigMap whose keys are the files; `..` in a key stands for the `/` of a path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<SourceFile>,
    /// The files, once whoever reads the object has looked for them; never written anywhere with it.
    #[serde(skip)]
    #[schemars(skip)]
    pub code: Option<Arc<Code>>,
    /// Why there are none, when they were looked for and not found.
    #[serde(skip)]
    #[schemars(skip)]
    pub missing: Option<String>,
}

/// A ConfigMap that holds code.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
pub struct SourceFile {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// One key of it; without it all keys are files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub key: Option<String>,
}

/// A language runtime.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// Node.js.
    #[default]
    Nodejs,
    /// Python.
    Python,
}

impl Runtime {
    /// Its name, as manifests have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nodejs => "nodejs",
            Self::Python => "python",
        }
    }

    /// The one of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Nodejs, Self::Python].into_iter().find(|runtime| runtime.name() == name)
    }
}
