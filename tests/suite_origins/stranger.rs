//! Rule 1, last sentence, with real processes: the controller is dead, the instance's process is killed, and another
//! server takes its port. Not one call reaches that one.

use crate::raw::LIMIT;
use crate::world::{Kind, SOURCES, get, seen, world};
use anyhow::{Context, ensure};
use dormouse_tests::proc::{Program, signal};
use dormouse_tests::wait::until;
use nix::sys::signal::Signal;
use serde_json::json;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn another_server_on_the_address_of_a_dead_instance_gets_no_call() {
    let patient = Kind::Node.function("node", json!({"queue": {"maxCalls": 100, "maxWaitSeconds": 120}}));
    world([patient].into_iter().collect(), &[], async |world| {
        world.up(&["node"]).await?;
        let mut raw = world.raw().await?;
        let (_, body) = raw.call(get("node", "/", "")).await?;
        let told = seen(&body.start)?;
        let (pid, port) = (told["pid"].as_u64().context("no pid")?, told["port"].as_u64().context("no port")?);
        world.pair.house.take().context("no house")?.kill()?;
        let (head, _) = raw.call(get("node", "/", "")).await?;
        ensure!(head.status == 200, "a warm call needs no controller: {head:?}");
        // Within the 4 s for which its connection is kept.
        signal(u32::try_from(pid)?, Signal::SIGKILL)?;
        let stranger = Program::new("node", world.folder.path().join("stranger.log"))
            .args([format!("{SOURCES}/node.mjs")])
            .env("PORT", port.to_string());
        let mut stranger = stranger.start()?;
        let port = u16::try_from(port)?;
        let there = &*world;
        until("the stranger listens", LIMIT, || {
            let alive = stranger.check();
            async move {
                alive?;
                there.ask(port, "count").await
            }
        })
        .await?;
        let mut calls = Vec::new();
        for i in 0..20 {
            let mut raw = world.raw().await?;
            raw.send(get("node", &format!("/{i}"), "")).await?;
            calls.push(raw);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        ensure!(world.ask(port, "count").await?["started"] == 0, "the stranger got a call");
        world.pair.house = Some(world.pair.house_program.start()?);
        for (i, mut raw) in calls.into_iter().enumerate() {
            let head = raw.head().await?;
            let body = raw.body(&head, false).await?;
            ensure!(head.status == 200, "{head:?} {}", body.text());
            ensure!(seen(&body.start)?["target"] == format!("/{i}"), "{}", body.text());
        }
        ensure!(world.ask(port, "count").await?["started"] == 0, "the stranger got a call");
        stranger.end(LIMIT)?;
        Ok(())
    })
    .await;
}
