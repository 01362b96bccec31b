//! Calls that do not end well: clients that leave, instances that die, times that run out.

use crate::raw::LIMIT;
use crate::world::{Kind, World, get, post, seen, world};
use anyhow::{Context, Result, ensure};
use dormouse_tests::proc::signal;
use dormouse_tests::wait::until;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// Waits until an instance says of itself what is wanted.
async fn counts(world: &World, port: u16, what: &str, n: u64) -> Result<()> {
    until(&format!("{what} is {n}"), LIMIT, || async {
        let count = world.ask(port, "count").await?;
        ensure!(count[what] == n, "{count}");
        Ok(())
    })
    .await
}

/// Lets one go that is held in an instance.
async fn release(world: &World, port: u16) -> Result<()> {
    until("somebody is held", LIMIT, || async {
        ensure!(world.ask(port, "next").await?["released"] == true, "nobody");
        Ok(())
    })
    .await
}

/// A client that leaves a running call gets nothing; the slot stays taken until the instance has answered.
#[tokio::test(flavor = "multi_thread")]
async fn a_running_call_keeps_its_slot_when_its_client_leaves() {
    let kinds = [Kind::Node, Kind::Threads];
    let functions = kinds.into_iter().map(|k| k.function(k.name(), json!({"concurrency": 1}))).collect();
    world(functions, &[], async |world| {
        world.up(&kinds.map(Kind::name)).await?;
        for kind in kinds {
            running(world, kind).await.with_context(|| format!("{kind:?}"))?;
        }
        Ok(())
    })
    .await;
}

async fn running(world: &World, kind: Kind) -> Result<()> {
    let name = kind.name();
    let port = world.port(name).await?;
    let started = world.ask(port, "count").await?["started"].as_u64().context("no count")?;
    let mut leaver = world.raw().await?;
    leaver.send(post(name, "/left", "x-do: hold\r\n", b"body")).await?;
    counts(world, port, "started", started + 1).await?;
    drop(leaver);
    let mut next = world.raw().await?;
    next.send(get(name, "/next", "")).await?;
    // The one that left is still the only one: with concurrency 1 the next one goes to another instance or waits.
    let before = world.odd_records(name, 0).await?;
    ensure!(before.is_empty(), "{before:?}");
    release(world, port).await?;
    let head = next.head().await?;
    let body = next.body(&head, false).await?;
    ensure!(head.status == 200, "{head:?} {}", body.text());
    let record = world.odd_records(name, 1).await?.remove(0);
    ensure!(record["outcome"] == "client_gone" && record["status"] == 0, "{record}");
    ensure!(record["request_bytes"] == 4 && record["response_bytes"].as_u64() > Some(0), "{record}");
    ensure!(world.ask(port, "count").await?["most"] == 1, "two at once");
    Ok(())
}

/// A client that leaves while its call waits was never there: no instance sees the call, and nothing is recorded.
#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_call_whose_client_leaves_reaches_nobody() {
    let cold =
        Kind::Node.function("cold", json!({"startCheck": "Never", "env": [{"name": "START_MS", "value": "3000"}]}));
    world([cold].into_iter().collect(), &[], async |world| {
        world.routed().await?;
        // A call that waits, after ones that came before the function's own route.
        let mut stays = until("a call waits", LIMIT, || async {
            let mut raw = world.raw().await?;
            raw.send(get("cold", "/stays", "")).await?;
            match tokio::time::timeout(std::time::Duration::from_millis(200), raw.head()).await {
                Err(_) => Ok(raw),
                Ok(head) => anyhow::bail!("{head:?}"),
            }
        })
        .await?;
        let mut leaver = world.raw().await?;
        // No more than the sockets hold, so that its end is seen behind it.
        leaver.send(post("cold", "/leaves", "", &[b'x'; 10_000])).await?;
        drop(leaver);
        let head = stays.head().await?;
        let body = stays.body(&head, false).await?;
        let told = seen(&body.start)?;
        ensure!(head.status == 200 && told["target"] == "/stays", "{told}");
        let port = u16::try_from(told["port"].as_u64().context("no port")?)?;
        let (head, _) = stays.call(get("cold", "/last", "")).await?;
        world.record("cold", head.one("dormouse-request-id")).await?;
        ensure!(world.ask(port, "count").await?["started"] == 2, "the call that left was sent");
        ensure!(world.records("cold").await?.len() == 2, "and recorded");
        Ok(())
    })
    .await;
}

/// A client that leaves within its upload: the instance sees the request break off, never a whole body.
#[tokio::test(flavor = "multi_thread")]
async fn half_an_upload_never_looks_whole() {
    let kinds = Kind::TALKING;
    world(kinds.into_iter().map(Kind::plain).collect(), &[], async |world| {
        world.up(&kinds.map(Kind::name)).await?;
        for kind in kinds {
            upload(world, kind).await.with_context(|| format!("{kind:?}"))?;
        }
        Ok(())
    })
    .await;
}

