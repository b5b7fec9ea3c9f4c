//! Uploads pictures to GPU surfaces for VAAPI encoders, which accept nothing else.
//!
//! libavutil's hardware contexts have no safe wrapper: all of the unsafe code is here, and owns what it allocates.

use std::ptr;

use ffmpeg_next::codec::encoder;
use ffmpeg_next::ffi;
use ffmpeg_next::{Error, frame};

/// A VAAPI device and a pool of its surfaces.
pub(super) struct SurfaceUploader {
    frames: *mut ffi::AVBufferRef,
}

// SAFETY: AVBufferRef is reference-counted atomically, and a pool may be used from any one thread at a time.
unsafe impl Send for SurfaceUploader {}

impl SurfaceUploader {
    /// Opens the first render node and configures `encoder`, which is not open yet, to take NV12 surfaces of this size from it.
    pub(super) fn attach(encoder: &mut encoder::video::Video, width: u32, height: u32) -> Result<Self, Error> {
        // SAFETY: each pointer is checked or null before use; `device` is released here, `frames` by `SurfaceUploader`'s drop; the
        // encoder gets a reference of its own.
        unsafe {
            let mut device = ptr::null_mut();
            let vaapi = ffi::AVHWDeviceType::AV_HWDEVICE_TYPE_VAAPI;
            check(ffi::av_hwdevice_ctx_create(&mut device, vaapi, ptr::null(), ptr::null_mut(), 0))?;
            let frames = ffi::av_hwframe_ctx_alloc(device);
            ffi::av_buffer_unref(&mut device);
            if frames.is_null() {
                return Err(Error::Other { errno: ffmpeg_next::error::ENOMEM });
            }
            let this = Self { frames };
            let context = (*frames).data.cast::<ffi::AVHWFramesContext>();
            (*context).format = ffi::AVPixelFormat::AV_PIX_FMT_VAAPI;
            (*context).sw_format = ffi::AVPixelFormat::AV_PIX_FMT_NV12;
            (*context).width = width as i32;
            (*context).height = height as i32;
            (*context).initial_pool_size = POOL;
            check(ffi::av_hwframe_ctx_init(frames))?;
            let encoder = encoder.as_mut_ptr();
            (*encoder).pix_fmt = ffi::AVPixelFormat::AV_PIX_FMT_VAAPI;
            (*encoder).hw_frames_ctx = ffi::av_buffer_ref(frames);
            Ok(this)
        }
    }

    /// Copies an NV12 picture into a surface.
    pub(super) fn upload(&self, picture: &frame::Video) -> Result<frame::Video, Error> {
        let mut surface = frame::Video::empty();
        // SAFETY: both frames are valid for the calls, and `frames` is a pool that was initialised.
        unsafe {
            check(ffi::av_hwframe_get_buffer(self.frames, surface.as_mut_ptr(), 0))?;
            check(ffi::av_hwframe_transfer_data(surface.as_mut_ptr(), picture.as_ptr(), 0))?;
            check(ffi::av_frame_copy_props(surface.as_mut_ptr(), picture.as_ptr()))?;
            (*surface.as_mut_ptr()).pict_type = (*picture.as_ptr()).pict_type;
        }
        Ok(surface)
    }
}

impl Drop for SurfaceUploader {
    fn drop(&mut self) {
        // SAFETY: `frames` is the reference that `attach` made.
        unsafe { ffi::av_buffer_unref(&mut self.frames) };
    }
}

fn check(result: i32) -> Result<(), Error> {
    if result < 0 { Err(Error::from(result)) } else { Ok(()) }
}

/// Surfaces in the pool: the encoder's references, one being filled and one being encoded.
const POOL: i32 = 8;
