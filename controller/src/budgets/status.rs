//! How a budget stands, for people: its status, its events, and what the usage API tells.

use super::MAX_BUDGETS;
use super::book::{Book, Fit};
use crate::fleet::{Note, NoteKind};
use crate::reconcile::report::{Says, condition};
use dormouse_core::budget::{BudgetState, BudgetStatus};
use dormouse_core::price::PricePlan;
use jiff::Timestamp;
use rust_decimal::Decimal;
use serde::Serialize;

/// A budget as `/v1/budgets` tells it; amounts are decimal text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BudgetView {
    /// The object's name.
    pub name: String,
    /// Who pays.
    pub tenant: String,
    /// The month, as in `2026-11`.
    pub period: String,
    /// `Unknown`, `Within`, `Warning` or `Stopped`.
    pub state: &'static str,
    /// It counts: it could be understood, and no other is of the same tenant.
    pub in_force: bool,
    /// Why it does not.
    pub problem: Option<String>,
    /// What amounts are in: the currency, or what memory x time is counted in.
    pub unit: String,
    /// What may be spent.
    pub limit: Decimal,
    /// What was, as far as the ledger has records; `None` while it does not say.
    pub spent: Option<Decimal>,
    /// What is left; negative when more was spent.
    pub left: Option<Decimal>,
    /// Spent, in percent of the limit, rounded down.
    pub percent: Option<i64>,
    /// Percent of it at which it warns.
    pub warn_percent: u32,
    /// Percent of it at which calls are refused; `None`: they never are.
    pub stop_percent: Option<u32>,
}

impl Book {
    /// The budget as it stands.
    pub(super) fn view(&self, plan: &PricePlan) -> BudgetView {
        let (spent, percent) = (self.spent(plan), self.percent());
        let limit = self.limit.as_ref().ok();
        let whole = limit.map(|limit| limit.whole).unwrap_or_default();
        BudgetView {
            name: self.name().to_owned(),
            tenant: self.tenant.clone(),
            period: self.month.to_string(),
            state: state_name(self.state),
            in_force: self.fit == Fit::InForce,
            problem: self.fits().1,
            unit: limit.map(|limit| limit.unit(plan).to_owned()).unwrap_or_default(),
            limit: whole,
            spent,
            left: spent.map(|spent| whole - spent),
            percent,
            warn_percent: limit.map_or(0, |limit| limit.warn_percent),
            stop_percent: limit.and_then(|limit| limit.stop_percent),
        }
    }

    /// The status that its object is to have.
    pub(super) fn status(&self, plan: &PricePlan, wall: Timestamp) -> BudgetStatus {
        let limit = self.limit.as_ref().ok();
        let with_unit = |amount: Decimal| limit.map(|limit| format!("{amount} {}", limit.unit(plan)));
        let (reason, problem) = self.fits();
        let status = if problem.is_none() { "True" } else { "False" };
        let says = Says::new("Ready", status, reason, problem.unwrap_or_default());
        let generation = self.object.metadata.generation;
        BudgetStatus {
            observed_generation: generation,
            tenant: Some(self.tenant.clone()),
            period: Some(self.month.to_string()),
            spent: self.spent(plan).and_then(with_unit),
            limit: limit.and_then(|limit| with_unit(limit.whole)),
            percent: self.percent(),
            state: self.state,
            conditions: vec![condition(says, &self.written.conditions, generation, wall)],
        }
    }

    /// Whether it counts, as one word, and why not.
    fn fits(&self) -> (&'static str, Option<String>) {
        match &self.fit {
            Fit::InForce => ("InForce", None),
            Fit::Invalid(why) => ("Invalid", Some(why.clone())),
            Fit::OtherCurrency(why) => ("OtherCurrency", Some(why.clone())),
            Fit::TenantHasBudget(other) => ("TenantHasBudget", Some(second(&self.tenant, other))),
            Fit::TooMany => ("TooMany", Some(too_many())),
        }
    }

    fn spent(&self, plan: &PricePlan) -> Option<Decimal> {
        let limit = self.limit.as_ref().ok().filter(|_| self.is_counted())?;
        Some(limit.shown(self.base(), plan))
    }

    fn percent(&self) -> Option<i64> {
        self.limit.as_ref().ok().filter(|_| self.is_counted())?;
        // A hundredth of nothing, or of less than can be counted: whatever was spent is all of it.
        let percent = self.base().checked_div(self.percent).unwrap_or(100);
        Some(i64::try_from(percent).unwrap_or(i64::MAX))
    }

    /// What its owner is told when it came from one state to the present one.
    pub(super) fn note(&self, before: BudgetState, plan: &PricePlan) -> Option<Note> {
        let limit = self.limit.as_ref().ok()?;
        let spent = self.spent(plan)?;
        let of = format!("{spent} of {} {} in {}", limit.whole, limit.unit(plan), self.month);
        let (kind, reason, message) = match (before, self.state) {
            (was, now) if was == now => return None,
            (_, BudgetState::Warning) => (NoteKind::Warning, "BudgetWarning", format!("{} spent {of}", self.tenant)),
            (_, BudgetState::Stopped) => {
                let message = format!(
                    "{} spent {of}: its calls are refused until the month is over or this is raised",
                    self.tenant
                );
                (NoteKind::Warning, "BudgetExceeded", message)
            }
            (BudgetState::Stopped, BudgetState::Within) => {
                (NoteKind::Normal, "BudgetWithin", format!("{} spent {of}: its calls are served again", self.tenant))
            }
            _ => return None,
        };
        Some(Note { kind, reason, action: "Account", message })
    }
}

fn second(tenant: &str, other: &str) -> String {
    format!(
        "the budget {other} is of the tenant {tenant} already, and the older one counts: remove one, or give it another tenant"
    )
}

fn too_many() -> String {
    format!("{MAX_BUDGETS} older budgets are in force already, as many as can be: remove one of them")
}

fn state_name(state: BudgetState) -> &'static str {
    match state {
        BudgetState::Unknown => "Unknown",
        BudgetState::Within => "Within",
        BudgetState::Warning => "Warning",
        BudgetState::Stopped => "Stopped",
    }
}
