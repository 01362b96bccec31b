//! What tenants owe by the month. A month is closed some days after its end: its statements are then made, kept, and
//! told as they are for ever. What comes to it later is told by the next one: the month's usage is priced anew, by the plan
//! that it was priced by, and what that gives above or below what was billed for it is a correction.

use super::store::{Closed, Store};
use super::{AppendError, Month, Plans, ReadError, reversals, usage};
use dormouse_core::price::{Item, Line, PricePlan, TooLarge};
use dormouse_core::usage::UsageSum;
use jiff::{Timestamp, ToSpan};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A statement as it is told; amounts and quantities are decimal text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// Whose.
    pub tenant: String,
    /// The month, as in `2026-11`.
    pub period: String,
    /// Its first moment, RFC 3339.
    pub from: String,
    /// The first moment after it.
    pub to: String,
    /// Whether that is past.
    pub period_over: bool,
    /// Every call before this moment has its record, or is known to have none; `None` while that cannot be said, and in a
    /// closed statement, of which nothing changes.
    pub complete_through: Option<String>,
    /// Whether anything of it can change.
    pub state: State,
    /// When it was closed.
    pub closed_at: Option<String>,
    /// The plan that it is priced by.
    pub plan: String,
    /// The plan's currency.
    pub currency: String,
    /// All calls, billed or not.
    pub calls: u64,
    /// Billed ones.
    pub billed_calls: u64,
    /// Of those, calls whose records are taken back: what they cost is in the line [`REVERSALS`].
    #[serde(default)]
    pub reversed_calls: u64,
    /// Of the billed ones, calls whose time is in no line: see [`dormouse_core::price::Statement::unmetered`].
    pub unmetered_calls: u64,
    /// What the month cost.
    pub lines: Vec<StatementLine>,
    /// What earlier months cost more or less than was billed for them.
    pub corrections: Vec<Correction>,
    /// The sum of the amounts of lines and corrections.
    pub total: Decimal,
    /// Beside a fixed price.
    pub comparison: Option<Comparison>,
}

/// The item of the line that takes back what reversed records cost in the other lines.
pub const REVERSALS: &str = "reversals";

/// Whether anything of a statement can change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// What is used, and what comes late, changes it.
    Open,
    /// Nothing changes it.
    Closed,
    /// It says what the month's usage costs by another plan, and is nobody's debt.
    Estimate,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatementLine {
    /// What for, by its stable name.
    pub item: String,
    /// 0: free; else the tier of the price, from 1.
    pub tier: u32,
    /// How much, exactly.
    pub quantity: String,
    /// What is counted.
    pub unit: String,
    /// Price of one unit.
    pub unit_price: Decimal,
    /// Quantity x price, rounded half-even to the currency's minor unit.
    pub amount: Decimal,
}

/// A month that is closed and has changed: what was billed for it is taken back, and what it costs as far as is known now
/// is billed instead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Correction {
    /// The month, as in `2026-10`.
    pub period: String,
    /// What was billed for it, corrections included.
    pub billed: Decimal,
    /// What it costs.
    pub restated: Decimal,
    /// The difference.
    pub amount: Decimal,
    /// Calls of the month whose time is in neither: see [`Statement::unmetered_calls`].
    pub unmetered_calls: u64,
}

/// A statement beside a fixed price for the same period.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparison {
    /// The fixed price.
    pub fixed_server: Decimal,
    /// That minus the total.
    pub saving: Decimal,
    /// The same in percent of the fixed price, one digit after the point.
    pub saving_percent: Decimal,
}

/// What is kept of a closed month.
#[derive(Serialize, Deserialize)]
struct Document {
    /// The plan as in its file: what comes late is priced by it.
    plan: serde_json::Value,
    /// The statement, to the byte as it is told.
    statement: String,
}

/// A closed month of a tenant, taken apart.
struct Told {
    plan: PricePlan,
    statement: Statement,
    text: String,
}

impl Document {
    fn read(bytes: &[u8]) -> Result<Told, ReadError> {
        let corrupt = || ReadError::Corrupt("a kept statement is damaged".to_owned());
        let Self { plan, statement: text } = serde_json::from_slice(bytes).map_err(|_| corrupt())?;
        let plan = PricePlan::from_value(&plan).map_err(|_| corrupt())?;
        let statement = serde_json::from_str(&text).map_err(|_| corrupt())?;
        Ok(Told { plan, statement, text })
    }
}

