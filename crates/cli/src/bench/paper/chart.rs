//! The times of Tables 2 to 5 as bars, ours below the paper's, on a logarithmic scale.

use super::published::Step;
use super::report::{PaperReport, Row};
use crate::arguments::{PaperNetwork, PaperSetting};
use plotters::coord::ranged1d::{KeyPointHint, Ranged};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::path::Path;
use subrosa_fhe::Scheme;
use subrosa_terminal::{Failure, text};

const WIDTH: u32 = 1240;
const TITLE: u32 = 74;
/// Height of a group, the two bars of one setting and level of security, and of what a panel has besides.
const GROUP: u32 = 34;
const PANEL: u32 = 96;
/// Seconds at the two ends of every axis: ours are rarely below, the paper's never above.
const AXIS: (f64, f64) = (1e-5, 1e4);
/// Seconds that are written on the axis.
const TICKS: [(f64, &str); 9] = [
    (1e-4, "100 µs"),
    (1e-3, "1 ms"),
    (1e-2, "10 ms"),
    (1e-1, "100 ms"),
    (1e0, "1 s"),
    (1e1, "10 s"),
    (1e2, "100 s"),
    (1e3, "1000 s"),
    (1e4, ""),
];
const PAPER: RGBColor = RGBColor(0xb8, 0xbc, 0xc4);
const OURS: RGBColor = RGBColor(0x1f, 0x6f, 0x8b);
const INK: RGBColor = RGBColor(0x22, 0x26, 0x2b);
const FONT: &str = "sans-serif";

/// The panels; of what doesn't depend on the input in the paper, ours with encrypted input, which costs more.
const PANELS: [(Step, bool, &str); 4] = [
    (Step::Protect, true, "Table 2: model encryption"),
    (Step::Infer, false, "Table 3: inference, plain input"),
    (Step::Infer, true, "Table 4: inference, encrypted input"),
    (Step::Decrypt, true, "Table 5: decryption"),
];

