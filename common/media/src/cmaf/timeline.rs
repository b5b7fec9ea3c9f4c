//! The segmenter's state of one epoch: its progress on the timeline, and the segment in progress.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::absence::Absence;
use super::open_segment::{OpenSegment, unit_cost};
use super::segment::{Init, Intervals, Part, Segment};
use crate::access_unit::{AccessUnit, TrackId, TrackKind};
use crate::catalog::Catalog;
use crate::codec::Format;
use crate::codec::silence::silence;
use crate::fmp4::{self, Fragmenter, rendition};
use crate::gop_duration::GopDurations;
use crate::least_delay::LeastDelay;
use crate::live_window::Entry;
use crate::time::{Timestamp, WallClock};
use crate::track_order::TrackOrder;

/// The epoch that is being cut.
#[derive(Debug)]
pub(super) struct Timeline {
    /// The catalog of the newest unit. A change is seen by comparing pointers.
    pub(super) catalog: Arc<Catalog>,
    /// The init segment in force.
    pub(super) init: Arc<Init>,
    /// The init segment that comes into force with the next segment.
    pub(super) next_init: Option<Arc<Init>>,
    pub(super) fragmenter: Fragmenter,
    /// Arrival minus PTS in milliseconds: the wall-clock time of PTS 0, for a publisher that does not state it.
    delay: LeastDelay,
    /// Whether an IDR has arrived; true without video.
    pub(super) has_idr: bool,
    /// `pts - dts` of the newest IDR in milliseconds: moves DTS onto the presentation timeline.
    pub(super) composition_lead: i64,
    /// The latest point on the presentation timeline, of all tracks and of the primary track.
    pub(super) edge: Option<Timestamp>,
    pub(super) primary_edge: Option<Timestamp>,
    /// The longest interval between two units of the primary track, in milliseconds.
    pub(super) step: i64,
    durations: GopDurations,
    /// Durations of the newest GOPs in milliseconds.
    gops: VecDeque<i64>,
    /// The last DTS by kind: audio, video.
    pub(super) last_dts: [Option<Timestamp>; 2],
    pub(super) open: Option<OpenSegment>,
    /// Whether the open segment is the first with this init segment: no client has seen either, so tracks may still be added.
    pub(super) init_is_provisional: bool,
    /// Whether the next segment starts with a discontinuity.
    pub(super) discontinuity_pending: bool,
    /// Units of tracks that join with the next init segment.
    pub(super) waiting: Vec<Entry>,
    /// The order of the units that were written.
    order: TrackOrder,
    /// How far the sound arrives behind the pictures, in milliseconds.
    sound_lag: i64,
    /// Whether silence stands in for the sound.
    pub(super) is_silent: bool,
    /// Whether pictures stay away while sound goes on.
    absence: Absence,
    /// Pictures after a pause, until their sound tells how much of it is to be silent.
    pub(super) held: Vec<Entry>,
    /// Where the segment before the one in progress ended.
    closed: Option<Timestamp>,
}

impl Timeline {
    pub(super) fn new(catalog: &Arc<Catalog>, init: Arc<Init>, sequence: u32, discontinuity_pending: bool) -> Self {
        let fragmenter = Fragmenter::new(sequence, &init.catalog);
        Self {
            catalog: Arc::clone(catalog),
            has_idr: init.catalog.video().is_none(),
            init,
            next_init: None,
            fragmenter,
            delay: LeastDelay::default(),
            composition_lead: 0,
            edge: None,
            primary_edge: None,
            step: 0,
            durations: GopDurations::default(),
            gops: VecDeque::new(),
            last_dts: [None; 2],
            open: None,
            init_is_provisional: true,
            discontinuity_pending,
            waiting: Vec::new(),
            order: TrackOrder::default(),
            sound_lag: 0,
            is_silent: false,
            absence: Absence::default(),
            held: Vec::new(),
            closed: None,
        }
    }

    /// Notes when a unit arrived.
    pub(super) fn observe_arrival(&mut self, unit: &AccessUnit, arrived: WallClock) {
        let arrived = arrived.as_micros() / 1000;
        self.delay.observe(arrived, arrived.saturating_sub(unit.pts.as_millis()));
    }

    /// Notes how far the sound at `unit` is behind the pictures, as the publisher interleaves them.
    pub(super) fn observe_sound(&mut self, unit: &AccessUnit) {
        if let Some(edge) = self.primary_edge.filter(|_| !unit.track.is_video() && self.has_pictures()) {
            let lag = (edge - unit.dts).clamp(0, MAX_SOUND_LAG);
            self.sound_lag = lag.max(self.sound_lag - self.sound_lag / 64);
        }
    }

