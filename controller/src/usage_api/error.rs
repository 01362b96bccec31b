//! Errors become answers here, and only here.

use crate::ledger::ReadError;
use crate::ledger::reversals::ReverseError;
use crate::table::WriteError;
use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// One thing wrong with a question.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(super) struct Fault {
    /// Which parameter.
    pub(super) parameter: String,
    /// The rule it breaks.
    pub(super) problem: String,
}

/// Where somebody lacks the right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Namespace(String),
    /// Somewhere among what the tenant pays for, if there is such a tenant: where is not told.
    Tenant(String),
    /// In all namespaces.
    Everywhere,
    /// To take records back.
    Correcting,
    /// To call functions by events: of a namespace, or of all.
    Invoking(Option<String>),
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum ApiError {
    /// The question has faults: all of them.
    BadRequest(Vec<Fault>),
    Unauthorized,
    /// The asker is known, and may not see what was asked for.
    Forbidden {
        user: String,
        place: Place,
    },
    /// Which namespaces a tenant pays for cannot be said at the moment, so neither who may ask about it.
    TenantUnknown,
    /// Who asks, or what he may see, could not be found out.
    Unasked,
    NotFound(String),
    MethodNotAllowed,
    /// The asker reads nothing that is written here: what is.
    NotAcceptable(String),
    /// An amount that cannot be written.
    TooLarge,
    Busy,
    /// The ledger is closed, and why.
    Unavailable(String),
    /// An event was not made, and why.
    NotMade(&'static str),
    Internal,
}

#[derive(serde::Serialize)]
struct Body {
    error: &'static str,
    message: String,
    faults: Vec<Fault>,
}

impl From<ReadError> for ApiError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::UnknownTenant(_) => Self::NotFound(error.to_string()),
            ReadError::TooLarge(_) => Self::TooLarge,
            ReadError::Closed(why) => Self::Unavailable(why),
            ReadError::Store(_) | ReadError::Corrupt(_) => {
                tracing::error!(error = ?error, "the ledger could not be read");
                Self::Internal
            }
        }
    }
}

impl From<ReverseError> for ApiError {
    fn from(error: ReverseError) -> Self {
        match error {
            ReverseError::Refused(problem) => Self::BadRequest(vec![Fault { parameter: "body".to_owned(), problem }]),
            ReverseError::Read(error) => error.into(),
            ReverseError::Write(error) => Self::Unavailable(error.to_string()),
        }
    }
}

impl From<WriteError> for ApiError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::TooLarge(_) => Self::TooLarge,
            WriteError::Misfit(_) | WriteError::Parquet(_) => {
                tracing::error!(error = ?error, "an answer could not be written");
                Self::Internal
            }
        }
    }
}

/// Names nothing but the asker and what he asked for.
fn forbidden(user: &str, place: Place) -> String {
    let right = "the right to get functions/usage (API group dormouse.dev)";
    match place {
        Place::Namespace(namespace) => format!("{user} lacks {right} in namespace {namespace}"),
        Place::Tenant(tenant) => format!(
            "{user} lacks {right} in every namespace that tenant {tenant} pays for or has paid for: ask somebody who \
             may see all namespaces, or name those that you may see (/v1/usage?filter[namespace]=NAME)"
        ),
        Place::Correcting => format!(
            "{user} lacks the right to create functions/usage (API group dormouse.dev) in all namespaces, which taking \
             records back needs: the ClusterRole dormouse-usage-corrector has it"
        ),
        Place::Invoking(namespace) => {
            let place = namespace.map_or("all namespaces".to_owned(), |namespace| format!("namespace {namespace}"));
            format!(
                "{user} lacks the right to create functions/invoke (API group dormouse.dev) in {place}: the ClusterRole \
                 dormouse-invoker has it, as have edit and admin"
            )
        }
        Place::Everywhere => format!(
            "{user} lacks {right} in all namespaces, which this question is about: name namespaces that you may see \
             (/v1/usage?filter[namespace]=NAME, /v1/records?namespace=NAME, /v1/statements/NAME/MONTH)"
        ),
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut faults = Vec::new();
        let (status, error, message) = match self {
            Self::BadRequest(all) => {
                faults = all;
                let told: Vec<_> = faults.iter().map(|f| format!("{}: {}", f.parameter, f.problem)).collect();
                (StatusCode::BAD_REQUEST, "BadRequest", told.join("; "))
            }
            Self::Unauthorized => {
                let message = "send the header Authorization: Bearer TOKEN with a token that is meant for this API: the \
                               operator's, or one that `kubectl create token ACCOUNT --audience AUDIENCE` gives (AUDIENCE \
                               is dormouse-usage unless the chart's usageApi.audiences says otherwise)";
                (StatusCode::UNAUTHORIZED, "Unauthorized", message.to_owned())
            }
            Self::Forbidden { user, place } => (StatusCode::FORBIDDEN, "Forbidden", forbidden(&user, place)),
            Self::TenantUnknown => {
                let message = "which namespaces a tenant pays for cannot be said at the moment: ask again, or ask about \
                               namespaces";
                (StatusCode::SERVICE_UNAVAILABLE, "AuthorizationUnavailable", message.to_owned())
            }
            Self::Unasked => {
                let message = "Kubernetes could not be asked who you are and what you may see: ask again";
                (StatusCode::SERVICE_UNAVAILABLE, "AuthorizationUnavailable", message.to_owned())
            }
            Self::NotFound(message) => (StatusCode::NOT_FOUND, "NotFound", message),
            Self::MethodNotAllowed => (
                StatusCode::METHOD_NOT_ALLOWED,
                "MethodNotAllowed",
                "only GET, and POST of /v1/reversals and of events".to_owned(),
            ),
            Self::NotAcceptable(offered) => {
                let message = format!("the Accept header takes none of what is written here: {offered}");
                (StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message)
            }
            Self::TooLarge => {
                let message = "an amount has more digits than can be written: ask for a shorter period, or in JSON";
                (StatusCode::UNPROCESSABLE_ENTITY, "TooLarge", message.to_owned())
            }
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, "Busy", "too many questions at once: ask again".to_owned()),
            Self::Unavailable(why) => {
                let message = format!("the ledger is closed: {why}");
                (StatusCode::SERVICE_UNAVAILABLE, "LedgerUnavailable", message)
            }
            Self::NotMade(why) => {
                let message = format!("no call was made ({why}): ask again");
                (StatusCode::SERVICE_UNAVAILABLE, "EventNotMade", message)
            }
            Self::Internal => {
                let message = "the ledger could not be read, or what was read not written: see the controller's log";
                (StatusCode::INTERNAL_SERVER_ERROR, "Internal", message.to_owned())
            }
        };
        let mut response = (status, Json(Body { error, message, faults })).into_response();
        if status == StatusCode::UNAUTHORIZED {
            let bearer = HeaderValue::from_static("Bearer realm=\"dormouse usage\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, bearer);
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response
    }
}
