//! A figure as data: panels, axes, marks. [`draw`] makes SVG and PNG of it.
//!
//! Colours are those of Okabe and Ito, which people of every colour vision tell apart; nothing is said by colour alone.

mod draw;

pub(crate) use draw::{png, svg};

/// A whole figure.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figure {
    pub(crate) title: String,
    /// What it shows, in a sentence or two; a line each.
    pub(crate) subtitle: Vec<String>,
    /// How it was made.
    pub(crate) caption: String,
    /// Why its figures mean nothing, if they do not.
    pub(crate) invalid: Option<String>,
    pub(crate) rows: Vec<Row>,
}

/// Panels beside each other.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// Pixels.
    pub(crate) height: u32,
    pub(crate) panels: Vec<Panel>,
}

/// One pair of axes.
#[derive(Clone, Debug)]
pub(crate) struct Panel {
    /// Its share of the row's width.
    pub(crate) width: f64,
    pub(crate) title: String,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    /// Pixels at the right for the labels of [`Mark::Level`].
    pub(crate) margin: u32,
    pub(crate) marks: Vec<Mark>,
}

/// An axis.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    /// With its unit.
    pub(crate) label: String,
    pub(crate) from: f64,
    pub(crate) to: f64,
    /// Names of 0, 1, 2 …, in place of numbers.
    pub(crate) names: Vec<String>,
    /// Whether equal distances are equal ratios.
    pub(crate) log: bool,
}

impl Axis {
    pub(crate) fn new(label: &str, from: f64, to: f64) -> Axis {
        // An axis without extent cannot be drawn.
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

/// Something on a panel. Marks with a name are in its legend.
#[derive(Clone, Debug)]
pub(crate) enum Mark {
    /// A point each.
    Dots { name: String, colour: Colour, points: Vec<(f64, f64)>, radius: u32 },
    /// Joined points.
    Line { name: String, colour: Colour, points: Vec<(f64, f64)>, width: u32, dashed: bool },
    /// A horizontal line with a label at the right.
    Level { y: f64, colour: Colour, label: String },
    /// A vertical line with a label at its upper end.
    Event { x: f64, label: String },
    /// A shaded stretch with a label above it.
    Band { from: f64, to: f64, colour: Colour, label: String },
    /// Upright bars: position, height, and what to write above.
    Bars { name: String, colour: Colour, width: f64, bars: Vec<(f64, f64, String)> },
    /// Pieces of bars that stand on each other: position, lower and upper end, and what to write in it, if there is room. What has no height
    /// is not drawn, and what is written is above it.
    Pieces { name: String, colour: Colour, width: f64, pieces: Vec<(f64, f64, f64, String)> },
}

/// Red, green, blue.
pub(crate) type Colour = (u8, u8, u8);

pub(crate) const BLUE: Colour = (0, 114, 178);
pub(crate) const VERMILION: Colour = (213, 94, 0);
pub(crate) const GREEN: Colour = (0, 158, 115);
pub(crate) const ORANGE: Colour = (230, 159, 0);
pub(crate) const PURPLE: Colour = (204, 121, 167);
pub(crate) const INK: Colour = (38, 38, 38);
pub(crate) const GREY: Colour = (130, 130, 130);

/// For as many series as there are colours.
pub(crate) const PALETTE: [Colour; 4] = [BLUE, VERMILION, GREEN, ORANGE];
