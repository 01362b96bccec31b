//! Connections, calls beside each other, and how a runtime ends in order.

use crate::client::{Client, LIMIT, Reply, Request};
use crate::runtime::{Kind, Runtime, each};
use anyhow::{Context, Result, ensure};
use dormouse_tests::proc::signal;
use dormouse_tests::wait::until;
use nix::sys::signal::Signal;
use serde_json::json;
use tempfile::TempDir;

/// A call is held until a file with its path's name appears; `/count` says how many have begun, and the most at once.
const HELD: [&str; 3] = [
    "const { existsSync } = require('node:fs')\n\
     let begun = 0, now = 0, most = 0\n\
     exports.handler = async (event, context) => {\n\
       if (event.path === '/count') return [begun, most]\n\
       begun += 1; most = Math.max(most, now += 1)\n\
       console.log('begun')\n\
       while (!existsSync(process.env.GO + event.path)) await new Promise((go) => setTimeout(go, 5))\n\
       console.log('ended')\n\
       now -= 1\n\
       return context.requestId\n\
     }",
    "import asyncio, os\n\
     begun = now = most = 0\n\
     async def handler(event, context):\n\
     \x20   global begun, now, most\n\
     \x20   if event['path'] == '/count':\n        return [begun, most]\n\
     \x20   begun, now = begun + 1, now + 1\n    most = max(most, now)\n\
     \x20   print('begun')\n\
     \x20   while not os.path.exists(os.environ['GO'] + event['path']):\n        await asyncio.sleep(0.005)\n\
     \x20   print('ended')\n\
     \x20   now -= 1\n\
     \x20   return context.request_id\n",
    "import os, threading, time\n\
     lock = threading.Lock()\n\
     begun = now = most = 0\n\
     def handler(event, context):\n\
     \x20   global begun, now, most\n\
     \x20   if event['path'] == '/count':\n        return [begun, most]\n\
     \x20   with lock:\n        begun, now = begun + 1, now + 1\n        most = max(most, now)\n\
     \x20   print('begun')\n\
     \x20   while not os.path.exists(os.environ['GO'] + event['path']):\n        time.sleep(0.005)\n\
     \x20   print('ended')\n\
     \x20   with lock:\n        now -= 1\n\
     \x20   return context.request_id\n",
];
/// Those handlers with their languages.
const KINDS: [(Kind, &str); 3] = [(Kind::Nodejs, HELD[0]), (Kind::Python, HELD[1]), (Kind::Python, HELD[2])];

/// A runtime whose calls are held, and the folder of the files that let them go.
struct Held {
    runtime: Runtime,
    go: TempDir,
}

impl Held {
    async fn start(kind: Kind, code: &str, concurrency: u32) -> Result<Self> {
        let go = tempfile::tempdir()?;
        let more = json!({"concurrency": concurrency, "env": {"GO": go.path()}});
        Ok(Self { runtime: Runtime::with(kind, code, more).await?, go })
    }

    /// Begins a call and waits until its code runs; `calls` have begun then.
    async fn begin(&self, path: &str, id: &str, calls: usize) -> Result<Client> {
        let mut client = self.runtime.client().await?;
        client.send(Request::get(path).with("dormouse-request-id", id).bytes()).await?;
        self.begun(calls).await?;
        Ok(client)
    }

    async fn begun(&self, calls: usize) -> Result<()> {
        until("calls have begun", LIMIT, async || {
            let begun = self.runtime.log()?.iter().filter(|line| line["message"] == "begun").count();
            ensure!(begun == calls, "{begun} of {calls}");
            Ok(())
        })
        .await
    }

