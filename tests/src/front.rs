//! Callers of several activators, as callers behind a Service: new connections go to those that are ready, as seen a
//! little later; a connection that is kept is used whatever became of its activator since.
//!
//! Every call is kept with the life of the activator that it was sent to, so that a failure can be held against what
//! was done to that one, and to no other.

use crate::client::{Answer, CallError, Connection, Target};
use crate::journal::{Entry, Fate, LOST_WITH_PEER};
use crate::team::Member;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Pause between two looks at `/readyz`.
const LOOK: Duration = Duration::from_millis(100);

/// A door that does not tell in that time is not ready.
const TOLD_WITHIN: Duration = Duration::from_secs(1);

/// Connections kept at most, over all doors.
const MAX_KEPT: usize = 32;

/// Longest wait for any door to be ready.
const ANY_READY: Duration = Duration::from_secs(60);

/// One life of one activator.
#[derive(Debug)]
pub struct Door {
    /// Name and life.
    pub life: String,
    traffic: SocketAddr,
    admin: SocketAddr,
    /// Tells that nobody looks after it any more.
    closed: CancellationToken,
}

/// What was done to a door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// It was killed: it is dead ever after.
    Killed,
    /// It was stopped for a while.
    Paused,
}

/// A deed, from just before it until just after it.
#[derive(Clone, Debug)]
struct Done {
    life: String,
    deed: Deed,
    from: Instant,
    to: Option<Instant>,
}

/// A call and where it went.
#[derive(Clone, Debug)]
pub struct Placed {
    /// How it went.
    pub entry: Entry,
    /// To whom.
    pub life: String,
    /// The answer said that the connection ends with it.
    pub closes: bool,
    began: Instant,
    ended: Instant,
}

/// The callers. A clone is the same ones.
#[derive(Clone, Debug)]
pub struct Front {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// How late the callers learn what became of a door.
    lag: Duration,
    began: Instant,
    numbers: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    turn: usize,
    /// Doors that new connections go to.
    listed: Vec<Arc<Door>>,
    /// Connections that no call is on, the longest unused first.
    kept: VecDeque<(Arc<Door>, Connection)>,
    calls: Vec<Placed>,
    done: Vec<Done>,
}

/// Which connection a call takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// To the doors in turn; kept connections to that door are used.
    InTurn,
    /// The kept connection that was unused longest, whichever door it leads to; a new one only when there is none.
    Kept,
    /// A new one.
    Fresh,
}

