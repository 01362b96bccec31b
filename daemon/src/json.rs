//! A log line as one JSON object: `ts`, `level`, `target`, `msg`, then the event's own fields.
//!
//! Two rules for whoever reads logs: a line has at most one value of [`MAX_VALUE`] bytes for each field, and a field whose
//! name speaks of a secret never shows its value.

use std::fmt;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Most bytes of one value; a value is cut there.
const MAX_VALUE: usize = 8 * 1024;
/// Parts of names whose values are not shown, wherever they come from.
const SECRETS: [&str; 6] = ["authorization", "cookie", "password", "secret", "token", "api_key"];
const HIDDEN: &str = "[hidden]";
/// Names that mean something on every line: an event's own field of that name gets a `_`.
const OURS: [&str; 4] = ["ts", "level", "target", "msg"];

/// Writes events as JSON lines.
pub(crate) struct JsonLines;

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut ts = String::new();
        SystemTime.format_time(&mut Writer::new(&mut ts))?;
        let mut fields = Fields::default();
        event.record(&mut fields);
        let meta = event.metadata();
        let target = fields.target.as_deref().unwrap_or(meta.target());
        write!(writer, "{{\"ts\":{},\"level\":\"{}\"", quoted(&ts), meta.level())?;
        write!(writer, ",\"target\":{},\"msg\":{}{}}}", quoted(target), quoted(&fields.message), fields.rest)?;
        writeln!(writer)
    }
}

/// What an event says.
#[derive(Default)]
struct Fields {
    message: String,
    /// Target of an event that came from the `log` crate.
    target: Option<String>,
    /// The other fields, each with a comma before it.
    rest: String,
}

impl Fields {
    fn put(&mut self, field: &Field, value: &serde_json::Value) {
        // What the `log` crate says of itself.
        if let Some(of_log) = field.name().strip_prefix("log.") {
            if of_log == "target" {
                self.target = value.as_str().map(str::to_owned);
            }
            return;
        }
        let name = field.name().trim_start_matches("r#");
        if name == "message" {
            self.message = value.as_str().map_or_else(|| value.to_string(), |text| cut(text).to_owned());
            return;
        }
        let lower = name.to_ascii_lowercase();
        let hidden = SECRETS.iter().any(|secret| lower.contains(secret));
        let value = match value.as_str() {
            _ if hidden => quoted(HIDDEN),
            Some(text) => quoted(cut(text)),
            None => value.to_string(),
        };
        let mark = if OURS.contains(&name) { "_" } else { "" };
        self.rest.push_str(&format!(",{}:{value}", quoted(&format!("{name}{mark}"))));
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, &format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, &value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, &value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, &value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, &value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, &value.into());
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn cut(text: &str) -> &str {
    let end = (0..=MAX_VALUE.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    &text[..end]
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use parking_lot::Mutex;
    use std::sync::Arc;
    use tracing_subscriber::fmt::MakeWriter;

    /// Where a test reads what was logged.
    #[derive(Clone, Default)]
    pub(crate) struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Paper {
        pub(crate) fn lines(&self) -> Vec<serde_json::Value> {
            let text = String::from_utf8(self.0.lock().clone()).unwrap();
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        }
    }

    impl std::io::Write for Paper {
        fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(data);
            Ok(data.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Paper {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn a_line_is_one_object_with_its_fields_and_without_secrets() {
        let paper = Paper::default();
        let subscriber = tracing_subscriber::fmt().event_format(JsonLines).with_writer(paper.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(target: "place", function = "hello", calls = 3, part = 0.5, late = true, "it \"says\"\n{}", 1);
            tracing::warn!(authorization = "Bearer abc", Session_Cookie = %"abc", token_file = ?"abc", level = "x", "w");
            tracing::error!(long = "é".repeat(MAX_VALUE), "{}", "y".repeat(2 * MAX_VALUE));
        });
        let lines = paper.lines();
        let ts = lines[0]["ts"].as_str().unwrap();
        assert!(ts.len() == 27 && ts.ends_with('Z') && ts.as_bytes()[10] == b'T', "{ts}");
        let mut first = lines[0].clone();
        first["ts"] = "".into();
        let expected = serde_json::json!({"ts": "", "level": "INFO", "target": "place", "msg": "it \"says\"\n1",
            "function": "hello", "calls": 3, "part": 0.5, "late": true});
        assert_eq!(first, expected);
        for name in ["authorization", "Session_Cookie", "token_file"] {
            assert_eq!(lines[1][name], HIDDEN, "{name}");
        }
        assert_eq!((&lines[1]["level"], &lines[1]["level_"]), (&"WARN".into(), &"x".into()));
        assert_eq!(lines[2]["long"].as_str().map(str::len), Some(MAX_VALUE));
        assert_eq!(lines[2]["msg"].as_str().map(str::len), Some(MAX_VALUE));
    }
}
