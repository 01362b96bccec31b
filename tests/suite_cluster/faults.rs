//! What users do wrong, and what they are told.

use crate::world::{SAMPLE, World, function, ok};
use anyhow::Result;
use dormouse_core::function::rules;
use dormouse_tests::cluster::LIMIT;
use dormouse_tests::wait::until;
use serde_json::json;
use std::time::Instant;

/// The API server refuses with the rules' own words.
pub(crate) async fn bad_manifests_are_refused_with_our_words(world: World) -> Result<()> {
    let long = "a".repeat(53);
    let bad = [
        (function(&long, &[]), rules::NAME_MESSAGE),
        (function("bad", &["env: [{name: PORT, value: '1'}]"]), rules::ENV_RESERVED.message),
        (function("bad", &["reservedConcurrency: 1", "warmUpConcurrency: 2"]), rules::WARM_WITHIN_RESERVED.message),
        (
            function("bad", &["source: {runtime: nodejs, handler: index.handler, inline: x}"]),
            rules::SOURCE_CODE.message,
        ),
        (function("bad", &[]).replace(&format!("image: {SAMPLE}"), "port: 1"), rules::IMAGE_OR_SOURCE.message),
        (function("bad", &["idleTimeoutSeconds: 0"]), "greater than or equal to 1"),
        (function("bad", &["concurrency: many"]), "must be of type integer"),
        (function("bad", &["memory: 1Gi"]), "unknown field \"spec.memory\""),
    ];
    world
        .alone("bad", |_, space| async move {
            for (yaml, words) in bad {
                match space.apply(&yaml) {
                    Ok(said) => anyhow::bail!("accepted: {said}\n{yaml}"),
                    Err(error) => {
                        let said = error.to_string();
                        anyhow::ensure!(said.contains(words), "refused without `{words}`:\n{said}");
                    }
                }
            }
            Ok(())
        })
        .await
}

/// An image that cannot be pulled: status and callers are told the reason at once; mended, it works.
pub(crate) async fn a_broken_image_is_told_and_mended(world: World) -> Result<()> {
    world
        .alone("broken", |world, space| async move {
            let yaml = function("broken", &["timeoutSeconds: 5", "queue: {maxWaitSeconds: 60}"]);
            space.apply(&yaml.replace(SAMPLE, "registry.invalid/no/such:image"))?;
            let told = space.ready("broken", "False").await?;
            let status = told.status.unwrap_or_default();
            let ready = status.conditions.iter().find(|c| c.type_ == "Ready");
            anyhow::ensure!(ready.is_some_and(|c| c.reason == "ImagePullFailed"), "{:?}", status.conditions);
            anyhow::ensure!(ready.is_some_and(|c| c.message.contains("registry.invalid")), "{ready:?}");

            let began = Instant::now();
            let answer = world.by_host(&space, "broken", "/").call(1).await?;
            let code = answer.status.as_u16();
            anyhow::ensure!([502, 503].contains(&code) && answer.reason() == "ImagePullFailed", "{answer}");
            anyhow::ensure!(!answer.text().contains("registry.invalid"), "callers get the code only: {answer}");
            anyhow::ensure!(began.elapsed() < LIMIT / 2, "told at the end of the wait, not at once");
            until("an event says so", LIMIT / 4, || async {
                let events = space.events("broken").await?;
                anyhow::ensure!(events.iter().any(|e| e == "ImagePullFailed"), "{events:?}");
                Ok(())
            })
            .await?;

            space.patch("broken", &json!({"spec": {"image": SAMPLE}})).await?;
            space.ready("broken", "True").await?;
            ok(&world.by_host(&space, "broken", "/")).await?;
            Ok(())
        })
        .await
}

/// A function that ends within a call: 502 and a code, never sent again, one record; the next call is answered.
pub(crate) async fn a_crashing_function_is_told(world: World) -> Result<()> {
    world
        .alone("crash", |world, space| async move {
            space.apply(&function("crashing", &["idleTimeoutSeconds: 5"]))?;
            space.ready("crashing", "True").await?;
            let answer = world.by_host(&space, "crashing", "/crash").call(1).await?;
            anyhow::ensure!(answer.status == 502 && answer.reason() == "InstanceDied", "{answer}");
            until("the function answers again", LIMIT, || async {
                ok(&world.by_host(&space, "crashing", "/")).await.map(drop)
            })
            .await?;
            let ids = until("a record of the crash", LIMIT, || async {
                let query = format!("{}&namespace={}", dormouse_tests::usage::lately(), space.name);
                let ids = world.usage.request_ids(&query).await?;
                anyhow::ensure!(ids.iter().any(|id| id == answer.request_id()), "{ids:?}");
                Ok(ids)
            })
            .await?;
            let times = ids.iter().filter(|id| *id == answer.request_id()).count();
            anyhow::ensure!(times == 1, "recorded {times} times");
            Ok(())
        })
        .await
}
