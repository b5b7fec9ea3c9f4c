//! A response body that shares a segment's bytes with all other responses, without a copy per viewer.

use std::convert::Infallible;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::hub::HubStream;

/// Shared pieces, and the number of bytes still to be sent.
#[derive(Debug)]
pub(super) struct Payload {
    pieces: std::vec::IntoIter<Bytes>,
    remaining: u64,
    stream: Arc<HubStream>,
}

impl Payload {
    /// The bytes in `range` of `pieces`, counted as sent for `stream` when they are polled.
    pub(super) fn new(pieces: Vec<Bytes>, range: Range<u64>, stream: Arc<HubStream>) -> Self {
        let mut at = 0u64;
        let mut wanted = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let (start, end) = (at, at + piece.len() as u64);
            at = end;
            let (from, to) = (range.start.max(start), range.end.min(end));
            if from < to {
                // Both offsets are within the piece, whose length is a usize.
                wanted.push(piece.slice((from - start) as usize..(to - start) as usize));
            }
        }
        let remaining = wanted.iter().map(|piece| piece.len() as u64).sum();
        Self { pieces: wanted.into_iter(), remaining, stream }
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(piece) = self.pieces.next() else { return Poll::Ready(None) };
        self.remaining -= piece.len() as u64;
        self.stream.count_sent(piece.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.remaining == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining)
    }
}
