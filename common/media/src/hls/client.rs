//! The playlist client: selects the next fetch from the playlists that were loaded (RFC 8216 §6.3).
//!
//! Pure: the caller loads and fetches, passes each playlist and its time of loading to the client, and polls the next action. Sockets, retries and
//! blocking reload belong to the caller. This module plays complete segments; [`parts`] plays parts.

pub mod parts;

use std::sync::Arc;
use std::time::Duration;

use super::playlist::{ByteRange, Map, MediaPlaylist, MediaSegment};
use crate::time::WallClock;

/// A segment or part to fetch.
#[derive(Clone, Debug, PartialEq)]
pub struct Fetch {
    /// Media sequence number of the segment.
    pub msn: u64,
    /// URI as written in the playlist: see [`resolve`].
    pub uri: String,
    /// Range of the resource; `None` for all of it.
    pub byte_range: Option<ByteRange>,
    /// Its init segment; `None` if the format is not fragmented MP4.
    pub map: Option<Arc<Map>>,
    /// Whether the init segment must be given to the reader first, because it is not that of the segment before.
    pub new_map: bool,
    /// Number of discontinuities before it, its own included. Another number means another timeline.
    pub discontinuity_sequence: u64,
    /// Whether the decoder must restart, because of a discontinuity or of lost segments.
    pub restart: bool,
    /// Duration as stated in the playlist.
    pub duration: Duration,
    /// Wall-clock time of its start, as stated, or computed from a segment before it.
    pub program_date_time: Option<WallClock>,
    /// Whether it is encrypted. Nearcast cannot decrypt.
    pub encrypted: bool,
    /// Number of segments just before it that are lost: they expired, could not be fetched, or are gaps of the server.
    pub lost: u64,
}

/// The caller's next action.
#[derive(Clone, Debug, PartialEq)]
pub enum PlaylistAction {
    /// Fetch this, then call [`PlaylistClient::next`] again.
    Fetch(Box<Fetch>),
    /// Reload the media playlist at this time of the caller's clock.
    Reload(Duration),
    /// The playlist has ended and every segment was returned.
    End,
}

/// Follows a media playlist by whole segments.
#[derive(Clone, Debug, Default)]
pub struct PlaylistClient {
    hold_back: Option<Duration>,
    keep_all: bool,
    /// Whether the next fetch has `new_map`, whatever its init segment is.
    map_is_new: bool,
    playlist: Option<MediaPlaylist>,
    reload_at: Duration,
    /// Media sequence number of the next segment; `None` before the start.
    next: Option<u64>,
    given: Option<Given>,
    /// The state before the last fetch, to repeat it: its number, and what was lost and returned before it.
    before: Option<(u64, u64, Option<Given>)>,
    lost: u64,
}

/// The last fetch.
#[derive(Clone, Debug)]
struct Given {
    map: Option<Arc<Map>>,
    discontinuity_sequence: u64,
    /// Wall-clock time of its end, if it is known.
    end: Option<WallClock>,
}

impl PlaylistClient {
    /// A client that starts `hold_back` behind the live edge. With `None` it starts at `EXT-X-START`, at `HOLD-BACK`, or three target durations behind
    /// (RFC 8216 §6.3.3). A complete playlist is played from its beginning.
    pub fn new(hold_back: Option<Duration>) -> Self {
        Self { hold_back, ..Self::default() }
    }

    /// For a client that must not skip: after segments expired or the numbers restarted, it continues at the oldest listed segment instead of the live
    /// edge. It may get segments that it has already.
    pub fn keep_all(self, keep_all: bool) -> Self {
        Self { keep_all, ..self }
    }

    /// The following playlists are those of another rendition, with another init segment.
    pub fn on_rendition_change(&mut self) {
        self.map_is_new = true;
    }

    /// A playlist was loaded. `began` is the time when loading began, on the caller's monotonic clock.
    pub fn on_playlist(&mut self, began: Duration, mut playlist: MediaPlaylist) {
        let target = playlist.target_duration.max(MIN_TARGET);
        if let Some(before) = &self.playlist {
            fill_skipped(before, &mut playlist);
        }
        let is_new = match &self.playlist {
            Some(before) => before.next_msn() != playlist.next_msn() || before.end_list != playlist.end_list,
            None => true,
        };
        // RFC 8216bis §6.3.4: after a change, wait for the duration of the newest segment, otherwise for half a target duration.
        let newest = playlist.segments.last().map_or(target, |segment| segment.duration.clamp(target / 2, target));
        self.reload_at = began + if is_new { newest } else { target / 2 };
        if self.next.is_some_and(|next| playlist.next_msn().saturating_add(RESTART_DISTANCE) < next) {
            // The numbers restarted: it is another server, or one that has lost its state.
            let index = self.relocate(&playlist);
            self.next = (!playlist.segments.is_empty()).then(|| playlist.media_sequence + playlist.skipped + index.0);
            self.given = None;
            self.before = None;
        }
        self.playlist = Some(playlist);
    }

