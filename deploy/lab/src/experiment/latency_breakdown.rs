//! The glass-to-glass latency of each frame, from the traces of broadcaster, server and viewer, divided into the six components of Wang et al.,
//! "Anatomy of a Personalized Livestreaming System" (IMC 2016).

use std::collections::BTreeMap;

use media::WallClock;
use media::latency::{DeliveryMode, LatencyComponent, Stage, StageTimes};

use super::trace_reader::TraceRow;
use crate::load::Protocol;

/// The paper's components of latency, in the order in which they pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ImcComponent {
    /// From capture to the server, including the encoder and the broadcaster's queue, as in the paper.
    Upload,
    /// Until the part or segment is complete; for protocols that push units, until the server forwards the unit.
    Chunking,
    /// From the origin to the edge server that the viewer uses.
    OriginToEdge,
    /// Until the viewer's request.
    Polling,
    /// From the server to the viewer.
    LastMile,
    /// In the viewer until presentation, including the decoder.
    Buffering,
}

impl ImcComponent {
    pub(super) const ALL: [ImcComponent; 6] = [
        ImcComponent::Upload,
        ImcComponent::Chunking,
        ImcComponent::OriginToEdge,
        ImcComponent::Polling,
        ImcComponent::LastMile,
        ImcComponent::Buffering,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            ImcComponent::Upload => "upload",
            ImcComponent::Chunking => "chunking",
            ImcComponent::OriginToEdge => "origin to edge",
            ImcComponent::Polling => "polling",
            ImcComponent::LastMile => "last mile",
            ImcComponent::Buffering => "buffering",
        }
    }

    const fn of(part: LatencyComponent) -> ImcComponent {
        match part {
            LatencyComponent::Encoding | LatencyComponent::Queue | LatencyComponent::Upload => ImcComponent::Upload,
            LatencyComponent::Server | LatencyComponent::Chunking => ImcComponent::Chunking,
            LatencyComponent::Polling => ImcComponent::Polling,
            LatencyComponent::LastMile => ImcComponent::LastMile,
            LatencyComponent::Buffering | LatencyComponent::Decoding => ImcComponent::Buffering,
        }
    }
}

/// The latency of one presented frame and its components.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Breakdown {
    pub(super) captured: i64,
    pub(super) presented: i64,
    /// Microseconds, in the order of [`LatencyComponent::ALL`].
    parts: [i64; LatencyComponent::ALL.len()],
}

impl Breakdown {
    /// Glass-to-glass latency, milliseconds.
    pub(super) fn total_ms(&self) -> f64 {
        (self.presented - self.captured) as f64 / 1e3
    }

    /// One of the viewer's own components, milliseconds.
    pub(super) fn part_ms(&self, part: LatencyComponent) -> f64 {
        self.parts[part as usize] as f64 / 1e3
    }

    /// One of the paper's components, milliseconds.
    pub(super) fn imc_ms(&self, component: ImcComponent) -> f64 {
        // Starts at zero, because an empty sum is negative zero.
        LatencyComponent::ALL
            .into_iter()
            .filter(|part| ImcComponent::of(*part) == component)
            .fold(0.0, |sum, part| sum + self.part_ms(part))
    }
}

/// The breakdown of every presented frame that all programs have traced, by DTS, and the number of presented frames with missing stages.
pub(super) fn join(
    protocol: Protocol,
    broadcaster: &[TraceRow],
    server: &[TraceRow],
    viewer: &[TraceRow],
) -> (Vec<Breakdown>, usize) {
    let delivery = delivery(protocol);
    let mut pictures: BTreeMap<i64, StageTimes> = BTreeMap::new();
    for row in broadcaster.iter().chain(server).chain(viewer).filter(|row| row.track.starts_with('v')) {
        // Where sending is not traced, handing over to the connection is the closest stage.
        let Some(stage) = Stage::named(&row.stage).or((row.stage == "pushed").then_some(Stage::Sent)) else { continue };
        // The server also forwards it by other protocols.
        if stage == Stage::Relayed && row.path != protocol.name() {
            continue;
        }
        let stamps = pictures.entry(row.dts).or_default();
        let at = WallClock::from_micros(row.at);
        // The first copy counts.
        if stamps.at(stage).is_none_or(|before| at < before) {
            stamps.stamp(stage, at);
        }
    }
    let shown = pictures.values().filter(|stamps| stamps.at(Stage::Presented).is_some());
    let (mut breakdowns, mut incomplete) = (Vec::new(), 0);
    for stamps in shown {
        let is_whole = needed(delivery).iter().all(|stage| stamps.at(*stage).is_some());
        let ends = stamps.at(Stage::Captured).zip(stamps.at(Stage::Presented)).filter(|_| is_whole);
        let Some((captured, presented)) = ends else {
            incomplete += 1;
            continue;
        };
        let mut parts = [0; LatencyComponent::ALL.len()];
        stamps.components(delivery).for_each(|(part, micros)| parts[part as usize] += micros);
        breakdowns.push(Breakdown { captured: captured.as_micros(), presented: presented.as_micros(), parts });
    }
    (breakdowns, incomplete)
}

