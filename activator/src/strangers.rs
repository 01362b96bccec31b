//! Whatever reads what strangers write, on any input: nothing panics, and what must hold holds. Each property runs first
//! over the committed corpus (`corpus/`, one input a line), then over generated input.

use crate::{
    check, headers,
    headers::Caller,
    introduce::Introduction,
    metrics::Metrics,
    route::{Table, target},
    trust::Network,
};
use dormouse_proto::v1;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri, header};
use proptest::prelude::*;
use std::{collections::HashMap, sync::Arc};

fn lines(corpus: &'static str) -> impl Iterator<Item = &'static str> {
    corpus.lines().filter(|line| !line.starts_with('#'))
}

/// Two functions, one with a host.
fn table() -> Table {
    let functions = [("hello", vec!["hello.ns.example.com".to_owned()]), ("other", vec![])];
    let funcs = functions.map(|(name, hosts)| {
        let wire = v1::Function {
            uid: format!("uid-{name}"),
            namespace: "ns".into(),
            name: name.into(),
            hosts,
            ..Default::default()
        };
        let metrics = Metrics::default().of("ns", name);
        (wire.uid.clone(), Arc::new(crate::func::Func::new(&wire, metrics)))
    });
    Table::new(HashMap::from(funcs))
}

/// A host that is let through is a plain name or address with a port, and means one function at most.
fn any_host(bytes: &[u8], table: &Table) {
    let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
    let head = Request::get("/").header(header::HOST, value).body(()).unwrap().into_parts().0;
    let Ok(host) = check::host(&head) else { return };
    let host = host.expect("HTTP/1.1 has a host");
    assert_eq!(host.as_bytes(), bytes);
    assert!(host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b)), "{host}");
    let (name, port) = check::split_port(host);
    assert_eq!(port.map_or(name.to_owned(), |port| format!("{name}:{port}")), host);
    assert!(port.is_none_or(|port| port.parse::<u16>().is_ok()), "{host}");
    if let Ok(found) = table.find(Some(host), "/") {
        let plain = name.strip_suffix('.').unwrap_or(name);
        assert!(plain.eq_ignore_ascii_case("hello.ns.example.com") && found.prefix == 0, "{host}");
        assert_eq!(found.func.key.name, "hello");
    }
}

/// A path finds a function exactly when it begins with its name, and what is left of it is what came.
fn any_target(text: &str, table: &Table) {
    let Ok(uri) = text.parse::<Uri>() else { return };
    let whole = uri.path_and_query().map_or("", |t| t.as_str()).to_owned();
    let named = ["hello", "other"].into_iter().find(|name| {
        let prefix = format!("/fn/ns/{name}");
        uri.path().strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    });
    let found = table.find(Some("example.com"), uri.path()).ok();
    assert_eq!(found.as_ref().map(|f| f.func.key.name.as_str()), named, "{text}");
    let Some(found) = found else { return };
    let rest = target(&uri, found.prefix).expect("a path").to_string();
    let before = format!("/fn/ns/{}", found.func.key.name);
    let given = format!("{before}{rest}");
    // A function called without a path gets its root.
    assert!(
        given == whole || rest.strip_prefix('/').is_some_and(|r| format!("{before}{r}") == whole),
        "{text} -> {rest}"
    );
}

/// The name as servers read it that take `_` for `-`.
fn as_variable(name: &HeaderName) -> String {
    name.as_str().replace('_', "-")
}

const HOP: [&str; 7] =
    ["connection", "keep-alive", "proxy-connection", "upgrade", "http2-settings", "te", "proxy-authorization"];
const CLAIMS: [&str; 8] = [
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-prefix",
    "x-forwarded-port",
    "x-forwarded-server",
    "x-real-ip",
];

/// What an instance gets of any headers: nothing of the hop, nothing in our name, nothing that a stranger says about
/// who called; its own headers whole and in order.
fn any_headers(came: &HeaderMap, trusted: bool, chunked: bool) {
    let said = Introduction::new("10.0.0.9:1".parse().unwrap(), Some("a.b"));
    let prefix = HeaderValue::from_static("/fn/n/f");
    let caller = Caller { said: &said, trusted, inner: false, prefix: Some(&prefix), http2: false };
    let mut passed = came.clone();
    headers::to_instance(&mut passed, &caller, chunked);
    let values = |map: &HeaderMap, name: &str| map.get_all(name).iter().cloned().collect::<Vec<_>>();
    for name in HOP {
        // What of TE passes is that trailers are understood, and that this is for one hop only.
        let rest = values(&passed, name);
        let trailers = name == "te" && rest == ["trailers"] || name == "connection" && rest == ["te"];
        assert!(rest.is_empty() || trailers, "{name}: {rest:?} of {came:?}");
    }
    assert_eq!(values(&passed, "transfer-encoding"), if chunked { vec!["chunked"] } else { vec![] });
    for name in passed.keys() {
        assert!(!as_variable(name).starts_with("dormouse-"), "{name} of {came:?}");
        let claim = CLAIMS.contains(&as_variable(name).as_str());
        assert!(!claim || CLAIMS.contains(&name.as_str()), "{name} of {came:?}");
    }
    for name in ["host", "content-length"] {
        assert_eq!(values(&passed, name), values(came, name), "{name} of {came:?}");
    }
    let ours = values(&passed, "x-forwarded-for");
    assert_eq!(ours.last().unwrap(), "10.0.0.9");
    if !trusted {
        assert_eq!(ours.len(), 1, "{came:?}");
        assert_eq!(values(&passed, "forwarded"), ["for=10.0.0.9;host=\"a.b\";proto=http"]);
        assert_eq!(values(&passed, "x-forwarded-prefix"), ["/fn/n/f"]);
        assert!(values(&passed, "x-real-ip").is_empty());
    }
    let named: Vec<String> = values(came, "connection")
        .iter()
        .flat_map(|v| {
            v.as_bytes()
                .split(|&b| b == b',')
                .map(<[u8]>::trim_ascii)
                .map(<[u8]>::to_ascii_lowercase)
                .collect::<Vec<_>>()
        })
        .map(|name| String::from_utf8_lossy(&name).into_owned())
        .collect();
    for name in came.keys().map(HeaderName::as_str).filter(|name| name.starts_with("x-own")) {
        let kept = if named.iter().any(|n| n == name) { vec![] } else { values(came, name) };
        assert_eq!(values(&passed, name), kept, "{name} of {came:?}");
    }
}

