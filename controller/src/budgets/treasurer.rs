//! The task that owns the budgets.

use super::book::{Book, Fit};
use super::{BudgetEvent, Budgets, Letter, MAX_BUDGETS};
use crate::fleet::{Fleet, Note, NoteKind};
use crate::ledger::{LedgerDoor, Month, ReadError};
use crate::office::Mail;
use crate::shares::{Process, SHARES_HOLD};
use dormouse_core::Budget;
use dormouse_core::allowance::{Amount, Told};
use dormouse_core::budget::{BudgetState, BudgetStatus};
use dormouse_core::price::PricePlan;
use dormouse_core::usage::UsageSum;
use dormouse_proto::v1;
use jiff::Timestamp;
use kube::ResourceExt;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What was spent is written to a status at most that often; what changes whether calls are served, at once.
const WRITE: Duration = Duration::from_secs(30);
/// Pause after a write that failed.
const WRITE_AGAIN: Duration = Duration::from_secs(5);
/// How often everything is looked at whatever happened: whether another month has begun.
const CLOCK: Duration = Duration::from_secs(1);
/// Answers that wait for the treasurer.
const MAX_ANSWERS: usize = 1024;
/// Questions to the ledger at once: it has 4 readers, or 8 connections, for everybody.
const QUESTIONS: usize = 2;

/// What a treasurer is made of.
#[derive(Debug)]
pub struct Parts<F> {
    /// Where budgets come from and their status goes.
    pub fleet: Arc<F>,
    /// Where what was spent is known.
    pub ledger: LedgerDoor,
    /// Who keeps instances warm.
    pub office: mpsc::Sender<Mail>,
}

/// One activator's stream.
struct Stream {
    number: u64,
    out: mpsc::Sender<v1::BudgetUpdate>,
    /// Its process is known to have ended: with it ends what it may spend.
    ended: bool,
}

/// What came of something that was asked.
enum Answer {
    Counted {
        name: String,
        /// See [`Book::life`].
        life: u64,
        usage: Option<Box<UsageSum>>,
        settled: BTreeMap<Process, Amount>,
        took: Duration,
    },
    Written {
        name: String,
        uid: Option<String>,
        status: Box<BudgetStatus>,
        ok: bool,
    },
}

/// See the module above.
pub struct Treasurer<F> {
    parts: Parts<F>,
    plan: PricePlan,
    /// The same as JSON, for activators.
    plan_text: String,
    shown: Budgets,
    letters: mpsc::Receiver<Letter>,
    events: Option<mpsc::Receiver<BudgetEvent>>,
    answers: mpsc::Receiver<Answer>,
    answer: mpsc::Sender<Answer>,
    questions: Arc<Semaphore>,
    /// By the object's name.
    books: BTreeMap<String, Book>,
    /// Of tenants the name of the one that is in force.
    in_force: BTreeMap<String, String>,
    streams: BTreeMap<Process, Stream>,
    /// What activators are told next; nothing stays in it.
    outbox: BTreeMap<Process, v1::BudgetUpdate>,
    /// Those that began before the budgets were known.
    early: Vec<(Process, Stream, Vec<v1::Spent>)>,
    synced: bool,
    /// Books whose standing may have changed.
    touched: BTreeSet<String>,
    clock: Instant,
    began: Instant,
    /// Lives that were given to books.
    lives: u64,
    /// Tenants that the office was told of.
    stopped: BTreeSet<Arc<str>>,
}

impl<F: Fleet> Treasurer<F> {
    /// A treasurer, and the way to him.
    #[must_use]
    pub fn new(parts: Parts<F>) -> (Self, Budgets) {
        let (shown, letters) = Budgets::new();
        let (answer, answers) = mpsc::channel(MAX_ANSWERS);
        let events = parts.fleet.budgets();
        let plan = parts.ledger.plan().clone();
        let treasurer = Self {
            plan_text: serde_json::to_string(&plan).unwrap_or_default(),
            plan,
            shown: shown.clone(),
            letters,
            // A fleet without budgets has told all of them.
            synced: events.is_none(),
            events,
            answers,
            answer,
            questions: Arc::new(Semaphore::new(QUESTIONS)),
            books: BTreeMap::new(),
            in_force: BTreeMap::new(),
            streams: BTreeMap::new(),
            outbox: BTreeMap::new(),
            early: Vec::new(),
            touched: BTreeSet::new(),
            clock: Instant::now(),
            began: Instant::now(),
            lives: 0,
            stopped: BTreeSet::new(),
            parts,
        };
        (treasurer, shown)
    }

