//! Records across lives of the activator and absences of the ledger.

mod common;

use common::{House, Origin, Running, client::get, ready, until};

#[tokio::test(flavor = "multi_thread")]
async fn records_wait_for_the_ledger_and_outlive_the_activator() {
    let house = House::with(|c| c.ship_limit = std::time::Duration::from_millis(300)).await;
    let origin = Origin::echo().await;
    house.publish(ready("hello", origin.addr, 1)).await;
    house.controller.deaf(true);
    for _ in 0..5 {
        assert_eq!(house.activator.call(&get("/")).await.status, 200);
    }
    let House { controller, activator, folder } = house;
    let first = activator.identity;
    activator.stop().await;
    assert!(controller.records().is_empty());
    controller.deaf(false);
    let second = Running::start(&controller.url(), folder.path(), |_| {}).await;
    assert_eq!((second.identity.activator, second.identity.epoch), (first.activator, 2));
    let house = House { controller, activator: second, folder };
    assert_eq!(house.records(5).await.len(), 5);
    until("routes are known", || house.activator.health.is_ready().then_some(())).await;
    assert_eq!(house.activator.call(&get("/")).await.status, 200);
    house.records(6).await;
    assert_eq!(house.controller.epochs(), [(first.activator, 1, 5), (first.activator, 2, 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_spool_refuses_before_dispatch_and_recovers() {
    let house = House::with(|c| c.spool_max_bytes = 16 << 10).await;
    let origin = Origin::echo().await;
    house.publish(ready("hello", origin.addr, 1)).await;
    house.controller.deaf(true);
    let mut answered = 0;
    let refused = loop {
        let answer = house.activator.call(&get("/")).await;
        if answer.status != 200 {
            break answer;
        }
        answered += 1;
    };
    assert_eq!((refused.status, refused.reason()), (503, Some("SpoolFull")));
    assert_eq!(origin.seen.requests.lock().len(), answered);
    house.controller.deaf(false);
    assert_eq!(house.records(answered).await.len(), answered);
    until("it is ready again", || house.activator.health.is_ready().then_some(())).await;
    assert_eq!(house.activator.call(&get("/")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_record_is_in_the_file_before_the_response_ends() {
    let house = House::new().await;
    let origin = Origin::echo().await;
    house.publish(ready("hello", origin.addr, 1)).await;
    house.controller.deaf(true);
    let size = || -> u64 {
        let files = std::fs::read_dir(house.folder.path()).unwrap().flatten();
        files.filter(|f| f.path().extension().is_some_and(|e| e == "seg")).map(|f| f.metadata().unwrap().len()).sum()
    };
    let mut before = size();
    for _ in 0..20 {
        assert_eq!(house.activator.call(&get("/")).await.status, 200);
        let now = size();
        assert!(now > before);
        before = now;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_lost_its_memory_gets_what_is_left_and_nothing_twice() {
    // Segments of 4 KiB: those that are acknowledged are trimmed.
    let house = House::with(|c| c.spool_max_bytes = 32 << 10).await;
    let origin = Origin::echo().await;
    house.publish(ready("hello", origin.addr, 1)).await;
    for n in 1..=400 {
        assert_eq!(house.activator.call(&get("/")).await.status, 200);
        if n % 100 == 0 {
            house.records(n).await;
        }
    }
    house.controller.forget();
    for _ in 0..50 {
        assert_eq!(house.activator.call(&get("/")).await.status, 200);
    }
    let records = until("the last call is recorded", || {
        Some(house.controller.records()).filter(|r| r.iter().any(|(_, r)| r.call == 450))
    })
    .await;
    let after: Vec<u64> = records[400..].iter().map(|(_, r)| r.call).collect();
    assert!(after.windows(2).all(|w| w[1] == w[0] + 1) && after.ends_with(&[450]), "{after:?}");
    let epochs = house.controller.epochs();
    assert!(
        epochs.iter().any(|e| e.0 != house.activator.identity.activator && e.2 == after.len() as u64),
        "{epochs:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_fails_at_the_end_is_tried_again_until_the_limit() {
    let house = House::with(|c| c.ship_limit = std::time::Duration::from_secs(60)).await;
    let origin = Origin::echo().await;
    house.publish(ready("hello", origin.addr, 1)).await;
    house.controller.deaf(true);
    for _ in 0..5 {
        assert_eq!(house.activator.call(&get("/")).await.status, 200);
    }
    house.activator.ask_to_stop();
    let addr = house.activator.addr;
    until("no calls are taken", || std::net::TcpStream::connect(addr).err()).await;
    let before = house.controller.unheard();
    until("it goes on trying", || (house.controller.unheard() >= before + 3).then_some(())).await;
    house.controller.deaf(false);
    let House { controller, activator, .. } = house;
    activator.stop().await;
    assert_eq!(controller.records().len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_the_ledger_never_takes_holds_up_nothing() {
    let house = House::new().await;
    let origin = Origin::echo().await;
    house.publish(ready("hello", origin.addr, 1)).await;
    assert_eq!(house.activator.call(&get("/")).await.status, 200);
    house.records(1).await;
    house.controller.poison(Some(2));
    assert_eq!(house.activator.call(&get("/")).await.status, 200);
    let kept = || std::fs::read_dir(house.folder.path()).unwrap().flatten().map(|f| f.path());
    until("a copy is kept", || kept().find(|p| p.extension().is_some_and(|e| e == "bad"))).await;
    assert_eq!(house.activator.call(&get("/")).await.status, 200);
    let calls: Vec<_> = house.records(2).await.iter().map(|(_, r)| r.call).collect();
    assert_eq!(calls, [1, 3]);
    // The next life reads the same file, and ships none of it again.
    let House { controller, activator, folder } = house;
    activator.stop().await;
    let second = Running::start(&controller.url(), folder.path(), |_| {}).await;
    let house = House { controller, activator: second, folder };
    until("routes are known", || house.activator.health.is_ready().then_some(())).await;
    assert_eq!(house.activator.call(&get("/")).await.status, 200);
    let calls: Vec<_> = house.records(3).await.iter().map(|(_, r)| r.call).collect();
    assert_eq!(calls, [1, 3, 1]);
}
