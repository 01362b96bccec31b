//! A namespace's NetworkPolicy: only activators, and the controller where it dials for a start check, reach the pods of
//! functions and of warm pools. So nothing goes around the meter.
//!
//! They may reach every port: a container that is added to a parked pod has no port that a policy could name.
//!
//! It says nothing of what functions may call: that is for the namespace's owner. Policies add up, so whoever may make
//! NetworkPolicies in the namespace may open it again; and a cluster whose network does not enforce policies keeps
//! nobody out.

use crate::labels;
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicySpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use std::collections::BTreeMap;

/// Its name, the same in every namespace.
pub const NAME: &str = "dormouse-functions";

/// The label that Kubernetes itself puts on every namespace.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// Where the platform's own pods are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// Their namespace.
    pub namespace: String,
    /// Labels that an activator's pod has and no other; never empty.
    pub activators: BTreeMap<String, String>,
    /// Labels that the controller's pod has and no other; empty: it does not dial.
    pub controller: BTreeMap<String, String>,
}

/// The policy of one namespace.
#[must_use]
pub fn network_policy(namespace: &str, platform: &Platform) -> NetworkPolicy {
    let all = [&platform.activators, &platform.controller];
    let from = all.into_iter().filter(|labels| !labels.is_empty()).map(|labels| peer(&platform.namespace, labels));
    NetworkPolicy {
        metadata: ObjectMeta {
            name: Some(NAME.into()),
            namespace: Some(namespace.into()),
            labels: Some(labels::of_platform(NAME)),
            ..ObjectMeta::default()
        },
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector { match_labels: Some(labels::ours()), match_expressions: None }),
            policy_types: Some(vec!["Ingress".into()]),
            ingress: Some(vec![NetworkPolicyIngressRule { from: Some(from.collect()), ports: None }]),
            egress: None,
        }),
    }
}

fn peer(namespace: &str, labels: &BTreeMap<String, String>) -> NetworkPolicyPeer {
    let by_name = BTreeMap::from([(NAMESPACE_NAME.to_owned(), namespace.to_owned())]);
    let labelled = |labels| Some(LabelSelector { match_labels: Some(labels), match_expressions: None });
    NetworkPolicyPeer { namespace_selector: labelled(by_name), pod_selector: labelled(labels.clone()), ip_block: None }
}

/// Whether a policy as it stands does what the wanted one does. What others added to it beside that (annotations, rules
/// for another direction) is theirs.
#[must_use]
pub fn is_as_wanted(found: &NetworkPolicy, wanted: &NetworkPolicy) -> bool {
    let (Some(is), Some(should)) = (&found.spec, &wanted.spec) else { return false };
    let has = |key, value| found.metadata.labels.as_ref().and_then(|labels| labels.get(key)) == Some(value);
    wanted.metadata.labels.iter().flatten().all(|(key, value)| has(key, value))
        && is.pod_selector == should.pod_selector
        && is.policy_types == should.policy_types
        && is.ingress == should.ingress
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(controller: &[(&str, &str)]) -> Platform {
        let labels = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let activators =
            [("app.kubernetes.io/component", "activator"), ("app.kubernetes.io/instance", "dormouse")].as_slice();
        Platform { namespace: "dormouse-system".into(), activators: labels(activators), controller: labels(controller) }
    }

    #[test]
    fn activators_and_controller() {
        let controller = [("app.kubernetes.io/component", "controller"), ("app.kubernetes.io/instance", "dormouse")];
        insta::assert_yaml_snapshot!(network_policy("default", &platform(&controller)));
    }

    #[test]
    fn activators_only() {
        insta::assert_yaml_snapshot!(network_policy("team-a", &platform(&[])));
    }

    #[test]
    fn what_somebody_changed_is_seen_and_what_they_added_is_theirs() {
        let wanted = network_policy("default", &platform(&[]));
        type Change = fn(&mut NetworkPolicy);
        let spoiled: [Change; 5] = [
            |p| p.metadata.labels = None,
            |p| p.spec = None,
            |p| p.spec.as_mut().unwrap().ingress.as_mut().unwrap().push(NetworkPolicyIngressRule::default()),
            |p| p.spec.as_mut().unwrap().pod_selector = None,
            |p| p.spec.as_mut().unwrap().policy_types = Some(vec!["Ingress".into(), "Egress".into()]),
        ];
        for (n, change) in spoiled.into_iter().enumerate() {
            let mut found = wanted.clone();
            change(&mut found);
            assert!(!is_as_wanted(&found, &wanted), "change {n}");
        }
        let mut found = wanted.clone();
        found.metadata.annotations = Some(BTreeMap::from([("note".into(), "x".into())]));
        found.metadata.labels.as_mut().unwrap().insert("team".into(), "x".into());
        assert!(is_as_wanted(&found, &wanted));
    }
}
