//! `dormouse invoke`: one call, its answer, and where its time went.

use crate::args::{Format, InvokeArgs};
use crate::exit::{Failure, Outcome};
use crate::say;
use crate::target::Target;
use crate::usage::{encoded, read};
use bytes::Bytes;
use http::header::HOST;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use std::io::Read as _;
use std::time::{Duration, Instant};

/// Longest body that is sent: it is held in memory.
const MAX_BODY: u64 = 1 << 30;

/// With --cold: how long its instances may take to be gone; calls that run keep them.
const ASLEEP: Duration = Duration::from_secs(60);
/// Between two looks; each one asks again, because what is told of calls and ports that are over may come later.
const LOOK: Duration = Duration::from_millis(500);

/// Where a call's time went, in milliseconds, as the activator says it in `Server-Timing`; total is seen from here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Timing {
    wait_ms: Option<f64>,
    claim_ms: Option<f64>,
    start_ms: Option<f64>,
    connect_ms: Option<f64>,
    run_ms: Option<f64>,
    total_ms: f64,
    /// None of a call that was not dispatched.
    pub(crate) cold: Option<bool>,
}

/// What became of an event.
#[derive(Debug, Serialize, Deserialize)]
struct Told {
    due_at: String,
    outcome: String,
    reason: String,
}

/// Has the function called by an event, and says what became of that.
async fn event(args: &InvokeArgs, event: &str) -> Outcome {
    let data = args.data.as_deref().map(body).transpose()?.unwrap_or_default();
    let target = Target::find(&args.target).await?;
    let namespace = args.namespace.clone().unwrap_or_else(|| target.default_namespace());
    let [namespace, name, event] = [&namespace, &args.name, event].map(encoded);
    let path = format!("/v1/functions/{namespace}/{name}/events?event={event}");
    let told = target.usage().await?.call(&path, data, Duration::from_secs(args.timeout)).await?;
    let told: Told = read(&told)?;
    match args.output {
        Format::Json => say::out(serde_json::to_string_pretty(&told).map_err(Failure::failed)?),
        Format::Table => say::out(format_args!("{} ({}), due {}", told.outcome, told.reason, told.due_at)),
    }
    if told.outcome == "Ran" { Ok(()) } else { Err(Failure::failed("the call did not run well")) }
}

/// The event that is to call it; `None`: it is called over HTTP, which is what an event of that name means.
fn event_of(args: &InvokeArgs) -> Result<Option<&str>, Failure> {
    let Some(kind) = args.event.as_deref().filter(|kind| *kind != "http") else { return Ok(None) };
    let of_http = [
        ("a path", args.path != "/"),
        ("--request", args.method.is_some()),
        ("--header", !args.headers.is_empty()),
        ("--timing", args.timing),
        ("--cold", args.cold),
    ];
    match of_http.iter().find(|(_, given)| *given) {
        Some((what, _)) => Err(Failure::usage(format!(
            "{what} is for calls over HTTP, and an event of type {kind:?} is none: leave one out"
        ))),
        None => Ok(Some(kind)),
    }
}

pub(crate) async fn run(args: &InvokeArgs) -> Outcome {
    if let Some(kind) = event_of(args)? {
        return event(args, kind).await;
    }
    let request = request(args)?;
    let target = Target::find(&args.target).await?;
    let namespace = args.namespace.clone().unwrap_or_else(|| target.default_namespace());
    let request = addressed(request, &format!("{}.{namespace}", args.name))?;
    let door = target.activator()?;
    if args.cold {
        put_to_sleep(&target, &namespace, &args.name).await?;
    }
    let limit = Duration::from_secs(args.timeout);
    tokio::time::timeout(limit, async {
        let begun = Instant::now();
        let response = door.send(request).await?;
        show(args, response, begun).await
    })
    .await
    .map_err(|_| Failure::timed_out(format!("no whole answer within {} s", args.timeout)))?
}

