use super::super::sample::record;
use super::super::{BilledOutcomes, Free, MemoryUnit, Tiers, WarmPrices};
use super::*;
use crate::record::{CallRecord, Outcome};
use crate::usage::{Class, ClassSum, Time, Warm};
use proptest::prelude::*;
use serde_json::{Value, json};

pub(crate) fn decimal(text: &str) -> Decimal {
    text.parse().unwrap()
}

/// The article's plan with some fields changed.
pub(crate) fn plan(changes: &Value) -> PricePlan {
    let mut value = serde_json::to_value(PricePlan::default()).unwrap();
    for (field, change) in changes.as_object().unwrap() {
        value[field] = change.clone();
    }
    PricePlan::from_value(&value).unwrap()
}

/// Usage of so many calls with this time, and of warm instances.
fn usage(plan: &PricePlan, calls: u64, time: Time, warm: Warm) -> UsageSum {
    let class = Class { outcome: Outcome::Ok, warm: false, excused: false };
    let times = vec![(plan.metering(), Time { calls, ..time })];
    let classes = vec![ClassSum { class, calls, times }];
    UsageSum { classes, warm, ..UsageSum::default() }
}

fn seconds(seconds: u128, memory_mib: u128, mcpu: u128) -> Time {
    let ms = seconds * 1000;
    Time { ms, mib_ms: ms * memory_mib, mcpu_ms: ms * mcpu, ..Time::default() }
}

