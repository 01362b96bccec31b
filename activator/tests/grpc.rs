//! gRPC through a function: its library on both ends, a cold start between them, and outcomes that it understands.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod common;

use bytes::Bytes;
use common::{
    House, Origin, function,
    h2c::{self, H2Client, H2Origin},
    instance, ready, ready_h2c, until, within,
};
use dormouse_core::record::Outcome;
use dormouse_proto::v1::{
    self, Failure, Function,
    InstanceState::Starting,
    demand_client::DemandClient,
    demand_server::{Demand, DemandServer},
    ledger_client::LedgerClient,
    ledger_server::{Ledger, LedgerServer},
    routes_client::RoutesClient,
    routes_server::{Routes, RoutesServer},
};
use http::{HeaderMap, HeaderName};
use std::{net::SocketAddr, pin::Pin, time::Duration};
use tokio_stream::{Stream, StreamExt};
use tonic::{
    Code, Request, Response, Status, Streaming,
    transport::{Channel, Endpoint, server::TcpIncoming},
};

/// A function of gRPC: the services of this project's own wire, with answers that a test can tell apart.
struct Service;

#[tonic::async_trait]
impl Ledger for Service {
    async fn tell(&self, _: Request<v1::Progress>) -> Result<Response<v1::ProgressNoted>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn append(&self, request: Request<v1::Frame>) -> Result<Response<v1::Appended>, Status> {
        let frame = request.into_inner();
        match frame.count {
            0 => Err(Status::invalid_argument("nothing in it")),
            1 => Err(Status::internal("broken")),
            count => Ok(Response::new(v1::Appended { watermark: count.into(), outcome: 1 })),
        }
    }
}

#[tonic::async_trait]
impl Routes for Service {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::RouteUpdate, Status>> + Send>>;

    async fn watch(&self, _: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let updates = (1..=3).map(|version| Ok(v1::RouteUpdate { version, ..Default::default() }));
        let end = std::iter::once(Err(Status::data_loss("no more")));
        Ok(Response::new(Box::pin(tokio_stream::iter(updates.chain(end)))))
    }
}

#[tonic::async_trait]
impl Demand for Service {
    async fn report(
        &self,
        request: Request<Streaming<v1::DemandReport>>,
    ) -> Result<Response<v1::DemandClosed>, Status> {
        let mut reports = request.into_inner();
        let mut count = 0;
        while reports.message().await?.is_some() {
            count += 1;
        }
        let mut response = Response::new(v1::DemandClosed {});
        response.metadata_mut().insert("x-count", count.to_string().parse().unwrap());
        Ok(response)
    }
}

fn serve() -> SocketAddr {
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = incoming.local_addr().unwrap();
    let server = tonic::transport::Server::builder()
        .add_service(LedgerServer::new(Service))
        .add_service(RoutesServer::new(Service))
        .add_service(DemandServer::new(Service));
    tokio::spawn(server.serve_with_incoming(incoming));
    addr
}

/// A channel of gRPC to the function "hello".
async fn channel(house: &House) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", house.activator.addr)).unwrap();
    endpoint.origin("http://hello.ns.example.com".parse().unwrap()).connect().await.unwrap()
}

