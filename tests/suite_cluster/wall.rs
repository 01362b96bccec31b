//! NetworkPolicies: what they say, held against the pods that they name; who keeps them, when they go; and whom they keep
//! out, tried from inside pods: for that the cluster's network must enforce them, as the test cluster's does.

use crate::inside::{Door, Inside, doors};
use crate::install::CHART;
use crate::world::{World, function, ok};
use anyhow::{Context, Result};
use dormouse_core::function::Function;
use dormouse_tests::cluster::{Cluster, LIMIT, SYSTEM, Space, is_gone};
use dormouse_tests::wait::until;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;

/// Its name in every namespace.
const NAME: &str = "dormouse-functions";

/// A policy of the same name that a user made before.
const FOREIGN: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: dormouse-functions}\n\
    spec: {podSelector: {matchLabels: {app: mine}}, policyTypes: [Ingress]}\n";

/// It comes with the first function, names exactly the pods that it means, and goes with the last function.
pub(crate) async fn a_namespace_with_functions_is_walled_in(world: World) -> Result<()> {
    world
        .alone("wall", |world, space| async move {
            space.apply(&function("first", &["idleTimeoutSeconds: 60"]))?;
            space.apply(&function("second", &["idleTimeoutSeconds: 60", "port: 9000"]))?;
            space.ready("first", "True").await?;
            space.ready("second", "True").await?;
            let policy = there(&space, "").await?;
            for name in ["first", "second"] {
                ok(&world.by_host(&space, name, "/")).await?;
            }
            says_what_it_should(&world.cluster, &space, &policy).await?;

            let policies: Api<NetworkPolicy> = space.api();
            policies.delete(NAME, &DeleteParams::default()).await?;
            let again = there(&space, &uid(&policy)).await?;
            anyhow::ensure!(again.spec == policy.spec, "made again otherwise: {:?}", again.spec);
            told(&space, "NetworkPolicyRestored").await?;
            // Somebody opens it, and takes the label off by which it is known.
            let opened =
                json!({"spec": {"ingress": [{}]}, "metadata": {"labels": {"app.kubernetes.io/managed-by": null}}});
            policies.patch(NAME, &PatchParams::default(), &Patch::Merge(opened)).await?;
            until("the opened policy is as it was", LIMIT, || async {
                let now = policies.get(NAME).await?;
                let labels = (&now.metadata.labels, &policy.metadata.labels);
                anyhow::ensure!(now.spec == policy.spec && labels.0 == labels.1, "{:?} {labels:?}", now.spec);
                Ok(())
            })
            .await?;

            gone(&space, "first").await?;
            anyhow::ensure!(uid(&there(&space, "").await?) == uid(&again), "made anew while a function was there");
            gone(&space, "second").await?;
            nothing(&space).await
        })
        .await
}

/// A policy of that name that is not ours is told, left alone, and replaced by ours when it goes.
pub(crate) async fn a_policy_of_somebody_else_is_left_alone(world: World) -> Result<()> {
    world
        .alone("foreign", |world, space| async move {
            space.apply(FOREIGN)?;
            let policies: Api<NetworkPolicy> = space.api();
            let before = policies.get(NAME).await?;
            space.apply(&function("guest", &["idleTimeoutSeconds: 60"]))?;
            space.ready("guest", "True").await?;
            told(&space, "NetworkPolicyNotOurs").await?;
            ok(&world.by_host(&space, "guest", "/")).await?;
            let after = policies.get(NAME).await?;
            anyhow::ensure!(after.metadata.resource_version == before.metadata.resource_version, "it was written");
            policies.delete(NAME, &DeleteParams::default()).await?;
            there(&space, &uid(&before)).await?;
            gone(&space, "guest").await?;
            nothing(&space).await
        })
        .await
}

/// The pod of a function takes connections from activators and from nobody else, whatever namespace or labels they have.
pub(crate) async fn only_activators_reach_a_function(world: World) -> Result<()> {
    world
        .alone("walled", |world, space| async move {
            let walled = Inside::function(&world, &space, "walled").await?;
            let neighbour = Inside::function(&world, &space, "neighbour").await?;
            let beside = Inside::stranger(&space).await?;
            let elsewhere = |world: World, elsewhere: Space| async move {
                let outside = Inside::stranger(&elsewhere).await?;
                // They do reach each other: what keeps them from the function is its policy.
                for (from, to) in [(&outside, &beside), (&beside, &outside), (&neighbour, &beside)] {
                    from.reaches("a pod that is no function", to.address).await?;
                    from.is_kept_from("a function", walled.address).await?;
                }
                ok(&world.by_host(&space, "walled", "/")).await?;
                neighbour.calls(&space, "walled")
            };
            world.alone("outside", elsewhere).await
        })
        .await
}

