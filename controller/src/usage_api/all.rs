//! Every row of a question for sums, sent while they are read: parts are read beside each other, and written in order.

use super::Api;
use super::answer::{head, tell};
use super::error::ApiError;
use super::params::Params;
use super::period::Period;
use super::sent::{self, Sender};
use super::views::{UsageRowView, told};
use crate::ledger::{Groups, UsageQuery, UsageRow};
use crate::table::{Format, WriteError, Writer};
use axum::response::{IntoResponse, Response};
use dormouse_core::price::PricePlan;
use futures::{StreamExt, TryStreamExt};
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use tokio_util::task::AbortOnDropHandle;

/// Rows of a part, about: 400 B each as sums, 200 B as a line of CSV. A group is never cut: one by the hour has as many as
/// hours are kept, 9,500 of 13 months.
const PART: usize = 4_096;
/// Parts that are read, or wait to be written: one for each core of a small machine, while a third one is written. 5 MB.
const AHEAD: usize = 3;

/// Answers `/v1/usage` with `limit=all`.
pub(super) async fn all(
    api: Api,
    format: Format,
    query: UsageQuery,
    (period, plan): (Period, &PricePlan),
) -> Result<Response, ApiError> {
    let room = api.room().await?;
    let (ledger, turn) = api.turn().await?;
    Params::reach(&period, ledger.kept_from())?;
    let through = api.through();
    let groups = Arc::new(ledger.groups(&query).await?);
    drop((ledger, turn));
    let writer = Writer::new(format, UsageRowView::columns())?;
    let (period, plan) = (Arc::new(period), plan.clone());
    let mut answer = head(format).into_response();
    let (from, to) = period.text();
    tell(&mut answer, &told(&plan.name, &plan.currency, Some((&from, &to))));
    let asked = (api, Arc::clone(&period), groups);
    *answer.body_mut() = sent::body(room, |sender| send(asked, Sheet { writer, period, plan }, sender));
    Ok(through.on(answer))
}

async fn send(
    (api, period, groups): (Api, Arc<Period>, Arc<Groups>),
    mut sheet: Sheet,
    sender: Sender,
) -> Result<(), ApiError> {
    // Each reads by itself and gives its turn back when it has: who reads what is sent may be slow.
    let read = |part| {
        let (api, period, groups) = (api.clone(), Arc::clone(&period), Arc::clone(&groups));
        AbortOnDropHandle::new(tokio::spawn(async move { read(&api, &period, &groups, part).await }))
    };
    let mut parts = pin!(futures::stream::iter(groups.parts(PART).map(read)).buffered(AHEAD));
    while let Some(rows) = parts.try_next().await.map_err(|_| ApiError::Internal)? {
        let rows = rows?;
        let Some(back) = sender.made(sheet, move |sheet| sheet.rows(&rows)).await? else { return Ok(()) };
        sheet = back;
    }
    sender.end(sheet.writer.finish(&[])?).await;
    Ok(())
}

async fn read(api: &Api, period: &Period, groups: &Groups, part: Range<usize>) -> Result<Vec<UsageRow>, ApiError> {
    let (ledger, _turn) = api.turn().await?;
    let rows = ledger.part(groups, part).await?;
    // Hours that became days meanwhile are not in it: half an answer is none.
    Params::reach(period, ledger.kept_from())?;
    Ok(rows)
}

/// The rows as bytes.
struct Sheet {
    writer: Writer,
    period: Arc<Period>,
    plan: PricePlan,
}

impl Sheet {
    fn rows(&mut self, rows: &[UsageRow]) -> Result<Vec<u8>, WriteError> {
        for row in rows {
            let view = UsageRowView::new(row, &self.period, &self.plan);
            self.writer.row(view.values().into_iter())?;
        }
        self.writer.take()
    }
}
