//! kill -9 of the process, again and again: whatever was answered is recorded, and nothing twice; whatever an instance had
//! is recorded, as aborted where its end is not known.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod common;

use common::{Controller, Origin, client, free_addr, ready, until};
use dormouse_core::record::{Outcome, key_of};
use std::{
    collections::HashSet,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

const ROUNDS: u64 = 5;
const CALLERS: usize = 4;
const KEY: &str = "idempotency-key: ";

/// The process, killed when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(listen: SocketAddr, controller: &Controller, spool: &Path) -> Process {
    let child = Command::new(env!("CARGO_BIN_EXE_dormouse-activator"))
        .args(["--listen", &listen.to_string(), "--admin", "127.0.0.1:0", "--controller", &controller.url()])
        .arg("--spool-dir")
        .arg(spool)
        .arg("--every-intent")
        .env("DORMOUSE_TOKEN", common::TOKEN)
        .stderr(Stdio::null())
        .spawn();
    Process(child.unwrap())
}

/// One call with a key of its own; the request id when it was answered whole.
async fn call(addr: SocketAddr, key: &str) -> Option<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(addr).await.ok()?;
    let request = client::get("/").replace("\r\n\r\n", &format!("\r\nConnection: close\r\n{KEY}{key}\r\n\r\n"));
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok()?;
    let text = String::from_utf8(answer).unwrap();
    let whole = text.starts_with("HTTP/1.1 200") && text.ends_with("\r\n\r\nhello");
    let id = text.split("dormouse-request-id: ").nth(1)?.split("\r\n").next()?.to_owned();
    whole.then_some(id)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_is_recorded_once_after_kills() {
    let controller = Controller::start().await;
    let origin = Origin::echo().await;
    controller.set(ready("hello", origin.addr, CALLERS as u32));
    let folder = tempfile::tempdir().unwrap();
    let listen = free_addr();
    let mut answered: HashSet<String> = HashSet::new();
    for round in 0..ROUNDS {
        let process = start(listen, &controller, folder.path());
        let stop = Arc::new(AtomicBool::new(false));
        let callers: Vec<_> = (0..CALLERS)
            .map(|caller| {
                let stop = stop.clone();
                tokio::spawn(async move {
                    let mut ids = Vec::new();
                    for n in 0.. {
                        if stop.load(SeqCst) {
                            break;
                        }
                        match call(listen, &format!("{round}-{caller}-{n}")).await {
                            Some(id) => ids.push(id),
                            None => tokio::time::sleep(Duration::from_millis(5)).await,
                        }
                    }
                    ids
                })
            })
            .collect();
        let so_far = origin.seen.requests.lock().len();
        until("calls are served", || (origin.seen.requests.lock().len() > so_far + 50).then_some(())).await;
        tokio::time::sleep(Duration::from_millis(13 * round)).await;
        drop(process);
        stop.store(true, SeqCst);
        for caller in callers {
            answered.extend(caller.await.unwrap());
        }
    }
    let _last = start(listen, &controller, folder.path());
    // What an instance had, by the hash of its key.
    let keys = |head: &String| Some(key_of(head.split(KEY).nth(1)?.split("\r\n").next()?.as_bytes()));
    let sent: HashSet<u64> = origin.seen.requests.lock().iter().filter_map(keys).collect();
    until("whatever an instance had is recorded", || {
        let recorded: HashSet<u64> = controller.records().iter().map(|(_, r)| r.key).collect();
        sent.is_subset(&recorded).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let recorded: Vec<_> = controller.records().into_iter().map(|(_, record)| record).collect();
    let keys: HashSet<u64> = recorded.iter().map(|r| r.key).collect();
    assert_eq!((keys.len(), sent.len() >= answered.len()), (recorded.len(), true), "each once");
    let aborted = recorded.iter().filter(|r| r.outcome == Outcome::Aborted).count();
    let in_flight = ROUNDS as usize * CALLERS;
    assert!(answered.len() + aborted <= recorded.len() && aborted <= in_flight, "{} {aborted}", answered.len());
    assert!(recorded.len() <= answered.len() + in_flight, "{} {}", answered.len(), recorded.len());
    // Each epoch is whole: numbers from 1 without a gap (the ledger takes no others), each call once.
    let epochs = controller.epochs();
    assert_eq!(epochs.iter().map(|e| e.1).collect::<Vec<_>>(), (1..=ROUNDS as u32).collect::<Vec<_>>());
    assert_eq!(epochs.iter().map(|e| e.2).sum::<u64>(), recorded.len() as u64);
}
