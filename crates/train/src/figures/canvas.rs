//! Panels of lines over a light grid, legends beside them, and the way from SVG to PNG.

use std::ops::Range;
use std::sync::{Arc, LazyLock};

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use resvg::{tiny_skia, usvg};

use super::FigureError;

/// The first family is the one that PNGs have; others see the SVG where it is not installed.
const FONT: &str = "DejaVu Sans, Verdana, sans-serif";
/// Dots of the PNG for a pixel, along each side.
const SCALE: f32 = 2.0;
/// Plotters knows whole units only; a pixel has so many of them, lest curves have steps.
const UNITS: u32 = 8;
/// Plotters writes a font of size 1.24 as one of 1.
const POINT: f64 = 1.24;

pub(super) const INK: RGBColor = RGBColor(0x22, 0x26, 0x2b);
pub(super) const GREY: RGBColor = RGBColor(0x8a, 0x8f, 0x98);
const GRID: RGBColor = RGBColor(0xe6, 0xe8, 0xec);

/// Colours that the colour-blind tell apart, by Okabe and Ito (2008), without black and yellow.
pub(super) const COLORS: [RGBColor; 6] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
];

/// What tells lines apart besides their colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Marker {
    None,
    Circle,
    Square,
    Triangle,
    Diamond,
    Cross,
    Ring,
}

/// In the order of [`COLORS`].
pub(super) const MARKERS: [Marker; 6] =
    [Marker::Circle, Marker::Square, Marker::Triangle, Marker::Diamond, Marker::Cross, Marker::Ring];

#[derive(Debug, Clone, Copy)]
pub(super) struct Stroke {
    pub color: RGBColor,
    pub width: u32,
    pub dashed: bool,
    pub marker: Marker,
}

impl Stroke {
    /// One of many: by colour and marker, dashed from the seventh on, with other markers from the thirteenth on.
    pub fn of(index: usize) -> Self {
        let place = index % COLORS.len();
        let marker = MARKERS[(place + index / (2 * COLORS.len())) % MARKERS.len()];
        Stroke { color: COLORS[place], width: 2, dashed: index / COLORS.len() % 2 == 1, marker }
    }
}

/// A line, and the band around it if there is one.
#[derive(Debug)]
pub(super) struct Line {
    pub stroke: Stroke,
    pub points: Vec<(f64, f64)>,
    /// x, from, to.
    pub band: Vec<(f64, f64, f64)>,
    /// Markers on every so many points.
    pub marked: usize,
}

#[derive(Debug)]
pub(super) struct Axis {
    pub name: String,
    pub range: Range<f64>,
    pub ticks: Vec<(f64, String)>,
}

#[derive(Debug)]
pub(super) struct Panel {
    pub title: String,
    pub x: Axis,
    pub y: Axis,
    pub lines: Vec<Line>,
}

pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Pixels in the units of the drawing.
pub(super) fn px(pixels: u32) -> u32 {
    pixels * UNITS
}

fn units(pixels: i32) -> i32 {
    pixels * UNITS as i32
}

/// A drawing of `width` x `height` pixels as SVG.
pub(super) fn svg(
    (width, height): (u32, u32),
    draw: impl FnOnce(&Area) -> Result<(), FigureError>,
) -> Result<String, FigureError> {
    let mut drawing = String::new();
    {
        let area = SVGBackend::with_string(&mut drawing, (px(width), px(height))).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        draw(&area)?;
        area.present().map_err(failed)?;
    }
    // Its size in pixels; the view box stays in units.
    let whole = format!("<svg width=\"{}\" height=\"{}\"", px(width), px(height));
    let body = drawing.strip_prefix(&whole).ok_or_else(|| failed("its first tag is not the expected one"))?;
    Ok(format!("<svg width=\"{width}\" height=\"{height}\"{body}"))
}

fn failed(error: impl std::fmt::Display) -> FigureError {
    FigureError::Drawing(error.to_string())
}

