//! Text over the picture: statistics, keys, messages. Renders pixels only; the window draws them.

use font8x8::UnicodeFonts;
use media::latency::LatencyComponent;

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
    /// Draws lines of text, each pixel of the font `scale` pixels wide. Characters that the font lacks become `?`; long texts are cut.
    pub(super) fn text(lines: &[String], scale: usize) -> Self {
        let scale = scale.clamp(1, MAX_SCALE);
        let columns = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0).min(MAX_COLUMNS);
        let rows = lines.len().min(MAX_ROWS);
        let (cell, leading) = (GLYPH * scale, LEADING * scale);
        let (width, height) =
            (columns * cell + 2 * cell, rows * (cell + leading) + 2 * cell - leading.min(rows * leading));
        let mut panel = Self { width, height, pixels: GROUND.repeat(width * height) };
        for (row, line) in lines.iter().take(rows).enumerate() {
            for (column, character) in line.chars().take(columns).enumerate() {
                panel.glyph(character, cell + column * cell, cell + row * (cell + leading), scale);
            }
        }
        panel
    }

    fn glyph(&mut self, character: char, x: usize, y: usize, scale: usize) {
        let glyph = font8x8::BASIC_FONTS.get(character).or_else(|| font8x8::LATIN_FONTS.get(character));
        let glyph = glyph.or_else(|| font8x8::BASIC_FONTS.get('?')).unwrap_or_default();
        for (dy, bits) in glyph.iter().enumerate() {
            for dx in (0..GLYPH).filter(|dx| bits >> dx & 1 == 1) {
                for line in 0..scale {
                    let start = ((y + dy * scale + line) * self.width + x + dx * scale) * 4;
                    if let Some(run) = self.pixels.get_mut(start..start + scale * 4) {
                        run.copy_from_slice(&INK.repeat(scale));
                    }
                }
            }
        }
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
    let mut lines = vec![
        format!("source   {}", line.source),
        format!("state    {}", line.state),
        format!("codec    {}", codecs.join(", ")),
        format!("frames   {} at {:.1} fps, speed {:.2}", line.pictures, line.fps, line.speed),
        format!(
            "buffer   {} ms, {} kB, target {} ms, jitter {} ms",
            line.buffer_ms,
            status.buffered_bytes / 1000,
            line.target_ms,
            line.jitter_ms
        ),
        format!("dropped  {} late or skipped, {} stalls", line.frames_dropped, status.stalls),
    ];
    lines.splice(4..4, latency(&line.latency_ms));
    if let Some(Switch { from, to, reason, lost, repeated, freeze, .. }) = last {
        let cost = freeze.map_or("?".to_owned(), |freeze| freeze.as_millis().to_string());
        lines.push(format!("switches {}, last from {from} to {to}", line.switches));
        lines.push(format!("         reason {}, {cost} ms freeze, {lost} pictures lost", reason.as_str()));
        lines.push(format!("         {repeated} duplicate units dropped"));
    }
    lines.push(format!("audio    {sound}"));
    lines
}

/// The total, and its components: first those up to arrival, then those in the viewer.
fn latency(latency: &Breakdown) -> Vec<String> {
    let total = latency.total.map_or("-".to_owned(), |ms| format!("{ms:.0}"));
    // A bound must not be rounded down.
    let doubt = latency.uncertainty.map_or(String::new(), |ms| format!(" (+- {:.0} clock uncertainty)", ms.ceil()));
    let mut lines = vec![format!("latency  {total} ms{doubt}")];
    let words = |part: LatencyComponent, ms: f64| format!("{} {ms:.0}", part.name().replace('_', " "));
    let (there, here): (Vec<_>, Vec<_>) = latency.parts().partition(|(part, _)| *part <= LatencyComponent::LastMile);
    for parts in [there, here] {
        let words: Vec<String> = parts.into_iter().map(|(part, ms)| words(part, ms)).collect();
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
/// Width and height of a glyph in the font's pixels.
const GLYPH: usize = 8;
/// The font's pixels between two lines of text.
const LEADING: usize = 3;
/// Bounds the width of a panel, whatever the message.
const MAX_COLUMNS: usize = 120;
/// Bounds the height of a panel.
const MAX_ROWS: usize = 40;
/// Bounds the scale: larger glyphs are no easier to read.
const MAX_SCALE: usize = 8;
const INK: [u8; 4] = [255, 255, 255, 255];
/// Dark enough to read white text on a white picture.
const GROUND: [u8; 4] = [0, 0, 0, 176];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_is_drawn() {
        let panel = Panel::text(&["I".to_owned()], 1);
        assert_eq!((panel.width, panel.height), (24, 24));
        let rows: Vec<String> = panel
            .pixels
            .chunks(24 * 4)
            .skip(8)
            .take(8)
            .map(|row| row.chunks(4).skip(8).take(8).map(|p| if p == INK { '#' } else { '.' }).collect())
            .collect();
        assert_eq!(
            rows,
            ["..####..", "...##...", "...##...", "...##...", "...##...", "...##...", "..####..", "........"]
                .map(|r: &str| r.replace("..####..", ".####...").replace("...##...", "..##...."))
        );
    }

    #[test]
    fn a_panel_is_bounded_whatever_the_text() {
        for lines in [vec![], vec![String::new()], vec!["x".repeat(10_000); 1000], vec!["é漢\u{0}".to_owned()]] {
            let panel = Panel::text(&lines, 99);
            assert_eq!(panel.pixels.len(), panel.width * panel.height * 4);
            assert!(panel.width <= (MAX_COLUMNS + 2) * GLYPH * MAX_SCALE);
        }
    }
}
