//! The Function resource: what a user writes, its schema, and its status.
//!
//! Bounds stand in the schema (and so in the CRD), rules across fields in [`rules`]: the API server, the command line
//! and the controller all read them from here. Integers are i32 or i64: unsigned formats make `kubectl apply` warn.

#![expect(unreachable_pub, reason = "the schema derive repeats each struct inside a function")]

pub mod container;
pub mod rules;
pub mod status;

pub use container::{
    EnvFrom, EnvVar, EnvVarSource, KeyRef, LocalName, Protocol, Resources, Runtime, SecurityContext, Source, SourceFile,
};
pub use status::{Address, Fired, FunctionStatus, InstanceCounts, LastFired, OpenFire, ScheduleStatus, State};

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// Annotation that puts a function to sleep, with each new value: instances that neither calls nor warm capacity need are
/// let go at once, the others with the end of the calls.
pub const SLEEP: &str = "dormouse.dev/sleep";

/// A function: an image or handler code that sleeps at zero instances, wakes on a call and bills by the call.
///
/// `spec.image` is a container that speaks HTTP on `$PORT`, `spec.source` a handler on a language runtime. Everything else
/// has a default.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[kube(
    group = "dormouse.dev",
    version = "v1alpha1",
    kind = "Function",
    plural = "functions",
    singular = "function",
    shortname = "fn",
    category = "dormouse",
    namespaced,
    status = "FunctionStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "A function: an image or handler code that sleeps at zero instances, wakes on a call and bills by the call.",
    validation = rules::name_rule(),
    printcolumn = r#"{"name":"URL","type":"string","jsonPath":".status.url","description":"Where it is called."}"#,
    printcolumn = r#"{"name":"READY","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].status","description":"True also while it sleeps."}"#,
    printcolumn = r#"{"name":"REASON","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].reason","description":"Why."}"#,
    printcolumn = r#"{"name":"INSTANCES","type":"integer","jsonPath":".status.instances.ready","description":"Instances that take calls now."}"#,
    printcolumn = r#"{"name":"NEXT","type":"string","jsonPath":".status.nextSchedule","description":"When it is called next by the clock."}"#,
    printcolumn = r#"{"name":"STATE","type":"string","jsonPath":".status.state","description":"Idle, Waking, Active or Draining.","priority":1}"#,
    printcolumn = r#"{"name":"IMAGE","type":"string","jsonPath":".spec.image","description":"What runs.","priority":1}"#,
    printcolumn = r#"{"name":"RUNTIME","type":"string","jsonPath":".spec.source.runtime","description":"What runs its handler.","priority":1}"#,
    printcolumn = r#"{"name":"AGE","type":"date","jsonPath":".metadata.creationTimestamp","description":"Since it was made."}"#
)]
#[x_kube(
    validation = rules::IMAGE_OR_SOURCE.cel(),
    validation = rules::ENV_RESERVED.cel(),
    validation = rules::WARM_WITHIN_RESERVED.cel(),
    validation = rules::WINDOWS_WITHIN_RESERVED.cel(),
    validation = rules::SOURCE_CODE.cel(),
    validation = rules::SOURCE_RUNS.cel()
)]
#[serde(rename_all = "camelCase")]
pub struct FunctionSpec {
    /// Container image that speaks HTTP on `$PORT` (the Knative runtime contract).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,

    /// Replaces the image's entrypoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 4096)))]
    pub command: Vec<String>,

    /// Replaces the image's arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 4096)))]
    pub args: Vec<String>,

    /// The port that the function listens on; also given to it as `$PORT`.
    #[serde(default = "default_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,

    /// What the function speaks on its port.
    #[serde(default)]
    pub protocol: Protocol,

    /// Secrets of this namespace with which the image is pulled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub image_pull_secrets: Vec<LocalName>,

    /// Service account of the instances. Without one they get no token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub service_account_name: Option<String>,

    /// Restrictions on top of those that every instance has (no capabilities, no privilege escalation).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_context: Option<SecurityContext>,

    /// Handler code on a language runtime, in place of an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,

    /// Environment variables.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    pub env: Vec<EnvVar>,

    /// Secrets and ConfigMaps whose keys become environment variables.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub env_from: Vec<EnvFrom>,

    /// Memory and cpu of one instance.
    #[serde(default)]
    pub resources: Resources,

    /// Calls that one instance runs at once: a hard limit. Default 80 for an image, 1 for source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub concurrency: Option<i32>,

