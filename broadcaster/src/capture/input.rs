//! FFmpeg inputs: opening can be interrupted; devices are read without blocking where they support it.

use std::ffi::CString;
use std::ptr;
use std::time::{Duration, Instant};

use ffmpeg_next::format::Pixel;
use ffmpeg_next::format::context::Input;
use ffmpeg_next::media::Type;
use ffmpeg_next::util::interrupt;
use ffmpeg_next::{Dictionary, Error, Packet, codec, decoder, ffi, frame};

use crate::shutdown::ShutdownSignal;

/// An input as FFmpeg opens it.
#[derive(Clone, Debug, Default)]
pub(crate) struct InputSpec {
    /// FFmpeg's input format; `None`: a file, whose format is probed.
    pub(crate) format: Option<&'static str>,
    /// Path or device name, in the format's syntax.
    pub(crate) url: String,
    /// Private options of the format.
    pub(crate) options: Vec<(&'static str, String)>,
}

/// Opens a file or device. Only files are probed for stream information: probing a device would buffer stale frames.
pub(crate) fn open(spec: &InputSpec, shutdown: &ShutdownSignal) -> Result<Input, Error> {
    let url = CString::new(spec.url.as_str()).map_err(|_| Error::Other { errno: ffmpeg_next::error::EINVAL })?;
    let is_device = spec.format.is_some();
    let mut format = ptr::null();
    if let Some(name) = spec.format {
        let name = CString::new(name).map_err(|_| Error::DemuxerNotFound)?;
        // SAFETY: a NUL-terminated name.
        format = unsafe { ffi::av_find_input_format(name.as_ptr()) };
        if format.is_null() {
            return Err(Error::DemuxerNotFound);
        }
    }
    let mut options = Dictionary::new();
    for (key, value) in &spec.options {
        options.set(key, value);
    }
    let shutdown = shutdown.clone();
    let interrupt = interrupt::new(Box::new(move || shutdown.is_triggered()));
    // SAFETY: `context` is allocated here and freed by FFmpeg if it does not open; the guard of the interrupt outlives it
    // within `Input`; the dictionary is handed over and taken back.
    unsafe {
        let mut context = ffi::avformat_alloc_context();
        if context.is_null() {
            return Err(Error::Other { errno: ffmpeg_next::error::ENOMEM });
        }
        (*context).interrupt_callback = interrupt.interrupt;
        if is_device {
            (*context).flags |= ffi::AVFMT_FLAG_NONBLOCK;
        }
        let mut dictionary = options.disown();
        let result = ffi::avformat_open_input(&mut context, url.as_ptr(), format.cast_mut(), &mut dictionary);
        drop(Dictionary::own(dictionary));
        if result < 0 {
            return Err(Error::from(result));
        }
        let input = Input::wrap_with_interrupt(context, interrupt.guard);
        if !is_device {
            let result = ffi::avformat_find_stream_info(context, ptr::null_mut());
            if result < 0 {
                return Err(Error::from(result));
            }
        }
        Ok(input)
    }
}

/// Reads a device's next packet. `Ok(false)`: capturing must stop.
pub(crate) fn read(input: &mut Input, packet: &mut Packet, shutdown: &ShutdownSignal) -> Result<bool, ReadError> {
    let deadline = Instant::now() + READ_TIMEOUT;
    loop {
        match packet.read(input) {
            Ok(()) => return Ok(!shutdown.is_triggered()),
            Err(Error::Exit) => return Ok(false),
            Err(Error::InvalidData) => {}
            Err(Error::Other { errno: ffmpeg_next::error::EAGAIN }) => {
                if !shutdown.sleep(POLL_INTERVAL) {
                    return Ok(false);
                }
            }
            Err(error) => return Err(ReadError::Device(error)),
        }
        if Instant::now() > deadline {
            return Err(ReadError::TimedOut);
        }
    }
}

/// Why a device delivers nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// Reading failed, for instance because it was unplugged.
    #[error("{0}")]
    Device(#[from] Error),
    /// It delivered nothing for six seconds.
    #[error("it delivered no data for {} s", READ_TIMEOUT.as_secs())]
    TimedOut,
}

/// Opens a video decoder with slice threads only: frame threads would add delay.
pub(crate) fn video_decoder(parameters: codec::Parameters) -> Result<decoder::Video, Error> {
    let mut context = codec::Context::from_parameters(parameters)?;
    context.set_threading(codec::threading::Config {
        kind: codec::threading::Type::Slice,
        count: 0,
        ..Default::default()
    });
    context.decoder().video()
}

/// Opens an audio decoder.
pub(crate) fn audio_decoder(parameters: codec::Parameters) -> Result<decoder::Audio, Error> {
    codec::Context::from_parameters(parameters)?.decoder().audio()
}

/// Copies a frame from graphics memory, where a screen captured by KMS is, to main memory. Other frames are returned as they are.
pub(crate) fn in_memory(picture: frame::Video) -> Result<frame::Video, Error> {
    if picture.format() != Pixel::DRM_PRIME {
        return Ok(picture);
    }
    let mut copy = frame::Video::empty();
    // SAFETY: both are valid frames; FFmpeg allocates the copy's planes, in the card's own format.
    let result = unsafe { ffi::av_hwframe_transfer_data(copy.as_mut_ptr(), picture.as_ptr(), 0) };
    if result < 0 { Err(Error::from(result)) } else { Ok(copy) }
}

/// Index, parameters and time base of the best stream of a kind.
pub(crate) fn best(input: &Input, kind: Type) -> Option<(usize, codec::Parameters, ffmpeg_next::Rational)> {
    let stream = input.streams().best(kind)?;
    Some((stream.index(), stream.parameters(), stream.time_base()))
}

/// A frame rate as a number; `None` unless it is positive.
pub(crate) fn rate(ffmpeg_next::Rational(num, den): ffmpeg_next::Rational) -> Option<f64> {
    (num > 0 && den > 0).then(|| f64::from(num) / f64::from(den))
}

/// Polling interval of a non-blocking device; adds half of it to the delay on average.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// A device that delivers nothing for longer is reopened. Cameras take up to 3 s to start.
const READ_TIMEOUT: Duration = Duration::from_secs(6);
