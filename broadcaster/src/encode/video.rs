//! The video encoding thread: takes pictures in any size and format, and pushes access units to the broadcast.

use std::collections::VecDeque;
use std::sync::Arc;

use ffmpeg_next::format::Pixel;
use ffmpeg_next::{Rational, color, frame};
use media::TrackId;
use media::catalog::{Metadata, Value};
use media::codec::Format;
use media::codec::capture_time_sei::{self, CaptureTime};

use super::burn_in;
use super::encoder::{EncodedPacket, Encoder, Error, VideoFormat};
use super::filter_graph::FilterGraph;
use super::keyframe_interval::KeyframeScheduler;
use super::{DropOldestQueue, Picture, VideoSettings};
use crate::broadcast::Broadcast;
use crate::clock::BroadcastClock;
use crate::stats::Stats;
use crate::uplink::Rate;

/// Encodes one video track. Its encoder opens with the first picture, which decides the track's size and rate where the settings do
/// not.
pub struct VideoEncoding {
    settings: VideoSettings,
    burn_in: bool,
    clock: BroadcastClock,
    broadcast: Arc<Broadcast>,
    stats: Arc<Stats>,
    open: Option<OpenEncoder>,
    scaler: Option<Scaler>,
}

struct OpenEncoder {
    encoder: Encoder,
    video_format: VideoFormat,
    keyframes: KeyframeScheduler,
    counter: u32,
    /// PTS and burned-in counter of the frames inside the encoder.
    burned_in: VecDeque<(i64, u32)>,
    last_pts: i64,
    /// The encoder's current target in bits per second.
    rate: u64,
}

impl VideoEncoding {
    /// A track whose encoder is not open yet. `burn_in`: whether to draw the counter and the clock into each picture.
    pub fn new(
        settings: VideoSettings,
        burn_in: bool,
        clock: BroadcastClock,
        broadcast: Arc<Broadcast>,
        stats: Arc<Stats>,
    ) -> Self {
        Self { settings, burn_in, clock, broadcast, stats, open: None, scaler: None }
    }

    /// Opens the encoder that a source with such pictures gets, and closes it again.
    ///
    /// # Errors
    /// If no encoder opens.
    pub fn verify(settings: &VideoSettings, picture: &Picture) -> Result<(), Error> {
        open(settings, picture).map(drop)
    }

    /// Encodes until `pictures` is closed, then drains the encoder.
    ///
    /// # Errors
    /// If no encoder opens, or encoding fails.
    pub fn run(mut self, pictures: &DropOldestQueue<Picture>) -> Result<(), Error> {
        while let Some(picture) = pictures.pop() {
            self.encode(picture)?;
        }
        if let Some(open) = &mut self.open {
            let units = open.encoder.finish()?;
            self.deliver(units);
        }
        Ok(())
    }

    /// Encodes one picture.
    ///
    /// # Errors
    /// As [`VideoEncoding::run`].
    pub fn encode(&mut self, picture: Picture) -> Result<(), Error> {
        let open = match &mut self.open {
            Some(open) => open,
            None => {
                let mut open = open(&self.settings, &picture)?;
                if self.settings.fixed_bitrate {
                    tracing::debug!("rate control is off");
                } else if open.encoder.set_bitrate(open.rate) {
                    self.broadcast.uplink().control_encoder(Rate::bits_per_second(open.rate as f64));
                } else {
                    tracing::info!(
                        encoder = open.encoder.name(),
                        "rate control is off: this encoder cannot change its bitrate"
                    );
                }
                self.open.insert(open)
            }
        };
        let scaler = match &mut self.scaler {
            Some(scaler) if scaler.fits(&picture.frame) => scaler,
            _ => self.scaler.insert(Scaler::new(&picture.frame, open.video_format, open.encoder.format())?),
        };
        let Some(mut scaled) = scaler.scale(picture.frame)? else { return Ok(()) };
        let is_first = open.last_pts == NO_PTS;
        let pts = crate::timestamps::to_millis(picture.captured, 1, 1_000_000).max(open.last_pts + 1);
        open.last_pts = pts;
        if self.burn_in {
            let captured = self.clock.zero().at(media::Timestamp::from_millis(pts));
            burn_in::draw(&mut scaled, open.counter, captured);
            // Frames that the encoder drops are never taken out.
            if open.burned_in.len() == MAX_BURNED_IN {
                open.burned_in.pop_front();
            }
            open.burned_in.push_back((pts, open.counter));
            open.counter = open.counter.wrapping_add(1);
        }
        if let Some(target) = self.broadcast.uplink().target().map(|target| target.as_bits_per_second() as u64)
            && open.is_change(target)
        {
            open.encoder.set_bitrate(target);
            open.rate = target;
            self.stats.bitrate_target.set(if target < open.encoder.configured_bitrate() { target } else { 0 });
        }
        // With intra refresh, the first IDR is the only one.
        let idr = open.keyframes.is_due(pts) && (is_first || !self.settings.intra_refresh);
        let units = open.encoder.encode(&mut scaled, pts, idr)?;
        self.stats.encoded.increment();
        self.deliver(units);
        Ok(())
    }

