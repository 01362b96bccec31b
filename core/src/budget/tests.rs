use super::*;
use crate::price::sample::record;
use crate::price::{Free, Tier, Tiers};
use crate::record::Outcome;
use proptest::prelude::*;

fn budget(spec: serde_json::Value) -> Budget {
    serde_json::from_value(serde_json::json!({
        "apiVersion": "dormouse.dev/v1alpha1", "kind": "Budget", "metadata": {"name": "team-a"}, "spec": spec,
    }))
    .unwrap()
}

fn limit(spec: serde_json::Value) -> Result<Limit, String> {
    Limit::of(&budget(spec)).map_err(|fault| fault.to_string())
}

#[test]
fn what_is_bounded_is_one_thing() {
    let money = limit(serde_json::json!({"amount": "250.50", "currency": "CNY"})).unwrap();
    assert_eq!(
        (money.tenant.as_str(), money.measure, money.whole.to_string()),
        ("team-a", Measure::Money, "250.50".into())
    );
    assert_eq!((money.warn_percent, money.stop_percent), (80, Some(100)));
    let memory =
        limit(serde_json::json!({"gbSeconds": "400000", "tenant": "b", "action": "Warn", "warnPercent": 50})).unwrap();
    assert_eq!((memory.tenant.as_str(), memory.warn_percent, memory.stop_percent), ("b", 50, None));
    for (bad, says) in [
        (serde_json::json!({}), "either amount or gbSeconds"),
        (serde_json::json!({"amount": "1", "gbSeconds": "1"}), "either amount or gbSeconds"),
        (serde_json::json!({"gbSeconds": "1", "currency": "CNY"}), "currency goes with amount"),
        (serde_json::json!({"amount": "many"}), "decimal text"),
        (serde_json::json!({"amount": "-1"}), "decimal text"),
    ] {
        let fault = limit(bad.clone()).unwrap_err();
        assert!(fault.contains(says), "{bad}: {fault}");
    }
}

#[test]
fn parts_are_in_the_units_that_calls_are_counted_in() {
    let plan = PricePlan::default();
    let money = limit(serde_json::json!({"amount": "0.0000017"})).unwrap();
    assert_eq!(money.part(100, &plan), 1_700_000_000);
    // Of the article: 100 ms with 512 MiB cost 0.0000017.
    let call = record(Outcome::Ok, 100_000);
    assert_eq!(Measure::Money.cost(&call, (512, 100), &plan.dearest()), 1_700_000_000);
    let memory = limit(serde_json::json!({"gbSeconds": "0.05"})).unwrap();
    assert_eq!((memory.part(100, &plan), memory.part(50, &plan)), (51_200, 25_600));
    assert_eq!(Measure::Memory.cost(&call, (512, 100), &plan.dearest()), 51_200);
    let mut usage = UsageSum::default();
    usage.add(&call, (512, 100), &[plan.metering()]);
    assert_eq!((money.counted(&usage, &plan), memory.counted(&usage, &plan)), (1_700_000_000, 51_200));
    assert_eq!(
        (money.shown(10u128.pow(15) * 5 / 2, &plan).to_string(), money.unit(&plan)),
        ("2.5000000".into(), "CNY")
    );
    assert_eq!((memory.shown(51_200, &plan).to_string(), memory.unit(&plan)), ("0.050".into(), "GB-second"));
    for free in [Outcome::PlatformError, Outcome::Aborted] {
        let call = record(free, 100_000);
        assert_eq!(Measure::Memory.cost(&call, (512, 100), &plan), 0);
        assert_eq!(Measure::Money.cost(&call, (512, 100), &plan), 0);
    }
}

#[test]
fn warm_capacity_counts_while_it_is_idle() {
    let memory = limit(serde_json::json!({"gbSeconds": "1"})).unwrap();
    let mut usage = UsageSum::default();
    usage.warm.mib_ms = 1000;
    usage.warm.used_mib_ms = 400;
    assert_eq!(memory.counted(&usage, &PricePlan::default()), 600);
}

#[test]
fn a_part_that_is_no_whole_number_is_rounded_down() {
    let plan = PricePlan { memory_unit: crate::price::MemoryUnit::Decimal, ..PricePlan::default() };
    let memory = limit(serde_json::json!({"gbSeconds": "1"})).unwrap();
    // 10^9 bytes x 1 s in MiB-milliseconds: 10^12 / 2^20 = 953,674.3.
    assert_eq!(memory.part(100, &plan), 953_674);
}

fn tiers() -> impl Strategy<Value = Tiers> {
    prop::collection::vec(0u32..1000, 1..4).prop_map(|prices| {
        let last = prices.len() - 1;
        let tier = |(n, price): (usize, u32)| Tier {
            up_to: (n < last).then(|| Decimal::from(n + 1)),
            price: Decimal::new(price.into(), 9),
        };
        Tiers::checked(prices.into_iter().enumerate().map(tier).collect())
    })
}

proptest! {
    /// Whatever tiers and free shares a plan has: calls one by one never cost less than the month with all of them.
    #[test]
    fn calls_are_never_counted_cheaper_than_the_month(
        per_call in tiers(), per_gb_second in tiers(), free in 0u32..3,
        calls in prop::collection::vec((0u64..5_000_000, 1u32..4096), 1..12), memory in any::<bool>(),
    ) {
        let free = Free { calls: free.into(), gb_seconds: free.into(), ..Free::default() };
        let plan = PricePlan { per_call, per_gb_second, free, ..PricePlan::default() };
        let spec = if memory { serde_json::json!({"gbSeconds": "1"}) } else { serde_json::json!({"amount": "1"}) };
        let limit = limit(spec).unwrap();
        let (mut usage, mut singly) = (UsageSum::default(), 0);
        for (run_us, mib) in calls {
            let call = record(Outcome::Ok, run_us);
            usage.add(&call, (mib, 100), &[plan.metering()]);
            singly += limit.measure.cost(&call, (mib, 100), &plan.dearest());
        }
        prop_assert!(limit.counted(&usage, &plan) <= singly);
    }
}
