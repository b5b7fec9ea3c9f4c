//! One server: binds, runs and shuts down.
//!
//! The order matters: everything is checked before anything binds, everything is bound before anything is announced, and ingest stops before
//! egress. Several servers may run in one process: nothing here prints, handles signals or changes the process.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use net::connection_limit::ConnectionLimiter;
use net::listen::ListenAddress;
use net::trace::Trace;
use parking_lot::RwLock;
use tokio::net::TcpListener;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::atomic_file::{create_directory_of, replace};
use crate::auth::{Keyring, LastPublishes, Secret, StreamName};
use crate::config::Config;
use crate::egress::hls::{self, Hls};
use crate::egress::relay::{self, Relay};
use crate::egress::rtmp::Fanout;
use crate::http;
use crate::hub::{self, Hub};
use crate::metrics::{self, Delays, Metrics};
use crate::reload::{Limiters, Reloader};
use crate::rendezvous::PeerDirectory;
use crate::rtmp::{self, RtmpServer};

/// A server that is bound but does not serve yet.
#[derive(Debug)]
pub struct Server {
    config: Config,
    keys: Arc<Keyring>,
    first_key: Option<(StreamName, Secret)>,
    hub: Arc<Hub>,
    fanout: Arc<Fanout>,
    rtmp: TcpListener,
    http: TcpListener,
    relay: Option<Relay>,
    metrics: Option<TcpListener>,
    addresses: Addresses,
    limiters: Limiters,
    live_http: Arc<RwLock<http::LiveSettings>>,
}

/// The addresses that a server listens on. A port configured as 0 is replaced by the one that the system chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// RTMP, for publishers and players.
    pub rtmp: SocketAddr,
    /// HTTP: pages, API and HLS.
    pub http: SocketAddr,
    /// The relay protocol (QUIC, UDP), if it is on.
    pub relay: Option<SocketAddr>,
    /// `/metrics`, if it is on and the address was free.
    pub metrics: Option<SocketAddr>,
}

/// An address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {reason}. To listen elsewhere, set {setting} (--{})", setting.split('.').next().unwrap_or(setting))]
pub struct ListenError {
    /// The address, as configured.
    pub address: ListenAddress,
    /// The key of the setting.
    pub setting: &'static str,
    /// The system's reason, and what to do.
    pub reason: String,
}

impl Server {
    /// Opens the key file, binds all listeners and starts the fan-out threads. Creates a first key if there is none.
    ///
    /// # Errors
    /// If an address cannot be bound, a file cannot be read or written, or the kernel lacks the configured engine.
    pub async fn bind(config: Config) -> anyhow::Result<Self> {
        let keys = Arc::new(Keyring::open(config.keys_file())?);
        let rtmp = bind(config.rtmp.listen, "rtmp.listen")?;
        let http = bind(config.http.listen, "http.listen")?;
        let relay = config.relay.listen.map(|address| bind_relay(address, &config)).transpose()?;
        let metrics = match config.metrics.listen {
            // Not fatal: a second server on the same machine runs without metrics until it is configured with another port.
            Some(address) => bind(address, "metrics.listen").inspect_err(|e| tracing::warn!("no metrics: {e}")).ok(),
            None => None,
        };
        let fanout = Arc::new(Fanout::start(&config.fanout, config.rtmp.write_timeout)?);
        tracing::info!(engine = fanout.engine(), shards = fanout.shards(), "fan-out");
        let first_key = make_first_key(&keys)?;
        let hub = make_hub(&config)?;
        for name in keys.names() {
            hub.open(name.as_str());
        }
        let addresses = Addresses {
            rtmp: rtmp.local_addr()?,
            http: http.local_addr()?,
            relay: relay.as_ref().map(Relay::local_addr).transpose()?,
            metrics: metrics.as_ref().map(TcpListener::local_addr).transpose()?,
        };
        let limiters = Limiters {
            rtmp: ConnectionLimiter::new(config.rtmp.max_connections, config.rtmp.max_per_address),
            http: ConnectionLimiter::new(config.http.max_connections, config.http.max_per_address),
            relay: relay.as_ref().map(|relay| relay.slots().limiter().clone()),
        };
        let live_http = Arc::new(RwLock::new(http::LiveSettings::of(&config)));
        Ok(Self { config, keys, first_key, hub, fanout, rtmp, http, relay, metrics, addresses, limiters, live_http })
    }

