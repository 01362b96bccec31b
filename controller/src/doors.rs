//! The gRPC port: routes out, demand in, records in. Every request carries the shared token.

use crate::budgets::{self, Budgets};
use crate::fires;
use crate::ledger::{self, LedgerDoor};
use crate::office::Mail;
use crate::routes::{Routes, Watcher};
use crate::shares::Process;
use crate::through::Through;
use dormouse_daemon::Token;
use dormouse_proto::AUTHORIZATION;
use dormouse_proto::v1;
use dormouse_proto::v1::demand_server::{Demand, DemandServer};
use dormouse_proto::v1::routes_server::{Routes as RoutesService, RoutesServer};
use futures::Stream;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::transport::server::{Router, TcpIncoming};
use tonic::{Request, Response, Status, Streaming};

/// Longest name of an activator: a pod's name.
pub(crate) const MAX_NAME: usize = 253;

/// Longest address at which an activator takes calls over: an IPv6 address in brackets (41) with a port (6), and room.
const MAX_ADDRESS: usize = 64;

/// How soon a stream must begin to speak.
pub(crate) const FIRST_WORD: Duration = Duration::from_secs(10);

/// Largest report: [`crate::demand::MAX_ENTRIES`] entries of about 90 bytes, 9 MB, and some room.
const MAX_REPORT: usize = 16 << 20;

/// A peer that does not answer a ping for so long is gone: its address may be another's by now.
const PING: Duration = Duration::from_secs(10);
const PING_ANSWER: Duration = Duration::from_secs(5);

/// Serves the five services until stopped.
///
/// # Errors
/// When the listener breaks.
pub async fn serve(listener: TcpListener, doors: Doors) -> Result<(), tonic::transport::Error> {
    let stop = doors.stop.clone();
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    doors.router().serve_with_incoming_shutdown(incoming, stop.cancelled_owned()).await
}

/// What the doors open to.
#[derive(Clone)]
pub struct Doors {
    /// Asked of every request.
    pub token: Token,
    /// What is told.
    pub routes: Routes,
    /// Where reports go.
    pub post: mpsc::Sender<Mail>,
    /// Where records go.
    pub ledger: LedgerDoor,
    /// Where budgets are.
    pub budgets: Budgets,
    /// Ends every stream.
    pub stop: CancellationToken,
}

impl Doors {
    /// The five services behind the token.
    #[must_use]
    pub fn router(self) -> Router {
        let Self { token, routes, post, ledger, budgets, stop } = self;
        let check = move |request: Request<()>| {
            let shown = request.metadata().get(AUTHORIZATION);
            match shown.is_some_and(|shown| token.opens(shown.as_bytes())) {
                true => Ok(request),
                false => Err(Status::unauthenticated("the shared token is missing or wrong")),
            }
        };
        let routes = RoutesServer::new(RoutesDoor {
            routes,
            through: ledger.through().clone(),
            post: post.clone(),
            stop: stop.clone(),
        });
        let budgets = budgets::door::service(budgets, stop.clone());
        let fires = fires::door::service(post.clone(), stop.clone());
        let demand = DemandServer::new(DemandDoor { post, streams: AtomicU64::new(0), stop });
        Server::builder()
            .http2_keepalive_interval(Some(PING))
            .http2_keepalive_timeout(Some(PING_ANSWER))
            .add_service(InterceptedService::new(routes, check.clone()))
            .add_service(InterceptedService::new(demand.max_decoding_message_size(MAX_REPORT), check.clone()))
            .add_service(InterceptedService::new(ledger::service(ledger), check.clone()))
            .add_service(InterceptedService::new(fires, check.clone()))
            .add_service(InterceptedService::new(budgets, check))
    }
}

pub(crate) fn named(name: &str) -> Result<&str, Status> {
    match name.len() {
        1..=MAX_NAME => Ok(name),
        _ => Err(Status::invalid_argument("an activator has a name of 1 to 253 bytes")),
    }
}

struct RoutesDoor {
    routes: Routes,
    through: Through,
    post: mpsc::Sender<Mail>,
    stop: CancellationToken,
}

