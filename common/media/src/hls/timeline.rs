//! The broadcast that a segmenter has in hand: where it is on its timeline, and the segment in the making.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::snapshot::{Init, Part, Segment};
use crate::access_unit::{AccessUnit, TrackId, TrackKind};
use crate::catalog::Catalog;
use crate::fmp4::{self, Fragmenter, rendition};
use crate::time::{Timestamp, WallClock};

/// The broadcast in hand.
#[derive(Debug)]
pub(super) struct Timeline {
    /// What the entries said last, to see a change by comparing pointers.
    pub(super) catalog: Arc<Catalog>,
    /// What `init` is made of: the tracks of the rendition that fMP4 can carry.
    pub(super) init: Arc<Init>,
    /// What is to be in force from the next segment on.
    pub(super) next_init: Option<Arc<Init>>,
    pub(super) fragmenter: Fragmenter,
    /// Wall-clock time of PTS 0 by arrival.
    pub(super) arrival_clock: WallClock,
    /// Whether an IDR was seen; always so without pictures.
    pub(super) has_idr: bool,
    /// PTS less DTS of the newest IDR: puts DTS on the presentation's timeline.
    pub(super) composition_lead: i64,
    /// The latest point on that timeline, and the latest of the track that is cut by.
    pub(super) edge: Option<Timestamp>,
    pub(super) primary_edge: Option<Timestamp>,
    /// The longest time between two units of that track.
    pub(super) step: i64,
    pub(super) newest_idr: Option<Timestamp>,
    /// The lengths of the newest GOPs in milliseconds.
    pub(super) gops: VecDeque<i64>,
    pub(super) last_dts: [Option<Timestamp>; 2],
    pub(super) open: Option<OpenSegment>,
    /// Whether the open segment is the first of this init segment, which nobody has seen.
    pub(super) init_is_provisional: bool,
    /// Whether the next segment does not go on where the one before ended.
    pub(super) discontinuity_pending: bool,
    /// Units of tracks that join with the next segment.
    pub(super) waiting: Vec<AccessUnit>,
}

/// The segment in the making.
#[derive(Debug)]
pub(super) struct OpenSegment {
    pub(super) start: Timestamp,
    pub(super) discontinuity: bool,
    /// Whether the first picture is an IDR, once there is a picture.
    pub(super) independent: Option<bool>,
    pub(super) pictures: u32,
    pub(super) parts: Vec<Part>,
    pub(super) bytes: usize,
    pub(super) part_start: Timestamp,
    pub(super) units: Vec<AccessUnit>,
}

impl Timeline {
    pub(super) fn new(
        catalog: &Arc<Catalog>,
        init: Arc<Init>,
        unit: &AccessUnit,
        arrived: WallClock,
        sequence: u32,
        discontinuity_pending: bool,
    ) -> Self {
        let fragmenter = Fragmenter::new(sequence, &init.catalog);
        Self {
            catalog: Arc::clone(catalog),
            has_idr: init.catalog.video().is_none(),
            init,
            next_init: None,
            fragmenter,
            arrival_clock: WallClock::from_micros(
                arrived.as_micros().saturating_sub(unit.pts.as_millis().saturating_mul(1000)),
            ),
            composition_lead: 0,
            edge: None,
            primary_edge: None,
            step: 0,
            newest_idr: None,
            gops: VecDeque::new(),
            last_dts: [None; 2],
            open: None,
            init_is_provisional: true,
            discontinuity_pending,
            waiting: Vec::new(),
        }
    }

    pub(super) fn switch(&mut self, init: Arc<Init>) {
        self.fragmenter = Fragmenter::new(self.fragmenter.sequence(), &init.catalog);
        if init.catalog.video().map(|track| track.id) != self.init.catalog.video().map(|track| track.id) {
            self.has_idr = init.catalog.video().is_none();
        }
        self.init = init;
    }

    /// Whether the unit comes after those of its track before it, and not before the start of the timeline.
    pub(super) fn admits(&mut self, unit: &AccessUnit) -> bool {
        let last = &mut self.last_dts[usize::from(unit.track.is_video())];
        let rises = unit.dts >= Timestamp::ZERO && last.is_none_or(|last| unit.dts > last);
        if rises {
            *last = Some(unit.dts);
        }
        rises
    }

    pub(super) fn has_pictures(&self) -> bool {
        self.init.catalog.video().is_some()
    }

    /// Whether segments are cut by this track: the pictures, or the sound if there are none.
    pub(super) fn is_primary(&self, id: TrackId) -> bool {
        id.is_video() || !self.has_pictures()
    }

    /// Where what was placed so far ends, as far as can be told without what follows.
    pub(super) fn end(&self) -> Option<Timestamp> {
        let primary = self.primary_edge.map(|edge| edge + Duration::from_millis(self.step.max(1).unsigned_abs()));
        primary.max(self.edge)
    }

