//! The track assembler without a protocol.

use std::time::{Duration, Instant};

use bytes::Bytes;
use media::codec::{Codec, CodecConfig, Format};
use media::{AccessUnit, Epoch, Timestamp, Track, TrackId};

use super::pending::{ExpectedTracks, PendingLimits};
use super::track_assembler::{Assembled, TrackAssembler};

const LIMITS: PendingLimits = PendingLimits { track_wait: Duration::from_secs(1), max_pending_bytes: 1000 };
const V: TrackId = TrackId::VIDEO;
const A: TrackId = TrackId::AUDIO;

fn times(units: &[Assembled]) -> Vec<(TrackId, i64)> {
    units.iter().map(|Assembled { unit, .. }| (unit.track, unit.dts.as_millis())).collect()
}

/// Feeds the assembler like a protocol with 64-bit timestamps and no tags.
#[test]
fn the_assembler_needs_no_protocol() {
    let now = Instant::now();
    let track = |id, codec, format| Track { id, config: CodecConfig { codec, record: Bytes::new(), format } };
    let video = track(V, Codec::Vp9, Format::Video { width: 16, height: 16 });
    let audio = track(A, Codec::Opus, Format::Audio { sample_rate: 48_000, channels: 2 });
    let unit = |track, dts| {
        let dts = Timestamp::from_millis(dts);
        AccessUnit { epoch: Epoch(0), track, dts, pts: dts, random_access: true, payload: Bytes::from_static(b"x") }
    };
    let mut assembler = TrackAssembler::new(LIMITS, Some((Epoch(7), Timestamp::from_millis(1000))));
    assembler.begin_stated_epoch(Epoch(8), now, |dts| dts).unwrap();
    let expected = ExpectedTracks { video: true, audio: true };
    assembler.on_metadata(media::catalog::Metadata::new(), None, expected, now);
    assert!(assembler.on_unit(unit(V, 0), now).is_empty(), "of a track that is not known");
    assembler.on_track(video);
    assert!(assembler.on_unit(unit(V, 40), now).is_empty() && assembler.flush_if_due().is_empty());
    // A gap applies to later units, not to waiting ones.
    let ready = assembler.on_gap(Epoch(8), V, Some(Timestamp::from_millis(400)));
    assert_eq!((times(&ready), ready[0].predecessor_dts), (vec![(V, 40)], None));
    let ready = assembler.on_unit(unit(V, 440), now);
    assert_eq!(ready[0].predecessor_dts, Some(Timestamp::from_millis(400)));
    let tracks = ready[0].catalog.tracks.len();
    assembler.on_track(audio);
    let ready = assembler.on_unit(unit(A, 450), now);
    assert_eq!((tracks, ready[0].catalog.tracks.len(), ready[0].unit.epoch), (1, 2, Epoch(8)));
}
