//! Bodies: what a client sends on its way to an instance, and what a client gets.

use crate::{grpc, handover::HandedBody, headers, metered::Metered, pool::Received, wire::InCall};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

/// How far the client's body has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Progress {
    /// More is to come, and nobody waits for it now.
    Open = 0,
    /// The instance would take more, the client has sent none.
    Starved = 1,
    /// It came whole.
    Whole = 2,
    /// The client broke it off.
    Broken = 3,
}

/// What is known about a request body while the connection to the instance has it.
#[derive(Debug, Default)]
pub(crate) struct Upload {
    bytes: AtomicU64,
    progress: AtomicU8,
}

impl Upload {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    pub(crate) fn progress(&self) -> Progress {
        match self.progress.load(Relaxed) {
            0 => Progress::Open,
            1 => Progress::Starved,
            2 => Progress::Whole,
            _ => Progress::Broken,
        }
    }

    /// More went to the instance, as part of no body.
    pub(crate) fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Relaxed);
    }

    fn set(&self, progress: Progress) {
        self.progress.store(progress as u8, Relaxed);
    }
}

/// The client's body, counted on its way to the instance.
pub(crate) struct SentBody {
    inner: Incoming,
    /// Was read, and comes again: see [`SentBody::rewind`].
    again: VecDeque<Frame<Bytes>>,
    upload: Arc<Upload>,
}

impl SentBody {
    pub(crate) fn new(inner: Incoming) -> (Self, Arc<Upload>) {
        let upload = Arc::new(Upload::default());
        if inner.is_end_stream() {
            upload.set(Progress::Whole);
        }
        (Self { inner, again: VecDeque::new(), upload: upload.clone() }, upload)
    }

    /// Puts back what was read: it was not taken after all.
    pub(crate) fn rewind(&mut self, frames: Vec<Frame<Bytes>>) {
        let bytes: usize = frames.iter().filter_map(Frame::data_ref).map(Bytes::len).sum();
        self.upload.bytes.fetch_sub(bytes as u64, Relaxed);
        self.again.extend(frames);
        if !self.is_end_stream() {
            self.upload.set(Progress::Open);
        }
    }

    fn next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(frame) = self.again.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        Pin::new(&mut self.inner).poll_frame(cx)
    }
}

impl Body for SentBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut polled = self.next(cx);
        let progress = match &mut polled {
            Poll::Pending => Progress::Starved,
            Poll::Ready(None) => Progress::Whole,
            Poll::Ready(Some(Err(_))) => Progress::Broken,
            Poll::Ready(Some(Ok(frame))) => {
                let len = frame.data_ref().map_or(0, Bytes::len);
                self.upload.bytes.fetch_add(len as u64, Relaxed);
                if let Some(trailers) = frame.trailers_mut() {
                    headers::trailers(trailers);
                }
                // Nothing follows trailers, and nobody asks whether something does.
                let whole = frame.is_trailers() || self.is_end_stream();
                if whole { Progress::Whole } else { Progress::Open }
            }
        };
        self.upload.set(progress);
        Poll::Ready(ready!(polled))
    }

    fn is_end_stream(&self) -> bool {
        self.again.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let Some(rest) = self.inner.size_hint().exact() else { return SizeHint::new() };
        let again = self.again.iter().filter_map(Frame::data_ref).map(|data| data.len() as u64);
        SizeHint::with_exact(again.sum::<u64>() + rest)
    }
}

/// An instance broke off within its response.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Broke;

/// What an instance sends.
pub(crate) enum InBody {
    Http1(Incoming),
    Http2(Received),
}

impl InBody {
    /// True when it is known that nothing more comes.
    pub(crate) fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    /// Bytes still to come, when that is known.
    pub(crate) fn exact(&self) -> Option<u64> {
        match self {
            Self::Http1(body) => body.size_hint().exact(),
            Self::Http2(body) => body.exact(),
        }
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broke>>> {
        match self {
            Self::Http1(body) => Pin::new(body).poll_frame(cx).map_err(|error| {
                tracing::debug!("a response broke off: {error}");
                Broke
            }),
            Self::Http2(body) => body.poll_frame(cx),
        }
    }
}

/// Why a response breaks off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Cut {
    #[error("the instance broke off within its response")]
    Died,
    #[error("the function's timeoutSeconds is over")]
    Timeout,
    #[error("the response was not read within the function's timeoutSeconds")]
    Unread,
    #[error("the call could not be recorded")]
    NotRecorded,
}

impl Cut {
    /// What a gRPC caller is told in trailers; `None` when nothing may be told.
    fn trailers(self) -> Option<HeaderMap> {
        let (status, reason) = match self {
            Self::Died => (StatusCode::BAD_GATEWAY, "InstanceDied"),
            Self::Timeout | Self::Unread => (StatusCode::GATEWAY_TIMEOUT, "Timeout"),
            // Whatever is answered is recorded.
            Self::NotRecorded => return None,
        };
        Some(grpc::trailers(status, reason, &self.to_string()))
    }
}

/// What a client gets; while it lives, the client's connection serves a call.
pub(crate) struct OutBody {
    kind: Kind,
    /// Its caller reads in trailers how a call ended.
    grpc: bool,
    _in_call: InCall,
}

enum Kind {
    Whole(Option<Bytes>),
    Metered(Box<Metered>),
    Handed(Box<HandedBody>),
}

impl OutBody {
    pub(crate) fn whole(bytes: Bytes, in_call: InCall) -> Self {
        Self { kind: Kind::Whole(Some(bytes).filter(|b| !b.is_empty())), grpc: false, _in_call: in_call }
    }

    pub(crate) fn handed(body: HandedBody, in_call: InCall) -> Self {
        Self { kind: Kind::Handed(Box::new(body)), grpc: false, _in_call: in_call }
    }

    pub(crate) fn metered(body: Metered, in_call: InCall, grpc: bool) -> Self {
        Self { kind: Kind::Metered(Box::new(body)), grpc, _in_call: in_call }
    }
}

impl Body for OutBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let Self { kind, grpc, .. } = &mut *self;
        match kind {
            Kind::Whole(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Kind::Metered(body) => match ready!(body.poll_frame(cx)) {
                Some(Err(cut)) if *grpc => {
                    Poll::Ready(Some(cut.trailers().map_or(Err(cut), |trailers| Ok(Frame::trailers(trailers)))))
                }
                polled => Poll::Ready(polled),
            },
            Kind::Handed(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Whole(bytes) => bytes.is_none(),
            Kind::Metered(body) => body.is_over(),
            Kind::Handed(body) => body.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Kind::Metered(body) => body.size_hint(),
            Kind::Handed(body) => body.size_hint(),
        }
    }
}
