//! RTMP metrics: refused publishers, and players.

use std::fmt::Error;
use std::sync::{Arc, Weak};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::samples::{Kind, write};
use crate::egress::rtmp::Fanout;
use crate::rtmp::RtmpServer;

/// Collects the counters of the RTMP listener and the fan-out.
#[derive(Debug)]
pub struct Rtmp {
    server: Weak<RtmpServer>,
    fanout: Weak<Fanout>,
}

impl Rtmp {
    /// Holds weak references, so that it does not keep the server or the fan-out alive.
    pub fn new(server: &Arc<RtmpServer>, fanout: &Arc<Fanout>) -> Self {
        Self { server: Arc::downgrade(server), fanout: Arc::downgrade(fanout) }
    }
}

impl Collector for Rtmp {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        if let Some(server) = self.server.upgrade() {
            let failures = [(NONE, server.auth_failures() as f64)];
            let (name, help) = ("nearcast_rtmp_auth_failures", "Publishers rejected because their key is not valid.");
            write(&mut encoder, Kind::Counter, name, help, failures)?;
            let evicted = [(NONE, server.connections_evicted() as f64)];
            let (name, help) =
                ("nearcast_rtmp_connections_evicted", "Idle connections closed because another one needed the slot.");
            write(&mut encoder, Kind::Counter, name, help, evicted)?;
            let rejected = [(NONE, server.players_rejected() as f64)];
            let (name, help) = ("nearcast_rtmp_players_rejected", "Players rejected because there was no slot.");
            write(&mut encoder, Kind::Counter, name, help, rejected)?;
        }
        let Some(fanout) = self.fanout.upgrade() else { return Ok(()) };
        let players = [(NONE, fanout.players() as f64)];
        write(&mut encoder, Kind::Gauge, "nearcast_rtmp_players", "RTMP players.", players)?;
        let timeouts = [(NONE, fanout.write_timeouts() as f64)];
        let (name, help) = ("nearcast_rtmp_write_timeouts", "Players disconnected because a write timed out.");
        write(&mut encoder, Kind::Counter, name, help, timeouts)
    }
}

const NONE: [(&str, &str); 0] = [];
