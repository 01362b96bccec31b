//! What the function's owner is told: status, conditions, events. Pure.
//!
//! Rules: an idle function is Ready=True with no False condition; Reconciling and Stalled are there only while true;
//! nothing here changes with a single call. A revision that failed to start stays Ready=False while it sleeps, until it
//! is seen to open its port or the spec changes: sleeping mends nothing.

use super::observe::{InstanceSeen, Object, Observed};
use super::plan::{self, CHECK_LIMIT, Check, Context, Roles};
use super::schedules;
use crate::fleet::{InstanceId, Note, NoteKind, Phase, Trouble, cut};
use dormouse_core::function::{Address, FunctionStatus, InstanceCounts, State};
use dormouse_core::revision::Revision;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use std::collections::{BTreeMap, BTreeSet};

/// Longest condition message: the API allows 32 KiB; faults and troubles of one screen fit.
const MAX_TEXT: usize = 4096;

/// Where a function stands, in the words of the plan.
#[derive(Clone, Debug)]
pub struct Standing<'a> {
    /// The object.
    pub object: &'a Object,
    /// Its revisions.
    pub roles: &'a Roles,
    /// Instances wanted, over all revisions.
    pub wanted: u32,
    /// Instances that take calls.
    pub ready: u32,
    /// Of those wanted, as many are kept ready without calls.
    pub floor: u32,
    /// What it is doing.
    pub state: State,
    /// Why the spec's revision does not run and will not by itself.
    pub stuck: Option<&'a Trouble>,
    /// Why it does not run yet.
    pub waiting: Option<&'a Trouble>,
    /// Why callers are refused at once.
    pub callers_fail: Option<&'a Trouble>,
    /// What callers are told when they have waited for long.
    pub callers_wait: Option<&'a Trouble>,
    /// Digest of the spec's image, where one runs.
    pub digest: Option<&'a str>,
    /// Where people and programs call it.
    pub urls: (String, String),
    /// Why it does not wake in pods of warm pools.
    pub no_claims: Option<&'a str>,
    /// Why its instances in pods of warm pools are as large as those.
    pub unfit: Option<&'a str>,
    /// It is being deleted.
    pub closing: bool,
    /// Its revision's workload was made.
    pub prepared: bool,
}

/// Sums up what is observed and planned.
#[must_use]
pub fn standing<'a>(
    observed: &'a Observed,
    object: &'a Object,
    roles: &'a Roles,
    targets: &BTreeMap<Revision, u32>,
    drained: &BTreeSet<InstanceId>,
    context: &Context<'_>,
) -> Standing<'a> {
    let closing = observed.closing_since.is_some();
    let wanted = targets.values().fold(0_u32, |sum, n| sum.saturating_add(*n));
    let open = |(id, i): &(&InstanceId, &InstanceSeen)| i.is_live() && i.is_open() && !drained.contains(*id);
    let ready = u32::try_from(observed.instances.iter().filter(open).count()).unwrap_or(u32::MAX);
    let carrier = roles.serving.as_ref().unwrap_or(&roles.wanted);
    let any_ending = observed.instances.values().any(|i| i.seen.phase == Phase::Ending);
    let any_live = observed.instances.values().any(InstanceSeen::is_live);
    let state = match (closing, ready, wanted) {
        (true, ..) => State::Draining,
        (false, 1.., _) => State::Active,
        (false, 0, 1..) => State::Waking,
        (false, 0, 0) if any_live || any_ending => State::Draining,
        (false, 0, 0) => State::Idle,
    };
    let meta = &object.function.metadata;
    Standing {
        object,
        roles,
        wanted,
        ready,
        floor: if closing { 0 } else { observed.floor() },
        state,
        stuck: plan::stuck(observed, &roles.wanted),
        waiting: if wanted > 0 {
            plan::waiting(observed, &roles.wanted)
        } else {
            plan::refused(observed, &roles.wanted)
        },
        callers_fail: if ready == 0 { plan::stuck(observed, carrier) } else { None },
        callers_wait: plan::waiting(observed, carrier),
        digest: observed
            .instances
            .values()
            .filter(|i| i.seen.revision == roles.wanted)
            .find_map(|i| i.seen.image_digest.as_deref()),
        urls: plan::urls(
            meta.namespace.as_deref().unwrap_or_default(),
            meta.name.as_deref().unwrap_or_default(),
            context.urls,
        ),
        no_claims: observed.claiming.refused.as_ref().filter(|(of, _)| *of == roles.wanted).map(|(_, why)| &**why),
        unfit: observed.claiming.unfit.as_deref(),
        closing,
        prepared: observed.workloads.contains_key(&roles.wanted),
    }
}

/// One condition before it is compared with the one that stands.
pub(crate) struct Says {
    type_: &'static str,
    status: &'static str,
    reason: &'static str,
    message: String,
}

