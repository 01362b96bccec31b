//! The load generator: a closed loop (N connections, one call after the other) and an open loop (a fixed rate, whatever
//! the answers take).

use crate::client::{CallError, Connection, Target};
use crate::journal::{Entry, Fate, Journal};
use crate::quantiles::Times;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Calls that an open loop has under way at once; further ones are due and wait, and their wait is part of their time.
const MAX_OPEN: usize = 4096;

/// What a timer may be late by itself: tokio's ticks are 1 ms and rounded up. Less than this is not counted as part of
/// a call's time; more is a stall of this program or machine, and is.
const TICK: Duration = Duration::from_millis(2);

/// How the calls of a run went.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Times of the calls that were answered by the function; in an open loop from when each was due.
    pub times: Times,
    /// How often each status came (0: no answer).
    pub statuses: BTreeMap<u16, u64>,
    /// The first few failures, for messages.
    pub failures: Vec<String>,
    /// From the first call to the last end.
    pub lasted: Duration,
}

/// Failures that a report keeps the text of.
const KEPT_FAILURES: usize = 8;

impl Report {
    /// Calls made.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.statuses.values().sum()
    }

    /// Calls that were not answered with 2xx.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.statuses.iter().filter(|(status, _)| !(200..300).contains(*status)).map(|(_, n)| n).sum()
    }

    /// A report over journal entries.
    #[must_use]
    pub fn of(entries: &[Entry], lasted: Duration) -> Self {
        let mut report = Self { lasted, ..Self::default() };
        entries.iter().for_each(|e| report.add(e));
        report
    }

    fn add(&mut self, entry: &Entry) {
        *self.statuses.entry(entry.status).or_default() += 1;
        if entry.fate == Fate::Ok {
            self.times.record(Duration::from_micros(entry.took_us));
        }
        if !(200..300).contains(&entry.status) && self.failures.len() < KEPT_FAILURES {
            self.failures.push(format!("call {}: {} {}", entry.number, entry.status, entry.reason));
        }
    }

    fn merge(&mut self, other: &Self) {
        self.times.merge(&other.times);
        for (status, n) in &other.statuses {
            *self.statuses.entry(*status).or_default() += n;
        }
        let room = KEPT_FAILURES.saturating_sub(self.failures.len());
        self.failures.extend(other.failures.iter().take(room).cloned());
        self.lasted = self.lasted.max(other.lasted);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_second = u128::from(self.calls()) * 1000 / self.lasted.as_millis().max(1);
        write!(f, "{} calls, {per_second} per second, statuses {:?}, {}", self.calls(), self.statuses, self.times)?;
        self.failures.iter().try_for_each(|failure| write!(f, "\n    {failure}"))
    }
}

/// When a closed loop ends.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// After this long.
    Time(Duration),
    /// After this many calls in all.
    Calls(u64),
}

/// A closed loop: each of `connections` makes one call after the other; a connection that broke is made anew.
pub async fn closed(target: &Target, connections: usize, until: Until, journal: Option<Arc<Journal>>) -> Report {
    let (next, began) = (Arc::new(AtomicU64::new(1)), Instant::now());
    let mut workers = JoinSet::new();
    for _ in 0..connections {
        let (target, next, journal) = (target.clone(), next.clone(), journal.clone());
        workers.spawn(async move {
            let (mut report, mut connection) = (Report::default(), None);
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let over = match until {
                    Until::Time(limit) => began.elapsed() >= limit,
                    Until::Calls(limit) => number > limit,
                };
                if over {
                    report.lasted = began.elapsed();
                    return report;
                }
                let entry = one(&target, &mut connection, number, began, Instant::now()).await;
                report.add(&entry);
                if let Some(journal) = &journal {
                    journal.add(entry);
                }
            }
        });
    }
    let mut all = Report::default();
    while let Some(done) = workers.join_next().await {
        all.merge(&done.unwrap_or_default());
    }
    all
}

