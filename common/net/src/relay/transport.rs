//! QUIC's settings for live media (RFC 9000, RFC 9002).

use std::time::Duration;

use quinn::{IdleTimeout, TransportConfig, VarInt};

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
            // A join is a GOP at once: half a second of a usual stream in the first round trip.
            let mut cubic = quinn::congestion::CubicConfig::default();
            cubic.initial_window(INITIAL_WINDOW);
            config.congestion_controller_factory(std::sync::Arc::new(cubic));
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

/// A peer that says nothing for so long is gone; silence of its media is noticed long before.
const IDLE: Duration = Duration::from_secs(6);
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// Of a server on the same continent; a LAN is measured with the first answer.
const INITIAL_RTT: Duration = Duration::from_millis(50);
/// Bounds what one slow subscriber holds back of a stream: a second at 16 Mbit/s.
const SEND_WINDOW: u64 = 2 << 20;
/// In bytes.
const INITIAL_WINDOW: u64 = 64 << 10;
/// A subscriber sends control messages only.
const CONTROL_WINDOW: u32 = 16 << 10;
/// Bounds what a viewer that does not keep up can be sent: four seconds at 16 Mbit/s.
const RECEIVE_WINDOW: u32 = 8 << 20;
/// Groups under way at once: sixteen tracks, some of them late.
const MAX_GROUPS: u32 = 128;
