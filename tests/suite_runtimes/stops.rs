//! A runtime that is asked to end: nothing that has begun is cut off. And one that is PID 1, as in a container.

use crate::client::{Client, LIMIT, Request};
use crate::runtime::{Kind, Runtime, each};
use anyhow::{Context, Result, ensure};
use dormouse_tests::proc::signal;
use dormouse_tests::wait::until;
use nix::sys::signal::Signal;
use serde_json::json;
use std::process::Command;

/// More than the kernel keeps for a reader that does not read.
const LARGE: usize = 20 << 20;

/// Asks a runtime to end and waits until it has heard.
async fn stop(runtime: &Runtime) -> Result<()> {
    signal(runtime.process.pid(), Signal::SIGTERM)?;
    until("no new connections", LIMIT, async || {
        ensure!(Client::open(runtime.traffic).await.is_err(), "one was taken");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_read_slowly_is_given_whole() {
    each(async |kind| {
        let code = kind.of(
            "async function* pieces() { for (let i = 0; i < 320; i++) yield 'x'.repeat(65536) }\n\
             exports.handler = async (event) => event.path === '/whole' ? { statusCode: 200, body: 'x'.repeat(20 << 20) } : pieces()",
            "def handler(event, context):\n    if event['path'] == '/whole':\n        return {'statusCode': 200, 'body': 'x' * (20 << 20)}\n    return ('x' * 65536 for _ in range(320))\n",
        );
        for path in ["/whole", "/stream"] {
            let runtime = Runtime::with(kind, code, json!({})).await?;
            let mut client = runtime.client().await?;
            client.send(Request::get(path).bytes()).await?;
            client.begun().await?;
            stop(&runtime).await?;
            let reply = client.reply(false).await?;
            ensure!(reply.whole && reply.body.len() == LARGE, "{path}: {} bytes of {LARGE}", reply.body.len());
            ensure!(client.is_closed().await?, "{path}: the connection is kept");
            // A listener for each piece would be told of here.
            ensure!(runtime.log()?.iter().all(|line| line["level"] != "warn"), "{:?}", runtime.log()?);
            ensure!(runtime.process.wait(LIMIT)?.code() == Some(0), "{path}");
        }
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_body_still_comes_is_answered() {
    each(async |kind| {
        let code = kind
            .of("exports.handler = (event) => event.body", "def handler(event, context):\n    return event['body']\n");
        let runtime = Runtime::with(kind, code, json!({})).await?;
        let mut client = runtime.client().await?;
        client.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 6\r\n\r\n").await?;
        client.begun().await?;
        stop(&runtime).await?;
        client.send("abcdef").await?;
        let reply = client.reply(false).await?;
        ensure!(reply.text() == "\"abcdef\"" && reply.one("connection") == "close", "{reply:?}");
        ensure!(runtime.process.wait(LIMIT)?.code() == Some(0));
        Ok(())
    })
    .await;
}

/// What a module registered for the end is done, however many threads its calls ran on.
#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_ends_lets_the_module_say_goodbye() {
    const CALLS: usize = 4;
    each(async |kind| {
        let code = kind.of(
            "process.on('exit', () => console.log('goodbye'))\nexports.handler = () => 1",
            "import atexit, threading\natexit.register(lambda: print('goodbye'))\ntogether = threading.Barrier(4)\n\
             def handler(event, context):\n    together.wait()\n    return 1\n",
        );
        let runtime = Runtime::with(kind, code, json!({"concurrency": CALLS})).await?;
        let calls = (0..CALLS).map(|_| runtime.get("/"));
        for reply in futures::future::try_join_all(calls).await? {
            ensure!(reply.status == 200, "{reply:?}");
        }
        signal(runtime.process.pid(), Signal::SIGTERM)?;
        until("it said so", LIMIT, async || {
            let log = runtime.log()?;
            ensure!(log.iter().any(|line| line["message"] == "goodbye"), "{log:?}");
            Ok(())
        })
        .await?;
        ensure!(runtime.process.wait(LIMIT)?.code() == Some(0));
        Ok(())
    })
    .await;
}

/// Starts what follows as PID 1 of a namespace of its own, which ends with it.
const AS_INIT: [&str; 4] = ["unshare", "--pid", "--fork", "--kill-child"];

fn may_unshare() -> bool {
    Command::new(AS_INIT[0]).args(&AS_INIT[1..]).arg("true").output().is_ok_and(|o| o.status.success())
}

/// The kernel drops a SIGKILL that PID 1 of a container sends itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_is_pid_1_ends_as_any_other() {
    if !may_unshare() {
        println!("skipped a_runtime_that_is_pid_1_ends_as_any_other: no namespace of processes can be made here");
        return;
    }
    each(async |kind| {
        let spins = kind.of(
            "exports.handler = () => { for (;;); }",
            "def handler(event, context):\n    while True:\n        pass\n",
        );
        let runtime = started(kind).await?;
        let reply = runtime.load(&crate::runtime::load(kind, spins, json!({"timeoutMs": 200}))).await?;
        ensure!(reply.status == 200, "not loaded: {}", reply.text());
        let mut client = runtime.client().await?;
        client.send(Request::get("/").bytes()).await?;
        runtime.logged("Timeout").await?;
        ensure!(runtime.process.wait(LIMIT)?.code() == Some(137));

        let runtime = started(kind).await?;
        let of = runtime.process.pid();
        let children = std::fs::read_to_string(format!("/proc/{of}/task/{of}/children"))?;
        signal(children.trim().parse().with_context(|| format!("children: {children}"))?, Signal::SIGTERM)?;
        ensure!(runtime.process.wait(LIMIT)?.code() == Some(0));
        Ok(())
    })
    .await;
}

async fn started(kind: Kind) -> Result<Runtime> {
    let mut runtime = Runtime::start_by(&AS_INIT, kind, &[])?;
    runtime.parked().await?;
    Ok(runtime)
}
