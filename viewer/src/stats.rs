//! What was seen, counted: for the status line, the overlay, the line a second, and the summary.

use std::time::Duration;

use media::latency::{Histogram, Stage, Stamps};
use media::marker::Mark;
use media::splice::Counters;
use media::{Epoch, WallClock};
use serde::Serialize;

use crate::playback::Status;
use crate::switches::{self, Switches};

/// Everything that is counted. Written by several threads under one lock, never while anything waits.
#[derive(Debug, Default)]
pub struct Stats {
    /// What to call the path that the pictures come by.
    pub source: String,
    /// In words: connecting, waiting, live.
    pub state: String,
    /// `H.264 1280x720`, `AAC 48000 Hz`.
    pub codecs: Vec<String>,
    /// Access units of sound that were decoded.
    pub audio_frames: u64,
    /// Units that the decoder would not have.
    pub decode_errors: u64,
    /// Times that a path was opened again.
    pub reconnects: u64,
    /// Pictures that were decoded too late to be shown.
    pub dropped: u64,
    /// Splice counters.
    pub splice: Counters,
    /// Changes of path.
    pub switches: Switches,
    /// What the unit log, the recording or the pipe could not be given.
    pub output_errors: u64,
    /// Viewer's clock when the first picture (or sound, where there are no pictures) was presented.
    first: Option<Duration>,
    pictures: u64,
    marker: Option<Marker>,
    latency: Histogram,
    /// Pictures that were presented before they were captured, by the two clocks.
    from_the_future: u64,
    /// The last second's pictures, and their latency in milliseconds.
    recent: Recent,
}

#[derive(Clone, Copy, Debug)]
struct Marker {
    epoch: Epoch,
    first: u32,
    last: u32,
    gaps: u64,
    repeats: u64,
}

#[derive(Debug, Default)]
struct Recent {
    since: Duration,
    pictures: u64,
    fps: f64,
    /// Milliseconds, smoothed: the whole, and where it goes.
    latency: Option<f64>,
    network: Option<f64>,
    buffer: Option<f64>,
    decoding: Option<f64>,
    waiting: Option<f64>,
}

/// Where the latency goes, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Breakdown {
    /// From capture to presentation.
    pub total: Option<f64>,
    /// From capture to arrival here: encoding, servers, network.
    pub network: Option<f64>,
    /// From arrival to the decoder.
    pub buffer: Option<f64>,
    /// In the decoder.
    pub decode: Option<f64>,
    /// From the decoder to the screen.
    pub wait: Option<f64>,
}

/// A line a second.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// Always `stats`.
    pub event: &'static str,
    /// Seconds since the viewer started.
    pub seconds: f64,
    /// In words.
    pub state: String,
    /// The path in use.
    pub source: String,
    /// Pictures presented in the last second.
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
    /// Pictures not shown: too late, or left out.
    pub drops: u64,
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
    /// What the pictures' burnt-in counter says.
    pub marker: Option<MarkerSummary>,
    /// From start to first picture.
    pub startup_ms: Option<u64>,
    /// From capture to presentation.
    pub latency_ms: Option<LatencySummary>,
    /// Whether this host's clock and the broadcaster's differ: pictures were shown before they were captured.
    pub clocks_differ: bool,
    /// Units that never came.
    pub lost: u64,
    /// Units that came again and were dropped.
    pub repeated: u64,
    /// Times that the picture stood still.
    pub stalls: u64,
    /// Units left out to get back to the live edge.
    pub skipped: u64,
    /// Pictures decoded too late to be shown.
    pub dropped: u64,
    /// Times that a path was opened again.
    pub reconnects: u64,
    /// Units that the decoder would not have.
    pub decode_errors: u64,
    /// Times that the unit log, the recording or the pipe failed.
    pub output_errors: u64,
    /// Changes of path.
    pub switches: switches::Summary,
}

/// The burnt-in counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MarkerSummary {
    /// The first that was read.
    pub first: u32,
    /// The last.
    pub last: u32,
    /// Numbers that were not seen between the first and the last.
    pub gaps: u64,
    /// Pictures whose number did not rise.
    pub repeats: u64,
}