    /// Changes settings of this server while it runs.
    pub fn reloader(&self) -> Reloader {
        Reloader {
            running: self.config.clone(),
            keys: self.keys.clone(),
            hub: self.hub.clone(),
            limiters: self.limiters.clone(),
            http: self.live_http.clone(),
        }
    }

    /// The addresses that it listens on, with the ports that the system chose.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// The configuration passed to [`bind`](Self::bind).
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The first key, if [`bind`](Self::bind) created one, and its stream. The key file holds only its hash, so the caller must show it to the
    /// user, or [save it](Self::save_first_key).
    pub fn first_key(&self) -> Option<&(StreamName, Secret)> {
        self.first_key.as_ref()
    }

    /// Writes the first key, if there is one, to `first.key` in the data directory, readable by its owner only, and returns the file's path. For
    /// callers whose output others may read, such as a journal.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save_first_key(&self) -> anyhow::Result<Option<PathBuf>> {
        let Some((_, key)) = &self.first_key else { return Ok(None) };
        let path = self.config.data_directory().join("first.key");
        create_directory_of(&path)
            .map_err(|(path, error)| anyhow::Error::new(error).context(path.display().to_string()))?;
        replace(&path, format!("{}\n", key.reveal()).as_bytes()).with_context(|| path.display().to_string())?;
        Ok(Some(path))
    }

    /// The publish keys; changes take effect at once.
    pub fn keys(&self) -> &Arc<Keyring> {
        &self.keys
    }

    /// The hub: its streams can be published to and read from directly.
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// Serves until `shutdown` is ready. Then it revokes publishers, sends players a status message, and lets HTTP requests finish within the drain
    /// time. Dropping the future stops the server at once.
    ///
    /// # Errors
    /// If a listener, the relay endpoint or a fan-out thread ended unexpectedly.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
        let Self { config, keys, hub, fanout, rtmp, http, relay, metrics, addresses, limiters, live_http, .. } = self;
        let (stop, segmenters) = (CancellationToken::new(), CancellationToken::new());
        let _ends_all = EndsAll { hub: hub.clone(), stop: stop.clone() };
        let Limiters { rtmp: rtmp_limiter, http: http_limiter, .. } = limiters;
        let metrics_limiter = ConnectionLimiter::new(METRICS_CONNECTIONS, METRICS_CONNECTIONS);

        let relay_pin = addresses.relay.map(|address| address.port()).zip(relay.as_ref().map(Relay::pin));
        let peers = PeerDirectory::new(relay_pin)?;
        let hls = Hls::new(hub.clone(), hls_settings(&config));
        let last_publishes = Arc::new(LastPublishes::new(config.last_publishes_file()));
        let rtmp_server = RtmpServer::new(
            hub.clone(),
            keys.clone(),
            fanout.clone(),
            peers.clone(),
            last_publishes.clone(),
            rtmp_limiter.clone(),
            &config,
        );
        let http_server =
            http::HttpServer::new(hub.clone(), hls.clone(), http_settings(&config, live_http, addresses, peers));
        let delays = Delays::new(hub.clone());

        let mut registry = Metrics::default();
        registry.register(metrics::Process::new(Instant::now()));
        registry.register(metrics::Streams::new(hub.clone(), hls.clone()));
        registry.register(delays.clone());
        let listeners = metrics::Listeners::default()
            .with("rtmp", rtmp_limiter)
            .with("http", http_limiter.clone())
            .with("metrics", metrics_limiter.clone());
        registry.register(match &relay {
            Some(relay) => listeners.with("relay", relay.slots().limiter().clone()),
            None => listeners,
        });
        registry.register(metrics::Rtmp::new(&rtmp_server, &fanout));
        registry.register(http_server.responses());

        let metrics_hosts = config.metrics.hosts.iter().chain(Some(&config.public_host)).cloned().collect();
        // Aborted when this future returns or is dropped.
        let mut background = JoinSet::new();
        if let Some(listener) = metrics {
            background.spawn(http::serve_metrics(
                listener,
                metrics_limiter,
                Arc::new(registry),
                metrics_hosts,
                stop.clone(),
            ));
        }
        background.spawn({
            let hub = hub.clone();
            async move { hub.keep_sweeping().await }
        });
        background.spawn(watch_keys(keys, hub.clone()));
        background.spawn(keep_saving(last_publishes.clone()));
        background.spawn({
            let rtmp_server = rtmp_server.clone();
            async move { rtmp_server.keep_reporting().await }
        });
        background.spawn(async move { delays.keep_observing().await });
        background.spawn(hls.run(segmenters.clone()));
        let rtmp_reports = rtmp_server.clone();
        let mut rtmp_task = AbortOnDropHandle::new(tokio::spawn(rtmp_server.serve(rtmp, stop.clone())));
        let mut http_task = AbortOnDropHandle::new(tokio::spawn({
            let stop = stop.clone();
            async move { http_server.serve(http, http_limiter, stop).await }
        }));
        let mut relay_task =
            relay.map(|relay| AbortOnDropHandle::new(tokio::spawn(relay.serve(hub.clone(), stop.clone()))));

        let failed = tokio::select! {
            () = shutdown => None,
            ended = &mut rtmp_task => Some(anyhow::anyhow!("the RTMP listener ended: {}", how(ended))),
            ended = &mut http_task => Some(anyhow::anyhow!("the HTTP listener ended: {}", how(ended))),
            ended = ended(relay_task.as_mut()) => Some(anyhow::anyhow!("the relay endpoint ended: {}", how(ended))),
            () = fanout.failed().cancelled_owned() => {
                Some(anyhow::anyhow!("a fan-out thread ended and disconnected its players"))
            }
        };

        let deadline = Instant::now() + config.drain;
        stop.cancel();
        hub.block_all();
        let drained = async {
            // A task that ended by itself must not be polled again.
            if !rtmp_task.is_finished() {
                let _ = (&mut rtmp_task).await;
            }
            let _ = tokio::task::spawn_blocking(move || fanout.stop(deadline)).await;
            if !http_task.is_finished() {
                let _ = (&mut http_task).await;
            }
            segmenters.cancel();
            if let Some(relay) = relay_task.filter(|task| !task.is_finished()) {
                let _ = relay.await;
            }
        };
        let drained = tokio::time::timeout_at(deadline.into(), drained).await;
        rtmp_reports.finish_reports();
        match drained {
            Ok(()) => tracing::info!("stopped"),
            Err(_) => tracing::warn!(after = ?config.drain, "stopped with connections open"),
        }
        save(last_publishes).await;
        failed.map_or(Ok(()), Err)
    }
}

