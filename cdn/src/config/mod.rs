//! The configuration: defaults, then a TOML file, then `NEARCAST_…` variables, then flags. Unknown keys are errors. Everything is checked
//! before anything binds.
//!
//! `deploy/cdn.toml` is the reference: every key with its default and what it bounds.

mod data_directory;
mod keys;
mod layers;
mod units;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use ipnet::IpNet;
use net::listen::ListenAddress;
use serde::{Deserialize, Serialize};
use toml::Table;

pub use keys::variable;
pub use layers::{Error, Layers, Origin, load};

/// All settings of a server.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Directory for persistent data: publish keys, their last use, and the relay's secret; empty for [`data_directory`](Self::data_directory)'s convention.
    pub data: PathBuf,
    /// File of publish keys; empty for `keys.toml` in `data`.
    pub keys: PathBuf,
    /// How long connections may take to finish at shutdown.
    #[serde(with = "units::duration")]
    pub drain: Duration,
    /// Host name or address of this server in URLs, without a port; empty for the machine's address.
    pub public_host: String,
    /// `[log]`: format and level.
    pub log: Log,
    /// `[rtmp]`: the listener of publishers and players.
    pub rtmp: RtmpConfig,
    /// `[hub]`: the live buffer of each stream, and how long a stream waits for its publisher.
    pub hub: HubConfig,
    /// `[fanout]`: writing to RTMP players.
    pub fanout: FanoutConfig,
    /// `[http]`: the listener of pages, API and HLS.
    pub http: HttpConfig,
    /// `[hls]`: segments, parts and playlists.
    pub hls: HlsConfig,
    /// `[relay]`: the listener of the relay protocol.
    pub relay: RelayConfig,
    /// `[metrics]`: the listener of `/metrics`.
    pub metrics: MetricsConfig,
    /// File for the trace of units and stages. Set by a flag only, since it is for one run.
    #[serde(skip)]
    pub trace: Option<PathBuf>,
}

/// Section `[log]`: format and level of the log.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// Text or JSON lines.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,cdn::egress=debug`.
    pub level: String,
}

/// Format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line per event, for people.
    Text,
    /// One JSON object per event; the server's announcements on standard output are JSON too.
    Json,
}

/// Section `[rtmp]`: the listener for publishers and players.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RtmpConfig {
    /// Address to listen on.
    pub listen: ListenAddress,
    /// Application name in URLs: `rtmp://host/APP/NAME`.
    pub app: String,
    /// Connections at a time.
    pub max_connections: usize,
    /// Connections at a time from one IPv4 address or IPv6 /64; loopback is exempt.
    pub max_per_address: usize,
    /// Time from the TCP connection to `publish` or `play`.
    #[serde(with = "units::duration")]
    pub handshake_timeout: Duration,
    /// Time without data after which a publisher is disconnected.
    #[serde(with = "units::duration")]
    pub idle_timeout: Duration,
    /// Time without progress of a write after which the peer is disconnected.
    #[serde(with = "units::duration")]
    pub write_timeout: Duration,
    /// Largest audio or video message.
    #[serde(serialize_with = "units::size::serialize")]
    pub max_message: ByteSize,
}

/// Section `[hub]`: the live windows and grace periods.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct HubConfig {
    /// Media time in the live buffer of each stream.
    #[serde(with = "units::duration")]
    pub buffer_window: Duration,
    /// Payload in the live buffer of each stream.
    #[serde(serialize_with = "units::size::serialize")]
    pub buffer_bytes: ByteSize,
    /// How long a stream waits for a publisher whose connection was lost.
    #[serde(with = "units::duration")]
    pub grace: Duration,
    /// How long a stream waits after its publisher unpublished.
    #[serde(with = "units::duration")]
    pub grace_after_unpublish: Duration,
    /// How long the first units of a publisher wait until all its tracks are known.
    #[serde(with = "units::duration")]
    pub track_wait: Duration,
}

