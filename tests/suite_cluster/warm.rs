//! Warm pools: functions wake in pods that were started ahead.

use crate::activators::{needs_the_node, none_failed};
use crate::world::{SAMPLE, World, function, ok};
use anyhow::{Context, Result};
use dormouse_core::WarmPool;
use dormouse_tests::client::Target;
use dormouse_tests::cluster::{FUNCTION_LABEL, LIMIT, SYSTEM, Space, pod_name};
use dormouse_tests::journal::Journal;
use dormouse_tests::load::open;
use dormouse_tests::trouble::{Cordoned, Refusing, kill_controller};
use dormouse_tests::usage::lately;
use dormouse_tests::wait::until;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, EvictParams, ListParams, Patch, PatchParams};
use serde_json::json;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const POOL: &str = "small";
const CLAIMED_FROM: &str = "dormouse.dev/claimed-from";

/// Of a cold call, as metrics tell them.
const PHASES: [&str; 5] = ["wait", "claim", "start", "connect", "first_byte"];

/// A pool of so many pods that the suite's functions fit into.
fn pool(size: u32) -> String {
    format!(
        "apiVersion: dormouse.dev/v1alpha1\nkind: WarmPool\nmetadata: {{name: {POOL}}}\nspec:\n  \
         size: {{min: {size}, max: {size}}}\n  resources: {{memory: 128Mi, cpu: 20m}}\n"
    )
}

/// The name of a pod's function, by the container that was added to it.
fn grafted(pod: &Pod) -> Option<String> {
    let containers = pod.spec.as_ref()?.ephemeral_containers.as_ref()?;
    let env = containers.iter().find(|c| c.name == "fn")?.env.as_ref()?;
    env.iter().find(|e| e.name == "K_SERVICE")?.value.clone()
}

/// Waits until the pool says that it has so many parked, and gives them.
async fn parked(space: &Space, n: i32) -> Result<Vec<Pod>> {
    until(&format!("{n} parked pods"), LIMIT, || async {
        let status = space.api::<WarmPool>().get(POOL).await?.status.unwrap_or_default();
        anyhow::ensure!(status.parked == n && status.wanted == n, "{status:?}");
        let pods = space.cluster.pods(&space.name, &format!("dormouse.dev/pool={POOL}")).await?;
        let free: Vec<Pod> = pods.into_iter().filter(|p| grafted(p).is_none()).collect();
        anyhow::ensure!(i32::try_from(free.len())? == n, "{} pods", free.len());
        Ok(free)
    })
    .await
}

/// A pool of so many pods, once they are all parked.
pub(crate) async fn full_pool(space: &Space, size: u32) -> Result<()> {
    space.apply(&pool(size))?;
    parked(space, i32::try_from(size)?).await.map(drop)
}

/// A pool that is full, and a function that sleeps.
async fn beside_pool(space: &Space, size: u32, name: &str, spec: &[&str]) -> Result<()> {
    full_pool(space, size).await?;
    space.apply(&function(name, spec))?;
    space.ready(name, "True").await.map(drop)
}

