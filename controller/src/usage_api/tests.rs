//! The API over its router, and the file that describes it held against what it does.

mod access;
pub(super) mod formats;
mod reversals;

use super::*;
use crate::ledger::{Place, Plans};
use crate::sample;
use axum::body::{Body, Bytes};
use axum::http::{Request, StatusCode};
use dormouse_core::price::PricePlan;
use dormouse_core::record::{CallRecord, Outcome};
use dormouse_daemon::Token;
use http_body_util::BodyExt;
use serde_json::Value;
use std::collections::BTreeSet;
use tower::ServiceExt;

/// 2026-11-01T00:00:00Z in microseconds.
pub(super) const NOVEMBER_US: i64 = 498_192 * 3_600_000_000;

pub(super) struct Fixture {
    door: LedgerDoor,
    router: Router,
    _dir: tempfile::TempDir,
}

pub(super) async fn fixture(token: Option<&str>) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let plans = Plans::new(PricePlan::default(), PricePlan::shipped());
    let door = LedgerDoor::new(Place::folder(dir.path()), plans);
    let ledger = door.open().await.unwrap();
    let calls = (0..100).map(|call| CallRecord {
        subject: (call % 2) as u32,
        claim_us: if call == 0 { 9_000 } else { 0 },
        start_us: if call == 0 { 70_000 } else { 0 },
        outcome: if call == 99 { Outcome::PlatformError } else { Outcome::Ok },
        cold: call == 0,
        first: call == 0,
        ..sample::call(call, NOVEMBER_US + call as i64 * 60_000_000)
    });
    let subjects = ["cart", "pay"].map(|name| sample::subject("acme", "shop", name));
    ledger.append(sample::frame((7, 1), subjects.into(), calls)).await.unwrap();
    let guard = token.and_then(Token::new).map_or_else(Guard::open, Guard::token);
    Fixture { router: router(door.clone(), Budgets::none(), guard, Tenants::of_themselves()), door, _dir: dir }
}

impl Fixture {
    pub(super) async fn get(&self, path: &str, headers: &[(&str, &str)]) -> (StatusCode, HeaderMap, String) {
        let (status, headers, body) = self.bytes(path, headers).await;
        (status, headers, String::from_utf8(body.to_vec()).unwrap())
    }

