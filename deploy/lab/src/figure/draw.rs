//! Rendering: plotters lays out axes and writes SVG; resvg renders it to PNG with a bundled font, so that it looks the same on every machine.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use plotters::backend::SVGBackend;
use plotters::chart::{ChartBuilder, ChartContext};
use plotters::coord::Shift;
use plotters::coord::cartesian::Cartesian2d;
use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::drawing::{DrawingArea, IntoDrawingArea};
use plotters::element::{Circle, PathElement, Rectangle, Text};
use plotters::prelude::{Color, IntoLogRange, RGBColor, ShapeStyle, WHITE};
use plotters::series::{DashedLineSeries, LineSeries};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontTransform, IntoFont, TextStyle};
use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg;

use super::{Axis, Colour, Figure, GREY, INK, Mark, Panel};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b, Y> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, Y>>;

/// Renders the figure as SVG.
pub(crate) fn svg(figure: &Figure) -> Result<String> {
    let head = HEAD + figure.subtitle.len() as u32 * LINE;
    let invalid = if figure.invalid.is_some() { LINE + 16 } else { 0 };
    let rows: u32 = figure.rows.iter().map(|row| row.height).sum();
    let height = head + invalid + rows + FOOT;
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, (WIDTH, height)).into_drawing_area();
        root.fill(&WHITE).map_err(failed)?;
        write(&root, &figure.title, (MARGIN, 22), 38, INK, HPos::Left)?;
        for (n, line) in figure.subtitle.iter().enumerate() {
            write(&root, line, (MARGIN, 74 + n as i32 * LINE as i32), 25, (80, 80, 80), HPos::Left)?;
        }
        if let Some(why) = &figure.invalid {
            let top = head as i32;
            let block = Rectangle::new(
                [(MARGIN, top), (WIDTH as i32 - MARGIN, top + LINE as i32 + 6)],
                fill((255, 226, 214), 1.0),
            );
            root.draw(&block).map_err(failed)?;
            write(&root, &format!("INVALID: {why}"), (MARGIN + 14, top + 5), 24, (160, 50, 0), HPos::Left)?;
        }
        let mut top = head + invalid;
        for row in &figure.rows {
            let share: f64 = row.panels.iter().map(|panel| panel.width).sum();
            let mut left = 0.0;
            for panel in &row.panels {
                let width = f64::from(WIDTH) * panel.width / share;
                let area = root.clone().shrink((left as u32, top), (width as u32, row.height));
                draw_panel(&root, &area, panel)?;
                left += width;
            }
            top += row.height;
        }
        write(&root, &figure.caption, (MARGIN, height as i32 - 44), 21, GREY, HPos::Left)?;
        root.present().map_err(failed)?;
    }
    Ok(text)
}

/// Renders the SVG as PNG, with the bundled font.
pub(crate) fn png(svg: &str) -> Result<Vec<u8>> {
    let mut options = usvg::Options { font_family: FAMILY.to_owned(), ..usvg::Options::default() };
    let fonts = Arc::make_mut(&mut options.fontdb);
    fonts.load_font_data(epaint_default_fonts::UBUNTU_LIGHT.to_vec());
    let family = fonts.faces().next().and_then(|face| face.families.first()).map(|(name, _)| name.clone());
    fonts.set_sans_serif_family(family.context("the typeface has no name")?);
    // The bundled font is light: an outline gives it a regular weight.
    let tree = usvg::Tree::from_str(&embolden(svg), &options).context("the figure is no SVG")?;
    let size = tree.size().to_int_size();
    let mut pixels = Pixmap::new(size.width(), size.height()).context("a figure without size")?;
    resvg::render(&tree, Transform::default(), &mut pixels.as_mut());
    pixels.encode_png().context("cannot encode the PNG")
}

fn embolden(svg: &str) -> String {
    let mut out = String::with_capacity(svg.len() + svg.len() / 8);
    for (n, piece) in svg.split("<text ").enumerate() {
        if n > 0 {
            let colour = piece.split_once("fill=\"").and_then(|(_, rest)| rest.split('"').next()).unwrap_or("#000000");
            out += &format!("<text stroke=\"{colour}\" stroke-width=\"0.7\" ");
        }
        out += piece;
    }
    out
}

fn draw_panel(root: &Area, area: &Area, panel: &Panel) -> Result<()> {
    let x = panel.x.from..panel.x.to;
    let y = panel.y.from..panel.y.to;
    let mut builder = ChartBuilder::on(area);
    builder
        .margin_top(TOP)
        .margin_right(panel.margin.max(30))
        .margin_left(14)
        .margin_bottom(14)
        .x_label_area_size(if panel.x.label.is_empty() { 48 } else { 74 })
        .y_label_area_size(104);
    if panel.y.log {
        on_axes(root, area, panel, builder.build_cartesian_2d(x, y.log_scale()).map_err(failed)?)
    } else {
        on_axes(root, area, panel, builder.build_cartesian_2d(x, y).map_err(failed)?)
    }
}

