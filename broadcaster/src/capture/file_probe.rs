//! What is in a media file, and how each of its tracks will be sent: passed through, or re-encoded if that is possible here.

use std::path::{Path, PathBuf};

use ffmpeg_next::format::context::Input;
use ffmpeg_next::media::Type;
use ffmpeg_next::{Packet, frame};
use media::codec::Format;

use super::CaptureSettings;
use super::input::{self, InputSpec};
use crate::encode::audio::AudioEncoding;
use crate::encode::bitstream::{Bitstream, codec_of};
use crate::encode::video::VideoEncoding;
use crate::encode::{EncoderChoice, Picture, encoder};

/// Why a file cannot be played.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It cannot be opened.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// The file that was given.
        path: PathBuf,
        /// The reason, by FFmpeg.
        source: ffmpeg_next::Error,
    },
    /// A track that must be re-encoded cannot be decoded.
    #[error("the {what} of {} cannot be decoded: {source}", path.display())]
    Undecodable {
        /// The file that was given.
        path: PathBuf,
        /// `video` or `audio`.
        what: &'static str,
        /// The reason, by FFmpeg.
        source: ffmpeg_next::Error,
    },
    /// It has no video or audio track that is wanted.
    #[error("{} has neither video nor audio", .0.display())]
    Empty(PathBuf),
    /// `--encoder copy` for a codec that cannot be streamed.
    #[error("{what} cannot be streamed without re-encoding; omit --encoder copy")]
    NotStreamable {
        /// FFmpeg's name of the codec.
        what: String,
    },
    /// It is too short to loop.
    #[error("{} is too short to loop", .0.display())]
    NoLength(PathBuf),
    /// Its audio cannot be encoded.
    #[error(transparent)]
    Sound(#[from] crate::encode::audio::Error),
    /// Reading or decoding failed.
    #[error("reading failed: {0}")]
    Read(#[from] ffmpeg_next::Error),
}

/// Why a file cannot be re-encoded here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The file cannot be read or decoded.
    #[error(transparent)]
    File(#[from] Error),
    /// No video encoder opens.
    #[error(transparent)]
    Video(#[from] encoder::Error),
    /// No audio encoder opens.
    #[error(transparent)]
    Audio(#[from] crate::encode::audio::Error),
}

/// A file's tracks, and how each will be sent.
#[derive(Debug)]
pub struct FileProbe {
    pub(super) path: PathBuf,
    video: Option<TrackAction>,
    audio: Option<TrackAction>,
}

/// How a track is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrackAction {
    /// Its packets are sent as they are.
    Passthrough,
    /// It is decoded and encoded again.
    Reencode,
}

impl TrackAction {
    fn shown(action: Option<Self>) -> &'static str {
        match action {
            Some(Self::Passthrough) => "passed through",
            Some(Self::Reencode) => "re-encoded",
            None => "none",
        }
    }
}

impl FileProbe {
    /// Probes the file. `with_sound`: whether its own audio is wanted.
    ///
    /// # Errors
    /// If it cannot be opened, has no track that is wanted, or has one that `--encoder copy` rules out.
    pub fn open(path: &Path, with_sound: bool, settings: &CaptureSettings) -> Result<Self, Error> {
        let input = open(path, &Default::default())?;
        let copy = settings.video.encoder == EncoderChoice::Copy;
        let action_for = |kind: Type| -> Result<Option<TrackAction>, Error> {
            let Some((_, parameters, _)) = input::best(&input, kind) else { return Ok(None) };
            let id = parameters.id();
            let codec = codec_of(id)
                .filter(|codec| Bitstream::new(*codec, extradata(&parameters), format_of(&parameters, kind)).is_ok());
            let reencode = match kind {
                Type::Video => settings.video.requires_reencode() || settings.burn_in == Some(true),
                _ => codec.is_some_and(|codec| settings.audio.requires_reencode(codec)),
            };
            match codec.is_some() && !reencode {
                true => Ok(Some(TrackAction::Passthrough)),
                // Validation has rejected `copy` together with options that require re-encoding.
                false if copy && codec.is_none() => Err(Error::NotStreamable { what: id.name().to_owned() }),
                false => Ok(Some(TrackAction::Reencode)),
            }
        };
        // FFmpeg lists cover art as a video stream.
        let has_pictures = input.streams().best(Type::Video).is_some_and(|stream| {
            !stream.disposition().contains(ffmpeg_next::format::stream::Disposition::ATTACHED_PIC)
        });
        let video = if has_pictures { action_for(Type::Video)? } else { None };
        let audio = if with_sound { action_for(Type::Audio)? } else { None };
        if video.is_none() && audio.is_none() {
            return Err(Error::Empty(path.to_owned()));
        }
        let (shown_video, shown_audio) = (TrackAction::shown(video), TrackAction::shown(audio));
        tracing::info!(file = %path.display(), video = shown_video, audio = shown_audio, "playing a file");
        Ok(Self { path: path.to_owned(), video, audio })
    }

    /// Decodes the first picture and opens the encoders that playing the file needs, and closes them again.
    ///
    /// # Errors
    /// If a track that is not passed through can be decoded or encoded by nothing here.
    pub fn verify(&self, settings: &CaptureSettings) -> Result<(), VerifyError> {
        let mut input = open(&self.path, &Default::default())?;
        if self.audio == Some(TrackAction::Reencode)
            && let Some((_, parameters, _)) = input::best(&input, Type::Audio)
        {
            input::audio_decoder(parameters).map_err(|source| self.undecodable("audio", source))?;
            AudioEncoding::verify(settings.audio)?;
        }
        if self.video == Some(TrackAction::Reencode)
            && let Some(picture) = self.first_picture(&mut input)?
        {
            VideoEncoding::verify(&settings.video, &picture)?;
        }
        Ok(())
    }

    fn first_picture(&self, input: &mut Input) -> Result<Option<Picture>, Error> {
        let Some((index, parameters, _)) = input::best(input, Type::Video) else { return Ok(None) };
        let fps = input.stream(index).and_then(|s| input::rate(s.avg_frame_rate()).or(input::rate(s.rate())));
        let failed = |source| self.undecodable("video", source);
        let mut decoder = input::video_decoder(parameters).map_err(failed)?;
        let mut frame = frame::Video::empty();
        let mut packet = Packet::empty();
        loop {
            let read = packet.read(input);
            // The decoder conceals damaged packets.
            let _ = match read {
                Ok(()) if packet.stream() == index => decoder.send_packet(&packet),
                Ok(()) | Err(ffmpeg_next::Error::InvalidData) => continue,
                Err(_) => decoder.send_eof(),
            };
            match (decoder.receive_frame(&mut frame), read) {
                (Ok(()), _) => return Ok(Some(Picture { frame, captured: 0, fps })),
                (Err(_), Ok(())) => {}
                (Err(error), Err(_)) => return Err(failed(error)),
            }
        }
    }

    fn undecodable(&self, what: &'static str, source: ffmpeg_next::Error) -> Error {
        Error::Undecodable { path: self.path.clone(), what, source }
    }

    /// How the video is sent; `None` if there is none.
    pub fn video(&self) -> Option<TrackAction> {
        self.video
    }

    /// How the audio is sent; `None` if there is none or it is not wanted.
    pub fn audio(&self) -> Option<TrackAction> {
        self.audio
    }
}

pub(super) fn open(path: &Path, shutdown: &crate::shutdown::ShutdownSignal) -> Result<Input, Error> {
    let failed = |source| Error::Open { path: path.to_owned(), source };
    let text = path.to_str().ok_or_else(|| failed(ffmpeg_next::Error::InvalidData))?;
    // Without the prefix FFmpeg would read `a:b.mp4` as a protocol.
    let url = format!("file:{text}");
    input::open(&InputSpec { format: None, url, options: Vec::new() }, shutdown).map_err(failed)
}

pub(super) fn extradata(parameters: &ffmpeg_next::codec::Parameters) -> &[u8] {
    // SAFETY: FFmpeg keeps `extradata_size` bytes at `extradata` for as long as the parameters live.
    unsafe {
        let parameters = parameters.as_ptr();
        match (*parameters).extradata.is_null() {
            true => &[],
            false => std::slice::from_raw_parts((*parameters).extradata, (*parameters).extradata_size.max(0) as usize),
        }
    }
}

pub(super) fn format_of(parameters: &ffmpeg_next::codec::Parameters, kind: Type) -> Format {
    // SAFETY: plain fields of a valid structure.
    let (width, height, sample_rate, channels) = unsafe {
        let p = &*parameters.as_ptr();
        (p.width, p.height, p.sample_rate, p.ch_layout.nb_channels)
    };
    match kind {
        Type::Video => Format::Video { width: width.max(0) as u32, height: height.max(0) as u32 },
        _ => Format::Audio {
            sample_rate: sample_rate.max(0) as u32,
            channels: channels.clamp(0, i32::from(u16::MAX)) as u16,
        },
    }
}
