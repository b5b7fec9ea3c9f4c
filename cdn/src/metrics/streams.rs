//! Metrics of the hub's streams: units and bytes received and sent, and viewers.

use std::fmt::Error;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::samples::{Kind, write};
use crate::egress::hls::Hls;
use crate::hub::{Hub, Info, PublishState};

/// Collects a snapshot of every stream.
#[derive(Debug)]
pub struct Streams {
    hub: Arc<Hub>,
    hls: Arc<Hls>,
}

impl Streams {
    /// Collects the streams of `hub` and their playlists in `hls`.
    pub fn new(hub: Arc<Hub>, hls: Arc<Hls>) -> Self {
        Self { hub, hls }
    }
}

impl Collector for Streams {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let infos: Vec<Info> = self.hub.streams().iter().map(|stream| stream.info()).collect();
        for (kind, name, help, value) in OF_EACH {
            let samples = infos.iter().map(|info| ([("stream", info.name.as_str())], value(info)));
            write(&mut encoder, kind, name, help, samples)?;
        }
        let viewers = infos.iter().flat_map(|info| {
            let labels = |protocol| [("stream", info.name.as_str()), ("protocol", protocol)];
            info.viewers.iter().map(move |(protocol, count)| (labels(*protocol), *count as f64))
        });
        let help = "Viewers by protocol; those by HLS are estimated.";
        write(&mut encoder, Kind::Gauge, "nearcast_stream_viewers", help, viewers)?;
        let newest = infos.iter().filter_map(|info| {
            let msn = self.hls.stream(&info.name)?.now().playlist.segments.last()?.msn;
            Some(([("stream", info.name.as_str())], msn as f64))
        });
        let help = "Media sequence number of the newest segment listed.";
        write(&mut encoder, Kind::Gauge, "nearcast_hls_media_sequence", help, newest)
    }
}

/// A family with one value per stream: kind, name, help, and the function that reads the value.
type OfEach = (Kind, &'static str, &'static str, fn(&Info) -> f64);

const OF_EACH: [OfEach; 14] = [
    (Kind::Gauge, "nearcast_stream_live", "1 while the stream has a publisher.", |i| {
        f64::from(u8::from(matches!(i.state, PublishState::Live { .. })))
    }),
    (Kind::Counter, "nearcast_stream_received_units", "Access units ingested.", |i| i.counters.units as f64),
    (Kind::Counter, "nearcast_stream_received_bytes", "Payload ingested.", |i| i.counters.bytes as f64),
    (Kind::Counter, "nearcast_stream_sent_bytes", "Bytes sent to viewers.", |i| i.counters.sent_bytes as f64),
    (Kind::Counter, "nearcast_duplicate_units", "Units dropped as duplicates.", |i| i.counters.duplicate_units as f64),
    (Kind::Counter, "nearcast_stream_publishers", "Publishers accepted.", |i| i.counters.publishers as f64),
    (Kind::Counter, "nearcast_stream_takeovers", "Publishers replaced by another with the same key.", |i| {
        i.counters.takeovers as f64
    }),
    (Kind::Counter, "nearcast_subscriber_resyncs", "Times that a slow viewer was moved to the newest IDR.", |i| {
        i.counters.resyncs as f64
    }),
    (Kind::Counter, "nearcast_stream_skipped_units", "Units skipped for slow viewers.", |i| {
        i.counters.skipped_units as f64
    }),
    (
        Kind::Gauge,
        "nearcast_stream_lan_viewers",
        "Viewers on its LAN that the broadcaster serves, as it reports.",
        |i| f64::from(i.direct_viewers),
    ),
    (Kind::Gauge, "nearcast_stream_window_seconds", "Media time held.", |i| i.window.duration.as_secs_f64()),
    (Kind::Gauge, "nearcast_stream_window_bytes", "Payload held.", |i| i.window.bytes as f64),
    (Kind::Gauge, "nearcast_stream_bytes_per_second", "Bitrate in bytes, mean over the window.", |i| {
        i.bitrate as f64 / 8.0
    }),
    (Kind::Gauge, "nearcast_stream_tracks", "Tracks of the newest broadcast.", |i| {
        i.catalog.as_ref().map_or(0.0, |catalog| catalog.tracks.len() as f64)
    }),
];
