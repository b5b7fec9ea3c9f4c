//! Authorises publishers: finds the key in a request and the stream of the key, and keeps the failures of strangers cheap and the log
//! short.
//!
//! A text without the form of a key costs nothing. A key costs one lookup by its id. For a key that is not found, the key file is read again if
//! it has changed, unless the address has failed often.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use net::auth_failures::{AuthFailures, FailureReport};
use net::clock;

use crate::auth::{Changes, Keyring, PresentedKey, ValidKey};
use crate::hub::{Hub, HubStream};

/// Decides which stream a publisher may publish.
#[derive(Debug)]
pub(super) struct Authorizer {
    hub: Arc<Hub>,
    keys: Arc<Keyring>,
    app: String,
    failures: AuthFailures,
    failed: AtomicU64,
}

/// The parts of a request in which encoders send a key.
#[derive(Clone, Copy)]
pub(super) struct Credentials<'a> {
    /// The app, which may end in a slash and the key.
    pub(super) app: &'a str,
    /// The stream name, which usually is the key.
    pub(super) name: &'a str,
    /// The query pairs of both.
    pub(super) query: &'a [(String, String)],
}

/// A key, and the stream that it must be of, if the request names one beside it.
type Candidate<'a> = (PresentedKey<'a>, Option<&'a str>);

impl Authorizer {
    /// For publishers to `app` on the streams of `hub`.
    pub(super) fn new(hub: Arc<Hub>, keys: Arc<Keyring>, app: &str) -> Self {
        Self { hub, keys, app: app.to_owned(), failures: AuthFailures::default(), failed: AtomicU64::new(0) }
    }

    /// The key in `credentials` and its stream. `None` if there is none, which is counted and reported for the address `from`.
    pub(super) fn authorize(&self, credentials: Credentials<'_>, from: IpAddr) -> Option<(ValidKey, Arc<HubStream>)> {
        let found = self.find(credentials, from);
        let admitted = found.and_then(|key| self.hub.stream(key.stream.as_str()).map(|stream| (key, stream)));
        if admitted.is_none() {
            self.failed.fetch_add(1, Ordering::Relaxed);
            if let Some(report) = self.failures.on_failure(from, Instant::now()) {
                log(report);
            }
        }
        admitted
    }

    /// Whether a key that was found before is still valid, by the loaded keys.
    pub(super) fn is_valid(&self, key: &ValidKey) -> bool {
        self.keys.is_valid(key, clock::now())
    }

    /// Logs the totals of the addresses whose interval is over.
    pub(super) fn report(&self, now: Instant) {
        self.failures.expire(now).into_iter().for_each(log);
    }

    /// Logs the totals that are not logged yet, at the end.
    pub(super) fn finish(&self, now: Instant) {
        self.failures.finish(now).into_iter().for_each(log);
    }

    /// Number of requests without a valid key.
    pub(super) fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    fn find(&self, credentials: Credentials<'_>, from: IpAddr) -> Option<ValidKey> {
        let candidates = self.candidates(credentials);
        let found = self.find_loaded(&candidates);
        if found.is_some() || candidates.is_empty() || self.failures.is_limited(from) {
            return found;
        }
        // The key may be newer than the last reload.
        reload_keys(&self.keys, &self.hub);
        self.find_loaded(&candidates)
    }

    /// The first candidate that the loaded keys contain.
    fn find_loaded(&self, candidates: &[Candidate<'_>]) -> Option<ValidKey> {
        let now = clock::now();
        candidates.iter().find_map(|(key, named)| {
            self.keys.find(*key, now).filter(|key| named.is_none_or(|named| key.stream.as_str() == named))
        })
    }

    /// The texts of the request that have the form of a key. The key is given as the stream name, in the query, or in the app after the
    /// slash. A stream name given together with a key in the query or the app must be the key's.
    fn candidates<'a>(&self, credentials: Credentials<'a>) -> Vec<Candidate<'a>> {
        let Credentials { app, name, query } = credentials;
        let (app, rest) = split_app(app);
        if app != self.app {
            return Vec::new();
        }
        let named = if name.is_empty() { rest } else { name };
        let in_query = query.iter().filter(|(key, _)| QUERY_KEYS.contains(&key.as_str())).map(|(_, value)| &**value);
        let in_app = (!name.is_empty()).then_some(rest);
        let beside = in_query.chain(in_app).map(|text| (text, Some(named)));
        let texts = std::iter::once((named, None)).chain(beside).take(MAX_TEXTS);
        let parse = |(text, named)| Some((PresentedKey::parse(text)?, named));
        texts.filter_map(parse).take(MAX_CANDIDATES).collect()
    }
}