/// A call from zero is answered by a parked pod, which then is the function's and has its size; the pool is full again,
/// the Deployment was not needed, and the pod goes when it is idle.
pub(crate) async fn a_function_wakes_in_a_parked_pod(world: World) -> Result<()> {
    world
        .alone("warm", |world, space| async move {
            space.apply(&pool(2))?;
            let before: BTreeSet<String> = parked(&space, 2).await?.iter().map(pod_name).collect();
            space.apply(&function(
                "quick",
                &["startCheck: Never", "idleTimeoutSeconds: 4", "env: [{name: GREETING, value: hi}]"],
            ))?;
            space.ready("quick", "True").await?;
            let answer = ok(&world.by_host(&space, "quick", "/env")).await?;
            anyhow::ensure!(answer.cold() && answer.text().contains("GREETING=hi"), "{answer}");
            let pod = until("the pod is the function's", LIMIT, || async {
                let mut pods = space.pods("quick").await?;
                let pod = pods.pop().filter(|_| pods.is_empty()).context("not one pod")?;
                let labels = pod.metadata.labels.clone().unwrap_or_default();
                anyhow::ensure!(labels.get(CLAIMED_FROM).is_some_and(|of| of == POOL), "{labels:?}");
                Ok(pod)
            })
            .await?;
            anyhow::ensure!(before.contains(&pod_name(&pod)), "it was not one of the parked ones");
            anyhow::ensure!(grafted(&pod).as_deref() == Some("quick"), "{:?}", pod.spec);
            never_twice(&space, &pod).await?;
            let owners = pod.metadata.owner_references.clone().unwrap_or_default();
            anyhow::ensure!(
                owners.len() == 1 && owners[0].kind == "Function" && owners[0].name == "quick",
                "{owners:?}"
            );
            let replicas: Vec<_> = space.deployments("quick").await?.iter().map(|d| d.spec.replicas).collect();
            anyhow::ensure!(replicas == [Some(0)], "the Deployment has {replicas:?}");
            ok(&world.by_host(&space, "quick", "/")).await?;

            let after: BTreeSet<String> = parked(&space, 2).await?.iter().map(pod_name).collect();
            anyhow::ensure!(after.len() == 2 && !after.contains(&pod_name(&pod)), "{before:?} -> {after:?}");
            shrunk(&space, &pod).await?;
            space.pods_are("quick", 0).await?;
            let records = world.usage.records(&format!("{}&namespace={}", lately(), space.name)).await?;
            let sizes: Vec<_> = records.iter().map(|r| (&r["memory_mib"], &r["outcome"])).collect();
            anyhow::ensure!(sizes.len() == 2 && sizes.iter().all(|s| *s == (&json!(32), &json!("ok"))), "{records:?}");
            Ok(())
        })
        .await
}

/// Whoever comes late with a graft of the same pod, as a controller that was paused, is refused: its container is there.
async fn never_twice(space: &Space, pod: &Pod) -> Result<()> {
    let other = json!({"name": "fn", "image": SAMPLE, "env": [{"name": "K_SERVICE", "value": "other"}]});
    let body = Patch::Strategic(json!({"spec": {"ephemeralContainers": [other]}}));
    let pods = space.api::<Pod>();
    match pods.patch_ephemeral_containers(&pod_name(pod), &PatchParams::default(), &body).await {
        Err(kube::Error::Api(status)) if status.code == 422 => Ok(()),
        other => anyhow::bail!("a second graft is not refused: {other:?}"),
    }
}

/// The pod has the function's own size, where the cluster does that.
async fn shrunk(space: &Space, pod: &Pod) -> Result<()> {
    let name = pod_name(pod);
    until("the pod is as small as its function", LIMIT, || async {
        let pod = space.api::<Pod>().get(&name).await?;
        let limits = pod.spec.and_then(|s| s.resources).and_then(|r| r.limits).unwrap_or_default();
        let memory = limits.get("memory").map(|q| q.0.clone());
        anyhow::ensure!(memory.as_deref() == Some("32Mi"), "{memory:?}");
        Ok(())
    })
    .await
}

/// More memory than the function's own kills it, though the pool's pods may have four times as much.
pub(crate) async fn a_claimed_pod_has_its_functions_memory(world: World) -> Result<()> {
    world
        .alone("hog", |world, space| async move {
            beside_pool(&space, 1, "hog", &["startCheck: Never", "idleTimeoutSeconds: 60"]).await?;
            ok(&world.by_host(&space, "hog", "/memory?mib=8")).await?;
            let pod = space.pods_are("hog", 1).await?.pop().context("no pod")?;
            shrunk(&space, &pod).await?;
            ok(&world.by_host(&space, "hog", "/memory?mib=8")).await?;
            let killed = until("a call that takes too much is killed", LIMIT, || async {
                // The kubelet brings the cgroup after the API's answer.
                let answer = world.by_host(&space, "hog", "/memory?mib=64").call(1).await?;
                anyhow::ensure!(answer.status == 502 && answer.reason() == "InstanceDied", "{answer}");
                Ok(answer)
            });
            killed.await?;
            until("another instance answers", LIMIT, || async {
                ok(&world.by_host(&space, "hog", "/")).await.map(drop)
            })
            .await
        })
        .await
}

