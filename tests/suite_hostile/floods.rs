//! Floods of HTTP/2 frames: each connection is cut, or what it makes us hold is bounded; other clients keep being
//! answered, and afterwards nothing is left.

use crate::common::{Origin, function, instance, ready};
use crate::frames::{self, frame};
use crate::stand::{Memory, OTHERS, Others, Stand, host};
use dormouse_proto::v1::{Function, InstanceState};
use dormouse_tests::env;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// By how much one kind of flood may make the process grow, over all its connections. A connection may hold its window
/// (1 MiB), its read buffer and a header list (32 KiB); the rest is the allocator's.
const MAX_GROWTH_KIB: u64 = 64 << 10;
/// Of the flooded function.
const TIMEOUT_MS: u32 = 4_000;
/// Longer than calls may take, and waiting before.
const HOLDS: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_secs(120);

/// How the end of a connection is told that was cut, and of one that was not.
const ERROR: &str = "GOAWAY ";
const NO_ERROR: &str = "GOAWAY 0";

/// How a flood must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The connection is cut long before the flood is over.
    Cut,
    /// It is taken in at no cost, or held back: nothing is owed but that memory stays.
    Bounded,
}

struct Flood {
    name: &'static str,
    end: End,
    /// Whether the client reads what comes back.
    reads: bool,
    /// How long the connection stays when all was sent, so that what was asked for runs into its limits.
    holds: Duration,
    /// What is sent once, after the preface.
    first: Vec<u8>,
    /// What is sent again and again; `n` counts from 0.
    again: fn(n: u32) -> Vec<u8>,
}

fn get(path: &str) -> Vec<u8> {
    frames::request("GET", &host("flooded"), path)
}

/// The n-th stream of a client.
fn stream(n: u32) -> u32 {
    2 * n + 1
}

fn call(n: u32, path: &str) -> Vec<u8> {
    frame(frames::HEADERS, frames::END_STREAM | frames::END_HEADERS, stream(n), &get(path))
}

fn flood(name: &'static str, end: End, first: Vec<u8>, again: fn(u32) -> Vec<u8>) -> Flood {
    Flood { name, end, reads: true, holds: Duration::ZERO, first, again }
}

