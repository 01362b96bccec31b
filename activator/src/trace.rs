//! W3C Trace Context of a call: passed on byte for byte when it is valid, begun when there is none.
//!
//! While traces are exported, a sampled call is passed on with our own span as its parent; the caller's decision to
//! sample is kept. `tracestate` belongs to its `traceparent`: it goes with it, and goes when that is not valid.

use http::{HeaderMap, HeaderName, HeaderValue};
use std::fmt;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The flag by which a caller says that it may have recorded the trace.
const SAMPLED: u8 = 1;

/// Which trace a call belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Context {
    pub(crate) trace: TraceId,
    /// The caller's span, when it told one.
    pub(crate) parent: Option<SpanId>,
    /// Our span, when the call is exported.
    pub(crate) span: Option<SpanId>,
}

/// Sixteen bytes, not all zero; displays as 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TraceId(pub(crate) u128);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Eight bytes, not all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SpanId(pub(crate) u64);

impl SpanId {
    pub(crate) fn random() -> Self {
        Self(rand::random::<u64>().max(1))
    }
}

/// How traces are begun and which are exported.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sampling {
    /// Sampled calls are exported.
    pub(crate) export: bool,
    /// Part of the calls without a caller's decision that are sampled, of 2^32.
    part: u64,
}

impl Sampling {
    /// `ratio` is between 0 and 1; what is outside counts as the nearer of the two.
    pub(crate) fn new(export: bool, ratio: f64) -> Self {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 2^32")]
        let part = (ratio.clamp(0.0, 1.0) * 4_294_967_296.0) as u64;
        Self { export, part }
    }

    fn draw(self) -> bool {
        self.part > u64::from(u32::MAX) || u64::from(rand::random::<u32>()) < self.part
    }
}

/// Makes a caller's trace headers those that its function gets.
pub(crate) fn enter(headers: &mut HeaderMap, sampling: Sampling) -> Context {
    let Some(told) = told(headers) else {
        let trace = TraceId(rand::random::<u128>().max(1));
        let sampled = sampling.draw();
        let own = SpanId::random();
        headers.remove(TRACESTATE);
        headers.insert(TRACEPARENT, written(trace, own, sampled));
        return Context { trace, parent: None, span: Some(own).filter(|_| sampling.export && sampled) };
    };
    let mut context = Context { trace: told.trace, parent: Some(told.parent), span: None };
    if sampling.export && told.sampled {
        let own = SpanId::random();
        headers.insert(TRACEPARENT, written(told.trace, own, true));
        context.span = Some(own);
    }
    context
}

/// A valid `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    trace: TraceId,
    parent: SpanId,
    sampled: bool,
}

/// What the caller told, when it is valid and was told once.
fn told(headers: &HeaderMap) -> Option<Told> {
    let mut all = headers.get_all(TRACEPARENT).iter();
    match (all.next(), all.next()) {
        (Some(one), None) => parse(one.as_bytes()),
        _ => None,
    }
}

/// `VERSION-TRACE-PARENT-FLAGS` in lower-case hexadecimal digits. A later version may go on after another `-`.
fn parse(text: &[u8]) -> Option<Told> {
    let (head, rest) = text.split_at_checked(55)?;
    let version = hex(head, 0..2)?;
    let goes_on = rest.is_empty() || (version > 0 && rest[0] == b'-');
    if version == 0xff || !goes_on || [head[2], head[35], head[52]] != [b'-'; 3] {
        return None;
    }
    let trace = hex(head, 3..35).filter(|id| *id != 0)?;
    let parent = hex(head, 36..52).filter(|id| *id != 0)?;
    let flags = hex(head, 53..55)?;
    Some(Told {
        trace: TraceId(trace),
        parent: SpanId(u64::try_from(parent).ok()?),
        sampled: flags & u128::from(SAMPLED) != 0,
    })
}

fn hex(text: &[u8], range: std::ops::Range<usize>) -> Option<u128> {
    text.get(range)?.iter().try_fold(0, |sum, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(sum << 4 | u128::from(value))
    })
}

/// A `traceparent` of version 00. Without a formatter: this is done for most calls.
fn written(trace: TraceId, span: SpanId, sampled: bool) -> HeaderValue {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    digits(&mut text[3..35], trace.0);
    digits(&mut text[36..52], u128::from(span.0));
    if sampled {
        text[54] = b'0' + SAMPLED;
    }
    // Hexadecimal digits and dashes are a value.
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static(""))
}

