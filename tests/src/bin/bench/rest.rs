//! Functions that are at rest, or go there.
//!
//! `bench release`: from the end of a function's idle time until its pod is gone. `bench scale`: what many idle functions
//! cost, and whether one among them wakes as fast as one among few.

use crate::burst::{full, pool};
use crate::say;
use anyhow::{Context, Result};
use dormouse_core::function::Function;
use dormouse_tests::client::Target;
use dormouse_tests::cluster::{Cluster, FUNCTION_LABEL, LIMIT, SYSTEM, Space};
use dormouse_tests::proc::{cpu_seconds, find_in_pod, memory};
use dormouse_tests::quantiles::Times;
use dormouse_tests::wait::until;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, PostParams, WatchEvent, WatchParams};
use serde_json::json;
use std::time::{Duration, Instant};

/// The idle time of `bench release`.
const IDLE: Duration = Duration::from_secs(5);

/// Longest wait for many functions at once.
const LONG: Duration = Duration::from_secs(900);

#[derive(clap::Args, Debug)]
pub(crate) struct Release {
    /// Samples of each way of waking
    #[arg(short, default_value_t = 10)]
    n: usize,
}

#[derive(clap::Args, Debug)]
pub(crate) struct Scale {
    /// Idle functions
    #[arg(long, default_values_t = [10, 1000])]
    functions: Vec<usize>,
    /// Cold calls among them
    #[arg(short, default_value_t = 10)]
    n: usize,
    /// Seconds at rest
    #[arg(long, default_value_t = 60)]
    rest: u64,
}

fn manifest(name: &str, idle: u64, memory: &str) -> serde_json::Value {
    json!({
        "apiVersion": "dormouse.dev/v1alpha1", "kind": "Function", "metadata": {"name": name},
        "spec": {"image": "dormouse/sample:0.1.0", "resources": {"memory": memory, "cpu": "10m"},
            "startCheck": "Never", "idleTimeoutSeconds": idle, "timeoutSeconds": 5},
    })
}

async fn make(space: &Space, manifest: serde_json::Value) -> Result<()> {
    let function: Function = serde_json::from_value(manifest)?;
    space.api::<Function>().create(&PostParams::default(), &function).await.map(drop).map_err(Into::into)
}

fn to(activator: std::net::SocketAddr, space: &Space, name: &str) -> Target {
    Target::new(activator, "bench", format!("/fn/{}/{name}/", space.name))
}

pub(crate) async fn release(plan: Release) -> Result<()> {
    let cluster = Cluster::connect().await?;
    cluster.system_ready().await?;
    cluster.in_namespace("release", |space| async move { released(space, plan.n).await }).await
}

async fn released(space: Space, n: usize) -> Result<()> {
    let activator = space.cluster.service(SYSTEM, "dormouse-activator").await?;
    pool(&space, 1, ("32Mi", "10m")).await?;
    for (name, memory) in [("made", "33Mi"), ("grafted", "32Mi")] {
        make(&space, manifest(name, IDLE.as_secs(), memory)).await?;
        space.ready(name, "True").await?;
    }
    say(
        "\n| after an idle time of 5 s | n | pod is being deleted, p50 ms | max ms | pod is gone, p50 ms | max ms |\n|---|---|---|---|---|---|",
    );
    for (name, what) in [("made", "pod of a Deployment"), ("grafted", "claimed pod")] {
        let (mut ending, mut gone) = (Times::default(), Times::default());
        for sample in 0..n {
            full(&space, 1).await?;
            let (first, second) = one_release(&space, to(activator, &space, name), name)
                .await
                .with_context(|| format!("sample {sample} of {name}"))?;
            ending.record(first);
            gone.record(second);
        }
        let [a, b, c, d] = [ending.ms(0.5), ending.ms(1.0), gone.ms(0.5), gone.ms(1.0)];
        say(&format!("| {what} | {n} | {a:.0} | {b:.0} | {c:.0} | {d:.0} |"));
    }
    Ok(())
}

/// When the pod of a call was being deleted, and was gone, since the end of the function's idle time.
async fn one_release(space: &Space, target: Target, name: &str) -> Result<(Duration, Duration)> {
    let answer = target.call(1).await?;
    anyhow::ensure!(answer.status == 200, "{answer}");
    let claimed = answer.header("x-sample-instance").starts_with("bench-parked");
    anyhow::ensure!(claimed == (name == "grafted"), "answered by the wrong pod: {answer}");
    let due = Instant::now() + IDLE;
    let pods = space.api::<Pod>();
    let version = pods.list(&ListParams::default().limit(1)).await?.metadata.resource_version;
    let params = WatchParams::default().labels(&format!("{FUNCTION_LABEL}={name}"));
    let mut events = pods.watch(&params, &version.context("no resource version")?).await?.boxed();
    let mut ending = None;
    while let Some(event) = tokio::time::timeout(LIMIT, events.try_next()).await?? {
        let now = Instant::now().saturating_duration_since(due);
        match event {
            WatchEvent::Modified(pod) if pod.metadata.deletion_timestamp.is_some() => {
                ending.get_or_insert(now);
            }
            WatchEvent::Deleted(_) => return Ok((ending.unwrap_or(now), now)),
            _ => {}
        }
    }
    anyhow::bail!("the watch ended")
}

