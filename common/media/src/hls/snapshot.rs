//! An immutable snapshot of what a segmenter holds, and the playlists that it makes.
//!
//! A server keeps the newest one and answers requests from it: everything in it is shared, nothing changes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use m3u8_rs::{MasterPlaylist, Resolution, VariantStream};

use super::render::version;
use crate::catalog::Catalog;
use crate::codec::Format;
use crate::fmp4::{Fragment, rendition};
use crate::time::WallClock;

/// A part: one fragment.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Its bytes.
    pub fragment: Fragment,
    /// To the next part.
    pub duration: Duration,
    /// Whether decoding can start with it.
    pub independent: bool,
}

/// A segment: parts.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    /// Media sequence number.
    pub msn: u64,
    /// Whether `EXT-X-DISCONTINUITY` precedes it.
    pub discontinuity: bool,
    /// How many discontinuities precede it, its own included.
    pub discontinuity_sequence: u64,
    /// When its first picture was captured, or arrived.
    pub program_date_time: WallClock,
    /// To the next segment.
    pub duration: Duration,
    /// Whether decoding can start with it.
    pub independent: bool,
    /// Its init segment.
    pub init: u64,
    /// At least one.
    pub parts: Vec<Part>,
    /// Of all parts together.
    pub bytes: usize,
    /// How many pictures it has.
    pub pictures: u32,
}

/// An init segment.
#[derive(Clone, Debug, PartialEq)]
pub struct Init {
    /// Names its content: the same bytes always have the same id, so that caches may keep them for ever.
    pub id: u64,
    /// What it was made of: the rendition's tracks.
    pub catalog: Arc<Catalog>,
    /// Its bytes.
    pub bytes: Bytes,
}

/// What a segmenter holds, at one moment. Everything in it is shared.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Playlist {
    /// `EXT-X-TARGETDURATION` in seconds; 0 until the first segment is complete, and never changes after that.
    pub target_duration: u64,
    /// `PART-TARGET`: no part is longer, unless one picture is. Zero until the first segment is complete, and never changes after that.
    pub part_target: Duration,
    /// Whether parts are listed, and may be waited for.
    pub low_latency: bool,
    /// The media sequence number of the segment that comes after the last complete one.
    pub next_msn: u64,
    /// `EXT-X-DISCONTINUITY-SEQUENCE`.
    pub discontinuity_sequence: u64,
    /// Whether every segment so far could be decoded by itself.
    pub independent: bool,
    /// Listed segments, oldest first.
    pub segments: Vec<Arc<Segment>>,
    /// Segments that left the playlist and are still served, oldest first.
    pub unlisted: Vec<Arc<Segment>>,
    /// The parts so far of the segment after the last listed one; its duration is theirs.
    pub open: Option<Arc<Segment>>,
    /// The init segments of all of these.
    pub inits: Vec<Arc<Init>>,
    /// Whether the stream is over.
    pub ended: bool,
}

/// What a rendition takes of a network, in bits per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bandwidth {
    /// Of the worst segment.
    pub peak: u64,
    /// Over the whole playlist.
    pub average: u64,
}

impl Playlist {
    /// The init segment with this id.
    pub fn init(&self, id: u64) -> Option<Bytes> {
        self.inits.iter().find(|init| init.id == id).map(|init| init.bytes.clone())
    }

    /// The bytes of a complete segment, listed or not. Cloning them copies no media.
    pub fn segment(&self, msn: u64) -> Option<Vec<Bytes>> {
        let segment = self.segments.iter().chain(&self.unlisted).find(|s| s.msn == msn)?;
        Some(segment.parts.iter().flat_map(|part| part.fragment.chunks()).collect())
    }

    /// The bytes of part `index` of a segment, complete or not. Cloning them copies no media.
    pub fn part(&self, msn: u64, index: u64) -> Option<Vec<Bytes>> {
        let segment = self.segments.iter().chain(&self.unlisted).chain(&self.open).find(|s| s.msn == msn)?;
        Some(segment.parts.get(usize::try_from(index).ok()?)?.fragment.chunks().collect())
    }

    /// What the newest listed segment consists of.
    pub fn catalog(&self) -> Option<&Arc<Catalog>> {
        let newest = self.segments.last()?;
        self.inits.iter().find(|init| init.id == newest.init).map(|init| &init.catalog)
    }