fn frame(count: u32) -> v1::Frame {
    v1::Frame { count, ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn unary_calls_wait_for_a_cold_start_and_keep_their_outcome() {
    let house = House::new().await;
    house.publish(function("hello")).await;
    let mut client = LedgerClient::new(channel(&house).await);
    let mut second = client.clone();
    let cold = tokio::spawn(async move { second.append(frame(7)).await });
    until("it waits", || (house.controller.demand("uid-hello") == Some((1, 0))).then_some(())).await;
    let starting = v1::Instance { h2c: true, ..instance("i1", serve(), Starting, 10) };
    house.publish(Function { instances: vec![starting], ..function("hello") }).await;
    assert_eq!(within("an answer", cold).await.unwrap().unwrap().into_inner().watermark, 7);
    let status = client.append(frame(0)).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "nothing in it"));
    let status = client.append(frame(1)).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Internal, "broken"));
    let records = house.records(3).await;
    let outcomes: Vec<_> = records.iter().map(|(_, r)| (r.status, r.outcome, r.cold)).collect();
    let failed = (200, Outcome::FunctionError, false);
    assert_eq!(outcomes, [(200, Outcome::Ok, true), (200, Outcome::Ok, false), failed]);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_from_the_function_and_to_it_keep_their_trailers() {
    let house = House::new().await;
    house.publish(ready_h2c("hello", serve(), 10)).await;
    let channel = channel(&house).await;
    let mut updates = RoutesClient::new(channel.clone()).watch(v1::WatchRequest::default()).await.unwrap().into_inner();
    for version in 1..=3 {
        assert_eq!(updates.message().await.unwrap().unwrap().version, version);
    }
    let status = updates.message().await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::DataLoss, "no more"));
    let reports =
        tokio_stream::iter((0..500).map(|_| v1::DemandReport { name: "x".repeat(1000), ..Default::default() }));
    let closed = DemandClient::new(channel).report(reports).await.unwrap();
    assert_eq!(closed.metadata().get("x-count").unwrap(), "500");
    let records = house.records(2).await;
    assert_eq!(records[0].1.outcome, Outcome::FunctionError, "DATA_LOSS in its trailers");
    assert_eq!(records[1].1.outcome, Outcome::Ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_go_both_ways_at_once() {
    let house = House::new().await;
    let origin = H2Origin::start(|mut call| async move {
        assert_eq!(call.request.headers()["te"], "trailers");
        let head = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        let mut out = call.respond.send_response(head, false).unwrap();
        let body = call.request.body_mut();
        while let Some(Ok(data)) = body.data().await {
            let _ = body.flow_control().release_capacity(data.len());
            out.send_data(data, false).unwrap();
        }
        out.send_trailers(HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), "0".parse().unwrap())]))
            .unwrap();
    })
    .await;
    house.publish(ready_h2c("hello", origin.addr, 1)).await;
    let mut grpc = tonic::client::Grpc::new(channel(&house).await);
    grpc.ready().await.unwrap();
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let codec = tonic_prost::ProstCodec::<v1::WatchRequest, v1::WatchRequest>::default();
    let requests = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let path = http::uri::PathAndQuery::from_static("/x.Echo/Say");
    let answers = within("a head", grpc.streaming(Request::new(requests), path, codec)).await.unwrap();
    let mut answers = answers.into_inner();
    for activator in 1..=5 {
        sender.send(v1::WatchRequest { activator, ..Default::default() }).await.unwrap();
        assert_eq!(within("an echo", answers.next()).await.unwrap().unwrap().activator, activator);
    }
    drop(sender);
    assert!(within("the end", answers.next()).await.is_none());
    assert_eq!(house.records(1).await[0].1.outcome, Outcome::Ok);
}