/// One tenant's months in a store.
struct Account<'a> {
    store: &'a dyn Store,
    tenant: &'a str,
    told: BTreeMap<Month, Told>,
}

impl<'a> Account<'a> {
    async fn open(store: &'a dyn Store, tenant: &'a str) -> Result<Self, ReadError> {
        let documents = store.documents(tenant).await?;
        let told = documents.iter().map(|(month, bytes)| Ok((*month, Document::read(bytes)?)));
        Ok(Self { store, tenant, told: told.collect::<Result<_, ReadError>>()? })
    }

    /// Prices a month that is not closed.
    async fn price(&self, month: Month, plan: &PricePlan, now: Timestamp) -> Result<Statement, ReadError> {
        let used = self.used(month).await?;
        Ok(priced(self.tenant, month, plan, &used, now)?)
    }

    /// What was used in a month, and what of it is taken back.
    async fn used(&self, month: Month) -> Result<Used, ReadError> {
        let usage = usage::of_tenant(self.store, self.tenant, month.hours()).await?;
        let (functions, _) = usage::functions_of(self.store, self.tenant).await?;
        let reversed = reversals::sum(self.store, functions, month.hours()).await?;
        Ok(Used { usage, reversed })
    }

    /// What was billed for a month so far: by its own statement, and by the corrections in others.
    fn billed(&self, month: Month) -> Result<Decimal, TooLarge> {
        let period = month.to_string();
        let own = self.told.get(&month).map_or(Ok(Decimal::ZERO), |told| told.statement.of_usage())?;
        let others = self.told.values().flat_map(|told| &told.statement.corrections);
        sum(own, others.filter(|correction| correction.period == period).map(|correction| correction.amount))
    }

    /// Closed months that something came to late. A month without a statement, or without a use of being told, has none.
    async fn late(&self, closed: Closed) -> Result<BTreeSet<Month>, ReadError> {
        let noted = self.store.late().await?;
        if noted.is_empty() {
            return Ok(BTreeSet::new());
        }
        let (_, functions) = usage::functions_of(self.store, self.tenant).await?;
        let of = noted.into_iter().filter(|(function, _)| functions.contains_key(function)).map(|(_, month)| month);
        let told = |month: &Month| self.told.contains_key(month) || month.hours().end <= closed.told_before;
        Ok(of.filter(told).collect())
    }

    /// Corrections of closed months that something came to late, each by the plan of its own statement. What was billed in
    /// another currency cannot be corrected in this one.
    async fn corrections(&self, plan: &PricePlan, closed: Closed) -> Result<Vec<Correction>, ReadError> {
        let mut corrections = Vec::new();
        for month in self.late(closed).await? {
            let by = self.told.get(&month).map_or(plan, |told| &told.plan);
            if by.currency != plan.currency {
                continue;
            }
            let usage = self.used(month).await?.left();
            let (billed, priced) = (self.billed(month)?, by.statement(&usage)?);
            let (restated, unmetered_calls) = (priced.total, priced.unmetered);
            let amount = restated.checked_sub(billed).ok_or(TooLarge)?;
            if !amount.is_zero() {
                corrections.push(Correction { period: month.to_string(), billed, restated, amount, unmetered_calls });
            }
        }
        Ok(corrections)
    }

    /// The statement of a month that is not closed. What came late to those before it is corrected in the first of them.
    async fn of_open(
        &self,
        month: Month,
        plan: &PricePlan,
        closed: Closed,
        now: Timestamp,
    ) -> Result<Statement, ReadError> {
        let mut statement = self.price(month, plan, now).await?;
        if month.hours().start == closed.before {
            statement.correct(self.corrections(plan, closed).await?)?;
        }
        Ok(statement)
    }

    /// Makes and keeps the statements of months that are closed and have none.
    async fn close(&mut self, plan: &PricePlan, closed: Closed, now: Timestamp) -> Result<(), CloseError> {
        // Of whom nothing was known when a month was closed, nothing was owed for it: what came late is corrected.
        for month in self.late(closed).await? {
            if !self.told.contains_key(&month) {
                let nothing = priced(self.tenant, month, plan, &Used::default(), now).map_err(ReadError::from)?;
                self.keep(month, nothing, plan, now).await?;
            }
        }
        let last = Month::of_hour(closed.before).before();
        let corrections = self.corrections(plan, closed).await?;
        let used = usage::months(self.store, self.tenant, closed.told_before..closed.before).await?;
        let mut due: BTreeSet<Month> = used.into_iter().collect();
        due.extend(last.filter(|_| !corrections.is_empty()));
        for month in due {
            if self.told.contains_key(&month) {
                continue;
            }
            let mut statement = self.price(month, plan, now).await?;
            if Some(month) == last {
                statement.correct(corrections.clone())?;
            }
            self.keep(month, statement, plan, now).await?;
        }
        Ok(())
    }