/// Draws the CIFAR-10 network's rows of a scheme that the paper has figures for.
pub(super) fn draw(report: &PaperReport, scheme: Scheme, path: &Path) -> Result<(), Failure> {
    let panels = PANELS.map(|(step, encrypted, title)| {
        let drawn = |r: &&Row| {
            (r.what, r.encrypted_input, r.network) == (step, encrypted, PaperNetwork::Cifar)
                && r.classifier != PaperSetting::NoneFolded
                && r.scheme == scheme
                && r.paper.is_some()
        };
        (title, report.steps().filter(drawn).collect::<Vec<_>>())
    });
    let groups = panels.iter().map(|(_, rows)| rows.len()).max().unwrap_or(0) as u32;
    let mut drawing = String::new();
    {
        let size = (WIDTH, TITLE + 2 * (PANEL + GROUP * groups));
        let area = SVGBackend::with_string(&mut drawing, size).into_drawing_area();
        draw_all(report, &area, &panels).map_err(|e| Failure::failed(format!("the chart cannot be drawn: {e}")))?;
    }
    std::fs::write(path, drawing).map_err(crate::failure::io("write", path))
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

fn draw_all(report: &PaperReport, area: &Area, panels: &[(&str, Vec<&Row>)]) -> Drawn {
    area.fill(&WHITE)?;
    let (head, body) = area.split_vertically(TITLE);
    let c = &report.conditions;
    let threads = if c.threads == 1 { "one thread".to_owned() } else { format!("{} threads", c.threads) };
    let left =
        |size: u32, color: RGBColor| (FONT, size).into_font().color(&color).pos(Pos::new(HPos::Left, VPos::Center));
    head.draw(&Text::new(
        "CIFAR-10 CNN with an encrypted classifier: seconds, logarithmic".to_owned(),
        (24, 24),
        left(21, INK),
    ))?;
    let (mut x, y) = (24, 54);
    for (color, label) in [
        (PAPER, "the paper (2019): DGX-1, Jetson TX2, SEAL, BGV".to_owned()),
        (OURS, format!("Subrosa: {}, {}, {threads}, {}", c.machine, c.kernel, c.date)),
    ] {
        head.draw(&Rectangle::new([(x, y - 6), (x + 16, y + 6)], color.filled()))?;
        head.draw(&Text::new(label, (x + 24, y), left(14, INK)))?;
        x += 390;
    }
    for (panel, (title, rows)) in body.split_evenly((2, 2)).iter().zip(panels) {
        draw_panel(panel, title, rows)?;
    }
    area.present()?;
    Ok(())
}

fn draw_panel(area: &Area, title: &str, rows: &[&Row]) -> Drawn {
    let height = rows.len() as f64;
    let style = |size: u32| (FONT, size).into_font().color(&INK);
    let chart = ChartBuilder::on(area)
        .margin(12)
        .margin_right(30)
        .caption(title, style(17))
        .x_label_area_size(28)
        .y_label_area_size(150)
        .build_cartesian_2d(Decades, 0f64..height.max(1.0))?;
    let plot = chart.plotting_area();
    for (seconds, label) in TICKS {
        plot.draw(&PathElement::new([(seconds, 0.0), (seconds, height)], RGBColor(0xe4, 0xe6, 0xea)))?;
        let below = style(12).pos(Pos::new(HPos::Center, VPos::Top));
        let (x, y) = plot.map_coordinate(&(seconds, 0.0));
        area.draw(&Text::new(label, local(area, (x, y + 6)), below))?;
    }
    for (index, row) in rows.iter().enumerate() {
        let Some(paper) = &row.paper else { continue };
        let top = height - index as f64;
        for (seconds, from, to, color) in [(paper.seconds, 0.12, 0.48, PAPER), (row.mean_seconds, 0.52, 0.88, OURS)] {
            let bar = [(AXIS.0, top - from), (seconds.max(AXIS.0), top - to)];
            plot.draw(&Rectangle::new(bar, color.filled()))?;
            let (x, y) = plot.map_coordinate(&(seconds.max(AXIS.0), top - (from + to) / 2.0));
            // Inside of a bar that leaves no room behind it.
            let (x, side, ink) =
                if seconds > AXIS.1 / 30.0 { (x - 6, HPos::Right, INK) } else { (x + 6, HPos::Left, INK) };
            let value = (FONT, 12).into_font().color(&ink).pos(Pos::new(side, VPos::Center));
            area.draw(&Text::new(text::seconds(seconds), local(area, (x, y)), value))?;
        }
        let (x, y) = plot.map_coordinate(&(AXIS.0, top - 0.5));
        let label = format!("{}, {} bits", name(row.classifier), row.security_bits);
        let before = style(13).pos(Pos::new(HPos::Right, VPos::Center));
        area.draw(&Text::new(label, local(area, (x - 8, y)), before))?;
    }
    Ok(())
}

fn name(setting: PaperSetting) -> &'static str {
    match setting {
        PaperSetting::Square => "x²+2x",
        PaperSetting::None | PaperSetting::NoneFolded => "no activation",
        PaperSetting::Last => "last layer",
    }
}

/// Pixels of the whole drawing as pixels of one area.
fn local(area: &Area, (x, y): (i32, i32)) -> (i32, i32) {
    let (left, top) = area.get_base_pixel();
    (x - left, y - top)
}

/// The axis of seconds.
struct Decades;

impl Ranged for Decades {
    type FormatOption = plotters::coord::ranged1d::DefaultFormatting;
    type ValueType = f64;

    fn map(&self, seconds: &f64, limit: (i32, i32)) -> i32 {
        let share = (seconds / AXIS.0).log10() / (AXIS.1 / AXIS.0).log10();
        limit.0 + (f64::from(limit.1 - limit.0) * share).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        Vec::new()
    }

    fn range(&self) -> std::ops::Range<f64> {
        AXIS.0..AXIS.1
    }
}
