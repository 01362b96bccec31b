//! Data in, plan out; and a small world in which plans take effect, for what always holds.

mod claims;

use super::*;
use crate::demand::Demand;
use crate::fleet::{Code, FunctionUid, Instance, Workload};
use crate::reconcile::apply;
use crate::reconcile::observe::{InstanceSaid, LaneState};
use crate::routes::Routes;
use crate::shares::Shares;
use dormouse_core::function::{Function, SLEEP, State};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;
use serde_json::json;
use std::sync::Arc;

const S: fn(u64) -> Moment = Moment::from_secs;

fn function(spec: serde_json::Value) -> Function {
    let mut spec_all =
        json!({"image": "registry/hello:1", "idleTimeoutSeconds": 10, "concurrency": 2, "startCheck": "Never"});
    spec_all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    serde_json::from_value(json!({
        "apiVersion": "dormouse.dev/v1alpha1", "kind": "Function",
        "metadata": {"name": "hello", "namespace": "default", "uid": "f", "generation": 1,
            "finalizers": ["dormouse.dev/drain"]},
        "spec": spec_all
    }))
    .unwrap()
}

fn urls() -> Urls {
    Urls { domain: "localhost".into(), activator: "http://127.0.0.1:8080".into() }
}

/// No activator has shares here.
fn desk<'a>(routes: &'a Routes, shares: &'a mut Shares, demand: &'a Demand) -> apply::Desk<'a> {
    apply::Desk { routes, shares, demand, hold_until: S(0) }
}

/// A function, a fleet that does what it is asked, and activators that act by what they were told.
struct World {
    observed: Observed,
    routes: Routes,
    now: Moment,
    /// The version that the activators act by.
    applied: u64,
    watched: bool,
    next: u32,
    /// Pods of a pool that fit.
    parked: Vec<Parked>,
    /// What was asked for, in words.
    asked: Vec<String>,
    /// What the activators know, by the version they act by.
    view: Vec<v1::Instance>,
}

impl World {
    fn new(function: Function) -> Self {
        let mut observed = Observed::new("f".into());
        observed.tenant = Some("default".into());
        observed.function(Arc::new(function), |f| Revision::of(&f.spec), true, S(0));
        Self {
            observed,
            routes: Routes::default(),
            now: S(0),
            applied: 0,
            watched: true,
            next: 0,
            asked: Vec::new(),
            parked: Vec::new(),
            view: Vec::new(),
        }
    }

    fn plan(&mut self) -> Plan {
        self.observed.settle(self.now);
        let policy = self.observed.policy().unwrap();
        let decision = self.observed.scaler.decide(self.now, &policy);
        let (urls, fitting) = (urls(), self.parked.clone());
        let context = Context {
            now: self.now,
            wall: Timestamp::from_second(1_000_000 + i64::try_from(self.now.as_secs()).unwrap()).unwrap(),
            applied: self.applied,
            watched: self.watched,
            hold_until: S(0),
            urls: &urls,
            durability: Durability::Disk,
            parked: &fitting,
        };
        let mut made = plan(&self.observed, decision, &context);
        if !made.effects.claim.is_empty() {
            for parked in std::mem::take(&mut made.effects.claim) {
                self.asked.push(format!("claim {}", parked.name));
                self.parked.retain(|p| p.id != parked.id);
                self.next += 1;
                self.observed.reserve(parked, self.next.into(), self.now);
            }
            made = plan(&self.observed, decision, &Context { parked: &[], ..context });
            assert_eq!(made.effects.claim, []);
        }
        made
    }

    /// Plans and does it, checking what must hold of every plan.
    fn step(&mut self) -> Plan {
        let plan = self.plan();
        self.check(&plan);
        let Plan { serving, checking, effects, route, status, .. } = plan.clone();
        self.observed.serving = serving;
        self.observed.checking = checking;
        self.observed.status = status;
        apply::publish(
            &mut self.observed,
            desk(&self.routes, &mut Shares::default(), &Demand::default()),
            route,
            self.now,
        );
        self.take_effect(effects);
        plan
    }

    /// Until nothing is left to be done.
    fn settle(&mut self) -> Plan {
        for _ in 0..20 {
            let plan = self.step();
            if plan.effects == Effects::default() {
                return plan;
            }
        }
        panic!("plans never end: {:?}", self.asked);
    }

