//! Many calls at once on functions that sleep.
//!
//! `bench burst`: so many calls at once on one function, with one call at a time per instance and with 80. `bench storm`:
//! so many functions, each called by several at once.

use crate::say;
use anyhow::{Context, Result};
use dormouse_core::WarmPool;
use dormouse_tests::client::{Answer, CallError, Target};
use dormouse_tests::cluster::{Cluster, LIMIT, SYSTEM, Space};
use dormouse_tests::quantiles::Times;
use dormouse_tests::wait::until;
use futures::future::join_all;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, WatchEvent, WatchParams};
use std::collections::BTreeSet;
use std::time::Instant;
use tokio_util::sync::CancellationToken;

/// Work of each call.
const WORK: &str = "/delay?ms=100";
/// Longest wait of a call: 500 instances one after the other on two cores.
const MAX_WAIT: u32 = 600;

#[derive(clap::Args, Debug)]
pub(crate) struct Burst {
    /// Calls at once
    #[arg(long, default_values_t = [50, 500])]
    calls: Vec<u64>,
    /// Calls that one instance runs at once
    #[arg(long, default_values_t = [1, 80])]
    concurrency: Vec<u32>,
    /// Parked pods of a warm pool; 0: none
    #[arg(long, default_value_t = 4)]
    pool: u32,
    /// Most calls at once with one instance each: what the node has room for
    #[arg(long, default_value_t = 60)]
    most_instances: u64,
}

#[derive(clap::Args, Debug)]
pub(crate) struct Storm {
    /// Functions
    #[arg(long, default_value_t = 30)]
    functions: u32,
    /// Callers of each, at once
    #[arg(long, default_value_t = 20)]
    callers: u64,
    /// Parked pods of a warm pool; 0: none
    #[arg(long, default_value_t = 4)]
    pool: u32,
}

pub(crate) async fn burst(plan: Burst) -> Result<()> {
    let cluster = Cluster::connect().await?;
    cluster.system_ready().await?;
    say(
        "\n| calls at once | concurrency | answered | whole s | p50 ms | p99 ms | pods | last arrival to last write of a wanted number ms |\n|---|---|---|---|---|---|---|---|",
    );
    for concurrency in &plan.concurrency {
        for calls in &plan.calls {
            let instances = calls.div_ceil(u64::from(*concurrency));
            if instances > plan.most_instances {
                say(&format!(
                    "| {calls} | {concurrency} | not run: {instances} instances are more than --most-instances | | | | | |"
                ));
                continue;
            }
            cluster.in_namespace("burst", |space| one_burst(space, *calls, *concurrency, plan.pool)).await?;
        }
    }
    Ok(())
}

pub(crate) async fn storm(plan: Storm) -> Result<()> {
    let cluster = Cluster::connect().await?;
    cluster.system_ready().await?;
    cluster.in_namespace("storm", |space| one_storm(space, plan)).await
}

/// Memory and cpu of each instance.
const SIZE: (&str, &str) = ("16Mi", "1m");

fn function(name: &str, concurrency: u32) -> String {
    let (memory, cpu) = SIZE;
    format!(
        "apiVersion: dormouse.dev/v1alpha1\nkind: Function\nmetadata: {{name: {name}}}\nspec:\n  image: dormouse/sample:0.1.0\n  \
         resources: {{memory: {memory}, cpu: {cpu}}}\n  startCheck: Never\n  idleTimeoutSeconds: 5\n  concurrency: {concurrency}\n  \
         queue: {{maxWaitSeconds: {MAX_WAIT}}}\n"
    )
}

/// A pool that is full, of pods with this memory and cpu.
pub(crate) async fn pool(space: &Space, size: u32, (memory, cpu): (&str, &str)) -> Result<()> {
    if size == 0 {
        return Ok(());
    }
    space.apply(&format!(
        "apiVersion: dormouse.dev/v1alpha1\nkind: WarmPool\nmetadata: {{name: bench}}\nspec:\n  \
         size: {{min: {size}, max: {size}}}\n  resources: {{memory: {memory}, cpu: {cpu}}}\n"
    ))?;
    full(space, size).await
}

