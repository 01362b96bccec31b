//! The access log: one JSON line for each call that is over, written behind the calls' back.
//!
//! Calls put what is known of them into a bounded queue and go on; a thread makes lines of it and writes them. A full
//! queue (a reader of the pipe that sleeps, a slow disk) loses lines, which is counted, and never holds a call up.

use crate::{clock::micros, metrics::Metrics, trail::Facts};
use serde::Serialize;
use std::{
    fmt,
    fs::OpenOptions,
    io::{self, Write},
    path::PathBuf,
    str::FromStr,
    sync::mpsc::{self, Receiver, SyncSender, TrySendError},
    time::{Duration, Instant},
};

/// Lines that wait to be written: 8,192 calls with 1.6 KiB of text at most (see [`crate::trail`]) and 0.4 KiB besides are
/// 16 MiB, and usually below 4.
const QUEUE: usize = 8_192;
/// After the first line of a pause more are gathered for so long: whoever sends meanwhile wakes nobody. At 8,192 places
/// it keeps up with 400,000 lines a second.
const GATHER: Duration = Duration::from_millis(20);
/// Bytes that are written at once.
const WRITE: usize = 64 * 1024;

/// Where the access log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLog {
    /// To standard output; the other logs go to standard error.
    StandardOutput,
    /// To the end of a file, made if it is missing.
    File(PathBuf),
}

impl FromStr for AccessLog {
    type Err = &'static str;

    /// `-` is standard output; anything else names a file.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "" => Err("name a file, or write - for standard output"),
            "-" => Ok(Self::StandardOutput),
            file => Ok(Self::File(file.into())),
        }
    }
}

impl fmt::Display for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StandardOutput => f.write_str("standard output"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// Where calls leave what is known of them.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    queue: SyncSender<Message>,
    metrics: Metrics,
}

#[derive(Debug)]
enum Message {
    Line(Box<Facts>),
    /// Everything before it has been written when the sender hears of it.
    End(SyncSender<()>),
}

/// Between two tries to reach a writer that is behind.
const FULL_PAUSE: Duration = Duration::from_millis(10);

impl Writer {
    /// Opens the log and begins to write.
    ///
    /// # Errors
    /// When the file cannot be opened or no thread can be had.
    pub(crate) fn begin(to: &AccessLog, metrics: &Metrics) -> io::Result<Self> {
        let place: Box<dyn Write + Send> = match to {
            AccessLog::StandardOutput => Box::new(io::stdout()),
            AccessLog::File(path) => Box::new(OpenOptions::new().append(true).create(true).open(path)?),
        };
        Self::to(place, QUEUE, metrics)
    }

    fn to(place: Box<dyn Write + Send>, places: usize, metrics: &Metrics) -> io::Result<Self> {
        let (queue, lines) = mpsc::sync_channel(places);
        let counted = metrics.clone();
        std::thread::Builder::new().name("access-log".into()).spawn(move || write_all(lines, place, &counted))?;
        Ok(Self { queue, metrics: metrics.clone() })
    }

    /// Takes a call that is over; never waits.
    pub(crate) fn tell(&self, facts: Box<Facts>) {
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = self.queue.try_send(Message::Line(facts)) {
            self.metrics.access_dropped.inc();
        }
    }

    /// Waits until everything told so far is written, or the time is over: a pipe may be stuck. Blocks. False when lines
    /// were left.
    pub(crate) fn end(&self, limit: Duration) -> bool {
        let (done, written) = mpsc::sync_channel(1);
        let until = Instant::now() + limit;
        let mut message = Message::End(done);
        while let Err(error) = self.queue.try_send(message) {
            match error {
                TrySendError::Disconnected(_) => return true,
                TrySendError::Full(_) if Instant::now() >= until => return false,
                TrySendError::Full(again) => message = again,
            }
            std::thread::sleep(FULL_PAUSE);
        }
        written.recv_timeout(until.saturating_duration_since(Instant::now())) != Err(mpsc::RecvTimeoutError::Timeout)
    }
}

