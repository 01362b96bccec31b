//! 1 GiB through the activator, up and down: its memory stays what it is.

use crate::memory::{Watch, at_rest, mib};
use crate::say;
use crate::stage::{self, FUNCTION};
use anyhow::{Context, Result};
use clap::Args;
use dormouse_tests::lean::{Lean, answers, head};
use dormouse_tests::proc::cpu_seconds;
use dormouse_tests::script::host;
use dormouse_tests::wait::until;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Bytes of one write or read of the client.
const PIECE: usize = 256 << 10;

/// Longest time in which nothing moves, and until the activator answers after its start.
const LIMIT: Duration = Duration::from_secs(60);

/// What is measured.
#[derive(Args)]
pub(crate) struct Plan {
    /// MiB of each transfer
    #[arg(long, default_value_t = 1024)]
    mib: usize,
    /// Seconds that the client sleeps in the middle of the last two transfers
    #[arg(long, default_value_t = 3)]
    sleep: u64,
}

#[derive(Clone, Copy)]
enum Way {
    Down,
    Up,
}

/// Measures and prints.
pub(crate) async fn run(plan: Plan) -> Result<()> {
    let bytes = plan.mib << 20;
    anyhow::ensure!(bytes > 2 * PIECE, "less than a piece");
    let folder = tempfile::tempdir()?;
    let origin = stage::origin(folder.path(), None).await?;
    let script = stage::script(folder.path(), origin.addr, None).await?;
    let activator = stage::activator(folder.path(), "stream", script.addr, None).await?;
    let first = Lean::get(activator.addr, &host(FUNCTION), "/2");
    until("an answer", LIMIT, || answers(&first)).await?;
    say(&format!("\n{} MiB in one call", plan.mib));
    say("| way | MiB/s | CPU-seconds per GiB | before MiB | during: least to most MiB (looks) | after MiB |");
    say("|---|---|---|---|---|---|");
    for (name, way, sleep) in [
        ("down", Way::Down, 0),
        ("up", Way::Up, 0),
        ("down, the client sleeps in the middle", Way::Down, plan.sleep),
        ("up, the client sleeps in the middle", Way::Up, plan.sleep),
    ] {
        let before = (at_rest(activator.pid()).await?, cpu_seconds(&[activator.pid()])?);
        let watch = Watch::begin(activator.pid());
        let (addr, began) = (activator.addr, Instant::now());
        let moved = tokio::task::spawn_blocking(move || transfer(way, addr, bytes, Duration::from_secs(sleep)));
        moved.await?.with_context(|| name)?;
        let (seconds, seen) = (began.elapsed().saturating_sub(Duration::from_secs(sleep)).as_secs_f64(), watch.end()?);
        let cpu = cpu_seconds(&[activator.pid()])? - before.1;
        let amount = f64::from(u32::try_from(plan.mib)?);
        say(&format!(
            "| {name} | {:.0} | {:.2} | {:.1} | {:.1} to {:.1} ({}) | {:.1} |",
            amount / seconds,
            cpu * 1024.0 / amount,
            mib(before.0),
            mib(seen.least),
            mib(seen.most),
            seen.looks,
            mib(at_rest(activator.pid()).await?),
        ));
    }
    Ok(())
}

/// One call that carries so many bytes one way.
fn transfer(way: Way, addr: SocketAddr, bytes: usize, sleep: Duration) -> Result<()> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    let host = host(FUNCTION);
    let (mut piece, half) = (vec![b'x'; PIECE], bytes / 2);
    match way {
        Way::Up => {
            stream.write_all(head("POST", &host, "/2", Some(bytes)).as_bytes())?;
            let mut sent = 0;
            while sent < bytes {
                let n = stream.write(piece.get(..PIECE.min(bytes - sent)).unwrap_or_default())?;
                anyhow::ensure!(n > 0, "nothing is taken any more");
                rest_at(half, sent, n, sleep);
                sent += n;
            }
            let answer = stream.read(&mut piece)?;
            let answer = String::from_utf8_lossy(piece.get(..answer).unwrap_or_default());
            anyhow::ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
        Way::Down => {
            let request =
                head("GET", &host, &format!("/{bytes}"), None).replace("accept", "connection: close\r\naccept");
            stream.write_all(request.as_bytes())?;
            let mut come = 0;
            loop {
                let n = stream.read(&mut piece)?;
                if n == 0 {
                    break;
                }
                anyhow::ensure!(come > 0 || piece.starts_with(b"HTTP/1.1 200"), "not answered 200");
                rest_at(half, come, n, sleep);
                come += n;
            }
            anyhow::ensure!(come > bytes && come < bytes + PIECE, "{come} bytes came");
        }
    }
    Ok(())
}

/// Sleeps when byte number `half` is among the `n` after `done`.
fn rest_at(half: usize, done: usize, n: usize, sleep: Duration) {
    if (done..done + n).contains(&half) {
        std::thread::sleep(sleep);
    }
}