    pub(super) async fn bytes(&self, path: &str, headers: &[(&str, &str)]) -> (StatusCode, HeaderMap, Bytes) {
        let mut request = Request::get(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        (status, headers, response.into_body().collect().await.unwrap().to_bytes())
    }

    pub(super) async fn json(&self, path: &str) -> Value {
        let (status, _, body) = self.get(path, &[]).await;
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }
}

const NOVEMBER: &str = "from=2026-11-01&to=2026-12-01";

#[tokio::test]
async fn usage_by_hour_and_function() {
    let f = fixture(None).await;
    let all = f.json(&format!("/v1/usage?{NOVEMBER}&granularity=PT1H&group_by=function")).await;
    let rows = all["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 4, "two functions in two hours");
    assert_eq!(
        (&rows[0]["function"], &rows[0]["calls"], &rows[0]["cold_calls"]),
        (&"cart".into(), &30.into(), &1.into())
    );
    assert_eq!((&rows[3]["start"], &rows[3]["billed_calls"]), (&"2026-11-01T01:00:00Z".into(), &19.into()));
    // 30 calls: 30 x 0.0000002 + 30 x 0.05 GB-s x 0.00003
    assert_eq!((&rows[0]["gb_seconds"], &rows[0]["cost"]), (&"1.5".into(), &"0.000051".into()));
    assert_eq!((&rows[0]["tenant"], &rows[0]["namespace"]), (&Value::Null, &"shop".into()));

    let total = f.json(&format!("/v1/usage?{NOVEMBER}")).await;
    assert_eq!((&total["rows"][0]["calls"], &total["rows"][0]["platform_error"]), (&100.into(), &1.into()));
    let some = f.json(&format!("/v1/usage?{NOVEMBER}&filter[function]=shop/pay&filter[namespace]=shop")).await;
    assert_eq!(some["rows"][0]["calls"], 50);
    let none = f.json(&format!("/v1/usage?{NOVEMBER}&filter[tenant]=nobody")).await;
    assert_eq!(none["rows"], Value::Array(Vec::new()));
}

/// 100 calls, one a minute from 2026-11-01T00:00Z on: in Berlin an hour into the day, in New York still October.
#[tokio::test]
async fn days_and_months_are_those_of_the_time_zone() {
    let f = fixture(None).await;
    let rows = async |question: &str| {
        let all = f.json(&format!("/v1/usage?{question}")).await;
        let rows = all["rows"].as_array().unwrap().iter();
        let row = |row: &Value| format!("{} {} {}", row["start"], row["end"], row["calls"]).replace('"', "");
        (all["time_zone"].as_str().unwrap().to_owned(), rows.map(row).collect::<Vec<_>>())
    };
    let days = |zone: &str| format!("from=2026-10-31&to=2026-11-03&granularity=P1D&time_zone={zone}");
    let (zone, berlin) = rows(&days("europe/berlin")).await;
    assert_eq!(
        (zone.as_str(), berlin),
        ("Europe/Berlin", vec!["2026-10-31T23:00:00Z 2026-11-01T23:00:00Z 100".into()])
    );
    let (_, new_york) = rows(&days("America/New_York")).await;
    assert_eq!(new_york, ["2026-10-31T04:00:00Z 2026-11-01T04:00:00Z 100"]);
    let (zone, utc) = rows(&days("UTC")).await;
    assert_eq!((zone.as_str(), utc), ("UTC", vec!["2026-11-01T00:00:00Z 2026-11-02T00:00:00Z 100".into()]));
    // The second hour of calls is behind the midnight of a zone that is an hour behind.
    let (_, azores) = rows("from=2026-10-30&to=2026-11-03&granularity=P1M&time_zone=Atlantic/Azores").await;
    let expected = ["2026-10-30T01:00:00Z 2026-11-01T01:00:00Z 60", "2026-11-01T01:00:00Z 2026-11-03T01:00:00Z 40"];
    assert_eq!(azores, expected);
    let (_, whole) = rows("from=2026-11-01&to=2026-11-02&time_zone=Atlantic/Azores").await;
    assert_eq!(whole, ["2026-11-01T01:00:00Z 2026-11-02T01:00:00Z 40"], "dates are the zone's, too");
    let (_, hours) = rows("from=2026-11-01&to=2026-11-02&granularity=PT1H&time_zone=Atlantic/Azores").await;
    assert_eq!(hours, ["2026-11-01T01:00:00Z 2026-11-01T02:00:00Z 40"]);
}

#[tokio::test]
async fn a_time_zone_that_cannot_be_had_is_said() {
    let f = fixture(None).await;
    for (bad, parameter, why) in [
        ("time_zone=Mars/Base", "time_zone", "as in Asia/Shanghai"),
        ("time_zone=../etc/passwd", "time_zone", "as in Asia/Shanghai"),
        ("time_zone=", "time_zone", "as in Asia/Shanghai"),
        ("time_zone=Asia/Kolkata&granularity=P1D&from=2026-01-01&to=2026-01-03", "from", "days of Asia/Kolkata"),
        ("time_zone=Asia/Kolkata&granularity=PT1H&from=2026-01-01&to=2026-01-03", "from", "whole hour UTC"),
        ("time_zone=Asia/Kolkata&granularity=PT1M&from=2026-01-01&to=2026-01-03", "from", "granularity PT1M"),
        ("time_zone=Europe/Berlin&granularity=P1D&from=2026-01-03&to=2026-01-03", "to", "after from"),
        ("time_zone=Europe/Berlin&granularity=P1D&from=2001-01-03&to=2026-01-03", "from", "3653 days"),
        ("time_zone=Europe/Berlin&from=2026-01-03T00:00:00.5Z&to=2026-01-05", "from", "whole minute"),
        ("time_zone=Europe/Berlin&from=2026-01-03T00:00:07Z&to=2026-01-05", "from", "whole minute"),
    ] {
        let (status, _, body) = f.get(&format!("/v1/usage?{bad}"), &[]).await;
        let body: Value = serde_json::from_str(&body).unwrap();
        let told = |fault: &Value| fault["parameter"] == parameter && fault["problem"].as_str().unwrap().contains(why);
        assert!(status == 400 && body["faults"].as_array().unwrap().iter().any(told), "{bad}: {body}");
    }
    // Lately there are minutes.
    let now = Timestamp::now();
    let text =
        |hours: i64| now.checked_sub(jiff::SignedDuration::from_hours(hours)).unwrap().strftime("%Y-%m-%dT%H:00:00Z");
    let lately = format!("from={}&to={}", text(30), text(1));
    let all = f.json(&format!("/v1/usage?time_zone=Asia/Kolkata&granularity=P1D&{lately}")).await;
    assert_eq!((all["rows"].as_array().unwrap().len(), &all["time_zone"]), (0, &"Asia/Kolkata".into()));
}

#[tokio::test]
async fn answers_say_how_far_they_are_complete() {
    let f = fixture(None).await;
    let paths = [
        format!("/v1/usage?{NOVEMBER}"),
        format!("/v1/records?{NOVEMBER}&format=csv"),
        "/v1/statements/acme/2026-11".to_owned(),
    ];
    let process = crate::shares::Process { name: "a".into(), activator: 7, epoch: 1 };
    f.door.through().say(&process, NOVEMBER_US + 1, false);
    let told = async |path: &str| {
        let (status, headers, body) = f.get(path, &[]).await;
        assert_eq!(status, 200, "{body}");
        let body = serde_json::from_str::<Value>(&body).ok();
        (
            body.map(|body| body["complete_through"].clone()),
            headers.get(COMPLETE_THROUGH).map(|v| v.to_str().unwrap().to_owned()),
        )
    };
    for path in &paths {
        let (body, header) = told(path).await;
        assert_eq!((body.unwrap_or_default(), header), (Value::Null, None), "{path}: too early to say");
    }
    f.door.through().without_hold();
    for path in &paths {
        let (body, header) = told(path).await;
        let text = "2026-11-01T00:00:00.000001Z";
        assert_eq!(header.as_deref(), Some(text), "{path}");
        assert!(body.is_none_or(|body| body == text), "{path}");
    }
}

#[tokio::test]
async fn a_closed_statement_is_told_to_the_byte() {
    let f = fixture(None).await;
    let path = "/v1/statements/acme/2026-11";
    assert_eq!(f.json(path).await["state"], "open");
    let (ledger, plans) = (f.door.ledger().unwrap(), f.door.plans());
    ledger.close_months(plans, 3, "2026-12-05T06:07:08.9Z".parse().unwrap()).await.unwrap();
    let (_, headers, first) = f.get(path, &[]).await;
    assert_eq!(headers[header::CONTENT_TYPE], "application/json");
    let closed: Value = serde_json::from_str(&first).unwrap();
    assert_eq!((&closed["state"], &closed["closed_at"]), (&"closed".into(), &"2026-12-05T06:07:09Z".into()));
    assert_eq!(f.get(path, &[]).await.2, first);
    // Beside a server it is the same statement, and as a table.
    let beside = f.json(&format!("{path}?fixed_server=350")).await;
    assert_eq!((&beside["lines"], &beside["closed_at"]), (&closed["lines"], &closed["closed_at"]));
    assert_eq!(beside["comparison"]["fixed_server"], "350");
    let (_, _, csv) = f.get(&format!("{path}?format=csv"), &[]).await;
    assert_eq!(csv.lines().next(), Some("item,tier,quantity,unit,unit_price,amount"));
    assert_eq!(f.json(&format!("{path}?as=article")).await["state"], "estimate");
}

#[tokio::test]
async fn what_is_not_kept_any_longer_is_said() {
    let f = fixture(None).await;
    let keep = crate::ledger::Retention { hour_days: 1, record_days: 1, ..crate::ledger::Retention::default() };
    f.door.ledger().unwrap().tidy(keep, 498_192 + 72).await.unwrap();
    let by = |granularity: &str, from: &str| format!("/v1/usage?granularity={granularity}&from={from}&to=2026-12-01");
    assert_eq!(f.json(&by("P1D", "2026-11-01")).await["rows"][0]["calls"], 100);
    assert_eq!(f.json(&by("PT1H", "2026-11-03")).await["rows"], Value::Array(Vec::new()));
    for (path, problem) in [
        (by("PT1H", "2026-11-01"), "from: must not be before 2026-11-03T00:00:00Z with granularity PT1H"),
        (by("total", "2026-11-01T01:00:00Z"), "from: must be the beginning of a day, UTC: before 2026-11-03T00:00:00Z"),
        ("/v1/records?from=2026-11-01&to=2026-12-01".to_owned(), "from: must not be before 2026-11-03T00:00:00Z"),
    ] {
        let (status, _, body) = f.get(&path, &[]).await;
        assert!(status == 400 && body.contains(problem), "{path}: {body}");
    }
}

#[tokio::test]
async fn pages_join_up_and_a_cursor_fits_one_question() {
    let f = fixture(None).await;
    for (path, size) in [("/v1/usage?granularity=PT1H&group_by=function&", 4), ("/v1/records?", 100)] {
        let whole = f.json(&format!("{path}{NOVEMBER}")).await;
        assert_eq!(whole["rows"].as_array().unwrap().len(), size);
        assert_eq!(whole["next_cursor"], Value::Null);
        let (mut rows, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = f.json(&format!("{path}{NOVEMBER}&limit=3{cursor}")).await;
            rows.extend(page["rows"].as_array().unwrap().clone());
            let Some(next) = page["next_cursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(Value::Array(rows), whole["rows"]);
        let (status, _, body) = f.get(&format!("{path}from=2026-11-01&to=2026-11-30{cursor}"), &[]).await;
        assert_eq!(status, 400);
        assert!(body.contains("same question"), "{body}");
    }
}

#[tokio::test]
async fn the_statement_beside_a_fixed_server() {
    let f = fixture(None).await;
    let s = f.json("/v1/statements/acme/2026-11?fixed_server=350").await;
    assert_eq!((&s["calls"], &s["billed_calls"], &s["total"]), (&100.into(), &99.into(), &"0.00".into()));
    assert_eq!((&s["lines"][1]["quantity"], &s["lines"][1]["unit"]), (&"4.95".into(), &"GB-second".into()));
    assert_eq!(s["comparison"]["saving_percent"], "100.0");
    assert_eq!(f.json("/v1/statements/acme/2020-01").await["calls"], 0);
    let (status, _, body) = f.get("/v1/statements/nobody/2026-11", &[]).await;
    assert_eq!(status, 404);
    assert!(body.contains("nobody"), "{body}");
    let (_, _, csv) = f.get("/v1/statements/acme/2026-11?format=csv", &[]).await;
    let lines: Vec<_> = csv.lines().collect();
    assert_eq!(lines[0], "item,tier,quantity,unit,unit_price,amount");
    assert_eq!(
        lines[1..],
        ["calls,1,99,call,0.0000002,0.00", "compute,1,4.95,GB-second,0.00003,0.00", "total,,,,,0.00"]
    );
}

#[tokio::test]
async fn every_fault_of_a_question_is_told() {
    let f = fixture(None).await;
    let question = "/v1/usage?from=yesterday&to=2026-11-01T00:30:00Z&granularity=PT2H&group_by=color&limit=0&cursor=zz&\
                    format=xml&sort=up&from=2026-11-01&filter[tenant]=";
    let (status, _, body) = f.get(question, &[]).await;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &body["error"]), (StatusCode::BAD_REQUEST, &"BadRequest".into()));
    let told: BTreeSet<_> =
        body["faults"].as_array().unwrap().iter().map(|f| f["parameter"].as_str().unwrap()).collect();
    let all = ["from", "to", "granularity", "group_by", "limit", "cursor", "format", "sort", "filter[tenant]"];
    assert_eq!(told, all.into_iter().collect(), "{body}");
    for (bad, why) in [
        ("/v1/usage?from=2026-11-02&to=2026-11-01", "after from"),
        ("/v1/usage?from=2001-01-01&to=2026-11-01", "3653 days"),
        ("/v1/usage?from=2026-01-01&to=2026-01-02&granularity=PT1M", "48 hours"),
        ("/v1/records?from=2026-11-02&to=2026-11-01", "after from"),
        ("/v1/records?function=a&function=b", "twice"),
        ("/v1/statements/acme/2026-13", "as in 2026-11"),
        ("/v1/statements/acme/november?fixed_server=-3", "above zero"),
        ("/v1/prices?x=1", "unknown parameter"),
    ] {
        let (status, _, body) = f.get(bad, &[]).await;
        assert_eq!(status, 400, "{bad}");
        assert!(body.contains(why), "{bad}: {body}");
    }
    assert_eq!(f.get("/v2/usage", &[]).await.0, 404);
    let post = Request::post("/v1/usage").body(Body::empty()).unwrap();
    assert_eq!(f.router.clone().oneshot(post).await.unwrap().status(), 405);
}

#[tokio::test]
async fn without_the_token_nothing_is_told() {
    let f = fixture(Some("s3cret")).await;
    for headers in [&[][..], &[("authorization", "Bearer s3cre")], &[("authorization", "Basic s3cret")]] {
        for path in ["/v1/usage", "/v1/records", "/v1/statements/acme/2026-11", "/v1/budgets", "/v1/prices"] {
            let (status, told, body) = f.get(path, headers).await;
            assert_eq!(status, 401, "{path}");
            assert!(told[header::WWW_AUTHENTICATE].to_str().unwrap().starts_with("Bearer"));
            assert!(!body.contains("CNY"));
        }
    }
    assert_eq!(f.get("/v1/prices", &[("authorization", "Bearer s3cret")]).await.0, 200);
    assert_eq!(f.get("/openapi.yaml", &[]).await.0, 200);
}

#[tokio::test]
async fn a_closed_ledger_is_said_and_prices_are_still_told() {
    let f = fixture(None).await;
    f.door.close("the disk is gone");
    let (status, headers, body) = f.get("/v1/usage", &[]).await;
    assert_eq!(status, 503);
    assert!(body.contains("LedgerUnavailable") && body.contains("the disk is gone"), "{body}");
    assert!(headers.contains_key(header::RETRY_AFTER));
    assert_eq!(f.json("/v1/prices").await["prices"][0]["unit_price"], "0.0000002");
}

#[tokio::test]
async fn csv_has_the_fields_of_the_json() {
    let f = fixture(None).await;
    for path in ["/v1/usage", "/v1/records"] {
        let json = f.json(&format!("{path}?{NOVEMBER}&limit=2")).await;
        let row = json["rows"][0].as_object().unwrap();
        let (_, headers, csv) =
            f.get(&format!("{path}?{NOVEMBER}&limit=2"), &[("accept", "text/csv, */*;q=0.1")]).await;
        assert!(headers[header::CONTENT_TYPE].to_str().unwrap().starts_with("text/csv"));
        let mut lines = csv.split("\r\n");
        let names: Vec<_> = lines.next().unwrap().split(',').collect();
        assert_eq!(names.iter().copied().collect::<BTreeSet<_>>(), row.keys().map(String::as_str).collect());
        for (name, cell) in names.iter().zip(lines.next().unwrap().split(',')) {
            let value = &row[*name];
            let text = value.as_str().map_or_else(|| value.to_string().replace("null", ""), str::to_owned);
            assert_eq!(text, cell, "{name}");
        }
        let next = headers.get("dormouse-next-cursor").map(|v| v.to_str().unwrap());
        assert_eq!(next, json["next_cursor"].as_str());
    }
}

/// The file, with its references followed.
struct File(Value);

impl File {
    fn follow<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value.get("$ref").and_then(Value::as_str) {
            Some(to) => self.0.pointer(to.strip_prefix('#').unwrap()).unwrap_or_else(|| panic!("{to} is not there")),
            None => value,
        }
    }

    /// Fails when a value and its schema differ: types, and objects with exactly the properties, all required.
    fn check(&self, at: &str, schema: &Value, value: &Value) {
        let schema = self.follow(schema);
        if let Some(choices) = schema.get("oneOf").and_then(Value::as_array) {
            let kind = if value.is_null() { "null" } else { "object" };
            let fits = |choice: &&Value| self.follow(choice)["type"] == kind;
            return self.check(at, choices.iter().find(fits).unwrap_or_else(|| panic!("{at}: no choice")), value);
        }
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(n) if n.is_u64() => "integer",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        let said = &schema["type"];
        assert!(said == kind || said.as_array().is_some_and(|s| s.contains(&kind.into())), "{at}: {kind}, not {said}");
        if let Value::Object(fields) = value {
            let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
            let required: BTreeSet<_> =
                schema["required"].as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect();
            assert_eq!(keys(value), keys(&schema["properties"]), "{at}");
            assert_eq!(keys(value), required, "{at}");
            for (name, field) in fields {
                self.check(&format!("{at}.{name}"), &schema["properties"][name], field);
            }
        }
        for item in value.as_array().into_iter().flatten() {
            self.check(&format!("{at}[]"), &schema["items"], item);
        }
    }
}

#[tokio::test]
async fn the_file_and_the_routes_say_the_same() {
    let f = fixture(None).await;
    let (_, headers, text) = f.get("/openapi.yaml", &[]).await;
    assert_eq!(headers[header::CONTENT_TYPE], "application/yaml");
    let file = File(serde_saphyr::from_str(&text).unwrap());
    let said: BTreeSet<_> = file.0["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    let (guarded, open) = (guarded(), open());
    let routes = guarded.iter().map(|r| r.0).chain(open.iter().map(|r| r.0));
    let routes: BTreeSet<_> = routes.chain([pools::ROUTE, events::ROUTE]).collect();
    assert_eq!(said, routes);
    let questions = [
        ("/v1/usage", format!("/v1/usage?{NOVEMBER}&limit=1&granularity=PT1H&group_by=tenant,function,function_uid")),
        ("/v1/usage", format!("/v1/usage?{NOVEMBER}&granularity=P1D&time_zone=Asia/Shanghai")),
        ("/v1/usage", format!("/v1/usage?{NOVEMBER}")),
        ("/v1/records", format!("/v1/records?{NOVEMBER}&limit=1")),
        ("/v1/reversals", format!("/v1/reversals?{NOVEMBER}&limit=1")),
        ("/v1/statements/{tenant}/{period}", "/v1/statements/acme/2026-11?fixed_server=350".to_owned()),
        ("/v1/statements/{tenant}/{period}", "/v1/statements/acme/2026-11".to_owned()),
        ("/v1/budgets", "/v1/budgets".to_owned()),
        ("/v1/prices", "/v1/prices".to_owned()),
    ];
    for (path, question) in &questions {
        let answers = &file.0["paths"][path]["get"]["responses"];
        file.check(path, &answers["200"]["content"]["application/json"]["schema"], &f.json(question).await);
        let (status, _, body) = f.get(&format!("{}?nonsense=1", question.split('?').next().unwrap()), &[]).await;
        assert_eq!(status, 400);
        let refused = file.follow(&answers["400"]);
        let body = serde_json::from_str(&body).unwrap();
        file.check(path, &refused["content"]["application/json"]["schema"], &body);
    }
    for (path, known) in [
        ("/v1/usage", &params::USAGE[..]),
        ("/v1/records", &params::RECORDS),
        ("/v1/reversals", &params::REVERSALS),
        ("/v1/statements/{tenant}/{period}", &params::STATEMENT),
        ("/v1/statements/{tenant}/{period}/focus", &params::FOCUS),
        ("/v1/budgets", &params::BUDGETS),
        ("/v1/prices", &params::PRICES),
    ] {
        let said = file.0["paths"][path]["get"]["parameters"].as_array().unwrap().iter().map(|p| file.follow(p));
        let said: BTreeSet<_> = said.filter(|p| p["in"] == "query").map(|p| p["name"].as_str().unwrap()).collect();
        assert_eq!(said, known.iter().copied().collect(), "{path}");
    }
}
