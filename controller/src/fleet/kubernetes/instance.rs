//! What a pod says: how far it is, where it is reached, and why it does not run.

use crate::fleet::{Claim, Code, Instance, InstanceId, Parked, Phase, PoolKey, Trouble};
use crate::labels;
use crate::load;
use crate::reconcile::build::deployment::{CONTAINER, port_name};
use crate::reconcile::build::graft::{self, Mark};
use crate::reconcile::build::pool::CONTAINER as PARKED;
use dormouse_core::function::{Protocol, Runtime};
use dormouse_core::quantity;
use k8s_openapi::api::core::v1::{Container, ContainerState, ContainerStateTerminated, ContainerStatus, Pod};
use kube::ResourceExt;
use std::net::{IpAddr, SocketAddr};

/// A pod of ours as an instance; `None` when it is none of ours.
#[must_use]
pub fn read(pod: &Pod) -> Option<Instance> {
    if let Some(mark) = Mark::of(pod) {
        return claimed(pod, &mark);
    }
    let (function, revision) = labels::owner(pod.metadata.labels.as_ref())?;
    let spec = pod.spec.as_ref()?.containers.iter().find(|c| c.name == CONTAINER)?;
    let status = pod.status.as_ref();
    let container = status
        .and_then(|s| s.container_statuses.as_ref())
        .and_then(|statuses| statuses.iter().find(|c| c.name == CONTAINER));
    let running = container.and_then(|c| c.state.as_ref()).is_some_and(|s| s.running.is_some());
    let phase = match (is_ending(pod), running) {
        (true, _) => Phase::Ending,
        (false, true) => Phase::Running,
        (false, false) => Phase::Starting,
    };
    let (memory_mib, cpu_millis) = sizes(spec);
    Some(Instance {
        id: InstanceId::from(pod.uid()?),
        name: pod.name_any(),
        namespace: pod.namespace().unwrap_or_default(),
        function,
        revision,
        address: address(pod, spec),
        phase,
        trouble: if running { None } else { trouble(pod, container) },
        restarts: container.map_or(0, |c| u32::try_from(c.restart_count).unwrap_or(0)),
        image_digest: container.map(|c| c.image_id.clone()).filter(|id| !id.is_empty()),
        memory_mib,
        cpu_millis,
        h2c: speaks_h2c(spec),
        claim: None,
        started_at_us: container.and_then(|c| c.state.as_ref()).and_then(started_at_us),
    })
}

fn started_at_us(state: &ContainerState) -> Option<i64> {
    Some(state.running.as_ref()?.started_at.as_ref()?.0.as_microsecond())
}

/// It was told to end, or is over.
fn is_ending(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    pod.metadata.deletion_timestamp.is_some() || matches!(phase, Some("Failed" | "Succeeded"))
}

/// A claimed pod as an instance. It counts as running from its claim on: its address is known, and activators see for
/// themselves when its port opens. Its container is never started anew: when that has ended, so has the instance.
fn claimed(pod: &Pod, mark: &Mark) -> Option<Instance> {
    let (function, revision) = mark.owner();
    let labels = pod.metadata.labels.as_ref();
    let status = pod.status.as_ref();
    let (statuses, name) = match mark.restarts {
        None => (status.and_then(|s| s.ephemeral_container_statuses.as_ref()), CONTAINER),
        Some(_) => (status.and_then(|s| s.container_statuses.as_ref()), PARKED),
    };
    let container = statuses.and_then(|statuses| statuses.iter().find(|c| c.name == name));
    let state = container.and_then(|c| c.state.as_ref());
    let ended = state.and_then(|s| s.terminated.as_ref()).or_else(|| {
        // Started anew: what runs now has no code.
        let anew = container?.restart_count > i32::try_from(mark.restarts?).ok()?;
        container?.last_state.as_ref()?.terminated.as_ref().filter(|_| anew)
    });
    let from = labels::pool(labels).or_else(|| labels?.get(labels::CLAIMED_FROM).map(String::as_str));
    let namespace = pod.namespace().unwrap_or_default();
    let ip: Option<IpAddr> = pod.status.as_ref().and_then(|s| s.pod_ip.as_ref()).and_then(|ip| ip.parse().ok());
    let trouble = match ended {
        // Nobody told it to: with status 0 as well.
        Some(ended) if pod.metadata.deletion_timestamp.is_none() => Some(of_end(ended, 0)),
        Some(_) => None,
        _ => container.zip(state).filter(|(_, s)| s.running.is_none()).and_then(|(c, s)| of_container(c, s)),
    };
    Some(Instance {
        id: InstanceId::from(pod.uid()?),
        name: pod.name_any(),
        namespace: namespace.clone(),
        function,
        revision,
        address: ip.map(|ip| SocketAddr::new(ip, mark.port)),
        phase: if is_ending(pod) || ended.is_some() { Phase::Ending } else { Phase::Running },
        trouble,
        restarts: 0,
        image_digest: container.map(|c| c.image_id.clone()).filter(|id| !id.is_empty()),
        memory_mib: mark.memory_mib,
        cpu_millis: mark.cpu_millis,
        h2c: mark.h2c,
        claim: Some(Claim {
            pool: PoolKey { namespace, name: from.unwrap_or_default().to_owned() },
            taken: container.is_some() || mark.restarts.is_some(),
            owned: labels::pool(labels).is_none(),
            shrunk: size(pod).is_some_and(|(memory, _)| memory <= mark.memory_mib),
            loaded: mark.restarts,
            sent: mark.sent,
        }),
        started_at_us: state.and_then(started_at_us),
    })
}

