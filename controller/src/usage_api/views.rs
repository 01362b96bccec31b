//! Answers, field by field: names are kept stable and stand in `openapi.yaml`. Amounts and GB-seconds are decimal text.

use super::params::Params;
use super::period::Period;
use super::times::{hour_text, micros_text, minute_text, second_text};
use crate::ledger::statements::{Correction, Statement, StatementLine};
use crate::ledger::{Granularity, RecordRow, UsageRow};
use axum::Json;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use dormouse_core::price::{BilledOutcomes, Exact, Item, PricePlan};
use dormouse_core::record::Outcome;
use dormouse_core::usage::Class;
use rust_decimal::Decimal;
use serde::Serialize;
use std::ops::Range;

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Csv,
}

impl Format {
    /// By the parameter, else by the Accept header, else JSON.
    pub(super) fn of(params: &mut Params, headers: &HeaderMap) -> Self {
        match params.one("format").as_deref() {
            Some("json") => Self::Json,
            Some("csv") => Self::Csv,
            Some(_) => {
                params.fault("format", "must be json or csv");
                Self::Json
            }
            None => {
                let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
                let first = accept.split(',').map(|part| part.split(';').next().unwrap_or_default().trim());
                match first.into_iter().find(|kind| ["text/csv", "application/json", "*/*"].contains(kind)) {
                    Some("text/csv") => Self::Csv,
                    _ => Self::Json,
                }
            }
        }
    }
}

/// An answer that is also a table.
pub(super) trait Table: Serialize {
    /// A line of names, then lines of values.
    fn table(&self) -> Vec<Vec<String>>;

    /// Where the next page begins.
    fn next(&self) -> Option<&str> {
        None
    }
}

/// Writes an answer whose text in JSON is known.
pub(super) fn kept(format: Format, view: &impl Table, text: String) -> Response {
    match format {
        Format::Json => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Format::Csv => answer(format, view),
    }
}

/// Writes an answer. In CSV the next page's cursor is in the header `Dormouse-Next-Cursor`.
pub(super) fn answer(format: Format, view: &impl Table) -> Response {
    if format == Format::Json {
        return Json(view).into_response();
    }
    let mut text = String::new();
    for line in view.table() {
        let cells: Vec<_> = line.iter().map(|cell| csv_cell(cell)).collect();
        text.push_str(&cells.join(","));
        text.push_str("\r\n");
    }
    let mut response = ([(header::CONTENT_TYPE, "text/csv; charset=utf-8; header=present")], text).into_response();
    if let Some(next) = view.next().and_then(|next| HeaderValue::from_str(next).ok()) {
        response.headers_mut().insert("dormouse-next-cursor", next);
    }
    response
}

