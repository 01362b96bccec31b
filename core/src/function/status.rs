//! What the controller says of a Function: observed, never per call.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
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
    /// When it is called next by any of its schedules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_schedule: Option<Time>,
    /// Its schedules, and those that were removed while their calls run. What is decided of a due time stands here before
    /// anything is sent for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub schedules: Vec<ScheduleStatus>,
    /// Ready (summary), InstancesReady, ImageResolved; Reconciling and Stalled only while true.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
}

/// What is known of one schedule.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ScheduleStatus {
    /// Its name.
    #[schemars(length(max = 63))]
    pub name: String,
    /// Cron expression and time zone by which it was last worked out: with others it begins anew.
    #[schemars(length(max = 256))]
    pub rule: String,
    /// The first due time of which nothing is decided yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_due: Option<Time>,
    /// The one that was decided last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<LastFired>,
    /// Due times for which a call was or may have been sent, and of which it is not known yet how it ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub open: Vec<OpenFire>,
}

/// What became of a due time.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct LastFired {
    /// Which.
    pub due: Time,
    /// What became of it.
    pub outcome: Fired,
    /// Why, as one stable word.
    #[schemars(length(max = 128))]
    pub reason: String,
}

/// What became of a due time.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fired {
    /// Its call was answered with a status below 400.
    Ran,
    /// Its call failed, was refused, or was ended by the next one.
    Failed,
    /// No call was made of it.
    Skipped,
    /// Nobody knows whether its call ran: who had it was lost. It is not made again.
    Unknown,
}

/// A due time whose call was or may have been sent.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct OpenFire {
    /// Which.
    pub due: Time,
    /// The one activator that may have it: name, id and life.
    #[schemars(length(max = 320))]
    pub activator: String,
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
