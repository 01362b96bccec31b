//! The task that owns the budgets.

use super::book::{Book, Fit};
use super::{BudgetEvent, Budgets, Letter, MAX_BUDGETS};
use crate::fleet::{Fleet, Note, NoteKind};
use crate::ledger::{LedgerDoor, Month, ReadError};
use crate::office::Mail;
use crate::shares::Process;
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
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What was spent is written to a status at most that often; what changes whether calls are served, at once.
const WRITE: Duration = Duration::from_secs(30);
/// Pause after a write that failed.
const WRITE_AGAIN: Duration = Duration::from_secs(5);
/// How often it is looked whether another month has begun.
const CLOCK: Duration = Duration::from_secs(1);
/// Answers that wait for the treasurer.
const MAX_ANSWERS: usize = 1024;

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
}

/// What came of something that was asked.
enum Answer {
    Counted { name: String, month: Month, usage: Option<UsageSum>, settled: BTreeMap<Process, Amount>, took: Duration },
    Written { name: String, status: Box<BudgetStatus>, ok: bool },
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
    /// By the object's name.
    books: BTreeMap<String, Book>,
    streams: BTreeMap<Process, Stream>,
    /// Those that began before the budgets were known.
    early: Vec<(Process, Stream, Vec<v1::Spent>)>,
    synced: bool,
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
            books: BTreeMap::new(),
            streams: BTreeMap::new(),
            early: Vec::new(),
            stopped: BTreeSet::new(),
            parts,
        };
        (treasurer, shown)
    }

    /// Works until it is told to stop.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let due = self
                .books
                .values()
                .filter_map(|book| [book.due(), book.write_again_at].into_iter().flatten().min())
                .min();
            let clock = Instant::now() + CLOCK;
            let wake = due.map_or(clock, |due| due.min(clock));
            tokio::select! {
                () = stop.cancelled() => return,
                letter = self.letters.recv() => if let Some(letter) = letter { self.read(letter) },
                event = next(&mut self.events) => self.saw(event),
                answer = self.answers.recv() => if let Some(answer) = answer { self.answered(answer) },
                gone = self.shown.any_gone() => self.gone(&gone),
                () = tokio::time::sleep_until(wake) => {}
            }
            self.look().await;
        }
    }

    fn read(&mut self, letter: Letter) {
        match letter {
            Letter::Join { process, stream, said, out } => {
                let stream = Stream { number: stream, out };
                if self.synced { self.join(process, stream, &said) } else { self.early.push((process, stream, said)) }
            }
            Letter::Report { process, stream, said, farewell } => {
                if self.streams.get(&process).is_none_or(|present| present.number != stream) {
                    return;
                }
                for book in self.books.values_mut().filter(|book| book.bounds()) {
                    book.hear(&process, &said, &self.plan);
                    if farewell {
                        book.quit(&process);
                    }
                }
            }
            Letter::Leave { process, stream } => {
                self.early.retain(|(_, early, _)| early.number != stream);
                if self.streams.get(&process).is_some_and(|present| present.number == stream) {
                    self.streams.remove(&process);
                    self.books.values_mut().for_each(|book| book.mute(&process));
                }
            }
        }
    }

    /// An activator listens: it is told everything.
    fn join(&mut self, process: Process, stream: Stream, said: &[v1::Spent]) {
        // Its place runs this one now: whatever ran there before has ended.
        let before = |other: &Process| other.name == process.name && *other != process;
        self.streams.retain(|other, _| !before(other));
        for book in self.books.values_mut() {
            book.left(before);
            if book.bounds() {
                book.join(&process, said, &self.plan);
            }
        }
        let mut first = BTreeMap::new();
        let names: Vec<String> = self.books.keys().cloned().collect();
        for name in names {
            for (to, allowance) in self.dealt(&name, false) {
                if to == process { drop(first.insert(name.clone(), allowance)) } else { self.tell(&to, allowance) }
            }
        }
        let bounding = self.books.iter().filter(|(_, book)| book.bounds());
        let allowances = bounding
            .filter_map(|(name, book)| first.remove(name).or_else(|| book.allowance(&process, None, &self.plan)))
            .collect();
        let update =
            v1::BudgetUpdate { snapshot: true, allowances, removed: Vec::new(), price_plan: self.plan_text.clone() };
        if stream.out.try_send(update).is_ok() {
            self.streams.insert(process, stream);
        }
    }

    fn gone(&mut self, names: &BTreeSet<String>) {
        // One that is heard is the next of the same name.
        let streams = &self.streams;
        let over = |process: &Process| names.contains(&*process.name) && !streams.contains_key(process);
        self.books.values_mut().for_each(|book| book.left(over));
    }

    fn saw(&mut self, event: BudgetEvent) {
        let now = Instant::now();
        match event {
            BudgetEvent::There(object) => self.there(object, now),
            BudgetEvent::Gone(name) => {
                if let Some(book) = self.books.remove(&name) {
                    self.removed(&book.tenant);
                }
                self.rank();
            }
            BudgetEvent::Synced => {
                self.synced = true;
                tracing::info!(budgets = self.books.len(), "budgets are known");
                for (process, stream, said) in std::mem::take(&mut self.early) {
                    self.join(process, stream, &said);
                }
            }
        }
    }

    fn there(&mut self, object: Arc<Budget>, now: Instant) {
        let name = object.name_any();
        let month = Month::of(Timestamp::now());
        let full = self.books.len() >= MAX_BUDGETS && !self.books.contains_key(&name);
        match self.books.get_mut(&name) {
            Some(book) if book.object.metadata.uid == object.metadata.uid => {
                if book.object.spec == object.spec {
                    book.object = object;
                    return;
                }
                let tenant = book.tenant.clone();
                book.change(object, &self.plan, now);
                if book.tenant != tenant {
                    self.removed(&tenant);
                }
            }
            _ if full => {
                tracing::error!(budget = name, "there are {MAX_BUDGETS} budgets already: this one is not in force");
                return;
            }
            _ => {
                let book = Book::new(object, &self.plan, month, now);
                if let Some(before) = self.books.insert(name, book) {
                    self.removed(&before.tenant);
                }
            }
        }
        self.rank();
    }

    /// Of several budgets of one tenant the oldest counts. Those that count now, and did not, begin.
    fn rank(&mut self) {
        let mut oldest: BTreeMap<&str, &Book> = BTreeMap::new();
        for book in self.books.values().filter(|book| book.limit.is_ok()) {
            let first = oldest.entry(&book.tenant).or_insert(book);
            if book.age() < first.age() {
                *first = book;
            }
        }
        let oldest: BTreeMap<String, String> =
            oldest.into_iter().map(|(tenant, book)| (tenant.to_owned(), book.name().to_owned())).collect();
        for (name, book) in &mut self.books {
            let first = oldest.get(&book.tenant).filter(|first| *first != name && book.limit.is_ok());
            match (first, &book.fit) {
                (Some(first), Fit::InForce | Fit::TenantHasBudget(_)) => book.fit = Fit::TenantHasBudget(first.clone()),
                (None, Fit::TenantHasBudget(_)) => book.fit = Fit::InForce,
                _ => {}
            }
        }
        self.bind();
    }

    /// Activators are told of budgets that bound, and did not before; and of those that do no longer.
    fn bind(&mut self) {
        let mut told = Vec::new();
        let mut removed = Vec::new();
        for book in self.books.values_mut() {
            for process in self.streams.keys() {
                match (book.bounds(), book.knows(process)) {
                    (true, false) => {
                        book.join(process, &[], &self.plan);
                        told.extend(
                            book.allowance(process, None, &self.plan).map(|allowance| (process.clone(), allowance)),
                        );
                    }
                    (false, true) => removed.push(book.tenant.clone()),
                    _ => {}
                }
            }
            if !book.bounds() {
                book.left(|_| true);
            }
        }
        removed.iter().for_each(|tenant| self.removed(tenant));
        told.into_iter().for_each(|(process, allowance)| self.tell(&process, allowance));
    }

    /// A tenant has no budget that stops any more, unless there is another one.
    fn removed(&mut self, tenant: &str) {
        if self.books.values().any(|book| book.tenant == tenant && book.bounds()) {
            return;
        }
        let update = v1::BudgetUpdate { removed: vec![tenant.to_owned()], ..Default::default() };
        self.send(self.streams.keys().cloned().collect(), &update);
    }

    fn answered(&mut self, answer: Answer) {
        let now = Instant::now();
        match answer {
            Answer::Counted { name, month, usage, settled, took } => {
                let Some(book) = self.books.get_mut(&name) else { return };
                let before = book.state;
                book.answered((month, usage.as_ref()), &settled, &self.plan, took, now);
                if book.state != before {
                    self.turned(&name, before);
                }
            }
            Answer::Written { name, status, ok } => {
                let Some(book) = self.books.get_mut(&name) else { return };
                (book.writing, book.well) = (false, ok);
                if ok {
                    book.written = *status;
                    book.write_again_at = Some(now + WRITE);
                } else {
                    book.write_again_at = Some(now + WRITE_AGAIN);
                }
            }
        }
    }

    /// A budget came into another state: everybody is told.
    fn turned(&mut self, name: &str, before: BudgetState) {
        let Some(book) = self.books.get(name) else { return };
        if let Some(note) = book.note(before, &self.plan) {
            match note.kind {
                NoteKind::Warning => tracing::warn!(budget = name, "{}", note.message),
                NoteKind::Normal => tracing::info!(budget = name, "{}", note.message),
            }
            self.write_note(book.object.clone(), note);
        }
        if before == BudgetState::Stopped || book.state == BudgetState::Stopped {
            for (to, allowance) in self.dealt(name, true) {
                self.tell(&to, allowance);
            }
        }
    }

    /// Deals a budget out; with `all`, everybody is told how it stands, also where nothing changes.
    fn dealt(&mut self, name: &str, all: bool) -> Vec<(Process, v1::Allowance)> {
        let Some(book) = self.books.get_mut(name).filter(|book| book.bounds()) else { return Vec::new() };
        let mut told: BTreeMap<Process, Option<Told>> = BTreeMap::new();
        if all {
            told.extend(self.streams.keys().map(|process| (process.clone(), None)));
        }
        told.extend(book.deal().into_iter().map(|(process, told)| (process, Some(told))));
        let allowance = |(process, told): (Process, Option<Told>)| {
            book.allowance(&process, told, &self.plan).map(|allowance| (process, allowance))
        };
        told.into_iter().filter_map(allowance).collect()
    }

    fn tell(&mut self, to: &Process, allowance: v1::Allowance) {
        let update = v1::BudgetUpdate { allowances: vec![allowance], ..Default::default() };
        self.send(vec![to.clone()], &update);
    }

    /// Who does not read what it is told loses its stream: it begins another one, which tells everything.
    fn send(&mut self, to: Vec<Process>, update: &v1::BudgetUpdate) {
        for process in to {
            let Some(stream) = self.streams.get(&process) else { continue };
            if stream.out.try_send(update.clone()).is_err() {
                self.streams.remove(&process);
                self.books.values_mut().for_each(|book| book.mute(&process));
            }
        }
    }

    /// Does what is due.
    async fn look(&mut self) {
        let (now, wall) = (Instant::now(), Timestamp::now());
        let month = Month::of(wall);
        let names: Vec<String> = self.books.keys().cloned().collect();
        for name in &names {
            if let Some(book) = self.books.get_mut(name).filter(|book| book.month < month) {
                let before = book.state;
                book.begin(month, now);
                self.turned(name, before);
                for (to, allowance) in self.dealt(name, true) {
                    self.tell(&to, allowance);
                }
            }
            for (to, allowance) in self.dealt(name, false) {
                self.tell(&to, allowance);
            }
            self.count(name, now);
            self.write(name, now, wall);
        }
        self.shown.show(self.books.values().map(|book| book.view(&self.plan)).collect());
        let stopped: BTreeSet<Arc<str>> = self
            .books
            .values()
            .filter(|book| book.bounds() && book.state == BudgetState::Stopped)
            .map(|book| book.tenant.as_str().into())
            .collect();
        if stopped != self.stopped {
            self.stopped.clone_from(&stopped);
            // The office ends only with the controller.
            let _ = self.parts.office.send(Mail::Stopped { tenants: stopped }).await;
        }
    }

    /// Asks the ledger what was spent.
    fn count(&mut self, name: &str, now: Instant) {
        let Some(book) = self.books.get_mut(name) else { return };
        if book.due().is_none_or(|due| due > now) {
            return;
        }
        let (settled, month, tenant) = (book.ask(), book.month, book.tenant.clone());
        let (door, answer, name) = (self.parts.ledger.clone(), self.answer.clone(), name.to_owned());
        tokio::spawn(async move {
            let began = Instant::now();
            let usage = match door.ledger() {
                Ok(ledger) => match ledger.tenant_usage(&tenant, month.hours()).await {
                    Ok(usage) => Some(usage),
                    Err(ReadError::UnknownTenant(_)) => Some(UsageSum::default()),
                    Err(error) => {
                        tracing::warn!(budget = name, %error, "what was spent could not be read");
                        None
                    }
                },
                Err(_) => None,
            };
            let counted = Answer::Counted { name, month, usage, settled, took: began.elapsed() };
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
        let (fleet, object, answer, name) =
            (self.parts.fleet.clone(), book.object.clone(), self.answer.clone(), name.to_owned());
        tokio::spawn(async move {
            let written = fleet.report_budget(&object, &status).await;
            if let Err(error) = &written {
                tracing::warn!(budget = name, %error, "the status could not be written");
            }
            let _ = answer.send(Answer::Written { name, status: Box::new(status), ok: written.is_ok() }).await;
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
