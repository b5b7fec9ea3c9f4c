//! The viewer's end: which broadcasters the LAN has, as they come, move and go.
//!
//! A continuous query (RFC 6762 §5.2) for [`SERVICE`](super::SERVICE), as browsing wants it (RFC 6763 §4, §5). It tells what is
//! announced, and does not decide whether that is true: see the [module](super).

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::browse_task::{self, Shared, Subscription};
use super::event::Event;
use super::{BrowserOptions, Error, name, service_record};

/// A look around that goes on until this is dropped.
#[derive(Debug)]
pub struct Browser {
    events: mpsc::Receiver<Event>,
    shared: Arc<Shared>,
}

impl Browser {
    /// Starts to look, from within a Tokio runtime. Dropping the browser, or the runtime, ends it.
    ///
    /// # Errors
    /// [`Error::NoRuntime`] outside of a runtime; [`Error::Mdns`] if mdns-sd cannot start. Not if there is no network.
    pub fn start(options: BrowserOptions) -> Result<Self, Error> {
        let runtime = Handle::try_current().map_err(|_| Error::NoRuntime)?;
        let subscription = Subscription::start(&options)?;
        let shared = Arc::new(Shared::new(&subscription));
        let (out, events) = mpsc::channel(EVENTS);
        runtime.spawn(browse_task::run(Arc::clone(&shared), options, subscription, out));
        Ok(Self { events, shared })
    }

    /// The next event; `None` if mDNS ended and could not be started anew, after which another browser may. Cancel-safe.
    ///
    /// Whoever does not call it for a while is told the outcome of what happened meanwhile, not every step.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// Asks whether an instance that fell silent is still there (RFC 6762 §10.4). If it does not answer within two seconds, it is
    /// [`Lost`](Event::Lost); otherwise nothing happens.
    ///
    /// Somebody who was killed says no goodbye, and is believed to be there for up to two minutes unless asked.
    ///
    /// # Errors
    /// [`Error::NotAnInstance`] for any text that cannot be a name; [`Error::Mdns`] if mDNS ended. An instance that is unknown is
    /// none.
    pub fn verify(&self, instance: &str) -> Result<(), Error> {
        if !name::is_instance_name(instance) {
            return Err(Error::NotAnInstance(instance.to_owned()));
        }
        let fullname = service_record::fullname(instance);
        self.shared.daemon().tell("verifying", |inner| inner.verify(fullname.clone(), VERIFY))
    }

    /// Asks the LAN once more, now and after 1, 2, 4… seconds. Without it the questions become rare with time, down to one an
    /// hour, since broadcasters announce themselves (RFC 6762 §5.2); where multicast gets lost that may not be enough for a viewer
    /// who waits.
    pub fn refresh(&self) {
        self.shared.requery.notify_one();
    }

    /// Whether any mDNS answer has been heard since the start, of a broadcaster or, with [`survey`](BrowserOptions::survey), of
    /// anybody. False after some seconds with `survey` means that nobody is there or that the network drops multicast.
    ///
    /// This machine's own announcements count too: they are heard by multicast as others' are. Queries are not counted.
    ///
    /// # Errors
    /// [`Error::Mdns`] or [`Error::Silent`] if mDNS ended.
    pub async fn has_heard(&self) -> Result<bool, Error> {
        self.shared.has_heard().await
    }
}

/// Events that wait for the viewer. More wait in the ledger, one for each instance.
const EVENTS: usize = 16;

/// How long an instance has to answer when asked. RFC 6762 §10.4 has ten seconds for caches in general; a viewer whose stream
/// stopped wants to know sooner, and both of mdns-sd's questions, a second apart, still fit.
const VERIFY: Duration = Duration::from_secs(2);