    /// Adds silent frames to the segment in progress, which ends at `end`, where the sound is away while pictures go on: a player stops where one of
    /// its tracks ends. A reader of ours drops them ([`Fragmenter::mark_filler`]).
    pub(super) fn fill_silence(&mut self, end: Timestamp) {
        // After a pause of both, the first picture may arrive before the last sound that precedes the pause.
        let (end, patience) = match self.end() {
            Some(pictures_end) if !self.is_silent => (pictures_end.min(end), SOUND_PATIENCE),
            _ => (end, SILENCE_MARGIN),
        };
        let end = end.as_millis() - self.sound_lag;
        self.is_silent |= self.add_silence(end - SILENCE_MARGIN, patience - SILENCE_MARGIN);
    }

    /// Adds silent frames up to `unit`, if it is the first sound after sound was away.
    pub(super) fn end_silence(&mut self, unit: &AccessUnit) {
        if !unit.track.is_video() {
            self.add_silence(unit.dts.as_millis(), if self.is_silent { 0 } else { SILENCE_MARGIN });
            self.is_silent = false;
        }
    }

    /// Adds silent frames between the newest sound and `end`, in milliseconds, if that is longer than `patience`. Returns whether it is.
    fn add_silence(&mut self, end: i64, patience: i64) -> bool {
        let Some(track) = self.init.catalog.audio().filter(|_| self.has_pictures() && self.has_idr) else {
            return false;
        };
        let (Some(open), Some(payload)) = (&mut self.open, silence(&track.config)) else { return false };
        let Format::Audio { sample_rate, .. } = track.config.format else { return false };
        let Some(samples) = track.config.samples_in(&payload) else { return false };
        let frame = i64::from(samples) * 1_000_000 / i64::from(sample_rate.max(1));
        let last = &mut self.last_dts[usize::from(false)];
        let start = match *last {
            Some(last) => last.as_millis() * 1000 + frame,
            None => open.part_start.as_millis() * 1000,
        };
        if end - start / 1000 <= patience || frame < 1000 {
            return false;
        }
        // Less than half a frame is jitter.
        let until = end * 1000 - frame / 2;
        for at in (start..until).step_by(usize::try_from(frame).unwrap_or(1)).take(MAX_SILENCE) {
            let dts = Timestamp::from_millis((at + 500) / 1000);
            *last = Some(dts);
            self.fragmenter.mark_filler(track.id, dts);
            let epoch = self.catalog.epoch;
            let payload = payload.clone();
            open.add(&AccessUnit { epoch, track: track.id, dts, pts: dts, random_access: true, payload });
        }
        true
    }

    /// Continues without the video track where pictures that can be decoded stay away while sound goes on, since players wait for every track of an init
    /// segment; and lets the track join again with the first of them.
    pub(super) fn do_without_pictures(&mut self, unit: &AccessUnit) {
        if unit.track.is_video() {
            let track = rendition(&self.catalog).find(|track| track.id == unit.track);
            let is_carried = self.init.catalog.track(unit.track).is_some();
            let can_be_decoded =
                unit.random_access || if is_carried { self.has_idr } else { self.absence.continues(track) };
            if can_be_decoded {
                self.absence.see();
            }
            if can_be_decoded && !is_carried && track.is_some() && self.next_init.is_none() {
                self.next_init = init(&self.catalog);
            }
            return;
        }
        let have_gone = self.absence.hear(unit);
        if self.catalog.video().is_none() {
            self.absence.leave_out(None);
        }
        if !have_gone || !self.has_pictures() {
            return;
        }
        let mut heard = Catalog::clone(&self.catalog);
        heard.tracks.retain(|track| !track.id.is_video());
        match init(&heard) {
            Some(init) if self.init_is_provisional && !self.has_idr => self.switch(init),
            Some(init) => self.next_init = Some(init),
            None => {}
        }
    }

    /// Puts `init` in force.
    pub(super) fn switch(&mut self, init: Arc<Init>) {
        self.fragmenter = Fragmenter::new(self.fragmenter.sequence(), &init.catalog);
        let (before, now) = (self.init.catalog.video(), init.catalog.video());
        if now.is_none() {
            self.absence.leave_out(before.filter(|track| self.has_idr && self.catalog.track(track.id) == Some(*track)));
            self.has_idr = true;
        } else if now.map(|track| track.id) != before.map(|track| track.id) {
            self.has_idr = self.absence.continues(now);
        }
        self.init = init;
    }

