//! One line of a log: what it says, whether it is wanted, and how it is shown.

use crate::say::harmless;
use jiff::Timestamp;
use serde_json::{Map, Value};
use std::fmt::Write as _;

/// A line as the node kept it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// When it was written, by the node's clock.
    pub(crate) time: Option<Timestamp>,
    /// What was written.
    pub(crate) text: String,
}

impl Line {
    /// `2026-11-24T10:00:00.123456789Z words`, as nodes give it.
    pub(crate) fn stamped(text: &str) -> Self {
        let split = text.split_once(' ').and_then(|(time, rest)| Some((time.parse().ok()?, rest)));
        match split {
            Some((time, rest)) => Self { time: Some(time), text: rest.to_owned() },
            None => Self { time: None, text: text.to_owned() },
        }
    }
}

/// Which lines are wanted, and how.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// Only those of this call.
    pub(crate) request_id: Option<String>,
    /// As they were written.
    pub(crate) raw: bool,
    /// Their colours.
    pub(crate) paint: Paint,
}

impl Wanted {
    /// The line as it is shown; `None` when it is not wanted.
    pub(crate) fn show(&self, instance: &str, line: &Line) -> Option<String> {
        let record = Record::read(&line.text);
        if let Some(wanted) = &self.request_id
            && record.as_ref().and_then(|r| r.request_id.as_ref()) != Some(wanted)
        {
            return None;
        }
        if self.raw {
            return Some(line.text.clone());
        }
        let before = format!("{} ", self.paint.instance(instance));
        let text = record.map_or_else(|| harmless(&line.text).into_owned(), |record| record.text(self.paint));
        let mut shown = String::with_capacity(before.len() + text.len());
        for (n, part) in text.lines().chain(text.is_empty().then_some("")).enumerate() {
            let _ = write!(shown, "{}{before}{part}", if n > 0 { "\n" } else { "" });
        }
        Some(shown)
    }
}

/// A JSON line as the language runtimes write them (`runtimes/README.md`).
#[derive(Debug)]
struct Record {
    time: Option<Timestamp>,
    level: String,
    message: String,
    request_id: Option<String>,
    stack: Option<String>,
    /// The other fields, in order.
    fields: Vec<(String, Value)>,
}

impl Record {
    /// `None` for what is no such line.
    fn read(text: &str) -> Option<Self> {
        let mut fields: Map<String, Value> = text.starts_with('{').then(|| serde_json::from_str(text).ok())??;
        let mut take = |name: &str| match fields.remove(name)? {
            Value::String(text) => Some(text),
            other => Some(other.to_string()),
        };
        let (level, message) = (take("level")?, take("message")?);
        let time = take("time").and_then(|t| t.parse().ok());
        let (request_id, stack) = (take("requestId"), take("stack"));
        Some(Self { time, level, message, request_id, stack, fields: fields.into_iter().collect() })
    }

    fn text(&self, paint: Paint) -> String {
        let time = self.time.map_or_else(String::new, |t| format!("{} ", t.strftime("%H:%M:%S%.3f")));
        let mut text = format!("{time}{} {}", paint.level(&harmless(&self.level)), harmless(&self.message));
        for (name, value) in &self.fields {
            let value = match value {
                Value::String(value) if !value.contains([' ', '"', '\n']) => value.clone(),
                value => value.to_string(),
            };
            let _ = write!(text, "  {}={}", harmless(name), harmless(&value));
        }
        if let Some(id) = &self.request_id {
            let _ = write!(text, "  {}", paint.faint(&format!("[{}]", harmless(id))));
        }
        if let Some(stack) = &self.stack {
            for line in harmless(stack).lines() {
                let _ = write!(text, "\n    {line}");
            }
        }
        text
    }
}

/// ANSI colours, or none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint(bool);

/// Cyan, green, magenta, blue, yellow, bright cyan: red is for errors.
const COLOURS: [u8; 6] = [36, 32, 35, 34, 33, 96];

impl Paint {
    pub(crate) fn new(on: bool) -> Self {
        Self(on)
    }

