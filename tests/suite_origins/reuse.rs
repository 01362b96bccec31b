//! Rule 3: a pooled connection is reused only while the server behind it surely keeps it. Callers with gaps of 0 to 6 s
//! meet servers that close after 2 s (gunicorn), 5 s (Node, uvicorn) and 75 s (nginx), or after every answer, with and
//! without saying so: a proxy that reuses a connection at the moment of the server's own close fails calls.
//!
//! The seed is printed; `DORMOUSE_TEST_SEED` draws the same gaps again.

use crate::raw::LIMIT;
use crate::world::{Kind, World, seen, world};
use anyhow::{Context, ensure};
use dormouse_tests::checker::Verdict;
use dormouse_tests::client::{Answer, CallError, Connection, Target};
use dormouse_tests::env::long;
use dormouse_tests::journal::{Entry, Journal};
use dormouse_tests::wait::until;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Instances of each kind.
fn instances() -> usize {
    if long() { 12 } else { 6 }
}

/// Calls of a volley: they come at once, so that as many connections idle for the gap after it.
fn shots() -> usize {
    if long() { 5 } else { 7 }
}

/// Volleys at each instance: 5 kinds x 6 x 7 x 7 = 1,470 calls in about 30 s, 5 x 12 x 5 x 168 = 50,400 in about 550 s.
fn volleys() -> usize {
    if long() { 168 } else { 7 }
}

/// Longest gap between two volleys at an instance; each is drawn anew.
const GAP_MS: u64 = 6_000;

/// The connections that instances of a kind saw: by function and the caller's port. A port that comes back is counted
/// once, so there may have been a few more.
type Seen = Mutex<BTreeMap<&'static str, HashSet<(String, u64)>>>;

#[tokio::test(flavor = "multi_thread")]
async fn no_call_is_lost_to_a_server_that_closes() {
    let names = |kind: Kind| (0..instances()).map(move |i| (kind, format!("{}-{i}", kind.name())));
    let all: Vec<(Kind, String)> = Kind::ALL.into_iter().flat_map(names).collect();
    let functions = all.iter().map(|(kind, name)| kind.function(name, json!({}))).collect();
    world(functions, &[], async |world| {
        let names: Vec<&str> = all.iter().map(|(_, name)| name.as_str()).collect();
        let first: HashSet<String> = world.up(&names).await?.into_iter().collect();
        let (journal, connections) = (Arc::new(Journal::default()), Arc::new(Seen::default()));
        let given: Option<u64> = std::env::var("DORMOUSE_TEST_SEED").ok().and_then(|s| s.parse().ok());
        let seed = given.unwrap_or_else(rand::random);
        println!("seed {seed}");
        let mut running = JoinSet::new();
        for (i, (kind, name)) in all.iter().enumerate() {
            let target = world.pair.function(name, "/");
            let caller = Caller { kind: *kind, name: name.clone(), target, number: i };
            let rng = StdRng::seed_from_u64(seed ^ i as u64);
            running.spawn(caller.run(rng, journal.clone(), connections.clone()));
        }
        while let Some(done) = running.join_next().await {
            done?;
        }
        counted(world, &first, &journal.entries(), &connections).await
    })
    .await;
}

struct Caller {
    kind: Kind,
    name: String,
    target: Target,
    number: usize,
}

impl Caller {
    /// Calls after random gaps, on connections of its own to the activator: what is reused is behind it.
    async fn run(self, mut rng: StdRng, journal: Arc<Journal>, connections: Arc<Seen>) {
        let began = Instant::now();
        let mut kept: Vec<Option<Connection>> = (0..shots()).map(|_| None).collect();
        for volley in 0..volleys() {
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..GAP_MS))).await;
            let first = (self.number * volleys() + volley) * shots();
            let calls = kept.iter_mut().enumerate().map(|(i, kept)| self.one((first + i) as u64, began, kept));
            for (entry, port) in futures::future::join_all(calls).await {
                journal.add(entry);
                if let Some(port) = port {
                    let mut all = connections.lock().unwrap_or_else(PoisonError::into_inner);
                    all.entry(self.kind.name()).or_default().insert((self.name.clone(), port));
                }
            }
        }
    }

    /// One call, and the port that its instance was called from.
    async fn one(&self, number: u64, began: Instant, kept: &mut Option<Connection>) -> (Entry, Option<u64>) {
        let due = Instant::now();
        let result = async {
            let mut open = match kept.take().filter(Connection::usable) {
                Some(open) => open,
                None => Connection::open(self.target.addr).await?,
            };
            // Every second one brings a body: it cannot be sent again when a connection turns out closed.
            let request =
                if number.is_multiple_of(2) { self.target.get(number) } else { self.target.post(number, "data") };
            let answer = open.call(request).await?;
            *kept = Some(open);
            Ok(answer)
        };
        let result: Result<Answer, CallError> = result.await;
        let port = result.as_ref().ok().and_then(|a| seen(&a.body).ok()?["connection"].as_u64());
        (Entry::of(number, due.saturating_duration_since(began), due.elapsed(), &result), port)
    }
}

/// Every call was answered and is recorded once; connections were reused where the rule allows it. `first` are calls
/// that were made before.
async fn counted(world: &World, first: &HashSet<String>, entries: &[Entry], connections: &Seen) -> anyhow::Result<()> {
    let failed: Vec<&Entry> = entries.iter().filter(|e| e.status != 200).collect();
    ensure!(
        failed.is_empty(),
        "{} of {} calls failed: {:?}",
        failed.len(),
        entries.len(),
        &failed[..failed.len().min(9)]
    );
    let each = instances() * shots() * volleys();
    ensure!(entries.len() == each * Kind::ALL.len(), "{} calls were made", entries.len());
    let verdict = until("every call is recorded once", LIMIT, || async {
        let mut recorded = world.pair.recorded().await?;
        recorded.retain(|id| !first.contains(id));
        let verdict = Verdict::of(entries, &recorded);
        ensure!(verdict.good() && verdict.recorded == verdict.answered, "{verdict}");
        Ok(verdict)
    });
    println!("{} calls: {}", entries.len(), verdict.await?);
    let connections = connections.lock().unwrap_or_else(PoisonError::into_inner);
    for kind in Kind::ALL {
        let opened = connections.get(kind.name()).context("no answer says its connection")?.len();
        println!("{:>9}: {each} calls on {opened} connections", kind.name());
        // One that closes after every answer can have none reused.
        let reused = each - opened.min(each);
        ensure!(
            kind == Kind::Gunicorn || reused > each / 20,
            "{kind:?}: {reused} calls of {each} on a used connection"
        );
    }
    Ok(())
}
