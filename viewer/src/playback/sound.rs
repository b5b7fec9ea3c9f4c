//! The audio queue: decoded audio for the sound card, in sync with the pictures.
//!
//! The video clock is the master: sound cards run at their own pace. Small drift is corrected by resampling a little faster or slower, large drift by
//! inserting silence or skipping audio. Pure: due times are asked through a closure.

use std::collections::VecDeque;
use std::time::Duration;

use media::Timestamp;

/// Decoded audio: interleaved stereo, -1.0 to 1.0, at the queue's sample rate.
#[derive(Clone, Debug)]
pub struct Sound {
    /// The playback timeline of `pts`.
    pub timeline: u32,
    /// PTS of the first sample.
    pub pts: Timestamp,
    /// Left and right alternately.
    pub samples: Vec<f32>,
}

/// Audio that waits to be played.
#[derive(Debug)]
pub struct SoundQueue {
    rate: u32,
    queue: VecDeque<Sound>,
    /// Frames of the front that were played, with the fraction between two.
    played: f64,
    /// Whether the last samples out were audio, not silence.
    in_step: bool,
    corrections: u64,
}

impl SoundQueue {
    /// An empty queue, at a sample rate in Hz.
    pub fn new(rate: u32) -> Self {
        Self { rate, queue: VecDeque::new(), played: 0.0, in_step: false, corrections: 0 }
    }

    /// Appends audio; drops the oldest if the queue is full.
    pub fn push(&mut self, sound: Sound) {
        if self.queue.len() == MAX_SOUNDS {
            self.pop();
        }
        self.queue.push_back(sound);
    }

    /// Drops all audio.
    pub fn clear(&mut self) {
        self.queue.clear();
        (self.played, self.in_step) = (0.0, false);
    }

    /// How often silence was inserted or audio skipped to be in sync again.
    pub fn corrections(&self) -> u64 {
        self.corrections
    }

    /// Fills `out` (interleaved stereo), whose first frame is heard at `now` on the viewer's clock. `due` returns when a PTS of a timeline is to be
    /// heard, `None` if that timeline is over or paused; `speed` is the playout's.
    pub fn fill(
        &mut self,
        out: &mut [f32],
        now: Duration,
        speed: f64,
        due: impl Fn(u32, Timestamp) -> Option<Duration>,
    ) {
        let frames = out.len() / CHANNELS;
        let mut at = 0;
        while at < frames {
            let heard = now.as_secs_f64() + at as f64 / f64::from(self.rate);
            let Some(front) = self.queue.front() else { break };
            let Some(start) = due(front.timeline, front.pts) else {
                self.pop();
                continue;
            };
            // Positive: this audio is late.
            let late = heard - (start.as_secs_f64() + self.played / f64::from(self.rate));
            if late > if self.in_step { OUT_OF_STEP } else { IN_STEP } {
                self.corrections += u64::from(std::mem::take(&mut self.in_step));
                self.leave_out(late);
                continue;
            }
            if late < -if self.in_step { OUT_OF_STEP } else { IN_STEP } {
                self.corrections += u64::from(std::mem::take(&mut self.in_step));
                let silent = (((-late) * f64::from(self.rate)) as usize).clamp(1, frames - at);
                out[at * CHANNELS..(at + silent) * CHANNELS].fill(0.0);
                at += silent;
                continue;
            }
            self.in_step = true;
            let step = speed * (1.0 + (late / CORRECT_WITHIN).clamp(-MAX_CORRECTION, MAX_CORRECTION));
            at += self.play(&mut out[at * CHANNELS..], step);
        }
        if at < frames {
            self.in_step = false;
            out[at * CHANNELS..].fill(0.0);
        }
    }

    /// Plays from the front, `step` of its frames per output frame; returns the number of output frames (at least one if any was left).
    fn play(&mut self, out: &mut [f32], step: f64) -> usize {
        let next = self.queue.get(1).and_then(|sound| sound.samples.get(..CHANNELS)).map(|s| [s[0], s[1]]);
        let Some(front) = self.queue.front() else { return 0 };
        let frames = front.samples.len() / CHANNELS;
        let frame = |n: usize| front.samples.get(n * CHANNELS..).and_then(|s| Some([*s.first()?, *s.get(1)?]));
        let mut put = 0;
        for pair in out.chunks_exact_mut(CHANNELS) {
            let n = self.played as usize;
            let Some(a) = frame(n).filter(|_| n < frames) else { break };
            let b = frame(n + 1).or(next).unwrap_or(a);
            let part = self.played.fract() as f32;
            pair.copy_from_slice(&[a[0] + (b[0] - a[0]) * part, a[1] + (b[1] - a[1]) * part]);
            self.played += step;
            put += 1;
        }
        if self.played >= frames as f64 {
            let over = self.played - frames as f64;
            self.pop();
            self.played = over;
        }
        put
    }

    fn leave_out(&mut self, seconds: f64) {
        let Some(front) = self.queue.front() else { return };
        let left = (front.samples.len() / CHANNELS) as f64 - self.played;
        let out = seconds * f64::from(self.rate);
        if out >= left {
            self.pop();
        } else {
            self.played += out.max(1.0);
        }
    }

    fn pop(&mut self) {
        self.queue.pop_front();
        self.played = 0.0;
    }
}

/// Channels of all audio here: stereo.
pub const CHANNELS: usize = 2;
/// Seconds. Audio starts this exactly.
const IN_STEP: f64 = 0.002;
/// Seconds. Lip sync error at which a jump is better than a drift; by ITU-R BT.1359, 45 ms early is detectable.
const OUT_OF_STEP: f64 = 0.045;
/// Seconds in which drift is corrected, within [`MAX_CORRECTION`].
const CORRECT_WITHIN: f64 = 2.0;
/// As a fraction of the rate: a sixth of a semitone, which is not heard.
const MAX_CORRECTION: f64 = 0.01;
/// Bounds the queue: over ten seconds of AAC frames.
const MAX_SOUNDS: usize = 512;
