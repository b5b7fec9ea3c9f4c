//! The client of low-latency HLS: fetches parts at the live edge, and complete segments before it (RFC 8216bis §6.3.8).
//!
//! As pure as [`PlaylistClient`](super::PlaylistClient): the caller keeps a blocking reload pending ([`PartClient::reload`]) and requests the hinted
//! part in advance ([`PartClient::hint`]). [`PartClient::next`] returns a part once it is listed, because only then it is known which segment it
//! belongs to.

use std::time::Duration;

use super::{DATE_TOLERANCE, Fetch, Given, MediaPlaylist, RESTART_DISTANCE, describe, fill_skipped, later};
use crate::time::WallClock;

/// The directives of a blocking playlist reload (RFC 8216bis §6.2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reload {
    /// `_HLS_msn`: media sequence number of the segment that the playlist must contain.
    pub msn: u64,
    /// `_HLS_part`: index of the part that it must contain.
    pub part: u64,
    /// `_HLS_skip`: whether the server may answer with a delta update.
    pub skip: bool,
}

/// Where to start, and where to continue if the next part is no longer available.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StartPosition {
    /// At `PART-HOLD-BACK` behind the live edge.
    #[default]
    LiveEdge,
    /// At the last independent part at or before this wall-clock time, which other paths have reached.
    At(WallClock),
    /// Three target durations behind the live edge: other paths have reached a time that the playlist cannot express.
    Behind,
}

/// Follows a low-latency media playlist by parts.
#[derive(Clone, Debug, Default)]
pub struct PartClient {
    entry: StartPosition,
    keep_all: bool,
    playlist: Option<MediaPlaylist>,
    next: Option<PartPosition>,
    given: Option<Given>,
    /// The state before the last fetch, to repeat it.
    before: Option<(PartPosition, u64, Option<Given>)>,
    lost: u64,
}

/// The position of a part. A whole segment has the position of its first part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct PartPosition {
    msn: u64,
    part: usize,
}

/// Whether a playlist can be played by parts: it lists parts, and the server supports blocking reload.
pub fn has_parts(playlist: &MediaPlaylist) -> bool {
    playlist.part_target.is_some_and(|target| !target.is_zero())
        && playlist.server_control.can_block_reload
        && !playlist.end_list
        && playlist.segments.iter().all(|segment| segment.map.is_some())
}

impl PartClient {
    /// A client that starts at the live edge. With `keep_all` it continues at the oldest listed segment after an outage, otherwise at the live edge.
    pub fn new(keep_all: bool) -> Self {
        Self { keep_all, ..Self::default() }
    }

    /// Starts again at `entry` with the next playlist.
    pub fn restart_at(&mut self, entry: StartPosition) {
        let keep_all = self.keep_all;
        *self = Self { entry, keep_all, ..Self::default() };
    }

    /// A playlist was loaded.
    pub fn on_playlist(&mut self, mut playlist: MediaPlaylist) {
        if let Some(before) = &self.playlist {
            fill_skipped(before, &mut playlist);
        }
        let has_restarted =
            self.next.is_some_and(|next| playlist.next_msn().saturating_add(RESTART_DISTANCE) < next.msn);
        // The playlist is from a stale cache.
        let is_older = self.playlist.as_ref().is_some_and(|before| edge(&playlist) < edge(before));
        if is_older && !has_restarted {
            return;
        }
        if has_restarted && self.relocate(&playlist).is_none() {
            self.restart_at(StartPosition::LiveEdge);
        }
        self.playlist = Some(playlist);
    }

    /// The directives of the next reload, which blocks until the next part exists. `None` before the first playlist and after the last.
    pub fn reload(&self) -> Option<Reload> {
        let playlist = self.playlist.as_ref().filter(|playlist| !playlist.end_list)?;
        let skip = playlist.server_control.can_skip_until.is_some() && playlist.skipped == 0;
        Some(Reload { msn: playlist.next_msn(), part: playlist.trailing.head.parts.len() as u64, skip })
    }