    pub(super) fn update_lead(&mut self, unit: &AccessUnit) {
        if unit.track.is_video() && unit.random_access {
            self.composition_lead = unit.composition_time().clamp(0, MAX_COMPOSITION_LEAD);
        }
    }

    pub(super) fn record_gop(&mut self, at: Timestamp) {
        if let Some(before) = self.newest_idr {
            self.gops.push_back(at - before);
            if self.gops.len() > GOP_HISTORY {
                self.gops.pop_front();
            }
        }
        self.newest_idr = Some(at);
    }

    /// Where a unit is on the presentation's timeline, in an order that only rises: its DTS, moved by the lead of its GOP's IDR.
    pub(super) fn time_of(&self, unit: &AccessUnit) -> Timestamp {
        let composition_lead = if unit.track.is_video() { self.composition_lead } else { 0 };
        unit.dts + Duration::from_millis(composition_lead.unsigned_abs())
    }

    /// Whether to end the segment at this IDR: nearer to the target than the next one will be, or the last in time.
    pub(super) fn ends_at_idr(&self, elapsed: i64, target: Duration, limit: i64) -> bool {
        let target = target.as_millis() as i64;
        let (Some(newest), Some(longest)) = (self.gops.back(), self.gops.iter().max()) else {
            return elapsed >= target;
        };
        elapsed >= target / 4 && (elapsed + newest / 2 >= target || elapsed + longest > limit)
    }

    /// Whether this unit's track is not in the init segment as it is in the next.
    pub(super) fn waits_for_next_init(&self, unit: &AccessUnit) -> bool {
        let next = self.next_init.as_ref().and_then(|init| init.catalog.track(unit.track));
        next.is_some() && next != self.init.catalog.track(unit.track)
    }

    /// Whether the next init segment can come into force at this unit: at an IDR, and wherever pictures are configured anew or
    /// there are none.
    pub(super) fn can_switch_at(&self, unit: &AccessUnit) -> bool {
        let next = self.next_init.as_ref().and_then(|next| next.catalog.video());
        let pictures_change =
            next.is_some() && next.map(|track| &track.config) != self.init.catalog.video().map(|track| &track.config);
        match unit.track.kind {
            TrackKind::Video => unit.random_access || pictures_change,
            TrackKind::Audio => next.is_none() || !self.has_idr,
        }
    }

    pub(super) fn segment(&self, open: OpenSegment, end: Timestamp) -> Segment {
        let clock = self.init.catalog.clock.unwrap_or(self.arrival_clock);
        Segment {
            msn: 0,
            discontinuity: open.discontinuity,
            discontinuity_sequence: 0,
            program_date_time: clock.at(open.start),
            duration: end.since(open.start),
            independent: open.independent.unwrap_or(true),
            init: self.init.id,
            bytes: open.parts.iter().map(|part| part.fragment.len()).sum(),
            pictures: open.pictures,
            parts: open.parts,
        }
    }
}

impl OpenSegment {
    pub(super) fn new(start: Timestamp, discontinuity: bool) -> Self {
        Self {
            start,
            discontinuity,
            independent: None,
            pictures: 0,
            parts: Vec::new(),
            bytes: 0,
            part_start: start,
            units: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, unit: &AccessUnit) {
        if unit.track.is_video() {
            self.independent.get_or_insert(unit.random_access);
            self.pictures += 1;
        }
        self.bytes += unit.payload.len();
        self.units.push(unit.clone());
    }

    pub(super) fn is_not_empty(&self) -> bool {
        !self.parts.is_empty() || !self.units.is_empty()
    }

    /// Whether the part in the making has what parts are cut by.
    pub(super) fn has_picture_or_sound(&self, has_pictures: bool) -> bool {
        self.units.iter().any(|unit| unit.track.is_video() || !has_pictures)
    }

    /// The finished parts as a segment of their own.
    pub(super) fn completed_parts(&self) -> Self {
        Self { parts: self.parts.clone(), units: Vec::new(), ..*self }
    }
}

/// The init segment of what fMP4 can carry of a catalog's rendition; `None` if that is nothing.
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

/// Whether everything in `old` is in `new`, the clock too.
pub(super) fn adds_only(old: &Catalog, new: &Catalog) -> bool {
    (old.clock.is_none() || old.clock == new.clock) && old.tracks.iter().all(|track| new.track(track.id) == Some(track))
}

pub(super) fn same_tracks(old: &Catalog, new: &Catalog) -> bool {
    rendition(old).eq(rendition(new))
}

/// Sixty-four bits tell the few init segments of a stream apart; who forges a collision spoils nothing but that stream.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// How many GOPs tell how long the next will be.
const GOP_HISTORY: usize = 8;
/// In milliseconds: pictures further apart are no step but a pause.
pub(super) const MAX_STEP: i64 = 200;
/// In milliseconds: sixteen B-frames at 5 pictures a second take less.
const MAX_COMPOSITION_LEAD: i64 = 4000;
