//! Plays a media file in real time: a track is passed through if its codec can be streamed, or else re-encoded.
//!
//! A packet is sent when its DTS is due. A loop continues where the file ended: the offset from the file's timestamps to the media
//! clock is whole milliseconds, so that differences of PTS and DTS are exact. Where the file's timestamps jump, as in concatenated
//! recordings, the offset changes so that the broadcast's do not: see `timestamp_offset`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use command::LogLimiter;
use ffmpeg_next::format::context::Input;
use ffmpeg_next::media::Type;
use ffmpeg_next::{Packet, Rational, decoder, frame};
use media::TrackId;
use media::catalog::{Metadata, Value};
use media::codec::{Codec, Format};

use super::CaptureContext;
use super::decoding_time::{DecodingTimes, Timed};
use super::file_probe::{extradata, format_of, open};
use super::frame_rate_limit::FrameRateLimit;
use super::input;
use super::timestamp_offset::{self, TimestampOffsets};
use crate::encode::audio::AudioEncoding;
use crate::encode::bitstream::{Bitstream, codec_of};
use crate::encode::{DropOldestQueue, Picture, Sound};
use crate::timestamps::to_millis;

pub use super::file_probe::{Error, FileProbe, TrackAction, VerifyError};

/// Plays the file, in a loop if so set, until it ends or capturing must stop. Frames to re-encode go to `pictures`.
///
/// # Errors
/// If reading fails, a loop is too short, or audio cannot be encoded.
pub fn run(context: &CaptureContext, plan: &FileProbe, pictures: &Arc<DropOldestQueue<Picture>>) -> Result<(), Error> {
    let mut player = FilePlayback {
        context,
        plan,
        pictures,
        frame_rate_limit: FrameRateLimit::new(context.settings.video.fps),
        offsets: TimestampOffsets::default(),
        sound: None,
        jump_log: LogLimiter::new(|jumps, (track, dts, jump_ms): &(TrackId, i64, i64)| {
            tracing::info!(%track, dts, jump_ms, jumps, "timestamp jump in the file, removed from the broadcast");
        }),
        damage_log: LogLimiter::new(|packets, (track, dts, error): &(TrackId, i64, String)| {
            tracing::warn!(%track, dts, error, packets, "dropped a damaged packet");
        }),
        format_log: LogLimiter::with_burst(
            FORMAT_LINES,
            |formats, (track, codec, format): &(TrackId, Codec, Format)| {
                tracing::info!(%track, codec = codec.name(), %format, formats, "passing through");
            },
        ),
    };
    loop {
        let goes_on = player.play_once()?;
        if !goes_on || !context.settings.looped {
            break;
        }
        player.rewind()?;
    }
    if let Some(mut sound) = player.sound.take() {
        sound.finish()?;
    }
    Ok(())
}

struct FilePlayback<'a> {
    context: &'a CaptureContext,
    plan: &'a FileProbe,
    pictures: &'a Arc<DropOldestQueue<Picture>>,
    frame_rate_limit: FrameRateLimit,
    offsets: TimestampOffsets,
    sound: Option<AudioEncoding>,
    jump_log: LogLimiter<(TrackId, i64, i64)>,
    damage_log: LogLimiter<(TrackId, i64, String)>,
    format_log: LogLimiter<(TrackId, Codec, Format)>,
}

/// One stream of the file.
struct Stream {
    track: TrackId,
    time_base: Rational,
    output: TrackOutput,
    /// Whether a random access point was seen; packets before the first one are dropped.
    joined: bool,
    times: DecodingTimes<Packet>,
    offset: timestamp_offset::TrackOffset,
    about: Metadata,
    fps: Option<f64>,
}

impl Stream {
    /// The packets that are ready after this one, with their DTS in milliseconds of the file's time.
    fn time(&mut self, packet: Packet) -> Vec<Timed<Packet>> {
        let (dts, pts) = (packet.dts().map(|ticks| self.millis(ticks)), packet.pts().map(|ticks| self.millis(ticks)));
        // Without any timestamp: right after the previous packet.
        match pts.or(dts).or_else(|| self.times.last().map(|last| last + self.millis(packet.duration()).max(1))) {
            Some(pts) => self.times.push(packet, dts, pts),
            None => Vec::new(),
        }
    }

    fn millis(&self, ticks: i64) -> i64 {
        to_millis(ticks, self.time_base.numerator(), self.time_base.denominator())
    }
}

enum TrackOutput {
    Passthrough { bitstream: Bitstream, announced: bool },
    DecodeVideo(decoder::Video),
    DecodeAudio(decoder::Audio),
}