/// Writes until nobody can send any more, or one says that it is the end.
fn write_all(lines: Receiver<Message>, mut place: Box<dyn Write + Send>, metrics: &Metrics) {
    let mut page = Page::default();
    while let Ok(first) = lines.recv() {
        let mut next = Some(first);
        let mut waited = false;
        while let Some(message) = next.take() {
            match message {
                Message::Line(facts) => page.put(&facts),
                Message::End(done) => {
                    page.write(&mut place, metrics);
                    // Closed before the end is told: who comes later is told so, and counts its line as dropped.
                    drop(lines);
                    let _ = done.send(());
                    return;
                }
            }
            if page.text.len() >= WRITE {
                page.write(&mut place, metrics);
            }
            next = lines.try_recv().ok();
            if next.is_none() && !waited {
                waited = true;
                std::thread::sleep(GATHER);
                next = lines.try_recv().ok();
            }
        }
        page.write(&mut place, metrics);
    }
}

/// Lines that are written together.
#[derive(Default)]
struct Page {
    text: Vec<u8>,
    lines: u64,
    /// It was said that writing fails.
    told: bool,
}

impl Page {
    fn put(&mut self, facts: &Facts) {
        // Texts and numbers can always be written as JSON.
        if serde_json::to_writer(&mut self.text, &Line::of(facts)).is_ok() {
            self.text.push(b'\n');
            self.lines += 1;
        }
    }

    fn write(&mut self, place: &mut Box<dyn Write + Send>, metrics: &Metrics) {
        let lines = std::mem::take(&mut self.lines);
        if lines == 0 {
            return;
        }
        match place.write_all(&self.text).and_then(|()| place.flush()) {
            Ok(()) => {
                metrics.access_lines.inc_by(lines);
                self.told = false;
            }
            Err(e) => {
                metrics.access_dropped.inc_by(lines);
                if !std::mem::replace(&mut self.told, true) {
                    tracing::error!("the access log cannot be written: {e}");
                }
            }
        }
        self.text.clear();
    }
}

/// A line, in the order in which it is read.
#[derive(Serialize)]
struct Line<'a> {
    ts: String,
    request_id: String,
    trace_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    function: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<&'a str>,
    client: String,
    /// What a trusted proxy says of the caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    forwarded_for: Option<&'a str>,
    method: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
    /// Without the query: secrets are passed in it.
    path: &'a str,
    protocol: String,
    status: u16,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    cold: bool,
    request_bytes: u64,
    response_bytes: u64,
    wait_us: u64,
    claim_us: u64,
    start_us: u64,
    connect_us: u64,
    run_us: u64,
    total_us: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<String>,
}

