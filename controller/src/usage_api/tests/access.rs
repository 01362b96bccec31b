//! Who is answered what, over the router: with a reviewer that knows four tokens.

use super::*;
use crate::tenants::LABEL;
use crate::usage_api::reviews::{Act, Reviewer, Unasked, User};
use futures::future::BoxFuture;

/// `shop` sees the namespace shop, `clerk` all of them, `bursar` corrects them besides, `nobody` none; about `lost` nobody can be asked. Rights of
/// `unsure` cannot be asked.
#[derive(Debug)]
struct Four;

impl Reviewer for Four {
    fn identify<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Option<User>, Unasked>> {
        Box::pin(async move {
            match token {
                "shop" | "clerk" | "bursar" | "nobody" | "unsure" => {
                    Ok(Some(User { name: token.to_owned(), ..User::default() }))
                }
                "lost" => Err(Unasked("secret reasons".into())),
                _ => Ok(None),
            }
        })
    }

    fn allows<'a>(
        &'a self,
        user: &'a User,
        act: Act,
        namespace: Option<&'a str>,
    ) -> BoxFuture<'a, Result<bool, Unasked>> {
        Box::pin(async move {
            match user.name.as_str() {
                "clerk" => Ok(act == Act::See),
                "bursar" => Ok(true),
                "shop" => Ok(namespace == Some("shop")),
                "unsure" => Err(Unasked("secret reasons".into())),
                _ => Ok(false),
            }
        })
    }
}

async fn reviewed() -> Fixture {
    reviewed_with(Tenants::of_themselves()).await
}

async fn reviewed_with(tenants: Tenants) -> Fixture {
    let f = fixture(None).await;
    let guard = Guard::token(Token::new("s3cret").unwrap()).reviewed_by(Arc::new(Four));
    Fixture { router: router(f.door.clone(), Budgets::none(), guard, tenants), ..f }
}