/// Section `[fanout]`: the threads that write to RTMP players.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FanoutConfig {
    /// How data is written to sockets.
    pub engine: FanoutEngine,
    /// Writer threads; 0 for one per core.
    pub shards: usize,
    /// Longest time that audio waits to be written together with the next picture.
    #[serde(with = "units::duration")]
    pub audio_batch_delay: Duration,
    /// How far a slow player may fall behind before it is moved to the newest IDR.
    #[serde(with = "units::duration")]
    pub max_lag: Duration,
    /// How long a player may wait for a stream that is not on air.
    #[serde(with = "units::duration")]
    pub idle_player_timeout: Duration,
    /// `TCP_NOTSENT_LOWAT` of player sockets: bytes that may wait in the kernel unsent.
    #[serde(serialize_with = "units::size::serialize")]
    pub notsent_lowat: ByteSize,
}

/// How data is written to the sockets of RTMP players.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum FanoutEngine {
    /// io_uring where the kernel allows it, else epoll.
    Auto,
    /// io_uring: one system call for many sockets. The server does not start without it.
    Uring,
    /// epoll: one system call per socket.
    Epoll,
}

/// Section `[http]`: the listener for pages, HLS and the API.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct HttpConfig {
    /// Address to listen on.
    pub listen: ListenAddress,
    /// Connections at a time.
    pub max_connections: usize,
    /// Connections at a time from one IPv4 address or IPv6 /64; loopback is exempt.
    pub max_per_address: usize,
    /// Origins (`https://HOST`) whose pages may read `/api/v1/streams/NAME/watch`, or `*` for any.
    pub watch_origins: Vec<String>,
    /// Networks whose `X-Forwarded-…` headers are believed: those of reverse proxies.
    #[serde(with = "units::networks")]
    pub trusted_proxies: Vec<IpNet>,
}

/// Section `[hls]`: segments, parts and playlists.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct HlsConfig {
    /// Target duration of segments, which are cut at the IDR nearest to it.
    #[serde(with = "units::duration")]
    pub segment_duration: Duration,
    /// Target duration of parts.
    #[serde(with = "units::duration")]
    pub part_duration: Duration,
    /// Whether playlists list parts (LL-HLS).
    pub low_latency: bool,
    /// Media time that a playlist lists.
    #[serde(with = "units::duration")]
    pub playlist_window: Duration,
    /// Bytes of segments held for each stream.
    #[serde(serialize_with = "units::size::serialize")]
    pub max_bytes: ByteSize,
}

/// Section `[relay]`: the listener of the relay protocol.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RelayConfig {
    /// UDP address to listen on; empty for none.
    #[serde(with = "units::optional_address")]
    pub listen: Option<ListenAddress>,
    /// Connections at a time.
    pub max_connections: usize,
    /// Connections at a time from one IPv4 address or IPv6 /64; loopback is exempt.
    pub max_per_address: usize,
}

