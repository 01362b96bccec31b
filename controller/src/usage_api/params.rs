//! Parameters of a question: every fault of them is told at once.

use super::cursor::Cursor;
use super::error::{ApiError, Fault};
use super::format::Format;
use super::period::Period;
use super::{Pairs, times};
use crate::ledger::{
    Filter, Granularity, GroupBy, KeptFrom, MAX_DAYS, MINUTES_KEPT_HOURS, Month, Plans, RecordKey, RowKey,
};
use dormouse_core::price::PricePlan;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use rust_decimal::Decimal;
use std::ops::Range;

/// What `/v1/usage` knows.
pub(super) const USAGE: [&str; 13] = [
    "from",
    "to",
    "time_zone",
    "granularity",
    "group_by",
    "filter[tenant]",
    "filter[namespace]",
    "filter[function]",
    "filter[function_uid]",
    "cursor",
    "limit",
    "format",
    "as",
];
/// What `/v1/records` knows.
pub(super) const RECORDS: [&str; 9] =
    ["from", "to", "tenant", "namespace", "function", "cursor", "limit", "format", "as"];
/// What `/v1/reversals` knows; so much is asked of it as of records.
pub(super) const REVERSALS: [&str; 9] = RECORDS;
/// What `/v1/statements` knows.
pub(super) const STATEMENT: [&str; 3] = ["fixed_server", "format", "as"];
/// What `/v1/statements/…/focus` knows.
pub(super) const FOCUS: [&str; 3] = ["version", "format", "as"];
/// What `/v1/budgets` knows.
pub(super) const BUDGETS: [&str; 2] = ["filter[tenant]", "format"];
/// What `/v1/prices` knows.
pub(super) const PRICES: [&str; 2] = ["format", "as"];

/// Most rows of a page, and how many when nothing is said.
const MAX_LIMIT: usize = 10_000;
const DEFAULT_LIMIT: usize = 1_000;
/// The limit of an answer that is no page.
const ALL: &str = "all";
/// Most values of one filter.
const MAX_VALUES: usize = 20;
/// Most parameters of a question.
const MAX_PARAMS: usize = 100;
/// Longest value of a filter: two Kubernetes names and a slash.
const MAX_VALUE: usize = 2 * 253 + 1;
/// How much of a text that came from outside is told back.
const SHOWN: usize = 64;

/// The parameters of one question and what is wrong with them.
pub(super) struct Params {
    pairs: Vec<(String, String)>,
    faults: Vec<Fault>,
}

impl Params {
    /// Takes the parameters apart; unknown and doubled ones are faults.
    pub(super) fn new(pairs: Pairs, known: &[&str]) -> Result<Self, ApiError> {
        let bad = |problem: &str| {
            let fault = Fault { parameter: "query".to_owned(), problem: problem.to_owned() };
            ApiError::BadRequest(vec![fault])
        };
        let pairs = pairs.map_err(|_| bad("is not made of name=value parts"))?.0;
        if pairs.len() > MAX_PARAMS {
            return Err(bad("has more than 100 parts"));
        }
        let mut params = Self { pairs: Vec::new(), faults: Vec::new() };
        for (name, value) in pairs {
            let many = name.starts_with("filter[");
            if !known.contains(&&*name) {
                params.fault(&name, &format!("unknown parameter, expected one of {}", known.join(", ")));
            } else if !many && params.pairs.iter().any(|(n, _)| *n == name) {
                params.fault(&name, "is given twice");
            } else {
                params.pairs.push((name, value));
            }
        }
        Ok(params)
    }

    /// Notes a fault.
    pub(super) fn fault(&mut self, parameter: &str, problem: &str) {
        let parameter = parameter.chars().take(SHOWN).collect();
        self.faults.push(Fault { parameter, problem: problem.to_owned() });
    }

    /// The faults so far.
    pub(super) fn faults(self) -> Vec<Fault> {
        self.faults
    }

    /// Every fault, if there are any.
    pub(super) fn done(self) -> Result<(), ApiError> {
        if self.faults.is_empty() { Ok(()) } else { Err(ApiError::BadRequest(self.faults)) }
    }

    /// What is asked, without where the page begins, how long it is and how it is written.
    pub(super) fn question(&self) -> String {
        let mut parts: Vec<_> =
            self.pairs.iter().filter(|(n, _)| !["cursor", "limit", "format"].contains(&&**n)).collect();
        parts.sort();
        // Neither name nor value can hold a line break that another pair could imitate: lengths lead.
        parts.iter().map(|(n, v)| format!("{}:{n}{}:{v}", n.len(), v.len())).collect()
    }

