//! Puts the server together, runs it, and takes it down.
//!
//! The order matters: everything is checked before anything binds, everything is bound before anything is announced, and the ways
//! in close before the ways out.

use std::io::Write;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use net::trace::Trace;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::atomic_file::replace;
use crate::auth::{Keyring, Secret, StreamName};
use crate::config::{Config, LogFormat};
use crate::egress::relay::{self, Relay};
use crate::egress::rtmp::Fanout;
use crate::hub::{self, Hub};
use crate::rendezvous::PeerDirectory;
use crate::rtmp::{self, RtmpServer};
use crate::{egress, http};

/// Runs a server until it is told to stop.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let needed = config.rtmp.max_connections + config.http.max_connections;
    raise_file_limit(needed);
    let keys = Arc::new(Keyring::open(config.keys_file())?);
    let rtmp = bind(config.rtmp.listen, "rtmp.listen").await?;
    let pages = bind(config.http.listen, "http.listen").await?;
    let relay = match config.relay.listen {
        Some(address) => Some(bind_relay(address, &config)?),
        None => None,
    };
    let metrics = match config.metrics.listen {
        // Figures are no reason not to run: a second server on the same machine has none until it is given another port.
        Some(address) => {
            bind(address, "metrics.listen").await.inspect_err(|e| tracing::warn!("no metrics: {e:#}")).ok()
        }
        None => None,
    };
    let fanout = Arc::new(Fanout::start(&config.fanout, config.rtmp.write_timeout)?);
    tracing::info!(engine = fanout.engine(), shards = fanout.shards(), "fan-out");
    let fanout_failed = fanout.failed();
    let first_key = make_first_key(&keys)?;

    let trace = config.trace.as_deref().map(|path| Trace::create(path).with_context(|| path.display().to_string()));
    let hub = hub::Settings {
        window: media::live_window::Bounds {
            duration: config.hub.buffer_window,
            bytes: config.hub.buffer_bytes.as_u64() as usize,
        },
        grace: config.hub.grace,
        grace_after_unpublish: config.hub.grace_after_unpublish,
    };
    let hub = Hub::with_trace(hub, trace.transpose()?.map(Arc::new));
    for name in keys.names() {
        hub.open(name.as_str());
    }
    // Before anybody knows that it runs, and may want it not to.
    let mut signals = Signals::new()?;
    let relay_address = relay.as_ref().map(Relay::local_addr).transpose()?;
    let addresses = Addresses { rtmp: rtmp.local_addr()?, http: pages.local_addr()?, relay: relay_address };
    let peers = PeerDirectory::new(relay_address.map(|address| address.port()).zip(relay.as_ref().map(Relay::pin)))?;

    let stop = CancellationToken::new();
    let rtmp_server = RtmpServer::new(hub.clone(), keys.clone(), fanout.clone(), peers.clone(), &config);
    let mut settings = http_settings(&config, addresses.rtmp.port());
    settings.metrics = http::MetricsSource::new({
        // Whoever reads figures must not keep the door open.
        let rtmp_server = Arc::downgrade(&rtmp_server);
        move || rtmp_server.upgrade().map(|rtmp_server| rtmp_server.metrics()).unwrap_or_default()
    });
    settings.peers = Some(peers);
    let server = http::Server::new(hub.clone(), settings);
    let mut rtmp_task = tokio::spawn(rtmp_server.serve(rtmp, stop.clone()));
    let mut http_task = tokio::spawn({
        let (server, stop) = (server.clone(), stop.clone());
        async move { server.serve(pages, stop).await }
    });
    let relay_task = relay.map(|relay| tokio::spawn(relay.serve(hub.clone(), stop.clone())));
    if let Some(listener) = metrics {
        let stop = stop.clone();
        tokio::spawn(async move { server.serve_metrics(listener, stop).await });
    }
    let sweeper = tokio::spawn({
        let hub = hub.clone();
        async move { hub.keep_sweeping().await }
    });
    let watcher = tokio::spawn(watch_keys(keys.clone(), hub.clone()));
    announce(&config, &addresses, &keys, first_key)?;

    let failed = tokio::select! {
        name = signals.next() => {
            tracing::info!(signal = name, "stopping");
            None
        }
        ended = &mut rtmp_task => Some(anyhow::anyhow!("the RTMP listener ended: {ended:?}")),
        ended = &mut http_task => Some(anyhow::anyhow!("the HTTP side ended: {ended:?}")),
        () = fanout_failed.cancelled() => Some(anyhow::anyhow!("a fan-out thread ended, and its players with it")),
    };

    let deadline = Instant::now() + config.drain;
    stop.cancel();
    hub.block_all();
    let drained = async {
        // Whoever ended by itself has ended already.
        if !rtmp_task.is_finished() {
            let _ = (&mut rtmp_task).await;
        }
        // The door is closed and its publishers are gone, so nobody else holds the fan-out.
        if let Some(fanout) = Arc::into_inner(fanout) {
            let _ = tokio::task::spawn_blocking(move || fanout.stop(deadline)).await;
        }
        if !http_task.is_finished() {
            let _ = (&mut http_task).await;
        }
        if let Some(relay) = relay_task {
            let _ = relay.await;
        }
    };
    tokio::select! {
        done = tokio::time::timeout_at(deadline.into(), drained) => match done {
            Ok(()) => tracing::info!("stopped"),
            Err(_) => tracing::warn!(after = ?config.drain, "stopped with connections open"),
        },
        name = signals.next() => tracing::warn!(signal = name, "stopped at once"),
    }
    sweeper.abort();
    watcher.abort();
    failed.map_or(Ok(()), Err)
}

