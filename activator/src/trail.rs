//! What a call leaves besides its record: a line of the access log, a trace. Made only when somebody wants one.
//!
//! A trail is shared by those who know a part: the server knows the request and a refusal, the meter what ran. With the
//! last of them the call is over, and what is known of it is handed out.

use crate::{
    access,
    answer::Refusal,
    clock::{self, Clock},
    func::Func,
    otlp,
    shared::Shared,
    trace::{self, Sampling},
};
use dormouse_core::{
    RequestId,
    record::{CallRecord, Subject},
};
use http::{HeaderMap, Method, Request, Version, header};
use jiff::Timestamp;
use parking_lot::Mutex;
use std::{borrow::Cow, net::SocketAddr, sync::Arc, time::Duration};

/// Bytes that are kept of a call's texts: path, host (the longest that is valid), X-Forwarded-For, method. 1.6 KiB in
/// all, whatever a client sends.
const MAX_PATH: usize = 1024;
const MAX_HOST: usize = 259;
const MAX_FORWARDED: usize = 256;
const MAX_METHOD: usize = 32;

/// Who is told of calls that are over.
#[derive(Clone, Debug)]
pub(crate) struct Outlets {
    pub(crate) access: Option<access::Writer>,
    pub(crate) traces: Option<otlp::Sender>,
    pub(crate) sampling: Sampling,
}

impl Outlets {
    fn tell(&self, facts: Box<Facts>) {
        match (&self.access, self.traces.as_ref().filter(|_| facts.trace.span.is_some())) {
            (Some(access), Some(traces)) => {
                access.tell(facts.clone());
                traces.tell(facts);
            }
            (Some(access), None) => access.tell(facts),
            (None, Some(traces)) => traces.tell(facts),
            (None, None) => {}
        }
    }
}

/// What is known of a call that is over.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) id: RequestId,
    pub(crate) trace: trace::Context,
    /// Wall clock at its beginning, microseconds since 1970.
    pub(crate) at_us: i64,
    /// The same and the end, by the process's clock.
    pub(crate) at: Duration,
    pub(crate) ended: Duration,
    pub(crate) client: SocketAddr,
    /// What a trusted proxy said of the caller.
    pub(crate) forwarded_for: Option<String>,
    pub(crate) method: Method,
    pub(crate) host: Option<String>,
    /// Without the query: secrets are passed in it.
    pub(crate) path: String,
    pub(crate) version: Version,
    pub(crate) func: Option<Arc<Func>>,
    /// What the caller was given; 0 for nothing.
    pub(crate) status: u16,
    /// Why it was refused or broke off.
    pub(crate) reason: Option<Cow<'static, str>>,
    /// Another activator took it over, and tells what ran.
    pub(crate) handed_over: bool,
    /// When it was dispatched.
    pub(crate) run: Option<Run>,
}

/// A call that was dispatched.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) subject: Arc<Subject>,
    pub(crate) instance: SocketAddr,
    pub(crate) record: CallRecord,
    /// When it asked for a slot, was dispatched, and got the head of its response.
    pub(crate) arrived: Duration,
    pub(crate) dispatched: Duration,
    pub(crate) answered: Option<Duration>,
}

impl Facts {
    /// When it began.
    pub(crate) fn began(&self) -> Timestamp {
        Timestamp::from_microsecond(self.at_us).unwrap_or_default()
    }

    /// How it ended, in a word.
    pub(crate) fn outcome(&self) -> &'static str {
        match (&self.run, &self.reason) {
            (Some(run), _) => run.record.outcome.name(),
            (None, Some(_)) => "refused",
            (None, None) if self.handed_over => "handed_over",
            // It left while it waited.
            (None, None) => "client_gone",
        }
    }
}

/// The trail of one call.
#[derive(Debug)]
pub(crate) struct Trail {
    outlets: Arc<Outlets>,
    clock: Clock,
    /// Taken at the end.
    facts: Mutex<Option<Box<Facts>>>,
}

