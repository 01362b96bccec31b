//! The contract of `runtimes/README.md`, as the runtimes' own suite has it, asked of functions through an activator.

use crate::client::{Client, Request};
use crate::table::{Asked, Case, cases};
use crate::world::{DOMAIN, World};
use anyhow::{Context, Result, ensure};
use dormouse_core::function::Runtime;
use dormouse_core::source::key_of;
use dormouse_tests::cluster::Space;
use futures::{StreamExt, stream};
use serde_json::{Map, Value, json};

/// Functions at once: each is loaded into a parked runtime, or starts by its Deployment while there is none.
const AT_ONCE: usize = 4;

/// The same table, once for each language; what only the platform says to a runtime is left out.
pub(crate) async fn functions_give_what_the_contract_says(world: World) -> Result<()> {
    world
        .alone("contract", |world, space| async move {
            let mut pools = String::new();
            for runtime in ["nodejs", "python"] {
                let spec = json!({"runtime": runtime, "size": {"min": AT_ONCE, "max": AT_ONCE}, "resources": {"memory": "96Mi", "cpu": "5m"}});
                let pool = json!({"apiVersion": "dormouse.dev/v1alpha1", "kind": "WarmPool", "metadata": {"name": runtime}, "spec": spec});
                pools += &format!("{pool}\n---\n");
            }
            space.apply(&pools)?;
            let cases = cases()?;
            let mut runs = Vec::new();
            for (n, case) in cases.iter().enumerate() {
                for runtime in [Runtime::Nodejs, Runtime::Python] {
                    let Some(code) = case.code(runtime) else { continue };
                    let (world, space) = (&world, &space);
                    runs.push(async move {
                        let name = format!("c{n}-{}", runtime.name());
                        let asked = ask(world, space, case, (&name, runtime, code)).await;
                        asked.with_context(|| format!("{:?} by {}", case.name, runtime.name()))
                    });
                }
            }
            let results: Vec<Result<()>> = stream::iter(runs).buffer_unordered(AT_ONCE).collect().await;
            ensure!(results.len() > 40, "only {} cases", results.len());
            let failed: Vec<String> = results.into_iter().filter_map(Result::err).map(|e| format!("{e:?}")).collect();
            ensure!(failed.is_empty(), "{} failed:\n\n{}", failed.len(), failed.join("\n\n"));
            Ok(())
        })
        .await
}

async fn ask(world: &World, space: &Space, case: &Case, (name, runtime, code): (&str, Runtime, &str)) -> Result<()> {
    space.apply(&manifests(case, (name, runtime, code))?)?;
    space.ready(name, "True").await?;
    let host = format!("{name}.{}.{DOMAIN}", space.name);
    let mut client = Client::open(world.activator).await?;
    for (i, ask) in case.asks.iter().enumerate().filter(|(_, ask)| !ask.is_direct()) {
        let request = Request { host: &host, ..ask.request("none")? };
        let reply = client.call(&request).await.with_context(|| format!("ask {i}"))?;
        ask.check(&reply, Asked::Function).with_context(|| format!("ask {i}: {reply:?}\n{}", reply.text()))?;
        if ask.broken || reply.one("connection") == "close" {
            client = Client::open(world.activator).await?;
        }
    }
    Ok(())
}

/// A function whose files are in a ConfigMap.
fn manifests(case: &Case, (name, runtime, code): (&str, Runtime, &str)) -> Result<String> {
    let files = case.code_files(runtime, code);
    let data = files.into_iter().map(|(path, text)| Some((key_of(path)?, text.into())));
    let data: Map<String, Value> = data.collect::<Option<_>>().context("a file whose path no key can say")?;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data});
    let env: Vec<Value> = case.env.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
    let function = json!({"apiVersion": "dormouse.dev/v1alpha1", "kind": "Function", "metadata": {"name": name}, "spec": {
        "source": {"runtime": runtime.name(), "handler": "index.handler", "configMap": {"name": name}}, "env": env,
        "concurrency": case.concurrency.unwrap_or(1), "resources": {"memory": "96Mi", "cpu": "5m"},
        // Some ask for what lives as long as the instance: it outlives the pauses between their calls.
        "startCheck": "Never", "idleTimeoutSeconds": 5, "queue": {"maxWaitSeconds": 120}}});
    Ok(format!("{map}\n---\n{function}\n"))
}
