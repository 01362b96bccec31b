//! A rolling restart under load fails no call: who is asked to leave serves until callers have noticed, tells its
//! connections to close, finishes what it has, hands over its records and ends with code 0.

use crate::crew::{Crew, FLAGS};
use crate::{LIMIT, in_folder};
use anyhow::{Context, Result};
use dormouse_tests::calls::Bound;
use dormouse_tests::checker::Verdict;
use dormouse_tests::client::{Answer, Connection, Target};
use dormouse_tests::front::{Choice, Front, Placed};
use dormouse_tests::team::Function;
use dormouse_tests::wait::until;
use nix::sys::signal::Signal;
use serde_json::json;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Calls per second.
const RATE: u32 = 300;

/// Calls that wait for an instance while activators come and go.
const WAITING: usize = 200;

/// Streams that are open when an activator is asked to leave, on all of them together.
const STREAMS: usize = 20;

/// Lines of a stream, and the pause between two: 8 s, far beyond the drain delay.
const LINES: u64 = 40;
const LINE_MS: u64 = 200;

/// Connections that callers keep.
const KEPT: usize = 16;

fn steady() -> Function {
    let queue = json!({"maxCalls": 10_000, "maxWaitSeconds": 60});
    let spec = json!({"concurrency": 100, "timeoutSeconds": 30, "idleTimeoutSeconds": 60, "queue": queue});
    Function::new("steady", spec)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_fails_no_call() {
    in_folder(async |folder| rolling(folder).await).await.unwrap();
}

async fn rolling(folder: &Path) -> Result<()> {
    let steady = steady();
    // Its port opens after both of the old activators were asked to leave: its calls wait in their rooms till then.
    let mut sleepy = Function::new("sleepy", steady.spec.clone());
    sleepy.start_after = Duration::from_secs(8);
    let mut crew = Crew::start(folder, &[steady.clone(), sleepy.clone()], 2, &FLAGS).await?;
    crew.warm(&steady).await?;
    keep_connections(&crew.front, &steady).await?;
    let stop = CancellationToken::new();
    let load = tokio::spawn(open(crew.front.clone(), steady.clone(), stop.clone()));
    let waiting = spawn(&crew.front, WAITING, sleepy.path("/work"), Choice::Fresh);
    let streams = spawn(&crew.front, STREAMS, stream(&steady), Choice::Fresh);
    streams_run(&crew, &steady, STREAMS).await?;

    let first = leaves(&mut crew, &steady).await?;
    let more = spawn(&crew.front, STREAMS, stream(&steady), Choice::Fresh);
    let second = leaves(&mut crew, &steady).await?;
    for life in [&first, &second] {
        println!("{life} was asked to leave");
    }
    // The two that were asked to leave are the first ones; both end by themselves, with what they had done.
    for _ in 0..2 {
        let status = crew.gone(0).await?;
        anyhow::ensure!(status.success(), "an activator that was asked to leave ended with {status}");
    }
    streams.join_all().await.iter().try_for_each(whole)?;
    more.join_all().await.iter().try_for_each(whole)?;
    let waited = waiting.join_all().await;
    let answered = waited.iter().filter(|(p, _)| p.is_answered()).count();
    anyhow::ensure!(answered == WAITING, "of {WAITING} waiting calls {answered} were answered: {:?}", waited.first());
    stop.cancel();
    load.await?;

    let (tally, placed) = (crew.front.tally(), crew.front.calls());
    println!("{tally}");
    anyhow::ensure!(tally.unexplained.is_empty() && tally.explained.is_empty(), "{tally}");
    for life in [&first, &second] {
        let told = placed.iter().filter(|p| p.life == *life && p.closes).count();
        anyhow::ensure!(told > 0, "{life} told no connection to close");
        println!("{life} told {told} connections to close");
    }
    let verdict = crew.settle().await?;
    anyhow::ensure!(verdict.in_flight == 0 && verdict.recorded == verdict.answered, "{verdict}");
    println!("ledger: {verdict}");
    let calls = crew.team.calls(&steady, Bound { on_one: 100, on_all: usize::MAX })?;
    println!("{calls}");
    calls.check()?;
    crew.end().await
}

/// Asks the oldest activator that callers know to leave and starts another one; waits until callers know that one. An
/// idle connection to the one that leaves is closed while it still has calls to finish.
async fn leaves(crew: &mut Crew, function: &Function) -> Result<String> {
    let listed = crew.front.listed();
    let at = crew.mates.iter().position(|m| listed.contains(&m.door.life)).context("no activator is ready")?;
    let life = crew.mates[at].door.life.clone();
    let target = Target::new(crew.mates[at].member.traffic, "localhost", function.path("/work"));
    let mut idle = Connection::open(target.addr).await?;
    let number = crew.front.number();
    let answer = idle.call(target.get(number)).await?;
    anyhow::ensure!(answer.status == 200, "{answer}");
    crew.front.note_extra(number, &answer, &life);
    crew.mates[at].member.signal(Signal::SIGTERM)?;
    crew.join()?;
    let newest = crew.mates.last().context("no activator")?.member.life();
    let front = crew.front.clone();
    until("the new activator is ready and the old one is not", LIMIT, || async {
        let listed = front.listed();
        anyhow::ensure!(listed.contains(&newest) && !listed.contains(&life), "{listed:?}");
        Ok(())
    })
    .await?;
    until("an idle connection is closed", LIMIT, || async {
        anyhow::ensure!(!idle.usable(), "it is open");
        Ok(())
    })
    .await?;
    crew.mates[at].member.check().context("it ended before its calls had")?;
    Ok(life)
}

fn stream(function: &Function) -> String {
    function.path(&format!("/stream?chunks={LINES}&ms={LINE_MS}"))
}

/// The streams were begun, as their instances say.
async fn streams_run(crew: &Crew, function: &Function, count: usize) -> Result<()> {
    until("all streams run", LIMIT, || async {
        let calls = crew.team.calls(function, Bound { on_one: 100, on_all: usize::MAX })?;
        anyhow::ensure!(calls.cut.len() >= count, "{} run", calls.cut.len());
        Ok(())
    })
    .await
}

/// A stream came to its last line.
fn whole((placed, answer): &(Placed, Option<Answer>)) -> Result<()> {
    let text = answer.as_ref().map(Answer::text).unwrap_or_default();
    let wanted: Vec<String> = (1..=LINES).map(|n| format!("{n} of {LINES}")).collect();
    anyhow::ensure!(text.lines().eq(wanted.iter().map(String::as_str)), "a stream broke: {placed:?}\n{text}");
    Ok(())
}

fn spawn(front: &Front, count: usize, path: String, choice: Choice) -> JoinSet<(Placed, Option<Answer>)> {
    let mut calls = JoinSet::new();
    for _ in 0..count {
        let (front, path) = (front.clone(), path.clone());
        calls.spawn(async move { front.call(&path, choice).await });
    }
    calls
}

/// Calls at the same time, so that each gets a connection of its own, which is kept.
async fn keep_connections(front: &Front, function: &Function) -> Result<()> {
    let calls = spawn(front, KEPT, function.path("/work?ms=300"), Choice::InTurn);
    for (placed, _) in calls.join_all().await {
        anyhow::ensure!(placed.is_answered(), "{placed:?}");
    }
    Ok(())
}

async fn open(front: Front, function: Function, stop: CancellationToken) {
    let mut calls = JoinSet::new();
    let mut tick = tokio::time::interval(Duration::from_secs(1) / RATE);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        let (front, path) = (front.clone(), function.path("/work?ms=2"));
        calls.spawn(async move { front.call(&path, Choice::Kept).await.0 });
        while calls.try_join_next().is_some() {}
    }
    while calls.join_next().await.is_some() {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_never_reads_is_cut_by_the_hard_stop() {
    in_folder(async |folder| stuck(folder).await).await.unwrap();
}

/// One call is stuck in its answer, which its client never reads, and one waits; both are over with the hard stop.
async fn stuck(folder: &Path) -> Result<()> {
    let steady = steady();
    let mut sleepy = Function::new("sleepy", steady.spec.clone());
    sleepy.start_after = Duration::from_secs(300);
    let flags = ["--drain-delay-seconds=0", "--drain-limit-seconds=2"];
    let mut crew = Crew::start(folder, &[steady.clone(), sleepy.clone()], 1, &flags).await?;
    crew.warm(&steady).await?;
    let traffic = crew.mates[0].member.traffic;
    // 64 MB: more than the buffers of all sockets on the way hold.
    let path = steady.path("/stream?chunks=1000&bytes=65536");
    let mut stuck = never_reads(traffic, &path).await?;
    let waits = spawn(&crew.front, 1, sleepy.path("/work"), Choice::Fresh);
    streams_run(&crew, &steady, 1).await?;
    crew.mates[0].member.leave().await.context("asked to leave with a peer that never reads")?;
    let mate = crew.mates.remove(0);
    crew.front.forgets(&mate.door);
    let waited = waits.join_all().await;
    let reason = waited.first().map(|(p, _)| p.entry.reason.clone()).unwrap_or_default();
    anyhow::ensure!(reason == "ShuttingDown", "a waiting call at the hard stop: {waited:?}");
    let mut rest = Vec::new();
    let ended = stuck.read_to_end(&mut rest).await;
    anyhow::ensure!(rest.len() < 64_000_000, "the stream came whole: {ended:?}");

    let mut entries = crew.front.entries();
    let broken = entries.first().cloned().context("no call")?;
    // The one that was cut was dispatched: it has its record too, under an id that nobody was told.
    entries.push(dormouse_tests::journal::Entry {
        number: 0,
        request_id: String::new(),
        status: 0,
        fate: dormouse_tests::journal::Fate::Indeterminate,
        ..broken
    });
    let recorded = crew.team.recorded().await?;
    let verdict = Verdict::of(&entries, &recorded);
    anyhow::ensure!(verdict.good() && verdict.recorded == verdict.answered + 1, "{verdict}");
    println!("ledger: {verdict}");
    crew.end().await
}

async fn never_reads(traffic: SocketAddr, path: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(traffic).await?;
    let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nx-test-number: 999\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    Ok(stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_at_once_and_loses_no_record() {
    in_folder(async |folder| twice(folder).await).await.unwrap();
}

async fn twice(folder: &Path) -> Result<()> {
    let steady = steady();
    let mut sleepy = Function::new("sleepy", steady.spec.clone());
    sleepy.start_after = Duration::from_secs(300);
    let mut crew = Crew::start(folder, &[steady.clone(), sleepy.clone()], 1, &FLAGS).await?;
    for _ in 0..10 {
        crew.warm(&steady).await?;
    }
    let waits = spawn(&crew.front, 1, sleepy.path("/work"), Choice::Fresh);
    let (usage, name) = (crew.team.usage.clone(), crew.mates[0].member.name.clone());
    until("the records are there", LIMIT, || async {
        let recorded = usage.request_ids(&dormouse_tests::usage::lately()).await?;
        anyhow::ensure!(recorded.len() >= 10, "{}", recorded.len());
        Ok(())
    })
    .await?;
    crew.front.kills(&crew.mates[0].door);
    crew.mates[0].member.signal(Signal::SIGTERM)?;
    let log = crew.mates[0].member.program.log().to_owned();
    until(&format!("{name} has heard the first signal"), LIMIT, || async {
        let said = std::fs::read_to_string(&log)?;
        anyhow::ensure!(said.contains("signal received"), "it says nothing of it");
        Ok(())
    })
    .await?;
    crew.mates[0].member.signal(Signal::SIGTERM)?;
    let status = crew.mates[0].member.ended().await?;
    anyhow::ensure!(status.code() == Some(130), "after a second signal: {status}");
    let waited = waits.join_all().await;
    anyhow::ensure!(waited.iter().all(|(p, _)| !p.is_answered()), "{waited:?}");
    crew.revive(0)?;
    crew.all_ready().await?;
    crew.front.tally().check()?;
    println!("ledger: {}", crew.settle().await?);
    crew.end().await
}