fn floods() -> Vec<Flood> {
    let settings = || frames::settings(&[]);
    let open_head = || frame(frames::HEADERS, frames::END_STREAM, 1, &get("/"));
    let post = frames::request("POST", &host("flooded"), "/");
    let no_window = || frames::settings(&[(frames::INITIAL_WINDOW_SIZE, 0)]);
    vec![
        flood("rapid reset", End::Cut, settings(), |n| {
            [call(n, "/"), frame(frames::RST_STREAM, 0, stream(n), &8_u32.to_be_bytes())].concat()
        }),
        flood("resets provoked by a window of nothing", End::Cut, settings(), |n| {
            [call(n, "/"), frame(frames::WINDOW_UPDATE, 0, stream(n), &[0; 4])].concat()
        }),
        flood("continuation of large headers", End::Cut, [settings(), open_head()].concat(), |n| {
            let block = frames::header(&format!("x-{n}"), &"a".repeat(16_000), false);
            frame(frames::CONTINUATION, 0, 1, &block)
        }),
        flood("continuation of nothing", End::Cut, [settings(), open_head()].concat(), |_| {
            frame(frames::CONTINUATION, 0, 1, &[])
        }),
        flood("settings", End::Bounded, settings(), |n| frames::settings(&[(frames::INITIAL_WINDOW_SIZE, 1 + n)])),
        Flood {
            reads: false,
            ..flood("settings, unread", End::Bounded, settings(), |_| frames::settings(&[(3, 100)]))
        },
        flood("pings", End::Bounded, settings(), |_| frame(frames::PING, 0, 0, &[7; 8])),
        Flood {
            reads: false,
            ..flood("pings, unread", End::Bounded, settings(), |_| frame(frames::PING, 0, 0, &[7; 8]))
        },
        flood("priorities", End::Bounded, settings(), |n| frame(frames::PRIORITY, 0, stream(n), &[0, 0, 0, 0, 16])),
        flood("windows of one byte", End::Bounded, settings(), |_| {
            frame(frames::WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes())
        }),
        flood("unknown frames", End::Bounded, settings(), |n| {
            frame(frames::UNKNOWN, 0, 0, &vec![0; if n % 16 == 0 { 16_384 } else { 0 }])
        }),
        flood(
            "data of nothing",
            End::Cut,
            [settings(), frame(frames::HEADERS, frames::END_HEADERS, 1, &post)].concat(),
            |_| frame(frames::DATA, 0, 1, &[]),
        ),
        Flood {
            holds: HOLDS,
            ..flood("answers that nobody gives a window for", End::Bounded, no_window(), |n| {
                // As many as there may be; then only pings, so that the connection is not idle.
                if n < 100 { call(n, "/large") } else { frame(frames::PING, 0, 0, &[7; 8]) }
            })
        },
        Flood { holds: HOLDS, ..flood("more streams than there may be", End::Cut, no_window(), |n| call(n, "/large")) },
        flood("headers that were remembered", End::Cut, settings(), |n| {
            // 4,000 bytes once, then one byte for each time it is meant: 16,000 times is 64 MB of headers.
            let bomb = match n {
                0 => frames::header("x-bomb", &"b".repeat(4_000), true),
                _ => vec![frames::LAST_REMEMBERED; 16_000],
            };
            let block = [get("/bomb"), bomb].concat();
            frame(frames::HEADERS, frames::END_STREAM | frames::END_HEADERS, stream(n), &block)
        }),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_are_cut_or_bounded_and_others_are_answered() {
    let (connections, times) = if env::long() { (32, 200_000) } else { (4, 20_000) };
    let mut stand = Stand::start(&["--head-limit-seconds=2", "--idle-limit-seconds=5"]).await;
    let (flooded, quick) = (large().await, Origin::echo().await);
    let instances = vec![instance("flooded", flooded.addr, InstanceState::Ready, 50)];
    let waits = Function { queue_max_calls: 200, queue_max_wait_ms: TIMEOUT_MS, ..function("flooded") };
    stand.publish(Function { timeout_ms: TIMEOUT_MS, concurrency: 50, instances, ..waits }).await;
    stand.publish(ready("quick", quick.addr, OTHERS as u32)).await;
    let target = stand.target("quick", "/");
    let mut faults = Vec::new();
    for flood in floods() {
        let (memory, others) = (Memory::watch(&stand), Others::call(&target));
        let addr = stand.traffic;
        let runs = futures::future::join_all((0..connections).map(|_| send(addr, &flood, times)));
        let Ok(ends) = tokio::time::timeout(LIMIT, runs).await else {
            panic!("{}: neither cut nor taken in within {} s", flood.name, LIMIT.as_secs());
        };
        let answered = others.answered().await;
        let growth = memory.growth_kib();
        let is_cut = |(sent, end): &&(u32, String)| *sent < times || end.starts_with(ERROR) && end != NO_ERROR;
        let cut = ends.iter().filter(is_cut).count();
        let how: BTreeMap<&str, usize> = ends.iter().fold(BTreeMap::new(), |mut how, (_, end)| {
            *how.entry(end.as_str()).or_default() += 1;
            how
        });
        let most = ends.iter().map(|(sent, _)| sent).max().unwrap();
        println!(
            "{}: {cut} of {connections} cut, the latest after {most} of {times} ({how:?}), {growth} KiB more memory, \
             {answered} ordinary calls",
            flood.name
        );
        if flood.end == End::Cut && cut < connections {
            faults.push(format!("{}: only {cut} of {connections} connections were cut", flood.name));
        }
        if growth > MAX_GROWTH_KIB {
            faults.push(format!("{}: {growth} KiB more memory", flood.name));
        }
        stand.activator.check().unwrap();
    }
    assert!(faults.is_empty(), "{faults:?}");
    // No headers of 64 MB ever reach an instance.
    assert!(!flooded.seen.requests.lock().iter().any(|head| head.len() > 40_000));
    for series in ["inflight_requests", "queue_depth"] {
        let of_flooded = format!("dormouse_{series}{{namespace=\"ns\",function=\"flooded\"}}");
        stand.metric_is(&of_flooded, LIMIT, |n| n == 0).await;
    }
    stand.metric_is("dormouse_connections", LIMIT, |n| n == 0).await;
}

/// An instance whose /large is larger than every window.
async fn large() -> Origin {
    Origin::start(|mut line| async move {
        while let Some(head) = line.head().await {
            if head.contains("/large") {
                line.answer(&vec![b'x'; 1 << 20]).await;
            } else if head.starts_with("POST") {
                let mut sink = [0; 1024];
                while line.stream.read(&mut sink).await.is_ok_and(|n| n > 0) {}
                return;
            } else {
                line.answer(b"hello").await;
            }
        }
    })
    .await
}

/// Sends a flood on one connection. Tells how often it could be sent, and how the connection ended.
async fn send(addr: SocketAddr, flood: &Flood, times: u32) -> (u32, String) {
    let stream = TcpStream::connect(addr).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let (end, ended) = tokio::sync::oneshot::channel();
    let reads = flood.reads;
    let reader = tokio::spawn(async move {
        if reads {
            let _ = end.send(read_to_end(&mut read).await);
        } else {
            std::future::pending::<()>().await;
        }
    });
    let (mut sent, mut whole) = (0, false);
    let writing = async {
        let mut out = [frames::PREFACE, &flood.first].concat();
        while sent < times {
            while out.len() < 1 << 14 && sent < times {
                out.extend((flood.again)(sent));
                sent += 1;
            }
            if write.write_all(&out).await.is_err() {
                return "closed".to_owned();
            }
            out.clear();
        }
        whole = true;
        tokio::time::sleep(flood.holds).await;
        // Who has read everything sees the end of it, and ends as well.
        let _ = write.shutdown().await;
        if flood.reads {
            std::future::pending::<()>().await;
        }
        "all was sent".to_owned()
    };
    // Who does not read is held back by its own full socket, until it is cut.
    let how = tokio::select! {
        how = writing => how,
        Ok(how) = ended => how,
    };
    reader.abort();
    // A write that failed had been counted.
    let sent = if whole { times } else { sent.min(times - 1) };
    (sent, how)
}

/// Reads frames until GOAWAY or the end.
async fn read_to_end(read: &mut tokio::net::tcp::OwnedReadHalf) -> String {
    let (mut bytes, mut chunk) = (Vec::new(), vec![0; 1 << 16]);
    loop {
        while let Some((length, kind, _, _)) = frames::head(&bytes) {
            let whole = frames::HEAD + length;
            if bytes.len() < whole {
                break;
            }
            if kind == frames::GOAWAY {
                let code = bytes.get(frames::HEAD + 4..frames::HEAD + 8).map_or(0, |c| c[3]);
                return format!("{ERROR}{code}");
            }
            bytes.drain(..whole);
        }
        match read.read(&mut chunk).await {
            Ok(n) if n > 0 => bytes.extend_from_slice(&chunk[..n]),
            _ => return "closed".into(),
        }
    }
}