    /// The URI of the preload hint, if the next part to fetch is the hinted one.
    pub fn hint(&self) -> Option<&str> {
        let (playlist, next) = (self.playlist.as_ref()?, self.next?);
        let hint = playlist.trailing.preload_hint.as_ref()?;
        let is_whole = !hint.is_map && hint.start == 0 && hint.length.is_none();
        (is_whole && rolled_over(playlist, next) == edge(playlist)).then_some(hint.uri.as_str())
    }

    /// Whether the playlist has ended and every part was returned.
    pub fn has_ended(&self) -> bool {
        self.playlist.as_ref().is_some_and(|playlist| {
            playlist.end_list && self.next.is_none_or(|next| rolled_over(playlist, next) >= edge(playlist))
        })
    }

    /// The last fetch failed and is to be repeated.
    pub fn retry_fetch(&mut self) {
        if let Some((position, lost, given)) = self.before.take() {
            (self.next, self.lost, self.given) = (Some(position), lost, given);
        }
    }

    /// The last fetch failed for good: it counts as lost.
    pub fn on_fetch_failed(&mut self) {
        self.before = None;
        self.lost += 1;
    }

    /// The next part or segment to fetch; `None` until it is listed. Each is returned once.
    #[expect(clippy::should_implement_trait, reason = "what is not listed yet is no end")]
    pub fn next(&mut self) -> Option<Fetch> {
        let playlist = self.playlist.take()?;
        let fetch = self.next_of(&playlist);
        self.playlist = Some(playlist);
        fetch
    }

    fn next_of(&mut self, playlist: &MediaPlaylist) -> Option<Fetch> {
        let first = playlist.media_sequence + playlist.skipped;
        if self.next.is_none_or(|next| next.msn < first) {
            match self.next {
                None => {
                    let (to, is_there) = begin(playlist, self.entry)?;
                    let oldest = entries(playlist).first().map(|(position, ..)| *position);
                    let has_missed = self.keep_all && !is_there && matches!(self.entry, StartPosition::At(_));
                    self.next = oldest.filter(|_| has_missed).or(Some(to));
                }
                Some(_) => self.relocate(playlist)?,
            }
        }
        loop {
            let position = rolled_over(playlist, self.next?);
            let (segment, is_complete) = match usize::try_from(position.msn - first).ok()? {
                index if index < playlist.segments.len() => (&playlist.segments[index], true),
                index if index == playlist.segments.len() => (&playlist.trailing.head, false),
                _ => return None,
            };
            let part = segment.parts.get(position.part);
            // A single request for the segment if all of it is wanted, or if its parts are no longer listed.
            let is_whole = is_complete && (position.part == 0 || part.is_none());
            let part = part.filter(|_| !is_whole);
            if part.is_none() && !is_whole {
                return None;
            }
            let after = match is_whole {
                true => PartPosition { msn: position.msn + 1, part: 0 },
                false => PartPosition { msn: position.msn, part: position.part + 1 },
            };
            if part.map_or(segment.gap, |part| part.gap) {
                (self.next, self.lost) = (Some(after), self.lost + 1);
                continue;
            }
            let mut fetch = describe(playlist, position.msn, segment, self.given.as_ref(), self.lost);
            if let Some(part) = part {
                let into: Duration = segment.parts[..position.part].iter().map(|part| part.duration).sum();
                (fetch.uri, fetch.byte_range, fetch.duration) = (part.uri.clone(), part.byte_range, part.duration);
                fetch.program_date_time = fetch.program_date_time.map(|date| later(date, into));
            }
            let given = Given {
                map: fetch.map.clone(),
                discontinuity_sequence: fetch.discontinuity_sequence,
                end: fetch.program_date_time.map(|date| later(date, fetch.duration)),
            };
            let before = self.given.replace(given).filter(|_| !fetch.new_map);
            self.before = Some((position, self.lost, before));
            (self.next, self.lost) = (Some(after), 0);
            return Some(fetch);
        }
    }

