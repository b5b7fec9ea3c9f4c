//! QUIC transport parameters for live media (RFC 9000 §7.4, RFC 9002).

use std::sync::Arc;
use std::time::Duration;

use quinn::{ConnectionId, ConnectionIdGenerator, EndpointConfig, IdleTimeout, TransportConfig, VarInt};

use super::congestion;

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The end that sends media.
    Server,
    /// The end that receives media.
    Client,
}

/// The transport configuration of one end. It bounds the unsent and unacknowledged bytes of a connection on the server, the bytes that the
/// application has not read on the client, and the streams on both.
pub fn transport(side: Side) -> TransportConfig {
    let mut config = TransportConfig::default();
    let idle = IdleTimeout::try_from(IDLE).expect("some seconds fit into an idle timeout");
    config
        .max_idle_timeout(Some(idle))
        // A dead fallback must be detected before it is needed, and NATs drop UDP mappings within 30 s.
        .keep_alive_interval(Some(KEEP_ALIVE))
        .initial_rtt(INITIAL_RTT)
        .datagram_receive_buffer_size(None)
        .send_window(SEND_WINDOW);
    match side {
        Side::Server => {
            config.max_concurrent_uni_streams(VarInt::from_u32(0));
            config.max_concurrent_bidi_streams(VarInt::from_u32(1));
            config
                .receive_window(VarInt::from_u32(CONTROL_WINDOW))
                .stream_receive_window(VarInt::from_u32(CONTROL_WINDOW));
            config.congestion_controller_factory(Arc::new(congestion::Factory));
        }
        Side::Client => {
            config.max_concurrent_uni_streams(VarInt::from_u32(MAX_GROUPS));
            config.max_concurrent_bidi_streams(VarInt::from_u32(0));
            config
                .receive_window(VarInt::from_u32(RECEIVE_WINDOW))
                .stream_receive_window(VarInt::from_u32(RECEIVE_WINDOW / 2));
        }
    }
    config
}

/// The configuration of a server's endpoint. With the same `secret` after a restart, it answers packets of unknown connections with a
/// stateless reset (RFC 9000 §10.3), so that a subscriber learns with its next packet that the connection is dead. A party that knows the
/// secret can reset connections, and nothing else.
pub fn endpoint_config(secret: &[u8; 32]) -> EndpointConfig {
    let mut config = EndpointConfig::new(Arc::new(ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret)));
    config.cid_generator(|| Box::new(AnyId));
    config
}

/// Random connection IDs, so that those of an earlier run are valid too: quinn's own generator recognises foreign IDs, and such packets are
/// dropped without an answer.
struct AnyId;

impl ConnectionIdGenerator for AnyId {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&rand::random::<[u8; ID_LENGTH]>())
    }

    fn cid_len(&self) -> usize {
        ID_LENGTH
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// As in quinn's own generator: 2^64 values cannot be guessed.
const ID_LENGTH: usize = 8;
/// The idle timeout of a connection. Path selection detects a stall of the media much earlier.
const IDLE: Duration = Duration::from_secs(4);
/// Bounds the time to detect a restarted server; each keep-alive costs about 60 bytes.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// The RTT before the first measurement: a server on the same continent.
const INITIAL_RTT: Duration = Duration::from_millis(50);
/// Bounds the send buffer of a slow subscriber: one second at 16 Mbit/s.
const SEND_WINDOW: u64 = 2 << 20;
/// The receive window of a server: subscribers send control messages only.
const CONTROL_WINDOW: u32 = 16 << 10;
/// The receive window of a client, which bounds the data sent to a viewer that does not keep up: four seconds at 16 Mbit/s.
const RECEIVE_WINDOW: u32 = 8 << 20;
/// Bounds the groups in progress: eight for each of sixteen tracks.
const MAX_GROUPS: u32 = 128;