/// Section `[metrics]`: the listener for Prometheus.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MetricsConfig {
    /// Address to listen on; empty for none.
    #[serde(with = "units::optional_address")]
    pub listen: Option<ListenAddress>,
    /// Host names, besides `public_host` and `localhost`, under which it is asked for; addresses always are.
    pub hosts: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        let hls = crate::egress::hls::HlsSettings::default();
        Self {
            data: PathBuf::new(),
            keys: PathBuf::new(),
            drain: Duration::from_secs(10),
            public_host: String::new(),
            log: Log { format: LogFormat::Text, level: "info".into() },
            rtmp: RtmpConfig {
                listen: ListenAddress::AnyAddress(1935),
                app: "live".into(),
                max_connections: 8192,
                max_per_address: 256,
                handshake_timeout: Duration::from_secs(10),
                idle_timeout: Duration::from_secs(30),
                write_timeout: Duration::from_secs(10),
                max_message: ByteSize::mib(8),
            },
            hub: HubConfig {
                buffer_window: Duration::from_secs(30),
                buffer_bytes: ByteSize::mib(64),
                grace: Duration::from_secs(30),
                grace_after_unpublish: Duration::from_secs(5),
                track_wait: Duration::from_secs(1),
            },
            fanout: FanoutConfig {
                engine: FanoutEngine::Auto,
                shards: 0,
                audio_batch_delay: Duration::from_millis(45),
                max_lag: Duration::from_secs(5),
                idle_player_timeout: Duration::from_secs(3600),
                notsent_lowat: ByteSize::kib(256),
            },
            http: HttpConfig {
                listen: ListenAddress::AnyAddress(8080),
                max_connections: 8192,
                max_per_address: 1024,
                watch_origins: Vec::new(),
                trusted_proxies: LOOPBACK.iter().map(|network| network.parse().expect("a valid network")).collect(),
            },
            hls: HlsConfig {
                segment_duration: hls.segment_duration,
                part_duration: hls.part_duration,
                low_latency: hls.low_latency,
                playlist_window: hls.playlist_window,
                max_bytes: ByteSize::b(hls.max_bytes as u64),
            },
            relay: RelayConfig {
                listen: Some(ListenAddress::AnyAddress(4443)),
                max_connections: 2048,
                max_per_address: 256,
            },
            metrics: MetricsConfig {
                listen: Some(ListenAddress::Address(([127, 0, 0, 1], 9998).into())),
                hosts: Vec::new(),
            },
            trace: None,
        }
    }
}

impl Config {
    /// The directory for persistent data: `data`, or by convention `/var/lib/nearcast` for root, else `nearcast` in `$XDG_DATA_HOME` or
    /// `~/.local/share` (XDG Base Directory Specification).
    pub fn data_directory(&self) -> PathBuf {
        if self.data.as_os_str().is_empty() { data_directory::by_convention() } else { self.data.clone() }
    }

    /// The file of publish keys.
    pub fn keys_file(&self) -> PathBuf {
        if self.keys.as_os_str().is_empty() { self.data_directory().join("keys.toml") } else { self.keys.clone() }
    }

    /// The file in which the server keeps the last publish with each key.
    pub fn last_publishes_file(&self) -> PathBuf {
        self.data_directory().join("last-publishes.toml")
    }

    /// All settings as TOML: sections and their keys, in the order of this file.
    pub fn to_table(&self) -> Table {
        Table::try_from(self).expect("the settings are TOML: a test checks this")
    }

    /// Keys, with their sections, of the settings whose values differ in `other`.
    pub fn changes(&self, other: &Self) -> Vec<String> {
        let (old, new) = (self.to_table(), other.to_table());
        keys::keys(&old).into_iter().filter(|key| keys::value(&old, key) != keys::value(&new, key)).collect()
    }

