//! Holds a ledger's records against a client's journal: `answered <= recorded <= answered + in flight at a kill`, every
//! call at most once, every answered call exactly once.

use crate::client::key;
use crate::journal::{Entry, Fate};
use dormouse_controller::ledger::RecordRow;
use dormouse_core::record::{Outcome, key_of};
use std::collections::{HashMap, HashSet};
use std::fmt;

/// Faults of one kind that are kept as text.
const KEPT: usize = 10;

/// Calls of a function whose instances say which they had, held against its records: each that began has exactly one
/// record, and one that was answered is not recorded as aborted. Says how many are.
///
/// # Errors
/// What is wrong.
pub fn dispatched(begun: &HashSet<u64>, entries: &[Entry], records: &[RecordRow]) -> anyhow::Result<u64> {
    let mut by_key: HashMap<u64, u32> = HashMap::with_capacity(records.len());
    records.iter().for_each(|r| *by_key.entry(r.record.key).or_default() += 1);
    let of = |number: u64| by_key.get(&key_of(key(number).as_bytes())).copied().unwrap_or(0);
    let wrong: Vec<(u64, u32)> = begun.iter().map(|n| (*n, of(*n))).filter(|(_, records)| *records != 1).collect();
    anyhow::ensure!(wrong.is_empty(), "calls that an instance had, and how many records each has: {wrong:?}");
    let aborted = records.iter().filter(|r| r.record.outcome == Outcome::Aborted);
    let aborted: HashSet<String> = aborted.map(|r| r.request_id.to_string()).collect();
    let answered = entries.iter().find(|e| e.must_be_recorded() && aborted.contains(&e.request_id));
    anyhow::ensure!(answered.is_none(), "answered and recorded as aborted: {answered:?}");
    Ok(count(aborted.len()))
}

/// What the comparison found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Calls that an instance had and whose end the client was told.
    pub answered: u64,
    /// Calls that were sent and not answered.
    pub in_flight: u64,
    /// Calls that were refused or never sent.
    pub refused: u64,
    /// Records.
    pub recorded: u64,
    /// What is wrong; empty when all is well.
    pub faults: Vec<String>,
}

impl Verdict {
    /// Compares a journal with the request ids of the records.
    #[must_use]
    pub fn of<S: AsRef<str>>(entries: &[Entry], recorded: &[S]) -> Self {
        let mut verdict = Self { recorded: count(recorded.len()), ..Self::default() };
        let mut records: HashMap<&str, u32> = HashMap::with_capacity(recorded.len());
        for id in recorded {
            *records.entry(id.as_ref()).or_default() += 1;
        }
        verdict.twice("recorded", &records);
        let mut answers: HashMap<&str, u32> = HashMap::with_capacity(entries.len());
        for entry in entries {
            if entry.must_be_recorded() {
                verdict.answered += 1;
                *answers.entry(&entry.request_id).or_default() += 1;
                if !records.contains_key(entry.request_id.as_str()) {
                    verdict.fault(format!("answered and not recorded: {entry:?}"));
                }
            } else if entry.fate == Fate::Indeterminate {
                verdict.in_flight += 1;
            } else {
                verdict.refused += 1;
                if !entry.request_id.is_empty() && records.contains_key(entry.request_id.as_str()) {
                    verdict.fault(format!("refused and recorded: {entry:?}"));
                }
            }
        }
        verdict.twice("answered", &answers);
        if verdict.recorded < verdict.answered || verdict.recorded > verdict.answered + verdict.in_flight {
            verdict.fault(format!(
                "not answered {} <= recorded {} <= answered + in flight {}",
                verdict.answered,
                verdict.recorded,
                verdict.answered + verdict.in_flight
            ));
        }
        verdict
    }

    /// True when nothing is wrong.
    #[must_use]
    pub fn good(&self) -> bool {
        self.faults.is_empty()
    }

    fn twice(&mut self, what: &str, ids: &HashMap<&str, u32>) {
        for (id, n) in ids.iter().filter(|(_, n)| **n > 1) {
            self.fault(format!("{what} {n} times: {id}"));
        }
    }

    fn fault(&mut self, text: String) {
        if self.faults.len() < KEPT {
            self.faults.push(text);
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { answered, in_flight, refused, recorded, faults } = self;
        write!(f, "answered {answered}, in flight at a kill {in_flight}, refused {refused}, recorded {recorded}")?;
        faults.iter().try_for_each(|fault| write!(f, "\n    {fault}"))
    }
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: u64, id: &str, fate: Fate) -> Entry {
        let (request_id, reason) = (id.into(), String::new());
        let status = if fate == Fate::Ok { 200 } else { 0 };
        Entry { number, request_id, status, fate, reason, cold: false, due_us: 0, took_us: 0 }
    }

    #[test]
    fn a_call_in_flight_may_be_recorded_or_not() {
        let calls = [entry(1, "a", Fate::Ok), entry(2, "", Fate::Indeterminate), entry(3, "", Fate::Fail)];
        for recorded in [&["a"][..], &["a", "b"][..]] {
            let verdict = Verdict::of(&calls, recorded);
            assert!(verdict.good(), "{verdict}");
            assert_eq!((verdict.answered, verdict.in_flight, verdict.refused), (1, 1, 1));
        }
    }

    #[test]
    fn lost_doubled_and_made_up_records_are_faults() {
        let calls = [entry(1, "a", Fate::Ok), entry(2, "c", Fate::Fail)];
        for recorded in [&[][..], &["b"][..], &["a", "a"][..], &["a", "b"][..], &["a", "c"][..]] {
            assert!(!Verdict::of(&calls, recorded).good(), "{recorded:?}");
        }
        let twice = [entry(1, "a", Fate::Ok), entry(2, "a", Fate::Ok)];
        assert!(!Verdict::of(&twice, &["a", "b"]).good());
    }

    #[test]
    fn an_instance_that_died_has_a_record() {
        let mut died = entry(1, "a", Fate::Fail);
        died.reason = "InstanceDied".into();
        assert!(Verdict::of(std::slice::from_ref(&died), &["a"]).good());
        assert!(!Verdict::of::<&str>(&[died], &[]).good());
    }
}
