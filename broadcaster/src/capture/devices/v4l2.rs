//! A V4L2 camera's modes, which FFmpeg does not tell: asked of the driver by ioctl (Linux media API, `VIDIOC_ENUM_FMT`,
//! `VIDIOC_ENUM_FRAMESIZES`, `VIDIOC_ENUM_FRAMEINTERVALS`), and the choice of the one nearest to what was asked for.

use std::fmt;

use serde::Serialize;

/// One way in which a camera delivers pictures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mode {
    /// FFmpeg's `input_format`: a pixel format's or a codec's name.
    pub format: &'static str,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Pictures per second, highest first.
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

/// The mode nearest to `size` and `fps`, and its rate: first by size, larger rather than smaller; then by rate, faster rather
/// than slower; then formats that need no decoding.
pub fn nearest(modes: &[Mode], size: (u32, u32), fps: f64) -> Option<(&Mode, Option<f64>)> {
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

/// How far `have` is from `want`, in thousandths; to be short weighs four times as much as to be over.
fn distance(have: f64, want: f64) -> u64 {
    let over = (have - want) / want.max(1.0);
    ((if over < 0.0 { -over * 4.0 } else { over }) * 1000.0).round() as u64
}

/// The FourCCs that FFmpeg's v4l2 input reads, and its names for them; what costs least to convert comes first. Compressed
/// motion pictures are left out: they would be decoded with a delay.
const FORMATS: [(&[u8; 4], &str); 9] = [
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

#[cfg(target_os = "linux")]
pub use linux::{cameras, modes};

/// Elsewhere there is no V4L2.
#[cfg(not(target_os = "linux"))]
pub fn cameras() -> Vec<(String, String)> {
    Vec::new()
}

/// Elsewhere there is no V4L2.
#[cfg(not(target_os = "linux"))]
pub fn modes(_path: &str) -> Vec<Mode> {
    Vec::new()
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fs::{File, OpenOptions};
    use std::io;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::OpenOptionsExt;

    use super::{FORMATS, Mode};

    /// Paths and names of the devices that capture pictures, in the order of their numbers.
    pub fn cameras() -> Vec<(String, String)> {
        let mut numbers: Vec<u32> = std::fs::read_dir("/dev")
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.strip_prefix("video")?.parse().ok())
            .collect();
        numbers.sort_unstable();
        let named = numbers.into_iter().take(MAX_DEVICES).filter_map(|number| {
            let path = format!("/dev/video{number}");
            let name = capture_name(&path).ok().flatten()?;
            Some((path, name))
        });
        named.collect()
    }

    /// The modes of a camera; none if it can not be asked.
    pub fn modes(path: &str) -> Vec<Mode> {
        let Ok(device) = open(path) else { return Vec::new() };
        let mut modes: Vec<Mode> = Vec::new();
        for index in 0..MAX_ENTRIES {
            let mut description = FmtDesc { index, kind: CAPTURE, ..FmtDesc::default() };
            if ioctl(&device, VIDIOC_ENUM_FMT, &mut description).is_err() {
                break;
            }
            let fourcc = description.pixelformat.to_le_bytes();
            let Some((_, format)) = FORMATS.iter().find(|(known, _)| **known == fourcc) else { continue };
            for (width, height) in sizes(&device, description.pixelformat) {
                let fps = rates(&device, description.pixelformat, width, height);
                modes.push(Mode { format, width, height, fps });
            }
        }
        modes
    }

    fn open(path: &str) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path)
    }

    /// The card's name, if it captures pictures in one plane, as FFmpeg reads them.
    fn capture_name(path: &str) -> io::Result<Option<String>> {
        let device = open(path)?;
        let mut capability = Capability::default();
        ioctl(&device, VIDIOC_QUERYCAP, &mut capability)?;
        let own = if capability.capabilities & HAS_DEVICE_CAPS != 0 {
            capability.device_caps
        } else {
            capability.capabilities
        };
        let end = capability.card.iter().position(|byte| *byte == 0).unwrap_or(capability.card.len());
        let name = String::from_utf8_lossy(&capability.card[..end]).into_owned();
        Ok((own & CAN_CAPTURE != 0).then_some(name))
    }

    fn sizes(device: &File, format: u32) -> Vec<(u32, u32)> {
        let mut sizes = Vec::new();
        for index in 0..MAX_ENTRIES {
            let mut entry = SizeEnum { index, format, ..SizeEnum::default() };
            if ioctl(device, VIDIOC_ENUM_FRAMESIZES, &mut entry).is_err() {
                break;
            }
            if entry.kind == DISCRETE {
                sizes.push((entry.numbers[0], entry.numbers[1]));
                continue;
            }
            // Continuous or stepwise: min, max, step of the width and then of the height. The usual sizes within.
            let [min_width, max_width, step_width, min_height, max_height, step_height] = entry.numbers;
            let on_grid =
                |n: u32, min: u32, max: u32, step: u32| n >= min && n <= max && (n - min).is_multiple_of(step.max(1));
            sizes.extend(COMMON_SIZES.iter().copied().filter(|(w, h)| {
                on_grid(*w, min_width, max_width, step_width) && on_grid(*h, min_height, max_height, step_height)
            }));
            break;
        }
        sizes
    }

    fn rates(device: &File, format: u32, width: u32, height: u32) -> Vec<f64> {
        let mut rates = Vec::new();
        let rate =
            |numerator: u32, denominator: u32| (numerator > 0).then(|| f64::from(denominator) / f64::from(numerator));
        for index in 0..MAX_ENTRIES {
            let mut entry = IntervalEnum { index, format, width, height, ..IntervalEnum::default() };
            if ioctl(device, VIDIOC_ENUM_FRAMEINTERVALS, &mut entry).is_err() {
                break;
            }
            let [min_num, min_den, max_num, max_den, ..] = entry.numbers;
            if entry.kind == DISCRETE {
                rates.extend(rate(min_num, min_den));
                continue;
            }
            let (Some(fastest), Some(slowest)) = (rate(min_num, min_den), rate(max_num, max_den)) else { break };
            rates.extend(COMMON_RATES.iter().copied().filter(|fps| (slowest..=fastest).contains(fps)));
            break;
        }
        rates.sort_by(|a, b| b.total_cmp(a));
        rates.dedup();
        rates
    }

    fn ioctl<T>(device: &File, request: u64, argument: &mut T) -> io::Result<()> {
        // SAFETY: `request` encodes the size of `T`, which is the kernel's structure for it, and `argument` is exclusive.
        let result = unsafe { libc::ioctl(device.as_raw_fd(), request as _, std::ptr::from_mut(argument)) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// `struct v4l2_capability`.
    #[repr(C)]
    #[derive(Default)]
    struct Capability {
        driver: [u8; 16],
        card: [u8; 32],
        bus_info: [u8; 32],
        version: u32,
        capabilities: u32,
        device_caps: u32,
        reserved: [u32; 3],
    }

    /// `struct v4l2_fmtdesc`.
    #[repr(C)]
    #[derive(Default)]
    struct FmtDesc {
        index: u32,
        kind: u32,
        flags: u32,
        description: [u8; 32],
        pixelformat: u32,
        mbus_code: u32,
        reserved: [u32; 3],
    }

    /// `struct v4l2_frmsizeenum`.
    #[repr(C)]
    #[derive(Default)]
    struct SizeEnum {
        index: u32,
        format: u32,
        kind: u32,
        numbers: [u32; 6],
        reserved: [u32; 2],
    }

    /// `struct v4l2_frmivalenum`.
    #[repr(C)]
    #[derive(Default)]
    struct IntervalEnum {
        index: u32,
        format: u32,
        width: u32,
        height: u32,
        kind: u32,
        numbers: [u32; 6],
        reserved: [u32; 2],
    }

    /// `_IOWR('V', number, T)` or, without `write`, `_IOR`.
    const fn request<T>(number: u64, write: bool) -> u64 {
        let direction = if write { 3 } else { 2 };
        direction << 30 | (size_of::<T>() as u64) << 16 | (b'V' as u64) << 8 | number
    }

    const VIDIOC_QUERYCAP: u64 = request::<Capability>(0, false);
    const VIDIOC_ENUM_FMT: u64 = request::<FmtDesc>(2, true);
    const VIDIOC_ENUM_FRAMESIZES: u64 = request::<SizeEnum>(74, true);
    const VIDIOC_ENUM_FRAMEINTERVALS: u64 = request::<IntervalEnum>(75, true);
    /// `V4L2_BUF_TYPE_VIDEO_CAPTURE`.
    const CAPTURE: u32 = 1;
    /// `V4L2_CAP_VIDEO_CAPTURE`.
    const CAN_CAPTURE: u32 = 1;
    /// `V4L2_CAP_DEVICE_CAPS`.
    const HAS_DEVICE_CAPS: u32 = 0x8000_0000;
    /// `V4L2_FRMSIZE_TYPE_DISCRETE` and `V4L2_FRMIVAL_TYPE_DISCRETE`.
    const DISCRETE: u32 = 1;
    /// Bounds every list that a driver is asked for: real ones have some tens of entries.
    const MAX_ENTRIES: u32 = 256;
    /// Bounds the devices looked at.
    const MAX_DEVICES: usize = 64;
    const COMMON_SIZES: [(u32, u32); 10] = [
        (160, 120),
        (320, 180),
        (320, 240),
        (640, 360),
        (640, 480),
        (800, 600),
        (1280, 720),
        (1280, 960),
        (1920, 1080),
        (3840, 2160),
    ];
    const COMMON_RATES: [f64; 8] = [60.0, 50.0, 30.0, 25.0, 20.0, 15.0, 10.0, 5.0];

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn requests_are_the_kernels() {
            // From <linux/videodev2.h> on x86_64.
            assert_eq!(VIDIOC_QUERYCAP, 0x8068_5600);
            assert_eq!(VIDIOC_ENUM_FMT, 0xc040_5602);
            assert_eq!(VIDIOC_ENUM_FRAMESIZES, 0xc02c_564a);
            assert_eq!(VIDIOC_ENUM_FRAMEINTERVALS, 0xc034_564b);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(format: &'static str, width: u32, height: u32, fps: &[f64]) -> Mode {
        Mode { format, width, height, fps: fps.to_vec() }
    }

    #[test]
    fn the_nearest_mode() {
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
    fn modes_read_well() {
        assert_eq!(mode("mjpeg", 640, 480, &[30.0, 29.97003]).to_string(), "640x480 mjpeg at 30, 29.97 fps");
        assert_eq!(mode("nv12", 640, 480, &[]).to_string(), "640x480 nv12");
    }
}
