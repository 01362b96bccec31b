//! What gRPC callers need to hear: an outcome as `grpc-status`, where others read a status line.
//!
//! A gRPC library takes any answer but 200 for a broken proxy and guesses a code from it. So refusals become what gRPC
//! calls Trailers-Only: a 200 that ends with its head and says the code there. A response that breaks off within its
//! body ends with trailers that say why: a status other than 0 is no clean end to a gRPC caller.

use crate::answer::REASON;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const CONTENT: HeaderValue = HeaderValue::from_static("application/grpc");

/// Whether a head is of a gRPC call: `application/grpc`, alone or with `+proto`, `;charset` and the like. gRPC-Web
/// (`application/grpc-web`) is not: it reads HTTP statuses.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(content) = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes) else { return false };
    let Some((name, rest)) = content.split_at_checked(CONTENT.len()) else { return false };
    name.eq_ignore_ascii_case(CONTENT.as_bytes()) && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

/// The code that stands for one of our refusals. As in gRPC's own table for answers of proxies, but 429 is the
/// exhausted resource that it is, 404 the method that nobody implements, and timeouts are exceeded deadlines.
pub(crate) fn code(status: StatusCode) -> u8 {
    match status.as_u16() {
        429 => 8,        // RESOURCE_EXHAUSTED
        502 | 503 => 14, // UNAVAILABLE
        504 | 408 => 4,  // DEADLINE_EXCEEDED
        404 => 12,       // UNIMPLEMENTED
        _ => 13,         // INTERNAL
    }
}

/// Makes the head of a Trailers-Only answer.
pub(crate) fn trailers_only(headers: &mut HeaderMap, status: StatusCode, message: &str) {
    headers.insert(header::CONTENT_TYPE, CONTENT);
    tell(headers, code(status), message);
}

/// The trailers of a response that breaks off.
pub(crate) fn trailers(status: StatusCode, reason: &'static str, message: &str) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(3);
    tell(&mut headers, code(status), message);
    headers.insert(REASON, HeaderValue::from_static(reason));
    headers
}

fn tell(headers: &mut HeaderMap, code: u8, message: &str) {
    headers.insert(STATUS, HeaderValue::from(u16::from(code)));
    if let Ok(message) = HeaderValue::from_str(&percent_encoded(message)) {
        headers.insert(MESSAGE, message);
    }
}

/// As `grpc-message` is written: what is not printable ASCII, and `%`, byte by byte.
fn percent_encoded(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
        out
    })
}

/// Whether trailers (or the head of a Trailers-Only answer) say that the function failed, not its caller: the codes that
/// Google's own mapping to HTTP makes 5xx of. UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE,
/// DATA_LOSS.
pub(crate) fn is_failure(headers: &HeaderMap) -> bool {
    headers.get(STATUS).is_some_and(|code| matches!(code.as_bytes(), b"2" | b"4" | b"12" | b"13" | b"14" | b"15"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_is_told_by_its_content_type() {
        let of = |value: &'static str| {
            is_grpc(&HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(value))]))
        };
        for yes in ["application/grpc", "application/grpc+proto", "Application/GRPC", "application/grpc; x=y"] {
            assert!(of(yes), "{yes}");
        }
        for no in ["application/grpc-web", "application/grpc-web+proto", "application/grp", "application/grpcx", ""] {
            assert!(!of(no), "{no}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn each_refusal_has_its_code() {
        let codes = [(429, 8), (503, 14), (502, 14), (504, 4), (408, 4), (404, 12), (400, 13), (431, 13), (508, 13)];
        for (status, expected) in codes {
            assert_eq!(code(StatusCode::from_u16(status).unwrap()), expected, "{status}");
        }
    }

    #[test]
    fn messages_are_printable() {
        assert_eq!(percent_encoded("a b~"), "a b~");
        assert_eq!(percent_encoded("50% \n\u{e9}"), "50%25 %0A%C3%A9");
    }

    #[test]
    fn only_codes_of_the_server_are_the_functions_failure() {
        let failed = |code: &'static str| is_failure(&HeaderMap::from_iter([(STATUS, HeaderValue::from_static(code))]));
        let codes = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16"];
        let of_server: Vec<_> = codes.into_iter().filter(|c| failed(c)).collect();
        assert_eq!(of_server, ["2", "4", "12", "13", "14", "15"]);
        assert!(!is_failure(&HeaderMap::new()));
    }
}
