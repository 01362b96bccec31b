//! What `dev` prints while it runs: a line per call, and what happens to functions and their instances.

use crate::say;
use dormouse_activator::SeenCall;
use dormouse_controller::fleet::NoteKind;
use dormouse_controller::fleet::process::Seen;
use dormouse_controller::ledger::{Filter, Granularity, GroupBy, LedgerDoor, Month, UsageQuery};
use dormouse_core::FunctionKey;
use dormouse_core::price::{Exact, PricePlan};
use dormouse_core::record::CallRecord;
use jiff::{Timestamp, Zoned};
use std::io::IsTerminal;
use tokio::sync::mpsc;

/// Names are padded to this, so that lines of usual functions line up.
const NAME: usize = 12;
/// Longest path that is printed whole.
const MAX_PATH: usize = 60;

/// The printer, and what all calls of this month have cost.
pub(crate) struct Console {
    plan: PricePlan,
    cost: Exact,
    colour: bool,
}

impl Console {
    /// Goes on from what the ledger says of this month.
    pub(crate) async fn new(plan: PricePlan, ledger: &LedgerDoor) -> Self {
        let cost = this_month(&plan, ledger).await.unwrap_or_default();
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { plan, cost, colour }
    }

    /// Prints until both sources have closed.
    pub(crate) async fn run(mut self, mut seen: mpsc::Receiver<Seen>, mut calls: mpsc::Receiver<SeenCall>) {
        loop {
            tokio::select! {
                Some(call) = calls.recv() => self.call(&call),
                Some(seen) = seen.recv() => self.seen(&seen),
                else => return,
            }
        }
    }

    fn call(&mut self, call: &SeenCall) {
        let record = &call.record;
        let cost = self.plan.cost_of(record, (call.subject.memory_mib, call.subject.cpu_millis));
        self.cost = self.cost.plus(cost);
        let key = FunctionKey::new(&*call.subject.namespace, &*call.subject.name);
        let schedule = record.timed.as_ref().map(|timed| timed.schedule.as_str());
        let request = match schedule {
            None => format!("{} {}", call.method, say::harmless(&short(&call.path))),
            Some("") => "event".into(),
            Some(name) => format!("schedule {name}"),
        };
        let line = format!(
            "{request:<24} {} {}  {}  billed {} ms  {} {} so far",
            status(record),
            if record.cold { self.paint("36", "cold") } else { "warm".into() },
            times(record),
            self.plan.metering().billed_ms(record),
            self.plan.currency,
            self.cost,
        );
        self.line(&key, &line);
    }

    fn seen(&self, seen: &Seen) {
        match seen {
            Seen::Started { key, name, pid, address } => {
                self.line(key, &self.paint("2", &format!("{name} started: process {pid}, port {}", address.port())));
            }
            Seen::Line { key, name, text } => {
                let (colour, text) = said(text);
                let text = colour.map_or(text.clone(), |colour| self.paint(colour, &text));
                self.line(key, &format!("{} {text}", self.paint("2", &format!("{name} |"))))
            }
            Seen::Died { key, name, how } => self.line(key, &self.paint("31", &format!("{name} {how}"))),
            Seen::Stopped { key, name } => self.line(key, &self.paint("2", &format!("{name} stopped"))),
            Seen::Told { key, note } => {
                let colour = if note.kind == NoteKind::Warning { "33" } else { "2" };
                self.line(key, &self.paint(colour, &format!("{}: {}", note.reason, say::harmless(&note.message))));
            }
        }
    }

    fn line(&self, key: &FunctionKey, text: &str) {
        let name = if key.namespace == "default" { key.name.clone() } else { key.to_string() };
        let now = Zoned::now();
        say::out(format_args!("{}  {name:<NAME$} {text}", self.paint("2", &now.strftime("%H:%M:%S").to_string())));
    }

    /// SGR codes on a terminal, nothing elsewhere.
    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.into() }
    }
}