impl Says {
    pub(crate) fn new(
        type_: &'static str,
        status: &'static str,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        let mut message = message.into();
        cut(&mut message, MAX_TEXT);
        Self { type_, status, reason, message }
    }
}

/// The status that says it.
#[must_use]
pub fn status(observed: &Observed, standing: &Standing<'_>, wall: Timestamp) -> FunctionStatus {
    let generation = standing.object.function.metadata.generation;
    let ready = match ready(standing) {
        Verdict::Says(says) => says,
        Verdict::AsBefore(otherwise) => remembered(observed, standing, generation).unwrap_or(otherwise),
    };
    let failed = ready.status == "False";
    let mut says = vec![instances_ready(standing, &ready), image_resolved(observed, standing, &ready)];
    if !failed && ready.status == "Unknown" && !standing.closing {
        says.push(Says::new("Reconciling", "True", ready.reason, ready.message.clone()));
    }
    if failed {
        says.push(Says::new("Stalled", "True", ready.reason, ready.message.clone()));
    }
    says.insert(0, ready);
    let conditions = says.into_iter().map(|s| condition(s, &observed.status.conditions, generation, wall)).collect();
    FunctionStatus {
        observed_generation: generation,
        url: Some(standing.urls.0.clone()),
        address: Some(Address { url: standing.urls.1.clone() }),
        revision: standing.roles.serving.as_ref().map(ToString::to_string),
        instances: Some(InstanceCounts {
            wanted: count(standing.wanted),
            ready: count(standing.ready),
            warm: count(standing.ready.min(standing.floor)),
        }),
        state: Some(standing.state),
        next_schedule: observed.schedules.next(),
        schedules: observed.schedules.status(&observed.status),
        conditions,
    }
}

/// What Ready says: of itself, or what it said before as long as nothing new is known.
enum Verdict {
    Says(Says),
    AsBefore(Says),
}

fn ready(standing: &Standing<'_>) -> Verdict {
    let says = |status, reason, message: String| Verdict::Says(Says::new("Ready", status, reason, message));
    let Standing { object, roles, .. } = standing;
    if standing.closing {
        return says("Unknown", "Deleting", "running calls end, then everything of it is removed".into());
    }
    if !object.faults.is_empty() {
        let faults: Vec<String> = object.faults.iter().map(ToString::to_string).collect();
        let kept = if object.valid.is_some() { "; the last valid version keeps serving" } else { "" };
        return says("False", "InvalidSpec", format!("{}{kept}", faults.join("; ")));
    }
    if let Some(trouble) = standing.stuck {
        let other = roles.serving.as_ref().filter(|r| **r != roles.wanted);
        let other = other.map_or(String::new(), |r| format!("; revision {r} keeps taking the calls"));
        return says("False", trouble.code.name(), format!("{}{other}", trouble.message));
    }
    if standing.ready == 0
        && let Some(trouble) = standing.waiting
    {
        return says("Unknown", trouble.code.name(), trouble.message.clone());
    }
    if !standing.prepared {
        let message = format!("what carries revision {} is being made", roles.wanted);
        return Verdict::AsBefore(Says::new("Ready", "Unknown", "Preparing", message));
    }
    if roles.serving.as_ref() == Some(&roles.wanted) {
        let (reason, message) = match standing.state {
            State::Idle => ("Idle", "sleeps; a call wakes it".to_owned()),
            State::Waking => ("Waking", "an instance is being started".to_owned()),
            State::Active => ("Active", "takes calls".to_owned()),
            State::Draining => ("Idle", "the last instance is ending; a call wakes it".to_owned()),
        };
        let says = Says::new("Ready", "True", reason, message);
        return if standing.ready > 0 { Verdict::Says(says) } else { Verdict::AsBefore(says) };
    }
    let port = object.valid.as_ref().map_or(0, |v| v.port);
    match roles.check {
        Check::Expired(_) => Verdict::AsBefore(Says::new(
            "Ready",
            "False",
            "StartTimeout",
            format!("no instance of revision {} opened port {port} within {} s", roles.wanted, CHECK_LIMIT.as_secs()),
        )),
        // Not over a failure that was told: between two crashes its process runs for a moment.
        Check::Since(_) | Check::None => Verdict::AsBefore(Says::new(
            "Ready",
            "Unknown",
            "Starting",
            format!("revision {} is being started; port {port} is not open yet", roles.wanted),
        )),
    }
}

/// The failure that Ready told of this generation, while nothing better is known.
fn remembered(observed: &Observed, standing: &Standing<'_>, generation: Option<i64>) -> Option<Says> {
    let before = observed.status.conditions.iter().find(|c| c.type_ == "Ready")?;
    if before.status != "False" || before.observed_generation != generation || standing.object.valid.is_none() {
        return None;
    }
    let reason = FAILURES.iter().find(|r| **r == before.reason)?;
    Some(Says::new("Ready", "False", reason, before.message.clone()))
}

