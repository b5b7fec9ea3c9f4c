//! A figure as data: panels, axes, marks. [`draw`] renders it as SVG and PNG.
//!
//! The palette is Okabe and Ito's, which is safe for all kinds of colour vision; no information is in the colour alone.

mod draw;

pub(crate) use draw::{png, svg};

/// A figure: title, subtitle, rows of panels, caption.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figure {
    pub(crate) title: String,
    /// Lines of explanation.
    pub(crate) subtitle: Vec<String>,
    /// The command that reproduces it.
    pub(crate) caption: String,
    /// Why the run is invalid, if it is; shown as a red banner.
    pub(crate) invalid: Option<String>,
    pub(crate) rows: Vec<Row>,
}

/// Panels side by side.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// Height in pixels.
    pub(crate) height: u32,
    pub(crate) panels: Vec<Panel>,
}

/// One pair of axes.
#[derive(Clone, Debug)]
pub(crate) struct Panel {
    /// Relative width within the row.
    pub(crate) width: f64,
    pub(crate) title: String,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    /// Pixels at the right for the labels of [`Mark::Level`].
    pub(crate) margin: u32,
    pub(crate) marks: Vec<Mark>,
}

/// An axis: a range of numbers, or names.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    /// The label, with its unit.
    pub(crate) label: String,
    pub(crate) from: f64,
    pub(crate) to: f64,
    /// Names for the values 0, 1, 2 …, instead of numbers.
    pub(crate) names: Vec<String>,
    /// Whether the scale is logarithmic.
    pub(crate) log: bool,
}

impl Axis {
    pub(crate) fn new(label: &str, from: f64, to: f64) -> Axis {
        // plotters cannot draw an empty range.
        Axis { label: label.to_owned(), from, to: to.max(from + 1e-3), names: Vec::new(), log: false }
    }

    pub(crate) fn log(self) -> Axis {
        Axis { log: true, ..self }
    }

    pub(crate) fn named(label: &str, names: &[String]) -> Axis {
        let names = names.to_vec();
        Axis { names: names.clone(), ..Axis::new(label, -0.5, names.len() as f64 - 0.5) }
    }
}

/// An element of a panel. Marks with a name appear in its legend.
#[derive(Clone, Debug)]
pub(crate) enum Mark {
    /// Points without connecting lines.
    Dots { name: String, colour: Colour, points: Vec<(f64, f64)>, radius: u32 },
    /// Points connected by a line.
    Line { name: String, colour: Colour, points: Vec<(f64, f64)>, width: u32, dashed: bool },
    /// A horizontal line with a label at the right.
    Level { y: f64, colour: Colour, label: String },
    /// A vertical line with a label at its upper end.
    Event { x: f64, label: String },
    /// A shaded range of x with a label at its top.
    Band { from: f64, to: f64, colour: Colour, label: String },
    /// Vertical bars: position, height, and the text above.
    Bars { name: String, colour: Colour, width: f64, bars: Vec<(f64, f64, String)> },
    /// Stacked bars: position, lower and upper end, and the text inside if it fits. A piece without height is not drawn; its text is above
    /// that position.
    Pieces { name: String, colour: Colour, width: f64, pieces: Vec<(f64, f64, f64, String)> },
}

/// Red, green, blue, 0 to 255.
pub(crate) type Colour = (u8, u8, u8);

pub(crate) const BLUE: Colour = (0, 114, 178);
pub(crate) const VERMILION: Colour = (213, 94, 0);
pub(crate) const GREEN: Colour = (0, 158, 115);
pub(crate) const ORANGE: Colour = (230, 159, 0);
pub(crate) const PURPLE: Colour = (204, 121, 167);
pub(crate) const INK: Colour = (38, 38, 38);
pub(crate) const GREY: Colour = (130, 130, 130);

/// Colours for up to four series.
pub(crate) const PALETTE: [Colour; 4] = [BLUE, VERMILION, GREEN, ORANGE];
