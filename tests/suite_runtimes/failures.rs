//! Failures that end an instance, and those that must not.

use crate::client::{LIMIT, Request};
use crate::runtime::{Kind, Runtime, each, load};
use anyhow::{Context, ensure};
use serde_json::json;

/// `/hold` is held for ever; any other path ends the process with code 3.
const EXITS: [&str; 3] = [
    "exports.handler = async (event) => { if (event.path === '/hold') { console.log('held'); await new Promise(() => {}) } process.exit(3) }",
    "import asyncio, sys\nasync def handler(event, context):\n    if event['path'] == '/hold':\n        print('held')\n        await asyncio.sleep(600)\n    sys.exit(3)\n",
    "import sys, time\ndef handler(event, context):\n    if event['path'] == '/hold':\n        print('held')\n        time.sleep(600)\n    sys.exit(3)\n",
];

#[tokio::test(flavor = "multi_thread")]
async fn an_exit_answers_every_call_in_flight_and_ends_the_instance() {
    for (kind, code) in [(Kind::Nodejs, EXITS[0]), (Kind::Python, EXITS[1]), (Kind::Python, EXITS[2])] {
        let run = async {
            let runtime = Runtime::with(kind, code, json!({"concurrency": 2})).await?;
            let mut beside = runtime.client().await?;
            beside.send(Request::get("/hold").bytes()).await?;
            dormouse_tests::wait::until("it is held", LIMIT, async || {
                ensure!(runtime.log()?.iter().any(|line| line["message"] == "held"));
                Ok(())
            })
            .await?;
            let own = runtime.client().await?.call(&Request::get("/exit").with("dormouse-request-id", "own")).await?;
            for reply in [&own, &beside.reply(false).await?] {
                reply.is(500, "Exited")?;
                ensure!(reply.one("dormouse-error") == "Exited" && !reply.text().contains("index"), "{reply:?}");
            }
            ensure!(own.json()?["request_id"] == "own", "{}", own.text());
            runtime.logged("Exited").await?;
            let (tmp, status) = (runtime.tmp(), runtime.process.wait(LIMIT)?);
            ensure!(status.code() == Some(3), "{status}");
            ensure!(std::fs::read_dir(tmp)?.count() == 0, "its code is left");
            anyhow::Ok(())
        };
        run.await.with_context(|| format!("{kind:?} {code}")).unwrap();
    }
}

/// Errors outside of a call leave nobody knows what behind: Node ends then, and so does the instance.
#[tokio::test(flavor = "multi_thread")]
async fn an_uncaught_error_answers_every_call_in_flight_and_ends_the_instance() {
    let codes = [
        "exports.handler = () => { setImmediate(() => { throw new RangeError('stray') }); return new Promise(() => {}) }",
        "exports.handler = () => { Promise.reject(new RangeError('stray')); return new Promise(() => {}) }",
        "exports.handler = async () => { setTimeout(() => { null.stray }, 0); await new Promise(() => {}) }",
    ];
    for code in codes {
        let run = async {
            let runtime = Runtime::with(Kind::Nodejs, code, json!({"concurrency": 2})).await?;
            runtime.get("/").await?.is(500, "UncaughtException")?;
            let line = runtime.logged("UncaughtException").await?;
            let (message, stack) = (line["message"].to_string(), line["stack"].to_string());
            ensure!(message.contains("stray") && stack.contains("index.js"), "{line}");
            ensure!(runtime.process.wait(LIMIT)?.code() == Some(1));
            anyhow::Ok(())
        };
        run.await.with_context(|| code.to_owned()).unwrap();
    }
}

/// Python goes on after an error in a thread or a task that nobody waits for, and says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_stray_error_of_python_is_logged() {
    let codes = [
        "import threading\ndef stray():\n    raise ValueError('stray')\ndef handler(event, context):\n    thread = threading.Thread(target=stray)\n    thread.start()\n    thread.join()\n    return 'on'\n",
        "import asyncio, gc\nasync def stray():\n    raise ValueError('stray')\nasync def handler(event, context):\n    asyncio.get_running_loop().create_task(stray())\n    await asyncio.sleep(0.01)\n    gc.collect()\n    return 'on'\n",
    ];
    for code in codes {
        let run = async {
            let runtime = Runtime::with(Kind::Python, code, json!({})).await?;
            for _ in 0..2 {
                ensure!(runtime.get("/").await?.text() == "\"on\"");
            }
            let line = runtime.logged("UncaughtException").await?;
            ensure!(line["stack"].to_string().contains("index.py"), "{line}");
            anyhow::Ok(())
        };
        run.await.with_context(|| code.to_owned()).unwrap();
    }
}