/// A pod of a warm pool that can be claimed: it is up, and nobody has added anything to it.
#[must_use]
pub fn parked(pod: &Pod) -> Option<Parked> {
    let pool = labels::pool(pod.metadata.labels.as_ref())?.to_owned();
    let status = pod.status.as_ref()?;
    let up = status.container_statuses.as_ref()?.iter().all(|c| c.state.as_ref().is_some_and(|s| s.running.is_some()));
    // Not so when its node is not heard of any more.
    let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
    if is_ending(pod) || graft::is_grafted(pod) || !up || !ready {
        return None;
    }
    Some(Parked {
        id: InstanceId::from(pod.uid()?),
        name: pod.name_any(),
        pool: PoolKey { namespace: pod.namespace()?, name: pool },
        ip: status.pod_ip.as_ref()?.parse().ok()?,
        size: size(pod)?,
        runtime: pod.labels().get(labels::RUNTIME).and_then(|name| Runtime::named(name)),
        restarts: restarts_of(status.container_statuses.as_ref()?, PARKED),
    })
}

fn restarts_of(statuses: &[ContainerStatus], name: &str) -> u32 {
    let container = statuses.iter().find(|c| c.name == name);
    container.map_or(0, |c| u32::try_from(c.restart_count).unwrap_or(0))
}

/// Memory in MiB and cpu in thousandths of a pod as a whole. Kubernetes before 1.34 knows no such size: what is added to
/// a pod there would be bounded by nothing.
fn size(pod: &Pod) -> Option<(u32, u32)> {
    let resources = pod.spec.as_ref()?.resources.as_ref()?;
    let memory = resources.limits.as_ref()?.get("memory")?;
    let cpu = resources.requests.as_ref()?.get("cpu")?;
    Some((quantity::memory_mib(&memory.0).ok()?, quantity::cpu_millis(&cpu.0).ok()?))
}

fn address(pod: &Pod, spec: &Container) -> Option<SocketAddr> {
    let ip: IpAddr = pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()?;
    let port = spec.ports.as_ref()?.first()?.container_port;
    Some(SocketAddr::new(ip, u16::try_from(port).ok()?))
}

/// Its port is named by what it speaks: the pod alone says it, also when the function has changed since.
fn speaks_h2c(spec: &Container) -> bool {
    let port = spec.ports.as_ref().and_then(|ports| ports.first());
    port.and_then(|port| port.name.as_deref()) == Some(port_name(Protocol::H2c))
}

/// What the pod was made with: we wrote these quantities ourselves.
fn sizes(spec: &Container) -> (u32, u32) {
    let resources = spec.resources.as_ref();
    let memory = resources.and_then(|r| r.limits.as_ref()).and_then(|l| l.get("memory"));
    let cpu = resources.and_then(|r| r.requests.as_ref()).and_then(|l| l.get("cpu"));
    (
        memory.and_then(|q| quantity::memory_mib(&q.0).ok()).unwrap_or(0),
        cpu.and_then(|q| quantity::cpu_millis(&q.0).ok()).unwrap_or(0),
    )
}