fn on_axes<Y>(root: &Area, area: &Area, panel: &Panel, mut chart: Chart<'_, '_, Y>) -> Result<()>
where
    Y: Ranged<ValueType = f64> + ValueFormatter<f64> + AsRangedCoord<CoordDescType = Y, Value = f64>,
{
    let pixel = |chart: &Chart<'_, '_, Y>, x: f64, y: f64| {
        let (x, y) = (x.clamp(panel.x.from, panel.x.to), y.clamp(panel.y.from, panel.y.to));
        chart.plotting_area().map_coordinate(&(x, y))
    };
    for mark in &panel.marks {
        if let Mark::Band { from, to, colour, .. } = mark {
            let corners = [(*from, panel.y.from), (*to, panel.y.to)];
            chart.draw_series([Rectangle::new(corners, fill(*colour, 0.10))]).map_err(failed)?;
        }
    }
    mesh(&mut chart, panel)?;
    for mark in &panel.marks {
        draw_mark(&mut chart, panel, mark)?;
    }
    // Text is drawn last, on top of everything.
    let mut levels = Vec::new();
    for mark in &panel.marks {
        match mark {
            Mark::Band { from, to, label, .. } => {
                let ((left, top), (right, _)) = (pixel(&chart, *from, panel.y.to), pixel(&chart, *to, panel.y.to));
                write(root, label, ((left + right) / 2, top + 6), 23, (70, 70, 70), HPos::Center)?;
            }
            Mark::Event { x, label } => {
                let (left, top) = pixel(&chart, *x, panel.y.to);
                for (n, line) in label.split('\n').enumerate() {
                    write(root, line, (left + 8, top + 34 + n as i32 * 28), 22, INK, HPos::Left)?;
                }
            }
            Mark::Level { y, colour, label } => levels.push((pixel(&chart, panel.x.to, *y), *colour, label)),
            Mark::Bars { colour, bars, .. } => {
                for (x, y, label) in bars {
                    let (left, top) = pixel(&chart, *x, *y);
                    write(root, label, (left, top - 30), 21, *colour, HPos::Center)?;
                }
            }
            Mark::Pieces { pieces, .. } => {
                for (x, from, to, label) in pieces {
                    let ((left, bottom), (_, top)) = (pixel(&chart, *x, *from), pixel(&chart, *x, *to));
                    if from == to {
                        write(root, label, (left, top - 30), 23, INK, HPos::Center)?;
                    } else if bottom - top >= LINE as i32 - 8 {
                        write(root, label, (left, (top + bottom) / 2 - 12), 21, (255, 255, 255), HPos::Center)?;
                    }
                }
            }
            _ => {}
        }
    }
    // Overlapping labels of levels are moved apart, from top to bottom.
    levels.sort_by_key(|((_, y), ..)| *y);
    let mut free = i32::MIN;
    for ((x, y), colour, label) in levels {
        let y = (y - 12).max(free);
        free = y + 27;
        write(root, label, (x + 10, y), 22, colour, HPos::Left)?;
    }
    legend(root, area, panel)
}

fn mesh<Y>(chart: &mut Chart<'_, '_, Y>, panel: &Panel) -> Result<()>
where
    Y: Ranged<ValueType = f64> + ValueFormatter<f64> + AsRangedCoord<CoordDescType = Y, Value = f64>,
{
    let label = |axis: &Axis, value: f64| match axis.names.get(value.round() as usize) {
        Some(name) if (value - value.round()).abs() < 1e-6 && value > -0.5 => name.clone(),
        _ if !axis.names.is_empty() => String::new(),
        _ => number(value),
    };
    let (x, y) = (|value: &f64| label(&panel.x, *value), |value: &f64| label(&panel.y, *value));
    let ticks = |axis: &Axis, usual: usize| if axis.names.is_empty() { usual } else { axis.names.len() * 2 + 1 };
    let colour = RGBColor(80, 80, 80);
    let mut mesh = chart.configure_mesh();
    mesh.light_line_style(WHITE.mix(0.0))
        .bold_line_style(RGBColor(0, 0, 0).mix(0.10))
        .axis_style(RGBColor(120, 120, 120))
        .x_labels(ticks(&panel.x, 10))
        .y_labels(ticks(&panel.y, 8))
        .x_label_formatter(&x)
        .y_label_formatter(&y)
        .label_style(("sans-serif", 23).into_font().color(&colour))
        .axis_desc_style(("sans-serif", 24).into_font().color(&colour))
        .x_desc(panel.x.label.clone())
        .y_desc(panel.y.label.clone());
    if !panel.x.names.is_empty() {
        mesh.disable_x_mesh();
    }
    mesh.draw().map_err(failed)
}