type Row = (&'static str, u32, String, String, String);

fn rows(statement: &Statement) -> Vec<Row> {
    let row =
        |l: &Line| (l.item.name(), l.tier, l.quantity.to_string(), l.unit_price.to_string(), l.amount.to_string());
    statement.lines.iter().map(row).collect()
}

fn row(item: &'static str, tier: u32, quantity: &str, price: &str, amount: &str) -> Row {
    (item, tier, quantity.into(), price.into(), amount.into())
}

/// 15,000,000 calls of 100 ms with 512 MiB, by doubling: each power of two is the sum before it, twice.
fn articles_month(plan: &PricePlan) -> UsageSum {
    let mut one = UsageSum::default();
    one.add(&record(Outcome::Ok, 100_000), (512, 100), &[plan.metering()]);
    let mut all = UsageSum::default();
    for bit in 0..24 {
        if 15_000_000u32 >> bit & 1 == 1 {
            all.merge(&one);
        }
        let same = one.clone();
        one.merge(&same);
    }
    all
}

#[test]
fn the_bill_of_the_article() {
    let plan = PricePlan::default();
    let all = articles_month(&plan);
    assert_eq!(all.calls(), 15_000_000);
    let statement = plan.statement(&all).unwrap();
    let two = [row("calls", 1, "15000000", "0.0000002", "3.00"), row("compute", 1, "750000", "0.00003", "22.50")];
    assert_eq!(rows(&statement), two);
    assert_eq!(statement.lines.iter().map(|l| l.unit).collect::<Vec<_>>(), ["call", "GB-second"]);
    assert_eq!((statement.total.to_string(), statement.unrounded.to_string()), ("25.50".into(), "25.5".into()));
    assert_eq!(statement.unmetered, 0);
    let saving = saving(statement.total, decimal("350")).unwrap();
    assert_eq!((saving.amount.to_string(), saving.percent.to_string()), ("324.50".into(), "92.7".into()));
}

/// What a bill would say that rounds each call: never do that.
#[test]
fn rounding_each_call_makes_another_bill() {
    let plan = PricePlan::default();
    let one = plan.cost_of(&record(Outcome::Ok, 100_000), (512, 100));
    let by_call = |digits| Decimal::from(15_000_000) * one.round(digits).unwrap();
    assert_eq!(by_call(6), decimal("30.00"), "17.6 % too much");
    assert_eq!(by_call(2), decimal("0.00"));
    assert_eq!(plan.statement(&articles_month(&plan)).unwrap().total.to_string(), "25.50");
}

#[test]
fn a_fixed_price_may_be_lower_and_must_be_above_zero() {
    let statement = Statement { lines: Vec::new(), total: decimal("30.00"), unrounded: Exact::whole(30), unmetered: 0 };
    assert_eq!(saving(statement.total, decimal("20")).unwrap().percent.to_string(), "-50.0");
    assert_eq!(saving(statement.total, decimal("30")).unwrap().percent.to_string(), "0.0");
    assert_eq!(saving(statement.total, Decimal::ZERO), None);
    assert_eq!(saving(statement.total, decimal("-1")), None);
}

#[test]
fn what_rounding_leaves_over_is_a_line() {
    // 0.005 and 0.005 are 0.00 each, and 0.01 together.
    let dear = plan(&json!({"perCall": "0.001", "perGbSecond": "1"}));
    let time = Time { ms: 5, mib_ms: 5 * 1024, ..Time::default() };
    let statement = dear.statement(&usage(&dear, 5, time, Warm::default())).unwrap();
    let lines = [
        row("calls", 1, "5", "0.001", "0.00"),
        row("compute", 1, "0.005", "1", "0.00"),
        row("rounding", 1, "1", "0.01", "0.01"),
    ];
    assert_eq!(rows(&statement), lines);
    assert_eq!(statement.lines[2].unit, "adjustment");
    assert_eq!(statement.total.to_string(), "0.01");
    // 0.015 and 0.015 are 0.02 each, and 0.03 together.
    let time = Time { ms: 15, mib_ms: 15 * 1024, ..Time::default() };
    let statement = dear.statement(&usage(&dear, 15, time, Warm::default())).unwrap();
    assert_eq!(rows(&statement)[2], row("rounding", 1, "1", "-0.01", "-0.01"));
    assert_eq!(statement.total.to_string(), "0.03");
}

#[test]
fn nothing_used_is_two_lines_of_nothing() {
    let statement = PricePlan::default().statement(&UsageSum::default()).unwrap();
    let two = [row("calls", 1, "0", "0.0000002", "0.00"), row("compute", 1, "0", "0.00003", "0.00")];
    assert_eq!(rows(&statement), two);
    assert_eq!(statement.total.to_string(), "0.00");
}

#[test]
fn free_quantities_and_tiers_are_lines() {
    let tiered = plan(&json!({
        "perCall": "0.01", "perVcpuSecond": "0.1",
        "perGbSecond": [{"upTo": 100, "price": "0.3"}, {"upTo": 200, "price": "0.2"}, {"price": "0.1"}],
        "free": {"calls": 10, "gbSeconds": "40", "vcpuSeconds": 1000},
    }));
    let statement = tiered.statement(&usage(&tiered, 25, seconds(250, 1024, 2000), Warm::default())).unwrap();
    let lines = [
        row("calls", 0, "10", "0", "0.00"),
        row("calls", 1, "15", "0.01", "0.15"),
        row("compute", 0, "40", "0", "0.00"),
        row("compute", 1, "60", "0.3", "18.00"),
        row("compute", 2, "100", "0.2", "20.00"),
        row("compute", 3, "50", "0.1", "5.00"),
        row("cpu", 0, "500", "0", "0.00"),
    ];
    assert_eq!(rows(&statement), lines);
    assert_eq!(statement.total.to_string(), "43.15");
    let little = tiered.statement(&usage(&tiered, 3, seconds(40, 1024, 0), Warm::default())).unwrap();
    assert_eq!(rows(&little), [row("calls", 0, "3", "0", "0.00"), row("compute", 0, "40", "0", "0.00")]);
}

#[test]
fn items_without_a_price_are_not_told_but_calls_and_compute_are() {
    let nothing = plan(&json!({"perCall": "0", "perGbSecond": "0", "free": {"vcpuSeconds": 5}}));
    let warm = Warm { mib_ms: 1 << 30, mcpu_ms: 1 << 30, used_mib_ms: 1 << 20, used_mcpu_ms: 1 << 20 };
    let statement = nothing.statement(&usage(&nothing, 7, seconds(2, 1024, 1000), warm)).unwrap();
    assert_eq!(rows(&statement), [row("calls", 1, "7", "0", "0.00"), row("compute", 1, "2", "0", "0.00")]);
}

fn warm_calls(plan: &PricePlan) -> UsageSum {
    let mut sum = UsageSum::default();
    let calls = [record(Outcome::Ok, 1_000_000), CallRecord { warm_slots: 2, ..record(Outcome::Ok, 3_000_000) }];
    for call in calls {
        sum.add(&call, (1024, 1000), &[plan.metering()]);
    }
    // One instance of two slots, warm for 10 s: the one call used half of it for 3 s.
    sum.warm.merge(&Warm { mib_ms: 10_000 * 1024, mcpu_ms: 10_000 * 1000, ..Warm::default() });
    sum
}

#[test]
fn calls_on_warm_instances_join_the_others_or_have_their_own_price() {
    let prices = json!({"perCall": "0", "perGbSecond": "2", "perVcpuSecond": "0.2",
        "free": {"gbSeconds": "0.5"}, "warm": {"callsPerGbSecond": null}});
    let joined = plan(&prices);
    let lines = [
        row("calls", 1, "2", "0", "0.00"),
        row("compute", 0, "0.5", "0", "0.00"),
        row("compute", 1, "3.5", "2", "7.00"),
        row("cpu", 1, "4", "0.2", "0.80"),
    ];
    assert_eq!(rows(&joined.statement(&warm_calls(&joined)).unwrap()), lines);
    let mut apart = joined.clone();
    apart.warm.calls_per_gb_second = Some(decimal("1"));
    apart.warm.calls_per_vcpu_second = Some(decimal("0.1"));
    let lines = [
        row("calls", 1, "2", "0", "0.00"),
        row("compute", 0, "0.5", "0", "0.00"),
        row("compute", 1, "0.5", "2", "1.00"),
        row("cpu", 1, "1", "0.2", "0.20"),
        row("warm_calls_compute", 1, "3", "1", "3.00"),
        row("warm_calls_cpu", 1, "3", "0.1", "0.30"),
    ];
    assert_eq!(rows(&apart.statement(&warm_calls(&apart)).unwrap()), lines);
}

#[test]
fn warm_capacity_is_used_or_idle_and_never_free() {
    let warm = plan(&json!({"perCall": "0", "perGbSecond": "0", "free": {"gbSeconds": 100, "vcpuSeconds": 100},
        "warm": {"perGbSecondUsed": "2", "perGbSecondIdle": "1", "perVcpuSecondUsed": "0.2", "perVcpuSecondIdle": "0.1"}}));
    let statement = warm.statement(&warm_calls(&warm)).unwrap();
    let lines = [
        row("calls", 1, "2", "0", "0.00"),
        row("compute", 0, "4", "0", "0.00"),
        row("warm_used", 1, "1.5", "2", "3.00"),
        row("warm_idle", 1, "8.5", "1", "8.50"),
        row("warm_cpu_used", 1, "1.5", "0.2", "0.30"),
        row("warm_cpu_idle", 1, "8.5", "0.1", "0.85"),
    ];
    assert_eq!(rows(&statement), lines);
    let units: Vec<_> = statement.lines.iter().map(|line| line.unit).collect();
    assert_eq!(units, ["call", "GB-second", "GB-second", "GB-second", "vCPU-second", "vCPU-second"]);
}

#[test]
fn a_gb_may_be_decimal() {
    let decimal_gb = plan(&json!({"memoryUnit": "GB", "perCall": "0", "perGbSecond": "1"}));
    let statement = decimal_gb.statement(&usage(&decimal_gb, 0, seconds(1000, 1024, 0), Warm::default())).unwrap();
    let compute = &statement.lines[1];
    assert_eq!((compute.quantity.to_string(), compute.unit), ("1073.741824".into(), "decimal GB-second"));
    assert_eq!(statement.total.to_string(), "1073.74");
}

#[test]
fn calls_whose_time_is_not_known_are_told() {
    let plan = PricePlan { step_ms: 100, ..PricePlan::default() };
    let statement = plan.statement(&articles_month(&PricePlan::default())).unwrap();
    assert_eq!(statement.unmetered, 15_000_000);
    assert_eq!(statement.total.to_string(), "3.00");
}

#[test]
fn what_is_too_large_is_said() {
    let dear = plan(&json!({"perGbSecond": "999.999999999999"}));
    let time = Time { mib_ms: u128::MAX, ..Time::default() };
    assert_eq!(dear.statement(&usage(&dear, u64::MAX, time, Warm::default())), Err(TooLarge));
}

#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) record: CallRecord,
    pub(crate) memory: u32,
    pub(crate) cpu: u32,
}

