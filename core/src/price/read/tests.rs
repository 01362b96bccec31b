use super::*;
use proptest::prelude::*;
use serde_json::json;

/// What a plan must have, and nothing else.
fn least() -> Value {
    json!({"name": "a", "currency": "CNY", "minorDigits": 2, "perCall": "0.0000002", "perGbSecond": "0.00003"})
}

fn with(field: &str, value: Value) -> Result<PricePlan, String> {
    let mut plan = least();
    plan[field] = value;
    PricePlan::from_value(&plan).map_err(|faults| faults.to_string())
}

fn decimal(text: &str) -> Decimal {
    text.parse().unwrap()
}

fn full() -> Value {
    json!({
        "name": "full", "currency": "JPY", "minorDigits": 0, "source": "https://example.com/prices", "date": "2026-11-26",
        "perCall": [{"upTo": 1_000_000_000u64, "price": "0.2"}, {"upTo": "2000000000", "price": "0.10"}, {"price": "0"}],
        "perGbSecond": [{"upTo": "0.5", "price": "0.00003"}, {"price": "0.00002"}],
        "perVcpuSecond": "0.5",
        "warm": {"perGbSecondUsed": "1", "perGbSecondIdle": "2", "perVcpuSecondUsed": "3", "perVcpuSecondIdle": "4",
            "callsPerGbSecond": "5", "callsPerVcpuSecond": "6"},
        "free": {"calls": 7, "gbSeconds": "8.125", "vcpuSeconds": "9"},
        "memoryUnit": "GB", "stepMs": 100, "minMs": 10,
        "bill": {"start": true, "functionErrors": false, "timeouts": false, "platformErrors": true, "clientGone": false},
        "durability": "ledger",
    })
}

#[test]
fn what_is_not_said_is_as_described() {
    let plan = PricePlan::from_value(&least()).unwrap();
    let article = PricePlan { name: "a".into(), source: None, date: None, ..PricePlan::default() };
    assert_eq!(plan, article);
    let mut nulls = least();
    for field in PLAN.iter().filter(|field| least().get(field).is_none()) {
        nulls[*field] = Value::Null;
    }
    assert_eq!(PricePlan::from_value(&nulls), Ok(article));
}

#[test]
fn every_field_is_read() {
    let plan: PricePlan = serde_json::from_value(full()).unwrap();
    let tier = |up_to: Option<&str>, price| Tier { up_to: up_to.map(decimal), price: decimal(price) };
    let calls = [tier(Some("1000000000"), "0.2"), tier(Some("2000000000"), "0.1"), tier(None, "0")];
    let memory = [tier(Some("0.5"), "0.00003"), tier(None, "0.00002")];
    let whole = Decimal::from;
    let expected = PricePlan {
        name: "full".into(),
        currency: "JPY".into(),
        minor_digits: 0,
        source: Some("https://example.com/prices".into()),
        date: Some(jiff::civil::date(2026, 11, 26)),
        per_call: Tiers::checked(calls.into()),
        per_gb_second: Tiers::checked(memory.into()),
        per_vcpu_second: Tiers::flat(decimal("0.5")),
        warm: WarmPrices {
            per_gb_second_used: whole(1),
            per_gb_second_idle: whole(2),
            per_vcpu_second_used: whole(3),
            per_vcpu_second_idle: whole(4),
            calls_per_gb_second: Some(whole(5)),
            calls_per_vcpu_second: Some(whole(6)),
        },
        free: Free { calls: whole(7), gb_seconds: decimal("8.125"), vcpu_seconds: whole(9) },
        memory_unit: MemoryUnit::Decimal,
        step_ms: 100,
        min_ms: 10,
        bill: BilledOutcomes {
            start: true,
            function_errors: false,
            timeouts: false,
            platform_errors: true,
            client_gone: false,
        },
        durability: Durability::Ledger,
    };
    assert_eq!(plan, expected);
}