fn draw_mark<Y>(chart: &mut Chart<'_, '_, Y>, panel: &Panel, mark: &Mark) -> Result<()>
where
    Y: Ranged<ValueType = f64> + ValueFormatter<f64> + AsRangedCoord<CoordDescType = Y, Value = f64>,
{
    let inside =
        |(x, y): &(f64, f64)| (panel.x.from..=panel.x.to).contains(x) && (panel.y.from..=panel.y.to).contains(y);
    match mark {
        Mark::Dots { colour, points, radius, .. } => {
            let dots = points.iter().filter(|p| inside(p)).map(|p| Circle::new(*p, *radius, fill(*colour, 0.75)));
            chart.draw_series(dots).map_err(failed)?;
        }
        Mark::Line { colour, points, width, dashed, .. } => {
            let style = rgb(*colour).stroke_width(*width);
            let points = points.iter().map(|(x, y)| (*x, y.clamp(panel.y.from, panel.y.to)));
            if *dashed {
                chart.draw_series(DashedLineSeries::new(points, 9, 7, style)).map_err(failed)?;
            } else {
                chart.draw_series(LineSeries::new(points, style)).map_err(failed)?;
            }
        }
        Mark::Level { y, colour, .. } => {
            let ends = [(panel.x.from, *y), (panel.x.to, *y)];
            let style = rgb(*colour).stroke_width(2);
            chart.draw_series(DashedLineSeries::new(ends, 9, 7, style)).map_err(failed)?;
        }
        Mark::Event { x, .. } => {
            let ends = vec![(*x, panel.y.from), (*x, panel.y.to)];
            chart.draw_series([PathElement::new(ends, rgb(INK).stroke_width(2))]).map_err(failed)?;
        }
        Mark::Bars { colour, width, bars, .. } => {
            let bar = |(x, y, _): &(f64, f64, String)| {
                let top = y.clamp(panel.y.from, panel.y.to);
                Rectangle::new([(x - width / 2.0, panel.y.from), (x + width / 2.0, top)], fill(*colour, 0.85))
            };
            chart.draw_series(bars.iter().map(bar)).map_err(failed)?;
        }
        Mark::Pieces { colour, width, pieces, .. } => {
            let end = |y: f64| y.clamp(panel.y.from, panel.y.to);
            let tall = pieces.iter().filter(|(_, from, to, _)| to > from);
            let piece = |(x, from, to, _): &(f64, f64, f64, String)| {
                Rectangle::new([(x - width / 2.0, end(*from)), (x + width / 2.0, end(*to))], fill(*colour, 1.0))
            };
            chart.draw_series(tall.map(piece)).map_err(failed)?;
        }
        Mark::Band { .. } => {}
    }
    Ok(())
}

/// The panel's title, and the legend below it.
fn legend(root: &Area, area: &Area, panel: &Panel) -> Result<()> {
    let (left, top) = area.get_base_pixel();
    let mut x = left + 118;
    write(root, &panel.title, (x, top + 14), 27, INK, HPos::Left)?;
    let y = top + 60;
    for mark in &panel.marks {
        let (name, colour) = match mark {
            Mark::Dots { name, colour, .. }
            | Mark::Line { name, colour, .. }
            | Mark::Bars { name, colour, .. }
            | Mark::Pieces { name, colour, .. } => (name, colour),
            _ => continue,
        };
        if name.is_empty() {
            continue;
        }
        match mark {
            Mark::Line { dashed, .. } => {
                let ends: &[[i32; 2]] = if *dashed { &[[0, 10], [16, 26]] } else { &[[0, 26]] };
                for [from, to] in ends {
                    let piece = vec![(x + from, y + 12), (x + to, y + 12)];
                    root.draw(&PathElement::new(piece, rgb(*colour).stroke_width(4))).map_err(failed)?;
                }
            }
            Mark::Bars { .. } | Mark::Pieces { .. } => {
                root.draw(&Rectangle::new([(x, y + 3), (x + 26, y + 21)], fill(*colour, 0.85))).map_err(failed)?;
            }
            _ => root.draw(&Circle::new((x + 14, y + 12), 7, fill(*colour, 1.0))).map_err(failed)?,
        }
        write(root, name, (x + 36, y), 23, (60, 60, 60), HPos::Left)?;
        x += 36 + (name.chars().count() as f64 * 9.9) as i32 + 30;
    }
    Ok(())
}

