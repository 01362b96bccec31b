//! Cold calls: through the platform, by a Deployment, by a graft and by a load, beside what a script with the same pod takes.
//!
//! Nine arms by turns. Before each sample nothing runs in the namespace but parked pods. The scripts know everything
//! beforehand: they write, watch for the pod's address, and dial it every 2 ms.

use crate::say;
use anyhow::{Context, Result};
use dormouse_controller::load::{self, Load, LoadKey};
use dormouse_core::function::Runtime;
use dormouse_core::{ValidFunction, WarmPool};
use dormouse_tests::client::Target;
use dormouse_tests::cluster::{Cluster, LIMIT, SYSTEM, Space, pod_name};
use dormouse_tests::quantiles::Times;
use dormouse_tests::wait::until;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// Too large for the pool: it wakes by its Deployment. And one that fits.
const DEPLOYED: &str = "deployed";
const GRAFTED: &str = "grafted";
const POOL: &str = "bench";
/// What the scripts have: a Deployment of the function's pod, and one of parked pods.
const SCRIPTED: &str = "scripted";
const PARKED: &str = "scripted-parked";

const RUNTIMES: [Runtime; 2] = [Runtime::Nodejs, Runtime::Python];

/// The port of the sample.
const PORT: u16 = 8080;

/// Pause between two dials of the script, and how long one may take.
const DIAL: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(300));

/// The parts of a cold call's time, in their order.
const PARTS: [&str; 5] = ["claim", "start", "wait", "connect", "run"];

/// What Kubernetes is left alone for between two samples.
const SETTLE: Duration = Duration::from_millis(500);

/// The arms, in the order of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arm {
    BarePod,
    Scripted,
    Deployed,
    GraftAlone,
    Grafted,
    LoadAlone(Runtime),
    Loaded(Runtime),
}

const ARMS: [(Arm, &str); 9] = [
    (Arm::BarePod, "bare pod, until its port answers"),
    (Arm::Scripted, "Deployment 0 -> 1 by a script, until the port answers"),
    (Arm::Deployed, "cold call by a Deployment, whole"),
    (Arm::GraftAlone, "graft alone by a script, until the port answers"),
    (Arm::Grafted, "cold call by a graft, whole"),
    (Arm::LoadAlone(Runtime::Nodejs), "load on nodejs by a script, until it serves"),
    (Arm::Loaded(Runtime::Nodejs), "cold call by a load on nodejs, whole"),
    (Arm::LoadAlone(Runtime::Python), "load on python by a script, until it serves"),
    (Arm::Loaded(Runtime::Python), "cold call by a load on python, whole"),
];

/// Measures `n` samples of each arm, by turns.
pub(crate) async fn run(n: usize) -> Result<()> {
    let cluster = Cluster::connect().await?;
    cluster.system_ready().await?;
    cluster.in_namespace("bench", |space| async move { measure(space, n).await }).await
}

struct Stage {
    space: Space,
    activator: SocketAddr,
    /// The function's pod, as its controller makes it.
    pod: Value,
    /// What the release signs loads with.
    key: LoadKey,
    /// What the client measured of the cold calls, and its parts as the activator told them.
    parts: Vec<(Arm, f64, Vec<f64>)>,
}

async fn measure(space: Space, n: usize) -> Result<()> {
    let activator = space.cluster.service(SYSTEM, "dormouse-activator").await?;
    let function = |name: &str, memory: &str| {
        format!(
            "apiVersion: dormouse.dev/v1alpha1\nkind: Function\nmetadata: {{name: {name}}}\nspec:\n  \
             image: dormouse/sample:0.1.0\n  resources: {{memory: {memory}, cpu: 10m}}\n  idleTimeoutSeconds: 1\n  \
             timeoutSeconds: 1\n"
        )
    };
    space.apply(&format!(
        "apiVersion: dormouse.dev/v1alpha1\nkind: WarmPool\nmetadata: {{name: {POOL}}}\nspec:\n  \
         size: {{min: 2, max: 2}}\n  resources: {{memory: 32Mi, cpu: 10m}}\n"
    ))?;
    space.apply(&function(DEPLOYED, "33Mi"))?;
    space.apply(&function(GRAFTED, "32Mi"))?;
    space.ready(DEPLOYED, "True").await?;
    space.ready(GRAFTED, "True").await?;
    for runtime in RUNTIMES {
        space.apply(&handler(runtime))?;
        space.ready(&loaded(runtime), "True").await?;
    }
    let key = LoadKey::from_secret(&space.cluster.secret(SYSTEM, "dormouse-load-key", "secret").await?)?;
    let pod = twins(&space).await?;
    let mut stage = Stage { space, activator, pod, key, parts: Vec::new() };
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); ARMS.len()];
    // The first of each is not counted: connections are opened, caches filled.
    for sample in 0..=n {
        for (i, (arm, _)) in ARMS.iter().enumerate() {
            stage.quiet().await?;
            let took = stage.sample(*arm).await.with_context(|| format!("{arm:?}, sample {sample}"))?;
            if sample > 0 {
                times[i].push(took);
            } else {
                stage.parts.clear();
            }
        }
    }
    told(&times, &stage.parts);
    Ok(())
}