/// More calls at once than parked pods: the rest wakes by the Deployment, and all are answered.
pub(crate) async fn the_deployment_helps_an_empty_pool(world: World) -> Result<()> {
    world
        .alone("helps", |world, space| async move {
            let spec = ["startCheck: Never", "concurrency: 1", "idleTimeoutSeconds: 5", "queue: {maxWaitSeconds: 60}"];
            beside_pool(&space, 2, "burst", &spec).await?;
            let target = world.by_host(&space, "burst", "/delay?ms=500");
            let calls = futures::future::join_all((0..6).map(|n| target.call(n))).await;
            for answer in calls {
                let answer = answer?;
                anyhow::ensure!(answer.status == 200, "{answer}");
                anyhow::ensure!(answer.header("x-sample-running") == "1", "two calls at once on one instance");
            }
            // They idle for a while yet. One that came too late for a call is in its pool still.
            let pods = space.cluster.pods(&space.name, "").await?;
            let claimed = pods.iter().filter(|p| grafted(p).is_some()).count();
            let made = space.pods("burst").await?.iter().filter(|p| grafted(p).is_none()).count();
            anyhow::ensure!(claimed == 2 && made > 0, "{claimed} claimed, {made} of the Deployment");
            space.pods_are("burst", 0).await?;
            parked(&space, 2).await.map(drop)
        })
        .await
}

/// Calls that outlive their claim move to the Deployment: none of them fails or waits for a second start.
pub(crate) async fn demand_that_lasts_settles_on_the_deployment(world: World) -> Result<()> {
    world
        .alone("settles", |world, space| async move {
            beside_pool(&space, 1, "lasting", &["startCheck: Never", "idleTimeoutSeconds: 60"]).await?;
            let target = world.by_host(&space, "lasting", "/delay?ms=50");
            let mut cold = 0;
            let mut last = String::new();
            // 30 s until the claim counts as outlived, and some for the move.
            for n in 0..400 {
                let answer = target.call(n).await?;
                anyhow::ensure!(answer.status == 200, "call {n}: {answer}");
                cold += u32::from(answer.cold());
                last = answer.header("x-sample-instance").to_owned();
                if n > 0 && !last.starts_with(&format!("{POOL}-parked")) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            anyhow::ensure!(last.starts_with("lasting-"), "calls still go to {last}");
            anyhow::ensure!(cold == 1, "{cold} calls waited for a start");
            until("the claimed pod is gone", LIMIT, || async {
                let pods = space.pods("lasting").await?;
                let claimed = pods.iter().filter(|p| grafted(p).is_some()).count();
                anyhow::ensure!(claimed == 0 && pods.len() == 1, "{claimed} claimed of {}", pods.len());
                Ok(())
            })
            .await
        })
        .await
}

/// So many calls at once never wait for a start; one that is lost is replaced; more and less of it fails no call. A
/// window opens by the clock.
pub(crate) async fn warm_capacity_is_ready_without_calls(world: World) -> Result<()> {
    world
        .alone("capacity", |world, space| async move {
            let spec = ["concurrency: 1", "warmUpConcurrency: 2", "idleTimeoutSeconds: 2", "startCheck: Never"];
            space.apply(&function("ready", &spec))?;
            // Each minute, for all of it.
            let window = "warmUp: [{name: always, cron: '* * * * *', durationSeconds: 120, concurrency: 1}]";
            space.apply(&function("clock", &["idleTimeoutSeconds: 2", "startCheck: Never", window]))?;
            let two = warm(&space, "ready", 2).await?;
            let target = world.by_host(&space, "ready", "/delay?ms=200");
            for answer in futures::future::join_all([target.call(1), target.call(2)]).await {
                let answer = answer?;
                anyhow::ensure!(answer.status == 200 && !answer.cold(), "{answer}");
            }
            warm(&space, "clock", 1).await?;
            let answer = ok(&world.by_host(&space, "clock", "/")).await?;
            anyhow::ensure!(!answer.cold(), "{answer}");

            let lost = two.first().context("no pod")?;
            space
                .api::<Pod>()
                .delete(lost, &DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() })
                .await?;
            until("another one is ready", LIMIT, || async {
                let now = warm(&space, "ready", 2).await?;
                anyhow::ensure!(!now.contains(lost), "{now:?}");
                Ok(())
            })
            .await?;
            // More and less while calls go on.
            let (stop, journal) = (CancellationToken::new(), Arc::new(Journal::default()));
            let load = tokio::spawn({
                let (target, stop, journal) = (target.clone(), stop.clone(), journal.clone());
                async move { open(&target, 2, stop, journal).await }
            });
            for n in [4, 1] {
                space.patch("ready", &json!({"spec": {"warmUpConcurrency": n}})).await?;
                warm(&space, "ready", usize::try_from(n)?).await?;
            }
            stop.cancel();
            none_failed(&load.await?)?;
            space.patch("ready", &json!({"spec": {"warmUpConcurrency": 0}})).await?;
            space.pods_are("ready", 0).await.map(drop)
        })
        .await
}

