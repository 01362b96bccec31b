//! Intents: calls that are dispatched and have no record yet, so that a life which ends without warning leaves a word of
//! each: what the next one finds without a record becomes one, aborted and billed 0.
//!
//! An intent is the record as it stands at the dispatch, written to the log and never synced for its own sake: it is for
//! the end of the process, not of the power. It takes no number: those belong to records. A write(2) of its own costs a
//! call as much as its record does, so by default only what has run for a while is written, together with the next
//! record, and at the latest when the spool is synced; see [`Intents::each`] for who wants every one.

use super::{Reservation, Spool, SpoolError, segment::Word};
use dormouse_core::record::{CallRecord, Outcome, Subject};
use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering::Relaxed},
};

/// Calls that have run for so long are written with the next record. Most calls are over by then and cost nothing: at
/// 30,000 calls a second that last 1 ms none is written; those that last longer are fewer, as their instances are busy.
const SETTLED_US: i64 = 10_000;

/// The place of an open call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(u32);

#[derive(Debug)]
struct Open {
    subject: Arc<Subject>,
    record: CallRecord,
    /// It is in the segment that is written to.
    written: bool,
}

/// Calls that are open; as many as there are calls in flight, some 150 B each.
#[derive(Debug, Default)]
pub(super) struct Intents {
    open: Vec<Option<Open>>,
    free: Vec<u32>,
    /// What may not be written yet, in the order of dispatch: when, where, and which call was there.
    young: VecDeque<(i64, Place, u64)>,
    /// Each is written before its call is dispatched.
    pub(super) each: bool,
}

impl Intents {
    fn begin(&mut self, subject: &Arc<Subject>, record: &CallRecord) -> Place {
        let open = Some(Open { subject: subject.clone(), record: *record, written: self.each });
        let at = match self.free.pop() {
            Some(at) => {
                self.open[at as usize] = open;
                at
            }
            None => {
                self.open.push(open);
                // Each is a call in flight, and they have places reserved: a spool of 8 TiB has fewer.
                (self.open.len() - 1) as u32
            }
        };
        if !self.each {
            self.young.push_back((record.dispatched_at_us(), Place(at), record.call));
        }
        Place(at)
    }

    /// Says which call it was, if that was written.
    pub(super) fn end(&mut self, place: Place) -> Option<u64> {
        let open = self.open.get_mut(place.0 as usize)?.take()?;
        self.free.push(place.0);
        open.written.then_some(open.record.call)
    }

    /// What was dispatched up to then and is not written: it counts as written from now on.
    fn take_young(&mut self, dispatched_to_us: i64) -> Vec<Word> {
        let mut words = Vec::new();
        while let Some(&(_, place, call)) = self.young.front().filter(|(at, ..)| *at <= dispatched_to_us) {
            self.young.pop_front();
            if let Some(Some(open)) = self.open.get_mut(place.0 as usize)
                && open.record.call == call
                && !std::mem::replace(&mut open.written, true)
            {
                words.push(open.word());
            }
        }
        words
    }

    /// Everything: it counts as written from now on.
    fn take_all(&mut self) -> Vec<Word> {
        self.young.clear();
        self.open.iter_mut().flatten().for_each(|open| open.written = true);
        self.open.iter().flatten().map(Open::word).collect()
    }
}

impl Open {
    fn word(&self) -> Word {
        Word::Intent(self.subject.clone(), self.record)
    }
}

impl Spool {
    /// A call is about to be dispatched: `record` is what there will be of it if this life ends before it does.
    pub(crate) fn intend(
        &self,
        reservation: &mut Reservation,
        subject: &Arc<Subject>,
        record: &CallRecord,
    ) -> Result<(), SpoolError> {
        let record = CallRecord { outcome: Outcome::Aborted, ..*record };
        if !self.each {
            reservation.intent = Some(self.room.intents.lock().begin(subject, &record));
            return Ok(());
        }
        if !self.has_room_for(1) {
            return Err(SpoolError::Full);
        }
        // Under the lock of the log: a segment that begins carries it, or it is written to the one that has begun.
        let mut log = self.log.lock();
        if let Err(e) = self.note(&mut log, &[Word::Intent(subject.clone(), record)]) {
            self.failed.store(true, Relaxed);
            return Err(e.into());
        }
        reservation.intent = Some(self.room.intents.lock().begin(subject, &record));
        Ok(())
    }

    /// The call was not dispatched after all: nothing of it is to be found.
    pub(crate) fn withdraw(&self, mut reservation: Reservation) {
        let mut log = self.log.lock();
        let Some(place) = reservation.intent.take() else { return };
        let Some(call) = self.room.intents.lock().end(place) else { return };
        if let Err(e) = self.note(&mut log, &[Word::Void(call)]) {
            tracing::warn!(call, "a call that was not dispatched may be recorded as aborted: {e}");
        }
    }

    /// Intents that go with a record which is written now.
    pub(super) fn due(&self, ended_at_us: i64) -> Vec<Word> {
        let words = self.room.intents.lock().take_young(ended_at_us - SETTLED_US);
        // What explains is worth less than a record: it takes no room that those were promised.
        if self.has_room_for(words.len()) { words } else { Vec::new() }
    }

    /// Writes what is left to write.
    pub(super) fn note_young(&self) {
        let mut log = self.log.lock();
        let words = self.room.intents.lock().take_young(i64::MAX);
        if !words.is_empty()
            && self.has_room_for(words.len())
            && let Err(e) = self.note(&mut log, &words)
        {
            // Half a word may stay in the file, and nothing behind it would be found: another one is begun.
            self.failed.store(true, Relaxed);
            tracing::warn!("intents cannot be written: {e}");
        }
    }

    /// A segment begins: the one that had them may go before they end. Returns the bytes that they take.
    pub(super) fn carry(&self, log: &mut super::Log) -> u64 {
        let words = self.room.intents.lock().take_all();
        if words.is_empty() || !self.has_room_for(words.len()) {
            return 0;
        }
        log.writer.append(&words).unwrap_or_else(|e| {
            self.failed.store(true, Relaxed);
            tracing::warn!("intents cannot be carried into a new segment: {e}");
            0
        })
    }

    /// Writes words that take no number.
    fn note(&self, log: &mut super::Log, words: &[Word]) -> std::io::Result<()> {
        let bytes = log.writer.append(words)?;
        if let Some(current) = log.segments.back_mut() {
            current.bytes += bytes;
        }
        self.room.used.fetch_add(bytes, Relaxed);
        Ok(())
    }
}
