//! The rules of the specification (1.2, and what 1.3 and 1.4 add) that rows of usage, credits and adjustments can break.

use super::*;
use crate::table::Kind;

type Fields = BTreeMap<&'static str, Value<'static>>;

/// Columns that every row of 1.2 must have, and whether they may be null.
const MANDATORY: [(&str, bool); 21] = [
    ("BilledCost", false),
    ("BillingAccountId", false),
    ("BillingAccountName", true),
    ("BillingCurrency", false),
    ("BillingPeriodEnd", false),
    ("BillingPeriodStart", false),
    ("ChargeCategory", false),
    ("ChargeClass", true),
    ("ChargeDescription", true),
    ("ChargePeriodEnd", false),
    ("ChargePeriodStart", false),
    ("ContractedCost", false),
    ("EffectiveCost", false),
    ("InvoiceIssuerName", false),
    ("ListCost", false),
    ("PricingQuantity", true),
    ("PricingUnit", true),
    ("ProviderName", false),
    ("PublisherName", false),
    ("ServiceCategory", false),
    ("ServiceName", false),
];
/// What 1.3 adds and 1.4 takes away and adds.
const OF_1_3: [(&str, bool); 2] = [("ServiceProviderName", false), ("HostProviderName", false)];
const NOT_IN_1_4: [&str; 2] = ["ProviderName", "PublisherName"];

/// Fails when a row breaks a rule.
pub(super) fn check(rows: &[Fields], version: Version) {
    let mandatory = MANDATORY.iter().filter(|(name, _)| version < Version::V1_4 || !NOT_IN_1_4.contains(name));
    let mandatory: Vec<_> = mandatory.chain(&OF_1_3).collect();
    for row in rows {
        for (name, nullable) in &mandatory {
            let value = row.get(name).unwrap_or_else(|| panic!("{name} is missing"));
            assert!(*nullable || *value != Value::Null, "{name} is null");
        }
        assert_eq!(NOT_IN_1_4.iter().any(|name| row.contains_key(name)), version < Version::V1_4);
        for column in columns(version) {
            is_of_its_kind(&row[column.name], column);
        }
        allowed(row);
        nulls(row);
        periods(row);
        money(row);
    }
}

fn is_of_its_kind(value: &Value<'_>, column: crate::table::Column) {
    let name = column.name;
    match (value, column.kind) {
        (Value::Null, _) => assert!(column.nullable, "{name} is null"),
        (Value::Text(text), Kind::Text) => assert!(!text.trim().is_empty(), "{name}: nothing is null, not empty"),
        (Value::Integer(_), Kind::Integer) => {}
        (Value::Time(us), Kind::Time) => {
            // Seconds are enough for all of them: YYYY-MM-DDTHH:mm:ssZ.
            assert_eq!(us % 1_000_000, 0, "{name}");
            assert_eq!(text(value).len(), 20, "{name}");
        }
        (Value::Decimal(decimal), Kind::Decimal { scale }) => {
            assert!(decimal.units(scale).is_ok(), "{name}: {decimal}");
            let shown = decimal.to_string();
            let digits = shown.strip_prefix('-').unwrap_or(&shown);
            assert!(digits.bytes().all(|b| b.is_ascii_digit() || b == b'.') && digits.matches('.').count() <= 1);
            assert!(digits.starts_with(|c: char| c.is_ascii_digit()) && !digits.ends_with('.') && shown != "-0");
        }
        (value, kind) => panic!("{name}: {value:?} is no {kind:?}"),
    }
}

fn allowed(row: &Fields) {
    let one_of = |name: &str, values: &[&str]| {
        let value = text(&row[name]);
        assert!(value.is_empty() || values.contains(&&*value), "{name}: {value}");
    };
    one_of("ChargeCategory", &["Usage", "Purchase", "Tax", "Credit", "Adjustment"]);
    one_of("ChargeClass", &["Correction"]);
    one_of("ChargeFrequency", &["One-Time", "Recurring", "Usage-Based"]);
    one_of("ServiceCategory", &["Compute"]);
    one_of("ServiceSubcategory", &["Serverless Compute"]);
    one_of("PricingCategory", &["Standard", "Dynamic", "Committed", "Other"]);
    one_of("CapacityReservationStatus", &["Used", "Unused"]);
    for unit in ["PricingUnit", "ConsumedUnit"] {
        one_of(unit, &["Requests", "GiB-Seconds", "GB-Seconds", "Core-Seconds"]);
    }
    let currency = text(&row["BillingCurrency"]);
    assert!(currency.len() == 3 && currency.bytes().all(|b| b.is_ascii_uppercase()), "{currency}");
}

