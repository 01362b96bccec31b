//! What it costs to count a duration: nanoseconds per observation of our histogram and of prometheus-client's, from one
//! thread and from two at once. `cargo run --release -p dormouse-daemon --example observe`
#![expect(clippy::print_stdout, reason = "it is what this prints")]

use dormouse_daemon::Histogram;
use prometheus_client::metrics::histogram::{Histogram as Locked, exponential_buckets};
use std::time::{Duration, Instant};

/// Observations of each thread in each round: some tenths of a second.
const OBSERVATIONS: u32 = 5_000_000;
const ROUNDS: u32 = 5;

/// Nanoseconds per observation, the best of all rounds.
fn cost(threads: u32, observe: impl Fn(Duration) + Sync) -> f64 {
    let round = |_| {
        let began = Instant::now();
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let observe = &observe;
                // Warm calls mostly, some slow ones: several buckets.
                scope.spawn(move || {
                    (0..OBSERVATIONS).for_each(|i| observe(Duration::from_micros(u64::from(i * 7 + thread) % 30_000)))
                });
            }
        });
        began.elapsed().as_secs_f64() * 1e9 / f64::from(OBSERVATIONS)
    };
    (0..ROUNDS).map(round).fold(f64::INFINITY, f64::min)
}

fn main() {
    let ours = Histogram::of_calls();
    let locked = Locked::new(exponential_buckets(0.005, 2.0, 14));
    println!("| histogram | 1 thread | 2 threads |\n|---|---|---|");
    let (one, two) = (cost(1, |d| ours.observe(d)), cost(2, |d| ours.observe(d)));
    println!("| ours | {one:.1} ns | {two:.1} ns |");
    let (one, two) = (cost(1, |d| locked.observe(d.as_secs_f64())), cost(2, |d| locked.observe(d.as_secs_f64())));
    println!("| with a lock | {one:.1} ns | {two:.1} ns |");
    assert_eq!(ours.count(), u64::from(OBSERVATIONS * ROUNDS) * 3);
}
