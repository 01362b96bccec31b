//! One budget: what it bounds, what was spent of it, who may spend how much. No clock of its own and no messages.

use crate::ledger::Month;
use crate::shares::Process;
use dormouse_core::Budget;
use dormouse_core::Fault;
use dormouse_core::allowance::{Account, Amount, Said, Told};
use dormouse_core::budget::{BudgetState, BudgetStatus, Limit};
use dormouse_core::price::PricePlan;
use dormouse_core::usage::UsageSum;
use dormouse_proto::v1;
use kube::ResourceExt;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How often the ledger is asked when nothing hurries: capacity that is kept warm costs without any call.
const LOOK: Duration = Duration::from_secs(10);
/// Least time between two questions, and the longest while their answers do not change.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// A question takes at most this part of the time: one of a tenant with 1,000 functions takes a second.
const SHARE: u32 = 20;

/// Whether a budget counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    InForce,
    /// It could not be understood, and why.
    Invalid(String),
    /// It is in another currency than the plan in force.
    OtherCurrency(String),
    /// An older one is of the same tenant: its name.
    TenantHasBudget(String),
    /// There are as many older ones as can be in force.
    TooMany,
}

pub(super) struct Book {
    pub(super) object: Arc<Budget>,
    pub(super) limit: Result<Limit, Fault>,
    pub(super) tenant: String,
    pub(super) fit: Fit,
    pub(super) month: Month,
    pub(super) state: BudgetState,
    /// The status that was written last.
    pub(super) written: BudgetStatus,
    /// A write of it is under way.
    pub(super) writing: bool,
    /// The last one did not fail.
    pub(super) well: bool,
    pub(super) write_again_at: Option<Instant>,
    account: Account<Process>,
    /// Names what amounts mean: in another term everything begins at 0.
    term: u64,
    /// Grows with every term, and differs between objects: an answer of the ledger is of one of them.
    pub(super) life: u64,
    /// A hundredth of it.
    pub(super) percent: Amount,
    /// Until then nobody is given anything: an earlier life of the controller gave to activators that may come back.
    hold_until: Option<Instant>,
    /// The ledger has been asked in this month.
    counted: bool,
    /// A question is under way.
    counting: bool,
    count_at: Instant,
    /// No question before.
    rested_at: Instant,
    pause: Duration,
    stop: Option<Amount>,
    warn: Amount,
}

impl Book {
    /// A budget in a month. `life`: a number that no other book has. Until `hold_until` nobody is given anything, if its
    /// object says that it was in force in this month before.
    pub(super) fn new(
        object: Arc<Budget>,
        plan: &PricePlan,
        month: Month,
        (life, now, hold_until): (u64, Instant, Option<Instant>),
    ) -> Self {
        let before = object.status.clone().unwrap_or_default();
        let of_month = before.period.as_ref().is_some_and(|period| *period == month.to_string());
        let same = of_month && before.observed_generation == object.metadata.generation;
        let mut book = Self {
            limit: Limit::of(&object),
            tenant: String::new(),
            fit: Fit::InForce,
            month,
            // As it was, until the ledger says more: what is stopped is not kept warm for a moment.
            state: if same { before.state } else { BudgetState::Unknown },
            written: before,
            writing: false,
            well: true,
            write_again_at: None,
            account: Account::new(0, 0),
            term: 0,
            life,
            percent: 0,
            hold_until: hold_until.filter(|_| of_month),
            counted: false,
            counting: false,
            count_at: now,
            rested_at: now,
            pause: PAUSE.0,
            stop: None,
            warn: 0,
            object,
        };
        book.read(plan);
        book.account.hold(book.hold_until.is_some());
        book
    }

    /// Those who come back have come.
    pub(super) fn look_at_clock(&mut self, now: Instant) {
        if self.hold_until.take_if(|until| *until <= now).is_some() {
            self.account.hold(false);
            self.count_soon();
        }
    }