/// What is null exactly when something else is.
fn nulls(row: &Fields) {
    let is_null = |name: &str| row[name] == Value::Null;
    let category = text(&row["ChargeCategory"]);
    let of_usage = ["SkuId", "SkuPriceId", "SkuMeter", "PricingQuantity", "PricingUnit", "PricingCategory"];
    let of_usage = of_usage.into_iter().chain(["ListUnitPrice", "ContractedUnitPrice", "ConsumedQuantity"]);
    if category == "Usage" {
        of_usage.for_each(|name| assert!(!is_null(name), "{name} is null"));
    } else {
        assert!(is_null("ConsumedQuantity"));
    }
    let pairs = [
        ("PricingUnit", "PricingQuantity"),
        ("ConsumedUnit", "ConsumedQuantity"),
        ("ResourceName", "ResourceId"),
        ("ResourceType", "ResourceId"),
        ("SubAccountName", "SubAccountId"),
        ("CapacityReservationStatus", "CapacityReservationId"),
        ("SkuMeter", "SkuId"),
        ("SkuPriceDetails", "SkuPriceId"),
    ];
    pairs.iter().for_each(|(a, b)| assert_eq!(is_null(a), is_null(b), "{a} and {b}"));
    if !is_null("SkuPriceDetails") {
        let details: serde_json::Value = serde_json::from_str(&text(&row["SkuPriceDetails"])).unwrap();
        for (key, value) in details.as_object().unwrap() {
            assert!(key.starts_with("x_") && !value.is_object() && !value.is_array(), "{key}");
        }
    }
    assert_eq!(category == "Adjustment", is_null("ResourceId"));
}

/// Start inclusive, end exclusive, the charge's within the bill's; a correction's is of an earlier bill.
fn periods(row: &Fields) {
    let time = |name: &str| match row[name] {
        Value::Time(us) => us,
        ref other => panic!("{name}: {other:?}"),
    };
    let [from, to] = [time("ChargePeriodStart"), time("ChargePeriodEnd")];
    let [month, end] = [time("BillingPeriodStart"), time("BillingPeriodEnd")];
    assert!(from < to && month < end);
    if row["ChargeClass"] != Value::Null {
        assert!(to <= month);
        return;
    }
    assert!(month <= from && to <= end);
    match row["ResourceId"] {
        Value::Null => assert_eq!((from, to), (month, end)),
        _ => assert_eq!(to - from, 3_600_000_000, "an hour"),
    }
    assert_eq!((text(&row["BillingPeriodStart"]), text(&row["BillingPeriodEnd"])), {
        ("2026-11-01T00:00:00Z".to_owned(), "2026-12-01T00:00:00Z".to_owned())
    });
}

/// Prices x quantity are costs, and no price is below zero; without a price every cost is what is billed.
fn money(row: &Fields) {
    let decimal = |name: &str| match row[name] {
        Value::Decimal(value) => Some(value),
        _ => None,
    };
    for (price, cost) in [("ListUnitPrice", "ListCost"), ("ContractedUnitPrice", "ContractedCost")] {
        let cost = decimal(cost).unwrap();
        match (decimal(price), decimal("PricingQuantity")) {
            (Some(price), Some(quantity)) => {
                let price = price.units(12).unwrap();
                assert!(price >= 0);
                let quantity = Exact::whole(quantity.units(13).unwrap().unsigned_abs()).at(Decimal::new(1, 13));
                let product = quantity.at(Decimal::from_i128_with_scale(price, 12));
                assert_eq!(cost, product.into(), "{price} x {quantity}");
            }
            _ => assert_eq!(Some(cost), decimal("BilledCost")),
        }
    }
    assert_eq!(decimal("EffectiveCost"), decimal("BilledCost"), "nothing is paid ahead");
    let below = text(&row["BilledCost"]).starts_with('-');
    match text(&row["ChargeCategory"]).as_str() {
        "Usage" => assert!(!below),
        "Credit" => assert!(below),
        _ => assert!(!decimal("BilledCost").unwrap().is_zero()),
    }
}
