//! Function objects as an API server would keep them: defaults, generation, time of making, finalizer.

use crate::fleet::FINALIZER;
use dormouse_core::FunctionKey;
use dormouse_core::function::{Function, SLEEP};
use dormouse_core::valid::LOCAL_COMMAND;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Namespace and name.
pub(super) fn key(function: &Function) -> FunctionKey {
    let meta = &function.metadata;
    FunctionKey::new(meta.namespace.clone().unwrap_or_else(|| "default".into()), meta.name.clone().unwrap_or_default())
}

/// The object with what only locally is known: the command that runs in place of the image's own.
pub(super) fn prepared(mut function: Function, command: Vec<String>) -> Function {
    let meta = &mut function.metadata;
    meta.namespace.get_or_insert_with(|| "default".into());
    // Drained before it goes, as in a cluster; nobody else could take it away, so it is there from the start.
    meta.finalizers = Some(vec![FINALIZER.into()]);
    function.spec.command = command;
    function.spec.args = Vec::new();
    function.status = None;
    function
}

/// True when nothing that a person writes differs.
pub(super) fn same(old: &Function, new: &Function) -> bool {
    old.spec == new.spec
        && old.metadata.labels == new.metadata.labels
        && annotations(old) == annotations(new)
        && old.metadata.deletion_timestamp.is_none()
}

fn annotations(function: &Function) -> Vec<(&String, &String)> {
    let all = function.metadata.annotations.iter().flatten();
    all.filter(|(name, _)| ![LOCAL_COMMAND, SLEEP].contains(&name.as_str())).collect()
}

/// Generation as the API server counts it: one more for each change of the spec.
pub(super) fn versioned(mut function: Function, old: Option<&Function>) -> Function {
    let meta = &mut function.metadata;
    let made = old.and_then(|o| o.metadata.creation_timestamp.clone());
    meta.creation_timestamp = Some(made.unwrap_or_else(|| Time(Timestamp::now())));
    let before = old.and_then(|o| o.metadata.generation).unwrap_or(0);
    let changed = old.is_none_or(|o| o.spec != function.spec);
    meta.generation = Some(before + i64::from(changed));
    function
}