    fn deliver(&mut self, units: Vec<EncodedPacket>) {
        for mut unit in units {
            let Some(open) = &mut self.open else { continue };
            let burned_in = open.burned_in.iter().position(|(pts, _)| *pts == unit.pts);
            if let Some((_, counter)) = burned_in.and_then(|at| open.burned_in.remove(at)) {
                let captured = self.clock.zero().at(media::Timestamp::from_millis(unit.pts));
                let stamp = CaptureTime { counter, captured, encoded: self.broadcast.now() };
                unit.payload =
                    capture_time_sei::insert(open.encoder.codec(), &unit.payload, stamp).unwrap_or(unit.payload);
            }
            if let Some(config) = unit.config {
                let Format::Video { width, height } = config.format else { continue };
                let about = about(open, &self.settings);
                tracing::info!(
                    codec = config.codec.name(),
                    width,
                    height,
                    encoder = open.encoder.name(),
                    "video track"
                );
                self.broadcast.add_track(TrackId::VIDEO, config, about);
            }
            self.broadcast.push(TrackId::VIDEO, unit.dts, unit.pts, unit.random_access, unit.payload);
        }
    }
}

impl OpenEncoder {
    /// Whether to pass `target` on: changes below one fiftieth are skipped, since each resets the encoder's rate control.
    fn is_change(&self, target: u64) -> bool {
        let worth = if target == self.encoder.configured_bitrate() { 1 } else { self.rate / MIN_CHANGE_FRACTION };
        target.abs_diff(self.rate) >= worth.max(1)
    }
}

/// The track's properties in `onMetaData` besides its configuration.
fn about(open: &OpenEncoder, settings: &VideoSettings) -> Metadata {
    let VideoFormat { width, height, fps } = open.video_format;
    Metadata::from([
        ("framerate".into(), Value::Number(fps)),
        ("videodatarate".into(), Value::Number(settings.bitrate_for(width, height, fps) as f64 / 1000.0)),
        ("encoder".into(), Value::String(format!("Nearcast {} ({})", env!("CARGO_PKG_VERSION"), open.encoder.name()))),
    ])
}

fn open(settings: &VideoSettings, picture: &Picture) -> Result<OpenEncoder, Error> {
    let (width, height) = settings.size.unwrap_or_else(|| natural_size(&picture.frame));
    let source_fps = picture.fps.filter(|fps| fps.is_finite() && *fps > 0.0).unwrap_or(DEFAULT_FPS);
    let fps = settings.fps.map_or(source_fps, |fps| fps.min(source_fps));
    let video_format = VideoFormat { width, height, fps };
    let encoder = Encoder::open(settings, video_format)?;
    tracing::debug!(encoder = encoder.name(), width, height, fps, "encoder open");
    let keyframes = KeyframeScheduler::new(settings.gop().as_millis() as i64, (1000.0 / fps) as i64);
    let rate = encoder.configured_bitrate();
    Ok(OpenEncoder { encoder, video_format, keyframes, counter: 0, burned_in: VecDeque::new(), last_pts: NO_PTS, rate })
}

/// The size of a picture after conversion to square pixels, rounded down to even numbers.
fn natural_size(picture: &frame::Video) -> (u32, u32) {
    let Rational(num, den) = sample_aspect(picture);
    let width = u64::from(picture.width()) * num as u64 / den as u64;
    ((width as u32 & !1).max(2), (picture.height() & !1).max(2))
}

fn sample_aspect(picture: &frame::Video) -> Rational {
    match picture.aspect_ratio() {
        Rational(num, den) if num > 0 && den > 0 => Rational(num, den),
        _ => Rational(1, 1),
    }
}

/// Converts pictures to the encoder's size, pixel format, range and colour space. Rebuilt when the source's change.
struct Scaler {
    source: (Pixel, u32, u32, Rational),
    graph: Option<FilterGraph>,
}

