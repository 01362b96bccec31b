//! Which headers pass: hop-by-hop ones and our own never do, forwarding ones only from proxies that are trusted.

use crate::introduce::Introduction;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

/// Headers of one hop, besides those that `Connection` names (RFC 9110 7.6.1), and `Proxy`, which is none of HTTP's: a
/// function run as CGI finds it in its environment as `HTTP_PROXY`, and sends its own calls there (CVE-2016-5385).
static HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("http2-settings"),
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy"),
];

/// Prefix of headers that only we set.
const OWN: &str = "dormouse-";

pub(crate) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
/// Beginning of the names by which proxies say who called; servers know more of them (`-Port`, `-Ssl`, `-Scheme`) than any
/// list has.
const FORWARDED_X: &str = "x-forwarded-";
/// The others of the kind.
static FORWARDING: [HeaderName; 2] = [header::FORWARDED, HeaderName::from_static("x-real-ip")];

/// Lines that are added to a request at most, so that its list of them grows once: the trace, four about the caller and
/// one about the path, `Host`, `Via`, the request's id, `TE` with `Connection`.
pub(crate) const ADDED: usize = 11;
/// Lines that are added to an answer: `Via`, the request's id, its times, `Connection`.
pub(crate) const ADDED_TO_ANSWERS: usize = 4;

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
    pub(crate) said: &'a Introduction,
    /// The peer is a configured proxy: what it says about the caller is kept and extended.
    pub(crate) trusted: bool,
    /// Another activator, which has said everything about the caller already.
    pub(crate) inner: bool,
    /// The part of the path that was stripped.
    pub(crate) prefix: Option<&'a HeaderValue>,
    /// It speaks HTTP/2.
    pub(crate) http2: bool,
}