fn digits(place: &mut [u8], mut value: u128) {
    for digit in place.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(value & 15) as usize];
        value >>= 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const TRACE: TraceId = TraceId(0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
    const OFF: Sampling = Sampling { export: false, part: 1 << 32 };
    const ON: Sampling = Sampling { export: true, part: 0 };

    fn map(list: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn all(headers: &HeaderMap) -> Vec<(&str, &str)> {
        headers.iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect()
    }

    #[test]
    fn a_valid_context_passes_byte_for_byte() {
        let unsampled = VALID.replace("-01", "-00");
        let later = VALID.replacen("00", "cc", 1) + "-what=ever";
        let odd_flags = VALID.replace("-01", "-fe");
        for (parent, sampling) in
            [(VALID, OFF), (&unsampled, OFF), (&unsampled, ON), (&later, OFF), (&odd_flags, OFF), (&odd_flags, ON)]
        {
            let list = [("traceparent", parent), ("tracestate", "a=1, b=2"), ("tracestate", "c=3")];
            let mut headers = map(&list);
            let context = enter(&mut headers, sampling);
            assert_eq!(all(&headers), list, "{parent}");
            assert_eq!(context, Context { trace: TRACE, parent: Some(SpanId(0x00f0_67aa_0ba9_02b7)), span: None });
        }
    }

    #[test]
    fn an_exported_call_is_its_functions_parent() {
        for parent in [VALID.to_owned(), VALID.replacen("00", "cc", 1) + "-x"] {
            let mut headers = map(&[("traceparent", &parent), ("tracestate", "a=1")]);
            let context = enter(&mut headers, ON);
            let told = told(&headers).unwrap();
            assert_eq!((told.trace, told.sampled), (TRACE, true));
            assert_eq!((Some(told.parent), context.parent), (context.span, Some(SpanId(0x00f0_67aa_0ba9_02b7))));
            assert_eq!(headers["tracestate"], "a=1");
            assert!(headers["traceparent"].to_str().unwrap().starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"));
        }
    }

    #[test]
    fn what_is_not_valid_is_begun_anew_without_its_state() {
        let bad = [
            "",
            "00",
            &VALID.to_uppercase(),
            &VALID.replacen("00", "ff", 1),
            &VALID.replacen("00", "0g", 1),
            &VALID.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &VALID.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &VALID.replace("-01", "-1"),
            &VALID.replace("-01", "-0x"),
            &VALID.replace("-01", "_01"),
            &format!("{VALID}-x"),
            &format!("{VALID} "),
            &format!("{}x", VALID.replacen("00", "01", 1)),
        ];
        for parent in bad {
            let mut headers = map(&[("traceparent", parent), ("tracestate", "a=1")]);
            let context = enter(&mut headers, OFF);
            let told = told(&headers).expect(parent);
            assert_eq!((told.trace, told.sampled), (context.trace, true), "{parent}");
            assert_eq!((context.parent, context.span), (None, None));
            assert!(!headers.contains_key("tracestate"), "{parent}");
        }
        let mut twice = map(&[("traceparent", VALID), ("traceparent", VALID)]);
        assert_ne!(enter(&mut twice, OFF).trace, TRACE);
        assert_eq!(twice.get_all("traceparent").iter().count(), 1);
    }

    #[test]
    fn the_ratio_decides_only_for_calls_without_a_decision() {
        let (never, always) = (Sampling::new(true, -1.0), Sampling::new(true, 7.0));
        for _ in 0..100 {
            let (mut a, mut b) = (HeaderMap::new(), HeaderMap::new());
            assert!(enter(&mut a, never).span.is_none() && !told(&a).unwrap().sampled);
            let context = enter(&mut b, always);
            assert!(context.span.is_some() && context.span == told(&b).map(|t| t.parent));
            assert!(enter(&mut map(&[("traceparent", VALID)]), never).span.is_some());
            assert!(enter(&mut map(&[("traceparent", &VALID.replace("-01", "-00"))]), always).span.is_none());
        }
        let some = Sampling::new(true, 0.25);
        let sampled = (0..10_000).filter(|_| some.draw()).count();
        // 2,500 expected, with a standard deviation of 43: ten of them on either side.
        assert!((2_070..2_930).contains(&sampled), "{sampled}");
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(trace in 1..u128::MAX, span in 1..u64::MAX, sampled: bool) {
            let value = written(TraceId(trace), SpanId(span), sampled);
            let told = parse(value.as_bytes());
            prop_assert_eq!(told, Some(Told { trace: TraceId(trace), parent: SpanId(span), sampled }));
            let text = format!("00-{trace:032x}-{span:016x}-0{}", u8::from(sampled));
            prop_assert_eq!(value.to_str().unwrap(), text);
        }

        #[test]
        fn any_bytes_are_valid_only_by_the_rules(text in "[0-9a-f-]{50,60}") {
            if let Some(told) = parse(text.as_bytes()) {
                prop_assert!(told.trace.0 != 0 && told.parent.0 != 0);
            }
        }
    }
}
