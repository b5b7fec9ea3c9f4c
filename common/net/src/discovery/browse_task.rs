//! The task behind a browser: feeds the events of mdns-sd to the service cache, and reports the differences.
//!
//! mdns-sd's cache has no bound, and it closes a subscription with a thousand unread events. So the task counts the cached records, and
//! restarts mDNS when there are too many; present hosts are found again at once. It also sends queries again after a loss, which mdns-sd
//! does not do for an instance that it knows by name (RFC 6762 §5.2, §10).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mdns_sd::{Receiver, ServiceDaemon, ServiceEvent};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tracing::{debug, warn};

use super::daemon::Daemon;
use super::event::Event;
use super::service_cache::ServiceCache;
use super::service_record;
use super::{BrowserOptions, Error, SERVICE};

/// State that the browser and its task share.
#[derive(Debug)]
pub(super) struct Shared {
    daemon: Mutex<Arc<Daemon>>,
    heard: AtomicBool,
    /// Wakes the task to send queries again.
    pub(super) requery: Notify,
}

impl Shared {
    pub(super) fn new(subscription: &Subscription) -> Self {
        let daemon = Mutex::new(Arc::clone(&subscription.daemon));
        Self { daemon, heard: AtomicBool::new(false), requery: Notify::new() }
    }

