//! Waiting until a function serves what was just asked of it, with its progress on standard error.

use crate::exit::Failure;
use crate::say;
use crate::target::cluster::words;
use dormouse_core::function::Function;
use kube::{Api, ResourceExt};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// Between two looks: an installation's own steps take longer.
const PAUSE: Duration = Duration::from_millis(300);

/// Where a function stands with one generation of its spec.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stand {
    /// It serves it.
    Serves,
    /// It does not, and will not by itself.
    Fails(Said),
    /// It is on its way, as far as the controller has told.
    Comes(Option<Said>),
}

/// What `Ready` says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Said {
    reason: String,
    message: String,
}

fn stand(function: &Function, generation: i64) -> Stand {
    let Some(status) = function.status.as_ref().filter(|s| s.observed_generation >= Some(generation)) else {
        return Stand::Comes(None);
    };
    let Some(ready) = status.conditions.iter().find(|c| c.type_ == "Ready") else { return Stand::Comes(None) };
    let said = Said { reason: ready.reason.clone(), message: ready.message.clone() };
    match ready.status.as_str() {
        "True" => Stand::Serves,
        "False" => Stand::Fails(said),
        _ => Stand::Comes(Some(said)),
    }
}

/// Which commands tell more of a function: with these flags they look at the same one.
pub(crate) fn more(name: &str, flags: &str) -> String {
    format!("`dormouse logs {name} {flags}` and `dormouse describe {name} {flags}` say more")
}

/// Waits until it serves this generation. Fails at once when it cannot, and then says `more` of what may be done.
pub(crate) async fn until_serving(
    api: &Api<Function>,
    name: &str,
    generation: i64,
    limit: Duration,
    more: &str,
) -> Result<Function, Failure> {
    let end = Instant::now() + limit;
    let mut last: Option<Said> = None;
    loop {
        match timeout_at(end, api.get_opt(name)).await {
            Ok(Ok(Some(function))) => match stand(&function, generation) {
                Stand::Serves => return Ok(function),
                Stand::Fails(Said { reason, message }) => {
                    return Err(Failure::failed(format!("{name}: {reason}: {message}; {more}")));
                }
                Stand::Comes(said) => {
                    if let Some(Said { reason, message }) = said.as_ref().filter(|s| last.as_ref() != Some(s)) {
                        say::note(format_args!("{name}: {reason}: {message}"));
                    }
                    last = said.or(last);
                }
            },
            Ok(Ok(None)) => return Err(Failure::not_found(format!("{name} was deleted meanwhile"))),
            Ok(Err(kube::Error::Api(status))) if status.code < 500 && status.code != 429 => {
                return Err(Failure::failed(format!("cannot read the function {name}: {}", status.message)));
            }
            // The API server may be away for a moment.
            Ok(Err(e)) => say::note(format_args!("{name}: {}", words(&e))),
            Err(_) => {}
        }
        if Instant::now() + PAUSE >= end {
            return Err(Failure::timed_out(not_in_time(name, limit, last)));
        }
        sleep(PAUSE).await;
    }
}

fn not_in_time(name: &str, limit: Duration, last: Option<Said>) -> String {
    let seconds = limit.as_secs();
    match last {
        Some(Said { reason, message }) => format!("{name} does not serve after {seconds} s: {reason}: {message}"),
        None => format!(
            "after {seconds} s nobody has looked at {name}: does the controller run (`kubectl -n dormouse-system get pods`), and for this namespace?"
        ),
    }
}

/// The generation that a write made.
pub(crate) fn generation(written: &impl ResourceExt) -> i64 {
    written.meta().generation.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn function(observed: i64, status: &str, reason: &str) -> Function {
        serde_json::from_value(json!({
            "apiVersion": "dormouse.dev/v1alpha1", "kind": "Function", "metadata": {"name": "hello", "generation": 2},
            "spec": {"image": "a"},
            "status": {"observedGeneration": observed, "conditions": [{"type": "Ready", "status": status,
                "reason": reason, "message": "words", "lastTransitionTime": "2026-11-24T10:00:00Z"}]}
        }))
        .unwrap()
    }

    #[test]
    fn what_was_said_of_an_earlier_spec_does_not_count() {
        let said = |reason: &str| Said { reason: reason.into(), message: "words".into() };
        assert_eq!(stand(&function(1, "True", "Active"), 2), Stand::Comes(None));
        assert_eq!(stand(&function(1, "False", "CrashLoop"), 2), Stand::Comes(None));
        assert_eq!(stand(&function(2, "True", "Idle"), 2), Stand::Serves);
        assert_eq!(stand(&function(3, "True", "Idle"), 2), Stand::Serves);
        assert_eq!(stand(&function(2, "False", "CrashLoop"), 2), Stand::Fails(said("CrashLoop")));
        assert_eq!(stand(&function(2, "Unknown", "Starting"), 2), Stand::Comes(Some(said("Starting"))));
        let mut untold = function(2, "True", "Idle");
        untold.status = None;
        assert_eq!(stand(&untold, 1), Stand::Comes(None));
    }

    #[test]
    fn a_limit_that_is_over_says_what_was_last_seen() {
        let limit = Duration::from_secs(5);
        let said = Said { reason: "Unschedulable".into(), message: "no node".into() };
        assert_eq!(not_in_time("a", limit, Some(said)), "a does not serve after 5 s: Unschedulable: no node");
        assert!(not_in_time("a", limit, None).contains("does the controller run"));
    }
}