    fn check(&self, plan: &Plan) {
        let closing = self.observed.closing_since.is_some();
        let ended = plan.effects.scale.iter().flat_map(|s| s.victims.iter()).chain(plan.effects.retire.iter());
        for id in ended.filter(|_| !closing) {
            assert_eq!(self.observed.instances[id].in_flight, 0, "a busy instance is ended");
            let routable = |i: &v1::Instance| i.id == id.as_str() && i.state() != v1::InstanceState::Draining;
            assert!(!self.view.iter().any(routable), "an activator may still send it a call");
        }
        // A plan that is made again at the same moment says the same: the office would do nothing else any more.
        assert!(plan.look_again_at.is_none_or(|at| at > self.now), "{:?} at {:?}", plan.look_again_at, self.now);
        for Scale { replicas, .. } in &plan.effects.scale {
            assert!(*replicas <= dormouse_core::scale::MAX_INSTANCES + 50);
        }
        let ready = plan.status.conditions.iter().find(|c| c.type_ == "Ready").unwrap();
        if ready.status == "True" {
            assert!(plan.status.conditions.iter().all(|c| c.status != "False"), "{:?}", plan.status.conditions);
        }
    }

    fn take_effect(&mut self, effects: Effects) {
        let Effects {
            adopt: _,
            prepare,
            mend,
            claim: _,
            graft,
            look_into,
            own,
            scale,
            retire,
            probe: _,
            remove,
            release,
        } = effects;
        for revision in prepare {
            self.asked.push("prepare".into());
            self.workload(revision, 0);
        }
        if let Some(revision) = mend {
            self.asked.push("mend".into());
            self.observed.lanes.insert(Lane::Mend(revision), LaneState::Done);
        }
        for id in look_into {
            self.asked.push("look into".into());
            self.observed.lanes.insert(Lane::LookInto(id), LaneState::Done);
        }
        for id in graft {
            self.asked.push("graft".into());
            self.observed.instances.get_mut(&id).unwrap().claimed.as_mut().unwrap().grafted = true;
        }
        for Scale { revision, replicas, victims } in scale {
            self.asked.push(format!("scale {replicas}"));
            self.workload(revision.clone(), replicas);
            for id in victims {
                self.observed.instances.get_mut(&id).unwrap().condemned = true;
                self.change(&id, |i| i.phase = Phase::Ending);
            }
            self.fill(&revision, replicas);
        }
        for id in own {
            self.asked.push("own".into());
            self.change(&id, |i| {
                let claim = i.claim.as_mut().unwrap();
                (claim.owned, claim.shrunk) = (true, true);
            });
        }
        for id in retire {
            self.asked.push("retire".into());
            self.observed.lanes.insert(Lane::Retire(id), LaneState::Done);
        }
        for revision in remove {
            self.asked.push("remove".into());
            self.observed.workload_gone(&revision);
        }
        if release {
            self.asked.push("release".into());
            self.observed.lanes.insert(Lane::Release, LaneState::Done);
        }
    }

    fn workload(&mut self, revision: Revision, replicas: u32) {
        self.observed.workload(Workload { function: "f".into(), revision, replicas, trouble: None });
    }

    /// The fleet makes what is missing.
    fn fill(&mut self, revision: &Revision, replicas: u32) {
        let live = |i: &&InstanceSeen| i.is_live() && i.seen.revision == *revision && i.claimed.is_none();
        while self.observed.instances.values().filter(live).count() < replicas as usize {
            self.next += 1;
            let instance = Instance {
                id: InstanceId::from(format!("i{}", self.next)),
                name: format!("i{}", self.next),
                namespace: "default".into(),
                function: FunctionUid::from("f"),
                revision: revision.clone(),
                address: None,
                phase: Phase::Starting,
                trouble: None,
                restarts: 0,
                image_digest: None,
                memory_mib: 256,
                cpu_millis: 100,
                h2c: false,
                claim: None,
                started_at_us: None,
            };
            self.observed.instance(instance, false, self.now);
        }
    }

    fn change(&mut self, id: &InstanceId, change: impl FnOnce(&mut Instance)) {
        let mut seen = self.observed.instances[id].seen.clone();
        change(&mut seen);
        self.observed.instance(seen, false, self.now);
    }

    fn demand(&mut self, calls: u32) {
        self.observed.demand(calls, 0, calls, self.now);
    }

