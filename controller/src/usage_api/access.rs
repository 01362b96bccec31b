//! Whose usage a question is about. Pure, and the only place that knows: what is not known here needs the right to see
//! everything.

use axum::http::Method;
use std::collections::BTreeSet;

/// Most namespaces that are asked about one by one; as many as a filter may have values.
const MAX_NAMESPACES: usize = 20;

/// Longest name of a namespace (a DNS label), and longest tenant (a label's value).
const MAX_NAME: usize = 63;

/// What its asker must be allowed to see before a question is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Nothing of anybody: the price list. To be known is enough.
    Nothing,
    /// The usage of each of these namespaces; at least one.
    Namespaces(BTreeSet<String>),
    /// The usage of every namespace that any of these tenants pays for, or ever paid for; at least one tenant. Which they
    /// are is [`super::payers`]' to say.
    Tenants(BTreeSet<String>),
    /// The usage of all namespaces.
    Everything,
    /// To take records back, whosever they are.
    Correcting,
    /// To call functions of this namespace by events; of none that is known here: those of all namespaces.
    Invoking(Option<String>),
}

/// What a request needs: a question by [`need`]; of what changes something only what is known here.
pub(super) fn needed(method: &Method, path: &str, tenant: Option<&str>, parameters: &[(String, String)]) -> Need {
    match (method, path) {
        (&Method::GET | &Method::HEAD, _) => need(path, tenant, parameters),
        (&Method::POST, "/v1/reversals") => Need::Correcting,
        (&Method::POST, path) if path.starts_with("/v1/functions/") => invoked(path),
        _ => Need::Everything,
    }
}

/// An event of a function needs the right to call those of its namespace. The path is as it was sent, and the handler
/// decodes it: only names that are the same in both are known, and with any other the right to call all is needed. The
/// right to see everything would not do: it is a reader's.
fn invoked(path: &str) -> Need {
    match path.split('/').collect::<Vec<_>>()[..] {
        ["", "v1", "functions", namespace, name, "events"] if is_name(namespace) && is_name(name) => {
            Need::Invoking(Some(namespace.to_owned()))
        }
        _ => Need::Invoking(None),
    }
}

/// What a question needs: by its path, the tenant that the path names, and its parameters as they were sent.
///
/// Filters of different kinds narrow each other, so one that pins the namespaces is enough, whatever else is asked. One
/// that does not (a uid, a name without a namespace) could match anywhere: it pins nothing.
fn need(path: &str, tenant: Option<&str>, parameters: &[(String, String)]) -> Need {
    match (path, tenant) {
        ("/v1/prices", _) => Need::Nothing,
        ("/v1/usage", _) => filtered(parameters, ["filter[namespace]", "filter[tenant]", "filter[function]"]),
        ("/v1/budgets", _) => paid(values(parameters, "filter[tenant]").map(str::to_owned)),
        ("/v1/records" | "/v1/reversals", _) => filtered(parameters, ["namespace", "tenant", "function"]),
        (path, Some(tenant)) if path.starts_with("/v1/statements/") => paid([tenant.to_owned()]),
        _ => Need::Everything,
    }
}

/// Every value of a parameter.
fn values<'a>(parameters: &'a [(String, String)], name: &'a str) -> impl Iterator<Item = &'a str> {
    parameters.iter().filter(move |(n, _)| n == name).map(|(_, value)| value.as_str())
}

fn filtered(parameters: &[(String, String)], [namespace, tenant, function]: [&str; 3]) -> Need {
    let all = |name| values(parameters, name).collect::<Vec<_>>();
    let (namespaces, tenants, functions) = (all(namespace), all(tenant), all(function));
    if !namespaces.is_empty() {
        return pinned(namespaces.into_iter().map(str::to_owned));
    }
    if !tenants.is_empty() {
        return paid(tenants.into_iter().map(str::to_owned));
    }
    // A name alone names a function of every namespace.
    let within = functions.iter().map(|name| name.split_once('/').map(|(namespace, _)| namespace.to_owned()));
    within.collect::<Option<Vec<_>>>().map_or(Need::Everything, pinned)
}

/// These tenants. None, too many, or a text that is no tenant: everything.
fn paid(tenants: impl IntoIterator<Item = String>) -> Need {
    let tenants: BTreeSet<String> = tenants.into_iter().take(MAX_NAMESPACES + 1).collect();
    match (1..=MAX_NAMESPACES).contains(&tenants.len()) && tenants.iter().all(|tenant| is_tenant(tenant)) {
        true => Need::Tenants(tenants),
        false => Need::Everything,
    }
}