    /// Loading the playlist failed at `now`. The next attempt is half a target duration later.
    pub fn on_load_failed(&mut self, now: Duration) {
        let target = self.playlist.as_ref().map_or(Duration::ZERO, |playlist| playlist.target_duration);
        self.reload_at = now + target.max(MIN_TARGET) / 2;
    }

    /// The last fetch failed and is to be repeated. If the segment is no longer listed, it is lost.
    pub fn retry_fetch(&mut self) {
        if let Some((msn, lost, given)) = self.before.take() {
            (self.next, self.lost, self.given) = (Some(msn), lost, given);
        }
    }

    /// The last fetch failed for good: the segment counts as lost, and the decoder restarts after it.
    pub fn on_fetch_failed(&mut self) {
        self.before = None;
        self.lost += 1;
    }

    /// The next action. Each segment is returned once.
    #[expect(clippy::should_implement_trait, reason = "unlike an iterator, it states when to call it again")]
    pub fn next(&mut self) -> PlaylistAction {
        let Some(playlist) = &self.playlist else { return PlaylistAction::Reload(self.reload_at) };
        let first = playlist.media_sequence + playlist.skipped;
        let mut next = match self.next {
            Some(next) => next,
            None if playlist.segments.is_empty() => return self.wait(),
            None => first + start(playlist, self.hold_back) as u64,
        };
        if next < first {
            // Segments expired during an outage, or a server that restarted counts from a higher number.
            let (index, follows) = self.relocate(playlist);
            let to = first + index;
            self.lost += if follows { 0 } else { to - next };
            self.map_is_new = true;
            next = to;
        }
        while let Some(segment) = usize::try_from(next - first).ok().and_then(|index| playlist.segments.get(index)) {
            next += 1;
            if segment.gap {
                self.lost += 1;
                continue;
            }
            let mut fetch = describe(playlist, next - 1, segment, self.given.as_ref(), self.lost);
            fetch.new_map |= std::mem::take(&mut self.map_is_new);
            let given = Given {
                map: fetch.map.clone(),
                discontinuity_sequence: fetch.discontinuity_sequence,
                end: fetch.program_date_time.map(|date| later(date, fetch.duration)),
            };
            // If it is repeated, it must have the same `new_map`.
            let before = self.given.replace(given).filter(|_| !fetch.new_map);
            self.before = Some((next - 1, self.lost, before));
            self.next = Some(next);
            self.lost = 0;
            return PlaylistAction::Fetch(Box::new(fetch));
        }
        self.next = Some(next);
        self.wait()
    }

    /// Media time that is listed from the next segment on.
    pub fn ahead(&self) -> Duration {
        let Some((playlist, next)) = self.playlist.as_ref().zip(self.next) else { return Duration::ZERO };
        let index = next.saturating_sub(playlist.media_sequence + playlist.skipped);
        playlist
            .segments
            .iter()
            .skip(usize::try_from(index).unwrap_or(usize::MAX))
            .map(|segment| segment.duration)
            .sum()
    }

    /// Where to continue if the next segment is not listed: the index of a segment, and whether it follows the last fetch.
    fn relocate(&self, playlist: &MediaPlaylist) -> (u64, bool) {
        if self.keep_all || playlist.end_list {
            return (0, false);
        }
        let end = self.given.as_ref().and_then(|given| given.end);
        let follows = end.and_then(|end| {
            (0..playlist.segments.len()).find(|index| {
                let begin = date(playlist.segments[..=*index].iter());
                begin.is_some_and(|begin| {
                    begin <= later(end, DATE_TOLERANCE)
                        && later(begin, playlist.segments[*index].duration) > later(end, DATE_TOLERANCE)
                })
            })
        });
        // Otherwise everything listed is old: continue at the live edge.
        (follows.unwrap_or_else(|| start(playlist, self.hold_back)) as u64, follows.is_some())
    }

    fn wait(&self) -> PlaylistAction {
        match &self.playlist {
            Some(playlist) if playlist.end_list => PlaylistAction::End,
            _ => PlaylistAction::Reload(self.reload_at),
        }
    }
}

/// Fills in the segments that a delta update has skipped, from the playlist before (RFC 8216bis §6.2.5.1).
fn fill_skipped(before: &MediaPlaylist, playlist: &mut MediaPlaylist) {
    if playlist.skipped == 0 {
        return;
    }
    let from = playlist
        .media_sequence
        .checked_sub(before.media_sequence + before.skipped)
        .and_then(|n| usize::try_from(n).ok());
    let count = usize::try_from(playlist.skipped).ok();
    let known = from.zip(count).and_then(|(from, count)| before.segments.get(from..from.checked_add(count)?));
    let Some(known) = known else { return };
    let mut segments = known.to_vec();
    segments.append(&mut playlist.segments);
    // A map stays in force without being repeated.
    let mut map = None;
    for segment in segments.iter_mut().chain([&mut playlist.trailing.head]) {
        map = segment.map.take().or(map);
        segment.map.clone_from(&map);
    }
    (playlist.segments, playlist.skipped) = (segments, 0);
}

