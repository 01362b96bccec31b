//! Handler code: on its own Deployment, from a ConfigMap that changes, and loaded into parked runtimes.

use crate::activators::needs_the_node;
use crate::world::{World, ok};
use anyhow::{Context, Result};
use dormouse_controller::load;
use dormouse_core::WarmPool;
use dormouse_tests::client::Answer;
use dormouse_tests::cluster::{LIMIT, Space, pod_name};
use dormouse_tests::trouble::kill_controller;
use dormouse_tests::wait::until;
use futures::future::join_all;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::ResourceExt;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

/// Where a pod that was loaded says whose it is.
const LOADED: &str = "dormouse.dev/loaded";

/// Says who answers: `who` of the function, and a number that each process makes for itself.
const NODE: &str = "const { randomUUID } = require('node:crypto')\nconst instance = randomUUID()\nlet calls = 0\n\
    exports.handler = async (event, context) => ({ statusCode: 200, headers: { 'x-instance': instance },\n  \
    body: JSON.stringify({ who: WHO, function: context.functionName, calls: ++calls, path: event.path, secret: process.env.SECRET ?? '' }) })\n";
const PYTHON: &str = "import json, os, uuid\ninstance = str(uuid.uuid4())\ncalls = 0\n\n\
    def handler(event, context):\n    global calls\n    calls += 1\n    return {'statusCode': 200, 'headers': {'x-instance': instance},\n            \
    'body': json.dumps({'who': WHO, 'function': context.functionName, 'calls': calls, 'path': event['path'], 'secret': os.environ.get('SECRET', '')})}\n";

fn code(runtime: &str, who: &str) -> String {
    let text = if runtime == "nodejs" { NODE } else { PYTHON };
    text.replace("WHO", &json!(who).to_string())
}

/// A function with its code in its manifest; `spec` is more of its spec.
fn source(name: &str, runtime: &str, code: &str, spec: serde_json::Value) -> String {
    let mut all = json!({
        "source": {"runtime": runtime, "handler": "index.handler", "inline": code},
        "resources": {"memory": "64Mi", "cpu": "10m"}, "idleTimeoutSeconds": 4,
    });
    if let (Some(all), Some(more)) = (all.as_object_mut(), spec.as_object()) {
        all.extend(more.clone());
    }
    let kind =
        json!({"apiVersion": "dormouse.dev/v1alpha1", "kind": "Function", "metadata": {"name": name}, "spec": all});
    kind.to_string()
}

fn said(answer: &Answer) -> Result<serde_json::Value> {
    serde_json::from_str(&answer.text()).with_context(|| format!("{answer}"))
}

/// Both languages from their manifest alone: seen by the start check, called, idle, called again by another process.
pub(crate) async fn a_handler_runs_from_its_manifest(world: World) -> Result<()> {
    world
        .alone("code", |world, space| async move {
            for runtime in ["nodejs", "python"] {
                space.apply(&source(runtime, runtime, &code(runtime, "one"), json!({})))?;
            }
            for runtime in ["nodejs", "python"] {
                space.ready(runtime, "True").await?;
                let answers = [
                    ok(&world.by_host(&space, runtime, "/a/b")).await?,
                    ok(&world.by_path(&space, runtime, "/c")).await?,
                ];
                let [first, second] = [said(&answers[0])?, said(&answers[1])?];
                anyhow::ensure!(
                    first["who"] == "one" && first["function"] == runtime && first["path"] == "/a/b",
                    "{first}"
                );
                anyhow::ensure!(
                    second["calls"] == 2 && second["path"] == "/c",
                    "globals live as long as the instance: {second}"
                );
                let map = space.api::<ConfigMap>().list(&Default::default()).await?;
                let copies =
                    map.items.iter().filter(|m| m.metadata.name.iter().any(|n| n.starts_with(&format!("{runtime}-"))));
                anyhow::ensure!(copies.count() == 1, "one copy of its code");
            }
            for runtime in ["nodejs", "python"] {
                space.pods_are(runtime, 0).await?;
            }
            Ok(())
        })
        .await
}

