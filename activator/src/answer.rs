//! The one place where errors become responses.

use crate::{body::OutBody, grpc, wire::InCall};
use bytes::Bytes;
use dormouse_core::RequestId;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use std::borrow::Cow;

/// Header that names the call.
pub(crate) const REQUEST_ID: &str = "dormouse-request-id";
/// Header that says by a code why a call was refused or broke off.
pub(crate) const REASON: &str = "dormouse-reason";

/// Seconds until a caller may try again, told with every refusal that passes with time.
const RETRY_AFTER_SECONDS: u32 = 1;

/// Why a call gets no answer from its function.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub(crate) struct Refusal {
    /// Machine-readable reason, CamelCase.
    pub(crate) code: Cow<'static, str>,
    pub(crate) status: StatusCode,
    /// For people; names nothing from inside the cluster.
    pub(crate) message: Cow<'static, str>,
    retry: bool,
    /// The connection cannot be used any more.
    close: bool,
}

impl Refusal {
    fn new(code: &'static str, status: StatusCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code: code.into(), status, message: message.into(), retry: false, close: false }
    }

    fn retry(mut self) -> Self {
        self.retry = true;
        self
    }

    fn close(mut self) -> Self {
        self.close = true;
        self
    }

    pub(crate) fn bad_request(why: &'static str) -> Self {
        Self::new("BadRequest", StatusCode::BAD_REQUEST, why).close()
    }

    pub(crate) fn coding() -> Self {
        let why = "the only transfer coding understood is chunked";
        Self::new("UnsupportedTransferCoding", StatusCode::NOT_IMPLEMENTED, why).close()
    }

    pub(crate) fn header_lines() -> Self {
        let why = "the request head has too many lines";
        Self::new("HeadersTooLarge", StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, why)
    }

    /// The request goes round in circles: a function that calls itself, or proxies that point at each other.
    pub(crate) fn loop_detected() -> Self {
        let why = "the request has passed through here too often already, by its Via header";
        Self::new("LoopDetected", StatusCode::LOOP_DETECTED, why)
    }

    pub(crate) fn unknown(asked: String) -> Self {
        Self::new("UnknownFunction", StatusCode::NOT_FOUND, format!("no function answers {asked}"))
    }

    /// No route was ever heard: it is not known which functions exist.
    pub(crate) fn not_ready() -> Self {
        Self::new("NotReady", StatusCode::SERVICE_UNAVAILABLE, "starting: no routes yet").retry()
    }

    pub(crate) fn function_queue_full() -> Self {
        let why = "as many calls as the function's queue.maxCalls allows wait already";
        Self::new("QueueFull", StatusCode::TOO_MANY_REQUESTS, why).retry()
    }

    pub(crate) fn platform_queue_full() -> Self {
        Self::new("QueueFull", StatusCode::SERVICE_UNAVAILABLE, "too many calls wait already").retry()
    }

    /// The longest wait is over; `why` is the controller's code when it knows one.
    pub(crate) fn wait_timeout(why: &str) -> Self {
        let message = "no instance was free in time";
        let mut refusal = Self::new("WaitTimeout", StatusCode::SERVICE_UNAVAILABLE, message).retry();
        if !why.is_empty() {
            refusal.code = Cow::Owned(why.to_owned());
        }
        refusal
    }

    /// The longest wait is over, and what kept the call waiting was the function's own limit on all its calls.
    pub(crate) fn reserved() -> Self {
        let why = "as many calls as the function's reservedConcurrency allows ran all the time";
        Self::new("ReservedConcurrency", StatusCode::TOO_MANY_REQUESTS, why).retry()
    }

    /// Whoever pays for the function has spent all that he may in this month. Waiting does not help.
    pub(crate) fn budget() -> Self {
        let why = "the budget of the tenant that pays for the function is used up for this month";
        Self::new("BudgetExceeded", StatusCode::TOO_MANY_REQUESTS, why)
    }

    /// The longest wait is over, and nobody has said meanwhile what may still be spent of a budget.
    pub(crate) fn budget_unknown() -> Self {
        let why = "what is left of the budget of the tenant that pays for the function was not known in time";
        Self::new("BudgetUnknown", StatusCode::SERVICE_UNAVAILABLE, why).retry()
    }

    /// Another activator took the call over and was lost before it answered.
    pub(crate) fn peer_lost() -> Self {
        let why = "the activator that ran the call was lost before it answered; the call was not repeated";
        Self::new("PeerLost", StatusCode::BAD_GATEWAY, why)
    }