/// A call that does not end: the platform has answered it long before, and nothing is left running.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_runs_too_long_ends_the_instance() {
    let codes = [
        (Kind::Nodejs, "exports.handler = () => { for (;;); }"),
        (Kind::Nodejs, "exports.handler = () => new Promise(() => {})"),
        (Kind::Nodejs, "exports.handler = async function* () { yield 'a'; await new Promise(() => {}) }"),
        (Kind::Python, "def handler(event, context):\n    while True:\n        pass\n"),
        (Kind::Python, "async def handler(event, context):\n    while True:\n        pass\n"),
        (Kind::Python, "import asyncio\nasync def handler(event, context):\n    await asyncio.sleep(600)\n"),
    ];
    let runs = codes.map(async |(kind, code)| {
        let run = async {
            let runtime = Runtime::with(kind, code, json!({"timeoutMs": 200})).await?;
            let mut client = runtime.client().await?;
            client.send(Request::get("/").bytes()).await?;
            let line = runtime.logged("Timeout").await?;
            ensure!(line["message"].to_string().contains("200 ms"), "{line}");
            // Where it spins, if it does.
            let spins = code.contains("for (;;)") || code.contains("while True");
            ensure!(!spins || line["stack"].to_string().contains(kind.file()), "{line}");
            let (tmp, status) = (runtime.tmp(), runtime.process.wait(LIMIT)?);
            ensure!(kind.is_killed(status), "{status}");
            ensure!(std::fs::read_dir(tmp)?.count() == 0, "its code is left");
            anyhow::Ok(())
        };
        run.await.with_context(|| format!("{kind:?} {code}"))
    });
    for result in futures::future::join_all(runs).await {
        result.unwrap();
    }
}

/// A regular expression that backtracks holds Python's lock: no thread of the runtime can look at what it does.
#[tokio::test(flavor = "multi_thread")]
async fn code_that_holds_the_lock_ends_the_instance() {
    let codes = [
        "import re\ndef handler(event, context):\n    return bool(re.match('(a+)+$', 'a' * 60 + 'b'))\n",
        "import re\nre.match('(a+)+$', 'a' * 60 + 'b')\n",
    ];
    let runs = codes.map(async |code| {
        let run = async {
            let runtime = Runtime::park(Kind::Python).await?;
            let limits = json!({"timeoutMs": 200, "initTimeoutMs": 5000});
            // Nobody can answer what waits for it.
            if let Ok(reply) = runtime.load(&load(Kind::Python, code, limits)).await {
                ensure!(reply.status == 200, "not loaded: {}", reply.text());
                let mut client = runtime.client().await?;
                client.send(Request::get("/").bytes()).await?;
                ensure!(client.is_closed().await?, "it was answered");
            }
            let log = runtime.folder.path().join("log");
            let status = runtime.process.wait(LIMIT)?;
            ensure!(status.code() == Some(1), "{status}");
            let said = std::fs::read_to_string(log)?;
            ensure!(said.contains("Timeout (") && said.contains("index.py"), "{said}");
            anyhow::Ok(())
        };
        run.await.with_context(|| code.to_owned())
    });
    for result in futures::future::join_all(runs).await {
        result.unwrap();
    }
}

/// Takes up to 1 GiB, so that a runtime which does not look does no harm to the machine.
#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_takes_more_than_its_memory_ends() {
    each(async |kind| {
        let code = kind.of(
            "const held = []\nexports.handler = () => { for (let i = 0; i < 128; i++) held.push(Buffer.alloc(8 << 20, 1)); for (;;); }",
            "held = []\ndef handler(event, context):\n    for _ in range(128):\n        held.append(b'x' * (8 << 20))\n    while True:\n        pass\n",
        );
        let runtime = Runtime::with(kind, code, json!({})).await?;
        let mut client = runtime.client().await?;
        client.send(Request::get("/").bytes()).await?;
        let line = runtime.logged("OutOfMemory").await?;
        ensure!(line["message"].to_string().contains("the function's memory is 256 MiB"), "{line}");
        let status = runtime.process.wait(LIMIT)?;
        ensure!(kind.is_killed(status), "{status}");
        Ok(())
    })
    .await;
}

/// The watch rests between calls, and wakes for the next one.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_rest_calls_are_watched_again() {
    each(async |kind| {
        let code = kind.of(
            "exports.handler = (event) => { if (event.path === '/spin') for (;;); return 1 }",
            "def handler(event, context):\n    while event['path'] == '/spin':\n        pass\n    return 1\n",
        );
        let runtime = Runtime::with(kind, code, json!({"timeoutMs": 200})).await?;
        ensure!(runtime.get("/").await?.status == 200);
        // 20 looks of 100 ms without a call, and as much again.
        tokio::time::sleep(std::time::Duration::from_secs(4)).await;
        let mut client = runtime.client().await?;
        client.send(Request::get("/spin").bytes()).await?;
        runtime.logged("Timeout").await?;
        ensure!(kind.is_killed(runtime.process.wait(LIMIT)?));
        Ok(())
    })
    .await;
}
