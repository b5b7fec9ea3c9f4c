//! The sound card. If there is none, everything else works without audio.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sdl2::AudioSubsystem;
use sdl2::audio::{AudioCallback, AudioDevice, AudioSpecDesired};

use crate::decode::RATE;
use crate::playback::sound::{CHANNELS, SoundQueue};
use crate::player_context::PlayerContext;

/// An open sound card.
pub(super) struct Card {
    device: AudioDevice<Callback>,
    volume: u32,
    muted: bool,
}

impl Card {
    /// Opens the default card, which plays from `queue`.
    pub(super) fn open(
        audio: &AudioSubsystem,
        player: &Arc<PlayerContext>,
        queue: &Arc<Mutex<SoundQueue>>,
    ) -> Result<Self, String> {
        let rate = i32::try_from(RATE).unwrap_or(i32::MAX);
        let desired = AudioSpecDesired { freq: Some(rate), channels: Some(CHANNELS as u8), samples: Some(SAMPLES) };
        let (player, queue) = (player.clone(), queue.clone());
        let device = audio.open_playback(None, &desired, |spec| {
            // This buffer is heard when the one before it has been played.
            let delay = Duration::from_secs_f64(f64::from(spec.samples) / f64::from(RATE));
            Callback { player, queue, gain: 1.0, delay }
        })?;
        device.resume();
        Ok(Self { device, volume: FULL, muted: false })
    }

    /// Sets the volume, 0 to 100.
    pub(super) fn set_volume(&mut self, volume: u32) {
        self.volume = volume.min(FULL);
        self.apply();
    }

    pub(super) fn volume(&self) -> u32 {
        self.volume
    }

    pub(super) fn set_muted(&mut self, muted: bool) {
        self.muted = muted;
        self.apply();
    }

    pub(super) fn is_muted(&self) -> bool {
        self.muted
    }

    fn apply(&mut self) {
        // Perceived loudness is logarithmic: the square is near enough.
        let volume = self.volume as f32 / FULL as f32;
        self.device.lock().gain = if self.muted { 0.0 } else { volume * volume };
    }
}

struct Callback {
    player: Arc<PlayerContext>,
    queue: Arc<Mutex<SoundQueue>>,
    gain: f32,
    delay: Duration,
}

impl AudioCallback for Callback {
    type Channel = f32;

    fn callback(&mut self, out: &mut [f32]) {
        let playback = self.player.playback.lock();
        let heard = self.player.clock.now() + self.delay;
        let speed = playback.status().speed;
        if playback.is_paused() {
            out.fill(0.0);
            return;
        }
        self.queue.lock().fill(out, heard, speed, |timeline, pts| playback.due(timeline, pts));
        for sample in out {
            *sample *= self.gain;
        }
    }
}

/// Full volume in percent.
const FULL: u32 = 100;
/// Frames that the card requests at once: 21 ms.
const SAMPLES: u16 = 1024;