/// Deployments with the very pod templates that the controller made, but for their labels: nobody takes their pods for
/// its own. Answers the function's pod.
async fn twins(space: &Space) -> Result<Value> {
    let made = space.deployments(DEPLOYED).await?.pop().context("the function has no Deployment")?;
    let mut template = serde_json::to_value(made.spec.template)?;
    template["metadata"] = json!({"labels": {"scripted": "yes"}});
    // The controller opens the gate of its own pods; nobody would open this one's.
    if let Some(spec) = template["spec"].as_object_mut() {
        spec.remove("schedulingGates");
    }
    let mut all = vec![(SCRIPTED.to_owned(), 0, "yes".to_owned(), template.clone())];
    let pools = [POOL].into_iter().chain(RUNTIMES.map(Runtime::name));
    for (pool, label) in pools.zip(["parked", "nodejs", "python"]) {
        let made: Deployment = space.api::<Deployment>().get(&format!("{pool}-parked")).await?;
        let mut parked = serde_json::to_value(made.spec.template)?;
        parked["metadata"] = json!({"labels": {"scripted": label}});
        all.push((format!("{PARKED}-{label}"), 1, label.to_owned(), parked));
    }
    for (name, replicas, label, template) in all {
        let twin: Deployment = serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"scripted": label}}, "template": template},
        }))?;
        space.api::<Deployment>().create(&PostParams::default(), &twin).await?;
    }
    Ok(template)
}

impl Stage {
    /// Waits until nothing is there but parked pods, as many as there are to be.
    async fn quiet(&self) -> Result<()> {
        let check = async || {
            for pool in [POOL].into_iter().chain(RUNTIMES.map(Runtime::name)) {
                let status = self.space.api::<WarmPool>().get(pool).await?.status.unwrap_or_default();
                anyhow::ensure!(status.parked == 2, "{} of 2 are parked in {pool}", status.parked);
            }
            let pods = self.space.cluster.pods(&self.space.name, "").await?;
            let up = |p: &Pod| {
                let running = p.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running");
                running && p.metadata.deletion_timestamp.is_none()
            };
            let ready = pods.iter().filter(|p| up(p)).count();
            // Two of each pool, and one of each of the scripts' own.
            anyhow::ensure!(pods.len() == 9 && ready == 9, "{ready} of {} pods run", pods.len());
            Ok(())
        };
        // Quiet, and quiet still a while later.
        until("nothing but parked pods", LIMIT, || async {
            check().await?;
            tokio::time::sleep(SETTLE).await;
            check().await
        })
        .await
    }

    async fn sample(&mut self, arm: Arm) -> Result<Duration> {
        match arm {
            Arm::BarePod => self.bare_pod().await,
            Arm::Scripted => self.scripted().await,
            Arm::Deployed => self.cold_call(arm, DEPLOYED).await,
            Arm::GraftAlone => self.graft_alone().await,
            Arm::Grafted => self.cold_call(arm, GRAFTED).await,
            Arm::LoadAlone(runtime) => self.load_alone(runtime).await,
            Arm::Loaded(runtime) => self.cold_call(arm, &loaded(runtime)).await,
        }
    }

    async fn cold_call(&mut self, arm: Arm, function: &str) -> Result<Duration> {
        let target = Target::new(self.activator, "bench", format!("/fn/{}/{function}/", self.space.name));
        let began = Instant::now();
        let answer = target.call(1).await?;
        let took = began.elapsed();
        anyhow::ensure!(answer.status == 200, "{answer}");
        anyhow::ensure!(answer.cold(), "not cold: {:?}", answer.headers);
        let by = match arm {
            Arm::Loaded(runtime) => format!("instance {}-parked", runtime.name()),
            _ => format!("instance {POOL}-parked"),
        };
        let claimed = answer.text().contains(&by);
        anyhow::ensure!(claimed == (arm != Arm::Deployed), "answered by the wrong pod: {answer}");
        let part = |name: &&str| answer.timing(name).with_context(|| format!("no {name} in {:?}", answer.headers));
        let parts = PARTS.iter().map(part).collect::<Result<Vec<f64>>>()?;
        self.parts.push((arm, took.as_secs_f64() * 1e3, parts));
        Ok(took)
    }

