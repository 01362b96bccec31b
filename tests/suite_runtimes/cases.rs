//! The table of `cases.yaml`, run against each language.

use crate::client::{Reply, Request};
use crate::runtime::{Kind, Runtime, load_files};
use anyhow::{Context, Result, ensure};
use base64::{Engine, engine::general_purpose::STANDARD};
use dormouse_tests::wait::until;
use futures::{StreamExt, stream};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const TABLE: &str = include_str!("cases.yaml");
/// Processes at once: each waits most of its time.
const AT_ONCE: usize = 4;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    nodejs: Option<String>,
    python: Option<String>,
    module: Option<String>,
    #[serde(default)]
    files: BTreeMap<String, String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    concurrency: Option<u32>,
    asks: Vec<Ask>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ask {
    method: Option<String>,
    path: Option<String>,
    #[serde(default)]
    headers_sent: Vec<(String, String)>,
    body: Option<String>,
    base64: Option<String>,
    repeat: Option<usize>,
    #[serde(default)]
    chunks: bool,
    status: Option<u16>,
    #[serde(default)]
    headers: BTreeMap<String, OneOrMany>,
    #[serde(default)]
    absent: Vec<String>,
    text: Option<String>,
    bytes: Option<String>,
    json: Option<Value>,
    #[serde(default)]
    lacks: Vec<String>,
    #[serde(default)]
    broken: bool,
    logs: Option<Vec<Value>>,
    logs_nodejs: Option<Vec<Value>>,
    logs_python: Option<Vec<Value>>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl Case {
    fn code(&self, kind: Kind) -> Option<&str> {
        match kind {
            Kind::Nodejs => self.nodejs.as_deref(),
            Kind::Python => self.python.as_deref(),
        }
    }

    async fn run(&self, kind: Kind, code: &str) -> Result<()> {
        let module = self.module.as_deref().unwrap_or(kind.file());
        let files: Vec<_> = self.files.iter().map(|(n, t)| (n.as_str(), t.as_str())).chain([(module, code)]).collect();
        let runtime = Runtime::park(kind).await?;
        let more = json!({"env": self.env, "concurrency": self.concurrency.unwrap_or(1)});
        let reply = runtime.load(&load_files(&files, more)).await?;
        ensure!(reply.status == 200, "not loaded: {}", reply.text());
        let mut client = runtime.client().await?;
        for (i, ask) in self.asks.iter().enumerate() {
            let id = format!("id-{i}");
            let reply = client.call(&ask.request(&id)?).await.with_context(|| format!("ask {i}"))?;
            ask.check(&reply).with_context(|| format!("ask {i}: {reply:?}\n{}", reply.text()))?;
            ask.check_log(&runtime, &id).await.with_context(|| format!("the log of ask {i}"))?;
            if ask.broken {
                client = runtime.client().await?;
            }
        }
        Ok(())
    }
}

impl Ask {
    fn request<'a>(&'a self, id: &'a str) -> Result<Request<'a>> {
        let body = match (&self.body, &self.base64, self.repeat) {
            (Some(text), None, None) => text.clone().into_bytes(),
            (None, Some(base64), None) => STANDARD.decode(base64)?,
            (None, None, Some(n)) => vec![b'x'; n],
            (None, None, None) => Vec::new(),
            _ => anyhow::bail!("a body is one of body, base64, repeat"),
        };
        let method = self.method.as_deref().unwrap_or("GET");
        let mut headers: Vec<_> = self.headers_sent.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        headers.push(("dormouse-request-id", id));
        Ok(Request { method, path: self.path.as_deref().unwrap_or("/"), headers, body, chunks: self.chunks })
    }

    fn check(&self, reply: &Reply) -> Result<()> {
        let status = self.status.unwrap_or(200);
        ensure!(reply.status == status, "status {} is not {status}", reply.status);
        ensure!(reply.whole != self.broken, "broken off: {}", !reply.whole);
        for (name, expected) in &self.headers {
            let expected = match expected {
                OneOrMany::One(one) => vec![one.as_str()],
                OneOrMany::Many(many) => many.iter().map(String::as_str).collect(),
            };
            ensure!(reply.all(name) == expected, "{name} is {:?}, not {expected:?}", reply.all(name));
        }
        for name in &self.absent {
            ensure!(reply.all(name).is_empty(), "{name} is {:?}", reply.all(name));
        }
        if let Some(text) = &self.text {
            ensure!(reply.text() == *text, "the body is not {text:?}");
        }
        if let Some(bytes) = &self.bytes {
            ensure!(reply.body == STANDARD.decode(bytes)?, "the body is not {bytes}");
        }
        if let Some(expected) = &self.json {
            let body = reply.json()?;
            part_of(expected, &body)?;
            ensure!(self.lacks.iter().all(|name| body.get(name).is_none()), "one of {:?} is there", self.lacks);
        }
        Ok(())
    }

    /// What the log says of the call. Its last words may be written after the answer.
    async fn check_log(&self, runtime: &Runtime, id: &str) -> Result<()> {
        let own = if runtime.kind == Kind::Nodejs { &self.logs_nodejs } else { &self.logs_python };
        let Some(expected) = own.as_ref().or(self.logs.as_ref()) else { return Ok(()) };
        let lines = until("the lines are there", crate::client::LIMIT, async || {
            let mut lines = runtime.log()?;
            lines.retain(|line| line["requestId"] == id);
            ensure!(lines.len() >= expected.len(), "{} lines: {lines:#?}", lines.len());
            Ok(lines)
        })
        .await?;
        ensure!(lines.len() == expected.len(), "{} lines, not {}: {lines:#?}", lines.len(), expected.len());
        for (line, expected) in lines.iter().zip(expected) {
            for (field, value) in expected.as_object().context("a line is an object")? {
                let (seen, text) = (line[field].as_str().unwrap_or_default(), value.as_str().unwrap_or_default());
                let part = text.strip_prefix('/').and_then(|t| t.strip_suffix('/'));
                let holds = match (field.as_str(), part) {
                    ("message", Some(part)) => seen.contains(part),
                    ("stack", _) => seen.contains(text),
                    _ => line[field] == *value,
                };
                ensure!(holds, "{field} is not {value}: {line:#}");
            }
        }
        Ok(())
    }
}

/// Fails unless all that is expected is there; lists are whole.
fn part_of(expected: &Value, seen: &Value) -> Result<()> {
    let Some(fields) = expected.as_object() else {
        ensure!(expected == seen, "{seen} is not {expected}");
        return Ok(());
    };
    for (name, value) in fields {
        part_of(value, seen.get(name).with_context(|| format!("{name} is missing"))?).context(name.clone())?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_get_and_give_what_the_contract_says() {
    let cases: Vec<Case> = serde_saphyr::from_str(TABLE).expect("the table");
    // To look at one of them alone.
    let only = std::env::var("DORMOUSE_CASE").unwrap_or_default();
    let runs = cases.iter().filter(|case| case.name.contains(&only)).flat_map(|case| {
        let codes = Kind::ALL.into_iter().filter_map(|kind| Some((kind, case.code(kind)?)));
        codes.map(async |(kind, code)| {
            let told = || format!("{:?} by {kind:?}", case.name);
            case.run(kind, code).await.with_context(told)
        })
    });
    let results: Vec<Result<()>> = stream::iter(runs).buffer_unordered(AT_ONCE).collect().await;
    let failed: Vec<String> = results.into_iter().filter_map(Result::err).map(|e| format!("{e:?}")).collect();
    assert!(failed.is_empty(), "{} failed:\n\n{}", failed.len(), failed.join("\n\n"));
}
