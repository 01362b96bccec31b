mod rules;

use super::super::sample::record;
use super::super::statement::tests::{Call, calls, plan, tiered};
use super::*;
use crate::record::{CallRecord, Outcome};
use crate::table::Value;
use crate::usage::Warm;
use proptest::prelude::*;
use serde_json::json;
use std::collections::BTreeMap;

/// November 2026.
const MONTH: Range<u32> = 498_192..498_912;

fn period() -> Period {
    Period { tenant: "acme".into(), hours: MONTH, invoice: Some("acme/2026-11".into()) }
}

fn resource(n: usize) -> Resource {
    Resource { namespace: "shop".into(), name: format!("fn{n}"), uid: format!("uid{n}") }
}

/// Everything an export has, each row by the names of its columns.
struct Exported {
    rows: Vec<BTreeMap<&'static str, Value<'static>>>,
    total: Total,
}

fn owned(value: Value<'_>) -> Value<'static> {
    match value {
        Value::Text(text) => Value::Text(text.into_owned().into()),
        Value::Null => Value::Null,
        Value::Bool(v) => Value::Bool(v),
        Value::Integer(v) => Value::Integer(v),
        Value::Wide(v) => Value::Wide(v),
        Value::Decimal(v) => Value::Decimal(v),
        Value::Amount(v) => Value::Amount(v),
        Value::Time(v) => Value::Time(v),
    }
}

/// The export of what functions used in hours, and the sum of it all.
fn export(plan: &PricePlan, version: Version, hours: &BTreeMap<(u32, usize), UsageSum>) -> (Exported, UsageSum) {
    told_export(plan, version, hours, &Told::default())
}

fn told_export(
    plan: &PricePlan,
    version: Version,
    hours: &BTreeMap<(u32, usize), UsageSum>,
    told: &Told,
) -> (Exported, UsageSum) {
    let mut export = Export::new(plan.clone(), period());
    let (mut rows, mut whole) = (Vec::new(), UsageSum::default());
    for ((hour, function), usage) in hours {
        let resource = resource(*function);
        whole.merge(usage);
        let made = export.used(&resource, &(MONTH.start + hour..MONTH.start + hour + 1), usage);
        rows.extend(made.iter().map(|row| named(&export, row, version)));
    }
    let (last, total) = export.finish(told).unwrap();
    rows.extend(last.iter().map(|row| named(&export, row, version)));
    (Exported { rows, total }, whole)
}

fn named(export: &Export, row: &Row<'_>, version: Version) -> BTreeMap<&'static str, Value<'static>> {
    let names = columns(version).map(|column| column.name);
    names.zip(values(export, row, version).map(owned)).collect()
}

impl Exported {
    fn text(&self, row: usize, name: &str) -> String {
        text(&self.rows[row][name])
    }

    fn texts<const N: usize>(&self, names: [&str; N]) -> Vec<[String; N]> {
        (0..self.rows.len()).map(|row| names.map(|name| self.text(row, name))).collect()
    }

    /// Sums of a column over the rows that a key keeps together.
    fn sums<K: Ord>(
        &self,
        name: &str,
        key: impl Fn(&BTreeMap<&'static str, Value<'static>>) -> Option<K>,
    ) -> BTreeMap<K, Signed> {
        let mut sums: BTreeMap<K, (Exact, Exact)> = BTreeMap::new();
        for row in &self.rows {
            let (Some(key), Value::Decimal(value)) = (key(row), &row[name]) else { continue };
            let (above, below) = sums.entry(key).or_default();
            let size = Exact::whole(value.units(25).unwrap().unsigned_abs()).at(Decimal::new(1, 25));
            *(if value.to_string().starts_with('-') { below } else { above }) =
                (if value.to_string().starts_with('-') { *below } else { *above }).plus(size);
        }
        sums.into_iter().map(|(key, (above, below))| (key, Signed::difference(above, below))).collect()
    }

    fn billed(&self) -> Signed {
        self.sums("BilledCost", |_| Some(())).remove(&()).unwrap_or_default()
    }
}

fn text(value: &Value<'_>) -> String {
    match value {
        Value::Null => String::new(),
        Value::Text(text) => text.to_string(),
        Value::Bool(v) => v.to_string(),
        Value::Integer(v) => v.to_string(),
        Value::Wide(v) => v.to_string(),
        Value::Decimal(v) => v.to_string(),
        Value::Amount(v) => v.to_string(),
        Value::Time(us) => jiff::Timestamp::from_microsecond(*us).unwrap().to_string(),
    }
}

/// Hours 0 and 1 of two functions: calls of 1 s with 1 GiB and a cpu, some on warm instances, which were there for 100 s.
fn two_hours(plan: &PricePlan) -> BTreeMap<(u32, usize), UsageSum> {
    let mut hours: BTreeMap<(u32, usize), UsageSum> = BTreeMap::new();
    let mut add = |hour, function, n, call: &CallRecord| {
        let sum = hours.entry((hour, function)).or_default();
        (0..n).for_each(|_| sum.add(call, (1024, 1000), &[plan.metering()]));
    };
    let call = record(Outcome::Ok, 1_000_000);
    add(0, 0, 3, &call);
    add(0, 1, 1, &CallRecord { cold: true, ..record(Outcome::PlatformError, 1_000_000) });
    add(1, 0, 4, &CallRecord { warm_slots: 1, ..call });
    add(1, 1, 2, &CallRecord { cold: true, ..call });
    let warm = Warm { mib_ms: 100_000 * 1024, mcpu_ms: 100_000 * 1000, ..Warm::default() };
    hours.get_mut(&(1, 0)).unwrap().warm.merge(&warm);
    hours
}

#[test]
fn free_is_credited_tiers_are_split_and_capacity_is_used_or_not() {
    let plan = plan(&json!({
        "perCall": "0.001", "perGbSecond": [{"upTo": 5, "price": "0.03"}, {"price": "0.02"}], "perVcpuSecond": "0",
        "free": {"calls": 2, "gbSeconds": "4"}, "warm": {"perGbSecondUsed": "0.002", "perGbSecondIdle": "0.001"},
    }));
    let (exported, whole) = export(&plan, Version::V1_2, &two_hours(&plan));
    let row = |of: [&str; 6]| of.map(str::to_owned);
    let expected = [
        row(["fn0", "calls", "Usage", "2", "0.002", "article/calls/1"]),
        row(["fn0", "calls", "Credit", "", "-0.002", "article/calls/1"]),
        row(["fn0", "calls", "Usage", "1", "0.001", "article/calls/1"]),
        row(["fn0", "compute", "Usage", "3", "0.09", "article/compute/1"]),
        row(["fn0", "compute", "Credit", "", "-0.09", "article/compute/1"]),
        // Its one call is billed by no plan.
        row(["fn1", "calls", "Usage", "0", "0", "article/calls/1"]),
        row(["fn0", "calls", "Usage", "4", "0.004", "article/calls/1"]),
        row(["fn0", "compute", "Usage", "1", "0.03", "article/compute/1"]),
        row(["fn0", "compute", "Credit", "", "-0.03", "article/compute/1"]),
        row(["fn0", "compute", "Usage", "1", "0.03", "article/compute/1"]),
        row(["fn0", "compute", "Usage", "2", "0.04", "article/compute/2"]),
        row(["fn0", "warm_used", "Usage", "4", "0.008", "article/warm_used/1"]),
        row(["fn0", "warm_idle", "Usage", "96", "0.096", "article/warm_idle/1"]),
        row(["fn1", "calls", "Usage", "2", "0.002", "article/calls/1"]),
        row(["fn1", "compute", "Usage", "2", "0.04", "article/compute/2"]),
        row(["", "", "Adjustment", "", "-0.001", ""]),
    ];
    let names = ["ResourceName", "SkuId", "ChargeCategory", "PricingQuantity", "BilledCost", "SkuPriceId"];
    assert_eq!(exported.texts(names), expected);
    assert_eq!(exported.total, Total { rows: 16, amount: "0.22".parse().unwrap() });
    assert_eq!(plan.statement(&whole).unwrap().total, exported.total.amount);
    let counted = exported.texts(["x_RecordCount", "x_ColdStarts", "x_UnmeteredCalls"]);
    let counted: Vec<_> = counted.iter().filter(|of| !of[0].is_empty()).map(|of| of.join(" ")).collect();
    assert_eq!(counted, ["3 0 0", "1 1 0", "4 0 0", "2 2 0"], "each hour of a function once");
    let capacity = exported.texts(["CapacityReservationId", "CapacityReservationStatus", "PricingUnit"]);
    let capacity: Vec<_> = capacity.iter().filter(|of| !of[0].is_empty()).map(|of| of.join(" ")).collect();
    assert_eq!(capacity, ["shop/fn0/uid0/warm Used GiB-Seconds", "shop/fn0/uid0/warm Unused GiB-Seconds"]);
}

#[test]
fn a_version_has_its_columns() {
    let names = |version| columns(version).map(|column| column.name).collect::<Vec<_>>();
    let [old, same, new] = Version::ALL.map(names);
    assert_eq!(old, same);
    let differ = |a: &[&'static str], b: &[&str]| a.iter().filter(|n| !b.contains(n)).copied().collect::<Vec<_>>();
    assert_eq!(
        (differ(&old, &new), differ(&new, &old)),
        (vec!["ProviderName", "PublisherName"], vec!["InvoiceDetailId"])
    );
    for names in [&old, &new] {
        let (own, custom) = names.iter().partition::<Vec<&str>, _>(|name| !name.starts_with("x_"));
        assert!(own.is_sorted() && custom.is_sorted());
        assert_eq!([own, custom].concat(), *names, "custom columns are behind the specification's");
    }
    assert_eq!(Version::ALL.map(|v| Version::named(v.name())), Version::ALL.map(Some));
    assert_eq!(Version::named("1.1"), None);
}

#[test]
fn a_statement_that_nobody_pays_is_no_invoice() {
    let plan = PricePlan::default();
    let resource = resource(0);
    let usage = &two_hours(&plan)[&(0, 0)];
    let ids = |invoice: Option<String>| {
        let mut export = Export::new(plan.clone(), Period { invoice, ..period() });
        let rows = export.used(&resource, &(MONTH.start..MONTH.start + 1), usage);
        let row = named(&export, &rows[0], Version::V1_4);
        ["InvoiceId", "InvoiceDetailId"].map(|name| text(&row[name]))
    };
    assert_eq!(ids(None), ["", ""]);
    assert_eq!(ids(Some("acme/2026-11".into())), ["acme/2026-11", "acme/2026-11/calls/1"]);
}

#[test]
fn nothing_used_is_no_row() {
    let plan = PricePlan::default();
    let mut export = Export::new(plan, period());
    assert_eq!(export.used(&resource(0), &(MONTH.start..MONTH.start + 24), &UsageSum::default()), []);
    let (last, total) = export.finish(&Told::default()).unwrap();
    assert_eq!((last, total.rows, total.amount.to_string()), (vec![], 0, "0.00".into()));
}

#[test]
fn a_closed_statement_is_what_it_was_and_corrects_others() {
    let plan = PricePlan::default();
    let hours = two_hours(&plan);
    let october = MONTH.start - 744..MONTH.start;
    let (usage, correction) = (Decimal::new(1234, 2), Decimal::new(-10, 2));
    let reversed = Decimal::new(-100, 2);
    let told = Told { usage: Some(usage), reversed, corrections: vec![(october, correction)] };
    let (exported, _) = told_export(&plan, Version::V1_4, &hours, &told);
    assert_eq!(exported.total.amount.to_string(), "11.24");
    assert_eq!(exported.billed(), Signed::of(usage + reversed + correction));
    rules::check(&exported.rows, Version::V1_4);
    let names = ["ChargeCategory", "ChargeClass", "ChargePeriodStart", "BilledCost", "ChargeDescription"];
    let mut texts = exported.texts(names);
    let last = texts.pop().unwrap();
    let start = text(&super::columns::hour(MONTH.start));
    let taken = ["Adjustment", "", &start, "-1", "Calls of acme that were taken back in 2026-11"].map(str::to_owned);
    assert_eq!(texts.pop().unwrap(), taken, "within a month that was not billed before it is no correction");
    let month = text(&super::columns::hour(MONTH.start - 744));
    let text = "What 2026-10 cost acme beside what was billed for it";
    assert_eq!(last, ["Adjustment", "Correction", &month, "-0.1", text].map(str::to_owned));
}

/// Calls spread over functions and hours, and warm capacity of some hours.
fn hours(calls: &[Call], spread: &[(u32, usize)], plan: &PricePlan) -> BTreeMap<(u32, usize), UsageSum> {
    let mut hours: BTreeMap<(u32, usize), UsageSum> = BTreeMap::new();
    for (call, at) in calls.iter().zip(spread) {
        let sum = hours.entry(*at).or_default();
        sum.add(&call.record, (call.memory, call.cpu), &[plan.metering()]);
        let there = Warm { mib_ms: 7_000 * u128::from(call.memory), mcpu_ms: 9_999, ..Warm::default() };
        sum.warm.merge(&there);
    }
    // As the ledger gives them.
    hours.values_mut().for_each(|sum| sum.warm = sum.warm.bounded());
    hours
}

proptest! {
    #[test]
    fn billed_costs_add_up_to_the_statement(
        calls in calls(), plan in tiered(), spread in prop::collection::vec((0u32..4, 0usize..3), 60), pick in 0usize..3,
    ) {
        let version = Version::ALL[pick];
        let (exported, whole) = export(&plan, version, &hours(&calls, &spread, &plan));
        let statement = plan.statement(&whole).unwrap();
        prop_assert_eq!(exported.billed(), Signed::from(Exact::of(statement.total)));
        prop_assert_eq!(exported.total, Total { rows: exported.rows.len() as u64, amount: statement.total });

        let line = |row: &BTreeMap<&'static str, Value<'_>>| {
            (row["SkuId"] != Value::Null).then(|| (text(&row["SkuId"]), text(&row["x_StatementTier"])))
        };
        let (quantities, costs) = (exported.sums("PricingQuantity", line), exported.sums("BilledCost", line));
        for told in statement.lines.iter().filter(|l| l.item != Item::Rounding && !l.quantity.is_zero()) {
            let key = (told.item.name().to_owned(), told.tier.to_string());
            prop_assert_eq!(quantities[&key], told.quantity.into(), "{:?}", key);
            prop_assert_eq!(costs[&key], told.quantity.at(told.unit_price).into(), "{:?}", key);
        }
        let of_lines = statement.lines.iter().filter(|l| l.item != Item::Rounding);
        let told: Vec<_> = of_lines.map(|l| (l.item.name().to_owned(), l.tier.to_string())).collect();
        prop_assert!(costs.iter().all(|(key, cost)| told.contains(key) || cost.is_zero()));
        let counted: u64 = exported.rows.iter().map(|r| match r["x_RecordCount"] { Value::Integer(n) => n, _ => 0 }).sum();
        prop_assert_eq!(counted, whole.calls());
        rules::check(&exported.rows, version);
    }
}