    pub(super) fn one(&self, name: &str) -> Option<String> {
        self.pairs.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone())
    }

    /// The period of `/v1/usage`: by default from the start of this month to the end of this hour.
    pub(super) fn hours(&mut self, now: Timestamp) -> Range<u32> {
        let this_hour = u32::try_from(now.as_second() / 3600).unwrap_or_default();
        let month = Month::of(now).hours().start;
        let to = self.hour("to").unwrap_or(this_hour + 1);
        let from = self.hour("from").unwrap_or(month.min(to.saturating_sub(1)));
        if from >= to {
            self.fault("to", "must be after from");
        } else if to - from > MAX_DAYS * 24 {
            self.fault("from", &format!("must be at most {MAX_DAYS} days before to"));
        }
        from..to
    }

    fn hour(&mut self, name: &str) -> Option<u32> {
        let time = self.moment(name)?;
        let hour = times::whole_hour(time);
        if hour.is_none() {
            self.fault(name, "must be on a whole hour UTC: usage is kept by the hour");
        }
        hour
    }

    fn moment(&mut self, name: &str) -> Option<Timestamp> {
        self.moment_in(name, &TimeZone::UTC)
    }

    pub(super) fn moment_in(&mut self, name: &str, zone: &TimeZone) -> Option<Timestamp> {
        let text = self.one(name)?;
        let time = times::moment(&text, zone);
        if time.is_none() {
            let rule = "must be a date as in 2026-11-01 or a time as in 2026-11-01T00:00:00Z, from 1970 to 9998";
            self.fault(name, rule);
        }
        time
    }

    /// The period of `/v1/records`: by default the hour before now.
    pub(super) fn times_us(&mut self, now: Timestamp) -> Range<i64> {
        let to = self.moment("to").unwrap_or(now);
        let hour_before = to.checked_sub(1.hour()).unwrap_or(to);
        let from = self.moment("from").unwrap_or(hour_before);
        if from >= to {
            self.fault("to", "must be after from");
        }
        from.as_microsecond()..to.as_microsecond()
    }

    /// Length of a row's time. Minutes are kept for a while only: what is asked by the minute must not begin before.
    pub(super) fn granularity(&mut self, hours: &Range<u32>, now: Timestamp) -> Granularity {
        let oldest = u32::try_from(now.as_second() / 3600).unwrap_or_default().saturating_sub(MINUTES_KEPT_HOURS);
        match self.one("granularity").as_deref() {
            None | Some("total") => Granularity::Total,
            Some("PT1M") => {
                if hours.start < oldest {
                    self.fault(
                        "from",
                        &format!("must be at most {MINUTES_KEPT_HOURS} hours ago with granularity PT1M"),
                    );
                }
                Granularity::Minute
            }
            Some("PT1H") => Granularity::Hour,
            Some("P1D") => Granularity::Day,
            Some("P1M") => Granularity::Month,
            Some(_) => {
                self.fault("granularity", "must be PT1M, PT1H, P1D, P1M or total");
                Granularity::Total
            }
        }
    }

    /// Where hours are not kept any longer, only whole days can be told.
    pub(super) fn reach(period: &Period, kept: KeptFrom) -> Result<(), ApiError> {
        let (hours, granularity) = (&period.hours, period.granularity);
        let since = times::hour_text(kept.hours);
        let mut faults = Vec::new();
        if let Some(problem) = period.out_of_reach(kept) {
            faults.push(Fault { parameter: "from".to_owned(), problem });
        } else if granularity == Granularity::Hour && hours.start < kept.hours {
            let problem = format!("must not be before {since} with granularity PT1H: before, there are only days");
            faults.push(Fault { parameter: "from".to_owned(), problem });
        } else {
            for (parameter, hour) in [("from", hours.start), ("to", hours.end)] {
                if hour < kept.hours && hour % 24 != 0 {
                    let problem = format!("must be the beginning of a day, UTC: before {since} there are only days");
                    faults.push(Fault { parameter: parameter.to_owned(), problem });
                }
            }
        }
        if faults.is_empty() { Ok(()) } else { Err(ApiError::BadRequest(faults)) }
    }

    /// Records are not there for ever.
    pub(super) fn reach_records(times_us: &Range<i64>, kept: KeptFrom) -> Result<(), ApiError> {
        let since = i64::from(kept.records) * 3_600_000_000;
        if times_us.start >= since {
            return Ok(());
        }
        let problem = format!("must not be before {}: older records are not kept", times::hour_text(kept.records));
        Err(ApiError::BadRequest(vec![Fault { parameter: "from".to_owned(), problem }]))
    }

    pub(super) fn group_by(&mut self) -> GroupBy {
        let mut group = GroupBy::default();
        let Some(text) = self.one("group_by") else { return group };
        for name in text.split(',') {
            match name {
                "tenant" => group.tenant = true,
                "namespace" => group.namespace = true,
                "function" => group.function = true,
                "function_uid" => group.function_uid = true,
                _ => {
                    self.fault("group_by", "must be out of tenant, namespace, function and function_uid, with commas");
                    break;
                }
            }
        }
        group
    }

    pub(super) fn filter(&mut self) -> Filter {
        Filter {
            tenants: self.values("filter[tenant]"),
            namespaces: self.values("filter[namespace]"),
            functions: self.values("filter[function]"),
            function_uids: self.values("filter[function_uid]"),
        }
    }

    pub(super) fn record_filter(&mut self) -> Filter {
        Filter {
            tenants: self.values("tenant"),
            namespaces: self.values("namespace"),
            functions: self.values("function"),
            function_uids: Vec::new(),
        }
    }

    fn values(&mut self, name: &str) -> Vec<String> {
        let values: Vec<_> = self.pairs.iter().filter(|(n, _)| n == name).map(|(_, v)| v.clone()).collect();
        if values.len() > MAX_VALUES {
            self.fault(name, &format!("is given more than {MAX_VALUES} times"));
        }
        if values.iter().any(|v| v.is_empty() || v.len() > MAX_VALUE) {
            self.fault(name, &format!("must be text of 1 to {MAX_VALUE} bytes"));
        }
        values
    }

    /// Most rows of a page.
    pub(super) fn limit(&mut self) -> usize {
        self.limit_or("")
    }

    fn limit_or(&mut self, other: &str) -> usize {
        let Some(text) = self.one("limit") else { return DEFAULT_LIMIT };
        let limit = text.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
        limit.unwrap_or_else(|| {
            self.fault("limit", &format!("must be a whole number from 1 to {MAX_LIMIT}{other}"));
            DEFAULT_LIMIT
        })
    }

    /// The same; nothing where every row is asked for, to be sent while they are read.
    pub(super) fn limit_or_all(&mut self, format: Format) -> Option<usize> {
        if self.one("limit").as_deref() != Some(ALL) {
            return Some(self.limit_or(", or all"));
        }
        if format == Format::Json {
            self.fault("limit", "cannot be all in JSON, where an answer is one object: ask for csv, jsonl or parquet");
        }
        if self.one("cursor").is_some() {
            self.fault("cursor", "goes with pages: with limit=all there are none");
        }
        None
    }

    pub(super) fn usage_cursor(&mut self, cursor: &Cursor) -> Option<RowKey> {
        let text = self.one("cursor")?;
        let key = cursor.read_usage(&text);
        self.check_cursor(key.is_some());
        key
    }

    pub(super) fn records_cursor(&mut self, cursor: &Cursor) -> Option<RecordKey> {
        let text = self.one("cursor")?;
        let key = cursor.read_records(&text);
        self.check_cursor(key.is_some());
        key
    }

    fn check_cursor(&mut self, good: bool) {
        if !good {
            self.fault("cursor", "must be the next_cursor of an answer to the same question");
        }
    }

    /// The price plan to price by.
    pub(super) fn plan<'a>(&mut self, plans: &'a Plans) -> &'a PricePlan {
        self.other_plan(plans).unwrap_or_else(|| plans.in_force())
    }

    /// The price plan to price by, if one is named.
    pub(super) fn other_plan<'a>(&mut self, plans: &'a Plans) -> Option<&'a PricePlan> {
        let name = self.one("as")?;
        let plan = plans.named(&name);
        if plan.is_none() {
            let known: Vec<&str> = plans.all().map(|plan| plan.name.as_str()).collect();
            self.fault("as", &format!("must be the name of a price plan: {}", known.join(", ")));
        }
        plan
    }

    /// The fixed price to compare with.
    pub(super) fn fixed_server(&mut self) -> Option<Decimal> {
        let text = self.one("fixed_server")?;
        let plain = (1..=20).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let price = Decimal::from_str_exact(&text).ok().filter(|price| plain && *price > Decimal::ZERO);
        if price.is_none() {
            self.fault("fixed_server", "must be a price above zero of at most 20 digits, as in 350 or 349.90");
        }
        price
    }
}

/// The names of a grouping, as they are asked for.
pub(super) fn group_names(group: GroupBy) -> Vec<&'static str> {
    let all = [
        ("tenant", group.tenant),
        ("namespace", group.namespace),
        ("function", group.function),
        ("function_uid", group.function_uid),
    ];
    all.into_iter().filter(|(_, on)| *on).map(|(name, _)| name).collect()
}