fn http_settings(config: &Config, rtmp_port: u16) -> http::Settings {
    let mut settings = http::Settings::default();
    settings.limits.connections = config.http.max_connections;
    settings.limits.connections_per_address = config.http.max_per_address;
    settings.hls = egress::hls::Settings::default();
    settings.hls.segment_duration = config.hls.segment_duration;
    settings.hls.part_duration = config.hls.part_duration;
    settings.hls.low_latency = config.hls.low_latency;
    settings.hls.playlist_window = config.hls.playlist_window;
    settings.hls.max_bytes = config.hls.max_bytes.as_u64() as usize;
    settings.rtmp_port = Some(rtmp_port);
    settings.rtmp_app = config.rtmp.app.clone();
    settings.rtmp_host = Some(config.public_host.clone()).filter(|host| !host.is_empty());
    settings
}

/// A secret of this installation, made at the first start; readable by its owner only.
fn load_or_create_secret(data: &Path) -> anyhow::Result<[u8; 32]> {
    let path = data.join("relay.secret");
    let wrong = || format!("{}: not 32 bytes that this server made; delete the file to have a new one", path.display());
    match std::fs::read(&path) {
        Ok(secret) => <[u8; 32]>::try_from(secret).map_err(|_| anyhow::anyhow!(wrong())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let secret: [u8; 32] = rand::random();
            std::fs::create_dir_all(data).with_context(|| data.display().to_string())?;
            replace(&path, &secret).with_context(|| path.display().to_string())?;
            Ok(secret)
        }
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

fn bind_relay(address: SocketAddr, config: &Config) -> anyhow::Result<Relay> {
    let (max_connections, max_per_address) = (config.relay.max_connections, config.relay.max_per_address);
    let secret = load_or_create_secret(&config.data).unwrap_or_else(|error| {
        tracing::warn!(
            error = format!("{error:#}"),
            "viewers will take some seconds to notice when this server is restarted"
        );
        rand::random()
    });
    Relay::bind(address, relay::Settings { max_connections, max_per_address, secret })
        .with_context(|| format!("cannot listen on {address}/udp (relay.listen; empty, or --relay off, for no relay)"))
}

async fn bind(address: SocketAddr, key: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address} ({key})"))
}

/// A server without any key could not be published to: it makes one.
fn make_first_key(keys: &Keyring) -> anyhow::Result<Option<(StreamName, Secret)>> {
    if !keys.names().is_empty() {
        return Ok(None);
    }
    let name: StreamName = FIRST_STREAM.parse().expect("the first stream's name is one");
    let key = keys.create(&name, false).context("cannot make the first publish key")?;
    Ok(Some((name, key)))
}

async fn watch_keys(keys: Arc<Keyring>, hub: Arc<Hub>) {
    let mut ticks = tokio::time::interval(KEYS_INTERVAL);
    loop {
        ticks.tick().await;
        rtmp::reload_keys(&keys, &hub);
    }
}

/// Every connection is a file, and the usual limit of 1024 is soon reached.
fn raise_file_limit(connections: usize) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = (connections + OTHER_FILES) as u64;
    if limit.current.is_none_or(|current| current >= wanted) {
        return;
    }
    let current = Some(limit.maximum.map_or(wanted, |maximum| maximum.min(wanted)));
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current, maximum: limit.maximum }) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    let have = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if have < wanted {
        tracing::warn!(have, wanted, "the system allows fewer open files than the configuration allows connections");
    }
}