    /// The object changed: what was spent stays, unless it is counted in another way now.
    pub(super) fn change(&mut self, object: Arc<Budget>, plan: &PricePlan, now: Instant) {
        let term = self.term;
        self.object = object;
        self.limit = Limit::of(&self.object);
        self.read(plan);
        if self.term != term {
            self.begin(self.month, plan, now);
        }
        // What is known to be spent is known: a raised one serves at once.
        self.judge();
        self.count_at = now;
    }

    /// Nothing is known of what was spent.
    pub(super) fn begin(&mut self, month: Month, plan: &PricePlan, now: Instant) {
        self.month = month;
        self.term = self.term_now(plan);
        // What is asked at this moment is answered for nobody.
        (self.life, self.counting) = (self.life + 1, false);
        self.account.restart();
        (self.counted, self.state, self.count_at, self.rested_at) = (false, BudgetState::Unknown, now, now);
        self.pause = PAUSE.0;
    }

    fn read(&mut self, plan: &PricePlan) {
        self.fit = match &self.limit {
            Err(fault) => Fit::Invalid(fault.to_string()),
            Ok(limit) => match limit.currency.as_ref().filter(|currency| **currency != plan.currency) {
                None => Fit::InForce,
                Some(currency) => Fit::OtherCurrency(format!(
                    "the amount is in {currency}, and the price plan in force is in {}: change the one or the other",
                    plan.currency
                )),
            },
        };
        self.tenant = match &self.limit {
            Ok(limit) => limit.tenant.clone(),
            Err(_) => self.object.spec.tenant.clone().unwrap_or_else(|| self.object.name_any()),
        };
        let part = |percent| self.limit.as_ref().map_or(0, |limit| limit.part(percent, plan));
        self.warn = self.limit.as_ref().map_or(0, |limit| part(limit.warn_percent));
        self.stop = self.limit.as_ref().ok().and_then(|limit| limit.stop_percent).map(part);
        self.percent = part(1);
        self.term = self.term_now(plan);
        self.account.set_limit(self.stop.unwrap_or(Amount::MAX));
    }

    pub(super) fn name(&self) -> &str {
        self.object.metadata.name.as_deref().unwrap_or_default()
    }

    /// Older ones first.
    pub(super) fn age(&self) -> (i64, &str) {
        let made = self.object.metadata.creation_timestamp.as_ref();
        (made.map_or(i64::MAX, |time| time.0.as_second()), self.name())
    }

    /// Activators are told of it.
    pub(super) fn bounds(&self) -> bool {
        self.fit == Fit::InForce && self.stop.is_some()
    }

    pub(super) fn is_counted(&self) -> bool {
        self.counted
    }

    pub(super) fn base(&self) -> Amount {
        self.account.base()
    }

    fn term_now(&self, plan: &PricePlan) -> u64 {
        let mut hasher = DefaultHasher::new();
        let measure = self.limit.as_ref().ok().map(|limit| limit.measure);
        (self.object.metadata.uid.as_deref(), self.month.number(), measure, &self.tenant).hash(&mut hasher);
        serde_json::to_string(plan).unwrap_or_default().hash(&mut hasher);
        hasher.finish()
    }

    /// An activator listens; what it says is of this budget if it is of this term.
    pub(super) fn join(&mut self, process: &Process, said: &[v1::Spent]) {
        let said = self.said(said).unwrap_or_default();
        self.account.join(process, said);
        self.count_soon();
    }

    pub(super) fn hear(&mut self, process: &Process, said: &[v1::Spent]) {
        if let Some(said) = self.said(said) {
            self.account.hear(process, said);
            if self.account.is_unsure() {
                self.count_soon();
            }
        }
    }

    fn said(&self, said: &[v1::Spent]) -> Option<Said> {
        let said = said.iter().find(|said| said.tenant == self.tenant && said.term == self.term)?;
        let amount = |amount: Option<v1::Amount>| amount.map_or(0, Amount::from);
        Some(Said {
            acts_by: said.acts_by,
            allowed: amount(said.allowed),
            spent: amount(said.spent),
            settled: amount(said.settled),
            wants: said.wants,
        })
    }

