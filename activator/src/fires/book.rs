//! What is known of orders, and for how long.

use crate::shared::Shared;
use dormouse_proto::v1::{self, FateState};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::Ordering::Relaxed,
    time::Duration,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Ordered calls at once, waiting or running: each holds a body of 256 KiB at most (64 MiB in all), two sockets and two
/// tasks. Further ones are refused for now.
const MAX_HELD: usize = 256;
/// For how long it is known how a call ended: longer than a controller is away.
const KEEP: Duration = Duration::from_secs(600);
/// Ends that are known at once, some 200 bytes each: 800 KB, of which the first report of a stream is made. Twice as many,
/// where they were not told yet: a controller that orders and does not read has it said that they are forgotten.
const MAX_KNOWN: usize = 4_096;

/// An order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    due_us: i64,
    uid: String,
    schedule: String,
}

impl Key {
    pub(crate) fn of(order: &v1::FireOrder) -> Self {
        Self { due_us: order.due_us, uid: order.function_uid.clone(), schedule: order.schedule.clone() }
    }
}

/// What became of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Its call waits or runs.
    Held,
    /// Its call is over; a reason where the function gave no answer.
    Ended { status: u16, reason: String },
    /// No call of it was dispatched.
    Refused { reason: String, again: bool },
}

#[derive(Debug)]
struct Known {
    fate: Fate,
    since: Duration,
    /// Ends its call.
    end: CancellationToken,
}

#[derive(Debug, Default)]
struct Orders {
    known: BTreeMap<Key, Known>,
    held: usize,
    /// Told anew with the next report.
    changed: BTreeSet<Key>,
    forgot_through_us: i64,
}

/// What is known of orders.
#[derive(Debug, Default)]
pub(crate) struct Book {
    orders: Mutex<Orders>,
    news: Notify,
}

impl Book {
    /// An order has come; answers what ends its call when one is to be made.
    pub(super) fn begin(&self, key: &Key, shared: &Shared) -> Option<CancellationToken> {
        let now = shared.clock.now();
        let mut orders = self.orders.lock();
        let known = orders.known.get(key).filter(|known| !matches!(known.fate, Fate::Refused { .. }));
        let refused = || match () {
            () if shared.leaving.load(Relaxed) => Some("ShuttingDown"),
            () if orders.held >= MAX_HELD => Some("TooManyEvents"),
            () => None,
        };
        let begun = match (known, refused()) {
            (Some(_), _) => None,
            (None, Some(reason)) => {
                orders.set(key, Fate::Refused { reason: reason.into(), again: true }, now);
                None
            }
            (None, None) => orders.set(key, Fate::Held, now),
        };
        orders.changed.insert(key.clone());
        drop(orders);
        self.news.notify_one();
        begun
    }

    /// What became of one is known.
    pub(super) fn set(&self, key: &Key, fate: Fate, now: Duration) {
        let mut orders = self.orders.lock();
        orders.set(key, fate, now);
        orders.changed.insert(key.clone());
        drop(orders);
        self.news.notify_one();
    }

    /// Ends the call of one. What is over, or never was here, is told: somebody waits for it.
    pub(super) fn end(&self, key: &Key, now: Duration) {
        let mut orders = self.orders.lock();
        match orders.known.get(key) {
            Some(known) if known.fate == Fate::Held => return known.end.cancel(),
            Some(_) => {}
            None if key.due_us > orders.forgot_through_us => {
                orders.set(key, Fate::Refused { reason: "Replaced".into(), again: false }, now);
            }
            None => {
                orders.set(key, Fate::Ended { status: 0, reason: "Forgotten".into() }, now);
            }
        }
        orders.changed.insert(key.clone());
        drop(orders);
        self.news.notify_one();
    }

    /// Has a report made, though nothing became of any order: we are leaving.
    pub(crate) fn tell(&self) {
        self.news.notify_one();
    }

    /// Waits until there is something to tell.
    pub(super) async fn news(&self) {
        self.news.notified().await;
    }

    /// What changed since it was last told.
    pub(super) fn changed(&self, now: Duration) -> Vec<v1::Fate> {
        let mut orders = self.orders.lock();
        orders.forget(now);
        let changed = std::mem::take(&mut orders.changed);
        changed.iter().filter_map(|key| Some(told(key, &orders.known.get(key)?.fate))).collect()
    }

    /// Everything, and up to which due time something may be forgotten.
    pub(super) fn whole(&self, now: Duration) -> (Vec<v1::Fate>, i64) {
        let mut orders = self.orders.lock();
        orders.forget(now);
        orders.changed.clear();
        (orders.known.iter().map(|(key, known)| told(key, &known.fate)).collect(), orders.forgot_through_us)
    }
}

