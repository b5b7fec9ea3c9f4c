//! Announces a broadcast on the LAN, under a new name every ten minutes, and withdraws it at the end.
//!
//! Announcements and goodbyes follow RFC 6762 §8.3 and §10.1, without the probing of §8.1: an 80-bit name that no other host can compute and
//! a random host name do not conflict.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use mdns_sd::{DaemonEvent, Receiver, ServiceDaemon, ServiceInfo};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::oneshot;
use tracing::{debug, warn};

use super::daemon::Daemon;
use super::name::{self, NameMatcher, SECRET_LEN, slot_at};
use super::{AnnouncerOptions, Clock, Error, SERVICE, VERSION, service_record};

/// Announces a broadcast until it is dropped or [stopped](Self::stop).
#[derive(Debug)]
pub struct Announcer {
    /// Dropping the sender ends the thread.
    on: Option<mpsc::Sender<()>>,
    /// Disconnects when the first goodbye packet is sent.
    goodbye: mpsc::Receiver<()>,
    /// Resolves when the thread has ended.
    done: Option<oneshot::Receiver<()>>,
    announced: Arc<AtomicBool>,
}

impl Announcer {
    /// Announces the broadcast of `secret`, whose relay listens for QUIC on UDP `port`, on every address of the chosen interfaces.
    ///
    /// # Errors
    /// [`Error::Port`] for port 0; [`Error::Mdns`], [`Error::Thread`] or [`Error::Random`] if the system lacks the resources. A
    /// missing network is no error: the announcement is sent as soon as there is one.
    pub fn start(secret: &[u8; SECRET_LEN], port: u16, options: AnnouncerOptions) -> Result<Self, Error> {
        if port == 0 {
            return Err(Error::Port);
        }
        let daemon = Daemon::start(&options.interfaces, options.loopback)?;
        let events = daemon.tell("subscribing to events", ServiceDaemon::monitor)?;
        let broadcast = NameMatcher::new(secret);
        let slot = slot_at(options.clock.unix_seconds());
        let fullname = register(&daemon, &broadcast, slot, port)?;

        let (on, off) = mpsc::channel();
        let (said, goodbye) = mpsc::channel();
        let (finished, done) = oneshot::channel();
        let announced = Arc::new(AtomicBool::new(false));
        let keeper = AnnounceTask {
            daemon,
            events,
            broadcast,
            port,
            clock: options.clock,
            slot,
            fullname,
            announced: Arc::clone(&announced),
        };
        thread::Builder::new()
            .name("lan-announcer".to_owned())
            .spawn(move || keeper.run(&off, said, finished))
            .map_err(Error::Thread)?;
        Ok(Self { on: Some(on), goodbye, done: Some(done), announced })
    }

    /// Whether an announcement was sent on at least one interface: within about a second if there is a network. For diagnosis only: it does not
    /// show whether any host receives it.
    #[must_use]
    pub fn announced(&self) -> bool {
        self.announced.load(Ordering::Relaxed)
    }

    /// Sends a goodbye packet twice, in case one is lost, and waits until both are sent: about 150 ms, one second at most.
    pub async fn stop(mut self) {
        self.on = None;
        if let Some(done) = self.done.take()
            && tokio::time::timeout(STOP_TIMEOUT, done).await.is_err()
        {
            debug!("the mDNS announcer did not stop in time");
        }
    }
}

impl Drop for Announcer {
    /// Sends a goodbye packet and waits until it is sent: a few milliseconds, 250 ms at most. The second one follows if the process still runs.
    fn drop(&mut self) {
        self.on = None;
        if self.goodbye.recv_timeout(GOODBYE_TIMEOUT) == Err(RecvTimeoutError::Timeout) {
            debug!("the mDNS goodbye packet was not sent in time");
        }
    }
}

/// The thread that renames the announcement with each slot.
struct AnnounceTask {
    daemon: Daemon,
    events: Receiver<DaemonEvent>,
    broadcast: NameMatcher,
    port: u16,
    clock: Clock,
    slot: u64,
    fullname: String,
    announced: Arc<AtomicBool>,
}

impl AnnounceTask {
    fn run(mut self, off: &mpsc::Receiver<()>, said: mpsc::Sender<()>, finished: oneshot::Sender<()>) {
        // Nothing is ever sent on `off`: the wait ends early only when the announcer is dropped.
        while off.recv_timeout(CLOCK_POLL) == Err(RecvTimeoutError::Timeout) {
            self.drain_events();
            self.rotate_name();
        }
        self.unregister(&self.fullname);
        drop(said);
        thread::sleep(SECOND_GOODBYE);
        drop(self);
        drop(finished);
    }

    /// Registers the next name before it withdraws the old one, so that one is always announced.
    fn rotate_name(&mut self) {
        let slot = slot_at(self.clock.unix_seconds());
        if slot == self.slot {
            return;
        }
        match register(&self.daemon, &self.broadcast, slot, self.port) {
            Ok(fullname) => {
                self.slot = slot;
                let old = std::mem::replace(&mut self.fullname, fullname);
                self.unregister(&old);
            }
            // The old name matches for another slot, so there is time to try again.
            Err(error) => warn!(%error, "cannot rotate the announced mDNS name; retrying"),
        }
    }

    fn unregister(&self, fullname: &str) {
        match self.daemon.tell("unregistering", |inner| inner.unregister(fullname)) {
            // mdns-sd answers after it has sent the packets.
            Ok(answer) => {
                if answer.recv_timeout(GOODBYE_TIMEOUT).is_err() {
                    debug!(fullname, "the mDNS goodbye packet was not confirmed");
                }
            }
            Err(error) => debug!(%error, fullname, "cannot send the mDNS goodbye packet"),
        }
    }

    fn drain_events(&self) {
        for event in self.events.try_iter() {
            match event {
                // mdns-sd announces a new address without an event for the announcement.
                DaemonEvent::Announce(..) | DaemonEvent::IpAdd(_) => self.announced.store(true, Ordering::Relaxed),
                DaemonEvent::Error(error) => warn!(%error, "mDNS error"),
                other => debug!(event = ?other, "mDNS event"),
            }
        }
    }
}

/// Registers the name of a slot and returns its full name. Each name gets its own host name: mdns-sd's goodbye includes the host's address
/// records, which would remove those of the next name from viewers' caches, and a constant host name would link the names.
fn register(daemon: &Daemon, broadcast: &NameMatcher, slot: u64, port: u16) -> Result<String, Error> {
    let instance = broadcast.name(slot);
    let mut random = [0; name::NAME_BYTES];
    SystemRandom::new().fill(&mut random).map_err(|_| Error::Random)?;
    let host = format!("{}.local.", name::base32(random));
    let version = VERSION.to_string();
    let mut info = ServiceInfo::new(SERVICE, &instance, &host, (), port, &[("v", version.as_str())][..])
        .map_err(|source| Error::Mdns { during: "describing the broadcast", source })?
        .enable_addr_auto();
    info.set_requires_probe(false);
    daemon.tell("announcing", |inner| inner.register(info.clone()))?;
    Ok(service_record::fullname(&instance))
}

/// How often the clock is read. A timer until the next slot would be wrong after a suspend or a clock correction.
const CLOCK_POLL: Duration = Duration::from_secs(1);

/// Bounds the wait for a goodbye: the mDNS thread sends it between two packets.
const GOODBYE_TIMEOUT: Duration = Duration::from_millis(250);

/// mdns-sd repeats a goodbye 120 ms after the first; its thread must not end before.
const SECOND_GOODBYE: Duration = Duration::from_millis(150);

/// Bounds the whole shutdown.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);
