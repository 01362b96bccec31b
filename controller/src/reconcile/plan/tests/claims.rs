//! Pods of a warm pool: claimed first, left last in nothing.

use super::*;
use crate::fleet::PoolKey;
use crate::reconcile::claims::{CALM, OWN, SETTLE, TAKE};

fn parked(n: u32) -> Parked {
    let pool = PoolKey { namespace: "default".into(), name: "small".into() };
    Parked {
        id: format!("p{n}").as_str().into(),
        name: format!("p{n}"),
        pool,
        ip: [10, 0, 1, n as u8].into(),
        size: (256, 100),
        runtime: None,
        restarts: 0,
    }
}

/// One call at a time, asleep, and so many parked pods.
fn asleep(pods: u32) -> World {
    let mut world = World::new(function(json!({"concurrency": 1})));
    world.parked = (1..=pods).map(parked).collect();
    world.settle();
    world.asked.clear();
    world
}

/// The same, woken by a call that is on its way to the first of them.
fn woken(pods: u32) -> World {
    let mut world = asleep(pods);
    world.demand(1);
    world.settle();
    world.take("p1");
    world.first_call("p1");
    world.settle();
    world
}

impl World {
    fn take(&mut self, id: &str) {
        self.change(&id.into(), |i| i.claim.as_mut().unwrap().taken = true);
    }

    /// A call is on its way to it.
    fn first_call(&mut self, id: &str) {
        let said = InstanceSaid { open: true, in_flight: 1, first_call: true, ..Default::default() };
        self.observed.instance_demand(&id.into(), said, self.now);
    }

    fn asked(&mut self) -> Vec<String> {
        std::mem::take(&mut self.asked)
    }

    fn made(&self) -> usize {
        self.observed.instances.values().filter(|i| i.is_live() && i.claimed.is_none()).count()
    }

    /// Until nothing is left to be done, activators acting by what they are told.
    fn follow(&mut self) {
        for _ in 0..4 {
            self.settle();
            self.acknowledge();
            self.gone();
        }
    }
}

#[test]
fn a_wake_takes_parked_pods_first() {
    let mut world = asleep(2);
    world.demand(5);
    let plan = world.step();
    assert_eq!(world.asked(), ["claim p1", "claim p2", "graft", "graft", "scale 3"]);
    assert_eq!(plan.route.unwrap().instances, [], "it may become another function's yet");
    // Where they are is told as soon as the pods are the function's.
    let told = world.plan().route.unwrap().instances;
    assert_eq!(told.iter().map(|i| i.address.as_str()).collect::<Vec<_>>(), ["10.0.1.1:8080", "10.0.1.2:8080"]);
    assert!(told.iter().all(|i| i.state() == v1::InstanceState::Starting && i.slots == 1));
    world.settle();
    assert_eq!(world.asked(), [""; 0]);
}

#[test]
fn a_pod_leaves_its_pool_once_a_call_is_on_its_way() {
    let mut world = asleep(1);
    world.demand(1);
    world.settle();
    assert_eq!(world.asked(), ["claim p1", "graft"]);
    world.take("p1");
    world.first_call("p1");
    world.settle();
    assert_eq!(world.asked(), ["own"]);
    // Without a call it is taken out all the same.
    let mut world = asleep(1);
    world.demand(1);
    assert_eq!(world.settle().look_again_at, Some(TAKE));
    world.take("p1");
    assert_eq!(world.settle().look_again_at, Some(OWN));
    world.now = OWN;
    world.asked();
    world.settle();
    assert_eq!(world.asked(), ["own"]);
}

#[test]
fn a_loaded_pod_leaves_its_pool_a_moment_after_its_claim() {
    let mut world = asleep(1);
    world.parked[0].runtime = Some(dormouse_core::function::Runtime::Nodejs);
    world.demand(1);
    world.settle();
    // It runs already: no node has to begin with it.
    world.now = TAKE;
    world.first_call("p1");
    world.settle();
    assert_eq!(world.asked(), ["claim p1", "graft", "own"]);

    let mut world = asleep(1);
    world.parked[0].runtime = Some(dormouse_core::function::Runtime::Nodejs);
    world.demand(1);
    world.first_call("p1");
    world.settle();
    world.first_call("p1");
    assert_eq!(world.settle().look_again_at, Some(CALM));
    assert_eq!(world.asked(), ["claim p1", "graft"]);
}

/// Who waits is told at once that the code does not work; what comes next is for the function's own pods to try.
#[test]
fn broken_code_in_a_claimed_pod_is_told_at_once() {
    let mut world = asleep(1);
    world.demand(1);
    world.settle();
    world.asked();
    world.change(&"p1".into(), |i| i.trouble = Some(Trouble::new(Code::HandlerFailed, "SyntaxError: index.js:1")));
    let failure = world.plan().route.unwrap().failure.unwrap();
    assert_eq!((failure.code.as_str(), failure.status), ("HandlerFailed", 502));
    world.settle();
    assert_eq!(world.asked(), ["scale 1"]);
}

