//! Counters and measurements of the viewer, for the status line, the overlay, the JSON lines and the summary.

use std::time::Duration;

use media::frame_counter::FrameCounter;
use media::latency::{ClockOffset, Histogram, Stage, StageTimes};
use media::path_merge::MergeCounters;
use media::{Epoch, Timestamp, TrackId, WallClock};
use serde::Serialize;

use crate::figures;
pub use crate::latency_breakdown::Breakdown;
use crate::latency_breakdown::PathLatency;
use crate::latency_histogram::LatencyHistogram;
use crate::playback::PlaybackStatus;
use crate::switches::{SwitchSummary, Switches};

/// Everything that is counted. Several threads write it under one lock, and none blocks while it holds it.
#[derive(Debug, Default)]
pub struct Stats {
    /// Name of the active path.
    pub source: String,
    /// In words: `connecting`, `waiting for the broadcast`, [`LIVE`].
    pub state: String,
    /// Whether the stream has announced pictures.
    pub has_video: bool,
    /// `H.264 1280x720`, `AAC 48 kHz stereo`.
    pub codecs: Vec<String>,
    /// Audio units decoded.
    pub audio_frames: u64,
    /// Units that the decoder rejected.
    pub decode_errors: u64,
    /// Times that a path was reopened.
    pub reconnects: u64,
    /// Pictures decoded too late to be presented.
    pub late: u64,
    /// What the path merger counts.
    pub merge: MergeCounters,
    /// Path switches so far.
    pub switches: Switches,
    /// Failures of the unit log, the recording or the pipe.
    pub output_errors: u64,
    /// When the first picture was presented, or the first audio unit decoded of those that were played without pictures, on the viewer's
    /// clock.
    first: Option<Duration>,
    /// When the first and the last audio unit were decoded.
    heard: Option<(Duration, Duration)>,
    /// When the last picture was presented.
    last_picture: Option<Duration>,
    pictures: u64,
    marker: Option<MarkerCounts>,
    latency: LatencyHistogram,
    /// Pictures not presented before the first one on time: they are not counted as unpresented.
    not_presented_before: Option<u64>,
    /// Difference between the clock drawn into a picture and its capture stamp, in either direction.
    pixels: Histogram,
    /// Components of the latency.
    pub(crate) tracker: PathLatency,
    /// Pictures presented in the last second.
    recent: FrameRate,
}

#[derive(Clone, Copy, Debug)]
struct MarkerCounts {
    epoch: Epoch,
    first: u32,
    last: u32,
    gaps: u64,
    repeats: u64,
    /// Presented pictures whose number could not be read; and those of them since the last one that could.
    unread: u64,
    unread_since: u64,
}

#[derive(Debug, Default)]
struct FrameRate {
    since: Duration,
    pictures: u64,
    fps: f64,
}

/// A picture at the moment of its presentation.
#[derive(Clone, Copy, Debug)]
pub struct PresentedFrame<'a> {
    /// The broadcast that it belongs to.
    pub epoch: Epoch,
    /// Track and DTS of the access unit that it was decoded from.
    pub unit: Option<(TrackId, Timestamp)>,
    /// When it passed each stage, by this host's wall clock but for `Captured`.
    pub stamps: &'a StageTimes,
    /// The counter and clock drawn into it, if they could be read.
    pub mark: Option<FrameCounter>,
    /// `false` for one that playback has skipped over, such as the burst that a server sends on joining: its age is not the latency.
    pub on_time: bool,
    /// Pictures that playback has skipped so far, but for those skipped because the user paused or jumped.
    pub skipped: u64,
}

