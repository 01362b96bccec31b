//! Each cap of the traffic port: at the cap a client is refused at once and told why, below it it is served, and what
//! ends gives its place back. The gauge beside each cap shows how much of it is used.

use crate::common::{Origin, function, ready};
use crate::frames::{self, frame};
use crate::stand::{Stand, host};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

const LIMIT: Duration = Duration::from_secs(30);

/// A connection from one of this machine's own addresses.
async fn connect(stand: &Stand, from: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
    socket.connect(stand.traffic).await.unwrap()
}

/// The head of what comes back, and its body as far as it came with it.
async fn answer(stream: &mut TcpStream) -> String {
    let (mut text, mut chunk) = (Vec::new(), [0; 4096]);
    while !text.windows(4).any(|w| w == b"\r\n\r\n") {
        let read = tokio::time::timeout(LIMIT, stream.read(&mut chunk)).await;
        match read.expect("an answer").unwrap() {
            0 => break,
            n => text.extend_from_slice(&chunk[..n]),
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

async fn ask(stream: &mut TcpStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    answer(stream).await
}

/// A call that waits, the `n`th of all.
async fn waiting_call(stand: &Stand, request: &str, n: i64) -> TcpStream {
    let mut client = connect(stand, "127.0.0.1").await;
    client.write_all(request.as_bytes()).await.unwrap();
    stand.metric_is("dormouse_waiting_calls", LIMIT, |seen| seen == n).await;
    client
}

fn get(name: &str, more: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: {}\r\n{more}\r\n", host(name))
}

#[track_caller]
fn assert_refused(answer: &str, status: u16, reason: &str, later: bool) {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    assert!(answer.contains(&format!("dormouse-reason: {reason}\r\n")), "{answer}");
    assert_eq!(answer.contains("retry-after: "), later, "{answer}");
}

#[track_caller]
fn assert_served(answer: &str) {
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_in_total_and_from_one_address() {
    let stand = Stand::start(&["--max-connections=8", "--max-connections-per-address=5"]).await;
    let origin = Origin::echo().await;
    stand.publish(ready("hello", origin.addr, 20)).await;
    let mut open = Vec::new();
    for (from, places) in [("127.0.0.1", 5), ("127.0.0.2", 3)] {
        for _ in 0..places {
            let mut client = connect(&stand, from).await;
            assert_served(&ask(&mut client, &get("hello", "")).await);
            open.push(client);
        }
        // The address's own bound for the first, the total for the second.
        assert_refused(&answer(&mut connect(&stand, from).await).await, 503, "Connections", true);
    }
    assert_eq!(stand.metric("dormouse_connections").await, 8);
    drop(open.pop());
    stand.metric_is("dormouse_connections", LIMIT, |n| n == 7).await;
    assert_refused(&answer(&mut connect(&stand, "127.0.0.1").await).await, 503, "Connections", true);
    let mut client = connect(&stand, "127.0.0.3").await;
    assert_served(&ask(&mut client, &get("hello", "")).await);
    let rejected = "dormouse_queue_rejected_total{namespace=\"\",function=\"\",reason=\"Connections\"}";
    assert_eq!(stand.metric(rejected).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_and_lines_of_a_head() {
    let stand = Stand::start(&["--max-head-bytes=8192", "--max-header-lines=16"]).await;
    let origin = Origin::echo().await;
    stand.publish(ready("hello", origin.addr, 20)).await;
    let of_lines = |n: usize| get("hello", &"X: y\r\n".repeat(n - 1));
    let of_bytes = |n: usize| {
        let rest = get("hello", "X: \r\n").len();
        get("hello", &format!("X: {}\r\n", "y".repeat(n - rest)))
    };
    for (request, served) in
        [(of_lines(16), true), (of_lines(17), false), (of_bytes(8_000), true), (of_bytes(8_500), false)]
    {
        let answer = ask(&mut connect(&stand, "127.0.0.1").await, &request).await;
        if served { assert_served(&answer) } else { assert_refused(&answer, 431, "HeadersTooLarge", false) }
    }
    assert_eq!(origin.seen.requests.lock().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_wait() {
    // Half of it for one function: whatever that allows itself, others find room.
    let stand = Stand::start(&["--max-waiting=6"]).await;
    stand.publish(function("asleep")).await;
    stand.publish(function("other")).await;
    let mut waiting = Vec::new();
    for n in 1..=3 {
        waiting.push(waiting_call(&stand, &get("asleep", ""), n).await);
    }
    assert_refused(&ask(&mut connect(&stand, "127.0.0.1").await, &get("asleep", "")).await, 503, "QueueFull", true);
    drop(waiting.pop());
    stand.metric_is("dormouse_waiting_calls", LIMIT, |n| n == 2).await;
    waiting.push(waiting_call(&stand, &get("asleep", ""), 3).await);
    for n in 4..=6 {
        waiting.push(waiting_call(&stand, &get("other", ""), n).await);
    }
    assert_refused(&ask(&mut connect(&stand, "127.0.0.1").await, &get("other", "")).await, 503, "QueueFull", true);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_of_calls_that_wait() {
    const CAP: usize = 1 << 20;
    let stand = Stand::start(&[&format!("--max-waiting-bytes={}", 2 * CAP)]).await;
    stand.publish(function("asleep")).await;
    let large = get("asleep", &format!("X: {}\r\n", "y".repeat(60_000)));
    let places = i64::try_from(CAP / large.len()).unwrap();
    let mut waiting = Vec::new();
    for n in 1..=places {
        waiting.push(waiting_call(&stand, &large, n).await);
    }
    let bytes = stand.metric("dormouse_waiting_bytes").await;
    assert!((places * 60_000..=CAP as i64).contains(&bytes), "{bytes}");
    assert_refused(&ask(&mut connect(&stand, "127.0.0.1").await, &large).await, 503, "QueueFull", true);
    drop(waiting);
    stand.metric_is("dormouse_waiting_bytes", LIMIT, |n| n == 0).await;
    // What was read of a body along with its head counts as well; the rest stays with the client.
    let body = "z".repeat(1 << 20);
    let post = get("asleep", &format!("Content-Length: {}\r\n", body.len())).replace("GET", "POST") + &body;
    let mut client = connect(&stand, "127.0.0.1").await;
    let sending = tokio::spawn(async move { client.write_all(post.as_bytes()).await.map(|()| client) });
    stand.metric_is("dormouse_waiting_bytes", LIMIT, |n| (1_000..70_000).contains(&n)).await;
    assert_eq!(stand.metric("dormouse_waiting_calls").await, 1);
    sending.abort();
}

/// A connection whose kernel takes little ahead of what is read.
async fn slow_reader(stand: &Stand) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    socket.connect(stand.traffic).await.unwrap()
}

/// Downloads that nobody reads fill the process's buffers up to its bound; then new calls are refused, the running ones
/// go on, and what they held is free again with their end.
#[tokio::test(flavor = "multi_thread")]
async fn memory() {
    const CAP: i64 = 40 << 20;
    /// More than fits, at 100 KiB of buffers each and less.
    const CALLS: usize = 2_000;
    const BODY: usize = 8 << 20;
    let stand = Stand::start(&[&format!("--max-memory-bytes={CAP}")]).await;
    let origin = Origin::start(|mut line| async move {
        while line.request().await.is_some() {
            line.send(&format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n")).await;
            // A caller that left is no failure of this server.
            let _ = line.stream.write_all(&vec![b'x'; BODY]).await;
        }
    })
    .await;
    stand.publish(ready("hello", origin.addr, CALLS as u32)).await;
    let mut unread = Vec::new();
    let refused = loop {
        assert!(unread.len() < CALLS, "never refused at {} bytes", stand.metric("dormouse_memory_bytes").await);
        let mut client = slow_reader(&stand).await;
        let answer = ask(&mut client, &get("hello", "")).await;
        if !answer.starts_with("HTTP/1.1 200 ") {
            break answer;
        }
        unread.push(client);
    };
    assert_refused(&refused, 503, "Memory", true);
    assert!(stand.metric("dormouse_memory_bytes").await > CAP - CAP / 16);
    assert_eq!(stand.metric("dormouse_memory_bytes_limit").await, CAP);
    // The calls that run are not touched.
    let first = &mut unread[0];
    let mut some = vec![0; 1 << 20];
    tokio::time::timeout(LIMIT, first.read_exact(&mut some)).await.expect("it goes on").unwrap();
    drop(unread);
    stand.metric_is("dormouse_memory_bytes", LIMIT, |n| n < CAP - CAP / 16).await;
    let mut client = connect(&stand, "127.0.0.1").await;
    assert_served(&ask(&mut client, &get("hello", "")).await);
}

/// Reads frames until one of a kind comes; its stream and its last byte.
async fn frame_of(stream: &mut TcpStream, wanted: u8) -> (u32, u8) {
    loop {
        let mut head = [0; frames::HEAD];
        tokio::time::timeout(LIMIT, stream.read_exact(&mut head)).await.expect("a frame").unwrap();
        let (length, kind, _, number) = frames::head(&head).unwrap();
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await.unwrap();
        if kind == wanted {
            return (number, payload.last().copied().unwrap_or_default());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_a_connection() {
    const REFUSED_STREAM: u8 = 7;
    let stand = Stand::start(&["--max-http2-streams=2"]).await;
    stand.publish(function("asleep")).await;
    let mut client = connect(&stand, "127.0.0.1").await;
    let call = |stream| {
        let block = frames::request("GET", &host("asleep"), "/");
        frame(frames::HEADERS, frames::END_STREAM | frames::END_HEADERS, stream, &block)
    };
    let opening = [frames::PREFACE, &frames::settings(&[]), &call(1), &call(3)].concat();
    client.write_all(&opening).await.unwrap();
    stand.metric_is("dormouse_waiting_calls", LIMIT, |n| n == 2).await;
    assert_eq!(stand.metric("dormouse_http2_streams").await, 2);
    client.write_all(&call(5)).await.unwrap();
    assert_eq!(frame_of(&mut client, frames::RST_STREAM).await, (5, REFUSED_STREAM));
    assert_eq!(stand.metric("dormouse_waiting_calls").await, 2);
    client.write_all(&frame(frames::RST_STREAM, 0, 1, &8_u32.to_be_bytes())).await.unwrap();
    stand.metric_is("dormouse_waiting_calls", LIMIT, |n| n == 1).await;
    stand.metric_is("dormouse_http2_streams", LIMIT, |n| n == 1).await;
    client.write_all(&call(7)).await.unwrap();
    stand.metric_is("dormouse_waiting_calls", LIMIT, |n| n == 2).await;
    drop(client);
    stand.metric_is("dormouse_http2_streams", LIMIT, |n| n == 0).await;
}