    /// Every live instance runs and its port is open.
    fn open_all(&mut self) {
        for id in self.ids() {
            self.open(&id);
        }
    }

    fn open(&mut self, id: &InstanceId) {
        if self.observed.instances[id].is_live() {
            self.change(id, |i| {
                i.phase = Phase::Running;
                i.trouble = None;
                i.address = Some("10.0.0.1:8080".parse().unwrap());
            });
            let in_flight = self.observed.instances[id].in_flight;
            self.observed.instance_demand(id, InstanceSaid { open: true, in_flight, ..Default::default() }, self.now);
        }
    }

    fn in_flight(&mut self, id: &InstanceId, in_flight: u32) {
        self.observed.instance_demand(id, InstanceSaid { open: true, in_flight, ..Default::default() }, self.now);
    }

    /// Activators act by the newest routes.
    fn acknowledge(&mut self) {
        self.applied = self.routes.version();
        self.view = self.routes.get(&"f".into()).map_or(Vec::new(), |f| f.instances.clone());
    }

    fn gone(&mut self) {
        let ending: Vec<InstanceId> =
            self.ids().into_iter().filter(|id| !self.observed.instances[id].is_live()).collect();
        ending.iter().for_each(|id| self.observed.instance_gone(id));
    }

    fn ids(&self) -> Vec<InstanceId> {
        self.observed.instances.keys().cloned().collect()
    }

    fn apply(&mut self, mut function: Function) {
        function.metadata.generation =
            Some(self.observed.object.as_ref().unwrap().function.metadata.generation.unwrap() + 1);
        self.observed.function(Arc::new(function), |f| Revision::of(&f.spec), true, self.now);
    }

    fn ready(&self) -> (String, String) {
        let ready = self.observed.status.conditions.iter().find(|c| c.type_ == "Ready").unwrap();
        (ready.status.clone(), ready.reason.clone())
    }

    fn states(&self) -> Vec<(String, v1::InstanceState)> {
        let route = self.routes.get(&"f".into()).unwrap();
        route.instances.iter().map(|i| (i.id.clone(), i.state())).collect()
    }
}

/// Somebody deleted the copy of the code: no pod says so, it only does not begin.
#[test]
fn what_a_slow_start_may_wait_for_is_made_again() {
    let source = json!({"runtime": "nodejs", "handler": "a.b", "inline": "x"});
    for (spec, mended) in [(json!({"source": source, "image": null}), vec!["mend"]), (json!({}), vec![])] {
        let mut world = World::new(function(spec));
        world.settle();
        world.demand(1);
        let asked = |world: &mut World, at| {
            world.now = S(at);
            world.settle();
            std::mem::take(&mut world.asked)
        };
        assert_eq!(asked(&mut world, 1), ["prepare", "scale 1"]);
        assert_eq!(asked(&mut world, 5), [""; 0]);
        assert_eq!(asked(&mut world, 6), mended);
    }
}

#[test]
fn sleeps_wakes_and_sleeps_again() {
    let mut world = World::new(function(json!({})));
    world.settle();
    assert_eq!((world.asked.as_slice(), world.ready()), (&["prepare".to_owned()][..], ("True".into(), "Idle".into())));
    world.demand(3);
    let plan = world.settle();
    assert_eq!(world.asked.last().unwrap(), "scale 2");
    assert_eq!((plan.status.state, plan.why), (Some(State::Waking), Why::Demand { calls: 3 }));
    world.open_all();
    world.settle();
    assert_eq!(world.states(), [("i1".into(), v1::InstanceState::Ready), ("i2".into(), v1::InstanceState::Ready)]);
    assert_eq!(world.ready(), ("True".into(), "Active".into()));
    world.acknowledge();
    world.now = S(5);
    world.demand(0);
    let plan = world.settle();
    assert_eq!(plan.look_again_at, Some(S(15)));
    world.now = S(15);
    world.settle();
    assert_eq!(world.states()[0].1, v1::InstanceState::Draining);
    assert_eq!(world.asked.last().unwrap(), "scale 2", "not before the activators act by it");
    world.acknowledge();
    world.settle();
    assert_eq!(&world.asked[world.asked.len() - 3..], ["scale 0", "retire", "retire"]);
    world.gone();
    let plan = world.settle();
    assert_eq!((plan.status.state, plan.look_again_at), (Some(State::Idle), None), "an idle function costs no timer");
    assert!(plan.status.conditions.iter().all(|c| c.status != "False"));
}

