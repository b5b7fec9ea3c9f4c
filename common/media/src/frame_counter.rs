//! The burned-in frame counter: a counter and a clock drawn into a picture, readable after lossy coding and scaling.
//!
//! It lets a test see from decoded pixels alone that no picture was lost or shown twice, and lets the latency meter compare with the true capture
//! time. It is a band of 32 × 4 black and white cells at the top left:
//!
//! | bits | content |
//! |---|---|
//! | 16 | sync pattern `SYNC` |
//! | 32 | counter |
//! | 48 | clock, milliseconds since the Unix epoch |
//! | 16 | spare, zero |
//! | 16 | CRC-16/CCITT-FALSE of the counter and the clock |
//!
//! most significant bit first, left to right, top to bottom. A cell is a square of a 32nd of the picture's width in a picture
//! up to 400 pixels wide, and of an 80th in a larger one.

/// The content of the burned-in code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameCounter {
    /// Number of the picture; increases by one for each picture and wraps.
    pub counter: u32,
    /// When the picture was captured: milliseconds since the Unix epoch, UTC; the low 48 bits.
    pub clock_ms: u64,
}

/// The size of a plane of 8-bit luma samples, limited (16 to 235) or full range.
#[derive(Clone, Copy, Debug)]
struct Size {
    /// Bytes from one line to the next, at least `width`.
    stride: usize,
    /// Samples in a line.
    width: usize,
    /// Number of lines.
    height: usize,
}

/// Draws the code into `luma`. Returns whether it fits: a picture less than 64 samples wide, or too low, is left unchanged.
pub fn draw(luma: &mut [u8], stride: usize, width: usize, height: usize, counter: u32, clock_ms: u64) -> bool {
    let size = Size { stride, width, height };
    let Some(cells) = divisor(width).map(|per_width| Cells { size, per_width }).filter(|c| c.fits(luma.len())) else {
        return false;
    };
    let bits = encode(FrameCounter { counter, clock_ms });
    for (n, (x, y)) in cells.positions().enumerate() {
        let shade = if bits >> (127 - n) & 1 == 1 { WHITE } else { BLACK };
        for line in y.clone() {
            luma[line * stride + x.start..line * stride + x.end].fill(shade);
        }
    }
    true
}

/// Reads the code from `luma`; `None` if there is none, or if it is damaged.
pub fn read(luma: &[u8], stride: usize, width: usize, height: usize) -> Option<FrameCounter> {
    let size = Size { stride, width, height };
    // A picture that was scaled across the threshold has the other cell size.
    [SMALL_DIVISOR, LARGE_DIVISOR].into_iter().find_map(|per_width| {
        let cells = Cells { size, per_width };
        cells.fits(luma.len()).then(|| cells.read(luma)).flatten()
    })
}

/// The grid on a given picture.
#[derive(Clone, Copy)]
struct Cells {
    size: Size,
    per_width: usize,
}

impl Cells {
    fn edge(&self, n: usize) -> usize {
        self.size.width * n / self.per_width
    }

    fn fits(&self, len: usize) -> bool {
        let Size { stride, width, height } = self.size;
        let lines = self.edge(ROWS);
        (MIN_WIDTH..=MAX_WIDTH).contains(&width)
            && stride >= width
            && lines <= height
            && stride.checked_mul(lines).is_some_and(|end| end <= len)
            && self.edge(1) >= 2
    }

    /// Columns and lines of each cell, in the order of the bits.
    fn positions(self) -> impl Iterator<Item = (std::ops::Range<usize>, std::ops::Range<usize>)> {
        (0..ROWS).flat_map(move |row| {
            (0..COLUMNS)
                .map(move |column| (self.edge(column)..self.edge(column + 1), self.edge(row)..self.edge(row + 1)))
        })
    }

    fn read(&self, luma: &[u8]) -> Option<FrameCounter> {
        let means: Vec<u32> = self.positions().map(|(x, y)| self.mean(luma, x, y)).collect();
        // The sync pattern shows what black and white look like after coding.
        let sync = |wanted| (0..16usize).filter(move |n| SYNC >> (15 - n) & 1 == wanted).map(|n| means[n]);
        let (brightest_black, darkest_white) = (sync(0).max()?, sync(1).min()?);
        if darkest_white < brightest_black + MIN_CONTRAST {
            return None;
        }
        let threshold = (darkest_white + brightest_black) / 2;
        decode(means.iter().fold(0u128, |bits, mean| bits << 1 | u128::from(*mean > threshold)))
    }

    /// Mean of the inner half of a cell, which its neighbours bleed into least.
    fn mean(&self, luma: &[u8], x: std::ops::Range<usize>, y: std::ops::Range<usize>) -> u32 {
        let inner = |r: std::ops::Range<usize>| {
            let margin = r.len() / 4;
            r.start + margin..r.end - margin
        };
        let (mut sum, mut count) = (0u32, 0u32);
        for line in inner(y) {
            for sample in &luma[line * self.size.stride..][inner(x.clone())] {
                sum += u32::from(*sample);
                count += 1;
            }
        }
        sum / count.max(1)
    }
}