pub(crate) fn calls() -> impl Strategy<Value = Vec<Call>> {
    let call = (0u64..10_000_000, 1u32..10_000, 1u32..4_000, 0usize..6, 0u16..3, 0u64..3);
    let call = call.prop_map(|(run_us, memory, cpu, outcome, warm_slots, key)| {
        let record = CallRecord { warm_slots, key, ..record(Outcome::ALL[outcome], run_us) };
        Call { record, memory, cpu }
    });
    prop::collection::vec(call, 0..60)
}

fn sum(calls: &[Call], plan: &PricePlan) -> UsageSum {
    let mut sum = UsageSum::default();
    for call in calls {
        sum.add(&call.record, (call.memory, call.cpu), &[plan.metering()]);
        let there = Warm { mib_ms: 7_000 * u128::from(call.memory), mcpu_ms: 9_999, ..Warm::default() };
        sum.warm.merge(&there);
    }
    sum
}

fn price() -> impl Strategy<Value = Decimal> {
    (0i64..1_000_000, 0u32..13).prop_map(|(mantissa, scale)| Decimal::new(mantissa, scale).min(Decimal::ONE_HUNDRED))
}

/// Plans without tiers and without anything free.
fn flat() -> impl Strategy<Value = PricePlan> {
    let prices = prop::array::uniform7(price());
    let own = [prop::option::of(price()), prop::option::of(price())];
    (prices, own, 0u32..5, 1u32..200, 0u32..200, any::<[bool; 6]>()).prop_map(
        |(p, own, digits, step_ms, min_ms, on)| PricePlan {
            minor_digits: digits,
            per_call: Tiers::flat(p[0]),
            per_gb_second: Tiers::flat(p[1]),
            per_vcpu_second: Tiers::flat(p[2]),
            warm: WarmPrices {
                per_gb_second_used: p[3],
                per_gb_second_idle: p[4],
                per_vcpu_second_used: p[5],
                per_vcpu_second_idle: p[6],
                calls_per_gb_second: own[0],
                calls_per_vcpu_second: own[1],
            },
            memory_unit: if on[5] { MemoryUnit::Decimal } else { MemoryUnit::Binary },
            step_ms,
            min_ms,
            bill: BilledOutcomes {
                start: on[0],
                function_errors: on[1],
                timeouts: on[2],
                platform_errors: on[3],
                client_gone: on[4],
            },
            ..PricePlan::default()
        },
    )
}