/// The annotation, with each new value; it ends no call.
#[test]
fn it_sleeps_at_once_when_it_is_told() {
    let mut world = World::new(function(json!({})));
    world.demand(3);
    world.settle();
    world.open_all();
    world.settle();
    world.acknowledge();
    world.demand(1);
    let tell = |world: &mut World, value: &str| {
        let mut object = Function::clone(&world.observed.object.as_ref().unwrap().function);
        object.metadata.annotations = Some([(SLEEP.to_owned(), value.to_owned())].into());
        world.apply(object);
        world.settle();
        world.acknowledge();
        world.settle();
    };
    tell(&mut world, "one");
    assert_eq!(&world.asked[world.asked.len() - 2..], ["scale 1", "retire"], "one call runs yet");
    world.gone();
    world.demand(0);
    world.settle();
    world.acknowledge();
    world.settle();
    assert_eq!(&world.asked[world.asked.len() - 2..], ["scale 0", "retire"], "once it is over");
    world.gone();
    world.demand(1);
    world.settle();
    world.open_all();
    world.demand(0);
    tell(&mut world, "one");
    assert_eq!(world.asked.last().unwrap(), "scale 1", "the same value again says nothing");
    tell(&mut world, "two");
    assert_eq!(&world.asked[world.asked.len() - 2..], ["scale 0", "retire"]);
}

#[test]
fn a_call_at_the_idle_edge_keeps_its_instance() {
    let mut world = World::new(function(json!({})));
    world.demand(1);
    world.settle();
    world.open_all();
    world.demand(0);
    world.settle();
    world.acknowledge();
    world.now = S(10);
    world.settle();
    assert_eq!(world.states(), [("i1".into(), v1::InstanceState::Draining)]);
    world.demand(1);
    world.settle();
    assert_eq!(world.states(), [("i1".into(), v1::InstanceState::Ready)]);
    assert_eq!(world.asked, ["prepare", "scale 1"]);
}

#[test]
fn a_call_that_comes_while_an_end_is_asked_gets_another_instance() {
    let mut world = World::new(function(json!({})));
    world.demand(1);
    world.settle();
    world.open_all();
    world.demand(0);
    world.settle();
    world.acknowledge();
    world.now = S(10);
    world.settle();
    world.acknowledge();
    let scale = world.plan().effects.scale.remove(0);
    assert_eq!((scale.replicas, scale.victims.len()), (0, 1));
    // Asked, and not answered: the pod may be ending already.
    world.observed.instances.get_mut(&scale.victims[0]).unwrap().asked = true;
    world.observed.lanes.insert(Lane::Scale(scale.revision.clone()), LaneState::Busy { failures: 0 });
    world.demand(1);
    world.settle();
    assert_eq!(world.states(), [("i1".into(), v1::InstanceState::Draining)]);
    // Answered with a failure: it is still there, and serves.
    world.observed.answered(&scale.revision);
    world.observed.lanes.clear();
    world.settle();
    assert_eq!(world.states(), [("i1".into(), v1::InstanceState::Ready)]);
}

#[test]
fn the_longest_idle_goes_and_the_busy_stays() {
    let mut world = World::new(function(json!({})));
    world.demand(6);
    world.settle();
    world.open_all();
    world.settle();
    let ids = world.ids();
    world.in_flight(&ids[0], 1);
    world.now = S(1);
    world.in_flight(&ids[1], 1);
    world.now = S(2);
    world.in_flight(&ids[1], 0);
    world.demand(3);
    world.acknowledge();
    world.now = S(20);
    world.settle();
    world.acknowledge();
    world.settle();
    let left: Vec<&str> =
        world.observed.instances.values().filter(|i| i.is_live()).map(|i| i.seen.name.as_str()).collect();
    assert_eq!(left, ["i1", "i2"], "i3 was idle from the beginning");
}

