//! Latency: where the time between lens and eye goes, and how it is distributed.
//!
//! Every stage stamps a unit with the wall clock of its own host ([`StageTimes`]); hosts keep the stamps of the last units
//! ([`TimingLog`]) and tell them on; how far two hosts' clocks are apart, and how surely, says [`ClockOffset`]. With all stamps on one
//! clock, [`StageTimes::components`] says where the time went, and the parts add up to the whole. Pure: instants are parameters.

mod histogram;
mod offset;
mod timing_report;
mod unit_timing;

pub use self::histogram::Histogram;
pub use self::offset::{ClockOffset, Exchange, OffsetEstimator};
pub use self::timing_report::{MAX_UNITS, TimingReport};
pub use self::unit_timing::{TimingLog, UnitTiming};

use crate::time::WallClock;

/// A point in the life of an access unit, in the order in which it passes them. Not every unit passes each: see [`StageTimes::components`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// The picture left the lens, or the sound the microphone: wall-clock time of its PTS.
    Captured,
    /// The broadcaster's encoder gave it.
    Encoded,
    /// The broadcaster handed it to the connection that it pushes over.
    Sent,
    /// A server has read the whole of it.
    Ingested,
    /// A server (the broadcaster itself, for a viewer on its network) first handed it to a connection, by RTMP or the relay protocol.
    Relayed,
    /// The playlist lists a part that it is in (RFC 8216bis §4.4.4.9).
    InPart,
    /// The playlist lists a whole segment that it is in.
    InSegment,
    /// The viewer asked for what it is in.
    Requested,
    /// It came out of the viewer's source: the network is behind it.
    Received,
    /// It came out of the path merger: of several copies the first, in its place.
    Merged,
    /// It left the viewer's buffer for the decoder.
    Buffered,
    /// Its picture came out of the decoder.
    Decoded,
    /// Its picture was shown.
    Presented,
}

impl Stage {
    /// All of them, in order.
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

    /// The name in statistics and on the wire.
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

    /// The stage of that [`name`](Self::name).
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.name() == name)
    }

    /// What the time that ends with this stage is spent on.
    pub const fn component(self) -> LatencyComponent {
        match self {
            Self::Captured | Self::Encoded => LatencyComponent::Encoding,
            Self::Sent => LatencyComponent::Queue,
            Self::Ingested => LatencyComponent::Upload,
            Self::Relayed => LatencyComponent::Server,
            Self::InPart | Self::InSegment => LatencyComponent::Chunking,
            Self::Requested => LatencyComponent::Polling,
            Self::Received => LatencyComponent::LastMile,
            // Whether it waits as a unit or as a picture, it is the buffer that it waits in.
            Self::Merged | Self::Buffered | Self::Presented => LatencyComponent::Buffering,
            Self::Decoded => LatencyComponent::Decoding,
        }
    }
}

/// What time is spent on, in the order in which it is. Upload, chunking, polling, last mile and buffering are those of Wang et al.,
/// "Anatomy of a Personalized Livestreaming System" (IMC 2016).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LatencyComponent {
    /// From the lens through the encoder.
    Encoding,
    /// In the broadcaster, before the connection takes it.
    Queue,
    /// On the way to the server.
    Upload,
    /// In the server that passes it on as it comes.
    Server,
    /// In the server, until what it is cut into is whole and listed.
    Chunking,
    /// Until the viewer asks for what is listed.
    Polling,
    /// On the way to the viewer; and whatever before it no stage has told of.
    LastMile,
    /// In the viewer's buffer: before the decoder, and after it until it is shown.
    Buffering,
    /// In the decoder.
    Decoding,
}

impl LatencyComponent {
    /// All of them, in order.
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

    /// The name in statistics.
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

/// By which of its ways a unit came, for [`StageTimes::components`]: a server stamps it for all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Delivery {
    /// Straight from the broadcaster.
    Direct,
    /// Through a server, unit by unit: RTMP, the relay protocol.
    Units,
    /// Through a server, in parts of segments.
    Parts,
    /// Through a server, in segments.
    Segments,
}

