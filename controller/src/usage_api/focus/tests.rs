use super::super::tests::formats::parquet;
use super::super::tests::{Fixture, NOVEMBER_US, fixture};
use super::super::{Guard, Tenants};
use super::*;
use crate::ledger::{Frame, Ledger, LedgerDoor, Place, Retention};
use crate::sample;
use axum::body::Body;
use axum::http::Request;
use dormouse_core::price::{PricePlan, Tiers};
use dormouse_core::record::CallRecord;
use http_body_util::BodyExt;
use rust_decimal::Decimal;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tower::ServiceExt;

const NOVEMBER: u32 = 498_192;

async fn asked(f: &Fixture, query: &str) -> String {
    let (status, _, body) = f.get(&format!("/v1/statements/acme/2026-11/focus?{query}"), &[]).await;
    assert_eq!(status, 200, "{body}");
    body
}

/// Rows of CSV: names, then cells.
fn csv(text: &str) -> Vec<Vec<String>> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(text.as_bytes());
    reader.records().map(|row| row.unwrap().iter().map(str::to_owned).collect()).collect()
}

fn column<'a>(table: &'a [Vec<String>], name: &str) -> Vec<&'a str> {
    let at = table[0].iter().position(|known| known == name).unwrap();
    table[1..].iter().map(|row| row[at].as_str()).collect()
}

fn sum(table: &[Vec<String>]) -> Decimal {
    column(table, "BilledCost").iter().map(|cost| cost.parse::<Decimal>().unwrap()).sum::<Decimal>().normalize()
}

#[tokio::test]
async fn a_small_export() {
    insta::assert_snapshot!(asked(&fixture(None).await, "").await.replace("\r\n", "\n"));
}

#[tokio::test]
async fn every_format_and_version_adds_up_to_the_statement() {
    let f = fixture(None).await;
    for query in ["", "version=1.3", "version=1.4", "as=lambda", "as=alibaba-fc&version=1.4"] {
        let table = csv(&asked(&f, query).await);
        let statement = f
            .json(&format!(
                "/v1/statements/acme/2026-11?as={}",
                if query.contains("lambda") {
                    "lambda"
                } else if query.contains("alibaba") {
                    "alibaba-fc"
                } else {
                    "article"
                }
            ))
            .await;
        let total: Decimal = statement["total"].as_str().unwrap().parse().unwrap();
        assert_eq!(sum(&table), total.normalize(), "{query}");
        assert!(table.len() > 8);
        let invoices = column(&table, "InvoiceId");
        assert!(invoices.iter().all(|id| *id == if query.contains("as=") { "" } else { "acme/2026-11" }), "{query}");
        let counted: u64 = column(&table, "x_RecordCount").iter().filter_map(|n| n.parse::<u64>().ok()).sum();
        assert_eq!(counted, 100);

        let (_, _, file) = f
            .bytes(
                &format!("/v1/statements/acme/2026-11/focus?{query}"),
                &[("accept", "application/vnd.apache.parquet")],
            )
            .await;
        assert_eq!(parquet(file), table, "{query}");
        let lines = asked(&f, &format!("{query}&format=jsonl")).await;
        let lines: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), table.len() - 1);
        for (line, cells) in lines.iter().zip(&table[1..]) {
            let text = |value: &serde_json::Value| match value {
                serde_json::Value::String(text) => text.clone(),
                value => value.to_string().replace("null", ""),
            };
            assert_eq!(table[0].iter().map(|name| text(&line[name])).collect::<Vec<_>>(), *cells);
        }
    }
}

#[tokio::test]
async fn what_cannot_be_exported_is_said() {
    let f = fixture(None).await;
    let get = async |path: &str, accept: &str| {
        let (status, headers, body) = f.get(path, &[("accept", accept)]).await;
        (status.as_u16(), headers["content-type"].to_str().unwrap().to_owned(), body)
    };
    let focus = "/v1/statements/acme/2026-11/focus";
    for (path, accept, status, said) in [
        ("/v1/statements/nobody/2026-11/focus", "*/*", 404, "nobody"),
        ("/v1/statements/acme/2026-13/focus?version=1.1&as=x&y=1", "*/*", 400, "1.2, 1.3, 1.4"),
        ("/v1/statements/acme/2026-11/focus?format=json", "*/*", 400, "csv, jsonl, parquet"),
        (focus, "application/json", 406, "text/csv, application/x-ndjson, application/vnd.apache.parquet"),
    ] {
        let (told, kind, body) = get(path, accept).await;
        assert_eq!((told, kind.as_str()), (status, "application/json"), "{path}");
        assert!(body.contains(said), "{path}: {body}");
    }
    assert_eq!(get(focus, "text/*").await.1, "text/csv; charset=utf-8; header=present");
    let nothing = get("/v1/statements/acme/2020-01/focus", "*/*").await;
    assert_eq!((nothing.0, nothing.2.lines().count()), (200, 1), "a line of names");
}

/// A ledger of so many functions, each with a call in each of so many hours.
async fn ledger(functions: u32, hours: u32, plan: PricePlan) -> (LedgerDoor, Ledger, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let door = LedgerDoor::new(Place::folder(dir.path()), plan);
    let ledger = door.open().await.unwrap();
    ledger.append(frame(1, functions, hours)).await.unwrap();
    (door, ledger, dir)
}

fn frame(epoch: u32, functions: u32, hours: u32) -> Frame {
    let calls = (0..functions * hours).map(|n| CallRecord {
        subject: n % functions,
        ..sample::call(n.into(), NOVEMBER_US + i64::from(n / functions) * 3_600_000_000)
    });
    let subject = |n: u32| sample::subject("acme", "shop", &format!("fn{n}"));
    sample::frame((7, epoch), (0..functions).map(subject).collect(), calls)
}

