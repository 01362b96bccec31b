//! The shared token in front of every question.

use super::error::ApiError;
use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::Response;
use dormouse_daemon::Token;

/// Lets a question through that carries the token.
pub(super) async fn check(State(token): State<Token>, request: Request, next: Next) -> Result<Response, ApiError> {
    match request.headers().get(AUTHORIZATION).is_some_and(|shown| token.opens(shown.as_bytes())) {
        true => Ok(next.run(request).await),
        false => Err(ApiError::Unauthorized),
    }
}
