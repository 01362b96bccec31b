//! How many questions were answered, and how.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Answers of the usage API by status; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Requests(Family<Code, Counter>);

/// Statuses are ours, so there are few.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: u64,
}

impl Requests {
    /// A count that `registry` tells as `dormouse_usage_requests_total`.
    pub fn register(registry: &mut Registry) -> Self {
        let requests = Self::default();
        registry.register("dormouse_usage_requests", "Answers of the usage API, by status", requests.0.clone());
        requests
    }

    /// Counts what a router answers.
    pub fn counting(self, router: axum::Router) -> axum::Router {
        router.layer(axum::middleware::from_fn_with_state(self, count))
    }
}

async fn count(State(requests): State<Requests>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    requests.0.get_or_create(&Code { code: response.status().as_u16().into() }).inc();
    response
}