impl<'a> Line<'a> {
    fn of(facts: &'a Facts) -> Self {
        let run = facts.run.as_ref();
        let key = facts.func.as_ref().map(|func| &func.key);
        Self {
            ts: facts.began().to_string(),
            request_id: facts.id.to_string(),
            trace_id: facts.trace.trace.to_string(),
            namespace: key.map(|k| k.namespace.as_str()),
            function: key.map(|k| k.name.as_str()),
            revision: run.map(|r| r.subject.revision.as_str()),
            client: facts.client.to_string(),
            forwarded_for: facts.forwarded_for.as_deref(),
            method: facts.method.as_str(),
            host: facts.host.as_deref(),
            path: &facts.path,
            protocol: format!("{:?}", facts.version),
            status: facts.status,
            outcome: facts.outcome(),
            reason: facts.reason.as_deref(),
            cold: run.is_some_and(|r| r.record.cold),
            request_bytes: run.map_or(0, |r| r.record.request_bytes),
            response_bytes: run.map_or(0, |r| r.record.response_bytes),
            wait_us: run.map_or(0, |r| r.record.wait_us),
            claim_us: run.map_or(0, |r| r.record.claim_us),
            start_us: run.map_or(0, |r| r.record.start_us),
            connect_us: run.map_or(0, |r| r.record.connect_us),
            run_us: run.map_or(0, |r| r.record.run_us),
            total_us: micros(facts.ended.saturating_sub(facts.at)),
            instance: run.map(|r| r.instance.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trail::tests::facts;
    use parking_lot::Mutex;
    use std::sync::Arc;

    /// A place that holds each write until it is let go.
    #[derive(Clone, Default)]
    struct Place(Arc<Mutex<Vec<u8>>>);

    impl Write for Place {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(data);
            Ok(data.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_are_written_in_order_and_whole_before_the_end() {
        let (place, metrics) = (Place::default(), Metrics::default());
        let writer = Writer::to(Box::new(place.clone()), 100, &metrics).unwrap();
        for call in 1..=50 {
            writer.tell(Box::new(facts(call)));
        }
        assert!(writer.end(Duration::from_secs(60)));
        let text = String::from_utf8(place.0.lock().clone()).unwrap();
        let calls: Vec<_> = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .map(|line| line["request_id"].as_str().unwrap().to_owned())
            .collect();
        let expected: Vec<_> = (1..=50).map(|call| format!("00000000000000ab-1-{call:x}")).collect();
        assert_eq!(calls, expected);
        assert_eq!((metrics.access_lines.get(), metrics.access_dropped.get()), (50, 0));
        writer.tell(Box::new(facts(51)));
        assert_eq!(metrics.access_dropped.get(), 1, "what comes after the end is counted");
        assert!(writer.end(Duration::from_secs(60)));
    }

    #[test]
    fn a_writer_that_sleeps_costs_lines_and_no_call() {
        let (place, metrics) = (Place::default(), Metrics::default());
        let asleep = place.0.lock();
        let writer = Writer::to(Box::new(place.clone()), 4, &metrics).unwrap();
        // The thread holds what it took before it slept: at most a page. Far more than that is told.
        let told = 10_000;
        for call in 0..told {
            writer.tell(Box::new(facts(call)));
        }
        let dropped = metrics.access_dropped.get();
        assert!(dropped > 0);
        drop(asleep);
        assert!(writer.end(Duration::from_secs(60)));
        let lines = place.0.lock().iter().filter(|b| **b == b'\n').count() as u64;
        assert_eq!((lines, metrics.access_lines.get()), (told - dropped, told - dropped));
    }

    #[test]
    fn a_place_that_fails_is_counted() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let metrics = Metrics::default();
        let writer = Writer::to(Box::new(Full), 4, &metrics).unwrap();
        writer.tell(Box::new(facts(1)));
        assert!(writer.end(Duration::from_secs(60)));
        assert_eq!((metrics.access_lines.get(), metrics.access_dropped.get()), (0, 1));
    }

    #[test]
    fn a_line_says_what_is_known() {
        let line = serde_json::to_value(Line::of(&facts(7))).unwrap();
        let expected = serde_json::json!({
            "ts": "2024-07-01T00:00:00.000001Z", "request_id": "00000000000000ab-1-7",
            "trace_id": "0000000000000000000000000000000c", "client": "10.0.0.9:1234", "method": "GET", "host": "a.b",
            "path": "/x", "protocol": "HTTP/1.1", "status": 503, "outcome": "refused", "reason": "QueueFull",
            "cold": false, "request_bytes": 0, "response_bytes": 0, "wait_us": 0, "claim_us": 0,
            "start_us": 0, "connect_us": 0, "run_us": 0, "total_us": 2000
        });
        assert_eq!(line, expected);
    }

    #[test]
    fn a_place_has_a_name() {
        assert_eq!("-".parse(), Ok(AccessLog::StandardOutput));
        assert_eq!("/a/b".parse(), Ok(AccessLog::File("/a/b".into())));
        assert!("".parse::<AccessLog>().is_err());
    }
}