async fn upload(world: &World, kind: Kind) -> Result<()> {
    let name = kind.name();
    let port = world.port(name).await?;
    let count = world.ask(port, "count").await?;
    let (started, broken, whole) = (count["started"].as_u64(), count["broken"].as_u64(), count["whole"].clone());
    let (started, broken) = (started.context("no count")?, broken.context("no count")?);
    for (i, framing) in ["Content-Length: 1000\r\n", "Transfer-Encoding: chunked\r\n"].iter().enumerate() {
        let mut leaver = world.raw().await?;
        let start = get(name, "/half", framing).replacen("GET", "POST", 1);
        leaver.send(start + if i == 0 { "0123456789" } else { "a\r\n0123456789\r\n" }).await?;
        counts(world, port, "started", started + i as u64 + 1).await?;
        drop(leaver);
        counts(world, port, "broken", broken + i as u64 + 1).await?;
        let record = world.odd_records(name, i + 1).await?.remove(i);
        ensure!(record["outcome"] == "client_gone", "{record}");
    }
    ensure!(world.ask(port, "count").await?["whole"] == whole, "half a body was taken for a whole one");
    let (head, _) = world.raw().await?.call(get(name, "/", "")).await?;
    ensure!(head.status == 200, "{head:?}");
    Ok(())
}

/// `kill -9` of the instance's process within its answer: the client sees a broken transfer, never a clean end.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_killed_within_its_answer_breaks_the_transfer() {
    let kinds = Kind::TALKING;
    world(kinds.into_iter().map(Kind::plain).collect(), &[], async |world| {
        world.up(&kinds.map(Kind::name)).await?;
        for kind in kinds {
            for (i, framing) in ["", "x-chunked: 1\r\n"].iter().enumerate() {
                killed(world, kind, framing, i).await.with_context(|| format!("{kind:?}, {framing:?}"))?;
            }
        }
        Ok(())
    })
    .await;
}

async fn killed(world: &World, kind: Kind, framing: &str, i: usize) -> Result<()> {
    let name = kind.name();
    let mut raw = world.raw().await?;
    raw.send(get(name, "/", &format!("x-do: half\r\n{framing}"))).await?;
    let head = raw.head().await?;
    ensure!(head.status == 200, "{head:?}");
    let victim: u32 = head.one("x-pid").parse()?;
    // The first half is there before the instance dies.
    raw.has(4).await?;
    signal(victim, Signal::SIGKILL)?;
    let body = raw.body(&head, false).await?;
    ensure!(!body.whole, "a clean end of half an answer: {body:?}");
    let record = world.odd_records(name, i + 1).await?.remove(i);
    ensure!(record["outcome"] == "function_error" && record["status"] == 200, "{record}");
    // It is started again, and another process answers.
    let (head, body) = answered(world, name).await?;
    ensure!(seen(&body)?["pid"] != victim, "{head}");
    Ok(())
}

/// The first answer of a function that may be on its way up.
async fn answered(world: &World, name: &str) -> Result<(u16, Vec<u8>)> {
    until("an answer", LIMIT, || async {
        let (head, body) = world.raw().await?.call(get(name, "/", "")).await?;
        ensure!(head.status == 200, "{head:?}");
        Ok((head.status, body.start))
    })
    .await
}

/// Each time that runs out has its own status and reason; only the instance that let its time pass is replaced.
#[tokio::test(flavor = "multi_thread")]
async fn every_time_that_runs_out_has_its_own_answer() {
    let short = json!({"timeoutSeconds": 2, "concurrency": 1});
    let never =
        json!({"env": [{"name": "START_MS", "value": "600000"}], "queue": {"maxCalls": 10, "maxWaitSeconds": 1}});
    let functions = [
        Kind::Node.function("node", short.clone()),
        Kind::Threads.function("threads", short),
        Kind::Node.function("never", never),
    ];
    world(functions.into_iter().collect(), &[], async |world| {
        world.up(&["node", "threads"]).await?;
        let (head, _) = world.raw().await?.call(get("never", "/", "")).await?;
        ensure!((head.status, head.one("dormouse-reason")) == (503, "WaitTimeout"), "{head:?}");
        ensure!(!head.one("retry-after").is_empty(), "{head:?}");
        ensure!(world.records("never").await?.is_empty(), "a refusal is no record");
        for name in ["node", "threads"] {
            times(world, name).await.with_context(|| name.to_owned())?;
        }
        Ok(())
    })
    .await;
}

async fn times(world: &World, name: &str) -> Result<()> {
    let pid = |body: &[u8]| Ok::<_, anyhow::Error>(seen(body)?["pid"].clone());
    let first = pid(&answered(world, name).await?.1)?;
    // A body that does not come is its client's fault: 408, and the instance stays.
    let request = get(name, "/", "Content-Length: 10\r\n").replacen("GET", "POST", 1) + "half";
    let mut slow = world.raw().await?;
    slow.send(request).await?;
    let head = slow.head().await?;
    ensure!((head.status, head.one("dormouse-reason")) == (408, "RequestTimeout"), "{head:?}");
    let record = world.record(name, head.one("dormouse-request-id")).await?;
    ensure!(record["outcome"] == "client_gone" && record["status"] == 408, "{record}");
    ensure!(pid(&answered(world, name).await?.1)? == first, "the instance was replaced for its client's fault");
    // An instance that does not answer: 504, and another one takes its place.
    let (head, _) = world.raw().await?.call(get(name, "/", "x-do: hold\r\n")).await?;
    ensure!((head.status, head.one("dormouse-reason")) == (504, "Timeout"), "{head:?}");
    let record: Value = world.record(name, head.one("dormouse-request-id")).await?;
    ensure!(record["outcome"] == "timeout" && record["status"] == 504, "{record}");
    ensure!(pid(&answered(world, name).await?.1)? != first, "the instance that hangs was not replaced");
    Ok(())
}
