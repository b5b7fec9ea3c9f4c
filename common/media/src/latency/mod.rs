//! Latency: where the time from capture to presentation (glass to glass) goes, and how it is distributed.
//!
//! Each stage stamps a unit with the wall clock of its own host ([`StageTimes`]). Hosts keep the times of the newest units ([`TimingLog`]) and send
//! them to others ([`TimingReport`]). [`ClockOffset`] is the difference between two hosts' clocks with its uncertainty. With all times on one clock,
//! [`StageTimes::components`] divides the latency into components that add up to the whole. Pure: instants are parameters.

mod histogram;
mod offset;
mod timing_report;
mod unit_timing;

pub use self::histogram::Histogram;
pub use self::offset::{ClockOffset, Exchange, OffsetEstimator};
pub use self::timing_report::{MAX_UNITS, TimingReport};
pub use self::unit_timing::{TimingLog, UnitTiming};

use crate::time::WallClock;

/// A point on the way of an access unit from camera to screen, in order. Which of them a unit passes depends on its [`DeliveryMode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Captured by camera or microphone: the wall-clock time of its PTS.
    Captured,
    /// Came out of the broadcaster's encoder.
    Encoded,
    /// Handed by the broadcaster to its connection to the server.
    Sent,
    /// Received completely by a server.
    Ingested,
    /// First handed to a viewer's connection, by RTMP or the relay protocol; by a server, or by the broadcaster for a viewer on its LAN.
    Relayed,
    /// Listed in a playlist as content of a part (RFC 8216bis §4.4.4.9).
    InPart,
    /// Listed in a playlist as content of a complete segment.
    InSegment,
    /// The viewer requested the segment or part that contains it.
    Requested,
    /// Received by the viewer.
    Received,
    /// Came out of the viewer's path merger, in order and once.
    Merged,
    /// Left the viewer's buffer for the decoder.
    Buffered,
    /// Its picture came out of the decoder.
    Decoded,
    /// Its picture was shown.
    Presented,
}

impl Stage {
    /// All stages, in order.
    pub const ALL: [Self; STAGES] = [
        Self::Captured,
        Self::Encoded,
        Self::Sent,
        Self::Ingested,
        Self::Relayed,
        Self::InPart,
        Self::InSegment,
        Self::Requested,
        Self::Received,
        Self::Merged,
        Self::Buffered,
        Self::Decoded,
        Self::Presented,
    ];

    /// Its name in traces, in the API and on the wire: lower case with underscores, `in_part`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Captured => "captured",
            Self::Encoded => "encoded",
            Self::Sent => "sent",
            Self::Ingested => "ingested",
            Self::Relayed => "relayed",
            Self::InPart => "in_part",
            Self::InSegment => "in_segment",
            Self::Requested => "requested",
            Self::Received => "received",
            Self::Merged => "merged",
            Self::Buffered => "buffered",
            Self::Decoded => "decoded",
            Self::Presented => "presented",
        }
    }

    /// The stage with this [`name`](Self::name).
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.name() == name)
    }

    /// The component that the time up to this stage, since the stage before, belongs to.
    pub const fn component(self) -> LatencyComponent {
        match self {
            Self::Captured | Self::Encoded => LatencyComponent::Encoding,
            Self::Sent => LatencyComponent::Queue,
            Self::Ingested => LatencyComponent::Upload,
            Self::Relayed => LatencyComponent::Server,
            Self::InPart | Self::InSegment => LatencyComponent::Chunking,
            Self::Requested => LatencyComponent::Polling,
            Self::Received => LatencyComponent::LastMile,
            // It waits in the buffer as a unit before the decoder, and as a picture after it.
            Self::Merged | Self::Buffered | Self::Presented => LatencyComponent::Buffering,
            Self::Decoded => LatencyComponent::Decoding,
        }
    }
}

/// A component of the glass-to-glass latency, in order. Upload, chunking, polling, last mile and buffering are those of Wang et al.,
/// "Anatomy of a Personalized Livestreaming System" (IMC 2016).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LatencyComponent {
    /// From capture through the encoder.
    Encoding,
    /// In the broadcaster's send queue.
    Queue,
    /// From the broadcaster to the server.
    Upload,
    /// In a server that forwards single units.
    Server,
    /// In a server that cuts segments: until the part or segment is complete and listed.
    Chunking,
    /// From the listing until the viewer requests it.
    Polling,
    /// From the server to the viewer, and everything before that no stage was reported for.
    LastMile,
    /// In the viewer's buffer, before and after the decoder.
    Buffering,
    /// In the viewer's decoder.
    Decoding,
}