/// The distribution, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LatencySummary {
    /// The median.
    pub p50: f64,
    /// What one in a hundred exceeds.
    pub p99: f64,
}

impl Stats {
    /// A picture was presented at `now`; `mark` is what it says, if anything. `in_time` is false for one that playback has
    /// jumped over, as over what a server holds for those who join: its age is not the latency.
    pub fn presented(&mut self, now: Duration, epoch: Epoch, stamps: &Stamps, mark: Option<Mark>, in_time: bool) {
        self.pictures += 1;
        self.first.get_or_insert(now);
        if let Some(mark) = mark {
            self.mark(epoch, mark.counter);
        }
        self.recent.pictures += 1;
        if !in_time {
            return;
        }
        let total = stamps.micros(Stage::Captured, Stage::Presented).or_else(|| {
            // Servers that do not carry the clock leave the one in the picture.
            let captured = WallClock::from_micros(i64::try_from(mark?.clock_ms).ok()?.checked_mul(1000)?);
            Some(stamps.at(Stage::Presented)?.micros_since(captured))
                .filter(|micros| (0..MAX_MARK_LATENCY).contains(micros))
        });
        match total.map(u64::try_from) {
            Some(Ok(total)) => self.latency.record(Duration::from_micros(total)),
            // The capture clock is ahead of ours: nothing is known about the latency, then.
            Some(Err(_)) => self.from_the_future += 1,
            None => {}
        }
        let total = total.filter(|total| *total >= 0);
        let recent = &mut self.recent;
        smooth(&mut recent.latency, total);
        smooth(&mut recent.network, stamps.micros(Stage::Captured, Stage::Received).filter(|micros| *micros >= 0));
        smooth(&mut recent.buffer, stamps.micros(Stage::Received, Stage::Spliced));
        smooth(&mut recent.decoding, stamps.micros(Stage::Spliced, Stage::Decoded));
        smooth(&mut recent.waiting, stamps.micros(Stage::Decoded, Stage::Presented));
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
        let round = |ms: Option<f64>| ms.map(|ms| (ms * 10.0).round() / 10.0);
        Breakdown {
            total: round(self.recent.latency),
            network: round(self.recent.network),
            buffer: round(self.recent.buffer),
            decode: round(self.recent.decoding),
            wait: round(self.recent.waiting),
        }
    }

    /// The state at `now`. Measures pictures per second since it was last called a second ago or more.
    pub fn line(&mut self, now: Duration, playback: Status) -> Line {
        let recent = &mut self.recent;
        let span = now.saturating_sub(recent.since);
        if span >= FPS_SPAN {
            recent.fps = recent.pictures as f64 / span.as_secs_f64();
            (recent.pictures, recent.since) = (0, now);
        }
        Line {
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
            drops: self.dropped + playback.skipped,
            switches: self.switches.count(),
        }
    }

    /// The whole run so far.
    pub fn summary(&self, playback: Status) -> Summary {
        let ms = |quantile| self.latency.quantile(quantile).map(|d| (d.as_secs_f64() * 10_000.0).round() / 10.0);
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
            }),
            startup_ms: self.first.map(millis),
            latency_ms: ms(0.5).zip(ms(0.99)).map(|(p50, p99)| LatencySummary { p50, p99 }),
            clocks_differ: self.from_the_future > 0,
            lost: self.splice.lost,
            repeated: self.splice.repeated,
            stalls: playback.stalls,
            skipped: playback.skipped,
            dropped: self.dropped,
            reconnects: self.reconnects,
            decode_errors: self.decode_errors,
            output_errors: self.output_errors,
            switches: self.switches.summary(),
        }
    }

    fn mark(&mut self, epoch: Epoch, counter: u32) {
        let Some(marker) = &mut self.marker else {
            self.marker = Some(Marker { epoch, first: counter, last: counter, gaps: 0, repeats: 0 });
            return;
        };
        if marker.epoch == epoch {
            // The counter wraps: the difference is what counts.
            match counter.wrapping_sub(marker.last) as i32 {
                1 => {}
                ahead @ 2.. => marker.gaps += u64::from(ahead.unsigned_abs()) - 1,
                _ => marker.repeats += 1,
            }
        }
        (marker.epoch, marker.last) = (epoch, counter);
    }
}

