//! Playlists as values, and the media playlist's text.
//!
//! The values are what the text says, in the reader's units; [`parse`](super::parse) is the other way round. A media playlist
//! is written by us, low-latency tags included, which m3u8-rs does not model; a multivariant one by m3u8-rs.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::time::WallClock;

/// A range of a resource (RFC 8216 §4.3.2.2), in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ByteRange {
    /// How many bytes.
    pub length: u64,
    /// From where.
    pub offset: u64,
}

/// `EXT-X-MAP`: where the init segment is (RFC 8216 §4.3.2.5).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Map {
    /// As written.
    pub uri: String,
    /// The whole resource without.
    pub byte_range: Option<ByteRange>,
}

/// `EXT-X-PART` (RFC 8216bis §4.4.4.9).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MediaPart {
    /// As written.
    pub uri: String,
    /// `DURATION`.
    pub duration: Duration,
    /// `BYTERANGE`; the whole resource without.
    pub byte_range: Option<ByteRange>,
    /// `INDEPENDENT`: decoding can start with it.
    pub independent: bool,
    /// `GAP`: not to be fetched.
    pub gap: bool,
}

/// A segment as a playlist lists it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MediaSegment {
    /// As written.
    pub uri: String,
    /// `EXTINF`.
    pub duration: Duration,
    /// The whole resource without.
    pub byte_range: Option<ByteRange>,
    /// Whether `EXT-X-DISCONTINUITY` precedes it.
    pub discontinuity: bool,
    /// The `EXT-X-MAP` in force.
    pub map: Option<Arc<Map>>,
    /// `EXT-X-PROGRAM-DATE-TIME`, where one is given for this very segment.
    pub program_date_time: Option<WallClock>,
    /// `EXT-X-GAP`: not to be fetched.
    pub gap: bool,
    /// Whether an `EXT-X-KEY` other than `NONE` is in force: Nearcast can not decrypt.
    pub encrypted: bool,
    /// Its parts, where the playlist still lists them.
    pub parts: Vec<MediaPart>,
}

/// `EXT-X-PRELOAD-HINT` (RFC 8216bis §4.4.5.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreloadHint {
    /// Whether it is for an init segment (`TYPE=MAP`), not a part.
    pub is_map: bool,
    /// As written.
    pub uri: String,
    /// `BYTERANGE-START`.
    pub start: u64,
    /// `BYTERANGE-LENGTH`; to the end of the resource without.
    pub length: Option<u64>,
}

/// `EXT-X-RENDITION-REPORT` (RFC 8216bis §4.4.5.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenditionReport {
    /// As written.
    pub uri: String,
    /// `LAST-MSN`.
    pub last_msn: Option<u64>,
    /// `LAST-PART`.
    pub last_part: Option<u64>,
}

/// `EXT-X-SERVER-CONTROL` (RFC 8216bis §4.4.3.8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerControl {
    /// `CAN-BLOCK-RELOAD`.
    pub can_block_reload: bool,
    /// `CAN-SKIP-UNTIL`.
    pub can_skip_until: Option<Duration>,
    /// `HOLD-BACK`: how far from the live edge to play at least.
    pub hold_back: Option<Duration>,
    /// `PART-HOLD-BACK`: the same for a client that plays parts.
    pub part_hold_back: Option<Duration>,
}

/// `EXT-X-START`: where to start (RFC 8216 §4.3.5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Milliseconds from the start of the playlist, or, if negative, from its end.
    pub offset_millis: i64,
    /// Whether pictures before it are not to be shown.
    pub precise: bool,
}

/// `EXT-X-PLAYLIST-TYPE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlaylistType {
    /// Only grows.
    Event,
    /// Never changes.
    Vod,
}

