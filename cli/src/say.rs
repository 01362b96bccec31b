//! What is printed: results on standard output, everything else on standard error. The only place that prints.

use std::borrow::Cow;
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

/// What others wrote, harmless on a terminal: control characters but line ends and tabs are shown as `\u{1b}`. Bytes of a
/// function's log could otherwise rewrite what stands on the screen, or be taken for keys that were pressed.
pub(crate) fn harmless(text: &str) -> Cow<'_, str> {
    let harmful = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if !text.contains(harmful) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if harmful(c) { shown.extend(c.escape_unicode()) } else { shown.push(c) }
    }
    Cow::Owned(shown)
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

/// A line beside the result. It may tell what a function wrote last.
pub(crate) fn note(line: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{}", harmless(&line.to_string()));
}

/// Why the command failed.
pub(crate) fn error(message: &str) {
    note(format_args!("error: {message}"));
}

#[cfg(test)]
mod tests {
    use super::harmless;

    #[test]
    fn control_characters_are_shown() {
        assert_eq!(harmless("ä\tb\nc"), "ä\tb\nc");
        assert_eq!(harmless("\x1b[2J\r\0\x7f\u{9b}x"), r"\u{1b}[2J\u{d}\u{0}\u{7f}\u{9b}x");
    }
}
