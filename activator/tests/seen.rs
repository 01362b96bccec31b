//! What is seen from outside: metrics, trace context, the access log, exported traces.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod common;

use common::{
    Controller, House, Origin, Running,
    client::{get, post},
    free_addr, function, instance, ready, until, within,
};
use dormouse_activator::AccessLog;
use dormouse_proto::otlp::{
    collector::trace::v1::{
        ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value,
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use dormouse_proto::v1::{
    Failure, Function,
    InstanceState::{Ready, Starting},
};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::SeqCst},
};
use tonic::{Code, Request, Response, Status, transport::server::TcpIncoming};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn with(request: &str, headers: &str) -> String {
    request.replacen("\r\n\r\n", &format!("\r\n{headers}\r\n\r\n"), 1)
}

/// The values of a header in a head as the origin saw it.
fn values<'a>(head: &'a str, name: &str) -> Vec<&'a str> {
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    lines.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_and_a_warm_call_are_counted_and_go_with_their_function() {
    let house = House::new().await;
    let m = |name: &str, more: &str| {
        let labels = format!("{{namespace=\"ns\",function=\"hello\"{more}}}");
        house.activator.metric(&format!("dormouse_{name}{labels}"))
    };
    house.publish(function("hello")).await;
    assert_eq!((m("queue_depth", ""), m("request_duration_seconds_count", "")), (Some(0.0), None), "idle is cheap");
    let addr = free_addr();
    let mut client = house.activator.client().await;
    client.send(get("/")).await;
    until("it waits", || m("queue_depth", "").filter(|n| *n == 1.0)).await;
    let head = "GET / HTTP/1.1\r\nHost: hello.ns.example.com\r\n\r\n".len() as f64;
    let held = m("queue_bytes", "").unwrap();
    assert!(held >= head, "{held} bytes of at least {head}");
    assert_eq!(house.activator.metric("dormouse_waiting_calls"), Some(1.0));
    assert_eq!(house.activator.metric("dormouse_waiting_bytes"), Some(held));
    let starting = instance("i1", addr, Starting, 1);
    house.publish(Function { instances: vec![starting], ..function("hello") }).await;
    let _origin = Origin::start_at(addr, common::origin::echo).await;
    assert_eq!(client.answer().await.status, 200);
    client.send(post("/", "ping")).await;
    assert_eq!(client.answer().await.text(), "ping");
    for (name, more, value) in [
        ("requests_total", ",code=\"2xx\"", 2.0),
        ("request_duration_seconds_count", "", 2.0),
        ("queue_wait_seconds_count", "", 2.0),
        ("queue_bytes", "", 0.0),
        ("queue_depth", "", 0.0),
        ("cold_starts_total", "", 1.0),
        ("cold_start_duration_seconds_count", ",phase=\"start\"", 1.0),
        ("cold_start_duration_seconds_count", ",phase=\"connect\"", 1.0),
        ("cold_start_duration_seconds_count", ",phase=\"first_byte\"", 1.0),
    ] {
        until(&format!("{name} {value}"), || m(name, more).filter(|v| *v == value)).await;
    }
    until("the slot is free", || m("inflight_requests", "").filter(|v| *v == 0.0)).await;
    house.controller.remove("uid-hello");
    until("the series are gone", || (!house.activator.metrics().contains("hello")).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_bounded_thing_has_its_level_and_its_limit() {
    let house = House::with(|c| {
        c.limits.connections = 7;
        c.limits.waiting = 5;
        c.limits.waiting_bytes = 10_000;
        c.spool_max_bytes = 1 << 20;
    })
    .await;
    let m = |name: &str| house.activator.metric(&format!("dormouse_{name}"));
    let _client = house.activator.client().await;
    until("the connection is counted", || m("connections").filter(|n| *n == 1.0)).await;
    for (name, value) in [
        ("connections_limit", 7.0),
        ("connections_per_address_limit", 20_000.0),
        ("waiting_calls_limit", 5.0),
        ("waiting_bytes_limit", 10_000.0),
        ("spool_bytes_limit", 1_048_576.0),
        ("http2_streams_limit", 100.0),
        ("http2_streams", 0.0),
        ("metering_lag_seconds", 0.0),
        ("functions", 0.0),
    ] {
        assert_eq!(m(name), Some(value), "{name}");
    }
    let build = format!("build_info{{program=\"dormouse-activator\",version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    assert_eq!(m(&build), Some(1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_and_breakages_are_counted_by_reason_and_kind() {
    let house = House::new().await;
    let m = |name: &str, label: &str| {
        house.activator.metric(&format!("dormouse_{name}{{namespace=\"ns\",function=\"hello\",{label}}}"))
    };
    let failure = Some(Failure { code: "CrashLoop".into(), status: 502 });
    house.publish(Function { failure, ..function("hello") }).await;
    assert_eq!(house.activator.call(&get("/")).await.reason(), Some("CrashLoop"));
    assert_eq!(m("queue_rejected_total", "reason=\"Failed\""), Some(1.0));
    house.publish(Function { queue_max_calls: 0, ..function("hello") }).await;
    assert_eq!(house.activator.call(&get("/")).await.reason(), Some("QueueFull"));
    assert_eq!(m("queue_rejected_total", "reason=\"QueueFull\""), Some(1.0));
    let origin = Origin::start(|mut line| async move {
        line.head().await;
    })
    .await;
    house.publish(ready("hello", origin.addr, 1)).await;
    assert_eq!(house.activator.call(&get("/")).await.reason(), Some("InstanceDied"));
    assert_eq!(m("proxy_errors_total", "kind=\"died\""), Some(1.0));
    let half = Origin::start(|mut line| async move {
        line.head().await;
        line.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await;
    })
    .await;
    house.publish(Function { instances: vec![instance("i2", half.addr, Ready, 1)], ..function("hello") }).await;
    assert!(!house.activator.call(&get("/")).await.whole);
    assert_eq!(m("proxy_errors_total", "kind=\"response_broke\""), Some(1.0));
    let nowhere = vec![instance("i3", free_addr(), Ready, 1)];
    house.publish(Function { instances: nowhere, queue_max_wait_ms: 200, ..function("hello") }).await;
    assert_eq!(house.activator.call(&get("/")).await.reason(), Some("WaitTimeout"));
    assert_eq!(m("proxy_errors_total", "kind=\"connect\""), Some(1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lag_of_metering_grows_while_the_ledger_is_away() {
    let house = House::new().await;
    let lag = || house.activator.metric("dormouse_metering_lag_seconds").unwrap();
    let origin = Origin::echo().await;
    house.publish(ready("hello", origin.addr, 1)).await;
    house.controller.deaf(true);
    assert_eq!(house.activator.call(&get("/")).await.status, 200);
    until("it is tried", || (house.controller.unheard() > 0).then_some(())).await;
    let first = lag();
    assert!(first > 0.0);
    until("it grows", || (lag() > first).then_some(())).await;
    house.controller.deaf(false);
    house.records(1).await;
    until("it is over", || (lag() == 0.0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trace_context_passes_or_is_begun() {
    let house = House::new().await;
    let origin = Origin::echo().await;
    house.publish(ready("hello", origin.addr, 1)).await;
    let state = "tracestate: b=2\r\ntracestate: a=1,c=3";
    house.activator.call(&with(&get("/"), &format!("traceparent: {PARENT}\r\n{state}"))).await;
    house.activator.call(&with(&get("/"), &format!("traceparent: {}\r\n{state}", PARENT.to_uppercase()))).await;
    house.activator.call(&get("/")).await;
    let seen = origin.seen.requests.lock().clone();
    assert_eq!(values(&seen[0], "traceparent"), [PARENT]);
    assert_eq!(values(&seen[0], "tracestate"), ["b=2", "a=1,c=3"]);
    for head in &seen[1..] {
        let begun = values(head, "traceparent");
        assert!(begun.len() == 1 && begun[0].len() == 55 && begun[0].ends_with("-01"), "{head}");
        assert!(!begun[0].contains("4bf92f35"), "{head}");
        assert_eq!(values(head, "tracestate"), [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_access_log_has_a_line_for_each_call_and_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    let controller = Controller::start().await;
    let spool = folder.path().join("spool");
    let activator = Running::start(&controller.url(), &spool, |c| {
        c.access_log = Some(AccessLog::File(file.clone()));
        c.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
    })
    .await;
    until("routes are known", || controller.has_reports().then_some(())).await;
    let origin = Origin::echo().await;
    let version = controller.set(ready("hello", origin.addr, 1));
    controller.applied(version).await;
    let secrets = "Authorization: Bearer s3cret\r\nCookie: id=s3cret\r\nX-Forwarded-For: 6.6.6.6, 7.7.7.7";
    let request = with(&post("/path?token=s3cret", "ping"), &format!("{secrets}\r\ntraceparent: {PARENT}"));
    let id = activator.call(&request).await.headers["dormouse-request-id"].clone();
    assert_eq!(activator.call("GET /fn/ns/nobody HTTP/1.1\r\nHost: x\r\n\r\n").await.status, 404);
    assert_eq!(activator.call("GET s3cret\r\n\r\n").await.status, 400);
    let written = activator.metric("dormouse_access_log_lines_total");
    assert!(written.is_some());
    activator.stop().await;
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(!text.contains("s3cret"), "{text}");
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3, "{text}");
    let told = |line: &serde_json::Value, names: &[&str]| -> Vec<String> {
        names.iter().map(|name| line[*name].to_string().trim_matches('"').to_owned()).collect()
    };
    let names = ["request_id", "trace_id", "namespace", "function", "method", "path", "status", "outcome"];
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    assert_eq!(told(&lines[0], &names), [&id, trace, "ns", "hello", "POST", "/path", "200", "ok"]);
    let names = ["request_bytes", "response_bytes", "forwarded_for", "instance", "revision", "cold"];
    let addr = origin.addr.to_string();
    assert_eq!(told(&lines[0], &names), ["4", "4", "6.6.6.6, 7.7.7.7", &addr, "r1", "false"]);
    let names = ["status", "outcome", "reason", "function"];
    assert_eq!(told(&lines[1], &names), ["404", "refused", "UnknownFunction", "null"]);
    assert_eq!(told(&lines[2], &names), ["400", "refused", "BadRequest", "null"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_whose_clients_left_have_their_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    let house = House::with(|c| c.access_log = Some(AccessLog::File(file.clone()))).await;
    house.publish(function("waits")).await;
    let go = Arc::new(tokio::sync::Notify::new());
    let gate = go.clone();
    let origin = Origin::start(move |mut line| {
        let go = gate.clone();
        async move {
            line.request().await;
            line.begin();
            go.notified().await;
            line.answer(b"late").await;
        }
    })
    .await;
    house.publish(ready("hello", origin.addr, 1)).await;
    let (mut waits, mut runs) = (house.activator.client().await, house.activator.client().await);
    waits.send(get("/").replace("hello", "waits")).await;
    until("one waits", || (house.controller.demand("uid-waits") == Some((1, 0))).then_some(())).await;
    drop(waits);
    until("it is dropped", || (house.controller.demand("uid-waits") == Some((0, 0))).then_some(())).await;
    runs.send(get("/")).await;
    until("one runs", || (origin.seen.running.load(SeqCst) == 1).then_some(())).await;
    drop(runs);
    go.notify_one();
    house.records(1).await;
    house.activator.stop().await;
    let text = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> =
        lines.iter().map(|l| (l["function"].as_str(), l["outcome"].as_str(), l["status"].as_u64())).collect();
    assert_eq!(told, [(Some("waits"), Some("client_gone"), Some(0)), (Some("hello"), Some("client_gone"), Some(0)),]);
}

/// A collector that keeps what it is told.
#[derive(Clone, Default)]
struct Collector {
    spans: Arc<Mutex<Vec<Span>>>,
    /// What is answered instead, once for each.
    failures: Arc<Mutex<Vec<Code>>>,
    resources: Arc<Mutex<Vec<BTreeMap<String, String>>>>,
}

fn texts(list: &[dormouse_proto::otlp::common::v1::KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::BoolValue(flag) => flag.to_string(),
        other => format!("{other:?}"),
    };
    list.iter().map(|kv| (kv.key.clone(), text(kv.value.as_ref().unwrap().value.as_ref().unwrap()))).collect()
}

impl Collector {
    async fn start(&self) -> String {
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let addr = incoming.local_addr().unwrap();
        let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(incoming));
        format!("http://{addr}")
    }

    async fn spans(&self, whole: usize) -> Vec<Span> {
        let roots = || self.spans.lock().iter().filter(|s| s.kind() == SpanKind::Server).count();
        until(&format!("{whole} traces"), || (roots() >= whole).then_some(())).await;
        self.spans.lock().clone()
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        if let Some(code) = self.failures.lock().pop() {
            return Err(Status::new(code, "not now"));
        }
        for of_resource in request.into_inner().resource_spans {
            self.resources.lock().push(texts(&of_resource.resource.unwrap().attributes));
            self.spans.lock().extend(of_resource.scope_spans.into_iter().flat_map(|s| s.spans));
        }
        let partial_success = Some(ExportTracePartialSuccess::default());
        Ok(Response::new(ExportTraceServiceResponse { partial_success }))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "one trace, told in order")]
async fn a_sampled_call_is_one_trace_with_its_parts_in_order() {
    let collector = Collector::default();
    let endpoint = collector.start().await;
    let house = House::with(|c| {
        c.name = "pod-1".into();
        c.otlp_endpoint = Some(endpoint);
        c.trace_ratio = 0.0;
    })
    .await;
    house.publish(function("hello")).await;
    let addr = free_addr();
    let mut client = house.activator.client().await;
    client.send(with(&post("/path?q=1", "ping"), &format!("traceparent: {PARENT}\r\ntracestate: a=1"))).await;
    until("it waits", || (house.controller.demand("uid-hello") == Some((1, 0))).then_some(())).await;
    let starting = instance("i1", addr, Starting, 1);
    house.publish(Function { instances: vec![starting], ..function("hello") }).await;
    let origin = Origin::start_at(addr, common::origin::echo).await;
    let answer = client.answer().await;
    // Neither of these is exported: the ratio is 0, and the caller said no.
    client.send(get("/")).await;
    assert_eq!(client.answer().await.status, 200);
    client.send(with(&get("/"), &format!("traceparent: {}", PARENT.replace("-01", "-00")))).await;
    assert_eq!(client.answer().await.status, 200);
    let spans = collector.spans(1).await;
    let root = &spans[0];
    assert_eq!((root.name.as_str(), root.kind()), ("POST ns/hello", SpanKind::Server));
    assert_eq!(hex(&root.trace_id), "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(hex(&root.parent_span_id), "00f067aa0ba902b7");
    let parent = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{}-01", hex(&root.span_id));
    let seen = origin.seen.requests.lock().clone();
    assert_eq!(values(&seen[0], "traceparent"), [parent.as_str()], "the function's parent is our span");
    assert_eq!(values(&seen[0], "tracestate"), ["a=1"]);
    assert!(values(&seen[1], "traceparent")[0].ends_with("-00"));
    assert_eq!(values(&seen[2], "traceparent"), [PARENT.replace("-01", "-00")]);

    let names: Vec<&str> = spans[1..].iter().map(|s| s.name.as_str()).filter(|n| *n != "wait").collect();
    assert_eq!(names, ["receive", "claim", "start", "connect", "first_byte", "body"]);
    let mut at = root.start_time_unix_nano;
    for part in &spans[1..] {
        assert_eq!((&part.trace_id, &part.parent_span_id), (&root.trace_id, &root.span_id), "{}", part.name);
        assert_eq!((part.kind(), part.span_id.len()), (SpanKind::Internal, 8));
        assert_eq!(
            part.start_time_unix_nano / 10_000,
            at / 10_000,
            "{} begins where the one before it ends",
            part.name
        );
        assert!(part.end_time_unix_nano >= part.start_time_unix_nano);
        at = part.end_time_unix_nano;
    }
    assert!(at <= root.end_time_unix_nano + 10_000);
    let attributes = texts(&root.attributes);
    for (name, value) in [
        ("http.request.method", "POST"),
        ("http.response.status_code", "200"),
        ("url.path", "/path"),
        ("url.scheme", "http"),
        ("network.protocol.version", "1.1"),
        ("server.address", "hello.ns.example.com"),
        ("client.address", "127.0.0.1"),
        ("http.request.body.size", "4"),
        ("http.response.body.size", "4"),
        ("faas.trigger", "http"),
        ("faas.coldstart", "true"),
        ("faas.invocation_id", &answer.headers["dormouse-request-id"]),
        ("faas.invoked_name", "hello"),
        ("faas.version", "r1"),
        ("k8s.namespace.name", "ns"),
        ("dormouse.outcome", "ok"),
    ] {
        assert_eq!(attributes.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert!(!attributes.contains_key("error.type"));
    let resource = collector.resources.lock()[0].clone();
    assert_eq!(
        (resource["service.name"].as_str(), resource["service.instance.id"].as_str()),
        ("dormouse-activator", "pod-1")
    );
    let exported = || house.activator.metric("dormouse_traces_exported_total");
    until("the answer is heard", || exported().filter(|n| *n == 1.0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_traced_with_its_reason_and_the_last_traces_leave_with_the_process() {
    let collector = Collector::default();
    let endpoint = collector.start().await;
    let house = House::with(|c| c.otlp_endpoint = Some(endpoint)).await;
    house.publish(Function { queue_max_calls: 0, ..function("hello") }).await;
    let failure = Some(Failure { code: "CrashLoop".into(), status: 502 });
    assert_eq!(house.activator.call(&get("/")).await.status, 429);
    house.publish(Function { failure, ..function("hello") }).await;
    assert_eq!(house.activator.call(&get("/")).await.status, 502);
    // Told at the end at the latest: nothing is waited for.
    house.activator.stop().await;
    let spans = collector.spans.lock().clone();
    let told: Vec<_> = spans
        .iter()
        .map(|s| {
            (
                texts(&s.attributes)["dormouse.reason"].clone(),
                s.status.as_ref().map(|s| s.code()),
                s.parent_span_id.len(),
            )
        })
        .collect();
    let expected =
        [("QueueFull".to_owned(), Some(StatusCode::Unset), 0), ("CrashLoop".to_owned(), Some(StatusCode::Error), 0)];
    assert_eq!(told, expected);
    assert_eq!(texts(&spans[1].attributes)["error.type"], "CrashLoop");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_fails_is_tried_again_and_never_holds_a_call_up() {
    let collector = Collector::default();
    let endpoint = collector.start().await;
    *collector.failures.lock() = vec![Code::Unavailable, Code::Unavailable];
    let house = House::with(|c| c.otlp_endpoint = Some(endpoint)).await;
    let origin = Origin::echo().await;
    house.publish(ready("hello", origin.addr, 1)).await;
    assert_eq!(house.activator.call(&get("/")).await.status, 200);
    collector.spans(1).await;
    assert!(collector.failures.lock().is_empty());
    // What will not pass is not tried again.
    collector.failures.lock().push(Code::InvalidArgument);
    assert_eq!(house.activator.call(&get("/")).await.status, 200);
    let lost = "dormouse_traces_dropped_total{reason=\"export_failed\"}";
    until("it is counted", || house.activator.metric(lost).filter(|n| *n == 1.0)).await;
    let exported = "dormouse_traces_exported_total";
    until("the answer is heard", || house.activator.metric(exported).filter(|n| *n == 1.0)).await;
    within("the end", house.activator.stop()).await;
}
