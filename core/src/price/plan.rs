//! The price list of an installation: read from data, refused with every fault at once.

use super::exact::Exact;
use crate::record::{CallRecord, Outcome};
use crate::usage::{Class, Time};
use rust_decimal::Decimal;
use serde_json::{Map, Value};

/// What a call costs and which calls cost anything. Prices are decimal text, never floating point.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PricePlan {
    /// Name shown on statements.
    pub name: String,
    /// ISO 4217 letters.
    pub currency: String,
    /// Digits after the point of the currency's minor unit, to which statement lines are rounded.
    pub minor_digits: u32,
    /// Price of one billed call.
    pub per_call: Decimal,
    /// Price of one GB-second of billed time; GB = 1024 MiB.
    pub per_gb_second: Decimal,
    /// Billed time is rounded up to a multiple of this, in milliseconds.
    pub step_ms: u32,
    /// Least billed time of a call in milliseconds.
    pub min_ms: u32,
    /// What is billed at all.
    pub bill: BilledOutcomes,
}

/// What of a plan is billed. Successful calls always are; aborted ones never.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BilledOutcomes {
    /// The time until an instance had opened its port counts as billed time.
    pub start: bool,
    /// Calls that the function failed.
    pub function_errors: bool,
    /// Calls that ran into `timeoutSeconds`.
    pub timeouts: bool,
    /// Calls that the platform failed.
    pub platform_errors: bool,
    /// Calls whose client left.
    pub client_gone: bool,
}

/// How a call's time becomes billed time: the part of a plan that is applied when a record enters the ledger, because
/// rounding up is not linear and cannot be done on sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Metering {
    /// See [`PricePlan::step_ms`].
    pub step_ms: u32,
    /// See [`PricePlan::min_ms`].
    pub min_ms: u32,
    /// See [`BilledOutcomes::start`].
    pub start: bool,
}

/// One thing wrong with a price plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanFault {
    /// Path of the field, as in `bill.timeouts`.
    pub field: String,
    /// The rule it breaks.
    pub problem: String,
}

/// Everything wrong with a price plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.0.iter().map(|f| format!("{}: {}", f.field, f.problem)).collect::<Vec<_>>().join("; "))]
pub struct PlanFaults(pub Vec<PlanFault>);

/// Digits after a price's point; with [`PRICE_BELOW`] a price is an integer below 10^15 over a power of ten.
const PRICE_DIGITS: u32 = 12;
/// A unit price is below this.
const PRICE_BELOW: u32 = 1000;
/// Longest step and minimum: the longest `timeoutSeconds`, one hour.
const MAX_TIME_MS: u32 = 3_600_000;
/// Most digits a minor unit has (ISO 4217 knows up to 4).
const MAX_MINOR_DIGITS: u32 = 4;
/// Longest plan name in bytes.
const MAX_NAME: usize = 64;

impl Default for PricePlan {
    /// The plan `article`: CNY 0.0000002 a call and CNY 0.00003 a GB-second, by the millisecond.
    fn default() -> Self {
        Self {
            name: "article".to_owned(),
            currency: "CNY".to_owned(),
            minor_digits: 2,
            per_call: Decimal::new(2, 7),
            per_gb_second: Decimal::new(3, 5),
            step_ms: 1,
            min_ms: 0,
            bill: BilledOutcomes::default(),
        }
    }
}

impl Default for BilledOutcomes {
    fn default() -> Self {
        Self { start: false, function_errors: true, timeouts: true, platform_errors: false, client_gone: true }
    }
}

impl PricePlan {
    /// Reads a plan from parsed YAML or JSON.
    ///
    /// # Errors
    /// Every fault of it.
    pub fn from_value(value: &Value) -> Result<Self, PlanFaults> {
        let mut reader = Reader::default();
        let fields = reader.object("plan", value);
        let known = ["name", "currency", "minorDigits", "perCall", "perGbSecond", "stepMs", "minMs", "bill"];
        reader.only("", &fields, &known);
        let bill = fields.get("bill").map_or_else(BilledOutcomes::default, |v| reader.bill(v));
        let plan = Self {
            name: reader.name(&fields),
            currency: reader.currency(&fields),
            minor_digits: reader.integer(&fields, "minorDigits", 0..=MAX_MINOR_DIGITS, None),
            per_call: reader.price(&fields, "perCall"),
            per_gb_second: reader.price(&fields, "perGbSecond"),
            step_ms: reader.integer(&fields, "stepMs", 1..=MAX_TIME_MS, Some(1)),
            min_ms: reader.integer(&fields, "minMs", 0..=MAX_TIME_MS, Some(0)),
            bill,
        };
        if reader.faults.is_empty() { Ok(plan) } else { Err(PlanFaults(reader.faults)) }
    }

