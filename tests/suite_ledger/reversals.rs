//! What every store must do with records that are taken back.

use crate::conformance::{by_the_call, statement_of};
use crate::data::{HOUR_US, NOVEMBER, all_hours, all_records, frame_of, open, record, subjects};
use dormouse_controller::ledger::reversals::{MAX_AT_ONCE, Order, RecordId, Reversed};
use dormouse_controller::ledger::statements::{REVERSALS, State, Statement};
use dormouse_controller::ledger::{Filter, Ledger, Place, Plans, RecordKey};
use dormouse_core::price::{PricePlan, Tiers};
use dormouse_core::record::{CallRecord, Outcome};
use dormouse_core::usage::UsageSum;
use rust_decimal::Decimal;

/// A billed call of shop/cart in the hour so many after the beginning of November.
fn call(seq: u64, hour: u32) -> CallRecord {
    let received_at_us = i64::from(NOVEMBER + hour) * HOUR_US + seq as i64;
    CallRecord { subject: 0, outcome: Outcome::Ok, warm_slots: 0, key: 0, received_at_us, ..record(seq) }
}

fn id(seq: u64, hour: u32) -> RecordId {
    RecordId { activator: 1, epoch: 1, seq, received_at_us: call(seq, hour).received_at_us }
}

async fn reverse(ledger: &Ledger, ids: &[RecordId]) -> Vec<Reversed> {
    let at = "2026-11-20T00:00:00Z".parse().unwrap();
    ledger.reverse(ids, Order { by: "alice", reason: "an outage of ours", at }).await.unwrap()
}

/// What stands in the line of what is taken back, and the total.
fn taken_back(statement: &Statement) -> (Vec<String>, String) {
    let lines = statement.lines.iter().filter(|line| line.item == REVERSALS);
    (lines.map(|line| line.amount.to_string()).collect(), statement.total.to_string())
}

async fn list(ledger: &Ledger, filter: &Filter) -> Vec<(u64, String, String)> {
    let (all, more) = ledger.reversals(filter, &(0..i64::MAX), (None, 1_000)).await.unwrap();
    assert!(!more);
    all.into_iter().map(|reversal| (reversal.id.seq, reversal.by, reversal.reason)).collect()
}

pub async fn a_record_is_taken_back_once(place: &Place) {
    let ledger = open(place).await;
    let calls: Vec<_> = (1..=10).map(|seq| call(seq, seq as u32 % 3)).collect();
    ledger.append(frame_of(1, 1, &calls, subjects())).await.unwrap();
    let usage = ledger.usage(&all_hours()).await.unwrap().rows;
    let of = |seq: u64| id(seq, seq as u32 % 3);
    assert_eq!(statement_of(&ledger, "shop", "2026-11").await.0.total.to_string(), "10.00");
    assert_eq!(reverse(&ledger, &[of(3), of(4)]).await, [Reversed::Now, Reversed::Now]);
    assert_eq!(reverse(&ledger, &[of(4), of(5), of(5)]).await, [Reversed::Before, Reversed::Now, Reversed::Before]);
    let elsewhere = RecordId { received_at_us: of(6).received_at_us + 1, ..of(6) };
    let others = [of(11), elsewhere, RecordId { activator: 2, ..of(6) }, RecordId { epoch: 2, ..of(6) }];
    assert_eq!(reverse(&ledger, &others).await, [Reversed::Unknown; 4]);
    drop(ledger);
    let ledger = open(place).await;
    assert_eq!(reverse(&ledger, &[of(3)]).await, [Reversed::Before]);
    let statement = statement_of(&ledger, "shop", "2026-11").await.0;
    assert_eq!(taken_back(&statement), (vec!["-3.00".to_owned()], "7.00".to_owned()));
    assert_eq!((statement.calls, statement.billed_calls, statement.reversed_calls), (10, 10, 3));
    // The record and its sums stay as they came, and the record says that it is taken back.
    assert_eq!(ledger.usage(&all_hours()).await.unwrap().rows, usage);
    assert!(ledger.verify().await.unwrap().holds());
    let rows = ledger.records(&all_records()).await.unwrap().rows;
    let mut reversed: Vec<u64> = ledger.reversed_among(&rows).await.unwrap().into_keys().map(|id| id.seq).collect();
    reversed.sort_unstable();
    assert_eq!((rows.len(), reversed), (10, vec![3, 4, 5]));
    let of_alice = |seq| (seq, "alice".to_owned(), "an outage of ours".to_owned());
    assert_eq!(list(&ledger, &Filter::default()).await, [3, 4, 5].map(of_alice));
    assert_eq!(list(&ledger, &Filter { tenants: vec!["blog".into()], ..Filter::default() }).await, []);
    let (first, more) = ledger.reversals(&Filter::default(), &(0..i64::MAX), (None, 2)).await.unwrap();
    let (last, _) = ledger.reversals(&Filter::default(), &(0..i64::MAX), (Some(first[1].id), 2)).await.unwrap();
    assert_eq!((first.len(), more, last.len(), last[0].id), (2, true, 1, of(5)));
    for (ids, reason) in [(vec![], "x"), (vec![of(1); MAX_AT_ONCE + 1], "x"), (vec![of(1)], "")] {
        let order = Order { by: "alice", reason, at: jiff::Timestamp::UNIX_EPOCH };
        assert!(ledger.reverse(&ids, order).await.is_err());
    }
}

