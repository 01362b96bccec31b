//! Events that somebody asked for: each is ordered once from one activator, and whoever asked waits for what becomes of it.
//! Nothing of them is durable: who asks is there to ask again, and is told when nobody knows.

use super::{Takers, due};
use crate::fleet::FunctionUid;
use dormouse_core::FunctionKey;
use dormouse_core::function::Fired;
use dormouse_core::schedule::Said;
use dormouse_proto::v1;
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Events that are waited for at once: as many calls as one activator makes at once by orders.
const MAX_ASKED: usize = 256;

/// An event that is to be made.
#[derive(Debug)]
pub struct Wanted {
    /// Of which function.
    pub key: FunctionKey,
    /// Its type: see [`dormouse_core::schedule::is_word`].
    pub event: String,
    /// What it carries.
    pub body: bytes::Bytes,
    /// What that is.
    pub content_type: String,
    /// Whoever asked.
    pub answer: oneshot::Sender<Answer>,
}

/// What is told to whoever asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// There is no function of that name that can be called.
    NoFunction,
    /// Nobody is there to make the call, or too many are waited for: why, as one word.
    Later(&'static str),
    /// What became of it.
    Over {
        /// When it was due.
        due: Timestamp,
        /// What.
        outcome: Fired,
        /// Why, as one word.
        reason: Arc<str>,
    },
}

#[derive(Debug)]
struct Waiting {
    holder: Arc<str>,
    answer: oneshot::Sender<Answer>,
}

/// Those that are waited for, by function and due time.
#[derive(Debug, Default)]
pub struct Asked {
    waiting: BTreeMap<(FunctionUid, i64), Waiting>,
    /// No two have the same.
    last_us: i64,
}

impl Asked {
    /// Orders one.
    pub fn order(&mut self, uid: FunctionUid, wanted: Wanted, takers: &mut Takers, now: Timestamp) {
        self.waiting.retain(|_, waiting| !waiting.answer.is_closed());
        let Wanted { event, body, content_type, answer, .. } = wanted;
        let refused = if self.waiting.len() >= MAX_ASKED { Some("TooManyEvents") } else { None };
        let holder = match (refused, takers.choose()) {
            (None, Some(holder)) => holder,
            // Whoever asked may have left.
            (why, _) => return drop(answer.send(Answer::Later(why.unwrap_or("NoActivator")))),
        };
        self.last_us = now.as_microsecond().max(self.last_us + 1);
        let order = v1::FireOrder {
            function_uid: uid.to_string(),
            due_us: self.last_us,
            event,
            body,
            content_type,
            ..Default::default()
        };
        takers.took(holder.clone());
        takers.send(&holder, order);
        self.waiting.insert((uid, self.last_us), Waiting { holder: holder.clone(), answer });
        if !takers.is_present(&holder) {
            self.lost(|other| *other == *holder);
        }
    }

    /// An activator says something of one.
    pub fn heard(&mut self, uid: &FunctionUid, due_us: i64, holder: &str, said: &Said) {
        let (outcome, reason) = match said {
            Said::Held => return,
            Said::Ended { outcome, reason } => (*outcome, reason),
            Said::Refused { reason, .. } => (Fired::Failed, reason),
        };
        let key = (uid.clone(), due_us);
        if self.waiting.get(&key).is_some_and(|waiting| *waiting.holder == *holder) {
            self.answer(&key, outcome, reason.clone());
        }
    }

