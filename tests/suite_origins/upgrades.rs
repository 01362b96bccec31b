//! WebSocket and gRPC with the servers and clients that people use.

use crate::world::{Kind, SOURCES, World, python, tools, world};
use anyhow::{Context, Result, ensure};
use dormouse_tests::env::long;
use dormouse_tests::pair::Placed;
use dormouse_tests::wait::until;
use serde_json::{Value, json};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// Longest time of one client program.
const CLIENT: Duration = Duration::from_secs(240);

/// Seconds that a WebSocket is silent: longer than pooled connections are kept, and in the long form longer than a
/// client's connection may idle between two calls (75 s).
fn silence() -> u64 {
    if long() { 100 } else { 5 }
}

/// Runs a client and reads the JSON that it prints.
async fn client(command: &mut Command) -> Result<Value> {
    let child = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(CLIENT, child).await.context("the client does not end")??;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    serde_json::from_slice(&output.stdout).with_context(|| text(&output.stdout))
}

/// Servers on `ws` and on uvicorn with `websockets`, each with the clients of both.
#[tokio::test(flavor = "multi_thread")]
async fn web_sockets_pass() {
    let node = tools().map(|dir| dir.join("node").display().to_string());
    let with_ws = json!({"timeoutSeconds": 300, "env": [{"name": "WITH_WS", "value": node.unwrap()}]});
    let kinds = [Kind::Node, Kind::Uvicorn];
    let functions = kinds.into_iter().map(|k| k.function(k.name(), with_ws.clone())).collect();
    world(functions, &[], async |world| {
        world.raw().await?;
        let pairs = kinds.into_iter().flat_map(|kind| [(kind, "node"), (kind, "python")]);
        let pairs: Vec<_> = pairs.collect();
        for (kind, program) in &pairs {
            // The first one comes to a function at zero.
            web_socket(world, *kind, program).await.with_context(|| format!("{kind:?}, a client on {program}"))?;
        }
        for kind in kinds {
            // Of each client three connections: closed by the server, by the client, by the death of the instance.
            let records = until("every connection is recorded", CLIENT, || async {
                let mut records = world.records(kind.name()).await?;
                records.retain(|r| r["status"] == 101);
                ensure!(records.len() == 6, "{} of 6: {records:?}", records.len());
                Ok(records)
            });
            let records = records.await?;
            let most = records.iter().filter_map(|r| r["response_bytes"].as_u64()).max();
            ensure!(most > Some(200_000), "bytes of both ways are counted: {most:?}");
        }
        Ok(())
    })
    .await;
}

async fn web_socket(world: &World, kind: Kind, program: &str) -> Result<()> {
    let url = format!("ws://{}/fn/default/{}/chat?room=a%2fb", world.pair.traffic(), kind.name());
    let mut command = match program {
        "node" => {
            let mut command = Command::new("node");
            command.arg(format!("{SOURCES}/ws_client.mjs")).env("WITH_WS", tools()?.join("node"));
            command
        }
        _ => {
            let mut command = Command::new(python("python")?);
            command.arg(format!("{SOURCES}/ws_client.py"));
            command
        }
    };
    let out = client(command.args([&url, &silence().to_string()])).await?;
    let wanted = json!({
        "text": "grüße", "binary": true, "pong": "still there?", "many": true, "after_idle": "awake",
        "closed_by_server": [4001, "asked to"], "closed_by_client": 4002, "died": 1006,
    });
    for (name, value) in wanted.as_object().into_iter().flatten() {
        ensure!(out[name] == *value, "{name}: {out}");
    }
    let prefix = format!("/fn/default/{}", kind.name());
    ensure!(out["headers"]["x-forwarded-prefix"] == prefix && out["headers"]["via"].is_string(), "{out}");
    Ok(())
}

/// A request to upgrade to what the instance does not speak is an ordinary call.
#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_nobody_takes_is_an_ordinary_call() {
    world([Kind::Threads.plain()].into_iter().collect(), &[], async |world| {
        world.up(&["threads"]).await?;
        let asks = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        let mut raw = world.raw().await?;
        for _ in 0..2 {
            let (head, body) = raw.call(crate::world::get("threads", "/", asks)).await?;
            ensure!(head.status == 200 && body.whole, "{head:?} {}", body.text());
        }
        Ok(())
    })
    .await;
}

/// A function that speaks gRPC.
fn grpc() -> Result<Placed> {
    let mut function = Kind::Uvicorn.function("grpc", json!({"protocol": "h2c", "concurrency": 100}))?;
    function.command = vec![python("python")?, format!("{SOURCES}/grpc_server.py")];
    Ok(function)
}

/// Every kind of gRPC call through a cold start, with Python's grpcio on both sides.
#[tokio::test(flavor = "multi_thread")]
async fn grpc_passes() {
    world([grpc()].into_iter().collect(), &[], async |world| {
        world.raw().await?;
        let address = world.pair.traffic().to_string();
        let script = format!("{SOURCES}/grpc_client.py");
        let mut command = Command::new(python("python")?);
        command.args([script.as_str(), address.as_str(), "grpc.default.localhost"]);
        let out = client(&mut command).await?;
        let wanted = json!({
            "unary": ["cold", "early", "this"], "binary": [0, 255], "large": true,
            "server_stream": true, "server_stream_trailing": "200", "client_stream": "300000", "bidi": true,
            "fail": ["FAILED_PRECONDITION", "not today: ü%", "asked"], "half": ["half", "DATA_LOSS", "broke off"],
            "unknown_method": "UNIMPLEMENTED", "deadline": "DEADLINE_EXCEEDED", "many": true, "after_death": "again",
        });
        for (name, value) in wanted.as_object().into_iter().flatten() {
            ensure!(out[name] == *value, "{name}: {out}");
        }
        // What its own death says depends on how the stream broke; it is an error, and not one that invites a retry.
        ensure!(out["died"].is_string() && out["unknown_function"].is_string(), "{out}");
        println!("gRPC: an instance's death is {}, an unknown function {}", out["died"], out["unknown_function"]);
        // 1 unary, 1 large, 3 streams, fail, half, unknown method, hang, 200 at once, die, again.
        until("every call is recorded once", CLIENT, || async {
            let records = world.records("grpc").await?;
            ensure!(records.len() == 211, "{} of 211 records", records.len());
            Ok(())
        })
        .await
    })
    .await;
}