    /// How time is measured under this plan.
    #[must_use]
    pub fn metering(&self) -> Metering {
        Metering { step_ms: self.step_ms, min_ms: self.min_ms, start: self.bill.start }
    }

    /// Whether calls of a class are billed.
    #[must_use]
    pub fn bills(&self, class: Class) -> bool {
        match class.outcome {
            _ if class.excused => false,
            Outcome::Ok => true,
            Outcome::FunctionError => self.bill.function_errors,
            Outcome::PlatformError => self.bill.platform_errors,
            Outcome::Timeout => self.bill.timeouts,
            Outcome::ClientGone => self.bill.client_gone,
            Outcome::Aborted => false,
        }
    }

    /// What one call costs on an instance of this memory in MiB and cpu in thousandths, unrounded (to at most 28 digits;
    /// [`Decimal::MAX`] for times beyond all sense).
    #[must_use]
    pub fn price_of(&self, record: &CallRecord, size: (u32, u32)) -> Decimal {
        self.cost_of(record, size).nearest().unwrap_or(Decimal::MAX)
    }

    /// The same, exactly.
    #[must_use]
    pub fn cost_of(&self, record: &CallRecord, size: (u32, u32)) -> Exact {
        if !self.bills(Class::of(record)) {
            return Exact::default();
        }
        self.cost(1, Time::of(self.metering().billed_ms(record), size).mib_ms)
    }

    /// What billed calls and MiB-milliseconds cost, exactly.
    #[must_use]
    pub fn cost(&self, calls: u64, mib_ms: u128) -> Exact {
        Exact::whole(u128::from(calls)).at(self.per_call).plus(Exact::gb_seconds(mib_ms).at(self.per_gb_second))
    }
}

impl Metering {
    /// Billed milliseconds of one call: run time, and if the plan says so the start of its instance when it was the first
    /// call there, rounded up to a step, at least the minimum. Waiting for a free slot is never billed; an aborted call is billed 0.
    #[must_use]
    pub fn billed_ms(&self, record: &CallRecord) -> u64 {
        if record.outcome == Outcome::Aborted {
            return 0;
        }
        let start = if self.start && record.first { record.claim_us.saturating_add(record.start_us) } else { 0 };
        let us = record.run_us.saturating_add(start);
        let step = u64::from(self.step_ms.max(1));
        us.div_ceil(step * 1000).saturating_mul(step).max(u64::from(self.min_ms))
    }
}

impl<'de> serde::Deserialize<'de> for PricePlan {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_value(&Value::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Collects faults; a faulty field reads as a harmless value and the plan is then dropped.
#[derive(Default)]
struct Reader {
    faults: Vec<PlanFault>,
}

impl Reader {
    fn fault(&mut self, field: &str, problem: impl Into<String>) {
        self.faults.push(PlanFault { field: field.to_owned(), problem: problem.into() });
    }

    fn object(&mut self, field: &str, value: &Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap_or_else(|| {
            self.fault(field, "must be a map of fields");
            Map::new()
        })
    }

    fn only(&mut self, prefix: &str, fields: &Map<String, Value>, known: &[&str]) {
        for name in fields.keys().filter(|name| !known.contains(&name.as_str())) {
            // A name of any length comes from outside: what is told of it is bounded.
            let shown: String = name.chars().take(MAX_NAME).collect();
            self.fault(&format!("{prefix}{shown}"), format!("unknown field, expected one of {}", known.join(", ")));
        }
    }

    fn text<'a>(&mut self, fields: &'a Map<String, Value>, field: &str, rule: &str) -> Option<&'a str> {
        match fields.get(field) {
            None => self.fault(field, "is missing"),
            Some(Value::String(text)) => return Some(text),
            Some(_) => self.fault(field, rule),
        }
        None
    }