/// An API server that stands still: activators see the port open long before the pod's status says that it runs.
#[test]
fn a_port_that_is_open_is_proof_enough() {
    let mut world = asleep(1);
    world.demand(1);
    world.settle();
    world.first_call("p1");
    world.settle();
    world.now = TAKE + S(1);
    world.asked();
    world.settle();
    assert_eq!(world.asked(), [""; 0]);
    assert_eq!(world.states(), [("p1".into(), v1::InstanceState::Ready)]);
}

#[test]
fn a_pod_that_no_node_begins_with_is_given_up() {
    let mut world = asleep(2);
    world.parked.truncate(1);
    world.demand(1);
    world.settle();
    world.asked();
    world.parked = vec![parked(2)];
    world.now = TAKE;
    world.settle();
    assert_eq!(world.asked(), ["scale 1"], "the workload is next, the pool may be of the same node");
    world.acknowledge();
    world.settle();
    assert_eq!(world.asked(), ["retire"], "the pod is deleted once nobody may send it a call");
}

#[test]
fn what_crashes_in_a_claimed_pod_is_started_by_the_workload() {
    let mut world = asleep(3);
    world.demand(1);
    world.settle();
    world.take("p1");
    world.asked();
    world.change(&"p1".into(), |i| {
        i.phase = Phase::Ending;
        i.trouble = Some(Trouble::new(Code::CrashLoop, "exit code 1"));
    });
    world.settle();
    assert_eq!(world.asked(), ["scale 1"]);
    world.acknowledge();
    world.settle();
    assert_eq!(world.asked(), ["retire"]);
    world.gone();
    // Its pause over, pods are claimed again.
    world.demand(0);
    world.now = S(11);
    world.follow();
    world.demand(1);
    world.asked();
    world.settle();
    assert_eq!(world.asked(), ["claim p2", "graft"]);
}

#[test]
fn a_refused_graft_is_not_tried_again() {
    let mut world = asleep(1);
    world.observed.claiming.refused = Some((world.observed.object.as_ref().unwrap().revision.clone(), "no".into()));
    world.demand(1);
    world.settle();
    assert_eq!(world.asked(), ["scale 1"]);
}

#[test]
fn claimed_pods_go_when_the_window_is_over() {
    let mut world = woken(1);
    world.in_flight(&"p1".into(), 0);
    world.demand(0);
    world.settle();
    world.asked();
    world.now = S(10);
    world.settle();
    assert_eq!(world.asked(), [""; 0], "an activator may still send it a call");
    world.acknowledge();
    world.settle();
    assert_eq!(world.asked(), ["retire"]);
    assert_eq!(world.made(), 0);
}

#[test]
fn demand_that_outlives_the_claim_moves_to_the_workload() {
    let mut world = woken(1);
    world.acknowledge();
    world.now = SETTLE;
    world.asked();
    world.demand(1);
    world.settle();
    assert_eq!(world.asked(), ["scale 1"]);
    // Until that takes calls, nothing changes for those that there are.
    assert_eq!(world.states(), [("p1".into(), v1::InstanceState::Ready)]);
    let made = world.ids().into_iter().find(|id| id.as_str() != "p1").unwrap();
    world.open(&made);
    world.settle();
    assert!(world.states().contains(&("p1".into(), v1::InstanceState::Draining)), "{:?}", world.states());
    assert!(world.states().contains(&(made.to_string(), v1::InstanceState::Ready)));
    assert_eq!(world.asked(), [""; 0], "its call runs on");
    world.acknowledge();
    world.in_flight(&"p1".into(), 0);
    world.settle();
    assert_eq!(world.asked(), ["retire"]);
}

/// Calls that are shorter than the time between two reports are told as peaks only.
#[test]
fn short_calls_outlive_the_claim_as_well() {
    let mut world = woken(1);
    world.acknowledge();
    world.in_flight(&"p1".into(), 0);
    world.observed.demand(0, 0, 0, world.now);
    world.now = SETTLE;
    world.settle();
    world.asked();
    world.observed.demand(0, 0, 1, world.now);
    world.settle();
    assert_eq!(world.asked(), ["scale 1"]);
}

#[test]
fn more_calls_beside_the_workload_are_served_by_the_pool() {
    let mut world = asleep(0);
    world.demand(1);
    world.settle();
    world.open_all();
    world.settle();
    world.asked();
    world.parked = vec![parked(1), parked(2)];
    world.demand(2);
    world.settle();
    assert_eq!(world.asked(), ["claim p1", "graft"]);
    assert_eq!(world.made(), 1);
    world.take("p1");
    world.open(&"p1".into());
    world.acknowledge();
    // One goes: the claimed one, though the other one is idle for longer.
    world.demand(1);
    world.now = S(10);
    world.follow();
    assert_eq!((world.asked(), world.made()), (vec!["own".to_owned(), "retire".into()], 1));
}

