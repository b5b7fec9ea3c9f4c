//! Playlists as values, and the media playlist's text.
//!
//! [`parse`](super::parse) reads the text into these values. Media playlists are written here, because m3u8-rs has no low-latency tags; multivariant
//! playlists are written by m3u8-rs.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::time::WallClock;

/// A range of a resource (RFC 8216 §4.3.2.2), in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ByteRange {
    /// Length in bytes.
    pub length: u64,
    /// Offset of the first byte.
    pub offset: u64,
}

/// `EXT-X-MAP`: where the init segment is (RFC 8216 §4.3.2.5).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Map {
    /// URI as written, relative to the playlist.
    pub uri: String,
    /// Range of the resource; `None` for all of it.
    pub byte_range: Option<ByteRange>,
}

/// `EXT-X-PART` (RFC 8216bis §4.4.4.9).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MediaPart {
    /// URI as written, relative to the playlist.
    pub uri: String,
    /// `DURATION`, to the microsecond.
    pub duration: Duration,
    /// `BYTERANGE`; `None` for the whole resource.
    pub byte_range: Option<ByteRange>,
    /// `INDEPENDENT`: decoding can start in it.
    pub independent: bool,
    /// `GAP`: not available, not to be fetched.
    pub gap: bool,
}

/// A segment as a playlist lists it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MediaSegment {
    /// URI as written, relative to the playlist.
    pub uri: String,
    /// `EXTINF`, to the microsecond.
    pub duration: Duration,
    /// `EXT-X-BYTERANGE`; `None` for the whole resource.
    pub byte_range: Option<ByteRange>,
    /// Whether `EXT-X-DISCONTINUITY` precedes it.
    pub discontinuity: bool,
    /// The `EXT-X-MAP` in force.
    pub map: Option<Arc<Map>>,
    /// `EXT-X-PROGRAM-DATE-TIME` of this very segment.
    pub program_date_time: Option<WallClock>,
    /// `EXT-X-GAP`: not available, not to be fetched.
    pub gap: bool,
    /// Whether an `EXT-X-KEY` other than `NONE` is in force. Nearcast cannot decrypt.
    pub encrypted: bool,
    /// Its parts, where the playlist still lists them.
    pub parts: Vec<MediaPart>,
}

/// `EXT-X-PRELOAD-HINT` (RFC 8216bis §4.4.5.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreloadHint {
    /// Whether it is for an init segment (`TYPE=MAP`), not a part.
    pub is_map: bool,
    /// URI as written, relative to the playlist.
    pub uri: String,
    /// `BYTERANGE-START`; 0 by default.
    pub start: u64,
    /// `BYTERANGE-LENGTH`; `None` up to the end of the resource.
    pub length: Option<u64>,
}

/// `EXT-X-RENDITION-REPORT` (RFC 8216bis §4.4.5.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenditionReport {
    /// URI as written, relative to the playlist.
    pub uri: String,
    /// `LAST-MSN`: media sequence number of the last segment there.
    pub last_msn: Option<u64>,
    /// `LAST-PART`: index of the last part there.
    pub last_part: Option<u64>,
}

/// `EXT-X-SERVER-CONTROL` (RFC 8216bis §4.4.3.8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerControl {
    /// `CAN-BLOCK-RELOAD`: the server supports blocking reload.
    pub can_block_reload: bool,
    /// `CAN-SKIP-UNTIL`: the skip boundary of delta updates.
    pub can_skip_until: Option<Duration>,
    /// `HOLD-BACK`: minimum distance from the live edge.
    pub hold_back: Option<Duration>,
    /// `PART-HOLD-BACK`: the same for clients that play parts.
    pub part_hold_back: Option<Duration>,
}

/// `EXT-X-START`: where to start (RFC 8216 §4.3.5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Milliseconds from the start of the playlist, or, if negative, from its end.
    pub offset_millis: i64,
    /// `PRECISE`: pictures before it are not to be shown.
    pub precise: bool,
}

/// `EXT-X-PLAYLIST-TYPE` (RFC 8216 §4.3.3.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlaylistType {
    /// `EVENT`: segments are only added.
    Event,
    /// `VOD`: never changes.
    Vod,
}

/// A media playlist (RFC 8216 §4.3.3).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MediaPlaylist {
    /// `EXT-X-VERSION`; 1 by default.
    pub version: u64,
    /// `EXT-X-TARGETDURATION`: whole seconds.
    pub target_duration: Duration,
    /// `EXT-X-MEDIA-SEQUENCE`: number of the first segment, skipped ones included.
    pub media_sequence: u64,
    /// `EXT-X-DISCONTINUITY-SEQUENCE`: number of discontinuities that have left the playlist.
    pub discontinuity_sequence: u64,
    /// `EXT-X-INDEPENDENT-SEGMENTS`: decoding can start with each segment.
    pub independent_segments: bool,
    /// `EXT-X-PLAYLIST-TYPE` (RFC 8216 §4.3.3.5).
    pub playlist_type: Option<PlaylistType>,
    /// `EXT-X-START`, if there is one.
    pub start: Option<Start>,
    /// `EXT-X-SERVER-CONTROL`; all false or `None` without the tag.
    pub server_control: ServerControl,
    /// `PART-TARGET` of `EXT-X-PART-INF`.
    pub part_target: Option<Duration>,
    /// `SKIPPED-SEGMENTS` of `EXT-X-SKIP`: the first of `segments` has the number `media_sequence + skipped`.
    pub skipped: u64,
    /// The listed segments, oldest first.
    pub segments: Vec<MediaSegment>,
    /// The parts of the segment in progress.
    pub trailing: TrailingParts,
    /// `EXT-X-RENDITION-REPORT` tags, in order.
    pub rendition_reports: Vec<RenditionReport>,
    /// `EXT-X-ENDLIST`: no segment will be added.
    pub end_list: bool,
}

