//! More posts than there is room for, to a function that never wakes: as many wait as may, the rest is refused at once,
//! their bodies stay with their clients, and all who wait are released.

use crate::common::{Origin, function, ready};
use crate::stand::{Memory, OTHERS, Others, Stand, host};
use dormouse_proto::v1::Function;
use dormouse_tests::env;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::sync::{Semaphore, mpsc};

/// Bytes of each body.
const BODY: usize = 1 << 20;
/// Of a client's kernel for what it has not sent yet: bodies are to stay in its hands, not in the kernel's.
const SEND_BUFFER: u32 = 16 << 10;
/// Connects at once: fewer than the queue of connections that are not accepted yet.
const CONNECTS: usize = 512;
/// How long the function's calls wait, in the short form and in the long one: longer than it takes to refuse all others
/// on a slow machine.
const WAIT_MS: [u32; 2] = [25_000, 60_000];
/// For anything that must happen.
const LIMIT: Duration = Duration::from_secs(180);
/// What one call may cost: 10,000 held calls are to take 250 MiB at most.
const KIB_PER_CALL: u64 = 25;
/// What the process may grow by besides (threads' caches of the allocator, tables that double).
const KIB_BESIDE: u64 = 32 << 10;

/// What a client was told, and whether to come again.
type Told = (u16, String, bool);

#[tokio::test(flavor = "multi_thread")]
async fn posts_beyond_the_bound_are_refused_at_once_and_the_rest_at_its_deadline() {
    // Each call takes a file here and one there; others need some as well.
    let files = usize::try_from(dormouse_activator::raise_file_limit()).unwrap();
    let posts = (if env::long() { 20_000 } else { 2_000 }).min(files.saturating_sub(300));
    let bound = posts / 4;
    let stand = Stand::start(&["--max-connections=30000", "--max-connections-per-address=30000"]).await;
    let quick = Origin::echo().await;
    stand.publish(ready("quick", quick.addr, OTHERS as u32)).await;
    let queue_max_calls = u32::try_from(bound).unwrap();
    stand
        .publish(Function {
            queue_max_calls,
            queue_max_wait_ms: WAIT_MS[usize::from(env::long())],
            ..function("asleep")
        })
        .await;
    let others = Others::call(&stand.target("quick", "/"));
    let memory = Memory::watch(&stand);

    let (tell, mut told) = mpsc::unbounded_channel();
    let (body, connects) = (Arc::new(vec![b'x'; BODY]), Arc::new(Semaphore::new(CONNECTS)));
    for _ in 0..posts {
        let (tell, body, connects, addr) = (tell.clone(), body.clone(), connects.clone(), stand.traffic);
        tokio::spawn(async move { tell.send(post(addr, &body, &connects).await) });
    }
    drop(tell);
    // Those who are refused hear it while those who wait still wait.
    let refused = hear(&mut told, posts - bound).await;
    assert_eq!(refused, BTreeMap::from([((429, "QueueFull".to_owned(), true), posts - bound)]));
    assert_eq!(stand.metric("dormouse_waiting_calls").await, i64::try_from(bound).unwrap());
    let held = stand.metric("dormouse_waiting_bytes").await;
    let released = hear(&mut told, bound).await;
    assert_eq!(released, BTreeMap::from([((503, "WaitTimeout".to_owned(), true), bound)]));
    stand.metric_is("dormouse_waiting_calls", LIMIT, |n| n == 0).await;
    stand.metric_is("dormouse_waiting_bytes", LIMIT, |n| n == 0).await;
    let (growth, answered) = (memory.growth_kib(), others.answered().await);
    println!(
        "{posts} posts of {BODY} bytes: {bound} waited ({held} bytes of them buffered), {} refused at once, \
         {growth} KiB more memory, {answered} ordinary calls meanwhile, none failed",
        posts - bound
    );
    let budget = KIB_BESIDE + KIB_PER_CALL * posts as u64;
    assert!(growth <= budget, "{growth} KiB more memory than before, more than {budget}");
}

async fn hear(told: &mut mpsc::UnboundedReceiver<Told>, n: usize) -> BTreeMap<Told, usize> {
    let mut counts = BTreeMap::new();
    for i in 0..n {
        let next = tokio::time::timeout(LIMIT, told.recv()).await;
        let next = next.unwrap_or_else(|_| panic!("only {i} of {n} were told: {counts:?}"));
        *counts.entry(next.unwrap()).or_default() += 1;
    }
    counts
}

/// Posts until it is answered; a connection that ends without an answer counts as status 0.
async fn post(addr: SocketAddr, body: &[u8], connects: &Semaphore) -> Told {
    let connecting = connects.acquire().await.unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_send_buffer_size(SEND_BUFFER).unwrap();
    let stream = match socket.connect(addr).await {
        Ok(stream) => stream,
        Err(e) => return (0, e.to_string(), false),
    };
    drop(connecting);
    let (mut read, mut write) = stream.into_split();
    let head = format!("POST / HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n", host("asleep"), body.len());
    let mut answer = Vec::new();
    let mut chunk = [0; 1024];
    let sending = async {
        let _ = write.write_all(head.as_bytes()).await;
        let _ = write.write_all(body).await;
        // Whatever became of it, the answer is what counts.
        std::future::pending::<()>().await;
    };
    let reading = async {
        while !answer.windows(4).any(|w| w == b"\r\n\r\n") {
            match read.read(&mut chunk).await {
                Ok(n) if n > 0 => answer.extend_from_slice(&chunk[..n]),
                Ok(_) => break,
                Err(e) => return Some(e.to_string()),
            }
        }
        None
    };
    let broke = tokio::select! { broke = reading => broke, () = sending => None };
    let text = String::from_utf8_lossy(&answer).to_lowercase();
    let header = |name: &str| text.lines().find_map(|l| Some(l.strip_prefix(name)?.trim().to_owned()));
    let status = text.get(9..12).and_then(|s| s.parse().ok()).unwrap_or(0);
    let original = String::from_utf8_lossy(&answer).into_owned();
    let reason = original.lines().find_map(|l| l.strip_prefix("dormouse-reason: ").map(str::to_owned));
    (status, reason.or(broke).unwrap_or_default(), header("retry-after:").is_some_and(|s| s.parse::<u32>().is_ok()))
}