impl Front {
    /// Callers that learn of what became of a door with a lag.
    #[must_use]
    pub fn new(lag: Duration) -> Self {
        let (numbers, state) = (AtomicU64::new(0), Mutex::default());
        Self { inner: Arc::new(Inner { lag, began: Instant::now(), numbers, state }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks after the present life of a member from now on: it is listed while it is ready, as seen with the lag.
    pub fn follow(&self, member: &Member) -> Arc<Door> {
        let (traffic, admin) = (member.traffic, member.admin);
        let door = Arc::new(Door { life: member.life(), traffic, admin, closed: CancellationToken::new() });
        let (front, followed) = (self.clone(), door.clone());
        tokio::spawn(async move {
            let looks = front.look_after(&followed);
            let _ = followed.closed.run_until_cancelled(looks).await;
            tokio::time::sleep(front.inner.lag).await;
            front.list(&followed, false);
        });
        door
    }

    async fn look_after(&self, door: &Arc<Door>) {
        let target = Target::new(door.admin, "admin", "/readyz");
        let mut listed = false;
        loop {
            let told = tokio::time::timeout(TOLD_WITHIN, target.call(0)).await;
            let ready = told.is_ok_and(|answer| answer.is_ok_and(|a| a.status == 200));
            if ready != listed {
                listed = ready;
                tokio::time::sleep(self.inner.lag).await;
                self.list(door, ready);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn list(&self, door: &Arc<Door>, ready: bool) {
        let mut state = self.state();
        state.listed.retain(|d| !Arc::ptr_eq(d, door));
        if ready && !door.closed.is_cancelled() {
            state.listed.push(door.clone());
        }
    }

    /// Lives that new connections go to.
    #[must_use]
    pub fn listed(&self) -> Vec<String> {
        self.state().listed.iter().map(|d| d.life.clone()).collect()
    }

    /// Says that a door is about to be killed.
    pub fn kills(&self, door: &Door) {
        door.closed.cancel();
        self.state().done.push(Done { life: door.life.clone(), deed: Deed::Killed, from: Instant::now(), to: None });
    }

    /// Says that a door is about to be stopped for a while.
    pub fn pauses(&self, door: &Door) {
        self.state().done.push(Done { life: door.life.clone(), deed: Deed::Paused, from: Instant::now(), to: None });
    }

    /// Says that a door goes on.
    pub fn goes_on(&self, door: &Door) {
        let mut state = self.state();
        let last = state.done.iter_mut().rev().find(|d| d.life == door.life && d.deed == Deed::Paused);
        if let Some(done) = last {
            done.to = Some(Instant::now());
        }
    }

    /// Nobody looks after a door any more: it ended.
    pub fn forgets(&self, door: &Door) {
        door.closed.cancel();
    }

    /// One call, kept in the list of calls.
    pub async fn call(&self, path: &str, choice: Choice) -> (Placed, Option<Answer>) {
        let (number, began) = (self.number(), Instant::now());
        let (mut door, kept) = self.choose(choice).await;
        let mut used = kept.is_some();
        let (mut result, mut connection) = attempt(&door, kept, path, number).await;
        while used && matches!(result, Err(CallError::NotSent(_))) {
            // Kept, and closed before a byte of the call was written: that is the client's business.
            let kept;
            (door, kept) = self.choose(choice).await;
            used = kept.is_some();
            (result, connection) = attempt(&door, kept, path, number).await;
        }
        if choice != Choice::Fresh
            && let Some(connection) = connection.take_if(|c| result.is_ok() && c.usable())
        {
            self.keep(&door, connection);
        }
        let entry = Entry::of(number, began - self.inner.began, began.elapsed(), &result);
        let closes = result.as_ref().is_ok_and(|a| a.header("connection").eq_ignore_ascii_case("close"));
        let placed = Placed { entry, life: door.life.clone(), closes, began, ended: Instant::now() };
        self.state().calls.push(placed.clone());
        (placed, result.ok())
    }

    /// Takes a call in that was made past the front, to the present life of a door.
    pub fn note_extra(&self, number: u64, answer: &Answer, life: &str) {
        let now = Instant::now();
        let (due, took) = (now - answer.took - self.inner.began, answer.took);
        let entry = Entry::of(number, due, took, &Ok(answer.clone()));
        let placed = Placed { entry, life: life.to_owned(), closes: false, began: now - took, ended: now };
        self.state().calls.push(placed);
    }

    /// A number that no call has.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.inner.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn keep(&self, door: &Arc<Door>, connection: Connection) {
        let mut state = self.state();
        if state.kept.len() >= MAX_KEPT {
            state.kept.pop_front();
        }
        state.kept.push_back((door.clone(), connection));
    }

    async fn choose(&self, choice: Choice) -> (Arc<Door>, Option<Connection>) {
        let began = Instant::now();
        loop {
            let chosen = self.try_choose(choice);
            if let Some(chosen) = chosen {
                return chosen;
            }
            assert!(began.elapsed() < ANY_READY, "no activator was ready for {} s", ANY_READY.as_secs());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn try_choose(&self, choice: Choice) -> Option<(Arc<Door>, Option<Connection>)> {
        let mut state = self.state();
        state.kept.retain(|(_, connection)| connection.usable());
        if choice == Choice::Kept
            && let Some((door, connection)) = state.kept.pop_front()
        {
            return Some((door, Some(connection)));
        }
        let count = state.listed.len();
        state.turn = state.turn.wrapping_add(1);
        let door = state.listed.get(state.turn.checked_rem(count)?)?.clone();
        let at = state.kept.iter().position(|(d, _)| Arc::ptr_eq(d, &door) && choice == Choice::InTurn);
        let connection = at.and_then(|at| state.kept.remove(at)).map(|(_, connection)| connection);
        Some((door, connection))
    }

    /// Every call so far.
    #[must_use]
    pub fn calls(&self) -> Vec<Placed> {
        self.state().calls.clone()
    }

    /// Calls so far that the function answered.
    #[must_use]
    pub fn answered(&self) -> usize {
        self.state().calls.iter().filter(|p| p.is_answered()).count()
    }

    /// Journal entries of every call so far.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        self.state().calls.iter().map(|p| p.entry.clone()).collect()
    }

    /// What came of the calls.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let state = self.state();
        let mut tally = Tally::default();
        for placed in &state.calls {
            if placed.is_answered() {
                tally.answered += 1;
                continue;
            }
            let why = format!("{} {}", placed.entry.status, placed.entry.reason);
            if state.explains(placed) {
                *tally.explained.entry(why).or_default() += 1;
            } else {
                tally.unexplained.push(format!("on {}: {:?}", placed.life, placed.entry));
            }
        }
        tally
    }
}

/// For so long after a kill another activator may still hand a call over to the one that is gone, or to its successor
/// at the same address: until the controller has told it.
const AFTERMATH: Duration = Duration::from_secs(1);

/// Reason of the next process at a dead one's address, which callers take for the dead one until they learn of it.
const NO_ROUTES_YET: &str = "NotReady";

/// Reasons of a call that ran out of its time.
const OVER_TIME: [&str; 2] = ["Timeout", "WaitTimeout"];

impl State {
    /// Whether what was done to an activator explains that a call has no answer.
    fn explains(&self, placed: &Placed) -> bool {
        let entry = &placed.entry;
        self.done.iter().any(|done| {
            // A killed one never comes back: its next process is another life.
            let at_the_time = done.from <= placed.ended && done.to.is_none_or(|to| placed.began <= to);
            let own = done.life == placed.life;
            let lost_with_it = entry.reason == LOST_WITH_PEER;
            at_the_time
                && match done.deed {
                    Deed::Killed if own => {
                        entry.fate == Fate::Indeterminate || entry.status == 0 || entry.reason == NO_ROUTES_YET
                    }
                    Deed::Killed => lost_with_it && placed.began <= done.from + AFTERMATH,
                    Deed::Paused => OVER_TIME.contains(&entry.reason.as_str()),
                }
        })
    }
}

impl Placed {
    /// The function answered.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.entry.fate == Fate::Ok && (200..300).contains(&self.entry.status)
    }
}

async fn attempt(
    door: &Door,
    kept: Option<Connection>,
    path: &str,
    number: u64,
) -> (Result<Answer, CallError>, Option<Connection>) {
    let target = Target::new(door.traffic, "localhost", path);
    let mut connection = match kept {
        Some(connection) => connection,
        None => match Connection::open(door.traffic).await {
            Ok(connection) => connection,
            Err(error) => return (Err(error), None),
        },
    };
    (connection.call(target.get(number)).await, Some(connection))
}

/// What came of the calls, failures held against what was done.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Answered by the function.
    pub answered: u64,
    /// Failed, as what was done to an activator explains; by status and reason.
    pub explained: BTreeMap<String, u64>,
    /// Failed, and nothing explains it.
    pub unexplained: Vec<String>,
}

impl Tally {
    /// Fails when a failure has no explanation.
    ///
    /// # Errors
    /// With all of them.
    pub fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(self.unexplained.is_empty(), "{self}");
        Ok(())
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { answered, explained, unexplained } = self;
        write!(
            f,
            "{answered} answered, failed as what was done explains: {explained:?}, otherwise: {}",
            unexplained.len()
        )?;
        unexplained.iter().take(20).try_for_each(|text| write!(f, "\n    {text}"))
    }
}
