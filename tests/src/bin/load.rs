//! The load generator as a program, also for a pod: where addresses of pods and services cannot be reached from
//! outside (any cluster but the project's own), calls are made from within.

use anyhow::Result;
use clap::{Parser, Subcommand};
use dormouse_tests::client::Target;
use dormouse_tests::journal::Journal;
use dormouse_tests::load::{Until, burst, closed, open};
use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Makes HTTP/1.1 calls and says how they went; fails when one was not answered with 2xx.
#[derive(Parser)]
struct Args {
    /// HOST:PORT that is dialled
    address: String,
    /// Path and query
    #[arg(long, default_value = "/")]
    path: String,
    /// Host header; default: the address
    #[arg(long)]
    host: Option<String>,
    /// File for one JSON line per call
    #[arg(long)]
    journal: Option<PathBuf>,
    #[command(subcommand)]
    shape: Shape,
}

#[derive(Subcommand)]
enum Shape {
    /// So many connections, one call after the other on each
    Closed {
        #[arg(long, default_value_t = 16)]
        connections: usize,
        /// Seconds
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
    /// So many calls per second, whatever the answers take
    Open {
        #[arg(long, default_value_t = 50)]
        rate: u32,
        /// Seconds
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
    /// So many calls at once
    Burst {
        #[arg(long, default_value_t = 20)]
        calls: u64,
    },
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "it says how the calls went")]
async fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let address = args.address.to_socket_addrs()?.next();
    let address = address.ok_or_else(|| anyhow::anyhow!("{} has no address", args.address))?;
    let target = Target::new(address, args.host.unwrap_or(args.address), args.path);
    let journal = Arc::new(args.journal.map_or_else(|| Ok(Journal::default()), |file| Journal::to_file(&file))?);
    let report = match args.shape {
        Shape::Closed { connections, seconds } => {
            closed(&target, connections, Until::Time(Duration::from_secs(seconds)), Some(journal.clone())).await
        }
        Shape::Open { rate, seconds } => {
            let stop = CancellationToken::new();
            let over = stop.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                over.cancel();
            });
            open(&target, rate, stop, journal.clone()).await
        }
        Shape::Burst { calls } => burst(&target, calls, Some(journal.clone())).await,
    };
    // Writes out what a journal file still holds back.
    let calls = journal.entries().len();
    println!("{report}\n{calls} calls in the journal");
    Ok(if report.failed() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
