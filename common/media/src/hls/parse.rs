//! Parses playlists of any server (RFC 8216 §4, RFC 8216bis §4.4).
//!
//! Lenient where the specification allows it: line ends of either kind, comments, unknown tags and attributes. Strict about size, counts, and tags
//! that are needed to play. Text is read line by line: work and memory are proportional to its length, which is bounded.

use std::sync::Arc;

use m3u8_rs::{AlternativeMediaType, MasterPlaylist};

use super::Error;
use super::attributes::{Attributes, byte_range, integer, seconds};
use super::playlist::{
    AudioRendition, Map, MediaPart, MediaPlaylist, MediaSegment, Multivariant, ParsedPlaylist, PlaylistType,
    PreloadHint, RenditionReport, Start, Variant,
};
use crate::time::WallClock;

/// Parses a playlist of either kind, of at most [`MAX_TEXT`] bytes.
///
/// # Errors
/// If the text is no playlist of this kind; the error names the line.
pub fn parse(text: &str) -> Result<ParsedPlaylist, Error> {
    // Each kind has tags that the other must not have (RFC 8216 §4.1).
    let is_multivariant = lines(text)?.any(|line| line.starts_with("#EXT-X-STREAM-INF"));
    if is_multivariant {
        parse_multivariant(text).map(ParsedPlaylist::Multivariant)
    } else {
        parse_media(text).map(ParsedPlaylist::Media)
    }
}

/// Parses a media playlist of at most [`MAX_TEXT`] bytes.
///
/// # Errors
/// If the text is no playlist of this kind; the error names the line.
pub fn parse_media(text: &str) -> Result<MediaPlaylist, Error> {
    let mut parser = MediaParser::default();
    for (number, line) in lines(text)?.enumerate() {
        parser.line(line).map_err(|what| Error::Malformed { what, line: number + 2 })?;
    }
    parser.finish()
}

/// Parses a multivariant playlist of at most [`MAX_TEXT`] bytes.
///
/// # Errors
/// If the text is no playlist of this kind; the error names the line.
pub fn parse_multivariant(text: &str) -> Result<Multivariant, Error> {
    let _ = lines(text)?;
    let text = text.trim_start_matches('\u{feff}');
    let playlist: MasterPlaylist = m3u8_rs::parse_master_playlist_res(text.as_bytes())
        .map_err(|_| Error::Malformed { what: "a multivariant playlist", line: 1 })?;
    if playlist.variants.len() > MAX_VARIANTS || playlist.alternatives.len() > MAX_VARIANTS {
        return Err(Error::TooMany { what: "variants" });
    }
    let variants = playlist.variants.into_iter().filter(|variant| !variant.is_i_frame && !variant.uri.is_empty());
    let audio = playlist.alternatives.into_iter().filter(|media| media.media_type == AlternativeMediaType::Audio);
    Ok(Multivariant {
        independent_segments: playlist.independent_segments,
        variants: variants
            .map(|variant| Variant {
                uri: variant.uri,
                bandwidth: variant.bandwidth,
                average_bandwidth: variant.average_bandwidth,
                codecs: variant.codecs,
                resolution: variant.resolution.map(|size| (size.width, size.height)),
                frame_rate: variant.frame_rate.filter(|rate| rate.is_finite()),
                audio: variant.audio,
            })
            .collect(),
        audio: audio
            .map(|media| AudioRendition {
                group: media.group_id,
                name: media.name,
                uri: media.uri,
                default: media.default,
            })
            .collect(),
    })
}

/// The lines after `#EXTM3U`, trimmed.
fn lines(text: &str) -> Result<impl Iterator<Item = &str>, Error> {
    if text.len() > MAX_TEXT {
        return Err(Error::TooLong { length: text.len() });
    }
    // A byte order mark is forbidden (§4.1), but some servers send one.
    let mut lines = text.trim_start_matches('\u{feff}').lines().map(str::trim);
    match lines.next() {
        Some("#EXTM3U") => Ok(lines),
        _ => Err(Error::NotAPlaylist),
    }
}

#[derive(Default)]
struct MediaParser {
    playlist: MediaPlaylist,
    has_target: bool,
    /// The tags so far of the next segment.
    next: MediaSegment,
    has_extinf: bool,
    /// Where the next range of the same resource starts.
    range_end: u64,
    part_range_end: u64,
    /// The byte range as text: whether it continues the range before depends on the URI.
    byte_range: Option<String>,
    parts: usize,
}

