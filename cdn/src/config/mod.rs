//! The configuration: defaults, then a TOML file, then `NEARCAST_…` variables, then flags. Unknown keys are errors, and all of it
//! is checked before anything binds.
//!
//! `deploy/cdn.toml` is the reference: every key with its default and what it bounds.

mod layers;
mod units;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

pub use layers::{Error, Layers, load};

/// Everything that can be set.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The directory of what must outlive a restart.
    pub data: PathBuf,
    /// The file of publish keys; empty for `keys.toml` in `data`.
    pub keys: PathBuf,
    /// How long connections may take to finish when the server is told to stop.
    #[serde(with = "units::duration")]
    pub drain: Duration,
    /// What people call this server in URLs: a host name or an address, no port; empty for the machine's address.
    pub public_host: String,
    /// Logs.
    pub log: Log,
    /// The RTMP door.
    pub rtmp: Rtmp,
    /// What each stream is held to.
    pub hub: Hub,
    /// RTMP out.
    pub fanout: Fanout,
    /// HTTP.
    pub http: Http,
    /// HLS out.
    pub hls: Hls,
    /// The relay protocol out.
    pub relay: Relay,
    /// Figures for monitoring.
    pub metrics: Metrics,
    /// Where to note when units passed which stage: for one run, so it is a flag alone.
    #[serde(skip)]
    pub trace: Option<PathBuf>,
}

/// Logs.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// Text for people or JSON lines for machines.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,cdn::egress=debug`.
    pub level: String,
}

/// The form of logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines; events that tests and scripts wait for go to standard output.
    Json,
}

/// The RTMP door.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Rtmp {
    /// Where RTMP is heard.
    pub listen: SocketAddr,
    /// The application of URLs: `rtmp://host/APP/NAME`.
    pub app: String,
    /// Connections in all.
    pub max_connections: usize,
    /// Connections from one address; loopback is exempt.
    pub max_per_address: usize,
    /// From the TCP connection to `publish` or `play`.
    #[serde(with = "units::duration")]
    pub handshake_timeout: Duration,
    /// The longest silence of a publisher.
    #[serde(with = "units::duration")]
    pub idle_timeout: Duration,
    /// The longest that a write may make no progress.
    #[serde(with = "units::duration")]
    pub write_timeout: Duration,
    /// The largest audio or video message.
    pub max_message: ByteSize,
}

/// What each stream is held to.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Hub {
    /// Media time held of each stream.
    #[serde(with = "units::duration")]
    pub buffer_window: Duration,
    /// Payload held of each stream.
    pub buffer_bytes: ByteSize,
    /// How long a stream whose publisher vanished stays open.
    #[serde(with = "units::duration")]
    pub grace: Duration,
    /// How long a stream whose publisher said goodbye stays open.
    #[serde(with = "units::duration")]
    pub grace_after_unpublish: Duration,
    /// How long a new publisher's first units wait until all its tracks are known.
    #[serde(with = "units::duration")]
    pub track_wait: Duration,
}

/// RTMP out.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Fanout {
    /// How writes reach the kernel.
    pub engine: FanoutEngine,
    /// Threads that write; 0 for one per core.
    pub shards: usize,
    /// The longest that sound waits for a picture to ride with.
    #[serde(with = "units::duration")]
    pub audio_batch_delay: Duration,
    /// How far a slow player may fall behind before it is put at the newest IDR.
    #[serde(with = "units::duration")]
    pub max_lag: Duration,
    /// How long a player may wait for a stream that is not on air.
    #[serde(with = "units::duration")]
    pub idle_player_timeout: Duration,
    /// Bytes of a player that wait in the kernel, not yet sent.
    pub notsent_lowat: ByteSize,
}

/// How writes reach the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum FanoutEngine {
    /// io_uring where the kernel allows it, else one write at a time.
    Auto,
    /// io_uring, or refuse to start.
    Uring,
    /// One write at a time.
    Epoll,
}

/// HTTP.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// Where HTTP is heard.
    pub listen: SocketAddr,
    /// Connections in all.
    pub max_connections: usize,
    /// Connections from one address; loopback is exempt.
    pub max_per_address: usize,
}