    /// Follows the pods from now on.
    async fn watch(&self) -> Result<impl futures::Stream<Item = kube::Result<WatchEvent<Pod>>> + use<>> {
        let pods = self.space.api::<Pod>();
        let list = pods.list(&ListParams::default().limit(1)).await?;
        let version = list.metadata.resource_version.context("no resource version")?;
        Ok(pods.watch(&WatchParams::default(), &version).await?.boxed())
    }

    async fn bare_pod(&self) -> Result<Duration> {
        let (pods, events) = (self.space.api::<Pod>(), self.watch().await?);
        let mut pod = json!({"metadata": {"name": "bare"}, "spec": self.pod["spec"]});
        pod["metadata"]["labels"] = json!({"scripted": "bare"});
        let pod: Pod = serde_json::from_value(pod)?;
        let began = Instant::now();
        pods.create(&PostParams::default(), &pod).await?;
        answers(SocketAddr::new(address(events, began).await?, PORT), began).await?;
        let took = began.elapsed();
        pods.delete("bare", &DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() }).await?;
        Ok(took)
    }

    async fn scripted(&self) -> Result<Duration> {
        let (deployments, events) = (self.space.api::<Deployment>(), self.watch().await?);
        let scale = |n: i32| Patch::Merge(json!({"spec": {"replicas": n}}));
        let began = Instant::now();
        deployments.patch_scale(SCRIPTED, &PatchParams::default(), &scale(1)).await?;
        answers(SocketAddr::new(address(events, began).await?, PORT), began).await?;
        let took = began.elapsed();
        deployments.patch_scale(SCRIPTED, &PatchParams::default(), &scale(0)).await?;
        Ok(took)
    }

    /// A load of the function's code into a parked runtime whose address is known; nothing else.
    async fn load_alone(&self, runtime: Runtime) -> Result<Duration> {
        let pods = self.space.api::<Pod>();
        let of = ListParams::default().labels(&format!("scripted={}", runtime.name()));
        let parked = pods.list(&of).await?.items.pop().context("no pod")?;
        let ip: IpAddr = parked.status.as_ref().and_then(|s| s.pod_ip.clone()).context("no address")?.parse()?;
        let function = self.space.function(&loaded(runtime)).await?;
        let valid = ValidFunction::from_function(&function).map_err(|faults| anyhow::anyhow!("{faults:?}"))?;
        let uid = parked.metadata.uid.clone().unwrap_or_default();
        let handler = valid.source.as_ref().context("no handler")?;
        let load = Load { valid: &valid, handler, revision: "scripted", pod: &uid, grafted: false };
        let began = Instant::now();
        load::send(&self.key, load, SocketAddr::new(ip, load::PORT)).await?;
        let took = began.elapsed();
        pods.delete(&pod_name(&parked), &DeleteParams { grace_period_seconds: Some(1), ..DeleteParams::default() })
            .await?;
        Ok(took)
    }

    /// The image added to a parked pod whose address is known; nothing else.
    async fn graft_alone(&self) -> Result<Duration> {
        let pods = self.space.api::<Pod>();
        let parked =
            pods.list(&ListParams::default().labels("scripted=parked")).await?.items.pop().context("no pod")?;
        let ip: IpAddr = parked.status.as_ref().and_then(|s| s.pod_ip.clone()).context("no address")?.parse()?;
        let made = &self.pod["spec"]["containers"][0];
        let container = json!({"name": "fn", "image": made["image"], "imagePullPolicy": made["imagePullPolicy"],
            "env": made["env"], "securityContext": made["securityContext"]});
        let body = Patch::Strategic(json!({"spec": {"ephemeralContainers": [container]}}));
        let name = pod_name(&parked);
        let began = Instant::now();
        pods.patch_ephemeral_containers(&name, &PatchParams::default(), &body).await?;
        answers(SocketAddr::new(ip, PORT), began).await?;
        let took = began.elapsed();
        pods.delete(&name, &DeleteParams { grace_period_seconds: Some(1), ..DeleteParams::default() }).await?;
        Ok(took)
    }
}

