//! Values as text.

use super::{Exact, PART, TEN_19};
use std::fmt;

/// Room for a value's text: 320 bits have 97 digits, and no scale is above 38 (25 of an amount, 28 of a decimal); a point.
const TEXT: usize = 6 * PART;

/// The text of a value, without trailing zeros. Millions of them are written in an answer: it takes no memory but its own.
pub struct ExactText {
    text: [u8; TEXT],
    from: usize,
    to: usize,
}

impl ExactText {
    pub(super) fn of(mut value: Exact) -> Self {
        let (mut text, mut from, point) = ([b'0'; TEXT], TEXT, value.scale as usize);
        // From the last digit to the first; at least one before the point.
        while !value.is_zero() {
            let mut part = value.divide(TEN_19);
            let end = from - PART;
            while part != 0 {
                from -= 1;
                text[from] = b'0' + (part % 10) as u8;
                part /= 10;
            }
            // Zeros within the number are there already.
            from = if value.is_zero() { from } else { end };
        }
        from = from.min(TEXT - point - 1);
        let zeros = text[TEXT - point..].iter().rev().take_while(|digit| **digit == b'0').count();
        if zeros == point {
            return Self { text, from, to: TEXT - point };
        }
        text.copy_within(from..TEXT - point, from - 1);
        text[TEXT - point - 1] = b'.';
        Self { text, from: from - 1, to: TEXT - zeros }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Digits and a point.
        std::str::from_utf8(&self.text[self.from..self.to]).unwrap_or_default()
    }
}

impl fmt::Display for Exact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.text().as_str())
    }
}

impl serde::Serialize for Exact {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.text().as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// By long division, a digit at a time.
    fn digits(mut value: Exact) -> String {
        let mut digits = Vec::new();
        while digits.len() <= value.scale as usize || !value.is_zero() {
            digits.push(b'0' + value.divide(10) as u8);
        }
        let text: String = digits.iter().rev().map(|digit| char::from(*digit)).collect();
        let (whole, fraction) = text.split_at(text.len() - value.scale as usize);
        format!("{whole}.{fraction}").trim_end_matches('0').trim_end_matches('.').to_owned()
    }

    proptest! {
        #[test]
        fn text_is_what_long_division_says(limbs in any::<[u64; 5]>(), shift in 0u32..320, zeros in 0u32..30, scale in 0u32..39) {
            let mut value = Exact { limbs, scale };
            for _ in 0..shift {
                value.divide(2);
            }
            for _ in 0..zeros.min(shift / 4) {
                value.times(10);
            }
            prop_assert_eq!(value.to_string(), digits(value));
            let padded = format!("{value:>120}");
            prop_assert_eq!(padded.trim_start(), digits(value));
        }
    }
}
