//! The API server as the one who knows: TokenReview and SubjectAccessReview.

use super::{Reviewer, Unasked, User};
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

    fn allows<'a>(&'a self, user: &'a User, namespace: Option<&'a str>) -> BoxFuture<'a, Result<bool, Unasked>> {
        let review = SubjectAccessReview { spec: question(user, namespace), ..SubjectAccessReview::default() };
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

/// May this user get `functions/usage` there?
fn question(user: &User, namespace: Option<&str>) -> SubjectAccessReviewSpec {
    let attributes = ResourceAttributes {
        verb: Some("get".to_owned()),
        group: Some(Function::group(&()).into_owned()),
        resource: Some("functions".to_owned()),
        subresource: Some("usage".to_owned()),
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
    use serde_json::{Value, json};

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
        let asked = serde_json::to_value(question(&user, Some("shop"))).unwrap();
        let whole =
            json!({"user": "alice", "uid": "7", "groups": ["g"], "extra": {"k": ["v"]}, "resourceAttributes": there});
        assert_eq!(asked, whole);
        let everywhere = serde_json::to_value(question(&user, None)).unwrap();
        assert!(everywhere["resourceAttributes"].get("namespace").is_none());
    }
}