/// A warm instance that is evicted is missed for no longer than a graft takes, even where nothing new can start.
pub(crate) async fn an_evicted_warm_instance_is_stood_in_for(world: World) -> Result<()> {
    world
        .alone("evicted", |world, space| async move {
            let spec = ["warmUpConcurrency: 1", "idleTimeoutSeconds: 2", "timeoutSeconds: 5"];
            beside_pool(&space, 1, "ready", &spec).await?;
            let pods = warm(&space, "ready", 1).await?;
            let lost = pods.first().context("no pod")?;
            let cordoned = Cordoned::all(&space.cluster)?;
            space.api::<Pod>().evict(lost, &EvictParams::default()).await?;
            // It takes calls until its routes are withdrawn.
            let answer = until("another pod answers", LIMIT, || async {
                let answer = ok(&world.by_host(&space, "ready", "/")).await?;
                anyhow::ensure!(answer.header("x-sample-instance") != format!("{lost}/1"), "{answer}");
                Ok(answer)
            })
            .await?;
            let by = answer.header("x-sample-instance");
            anyhow::ensure!(by.starts_with(&format!("{POOL}-parked")), "not by a graft: {answer}");
            drop(cordoned);
            until("one that is kept ready, and nothing else", LIMIT, || async {
                let pods: Vec<String> = space.pods("ready").await?.iter().map(pod_name).collect();
                anyhow::ensure!(pods.len() == 1 && pods[0].starts_with("ready-") && pods[0] != *lost, "{pods:?}");
                Ok(())
            })
            .await
        })
        .await
}

