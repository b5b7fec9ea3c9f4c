//! What was seen, counted: for the status line, the overlay, the line a second, and the summary.

use std::time::Duration;

use media::frame_counter::FrameCounter;
use media::latency::{ClockOffset, Histogram, Stage, StageTimes};
use media::path_merge::MergeCounters;
use media::{Epoch, Timestamp, TrackId, WallClock};
use serde::Serialize;

pub use crate::latency_breakdown::Breakdown;
use crate::latency_breakdown::LatencyTracker;
use crate::latency_histogram::LatencyHistogram;
use crate::playback::PlaybackStatus;
use crate::switches::{SwitchSummary, Switches};

/// Everything that is counted. Written by several threads under one lock, never while anything waits.
#[derive(Debug, Default)]
pub struct Stats {
    /// The path in use.
    pub source: String,
    /// In words: connecting, waiting, live.
    pub state: String,
    /// `H.264 1280x720`, `AAC 48000 Hz`.
    pub codecs: Vec<String>,
    /// Access units of sound decoded.
    pub audio_frames: u64,
    /// Units that the decoder would not have.
    pub decode_errors: u64,
    /// Times that a path was opened again.
    pub reconnects: u64,
    /// Pictures that were decoded too late to be shown.
    pub late: u64,
    /// Counters of the path merger.
    pub merge: MergeCounters,
    /// Changes of path.
    pub switches: Switches,
    /// Times that the unit log, the recording or the pipe failed.
    pub output_errors: u64,
    /// Viewer's clock when the first picture (or sound, where there are no pictures) was presented.
    first: Option<Duration>,
    pictures: u64,
    marker: Option<MarkerCounts>,
    latency: LatencyHistogram,
    /// Pictures that had not been shown when the first one was in time: those before it are not missed.
    not_presented_before: Option<u64>,
    /// How far the picture's own clock and its stamp are apart, in either direction.
    pixels: Histogram,
    /// Where the time goes.
    pub(crate) tracker: LatencyTracker,
    /// The last second's pictures.
    recent: FrameRate,
}

#[derive(Clone, Copy, Debug)]
struct MarkerCounts {
    epoch: Epoch,
    first: u32,
    last: u32,
    gaps: u64,
    repeats: u64,
    /// Pictures that were shown and whose number could not be read; and those of them since the last that could.
    unread: u64,
    unread_since: u64,
}

#[derive(Debug, Default)]
struct FrameRate {
    since: Duration,
    pictures: u64,
    fps: f64,
}

/// A picture that is presented.
#[derive(Clone, Copy, Debug)]
pub struct PresentedFrame<'a> {
    /// The broadcast that it is from.
    pub epoch: Epoch,
    /// The unit that it was coded in.
    pub unit: Option<(TrackId, Timestamp)>,
    /// When it passed each stage.
    pub stamps: &'a StageTimes,
    /// What it says itself, if anything.
    pub mark: Option<FrameCounter>,
    /// `false` for one that playback has jumped over, as over what a server holds for those who join: its age is not the latency.
    pub on_time: bool,
    /// Pictures that playback has left out so far, but for those that the user is the cause of.
    pub skipped: u64,
}

/// A line a second.
#[derive(Clone, Debug, Serialize)]
pub struct StatsLine {
    /// Always `stats`.
    pub event: &'static str,
    /// Seconds since the viewer started.
    pub seconds: f64,
    /// In words.
    pub state: String,
    /// The path in use.
    pub source: String,
    /// The last second's pictures.
    pub fps: f64,
    /// Pictures presented so far.
    pub pictures: u64,
    /// Where the latency goes.
    pub latency_ms: Breakdown,
    /// Media time that waits to be decoded.
    pub buffer_ms: u64,
    /// What playback aims at.
    pub target_ms: u64,
    /// Spread of arrival.
    pub jitter_ms: u64,
    /// Playback speed.
    pub speed: f64,
    /// Pictures not presented so far: decoded too late, or skipped to get back to the live edge.
    pub frames_dropped: u64,
    /// Changes of path so far.
    pub switches: u64,
}

