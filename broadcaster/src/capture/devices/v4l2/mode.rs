//! A camera's capture modes, and the choice of the nearest one. Pure.

use std::fmt;

use serde::Serialize;

/// One capture mode of a camera.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mode {
    /// FFmpeg's `input_format`: the name of a pixel format or codec.
    pub format: &'static str,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Frame rates in frames per second, highest first; empty if the driver reports none.
    pub fps: Vec<f64>,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{} {}", self.width, self.height, self.format)?;
        for (n, fps) in self.fps.iter().take(8).enumerate() {
            write!(f, "{}{}", if n == 0 { " at " } else { ", " }, (fps * 100.0).round() / 100.0)?;
        }
        if self.fps.is_empty() { Ok(()) } else { f.write_str(" fps") }
    }
}

/// The mode nearest to `size` and `fps`, and its rate. Size counts first, preferring larger to smaller; then rate, preferring
/// faster to slower; then formats that are cheap to convert.
pub(crate) fn nearest(modes: &[Mode], size: (u32, u32), fps: f64) -> Option<(&Mode, Option<f64>)> {
    let candidates = modes.iter().flat_map(|mode| {
        let rates: Vec<_> = if mode.fps.is_empty() { vec![None] } else { mode.fps.iter().copied().map(Some).collect() };
        rates.into_iter().map(move |rate| (mode, rate))
    });
    candidates.min_by_key(|(mode, rate)| {
        (
            distance(f64::from(mode.width), f64::from(size.0)) + distance(f64::from(mode.height), f64::from(size.1)),
            rate.map_or(u64::MAX, |rate| distance(rate, fps)),
            FORMATS.iter().position(|(_, name)| *name == mode.format).unwrap_or(usize::MAX),
        )
    })
}

/// Relative distance of `have` from `want` in thousandths; falling short weighs four times as much as exceeding.
fn distance(have: f64, want: f64) -> u64 {
    let over = (have - want) / want.max(1.0);
    ((if over < 0.0 { -over * 4.0 } else { over }) * 1000.0).round() as u64
}

/// FourCCs that FFmpeg's v4l2 input supports, with its names for them, cheapest conversion first. Inter-frame codecs are left out:
/// decoding them adds delay.
pub(super) const FORMATS: [(&[u8; 4], &str); 9] = [
    (b"YU12", "yuv420p"),
    (b"NV12", "nv12"),
    (b"YUYV", "yuyv422"),
    (b"UYVY", "uyvy422"),
    (b"MJPG", "mjpeg"),
    (b"JPEG", "mjpeg"),
    (b"BGR3", "bgr24"),
    (b"RGB3", "rgb24"),
    (b"GREY", "gray8"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(format: &'static str, width: u32, height: u32, fps: &[f64]) -> Mode {
        Mode { format, width, height, fps: fps.to_vec() }
    }

    #[test]
    fn the_nearest_mode_is_chosen() {
        let modes = [
            mode("yuyv422", 640, 480, &[30.0, 15.0]),
            mode("yuyv422", 1280, 720, &[10.0, 5.0]),
            mode("mjpeg", 640, 480, &[30.0]),
            mode("mjpeg", 1280, 720, &[60.0, 30.0]),
            mode("mjpeg", 1920, 1080, &[30.0]),
        ];
        for (size, fps, format, width, rate) in [
            ((1280, 720), 30.0, "mjpeg", 1280, 30.0),
            ((1280, 720), 5.0, "yuyv422", 1280, 5.0),
            ((640, 480), 30.0, "yuyv422", 640, 30.0),
            ((160, 120), 5.0, "yuyv422", 640, 15.0),
            ((1600, 900), 30.0, "mjpeg", 1920, 30.0),
            ((3840, 2160), 60.0, "mjpeg", 1920, 30.0),
        ] {
            let (mode, chosen) = nearest(&modes, size, fps).unwrap();
            assert_eq!((mode.format, mode.width, chosen), (format, width, Some(rate)), "{size:?}@{fps}");
        }
        assert_eq!(nearest(&[], (1, 1), 1.0), None);
        assert_eq!(nearest(&[mode("nv12", 8, 8, &[])], (1, 1), 1.0).unwrap().1, None);
    }

    #[test]
    fn modes_are_displayed_with_rounded_rates() {
        assert_eq!(mode("mjpeg", 640, 480, &[30.0, 29.97003]).to_string(), "640x480 mjpeg at 30, 29.97 fps");
        assert_eq!(mode("nv12", 640, 480, &[]).to_string(), "640x480 nv12");
    }
}
