//! Who asks, and what he may see: asked of Kubernetes, and believed for a short time.

mod cache;
mod kubernetes;

#[cfg(test)]
mod tests;

pub use kubernetes::ApiServer;

use cache::Cache;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

/// How long a yes is believed, from before it was asked for: so long a revoked token or right still works here. Over this
/// time a program that asks all the time costs one review of each kind.
pub const YES: Duration = Duration::from_secs(10);
/// How long a no is believed: a right that was just given works so soon, and a program that asks all the time with a bad
/// token costs a review every two seconds.
pub const NO: Duration = Duration::from_secs(2);
/// How long a failure is told to those who waited for the same answer, before somebody asks again.
const FAILED: Duration = Duration::from_secs(1);
/// Longest time of one review: it takes a few milliseconds where the API server is well.
const ANSWER: Duration = Duration::from_secs(5);
/// Reviews at once, over all askers: tokens that nobody gave out must not flood the API server.
const AT_ONCE: usize = 16;
/// How long a review waits for its turn.
const TURN: Duration = Duration::from_secs(2);
/// Between two lines in the log that say that nobody could be asked.
const COMPLAINT: Duration = Duration::from_secs(10);
/// Tokens known at once: 1,024 x about 1 KiB (a user with its groups) = 1 MiB.
const MAX_TOKENS: usize = 1024;
/// Rights known at once: 4,096 x about 250 B (the user is shared) = 1 MiB, and 4 MiB more where each has another user.
const MAX_RIGHTS: usize = 4096;

/// Somebody that Kubernetes knows. All of it goes into the question for rights.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct User {
    /// The name.
    pub name: String,
    /// The uid; empty when there is none.
    pub uid: String,
    /// The groups.
    pub groups: Vec<String>,
    /// What else authorisers look at.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// Nobody could be asked, and why: for the log, not for the asker.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unasked(pub String);

/// What is done, with usage unless it says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Act {
    /// It is seen.
    See,
    /// It is corrected: records are taken back.
    Correct,
    /// Not with usage: functions are called by events.
    Invoke,
}

impl Act {
    /// Kubernetes' word for it.
    #[must_use]
    pub fn verb(self) -> &'static str {
        match self {
            Self::See => "get",
            Self::Correct | Self::Invoke => "create",
        }
    }

    /// And for what of a Function.
    #[must_use]
    pub fn subresource(self) -> &'static str {
        match self {
            Self::See | Self::Correct => "usage",
            Self::Invoke => "invoke",
        }
    }
}

/// Who knows tokens and rights.
pub trait Reviewer: Debug + Send + Sync {
    /// Whose token this is; `None`: nobody's, or it is not meant for us.
    ///
    /// # Errors
    /// When that could not be found out.
    fn identify<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Option<User>, Unasked>>;

    /// Whether a user may do this with the usage of a namespace; `None`: of all.
    ///
    /// # Errors
    /// When that could not be found out.
    fn allows<'a>(
        &'a self,
        user: &'a User,
        act: Act,
        namespace: Option<&'a str>,
    ) -> BoxFuture<'a, Result<bool, Unasked>>;
}

/// A reviewer with a memory. For each token, and for each user and namespace, one question is asked at a time.
#[derive(Debug)]
pub(super) struct Reviews {
    reviewer: Arc<dyn Reviewer>,
    turns: Semaphore,
    /// When it was last said that nobody could be asked.
    complained: Mutex<Option<Instant>>,
    /// By the checksum of the token, so that no token is kept.
    users: Cache<[u8; 32], Option<Arc<User>>>,
    /// By the whole user: one who left a group is another one.
    rights: Cache<(Arc<User>, Act, Option<String>), bool>,
}

impl Reviews {
    pub(super) fn new(reviewer: Arc<dyn Reviewer>) -> Self {
        let (users, rights) = (Cache::new(MAX_TOKENS), Cache::new(MAX_RIGHTS));
        Self { reviewer, turns: Semaphore::new(AT_ONCE), complained: Mutex::new(None), users, rights }
    }

    /// Whose token this is.
    pub(super) async fn who(&self, token: &str) -> Result<Option<Arc<User>>, Unasked> {
        let ask = async {
            let user = self.asked(self.reviewer.identify(token)).await;
            match &user {
                Ok(Some(user)) => tracing::debug!(user = user.name, "a token is known"),
                // Anyone can send as many of them as he likes: they are counted, not logged.
                Ok(None) => tracing::debug!("a token was refused: it is nobody's, not valid, or not meant for us"),
                Err(_) => {}
            }
            user.map(|user| user.map(Arc::new))
        };
        self.users.get(Sha256::digest(token.as_bytes()).into(), Option::is_some, ask).await
    }

    /// Whether a user may see the usage of a namespace, or of all.
    pub(super) async fn may(&self, user: &Arc<User>, namespace: Option<&str>) -> Result<bool, Unasked> {
        self.may_do(user, Act::See, namespace).await
    }

    /// Whether a user may do this there.
    pub(super) async fn may_do(&self, user: &Arc<User>, act: Act, namespace: Option<&str>) -> Result<bool, Unasked> {
        let (place, verb, what) = (namespace.unwrap_or("all namespaces"), act.verb(), act.subresource());
        let ask = async {
            let allowed = self.asked(self.reviewer.allows(user, act, namespace)).await;
            if allowed == Ok(false) {
                tracing::info!(user = user.name, place, "refused: may not {verb} functions/{what} there");
            }
            allowed
        };
        self.rights.get((Arc::clone(user), act, namespace.map(str::to_owned)), |allowed| *allowed, ask).await
    }

    async fn asked<T>(&self, review: BoxFuture<'_, Result<T, Unasked>>) -> Result<T, Unasked> {
        let answer = match timeout(TURN, self.turns.acquire()).await {
            Ok(Ok(_turn)) => timeout(ANSWER, review).await.unwrap_or_else(|_| {
                Err(Unasked(format!("the API server did not answer within {} s", ANSWER.as_secs())))
            }),
            _ => Err(Unasked(format!("{AT_ONCE} reviews are under way"))),
        };
        answer.inspect_err(|why| self.complain(why))
    }

    /// Says that questions are answered with 503, and why: once in a while, however many there are.
    fn complain(&self, why: &Unasked) {
        let mut last = self.complained.lock();
        if last.is_none_or(|last| last.elapsed() >= COMPLAINT) {
            *last = Some(Instant::now());
            tracing::warn!(%why, "Kubernetes could not be asked who may see usage: such questions are answered with 503");
        }
    }
}
