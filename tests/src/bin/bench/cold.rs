//! Cold calls: through the platform, and what a script with the same pod would take.

use crate::say;
use anyhow::{Context, Result};
use dormouse_tests::client::Target;
use dormouse_tests::cluster::{Cluster, LIMIT, SYSTEM, Space};
use dormouse_tests::quantiles::Times;
use dormouse_tests::wait::until;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use serde_json::json;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// The function of the cold calls, and the Deployment of the script.
const FUNCTION: &str = "cold";
const SCRIPTED: &str = "scripted";

/// The port of the sample.
const PORT: u16 = 8080;

/// Pause between two dials of the script, and how long one may take.
const DIAL: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(300));

/// What Kubernetes is left alone for between two samples.
const SETTLE: Duration = Duration::from_millis(500);

/// One cold call: all of it, and the part that the activator says was the start.
struct Call {
    whole: Duration,
    start_ms: f64,
}

/// Measures `n` samples of each arm, by turns.
pub(crate) async fn run(n: usize) -> Result<()> {
    let cluster = Cluster::connect().await?;
    cluster.system_ready().await?;
    cluster.in_namespace("bench", |space| async move { measure(space, n).await }).await
}

async fn measure(space: Space, n: usize) -> Result<()> {
    let activator = space.cluster.service(SYSTEM, "dormouse-activator").await?;
    let target = Target::new(activator, "bench", format!("/fn/{}/{FUNCTION}/", space.name));
    space.apply(&format!(
        "apiVersion: dormouse.dev/v1alpha1\nkind: Function\nmetadata: {{name: {FUNCTION}}}\nspec:\n  \
         image: dormouse/sample:0.1.0\n  resources: {{memory: 32Mi, cpu: 10m}}\n  idleTimeoutSeconds: 1\n  timeoutSeconds: 1\n"
    ))?;
    space.ready(FUNCTION, "True").await?;
    scripted_twin(&space).await?;
    let (mut calls, mut scripts) = (Vec::new(), Vec::new());
    // The first of each is not counted: connections are opened, caches filled.
    for sample in 0..=n {
        none_runs(&space).await?;
        let call = cold_call(&target).await?;
        none_runs(&space).await?;
        let script = script(&space).await?;
        if sample > 0 {
            calls.push(call);
            scripts.push(script);
        }
    }
    told(&calls, &scripts);
    Ok(())
}

/// A Deployment with the very pod template that the controller made for the function, but for its labels: nobody takes
/// it for the function's own.
async fn scripted_twin(space: &Space) -> Result<()> {
    let made = space.deployments(FUNCTION).await?.pop().context("the function has no Deployment")?;
    let mut template = serde_json::to_value(made.spec.template)?;
    template["metadata"] = json!({"labels": {"scripted": "yes"}});
    // The controller opens the gate of its own pods; nobody would open this one's.
    if let Some(spec) = template["spec"].as_object_mut() {
        spec.remove("schedulingGates");
    }
    let twin: Deployment = serde_json::from_value(json!({
        "metadata": {"name": SCRIPTED},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"scripted": "yes"}}, "template": template},
    }))?;
    space.api::<Deployment>().create(&PostParams::default(), &twin).await?;
    Ok(())
}

/// Waits until the namespace has no pod at all, ending ones included.
async fn none_runs(space: &Space) -> Result<()> {
    until("no pod", LIMIT, || async {
        let left = space.cluster.pods(&space.name, "").await?.len();
        anyhow::ensure!(left == 0, "{left} left");
        Ok(())
    })
    .await?;
    tokio::time::sleep(SETTLE).await;
    let left = space.cluster.pods(&space.name, "").await?.len();
    anyhow::ensure!(left == 0, "a pod began by itself");
    Ok(())
}

async fn cold_call(target: &Target) -> Result<Call> {
    let began = Instant::now();
    let answer = target.call(1).await?;
    let whole = began.elapsed();
    anyhow::ensure!(answer.status == 200, "{answer}");
    let start_ms = answer.timing("start").context("no Server-Timing")?;
    anyhow::ensure!(start_ms > 0.0, "not cold: {:?}", answer.headers);
    Ok(Call { whole, start_ms })
}

/// What a script does that knows everything beforehand: scale to 1, watch for the pod's address, dial it.
async fn script(space: &Space) -> Result<Duration> {
    let pods = space.api::<Pod>();
    let (version, params) = (pods.list(&kube::api::ListParams::default().limit(1)).await?, WatchParams::default());
    let version = version.metadata.resource_version.context("no resource version")?;
    let mut events = pods.watch(&params, &version).await?.boxed();
    let scale = |n: i32| {
        let api = space.api::<Deployment>();
        async move {
            let patch = Patch::Merge(json!({"spec": {"replicas": n}}));
            api.patch_scale(SCRIPTED, &PatchParams::default(), &patch).await
        }
    };
    let began = Instant::now();
    scale(1).await?;
    let ip = loop {
        let event = tokio::time::timeout(LIMIT, events.try_next()).await??.context("the watch ended")?;
        if let WatchEvent::Added(pod) | WatchEvent::Modified(pod) = event
            && let Some(ip) = pod.status.and_then(|s| s.pod_ip)
        {
            break ip.parse::<IpAddr>()?;
        }
    };
    let address = SocketAddr::new(ip, PORT);
    while !tokio::time::timeout(DIAL.1, TcpStream::connect(address)).await.is_ok_and(|c| c.is_ok()) {
        anyhow::ensure!(began.elapsed() < LIMIT, "{address} never opened");
        tokio::time::sleep(DIAL.0).await;
    }
    let took = began.elapsed();
    scale(0).await?;
    Ok(took)
}

fn told(calls: &[Call], scripts: &[Duration]) {
    let ours: Times = calls.iter().map(|c| c.whole).collect();
    let start: Times = calls.iter().map(|c| Duration::from_secs_f64(c.start_ms / 1000.0)).collect();
    let theirs: Times = scripts.iter().copied().collect();
    say("\n| arm | n | min ms | p50 ms | p90 ms | max ms |\n|---|---|---|---|---|---|");
    let rows = [
        ("cold call through the activator, whole", &ours),
        ("of that, start (Server-Timing)", &start),
        ("scripted Deployment 0 -> 1, until the port answers", &theirs),
    ];
    for (name, times) in rows {
        let (min, p50, p90, max) = (times.min_ms(), times.ms(0.5), times.ms(0.9), times.ms(1.0));
        say(&format!("| {name} | {} | {min:.0} | {p50:.0} | {p90:.0} | {max:.0} |", times.count()));
    }
    let (a, b) = (ours.ms(0.5), theirs.ms(0.5));
    say(&format!("p50: cold call / script = {:.2}, cold call - script = {:+.0} ms", a / b, a - b));
}
