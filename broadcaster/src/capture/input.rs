//! FFmpeg inputs: opened with a deadline that can be called off, read without blocking where the device allows.

use std::ffi::CString;
use std::ptr;
use std::time::{Duration, Instant};

use ffmpeg_next::format::Pixel;
use ffmpeg_next::format::context::Input;
use ffmpeg_next::media::Type;
use ffmpeg_next::util::interrupt;
use ffmpeg_next::{Dictionary, Error, Packet, codec, decoder, ffi, frame};

use crate::shutdown::ShutdownSignal;

/// What to open.
#[derive(Clone, Debug, Default)]
pub(crate) struct InputSpec {
    /// FFmpeg's input format; none: found by the content.
    pub(crate) format: Option<&'static str>,
    /// Path or device name, as the format wants it.
    pub(crate) url: String,
    /// The format's options.
    pub(crate) options: Vec<(&'static str, String)>,
}

/// Opens a file or device. Devices are not probed for what their driver already said: probing buffers stale pictures.
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

/// Reads the next packet of a device. `Ok(false)` means to stop.
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
    /// It said so.
    #[error("{0}")]
    Device(#[from] Error),
    /// It says nothing at all.
    #[error("it delivers nothing for {} s", READ_TIMEOUT.as_secs())]
    TimedOut,
}

/// The first stream of a kind, with its decoder open. Slices of a picture are decoded in parallel, never pictures: those would
/// come out late.
pub(crate) fn video_decoder(parameters: codec::Parameters) -> Result<decoder::Video, Error> {
    let mut context = codec::Context::from_parameters(parameters)?;
    context.set_threading(codec::threading::Config {
        kind: codec::threading::Type::Slice,
        count: 0,
        ..Default::default()
    });
    context.decoder().video()
}

/// As [`video_decoder`].
pub(crate) fn audio_decoder(parameters: codec::Parameters) -> Result<decoder::Audio, Error> {
    codec::Context::from_parameters(parameters)?.decoder().audio()
}

/// The picture in memory: a screen read from the graphics card stays there until it is fetched. Others come back as they are.
pub(crate) fn in_memory(picture: frame::Video) -> Result<frame::Video, Error> {
    if picture.format() != Pixel::DRM_PRIME {
        return Ok(picture);
    }
    let mut copy = frame::Video::empty();
    // SAFETY: both are valid frames; FFmpeg allocates the copy's planes, in the card's own format.
    let result = unsafe { ffi::av_hwframe_transfer_data(copy.as_mut_ptr(), picture.as_ptr(), 0) };
    if result < 0 { Err(Error::from(result)) } else { Ok(copy) }
}

/// The index, parameters and time base of the best stream of a kind.
pub(crate) fn best(input: &Input, kind: Type) -> Option<(usize, codec::Parameters, ffmpeg_next::Rational)> {
    let stream = input.streams().best(kind)?;
    Some((stream.index(), stream.parameters(), stream.time_base()))
}

/// A fraction as a number, if it is one.
pub(crate) fn rate(ffmpeg_next::Rational(num, den): ffmpeg_next::Rational) -> Option<f64> {
    (num > 0 && den > 0).then(|| f64::from(num) / f64::from(den))
}

/// How often a device that does not block is asked: what it adds to the delay is half of this.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// A device that is silent for longer is opened again. Cameras take up to 3 s to start.
const READ_TIMEOUT: Duration = Duration::from_secs(6);
