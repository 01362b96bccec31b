//! Code on its way into a parked runtime: one load, signed, so that a runtime takes code from nobody else. The protocol
//! is `runtimes/README.md`'s.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use dormouse_core::valid::{Handler, ValidFunction};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, StatusCode, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

/// Where a runtime that is parked takes its load.
pub const PORT: u16 = 8081;

/// Where a loaded runtime takes calls, unless it is told otherwise before it is parked.
pub const CALLS: u16 = 8080;

/// Longest import of a handler's module: the protocol's default, which is that of a Function's `queue.maxWaitSeconds`.
const INIT: Duration = Duration::from_secs(30);

/// On top of it: the files are written, and the answer comes back.
const ANSWER: Duration = Duration::from_secs(5);

/// Longest wait for a load port to open: a container that was added to a parked pod starts within 0.1 s where the image
/// is, and a pull takes its time. One that is parked is at most some seconds from listening.
const OPEN: Duration = Duration::from_secs(60);
const PARKED: Duration = Duration::from_secs(10);

/// Longest dial of one that is parked: whose node is gone does not even refuse, and then others are tried.
const SILENT: Duration = Duration::from_secs(2);

/// Calls that a runtime has threads for, if that many come: how many do is the activators' to keep, and may change while
/// the instance lives. The most that a Function may have.
pub const MAX_CALLS: u32 = 1000;

/// First and longest pause between two dials, as activators make them, and then one that a pull deserves.
const DIAL: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(10));

/// Longest answer that is read: an error's words name file and line, and quote a line of code.
const MAX_ANSWER: usize = 64 * 1024;

/// The codes of code that cannot be initialised, in answers and in a runtime's last line of log.
const INIT_FAILURES: [&str; 7] =
    ["SyntaxError", "ModuleNotFound", "HandlerNotFound", "InitError", "InitTimeout", "Exited", "OutOfMemory"];

/// Why a runtime could not begin to serve, by the last line that it wrote.
#[must_use]
pub fn failure_in(line: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Said {
        error: String,
        message: String,
    }
    let Said { error, message } = serde_json::from_str(line).ok()?;
    INIT_FAILURES.contains(&error.as_str()).then(|| format!("{error}: {message}"))
}

/// The key that loads are signed with.
#[derive(Clone)]
pub struct LoadKey {
    pair: Arc<Ed25519KeyPair>,
    public: Arc<str>,
}

impl std::fmt::Debug for LoadKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoadKey").field("public", &self.public).finish_non_exhaustive()
    }
}

/// A key that cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// What it is to be made of can be guessed.
    #[error("the secret of the load key has less than 32 characters")]
    Short,
    /// The system gives no randomness, or the library refuses its own seed.
    #[error("no Ed25519 key can be made here")]
    Unusable,
}

impl LoadKey {
    /// The key that follows from a secret text: the same for each life of the controller that knows it.
    ///
    /// # Errors
    /// When the text is too short to be a secret.
    pub fn from_secret(text: &str) -> Result<Self, KeyError> {
        let text = text.trim();
        if text.len() < 32 {
            return Err(KeyError::Short);
        }
        // Under a name of its own: whatever else the text may ever be used for is not this seed.
        Self::of_seed(&Sha256::new().chain_update(b"dormouse load key\n").chain_update(text).finalize())
    }

    /// Another key each time: for who has nobody parked after its end.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn random() -> Result<Self, KeyError> {
        let mut seed = [0; 32];
        SystemRandom::new().fill(&mut seed).map_err(|_| KeyError::Unusable)?;
        Self::of_seed(&seed)
    }

    fn of_seed(seed: &[u8]) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| KeyError::Unusable)?;
        let public = STANDARD.encode(pair.public_key().as_ref()).into();
        Ok(Self { pair: Arc::new(pair), public })
    }

    /// The public half, as runtimes are told it.
    #[must_use]
    pub fn public(&self) -> &str {
        &self.public
    }

    fn sign(&self, body: &[u8]) -> String {
        STANDARD.encode(self.pair.sign(body).as_ref())
    }
}

