//! `dormouse selftest`: one function's whole life on an installation, step by step. `helm test` runs it as a pod.
//!
//! Applied, seen ready, asleep at zero pods, called (which must be a cold call, answered 200), its record found in the
//! ledger, deleted. Every step says what it saw; the first that fails ends the test, and the function is removed all
//! the same.

use crate::exit::{Failure, Outcome};
use crate::invoke::server_timing;
use crate::say;
use crate::target::door::Door;
use bytes::Bytes;
use clap::Args;
use dormouse_core::function::Function;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// The function's name; the chart's Role names it too.
const NAME: &str = "dormouse-selftest";
/// Between two looks at the same thing.
const PAUSE: Duration = Duration::from_millis(200);
/// Most of the function's answer that is read: the sample's is below 1 KiB.
const MAX_ANSWER: usize = 64 << 10;
/// Pages of records that are read in one look; the function has few records, but a page may be short.
const MAX_PAGES: usize = 100;

#[derive(Args, Debug)]
#[command(after_help = "\
Runs against the cluster it is in, or the kubeconfig's. `helm test dormouse` runs it as a pod.

Examples:
  dormouse selftest --activator-url http://127.0.0.1:8080 --usage-url http://127.0.0.1:8081 --token-file token
  dormouse selftest -n default --image dormouse/sample:0.1.0 --activator-url http://10.96.3.4")]
pub(crate) struct SelftestArgs {
    /// Namespace in which the function is made
    #[arg(short, long, default_value = "dormouse-system")]
    pub(crate) namespace: String,
    /// Image of the function: the sample
    #[arg(long, default_value = concat!("dormouse/sample:", env!("CARGO_PKG_VERSION")))]
    pub(crate) image: String,
    /// Secret with which the image is pulled; may be given more than once
    #[arg(long = "image-pull-secret", value_name = "NAME")]
    pub(crate) image_pull_secrets: Vec<String>,
    /// Activator
    #[arg(long, env = "DORMOUSE_ACTIVATOR_URL", default_value = "http://dormouse-activator.dormouse-system.svc")]
    pub(crate) activator_url: String,
    /// Usage API
    #[arg(long, env = "DORMOUSE_USAGE_URL", default_value = "http://dormouse-usage.dormouse-system.svc")]
    pub(crate) usage_url: String,
    /// File with the token of the usage API
    #[arg(long, conflicts_with = "token")]
    pub(crate) token_file: Option<PathBuf>,
    /// Token of the usage API
    #[arg(long, env = "DORMOUSE_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// Seconds in which each step must succeed
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(5..=3600))]
    pub(crate) step_timeout_seconds: u64,
}

/// What one look at something gave.
enum Look<T> {
    Seen(T),
    NotYet(String),
}

struct Selftest<'a> {
    args: &'a SelftestArgs,
    activator: Door,
    usage: Door,
    functions: Api<Function>,
    pods: Api<Pod>,
}

/// What a call is known by.
struct Call {
    request_id: String,
    began: Timestamp,
}

/// Runs every step; the function is removed whatever happened.
pub(crate) async fn run(args: &SelftestArgs) -> Outcome {
    dormouse_daemon::install_tls_provider();
    let client = kube::Client::try_default().await.map_err(|e| Failure::failed(format!("no cluster to ask: {e}")))?;
    let test = Selftest {
        args,
        activator: Door::at(&args.activator_url, None)?,
        usage: Door::at(&args.usage_url, token(args)?)?,
        functions: Api::namespaced(client.clone(), &args.namespace),
        pods: Api::namespaced(client, &args.namespace),
    };
    let result = test.steps().await;
    if result.is_err() {
        let _ = test.delete().await;
    }
    result
}

fn token(args: &SelftestArgs) -> Result<Option<String>, Failure> {
    let Some(file) = &args.token_file else { return Ok(args.token.clone()) };
    let text = std::fs::read_to_string(file)
        .map_err(|e| Failure::failed(format!("cannot read the token in {}: {e}", file.display())))?;
    Ok(Some(text.trim().to_owned()))
}