/// Returns once the function has no instance.
async fn put_to_sleep(target: &Target, namespace: &str, name: &str) -> Result<(), Failure> {
    let begun = Instant::now();
    loop {
        target.put_to_sleep(namespace, name).await?;
        tokio::time::sleep(LOOK).await;
        let view = target.function(namespace, name).await?;
        let spec = &view.function.spec;
        let warm = view.function.status.as_ref().and_then(|s| s.instances).map_or(0, |i| i.warm);
        if warm > 0 || spec.warm_up_concurrency > 0 {
            let why = "is kept warm (warmUpConcurrency, or a warmUp window that is open): no call of it is cold";
            return Err(Failure::failed(format!("{namespace}/{name} {why}")));
        }
        if view.instances.is_empty() && view.ready_instances() == 0 {
            return Ok(());
        }
        if begun.elapsed() > ASLEEP {
            let left: Vec<&str> = view.instances.iter().map(|i| i.name.as_str()).collect();
            return Err(Failure::timed_out(format!(
                "after {} s instances are left ({}): calls run on them, or it is being checked",
                ASLEEP.as_secs(),
                left.join(", ")
            )));
        }
    }
}

/// The request without its host.
fn request(args: &InvokeArgs) -> Result<Request<Full<Bytes>>, Failure> {
    let body = args.data.as_deref().map(body).transpose()?;
    let method = match &args.method {
        Some(method) => {
            Method::from_bytes(method.as_bytes()).map_err(|_| Failure::usage(format!("{method:?} is no method")))?
        }
        None if body.is_some() => Method::POST,
        None => Method::GET,
    };
    let path = if args.path.starts_with('/') { args.path.clone() } else { format!("/{}", args.path) };
    let mut request = Request::builder()
        .method(method)
        .uri(&path)
        .body(Full::new(body.unwrap_or_default()))
        .map_err(|e| Failure::usage(format!("{path:?} is no path: {e}")))?;
    for header in &args.headers {
        let (name, value) = header_of(header)?;
        request.headers_mut().append(name, value);
    }
    Ok(request)
}

fn addressed(mut request: Request<Full<Bytes>>, host: &str) -> Result<Request<Full<Bytes>>, Failure> {
    let value = HeaderValue::try_from(host).map_err(|_| Failure::usage(format!("{host:?} is no function's name")))?;
    request.headers_mut().insert(HOST, value);
    Ok(request)
}

fn header_of(text: &str) -> Result<(HeaderName, HeaderValue), Failure> {
    let wrong = || Failure::usage(format!("{text:?} is no header: write `Name: value`"));
    let (name, value) = text.split_once(':').ok_or_else(wrong)?;
    let name = HeaderName::try_from(name.trim()).map_err(|_| wrong())?;
    let value = HeaderValue::try_from(value.trim()).map_err(|_| wrong())?;
    if name == HOST {
        return Err(Failure::usage("the Host header names the function: give its name instead"));
    }
    Ok((name, value))
}

/// Text, a file, or standard input.
fn body(text: &str) -> Result<Bytes, Failure> {
    let Some(place) = text.strip_prefix('@') else { return Ok(Bytes::copy_from_slice(text.as_bytes())) };
    let mut bytes = Vec::new();
    let read = if place == "-" {
        std::io::stdin().take(MAX_BODY + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(place).and_then(|f| f.take(MAX_BODY + 1).read_to_end(&mut bytes))
    };
    let read = read.map_err(|e| Failure::usage(format!("cannot read {place}: {e}")))?;
    if read as u64 > MAX_BODY {
        return Err(Failure::usage(format!("{place} is larger than {} MiB", MAX_BODY >> 20)));
    }
    Ok(bytes.into())
}

async fn show(args: &InvokeArgs, response: Response<Incoming>, begun: Instant) -> Outcome {
    let (head, mut body) = response.into_parts();
    let mut timing = server_timing(&head.headers);
    let mut kept = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Failure::failed(format!("the answer broke off: {e}")))?;
        let Ok(data) = frame.into_data() else { continue };
        match args.output {
            Format::Table => say::bytes(&data)?,
            Format::Json => kept.extend_from_slice(&data),
        }
    }
    timing.total_ms = (begun.elapsed().as_secs_f64() * 1e6).round() / 1e3;
    if args.output == Format::Json {
        say::out(
            serde_json::to_string_pretty(&json(head.status, &head.headers, &kept, timing)).map_err(Failure::failed)?,
        );
    }
    if args.timing || args.cold {
        say::note(split(timing));
    }
    verdict(head.status, &head.headers)?;
    if args.cold && timing.cold != Some(true) {
        return Err(Failure::failed("it was not a cold call: another one woke the function meanwhile"));
    }
    Ok(())
}