impl FilePlayback<'_> {
    /// Plays the file once. Returns whether to continue.
    fn play_once(&mut self) -> Result<bool, Error> {
        let mut input = match open(&self.plan.path, &self.context.shutdown) {
            Ok(input) => input,
            // Opening was interrupted.
            Err(_) if self.context.shutdown.is_triggered() => return Ok(false),
            Err(error) => return Err(error),
        };
        let mut streams = self.streams(&input)?;
        self.announce(&mut streams)?;
        loop {
            let mut packet = Packet::empty();
            match packet.read(&mut input) {
                Ok(()) => {}
                Err(ffmpeg_next::Error::Eof) => break,
                Err(ffmpeg_next::Error::Exit) => return Ok(false),
                Err(ffmpeg_next::Error::InvalidData) => continue,
                Err(error) => return Err(error.into()),
            }
            let Some(stream) = streams.get_mut(&packet.stream()) else { continue };
            for (packet, dts) in stream.time(packet) {
                if !self.packet(stream, packet, dts)? {
                    return Ok(false);
                }
            }
        }
        for stream in streams.values_mut() {
            for (packet, dts) in stream.times.flush() {
                if !self.packet(stream, packet, dts)? {
                    return Ok(false);
                }
            }
            self.flush(stream)?;
        }
        Ok(!self.context.shutdown.is_triggered())
    }

    fn streams(&self, input: &Input) -> Result<BTreeMap<usize, Stream>, Error> {
        let mut streams = BTreeMap::new();
        for (kind, track, action) in
            [(Type::Video, TrackId::VIDEO, self.plan.video()), (Type::Audio, TrackId::AUDIO, self.plan.audio())]
        {
            let (Some(action), Some((index, parameters, time_base))) = (action, input::best(input, kind)) else {
                continue;
            };
            let fps = input.stream(index).and_then(|s| input::rate(s.avg_frame_rate()).or(input::rate(s.rate())));
            let about = about(kind, fps, parameters.bit_rate());
            let output = match (action, kind) {
                (TrackAction::Passthrough, _) => {
                    let codec = codec_of(parameters.id()).ok_or(ffmpeg_next::Error::DecoderNotFound)?;
                    let bitstream = Bitstream::new(codec, extradata(&parameters), format_of(&parameters, kind))
                        .map_err(|_| ffmpeg_next::Error::InvalidData)?;
                    TrackOutput::Passthrough { bitstream, announced: false }
                }
                (TrackAction::Reencode, Type::Video) => TrackOutput::DecodeVideo(input::video_decoder(parameters)?),
                (TrackAction::Reencode, _) => TrackOutput::DecodeAudio(input::audio_decoder(parameters)?),
            };
            let joined = kind == Type::Audio;
            let times = DecodingTimes::new(fps.map_or(1, |fps| (1000.0 / fps) as i64));
            let offset = timestamp_offset::TrackOffset::default();
            streams.insert(index, Stream { track, time_base, output, joined, times, offset, about, fps });
        }
        Ok(streams)
    }

    /// Adds the tracks whose configuration is known before their first packet, so that a track does not wait for one that starts later.
    fn announce(&mut self, streams: &mut BTreeMap<usize, Stream>) -> Result<(), Error> {
        for Stream { track, output, about, .. } in streams.values_mut() {
            match output {
                TrackOutput::Passthrough { bitstream, announced } => {
                    if let Some(config) = bitstream.config().filter(|_| !*announced) {
                        *announced = true;
                        self.format_log.note(Instant::now(), (*track, config.codec, config.format));
                        self.context.broadcast.add_track(*track, config.clone(), about.clone());
                    }
                }
                TrackOutput::DecodeAudio(_) if self.sound.is_none() => {
                    let (settings, broadcast) = (self.context.settings.audio, self.context.broadcast.clone());
                    self.sound.insert(AudioEncoding::open(settings, broadcast)?).announce();
                }
                TrackOutput::DecodeAudio(_) | TrackOutput::DecodeVideo(_) => {}
            }
        }
        Ok(())
    }

    /// Waits until the packet is due, then sends or decodes it. Returns whether to continue.
    fn packet(&mut self, stream: &mut Stream, mut packet: Packet, dts: i64) -> Result<bool, Error> {
        if !stream.joined && matches!(stream.output, TrackOutput::Passthrough { .. }) && !packet.is_key() {
            return Ok(true);
        }
        stream.joined = true;
        let pts = packet.pts().map_or(dts, |ticks| stream.millis(ticks));
        // The first frame's PTS maps to now; its DTS may precede that.
        let now = self.context.clock.now() / 1000;
        let duration = stream.millis(packet.duration()).max(1);
        let packet_offset = self.offsets.next(&mut stream.offset, dts, duration, || (now - pts).max(-dts));
        if let Some(jump) = packet_offset.jump {
            self.jump_log.note(Instant::now(), (stream.track, dts, jump));
        }
        let offset = packet_offset.offset;
        if !self.context.shutdown.sleep(self.context.clock.until((dts + offset) * 1000)) {
            return Ok(false);
        }
        if stream.track.is_video() {
            self.context.stats.captured.increment();
        }
        match &mut stream.output {
            TrackOutput::Passthrough { bitstream, announced } => {
                let unit = match bitstream.unit(packet.data().unwrap_or_default(), packet.is_key()) {
                    Ok(unit) => unit,
                    Err(error) => {
                        self.damage_log.note(Instant::now(), (stream.track, dts, error.to_string()));
                        return Ok(true);
                    }
                };
                if let Some(config) = bitstream.config().filter(|_| unit.reconfigured || !*announced) {
                    *announced = true;
                    self.format_log.note(Instant::now(), (stream.track, config.codec, config.format));
                    self.context.broadcast.add_track(stream.track, config.clone(), stream.about.clone());
                }
                if !unit.payload.is_empty() {
                    let random_access = packet.is_key() || !stream.track.is_video();
                    self.context.broadcast.push(stream.track, dts + offset, pts + offset, random_access, unit.payload);
                }
            }
            TrackOutput::DecodeVideo(decoder) => {
                retime(&mut packet, stream.time_base, offset);
                // The decoder conceals damaged packets.
                let _ = decoder.send_packet(&packet);
                self.drain_video(decoder, stream.fps, false);
            }
            TrackOutput::DecodeAudio(decoder) => {
                retime(&mut packet, stream.time_base, offset);
                let _ = decoder.send_packet(&packet);
                drain_audio(self.context, &mut self.sound, decoder)?;
            }
        }
        Ok(true)
    }

    fn flush(&mut self, stream: &mut Stream) -> Result<(), Error> {
        match &mut stream.output {
            TrackOutput::Passthrough { .. } => {}
            TrackOutput::DecodeVideo(decoder) => {
                let _ = decoder.send_eof();
                self.drain_video(decoder, stream.fps, true);
            }
            TrackOutput::DecodeAudio(decoder) => {
                let _ = decoder.send_eof();
                drain_audio(self.context, &mut self.sound, decoder)?;
            }
        }
        Ok(())
    }

    /// Queues the decoder's frames for encoding. `paced`: wait until each is due, since no packet paces the last ones.
    fn drain_video(&mut self, decoder: &mut decoder::Video, fps: Option<f64>, paced: bool) {
        let mut frame = frame::Video::empty();
        while decoder.receive_frame(&mut frame).is_ok() {
            let Some(captured) = frame.timestamp() else { continue };
            if paced && !self.context.shutdown.sleep(self.context.clock.until(captured)) {
                return;
            }
            if !self.frame_rate_limit.admits(captured) {
                continue;
            }
            let frame = std::mem::replace(&mut frame, frame::Video::empty());
            self.context.stats.frames_dropped.add(self.pictures.push(Picture { frame, captured, fps }));
        }
    }

    /// Lets the next iteration start where this one ended.
    fn rewind(&mut self) -> Result<(), Error> {
        let length = self.offsets.rewind();
        if length < SHORTEST_LOOP {
            return Err(Error::NoLength(self.plan.path.clone()));
        }
        tracing::debug!(length_ms = length, "looping the file");
        Ok(())
    }
}