/// In a month that is closed nothing changes; the first open one corrects it, once.
pub async fn what_is_taken_back_of_a_closed_month_is_a_correction(place: &Place) {
    let ledger = open(place).await;
    let calls: Vec<_> = (1..=10).map(|seq| call(seq, 0)).collect();
    ledger.append(frame_of(1, 1, &calls, subjects())).await.unwrap();
    reverse(&ledger, &[id(1, 0)]).await;
    let close = async |now: &str| ledger.close_months(&by_the_call(), 3, now.parse().unwrap()).await.unwrap();
    close("2026-12-04T00:00:00Z").await;
    let november = statement_of(&ledger, "shop", "2026-11").await;
    assert_eq!((november.0.state, november.0.total.to_string().as_str()), (State::Closed, "9.00"));
    assert_eq!(reverse(&ledger, &[id(2, 0), id(3, 0), id(1, 0)]).await[..2], [Reversed::Now; 2]);
    assert_eq!(statement_of(&ledger, "shop", "2026-11").await, november, "to the byte");
    let correction = async |month: &str| {
        let statement = statement_of(&ledger, "shop", month).await.0;
        statement.corrections.into_iter().map(|c| (c.period, c.amount.to_string())).collect::<Vec<_>>()
    };
    let expected = [("2026-11".to_owned(), "-2.00".to_owned())];
    assert_eq!(correction("2026-12").await, expected);
    close("2027-01-04T00:00:00Z").await;
    assert_eq!((correction("2026-12").await, correction("2027-01").await), (expected.to_vec(), vec![]));
    reverse(&ledger, &[id(4, 0)]).await;
    assert_eq!(correction("2027-01").await, [("2026-11".to_owned(), "-1.00".to_owned())]);
    assert_eq!(list(&ledger, &Filter::default()).await.len(), 4);
}

/// What a month costs without them is what it would have cost if they had not come: by tiers, free usage and rounding.
pub async fn what_is_taken_back_costs_as_if_it_had_not_come(place: &Place) {
    let per_call = |free: u64| {
        let mut plan = by_the_call().in_force().clone();
        plan.free.calls = Decimal::from(free);
        plan.per_call = Tiers::flat(Decimal::new(337, 3));
        plan
    };
    let ledger = open(place).await;
    let calls: Vec<_> = (1..=60).map(|seq| call(seq, seq as u32 / 20)).collect();
    ledger.append(frame_of(1, 1, &calls, subjects())).await.unwrap();
    let mut left: Vec<u64> = (1..=60).collect();
    for taken in [vec![7], vec![1, 2, 3, 20, 40], (41..=60).collect(), (1..=39).collect()] {
        reverse(&ledger, &taken.iter().map(|seq| id(*seq, *seq as u32 / 20)).collect::<Vec<_>>()).await;
        left.retain(|seq| !taken.contains(seq));
        for free in [0, 5, 50] {
            let plan = per_call(free);
            let mut rest = UsageSum::default();
            left.iter().for_each(|seq| rest.add(&call(*seq, 0), (512, 100), &[plan.metering()]));
            let now = "2026-11-20T00:00:00Z".parse().unwrap();
            let answer =
                ledger.statement("shop", "2026-11".parse().unwrap(), &Plans::from(plan.clone()), None, now).await;
            let statement = answer.unwrap().statement;
            assert_eq!(statement.total, plan.statement(&rest).unwrap().total, "{taken:?}, {free} free");
            let lines = statement.lines.iter().map(|line| line.amount);
            assert_eq!(lines.sum::<Decimal>(), statement.total);
        }
    }
}

/// A record is taken out of the times that it was counted in, and no others.
pub async fn a_rule_that_was_not_in_use_loses_nothing(place: &Place) {
    let coarse = PricePlan { name: "coarse".into(), step_ms: 1_000, ..PricePlan::default() };
    let ledger = open(place).await;
    ledger.append(frame_of(1, 1, &[call(1, 0), call(2, 0)], subjects())).await.unwrap();
    drop(ledger);
    let plans = Plans::new(PricePlan::default(), vec![coarse.clone()]);
    let ledger = Ledger::open(place.clone(), plans.clone()).await.unwrap();
    ledger.append(frame_of(1, 3, &[call(3, 1)], subjects())).await.unwrap();
    reverse(&ledger, &[id(1, 0)]).await;
    let now = "2026-11-20T00:00:00Z".parse().unwrap();
    let answer = ledger.statement("shop", "2026-11".parse().unwrap(), &plans, Some(&coarse), now).await.unwrap();
    let mut left = UsageSum::default();
    left.add(&call(2, 0), (512, 100), &[PricePlan::default().metering()]);
    left.add(&call(3, 1), (512, 100), &[coarse.metering()]);
    assert_eq!(answer.statement.total, coarse.statement(&left).unwrap().total);
    assert_eq!((answer.statement.billed_calls, answer.statement.unmetered_calls), (3, 2));
}

/// Whose record it is when its page is far behind others.
pub async fn a_record_is_found_among_many(place: &Place) {
    let ledger = open(place).await;
    let calls: Vec<_> = (1..=3_000).map(|seq| call(seq, seq as u32 / 2_000)).collect();
    for (at, calls) in calls.chunks(500).enumerate() {
        ledger.append(frame_of(1, at as u64 * 500 + 1, calls, subjects())).await.unwrap();
        ledger.append(frame_of(9, at as u64 * 500 + 1, calls, subjects())).await.unwrap();
    }
    let ids = [id(2_999, 1), id(1, 0), RecordId { activator: 9, ..id(1_999, 0) }];
    assert_eq!(reverse(&ledger, &ids).await, [Reversed::Now; 3]);
    let rows = ledger.records(&all_records()).await.unwrap().rows;
    let reversed = ledger.reversed_among(&rows).await.unwrap();
    let keys = rows.iter().filter(|row| reversed.contains_key(&RecordId::of(row))).map(|row| row.key);
    let keys: Vec<_> = keys.map(|RecordKey { activator, seq, .. }| (activator, seq)).collect();
    assert_eq!(keys, [(1, 1), (9, 1_999), (1, 2_999)]);
}