/// RFC 4180: a cell with a comma, quote or line break stands in quotes.
fn csv_cell(text: &str) -> String {
    if text.contains([',', '"', '\r', '\n']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

/// Declares a row: the same fields in JSON and, in the same order, as columns.
macro_rules! row {
    ($(#[$meta:meta])* $name:ident { $($field:ident: $kind:ty,)* }) => {
        $(#[$meta])*
        #[derive(Serialize)]
        pub(super) struct $name { $($field: $kind,)* }

        impl $name {
            const COLUMNS: &[&str] = &[$(stringify!($field)),*];

            fn cells(&self) -> Vec<String> {
                vec![$(Cell::cell(&self.$field)),*]
            }
        }
    };
}

/// A value as a CSV cell; nothing is an empty one.
trait Cell {
    fn cell(&self) -> String;
}

macro_rules! plain_cells {
    ($($kind:ty),*) => { $(impl Cell for $kind { fn cell(&self) -> String { self.to_string() } })* };
}
plain_cells!(String, &'static str, bool, u16, u32, u64, u128, Exact, Decimal);

impl Cell for Option<String> {
    fn cell(&self) -> String {
        self.clone().unwrap_or_default()
    }
}

fn table<R>(columns: &[&str], rows: &[R], cells: impl Fn(&R) -> Vec<String>) -> Vec<Vec<String>> {
    let head = columns.iter().map(|name| (*name).to_owned()).collect();
    std::iter::once(head).chain(rows.iter().map(cells)).collect()
}

row! {
    /// Usage of one group in one time.
    UsageRowView {
        start: String,
        end: String,
        tenant: Option<String>,
        namespace: Option<String>,
        function: Option<String>,
        function_uid: Option<String>,
        calls: u64,
        billed_calls: u64,
        ok: u64,
        function_error: u64,
        platform_error: u64,
        timeout: u64,
        client_gone: u64,
        aborted: u64,
        cold_calls: u64,
        billed_ms: u128,
        gb_seconds: Exact,
        vcpu_seconds: Exact,
        warm_gb_seconds: Exact,
        warm_used_gb_seconds: Exact,
        wait_us: u128,
        claim_us: u128,
        start_us: u128,
        connect_us: u128,
        run_us: u128,
        request_bytes: u128,
        response_bytes: u128,
        cost: Exact,
    }
}

impl UsageRowView {
    fn new(row: &UsageRow, period: &Period, plan: &PricePlan) -> Self {
        let text = if period.in_minutes() { minute_text } else { hour_text };
        let billed = row.usage.billed(plan);
        let calls = |outcome| row.usage.ended(outcome);
        let group = row.group.clone();
        let mut time = billed.time;
        time.merge(&billed.warm_time);
        let memory = |mib_ms| plan.memory_unit.gb_seconds(mib_ms);
        Self {
            start: text(row.time.start),
            end: text(row.time.end),
            tenant: group.tenant,
            namespace: group.namespace,
            function: group.function,
            function_uid: group.function_uid,
            calls: row.usage.calls(),
            billed_calls: billed.calls,
            ok: calls(Outcome::Ok),
            function_error: calls(Outcome::FunctionError),
            platform_error: calls(Outcome::PlatformError),
            timeout: calls(Outcome::Timeout),
            client_gone: calls(Outcome::ClientGone),
            aborted: calls(Outcome::Aborted),
            cold_calls: row.usage.cold,
            billed_ms: time.ms,
            gb_seconds: memory(time.mib_ms),
            vcpu_seconds: Exact::vcpu_seconds(time.mcpu_ms),
            warm_gb_seconds: memory(row.usage.warm.mib_ms),
            warm_used_gb_seconds: memory(row.usage.warm.used().0),
            wait_us: row.usage.wait_us,
            claim_us: row.usage.claim_us,
            start_us: row.usage.start_us,
            connect_us: row.usage.connect_us,
            run_us: row.usage.run_us,
            request_bytes: row.usage.request_bytes,
            response_bytes: row.usage.response_bytes,
            cost: plan.cost(&billed, &row.usage.warm),
        }
    }
}

/// Answer of `/v1/usage`.
#[derive(Serialize)]
pub(super) struct UsageView {
    from: String,
    to: String,
    complete_through: Option<String>,
    time_zone: String,
    granularity: &'static str,
    group_by: Vec<&'static str>,
    plan: String,
    currency: String,
    rows: Vec<UsageRowView>,
    next_cursor: Option<String>,
}

impl UsageView {
    pub(super) fn new(
        period: &Period,
        group_by: Vec<&'static str>,
        plan: &PricePlan,
        rows: &[UsageRow],
        next_cursor: Option<String>,
        complete_through: Option<String>,
    ) -> Self {
        let name = match period.granularity {
            Granularity::Minute => "PT1M",
            Granularity::Hour => "PT1H",
            Granularity::Day => "P1D",
            Granularity::Month => "P1M",
            Granularity::Total => "total",
        };
        Self {
            from: second_text(period.seconds.start),
            to: second_text(period.seconds.end),
            complete_through,
            time_zone: period.zone.clone(),
            granularity: name,
            group_by,
            plan: plan.name.clone(),
            currency: plan.currency.clone(),
            rows: rows.iter().map(|row| UsageRowView::new(row, period, plan)).collect(),
            next_cursor,
        }
    }
}

impl Table for UsageView {
    fn table(&self) -> Vec<Vec<String>> {
        table(UsageRowView::COLUMNS, &self.rows, UsageRowView::cells)
    }

    fn next(&self) -> Option<&str> {
        self.next_cursor.as_deref()
    }
}

row! {
    /// One record.
    RecordView {
        request_id: String,
        activator: String,
        epoch: u32,
        seq: u64,
        received_at: String,
        tenant: String,
        namespace: String,
        function: String,
        function_uid: String,
        revision: String,
        instance: String,
        memory_mib: u32,
        cpu_millis: u32,
        wait_us: u64,
        claim_us: u64,
        start_us: u64,
        connect_us: u64,
        run_us: u64,
        request_bytes: u64,
        response_bytes: u64,
        status: u16,
        outcome: &'static str,
        cold: bool,
        first: bool,
        warm: bool,
        idempotency_key: Option<String>,
        billed: bool,
        compute_line: &'static str,
        cpu_line: &'static str,
        billed_ms: u64,
        cost: Exact,
    }
}

impl RecordView {
    fn new(row: &RecordRow, plan: &PricePlan) -> Self {
        let RecordRow { key, request_id, subject, record } = row;
        let billed = plan.bills(Class::of(record));
        let warm = record.warm_slots != 0;
        Self {
            request_id: request_id.to_string(),
            activator: format!("{:016x}", key.activator),
            epoch: key.epoch,
            seq: key.seq,
            received_at: micros_text(record.received_at_us),
            tenant: subject.tenant.clone(),
            namespace: subject.namespace.clone(),
            function: subject.name.clone(),
            function_uid: subject.function_uid.clone(),
            revision: subject.revision.clone(),
            instance: subject.instance.clone(),
            memory_mib: subject.memory_mib,
            cpu_millis: subject.cpu_millis,
            wait_us: record.wait_us,
            claim_us: record.claim_us,
            start_us: record.start_us,
            connect_us: record.connect_us,
            run_us: record.run_us,
            request_bytes: record.request_bytes,
            response_bytes: record.response_bytes,
            status: record.status,
            outcome: record.outcome.name(),
            cold: record.cold,
            first: record.first,
            warm,
            idempotency_key: (record.key != 0).then(|| format!("{:016x}", record.key)),
            billed,
            compute_line: plan.memory_item(warm).name(),
            cpu_line: plan.cpu_item(warm).name(),
            billed_ms: if billed { plan.metering().billed_ms(record) } else { 0 },
            cost: plan.cost_of(record, (subject.memory_mib, subject.cpu_millis)),
        }
    }
}

/// Answer of `/v1/records`.
#[derive(Serialize)]
pub(super) struct RecordsView {
    from: String,
    to: String,
    complete_through: Option<String>,
    plan: String,
    currency: String,
    rows: Vec<RecordView>,
    next_cursor: Option<String>,
}

impl RecordsView {
    pub(super) fn new(
        times_us: &Range<i64>,
        plan: &PricePlan,
        rows: &[RecordRow],
        next_cursor: Option<String>,
        complete_through: Option<String>,
    ) -> Self {
        Self {
            from: micros_text(times_us.start),
            to: micros_text(times_us.end),
            complete_through,
            plan: plan.name.clone(),
            currency: plan.currency.clone(),
            rows: rows.iter().map(|row| RecordView::new(row, plan)).collect(),
            next_cursor,
        }
    }
}

impl Table for RecordsView {
    fn table(&self) -> Vec<Vec<String>> {
        table(RecordView::COLUMNS, &self.rows, RecordView::cells)
    }

    fn next(&self) -> Option<&str> {
        self.next_cursor.as_deref()
    }
}

/// Columns of a statement: its lines, then what earlier months cost more or less than was billed, then the total.
const STATEMENT_COLUMNS: [&str; 6] = ["item", "tier", "quantity", "unit", "unit_price", "amount"];

impl Table for Statement {
    fn table(&self) -> Vec<Vec<String>> {
        let lines = self.lines.iter().map(|line| {
            let StatementLine { item, tier, quantity, unit, unit_price, amount } = line.clone();
            [item, tier.to_string(), quantity, unit, unit_price.to_string(), amount.to_string()]
        });
        let corrections = self.corrections.iter().map(|correction| {
            let Correction { period, amount, .. } = correction;
            let [item, unit] = ["correction", "month"].map(str::to_owned);
            [item, "1".to_owned(), period.clone(), unit, amount.to_string(), amount.to_string()]
        });
        let empty = String::new;
        let total = ["total".to_owned(), empty(), empty(), empty(), empty(), self.total.to_string()];
        let head = STATEMENT_COLUMNS.map(str::to_owned);
        let rows = std::iter::once(head).chain(lines).chain(corrections).chain([total]);
        rows.map(Vec::from).collect()
    }
}

/// Which outcomes are billed.
#[derive(Serialize)]
struct BillView {
    start: bool,
    function_errors: bool,
    timeouts: bool,
    platform_errors: bool,
    client_gone: bool,
}

row! {
    /// One price; tier 0 is free.
    PriceView {
        item: &'static str,
        tier: u32,
        up_to: Option<String>,
        unit: &'static str,
        unit_price: Decimal,
    }
}

/// Answer of `/v1/prices`: the plan that statements are priced by, and the names of the others.
#[derive(Serialize)]
pub(super) struct PricesView {
    plan: String,
    currency: String,
    minor_digits: u32,
    source: Option<String>,
    date: Option<String>,
    step_ms: u32,
    min_ms: u32,
    bill: BillView,
    prices: Vec<PriceView>,
    others: Vec<String>,
}

impl PricesView {
    pub(super) fn new(plan: &PricePlan, others: Vec<String>) -> Self {
        let BilledOutcomes { start, function_errors, timeouts, platform_errors, client_gone } = plan.bill;
        Self {
            plan: plan.name.clone(),
            currency: plan.currency.clone(),
            minor_digits: plan.minor_digits,
            source: plan.source.clone(),
            date: plan.date.map(|date| date.to_string()),
            step_ms: plan.step_ms,
            min_ms: plan.min_ms,
            bill: BillView { start, function_errors, timeouts, platform_errors, client_gone },
            prices: prices(plan),
            others,
        }
    }
}

impl Table for PricesView {
    fn table(&self) -> Vec<Vec<String>> {
        table(PriceView::COLUMNS, &self.prices, PriceView::cells)
    }
}

/// Every price of a plan that is not that of something else.
fn prices(plan: &PricePlan) -> Vec<PriceView> {
    let (free, warm) = (&plan.free, &plan.warm);
    let mut rows = Vec::new();
    let mut row = |item: Item, tier: u32, up_to: Option<Decimal>, unit_price: Decimal| {
        let up_to = up_to.map(|end| end.to_string());
        rows.push(PriceView { item: item.name(), tier, up_to, unit: item.unit(plan.memory_unit), unit_price });
    };
    let tiered = [
        (Item::Calls, &plan.per_call, free.calls),
        (Item::Compute, &plan.per_gb_second, free.gb_seconds),
        (Item::Cpu, &plan.per_vcpu_second, free.vcpu_seconds),
    ];
    for (item, tiers, free) in tiered {
        if !free.is_zero() {
            row(item, 0, Some(free), Decimal::ZERO);
        }
        (1..).zip(tiers.all()).for_each(|(number, tier)| row(item, number, tier.up_to, tier.price));
    }
    let plain = [
        (Item::WarmCallsCompute, warm.calls_per_gb_second),
        (Item::WarmCallsCpu, warm.calls_per_vcpu_second),
        (Item::WarmUsed, Some(warm.per_gb_second_used)),
        (Item::WarmIdle, Some(warm.per_gb_second_idle)),
        (Item::WarmCpuUsed, Some(warm.per_vcpu_second_used)),
        (Item::WarmCpuIdle, Some(warm.per_vcpu_second_idle)),
    ];
    plain
        .into_iter()
        .filter_map(|(item, price)| Some((item, price?)))
        .for_each(|(item, price)| row(item, 1, None, price));
    rows
}

#[cfg(test)]
mod tests {
    use super::csv_cell;

    #[test]
    fn cells_are_quoted_where_they_must_be() {
        assert_eq!(csv_cell("plain"), "plain");
        assert_eq!(csv_cell("a,b"), "\"a,b\"");
        assert_eq!(csv_cell("say \"x\""), "\"say \"\"x\"\"\"");
    }
}