/// Makes a client's headers those that its function gets. `chunked`: the body has no known length.
///
/// Names with an underscore pass as they are, but for those that a server which reads `_` as `-` (CGI, WSGI) would take
/// for one that is set or stripped here: `X_Forwarded_For` would speak for a caller as `X-Forwarded-For` does.
///
/// True when the client reads trailers.
pub(crate) fn to_instance(headers: &mut HeaderMap, caller: &Caller<'_>, chunked: bool) -> bool {
    let found = Found::look(headers);
    let trailers = found.has(&header::TE) && takes_trailers(headers);
    if caller.http2 {
        from_http2(headers, caller.said.host.as_ref());
    }
    if found.hop != 0 {
        strip_hop(headers, found);
    }
    if found.expect {
        // We answer 100-continue ourselves, when the instance's side begins to take the body.
        headers.remove(header::EXPECT);
    }
    if found.own {
        strip(headers, |name| is_own(name) || is_look_alike(name));
    }
    if found.forwarding && !caller.trusted && !caller.inner {
        strip(headers, is_forwarding);
    }
    if chunked {
        // Without it the client half of hyper drops the body of a GET.
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
    if !caller.inner {
        forwarded(headers, caller);
        headers.append(header::VIA, if caller.http2 { VIA_2 } else { VIA });
    }
    trailers
}

/// Makes the response headers of an activator that took a call over those that the caller gets: ours are on it already.
pub(crate) fn from_peer(headers: &mut HeaderMap) {
    let found = Found::look(headers);
    if found.hop != 0 {
        strip_hop(headers, found);
    }
}

/// By which a language runtime says that it answers in the function's place, and why.
const ERROR: HeaderName = HeaderName::from_static("dormouse-error");
/// Those of its codes for which the caller is to blame.
const OF_CALLER: [&[u8]; 3] = [b"BodyTooLarge", b"BadRequest", b"BadEvent"];

/// Makes an instance's response headers those that its caller gets. True when it said that the function failed: any image
/// may say so, and is believed only where it answered with an error.
pub(crate) fn to_client(headers: &mut HeaderMap, status: StatusCode, http2: bool) -> bool {
    let found = Found::look(headers);
    let error = headers.get(&ERROR).filter(|_| found.own && status.as_u16() >= 400);
    let failed = error.is_some_and(|code| !OF_CALLER.contains(&code.as_bytes()));
    if found.hop != 0 {
        strip_hop(headers, found);
    }
    if found.own {
        strip(headers, is_own);
    }
    headers.append(header::VIA, if http2 { VIA_2 } else { VIA });
    failed
}

/// Takes away what no trailer may be, in either direction.
pub(crate) fn trailers(headers: &mut HeaderMap) {
    strip(headers, |name| {
        let listed = HOP_BY_HOP.iter().chain(&NO_TRAILERS).any(|no| no == name);
        listed || is_forwarding(name) || is_own(name) || is_look_alike(name)
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
fn from_http2(headers: &mut HeaderMap, host: Option<&HeaderValue>) {
    if let Some(host) = host {
        headers.insert(header::HOST, host.clone());
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

/// What a head has to be stripped of, found in one pass: most heads have nothing of it, and looking each name up costs
/// more than all the rest that is done to a head.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    /// Headers of one hop: a bit for each of [`HOP_BY_HOP`].
    hop: u16,
    expect: bool,
    /// A name of ours, or one that may be read as one of those that are set or stripped here.
    own: bool,
    forwarding: bool,
}

impl Found {
    fn look(headers: &HeaderMap) -> Self {
        let mut found = Self::default();
        for name in headers.keys() {
            match name.as_str() {
                "connection" => found.hop |= 1,
                "keep-alive" => found.hop |= 1 << 1,
                "proxy-connection" => found.hop |= 1 << 2,
                "te" => found.hop |= 1 << 3,
                "transfer-encoding" => found.hop |= 1 << 4,
                "upgrade" => found.hop |= 1 << 5,
                "http2-settings" => found.hop |= 1 << 6,
                "proxy-authorization" => found.hop |= 1 << 7,
                "proxy" => found.hop |= 1 << 8,
                "expect" => found.expect = true,
                "forwarded" | "x-real-ip" => found.forwarding = true,
                other => {
                    found.forwarding |= other.starts_with(FORWARDED_X);
                    found.own |= other.starts_with(OWN) || other.as_bytes().contains(&b'_');
                }
            }
        }
        found
    }

    /// Whether one of [`HOP_BY_HOP`] is there.
    fn has(self, hop: &HeaderName) -> bool {
        HOP_BY_HOP.iter().position(|name| name == hop).is_some_and(|at| self.hop & (1 << at) != 0)
    }
}

/// Takes away the headers of one hop that are there, and those that `Connection` names.
fn strip_hop(headers: &mut HeaderMap, found: Found) {
    if found.has(&header::CONNECTION) {
        let lists = headers.get_all(header::CONNECTION).iter().flat_map(|value| value.as_bytes().split(|&b| b == b','));
        let named: Vec<HeaderName> = lists
            .map(<[u8]>::trim_ascii)
            // Nearly always one of these, which name no header that is left.
            .filter(|word| !word.eq_ignore_ascii_case(b"keep-alive") && !word.eq_ignore_ascii_case(b"close"))
            .filter_map(|name| HeaderName::from_bytes(name).ok())
            // A client may not have its own request's frame or address taken away.
            .filter(|name| *name != header::HOST && *name != header::CONTENT_LENGTH)
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in HOP_BY_HOP.iter().filter(|name| found.has(name)) {
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

fn is_forwarding(name: &HeaderName) -> bool {
    name.as_str().starts_with(FORWARDED_X) || FORWARDING.contains(name)
}

fn is_look_alike(name: &HeaderName) -> bool {
    if !name.as_str().as_bytes().contains(&b'_') {
        return false;
    }
    let plain = name.as_str().replace('_', "-");
    let mut ours = HOP_BY_HOP.iter().chain(&FORWARDING).chain(&SET_HERE);
    plain.starts_with(OWN) || plain.starts_with(FORWARDED_X) || ours.any(|name| name.as_str() == plain)
}

fn forwarded(headers: &mut HeaderMap, caller: &Caller<'_>) {
    headers.append(header::FORWARDED, caller.said.forwarded.clone());
    headers.append(X_FORWARDED_FOR, caller.said.address.clone());
    headers.entry(X_FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
    if let Some(host) = &caller.said.host {
        headers.entry(X_FORWARDED_HOST).or_insert_with(|| host.clone());
    }
    let Some(prefix) = caller.prefix else { return };
    let before = headers.get(X_FORWARDED_PREFIX).map(HeaderValue::as_bytes).unwrap_or_default();
    let whole = match before {
        [] => Ok(prefix.clone()),
        before => HeaderValue::from_bytes(&[before, prefix.as_bytes()].concat()),
    };
    if let Ok(whole) = whole {
        headers.insert(X_FORWARDED_PREFIX, whole);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::LazyLock;

    fn map(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    static SAID: LazyLock<Introduction> =
        LazyLock::new(|| Introduction::new("10.0.0.9:1".parse().unwrap(), Some("a.b")));
    static PREFIX: HeaderValue = HeaderValue::from_static("/fn/n/f");

    fn caller(trusted: bool) -> Caller<'static> {
        Caller { said: &SAID, trusted, inner: false, prefix: Some(&PREFIX), http2: false }
    }

    #[test]
    fn every_name_that_is_stripped_is_looked_for() {
        let more = [X_FORWARDED_FOR, HeaderName::from_static("x-forwarded-ssl")];
        let forwarding = FORWARDING.iter().chain(&more);
        for name in HOP_BY_HOP.iter().chain([&header::EXPECT]).chain(forwarding) {
            let headers: HeaderMap = [(name.clone(), HeaderValue::from_static("x"))].into_iter().collect();
            let found = Found::look(&headers);
            let expected = (HOP_BY_HOP.contains(name), *name == header::EXPECT, is_forwarding(name));
            assert_eq!((found.has(name), found.expect, found.forwarding), expected, "{name}");
            assert_eq!(found.hop.count_ones(), u32::from(expected.0), "{name}");
        }
        for own in ["dormouse-reason", "x_forwarded_for", "a_b"] {
            assert!(Found::look(&map(&[(own, "x")])).own, "{own}");
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
    fn another_activator_has_said_all_about_the_caller() {
        let said = [("x-forwarded-for", "1.1.1.1"), ("via", "1.1 dormouse"), ("dormouse-peer", "secret")];
        let mut headers = map(&said);
        to_instance(&mut headers, &Caller { inner: true, ..caller(false) }, false);
        assert_eq!(headers, map(&said[..2]));
    }

    #[test]
    fn a_runtime_says_who_is_to_blame() {
        for (code, failed) in [("HandlerError", true), ("x", true), ("BadEvent", false), ("BodyTooLarge", false)] {
            let mut headers = map(&[("dormouse-error", code), ("x-kept", "1")]);
            assert_eq!(to_client(&mut headers, StatusCode::BAD_REQUEST, false), failed, "{code}");
            assert_eq!(headers, map(&[("x-kept", "1"), ("via", "1.1 dormouse")]));
        }
        assert!(!to_client(&mut map(&[("x", "1")]), StatusCode::BAD_REQUEST, false));
        let mut headers = map(&[("dormouse-error", "HandlerError")]);
        assert!(!to_client(&mut headers, StatusCode::OK, false));
        assert_eq!(headers, map(&[("via", "1.1 dormouse")]));
    }

    #[test]
    fn advertised_keep_alive_is_read() {
        assert_eq!(keep_alive_seconds(&map(&[("keep-alive", "timeout=5, max=100")])), Some(5));
        assert_eq!(keep_alive_seconds(&map(&[("keep-alive", "max=1, Timeout = 72")])), Some(72));
        assert_eq!(keep_alive_seconds(&map(&[("keep-alive", "timeout=x")])), None);
        assert_eq!(keep_alive_seconds(&HeaderMap::new()), None);
    }
}
