//! What a call costs: figures of one run on one machine, for BENCHMARKS.md. Nothing is asserted about times; what is
//! asserted is that every call was answered and that each sample began where it says.
//!
//! `bench cold`, `burst`, `storm`, `release` and `scale` need an installed release and pod addresses that are reachable
//! from here; the others need DORMOUSE_BIN_DIR with the release programs (`bench ledger` and `bench meter` need none),
//! `bench dev` Node and Python, `bench orders` Redis, PostgreSQL and Python's clients of both, `bench warm` nginx, haproxy
//! and (to count) perf, `bench ledger` and `bench durable` PostgreSQL, all from the distribution.
//! Arms are interleaved, so that a noisy minute is noisy for all of them.

mod burst;
mod cold;
mod count;
mod dev;
mod durable;
mod fair;
mod functions;
mod haproxy;
mod held;
mod ledger;
mod memory;
mod meter;
mod nginx;
mod orders;
mod origin;
mod plain;
mod proxy;
mod rest;
mod stage;
mod stream;
mod warm;

use anyhow::Result;
use clap::{Parser, Subcommand};
use dormouse_controller::ledger::Place;
use dormouse_tests::machine::Machine;
use std::net::SocketAddr;
use std::path::PathBuf;
use tokio::runtime::Builder;

/// The programs' own: `bench keep` stands for a controller, and glibc's takes a third of its time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(name = "bench")]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Cold calls by a Deployment and by a graft, beside scripts that do the same
    Cold {
        /// Samples of each arm
        #[arg(short, default_value_t = 30)]
        n: usize,
    },
    /// Many calls at once on one function that sleeps (as `bench cold`, on a cluster)
    Burst(burst::Burst),
    /// Many functions called at once (as `bench cold`, on a cluster)
    Storm(burst::Storm),
    /// From the end of a function's idle time until its pod is gone (as `bench cold`, on a cluster)
    Release(rest::Release),
    /// Many idle functions (as `bench cold`, on a cluster)
    Scale(rest::Scale),
    /// Warm calls: direct, through nginx, HAProxy and the activator
    Warm(warm::Plan),
    /// Memory of calls that wait with their bodies unread
    Held(held::Plan),
    /// Memory of idle functions, and the cost of finding one among many
    Functions(functions::Plan),
    /// Memory while 1 GiB goes through, up and down
    Stream(stream::Plan),
    /// CPU of a record: a place in the spool, and writing it there
    Meter(meter::Plan),
    /// Calls whose ends wait for their record: by mode, and store of the ledger
    Durable(durable::Plan),
    /// A month of calls into a ledger, in a folder and in PostgreSQL, and questions to it
    Ledger(ledger::Plan),
    /// What a developer waits for: a first call, a save, a cold call, beside the runtime's own start
    Dev(dev::Plan),
    /// The example place-order under load, on real Redis and PostgreSQL
    Orders(orders::Plan),
    /// A function beside another one that never wakes and is hammered
    Fair(fair::Plan),
    /// The ledger of `bench ledger`, until it is ended
    #[command(hide = true)]
    Keep(ledger::Keep),
    /// The instance of the other benches, until it is ended
    #[command(hide = true)]
    Origin {
        #[arg(long)]
        listen: SocketAddr,
    },
    /// The floor of `bench warm`, until it is ended
    #[command(hide = true)]
    Plain {
        #[arg(long)]
        listen: SocketAddr,
        #[arg(long)]
        instance: SocketAddr,
    },
    /// The controller of the other benches, until it is ended
    #[command(hide = true)]
    Script {
        #[arg(long)]
        listen: SocketAddr,
        #[arg(long)]
        instance: SocketAddr,
        #[arg(long)]
        ledger_dir: PathBuf,
        #[arg(long)]
        database: Option<String>,
    },
}

fn main() -> Result<()> {
    match Args::parse().what {
        What::Cold { n } => on_all_cores(cold::run(n)),
        What::Burst(plan) => on_all_cores(burst::burst(plan)),
        What::Storm(plan) => on_all_cores(burst::storm(plan)),
        What::Release(plan) => on_all_cores(rest::release(plan)),
        What::Scale(plan) => on_all_cores(rest::scale(plan)),
        What::Warm(plan) => on_core(&plan.client_core.clone(), warm::run(plan)),
        What::Held(plan) => on_all_cores(held::run(plan)),
        What::Functions(plan) => on_core(&plan.client_core.clone(), functions::run(plan)),
        What::Stream(plan) => on_all_cores(stream::run(plan)),
        What::Fair(plan) => on_core(&plan.client_core.clone(), fair::run(plan)),
        What::Dev(plan) => on_all_cores(dev::run(plan)),
        What::Orders(plan) => on_all_cores(orders::run(plan)),
        What::Meter(plan) => {
            heading();
            meter::run(&plan)
        }
        What::Durable(plan) => on_core(&plan.client_core.clone(), durable::run(plan)),
        What::Ledger(plan) => on_all_cores(ledger::run(plan)),
        What::Keep(args) => Builder::new_multi_thread().enable_all().build()?.block_on(ledger::keep(args)),
        What::Origin { listen } => Builder::new_current_thread().enable_all().build()?.block_on(origin::run(listen)),
        What::Plain { listen, instance } => {
            Builder::new_current_thread().enable_all().build()?.block_on(plain::run(listen, instance))
        }
        What::Script { listen, instance, ledger_dir, database } => {
            let place = database.map_or_else(|| Ok(Place::folder(ledger_dir)), |url| Place::postgres(&url))?;
            let script = stage::serve_script(listen, instance, place);
            Builder::new_current_thread().enable_all().build()?.block_on(script)
        }
    }
}

/// Runs a bench that may have the whole machine.
fn on_all_cores(bench: impl Future<Output = Result<()>>) -> Result<()> {
    heading();
    Builder::new_multi_thread().enable_all().build()?.block_on(bench)
}

/// Runs a bench whose clients have a core of their own.
fn on_core(core: &str, bench: impl Future<Output = Result<()>>) -> Result<()> {
    heading();
    // Before the runtime: threads inherit the core of the one that makes them.
    dormouse_tests::proc::pin(std::process::id(), core)?;
    Builder::new_current_thread().enable_all().build()?.block_on(bench)
}

/// What no figure can be read without: the machine, the time and the command.
fn heading() {
    say(&format!("{}\n$ {}", Machine::this(), std::env::args().collect::<Vec<_>>().join(" ")));
}

#[expect(clippy::print_stdout, reason = "a bench prints what it found")]
fn say(text: &str) {
    println!("{text}");
}