impl MediaParser {
    fn line(&mut self, line: &str) -> Result<(), &'static str> {
        if line.is_empty() {
            return Ok(());
        }
        if !line.starts_with('#') {
            return self.uri(line);
        }
        if !line.starts_with("#EXT") {
            return Ok(());
        }
        let (tag, value) = line.split_once(':').unwrap_or((line, ""));
        let number = || integer(value).ok_or("a number");
        let playlist = &mut self.playlist;
        match tag {
            "#EXT-X-VERSION" => playlist.version = number()?,
            "#EXT-X-TARGETDURATION" => {
                // Some servers write a decimal fraction, against the specification.
                playlist.target_duration = seconds(value).ok_or("a duration")?;
                self.has_target = true;
            }
            "#EXT-X-MEDIA-SEQUENCE" => playlist.media_sequence = number()?,
            "#EXT-X-DISCONTINUITY-SEQUENCE" => playlist.discontinuity_sequence = number()?,
            "#EXT-X-INDEPENDENT-SEGMENTS" => playlist.independent_segments = true,
            "#EXT-X-ENDLIST" => playlist.end_list = true,
            "#EXT-X-PLAYLIST-TYPE" => {
                playlist.playlist_type = match value.trim() {
                    "EVENT" => Some(PlaylistType::Event),
                    "VOD" => Some(PlaylistType::Vod),
                    _ => None,
                }
            }
            "#EXTINF" => {
                self.next.duration = seconds(value.split_once(',').map_or(value, |(n, _)| n)).ok_or("a duration")?;
                self.has_extinf = true;
            }
            "#EXT-X-BYTERANGE" => self.byte_range = Some(value.to_owned()),
            "#EXT-X-DISCONTINUITY" => self.next.discontinuity = true,
            "#EXT-X-GAP" => self.next.gap = true,
            "#EXT-X-PROGRAM-DATE-TIME" => self.next.program_date_time = WallClock::from_rfc3339(value),
            _ => self.attribute_tag(tag, &Attributes::parse(value))?,
        }
        Ok(())
    }

    fn attribute_tag(&mut self, tag: &str, attributes: &Attributes<'_>) -> Result<(), &'static str> {
        let uri = || attributes.value("URI").filter(|uri| !uri.is_empty()).map(str::to_owned).ok_or("a URI");
        let playlist = &mut self.playlist;
        match tag {
            "#EXT-X-MAP" => {
                self.next.map = Some(Arc::new(Map { uri: uri()?, byte_range: attributes.byte_range("BYTERANGE", 0) }));
            }
            "#EXT-X-KEY" => self.next.encrypted = attributes.value("METHOD") != Some("NONE"),
            "#EXT-X-START" => {
                let offset: f64 =
                    attributes.value("TIME-OFFSET").and_then(|text| text.parse().ok()).ok_or("a time offset")?;
                playlist.start = (offset.abs() < 1e9).then(|| Start {
                    offset_millis: (offset * 1000.0).round() as i64,
                    precise: attributes.is_yes("PRECISE"),
                });
            }
            "#EXT-X-SERVER-CONTROL" => {
                let control = &mut playlist.server_control;
                control.can_block_reload = attributes.is_yes("CAN-BLOCK-RELOAD");
                control.can_skip_until = attributes.seconds("CAN-SKIP-UNTIL");
                control.hold_back = attributes.seconds("HOLD-BACK");
                control.part_hold_back = attributes.seconds("PART-HOLD-BACK");
            }
            "#EXT-X-PART-INF" => playlist.part_target = attributes.seconds("PART-TARGET"),
            "#EXT-X-SKIP" => playlist.skipped = attributes.integer("SKIPPED-SEGMENTS").ok_or("a number")?,
            "#EXT-X-PART" => {
                self.parts += 1;
                if self.parts > MAX_SEGMENTS {
                    return Err("fewer parts");
                }
                let byte_range = attributes.byte_range("BYTERANGE", self.part_range_end);
                self.part_range_end = byte_range.map_or(0, |range| range.offset + range.length);
                self.next.parts.push(MediaPart {
                    uri: uri()?,
                    duration: attributes.seconds("DURATION").ok_or("a duration")?,
                    byte_range,
                    independent: attributes.is_yes("INDEPENDENT"),
                    gap: attributes.is_yes("GAP"),
                });
            }
            "#EXT-X-PRELOAD-HINT" => {
                let hint = PreloadHint {
                    is_map: attributes.value("TYPE") == Some("MAP"),
                    uri: uri()?,
                    start: attributes.integer("BYTERANGE-START").unwrap_or(0),
                    length: attributes.integer("BYTERANGE-LENGTH"),
                };
                // There may be one hint of each type; the part is the useful one.
                if playlist.trailing.preload_hint.as_ref().is_none_or(|held| held.is_map) {
                    playlist.trailing.preload_hint = Some(hint);
                }
            }
            "#EXT-X-RENDITION-REPORT" if playlist.rendition_reports.len() < MAX_VARIANTS => {
                playlist.rendition_reports.push(RenditionReport {
                    uri: uri()?,
                    last_msn: attributes.integer("LAST-MSN"),
                    last_part: attributes.integer("LAST-PART"),
                });
            }
            _ => {}
        }
        Ok(())
    }

    /// A URI line ends a segment. Map and key stay in force for the next one.
    fn uri(&mut self, uri: &str) -> Result<(), &'static str> {
        if !std::mem::take(&mut self.has_extinf) {
            return Err("EXTINF before a URI");
        }
        if self.playlist.segments.len() >= MAX_SEGMENTS {
            return Err("fewer segments");
        }
        let mut segment = std::mem::take(&mut self.next);
        self.next.map.clone_from(&segment.map);
        self.next.encrypted = segment.encrypted;
        segment.uri = uri.to_owned();
        if let Some(text) = self.byte_range.take() {
            // Without an offset, the range continues the one before, of the same resource.
            let continues = self.playlist.segments.last().is_some_and(|before| before.uri == uri);
            let after = if continues { self.range_end } else { 0 };
            segment.byte_range = Some(byte_range(&text, after).ok_or("a byte range")?);
        }
        self.range_end = segment.byte_range.map_or(0, |range| range.offset + range.length);
        self.part_range_end = 0;
        self.playlist.segments.push(segment);
        Ok(())
    }

    fn finish(mut self) -> Result<MediaPlaylist, Error> {
        if !self.has_target {
            return Err(Error::NoTargetDuration);
        }
        self.playlist.version = self.playlist.version.max(1);
        self.playlist.trailing.head = self.next;
        Ok(self.playlist)
    }
}

/// Upper bound of a playlist in bytes. A day of 2 s segments with all their tags takes less.
pub const MAX_TEXT: usize = 8 << 20;
/// Upper bound of segments, and of parts: three days of 2 s segments.
const MAX_SEGMENTS: usize = 1 << 17;
/// Upper bound of variants, audio renditions and rendition reports. Real playlists have some ten.
const MAX_VARIANTS: usize = 256;
