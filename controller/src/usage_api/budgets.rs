//! `/v1/budgets`: how tenants' budgets stand.

use super::answer::{self, Cell, Table, row};
use super::error::ApiError;
use super::format::{ANSWERS, Format};
use super::params::{self, Params};
use super::{Api, Pairs};
use crate::budgets::BudgetView;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use dormouse_core::table::{Column, Value};
use rust_decimal::Decimal;
use serde::Serialize;

row! {
    /// One budget.
    BudgetRow {
        name: String,
        tenant: String,
        period: String,
        state: &'static str,
        in_force: bool,
        problem: Option<String>,
        unit: String,
        limit: Decimal,
        spent: Option<Decimal>,
        left: Option<Decimal>,
        percent: Option<u64>,
        warn_percent: u32,
        stop_percent: Option<u64>,
    }
}

impl From<BudgetView> for BudgetRow {
    fn from(view: BudgetView) -> Self {
        let BudgetView { name, tenant, period, state, in_force, problem, unit, limit, .. } = view;
        let BudgetView { spent, left, percent, warn_percent, stop_percent, .. } = view;
        let percent = percent.and_then(|percent| u64::try_from(percent).ok());
        let stop_percent = stop_percent.map(u64::from);
        Self {
            name,
            tenant,
            period,
            state,
            in_force,
            problem,
            unit,
            limit,
            spent,
            left,
            percent,
            warn_percent,
            stop_percent,
        }
    }
}

/// Answer of `/v1/budgets`.
#[derive(Serialize)]
struct BudgetsView {
    complete_through: Option<String>,
    budgets: Vec<BudgetRow>,
}

impl Table for BudgetsView {
    fn columns(&self) -> Vec<Column> {
        BudgetRow::columns()
    }

    fn rows(&self) -> impl Iterator<Item = impl IntoIterator<Item = Value<'_>>> {
        self.budgets.iter().map(BudgetRow::values)
    }

    fn told(&self) -> Vec<(&'static str, &str)> {
        Vec::new()
    }
}

pub(super) async fn budgets(
    State(api): State<Api>,
    uri: Uri,
    headers: HeaderMap,
    pairs: Pairs,
) -> Result<Response, ApiError> {
    let mut params = Params::new(pairs, &params::BUDGETS)?;
    let format = Format::of(&mut params, &headers, &ANSWERS)?;
    let tenants = params.filter().tenants;
    params.done()?;
    let through = api.through();
    let asked = |view: &BudgetView| tenants.is_empty() || tenants.contains(&view.tenant);
    let budgets = api.budgets.views().into_iter().filter(asked).map(BudgetRow::from).collect();
    let view = BudgetsView { complete_through: through.text(), budgets };
    Ok(through.on(answer::answer(format, &view, &uri)?))
}
