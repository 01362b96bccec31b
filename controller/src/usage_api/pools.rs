//! What warm pools keep parked, for who may see everything.

use super::Pairs;
use super::error::ApiError;
use super::params::Params;
use crate::fleet::PoolKey;
use crate::parking::{Kept, Parking};
use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;

/// Where it is told.
pub(super) const ROUTE: &str = "/v1/pools/usage";

/// The route, to be put beside the others: see [`super::with`].
pub fn pools(parking: Parking) -> Router {
    let refused = async || ApiError::MethodNotAllowed;
    Router::new().route(ROUTE, get(usage)).method_not_allowed_fallback(refused).with_state(parking)
}

/// Answer of [`ROUTE`].
#[derive(Serialize)]
struct Pools {
    since: String,
    pools: Vec<Pool>,
}

/// One pool.
#[derive(Serialize)]
struct Pool {
    namespace: String,
    pool: String,
    parked: u64,
    mib_seconds: u64,
    vcpu_milliseconds: u64,
}

async fn usage(State(parking): State<Parking>, pairs: Pairs) -> Result<Json<Pools>, ApiError> {
    Params::new(pairs, &[])?.done()?;
    let row = |(key, kept): (PoolKey, Kept)| {
        let (PoolKey { namespace, name: pool }, Kept { parked, mib_seconds, vcpu_milliseconds }) = (key, kept);
        Pool { namespace, pool, parked, mib_seconds, vcpu_milliseconds }
    };
    Ok(Json(Pools { since: parking.since().to_string(), pools: parking.told().into_iter().map(row).collect() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::extract::Query;

    #[tokio::test]
    async fn it_is_told_as_it_is_described() {
        let parking = Parking::default();
        let key = PoolKey { namespace: "shop".into(), name: "small".into() };
        parking.see(&key, [(256, 100)].into_iter());
        let Json(told) = usage(State(parking), Ok(Query(Vec::new()))).await.unwrap();
        let file: serde_json::Value = serde_saphyr::from_str(super::super::OPENAPI).unwrap();
        let told = serde_json::to_value(told).unwrap();
        for (schema, value) in [("Pools", &told), ("Pool", &told["pools"][0])] {
            let said = file["components"]["schemas"][schema]["properties"].as_object().unwrap();
            assert!(said.keys().eq(value.as_object().unwrap().keys()), "{schema}");
        }
    }
}
