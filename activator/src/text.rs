//! Texts of headers that every call gets, written digit by digit: `format!` costs more than forwarding the header does.

use crate::{clock, meter::Before};
use dormouse_core::RequestId;
use http::HeaderValue;
use std::time::Duration;

/// A request id as [`RequestId`] displays it.
pub(crate) fn request_id(id: RequestId) -> HeaderValue {
    // 16 digits, 8 and 16 at most, and two dashes.
    let mut text = Text::<42>::new();
    text.digits::<16>(id.activator, 16);
    text.put(b"-");
    text.digits::<16>(id.epoch.into(), 1);
    text.put(b"-");
    text.digits::<16>(id.call, 1);
    text.value()
}

/// `Server-Timing` (W3C) of a call: its parts, and how long it ran so far, in milliseconds with three digits behind the
/// point.
pub(crate) fn server_timing(before: Before, run: Duration) -> HeaderValue {
    let Before { wait, claim, start, connect } = before;
    // 57 for the names, and five times of 21 at most: 17 digits (2^64 / 1000), the point and three digits.
    let mut text = Text::<162>::new();
    let names = ["wait;dur=", ", claim;dur=", ", start;dur=", ", connect;dur=", ", run;dur="];
    for (name, time) in names.into_iter().zip([wait, claim, start, connect, run]) {
        text.put(name.as_bytes());
        let us = clock::micros(time);
        text.digits::<10>(us / 1000, 1);
        text.put(b".");
        text.digits::<10>(us % 1000, 3);
    }
    text.value()
}

/// A text of `N` bytes at most.
struct Text<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Text<N> {
    fn new() -> Self {
        Self { bytes: [0; N], len: 0 }
    }

    fn put(&mut self, text: &[u8]) {
        let end = self.len + text.len();
        self.bytes[self.len..end].copy_from_slice(text);
        self.len = end;
    }

    /// At least `width` digits.
    fn digits<const BASE: u64>(&mut self, mut number: u64, width: usize) {
        // u64::MAX has 20 decimal digits.
        let mut digits = [b'0'; 20];
        let mut at = digits.len();
        while number > 0 {
            at -= 1;
            digits[at] = b"0123456789abcdef"[(number % BASE) as usize];
            number /= BASE;
        }
        self.put(&digits[at.min(digits.len() - width)..]);
    }

    fn value(&self) -> HeaderValue {
        // Digits and letters are a header's value: the other branch is never taken.
        HeaderValue::from_bytes(&self.bytes[..self.len]).unwrap_or(HeaderValue::from_static(""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn texts_are_what_format_would_write(
            activator: u64, epoch: u32, call: u64, times: [u64; 4], start_us in 0..100_000_u64,
        ) {
            let id = RequestId { activator, epoch, call };
            prop_assert_eq!(request_id(id), id.to_string());
            let [wait, claim, connect, run] = times;
            let times = [wait, claim, start_us, connect, run];
            let [wait, claim, start, connect, run] = times.map(|us| format!("{}.{:03}", us / 1000, us % 1000));
            let expected = format!(
                "wait;dur={wait}, claim;dur={claim}, start;dur={start}, connect;dur={connect}, run;dur={run}"
            );
            let [wait, claim, start, connect, run] = times.map(Duration::from_micros);
            prop_assert_eq!(server_timing(Before { wait, claim, start, connect }, run), expected);
        }
    }

    #[test]
    fn zero_has_its_digits() {
        let id = RequestId { activator: 0, epoch: 0, call: 0 };
        assert_eq!(request_id(id), "0000000000000000-0-0");
        let zero = Duration::ZERO;
        let before = Before { wait: zero, claim: zero, start: zero, connect: zero };
        let expected = "wait;dur=0.000, claim;dur=0.000, start;dur=0.000, connect;dur=0.000, run;dur=0.000";
        assert_eq!(server_timing(before, zero), expected);
    }
}
