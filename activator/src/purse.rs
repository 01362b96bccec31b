//! What this activator may spend of tenants' budgets. A call is dispatched while something is left, and its cost is added
//! when it is over: what is passed is what ran at that moment. Tenants without a budget cost one look at an empty map.
//!
//! The rule is [`dormouse_core::allowance`]; here is the member's side of it.

use crate::{shared::Shared, spool::Spool};
use arc_swap::{ArcSwap, ArcSwapOption};
use dormouse_core::{
    allowance::Amount,
    budget::Measure,
    price::PricePlan,
    record::{CallRecord, Subject},
};
use dormouse_proto::v1;
use foldhash::fast::RandomState;
use parking_lot::Mutex;
use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Moments whose records the ledger does not have yet; behind them the last one is moved on. Ten reports a second make 64
/// of them in six seconds: longer than a ledger that works takes.
const MAX_POINTS: usize = 64;

type ByTenant = HashMap<Arc<str>, Arc<Purse>, RandomState>;

/// The budgets of all tenants that have one.
#[derive(Debug, Default)]
pub(crate) struct Purses {
    by_tenant: ArcSwap<ByTenant>,
    /// What calls are counted by: [`PricePlan::dearest`] of the plan in force.
    dearest: ArcSwapOption<PricePlan>,
    /// Something is to be told at once.
    urgent: Notify,
    /// Cancelled once it is known which tenants have one.
    pub(crate) known: CancellationToken,
}

/// One tenant's.
#[derive(Debug)]
pub(crate) struct Purse {
    tenant: Arc<str>,
    /// Nothing is left: those who come wait for more.
    out: AtomicBool,
    /// The budget is used up: those who come are refused.
    stopped: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    term: u64,
    measure: Measure,
    /// The newest allowance of the present stream.
    acts_by: u64,
    allowed: Amount,
    spent: Amount,
    settled: Amount,
    /// Numbers of records, and what was spent in all by then.
    points: VecDeque<(u64, Amount)>,
    wants: bool,
    /// What was told last.
    said: Option<v1::Spent>,
}

/// Whether calls of a function may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    Open,
    /// They wait: nothing is left of what this activator may spend.
    Held,
    /// They are refused: the budget is used up.
    Shut,
}

impl Purses {
    fn of(&self, tenant: &str) -> Option<Arc<Purse>> {
        let map = self.by_tenant.load();
        if map.is_empty() { None } else { map.get(tenant).cloned() }
    }

    /// Whether calls that a tenant pays for may begin. Asks for more where somebody has to wait.
    pub(crate) fn gate(&self, tenant: &str) -> Gate {
        let Some(purse) = self.of(tenant) else { return Gate::Open };
        if purse.stopped.load(Relaxed) {
            return Gate::Shut;
        }
        if !purse.out.load(Relaxed) {
            return Gate::Open;
        }
        if !std::mem::replace(&mut purse.inner.lock().wants, true) {
            self.urgent.notify_one();
        }
        Gate::Held
    }

    /// Calls that a tenant pays for are refused.
    pub(crate) fn is_stopped(&self, tenant: &str) -> bool {
        self.of(tenant).is_some_and(|purse| purse.stopped.load(Relaxed))
    }

    /// Calls that a tenant pays for wait for more.
    pub(crate) fn is_out(&self, tenant: &str) -> bool {
        self.of(tenant).is_some_and(|purse| purse.out.load(Relaxed))
    }

    /// A call is over and its record written: whoever pays for it has spent its cost.
    pub(crate) fn spend(&self, subject: &Subject, record: &CallRecord) {
        let Some(purse) = self.of(&subject.tenant) else { return };
        let Some(dearest) = self.dearest.load_full() else { return };
        let mut inner = purse.inner.lock();
        let cost = inner.measure.cost(record, (subject.memory_mib, subject.cpu_millis), &dearest);
        inner.spent = inner.spent.saturating_add(cost);
        let out = inner.spent >= inner.allowed;
        // With half of what it had gone it is time to tell.
        let said = inner.said.as_ref().and_then(|said| said.spent).map_or(0, Amount::from);
        let soon = inner.spent.saturating_sub(said) >= inner.allowed.saturating_sub(said) / 2;
        let ran_out = out && !purse.out.swap(true, Relaxed);
        drop(inner);
        if ran_out || soon {
            self.urgent.notify_one();
        }
    }

    /// Waits until something is to be told at once.
    pub(crate) async fn urgent(&self) {
        self.urgent.notified().await;
    }

    /// A stream begins: numbers of an earlier one mean nothing in it, and everything is told.
    pub(crate) fn begin(&self) {
        for purse in self.by_tenant.load().values() {
            let mut inner = purse.inner.lock();
            (inner.acts_by, inner.said) = (0, None);
        }
    }