    /// Measured over the listed segments; of segments too short to tell the peak, together.
    pub fn bandwidth(&self) -> Option<Bandwidth> {
        let rate =
            |bytes: usize, duration: Duration| (bytes as f64 * 8.0 / duration.as_secs_f64().max(0.001)).ceil() as u64;
        let (bytes, duration) = self
            .segments
            .iter()
            .fold((0, Duration::ZERO), |(bytes, duration), s| (bytes + s.bytes, duration + s.duration));
        let average = (!self.segments.is_empty()).then(|| rate(bytes, duration))?;
        // RFC 8216 §4.1: the peak is that of runs between 0.5 and 1.5 target durations.
        let shortest = Duration::from_millis(self.target_duration * 500);
        let peak = self.segments.iter().filter(|s| s.duration >= shortest).map(|s| rate(s.bytes, s.duration)).max();
        Some(Bandwidth { peak: peak.unwrap_or(0).max(average), average })
    }

    /// Pictures per second over the listed segments, to two decimals; `None` without pictures.
    pub fn frame_rate(&self) -> Option<f64> {
        let newest = self.segments.last()?.init;
        let same = self.segments.iter().filter(|s| s.init == newest);
        let (pictures, duration) =
            same.fold((0, Duration::ZERO), |(pictures, duration), s| (pictures + s.pictures, duration + s.duration));
        let rate = f64::from(pictures) / duration.as_secs_f64().max(0.001);
        (pictures > 0).then(|| (rate * 100.0).round() / 100.0)
    }
}

/// What a playlist's URIs, all relative to it, name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    /// `init-ID.mp4`, where ID is sixteen hexadecimal digits.
    Init(u64),
    /// `seg-MSN.m4s`
    Segment(u64),
    /// `part-MSN-INDEX.m4s`
    Part(u64, u64),
}

impl Resource {
    /// Reads the last component of a path: exactly what `Display` writes.
    pub fn from_name(name: &str) -> Option<Self> {
        let init = || u64::from_str_radix(name.strip_prefix("init-")?.strip_suffix(".mp4")?, 16).ok().map(Self::Init);
        let segment = || name.strip_prefix("seg-")?.strip_suffix(".m4s")?.parse().ok().map(Self::Segment);
        let part = || {
            let (msn, index) = name.strip_prefix("part-")?.strip_suffix(".m4s")?.split_once('-')?;
            Some(Self::Part(msn.parse().ok()?, index.parse().ok()?))
        };
        // One resource has one name: no signs, no leading zeros, no capitals.
        init().or_else(segment).or_else(part).filter(|resource| resource.to_string() == name)
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Init(id) => write!(f, "init-{id:016x}.mp4"),
            Self::Segment(msn) => write!(f, "seg-{msn}.m4s"),
            Self::Part(msn, index) => write!(f, "part-{msn}-{index}.m4s"),
        }
    }
}

/// The multivariant playlist of a snapshot, whose media playlist is at `uri`; `None` until there is a segment to list.
pub fn multivariant(playlist: &Playlist, uri: &str) -> Option<String> {
    let bandwidth = playlist.bandwidth()?;
    let catalog = playlist.catalog()?;
    let codecs: Vec<_> = rendition(catalog).map(|track| track.config.rfc6381()).collect();
    let resolution = catalog.video().and_then(|video| match video.config.format {
        Format::Video { width: width @ 1.., height: height @ 1.. } => {
            Some(Resolution { width: width.into(), height: height.into() })
        }
        _ => None,
    });
    let master = MasterPlaylist {
        version: Some(version(playlist) as usize),
        independent_segments: playlist.independent,
        variants: vec![VariantStream {
            uri: uri.to_owned(),
            bandwidth: bandwidth.peak,
            average_bandwidth: Some(bandwidth.average),
            codecs: Some(codecs.join(",")),
            resolution,
            frame_rate: playlist.frame_rate(),
            ..VariantStream::default()
        }],
        ..MasterPlaylist::default()
    };
    let mut text = Vec::new();
    master.write_to(&mut text).expect("writing to memory does not fail");
    Some(String::from_utf8(text).expect("a playlist is made of strings"))
}