#[test]
fn every_fault_is_told_at_once() {
    let bad = json!({
        "name": "No Name", "currency": "yuan", "minorDigits": 9, "source": "", "date": "26.11.2026", "discount": 1,
        "perCall": "-1", "perGbSecond": 0.00003, "perVcpuSecond": [{"upTo": 1, "price": "1"}],
        "warm": {"perGbSecondUsed": 1, "callsPerVcpuSecond": "x", "cold": "1"},
        "free": {"calls": "0.5", "gbSeconds": 0.5, "bytes": 1},
        "memoryUnit": "MB", "stepMs": 0, "minMs": "3", "bill": {"timeouts": "yes", "retries": true}, "durability": "raft",
    });
    let faults = PricePlan::from_value(&bad).unwrap_err();
    let told: Vec<_> = faults.0.iter().map(|f| f.field.as_str()).collect();
    let all = [
        "discount",
        "name",
        "currency",
        "minorDigits",
        "source",
        "date",
        "perCall",
        "perGbSecond",
        "perVcpuSecond[0].upTo",
        "warm.cold",
        "warm.perGbSecondUsed",
        "warm.callsPerVcpuSecond",
        "free.bytes",
        "free.calls",
        "free.gbSeconds",
        "memoryUnit",
        "stepMs",
        "minMs",
        "bill.retries",
        "bill.timeouts",
        "durability",
    ];
    assert_eq!(told, all);
    assert!(faults.to_string().contains("perCall: must not be negative; perGbSecond: must be a price in quotes"));
    let told: Vec<_> = PricePlan::from_value(&json!([])).unwrap_err().0.into_iter().map(|f| f.field).collect();
    assert_eq!(told, ["plan", "name", "currency", "minorDigits", "perCall", "perGbSecond"]);
    assert_eq!(with("warm", json!("x")).unwrap_err(), "warm: must be a map of fields");
}

#[test]
fn prices_are_plain_decimal_text() {
    let with = |price: &str| with("perCall", json!(price)).map(|p| p.per_call.first_price().to_string());
    assert_eq!(with("0.000000000001").as_deref(), Ok("0.000000000001"));
    assert_eq!(with("0.1000000000000000").as_deref(), Ok("0.1"));
    assert_eq!(with("999.999999999999").as_deref(), Ok("999.999999999999"));
    assert!(with("0.0000000000001").unwrap_err().contains("at most 12 digits"));
    assert!(with("0.00000000000000000000000000000001").unwrap_err().contains("perCall"));
    assert!(with("1000").unwrap_err().contains("below 1000"));
    for bad in ["", ".5", "1e-7", "+1", "-1", " 1", "1,5", "1_0", "x", "1.2.3", &"9".repeat(40)] {
        assert!(with(bad).is_err(), "{bad}");
    }
}

#[test]
fn quantities_are_whole_or_decimal_text() {
    let calls = |value| with("free", json!({"calls": value})).map(|p| p.free.calls.to_string());
    assert_eq!(calls(json!(1_000_000)).as_deref(), Ok("1000000"));
    assert_eq!(calls(json!("1000000.0")).as_deref(), Ok("1000000"));
    assert_eq!(calls(json!("0.5")).unwrap_err(), "free.calls: must be a whole number");
    assert!(calls(json!(1_000_000_000_000_000_000u64)).unwrap_err().contains("below 1000000000000000000"));
    let time = |value| with("free", json!({"gbSeconds": value})).map(|p| p.free.gb_seconds.to_string());
    assert_eq!(time(json!("999999999999999999.999999")).as_deref(), Ok("999999999999999999.999999"));
    assert!(time(json!("0.0000001")).unwrap_err().contains("at most 6 digits"));
    for bad in [json!(0.5), json!(-1), json!("-1"), json!(true), json!([1]), json!("1e9")] {
        assert!(time(bad.clone()).is_err(), "{bad}");
    }
}

