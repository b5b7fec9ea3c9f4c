//! Text over the picture: statistics, keys, messages. Renders pixels only; the window draws them.
//!
//! The font is Hack, whose columns align; it is the descendant of DejaVu Sans Mono, which the player page names first where the system has none.

use ab_glyph::{Font, FontRef, Glyph, PxScale, ScaleFont, point};
use media::latency::LatencyComponent;

use crate::figures;
use crate::playback::PlaybackStatus;
use crate::stats::{Breakdown, StatsLine};
use crate::switches::Switch;

/// White text on a translucent background: 32-bit pixels, bytes in the order R, G, B, A.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Panel {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// `width * height * 4` bytes.
    pub pixels: Vec<u8>,
}

impl Panel {
    /// Draws lines of text, `size` pixels from line to line. Characters that the font lacks become `?`; long texts are cut.
    pub(super) fn text(lines: &[String], size: usize) -> Self {
        let size = size.clamp(MIN_SIZE, MAX_SIZE);
        let font = FontRef::try_from_slice(epaint_default_fonts::HACK_REGULAR).expect("the embedded font is a font");
        let font = font.into_scaled(PxScale::from(size as f32));
        let advance = font.h_advance(font.glyph_id('0'));
        let columns = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0).min(MAX_COLUMNS);
        let rows = lines.len().min(MAX_ROWS);
        let margin = size / 2;
        let (width, height) = ((columns as f32 * advance).ceil() as usize + 2 * margin, rows * size + 2 * margin);
        let mut panel = Self { width, height, pixels: GROUND.repeat(width * height) };
        for (row, line) in lines.iter().take(rows).enumerate() {
            let baseline = (margin + row * size) as f32 + (size as f32 + font.ascent() + font.descent()) / 2.0;
            for (column, character) in line.chars().take(columns).enumerate() {
                let id = match font.glyph_id(character) {
                    // The glyph of a missing character.
                    id if id.0 == 0 => font.glyph_id('?'),
                    id => id,
                };
                let position = point(margin as f32 + column as f32 * advance, baseline);
                panel.glyph(&font, id.with_scale_and_position(font.scale(), position));
            }
        }
        panel
    }

    fn glyph(&mut self, font: &impl ScaleFont<FontRef<'static>>, glyph: Glyph) {
        let Some(outline) = font.font().outline_glyph(glyph) else { return };
        let bounds = outline.px_bounds();
        outline.draw(|x, y, coverage| {
            let (x, y) = (bounds.min.x as i64 + i64::from(x), bounds.min.y as i64 + i64::from(y));
            let is_inside = (0..self.width as i64).contains(&x) && (0..self.height as i64).contains(&y);
            if let Some(pixel) = is_inside.then(|| (y as usize * self.width + x as usize) * 4)
                && let Some(pixel) = self.pixels.get_mut(pixel..pixel + 4)
            {
                // White over a translucent black, without premultiplied alpha.
                let (ink, ground) = (coverage.clamp(0.0, 1.0), f32::from(GROUND[3]) / 255.0);
                let alpha = ink + ground * (1.0 - ink);
                let white = (255.0 * ink / alpha).round() as u8;
                let drawn = [white, white, white, (255.0 * alpha).round() as u8];
                // Glyphs may overlap by a pixel: the brighter one stays.
                if drawn[3] > pixel[3] {
                    pixel.copy_from_slice(&drawn);
                }
            }
        });
    }
}

/// The keys, a line each.
pub(super) fn help() -> Vec<String> {
    KEYS.iter().map(|(key, what)| format!("{key:<12} {what}")).collect()
}

/// The statistics, as lines.
pub(super) fn statistics(
    line: &StatsLine,
    codecs: &[String],
    status: &PlaybackStatus,
    last: Option<&Switch>,
    sound: &str,
) -> Vec<String> {
    let time = |ms: u64| figures::time(ms as f64);
    let mut lines = vec![
        format!("source   {}", line.source),
        format!("state    {}", line.state),
        format!("codecs   {}", codecs.join(", ")),
        format!("pictures {} at {:.1} fps, speed {:.2}", line.pictures, line.fps, line.speed),
        format!(
            "buffer   {}, {} kB, target {}, jitter {}",
            time(line.buffer_ms),
            status.buffered_bytes / 1000,
            time(line.target_ms),
            time(line.jitter_ms)
        ),
        format!(
            "dropped  {} of {}, {} stalls",
            line.frames_dropped,
            line.pictures + line.frames_dropped,
            status.stalls
        ),
    ];
    lines.splice(4..4, latency(&line.latency_ms));
    if let Some(Switch { from, to, reason, lost, repeated, freeze, .. }) = last {
        let cost = freeze.map_or("?".to_owned(), |freeze| figures::time(freeze.as_secs_f64() * 1e3));
        lines.push(format!("switches {}, last from {from} to {to}", line.switches));
        lines.push(format!("         reason {}, {cost} freeze, {lost} pictures lost", reason.as_str()));
        lines.push(format!("         {repeated} duplicate units dropped"));
    }
    lines.push(format!("audio    {sound}"));
    lines
}

