//! Which headers pass: hop-by-hop ones and our own never do, forwarding ones only from proxies that are trusted.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use std::net::{IpAddr, SocketAddr};

/// Headers of one hop, besides those that `Connection` names (RFC 9110 7.6.1).
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("http2-settings"),
    header::PROXY_AUTHORIZATION,
];

/// Prefix of headers that only we set.
const OWN: &str = "dormouse-";

pub(crate) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
/// Every way in which a client could pretend to be somebody else.
const FORWARDING: [HeaderName; 8] = [
    header::FORWARDED,
    X_FORWARDED_FOR,
    X_FORWARDED_PROTO,
    X_FORWARDED_HOST,
    X_FORWARDED_PREFIX,
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-server"),
    HeaderName::from_static("x-real-ip"),
];

const VIA: HeaderValue = HeaderValue::from_static("1.1 dormouse");

/// What is told about the caller.
pub(crate) struct Caller<'a> {
    pub(crate) addr: SocketAddr,
    /// The peer is a configured proxy: what it says about the caller is kept and extended.
    pub(crate) trusted: bool,
    pub(crate) host: Option<&'a str>,
    /// The part of the path that was stripped.
    pub(crate) prefix: Option<&'a str>,
}

/// Makes a client's headers those that its function gets. `chunked`: the body has no known length.
pub(crate) fn to_instance(headers: &mut HeaderMap, caller: &Caller<'_>, chunked: bool) {
    strip_hop(headers);
    // We answer 100-continue ourselves, when the instance's side begins to take the body.
    headers.remove(header::EXPECT);
    strip_own(headers);
    if !caller.trusted {
        for name in &FORWARDING {
            headers.remove(name);
        }
    }
    if chunked {
        // Without it the client half of hyper drops the body of a GET.
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    forwarded(headers, caller);
    headers.append(header::VIA, VIA);
}

/// Makes an instance's response headers those that its caller gets.
pub(crate) fn to_client(headers: &mut HeaderMap) {
    strip_hop(headers);
    strip_own(headers);
    headers.append(header::VIA, VIA);
}

/// Seconds of `Keep-Alive: timeout=N`: how long the instance keeps an idle connection.
pub(crate) fn keep_alive_seconds(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get("keep-alive")?.to_str().ok()?;
    let timeout = value.split(',').find_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.trim().eq_ignore_ascii_case("timeout").then(|| value.trim())
    })?;
    timeout.parse().ok()
}

fn strip_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .flat_map(|value| value.as_bytes().split(|&b| b == b','))
            .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
            // A client may not have its own request's frame or address taken away.
            .filter(|name| *name != header::HOST && *name != header::CONTENT_LENGTH)
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

fn strip_own(headers: &mut HeaderMap) {
    if headers.keys().any(|name| name.as_str().starts_with(OWN)) {
        let own: Vec<HeaderName> = headers.keys().filter(|n| n.as_str().starts_with(OWN)).cloned().collect();
        for name in own {
            headers.remove(name);
        }
    }
}

fn forwarded(headers: &mut HeaderMap, caller: &Caller<'_>) {
    let ip = caller.addr.ip().to_canonical();
    let node = match ip {
        IpAddr::V4(v4) => format!("for={v4}"),
        IpAddr::V6(v6) => format!("for=\"[{v6}]\""),
    };
    let host = caller.host.map(|h| format!(";host=\"{h}\"")).unwrap_or_default();
    extend(headers, header::FORWARDED, &format!("{node}{host};proto=http"));
    extend(headers, X_FORWARDED_FOR, &ip.to_string());
    set_if_absent(headers, X_FORWARDED_PROTO, "http");
    if let Some(host) = caller.host {
        set_if_absent(headers, X_FORWARDED_HOST, host);
    }
    if let Some(prefix) = caller.prefix {
        let before = headers.get(X_FORWARDED_PREFIX).and_then(|v| v.to_str().ok()).unwrap_or_default();
        if let Ok(value) = HeaderValue::from_str(&format!("{before}{prefix}")) {
            headers.insert(X_FORWARDED_PREFIX, value);
        }
    }
}

/// Adds to a list header, keeping what stands in it.
fn extend(headers: &mut HeaderMap, name: HeaderName, item: &str) {
    if let Ok(value) = HeaderValue::from_str(item) {
        headers.append(name, value);
    }
}

fn set_if_absent(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.entry(name).or_insert(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn caller(trusted: bool) -> Caller<'static> {
        Caller { addr: "10.0.0.9:1".parse().unwrap(), trusted, host: Some("a.b"), prefix: Some("/fn/n/f") }
    }

    #[test]
    fn what_belongs_to_the_hop_or_to_us_is_stripped() {
        let mut headers = map(&[
            ("host", "a.b"),
            ("connection", "close, X-Secret, host"),
            ("x-secret", "1"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("http2-settings", "x"),
            ("dormouse-reason", "x"),
            ("x-kept", "1"),
            ("x-kept", "2"),
        ]);
        to_instance(&mut headers, &caller(false), false);
        let kept: Vec<_> = headers.get_all("x-kept").iter().collect();
        assert_eq!(kept, ["1", "2"]);
        assert_eq!(headers.get("host").unwrap(), "a.b");
        for gone in ["connection", "x-secret", "te", "upgrade", "http2-settings", "dormouse-reason"] {
            assert!(!headers.contains_key(gone), "{gone}");
        }
        assert_eq!(headers.get("via").unwrap(), "1.1 dormouse");
    }

    #[test]
    fn only_a_trusted_proxy_speaks_for_others() {
        let lies = [("x-forwarded-for", "1.1.1.1"), ("forwarded", "for=1.1.1.1"), ("x-forwarded-proto", "https")];
        let mut headers = map(&lies);
        to_instance(&mut headers, &caller(false), false);
        assert_eq!(headers.get_all("x-forwarded-for").iter().collect::<Vec<_>>(), ["10.0.0.9"]);
        assert_eq!(headers.get("forwarded").unwrap(), "for=10.0.0.9;host=\"a.b\";proto=http");
        assert_eq!(headers.get("x-forwarded-proto").unwrap(), "http");
        assert_eq!(headers.get("x-forwarded-prefix").unwrap(), "/fn/n/f");
        let mut headers = map(&lies);
        to_instance(&mut headers, &caller(true), false);
        assert_eq!(headers.get_all("x-forwarded-for").iter().collect::<Vec<_>>(), ["1.1.1.1", "10.0.0.9"]);
        assert_eq!(headers.get("x-forwarded-proto").unwrap(), "https");
    }

    #[test]
    fn advertised_keep_alive_is_read() {
        assert_eq!(keep_alive_seconds(&map(&[("keep-alive", "timeout=5, max=100")])), Some(5));
        assert_eq!(keep_alive_seconds(&map(&[("keep-alive", "max=1, Timeout = 72")])), Some(72));
        assert_eq!(keep_alive_seconds(&map(&[("keep-alive", "timeout=x")])), None);
        assert_eq!(keep_alive_seconds(&HeaderMap::new()), None);
    }
}