    /// Lets calls of a path go.
    fn release(&self, path: &str) -> Result<()> {
        Ok(std::fs::write(self.go.path().join(path.trim_start_matches('/')), "")?)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_run_beside_each_other_and_keep_their_names() {
    const CALLS: usize = 20;
    for (kind, code) in KINDS {
        let run = async {
            let held = Held::start(kind, code, 20).await?;
            let mut clients = Vec::new();
            for i in 0..CALLS {
                clients.push(held.begin(&format!("/{i}"), &format!("id-{i}"), i + 1).await?);
            }
            // The last one first: nobody waits for another.
            for (i, client) in clients.iter_mut().enumerate().rev() {
                held.release(&format!("/{i}"))?;
                let text = client.reply(false).await?.text();
                ensure!(text == format!("\"id-{i}\""), "{text}");
            }
            ensure!(held.runtime.get("/count").await?.text() == format!("[{CALLS},{CALLS}]"));
            let log = held.runtime.log()?;
            for i in 0..CALLS {
                let id = format!("id-{i}");
                let words: Vec<_> =
                    log.iter().filter(|l| l["requestId"] == *id).map(|l| l["message"].clone()).collect();
                ensure!(words == ["begun", "ended"], "{id}: {words:?}");
            }
            anyhow::Ok(())
        };
        run.await.with_context(|| format!("{kind:?} {code}")).unwrap();
    }
}

/// Python's threads are as many as the concurrency: one more call waits for one of them.
#[tokio::test(flavor = "multi_thread")]
async fn sync_calls_are_never_more_than_the_concurrency() {
    let held = Held::start(Kind::Python, HELD[2], 2).await.unwrap();
    let run = async {
        let mut first = held.begin("/a", "a", 1).await?;
        let mut second = held.begin("/b", "b", 2).await?;
        let mut third = held.runtime.client().await?;
        third.send(Request::get("/c").bytes()).await?;
        held.release("/c")?;
        held.release("/a")?;
        ensure!(first.reply(false).await?.status == 200);
        ensure!(third.reply(false).await?.status == 200);
        held.release("/b")?;
        ensure!(second.reply(false).await?.status == 200);
        ensure!(held.runtime.get("/count").await?.text() == "[3,2]");
        anyhow::Ok(())
    };
    run.await.unwrap();
}

/// What a client's leaving means is the platform's to say: the code runs to its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_client_leaves_runs_to_its_end() {
    for (kind, code) in KINDS {
        let run = async {
            let held = Held::start(kind, code, 1).await?;
            drop(held.begin("/left", "left", 1).await?);
            held.release("/left")?;
            until("it has ended", LIMIT, async || {
                let log = held.runtime.log()?;
                ensure!(log.iter().any(|l| l["message"] == "ended" && l["requestId"] == "left"), "{log:?}");
                Ok(())
            })
            .await?;
            ensure!(held.runtime.get("/count").await?.text() == "[1,1]");
            anyhow::Ok(())
        };
        run.await.with_context(|| format!("{kind:?} {code}")).unwrap();
    }
}

/// A stream whose reader leaves is told to end, and frees what it holds.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_client_leaves_is_closed() {
    each(async |kind| {
        let code = kind.of(
            "exports.handler = async function* () { try { for (;;) { yield 'x'.repeat(65536); await null } } finally { console.log('closed') } }",
            "def handler(event, context):\n    try:\n        while True:\n            yield 'x' * 65536\n    finally:\n        print('closed')\n",
        );
        let runtime = Runtime::with(kind, code, json!({})).await?;
        let mut client = runtime.client().await?;
        client.send(Request::get("/").bytes()).await?;
        client.begun().await?;
        drop(client);
        until("it is closed", LIMIT, async || {
            let log = runtime.log()?;
            ensure!(log.iter().any(|line| line["message"] == "closed"), "{log:?}");
            Ok(())
        })
        .await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_carries_calls_one_after_the_other() {
    each(async |kind| {
        let code = kind.of(
            "let n = 0\nexports.handler = async () => (n += 1)",
            "n = 0\nasync def handler(event, context):\n    global n\n    n += 1\n    return n\n",
        );
        let runtime = Runtime::with(kind, code, json!({})).await?;
        let mut client = runtime.client().await?;
        for i in 1..=20 {
            let reply = client.call(&Request::get("/")).await?;
            ensure!(reply.text() == i.to_string() && reply.one("keep-alive") == "timeout=75", "{reply:?}");
        }
        // Sent at once, answered in order.
        client.send(Request::get("/").bytes().repeat(10)).await?;
        for i in 21..=30 {
            ensure!(client.reply(false).await?.text() == i.to_string());
        }
        let last = client.call(&Request::get("/").with("connection", "close")).await?;
        ensure!(last.one("connection") == "close" && client.is_closed().await?, "{last:?}");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_is_refused() {
    let wrong = [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET /\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\na b: c\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\n\0: c\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n", 400),
    ];
    let large = format!("GET / HTTP/1.1\r\nHost: a\r\nx: {}\r\n\r\n", "y".repeat(200 * 1024));
    each(async |kind| {
        let code = kind.of("exports.handler = () => 'called'", "def handler(event, context):\n    return 'called'\n");
        let runtime = Runtime::with(kind, code, json!({})).await?;
        for (bytes, status) in wrong.iter().copied().chain([(large.as_str(), 431)]) {
            let mut client = runtime.client().await?;
            // Who is refused within a head may see the connection closed while it still writes.
            let _ = client.send(bytes).await;
            let reply = client.reply(false).await.with_context(|| format!("{bytes:.80}"))?;
            ensure!(reply.status == status, "{bytes:.80}: {reply:?}");
            ensure!(client.is_closed().await?, "{bytes:.80}: the connection goes on");
        }
        ensure!(runtime.get("/").await?.text() == "\"called\"");
        Ok(())
    })
    .await;
}

/// The last of many headers says that there is a body.
#[tokio::test(flavor = "multi_thread")]
async fn a_head_of_many_headers_is_read_whole() {
    let many: String = (0..1500).map(|i| format!("a{i}: b\r\n")).collect();
    let bytes = format!("POST / HTTP/1.1\r\nHost: a\r\n{many}Content-Length: 4\r\n\r\nbody");
    each(async |kind| {
        let code = kind.of(
            "exports.handler = (event) => [Object.keys(event.headers).length, event.body]",
            "def handler(event, context):\n    return [len(event['headers']), event['body']]\n",
        );
        let runtime = Runtime::with(kind, code, json!({})).await?;
        let mut client = runtime.client().await?;
        client.send(&bytes).await?;
        let text = client.reply(false).await?.text();
        ensure!(text == r#"[1502,"body"]"#, "{text}");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_runtime_ends_at_once() {
    each(async |kind| {
        let runtime = Runtime::park(kind).await?;
        let status = runtime.process.end(LIMIT)?;
        ensure!(status.code() == Some(0), "{status}");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_is_asked_to_end_finishes_its_calls() {
    for (kind, code) in KINDS {
        let run = async {
            let held = Held::start(kind, code, 2).await?;
            let mut idle = held.runtime.client().await?;
            ensure!(idle.call(&Request::get("/count")).await?.status == 200);
            let mut busy = held.begin("/busy", "busy", 1).await?;
            signal(held.runtime.process.pid(), Signal::SIGTERM)?;
            ensure!(idle.is_closed().await?, "an idle connection is kept");
            until("no new connections", LIMIT, async || {
                ensure!(Client::open(held.runtime.traffic).await.is_err(), "one was taken");
                Ok(())
            })
            .await?;
            held.release("/busy")?;
            let reply: Reply = busy.reply(false).await?;
            ensure!(reply.text() == "\"busy\"" && reply.one("connection") == "close", "{reply:?}");
            let tmp = held.runtime.tmp();
            let status = held.runtime.process.wait(LIMIT)?;
            ensure!(status.code() == Some(0), "{status}");
            ensure!(std::fs::read_dir(tmp)?.count() == 0, "its code is left");
            anyhow::Ok(())
        };
        run.await.with_context(|| format!("{kind:?} {code}")).unwrap();
    }
}
