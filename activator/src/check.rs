//! What the HTTP parser lets through and a proxy must not: refused before anything is routed.

use crate::answer::Refusal;
use http::{HeaderMap, Method, Version, header, request::Parts};

/// Checks a request head and returns its host as written: name or address, with a port when it had one.
/// An absolute form, or the `:authority` of HTTP/2, has been compared with Host. `None`: an HTTP/1.0 request without Host.
///
/// On HTTP/2 the protocol's own library has refused malformed requests by then: headers of a connection, `TE` other than
/// `trailers`, missing or doubled pseudo-headers.
pub(crate) fn host(head: &Parts) -> Result<Option<&str>, Refusal> {
    if head.method == Method::CONNECT {
        return Err(Refusal::bad_request("CONNECT is not served"));
    }
    // RFC 9112 3.2.4: the asterisk stands for a server as a whole.
    if head.uri.path() == "*" && head.method != Method::OPTIONS {
        return Err(Refusal::bad_request("only OPTIONS has the target *"));
    }
    transfer_coding(&head.headers)?;
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (_, Some(_)) => return Err(Refusal::bad_request("more than one Host header")),
        (None, None) if head.version == Version::HTTP_10 => None,
        (None, None) if head.version == Version::HTTP_2 && head.uri.authority().is_some() => None,
        (None, None) => return Err(Refusal::bad_request("no Host header")),
        (Some(host), None) => Some(host.to_str().ok().filter(|h| is_host(h)).ok_or(BAD_HOST)),
    };
    let host = host.transpose().map_err(Refusal::bad_request)?;
    let Some(authority) = head.uri.authority() else { return Ok(host) };
    if head.version == Version::HTTP_2 && host.is_none() {
        let authority = authority.as_str();
        return if is_host(authority) { Ok(Some(authority)) } else { Err(Refusal::bad_request(BAD_AUTHORITY)) };
    }
    let agrees = host.is_some_and(|h| same_host(h, authority.as_str(), head.uri.scheme_str()));
    if agrees { Ok(host) } else { Err(Refusal::bad_request("the request target and the Host header disagree")) }
}

const BAD_HOST: &str = "the Host header is not a host name or address with an optional port";

const BAD_AUTHORITY: &str = "the :authority is not a host name or address with an optional port";

/// `Transfer-Encoding` is absent, or once and exactly `chunked`.
fn transfer_coding(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(one), None) if one.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Refusal::coding()),
    }
}

/// Longest host: 253 characters of a DNS name, and a port.
const MAX_HOST: usize = 253 + 6;

/// A registered name of letters, digits, `-`, `.` and `_`, or a bracketed address; then perhaps a port.
fn is_host(text: &str) -> bool {
    if text.len() > MAX_HOST {
        return false;
    }
    let (name, port) = split_port(text);
    let name_ok = match name.strip_prefix('[').map(|rest| rest.strip_suffix(']')) {
        Some(inside) => inside.is_some_and(|a| a.parse::<std::net::Ipv6Addr>().is_ok()),
        None => !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_')),
    };
    name_ok && port.is_none_or(|p| p.parse::<u16>().is_ok() && p.bytes().all(|b| b.is_ascii_digit()))
}

/// Name and port of a host; a bracketed address keeps its brackets.
pub(crate) fn split_port(host: &str) -> (&str, Option<&str>) {
    // Byte by byte: for texts this short a search by `rfind` costs more to begin than to end.
    let end = host.bytes().rposition(|b| b == b':' || b == b']');
    match end.map(|at| (host.split_at(at), host.as_bytes()[at])) {
        Some(((name, rest), b':')) => (name, rest.strip_prefix(':')),
        _ => (host, None),
    }
}

/// Whether two hosts mean the same: names in any case, the scheme's own port may be left out.
fn same_host(host: &str, authority: &str, scheme: Option<&str>) -> bool {
    let default = if scheme == Some("https") { "443" } else { "80" };
    let ((name_a, port_a), (name_b, port_b)) = (split_port(host), split_port(authority));
    name_a.eq_ignore_ascii_case(name_b) && port_a.unwrap_or(default) == port_b.unwrap_or(default)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn head(uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn one_plain_host_passes() {
        for good in ["a.example.com", "A.b:8080", "127.0.0.1:1", "[::1]:80", "[fd00::1]", "under_score", "x."] {
            assert_eq!(host(&head("/", &[("host", good)])), Ok(Some(good)));
        }
    }

    #[test]
    fn other_hosts_are_refused() {
        for bad in
            ["", "user@host", "a b", "a/b", "a:b", "a:", "a:99999", "a:+1", "[::1", "[x]", "a,b", "a%41", "[::1]x"]
        {
            assert_eq!(host(&head("/", &[("host", bad)])).map_err(|r| r.status.as_u16()), Err(400), "{bad:?}");
        }
        assert!(host(&head("/", &[])).is_err());
        assert!(host(&head("/", &[("host", "a"), ("host", "a")])).is_err());
        assert!(host(&head("/", &[("host", &"a".repeat(300))])).is_err());
    }

    #[test]
    fn the_asterisk_is_for_options_only() {
        let mut options = head("*", &[("host", "a")]);
        assert!(host(&options).is_err());
        options.method = Method::OPTIONS;
        assert_eq!(host(&options), Ok(Some("a")));
    }

    #[test]
    fn absolute_form_agrees_with_host() {
        for (uri, value) in
            [("http://a/x", "a"), ("http://A:80/", "a"), ("http://a:8080/", "A:8080"), ("https://a/", "a:443")]
        {
            assert!(host(&head(uri, &[("host", value)])).is_ok(), "{uri} {value}");
        }
        for (uri, value) in [("http://a/x", "b"), ("http://a:81/", "a"), ("http://u@a/", "a"), ("http://a/", "a:443")] {
            assert!(host(&head(uri, &[("host", value)])).is_err(), "{uri} {value}");
        }
    }

    #[test]
    fn a_stream_names_its_host_by_authority_or_header() {
        let of = |uri: &str, headers: &[(&str, &str)]| {
            let mut head = head(uri, headers);
            head.version = Version::HTTP_2;
            host(&head).map(|h| h.map(str::to_owned)).map_err(|r| r.status.as_u16())
        };
        assert_eq!(of("http://A.b:8080/x", &[]), Ok(Some("A.b:8080".into())));
        assert_eq!(of("/x", &[("host", "a")]), Ok(Some("a".into())));
        assert_eq!(of("http://a/x", &[("host", "a:80")]), Ok(Some("a:80".into())));
        for (uri, headers) in [
            ("http://u@a/", &[][..]),
            ("http://a/", &[("host", "b")]),
            ("http://a/", &[("host", "a"), ("host", "a")]),
            ("/", &[]),
        ] {
            assert_eq!(of(uri, headers), Err(400), "{uri} {headers:?}");
        }
    }

    #[test]
    fn codings_other_than_chunked_are_not_implemented() {
        for (coding, status) in
            [("chunked", None), ("Chunked", None), ("gzip, chunked", Some(501)), ("identity", Some(501))]
        {
            let head = head("/", &[("host", "a"), ("transfer-encoding", coding)]);
            assert_eq!(host(&head).err().map(|r| r.status.as_u16()), status, "{coding}");
        }
        let twice = [("host", "a"), ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")];
        assert!(host(&head("/", &twice)).is_err());
    }
}
