//! One function in this activator: its plan, its instances and its room, and what changes when the routes change.

use crate::{answer::Refusal, dial, instance::Instance, metrics::FuncMetrics, room::Waker, shared::Shared};
use arc_swap::ArcSwap;
use dormouse_core::{
    FunctionKey,
    admit::{Limits, Room, SeatNo},
    price::Durability,
    record::Subject,
};
use dormouse_proto::v1::{self, InstanceState};
use http::HeaderValue;
use parking_lot::Mutex;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

/// How calls of a function are treated; replaced whole.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    pub(crate) hosts: Vec<String>,
    pub(crate) timeout: Duration,
    /// What the ends of responses wait for.
    pub(crate) durability: Durability,
    pub(crate) limits: Limits,
    /// Who pays for calls that come from now on.
    pub(crate) tenant: Arc<str>,
    /// Calls that one instance runs at once.
    pub(crate) concurrency: u32,
    /// Code and status with which calls are answered while no instance can start.
    pub(crate) failure: Option<(String, u32)>,
    pub(crate) waiting_reason: String,
    pub(crate) closing: bool,
    /// Activators that may run its calls on open instances, without this one.
    pub(crate) holders: Vec<u64>,
}

/// A function.
#[derive(Debug)]
pub(crate) struct Func {
    pub(crate) uid: String,
    pub(crate) key: FunctionKey,
    /// What stands before the rest in the path of a call by path.
    pub(crate) prefix: HeaderValue,
    /// What stands in `Host` of a call that has none.
    pub(crate) host: HeaderValue,
    plan: ArcSwap<Plan>,
    pub(crate) inner: Mutex<Inner>,
    pub(crate) metrics: FuncMetrics,
    /// Its demand changed since it was last told.
    pub(crate) dirty: AtomicBool,
}

/// What is changed by calls.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) room: Room<Arc<Instance>, Waker>,
    /// Instances that the routes name, and gone ones that still hold calls.
    pub(crate) seats: Vec<(SeatNo, Arc<Instance>)>,
    /// A task watches the deadlines of waiting calls.
    pub(crate) watched: bool,
    /// The function is in no table any more.
    pub(crate) gone: bool,
}

impl Func {
    pub(crate) fn new(wire: &v1::Function, metrics: FuncMetrics) -> Self {
        let plan = plan_of(wire);
        let mut room = Room::new(plan.limits);
        room.set_most(wire.reserved);
        let inner = Inner { room, seats: Vec::new(), watched: false, gone: false };
        Self {
            uid: wire.uid.clone(),
            key: FunctionKey::new(&wire.namespace, &wire.name),
            // A name that is no header's value is in no path either.
            prefix: HeaderValue::from_str(&format!("/fn/{}/{}", wire.namespace, wire.name))
                .unwrap_or(HeaderValue::from_static("")),
            host: HeaderValue::from_str(&format!("{}.{}", wire.name, wire.namespace))
                .unwrap_or(HeaderValue::from_static("localhost")),
            plan: ArcSwap::from_pointee(plan),
            inner: Mutex::new(inner),
            metrics,
            dirty: AtomicBool::new(false),
        }
    }

    pub(crate) fn plan(&self) -> arc_swap::Guard<Arc<Plan>> {
        self.plan.load()
    }

    /// Acts by what the routes say now. Returns true when its hosts changed.
    pub(crate) fn update(self: &Arc<Self>, wire: &v1::Function, shared: &Arc<Shared>) -> bool {
        let mut plan = plan_of(wire);
        plan.holders.retain(|holder| *holder != shared.peers.me());
        let hosts_changed = self.plan().hosts != plan.hosts;
        self.plan.store(Arc::new(plan.clone()));
        let mut inner = self.inner.lock();
        inner.room.set_limits(plan.limits);
        if !wire.keep_shares {
            inner.room.set_most(wire.reserved);
        }
        inner.drop_missing(&wire.instances);
        for told in &wire.instances {
            self.update_instance(&mut inner, (told, wire.keep_shares), &plan, shared);
        }
        let shares = !inner.seats.is_empty() || inner.room.most().is_some();
        if !plan.holders.is_empty() && !inner.room.is_of_use() && self.refusal(&inner, shared).is_none() {
            self.send_elsewhere(inner, shared);
        } else {
            self.settle_or_refuse(inner, shared);
        }
        if shares {
            // Told with the version that is acted by from now on: what runs since then, whatever was told before.
            self.note(shared, false);
        }
        hosts_changed
    }

    /// Why nobody may wait now; asked anew after whatever may have shut the last open instance.
    pub(crate) fn refusal(&self, inner: &Inner, shared: &Shared) -> Option<Refusal> {
        let plan = self.plan();
        if inner.gone || plan.closing {
            return Some(Refusal::deleted());
        }
        if shared.purses.is_stopped(&plan.tenant) {
            return Some(Refusal::budget());
        }
        let failure = plan.failure.as_ref().filter(|_| !inner.room.has_open());
        failure.map(|(code, status)| Refusal::failed(code, *status))
    }

