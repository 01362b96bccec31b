//! What a call costs: figures of one run on one machine, for BENCHMARKS.md. Nothing is asserted about times; what is
//! asserted is that every call was answered and that each sample began where it says.
//!
//! `bench cold` needs an installed release and pod addresses that are reachable from here; `bench warm` needs
//! DORMOUSE_BIN_DIR and nginx. Arms are interleaved, so that a noisy minute is noisy for all of them.

mod cold;
mod nginx;
mod warm;

use anyhow::Result;
use clap::{Parser, Subcommand};
use dormouse_tests::machine::Machine;
use std::time::Duration;

#[derive(Parser)]
#[command(name = "bench")]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// A cold call through the activator, beside a scripted Deployment 0 -> 1 of the same pod
    Cold {
        /// Samples of each arm
        #[arg(short, default_value_t = 30)]
        n: usize,
    },
    /// Warm calls: direct, through nginx, through the activator
    Warm {
        /// Rounds; each round measures every arm once
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Seconds of one measurement
        #[arg(long, default_value_t = 3)]
        seconds: u64,
        /// Connections
        #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64])]
        connections: Vec<usize>,
        /// Calls per second of the latency part
        #[arg(long, default_value_t = 2000)]
        rate: u32,
        /// Core of the proxies
        #[arg(long, default_value = "0")]
        proxy_core: String,
        /// Core of the client and of the function
        #[arg(long, default_value = "1")]
        client_core: String,
    },
}

fn main() -> Result<()> {
    let args = Args::parse();
    say(&format!("{}\n$ {}", Machine::this(), std::env::args().collect::<Vec<_>>().join(" ")));
    match args.what {
        What::Cold { n } => tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(cold::run(n)),
        What::Warm { rounds, seconds, connections, rate, proxy_core, client_core } => {
            // Before the runtime: threads inherit the core of the one that makes them.
            dormouse_tests::proc::pin(std::process::id(), &client_core)?;
            let plan =
                warm::Plan { rounds, length: Duration::from_secs(seconds), connections, rate, proxy_core, client_core };
            tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(warm::run(plan))
        }
    }
}

#[expect(clippy::print_stdout, reason = "a bench prints what it found")]
fn say(text: &str) {
    println!("{text}");
}
