//! Conversion of any pixel format to I420, and of any sample format to interleaved stereo floats.

use ffmpeg::format::{Pixel, Sample, sample};
use ffmpeg::software::{resampling, scaling};
use ffmpeg::util::color;
use ffmpeg::{ChannelLayout, frame};
use ffmpeg_next as ffmpeg;

use super::Error;
use super::colour::{Colour, Matrix};

/// Converts to planar 8-bit 4:2:0; frames in that format pass unchanged.
#[derive(Default)]
pub(super) struct ToPlanar {
    scaler: Option<scaling::Context>,
}

impl ToPlanar {
    pub(super) fn run(&mut self, frame: frame::Video) -> Result<(Colour, frame::Video), Error> {
        let full_range = frame.color_range() == color::Range::JPEG || is_jpeg(frame.format());
        let matrix = matrix(frame.color_space(), frame.height());
        let as_is = Colour { matrix, full_range };
        // SDL converts full range with BT.601 only.
        let fits =
            matches!(frame.format(), Pixel::YUV420P | Pixel::YUVJ420P) && (!full_range || matrix == Matrix::Bt601);
        if fits {
            return Ok((as_is, frame));
        }
        let (format, width, height) = (frame.format(), frame.width(), frame.height());
        let current = self.scaler.as_ref().map(|s| (s.input().format, s.input().width, s.input().height));
        if current != Some((format, width, height)) {
            let mut scaler =
                scaling::Context::get(format, width, height, Pixel::YUV420P, width, height, scaling::Flags::BILINEAR)
                    .map_err(Error::call("convert a picture"))?;
            set_matrix(&mut scaler, matrix, full_range);
            self.scaler = Some(scaler);
        }
        let mut out = frame::Video::empty();
        let scaler = self.scaler.as_mut().expect("the scaler was just made");
        scaler.run(&frame, &mut out).map_err(Error::call("convert a picture"))?;
        // SAFETY: both frames are alive; the call only copies plain fields and reference-counted side data.
        unsafe {
            ffmpeg::ffi::av_frame_copy_props(out.as_mut_ptr(), frame.as_ptr());
        }
        Ok((Colour { matrix, full_range: false }, out))
    }
}

/// Sets the same matrix on both sides, so that only depth, subsampling and range change.
fn set_matrix(scaler: &mut scaling::Context, matrix: Matrix, full_range: bool) {
    let space = match matrix {
        Matrix::Bt601 => ffmpeg::ffi::SWS_CS_ITU601,
        Matrix::Bt709 => ffmpeg::ffi::SWS_CS_ITU709,
    };
    // SAFETY: the context is alive, and the table is static.
    unsafe {
        let table = ffmpeg::ffi::sws_getCoefficients(space);
        ffmpeg::ffi::sws_setColorspaceDetails(
            scaler.as_mut_ptr(),
            table,
            i32::from(full_range),
            table,
            0,
            0,
            1 << 16,
            1 << 16,
        );
    }
}

/// The matrix that the stream states; if it states none, BT.601 for standard definition and BT.709 above, as is usual.
fn matrix(space: color::Space, height: u32) -> Matrix {
    match space {
        color::Space::BT709 => Matrix::Bt709,
        color::Space::BT470BG | color::Space::SMPTE170M | color::Space::FCC => Matrix::Bt601,
        _ if height > MAX_SD_LINES => Matrix::Bt709,
        _ => Matrix::Bt601,
    }
}

fn is_jpeg(format: Pixel) -> bool {
    matches!(format, Pixel::YUVJ420P | Pixel::YUVJ422P | Pixel::YUVJ444P | Pixel::YUVJ440P)
}

/// Converts to interleaved stereo at one sample rate.
pub(super) struct Resampler {
    rate: u32,
    context: Option<resampling::Context>,
}

impl Resampler {
    pub(super) fn new(rate: u32) -> Self {
        Self { rate, context: None }
    }

    pub(super) fn run(&mut self, mut frame: frame::Audio) -> Result<Vec<f32>, Error> {
        if frame.channel_layout().is_empty() {
            frame.set_channel_layout(ChannelLayout::default(i32::from(frame.channels())));
        }
        let input = (frame.format(), frame.channel_layout(), frame.rate());
        let current = self.context.as_ref().map(|c| (c.input().format, c.input().channel_layout, c.input().rate));
        if current != Some(input) {
            let context = resampling::Context::get(
                input.0,
                input.1,
                input.2,
                Sample::F32(sample::Type::Packed),
                ChannelLayout::STEREO,
                self.rate,
            );
            self.context = Some(context.map_err(Error::call("convert sound"))?);
        }
        let context = self.context.as_mut().expect("the resampler was just made");
        let mut out = frame::Audio::empty();
        // SAFETY: the frame is empty, so it is given buffers of its own here, for as many samples as can come out.
        unsafe {
            let most = frame.samples() as u64 * u64::from(self.rate) / u64::from(input.2.max(1)) + RESAMPLER_SLACK;
            out.alloc(Sample::F32(sample::Type::Packed), most as usize, ChannelLayout::STEREO);
        }
        context.run(&frame, &mut out).map_err(Error::call("convert sound"))?;
        let bytes = out.samples() * 2 * size_of::<f32>();
        let bytes = out.data(0).get(..bytes).unwrap_or(&[]);
        Ok(bytes.as_chunks().0.iter().map(|sample| f32::from_ne_bytes(*sample)).collect())
    }
}

/// Lines up to which a picture without colour information is taken for standard definition (PAL has 576).
const MAX_SD_LINES: u32 = 576;
/// Samples that the resampler may return beyond the ratio, because of its filter's delay.
const RESAMPLER_SLACK: u64 = 256;
