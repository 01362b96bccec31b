//! The webhook: who is believed, and what comes of an event that comes twice.

use crate::dev::Dev;
use crate::place::Place;
use anyhow::{Result, ensure};
use dormouse_tests::client::Answer;
use dormouse_tests::postgres::Postgres;
use http::HeaderValue;
use ring::hmac;

const NAME: &str = "payment-webhook";
const KEY: &str = "replace-me-with-32-random-characters";

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

fn signed(time: i64, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, KEY.as_bytes());
    let mut context = hmac::Context::with_key(&key);
    context.update(format!("{time}.").as_bytes());
    context.update(body);
    let digits: Vec<String> = context.sign().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t={time},v1={}", digits.concat())
}

async fn send(dev: &Dev, body: &[u8], signature: &str) -> Result<Answer> {
    let target = dev.target(NAME, "");
    let mut request = target.post(1, body.to_vec());
    request.headers_mut().insert("payment-signature", HeaderValue::from_str(signature)?);
    Ok(target.send(request).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_counts_once_however_often_it_comes() -> Result<()> {
    let postgres = Postgres::start().await?;
    let place = Place::of(NAME, None, Some(&postgres))?;
    let (dev, said) = place.by_its_readme(NAME).await?;
    ensure!(said == "{\"received\": \"evt-1\"}" || said == "{\"received\":\"evt-1\"}", "{said}");
    let paid = || postgres.sql("ledger0", "SELECT coalesce(sum(paid_cents), 0) FROM invoices WHERE id = 'inv-7'");
    ensure!(paid()? == "1250", "{}", paid()?);

    // Again, with a new signature, as providers do; and ten times at once, by several instances.
    let body = br#"{"id": "evt-1", "invoice": "inv-7", "cents": 1250}"#;
    let again = send(&dev, body, &signed(now(), body)).await?;
    ensure!(again.status == 200 && again.text() == said, "{again}");
    let body = br#"{"id": "evt-2", "invoice": "inv-7", "cents": 1}"#;
    let signature = signed(now(), body);
    let all = futures::future::try_join_all((0..10).map(|_| send(&dev, body, &signature))).await?;
    ensure!(all.iter().all(|answer| answer.status == 200), "{all:?}");
    ensure!(paid()? == "1251", "{}", paid()?);

    // Signed as it was sent, byte by byte.
    let spaced = b"{ \"id\":\"evt-3\",\r\n\"invoice\":\"inv-7\", \"cents\":10, \"note\":\"\xc3\xa4\" }\n";
    let answer = send(&dev, spaced, &signed(now(), spaced)).await?;
    ensure!(answer.status == 200 && paid()? == "1261", "{answer}");
    let instances = dev.started(NAME);
    let connections = postgres.connections(place.database()?, NAME)?;
    ensure!((1..=4).contains(&instances) && (1..=instances).contains(&connections), "{connections} of {instances}");
    dev.end()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_did_not_sign_or_signed_long_ago_is_not_believed() -> Result<()> {
    let postgres = Postgres::start().await?;
    let place = Place::of(NAME, None, Some(&postgres))?;
    postgres.sql("ledger0", &std::fs::read_to_string(place.example(NAME).join("schema.sql"))?)?;
    let dev = Dev::start(&place, &["dev", &format!("examples/{NAME}")]).await?;
    let body = br#"{"id": "evt-1", "invoice": "inv-7", "cents": 1250}"#;
    let fresh = signed(now(), body);
    let renewed = format!("t={},{}", now() + 1, &fresh[fresh.find("v1=").unwrap_or(0)..]);
    let cases = [
        (String::new(), "payment-signature must be"),
        (fresh.replace("v1=", "v2="), "payment-signature must be"),
        (format!("{fresh}0"), "payment-signature must be"),
        (fresh.to_uppercase().replace("V1=", "v1=").replace("T=", "t="), "payment-signature must be"),
        (signed(now(), b"{}"), "the signature is wrong"),
        (renewed, "the signature is wrong"),
        (signed(now() - 302, body), "the signature is too old"),
        (signed(now() + 400, body), "the signature is too old"),
    ];
    for (signature, why) in cases {
        let answer = send(&dev, body, &signature).await?;
        ensure!(answer.status == 401 && answer.text().starts_with(why), "{signature}: {why}: {answer}");
    }
    let late = send(&dev, body, &signed(now() - 200, body)).await?;
    ensure!(late.status == 200, "{late}");
    let long = format!("{{\"id\": \"{}\", \"invoice\": \"i\", \"cents\": 1}}", "x".repeat(201));
    let broken = [
        "[]",
        "{}",
        "{\"id\": 1, \"invoice\": \"i\", \"cents\": 1}",
        "{\"id\": \"e\", \"invoice\": \"i\", \"cents\": 1.5}",
        "{\"id\": \"e\", \"invoice\": \"i\", \"cents\": true}",
        "{\"id\": \"e\", \"invoice\": \"i\", \"cents\": -1}",
        "{\"id\": \"\\u0000\", \"invoice\": \"i\", \"cents\": 1}",
        &long,
    ];
    for broken in broken.map(str::as_bytes).into_iter().chain([&b"\xff"[..]]) {
        let answer = send(&dev, broken, &signed(now(), broken)).await?;
        ensure!(answer.status == 400, "{answer}");
    }
    ensure!(postgres.sql("ledger0", "SELECT count(*) FROM payment_events")? == "1");
    dev.end()
}