/// A media playlist.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MediaPlaylist {
    /// `EXT-X-VERSION`; 1 without.
    pub version: u64,
    /// `EXT-X-TARGETDURATION`: whole seconds.
    pub target_duration: Duration,
    /// `EXT-X-MEDIA-SEQUENCE`: that of the first segment.
    pub media_sequence: u64,
    /// `EXT-X-DISCONTINUITY-SEQUENCE`: how many discontinuities left the playlist.
    pub discontinuity_sequence: u64,
    /// `EXT-X-INDEPENDENT-SEGMENTS`.
    pub independent_segments: bool,
    /// `EXT-X-PLAYLIST-TYPE`.
    pub playlist_type: Option<PlaylistType>,
    /// `EXT-X-START`.
    pub start: Option<Start>,
    /// `EXT-X-SERVER-CONTROL`.
    pub server_control: ServerControl,
    /// `PART-TARGET` of `EXT-X-PART-INF`.
    pub part_target: Option<Duration>,
    /// `SKIPPED-SEGMENTS` of `EXT-X-SKIP`: `segments` starts so many after `media_sequence`.
    pub skipped: u64,
    /// Oldest first.
    pub segments: Vec<MediaSegment>,
    /// The parts after the last segment.
    pub trailing: TrailingParts,
    /// `EXT-X-RENDITION-REPORT`.
    pub rendition_reports: Vec<RenditionReport>,
    /// `EXT-X-ENDLIST`: nothing will be added.
    pub end_list: bool,
}

/// The segment in the making, of which only parts are listed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrailingParts {
    /// What precedes its parts, as it would a segment's URI; its URI is empty.
    pub head: MediaSegment,
    /// The part to come.
    pub preload_hint: Option<PreloadHint>,
}

impl MediaPlaylist {
    /// The media sequence number after that of the last segment.
    pub fn next_msn(&self) -> u64 {
        self.media_sequence.saturating_add(self.skipped).saturating_add(self.segments.len() as u64)
    }

    /// Of all listed segments.
    pub fn duration(&self) -> Duration {
        self.segments.iter().map(|segment| segment.duration).sum()
    }
}

/// The text, tags in the order in which RFC 8216 describes them.
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

/// What holds until it is said otherwise.
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
        // After a discontinuity it is said again: some players forget it there.
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

/// Milliseconds are what media is measured in; finer durations are kept as microseconds.
fn seconds(duration: Duration) -> String {
    match duration.subsec_micros() {
        micros if micros % 1000 == 0 => format!("{}.{:03}", duration.as_secs(), micros / 1000),
        micros => format!("{}.{micros:06}", duration.as_secs()),
    }
}

/// One `EXT-X-STREAM-INF` (RFC 8216 §4.3.4.2).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Variant {
    /// As written.
    pub uri: String,
    /// Peak, in bits per second.
    pub bandwidth: u64,
    /// Average, in bits per second.
    pub average_bandwidth: Option<u64>,
    /// RFC 6381, comma-separated.
    pub codecs: Option<String>,
    /// Width and height in pixels.
    pub resolution: Option<(u64, u64)>,
    /// Pictures per second.
    pub frame_rate: Option<f64>,
    /// The `GROUP-ID` of its sound, if that is not muxed.
    pub audio: Option<String>,
}

/// One `EXT-X-MEDIA` of type `AUDIO` (RFC 8216 §4.3.4.1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AudioRendition {
    /// `GROUP-ID`.
    pub group: String,
    /// `NAME`.
    pub name: String,
    /// As written; muxed into the variant without.
    pub uri: Option<String>,
    /// `DEFAULT`.
    pub default: bool,
}

/// A multivariant playlist.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Multivariant {
    /// `EXT-X-INDEPENDENT-SEGMENTS`.
    pub independent_segments: bool,
    /// In the order written, without I-frame-only ones.
    pub variants: Vec<Variant>,
    /// Sound that is not muxed.
    pub audio: Vec<AudioRendition>,
}

/// Either kind.
#[expect(clippy::large_enum_variant, reason = "one is made for each load, and taken apart at once")]
#[derive(Clone, Debug, PartialEq)]
pub enum ParsedPlaylist {
    /// Lists segments.
    Media(MediaPlaylist),
    /// Lists media playlists.
    Multivariant(Multivariant),
}
