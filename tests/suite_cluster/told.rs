//! What keeps a function from starting, each thing brought about on the real cluster: its owner is told in the status
//! and by an event, its callers by a code and never by words from inside the cluster, nobody pays, and it works again
//! as soon as what was wrong is mended.

use crate::world::{World, function, ok};
use anyhow::{Context, Result};
use dormouse_tests::cluster::{LIMIT, Space};
use dormouse_tests::trouble::{Cordoned, Refusing};
use dormouse_tests::usage::lately;
use dormouse_tests::wait::until;
use serde_json::{Value, json};
use std::future::Future;
use std::pin::Pin;

const NAME: &str = "told";

/// What is to be told.
struct Told {
    /// The stable code: a reason for callers, in conditions and events.
    code: &'static str,
    /// Words that tell the owner what exactly is wrong.
    words: &'static [&'static str],
}

type Mend<'a> = Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;

/// A function is made where it cannot start; all are told; what is wrong is mended; it answers.
async fn told(world: &World, space: &Space, spec: &[&str], told: Told, mend: Mend<'_>) -> Result<()> {
    let spec = [spec, &["timeoutSeconds: 5", "idleTimeoutSeconds: 30", "queue: {maxWaitSeconds: 5}"]].concat();
    space.apply(&function(NAME, &spec))?;
    until(&format!("the status says {}", told.code), LIMIT, || async {
        let status = space.function(NAME).await?.status.unwrap_or_default();
        let said = status.conditions.iter().find(|c| c.reason == told.code).with_context(|| format!("{status:?}"))?;
        let all = told.words.iter().all(|words| said.message.contains(words));
        anyhow::ensure!(all, "{:?} without {:?}", said.message, told.words);
        Ok(())
    })
    .await?;
    let answer = world.by_host(space, NAME, "/").call(1).await?;
    let code = answer.status.as_u16();
    anyhow::ensure!([502, 503].contains(&code) && answer.reason() == told.code, "{answer}");
    let leaks = told.words.iter().find(|words| answer.text().contains(**words));
    anyhow::ensure!(leaks.is_none(), "callers get the code only: {answer}");
    until("an event says so", LIMIT / 4, || async {
        let events = space.events(NAME).await?;
        anyhow::ensure!(events.iter().any(|e| e == told.code), "{events:?}");
        Ok(())
    })
    .await?;

    mend.await?;
    let target = world.by_host(space, NAME, "/");
    let answer = until("it answers", LIMIT, || ok(&target)).await?;
    until("the status says that it is well", LIMIT, || async {
        let status = space.function(NAME).await?.status.unwrap_or_default();
        let bad = status.conditions.iter().find(|c| c.reason == told.code);
        anyhow::ensure!(bad.is_none(), "{bad:?}");
        Ok(())
    })
    .await?;
    until("its record", LIMIT, || async {
        let ids = world.usage.request_ids(&format!("{}&namespace={}", lately(), space.name)).await?;
        anyhow::ensure!(ids == [answer.request_id()], "only what was answered is recorded: {ids:?}");
        Ok(())
    })
    .await
}

/// Mended by another spec.
async fn patched(space: &Space, spec: Value) -> Result<()> {
    space.patch(NAME, &json!({ "spec": spec })).await.map(drop)
}

pub(crate) async fn a_full_quota(world: World) -> Result<()> {
    let quota = "apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: none}\nspec: {hard: {pods: 0}}\n";
    world
        .alone("quota", |world, space| async move {
            space.apply(quota)?;
            until("the quota is counted", LIMIT, || async {
                let said = space.cluster.kubectl(&["get", "quota", "none", "-n", &space.name, "-o", "json"])?;
                anyhow::ensure!(said.contains("\"used\""), "{said}");
                Ok(())
            })
            .await?;
            let mend =
                Box::pin(async { space.cluster.kubectl(&["delete", "quota", "none", "-n", &space.name]).map(drop) });
            told(&world, &space, &[], Told { code: "QuotaExceeded", words: &["exceeded quota"] }, mend).await
        })
        .await
}