/// The segments from the first listed one to the one with this number, which may be the segment in progress.
fn until(playlist: &MediaPlaylist, msn: u64) -> impl DoubleEndedIterator<Item = &MediaSegment> + Clone {
    let count = msn.saturating_sub(playlist.media_sequence + playlist.skipped).saturating_add(1);
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let head = (count > playlist.segments.len()).then_some(&playlist.trailing.head);
    playlist.segments.iter().take(count).chain(head)
}

fn describe(playlist: &MediaPlaylist, msn: u64, segment: &MediaSegment, given: Option<&Given>, lost: u64) -> Fetch {
    let discontinuities = until(playlist, msn).filter(|segment| segment.discontinuity).count() as u64;
    let discontinuity_sequence = playlist.discontinuity_sequence + discontinuities;
    let is_same = given.is_some_and(|given| given.discontinuity_sequence == discontinuity_sequence);
    Fetch {
        msn,
        uri: segment.uri.clone(),
        byte_range: segment.byte_range,
        new_map: !is_same || given.is_none_or(|given| given.map != segment.map),
        map: segment.map.clone(),
        discontinuity_sequence,
        restart: !is_same || lost > 0,
        duration: segment.duration,
        program_date_time: date(until(playlist, msn)),
        encrypted: segment.encrypted,
        lost,
    }
}

fn later(clock: WallClock, by: Duration) -> WallClock {
    WallClock::from_micros(clock.as_micros().saturating_add(i64::try_from(by.as_micros()).unwrap_or(i64::MAX)))
}

/// Wall-clock time at which the last of these segments starts, as stated or computed within its discontinuity (§4.3.2.6).
fn date<'a>(segments: impl DoubleEndedIterator<Item = &'a MediaSegment>) -> Option<WallClock> {
    let mut after = Duration::ZERO;
    for (n, segment) in segments.rev().enumerate() {
        if n > 0 {
            after += segment.duration;
        }
        if let Some(date) = segment.program_date_time {
            return Some(later(date, after));
        }
        if segment.discontinuity {
            return None;
        }
    }
    None
}

/// The index of the segment to start with, in a playlist with segments.
fn start(playlist: &MediaPlaylist, hold_back: Option<Duration>) -> usize {
    let total = playlist.duration();
    let at = match (hold_back, playlist.start) {
        (None, Some(start)) if start.offset_millis >= 0 => {
            Duration::from_millis(start.offset_millis.unsigned_abs()).min(total)
        }
        (None, Some(start)) => total.saturating_sub(Duration::from_millis(start.offset_millis.unsigned_abs())),
        (_, _) if playlist.end_list => Duration::ZERO,
        (Some(hold_back), _) => total.saturating_sub(hold_back),
        (None, None) => {
            let told = playlist.server_control.hold_back;
            total.saturating_sub(told.unwrap_or(playlist.target_duration * 3))
        }
    };
    let mut end = Duration::ZERO;
    let found = playlist.segments.iter().position(|segment| {
        end += segment.duration;
        end > at
    });
    found.unwrap_or(playlist.segments.len().saturating_sub(1))
}

/// The absolute URI of `reference` in a playlist at `base` (RFC 3986 §5.2). `base` is absolute and hierarchical; its query and fragment are
/// dropped.
pub fn resolve(base: &str, reference: &str) -> String {
    let reference = reference.trim();
    let has_scheme = reference.split_once(':').is_some_and(|(scheme, _)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
    });
    if has_scheme {
        return reference.to_owned();
    }
    let (scheme, rest) = base.split_once("://").unwrap_or(("http", base));
    if let Some(authority) = reference.strip_prefix("//") {
        return format!("{scheme}://{authority}");
    }
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if reference.is_empty() {
        return format!("{scheme}://{authority}{path}");
    }
    let (said, suffix) = reference.split_at(reference.find(['?', '#']).unwrap_or(reference.len()));
    let merged = match said {
        "" => path.to_owned(),
        _ if said.starts_with('/') => said.to_owned(),
        _ => format!("{}/{said}", path.rsplit_once('/').map_or("", |(folder, _)| folder)),
    };
    format!("{scheme}://{authority}{}{suffix}", without_dots(&merged))
}

/// Removes dot segments (RFC 3986 §5.2.4).
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut parts = path.split('/').skip(usize::from(path.starts_with('/'))).peekable();
    while let Some(part) = parts.next() {
        let is_last = parts.peek().is_none();
        match part {
            "." | ".." => {
                if part == ".." {
                    kept.pop();
                }
                if is_last {
                    kept.push("");
                }
            }
            _ => kept.push(part),
        }
    }
    format!("/{}", kept.join("/"))
}

/// The shortest target duration that is believed: a playlist is not reloaded more often than twice in this time.
const MIN_TARGET: Duration = Duration::from_millis(500);
/// If media sequence numbers fall back by more than this, the server has restarted; less is a stale cache.
const RESTART_DISTANCE: u64 = 3;
/// Dates and durations are rounded: a segment that starts this much before the end of the last fetch still follows it.
const DATE_TOLERANCE: Duration = Duration::from_millis(100);