/// The whole run.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Always `summary`.
    pub event: &'static str,
    /// The path that was in use last.
    pub source: String,
    /// What was decoded.
    pub codecs: Vec<String>,
    /// Pictures presented.
    pub pictures: u64,
    /// Access units of sound decoded.
    pub audio_frames: u64,
    /// The burnt-in counter.
    pub marker: Option<MarkerSummary>,
    /// From start to first picture.
    pub startup_ms: Option<u64>,
    /// From capture to presentation.
    pub latency_ms: Option<LatencySummary>,
    /// Whether this host's clock and the broadcaster's differ and nobody told how far: pictures were shown before they were captured.
    pub clocks_differ: bool,
    /// Units that never came.
    pub lost: u64,
    /// Units that came again and were dropped.
    pub repeated: u64,
    /// Times that the picture stood still.
    pub stalls: u64,
    /// Pictures not presented: the sum of the next two.
    pub frames_dropped: u64,
    /// Pictures decoded too late to be presented.
    pub frames_late: u64,
    /// Pictures skipped, undecoded, to get back to the live edge.
    pub frames_skipped: u64,
    /// Times that a path was opened again.
    pub reconnects: u64,
    /// Units that the decoder would not have.
    pub decode_errors: u64,
    /// Times that the unit log, the recording or the pipe failed.
    pub output_errors: u64,
    /// Changes of path.
    pub switches: SwitchSummary,
}

/// The burnt-in counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MarkerSummary {
    /// The first that was read.
    pub first: u32,
    /// The last.
    pub last: u32,
    /// Numbers between the first and the last of which no picture was shown.
    pub gaps: u64,
    /// Pictures whose number did not rise.
    pub repeats: u64,
    /// Pictures whose number the encoder left unreadable: at a hundred kilobits a second it does.
    pub unread: u64,
}

/// The distribution, in milliseconds. Pictures that were lost, left out or too late to be shown are infinitely late.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LatencySummary {
    /// The median; absent where half of the pictures or more were never shown.
    pub p50: Option<f64>,
    /// What one in a hundred exceeds; absent where as many were never shown.
    pub p99: Option<f64>,
    /// Pictures never presented (lost, skipped or late), as a fraction of all: 0 to 1.
    pub unpresented_ratio: f64,
    /// How far the broadcaster's clock is ahead of this one, and how wrong that may be; absent where nobody told.
    pub clock_offset: Option<f64>,
    /// See `clock_offset`.
    pub clock_uncertainty: Option<f64>,
    /// How far the clock that is drawn into pictures and the one that their stamps are by differ: the median. Absent without drawn clocks.
    pub pixels_p50: Option<f64>,
    /// The largest such difference.
    pub pixels_worst: Option<f64>,
    /// Where the time went at the end, under the names of the line a second.
    #[serde(flatten)]
    pub parts: Breakdown,
}

impl Stats {
    /// A picture was presented at `now`.
    pub fn presented(&mut self, now: Duration, shown: &PresentedFrame<'_>) {
        let PresentedFrame { epoch, unit, stamps, mark, on_time, skipped } = *shown;
        self.pictures += 1;
        self.first.get_or_insert(now);
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
            // Servers that do not carry the clock leave the one in the picture.
            Some(stamps.at(Stage::Presented)?.micros_since(drawn?))
                .filter(|micros| (0..MAX_MARK_LATENCY).contains(micros))
        });
        if let Some(total) = total {
            self.latency.record(total, self.tracker.broadcaster_clock());
        }
    }

    /// Sound was decoded at `now`, in a stream that has no pictures.
    pub fn heard(&mut self, now: Duration) {
        self.first.get_or_insert(now);
    }

    /// When something was first presented.
    pub fn first(&self) -> Option<Duration> {
        self.first
    }

    /// Whether anything was presented at all.
    pub fn has_played(&self) -> bool {
        self.first.is_some()
    }

    /// Where the latency goes, smoothed over about a second.
    pub fn breakdown(&self) -> Breakdown {
        self.tracker.breakdown()
    }

    /// The state at `now`. Measures pictures per second since it was last called a second ago or more.
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
            state: self.state.clone(),
            source: self.source.clone(),
            fps: (self.recent.fps * 10.0).round() / 10.0,
            pictures: self.pictures,
            latency_ms: self.breakdown(),
            buffer_ms: millis(playback.buffered),
            target_ms: millis(playback.target),
            jitter_ms: millis(playback.jitter),
            speed: (playback.speed * 1000.0).round() / 1000.0,
            frames_dropped: self.late + playback.skipped,
            switches: self.switches.count(),
        }
    }

    /// The distribution so far; `None` where nothing is known of it.
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

    /// The whole run so far.
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
            startup_ms: self.first.map(millis),
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
            // The counter wraps: the difference is what counts.
            match counter.wrapping_sub(marker.last) as i32 {
                1 => {}
                // Those that were shown and not read are not missing.
                ahead @ 2.. => marker.gaps += (u64::from(ahead.unsigned_abs()) - 1).saturating_sub(unread),
                _ => marker.repeats += 1,
            }
        }
        (marker.epoch, marker.last) = (epoch, counter);
    }
}

