//! A month under a simulated clock: a controller that is killed at every step, activators that come, go, are killed and
//! forget, writes that fail or land without an answer. Held against what really happened.

use super::super::*;
use super::planned;
use crate::function::{Fired, ScheduleStatus};
use jiff::SignedDuration;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// What really became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Truth {
    Runs,
    Ended(Fired),
    /// Its activator was killed with it.
    Lost,
}

#[derive(Default)]
struct Activator {
    epoch: u32,
    knows: BTreeMap<Timestamp, Said>,
    forgot: Timestamp,
    /// It is heard by the present life of the controller.
    heard: bool,
}

/// A life of the controller.
struct Life {
    state: State,
    /// Decided, and not in a status that was written.
    decided: Vec<Decided>,
    /// A write under way, and what was decided by then.
    writing: Option<(ScheduleStatus, usize)>,
    written: Option<ScheduleStatus>,
    /// A write was not answered well: what the status says is not known until the next one is.
    failed: bool,
}

struct Sim {
    random: Random,
    planned: Arc<Planned>,
    begun: Timestamp,
    now: Timestamp,
    /// What a reader of the status finds.
    durable: Option<ScheduleStatus>,
    /// What statuses that were written have said of each due time.
    log: BTreeMap<Timestamp, (Fired, Arc<str>)>,
    life: Option<Life>,
    activators: [Activator; 2],
    calls: BTreeMap<Timestamp, Truth>,
}

fn holder(at: usize, epoch: u32) -> Arc<str> {
    format!("a{at}/{epoch}").into()
}

impl Sim {
    fn new(seed: u64, planned: Arc<Planned>) -> Self {
        let begun: Timestamp = "2026-03-01T00:00:01Z".parse().unwrap();
        Self {
            random: Random(seed),
            planned,
            begun,
            now: begun,
            durable: None,
            log: BTreeMap::new(),
            life: None,
            activators: [Activator::default(), Activator::default()],
            calls: BTreeMap::new(),
        }
    }

    fn moment(&self) -> Duration {
        Duration::try_from(self.now.duration_since(self.begun)).unwrap()
    }

    fn start(&mut self) {
        self.activators.iter_mut().for_each(|a| a.heard = false);
        let written = self.durable.clone();
        let state = State::new(&self.planned, written.as_ref(), self.now);
        self.life = Some(Life { state, decided: Vec::new(), writing: None, written, failed: false });
    }

    /// The controller is killed: a write under way lands or not.
    fn kill(&mut self) {
        let Some(life) = self.life.take() else { return };
        if let Some((status, decided)) = life.writing
            && self.random.once_in(2)
        {
            self.land(status, &life.decided[..decided]);
        }
    }

    fn land(&mut self, status: ScheduleStatus, decided: &[Decided]) {
        for Decided { due, outcome, reason, count } in decided {
            let mut due = *due;
            for _ in 0..*count {
                let before = self.log.insert(due, (*outcome, reason.clone()));
                // The same word may be written again when its first answer was lost.
                let same = before.as_ref().is_none_or(|before| *before == (*outcome, reason.clone()));
                assert!(same, "{due} was {before:?} and is {outcome:?} {reason}");
                due = self.planned.before(due - SignedDuration::from_secs(1)).unwrap();
            }
        }
        self.durable = Some(status);
    }

    /// The controller looks, sends, and begins to write.
    fn look(&mut self) {
        let moment = self.moment();
        let Some(life) = &mut self.life else { return };
        let heard: Vec<Arc<str>> =
            (0..2).filter(|at| self.activators[*at].heard).map(|at| holder(at, self.activators[at].epoch)).collect();
        let choice = (!heard.is_empty()).then(|| heard[self.random.below(heard.len() as u64) as usize].clone());
        let world = World {
            now: self.now,
            moment,
            present: &|name| heard.iter().any(|h| &**h == name),
            choice: choice.as_ref(),
            written: life.written.as_ref().filter(|_| life.writing.is_none() && !life.failed),
            fires: true,
        };
        let look = life.state.look(Some(&self.planned), &world);
        life.decided.append(&mut life.state.decided());
        if life.writing.is_none() && (life.failed || life.written.as_ref() != Some(&life.state.status())) {
            life.writing = Some((life.state.status(), life.decided.len()));
        }
        for order in look.todo {
            self.deliver(order);
        }
    }

