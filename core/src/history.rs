//! What is kept of a function's revisions, so that one of them can be run again: the fields that say what runs, in the
//! order in which they came into use.
//!
//! A revision's name is a hash of those fields ([`crate::revision`]): writing them back makes that very revision again.

use crate::function::FunctionSpec;
use serde_json::{Map, Value};
use std::collections::HashSet;

/// Revisions that are kept for each function: what Deployments keep, too. A live one is kept beyond them.
pub const KEPT: usize = 10;

/// The fields of a spec that make no revision: they say how many instances there are and who may call them.
pub const SCALING: [&str; 8] = [
    "concurrency",
    "reservedConcurrency",
    "warmUpConcurrency",
    "idleTimeoutSeconds",
    "queue",
    "startCheck",
    "warmUp",
    "schedules",
];

/// The fields of a spec that make its revision, as they are written.
#[must_use]
pub fn running(spec: &FunctionSpec) -> Map<String, Value> {
    match serde_json::to_value(spec) {
        Ok(Value::Object(fields)) => {
            fields.into_iter().filter(|(field, _)| !SCALING.contains(&field.as_str())).collect()
        }
        _ => Map::new(),
    }
}

/// The JSON merge patch (RFC 7396) that makes a spec run what a revision ran; scaling fields stay as they are.
#[must_use]
pub fn restored(spec: &FunctionSpec, revision: &Map<String, Value>) -> Value {
    let wanted = revision.iter().filter(|(field, _)| !SCALING.contains(&field.as_str()));
    let wanted: Map<String, Value> = wanted.map(|(field, value)| (field.clone(), value.clone())).collect();
    Value::Object(difference(&running(spec), &wanted))
}

/// A merge patch would leave what the new object does not name: each such field is named with null.
fn difference(from: &Map<String, Value>, to: &Map<String, Value>) -> Map<String, Value> {
    let gone = from.keys().filter(|field| !to.contains_key(*field)).map(|field| (field.clone(), Value::Null));
    let mut patch: Map<String, Value> = gone.collect();
    for (field, value) in to {
        match (from.get(field), value) {
            (Some(before), now) if before == now => {}
            (Some(Value::Object(before)), Value::Object(now)) => {
                patch.insert(field.clone(), Value::Object(difference(before, now)));
            }
            (_, now) => {
                patch.insert(field.clone(), now.clone());
            }
        }
    }
    patch
}

/// A revision that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The revision's name.
    pub revision: String,
    /// Its place in the order: the larger, the later it came into use.
    pub number: i64,
}

/// The number of a revision that comes into use now; `None` when it is the newest already.
#[must_use]
pub fn number(kept: &[Entry], revision: &str) -> Option<i64> {
    match kept.iter().max_by_key(|entry| entry.number) {
        None => Some(1),
        Some(newest) if newest.revision == revision => None,
        Some(newest) => Some(newest.number.saturating_add(1)),
    }
}