fn json(status: StatusCode, headers: &HeaderMap, body: &[u8], timing: Timing) -> serde_json::Value {
    let mut fields = serde_json::Map::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        let old = fields.get(name.as_str()).and_then(serde_json::Value::as_str);
        let value = old.map_or_else(|| value.clone(), |old| format!("{old}, {value}"));
        fields.insert(name.as_str().into(), value.into());
    }
    // A body that is no text is given in hexadecimal digits.
    let (key, text) = match std::str::from_utf8(body) {
        Ok(text) => ("body", text.to_owned()),
        Err(_) => ("bodyHex", body.iter().map(|b| format!("{b:02x}")).collect()),
    };
    serde_json::json!({"status": status.as_u16(), "headers": fields, key: text, "timing": timing})
}

/// `wait;dur=1.5, claim;dur=9, start;dur=40, connect;dur=0.1, run;dur=3`.
pub(crate) fn server_timing(headers: &HeaderMap) -> Timing {
    let mut timing = Timing::default();
    let values = headers.get_all("server-timing").iter().filter_map(|v| v.to_str().ok());
    for entry in values.flat_map(|v| v.split(',')) {
        let mut parts = entry.trim().split(';');
        let name = parts.next().unwrap_or_default();
        let ms = parts.find_map(|p| p.trim().strip_prefix("dur=")?.parse::<f64>().ok());
        match name {
            "wait" => timing.wait_ms = ms,
            "claim" => timing.claim_ms = ms,
            "start" => timing.start_ms = ms,
            "connect" => timing.connect_ms = ms,
            "run" => timing.run_ms = ms,
            _ => {}
        }
    }
    // One that was handed out before there was a claim has none.
    timing.cold = timing.start_ms.map(|start| start + timing.claim_ms.unwrap_or(0.0) > 0.0);
    timing
}

fn split(timing: Timing) -> String {
    let ms = |v: Option<f64>| v.map_or_else(|| "-".into(), |v| format!("{v:.3} ms"));
    let kind = match timing.cold {
        Some(true) => "cold",
        Some(false) => "warm",
        None => "not dispatched",
    };
    let Timing { wait_ms, claim_ms, start_ms, connect_ms, run_ms, total_ms, .. } = timing;
    format!(
        "{kind}: wait {}, claim {}, start {}, connect {}, run to first byte {}, total {}",
        ms(wait_ms),
        ms(claim_ms),
        ms(start_ms),
        ms(connect_ms),
        ms(run_ms),
        ms(Some(total_ms))
    )
}