#[test]
fn a_timed_out_instance_is_replaced_before_it_goes() {
    let mut world = World::new(function(json!({})));
    world.demand(1);
    world.settle();
    world.open_all();
    world.settle();
    world.acknowledge();
    let id = world.ids()[0].clone();
    world.observed.instance_demand(
        &id,
        InstanceSaid { open: true, in_flight: 1, retired: true, ..Default::default() },
        S(1),
    );
    world.settle();
    assert_eq!(world.asked.last().unwrap(), "scale 2");
    assert_eq!(world.states(), [("i1".into(), v1::InstanceState::Draining)]);
    world.acknowledge();
    world.settle();
    assert_eq!(world.asked.last().unwrap(), "scale 2", "its call still runs");
    world.observed.instance_demand(
        &id,
        InstanceSaid { open: true, in_flight: 0, retired: true, ..Default::default() },
        S(2),
    );
    world.settle();
    assert_eq!(&world.asked[world.asked.len() - 2..], ["scale 1", "retire"]);
}

#[test]
fn a_new_revision_takes_over_once_its_port_is_open() {
    let mut world = World::new(function(json!({"startCheck": "Always"})));
    world.settle();
    assert_eq!(world.ready(), ("Unknown".into(), "Starting".into()));
    world.open_all();
    world.settle();
    world.acknowledge();
    let first = world.observed.serving.clone().unwrap();
    world.demand(1);
    world.in_flight(&world.ids()[0], 1);
    world.apply(function(json!({"startCheck": "Always", "image": "registry/hello:2"})));
    world.settle();
    assert_eq!(world.observed.serving, Some(first.clone()), "the old one takes the calls");
    assert_eq!(world.ready().0, "Unknown");
    let new = world.ids()[1].clone();
    world.open(&new);
    world.settle();
    assert_ne!(world.observed.serving, Some(first));
    assert_eq!(world.states(), [("i1".into(), v1::InstanceState::Draining), ("i2".into(), v1::InstanceState::Ready)]);
    assert_eq!(world.ready(), ("True".into(), "Active".into()));
    world.acknowledge();
    world.settle();
    assert!(world.observed.instances[&InstanceId::from("i1")].is_live(), "its call still runs");
    world.in_flight(&"i1".into(), 0);
    world.settle();
    world.gone();
    world.settle();
    assert_eq!(world.observed.workloads.len(), 1);
    assert_eq!(world.asked.last().unwrap(), "remove");
}

#[test]
fn a_revision_that_never_opens_takes_no_calls() {
    let mut world = World::new(function(json!({"startCheck": "Always"})));
    world.settle();
    world.open_all();
    world.settle();
    world.apply(function(json!({"startCheck": "Always", "image": "registry/broken:1"})));
    world.settle();
    let broken = InstanceId::from("i2");
    world.change(&broken, |i| i.trouble = Some(Trouble::new(Code::ImagePullFailed, "no such image")));
    world.demand(1);
    world.settle();
    let route = world.routes.get(&"f".into()).unwrap();
    assert_eq!((route.failure.clone(), world.states().len()), (None, 1), "the old one goes on");
    assert_eq!(route.durability(), v1::Durability::Disk, "as the price plan has it");
    assert_eq!(world.ready(), ("False".into(), "ImagePullFailed".into()));
    assert!(
        world.observed.status.conditions.iter().any(|c| c.type_ == "Stalled" && c.message.contains("no such image"))
    );
    world.now = CHECK_LIMIT + S(1);
    world.settle();
    assert_eq!(world.ready().1, "ImagePullFailed", "what was seen stays said");
    assert!(world.observed.instances[&broken].seen.phase == Phase::Ending);
}

#[test]
fn callers_are_told_at_once_that_nothing_can_start_and_recovery_is_noticed() {
    let mut world = World::new(function(json!({})));
    world.demand(1);
    world.settle();
    let id = world.ids()[0].clone();
    world.change(&id, |i| i.trouble = Some(Trouble::new(Code::ConfigMissing, "secret \"s\" not found")));
    world.settle();
    let failure = |world: &World| world.routes.get(&"f".into()).unwrap().failure.clone();
    assert_eq!(failure(&world), Some(v1::Failure { code: "ConfigMissing".into(), status: 502 }));
    assert_eq!(world.ready(), ("False".into(), "ConfigMissing".into()));
    world.demand(0);
    world.now = S(10);
    world.settle();
    world.gone();
    world.settle();
    assert_eq!(failure(&world), None, "the next call tries again");
    assert_eq!(world.ready().0, "False", "sleeping mends nothing");
    world.demand(1);
    world.settle();
    world.open_all();
    world.settle();
    assert_eq!((failure(&world), world.ready()), (None, ("True".into(), "Active".into())));
}

