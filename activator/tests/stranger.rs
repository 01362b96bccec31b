//! Rule 1, last sentence: while the controller is silent, an address whose connections have all broken is not dialled
//! again until it is confirmed. Another server may have it by now, and not one call reaches that one.

mod common;

use common::{
    House, Origin,
    client::{Client, get},
    function, instance,
    origin::echo,
    ready, until,
};
use dormouse_core::record::Outcome;
use dormouse_proto::v1::{Function, InstanceState::Ready};
use std::{net::SocketAddr, sync::atomic::Ordering::SeqCst};

/// Somebody else takes the address.
async fn stranger(addr: SocketAddr) -> Origin {
    let free = until("the port is free", || std::net::TcpListener::bind(addr).ok()).await;
    drop(free);
    Origin::start_at(addr, echo).await
}

/// The controller falls silent, and the activator knows it.
async fn silence(house: &mut House) {
    house.controller.down().await;
    house.activator.shows("dormouse_controller_up 0").await;
}

/// Calls that come now wait, whoever listens at the address; when the controller is back with another instance they are
/// answered by that one.
async fn nobody_reaches(stranger: &Origin, mut house: House) {
    let mark = house.controller.mark();
    let mut waiting: Vec<Client> = Vec::new();
    for _ in 0..10 {
        let mut client = house.activator.client().await;
        client.send(get("/waits")).await;
        waiting.push(client);
    }
    // Long enough for every pause between two tries, were there any.
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert_eq!(stranger.seen.connections.load(SeqCst), 0, "it was dialled");
    let own = Origin::echo().await;
    let instances = vec![instance("i2", own.addr, Ready, 10)];
    house.controller.set(Function { instances, ..function("hello") });
    house.controller.up().await;
    for mut client in waiting {
        assert_eq!(client.answer().await.status, 200);
    }
    let waited = |head: &&String| head.starts_with("GET /waits");
    assert_eq!(own.seen.requests.lock().iter().filter(waited).count(), 10);
    assert_eq!(stranger.seen.connections.load(SeqCst), 0, "it was dialled on the controller's return");
    house.controller.told(mark, "uid-hello", (0, 0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_process_that_ended_while_its_connections_idled() {
    let mut house = House::new().await;
    let origin = Origin::start(|mut line| async move {
        while line.request().await.is_some() {
            // Kept for a minute, so that it is the end of the process that ends the connection.
            line.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nKeep-Alive: timeout=75\r\n\r\nok").await;
        }
    })
    .await;
    house.publish(ready("hello", origin.addr, 10)).await;
    assert_eq!(house.activator.call(&get("/")).await.status, 200);
    silence(&mut house).await;
    assert_eq!(house.activator.call(&get("/")).await.status, 200, "a warm call needs no controller");
    let addr = origin.addr;
    drop(origin);
    let stranger = stranger(addr).await;
    nobody_reaches(&stranger, house).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_process_that_ended_within_many_calls() {
    let mut house = House::new().await;
    let origin = Origin::start(|mut line| async move {
        line.request().await;
        std::future::pending::<()>().await;
    })
    .await;
    house.publish(ready("hello", origin.addr, 10)).await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        let mut client = house.activator.client().await;
        client.send(get("/")).await;
        clients.push(client);
    }
    until("all run", || (origin.seen.requests.lock().len() == 10).then_some(())).await;
    silence(&mut house).await;
    let addr = origin.addr;
    drop(origin);
    for mut client in clients {
        assert_eq!(client.answer().await.reason(), Some("InstanceDied"));
    }
    let stranger = stranger(addr).await;
    nobody_reaches(&stranger, house).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_connect_that_was_refused() {
    let mut house = House::new().await;
    let origin = Origin::start(|mut line| async move {
        while line.request().await.is_some() {
            // Not kept by us at all: no connection is left to see the end of the process by.
            line.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nKeep-Alive: timeout=1\r\n\r\nok").await;
        }
    })
    .await;
    house.publish(Function { queue_max_wait_ms: 60_000, ..ready("hello", origin.addr, 10) }).await;
    assert_eq!(house.activator.call(&get("/")).await.status, 200);
    silence(&mut house).await;
    let addr = origin.addr;
    drop(origin);
    until("nobody listens", || std::net::TcpStream::connect(addr).is_err().then_some(())).await;
    let mut first = house.activator.client().await;
    first.send(get("/first")).await;
    // It had the free slot at once: that it waits shows that the connect was tried.
    house.activator.shows("dormouse_queue_depth{namespace=\"ns\",function=\"hello\"} 1").await;
    let stranger = stranger(addr).await;
    nobody_reaches(&stranger, house).await;
    assert_eq!(first.answer().await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_waits_for_the_controller_waits_only_its_time() {
    let mut house = House::new().await;
    let origin = Origin::echo().await;
    house.publish(Function { queue_max_wait_ms: 300, ..ready("hello", origin.addr, 1) }).await;
    assert_eq!(house.activator.call(&get("/")).await.status, 200);
    silence(&mut house).await;
    let addr = origin.addr;
    drop(origin);
    let stranger = stranger(addr).await;
    let answer = house.activator.call(&get("/")).await;
    assert_eq!((answer.status, answer.reason()), (503, Some("WaitTimeout")));
    assert_eq!(stranger.seen.connections.load(SeqCst), 0);
    house.controller.up().await;
    assert_eq!(house.records(1).await[0].1.outcome, Outcome::Ok);
}

/// What broke while the controller was there says nothing of an address that was dialled again since.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_was_dialled_again_is_dialled_when_the_controller_is_silent() {
    let mut house = House::new().await;
    let origin = Origin::start(|mut line| async move {
        let first = line.seen.requests.lock().is_empty();
        while line.request().await.is_some() {
            // The first connection is kept by us and closed by it without a word; the others are not kept at all.
            let keep = if first { 75 } else { 1 };
            line.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nKeep-Alive: timeout={keep}\r\n\r\nok")).await;
            if first {
                return;
            }
        }
    })
    .await;
    house.publish(ready("hello", origin.addr, 10)).await;
    for _ in 0..3 {
        assert_eq!(house.activator.call(&get("/")).await.status, 200);
    }
    silence(&mut house).await;
    assert_eq!(house.activator.call(&get("/")).await.status, 200);
}
