//! A client of the usage API.

use crate::client::{Answer, Target};
use anyhow::{Context, Result};
use http::header::{AUTHORIZATION, HeaderValue};
use serde_json::Value;
use std::net::SocketAddr;

/// The usage API of one installation.
#[derive(Clone, Debug)]
pub struct Usage {
    target: Target,
    token: Option<String>,
}

impl Usage {
    /// At an address, with the shared token where there is one.
    #[must_use]
    pub fn at(addr: SocketAddr, token: Option<String>) -> Self {
        Self { target: Target::new(addr, "usage", "/"), token }
    }

    /// The same, asked with another token or none.
    #[must_use]
    pub fn with(&self, token: Option<&str>) -> Self {
        Self { target: self.target.clone(), token: token.map(str::to_owned) }
    }

    /// Where it is, as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.target.addr)
    }

    /// One answer, whatever it says.
    ///
    /// # Errors
    /// When there is none.
    pub async fn ask(&self, path: &str) -> Result<Answer> {
        let mut request = self.target.at(path).get(0);
        if let Some(token) = &self.token {
            request.headers_mut().insert(AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {token}"))?);
        }
        self.target.send(request).await.with_context(|| format!("GET {path}"))
    }

    /// One answer to a body of JSON that is put somewhere.
    ///
    /// # Errors
    /// When there is none.
    pub async fn put(&self, path: &str, body: &Value) -> Result<Answer> {
        let mut request = self.target.at(path).post(0, serde_json::to_vec(body)?);
        *request.method_mut() = http::Method::PUT;
        request.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(token) = &self.token {
            request.headers_mut().insert(AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {token}"))?);
        }
        self.target.send(request).await.with_context(|| format!("PUT {path}"))
    }

    /// One good answer.
    ///
    /// # Errors
    /// When it is not 200 or no JSON.
    pub async fn get(&self, path: &str) -> Result<Value> {
        let answer = self.ask(path).await?;
        anyhow::ensure!(answer.status == 200, "GET {path}: {answer}");
        serde_json::from_slice(&answer.body).with_context(|| format!("GET {path}: {answer}"))
    }

    /// Every record that a query (without cursor) matches, page by page.
    ///
    /// # Errors
    /// As [`Usage::get`], or when a cursor does not move on.
    pub async fn records(&self, query: &str) -> Result<Vec<Value>> {
        let (mut records, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = self.get(&format!("/v1/records?{query}&limit=1000{cursor}")).await?;
            let items = page.get("rows").and_then(Value::as_array).context("no rows in the answer")?;
            records.extend(items.iter().cloned());
            let Some(next) = page.get("next_cursor").and_then(Value::as_str) else { return Ok(records) };
            let next = format!("&cursor={next}");
            anyhow::ensure!(next != cursor, "the cursor does not move on");
            cursor = next;
        }
    }

    /// Request ids of every record that a query matches.
    ///
    /// # Errors
    /// As [`Usage::records`].
    pub async fn request_ids(&self, query: &str) -> Result<Vec<String>> {
        let id = |r: &Value| r.get("request_id").and_then(Value::as_str).map(str::to_owned);
        self.records(query).await?.iter().map(|r| id(r).with_context(|| format!("no request id: {r}"))).collect()
    }
}

/// A period, as parameters, that holds everything that a suite does: whole hours from three before now to two after.
#[must_use]
pub fn lately() -> String {
    let now = jiff::Timestamp::now();
    let hours = jiff::SignedDuration::from_hours;
    let at = |t: jiff::Timestamp| t.strftime("%Y-%m-%dT%H:00:00Z").to_string();
    format!("from={}&to={}", at(now - hours(3)), at(now + hours(2)))
}