#[test]
fn what_may_pass_is_waited_for() {
    let mut world = World::new(function(json!({})));
    world.demand(1);
    world.settle();
    let id = world.ids()[0].clone();
    world.change(&id, |i| i.trouble = Some(Trouble::new(Code::Unschedulable, "0/3 nodes are available")));
    world.settle();
    let route = world.routes.get(&"f".into()).unwrap();
    assert_eq!((route.failure.clone(), route.waiting_reason.as_str()), (None, "Unschedulable"));
    assert_eq!(world.ready(), ("Unknown".into(), "Unschedulable".into()));
}

#[test]
fn deleting_waits_for_running_calls_and_not_for_ever() {
    let mut world = World::new(function(json!({"timeoutSeconds": 30})));
    world.demand(1);
    world.settle();
    world.open_all();
    world.settle();
    world.acknowledge();
    let id = world.ids()[0].clone();
    world.in_flight(&id, 1);
    let mut deleted = function(json!({"timeoutSeconds": 30}));
    deleted.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
    world.apply(deleted);
    let plan = world.settle();
    assert!(plan.route.unwrap().closing);
    world.acknowledge();
    let plan = world.settle();
    assert_eq!(plan.look_again_at, Some(S(35)));
    assert_eq!(world.asked.last().unwrap(), "scale 1");
    world.now = S(35);
    world.settle();
    assert_eq!(&world.asked[world.asked.len() - 4..], ["scale 0", "retire", "remove", "release"]);
}

#[test]
fn instances_found_at_the_start_are_held_until_activators_have_called() {
    let mut world = World::new(function(json!({})));
    world.demand(1);
    world.settle();
    world.open_all();
    world.demand(0);
    for instance in world.observed.instances.values_mut() {
        instance.found = true;
    }
    world.now = S(20);
    let urls = urls();
    let context = Context {
        now: world.now,
        wall: Timestamp::UNIX_EPOCH,
        applied: u64::MAX,
        watched: false,
        hold_until: S(30),
        urls: &urls,
        durability: Durability::Disk,
        parked: &[],
    };
    let decision = world.observed.scaler.decide(S(20), &world.observed.policy().unwrap());
    assert_eq!(decision.wanted, 0);
    let plan = plan(&world.observed, decision, &context);
    assert_eq!((plan.effects.scale, plan.look_again_at), (vec![], Some(S(30))));
}

#[test]
fn an_invalid_spec_says_every_fault_and_the_last_good_one_serves() {
    let mut world = World::new(function(json!({})));
    world.settle();
    world.apply(function(json!({"resources": {"memory": "1"}, "port": 0})));
    world.demand(1);
    world.settle();
    assert_eq!(world.ready(), ("False".into(), "InvalidSpec".into()));
    let stalled = world.observed.status.conditions.iter().find(|c| c.type_ == "Stalled").unwrap();
    assert!(stalled.message.contains("spec.port") && stalled.message.contains("memory"), "{}", stalled.message);
    assert_eq!(world.asked.last().unwrap(), "scale 1");
}

/// One thing that happens to the world.
#[derive(Clone, Debug)]
enum Happens {
    Calls(u32),
    Later(u64),
    Acknowledged,
    Opens(usize),
    /// A call begins or ends where the activators believe one may run.
    Busy(usize, u32),
    Crashes(usize),
    TimesOut(usize),
    Gone,
    Fills,
    Image(u8),
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        3 => (0_u32..12).prop_map(Happens::Calls),
        2 => (1_u64..15).prop_map(Happens::Later),
        3 => Just(Happens::Acknowledged),
        3 => (0_usize..8).prop_map(Happens::Opens),
        3 => (0_usize..8, 0_u32..3).prop_map(|(which, n)| Happens::Busy(which, n)),
        1 => (0_usize..8).prop_map(Happens::Crashes),
        1 => (0_usize..8).prop_map(Happens::TimesOut),
        2 => Just(Happens::Gone),
        1 => Just(Happens::Fills),
        1 => (0_u8..3).prop_map(Happens::Image),
    ]
}

