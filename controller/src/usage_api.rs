//! The usage API: what was used and what it costs, over HTTP. The file `openapi.yaml` says every field; a test holds
//! it against the routes here.
//!
//! Nothing is unbounded: answers are pages, the work for one page has a limit, and only a few questions read the disk
//! at once.

mod access;
mod all;
mod answer;
mod budgets;
mod cursor;
mod error;
mod events;
mod focus;
mod format;
mod guard;
mod params;
mod payers;
mod period;
mod pools;
mod requests;
mod reversals;
pub mod reviews;
mod sent;
mod times;
mod views;

#[cfg(test)]
mod tests;

use crate::budgets::Budgets;
use crate::ledger::statements::Answer;
use crate::ledger::{Ledger, LedgerDoor, Month, RecordsQuery, UsageQuery};
use crate::table::moment;
use crate::tenants::Tenants;
use axum::Router;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use cursor::Cursor;
use error::ApiError;
use format::{ANSWERS, Format};
use jiff::Timestamp;
use params::Params;
use payers::Payers;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use views::{PricesView, RecordsView, UsageView};

pub use answer::encoded;
pub use events::events;
pub use guard::Guard;
pub use pools::pools;
pub use requests::Requests;

/// Questions that read the disk at once. Each holds one page in memory: 10,000 rows x about 500 B = 5 MB.
const READERS: usize = 4;
/// How long a question waits for its turn.
const TURN: Duration = Duration::from_secs(10);
/// Says how far records are complete; absent while that cannot be said.
const COMPLETE_THROUGH: HeaderName = HeaderName::from_static("dormouse-complete-through");
/// The file that describes all this.
const OPENAPI: &str = include_str!("../openapi.yaml");

type Pairs = Result<Query<Vec<(String, String)>>, QueryRejection>;

#[derive(Clone)]
struct Api {
    door: LedgerDoor,
    budgets: Budgets,
    turns: Arc<Semaphore>,
    exports: Arc<Semaphore>,
}

/// The routes behind the guard. What a question to one of them needs is [`access::need`]'s to say.
fn guarded() -> Vec<(&'static str, MethodRouter<Api>)> {
    vec![
        ("/v1/usage", get(usage)),
        ("/v1/records", get(records)),
        ("/v1/reversals", get(reversals::list).post(reversals::reverse).layer(reversals::bounded())),
        ("/v1/statements/{tenant}/{period}", get(statement)),
        ("/v1/statements/{tenant}/{period}/focus", get(focus::focus)),
        ("/v1/budgets", get(budgets::budgets)),
        ("/v1/prices", get(prices)),
    ]
}

/// The routes that anyone may ask.
fn open() -> Vec<(&'static str, MethodRouter<Api>)> {
    vec![("/openapi.yaml", get(openapi))]
}

/// The API of the ledger behind a door, and of budgets.
pub fn router(door: LedgerDoor, budgets: Budgets, guard: Guard, tenants: Tenants) -> Router {
    let add = |router: Router<Api>, (path, handler)| router.route(path, handler);
    let [turns, exports] = [READERS, sent::AT_ONCE].map(|room| Arc::new(Semaphore::new(room)));
    let guard = guard.told_by(Payers { tenants, door: door.clone(), turns: Arc::clone(&turns) });
    let guarded = guarded().into_iter().fold(Router::new(), add);
    let guarded = guarded.route_layer(axum::middleware::from_fn_with_state(guard, guard::check));
    let api = Api { door, budgets, turns, exports };
    open()
        .into_iter()
        .fold(guarded, add)
        .fallback(async || ApiError::NotFound("there is nothing at this path: see /openapi.yaml".to_owned()))
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .with_state(api)
}

/// The API with other routes beside it, behind the same guard: they need the right to see everything.
pub fn with(api: Router, beside: Option<Router>, guard: Guard) -> Router {
    let Some(beside) = beside else { return api };
    api.merge(beside.route_layer(axum::middleware::from_fn_with_state(guard, guard::check)))
}

impl Api {
    /// How far records are complete; to be asked before the ledger is, so that the answer has them.
    fn through(&self) -> CompleteThrough {
        CompleteThrough(self.door.through().at_us())
    }

    /// The ledger, when it is this question's turn: for as long as the turn is held.
    async fn turn(&self) -> Result<(Ledger, OwnedSemaphorePermit), ApiError> {
        let ledger = self.door.ledger().map_err(ApiError::Unavailable)?;
        Ok((ledger, within(&self.turns).await?))
    }

    /// Room for an export: for as long as it is held.
    async fn room(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        within(&self.exports).await
    }
}

