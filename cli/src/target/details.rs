//! What a cluster knows of a function beyond its object: what it ran before, and how its instances ended.

use super::revisions::{self, Kept};
use crate::say;
use dormouse_controller::fleet::kubernetes::instance;
use dormouse_controller::labels;
use dormouse_controller::reconcile::build::deployment::CONTAINER;
use dormouse_controller::reconcile::build::graft::Mark;
use dormouse_controller::reconcile::build::pool;
use dormouse_core::function::Function;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use serde::Serialize;

/// Most objects of one answer.
const PAGE: u32 = 500;
/// Most ends that are told, newest last.
const MAX_ENDS: usize = 10;

/// See the module.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Details {
    /// Newest first.
    pub(crate) revisions: Vec<Kept>,
    /// How instances that are still there ended, newest last.
    pub(crate) ends: Vec<End>,
}

/// How a process of an instance ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct End {
    pub(crate) instance: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) time: Option<Timestamp>,
    /// Kubernetes' word for it.
    pub(crate) reason: String,
    pub(crate) exit_code: i32,
    /// The last that it said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_line: Option<String>,
}

/// What rights allow to see of it.
pub(crate) async fn of(client: &Client, function: &Function) -> Details {
    let revisions = revisions::of(client, function).await.unwrap_or_else(|failure| {
        say::note(failure.message());
        Vec::new()
    });
    let (namespace, uid) = (function.namespace().unwrap_or_default(), function.uid().unwrap_or_default());
    let pods = Api::<Pod>::namespaced(client.clone(), &namespace);
    let found = pods.list(&ListParams::default().labels(labels::OURS).limit(PAGE)).await;
    let found = found.map(|list| list.items).unwrap_or_default();
    let of_function = found.iter().filter(|pod| instance::read(pod).is_some_and(|i| i.function.as_str() == uid));
    let mut ends: Vec<End> = of_function.flat_map(ends).collect();
    ends.sort_by_key(|end| end.time);
    let surplus = ends.len().saturating_sub(MAX_ENDS);
    ends.drain(..surplus);
    Details { revisions, ends }
}

/// The name of the container that takes calls: the function's own, or the runtime that its code was loaded into.
pub(crate) fn name(pod: &Pod) -> &'static str {
    match Mark::of(pod) {
        Some(Mark { restarts: Some(_), .. }) => pool::CONTAINER,
        _ => CONTAINER,
    }
}

/// Its state; it is one of the pod's own, or was added to it.
pub(crate) fn container(pod: &Pod) -> Option<&ContainerStatus> {
    let status = pod.status.as_ref()?;
    let made = status.container_statuses.iter().flatten();
    let added = status.ephemeral_container_statuses.iter().flatten();
    let name = name(pod);
    made.chain(added).find(|container| container.name == name)
}

/// The end of its present process and of the one before.
fn ends(pod: &Pod) -> Vec<End> {
    let Some(container) = container(pod) else { return Vec::new() };
    let states = [&container.last_state, &container.state];
    let ended = states.into_iter().filter_map(|state| state.as_ref()?.terminated.as_ref());
    let read = ended.map(|ended| End {
        instance: pod.name_any(),
        time: ended.finished_at.as_ref().map(|t| t.0),
        reason: ended.reason.clone().unwrap_or_default(),
        exit_code: ended.exit_code,
        last_line: ended.message.as_deref().and_then(last_line),
    });
    read.collect()
}

/// The last line that says something.
fn last_line(said: &str) -> Option<String> {
    said.lines().rev().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ends_are_told_with_the_last_line() {
        let ended = |code: i32, message: &str, at: &str| json!({"terminated": {"exitCode": code, "reason": "Error", "message": message, "finishedAt": at}});
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "hello-1"},
            "status": {
                "containerStatuses": [{"name": "parker", "image": "p", "imageID": "", "ready": true, "restartCount": 0,
                    "lastState": ended(9, "not ours", "2026-11-24T10:00:00Z")}],
                "ephemeralContainerStatuses": [{"name": "fn", "image": "i", "imageID": "", "ready": false,
                    "restartCount": 0, "state": ended(2, "first\nno such table\n\n", "2026-11-24T10:01:00Z"),
                    "lastState": ended(1, "", "2026-11-24T10:00:00Z")}]
            }
        }))
        .unwrap();
        let of = ends(&pod);
        let told: Vec<_> = of.iter().map(|end| (end.exit_code, end.last_line.as_deref())).collect();
        assert_eq!(told, [(1, None), (2, Some("no such table"))]);
        assert_eq!(of[1].instance, "hello-1");
    }
}
