//! Logs: one JSON object per line on standard error, or plain lines for people. What is logged can be changed while the
//! process runs.

use crate::json::JsonLines;
use parking_lot::Mutex;
use std::io::IsTerminal;
use std::sync::Arc;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, reload};

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// For a terminal.
    Text,
}

/// Longest filter: thirty directives of a name and a level.
pub const MAX_FILTER: usize = 1024;

/// A filter that is not taken.
#[derive(Debug, thiserror::Error)]
pub enum BadFilter {
    /// It is too long.
    #[error("a filter has at most {MAX_FILTER} bytes")]
    Long,
    /// It is none.
    #[error("not a filter such as \"info\" or \"info,dormouse_activator=debug\": {0}")]
    Syntax(String),
    /// This process's logs were not begun here.
    #[error("the logs of this process cannot be changed: {0}")]
    Fixed(String),
}

type Reload = dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync;

/// What is logged, by level and target; clones change the same.
#[derive(Clone)]
pub struct LogFilter {
    reload: Arc<Reload>,
    text: Arc<Mutex<String>>,
}

impl LogFilter {
    /// One that nobody logs by.
    #[cfg(test)]
    pub(crate) fn unused(text: &str) -> Self {
        Self { reload: Arc::new(|_| Ok(())), text: Arc::new(Mutex::new(text.to_owned())) }
    }

    /// The filter in force, as it was written.
    #[must_use]
    pub fn text(&self) -> String {
        self.text.lock().clone()
    }

    /// Logs by another filter from now on; the same text as `RUST_LOG` takes.
    ///
    /// # Errors
    /// When the text is no filter, or the logs were begun by somebody else; the one in force then stays.
    pub fn set(&self, text: &str) -> Result<(), BadFilter> {
        let text = text.trim();
        if text.len() > MAX_FILTER {
            return Err(BadFilter::Long);
        }
        if text.is_empty() {
            return Err(BadFilter::Syntax("it is empty".into()));
        }
        // Also what cannot mean anything ("inof" alone would be taken for the name of a target).
        let is_level = |d: &str| !d.trim().is_empty() && d.trim().parse::<LevelFilter>().is_ok();
        if let Some(lone) = text.split(',').find(|d| !d.contains('=') && !is_level(d)) {
            return Err(BadFilter::Syntax(format!("{lone:?} is no level")));
        }
        let filter = EnvFilter::try_new(text).map_err(|e| BadFilter::Syntax(e.to_string()))?;
        let mut in_force = self.text.lock();
        (self.reload)(filter).map_err(BadFilter::Fixed)?;
        text.clone_into(&mut in_force);
        Ok(())
    }
}

impl std::fmt::Debug for LogFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LogFilter").field(&self.text()).finish()
    }
}

/// Starts logging at `default_level` (for example "info"), or as `RUST_LOG` says. A second call does nothing, so that
/// two parts of one process may both ask; the filter that it returns changes nothing.
pub fn init(format: LogFormat, default_level: &str) -> LogFilter {
    init_to(format, default_level, std::io::stderr)
}

/// [`init`] with another place for the lines.
pub fn init_to<W>(format: LogFormat, default_level: &str, writer: W) -> LogFilter
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let wish = std::env::var(EnvFilter::DEFAULT_ENV).ok().filter(|text| !text.trim().is_empty());
    let read = wish.and_then(|text| EnvFilter::try_new(&text).ok().map(|filter| (filter, text)));
    let (filter, text) = read.unwrap_or_else(|| (EnvFilter::new(default_level), default_level.to_owned()));
    let (filter, handle) = reload::Layer::new(filter);
    let lines = match format {
        LogFormat::Json => fmt::layer().event_format(JsonLines).with_writer(writer).boxed(),
        LogFormat::Text => {
            let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            fmt::layer().with_writer(writer).with_target(true).with_ansi(colour).compact().without_time().boxed()
        }
    };
    // An error means that logs were begun before; the handle then knows that its filter is in nobody's use.
    let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
    let reload = move |filter| handle.reload(filter).map_err(|e| e.to_string());
    LogFilter { reload: Arc::new(reload), text: Arc::new(Mutex::new(text)) }
}