    /// Whether the unit's DTS is greater than the last of its track and not negative.
    pub(super) fn admits(&self, unit: &AccessUnit) -> bool {
        let last = self.last_dts[usize::from(unit.track.is_video())];
        unit.dts >= Timestamp::ZERO && last.is_none_or(|last| unit.dts > last)
    }

    /// Whether `new` can be put in force within the open segment: it has every track of which there are units unchanged, and the clock.
    pub(super) fn may_become(&self, new: &Catalog) -> bool {
        let old = &self.init.catalog;
        let mut with_units =
            old.tracks.iter().filter(|track| self.last_dts[usize::from(track.id.is_video())].is_some());
        let same_clock = old.clock.is_none() || old.clock == new.clock;
        self.init_is_provisional && same_clock && with_units.all(|track| new.track(track.id) == Some(track))
    }

    pub(super) fn has_pictures(&self) -> bool {
        self.init.catalog.video().is_some()
    }

    /// Whether this track decides where segments end: the video track, or the audio track if there is no video.
    pub(super) fn is_primary(&self, id: TrackId) -> bool {
        id.is_video() || !self.has_pictures()
    }

    /// The estimated end of the units so far. `None` before the first unit.
    pub(super) fn end(&self) -> Option<Timestamp> {
        let primary = self.primary_edge.map(|edge| edge + Duration::from_millis(self.step.max(1).unsigned_abs()));
        primary.max(self.edge)
    }

    /// Where the segment in progress ends if all its units are to be in it: at `next`, where the next unit is, or else where its last unit is expected to
    /// end; after its last unit in any case, and no more than `longest_part` ms after the start of its last part on account of the estimate. `None` if
    /// no segment is in progress.
    pub(super) fn last_end(&self, longest_part: i64, next: Option<Timestamp>) -> Option<Timestamp> {
        let (end, open) = (next.or_else(|| self.end())?, self.open.as_ref()?);
        let Some(last) = open.units.iter().map(|unit| self.time_of(unit)).max() else { return Some(open.part_start) };
        let after_last = last.max(open.part_start) + Duration::from_millis(1);
        let longest = open.part_start + Duration::from_millis(longest_part.unsigned_abs());
        Some(end.clamp(after_last, longest.max(after_last)))
    }

    /// Takes the composition time of an IDR as that of its GOP.
    pub(super) fn update_lead(&mut self, unit: &AccessUnit) {
        if unit.track.is_video() && unit.random_access {
            self.composition_lead = unit.composition_time().clamp(0, MAX_COMPOSITION_LEAD);
        }
    }

    /// Notes a unit of the primary track at `at`.
    pub(super) fn observe_primary(&mut self, at: Timestamp, random_access: bool) {
        if let Some(gop) = self.durations.observe(at.as_millis(), random_access) {
            self.gops.push_back(gop);
            if self.gops.len() > GOP_HISTORY {
                self.gops.pop_front();
            }
        }
    }

    /// The unit's place on the presentation timeline, in decoding order: its DTS plus the composition time of its GOP's IDR.
    pub(super) fn time_of(&self, unit: &AccessUnit) -> Timestamp {
        let composition_lead = if unit.track.is_video() { self.composition_lead } else { 0 };
        unit.dts + Duration::from_millis(composition_lead.unsigned_abs())
    }

    /// Whether the segment, `elapsed` ms long, ends at this IDR: it is nearer to the target than the next one will be, or it is the last one within
    /// `limit` ms.
    pub(super) fn ends_at_idr(&self, elapsed: i64, target: Duration, limit: i64) -> bool {
        let target = target.as_millis() as i64;
        let (Some(newest), Some(longest)) = (self.gops.back(), self.gops.iter().max()) else {
            return elapsed >= target;
        };
        elapsed >= target / 4 && (elapsed + newest / 2 >= target || elapsed + longest > limit)
    }

    /// Whether this unit's track has another configuration in the next init segment, or exists only there.
    pub(super) fn waits_for_next_init(&self, unit: &AccessUnit) -> bool {
        let next = self.next_init.as_ref().and_then(|init| init.catalog.track(unit.track));
        next.is_some() && next != self.init.catalog.track(unit.track)
    }

    /// Whether the next init segment can come into force at this unit: at an IDR, at any video frame if the video configuration changes, and at any
    /// unit without video.
    pub(super) fn can_switch_at(&self, unit: &AccessUnit) -> bool {
        let next = self.next_init.as_ref().and_then(|next| next.catalog.video());
        let pictures_change =
            next.is_some() && next.map(|track| &track.config) != self.init.catalog.video().map(|track| &track.config);
        match unit.track.kind {
            TrackKind::Video => unit.random_access || pictures_change,
            TrackKind::Audio => next.is_none() || !self.has_idr,
        }
    }

