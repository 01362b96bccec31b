//! Calls that are taken back, over the router: ordered, told and billed.

use super::*;
use dormouse_core::price::Tiers;
use rust_decimal::Decimal;

/// Five calls of acme, at the beginning of the first five minutes of November; each costs 1 and a little.
async fn five() -> (Router, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let plan = PricePlan { per_call: Tiers::flat(Decimal::ONE), ..PricePlan::default() };
    let door = LedgerDoor::new(Place::folder(dir.path()), plan);
    let ledger = door.open().await.unwrap();
    let calls = (0..5).map(|call| sample::call(call, NOVEMBER_US + call as i64 * 60_000_000));
    ledger.append(sample::frame((7, 1), vec![sample::subject("acme", "shop", "cart")], calls)).await.unwrap();
    (router(door, Budgets::none(), Guard::open(), Tenants::of_themselves()), dir)
}

async fn ask(router: &Router, request: Request<Body>) -> (StatusCode, String) {
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(bytes.to_vec()).unwrap())
}

async fn get(router: &Router, path: &str) -> Value {
    let (status, body) = ask(router, Request::get(path).body(Body::empty()).unwrap()).await;
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

async fn post(router: &Router, body: impl Into<Body>) -> (StatusCode, Value) {
    let (status, body) = ask(router, Request::post("/v1/reversals").body(body.into()).unwrap()).await;
    (status, serde_json::from_str(&body).unwrap())
}

fn named(seq: u64) -> Value {
    let received_at = crate::table::moment(NOVEMBER_US + (seq as i64 - 1) * 60_000_000);
    serde_json::json!({"activator": "0000000000000007", "epoch": 1, "seq": seq, "received_at": received_at})
}

fn order(records: &[Value]) -> String {
    serde_json::json!({"reason": "an outage of ours", "records": records}).to_string()
}

#[tokio::test]
async fn a_call_that_is_taken_back_is_told_and_not_billed() {
    let (router, _dir) = five().await;
    let (status, told) = post(&router, order(&[named(2), named(4), named(2), named(9)])).await;
    assert_eq!(
        (status, &told["reversed"], &told["reversed_before"], &told["unknown"]),
        (StatusCode::OK, &2.into(), &1.into(), &1.into())
    );
    let outcomes: Vec<_> = told["rows"].as_array().unwrap().iter().map(|row| row["outcome"].clone()).collect();
    assert_eq!(outcomes, ["reversed", "reversed", "reversed_before", "unknown"]);
    assert_eq!(told["rows"][0]["received_at"], named(2)["received_at"]);

    let records = get(&router, &format!("/v1/records?{NOVEMBER}")).await;
    let list = get(&router, &format!("/v1/reversals?{NOVEMBER}&tenant=acme")).await;
    let taken: Vec<&Value> =
        records["rows"].as_array().unwrap().iter().filter(|row| !row["reversed_at"].is_null()).collect();
    assert_eq!(taken, list["rows"].as_array().unwrap().iter().collect::<Vec<_>>());
    let seqs: Vec<_> = taken.iter().map(|row| row["seq"].clone()).collect();
    assert_eq!(seqs, [2, 4]);
    assert_eq!(
        (&taken[0]["reversed_by"], &taken[0]["reversed_reason"]),
        (&"anyone".into(), &"an outage of ours".into())
    );
    let first = get(&router, &format!("/v1/reversals?{NOVEMBER}&limit=1")).await;
    let next = first["next_cursor"].as_str().unwrap();
    let second = get(&router, &format!("/v1/reversals?{NOVEMBER}&limit=1&cursor={next}")).await;
    assert_eq!((&second["rows"][0], &second["next_cursor"]), (taken[1], &Value::Null));
    assert_eq!(get(&router, &format!("/v1/reversals?{NOVEMBER}&tenant=other")).await["rows"], Value::Array(vec![]));

    let statement = get(&router, "/v1/statements/acme/2026-11").await;
    assert_eq!(
        (&statement["calls"], &statement["reversed_calls"], &statement["total"]),
        (&5.into(), &2.into(), &"3.00".into())
    );
    let line = statement["lines"].as_array().unwrap().last().unwrap();
    assert_eq!((&line["item"], &line["amount"]), (&"reversals".into(), &"-2.00".into()));
    let (_, csv) = ask(&router, Request::get("/v1/statements/acme/2026-11/focus").body(Body::empty()).unwrap()).await;
    let mut rows = csv::ReaderBuilder::new().from_reader(csv.as_bytes());
    let at = rows.headers().unwrap().iter().position(|name| name == "BilledCost").unwrap();
    let costs = rows.records().map(|row| row.unwrap()[at].parse::<Decimal>().unwrap());
    assert_eq!(costs.sum::<Decimal>().normalize(), Decimal::from(3));
}

#[tokio::test]
async fn what_is_no_order_changes_nothing_and_says_why() {
    let (router, _dir) = five().await;
    let with = |field: &str, value: Value| {
        let mut record = named(1);
        record[field] = value;
        order(&[record])
    };
    for (body, why) in [
        (String::new(), "is no order"),
        ("[]".to_owned(), "is no order"),
        (order(&[]), "1 to 1000"),
        (order(&vec![named(1); 1001]), "more than 1000"),
        (with("activator", "7".into()), "16 hexadecimal digits"),
        (with("activator", "+000000000000007".into()), "16 hexadecimal digits"),
        (with("received_at", "yesterday".into()), "is no time"),
        (with("epoch", (-1).into()), "is no order"),
        (with("more", 1.into()), "is no order"),
        (order(&[named(1)]).replace("an outage of ours", ""), "a reason is a line"),
        (order(&[named(1)]).replace("outage of", "outage\\nof"), "a reason is a line"),
        (" ".repeat(300 << 10), "at most"),
    ] {
        let (status, told) = post(&router, body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{told}");
        let problem = told["faults"][0]["problem"].as_str().unwrap();
        assert!(told["faults"][0]["parameter"] == "body" && problem.contains(why), "{problem} lacks {why}");
    }
    let (status, _) = ask(&router, Request::post("/v1/reversals?x=1").body(Body::empty()).unwrap()).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(get(&router, &format!("/v1/reversals?{NOVEMBER}")).await["rows"], Value::Array(vec![]));
    let (status, _) = ask(&router, Request::delete("/v1/reversals").body(Body::empty()).unwrap()).await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
}
