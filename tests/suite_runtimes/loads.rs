//! Loads: who may load what, once; and what becomes of code that cannot be initialised.

use crate::client::{Client, LIMIT, Reply, Request};
use crate::runtime::{Key, Kind, Runtime, each, load, load_files};
use anyhow::{Context, Result, ensure};
use base64::{Engine, engine::general_purpose::STANDARD};
use dormouse_tests::wait::until;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const HELLO: [&str; 2] = ["exports.handler = () => 'hello'", "def handler(event, context):\n    return 'hello'\n"];

fn hello(kind: Kind, more: Value) -> Value {
    load(kind, kind.of(HELLO[0], HELLO[1]), more)
}

/// It is still parked: nothing of what was refused was done.
async fn still_parked(runtime: &Runtime) -> Result<()> {
    ensure!(Client::open(runtime.traffic).await.is_err(), "the traffic port is open");
    ensure!(runtime.leftovers()? == 0, "files were written");
    Ok(())
}

async fn post(runtime: &Runtime, body: &[u8], signature: &str) -> Result<Reply> {
    let request = Request::post("/load", body.to_vec()).with("dormouse-signature", signature);
    Client::open(runtime.door).await?.call(&request).await
}

/// The same signature with its second half, a number modulo the group's order L, as that number plus L.
fn other_writing(signature: &[u8]) -> Vec<u8> {
    // L = 2^252 + 27742317777372353535851937790883648493, little-endian.
    let mut order = [0_u8; 32];
    order[..16].copy_from_slice(&27_742_317_777_372_353_535_851_937_790_883_648_493_u128.to_le_bytes());
    order[31] = 0x10;
    let mut carry = 0_u16;
    let sum = signature[32..].iter().zip(order).map(|(a, b)| {
        carry += u16::from(*a) + u16::from(b);
        let byte = carry.to_le_bytes()[0];
        carry >>= 8;
        byte
    });
    signature[..32].iter().copied().chain(sum).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_the_platform_signed_for_this_pod_is_loaded() {
    each(async |kind| {
        let runtime = Runtime::park(kind).await?;
        let body = hello(kind, json!({})).to_string().into_bytes();
        let good = runtime.key.sign(&body);
        let mut changed = body.clone();
        changed[20] ^= 1;
        let stranger = Key::new()?.sign(&body);
        let malleable = STANDARD.encode(other_writing(&STANDARD.decode(&good)?));
        let zeros = STANDARD.encode([0; 64]);
        let wrong = ["", "no base64!", &good[..40], &stranger, &malleable, &zeros];
        for signature in wrong {
            post(&runtime, &body, signature).await?.is(401, "BadSignature")?;
        }
        post(&runtime, &changed, &good).await?.is(401, "BadSignature")?;
        let unsigned = Client::open(runtime.door).await?.call(&Request::post("/load", body.clone())).await?;
        unsigned.is(401, "BadSignature")?;
        runtime.load(&hello(kind, json!({"pod": "another"}))).await?.is(401, "WrongPod")?;
        still_parked(&runtime).await?;
        // All of it on one instance: none of the refused ones did harm.
        let reply = post(&runtime, &body, &good).await?;
        ensure!(reply.status == 200 && reply.json()?["initMs"].is_number(), "{}", reply.text());
        ensure!(runtime.get("/").await?.text() == "\"hello\"");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_or_a_pod_nothing_is_loaded() {
    each(async |kind| {
        for missing in ["DORMOUSE_LOAD_KEY", "DORMOUSE_POD_UID"] {
            let mut runtime = Runtime::start(kind, &[(missing, "")])?;
            runtime.parked().await?;
            runtime.load(&hello(kind, json!({}))).await?.is(401, "NoKey")?;
            still_parked(&runtime).await?;
        }
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_is_none_is_refused_with_the_field_that_is_wrong() {
    let content = STANDARD.encode("x");
    let large = STANDARD.encode(vec![b'x'; 256 * 1024 + 1]);
    let many: serde_json::Map<_, _> = (0..1001).map(|i| (format!("f{i}"), json!(""))).collect();
    let wrong = [
        (json!({"more": 1}), 400, "BadLoad", "more is not known"),
        (json!({"function": {"uid": "1", "name": "a"}}), 400, "BadLoad", "namespace is missing"),
        (json!({"revision": ""}), 400, "BadLoad", "revision must be text"),
        (json!({"handler": "index"}), 400, "BadLoad", "handler must be MODULE.EXPORT"),
        (json!({"handler": "../index.handler"}), 400, "BadLoad", "handler must be"),
        (json!({"handler": "a/../../index.handler"}), 400, "BadLoad", "relative path"),
        (json!({"memoryMiB": 0}), 400, "BadLoad", "memoryMiB must be a whole number from 1 to 1048576"),
        (json!({"timeoutMs": "30"}), 400, "BadLoad", "timeoutMs must be"),
        (json!({"concurrency": 1001}), 400, "BadLoad", "concurrency must be"),
        (json!({"concurrency": 1.5}), 400, "BadLoad", "concurrency must be"),
        (json!({"initTimeoutMs": -1}), 400, "BadLoad", "initTimeoutMs must be"),
        (json!({"env": {"a b": "x"}}), 400, "BadLoad", "env"),
        (json!({"env": {"A": 1}}), 400, "BadLoad", "env"),
        (json!({"env": {"A": "a\u{0}b"}}), 400, "BadLoad", "without NUL"),
        (json!({"files": []}), 400, "BadLoad", "files must be an object"),
        (json!({"files": {"index.js": "no base64"}}), 400, "BadLoad", "must be base64"),
        (json!({"files": {"index.js": 7}}), 400, "BadLoad", "must be base64"),
        (json!({"files": {"/etc/x": content}}), 400, "BadLoad", "relative path"),
        (json!({"files": {"../x": content}}), 400, "BadLoad", "relative path"),
        (json!({"files": {"a/../../x": content}}), 400, "BadLoad", "relative path"),
        (json!({"files": {"a//b": content}}), 400, "BadLoad", "relative path"),
        (json!({"files": {"./a": content}}), 400, "BadLoad", "relative path"),
        (json!({"files": {"a\u{0}b": content}}), 400, "BadLoad", "relative path"),
        (json!({"files": {"": content}}), 400, "BadLoad", "relative path"),
        (json!({"files": {"é".repeat(128): content}}), 400, "BadLoad", "255 bytes"),
        (json!({"files": {"a": content, "a/b": content}}), 400, "BadLoad", "same path"),
        (json!({"files": {"a": large}}), 413, "TooLarge", "262144 bytes"),
        (json!({"files": many}), 413, "TooLarge", "1000 files"),
        (json!({"env": {"A": "x".repeat(1 << 20)}}), 413, "TooLarge", "1048576 bytes"),
    ];
    each(async |kind| {
        let runtime = Runtime::park(kind).await?;
        for (more, status, code, words) in &wrong {
            let reply = runtime.load(&hello(kind, more.clone())).await?;
            let what = || format!("{more:.100}");
            reply.is(*status, code).with_context(what)?;
            ensure!(reply.json()?["message"].as_str().is_some_and(|m| m.contains(words)), "{words}: {}", reply.text());
        }
        let half = hello(kind, json!({})).to_string().replace("hello-1", r"\ud800");
        for text in ["{", "7", "null", &"[".repeat(100_000), &half] {
            post(&runtime, text.as_bytes(), &runtime.key.sign(text.as_bytes())).await?.is(400, "BadLoad")?;
        }
        let mut door = Client::open(runtime.door).await?;
        door.call(&Request::get("/load")).await?.is(405, "BadMethod")?;
        door.call(&Request::post("/other", Vec::new())).await?.is(404, "NotFound")?;
        still_parked(&runtime).await?;
        ensure!(runtime.load(&hello(kind, json!({}))).await?.status == 200, "and is still good for a load");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_come_is_not_waited_for() {
    each(async |kind| {
        let runtime = Runtime::park(kind).await?;
        let mut slow = Client::open(runtime.door).await?;
        slow.send("POST /load HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{").await?;
        // Whoever leaves within its body does no harm either.
        let mut leaver = Client::open(runtime.door).await?;
        leaver.send("POST /load HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{").await?;
        drop(leaver);
        slow.reply(false).await?.is(408, "RequestTimeout")?;
        ensure!(slow.is_closed().await?, "the connection is kept");
        ensure!(runtime.load(&hello(kind, json!({}))).await?.status == 200);
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_folder_to_write_to_a_load_is_refused() {
    each(async |kind| {
        let mut runtime = Runtime::start(kind, &[("TMPDIR", "/dev/null")])?;
        runtime.parked().await?;
        for _ in 0..2 {
            runtime.load(&hello(kind, json!({}))).await?.is(500, "CannotWrite")?;
        }
        still_parked(&runtime).await
    })
    .await;
}

/// A handler whose import ends when a file appears.
const WAITS: [&str; 2] = [
    "const { existsSync } = require('node:fs')\n\
     while (!existsSync(process.env.GO)) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10)\n\
     exports.handler = () => 'first'",
    "import os, time\n\
     while not os.path.exists(os.environ['GO']):\n    time.sleep(0.01)\n\
     def handler(event, context):\n    return 'first'\n",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_second_load_is_refused_and_told_who_holds_the_instance() {
    each(async |kind| {
        let runtime = Runtime::park(kind).await?;
        let go = runtime.tmp().join("go");
        let first = load(kind, kind.of(WAITS[0], WAITS[1]), json!({"env": {"GO": go}}));
        let second = hello(kind, json!({"function": {"uid": "4", "namespace": "other", "name": "second"}}));
        let (one, two) = tokio::join!(runtime.load(&first), async {
            let refused = until("the first one is there", LIMIT, async || {
                ensure!(runtime.leftovers()? == 1);
                Ok(())
            });
            refused.await?;
            let during = runtime.load(&second).await?;
            std::fs::write(&go, "")?;
            anyhow::Ok(during)
        });
        let (one, during, after) = (one?, two?, runtime.load(&second).await?);
        ensure!(one.status == 200, "{}", one.text());
        for refused in [during, after, post(&runtime, b"unsigned", "").await?] {
            refused.is(409, "AlreadyLoaded")?;
            let holder =
                json!({"function": {"uid": "1-2-3", "namespace": "default", "name": "hello"}, "revision": "hello-1"});
            ensure!(refused.json()?["holder"] == holder, "{}", refused.text());
        }
        ensure!(runtime.get("/").await?.text() == "\"first\"");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_loads_at_once_one_is_taken() {
    each(async |kind| {
        let runtime = Runtime::park(kind).await?;
        let name = |i: u32| json!({"function": {"uid": "1", "namespace": "default", "name": format!("f{i}")}});
        let loads: Vec<Value> = (0..8).map(|i| hello(kind, name(i))).collect();
        let replies = futures::future::try_join_all(loads.iter().map(|load| runtime.load(load))).await?;
        let taken = replies.iter().filter(|r| r.status == 200).count();
        let refused = replies.iter().filter(|r| r.is(409, "AlreadyLoaded").is_ok()).count();
        ensure!((taken, refused) == (1, 7), "{taken} taken, {refused} refused");
        Ok(())
    })
    .await;
}

/// Code that cannot be initialised, by language.
const BROKEN: &str = include_str!("broken.yaml");

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Broken {
    files: BTreeMap<String, String>,
    handler: Option<String>,
    error: String,
    words: String,
}

impl Broken {
    async fn check(&self, kind: Kind) -> Result<()> {
        let runtime = Runtime::park(kind).await?;
        let files: Vec<_> = self.files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        let handler = self.handler.as_deref().unwrap_or("index.handler");
        let reply = runtime.load(&load_files(&files, json!({"handler": handler}))).await?;
        reply.is(422, &self.error)?;
        let said = reply.json()?["message"].as_str().unwrap_or_default().to_owned();
        ensure!(said.contains(&self.words), "{said:?}");
        ensure!(!said.contains(&runtime.tmp().display().to_string()), "a path of the instance: {said}");
        let (log, tmp) = (runtime.logged(&self.error).await?, runtime.tmp());
        ensure!(log["message"] == said.as_str() && log["stack"].is_string(), "{log}");
        let status = runtime.process.wait(LIMIT)?;
        // A module's own exit code stays.
        ensure!([Some(1), Some(3)].contains(&status.code()), "{status}");
        ensure!(std::fs::read_dir(tmp)?.count() == 0, "its files are left");
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn code_that_cannot_be_initialised_spends_the_instance() {
    let table: BTreeMap<Kind, Vec<Broken>> = serde_saphyr::from_str(BROKEN).expect("the table");
    assert_eq!(table.len(), Kind::ALL.len());
    for (kind, broken) in table.iter().flat_map(|(kind, all)| all.iter().map(move |broken| (*kind, broken))) {
        broken.check(kind).await.with_context(|| format!("{kind:?} {broken:?}")).unwrap();
    }
}

/// Code that never ends to be imported, or that takes all memory meanwhile.
const ENDLESS: &[(Kind, &str, &str)] = &[
    (Kind::Nodejs, "for (;;);", "InitTimeout"),
    (
        Kind::Nodejs,
        "const held = []\nfor (let i = 0; i < 128; i++) held.push(Buffer.alloc(8 << 20, 1))\nfor (;;);",
        "OutOfMemory",
    ),
    (Kind::Python, "while True: pass", "InitTimeout"),
    (Kind::Python, "import time\ntime.sleep(600)", "InitTimeout"),
    (Kind::Python, "held = [b'x' * (8 << 20) for _ in range(128)]\nwhile True: pass", "OutOfMemory"),
];

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_does_not_end_is_ended() {
    for (kind, code, expected) in ENDLESS {
        let ended = async {
            let runtime = Runtime::park(*kind).await?;
            // Long enough to be the reason only where nothing else is.
            let limit = if *expected == "InitTimeout" { 500 } else { 60_000 };
            let reply = runtime.load(&load(*kind, code, json!({"initTimeoutMs": limit}))).await?;
            reply.is(422, expected)?;
            let log = runtime.logged(expected).await?;
            ensure!(log["message"] == reply.json()?["message"], "{log}");
            let (tmp, status) = (runtime.tmp(), runtime.process.wait(LIMIT)?);
            ensure!(kind.is_killed(status), "{status}");
            ensure!(std::fs::read_dir(tmp)?.count() == 0, "its files are left");
            anyhow::Ok(())
        };
        ended.await.with_context(|| format!("{kind:?} {code}")).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_with_code_boots_with_it() {
    each(async |kind| {
        let code = tempfile::tempdir()?;
        let words = kind.of(
            "exports.handler = async (event, context) => [context.functionName, context.memoryLimitInMB, process.env.MINE, process.cwd() === __dirname]",
            "import os\nasync def handler(event, context):\n    return [context.function_name, context.memory_limit_in_mb, os.environ['MINE'], os.getcwd() == os.path.dirname(__file__)]\n",
        );
        let folder = code.path().display().to_string();
        std::fs::write(code.path().join(kind.file()), words)?;
        let variables = [
            ("DORMOUSE_HANDLER", "index.handler"), ("DORMOUSE_CODE_DIR", &folder), ("K_SERVICE", "booted"),
            ("DORMOUSE_MEMORY_MIB", "300"), ("MINE", "yes"),
        ];
        let mut runtime = Runtime::start(kind, &variables)?;
        runtime.opens(runtime.traffic).await?;
        let text = runtime.get("/").await?.text();
        ensure!(text == r#"["booted",300,"yes",true]"#, "{text}");
        ensure!(Client::open(runtime.door).await.is_err(), "there is nothing to load any more");
        ensure!(runtime.process.end(LIMIT)?.success());
        ensure!(code.path().join(kind.file()).is_file(), "the image's own code is not ours to remove");
        Ok(())
    })
    .await;
}

/// Variables that are wrong, the code of the last line and a part of its words.
type WrongStart = (&'static [(&'static str, &'static str)], &'static str, &'static str);

const WRONG_STARTS: &[WrongStart] = &[
    (&[("DORMOUSE_HANDLER", "index")], "BadSetting", "MODULE.EXPORT"),
    (
        &[("DORMOUSE_HANDLER", "index.handler"), ("DORMOUSE_CODE_DIR", "/no/such/folder")],
        "BadSetting",
        "DORMOUSE_CODE_DIR",
    ),
    (&[("DORMOUSE_HANDLER", "index.handler"), ("DORMOUSE_MEMORY_MIB", "256Mi")], "BadSetting", "DORMOUSE_MEMORY_MIB"),
    (&[("DORMOUSE_HANDLER", "index.handler"), ("DORMOUSE_CODE_DIR", "/")], "HandlerNotFound", "there is no file"),
    (&[("PORT", "http")], "BadSetting", "PORT"),
    (&[("DORMOUSE_LOAD_PORT", "0")], "BadSetting", "DORMOUSE_LOAD_PORT"),
    (&[("DORMOUSE_LOAD_KEY", "c2hvcnQ=")], "BadSetting", "DORMOUSE_LOAD_KEY"),
    (&[("DORMOUSE_LOAD_KEY", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")], "BadSetting", "small order"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_cannot_be_ends_with_a_line_that_says_why() {
    each(async |kind| {
        for (variables, code, words) in WRONG_STARTS {
            let runtime = Runtime::start(kind, variables)?;
            let log = runtime.folder.path().join("log");
            let status = runtime.process.wait(LIMIT)?;
            ensure!(status.code() == Some(1), "{variables:?}: {status}");
            let text = std::fs::read_to_string(log)?;
            let last: Value = serde_json::from_str(text.lines().last().unwrap_or_default())?;
            let said = last["message"].as_str().unwrap_or_default();
            ensure!(last["error"] == *code && said.contains(words), "{variables:?}: {last}");
        }
        Ok(())
    })
    .await;
}