impl Summary {
    /// A few lines for people.
    pub fn to_text(&self) -> String {
        let ms = |ms: Option<f64>| ms.map_or("never".to_owned(), |ms| format!("{ms} ms"));
        let latency = self.latency_ms.map_or("unknown".to_owned(), |l| {
            let doubt = l.clock_uncertainty.map_or(String::new(), |doubt| format!(", ± {doubt} ms by the clocks"));
            let parts: Vec<_> =
                l.parts.parts().map(|(part, ms)| format!("{} {ms}", part.name().replace('_', " "))).collect();
            let parts = if parts.is_empty() { String::new() } else { format!("\n          {}", parts.join(" + ")) };
            format!(
                "{} median, {} p99, {:.1}% of pictures never presented{doubt}{parts}",
                ms(l.p50),
                ms(l.p99),
                l.unpresented_ratio * 100.0
            )
        });
        let clocks = if self.clocks_differ { " (this clock and the broadcaster's differ)" } else { "" };
        let marker = self.marker.map_or(String::new(), |m| {
            let unread = if m.unread > 0 { format!(", {} unreadable", m.unread) } else { String::new() };
            format!("counter   {} to {}, {} missing, {} repeated{unread}\n", m.first, m.last, m.gaps, m.repeats)
        });
        let startup = self.startup_ms.map_or("never".to_owned(), |ms| format!("after {ms} ms"));
        format!(
            "source    {}\ncodecs    {}\nshown     {} pictures, {} sound frames; the first {startup}\nlatency   {latency}{clocks}\n{marker}\
             trouble   {} lost, {} repeated, {} stalls, {} skipped, {} too late, {} reconnects, {} decode errors\n",
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

/// Shorter spans would make the rate flicker.
const FPS_INTERVAL: Duration = Duration::from_millis(900);
/// A picture's own clock that is off by more is a file's from another day.
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
    fn the_counter_tells_what_is_missing() {
        for (counters, gaps, repeats, unread) in [
            (&[Some(5), Some(6), Some(7)][..], 0, 0, 0),
            (&[Some(5), Some(8)], 2, 0, 0),
            (&[Some(5), Some(5), Some(6)], 0, 1, 0),
            (&[Some(5), Some(6), Some(4), Some(5)], 0, 1, 0),
            (&[Some(u32::MAX), Some(0), Some(1)], 0, 0, 0),
            // Shown, though not read; one more is missing beside it; more than there are numbers.
            (&[Some(5), None, Some(7)], 0, 0, 1),
            (&[None, Some(5), None, Some(8)], 1, 0, 1),
            (&[Some(5), None, None, Some(7), Some(9)], 1, 0, 2),
        ] {
            let marker = marks(counters);
            assert_eq!((marker.gaps, marker.repeats, marker.unread), (gaps, repeats, unread), "{counters:?}");
        }
    }

    #[test]
    fn latency_from_stamps() {
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
