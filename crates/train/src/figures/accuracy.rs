//! Accuracy against epochs, from the logs of training.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use plotters::style::text_anchor::{HPos, VPos};

use super::canvas::{
    Axis, GREY, INK, Line, Panel, Stroke, heading, legend_entry, panel, px, round_step, round_ticks, svg, text, width,
};
use super::{FigureError, table, write};

/// Which accuracy of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// On what is trained with.
    Train,
    /// On what is held back from training to choose by.
    Validation,
    /// On the test set.
    Test,
}

impl Column {
    fn name(self) -> &'static str {
        match self {
            Column::Train => "accuracy_train",
            Column::Validation => "accuracy_validation",
            Column::Test => "accuracy_test",
        }
    }

    fn of(self) -> &'static str {
        match self {
            Column::Train => "training accuracy",
            Column::Validation => "validation accuracy",
            Column::Test => "test accuracy",
        }
    }
}

/// The accuracies of a series after one epoch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Epoch {
    /// Counted from 1; 0 is before training.
    pub epoch: u32,
    /// Mean of the runs, in 0..=1.
    pub mean: f64,
    /// The worst run.
    pub lowest: f64,
    /// The best run.
    pub highest: f64,
    /// Runs that have this epoch.
    pub runs: usize,
}

/// Runs of one training that differ in their seeds.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    name: String,
    column: Column,
    epochs: Vec<Epoch>,
}

impl Series {
    /// A series called `name` of runs that are given as (epoch, accuracy in 0..=1).
    ///
    /// # Errors
    /// No values, or one that is no accuracy.
    pub fn new(name: &str, column: Column, runs: &[Vec<(u32, f64)>]) -> Result<Self, FigureError> {
        let mut values: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
        for (epoch, accuracy) in runs.iter().flatten() {
            if !(0.0..=1.0).contains(accuracy) {
                let what = format!("'{name}' has {accuracy} in epoch {epoch}; an accuracy is between 0 and 1");
                return Err(FigureError::Drawing(what));
            }
            values.entry(*epoch).or_default().push(*accuracy);
        }
        if values.is_empty() {
            return Err(FigureError::Empty(format!("'{name}' has no values of {}", column.name())));
        }
        let epochs = values.into_iter().map(|(epoch, values)| Epoch {
            epoch,
            mean: values.iter().sum::<f64>() / values.len() as f64,
            lowest: values.iter().copied().fold(f64::INFINITY, f64::min),
            highest: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            runs: values.len(),
        });
        Ok(Series { name: name.to_owned(), column, epochs: epochs.collect() })
    }

    /// Reads a series from the logs of its runs, one file for each: CSV with a header in which `epoch` and the
    /// accuracy's column are, as `epoch,seconds,learning_rate,loss,accuracy_train,accuracy_validation,accuracy_test`.
    /// Values that are left empty were not measured.
    ///
    /// # Errors
    /// A file that cannot be read, has no such columns, or has something else than accuracies in them; no values.
    pub fn read<P: AsRef<Path>>(name: &str, column: Column, logs: &[P]) -> Result<Self, FigureError> {
        let runs = logs.iter().map(|log| read(log.as_ref(), column)).collect::<Result<Vec<_>, _>>()?;
        Self::new(name, column, &runs)
    }

    /// The name in the legend.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is drawn, by epoch.
    pub fn epochs(&self) -> &[Epoch] {
        &self.epochs
    }

    fn has_band(&self) -> bool {
        self.epochs.iter().any(|e| e.runs > 1)
    }

    fn summary(&self) -> String {
        let best = self.epochs.iter().map(|e| e.mean).fold(0.0, f64::max);
        let last = self.epochs.last().map_or(0.0, |e| e.mean);
        let runs = self.epochs.iter().map(|e| e.runs).max().unwrap_or(0);
        let runs = if runs == 1 { String::new() } else { format!(", mean of {runs}") };
        format!("best {:.2} %, last {:.2} %{runs}", 100.0 * best, 100.0 * last)
    }
}

fn read(path: &Path, column: Column) -> Result<Vec<(u32, f64)>, FigureError> {
    let wrong = |what: String| FigureError::Log { path: path.to_owned(), what };
    let file = std::fs::File::open(path).map_err(FigureError::io(path))?;
    let mut log = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(file);
    let header = log.headers().map_err(|e| wrong(e.to_string()))?.clone();
    let place = |name: &str| {
        let missing = || wrong(format!("no training log: its first line names no column '{name}'"));
        header.iter().position(|field| field == name).ok_or_else(missing)
    };
    let (epoch, accuracy) = (place("epoch")?, place(column.name())?);
    let mut values = Vec::new();
    for row in log.records() {
        let row = row.map_err(|e| wrong(e.to_string()))?;
        let line = row.position().map_or(0, csv::Position::line);
        let bad = |name: &str, text: &str, what: &str| wrong(format!("line {line}: '{text}' in {name} is not {what}"));
        let field = |place: usize| row.get(place).unwrap_or_default();
        if field(accuracy).is_empty() {
            continue;
        }
        let number: u32 = field(epoch).parse().map_err(|_| bad("epoch", field(epoch), "a number of epochs"))?;
        let value = field(accuracy).parse().ok().filter(|value| (0.0..=1.0).contains(value));
        let share = value.ok_or_else(|| bad(column.name(), field(accuracy), "between 0 and 1"))?;
        values.push((number, share));
    }
    Ok(values)
}