impl World {
    fn happen(&mut self, what: &Happens, check: bool) {
        let ids = self.ids();
        let one = |which: usize| (!ids.is_empty()).then(|| ids[which % ids.len()].clone());
        match what {
            Happens::Calls(n) => self.demand(*n),
            Happens::Later(seconds) => self.now += S(*seconds),
            Happens::Acknowledged => self.acknowledge(),
            Happens::Opens(which) => {
                if let Some(id) = one(*which) {
                    self.open(&id);
                }
            }
            Happens::Busy(which, n) => {
                if let Some(id) = one(*which) {
                    let before = self.observed.instances[&id].in_flight;
                    let routable =
                        self.view.iter().any(|i| i.id == id.as_str() && i.state() == v1::InstanceState::Ready);
                    if routable || *n <= before {
                        self.in_flight(&id, *n);
                    }
                }
            }
            Happens::Crashes(which) => {
                if let Some(id) = one(*which)
                    && self.observed.instances[&id].is_live()
                {
                    self.change(&id, |i| {
                        i.phase = Phase::Starting;
                        i.restarts += 1;
                        i.trouble = Some(Trouble::new(Code::CrashLoop, "ended"));
                    });
                }
            }
            Happens::TimesOut(which) => {
                if let Some(id) = one(*which) {
                    let in_flight = self.observed.instances[&id].in_flight;
                    self.observed.instance_demand(
                        &id,
                        InstanceSaid { open: true, in_flight, retired: true, ..Default::default() },
                        self.now,
                    );
                }
            }
            Happens::Gone => self.gone(),
            Happens::Fills => {
                let wanted: Vec<(Revision, u32)> =
                    self.observed.workloads.iter().map(|(r, w)| (r.clone(), w.number.at(self.now))).collect();
                wanted.iter().for_each(|(revision, replicas)| self.fill(revision, *replicas));
            }
            Happens::Image(n) => {
                let check = if check { "Always" } else { "Never" };
                self.apply(function(json!({"image": format!("registry/hello:{n}"), "startCheck": check})));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever happens: no busy instance is ended (checked at every step), plans come to rest, and resting they stay.
    #[test]
    fn no_busy_instance_is_ended_and_plans_come_to_rest(
        story in proptest::collection::vec(happens(), 0..60),
        check in any::<bool>(),
    ) {
        let start = if check { "Always" } else { "Never" };
        let mut world = World::new(function(json!({"startCheck": start})));
        for what in &story {
            world.happen(what, check);
            world.settle();
            let again = world.plan();
            prop_assert_eq!(&again.effects, &Effects::default(), "planning again changes nothing");
            prop_assert_eq!(&again.status, &world.observed.status);
            let version = world.routes.version();
            let now = world.now;
            apply::publish(&mut world.observed, desk(&world.routes, &mut Shares::default(), &Demand::default()), again.route, now);
            prop_assert_eq!(world.routes.version(), version, "the same routes are no news");
        }
    }

    /// When the calls have ended and everybody acts, everything goes.
    #[test]
    fn without_calls_everything_goes(story in proptest::collection::vec(happens(), 0..60), check in any::<bool>()) {
        let start = if check { "Always" } else { "Never" };
        let mut world = World::new(function(json!({"startCheck": start})));
        for what in &story {
            world.happen(what, check);
            world.settle();
        }
        world.demand(0);
        for _ in 0..12 {
            for id in world.ids() {
                if world.observed.instances[&id].in_flight > 0 {
                    world.in_flight(&id, 0);
                }
                world.open(&id);
            }
            world.settle();
            world.acknowledge();
            world.now += S(61);
            world.settle();
            world.acknowledge();
            world.settle();
            world.gone();
        }
        let plan = world.settle();
        prop_assert!(world.observed.instances.is_empty(), "{:?}", world.observed.instances);
        prop_assert_eq!(world.observed.workloads.len(), 1);
        prop_assert_eq!(plan.status.state, Some(State::Idle));
        prop_assert_eq!(plan.look_again_at, None);
    }

    /// Calls always get what they need, whatever state the instances are in.
    #[test]
    fn calls_are_given_instances(story in proptest::collection::vec(happens(), 0..60), calls in 1_u32..40) {
        let mut world = World::new(function(json!({})));
        for what in &story {
            world.happen(what, false);
            world.settle();
        }
        world.demand(calls);
        world.settle();
        let replicas: u32 = world.observed.workloads.values().map(|w| w.number.at(world.now)).sum();
        prop_assert!(replicas >= calls.div_ceil(2));
    }
}
