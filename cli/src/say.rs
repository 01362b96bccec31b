//! What is printed: results on standard output, everything else on standard error. The only place that prints.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

/// A line of the result. A reader that has left (`dormouse list | head`) is no error.
pub(crate) fn out(line: impl Display) {
    let _ = writeln!(io::stdout().lock(), "{line}");
}

/// Whether the result is read by somebody who likes colours: a terminal, and NO_COLOR (no-color.org) is not set.
pub(crate) fn in_colour() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Bytes of the result.
pub(crate) fn bytes(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

/// All that can be read, as the result.
pub(crate) fn copy(from: &mut impl io::Read) -> io::Result<()> {
    let mut out = io::stdout().lock();
    io::copy(from, &mut out)?;
    out.flush()
}

/// A line beside the result.
pub(crate) fn note(line: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Why the command failed.
pub(crate) fn error(message: &str) {
    note(format_args!("error: {message}"));
}