/// Warm capacity is metered from when an instance is ready until it is kept no longer, each moment once, though the
/// controller is killed meanwhile: what is billed lies between what is certain and what is possible.
pub(crate) async fn warm_time_is_metered_once(world: World) -> Result<()> {
    world
        .alone("metered", |world, space| async move {
            let spec = ["warmUpConcurrency: 2", "concurrency: 1", "idleTimeoutSeconds: 2", "timeoutSeconds: 5"];
            space.apply(&function("kept", &spec))?;
            warm(&space, "kept", 2).await?;
            let ready = Timestamp::now();
            let pods = space.pods("kept").await?;
            let started: Vec<Timestamp> = pods.iter().filter_map(started_at).collect();
            anyhow::ensure!(started.len() == 2, "{started:?}");
            let question = format!("/v1/usage?{}&filter%5Bnamespace%5D={}", lately(), space.name);
            let metered = |least: i64| {
                let (world, question) = (&world, &question);
                until("its warm time is in the usage", LIMIT, move || async move {
                    let usage = world.usage.get(question).await?;
                    let told = usage["rows"][0]["warm_gb_seconds"].as_str().context("no row")?.to_owned();
                    // 32 MiB: a GB-second is 32 seconds.
                    let ms = told.parse::<f64>()? * 32.0 * 1000.0;
                    anyhow::ensure!(ms >= least as f64, "{ms} ms of at least {least}");
                    Ok(ms)
                })
            };
            // The ledger has some of it: the next controller goes on from there.
            metered(1).await?;
            kill_controller(&space.cluster).await?;
            let killed = Timestamp::now();
            space.cluster.system_ready().await?;
            // The next one has seen them, too.
            metered(2 * millis(ready, killed)).await?;
            let certain = 2 * millis(ready, Timestamp::now());
            space.patch("kept", &json!({"spec": {"warmUpConcurrency": 0}})).await?;
            space.pods_are("kept", 0).await?;
            let gone = Timestamp::now();
            let possible: i64 = started.iter().map(|at| millis(*at, gone)).sum();
            let metered = metered(certain).await?;
            crate::say(&format!("    {metered} ms metered: at least {certain}, at most {possible}"));
            anyhow::ensure!(metered <= possible as f64, "{metered} ms of at most {possible}");
            Ok(())
        })
        .await
}

/// When the process of a pod's function started: to the second, as Kubernetes tells it.
fn started_at(pod: &Pod) -> Option<Timestamp> {
    let containers = pod.status.as_ref()?.container_statuses.as_ref()?;
    Some(containers.first()?.state.as_ref()?.running.as_ref()?.started_at.as_ref()?.0)
}

fn millis(from: Timestamp, to: Timestamp) -> i64 {
    to.as_millisecond() - from.as_millisecond()
}

/// Pools that the chart's values name are made in their namespaces, changed with the values, and removed when they are
/// named no longer.
pub(crate) async fn the_values_name_warm_pools(world: World) -> Result<()> {
    world
        .alone("named", |world, space| async move {
            let set = |pools: &serde_json::Value| {
                let pools = format!("warmPools={pools}");
                world.cluster.helm(&[
                    "upgrade",
                    "dormouse",
                    crate::install::CHART,
                    "-n",
                    SYSTEM,
                    "--reuse-values",
                    "--set-json",
                    &pools,
                ])
            };
            let named = |size: u32| {
                json!([{"namespace": space.name, "name": POOL, "spec": {"size": {"min": size, "max": size},
                    "resources": {"memory": "128Mi", "cpu": "20m"}}}])
            };
            let target = world.by_host(&space, "quick", "/");
            let used = async {
                for size in [1, 2] {
                    set(&named(size))?;
                    parked(&space, i32::try_from(size)?).await?;
                }
                space.apply(&function("quick", &["startCheck: Never", "idleTimeoutSeconds: 2"]))?;
                space.ready("quick", "True").await?;
                // The controller was made anew with its values: the activator may not have its routes yet.
                let answer = until("it answers", LIMIT, || ok(&target)).await?;
                let by = answer.header("x-sample-instance").to_owned();
                anyhow::ensure!(by.starts_with(&format!("{POOL}-parked")), "not by a graft: {answer}");
                space.pods_are("quick", 0).await
            };
            let used = used.await;
            set(&json!([]))?;
            used?;
            until("the pool is gone with its pods", LIMIT, || async {
                let pools = space.api::<WarmPool>().list(&ListParams::default()).await?.items.len();
                let pods = space.cluster.pods(&space.name, "").await?.len();
                anyhow::ensure!(pools == 0 && pods == 0, "{pools} pools, {pods} pods");
                Ok(())
            })
            .await?;
            world.cluster.system_ready().await
        })
        .await
}