impl Delivery {
    /// The ways of a server.
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

    /// What the time between a server's having a unit and its giving it out is spent on.
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

/// When one access unit passed each stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageTimes([Option<WallClock>; STAGES]);

impl StageTimes {
    /// Notes that `stage` was passed at `at`.
    pub fn stamp(&mut self, stage: Stage, at: WallClock) {
        self.0[stage as usize] = Some(at);
    }

    /// When `stage` was passed.
    pub fn at(&self, stage: Stage) -> Option<WallClock> {
        self.0[stage as usize]
    }

    /// Signed microseconds from one stage to another; `None` unless both are known.
    pub fn micros(&self, from: Stage, to: Stage) -> Option<i64> {
        Some(self.at(to)?.micros_since(self.at(from)?))
    }

    /// Where the time went, from the first known stage on that a unit passes on its way `by`, in signed microseconds: they add up to
    /// the time from the first known stage to the last. A stage that is not known is counted with the one after it. Whoever asks for what
    /// is not there yet waits for the server, and not the server for it: then there is no polling. A part may come more than once.
    pub fn components(&self, delivery: Delivery) -> impl Iterator<Item = (LatencyComponent, i64)> {
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
    fn check(stamps: &StageTimes, by: Delivery, expected: &[(LatencyComponent, i64)]) {
        let found: Vec<_> = stamps.components(by).map(|(part, micros)| (part, micros / 1000)).collect();
        assert_eq!(found, expected, "{by:?}");
    }

    #[test]
    fn stamps_give_differences() {
        let stamps = stamps(&[(Stage::Captured, 1)]);
        assert_eq!(stamps.micros(Stage::Captured, Stage::Presented), None);
        let mut stamps = stamps;
        stamps.stamp(Stage::Presented, WallClock::from_micros(41_000));
        assert_eq!(stamps.micros(Stage::Captured, Stage::Presented), Some(40_000));
    }

    #[test]
    fn parts_are_those_of_the_way_and_add_up() {
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
        check(&all, Delivery::Units, &with(&[(LatencyComponent::Server, 1), (LatencyComponent::LastMile, 2089)]));
        check(
            &all,
            Delivery::Parts,
            &with(&[
                (LatencyComponent::Chunking, 190),
                (LatencyComponent::Polling, 1870),
                (LatencyComponent::LastMile, 30),
            ]),
        );
        check(
            &all,
            Delivery::Segments,
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
        check(&all, Delivery::Direct, &direct);
        for by in [Delivery::Direct, Delivery::Units, Delivery::Parts, Delivery::Segments] {
            let sum: i64 = all.components(by).map(|(_, micros)| micros).sum();
            assert_eq!(Some(sum), all.micros(Captured, Presented), "{by:?}");
        }
    }

    #[test]
    fn what_is_asked_for_in_advance_was_not_polled_for() {
        use Stage::*;
        let early = stamps(&[(Captured, 0), (InPart, 200), (Requested, 50), (Received, 210)]);
        check(
            &early,
            Delivery::Parts,
            &[(LatencyComponent::Chunking, 200), (LatencyComponent::Polling, 0), (LatencyComponent::LastMile, 10)],
        );
    }

    #[test]
    fn what_nobody_told_of_is_the_last_mile_s() {
        let plain = stamps(&[(Stage::Captured, 0), (Stage::Received, 90), (Stage::Presented, 120)]);
        check(&plain, Delivery::Units, &[(LatencyComponent::LastMile, 90), (LatencyComponent::Buffering, 30)]);
        check(&StageTimes::default(), Delivery::Units, &[]);
    }

    #[test]
    fn names_are_read_back() {
        assert!(Stage::ALL.into_iter().all(|stage| Stage::named(stage.name()) == Some(stage)));
        assert_eq!(Stage::named("Captured"), None);
        assert!(Stage::ALL.windows(2).all(|two| two[0] < two[1]));
    }
}
