//! How far this activator's records are complete: every call that came before that moment has its record in the ledger,
//! or is known to have none.
//!
//! A call holds the mark of the time at which it came until its record is written. Now and then a new mark is set: then
//! the oldest one that is still held says up to when all calls are written, and the number of the newest record says
//! which records those are. Once the ledger has them, that moment is what is told.

use crate::{clock, link::Link, shared::Shared, spool::Spool};
use arc_swap::ArcSwap;
use dormouse_proto::v1::{self, ledger_client::LedgerClient};
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{Ordering::Acquire, fence},
    },
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// How often it is told, and so how far behind it is at least.
const TELL: Duration = Duration::from_secs(2);
/// The controller's answer is awaited that long.
const ANSWER: Duration = Duration::from_secs(5);
/// Shortest time of a mark. The longest call is an hour (and may wait an hour before): 7,200 marks of 32 B.
const MARK_US: i64 = 1_000_000;
/// Moments that wait for the ledger. Behind them the last one is moved on: while the ledger is away nothing is told.
const MAX_POINTS: usize = 64;

/// The time of a mark: calls that hold it came then or later.
#[derive(Debug)]
pub(crate) struct Mark {
    from_us: i64,
}

/// How far the records are complete.
#[derive(Debug)]
pub(crate) struct Through {
    mark: ArcSwap<Mark>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Former marks that calls hold, the oldest first.
    held: VecDeque<Arc<Mark>>,
    points: VecDeque<Point>,
    /// What is told.
    through: Option<i64>,
}

/// Of all calls that came before `us` the records are among those up to `seq`.
#[derive(Clone, Copy, Debug)]
struct Point {
    seq: u64,
    us: i64,
}

/// What is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// Microseconds since 1970; `None`: it cannot be said yet.
    pub(crate) through_us: Option<i64>,
    /// No call runs and no record is left.
    pub(crate) idle: bool,
}

impl Through {
    pub(crate) fn new(now_us: i64) -> Self {
        Self { mark: ArcSwap::from_pointee(Mark { from_us: now_us }), inner: Mutex::default() }
    }

    /// A call comes: it is to hold this until its record is written. Its time is to be taken after this.
    pub(crate) fn hold(&self) -> Arc<Mark> {
        self.mark.load_full()
    }

    /// How far it is now.
    pub(crate) fn look(&self, now_us: i64, spool: &Spool) -> Told {
        let mut inner = self.inner.lock();
        let age_us = now_us - self.mark.load().from_us;
        // Also when the clock was set back.
        if !(0..MARK_US).contains(&age_us) {
            // From here on nobody takes hold of the old one: its count only falls.
            let old = self.mark.swap(Arc::new(Mark { from_us: now_us }));
            inner.held.push_back(old);
        }
        inner.held.retain(|mark| Arc::strong_count(mark) > 1);
        // Whoever let go of a mark had written its record: what is read of the spool from here on has it.
        fence(Acquire);
        let mark_us = self.mark.load().from_us;
        let us = inner.held.iter().map(|mark| mark.from_us).min().unwrap_or(mark_us);
        inner.point(Point { seq: spool.last_seq(), us });
        let left = spool.unshipped();
        if !left.of_former_lives {
            inner.shipped_before(left.first.unwrap_or(u64::MAX));
        }
        // The map's own hold of the present mark is one.
        let running = !inner.held.is_empty() || Arc::strong_count(&self.mark.load_full()) > 2;
        let idle = !running && !left.of_former_lives && left.first.is_none();
        Told { through_us: inner.through, idle }
    }
}

impl Inner {
    fn point(&mut self, point: Point) {
        let full = self.points.len() >= MAX_POINTS;
        match self.points.back_mut() {
            // What came before is said by this one, too.
            Some(last) if last.seq == point.seq => last.us = last.us.max(point.us),
            Some(last) if full => *last = point,
            _ => self.points.push_back(point),
        }
    }

    /// The ledger has every record before this one.
    fn shipped_before(&mut self, first: u64) {
        while let Some(point) = self.points.front().copied().filter(|point| point.seq < first) {
            self.through = self.through.max(Some(point.us));
            self.points.pop_front();
        }
    }
}

type Client =
    LedgerClient<tonic::service::interceptor::InterceptedService<tonic::transport::Channel, crate::link::Shown>>;

/// Tells the controller until the token is cancelled, and then once more.
pub(crate) async fn run(shared: Arc<Shared>, link: Link, name: String, stop: CancellationToken) {
    let mut client = LedgerClient::with_interceptor(link.channel(), link.token());
    while stop.run_until_cancelled(tokio::time::sleep(TELL)).await.is_some() {
        tell(&mut client, &shared, &name, false).await;
    }
    tell(&mut client, &shared, &name, true).await;
}