impl Selftest<'_> {
    async fn steps(&self) -> Outcome {
        self.remove("nothing is left of an earlier test").await?;
        self.apply().await?;
        self.until("it is ready", async || self.ready().await).await?;
        self.until("it sleeps at zero pods", async || self.asleep().await).await?;
        let call = self.call().await?;
        self.until("its record is in the ledger", async || self.record(&call).await).await?;
        self.remove("it is deleted, and its pods are gone").await?;
        say::out("every step passed");
        Ok(())
    }

    /// Looks until it is seen, or the step's time is over.
    async fn until(&self, what: &str, mut look: impl AsyncFnMut() -> Result<Look<String>, Failure>) -> Outcome {
        let limit = Duration::from_secs(self.args.step_timeout_seconds);
        let began = Instant::now();
        let (end, mut last) = (began + limit, String::from("no answer"));
        loop {
            match timeout_at(end, look()).await {
                Ok(Ok(Look::Seen(seen))) => {
                    passed(what, began, &seen);
                    return Ok(());
                }
                Ok(Ok(Look::NotYet(why))) => last = why,
                Ok(Err(failure)) => return Err(Failure::failed(format!("{what}: {}", failure.message()))),
                Err(_) => {}
            }
            if Instant::now() + PAUSE >= end {
                return Err(Failure::timed_out(format!("{what}: not within {} s; last seen: {last}", limit.as_secs())));
            }
            sleep(PAUSE).await;
        }
    }

    async fn apply(&self) -> Outcome {
        let began = Instant::now();
        let pull: Vec<Value> = self.args.image_pull_secrets.iter().map(|name| json!({ "name": name })).collect();
        let manifest = json!({
            "apiVersion": "dormouse.dev/v1alpha1",
            "kind": "Function",
            "metadata": { "name": NAME },
            "spec": {
                "image": self.args.image,
                "imagePullSecrets": pull,
                "resources": { "memory": "32Mi", "cpu": "10m" },
                "securityContext": { "runAsNonRoot": true, "readOnlyRootFilesystem": true },
                "idleTimeoutSeconds": 1,
                "timeoutSeconds": 10,
            },
        });
        let by = PatchParams::apply(NAME).force();
        let applied = self.functions.patch(NAME, &by, &Patch::Apply(&manifest)).await;
        applied.map_err(|e| Failure::failed(format!("the function cannot be applied: {e}")))?;
        passed("a function is applied", began, &format!("{}/{NAME}, image {}", self.args.namespace, self.args.image));
        Ok(())
    }

    async fn ready(&self) -> Result<Look<String>, Failure> {
        let function = self.functions.get(NAME).await.map_err(Failure::failed)?;
        let generation = function.metadata.generation;
        let conditions = function.status.map(|s| s.conditions).unwrap_or_default();
        let now = |type_: &str| conditions.iter().find(|c| c.type_ == type_ && c.observed_generation == generation);
        if let Some(stalled) = now("Stalled").filter(|c| c.status == "True") {
            return Err(Failure::failed(format!("{}: {}", stalled.reason, stalled.message)));
        }
        Ok(match now("Ready") {
            Some(ready) if ready.status == "True" => Look::Seen(format!("{}: {}", ready.reason, ready.message)),
            Some(ready) => Look::NotYet(format!("{}: {}", ready.reason, ready.message)),
            None => Look::NotYet("no condition Ready: does the controller run?".into()),
        })
    }

    async fn pods(&self) -> Result<Vec<String>, Failure> {
        let of_function = ListParams::default().labels(&format!("dormouse.dev/function={NAME}"));
        let pods = self.pods.list(&of_function).await.map_err(Failure::failed)?;
        Ok(pods.items.into_iter().filter_map(|pod| pod.metadata.name).collect())
    }

    async fn asleep(&self) -> Result<Look<String>, Failure> {
        let pods = self.pods().await?;
        Ok(if pods.is_empty() { Look::Seen("no pods".into()) } else { Look::NotYet(pods.join(", ")) })
    }

    /// The call from zero: answered 200 and cold.
    async fn call(&self) -> Result<Call, Failure> {
        let path = format!("/fn/{}/{NAME}/", self.args.namespace);
        let (began, started) = (Timestamp::now(), Instant::now());
        let limit = Duration::from_secs(self.args.step_timeout_seconds);
        let answer = timeout(limit, self.get(&path)).await;
        let no_answer = |_| Failure::timed_out(format!("GET {path}: no answer within {} s", limit.as_secs()));
        let (status, headers, body) = answer.map_err(no_answer)??;
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if status != StatusCode::OK {
            return Err(Failure::failed(format!("GET {path}: {status} {}: {body}", header("dormouse-reason"))));
        }
        let timing = header("server-timing");
        if server_timing(&headers).cold != Some(true) {
            return Err(Failure::failed(format!("GET {path}: not a cold call; Server-Timing: {timing:?}")));
        }
        let request_id = header("dormouse-request-id").to_owned();
        if request_id.is_empty() {
            return Err(Failure::failed(format!("GET {path}: an answer without Dormouse-Request-Id")));
        }
        passed("a call wakes it", started, &format!("200, {timing}, request {request_id}: {}", body.trim_end()));
        Ok(Call { request_id, began })
    }

    async fn get(&self, path: &str) -> Result<(StatusCode, HeaderMap, String), Failure> {
        let request = Request::get(path).body(Full::<Bytes>::default()).map_err(Failure::usage)?;
        let (head, body) = self.activator.send(request).await?.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await;
        let body = body.map_err(|e| Failure::failed(format!("GET {path}: the answer broke off: {e}")))?.to_bytes();
        Ok((head.status, head.headers, String::from_utf8_lossy(&body).into_owned()))
    }

    /// The call's record, among the function's since a minute before the call: clocks differ.
    async fn record(&self, call: &Call) -> Result<Look<String>, Failure> {
        let minute = SignedDuration::from_secs(60);
        let (from, to) = (call.began - minute, Timestamp::now() + minute);
        let query = format!("/v1/records?from={from:.0}&to={to:.0}&namespace={}&function={NAME}", self.args.namespace);
        let (mut cursor, mut seen) = (String::new(), 0);
        for _ in 0..MAX_PAGES {
            // A ledger that is being opened answers soon; anything else is told when the step's time is over.
            let page = match self.usage.get(&format!("{query}{cursor}")).await {
                Ok(page) => page,
                Err(failure) => return Ok(Look::NotYet(failure.message().to_owned())),
            };
            let page: Value = serde_json::from_slice(&page).map_err(Failure::failed)?;
            let records = page.get("rows").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            let own = records.iter().find(|r| r.get("request_id").and_then(Value::as_str) == Some(&call.request_id));
            if let Some(record) = own {
                return Ok(Look::Seen(record.to_string()));
            }
            seen += records.len();
            match page.get("next_cursor").and_then(Value::as_str) {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        Ok(Look::NotYet(format!("request {} is not among {seen} records", call.request_id)))
    }

    async fn delete(&self) -> Result<bool, Failure> {
        match self.functions.delete(NAME, &DeleteParams::default()).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
            Err(e) => Err(Failure::failed(format!("the function cannot be deleted: {e}"))),
        }
    }

    async fn remove(&self, what: &str) -> Outcome {
        self.delete().await?;
        self.until(what, async || {
            if self.functions.get_opt(NAME).await.map_err(Failure::failed)?.is_some() {
                return Ok(Look::NotYet("the function is still there".into()));
            }
            self.asleep().await
        })
        .await
    }
}

fn passed(what: &str, began: Instant, seen: &str) {
    say::out(format_args!("ok  {what} ({:.1} s): {seen}", began.elapsed().as_secs_f64()));
}
