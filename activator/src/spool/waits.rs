//! Who waits until a record is safe: on the disk, where one sync serves all who wait when it begins, or in the ledger.

use parking_lot::Mutex;
use std::{collections::BTreeMap, ops::Range};
use tokio::sync::{Notify, oneshot};

/// Told once: true when the record is safe, false when it will not be. Told nothing it is not safe either.
pub(crate) type Told = oneshot::Receiver<bool>;

type Teller = oneshot::Sender<bool>;

/// Those who wait for a sync of the disk.
#[derive(Debug, Default)]
pub(super) struct Group(Mutex<Gathering>);

#[derive(Debug, Default)]
struct Gathering {
    waiting: Vec<(u64, Teller)>,
    /// Somebody syncs, and takes whoever gathers meanwhile next.
    busy: bool,
}

impl Group {
    /// Joins with a record that is written. True: nobody syncs, and whoever is told so sees to it that somebody does.
    pub(super) fn join(&self, seq: u64) -> (Told, bool) {
        let (teller, told) = oneshot::channel();
        let mut gathering = self.0.lock();
        gathering.waiting.push((seq, teller));
        (told, !std::mem::replace(&mut gathering.busy, true))
    }

    /// Everybody who has gathered; `None`: nobody, and whoever asks need not go on.
    pub(super) fn take(&self) -> Option<Vec<(u64, Teller)>> {
        let mut gathering = self.0.lock();
        gathering.busy = !gathering.waiting.is_empty();
        gathering.busy.then(|| std::mem::take(&mut gathering.waiting))
    }
}

/// Those who wait for the ledger, by the number of their record in this epoch. Each leaves again, so there are no more
/// than there are calls.
#[derive(Debug, Default)]
pub(super) struct Acks {
    inner: Mutex<Acked>,
    joined: Notify,
}

#[derive(Debug, Default)]
struct Acked {
    watermark: u64,
    waiting: BTreeMap<u64, Teller>,
}

impl Acks {
    pub(super) fn join(&self, seq: u64) -> Told {
        let (teller, told) = oneshot::channel();
        let mut inner = self.inner.lock();
        if seq <= inner.watermark {
            // The receiver is here.
            let _ = teller.send(true);
        } else {
            inner.waiting.insert(seq, teller);
            drop(inner);
            self.joined.notify_one();
        }
        told
    }

    pub(super) fn leave(&self, seq: u64) {
        self.inner.lock().waiting.remove(&seq);
    }

    /// Up to where the ledger has everything.
    pub(super) fn watermark(&self) -> u64 {
        self.inner.lock().watermark
    }

    /// The ledger has everything up to there.
    pub(super) fn acknowledge(&self, watermark: u64) {
        let mut inner = self.inner.lock();
        inner.watermark = inner.watermark.max(watermark);
        let later = inner.waiting.split_off(&(watermark + 1));
        let safe = std::mem::replace(&mut inner.waiting, later);
        drop(inner);
        tell(safe.into_values(), true);
    }

    /// The ledger will never have these.
    pub(super) fn give_up(&self, lost: Range<u64>) {
        let mut inner = self.inner.lock();
        let waiting = std::mem::take(&mut inner.waiting);
        let (gone, left) = waiting.into_iter().partition::<BTreeMap<_, _>, _>(|(seq, _)| lost.contains(seq));
        inner.waiting = left;
        drop(inner);
        tell(gone.into_values(), false);
    }

    /// Ends when somebody waits.
    pub(super) async fn awaited(&self) {
        while self.inner.lock().waiting.is_empty() {
            self.joined.notified().await;
        }
    }
}

fn tell(tellers: impl Iterator<Item = Teller>, safe: bool) {
    for teller in tellers {
        // One whose client left does not hear it.
        let _ = teller.send(safe);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn an_acknowledgement_tells_whom_it_covers_and_nobody_else() {
        let acks = Acks::default();
        let (mut one, mut two, mut three) = (acks.join(1), acks.join(2), acks.join(3));
        assert!(acks.awaited().now_or_never().is_some());
        acks.acknowledge(1);
        assert_eq!((one.try_recv(), two.try_recv().is_err(), three.try_recv().is_err()), (Ok(true), true, true));
        // One that comes late, and a watermark that comes twice.
        assert_eq!(acks.join(1).try_recv(), Ok(true));
        acks.acknowledge(0);
        acks.give_up(2..3);
        assert_eq!((two.try_recv(), three.try_recv().is_err()), (Ok(false), true));
        acks.leave(3);
        assert!(acks.awaited().now_or_never().is_none(), "nobody is left");
        acks.acknowledge(9);
        assert!(three.try_recv().is_err());
    }
}