fn divisor(width: usize) -> Option<usize> {
    (width >= MIN_WIDTH).then_some(if width <= SMALL { SMALL_DIVISOR } else { LARGE_DIVISOR })
}

fn encode(mark: FrameCounter) -> u128 {
    let clock = mark.clock_ms & CLOCK_MASK;
    let crc = crc16(mark.counter, clock);
    u128::from(SYNC) << 112 | u128::from(mark.counter) << 80 | u128::from(clock) << 32 | u128::from(crc)
}

fn decode(bits: u128) -> Option<FrameCounter> {
    let mark = FrameCounter { counter: (bits >> 80) as u32, clock_ms: (bits >> 32) as u64 & CLOCK_MASK };
    (bits == encode(mark)).then_some(mark)
}

/// CRC-16/CCITT-FALSE over the counter and the low 48 bits of the clock.
fn crc16(counter: u32, clock: u64) -> u16 {
    let bytes = counter.to_be_bytes().into_iter().chain(clock.to_be_bytes().into_iter().skip(2));
    bytes.fold(0xffff, |crc, byte| {
        (0..8).fold(crc ^ u16::from(byte) << 8, |crc, _| if crc & 0x8000 != 0 { crc << 1 ^ 0x1021 } else { crc << 1 })
    })
}

/// Alternates at every scale, so that neither a flat picture nor a regular grid looks like it.
const SYNC: u16 = 0b1010_0110_0011_1101;
const COLUMNS: usize = 32;
const ROWS: usize = 4;
/// Up to this width a cell would otherwise be too small to survive coding.
const SMALL: usize = 400;
const SMALL_DIVISOR: usize = 32;
const LARGE_DIVISOR: usize = 80;
/// The smallest width, with two samples a cell.
const MIN_WIDTH: usize = 64;
/// Bounds the arithmetic; no codec here goes further.
const MAX_WIDTH: usize = 16_384;
const BLACK: u8 = 16;
const WHITE: u8 = 235;
/// Less than a third of full contrast between the darkest white and the brightest black is not the code.
const MIN_CONTRAST: u32 = 60;
const CLOCK_MASK: u64 = (1 << 48) - 1;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn picture(width: usize, height: usize) -> Vec<u8> {
        (0..width * height).map(|n| (n * 7 % 251) as u8).collect()
    }

    #[test]
    fn the_drawn_counter_is_read_at_every_size() {
        for (width, height) in
            [(64, 48), (160, 120), (176, 144), (320, 240), (640, 360), (1280, 720), (1920, 1080), (854, 480)]
        {
            let mut luma = picture(width, height);
            assert!(draw(&mut luma, width, width, height, 0x1234_5678, 1_795_352_493_250), "{width}x{height}");
            let mark = FrameCounter { counter: 0x1234_5678, clock_ms: 1_795_352_493_250 };
            assert_eq!(read(&luma, width, width, height), Some(mark), "{width}x{height}");
        }
    }

    #[test]
    fn the_counter_is_read_after_scaling_to_half_size() {
        let (width, height) = (1280, 720);
        let mut luma = picture(width, height);
        draw(&mut luma, width, width, height, 7, 9);
        let half: Vec<u8> = (0..height / 2)
            .flat_map(|y| (0..width / 2).map(move |x| (x, y)))
            .map(|(x, y)| luma[y * 2 * width + x * 2])
            .collect();
        assert_eq!(read(&half, 640, 640, 360), Some(FrameCounter { counter: 7, clock_ms: 9 }));
    }

    #[test]
    fn a_picture_without_a_counter_gives_none() {
        assert_eq!(read(&picture(640, 360), 640, 640, 360), None);
        assert_eq!(read(&[16; 640 * 360], 640, 640, 360), None);
        for (stride, width, height) in [(0, 0, 0), (10, 10, 10), (100, 640, 360), (640, 640, 3), (usize::MAX, 640, 360)]
        {
            assert_eq!(read(&[0; 100], stride, width, height), None);
            assert!(!draw(&mut [0; 100], stride, width, height, 1, 1));
        }
    }

    proptest! {
        #[test]
        fn the_counter_is_read_through_noise_and_rejected_if_damaged(counter: u32, clock in 0..1u64 << 48, noise in prop::collection::vec(-30i16..30, 997), cell in 16usize..112) {
            let (width, height) = (320, 240);
            let mut luma = picture(width, height);
            draw(&mut luma, width, width, height, counter, clock);
            for (sample, noise) in luma.iter_mut().zip(noise.iter().cycle()) {
                *sample = (i16::from(*sample) + noise).clamp(0, 255) as u8;
            }
            prop_assert_eq!(read(&luma, width, width, height), Some(FrameCounter { counter, clock_ms: clock }));
            let (x, y) = (cell % 32 * 10, cell / 32 * 10);
            for line in y..y + 10 {
                for sample in &mut luma[line * width + x..line * width + x + 10] {
                    *sample = 251 - *sample.min(&mut 251);
                }
            }
            prop_assert_eq!(read(&luma, width, width, height), None);
        }
    }
}
