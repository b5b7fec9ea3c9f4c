//! The JSON of the server's HTTP API, `/api/v1`: written by `cdn`, read by `viewer` and by scripts.
//!
//! Readers ignore unknown fields; fields that an earlier server did not send are optional or have a default. Times are microseconds of Unix
//! time if the name ends in `_us`, and RFC 3339 text otherwise.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use data_encoding::HEXLOWER;
use media::latency::{ClockOffset, MAX_UNITS, Stage, StageTimes, TimingReport, UnitTiming};
use media::{Timestamp, WallClock};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::rtmp::parse_track;
use crate::trust::Pin;

/// `/api/v1/streams`: all streams, by name.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct StreamList {
    /// The streams, live or not.
    pub streams: Vec<StreamInfo>,
    /// The RTMP URL to publish to with a stream key: `rtmp://HOST/live`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publish: Option<String>,
}

/// `/api/v1/streams/NAME`: one stream, at the time of the request. Contains neither the publisher's address nor any key.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct StreamInfo {
    /// The name under which the stream is played.
    pub name: String,
    /// Whether the stream is live.
    pub state: StreamState,
    /// The time since which it is in that state; absent while `offline`.
    pub since: Option<String>,
    /// Epoch of the newest broadcast: 16 hexadecimal digits.
    pub epoch: Option<String>,
    /// Wall-clock time of PTS 0, by the publisher's clock; absent if the publisher states none. HLS dates are then times of arrival.
    pub clock: Option<String>,
    /// Tracks of the newest broadcast.
    pub tracks: Vec<TrackInfo>,
    /// The number of viewers, by protocol.
    pub viewers: ViewerCounts,
    /// Mean bit rate over the live window, in bits per second.
    pub bitrate: u64,
    /// The extent of the live window.
    pub window: WindowInfo,
    /// The extent of the media playlist; absent before the first segment.
    pub hls: Option<PlaylistInfo>,
    /// Counters since the server started.
    pub counters: StreamCounters,
    /// The URLs at which the stream can be played.
    pub urls: Urls,
    /// What the publisher should change, in sentences; absent if nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub advice: Vec<String>,
}

/// Whether a stream is live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StreamState {
    /// A publisher is connected.
    Live,
    /// The publisher has disconnected and may reconnect; players wait.
    Disconnected,
    /// The publisher has disconnected and the wait for it is over.
    Ended,
    /// No publisher since the server started.
    Offline,
}

/// A track of a stream.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct TrackInfo {
    /// The track ID: `v0`, `a0`, …
    pub id: String,
    /// `video` or `audio`.
    pub kind: String,
    /// The codec's usual name, such as `H.264`.
    pub codec: String,
    /// The `codecs` parameter of RFC 6381.
    pub rfc6381: String,
    /// Picture width in pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    /// Picture height in pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    /// Frames per second, from the publisher's metadata.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frame_rate: Option<f64>,
    /// Samples per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample_rate: Option<u32>,
    /// Number of audio channels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channels: Option<u16>,
}

/// The number of viewers of a stream; HLS viewers are estimated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct ViewerCounts {
    /// Viewers over all protocols.
    pub total: usize,
    /// Viewers by protocol: `rtmp`, `hls`, `relay`.
    #[serde(flatten)]
    pub by_protocol: BTreeMap<String, usize>,
}

/// The extent of a live window.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
pub struct WindowInfo {
    /// Media time from the oldest unit to the newest.
    pub seconds: f64,
    /// Sum of the payloads in bytes.
    pub bytes: usize,
    /// Interval of the key frames in seconds; absent if the window holds none. Without video, the interval of points at which viewers can start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keyframe_interval: Option<f64>,
    /// Position of the oldest unit in the stream.
    pub first_position: u64,
    /// Position of the next unit.
    pub next_position: u64,
}

/// What the publisher should change if its key frames are this far apart; `None` if nothing.
pub fn keyframe_advice(interval: Duration) -> Option<String> {
    (interval > MAX_KEYFRAME_INTERVAL).then(|| {
        format!(
            "The encoder's key frames are {:.1} s apart or more. Viewers can start only there, so they join late or play behind. Set the encoder's \
             keyframe interval to 1 s.",
            interval.as_secs_f64()
        )
    })
}

/// The extent of a media playlist (RFC 8216bis §4.4.3).
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
pub struct PlaylistInfo {
    /// `EXT-X-MEDIA-SEQUENCE`: media sequence number of the first listed segment.
    pub media_sequence: u64,
    /// Number of listed segments.
    pub segments: usize,
    /// Total duration of the listed segments in seconds.
    pub seconds: f64,
    /// `EXT-X-TARGETDURATION` in seconds.
    pub target_duration_seconds: u64,
    /// `PART-TARGET` in seconds; absent if the playlist has no parts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part_target_seconds: Option<f64>,
}