/// What is not heard is told again; who ends and is not heard is seen to have ended.
async fn tell(client: &mut Client, shared: &Shared, name: &str, ends: bool) {
    let told = shared.through.look(clock::wall_us(), &shared.spool);
    let identity = shared.spool.identity();
    let progress = v1::Progress {
        activator: identity.activator,
        epoch: identity.epoch,
        name: name.to_owned(),
        complete_through_us: told.through_us.unwrap_or_default(),
        over: ends && told.idle,
    };
    match tokio::time::timeout(ANSWER, client.tell(progress)).await {
        Ok(Ok(_)) => {}
        Ok(Err(status)) => tracing::debug!("how far records are complete was not told: {}", status.message()),
        Err(_) => tracing::debug!("how far records are complete was not told: no answer"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dormouse_core::record::{CallRecord, Outcome, Subject};

    const S: i64 = 1_000_000;

    struct House {
        through: Through,
        spool: Spool,
        subject: Arc<Subject>,
        _folder: tempfile::TempDir,
    }

    impl House {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let spool = Spool::open(folder.path(), 1 << 20).unwrap();
            let text = || "x".to_owned();
            let subject = Arc::new(Subject {
                function_uid: text(),
                namespace: text(),
                name: text(),
                revision: text(),
                tenant: text(),
                memory_mib: 1,
                cpu_millis: 1,
                instance: text(),
            });
            Self { through: Through::new(0), spool, subject, _folder: folder }
        }

        /// A call that came with this mark has ended: its record's number.
        fn ended(&self, mark: Arc<Mark>) -> u64 {
            let record = CallRecord {
                subject: 0,
                call: 1,
                received_at_us: 0,
                wait_us: 0,
                claim_us: 0,
                start_us: 0,
                connect_us: 0,
                run_us: 0,
                request_bytes: 0,
                response_bytes: 0,
                status: 200,
                outcome: Outcome::Ok,
                cold: false,
                first: false,
                warm_slots: 0,
                key: 0,
                timed: None,
            };
            let seq = self.spool.append(&self.subject, &record, self.spool.reserve().unwrap()).unwrap();
            drop(mark);
            seq
        }

        fn look(&self, at_us: i64) -> (Option<i64>, bool) {
            let Told { through_us, idle } = self.through.look(at_us, &self.spool);
            (through_us, idle)
        }

        fn has(&self, seq: u64) {
            let identity = self.spool.identity();
            self.spool.trim(identity.activator, identity.epoch, seq);
        }
    }

    #[test]
    fn without_calls_it_goes_with_the_clock() {
        let house = House::new();
        assert_eq!(house.look(5 * S), (Some(5 * S), true));
        assert_eq!(house.look(5 * S + 1), (Some(5 * S), true), "to the second");
        assert_eq!(house.look(9 * S), (Some(9 * S), true));
        assert_eq!(house.look(3 * S), (Some(9 * S), true), "what was told is not taken back");
    }

    #[test]
    fn a_call_that_runs_and_a_record_that_is_not_shipped_hold_it_back() {
        let house = House::new();
        let long = house.through.hold();
        assert_eq!(house.look(S / 2), (Some(0), false));
        assert_eq!(house.look(10 * S), (Some(0), false), "it came before the first mark ended");
        let short = house.through.hold();
        assert_eq!(house.look(20 * S), (Some(0), false));
        let first = house.ended(short);
        assert_eq!(house.look(30 * S), (Some(0), false));
        let second = house.ended(long);
        assert_eq!(house.look(40 * S), (Some(0), false), "all are written, none is shipped");
        house.has(first);
        assert_eq!(house.look(50 * S), (Some(0), false), "not the one that came first");
        house.has(second);
        assert_eq!(house.look(60 * S), (Some(60 * S), true));
    }

    #[test]
    fn what_is_written_meanwhile_holds_back_only_what_came_with_it() {
        let house = House::new();
        let first = house.ended(house.through.hold());
        assert_eq!(house.look(10 * S), (None, false));
        // Calls end all the time: each look is behind the records of the one before.
        house.ended(house.through.hold());
        assert_eq!(house.look(20 * S), (None, false));
        house.has(first);
        assert_eq!(house.look(30 * S), (Some(10 * S), false));
        (0..1000).for_each(|n| {
            house.ended(house.through.hold());
            house.look((31 + n) * S);
        });
        house.has(u64::from(u32::MAX));
        assert_eq!(house.look(2000 * S), (Some(2000 * S), true), "however long the ledger was away");
        assert!(house.through.inner.lock().points.len() <= MAX_POINTS);
    }

    #[test]
    fn what_a_former_life_left_comes_first() {
        let house = House::new();
        house.ended(house.through.hold());
        let House { spool, _folder: folder, subject, .. } = house;
        let before = spool.identity();
        drop(spool);
        let spool = Spool::open(folder.path(), 1 << 20).unwrap();
        let house = House { through: Through::new(0), spool, subject, _folder: folder };
        assert_eq!(house.look(10 * S), (None, false));
        house.spool.trim(before.activator, before.epoch, 1);
        assert_eq!(house.look(20 * S), (Some(20 * S), true));
    }
}