/// Waits until so many instances are kept ready, and gives the names of the pods.
async fn warm(space: &Space, name: &str, n: usize) -> Result<Vec<String>> {
    until(&format!("{n} warm instances of {name}"), LIMIT, || async {
        let instances = space.function(name).await?.status.and_then(|s| s.instances).unwrap_or_default();
        anyhow::ensure!(usize::try_from(instances.warm)? == n, "{instances:?}");
        let pods: Vec<String> = space.pods(name).await?.iter().map(pod_name).collect();
        Ok(pods)
    })
    .await
}

/// A cluster that refuses grafts: the call is served by the Deployment, the status says why, and the pool is whole.
pub(crate) async fn a_refused_graft_falls_back(world: World) -> Result<()> {
    world.alone("refused", |world, space| async move { refused(&world, &space).await }).await
}

async fn refused(world: &World, space: &Space) -> Result<()> {
    let _refusing = Refusing::begin(space, "UPDATE", "pods/ephemeralcontainers", "no grafts here")?;
    space.apply(&pool(1))?;
    parked(space, 1).await?;
    // The API server reads a new policy some time after it was made.
    until("grafts are refused", LIMIT, || async {
        let pods = parked(space, 1).await?;
        let name = pods.first().map(pod_name).context("no pod")?;
        let said = world.cluster.kubectl(&["debug", "-n", &space.name, &name, "--image=x"]);
        anyhow::ensure!(said.is_err_and(|e| e.to_string().contains("no grafts here")), "not refused");
        Ok(())
    })
    .await?;
    space.apply(&function("plain", &["startCheck: Never", "idleTimeoutSeconds: 30"]))?;
    space.ready("plain", "True").await?;
    let answer = ok(&world.by_host(space, "plain", "/")).await?;
    anyhow::ensure!(answer.header("x-sample-instance").starts_with("plain-"), "{answer}");
    until("the status says why", LIMIT, || async {
        let status = space.function("plain").await?.status.unwrap_or_default();
        let said = status.conditions.iter().any(|c| c.message.contains("no grafts here"));
        anyhow::ensure!(said, "{:?}", status.conditions);
        Ok(())
    })
    .await?;
    parked(space, 1).await.map(drop)
}

/// `dormouse invoke --cold` puts the function to sleep first, by either way of waking; the parts of the call's time are
/// those of its record, are counted by phase, and are no more than its caller measured.
pub(crate) async fn a_cold_call_says_where_its_time_went(world: World) -> Result<()> {
    world
        .alone("parts", |world, space| async move {
            let spec = ["startCheck: Never", "idleTimeoutSeconds: 600"];
            beside_pool(&space, 1, "grafted", &spec).await?;
            // Larger than the pool's pods.
            space.apply(&function("made", &spec).replace("32Mi", "129Mi"))?;
            space.ready("made", "True").await?;
            for name in ["grafted", "made"] {
                ok(&world.by_host(&space, name, "/")).await?;
                let said = world.cluster.dormouse(&["invoke", name, "-n", &space.name, "--cold", "-o", "json"])?;
                let said: serde_json::Value = serde_json::from_str(&said)?;
                let ms = |part: &str| said["timing"][part].as_f64().with_context(|| format!("no {part}: {said}"));
                anyhow::ensure!(said["timing"]["cold"] == json!(true), "{said}");
                let parts = ["waitMs", "claimMs", "startMs", "connectMs", "runMs"];
                let sum = parts.iter().try_fold(0.0, |sum, part| Ok::<_, anyhow::Error>(sum + ms(part)?))?;
                anyhow::ensure!(ms("claimMs")? > 0.0 && ms("startMs")? > 0.0 && sum <= ms("totalMs")?, "{said}");
                let record = until("its record", LIMIT, || async {
                    let query = format!("{}&namespace={}&function={name}", lately(), space.name);
                    let records = world.usage.records(&query).await?;
                    let own = records.into_iter().find(|r| r["request_id"] == said["headers"]["dormouse-request-id"]);
                    own.context("not there yet")
                })
                .await?;
                for part in ["wait", "claim", "start", "connect"] {
                    let us = record[format!("{part}_us")].as_f64().with_context(|| format!("no {part}: {record}"))?;
                    let told = ms(&format!("{part}Ms"))?;
                    anyhow::ensure!((us / 1000.0 - told).abs() < 0.0005, "{part}: {us} us beside {told} ms");
                }
                parked(&space, 1).await?;
            }
            let pods = world.cluster.pods(SYSTEM, "app.kubernetes.io/component=activator").await?;
            let ip = pods.first().and_then(|p| p.status.as_ref()?.pod_ip.clone()).context("no activator")?;
            let metrics = Target::new(SocketAddr::new(ip.parse()?, 9090), "any.example", "/metrics").call(1).await?;
            for (name, phase) in ["grafted", "made"].into_iter().flat_map(|n| PHASES.map(|phase| (n, phase))) {
                let labels = format!("namespace=\"{}\",function=\"{name}\",phase=\"{phase}\"", space.name);
                let line = format!("dormouse_cold_start_duration_seconds_count{{{labels}}} 2\n");
                anyhow::ensure!(metrics.text().contains(&line), "no {line} in\n{}", metrics.text());
            }
            space.patch("made", &json!({"spec": {"warmUpConcurrency": 1}})).await?;
            let refused = world.cluster.dormouse(&["invoke", "made", "-n", &space.name, "--cold"]);
            anyhow::ensure!(refused.is_err_and(|e| e.to_string().contains("is kept warm")), "not refused");
            Ok(())
        })
        .await
}

