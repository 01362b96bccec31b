//! One HTTP/1.1 server that a command asks: by address, or through the API server's port-forward to a pod. The usage API
//! may also be behind TLS.

use super::cluster::words;
use crate::exit::{Failure, Outcome};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::Api;
use kube::api::ListParams;
use kube::config::AuthInfo;
use std::io::Write;
use std::net::IpAddr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longest answer of the usage API that is read: its pages are bounded far below.
const MAX_ANSWER: usize = 64 << 20;
/// To connect.
const CONNECT: Duration = Duration::from_secs(5);
/// For an answer of the usage API.
const ANSWER: Duration = Duration::from_secs(60);

/// How to get a token that is meant for the usage API.
pub(crate) const A_TOKEN: &str = "`kubectl -n NAMESPACE create token ACCOUNT --audience dormouse-usage` gives one of a service account that may get functions/usage";

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Where the server is.
#[derive(Clone)]
enum Place {
    /// `host:port`.
    Address(String),
    /// A Service's pods, by the API server.
    Service { client: kube::Client, namespace: String, name: &'static str, port: u16 },
    /// A URL by the client that speaks TLS and knows how kubeconfigs show who one is.
    Client(kube::Client),
}

/// A server, and the token that it wants.
#[derive(Clone)]
pub(crate) struct Door {
    place: Place,
    token: Option<String>,
}

impl Door {
    /// A server by its http URL.
    pub(crate) fn at(url: &str, token: Option<String>) -> Result<Self, Failure> {
        let uri = address(url)?;
        if uri.scheme_str() != Some("http") {
            return Err(wrong(
                url,
                "only http:// is supported; for https leave it out and let the port-forward be used",
            ));
        }
        let authority = uri.authority().ok_or_else(|| wrong(url, "it has no host"))?;
        let address = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
        Ok(Self { place: Place::Address(address), token })
    }

    /// A usage API by its URL, http or https.
    pub(crate) fn usage(url: &str, token: Option<String>) -> Result<Self, Failure> {
        match address(url)?.scheme_str() {
            Some("https") => Ok(Self { token, ..Self::showing(url, AuthInfo::default())? }),
            _ => Self::at(url, token),
        }
    }

    /// A usage API by its URL, that is shown what a kubeconfig's user shows.
    pub(crate) fn showing(url: &str, user: AuthInfo) -> Result<Self, Failure> {
        dormouse_daemon::install_tls_provider();
        let mut config = kube::Config::new(address(url)?);
        // A refusal is told as it is, at once.
        (config.auth_info, config.default_retry, config.connect_timeout) = (user, false, Some(CONNECT));
        let client = kube::Client::try_from(config);
        let client = client.map_err(|e| Failure::failed(format!("{url} cannot be asked: {e}")))?;
        Ok(Self { place: Place::Client(client), token: None })
    }

    /// A Service of a cluster.
    pub(crate) fn service(
        client: kube::Client,
        namespace: &str,
        name: &'static str,
        port: u16,
        token: Option<String>,
    ) -> Self {
        Self { place: Place::Service { client, namespace: namespace.into(), name, port }, token }
    }

    async fn connect(&self) -> Result<Box<dyn Stream>, Failure> {
        match &self.place {
            Place::Address(address) => match timeout(CONNECT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => Ok(Box::new(stream)),
                Ok(Err(e)) => Err(Failure::failed(format!("cannot reach {address}: {e}"))),
                Err(_) => Err(Failure::timed_out(format!("no connection to {address} within {} s", CONNECT.as_secs()))),
            },
            Place::Service { client, namespace, name, port } => forward(client, namespace, name, *port).await,
            // Such a door is only asked.
            Place::Client(_) => Err(Failure::failed("no connection of its own to this address")),
        }
    }