/// Logs failures of an address. The line is outside of any span, and no text of a client precedes the address, so that a program that bans
/// addresses can match it from its start: deploy/fail2ban/nearcast.conf.
fn log(report: FailureReport) {
    let FailureReport { address, is_of_many, failures, within } = report;
    let seconds = within.as_secs();
    if is_of_many {
        tracing::warn!(target: LOG_TARGET, parent: None, failures, seconds, "publish keys refused from further addresses");
    } else {
        tracing::warn!(target: LOG_TARGET, parent: None, %address, failures, seconds, "publish key refused");
    }
}

/// Ends the keys whose time is over, reloads the others if the file changed, and revokes the publishers that have no valid key.
pub fn check_keys(keys: &Keyring, hub: &Hub) {
    for key in keys.expire(clock::now()) {
        tracing::info!(stream = %key.stream, "rotated key ended");
    }
    reload_keys(keys, hub);
    revoke_keys(keys, hub);
}

/// Reloads the keys if the file changed. Opens the streams of added keys, ends those of removed keys, and revokes publishers of replaced
/// keys.
pub fn reload_keys(keys: &Keyring, hub: &Hub) {
    match keys.reload() {
        Ok(changes) if changes == Changes::default() => {}
        Ok(changes) => {
            for name in &changes.added {
                tracing::info!(stream = %name, "key added");
                hub.open(name.as_str());
            }
            for name in &changes.replaced {
                tracing::info!(stream = %name, "key replaced");
            }
            for name in &changes.removed {
                tracing::info!(stream = %name, "key removed");
                hub.end(name.as_str());
            }
            revoke_keys(keys, hub);
        }
        Err(error) => tracing::warn!(%error, "cannot reload the keys: the loaded ones stay valid"),
    }
}

fn revoke_keys(keys: &Keyring, hub: &Hub) {
    let now = clock::now();
    hub.revoke_keys(|key| keys.is_valid(key, now));
}

/// Splits an app at its first slash and drops the query: `live/x?y` gives `live` and `x`.
pub(super) fn split_app(app: &str) -> (&str, &str) {
    let path = app.split('?').next().unwrap_or_default().trim_matches('/');
    path.split_once('/').unwrap_or((path, ""))
}

