//! Burns a machine-readable frame counter and the time of day into pictures.
//!
//! Just before encoding, so that the counter counts exactly the encoded frames.

use ffmpeg_next::format::Pixel;
use ffmpeg_next::frame;
use media::{WallClock, frame_counter};

/// Draws `counter` and the capture time into the luma plane. Pictures that are not 8-bit planar YUV are left unchanged.
pub(super) fn draw(picture: &mut frame::Video, counter: u32, captured: WallClock) {
    if !matches!(picture.format(), Pixel::YUV420P | Pixel::YUVJ420P | Pixel::NV12 | Pixel::YUV422P | Pixel::YUV444P) {
        return;
    }
    let (stride, width, height) = (picture.stride(0), picture.width() as usize, picture.height() as usize);
    let luma = picture.data_mut(0);
    let millis = u64::try_from(captured.as_micros().div_euclid(1000)).unwrap_or(0);
    frame_counter::draw(luma, stride, width, height, counter, millis);
    let rfc3339 = captured.to_rfc3339();
    // Without the date: `13:01:33.250`.
    text(luma, stride, width, height, rfc3339.get(11..23).unwrap_or_default());
}

/// Writes `digits` in white on black at the bottom left, up to a quarter of the width wide.
fn text(luma: &mut [u8], stride: usize, width: usize, height: usize, digits: &str) {
    let columns = digits.len() * (GLYPH_WIDTH + 1) + 1;
    let scale = (width / 4 / columns.max(1)).max(1);
    let (box_width, box_height) = (columns * scale, (GLYPH_HEIGHT + 2) * scale);
    if box_width > width || box_height * 3 > height || stride * height > luma.len() + stride - width {
        return;
    }
    let top = height - box_height;
    for y in 0..box_height {
        let row = &mut luma[(top + y) * stride..][..box_width];
        row.fill(BLACK);
        let Some(line) = (y / scale).checked_sub(1).filter(|line| *line < GLYPH_HEIGHT) else { continue };
        for (n, character) in digits.bytes().enumerate() {
            let bits = glyph(character)[line];
            for column in (0..GLYPH_WIDTH).filter(|column| bits >> (GLYPH_WIDTH - 1 - column) & 1 == 1) {
                let left = (n * (GLYPH_WIDTH + 1) + 1 + column) * scale;
                row[left..left + scale].fill(WHITE);
            }
        }
    }
}

/// A glyph of 3 × 5 dots: one row per entry, the leftmost dot in bit 2.
const fn glyph(character: u8) -> [u8; GLYPH_HEIGHT] {
    match character {
        b'0' => [7, 5, 5, 5, 7],
        b'1' => [2, 6, 2, 2, 7],
        b'2' => [7, 1, 7, 4, 7],
        b'3' => [7, 1, 7, 1, 7],
        b'4' => [5, 5, 7, 1, 1],
        b'5' => [7, 4, 7, 1, 7],
        b'6' => [7, 4, 7, 5, 7],
        b'7' => [7, 1, 1, 1, 1],
        b'8' => [7, 5, 7, 5, 7],
        b'9' => [7, 5, 7, 1, 7],
        b':' => [0, 2, 0, 2, 0],
        b'.' => [0, 0, 0, 0, 2],
        _ => [0; GLYPH_HEIGHT],
    }
}

const GLYPH_WIDTH: usize = 3;
const GLYPH_HEIGHT: usize = 5;
/// Luma in limited range.
const BLACK: u8 = 16;
const WHITE: u8 = 235;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_drawn_within_the_picture() {
        let (width, height, stride) = (200, 120, 208);
        let mut luma = vec![128; stride * height];
        text(&mut luma, stride, width, height, "12");
        // Scale 200 / 4 / 9 = 5: a box of 45 × 35 at the bottom left; the `1` has its foot on the last line but one.
        let foot: Vec<_> = (0..4).map(|column| luma[(height - 8) * stride + column * 5 + 2]).collect();
        assert_eq!(foot, [BLACK, WHITE, WHITE, WHITE]);
        assert_eq!((luma[(height - 36) * stride], luma[(height - 1) * stride + 45]), (128, 128));
        for (width, height) in [(0, 0), (16, 16), (64, 20), (100, 100)] {
            text(&mut vec![0; width * height], width, width, height, "13:01:33.250");
        }
    }

    #[test]
    fn the_counter_is_read_back() {
        for (width, height) in [(160, 120), (1280, 720)] {
            let mut picture = frame::Video::new(Pixel::YUV420P, width, height);
            draw(&mut picture, 7, WallClock::from_micros(1_795_352_493_250_999));
            let mark = frame_counter::read(picture.data(0), picture.stride(0), width as usize, height as usize);
            assert_eq!(mark, Some(frame_counter::FrameCounter { counter: 7, clock_ms: 1_795_352_493_250 }));
        }
    }
}
