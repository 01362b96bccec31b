//! The office between a scripted fleet and a real gRPC client, in one process and in paused time: what an activator says
//! becomes effects, what the fleet says becomes routes.

mod common;

use common::{Asked, House, calls, function, function_with, instance, next, on_instance, pool, with_token, workload};
use dormouse_controller::fleet::{Claim, Event, Instance, Phase, PoolKey};
use dormouse_controller::tenants::{LABEL, Tenants};
use dormouse_controller::through::HOLD;
use dormouse_core::function::{Function, State};
use dormouse_core::revision::Revision;
use dormouse_proto::v1::ledger_client::LedgerClient;
use dormouse_proto::v1::routes_client::RoutesClient;
use dormouse_proto::v1::{self, InstanceState};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tonic::Code;

#[tokio::test(start_paused = true)]
async fn a_waiting_call_becomes_an_instance_and_silence_ends_it() {
    let mut house = House::new().await;
    let mut routes = house.routes().await;
    let demand = house.report().await;
    house.see(Event::Function(function())).await;
    house.see(Event::Synced).await;
    let first = routes.message().await.unwrap().unwrap();
    assert!(first.snapshot);
    assert_eq!(first.functions[0].hosts, ["hello.default.localhost", "hello.default"]);
    assert_eq!([house.asked().await, house.asked().await], [Asked::Prepare, Asked::Report(Some(State::Idle))]);
    assert_eq!(house.asked().await, Asked::Report(Some(State::Idle)), "prepared: no longer Unknown");
    house.see(workload(0)).await;

    demand.send(calls(3, 0)).await.unwrap();
    assert_eq!(house.asked().await, Asked::Scale(1, vec![]));
    house.see(workload(1)).await;
    house.see(Event::Instance(instance(Phase::Starting))).await;
    assert_eq!(house.asked().await, Asked::Report(Some(State::Waking)));
    house.see(Event::Instance(instance(Phase::Running))).await;
    assert_eq!(next(&mut routes).await.1, [InstanceState::Starting], "activators dial it themselves");
    demand.send(on_instance(3)).await.unwrap();
    assert_eq!(next(&mut routes).await.1, [InstanceState::Ready]);
    assert_eq!(house.asked().await, Asked::Report(Some(State::Active)));
    let of = |state: &str| format!("dormouse_replicas{{namespace=\"default\",function=\"hello\",state=\"{state}\"}}");
    let mut lines = house.metrics("dormouse_replicas{");
    lines.sort();
    assert_eq!(lines, [format!("{} 1", of("ready")), format!("{} 0", of("starting"))]);
    for phase in ["start", "ready"] {
        let line = format!("dormouse_cold_start_duration_seconds_count{{phase=\"{phase}\"}} 1");
        assert_eq!(house.metrics("seconds_count{").iter().filter(|l| **l == line).count(), 1, "{line}");
    }
    assert!(house.metrics("dormouse_reconcile_duration_seconds_count")[0].ends_with(|c: char| c != '0'));

    demand.send(calls(0, 3)).await.unwrap();
    demand.send(on_instance(0)).await.unwrap();
    demand.send(calls(0, 0)).await.unwrap();
    let (version, draining) = next(&mut routes).await;
    assert_eq!(draining, [InstanceState::Draining], "the window is over");
    assert_eq!(house.asked().await, Asked::Report(Some(State::Draining)));
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(house.asked.try_recv().is_err(), "not before the activator acts by it");
    demand.send(v1::DemandReport { applied_version: version, ..Default::default() }).await.unwrap();
    assert_eq!(house.asked().await, Asked::Scale(0, vec!["pod".into()]));
    house.see(workload(0)).await;
    house.see(Event::Instance(instance(Phase::Ending))).await;
    assert_eq!(house.asked().await, Asked::Retire("pod".into()));
    house.see(Event::InstanceGone("i".into())).await;
    assert_eq!(next(&mut routes).await.1, []);
    assert_eq!(house.asked().await, Asked::Report(Some(State::Idle)));
    let left: Vec<_> = house.metrics("dormouse_replicas{").into_iter().filter(|l| !l.ends_with(" 0")).collect();
    assert_eq!(left, [""; 0]);
    house.see(Event::FunctionGone("f".into())).await;
    house.see(Event::WorkloadGone("f".into(), Revision::of(&function().spec))).await;
    assert_eq!(routes.message().await.unwrap().unwrap().removed, ["f"]);
    assert_eq!(house.metrics("hello"), [""; 0], "the series go with the function");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_while_a_claimed_pod_starts_but_for_long() {
    for opens in [true, false] {
        let mut house = House::new().await;
        let demand = house.report().await;
        house.see(Event::Function(function())).await;
        for event in pool() {
            house.see(event).await;
        }
        house.see(workload(0)).await;
        house.see(Event::Synced).await;
        assert_eq!(house.asked().await, Asked::Report(Some(State::Idle)));
        demand.send(calls(1, 0)).await.unwrap();
        assert_eq!(house.asked().await, Asked::Graft("parked".into()));
        if opens {
            demand.send(on_instance(1)).await.unwrap();
        }
        let told = if opens { State::Active } else { State::Waking };
        assert_eq!(house.asked().await, Asked::Report(Some(told)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_whose_code_was_never_sent_is_replaced_after_a_restart() {
    for opens in [false, true] {
        let mut house = House::new().await;
        let demand = house.report().await;
        let [pool, _] = pool();
        let claim = Claim {
            pool: PoolKey { namespace: "default".into(), name: "small".into() },
            taken: true,
            owned: true,
            shrunk: true,
            loaded: None,
            sent: true,
        };
        let claimed = Instance { claim: Some(claim), ..instance(Phase::Running) };
        for event in [Event::Function(function()), pool, workload(0), Event::Instance(claimed)] {
            house.see(event).await;
        }
        demand.send(calls(1, 0)).await.unwrap();
        // It is heard: else the controller would dial the pod itself.
        tokio::time::sleep(Duration::from_millis(10)).await;
        house.see(Event::Synced).await;
        if opens {
            demand.send(on_instance(1)).await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        let asked: Vec<Asked> = std::iter::from_fn(|| house.asked.try_recv().ok()).collect();
        let replaced = [Asked::LookInto("pod".into()), Asked::Scale(1, vec![])].map(|one| asked.contains(&one));
        assert_eq!(replaced, [!opens; 2], "{asked:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_start_may_wait_for_is_made_again_now_and_then() {
    let mut house = House::new().await;
    let demand = house.report().await;
    let source = json!({"runtime": "nodejs", "handler": "a.b", "inline": "x"});
    let function = function_with(json!({"image": null, "source": source}));
    let revision = Revision::of(&function.spec);
    house.see(Event::Function(function)).await;
    house.see(Event::Synced).await;
    demand.send(calls(1, 0)).await.unwrap();
    house.see(Event::Instance(Instance { revision, ..instance(Phase::Starting) })).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let asked: Vec<Asked> = std::iter::from_fn(|| house.asked.try_recv().ok()).collect();
    let count = |one: Asked| asked.iter().filter(|asked| **asked == one).count();
    assert_eq!((count(Asked::Prepare), count(Asked::Mend)), (1, 2), "after 5 s and after 35: {asked:?}");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_routed_before_all_is_known_and_nothing_without_the_token() {
    let house = House::new().await;
    let mut routes = house.routes().await;
    house.see(Event::Function(function())).await;
    assert!(tokio::time::timeout(Duration::from_secs(60), routes.message()).await.is_err(), "not synced");
    house.see(Event::Synced).await;
    assert_eq!(routes.message().await.unwrap().unwrap().functions.len(), 1);
    let request = v1::WatchRequest { activator: 1, name: "a".into(), ..Default::default() };
    let refused = RoutesClient::new(house.channel.clone()).watch(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let mut ledger = LedgerClient::new(house.channel.clone());
    let frame = v1::Frame { activator: 1, epoch: 1, first_seq: 1, ..Default::default() };
    let code = ledger.append(with_token(frame.clone())).await.unwrap_err().code();
    assert!(matches!(code, Code::Unavailable | Code::InvalidArgument), "{code:?}");
    assert_eq!(ledger.append(frame).await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test(start_paused = true)]
async fn an_activator_that_comes_back_is_believed_whole() {
    let mut house = House::new().await;
    house.see(Event::Function(function())).await;
    house.see(workload(0)).await;
    house.see(Event::Synced).await;
    assert_eq!(house.asked().await, Asked::Report(Some(State::Idle)));
    let demand = house.report().await;
    demand.send(calls(0, 9)).await.unwrap();
    assert_eq!(house.asked().await, Asked::Scale(2, vec![]));
    assert_eq!(house.asked().await, Asked::Report(Some(State::Waking)));
    house.see(workload(2)).await;
    // It comes back with nothing: its calls are over, and the two that never ran are not wanted after the window.
    let again = house.report().await;
    assert_eq!(house.asked().await, Asked::Scale(0, vec![]));
    drop((demand, again));
}

#[tokio::test(start_paused = true)]
async fn a_deleted_function_is_let_go_when_nothing_is_left() {
    let mut house = House::new().await;
    let mut routes = house.routes().await;
    house.see(Event::Function(function())).await;
    house.see(workload(0)).await;
    house.see(Event::Synced).await;
    assert!(!routes.message().await.unwrap().unwrap().functions[0].closing);
    assert_eq!(house.asked().await, Asked::Report(Some(State::Idle)));
    let mut deleted = Function::clone(&function());
    deleted.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    house.see(Event::Function(Arc::new(deleted))).await;
    assert!(routes.message().await.unwrap().unwrap().functions[0].closing);
    assert_eq!([house.asked().await, house.asked().await], [Asked::Remove, Asked::Report(Some(State::Draining))]);
    house.see(Event::WorkloadGone("f".into(), Revision::of(&function().spec))).await;
    assert_eq!(house.asked().await, Asked::Release);
    house.see(Event::FunctionGone("f".into())).await;
    assert_eq!(routes.message().await.unwrap().unwrap().removed, ["f"]);
}

/// Who pays is known before anything is routed; a changed label counts from then on, and nothing is started anew for it.
#[tokio::test(start_paused = true)]
async fn a_function_is_routed_once_its_tenant_is_known_and_follows_it() {
    let tenants = Tenants::labelled();
    let label = |tenant: &str| [(LABEL.to_owned(), tenant.to_owned())].into();
    let mut house = House::with(tenants.clone()).await;
    let mut routes = house.routes().await;
    house.see(Event::Function(function())).await;
    house.see(workload(1)).await;
    house.see(Event::Instance(instance(Phase::Running))).await;
    house.see(Event::Synced).await;
    assert_eq!(routes.message().await.unwrap().unwrap().functions, [], "nobody knows who pays");
    let told = async |labels: Option<&_>| {
        assert!(tenants.see("default", labels));
        house.events.send(Event::Tenant { namespace: "default".to_owned() }).await.unwrap();
    };
    for (labels, payer) in [(Some(label("team")), "team"), (Some(label("other")), "other"), (None, "default")] {
        told(labels.as_ref()).await;
        let update = routes.message().await.unwrap().unwrap();
        let function = &update.functions[0];
        assert_eq!((function.tenant.as_str(), function.instances.len()), (payer, 1), "{:?}", update.functions);
    }
    // Of another namespace, and of one that is gone while its function is still there.
    assert!(tenants.see("else", None));
    house.see(Event::Tenant { namespace: "else".to_owned() }).await;
    tenants.forget("default");
    house.see(Event::Function(function())).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let asked: Vec<Asked> = std::iter::from_fn(|| house.asked.try_recv().ok()).collect();
    assert!(!asked.iter().any(|a| matches!(a, Asked::Prepare | Asked::Remove)), "{asked:?}");
    let mut later = house.routes_of(2, "b").await;
    assert_eq!(later.message().await.unwrap().unwrap().functions[0].tenant, "default", "the last one known");
}

/// What activators tell becomes how far records are complete; one whose place is gone, and its spool with it, counts no more.
#[tokio::test(start_paused = true)]
async fn records_are_complete_as_far_as_every_activator_says() {
    let house = House::new().await;
    house.see(Event::Synced).await;
    let mut ledger = LedgerClient::new(house.channel.clone());
    let mut tell = async |activator: u64, name: &str, complete_through_us: i64, over: bool| {
        let progress = v1::Progress { activator, epoch: 1, name: name.to_owned(), complete_through_us, over };
        ledger.tell(with_token(progress)).await.map(drop)
    };
    tell(1, "a", 500, false).await.unwrap();
    assert_eq!(house.through.at_us(), None, "others may come back");
    tokio::time::sleep(HOLD).await;
    assert_eq!(house.through.at_us(), Some(500));
    // It watches, so calls may come to it: nothing later is promised before it has said something.
    let _routes = house.routes_of(2, "b").await;
    tell(1, "a", 900, false).await.unwrap();
    assert_eq!(house.through.at_us(), Some(500));
    tell(2, "b", 800, false).await.unwrap();
    assert_eq!(house.through.at_us(), Some(800));
    let gone = |lost| Event::ActivatorGone { name: "b".into(), lost };
    house.see(gone(false)).await;
    tell(1, "a", 1000, false).await.unwrap();
    assert_eq!(house.through.at_us(), Some(800), "its process has ended, and may have left records");
    house.see(gone(true)).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(house.through.at_us(), Some(1000), "they are lost");
    tell(1, "a", 1000, true).await.unwrap();
    assert_eq!(house.through.at_us(), None, "nobody is there");
    assert_eq!(tell(1, "", 1, false).await.unwrap_err().code(), Code::InvalidArgument);
    let untold = LedgerClient::new(house.channel.clone()).tell(v1::Progress::default()).await.unwrap_err();
    assert_eq!(untold.code(), Code::Unauthenticated);
}
