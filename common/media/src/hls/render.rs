//! From a snapshot to the media playlist that a server gives out, whole or as a delta update (RFC 8216bis §4.4, §6.2.5.1).
//!
//! There is one rendition, so there are no rendition reports: they tell a client where the others are.

use std::sync::Arc;
use std::time::Duration;

use super::playlist::{Map, MediaPart, MediaPlaylist, MediaSegment, PreloadHint, ServerControl, TrailingParts};
use super::snapshot::{Playlist, Resource, Segment};

/// The media playlist of a snapshot; `None` until there is a segment to list.
pub fn media_playlist(playlist: &Playlist) -> Option<String> {
    to_media_playlist(playlist).map(|listing| listing.to_string())
}

/// The same without the segments that a client has which saw the playlist a moment ago (`_HLS_skip=YES`). The whole where nothing may
/// be left out.
pub fn delta_update(playlist: &Playlist) -> Option<String> {
    to_media_playlist(playlist).map(|listing| skipped(listing).to_string())
}

/// The media playlist as a value.
pub(super) fn to_media_playlist(playlist: &Playlist) -> Option<MediaPlaylist> {
    let first = playlist.segments.first()?;
    let target_duration = Duration::from_secs(playlist.target_duration);
    let mut listing = MediaPlaylist {
        version: version(playlist),
        target_duration,
        media_sequence: first.msn,
        discontinuity_sequence: playlist.discontinuity_sequence,
        independent_segments: playlist.independent,
        segments: playlist.segments.iter().map(|segment| media_segment(segment)).collect(),
        end_list: playlist.ended,
        ..MediaPlaylist::default()
    };
    if !playlist.low_latency {
        return Some(listing);
    }
    listing.part_target = Some(playlist.part_target);
    listing.server_control = ServerControl {
        can_block_reload: true,
        can_skip_until: Some(target_duration * SKIP_UNTIL),
        hold_back: None,
        part_hold_back: Some(playlist.part_target * PART_HOLD_BACK),
    };
    // From the end back: what is near the live edge is listed by parts too.
    let mut behind = playlist.open.as_ref().map_or(Duration::ZERO, |open| open.duration);
    for (listed, segment) in listing.segments.iter_mut().zip(&playlist.segments).rev() {
        if behind >= target_duration * PARTS_LISTED {
            break;
        }
        behind += segment.duration;
        listed.parts = parts(segment);
    }
    listing.trailing = trailing(playlist, listing.segments.last().and_then(|last| last.map.clone()));
    Some(listing)
}

/// What the version of a playlist must be (RFC 8216bis §8): 9 for delta updates; 7 is what RFC 8216 recommends for fragmented MP4.
pub(super) fn version(playlist: &Playlist) -> u64 {
    if playlist.low_latency { 9 } else { 7 }
}

fn media_segment(segment: &Segment) -> MediaSegment {
    MediaSegment {
        uri: Resource::Segment(segment.msn).to_string(),
        duration: segment.duration,
        discontinuity: segment.discontinuity,
        map: Some(Arc::new(Map { uri: Resource::Init(segment.init).to_string(), byte_range: None })),
        program_date_time: Some(segment.program_date_time),
        ..MediaSegment::default()
    }
}

fn parts(segment: &Segment) -> Vec<MediaPart> {
    let part = |(index, part): (usize, &super::Part)| MediaPart {
        uri: Resource::Part(segment.msn, index as u64).to_string(),
        duration: part.duration,
        independent: part.independent,
        ..MediaPart::default()
    };
    segment.parts.iter().enumerate().map(part).collect()
}

/// The parts of the segment in the making, and the hint at the next.
fn trailing(playlist: &Playlist, map: Option<Arc<Map>>) -> TrailingParts {
    let head = match &playlist.open {
        Some(open) => {
            MediaSegment { uri: String::new(), duration: Duration::ZERO, parts: parts(open), ..media_segment(open) }
        }
        None => MediaSegment { map, ..MediaSegment::default() },
    };
    let hint = playlist.preload_hint().map(|(msn, index)| PreloadHint {
        is_map: false,
        uri: Resource::Part(msn, index).to_string(),
        start: 0,
        length: None,
    });
    TrailingParts { head, preload_hint: hint }
}

/// Leaves out the segments that end before the skip boundary, counted from the end of the playlist.
fn skipped(mut listing: MediaPlaylist) -> MediaPlaylist {
    let Some(boundary) = listing.server_control.can_skip_until.filter(|_| !listing.end_list) else { return listing };
    let open: Duration = listing.trailing.head.parts.iter().map(|part| part.duration).sum();
    let mut behind = open + listing.duration();
    let can_go = |segment: &&MediaSegment| {
        behind = behind.saturating_sub(segment.duration);
        behind >= boundary
    };
    let count = listing.segments.iter().take_while(can_go).count();
    listing.segments.drain(..count);
    listing.skipped = count as u64;
    listing
}

/// `PART-HOLD-BACK` in part targets: the least that is recommended (RFC 8216bis §4.4.3.8).
const PART_HOLD_BACK: u32 = 3;
/// `CAN-SKIP-UNTIL` in target durations: the least that is allowed (§4.4.3.8).
const SKIP_UNTIL: u32 = 6;
/// How many target durations from the end parts are listed: the least that is allowed (§6.2.2).
const PARTS_LISTED: u32 = 3;