/// What a client gets of any headers of an instance.
fn any_answer(came: &HeaderMap) {
    let mut passed = came.clone();
    headers::to_client(&mut passed, http::StatusCode::OK, false);
    for name in HOP.into_iter().chain(["transfer-encoding"]) {
        assert!(!passed.contains_key(name), "{name} of {came:?}");
    }
    assert!(passed.keys().all(|name| !name.as_str().starts_with("dormouse-")), "{came:?}");
    let _ = headers::keep_alive_seconds(came);
}

fn header_map(lines: &[(Vec<u8>, Vec<u8>)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in lines {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            map.append(name, value);
        }
    }
    map
}

/// Lines of headers: names that mean something to us, or nearly, and values that name others.
fn any_lines() -> impl Strategy<Value = Vec<(Vec<u8>, Vec<u8>)>> {
    let names: Vec<String> = HOP
        .into_iter()
        .chain(CLAIMS)
        .chain([
            "host",
            "content-length",
            "transfer-encoding",
            "dormouse-reason",
            "x-own-a",
            "x-own-b",
            "via",
            "expect",
        ])
        .map(str::to_owned)
        .collect();
    let known = prop::sample::select(names.clone());
    let twisted = (known.clone(), any::<u16>()).prop_map(|(name, twist)| {
        let twist = |(i, c): (usize, char)| match c {
            '-' if twist >> (i % 16) & 1 == 1 => '_',
            c if twist >> ((i + 7) % 16) & 1 == 1 => c.to_ascii_uppercase(),
            c => c,
        };
        name.chars().enumerate().map(twist).collect::<String>()
    });
    let name = prop_oneof![known.clone(), twisted, "[!-~]{1,12}"].prop_map(String::into_bytes);
    let list =
        prop::collection::vec(prop_oneof![known, "[ -~]{0,8}"], 0..4).prop_map(|names| names.join(", ").into_bytes());
    let value = prop_oneof![list, prop::collection::vec(any::<u8>(), 0..20)];
    prop::collection::vec((name, value), 0..12)
}

#[test]
fn the_corpus_holds() {
    let table = table();
    lines(include_str!("../corpus/hosts.txt")).for_each(|line| any_host(line.as_bytes(), &table));
    lines(include_str!("../corpus/targets.txt")).for_each(|line| any_target(line, &table));
    for line in lines(include_str!("../corpus/headers.txt")) {
        let pairs = line.split(" | ").filter_map(|pair| pair.split_once(": "));
        let lines: Vec<_> = pairs.map(|(n, v)| (n.as_bytes().to_vec(), v.as_bytes().to_vec())).collect();
        let map = header_map(&lines);
        for (trusted, chunked) in [(false, false), (false, true), (true, false), (true, true)] {
            any_headers(&map, trusted, chunked);
        }
        any_answer(&map);
    }
    for line in lines(include_str!("../corpus/networks.txt")) {
        let (text, good) = line.split_once(' ').unwrap();
        assert_eq!(text.parse::<Network>().is_ok(), good == "good", "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if std::env::var_os("DORMOUSE_LONG").is_some() { 200_000 } else { 512 }))]

    #[test]
    fn hosts(text in r"[a-zA-Z0-9:.\[\]@/_ ,%-]{0,30}", bytes in prop::collection::vec(any::<u8>(), 0..30)) {
        let table = table();
        any_host(text.as_bytes(), &table);
        any_host(&bytes, &table);
        any_host(format!("hello.ns.example.com{text}").as_bytes(), &table);
    }

    #[test]
    fn targets(text in r"[ -~]{0,40}", path in r"(/|fn|ns|hello|other|\.\.|%2f|%2F|\?|#|x){0,12}") {
        let table = table();
        any_target(&text, &table);
        any_target(&path, &table);
        any_target(&format!("/fn/ns/hello{path}"), &table);
    }

    #[test]
    fn header_filters(lines in any_lines(), trusted in any::<bool>(), chunked in any::<bool>()) {
        let map = header_map(&lines);
        any_headers(&map, trusted, chunked);
        any_answer(&map);
    }

    #[test]
    fn networks(text in r"[0-9a-fA-F:./x-]{0,24}", addr in any::<[u8; 4]>(), bits in 0_u8..=32) {
        let _ = text.parse::<Network>();
        let network: Network = format!("{}/{bits}", std::net::Ipv4Addr::from(addr)).parse().unwrap();
        prop_assert!(network.contains(addr.into()));
    }
}