/// Any plan.
pub(crate) fn tiered() -> impl Strategy<Value = PricePlan> {
    let tiers = |most: u64| {
        let ends = prop::collection::btree_set(1..most, 0..5);
        (ends, prop::array::uniform5(price())).prop_map(|(ends, prices)| {
            let last = json!({"price": prices[ends.len()].to_string()});
            let tier = |(end, price): (u64, &Decimal)| json!({"upTo": end, "price": price.to_string()});
            Value::Array(ends.into_iter().zip(&prices).map(tier).chain([last]).collect())
        })
    };
    (flat(), [tiers(60), tiers(2_000), tiers(500)], [0u32..30, 0..500, 0..100]).prop_map(|(flat, tiers, free)| {
        let [calls, gb_seconds, vcpu_seconds] = free.map(Decimal::from);
        let [per_call, memory, cpu] = tiers;
        let tiered = plan(&json!({"perCall": per_call, "perGbSecond": memory, "perVcpuSecond": cpu}));
        PricePlan {
            per_call: tiered.per_call,
            per_gb_second: tiered.per_gb_second,
            per_vcpu_second: tiered.per_vcpu_second,
            free: Free { calls, gb_seconds, vcpu_seconds },
            ..flat
        }
    })
}

proptest! {
    #[test]
    fn lines_add_up_to_the_total(calls in calls(), plan in tiered()) {
        let statement = plan.statement(&sum(&calls, &plan)).unwrap();
        prop_assert_eq!(statement.lines.iter().map(|line| line.amount).sum::<Decimal>(), statement.total);
        prop_assert_eq!(statement.unrounded.round(plan.minor_digits), Ok(statement.total));
        for line in statement.lines.iter().filter(|line| line.item != Item::Rounding) {
            prop_assert_eq!(line.quantity.at(line.unit_price).round(plan.minor_digits), Ok(line.amount));
            prop_assert!(line.tier > 0 || line.unit_price.is_zero());
        }
        // Each line is at most half a minor unit off, the total too.
        let rounding = statement.lines.iter().find(|line| line.item == Item::Rounding);
        let most = Decimal::new(i64::try_from(statement.lines.len()).unwrap(), plan.minor_digits) / Decimal::TWO;
        prop_assert!(rounding.is_none_or(|line| line.amount.abs() <= most));
    }

    #[test]
    fn tiers_lose_and_invent_nothing(calls in calls(), plan in tiered()) {
        let usage = sum(&calls, &plan);
        let statement = plan.statement(&usage).unwrap();
        let quantity = |item: Item| {
            let of = statement.lines.iter().filter(|line| line.item == item);
            of.fold(Exact::default(), |sum, line| sum.plus(line.quantity))
        };
        let billed = usage.billed(&plan);
        prop_assert_eq!(quantity(Item::Calls), Exact::whole(billed.calls.into()));
        let mut time = billed.time.mib_ms;
        match plan.warm.calls_per_gb_second {
            None => time += billed.warm_time.mib_ms,
            Some(price) if !price.is_zero() => {
                prop_assert_eq!(quantity(Item::WarmCallsCompute), plan.memory_unit.gb_seconds(billed.warm_time.mib_ms));
            }
            Some(_) => {}
        }
        prop_assert_eq!(quantity(Item::Compute), plan.memory_unit.gb_seconds(time));
        let prices = [plan.warm.per_gb_second_used, plan.warm.per_gb_second_idle];
        if prices.iter().all(|price| !price.is_zero()) {
            let all = quantity(Item::WarmUsed).plus(quantity(Item::WarmIdle));
            prop_assert_eq!(all, plan.memory_unit.gb_seconds(usage.warm.mib_ms));
        }
    }

    #[test]
    fn splitting_a_period_changes_no_total(calls in calls(), cut in 0usize..60, plan in tiered()) {
        let (left, right) = calls.split_at(cut.min(calls.len()));
        let mut parts = sum(left, &plan);
        parts.merge(&sum(right, &plan));
        let whole = sum(&calls, &plan);
        prop_assert_eq!(&parts, &whole);
        prop_assert_eq!(plan.statement(&parts), plan.statement(&whole));
    }

    #[test]
    fn single_calls_explain_the_total(calls in calls(), plan in flat()) {
        let single = calls.iter().fold(Exact::default(), |sum, call| {
            sum.plus(plan.cost_of(&call.record, (call.memory, call.cpu)))
        });
        let usage = UsageSum { warm: Warm::default(), ..sum(&calls, &plan) };
        prop_assert_eq!(plan.cost(&usage.billed(&plan), &Warm::default()), single);
        prop_assert_eq!(plan.statement(&usage).unwrap().unrounded, single);
    }

    #[test]
    fn cost_is_the_unrounded_total_of_a_plan_without_tiers(calls in calls(), plan in flat()) {
        let usage = sum(&calls, &plan);
        let statement = plan.statement(&usage).unwrap();
        prop_assert_eq!(plan.cost(&usage.billed(&plan), &usage.warm), statement.unrounded);
    }
}