static FONTS: LazyLock<Arc<usvg::fontdb::Database>> = LazyLock::new(|| {
    let mut fonts = usvg::fontdb::Database::new();
    fonts.load_font_data(dejavu::sans::regular().to_vec());
    fonts.load_font_data(dejavu::sans::bold().to_vec());
    Arc::new(fonts)
});

fn tree(svg: &str) -> Result<usvg::Tree, FigureError> {
    let options = usvg::Options { fontdb: Arc::clone(&FONTS), ..Default::default() };
    usvg::Tree::from_str(svg, &options).map_err(failed)
}

/// The drawing in dots.
pub(super) fn png(svg: &str) -> Result<Vec<u8>, FigureError> {
    let tree = tree(svg)?;
    let size = tree.size().to_int_size().scale_by(SCALE).ok_or_else(|| failed("its size is zero"))?;
    let mut dots =
        tiny_skia::Pixmap::new(size.width(), size.height()).ok_or_else(|| failed("it is too large for a PNG"))?;
    resvg::render(&tree, tiny_skia::Transform::from_scale(SCALE, SCALE), &mut dots.as_mut());
    dots.encode_png().map_err(failed)
}

/// Text of `size` pixels; `place` of it is at (x, y).
pub(super) fn text(
    area: &Area,
    text: &str,
    size: u32,
    color: RGBColor,
    (x, y): (i32, i32),
    place: (HPos, VPos),
) -> Result<(), FigureError> {
    let style = (FONT, font_size(size)).into_font().color(&color).pos(Pos::new(place.0, place.1));
    area.draw(&Text::new(text.to_owned(), (units(x), units(y)), style)).map_err(failed)
}

/// The same in bold, from its left end.
pub(super) fn heading(area: &Area, text: &str, size: u32, (x, y): (i32, i32)) -> Result<(), FigureError> {
    let font = FontDesc::new(FontFamily::Name(FONT), font_size(size), FontStyle::Bold);
    let style = font.color(&INK).pos(Pos::new(HPos::Left, VPos::Center));
    area.draw(&Text::new(text.to_owned(), (units(x), units(y)), style)).map_err(failed)
}

fn font_size(pixels: u32) -> f64 {
    f64::from(px(pixels)) * POINT
}

/// Width of a text in pixels.
pub(super) fn width(text: &str, size: u32) -> Result<u32, FigureError> {
    let mut drawing = String::new();
    {
        let area = SVGBackend::with_string(&mut drawing, (1, 1)).into_drawing_area();
        let style = (FONT, f64::from(size) * POINT).into_font().color(&INK);
        area.draw(&Text::new(text.to_owned(), (0, 0), style)).map_err(failed)?;
        area.present().map_err(failed)?;
    }
    Ok(tree(&drawing)?.root().abs_bounding_box().right().max(0.0).ceil() as u32)
}

/// A short line in the middle of which is the marker, and the name 40 pixels right of `x`.
pub(super) fn legend_entry(
    area: &Area,
    size: u32,
    (x, y): (i32, i32),
    stroke: &Stroke,
    name: &str,
) -> Result<(), FigureError> {
    draw_line(area, stroke, vec![(units(x), units(y)), (units(x + 30), units(y))])?;
    mark(area, stroke, (units(x + 15), units(y)))?;
    text(area, name, size, INK, (x + 40, y), (HPos::Left, VPos::Center))
}

/// Along a line, whole or in dashes.
fn draw_line(area: &Area, stroke: &Stroke, path: Vec<(i32, i32)>) -> Result<(), FigureError> {
    let style = stroke.color.stroke_width(px(stroke.width));
    if stroke.dashed {
        area.draw(&DashedPathElement::new(path, px(6), px(4), style)).map_err(failed)
    } else {
        area.draw(&PathElement::new(path, style)).map_err(failed)
    }
}