    /// An activator is heard anew, and has heard of these. What else it was to have it never had, or has forgotten.
    pub fn joined(&mut self, holder: &str, has: &BTreeSet<(FunctionUid, i64)>) {
        let gone = self.waiting.iter().filter(|(key, waiting)| *waiting.holder == *holder && !has.contains(key));
        for key in gone.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            self.answer(&key, Fired::Unknown, "Forgotten".into());
        }
    }

    /// Streams of activators are over: what they had is not known to those who ask.
    pub fn lost(&mut self, is: impl Fn(&str) -> bool) {
        let lost = self.waiting.iter().filter(|(_, waiting)| is(&waiting.holder)).map(|(key, _)| key.clone());
        for key in lost.collect::<Vec<_>>() {
            self.answer(&key, Fired::Unknown, "ActivatorLost".into());
        }
    }

    fn answer(&mut self, key: &(FunctionUid, i64), outcome: Fired, reason: Arc<str>) {
        if let Some(waiting) = self.waiting.remove(key) {
            let _ = waiting.answer.send(Answer::Over { due: due(key.1), outcome, reason });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    fn wanted() -> (Wanted, oneshot::Receiver<Answer>) {
        let (answer, told) = oneshot::channel();
        let key = FunctionKey::new("ns", "f");
        (Wanted { key, event: "x".into(), body: "1".into(), content_type: "a/b".into(), answer }, told)
    }

    #[test]
    fn each_is_ordered_once_and_answered_once() {
        let (mut asked, mut takers, now) = (Asked::default(), Takers::default(), Timestamp::UNIX_EPOCH);
        let (uid, (out, mut orders)) = (FunctionUid::from("u"), mpsc::channel(2));
        let (first, mut told) = wanted();
        asked.order(uid.clone(), first, &mut takers, now);
        assert_eq!(told.try_recv(), Ok(Answer::Later("NoActivator")));
        takers.join("a/1/1".into(), 1, false, out);
        let mut told = Vec::new();
        for _ in 0..2 {
            let (next, answer) = wanted();
            asked.order(uid.clone(), next, &mut takers, now);
            told.push(answer);
        }
        let dues: Vec<i64> = [orders.try_recv(), orders.try_recv()].map(|order| order.unwrap().due_us).into();
        assert_eq!(dues, [1, 2], "no two have the same");
        let ended = |outcome| Said::Ended { outcome, reason: "Status200".into() };
        asked.heard(&uid, 2, "b/1/1", &ended(Fired::Ran));
        asked.heard(&uid, 2, "a/1/1", &Said::Held);
        assert!(told[1].try_recv().is_err());
        asked.heard(&uid, 2, "a/1/1", &ended(Fired::Ran));
        let over =
            |due_us, outcome, reason: &str| Ok(Answer::Over { due: due(due_us), outcome, reason: reason.into() });
        assert_eq!(told[1].try_recv(), over(2, Fired::Ran, "Status200"));
        asked.lost(|holder| holder == "a/1/1");
        assert_eq!(told[0].try_recv(), over(1, Fired::Unknown, "ActivatorLost"));
        assert!(asked.waiting.is_empty());
    }

    #[test]
    fn who_is_heard_anew_and_does_not_name_one_will_never_answer_it() {
        let (mut asked, mut takers, now) = (Asked::default(), Takers::default(), Timestamp::UNIX_EPOCH);
        let (out, _orders) = mpsc::channel(3);
        takers.join("a/1/1".into(), 1, false, out);
        let mut order = || {
            let (next, answer) = wanted();
            asked.order("u".into(), next, &mut takers, now);
            answer
        };
        let mut told = [order(), order()];
        asked.joined("b/1/1", &BTreeSet::new());
        assert_eq!(asked.waiting.len(), 2, "they are another one's");
        asked.joined("a/1/1", &BTreeSet::from([("u".into(), 2)]));
        let unknown = Answer::Over { due: due(1), outcome: Fired::Unknown, reason: "Forgotten".into() };
        assert_eq!(told[0].try_recv(), Ok(unknown));
        assert!(told[1].try_recv().is_err(), "it has it");
    }

    #[test]
    fn who_has_left_is_not_waited_for_and_there_is_a_bound() {
        let (mut asked, mut takers, now) = (Asked::default(), Takers::default(), Timestamp::UNIX_EPOCH);
        let (out, _orders) = mpsc::channel(3 * MAX_ASKED);
        takers.join("a/1/1".into(), 1, false, out);
        let mut order = |asked: &mut Asked| {
            let (next, answer) = wanted();
            asked.order("u".into(), next, &mut takers, now);
            answer
        };
        let mut waiting: Vec<_> = (0..=MAX_ASKED).map(|_| order(&mut asked)).collect();
        assert_eq!(waiting.pop().unwrap().try_recv(), Ok(Answer::Later("TooManyEvents")));
        drop(waiting);
        assert!(order(&mut asked).try_recv().is_err());
        assert_eq!(asked.waiting.len(), 1);
    }
}
