//! Selects the video and audio source of a broadcast, and runs them and their encoders on threads.

use std::fmt;
use std::sync::Arc;
use std::thread;

use media::TrackId;
use tokio::sync::mpsc;

use super::file::FileProbe;
use super::source::{Audio, Source};
use super::{CaptureContext, CaptureSettings, device, devices, file, test_pattern};
use crate::encode::audio::{self, AudioEncoding};
use crate::encode::video::VideoEncoding;
use crate::encode::{DropOldestQueue, EncoderChoice, Picture, encoder};

/// The sources of a broadcast: selected and probed, but not capturing yet.
#[derive(Debug)]
pub struct CapturePlan {
    video: SourcePlan,
    audio: AudioPlan,
}

/// Where pictures come from.
#[derive(Debug)]
enum SourcePlan {
    Device(devices::VideoDevice),
    File(FileProbe),
    Test,
}

/// The source of audio.
#[derive(Debug)]
enum AudioPlan {
    Device {
        device: devices::AudioDevice,
        /// Whether the user asked for this one.
        is_named: bool,
    },
    WithFile,
    Tone,
    None,
}

/// There is no such device or file, or it cannot be used; the text says which and why.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NoInput(String);

/// Why nothing can be captured, or why capturing ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A source is absent or cannot be used.
    #[error(transparent)]
    NoInput(#[from] NoInput),
    /// No video encoder opens, or it failed.
    #[error(transparent)]
    Video(#[from] encoder::Error),
    /// No audio encoder opens.
    #[error(transparent)]
    Audio(#[from] audio::Error),
    /// The test pattern failed.
    #[error("the test pattern failed: {0}")]
    Pattern(ffmpeg_next::Error),
    /// Playing a file failed.
    #[error(transparent)]
    File(#[from] file::Error),
    /// A thread panicked.
    #[error("the {0} thread panicked")]
    Panicked(&'static str),
}

impl From<file::VerifyError> for Error {
    fn from(error: file::VerifyError) -> Self {
        match error {
            file::VerifyError::File(error) => no_input(error).into(),
            file::VerifyError::Video(error) => error.into(),
            file::VerifyError::Audio(error) => error.into(),
        }
    }
}

impl CapturePlan {
    /// Selects devices and probes files. Nothing is captured before [`start`](Self::start).
    ///
    /// # Errors
    /// If a source that was named is absent or unusable.
    pub fn make(source: &Source, audio: &Audio, settings: &CaptureSettings) -> Result<Self, NoInput> {
        let video = match source {
            Source::Test => SourcePlan::Test,
            Source::Auto => match devices::camera(None) {
                Ok(camera) => SourcePlan::Device(camera),
                Err(_) => {
                    tracing::info!("no camera found: broadcasting the test pattern");
                    SourcePlan::Test
                }
            },
            Source::Webcam(wanted) => SourcePlan::Device(devices::camera(wanted.as_deref()).map_err(no_input)?),
            Source::Screen(wanted) => SourcePlan::Device(devices::screen(wanted.as_deref()).map_err(no_input)?),
            Source::File(path) => {
                let with_audio = *audio == Audio::Auto;
                SourcePlan::File(FileProbe::open(path, with_audio, settings).map_err(no_input)?)
            }
        };
        let audio = match (audio, &video) {
            (Audio::None, _) => AudioPlan::None,
            (Audio::Tone, _) | (Audio::Auto, SourcePlan::Test) => AudioPlan::Tone,
            (Audio::Device(wanted), _) => {
                let device = devices::microphone(Some(wanted)).map_err(no_input)?;
                AudioPlan::Device { device, is_named: true }
            }
            (Audio::Auto, SourcePlan::File(file)) => file.audio().map_or(AudioPlan::None, |_| AudioPlan::WithFile),
            (Audio::Auto, SourcePlan::Device(_)) => match devices::microphone(None) {
                Ok(device) => AudioPlan::Device { device, is_named: false },
                Err(_) => {
                    tracing::info!("no microphone found: broadcasting without audio");
                    AudioPlan::None
                }
            },
        };
        Ok(Self { video, audio })
    }

    /// Opens what can be opened before capturing starts: the audio encoder, and for a file also its decoders, the video encoder and the microphone
    /// beside it. The encoder of a live source opens with its first picture.
    ///
    /// # Errors
    /// If a decoder, an encoder or the microphone does not open, or the microphone delivers nothing.
    pub fn verify(&self, settings: &CaptureSettings) -> Result<(), Error> {
        if matches!(self.audio, AudioPlan::Device { .. } | AudioPlan::Tone) {
            AudioEncoding::verify(settings.audio)?;
        }
        if let SourcePlan::File(file) = &self.video {
            file.verify(settings)?;
            // A file starts after the server is connected to, and its microphone with it.
            if let AudioPlan::Device { device, .. } = &self.audio {
                device::verify_audio(device).map_err(|error| unusable(&device.name, error))?;
            }
        }
        Ok(())
    }

    /// The tracks without which no broadcast begins: the video, and a microphone that the user named.
    pub fn required_tracks(&self) -> Vec<TrackId> {
        let is_named = matches!(self.audio, AudioPlan::Device { is_named: true, .. });
        self.tracks().into_iter().filter(|track| track.is_video() || is_named).collect()
    }

    /// The tracks that the sources will deliver.
    pub fn tracks(&self) -> Vec<TrackId> {
        let has_video = !matches!(&self.video, SourcePlan::File(file) if file.video().is_none());
        let video = has_video.then_some(TrackId::VIDEO);
        let audio = (!matches!(self.audio, AudioPlan::None)).then_some(TrackId::AUDIO);
        video.into_iter().chain(audio).collect()
    }

    /// Whether it plays a file, which ends by itself and must not start before it can be sent.
    pub fn is_file(&self) -> bool {
        matches!(self.video, SourcePlan::File(_))
    }

    /// Starts the capture threads. The channel delivers once the sources have ended and the encoders are drained: `Some` with the
    /// reason after a failure, or else `None`.
    pub fn start(self, context: &CaptureContext) -> mpsc::Receiver<Option<Error>> {
        let (ended, receiver) = mpsc::channel(1);
        let context = context.clone();
        let supervise = move || {
            let outcome = self.run(&context);
            // The receiver is gone if the process is ending for another reason.
            let _ = ended.blocking_send(outcome.err());
        };
        let spawned = thread::Builder::new().name("capture".to_owned()).spawn(supervise);
        spawned.expect("the system has a thread left for a program that just started");
        receiver
    }

    /// Runs the video source, the video encoder and the audio source, each on a thread, until the video source ends.
    fn run(&self, context: &CaptureContext) -> Result<(), Error> {
        let burn_in = context.settings.burn_in.unwrap_or(matches!(self.video, SourcePlan::Test));
        let pictures = Arc::new(DropOldestQueue::<Picture>::new(if self.is_file() { FILE_QUEUE } else { LIVE_QUEUE }));
        let mut settings = context.settings.video.clone();
        // A file with `copy` has nothing to encode; validation rejected `copy` for other sources.
        if settings.encoder == EncoderChoice::Copy {
            settings.encoder = EncoderChoice::Auto;
        }
        let (broadcast, stats) = (context.broadcast.clone(), context.stats.clone());
        let encoding = VideoEncoding::new(settings, burn_in, context.clock, broadcast, stats);
        thread::scope(|scope| {
            let encoder = scope.spawn(|| {
                let result = encoding.run(&pictures);
                // Without an encoder there is no point in capturing.
                if result.is_err() {
                    pictures.close();
                    context.shutdown.trigger();
                }
                result
            });
            let audio = scope.spawn(|| match &self.audio {
                AudioPlan::Device { device, is_named } => {
                    let result = device::run_audio(context, device, *is_named);
                    // Without a microphone that was named there is no point in capturing.
                    if result.is_err() {
                        pictures.close();
                        context.shutdown.trigger();
                    }
                    result
                }
                AudioPlan::Tone => {
                    test_pattern::run_tone_or_none(context);
                    Ok(())
                }
                AudioPlan::WithFile | AudioPlan::None => Ok(()),
            });
            let captured: Result<(), Error> = match &self.video {
                SourcePlan::Device(device) => {
                    device::run_video(context, device, &pictures).map_err(|error| unusable(&device.name, error).into())
                }
                SourcePlan::Test => test_pattern::run_video(context, &pictures).map_err(Error::Pattern),
                SourcePlan::File(file) => file::run(context, file, &pictures).map_err(Error::File),
            };
            // The broadcast ends with its pictures.
            context.shutdown.trigger();
            pictures.close();
            let encoded = encoder.join().map_err(|_| Error::Panicked("encoder"))?;
            let heard = audio.join().map_err(|_| Error::Panicked("audio"))?;
            captured?;
            encoded?;
            if let (AudioPlan::Device { device, .. }, Err(error)) = (&self.audio, heard) {
                return Err(unusable(&device.name, error).into());
            }
            Ok(())
        })
    }
}

/// A device that exists and delivers nothing.
fn unusable(device: &str, error: device::Error) -> NoInput {
    match error {
        device::Error::Open { .. } => no_input(error),
        error => no_input(format_args!("{device}: {error}")),
    }
}

fn no_input(error: impl fmt::Display) -> NoInput {
    NoInput(error.to_string())
}

/// Frames queued for the encoder from a live source: only the newest is of use.
const LIVE_QUEUE: usize = 1;

/// Frames queued for the encoder from a file: its decoder releases all reordered frames at once, up to 16 in H.264 and HEVC, and
/// one may be queued already.
const FILE_QUEUE: usize = 17;