/// Counters of a stream since the server started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct StreamCounters {
    /// Access units ingested.
    pub units: u64,
    /// Payload bytes of the ingested units.
    pub received_bytes: u64,
    /// Bytes sent to viewers.
    pub sent_bytes: u64,
    /// Units dropped because the stream had them already.
    pub duplicate_units: u64,
    /// Number of publishers accepted.
    pub publishers: u64,
    /// Number of publishers that were replaced by another one with the same key.
    pub takeovers: u64,
    /// Number of times that a slow subscriber was moved to the newest IDR.
    pub resyncs: u64,
    /// Units skipped for slow subscribers.
    pub skipped_units: u64,
}

/// The URLs of a stream, as the client that asks can reach them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Urls {
    /// The watch page.
    #[serde(default)]
    pub page: String,
    /// The multivariant playlist.
    pub hls: Option<String>,
    /// The `rtmp://` URL; absent if RTMP playback is not available.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtmp: Option<String>,
}

/// `/api/v1/streams/NAME/watch`: what a viewer needs to choose the best path to a stream, and to be admitted.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct PlaybackInfo {
    /// The stream's name.
    #[serde(default)]
    pub name: String,
    /// Epoch of the newest broadcast: 16 hexadecimal digits.
    pub epoch: Option<String>,
    /// The URLs at which the stream can be played.
    pub urls: Urls,
    /// The playback modes of the HLS playlist.
    pub hls: Option<HlsInfo>,
    /// The relay protocol from this server.
    pub relay: Option<RelayInfo>,
    /// The relay protocol from the broadcaster.
    pub peer: Option<PeerInfo>,
}

/// The playback modes of a stream's playlist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct HlsInfo {
    /// Whether it lists parts (LL-HLS).
    pub low_latency: bool,
}

/// The address and pin of a server's relay.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct RelayInfo {
    /// Host name or address.
    pub host: String,
    /// UDP port, 1 to 65535.
    pub port: u16,
    /// SHA-256 of its certificate: 64 hexadecimal digits.
    pub pin: String,
}

/// How a viewer finds a broadcaster on its network and is admitted.
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct PeerInfo {
    /// SHA-256 of its certificate: 64 hexadecimal digits.
    pub pin: String,
    /// The secret from which its mDNS names are derived: 32 hexadecimal digits.
    pub secret: String,
    /// The addresses at which it listens; only for a viewer behind the same public address.
    #[serde(default)]
    pub addresses: Vec<SocketAddr>,
    /// The ticket that admits this viewer once, until it expires.
    pub ticket: String,
    /// When the ticket expires, in seconds of Unix time.
    #[serde(default)]
    pub expires: u64,
}

/// Redacts the secret and the ticket.
impl std::fmt::Debug for PeerInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerInfo").field("pin", &self.pin).field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl PeerInfo {
    /// The parsed pin; `None` if it is malformed.
    pub fn pin(&self) -> Option<Pin> {
        self.pin.parse().ok()
    }

    /// The parsed secret; `None` if it is malformed.
    pub fn secret(&self) -> Option<[u8; 16]> {
        HEXLOWER.decode(self.secret.as_bytes()).ok()?.try_into().ok()
    }
}

/// `/api/v1/streams/NAME/timing`: when the last units passed each stage, and a clock exchange with the server.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct StreamTiming {
    /// When the request was read, by the server's clock.
    pub received_us: i64,
    /// When it was answered, by the server's clock.
    pub answered_us: i64,
    /// Epoch of the units: 16 hexadecimal digits.
    pub epoch: String,
    /// The clock of the stages `captured`, `encoded` and `sent`; if absent, they are on the server's clock.
    pub broadcaster: Option<BroadcasterClock>,
    /// The units in order of DTS; at most eight.
    pub units: Vec<UnitTimes>,
}

/// The offset of a broadcaster's clock from the server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct BroadcasterClock {
    /// The broadcaster's clock minus the server's, in microseconds.
    pub offset_us: i64,
    /// The largest error of the offset, in microseconds.
    pub uncertainty_us: u64,
}

/// When one unit passed each stage.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct UnitTimes {
    /// The track ID: `v0`, `a0`, …
    pub track: String,
    /// Its DTS in milliseconds.
    pub dts: i64,
    /// Time of each stage in microseconds of Unix time: `captured_us`, `ingested_us`, … ([`Stage::name`]); unknown ones are left out.
    #[serde(flatten)]
    pub stages: BTreeMap<String, Value>,
}

impl From<&TimingReport> for StreamTiming {
    fn from(report: &TimingReport) -> Self {
        let unit = |unit: &UnitTiming| {
            let known = Stage::ALL.into_iter().filter_map(|stage| Some((stage, unit.stamps.at(stage)?)));
            let stages = known.map(|(stage, at)| (format!("{}_us", stage.name()), at.as_micros().into())).collect();
            UnitTimes { track: unit.track.to_string(), dts: unit.dts.as_millis(), stages }
        };
        let clock =
            |clock: ClockOffset| BroadcasterClock { offset_us: clock.micros, uncertainty_us: clock.uncertainty };
        Self {
            received_us: report.received.as_micros(),
            answered_us: report.answered.as_micros(),
            epoch: report.epoch.to_string(),
            broadcaster: report.broadcaster.map(clock),
            units: report.units.iter().map(unit).collect(),
        }
    }
}