pub(crate) async fn scale(plan: Scale) -> Result<()> {
    let cluster = Cluster::connect().await?;
    cluster.system_ready().await?;
    say(&format!(
        "\n| idle functions | made in s | one more Ready in ms | controller MiB | activator MiB | controller CPU ms per s at rest | activator | API server | cold call p50 ms (n = {}) |\n|---|---|---|---|---|---|---|---|---|",
        plan.n
    ));
    for functions in &plan.functions {
        cluster.in_namespace("scale", |space| one_scale(space, *functions, &plan)).await?;
    }
    Ok(())
}

async fn one_scale(space: Space, functions: usize, plan: &Scale) -> Result<()> {
    let began = Instant::now();
    let made = futures::stream::iter(0..functions).map(|n| make(&space, manifest(&format!("f{n}"), 1, "32Mi")));
    made.buffer_unordered(16).try_collect::<()>().await?;
    until("every function is ready", LONG, || async {
        let ready = all_ready(&space).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        anyhow::ensure!(ready == functions, "{ready} of {functions}");
        Ok(())
    })
    .await?;
    let made = began.elapsed();
    let began = Instant::now();
    make(&space, manifest("more", 1, "32Mi")).await?;
    space.ready("more", "True").await?;
    let more = began.elapsed();

    let mut processes = Vec::new();
    for (component, program) in [("controller", "dormouse-controller"), ("activator", "dormouse-activator")] {
        let pods = space.cluster.pods(SYSTEM, &format!("app.kubernetes.io/component={component}")).await?;
        let uid = pods.first().and_then(|p| p.metadata.uid.clone()).context("no pod")?;
        processes.push(find_in_pod(&uid, program)?);
    }
    processes.push(dormouse_tests::proc::find_beside("kube-apiserver")?);
    // Kubernetes makes a ReplicaSet for each of their Deployments, 20 requests a second by default: until it has, a wake
    // waits in the queue behind them.
    until("Kubernetes has seen every Deployment", LONG, || async {
        let list = space.api::<Deployment>().list(&ListParams::default()).await?;
        let seen = |d: &&Deployment| {
            let status = d.status.as_ref();
            status.is_some_and(|s| s.observed_generation == d.metadata.generation && s.conditions.is_some())
        };
        let seen = list.items.iter().filter(seen).count();
        tokio::time::sleep(Duration::from_secs(2)).await;
        anyhow::ensure!(seen == functions + 1, "{seen} of {functions}");
        Ok(())
    })
    .await?;
    let cpu = || processes.iter().map(|pid| cpu_seconds(&[*pid])).collect::<Result<Vec<f64>>>();
    let before = cpu()?;
    tokio::time::sleep(Duration::from_secs(plan.rest)).await;
    let per_second: Vec<f64> =
        cpu()?.iter().zip(before).map(|(now, then)| (now - then) * 1000.0 / plan.rest.max(1) as f64).collect();
    let mib = |pid: u32| memory(pid).map(|m| m.resident as f64 / 1024.0);
    let (controller, activator) = (mib(processes[0])?, mib(processes[1])?);

    let address = space.cluster.service(SYSTEM, "dormouse-activator").await?;
    let mut cold = Times::default();
    for n in 0..plan.n {
        let name = format!("f{}", n * functions / plan.n.max(1));
        space.pods_are(&name, 0).await?;
        let answer = to(address, &space, &name).call(1).await?;
        anyhow::ensure!(answer.status == 200 && answer.cold(), "{answer}");
        cold.record(answer.took);
        space.pods_are(&name, 0).await?;
    }
    say(&format!(
        "| {functions} | {:.1} | {:.0} | {controller:.1} | {activator:.1} | {:.2} | {:.2} | {:.1} | {:.0} |",
        made.as_secs_f64(),
        more.as_secs_f64() * 1000.0,
        per_second[0],
        per_second[1],
        per_second[2],
        cold.ms(0.5)
    ));
    Ok(())
}

async fn all_ready(space: &Space) -> Result<usize> {
    let (mut ready, mut page) = (0, ListParams::default().limit(500));
    loop {
        let list = space.api::<Function>().list(&page).await?;
        let is_ready = |f: &&Function| {
            let conditions = f.status.iter().flat_map(|s| &s.conditions);
            conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
        };
        ready += list.items.iter().filter(is_ready).count();
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(ready),
        }
    }
}
