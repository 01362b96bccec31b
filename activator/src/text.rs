//! Texts of headers that every call gets, written digit by digit: `format!` costs more than forwarding the header does.

use bytes::{BufMut, BytesMut};
use dormouse_core::RequestId;
use http::HeaderValue;
use std::time::Duration;

/// A request id as [`RequestId`] displays it.
pub(crate) fn request_id(id: RequestId) -> HeaderValue {
    // 16 digits, 8 and 16 at most, and two dashes.
    let mut text = BytesMut::with_capacity(42);
    put_hex(&mut text, id.activator, 16);
    text.put_u8(b'-');
    put_hex(&mut text, id.epoch.into(), 1);
    text.put_u8(b'-');
    put_hex(&mut text, id.call, 1);
    value(text)
}

/// `Server-Timing` (W3C) of a call: waited for a slot, for its instance to start, and ran so far, in milliseconds with
/// three digits behind the point.
pub(crate) fn server_timing((wait, start, run): (Duration, Duration, Duration)) -> HeaderValue {
    // The names, and three times of mostly fewer than ten digits; longer ones make it grow.
    let mut text = BytesMut::with_capacity(72);
    for (name, time) in [("wait;dur=", wait), (", start;dur=", start), (", run;dur=", run)] {
        text.put_slice(name.as_bytes());
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        put_decimal(&mut text, us / 1000, 1);
        text.put_u8(b'.');
        put_decimal(&mut text, us % 1000, 3);
    }
    value(text)
}

fn value(text: BytesMut) -> HeaderValue {
    // Digits and letters are a header's value: the other branch is never taken.
    HeaderValue::from_maybe_shared(text.freeze()).unwrap_or(HeaderValue::from_static(""))
}

/// At least `width` digits.
fn put_hex(out: &mut BytesMut, number: u64, width: usize) {
    put_digits(out, number, 16, width);
}

fn put_decimal(out: &mut BytesMut, number: u64, width: usize) {
    put_digits(out, number, 10, width);
}

fn put_digits(out: &mut BytesMut, mut number: u64, base: u64, width: usize) {
    // u64::MAX has 20 decimal digits.
    let mut digits = [b'0'; 20];
    let mut at = digits.len();
    while number > 0 {
        at -= 1;
        digits[at] = b"0123456789abcdef"[(number % base) as usize];
        number /= base;
    }
    out.put_slice(&digits[at.min(digits.len() - width)..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn texts_are_what_format_would_write(
            activator: u64, epoch: u32, call: u64, wait_us in 0..u64::MAX, start_us in 0..100_000_u64, run_us in 0..u64::MAX,
        ) {
            let id = RequestId { activator, epoch, call };
            prop_assert_eq!(request_id(id), id.to_string());
            let times = [wait_us, start_us, run_us];
            let [wait, start, run] = times.map(|us| format!("{}.{:03}", us / 1000, us % 1000));
            let expected = format!("wait;dur={wait}, start;dur={start}, run;dur={run}");
            let [wait, start, run] = times.map(Duration::from_micros);
            prop_assert_eq!(server_timing((wait, start, run)), expected);
        }
    }

    #[test]
    fn zero_has_its_digits() {
        let id = RequestId { activator: 0, epoch: 0, call: 0 };
        assert_eq!(request_id(id), "0000000000000000-0-0");
        let zero = Duration::ZERO;
        assert_eq!(server_timing((zero, zero, zero)), "wait;dur=0.000, start;dur=0.000, run;dur=0.000");
    }
}