/// How a task ended that should not have.
fn how(ended: Result<(), JoinError>) -> String {
    ended.map_or_else(|error| error.to_string(), |()| "it returned".to_owned())
}

/// The end of `task`; never ready without a task.
async fn ended(task: Option<&mut AbortOnDropHandle<()>>) -> Result<(), JoinError> {
    match task {
        Some(task) => task.await,
        None => std::future::pending().await,
    }
}

/// Stops publishers and listeners when a running server is dropped.
struct EndsAll {
    hub: Arc<Hub>,
    stop: CancellationToken,
}

impl Drop for EndsAll {
    fn drop(&mut self) {
        self.stop.cancel();
        self.hub.block_all();
    }
}

fn make_hub(config: &Config) -> anyhow::Result<Arc<Hub>> {
    let trace = config.trace.as_deref().map(|path| Trace::create(path).with_context(|| path.display().to_string()));
    let settings = hub::HubSettings {
        window: media::live_window::Bounds {
            duration: config.hub.buffer_window,
            bytes: config.hub.buffer_bytes.as_u64() as usize,
        },
        grace: config.hub.grace,
        grace_after_unpublish: config.hub.grace_after_unpublish,
    };
    Ok(Hub::with_trace(settings, trace.transpose()?.map(Arc::new)))
}

fn hls_settings(config: &Config) -> hls::HlsSettings {
    hls::HlsSettings {
        segment_duration: config.hls.segment_duration,
        part_duration: config.hls.part_duration,
        low_latency: config.hls.low_latency,
        playlist_window: config.hls.playlist_window,
        max_bytes: config.hls.max_bytes.as_u64() as usize,
        ..hls::HlsSettings::default()
    }
}

fn http_settings(
    config: &Config,
    live: Arc<RwLock<http::LiveSettings>>,
    addresses: Addresses,
    peers: Arc<PeerDirectory>,
) -> http::HttpSettings {
    http::HttpSettings {
        rtmp_port: Some(addresses.rtmp.port()),
        rtmp_app: config.rtmp.app.clone(),
        live,
        peers: Some(peers),
        watch_origins: config.http.watch_origins.clone(),
        ..http::HttpSettings::default()
    }
}

