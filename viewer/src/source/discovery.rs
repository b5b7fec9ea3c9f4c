//! Discovery of the broadcaster on this network: addresses that the server reports, and mDNS. Its mDNS names are derived from a secret that the
//! server gives to admitted viewers. Addresses are hints only: the broadcaster is authenticated by its certificate.

use std::net::SocketAddr;
use std::time::Duration;

use net::discovery::{Browser, BrowserOptions, Event, NameMatcher};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use tracing::{debug, info};

use super::api_client::ApiClient;

/// Addresses at which the broadcaster may be reached, the most likely first; empty while none is known.
pub(super) type CandidateAddresses = Vec<SocketAddr>;

/// Looks for the broadcaster of a stream until the receiver of `candidates` is dropped. A message in `requery` has the server asked again: another
/// broadcast is on air, or the broadcaster is not at its last address.
///
/// mDNS tells everyone on the network what is asked, so nothing is asked while addresses are known and work, and the browser ends once it has found the
/// broadcast: its later queries would name what it knows (RFC 6762 §7.1).
pub(super) async fn run(
    api: ApiClient,
    candidates: watch::Sender<CandidateAddresses>,
    mut requery: mpsc::Receiver<()>,
) {
    let mut secret = None;
    let mut browsing: Option<BrowseSession> = None;
    let mut found = CandidateAddresses::new();
    // Whether a path has failed at the addresses that are known.
    let mut has_failed = false;
    let mut backoff = RequeryBackoff::default();
    loop {
        match api.playback_info().await {
            Ok(info) => {
                let peer = info.and_then(|info| info.peer);
                let told = peer.as_ref().and_then(|peer| peer.secret());
                if told != secret {
                    secret = told;
                    browsing = None;
                    found.clear();
                }
                let hints = peer.map(|peer| peer.addresses).unwrap_or_default();
                let wants_addresses = has_failed || (hints.is_empty() && found.is_empty());
                match &browsing {
                    Some(browsing) if has_failed => browsing.browser.refresh(),
                    None if wants_addresses => browsing = secret.and_then(|secret| BrowseSession::start(&secret)),
                    _ => {}
                }
                has_failed = false;
                publish(&candidates, hints, &found);
            }
            Err(error) => debug!(%error, "cannot get the broadcaster's addresses from the server"),
        }
        // Until an address changes, or it is time to query the server again.
        let pause = sleep(QUERY_INTERVAL);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = candidates.closed() => return,
                () = &mut pause => break,
                asked = requery.recv() => {
                    if asked.is_none() {
                        return;
                    }
                    // Coalesce pending requests.
                    while requery.try_recv().is_ok() {}
                    has_failed = true;
                    sleep(backoff.wait(Instant::now())).await;
                    break;
                }
                addresses = next(&mut browsing) => {
                    browsing = None;
                    if let Some(addresses) = addresses {
                        found = addresses;
                        // The borrow must end before the write.
                        let known = candidates.borrow().clone();
                        publish(&candidates, known, &found);
                    }
                }
            }
        }
    }
}

/// Backoff of requests to query the server again. The first is served at once; repeated ones (two paths that alternate between broadcasts, a
/// broadcaster that rejects all viewers) wait twice as long each time.
#[derive(Debug, Default)]
struct RequeryBackoff {
    last: Option<(Instant, Duration)>,
}

impl RequeryBackoff {
    fn wait(&mut self, now: Instant) -> Duration {
        let wait = match self.last {
            Some((at, wait)) if now.saturating_duration_since(at) < BACKOFF_RESET => (wait * 2).min(QUERY_INTERVAL / 2),
            _ => MIN_REQUERY_DELAY,
        };
        self.last = Some((now + wait, wait));
        wait
    }
}

/// An mDNS browser for the broadcast of one secret.
struct BrowseSession {
    browser: Browser,
}

impl BrowseSession {
    fn start(secret: &[u8; 16]) -> Option<Self> {
        let mut options = BrowserOptions::default();
        options.matchers = vec![NameMatcher::new(secret)];
        let browser = Browser::start(options);
        browser
            .map(|browser| Self { browser })
            .inspect_err(
                |error| info!(%error, "mDNS is not available: using only the addresses that the server reports"),
            )
            .ok()
    }
}

/// The addresses of the broadcast, once found; `None` if mDNS has ended.
async fn next(browsing: &mut Option<BrowseSession>) -> Option<CandidateAddresses> {
    let Some(browsing) = browsing else { return std::future::pending().await };
    loop {
        // A name that has expired is no matter: names rotate, and connecting shows whether an address still works.
        if let Event::Found { addresses, .. } | Event::Changed { addresses, .. } = browsing.browser.next().await? {
            return Some(addresses);
        }
    }
}

fn publish(candidates: &watch::Sender<CandidateAddresses>, hints: CandidateAddresses, found: &CandidateAddresses) {
    // Addresses found on this network come first.
    let mut all = found.clone();
    all.extend(hints);
    let mut seen = std::collections::BTreeSet::new();
    all.retain(|place| seen.insert(*place));
    all.truncate(MAX_CANDIDATES);
    candidates.send_if_modified(|known| {
        let is_new = *known != all;
        if is_new {
            known.clone_from(&all);
        }
        is_new
    });
}

/// How often the server is queried: a broadcaster may join this network at any time.
const QUERY_INTERVAL: Duration = Duration::from_secs(15);
/// Minimum delay, since the server learns of a reconnected broadcaster a moment later.
const MIN_REQUERY_DELAY: Duration = Duration::from_millis(50);
/// After this time without a request, the next one is served at once.
const BACKOFF_RESET: Duration = Duration::from_secs(10);
/// Bounds the addresses: several interfaces of both families.
const MAX_CANDIDATES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_requests_back_off() {
        let start = Instant::now();
        let (mut backoff, mut now, mut asked) = (RequeryBackoff::default(), start, 0);
        while now - start < Duration::from_secs(60) {
            now += backoff.wait(now);
            asked += 1;
        }
        assert!(asked <= 20, "{asked} queries in a minute");
        now += BACKOFF_RESET + MIN_REQUERY_DELAY;
        assert_eq!(backoff.wait(now), MIN_REQUERY_DELAY, "after a quiet time the next is met at once");
    }
}