#[test]
fn a_claim_of_a_function_that_is_gone_is_removed() {
    let mut world = asleep(1);
    world.demand(1);
    world.settle();
    world.take("p1");
    world.observed.object = None;
    let urls = urls();
    let context = Context {
        now: world.now,
        wall: Timestamp::UNIX_EPOCH,
        applied: 0,
        watched: true,
        hold_until: S(0),
        urls: &urls,
        durability: Durability::Disk,
        parked: &[],
    };
    assert_eq!(plan(&world.observed, NOTHING, &context).effects.retire, [InstanceId::from("p1")]);
}

/// A function that is to have so many instances without calls.
fn warm(n: u32, pods: u32) -> World {
    let mut world = World::new(function(json!({"concurrency": 1, "warmUpConcurrency": n})));
    world.parked = (1..=pods).map(parked).collect();
    world.observed.look_at_clock(Timestamp::UNIX_EPOCH, S(0));
    world.settle();
    world
}

#[test]
fn warm_instances_are_the_workloads() {
    let mut world = warm(2, 2);
    assert_eq!(world.asked(), ["prepare", "scale 2"], "no call asks for a parked pod");
    world.open_all();
    world.settle();
    assert_eq!(world.observed.status.instances.unwrap().warm, 2);
    world.now = S(1000);
    world.settle();
    assert_eq!(world.asked(), [""; 0], "they stay without calls");
    // Calls up to that many need nothing.
    world.demand(2);
    world.settle();
    assert_eq!(world.asked(), [""; 0]);
}

#[test]
fn a_call_meanwhile_is_served_by_a_parked_pod() {
    let mut world = warm(2, 2);
    world.asked();
    world.demand(1);
    world.settle();
    assert_eq!(world.asked(), ["claim p1", "graft"], "none is ready yet");
    world.take("p1");
    world.first_call("p1");
    world.open_all();
    world.settle();
    world.acknowledge();
    world.in_flight(&"p1".into(), 0);
    world.demand(0);
    world.settle();
    assert_eq!(world.asked(), ["own", "retire"], "it goes once the warm ones are ready");
    // One of those is gone: it is made anew by whoever carries it, and a call meanwhile takes the next.
    world.observed.instance_gone(&"p1".into());
    let lost = world.ids()[0].clone();
    world.observed.instance_gone(&lost);
    let left: Vec<_> = world.ids();
    world.in_flight(&left[0], 1);
    world.demand(2);
    world.settle();
    assert_eq!(world.asked(), ["claim p2", "graft"]);
}

#[test]
fn less_warm_capacity_is_let_go_when_idle() {
    let mut world = warm(3, 0);
    world.open_all();
    world.settle();
    world.acknowledge();
    world.now = S(1000);
    world.settle();
    world.apply(function(json!({"concurrency": 1, "warmUpConcurrency": 1})));
    world.observed.look_at_clock(Timestamp::UNIX_EPOCH, world.now);
    world.asked();
    world.settle();
    assert_eq!(world.asked(), [""; 0], "activators may still send them calls");
    world.acknowledge();
    world.step();
    assert_eq!(world.asked(), ["scale 1"]);
}

#[test]
fn a_pod_that_is_being_deleted_gets_no_call() {
    let mut world = woken(1);
    world.acknowledge();
    world.in_flight(&"p1".into(), 0);
    world.demand(0);
    world.now = S(10);
    world.settle();
    world.acknowledge();
    world.asked();
    world.settle();
    assert_eq!(world.asked(), ["retire"]);
    // Before its end is seen a call comes.
    world.observed.instances.get_mut(&InstanceId::from("p1")).unwrap().claimed.as_mut().unwrap().given_up = true;
    world.parked = vec![parked(2)];
    world.demand(1);
    world.settle();
    assert_eq!(world.asked(), ["claim p2", "graft"]);
    assert!(world.states().contains(&("p1".into(), v1::InstanceState::Draining)));
}

#[test]
fn what_its_node_cannot_start_is_tried_by_the_workload() {
    let mut world = asleep(2);
    world.demand(1);
    world.settle();
    world.take("p1");
    world.asked();
    world.change(&"p1".into(), |i| i.trouble = Some(Trouble::new(Code::ConfigMissing, "it runs as root")));
    world.settle();
    assert_eq!(world.asked(), ["scale 1"]);
}

#[test]
fn claims_without_a_workload_are_let_go() {
    let mut world = asleep(1);
    world.demand(1);
    world.settle();
    world.take("p1");
    world.open(&"p1".into());
    world.acknowledge();
    world.observed.instances.get_mut(&InstanceId::from("p1")).unwrap().seen.revision = Revision::from("old");
    world.demand(0);
    world.now = S(100);
    world.follow();
    assert!(world.asked().contains(&"retire".to_owned()));
}