/// The segment in progress, of which only parts are listed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrailingParts {
    /// Its parts and the tags before them. The URI is empty.
    pub head: MediaSegment,
    /// `EXT-X-PRELOAD-HINT` of a part or init segment, if there is one.
    pub preload_hint: Option<PreloadHint>,
}

impl MediaPlaylist {
    /// Media sequence number of the segment after the last complete one.
    pub fn next_msn(&self) -> u64 {
        self.media_sequence.saturating_add(self.skipped).saturating_add(self.segments.len() as u64)
    }

    /// Sum of the durations of all listed segments.
    pub fn duration(&self) -> Duration {
        self.segments.iter().map(|segment| segment.duration).sum()
    }
}

/// The text of the playlist, with the tags in the order of RFC 8216.
impl fmt::Display for MediaPlaylist {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "#EXTM3U\n#EXT-X-VERSION:{}", self.version)?;
        writeln!(f, "#EXT-X-TARGETDURATION:{}", self.target_duration.as_secs())?;
        if self.server_control != ServerControl::default() {
            let control = self.server_control;
            let block = control.can_block_reload.then_some("YES".to_owned());
            write_attributes(
                f,
                "#EXT-X-SERVER-CONTROL",
                [
                    ("CAN-BLOCK-RELOAD", block),
                    ("CAN-SKIP-UNTIL", control.can_skip_until.map(seconds)),
                    ("HOLD-BACK", control.hold_back.map(seconds)),
                    ("PART-HOLD-BACK", control.part_hold_back.map(seconds)),
                ],
            )?;
        }
        if let Some(target) = self.part_target {
            writeln!(f, "#EXT-X-PART-INF:PART-TARGET={}", seconds(target))?;
        }
        writeln!(f, "#EXT-X-MEDIA-SEQUENCE:{}", self.media_sequence)?;
        if self.discontinuity_sequence > 0 {
            writeln!(f, "#EXT-X-DISCONTINUITY-SEQUENCE:{}", self.discontinuity_sequence)?;
        }
        match self.playlist_type {
            Some(PlaylistType::Event) => writeln!(f, "#EXT-X-PLAYLIST-TYPE:EVENT")?,
            Some(PlaylistType::Vod) => writeln!(f, "#EXT-X-PLAYLIST-TYPE:VOD")?,
            None => {}
        }
        if self.independent_segments {
            writeln!(f, "#EXT-X-INDEPENDENT-SEGMENTS")?;
        }
        if let Some(start) = self.start {
            let sign = if start.offset_millis < 0 { "-" } else { "" };
            let offset = seconds(Duration::from_millis(start.offset_millis.unsigned_abs()));
            let precise = if start.precise { ",PRECISE=YES" } else { "" };
            writeln!(f, "#EXT-X-START:TIME-OFFSET={sign}{offset}{precise}")?;
        }
        if self.skipped > 0 {
            writeln!(f, "#EXT-X-SKIP:SKIPPED-SEGMENTS={}", self.skipped)?;
        }
        let mut state = Written::default();
        for segment in &self.segments {
            state.head(f, segment)?;
            writeln!(f, "#EXTINF:{},", seconds(segment.duration))?;
            if let Some(range) = segment.byte_range {
                writeln!(f, "#EXT-X-BYTERANGE:{}@{}", range.length, range.offset)?;
            }
            writeln!(f, "{}", segment.uri)?;
        }
        state.head(f, &self.trailing.head)?;
        if let Some(hint) = &self.trailing.preload_hint {
            let attributes = [
                ("TYPE", Some(if hint.is_map { "MAP".into() } else { "PART".into() })),
                ("URI", Some(quoted(&hint.uri))),
                ("BYTERANGE-START", (hint.start > 0).then(|| hint.start.to_string())),
                ("BYTERANGE-LENGTH", hint.length.map(|length| length.to_string())),
            ];
            write_attributes(f, "#EXT-X-PRELOAD-HINT", attributes)?;
        }
        for report in &self.rendition_reports {
            let attributes = [
                ("URI", Some(quoted(&report.uri))),
                ("LAST-MSN", report.last_msn.map(|n| n.to_string())),
                ("LAST-PART", report.last_part.map(|n| n.to_string())),
            ];
            write_attributes(f, "#EXT-X-RENDITION-REPORT", attributes)?;
        }
        if self.end_list {
            writeln!(f, "#EXT-X-ENDLIST")?;
        }
        Ok(())
    }
}

