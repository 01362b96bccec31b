//! Who owns which field of an object, as server-side apply counts it.

use crate::target::cluster::MANAGER;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry};
use kube::core::Status;
use serde_json::Value;

const APPLY: &str = "Apply";

/// The owners, once what this command line wrote otherwise than by apply (a rollback) counts as applied: an apply then
/// removes what its manifest does not name, and meets no conflict with itself. `None`: nothing is to be changed.
pub(crate) fn merged(managed: &[ManagedFieldsEntry]) -> Option<Vec<ManagedFieldsEntry>> {
    let ours = |entry: &&ManagedFieldsEntry| {
        entry.manager.as_deref() == Some(MANAGER) && entry.subresource.as_deref().unwrap_or_default().is_empty()
    };
    let applied = |entry: &&ManagedFieldsEntry| entry.operation.as_deref() == Some(APPLY);
    managed.iter().filter(ours).find(|e| !applied(e))?;
    let mut whole = managed.iter().filter(ours).find(applied).or_else(|| managed.iter().find(ours))?.clone();
    let mut fields = Value::Object(serde_json::Map::new());
    for entry in managed.iter().filter(ours) {
        if let Some(FieldsV1(more)) = &entry.fields_v1 {
            unite(&mut fields, more);
        }
    }
    whole.operation = Some(APPLY.into());
    whole.fields_v1 = Some(FieldsV1(fields));
    let others = managed.iter().filter(|entry| !ours(entry)).cloned();
    Some(others.chain([whole]).collect())
}

/// Fields are sets, written as objects in objects.
fn unite(set: &mut Value, more: &Value) {
    let (Value::Object(set), Value::Object(more)) = (set, more) else { return };
    for (field, below) in more {
        unite(set.entry(field.clone()).or_insert_with(|| Value::Object(serde_json::Map::new())), below);
    }
}

/// Who stands in the way of an apply, a line for each field.
pub(crate) fn conflicts(status: &Status) -> String {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let conflicts = causes.filter(|cause| cause.reason == "FieldManagerConflict").map(|cause| {
        let owner = cause.message.trim_start_matches("conflict with ");
        format!("  {} is owned by {owner}", cause.field.trim_start_matches('.'))
    });
    let lines: Vec<String> = conflicts.collect();
    if lines.is_empty() { format!("  {}", status.message) } else { lines.join("\n") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entry(manager: &str, operation: &str, fields: Value) -> ManagedFieldsEntry {
        ManagedFieldsEntry {
            manager: Some(manager.into()),
            operation: Some(operation.into()),
            fields_v1: Some(FieldsV1(fields)),
            ..ManagedFieldsEntry::default()
        }
    }

    #[test]
    fn what_a_rollback_wrote_counts_as_applied() {
        let other = entry("kubectl", "Update", json!({"f:spec": {"f:port": {}}}));
        let applied = entry(MANAGER, "Apply", json!({"f:spec": {"f:image": {}, "f:queue": {"f:maxCalls": {}}}}));
        let written = entry(MANAGER, "Update", json!({"f:spec": {"f:env": {}, "f:queue": {"f:maxWaitSeconds": {}}}}));
        let all =
            json!({"f:spec": {"f:image": {}, "f:env": {}, "f:queue": {"f:maxCalls": {}, "f:maxWaitSeconds": {}}}});
        let merged_all = merged(&[applied.clone(), other.clone(), written.clone()]).unwrap();
        assert_eq!(merged_all, [other.clone(), entry(MANAGER, "Apply", all)]);
        let alone = merged(&[other.clone(), written.clone()]).unwrap();
        assert_eq!(alone[1].operation.as_deref(), Some("Apply"));
        assert_eq!(merged(&[applied, other.clone()]), None);
        let mut of_status = written;
        of_status.subresource = Some("status".into());
        assert_eq!(merged(&[other, of_status]), None);
    }

    #[test]
    fn conflicts_name_field_and_owner() {
        let status: Status = serde_json::from_value(json!({
            "status": "Failure", "code": 409, "reason": "Conflict", "message": "Apply failed with 1 conflict",
            "details": {"causes": [{"reason": "FieldManagerConflict", "field": ".spec.image",
                "message": "conflict with \"kubectl-client-side-apply\" using dormouse.dev/v1alpha1"}]}
        }))
        .unwrap();
        let line = "  spec.image is owned by \"kubectl-client-side-apply\" using dormouse.dev/v1alpha1";
        assert_eq!(conflicts(&status), line);
        let other: Status = serde_json::from_value(json!({"code": 409, "message": "object is being deleted"})).unwrap();
        assert_eq!(conflicts(&other), "  object is being deleted");
    }
}