    fn name(&mut self, fields: &Map<String, Value>) -> String {
        let rule = "must be text of 1 to 64 characters out of a-z, 0-9, '-', '.' and '_'";
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-._".contains(c);
        match self.text(fields, "name", rule) {
            Some(text) if (1..=MAX_NAME).contains(&text.len()) && text.chars().all(good) => return text.to_owned(),
            Some(_) => self.fault("name", rule),
            None => {}
        }
        String::new()
    }

    fn currency(&mut self, fields: &Map<String, Value>) -> String {
        let rule = "must be three capital letters, as in CNY";
        match self.text(fields, "currency", rule) {
            Some(text) if text.len() == 3 && text.bytes().all(|b| b.is_ascii_uppercase()) => return text.to_owned(),
            Some(_) => self.fault("currency", rule),
            None => {}
        }
        String::new()
    }

    fn integer(
        &mut self,
        fields: &Map<String, Value>,
        field: &str,
        range: std::ops::RangeInclusive<u32>,
        default: Option<u32>,
    ) -> u32 {
        let Some(value) = fields.get(field) else {
            if default.is_none() {
                self.fault(field, "is missing");
            }
            return default.unwrap_or_default();
        };
        match value.as_u64().and_then(|v| u32::try_from(v).ok()).filter(|v| range.contains(v)) {
            Some(value) => value,
            None => {
                self.fault(field, format!("must be a whole number from {} to {}", range.start(), range.end()));
                0
            }
        }
    }

    fn price(&mut self, fields: &Map<String, Value>, field: &str) -> Decimal {
        let rule = "must be a price in quotes, as in \"0.00003\": a number without quotes would lose digits";
        let Some(text) = self.text(fields, field, rule) else { return Decimal::ZERO };
        // Digits and one point only: no exponent, sign, separator or blank.
        let plain = !text.is_empty()
            && text.len() <= 32
            && text.bytes().all(|b| b.is_ascii_digit() || b == b'.')
            && text.starts_with(|c: char| c.is_ascii_digit());
        let unsigned = text.strip_prefix('-').unwrap_or(text);
        match Decimal::from_str_exact(text) {
            _ if unsigned.len() < text.len() => self.fault(field, "must not be negative"),
            Ok(price) if plain && price.normalize().scale() > PRICE_DIGITS => {
                self.fault(field, format!("must have at most {PRICE_DIGITS} digits after the point"));
            }
            Ok(price) if plain && price >= Decimal::from(PRICE_BELOW) => {
                self.fault(field, format!("must be below {PRICE_BELOW}"));
            }
            Ok(price) if plain => return price.normalize(),
            Err(rust_decimal::Error::Underflow) => {
                self.fault(field, format!("must have at most {PRICE_DIGITS} digits after the point"));
            }
            Ok(_) | Err(_) => self.fault(field, "must be digits with at most one point, as in \"0.00003\""),
        }
        Decimal::ZERO
    }

