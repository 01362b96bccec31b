//! A response body from an instance; what is handed on makes room for more.

use crate::body::Broke;
use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::{Method, Response, StatusCode, header};
use http_body::Frame;
use std::task::{Context, Poll, ready};

/// A response body.
pub(crate) struct Received {
    stream: RecvStream,
    /// Bytes still to come, when the head has said how many.
    remaining: Option<u64>,
    data_over: bool,
    /// The last bytes by that length, while the end of the stream has not come: whoever has them is done, and would reset
    /// a stream that is not over.
    last: Option<Bytes>,
}

impl Received {
    pub(super) fn new(stream: RecvStream, length: Option<u64>) -> Self {
        Self { stream, remaining: length, data_over: false, last: None }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.last.is_none() && self.stream.is_end_stream()
    }

    /// Bytes still to come, when that is known.
    pub(crate) fn exact(&self) -> Option<u64> {
        match &self.last {
            Some(last) => Some(last.len() as u64),
            None if self.stream.is_end_stream() => Some(0),
            None => self.remaining,
        }
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broke>>> {
        while !self.data_over {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => {
                    // What is handed on makes room for more. An error: the stream is over, and the next poll says so.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    self.remaining = self.remaining.map(|r| r.saturating_sub(data.len() as u64));
                    if self.remaining != Some(0) || self.stream.is_end_stream() {
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                    self.last = Some(data);
                }
                Some(Err(error)) => match broke(&error) {
                    None if self.last.is_some() => self.data_over = true,
                    ended => return Poll::Ready(ended),
                },
                None => self.data_over = true,
            }
        }
        if let Some(last) = self.last.take() {
            return Poll::Ready(Some(Ok(Frame::data(last))));
        }
        Poll::Ready(match ready!(self.stream.poll_trailers(cx)) {
            Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Err(error) => broke(&error),
        })
    }
}

/// A stream that its server resets without an error has ended: it did not want the rest of the upload (RFC 9113 8.1).
fn broke(error: &h2::Error) -> Option<Result<Frame<Bytes>, Broke>> {
    tracing::debug!("a response ended: {error}");
    let clean = error.is_reset() && error.reason() == Some(Reason::NO_ERROR);
    (!clean).then_some(Err(Broke))
}

/// The length that a response head tells of the body that follows it.
pub(super) fn length(method: &Method, response: &Response<RecvStream>) -> Option<u64> {
    if *method == Method::HEAD || response.status() == StatusCode::NOT_MODIFIED {
        return None;
    }
    response.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
