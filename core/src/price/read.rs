//! A price plan read from data: refused with every fault at once.

use super::plan::{BilledOutcomes, Durability, Free, MemoryUnit, PricePlan, WarmPrices};
use super::tiers::{Tier, Tiers};
use jiff::civil::Date;
use rust_decimal::Decimal;
use serde_json::{Map, Value};
use std::ops::RangeInclusive;

/// One thing wrong with a price plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanFault {
    /// Path of the field, as in `bill.timeouts` or `perCall[0].upTo`.
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
const PRICE_BELOW: u64 = 1000;
/// Digits after the point of a quantity that is free or ends a tier.
const QUANTITY_DIGITS: u32 = 6;
/// Such a quantity is below this.
const QUANTITY_BELOW: u64 = 1_000_000_000_000_000_000;
/// Most tiers of a price.
const MAX_TIERS: usize = 10;
/// Longest step and minimum: the longest `timeoutSeconds`, one hour.
const MAX_TIME_MS: u32 = 3_600_000;
/// Most digits a minor unit has (ISO 4217 knows up to 4).
const MAX_MINOR_DIGITS: u32 = 4;
/// Longest plan name in bytes.
const MAX_NAME: usize = 64;
/// Longest source in bytes.
const MAX_SOURCE: usize = 253;
/// Longest text of a decimal in bytes.
const MAX_DECIMAL: usize = 32;

const PLAN: [&str; 15] = [
    "name",
    "currency",
    "minorDigits",
    "source",
    "date",
    "perCall",
    "perGbSecond",
    "perVcpuSecond",
    "warm",
    "free",
    "memoryUnit",
    "stepMs",
    "minMs",
    "bill",
    "durability",
];
const WARM: [&str; 6] = [
    "perGbSecondUsed",
    "perGbSecondIdle",
    "perVcpuSecondUsed",
    "perVcpuSecondIdle",
    "callsPerGbSecond",
    "callsPerVcpuSecond",
];

impl PricePlan {
    /// Reads a plan from parsed YAML or JSON. A field that is null reads as one that is not there.
    ///
    /// # Errors
    /// Every fault of it.
    pub fn from_value(value: &Value) -> Result<Self, PlanFaults> {
        let mut reader = Reader::default();
        let of = reader.map("", Some(value), &PLAN);
        let plan = Self {
            name: reader.name(&of),
            currency: reader.currency(&of),
            minor_digits: reader.integer(&of, "minorDigits", 0..=MAX_MINOR_DIGITS, None),
            source: reader.source(&of),
            date: reader.date(&of),
            per_call: reader.tiers(&of, "perCall", 0, true),
            per_gb_second: reader.tiers(&of, "perGbSecond", QUANTITY_DIGITS, true),
            per_vcpu_second: reader.tiers(&of, "perVcpuSecond", QUANTITY_DIGITS, false),
            warm: reader.warm(&of),
            free: reader.free(&of),
            memory_unit: reader.memory_unit(&of),
            step_ms: reader.integer(&of, "stepMs", 1..=MAX_TIME_MS, Some(1)),
            min_ms: reader.integer(&of, "minMs", 0..=MAX_TIME_MS, Some(0)),
            bill: reader.bill(&of),
            durability: reader.durability(&of),
        };
        if reader.faults.is_empty() { Ok(plan) } else { Err(PlanFaults(reader.faults)) }
    }
}

impl<'de> serde::Deserialize<'de> for PricePlan {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_value(&Value::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// The fields of a map, and where in the plan it stands.
struct Fields<'a> {
    path: String,
    map: Option<&'a Map<String, Value>>,
}

impl<'a> Fields<'a> {
    fn get(&self, field: &str) -> Option<&'a Value> {
        self.map?.get(field).filter(|value| !value.is_null())
    }

    fn path(&self, field: &str) -> String {
        if self.path.is_empty() { field.to_owned() } else { format!("{}.{field}", self.path) }
    }
}

/// Collects faults; a faulty field reads as a harmless value and the plan is then dropped.
#[derive(Default)]
struct Reader {
    faults: Vec<PlanFault>,
}

impl Reader {
    fn fault(&mut self, field: impl Into<String>, problem: impl Into<String>) {
        self.faults.push(PlanFault { field: field.into(), problem: problem.into() });
    }