fn verdict(status: StatusCode, headers: &HeaderMap) -> Outcome {
    let reason = headers.get("dormouse-reason").and_then(|r| r.to_str().ok());
    match (status, reason) {
        (_, Some("UnknownFunction")) => Err(Failure::not_found("there is no such function")),
        (_, Some(reason @ ("Timeout" | "WaitTimeout"))) => {
            Err(Failure::timed_out(format!("{status}, reason {reason}")))
        }
        (status, Some(reason)) if status.as_u16() >= 400 => {
            Err(Failure::failed(format!("{status}, reason {reason}; `dormouse describe` says more")))
        }
        (status, None) if status.as_u16() >= 400 => Err(Failure::failed(format!("the function answered {status}"))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn args(line: &[&str]) -> InvokeArgs {
        let Command::Invoke(args) = Cli::try_parse_from(["dormouse", "invoke"].iter().chain(line)).unwrap().command
        else {
            panic!()
        };
        args
    }

    #[test]
    fn requests_are_made_as_told() {
        let made = request(&args(&["f"])).unwrap();
        assert_eq!((made.method(), made.uri().to_string().as_str()), (&Method::GET, "/"));
        let made = request(&args(&["f", "a?b=c", "-d", "x", "-H", "A: b: c"])).unwrap();
        assert_eq!((made.method(), made.uri().to_string().as_str()), (&Method::POST, "/a?b=c"));
        assert_eq!(made.headers()["a"], "b: c");
        let made = request(&args(&["f", "-X", "delete"])).unwrap();
        assert_eq!(made.method().as_str(), "delete");
    }

    #[test]
    fn wrong_use_is_told_and_sends_nothing() {
        for line in [
            vec!["f", "-H", "nocolon"],
            vec!["f", "-H", "host: x"],
            vec!["f", "-X", "a b"],
            vec!["f", "/a b"],
            vec!["f", "-d", "@/no/such/file"],
        ] {
            assert!(request(&args(&line)).is_err(), "{line:?}");
        }
    }

    #[test]
    fn an_event_of_http_is_an_ordinary_call() {
        let of = |line: &[&str]| event_of(&args(line)).map(|kind| kind.map(str::to_owned));
        assert_eq!(of(&["f", "--event", "schedule", "-d", "x"]).unwrap().as_deref(), Some("schedule"));
        assert_eq!(of(&["f"]).unwrap(), None);
        assert_eq!(of(&["f", "/a", "--event", "http", "--cold", "-H", "a: b"]).unwrap(), None);
        for given in [vec!["/a"], vec!["-X", "PUT"], vec!["-H", "a: b"], vec!["--timing"], vec!["--cold"]] {
            let line = [vec!["f", "--event", "schedule"], given].concat();
            assert!(of(&line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn timing_is_read_from_the_header() {
        let mut headers = HeaderMap::new();
        headers.insert(
            "server-timing",
            HeaderValue::from_static("wait;dur=1.5, claim;dur=9, start;dur=40, connect;dur=0.125, run;dur=3.25"),
        );
        let timing = server_timing(&headers);
        assert_eq!((timing.wait_ms, timing.start_ms, timing.run_ms), (Some(1.5), Some(40.0), Some(3.25)));
        assert_eq!(timing.cold, Some(true));
        assert_eq!((timing.claim_ms, timing.connect_ms), (Some(9.0), Some(0.125)));
        let said = "cold: wait 1.500 ms, claim 9.000 ms, start 40.000 ms, connect 0.125 ms, run to first byte 3.250 ms";
        assert!(split(timing).starts_with(said));
        assert_eq!(server_timing(&HeaderMap::new()).cold, None);
        let read = |text| {
            headers.insert("server-timing", HeaderValue::from_static(text));
            server_timing(&headers)
        };
        let [before, nameless, wrong] =
            ["wait;dur=1.5, start;dur=203.125, run;dur=0.8, art;dur=1", "start", "start;dur=x"].map(read);
        assert_eq!((before.start_ms, before.run_ms, before.claim_ms), (Some(203.125), Some(0.8), None));
        assert_eq!((before.cold, nameless.start_ms, wrong.start_ms), (Some(true), None, None));
    }

    #[test]
    fn exit_codes_tell_what_went_wrong() {
        let of = |status: u16, reason: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.extend(reason.map(|r| (HeaderName::from_static("dormouse-reason"), HeaderValue::from_static(r))));
            let verdict = verdict(StatusCode::from_u16(status).unwrap(), &headers);
            verdict.map_or_else(|f| format!("{:?}", f.code()), |()| format!("{:?}", std::process::ExitCode::SUCCESS))
        };
        let code = |n: u8| format!("{:?}", std::process::ExitCode::from(n));
        assert_eq!(of(200, None), code(0));
        assert_eq!(of(500, None), code(1));
        assert_eq!(of(502, Some("CrashLoop")), code(1));
        assert_eq!(of(404, Some("UnknownFunction")), code(3));
        assert_eq!(of(404, None), code(1));
        assert_eq!(of(504, Some("Timeout")), code(4));
    }
}
