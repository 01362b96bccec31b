//! Every case of the corpus through us to each instance, and through nginx and HAProxy to the same ones.

use crate::cases::{self, Case, INSTANCES, Said};
use crate::common::ready;
use crate::origins::{Origins, PROXIES, Seen};
use crate::raw::{Heard, Wanted, exchange};
use crate::stand::Stand;
use futures::StreamExt;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// Through whom requests go that go through us.
const US: &str = "dormouse";
/// Exchanges at once: fewer than the threads of the Python server, which each hold a connection.
const AT_ONCE: usize = 12;
/// For proxies whose answers are not known before: after so long what they do is taken as it is.
const PROXY_LIMIT: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn instances_see_what_was_meant_and_we_are_not_more_lenient_than_others() {
    let cases = cases::all();
    let folder = tempfile::tempdir().unwrap();
    let origins = Origins::start(folder.path()).await;
    let stand = Stand::start(&[]).await;
    for name in INSTANCES {
        stand.publish(ready(name, origins.instance(name), 100)).await;
    }
    let ours = run(
        &cases,
        |_| Some((US, stand.traffic)),
        |case, instance| {
            let said = case.says(instance);
            Wanted::new(said.statuses.len(), said.close)
        },
    );
    let ours = ours.await;
    for proxy in PROXIES {
        let wanted = |_: &Case, _: &str| Wanted { limit: PROXY_LIMIT, ..Wanted::new(1, false) };
        run(&cases, |instance| Some((proxy, origins.proxy(proxy, instance))), wanted).await;
    }
    // A second request that hid in a first one would come at once; the logs are written before the answers.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut faults = Vec::new();
    let mut whole = 0;
    for instance in INSTANCES {
        let seen = origins.seen(instance);
        for case in &cases {
            let (heard, at) = (&ours[&(case.name.clone(), instance)], format!("{} at {instance}", case.name));
            faults.extend(answer_faults(case.says(instance), heard).map(|fault| format!("{at}: {fault}")));
            faults.extend(seen_faults(case, instance, &seen).into_iter().map(|fault| format!("{at}: {fault}")));
            whole += case.sees(instance, US).len();
        }
    }
    faults.iter().for_each(|fault| println!("{fault}"));
    assert!(faults.is_empty(), "{} faults", faults.len());
    println!(
        "corpus: {} cases, {} instances, {whole} requests seen as meant, none besides",
        cases.len(),
        INSTANCES.len()
    );
}

/// Runs every case against every instance.
async fn run(
    cases: &[Case],
    way: impl Fn(&'static str) -> Option<(&'static str, SocketAddr)>,
    wanted: impl Fn(&Case, &'static str) -> Wanted,
) -> BTreeMap<(String, &'static str), Heard> {
    let pairs = cases.iter().flat_map(|case| INSTANCES.map(|instance| (case, instance)));
    let exchanges = pairs.filter_map(|(case, instance)| {
        let (via, addr) = way(instance)?;
        let (bytes, wanted, name) = (case.bytes(instance, via), wanted(case, instance), case.name.clone());
        Some(async move { ((name, instance), exchange(addr, bytes, wanted).await) })
    });
    futures::stream::iter(exchanges.collect::<Vec<_>>()).buffer_unordered(AT_ONCE).collect().await
}

fn answer_faults(said: &Said, heard: &Heard) -> Option<String> {
    let statuses = heard.statuses();
    if statuses == said.statuses && heard.closed == said.close {
        return None;
    }
    let end = if heard.closed { "close" } else { "open" };
    let text: String = String::from_utf8_lossy(&heard.bytes).chars().take(300).collect();
    Some(format!("says {statuses:?} {end}, not {said:?}: {text:?}"))
}

fn seen_faults(case: &Case, instance: &str, seen: &[Seen]) -> Vec<String> {
    let mut faults = Vec::new();
    let of = |via: &str| seen.iter().filter(|s| s.is_of(&case.id(via))).collect::<Vec<_>>();
    let ours = of(US);
    let whole: Vec<_> = ours.iter().copied().filter(|s| s.is_whole()).collect();
    let saw: Vec<_> = whole.iter().map(|s| s.meant()).collect();
    let meant = case.sees(instance, US);
    if saw != meant {
        faults.push(format!("saw {saw:?}, not {meant:?}"));
    }
    let others = PROXIES.map(|proxy| of(proxy).iter().filter(|s| s.is_whole()).count());
    if !case.waived && others.iter().all(|&n| n < whole.len()) {
        faults.push(format!("{} requests passed by us, {others:?} by {PROXIES:?}", whole.len()));
    }
    // nginx does not tell of requests that broke off, nor of headers.
    if instance != "nginx" {
        let broken = ours.iter().filter(|s| s.is_head()).count().saturating_sub(whole.len());
        if broken > case.broken {
            faults.push(format!("saw {broken} requests break off, more than {}", case.broken));
        }
        faults.extend(whole.iter().flat_map(|seen| header_faults(case, instance, seen)));
    }
    faults
}

fn header_faults(case: &Case, instance: &str, seen: &Seen) -> Vec<String> {
    let mut faults = Vec::new();
    for (only, name, value) in &case.headers {
        // WSGI has the length elsewhere.
        let told =
            only.as_deref().is_none_or(|only| only == instance) && !(instance == "python" && name == "content-length");
        let value = case.fill(value, instance, US);
        if told && seen.header(name) != [value.as_str()] {
            faults.push(format!("saw {name}: {:?}, not {value:?}", seen.header(name)));
        }
    }
    for name in case.no_headers.iter().filter(|name| !seen.header(name).is_empty()) {
        faults.push(format!("saw {name}: {:?}, which must not pass", seen.header(name)));
    }
    for (name, value) in &case.our_headers {
        let seen = seen.header(name);
        if seen.len() != 1 || seen[0] == value {
            faults.push(format!("saw {name}: {seen:?}, not one of ours"));
        }
    }
    for name in case.no_trailers.iter().filter(|name| seen.trailers.iter().any(|(n, _)| n == *name)) {
        faults.push(format!("saw the trailer {name}, which must not pass"));
    }
    faults
}
