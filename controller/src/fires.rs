//! Who takes orders for calls by the clock, and what they say of them.

pub mod asked;
pub mod door;

use crate::shares::Process;
use dormouse_core::function::Fired;
use dormouse_core::schedule::Said;
use dormouse_proto::v1::{self, FateState};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Orders that wait to be read by one activator. Who does not read them loses its stream, and says on the next one
/// which of them it has: of 256 KiB each at most, so 64 MiB. It holds no more calls at once.
const MAX_ORDERS: usize = 256;

/// Longest reason, in bytes: the longest code has 25.
const MAX_REASON: usize = 64;

/// What reaches the office of orders.
#[derive(Debug)]
pub enum Letter {
    /// An activator's stream began with everything that it knows.
    Join {
        /// Which.
        process: Process,
        /// Number of the stream.
        stream: u64,
        /// What it knows.
        report: v1::FireReport,
        /// Where orders go.
        out: mpsc::Sender<v1::FireOrder>,
    },
    /// What became of orders.
    Report {
        /// Whose.
        process: Process,
        /// Number of the stream.
        stream: u64,
        /// What it says.
        report: v1::FireReport,
    },
    /// The stream ended.
    Leave {
        /// Whose.
        process: Process,
        /// Number of the stream.
        stream: u64,
    },
}

/// How the status names a process of an activator.
#[must_use]
pub fn holder(process: &Process) -> Arc<str> {
    format!("{}/{:016x}/{}", process.name, process.activator, process.epoch).into()
}

/// Whether that is a process of an activator of this name.
#[must_use]
pub fn is_named(holder: &str, name: &str) -> bool {
    holder.strip_prefix(name).is_some_and(|rest| rest.starts_with('/'))
}

/// One activator's stream.
#[derive(Debug)]
struct Taker {
    stream: u64,
    out: mpsc::Sender<v1::FireOrder>,
    /// It is to be given no more.
    leaving: bool,
    /// Its process is known to have ended: what it has is lost with its stream.
    ended: bool,
}

/// Activators that take orders, by [`holder`].
#[derive(Debug, Default)]
pub struct Takers {
    streams: BTreeMap<Arc<str>, Taker>,
    /// Chosen last.
    last: Option<Arc<str>>,
}

impl Takers {
    /// One is heard, with everything that it knows.
    pub fn join(&mut self, holder: Arc<str>, stream: u64, leaving: bool, out: mpsc::Sender<v1::FireOrder>) {
        self.streams.insert(holder, Taker { stream, out, leaving, ended: false });
    }

    /// Whether this is the present stream of one; it says, by the way, whether it is leaving.
    pub fn hears(&mut self, holder: &str, stream: u64, leaving: bool) -> bool {
        let present = self.streams.get_mut(holder).filter(|taker| taker.stream == stream);
        present.map(|taker| taker.leaving |= leaving).is_some()
    }

    /// A stream is over. `None`: it was none of those that count; else whether the process is known to have ended.
    pub fn leave(&mut self, holder: &str, stream: u64) -> Option<bool> {
        self.streams.get(holder).filter(|taker| taker.stream == stream)?;
        self.streams.remove(holder).map(|taker| taker.ended)
    }

    /// The processes of this name have ended. Those that are still heard may be later ones: they end with their stream.
    pub fn gone(&mut self, name: &str) {
        self.streams.iter_mut().filter(|(holder, _)| is_named(holder, name)).for_each(|(_, taker)| taker.ended = true);
    }

    /// Ends the streams of activators of a holder's name, so that they begin anew and tell all they know: who has ended
    /// is known by it, too. Their number says that a stream is none that counts, whatever still comes of it.
    pub fn ask_anew(&mut self, holder: &str) {
        let name = holder.rsplitn(3, '/').nth(2).unwrap_or(holder);
        let before = self.streams.len();
        self.streams.retain(|other, _| !is_named(other, name));
        if self.streams.len() < before {
            tracing::info!(activator = name, "asked anew for what it has: a status names it that was not read before");
        }
    }

    /// Whether one is heard.
    #[must_use]
    pub fn is_present(&self, holder: &str) -> bool {
        self.streams.contains_key(holder)
    }

    /// Those of a name that are heard.
    #[must_use]
    pub fn present_of(&self, name: &str) -> BTreeSet<Arc<str>> {
        self.streams.keys().filter(|holder| is_named(holder, name)).cloned().collect()
    }

    /// Who is to have the next order: each in turn.
    #[must_use]
    pub fn choose(&self) -> Option<Arc<str>> {
        let takes = |(holder, taker): (&Arc<str>, &Taker)| (!taker.leaving && !taker.ended).then(|| holder.clone());
        let after =
            self.last.iter().flat_map(|last| self.streams.range(last.clone()..).filter(move |(h, _)| *h != last));
        after.chain(&self.streams).find_map(takes)
    }

