//! mdns-sd's thread with our settings, which ends with the handle that started it.
//!
//! It is the only place that knows how to choose interfaces and how to ask a busy thread again. The thread owns the sockets: one
//! for IPv4 and one for IPv6 on port 5353, shared with other responders of this machine (RFC 6762 §15.1).

use std::fmt;
use std::thread;
use std::time::Duration;

use mdns_sd::{IfKind, ServiceDaemon};
use tracing::debug;

use super::{Error, Interfaces};

/// A running thread. Dropping it ends the thread, which says goodbye for what is registered still.
pub(super) struct Daemon {
    inner: ServiceDaemon,
}

impl Daemon {
    /// Starts it on the chosen interfaces.
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
            // Last, because later choices win.
            let kinds = vec![IfKind::LoopbackV4, IfKind::LoopbackV6];
            daemon.tell("leaving loopback out", |inner| inner.disable_interface(kinds.clone()))?;
        }
        Ok(daemon)
    }

    /// Gives the thread a command, again for a few milliseconds if its queue is full.
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
        // Handles of mdns-sd's do not end the thread by going away: it keeps one itself.
        if let Err(error) = self.tell("ending", ServiceDaemon::shutdown) {
            debug!(%error, "mDNS's thread was not told to end");
        }
    }
}

/// Tries at a full queue. It holds a hundred commands, and the thread empties it in one go between two packets.
const TRIES: u32 = 5;

/// Between two tries: short, because it may hold up an asynchronous runtime.
const PAUSE: Duration = Duration::from_millis(2);
