//! Cross traffic: one TCP connection that sends as much as it can, as an upload beside the stream does.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread::JoinHandle;

use anyhow::{Context, Result};

use crate::host::Host;

/// A running connection.
#[derive(Debug)]
pub(super) struct CrossTraffic {
    sending: TcpStream,
    sender: JoinHandle<()>,
    receiver: JoinHandle<u64>,
}

impl CrossTraffic {
    /// Starts sending from `from` to `to`.
    pub(super) fn start(from: &Host, to: &Host) -> Result<CrossTraffic> {
        let address = to.address().context("a host without an address")?;
        let listener = to.run(|| TcpListener::bind((address, 0)))??;
        let local = listener.local_addr()?;
        let sending = from.run(|| TcpStream::connect(local))??;
        let (mut received, _) = listener.accept()?;
        let receiver = std::thread::spawn(move || {
            let (mut buffer, mut all) = (vec![0; 1 << 16], 0);
            while let Ok(length @ 1..) = received.read(&mut buffer) {
                all += length as u64;
            }
            all
        });
        let mut stream = sending.try_clone()?;
        let sender = std::thread::spawn(move || {
            let buffer = vec![0; 1 << 14];
            while stream.write_all(&buffer).is_ok() {}
        });
        Ok(CrossTraffic { sending, sender, receiver })
    }

    /// Ends the connection, and returns how many bytes have arrived.
    pub(super) fn finish(self) -> Result<u64> {
        // The peer may have closed it already.
        let _ = self.sending.shutdown(Shutdown::Both);
        let ended = self.sender.join().is_ok();
        let received = self.receiver.join().ok().filter(|_| ended);
        received.context("a thread of the cross traffic panicked")
    }
}