    fn bill(&mut self, value: &Value) -> BilledOutcomes {
        let fields = self.object("bill", value);
        self.only("bill.", &fields, &["start", "functionErrors", "timeouts", "platformErrors", "clientGone"]);
        let default = BilledOutcomes::default();
        let mut switch = |field: &str, default: bool| match fields.get(field) {
            None => default,
            Some(Value::Bool(on)) => *on,
            Some(_) => {
                self.fault(&format!("bill.{field}"), "must be true or false");
                default
            }
        };
        BilledOutcomes {
            start: switch("start", default.start),
            function_errors: switch("functionErrors", default.function_errors),
            timeouts: switch("timeouts", default.timeouts),
            platform_errors: switch("platformErrors", default.platform_errors),
            client_gone: switch("clientGone", default.client_gone),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn article() -> Value {
        json!({"name": "article", "currency": "CNY", "minorDigits": 2, "perCall": "0.0000002", "perGbSecond": "0.00003",
            "stepMs": 1, "minMs": 0, "bill": {"start": false, "functionErrors": true, "timeouts": true,
            "platformErrors": false, "clientGone": true}})
    }

    fn record(outcome: Outcome, start_us: u64, run_us: u64) -> CallRecord {
        CallRecord {
            subject: 0,
            call: 1,
            received_at_us: 0,
            wait_us: 7_000_000,
            // In two parts.
            claim_us: start_us / 3,
            start_us: start_us - start_us / 3,
            connect_us: 9_000_000,
            run_us,
            request_bytes: 0,
            response_bytes: 0,
            status: 200,
            outcome,
            cold: start_us > 0,
            first: start_us > 0,
            warm_slots: 0,
            key: 0,
        }
    }

    #[test]
    fn the_default_is_the_article_and_reads_back() {
        assert_eq!(PricePlan::from_value(&article()), Ok(PricePlan::default()));
        assert_eq!(serde_json::to_value(PricePlan::default()).unwrap(), article());
        let short =
            json!({"name": "a", "currency": "CNY", "minorDigits": 2, "perCall": "0", "perGbSecond": "0.000030"});
        let plan: PricePlan = serde_json::from_value(short).unwrap();
        assert_eq!((plan.step_ms, plan.min_ms, plan.bill), (1, 0, BilledOutcomes::default()));
    }

    #[test]
    fn every_fault_is_told_at_once() {
        let bad = json!({"name": "No Name", "currency": "yuan", "minorDigits": 9, "perCall": "-1", "perGbSecond": 0.00003,
            "stepMs": 0, "minMs": "3", "bill": {"timeouts": "yes", "retries": true}, "discount": 1});
        let faults = PricePlan::from_value(&bad).unwrap_err();
        let told: Vec<_> = faults.0.iter().map(|f| f.field.as_str()).collect();
        let all = [
            "discount",
            "bill.retries",
            "bill.timeouts",
            "name",
            "currency",
            "minorDigits",
            "perCall",
            "perGbSecond",
            "stepMs",
            "minMs",
        ];
        assert_eq!(told, all);
        assert!(faults.to_string().contains("perCall: must not be negative; perGbSecond: must be a price in quotes"));
        assert_eq!(PricePlan::from_value(&json!([])).unwrap_err().0.len(), 6);
    }

    #[test]
    fn prices_are_plain_decimal_text() {
        let with = |price: &str| {
            let mut plan = article();
            plan["perCall"] = json!(price);
            PricePlan::from_value(&plan).map(|p| p.per_call.to_string()).map_err(|e| e.to_string())
        };
        assert_eq!(with("0.000000000001").as_deref(), Ok("0.000000000001"));
        assert_eq!(with("0.1000000000000000").as_deref(), Ok("0.1"));
        assert!(with("0.0000000000001").unwrap_err().contains("at most 12 digits"));
        assert!(with("0.00000000000000000000000000000001").unwrap_err().contains("perCall"));
        assert!(with("1000").unwrap_err().contains("below 1000"));
        for bad in ["", ".5", "1e-7", "+1", " 1", "1,5", "1_0", "x", "1.2.3", &"9".repeat(40)] {
            assert!(with(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn billed_time_by_step_minimum_and_start() {
        let m = |step_ms, min_ms, start| Metering { step_ms, min_ms, start };
        let r = record(Outcome::Ok, 30_500, 100_001);
        assert_eq!(m(1, 0, false).billed_ms(&r), 101);
        assert_eq!(m(1, 0, true).billed_ms(&r), 131);
        assert_eq!(m(1, 0, true).billed_ms(&CallRecord { first: false, ..r }), 101, "once per instance");
        assert_eq!(m(100, 0, false).billed_ms(&r), 200);
        assert_eq!(m(100, 0, true).billed_ms(&r), 200);
        assert_eq!(m(1, 1000, false).billed_ms(&r), 1000);
        assert_eq!(m(1, 0, false).billed_ms(&record(Outcome::Ok, 0, 0)), 0);
        assert_eq!(m(1, 50, false).billed_ms(&record(Outcome::Aborted, 0, 9_000_000)), 0);
        assert_eq!(m(1, 0, false).billed_ms(&record(Outcome::Ok, 0, u64::MAX)), u64::MAX.div_ceil(1000));
    }

    #[test]
    fn one_call_of_the_article_costs() {
        let plan = PricePlan::default();
        // 0.0000002 + 0.05 GB-seconds x 0.00003
        assert_eq!(plan.price_of(&record(Outcome::Ok, 5, 100_000), (512, 100)).to_string(), "0.0000017");
        assert_eq!(plan.price_of(&record(Outcome::PlatformError, 5, 100_000), (512, 100)), Decimal::ZERO);
        assert_eq!(plan.price_of(&record(Outcome::Aborted, 5, 100_000), (512, 100)), Decimal::ZERO);
        assert!(plan.price_of(&record(Outcome::Ok, 5, u64::MAX), (u32::MAX, 0)) > Decimal::ZERO);
    }
}
