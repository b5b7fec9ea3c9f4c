//! One write of a batch to one socket, before it is submitted and after.

use std::io;

use bytes::Bytes;
use mio::net::TcpStream;

/// One write: what is left of a batch, to one socket.
#[derive(Debug)]
pub(super) struct PendingWrite<'a> {
    pub(super) socket: &'a TcpStream,
    /// The whole batch, without empty slices.
    pub(super) parts: &'a [Bytes],
    /// Bytes of `parts` that earlier writes have sent; less than all.
    pub(super) skip: usize,
    /// Bytes sent by this write, or its error.
    pub(super) outcome: io::Result<usize>,
}

/// What is left of `parts` after the first `skip` bytes; no slice is empty.
pub(super) fn rest(parts: &[Bytes], skip: usize) -> impl Iterator<Item = &[u8]> {
    let mut skip = skip;
    parts.iter().filter_map(move |part| {
        let from = skip.min(part.len());
        skip -= from;
        Some(&part[from..]).filter(|slice| !slice.is_empty())
    })
}