    /// One was chosen.
    pub fn took(&mut self, holder: Arc<str>) {
        self.last = Some(holder);
    }

    /// Sends an order. Who does not read loses its stream.
    pub fn send(&mut self, holder: &Arc<str>, order: v1::FireOrder) {
        let Some(taker) = self.streams.get(holder) else { return };
        if taker.out.try_send(order).is_err() {
            tracing::warn!(activator = &**holder, "it does not read its orders: its stream is ended");
            self.streams.remove(holder);
        }
    }
}

/// What an activator says of an order; `None` when it says nothing that is known here.
#[must_use]
pub fn said(fate: &v1::Fate) -> Option<Said> {
    let reason = || {
        let mut reason: String = fate.reason.chars().filter(char::is_ascii_alphanumeric).take(MAX_REASON).collect();
        if reason.is_empty() {
            reason = format!("Status{}", fate.status);
        }
        reason.into()
    };
    match fate.state() {
        FateState::Unspecified => None,
        FateState::Held => Some(Said::Held),
        FateState::Ended => {
            let outcome = match (fate.reason.as_str(), fate.status) {
                ("", 100..400) => Fired::Ran,
                // Another activator took the call over, no answer came at all, or it was forgotten: what became of it is
                // not known.
                ("PeerLost" | "NoAnswer" | "Forgotten", _) => Fired::Unknown,
                _ => Fired::Failed,
            };
            Some(Said::Ended { outcome, reason: reason() })
        }
        FateState::Refused => Some(Said::Refused { reason: reason(), again: fate.again }),
    }
}

/// A due time as orders tell it.
#[must_use]
pub fn due(due_us: i64) -> Timestamp {
    Timestamp::from_microsecond(due_us).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_turn_and_who_ends_has_none() {
        let mut takers = Takers::default();
        let (out, _orders) = mpsc::channel(1);
        assert_eq!(takers.choose(), None);
        for name in ["a/1/1", "b/1/1", "ab/1/1"] {
            takers.join(name.into(), 1, false, out.clone());
        }
        let mut turns = Vec::new();
        for _ in 0..4 {
            let choice = takers.choose().unwrap();
            turns.push(choice.to_string());
            takers.took(choice);
        }
        assert_eq!(turns, ["a/1/1", "ab/1/1", "b/1/1", "a/1/1"]);
        takers.gone("ab");
        assert_eq!(takers.choose().as_deref(), Some("b/1/1"));
        assert!(takers.hears("b/1/1", 1, true) && !takers.hears("b/1/1", 2, true));
        assert_eq!(takers.choose().as_deref(), Some("a/1/1"));
        assert_eq!([takers.leave("ab/1/1", 2), takers.leave("ab/1/1", 1)], [None, Some(true)]);
        takers.send(&"a/1/1".into(), v1::FireOrder::default());
        assert!(takers.is_present("a/1/1"));
        takers.send(&"a/1/1".into(), v1::FireOrder::default());
        assert!(!takers.is_present("a/1/1"), "it does not read");
        let (out, _orders) = mpsc::channel(1);
        for name in ["x/a/1/1", "x/a/1/2", "a/1/1"] {
            takers.join(name.into(), 1, false, out.clone());
        }
        takers.ask_anew("x/a/1/7");
        let present = ["x/a/1/1", "x/a/1/2", "a/1/1"].map(|name| takers.is_present(name));
        assert_eq!(present, [false, false, true]);
    }

    #[test]
    fn what_is_said_is_read() {
        let fate = |state: FateState, status, reason: &str| {
            said(&v1::Fate { state: state.into(), status, reason: reason.into(), again: true, ..Default::default() })
        };
        let ended = |outcome, reason: &str| Some(Said::Ended { outcome, reason: reason.into() });
        assert_eq!(fate(FateState::Unspecified, 0, ""), None);
        assert_eq!(fate(FateState::Held, 0, ""), Some(Said::Held));
        assert_eq!(fate(FateState::Ended, 204, ""), ended(Fired::Ran, "Status204"));
        assert_eq!(fate(FateState::Ended, 404, ""), ended(Fired::Failed, "Status404"));
        assert_eq!(fate(FateState::Ended, 0, ""), ended(Fired::Failed, "Status0"));
        assert_eq!(fate(FateState::Ended, 504, "Timeout"), ended(Fired::Failed, "Timeout"));
        assert_eq!(fate(FateState::Ended, 502, "PeerLost"), ended(Fired::Unknown, "PeerLost"));
        assert_eq!(fate(FateState::Ended, 0, "NoAnswer"), ended(Fired::Unknown, "NoAnswer"));
        let refused = Said::Refused { reason: "xy".into(), again: true };
        assert_eq!(fate(FateState::Refused, 0, "x\ny"), Some(refused));
    }
}