/// What is to be loaded, and where.
#[derive(Clone, Copy, Debug)]
pub struct Load<'a> {
    /// The function, whose handler has its code.
    pub valid: &'a ValidFunction,
    /// Its handler.
    pub handler: &'a Handler,
    /// The name that its instances know their revision by.
    pub revision: &'a str,
    /// Who the runtime says that it is.
    pub pod: &'a str,
    /// Its container has the function's variables already, each as the kubelet made it.
    pub grafted: bool,
}

impl Load<'_> {
    /// The body. Only variables with values of their own: who has others is not loaded (`crate::pools`), or has them in
    /// its container already.
    #[must_use]
    pub fn body(&self) -> Vec<u8> {
        let Self { valid, handler, revision, pod, grafted } = *self;
        let files = handler.code.iter().flat_map(|code| code.files());
        let files: Map<String, Value> = files.map(|(path, file)| (path.into(), STANDARD.encode(file).into())).collect();
        let plain = valid.env.iter().filter(|var| !grafted && var.value_from.is_none());
        let env: Map<String, Value> =
            plain.map(|var| (var.name.clone(), var.value.clone().unwrap_or_default().into())).collect();
        let body = json!({
            "pod": pod, "function": {"uid": valid.uid, "namespace": valid.key.namespace, "name": valid.key.name},
            "revision": revision, "handler": handler.name, "files": files, "env": env,
            "memoryMiB": valid.memory_mib, "timeoutMs": u64::try_from(valid.timeout.as_millis()).unwrap_or(u64::MAX),
            "concurrency": MAX_CALLS, "initTimeoutMs": u64::try_from(INIT.as_millis()).unwrap_or(u64::MAX),
        });
        body.to_string().into_bytes()
    }

    /// Whether the runtime is held by this very function and revision.
    fn is_held(&self, holder: Option<&Holder>) -> bool {
        holder.is_some_and(|h| h.function.uid == self.valid.uid && h.revision == self.revision)
    }
}

/// A load that did not work out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The runtime is another function's, or an earlier revision's.
    #[error("it is held: {0}")]
    Held(String),
    /// The code cannot be initialised; the runtime ends.
    #[error("{code}: {message}")]
    Broken {
        /// The protocol's code of it.
        code: String,
        /// For the function's owner: file and line.
        message: String,
    },
    /// The runtime does not take it, or does not answer as the protocol has it; it is still parked, or nobody knows.
    #[error("{0}")]
    Failed(String),
}

#[derive(Deserialize)]
struct Answer {
    error: Option<String>,
    message: Option<String>,
    holder: Option<Holder>,
}

#[derive(Deserialize)]
struct Holder {
    function: HolderFunction,
    revision: String,
}

#[derive(Deserialize)]
struct HolderFunction {
    uid: String,
}

/// Sends a load, and waits until the runtime serves. A load of the same function and revision that it has already is one
/// that worked.
///
/// # Errors
/// See [`LoadError`].
pub async fn send(key: &LoadKey, load: Load<'_>, at: SocketAddr) -> Result<(), LoadError> {
    let body = load.body();
    let signature = key.sign(&body);
    let (open, each) = if load.grafted { (OPEN, OPEN) } else { (PARKED, SILENT) };
    let stream = connect(at, open, each).await?;
    let (status, answer) = exchange(stream, at, body, signature, INIT + ANSWER).await?;
    outcome(&load, status, &answer)
}

/// Whether a runtime was given to somebody; `None`: it does not say. A load that is none is refused by the one that is parked
/// for its signature, and by the one that is not because it is held.
pub async fn is_held(at: SocketAddr) -> Option<bool> {
    held(connect(at, ANSWER, SILENT).await.ok()?, at).await
}