/// Code that cannot be imported is told with its file and line, and callers get its code at once; a mended one serves.
pub(crate) async fn broken_code_is_told_and_mended(world: World) -> Result<()> {
    world
        .alone("broken", |world, space| async move {
            space.apply(&source("bad", "nodejs", "exports.handler = (", json!({})))?;
            let function = space.ready("bad", "False").await?;
            let status = function.status.unwrap_or_default();
            let ready = status.conditions.iter().find(|c| c.type_ == "Ready").context("no Ready")?;
            anyhow::ensure!(
                ready.reason == "HandlerFailed"
                    && ready.message.contains("SyntaxError")
                    && ready.message.contains("index.js:1"),
                "{ready:?}"
            );
            let answer = world.by_host(&space, "bad", "/").call(0).await?;
            anyhow::ensure!(answer.status == 502 && answer.reason() == "HandlerFailed", "{answer}");
            anyhow::ensure!(!answer.text().contains("index.js"), "callers get no words: {answer}");
            space.apply(&source("bad", "nodejs", &code("nodejs", "mended"), json!({})))?;
            space.ready("bad", "True").await?;
            anyhow::ensure!(said(&ok(&world.by_host(&space, "bad", "/")).await?)?["who"] == "mended");
            Ok(())
        })
        .await
}

fn config_map(who: &str) -> String {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "files"}, "data": {
        "index.js": "const { who } = require('./lib/who')\nexports.handler = async () => ({ statusCode: 200, body: JSON.stringify({ who }) })",
        "lib..who.js": format!("exports.who = {}", json!(who)),
    }})
    .to_string()
}

/// Code in a ConfigMap: waited for, followed when it changes, and kept where it has gone.
pub(crate) async fn code_in_a_config_map_is_followed(world: World) -> Result<()> {
    world
        .alone("files", |world, space| async move {
            let kind = json!({"apiVersion": "dormouse.dev/v1alpha1", "kind": "Function", "metadata": {"name": "many"}, "spec": {
                "source": {"runtime": "nodejs", "handler": "index.handler", "configMap": {"name": "files"}},
                "resources": {"memory": "64Mi", "cpu": "10m"}, "idleTimeoutSeconds": 4}});
            space.apply(&kind.to_string())?;
            let missing = space.ready("many", "False").await?.status.unwrap_or_default();
            let ready = missing.conditions.iter().find(|c| c.type_ == "Ready").context("no Ready")?;
            anyhow::ensure!(ready.reason == "ConfigMissing" && ready.message.contains("files"), "{ready:?}");
            let answer = world.by_host(&space, "many", "/").call(0).await?;
            anyhow::ensure!(answer.status == 502 && answer.reason() == "ConfigMissing", "{answer}");
            for who in ["first", "second"] {
                space.apply(&config_map(who))?;
                until(&format!("{who} answers"), LIMIT, || async {
                    let said = said(&ok(&world.by_host(&space, "many", "/")).await?)?;
                    anyhow::ensure!(said["who"] == who, "{said}");
                    Ok(())
                })
                .await?;
            }
            space.api::<ConfigMap>().delete("files", &Default::default()).await?;
            space.pods_are("many", 0).await?;
            anyhow::ensure!(said(&ok(&world.by_host(&space, "many", "/")).await?)?["who"] == "second", "its copy serves on");
            // The same again, as if it had never been away: what was told of its absence is over.
            space.apply(&config_map("second"))?;
            space.ready("many", "True").await?;
            space.pods_are("many", 0).await?;
            anyhow::ensure!(said(&ok(&world.by_host(&space, "many", "/")).await?)?["who"] == "second");
            // Somebody deletes the copy: no pod begins without it, and the call waits until it is there again.
            space.pods_are("many", 0).await?;
            let maps = space.api::<ConfigMap>();
            let all = maps.list_metadata(&Default::default()).await?.items;
            let copies: Vec<_> = all.iter().map(ResourceExt::name_any).filter(|name| name.starts_with("many-")).collect();
            anyhow::ensure!(!copies.is_empty(), "no copy");
            for copy in copies {
                maps.delete(&copy, &Default::default()).await?;
            }
            anyhow::ensure!(said(&ok(&world.by_host(&space, "many", "/")).await?)?["who"] == "second");
            Ok(())
        })
        .await
}