/// HLS out.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Hls {
    /// The length that segments are cut near, at an IDR.
    #[serde(with = "units::duration")]
    pub segment_duration: Duration,
    /// The length of parts.
    #[serde(with = "units::duration")]
    pub part_duration: Duration,
    /// Whether players may take parts as they are made.
    pub low_latency: bool,
    /// Media time in the playlist.
    #[serde(with = "units::duration")]
    pub playlist_window: Duration,
    /// Bytes of segments held per stream.
    pub max_bytes: ByteSize,
}

/// The relay protocol out.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Relay {
    /// Where QUIC is heard (UDP); empty for nowhere.
    #[serde(with = "units::optional_address")]
    pub listen: Option<SocketAddr>,
    /// Connections in all.
    pub max_connections: usize,
    /// Connections from one address; loopback is exempt.
    pub max_per_address: usize,
}

/// Figures for monitoring.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// Where `/metrics` is heard; empty for nowhere.
    #[serde(with = "units::optional_address")]
    pub listen: Option<SocketAddr>,
}

impl Default for Config {
    fn default() -> Self {
        let hls = crate::egress::hls::Settings::default();
        Self {
            data: "nearcast-data".into(),
            keys: PathBuf::new(),
            drain: Duration::from_secs(10),
            public_host: String::new(),
            log: Log { format: LogFormat::Text, level: "info".into() },
            rtmp: Rtmp {
                listen: SocketAddr::from(([0, 0, 0, 0], 1935)),
                app: "live".into(),
                max_connections: 8192,
                max_per_address: 256,
                handshake_timeout: Duration::from_secs(10),
                idle_timeout: Duration::from_secs(30),
                write_timeout: Duration::from_secs(10),
                max_message: ByteSize::mib(8),
            },
            hub: Hub {
                buffer_window: Duration::from_secs(30),
                buffer_bytes: ByteSize::mib(64),
                grace: Duration::from_secs(30),
                grace_after_unpublish: Duration::from_secs(5),
                track_wait: Duration::from_secs(1),
            },
            fanout: Fanout {
                engine: FanoutEngine::Auto,
                shards: 0,
                audio_batch_delay: Duration::from_millis(45),
                max_lag: Duration::from_secs(5),
                idle_player_timeout: Duration::from_secs(3600),
                notsent_lowat: ByteSize::kib(256),
            },
            http: Http { listen: SocketAddr::from(([0, 0, 0, 0], 8080)), max_connections: 8192, max_per_address: 1024 },
            hls: Hls {
                segment_duration: hls.segment_duration,
                part_duration: hls.part_duration,
                low_latency: hls.low_latency,
                playlist_window: hls.playlist_window,
                max_bytes: ByteSize::b(hls.max_bytes as u64),
            },
            relay: Relay {
                listen: Some(SocketAddr::from(([0, 0, 0, 0], 4443))),
                max_connections: 2048,
                max_per_address: 256,
            },
            metrics: Metrics { listen: Some(SocketAddr::from(([127, 0, 0, 1], 9998))) },
            trace: None,
        }
    }
}

impl Config {
    /// The file of publish keys.
    pub fn keys_file(&self) -> PathBuf {
        if self.keys.as_os_str().is_empty() { self.data.join("keys.toml") } else { self.keys.clone() }
    }

    /// Refuses values that no server can run with.
    fn check(&self) -> Result<(), Error> {
        let refuse = |key: &'static str, why: &'static str| Err(Error::Value { key, why });
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
                return refuse(key, "must be longer than nothing");
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
            return refuse("rtmp.max_message", "must be from 64 KiB to 16777215 bytes, the most that RTMP can say");
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
            return refuse("hls.part_duration", "must be at least 100ms: a player asks twice for each");
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

/// Twenty requests a second from each player.
const SHORTEST_PART: Duration = Duration::from_millis(100);
/// Keeps instants far from the end of the clock.
const LONGEST_WAIT: Duration = Duration::from_secs(365 * 24 * 3600);
/// More threads than any machine that this runs on has cores.
const MAX_SHARDS: usize = 256;