fn trouble(pod: &Pod, container: Option<&ContainerStatus>) -> Option<Trouble> {
    let status = pod.status.as_ref()?;
    if let Some(container) = container {
        return container.state.as_ref().and_then(|state| of_container(container, state));
    }
    let conditions = status.conditions.as_ref()?;
    let unscheduled = conditions
        .iter()
        .find(|c| c.type_ == "PodScheduled" && c.status == "False" && c.reason.as_deref() == Some("Unschedulable"))?;
    Some(Trouble::new(Code::Unschedulable, unscheduled.message.clone().unwrap_or_default()))
}

fn of_container(container: &ContainerStatus, state: &ContainerState) -> Option<Trouble> {
    let last = container.last_state.as_ref().and_then(|s| s.terminated.as_ref());
    if let Some(waiting) = &state.waiting {
        let message = waiting.message.clone().unwrap_or_default();
        let told = |code| Some(Trouble::new(code, format!("image {}: {message}", container.image)));
        return match waiting.reason.as_deref()? {
            "ErrImagePull"
            | "ImagePullBackOff"
            | "InvalidImageName"
            | "ErrImageNeverPull"
            | "ImageInspectError"
            | "RegistryUnavailable"
            | "SignatureValidationFailed" => told(Code::ImagePullFailed),
            "CreateContainerConfigError" => Some(Trouble::new(Code::ConfigMissing, message)),
            "CreateContainerError" | "RunContainerError" | "PreCreateHookError" | "PreStartHookError" => {
                Some(Trouble::new(Code::BadCommand, last.and_then(|l| l.message.clone()).unwrap_or(message)))
            }
            "CrashLoopBackOff" => last.map(|last| of_end(last, container.restart_count)),
            _ => None,
        };
    }
    // Ended and not yet waiting to be restarted: the first end may be an accident, the second is not.
    let ended = state.terminated.as_ref()?;
    let start_failed = matches!(ended.reason.as_deref(), Some("StartError" | "ContainerCannotRun"));
    // Nor is that of a handler's module, which is imported anew as often as one likes.
    let certain = start_failed || failed_handler(ended).is_some() || container.restart_count > 0;
    certain.then(|| of_end(ended, container.restart_count))
}

/// Why a process ended.
fn of_end(ended: &ContainerStateTerminated, restarts: i32) -> Trouble {
    // The last line that it said, by FallbackToLogsOnError.
    let said = ended.message.as_deref().and_then(|m| m.lines().rev().find(|line| !line.trim().is_empty()));
    let said = said.map_or(String::new(), |line| format!(": {}", line.trim()));
    match ended.reason.as_deref() {
        Some("StartError" | "ContainerCannotRun") => {
            Trouble::new(Code::BadCommand, format!("its command cannot be run{said}"))
        }
        Some("OOMKilled") => Trouble::new(
            Code::OutOfMemory,
            format!("used more memory than its limit, restarted {restarts} times{said}"),
        ),
        _ => match failed_handler(ended) {
            Some(why) => Trouble::new(Code::HandlerFailed, why),
            None => Trouble::new(
                Code::CrashLoop,
                format!("ended with exit code {}, restarted {restarts} times{said}", ended.exit_code),
            ),
        },
    }
}

