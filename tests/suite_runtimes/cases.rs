//! The table of `cases.yaml`, run against each language.

use crate::runtime::{Kind, Runtime, load_files};
use crate::table::{Ask, Asked, Case, cases};
use anyhow::{Context, Result, ensure};
use dormouse_tests::wait::until;
use futures::{StreamExt, stream};
use serde_json::json;

/// Processes at once: each waits most of its time.
const AT_ONCE: usize = 4;

async fn run(case: &Case, kind: Kind, code: &str) -> Result<()> {
    let runtime = Runtime::park(kind).await?;
    let more = json!({"env": case.env, "concurrency": case.concurrency.unwrap_or(1)});
    let reply = runtime.load(&load_files(&case.code_files(kind.runtime(), code), more)).await?;
    ensure!(reply.status == 200, "not loaded: {}", reply.text());
    let mut client = runtime.client().await?;
    for (i, ask) in case.asks.iter().enumerate() {
        let id = format!("id-{i}");
        let reply = client.call(&ask.request(&id)?).await.with_context(|| format!("ask {i}"))?;
        ask.check(&reply, Asked::Runtime).with_context(|| format!("ask {i}: {reply:?}\n{}", reply.text()))?;
        check_log(ask, &runtime, &id).await.with_context(|| format!("the log of ask {i}"))?;
        if ask.broken {
            client = runtime.client().await?;
        }
    }
    Ok(())
}

/// What the log says of the call. Its last words may be written after the answer.
async fn check_log(ask: &Ask, runtime: &Runtime, id: &str) -> Result<()> {
    let own = if runtime.kind == Kind::Nodejs { &ask.logs_nodejs } else { &ask.logs_python };
    let Some(expected) = own.as_ref().or(ask.logs.as_ref()) else { return Ok(()) };
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

#[tokio::test(flavor = "multi_thread")]
async fn handlers_get_and_give_what_the_contract_says() {
    let cases = cases().expect("the table");
    let runs = cases.iter().flat_map(|case| {
        let codes = Kind::ALL.into_iter().filter_map(|kind| Some((kind, case.code(kind.runtime())?)));
        codes.map(async |(kind, code)| {
            let told = || format!("{:?} by {kind:?}", case.name);
            run(case, kind, code).await.with_context(told)
        })
    });
    let results: Vec<Result<()>> = stream::iter(runs).buffer_unordered(AT_ONCE).collect().await;
    let failed: Vec<String> = results.into_iter().filter_map(Result::err).map(|e| format!("{e:?}")).collect();
    assert!(failed.is_empty(), "{} failed:\n\n{}", failed.len(), failed.join("\n\n"));
}
