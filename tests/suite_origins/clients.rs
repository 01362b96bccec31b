//! Clients as people use them: curl, ab and wrk, each with its own habits.

use crate::raw::{LIMIT, sha256};
use crate::world::{Kind, World, seen, world};
use anyhow::{Context, Result, ensure};
use dormouse_tests::proc::run;
use dormouse_tests::wait::until;
use std::process::Command;

#[tokio::test(flavor = "multi_thread")]
async fn curl_ab_and_wrk_get_their_answers() {
    let kinds = [Kind::Node, Kind::Threads, Kind::Nginx];
    world(kinds.into_iter().map(Kind::plain).collect(), &[], async |world| {
        world.up(&kinds.map(Kind::name)).await?;
        curl(world).context("curl")?;
        for kind in kinds {
            ab(world, kind).await.with_context(|| format!("ab, {kind:?}"))?;
            wrk(world, kind).await.with_context(|| format!("wrk, {kind:?}"))?;
        }
        Ok(())
    })
    .await;
}

/// HTTP/2 without an upgrade, to an instance that speaks HTTP/1.1.
#[tokio::test(flavor = "multi_thread")]
async fn curl_speaks_http2() {
    world([Kind::Node.plain()].into_iter().collect(), &[], async |world| {
        world.up(&["node"]).await?;
        let there = |path| url(world, Kind::Node, path);
        let status = ["--http2-prior-knowledge", "-o", "/dev/null", "-w", "%{http_version} %{http_code}"];
        ensure!(get(&status, &there("/"))? == "2 200", "not HTTP/2");
        echoed(world, "--http2-prior-knowledge")?;
        let down = ["--http2-prior-knowledge", "-H", "x-do: down", "-H", "x-bytes: 5000000", "-o", "/dev/null"];
        let size = [&down[..], &["-w", "%{size_download}"]].concat();
        ensure!(get(&size, &there("/"))? == "5000000", "a body of another length");
        Ok(())
    })
    .await;
}

fn url(world: &World, kind: Kind, path: &str) -> String {
    format!("http://{}/fn/default/{}{path}", world.pair.traffic(), kind.name())
}

/// curl with its time limit; `-f` makes an error status an error.
fn get(args: &[&str], url: &str) -> Result<String> {
    run(Command::new("curl").args(["-sS", "-f", "--max-time", "60"]).args(args).arg(url))
}

/// A GET and a POST in a version of HTTP arrive as they are.
fn echoed(world: &World, version: &str) -> Result<()> {
    let there = |path| url(world, Kind::Node, path);
    let told = seen(get(&[version, "--path-as-is"], &there("/a/../b//?q"))?.as_bytes())?;
    ensure!(told["target"] == "/a/../b//?q", "{told}");
    let told = seen(get(&[version, "-d", "a=1&b=2"], &there("/form"))?.as_bytes())?;
    ensure!(told["method"] == "POST" && told["sha256"] == sha256(b"a=1&b=2"), "{told}");
    Ok(())
}

fn curl(world: &World) -> Result<()> {
    let there = |path| url(world, Kind::Node, path);
    // With --http2 it offers an upgrade, which is not taken up.
    for version in ["--http1.1", "--http1.0", "--http2"] {
        echoed(world, version).with_context(|| version)?;
    }
    let head = get(&["-I"], &there("/"))?;
    ensure!(head.starts_with("HTTP/1.1 200") && head.to_lowercase().contains("dormouse-request-id: "), "{head}");
    let told = seen(get(&["-X", "OPTIONS"], &there("/"))?.as_bytes())?;
    ensure!(told["method"] == "OPTIONS", "{told}");
    upload(world)?;
    let (first, second) = (there("/1"), there("/2"));
    let both = get(&["-w", "\n%{num_connects}\n", &first], &second)?;
    let connects: Vec<&str> = both.lines().filter(|l| l.len() == 1).collect();
    ensure!(connects == ["1", "0"], "one connection for two calls: {both}");
    Ok(())
}

/// curl asks before it sends a large body, and takes the answer.
fn upload(world: &World) -> Result<()> {
    let (file, trace) = (world.folder.path().join("file"), world.folder.path().join("trace"));
    let bytes: Vec<u8> = (0..3_u32 << 20).map(|i| u8::try_from(i * 11 % 256).unwrap_or(0)).collect();
    std::fs::write(&file, &bytes)?;
    let (file, trace_file) = (file.display().to_string(), trace.display().to_string());
    let args = ["-T", &file, "-H", "Expect: 100-continue", "--expect100-timeout", "60", "--trace-ascii", &trace_file];
    for kind in [Kind::Node, Kind::Threads] {
        let told = seen(get(&args, &url(world, kind, "/up"))?.as_bytes())?;
        ensure!(told["method"] == "PUT" && told["sha256"] == sha256(&bytes), "{told}");
        let trace = std::fs::read_to_string(&trace)?;
        ensure!(trace.contains("HTTP/1.1 100 Continue"), "{kind:?}: {trace}");
    }
    Ok(())
}

/// ab speaks HTTP/1.0, with `Connection: Keep-Alive`.
async fn ab(world: &World, kind: Kind) -> Result<()> {
    let before = world.counted(kind.name()).await?;
    let args = ["-q", "-k", "-n", "600", "-c", "20", "-s", "60", &url(world, kind, "/ab")];
    // What a server says about a connection changes the length of its answers.
    let said = run(Command::new("ab").arg("-l").args(args))?;
    let line = |name: &str| said.lines().find_map(|l| l.strip_prefix(name)).map(|l| l.trim().to_owned());
    ensure!(line("Complete requests:").as_deref() == Some("600"), "{said}");
    ensure!(line("Failed requests:").as_deref() == Some("0"), "{said}");
    ensure!(!said.contains("Non-2xx responses"), "{said}");
    until("every call is recorded", LIMIT, || async {
        let more = world.records(kind.name()).await?.len() - before;
        ensure!(more == 600, "{more} records");
        Ok(())
    })
    .await
}

async fn wrk(world: &World, kind: Kind) -> Result<()> {
    let before = world.counted(kind.name()).await?;
    let said = run(Command::new("wrk").args(["-t1", "-c16", "-d1s", "--timeout", "60s", &url(world, kind, "/wrk")]))?;
    ensure!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{said}");
    let made = said.lines().find_map(|l| l.trim().split_once(" requests in ")?.0.parse::<usize>().ok());
    let made = made.with_context(|| said.clone())?;
    ensure!(made > 0, "{said}");
    // It leaves the calls under way when its time is over: at most one on each connection.
    until("every call is recorded", LIMIT, || async {
        let more = world.records(kind.name()).await?.len() - before;
        ensure!((made..=made + 16).contains(&more), "{more} records of {made} calls");
        Ok(())
    })
    .await
}