impl Fixture {
    async fn post(&self, path: &str, body: &str, token: &str) -> (StatusCode, String) {
        let request = Request::post(path).header("authorization", format!("Bearer {token}"));
        let response = self.router.clone().oneshot(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap();
        let status = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }

    async fn ask(&self, path: &str, token: &str) -> (StatusCode, HeaderMap, String) {
        self.get(path, &[("authorization", &format!("Bearer {token}"))]).await
    }
}

/// A question of each kind that only somebody may ask who sees everything.
const WIDE: [&str; 10] = [
    "/v1/budgets",
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
async fn who_may_take_records_back() {
    let f = reviewed().await;
    let id = r#"{"activator": "0000000000000007", "epoch": 1, "seq": 3, "received_at": "2026-11-01T00:02:00Z"}"#;
    let order = format!(r#"{{"reason": "ours", "records": [{id}]}}"#);
    for (token, status) in [
        ("stranger", 401),
        ("nobody", 403),
        ("shop", 403),
        ("clerk", 403),
        ("lost", 503),
        ("unsure", 503),
        ("bursar", 200),
        ("s3cret", 200),
    ] {
        let (told, body) = f.post("/v1/reversals", &order, token).await;
        assert_eq!(told, status, "{token}: {body}");
        if status == 403 {
            assert!(body.contains("the right to create functions/usage"), "{body}");
        }
    }
    let (_, _, body) = f.ask("/v1/reversals?from=2026-11-01&to=2026-12-01", "clerk").await;
    let list: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((list["rows"].as_array().unwrap().len(), &list["rows"][0]["reversed_by"]), (1, &"bursar".into()));
    for (path, status) in [("/v1/reversals", 403), ("/v1/reversals?namespace=shop", 200)] {
        assert_eq!(f.ask(path, "shop").await.0, status, "{path}");
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
        assert!(body.contains(&format!("that tenant {name} pays for")), "{body}");
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

fn labelled(namespaces: &[(&str, &str)]) -> Tenants {
    let tenants = Tenants::labelled();
    label(&tenants, namespaces);
    tenants.complete();
    tenants
}

fn label(tenants: &Tenants, namespaces: &[(&str, &str)]) {
    for (namespace, tenant) in namespaces {
        tenants.see(namespace, Some(&[(LABEL.to_owned(), (*tenant).to_owned())].into()));
    }
}

/// What a tenant's are asked by.
const OF_ACME: [&str; 4] = [
    "/v1/statements/acme/2026-11",
    "/v1/usage?filter[tenant]=acme",
    "/v1/records?tenant=acme",
    "/v1/usage?filter[tenant]=acme&filter[tenant]=acme&group_by=namespace",
];

/// In the fixture's ledger the tenant acme paid for the namespace shop, whatever the labels say.
#[tokio::test]
async fn a_tenants_usage_needs_the_right_in_all_that_it_pays_for() {
    let tenants = labelled(&[("shop", "acme"), ("other", "acme"), ("third", "third")]);
    let f = reviewed_with(tenants.clone()).await;
    let statuses = async |token: &str| {
        let mut all = BTreeSet::new();
        for path in OF_ACME {
            all.insert(f.ask(path, token).await.0.as_u16());
        }
        all.into_iter().collect::<Vec<_>>()
    };
    let (_, _, body) = f.ask(OF_ACME[0], "shop").await;
    assert!(!body.contains("other") && !body.contains("namespace shop"), "no name of a namespace: {body}");
    assert_eq!((statuses("shop").await, statuses("clerk").await), (vec![403], vec![200]));
    label(&tenants, &[("other", "")]);
    assert_eq!((statuses("shop").await, statuses("nobody").await), (vec![200], vec![403]), "other pays for itself now");
    // It was paid for, so it counts.
    label(&tenants, &[("shop", "third"), ("other", "acme")]);
    assert_eq!(statuses("shop").await, [403]);
    // Its own namespace alone is not what it needs: somebody else pays for that one.
    assert_eq!(f.ask("/v1/usage?filter[tenant]=shop", "shop").await.0, 403, "no such tenant");
    assert_eq!(f.ask("/v1/usage?filter[namespace]=shop", "shop").await.0, 200);
    assert_eq!(f.ask("/v1/usage?filter[namespace]=shop&filter[tenant]=acme", "shop").await.0, 200);
}

#[tokio::test]
async fn what_a_tenant_pays_for_may_be_unknown_for_a_while() {
    let tenants = Tenants::labelled();
    label(&tenants, &[("shop", "acme")]);
    let f = reviewed_with(tenants.clone()).await;
    for (token, status) in [("clerk", 200), ("shop", 503), ("nobody", 503), ("stranger", 401), ("s3cret", 200)] {
        assert_eq!(f.ask(OF_ACME[0], token).await.0, status, "{token}: not all namespaces are listed");
    }
    let (_, headers, _) = f.ask(OF_ACME[0], "shop").await;
    assert!(headers.contains_key(header::RETRY_AFTER));
    tenants.complete();
    assert_eq!(f.ask(OF_ACME[0], "shop").await.0, 200);
    f.door.close("the disk is gone");
    let (status, _, body) = f.ask(OF_ACME[0], "shop").await;
    assert!(status == 503 && body.contains("AuthorizationUnavailable"), "{body}");
    assert!(f.ask(OF_ACME[0], "clerk").await.2.contains("LedgerUnavailable"));
}

/// Sees the namespaces that its token names, with commas; `*`: all.
#[derive(Debug)]
struct Named;

impl Reviewer for Named {
    fn identify<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Option<User>, Unasked>> {
        Box::pin(async move { Ok(Some(User { name: token.to_owned(), ..User::default() })) })
    }

    fn allows<'a>(
        &'a self,
        user: &'a User,
        _: Act,
        namespace: Option<&'a str>,
    ) -> BoxFuture<'a, Result<bool, Unasked>> {
        let rights: Vec<&str> = user.name.split(',').collect();
        Box::pin(async move { Ok(rights.contains(&"*") || namespace.is_some_and(|name| rights.contains(&name))) })
    }
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(64))]

    /// Whoever is answered has the right in every namespace that the tenant pays for now or paid for; whoever has not is
    /// told the same as of a tenant that is nobody's.
    #[test]
    fn nobody_reads_what_a_tenant_pays_for_elsewhere(
        labels in proptest::collection::vec(0..4usize, 4),
        rights in proptest::sample::subsequence(vec!["shop", "other", "third", "acme", "*"], 0..=5),
        tenant in proptest::sample::select(vec!["acme", "shop", "other", "third", "team", "none"]),
    ) {
        let names = ["shop", "other", "third", "acme"];
        let payers = ["", "acme", "team", "shop"];
        let labels: Vec<(&str, &str)> = names.iter().zip(&labels).map(|(name, at)| (*name, payers[*at])).collect();
        let paid = |(name, payer): &(&str, &str)| if payer.is_empty() { *name == tenant } else { *payer == tenant };
        let mut needed: BTreeSet<&str> = labels.iter().filter(|label| paid(label)).map(|label| label.0).collect();
        if tenant == "acme" {
            needed.insert("shop");
        }
        let all = rights.contains(&"*");
        let may = all || !needed.is_empty() && needed.iter().all(|name| rights.contains(name));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let f = fixture(None).await;
            let guard = Guard::token(Token::new("s3cret").unwrap()).reviewed_by(Arc::new(Named));
            let f = Fixture { router: router(f.door.clone(), Budgets::none(), guard, labelled(&labels)), ..f };
            let token = if rights.is_empty() { "nobody".to_owned() } else { rights.join(",") };
            let path = |tenant: &str| format!("/v1/usage?filter[tenant]={tenant}");
            let (status, _, body) = f.ask(&path(tenant), &token).await;
            assert_eq!(status == 200, may, "{labels:?} {rights:?} {tenant}: {body}");
            if !may {
                let (_, _, nobodys) = f.ask(&path("nobodys"), &token).await;
                assert_eq!(body.replace(&format!("tenant {tenant} "), "tenant X "), nobodys.replace("tenant nobodys ", "tenant X "));
            }
        });
    }
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