/// The target of the lines that name addresses: deploy/fail2ban/nearcast.conf contains it.
const LOG_TARGET: &str = "cdn::auth";
/// Query parameters in which encoders send a key.
const QUERY_KEYS: &[&str] = &["key", "streamkey", "stream_key"];
/// Texts of a request whose form is checked.
const MAX_TEXTS: usize = 16;
/// Maximum number of possible keys that are looked up per publisher.
const MAX_CANDIDATES: usize = 4;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use media::live_window::Bounds;

    use super::*;
    use crate::hub;

    struct Fixture {
        authorizer: Authorizer,
        /// The keyring of another process, for the same file.
        other: Keyring,
        key: String,
        _directory: tempfile::TempDir,
    }

    impl Fixture {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("keys.toml");
            let keys = Arc::new(Keyring::open(path.clone()).unwrap());
            let key = keys.create(&"live".parse().unwrap(), false).unwrap().reveal().to_owned();
            let window = Bounds { duration: Duration::from_secs(10), bytes: 10_000 };
            let hub =
                Hub::new(hub::HubSettings { window, grace: Duration::ZERO, grace_after_unpublish: Duration::ZERO });
            hub.open("live");
            let other = Keyring::open(path).unwrap();
            Self { authorizer: Authorizer::new(hub, keys, "live"), other, key, _directory: directory }
        }

        fn ask(&self, app: &str, name: &str, query: &[(&str, &str)], from: &str) -> Option<String> {
            let query: Vec<_> = query.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            let credentials = Credentials { app, name, query: &query };
            let (key, stream) = self.authorizer.authorize(credentials, from.parse().unwrap())?;
            assert!(self.authorizer.is_valid(&key));
            assert_eq!(stream.name(), key.stream.as_str());
            Some(stream.name().to_owned())
        }

        fn knows(&self, name: &str) -> bool {
            self.authorizer.keys.names().iter().any(|known| known.as_str() == name)
        }

        fn new_key_of_another_process(&self, name: &str) -> String {
            self.other.create(&name.parse().unwrap(), false).unwrap().reveal().to_owned()
        }
    }

    const STRANGER: &str = "192.0.2.1";

    #[test]
    fn a_key_is_accepted_in_all_parts_of_a_request() {
        let fixture = Fixture::new();
        let key = fixture.key.as_str();
        for (app, name, query, is_accepted) in [
            ("live", key, None, true),
            ("live", "live", Some(("key", key)), true),
            ("live", "live", Some(("streamkey", key)), true),
            ("live", "live", Some(("token", key)), false),
            ("live", "other", Some(("key", key)), false),
            ("live", "", Some(("key", key)), false),
            (&format!("live/{key}"), "", None, true),
            (&format!("live/{key}"), "live", None, true),
            (&format!("live/{key}"), "other", None, false),
            ("live/live", "", Some(("key", key)), true),
            ("other", key, None, false),
            ("live", "live", None, false),
            ("live", "", None, false),
            ("live", &key[1..], None, false),
        ] {
            let found = fixture.ask(app, name, query.as_slice(), STRANGER);
            assert_eq!(found.as_deref(), is_accepted.then_some("live"), "{app} {name} {query:?}");
        }
        assert_eq!(fixture.authorizer.failed(), 8);
    }

    #[test]
    fn a_text_without_the_form_of_a_key_is_not_looked_up() {
        let fixture = Fixture::new();
        let new = fixture.new_key_of_another_process("new");
        assert_eq!(fixture.ask("live", &new[..43], &[("key", "x")], STRANGER), None);
        assert!(!fixture.knows("new"), "the key file was read");
        assert_eq!(fixture.ask("live", &new, &[], STRANGER).as_deref(), Some("new"));
    }

    #[test]
    fn an_address_that_fails_often_gets_lookups_only_and_its_valid_keys_are_accepted() {
        let fixture = Fixture::new();
        let unknown = "nck_0123456789012345678901234567890123456789";
        for _ in 0..net::auth_failures::LIMIT {
            assert_eq!(fixture.ask("live", unknown, &[], STRANGER), None);
        }
        let new = fixture.new_key_of_another_process("new");
        assert_eq!(fixture.ask("live", &new, &[], STRANGER), None);
        assert!(!fixture.knows("new"), "the key file was read");
        assert_eq!(fixture.ask("live", &fixture.key, &[], STRANGER).as_deref(), Some("live"));
        assert_eq!(fixture.ask("live", &new, &[], "192.0.2.2").as_deref(), Some("new"));
        assert_eq!(fixture.ask("live", &new, &[], STRANGER).as_deref(), Some("new"));
    }

    #[test]
    fn an_app_is_split_at_its_first_slash() {
        for (app, expected) in [
            ("live", ("live", "")),
            ("live/", ("live", "")),
            ("/live/key", ("live", "key")),
            ("live/key?a=b/c", ("live", "key")),
            ("", ("", "")),
            ("live/a/b", ("live", "a/b")),
        ] {
            assert_eq!(split_app(app), expected, "{app}");
        }
    }
}
