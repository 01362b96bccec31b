//! The spans of a call: the whole of it as a server, and below that its parts in order.
//!
//! | span | from | to |
//! |---|---|---|
//! | `receive` | the head is read | a slot is asked for |
//! | `claim` | | there is an instance for it, with an address (cold calls only) |
//! | `start` | | the instance has opened its port (cold calls only) |
//! | `wait` | | a slot is given (calls that waited only) |
//! | `connect` | | the first byte leaves: a pooled connection was taken, or a new one made |
//! | `first_byte` | | the head of the response is there |
//! | `body` | | the end of the response |
//!
//! Names are those of OpenTelemetry's conventions for HTTP servers (stable) and for functions (`faas.*`, in development).

use crate::{
    clock::micros,
    trace::SpanId,
    trail::{Facts, Run},
};
use bytes::Bytes;
use dormouse_core::record::Outcome;
use dormouse_proto::otlp::{
    common::v1::{AnyValue, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{Span, Status, span::SpanKind, status::StatusCode},
};
use http::Method;
use std::time::Duration;

/// Who tells.
pub(super) fn resource(name: &str) -> Resource {
    let attributes = vec![
        text("service.name", "dormouse-activator"),
        text("service.version", env!("CARGO_PKG_VERSION")),
        text("service.instance.id", name),
    ];
    Resource { attributes, ..Resource::default() }
}

/// The spans of a call; none when it is not to be exported.
pub(super) fn of(facts: &Facts) -> Vec<Span> {
    let Some(own) = facts.trace.span else { return Vec::new() };
    let mut spans = vec![whole(facts, own)];
    if let Some(run) = &facts.run {
        spans.extend(parts(facts, run).map(|(name, from, to)| part(facts, own, name, (from, to))));
    }
    spans
}

fn whole(facts: &Facts, own: SpanId) -> Span {
    let method = known(&facts.method);
    let name = match &facts.func {
        Some(func) => format!("{} {}", method.unwrap_or("HTTP"), func.key),
        None => method.unwrap_or("HTTP").to_owned(),
    };
    let failed = has_failed(facts);
    let code = if failed { StatusCode::Error } else { StatusCode::Unset };
    let status = Status { code: code.into(), message: String::new() };
    Span {
        trace_id: Bytes::copy_from_slice(&facts.trace.trace.0.to_be_bytes()),
        span_id: id(own),
        parent_span_id: facts.trace.parent.map_or_else(Bytes::new, id),
        name,
        kind: SpanKind::Server.into(),
        start_time_unix_nano: wall(facts, facts.at),
        end_time_unix_nano: wall(facts, facts.ended),
        attributes: attributes(facts, failed),
        status: Some(status),
        flags: FLAGS,
        ..Span::default()
    }
}

/// Whether the span is an error. A caller's own mistake (4xx) is none, by the conventions.
fn has_failed(facts: &Facts) -> bool {
    let broke = facts.run.as_ref().is_some_and(|run| run.record.outcome != Outcome::Ok);
    facts.status == 0 || facts.status >= 500 || broke
}

/// The caller's flags: sampled, which is why there is a span at all.
const FLAGS: u32 = 1;

fn part(facts: &Facts, whole: SpanId, name: &str, (from, to): (Duration, Duration)) -> Span {
    Span {
        trace_id: Bytes::copy_from_slice(&facts.trace.trace.0.to_be_bytes()),
        span_id: id(SpanId::random()),
        parent_span_id: id(whole),
        name: name.into(),
        kind: SpanKind::Internal.into(),
        start_time_unix_nano: wall(facts, from),
        end_time_unix_nano: wall(facts, to),
        flags: FLAGS,
        ..Span::default()
    }
}

/// Name, begin and end of each part that there was.
fn parts(facts: &Facts, run: &Run) -> impl Iterator<Item = (&'static str, Duration, Duration)> {
    let record = &run.record;
    let claimed = run.arrived + Duration::from_micros(record.claim_us);
    let started = claimed + Duration::from_micros(record.start_us);
    let granted = started + Duration::from_micros(record.wait_us);
    let end = run.dispatched + Duration::from_micros(record.run_us);
    let answered = run.answered.map(|at| at.min(end));
    let list = [
        Some(("receive", facts.at, run.arrived)),
        Some(("claim", run.arrived, claimed)).filter(|_| record.claim_us > 0),
        Some(("start", claimed, started)).filter(|_| record.start_us > 0),
        Some(("wait", started, granted)).filter(|_| record.wait_us > 0),
        Some(("connect", granted, run.dispatched)),
        answered.map(|at| ("first_byte", run.dispatched, at)),
        answered.map(|at| ("body", at, end)),
    ];
    list.into_iter().flatten()
}

fn attributes(facts: &Facts, failed: bool) -> Vec<KeyValue> {
    let mut list = vec![
        text("http.request.method", known(&facts.method).unwrap_or("_OTHER")),
        text("url.scheme", "http"),
        text("url.path", &facts.path),
        text("network.protocol.version", &version(facts.version)),
        text("network.peer.address", &facts.client.ip().to_string()),
        number("network.peer.port", facts.client.port().into()),
        text("client.address", caller(facts).as_deref().unwrap_or(&facts.client.ip().to_string())),
        text("faas.trigger", "http"),
        text("faas.invocation_id", &facts.id.to_string()),
        flag("faas.coldstart", facts.run.as_ref().is_some_and(|r| r.record.cold)),
        text("dormouse.outcome", facts.outcome()),
    ];
    if known(&facts.method).is_none() {
        list.push(text("http.request.method_original", facts.method.as_str()));
    }
    if let Some(host) = &facts.host {
        let (name, port) = crate::check::split_port(host);
        list.push(text("server.address", name));
        list.extend(port.and_then(|p| p.parse().ok()).map(|p: u16| number("server.port", p.into())));
    }
    if facts.status != 0 {
        list.push(number("http.response.status_code", facts.status.into()));
    }
    list.extend(facts.reason.as_deref().map(|reason| text("dormouse.reason", reason)));
    if failed {
        let status = facts.status.to_string();
        let kind = if facts.status < 500 { facts.outcome() } else { &status };
        list.push(text("error.type", facts.reason.as_deref().unwrap_or(kind)));
    }
    if let Some(func) = &facts.func {
        list.push(text("faas.invoked_name", &func.key.name));
        list.push(text("k8s.namespace.name", &func.key.namespace));
    }
    if let Some(run) = &facts.run {
        list.push(text("faas.version", &run.subject.revision));
        list.push(number("http.request.body.size", run.record.request_bytes));
        list.push(number("http.response.body.size", run.record.response_bytes));
        list.push(text("dormouse.instance.address", &run.instance.to_string()));
    }
    list
}

/// The caller's own address, as the first trusted proxy knew it.
fn caller(facts: &Facts) -> Option<String> {
    let first = facts.forwarded_for.as_deref()?.split(',').next()?.trim();
    first.parse::<std::net::IpAddr>().ok().map(|ip| ip.to_string())
}

/// A method by name if it is one of those that everybody knows: names of spans come from a closed set.
fn known(method: &Method) -> Option<&str> {
    let all = [
        Method::GET,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::HEAD,
        Method::OPTIONS,
        Method::PATCH,
        Method::TRACE,
        Method::CONNECT,
    ];
    all.contains(method).then(|| method.as_str())
}

fn version(version: http::Version) -> String {
    let text = format!("{version:?}");
    let number = text.trim_start_matches("HTTP/");
    // HTTP/2 has no minor version, by the conventions.
    number.strip_suffix(".0").filter(|major| *major != "1").unwrap_or(number).to_owned()
}

/// Nanoseconds since 1970 at an instant of the process's clock.
fn wall(facts: &Facts, at: Duration) -> u64 {
    let since = i64::try_from(micros(at.saturating_sub(facts.at))).unwrap_or(i64::MAX);
    u64::try_from(facts.at_us.saturating_add(since)).unwrap_or(0).saturating_mul(1_000)
}

fn id(span: SpanId) -> Bytes {
    Bytes::copy_from_slice(&span.0.to_be_bytes())
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

fn number(key: &str, value: u64) -> KeyValue {
    attribute(key, Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)))
}

fn flag(key: &str, value: bool) -> KeyValue {
    attribute(key, Value::BoolValue(value))
}
