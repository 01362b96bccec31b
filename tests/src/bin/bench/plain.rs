//! The floor of the activator: a proxy of the same HTTP library that does nothing but pass calls on. One connection to
//! the instance for each of a client, no header changed, nothing counted, no deadline.

use crate::proxy::Proxy;
use crate::stage;
use anyhow::Result;
use dormouse_tests::proc::Program;
use hyper::client::conn::http1::SendRequest;
use hyper::{Request, body::Incoming, client, server, service::service_fn};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;

/// Starts it, a process of this program, in front of `upstream`.
pub(crate) async fn start(folder: &Path, upstream: SocketAddr, cores: &str) -> Result<Proxy> {
    let this = stage::this()?;
    Proxy::start("the plain proxy", |addr| {
        let args = ["plain".to_owned(), format!("--listen={addr}"), format!("--instance={upstream}")];
        Ok(Program::new(this, folder.join("plain.log")).args(args).on_cores(cores))
    })
    .await
}

/// Serves until it is ended.
pub(crate) async fn run(listen: SocketAddr, upstream: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(listen).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            // An end in the middle is the client's: a bench fails by what the client sees.
            let _ = serve(stream, upstream).await;
        });
    }
}

async fn serve(stream: TcpStream, upstream: SocketAddr) -> Result<()> {
    stream.set_nodelay(true)?;
    let sender = Arc::new(Mutex::new(connect(upstream).await?));
    let service = service_fn(move |request: Request<Incoming>| {
        let sender = sender.clone();
        async move {
            let mut sender = sender.lock().await;
            sender.ready().await?;
            sender.send_request(request).await
        }
    });
    server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await?;
    Ok(())
}

async fn connect(upstream: SocketAddr) -> Result<SendRequest<Incoming>> {
    let stream = TcpStream::connect(upstream).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}