/// Converts a packet's timestamps to microseconds of the media clock, so that decoded frames carry these.
fn retime(packet: &mut Packet, time_base: Rational, offset: i64) {
    let (pts, dts) = (packet.pts(), packet.dts());
    let retimed = |ticks: i64| micros(ticks, time_base).saturating_add(offset * 1000);
    packet.set_pts(pts.map(retimed));
    packet.set_dts(dts.map(retimed));
    packet.set_duration(micros(packet.duration(), time_base));
}

fn drain_audio(
    context: &CaptureContext,
    encoding: &mut Option<AudioEncoding>,
    decoder: &mut decoder::Audio,
) -> Result<(), Error> {
    let mut frame = frame::Audio::empty();
    while decoder.receive_frame(&mut frame).is_ok() {
        let Some(captured) = frame.timestamp() else { continue };
        let encoding = match encoding {
            Some(encoding) => encoding,
            None => encoding.insert(AudioEncoding::open(context.settings.audio, context.broadcast.clone())?),
        };
        encoding.encode(Sound { frame: std::mem::replace(&mut frame, frame::Audio::empty()), captured })?;
    }
    Ok(())
}

fn about(kind: Type, fps: Option<f64>, bitrate: i64) -> Metadata {
    let (rate, numbers) = match kind {
        Type::Video => ("videodatarate", fps.map(|fps| ("framerate", fps))),
        _ => ("audiodatarate", None),
    };
    let bitrate = (bitrate > 0).then(|| (rate, bitrate as f64 / 1000.0));
    numbers.into_iter().chain(bitrate).map(|(key, number)| (key.to_owned(), Value::Number(number))).collect()
}

/// Converts ticks of a time base to microseconds; saturates.
pub(super) fn micros(ticks: i64, Rational(num, den): Rational) -> i64 {
    let scaled = i128::from(ticks) * i128::from(num) * 1_000_000 / i128::from(den.max(1));
    i64::try_from(scaled).unwrap_or(i64::MAX)
}

/// Bounds the formats of a file that are logged within ten seconds one by one: each track has one, unless the file changes it.
const FORMAT_LINES: u32 = 4;
/// Milliseconds. A shorter loop, such as of a still image, would spin.
const SHORTEST_LOOP: i64 = 20;
