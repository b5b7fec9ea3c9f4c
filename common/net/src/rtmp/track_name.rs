//! The text form of a track in Nearcast's RTMP properties: `v0`, `a1`.

use media::access_unit::{TrackId, TrackKind};

/// Parses the form that `TrackId`'s `Display` writes: `v` or `a`, then the index from 0 to 255.
pub fn parse_track(text: &str) -> Option<TrackId> {
    let kind = match text.as_bytes().first()? {
        b'v' => TrackKind::Video,
        b'a' => TrackKind::Audio,
        _ => return None,
    };
    Some(TrackId { kind, index: text.get(1..)?.parse().ok()? })
}
