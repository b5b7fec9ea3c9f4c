//! Changes settings of a running server.
//!
//! Limits of connections, the host in URLs and the trusted proxies change at once, and the key file is read again. Everything else is bound, sized or
//! started with the server, and needs a restart.

use std::sync::Arc;

use net::connection_limit::ConnectionLimiter;
use parking_lot::RwLock;

use crate::auth::Keyring;
use crate::config::Config;
use crate::http::LiveSettings;
use crate::hub::Hub;
use crate::rtmp;

/// Applies configurations to a running server.
#[derive(Debug)]
pub struct Reloader {
    pub(crate) running: Config,
    pub(crate) keys: Arc<Keyring>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) limiters: Limiters,
    pub(crate) http: Arc<RwLock<LiveSettings>>,
}

/// The limiters of the listeners with configured limits.
#[derive(Clone, Debug)]
pub(crate) struct Limiters {
    pub(crate) rtmp: Arc<ConnectionLimiter>,
    pub(crate) http: Arc<ConnectionLimiter>,
    pub(crate) relay: Option<Arc<ConnectionLimiter>>,
}

/// What [`Reloader::apply`] did, as keys with their sections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Settings that changed and are in force.
    pub applied: Vec<String>,
    /// Settings that differ from the running ones, which stay in force until a restart.
    pub needs_restart: Vec<String>,
}

impl Reloader {
    /// Puts the settings of `wanted` in force that can change while the server runs, and reads the key file again.
    pub fn apply(&mut self, wanted: &Config) -> Reloaded {
        rtmp::reload_keys(&self.keys, &self.hub);
        let changes = self.running.changes(wanted);
        let (applied, needs_restart) = changes.into_iter().partition(|key| LIVE_SETTINGS.contains(&key.as_str()));
        let Limiters { rtmp, http, relay } = &self.limiters;
        rtmp.set_limits(wanted.rtmp.max_connections, wanted.rtmp.max_per_address);
        http.set_limits(wanted.http.max_connections, wanted.http.max_per_address);
        if let Some(relay) = relay {
            relay.set_limits(wanted.relay.max_connections, wanted.relay.max_per_address);
        }
        *self.http.write() = LiveSettings::of(wanted);
        let running = &mut self.running;
        running.log.level.clone_from(&wanted.log.level);
        running.public_host.clone_from(&wanted.public_host);
        (running.rtmp.max_connections, running.rtmp.max_per_address) =
            (wanted.rtmp.max_connections, wanted.rtmp.max_per_address);
        (running.http.max_connections, running.http.max_per_address) =
            (wanted.http.max_connections, wanted.http.max_per_address);
        (running.relay.max_connections, running.relay.max_per_address) =
            (wanted.relay.max_connections, wanted.relay.max_per_address);
        running.http.trusted_proxies.clone_from(&wanted.http.trusted_proxies);
        Reloaded { applied, needs_restart }
    }
}

/// Settings that a reload puts in force; the process applies `log.level`.
pub const LIVE_SETTINGS: [&str; 9] = [
    "http.max_connections",
    "http.max_per_address",
    "http.trusted_proxies",
    "log.level",
    "public_host",
    "relay.max_connections",
    "relay.max_per_address",
    "rtmp.max_connections",
    "rtmp.max_per_address",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_change_changes_and_the_rest_is_named() {
        let data = tempfile::tempdir().unwrap();
        let running = crate::load(None, [], |config| config.data = data.path().into()).unwrap();
        let limiter = || ConnectionLimiter::new(1, 1);
        let limiters = Limiters { rtmp: limiter(), http: limiter(), relay: None };
        let keys = Arc::new(Keyring::open(running.keys_file()).unwrap());
        let hub = Hub::new(crate::hub::HubSettings {
            window: media::live_window::Bounds { duration: std::time::Duration::from_secs(1), bytes: 1 },
            grace: std::time::Duration::ZERO,
            grace_after_unpublish: std::time::Duration::ZERO,
        });
        let http = Arc::new(RwLock::new(LiveSettings::of(&running)));
        // Another process adds a key.
        Keyring::open(running.keys_file()).unwrap().create(&"talk".parse().unwrap(), false).unwrap();
        let mut wanted = running.clone();
        wanted.public_host = "tv.example".into();
        wanted.rtmp.max_connections = 2;
        wanted.rtmp.app = "other".into();
        wanted.hls.low_latency = false;
        let mut reloader = Reloader { running, keys, hub: hub.clone(), limiters: limiters.clone(), http: http.clone() };
        let done = reloader.apply(&wanted);
        assert_eq!(done.applied, ["public_host", "rtmp.max_connections"]);
        assert_eq!(done.needs_restart, ["hls.low_latency", "rtmp.app"]);
        assert_eq!(http.read().public_host.as_deref(), Some("tv.example"));
        let _permits = [1, 2].map(|host| limiters.rtmp.try_acquire([192, 0, 2, host].into()).unwrap());
        assert!(hub.stream("talk").is_some());
        // What needs a restart is named again, and what is in force is not.
        assert_eq!(reloader.apply(&wanted), Reloaded { applied: vec![], needs_restart: done.needs_restart });
    }

    #[test]
    fn each_live_setting_is_one_and_is_applied() {
        let mut wanted = Config { public_host: "h".into(), ..Config::default() };
        wanted.log.level = "debug".into();
        for limit in [&mut wanted.rtmp.max_connections, &mut wanted.rtmp.max_per_address] {
            *limit += 1;
        }
        for limit in [&mut wanted.http.max_connections, &mut wanted.http.max_per_address] {
            *limit += 1;
        }
        for limit in [&mut wanted.relay.max_connections, &mut wanted.relay.max_per_address] {
            *limit += 1;
        }
        wanted.http.trusted_proxies.clear();
        let mut changes = Config::default().changes(&wanted);
        changes.sort();
        assert_eq!(changes, LIVE_SETTINGS);
        // The reference says which these are.
        let (_, words) = include_str!("../../deploy/cdn.toml").split_once("SIGHUP").unwrap();
        let words = words.split("the others need a restart").next().unwrap();
        for key in LIVE_SETTINGS {
            let limit = key.rsplit('.').next().filter(|name| name.starts_with("max_"));
            assert!(words.contains(limit.unwrap_or(key)), "{key}: {words}");
        }
    }
}