fn write(root: &Area, text: &str, at: (i32, i32), size: i32, colour: Colour, side: HPos) -> Result<()> {
    let colour = rgb(colour);
    let style = TextStyle::from(("sans-serif", size).into_font().transform(FontTransform::None))
        .color(&colour)
        .pos(Pos::new(side, VPos::Top));
    root.draw(&Text::new(text.to_owned(), at, style)).map_err(failed)
}

/// Without trailing zeros: `0.5`, `20`, `1500`.
fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn rgb(colour: Colour) -> RGBColor {
    RGBColor(colour.0, colour.1, colour.2)
}

fn fill(colour: Colour, opacity: f64) -> ShapeStyle {
    rgb(colour).mix(opacity).filled()
}

/// Converts the backend's generic error types.
fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("cannot draw: {error}")
}

/// Width in pixels: twice the displayed width, so that whole pixels are fine enough.
const WIDTH: u32 = 1800;
const MARGIN: i32 = 36;
/// Height of the title, pixels.
const HEAD: u32 = 84;
/// Height of a line of the subtitle, pixels.
const LINE: u32 = 34;
/// Height of a panel's title and legend, pixels.
const TOP: u32 = 100;
/// Height of the caption, pixels.
const FOOT: u32 = 66;
/// The font family in plotters' SVG.
const FAMILY: &str = "sans-serif";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::{BLUE, Row, VERMILION};

    fn panel(log: bool) -> Panel {
        let mut y = Axis::new("delay in ms", 1.0, 100.0);
        y.log = log;
        let points: Vec<(f64, f64)> = (0..100).map(|n| (f64::from(n) / 10.0, f64::from(n) + 1.0)).collect();
        Panel {
            width: 1.0,
            title: "a <title> & more".into(),
            x: Axis::new("seconds", 0.0, 10.0),
            y,
            margin: 200,
            marks: vec![
                Mark::Band { from: 2.0, to: 4.0, colour: BLUE, label: "band".into() },
                Mark::Dots { name: "dots".into(), colour: BLUE, points: points.clone(), radius: 3 },
                Mark::Line { name: "line".into(), colour: VERMILION, points, width: 3, dashed: true },
                Mark::Level { y: 50.0, colour: INK, label: "floor".into() },
                Mark::Event { x: 5.0, label: "now".into() },
                Mark::Bars { name: "bars".into(), colour: GREY, width: 0.5, bars: vec![(9.0, 30.0, "30".into())] },
                Mark::Pieces {
                    name: "pieces".into(),
                    colour: GREY,
                    width: 0.5,
                    pieces: vec![
                        (7.0, 1.0, 60.0, "within".into()),
                        (7.0, 60.0, 60.5, "too thin".into()),
                        (7.0, 61.0, 61.0, "in all".into()),
                    ],
                },
            ],
        }
    }

    #[test]
    fn every_mark_is_drawn_as_svg_and_as_pixels() {
        let figure = Figure {
            title: "Title".into(),
            subtitle: vec!["subtitle".into()],
            caption: "lab run x".into(),
            invalid: Some("late".into()),
            rows: vec![
                Row { height: 400, panels: vec![panel(false), panel(true)] },
                Row { height: 300, panels: vec![panel(false)] },
            ],
        };
        let svg = svg(&figure).unwrap();
        for wanted in [
            "Title",
            "subtitle",
            "lab run x",
            "INVALID: late",
            "&lt;title&gt; &amp; more",
            "seconds",
            "floor",
            "now",
            "dots",
            "pieces",
            "within",
            "in all",
        ] {
            assert!(svg.contains(wanted), "{wanted}");
        }
        assert!(!svg.contains("too thin"));
        assert!(svg.matches("<circle").count() > 200);
        let png = png(&svg).unwrap();
        let decoded = Pixmap::decode_png(&png).unwrap();
        assert_eq!(decoded.width(), WIDTH);
        // The area of the title is not all white, so text was rendered.
        let is_inked = (40..200).any(|x| (20..60).any(|y| decoded.pixel(x, y).is_some_and(|p| p.red() < 128)));
        assert!(is_inked, "the title is not there");
    }

    #[test]
    fn axis_numbers_have_no_trailing_zeros() {
        for (value, text) in [(0.0, "0"), (0.5, "0.5"), (20.0, "20"), (1500.0, "1500"), (0.25, "0.25")] {
            assert_eq!(number(value), text);
        }
    }
}