    /// Sends one request over a connection of its own.
    pub(crate) async fn send(&self, mut request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Failure> {
        let headers = request.headers_mut();
        if !headers.contains_key(HOST) {
            let host = match &self.place {
                Place::Address(address) => address.clone(),
                Place::Service { name, .. } => (*name).into(),
                Place::Client(_) => String::new(),
            };
            headers.insert(HOST, HeaderValue::try_from(host).map_err(Failure::usage)?);
        }
        let io = TokioIo::new(self.connect().await?);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.map_err(broken)?;
        tokio::spawn(connection);
        sender.send_request(request).await.map_err(broken)
    }

    /// Gets a path of the usage API.
    pub(crate) async fn get(&self, path: &str) -> Result<Bytes, Failure> {
        self.ask(Method::GET, path).await
    }

    /// Gets a path of the usage API into a file, however long the answer is. When it fails, part of it may be written.
    pub(crate) async fn download(&self, path: &str, file: &mut impl Write) -> Result<(), Failure> {
        let request = self.request(Method::GET, path)?;
        match &self.place {
            Place::Client(client) => {
                let (head, _) = request.into_parts();
                let request = Request::from_parts(head, kube::client::Body::empty());
                written(in_time(async { client.send(request).await.map_err(unreached) }).await?, file).await
            }
            _ => written(in_time(self.send(request)).await?, file).await,
        }
    }

    fn request(&self, method: Method, path: &str) -> Result<Request<Full<Bytes>>, Failure> {
        let request = Request::builder().method(method).uri(path);
        let mut request = request.body(Full::default()).map_err(Failure::usage)?;
        if let Some(token) = &self.token {
            let mut value = HeaderValue::try_from(format!("Bearer {token}"))
                .map_err(|_| Failure::usage("the token has characters that no token has"))?;
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        Ok(request)
    }

    /// Asks the usage API without a body.
    pub(crate) async fn ask(&self, method: Method, path: &str) -> Result<Bytes, Failure> {
        self.answer(self.request(method, path)?).await
    }

    /// Posts JSON to the usage API.
    pub(crate) async fn post(&self, path: &str, body: Vec<u8>) -> Result<Bytes, Failure> {
        let mut request = self.request(Method::POST, path)?;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        *request.body_mut() = Full::new(body.into());
        self.answer(request).await
    }

    /// Posts what an event carries to the usage API, and waits so long for the answer.
    pub(crate) async fn call(&self, path: &str, body: Bytes, limit: Duration) -> Result<Bytes, Failure> {
        let mut request = self.request(Method::POST, path)?;
        *request.body_mut() = Full::new(body);
        self.answer_within(request, limit).await
    }

    async fn answer(&self, request: Request<Full<Bytes>>) -> Result<Bytes, Failure> {
        self.answer_within(request, ANSWER).await
    }

    async fn answer_within(&self, request: Request<Full<Bytes>>, limit: Duration) -> Result<Bytes, Failure> {
        within(limit, async {
            let (status, body) = match &self.place {
                Place::Client(client) => {
                    let (head, body) = request.into_parts();
                    let body = body.collect().await.map(|body| body.to_bytes().to_vec()).unwrap_or_default();
                    let request = Request::from_parts(head, kube::client::Body::from(body));
                    whole(client.send(request).await.map_err(unreached)?).await?
                }
                _ => whole(self.send(request).await?).await?,
            };
            if status.is_success() { Ok(body) } else { Err(refused(status, &body)) }
        })
        .await
    }
}

async fn in_time<T>(answer: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    within(ANSWER, answer).await
}

async fn within<T>(limit: Duration, answer: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let late = |_| Failure::timed_out(format!("no answer within {} s", limit.as_secs()));
    timeout(limit, answer).await.map_err(late)?
}

/// A URL that could be a server's: a scheme, a host, perhaps a port.
fn address(url: &str) -> Result<Uri, Failure> {
    let uri: Uri = url.parse().map_err(|_| wrong(url, "write for example http://127.0.0.1:8081"))?;
    let known = matches!(uri.scheme_str(), Some("http" | "https"));
    if known { Ok(uri) } else { Err(wrong(url, "write for example http://127.0.0.1:8081")) }
}

fn wrong(url: &str, why: &str) -> Failure {
    Failure::usage(format!("{url:?} is not an address: {why}"))
}

/// Whether nobody on the way can read what is sent to a URL: by TLS, or because it stays on this machine.
pub(crate) fn is_private(url: &str) -> Result<bool, Failure> {
    let uri = address(url)?;
    let host = uri.host().unwrap_or_default();
    let loopback = host.trim_matches(['[', ']']).parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    Ok(uri.scheme_str() == Some("https") || loopback || host == "localhost")
}

/// Writes an answer as it comes: a part of it has as long as a whole one that is not written.
async fn written<B>(response: Response<B>, file: &mut impl Write) -> Outcome
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if !response.status().is_success() {
        let (status, body) = in_time(whole(response)).await?;
        return Err(refused(status, &body));
    }
    let mut body = response.into_body();
    while let Some(frame) = in_time(async { Ok(body.frame().await) }).await? {
        let frame = frame.map_err(|e| Failure::failed(format!("the answer broke off: {}", e.into())))?;
        if let Ok(data) = frame.into_data() {
            file.write_all(&data)?;
        }
    }
    Ok(())
}

/// A whole answer.
async fn whole<B>(response: Response<B>) -> Result<(StatusCode, Bytes), Failure>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
    Ok((status, body.map_err(|e| Failure::failed(format!("the answer broke off: {e}")))?.to_bytes()))
}

/// What the client says, with its reasons, each once: some of its errors repeat what is below them.
fn unreached(error: kube::Error) -> Failure {
    let mut said = "cannot reach the usage API".to_owned();
    for reason in anyhow::Error::from(error).chain().map(ToString::to_string) {
        if !said.contains(&reason) {
            said = format!("{said}: {reason}");
        }
    }
    Failure::failed(said)
}

fn broken(error: hyper::Error) -> Failure {
    Failure::failed(format!("the connection broke: {error}"))
}

/// What the usage API says when it does not answer.
fn refused(status: StatusCode, body: &[u8]) -> Failure {
    let json: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let message = json.get("message").or_else(|| json.get("error")).and_then(serde_json::Value::as_str);
    let message =
        message.map_or_else(|| String::from_utf8_lossy(&body[..body.len().min(500)]).into_owned(), Into::into);
    match status {
        StatusCode::UNAUTHORIZED => Failure::failed(format!(
            "the usage API refuses the token ({status}): give the right one with --token-file or DORMOUSE_TOKEN; {A_TOKEN}"
        )),
        StatusCode::FORBIDDEN => Failure::failed(format!("the usage API answered {status}: {message}")),
        StatusCode::NOT_FOUND => Failure::not_found(message),
        StatusCode::BAD_REQUEST => Failure::usage(message),
        _ => Failure::failed(format!("the usage API answered {status}: {message}")),
    }
}

/// A stream to a running pod of a Service.
async fn forward(client: &kube::Client, namespace: &str, name: &str, port: u16) -> Result<Box<dyn Stream>, Failure> {
    let service = Api::<Service>::namespaced(client.clone(), namespace).get(name).await.map_err(|e| {
        Failure::failed(format!(
            "cannot see the Service {name} in namespace {namespace}: {}; if Dormouse is installed elsewhere, name that with --system-namespace",
            words(&e)
        ))
    })?;
    let selector = service.spec.and_then(|s| s.selector).unwrap_or_default();
    let labels: Vec<String> = selector.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let pods = Api::<Pod>::namespaced(client.clone(), namespace);
    let found = pods.list(&ListParams::default().labels(&labels.join(","))).await;
    let found = found.map_err(|e| Failure::failed(format!("cannot list the pods of {name}: {}", words(&e))))?;
    let ready = found.items.iter().find(|pod| {
        let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
        conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
    });
    let pod = ready.and_then(|p| p.metadata.name.clone());
    let pod = pod.ok_or_else(|| Failure::failed(format!("no pod of {name} in namespace {namespace} is ready")))?;
    let mut forwarder = pods.portforward(&pod, &[port]).await.map_err(|e| {
        Failure::failed(format!(
            "no port-forward to {pod}: {}; give the address with --usage-url or --activator-url",
            words(&e)
        ))
    })?;
    let stream = forwarder.take_stream(port).ok_or_else(|| Failure::failed(format!("no port-forward to {pod}")))?;
    // The forwarder's task ends with the stream.
    tokio::spawn(async move { forwarder.join().await });
    Ok(Box::new(stream))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_private_stays_here_or_is_encrypted() {
        for url in ["https://usage.example.com", "http://127.0.0.1:8081", "http://[::1]:8081/", "http://localhost:1"] {
            assert!(is_private(url).unwrap(), "{url}");
        }
        for url in ["http://usage.example.com", "http://10.96.0.7", "http://localhost.example.com"] {
            assert!(!is_private(url).unwrap(), "{url}");
        }
        for url in ["usage.example.com", "ftp://x", "", "https://"] {
            assert!(is_private(url).is_err(), "{url}");
        }
    }

    #[test]
    fn only_the_usage_api_is_asked_by_https() {
        assert!(Door::at("https://fn.example.com", None).err().unwrap().message().contains("only http://"));
        assert!(Door::usage("http://10.96.0.7", None).is_ok());
        assert!(Door::usage("ftp://10.96.0.7", None).is_err());
    }

    #[tokio::test]
    async fn a_kubeconfigs_token_is_shown_and_a_refusal_told() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shown = async |headers: http::HeaderMap| headers[AUTHORIZATION].to_str().unwrap().to_owned();
        let refusal = async || (StatusCode::FORBIDDEN, r#"{"message": "alice lacks the right"}"#);
        let router = axum::Router::new().route("/v1/usage", axum::routing::get(shown));
        let router = router.route("/v1/records", axum::routing::get(refusal));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "from-a-file").unwrap();
        let user = AuthInfo { token_file: file.to_str().map(str::to_owned), ..AuthInfo::default() };
        let door = Door::showing(&url, user).unwrap();
        assert_eq!(door.get("/v1/usage?limit=1").await.unwrap(), "Bearer from-a-file");
        let refused = door.get("/v1/records").await.unwrap_err();
        assert!(refused.message().contains("alice lacks the right"), "{}", refused.message());
        let mut file = Vec::new();
        assert!(door.download("/v1/records", &mut file).await.unwrap_err().message().contains("alice lacks the right"));
        let given = Door::usage(&url, Some("given".into())).unwrap();
        assert_eq!(given.get("/v1/usage").await.unwrap(), "Bearer given");
        for door in [door, given] {
            door.download("/v1/usage", &mut file).await.unwrap();
        }
        assert_eq!(file, b"Bearer from-a-fileBearer given");
    }
}
