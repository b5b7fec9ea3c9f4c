//! From a snapshot of the available segments to the text of playlists: multivariant, media, and delta updates (RFC 8216bis §4.4, §6.2.5.1).
//!
//! There is one rendition, so no rendition reports are written: they tell a client about other renditions.

use std::sync::Arc;
use std::time::Duration;

use m3u8_rs::{MasterPlaylist, Resolution, VariantStream};

use super::playlist::{Map, MediaPart, MediaPlaylist, MediaSegment, PreloadHint, ServerControl, TrailingParts};
use super::resource::Resource;
use crate::cmaf::{Part, Segment, SegmentWindow};
use crate::codec::Format;
use crate::fmp4::rendition;

/// The media playlist; `None` until a segment is complete.
pub fn media_playlist(window: &SegmentWindow) -> Option<String> {
    to_media_playlist(window).map(|playlist| playlist.to_string())
}

/// The playlist delta update for a client that has loaded the playlist recently (`_HLS_skip=YES`): without the segments older than the skip
/// boundary. The full playlist if no segment may be skipped; `None` until a segment is complete.
pub fn delta_update(window: &SegmentWindow) -> Option<String> {
    to_media_playlist(window).map(|playlist| skip_old(playlist).to_string())
}

/// The multivariant playlist, with the media playlist at `uri` as its only variant; `None` until a segment is complete.
pub fn multivariant(window: &SegmentWindow, uri: &str) -> Option<String> {
    let bandwidth = window.bandwidth()?;
    let catalog = window.catalog()?;
    let codecs: Vec<_> = rendition(catalog).map(|track| track.config.rfc6381()).collect();
    let resolution = catalog.video().and_then(|video| match video.config.format {
        Format::Video { width: width @ 1.., height: height @ 1.. } => {
            Some(Resolution { width: width.into(), height: height.into() })
        }
        _ => None,
    });
    let master = MasterPlaylist {
        version: Some(VERSION as usize),
        variants: vec![VariantStream {
            uri: uri.to_owned(),
            bandwidth: bandwidth.peak,
            average_bandwidth: Some(bandwidth.average),
            codecs: Some(codecs.join(",")),
            resolution,
            frame_rate: window.frame_rate(),
            ..VariantStream::default()
        }],
        ..MasterPlaylist::default()
    };
    let mut text = Vec::new();
    master.write_to(&mut text).expect("writing to memory does not fail");
    Some(String::from_utf8(text).expect("a playlist is made of strings"))
}

/// The media playlist as a value, with all low-latency tags if the window has `low_latency`.
pub(super) fn to_media_playlist(window: &SegmentWindow) -> Option<MediaPlaylist> {
    let first = window.segments.first()?;
    let target_duration = Duration::from_secs(window.target_duration);
    let mut playlist = MediaPlaylist {
        version: VERSION,
        target_duration,
        media_sequence: first.msn,
        discontinuity_sequence: window.discontinuity_sequence,
        segments: window.segments.iter().map(|segment| media_segment(segment)).collect(),
        end_list: window.ended,
        ..MediaPlaylist::default()
    };
    if !window.low_latency {
        return Some(playlist);
    }
    playlist.part_target = Some(window.part_target);
    playlist.server_control = ServerControl {
        can_block_reload: true,
        can_skip_until: Some(target_duration * SKIP_UNTIL),
        hold_back: None,
        part_hold_back: Some(window.part_target * PART_HOLD_BACK),
    };
    // Only segments near the live edge list their parts.
    let mut behind = window.open.as_ref().map_or(Duration::ZERO, |open| open.duration);
    for (listed, segment) in playlist.segments.iter_mut().zip(&window.segments).rev() {
        if behind >= target_duration * PARTS_LISTED {
            break;
        }
        behind += segment.duration;
        if segment.lists_parts {
            listed.parts = parts(segment);
        }
    }
    playlist.trailing = trailing(window, playlist.segments.last().and_then(|last| last.map.clone()));
    Some(playlist)
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
    let part = |(index, part): (usize, &Part)| MediaPart {
        uri: Resource::Part(segment.msn, index as u64).to_string(),
        duration: part.duration,
        independent: part.independent,
        ..MediaPart::default()
    };
    segment.parts.iter().enumerate().map(part).collect()
}

/// The parts of the segment in progress, and the preload hint for the next part.
fn trailing(window: &SegmentWindow, map: Option<Arc<Map>>) -> TrailingParts {
    let head = match &window.open {
        Some(open) => {
            MediaSegment { uri: String::new(), duration: Duration::ZERO, parts: parts(open), ..media_segment(open) }
        }
        None => MediaSegment { map, ..MediaSegment::default() },
    };
    let hint = window.preload_hint().map(|(msn, index)| PreloadHint {
        is_map: false,
        uri: Resource::Part(msn, index).to_string(),
        start: 0,
        length: None,
    });
    TrailingParts { head, preload_hint: hint }
}

/// Replaces the segments that end before the skip boundary by `EXT-X-SKIP`. The boundary counts back from the end of the playlist.
fn skip_old(mut playlist: MediaPlaylist) -> MediaPlaylist {
    let Some(boundary) = playlist.server_control.can_skip_until.filter(|_| !playlist.end_list) else { return playlist };
    let open: Duration = playlist.trailing.head.parts.iter().map(|part| part.duration).sum();
    let mut behind = open + playlist.duration();
    let can_go = |segment: &&MediaSegment| {
        behind = behind.saturating_sub(segment.duration);
        behind >= boundary
    };
    let count = playlist.segments.iter().take_while(can_go).count();
    playlist.segments.drain(..count);
    playlist.skipped = count as u64;
    if playlist.skipped > 0 {
        playlist.version = SKIP_VERSION;
    }
    playlist
}

/// `EXT-X-VERSION`, the lowest that the tags permit: `EXT-X-MAP` without `EXT-X-I-FRAMES-ONLY` requires 6 (RFC 8216bis §8). No low-latency tag but
/// `EXT-X-SKIP` requires more, and clients must not play versions that they do not know.
const VERSION: u64 = 6;
/// `EXT-X-VERSION` of a playlist with `EXT-X-SKIP` (§8).
const SKIP_VERSION: u64 = 9;
/// `PART-HOLD-BACK` in part targets: the recommended minimum (RFC 8216bis §4.4.3.8).
const PART_HOLD_BACK: u32 = 3;
/// `CAN-SKIP-UNTIL` in target durations: the minimum (§4.4.3.8).
const SKIP_UNTIL: u32 = 6;
/// How many target durations from the end parts are listed, as recommended (§6.2.2).
const PARTS_LISTED: u32 = 3;
