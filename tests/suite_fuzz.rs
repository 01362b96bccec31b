//! The usage API under schemathesis, a fuzzer that reads `openapi.yaml` and makes questions of it, right ones and wrong
//! ones: none is answered with a server error, each answer has a status, a type and fields that the file names, and what
//! the file calls wrong is refused.
//!
//! `DORMOUSE_SCHEMATHESIS` names the program; `./test` installs it. The ledger has calls of several tenants, functions and
//! outcomes, a month ago and just now, and warm time, so that answers have rows by any granularity.
//!
//! One thing is not asked for: that whatever the file takes for right is answered. Whether a cursor is of this question, or a
//! time in what is kept, no schema can say.

use anyhow::{Context, Result, ensure};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use dormouse_controller::budgets::Budgets;
use dormouse_controller::fires::asked::Answer;
use dormouse_controller::ledger::{Frame, LedgerDoor, Place, Plans, WarmSpan};
use dormouse_controller::office::Mail;
use dormouse_controller::parking::Parking;
use dormouse_controller::shares::Process;
use dormouse_controller::tenants::Tenants;
use dormouse_controller::usage_api::{Guard, events, pools, router, with};
use dormouse_core::function::Fired;
use dormouse_core::price::PricePlan;
use dormouse_core::record::{CallRecord, Outcome, Packer, Subject};
use dormouse_daemon::Token;
use dormouse_tests::env::long;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

const TOKEN: &str = "fuzz-me-with-this-token";
/// Questions for each path and phase; each takes a few milliseconds.
const EXAMPLES: (u32, u32) = (150, 1_000);
/// The same questions each time, so that a failure can be looked into; the long form takes others.
const SEED: u64 = 7;

const HOUR_US: i64 = 3_600_000_000;
const OUTCOMES: [Outcome; 6] = [
    Outcome::Ok,
    Outcome::FunctionError,
    Outcome::PlatformError,
    Outcome::Timeout,
    Outcome::ClientGone,
    Outcome::Aborted,
];

/// A function of each of six, two of which another tenant than their namespace pays for.
fn subject(number: u32) -> Subject {
    let namespace = ["shop", "kitchen", "yard"][(number % 3) as usize];
    Subject {
        function_uid: format!("uid-{number}"),
        namespace: namespace.to_owned(),
        name: format!("fn-{number}"),
        revision: "r1".to_owned(),
        tenant: if number < 2 { "acme".to_owned() } else { namespace.to_owned() },
        memory_mib: 256 << (number % 2),
        cpu_millis: 100,
        instance: format!("i-{number}"),
    }
}

fn record(call: u64, received_at_us: i64) -> CallRecord {
    CallRecord {
        subject: (call % 6) as u32,
        call,
        received_at_us,
        wait_us: call * 7 % 900,
        claim_us: 0,
        start_us: if call.is_multiple_of(9) { 70_000 } else { 0 },
        connect_us: 30,
        run_us: 1_000 + call * 977 % 90_000,
        request_bytes: call,
        response_bytes: call * 3,
        status: 200,
        outcome: OUTCOMES[(call % 6) as usize],
        cold: call.is_multiple_of(9),
        first: call.is_multiple_of(9),
        warm_slots: if call.is_multiple_of(4) { 5 } else { 0 },
        key: call % 3,
        timed: None,
    }
}

/// A ledger with 2,000 calls, half of them in the last 36 hours.
async fn filled(folder: &std::path::Path) -> Result<LedgerDoor> {
    let other = PricePlan { name: "lambda".to_owned(), step_ms: 100, ..PricePlan::default() };
    let door = LedgerDoor::new(Place::folder(folder), Plans::new(PricePlan::default(), vec![other]));
    let ledger = door.open().await?;
    let now_us = jiff::Timestamp::now().as_microsecond();
    let mut packer = Packer::default();
    for call in 1..=2_000_u64 {
        let hours_ago = if call.is_multiple_of(2) { call % 36 } else { 24 * 20 + call % 400 };
        packer.push(&record(call, now_us - i64::try_from(hours_ago)? * HOUR_US));
    }
    let records = packer.finish();
    let crc32c = crc32c::crc32c(&records);
    let subjects = (0..6).map(subject).collect();
    ledger
        .append(Frame { activator: 7, epoch: 1, first_seq: 1, count: 2_000, subjects, records, crc32c, unseen: false })
        .await?;
    let span = WarmSpan { subject: subject(0), resumes: false, open: false, from_us: now_us - HOUR_US, to_us: now_us };
    ledger.keep_warm(vec![span]).await?;
    door.through().say(&Process { name: "fuzzed".into(), activator: 7, epoch: 1 }, now_us, false);
    Ok(door)
}