/// A pool of runtimes, once so many are parked.
async fn pool(space: &Space, name: &str, runtime: Option<&str>, size: i32) -> Result<()> {
    let mut spec = json!({"size": {"min": size, "max": size}, "resources": {"memory": "96Mi", "cpu": "10m"}});
    if let (Some(spec), Some(runtime)) = (spec.as_object_mut(), runtime) {
        spec.insert("runtime".into(), runtime.into());
    }
    let kind =
        json!({"apiVersion": "dormouse.dev/v1alpha1", "kind": "WarmPool", "metadata": {"name": name}, "spec": spec});
    space.apply(&kind.to_string())?;
    full(space, name, size).await
}

async fn full(space: &Space, name: &str, size: i32) -> Result<()> {
    until(&format!("{size} pods parked in {name}"), LIMIT, || async {
        let status = space.api::<WarmPool>().get(name).await?.status.unwrap_or_default();
        anyhow::ensure!(status.parked == size, "{status:?}");
        Ok(())
    })
    .await
}

async fn one_pod(space: &Space, function: &str) -> Result<Pod> {
    until(&format!("one pod of {function}"), LIMIT, || async {
        let mut pods = space.pods(function).await?;
        pods.pop().filter(|_| pods.is_empty()).context("not one")
    })
    .await
}

fn is_loaded(pod: &Pod) -> bool {
    pod.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(LOADED))
}

/// A sleeping function is loaded into a parked runtime of its language; the Deployment was not needed; the pod goes when it
/// is idle, and the pool is full again. One with a Secret in its environment gets a container of its own in a generic pod.
pub(crate) async fn a_function_is_loaded_into_a_parked_runtime(world: World) -> Result<()> {
    world
        .alone("load", |world, space| async move {
            for runtime in ["nodejs", "python"] {
                pool(&space, runtime, Some(runtime), 1).await?;
            }
            let plain = json!({"startCheck": "Never", "env": [{"name": "SECRET", "value": "plain"}]});
            for runtime in ["nodejs", "python"] {
                let name = format!("{runtime}-fn");
                space.apply(&source(&name, runtime, &code(runtime, "loaded"), plain.clone()))?;
                space.ready(&name, "True").await?;
                let answer = ok(&world.by_host(&space, &name, "/")).await?;
                let told = said(&answer)?;
                anyhow::ensure!(answer.cold() && told["who"] == "loaded" && told["secret"] == "plain", "{answer}");
                let pod = one_pod(&space, &name).await?;
                anyhow::ensure!(is_loaded(&pod), "{:?}", pod.metadata.annotations);
                let replicas: Vec<_> = space.deployments(&name).await?.iter().map(|d| d.spec.replicas).collect();
                anyhow::ensure!(replicas == [Some(0)], "the Deployment has {replicas:?}");
                full(&space, runtime, 1).await?;
                space.pods_are(&name, 0).await?;
            }
            space.apply(
                &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"k": "hidden"}}).to_string(),
            )?;
            pool(&space, "any", None, 1).await?;
            let secret = json!([{"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]);
            space.apply(&source("hidden", "nodejs", &code("nodejs", "grafted"), json!({"startCheck": "Never", "env": secret})))?;
            space.ready("hidden", "True").await?;
            let told = said(&ok(&world.by_host(&space, "hidden", "/")).await?)?;
            anyhow::ensure!(told["who"] == "grafted" && told["secret"] == "hidden", "{told}");
            let pod = one_pod(&space, "hidden").await?;
            let grafted = pod.spec.as_ref().and_then(|s| s.ephemeral_containers.as_ref()).map_or(0, Vec::len);
            anyhow::ensure!(grafted == 1 && !is_loaded(&pod), "{}", pod_name(&pod));
            Ok(())
        })
        .await
}

