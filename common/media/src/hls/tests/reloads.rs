//! What a client relies on from one load of a playlist to the next, whatever the publisher does (RFC 8216bis §4.4.4.9, §6.2.1, §6.2.2).

use super::*;

/// A client that loads the playlist after each unit and remembers what it saw.
#[derive(Default)]
struct Observer {
    window: Option<Arc<SegmentWindow>>,
    /// Each segment as it was seen last, by media sequence number.
    seen: BTreeMap<u64, Arc<Segment>>,
}

impl Observer {
    fn load(&mut self, window: &Arc<SegmentWindow>) {
        if window.segments.is_empty() {
            return;
        }
        if let Some(before) = self.window.replace(Arc::clone(window)) {
            if Arc::ptr_eq(&before, window) {
                return;
            }
            Self::compare(&before, window);
        }
        let last = window.segments.last().map(|segment| segment.msn);
        for segment in window.segments.iter().chain(&window.open) {
            let is_complete = Some(segment.msn) <= last;
            Self::judge(segment, window, is_complete);
            if let Some(known) = self.seen.insert(segment.msn, Arc::clone(segment)) {
                Self::compare_segments(&known, segment);
            }
        }
        for pair in window.segments.iter().chain(&window.open).collect::<Vec<_>>().windows(2) {
            let end = pair[0].program_date_time.as_micros() + pair[0].duration.as_micros() as i64;
            let gap = pair[1].program_date_time.as_micros() - end;
            // A pause of the only track makes a gap.
            let is_legal = gap == 0 || gap > 0 && !Self::has_both(window, pair[1]) || pair[1].discontinuity;
            assert!(is_legal, "segment {} begins {gap} µs after the end of the one before", pair[1].msn);
        }
    }

    fn has_both(window: &SegmentWindow, segment: &Segment) -> bool {
        window.inits.iter().any(|init| init.id == segment.init && init.catalog.tracks.len() == 2)
    }

    /// What one playlist says, the next must not contradict.
    fn compare(before: &SegmentWindow, now: &SegmentWindow) {
        assert!(before.next_msn <= now.next_msn);
        if before.segments.iter().any(|segment| now.segments.iter().any(|other| other.msn == segment.msn)) {
            let targets = |window: &SegmentWindow| (window.target_duration, window.part_target);
            assert_eq!(targets(before), targets(now), "a list keeps its targets");
        }
        if let Some((msn, part)) = before.preload_hint().filter(|hint| now.preload_hint() != Some(*hint) && !now.ended)
        {
            assert!(now.part(msn, part).is_some(), "part {part} of segment {msn} was hinted and never came");
        }
    }

    fn compare_segments(known: &Segment, now: &Segment) {
        let msn = now.msn;
        let stays = |segment: &Segment| {
            (segment.program_date_time, segment.discontinuity, segment.discontinuity_sequence, segment.init)
        };
        assert_eq!(stays(known), stays(now), "segment {msn} changed");
        assert!(now.parts.starts_with(&known.parts), "parts of segment {msn} changed");
    }

    fn judge(segment: &Segment, window: &SegmentWindow, is_complete: bool) {
        let msn = segment.msn;
        assert_eq!(
            segment.parts.iter().map(|part| part.duration).sum::<Duration>(),
            segment.duration,
            "segment {msn} lasts as long as its parts"
        );
        if is_complete {
            let rounded = (segment.duration.as_millis() + 500) / 1000;
            assert!(
                rounded <= window.target_duration.into(),
                "segment {msn}: {:?} of {} s",
                segment.duration,
                window.target_duration
            );
        }
        // Nothing can end a part in a pause of the only track.
        if !segment.lists_parts || !Self::has_both(window, segment) {
            return;
        }
        let target = window.part_target;
        let last = if is_complete { segment.parts.len() - 1 } else { usize::MAX };
        for (index, part) in segment.parts.iter().enumerate() {
            let states = part.duration;
            assert!(!states.is_zero() && states <= target, "part {index} of segment {msn}: {states:?} of {target:?}");
            let may_be_short = part.independent || index == last;
            assert!(
                may_be_short || states * 100 >= target * 85,
                "part {index} of segment {msn}: only {states:?} of {target:?}"
            );
        }
    }
}

/// What a publisher does for a while.
#[derive(Clone, Copy, Debug)]
enum Doing {
    Sending,
    /// Pictures, or sound, are sent later, all at once.
    HoldingPictures,
    HoldingSound,
    /// There are none.
    WithoutPictures,
    WithoutSound,
    /// Neither, and the timeline goes on.
    Pausing,
    NewBroadcast,
    PicturesOnly,
    SoundOnly,
    BothTracks,
    /// Other intervals of pictures and of IDRs.
    Encoding {
        interval: i64,
        gop: i64,
    },
}

struct Publisher {
    stream: Stream,
    observer: Observer,
    epoch: u64,
    interval: i64,
    gop: i64,
    now: i64,
    next: [i64; 2],
    pictures_in_gop: i64,
    held: Vec<(TrackId, i64, bool)>,
    is_sound_late: bool,
}