    /// Works until it is told to stop.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let due = self.books.values().flat_map(|book| [book.due(), book.write_again_at]).flatten().min();
            let wake = due.map_or(self.clock, |due| due.min(self.clock));
            tokio::select! {
                () = stop.cancelled() => return,
                letter = self.letters.recv() => if let Some(letter) = letter { self.read(letter) },
                event = next(&mut self.events) => self.saw(event),
                answer = self.answers.recv() => if let Some(answer) = answer { self.answered(answer) },
                gone = self.shown.any_gone() => self.gone(&gone),
                () = tokio::time::sleep_until(wake) => {}
            }
            self.look().await;
            self.send();
        }
    }

    fn read(&mut self, letter: Letter) {
        match letter {
            Letter::Join { process, stream, said, out } => {
                let stream = Stream { number: stream, out, ended: false };
                if self.synced { self.join(process, stream, &said) } else { self.early.push((process, stream, said)) }
            }
            Letter::Report { process, stream, said, farewell } => {
                let Some(present) = self.streams.get_mut(&process).filter(|present| present.number == stream) else {
                    return;
                };
                present.ended = false;
                for name in said.iter().filter_map(|spent| self.in_force.get(&spent.tenant)) {
                    if let Some(book) = self.books.get_mut(name) {
                        book.hear(&process, &said);
                        self.touched.insert(name.clone());
                    }
                }
                if farewell {
                    self.books.values_mut().for_each(|book| book.quit(&process));
                    self.touch_all();
                }
            }
            Letter::Leave { process, stream } => {
                self.early.retain(|(_, early, _)| early.number != stream);
                let Some(present) = self.streams.remove(&process) else { return };
                if present.number != stream {
                    self.streams.insert(process, present);
                } else {
                    self.mute(&process, present.ended);
                }
            }
        }
    }

    /// An activator can be told nothing any more; it may go on to spend, unless it has ended.
    fn mute(&mut self, process: &Process, ended: bool) {
        for book in self.books.values_mut() {
            if ended { book.left(|member| member == process) } else { book.mute(process) }
        }
        self.touch_all();
    }

    fn touch_all(&mut self) {
        self.touched.extend(self.books.keys().cloned());
    }

    /// An activator listens: it is told everything.
    fn join(&mut self, process: Process, stream: Stream, said: &[v1::Spent]) {
        // Its place runs this one now: whatever ran there before has ended.
        let before = |other: &Process| other.name == process.name && *other != process;
        self.streams.retain(|other, _| !before(other));
        // What waits to be told is of the stream before.
        self.outbox.remove(&process);
        for book in self.books.values_mut() {
            book.left(before);
            if book.bounds() {
                book.join(&process, said);
            }
        }
        let (mut mine, mut others) = (BTreeMap::new(), Vec::new());
        for (name, book) in self.books.iter_mut().filter(|(_, book)| book.bounds()) {
            for (to, told) in book.deal() {
                if to == process {
                    mine.insert(name.clone(), told);
                } else {
                    others.extend(book.allowance(&to, Some(told)).map(|allowance| (to, allowance)));
                }
            }
        }
        let bounding = self.books.iter().filter(|(_, book)| book.bounds());
        let allowances =
            bounding.filter_map(|(name, book)| book.allowance(&process, mine.get(name).copied())).collect();
        let update =
            v1::BudgetUpdate { snapshot: true, allowances, removed: Vec::new(), price_plan: self.plan_text.clone() };
        if stream.out.try_send(update).is_ok() {
            self.streams.insert(process, stream);
        } else {
            self.mute(&process, false);
        }
        others.into_iter().for_each(|(to, allowance)| self.tell(&to, allowance));
        self.touch_all();
    }

    /// One that is still heard may be the next of the same name: it ends with its stream, unless it speaks again.
    fn gone(&mut self, names: &BTreeSet<String>) {
        for (process, stream) in &mut self.streams {
            stream.ended |= names.contains(&*process.name);
        }
        let streams = &self.streams;
        let over = |process: &Process| names.contains(&*process.name) && !streams.contains_key(process);
        self.books.values_mut().for_each(|book| book.left(over));
        self.touch_all();
    }

    fn saw(&mut self, event: BudgetEvent) {
        let now = Instant::now();
        let left = match event {
            BudgetEvent::There(object) => self.there(object, now),
            BudgetEvent::Gone(name) => {
                self.shown.show(&name, None);
                self.books.remove(&name).map(|book| book.tenant)
            }
            BudgetEvent::Synced => {
                self.synced = true;
                tracing::info!(budgets = self.books.len(), "budgets are known");
                self.rank();
                for (process, stream, said) in std::mem::take(&mut self.early) {
                    self.join(process, stream, &said);
                }
                return;
            }
        };
        // Before they are known as a whole nobody is told.
        if self.synced {
            self.rank();
            left.into_iter().for_each(|tenant| self.removed(&tenant));
        }
    }

    /// An object as it is now; answers the tenant that it is no longer of.
    fn there(&mut self, object: Arc<Budget>, now: Instant) -> Option<String> {
        let name = object.name_any();
        self.touched.insert(name.clone());
        match self.books.get_mut(&name) {
            Some(book) if book.object.metadata.uid == object.metadata.uid => {
                if book.object.spec == object.spec {
                    book.object = object;
                    return None;
                }
                let (tenant, before) = (book.tenant.clone(), book.state);
                book.change(object, &self.plan, now);
                let moved = (book.tenant != tenant).then_some(tenant);
                self.turned(&name, before);
                moved
            }
            _ => {
                self.lives += 1;
                // Terms of one book are numbered behind its first one.
                let life = self.lives << 32;
                let hold = (!self.synced).then(|| self.began + SHARES_HOLD);
                let book = Book::new(object, &self.plan, Month::of(Timestamp::now()), (life, now, hold));
                self.books.insert(name, book).map(|before| before.tenant)
            }
        }
    }

    /// Of several budgets of one tenant the oldest counts, and of all of them so many. Those that count now, and did not,
    /// begin.
    fn rank(&mut self) {
        let counts = |book: &&Book| book.limit.is_ok() && !matches!(book.fit, Fit::OtherCurrency(_));
        let mut by_age: Vec<&Book> = self.books.values().filter(counts).collect();
        by_age.sort_by_key(|book| book.age());
        let mut oldest: BTreeMap<String, String> = BTreeMap::new();
        let mut fits: Vec<(String, Fit)> = Vec::new();
        for book in by_age {
            let fit = match oldest.get(&book.tenant) {
                Some(first) => Fit::TenantHasBudget(first.clone()),
                None if oldest.len() >= MAX_BUDGETS => Fit::TooMany,
                None => {
                    oldest.insert(book.tenant.clone(), book.name().to_owned());
                    Fit::InForce
                }
            };
            fits.push((book.name().to_owned(), fit));
        }
        for (name, fit) in fits {
            if let Some(book) = self.books.get_mut(&name).filter(|book| book.fit != fit) {
                book.fit = fit;
                self.touched.insert(name);
            }
        }
        self.in_force = oldest;
        self.bind();
    }

    /// Activators are told of budgets that bound, and did not before; and of those that do no longer.
    fn bind(&mut self) {
        let (mut told, mut removed) = (Vec::new(), Vec::new());
        for book in self.books.values_mut() {
            for process in self.streams.keys() {
                match (book.bounds(), book.knows(process)) {
                    (true, false) => {
                        book.join(process, &[]);
                        told.extend(book.allowance(process, None).map(|allowance| (process.clone(), allowance)));
                    }
                    (false, true) => removed.push(book.tenant.clone()),
                    _ => {}
                }
            }
            if !book.bounds() {
                book.release();
            }
        }
        told.into_iter().for_each(|(process, allowance)| self.tell(&process, allowance));
        removed.iter().for_each(|tenant| self.removed(tenant));
    }

    /// A tenant has no budget that stops any more, unless there is another one.
    fn removed(&mut self, tenant: &str) {
        let bounds = self.in_force.get(tenant).and_then(|name| self.books.get(name)).is_some_and(Book::bounds);
        if bounds {
            return;
        }
        for process in self.streams.keys() {
            let update = self.outbox.entry(process.clone()).or_default();
            update.allowances.retain(|allowance| allowance.tenant != tenant);
            if !update.removed.iter().any(|removed| removed == tenant) {
                update.removed.push(tenant.to_owned());
            }
        }
    }

    fn answered(&mut self, answer: Answer) {
        let now = Instant::now();
        match answer {
            Answer::Counted { name, life, usage, settled, took } => {
                let Some(book) = self.books.get_mut(&name).filter(|book| book.life == life) else { return };
                let before = book.state;
                book.answered(usage.as_deref(), &settled, &self.plan, took, now);
                self.turned(&name, before);
                self.touched.insert(name);
            }
            Answer::Written { name, uid, status, ok } => {
                let Some(book) = self.books.get_mut(&name).filter(|book| book.object.metadata.uid == uid) else {
                    return;
                };
                (book.writing, book.well) = (false, ok);
                if ok {
                    book.written = *status;
                }
                book.write_again_at = Some(now + if ok { WRITE } else { WRITE_AGAIN });
                self.touched.insert(name);
            }
        }
    }

    /// A budget may have come into another state: everybody is told.
    fn turned(&mut self, name: &str, before: BudgetState) {
        let Some(book) = self.books.get(name).filter(|book| book.state != before) else { return };
        if let Some(note) = book.note(before, &self.plan) {
            match note.kind {
                NoteKind::Warning => tracing::warn!(budget = name, "{}", note.message),
                NoteKind::Normal => tracing::info!(budget = name, "{}", note.message),
            }
            self.write_note(book.object.clone(), note);
        }
        if before == BudgetState::Stopped || book.state == BudgetState::Stopped {
            self.deal(name, true);
        }
    }

    /// Deals a budget out; with `all`, everybody is told how it stands, also where nothing changes.
    fn deal(&mut self, name: &str, all: bool) {
        let Some(book) = self.books.get_mut(name).filter(|book| book.bounds()) else { return };
        let mut told: BTreeMap<Process, Option<Told>> = BTreeMap::new();
        if all {
            told.extend(self.streams.keys().map(|process| (process.clone(), None)));
        }
        told.extend(book.deal().into_iter().map(|(process, told)| (process, Some(told))));
        let allowance = |(process, told): (Process, Option<Told>)| {
            book.allowance(&process, told).map(|allowance| (process, allowance))
        };
        let told: Vec<(Process, v1::Allowance)> = told.into_iter().filter_map(allowance).collect();
        told.into_iter().for_each(|(to, allowance)| self.tell(&to, allowance));
    }

    /// The newest word on a tenant takes the place of one that was not sent yet.
    fn tell(&mut self, to: &Process, allowance: v1::Allowance) {
        let update = self.outbox.entry(to.clone()).or_default();
        update.removed.retain(|tenant| *tenant != allowance.tenant);
        update.allowances.retain(|other| other.tenant != allowance.tenant);
        update.allowances.push(allowance);
    }

    /// Who does not read what it is told loses its stream: it begins another one, which tells everything.
    fn send(&mut self) {
        for (process, update) in std::mem::take(&mut self.outbox) {
            let Some(stream) = self.streams.get(&process) else { continue };
            if stream.out.try_send(update).is_err() {
                let ended = self.streams.remove(&process).is_some_and(|stream| stream.ended);
                self.mute(&process, ended);
            }
        }
    }

    /// Does what is due.
    async fn look(&mut self) {
        let (now, wall) = (Instant::now(), Timestamp::now());
        if self.clock <= now {
            self.clock = now + CLOCK;
            self.touch_all();
        }
        let is_due = |book: &Book| [book.due(), book.write_again_at].into_iter().flatten().any(|at| at <= now);
        self.touched.extend(self.books.iter().filter(|(_, book)| is_due(book)).map(|(name, _)| name.clone()));
        let month = Month::of(wall);
        for name in std::mem::take(&mut self.touched) {
            let Some(book) = self.books.get_mut(&name) else { continue };
            book.look_at_clock(now);
            if book.month < month {
                let before = book.state;
                book.begin(month, &self.plan, now);
                self.turned(&name, before);
                self.deal(&name, true);
            }
            self.deal(&name, false);
            self.count(&name, now);
            self.write(&name, now, wall);
            let view = self.books.get(&name).map(|book| book.view(&self.plan));
            self.shown.show(&name, view);
        }
        let stops = |book: &&Book| book.bounds() && book.state == BudgetState::Stopped;
        let stopped: BTreeSet<Arc<str>> =
            self.books.values().filter(stops).map(|book| book.tenant.as_str().into()).collect();
        if stopped != self.stopped {
            self.stopped.clone_from(&stopped);
            // The office ends only with the controller.
            let _ = self.parts.office.send(Mail::Stopped { tenants: stopped }).await;
        }
    }

    /// Asks the ledger what was spent.
    fn count(&mut self, name: &str, now: Instant) {
        let Some(book) = self.books.get_mut(name) else { return };
        if book.asks_at().is_none_or(|at| at > now) {
            return;
        }
        let Ok(turn) = Arc::clone(&self.questions).try_acquire_owned() else {
            // Somebody's answer comes, and with it the next look.
            return book.later(now);
        };
        let (settled, life, month, tenant) = (book.ask(), book.life, book.month, book.tenant.clone());
        let (door, answer, name) = (self.parts.ledger.clone(), self.answer.clone(), name.to_owned());
        tokio::spawn(async move {
            let began = Instant::now();
            let usage = match door.ledger() {
                Ok(ledger) => match ledger.tenant_usage(&tenant, month.hours()).await {
                    Ok(usage) => Some(Box::new(usage)),
                    Err(ReadError::UnknownTenant(_)) => Some(Box::default()),
                    Err(error) => {
                        tracing::warn!(budget = name, %error, "what was spent could not be read");
                        None
                    }
                },
                Err(_) => None,
            };
            drop(turn);
            let counted = Answer::Counted { name, life, usage, settled, took: began.elapsed() };
            // Nobody listens only when the treasurer has ended.
            let _ = answer.send(counted).await;
        });
    }

    /// Writes the status, when it says something new: at once if it is more than how much was spent.
    fn write(&mut self, name: &str, now: Instant, wall: Timestamp) {
        let Some(book) = self.books.get_mut(name).filter(|book| !book.writing) else { return };
        let status = book.status(&self.plan, wall);
        let plain = |status: &BudgetStatus| BudgetStatus { spent: None, percent: None, ..status.clone() };
        let news = plain(&status) != plain(&book.written);
        let due = book.write_again_at.is_none_or(|at| at <= now);
        if status == book.written || !(due || news && book.well) {
            if due {
                book.write_again_at = None;
            }
            return;
        }
        (book.writing, book.write_again_at) = (true, None);
        let (fleet, object, answer) = (self.parts.fleet.clone(), book.object.clone(), self.answer.clone());
        let name = name.to_owned();
        tokio::spawn(async move {
            let written = fleet.report_budget(&object, &status).await;
            if let Err(error) = &written {
                tracing::warn!(budget = name, %error, "the status could not be written");
            }
            let uid = object.metadata.uid.clone();
            let _ = answer.send(Answer::Written { name, uid, status: Box::new(status), ok: written.is_ok() }).await;
        });
    }

    fn write_note(&self, object: Arc<Budget>, note: Note) {
        let fleet = self.parts.fleet.clone();
        tokio::spawn(async move {
            if let Err(error) = fleet.note_budget(&object, &note).await {
                tracing::warn!(budget = object.name_any(), %error, "an event could not be written");
            }
        });
    }
}

async fn next(events: &mut Option<mpsc::Receiver<BudgetEvent>>) -> BudgetEvent {
    if let Some(receiver) = events
        && let Some(event) = receiver.recv().await
    {
        return event;
    }
    // There are none, or the fleet has ended: then the office ends, and everything with it.
    std::future::pending().await
}
