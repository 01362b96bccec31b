//! A manifest against the schema that the CRD carries: the part of OpenAPI v3 that structural schemas use.
//!
//! The API server does the same when asked; this tells every fault at once, without a cluster.

use super::Fault;
use crate::budget::Budget;
use crate::function::Function;
use kube::CustomResourceExt;
use serde_json::{Map, Value};
use std::sync::LazyLock;

/// Faults beyond this many are not told: a manifest with more needs another look anyway.
const MAX_FAULTS: usize = 100;

/// The schema of the whole object, as the CRD has it.
static SCHEMA: LazyLock<Value> = LazyLock::new(of::<Function>);
static BUDGET: LazyLock<Value> = LazyLock::new(of::<Budget>);

fn of<K: CustomResourceExt>() -> Value {
    let crd = serde_json::to_value(K::crd()).unwrap_or_default();
    crd.pointer("/spec/versions/0/schema/openAPIV3Schema").cloned().unwrap_or_default()
}

/// Every fault of a Function's manifest against the schema.
#[must_use]
pub fn check(manifest: &Value) -> Vec<Fault> {
    check_object(manifest, "Function", &SCHEMA)
}

/// Every fault of a Budget's manifest against the schema.
#[must_use]
pub fn check_budget(manifest: &Value) -> Vec<Fault> {
    check_object(manifest, "Budget", &BUDGET)
}

fn check_object(manifest: &Value, name: &str, schema: &Value) -> Vec<Fault> {
    let mut faults = Vec::new();
    let Some(object) = manifest.as_object() else {
        return vec![Fault::new("", format!("a {name} is an object, this is {}", kind(manifest)))];
    };
    check_head(object, name, &mut faults);
    if let (Some(spec), Some(schema)) = (object.get("spec"), schema.pointer("/properties/spec")) {
        walk(spec, schema, "spec", &mut faults);
    }
    faults
}

/// Every fault of a spec against the schema.
#[must_use]
pub fn check_spec(spec: &Value) -> Vec<Fault> {
    let mut faults = Vec::new();
    if let Some(schema) = SCHEMA.pointer("/properties/spec") {
        walk(spec, schema, "spec", &mut faults);
    }
    faults
}

/// The manifest without what is at fault, so that the rest of it can be read: a field at fault is left out, a missing
/// one and a list item become an empty text.
#[must_use]
pub fn without(manifest: &Value, faults: &[Fault]) -> Value {
    let mut rest = manifest.clone();
    for fault in faults {
        let (parent, leaf) = fault.path.rsplit_once('.').unwrap_or(("", &fault.path));
        let pointer = pointer(parent);
        let Some(object) = rest.pointer_mut(&pointer).and_then(Value::as_object_mut) else { continue };
        match leaf.split_once('[') {
            Some((list, index)) => {
                let index = index.trim_end_matches(']').parse::<usize>().ok();
                let item = index.and_then(|i| object.get_mut(list).and_then(|l| l.get_mut(i)));
                if let Some(item) = item {
                    *item = Value::String(String::new());
                }
            }
            None if object.remove(leaf).is_none() => {
                object.insert(leaf.into(), Value::String(String::new()));
            }
            None => {}
        }
    }
    rest
}

/// `spec.env[2]` as a JSON pointer.
fn pointer(path: &str) -> String {
    let parts = path.split(['.', '[']).filter(|p| !p.is_empty());
    parts.map(|p| format!("/{}", p.trim_end_matches(']'))).collect()
}

/// apiVersion, kind, metadata and no field that objects of the kind do not have.
fn check_head(object: &Map<String, Value>, name: &str, faults: &mut Vec<Fault>) {
    for (field, wanted) in [("apiVersion", "dormouse.dev/v1alpha1"), ("kind", name)] {
        match object.get(field) {
            Some(Value::String(text)) if text == wanted => {}
            Some(other) => faults.push(Fault::new(field, format!("must be {wanted:?}, is {other}"))),
            None => faults.push(Fault::new(field, format!("is missing: must be {wanted:?}"))),
        }
    }
    match object.get("metadata") {
        Some(Value::Object(meta)) if meta.get("name").is_some_and(Value::is_string) => {}
        Some(Value::Object(_)) => faults.push(Fault::new("metadata.name", "is missing")),
        Some(other) => faults.push(Fault::new("metadata", format!("must be an object, is {}", kind(other)))),
        None => faults.push(Fault::new("metadata", "is missing")),
    }
    if !object.contains_key("spec") {
        faults.push(Fault::new("spec", "is missing"));
    }
    for field in object.keys() {
        if !["apiVersion", "kind", "metadata", "spec", "status"].contains(&field.as_str()) {
            faults.push(Fault::new(field, format!("is not a field of a {name}")));
        }
    }
}