    /// Whoever calls the port of activators is none.
    pub(crate) fn no_peer() -> Self {
        let why = "this port is for activators";
        Self::new("Unauthorized", StatusCode::UNAUTHORIZED, why).close()
    }

    /// No instance can start; the controller says why.
    pub(crate) fn failed(code: &str, status: u32) -> Self {
        let status = if status == 502 { StatusCode::BAD_GATEWAY } else { StatusCode::SERVICE_UNAVAILABLE };
        let message = "the function cannot start; its status says more";
        Self { code: Cow::Owned(code.to_owned()), ..Self::new("", status, message) }.retry()
    }

    pub(crate) fn deleted() -> Self {
        Self::new("FunctionDeleted", StatusCode::SERVICE_UNAVAILABLE, "the function is being deleted")
    }

    pub(crate) fn instance_died() -> Self {
        let why = "the instance broke off before it answered; the call was not repeated";
        Self::new("InstanceDied", StatusCode::BAD_GATEWAY, why)
    }

    pub(crate) fn timeout() -> Self {
        Self::new("Timeout", StatusCode::GATEWAY_TIMEOUT, "the function's timeoutSeconds is over")
    }

    /// The client sends its body so slowly that the call's time is over.
    pub(crate) fn slow_body() -> Self {
        let why = "the request body did not arrive within the function's timeoutSeconds";
        Self::new("RequestTimeout", StatusCode::REQUEST_TIMEOUT, why).close()
    }

    /// The client sends its request's head so slowly that the time for it is over.
    pub(crate) fn slow_head() -> Self {
        Self::new("RequestTimeout", StatusCode::REQUEST_TIMEOUT, "the request head did not arrive in time").close()
    }

    pub(crate) fn spool_full() -> Self {
        let why = "calls cannot be recorded at the moment";
        Self::new("SpoolFull", StatusCode::SERVICE_UNAVAILABLE, why).retry()
    }

    /// The process holds as much as it may.
    pub(crate) fn memory() -> Self {
        let why = "too much is held in memory at the moment";
        Self::new("Memory", StatusCode::SERVICE_UNAVAILABLE, why).retry()
    }

    pub(crate) fn shutting_down() -> Self {
        Self::new("ShuttingDown", StatusCode::SERVICE_UNAVAILABLE, "shutting down").retry().close()
    }

    fn json(&self, id: &str) -> String {
        serde_json::json!({ "error": self.code, "message": self.message, "request_id": id }).to_string() + "\n"
    }

    /// The same as [`Refusal::response`] in bytes, for a connection that ends with it.
    pub(crate) fn raw(&self, id: RequestId) -> String {
        let body = self.json(&id.to_string());
        format!(
            "HTTP/1.1 {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{REASON}: {}\r\n{REQUEST_ID}: {id}\r\n\
             connection: close\r\n\r\n{body}",
            self.status,
            body.len(),
            self.code
        )
    }

    /// The response that tells it, in the words that the caller understands.
    pub(crate) fn response(&self, id: RequestId, in_call: InCall, asker: Asker) -> Response<OutBody> {
        let text = if asker.grpc { String::new() } else { self.json(&id.to_string()) };
        let mut response = Response::new(OutBody::whole(Bytes::from(text), in_call));
        *response.headers_mut() = self.head(id, asker);
        if !asker.grpc {
            *response.status_mut() = self.status;
        }
        response
    }

    /// Its headers.
    fn head(&self, id: RequestId, asker: Asker) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if asker.grpc {
            grpc::trailers_only(&mut headers, self.status, &self.message);
        } else {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        // Codes and ids are ASCII; a code from the wire that is none is left out.
        if let Ok(code) = HeaderValue::from_str(&self.code) {
            headers.insert(REASON, code);
        }
        if let Ok(id) = HeaderValue::from_str(&id.to_string()) {
            headers.insert(REQUEST_ID, id);
        }
        if self.retry {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
        }
        if self.close && !asker.http2 {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        headers
    }
}

/// How a caller wants to be answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker {
    /// Its call is one of gRPC.
    pub(crate) grpc: bool,
    /// It speaks HTTP/2: a stream ends, not the connection.
    pub(crate) http2: bool,
}

/// Beginning of the answers that hyper gives on its own; ours and those of functions have other headers first.
const OF_PARSER: &str = "\r\nconnection: close\r\ncontent-length: 0\r\ndate: ";

