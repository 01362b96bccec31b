//! What a function is told about its caller. It is the same for all calls of a connection to one host, so it is written
//! once and kept for those that follow.

use http::HeaderValue;
use parking_lot::Mutex;
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// The words about a caller.
#[derive(Debug)]
pub(crate) struct Introduction {
    /// The host that it asked for, as written.
    pub(crate) host: Option<HeaderValue>,
    /// An element of `Forwarded` (RFC 7239).
    pub(crate) forwarded: HeaderValue,
    /// An element of `X-Forwarded-For`.
    pub(crate) address: HeaderValue,
}

impl Introduction {
    /// About a caller at this address that asked for a checked host.
    pub(crate) fn new(addr: SocketAddr, host: Option<&str>) -> Self {
        let ip = addr.ip().to_canonical();
        let node = match ip {
            IpAddr::V4(v4) => format!("for={v4}"),
            IpAddr::V6(v6) => format!("for=\"[{v6}]\""),
        };
        let quoted = host.map(|h| format!(";host=\"{h}\"")).unwrap_or_default();
        // An address and a checked host are a header's value: the other branch is never taken.
        let value = |text: &str| HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""));
        Self {
            host: host.map(value),
            forwarded: value(&format!("{node}{quoted};proto=http")),
            address: value(&ip.to_string()),
        }
    }

    fn is_of(&self, host: Option<&str>) -> bool {
        self.host.as_ref().map(HeaderValue::as_bytes) == host.map(str::as_bytes)
    }
}

/// The last introduction of a connection.
#[derive(Debug, Default)]
pub(crate) struct Introductions(Mutex<Option<Arc<Introduction>>>);

impl Introductions {
    /// The words about the caller, as a caller of this host.
    pub(crate) fn to(&self, addr: SocketAddr, host: Option<&str>) -> Arc<Introduction> {
        let mut last = self.0.lock();
        if let Some(known) = last.as_ref().filter(|known| known.is_of(host)) {
            return known.clone();
        }
        last.insert(Arc::new(Introduction::new(addr, host))).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_introduced_by_address_and_host() {
        let v4 = Introduction::new("10.0.0.9:1".parse().unwrap(), Some("a.b:80"));
        assert_eq!(
            (v4.forwarded, v4.address),
            ("for=10.0.0.9;host=\"a.b:80\";proto=http".parse().unwrap(), "10.0.0.9".parse().unwrap())
        );
        let mapped = Introduction::new("[::ffff:10.0.0.9]:1".parse().unwrap(), None);
        assert_eq!(mapped.forwarded, "for=10.0.0.9;proto=http");
        let v6 = Introduction::new("[fd00::1]:1".parse().unwrap(), None);
        assert_eq!(
            (v6.forwarded, v6.address),
            ("for=\"[fd00::1]\";proto=http".parse().unwrap(), "fd00::1".parse().unwrap())
        );
    }

    #[test]
    fn another_host_is_another_introduction() {
        let (kept, addr) = (Introductions::default(), "10.0.0.9:1".parse().unwrap());
        let first = kept.to(addr, Some("a"));
        assert!(Arc::ptr_eq(&first, &kept.to(addr, Some("a"))));
        assert_eq!(kept.to(addr, Some("b")).host.as_ref().unwrap(), "b");
        assert!(kept.to(addr, None).host.is_none());
    }
}
