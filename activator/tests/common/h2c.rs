//! Both ends of HTTP/2 as scripts: a client that sends frames of its own making, an origin whose calls run a script.

use super::within;
use bytes::Bytes;
use h2::{
    RecvStream,
    client::{ResponseFuture, SendRequest},
    server::SendResponse,
};
use http::{HeaderMap, Request, Response};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};
use tokio::net::{TcpListener, TcpStream};

pub use h2::SendStream;

/// A client on one connection.
pub struct H2Client {
    pub sender: SendRequest<Bytes>,
    /// Ends with the connection, as the library saw it.
    pub end: tokio::task::JoinHandle<Result<(), h2::Error>>,
}

/// A whole answer.
#[derive(Debug)]
pub struct H2Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
    /// Set when the stream broke off.
    pub broke: Option<h2::Error>,
}

impl H2Answer {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|v| v.to_str().unwrap())
    }

    pub fn trailer(&self, name: &str) -> Option<&str> {
        self.trailers.as_ref()?.get(name).map(|v| v.to_str().unwrap())
    }
}

impl H2Client {
    pub async fn connect(addr: SocketAddr) -> Self {
        Self::with(addr, h2::client::Builder::new()).await
    }

    pub async fn with(addr: SocketAddr, builder: h2::client::Builder) -> Self {
        let stream = TcpStream::connect(addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = within("handshake", builder.handshake(stream)).await.unwrap();
        Self { sender, end: tokio::spawn(connection) }
    }

    /// Sends a head; the body follows on the stream unless `end`.
    pub async fn start(&mut self, request: Request<()>, end: bool) -> (ResponseFuture, SendStream<Bytes>) {
        self.sender = within("room for a stream", self.sender.clone().ready()).await.unwrap();
        self.sender.send_request(request, end).unwrap()
    }

    pub async fn call(&mut self, request: Request<()>, body: &[u8]) -> H2Answer {
        let (response, mut stream) = self.start(request, body.is_empty()).await;
        if !body.is_empty() {
            // Whatever the window, the library buffers it.
            stream.send_data(Bytes::copy_from_slice(body), true).unwrap();
        }
        whole(response).await
    }

    pub async fn get(&mut self, path: &str) -> H2Answer {
        self.call(request("GET", path), b"").await
    }
}

/// A request to the function "hello".
pub fn request(method: &str, path: &str) -> Request<()> {
    let uri = format!("http://hello.ns.example.com{path}");
    Request::builder().method(method).uri(uri).body(()).unwrap()
}

/// Awaits a response and reads it to its end.
pub async fn whole(response: ResponseFuture) -> H2Answer {
    match within("a response", response).await {
        Ok(response) => rest(response).await,
        Err(e) => H2Answer { status: 0, headers: HeaderMap::new(), body: vec![], trailers: None, broke: Some(e) },
    }
}

pub async fn rest(response: Response<RecvStream>) -> H2Answer {
    let (head, mut stream) = response.into_parts();
    let (mut body, mut broke) = (Vec::new(), None);
    while let Some(data) = within("data", stream.data()).await {
        match data {
            Ok(data) => {
                stream.flow_control().release_capacity(data.len()).unwrap();
                body.extend_from_slice(&data);
            }
            Err(e) => {
                broke = Some(e);
                break;
            }
        }
    }
    let trailers = if broke.is_none() { within("trailers", stream.trailers()).await.unwrap_or_default() } else { None };
    H2Answer { status: head.status.as_u16(), headers: head.headers, body, trailers, broke }
}

/// One call at an origin.
pub struct H2Call {
    pub request: Request<RecvStream>,
    pub respond: SendResponse<Bytes>,
}

impl H2Call {
    /// The body, read whole; `None` when it broke off.
    pub async fn body(&mut self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        let stream = self.request.body_mut();
        while let Some(data) = stream.data().await {
            let data = data.ok()?;
            let _ = stream.flow_control().release_capacity(data.len());
            body.extend_from_slice(&data);
        }
        Some(body)
    }

    pub fn answer(&mut self, body: &[u8]) {
        let mut stream = self.head(200);
        let _ = stream.send_data(Bytes::copy_from_slice(body), true);
    }

    /// Sends a head whose body follows.
    pub fn head(&mut self, status: u16) -> SendStream<Bytes> {
        self.respond.send_response(Response::builder().status(status).body(()).unwrap(), false).unwrap()
    }
}

/// An instance that speaks HTTP/2.
pub struct H2Origin {
    pub addr: SocketAddr,
    pub connections: Arc<AtomicUsize>,
    /// Heads of requests, as they came.
    pub requests: Arc<parking_lot::Mutex<Vec<http::request::Parts>>>,
    pub running: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for H2Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl H2Origin {
    pub async fn start<F>(script: impl Fn(H2Call) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::with("127.0.0.1:0".parse().unwrap(), h2::server::Builder::new(), script).await
    }

    pub async fn with<F>(
        addr: SocketAddr,
        builder: h2::server::Builder,
        script: impl Fn(H2Call) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(addr).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (connections, running) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let requests = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let (count, heads, script, runs) = (connections.clone(), requests.clone(), Arc::new(script), running.clone());
        let task = tokio::spawn(async move {
            let mut lines = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, SeqCst);
                let (builder, heads, script, runs) = (builder.clone(), heads.clone(), script.clone(), runs.clone());
                lines.spawn(async move {
                    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
                    let mut calls = tokio::task::JoinSet::new();
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        let (head, body) = request.into_parts();
                        heads.lock().push(head.clone());
                        let call = script(H2Call { request: Request::from_parts(head, body), respond });
                        let runs = runs.clone();
                        runs.fetch_add(1, SeqCst);
                        calls.spawn(async move {
                            call.await;
                            runs.fetch_sub(1, SeqCst);
                        });
                    }
                });
            }
        });
        Self { addr, connections, requests, running, task }
    }

    /// Answers every call with its own body, or "hello".
    pub async fn echo() -> Self {
        Self::start(|mut call| async move {
            if let Some(body) = call.body().await {
                call.answer(if body.is_empty() { b"hello" } else { &body });
            }
        })
        .await
    }
}