    /// An order arrives, unless its connection breaks before.
    fn deliver(&mut self, order: Do) {
        let (due, to, end) = match order {
            Do::Fire { due, holder } => (due, holder, false),
            Do::End { due, holder } => (due, holder, true),
        };
        let at = usize::from(to == holder(1, self.activators[1].epoch));
        if self.random.once_in(20) {
            self.activators[at].heard = false;
            return;
        }
        let refuses = !end && self.random.once_in(15);
        let said = match (end, self.activators[at].knows.get(&due)) {
            (true, Some(Said::Held)) => {
                self.calls.insert(due, Truth::Ended(Fired::Failed));
                Said::Ended { outcome: Fired::Failed, reason: "Replaced".into() }
            }
            (false, None | Some(Said::Refused { .. })) if refuses => {
                Said::Refused { reason: "No".into(), again: self.random.once_in(2) }
            }
            (false, None | Some(Said::Refused { .. })) => {
                let before = self.calls.insert(due, Truth::Runs);
                assert_eq!(before, None, "{due} is dispatched twice");
                Said::Held
            }
            _ => return,
        };
        self.say(at, due, said);
    }

    /// An activator knows something, and says it if it is heard.
    fn say(&mut self, at: usize, due: Timestamp, said: Said) {
        let (moment, activator) = (self.moment(), &mut self.activators[at]);
        activator.knows.insert(due, said.clone());
        if let Some(life) = self.life.as_mut().filter(|_| activator.heard) {
            life.state.heard(due, &holder(at, activator.epoch), said, moment);
        }
    }

    fn answer_write(&mut self) {
        let fate = self.random.below(10);
        let Some(life) = &mut self.life else { return };
        let Some((status, decided)) = life.writing.take() else { return };
        life.failed = fate < 2;
        match fate {
            // Refused, or lost on its way.
            0 => {}
            // Done, and nobody knows.
            1 => {
                let decided = life.decided[..decided].to_vec();
                self.land(status, &decided);
            }
            _ => {
                let decided: Vec<Decided> = life.decided.drain(..decided).collect();
                life.written = Some(status.clone());
                self.land(status, &decided);
            }
        }
    }

    fn join(&mut self, at: usize) {
        let (moment, activator) = (self.moment(), &mut self.activators[at]);
        let Some(life) = &mut self.life else { return };
        activator.heard = true;
        let me = holder(at, activator.epoch);
        life.state.joined(&me, |due| activator.knows.get(&due).cloned(), activator.forgot, moment);
        life.state.lost(|other| other.starts_with(&format!("a{at}/")) && other != &*me);
    }

    fn kill_activator(&mut self, at: usize) {
        let activator = &mut self.activators[at];
        for (due, said) in std::mem::take(&mut activator.knows) {
            if said == Said::Held {
                self.calls.insert(due, Truth::Lost);
            }
        }
        (activator.epoch, activator.heard, activator.forgot) = (activator.epoch + 1, false, Timestamp::MIN);
    }

    /// Calls end, and what ended long ago is forgotten.
    fn go_on(&mut self, at: usize) {
        let runs = self.activators[at].knows.iter().find(|(_, said)| **said == Said::Held).map(|(due, _)| *due);
        if let Some(due) = runs.filter(|_| self.random.once_in(3)) {
            let outcome = if self.random.once_in(4) { Fired::Failed } else { Fired::Ran };
            self.calls.insert(due, Truth::Ended(outcome));
            self.say(at, due, Said::Ended { outcome, reason: "Status".into() });
        }
        let activator = &mut self.activators[at];
        let old = self.now - SignedDuration::from_secs(1200);
        let forgotten: BTreeSet<Timestamp> = activator
            .knows
            .iter()
            .filter(|(due, said)| **due < old && **said != Said::Held)
            .map(|(due, _)| *due)
            .collect();
        activator.knows.retain(|due, _| !forgotten.contains(due));
        activator.forgot = activator.forgot.max(forgotten.last().copied().unwrap_or(Timestamp::MIN));
    }