impl Trail {
    /// Begins the trail of a call if somebody wants it.
    pub(crate) fn begin<B>(
        shared: &Shared,
        client: SocketAddr,
        request: &Request<B>,
        (id, at_us, at): (RequestId, i64, Duration),
        trace: trace::Context,
    ) -> Option<Arc<Self>> {
        let outlets = &shared.outlets;
        if outlets.access.is_none() && trace.span.is_none() {
            return None;
        }
        let headers = request.headers();
        let host = text(headers, &header::HOST, MAX_HOST);
        let facts = Facts {
            id,
            trace,
            at_us,
            at,
            ended: at,
            client,
            forwarded_for: text(headers, &crate::headers::X_FORWARDED_FOR, MAX_FORWARDED)
                .filter(|_| shared.is_trusted(client.ip())),
            method: Some(request.method().clone()).filter(|m| m.as_str().len() <= MAX_METHOD).unwrap_or_default(),
            host: host.or_else(|| request.uri().authority().map(|a| cut(a.as_str(), MAX_HOST))),
            path: cut(request.uri().path(), MAX_PATH),
            version: request.version(),
            func: None,
            status: 0,
            reason: None,
            handed_over: false,
            run: None,
        };
        let facts = Mutex::new(Some(Box::new(facts)));
        Some(Arc::new(Self { outlets: outlets.clone(), clock: shared.clock, facts }))
    }

    /// Which function it is for.
    pub(crate) fn found(&self, func: &Arc<Func>) {
        self.note(|facts| facts.func = Some(func.clone()));
    }

    /// The caller was told that it was refused or broke off.
    pub(crate) fn refused(&self, status: u16, reason: Cow<'static, str>) {
        self.note(|facts| (facts.status, facts.reason) = (status, Some(reason)));
    }

    /// Another activator took it over and has begun to answer.
    pub(crate) fn handed_over(&self, status: u16) {
        self.note(|facts| (facts.status, facts.handed_over) = (status, true));
    }

    /// It ran, and is recorded.
    pub(crate) fn ran(&self, run: Run) {
        self.note(|facts| {
            facts.status = run.record.status;
            facts.run = Some(run);
        });
    }

    fn note(&self, note: impl FnOnce(&mut Facts)) {
        if let Some(facts) = &mut *self.facts.lock() {
            note(facts);
        }
    }
}

impl Drop for Trail {
    fn drop(&mut self) {
        if let Some(mut facts) = self.facts.get_mut().take() {
            facts.ended = self.clock.now();
            self.outlets.tell(facts);
        }
    }
}

/// A request that could not be read as one: nothing is known of it but who sent it.
pub(crate) fn unread(shared: &Shared, client: SocketAddr, id: RequestId, refusal: &Refusal) {
    tracing::debug!(request_id = %id, reason = &*refusal.code, %client, "a request is refused");
    let Some(access) = &shared.outlets.access else { return };
    let at = shared.clock.now();
    access.tell(Box::new(Facts {
        id,
        trace: trace::Context { trace: trace::TraceId(0), parent: None, span: None },
        at_us: clock::wall_us(),
        at,
        ended: at,
        client,
        forwarded_for: None,
        method: Method::from_bytes(b"-").unwrap_or_default(),
        host: None,
        path: String::new(),
        version: Version::HTTP_11,
        func: None,
        status: refusal.status.as_u16(),
        reason: Some(refusal.code.clone()),
        handed_over: false,
        run: None,
    }));
}

/// A header's first value, cut.
fn text(headers: &HeaderMap, name: &header::HeaderName, max: usize) -> Option<String> {
    headers.get(name).map(|value| cut(&String::from_utf8_lossy(value.as_bytes()), max))
}

fn cut(text: &str, max: usize) -> String {
    let end = (0..=max.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text[..end].to_owned()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::trace::{Context, TraceId};

    /// A call that found the room full.
    pub(crate) fn facts(call: u64) -> Facts {
        Facts {
            id: RequestId { activator: 0xab, epoch: 1, call },
            trace: Context { trace: TraceId(12), parent: None, span: None },
            at_us: 1_719_792_000_000_001,
            at: Duration::from_secs(1),
            ended: Duration::from_millis(1002),
            client: "10.0.0.9:1234".parse().unwrap(),
            forwarded_for: None,
            method: Method::GET,
            host: Some("a.b".into()),
            path: "/x".into(),
            version: Version::HTTP_11,
            func: None,
            status: 503,
            reason: Some("QueueFull".into()),
            handed_over: false,
            run: None,
        }
    }

    #[test]
    fn texts_are_cut_at_a_character() {
        assert_eq!(cut("aé", 2), "a");
        assert_eq!(cut("aé", 3), "aé");
        assert_eq!(cut(&"x".repeat(2000), MAX_PATH).len(), MAX_PATH);
    }
}