/// Whether a runtime waits for its load, whose container may only just have been added: its port is waited for as long as a load
/// does. One that does not say so may be busy with calls.
///
/// # Errors
/// Its port did not open.
pub async fn is_parked(at: SocketAddr) -> Result<bool, LoadError> {
    let stream = connect(at, OPEN, OPEN).await?;
    Ok(held(stream, at).await == Some(false))
}

async fn held(stream: TcpStream, at: SocketAddr) -> Option<bool> {
    let (status, _) = exchange(stream, at, Vec::new(), String::new(), ANSWER).await.ok()?;
    match status {
        StatusCode::CONFLICT => Some(true),
        StatusCode::UNAUTHORIZED => Some(false),
        _ => None,
    }
}

/// One request to a load port, and its answer within a limit.
async fn exchange(
    stream: TcpStream,
    at: SocketAddr,
    body: Vec<u8>,
    signature: String,
    limit: Duration,
) -> Result<(StatusCode, Bytes), LoadError> {
    let failed = |error: &dyn std::fmt::Display| LoadError::Failed(format!("{at}: {error}"));
    let exchange = async {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| failed(&e))?;
        let request = Request::post("/load")
            .header(header::HOST, at.to_string())
            .header(header::CONTENT_TYPE, "application/json")
            .header("dormouse-signature", signature)
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| failed(&e))?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(|e| failed(&e))?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|e| failed(&e))?;
            Ok::<_, LoadError>((head.status, body.to_bytes()))
        };
        // The connection is driven until the answer is there; its own end says nothing more.
        let mut answer = std::pin::pin!(answer);
        tokio::select! {
            answer = &mut answer => answer,
            ended = connection => match ended {
                Ok(()) => answer.await,
                Err(e) => Err(failed(&e)),
            },
        }
    };
    let late = || LoadError::Failed(format!("{at} gave no answer within {} s", limit.as_secs()));
    timeout(limit, exchange).await.map_err(|_| late())?
}

fn outcome(load: &Load<'_>, status: StatusCode, answer: &[u8]) -> Result<(), LoadError> {
    if status == StatusCode::OK {
        return Ok(());
    }
    let answer: Option<Answer> = serde_json::from_slice(answer).ok();
    let (code, message, holder) = match answer {
        Some(Answer { error, message, holder }) => (error.unwrap_or_default(), message.unwrap_or_default(), holder),
        None => Default::default(),
    };
    match status {
        StatusCode::CONFLICT if load.is_held(holder.as_ref()) => Ok(()),
        StatusCode::CONFLICT => Err(LoadError::Held(message)),
        StatusCode::UNPROCESSABLE_ENTITY => Err(LoadError::Broken { code, message }),
        _ => Err(LoadError::Failed(format!("the runtime answered {status} {code}: {message}"))),
    }
}