fn walk(value: &Value, schema: &Value, path: &str, faults: &mut Vec<Fault>) {
    if faults.len() >= MAX_FAULTS || (value.is_null() && schema["nullable"] == true) {
        return;
    }
    let wanted = schema["type"].as_str().unwrap_or("any");
    let fits = match wanted {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        _ => true,
    };
    if !fits {
        faults.push(Fault::new(path, format!("must be {} {wanted}, is {}", article(wanted), kind(value))));
        return;
    }
    match value {
        Value::Object(object) => walk_object(object, schema, path, faults),
        Value::Array(items) => walk_array(items, schema, path, faults),
        Value::String(text) => check_text(text, schema, path, faults),
        Value::Number(number) => check_number(number, schema, path, faults),
        Value::Bool(_) | Value::Null => {}
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        let names: Vec<String> = allowed.iter().filter(|v| !v.is_null()).map(ToString::to_string).collect();
        faults.push(Fault::new(path, format!("must be one of {}, is {value}", names.join(", "))));
    }
}

fn walk_object(object: &Map<String, Value>, schema: &Value, path: &str, faults: &mut Vec<Fault>) {
    let Some(properties) = schema["properties"].as_object() else { return };
    for field in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !object.contains_key(field) {
            faults.push(Fault::new(format!("{path}.{field}"), "is missing"));
        }
    }
    for (field, value) in object {
        let path = format!("{path}.{field}");
        match properties.get(field) {
            Some(schema) => walk(value, schema, &path, faults),
            None => faults.push(Fault::new(path, unknown(field, properties))),
        }
    }
}

/// Names the field that was probably meant.
fn unknown(field: &str, properties: &Map<String, Value>) -> String {
    let near = properties.keys().map(|k| (distance(field, k), k)).min().filter(|(d, _)| *d <= 2.max(field.len() / 4));
    match near {
        Some((_, name)) => format!("is not a field here: did you mean {name}?"),
        None => format!("is not a field here: there are {}", properties.keys().cloned().collect::<Vec<_>>().join(", ")),
    }
}

/// Levenshtein distance without regard to case, by one row of the table.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.to_ascii_lowercase(), b.to_ascii_lowercase());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

fn walk_array(items: &[Value], schema: &Value, path: &str, faults: &mut Vec<Fault>) {
    if let Some(max) = schema["maxItems"].as_u64().filter(|max| items.len() as u64 > *max) {
        faults.push(Fault::new(path, format!("has {} items, more than {max}", items.len())));
    }
    for (i, item) in items.iter().enumerate() {
        walk(item, &schema["items"], &format!("{path}[{i}]"), faults);
    }
}

/// Lengths count characters, as the API server counts them.
fn check_text(text: &str, schema: &Value, path: &str, faults: &mut Vec<Fault>) {
    let len = text.chars().count() as u64;
    if let Some(max) = schema["maxLength"].as_u64().filter(|max| len > *max) {
        faults.push(Fault::new(path, format!("has {len} characters, more than {max}")));
    }
    if let Some(min) = schema["minLength"].as_u64().filter(|min| len < *min) {
        let message = if len == 0 { "is empty".into() } else { format!("has {len} characters, fewer than {min}") };
        faults.push(Fault::new(path, message));
    }
    if let Some(pattern) = schema["pattern"].as_str()
        && !pattern_fits(pattern, text)
    {
        faults.push(Fault::new(path, format!("{text:?} does not match {pattern}")));
    }
}

fn pattern_fits(pattern: &str, text: &str) -> bool {
    // The patterns are our own, few and compiled once by the cache.
    static CACHE: LazyLock<std::sync::Mutex<std::collections::HashMap<String, Option<regex::Regex>>>> =
        LazyLock::new(Default::default);
    let mut cache = CACHE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    cache
        .entry(pattern.into())
        .or_insert_with(|| regex::Regex::new(pattern).ok())
        .as_ref()
        .is_none_or(|r| r.is_match(text))
}

fn check_number(number: &serde_json::Number, schema: &Value, path: &str, faults: &mut Vec<Fault>) {
    let Some(n) = number.as_f64() else { return };
    let (min, max) = (schema["minimum"].as_f64(), schema["maximum"].as_f64());
    if min.is_some_and(|min| n < min) || max.is_some_and(|max| n > max) {
        let bounds = match (min, max) {
            (Some(min), Some(max)) => format!("must be {min} to {max}"),
            (Some(min), None) => format!("must be at least {min}"),
            _ => format!("must be at most {}", max.unwrap_or_default()),
        };
        faults.push(Fault::new(path, format!("{bounds}, is {number}")));
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn article(name: &str) -> &'static str {
    if name.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}