/// What hyper means by an answer of its own; `None` for anything else.
pub(crate) fn of_parser(data: &[u8]) -> Option<Refusal> {
    let text = std::str::from_utf8(data).ok()?.strip_prefix("HTTP/1.1 ")?;
    let (status, _) = text.split_once(OF_PARSER)?;
    match status.get(..3)? {
        "400" => Some(Refusal::bad_request("the request is not HTTP/1.1")),
        "414" => {
            Some(Refusal::new("HeadersTooLarge", StatusCode::URI_TOO_LONG, "the request target is too long").close())
        }
        "431" => {
            let why = "the request head has too many or too long lines";
            Some(Refusal::new("HeadersTooLarge", StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, why).close())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Metrics, REASONS};
    use std::collections::BTreeSet;

    /// Every refusal there is, by the name of its constructor. Codes of the controller are its own: see the last three.
    fn all() -> Vec<(&'static str, Refusal, &'static str)> {
        vec![
            ("bad_request", Refusal::bad_request("x"), "BadRequest"),
            ("coding", Refusal::coding(), "UnsupportedTransferCoding"),
            ("header_lines", Refusal::header_lines(), "HeadersTooLarge"),
            ("loop_detected", Refusal::loop_detected(), "LoopDetected"),
            ("unknown", Refusal::unknown("x".into()), "UnknownFunction"),
            ("not_ready", Refusal::not_ready(), "NotReady"),
            ("function_queue_full", Refusal::function_queue_full(), "QueueFull"),
            ("platform_queue_full", Refusal::platform_queue_full(), "QueueFull"),
            ("reserved", Refusal::reserved(), "ReservedConcurrency"),
            ("budget", Refusal::budget(), "BudgetExceeded"),
            ("budget_unknown", Refusal::budget_unknown(), "BudgetUnknown"),
            ("peer_lost", Refusal::peer_lost(), "PeerLost"),
            ("no_peer", Refusal::no_peer(), "Unauthorized"),
            ("deleted", Refusal::deleted(), "FunctionDeleted"),
            ("instance_died", Refusal::instance_died(), "InstanceDied"),
            ("timeout", Refusal::timeout(), "Timeout"),
            ("slow_body", Refusal::slow_body(), "RequestTimeout"),
            ("slow_head", Refusal::slow_head(), "RequestTimeout"),
            ("spool_full", Refusal::spool_full(), "SpoolFull"),
            ("memory", Refusal::memory(), "Memory"),
            ("shutting_down", Refusal::shutting_down(), "ShuttingDown"),
            ("wait_timeout", Refusal::wait_timeout(""), "WaitTimeout"),
            ("wait_timeout", Refusal::wait_timeout("Unschedulable"), "Failed"),
            ("failed", Refusal::failed("CrashLoop", 502), "Failed"),
        ]
    }

    /// This file up to here.
    fn source() -> &'static str {
        include_str!("answer.rs").split("#[cfg(test)]").next().unwrap()
    }

    #[test]
    fn every_refusal_is_told_and_counted_by_its_code() {
        for (name, refusal, reason) in all() {
            let metrics = Metrics::default();
            metrics.refused(None, &refusal.code);
            let line = format!("dormouse_queue_rejected_total{{namespace=\"\",function=\"\",reason=\"{reason}\"}} 1");
            assert!(metrics.text().contains(&line), "{name}: {line} is not in {}", metrics.text());
            for asker in [Asker { grpc: false, http2: false }, Asker { grpc: true, http2: true }] {
                let head = refusal.head(RequestId { activator: 1, epoch: 1, call: 1 }, asker);
                assert_eq!(head[REASON], *refusal.code, "{name}");
            }
            assert!(refusal.status.is_client_error() || refusal.status.is_server_error(), "{name}");
            let raw = refusal.raw(RequestId { activator: 1, epoch: 1, call: 1 });
            assert!(raw.contains(&format!("\r\n{REASON}: {}\r\n", refusal.code)), "{name}: {raw}");
        }
    }

    #[test]
    fn no_constructor_and_no_code_is_left_out() {
        let makes =
            |line: &&str| line.contains("-> Self {") && !line.contains("(mut self)") && !line.contains("fn new(");
        let named: BTreeSet<&str> = source()
            .lines()
            .filter(makes)
            .filter_map(|line| line.trim().trim_start_matches("pub(crate) ").strip_prefix("fn ")?.split('(').next())
            .collect();
        assert_eq!(named, all().iter().map(|(name, ..)| *name).collect(), "each constructor is in the list above");
        let codes =
            source().split("new(\"").skip(1).filter_map(|rest| rest.split('"').next()).filter(|c| !c.is_empty());
        let codes: BTreeSet<&str> = codes.chain(["Connections", "Failed"]).collect();
        assert_eq!(codes, REASONS.into_iter().collect(), "each code has its label, and each label its code");
    }
}