impl Scaler {
    fn new(picture: &frame::Video, to: VideoFormat, format: Pixel) -> Result<Self, Error> {
        let source = identity(picture);
        let (pixel, width, height, Rational(num, den)) = source;
        let is_limited = picture.color_range() == color::Range::MPEG && picture.color_space() == color::Space::BT709;
        if pixel == format && (width, height) == (to.width, to.height) && num == den && is_limited {
            return Ok(Self { source, graph: None });
        }
        let pixel_name = pixel.descriptor().map_or("yuv420p", |descriptor| descriptor.name());
        let format_name = format.descriptor().map_or("yuv420p", |descriptor| descriptor.name());
        let arguments =
            format!("video_size={width}x{height}:pix_fmt={pixel_name}:time_base=1/1000000:pixel_aspect={num}/{den}");
        let (inner_width, inner_height) = fit(f64::from(width) * f64::from(num) / f64::from(den), height, to);
        let pad = match (inner_width, inner_height) == (to.width, to.height) {
            true => String::new(),
            false => format!(",pad={}:{}:(ow-iw)/2:(oh-ih)/2", to.width, to.height),
        };
        let chain = format!(
            "scale={inner_width}:{inner_height}:flags=bilinear:out_color_matrix=bt709:out_range=tv,setsar=1,format={format_name}{pad}"
        );
        tracing::debug!(from = %arguments, %chain, "scaling");
        Ok(Self { source, graph: Some(FilterGraph::video(&arguments, &chain)?) })
    }

    fn fits(&self, picture: &frame::Video) -> bool {
        self.source == identity(picture)
    }

    /// Converts a picture. The result is writable: it shares no memory with the source's.
    fn scale(&mut self, mut picture: frame::Video) -> Result<Option<frame::Video>, Error> {
        match &mut self.graph {
            None => {
                // SAFETY: a valid frame; its planes are copied if they are shared.
                let result = unsafe { ffmpeg_next::ffi::av_frame_make_writable(picture.as_mut_ptr()) };
                if result < 0 { Err(ffmpeg_next::Error::from(result).into()) } else { Ok(Some(picture)) }
            }
            Some(graph) => {
                picture.set_pts(Some(0));
                graph.push(&picture)?;
                let Some(mut scaled) = graph.picture()? else { return Ok(None) };
                scaled.set_color_space(color::Space::BT709);
                scaled.set_color_range(color::Range::MPEG);
                Ok(Some(scaled))
            }
        }
    }
}

fn identity(picture: &frame::Video) -> (Pixel, u32, u32, Rational) {
    (picture.format(), picture.width(), picture.height(), sample_aspect(picture))
}

/// The largest even size within `to` that keeps the source's aspect ratio; `to` itself if the ratios differ by less than 1%.
fn fit(width: f64, height: u32, to: VideoFormat) -> (u32, u32) {
    let (from, into) = (width / f64::from(height.max(1)), f64::from(to.width) / f64::from(to.height));
    if (from / into - 1.0).abs() < 0.01 {
        return (to.width, to.height);
    }
    let even = |n: f64| (n.round() as u32 & !1).max(2);
    if from > into {
        (to.width, even(f64::from(to.width) / from).min(to.height))
    } else {
        (even(f64::from(to.height) * from).min(to.width), to.height)
    }
}

/// Bounds the frames awaited from the encoder: more than any encoder holds.
const MAX_BURNED_IN: usize = 256;

/// Before the first PTS, which is not negative.
const NO_PTS: i64 = -1;

/// A change of the target must be at least this fraction (one fiftieth) of the current one.
const MIN_CHANGE_FRACTION: u64 = 50;

/// The frame rate assumed for a source that reports none.
const DEFAULT_FPS: f64 = 30.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_keep_their_aspect_ratio() {
        let to = |width, height| VideoFormat { width, height, fps: 30.0 };
        for (width, height, into, expected) in [
            (640.0, 480, to(1280, 720), (960, 720)),
            (1920.0, 1080, to(1280, 720), (1280, 720)),
            (1920.0, 1088, to(1280, 720), (1280, 720)),
            (1920.0, 800, to(640, 480), (640, 266)),
            (320.0, 180, to(160, 120), (160, 90)),
            (10.0, 4000, to(160, 120), (2, 120)),
        ] {
            assert_eq!(fit(width, height, into), expected, "{width}x{height} into {into:?}");
        }
    }
}
