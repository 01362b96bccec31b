//! An activator that was asked to stop, while callers still learn of it.

mod common;

use common::{House, Origin, client::get, h2c::H2Client, ready, until, within};
use std::time::Duration;

/// A delay that no test waits for.
const DELAY: Duration = Duration::from_secs(600);

/// The instance ends when it is dropped.
async fn leaving() -> (House, Origin) {
    let house = House::with(|config| config.drain_delay = DELAY).await;
    let origin = Origin::echo().await;
    house.publish(ready("hello", origin.addr, 4)).await;
    until("it is ready", || house.activator.health.is_ready().then_some(())).await;
    (house, origin)
}

async fn asked_to_stop(house: &House) {
    house.activator.ask_to_stop();
    until("it is not ready", || (!house.activator.health.is_ready()).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_told_to_close_while_it_still_serves() {
    let (house, _origin) = leaving().await;
    let mut kept = house.activator.client().await;
    kept.send(get("/before")).await;
    let before = kept.answer().await;
    assert_eq!((before.status, before.headers.get("connection")), (200, None));
    asked_to_stop(&house).await;
    // One that is in use moves to another activator with its next call; one that comes all the same is served.
    let mut late = house.activator.client().await;
    for client in [&mut kept, &mut late] {
        client.send(get("/after")).await;
        let after = client.answer().await;
        assert_eq!((after.status, after.headers.get("connection").map(String::as_str)), (200, Some("close")));
        assert!(client.is_closed().await);
    }
    assert_eq!(house.records(3).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_and_answers_with_bodies_tell_it_too() {
    let (house, _origin) = leaving().await;
    asked_to_stop(&house).await;
    for (path, status) in [("/fn/ns/unknown/", 404), ("/fn/ns/hello/x", 200)] {
        let mut client = house.activator.client().await;
        client.send(format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nbody")).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.headers.get("connection").map(String::as_str)), (status, Some("close")));
        assert!(answer.whole && client.is_closed().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http_2_connections_are_told_while_it_still_serves() {
    let (house, _origin) = leaving().await;
    let mut client = H2Client::connect(house.activator.addr).await;
    assert_eq!(client.get("/before").await.status, 200);
    asked_to_stop(&house).await;
    within("a farewell", client.end).await.unwrap().unwrap();
    // Whoever comes all the same is served.
    let mut late = H2Client::connect(house.activator.addr).await;
    assert_eq!(late.get("/after").await.status, 200);
    assert_eq!(house.records(2).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_are_closed_when_the_delay_is_over() {
    let house = House::with(|config| config.drain_delay = Duration::from_millis(1)).await;
    let origin = Origin::echo().await;
    house.publish(ready("hello", origin.addr, 4)).await;
    let mut idle = house.activator.client().await;
    idle.send(get("/")).await;
    assert_eq!(idle.answer().await.status, 200);
    asked_to_stop(&house).await;
    assert!(idle.is_closed().await);
    house.activator.stop().await;
}
