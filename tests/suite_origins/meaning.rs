//! What a request means is what the server behind the activator sees: method, target byte for byte, headers, body. What
//! its answer means is what the client sees.

use crate::raw::{Raw, block, sha256};
use crate::world::{Kind, World, get, header, post, seen, world};
use anyhow::{Context, Result, ensure};
use serde_json::json;

/// Methods that every origin takes.
const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"];

/// Targets as clients write them, each of which must arrive as it is.
const TARGETS: [&str; 19] = [
    "/",
    "//",
    "/a//b",
    "///",
    "/a/",
    "/%2f",
    "/%2F%2f/",
    "/?",
    "/a?",
    "/a??b=?",
    "/a?b=c&b=d&&=",
    "/a%20b+c",
    "/%00",
    "/a%00b?c=%00",
    "/%zz",
    "/a/./b/../c",
    "/a;v=1,2!$'()*@:~_-.",
    "/a%E2%82%AC?x=%C3%A9",
    "/fn/other/name/x",
];

/// What WSGI's and ASGI's own words cannot carry, though the bytes came: they do not tell `?` alone from nothing.
fn as_told(kind: Kind, target: &str) -> &str {
    let told = target.strip_suffix('?').filter(|rest| kind == Kind::Uvicorn && !rest.contains('?'));
    told.unwrap_or(target)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_server_sees_what_was_meant() {
    let functions = Kind::ALL.into_iter().map(Kind::plain).collect();
    world(functions, &[], async |world| {
        world.up(&Kind::ALL.map(Kind::name)).await?;
        for kind in Kind::ALL {
            methods(world, kind).await.with_context(|| format!("methods, {kind:?}"))?;
            targets(world, kind).await.with_context(|| format!("targets, {kind:?}"))?;
            statuses(world, kind).await.with_context(|| format!("statuses, {kind:?}"))?;
            if kind != Kind::Nginx {
                bodies(world, kind).await.with_context(|| format!("bodies, {kind:?}"))?;
                headers(world, kind).await.with_context(|| format!("headers, {kind:?}"))?;
            }
        }
        files(world).await.context("files of nginx")
    })
    .await;
}

async fn methods(world: &World, kind: Kind) -> Result<()> {
    let mut raw = world.raw().await?;
    for method in METHODS {
        let length = if matches!(method, "GET" | "HEAD") { "" } else { "Content-Length: 0\r\n" };
        let (head, body) = raw.call(get(kind.name(), "/m", length).replacen("GET", method, 1)).await?;
        ensure!(head.status == 200 && body.whole, "{method}: {head:?}");
        if method == "HEAD" {
            // The length of what a GET would give is told; no byte of it follows (the next answer would show it).
            ensure!(head.one("content-length").parse::<u64>()? > 0 && body.bytes == 0, "{head:?}");
        } else {
            ensure!(seen(&body.start)?["method"] == method, "{method}: {}", body.text());
        }
        ensure!(head.all("dormouse-request-id").len() == 1, "{head:?}");
    }
    Ok(())
}

async fn targets(world: &World, kind: Kind) -> Result<()> {
    let mut raw = world.raw().await?;
    for target in TARGETS {
        let wanted = as_told(kind, target);
        let by_path = format!("/fn/default/{}{target}", kind.name());
        let other_host = get(kind.name(), &by_path, "").replacen(".default.localhost", "", 1);
        for request in [get(kind.name(), target, ""), other_host] {
            let (head, body) = raw.call(&request).await?;
            if kind == Kind::Nginx && ["%00", "%zz"].iter().any(|odd| target.contains(odd)) {
                // It refuses these itself: the answer is its own, not one of ours.
                ensure!((head.status, head.one("dormouse-reason")) == (400, ""), "{request:?}: {head:?}");
                continue;
            }
            ensure!(head.status == 200, "{request:?}: {head:?} {}", body.text());
            let seen = seen(&body.start)?;
            ensure!(seen["target"] == wanted, "{request:?}: {}", body.text());
        }
    }
    Ok(())
}

/// Bodies of every size and framing arrive whole, and answers in chunks come back in chunks.
async fn bodies(world: &World, kind: Kind) -> Result<()> {
    let mut raw = world.raw().await?;
    let large: Vec<u8> = (0..1_u32 << 20).map(|i| u8::try_from(i * 7 % 251).unwrap_or(0)).collect();
    for body in [&b""[..], &b"x"[..], large.as_slice()] {
        let (head, answer) = raw.call(post(kind.name(), "/", "", body)).await?;
        let told = seen(&answer.start)?;
        ensure!(head.status == 200 && told["bytes"] == body.len() && told["sha256"] == sha256(body), "{told}");
        let mut chunked =
            get(kind.name(), "/", "Transfer-Encoding: chunked\r\n").replacen("GET", "PUT", 1).into_bytes();
        for piece in body.chunks(100_003) {
            chunked.extend(format!("{:x};ext=1\r\n", piece.len()).bytes());
            chunked.extend(piece);
            chunked.extend(b"\r\n");
        }
        chunked.extend(b"0\r\n\r\n");
        let (head, answer) = raw.call(chunked).await?;
        let told = seen(&answer.start)?;
        ensure!(head.status == 200 && told["bytes"] == body.len() && told["sha256"] == sha256(body), "chunked: {told}");
        ensure!(told["method"] == "PUT", "{told}");
    }
    let (head, answer) = raw.call(get(kind.name(), "/", "x-do: chunks\r\nx-count: 3\r\n")).await?;
    ensure!(head.one("transfer-encoding") == "chunked" && answer.whole, "{head:?}");
    ensure!(answer.text() == "chunk 0\nchunk 1\nchunk 2\n", "{answer:?}");
    Ok(())
}

async fn headers(world: &World, kind: Kind) -> Result<()> {
    let mut raw = world.raw().await?;
    let mine = "X-One: 1\r\nX-Rep: a\r\nX-Two: 2\r\nX-Rep: b, c\r\nX-Empty:\r\nX-Rep: d\r\nCookie: k=v\r\n\
        Authorization: Basic eDp5\r\nX-Hop: secret\r\nConnection: X-Hop\r\nDormouse-Reason: lie\r\n\
        X-Forwarded-For: 1.2.3.4\r\nForwarded: for=1.2.3.4\r\nProxy-Authorization: x\r\nKeep-Alive: timeout=9\r\n";
    let (_, body) = raw.call(get(kind.name(), "/fn/default/other/x", mine)).await?;
    let seen = seen(&body.start)?;
    let repeated: Vec<String> = header(&seen, "x-rep").join(",").split(',').map(|v| v.trim().to_owned()).collect();
    ensure!(repeated == ["a", "b", "c", "d"], "{seen}");
    ensure!(header(&seen, "x-empty") == [""] && header(&seen, "cookie") == ["k=v"], "{seen}");
    ensure!(header(&seen, "authorization") == ["Basic eDp5"], "{seen}");
    ensure!(header(&seen, "host") == [format!("{}.default.localhost", kind.name())], "{seen}");
    for gone in ["x-hop", "dormouse-reason", "proxy-authorization", "keep-alive"] {
        ensure!(header(&seen, gone).is_empty(), "{gone}: {seen}");
    }
    ensure!(header(&seen, "x-forwarded-for") == ["127.0.0.1"], "{seen}");
    let forwarded = format!("for=127.0.0.1;host=\"{}.default.localhost\";proto=http", kind.name());
    ensure!(header(&seen, "forwarded") == [forwarded], "{seen}");
    ensure!(header(&seen, "via") == ["1.1 dormouse"], "{seen}");
    Ok(())
}

/// Answers that never have a body leave the connection in use; repeated headers come back in order.
async fn statuses(world: &World, kind: Kind) -> Result<()> {
    let mut raw = world.raw().await?;
    if kind == Kind::Nginx {
        let (head, _) = raw.call(get(kind.name(), "/files/small", "")).await?;
        let tag = format!("If-None-Match: {}\r\n", head.one("etag"));
        let (head, _) = raw.call(get(kind.name(), "/files/small", &tag)).await?;
        ensure!(head.status == 304, "{head:?}");
        let (head, body) = raw.call(get(kind.name(), "/files/small", "Range: bytes=2-6\r\n")).await?;
        ensure!((head.status, body.text().as_str()) == (206, "small"), "{head:?}");
        let (head, _) = raw.call(get(kind.name(), "/files/none", "")).await?;
        ensure!((head.status, head.one("dormouse-reason")) == (404, ""), "{head:?}");
    } else {
        for status in [204, 304, 201, 404, 500] {
            let (head, body) =
                raw.call(get(kind.name(), "/", &format!("x-do: status\r\nx-status: {status}\r\n"))).await?;
            ensure!(head.status == status && body.whole && body.bytes == 0, "{head:?} {body:?}");
            ensure!(head.all("set-cookie") == ["a=1", "b=2", "a=3"] && head.one("etag") == "\"one\"", "{head:?}");
            ensure!(head.one("dormouse-reason").is_empty(), "an answer of the function is not one of ours: {head:?}");
        }
    }
    let (head, body) = raw.call(get(kind.name(), "/after", "")).await?;
    ensure!(head.status == 200 && seen(&body.start)?["target"] == "/after", "{head:?}");
    Ok(())
}

/// A file put through the activator, and had back.
async fn files(world: &World) -> Result<()> {
    let mut raw = world.raw().await?;
    let file = block().repeat(16);
    let put = post("nginx", "/files/put", "", &file);
    let put = [&b"PUT"[..], &put[4..]].concat();
    let (head, _) = raw.call(put).await?;
    ensure!(head.status == 201, "{head:?}");
    let (head, body) = raw.call(get("nginx", "/files/put", "")).await?;
    ensure!(head.status == 200 && body.whole && body.patterned && body.bytes == 1 << 20, "{head:?}");
    let (head, body) = raw.call(get("nginx", "/files/put", "").replacen("GET", "HEAD", 1)).await?;
    ensure!(head.one("content-length") == "1048576" && body.bytes == 0, "{head:?}");
    Ok(())
}

/// Trailers of both directions, as Node sends and sees them.
#[tokio::test(flavor = "multi_thread")]
async fn trailers_pass_both_ways() {
    world([Kind::Node.plain()].into_iter().collect(), &[], async |world| {
        world.up(&["node"]).await?;
        let mut raw = world.raw().await?;
        let chunked = "TE: trailers\r\nTrailer: X-Up\r\nTransfer-Encoding: chunked\r\n";
        let request = get("node", "/", chunked).replacen("GET", "POST", 1) + "2\r\nhi\r\n0\r\nX-Up: 7\r\n\r\n";
        let (_, body) = raw.call(request).await?;
        let told = seen(&body.start)?;
        ensure!(told["bytes"] == 2 && told["trailers"] == json!(["x-up", "7"]), "{told}");
        let (head, body) = raw.call(get("node", "/", "TE: trailers\r\nx-do: trailers\r\n")).await?;
        ensure!(body.whole && body.text() == "body", "{head:?} {body:?}");
        ensure!(body.trailers == [("x-sum".to_owned(), "42".to_owned())], "{head:?} {body:?}");
        Ok(())
    })
    .await;
}

/// `100 Continue` is said when the instance is there to take the body, never while the call waits for one.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_asked_for_only_when_somebody_takes_it() {
    let cold = Kind::Node.function("cold", json!({"env": [{"name": "START_MS", "value": "700"}]}));
    let never = Kind::Node.function(
        "never",
        json!({"env": [{"name": "START_MS", "value": "600000"}], "queue": {"maxCalls": 10, "maxWaitSeconds": 1}}),
    );
    world([cold, never].into_iter().collect(), &[], async |world| {
        let expecting = |name: &str| {
            let more = "Expect: 100-continue\r\nContent-Length: 4\r\n";
            get(name, "/", more).replacen("GET", "POST", 1)
        };
        let ask = async |name: &str| -> Result<Raw> {
            loop {
                let mut raw = world.raw().await?;
                raw.send(expecting(name)).await?;
                // Until the routes are known the answer is 503 NotReady or 404.
                let head = raw.any_head().await?;
                if head.status == 100 || head.one("dormouse-reason") == "WaitTimeout" {
                    ensure!((head.status == 100) == (name == "cold"), "{name}: {head:?}");
                    return Ok(raw);
                }
            }
        };
        // The first thing that comes is the refusal: nobody asked for a body that nobody would take.
        ask("never").await?;
        let mut raw = ask("cold").await?;
        raw.send("data").await?;
        let head = raw.head().await?;
        let body = raw.body(&head, false).await?;
        ensure!(head.status == 200 && seen(&body.start)?["sha256"] == sha256(b"data"), "{head:?}");
        Ok(())
    })
    .await;
}