/// The statistics line, once a second.
#[derive(Clone, Debug, Serialize)]
pub struct StatsLine {
    /// Always `stats`, which distinguishes this line from the summary.
    pub event: &'static str,
    /// Seconds since the viewer started.
    pub seconds: f64,
    /// The stream's state in words, as in [`Stats::state`]; of a live one, what of it is played if that is not all.
    pub state: String,
    /// Name of the active path.
    pub source: String,
    /// Pictures presented in the last second.
    pub fps: f64,
    /// Pictures presented so far.
    pub pictures: u64,
    /// Audio units decoded so far.
    pub audio_frames: u64,
    /// Components of the latency.
    pub latency_ms: Breakdown,
    /// Media time that waits to be decoded.
    pub buffer_ms: u64,
    /// The buffer that playback aims at.
    pub target_ms: u64,
    /// Spread of transit times.
    pub jitter_ms: u64,
    /// Playback speed: media seconds per second.
    pub speed: f64,
    /// Units that never arrived so far.
    pub lost: u64,
    /// Pictures not presented so far: decoded too late, or skipped to get back to the live edge.
    pub frames_dropped: u64,
    /// Path switches so far.
    pub switches: u64,
}

/// The summary of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Always `summary`, which distinguishes it from the statistics lines.
    pub event: &'static str,
    /// Name of the last active path.
    pub source: String,
    /// Codecs and formats of the tracks.
    pub codecs: Vec<String>,
    /// Pictures presented in all.
    pub pictures: u64,
    /// Audio units decoded.
    pub audio_frames: u64,
    /// The counter drawn into the pictures of a test source.
    pub marker: Option<MarkerSummary>,
    /// From the viewer's start to the first picture, or to the sound that was played without pictures.
    pub startup_ms: Option<u64>,
    /// Glass-to-glass latency; absent if it is unknown.
    pub latency_ms: Option<LatencySummary>,
    /// Whether pictures were presented before they were captured: the clocks of broadcaster and viewer differ by an unknown offset.
    pub clocks_differ: bool,
    /// Units that never arrived.
    pub lost: u64,
    /// Duplicate units dropped by the path merger.
    pub repeated: u64,
    /// Times that the picture froze because the buffer ran dry.
    pub stalls: u64,
    /// Pictures not presented: the sum of the next two.
    pub frames_dropped: u64,
    /// Pictures decoded too late to be presented.
    pub frames_late: u64,
    /// Pictures skipped, undecoded, to get back to the live edge.
    pub frames_skipped: u64,
    /// Times that a path was reopened.
    pub reconnects: u64,
    /// Units that the decoder rejected.
    pub decode_errors: u64,
    /// Failures of the unit log, the recording or the pipe.
    pub output_errors: u64,
    /// Path switches of the run.
    pub switches: SwitchSummary,
}

/// The counter drawn into the pictures of a test source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MarkerSummary {
    /// The first number read.
    pub first: u32,
    /// The last number read.
    pub last: u32,
    /// Numbers between the first and the last that were never presented.
    pub gaps: u64,
    /// Pictures whose number did not rise.
    pub repeats: u64,
    /// Presented pictures whose number could not be read, as at very low bitrates.
    pub unread: u64,
}

/// The distribution of glass-to-glass latency, in milliseconds. Pictures that were lost, skipped or too late count as infinitely late.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LatencySummary {
    /// The median; absent if half of the pictures or more were never presented.
    pub p50: Option<f64>,
    /// The 99th percentile; absent if more than one in a hundred was never presented.
    pub p99: Option<f64>,
    /// Pictures never presented (lost, skipped or late), as a fraction of all: 0 to 1.
    pub unpresented_ratio: f64,
    /// How far the broadcaster's clock is ahead of this one; absent if no server reported it.
    pub clock_offset: Option<f64>,
    /// The error of `clock_offset`, either way.
    pub clock_uncertainty: Option<f64>,
    /// Median difference between the clock drawn into pictures and their capture stamps; absent without drawn clocks.
    pub pixels_p50: Option<f64>,
    /// The largest such difference.
    pub pixels_worst: Option<f64>,
    /// Components of the latency at the end, named as in the statistics line.
    #[serde(flatten)]
    pub parts: Breakdown,
}

