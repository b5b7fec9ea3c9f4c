//! What the HTTP side is told.

use std::sync::Arc;
use std::time::Duration;

use crate::rendezvous::PeerDirectory;

/// Settings of one server's HTTP side.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// Bounds of one connection.
    pub limits: Limits,
    /// The port that RTMP play URLs name; `None` hides them.
    pub rtmp_port: Option<u16>,
    /// The application that RTMP play URLs name.
    pub rtmp_app: String,
    /// The host that RTMP play URLs name, where it is not the one of the request.
    pub rtmp_host: Option<String>,
    /// How long a request for a playlist waits for the first segment of a stream that is on air.
    pub first_segment_wait: Duration,
    /// How long requests are still taken after the stop, so that balancers see `/readyz` fail before connections do.
    pub drain: Duration,
    /// The relay and the broadcasters that viewers are told of; without, they are told of none.
    pub peers: Option<Arc<PeerDirectory>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            rtmp_port: Some(1935),
            rtmp_app: "live".to_owned(),
            rtmp_host: None,
            first_segment_wait: Duration::from_secs(8),
            drain: Duration::from_millis(500),
            peers: None,
        }
    }
}

/// Bounds of one connection. How many connections there may be is the limiter's business.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// From the moment that a request may come to the end of its header; so also how long an idle connection is kept.
    pub header_timeout: Duration,
    /// How long a client may take in nothing of its response.
    pub write_timeout: Duration,
    /// Size of a request's header in bytes, its first line included.
    pub header_bytes: usize,
    /// How long open requests may take to finish once the server stops.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(20),
            write_timeout: Duration::from_secs(15),
            header_bytes: 32 << 10,
            drain_timeout: Duration::from_secs(3),
        }
    }
}