    /// The current mDNS thread, which a restart replaces.
    pub(super) fn daemon(&self) -> Arc<Daemon> {
        Arc::clone(&self.daemon.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Implements [`Browser::has_heard`](super::Browser::has_heard).
    pub(super) async fn has_heard(&self) -> Result<bool, Error> {
        if !self.heard.load(Ordering::Relaxed) && cached_records(&self.daemon()).await? > 0 {
            self.heard.store(true, Ordering::Relaxed);
        }
        Ok(self.heard.load(Ordering::Relaxed))
    }

    fn listen(&self, event: &ServiceEvent) {
        if matches!(event, ServiceEvent::ServiceFound(..) | ServiceEvent::ServiceResolved(_)) {
            self.heard.store(true, Ordering::Relaxed);
        }
    }
}

/// The number of records that mdns-sd caches from other hosts. It has no counter of received packets.
async fn cached_records(daemon: &Daemon) -> Result<i64, Error> {
    let answer = daemon.tell("reading metrics", ServiceDaemon::get_metrics)?;
    let Ok(Ok(metrics)) = timeout(RESPONSE_TIMEOUT, answer.recv_async()).await else { return Err(Error::Silent) };
    Ok(CACHE_COUNTERS.iter().filter_map(|counter| metrics.get(*counter)).sum())
}

/// An mDNS thread with its active queries.
pub(super) struct Subscription {
    daemon: Arc<Daemon>,
    found: Receiver<ServiceEvent>,
    /// The receiver that replaces `found` once mdns-sd closes it.
    next: Option<Receiver<ServiceEvent>>,
    survey: Option<Receiver<ServiceEvent>>,
}

impl Subscription {
    pub(super) fn start(options: &BrowserOptions) -> Result<Self, Error> {
        let daemon = Arc::new(Daemon::start(&options.interfaces, options.loopback)?);
        let found = daemon.tell("browsing", |inner| inner.browse(SERVICE))?;
        let survey =
            if options.survey { Some(daemon.tell("surveying", |inner| inner.browse(ANY_SERVICE))?) } else { None };
        Ok(Self { daemon, found, next: None, survey })
    }

    /// Browses again while the current subscription continues. mdns-sd switches to the new one and closes the old one after its last event,
    /// queries for instances that its cache knows only by name, and restarts its series of queries.
    fn browse_again(&mut self) {
        if self.next.is_none() {
            let next = self.daemon.tell("browsing again", |inner| inner.browse(SERVICE));
            self.next = next.inspect_err(|error| debug!(%error, "cannot repeat the mDNS query")).ok();
        }
    }

    /// The next event, and whether it belongs to the survey. `None` if events were missed.
    async fn event(&mut self) -> Option<(ServiceEvent, bool)> {
        loop {
            let survey = async {
                match &self.survey {
                    Some(survey) => survey.recv_async().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = self.found.recv_async() => match (event, self.next.take()) {
                    (Ok(event), next) => {
                        self.next = next;
                        return Some((event, false));
                    }
                    (Err(_), Some(next)) => self.found = next,
                    (Err(_), None) => return None,
                },
                event = survey => match event {
                    Ok(event) => return Some((event, true)),
                    Err(_) => self.survey = None,
                },
            }
        }
    }
}

/// Runs until the receiver of `out` is dropped, or mDNS cannot be restarted.
pub(super) async fn run(
    shared: Arc<Shared>,
    options: BrowserOptions,
    mut subscription: Subscription,
    out: mpsc::Sender<Event>,
) {
    let mut cache = ServiceCache::default();
    // When to send queries again after a loss, and how long after the previous ones.
    let mut requery: Option<(Instant, Duration)> = None;
    let mut stale_until = None;
    let mut count = interval(COUNT_INTERVAL);
    count.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let restart = tokio::select! {
            () = out.closed() => return,
            permit = out.reserve(), if cache.has_changes() => {
                let Ok(permit) = permit else { return };
                if let Some(event) = cache.next() {
                    permit.send(event);
                }
                false
            }
            event = subscription.event() => match event {
                Some((event, survey)) => {
                    shared.listen(&event);
                    if !survey && take(&mut cache, &options, event) {
                        requery = Some((Instant::now() + FIRST_REQUERY, FIRST_REQUERY));
                    }
                    false
                }
                None => true,
            },
            _ = count.tick() => !matches!(cached_records(&subscription.daemon).await, Ok(records) if records <= MAX_RECORDS),
            () = until(stale_until) => {
                stale_until = None;
                cache.evict_stale();
                false
            }
            () = until(requery.map(|(at, _)| at)) => {
                requery = requery.and_then(|(at, after)| {
                    let after = after * REQUERY_FACTOR;
                    (after <= LAST_REQUERY).then_some((at + after, after))
                });
                subscription.browse_again();
                false
            }
            () = shared.requery.notified() => {
                subscription.browse_again();
                false
            }
        };
        if restart {
            warn!("restarting mDNS: its cache is too large, it does not answer, or events were missed");
            sleep(RESTART_DELAY).await;
            match Subscription::start(&options) {
                Ok(started) => subscription = started,
                Err(error) => {
                    warn!(%error, "cannot restart mDNS: LAN discovery stops");
                    return;
                }
            }
            *shared.daemon.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&subscription.daemon);
            cache.mark_stale();
            stale_until = Some(Instant::now() + STALE_TIMEOUT);
        }
    }
}

/// Applies an event to the cache. True if an instance was lost.
fn take(cache: &mut ServiceCache, options: &BrowserOptions, event: ServiceEvent) -> bool {
    match event {
        ServiceEvent::ServiceResolved(resolved) => match service_record::read(&resolved, options.loopback) {
            Ok(record) if !is_wanted(options, &record.instance) => {
                debug!(instance = record.instance, "ignored an mDNS instance of another broadcast");
            }
            Ok(record) => {
                let instance = record.instance.clone();
                if !cache.upsert(record) {
                    debug!(instance, "ignored an mDNS instance: the cache is full");
                }
            }
            Err(reason) => debug!(fullname = ?resolved.fullname, %reason, "ignored a malformed mDNS instance"),
        },
        ServiceEvent::ServiceRemoved(_, fullname) => {
            if let Some(instance) = service_record::instance_of(&fullname) {
                return cache.remove(instance);
            }
        }
        _ => {}
    }
    false
}

fn is_wanted(options: &BrowserOptions, instance: &str) -> bool {
    let now = options.clock.unix_seconds();
    options.matchers.is_empty() || options.matchers.iter().any(|matcher| matcher.matches(instance, now))
}

/// Waits until `time`; pends forever if it is `None`.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// The name that enumerates all service types (RFC 6763 §9).
const ANY_SERVICE: &str = "_services._dns-sd._udp.local.";

/// mdns-sd's counters of the records that it caches from other hosts.
const CACHE_COUNTERS: [&str; 6] = [
    "cached_records-ptr",
    "cached_records-srv",
    "cached_records-txt",
    "cached_records-addr",
    "cached_records-nsec",
    "cached_records-subtype",
];

/// Bounds the records in mdns-sd's cache, a few megabytes; more cause a restart. The largest LANs have a few hundred services of all kinds.
const MAX_RECORDS: i64 = 4096;

/// The interval between two counts of the records. A flood that fills the memory within it overloads the host in other ways first.
const COUNT_INTERVAL: Duration = Duration::from_secs(10);

/// Bounds the wait for the mDNS thread, which answers between two packets.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The pause before a restart, so that a flood of records does not cause a busy loop.
const RESTART_DELAY: Duration = Duration::from_secs(1);

/// How long a known instance may take to be found again after a restart: three of mdns-sd's queries.
const STALE_TIMEOUT: Duration = Duration::from_secs(5);

/// The delay from a loss to the first repeated query: longer than a laptop takes to change access points.
const FIRST_REQUERY: Duration = Duration::from_secs(5);

/// The factor from one delay to the next (RFC 6762 §5.2 requires at least two).
const REQUERY_FACTOR: u32 = 3;

/// The longest of these delays, so there are three. A host that returns later announces itself.
const LAST_REQUERY: Duration = Duration::from_secs(45);