/// The reasons that outlive the pods that had them.
const FAILURES: [&str; 7] =
    ["ImagePullFailed", "ConfigMissing", "BadCommand", "CrashLoop", "OutOfMemory", "HandlerFailed", "StartTimeout"];

fn instances_ready(standing: &Standing<'_>, ready: &Says) -> Says {
    let says = |status, reason, message: &str| {
        let mut message = message.to_owned();
        if let Some(why) = standing.no_claims {
            message += &format!("; it does not wake in warm pools, its container is refused: {why}");
        }
        if let Some(why) = standing.unfit {
            message += &format!("; in pods of warm pools their size is its limit: {why}");
        }
        Says::new("InstancesReady", status, reason, message)
    };
    match (ready.status, standing.wanted, standing.ready) {
        ("False", ..) if ready.reason != "InvalidSpec" => says("False", ready.reason, &ready.message),
        (_, 0, _) => says("True", "Idle", "none wanted"),
        (_, wanted, ready) if ready >= wanted => says("True", "Running", "every instance wanted takes calls"),
        _ => match standing.waiting {
            Some(trouble) => says("Unknown", trouble.code.name(), &trouble.message),
            None => says("Unknown", "Starting", "instances are being started"),
        },
    }
}

fn image_resolved(observed: &Observed, standing: &Standing<'_>, ready: &Says) -> Says {
    let says = |status, reason, message: &str| Says::new("ImageResolved", status, reason, message);
    if ready.reason == "ImagePullFailed" {
        return says("False", "ImagePullFailed", &ready.message);
    }
    if let Some(digest) = standing.digest {
        return says("True", "Resolved", digest);
    }
    // What was seen of this revision stays true while it sleeps.
    let before = observed.status.conditions.iter().find(|c| c.type_ == "ImageResolved" && c.status == "True");
    let same = observed.status.revision.as_deref() == Some(standing.roles.wanted.as_str());
    match before.filter(|_| same) {
        Some(before) => says("True", "Resolved", &before.message),
        None => says("Unknown", "NotStarted", "the image's digest is known after the first start"),
    }
}

/// The time of a condition moves only when its status does.
pub(crate) fn condition(says: Says, before: &[Condition], generation: Option<i64>, wall: Timestamp) -> Condition {
    let since = before.iter().find(|c| c.type_ == says.type_ && c.status == says.status);
    Condition {
        last_transition_time: since.map_or_else(|| Time(whole_second(wall)), |c| c.last_transition_time.clone()),
        message: says.message,
        observed_generation: generation,
        reason: says.reason.to_owned(),
        status: says.status.to_owned(),
        type_: says.type_.to_owned(),
    }
}

/// Kubernetes keeps whole seconds: a finer time would differ from itself once read back.
fn whole_second(wall: Timestamp) -> Timestamp {
    Timestamp::from_second(wall.as_second()).unwrap_or(wall)
}

fn count(n: u32) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

/// What changed between two statuses, worth an event.
#[must_use]
pub fn notes(before: &FunctionStatus, after: &FunctionStatus) -> Vec<Note> {
    let due = after.schedules.iter().filter_map(|schedule| schedules::told(before, schedule));
    ready_notes(before, after).into_iter().chain(due).collect()
}

/// The same of Ready.
fn ready_notes(before: &FunctionStatus, after: &FunctionStatus) -> Vec<Note> {
    let of = |status: &FunctionStatus| status.conditions.iter().find(|c| c.type_ == "Ready").cloned();
    let Some(now) = of(after) else { return Vec::new() };
    let then = of(before);
    let same = then.as_ref().is_some_and(|c| {
        c.status == now.status && c.reason == now.reason && c.observed_generation == now.observed_generation
    });
    if same {
        return Vec::new();
    }
    let waits = ["Unschedulable", "QuotaExceeded", "AdmissionRefused"];
    let (kind, action) = match now.status.as_str() {
        "False" => (NoteKind::Warning, "Start"),
        "Unknown" if waits.contains(&now.reason.as_str()) => (NoteKind::Warning, "Start"),
        _ => (NoteKind::Normal, "Scale"),
    };
    REASONS
        .iter()
        .find(|reason| **reason == now.reason)
        .map(|reason| Note { kind, reason, action, message: now.message })
        .into_iter()
        .collect()
}

/// Every reason of Ready that is worth an event.
const REASONS: [&str; 16] = [
    "InvalidSpec",
    "Deleting",
    "Starting",
    "Waking",
    "Active",
    "Idle",
    "StartTimeout",
    "ImagePullFailed",
    "ConfigMissing",
    "BadCommand",
    "CrashLoop",
    "OutOfMemory",
    "HandlerFailed",
    "Unschedulable",
    "QuotaExceeded",
    "AdmissionRefused",
];