    /// Duration of the longest of the newest GOPs in milliseconds; 0 if none is complete.
    pub(super) fn longest_gop(&self) -> i64 {
        self.gops.iter().copied().max().unwrap_or(0)
    }

    /// Adds a unit to the segment in progress; starts one at `start` if there is none.
    pub(super) fn add(&mut self, start: Timestamp, entry: &Entry) {
        let (unit, predecessor) = (&entry.unit, entry.predecessor_dts);
        let before = self.last_dts[usize::from(unit.track.is_video())].replace(unit.dts);
        if self.order.must_state(unit, predecessor) {
            self.fragmenter.state_predecessor(unit.track, unit.dts, predecessor);
        }
        let open = self.open_segment(start);
        open.add(unit);
        if let Some(before) = before.filter(|_| unit.track.is_video()) {
            open.add_interval(unit.dts - before);
        }
    }

    /// The segment in progress; starts one if there is none: at the end of the one before it, or at `start` after a discontinuity.
    fn open_segment(&mut self, start: Timestamp) -> &mut OpenSegment {
        let start =
            self.closed.map_or(start, |closed| if self.discontinuity_pending { closed.max(start) } else { closed });
        let discontinuity_pending = &mut self.discontinuity_pending;
        self.open.get_or_insert_with(|| OpenSegment::new(start, std::mem::take(discontinuity_pending)))
    }

    /// Takes the units of the part in progress that are before `end`; later ones stay.
    pub(super) fn take_units_before(&mut self, end: Timestamp) -> Vec<AccessUnit> {
        let units = self.open.as_mut().map(|open| std::mem::take(&mut open.units)).unwrap_or_default();
        let (units, later) = units.into_iter().partition(|unit| self.time_of(unit) < end);
        if let Some(open) = &mut self.open {
            open.units = later;
        }
        units
    }

    /// Ends the segment in progress at `end`, by which all its parts have ended; the next one starts there with the units that are left. `None` if it
    /// has no part: then it goes on, but not for longer than `longest`.
    pub(super) fn take_segment(&mut self, end: Timestamp, longest: Duration) -> Option<Segment> {
        let mut open = self.open.take()?;
        let later = std::mem::take(&mut open.units);
        let parts = std::mem::take(&mut open.parts);
        let intervals = open.take_intervals();
        let segment = (!parts.is_empty()).then(|| Segment { intervals, ..self.segment(&open, parts, end) });
        self.discontinuity_pending |= segment.is_none() && open.discontinuity;
        let is_over = segment.is_some() || end >= open.start + longest;
        let start = if is_over { end } else { open.start };
        self.closed = Some(start);
        later.iter().for_each(|unit| self.open_segment(start).add(unit));
        segment
    }

    /// Milliseconds between the latest unit before this one, held or not, and this one; 0 or less if there is no gap.
    pub(super) fn gap_before(&self, unit: &AccessUnit) -> i64 {
        let held = self.held.last().map(|entry| self.time_of(&entry.unit));
        self.edge.max(held).map_or(0, |edge| self.time_of(unit) - edge)
    }

    /// Whether this picture is the first after a pause of both tracks. Its sound, which comes next, tells how much of the pause is to be silent; until
    /// then it is held, for a while.
    pub(super) fn waits_for_sound(&self, unit: &AccessUnit, pause: i64) -> bool {
        let can_be_silent = self.init.catalog.audio().is_some_and(|track| silence(&track.config).is_some());
        let sounds = self.last_dts[0].is_some() && !self.is_silent;
        unit.track.is_video() && can_be_silent && sounds && (!self.held.is_empty() || self.gap_before(unit) > pause)
    }

    /// Whether `unit` ends the wait of the pictures that are held: sound after the pause, the last picture that is waited for, or more than `max_bytes`.
    pub(super) fn ends_wait(&self, unit: &AccessUnit, max_bytes: usize) -> bool {
        let Some(first) = self.held.first() else { return false };
        let (bytes, sound): (usize, _) = (self.held.iter().map(|entry| unit_cost(&entry.unit)).sum(), self.last_dts[0]);
        let is_over = match unit.track.kind {
            TrackKind::Audio => unit.dts >= first.unit.dts || sound.is_none_or(|last| unit.dts - last > SILENCE_MARGIN),
            TrackKind::Video => unit.dts - first.unit.dts > SOUND_PATIENCE,
        };
        is_over || bytes > max_bytes
    }

