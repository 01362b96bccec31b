//! Bodies: what a client sends on its way to an instance, and what a client gets.

use crate::{handover::HandedBody, metered::Metered, wire::InCall};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::{
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

    fn set(&self, progress: Progress) {
        self.progress.store(progress as u8, Relaxed);
    }
}

/// The client's body, counted on its way to the instance.
pub(crate) struct SentBody {
    inner: Incoming,
    upload: Arc<Upload>,
}

impl SentBody {
    pub(crate) fn new(inner: Incoming) -> (Self, Arc<Upload>) {
        let upload = Arc::new(Upload::default());
        if inner.is_end_stream() {
            upload.set(Progress::Whole);
        }
        (Self { inner, upload: upload.clone() }, upload)
    }
}

impl Body for SentBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        let progress = match &polled {
            Poll::Pending => Progress::Starved,
            Poll::Ready(None) => Progress::Whole,
            Poll::Ready(Some(Err(_))) => Progress::Broken,
            Poll::Ready(Some(Ok(frame))) => {
                let len = frame.data_ref().map_or(0, Bytes::len);
                self.upload.bytes.fetch_add(len as u64, Relaxed);
                // Nothing follows trailers, and nobody asks whether something does.
                let whole = frame.is_trailers() || self.inner.is_end_stream();
                if whole { Progress::Whole } else { Progress::Open }
            }
        };
        self.upload.set(progress);
        Poll::Ready(ready!(polled))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
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

/// What a client gets; while it lives, the client's connection serves a call.
pub(crate) struct OutBody {
    kind: Kind,
    _in_call: InCall,
}

enum Kind {
    Whole(Option<Bytes>),
    Metered(Box<Metered>),
    Handed(Box<HandedBody>),
}

impl OutBody {
    pub(crate) fn whole(bytes: Bytes, in_call: InCall) -> Self {
        Self { kind: Kind::Whole(Some(bytes).filter(|b| !b.is_empty())), _in_call: in_call }
    }

    pub(crate) fn handed(body: HandedBody, in_call: InCall) -> Self {
        Self { kind: Kind::Handed(Box::new(body)), _in_call: in_call }
    }

    pub(crate) fn metered(body: Metered, in_call: InCall) -> Self {
        Self { kind: Kind::Metered(Box::new(body)), _in_call: in_call }
    }
}

impl Body for OutBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match &mut self.kind {
            Kind::Whole(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Kind::Metered(body) => body.poll_frame(cx),
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
