//! What a record says of a call that no caller made: when it was due, and by which schedule.

use std::fmt;

/// A call that the platform made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timed {
    /// When it was due, microseconds since 1970 UTC.
    pub due_us: i64,
    /// The schedule that it was due by; empty for an event that somebody asked for.
    pub schedule: Word,
    /// It was ended because the next one of its schedule was due.
    pub replaced: bool,
}

/// Longest [`Word`] in bytes: the length of a DNS label, which schedules' names have as their limit.
pub const MAX_WORD: usize = 63;

/// A name of at most [`MAX_WORD`] letters, digits and '-', kept where it stands: records are copied.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Word {
    len: u8,
    bytes: [u8; MAX_WORD],
}

impl Word {
    /// No name.
    pub const NONE: Self = Self { len: 0, bytes: [0; MAX_WORD] };

    /// A name; `None` when it is too long or has other characters.
    #[must_use]
    pub fn new(text: &[u8]) -> Option<Self> {
        let fits = text.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-');
        let mut word = Self { len: u8::try_from(text.len()).ok()?, ..Self::NONE };
        word.bytes.get_mut(..text.len()).filter(|_| fits)?.copy_from_slice(text);
        Some(word)
    }

    /// It as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // ASCII by its making.
        std::str::from_utf8(self.bytes.get(..usize::from(self.len)).unwrap_or_default()).unwrap_or_default()
    }
}

impl fmt::Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_short_and_plain() {
        for good in ["", "a", "Nightly-2", &"x".repeat(63)] {
            assert_eq!(Word::new(good.as_bytes()).unwrap().as_str(), good);
        }
        for bad in ["a b", "é", "a_b", "a\n", &"x".repeat(64), &"x".repeat(300)] {
            assert_eq!(Word::new(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