impl LatencyComponent {
    /// All components, in order.
    pub const ALL: [Self; 9] = [
        Self::Encoding,
        Self::Queue,
        Self::Upload,
        Self::Server,
        Self::Chunking,
        Self::Polling,
        Self::LastMile,
        Self::Buffering,
        Self::Decoding,
    ];

    /// Its name in statistics and metrics: lower case with underscores, `last_mile`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Encoding => "encoding",
            Self::Queue => "queue",
            Self::Upload => "upload",
            Self::Server => "server",
            Self::Chunking => "chunking",
            Self::Polling => "polling",
            Self::LastMile => "last_mile",
            Self::Buffering => "buffering",
            Self::Decoding => "decoding",
        }
    }
}

/// How a unit reached the viewer. A server records the stages of all deliveries; [`StageTimes::components`] uses those of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeliveryMode {
    /// From the broadcaster, on the LAN.
    Direct,
    /// Through a server, as single units: RTMP, the relay protocol.
    Units,
    /// Through a server, in parts: low-latency HLS.
    Parts,
    /// Through a server, in segments: HLS.
    Segments,
}

impl DeliveryMode {
    /// The deliveries of a server.
    pub const FROM_SERVER: [Self; 3] = [Self::Units, Self::Parts, Self::Segments];

    /// The name in statistics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Units => "units",
            Self::Parts => "parts",
            Self::Segments => "segments",
        }
    }

    /// The component of the time from a server's reception of a unit to its delivery.
    pub const fn server_component(self) -> LatencyComponent {
        match self {
            Self::Direct | Self::Units => LatencyComponent::Server,
            Self::Parts | Self::Segments => LatencyComponent::Chunking,
        }
    }

    const fn passes(self, stage: Stage) -> bool {
        match stage {
            Stage::Sent | Stage::Ingested => !matches!(self, Self::Direct),
            Stage::Relayed => matches!(self, Self::Direct | Self::Units),
            Stage::InPart => matches!(self, Self::Parts),
            Stage::InSegment => matches!(self, Self::Segments),
            Stage::Requested => matches!(self, Self::Parts | Self::Segments),
            _ => true,
        }
    }
}

/// The wall-clock time at which one access unit passed each stage, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageTimes([Option<WallClock>; STAGES]);

impl StageTimes {
    /// Sets the time of `stage`, replacing an earlier one.
    pub fn stamp(&mut self, stage: Stage, at: WallClock) {
        self.0[stage as usize] = Some(at);
    }

    /// The time of `stage`; `None` if it is not known.
    pub fn at(&self, stage: Stage) -> Option<WallClock> {
        self.0[stage as usize]
    }

    /// Signed microseconds from one stage to another; `None` unless both are known. Only meaningful if both are on one clock.
    pub fn micros(&self, from: Stage, to: Stage) -> Option<i64> {
        Some(self.at(to)?.micros_since(self.at(from)?))
    }

    /// The components of the latency in signed microseconds, for a unit delivered by `delivery`. They add up to the time from the first known stage to
    /// the last. The time before an unknown stage counts for the next known one. The time in a blocking request counts as server time, not as
    /// polling. A component may come more than once.
    pub fn components(&self, delivery: DeliveryMode) -> impl Iterator<Item = (LatencyComponent, i64)> {
        let mut before: Option<WallClock> = None;
        let stamps = *self;
        Stage::ALL.into_iter().filter(move |stage| delivery.passes(*stage)).filter_map(move |stage| {
            let mut at = stamps.at(stage)?;
            if stage == Stage::Requested {
                at = at.max(before.unwrap_or(at));
            }
            let part = before.map(|before| (stage.component(), at.micros_since(before)));
            before = Some(at);
            part
        })
    }
}

const STAGES: usize = 13;

#[cfg(test)]
mod tests {
    use super::*;

