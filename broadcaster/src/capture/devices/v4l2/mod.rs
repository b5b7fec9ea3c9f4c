//! Video4Linux2 cameras: their names and modes, which FFmpeg does not list. Elsewhere than on Linux there are none.

#[cfg(target_os = "linux")]
mod ioctl;
mod mode;

#[cfg(target_os = "linux")]
pub(super) use ioctl::{cameras, modes};
pub use mode::Mode;
pub(super) use mode::nearest;

/// No paths and names of cameras: this platform has no V4L2.
#[cfg(not(target_os = "linux"))]
pub(super) fn cameras() -> Vec<(String, String)> {
    Vec::new()
}

/// No modes: this platform has no V4L2.
#[cfg(not(target_os = "linux"))]
pub(super) fn modes(_path: &str) -> Vec<Mode> {
    Vec::new()
}