/// Why a runtime could not begin to serve, by its last line (`runtimes/README.md`): code and words.
fn failed_handler(ended: &ContainerStateTerminated) -> Option<String> {
    load::failure_in(ended.message.as_deref()?.lines().rev().find(|line| !line.trim().is_empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(meta: Value, status: Value) -> Instance {
        let mut metadata = json!({"name": "hello-abc-1", "namespace": "default", "uid": "p", "labels":
            {"dormouse.dev/function-uid": "f", "dormouse.dev/revision": "abc"}});
        metadata.as_object_mut().unwrap().extend(meta.as_object().unwrap().clone());
        let spec = json!({"containers": [{"name": "fn", "ports": [{"containerPort": 8080}], "resources":
            {"limits": {"memory": "256Mi"}, "requests": {"cpu": "100m", "memory": "256Mi"}}}]});
        read(&serde_json::from_value(json!({"metadata": metadata, "spec": spec, "status": status})).unwrap()).unwrap()
    }

    #[test]
    fn the_port_says_what_is_spoken() {
        let of = |port: Value| {
            let labels = json!({"dormouse.dev/function-uid": "f", "dormouse.dev/revision": "abc"});
            let spec = json!({"containers": [{"name": "fn", "ports": [port]}]});
            let pod = json!({"metadata": {"name": "p", "uid": "p", "labels": labels}, "spec": spec});
            read(&serde_json::from_value(pod).unwrap()).unwrap().h2c
        };
        assert!(of(json!({"name": "h2c", "containerPort": 8080})));
        assert!(!of(json!({"name": "http", "containerPort": 8080})) && !of(json!({"containerPort": 8080})));
    }

    fn with_state(restarts: i32, state: Value, last: Value) -> Instance {
        pod(
            json!({}),
            json!({"phase": "Pending", "podIP": "10.0.0.1", "containerStatuses": [{"name": "fn", "image": "i:1",
                "imageID": "i@sha256:0", "ready": false, "restartCount": restarts, "state": state, "lastState": last}]}),
        )
    }

    fn trouble(restarts: i32, state: Value, last: Value) -> Option<(Code, String)> {
        with_state(restarts, state, last).trouble.map(|t| (t.code, t.message))
    }

    fn code(state: Value) -> Option<Code> {
        trouble(0, state, json!({})).map(|(code, _)| code)
    }

    #[test]
    fn phases() {
        assert_eq!(pod(json!({}), json!({})).phase, Phase::Starting);
        let running = with_state(2, json!({"running": {}}), json!({"terminated": {"exitCode": 1}}));
        assert_eq!((running.phase, running.restarts, running.trouble), (Phase::Running, 2, None));
        assert_eq!(running.address, Some("10.0.0.1:8080".parse().unwrap()));
        assert_eq!((running.memory_mib, running.cpu_millis), (256, 100));
        assert_eq!(running.image_digest.as_deref(), Some("i@sha256:0"));
        let deleted = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        assert_eq!(pod(deleted, json!({})).phase, Phase::Ending);
        assert_eq!(pod(json!({}), json!({"phase": "Failed", "reason": "Evicted"})).phase, Phase::Ending);
    }

    #[test]
    fn reasons_of_waiting() {
        let waiting = |reason: &str| json!({"waiting": {"reason": reason, "message": "words"}});
        assert_eq!(code(waiting("ContainerCreating")), None);
        for reason in ["ErrImagePull", "ImagePullBackOff", "InvalidImageName"] {
            assert_eq!(code(waiting(reason)), Some(Code::ImagePullFailed), "{reason}");
        }
        assert_eq!(code(waiting("CreateContainerConfigError")), Some(Code::ConfigMissing));
        assert_eq!(code(waiting("RunContainerError")), Some(Code::BadCommand));
    }

    #[test]
    fn reasons_of_ending() {
        let backoff = json!({"waiting": {"reason": "CrashLoopBackOff"}});
        let ended = |reason: &str, exit: i32, message: &str| json!({"terminated": {"reason": reason, "exitCode": exit, "message": message}});
        assert_eq!(
            trouble(3, backoff.clone(), ended("Error", 7, "first line\nno such table\n")),
            Some((Code::CrashLoop, "ended with exit code 7, restarted 3 times: no such table".into()))
        );
        assert_eq!(trouble(3, backoff.clone(), ended("OOMKilled", 137, "")).unwrap().0, Code::OutOfMemory);
        assert_eq!(
            trouble(1, backoff, ended("StartError", 128, "exec: \"x\": not found")).unwrap().0,
            Code::BadCommand
        );
        assert_eq!(trouble(0, ended("Error", 1, ""), json!({})), None, "the first end may be an accident");
        assert_eq!(trouble(1, ended("Error", 1, ""), json!({})).unwrap().0, Code::CrashLoop);
        assert_eq!(trouble(0, ended("StartError", 128, ""), json!({})).unwrap().0, Code::BadCommand);
    }

    #[test]
    fn no_room_on_any_node() {
        let status = json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
            "reason": "Unschedulable", "message": "0/1 nodes are available: 1 Insufficient memory."}]});
        let trouble = pod(json!({}), status).trouble.unwrap();
        assert_eq!(trouble.code, Code::Unschedulable);
        assert!(!trouble.code.terminal() && trouble.message.contains("Insufficient memory"));
    }
}