/// A line that a function wrote, and its colour. A runtime's is JSON: level and message, or the trace of an error.
fn said(line: &str) -> (Option<&'static str>, String) {
    #[derive(serde::Deserialize)]
    struct Said {
        level: String,
        message: String,
        error: Option<String>,
        stack: Option<String>,
    }
    let Ok(Said { level, message, error, stack }) = serde_json::from_str(line) else {
        return (None, say::harmless(line).into_owned());
    };
    let colour = match level.as_str() {
        "error" => Some("31"),
        "warn" => Some("33"),
        "debug" => Some("2"),
        _ => None,
    };
    let code = error.map_or(String::new(), |error| format!("{error}: "));
    (colour, say::harmless(&format!("{code}{}", stack.unwrap_or(message))).into_owned())
}

/// What the ledger has of this month. Calls that a killed `dev` left in the spool are not in it yet.
async fn this_month(plan: &PricePlan, ledger: &LedgerDoor) -> Option<Exact> {
    let query = UsageQuery {
        hours: Month::of(Timestamp::now()).hours(),
        granularity: Granularity::Total,
        local: None,
        group_by: GroupBy::default(),
        filter: Filter::default(),
        after: None,
        limit: 1,
    };
    let page = ledger.ledger().ok()?.usage(&query).await.ok()?;
    let billed = page.rows.first()?.usage.billed(plan);
    Some(plan.cost(&billed, &page.rows.first()?.usage.warm))
}

/// The status that the caller was given, or why there is none.
fn status(record: &CallRecord) -> String {
    match record.status {
        0 => record.outcome.name().into(),
        status => status.to_string(),
    }
}

fn times(record: &CallRecord) -> String {
    let ms = |us: u64| format!("{}.{:01}", us / 1000, us % 1000 / 100);
    let CallRecord { wait_us, claim_us, start_us, connect_us, run_us, .. } = *record;
    let [wait, claim, start, connect, run] = [wait_us, claim_us, start_us, connect_us, run_us].map(ms);
    if record.cold {
        format!("wait {wait} claim {claim} start {start} connect {connect} run {run} ms")
    } else {
        format!("wait {wait} run {run} ms")
    }
}

fn short(path: &str) -> String {
    match path.char_indices().nth(MAX_PATH) {
        Some((end, _)) => format!("{}...", &path[..end]),
        None => path.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dormouse_core::record::Outcome;

    #[test]
    fn what_runtimes_write_is_shown_as_people_read_it() {
        let plain = |line: &str| said(line);
        assert_eq!(plain("hello"), (None, "hello".into()));
        assert_eq!(plain(r#"{"a":1}"#), (None, r#"{"a":1}"#.into()));
        let line = r#"{"time":"t","level":"info","message":"hi","requestId":"r"}"#;
        assert_eq!(plain(line), (None, "hi".into()));
        let line = r#"{"level":"error","message":"no","error":"HandlerError","stack":"Error: no\n    at a.js:1"}"#;
        assert_eq!(plain(line), (Some("31"), "HandlerError: Error: no\n    at a.js:1".into()));
    }

    #[test]
    fn what_a_terminal_would_do_is_shown() {
        assert_eq!(said("\x1b[2Ja\tb").1, "\\u{1b}[2Ja\tb");
        let line = r#"{"level":"error","message":"no","error":"E\u001b","stack":"a\u001b[2J\n  b\r"}"#;
        assert_eq!(said(line).1, "E\\u{1b}: a\\u{1b}[2J\n  b\\u{d}");
    }

    #[test]
    fn times_and_states_are_short() {
        let record = CallRecord {
            subject: 0,
            call: 1,
            received_at_us: 0,
            wait_us: 1290,
            claim_us: 3_050,
            start_us: 40_100,
            connect_us: 150,
            run_us: 999,
            request_bytes: 0,
            response_bytes: 0,
            status: 0,
            outcome: Outcome::ClientGone,
            cold: true,
            first: true,
            warm_slots: 0,
            key: 0,
            timed: None,
        };
        assert_eq!(times(&record), "wait 1.2 claim 3.0 start 40.1 connect 0.1 run 0.9 ms");
        assert_eq!(times(&CallRecord { cold: false, ..record }), "wait 1.2 run 0.9 ms");
        assert_eq!(status(&record), "client_gone");
        assert_eq!(status(&CallRecord { status: 204, ..record }), "204");
        assert_eq!(short(&"ä".repeat(70)).chars().count(), 63);
    }
}
