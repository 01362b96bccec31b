//! A request body on its way to an instance, at the pace that the instance's window allows.

use crate::body::SentBody;
use bytes::Bytes;
use h2::{Reason, SendStream};
use http::HeaderMap;
use http_body::{Body, Frame};
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

/// What was sent of a body is kept until the response comes, up to so much: a call that the instance refuses unseen goes
/// again with it.
const MAX_KEPT: usize = 64 * 1024;

/// A request body on its way.
pub(super) struct Upload {
    stream: SendStream<Bytes>,
    body: SentBody,
    chunk: Option<Bytes>,
    /// What was sent already; `None` once that is more than is kept.
    pub(super) kept: Option<Kept>,
    pub(super) over: bool,
}

#[derive(Default)]
pub(super) struct Kept {
    bytes: usize,
    frames: Vec<Frame<Bytes>>,
}

impl Upload {
    pub(super) fn new(stream: SendStream<Bytes>, body: SentBody, over: bool) -> Self {
        Self { stream, body, chunk: None, kept: Some(Kept::default()), over }
    }

    /// Sends as far as the instance takes it. Ready when there is nothing more to send.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.over {
            match ready!(self.step(cx)) {
                Ok(()) => {}
                Err(()) => self.over = true,
            }
        }
        Poll::Ready(())
    }

    /// One frame. An error: the stream is over.
    fn step(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ()>> {
        if self.stream.poll_reset(cx).is_ready() {
            return Poll::Ready(Err(()));
        }
        if let Some(mut chunk) = self.chunk.take() {
            return match self.capacity(cx) {
                Poll::Pending => {
                    self.chunk = Some(chunk);
                    Poll::Pending
                }
                Poll::Ready(Some(capacity)) => {
                    let now = chunk.split_to(capacity.min(chunk.len()));
                    self.chunk = Some(chunk).filter(|rest| !rest.is_empty());
                    let last = self.chunk.is_none() && self.body.is_end_stream();
                    self.over = last;
                    Poll::Ready(self.stream.send_data(now, last).map_err(drop))
                }
                Poll::Ready(None) => Poll::Ready(Err(())),
            };
        }
        match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Ok(frame)) => {
                self.keep(&frame);
                match frame.into_data() {
                    Ok(chunk) => {
                        // As much as there is; no more is read meanwhile.
                        self.stream.reserve_capacity(chunk.len());
                        self.chunk = Some(chunk).filter(|chunk| !chunk.is_empty());
                        let ended = self.chunk.is_none() && self.body.is_end_stream();
                        if ended { self.end(None) } else { Poll::Ready(Ok(())) }
                    }
                    Err(frame) => self.end(frame.into_trailers().ok()),
                }
            }
            Some(Err(_)) => {
                // Half a body must not look whole.
                self.stream.send_reset(Reason::CANCEL);
                Poll::Ready(Err(()))
            }
            None => self.end(None),
        }
    }

    /// How much the instance takes now; `None` when the stream is over.
    fn capacity(&mut self, cx: &mut Context<'_>) -> Poll<Option<usize>> {
        loop {
            match self.stream.capacity() {
                0 => {}
                some => return Poll::Ready(Some(some)),
            }
            match ready!(self.stream.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Ready(None),
            }
        }
    }

    fn end(&mut self, trailers: Option<HeaderMap>) -> Poll<Result<(), ()>> {
        self.over = true;
        let sent = match trailers.filter(|trailers| !trailers.is_empty()) {
            Some(trailers) => self.stream.send_trailers(trailers),
            None => self.stream.send_data(Bytes::new(), true),
        };
        Poll::Ready(sent.map_err(drop))
    }

    fn keep(&mut self, frame: &Frame<Bytes>) {
        let Some(kept) = &mut self.kept else { return };
        kept.bytes += frame.data_ref().map_or(0, Bytes::len);
        if kept.bytes > MAX_KEPT {
            self.kept = None;
            return;
        }
        // The bytes themselves are shared.
        kept.frames.extend(frame.data_ref().cloned().map(Frame::data));
        kept.frames.extend(frame.trailers_ref().cloned().map(Frame::trailers));
    }

    /// The body as it was before anything was sent of it.
    pub(super) fn again(self) -> Option<SentBody> {
        let Self { mut body, kept, .. } = self;
        body.rewind(kept?.frames);
        Some(body)
    }
}
