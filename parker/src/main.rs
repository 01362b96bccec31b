//! Keeps a parked pod: does nothing, uses next to nothing, and ends at once when it is told to. The first process of a
//! container gets no signal that it does not ask for: so it asks.

use nix::sys::signal::{SigSet, Signal};

fn main() -> Result<(), nix::Error> {
    let ends: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT].into_iter().collect();
    // Held back, so that one that comes before the wait is not lost.
    ends.thread_block()?;
    ends.wait().map(drop)
}
