//! The API server as the one who knows: TokenReview and SubjectAccessReview.

use super::{Act, Reviewer, Unasked, User};
use dormouse_core::function::Function;
use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client, Resource};

/// Most characters of the API server's reason that are logged.
const SHOWN: usize = 200;

/// Asks the API server of a cluster.
#[derive(Clone)]
pub struct ApiServer {
    tokens: Api<TokenReview>,
    rights: Api<SubjectAccessReview>,
    audiences: Vec<String>,
}

impl std::fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiServer").field("audiences", &self.audiences).finish_non_exhaustive()
    }
}

impl ApiServer {
    /// Takes tokens that are meant for one of these audiences; at least one.
    #[must_use]
    pub fn new(client: Client, audiences: Vec<String>) -> Self {
        Self { tokens: Api::all(client.clone()), rights: Api::all(client), audiences }
    }
}

impl Reviewer for ApiServer {
    fn identify<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Option<User>, Unasked>> {
        let spec = TokenReviewSpec { audiences: Some(self.audiences.clone()), token: token.to_owned() };
        let review = TokenReview { spec, ..TokenReview::default() };
        async move {
            let review = self.tokens.create(&PostParams::default(), &review).await;
            let status = review.map_err(|e| Unasked(format!("TokenReview: {e}")))?.status;
            Ok(user(status.unwrap_or_default(), &self.audiences))
        }
        .boxed()
    }

    fn allows<'a>(
        &'a self,
        user: &'a User,
        act: Act,
        namespace: Option<&'a str>,
    ) -> BoxFuture<'a, Result<bool, Unasked>> {
        let review = SubjectAccessReview { spec: question(user, act, namespace), ..SubjectAccessReview::default() };
        async move {
            let review = self.rights.create(&PostParams::default(), &review).await;
            let status = review.map_err(|e| Unasked(format!("SubjectAccessReview: {e}")))?.status;
            Ok(status.is_some_and(|status| status.allowed && status.denied != Some(true)))
        }
        .boxed()
    }
}

/// Who a review says it is. That it is meant for us counts only if the API server says so: one that knows nothing of
/// audiences answers yes for its own tokens.
fn user(status: TokenReviewStatus, ours: &[String]) -> Option<User> {
    let for_us = status.audiences.iter().flatten().any(|audience| ours.contains(audience));
    if status.authenticated != Some(true) || !for_us {
        let why: String = status.error.unwrap_or_default().chars().take(SHOWN).collect();
        tracing::debug!(authenticated = status.authenticated, audiences = ?status.audiences, why, "not a token for us");
        return None;
    }
    let info = status.user?;
    Some(User {
        // Nobody has no name: without one there is nobody to ask about.
        name: info.username.filter(|name| !name.is_empty())?,
        uid: info.uid.unwrap_or_default(),
        groups: info.groups.unwrap_or_default(),
        extra: info.extra.unwrap_or_default(),
    })
}