/// Waits until it is full.
pub(crate) async fn full(space: &Space, size: u32) -> Result<()> {
    until("the pool is full", LIMIT, || async {
        let status = space.api::<WarmPool>().get("bench").await?.status.unwrap_or_default();
        anyhow::ensure!(u32::try_from(status.parked)? == size, "{} parked", status.parked);
        Ok(())
    })
    .await
}

fn answered(answers: &[Result<Answer, CallError>]) -> (usize, Times) {
    let good: Vec<&Answer> = answers.iter().flatten().filter(|a| a.status == 200).collect();
    (good.len(), good.iter().map(|a| a.took).collect())
}

async fn one_burst(space: Space, calls: u64, concurrency: u32, size: u32) -> Result<()> {
    pool(&space, size, SIZE).await?;
    space.apply(&function("burst", concurrency))?;
    space.ready("burst", "True").await?;
    let activator = space.cluster.service(SYSTEM, "dormouse-activator").await?;
    let target = Target::new(activator, "bench", format!("/fn/{}/burst{WORK}", space.name));
    let deployments = space.api::<Deployment>();
    let version = deployments.list(&ListParams::default().limit(1)).await?.metadata.resource_version;
    let params = WatchParams::default();
    let mut events = deployments.watch(&params, &version.context("no resource version")?).await?.boxed();
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let writes = tokio::spawn(async move {
        let (mut last, mut replicas) = (None, Some(0));
        while let Some(Ok(Some(event))) = stopped.run_until_cancelled(events.try_next()).await {
            if let WatchEvent::Modified(deployment) = event
                && deployment.metadata.name.as_deref().is_some_and(|name| name.starts_with("burst-"))
                && deployment.spec.replicas > replicas
            {
                (last, replicas) = (Some(Instant::now()), deployment.spec.replicas);
            }
        }
        last
    });
    let began = Instant::now();
    let answers = join_all((0..calls).map(|n| target.call(n))).await;
    let whole = began.elapsed();
    let pods = space.cluster.pods(&space.name, "").await?.iter().filter(|p| runs(p)).count();
    stop.cancel();
    // All calls arrive within the first milliseconds.
    let last = writes.await?.map(|at| at.saturating_duration_since(began));
    let (good, times) = answered(&answers);
    let last = last.map_or("none needed".into(), |last| format!("{:.0}", last.as_secs_f64() * 1000.0));
    let (p50, p99) = (times.ms(0.5), times.ms(0.99));
    say(&format!(
        "| {calls} | {concurrency} | {good} | {:.1} | {p50:.0} | {p99:.0} | {pods} | {last} |",
        whole.as_secs_f64()
    ));
    Ok(())
}

/// It is an instance of a function.
fn runs(pod: &Pod) -> bool {
    let labelled = pod.metadata.labels.as_ref().is_some_and(|l| l.contains_key("dormouse.dev/function"));
    let grafted = pod.spec.as_ref().and_then(|s| s.ephemeral_containers.as_ref()).is_some_and(|c| !c.is_empty());
    labelled || grafted
}

async fn one_storm(space: Space, plan: Storm) -> Result<()> {
    pool(&space, plan.pool, SIZE).await?;
    for n in 0..plan.functions {
        space.apply(&function(&format!("f{n}"), 80))?;
    }
    for n in 0..plan.functions {
        space.ready(&format!("f{n}"), "True").await?;
    }
    let activator = space.cluster.service(SYSTEM, "dormouse-activator").await?;
    let targets: Vec<Target> = (0..plan.functions)
        .map(|n| Target::new(activator, "bench", format!("/fn/{}/f{n}{WORK}", space.name)))
        .collect();
    let began = Instant::now();
    let calls = targets.iter().flat_map(|target| (0..plan.callers).map(|n| target.call(n)));
    let answers = join_all(calls).await;
    let whole = began.elapsed();
    let (good, times) = answered(&answers);
    let instances: BTreeSet<_> = answers.iter().flatten().map(|a| a.header("x-sample-instance").to_owned()).collect();
    let (all, p50, p99) = (answers.len(), times.ms(0.5), times.ms(0.99));
    say(&format!(
        "\n{} functions, {} callers each: {good} of {all} answered by {} instances in {:.1} s; p50 {p50:.0} ms, p99 {p99:.0} ms",
        plan.functions,
        plan.callers,
        instances.len(),
        whole.as_secs_f64()
    ));
    Ok(())
}
