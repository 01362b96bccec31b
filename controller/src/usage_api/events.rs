//! Events that somebody asks for: a function is called now, as a schedule calls it.

use super::Pairs;
use super::error::{ApiError, Fault};
use super::params::Params;
use crate::fires::asked::{Answer, Wanted};
use crate::office::Mail;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, header};
use axum::routing::post;
use axum::{Json, Router};
use dormouse_core::FunctionKey;
use dormouse_core::function::Fired;
use dormouse_core::schedule::{content_type, is_word};
use jiff::Timestamp;
use serde::Serialize;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// Where they are asked for.
pub(super) const ROUTE: &str = "/v1/functions/{namespace}/{name}/events";

/// Longest body: as a schedule's.
const MAX_BODY: usize = 256 << 10;
/// Longest content type.
const MAX_TYPE: usize = 256;

/// Longest wait for what becomes of one: the longest maxWait on each side of a handover and the longest call, an hour each,
/// and as long as an activator may be silent.
const LIMIT: Duration = Duration::from_secs(3 * 3600 + 120);

/// The route, to be put beside the others: see [`super::with`].
pub fn events(office: mpsc::Sender<Mail>) -> Router {
    let handler = post(event).layer(DefaultBodyLimit::max(MAX_BODY));
    Router::new()
        .route(ROUTE, handler)
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .with_state(office)
}

/// What became of an event.
#[derive(Serialize)]
struct EventView {
    due_at: String,
    outcome: Fired,
    reason: String,
}

fn bad(parameter: &str, problem: String) -> ApiError {
    ApiError::BadRequest(vec![Fault { parameter: parameter.to_owned(), problem }])
}

/// Orders one call and answers what became of it; whoever leaves before does not end it.
async fn event(
    State(office): State<mpsc::Sender<Mail>>,
    path: Result<Path<(String, String)>, PathRejection>,
    headers: HeaderMap,
    pairs: Pairs,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<EventView>, ApiError> {
    let params = Params::new(pairs, &["event"])?;
    let event = params.one("event").unwrap_or_else(|| "schedule".to_owned());
    params.done()?;
    if !is_word(&event) {
        return Err(bad("event", "must be 1 to 63 letters, digits and '-'".to_owned()));
    }
    let Path((namespace, name)) = path.map_err(|_| bad("path", "must be in UTF-8".to_owned()))?;
    let body = body.map_err(|_| bad("body", format!("must be at most {MAX_BODY} bytes")))?;
    let said = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let content_type = match (said, std::str::from_utf8(&body)) {
        _ if body.is_empty() => String::new(),
        (Some(said), _) if said.len() > MAX_TYPE => return Err(bad("content-type", "is too long".to_owned())),
        (Some(said), _) => said.to_owned(),
        (None, Ok(text)) => content_type(text).to_owned(),
        (None, Err(_)) => "application/octet-stream".to_owned(),
    };
    let key = FunctionKey::new(namespace, name);
    let missing = || ApiError::NotFound(format!("there is no function {key} that can be called"));
    let (answer, told) = oneshot::channel();
    let wanted = Wanted { key: key.clone(), event, body, content_type, answer };
    let gone = || ApiError::NotMade("ShuttingDown");
    office.send(Mail::Invoke(wanted)).await.map_err(|_| gone())?;
    let at = Timestamp::now();
    let unknown = Answer::Over { due: at, outcome: Fired::Unknown, reason: "NoAnswer".into() };
    match timeout(LIMIT, told).await.unwrap_or(Ok(unknown)).map_err(|_| gone())? {
        Answer::NoFunction => Err(missing()),
        Answer::Later(why) => Err(ApiError::NotMade(why)),
        Answer::Over { due, outcome, reason } => {
            Ok(Json(EventView { due_at: due.to_string(), outcome, reason: reason.to_string() }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::extract::Query;
    use axum::response::IntoResponse;

    async fn ask(query: &[(&str, &str)], body: &str, answer: Answer) -> (u16, serde_json::Value, Option<Wanted>) {
        let (office, mut mail) = mpsc::channel(1);
        let pairs = query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let asked = event(
            State(office),
            Ok(Path(("ns".into(), "f".into()))),
            HeaderMap::new(),
            Ok(Query(pairs)),
            Ok(Bytes::copy_from_slice(body.as_bytes())),
        );
        let office = async {
            let Some(Mail::Invoke(mut wanted)) = mail.recv().await else { return None };
            let (unused, _) = oneshot::channel();
            std::mem::replace(&mut wanted.answer, unused).send(answer).unwrap();
            Some(wanted)
        };
        let (told, wanted) = tokio::join!(asked, office);
        let response = told.into_response();
        let status = response.status().as_u16();
        let bytes = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap(), wanted)
    }

    #[tokio::test]
    async fn an_event_is_ordered_and_its_outcome_told_as_it_is_described() {
        let over = Answer::Over { due: Timestamp::UNIX_EPOCH, outcome: Fired::Ran, reason: "Status204".into() };
        let (status, told, wanted) = ask(&[("event", "warm-up")], "{}", over.clone()).await;
        assert_eq!((status, &told["outcome"], &told["reason"]), (200, &"Ran".into(), &"Status204".into()));
        let wanted = wanted.unwrap();
        assert_eq!((wanted.key.to_string().as_str(), wanted.event.as_str()), ("ns/f", "warm-up"));
        assert_eq!((&wanted.body[..], wanted.content_type.as_str()), (&b"{}"[..], "application/json"));
        let file: serde_json::Value = serde_saphyr::from_str(super::super::OPENAPI).unwrap();
        let said = file["components"]["schemas"]["Event"]["properties"].as_object().unwrap();
        assert!(said.keys().eq(told.as_object().unwrap().keys()), "{told}");
        let (_, _, wanted) = ask(&[], "", over).await;
        assert_eq!(wanted.map(|w| (w.event, w.content_type)), Some(("schedule".into(), String::new())));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever() {
        let (office, mut mail) = mpsc::channel(1);
        let path = Ok(Path(("ns".into(), "f".into())));
        let asked = event(State(office), path, HeaderMap::new(), Ok(Query(Vec::new())), Ok(Bytes::new()));
        // Whoever has it says nothing.
        let (told, _wanted) = tokio::join!(asked, mail.recv());
        let Json(EventView { outcome, reason, .. }) = told.unwrap();
        assert_eq!((outcome, reason.as_str()), (Fired::Unknown, "NoAnswer"));
    }

    #[tokio::test]
    async fn what_cannot_be_is_said() {
        assert_eq!(ask(&[], "", Answer::NoFunction).await.0, 404);
        let (status, told, _) = ask(&[], "", Answer::Later("NoActivator")).await;
        assert_eq!((status, told["message"].as_str().unwrap().contains("NoActivator")), (503, true));
        for query in [("event", "a b"), ("event", ""), ("nonsense", "1")] {
            let (status, told, wanted) = ask(&[query], "", Answer::NoFunction).await;
            assert_eq!((status, wanted.is_none()), (400, true), "{told}");
        }
    }
}
