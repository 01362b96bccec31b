//! Trying the port of an instance that starts, with short growing pauses; nobody waits for a probe period.

use crate::{clock::Clock, func::Func, instance::Instance, pool::Lane, shared::Shared};
use dormouse_core::admit::SeatNo;
use std::{
    io,
    sync::{
        Arc,
        atomic::{
            Ordering::{Relaxed, SeqCst},
            fence,
        },
    },
    time::Duration,
};
use tokio::net::TcpStream;

/// The pause stays about a thirtieth of the time that was waited already: nobody waits for an open port much longer than
/// needed, and one that stays closed costs some 100 tries in its first half second. It begins with [`FIRST`], 32 times,
/// and then grows by a 32nd with each try, to [`LONGEST`].
const FIRST: Duration = Duration::from_millis(1);
const EVEN: i32 = 32;
const LONGEST: Duration = Duration::from_millis(10);
/// 1 ms x (33/32)^75 is 10 ms.
const GROWS: i32 = 75;
/// After as many tries (about a minute at 10 ms) the pause becomes [`SLOW_PAUSE`]: whatever starts that long is not
/// delayed noticeably, and an instance that never opens costs little.
const FAST_TRIES: usize = 6_000;
const SLOW_PAUSE: Duration = Duration::from_millis(100);
/// A packet to an address that is not routed yet is lost, and the kernel repeats it only after a second: early tries
/// are given up sooner and repeated by us.
const TRY_TIMEOUT: Duration = Duration::from_millis(250);
/// How long a call's own connect may take; longer than one repetition of the kernel.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Connects for a call.
pub(crate) async fn connect(instance: &Arc<Instance>, clock: Clock) -> io::Result<Lane> {
    open(instance, clock, CONNECT_TIMEOUT).await
}

async fn open(instance: &Arc<Instance>, clock: Clock, timeout: Duration) -> io::Result<Lane> {
    let stream = tokio::time::timeout(timeout, TcpStream::connect(instance.addr)).await??;
    // A proxy's own port taken as source port would connect the socket to itself while nothing listens.
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    stream.set_nodelay(true)?;
    instance.port_open.store(true, Relaxed);
    // It was allowed to dial: what broke before says nothing of the address any more.
    instance.broken.store(false, Relaxed);
    Lane::new(stream, instance, clock).await
}

/// Tries the instance's port until it opens, also when no call waits: that it is open is told to the controller. The
/// connection that opened serves the first call.
pub(crate) fn watch_port(func: &Arc<Func>, seat: SeatNo, instance: &Arc<Instance>, shared: &Arc<Shared>) {
    if instance.retired.load(Relaxed) || instance.forgotten.is_cancelled() || !shared.may_dial(instance) {
        return;
    }
    // Pairs with the one below: either the task that ends sees what allows to dial, or we see that it has ended.
    fence(SeqCst);
    if instance.dialled.swap(true, Relaxed) {
        return;
    }
    let (func, instance, shared) = (func.clone(), instance.clone(), shared.clone());
    tokio::spawn(async move {
        let lane = tokio::select! {
            lane = try_port(&instance, &shared) => lane,
            () = instance.forgotten.cancelled() => None,
            () = shared.hard_stop.cancelled() => None,
        };
        instance.dialled.store(false, Relaxed);
        fence(SeqCst);
        let Some(lane) = lane else {
            // Allowed again at this very moment: whoever allowed it saw us still trying, and left it to us.
            if !shared.hard_stop.is_cancelled() {
                watch_port(&func, seat, &instance, &shared);
            }
            return;
        };
        instance.pool.put(lane, &instance, shared.clock, shared.clock.now());
        let mut inner = func.inner.lock();
        inner.room.open(seat, shared.clock.now());
        func.settle(inner, &shared);
        func.note(&shared, true);
    });
}

/// `None`: the address must not be dialled any more until the routes confirm it.
async fn try_port(instance: &Arc<Instance>, shared: &Shared) -> Option<Lane> {
    // An instance that accepts and closes at once is not tried in a busy loop: each time counts like many tries, up to
    // the longest pause.
    let before = instance.failures.load(Relaxed).saturating_mul(EVEN as usize).min(EVEN as usize + GROWS as usize);
    for tries in before.. {
        if tries > 0 {
            tokio::time::sleep(pause(tries - 1)).await;
        }
        if !shared.may_dial(instance) {
            return None;
        }
        if let Ok(lane) = open(instance, shared.clock, TRY_TIMEOUT).await {
            return Some(lane);
        }
    }
    None
}

/// How long to wait after so many tries before.
fn pause(tries: usize) -> Duration {
    if tries >= FAST_TRIES {
        return SLOW_PAUSE;
    }
    let grown = i32::try_from(tries).unwrap_or(i32::MAX).saturating_sub(EVEN).clamp(0, GROWS);
    FIRST.mul_f64((1.0 + 1.0 / f64::from(EVEN)).powi(grown)).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_with_the_time_that_was_waited() {
        let mut waited = Duration::ZERO;
        for tries in 0..200 {
            let next = pause(tries);
            let share = next.as_secs_f64() / waited.max(FIRST).as_secs_f64();
            assert!(tries < 32 || share < 0.035, "try {tries}: {next:?} after {waited:?}");
            waited += next;
        }
        let ms: Vec<_> = [0, 31, 200, 5_999, 6_000, usize::MAX].map(|tries| pause(tries).as_millis()).into();
        assert_eq!(ms, [1, 1, 10, 10, 100, 100]);
    }
}