    /// Keeps a statement for ever, if there is none of its month.
    async fn keep(
        &mut self,
        month: Month,
        statement: Statement,
        plan: &PricePlan,
        now: Timestamp,
    ) -> Result<(), CloseError> {
        let closed_at = Some(now.round(jiff::Unit::Second).unwrap_or(now).to_string());
        let statement = Statement { state: State::Closed, closed_at, ..statement };
        let text = serde_json::to_string(&statement).map_err(CloseError::Unwritten)?;
        let value = serde_json::to_value(plan).map_err(CloseError::Unwritten)?;
        let document = Document { plan: value, statement: text.clone() };
        let bytes = serde_json::to_vec(&document).map_err(CloseError::Unwritten)?;
        self.store.keep_document(self.tenant, month, bytes).await?;
        self.told.insert(month, Told { plan: plan.clone(), statement, text });
        Ok(())
    }
}

/// Why months could not be closed; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum CloseError {
    /// Usage could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A statement could not be kept.
    #[error(transparent)]
    Write(#[from] AppendError),
    /// A statement cannot be written.
    #[error("a statement cannot be written: {0}")]
    Unwritten(#[source] serde_json::Error),
}

fn sum(first: Decimal, mut others: impl Iterator<Item = Decimal>) -> Result<Decimal, TooLarge> {
    others.try_fold(first, Decimal::checked_add).ok_or(TooLarge)
}

impl Statement {
    /// What the lines add up to: without corrections.
    fn of_usage(&self) -> Result<Decimal, TooLarge> {
        sum(Decimal::ZERO, self.lines.iter().map(|line| line.amount))
    }

    fn correct(&mut self, corrections: Vec<Correction>) -> Result<(), ReadError> {
        self.total = sum(self.total, corrections.iter().map(|correction| correction.amount))?;
        self.corrections = corrections;
        Ok(())
    }

    /// Puts it beside a fixed price above zero; `None` for amounts beyond 28 digits.
    #[must_use]
    pub fn beside(mut self, fixed_server: Decimal) -> Option<Self> {
        let saving = dormouse_core::price::saving(self.total, fixed_server)?;
        let (saving, saving_percent) = (saving.amount, saving.percent);
        self.comparison = Some(Comparison { fixed_server, saving, saving_percent });
        Some(self)
    }
}

/// What was used in a time.
#[derive(Default)]
struct Used {
    /// Everything.
    usage: UsageSum,
    /// What of it is taken back.
    reversed: UsageSum,
}

impl Used {
    /// The rest.
    fn left(mut self) -> UsageSum {
        self.usage.take_back(&self.reversed);
        self.usage
    }
}

/// The line that takes back what reversed records cost: by the tiers of the month, that is what the statement costs less
/// without them. It counts one adjustment, as the line of rounding does.
fn taken_back(plan: &PricePlan, used: &Used, total: Decimal) -> Result<Option<StatementLine>, TooLarge> {
    if used.reversed.calls() == 0 {
        return Ok(None);
    }
    let left = Used { usage: used.usage.clone(), reversed: used.reversed.clone() }.left();
    let amount = plan.statement(&left)?.total.checked_sub(total).ok_or(TooLarge)?;
    let unit = Item::Rounding.unit(plan.memory_unit).to_owned();
    let (item, quantity) = (REVERSALS.to_owned(), "1".to_owned());
    Ok(Some(StatementLine { item, tier: 1, quantity, unit, unit_price: amount, amount }))
}

fn priced(tenant: &str, month: Month, plan: &PricePlan, used: &Used, now: Timestamp) -> Result<Statement, TooLarge> {
    let usage = &used.usage;
    let priced = plan.statement(usage)?;
    let taken_back = taken_back(plan, used, priced.total)?;
    let total = sum(priced.total, taken_back.iter().map(|line| line.amount))?;
    let moment = |hour: u32| Timestamp::from_second(i64::from(hour) * 3600).unwrap_or(Timestamp::MAX);
    let line = |line: &Line| StatementLine {
        item: line.item.name().to_owned(),
        tier: line.tier,
        quantity: line.quantity.to_string(),
        unit: line.unit.to_owned(),
        unit_price: line.unit_price,
        amount: line.amount,
    };
    let hours = month.hours();
    Ok(Statement {
        tenant: tenant.to_owned(),
        period: month.to_string(),
        from: moment(hours.start).to_string(),
        to: moment(hours.end).to_string(),
        period_over: now >= moment(hours.end),
        complete_through: None,
        state: State::Open,
        closed_at: None,
        plan: plan.name.clone(),
        currency: plan.currency.clone(),
        calls: usage.calls(),
        billed_calls: usage.billed(plan).calls,
        reversed_calls: used.reversed.billed(plan).calls,
        unmetered_calls: priced.unmetered,
        lines: priced.lines.iter().map(line).chain(taken_back).collect(),
        corrections: Vec::new(),
        total,
        comparison: None,
    })
}

/// A statement, and its text where that is kept.
pub struct Answer {
    /// The statement.
    pub statement: Statement,
    /// To the byte as it was told first, if it is closed.
    pub text: Option<String>,
    /// The plan that it is priced by.
    pub plan: PricePlan,
}

impl Answer {
    /// What the lines of usage add up to, where that is fixed: without corrections, what is taken back, and whatever came
    /// late.
    ///
    /// # Errors
    /// When it has more than 28 digits.
    pub fn fixed(&self) -> Result<Option<Decimal>, TooLarge> {
        if self.statement.state != State::Closed {
            return Ok(None);
        }
        self.statement.of_usage()?.checked_sub(self.taken_back()).ok_or(TooLarge).map(Some)
    }

    /// What reversed records take off: zero or less.
    #[must_use]
    pub fn taken_back(&self) -> Decimal {
        let lines = self.statement.lines.iter().find(|line| line.item == REVERSALS);
        lines.map_or(Decimal::ZERO, |line| line.amount)
    }
}

/// A tenant's statement of a month; by another plan, an estimate.
pub(super) async fn of(
    store: &dyn Store,
    (tenant, month): (&str, Month),
    (plans, by): (&Plans, Option<&PricePlan>),
    now: Timestamp,
) -> Result<Answer, ReadError> {
    // Asked first: what is told behind this bound has its statement when it is read.
    let closed = store.closed().await?;
    let mut account = Account::open(store, tenant).await?;
    if let Some(plan) = by {
        let statement = account.price(month, plan, now).await?;
        let statement = Statement { state: State::Estimate, ..statement };
        return Ok(Answer { statement, text: None, plan: plan.clone() });
    }
    if let Some(Told { statement, text, plan }) = account.told.remove(&month) {
        return Ok(Answer { statement, text: Some(text), plan });
    }
    let plan = plans.in_force();
    let mut statement = account.of_open(month, plan, closed, now).await?;
    if month.hours().end <= closed.told_before {
        // Nothing was used in it as far as was known when it was closed. What came late is corrected.
        statement = Statement { state: State::Closed, ..priced(tenant, month, plan, &Used::default(), now)? };
    }
    Ok(Answer { statement, text: None, plan: plan.clone() })
}

/// Closes the months that ended so many days ago, or earlier, and makes the statements that they lack.
pub(super) async fn close(store: &dyn Store, plans: &Plans, after_days: u32, now: Timestamp) -> Result<(), CloseError> {
    let due = now.checked_sub((i64::from(after_days) * 24).hours()).unwrap_or(now);
    let due = Month::of(due).hours().start;
    let before = store.closed().await?;
    if before.before < due {
        store.close(Closed { before: due, ..before }).await?;
    }
    let closed = store.closed().await?;
    if closed.told_before >= closed.before {
        return Ok(());
    }
    let tenants: BTreeSet<String> = store.functions().await?.into_iter().map(|(_, id)| id.tenant).collect();
    let mut failed = None;
    for tenant in &tenants {
        // One that cannot be closed holds up no other.
        if let Err(error) = close_one(store, tenant, plans.in_force(), closed, now).await {
            tracing::error!(tenant, %error, "the months of a tenant cannot be closed");
            failed.get_or_insert(error);
        }
    }
    if let Some(error) = failed {
        return Err(error);
    }
    store.close(Closed { told_before: closed.before, ..closed }).await?;
    tracing::info!(before = %Month::of_hour(closed.before), tenants = tenants.len(), "months are closed");
    Ok(())
}

async fn close_one(
    store: &dyn Store,
    tenant: &str,
    plan: &PricePlan,
    closed: Closed,
    now: Timestamp,
) -> Result<(), CloseError> {
    Account::open(store, tenant).await?.close(plan, closed, now).await
}