    /// Adds silent frames up to the pictures that are held, since no sound has come.
    pub(super) fn fill_pause(&mut self) {
        if let Some(last) = self.held.last() {
            let end = self.time_of(&last.unit).as_millis() - self.sound_lag;
            self.is_silent |= self.add_silence(end - SILENCE_MARGIN, SILENCE_MARGIN);
        }
    }

    /// Whether the part in progress has a unit before `end`, and one follows within the `next_length` ms after it, in the part or in `next`.
    pub(super) fn can_end_part_at(&self, end: Timestamp, next_length: i64, next: &[AccessUnit]) -> bool {
        let Some(open) = &self.open else { return false };
        let mut following = open.units.iter().chain(next).map(|unit| self.time_of(unit) - end);
        open.units.iter().any(|unit| self.time_of(unit) < end)
            && following.any(|after| (0..next_length).contains(&after))
    }

    /// The end of the part in progress if it lasts `length` and all its units are within that.
    pub(super) fn end_of_units_within(&self, length: Duration) -> Option<Timestamp> {
        let open = self.open.as_ref()?;
        let end = open.part_start + length;
        (!open.units.is_empty() && open.units.iter().all(|unit| self.time_of(unit) < end)).then_some(end)
    }

    /// The date of `start`: by the publisher's clock, or by the least delay of what has arrived.
    fn date(&self, start: Timestamp) -> WallClock {
        let arrival_clock = WallClock::from_micros(self.delay.get().unwrap_or(0).saturating_mul(1000));
        self.init.catalog.clock.unwrap_or(arrival_clock).at(start)
    }

    /// The segment in progress as far as its parts are complete; its date stays from now on. `None` if no part is.
    pub(super) fn listed_segment(&mut self) -> Option<Segment> {
        let open = self.open.as_ref().filter(|open| !open.parts.is_empty())?;
        let (segment, date) = (self.segment(open, open.parts.clone(), open.part_start), self.date(open.start));
        let open = self.open.as_mut()?;
        let date = *open.date.get_or_insert(date);
        Some(Segment { program_date_time: date, ..segment })
    }

    /// The segment that `open` makes of `parts` if it ends at `end`, not numbered yet and without the intervals between its pictures.
    fn segment(&self, open: &OpenSegment, parts: Vec<Part>, end: Timestamp) -> Segment {
        Segment {
            msn: 0,
            discontinuity: open.discontinuity,
            discontinuity_sequence: 0,
            program_date_time: open.date.unwrap_or_else(|| self.date(open.start)),
            duration: end.since(open.start),
            independent: open.independent.unwrap_or(true),
            init: self.init.id,
            bytes: parts.iter().map(|part| part.fragment.len()).sum(),
            intervals: Intervals::default(),
            lists_parts: true,
            parts,
        }
    }
}

/// The init segment for the tracks of the catalog's rendition that fMP4 can carry; `None` if it can carry none of them.
pub(super) fn init(catalog: &Catalog) -> Option<Arc<Init>> {
    let mut carried = Catalog { tracks: Vec::new(), ..catalog.clone() };
    for track in rendition(catalog) {
        let alone = Catalog { tracks: vec![track.clone()], ..catalog.clone() };
        if fmp4::init_segment(&alone).is_ok() {
            carried.tracks.push(track.clone());
        }
    }
    let bytes = fmp4::init_segment(&carried).ok()?;
    Some(Arc::new(Init { id: fnv1a(&bytes), catalog: Arc::new(carried), bytes }))
}

pub(super) fn same_tracks(old: &Catalog, new: &Catalog) -> bool {
    rendition(old).eq(rendition(new))
}

/// FNV-1a, 64 bits. A stream has few init segments, and a publisher that forges a collision damages only its own stream.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Number of GOPs that the duration of the next one is estimated from.
const GOP_HISTORY: usize = 8;
/// In milliseconds. A longer interval between two units is a pause, and says nothing about the frame rate.
pub(super) const MAX_STEP: i64 = 200;
/// In milliseconds. Bounds the lag of the sound that is taken for the publisher's interleaving.
const MAX_SOUND_LAG: i64 = 5000;
/// In milliseconds. Sound that is later than usual by this much is away.
const SOUND_PATIENCE: i64 = 600;
/// In milliseconds. Silence ends this long before the pictures, so that sound that comes back is not late.
const SILENCE_MARGIN: i64 = 100;
/// Bounds the silent frames that are added at once: more than the longest segment, of frames of 10 ms.
const MAX_SILENCE: usize = 1100;
/// In milliseconds. Sixteen B-frames at 5 frames per second take less.
const MAX_COMPOSITION_LEAD: i64 = 4000;