impl Orders {
    fn set(&mut self, key: &Key, fate: Fate, now: Duration) -> Option<CancellationToken> {
        let end = CancellationToken::new();
        let is_held = fate == Fate::Held;
        let before = self.known.insert(key.clone(), Known { fate, since: now, end: end.clone() });
        self.held -= usize::from(before.is_some_and(|before| before.fate == Fate::Held));
        self.held += usize::from(is_held);
        Some(end)
    }

    /// Forgets ends that are old, or too many; the earliest due ones first, and none that is still to be told while there
    /// is any room.
    fn forget(&mut self, now: Duration) {
        let mut surplus = self.known.len().saturating_sub(self.held + MAX_KNOWN);
        let mut untold = self.known.len().saturating_sub(self.held + 2 * MAX_KNOWN);
        let (forgot, changed) = (&mut self.forgot_through_us, &mut self.changed);
        self.known.retain(|key, known| {
            let old = now.saturating_sub(known.since) > KEEP;
            let told = !changed.contains(key);
            let stays = known.fate == Fate::Held || !told && untold == 0 || told && !old && surplus == 0;
            if !stays {
                changed.remove(key);
                untold = untold.saturating_sub(1);
                surplus = surplus.saturating_sub(1);
                *forgot = key.due_us.max(*forgot);
            }
            stays
        });
    }
}

fn told(key: &Key, fate: &Fate) -> v1::Fate {
    let Key { due_us, uid, schedule } = key.clone();
    let mut told = v1::Fate { function_uid: uid, schedule, due_us, ..Default::default() };
    match fate.clone() {
        Fate::Held => told.set_state(FateState::Held),
        Fate::Ended { status, reason } => {
            told.set_state(FateState::Ended);
            (told.status, told.reason) = (status.into(), reason);
        }
        Fate::Refused { reason, again } => {
            told.set_state(FateState::Refused);
            (told.reason, told.again) = (reason, again);
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(due_us: i64) -> Key {
        Key { due_us, uid: "f".into(), schedule: "s".into() }
    }

    fn ended() -> Fate {
        Fate::Ended { status: 204, reason: String::new() }
    }

    fn seconds(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn ends_are_known_for_a_while_and_what_runs_for_ever() {
        let book = Book::default();
        book.set(&key(1), Fate::Held, seconds(0));
        book.set(&key(2), Fate::Held, seconds(0));
        book.set(&key(3), ended(), seconds(0));
        assert_eq!(book.changed(seconds(0)).len(), 3);
        assert!(book.changed(seconds(0)).is_empty(), "told once");
        book.set(&key(2), ended(), seconds(100));
        assert_eq!(book.changed(seconds(100)).len(), 1);
        let (whole, forgot) = book.whole(seconds(600));
        assert_eq!((whole.len(), forgot), (3, 0));
        book.end(&key(2), seconds(600));
        assert_eq!(book.changed(seconds(600)).len(), 1, "it is told once more");
        let (whole, forgot) = book.whole(seconds(601));
        assert_eq!((whole.len(), forgot), (2, 3));
        let (whole, forgot) = book.whole(seconds(10_000));
        assert_eq!((whole.len(), whole[0].due_us, forgot), (1, 1, 3));
        assert_eq!(book.orders.lock().held, 1);
    }

    #[test]
    fn what_is_to_be_told_is_not_forgotten_and_who_waits_is_told() {
        let book = Book::default();
        book.set(&key(5), ended(), seconds(0));
        assert_eq!(book.changed(seconds(10_000)).len(), 1, "though nobody listened for long");
        assert_eq!(book.whole(seconds(10_000)), (Vec::new(), 5));
        book.end(&key(5), seconds(10_000));
        book.end(&key(6), seconds(10_000));
        let told: Vec<_> = book.changed(seconds(10_000)).into_iter().map(|fate| (fate.state(), fate.reason)).collect();
        assert_eq!(told, [(FateState::Ended, "Forgotten".into()), (FateState::Refused, "Replaced".into())]);
        let many = i64::try_from(2 * MAX_KNOWN).unwrap() + 20;
        (11..=many).for_each(|due| book.set(&key(due), ended(), seconds(10_001)));
        assert_eq!(book.changed(seconds(10_001)).len(), 2 * MAX_KNOWN, "there is a bound");
    }

    #[test]
    fn too_many_ends_are_forgotten_earliest_first() {
        let book = Book::default();
        book.set(&key(0), Fate::Held, seconds(0));
        let many = i64::try_from(MAX_KNOWN).unwrap() + 10;
        (1..=many).for_each(|due| book.set(&key(due), ended(), seconds(1)));
        assert_eq!(book.changed(seconds(1)).len(), usize::try_from(many).unwrap() + 1);
        let (whole, forgot) = book.whole(seconds(1));
        assert_eq!((whole.len(), forgot), (MAX_KNOWN + 1, 10));
        assert_eq!((whole[0].due_us, whole[1].due_us), (0, 11));
    }
}