/// A function reaches the activators' traffic port, by name too, and no other port of the platform.
pub(crate) async fn a_function_reaches_only_the_traffic_port(world: World) -> Result<()> {
    world
        .alone("within", |world, space| async move {
            let function = Inside::function(&world, &space, "curious").await?;
            Inside::function(&world, &space, "called").await?;
            for door in doors(&world).await? {
                reaches_if(door.public, &function, &door).await?;
            }
            function.calls(&space, "called")
        })
        .await
}

async fn reaches_if(open: bool, from: &Inside, door: &Door) -> Result<()> {
    if open { from.reaches(&door.name, door.at).await } else { from.is_kept_from(&door.name, door.at).await }
}

/// The chart's values take away the policies that are there, and give them back; so do they what is open and closed.
pub(crate) async fn who_opts_out_has_none(world: World) -> Result<()> {
    world
        .alone("optout", |world, space| async move {
            let open = Inside::function(&world, &space, "open").await?;
            let stranger = Inside::stranger(&space).await?;
            let before = there(&space, "").await?;
            stranger.is_kept_from("a function", open.address).await?;
            let set = |value: &str| {
                let values = format!("networkPolicy.functions={value},networkPolicy.platform={value}");
                world.cluster.helm(&["upgrade", "dormouse", CHART, "-n", SYSTEM, "--reuse-values", "--set", &values])
            };
            set("false")?;
            let result = async {
                nothing(&space).await?;
                world.cluster.system_ready().await?;
                stranger.reaches("a function", open.address).await?;
                for door in doors(&world).await? {
                    open.reaches(&door.name, door.at).await?;
                }
                ok(&world.by_host(&space, "open", "/")).await
            };
            let result = result.await;
            set("true")?;
            result?;
            let after = there(&space, &uid(&before)).await?;
            anyhow::ensure!(after.spec == before.spec, "{:?}", after.spec);
            world.cluster.system_ready().await?;
            stranger.is_kept_from("a function", open.address).await?;
            for door in doors(&world).await? {
                reaches_if(door.public, &open, &door).await?;
            }
            ok(&world.by_host(&space, "open", "/")).await.map(drop)
        })
        .await
}

/// Of the platform's own pods only the traffic port is open to all; each rule names a port and pods that exist.
pub(crate) async fn only_the_traffic_port_is_open_to_all(world: World) -> Result<()> {
    let policies = Api::<NetworkPolicy>::namespaced(world.cluster.client.clone(), SYSTEM);
    let activators = world.cluster.pods(SYSTEM, "app.kubernetes.io/component=activator").await?;
    let expected = [
        ("dormouse-activator", vec![("http", "all"), ("peer", "activators")]),
        ("dormouse-controller", vec![("grpc", "activators"), ("usage", "others")]),
    ];
    for (name, expected) in expected {
        let policy = policies.get(name).await.with_context(|| name.to_owned())?;
        let spec = policy.spec.context("no spec")?;
        let pods = selected(&world.cluster, SYSTEM, spec.pod_selector.as_ref()).await?;
        anyhow::ensure!(!pods.is_empty(), "{name} selects no pod");
        let mut rules = Vec::new();
        for rule in spec.ingress.unwrap_or_default() {
            let from = rule.from.unwrap_or_default();
            let is_activators = async || -> Result<bool> {
                let [peer] = from.as_slice() else { return Ok(false) };
                let met = selected(&world.cluster, SYSTEM, peer.pod_selector.as_ref()).await?;
                Ok(peer.namespace_selector.is_none() && names(&met) == names(&activators))
            };
            let whom = if from.is_empty() {
                "all"
            } else if is_activators().await? {
                "activators"
            } else {
                "others"
            };
            for port in rule.ports.unwrap_or_default() {
                let Some(IntOrString::String(port)) = port.port else { anyhow::bail!("{name}: a port without a name") };
                anyhow::ensure!(pods.iter().all(|pod| has_port(pod, &port)), "{name}: no pod has a port {port}");
                rules.push((port, whom));
            }
        }
        let rules: Vec<(&str, &str)> = rules.iter().map(|(port, whom)| (port.as_str(), *whom)).collect();
        anyhow::ensure!(rules == expected, "{name} says {rules:?}");
    }
    Ok(())
}

