//! What the controller says of a Function: observed, never per call.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// What the controller sees of a function.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct FunctionStatus {
    /// The generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
    /// Where the function is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub url: Option<String>,
    /// The same, in the shape that Knative eventing reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Address>,
    /// The revision that takes traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub revision: Option<String>,
    /// Instances of all its revisions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instances: Option<InstanceCounts>,
    /// What it is doing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// Ready (summary), InstancesReady, ImageResolved; Reconciling and Stalled only while true.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
}

/// Where a function is called.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
pub struct Address {
    /// The address.
    #[schemars(length(max = 1024))]
    pub url: String,
}

/// How many instances there are.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct InstanceCounts {
    /// Wanted now.
    #[schemars(range(min = 0))]
    pub wanted: i32,
    /// With their port open, taking calls.
    #[schemars(range(min = 0))]
    pub ready: i32,
    /// Kept ready without calls.
    #[schemars(range(min = 0))]
    pub warm: i32,
}

/// What a function is doing.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum State {
    /// No instance, no call.
    #[default]
    Idle,
    /// Calls wait for the first instance.
    Waking,
    /// At least one instance takes calls.
    Active,
    /// Running calls end; no new ones are taken.
    Draining,
}

/// Conditions merge by their type; every text is bounded as the API conventions ask.
pub(crate) fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "description": "Ready (summary), InstancesReady, ImageResolved; Reconciling and Stalled only while true.",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "description": "One aspect of the function's state.",
            "required": ["type", "status", "reason", "message", "lastTransitionTime"],
            "properties": {
                "type": {"type": "string", "maxLength": 63, "description": "Which aspect."},
                "status": {"type": "string", "enum": ["True", "False", "Unknown"], "description": "Whether it holds."},
                "reason": {"type": "string", "maxLength": 128, "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$", "description": "Why, as one stable word."},
                "message": {"type": "string", "maxLength": 32768, "description": "Why, for people."},
                "lastTransitionTime": {"type": "string", "format": "date-time", "description": "When its status last changed."},
                "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0, "description": "The generation it speaks of."}
            }
        }
    })
}
