//! Finding the broadcaster on the network: what the server says of it, and who answers there to the name that only those can tell who
//! were told its secret. Where it may be is a hint; who it is, its certificate shows.

use std::net::SocketAddr;
use std::time::Duration;

use net::discovery::{Browser, BrowserOptions, Event, NameMatcher};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use tracing::{debug, info};

use super::api_client::ApiClient;

/// Where the broadcaster may be reached, as far as is known; empty while it is not.
pub(super) type CandidateAddresses = Vec<SocketAddr>;

/// Looks for the broadcaster of the stream at `api` until nobody wants to know where it is. `again` has the server asked again: another
/// broadcast is on air, or the broadcaster is not where it was.
pub(super) async fn run(
    api: ApiClient,
    candidates: watch::Sender<CandidateAddresses>,
    mut requery: mpsc::Receiver<()>,
) {
    let mut secret = None;
    let mut browsing: Option<BrowseSession> = None;
    let mut backoff = RequeryBackoff::default();
    loop {
        match api.watch().await {
            Ok(watch) => {
                let peer = watch.and_then(|watch| watch.peer);
                let told = peer.as_ref().and_then(|peer| peer.secret());
                if told != secret {
                    secret = told;
                    browsing = secret.and_then(|secret| BrowseSession::start(&secret));
                }
                let hints = peer.map(|peer| peer.addresses).unwrap_or_default();
                let found = browsing.as_ref().map(|browsing| browsing.found.clone()).unwrap_or_default();
                publish(&candidates, hints, &found);
            }
            Err(error) => debug!(%error, "cannot ask the server about the broadcaster"),
        }
        // Until there is news, or it is time to ask again.
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
                    // Several wishes are one.
                    while requery.try_recv().is_ok() {}
                    if let Some(browsing) = &browsing {
                        browsing.browser.refresh();
                    }
                    sleep(backoff.wait(Instant::now())).await;
                    break;
                }
                found = next(&mut browsing) => {
                    match found {
                        Some(found) => {
                            // Let go before it is written to.
                            let known = candidates.borrow().clone();
                            publish(&candidates, known, &found);
                        }
                        None => browsing = None,
                    }
                }
            }
        }
    }
}

/// How long a wish to ask again waits. A broadcast that begins anew is asked for at once; two paths that bring different ones in turn, or a
/// broadcaster that takes nobody, wish for it again and again, and are answered ever more seldom.
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

/// A browser for one secret, and what it has found.
struct BrowseSession {
    browser: Browser,
    found: CandidateAddresses,
}

impl BrowseSession {
    fn start(secret: &[u8; 16]) -> Option<Self> {
        let mut options = BrowserOptions::default();
        options.matchers = vec![NameMatcher::new(secret)];
        match Browser::start(options) {
            Ok(browser) => Some(Self { browser, found: CandidateAddresses::new() }),
            Err(error) => {
                info!(%error, "no discovery on this network; the server's hints have to do");
                None
            }
        }
    }
}

async fn next(browsing: &mut Option<BrowseSession>) -> Option<CandidateAddresses> {
    let Some(browsing) = browsing else { return std::future::pending().await };
    match browsing.browser.next().await? {
        Event::Found { addresses, .. } | Event::Changed { addresses, .. } => browsing.found = addresses,
        // A name that rotates is found before it is lost; whether anybody is there, the connection tells.
        _ => {}
    }
    Some(browsing.found.clone())
}

fn publish(candidates: &watch::Sender<CandidateAddresses>, hints: CandidateAddresses, found: &CandidateAddresses) {
    // What answers on this network comes first.
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

/// A broadcaster may come to this network, or begin anew, at any time.
const QUERY_INTERVAL: Duration = Duration::from_secs(15);
/// A broadcaster that comes back is heard of by the server a moment later.
const MIN_REQUERY_DELAY: Duration = Duration::from_millis(50);
/// After so long without a wish to ask again, the next is answered at once.
const BACKOFF_RESET: Duration = Duration::from_secs(10);
/// Interfaces of one machine, of both families.
const MAX_CANDIDATES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_wishes_again_and_again_waits_ever_longer() {
        let start = Instant::now();
        let (mut backoff, mut now, mut asked) = (RequeryBackoff::default(), start, 0);
        while now - start < Duration::from_secs(60) {
            now += backoff.wait(now);
            asked += 1;
        }
        assert!(asked <= 20, "asked {asked} times in a minute");
        now += BACKOFF_RESET + MIN_REQUERY_DELAY;
        assert_eq!(backoff.wait(now), MIN_REQUERY_DELAY, "and is answered at once when that is over");
    }
}