/// May this user do that there, with `functions/usage` or `functions/invoke`?
fn question(user: &User, act: Act, namespace: Option<&str>) -> SubjectAccessReviewSpec {
    let attributes = ResourceAttributes {
        verb: Some(act.verb().to_owned()),
        group: Some(Function::group(&()).into_owned()),
        resource: Some("functions".to_owned()),
        subresource: Some(act.subresource().to_owned()),
        namespace: namespace.map(str::to_owned),
        ..ResourceAttributes::default()
    };
    SubjectAccessReviewSpec {
        user: Some(user.name.clone()),
        uid: Some(user.uid.clone()).filter(|uid| !uid.is_empty()),
        groups: Some(user.groups.clone()),
        extra: Some(user.extra.clone()).filter(|extra| !extra.is_empty()),
        resource_attributes: Some(attributes),
        ..SubjectAccessReviewSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{Request, Response, StatusCode};
    use kube::client::Body;
    use parking_lot::Mutex;
    use serde_json::{Value, json};
    use std::collections::VecDeque;
    use std::sync::Arc;

    fn status(value: Value) -> Option<User> {
        user(serde_json::from_value(value).unwrap(), &["dormouse-usage".to_owned()])
    }

    #[test]
    fn only_a_token_that_is_meant_for_us_is_somebodys() {
        let alice = json!({"username": "alice", "uid": "7", "groups": ["g"], "extra": {"k": ["v"]}});
        let whole = json!({"authenticated": true, "audiences": ["x", "dormouse-usage"], "user": alice});
        let user = status(whole.clone()).unwrap();
        assert_eq!(
            (user.name.as_str(), user.uid.as_str(), user.groups.as_slice()),
            ("alice", "7", &["g".to_owned()][..])
        );
        assert_eq!(user.extra["k"], ["v"]);
        for (field, value) in [
            ("authenticated", json!(false)),
            ("authenticated", Value::Null),
            // What an API server answers that knows nothing of audiences, and one that says the token is its own.
            ("audiences", Value::Null),
            ("audiences", json!([])),
            ("audiences", json!(["https://kubernetes.default.svc"])),
            ("user", Value::Null),
            ("user", json!({"groups": ["system:masters"]})),
            ("user", json!({"username": ""})),
        ] {
            let mut other = whole.clone();
            other[field] = value.clone();
            assert_eq!(status(other), None, "{field}: {value}");
        }
        assert_eq!(status(json!({"error": "invalid bearer token"})), None);
    }

    #[test]
    fn the_whole_user_is_asked_about() {
        let extra = [("k".to_owned(), vec!["v".to_owned()])].into();
        let user = User { name: "alice".into(), uid: "7".into(), groups: vec!["g".into()], extra };
        let there = json!({"verb": "get", "group": "dormouse.dev", "resource": "functions", "subresource": "usage", "namespace": "shop"});
        let asked = serde_json::to_value(question(&user, Act::See, Some("shop"))).unwrap();
        let whole =
            json!({"user": "alice", "uid": "7", "groups": ["g"], "extra": {"k": ["v"]}, "resourceAttributes": there});
        assert_eq!(asked, whole);
        let everywhere = serde_json::to_value(question(&user, Act::Correct, None)).unwrap();
        assert!(everywhere["resourceAttributes"].get("namespace").is_none());
        assert_eq!(everywhere["resourceAttributes"]["verb"], "create");
    }

    /// What was asked: method and path, body.
    type Asked = Arc<Mutex<Vec<(String, Value)>>>;

    /// An API server that gives these answers in turn.
    fn server(answers: &[(u16, Value)]) -> (ApiServer, Asked) {
        let asked = Asked::default();
        let answers = Arc::new(Mutex::new(answers.iter().cloned().collect::<VecDeque<_>>()));
        let noted = asked.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let (answers, noted) = (answers.clone(), noted.clone());
            async move {
                let to = format!("{} {}", request.method(), request.uri().path());
                let body = request.into_body().collect_bytes().await?;
                noted.lock().push((to, serde_json::from_slice(&body)?));
                let (status, answer) = answers.lock().pop_front().unwrap();
                let answer = Body::from(serde_json::to_vec(&answer)?);
                Ok::<_, tower::BoxError>(Response::builder().status(status).body(answer)?)
            }
        });
        (ApiServer::new(Client::new(service, "default"), vec!["dormouse-usage".to_owned()]), asked)
    }

    #[tokio::test]
    async fn the_api_server_is_asked_in_its_own_words() {
        let known = json!({"authenticated": true, "audiences": ["dormouse-usage"], "user": {"username": "alice"}});
        let (server, asked) = server(&[
            (201, json!({"metadata": {}, "spec": {"token": "t"}, "status": known})),
            (201, json!({"metadata": {}, "spec": {}, "status": {"allowed": true}})),
            (201, json!({"metadata": {}, "spec": {}, "status": {"allowed": false, "evaluationError": "no such role"}})),
            (201, json!({"metadata": {}, "spec": {}, "status": {"allowed": true, "denied": true}})),
            (201, json!({"metadata": {}, "spec": {}})),
        ]);
        let alice = server.identify("t").await.unwrap().unwrap();
        for allowed in [true, false, false, false] {
            assert_eq!(server.allows(&alice, Act::See, Some("shop")).await.unwrap(), allowed);
        }
        let asked = asked.lock();
        let (to, body) = &asked[0];
        assert_eq!(to, "POST /apis/authentication.k8s.io/v1/tokenreviews");
        assert_eq!(body["spec"], json!({"audiences": ["dormouse-usage"], "token": "t"}));
        let (to, body) = &asked[1];
        assert_eq!(to, "POST /apis/authorization.k8s.io/v1/subjectaccessreviews");
        assert_eq!(
            (&body["spec"]["user"], &body["spec"]["resourceAttributes"]["namespace"]),
            (&"alice".into(), &"shop".into())
        );
    }

    #[tokio::test]
    async fn an_api_server_that_refuses_us_is_no_answer() {
        let status = json!({"kind": "Status", "status": "Failure", "message": "may not create tokenreviews", "reason": "Forbidden", "code": 403});
        let code = StatusCode::FORBIDDEN.as_u16();
        let (server, _) = server(&[(code, status.clone()), (code, status)]);
        let why = server.identify("t").await.unwrap_err();
        assert!(why.0.contains("may not create tokenreviews"), "{why}");
        assert!(server.allows(&User::default(), Act::See, None).await.is_err());
    }
}
