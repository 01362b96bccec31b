//! Who is answered what, over the router: with a reviewer that knows four tokens.

use super::*;
use crate::usage_api::reviews::{Reviewer, Unasked, User};
use futures::future::BoxFuture;

/// `shop` sees the namespace shop, `clerk` all of them, `nobody` none; about `lost` nobody can be asked. Rights of
/// `unsure` cannot be asked.
#[derive(Debug)]
struct Four;

impl Reviewer for Four {
    fn identify<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Option<User>, Unasked>> {
        Box::pin(async move {
            match token {
                "shop" | "clerk" | "nobody" | "unsure" => Ok(Some(User { name: token.to_owned(), ..User::default() })),
                "lost" => Err(Unasked("secret reasons".into())),
                _ => Ok(None),
            }
        })
    }

    fn allows<'a>(&'a self, user: &'a User, namespace: Option<&'a str>) -> BoxFuture<'a, Result<bool, Unasked>> {
        Box::pin(async move {
            match user.name.as_str() {
                "clerk" => Ok(true),
                "shop" => Ok(namespace == Some("shop")),
                "unsure" => Err(Unasked("secret reasons".into())),
                _ => Ok(false),
            }
        })
    }
}

async fn reviewed() -> Fixture {
    let f = fixture(None).await;
    let guard = Guard::token(Token::new("s3cret").unwrap()).reviewed_by(Arc::new(Four));
    Fixture { router: router(f.door.clone(), guard), ..f }
}

impl Fixture {
    async fn ask(&self, path: &str, token: &str) -> (StatusCode, HeaderMap, String) {
        self.get(path, &[("authorization", &format!("Bearer {token}"))]).await
    }
}

/// A question of each kind that only somebody may ask who sees everything.
const WIDE: [&str; 9] = [
    "/v1/usage",
    "/v1/usage?from=2026-11-01&to=2026-12-01&group_by=namespace",
    "/v1/usage?filter[function]=cart",
    "/v1/usage?filter[function]=shop/cart&filter[function]=pay",
    "/v1/usage?filter[function_uid]=uid-cart",
    "/v1/usage?filter[namespace]=",
    "/v1/usage?filter[namespace]=shop&filter[namespace]=*",
    "/v1/records",
    "/v1/records?function=cart",
];

/// Of the namespace shop, and the same of another one.
const NARROW: [(&str, &str); 6] = [
    ("/v1/usage?filter[namespace]=shop", "/v1/usage?filter[namespace]=other"),
    (
        "/v1/usage?filter[namespace]=shop&group_by=tenant,function",
        "/v1/usage?filter[namespace]=shop&filter[namespace]=other",
    ),
    ("/v1/usage?filter[function]=shop/cart", "/v1/usage?filter[function]=other/cart"),
    ("/v1/usage?filter[tenant]=shop", "/v1/usage?filter[tenant]=other"),
    ("/v1/records?namespace=shop", "/v1/records?namespace=other"),
    ("/v1/records?tenant=shop&function=cart", "/v1/records?tenant=other"),
];

#[tokio::test]
async fn who_is_answered_what() {
    let f = reviewed().await;
    for (mine, others) in NARROW {
        for (token, of_mine, of_others) in [
            ("s3cret", 200, 200),
            ("clerk", 200, 200),
            ("shop", 200, 403),
            ("nobody", 403, 403),
            ("stranger", 401, 401),
            ("lost", 503, 503),
            ("unsure", 503, 503),
        ] {
            assert_eq!(f.ask(mine, token).await.0, of_mine, "{mine} of {token}");
            assert_eq!(f.ask(others, token).await.0, of_others, "{others} of {token}");
        }
        assert_eq!(f.get(mine, &[]).await.0, 401);
    }
    for path in WIDE {
        // Also what is no good question is refused before its faults are told.
        assert_eq!(f.ask(path, "shop").await.0, 403, "{path}");
        assert_eq!(f.ask(path, "lost").await.0, 503, "{path}");
        assert_ne!(f.ask(path, "clerk").await.0, 403, "{path}");
    }
    for (token, status) in [("nobody", 200), ("shop", 200), ("clerk", 200), ("stranger", 401), ("lost", 503)] {
        assert_eq!(f.ask("/v1/prices", token).await.0, status, "{token}");
    }
}