struct Addresses {
    rtmp: SocketAddr,
    http: SocketAddr,
    relay: Option<SocketAddr>,
}

/// Tells people, or programs, where the server is; and the first key, which is seen here only.
fn announce(
    config: &Config,
    addresses: &Addresses,
    keys: &Keyring,
    first_key: Option<(StreamName, Secret)>,
) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if config.log.format == LogFormat::Json {
        if let Some((name, key)) = &first_key {
            let event = serde_json::json!({"event": "first_key", "stream": name.as_str(), "key": key.reveal()});
            writeln!(out, "{event}")?;
        }
        let (rtmp, http) = (addresses.rtmp.to_string(), addresses.http.to_string());
        let relay = addresses.relay.map(|address| address.to_string());
        let event = serde_json::json!({"event": "listening", "rtmp": rtmp, "http": http, "relay": relay});
        writeln!(out, "{event}")?;
        return Ok(out.flush()?);
    }
    let host = |bound: &SocketAddr| match config.public_host.as_str() {
        "" => show_host(bound.ip()),
        host => host.to_owned(),
    };
    let with_port = |bound: &SocketAddr, usual: u16| match bound.port() {
        port if port == usual => host(bound),
        port => format!("{}:{port}", host(bound)),
    };
    let (rtmp, pages) = (with_port(&addresses.rtmp, 1935), with_port(&addresses.http, 80));
    let app = &config.rtmp.app;
    let name = first_key.as_ref().map(|(name, _)| name.clone()).or_else(|| keys.names().into_iter().next());
    let name = name.as_ref().map_or("NAME", StreamName::as_str);
    writeln!(out, "Nearcast cdn {}\n", env!("CARGO_PKG_VERSION"))?;
    match &first_key {
        Some((_, key)) => {
            writeln!(out, "In OBS, Settings, Stream:")?;
            writeln!(
                out,
                "  Service     Custom...\n  Server      rtmp://{rtmp}/{app}\n  Stream Key  {}\n",
                key.reveal()
            )?;
            writeln!(out, "The key is shown this once. Another: cdn key new {name} --replace\n")?;
        }
        None => {
            writeln!(out, "Publish to rtmp://{rtmp}/{app} with a stream key. A new one: cdn key new NAME\n")?;
        }
    }
    writeln!(out, "Watch at\n  http://{pages}/{name}\n  rtmp://{rtmp}/{app}/{name}\n")?;
    Ok(out.flush()?)
}

/// An address that others can use: the bound one, or the one that this machine reaches others from.
fn show_host(bound: IpAddr) -> String {
    let reachable = || {
        // Connecting a datagram socket sends nothing; the address is of a range for documentation (RFC 5737).
        let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
        socket.connect("192.0.2.1:9").ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    let shown = if bound.is_unspecified() { reachable() } else { Some(bound) };
    match shown.filter(|ip| !ip.is_unspecified()) {
        Some(IpAddr::V6(v6)) => format!("[{v6}]"),
        Some(v4) => v4.to_string(),
        None => "localhost".into(),
    }
}

/// The signals that end a server.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// The stream of a server that has never been told of any.
const FIRST_STREAM: &str = "live";
/// How late a changed key file is noticed; publishers with a new key do not wait for it.
const KEYS_INTERVAL: Duration = Duration::from_secs(1);
/// Listeners, pipes, logs, and connections that are just being refused.
const OTHER_FILES: usize = 256;