/// The secret of this installation, created at the first start; its file is readable by the owner only.
fn load_or_create_secret(data: &Path) -> anyhow::Result<[u8; 32]> {
    let path = data.join("relay.secret");
    let wrong = || format!("{}: not a relay secret (32 bytes); delete the file to create a new one", path.display());
    match std::fs::read(&path) {
        Ok(secret) => <[u8; 32]>::try_from(secret).map_err(|_| anyhow::anyhow!(wrong())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let secret: [u8; 32] = rand::random();
            create_directory_of(&path)
                .map_err(|(path, error)| anyhow::Error::new(error).context(path.display().to_string()))?;
            replace(&path, &secret).with_context(|| path.display().to_string())?;
            Ok(secret)
        }
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

fn bind_relay(address: ListenAddress, config: &Config) -> anyhow::Result<Relay> {
    let (max_connections, max_per_address) = (config.relay.max_connections, config.relay.max_per_address);
    let secret = load_or_create_secret(&config.data_directory()).unwrap_or_else(|error| {
        tracing::warn!(
            error = command::with_causes(error.chain()),
            "cannot store the relay secret: viewers will detect a restart only by timeout"
        );
        rand::random()
    });
    Relay::bind(address, relay::RelaySettings { max_connections, max_per_address, secret }).map_err(|error| {
        let system = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
        let advice = system.map(|error| format!(": {}", address.advice(error))).unwrap_or_default();
        let reason = command::with_causes(error.chain()) + &advice;
        ListenError { address, setting: "relay.listen", reason }.into()
    })
}

fn bind(address: ListenAddress, setting: &'static str) -> Result<TcpListener, ListenError> {
    let listener = address.bind_tcp().and_then(TcpListener::from_std);
    listener.map_err(|error| ListenError { address, setting, reason: format!("{error}: {}", address.advice(&error)) })
}

/// Creates a key if there is none, since nothing could be published without one.
fn make_first_key(keys: &Keyring) -> anyhow::Result<Option<(StreamName, Secret)>> {
    if !keys.names().is_empty() {
        return Ok(None);
    }
    let name: StreamName = FIRST_STREAM.parse().expect("the first stream's name is valid");
    let key = keys.create(&name, false).context("cannot create the first stream key")?;
    Ok(Some((name, key)))
}

async fn watch_keys(keys: Arc<Keyring>, hub: Arc<Hub>) {
    let mut ticks = tokio::time::interval(KEYS_INTERVAL);
    loop {
        ticks.tick().await;
        rtmp::check_keys(&keys, &hub);
    }
}

/// Writes the last publishes now and then. Never returns.
async fn keep_saving(last_publishes: Arc<LastPublishes>) {
    let mut ticks = tokio::time::interval(SAVE_CHECK_INTERVAL);
    loop {
        ticks.tick().await;
        if last_publishes.is_due(Instant::now()) {
            save(last_publishes.clone()).await;
        }
    }
}

async fn save(last_publishes: Arc<LastPublishes>) {
    let saved = tokio::task::spawn_blocking(move || last_publishes.save(Instant::now())).await;
    if let Ok(Err(error)) = saved {
        tracing::warn!(%error, "cannot write the last publishes: `cdn key list` shows earlier ones");
    }
}

/// Stream name of the first key.
const FIRST_STREAM: &str = "live";
/// How often the key file is checked for changes. A publisher with a new key does not wait for it: an unknown key triggers a reload.
const KEYS_INTERVAL: Duration = Duration::from_secs(1);
/// How late a first publish may be written.
const SAVE_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum number of connections to `/metrics`; one or two are usual.
const METRICS_CONNECTIONS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_relay_that_ends_ends_the_server() {
        let data = tempfile::tempdir().unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = crate::load(None, [], |config| {
            config.data = data.path().into();
            let any = ListenAddress::from(any);
            (config.rtmp.listen, config.http.listen) = (any, any);
            (config.relay.listen, config.metrics.listen) = (Some(any), None);
            config.fanout.shards = 1;
        });
        let server = Server::bind(config.unwrap()).await.unwrap();
        server.relay.as_ref().unwrap().close();
        let error = server.run(std::future::pending()).await.unwrap_err();
        assert!(error.to_string().contains("the relay endpoint ended"), "{error}");
    }
}
