//! The thread of mdns-sd, with our settings. It ends when its handle is dropped.
//!
//! This is the only place that selects interfaces and retries commands to a busy thread. The thread owns the sockets: one
//! for IPv4 and one for IPv6 on port 5353, shared with other responders of this machine (RFC 6762 §15).

use std::fmt;
use std::thread;
use std::time::Duration;

use mdns_sd::{IfKind, ServiceDaemon};
use tracing::debug;

use super::{Error, Interfaces};

/// A running mDNS thread. Dropping it ends the thread, which sends goodbyes for what is still registered.
pub(super) struct Daemon {
    inner: ServiceDaemon,
}

impl Daemon {
    /// Starts the thread on the given interfaces.
    ///
    /// Sockets that cannot be opened are no error here: without them nothing is sent and nothing found.
    pub(super) fn start(interfaces: &Interfaces, loopback: bool) -> Result<Self, Error> {
        let inner = ServiceDaemon::new().map_err(|source| Error::Mdns { during: "starting", source })?;
        let daemon = Self { inner };
        if let Interfaces::Named(names) = interfaces {
            daemon.tell("choosing interfaces", |inner| inner.disable_interface(IfKind::All))?;
            let kinds: Vec<IfKind> = names.iter().map(|name| IfKind::Name(name.clone())).collect();
            daemon.tell("choosing interfaces", |inner| inner.enable_interface(kinds.clone()))?;
        }
        if !loopback {
            // Last, because later selections take precedence.
            let kinds = vec![IfKind::LoopbackV4, IfKind::LoopbackV6];
            daemon.tell("disabling loopback", |inner| inner.disable_interface(kinds.clone()))?;
        }
        Ok(daemon)
    }

    /// Sends the thread a command, and retries for a few milliseconds while its queue is full.
    pub(super) fn tell<T>(
        &self,
        during: &'static str,
        mut command: impl FnMut(&ServiceDaemon) -> mdns_sd::Result<T>,
    ) -> Result<T, Error> {
        let mut tries = 1;
        loop {
            match command(&self.inner) {
                Err(mdns_sd::Error::Again) if tries < TRIES => {
                    tries += 1;
                    thread::sleep(PAUSE);
                }
                result => return result.map_err(|source| Error::Mdns { during, source }),
            }
        }
    }
}

impl fmt::Debug for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Daemon").finish_non_exhaustive()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Dropping all handles does not end mdns-sd's thread: it holds one itself.
        if let Err(error) = self.tell("shutting down", ServiceDaemon::shutdown) {
            debug!(%error, "cannot stop the mDNS thread");
        }
    }
}

/// Bounds the attempts to send to a full queue, which holds a hundred commands and is drained between two packets.
const TRIES: u32 = 5;

/// The pause between two attempts: short, because it may block an asynchronous runtime.
const PAUSE: Duration = Duration::from_millis(2);
