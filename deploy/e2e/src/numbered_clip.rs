//! Clips whose frames carry a burnt-in number: encoded by ffmpeg, and read back from what a player decodes.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use media::frame_counter;

use crate::test_env::TestEnv;

/// Parameters of a clip.
#[derive(Clone, Debug)]
pub struct ClipSpec {
    /// Width in samples, even.
    pub width: usize,
    /// Height in lines, even.
    pub height: usize,
    /// Frames per second.
    pub rate: u32,
    /// The number of the first frame.
    pub first: u32,
    /// The number of frames.
    pub count: u32,
    /// ffmpeg's encoder options, such as `-c:v libx264 -bf 2`.
    pub encoders: &'static [&'static str],
    /// Whether there is an audio track with a tone.
    pub sound: bool,
}

impl Default for ClipSpec {
    fn default() -> Self {
        let encoders =
            &["-c:v", "libx264", "-preset", "veryfast", "-bf", "0", "-g", "50", "-c:a", "aac", "-b:a", "96k"];
        Self { width: 640, height: 360, rate: 25, first: 0, count: 500, encoders, sound: true }
    }
}

/// A file whose frames carry consecutive numbers, beginning with the first of its parameters.
#[derive(Clone, Debug)]
pub struct NumberedClip {
    /// Path of the encoded file.
    pub path: PathBuf,
    /// The parameters that it was encoded with.
    pub source: ClipSpec,
}

impl NumberedClip {
    /// Encodes a clip with ffmpeg into a file named `name`, whose extension selects the container.
    pub fn encode(env: &TestEnv, name: &str, source: ClipSpec) -> Result<Self> {
        let path = env.path(name);
        let size = format!("{}x{}", source.width, source.height);
        let mut command = Command::new("ffmpeg");
        command.args(["-nostdin", "-loglevel", "error", "-y", "-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", &size]);
        command.args(["-r", &source.rate.to_string(), "-i", "-"]);
        if source.sound {
            command.args(["-f", "lavfi", "-i", "sine=440:sample_rate=48000", "-shortest"]);
        }
        command.args(source.encoders).arg(&path);
        let mut encoder = command.stdin(Stdio::piped()).spawn().context("ffmpeg")?;
        let mut input = encoder.stdin.take().expect("piped");
        let mut picture = vec![128; source.width * source.height * 3 / 2];
        for number in source.first..source.first + source.count {
            paint(&mut picture[..source.width * source.height], source.width, number);
            let drawn =
                frame_counter::draw(&mut picture, source.width, source.width, source.height, number, u64::from(number));
            ensure!(drawn, "{size} is too small for the frame number");
            match input.write_all(&picture) {
                // ffmpeg needs no more frames (an audio-only file takes none), or its exit status below reports the error.
                Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => break,
                written => written?,
            }
        }
        drop(input);
        ensure!(encoder.wait()?.success(), "ffmpeg could not encode {name}");
        Ok(Self { path, source })
    }
}

/// Paints moving diagonal stripes: every frame differs from the previous one everywhere.
fn paint(luma: &mut [u8], width: usize, number: u32) {
    for (y, line) in luma.chunks_exact_mut(width).enumerate() {
        for (x, sample) in line.iter_mut().enumerate() {
            *sample = 40 + ((x + 2 * y + 3 * number as usize) % 160) as u8;
        }
    }
}

/// Decodes `input` (ffmpeg's arguments: options, `-i`, a file or URL) until `count` frames or the end, and reads the number of each; `None` if
/// unreadable. ffmpeg's options prevent it from dropping or duplicating frames.
pub fn decode_frame_numbers(
    input: &[&str],
    width: usize,
    height: usize,
    count: u32,
    within: Duration,
) -> Result<Vec<Option<u32>>> {
    let mut ffmpeg = Command::new("timeout")
        .args([&format!("{}", within.as_secs()), "ffmpeg", "-nostdin", "-loglevel", "error"])
        .args(input)
        .args(["-map", "0:v:0", "-frames:v", &count.to_string(), "-fps_mode", "passthrough"])
        .args(["-s", &format!("{width}x{height}"), "-pix_fmt", "yuv420p", "-f", "rawvideo", "-"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("ffmpeg")?;
    let mut output = ffmpeg.stdout.take().expect("piped");
    let mut picture = vec![0; width * height * 3 / 2];
    let mut marks = Vec::new();
    while marks.len() < count as usize && output.read_exact(&mut picture).is_ok() {
        marks.push(frame_counter::read(&picture, width, width, height).map(|mark| mark.counter));
    }
    drop(output);
    ffmpeg.wait()?;
    Ok(marks)
}

/// Fails unless every number was readable and follows its predecessor. Returns the first and the last.
pub fn ensure_consecutive(marks: &[Option<u32>]) -> Result<(u32, u32)> {
    let numbers: Vec<u32> = marks
        .iter()
        .copied()
        .enumerate()
        .map(|(n, mark)| mark.with_context(|| format!("frame {n} has no readable number")))
        .collect::<Result<_>>()?;
    for pair in numbers.windows(2) {
        ensure!(pair[1] == pair[0].wrapping_add(1), "frame {} is followed by {}", pair[0], pair[1]);
    }
    Ok((*numbers.first().context("no frame")?, *numbers.last().expect("not empty")))
}

#[cfg(test)]
mod tests {
    use ::lab::TIMEOUT;

    use super::*;

    #[test]
    fn frame_numbers_survive_encoding() {
        let env = TestEnv::new().unwrap();
        let source = ClipSpec { count: 30, ..ClipSpec::default() };
        let file = NumberedClip::encode(&env, "marked.mp4", source).unwrap();
        let marks = decode_frame_numbers(&["-i", file.path.to_str().unwrap()], 640, 360, 100, TIMEOUT).unwrap();
        assert_eq!(ensure_consecutive(&marks).unwrap(), (0, 29));
    }

    #[test]
    fn gaps_and_duplicates_are_detected() {
        assert_eq!(ensure_consecutive(&[Some(7), Some(8), Some(9)]).unwrap(), (7, 9));
        for bad in [&[Some(1), Some(3)][..], &[Some(1), Some(1)], &[Some(1), None], &[]] {
            assert!(ensure_consecutive(bad).is_err(), "{bad:?}");
        }
    }
}