impl Stats {
    /// A picture was presented at `now` on the viewer's clock.
    pub fn presented(&mut self, now: Duration, shown: &PresentedFrame<'_>) {
        let PresentedFrame { epoch, unit, stamps, mark, on_time, skipped } = *shown;
        self.pictures += 1;
        self.first.get_or_insert(now);
        self.last_picture = Some(now);
        if let Some(mark) = mark {
            self.mark(epoch, mark.counter);
        } else if let Some(marker) = &mut self.marker {
            marker.unread_since += 1;
        }
        self.recent.pictures += 1;
        if !on_time {
            return;
        }
        self.not_presented_before.get_or_insert(skipped + self.late + self.merge.lost_pictures);
        let captured = |mark: FrameCounter| {
            let micros = i64::try_from(mark.clock_ms).ok()?.checked_mul(1000)?;
            (micros > 0).then(|| WallClock::from_micros(micros))
        };
        let drawn = mark.and_then(captured);
        if let Some((drawn, stamped)) = drawn.zip(stamps.at(Stage::Captured)) {
            self.pixels.record(Duration::from_micros(drawn.micros_since(stamped).unsigned_abs()));
        }
        let total = self.tracker.presented(epoch, unit, stamps).or_else(|| {
            // If the server does not forward the capture clock, the clock drawn into the picture is used.
            Some(stamps.at(Stage::Presented)?.micros_since(drawn?))
                .filter(|micros| (0..MAX_MARK_LATENCY).contains(micros))
        });
        if let Some(total) = total {
            self.latency.record(total, self.tracker.broadcaster_clock());
        }
    }

    /// An audio unit was decoded at `now`.
    pub fn heard(&mut self, now: Duration) {
        self.audio_frames += 1;
        let (since, last) = self.heard.get_or_insert((now, now));
        *last = now;
        // At an ordinary start the pictures follow at once, and it is they that count.
        if !self.has_video || now.saturating_sub(*since) >= SOUND_ALONE {
            self.first.get_or_insert(*since);
        }
    }

    /// When something was first played, on the viewer's clock: a picture, or sound that pictures did not follow at once.
    pub fn first(&self) -> Option<Duration> {
        self.first
    }

    /// Whether anything was played at all, pictures or sound.
    pub fn has_played(&self) -> bool {
        self.first.or(self.heard.map(|(since, _)| since)).is_some()
    }

    /// Components of the latency, smoothed over about a second, while pictures are presented.
    pub fn breakdown(&self) -> Breakdown {
        self.tracker.breakdown()
    }

    /// The state in words, of a live stream with what is played of it at `now`.
    fn state_at(&self, now: Duration, is_paused: bool) -> String {
        let plays = |last: Option<Duration>| last.is_some_and(|last| now < last + PLAYS_FOR);
        let is_heard = plays(self.heard.map(|(_, last)| last));
        match plays(self.last_picture) || is_paused || self.state != LIVE {
            true => self.state.clone(),
            false if is_heard && self.has_video => format!("{LIVE}, sound only"),
            false if is_heard => self.state.clone(),
            false => format!("{LIVE}, buffering"),
        }
    }

    /// The statistics at `now`. The frame rate is measured between calls that are about a second apart.
    pub fn line(&mut self, now: Duration, playback: PlaybackStatus) -> StatsLine {
        let recent = &mut self.recent;
        let span = now.saturating_sub(recent.since);
        if span >= FPS_INTERVAL {
            recent.fps = recent.pictures as f64 / span.as_secs_f64();
            (recent.pictures, recent.since) = (0, now);
        }
        StatsLine {
            event: "stats",
            seconds: (now.as_secs_f64() * 1000.0).round() / 1000.0,
            state: self.state_at(now, playback.paused),
            source: self.source.clone(),
            fps: (self.recent.fps * 10.0).round() / 10.0,
            pictures: self.pictures,
            audio_frames: self.audio_frames,
            // The latency of pictures that are no longer presented says nothing.
            latency_ms: match self.last_picture.is_some_and(|last| now < last + PLAYS_FOR) || playback.paused {
                true => self.breakdown(),
                false => Breakdown::default(),
            },
            buffer_ms: millis(playback.buffered),
            target_ms: millis(playback.target),
            jitter_ms: millis(playback.jitter),
            speed: (playback.speed * 1000.0).round() / 1000.0,
            lost: self.merge.lost,
            frames_dropped: self.late + playback.skipped,
            switches: self.switches.count(),
        }
    }