/// How long it may take: the long form took five minutes.
const PATIENCE: Duration = Duration::from_secs(1800);

#[tokio::test(flavor = "multi_thread")]
async fn what_the_file_says_is_what_is_answered() -> Result<()> {
    let Some(program) = std::env::var_os("DORMOUSE_SCHEMATHESIS").map(PathBuf::from) else {
        anyhow::bail!("DORMOUSE_SCHEMATHESIS is not set: run ./test --only fuzz, which installs it");
    };
    let folder = tempfile::tempdir()?;
    let door = filled(folder.path()).await?;
    let guard = Guard::token(Token::new(TOKEN).context("a token")?);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let answers = Answers::default();
    let api = router(door, Budgets::none(), guard.clone(), Tenants::of_themselves());
    let beside = pools(Parking::default()).merge(events(office()));
    let api = with(api, Some(beside), guard);
    let api = api.layer(axum::middleware::from_fn_with_state(answers.clone(), count));
    let served = tokio::spawn(axum::serve(listener, api).into_future());
    let (examples, seed) = if long() { (EXAMPLES.1, SEED + 1) } else { (EXAMPLES.0, SEED) };
    let fuzzed = tokio::process::Command::new(&program)
        .args(["--no-color", "run", &format!("{url}/openapi.yaml")])
        .args(["--url", &url, "--header", &format!("Authorization: Bearer {TOKEN}")])
        .args([
            "--checks",
            "all",
            "--exclude-checks",
            "positive_data_acceptance",
            "--max-examples",
            &examples.to_string(),
            "--seed",
            &seed.to_string(),
        ])
        .args(["--continue-on-failure", "--request-timeout", "30"])
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .status();
    let fuzzed = tokio::time::timeout(PATIENCE, fuzzed).await.context("schemathesis does not end")?;
    let fuzzed = fuzzed.with_context(|| format!("{} cannot be run", program.display()))?;
    served.abort();
    ensure!(fuzzed.success(), "schemathesis found something, or failed itself: {fuzzed}");
    let answers = answers.0.lock();
    println!("answers by path and status: {answers:?}");
    let failed: Vec<_> = answers.keys().filter(|(_, status)| *status >= 500).collect();
    ensure!(failed.is_empty(), "server errors: {failed:?}");
    for path in ["usage", "records", "statements", "prices"] {
        let of = |status: u16| answers.get(&(path.to_owned(), status)).copied().unwrap_or_default();
        let (good, refused, unknown) = (of(200), of(400), of(401));
        ensure!(good >= 10 && refused >= 10 && unknown >= 1, "too little was asked of {path}: {answers:?}");
    }
    Ok(())
}

/// An office in which every second event runs, and others have no function.
fn office() -> tokio::sync::mpsc::Sender<Mail> {
    let (post, mut mail) = tokio::sync::mpsc::channel(64);
    tokio::spawn(async move {
        let mut there = false;
        while let Some(mail) = mail.recv().await {
            there = !there;
            let due = jiff::Timestamp::now();
            let over = Answer::Over { due, outcome: Fired::Ran, reason: "Status200".into() };
            if let Mail::Invoke(wanted) = mail {
                let _ = wanted.answer.send(if there { over } else { Answer::NoFunction });
            }
        }
    });
    post
}

/// How often which status was answered, by the second part of the path.
#[derive(Clone, Debug, Default)]
struct Answers(Arc<Mutex<BTreeMap<(String, u16), u64>>>);

async fn count(State(answers): State<Answers>, request: Request, next: Next) -> Response {
    let path = request.uri().path().split('/').nth(2).unwrap_or_default().to_owned();
    let response = next.run(request).await;
    *answers.0.lock().entry((path, response.status().as_u16())).or_default() += 1;
    response
}
