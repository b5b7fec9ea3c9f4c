//! The decoder threads: take units shortly before they are due, and return pictures and audio.
//!
//! A unit that cannot be decoded is counted, and decoding continues with the next one; FFmpeg conceals errors. A new codec configuration or
//! timeline gets a new decoder, after the old one has been drained.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use command::LogLimiter;
use media::codec::{CodecConfig, capture_time_sei};
use media::latency::{Stage, StageTimes};
use media::{Epoch, Timestamp, TrackKind};
use net::trace::UnitRef;
use parking_lot::Mutex;
use tracing::{error, warn};

use crate::ffmpeg::{AudioDecoder, Picture, VideoDecoder};
use crate::playback::DecodeJob;
use crate::playback::sound::{Sound, SoundQueue};
use crate::player_context::PlayerContext;

/// A decoded picture that waits to be presented.
pub struct DecodedFrame {
    /// The playback timeline of its PTS.
    pub timeline: u32,
    /// The broadcast that it belongs to.
    pub epoch: Epoch,
    /// When it passed each stage, up to `Decoded`, by this host's wall clock.
    pub stamps: StageTimes,
    /// The access unit that it was decoded from, if known.
    pub unit: Option<UnitRef>,
    /// The samples and the PTS.
    pub picture: Picture,
}

/// Decodes video until there are no more units or the receiver of `out` is dropped.
pub fn video(player: &PlayerContext, out: &SyncSender<DecodedFrame>) {
    let mut decoding: Option<ActiveDecoder> = None;
    let mut pictures = Vec::new();
    let mut errors = ErrorLog::new(|count, error| error!(error, count, "cannot decode the video"));
    while let Some(work) = player.next_job(TrackKind::Video) {
        let Some(track) = work.catalog.track(work.unit.track) else { continue };
        let begun = player.clock.now();
        let fits = decoding.as_ref().is_some_and(|d| d.timeline == work.timeline && d.config == track.config);
        if !fits {
            if let Some(old) = &mut decoding {
                let _ = old.decoder.as_mut().map(|decoder| decoder.drain(&mut pictures));
                if send(player, old, &mut pictures, out).is_err() {
                    return;
                }
            }
            decoding = Some(ActiveDecoder::open(&work, &track.config, &mut errors));
        }
        let Some(current) = &mut decoding else { continue };
        current.expect(player, &work, begun);
        let Some(decoder) = &mut current.decoder else { continue };
        if work.after_gap {
            decoder.flush();
        }
        if let Err(error) = decoder.decode(&work.unit, &mut pictures) {
            errors.on_unit(player, &error);
        }
        note_delay(player, &work, &pictures, begun);
        if send(player, current, &mut pictures, out).is_err() {
            return;
        }
    }
    if let Some(last) = &mut decoding {
        let _ = last.decoder.as_mut().map(|decoder| decoder.drain(&mut pictures));
        let _ = send(player, last, &mut pictures, out);
    }
}

/// Decodes audio until there are no more units; into `queue`, if there is a sound card.
pub fn audio(player: &PlayerContext, queue: Option<&Arc<Mutex<SoundQueue>>>) {
    let mut open: Option<(u32, CodecConfig, Option<AudioDecoder>)> = None;
    let mut sounds = Vec::new();
    let mut errors = ErrorLog::new(|count, error| error!(error, count, "cannot decode the audio"));
    while let Some(work) = player.next_job(TrackKind::Audio) {
        let Some(track) = work.catalog.track(work.unit.track) else { continue };
        if open.as_ref().is_none_or(|(timeline, config, _)| *timeline != work.timeline || *config != track.config) {
            let decoder = AudioDecoder::new(&track.config, RATE).inspect_err(|error| errors.on_decoder(error));
            open = Some((work.timeline, track.config.clone(), decoder.ok()));
        }
        let Some((_, _, Some(decoder))) = &mut open else { continue };
        if work.after_gap {
            decoder.flush();
        }
        match decoder.decode(&work.unit, &mut sounds) {
            Ok(()) => player.stats.lock().heard(player.clock.now()),
            Err(error) => errors.on_unit(player, &error),
        }
        if let Some(queue) = queue {
            let mut queue = queue.lock();
            for (pts, samples) in sounds.drain(..) {
                queue.push(Sound { timeline: work.timeline, pts, samples });
            }
        }
        sounds.clear();
    }
}

/// A decoder and the units that it holds.
struct ActiveDecoder {
    timeline: u32,
    epoch: Epoch,
    config: CodecConfig,
    /// `None` if it could not be opened: then its units are ignored.
    decoder: Option<VideoDecoder>,
    /// Units whose pictures the decoder has not returned yet.
    pending: VecDeque<Pending>,
}

struct Pending {
    pts: Timestamp,
    unit: UnitRef,
    stamps: StageTimes,
}