    /// What is to be told that was not told last.
    pub(crate) fn changed(&self, spool: &Spool) -> Vec<v1::Spent> {
        let purses = self.by_tenant.load();
        if purses.is_empty() {
            return Vec::new();
        }
        purses.values().for_each(|purse| purse.mark(spool));
        // Behind all marks: what the ledger has by now it may have of each of them.
        let left = spool.unshipped();
        let first = if left.of_former_lives { 0 } else { left.first.unwrap_or(u64::MAX) };
        purses.values().filter_map(|purse| purse.changed(first)).collect()
    }

    /// Some tenant has one.
    pub(crate) fn any(&self) -> bool {
        !self.by_tenant.load().is_empty()
    }

    /// Acts by an update.
    ///
    /// # Errors
    /// What it says that it must not; then nothing of it is acted by.
    pub(crate) fn update(&self, update: v1::BudgetUpdate, shared: &Arc<Shared>) -> Result<(), String> {
        let plan = update.snapshot.then(|| serde_json::from_str::<PricePlan>(&update.price_plan));
        let plan = plan.transpose().map_err(|e| format!("price plan: {e}"))?;
        let measures =
            update.allowances.iter().map(|told| Measure::try_from(told.measure()).map_err(|e| e.to_string()));
        let measures: Vec<Measure> = measures.collect::<Result<_, String>>()?;
        if let Some(plan) = plan {
            self.dearest.store(Some(Arc::new(plan.dearest())));
        }
        let before = self.by_tenant.load_full();
        let mut now = if update.snapshot { ByTenant::default() } else { (*before).clone() };
        let mut changed: Vec<Arc<str>> = Vec::new();
        for (told, measure) in update.allowances.iter().zip(measures) {
            let tenant: Arc<str> = told.tenant.as_str().into();
            let purse = before.get(&tenant).cloned().unwrap_or_else(|| Arc::new(Purse::new(tenant.clone(), measure)));
            purse.update(told, measure);
            now.insert(tenant.clone(), purse);
            changed.push(tenant);
        }
        update.removed.iter().for_each(|tenant| drop(now.remove(tenant.as_str())));
        changed.extend(before.keys().filter(|tenant| !now.contains_key(*tenant)).cloned());
        self.by_tenant.store(Arc::new(now));
        self.known.cancel();
        let table = shared.routes.load();
        for func in table.by_uid.values().filter(|func| changed.contains(&func.plan().tenant)) {
            func.look_at_purse(shared);
        }
        self.urgent.notify_one();
        Ok(())
    }
}

impl Purse {
    fn new(tenant: Arc<str>, measure: Measure) -> Self {
        let inner = Inner {
            term: 0,
            measure,
            acts_by: 0,
            allowed: 0,
            spent: 0,
            settled: 0,
            points: VecDeque::new(),
            wants: false,
            said: None,
        };
        Self { tenant, out: AtomicBool::new(true), stopped: AtomicBool::new(false), inner: Mutex::new(inner) }
    }

    fn update(&self, told: &v1::Allowance, measure: Measure) {
        let mut inner = self.inner.lock();
        if inner.term != told.term {
            *inner =
                Inner { term: told.term, measure, points: VecDeque::new(), said: None, spent: 0, settled: 0, ..*inner };
        }
        inner.acts_by = told.number;
        inner.allowed = told.allowed.map_or(0, Amount::from);
        let out = inner.spent >= inner.allowed;
        inner.wants &= out;
        self.out.store(out, Relaxed);
        self.stopped.store(told.stopped, Relaxed);
    }

    /// Takes down which records what was spent so far is of.
    fn mark(&self, spool: &Spool) {
        let mut inner = self.inner.lock();
        // What was spent is of records that are written: they are among those up to the newest one.
        let (spent, seq) = (inner.spent, spool.last_seq());
        match inner.points.back().copied() {
            Some((_, known)) if known == spent => {}
            None if inner.settled == spent => {}
            Some(_) if inner.points.len() >= MAX_POINTS => {
                inner.points.pop_back();
                inner.points.push_back((seq, spent));
            }
            _ => inner.points.push_back((seq, spent)),
        }
    }

    /// What is to be told, when the ledger has every record before the first one that it does not have.
    fn changed(&self, first: u64) -> Option<v1::Spent> {
        let mut inner = self.inner.lock();
        while let Some((_, spent)) = inner.points.front().copied().filter(|(seq, _)| *seq < first) {
            inner.settled = spent;
            inner.points.pop_front();
        }
        let spent = v1::Spent {
            tenant: self.tenant.to_string(),
            term: inner.term,
            acts_by: inner.acts_by,
            allowed: Some(inner.allowed.into()),
            spent: Some(inner.spent.into()),
            settled: Some(inner.settled.into()),
            wants: inner.wants,
        };
        let new = inner.said.as_ref() != Some(&spent);
        new.then(|| inner.said.insert(spent).clone())
    }
}