impl Publisher {
    fn new() -> Self {
        let settings = SegmenterConfig { window: Duration::from_secs(1_000_000), ..SegmenterConfig::default() };
        let stream = Stream::new(settings, catalog(1, &[video(), sound()]));
        let observer = Observer::default();
        Self {
            stream,
            observer,
            epoch: 1,
            interval: 40,
            gop: 25,
            now: 0,
            next: [0; 2],
            pictures_in_gop: 0,
            held: Vec::new(),
            is_sound_late: false,
        }
    }

    fn switch(&mut self, tracks: &[Track]) {
        self.flush();
        self.stream.catalog = catalog(self.epoch, tracks);
        self.pictures_in_gop = 0;
    }

    fn send(&mut self, unit: (TrackId, i64, bool)) {
        let (track, at, random_access) = unit;
        self.stream.push(track, at, 0, random_access, if track.is_video() { 100 } else { 10 });
        self.observer.load(&self.stream.segmenter.window());
    }

    fn flush(&mut self) {
        for unit in std::mem::take(&mut self.held) {
            self.send(unit);
        }
    }

    fn run(&mut self, doing: Doing, millis: i64) {
        match doing {
            Doing::NewBroadcast => {
                self.flush();
                self.epoch += 1;
                self.is_sound_late = false;
                (self.now, self.next) = (0, [0; 2]);
                let tracks = self.stream.catalog.tracks.clone();
                self.switch(&tracks);
            }
            Doing::HoldingSound => self.is_sound_late = true,
            Doing::PicturesOnly => self.switch(&[video()]),
            Doing::SoundOnly => self.switch(&[sound()]),
            Doing::BothTracks => self.switch(&[video(), sound()]),
            Doing::Encoding { interval, gop } => (self.interval, self.gop) = (interval, gop),
            _ => {}
        }
        let until = self.now + millis;
        let has = [self.stream.catalog.video().is_some(), self.stream.catalog.audio().is_some()];
        while self.now < until {
            for (kind, track) in [TrackId::VIDEO, TrackId::AUDIO].into_iter().enumerate() {
                if self.next[kind] > self.now {
                    continue;
                }
                let at = self.now.max(self.next[kind]);
                self.next[kind] = at + if track.is_video() { self.interval } else { 20 };
                let (away, held) = match doing {
                    Doing::HoldingPictures => (false, track.is_video()),
                    // Pictures that are rare make no parts alone.
                    Doing::HoldingSound => (false, !track.is_video() && self.interval < 200),
                    Doing::WithoutPictures => (track.is_video(), false),
                    Doing::WithoutSound => (!track.is_video() && self.interval < 200, false),
                    // Where the sound is usually late, it may still come for the time before the pause.
                    Doing::Pausing => (!self.is_sound_late, false),
                    _ => (false, false),
                };
                if away || !has[kind] {
                    continue;
                }
                let random_access = !track.is_video() || self.pictures_in_gop % self.gop == 0;
                self.pictures_in_gop += i64::from(track.is_video());
                if held {
                    self.held.push((track, at, random_access));
                } else {
                    self.send((track, at, random_access));
                }
            }
            self.now += 10;
        }
        self.flush();
    }
}

fn doing() -> impl Strategy<Value = (Doing, i64)> {
    let what = prop_oneof![
        4 => Just(Doing::Sending),
        3 => Just(Doing::HoldingPictures),
        2 => Just(Doing::HoldingSound),
        3 => Just(Doing::WithoutPictures),
        2 => Just(Doing::WithoutSound),
        2 => Just(Doing::Pausing),
        1 => Just(Doing::NewBroadcast),
        1 => Just(Doing::PicturesOnly),
        1 => Just(Doing::SoundOnly),
        1 => Just(Doing::BothTracks),
        2 => (prop::sample::select(vec![16, 33, 40, 50, 100, 200, 270, 500]), 1i64..100).prop_map(|(interval, gop)| Doing::Encoding { interval, gop }),
    ];
    (what, prop_oneof![3 => 20i64..600, 2 => 600i64..4000, 1 => 4000i64..13_000])
}

proptest! {
    #[test]
    fn no_load_of_a_playlist_contradicts_an_earlier_one(doings in prop::collection::vec(doing(), 1..14)) {
        let mut publisher = Publisher::new();
        publisher.run(Doing::Sending, 3000);
        for &(doing, millis) in &doings {
            publisher.run(doing, millis);
        }
        publisher.run(Doing::Sending, 3000);
        publisher.stream.segmenter.end();
        publisher.observer.load(&publisher.stream.segmenter.window());
        let stream = &mut publisher.stream;
        let (received, counters) = (stream.received(), stream.segmenter.counters());
        // Silence has taken the place of sound that is held for long.
        let may_refuse = doings.iter().any(|(doing, _)| matches!(doing, Doing::HoldingSound));
        prop_assert!(may_refuse || counters.refused == 0, "{counters:?}");
        prop_assert_eq!(received.len() as u64 + counters.refused, stream.sent.len() as u64);
    }
}