    /// The distribution so far; `None` if no latency is known.
    fn latency(&self, skipped: u64) -> Option<LatencySummary> {
        let never = self
            .not_presented_before
            .map_or(0, |before| (skipped + self.late + self.merge.lost_pictures).saturating_sub(before));
        let mut latency = self.latency.histogram();
        if latency.count() == 0 {
            return None;
        }
        let unpresented_ratio = ratio(never, latency.count() + never);
        latency.record_unpresented(never);
        let round = |ms: f64| (ms * 10.0).round() / 10.0;
        let ms = |histogram: &Histogram, quantile| histogram.quantile(quantile).map(|d| round(d.as_secs_f64() * 1e3));
        let clock = self.tracker.broadcaster_clock();
        Some(LatencySummary {
            p50: ms(&latency, 0.5),
            p99: ms(&latency, 0.99),
            unpresented_ratio,
            clock_offset: clock.map(|ClockOffset { micros, .. }| round(micros as f64 / 1e3)),
            clock_uncertainty: clock.map(|ClockOffset { uncertainty, .. }| round(uncertainty as f64 / 1e3)),
            pixels_p50: ms(&self.pixels, 0.5),
            pixels_worst: ms(&self.pixels, 1.0),
            parts: self.breakdown(),
        })
    }

    /// The summary of the run so far.
    pub fn summary(&self, playback: PlaybackStatus) -> Summary {
        Summary {
            event: "summary",
            source: self.source.clone(),
            codecs: self.codecs.clone(),
            pictures: self.pictures,
            audio_frames: self.audio_frames,
            marker: self.marker.map(|m| MarkerSummary {
                first: m.first,
                last: m.last,
                gaps: m.gaps,
                repeats: m.repeats,
                unread: m.unread,
            }),
            startup_ms: self.first.or(self.heard.map(|(since, _)| since)).map(millis),
            latency_ms: self.latency(playback.skipped_unasked),
            clocks_differ: self.tracker.broadcaster_clock().is_none() && self.latency.negative() > 0,
            lost: self.merge.lost,
            repeated: self.merge.duplicates,
            stalls: playback.stalls,
            frames_dropped: self.late + playback.skipped,
            frames_late: self.late,
            frames_skipped: playback.skipped,
            reconnects: self.reconnects,
            decode_errors: self.decode_errors,
            output_errors: self.output_errors,
            switches: self.switches.summary(),
        }
    }

    fn mark(&mut self, epoch: Epoch, counter: u32) {
        let Some(marker) = &mut self.marker else {
            let (gaps, repeats, unread, unread_since) = (0, 0, 0, 0);
            self.marker =
                Some(MarkerCounts { epoch, first: counter, last: counter, gaps, repeats, unread, unread_since });
            return;
        };
        let unread = std::mem::take(&mut marker.unread_since);
        marker.unread += unread;
        if marker.epoch == epoch {
            // The counter wraps around: only differences count.
            match counter.wrapping_sub(marker.last) as i32 {
                1 => {}
                // Pictures that were presented but could not be read are not missing.
                ahead @ 2.. => marker.gaps += (u64::from(ahead.unsigned_abs()) - 1).saturating_sub(unread),
                _ => marker.repeats += 1,
            }
        }
        (marker.epoch, marker.last) = (epoch, counter);
    }
}

impl Summary {
    /// The summary as a few lines of text.
    pub fn to_text(&self) -> String {
        let ms = |ms: Option<f64>| ms.map_or("never".to_owned(), figures::time);
        let latency = self.latency_ms.map_or("unknown".to_owned(), |l| {
            let doubt = l
                .clock_uncertainty
                .map_or(String::new(), |doubt| format!(", ± {} clock uncertainty", figures::bound(doubt)));
            let parts: Vec<_> = l.parts.parts().map(|(part, ms)| figures::component(part, ms)).collect();
            let parts = if parts.is_empty() { String::new() } else { format!("\n          {}", parts.join(" + ")) };
            format!(
                "{} median, {} p99, {:.1}% of pictures never presented{doubt}{parts}",
                ms(l.p50),
                ms(l.p99),
                l.unpresented_ratio * 100.0
            )
        });
        let clocks = if self.clocks_differ { " (the clocks of broadcaster and viewer differ)" } else { "" };
        let marker = self.marker.map_or(String::new(), |m| {
            let unread = if m.unread > 0 { format!(", {} unreadable", m.unread) } else { String::new() };
            format!("counter   {} to {}, {} missing, {} repeated{unread}\n", m.first, m.last, m.gaps, m.repeats)
        });
        let startup = self.startup_ms.map_or("never".to_owned(), |ms| format!("after {}", figures::time(ms as f64)));
        format!(
            "source    {}\ncodecs    {}\nshown     {} pictures, {} audio frames; the first {startup}\nlatency   {latency}{clocks}\n{marker}\
             problems  {} units lost, {} repeated, {} stalls, {} skipped, {} too late, {} reconnects, {} decode errors\n",
            self.source,
            self.codecs.join(", "),
            self.pictures,
            self.audio_frames,
            self.lost,
            self.repeated,
            self.stalls,
            self.frames_skipped,
            self.frames_late,
            self.reconnects,
            self.decode_errors,
        )
    }
}