impl ActiveDecoder {
    fn open(work: &DecodeJob, config: &CodecConfig, errors: &mut ErrorLog) -> Self {
        let decoder = VideoDecoder::new(config).inspect_err(|error| errors.on_decoder(error)).ok();
        let pending = VecDeque::new();
        Self { timeline: work.timeline, epoch: work.unit.epoch, config: config.clone(), decoder, pending }
    }

    /// Records when a unit was given to the decoder, until its picture is returned.
    fn expect(&mut self, player: &PlayerContext, work: &DecodeJob, begun: Duration) {
        let mut stamps = StageTimes::default();
        // If the server does not forward the capture clock, the SEI still has the capture time.
        let stamped = || capture_time_sei::read(self.config.codec, &work.unit.payload).map(|stamp| stamp.captured);
        if let Some(captured) = work.catalog.captured_at(work.unit.pts).or_else(stamped) {
            stamps.stamp(Stage::Captured, captured);
        }
        stamps.stamp(Stage::Received, player.wall_clock_at(work.arrived));
        stamps.stamp(Stage::Buffered, player.wall_clock_at(begun));
        if self.pending.len() == MAX_PENDING {
            self.pending.pop_front();
        }
        self.pending.push_back(Pending { pts: work.unit.pts, unit: UnitRef::from(&work.unit), stamps });
    }
}

/// The receiver of the pictures was dropped.
struct Closed;

fn send(
    player: &PlayerContext,
    from: &mut ActiveDecoder,
    pictures: &mut Vec<Picture>,
    out: &SyncSender<DecodedFrame>,
) -> Result<(), Closed> {
    for picture in pictures.drain(..) {
        let now = player.clock.now();
        let at = from.pending.iter().position(|pending| pending.pts == picture.pts);
        let pending = at.and_then(|at| from.pending.remove(at));
        let (unit, mut stamps) =
            pending.map_or((None, StageTimes::default()), |pending| (Some(pending.unit), pending.stamps));
        stamps.stamp(Stage::Decoded, player.wall_clock_at(now));
        out.send(DecodedFrame { timeline: from.timeline, epoch: from.epoch, stamps, unit, picture })
            .map_err(|_| Closed)?;
    }
    Ok(())
}

/// Reports to the playback by how much decoding delays each picture, which the buffer must cover: the time spent decoding, and how much longer than
/// reordering needs (until the unit arrives whose DTS is the picture's PTS) the decoder holds it back.
fn note_delay(player: &PlayerContext, work: &DecodeJob, pictures: &[Picture], begun: Duration) {
    let took = player.clock.now().saturating_sub(begun);
    for picture in pictures {
        player.playback.lock().on_decoded((took + work.unit.dts.since(picture.pts)).min(MAX_DECODING));
    }
}

/// Logs what cannot be decoded: a broken stream fails many times a second, and may change its format as often.
struct ErrorLog {
    decoders: LogLimiter<String>,
    units: LogLimiter<String>,
}

impl ErrorLog {
    /// `no_decoder` logs that no decoder could be opened.
    fn new(no_decoder: fn(u64, &String)) -> Self {
        let units = LogLimiter::new(|errors, error: &String| warn!(error, errors, "cannot decode a unit"));
        Self { decoders: LogLimiter::new(no_decoder), units }
    }

    fn on_decoder(&mut self, error: &crate::ffmpeg::Error) {
        self.decoders.note(Instant::now(), error.to_string());
    }

    fn on_unit(&mut self, player: &PlayerContext, error: &crate::ffmpeg::Error) {
        player.stats.lock().decode_errors += 1;
        self.units.note(Instant::now(), error.to_string());
    }
}

/// Sample rate in Hz that all audio is resampled to; nearly every sound card has it.
pub const RATE: u32 = 48_000;
/// Bounds the units whose pictures are awaited; H.264 and HEVC reorder 16 at most.
const MAX_PENDING: usize = 64;
/// Bounds what a slow decoder adds to the buffer.
const MAX_DECODING: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::captured_log::captured_log;
    use crate::playback::PlayoutConfig;

    #[test]
    fn a_stream_that_cannot_be_decoded_does_not_fill_the_log() {
        let settings = PlayoutConfig { fixed_target: None, may_skip: true, burst: Duration::ZERO };
        let player = PlayerContext::new(settings, None);
        let error = crate::ffmpeg::Error::NoDecoder { codec: "any" };
        let lines = captured_log(|| {
            let mut errors = ErrorLog::new(|count, error| error!(error, count, "cannot decode the video"));
            for _ in 0..1000 {
                errors.on_decoder(&error);
                errors.on_unit(&player, &error);
            }
        });
        let of = |text: &str| lines.iter().filter(|line| line.contains(text)).cloned().collect::<Vec<_>>();
        let (decoders, units) = (of("cannot decode the video"), of("cannot decode a unit"));
        assert!(decoders.len() == 2 && decoders[1].contains("count=999"), "{decoders:?}");
        assert!(units.len() == 2 && units[1].contains("errors=999"), "{units:?}");
        assert_eq!((lines.len(), player.stats.lock().decode_errors), (4, 1000));
    }
}