    /// More or less of the tenant's budget may be spent here than before.
    pub(crate) fn look_at_purse(self: &Arc<Self>, shared: &Arc<Shared>) {
        self.settle_or_refuse(self.inner.lock(), shared);
    }

    /// The function is in no table any more: who waits is told, who runs goes on.
    pub(crate) fn close(self: &Arc<Self>, shared: &Arc<Shared>) {
        let mut inner = self.inner.lock();
        inner.gone = true;
        inner.drop_missing(&[]);
        let refused = inner.room.clear();
        self.settle(inner, shared);
        Waker::refuse(refused, &Refusal::deleted());
    }

    fn update_instance(
        self: &Arc<Self>,
        inner: &mut Inner,
        (told, keep_slots): (&v1::Instance, bool),
        plan: &Plan,
        shared: &Arc<Shared>,
    ) {
        let state = told.state();
        let known = inner.seats.iter().find(|(_, i)| i.is(told)).cloned();
        let (seat, instance) = match known {
            Some(known) => known,
            None => {
                let Ok(addr) = told.address.parse() else {
                    tracing::warn!(function = %self.key, instance = told.id, address = told.address, "not an address");
                    return;
                };
                let instance =
                    Arc::new(Instance::new(told, addr, Arc::new(self.subject(told, plan)), shared.clock.now()));
                let seat = inner.room.add(instance.clone(), 0, false);
                inner.seats.push((seat, instance.clone()));
                (seat, instance)
            }
        };
        let taking = matches!(state, InstanceState::Starting | InstanceState::Ready) && !instance.retired.load(Relaxed);
        // Once retired it has none, whatever is told.
        let slots = if keep_slots { inner.room.slots(seat) } else { told.slots };
        inner.room.set(seat, slots, taking);
        if *instance.subject.load().tenant != *plan.tenant {
            instance.subject.store(Arc::new(self.subject(told, plan)));
        }
        let warm_slots = if told.warm { u16::try_from(plan.concurrency).unwrap_or(u16::MAX) } else { 0 };
        instance.warm_slots.store(warm_slots, Relaxed);
        // The routes name it now: the address is its own.
        instance.broken.store(false, Relaxed);
        if state == InstanceState::Starting && instance.told_ready.swap(false, Relaxed) {
            // Its process started anew: what was open is not.
            inner.room.shut(seat);
            instance.port_open.store(false, Relaxed);
            instance.pool.clear();
            self.note(shared, false);
        }
        let became_ready = state == InstanceState::Ready && !instance.told_ready.swap(true, Relaxed);
        if became_ready {
            inner.room.open(seat, shared.clock.now());
        } else if taking && !inner.room.is_open(seat) {
            dial::watch_port(self, seat, &instance, shared);
        }
    }

    fn subject(&self, told: &v1::Instance, plan: &Plan) -> Subject {
        Subject {
            function_uid: self.uid.clone(),
            namespace: self.key.namespace.clone(),
            name: self.key.name.clone(),
            revision: told.revision.clone(),
            tenant: plan.tenant.to_string(),
            memory_mib: told.memory_mib,
            cpu_millis: told.cpu_millis,
            instance: told.id.clone(),
        }
    }
}

impl Inner {
    /// Instances that the routes no longer name take no more calls.
    fn drop_missing(&mut self, told: &[v1::Instance]) {
        for (seat, instance) in &self.seats {
            if !told.iter().any(|t| instance.is(t)) {
                self.room.remove(*seat);
                instance.forget();
            }
        }
        let room = &self.room;
        self.seats.retain(|(seat, _)| room.knows(*seat));
    }

    /// The room has forgotten a gone instance with the end of its last call: so do we.
    pub(crate) fn forget(&mut self, ended: SeatNo) {
        self.seats.retain(|(seat, _)| *seat != ended);
    }
}

fn plan_of(wire: &v1::Function) -> Plan {
    Plan {
        hosts: wire.hosts.clone(),
        timeout: Duration::from_millis(u64::from(wire.timeout_ms)),
        durability: wire.durability().into(),
        limits: Limits {
            max_calls: wire.queue_max_calls,
            max_wait: Duration::from_millis(u64::from(wire.queue_max_wait_ms)),
        },
        tenant: wire.tenant.as_str().into(),
        concurrency: wire.concurrency,
        failure: wire.failure.as_ref().map(|f| (f.code.clone(), f.status)),
        waiting_reason: wire.waiting_reason.clone(),
        closing: wire.closing,
        holders: wire.holders.clone(),
    }
}