    /// A map that has no fields but these.
    fn map<'a>(&mut self, path: &str, value: Option<&'a Value>, known: &[&str]) -> Fields<'a> {
        let of = Fields { path: path.to_owned(), map: value.and_then(Value::as_object) };
        if value.is_some() && of.map.is_none() {
            self.fault(if path.is_empty() { "plan" } else { path }, "must be a map of fields");
        }
        for name in of.map.into_iter().flat_map(Map::keys).filter(|name| !known.contains(&name.as_str())) {
            // A name of any length comes from outside: what is told of it is bounded.
            let shown: String = name.chars().take(MAX_NAME).collect();
            self.fault(of.path(&shown), format!("unknown field, expected one of {}", known.join(", ")));
        }
        of
    }

    /// Text that must be there and be good.
    fn required(&mut self, of: &Fields, field: &str, good: impl Fn(&str) -> bool, rule: &str) -> String {
        match of.get(field) {
            None => self.fault(of.path(field), "is missing"),
            Some(Value::String(text)) if good(text) => return text.clone(),
            Some(_) => self.fault(of.path(field), rule),
        }
        String::new()
    }

    fn name(&mut self, of: &Fields) -> String {
        let rule = "must be text of 1 to 64 characters out of a-z, 0-9, '-', '.' and '_'";
        let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-._".contains(c);
        self.required(of, "name", |text| (1..=MAX_NAME).contains(&text.len()) && text.chars().all(known), rule)
    }

    fn currency(&mut self, of: &Fields) -> String {
        let good = |text: &str| text.len() == 3 && text.bytes().all(|b| b.is_ascii_uppercase());
        self.required(of, "currency", good, "must be three capital letters, as in CNY")
    }

    fn source(&mut self, of: &Fields) -> Option<String> {
        let good = |text: &str| (1..=MAX_SOURCE).contains(&text.len()) && !text.chars().any(char::is_control);
        of.get("source")?;
        Some(self.required(of, "source", good, "must be one line of text of 1 to 253 bytes"))
    }

    fn date(&mut self, of: &Fields) -> Option<Date> {
        let text = of.get("date")?.as_str().unwrap_or_default();
        // The parser knows other forms as well.
        let date = text.parse().ok().filter(|date: &Date| date.to_string() == text);
        if date.is_none() {
            self.fault(of.path("date"), "must be a day, as in \"2026-11-26\"");
        }
        date
    }

    fn integer(&mut self, of: &Fields, field: &str, range: RangeInclusive<u32>, default: Option<u32>) -> u32 {
        match (of.get(field), default) {
            (None, Some(default)) => return default,
            (None, None) => self.fault(of.path(field), "is missing"),
            (Some(value), _) => {
                if let Some(value) = value.as_u64().and_then(|v| u32::try_from(v).ok()).filter(|v| range.contains(v)) {
                    return value;
                }
                let rule = format!("must be a whole number from {} to {}", range.start(), range.end());
                self.fault(of.path(field), rule);
            }
        }
        0
    }

    fn memory_unit(&mut self, of: &Fields) -> MemoryUnit {
        match of.get("memoryUnit").map(Value::as_str) {
            None | Some(Some("GiB")) => return MemoryUnit::Binary,
            Some(Some("GB")) => return MemoryUnit::Decimal,
            Some(_) => self.fault(of.path("memoryUnit"), "must be GiB (1024 MiB) or GB (10^9 bytes)"),
        }
        MemoryUnit::default()
    }

    fn durability(&mut self, of: &Fields) -> Durability {
        match of.get("durability").map(Value::as_str) {
            None | Some(Some("process")) => return Durability::Process,
            Some(Some("disk")) => return Durability::Disk,
            Some(Some("ledger")) => return Durability::Ledger,
            Some(_) => self.fault(of.path("durability"), "must be process, disk or ledger"),
        }
        Durability::default()
    }

    /// A price, or a list of tiers whose ends have at most so many digits after the point.
    fn tiers(&mut self, of: &Fields, field: &str, digits: u32, required: bool) -> Tiers {
        let path = of.path(field);
        match of.get(field) {
            Some(Value::Array(list)) => return self.list(&path, list, digits),
            Some(value) => return Tiers::flat(self.price(&path, value)),
            None if required => self.fault(path, "is missing"),
            None => {}
        }
        Tiers::flat(Decimal::ZERO)
    }

    fn list(&mut self, path: &str, list: &[Value], digits: u32) -> Tiers {
        if list.is_empty() || list.len() > MAX_TIERS {
            self.fault(path, format!("must be a price in quotes or a list of 1 to {MAX_TIERS} tiers"));
            return Tiers::flat(Decimal::ZERO);
        }
        let mut end = Decimal::ZERO;
        let mut tiers = Vec::with_capacity(list.len());
        for (number, value) in list.iter().enumerate() {
            let of = self.map(&format!("{path}[{number}]"), Some(value), &["upTo", "price"]);
            let up_to = of.get("upTo").map(|value| self.quantity(&of.path("upTo"), value, digits));
            match up_to {
                None if number + 1 < list.len() => {
                    self.fault(of.path("upTo"), "is missing: only the last tier has no end");
                }
                Some(_) if number + 1 == list.len() => {
                    self.fault(of.path("upTo"), "must not be there: the last tier has no end");
                }
                // A faulty quantity has been told already.
                Some(Some(up_to)) if up_to <= end => {
                    self.fault(of.path("upTo"), "must be above 0 and above the end of the tier before it");
                }
                _ => {}
            }
            end = up_to.flatten().unwrap_or(end);
            let price = of.get("price").map(|value| self.price(&of.path("price"), value));
            if price.is_none() {
                self.fault(of.path("price"), "is missing");
            }
            tiers.push(Tier { up_to: up_to.flatten(), price: price.unwrap_or_default() });
        }
        Tiers::checked(tiers)
    }

    fn warm(&mut self, of: &Fields) -> WarmPrices {
        let of = self.map("warm", of.get("warm"), &WARM);
        let mut price = |field: &str| of.get(field).map(|value| self.price(&of.path(field), value));
        WarmPrices {
            per_gb_second_used: price("perGbSecondUsed").unwrap_or_default(),
            per_gb_second_idle: price("perGbSecondIdle").unwrap_or_default(),
            per_vcpu_second_used: price("perVcpuSecondUsed").unwrap_or_default(),
            per_vcpu_second_idle: price("perVcpuSecondIdle").unwrap_or_default(),
            calls_per_gb_second: price("callsPerGbSecond"),
            calls_per_vcpu_second: price("callsPerVcpuSecond"),
        }
    }

    fn free(&mut self, of: &Fields) -> Free {
        let of = self.map("free", of.get("free"), &["calls", "gbSeconds", "vcpuSeconds"]);
        let mut quantity = |field: &str, digits| {
            let value = of.get(field).and_then(|value| self.quantity(&of.path(field), value, digits));
            value.unwrap_or_default()
        };
        Free {
            calls: quantity("calls", 0),
            gb_seconds: quantity("gbSeconds", QUANTITY_DIGITS),
            vcpu_seconds: quantity("vcpuSeconds", QUANTITY_DIGITS),
        }
    }

    fn bill(&mut self, of: &Fields) -> BilledOutcomes {
        let known = ["start", "functionErrors", "timeouts", "platformErrors", "clientGone"];
        let of = self.map("bill", of.get("bill"), &known);
        let default = BilledOutcomes::default();
        let mut switch = |field: &str, default: bool| match of.get(field) {
            None => default,
            Some(Value::Bool(on)) => *on,
            Some(_) => {
                self.fault(of.path(field), "must be true or false");
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

    fn price(&mut self, path: &str, value: &Value) -> Decimal {
        let rule = "must be a price in quotes, as in \"0.00003\": a number without quotes would lose digits";
        let read = match value {
            Value::String(text) => decimal(text, PRICE_DIGITS, PRICE_BELOW),
            _ => Err(rule.to_owned()),
        };
        read.unwrap_or_else(|problem| {
            self.fault(path, problem);
            Decimal::ZERO
        })
    }

    fn quantity(&mut self, path: &str, value: &Value, digits: u32) -> Option<Decimal> {
        let read = match value {
            Value::String(text) => decimal(text, digits, QUANTITY_BELOW),
            Value::Number(number) if number.is_u64() => decimal(&number.to_string(), digits, QUANTITY_BELOW),
            _ => Err("must be a whole number, or digits in quotes, as in \"6000000000\"".to_owned()),
        };
        read.map_err(|problem| self.fault(path, problem)).ok()
    }
}

/// Digits and one point only: no exponent, sign, separator or blank.
fn decimal(text: &str, digits: u32, below: u64) -> Result<Decimal, String> {
    if text.starts_with('-') {
        return Err("must not be negative".to_owned());
    }
    let plain = text.len() <= MAX_DECIMAL
        && text.bytes().all(|b| b.is_ascii_digit() || b == b'.')
        && text.starts_with(|c: char| c.is_ascii_digit());
    let too_many = match digits {
        0 => "must be a whole number".to_owned(),
        digits => format!("must have at most {digits} digits after the point"),
    };
    match Decimal::from_str_exact(text).map(|value| value.normalize()) {
        Ok(value) if plain && value.scale() > digits => Err(too_many),
        Ok(value) if plain && value >= Decimal::from(below) => Err(format!("must be below {below}")),
        Ok(value) if plain => Ok(value),
        Err(rust_decimal::Error::Underflow) => Err(too_many),
        Ok(_) | Err(_) => Err("must be digits with at most one point, as in \"0.00003\"".to_owned()),
    }
}

#[cfg(test)]
mod tests;
