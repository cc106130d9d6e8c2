//! The paper's Figure 13 and what it leaves out: ReLU, x^2 + 2x in its place, and fits of it by every method.

use std::path::{Path, PathBuf};

use subrosa_network::fit::errors_between;
use subrosa_network::{ActivationKind, Fit, FitErrors, FitMethod, Interval, Polynomial, ScalarFunction};

use super::canvas::{
    Area, Axis, COLORS, GREY, INK, Line, Marker, Panel, Stroke, heading, legend_entry, panel, px, round_ticks, svg,
    width,
};
use super::{FigureError, table, write};

/// What inputs of an activation behind a batch norm are between.
const INTERVAL: (f64, f64) = (-4.0, 4.0);
/// Degrees of the curves; odd ones add nothing to a fit of ReLU around 0.
const DEGREES: [usize; 3] = [2, 4, 8];
/// Degrees of the errors.
const ALL_DEGREES: [usize; 9] = [1, 2, 4, 6, 8, 10, 12, 14, 16];
/// What is drawn of the errors.
const ERRORS: (f64, f64) = (0.008, 40.0);
/// Where curves are computed: steps of the interval.
const STEPS: u32 = 400;
/// What is drawn of the values.
const VALUES: (f64, f64) = (-1.5, 5.5);

const METHODS: [(FitMethod, &str); 4] = [
    (FitMethod::Taylor, "Taylor, of ln(1 + eˣ)"),
    (FitMethod::Chebyshev, "Chebyshev"),
    (FitMethod::Integral, "derivative, then integrated"),
    (FitMethod::LeastSquares, "least squares"),
];

/// A curve with its name in the CSV, and its place: in which panel, or in all.
struct Curve {
    name: String,
    panel: Option<usize>,
    stroke: Stroke,
    points: Vec<(f64, f64)>,
}

/// Draws ReLU and its approximations on [-4, 4], and a second figure of their errors against the degree. Writes
/// `figure13` and `figure13-errors` into `out_dir`, each as `.svg`, `.png` and `.csv`, and returns these paths.
///
/// The first CSV has the columns `curve,x,y`, where a curve is `relu`, `x2+2x` or the text of a [`Fit`]; the second
/// `curve,method,degree,max_abs,rms`.
///
/// # Errors
/// Files that cannot be written.
pub fn approximations(out_dir: &Path) -> Result<Vec<PathBuf>, FigureError> {
    let relu = ScalarFunction::new(ActivationKind::Relu, None)?;
    let interval = Interval::new(INTERVAL.0, INTERVAL.1)?;
    // x^2 + 2x, as the paper has it.
    let paper = Polynomial::new(vec![0.0, 2.0, 1.0]);
    let mut paths = curves(out_dir, relu, interval, &paper)?;
    paths.extend(errors(out_dir, relu, interval, &paper)?);
    Ok(paths)
}

fn curves(
    out_dir: &Path,
    relu: ScalarFunction,
    interval: Interval,
    paper: &Polynomial,
) -> Result<Vec<PathBuf>, FigureError> {
    let sampled = |f: &dyn Fn(f64) -> f64| {
        let x = |i: u32| INTERVAL.0 + (INTERVAL.1 - INTERVAL.0) * f64::from(i) / f64::from(STEPS);
        (0..=STEPS).map(|i| (x(i), f(x(i)))).collect::<Vec<_>>()
    };
    let stroke = |color, width, dashed| Stroke { color, width, dashed, marker: Marker::None };
    let mut curves = vec![
        Curve {
            name: "relu".to_owned(),
            panel: None,
            stroke: stroke(INK, 3, false),
            points: sampled(&|x| relu.eval(x)),
        },
        Curve {
            name: "x2+2x".to_owned(),
            panel: None,
            stroke: stroke(GREY, 2, true),
            points: sampled(&|x| paper.eval(x)),
        },
    ];
    for (place, (method, _)) in METHODS.into_iter().enumerate() {
        for (degree, color) in DEGREES.into_iter().zip(COLORS) {
            let fit = Fit::new(method, relu, degree, interval)?;
            let polynomial = fit.polynomial()?;
            let points = sampled(&|x| polynomial.eval(x));
            curves.push(Curve { name: fit.to_string(), panel: Some(place), stroke: stroke(color, 2, false), points });
        }
    }
    let drawing = svg((1000, 800), |area| {
        let (head, body) = area.split_vertically(px(86));
        heading(&head, "ReLU and polynomials in its place", 17, (24, 28))?;
        let mut entries =
            vec![(curves[0].stroke, "ReLU".to_owned()), (curves[1].stroke, "x² + 2x, the paper's".to_owned())];
        let fits = DEGREES.iter().zip(COLORS);
        entries.extend(fits.map(|(degree, color)| (stroke(color, 2, false), format!("degree {degree}"))));
        across(&head, &entries)?;
        for (place, part) in body.split_evenly((2, 2)).iter().enumerate() {
            let here = curves.iter().filter(|curve| curve.panel.is_none_or(|panel| panel == place));
            let line = |curve: &Curve| Line {
                stroke: curve.stroke,
                points: curve.points.clone(),
                band: Vec::new(),
                marked: 1,
            };
            let (x, y) = (INTERVAL.0..INTERVAL.1, VALUES.0..VALUES.1);
            let content = Panel {
                title: METHODS[place].1.to_owned(),
                x: Axis { name: "x".to_owned(), ticks: round_ticks(&x, 8), range: x },
                y: Axis { name: "value".to_owned(), ticks: round_ticks(&y, 7), range: y },
                lines: here.map(line).collect(),
            };
            panel(part, &content)?;
        }
        Ok(())
    })?;
    let rows = curves
        .iter()
        .flat_map(|curve| curve.points.iter().map(|(x, y)| vec![curve.name.clone(), x.to_string(), y.to_string()]));
    write(&out_dir.join("figure13"), &drawing, &table(&["curve", "x", "y"], rows)?)
}

