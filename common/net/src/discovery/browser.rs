//! Finds the broadcasters on the LAN and reports changes.
//!
//! A continuous query (RFC 6762 §5.2) for [`SERVICE`](super::SERVICE), for browsing as in RFC 6763 §4 and §5. It reports announcements,
//! which are not authenticated: see the [module](super).

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::browse_task::{self, Shared, Subscription};
use super::event::Event;
use super::{BrowserOptions, Error, name, service_record};

/// Browses for broadcasters until it is dropped.
#[derive(Debug)]
pub struct Browser {
    events: mpsc::Receiver<Event>,
    shared: Arc<Shared>,
}

impl Browser {
    /// Starts to browse; requires a Tokio runtime. Dropping the browser, or the runtime, ends it.
    ///
    /// # Errors
    /// [`Error::NoRuntime`] outside of a runtime; [`Error::Mdns`] if mdns-sd cannot start. A missing network is no error.
    pub fn start(options: BrowserOptions) -> Result<Self, Error> {
        let runtime = Handle::try_current().map_err(|_| Error::NoRuntime)?;
        let subscription = Subscription::start(&options)?;
        let shared = Arc::new(Shared::new(&subscription));
        let (out, events) = mpsc::channel(EVENTS);
        runtime.spawn(browse_task::run(Arc::clone(&shared), options, subscription, out));
        Ok(Self { events, shared })
    }

    /// The next event; `None` if mDNS ended and could not be restarted; a new browser may succeed. Cancel safe.
    ///
    /// After a pause of the caller, only the resulting state is reported, not every intermediate change.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// Queries whether an instance is still there (RFC 6762 §10.4). If it does not answer within two seconds, [`Lost`](Event::Lost) follows;
    /// otherwise nothing happens.
    ///
    /// A broadcaster that was killed sends no goodbye, and stays in the cache for up to two minutes otherwise.
    ///
    /// # Errors
    /// [`Error::NotAnInstance`] for any text that cannot be a name; [`Error::Mdns`] if mDNS ended. An unknown instance is no
    /// error.
    pub fn verify(&self, instance: &str) -> Result<(), Error> {
        if !name::is_instance_name(instance) {
            return Err(Error::NotAnInstance(instance.to_owned()));
        }
        let fullname = service_record::fullname(instance);
        self.shared.daemon().tell("verifying", |inner| inner.verify(fullname.clone(), VERIFY))
    }

    /// Sends queries again, now and after 1, 2, 4… seconds. Otherwise the interval grows to an hour, because broadcasters announce themselves
    /// (RFC 6762 §5.2); where multicast is lossy that may be too rare.
    pub fn refresh(&self) {
        self.shared.requery.notify_one();
    }

    /// Whether any mDNS answer was received since the start, from a broadcaster or, with [`survey`](BrowserOptions::survey), from any host.
    /// False after some seconds with `survey` means that no host answers or that the network drops multicast.
    ///
    /// This host's own announcements count too; queries do not.
    ///
    /// # Errors
    /// [`Error::Mdns`] or [`Error::Silent`] if mDNS ended.
    pub async fn has_heard(&self) -> Result<bool, Error> {
        self.shared.has_heard().await
    }
}

/// Bounds the events that wait for the caller. Further changes wait in the service cache, one for each instance.
const EVENTS: usize = 16;

/// How long an instance may take to answer. RFC 6762 §10.4 says ten seconds; a viewer whose stream stopped needs to know sooner, and both of
/// mdns-sd's queries, a second apart, still fit.
const VERIFY: Duration = Duration::from_secs(2);
