//! How a command ends: 0 done, 1 failed, 2 used wrongly, 3 not found, 4 not in time.

use std::fmt::Display;
use std::process::ExitCode;

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: Kind,
    message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Failed = 1,
    Usage = 2,
    NotFound = 3,
    TimedOut = 4,
}

/// What a command gives back.
pub(crate) type Outcome = Result<(), Failure>;

impl Failure {
    /// Something went wrong.
    pub(crate) fn failed(message: impl Display) -> Self {
        Self { kind: Kind::Failed, message: message.to_string() }
    }

    /// The command was used wrongly.
    pub(crate) fn usage(message: impl Display) -> Self {
        Self { kind: Kind::Usage, message: message.to_string() }
    }

    /// What was asked for is not there.
    pub(crate) fn not_found(message: impl Display) -> Self {
        Self { kind: Kind::NotFound, message: message.to_string() }
    }

    /// No answer in time.
    pub(crate) fn timed_out(message: impl Display) -> Self {
        Self { kind: Kind::TimedOut, message: message.to_string() }
    }

    /// What to tell.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// The process's exit code.
    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(self.kind as u8)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::failed(format!("{error:#}"))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::failed(error)
    }
}