/// Pixels around the plot of a panel: below the title or the area's end, right, below, left.
const ABOVE: u32 = 40;
const ABOVE_UNTITLED: u32 = 14;
const RIGHT: u32 = 18;
const BELOW: u32 = 54;
const LEFT: u32 = 70;
const LABEL: u32 = 12;

pub(super) fn panel(area: &Area, panel: &Panel) -> Result<(), FigureError> {
    let above = if panel.title.is_empty() { ABOVE_UNTITLED } else { ABOVE };
    let plot = area.margin(px(above), px(BELOW), px(LEFT), px(RIGHT));
    let (columns, rows) = plot.dim_in_pixel();
    let (columns, rows) = (columns as i32, rows as i32);
    let coordinates = Cartesian2d::<RangedCoordf64, RangedCoordf64>::new(
        panel.x.range.clone(),
        panel.y.range.clone(),
        (0..columns, rows..0),
    );
    let at = |x: f64, y: f64| coordinates.translate(&(x, y));
    // Labels lie outside of the plot, which draws nothing there.
    let label = |text: &str, (x, y): (i32, i32), place: (HPos, VPos), turn: FontTransform| {
        let style = (FONT, font_size(LABEL)).into_font().transform(turn).color(&INK).pos(Pos::new(place.0, place.1));
        let corner = (px(LEFT) as i32, px(above) as i32);
        area.draw(&Text::new(text.to_owned(), (corner.0 + x, corner.1 + y), style)).map_err(failed)
    };
    heading(area, &panel.title, 14, (LEFT as i32, above as i32 / 2))?;
    let grid = GRID.stroke_width(px(1));
    for (x, text) in &panel.x.ticks {
        let (column, _) = at(*x, panel.y.range.start);
        plot.draw(&PathElement::new([(column, 0), (column, rows)], grid)).map_err(failed)?;
        label(text, (column, rows + units(7)), (HPos::Center, VPos::Top), FontTransform::None)?;
    }
    for (y, text) in &panel.y.ticks {
        let (_, row) = at(panel.x.range.start, *y);
        plot.draw(&PathElement::new([(0, row), (columns, row)], grid)).map_err(failed)?;
        label(text, (units(-8), row), (HPos::Right, VPos::Center), FontTransform::None)?;
    }
    let middle = (HPos::Center, VPos::Center);
    label(&panel.x.name, (columns / 2, rows + units(36)), middle, FontTransform::None)?;
    label(&panel.y.name, (units(16 - LEFT as i32), rows / 2), middle, FontTransform::Rotate270)?;
    for line in &panel.lines {
        let forth = line.band.iter().map(|(x, from, _)| at(*x, *from));
        let back = line.band.iter().rev().map(|(x, _, to)| at(*x, *to));
        let outline: Vec<_> = forth.chain(back).collect();
        if !outline.is_empty() {
            plot.draw(&Polygon::new(outline, line.stroke.color.mix(0.16))).map_err(failed)?;
        }
    }
    for line in &panel.lines {
        for piece in within(&line.points, &panel.y.range) {
            draw_line(&plot, &line.stroke, piece.into_iter().map(|(x, y)| at(x, y)).collect())?;
        }
        let inside = |(_, y): &&(f64, f64)| panel.y.range.start <= *y && *y <= panel.y.range.end;
        for (x, y) in line.points.iter().step_by(line.marked.max(1)).filter(inside) {
            mark(&plot, &line.stroke, at(*x, *y))?;
        }
    }
    let corners = [(0, 0), (columns, 0), (columns, rows), (0, rows), (0, 0)];
    plot.draw(&PathElement::new(corners, GREY.stroke_width(px(1)))).map_err(failed)
}

