//! What activators are told of a function.

use super::{Context, Urls};
use crate::fleet::{InstanceId, Phase};
use crate::reconcile::observe::{InstanceSeen, Object, Observed};
use crate::reconcile::report::Standing;
use dormouse_core::valid::ValidFunction;
use dormouse_proto::v1;
use std::collections::BTreeSet;
use std::time::Duration;

/// The code with which calls of a function whose manifest was never valid are answered.
const INVALID: &str = "InvalidSpec";

/// The status of callers' answers: the function is at fault (502), or there is nothing that could run (503).
const BAD_GATEWAY: u32 = 502;
const UNAVAILABLE: u32 = 503;

pub(super) fn route(
    (observed, tenant): (&Observed, &str),
    object: &Object,
    standing: &Standing<'_>,
    drained: &BTreeSet<InstanceId>,
    context: &Context<'_>,
) -> v1::Function {
    let Context { urls, durability, .. } = *context;
    let closing = observed.closing_since.is_some();
    let Some(valid) = &object.valid else { return invalid((observed, tenant), object, urls, closing) };
    let failure =
        standing.callers_fail.map(|trouble| v1::Failure { code: trouble.code.name().to_owned(), status: BAD_GATEWAY });
    let waiting_reason = standing.callers_wait.map_or(String::new(), |trouble| trouble.code.name().to_owned());
    let warm = observed.warm();
    let told = |(id, seen)| instance(seen, valid, drained.contains(id), warm.contains(id));
    let instances = observed.instances.iter().filter_map(told).collect();
    v1::Function {
        uid: observed.uid.to_string(),
        namespace: valid.key.namespace.clone(),
        name: valid.key.name.clone(),
        hosts: hosts(&valid.key.namespace, &valid.key.name, urls),
        concurrency: valid.concurrency,
        timeout_ms: millis(valid.timeout),
        queue_max_calls: valid.queue_max_calls,
        queue_max_wait_ms: millis(valid.queue_max_wait),
        tenant: tenant.to_owned(),
        failure,
        instances,
        closing,
        waiting_reason,
        reserved: valid.reserved_concurrency,
        // Shares are dealt out after the plan.
        holders: Vec::new(),
        keep_shares: false,
        durability: v1::Durability::from(durability).into(),
    }
}

fn invalid((observed, tenant): (&Observed, &str), object: &Object, urls: &Urls, closing: bool) -> v1::Function {
    let meta = &object.function.metadata;
    let (namespace, name) = (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
    v1::Function {
        uid: observed.uid.to_string(),
        hosts: hosts(&namespace, &name, urls),
        tenant: tenant.to_owned(),
        namespace,
        name,
        concurrency: 1,
        timeout_ms: 1000,
        queue_max_calls: 1,
        queue_max_wait_ms: 1000,
        failure: Some(v1::Failure { code: INVALID.to_owned(), status: UNAVAILABLE }),
        instances: Vec::new(),
        closing,
        waiting_reason: String::new(),
        ..v1::Function::default()
    }
}

/// An instance is told from the moment its process runs at a known address until it is gone.
fn instance(seen: &InstanceSeen, valid: &ValidFunction, drained: bool, warm: bool) -> Option<v1::Instance> {
    let address = seen.seen.address?;
    // Until the pod is known to be the function's: it may become another's.
    if seen.claimed.as_ref().is_some_and(|c| !c.grafted) && seen.published.is_none() {
        return None;
    }
    let state = match seen.seen.phase {
        // Never told: nothing has to be drained.
        Phase::Starting | Phase::Ending if seen.published.is_none() => return None,
        Phase::Starting | Phase::Ending => v1::InstanceState::Draining,
        Phase::Running if drained => {
            seen.published?;
            v1::InstanceState::Draining
        }
        Phase::Running if seen.open => v1::InstanceState::Ready,
        Phase::Running => v1::InstanceState::Starting,
    };
    let (memory_mib, cpu_millis) = seen.size(valid);
    Some(v1::Instance {
        id: seen.seen.id.to_string(),
        address: address.to_string(),
        state: state.into(),
        slots: valid.concurrency,
        revision: seen.seen.revision.to_string(),
        memory_mib,
        cpu_millis,
        h2c: seen.seen.h2c,
        warm,
    })
}

fn hosts(namespace: &str, name: &str, urls: &Urls) -> Vec<String> {
    vec![format!("{name}.{namespace}.{}", urls.domain), format!("{name}.{namespace}")]
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// Where people call the function, and where programs in the cluster do.
pub(in crate::reconcile) fn urls(namespace: &str, name: &str, urls: &Urls) -> (String, String) {
    let (scheme, rest) = urls.activator.split_once("://").unwrap_or(("http", urls.activator.as_str()));
    let port = rest.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
    let port = port.map_or(String::new(), |(_, port)| format!(":{port}"));
    let by_host = format!("{scheme}://{name}.{namespace}.{}{port}", urls.domain);
    (by_host, format!("{}/fn/{namespace}/{name}", urls.activator))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_domain_and_the_port() {
        let local = Urls { domain: "localhost".into(), activator: "http://127.0.0.1:8080".into() };
        assert_eq!(
            urls("default", "hello", &local),
            ("http://hello.default.localhost:8080".into(), "http://127.0.0.1:8080/fn/default/hello".into())
        );
        let cluster = Urls { domain: "fn.example.com".into(), activator: "https://gate.dormouse-system.svc".into() };
        assert_eq!(urls("a", "b", &cluster).0, "https://b.a.fn.example.com");
    }
}
