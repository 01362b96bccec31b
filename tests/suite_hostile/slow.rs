//! Clients that drag: each is closed within its limit, with 408 where an answer is possible, and others do not notice.

use crate::common::{Origin, function, instance, ready};
use crate::stand::{OTHERS, Stand, host};
use dormouse_proto::v1::{Function, InstanceState};
use dormouse_tests::env;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;

/// Seconds for a head, and until a first byte.
const HEAD_LIMIT: &str = "--head-limit-seconds=2";
const IDLE_LIMIT: &str = "--idle-limit-seconds=3";
/// Of the function that is called slowly.
const TIMEOUT_MS: u32 = 5_000;
/// Far beyond every limit above: what is not closed by then never will be.
const LONG_AFTER: Duration = Duration::from_secs(90);
/// Between one of each kind and the next ones: the instance of the test has to accept their connections one by one.
const ARRIVAL: Duration = Duration::from_millis(3);
/// Between two bytes of a client that drags.
const DRIP: Duration = Duration::from_millis(400);
/// What a slow reader would have to read: more than all buffers on the way hold.
const FLOOD: usize = 64 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Silent,
    HalfPreface,
    SilentAfterThePreface,
    DrippedHead,
    DrippedBody,
    DrippedChunks,
    IdleAfterACall,
    DrippedSecondHead,
    Unread,
}

const WAYS: [Way; 9] = [
    Way::Silent,
    Way::HalfPreface,
    Way::SilentAfterThePreface,
    Way::DrippedHead,
    Way::DrippedBody,
    Way::DrippedChunks,
    Way::IdleAfterACall,
    Way::DrippedSecondHead,
    Way::Unread,
];

