//! Who pays for a namespace: what a label on its object says, from when it says so.

use crate::usage_api::{AUDIENCE, accounts, answers, called, token};
use crate::world::{World, ok};
use anyhow::{Context, Result};
use dormouse_tests::cluster::{LIMIT, Space, pod_name};
use dormouse_tests::usage::{Usage, lately};
use dormouse_tests::wait::until;
use std::collections::BTreeMap;

/// A changed label counts for calls that come from then on, with the same pod; who may read one namespace of a tenant reads
/// the tenant's statement only as long as he may read all.
pub(crate) async fn a_label_says_who_pays(world: World) -> Result<()> {
    world
        .alone("payer", |world, mine| async move {
            called(&world, &mine).await?;
            mine.apply(&accounts(&mine))?;
            let binding = format!("clusterrolebinding/{}-clerk", mine.name);
            let result = world.alone("paid", |world, other| shared(world, mine.clone(), other)).await;
            mine.cluster.kubectl(&["delete", &binding])?;
            result
        })
        .await
}

/// `None` takes the label off.
fn label(space: &Space, tenant: Option<&str>) -> Result<()> {
    let word = tenant.map_or("dormouse.dev/tenant-".to_owned(), |tenant| format!("dormouse.dev/tenant={tenant}"));
    space.cluster.kubectl(&["label", "namespace", &space.name, &word, "--overwrite"]).map(drop)
}

/// Calls of a namespace by who paid for them.
async fn paid(world: &World, space: &Space) -> Result<BTreeMap<String, usize>> {
    let records = world.usage.records(&format!("{}&namespace={}", lately(), space.name)).await?;
    let mut paid = BTreeMap::new();
    for record in &records {
        let tenant = record["tenant"].as_str().context("a record without a tenant")?;
        *paid.entry(tenant.to_owned()).or_default() += 1;
    }
    Ok(paid)
}

/// Calls until one is paid for by a tenant: the label takes its way to the activators. Gives how many that took.
async fn called_until(world: &World, space: &Space, tenant: &str) -> Result<usize> {
    until(&format!("a call of {} is paid for by {tenant}", space.name), LIMIT, || async {
        ok(&world.by_host(space, "called", "/")).await?;
        let paid = paid(world, space).await?;
        paid.get(tenant).copied().with_context(|| format!("paid so far: {paid:?}"))
    })
    .await
}

async fn shared(world: World, mine: Space, other: Space) -> Result<()> {
    called(&world, &other).await?;
    let tenant = format!("{}.team", mine.name);
    anyhow::ensure!(paid(&world, &mine).await? == [(mine.name.clone(), 1)].into(), "without a label it is its own");
    mine.patch("called", &serde_json::json!({"spec": {"idleTimeoutSeconds": 3600}})).await?;
    ok(&world.by_host(&mine, "called", "/")).await?;
    let names = |pods: Vec<_>| pods.iter().map(pod_name).collect::<Vec<_>>();
    let before = names(mine.pods("called").await?);
    label(&mine, Some(&tenant))?;
    called_until(&world, &mine, &tenant).await?;
    anyhow::ensure!(names(mine.pods("called").await?) == before, "its pod is another one now");
    anyhow::ensure!(paid(&world, &mine).await?.contains_key(&mine.name), "what was recorded stays as it was");

    let reader = world.usage.with(Some(&token(&mine, "reader", &[AUDIENCE])?));
    let month = jiff::Timestamp::now().strftime("%Y-%m").to_string();
    let statement = format!("/v1/statements/{tenant}/{month}");
    until("a reader of all that it pays for reads its statement", LIMIT, || async {
        answers(&reader, &statement, 200).await.map(drop)
    })
    .await?;
    complete(&world.usage, &statement).await?;
    label(&other, Some(&tenant))?;
    let refused = until("it pays for another namespace", LIMIT, || answers(&reader, &statement, 403)).await?;
    anyhow::ensure!(!refused.text().contains(&other.name), "another namespace is named: {refused}");
    let filtered = format!("/v1/usage?{}&filter[tenant]={tenant}", lately());
    answers(&reader, &filtered, 403).await?;
    answers(&world.usage, &statement, 200).await?;
    // Nothing of it was called: without the label it is as before.
    label(&other, None)?;
    until("it does no longer", LIMIT, || async { answers(&reader, &statement, 200).await.map(drop) }).await?;
    label(&other, Some(&tenant))?;
    called_until(&world, &other, &tenant).await?;
    label(&other, None)?;
    until("the API server's word on the label", LIMIT, || async {
        ok(&world.by_host(&other, "called", "/")).await?;
        anyhow::ensure!(paid(&world, &other).await?.get(&other.name).is_some_and(|n| *n > 1), "not yet");
        Ok(())
    })
    .await?;
    answers(&reader, &statement, 403).await?;
    label(&mine, None)
}

/// The ledger says how far it is complete, and goes on.
async fn complete(usage: &Usage, statement: &str) -> Result<()> {
    let asked = jiff::Timestamp::now();
    until("the ledger is complete up to now", LIMIT, || async {
        let said = usage.get(statement).await?;
        let through: jiff::Timestamp = said["complete_through"].as_str().context("it cannot be said")?.parse()?;
        anyhow::ensure!(through >= asked, "up to {through}");
        Ok(())
    })
    .await
}