/// The controller is killed while it loads, or just after, before the cluster knows: calls are answered, no process runs
/// two functions' code, and no runtime is left that nobody knows of.
pub(crate) async fn no_kill_leaks_a_load(world: World) -> Result<()> {
    needs_the_node()?;
    let kills = if world.long { 40 } else { 6 };
    world
        .alone("loads", |world, space| async move {
            let spec = json!({"startCheck": "Never", "idleTimeoutSeconds": 2, "timeoutSeconds": 5, "queue": {"maxWaitSeconds": 60}});
            for name in ["left", "right"] {
                space.apply(&source(name, "nodejs", &code("nodejs", name), spec.clone()))?;
                space.ready(name, "True").await?;
            }
            pool(&space, "small", Some("nodejs"), 2).await?;
            let mut ran: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
            for n in 0..kills {
                let calls = ["left", "right"].map(|name| {
                    let target = world.by_host(&space, name, "/");
                    tokio::spawn(async move { target.call(1).await })
                });
                // A load takes some 10 ms; the cluster knows of it 250 ms after the claim.
                tokio::time::sleep(Duration::from_millis(7 * (n % 40))).await;
                kill_controller(&world.cluster).await?;
                for (name, call) in ["left", "right"].into_iter().zip(calls) {
                    let answer = call.await??;
                    anyhow::ensure!(answer.status == 200 && said(&answer)?["who"] == name, "kill {n}, {name}: {answer}");
                    ran.entry(answer.header("x-instance").to_owned()).or_default().insert(name.to_owned());
                }
                world.cluster.system_ready().await?;
                until("no pod of a function is left, and the pool is whole", LIMIT, || async {
                    let pods = space.cluster.pods(&space.name, "").await?;
                    let parked = pods.iter().filter(|p| p.metadata.deletion_timestamp.is_none() && !is_loaded(p)).count();
                    anyhow::ensure!(parked == 2 && pods.len() == 2, "{parked} parked of {} pods", pods.len());
                    Ok(())
                })
                .await?;
                full(&space, "small", 2).await?;
                until("no runtime is held by anybody", LIMIT, || none_is_held(&space)).await.with_context(|| format!("kill {n}"))?;
            }
            let shared: Vec<_> = ran.iter().filter(|(_, names)| names.len() > 1).collect();
            anyhow::ensure!(shared.is_empty(), "{shared:?}");
            Ok(())
        })
        .await
}