impl Way {
    /// What is sent at once, and what then drips for ever.
    fn bytes(self) -> (String, &'static str) {
        let host = host("slow");
        let head = |line: &str| format!("{line} HTTP/1.1\r\nHost: {host}\r\n");
        match self {
            Self::Silent => (String::new(), ""),
            Self::HalfPreface => ("PRI * HTTP/2.0\r\n\r\nSM".into(), ""),
            Self::SilentAfterThePreface => ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), ""),
            Self::DrippedHead => (head("GET /") + "X: ", "a"),
            Self::DrippedBody => (head("POST /") + "Content-Length: 100000\r\n\r\n", "a"),
            Self::DrippedChunks => (head("POST /") + "Transfer-Encoding: chunked\r\n\r\n", "1\r\na\r\n"),
            Self::IdleAfterACall => (head("GET /") + "\r\n", ""),
            Self::DrippedSecondHead => (head("GET /") + "\r\n" + &head("GET /") + "X: ", "a"),
            Self::Unread => (head("GET /flood") + "\r\n", ""),
        }
    }

    /// The statuses that may be heard before the close.
    fn statuses(self) -> &'static [&'static [u16]] {
        match self {
            Self::Silent | Self::SilentAfterThePreface => &[&[]],
            // A preface that did not become one: an answer is possible and not owed.
            Self::HalfPreface => &[&[], &[400], &[408]],
            Self::DrippedHead | Self::DrippedBody | Self::DrippedChunks => &[&[408]],
            Self::IdleAfterACall => &[&[200]],
            Self::DrippedSecondHead => &[&[200, 408]],
            Self::Unread => &[&[200]],
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_drag_are_closed_and_others_do_not_notice() {
    let of_each = if env::long() { 1000 } else { 100 };
    dormouse_activator::raise_file_limit();
    let mut stand = Stand::start(&[HEAD_LIMIT, IDLE_LIMIT]).await;
    let (slow, quick) = (flooding().await, Origin::echo().await);
    let every = u32::try_from(WAYS.len() * of_each).unwrap();
    let roomy = vec![instance("slow", slow.addr, InstanceState::Ready, every)];
    stand.publish(Function { timeout_ms: TIMEOUT_MS, concurrency: every, instances: roomy, ..function("slow") }).await;
    stand.publish(Function { uid: "uid-quick".into(), ..ready("quick", quick.addr, OTHERS as u32) }).await;
    let others = crate::stand::Others::call(&stand.target("quick", "/"));

    let mut clients = JoinSet::new();
    for _ in 0..of_each {
        for way in WAYS {
            let addr = stand.traffic;
            clients.spawn(async move { (way, drag(addr, way).await) });
        }
        tokio::time::sleep(ARRIVAL).await;
    }
    let mut heard: BTreeMap<Way, BTreeMap<String, usize>> = BTreeMap::new();
    let everyone = async {
        while let Some(ended) = clients.join_next().await {
            let (way, statuses) = ended.unwrap();
            let good = statuses.as_ref().is_ok_and(|s| way.statuses().contains(&s.as_slice()));
            let key = format!("{}{statuses:?}", if good { "" } else { "BAD " });
            *heard.entry(way).or_default().entry(key).or_default() += 1;
        }
    };
    let in_time = tokio::time::timeout(LONG_AFTER, everyone).await.is_ok();
    println!("slow clients, {of_each} of each kind: {heard:?}");
    assert!(in_time, "{} are still open: {heard:?}", clients.len());
    assert!(heard.values().all(|of_way| of_way.keys().all(|key| !key.starts_with("BAD"))), "{heard:?}");
    stand.metric_is("dormouse_connections", LONG_AFTER, |n| n <= OTHERS as i64).await;
    println!("{} ordinary calls meanwhile, none failed", others.answered().await);
    let inflight = "dormouse_inflight_requests{namespace=\"ns\",function=\"slow\"}";
    stand.metric_is(inflight, LONG_AFTER, |n| n == 0).await;
    stand.activator.check().unwrap();
}

/// An instance that reads bodies whole, and answers /flood with more than anybody holds.
async fn flooding() -> Origin {
    Origin::start(|mut line| async move {
        while let Some(head) = line.head().await {
            if head.contains("/flood") {
                line.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {FLOOD}\r\n\r\n")).await;
                let part = vec![b'x'; 1 << 16];
                for _ in 0..FLOOD / part.len() {
                    line.send(&part).await;
                }
            } else if head.starts_with("POST") {
                // The body never comes whole: until the connection ends.
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

/// Drags until the other side ends it; tells the statuses heard. An error when the whole flood was read.
async fn drag(addr: SocketAddr, way: Way) -> Result<Vec<u16>, String> {
    let socket = TcpSocket::new_v4().unwrap();
    if way == Way::Unread {
        socket.set_recv_buffer_size(4096).unwrap();
    }
    let stream = socket.connect(addr).await.map_err(|e| e.to_string())?;
    let (at_once, drips) = way.bytes();
    let (mut read, mut write) = stream.into_split();
    write.write_all(at_once.as_bytes()).await.map_err(|e| e.to_string())?;
    let dripping = tokio::spawn(async move {
        while !drips.is_empty() && write.write_all(drips.as_bytes()).await.is_ok() {
            tokio::time::sleep(DRIP).await;
        }
        // Kept: the client's side stays open.
        write
    });
    if way == Way::Unread {
        // It does not read before its time is surely over; then it finds the transfer broken.
        tokio::time::sleep(Duration::from_millis(u64::from(TIMEOUT_MS) * 3)).await;
    }
    let heard = hear(&mut read).await;
    dripping.abort();
    let (bytes, total) = heard;
    if way == Way::Unread && total >= FLOOD {
        return Err("the whole flood was read".into());
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let statuses = text.match_indices("HTTP/1.1 ").filter_map(|(at, _)| text.get(at + 9..at + 12)?.parse().ok());
    Ok(statuses.collect())
}

/// Reads to the end; keeps the beginning.
async fn hear(read: &mut tokio::net::tcp::OwnedReadHalf) -> (Vec<u8>, usize) {
    let (mut kept, mut total, mut chunk) = (Vec::new(), 0, vec![0; 1 << 16]);
    while let Ok(n) = read.read(&mut chunk).await
        && n > 0
    {
        total += n;
        if kept.len() < 4096 {
            kept.extend_from_slice(&chunk[..n]);
        }
    }
    (kept, total)
}
