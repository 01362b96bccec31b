//! A statement as FOCUS rows, sent while they are made: however long the month, little of it is held.

use super::answer::head;
use super::error::ApiError;
use super::format::{EXPORTS, Format};
use super::params::{self, Params};
use super::sent::{self, Sender};
use super::{Api, Pairs};
use crate::ledger::statements::{self, Answer};
use crate::ledger::{Filter, Granularity, GroupBy, GroupKey, Month, RowKey, UsageQuery, UsageRow};
use crate::table::{WriteError, Writer};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use dormouse_core::price::focus::{Export, Period, Resource, Told, Version, columns, values};
use jiff::Timestamp;
use std::ops::Range;

/// Functions' hours that are read, and written, at once.
const PART: usize = 1_000;

/// Answers `/v1/statements/{tenant}/{period}/focus`.
pub(super) async fn focus(
    State(api): State<Api>,
    path: Result<Path<(String, String)>, PathRejection>,
    headers: HeaderMap,
    pairs: Pairs,
) -> Result<Response, ApiError> {
    let mut params = Params::new(pairs, &params::FOCUS)?;
    let format = Format::of(&mut params, &headers, &EXPORTS)?;
    let Ok(Path((tenant, period))) = path else {
        params.fault("path", "must be /v1/statements/TENANT/YYYY-MM/focus in UTF-8");
        return Err(ApiError::BadRequest(params.faults()));
    };
    let version = version(&mut params);
    let plans = api.door.plans();
    let by = params.other_plan(plans);
    let month = period.parse::<Month>().map_err(|fault| params.fault("period", &fault.to_string()));
    params.done()?;
    let (Format::Table(format), Ok(month)) = (format, month) else { return Err(ApiError::Internal) };

    let room = api.room().await?;
    let hours = month.hours();
    let (ledger, turn) = api.turn().await?;
    let answer = ledger.statement(&tenant, month, plans, by, Timestamp::now()).await?;
    // What cannot be told is said before anything is.
    answer.plan.statement(&ledger.tenant_usage(&tenant, hours.clone()).await?).map_err(|_| ApiError::TooLarge)?;
    // Of these the asker was admitted to see what is theirs: what the tenant pays for later is not told.
    let namespaces = ledger.namespaces_of(&tenant).await?.into_iter().collect();
    drop((ledger, turn));

    let through = api.through();
    let told = told(&answer)?;
    let Answer { statement, plan, .. } = answer;
    let invoice = (statement.state != statements::State::Estimate).then(|| format!("{tenant}/{month}"));
    let writer = Writer::new(format, columns(version).collect())?;
    let filter = Filter { tenants: vec![tenant.clone()], namespaces, ..Filter::default() };
    let parts = Parts::new(api, filter, &hours, PART);
    let export = Export::new(plan, Period { tenant, hours, invoice });
    let sheet = Sheet { export, told, writer, version };
    let body = sent::body(room, |sender| send(sheet, parts, sender));
    Ok(through.on((head(format), body).into_response()))
}

/// What the statement says beside usage.
fn told(answer: &Answer) -> Result<Told, ApiError> {
    let corrections = answer.statement.corrections.iter().map(|correction| {
        let month = correction.period.parse::<Month>().map_err(|_| ApiError::Internal)?;
        Ok((month.hours(), correction.amount))
    });
    let usage = answer.fixed().map_err(|_| ApiError::TooLarge)?;
    Ok(Told { usage, reversed: answer.taken_back(), corrections: corrections.collect::<Result<_, ApiError>>()? })
}

fn version(params: &mut Params) -> Version {
    let Some(name) = params.one("version") else { return Version::default() };
    Version::named(&name).unwrap_or_else(|| {
        params.fault("version", &format!("must be one of {}", Version::ALL.map(Version::name).join(", ")));
        Version::default()
    })
}

/// Sends a whole export, for as long as somebody reads it.
async fn send(mut sheet: Sheet, mut parts: Parts, sender: Sender) -> Result<(), ApiError> {
    while let Some(rows) = parts.next().await? {
        let Some(back) = sender.made(sheet, move |sheet| sheet.rows(&rows)).await? else { return Ok(()) };
        sheet = back;
    }
    sender.end(sheet.finish()?).await;
    Ok(())
}