/// A tenant is what a label may say, and so any name of a namespace.
fn is_tenant(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric();
    let ends = [text.bytes().next(), text.bytes().last()];
    let inner = |b: u8| plain(b) || b"-_.".contains(&b);
    text.len() <= MAX_NAME && ends.iter().all(|b| b.is_some_and(plain)) && text.bytes().all(inner)
}

/// These namespaces. None, too many, or a name that no namespace has: everything, so that an API server is never asked
/// about a name that it may read in another way (an empty one means all namespaces to it).
fn pinned(namespaces: impl IntoIterator<Item = String>) -> Need {
    let namespaces: BTreeSet<String> = namespaces.into_iter().take(MAX_NAMESPACES + 1).collect();
    match (1..=MAX_NAMESPACES).contains(&namespaces.len()) && namespaces.iter().all(|name| is_name(name)) {
        true => Need::Namespaces(namespaces),
        false => Need::Everything,
    }
}

fn is_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends = [text.bytes().next(), text.bytes().last()];
    text.len() <= MAX_NAME && ends.iter().all(|b| b.is_some_and(plain)) && text.bytes().all(|b| plain(b) || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::super::params::{Params, RECORDS, USAGE};
    use super::*;
    use crate::ledger::FunctionId;
    use axum::extract::Query;
    use proptest::prelude::*;

    fn pairs(query: &str) -> Vec<(String, String)> {
        Query::try_from_uri(&format!("/?{query}").parse().unwrap()).unwrap().0
    }

    fn usage(query: &str) -> Need {
        need("/v1/usage", None, &pairs(query))
    }

    fn only<const N: usize>(names: [&str; N]) -> Need {
        Need::Namespaces(names.map(str::to_owned).into())
    }

    fn of<const N: usize>(tenants: [&str; N]) -> Need {
        Need::Tenants(tenants.map(str::to_owned).into())
    }

    #[test]
    fn an_event_needs_the_right_to_call() {
        let post = |path: &str| needed(&Method::POST, path, None, &[]);
        assert_eq!(post("/v1/functions/shop/cart/events"), Need::Invoking(Some("shop".to_owned())));
        for other in [
            "/v1/functions/shop/cart/sleep",
            "/v1/functions/shop/cart/events/x",
            "/v1/functions//cart/events",
            "/v1/functions/*/cart/events",
            "/v1/functions/sh%2Fop/cart/events",
            "/v1/functions/%73hop/cart/events",
            "/v1/functions/shop/c%61rt/events",
            "/v1/functions/shop/cart/event%73",
            "/v1/functions/shop/events",
        ] {
            assert_eq!(post(other), Need::Invoking(None), "{other}");
        }
        assert_eq!(needed(&Method::GET, "/v1/functions/shop/cart/events", None, &[]), Need::Everything);
    }

    #[test]
    fn filters_pin_namespaces_or_tenants() {
        assert_eq!(usage("filter[namespace]=a&filter[namespace]=b&filter[namespace]=a"), only(["a", "b"]));
        assert_eq!(usage("filter[tenant]=a&group_by=tenant"), of(["a"]));
        assert_eq!(usage("filter[tenant]=Team_A.1&filter[tenant]=b&filter[function]=a/x"), of(["Team_A.1", "b"]));
        assert_eq!(usage("filter[function]=a/x&filter[function]=b/y"), only(["a", "b"]));
        assert_eq!(usage("filter[namespace]=a&filter[function]=b/y&filter[function]=z&filter[tenant]=c"), only(["a"]));
        assert_eq!(usage("filter%5Bnamespace%5D=a&filter[function_uid]=u"), only(["a"]));
        assert_eq!(need("/v1/records", None, &pairs("namespace=a&namespace=b")), only(["a", "b"]));
        assert_eq!(need("/v1/records", None, &pairs("function=a/x")), only(["a"]));
        assert_eq!(need("/v1/records", None, &pairs("tenant=a&function=x")), of(["a"]));
        assert_eq!(need("/v1/statements/a/2026-11", Some("a"), &[]), of(["a"]));
        assert_eq!(need("/v1/statements/a/2026-11/focus", Some("a"), &pairs("as=lambda")), of(["a"]));
        assert_eq!(need("/v1/prices", None, &pairs("filter[namespace]=a")), Need::Nothing);
        assert_eq!(need("/v1/budgets", None, &pairs("filter[tenant]=a&filter[tenant]=b")), of(["a", "b"]));
        for all in ["", "tenant=a", "filter[namespace]=a", "filter[tenant]=", "=a"] {
            assert_eq!(need("/v1/budgets", None, &pairs(all)), Need::Everything, "{all}");
        }
    }

    #[test]
    fn what_pins_nothing_needs_everything() {
        for query in [
            "",
            "filter[function]=x",
            "filter[function]=a/x&filter[function]=y",
            "filter[function]=/x",
            "filter[function_uid]=u",
            "filter[tenant]=",
            "filter[tenant]=a/b",
            "filter[tenant]=_a",
            "filter[tenant]=a&filter[tenant]=",
            "filter[tenant]=a&filter[tenant]=*",
            "namespace=a",
            "group_by=namespace",
            "filter[namespace]=",
            "filter[namespace]=a&filter[namespace]=",
            "filter[namespace]=A",
            "filter[namespace]=a/b",
            "filter[namespace]=-a",
            "filter[namespace]=*",
            "cursor=00",
        ] {
            assert_eq!(usage(query), Need::Everything, "{query}");
        }
        let many: Vec<String> = (0..=MAX_NAMESPACES).map(|n| format!("filter[namespace]=n{n}")).collect();
        assert_eq!(usage(&many.join("&")), Need::Everything);
        assert!(matches!(usage(&many[1..].join("&")), Need::Namespaces(names) if names.len() == MAX_NAMESPACES));
        assert_eq!(usage(&format!("filter[namespace]={}", "a".repeat(64))), Need::Everything);
        for path in ["/v1/statements", "/v1/statements/", "/v1/usage/", "/v1/functions", "/", "/v1/budgets/a"] {
            assert_eq!(need(path, None, &pairs("filter[namespace]=a&namespace=a")), Need::Everything, "{path}");
        }
        assert_eq!(need("/v1/statements/-A/2026-11", Some("-A"), &[]), Need::Everything);
        assert_eq!(usage(&format!("filter[tenant]={}", "a".repeat(64))), Need::Everything);
        assert_eq!(need("/v1/functions/a/x", Some("a"), &[]), Need::Everything);
    }

    #[test]
    fn what_changes_something_is_known_or_needs_everything() {
        let of = |method, path| needed(&method, path, None, &pairs("namespace=a&filter[namespace]=a"));
        assert_eq!(of(Method::GET, "/v1/reversals"), only(["a"]));
        assert_eq!(of(Method::HEAD, "/v1/usage"), only(["a"]));
        assert_eq!(of(Method::POST, "/v1/reversals"), Need::Correcting);
        for (method, path) in
            [(Method::POST, "/v1/usage"), (Method::DELETE, "/v1/reversals"), (Method::PUT, "/v1/prices")]
        {
            assert_eq!(of(method, path), Need::Everything);
        }
    }

    fn parameter() -> impl Strategy<Value = (String, String)> {
        let name = prop_oneof![
            prop::sample::select(vec![
                "filter[namespace]",
                "filter[tenant]",
                "filter[function]",
                "filter[function_uid]"
            ]),
            prop::sample::select(vec!["namespace", "tenant", "function", "group_by"]),
        ];
        let value = prop::sample::select(vec!["a", "b", "c", "a/x", "b/x", "c/y", "x", "y", "u", "", "/", "a/"]);
        (name.prop_map(str::to_owned), value.prop_map(str::to_owned))
    }

    proptest! {
        /// The filters that the ledger is asked with are made of the same parameters by other code: whatever they take
        /// must be in a namespace that was needed, or be paid for by a tenant that was.
        #[test]
        fn nothing_is_taken_beside_what_is_needed(sent in prop::collection::vec(parameter(), 0..5), records in any::<bool>()) {
            let (path, known) = if records { ("/v1/records", &RECORDS[..]) } else { ("/v1/usage", &USAGE[..]) };
            let mut params = Params::new(Ok(Query(sent.clone())), known).ok().unwrap();
            let filter = if records { params.record_filter() } else { params.filter() };
            let (namespaces, tenants) = match need(path, None, &sent) {
                Need::Namespaces(namespaces) => (namespaces, BTreeSet::new()),
                Need::Tenants(tenants) => (BTreeSet::new(), tenants),
                Need::Nothing | Need::Everything | Need::Correcting | Need::Invoking(_) => return Ok(()),
            };
            for (namespace, name) in [("a", "x"), ("b", "x"), ("c", "y"), ("b", "y"), ("x", "a")] {
                for tenant in ["a", "b", "c", "x"] {
                    let [uid, namespace, name, tenant] = ["u", namespace, name, tenant].map(str::to_owned);
                    let id = FunctionId { uid, tenant, namespace, name };
                    let needed = namespaces.contains(&id.namespace) || tenants.contains(&id.tenant);
                    prop_assert!(!filter.takes(&id) || needed, "{sent:?} takes {id:?}");
                }
            }
        }
    }
}
