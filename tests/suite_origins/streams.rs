//! Bodies that come bit by bit, or are larger than any buffer.

use crate::raw::{Raw, block, within};
use crate::world::{Kind, World, get, seen, world};
use anyhow::{Context, Result, ensure};
use dormouse_tests::env::long;
use serde_json::json;
use std::process::{Command, Stdio};
use tokio::io::AsyncWriteExt;

/// Size of a large body.
fn large() -> u64 {
    if long() { 1 << 30 } else { 100 << 20 }
}

/// What the activator's resident memory may grow by while large bodies pass, one after the other: the buffers of the two
/// connections (128 KiB each way at most, so under 1 MiB), and what the allocator keeps of threads that had a turn.
/// A body held whole would be 100 times as much.
const GROWTH: u64 = 16 << 20;

/// The sha256 of that many bytes of the pattern; by a program, for an unoptimised build takes a minute for a gibibyte.
fn sum(bytes: u64) -> Result<String> {
    let mut command = Command::new("sha256sum");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let (mut input, block) = (child.stdin.take().context("no input")?, block());
    let mut left = bytes;
    while left > 0 {
        let some = &block[..block.len().min(usize::try_from(left)?)];
        std::io::Write::write_all(&mut input, some)?;
        left -= some.len() as u64;
    }
    drop(input);
    let output = child.wait_with_output()?;
    Ok(String::from_utf8_lossy(&output.stdout).split(' ').next().unwrap_or_default().to_owned())
}

