//! QUIC's settings for live media (RFC 9000, RFC 9002).

use std::sync::Arc;
use std::time::Duration;

use quinn::{ConnectionId, ConnectionIdGenerator, EndpointConfig, IdleTimeout, TransportConfig, VarInt};

use super::congestion;

/// Which end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that sends media.
    Server,
    /// The one that takes it.
    Client,
}

/// The transport for one end. Bounds: unsent and unacknowledged bytes per connection on the server's side, bytes that the
/// application has not read on the client's, streams on both.
pub fn transport(side: Side) -> TransportConfig {
    let mut config = TransportConfig::default();
    let idle = IdleTimeout::try_from(IDLE).expect("some seconds fit into an idle timeout");
    config
        .max_idle_timeout(Some(idle))
        // An idle fallback must be found dead before it is needed, and NATs forget UDP within half a minute.
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

/// A server's end point. With the same `secret` after a restart it answers packets of connections that it knows no more with a stateless
/// reset (RFC 9000 §10.3), so that a subscriber learns with its next packet that its fallback is none; who knows the secret can
/// end connections, and nothing else.
pub fn endpoint_config(secret: &[u8; 32]) -> EndpointConfig {
    let mut config = EndpointConfig::new(Arc::new(ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret)));
    config.cid_generator(|| Box::new(AnyId));
    config
}

/// Random connection IDs, any of which may be an earlier run's: quinn's own tell those of other runs apart, and such packets are dropped
/// without an answer.
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

/// As quinn's own: nobody guesses one of 2^64.
const ID_LENGTH: usize = 8;
/// A peer that says nothing for so long is gone; silence of its media is noticed long before.
const IDLE: Duration = Duration::from_secs(4);
/// How soon a server that was restarted is found out; some 60 bytes each time.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// Of a server on the same continent; a LAN is measured with the first answer.
const INITIAL_RTT: Duration = Duration::from_millis(50);
/// Bounds what one slow subscriber holds back of a stream: a second at 16 Mbit/s.
const SEND_WINDOW: u64 = 2 << 20;
/// A subscriber sends control messages only.
const CONTROL_WINDOW: u32 = 16 << 10;
/// Bounds what a viewer that does not keep up can be sent: four seconds at 16 Mbit/s.
const RECEIVE_WINDOW: u32 = 8 << 20;
/// Groups under way at once: sixteen tracks, some of them late.
const MAX_GROUPS: u32 = 128;
