//! The end of a response waits until the record of its call is as safe as the price plan has it.
//!
//! Only the client's end waits: the slot is free and the connection to the instance kept by then.

use crate::{body::Cut, func::Func, metrics::Trouble, shared::Shared, spool::Told};
use dormouse_core::price::Durability;
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::Sleep;

/// An end waits until the call's `timeoutSeconds` is over: its caller is prepared for as much and no more. One that took
/// (nearly) all of its time has this long beyond it, else whoever ran into its timeout would never be told so: a disk or
/// a ledger that works takes milliseconds. It is as long as the server lets any call be over its time.
const LEAST: Duration = crate::server::OVERDUE;

/// What the end of a call's response waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Promise {
    pub(crate) durability: Durability,
    /// When the call's time is over, by the clock.
    pub(crate) until: Duration,
}

impl Promise {
    /// The call's record is written, `now`; `None`: that is all there is to wait for.
    pub(crate) fn written(self, seq: u64, func: &Arc<Func>, now: Duration) -> Option<Written> {
        let Self { durability, until } = self;
        if durability == Durability::Process {
            return None;
        }
        Some(Written { seq, durability, until: until.max(now + LEAST), func: func.clone() })
    }
}

/// A record that is written and not safe yet.
#[derive(Debug)]
pub(crate) struct Written {
    /// Its number in this epoch.
    seq: u64,
    durability: Durability,
    until: Duration,
    func: Arc<Func>,
}

impl Written {
    /// Waits. Whoever has no end to hold back does not: no sync is made for it, and no frame is sent at once.
    pub(crate) fn wait(self, shared: &Arc<Shared>) -> Wait {
        let began = shared.clock.now();
        let told = match self.durability {
            Durability::Ledger => shared.spool.wait_for_ledger(self.seq),
            Durability::Process | Durability::Disk => {
                let (told, alone) = shared.spool.wait_for_disk(self.seq);
                if alone {
                    let syncing = shared.clone();
                    tokio::task::spawn_blocking(move || syncing.spool.commit());
                }
                told
            }
        };
        let late = Box::pin(tokio::time::sleep_until(shared.clock.instant(self.until)));
        Wait { written: self, told, late, began, shared: shared.clone() }
    }
}

/// Ends when the record is safe, or with [`Cut::NotRecorded`] when it is not, or not in time: the record stays then, and
/// the client must not see the end of the response.
#[derive(Debug)]
pub(crate) struct Wait {
    written: Written,
    told: Told,
    late: Pin<Box<Sleep>>,
    began: Duration,
    shared: Arc<Shared>,
}

impl Future for Wait {
    type Output = Result<(), Cut>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let safe = match Pin::new(&mut self.told).poll(cx) {
            Poll::Ready(told) => told.unwrap_or(false),
            Poll::Pending if self.late.as_mut().poll(cx).is_ready() => false,
            Poll::Pending => return Poll::Pending,
        };
        let Self { written, shared, began, .. } = &*self;
        shared.metrics.waited(written.durability, shared.clock.now().saturating_sub(*began));
        if safe {
            return Poll::Ready(Ok(()));
        }
        written.func.metrics.trouble(Trouble::NotRecorded);
        let (key, seq) = (&written.func.key, written.seq);
        let (namespace, function, durability) = (&key.namespace, &key.name, written.durability);
        tracing::debug!(namespace, function, seq, ?durability, "a response breaks off: its record is not safe in time");
        Poll::Ready(Err(Cut::NotRecorded))
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if self.written.durability == Durability::Ledger {
            self.shared.spool.leave(self.written.seq);
        }
    }
}