/// The state that stays in force from segment to segment.
#[derive(Default)]
struct Written {
    map: Option<Arc<Map>>,
    encrypted: bool,
}

impl Written {
    /// The tags before a segment's `EXTINF`.
    fn head(&mut self, f: &mut fmt::Formatter<'_>, segment: &MediaSegment) -> fmt::Result {
        if segment.discontinuity {
            writeln!(f, "#EXT-X-DISCONTINUITY")?;
        }
        if segment.encrypted != self.encrypted {
            self.encrypted = segment.encrypted;
            writeln!(f, "#EXT-X-KEY:METHOD={}", if segment.encrypted { "UNKNOWN" } else { "NONE" })?;
        }
        // Repeated after a discontinuity, because some players forget it there.
        if let Some(map) = segment.map.as_ref().filter(|map| segment.discontinuity || self.map.as_ref() != Some(*map)) {
            let range = map.byte_range.map(|range| format!("\"{}@{}\"", range.length, range.offset));
            write_attributes(f, "#EXT-X-MAP", [("URI", Some(quoted(&map.uri))), ("BYTERANGE", range)])?;
        }
        self.map.clone_from(&segment.map);
        if let Some(time) = segment.program_date_time {
            writeln!(f, "#EXT-X-PROGRAM-DATE-TIME:{}", time.to_rfc3339())?;
        }
        if segment.gap {
            writeln!(f, "#EXT-X-GAP")?;
        }
        for part in &segment.parts {
            let range = part.byte_range.map(|range| format!("\"{}@{}\"", range.length, range.offset));
            let attributes = [
                ("DURATION", Some(seconds(part.duration))),
                ("URI", Some(quoted(&part.uri))),
                ("BYTERANGE", range),
                ("INDEPENDENT", part.independent.then_some("YES".to_owned())),
                ("GAP", part.gap.then_some("YES".to_owned())),
            ];
            write_attributes(f, "#EXT-X-PART", attributes)?;
        }
        Ok(())
    }
}

fn write_attributes<const N: usize>(
    f: &mut fmt::Formatter<'_>,
    tag: &str,
    attributes: [(&str, Option<String>); N],
) -> fmt::Result {
    let mut separator = ':';
    write!(f, "{tag}")?;
    for (name, value) in attributes {
        if let Some(value) = value {
            write!(f, "{separator}{name}={value}")?;
            separator = ',';
        }
    }
    writeln!(f)
}

fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}

/// A decimal number of seconds with three digits, or six if milliseconds do not suffice.
fn seconds(duration: Duration) -> String {
    match duration.subsec_micros() {
        micros if micros % 1000 == 0 => format!("{}.{:03}", duration.as_secs(), micros / 1000),
        micros => format!("{}.{micros:06}", duration.as_secs()),
    }
}

/// One `EXT-X-STREAM-INF` (RFC 8216 §4.3.4.2).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Variant {
    /// URI as written, relative to the playlist.
    pub uri: String,
    /// `BANDWIDTH`: peak bit rate in bits per second.
    pub bandwidth: u64,
    /// `AVERAGE-BANDWIDTH` in bits per second.
    pub average_bandwidth: Option<u64>,
    /// `CODECS`: RFC 6381 names, comma-separated.
    pub codecs: Option<String>,
    /// `RESOLUTION`: width and height in pixels.
    pub resolution: Option<(u64, u64)>,
    /// `FRAME-RATE` in frames per second.
    pub frame_rate: Option<f64>,
    /// `AUDIO`: the `GROUP-ID` of its audio renditions, if audio is not muxed.
    pub audio: Option<String>,
}

/// One `EXT-X-MEDIA` of type `AUDIO` (RFC 8216 §4.3.4.1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AudioRendition {
    /// `GROUP-ID`, which variants refer to.
    pub group: String,
    /// `NAME`, for people.
    pub name: String,
    /// URI as written; `None` if it is muxed into the variant.
    pub uri: Option<String>,
    /// `DEFAULT`: to be played without a choice of the user.
    pub default: bool,
}

/// A multivariant playlist (RFC 8216 §4.3.4).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Multivariant {
    /// `EXT-X-INDEPENDENT-SEGMENTS`: decoding can start with each segment.
    pub independent_segments: bool,
    /// The variants in order, without I-frame playlists.
    pub variants: Vec<Variant>,
    /// The audio renditions in order.
    pub audio: Vec<AudioRendition>,
}

/// A playlist of either kind.
#[expect(clippy::large_enum_variant, reason = "one is made for each load, and taken apart at once")]
#[derive(Clone, Debug, PartialEq)]
pub enum ParsedPlaylist {
    /// A list of segments.
    Media(MediaPlaylist),
    /// A list of media playlists.
    Multivariant(Multivariant),
}
