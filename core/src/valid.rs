//! A manifest becomes a [`ValidFunction`], or every reason why not.
//!
//! Three readings, all of them told at once: the schema (generated from the types: bounds, required and unknown fields),
//! the rules across fields ([`crate::function::rules`]), and what neither can say (quantities, references).

pub mod schema;

use crate::function::{
    EnvFrom, EnvVar, Function, FunctionSpec, LocalName, Protocol, Runtime, SecurityContext, Source, StartCheck, rules,
};
use crate::schedule::Schedules;
use crate::source::{self, Code};
use crate::warm::Windows;
use crate::{FunctionKey, quantity};
use serde_json::Value;
use std::{collections::HashSet, fmt, sync::Arc, time::Duration};

/// Annotation that says how an instance is run where there are no containers.
pub const LOCAL_COMMAND: &str = "dormouse.dev/local-command";

/// One thing wrong with a manifest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// Where: `spec.env[2].name`.
    pub path: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl Fault {
    /// A fault at a path.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// A function that keeps every rule. Made only by [`ValidFunction::from_value`] and [`ValidFunction::from_function`].
#[derive(Clone, Debug, PartialEq)]
pub struct ValidFunction {
    /// Namespace and name.
    pub key: FunctionKey,
    /// The object's uid; empty when it was never in a cluster.
    pub uid: String,
    /// The object's generation; 0 when it was never in a cluster.
    pub generation: i64,
    /// The container image that runs; `None`: the runtime's own.
    pub image: Option<String>,
    /// The handler that it runs, if it is a runtime's.
    pub source: Option<Handler>,
    /// Replaces the image's entrypoint when not empty.
    pub command: Vec<String>,
    /// Replaces the image's arguments when not empty.
    pub args: Vec<String>,
    /// Where the instance listens.
    pub port: u16,
    /// What the instance speaks there.
    pub protocol: Protocol,
    /// Environment as written.
    pub env: Vec<EnvVar>,
    /// Environment taken from whole objects.
    pub env_from: Vec<EnvFrom>,
    /// Secrets to pull the image with.
    pub image_pull_secrets: Vec<LocalName>,
    /// Service account, when it wants one.
    pub service_account_name: Option<String>,
    /// Restrictions beyond our own.
    pub security_context: Option<SecurityContext>,
    /// Memory in MiB, request and limit.
    pub memory_mib: u32,
    /// Cpu request in thousandths.
    pub cpu_millis: u32,
    /// Calls an instance runs at once, 1 to 1000.
    pub concurrency: u32,
    /// Most calls of it at once, over all activators; `None`: unbounded.
    pub reserved_concurrency: Option<u32>,
    /// Calls at once that never meet a cold start.
    pub warm_up_concurrency: u32,
    /// Times at which more are.
    pub windows: Windows,
    /// Calls by the clock.
    pub schedules: Schedules,
    /// From the last call to zero.
    pub idle_timeout: Duration,
    /// From dispatch to the end of a call.
    pub timeout: Duration,
    /// Most calls that wait, in each activator.
    pub queue_max_calls: u32,
    /// Longest wait of a call.
    pub queue_max_wait: Duration,
    /// Whether each new revision is started once.
    pub start_check: StartCheck,
    /// How an instance is run where there are no containers.
    pub local_command: Option<String>,
}

/// A handler on a language runtime.
#[derive(Clone, Debug, PartialEq)]
pub struct Handler {
    /// The language runtime.
    pub runtime: Runtime,
    /// Module and export.
    pub name: String,
    /// Its files; `None` when an image holds them, or nobody has found them yet.
    pub code: Option<Arc<Code>>,
}

impl Handler {
    fn of(source: &Source, function: &Function) -> Self {
        Self { runtime: source.runtime, name: source.handler.clone(), code: source::code_of(function) }
    }
}

impl ValidFunction {
    /// Whether its code comes beside its image: sent to a runtime, or mounted for one that boots.
    #[must_use]
    pub fn brings_code(&self) -> bool {
        self.source.as_ref().is_some_and(|handler| handler.code.is_some())
    }

    /// Reads a manifest as it was written.
    ///
    /// # Errors
    /// Every fault, sorted by path.
    pub fn from_value(manifest: &Value) -> Result<(Function, Self), Vec<Fault>> {
        Self::from_value_beside(manifest, |_| Ok(None))
    }

    /// Reads a manifest whose code may stand beside it: `beside` is asked for it when the manifest does not say where it is.
    ///
    /// # Errors
    /// Every fault, sorted by path.
    pub fn from_value_beside(
        manifest: &Value,
        beside: impl FnOnce(&Function) -> Result<Option<Code>, Fault>,
    ) -> Result<(Function, Self), Vec<Fault>> {
        let mut faults = schema::check(manifest);
        match serde_json::from_value::<Function>(manifest.clone()) {
            Ok(mut function) => {
                let nowhere = function.spec.image.is_none();
                let source = function.spec.source.as_ref();
                if nowhere && source.is_some_and(|s| s.inline.is_none() && s.config_map.is_none()) {
                    let found = beside(&function).map_err(|fault| faults.push(fault)).unwrap_or_default();
                    function.spec.source.iter_mut().for_each(|source| source.code = found.clone().map(Arc::new));
                }
                let (parts, more) = read(&function);
                faults.extend(more);
                if let (true, Some(valid)) = (faults.is_empty(), parts) {
                    return Ok((function, valid));
                }
            }
            Err(e) if faults.is_empty() => faults.push(Fault::new("", e.to_string())),
            // The schema has told why; the rest of the manifest is read without those fields.
            Err(_) => {
                if let Ok(function) = serde_json::from_value::<Function>(schema::without(manifest, &faults)) {
                    let told = |f: &Fault| faults.iter().any(|t| f.path.starts_with(&t.path));
                    let more: Vec<Fault> = read(&function).1.into_iter().filter(|f| !told(f)).collect();
                    faults.extend(more);
                }
            }
        }
        faults.sort();
        faults.dedup();
        Err(faults)
    }

    /// Reads an object that came from the API server.
    ///
    /// # Errors
    /// Every fault, sorted by path.
    pub fn from_function(function: &Function) -> Result<Self, Vec<Fault>> {
        let spec = serde_json::to_value(&function.spec).unwrap_or(Value::Null);
        let mut faults = schema::check_spec(&spec);
        let (parts, more) = read(function);
        faults.extend(more);
        faults.sort();
        faults.dedup();
        match parts {
            Some(valid) if faults.is_empty() => Ok(valid),
            _ => Err(faults),
        }
    }
}

/// What the schema cannot say. The first part is there when every quantity could be read.
fn read(function: &Function) -> (Option<ValidFunction>, Vec<Fault>) {
    let meta = &function.metadata;
    let spec = &function.spec;
    let mut faults = Vec::new();
    let name = meta.name.clone().unwrap_or_default();
    if !rules::name_is_valid(&name) {
        faults.push(Fault::new("metadata.name", rules::NAME_MESSAGE));
    }
    for rule in rules::ALL {
        if !(rule.keeps)(spec) {
            faults.push(Fault::new(format!("spec.{}", rule.path), rule.message));
        }
    }
    check_env(spec, &mut faults);
    check_inline(spec, &mut faults);
    let memory = quantity::memory_mib(&spec.resources.memory)
        .map_err(|e| faults.push(Fault::new("spec.resources.memory", e.to_string())));
    let cpu = quantity::cpu_millis(&spec.resources.cpu)
        .map_err(|e| faults.push(Fault::new("spec.resources.cpu", e.to_string())));
    let windows = Windows::read(&spec.warm_up).map_err(|more| faults.extend(more));
    let schedules = Schedules::read(&spec.schedules).map_err(|more| faults.extend(more));
    let (Ok(memory_mib), Ok(cpu_millis), Ok(windows), Ok(schedules)) = (memory, cpu, windows, schedules) else {
        return (None, faults);
    };
    let namespace = meta.namespace.clone().unwrap_or_else(|| "default".into());
    let valid = build(function, FunctionKey::new(namespace, name), (memory_mib, cpu_millis), (windows, schedules));
    (valid, faults)
}

/// The parts that are in range by the schema; `None` when one is not (the schema has said so).
fn build(
    function: &Function,
    key: FunctionKey,
    (memory_mib, cpu_millis): (u32, u32),
    (windows, schedules): (Windows, Schedules),
) -> Option<ValidFunction> {
    let spec = &function.spec;
    let seconds = |s: i32| u64::try_from(s).ok().map(Duration::from_secs);
    Some(ValidFunction {
        key,
        uid: function.metadata.uid.clone().unwrap_or_default(),
        generation: function.metadata.generation.unwrap_or_default(),
        image: spec.image.clone(),
        source: spec.source.as_ref().map(|source| Handler::of(source, function)),
        command: spec.command.clone(),
        args: spec.args.clone(),
        port: u16::try_from(spec.port).ok()?,
        protocol: spec.protocol,
        env: spec.env.clone(),
        env_from: spec.env_from.clone(),
        image_pull_secrets: spec.image_pull_secrets.clone(),
        service_account_name: spec.service_account_name.clone(),
        security_context: spec.security_context.clone(),
        memory_mib,
        cpu_millis,
        concurrency: u32::try_from(spec.concurrency_or_default()).ok()?,
        reserved_concurrency: spec.reserved_concurrency.map(u32::try_from).transpose().ok()?,
        warm_up_concurrency: u32::try_from(spec.warm_up_concurrency).ok()?,
        windows,
        schedules,
        idle_timeout: seconds(spec.idle_timeout_seconds)?,
        timeout: seconds(spec.timeout_seconds)?,
        queue_max_calls: u32::try_from(spec.queue.max_calls).ok()?,
        queue_max_wait: seconds(spec.queue.max_wait_seconds)?,
        start_check: spec.start_check,
        local_command: function.metadata.annotations.as_ref().and_then(|a| a.get(LOCAL_COMMAND)).cloned(),
    })
}

/// Code in the manifest keeps the bounds of a load.
fn check_inline(spec: &FunctionSpec, faults: &mut Vec<Fault>) {
    let Some(source) = &spec.source else { return };
    if let Some(Err(error)) = source.inline.as_ref().map(|text| Code::inline(source, text)) {
        faults.push(Fault::new("spec.source.inline", error.to_string()));
    }
}

/// Each variable has one source, each name is set once (server-side apply refuses a list with a key twice).
fn check_env(spec: &FunctionSpec, faults: &mut Vec<Fault>) {
    let mut names = HashSet::new();
    for (i, var) in spec.env.iter().enumerate() {
        let path = format!("spec.env[{i}]");
        if !names.insert(var.name.as_str()) {
            faults.push(Fault::new(format!("{path}.name"), format!("{:?} is set twice: remove one", var.name)));
        }
        if let Some(from) = &var.value_from {
            let path = format!("{path}.valueFrom");
            if from.secret_key_ref.is_some() == from.config_map_key_ref.is_some() {
                faults.push(Fault::new(&path, "name exactly one of secretKeyRef and configMapKeyRef"));
            }
            if var.value.is_some() {
                faults.push(Fault::new(path, "value and valueFrom exclude each other: remove one"));
            }
        }
    }
    for (i, from) in spec.env_from.iter().enumerate() {
        if from.secret_ref.is_some() == from.config_map_ref.is_some() {
            faults.push(Fault::new(format!("spec.envFrom[{i}]"), "name exactly one of secretRef and configMapRef"));
        }
    }
}

#[cfg(test)]
mod tests;
