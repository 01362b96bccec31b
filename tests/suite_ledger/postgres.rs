//! In PostgreSQL: one server for all tests, a database for each.

use crate::conformance::conformance;
use dormouse_controller::ledger::{AppendError, Ledger, Place};
use dormouse_core::price::PricePlan;
use dormouse_tests::postgres::Postgres;
use std::sync::Arc;
use tokio::sync::Mutex;

/// The server of the tests that run now: it ends with the last of them.
static SERVER: Mutex<std::sync::Weak<Postgres>> = Mutex::const_new(std::sync::Weak::new());

struct Home {
    server: Arc<Postgres>,
    url: String,
}

impl Home {
    fn place(&self) -> Place {
        Place::postgres(&self.url).unwrap()
    }

    fn database(&self) -> &str {
        self.url.rsplit('/').next().unwrap().split('?').next().unwrap()
    }
}

async fn home() -> Home {
    let mut running = SERVER.lock().await;
    let server = match running.upgrade() {
        Some(server) => server,
        None => Arc::new(Postgres::start().await.unwrap()),
    };
    *running = Arc::downgrade(&server);
    let url = server.database().unwrap();
    Home { server, url }
}

conformance!(home());

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_schema_is_left_alone() {
    let home = home().await;
    drop(crate::data::open(&home.place()).await);
    let sql = |statement: &str| home.server.sql(home.database(), statement).unwrap();
    sql("UPDATE dormouse.schema_version SET version = 99");
    let error = Ledger::open(home.place(), PricePlan::default()).await.unwrap_err().to_string();
    assert!(error.contains("version 99") && error.contains("127.0.0.1"), "{error}");
    assert_eq!(sql("SELECT version FROM dormouse.schema_version"), "99");
}

/// While the database is away frames are refused and stay with who sends them; when it is back they are applied once.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_goes_and_comes_back_is_gone_on_with() {
    let mut server = Postgres::start().await.unwrap();
    let place = Place::postgres(&server.database().unwrap()).unwrap();
    let ledger = crate::data::open(&place).await;
    ledger.append(crate::data::frame(1, 1..50)).await.unwrap();
    server.kill().unwrap();
    let refused = ledger.append(crate::data::frame(1, 50..100)).await.unwrap_err();
    assert!(matches!(refused, AppendError::Closed(_)), "{refused}");
    assert!(ledger.health().problem.is_some());
    server.run().await.unwrap();
    // The first connections that are tried may be those that broke.
    let mut applied = ledger.append(crate::data::frame(1, 50..100)).await;
    for _ in 0..20 {
        if applied.is_ok() {
            break;
        }
        applied = ledger.append(crate::data::frame(1, 50..100)).await;
    }
    assert_eq!(applied.map(|a| a.watermark), Ok(99));
    assert_eq!(ledger.health().problem, None);
    assert_eq!(crate::data::found(&ledger).await, crate::data::expected(1..100));
    assert!(ledger.verify().await.unwrap().holds());
}

/// Who stops waiting for an answer leaves nothing behind that others wait for.
#[tokio::test(flavor = "multi_thread")]
async fn frames_that_nobody_waits_for_hold_up_nothing() {
    let home = home().await;
    let ledger = crate::data::open(&home.place()).await;
    for n in 0..40 {
        let append = ledger.append(crate::data::frame(1, 1..400));
        tokio::select! {
            biased;
            () = tokio::time::sleep(std::time::Duration::from_micros(n * 100)) => {}
            _ = append => {}
        }
    }
    ledger.append(crate::data::frame(1, 1..500)).await.unwrap();
    assert_eq!(crate::data::found(&ledger).await, crate::data::expected(1..500));
    assert!(ledger.verify().await.unwrap().holds());
}

/// A person who reads the records for long holds up no frame, also one of a day that has no partition yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_holds_up_no_new_day() {
    let home = home().await;
    let ledger = crate::data::open(&home.place()).await;
    ledger.append(crate::data::frame(1, 1..10)).await.unwrap();
    let reading = home.server.begin(home.database(), "LOCK TABLE dormouse.record IN ACCESS SHARE MODE").unwrap();
    // The records of 700 are days later.
    ledger.append(crate::data::frame(1, 1..701)).await.unwrap();
    drop(reading);
    assert_eq!(crate::data::found(&ledger).await, crate::data::expected(1..701));
}

/// While one controller gives up and closes what is old, another one applies to it and reads it: nothing is counted twice
/// or missing at any moment.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_gives_up_the_other_counts_once() {
    use dormouse_controller::ledger::{Granularity, Retention, UsageQuery};
    let home = home().await;
    let [tidier, other] = [crate::data::open(&home.place()).await, crate::data::open(&home.place()).await];
    other.append(crate::data::frame(1, 1..2_001)).await.unwrap();
    let keep = Retention { hour_days: 1, record_days: 1, ..Retention::default() };
    let days = UsageQuery { granularity: Granularity::Total, ..crate::data::all_hours() };
    let giving = tokio::spawn(async move {
        for day in 1..6 {
            tidier.tidy(keep, crate::data::NOVEMBER + day * 24 + 5).await.unwrap();
        }
        tidier
    });
    let (mut applied, mut frames) = (2_000u64, 2u64);
    while !giving.is_finished() {
        other.append(crate::data::frame(frames, 1..101)).await.unwrap();
        (applied, frames) = (applied + 100, frames + 1);
        let rows = other.usage(&days).await.unwrap().rows;
        assert_eq!(rows.iter().map(|row| row.usage.calls()).sum::<u64>(), applied);
    }
    let tidier = giving.await.unwrap();
    let check = tidier.verify().await.unwrap();
    assert!(check.holds() && check.by_record == applied, "{check:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_writers_of_one_epoch_apply_each_record_once() {
    let home = home().await;
    let ledgers = [crate::data::open(&home.place()).await, crate::data::open(&home.place()).await];
    let writers: Vec<_> = ledgers
        .iter()
        .cloned()
        .map(|ledger| {
            tokio::spawn(async move {
                for first in (1..1_000).step_by(50) {
                    ledger.append(crate::data::frame(1, first..first + 60)).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let check = ledgers[0].verify().await.unwrap();
    assert!(check.holds() && check.by_record == 1_010, "{check:?}");
    assert_eq!(crate::data::found(&ledgers[1]).await, crate::data::expected(1..1_011));
    let people = home.server.sql(home.database(), "SELECT sum(calls) FROM dormouse.usage_by_hour").unwrap();
    assert_eq!(people, "1010");
}