    fn with(self, colour: u8, text: &str) -> String {
        if self.0 { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// The same colour for the same instance.
    fn instance(self, name: &str) -> String {
        let sum = name.bytes().fold(0_usize, |sum, b| sum.wrapping_mul(31).wrapping_add(usize::from(b)));
        self.with(COLOURS[sum % COLOURS.len()], &format!("{name} |"))
    }

    fn level(self, level: &str) -> String {
        let padded = format!("{:<5}", level.to_uppercase());
        match level {
            "error" => self.with(31, &padded),
            "warn" => self.with(33, &padded),
            "debug" => self.faint(&padded),
            _ => padded,
        }
    }

    fn faint(self, text: &str) -> String {
        self.with(2, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &str = r#"{"time":"2026-11-24T10:00:00.123Z","level":"warn","message":"slow\nvery","requestId":"r-1","ms":12,"path":"/a b"}"#;

    fn shown(text: &str, colour: bool) -> String {
        let wanted = Wanted { request_id: None, raw: false, paint: Paint::new(colour) };
        wanted.show("hello-1", &Line { time: None, text: text.into() }).unwrap()
    }

    #[test]
    fn the_nodes_time_is_taken_off() {
        let line = Line::stamped("2026-11-24T10:00:00.123456789Z two words");
        assert_eq!((line.text.as_str(), line.time.unwrap().as_second()), ("two words", 1_795_514_400));
        assert_eq!(Line::stamped("2026-11-24T10:00:00Z ").text, "");
        assert_eq!(Line::stamped("no time here"), Line { time: None, text: "no time here".into() });
    }

    #[test]
    fn records_are_readable() {
        let first = "hello-1 | 10:00:00.123 WARN  slow\nhello-1 | very  ms=12  path=\"/a b\"  [r-1]";
        assert_eq!(shown(RECORD, false), first);
        let stack = r#"{"time":"x","level":"error","message":"m","error":"HandlerError","stack":"Error: m\n  at f"}"#;
        let text = "hello-1 | ERROR m  error=HandlerError\nhello-1 |     Error: m\nhello-1 |       at f";
        assert_eq!(shown(stack, false), text);
    }

    #[test]
    fn other_lines_stay_as_they_are() {
        for text in ["listening on 8080", "{\"a\":1}", "{not json", "[1]", ""] {
            assert_eq!(shown(text, false), format!("hello-1 | {text}"));
        }
    }

    #[test]
    fn what_a_terminal_would_do_is_shown() {
        assert_eq!(shown("\x1b]0;x\x07a\tb", false), "hello-1 | \\u{1b}]0;x\\u{7}a\tb");
        let record = r#"{"level":"in\u001bfo","message":"a\u001b[2J\r","requestId":"r\u0007","k\u001b":"v\u009b","s":"a \u007f","stack":"x\u001b\ny"}"#;
        let lines = shown(record, false);
        assert!(!lines.contains(|c: char| c.is_control() && c != '\n'), "{lines:?}");
        for part in
            ["a\\u{1b}[2J\\u{d}", "[r\\u{7}]", "k\\u{1b}=v\\u{9b}", "s=\"a \\u{7f}\"", "    x\\u{1b}\nhello-1 |     y"]
        {
            assert!(lines.contains(part), "{part}: {lines}");
        }
    }

    #[test]
    fn colours_are_there_when_asked_for_only() {
        assert!(!shown(RECORD, false).contains('\x1b'));
        let coloured = shown(RECORD, true);
        assert!(coloured.contains("\x1b[33mWARN \x1b[0m") && coloured.contains("hello-1 |\x1b[0m "), "{coloured:?}");
    }

    #[test]
    fn one_call_s_lines() {
        let wanted = |raw| Wanted { request_id: Some("r-1".into()), raw, paint: Paint::new(false) };
        let show = |text: &str, raw| wanted(raw).show("i", &Line { time: None, text: text.into() });
        assert_eq!(show(RECORD, true).as_deref(), Some(RECORD));
        assert!(show(RECORD, false).is_some());
        assert_eq!(show("r-1 in words", false), None);
        assert_eq!(show(&RECORD.replace("r-1", "r-2"), false), None);
    }
}
