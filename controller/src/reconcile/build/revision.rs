//! What is kept of a revision in the cluster: a `ControllerRevision` that the Function owns, as Kubernetes' own
//! controllers keep theirs.

use super::deployment::name;
use crate::fleet::Target;
use crate::labels;
use dormouse_core::function::Function;
use dormouse_core::history::{self, Entry};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::Resource;
use serde_json::json;

/// The object, with its place in the order.
#[must_use]
pub fn controller_revision(function: &Function, target: &Target, number: i64) -> ControllerRevision {
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(name(target)),
            namespace: Some(target.key.namespace.clone()),
            labels: Some(labels::of(target)),
            owner_references: function.controller_owner_ref(&()).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        data: RawExtension(json!({ "spec": history::running(&function.spec) })),
        revision: Some(number),
    }
}

/// What one of ours says of itself.
#[must_use]
pub fn entry(found: &ControllerRevision) -> Option<Entry> {
    let (_, revision) = labels::owner(found.metadata.labels.as_ref())?;
    Some(Entry { revision: revision.to_string(), number: found.revision? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use dormouse_core::FunctionKey;
    use dormouse_core::revision::Revision;

    #[test]
    fn it_holds_what_runs_and_nothing_else() {
        let function: Function = serde_json::from_value(json!({
            "apiVersion": "dormouse.dev/v1alpha1", "kind": "Function",
            "metadata": {"name": "hello", "namespace": "shop", "uid": "u-1"},
            "spec": {"image": "registry/hello:1", "args": ["-v"], "concurrency": 5, "idleTimeoutSeconds": 9}
        }))
        .unwrap();
        let revision = Revision::of(&function.spec);
        let target = Target { uid: "u-1".into(), key: FunctionKey::new("shop", "hello"), revision: revision.clone() };
        let made = controller_revision(&function, &target, 4);
        assert_eq!(entry(&made), Some(Entry { revision: revision.to_string(), number: 4 }));
        insta::assert_yaml_snapshot!(made);
    }
}
