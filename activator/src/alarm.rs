//! The end of a call's time.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::time::{Instant, Sleep};

/// A timer that a connection keeps from one call to the next. Hardly a call lasts until its end, so it is not moved for
/// each of them: it may fire for a call that is over by then, and goes on to the present one's end.
pub(crate) struct Alarm {
    at: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Alarm {
    pub(crate) fn new(at: Instant) -> Self {
        Self { at, timer: Box::pin(tokio::time::sleep_until(at)) }
    }

    /// Sets it anew.
    pub(crate) fn set(&mut self, at: Instant) {
        self.at = at;
        if at < self.timer.deadline() {
            self.timer.as_mut().reset(at);
        }
    }

    /// True once the time is over.
    pub(crate) fn is_over(&self) -> bool {
        self.at <= Instant::now()
    }

    /// Ready once the time is over.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            if self.at <= self.timer.deadline() {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(self.at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{future::poll_fn, time::Duration};

    /// Seconds from now until it is over.
    async fn over(alarm: &mut Alarm) -> u64 {
        let began = Instant::now();
        poll_fn(|cx| alarm.poll(cx)).await;
        assert!(alarm.is_over());
        began.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_when_it_was_last_told_to() {
        let now = Instant::now();
        let after = |s| now + Duration::from_secs(s);
        let mut alarm = Alarm::new(after(30));
        alarm.set(after(50));
        assert!(!alarm.is_over());
        assert_eq!(over(&mut alarm).await, 50);
        // From now on 50 s later.
        alarm.set(after(60));
        assert_eq!(over(&mut alarm).await, 10);
        alarm.set(after(100));
        alarm.set(after(70));
        assert_eq!(over(&mut alarm).await, 10);
    }

    #[tokio::test(start_paused = true)]
    async fn it_wakes_whoever_asked_last() {
        let now = Instant::now();
        let mut alarm = Alarm::new(now + Duration::from_secs(30));
        // Asked for a call that ended before its time, by a task that does not wait any more.
        assert!(alarm.poll(&mut Context::from_waker(std::task::Waker::noop())).is_pending());
        alarm.set(now + Duration::from_secs(40));
        assert_eq!(over(&mut alarm).await, 40);
    }
}
