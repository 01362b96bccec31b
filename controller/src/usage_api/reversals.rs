//! Records that are taken back: the order, and the list of those that were.

use super::answer;
use super::cursor::Cursor;
use super::error::{ApiError, Fault};
use super::format::{ANSWERS, Format};
use super::guard::Asker;
use super::params::{self, Params};
use super::views::RecordsView;
use super::{Api, Pairs};
use crate::ledger::reversals::{MAX_AT_ONCE, Order, RecordId, Reversal, Reversed};
use crate::ledger::{RecordKey, RecordRow};
use crate::table::moment;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use axum::{Extension, Json};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Longest order: 1,000 records of about 120 bytes, and a reason; twice that.
const MAX_BODY: usize = 256 << 10;

/// The bound of an order's body.
pub(super) fn bounded() -> DefaultBodyLimit {
    DefaultBodyLimit::max(MAX_BODY)
}

/// What is to be taken back.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    reason: String,
    records: Vec<Named>,
}

/// A record, by what `/v1/records` says of it.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Named {
    activator: String,
    epoch: u32,
    seq: u64,
    received_at: String,
}

/// What became of it.
#[derive(Serialize)]
struct Told {
    activator: String,
    epoch: u32,
    seq: u64,
    received_at: String,
    outcome: &'static str,
}

/// Answer of an order.
#[derive(Serialize)]
pub(super) struct ReversedView {
    reversed: usize,
    reversed_before: usize,
    unknown: usize,
    rows: Vec<Told>,
}

/// Answers `POST /v1/reversals`.
pub(super) async fn reverse(
    State(api): State<Api>,
    Extension(Asker(by)): Extension<Asker>,
    pairs: Pairs,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<ReversedView>, ApiError> {
    Params::new(pairs, &[])?.done()?;
    let body = body.map_err(|_| bad(&format!("must be at most {MAX_BODY} bytes")))?;
    let Wanted { reason, records } = serde_json::from_slice(&body).map_err(|e| bad(&format!("is no order: {e}")))?;
    if records.len() > MAX_AT_ONCE {
        return Err(bad(&format!("names more than {MAX_AT_ONCE} records")));
    }
    let ids = records.iter().map(Named::id).collect::<Result<Vec<_>, _>>()?;
    let (ledger, _turn) = api.turn().await?;
    let order = Order { by: &by, reason: &reason, at: Timestamp::now() };
    let outcomes = ledger.reverse(&ids, order).await?;
    let count = |outcome| outcomes.iter().filter(|told| **told == outcome).count();
    let [reversed, reversed_before, unknown] = [Reversed::Now, Reversed::Before, Reversed::Unknown].map(count);
    tracing::info!(by, reason, reversed, reversed_before, unknown, "records are taken back");
    let rows = ids.iter().zip(&outcomes).map(|(id, outcome)| Told::of(id, *outcome)).collect();
    Ok(Json(ReversedView { reversed, reversed_before, unknown, rows }))
}

/// Answers `GET /v1/reversals`: the records that are taken back, as `/v1/records` tells them, for ever.
pub(super) async fn list(
    State(api): State<Api>,
    uri: Uri,
    headers: HeaderMap,
    pairs: Pairs,
) -> Result<Response, ApiError> {
    let mut params = Params::new(pairs, &params::REVERSALS)?;
    let format = Format::of(&mut params, &headers, &ANSWERS)?;
    let times_us = params.times_us(Timestamp::now());
    let filter = params.record_filter();
    let cursor = Cursor::new(&params);
    let after = params.records_cursor(&cursor).map(behind);
    let limit = params.limit();
    let plan = params.plan(api.door.plans());
    params.done()?;
    let (ledger, _turn) = api.turn().await?;
    let through = api.through();
    let (reversals, more) = ledger.reversals(&filter, &times_us, (after, limit)).await?;
    let rows: Vec<RecordRow> = reversals.iter().map(row).collect();
    let next = rows.last().filter(|_| more).map(|row| cursor.records(&row.key));
    let reversed: HashMap<RecordId, Reversal> = reversals.into_iter().map(|reversal| (reversal.id, reversal)).collect();
    let view = RecordsView::new(&times_us, plan, (&rows, &reversed), next, through.text());
    Ok(through.on(answer::answer(format, &view, &uri)?))
}

/// The record of a reversal, in the place that it has or had among others.
fn row(reversal: &Reversal) -> RecordRow {
    let Reversal { id, request_id, subject, record, .. } = reversal;
    let RecordId { activator, epoch, seq, .. } = *id;
    // Where a page ends is told by the whole of it: see `behind`.
    let key = RecordKey { hour: reversal.hour(), activator, epoch, block: 0, seq };
    RecordRow { key, request_id: *request_id, subject: subject.clone(), record: *record }
}

/// The place that a page ended at: of its hour any moment does.
fn behind(key: RecordKey) -> RecordId {
    let RecordKey { hour, activator, epoch, seq, .. } = key;
    RecordId { activator, epoch, seq, received_at_us: i64::from(hour) * 3_600_000_000 }
}

fn bad(problem: &str) -> ApiError {
    ApiError::BadRequest(vec![Fault { parameter: "body".to_owned(), problem: problem.to_owned() }])
}

impl Named {
    fn id(&self) -> Result<RecordId, ApiError> {
        let Self { activator, epoch, seq, received_at } = self;
        let plain = activator.len() == 16 && activator.bytes().all(|b| b.is_ascii_hexdigit());
        let activator = u64::from_str_radix(activator, 16).ok().filter(|_| plain);
        let activator = activator.ok_or_else(|| bad("names a record whose activator is not 16 hexadecimal digits"))?;
        let at = received_at.parse::<Timestamp>().map_err(|_| bad("names a record whose received_at is no time"))?;
        Ok(RecordId { activator, epoch: *epoch, seq: *seq, received_at_us: at.as_microsecond() })
    }
}

impl Told {
    fn of(id: &RecordId, outcome: Reversed) -> Self {
        let RecordId { activator, epoch, seq, received_at_us } = *id;
        let outcome = match outcome {
            Reversed::Now => "reversed",
            Reversed::Before => "reversed_before",
            Reversed::Unknown => "unknown",
        };
        Self { activator: format!("{activator:016x}"), epoch, seq, received_at: moment(received_at_us), outcome }
    }
}