    /// Finds where to continue if the next part is no longer listed, or has another number.
    fn relocate(&mut self, playlist: &MediaPlaylist) -> Option<()> {
        let end = self.given.as_ref().and_then(|given| given.end);
        let (to, follows) = match self.keep_all {
            true => (entries(playlist).first()?.0, false),
            false => begin(playlist, end.map_or(StartPosition::LiveEdge, StartPosition::At))?,
        };
        // The number of parts that expired is unknown: it counts as one.
        self.lost += u64::from(!follows);
        (self.next, self.given, self.before) = (Some(to), None, None);
        Some(())
    }
}

/// The position after everything that is listed.
fn edge(playlist: &MediaPlaylist) -> PartPosition {
    PartPosition { msn: playlist.next_msn(), part: playlist.trailing.head.parts.len() }
}

/// After the last part of a complete segment comes the first of the next.
fn rolled_over(playlist: &MediaPlaylist, position: PartPosition) -> PartPosition {
    let first = playlist.media_sequence + playlist.skipped;
    let index = position.msn.checked_sub(first).and_then(|index| usize::try_from(index).ok());
    let segment = index.and_then(|index| playlist.segments.get(index));
    match segment {
        Some(segment) if !segment.parts.is_empty() && position.part >= segment.parts.len() => {
            PartPosition { msn: position.msn + 1, part: 0 }
        }
        _ => position,
    }
}

/// The positions where decoding can start, each with its media time from the start of the playlist and its wall-clock time.
fn entries(playlist: &MediaPlaylist) -> Vec<(PartPosition, Duration, Option<WallClock>)> {
    let first = playlist.media_sequence + playlist.skipped;
    let (mut at, mut begins, mut found) = (Duration::ZERO, None, Vec::new());
    for (msn, segment) in (first..).zip(playlist.segments.iter().chain([&playlist.trailing.head])) {
        begins = segment.program_date_time.or(begins.filter(|_| !segment.discontinuity));
        let date = |into| begins.map(|date| later(date, into));
        if segment.parts.is_empty() && msn < playlist.next_msn() {
            found.push((PartPosition { msn, part: 0 }, at, begins));
        }
        let mut into = Duration::ZERO;
        for (part, listed) in segment.parts.iter().enumerate() {
            if listed.independent && !listed.gap {
                found.push((PartPosition { msn, part }, at + into, date(into)));
            }
            into += listed.duration;
        }
        begins = date(segment.duration);
        at += segment.duration;
    }
    found
}

/// The position to start at, and whether it is the requested one and not a substitute.
fn begin(playlist: &MediaPlaylist, entry: StartPosition) -> Option<(PartPosition, bool)> {
    let entries = entries(playlist);
    let parts: Duration = playlist.trailing.head.parts.iter().map(|part| part.duration).sum();
    let end = playlist.duration() + parts;
    let behind = |by: Duration| {
        let at = end.saturating_sub(by);
        let found = entries.iter().rev().find(|(_, begins, _)| *begins <= at).or(entries.first());
        found.map(|(position, ..)| (*position, false))
    };
    let live_edge = || {
        let told = playlist.server_control.part_hold_back;
        behind(told.unwrap_or(playlist.part_target.unwrap_or_default() * 3))
    };
    match entry {
        StartPosition::LiveEdge => live_edge(),
        StartPosition::Behind => behind(playlist.target_duration * 3),
        StartPosition::At(date) => {
            let is_before =
                |begins: Option<WallClock>| begins.is_some_and(|begins| begins <= later(date, DATE_TOLERANCE));
            let found = entries.iter().rev().find(|(_, _, begins)| is_before(*begins));
            found.map(|(position, ..)| (*position, true)).or_else(live_edge)
        }
    }
}