    /// Rejects values out of range, with the key and the requirement.
    fn check(&self) -> Result<(), (&'static str, String)> {
        let refuse = |key: &'static str, why: &str| Err((key, why.to_owned()));
        if let Err(error) = command::log_filter::parse(&self.log.level) {
            return refuse("log.level", &error.to_string());
        }
        let app_is_fine =
            !self.rtmp.app.is_empty() && self.rtmp.app.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
        if !app_is_fine {
            return refuse("rtmp.app", "must be one or more of A-Z a-z 0-9 - _");
        }
        for (key, count) in [
            ("rtmp.max_connections", self.rtmp.max_connections),
            ("rtmp.max_per_address", self.rtmp.max_per_address),
            ("http.max_connections", self.http.max_connections),
            ("http.max_per_address", self.http.max_per_address),
            ("relay.max_connections", self.relay.max_connections),
            ("relay.max_per_address", self.relay.max_per_address),
        ] {
            if count == 0 {
                return refuse(key, "must be at least 1");
            }
        }
        for (key, wait) in [
            ("rtmp.handshake_timeout", self.rtmp.handshake_timeout),
            ("rtmp.idle_timeout", self.rtmp.idle_timeout),
            ("rtmp.write_timeout", self.rtmp.write_timeout),
            ("hub.buffer_window", self.hub.buffer_window),
            ("fanout.audio_batch_delay", self.fanout.audio_batch_delay),
            ("fanout.max_lag", self.fanout.max_lag),
            ("hls.segment_duration", self.hls.segment_duration),
            ("hls.part_duration", self.hls.part_duration),
            ("hls.playlist_window", self.hls.playlist_window),
        ] {
            if wait.is_zero() {
                return refuse(key, "must be longer than 0s");
            }
        }
        for (key, wait) in [
            ("hub.buffer_window", self.hub.buffer_window),
            ("hub.grace", self.hub.grace),
            ("hub.grace_after_unpublish", self.hub.grace_after_unpublish),
            ("fanout.idle_player_timeout", self.fanout.idle_player_timeout),
        ] {
            if wait > LONGEST_WAIT {
                return refuse(key, "must be at most 365 days");
            }
        }
        if !(64 << 10..=16_777_215).contains(&self.rtmp.max_message.as_u64()) {
            return refuse("rtmp.max_message", "must be from 64 KiB to 16777215 bytes, the most that RTMP can carry");
        }
        let is_origin = |origin: &String| {
            let host = origin.strip_prefix("https://").or(origin.strip_prefix("http://"));
            origin == "*" || host.is_some_and(|host| !host.is_empty() && host.bytes().all(is_of_authority))
        };
        if !self.http.watch_origins.iter().all(is_origin) {
            return refuse("http.watch_origins", "must be origins such as https://tv.example, without a path, or *");
        }
        if !self.metrics.hosts.iter().all(|host| !host.is_empty() && host.bytes().all(is_of_authority)) {
            return refuse("metrics.hosts", "must be host names such as monitor.example, without a port");
        }
        if self.hub.buffer_bytes.as_u64() < self.rtmp.max_message.as_u64() {
            return refuse("hub.buffer_bytes", "must be at least rtmp.max_message");
        }
        if !(16 << 10..=64 << 20).contains(&self.fanout.notsent_lowat.as_u64()) {
            return refuse("fanout.notsent_lowat", "must be from 16 KiB to 64 MiB");
        }
        if self.fanout.shards > MAX_SHARDS {
            return refuse("fanout.shards", "must be at most 256");
        }
        if self.hls.part_duration < SHORTEST_PART {
            return refuse("hls.part_duration", "must be at least 100ms: a player sends two requests for each part");
        }
        if self.hls.part_duration > self.hls.segment_duration {
            return refuse("hls.part_duration", "must not be longer than hls.segment_duration");
        }
        if self.hls.playlist_window < self.hls.segment_duration.saturating_mul(3) {
            return refuse("hls.playlist_window", "must be at least three segments (RFC 8216bis §6.2.2)");
        }
        Ok(())
    }
}

/// Whether a host with an optional port may contain this character.
fn is_of_authority(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte)
}

/// All settings: their keys with sections, as `rtmp.listen`, and their defaults.
pub fn defaults() -> Vec<(String, toml::Value)> {
    let table = Config::default().to_table();
    keys::keys(&table).into_iter().filter_map(|key| Some((key.clone(), keys::value(&table, &key)?.clone()))).collect()
}

/// Proxies on this machine are trusted by default: whoever controls one can reach the listener anyway.
const LOOPBACK: [&str; 2] = ["127.0.0.0/8", "::1/128"];
/// Minimum part duration: with two requests per part, twenty requests per second from each player.
const SHORTEST_PART: Duration = Duration::from_millis(100);
/// Maximum of all durations, so that adding one to an instant cannot overflow.
const LONGEST_WAIT: Duration = Duration::from_secs(365 * 24 * 3600);
/// Maximum number of shards: more than any machine has cores.
const MAX_SHARDS: usize = 256;