async fn within(room: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, ApiError> {
    match tokio::time::timeout(TURN, Arc::clone(room).acquire_owned()).await {
        Ok(Ok(permit)) => Ok(permit),
        _ => Err(ApiError::Busy),
    }
}

/// The moment before which every call has its record in the ledger, or is known to have none.
struct CompleteThrough(Option<i64>);

impl CompleteThrough {
    fn text(&self) -> Option<String> {
        self.0.map(moment)
    }

    /// An answer that says so in its head, however it is written.
    fn on(&self, mut response: Response) -> Response {
        if let Some(Ok(value)) = self.text().map(|text| HeaderValue::from_str(&text)) {
            response.headers_mut().insert(COMPLETE_THROUGH, value);
        }
        response
    }
}

async fn usage(State(api): State<Api>, uri: Uri, headers: HeaderMap, pairs: Pairs) -> Result<Response, ApiError> {
    let mut params = Params::new(pairs, &params::USAGE)?;
    let format = Format::of(&mut params, &headers, &ANSWERS)?;
    let now = Timestamp::now();
    let period = params.period(now);
    let group_by = params.group_by();
    let filter = params.filter();
    let cursor = Cursor::new(&params);
    let after = params.usage_cursor(&cursor);
    let limit = params.limit_or_all(format);
    let plan = params.plan(api.door.plans());
    params.done()?;
    let (hours, granularity, local) = (period.hours.clone(), period.granularity, period.local.clone());
    let all = limit.is_none();
    let query = UsageQuery { hours, granularity, local, group_by, filter, after, limit: limit.unwrap_or(usize::MAX) };
    if let (true, Format::Table(format)) = (all, format) {
        return all::all(api.clone(), format, query, (period, plan)).await;
    }
    let (ledger, _turn) = api.turn().await?;
    Params::reach(&period, ledger.kept_from())?;
    let through = api.through();
    let page = ledger.usage(&query).await?;
    let next = page.next.as_ref().map(|key| cursor.usage(key));
    let names = params::group_names(group_by);
    let view = UsageView::new(&period, names, plan, &page.rows, next, through.text());
    Ok(through.on(answer::answer(format, &view, &uri)?))
}

async fn records(State(api): State<Api>, uri: Uri, headers: HeaderMap, pairs: Pairs) -> Result<Response, ApiError> {
    let mut params = Params::new(pairs, &params::RECORDS)?;
    let format = Format::of(&mut params, &headers, &ANSWERS)?;
    let times_us = params.times_us(Timestamp::now());
    let filter = params.record_filter();
    let cursor = Cursor::new(&params);
    let after = params.records_cursor(&cursor);
    let limit = params.limit();
    let plan = params.plan(api.door.plans());
    params.done()?;
    let query = RecordsQuery { times_us: times_us.clone(), filter, after, limit };
    let (ledger, _turn) = api.turn().await?;
    Params::reach_records(&query.times_us, ledger.kept_from())?;
    let through = api.through();
    let page = ledger.records(&query).await?;
    let next = page.next.as_ref().map(|key| cursor.records(key));
    let reversed = ledger.reversed_among(&page.rows).await?;
    let view = RecordsView::new(&times_us, plan, (&page.rows, &reversed), next, through.text());
    Ok(through.on(answer::answer(format, &view, &uri)?))
}

async fn statement(
    State(api): State<Api>,
    path: Result<Path<(String, String)>, PathRejection>,
    uri: Uri,
    headers: HeaderMap,
    pairs: Pairs,
) -> Result<Response, ApiError> {
    let mut params = Params::new(pairs, &params::STATEMENT)?;
    let format = Format::of(&mut params, &headers, &ANSWERS)?;
    let Ok(Path((tenant, period))) = path else {
        params.fault("path", "must be /v1/statements/TENANT/YYYY-MM in UTF-8");
        return Err(ApiError::BadRequest(params.faults()));
    };
    let fixed = params.fixed_server();
    let plans = api.door.plans();
    let by = params.other_plan(plans);
    let month = period.parse::<Month>().map_err(|fault| params.fault("period", &fault.to_string()));
    params.done()?;
    let month = month.map_err(|()| ApiError::Internal)?;
    let (ledger, _turn) = api.turn().await?;
    let through = api.through();
    let Answer { mut statement, text, .. } = ledger.statement(&tenant, month, plans, by, Timestamp::now()).await?;
    if statement.state != crate::ledger::statements::State::Closed {
        statement.complete_through = through.text();
    }
    Ok(through.on(match (fixed, text) {
        (Some(fixed), _) => answer::answer(format, &statement.beside(fixed).ok_or(ApiError::TooLarge)?, &uri)?,
        (None, Some(text)) => answer::kept(format, &statement, text, &uri)?,
        (None, None) => answer::answer(format, &statement, &uri)?,
    }))
}

async fn prices(State(api): State<Api>, uri: Uri, headers: HeaderMap, pairs: Pairs) -> Result<Response, ApiError> {
    let mut params = Params::new(pairs, &params::PRICES)?;
    let format = Format::of(&mut params, &headers, &ANSWERS)?;
    let plans = api.door.plans();
    let plan = params.plan(plans);
    params.done()?;
    let others = plans.all().map(|other| other.name.clone()).filter(|name| *name != plan.name).collect();
    answer::answer(format, &PricesView::new(plan, others), &uri)
}

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/yaml")], OPENAPI).into_response()
}
