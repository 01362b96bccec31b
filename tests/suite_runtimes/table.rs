//! The table of `cases.yaml`: what is asked of a handler, and what must come back.

use crate::client::{HOST, Reply, Request};
use anyhow::{Context, Result, ensure};
use base64::{Engine, engine::general_purpose::STANDARD};
use dormouse_core::function::Runtime;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// Every case.
pub(crate) fn cases() -> Result<Vec<Case>> {
    let cases: Vec<Case> = serde_saphyr::from_str(include_str!("cases.yaml"))?;
    // To look at one of them alone.
    let only = std::env::var("DORMOUSE_CASE").unwrap_or_default();
    Ok(cases.into_iter().filter(|case| case.name.contains(&only)).collect())
}

/// Who is asked: the runtime itself, or a function that runs on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Runtime,
    Function,
}

/// Headers of one hop, and those that only the platform sees.
const OF_THE_HOP: [&str; 4] = ["connection", "keep-alive", "transfer-encoding", "dormouse-error"];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) nodejs: Option<String>,
    pub(crate) python: Option<String>,
    pub(crate) module: Option<String>,
    #[serde(default)]
    pub(crate) files: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) concurrency: Option<u32>,
    pub(crate) asks: Vec<Ask>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ask {
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
    pub(crate) broken: bool,
    /// It is about what only the platform says to a runtime.
    #[serde(default)]
    direct: bool,
    pub(crate) logs: Option<Vec<Value>>,
    pub(crate) logs_nodejs: Option<Vec<Value>>,
    pub(crate) logs_python: Option<Vec<Value>>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl Case {
    /// Its module in a language.
    pub(crate) fn code(&self, runtime: Runtime) -> Option<&str> {
        match runtime {
            Runtime::Nodejs => self.nodejs.as_deref(),
            Runtime::Python => self.python.as_deref(),
        }
    }

    /// Every file of it in a language.
    pub(crate) fn code_files<'a>(&'a self, runtime: Runtime, code: &'a str) -> Vec<(&'a str, &'a str)> {
        let usual = if runtime == Runtime::Nodejs { "index.js" } else { "index.py" };
        let module = self.module.as_deref().unwrap_or(usual);
        self.files.iter().map(|(n, t)| (n.as_str(), t.as_str())).chain([(module, code)]).collect()
    }
}

impl Ask {
    /// Whether it is about what only the platform says to a runtime: headers that activators take from no caller.
    pub(crate) fn is_direct(&self) -> bool {
        let own = |name: &str| ["dormouse-", "x-forwarded-", "traceparent"].iter().any(|own| name.starts_with(own));
        self.direct || self.headers_sent.iter().any(|(name, _)| own(name))
    }

    pub(crate) fn request<'a>(&'a self, id: &'a str) -> Result<Request<'a>> {
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
        Ok(Request {
            host: HOST,
            method,
            path: self.path.as_deref().unwrap_or("/"),
            headers,
            body,
            chunks: self.chunks,
        })
    }

    pub(crate) fn check(&self, reply: &Reply, asked: Asked) -> Result<()> {
        let status = self.status.unwrap_or(200);
        ensure!(reply.status == status, "status {} is not {status}", reply.status);
        ensure!(reply.whole != self.broken, "broken off: {}", !reply.whole);
        let seen = |name: &&String| asked == Asked::Runtime || !OF_THE_HOP.contains(&name.as_str());
        for (name, expected) in self.headers.iter().filter(|(name, _)| seen(name)) {
            let expected = match expected {
                OneOrMany::One(one) => vec![one.as_str()],
                OneOrMany::Many(many) => many.iter().map(String::as_str).collect(),
            };
            ensure!(reply.all(name) == expected, "{name} is {:?}, not {expected:?}", reply.all(name));
        }
        for name in self.absent.iter().filter(seen) {
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
