//! Asks a V4L2 driver for its name and modes (Linux media API, `VIDIOC_QUERYCAP`, `VIDIOC_ENUM_FMT`, `VIDIOC_ENUM_FRAMESIZES`,
//! `VIDIOC_ENUM_FRAMEINTERVALS`).

use std::os::fd::OwnedFd;

use rustix::fs::{Mode as Permissions, OFlags};
use rustix::io;
use rustix::ioctl::{Opcode, Updater, opcode};

use super::mode::{FORMATS, Mode};

/// Paths and names of the video capture devices, by device number.
pub(crate) fn cameras() -> Vec<(String, String)> {
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

/// A camera's modes; empty if its driver cannot be queried.
pub(crate) fn modes(path: &str) -> Vec<Mode> {
    let Ok(device) = open(path) else { return Vec::new() };
    let mut modes: Vec<Mode> = Vec::new();
    for index in 0..MAX_ENTRIES {
        let mut description = FmtDesc { index, kind: CAPTURE, ..FmtDesc::default() };
        if ioctl::<VIDIOC_ENUM_FMT, _>(&device, &mut description).is_err() {
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

fn open(path: &str) -> io::Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Permissions::empty())
}

/// The card's name, if it supports single-planar video capture, which is what FFmpeg reads.
fn capture_name(path: &str) -> io::Result<Option<String>> {
    let device = open(path)?;
    let mut capability = Capability::default();
    ioctl::<VIDIOC_QUERYCAP, _>(&device, &mut capability)?;
    let own =
        if capability.capabilities & HAS_DEVICE_CAPS != 0 { capability.device_caps } else { capability.capabilities };
    let end = capability.card.iter().position(|byte| *byte == 0).unwrap_or(capability.card.len());
    let name = String::from_utf8_lossy(&capability.card[..end]).into_owned();
    Ok((own & CAN_CAPTURE != 0).then_some(name))
}

fn sizes(device: &OwnedFd, format: u32) -> Vec<(u32, u32)> {
    let mut sizes = Vec::new();
    for index in 0..MAX_ENTRIES {
        let mut entry = SizeEnum { index, format, ..SizeEnum::default() };
        if ioctl::<VIDIOC_ENUM_FRAMESIZES, _>(device, &mut entry).is_err() {
            break;
        }
        if entry.kind == DISCRETE {
            sizes.push((entry.numbers[0], entry.numbers[1]));
            continue;
        }
        // Continuous or stepwise: minimum, maximum and step of the width, then of the height. Offer the common sizes within.
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

fn rates(device: &OwnedFd, format: u32, width: u32, height: u32) -> Vec<f64> {
    let mut rates = Vec::new();
    let rate =
        |numerator: u32, denominator: u32| (numerator > 0).then(|| f64::from(denominator) / f64::from(numerator));
    for index in 0..MAX_ENTRIES {
        let mut entry = IntervalEnum { index, format, width, height, ..IntervalEnum::default() };
        if ioctl::<VIDIOC_ENUM_FRAMEINTERVALS, _>(device, &mut entry).is_err() {
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

/// Sends `argument` to the driver and takes its answer from there.
fn ioctl<const OPCODE: Opcode, T>(device: &OwnedFd, argument: &mut T) -> io::Result<()> {
    // SAFETY: each caller pairs an opcode with the kernel's structure for it, whose size the opcode encodes; the kernel reads and
    // writes no more than that.
    unsafe { rustix::ioctl::ioctl(device, Updater::<OPCODE, T>::new(argument)) }
}

/// `struct v4l2_capability` of `linux/videodev2.h`.
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

/// `struct v4l2_fmtdesc` of `linux/videodev2.h`.
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

/// `struct v4l2_frmsizeenum` of `linux/videodev2.h`.
#[repr(C)]
#[derive(Default)]
struct SizeEnum {
    index: u32,
    format: u32,
    kind: u32,
    numbers: [u32; 6],
    reserved: [u32; 2],
}

/// `struct v4l2_frmivalenum` of `linux/videodev2.h`.
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

const VIDIOC_QUERYCAP: Opcode = opcode::read::<Capability>(b'V', 0);
const VIDIOC_ENUM_FMT: Opcode = opcode::read_write::<FmtDesc>(b'V', 2);
const VIDIOC_ENUM_FRAMESIZES: Opcode = opcode::read_write::<SizeEnum>(b'V', 74);
const VIDIOC_ENUM_FRAMEINTERVALS: Opcode = opcode::read_write::<IntervalEnum>(b'V', 75);
/// `V4L2_BUF_TYPE_VIDEO_CAPTURE`, a `v4l2_buf_type`.
const CAPTURE: u32 = 1;
/// `V4L2_CAP_VIDEO_CAPTURE`, a capability flag.
const CAN_CAPTURE: u32 = 1;
/// `V4L2_CAP_DEVICE_CAPS`, a capability flag: `device_caps` is valid.
const HAS_DEVICE_CAPS: u32 = 0x8000_0000;
/// `V4L2_FRMSIZE_TYPE_DISCRETE` and `V4L2_FRMIVAL_TYPE_DISCRETE`.
const DISCRETE: u32 = 1;
/// Bounds each list that a driver enumerates: real ones have some tens of entries.
const MAX_ENTRIES: u32 = 256;
/// Bounds the devices that are queried.
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
    fn opcodes_match_the_kernel() {
        // From <linux/videodev2.h> on x86_64.
        assert_eq!(VIDIOC_QUERYCAP, 0x8068_5600);
        assert_eq!(VIDIOC_ENUM_FMT, 0xc040_5602);
        assert_eq!(VIDIOC_ENUM_FRAMESIZES, 0xc02c_564a);
        assert_eq!(VIDIOC_ENUM_FRAMEINTERVALS, 0xc034_564b);
    }
}