/// `part` of `whole`, to four digits.
fn ratio(part: u64, whole: u64) -> f64 {
    (part as f64 / whole.max(1) as f64 * 1e4).round() / 1e4
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The state while the stream is received.
pub const LIVE: &str = "live";
/// How long sound is played without pictures until it counts as played alone: a join by HLS takes less.
const SOUND_ALONE: Duration = Duration::from_secs(5);
/// Pictures, or sound, are played for this long after the last one.
const PLAYS_FOR: Duration = Duration::from_secs(2);
/// The frame rate is measured over at least this long, so that it does not flicker.
const FPS_INTERVAL: Duration = Duration::from_millis(900);
/// Microseconds. A drawn clock that is off by more is that of a recording.
const MAX_MARK_LATENCY: i64 = 3_600_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(stamps: &StageTimes) -> PresentedFrame<'_> {
        PresentedFrame { epoch: Epoch(1), unit: None, stamps, mark: None, on_time: true, skipped: 0 }
    }

    fn marks(counters: &[Option<u32>]) -> MarkerSummary {
        let mut stats = Stats::default();
        for counter in counters {
            let mark = counter.map(|counter| FrameCounter { counter, clock_ms: 0 });
            stats.presented(Duration::ZERO, &PresentedFrame { mark, ..shown(&StageTimes::default()) });
        }
        stats.summary(PlaybackStatus::default()).marker.unwrap()
    }

    #[test]
    fn gaps_and_repeats_are_read_from_the_drawn_counter() {
        for (counters, gaps, repeats, unread) in [
            (&[Some(5), Some(6), Some(7)][..], 0, 0, 0),
            (&[Some(5), Some(8)], 2, 0, 0),
            (&[Some(5), Some(5), Some(6)], 0, 1, 0),
            (&[Some(5), Some(6), Some(4), Some(5)], 0, 1, 0),
            (&[Some(u32::MAX), Some(0), Some(1)], 0, 0, 0),
            // Presented but unread; one unread and one missing; more unread than missing.
            (&[Some(5), None, Some(7)], 0, 0, 1),
            (&[None, Some(5), None, Some(8)], 1, 0, 1),
            (&[Some(5), None, None, Some(7), Some(9)], 1, 0, 2),
        ] {
            let marker = marks(counters);
            assert_eq!((marker.gaps, marker.repeats, marker.unread), (gaps, repeats, unread), "{counters:?}");
        }
    }

    #[test]
    fn sound_counts_as_playing() {
        let secs = Duration::from_secs;
        let state = |stats: &mut Stats, now| {
            let line = stats.line(secs(now), PlaybackStatus::default());
            (line.state, line.latency_ms.total)
        };
        let mut stats = Stats { state: "connecting".into(), has_video: true, ..Stats::default() };
        assert_eq!(state(&mut stats, 1).0, "connecting");
        stats.state = LIVE.into();
        assert_eq!((state(&mut stats, 1).0.as_str(), stats.has_played()), ("live, buffering", false));
        // Sound for ten seconds, then pictures beside it for ten, then sound, then nothing.
        let mut stamps = StageTimes::default();
        for (n, stage) in [Stage::Captured, Stage::Received, Stage::Presented].into_iter().enumerate() {
            stamps.stamp(stage, WallClock::from_micros(n as i64 * 10_000));
        }
        for second in 2..30 {
            stats.heard(secs(second));
            if (12..22).contains(&second) {
                stats.presented(secs(second), &shown(&stamps));
            }
            let now = state(&mut stats, second);
            let expected = if (12..23).contains(&second) { ("live", Some(20.0)) } else { ("live, sound only", None) };
            assert_eq!((now.0.as_str(), now.1), expected, "{second} s");
            assert!(stats.has_played());
            assert_eq!(stats.first(), (second >= 7).then_some(secs(2)), "{second} s");
        }
        assert_eq!(
            (state(&mut stats, 31), state(&mut stats, 40).0.as_str()),
            (("live, buffering".to_owned(), None), "live, buffering")
        );
        let paused = PlaybackStatus { paused: true, ..PlaybackStatus::default() };
        assert_eq!(stats.line(secs(40), paused).state, "live");
        assert_eq!((stats.summary(paused).startup_ms, stats.summary(paused).audio_frames), (Some(2000), 28));
        // At an ordinary start the first picture counts. A stream without pictures plays when it is heard.
        let mut stats = Stats { state: LIVE.into(), has_video: true, ..Stats::default() };
        stats.heard(secs(1));
        stats.presented(secs(2), &shown(&stamps));
        assert_eq!((stats.first(), stats.has_played()), (Some(secs(2)), true));
        let mut stats = Stats { state: LIVE.into(), ..Stats::default() };
        stats.heard(secs(1));
        assert_eq!((stats.first(), state(&mut stats, 2).0.as_str()), (Some(secs(1)), "live"));
    }

    #[test]
    fn latency_is_computed_from_stage_times() {
        let mut stats = Stats::default();
        let mut stamps = StageTimes::default();
        let stages = [Stage::Captured, Stage::Received, Stage::Buffered, Stage::Decoded, Stage::Presented];
        for (n, stage) in stages.into_iter().enumerate() {
            stamps.stamp(stage, WallClock::from_micros(n as i64 * 10_000));
        }
        stats.presented(Duration::from_millis(300), &PresentedFrame { on_time: false, ..shown(&stamps) });
        let mark = Some(FrameCounter { counter: 1, clock_ms: 3 });
        stats.presented(Duration::from_millis(321), &PresentedFrame { mark, skipped: 5, ..shown(&stamps) });
        let part = Some(10.0);
        let whole = Breakdown {
            total: Some(40.0),
            last_mile: part,
            buffering: Some(20.0),
            decoding: part,
            ..Breakdown::default()
        };
        assert_eq!(stats.breakdown(), whole);
        let summary = stats.summary(PlaybackStatus { skipped_unasked: 5, ..PlaybackStatus::default() });
        assert_eq!(summary.latency_ms.unwrap().pixels_worst, Some(3.0), "drawn 3 ms after the stamp");
        assert_eq!((summary.pictures, summary.startup_ms), (2, Some(300)));
        assert!(
            summary
                .latency_ms
                .is_some_and(|l| l.unpresented_ratio == 0.0 && l.p50.is_some_and(|p50| (38.0..42.0).contains(&p50)))
        );
        assert!(summary.to_text().contains("the first after 300 ms") && !summary.clocks_differ);
        // One picture was shown and one was not: half of them are infinitely late.
        let halved = stats.summary(PlaybackStatus { skipped_unasked: 6, ..PlaybackStatus::default() });
        let latency = halved.latency_ms.unwrap();
        assert_eq!((latency.unpresented_ratio, latency.p50.is_some(), latency.p99), (0.5, true, None));
        assert!(halved.to_text().contains("never p99, 50.0% of pictures never presented"), "{}", halved.to_text());
        let mut early = Stats::default();
        let mut stamps = StageTimes::default();
        stamps.stamp(Stage::Captured, WallClock::from_micros(40_000));
        stamps.stamp(Stage::Presented, WallClock::from_micros(0));
        early.presented(Duration::ZERO, &shown(&stamps));
        let summary = early.summary(PlaybackStatus::default());
        assert_eq!((summary.latency_ms, early.breakdown().total, summary.clocks_differ), (None, None, true));
        assert!(summary.to_text().contains("clock"));
    }
}