/// The rows of an export as bytes.
struct Sheet {
    export: Export,
    told: Told,
    writer: Writer,
    version: Version,
}

impl Sheet {
    fn rows(&mut self, used: &[UsageRow]) -> Result<Vec<u8>, WriteError> {
        for UsageRow { group, time, usage } in used {
            let GroupKey { namespace, function, function_uid, .. } = &**group;
            let [namespace, name, uid] =
                [namespace, function, function_uid].map(|text| text.clone().unwrap_or_default());
            let resource = Resource { namespace, name, uid };
            for row in self.export.used(&resource, time, usage) {
                self.writer.row(values(&self.export, &row, self.version))?;
            }
        }
        self.writer.take()
    }

    fn finish(mut self) -> Result<Vec<u8>, WriteError> {
        let (last, total) = self.export.finish(&self.told)?;
        for row in &last {
            self.writer.row(values(&self.export, row, self.version))?;
        }
        let mut bytes = self.writer.take()?;
        let notes = [("FocusVersion", self.version.name().to_owned()), ("BilledCost", total.amount.to_string())];
        bytes.extend(self.writer.finish(&notes)?);
        Ok(bytes)
    }
}

/// What a tenant used, part by part in the order of time and, within a time, of functions.
struct Parts {
    api: Api,
    /// Of what.
    filter: Filter,
    /// Where the next part begins, hours since 1970 UTC.
    at: u32,
    end: u32,
    /// How many times a part is long: hours, or days where there are no hours. As many as have a part's rows.
    step: u32,
    /// The part before ended within its only time, behind this row.
    after: Option<(Granularity, RowKey)>,
    /// Most rows of a part.
    limit: usize,
}

impl Parts {
    fn new(api: Api, filter: Filter, hours: &Range<u32>, limit: usize) -> Self {
        Self { api, filter, at: hours.start, end: hours.end, step: 1, after: None, limit }
    }

    /// The next part, which may be empty; none behind the last one.
    async fn next(&mut self) -> Result<Option<Vec<UsageRow>>, ApiError> {
        while self.at < self.end {
            let (ledger, _turn) = self.api.turn().await?;
            let (granularity, hours) = self.time(ledger.kept_from().hours)?;
            let page = ledger.usage(&self.question(granularity, &hours)).await?;
            if granularity == Granularity::Hour && ledger.kept_from().hours > hours.start {
                // These hours became days while they were read.
                continue;
            }
            let mut rows = page.rows;
            match page.next {
                // Rows come by function and then time: of several times only all of them can be put in order.
                Some(_) if self.step > 1 => {
                    self.step /= 2;
                    continue;
                }
                Some(last) => self.after = Some((granularity, last)),
                None => {
                    self.at = hours.end;
                    if rows.len() * 2 <= self.limit && self.after.is_none() {
                        self.step = self.step.saturating_mul(2).min(self.end - hours.start);
                    }
                    self.after = None;
                }
            }
            rows.sort_by(|a, b| (a.time.start, &a.group).cmp(&(b.time.start, &b.group)));
            return Ok(Some(rows));
        }
        Ok(None)
    }

    /// The time of the next part.
    fn time(&self, kept_from: u32) -> Result<(Granularity, Range<u32>), ApiError> {
        let (granularity, unit, end) = match self.at < kept_from {
            true => (Granularity::Day, 24, self.end.min(kept_from)),
            false => (Granularity::Hour, 1, self.end),
        };
        let goes_on = self.after.as_ref().is_none_or(|(before, _)| *before == granularity);
        if !self.at.is_multiple_of(unit) || !goes_on {
            return Err(ApiError::Unavailable("hours of this month became days meanwhile: ask again".to_owned()));
        }
        Ok((granularity, self.at..self.at.saturating_add(self.step.saturating_mul(unit)).min(end)))
    }

    fn question(&self, granularity: Granularity, hours: &Range<u32>) -> UsageQuery {
        UsageQuery {
            hours: hours.clone(),
            granularity,
            group_by: GroupBy { tenant: false, namespace: true, function: true, function_uid: true },
            filter: self.filter.clone(),
            local: None,
            after: self.after.as_ref().map(|(_, last)| last.clone()),
            limit: self.limit,
        }
    }
}

#[cfg(test)]
mod tests;