    fn stamps(stages: &[(Stage, i64)]) -> StageTimes {
        let mut stamps = StageTimes::default();
        stages.iter().for_each(|(stage, millis)| stamps.stamp(*stage, WallClock::from_micros(millis * 1000)));
        stamps
    }

    #[track_caller]
    fn check(stamps: &StageTimes, by: DeliveryMode, expected: &[(LatencyComponent, i64)]) {
        let found: Vec<_> = stamps.components(by).map(|(part, micros)| (part, micros / 1000)).collect();
        assert_eq!(found, expected, "{by:?}");
    }

    #[test]
    fn the_time_between_two_stages() {
        let stamps = stamps(&[(Stage::Captured, 1)]);
        assert_eq!(stamps.micros(Stage::Captured, Stage::Presented), None);
        let mut stamps = stamps;
        stamps.stamp(Stage::Presented, WallClock::from_micros(41_000));
        assert_eq!(stamps.micros(Stage::Captured, Stage::Presented), Some(40_000));
    }

    #[test]
    fn components_depend_on_the_delivery_and_add_up() {
        use Stage::*;
        let all = stamps(&[
            (Captured, 0),
            (Encoded, 8),
            (Sent, 9),
            (Ingested, 40),
            (Relayed, 41),
            (InPart, 230),
            (InSegment, 2040),
            (Requested, 2100),
            (Received, 2130),
            (Buffered, 2200),
            (Decoded, 2203),
            (Presented, 2216),
        ]);
        let (head, tail) = (
            [(LatencyComponent::Encoding, 8), (LatencyComponent::Queue, 1), (LatencyComponent::Upload, 31)],
            [(LatencyComponent::Buffering, 70), (LatencyComponent::Decoding, 3), (LatencyComponent::Buffering, 13)],
        );
        let with = |middle: &[(LatencyComponent, i64)]| [&head[..], middle, &tail[..]].concat();
        check(&all, DeliveryMode::Units, &with(&[(LatencyComponent::Server, 1), (LatencyComponent::LastMile, 2089)]));
        check(
            &all,
            DeliveryMode::Parts,
            &with(&[
                (LatencyComponent::Chunking, 190),
                (LatencyComponent::Polling, 1870),
                (LatencyComponent::LastMile, 30),
            ]),
        );
        check(
            &all,
            DeliveryMode::Segments,
            &with(&[
                (LatencyComponent::Chunking, 2000),
                (LatencyComponent::Polling, 60),
                (LatencyComponent::LastMile, 30),
            ]),
        );
        let direct = [
            &[(LatencyComponent::Encoding, 8), (LatencyComponent::Server, 33), (LatencyComponent::LastMile, 2089)],
            &tail[..],
        ]
        .concat();
        check(&all, DeliveryMode::Direct, &direct);
        for by in [DeliveryMode::Direct, DeliveryMode::Units, DeliveryMode::Parts, DeliveryMode::Segments] {
            let sum: i64 = all.components(by).map(|(_, micros)| micros).sum();
            assert_eq!(Some(sum), all.micros(Captured, Presented), "{by:?}");
        }
    }

    #[test]
    fn a_blocking_request_has_no_polling_time() {
        use Stage::*;
        let early = stamps(&[(Captured, 0), (InPart, 200), (Requested, 50), (Received, 210)]);
        check(
            &early,
            DeliveryMode::Parts,
            &[(LatencyComponent::Chunking, 200), (LatencyComponent::Polling, 0), (LatencyComponent::LastMile, 10)],
        );
    }

    #[test]
    fn time_without_reported_stages_counts_as_last_mile() {
        let plain = stamps(&[(Stage::Captured, 0), (Stage::Received, 90), (Stage::Presented, 120)]);
        check(&plain, DeliveryMode::Units, &[(LatencyComponent::LastMile, 90), (LatencyComponent::Buffering, 30)]);
        check(&StageTimes::default(), DeliveryMode::Units, &[]);
    }

    #[test]
    fn stage_names_round_trip() {
        assert!(Stage::ALL.into_iter().all(|stage| Stage::named(stage.name()) == Some(stage)));
        assert_eq!(Stage::named("Captured"), None);
        assert!(Stage::ALL.windows(2).all(|two| two[0] < two[1]));
    }
}