#[test]
fn tiers_grow_and_only_the_last_has_no_end() {
    let told = |tiers| with("perGbSecond", tiers).unwrap_err();
    assert!(told(json!([])).contains("1 to 10 tiers"));
    assert!(told(json!(vec![json!({"upTo": 1, "price": "1"}); 11])).contains("1 to 10 tiers"));
    assert!(told(json!([{"price": "1"}, {"price": "2"}])).contains("perGbSecond[0].upTo: is missing"));
    assert!(
        told(json!([{"upTo": 5, "price": "1"}, {"upTo": 6, "price": "1"}])).contains("[1].upTo: must not be there")
    );
    assert!(told(json!([{"upTo": 0, "price": "1"}, {"price": "1"}])).contains("[0].upTo: must be above 0"));
    let same = json!([{"upTo": 5, "price": "1"}, {"upTo": "5.0", "price": "1"}, {"price": "1"}]);
    assert_eq!(told(same), "perGbSecond[1].upTo: must be above 0 and above the end of the tier before it");
    let unpriced = json!([{"upTo": 5}, {"price": 1, "to": 3}, "x"]);
    let told = told(unpriced);
    for part in
        ["[0].price: is missing", "[1].to: unknown", "[1].upTo: is", "[1].price: must", "[2]: must", "[2].price"]
    {
        assert!(told.contains(part), "{part} in {told}");
    }
    let most: Vec<_> = (1..10).map(|end| json!({"upTo": end, "price": "1"})).chain([json!({"price": "1"})]).collect();
    assert_eq!(with("perCall", json!(most)).unwrap().per_call.all().len(), 10);
    assert!(with("perCall", json!([{"upTo": "1.5", "price": "1"}, {"price": "1"}])).is_err(), "calls are whole");
}

#[test]
fn days_and_sources_have_one_form() {
    assert_eq!(with("date", json!("2024-02-29")).unwrap().date, Some(jiff::civil::date(2024, 2, 29)));
    for bad in [json!("2023-02-29"), json!("20240229"), json!("2024-02-29T10:00"), json!("2024-2-9"), json!(2024)] {
        assert!(with("date", bad.clone()).is_err(), "{bad}");
    }
    assert!(with("source", json!("x".repeat(253))).is_ok());
    for bad in [json!("x".repeat(254)), json!(""), json!("a\nb"), json!(1)] {
        assert!(with("source", bad.clone()).is_err(), "{bad}");
    }
}

fn any_price() -> impl Strategy<Value = String> {
    (0u64..1_000_000_000_000_000, 0u32..13).prop_filter_map("too much", |(mantissa, scale)| {
        let price = Decimal::from_i128_with_scale(mantissa.into(), scale);
        (price < Decimal::ONE_THOUSAND).then(|| price.to_string())
    })
}

fn any_tiers() -> impl Strategy<Value = Value> {
    let ends = prop::collection::btree_set(1u64..1_000_000_000_000_000_000, 0..10);
    (ends, prop::collection::vec(any_price(), 10)).prop_map(|(ends, prices)| {
        let last = json!({"price": prices[ends.len()]});
        let tiers = ends.iter().zip(&prices).map(|(end, price)| json!({"upTo": end, "price": price}));
        Value::Array(tiers.chain([last]).collect())
    })
}

proptest! {
    #[test]
    fn a_written_plan_reads_back(calls in any_tiers(), memory in any_tiers(), idle in any_price(), free in 0u64..1_000_000) {
        let mut value = full();
        value["perCall"] = calls;
        value["perGbSecond"] = memory;
        value["warm"]["perGbSecondIdle"] = json!(idle);
        value["free"]["calls"] = json!(free);
        let plan = PricePlan::from_value(&value).unwrap();
        let written = serde_json::to_value(&plan).unwrap();
        prop_assert_eq!(PricePlan::from_value(&written), Ok(plan));
    }

    #[test]
    fn any_text_is_refused_or_a_price_within_bounds(text in "[0-9.eE+_ -]{0,34}") {
        if let Ok(price) = super::decimal(&text, PRICE_DIGITS, PRICE_BELOW) {
            prop_assert!(price.scale() <= PRICE_DIGITS && price < Decimal::from(PRICE_BELOW) && !price.is_sign_negative());
            prop_assert!(price.mantissa() < 1_000_000_000_000_000);
        }
    }
}