    pub(super) fn mute(&mut self, process: &Process) {
        self.account.mute(process);
    }

    pub(super) fn quit(&mut self, process: &Process) {
        self.account.quit(process);
    }

    pub(super) fn knows(&self, process: &Process) -> bool {
        self.account.members().any(|member| member == process)
    }

    pub(super) fn left(&mut self, gone: impl Fn(&Process) -> bool) {
        let gone: BTreeSet<Process> = self.account.members().filter(|process| gone(process)).cloned().collect();
        gone.iter().for_each(|process| self.account.left(process));
        if !gone.is_empty() {
            // What they spent is held until then.
            self.count_soon();
        }
    }

    /// It bounds nobody any more.
    pub(super) fn release(&mut self) {
        self.account.clear();
    }

    fn count_soon(&mut self) {
        self.count_at = self.count_at.min(self.rested_at);
    }

    /// When there is something to do: the ledger is to be asked, or the hold is over.
    pub(super) fn due(&self) -> Option<Instant> {
        [self.asks_at(), self.hold_until].into_iter().flatten().min()
    }

    /// When the ledger is to be asked; `None` while it is, or when nobody wants to know.
    pub(super) fn asks_at(&self) -> Option<Instant> {
        let wanted = self.fit == Fit::InForce && !self.counting;
        wanted.then_some(self.count_at.max(self.rested_at))
    }

    /// Others ask it: a moment later.
    pub(super) fn later(&mut self, now: Instant) {
        self.rested_at = self.rested_at.max(now + PAUSE.0);
    }

    /// The ledger is being asked: what each activator has in it by now.
    pub(super) fn ask(&mut self) -> BTreeMap<Process, Amount> {
        self.counting = true;
        self.account.ask()
    }

    /// What it said, and how long that took; `None` when it failed. Of this life: see [`Book::life`].
    pub(super) fn answered(
        &mut self,
        usage: Option<&UsageSum>,
        settled: &BTreeMap<Process, Amount>,
        plan: &PricePlan,
        took: Duration,
        now: Instant,
    ) {
        self.counting = false;
        let before = (self.counted, self.account.base());
        if let (Some(usage), Ok(limit)) = (usage, &self.limit) {
            self.account.rebase(limit.counted(usage, plan), settled);
            self.counted = true;
        }
        let same = before == (self.counted, self.account.base());
        self.pause = if same { (self.pause * 2).min(PAUSE.1) } else { PAUSE.0 };
        self.rested_at = now + self.pause.max(took * SHARE);
        self.count_at = now + if self.counted { LOOK } else { PAUSE.1 };
        if self.account.is_unsure() {
            self.count_soon();
        }
        self.judge();
    }

    fn judge(&mut self) {
        self.state = match (self.counted, self.stop) {
            // As it was before this life.
            (false, _) => self.state,
            (true, Some(_)) if self.account.is_used_up() => BudgetState::Stopped,
            (true, _) if self.account.base() >= self.warn => BudgetState::Warning,
            (true, _) => BudgetState::Within,
        };
    }

    /// Deals out what is free, once it is known what that is.
    pub(super) fn deal(&mut self) -> Vec<(Process, Told)> {
        if self.counted && self.bounds() { self.account.deal() } else { Vec::new() }
    }

    /// What an activator is told of it.
    pub(super) fn allowance(&self, process: &Process, told: Option<Told>) -> Option<v1::Allowance> {
        let limit = self.limit.as_ref().ok()?;
        let Told { number, allowed } = told.unwrap_or_else(|| self.account.standing(process));
        Some(v1::Allowance {
            tenant: self.tenant.clone(),
            term: self.term,
            number,
            allowed: Some(allowed.into()),
            measure: v1::Measure::from(limit.measure).into(),
            stopped: self.state == BudgetState::Stopped,
        })
    }
}
