//! The warm pools that the operator has named: made, kept as they were named, and removed when they are named no more.

use super::MANAGER;
use super::effects::within;
use crate::fleet::FleetError;
use crate::labels;
use dormouse_core::WarmPool;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;
use std::time::Duration;

/// First and longest pause before what failed is tried again: a namespace may be made later than the platform.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Makes the pools, then removes those of a former list. Ends when all is done.
pub(super) async fn keep(client: Client, pools: Vec<WarmPool>, namespace: Option<String>) {
    let mut pause = PAUSE.0;
    loop {
        let mut failed = false;
        for pool in &pools {
            if let Err(error) = make(&client, pool).await {
                let (namespace, name) = (pool.namespace(), pool.name_any());
                tracing::warn!(namespace, name, %error, "a warm pool that was named could not be made");
                failed = true;
            }
        }
        if let Err(error) = remove_others(&client, &pools, namespace.as_deref()).await {
            tracing::warn!(%error, "warm pools that are named no more could not be removed");
            failed = true;
        }
        if !failed {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

async fn make(client: &Client, pool: &WarmPool) -> Result<(), FleetError> {
    let name = pool.name_any();
    let body = json!({
        "apiVersion": WarmPool::api_version(&()), "kind": WarmPool::kind(&()),
        "metadata": {"name": name, "labels": labels::of_named()}, "spec": pool.spec,
    });
    let api: Api<WarmPool> = Api::namespaced(client.clone(), &pool.namespace().unwrap_or_default());
    within(&name, api.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(body))).await.map(drop)
}

async fn remove_others(client: &Client, pools: &[WarmPool], namespace: Option<&str>) -> Result<(), FleetError> {
    let all: Api<WarmPool> = super::api(client, namespace);
    let named = ListParams::default().labels(labels::NAMED);
    for found in within("warm pools", all.list_metadata(&named)).await?.items {
        let (namespace, name) = (found.namespace().unwrap_or_default(), found.name_any());
        if pools.iter().any(|pool| pool.namespace().as_deref() == Some(&namespace) && pool.name_any() == name) {
            continue;
        }
        let api: Api<WarmPool> = Api::namespaced(client.clone(), &namespace);
        match within(&name, api.delete(&name, &DeleteParams::default())).await {
            Ok(_) | Err(FleetError::Gone(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