    /// Most calls of this function that run at once, over all activators; further ones wait. Unset: unbounded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub reserved_concurrency: Option<i32>,

    /// Calls at once that never meet a cold start; 0: none.
    #[serde(default)]
    #[schemars(range(min = 0, max = 100_000))]
    pub warm_up_concurrency: i32,

    /// Seconds from the last call until the function sleeps.
    #[serde(default = "default_idle")]
    #[schemars(range(min = 1, max = 86_400))]
    pub idle_timeout_seconds: i32,

    /// Seconds that one call may run, counted from its dispatch. Waiting has a limit of its own: queue.maxWaitSeconds.
    #[serde(default = "default_timeout")]
    #[schemars(range(min = 1, max = 3600))]
    pub timeout_seconds: i32,

    /// The waiting room in each activator.
    #[serde(default)]
    pub queue: Queue,

    /// Whether each new revision is started once when it is applied, so that Ready means it was seen to open its port.
    #[serde(default)]
    pub start_check: StartCheck,

    /// Times at which instances are kept warm.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub warm_up: Vec<WarmWindow>,

    /// Calls made by the clock.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub schedules: Vec<Schedule>,
}

/// Bounds of the waiting room.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Queue {
    /// Most calls that wait at once; further ones get 429.
    #[serde(default = "default_max_calls")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_calls: i32,
    /// Longest wait of a call in seconds; then it gets 503.
    #[serde(default = "default_max_wait")]
    #[schemars(range(min = 1, max = 3600))]
    pub max_wait_seconds: i32,
}

impl Default for Queue {
    fn default() -> Self {
        Self { max_calls: default_max_calls(), max_wait_seconds: default_max_wait() }
    }
}

/// Whether a new revision is started once when applied.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StartCheck {
    /// Started once; Ready means that its port was seen open.
    #[default]
    Always,
    /// Not started; Ready means that the manifest is valid.
    Never,
}

/// A time at which instances are kept warm.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct WarmWindow {
    /// Its name, unique in the list.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// When it opens: a cron expression.
    #[schemars(length(min = 1, max = 128))]
    pub cron: String,
    /// IANA time zone; default UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub time_zone: Option<String>,
    /// How long it stays open.
    #[schemars(range(min = 1, max = 604_800))]
    pub duration_seconds: i32,
    /// Calls at once that never meet a cold start while it is open.
    #[schemars(range(min = 1, max = 100_000))]
    pub concurrency: i32,
}

/// A call made by the clock: a POST to `/` with the headers `dormouse-event`, `dormouse-event-time` and
/// `dormouse-event-name`, which only the platform sets.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct Schedule {
    /// Its name, unique in the list: letters, digits and '-'.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[A-Za-z0-9-]+$"))]
    pub name: String,
    /// When it is due: a cron expression of five fields, of six with the second before them, or `@hourly`, `@daily`,
    /// `@midnight`, `@weekly`, `@monthly`, `@yearly`, `@annually`.
    #[schemars(length(min = 1, max = 128))]
    pub cron: String,
    /// IANA time zone; default UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub time_zone: Option<String>,
    /// Type of the event: letters, digits and '-'. A language runtime answers `warm-up` itself, without the handler,
    /// unless that asks for it.
    #[serde(default = "default_event")]
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[A-Za-z0-9-]+$"))]
    pub event: String,
    /// Body of the call. One that is JSON is sent as `application/json`, any other as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65_536))]
    pub body: Option<String>,
    /// How late it may start. Unset: 60 s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86_400))]
    pub starting_deadline_seconds: Option<i32>,
    /// What happens when the call before it still runs.
    #[serde(default)]
    pub overlap: Overlap,
}

/// What happens when a timed call is due while the one before it runs.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overlap {
    /// Both run; at most 16 at once.
    #[default]
    Allow,
    /// The new one is skipped.
    Forbid,
    /// The old one is ended, and its instance replaced as after a timeout.
    Replace,
}

impl FunctionSpec {
    /// Calls that one instance runs at once, with the default of its kind.
    #[must_use]
    pub fn concurrency_or_default(&self) -> i32 {
        self.concurrency.unwrap_or(if self.source.is_some() { 1 } else { 80 })
    }
}

fn default_event() -> String {
    "schedule".into()
}
fn default_port() -> i32 {
    8080
}
fn default_idle() -> i32 {
    60
}
fn default_timeout() -> i32 {
    30
}
fn default_max_calls() -> i32 {
    1000
}
fn default_max_wait() -> i32 {
    30
}