/// `kill -9` of the controller at every step of a claim: the call is answered, no pod serves two functions, nothing is
/// left of the claim in the end, and the pool is whole.
pub(crate) async fn no_kill_leaks_a_claim(world: World) -> Result<()> {
    needs_the_node()?;
    // A claim takes some 100 ms in all: reserved, grafted, seen open, called, owned. Each kill takes half a minute: so long the
    // next life leaves what it finds alone.
    let after = if world.long { (0..40).map(|n| 3 * n).collect() } else { vec![5, 40, 80] };
    world
        .alone("leaks", |world, space| async move {
            space.apply(&pool(2))?;
            for name in ["left", "right"] {
                let spec =
                    ["startCheck: Never", "idleTimeoutSeconds: 2", "timeoutSeconds: 5", "queue: {maxWaitSeconds: 60}"];
                space.apply(&function(name, &spec))?;
                space.ready(name, "True").await?;
            }
            parked(&space, 2).await?;
            for ms in after {
                let killed = kill_within(&world, &space, Duration::from_millis(ms)).await;
                killed.with_context(|| format!("a kill after {ms} ms"))?;
            }
            Ok(())
        })
        .await
}

async fn kill_within(world: &World, space: &Space, after: Duration) -> Result<()> {
    let calls: Vec<_> = ["left", "right"]
        .map(|name| {
            let target = world.by_host(space, name, "/delay?ms=20");
            tokio::spawn(async move { target.call(1).await })
        })
        .into();
    tokio::time::sleep(after).await;
    kill_controller(&world.cluster).await?;
    for call in calls {
        let answer = call.await??;
        anyhow::ensure!(answer.status == 200, "{answer}");
    }
    until("no pod of a function is left, and the pool is whole", LIMIT, || async {
        let pods = space.cluster.pods(&space.name, "").await?;
        for pod in &pods {
            let label = pod.metadata.labels.as_ref().and_then(|l| l.get(FUNCTION_LABEL));
            if let (Some(label), Some(grafted)) = (label, grafted(pod)) {
                anyhow::ensure!(*label == grafted, "{} is of {label} and runs {grafted}", pod_name(pod));
            }
        }
        let busy = pods.iter().filter(|p| grafted(p).is_some()).count();
        anyhow::ensure!(busy == 0 && pods.len() == 2, "{busy} claimed of {} pods", pods.len());
        Ok(())
    })
    .await?;
    world.cluster.system_ready().await?;
    parked(space, 2).await.map(drop)
}