impl StreamTiming {
    /// Converts to a report; unknown stages and tracks are left out. `None` if the epoch is malformed.
    pub fn into_report(self) -> Option<TimingReport> {
        let unit = |unit: UnitTimes| {
            let mut stamps = StageTimes::default();
            for (name, at) in &unit.stages {
                let stage = name.strip_suffix("_us").and_then(Stage::named);
                if let Some((stage, at)) = stage.zip(at.as_i64()) {
                    stamps.stamp(stage, WallClock::from_micros(at));
                }
            }
            Some(UnitTiming { track: parse_track(&unit.track)?, dts: Timestamp::from_millis(unit.dts), stamps })
        };
        let clock =
            |clock: BroadcasterClock| ClockOffset { micros: clock.offset_us, uncertainty: clock.uncertainty_us };
        Some(TimingReport {
            received: WallClock::from_micros(self.received_us),
            answered: WallClock::from_micros(self.answered_us),
            epoch: self.epoch.parse().ok()?,
            broadcaster: self.broadcaster.map(clock),
            units: self.units.into_iter().take(MAX_UNITS).filter_map(unit).collect(),
        })
    }
}

/// `/api/v1/time`: the server's clock.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct ServerTime {
    /// The server's wall clock in microseconds of Unix time.
    pub now_us: i64,
    /// The same time as RFC 3339 text.
    pub now: String,
}

/// The body of an error response.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct ApiError {
    /// The error as text for people.
    pub error: String,
}

/// Above this interval of key frames there is advice: HLS segments are longer than their target, and viewers join late.
const MAX_KEYFRAME_INTERVAL: Duration = Duration::from_secs(4);

#[cfg(test)]
mod tests {
    use media::{Epoch, TrackId};

    use super::*;

    #[test]
    fn a_timing_report_round_trips() {
        let mut stamps = StageTimes::default();
        stamps.stamp(Stage::Captured, WallClock::from_micros(1));
        stamps.stamp(Stage::InPart, WallClock::from_micros(2));
        let report = TimingReport {
            received: WallClock::from_micros(5),
            answered: WallClock::from_micros(6),
            epoch: Epoch(255),
            broadcaster: Some(ClockOffset { micros: -7, uncertainty: 3 }),
            units: vec![UnitTiming { track: TrackId::VIDEO, dts: Timestamp::from_millis(40), stamps }],
        };
        let text = serde_json::to_string(&StreamTiming::from(&report)).unwrap();
        assert_eq!(serde_json::from_str::<StreamTiming>(&text).unwrap().into_report(), Some(report));
    }

    #[test]
    fn unknown_stages_tracks_and_fields_are_ignored() {
        let text = r#"{"received_us":5,"answered_us":6,"epoch":"00000000000000ff","later":1,
            "broadcaster":{"offset_us":-7,"uncertainty_us":3},
            "units":[{"track":"v0","dts":40,"captured_us":1,"in_part_us":2,"teleported_us":3,"sent_us":"x"},{"track":"?","dts":1}]}"#;
        let report = serde_json::from_str::<StreamTiming>(text).unwrap().into_report().unwrap();
        assert_eq!(report.broadcaster, Some(ClockOffset { micros: -7, uncertainty: 3 }));
        assert_eq!((report.epoch.0, report.received.as_micros(), report.answered.as_micros()), (255, 5, 6));
        let [unit] = &report.units[..] else { panic!("{:?}", report.units) };
        assert_eq!((unit.track, unit.dts), (TrackId::VIDEO, Timestamp::from_millis(40)));
        let stages: Vec<_> = Stage::ALL.into_iter().filter(|stage| unit.stamps.at(*stage).is_some()).collect();
        assert_eq!(stages, [Stage::Captured, Stage::InPart]);
        let none = text.replace("00000000000000ff", "zz");
        assert!(serde_json::from_str::<StreamTiming>(&none).unwrap().into_report().is_none());
    }

    #[test]
    fn a_response_of_the_first_version_is_parsed() {
        let info: PlaybackInfo = serde_json::from_str(r#"{"urls":{"hls":"http://h/live/index.m3u8"}}"#).unwrap();
        assert_eq!((info.urls.hls.as_deref(), info.hls, info.peer), (Some("http://h/live/index.m3u8"), None, None));
    }

    #[test]
    fn debug_shows_neither_secret_nor_ticket() {
        let text = r#"{"pin":"ab","secret":"0123456789abcdef0123456789abcdef","ticket":"opens"}"#;
        let peer: PeerInfo = serde_json::from_str(text).unwrap();
        assert!(peer.secret().is_some() && peer.pin().is_none());
        let shown = format!("{peer:?}");
        assert!(!shown.contains("0123") && !shown.contains("opens"), "{shown}");
    }
}