/// The errors of polynomials of one method, by degree.
struct Measured {
    name: String,
    stroke: Stroke,
    errors: Vec<(usize, FitErrors)>,
}

fn errors(
    out_dir: &Path,
    relu: ScalarFunction,
    interval: Interval,
    paper: &Polynomial,
) -> Result<Vec<PathBuf>, FigureError> {
    let mut rows = Vec::new();
    let mut measured = Vec::new();
    let row = |curve: String, method: &str, degree: usize, errors: &FitErrors| {
        vec![curve, method.to_owned(), degree.to_string(), errors.max_abs.to_string(), errors.rms.to_string()]
    };
    let own = errors_between(paper, relu, interval);
    rows.push(row("x2+2x".to_owned(), "", paper.degree(), &own));
    let point = Stroke { color: GREY, width: 2, dashed: false, marker: Marker::Diamond };
    let name = "x² + 2x, the paper's".to_owned();
    measured.push(Measured { name, stroke: point, errors: vec![(paper.degree(), own)] });
    for (index, (method, name)) in METHODS.into_iter().enumerate() {
        let mut measurements = Vec::new();
        for degree in ALL_DEGREES {
            let fit = Fit::new(method, relu, degree, interval)?;
            let errors = fit.error_on_interval()?;
            rows.push(row(fit.to_string(), &method.to_string(), degree, &errors));
            measurements.push((degree, errors));
        }
        measured.push(Measured { name: name.to_owned(), stroke: Stroke::of(index), errors: measurements });
    }
    let drawing = svg((1000, 500), |area| {
        let (head, body) = area.split_vertically(px(86));
        heading(&head, "Distance from ReLU on [\u{2212}4, 4] by degree", 17, (24, 28))?;
        let entries: Vec<_> = measured.iter().map(|of| (of.stroke, of.name.clone())).collect();
        across(&head, &entries)?;
        let titles = ["largest error", "root of the mean squared error"];
        for (place, (part, title)) in body.split_evenly((1, 2)).iter().zip(titles).enumerate() {
            let value = |errors: &FitErrors| if place == 0 { errors.max_abs } else { errors.rms };
            let lines = measured.iter().map(|of| Line {
                stroke: of.stroke,
                points: of.errors.iter().map(|(degree, errors)| (*degree as f64, value(errors).log10())).collect(),
                band: Vec::new(),
                marked: 1,
            });
            let x = 0.5..16.5;
            let degrees = ALL_DEGREES.map(|degree| (degree as f64, degree.to_string()));
            let decades = (-2..=1).flat_map(|power| [1, 2, 5].map(|digit| format!("{digit}e{power}")));
            let ticks = decades.filter_map(|text| text.parse::<f64>().ok()).map(|v| (v.log10(), v.to_string()));
            let content = Panel {
                title: title.to_owned(),
                x: Axis { name: "degree".to_owned(), range: x, ticks: degrees.to_vec() },
                y: Axis {
                    name: "error, logarithmic".to_owned(),
                    range: ERRORS.0.log10()..ERRORS.1.log10(),
                    ticks: ticks.filter(|(y, _)| *y < ERRORS.1.log10()).collect(),
                },
                lines: lines.collect(),
            };
            panel(part, &content)?;
        }
        Ok(())
    })?;
    let header = ["curve", "method", "degree", "max_abs", "rms"];
    write(&out_dir.join("figure13-errors"), &drawing, &table(&header, rows)?)
}

/// A legend in one row below a title.
fn across(head: &Area, entries: &[(Stroke, String)]) -> Result<(), FigureError> {
    const SIZE: u32 = 13;
    let mut x = 24;
    for (stroke, name) in entries {
        legend_entry(head, SIZE, (x, 62), stroke, name)?;
        x += 66 + width(name, SIZE)? as i32;
    }
    Ok(())
}
