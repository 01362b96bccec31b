//! Which headers pass: hop-by-hop ones and our own never do, forwarding ones only from proxies that are trusted.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use std::net::{IpAddr, SocketAddr};

/// Headers of one hop, besides those that `Connection` names (RFC 9110 7.6.1).
static HOP_BY_HOP: [HeaderName; 8] = [
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

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
/// Every way in which a client could pretend to be somebody else.
static FORWARDING: [HeaderName; 8] = [
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
const VIA_2: HeaderValue = HeaderValue::from_static("2.0 dormouse");

/// Trailers that would change what the head has settled (RFC 9110 6.5.1): framing, routing, who asks, how to read it.
static NO_TRAILERS: [HeaderName; 16] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::CONTENT_RANGE,
    header::TRAILER,
    header::AUTHORIZATION,
    header::WWW_AUTHENTICATE,
    header::COOKIE,
    header::SET_COOKIE,
    header::CACHE_CONTROL,
    header::EXPECT,
    header::MAX_FORWARDS,
    header::RANGE,
    header::LOCATION,
    header::VIA,
];

/// Further names that a look-alike must not stand for.
static SET_HERE: [HeaderName; 3] = [header::HOST, header::CONTENT_LENGTH, header::VIA];

/// What is told about the caller.
pub(crate) struct Caller<'a> {
    pub(crate) addr: SocketAddr,
    /// The peer is a configured proxy: what it says about the caller is kept and extended.
    pub(crate) trusted: bool,
    pub(crate) host: Option<&'a str>,
    /// The part of the path that was stripped.
    pub(crate) prefix: Option<&'a str>,
    /// It speaks HTTP/2.
    pub(crate) http2: bool,
}