#[tonic::async_trait]
impl RoutesService for RoutesDoor {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::RouteUpdate, Status>> + Send>>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let v1::WatchRequest { activator, name, epoch, peer_address } = request.into_inner();
        let process = Process { name: named(&name)?.into(), activator, epoch };
        let takes_over = !peer_address.is_empty();
        if takes_over && (peer_address.len() > MAX_ADDRESS || peer_address.parse::<SocketAddr>().is_err()) {
            return Err(Status::invalid_argument("a peer address is an IP address and a port"));
        }
        tracing::info!(activator = %process, "watches the routes");
        let mail = Mail::Watch { process: process.clone(), takes_over };
        self.post.send(mail).await.map_err(|_| shutting_down())?;
        self.through.expect(&process);
        let watcher = self.routes.watch(process, &peer_address);
        let leaving = Unwatching { post: self.post.clone(), activator: takes_over.then_some(activator) };
        let state = (watcher, self.stop.clone(), leaving);
        Ok(Response::new(Box::pin(futures::stream::unfold(state, next_update))))
    }
}

type Watching = (Watcher, CancellationToken, Unwatching);

async fn next_update((mut watcher, stop, leaving): Watching) -> Option<(Result<v1::RouteUpdate, Status>, Watching)> {
    let update = stop.run_until_cancelled(watcher.next()).await??;
    Some((Ok(update), (watcher, stop, leaving)))
}

/// Tells the office that an activator which takes calls over watches no longer, however its stream ended.
struct Unwatching {
    post: mpsc::Sender<Mail>,
    activator: Option<u64>,
}

impl Drop for Unwatching {
    fn drop(&mut self) {
        let Some(activator) = self.activator else { return };
        let post = self.post.clone();
        tokio::spawn(async move { post.send(Mail::Unwatch { activator }).await });
    }
}

pub(crate) fn shutting_down() -> Status {
    Status::unavailable("the controller is shutting down")
}

struct DemandDoor {
    post: mpsc::Sender<Mail>,
    /// Number of the newest stream.
    streams: AtomicU64,
    stop: CancellationToken,
}

#[tonic::async_trait]
impl Demand for DemandDoor {
    async fn report(
        &self,
        request: Request<Streaming<v1::DemandReport>>,
    ) -> Result<Response<v1::DemandClosed>, Status> {
        let mut reports = request.into_inner();
        let first = tokio::time::timeout(FIRST_WORD, reports.message())
            .await
            .map_err(|_| Status::deadline_exceeded("the first report did not come"))??
            .ok_or_else(|| Status::invalid_argument("the stream ended before its first report"))?;
        let process = Process { name: named(&first.name)?.into(), activator: first.activator, epoch: first.epoch };
        if !first.whole {
            return Err(Status::invalid_argument("the first report of a stream must be whole"));
        }
        let stream = self.streams.fetch_add(1, Ordering::Relaxed) + 1;
        tracing::info!(activator = %process, stream, "reports its demand");
        let number = first.stream;
        self.send(Mail::Join { process: process.clone(), stream, number }).await?;
        self.send(Mail::Report { process: process.clone(), stream, report: first }).await?;
        let mut leaving = Leaving { post: self.post.clone(), process: Some(process.clone()), stream, clean: false };
        loop {
            let report = match self.stop.run_until_cancelled(reports.message()).await {
                None => return Err(shutting_down()),
                Some(Ok(Some(report))) => report,
                // Also that of a stream which was cancelled: what it means is in the last report.
                Some(Ok(None)) => break,
                Some(Err(error)) => {
                    tracing::debug!(activator = %process, %error, "the demand stream broke");
                    break;
                }
            };
            let farewell = report.farewell;
            self.send(Mail::Report { process: process.clone(), stream, report }).await?;
            leaving.clean |= farewell;
        }
        Ok(Response::new(v1::DemandClosed {}))
    }
}

/// Tells the office that a stream is over, however it ended: the server drops the handler of a stream that is reset.
struct Leaving {
    post: mpsc::Sender<Mail>,
    process: Option<Process>,
    stream: u64,
    clean: bool,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let Some(process) = self.process.take() else { return };
        let mail = Mail::Leave { process, stream: self.stream, clean: self.clean };
        let post = self.post.clone();
        // The office may have closed: then nobody needs to know.
        tokio::spawn(async move { post.send(mail).await });
    }
}

impl DemandDoor {
    async fn send(&self, mail: Mail) -> Result<(), Status> {
        self.post.send(mail).await.map_err(|_| shutting_down())
    }
}