pub(crate) async fn a_refusal_of_admission(world: World) -> Result<()> {
    world
        .alone("admission", |world, space| async move {
            const WORDS: &str = "nothing starts here";
            let refusing = Refusing::begin(&space, "CREATE", "pods", WORDS)?;
            until("nothing starts", LIMIT, || async {
                let said = space.cluster.kubectl(&["run", "x", "-n", &space.name, "--image=x", "--dry-run=server"]);
                anyhow::ensure!(said.is_err_and(|e| e.to_string().contains(WORDS)), "not refused");
                Ok(())
            })
            .await?;
            let mend = Box::pin(async move {
                drop(refusing);
                Ok(())
            });
            told(&world, &space, &[], Told { code: "AdmissionRefused", words: &[WORDS] }, mend).await
        })
        .await
}

pub(crate) async fn a_missing_secret(world: World) -> Result<()> {
    world
        .alone("secret", |world, space| async move {
            let spec = ["env: [{name: KEY, valueFrom: {secretKeyRef: {name: keys, key: one}}}]"];
            let mend = Box::pin(async {
                space.apply("apiVersion: v1\nkind: Secret\nmetadata: {name: keys}\nstringData: {one: a}\n").map(drop)
            });
            told(&world, &space, &spec, Told { code: "ConfigMissing", words: &["keys"] }, mend).await
        })
        .await
}

/// No node takes new pods, for a while.
pub(crate) async fn no_room(world: World) -> Result<()> {
    world
        .alone("room", |world, space| async move {
            let cordoned = Cordoned::all(&space.cluster)?;
            let mend = Box::pin(async move {
                drop(cordoned);
                Ok(())
            });
            told(&world, &space, &[], Told { code: "Unschedulable", words: &["unschedulable"] }, mend).await
        })
        .await
}

pub(crate) async fn a_command_that_is_not_there(world: World) -> Result<()> {
    world
        .alone("command", |world, space| async move {
            let mend = Box::pin(patched(&space, json!({"command": null})));
            told(&world, &space, &["command: [/nope]"], Told { code: "BadCommand", words: &["/nope"] }, mend).await
        })
        .await
}

pub(crate) async fn a_crash_at_the_start(world: World) -> Result<()> {
    world
        .alone("crashes", |world, space| async move {
            let mend = Box::pin(patched(&space, json!({"args": null})));
            // What the program says last, and its exit code.
            let words = Told { code: "CrashLoop", words: &["exit code 2", "--help"] };
            told(&world, &space, &["args: [--nonsense]"], words, mend).await
        })
        .await
}

pub(crate) async fn too_little_memory(world: World) -> Result<()> {
    world
        .alone("oom", |world, space| async move {
            let mend = Box::pin(patched(&space, json!({"args": null})));
            let words = Told { code: "OutOfMemory", words: &["more memory than its limit"] };
            told(&world, &space, &["args: [--hold-mib, '64']"], words, mend).await
        })
        .await
}

/// What ends in a claimed pod is started by the Deployment, and told as what ends there; the pool is whole again.
pub(crate) async fn a_crash_in_a_claimed_pod(world: World) -> Result<()> {
    world
        .alone("claimed", |world, space| async move {
            let name = "crashing";
            crate::warm::full_pool(&space, 1).await?;
            let spec = ["startCheck: Never", "args: [--nonsense]", "queue: {maxWaitSeconds: 60}"];
            space.apply(&function(name, &spec))?;
            space.ready(name, "True").await?;
            let answer = world.by_host(&space, name, "/").call(1).await?;
            anyhow::ensure!(answer.status == 502 && answer.reason() == "CrashLoop", "{answer}");
            let failed = space.ready(name, "False").await?.status.unwrap_or_default();
            let said = failed.conditions.iter().any(|c| c.reason == "CrashLoop" && c.message.contains("exit code 2"));
            anyhow::ensure!(said, "{:?}", failed.conditions);
            crate::warm::full_pool(&space, 1).await?;
            space.patch(name, &json!({"spec": {"args": null}})).await?;
            let target = world.by_host(&space, name, "/");
            until("it answers", LIMIT, || ok(&target)).await.map(drop)
        })
        .await
}