/// A call of gRPC as its bytes.
async fn raw(house: &House, path: &str) -> h2c::H2Answer {
    let mut request = h2c::request("POST", path);
    request.headers_mut().insert("content-type", "application/grpc+proto".parse().unwrap());
    request.headers_mut().insert("te", "trailers".parse().unwrap());
    H2Client::connect(house.activator.addr).await.call(request, &[0; 5]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_told_as_a_status_of_grpc() {
    let house = House::new().await;
    let failure = Failure { code: "ImagePullFailed".into(), status: 502 };
    let silent = silent().await;
    let timeout = Function { timeout_ms: 100, ..ready_h2c("hello", silent.addr, 1) };
    let full = Function { queue_max_wait_ms: 50, ..function("hello") };
    for (change, code, reason) in [
        (Function { failure: Some(failure), ..function("hello") }, "14", "ImagePullFailed"),
        (timeout, "4", "Timeout"),
        (full, "14", "WaitTimeout"),
        (Function { hosts: vec!["other.example.com".into()], ..function("hello") }, "12", "UnknownFunction"),
    ] {
        house.publish(change).await;
        let answer = raw(&house, "/x.Y/Z").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!((answer.header("grpc-status"), answer.header("dormouse-reason")), (Some(code), Some(reason)));
        assert!(answer.header("grpc-message").is_some_and(|m| !m.is_empty()) && answer.body.is_empty());
        assert_eq!(answer.header("content-type"), Some("application/grpc"));
        assert!(answer.trailers.is_none(), "it ended with its head");
    }
    let record = house.records(1).await[0].1;
    assert_eq!((record.status, record.outcome), (504, Outcome::Timeout), "what it stands for is recorded");
}

/// Takes calls, and answers none.
async fn silent() -> H2Origin {
    H2Origin::start(|mut call| async move {
        let _ = std::future::poll_fn(|cx| call.respond.poll_reset(cx)).await;
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_room_is_an_exhausted_resource() {
    let house = House::new().await;
    house.publish(Function { queue_max_calls: 1, ..function("hello") }).await;
    let mut waits = house.activator.client().await;
    waits.send(common::client::get("/")).await;
    until("it waits", || (house.controller.demand("uid-hello") == Some((1, 0))).then_some(())).await;
    let mut client = LedgerClient::new(channel(&house).await);
    let status = client.append(frame(7)).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(status.metadata().get("dormouse-reason").unwrap(), "QueueFull");
    assert!(status.metadata().get("retry-after").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_within_a_response_ends_with_a_status() {
    let house = House::new().await;
    let origin = H2Origin::start(|mut call| async move {
        let dies = call.request.uri().path() == "/dies";
        let mut out = call.head(200);
        out.send_data(Bytes::from_static(b"half"), false).unwrap();
        if dies {
            tokio::time::sleep(Duration::from_millis(50)).await;
            out.send_reset(h2::Reason::INTERNAL_ERROR);
        } else {
            let _ = std::future::poll_fn(|cx| out.poll_reset(cx)).await;
        }
    })
    .await;
    house.publish(Function { timeout_ms: 300, ..ready_h2c("hello", origin.addr, 1) }).await;
    for (path, code, reason) in [("/dies", "14", "InstanceDied"), ("/hangs", "4", "Timeout")] {
        let answer = raw(&house, path).await;
        assert_eq!((answer.status, answer.text(), answer.broke.is_none()), (200, "half", true), "{path} {answer:?}");
        assert_eq!((answer.trailer("grpc-status"), answer.trailer("dormouse-reason")), (Some(code), Some(reason)));
    }
    let outcomes: Vec<_> = house.records(2).await.iter().map(|(_, r)| r.outcome).collect();
    assert_eq!(outcomes, [Outcome::FunctionError, Outcome::Timeout]);
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_pass_over_http_1_where_both_ends_announce_them() {
    let house = House::new().await;
    let origin = Origin::start(|mut line| async move {
        while line.request().await.is_some() {
            line.send(
                "HTTP/1.1 200 OK\r\nTrailer: X-Sum, Content-Length\r\nTransfer-Encoding: chunked\r\n\r\n\
                 2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n",
            )
            .await;
        }
    })
    .await;
    house.publish(ready("hello", origin.addr, 1)).await;
    let mut request = h2c::request("GET", "/");
    request.headers_mut().insert("te", "trailers".parse().unwrap());
    let answer = H2Client::connect(house.activator.addr).await.call(request, b"").await;
    assert_eq!((answer.text(), answer.trailer("x-sum")), ("ok", Some("7")));
    let head = origin.seen.requests.lock()[0].clone();
    assert!(head.contains("te: trailers\r\n") && head.contains("connection: te\r\n"), "{head}");
    // To a client of HTTP/1.1, and only when it reads them.
    let get = common::client::get("/");
    for (request, expected) in [(get.replace("\r\n\r\n", "\r\nTE: trailers\r\n\r\n"), true), (get, false)] {
        let mut client = house.activator.client().await;
        client.send(request.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")).await;
        let mut all = Vec::new();
        within("all", tokio::io::AsyncReadExt::read_to_end(&mut client.stream, &mut all)).await.unwrap();
        let text = String::from_utf8(all).unwrap().to_lowercase();
        assert_eq!(text.ends_with("0\r\nx-sum: 7\r\n\r\n"), expected, "{text}");
    }
}