#[tokio::test]
async fn a_refusal_tells_nothing_of_what_there_is() {
    let f = reviewed().await;
    // The ledger of the fixture knows the tenant acme and not the tenant none.
    let [there, not_there] = ["/v1/statements/acme/2026-11", "/v1/statements/none/2026-11"];
    assert_eq!(
        (f.ask(there, "clerk").await.0, f.ask(not_there, "clerk").await.0),
        (StatusCode::OK, StatusCode::NOT_FOUND)
    );
    let mut told = BTreeSet::new();
    for (path, name) in [(there, "acme"), (not_there, "none")] {
        let (status, headers, body) = f.ask(path, "shop").await;
        assert_eq!(status, 403);
        assert!(body.contains(&format!("in namespace {name}")), "{body}");
        told.insert((body.replace(name, "X"), headers.len()));
    }
    assert_eq!(told.len(), 1, "{told:?}");
    // Of one's own tenant it is told.
    assert_eq!(f.ask("/v1/statements/shop/2026-11", "shop").await.0, 404);
    for (path, token, status) in [
        ("/v1/statements/acme/2026-11/focus", "clerk", 200),
        ("/v1/statements/acme/2026-11/focus", "shop", 403),
        ("/v1/statements/none/2026-11/focus", "shop", 403),
        ("/v1/statements/shop/2026-11/focus", "shop", 404),
        ("/v1/statements/acme/2026-11/focus", "stranger", 401),
        ("/v1/statements/acme/2026-11/focus", "lost", 503),
    ] {
        assert_eq!(f.ask(path, token).await.0, status, "{path} of {token}");
    }
    for path in [
        "/v1/statements/acme/2026-13/focus",
        "/v1/statements/%61cme/2026-11",
        "/v1/statements/acme/2026-13",
        "/v1/statements/shop%2F/2026-11",
        "/v1/statements/%ff/2026-11",
    ] {
        assert_eq!(f.ask(path, "shop").await.0, 403, "{path}");
    }
    let (_, headers, body) = f.ask("/v1/usage?filter[namespace]=shop", "lost").await;
    assert!(body.contains("AuthorizationUnavailable") && !body.contains("secret"), "{body}");
    assert!(headers.contains_key(header::RETRY_AFTER));
    let (_, _, body) = f.ask("/v1/usage", "shop").await;
    assert!(body.contains("filter[namespace]=NAME"), "{body}");
}

#[tokio::test]
async fn what_is_beside_needs_everything() {
    let guard = Guard::token(Token::new("s3cret").unwrap()).reviewed_by(Arc::new(Four));
    let beside = Router::new().route("/v1/functions", get(async || "all"));
    let f = reviewed().await;
    let f = Fixture { router: with(f.router.clone(), Some(beside), guard), ..f };
    for (token, status) in [("s3cret", 200), ("clerk", 200), ("shop", 403), ("stranger", 401)] {
        assert_eq!(f.ask("/v1/functions?filter[namespace]=shop&namespace=shop", token).await.0, status, "{token}");
    }
    assert_eq!(f.ask("/openapi.yaml", "stranger").await.0, 200);
}

#[tokio::test]
async fn answers_are_counted_by_status() {
    let f = reviewed().await;
    let mut registry = prometheus_client::registry::Registry::default();
    let f = Fixture { router: Requests::register(&mut registry).counting(f.router.clone()), ..f };
    for (path, token) in [
        ("/v1/prices", "shop"),
        ("/v1/prices", "shop"),
        ("/v1/usage", "shop"),
        ("/nothing", "shop"),
        ("/v1/usage", "x"),
    ] {
        f.ask(path, token).await;
    }
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for (code, count) in [(200, 2), (403, 1), (404, 1), (401, 1)] {
        assert!(text.contains(&format!("dormouse_usage_requests_total{{code=\"{code}\"}} {count}\n")), "{text}");
    }
}
