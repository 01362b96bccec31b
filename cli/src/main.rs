//! `dormouse`: run functions on one machine, call them, and see what they used and cost.

mod args;
mod bill;
mod budgets;
mod completion;
mod deploy;
mod describe;
mod dev;
mod exit;
mod init;
mod invoke;
mod list;
mod logs;
mod manifest;
mod open;
mod reverse;
mod rollback;
mod sample;
mod say;
mod selftest;
mod table;
mod target;
mod usage;
mod view;
mod wait;

use args::{Command, LedgerCommand};
use exit::{Failure, Outcome};
use std::process::ExitCode;
use tokio::runtime::{Builder, Runtime};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = args::parse();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            say::error(failure.message());
            failure.code()
        }
    }
}

fn run(command: Command) -> Outcome {
    match command {
        Command::Sample(args) => small()?.block_on(sample::run(&args)),
        Command::Selftest(args) => small()?.block_on(selftest::run(&args)),
        Command::Keep { mark } => {
            dormouse_controller::fleet::process::leftover::keep(&mark);
            Ok(())
        }
        Command::Dev(args) => large()?.block_on(dev::run(&args)),
        Command::List(args) => small()?.block_on(list::run(&args)),
        Command::Describe(args) => small()?.block_on(describe::run(&args)),
        Command::Invoke(args) => small()?.block_on(invoke::run(&args)),
        Command::Init(args) => init::run(&args),
        Command::Deploy(args) => small()?.block_on(deploy::run(&args)),
        Command::Rollback(args) => small()?.block_on(rollback::run(&args)),
        Command::Logs(args) => small()?.block_on(logs::run(&args)),
        Command::Open(args) => small()?.block_on(open::run(&args)),
        Command::Completion(args) => completion::run(&args),
        Command::Usage(args) => small()?.block_on(usage::run(&args)),
        Command::Budgets(args) => small()?.block_on(budgets::run(&args)),
        Command::Bill(args) => small()?.block_on(bill::run(&args)),
        Command::Ledger(LedgerCommand::Reverse(args)) => small()?.block_on(reverse::run(&args)),
        Command::Ledger(LedgerCommand::Move(command)) => {
            dormouse_daemon::install_tls_provider();
            let moved = large()?.block_on(dormouse_controller::ledger::transfer::run(&command));
            say::note(moved.map_err(Failure::failed)?);
            Ok(())
        }
    }
}

/// One thread: for everything that only asks, and for the sample.
fn small() -> Result<Runtime, Failure> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}

/// A thread per core, as the controller and the activator have.
fn large() -> Result<Runtime, Failure> {
    Ok(Builder::new_multi_thread().enable_all().build()?)
}
