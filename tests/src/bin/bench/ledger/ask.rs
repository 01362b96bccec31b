//! Questions to a ledger, over HTTP on one kept connection.

use super::feed::{self, HOURS, Month};
use super::keep::Keeper;
use anyhow::{Context, Result};
use dormouse_proto::v1::ledger_client::LedgerClient;
use dormouse_tests::client::{Connection, Target};
use dormouse_tests::quantiles::Times;
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Longest time until a call is in the answer.
const SEEN: Duration = Duration::from_secs(30);

/// Questions for records and for what just ended: each takes several answers.
const FEW: u32 = 50;

/// What was asked, and how long the answers took.
#[derive(Default)]
pub(super) struct Asked {
    /// One function, 30 days by hour.
    pub(super) one: Times,
    /// All functions by hour, every page.
    pub(super) all_ms: f64,
    pub(super) rows: usize,
    pub(super) pages: usize,
    pub(super) bytes: usize,
    /// The same rows in one answer, as CSV.
    pub(super) whole: Whole,
    /// Records of one function in one hour, every page.
    pub(super) hour: Times,
    /// From a frame's sending to its being in the answer.
    pub(super) fresh: Times,
}

/// An answer that is read while it is sent.
#[derive(Default)]
pub(super) struct Whole {
    /// Until its first row was there.
    pub(super) first_ms: f64,
    pub(super) ms: f64,
    pub(super) bytes: usize,
}

impl Whole {
    /// Asks for it, and counts its lines as they come.
    async fn read(address: SocketAddr, path: &str, rows: usize) -> Result<Self> {
        let stream = tokio::net::TcpStream::connect(address).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let began = Instant::now();
        let answer = sender.send_request(Target::new(address, "usage", path).get(0)).await?;
        anyhow::ensure!(answer.status() == 200, "GET {path}: {}", answer.status());
        let (mut body, mut lines, mut whole) = (answer.into_body(), 0, Self::default());
        while let Some(frame) = body.frame().await {
            let Ok(part) = frame?.into_data() else { continue };
            if lines == 0 {
                whole.first_ms = began.elapsed().as_secs_f64() * 1000.0;
            }
            lines += part.iter().filter(|byte| **byte == b'\n').count();
            whole.bytes += part.len();
        }
        whole.ms = began.elapsed().as_secs_f64() * 1000.0;
        anyhow::ensure!(lines == rows + 1, "{lines} lines of {rows} rows and their names");
        Ok(whole)
    }
}

/// A kept connection.
struct Line {
    target: Target,
    connection: Connection,
}

impl Line {
    async fn get(&mut self, path: &str) -> Result<bytes::Bytes> {
        let answer = self.connection.call(self.target.at(path).get(0)).await?;
        anyhow::ensure!(answer.status == 200, "GET {path}: {answer}");
        Ok(answer.body)
    }

    /// Every page of an answer: pages, rows and bytes. What a page says is not read before the next one is asked for,
    /// other than where that begins.
    async fn pages(&mut self, path: &str) -> Result<(usize, usize, usize)> {
        let (mut pages, mut rows, mut bytes, mut cursor) = (0, 0, 0, String::new());
        loop {
            let body = self.get(&format!("{path}{cursor}")).await?;
            let page: Page = serde_json::from_slice(&body)?;
            (pages, rows, bytes) = (pages + 1, rows + page.rows.len(), bytes + body.len());
            let Some(next) = page.next_cursor else { return Ok((pages, rows, bytes)) };
            cursor = format!("&cursor={next}");
        }
    }
}

#[derive(serde::Deserialize)]
struct Page {
    rows: Vec<serde::de::IgnoredAny>,
    next_cursor: Option<String>,
}

/// Asks everything.
pub(super) async fn all(month: &Month, keeper: &Keeper, questions: u32) -> Result<Asked> {
    let target = Target::new(keeper.usage, "usage", "/");
    let mut line = Line { connection: Connection::open(keeper.usage).await?, target };
    let mut asked = Asked::default();
    let (from, to) = (text(month.start)?, text(month.start + HOURS)?);
    let by_hour = format!("/v1/usage?from={from}&to={to}&granularity=PT1H&group_by=function");
    for n in 0..questions {
        let (namespace, name) = feed::name_of(picked(n, month));
        let began = Instant::now();
        let path = format!("{by_hour}&filter[function]={namespace}/{name}&limit=1000");
        let body = line.get(&path).await?;
        asked.one.record(began.elapsed());
        let page: Page = serde_json::from_slice(&body)?;
        anyhow::ensure!(page.rows.len() == HOURS as usize, "{} rows of {HOURS}", page.rows.len());
    }
    let began = Instant::now();
    (asked.pages, asked.rows, asked.bytes) = line.pages(&format!("{by_hour}&limit=10000")).await?;
    asked.all_ms = began.elapsed().as_secs_f64() * 1000.0;
    anyhow::ensure!(asked.rows == (HOURS * month.functions) as usize, "{} rows of all", asked.rows);
    asked.whole = Whole::read(keeper.usage, &format!("{by_hour}&limit=all&format=csv"), asked.rows).await?;
    for n in 0..FEW {
        let (namespace, name) = feed::name_of(picked(n, month));
        let hour = month.start + n * 13 % HOURS;
        let period = format!("from={}&to={}", text(hour)?, text(hour + 1)?);
        let began = Instant::now();
        let path = format!("/v1/records?{period}&namespace={namespace}&function={name}&limit=1000");
        let (_, rows, _) = line.pages(&path).await?;
        asked.hour.record(began.elapsed());
        anyhow::ensure!(rows > 0, "no records of {namespace}/{name} in hour {hour}");
    }
    for n in 0..FEW {
        asked.fresh.record(seen(n, month, keeper, &mut line).await?);
    }
    Ok(asked)
}

/// A function; another one each time.
fn picked(n: u32, month: &Month) -> u32 {
    n.wrapping_mul(617) % month.functions
}

/// One call goes to the ledger, and is asked for until it is in the answer.
async fn seen(n: u32, month: &Month, keeper: &Keeper, line: &mut Line) -> Result<Duration> {
    let function = picked(n, month);
    let (namespace, name) = feed::name_of(function);
    let now = u32::try_from(jiff::Timestamp::now().as_second() / 3600)?;
    let period = format!("from={}&to={}", text(now - 1)?, text(now + 2)?);
    let path = format!("/v1/usage?{period}&group_by=function&filter[function]={namespace}/{name}");
    let calls = async |line: &mut Line| -> Result<u64> {
        let page: Value = serde_json::from_slice(&line.get(&path).await?)?;
        Ok(page["rows"].as_array().context("no rows")?.iter().filter_map(|r| r["calls"].as_u64()).sum())
    };
    let before = calls(line).await?;
    let frame = feed::one(function, 10_000 + n)?;
    let mut client = LedgerClient::connect(format!("http://{}", keeper.grpc)).await?;
    let began = Instant::now();
    let sending = tokio::spawn(async move { client.append(frame).await });
    while calls(line).await? <= before {
        anyhow::ensure!(began.elapsed() < SEEN, "a call of {namespace}/{name} is not in the answer");
    }
    let took = began.elapsed();
    sending.await??;
    Ok(took)
}

/// An hour since 1970 UTC as text.
fn text(hour: u32) -> Result<String> {
    Ok(jiff::Timestamp::from_second(i64::from(hour) * 3600)?.to_string())
}
