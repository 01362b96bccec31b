//! Answers, field by field: names are kept stable and stand in `openapi.yaml`. Amounts and GB-seconds are decimal text.

use super::answer::{Cell, DECIMAL, Moment, Table, row};
use super::period::Period;
use crate::ledger::reversals::{RecordId, Reversal};
use crate::ledger::statements::{Correction, Statement, StatementLine};
use crate::ledger::{Granularity, GroupKey, RecordRow, UsageRow};
use crate::table::moment;
use dormouse_core::price::{BilledOutcomes, Exact, Item, PricePlan, Signed};
use dormouse_core::record::Outcome;
use dormouse_core::table::{Column, Kind, Value};
use dormouse_core::usage::Class;
use rust_decimal::Decimal;
use serde::Serialize;
use std::collections::HashMap;
use std::ops::Range;

/// What all answers say beside their rows.
pub(super) fn told<'a>(
    plan: &'a str,
    currency: &'a str,
    times: Option<(&'a str, &'a str)>,
) -> Vec<(&'static str, &'a str)> {
    let mut told = vec![("dormouse-plan", plan), ("dormouse-currency", currency)];
    if let Some((from, to)) = times {
        told.extend([("dormouse-from", from), ("dormouse-to", to)]);
    }
    told
}

row! {
    /// Usage of one group in one time.
    UsageRowView<'a> {
        start: Moment,
        end: Moment,
        tenant: Option<&'a str>,
        namespace: Option<&'a str>,
        function: Option<&'a str>,
        function_uid: Option<&'a str>,
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

impl<'a> UsageRowView<'a> {
    pub(super) fn new(row: &'a UsageRow, period: &Period, plan: &PricePlan) -> Self {
        let at = if period.in_minutes() { Moment::minute } else { Moment::hour };
        let billed = row.usage.billed(plan);
        let calls = |outcome| row.usage.ended(outcome);
        let GroupKey { tenant, namespace, function, function_uid } = &*row.group;
        let mut time = billed.time;
        time.merge(&billed.warm_time);
        let memory = |mib_ms| plan.memory_unit.gb_seconds(mib_ms);
        Self {
            start: at(row.time.start),
            end: at(row.time.end),
            tenant: tenant.as_deref(),
            namespace: namespace.as_deref(),
            function: function.as_deref(),
            function_uid: function_uid.as_deref(),
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
pub(super) struct UsageView<'a> {
    from: String,
    to: String,
    complete_through: Option<String>,
    time_zone: String,
    granularity: &'static str,
    group_by: Vec<&'static str>,
    plan: String,
    currency: String,
    rows: Vec<UsageRowView<'a>>,
    next_cursor: Option<String>,
}

impl<'a> UsageView<'a> {
    pub(super) fn new(
        period: &Period,
        group_by: Vec<&'static str>,
        plan: &PricePlan,
        rows: &'a [UsageRow],
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
        let (from, to) = period.text();
        Self {
            from,
            to,
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

impl Table for UsageView<'_> {
    fn columns(&self) -> Vec<Column> {
        UsageRowView::columns()
    }

    fn rows(&self) -> impl Iterator<Item = impl IntoIterator<Item = Value<'_>>> {
        self.rows.iter().map(UsageRowView::values)
    }

    fn told(&self) -> Vec<(&'static str, &str)> {
        told(&self.plan, &self.currency, Some((&self.from, &self.to)))
    }

    fn next(&self) -> Option<&str> {
        self.next_cursor.as_deref()
    }
}

row! {
    /// One record.
    RecordView<'a> {
        request_id: String,
        activator: String,
        epoch: u32,
        seq: u64,
        received_at: Moment,
        tenant: &'a str,
        namespace: &'a str,
        function: &'a str,
        function_uid: &'a str,
        revision: &'a str,
        instance: &'a str,
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
        outcome: &'a str,
        cold: bool,
        first: bool,
        warm: bool,
        idempotency_key: Option<String>,
        trigger: &'a str,
        schedule: Option<&'a str>,
        due_at: Option<Moment>,
        replaced: bool,
        billed: bool,
        compute_line: &'a str,
        cpu_line: &'a str,
        billed_ms: u64,
        cost: Exact,
        reversed_at: Option<Moment>,
        reversed_by: Option<String>,
        reversed_reason: Option<String>,
    }
}

impl<'a> RecordView<'a> {
    fn new(row: &'a RecordRow, reversal: Option<&Reversal>, plan: &PricePlan) -> Self {
        let RecordRow { key, request_id, subject, record } = row;
        let billed = plan.bills(Class::of(record));
        let warm = record.warm_slots != 0;
        let schedule = record.timed.as_ref().map(|timed| timed.schedule.as_str());
        Self {
            request_id: request_id.to_string(),
            activator: format!("{:016x}", key.activator),
            epoch: key.epoch,
            seq: key.seq,
            received_at: Moment::micros(record.received_at_us),
            tenant: &subject.tenant,
            namespace: &subject.namespace,
            function: &subject.name,
            function_uid: &subject.function_uid,
            revision: &subject.revision,
            instance: &subject.instance,
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
            trigger: match schedule {
                None => "http",
                Some("") => "event",
                Some(_) => "schedule",
            },
            schedule: schedule.filter(|name| !name.is_empty()),
            due_at: record.timed.map(|timed| Moment::micros(timed.due_us)),
            replaced: record.timed.is_some_and(|timed| timed.replaced),
            billed,
            compute_line: plan.memory_item(warm).name(),
            cpu_line: plan.cpu_item(warm).name(),
            billed_ms: if billed { plan.metering().billed_ms(record) } else { 0 },
            cost: plan.cost_of(record, (subject.memory_mib, subject.cpu_millis)),
            reversed_at: reversal.map(|reversal| Moment::micros(reversal.at_us)),
            reversed_by: reversal.map(|reversal| reversal.by.clone()),
            reversed_reason: reversal.map(|reversal| reversal.reason.clone()),
        }
    }
}

/// Answer of `/v1/records`, and of `/v1/reversals`.
#[derive(Serialize)]
pub(super) struct RecordsView<'a> {
    from: String,
    to: String,
    complete_through: Option<String>,
    plan: String,
    currency: String,
    rows: Vec<RecordView<'a>>,
    next_cursor: Option<String>,
}

impl<'a> RecordsView<'a> {
    pub(super) fn new(
        times_us: &Range<i64>,
        plan: &PricePlan,
        (rows, reversed): (&'a [RecordRow], &HashMap<RecordId, Reversal>),
        next_cursor: Option<String>,
        complete_through: Option<String>,
    ) -> Self {
        Self {
            from: moment(times_us.start),
            to: moment(times_us.end),
            complete_through,
            plan: plan.name.clone(),
            currency: plan.currency.clone(),
            rows: rows.iter().map(|row| RecordView::new(row, reversed.get(&RecordId::of(row)), plan)).collect(),
            next_cursor,
        }
    }
}

impl Table for RecordsView<'_> {
    fn columns(&self) -> Vec<Column> {
        RecordView::columns()
    }

    fn rows(&self) -> impl Iterator<Item = impl IntoIterator<Item = Value<'_>>> {
        self.rows.iter().map(RecordView::values)
    }

    fn told(&self) -> Vec<(&'static str, &str)> {
        told(&self.plan, &self.currency, Some((&self.from, &self.to)))
    }

    fn next(&self) -> Option<&str> {
        self.next_cursor.as_deref()
    }
}

/// A statement as a table: its lines, then what earlier months cost more or less than was billed, each in its month as the
/// unit, then the total.
impl Table for Statement {
    fn columns(&self) -> Vec<Column> {
        let column = |name, kind, nullable| Column { name, kind, nullable };
        vec![
            column("item", Kind::Text, false),
            column("tier", Kind::Integer, true),
            column("quantity", DECIMAL, true),
            column("unit", Kind::Text, true),
            column("unit_price", DECIMAL, true),
            column("amount", DECIMAL, false),
        ]
    }

    fn rows(&self) -> impl Iterator<Item = impl IntoIterator<Item = Value<'_>>> {
        let lines = self.lines.iter().map(|line| {
            let StatementLine { item, tier, quantity, unit, unit_price, amount } = line;
            let quantity = Decimal::from_str_exact(quantity).ok().map(|quantity| Value::Decimal(Signed::of(quantity)));
            let (item, unit, tier) = (item.as_str().into(), unit.as_str().into(), Value::Integer((*tier).into()));
            vec![item, tier, quantity.unwrap_or(Value::Null), unit, unit_price.value(), amount.value()]
        });
        let corrections = self.corrections.iter().map(|Correction { period, amount, .. }| {
            let (one, amount) = (Value::Decimal(Signed::of(Decimal::ONE)), amount.value());
            vec!["correction".into(), Value::Integer(1), one, period.as_str().into(), amount.clone(), amount]
        });
        let total = [Value::from("total"), Value::Null, Value::Null, Value::Null, Value::Null, self.total.value()];
        lines.chain(corrections).chain([Vec::from(total)])
    }

    fn told(&self) -> Vec<(&'static str, &str)> {
        told(&self.plan, &self.currency, Some((&self.from, &self.to)))
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
    PriceView<'a> {
        item: &'a str,
        tier: u32,
        up_to: Option<String>,
        unit: &'a str,
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
    prices: Vec<PriceView<'static>>,
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
    fn columns(&self) -> Vec<Column> {
        PriceView::columns()
    }

    fn rows(&self) -> impl Iterator<Item = impl IntoIterator<Item = Value<'_>>> {
        self.prices.iter().map(PriceView::values)
    }

    fn told(&self) -> Vec<(&'static str, &str)> {
        told(&self.plan, &self.currency, None)
    }
}

/// Every price of a plan that is not that of something else.
fn prices(plan: &PricePlan) -> Vec<PriceView<'static>> {
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