/// A function with handler code, and a pool of runtimes for it.
fn handler(runtime: Runtime) -> String {
    let (name, function) = (runtime.name(), loaded(runtime));
    let code = match runtime {
        Runtime::Nodejs => {
            "exports.handler = async () => ({ statusCode: 200, body: `instance ${require('node:os').hostname()}` })"
        }
        Runtime::Python => {
            "import socket\n\ndef handler(event, context):\n    return {'statusCode': 200, 'body': 'instance ' + socket.gethostname()}"
        }
    };
    let pool = json!({"apiVersion": "dormouse.dev/v1alpha1", "kind": "WarmPool", "metadata": {"name": name},
        "spec": {"runtime": name, "size": {"min": 2, "max": 2}, "resources": {"memory": "96Mi", "cpu": "10m"}}});
    let function = json!({"apiVersion": "dormouse.dev/v1alpha1", "kind": "Function", "metadata": {"name": function}, "spec": {
        "source": {"runtime": name, "handler": "index.handler", "inline": code},
        "resources": {"memory": "96Mi", "cpu": "10m"}, "idleTimeoutSeconds": 1, "timeoutSeconds": 1}});
    format!("{pool}\n---\n{function}\n")
}

fn loaded(runtime: Runtime) -> String {
    format!("loaded-{}", runtime.name())
}

/// The address of the pod that began since.
async fn address(
    mut events: impl futures::Stream<Item = kube::Result<WatchEvent<Pod>>> + Unpin,
    began: Instant,
) -> Result<IpAddr> {
    loop {
        anyhow::ensure!(began.elapsed() < LIMIT, "no pod has an address");
        let event = tokio::time::timeout(LIMIT, events.try_next()).await??.context("the watch ended")?;
        if let WatchEvent::Added(pod) | WatchEvent::Modified(pod) = event
            && pod
                .metadata
                .labels
                .as_ref()
                .is_some_and(|l| l.get("scripted").is_some_and(|of| of == "yes" || of == "bare"))
            && let Some(ip) = pod.status.and_then(|s| s.pod_ip)
        {
            return Ok(ip.parse()?);
        }
    }
}

async fn answers(address: SocketAddr, began: Instant) -> Result<()> {
    while !tokio::time::timeout(DIAL.1, TcpStream::connect(address)).await.is_ok_and(|c| c.is_ok()) {
        anyhow::ensure!(began.elapsed() < LIMIT, "{address} never opened");
        tokio::time::sleep(DIAL.0).await;
    }
    Ok(())
}

fn told(times: &[Vec<Duration>], parts: &[(Arm, f64, Vec<f64>)]) {
    say("\n| arm | n | min ms | p50 ms | p90 ms | p99 ms | max ms |\n|---|---|---|---|---|---|---|");
    let all: Vec<Times> = times.iter().map(|t| t.iter().copied().collect()).collect();
    for ((_, name), times) in ARMS.iter().zip(&all) {
        let [min, p50, p90, p99, max] = [times.min_ms(), times.ms(0.5), times.ms(0.9), times.ms(0.99), times.ms(1.0)];
        say(&format!("| {name} | {} | {min:.1} | {p50:.1} | {p90:.1} | {p99:.1} | {max:.1} |", times.count()));
    }
    let p50 = |arm: Arm| ARMS.iter().zip(&all).find(|((a, _), _)| *a == arm).map_or(f64::NAN, |(_, t)| t.ms(0.5));
    let (bare, scripted, deployed) = (p50(Arm::BarePod), p50(Arm::Scripted), p50(Arm::Deployed));
    let (alone, grafted) = (p50(Arm::GraftAlone), p50(Arm::Grafted));
    say(&format!("p50: graft / bare pod = {:.2}, graft - graft alone = {:+.0} ms", grafted / bare, grafted - alone));
    for runtime in RUNTIMES {
        let (load, alone) = (p50(Arm::Loaded(runtime)), p50(Arm::LoadAlone(runtime)));
        let name = runtime.name();
        say(&format!(
            "p50, {name}: load / bare pod = {:.2}, load / graft = {:.2}, load - load alone = {:+.1} ms",
            load / bare,
            load / grafted,
            load - alone
        ));
    }
    say(&format!(
        "p50: Deployment / script = {:.2}, Deployment - script = {:+.0} ms",
        deployed / scripted,
        deployed - scripted
    ));
    for (arm, name) in ARMS {
        let of: Vec<_> = parts.iter().filter(|(a, ..)| *a == arm).map(|(_, whole, parts)| (whole, parts)).collect();
        if of.is_empty() {
            continue;
        }
        let each =
            PARTS.iter().enumerate().map(|(i, part)| format!("{part} {:.1}", median(of.iter().map(|(_, p)| p[i]))));
        let each: Vec<String> = each.collect();
        let rest = median(of.iter().map(|(whole, parts)| **whole - parts.iter().sum::<f64>()));
        say(&format!(
            "{name}: p50 of its parts by Server-Timing in ms: {}; the client measured {rest:.1} ms more than their sum (p50)",
            each.join(", ")
        ));
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