/// Dials until the load port is open; `each` is the longest single dial.
async fn connect(at: SocketAddr, limit: Duration, each: Duration) -> Result<TcpStream, LoadError> {
    let until = Instant::now() + limit;
    let (mut pause, longest) = DIAL;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let dial = timeout(left.min(each), TcpStream::connect(at));
        match dial.await {
            Ok(Ok(stream)) => {
                // One request of several packets: its last one does not wait for an answer to the others.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) if Instant::now() + pause >= until => {
                return Err(LoadError::Failed(format!("{at} cannot be reached: {error}")));
            }
            Ok(Err(_)) => sleep(pause).await,
            Err(_) => return Err(LoadError::Failed(format!("{at} did not answer a dial within {} s", each.as_secs()))),
        }
        pause = (pause * 2).min(longest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dormouse_core::function::Function;
    use ring::signature::{ED25519, UnparsedPublicKey};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    fn valid() -> ValidFunction {
        let source = json!({"runtime": "nodejs", "handler": "index.handler", "inline": "exports.handler = () => 1"});
        let env = json!([{"name": "A", "value": "1"}, {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]);
        let metadata = json!({"name": "hello", "namespace": "default", "uid": "u-1"});
        let function = json!({"apiVersion": "dormouse.dev/v1alpha1", "kind": "Function", "metadata": metadata,
            "spec": {"source": source, "env": env}});
        ValidFunction::from_function(&serde_json::from_value::<Function>(function).unwrap()).unwrap()
    }

    fn load(valid: &ValidFunction) -> Load<'_> {
        Load { valid, handler: valid.source.as_ref().unwrap(), revision: "hello-abc", pod: "p-1", grafted: false }
    }

    #[test]
    fn the_same_secret_is_the_same_key() {
        let key = LoadKey::from_secret(SECRET).unwrap();
        assert_eq!(key.public(), LoadKey::from_secret(&format!("{SECRET}\n")).unwrap().public());
        assert_ne!(key.public(), LoadKey::random().unwrap().public());
        assert_eq!(LoadKey::from_secret("short").unwrap_err(), KeyError::Short);
        assert!(!format!("{key:?}").contains(SECRET));
    }

    #[test]
    fn the_body_is_what_the_protocol_has() {
        let valid = valid();
        let body: Value = serde_json::from_slice(&load(&valid).body()).unwrap();
        insta::assert_json_snapshot!(body);
    }

    #[test]
    fn answers() {
        let valid = valid();
        let of = |status: u16, body: Value| {
            outcome(&load(&valid), StatusCode::from_u16(status).unwrap(), body.to_string().as_bytes())
        };
        assert_eq!(of(200, json!({"initMs": 3.5})), Ok(()));
        let holder = |uid: &str| {
            json!({"error": "AlreadyLoaded", "message": "m", "holder":
            {"function": {"uid": uid, "namespace": "default", "name": "hello"}, "revision": "hello-abc"}})
        };
        assert_eq!(of(409, holder("u-1")), Ok(()));
        assert_eq!(of(409, holder("u-2")), Err(LoadError::Held("m".into())));
        let broken = LoadError::Broken { code: "SyntaxError".into(), message: "index.js:1".into() };
        assert_eq!(of(422, json!({"error": "SyntaxError", "message": "index.js:1"})), Err(broken));
        assert!(
            matches!(of(401, json!({"error": "BadSignature"})), Err(LoadError::Failed(why)) if why.contains("401"))
        );
        assert!(matches!(outcome(&load(&valid), StatusCode::BAD_GATEWAY, b"<html>"), Err(LoadError::Failed(_))));
    }

    /// A load port that answers once; gives the request.
    async fn answer_once(listener: TcpListener, answer: String) -> Vec<u8> {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut got = Vec::new();
        while !got.ends_with(b"}") {
            let mut piece = vec![0; 4096];
            let n = stream.read(&mut piece).await.unwrap();
            got.extend_from_slice(&piece[..n]);
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        got
    }

    #[tokio::test]
    async fn what_is_sent_is_signed_byte_for_byte() {
        let (valid, key) = (valid(), LoadKey::from_secret(SECRET).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n{\"initMs\":1}".to_owned();
        let (got, sent) = tokio::join!(answer_once(listener, answer), send(&key, load(&valid), at));
        assert_eq!(sent, Ok(()));
        let split = got.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
        let (head, body) = (String::from_utf8_lossy(&got[..split]).to_lowercase(), &got[split + 4..]);
        assert!(head.starts_with("post /load http/1.1"), "{head}");
        let head = String::from_utf8_lossy(&got[..split]).into_owned();
        let signature = head.lines().find_map(|l| l.strip_prefix("dormouse-signature: ")).unwrap();
        let public = STANDARD.decode(key.public()).unwrap();
        UnparsedPublicKey::new(&ED25519, public).verify(body, &STANDARD.decode(signature).unwrap()).unwrap();
    }

    #[tokio::test]
    async fn who_breaks_off_has_failed() {
        let valid = valid();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let key = LoadKey::random().unwrap();
        let (_, sent) = tokio::join!(answer_once(listener, String::new()), send(&key, load(&valid), at));
        assert!(matches!(sent, Err(LoadError::Failed(_))), "{sent:?}");
    }
}