/// A marker at a place in units.
fn mark(area: &Area, stroke: &Stroke, at: (i32, i32)) -> Result<(), FigureError> {
    let fill = stroke.color.filled();
    let polygon = |corners: &[(i32, i32)]| {
        let corners = corners.iter().map(|(x, y)| (at.0 + units(*x), at.1 + units(*y)));
        Polygon::new(corners.collect::<Vec<_>>(), fill)
    };
    let radius = px(4);
    let outline = stroke.color.stroke_width(px(2));
    match stroke.marker {
        Marker::None => Ok(()),
        Marker::Circle => area.draw(&Circle::new(at, radius, fill)),
        Marker::Square => area.draw(&polygon(&[(-4, -4), (4, -4), (4, 4), (-4, 4)])),
        Marker::Triangle => area.draw(&polygon(&[(0, -5), (5, 4), (-5, 4)])),
        Marker::Diamond => area.draw(&polygon(&[(0, -6), (5, 0), (0, 6), (-5, 0)])),
        Marker::Cross => area.draw(&Cross::new(at, radius, outline)),
        Marker::Ring => area
            .draw(&Circle::new(at, radius, WHITE.filled()))
            .and_then(|()| area.draw(&Circle::new(at, radius, outline))),
    }
    .map_err(failed)
}

/// The pieces of a line that lie within `range`, ended on its bounds.
fn within(points: &[(f64, f64)], range: &Range<f64>) -> Vec<Vec<(f64, f64)>> {
    let mut pieces = Vec::new();
    let mut piece: Vec<(f64, f64)> = Vec::new();
    let inside = |y: f64| range.start <= y && y <= range.end;
    for (index, &(x, y)) in points.iter().enumerate() {
        let before = index.checked_sub(1).map(|index| points[index]);
        if let Some((x0, y0)) = before.filter(|(_, y0)| inside(*y0) != inside(y)) {
            let outer = if inside(y) { y0 } else { y };
            let bound = outer.clamp(range.start, range.end);
            piece.push((x0 + (x - x0) * (bound - y0) / (y - y0), bound));
        }
        if inside(y) {
            piece.push((x, y));
        } else if !piece.is_empty() {
            pieces.push(std::mem::take(&mut piece));
        }
    }
    pieces.push(piece);
    pieces.retain(|piece| piece.len() > 1);
    pieces
}

/// Round numbers within `range`, about `count`, with the decimals they need.
pub(super) fn round_ticks(range: &Range<f64>, count: usize) -> Vec<(f64, String)> {
    let step = round_step((range.end - range.start) / count.max(1) as f64);
    let decimals = (-step.log10().floor()).max(0.0) as usize;
    let first = (range.start / step - 1e-9).ceil() as i64;
    let last = (range.end / step + 1e-9).floor() as i64;
    (first..=last)
        .map(|i| {
            let value = i as f64 * step;
            (value, format!("{value:.decimals$}").replace('-', "\u{2212}"))
        })
        .collect()
}

/// The smallest of 1, 2, 5, 10, … times a power of ten that is not below `step`.
pub(super) fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    [1.0, 2.0, 5.0, 10.0].iter().map(|factor| factor * power).find(|round| *round >= step * 0.999_999).unwrap_or(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_where_they_leave_the_range() {
        let points = [(0.0, 0.0), (1.0, 2.0), (2.0, 0.0), (3.0, -4.0), (4.0, -4.0)];
        let pieces = within(&points, &(-1.0..1.0));
        assert_eq!(pieces, [vec![(0.0, 0.0), (0.5, 1.0)], vec![(1.5, 1.0), (2.0, 0.0), (2.25, -1.0)]]);
    }

    #[test]
    fn ticks_are_round() {
        let labels = |range, count| round_ticks(&range, count).into_iter().map(|(_, label)| label).collect::<Vec<_>>();
        assert_eq!(labels(-0.5..1.0, 3), ["\u{2212}0.5", "0.0", "0.5", "1.0"]);
        assert_eq!(labels(1.0..20.0, 10), ["2", "4", "6", "8", "10", "12", "14", "16", "18", "20"]);
        assert_eq!(labels(0.97..0.981, 5), ["0.970", "0.975", "0.980"]);
    }
}
