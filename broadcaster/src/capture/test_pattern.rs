//! The test pattern and the tone: FFmpeg's generators, paced by the media clock.

use std::sync::Arc;

use ffmpeg_next::{Error, frame};
use media::TrackId;

use super::CaptureContext;
use crate::encode::audio::AudioEncoding;
use crate::encode::filter_graph::FilterGraph;
use crate::encode::{DropOldestQueue, Picture, Sound};

/// Generates frames until capturing must stop. A frame's capture time is when it was due.
///
/// # Errors
/// If FFmpeg's filter graph fails.
pub fn run_video(context: &CaptureContext, pictures: &Arc<DropOldestQueue<Picture>>) -> Result<(), Error> {
    let (width, height) = context.settings.video.size.unwrap_or(DEFAULT_SIZE);
    let fps = context.settings.video.fps.unwrap_or(DEFAULT_FPS);
    let rate = crate::encode::encoder::rational(fps);
    let mut graph = FilterGraph::video_source(&picture_chain(width, height, rate))?;
    let mut schedule =
        Schedule::new(context.clock.now(), 1_000_000.0 * f64::from(rate.denominator()) / f64::from(rate.numerator()));
    while let Some(frame) = graph.picture()? {
        let captured = schedule.next(context.clock.now());
        if !context.shutdown.sleep(context.clock.until(captured)) {
            break;
        }
        context.stats.captured.increment();
        context.stats.frames_dropped.add(pictures.push(Picture { frame, captured, fps: Some(fps) }));
    }
    Ok(())
}

/// `testsrc2` draws in BT.601; `colorspace` converts to BT.709 in 0.7 ms at 720p, a third of what `scale` takes.
fn picture_chain(width: u32, height: u32, rate: ffmpeg_next::Rational) -> String {
    format!(
        "testsrc2=size={width}x{height}:rate={}/{},format=yuv420p,setparams=range=tv:colorspace=smpte170m:color_primaries=bt709:color_trc=bt709,colorspace=space=bt709:primaries=bt709:trc=bt709:range=tv:fast=1",
        rate.numerator(),
        rate.denominator()
    )
}

/// Generates and encodes a tone that beeps once a second, until capturing must stop.
///
/// # Errors
/// If the tone cannot be encoded.
pub fn run_tone(context: &CaptureContext) -> Result<(), crate::encode::audio::Error> {
    let mut encoding = AudioEncoding::open(context.settings.audio, context.broadcast.clone())?;
    let rate = crate::encode::audio::RATE;
    let samples = rate / 50;
    let mut graph = FilterGraph::audio_source(&format!(
        "sine=frequency=440:beep_factor=2:sample_rate={rate}:samples_per_frame={samples},volume=0.5"
    ))?;
    let mut schedule = Schedule::new(context.clock.now(), f64::from(samples) * 1e6 / f64::from(rate));
    while let Some(frame) = graph.sound()? {
        let captured = schedule.next(context.clock.now());
        // A microphone delivers a block once its last sample is captured.
        if !context.shutdown.sleep(context.clock.until(captured + schedule.interval as i64)) {
            break;
        }
        encoding.encode(Sound { frame: owned(frame), captured })?;
    }
    encoding.finish()
}

/// Runs [`run_tone`]; if it fails, the video continues without audio.
pub fn run_tone_or_none(context: &CaptureContext) {
    if let Err(error) = run_tone(context) {
        tracing::error!(%error, "the tone failed; continuing without audio");
        context.broadcast.skip_track(TrackId::AUDIO);
    }
}

/// Removes the generator's timestamp: the encoder uses the capture time.
fn owned(mut frame: frame::Audio) -> frame::Audio {
    frame.set_pts(None);
    frame
}

/// Evenly spaced due times. Falling behind by more than [`MAX_LAG`] shifts all later ones: after a suspend, frames are not caught
/// up.
struct Schedule {
    start: i64,
    interval: f64,
    count: u64,
}

impl Schedule {
    fn new(start: i64, interval: f64) -> Self {
        Self { start, interval, count: 0 }
    }

    fn next(&mut self, now: i64) -> i64 {
        let due = self.start + (self.count as f64 * self.interval).round() as i64;
        let due = if now - due > MAX_LAG {
            (self.start, self.count) = (now, 0);
            now
        } else {
            due
        };
        self.count += 1;
        due
    }
}

/// Large enough for a test, and within what any machine can encode.
const DEFAULT_SIZE: (u32, u32) = (1280, 720);
const DEFAULT_FPS: f64 = 30.0;

/// Microseconds: three frames at 30 fps.
const MAX_LAG: i64 = 100_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_pattern_is_bt709() {
        ffmpeg_next::init().unwrap();
        let mut graph = FilterGraph::video_source(&picture_chain(640, 360, ffmpeg_next::Rational(30, 1))).unwrap();
        let picture = graph.picture().unwrap().unwrap();
        assert_eq!(picture.color_space(), ffmpeg_next::color::Space::BT709);
        // BT.709-6 §3.5 makes of pure red, in 8 bits of limited range, Y 63, Cb 102 and Cr 240.
        let is_red = |x: usize, y: usize| {
            let sample =
                |plane: usize, scale: usize| picture.data(plane)[y / scale * picture.stride(plane) + x / scale];
            sample(0, 1).abs_diff(63) <= 2 && sample(1, 2).abs_diff(102) <= 2 && sample(2, 2).abs_diff(240) <= 2
        };
        let red = (0..640 * 360).filter(|n| is_red(n % 640, n / 640)).count();
        assert!(red > 640 * 360 / 10, "{red} red samples");
    }

    #[test]
    fn due_times_are_even_until_the_machine_sleeps() {
        let mut schedule = Schedule::new(1000, 1_000_000.0 / 30.0);
        let due: Vec<_> = [1000, 1000, 90_000, 90_000, 2_000_000, 2_000_000].map(|now| schedule.next(now)).into();
        assert_eq!(due, [1000, 34_333, 67_667, 101_000, 2_000_000, 2_033_333]);
    }
}