impl Summary {
    /// A few lines for people.
    pub fn to_text(&self) -> String {
        let latency =
            self.latency_ms.map_or("unknown".to_owned(), |l| format!("{} ms median, {} ms p99", l.p50, l.p99));
        let clocks = if self.clocks_differ { " (this clock and the broadcaster's differ)" } else { "" };
        let marker = self.marker.map_or(String::new(), |m| {
            format!("counter   {} to {}, {} missing, {} repeated\n", m.first, m.last, m.gaps, m.repeats)
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
            self.skipped,
            self.dropped,
            self.reconnects,
            self.decode_errors,
        )
    }
}

fn smooth(value: &mut Option<f64>, micros: Option<i64>) {
    let Some(micros) = micros else { return };
    let ms = micros as f64 / 1000.0;
    *value = Some(value.map_or(ms, |old| old + (ms - old) * SMOOTHING));
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// About a second of pictures.
const SMOOTHING: f64 = 1.0 / 30.0;
/// Shorter spans would make the rate flicker.
const FPS_SPAN: Duration = Duration::from_millis(900);
/// A picture's own clock that is off by more is a file's from another day.
const MAX_MARK_LATENCY: i64 = 3_600_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(counters: &[u32]) -> MarkerSummary {
        let mut stats = Stats::default();
        for counter in counters {
            stats.presented(
                Duration::ZERO,
                Epoch(1),
                &Stamps::default(),
                Some(Mark { counter: *counter, clock_ms: 0 }),
                true,
            );
        }
        stats.summary(Status::default()).marker.unwrap()
    }

    #[test]
    fn the_counter_tells_what_is_missing() {
        for (counters, gaps, repeats) in [
            (&[5, 6, 7][..], 0, 0),
            (&[5, 8], 2, 0),
            (&[5, 5, 6], 0, 1),
            (&[5, 6, 4, 5], 0, 1),
            (&[u32::MAX, 0, 1], 0, 0),
        ] {
            let marker = marks(counters);
            assert_eq!((marker.gaps, marker.repeats), (gaps, repeats), "{counters:?}");
        }
    }

    #[test]
    fn latency_from_stamps() {
        let mut stats = Stats::default();
        let mut stamps = Stamps::default();
        let stages = [Stage::Captured, Stage::Received, Stage::Spliced, Stage::Decoded, Stage::Presented];
        for (n, stage) in stages.into_iter().enumerate() {
            stamps.stamp(stage, WallClock::from_micros(n as i64 * 10_000));
        }
        stats.presented(Duration::from_millis(300), Epoch(1), &stamps, None, false);
        stats.presented(Duration::from_millis(321), Epoch(1), &stamps, None, true);
        let part = Some(10.0);
        assert_eq!(
            stats.breakdown(),
            Breakdown { total: Some(40.0), network: part, buffer: part, decode: part, wait: part }
        );
        let summary = stats.summary(Status::default());
        assert_eq!((summary.pictures, summary.startup_ms), (2, Some(300)));
        assert!(summary.latency_ms.is_some_and(|l| (38.0..42.0).contains(&l.p50)));
        assert!(summary.to_text().contains("the first after 300 ms") && !summary.clocks_differ);
        let mut early = Stats::default();
        let mut stamps = Stamps::default();
        stamps.stamp(Stage::Captured, WallClock::from_micros(40_000));
        stamps.stamp(Stage::Presented, WallClock::from_micros(0));
        early.presented(Duration::ZERO, Epoch(1), &stamps, None, true);
        let summary = early.summary(Status::default());
        assert_eq!((summary.latency_ms, early.breakdown().total, summary.clocks_differ), (None, None, true));
        assert!(summary.to_text().contains("clock"));
    }
}