/// The revisions that are kept no longer, oldest first: those beyond the newest [`KEPT`], but never a live one.
#[must_use]
pub fn surplus(kept: &[Entry], live: &HashSet<String>) -> Vec<String> {
    let mut by_age: Vec<&Entry> = kept.iter().collect();
    by_age.sort_by_key(|entry| entry.number);
    let beyond = by_age.len().saturating_sub(KEPT);
    let old = by_age.into_iter().take(beyond).filter(|entry| !live.contains(&entry.revision));
    old.map(|entry| entry.revision.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::function::Function;
    use crate::revision::Revision;
    use kube::CustomResourceExt;
    use proptest::prelude::*;
    use serde_json::json;

    fn spec(value: Value) -> FunctionSpec {
        serde_json::from_value(value).unwrap()
    }

    /// With each field of the schema, none of them at its default.
    fn full() -> Value {
        json!({
            "image": "b", "command": ["x"], "args": ["x"], "port": 1, "protocol": "h2c",
            "imagePullSecrets": [{"name": "x"}], "serviceAccountName": "x", "securityContext": {"runAsUser": 1},
            "source": {"runtime": "nodejs", "handler": "a.b"}, "env": [{"name": "x", "value": "1"}],
            "envFrom": [{"secretRef": {"name": "x"}}], "resources": {"memory": "1Gi", "cpu": "1"}, "timeoutSeconds": 1,
            "concurrency": 3, "reservedConcurrency": 9, "warmUpConcurrency": 2, "idleTimeoutSeconds": 7,
            "queue": {"maxCalls": 1, "maxWaitSeconds": 1}, "startCheck": "Never",
            "warmUp": [{"name": "a", "cron": "* * * * *", "durationSeconds": 1, "concurrency": 1}],
            "schedules": [{"name": "a", "cron": "* * * * *"}]
        })
    }

    /// What is kept and what is hashed are the same fields, whatever is added to the spec.
    #[test]
    fn the_fields_kept_are_those_that_make_a_revision() {
        let crd = serde_json::to_value(Function::crd()).unwrap();
        let schema = crd.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties").unwrap();
        let (whole, kept) = (spec(full()), running(&spec(full())));
        for field in schema.as_object().unwrap().keys() {
            let mut without = full();
            assert!(without.as_object_mut().unwrap().remove(field).is_some(), "add {field} to this test's spec");
            let runs = Revision::of(&spec(without)) != Revision::of(&whole);
            assert_eq!(kept.contains_key(field), runs, "{field}");
        }
    }

    #[test]
    fn what_a_revision_does_not_name_is_taken_away() {
        let now = spec(json!({"image": "b", "env": [{"name": "A", "value": "1"}], "concurrency": 3,
            "securityContext": {"runAsUser": 1, "runAsNonRoot": true}}));
        let before = running(&spec(json!({"image": "a", "securityContext": {"runAsGroup": 2}})));
        let security = json!({"runAsGroup": 2, "runAsNonRoot": null, "runAsUser": null});
        assert_eq!(restored(&now, &before), json!({"image": "a", "env": null, "securityContext": security}));
        assert_eq!(restored(&now, &running(&now)), json!({}));
    }

    /// RFC 7396, as the API server applies it.
    fn merge(target: &mut Value, patch: &Value) {
        let Value::Object(patch) = patch else { return *target = patch.clone() };
        if !target.is_object() {
            *target = json!({});
        }
        let target = target.as_object_mut().unwrap();
        for (field, value) in patch {
            if value.is_null() {
                target.remove(field);
            } else {
                merge(target.entry(field.clone()).or_insert(Value::Null), value);
            }
        }
    }

    fn any_spec() -> impl Strategy<Value = FunctionSpec> {
        proptest::collection::vec(any::<bool>(), 24).prop_map(|chosen| {
            let mut fields = full();
            let object = fields.as_object_mut().unwrap();
            let names: Vec<String> = object.keys().cloned().collect();
            for (name, _) in names.iter().zip(&chosen).filter(|(_, keep)| !**keep) {
                object.remove(name);
            }
            if chosen[22] {
                object.insert("securityContext".into(), json!({"runAsGroup": 3, "readOnlyRootFilesystem": true}));
            }
            if chosen[23] {
                object.insert("source".into(), json!({"runtime": "python", "handler": "a.c", "inline": "x"}));
            }
            spec(fields)
        })
    }

    proptest! {
        /// Going back makes the same revision again, and scales as before.
        #[test]
        fn going_back_makes_the_revision_again(old in any_spec(), new in any_spec()) {
            let mut spec = serde_json::to_value(&new).unwrap();
            merge(&mut spec, &restored(&new, &running(&old)));
            let back: FunctionSpec = serde_json::from_value(spec).unwrap();
            prop_assert_eq!(Revision::of(&back), Revision::of(&old));
            for field in SCALING {
                let of = |spec: &FunctionSpec| serde_json::to_value(spec).unwrap().get(field).cloned();
                prop_assert_eq!(of(&back), of(&new));
            }
        }

        /// No live one goes, none of the newest goes, and what goes is older than all that stay but live ones.
        #[test]
        fn the_newest_and_the_live_are_kept(count in 0_i64..30, live in proptest::collection::hash_set(0_i64..30, 0..4)) {
            let kept: Vec<Entry> = (0..count).map(|n| Entry { revision: format!("r{n}"), number: n }).collect();
            let live: HashSet<String> = live.into_iter().map(|n| format!("r{n}")).collect();
            let gone = surplus(&kept, &live);
            let beyond = kept.len().saturating_sub(KEPT);
            let wanted: Vec<String> =
                kept[..beyond].iter().map(|e| e.revision.clone()).filter(|r| !live.contains(r)).collect();
            prop_assert_eq!(gone, wanted);
        }
    }

    #[test]
    fn numbers_grow_and_the_newest_keeps_its_own() {
        let entry = |revision: &str, number| Entry { revision: revision.into(), number };
        let kept = [entry("b", 7), entry("a", 3)];
        assert_eq!(number(&[], "a"), Some(1));
        assert_eq!((number(&kept, "c"), number(&kept, "a"), number(&kept, "b")), (Some(8), Some(8), None));
    }
}
