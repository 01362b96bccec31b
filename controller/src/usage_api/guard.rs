//! Who may ask what, in front of every question: the operator's token opens everything; a token of Kubernetes opens what
//! its owner may see there.
//!
//! A question is refused before anything is looked up for it, so that a refusal says nothing about what there is.

use super::access::{Need, needed};
use super::error::{ApiError, Place};
use super::payers::{Paid, Payers};
use super::reviews::{Act, Reviewer, Reviews, Unasked, User};
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{Query, RawPathParams, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use dormouse_daemon::Token;
use std::sync::Arc;

/// Longest token that is looked at: those of service accounts have about 1 KiB, those of identity providers a few.
const MAX_TOKEN: usize = 16 << 10;

/// What the usage API asks for.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    operator: Option<Token>,
    reviews: Option<Arc<Reviews>>,
    payers: Option<Payers>,
}

impl Guard {
    /// Anyone may ask: only for an address that others cannot reach.
    #[must_use]
    pub fn open() -> Self {
        Self::default()
    }

    /// Whoever shows this token may ask everything.
    #[must_use]
    pub fn token(operator: Token) -> Self {
        Self { operator: Some(operator), ..Self::default() }
    }

    /// Besides, whoever a reviewer knows may ask what the reviewer allows.
    #[must_use]
    pub fn reviewed_by(self, reviewer: Arc<dyn Reviewer>) -> Self {
        Self { reviews: Some(Arc::new(Reviews::new(reviewer))), ..self }
    }

    /// Besides, these say what a tenant pays for.
    pub(super) fn told_by(self, payers: Payers) -> Self {
        Self { payers: Some(payers), ..self }
    }

    /// Says who asks, if he may.
    async fn admits(&self, shown: Option<&HeaderValue>, need: Need) -> Result<Asker, ApiError> {
        if self.operator.is_none() && self.reviews.is_none() {
            return Ok(Asker("anyone".to_owned()));
        }
        let shown = shown.ok_or(ApiError::Unauthorized)?.as_bytes();
        if self.operator.as_ref().is_some_and(|operator| operator.opens(shown)) {
            return Ok(Asker("the operator's token".to_owned()));
        }
        let reviews = self.reviews.as_ref().ok_or(ApiError::Unauthorized)?;
        let token = bearer(shown).ok_or(ApiError::Unauthorized)?;
        let user = reviews.who(token).await?.ok_or(ApiError::Unauthorized)?;
        self.admits_user(reviews, &user, need).await?;
        Ok(Asker(user.name.clone()))
    }

    async fn admits_user(&self, reviews: &Reviews, user: &Arc<User>, need: Need) -> Result<(), ApiError> {
        match need {
            Need::Nothing => Ok(()),
            Need::Correcting => match reviews.may_do(user, Act::Correct, None).await? {
                true => Ok(()),
                false => Err(ApiError::Forbidden { user: user.name.clone(), place: Place::Correcting }),
            },
            Need::Invoking(namespace) => match reviews.may_do(user, Act::Invoke, namespace.as_deref()).await? {
                true => Ok(()),
                false => Err(ApiError::Forbidden { user: user.name.clone(), place: Place::Invoking(namespace) }),
            },
            Need::Everything => sees(reviews, user, None, || Place::Everywhere).await,
            Need::Namespaces(namespaces) => {
                for namespace in &namespaces {
                    sees(reviews, user, Some(namespace), || Place::Namespace(namespace.clone())).await?;
                }
                Ok(())
            }
            Need::Tenants(tenants) => {
                for tenant in &tenants {
                    self.admits_to(tenant, reviews, user).await?;
                }
                Ok(())
            }
        }
    }

    /// Whether a user may see what a tenant pays for. A refusal is the same whatever that is, and if it is nothing.
    async fn admits_to(&self, tenant: &str, reviews: &Reviews, user: &Arc<User>) -> Result<(), ApiError> {
        let place = || Place::Tenant(tenant.to_owned());
        let paid = match &self.payers {
            Some(payers) => payers.of(tenant).await?,
            None => Paid::Unknown,
        };
        match paid {
            // Who may see everything need not be asked about one by one.
            Paid::For(namespaces) if namespaces.len() > 1 && reviews.may(user, None).await? => Ok(()),
            Paid::For(namespaces) => {
                for namespace in &namespaces {
                    sees(reviews, user, Some(namespace), place).await?;
                }
                Ok(())
            }
            Paid::Unclear => sees(reviews, user, None, place).await,
            // He may be right to ask: it is no refusal.
            Paid::Unknown if !reviews.may(user, None).await? => Err(ApiError::TenantUnknown),
            Paid::Unknown => Ok(()),
        }
    }
}

/// Who asks, as it is told and kept where something is changed.
#[derive(Clone, Debug)]
pub(super) struct Asker(pub(super) String);

async fn sees(
    reviews: &Reviews,
    user: &Arc<User>,
    namespace: Option<&str>,
    place: impl FnOnce() -> Place,
) -> Result<(), ApiError> {
    match reviews.may(user, namespace).await? {
        true => Ok(()),
        false => Err(ApiError::Forbidden { user: user.name.clone(), place: place() }),
    }
}

impl From<Unasked> for ApiError {
    /// Why it was not to be had stands in the log.
    fn from(_: Unasked) -> Self {
        Self::Unasked
    }
}

/// The token of a header `authorization: Bearer TOKEN`, if it can be one.
fn bearer(header: &[u8]) -> Option<&str> {
    let (scheme, token) = header.split_at_checked(b"Bearer ".len())?;
    let plain = (1..=MAX_TOKEN).contains(&token.len()) && token.iter().all(u8::is_ascii_graphic);
    str::from_utf8(token).ok().filter(|_| plain && scheme.eq_ignore_ascii_case(b"Bearer "))
}

/// Lets a question through whose asker may have the answer.
pub(super) async fn check(
    State(guard): State<Guard>,
    in_path: Result<RawPathParams, RawPathParamsRejection>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let tenant = in_path.iter().flatten().find_map(|(name, value)| (name == "tenant").then_some(value));
    let need = match Query::<Vec<(String, String)>>::try_from_uri(request.uri()) {
        Ok(Query(parameters)) => needed(request.method(), request.uri().path(), tenant, &parameters),
        // The right to read is none to change something, whatever is asked.
        Err(_) if request.method() == Method::POST => needed(request.method(), request.uri().path(), tenant, &[]),
        Err(_) => Need::Everything,
    };
    let asker = guard.admits(request.headers().get(AUTHORIZATION), need).await?;
    request.extensions_mut().insert(asker);
    Ok(next.run(request).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bearer_token_is_one_plain_word() {
        assert_eq!(bearer(b"Bearer a.b-c_d"), Some("a.b-c_d"));
        assert_eq!(bearer(b"bearer x"), Some("x"));
        for other in
            [&b""[..], b"x", b"Bearer", b"Bearer ", b"Bearer a b", b"Bearer  a", b"Basic eHg6eQ==", b"Bearer \xff"]
        {
            assert_eq!(bearer(other), None, "{other:?}");
        }
        let longest = [&b"Bearer "[..], &[b'x'; MAX_TOKEN]].concat();
        assert!(bearer(&longest).is_some() && bearer(&[&longest[..], b"x"].concat()).is_none());
    }
}
