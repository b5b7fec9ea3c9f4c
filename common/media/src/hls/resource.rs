//! The names of init segments, segments and parts in URIs.

use std::fmt;

/// What the URI of a playlist entry names. All URIs are relative to the playlist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    /// An init segment, by [`Init::id`](crate::cmaf::Init::id): `init-ID.mp4` with sixteen hexadecimal digits.
    Init(u64),
    /// A segment, by media sequence number: `seg-MSN.m4s`.
    Segment(u64),
    /// A part, by media sequence number and index in the segment: `part-MSN-INDEX.m4s`.
    Part(u64, u64),
}

impl Resource {
    /// Parses the last component of a path. Accepts exactly what `Display` writes.
    pub fn from_name(name: &str) -> Option<Self> {
        let init = || u64::from_str_radix(name.strip_prefix("init-")?.strip_suffix(".mp4")?, 16).ok().map(Self::Init);
        let segment = || name.strip_prefix("seg-")?.strip_suffix(".m4s")?.parse().ok().map(Self::Segment);
        let part = || {
            let (msn, index) = name.strip_prefix("part-")?.strip_suffix(".m4s")?.split_once('-')?;
            Some(Self::Part(msn.parse().ok()?, index.parse().ok()?))
        };
        // Each resource has one name, so that caches keep one copy: no signs, no leading zeros, no capitals.
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