/// The total, and its components: first those up to arrival, then those in the viewer.
fn latency(latency: &Breakdown) -> Vec<String> {
    let total = latency.total.map_or("unknown".to_owned(), figures::time);
    let doubt = latency.uncertainty.map_or(String::new(), |ms| format!(" ± {} clock uncertainty", figures::bound(ms)));
    let mut lines = vec![format!("latency  {total}{doubt}")];
    let (there, here): (Vec<_>, Vec<_>) = latency.parts().partition(|(part, _)| *part <= LatencyComponent::LastMile);
    for parts in [there, here] {
        let words: Vec<String> = parts.into_iter().map(|(part, ms)| figures::component(part, ms)).collect();
        lines.extend((!words.is_empty()).then(|| format!("         {}", words.join(" + "))));
    }
    lines
}

const KEYS: [(&str, &str); 10] = [
    ("? or H", "show or hide these keys"),
    ("I", "statistics"),
    ("F, F11", "full screen"),
    ("double click", "full screen"),
    ("Space", "pause or resume"),
    ("L", "jump to the live edge"),
    ("Up, Down", "volume"),
    ("M", "mute"),
    ("1, 2", "original size, double size"),
    ("Q, Esc", "quit"),
];
/// Bounds the width of a panel, whatever the message.
const MAX_COLUMNS: usize = 120;
/// Bounds the height of a panel.
const MAX_ROWS: usize = 40;
/// Pixels from line to line: smaller text cannot be read, and larger text is no easier to read.
const MIN_SIZE: usize = 13;
const MAX_SIZE: usize = 48;
/// Dark enough to read white text on a white picture.
const GROUND: [u8; 4] = [0, 0, 0, 176];

#[cfg(test)]
mod tests {
    use super::*;

    /// The coverage of each pixel by ink, from 0 to 9, a line each.
    fn shown(panel: &Panel) -> Vec<String> {
        let digit = |pixel: &[u8]| char::from(b'0' + (u32::from(pixel[0]) * 9 / 255) as u8);
        panel.pixels.chunks(panel.width * 4).map(|row| row.chunks(4).map(digit).collect()).collect()
    }

    #[test]
    fn letters_have_shapes_with_soft_edges_in_columns_of_one_width() {
        let panel = Panel::text(&["Il.".to_owned(), "é±".to_owned()], 20);
        let rows = shown(&panel);
        // Three columns, two lines, and half a line around them.
        assert_eq!((panel.width, panel.height), (20 + 32, 20 + 40), "{rows:#?}");
        let ink = |row: &String| row.bytes().filter(|b| *b > b'0').count();
        assert!(
            rows.iter().take(10).all(|row| ink(row) == 0) && rows.iter().rev().take(10).all(|row| ink(row) == 0),
            "{rows:#?}"
        );
        let of_line = |from: usize| rows[from..from + 20].iter().map(ink).sum::<usize>();
        assert!(of_line(10) > 40 && of_line(30) > 40, "{rows:#?}");
        // Soft edges: some pixels are neither ink nor ground.
        assert!(rows.iter().any(|row| row.bytes().any(|b| (b'2'..b'8').contains(&b))), "{rows:#?}");
        // A stem is white.
        assert!(rows.iter().any(|row| row.contains('9')), "{rows:#?}");
        assert_ne!(Panel::text(&["漢".to_owned()], 20), Panel::text(&[" ".to_owned()], 20));
        assert_eq!(Panel::text(&["漢".to_owned()], 20), Panel::text(&["?".to_owned()], 20));
    }

    #[test]
    fn a_panel_is_bounded_whatever_the_text() {
        for lines in [vec![], vec![String::new()], vec!["x".repeat(10_000); 1000], vec!["é漢\u{0}".to_owned()]] {
            let panel = Panel::text(&lines, 99);
            assert_eq!(panel.pixels.len(), panel.width * panel.height * 4);
            assert!(panel.width <= (MAX_COLUMNS + 2) * MAX_SIZE && panel.height <= (MAX_ROWS + 1) * MAX_SIZE);
        }
    }
}