const PLOT: u32 = 700;
const HEIGHT: u32 = 470;
const TITLE: u32 = 48;
const TITLE_SIZE: u32 = 17;
/// Size of the legend's names, and the height of an entry.
const NAME: u32 = 13;
const SUMMARY: u32 = 11;
const ENTRY: u32 = 44;
/// Names in the legend are cut off behind so many characters.
const LONGEST: usize = 48;

/// Draws the accuracies of all series against the epochs: their mean over the runs, and a band from the worst to the
/// best. Writes `out_stem` with `.svg`, `.png` and `.csv`, and returns these paths.
///
/// The CSV has the columns `series,epoch,accuracy,lowest,highest,runs`, where `accuracy` is the mean.
///
/// # Errors
/// No series; files that cannot be written.
pub fn accuracy(title: &str, series: &[Series], out_stem: &Path) -> Result<Vec<PathBuf>, FigureError> {
    let Some(first) = series.first() else { return Err(FigureError::Empty("no series".to_owned())) };
    let names: Vec<String> = series.iter().map(|series| shortened(&series.name)).collect();
    // The title is in bold, which is wider than what is measured.
    let mut beside = (48 + width(title, TITLE_SIZE)? * 6 / 5).saturating_sub(PLOT).max(180);
    for (series, name) in series.iter().zip(&names) {
        beside = beside.max(72 + width(name, NAME)?.max(width(&series.summary(), SUMMARY)?));
    }
    let height = HEIGHT.max(TITLE + 40 + ENTRY * series.len() as u32);
    let name = if series.iter().all(|series| series.column == first.column) { first.column.of() } else { "accuracy" };
    let chart = chart(series, name);
    let drawing = svg((PLOT + beside, TITLE + height), |area| {
        let (head, body) = area.split_vertically(px(TITLE));
        heading(&head, title, TITLE_SIZE, (24, 28))?;
        let (plot, side) = body.split_horizontally(px(PLOT));
        panel(&plot, &chart)?;
        for (index, (series, name)) in series.iter().zip(&names).enumerate() {
            let y = 30 + (ENTRY as usize * index) as i32;
            legend_entry(&side, NAME, (8, y), &Stroke::of(index), name)?;
            text(&side, &series.summary(), SUMMARY, GREY, (48, y + 17), (HPos::Left, VPos::Center))?;
        }
        if series.iter().any(Series::has_band) {
            let y = 30 + (ENTRY as usize * series.len()) as i32;
            text(&side, "bands: worst to best run", SUMMARY, INK, (8, y), (HPos::Left, VPos::Center))?;
        }
        Ok(())
    })?;
    let rows = series.iter().flat_map(|series| {
        series.epochs.iter().map(|e| {
            let numbers = [e.mean, e.lowest, e.highest].map(|share| share.to_string());
            let mut row = vec![series.name.clone(), e.epoch.to_string()];
            row.extend(numbers);
            row.push(e.runs.to_string());
            row
        })
    });
    let csv = table(&["series", "epoch", "accuracy", "lowest", "highest", "runs"], rows)?;
    write(out_stem, &drawing, &csv)
}

fn shortened(name: &str) -> String {
    if name.chars().count() <= LONGEST {
        return name.to_owned();
    }
    name.chars().take(LONGEST - 1).chain(['…']).collect()
}

fn chart(series: &[Series], name: &str) -> Panel {
    let epochs = || series.iter().flat_map(|series| &series.epochs);
    let first = epochs().map(|e| e.epoch).min().unwrap_or(0);
    let last = epochs().map(|e| e.epoch).max().unwrap_or(0).max(first + 1);
    // Half a step of room at both ends, for the markers.
    let room = 0.02 * f64::from(last - first);
    let x = f64::from(first) - room..f64::from(last) + room;
    let lowest = 100.0 * epochs().map(|e| e.lowest).fold(1.0, f64::min);
    let highest = 100.0 * epochs().map(|e| e.highest).fold(0.0, f64::max);
    // From one round number below to one above, at least 1 % apart, within 0 and 100 %.
    let step = round_step(((highest - lowest) / 6.0).max(0.1));
    let top = ((highest / step + 0.25).ceil() * step).min(100.0);
    let y = ((lowest / step - 0.25).floor() * step).max(0.0).min(top - step)..top + 0.02 * step;
    // Whole epochs only.
    let apart = round_step((f64::from(last - first) / 10.0).max(1.0));
    let steps = (f64::from(first) / apart).ceil() as u32..=(f64::from(last) / apart).floor() as u32;
    let x_ticks = steps.map(|i| (f64::from(i) * apart, format!("{}", f64::from(i) * apart))).collect();
    let lines = series.iter().enumerate().map(|(index, series)| Line {
        stroke: Stroke::of(index),
        points: series.epochs.iter().map(|e| (f64::from(e.epoch), 100.0 * e.mean)).collect(),
        band: if series.has_band() {
            let share = |e: &Epoch| (f64::from(e.epoch), 100.0 * e.lowest, 100.0 * e.highest);
            series.epochs.iter().map(share).collect()
        } else {
            Vec::new()
        },
        marked: series.epochs.len().div_ceil(12),
    });
    Panel {
        title: String::new(),
        x: Axis { name: "epoch".to_owned(), range: x, ticks: x_ticks },
        y: Axis { name: format!("{name} in %"), ticks: round_ticks(&y, 8), range: y },
        lines: lines.collect(),
    }
}
