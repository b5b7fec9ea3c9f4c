//! RTMP fan-out: the hot path.
//!
//! A few threads, the shards, own the sockets of all players. New units of a stream are serialised once per shard and written to all
//! its players with as few system calls as the kernel allows. A player is a cursor on its stream's window with at most one batch in
//! flight. A slow player does not delay others; it is moved to the newest IDR when it lags too far.

mod batch;
mod pending_write;
mod resume;
mod shard;
mod stream_batcher;
mod submit;
mod subscriber;
mod uring;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use media::live_window::Cursor;
use net::connection_slots::ConnectionSlot;
use net::rtmp::server::PlayState;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::hub::HubStream;
pub(crate) use resume::ResumePoint;
use shard::{Mailbox, Shard, ShardSettings};
use submit::Submitter;
use subscriber::NewSubscriber;

/// The shards and their mailboxes.
#[derive(Debug)]
pub struct Fanout {
    mailboxes: Vec<Arc<Mailbox>>,
    threads: Mutex<Vec<JoinHandle<io::Result<()>>>>,
    engine: &'static str,
    failed: CancellationToken,
}

/// Why the fan-out cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel does not offer the engine that was configured.
    #[error("the kernel does not let this process use io_uring: {0}; set fanout.engine to auto or epoll")]
    Engine(io::Error),
    /// A poll or a thread could not be created.
    #[error("cannot start a fan-out thread: {0}")]
    Thread(#[from] io::Error),
}

/// A player whose request was accepted.
pub struct AcceptedPlayer {
    /// Its socket, with nothing left unsent.
    pub socket: std::net::TcpStream,
    /// The state of its RTMP session.
    pub play: PlayState,
    /// The stream that it plays.
    pub stream: Arc<HubStream>,
    /// Its first position in the stream's window.
    pub start: Cursor,
    /// Whether it resumes an interrupted play and must receive every unit from there on.
    pub is_resuming: bool,
    /// Its slot among the connections of its listener; dropped when it leaves.
    pub slot: ConnectionSlot,
}

impl Fanout {
    /// Starts the shards. A player whose socket accepts no bytes for `write_timeout` is disconnected.
    ///
    /// # Errors
    /// [`Error::Engine`] if io_uring is required and not available, [`Error::Thread`] if a poll or a thread cannot be created.
    pub fn start(config: &config::FanoutConfig, write_timeout: Duration) -> Result<Self, Error> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let count = if config.shards == 0 { cores } else { config.shards };
        let settings = ShardSettings {
            audio_batch_delay: config.audio_batch_delay,
            max_lag: config.max_lag,
            idle_player_timeout: config.idle_player_timeout,
            write_timeout,
        };
        let failed = CancellationToken::new();
        let mut fanout = Self { mailboxes: Vec::new(), threads: Mutex::default(), engine: "", failed };
        for index in 0..count {
            let submitter = Submitter::new(config.engine).map_err(Error::Engine)?;
            fanout.engine = submitter.name();
            let poll = mio::Poll::new()?;
            let mailbox = Mailbox::new(&poll)?;
            let shard = Shard::new(settings, poll, mailbox.clone(), submitter);
            let monitor = ShardMonitor { mailbox: mailbox.clone(), failed: fanout.failed.clone() };
            fanout.mailboxes.push(mailbox);
            let thread = std::thread::Builder::new().name(format!("fanout-{index}"));
            fanout.threads.get_mut().push(thread.spawn(move || monitor.run(|| shard.run()))?);
        }
        Ok(fanout)
    }

    /// The write engine in use: `uring` or `epoll`.
    pub fn engine(&self) -> &'static str {
        self.engine
    }

    /// Number of shards (writer threads).
    pub fn shards(&self) -> usize {
        self.mailboxes.len()
    }

    /// Players connected, over all shards.
    pub fn players(&self) -> u64 {
        self.mailboxes.iter().map(|mailbox| mailbox.players.load(Ordering::Relaxed)).sum()
    }

    /// Number of players disconnected because their socket accepted no bytes for the write timeout.
    pub fn write_timeouts(&self) -> u64 {
        self.mailboxes.iter().map(|mailbox| mailbox.write_timeouts.load(Ordering::Relaxed)).sum()
    }

    /// Cancelled when a shard ends without [`stop`](Self::stop): its players are disconnected, and the server should be restarted.
    pub fn failed(&self) -> CancellationToken {
        self.failed.clone()
    }

    /// Hands a player to the shard with the fewest players.
    ///
    /// # Errors
    /// If the socket cannot be made non-blocking, or if all shards have ended.
    pub fn add(&self, player: AcceptedPlayer) -> io::Result<()> {
        player.socket.set_nonblocking(true)?;
        let socket = mio::net::TcpStream::from_std(player.socket);
        let AcceptedPlayer { play, stream, start, is_resuming, slot, .. } = player;
        let mut subscriber = Box::new(NewSubscriber { socket, play, stream, start, is_resuming, slot });
        let mut mailboxes: Vec<&Arc<Mailbox>> = self.mailboxes.iter().collect();
        mailboxes.sort_by_key(|mailbox| mailbox.players.load(Ordering::Relaxed));
        for mailbox in mailboxes {
            match mailbox.add(subscriber) {
                Ok(()) => return Ok(()),
                Err(back) => subscriber = back,
            }
        }
        Err(io::Error::other("no fan-out thread is left"))
    }

    /// Sends all players a status message that the server shuts down, and closes their connections. Blocks until that is done, at most until
    /// `deadline`.
    pub fn stop(&self, deadline: Instant) {
        for mailbox in &self.mailboxes {
            mailbox.stop(deadline);
        }
        for thread in std::mem::take(&mut *self.threads.lock()) {
            match thread.join() {
                // The shard has logged its error itself.
                Ok(_) => {}
                Err(_) => tracing::error!("a fan-out thread panicked"),
            }
        }
    }
}

/// Without [`Fanout::stop`], the threads end at once, and players get no status message.
impl Drop for Fanout {
    fn drop(&mut self) {
        for mailbox in &self.mailboxes {
            mailbox.stop(Instant::now());
        }
    }
}

/// Reports the end of a shard's thread, including by error or panic.
struct ShardMonitor {
    mailbox: Arc<Mailbox>,
    failed: CancellationToken,
}

impl ShardMonitor {
    fn run(self, shard: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let result = shard();
        // Logged here, because the thread may never be joined.
        if let Err(error) = &result {
            tracing::error!(%error, "a fan-out thread failed");
        }
        result
    }
}

impl Drop for ShardMonitor {
    fn drop(&mut self) {
        if !self.mailbox.close() {
            self.failed.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panicked_shard_is_reported() {
        let watched = |stop: bool, shard: fn() -> io::Result<()>| {
            let mailbox = Mailbox::new(&mio::Poll::new().unwrap()).unwrap();
            let failed = CancellationToken::new();
            let monitor = ShardMonitor { mailbox: mailbox.clone(), failed: failed.clone() };
            if stop {
                mailbox.stop(Instant::now());
            }
            let _ = std::thread::spawn(move || monitor.run(shard)).join();
            assert!(mailbox.is_closed(), "it gets no more players");
            failed.is_cancelled()
        };
        assert!(watched(false, || panic!("of the test")));
        assert!(watched(false, || Err(io::ErrorKind::Other.into())));
        assert!(watched(false, || Ok(())));
        assert!(!watched(true, || Ok(())));
    }
}