/// An open loop: `rate` calls per second from now until `stop`, every one in the journal; then waits for those under
/// way. Connections are kept and shared; a call that finds none opens one. Times count from when a call was due, so a
/// stall is seen by every call that it delayed.
pub async fn open(target: &Target, rate: u32, stop: CancellationToken, journal: Arc<Journal>) -> Report {
    let idle: Arc<Mutex<Vec<Connection>>> = Arc::default();
    let room = Arc::new(Semaphore::new(MAX_OPEN));
    let began = Instant::now();
    let mut calls = JoinSet::new();
    for number in 1_u64.. {
        let due = began + Duration::from_secs(1) / rate.max(1) * u32::try_from(number - 1).unwrap_or(u32::MAX);
        tokio::select! {
            () = tokio::time::sleep_until(due.into()) => {}
            () = stop.cancelled() => break,
        }
        let due = if due.elapsed() < TICK { Instant::now() } else { due };
        let Ok(permit) = room.clone().acquire_owned().await else { break };
        let (target, idle, journal) = (target.clone(), idle.clone(), journal.clone());
        calls.spawn(async move {
            let mut connection = take(&idle);
            let entry = one(&target, &mut connection, number, began, due).await;
            journal.add(entry);
            if let Some(connection) = connection {
                idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            }
            drop(permit);
        });
        while calls.try_join_next().is_some() {}
    }
    while calls.join_next().await.is_some() {}
    Report::of(&journal.entries(), began.elapsed())
}

fn take(idle: &Mutex<Vec<Connection>>) -> Option<Connection> {
    let mut idle = idle.lock().unwrap_or_else(PoisonError::into_inner);
    while let Some(connection) = idle.pop() {
        if connection.usable() {
            return Some(connection);
        }
    }
    None
}

/// `n` calls at once, each on a connection of its own.
pub async fn burst(target: &Target, n: u64, journal: Option<Arc<Journal>>) -> Report {
    let began = Instant::now();
    let mut calls = JoinSet::new();
    for number in 1..=n {
        let target = target.clone();
        calls.spawn(async move { one(&target, &mut None, number, began, began).await });
    }
    let mut report = Report::default();
    while let Some(entry) = calls.join_next().await {
        let Ok(entry) = entry else { continue };
        report.add(&entry);
        if let Some(journal) = &journal {
            journal.add(entry);
        }
    }
    report.lasted = began.elapsed();
    report
}

/// One call on a kept connection, or on a new one. A kept connection that turns out closed before a byte was written is
/// replaced: that is the client's business, not a failure of the server.
async fn one(target: &Target, connection: &mut Option<Connection>, number: u64, began: Instant, due: Instant) -> Entry {
    let kept = connection.is_some();
    let mut result = attempt(target, connection, number).await;
    if kept && matches!(result, Err(CallError::NotSent(_))) {
        *connection = None;
        result = attempt(target, connection, number).await;
    }
    if result.is_err() || connection.as_ref().is_some_and(|c| !c.usable()) {
        *connection = None;
    }
    Entry::of(number, due.saturating_duration_since(began), due.elapsed(), &result)
}

async fn attempt(
    target: &Target,
    connection: &mut Option<Connection>,
    number: u64,
) -> Result<crate::client::Answer, CallError> {
    if connection.is_none() {
        *connection = Some(Connection::open(target.addr).await?);
    }
    match connection {
        Some(connection) => connection.call(target.get(number)).await,
        None => Err(CallError::NotSent("no connection".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// A server that answers every request on a connection and counts them.
    async fn server(count: Arc<AtomicU64>) -> Target {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let count = count.clone();
                tokio::spawn(async move {
                    let mut buffer = vec![0; 4096];
                    while stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {
                        count.fetch_add(1, Ordering::Relaxed);
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                    }
                });
            }
        });
        Target::new(addr, "a", "/")
    }

    #[tokio::test]
    async fn a_closed_loop_makes_as_many_calls_as_asked() {
        let count = Arc::new(AtomicU64::new(0));
        let target = server(count.clone()).await;
        let report = closed(&target, 4, Until::Calls(100), None).await;
        assert_eq!((report.calls(), report.failed(), count.load(Ordering::Relaxed)), (100, 0, 100));
    }

    #[tokio::test]
    async fn a_burst_and_an_open_loop_journal_every_call() {
        let count = Arc::new(AtomicU64::new(0));
        let target = server(count.clone()).await;
        assert_eq!(burst(&target, 20, None).await.calls(), 20);
        let (journal, stop) = (Arc::new(Journal::default()), CancellationToken::new());
        let loop_ = tokio::spawn({
            let (target, journal, stop) = (target.clone(), journal.clone(), stop.clone());
            async move { open(&target, 1000, stop, journal).await }
        });
        while journal.entries().len() < 10 {
            tokio::task::yield_now().await;
        }
        stop.cancel();
        let report = loop_.await.unwrap();
        assert_eq!(report.calls(), count.load(Ordering::Relaxed) - 20);
        assert_eq!(report.failed(), 0, "{report}");
    }
}