/// The controller is killed between the two steps of a graft whose code is sent: the call is answered before its time is over,
/// by another pod.
pub(crate) async fn no_kill_loses_a_graft_of_code(world: World) -> Result<()> {
    needs_the_node()?;
    let kills = if world.long { 20 } else { 2 };
    world
        .alone("grafts", |world, space| async move {
            space.apply(
                &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"k": "hidden"}}).to_string(),
            )?;
            let secret = json!([{"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]);
            let spec = json!({"startCheck": "Never", "idleTimeoutSeconds": 2, "timeoutSeconds": 5, "env": secret,
                "queue": {"maxWaitSeconds": 20}});
            space.apply(&source("hidden", "nodejs", &code("nodejs", "hidden"), spec))?;
            space.ready("hidden", "True").await?;
            pool(&space, "any", None, 1).await?;
            let mut hits = 0;
            for n in 0..3 * kills {
                let pods = space.cluster.pods(&space.name, "").await?;
                let parked = pods.into_iter().find(|pod| pod.metadata.deletion_timestamp.is_none()).context("no pod")?;
                let (api, name) = (space.api::<Pod>(), pod_name(&parked));
                let target = world.by_host(&space, "hidden", "/");
                let call = tokio::spawn(async move { target.call(1).await });
                // The runtime is up some 100 ms after the container was added; only then can its code be sent.
                until("it is grafted", LIMIT, || async {
                    let spec = api.get(&name).await?.spec.context("no spec")?;
                    spec.ephemeral_containers.map(drop).context("not yet")
                })
                .await?;
                kill_controller(&world.cluster).await?;
                let ip = parked.status.and_then(|status| status.pod_ip).context("no address")?;
                let held = load::is_held(SocketAddr::new(ip.parse()?, load::PORT)).await;
                hits += usize::from(held == Some(false));
                let answer = call.await??;
                anyhow::ensure!(answer.status == 200 && said(&answer)?["secret"] == "hidden", "kill {n}: {answer}");
                world.cluster.system_ready().await?;
                space.pods_are("hidden", 0).await?;
                full(&space, "any", 1).await?;
                if hits == kills {
                    return Ok(());
                }
            }
            anyhow::bail!("of {} kills {hits} came before the code was sent", 3 * kills)
        })
        .await
}

async fn none_is_held(space: &Space) -> Result<()> {
    let pods = space.cluster.pods(&space.name, "").await?;
    anyhow::ensure!(pods.len() == 2, "{} pods", pods.len());
    for pod in pods {
        let ip = pod.status.as_ref().and_then(|s| s.pod_ip.clone()).context("no address")?;
        let held = load::is_held(SocketAddr::new(ip.parse()?, load::PORT)).await;
        anyhow::ensure!(held == Some(false), "{} is held: {held:?}", pod_name(&pod));
    }
    Ok(())
}

/// Many functions, one call each, and few parked runtimes: all are answered, and no process ever ran two functions' code.
pub(crate) async fn many_functions_share_a_small_pool(world: World) -> Result<()> {
    let (functions, size) = if world.long { (200, 8) } else { (24, 4) };
    world
        .alone("share", |world, space| async move {
            pool(&space, "small", Some("nodejs"), size).await?;
            let names: Vec<String> = (0..functions).map(|n| format!("f{n}")).collect();
            let spec = json!({"startCheck": "Never", "idleTimeoutSeconds": 5, "queue": {"maxWaitSeconds": 600}});
            for name in &names {
                space.apply(&source(name, "nodejs", &code("nodejs", name), spec.clone()))?;
            }
            for name in &names {
                space.ready(name, "True").await?;
            }
            let mut ran: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
            for some in names.chunks(usize::try_from(size)?) {
                let calls = some.iter().map(|name| {
                    let target = world.by_host(&space, name, "/");
                    async move { ok(&target).await }
                });
                let answers = join_all(calls).await;
                for (name, answer) in some.iter().zip(answers) {
                    let answer = answer?;
                    let told = said(&answer)?;
                    anyhow::ensure!(
                        told["who"] == *name && told["function"] == *name && told["calls"] == 1,
                        "{name}: {told}"
                    );
                    ran.entry(answer.header("x-instance").to_owned()).or_default().insert(name.clone());
                }
                if ran.len() == some.len() {
                    // The first of them had the whole pool.
                    until("some of them were loaded", LIMIT, || async {
                        let pods = space.cluster.pods(&space.name, "").await?;
                        anyhow::ensure!(pods.iter().any(is_loaded), "none of {} pods", pods.len());
                        Ok(())
                    })
                    .await?;
                }
            }
            let shared: Vec<_> = ran.iter().filter(|(_, names)| names.len() > 1).collect();
            anyhow::ensure!(shared.is_empty() && ran.len() == names.len(), "{shared:?}");
            Ok(())
        })
        .await
}