#[tokio::test]
async fn what_came_late_is_corrected_by_the_next_statement() {
    let plan = PricePlan { per_call: Tiers::flat(Decimal::ONE), ..PricePlan::default() };
    let (door, ledger, _dir) = ledger(2, 3, plan).await;
    let router =
        super::super::router(door.clone(), crate::budgets::Budgets::none(), Guard::open(), Tenants::of_themselves());
    let asked = async |path: &str| {
        let question = Request::get(path).body(Body::empty()).unwrap();
        let response = router.clone().oneshot(question).await.unwrap();
        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    };
    let total = async |month: &str| {
        let statement: serde_json::Value =
            serde_json::from_str(&asked(&format!("/v1/statements/acme/{month}")).await).unwrap();
        statement["total"].as_str().unwrap().to_owned()
    };
    let focus = async |month: &str| csv(&asked(&format!("/v1/statements/acme/{month}/focus")).await);
    let before = focus("2026-11").await;
    ledger.close_months(door.plans(), 3, "2026-12-10T00:00:00Z".parse().unwrap()).await.unwrap();
    ledger.append(frame(2, 2, 1)).await.unwrap();

    let closed = focus("2026-11").await;
    assert_eq!((total("2026-11").await, sum(&closed)), ("6.00".to_owned(), sum(&before)));
    let of = |table: &[Vec<String>]| column(table, "ChargeDescription").last().unwrap().to_string();
    assert_eq!(of(&closed), "What came to 2026-11 after its statement was closed: a later statement of acme has it");
    assert_eq!(column(&closed, "BilledCost").last(), Some(&"-2"));
    let next = focus("2026-12").await;
    assert_eq!((total("2026-12").await, sum(&next)), ("2.00".to_owned(), Decimal::TWO));
    let row =
        ["ChargeCategory", "ChargeClass", "BilledCost", "ChargePeriodStart", "InvoiceId"].map(|n| column(&next, n)[0]);
    assert_eq!(row, ["Adjustment", "Correction", "2", "2026-11-01T00:00:00Z", "acme/2026-12"]);
}

/// The parts' rows: how many each part has, and of each row its hours and function.
async fn parts(door: &LedgerDoor, limit: usize) -> (Vec<usize>, Vec<(Range<u32>, String)>) {
    let room = || Arc::new(Semaphore::new(1));
    let budgets = crate::budgets::Budgets::none();
    let api = Api { door: door.clone(), budgets, turns: room(), exports: room() };
    let filter = Filter { tenants: vec!["acme".to_owned()], ..Filter::default() };
    let mut parts = Parts::new(api, filter, &(NOVEMBER..NOVEMBER + 720), limit);
    let (mut sizes, mut rows) = (Vec::new(), Vec::new());
    while let Some(part) = parts.next().await.unwrap() {
        sizes.push(part.len());
        rows.extend(part.into_iter().map(|row| (row.time, row.group.function.clone().unwrap())));
    }
    (sizes, rows)
}

#[tokio::test]
async fn parts_are_bounded_and_in_the_order_of_time() {
    let (door, _, _dir) = ledger(5, 30, PricePlan::default()).await;
    let expected: Vec<_> = (0..30)
        .flat_map(|hour| (0..5).map(move |n| (NOVEMBER + hour..NOVEMBER + hour + 1, format!("fn{n}"))))
        .collect();
    for limit in [1, 2, 5, 7, 20, 1_000] {
        let (sizes, rows) = parts(&door, limit).await;
        assert!(sizes.iter().all(|size| *size <= limit), "{limit}: {sizes:?}");
        assert_eq!(rows, expected, "{limit}");
        // Where there is room for several hours they come together, and a month without calls is not asked by the hour.
        assert!(limit < 20 || sizes.len() < 20, "{limit}: {sizes:?}");
    }
}

#[tokio::test]
async fn an_export_that_cannot_go_on_breaks_off() {
    let (door, _, _dir) = ledger(5, 30, PricePlan::default()).await;
    let router =
        super::super::router(door.clone(), crate::budgets::Budgets::none(), Guard::open(), Tenants::of_themselves());
    let question = Request::get("/v1/statements/acme/2026-11/focus").body(Body::empty()).unwrap();
    let response = router.oneshot(question).await.unwrap();
    assert_eq!(response.status(), 200);
    // Five parts have rows, of 1, 2, 4, 8 and 16 hours: one is read, one waits, one is made.
    let mut body = response.into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first.iter().filter(|byte| **byte == b'\n').count(), 1 + 5 * 2);
    door.close("the disk is gone");
    let mut last = None;
    while let Some(frame) = body.frame().await {
        last = Some(frame.is_err());
    }
    assert_eq!(last, Some(true));
}

#[tokio::test]
async fn hours_that_became_days_are_told_by_the_day() {
    let (door, ledger, _dir) = ledger(2, 30, PricePlan::default()).await;
    ledger.tidy(Retention { hour_days: 1, record_days: 1, ..Retention::default() }, NOVEMBER + 48).await.unwrap();
    assert_eq!(ledger.kept_from().hours, NOVEMBER + 24);
    let day = (0..2).map(|n| (NOVEMBER..NOVEMBER + 24, format!("fn{n}")));
    let hours = (24..30).flat_map(|hour| (0..2).map(move |n| (NOVEMBER + hour..NOVEMBER + hour + 1, format!("fn{n}"))));
    let expected: Vec<_> = day.chain(hours).collect();
    for limit in [1, 2, 3, 1_000] {
        assert_eq!(parts(&door, limit).await.1, expected, "{limit}");
    }
}
