//! What goes wrong with a cluster, brought about: undone when it is dropped, whatever becomes of the test.

use crate::cluster::{Cluster, SYSTEM, Space, pod_name, unless_gone};
use crate::proc::{find_beside, find_in_pod, signal};
use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::DeleteParams;
use nix::sys::signal::Signal;

/// The API server stands still: connections to it stay open and nobody answers.
#[derive(Debug)]
pub struct Stopped(u32);

impl Stopped {
    /// Stops the API server of the cluster whose network namespace this process is in.
    ///
    /// # Errors
    /// When there is none.
    pub fn api_server() -> Result<Self> {
        let pid = find_beside("kube-apiserver")?;
        signal(pid, Signal::SIGSTOP).context("stopping the API server")?;
        Ok(Self(pid))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = signal(self.0, Signal::SIGCONT);
    }
}

/// No node takes new pods.
pub struct Cordoned {
    cluster: Cluster,
    nodes: Vec<String>,
}

impl Cordoned {
    /// Cordons every node.
    ///
    /// # Errors
    /// When kubectl fails.
    pub fn all(cluster: &Cluster) -> Result<Self> {
        let nodes = cluster.kubectl(&["get", "nodes", "-o", "name"])?;
        let nodes = nodes.lines().map(|node| node.trim_start_matches("node/").to_owned()).collect();
        let cordoned = Self { cluster: cluster.clone(), nodes };
        cordoned.nodes.iter().try_for_each(|node| cluster.kubectl(&["cordon", node]).map(drop))?;
        Ok(cordoned)
    }
}

impl Drop for Cordoned {
    fn drop(&mut self) {
        for node in &self.nodes {
            let _ = self.cluster.kubectl(&["uncordon", node]);
        }
    }
}

/// Admission refuses something in one namespace.
pub struct Refusing {
    cluster: Cluster,
    name: String,
}

impl Refusing {
    /// Has `operation` on `resource` (`pods`, `pods/ephemeralcontainers`) refused with these words. The API server reads a
    /// new policy some time after it was made.
    ///
    /// # Errors
    /// When the policy is not taken.
    pub fn begin(space: &Space, operation: &str, resource: &str, words: &str) -> Result<Self> {
        let name = &space.name;
        let refusing = Self { cluster: space.cluster.clone(), name: name.clone() };
        space.apply(&format!(
            "apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicy\nmetadata: {{name: {name}}}\n\
             spec:\n  failurePolicy: Fail\n  matchConstraints:\n    resourceRules:\n    - {{apiGroups: [''], apiVersions: \
             [v1], operations: [{operation}], resources: [{resource}]}}\n  validations: [{{expression: 'false', message: \
             {words}}}]\n---\napiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicyBinding\n\
             metadata: {{name: {name}}}\nspec:\n  policyName: {name}\n  validationActions: [Deny]\n  matchResources:\n    \
             namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {name}}}}}\n"
        ))?;
        Ok(refusing)
    }
}

impl Drop for Refusing {
    fn drop(&mut self) {
        for kind in ["validatingadmissionpolicybindings", "validatingadmissionpolicies"] {
            let _ = self.cluster.kubectl(&["delete", "--ignore-not-found", &format!("{kind}/{}", self.name)]);
        }
    }
}

/// `kill -9` of the controller. It comes back in another pod: the kubelet would let each further start of this one wait
/// for longer.
///
/// # Errors
/// When there is none.
pub async fn kill_controller(cluster: &Cluster) -> Result<()> {
    let pods = cluster.pods(SYSTEM, "app.kubernetes.io/component=controller").await?;
    let pod = pods.iter().find(|p| p.metadata.deletion_timestamp.is_none()).context("no controller")?;
    kill(&Api::namespaced(cluster.client.clone(), SYSTEM), pod, "dormouse-controller").await.map(drop)
}

/// `kill -9` of a program in a pod, which is then deleted for the same reason. `false` when it had ended before.
///
/// # Errors
/// When the API server does not answer.
pub async fn kill(pods: &Api<Pod>, pod: &Pod, program: &str) -> Result<bool> {
    let uid = pod.metadata.uid.clone().context("no uid")?;
    let killed = find_in_pod(&uid, program).is_ok_and(|pid| signal(pid, Signal::SIGKILL).is_ok());
    let gone = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    unless_gone(pods.delete(&pod_name(pod), &gone).await)?;
    Ok(killed)
}
