//! A call that is an event: the headers by which its function knows, and what its record says of it.
//!
//! They are believed where the shared token is: of another activator, and of ourselves. From anybody else they are stripped
//! with all of our names.

use crate::peer::Peers;
use dormouse_core::record::{Timed, Word};
use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;

/// The event's type.
pub(crate) const TYPE: HeaderName = HeaderName::from_static("dormouse-event");
/// When it was due, by RFC 3339.
pub(crate) const TIME: HeaderName = HeaderName::from_static("dormouse-event-time");
/// The schedule that made it.
pub(crate) const NAME: HeaderName = HeaderName::from_static("dormouse-event-name");

/// What makes a call an event.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    kind: HeaderValue,
    time: HeaderValue,
    name: Option<HeaderValue>,
    /// For the record.
    pub(crate) timed: Timed,
    /// When its caller leaves, the call is ended as if its time were over: somebody wants it to be.
    pub(crate) ends: bool,
}

impl Event {
    /// What a request says of it; `None` when that is none, or is none that we would have made.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Box<Self>> {
        let kind = headers.get(TYPE)?.clone();
        let (time, name) = (headers.get(TIME)?.clone(), headers.get(NAME).cloned());
        let due: Timestamp = time.to_str().ok()?.parse().ok()?;
        let schedule = name.as_ref().map_or(Some(Word::NONE), |name| Word::new(name.as_bytes()))?;
        let timed = Timed { due_us: due.as_microsecond(), schedule, replaced: false };
        Some(Box::new(Self { kind, time, name, timed, ends: Peers::ends(headers) }))
    }

    /// Puts it on the request that an instance gets.
    pub(crate) fn put(&self, headers: &mut HeaderMap) {
        headers.insert(TYPE, self.kind.clone());
        headers.insert(TIME, self.time.clone());
        if let Some(name) = &self.name {
            headers.insert(NAME, name.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_is_said_again() {
        let mut whole = HeaderMap::new();
        whole.insert(TYPE, HeaderValue::from_static("schedule"));
        whole.insert(TIME, HeaderValue::from_static("2026-01-01T00:00:00Z"));
        whole.insert(NAME, HeaderValue::from_static("nightly"));
        let event = Event::of(&whole).unwrap();
        assert_eq!((event.timed.due_us, event.timed.schedule.as_str()), (1_767_225_600_000_000, "nightly"));
        assert!(!event.ends);
        let mut headers = HeaderMap::new();
        event.put(&mut headers);
        assert_eq!(headers, whole);
        for bad in ["", "tomorrow"] {
            let mut headers = whole.clone();
            headers.insert(TIME, HeaderValue::from_static(bad));
            assert!(Event::of(&headers).is_none(), "{bad:?}");
        }
        assert!(Event::of(&HeaderMap::new()).is_none());
    }
}
