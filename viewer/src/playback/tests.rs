//! Playback on a virtual clock: units arrive at given times, and the tests check which picture is presented when.

use bytes::Bytes;
use media::codec::{Codec, CodecConfig, Format};
use media::{Track, TrackId};

use super::*;

const PICTURE: u64 = 40;

fn catalog(epoch: u64) -> Arc<Catalog> {
    let mut catalog = Catalog::new(Epoch(epoch));
    let format = Format::Video { width: 64, height: 64 };
    catalog.set_track(Track {
        id: TrackId::VIDEO,
        config: CodecConfig { codec: Codec::H264, record: Bytes::new(), format },
    });
    Arc::new(catalog)
}

fn unit(epoch: u64, n: u64, gop: u64) -> AccessUnit {
    let dts = Timestamp::from_millis((n * PICTURE) as i64);
    let payload = Bytes::from_static(&[0; 100]);
    AccessUnit {
        epoch: Epoch(epoch),
        track: TrackId::VIDEO,
        dts,
        pts: dts,
        random_access: n.is_multiple_of(gop),
        payload,
    }
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A viewer whose decoder takes no time. `shown` holds picture numbers and the times in ms at which they were presented.
struct Viewer {
    playback: Playback,
    waiting: VecDeque<(u32, AccessUnit)>,
    shown: Vec<(u64, u64)>,
    gaps: u64,
}

impl Viewer {
    fn new(config: PlayoutConfig) -> Self {
        Self { playback: Playback::new(config), waiting: VecDeque::new(), shown: Vec::new(), gaps: 0 }
    }

    fn tick(&mut self, now: u64) {
        self.playback.adjust(ms(now));
        while let NextAction::Decode(work) = self.playback.next(TrackKind::Video, ms(now)) {
            self.gaps += u64::from(work.after_gap);
            self.waiting.push_back((work.timeline, work.unit));
        }
        while let Some((timeline, unit)) = self.waiting.front() {
            match self.playback.due(*timeline, unit.pts) {
                Some(due) if due <= ms(now) => {
                    self.shown.push((unit.dts.as_millis() as u64 / PICTURE, now));
                    self.waiting.pop_front();
                }
                _ => break,
            }
        }
    }

    /// Runs the clock from `from` to `end` in ms, while pictures arrive at these times (in order).
    fn run(&mut self, from: u64, end: u64, arrivals: &[(u64, AccessUnit)]) {
        let mut arrivals = arrivals.iter().peekable();
        for now in from..end {
            while let Some((_, unit)) = arrivals.next_if(|(at, _)| *at <= now) {
                let catalog = catalog(unit.epoch.0);
                self.playback.push(ms(now), &catalog, unit.clone());
            }
            self.tick(now);
        }
    }

    /// Latency of the last picture in ms; picture n is captured at n × 40 ms.
    fn last_delay(&self) -> u64 {
        self.shown.last().map_or(0, |(n, at)| at - n * PICTURE)
    }
}

fn live(latency: Option<u64>) -> PlayoutConfig {
    PlayoutConfig { fixed_target: latency.map(ms), may_skip: true, burst: Duration::ZERO }
}

fn pictures(range: std::ops::Range<u64>, gop: u64, at: impl Fn(u64) -> u64) -> Vec<(u64, AccessUnit)> {
    range.map(|n| (at(n), unit(1, n, gop))).collect()
}

#[test]
fn a_smooth_stream_is_presented_in_full_with_little_latency() {
    let mut viewer = Viewer::new(live(None));
    viewer.run(0, 10_100, &pictures(0..250, 50, |n| n * PICTURE + 5));
    assert_eq!(viewer.shown.len(), 250);
    assert!(viewer.shown.is_sorted());
    assert!(viewer.last_delay() < 60, "{}", viewer.last_delay());
    assert_eq!(viewer.playback.status().stalls, 0);
}

#[test]
fn a_join_in_mid_gop_ends_at_the_live_edge() {
    // The server sends the 40 pictures since the last IDR at once.
    let mut viewer = Viewer::new(live(None));
    viewer.run(1600, 5000, &pictures(0..120, 50, |n| (n * PICTURE).max(1600)));
    assert_eq!(viewer.shown.first(), Some(&(0, 1600)));
    assert_eq!(viewer.shown.len() as u64 + viewer.waiting.len() as u64, 120, "all are decoded");
    assert!(viewer.last_delay() < 80, "{}", viewer.last_delay());
}

#[test]
fn a_join_that_may_not_skip_presents_everything_and_catches_up() {
    let mut viewer = Viewer::new(PlayoutConfig { may_skip: false, ..live(None) });
    viewer.run(1600, 20_000, &pictures(0..300, 50, |n| (n * PICTURE).max(1600)));
    assert_eq!(viewer.shown.len(), 300);
    let steps = viewer.shown.windows(2).skip(1).map(|w| w[1].1 - w[0].1);
    assert!(steps.clone().min() >= Some(37) && steps.max() <= Some(44), "at most 5% faster");
    assert!(viewer.last_delay() < 1600 - 500, "half a second and more is caught up: {}", viewer.last_delay());
}

#[test]
fn jitter_is_absorbed() {
    // Every tenth picture is 120 ms late, and those behind it queue up.
    let mut viewer = Viewer::new(live(None));
    let mut last = 0;
    let arrivals: Vec<_> = (0..1000)
        .map(|n| {
            last = last.max(n * PICTURE + if n % 10 == 9 { 120 } else { 0 });
            (last, unit(1, n, 50))
        })
        .collect();
    viewer.run(0, 40_500, &arrivals);
    assert_eq!(viewer.shown.len(), 1000);
    let steady: Vec<_> = viewer.shown.iter().skip(500).collect();
    assert!(
        steady.windows(2).all(|w| (35..=45).contains(&(w[1].1 - w[0].1))),
        "no picture waits after the buffer has grown"
    );
    assert!((120..260).contains(&viewer.last_delay()), "{}", viewer.last_delay());
}

#[test]
fn segments_are_played_evenly() {
    // Two-second segments, each available when its last picture is.
    let config = PlayoutConfig { burst: ms(2000), ..live(None) };
    let mut viewer = Viewer::new(config);
    viewer.run(0, 60_000, &pictures(0..1500, 50, |n| (n / 50 + 1) * 2000 + 30));
    let steps = viewer.shown.windows(2).skip(100).map(|w| w[1].1 - w[0].1);
    assert!(steps.clone().max() <= Some(45), "{:?}", steps.max());
    assert!((2000..2300).contains(&viewer.last_delay()), "{}", viewer.last_delay());
    assert_eq!(viewer.playback.status().skipped, 0);
}

#[test]
fn shorter_segments_bring_the_viewer_nearer_to_the_live_edge() {
    for (is_told, delay) in [(true, 2000..2300), (false, 9000..10_500)] {
        let mut viewer = Viewer::new(PlayoutConfig { burst: ms(10_000), ..live(None) });
        viewer.run(0, 60_000, &pictures(0..1500, 50, |n| (n / 250 + 1) * 10_000 + 30));
        if is_told {
            viewer.playback.reset_timing(ms(60_000), ms(2000));
        }
        viewer.run(60_000, 150_000, &pictures(1500..3750, 50, |n| (n / 50 + 1) * 2000 + 30));
        assert!(delay.contains(&viewer.last_delay()), "{is_told}: {}", viewer.last_delay());
    }
}

#[test]
fn an_outage_stalls_then_skips_to_a_random_access_point() {
    // Nothing from 4 s to 9 s, then all of it at once.
    let mut viewer = Viewer::new(live(None));
    viewer.run(0, 15_000, &pictures(0..370, 25, |n| if (100..225).contains(&n) { 9000 } else { n * PICTURE }));
    let status = viewer.playback.status();
    assert_eq!(status.stalls, 1);
    assert!(status.skipped > 20, "{}", status.skipped);
    assert_eq!(status.skipped_unasked, status.skipped, "the user has no part in it");
    let back = viewer.shown.windows(2).find(|w| w[1].0 > w[0].0 + 1).map(|w| w[1].0);
    assert_eq!(back.map(|n| n % 25), Some(0), "goes on at a random access point");
    assert_eq!(viewer.gaps, 1, "and the decoder is told");
}

#[test]
fn pictures_skipped_because_the_user_paused_or_jumped_are_counted_apart() {
    let live_pictures = |range| pictures(range, 25, |n| n * PICTURE);
    let mut viewer = Viewer::new(live(None));
    viewer.run(0, 4_000, &live_pictures(0..100));
    viewer.playback.pause(ms(4_000), true);
    viewer.run(4_000, 10_000, &live_pictures(100..250));
    viewer.playback.pause(ms(10_000), false);
    viewer.run(10_000, 20_000, &live_pictures(250..500));
    let status = viewer.playback.status();
    assert!(status.skipped > 100, "{}", status.skipped);
    assert_eq!(status.skipped_unasked, 0);
    // The user jumps.
    viewer.playback.pause(ms(20_000), true);
    viewer.run(20_000, 20_900, &live_pictures(500..523));
    viewer.playback.pause(ms(20_900), false);
    viewer.playback.jump_to_live_edge(ms(20_900));
    viewer.run(20_900, 25_000, &live_pictures(523..625));
    assert_eq!(viewer.playback.status().skipped_unasked, 0);
}

#[test]
fn no_skip_mode_skips_nothing_after_an_outage() {
    let mut viewer = Viewer::new(PlayoutConfig { may_skip: false, ..live(None) });
    viewer.run(0, 25_000, &pictures(0..370, 25, |n| if (100..225).contains(&n) { 9000 } else { n * PICTURE }));
    assert_eq!(viewer.shown.len(), 370);
    assert!(viewer.shown.windows(2).all(|w| w[1].0 == w[0].0 + 1));
    assert_eq!(viewer.playback.status().skipped, 0);
}

#[test]
fn an_ended_broadcast_is_played_in_full_at_normal_speed() {
    // All of it arrives at once, and skipping is allowed.
    let mut viewer = Viewer::new(PlayoutConfig { burst: ms(2000), ..live(None) });
    viewer.playback.set_complete(true);
    viewer.run(0, 20_500, &pictures(0..500, 25, |n| n / 4));
    assert_eq!(viewer.shown.len(), 500);
    assert!(viewer.shown.windows(2).all(|w| (39..=41).contains(&(w[1].1 - w[0].1))));
    assert_eq!((viewer.playback.status().skipped, viewer.playback.is_full()), (0, false));
    viewer.playback.pause(ms(21_000), true);
    viewer.run(21_000, 22_000, &pictures(500..4000, 25, |_| 21_000));
    assert!(viewer.playback.is_full(), "the source waits");
}

#[test]
fn pictures_are_skipped_for_a_slow_decoder() {
    // A decoder that takes 60 ms for a picture every 40 ms: random access points every 2 s.
    for (skip, left_out, delay) in [(true, 100..250, 0..2700), (false, 0..1, 8000..12_000)] {
        let mut playback = Playback::new(PlayoutConfig { may_skip: skip, ..live(None) });
        let (catalog, mut decoded, mut last) = (catalog(1), 0, 0);
        for now in 0..30_000 {
            if now % PICTURE == 0 {
                playback.push(ms(now), &catalog, unit(1, now / PICTURE, 50));
            }
            playback.adjust(ms(now));
            if now % 60 == 0
                && let NextAction::Decode(work) = playback.next(TrackKind::Video, ms(now))
            {
                (decoded, last) = (decoded + 1, now - work.unit.dts.as_millis() as u64);
            }
        }
        let skipped = playback.status().skipped;
        assert!(left_out.contains(&skipped) && delay.contains(&last), "{skip}: {decoded}, {skipped} out, {last} ms");
    }
}

#[test]
fn a_burst_does_not_count_as_decoder_lag() {
    // Six seconds in three segments that take 1.2 s to arrive and to decode on a busy host; then a segment every 2 s.
    let at = |n: u64| if n < 150 { 6000 + n * 8 } else { (n / 50 + 1) * 2000 + 30 };
    let mut viewer = Viewer::new(PlayoutConfig { burst: ms(2000), ..live(None) });
    viewer.run(6000, 20_000, &pictures(0..350, 50, at));
    assert_eq!((viewer.playback.status().skipped, viewer.gaps), (0, 0));
    assert!(viewer.shown.windows(2).all(|w| w[1].0 == w[0].0 + 1));
    assert!((2000..2300).contains(&viewer.last_delay()), "{}", viewer.last_delay());
    // The same by RTMP: a publisher resends units after a reconnect.
    let mut viewer = Viewer::new(live(None));
    viewer.run(6000, 12_000, &pictures(0..250, 50, |n| (6000 + n * 10).max(n * PICTURE)));
    assert_eq!(viewer.playback.status().skipped, 0);
    assert!(viewer.last_delay() < 100, "{}", viewer.last_delay());
}

#[test]
fn a_fixed_buffer_is_kept() {
    let mut viewer = Viewer::new(live(Some(800)));
    viewer.run(0, 40_000, &pictures(0..990, 50, |n| n * PICTURE));
    assert!((780..=830).contains(&viewer.last_delay()), "{}", viewer.last_delay());
}

#[test]
fn clock_drift_does_not_accumulate() {
    // The broadcaster's clock is 0.1% fast for ten minutes: 600 ms in all.
    let mut viewer = Viewer::new(live(None));
    viewer.run(0, 600_000, &pictures(0..15_000, 50, |n| n * PICTURE * 999 / 1000));
    let (n, at) = *viewer.shown.last().unwrap();
    assert!(at - n * PICTURE * 999 / 1000 < 70);
    assert_eq!(viewer.playback.status().stalls, 0);
}

#[test]
fn the_next_broadcast_is_played_after_the_last_one() {
    let mut viewer = Viewer::new(live(None));
    let mut arrivals = pictures(0..50, 50, |n| n * PICTURE);
    arrivals.extend((0..50).map(|n| (5000 + n * PICTURE, unit(2, n + 1000, 50))));
    viewer.run(0, 8000, &arrivals);
    assert_eq!(viewer.shown.len(), 100);
    assert_eq!(viewer.shown[50].0, 1000);
    assert!((5000..5050).contains(&viewer.shown[50].1));
}

#[test]
fn resuming_from_a_pause_returns_to_the_live_edge() {
    let mut viewer = Viewer::new(live(None));
    let arrivals = pictures(0..500, 25, |n| n * PICTURE);
    viewer.run(0, 4000, &arrivals[..100]);
    viewer.playback.pause(ms(4000), true);
    viewer.run(4000, 10_000, &arrivals[100..250]);
    assert!(viewer.shown.last().unwrap().1 <= 4000);
    viewer.playback.pause(ms(10_000), false);
    viewer.run(10_000, 19_900, &arrivals[250..]);
    assert!(viewer.last_delay() < 100, "{}", viewer.last_delay());
}

#[test]
fn the_buffer_is_bounded() {
    let mut paused = Playback::new(live(None));
    paused.pause(ms(0), true);
    let mut waiting = Playback::new(PlayoutConfig { may_skip: false, ..live(None) });
    let (catalog, mut refused) = (catalog(1), 0);
    for n in 0..10_000 {
        paused.push(ms(n * PICTURE), &catalog, unit(1, n, 50));
        if waiting.is_full() {
            refused += 1;
        } else {
            waiting.push(ms(0), &catalog, unit(1, n, 50));
        }
    }
    assert!(paused.status().buffered <= MAX_SPAN_SKIPPING && paused.status().skipped > 8000);
    assert!(refused > 6000 && waiting.status().buffered <= MAX_SPAN + ms(PICTURE));
}

mod outages;

mod sound {
    use super::super::sound::{Sound, SoundQueue};
    use super::*;

    const RATE: u32 = 48_000;

    /// Plays twenty seconds of audio in pieces of 20 ms on a card that runs at `pace` times the nominal rate. Returns the number of corrections, and the
    /// largest error in ms between what is heard and what is due after the first second.
    fn play(pace: f64, start_ms: i64) -> (u64, f64) {
        let mut queue = SoundQueue::new(RATE);
        let mut pushed = 0;
        let mut worst: f64 = 0.0;
        let mut clock = 0.0;
        let mut out = vec![0.0; 2 * 480];
        while clock < 19.0 {
            while pushed < 1000 && (pushed as f64) * 0.02 < clock + 0.5 {
                let first = pushed * 960;
                let samples = (0..960).flat_map(|n| [(first + n) as f32; 2]).collect();
                let pts = Timestamp::from_millis(start_ms + pushed as i64 * 20);
                queue.push(Sound { timeline: 0, pts, samples });
                pushed += 1;
            }
            let due = |_, pts: Timestamp| Some(ms((1000 + pts.as_millis() - start_ms) as u64));
            queue.fill(&mut out, Duration::from_secs_f64(clock), 1.0, due);
            if clock > 2.0 {
                let heard = f64::from(out[0]) / f64::from(RATE);
                worst = worst.max((heard - (clock - 1.0)).abs() * 1000.0);
            }
            clock += 480.0 / f64::from(RATE) / pace;
        }
        (queue.corrections(), worst)
    }

    #[test]
    fn audio_stays_in_sync_with_the_pictures() {
        for (pace, corrections, error) in
            [(1.0, 0..=0, 3.0), (1.002, 0..=0, 10.0), (0.998, 0..=0, 10.0), (0.78, 5..=1000, 60.0)]
        {
            let (count, worst) = play(pace, 5_000);
            assert!(corrections.contains(&count) && worst < error, "{pace}: {count} corrections, {worst} ms");
        }
    }

    #[test]
    fn silence_fills_missing_audio() {
        let mut queue = SoundQueue::new(RATE);
        let mut out = vec![1.0; 64];
        queue.fill(&mut out, ms(0), 1.0, |_, _| Some(ms(0)));
        assert!(out.iter().all(|s| *s == 0.0));
        queue.push(Sound { timeline: 0, pts: Timestamp::ZERO, samples: vec![1.0; 64] });
        queue.fill(&mut out, ms(0), 1.0, |_, _| None);
        assert!(out.iter().all(|s| *s == 0.0), "a timeline that is over is not heard");
    }
}

/// The slower of two paths is 66 ms behind. Playback slows down for it, by no more than 5%, so that nothing freezes when the faster one fails.
#[test]
fn with_two_active_paths_playback_keeps_to_the_slower_one() {
    let mut viewer = Viewer::new(live(None));
    let catalog = catalog(1);
    for now in 0..20_000 {
        if now % PICTURE == 0 && now < 15_000 {
            viewer.playback.push(ms(now), &catalog, unit(1, now / PICTURE, 25));
        }
        if now >= 66 && (now - 66) % PICTURE == 0 {
            let late = unit(1, (now - 66) / PICTURE, 25);
            match now < 15_000 {
                true => viewer.playback.on_duplicate(ms(now), late.epoch, late.track.kind, late.dts),
                // From here on only the slower path delivers; the first of these units arrived before.
                false if late.dts.as_millis() >= 15_000 => viewer.playback.push(ms(now), &catalog, late),
                false => {}
            }
        }
        viewer.tick(now);
    }
    let steps = viewer.shown.windows(2).filter(|pair| pair[0].1 > 10_000).map(|pair| pair[1].1 - pair[0].1);
    let longest = steps.max().unwrap();
    assert!(longest <= PICTURE + 3, "a picture was shown for {longest} ms");
    assert!(viewer.last_delay() >= 66 && viewer.last_delay() < 66 + 60, "{}", viewer.last_delay());
}