fn delivery(protocol: Protocol) -> DeliveryMode {
    match protocol {
        Protocol::Rtmp | Protocol::Relay => DeliveryMode::Units,
        Protocol::LowLatencyHls => DeliveryMode::Parts,
        Protocol::Hls => DeliveryMode::Segments,
    }
}

/// The stages that must be traced: without one of them its time would be attributed to the next component.
fn needed(delivery: DeliveryMode) -> &'static [Stage] {
    match delivery {
        DeliveryMode::Parts => {
            &[Stage::Captured, Stage::Ingested, Stage::InPart, Stage::Requested, Stage::Received, Stage::Buffered]
        }
        DeliveryMode::Segments => {
            &[Stage::Captured, Stage::Ingested, Stage::InSegment, Stage::Requested, Stage::Received, Stage::Buffered]
        }
        _ => &[Stage::Captured, Stage::Ingested, Stage::Relayed, Stage::Received, Stage::Buffered],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(stage: &str, dts: i64, path: &str, millis: i64) -> TraceRow {
        let (stage, path) = (stage.to_owned(), path.to_owned());
        TraceRow { stage, track: "v0".into(), dts, random_access: false, bytes: 1, path, at: millis * 1000 }
    }

    fn sum(breakdown: &Breakdown) -> f64 {
        ImcComponent::ALL.into_iter().map(|component| breakdown.imc_ms(component)).sum()
    }

    #[test]
    fn the_imc_components_add_up_to_the_total() {
        let broadcaster = [row("captured", 0, "", 0), row("encoded", 0, "", 8), row("pushed", 0, "", 9)];
        let server = [
            row("ingested", 0, "", 40),
            row("relayed", 0, "relay", 41),
            row("relayed", 0, "rtmp", 42),
            row("in_part", 0, "", 230),
            row("in_segment", 0, "", 2040),
        ];
        let viewer = [
            row("requested", 0, "", 2100),
            row("received", 0, "", 2130),
            row("received", 0, "", 2140),
            row("merged", 0, "", 2131),
            row("buffered", 0, "", 2200),
            row("decoded", 0, "", 2203),
            row("presented", 0, "", 2216),
        ];
        let of = |protocol| {
            let (breakdowns, incomplete) = join(protocol, &broadcaster, &server, &viewer);
            assert_eq!((breakdowns.len(), incomplete), (1, 0), "{protocol:?}");
            assert_eq!(sum(&breakdowns[0]), breakdowns[0].total_ms(), "{protocol:?}");
            ImcComponent::ALL.map(|component| breakdowns[0].imc_ms(component))
        };
        assert_eq!(of(Protocol::Rtmp), [40.0, 2.0, 0.0, 0.0, 2088.0, 86.0]);
        assert_eq!(of(Protocol::Relay), [40.0, 1.0, 0.0, 0.0, 2089.0, 86.0]);
        assert_eq!(of(Protocol::LowLatencyHls), [40.0, 190.0, 0.0, 1870.0, 30.0, 86.0]);
        assert_eq!(of(Protocol::Hls), [40.0, 2000.0, 0.0, 60.0, 30.0, 86.0]);
    }

    #[test]
    fn pictures_with_missing_stages_are_counted() {
        let broadcaster = [row("captured", 0, "", 0), row("captured", 40, "", 40)];
        let server = [row("ingested", 0, "", 30), row("relayed", 0, "rtmp", 30), row("ingested", 40, "", 70)];
        let viewer = |dts| [row("received", dts, "", 99), row("buffered", dts, "", 99), row("presented", dts, "", 120)];
        let viewer = [viewer(0), viewer(40)].concat();
        let (breakdowns, incomplete) = join(Protocol::Rtmp, &broadcaster, &server, &viewer);
        assert_eq!((breakdowns.len(), incomplete), (1, 1));
        assert_eq!(
            (breakdowns[0].imc_ms(ImcComponent::Upload), breakdowns[0].part_ms(LatencyComponent::Upload)),
            (30.0, 30.0)
        );
    }
}
