//! What is remembered, for how long, how much, and how often a reviewer is asked.

use super::*;
use std::collections::{BTreeMap, BTreeSet};
use tokio::sync::Notify;
use tokio::time::{advance, sleep};

/// A reviewer that knows what it is told, and writes down what it is asked.
#[derive(Debug, Default)]
struct Script {
    users: Mutex<BTreeMap<String, User>>,
    rights: Mutex<BTreeSet<(String, Option<String>)>>,
    asked: Mutex<Vec<String>>,
    /// It cannot be reached.
    away: Mutex<bool>,
    /// It answers when told to.
    held: Mutex<Option<Arc<Notify>>>,
}

impl Script {
    async fn answer(&self, question: String) -> Result<(), Unasked> {
        self.asked.lock().push(question);
        let held = self.held.lock().clone();
        if let Some(held) = held {
            held.notified().await;
        }
        if *self.away.lock() { Err(Unasked("away".into())) } else { Ok(()) }
    }

    fn knows(&self, token: &str, groups: &[&str]) {
        let groups = groups.iter().map(|&g| g.to_owned()).collect();
        self.users.lock().insert(token.into(), User { name: "alice".into(), groups, ..User::default() });
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock())
    }
}

impl Reviewer for Script {
    fn identify<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Option<User>, Unasked>> {
        Box::pin(async move {
            self.answer(format!("who {token}")).await?;
            Ok(self.users.lock().get(token).cloned())
        })
    }

    fn allows<'a>(
        &'a self,
        user: &'a User,
        act: Act,
        namespace: Option<&'a str>,
    ) -> BoxFuture<'a, Result<bool, Unasked>> {
        Box::pin(async move {
            let what = if act == Act::See { "may" } else { "may correct" };
            self.answer(format!("{what} {} {}", user.name, namespace.unwrap_or("*"))).await?;
            Ok(self.rights.lock().contains(&(user.name.clone(), namespace.map(str::to_owned))))
        })
    }
}

fn reviews() -> (Arc<Script>, Arc<Reviews>) {
    let script = Arc::new(Script::default());
    (script.clone(), Arc::new(Reviews::new(script)))
}

const MS: Duration = Duration::from_millis(1);

#[tokio::test(start_paused = true)]
async fn answers_are_believed_for_their_time() {
    let (script, reviews) = reviews();
    script.knows("good", &[]);
    for (token, time) in [("good", YES), ("bad", NO)] {
        let known = token == "good";
        assert_eq!(reviews.who(token).await.unwrap().is_some(), known);
        advance(time - MS).await;
        assert_eq!(reviews.who(token).await.unwrap().is_some(), known);
        assert_eq!(script.asked(), [format!("who {token}")]);
        advance(MS).await;
        assert_eq!(reviews.who(token).await.unwrap().is_some(), known);
        assert_eq!(script.asked(), [format!("who {token}")]);
    }
    // Revoked, and given back.
    script.users.lock().clear();
    assert!(reviews.who("good").await.unwrap().is_some());
    advance(YES).await;
    assert!(reviews.who("good").await.unwrap().is_none());
    script.knows("good", &[]);
    advance(NO).await;
    assert!(reviews.who("good").await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn rights_are_a_users_in_a_namespace() {
    let (script, reviews) = reviews();
    script.knows("one", &["a"]);
    script.knows("two", &["a"]);
    script.knows("three", &["a", "b"]);
    script.rights.lock().insert(("alice".into(), Some("shop".into())));
    let one = reviews.who("one").await.unwrap().unwrap();
    assert!(reviews.may(&one, Some("shop")).await.unwrap());
    assert!(!reviews.may(&one, Some("other")).await.unwrap());
    assert!(!reviews.may(&one, None).await.unwrap());
    assert_eq!(script.asked(), ["who one", "may alice shop", "may alice other", "may alice *"]);
    // The same user by another token is known; in another group he is somebody else.
    let two = reviews.who("two").await.unwrap().unwrap();
    assert!(reviews.may(&two, Some("shop")).await.unwrap());
    let three = reviews.who("three").await.unwrap().unwrap();
    assert!(reviews.may(&three, Some("shop")).await.unwrap());
    assert_eq!(script.asked(), ["who two", "who three", "may alice shop"]);
    script.rights.lock().clear();
    advance(YES).await;
    assert!(!reviews.may(&one, Some("shop")).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn one_asks_for_all_who_wait() {
    let (script, reviews) = reviews();
    script.knows("good", &[]);
    let hold = Arc::new(Notify::new());
    *script.held.lock() = Some(hold.clone());
    let ask = |token: &'static str| {
        let reviews = reviews.clone();
        tokio::spawn(async move { reviews.who(token).await })
    };
    let first = ask("good");
    sleep(MS).await;
    let others: Vec<_> = (0..20).map(|_| ask("good")).collect();
    sleep(MS).await;
    assert_eq!(script.asked(), ["who good"]);
    // Who asks leaves: one of those who wait asks in his place.
    first.abort();
    sleep(MS).await;
    assert_eq!(script.asked(), ["who good"]);
    hold.notify_one();
    for other in others {
        assert!(other.await.unwrap().unwrap().is_some());
    }
    assert_eq!(script.asked(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_away_is_no_refusal() {
    let (script, reviews) = reviews();
    script.knows("good", &[]);
    let good = reviews.who("good").await.unwrap().unwrap();
    *script.away.lock() = true;
    assert_eq!(reviews.who("other").await, Err(Unasked("away".into())));
    assert_eq!(reviews.may(&good, None).await, Err(Unasked("away".into())));
    // What is known is known for its time, not longer.
    assert!(reviews.who("good").await.unwrap().is_some());
    advance(YES).await;
    assert!(reviews.who("good").await.is_err());
    // It hangs: one waits for it, the others hear of it.
    script.asked();
    *script.held.lock() = Some(Arc::new(Notify::new()));
    advance(FAILED).await;
    let (a, b, c) = tokio::join!(reviews.who("good"), reviews.who("good"), reviews.who("good"));
    assert!([a, b, c].iter().all(|a| a.as_ref().unwrap_err().0.contains("did not answer")));
    assert_eq!(script.asked(), ["who good"]);
    // And works again.
    (*script.away.lock(), *script.held.lock()) = (false, None);
    advance(FAILED).await;
    assert!(reviews.who("good").await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_tokens_is_bounded() {
    let (script, reviews) = reviews();
    *script.held.lock() = Some(Arc::new(Notify::new()));
    let flood: Vec<_> = (0..100)
        .map(|n| {
            let reviews = reviews.clone();
            tokio::spawn(async move { reviews.who(&n.to_string()).await })
        })
        .collect();
    let mut late = 0;
    for asked in flood {
        late += usize::from(asked.await.unwrap().unwrap_err().0.contains("under way"));
    }
    assert_eq!((script.asked().len(), late), (AT_ONCE, 100 - AT_ONCE));
    *script.held.lock() = None;
    script.knows("good", &[]);
    advance(FAILED).await;
    assert!(reviews.who("good").await.unwrap().is_some());
    for n in 0..2 * MAX_TOKENS {
        assert!(reviews.who(&format!("bad {n}")).await.unwrap().is_none());
        assert!(reviews.users.len() <= MAX_TOKENS);
    }
    // What is not over yet goes first where it would be over first.
    script.asked();
    assert!(reviews.who("good").await.unwrap().is_some());
    assert_eq!(script.asked(), Vec::<String>::new());
}