    fn step(&mut self, pause: u64) {
        self.now += SignedDuration::from_secs(1 + self.random.below(pause).cast_signed());
        if self.life.is_none() && self.random.once_in(3) {
            self.start();
        }
        for _ in 0..4 {
            match self.random.below(12) {
                0..=3 => self.look(),
                4 | 5 => self.answer_write(),
                6 if self.random.once_in(12) => self.kill(),
                7 if self.random.once_in(40) => {
                    let at = self.random.below(2) as usize;
                    self.kill_activator(at);
                }
                8 if self.random.once_in(10) => {
                    let at = self.random.below(2) as usize;
                    self.activators[at].heard = false;
                }
                9 | 10 => {
                    let at = self.random.below(2) as usize;
                    if !self.activators[at].heard {
                        self.join(at);
                    }
                }
                _ => {
                    let at = self.random.below(2) as usize;
                    self.go_on(at);
                }
            }
        }
    }

    /// Everything goes well from now on, until nothing is open.
    fn settle(&mut self) {
        if self.life.is_none() {
            self.start();
        }
        let end = self.now;
        for _ in 0..10_000 {
            let life = self.life.as_ref().unwrap();
            let decided = self.durable.as_ref().is_some_and(|durable| {
                durable.open.is_empty() && durable.next_due.as_ref().is_some_and(|next| next.0 > end)
            });
            if decided && life.writing.is_none() && life.decided.is_empty() {
                return;
            }
            self.now += SignedDuration::from_secs(1);
            for at in 0..2 {
                if !self.activators[at].heard {
                    self.join(at);
                }
                self.go_on(at);
            }
            self.look();
            self.answer_write();
        }
        panic!("never settles: {:?}", self.durable);
    }

    /// Each due time up to the end has one word, which is what happened.
    fn check(&self, end: Timestamp) -> [u64; 4] {
        let mut counts = [0; 4];
        let first = self.durable.as_ref().and_then(|_| self.log.keys().next()).copied().unwrap();
        let mut due = first;
        while due <= end {
            let (outcome, reason) = self.log.get(&due).unwrap_or_else(|| panic!("{due} has no word"));
            counts[*outcome as usize] += 1;
            let truth = self.calls.get(&due);
            let right = match outcome {
                Fired::Ran => truth == Some(&Truth::Ended(Fired::Ran)),
                Fired::Failed if &**reason == "No" => truth.is_none(),
                Fired::Failed => truth == Some(&Truth::Ended(Fired::Failed)),
                Fired::Skipped => truth.is_none(),
                Fired::Unknown => true,
            };
            assert!(right, "{due}: {outcome:?} {reason}, and it was {truth:?}");
            due = self.planned.after(due).unwrap();
        }
        counts
    }
}

fn month(seed: u64, (cron, zone): (&str, &str), overlap: Overlap, (deadline, pause): (i32, u64)) -> [u64; 4] {
    let mut sim = Sim::new(seed, planned(cron, Some(zone), overlap, Some(deadline)));
    let end = sim.begun + SignedDuration::from_hours(31 * 24);
    while sim.now < end {
        sim.step(pause);
    }
    let end = sim.now;
    sim.settle();
    sim.check(end)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// March has the day on which Berlin's clocks are put forward, Lord Howe's are put back in April: in both
    /// there is a due time that does not exist or comes twice.
    #[test]
    fn each_due_time_has_one_word_and_it_is_true(seed: u64, kind in 0_usize..6, deadline in 20_i32..1200) {
        let overlap = [Overlap::Allow, Overlap::Forbid, Overlap::Replace][kind % 3];
        let rule = if kind < 3 { ("*/15 * * * *", "Europe/Berlin") } else { ("7,37 * * * *", "Australia/Lord_Howe") };
        month(seed, rule, overlap, (deadline, 240));
    }
}

/// The model does what it is to be held against: in a month there is every outcome.
#[test]
fn the_month_has_every_outcome() {
    for overlap in [Overlap::Allow, Overlap::Forbid, Overlap::Replace] {
        let counts = month(7, ("*/10 * * * *", "UTC"), overlap, (300, 120));
        assert!(counts.iter().all(|count| *count > 10), "{overlap:?}: {counts:?}");
    }
}