/// The policy of a namespace, once there is one with another uid than `before`.
async fn there(space: &Space, before: &str) -> Result<NetworkPolicy> {
    until("a NetworkPolicy", LIMIT, || async {
        let policy = space.api::<NetworkPolicy>().get(NAME).await?;
        anyhow::ensure!(uid(&policy) != before, "the same as before");
        Ok(policy)
    })
    .await
}

async fn nothing(space: &Space) -> Result<()> {
    until("no NetworkPolicy", LIMIT, || async {
        match space.api::<NetworkPolicy>().get(NAME).await {
            Err(error) if is_gone(&error) => Ok(()),
            other => anyhow::bail!("{other:?}"),
        }
    })
    .await
}

async fn gone(space: &Space, function: &str) -> Result<()> {
    space.cluster.kubectl(&["delete", "fn", function, "-n", &space.name, "--timeout=60s"])?;
    until("the function is gone", LIMIT, || async {
        match space.api::<Function>().get(function).await {
            Err(error) if is_gone(&error) => Ok(()),
            other => anyhow::bail!("{other:?}"),
        }
    })
    .await
}

/// Waits for an event on the policy.
async fn told(space: &Space, reason: &str) -> Result<()> {
    until(reason, LIMIT, || async {
        let events = space.api::<k8s_openapi::api::events::v1::Event>().list(&ListParams::default()).await?;
        let is_it = |e: &k8s_openapi::api::events::v1::Event| {
            let about = e.regarding.as_ref().and_then(|o| o.kind.as_deref());
            e.reason.as_deref() == Some(reason) && about == Some("NetworkPolicy")
        };
        anyhow::ensure!(events.items.iter().any(is_it), "{} other events", events.items.len());
        Ok(())
    })
    .await
}

/// Its words, held against the pods that are there.
async fn says_what_it_should(cluster: &Cluster, space: &Space, policy: &NetworkPolicy) -> Result<()> {
    let spec = policy.spec.clone().context("no spec")?;
    anyhow::ensure!(spec.policy_types == Some(vec!["Ingress".to_owned()]) && spec.egress.is_none(), "{spec:?}");
    let functions = selected(cluster, &space.name, spec.pod_selector.as_ref()).await?;
    let all = cluster.pods(&space.name, "").await?;
    anyhow::ensure!(!functions.is_empty() && names(&functions) == names(&all), "it selects {:?}", names(&functions));
    let [rule] = spec.ingress.as_deref().unwrap_or_default() else { anyhow::bail!("{:?}", spec.ingress) };
    // A container that is added to a parked pod has no port that a policy could name.
    anyhow::ensure!(rule.ports.is_none(), "{:?}", rule.ports);
    // All that may come in are pods of the release's namespace: every activator and the controller, nobody else.
    let mut met = Vec::new();
    for peer in rule.from.as_deref().unwrap_or_default() {
        let where_ = peer.namespace_selector.as_ref().and_then(|s| s.match_labels.as_ref());
        let name = where_.and_then(|labels| labels.get("kubernetes.io/metadata.name"));
        anyhow::ensure!(name.map(String::as_str) == Some(SYSTEM) && peer.ip_block.is_none(), "{peer:?}");
        met.extend(selected(cluster, SYSTEM, peer.pod_selector.as_ref()).await?);
    }
    let platform = cluster.pods(SYSTEM, "app.kubernetes.io/component in (activator,controller)").await?;
    anyhow::ensure!(names(&met) == names(&platform), "it lets in {:?}", names(&met));
    Ok(())
}

/// The pods that a selector means.
async fn selected(cluster: &Cluster, namespace: &str, selector: Option<&LabelSelector>) -> Result<Vec<Pod>> {
    let selector = selector.context("no selector: it would mean every pod")?;
    let mut parts: Vec<String> =
        selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
    for rule in selector.match_expressions.iter().flatten() {
        anyhow::ensure!(rule.operator == "Exists", "{rule:?}");
        parts.push(rule.key.clone());
    }
    anyhow::ensure!(!parts.is_empty(), "an empty selector means every pod");
    cluster.pods(namespace, &parts.join(",")).await
}

fn has_port(pod: &Pod, name: &str) -> bool {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    containers.flat_map(|c| c.ports.iter().flatten()).any(|port| port.name.as_deref() == Some(name))
}

fn names(pods: &[Pod]) -> Vec<String> {
    let mut names: Vec<String> = pods.iter().filter_map(|pod| pod.metadata.name.clone()).collect();
    names.sort();
    names
}

fn uid(policy: &NetworkPolicy) -> String {
    policy.metadata.uid.clone().unwrap_or_default()
}