/// A line of /proc/PID/status in bytes.
fn memory(world: &World, line: &str) -> Result<u64> {
    let pid = world.pair.activator.as_ref().context("no activator")?.pid();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = status.lines().find_map(|l| l.strip_prefix(line)?.split_whitespace().nth(1)?.parse::<u64>().ok());
    Ok(kib.with_context(|| format!("no {line}"))? << 10)
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_larger_than_any_buffer_pass_in_constant_memory() {
    let patient = json!({"timeoutSeconds": 600, "env": [{"name": "BIG_BYTES", "value": large().to_string()}]});
    let kinds = [Kind::Node, Kind::Threads, Kind::Uvicorn, Kind::Nginx];
    let functions = kinds.into_iter().map(|k| k.function(k.name(), patient.clone())).collect();
    world(functions, &[], async |world| {
        world.up(&kinds.map(Kind::name)).await?;
        let before = memory(world, "VmRSS")?;
        let (bytes, sum) = (large(), sum(large())?);
        for kind in kinds {
            if kind == Kind::Nginx {
                let mut raw = world.raw().await?;
                let (head, body) = raw.call(get("nginx", "/files/big", "")).await?;
                ensure!(head.status == 200 && body.whole && body.bytes == bytes, "{head:?}");
                continue;
            }
            for chunked in [false, true] {
                up(world, kind, bytes, &sum, chunked).await.with_context(|| format!("up, {kind:?}"))?;
                down(world, kind, bytes, chunked).await.with_context(|| format!("down, {kind:?}"))?;
            }
        }
        let peak = memory(world, "VmHWM")?;
        println!(
            "{} MiB up and down, each 6 times, once from nginx: activator {before} to at most {peak} bytes",
            bytes >> 20
        );
        ensure!(peak < before + GROWTH, "from {before} to {peak}");
        Ok(())
    })
    .await;
}

async fn up(world: &World, kind: Kind, bytes: u64, sum: &str, chunked: bool) -> Result<()> {
    let mut raw = world.raw().await?;
    let length = if chunked { "Transfer-Encoding: chunked".into() } else { format!("Content-Length: {bytes}") };
    raw.send(get(kind.name(), "/", &format!("{length}\r\n")).replacen("GET", "POST", 1)).await?;
    let (block, mut left) = (block(), bytes);
    while left > 0 {
        let some = &block[..block.len().min(usize::try_from(left)?)];
        left -= some.len() as u64;
        if chunked {
            let chunk = [format!("{:x}\r\n", some.len()).as_bytes(), some, b"\r\n"].concat();
            raw.send(chunk).await?;
        } else {
            raw.send(some).await?;
        }
    }
    if chunked {
        raw.send("0\r\n\r\n").await?;
    }
    let head = raw.head().await?;
    let body = raw.body(&head, false).await?;
    let told = seen(&body.start)?;
    ensure!(head.status == 200 && told["bytes"] == bytes && told["sha256"] == sum, "{told}");
    let record = world.record(kind.name(), head.one("dormouse-request-id")).await?;
    ensure!(record["request_bytes"] == bytes, "{record}");
    Ok(())
}

async fn down(world: &World, kind: Kind, bytes: u64, chunked: bool) -> Result<()> {
    let mut raw = world.raw().await?;
    let more = format!("x-do: down\r\nx-bytes: {bytes}\r\n{}", if chunked { "x-chunked: 1\r\n" } else { "" });
    let (head, body) = raw.call(get(kind.name(), "/", &more)).await?;
    ensure!(head.status == 200 && body.whole && body.bytes == bytes && body.patterned, "{head:?} {}", body.bytes);
    ensure!((head.one("transfer-encoding") == "chunked") == chunked, "{head:?}");
    let record = world.record(kind.name(), head.one("dormouse-request-id")).await?;
    ensure!(record["response_bytes"] == bytes, "{record}");
    Ok(())
}

/// A reader for streams of events: each is asked for only when the one before has arrived, so that a proxy which holds
/// one back stands still for ever.
#[tokio::test(flavor = "multi_thread")]
async fn events_arrive_one_by_one() {
    world(Kind::TALKING.into_iter().map(Kind::plain).collect(), &[], async |world| {
        world.up(&Kind::TALKING.map(Kind::name)).await?;
        for kind in Kind::TALKING {
            let port = world.port(kind.name()).await?;
            let mut raw = world.raw().await?;
            raw.send(get(kind.name(), "/events", "x-do: events\r\nx-count: 5\r\n")).await?;
            let head = raw.head().await?;
            ensure!(head.one("content-type") == "text/event-stream", "{kind:?}: {head:?}");
            for i in 0..5 {
                let event = raw.chunk().await?.context("broke off")?;
                ensure!(event == format!("id: {i}\ndata: event {i}\n\n"), "{kind:?}: {event:?}");
                released(world, port).await?;
            }
            ensure!(raw.chunk().await?.is_some_and(|last| last.is_empty()), "{kind:?}: no end");
            let record = world.record(kind.name(), head.one("dormouse-request-id")).await?;
            ensure!(record["outcome"] == "ok", "{record}");
        }
        Ok(())
    })
    .await;
}

/// Lets one go that waits in an origin, once it does.
async fn released(world: &World, port: u16) -> Result<()> {
    within("somebody waits", async {
        while world.ask(port, "next").await?["released"] != true {}
        Ok(())
    })
    .await?
}

/// A body that goes up while its answer comes down, piece by piece.
#[tokio::test(flavor = "multi_thread")]
async fn both_ways_at_once() {
    let kinds = [Kind::Node, Kind::Uvicorn];
    world(kinds.into_iter().map(Kind::plain).collect(), &[], async |world| {
        world.up(&kinds.map(Kind::name)).await?;
        for kind in kinds {
            let mut raw = world.raw().await?;
            let more = "x-do: mirror\r\nTransfer-Encoding: chunked\r\n";
            raw.send(get(kind.name(), "/", more).replacen("GET", "POST", 1)).await?;
            if kind == Kind::Node {
                // Its head comes before any of the body went.
                ensure!(raw.head().await?.status == 200, "{kind:?}");
            }
            for i in 0..5 {
                raw.send(format!("7\r\npiece {i}\r\n")).await?;
                if i == 0 && kind != Kind::Node {
                    ensure!(raw.head().await?.status == 200, "{kind:?}");
                }
                ensure!(raw.chunk().await?.is_some_and(|piece| piece == format!("piece {i}")), "{kind:?}");
            }
            raw.send("0\r\n\r\n").await?;
            ensure!(raw.chunk().await?.is_some_and(|last| last.is_empty()), "{kind:?}: no end");
        }
        Ok(())
    })
    .await;
}

/// An answer that does not wait for the body reaches the client while the body is still to come, and the instance is
/// fit for the next call.
#[tokio::test(flavor = "multi_thread")]
async fn an_early_answer_is_not_held_back() {
    world(Kind::TALKING.into_iter().map(Kind::plain).collect(), &[], async |world| {
        world.up(&Kind::TALKING.map(Kind::name)).await?;
        for kind in Kind::TALKING {
            for framing in ["Content-Length: 50000000\r\n", "Transfer-Encoding: chunked\r\n"] {
                early(world, kind, framing).await.with_context(|| format!("{kind:?}, {framing}"))?;
            }
            let (head, _) = world.raw().await?.call(get(kind.name(), "/", "")).await?;
            ensure!(head.status == 200, "{kind:?}: {head:?}");
        }
        Ok(())
    })
    .await;
}

async fn early(world: &World, kind: Kind, framing: &str) -> Result<()> {
    let mut raw: Raw = world.raw().await?;
    let more = format!("x-do: early\r\n{framing}");
    raw.send(get(kind.name(), "/", &more).replacen("GET", "POST", 1) + "5\r\nabcde\r\n").await?;
    let head = raw.head().await?;
    let body = raw.body(&head, false).await?;
    ensure!((head.status, body.text().as_str(), body.whole) == (403, "early", true), "{head:?} {body:?}");
    let record = world.record(kind.name(), head.one("dormouse-request-id")).await?;
    ensure!(record["status"] == 403 && record["outcome"] == "ok", "{record}");
    // What is still sent is nobody's: it must not be taken for a request.
    let _ = raw.stream.write_all(b"GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n").await;
    Ok(())
}