/// Makes a client's headers those that its function gets. `chunked`: the body has no known length.
///
/// Names with an underscore pass as they are, but for those that a server which reads `_` as `-` (CGI, WSGI) would take
/// for one that is set or stripped here: `X_Forwarded_For` would speak for a caller as `X-Forwarded-For` does.
pub(crate) fn to_instance(headers: &mut HeaderMap, caller: &Caller<'_>, chunked: bool) {
    let trailers = takes_trailers(headers);
    if caller.http2 {
        from_http2(headers, caller.host);
    }
    strip_hop(headers);
    // We answer 100-continue ourselves, when the instance's side begins to take the body.
    headers.remove(header::EXPECT);
    strip(headers, |name| is_own(name) || is_look_alike(name));
    if !caller.trusted {
        for name in &FORWARDING {
            headers.remove(name);
        }
    }
    if chunked {
        // Without it the client half of hyper drops the body of a GET.
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
    forwarded(headers, caller);
    headers.append(header::VIA, if caller.http2 { VIA_2 } else { VIA });
}

/// Makes an instance's response headers those that its caller gets.
pub(crate) fn to_client(headers: &mut HeaderMap, http2: bool) {
    strip_hop(headers);
    strip(headers, is_own);
    headers.append(header::VIA, if http2 { VIA_2 } else { VIA });
}

/// Takes away what no trailer may be, in either direction.
pub(crate) fn trailers(headers: &mut HeaderMap) {
    strip(headers, |name| {
        let listed = HOP_BY_HOP.iter().chain(&FORWARDING).chain(&NO_TRAILERS).any(|no| no == name);
        listed || is_own(name) || is_look_alike(name)
    });
}

/// How often a request has passed through here already, by what `Via` says.
pub(crate) fn passes(headers: &HeaderMap) -> usize {
    let hops = headers.get_all(header::VIA).iter().flat_map(|value| value.as_bytes().split(|&b| b == b','));
    hops.filter(|hop| hop.trim_ascii().ends_with(b" dormouse")).count()
}

/// Whether the client reads trailers: only then may the function send what only they say.
fn takes_trailers(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TE).iter().flat_map(|value| value.as_bytes().split(|&b| b == b','));
    codings.any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

/// What HTTP/2 writes otherwise (RFC 9113 8.2.3 and 8.3.1): the host stands in `Host`, cookies in one line.
fn from_http2(headers: &mut HeaderMap, host: Option<&str>) {
    if let Some(host) = host.and_then(|h| HeaderValue::from_str(h).ok()) {
        headers.insert(header::HOST, host);
    }
    let mut cookies = headers.get_all(header::COOKIE).iter();
    if let (Some(first), Some(_)) = (cookies.next(), cookies.next()) {
        let rest = headers.get_all(header::COOKIE).iter().skip(1);
        let joined = rest.fold(first.as_bytes().to_vec(), |mut line, crumb| {
            line.extend_from_slice(b"; ");
            line.extend_from_slice(crumb.as_bytes());
            line
        });
        if let Ok(joined) = HeaderValue::from_bytes(&joined) {
            headers.insert(header::COOKIE, joined);
        }
    }
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

fn strip(headers: &mut HeaderMap, is_bad: impl Fn(&HeaderName) -> bool) {
    if headers.keys().any(&is_bad) {
        let bad: Vec<HeaderName> = headers.keys().filter(|name| is_bad(name)).cloned().collect();
        for name in bad {
            headers.remove(name);
        }
    }
}

fn is_own(name: &HeaderName) -> bool {
    name.as_str().starts_with(OWN)
}

fn is_look_alike(name: &HeaderName) -> bool {
    if !name.as_str().as_bytes().contains(&b'_') {
        return false;
    }
    let plain = name.as_str().replace('_', "-");
    let mut ours = HOP_BY_HOP.iter().chain(&FORWARDING).chain(&SET_HERE);
    plain.starts_with(OWN) || ours.any(|name| name.as_str() == plain)
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
        Caller {
            addr: "10.0.0.9:1".parse().unwrap(),
            trusted,
            host: Some("a.b"),
            prefix: Some("/fn/n/f"),
            http2: false,
        }
    }

    #[test]
    fn what_belongs_to_the_hop_or_to_us_is_stripped() {
        let mut headers = map(&[
            ("host", "a.b"),
            ("connection", "close, X-Secret, host"),
            ("x-secret", "1"),
            ("te", "gzip"),
            ("dormouse_reason", "x"),
            ("x_forwarded_for", "1.1.1.1"),
            ("content_length", "1"),
            ("x_kept", "1"),
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
        assert_eq!(headers.get("x_kept").unwrap(), "1");
        let look_alikes = ["dormouse_reason", "x_forwarded_for", "content_length"];
        let hop = ["connection", "x-secret", "te", "upgrade", "http2-settings", "dormouse-reason"];
        for gone in hop.into_iter().chain(look_alikes) {
            assert!(!headers.contains_key(gone), "{gone}");
        }
        assert_eq!(headers.get("via").unwrap(), "1.1 dormouse");
    }

    #[test]
    fn a_client_that_reads_trailers_says_so_to_its_function() {
        let mut headers = map(&[("te", "gzip;q=0.5, Trailers")]);
        to_instance(&mut headers, &caller(false), false);
        assert_eq!(headers["te"], "trailers");
        assert_eq!(headers["connection"], "te");
    }

    #[test]
    fn trailers_change_nothing_that_the_head_has_said() {
        let mut headers = map(&[
            ("grpc-status", "0"),
            ("x-sum", "1"),
            ("content-length", "5"),
            ("transfer-encoding", "chunked"),
            ("host", "b"),
            ("authorization", "x"),
            ("set-cookie", "a=b"),
            ("x-forwarded-for", "1.1.1.1"),
            ("x_forwarded_for", "1.1.1.1"),
            ("dormouse-reason", "x"),
        ]);
        trailers(&mut headers);
        let left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["grpc-status", "x-sum"]);
    }

    #[test]
    fn what_http_2_writes_otherwise_is_written_for_the_function() {
        let mut headers = map(&[("cookie", "a=1"), ("x", "1"), ("cookie", "b=2"), ("cookie", "c=3")]);
        to_instance(&mut headers, &Caller { http2: true, ..caller(false) }, false);
        assert_eq!(headers.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2; c=3"]);
        assert_eq!(headers["host"], "a.b");
        assert_eq!(headers["via"], "2.0 dormouse");
    }

    #[test]
    fn passes_are_counted_over_all_via_lines() {
        let headers = map(&[("via", "1.1 dormouse, 1.1 nginx"), ("via", "2.0 dormouse"), ("via", "1.1 dormouse-2")]);
        assert_eq!(passes(&headers), 2);
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
