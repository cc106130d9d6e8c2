//! What a training is reported as: JSON, text, a page, a log, and the ONNX file's metadata.

use std::fmt::{self, Write};

use serde::Serialize;
use subrosa_terminal::text::{bytes, fields, percent, seconds, table};
use subrosa_train::data::DataSet;
use subrosa_train::{Activation, Epoch, Job, Model, Op, Outcome, Range};

use crate::Metadata;
use crate::arguments::TrainFlags;

/// The result of a training.
#[derive(Serialize)]
pub(crate) struct Report {
    pub dataset: String,
    pub architecture: String,
    pub activation: String,
    /// Epochs run, those of an interrupted run included.
    pub epochs: usize,
    /// Epochs that an interrupted run had done.
    pub resumed_epochs: usize,
    pub best_epoch: usize,
    pub accuracy_test: f64,
    pub accuracy_validation: f64,
    pub balanced_accuracy_test: f64,
    pub balanced_accuracy_validation: f64,
    /// All of this run: epochs, evaluation, export.
    pub seconds: f64,
    /// Training samples a second, without evaluation: all epochs' samples over their time.
    pub samples_per_second: f64,
    pub threads: usize,
    pub parameters: usize,
    pub train: usize,
    pub validation: usize,
    pub test: usize,
    pub out: String,
    pub out_bytes: u64,
    pub ranges: Vec<Range>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapted: Option<Adapted>,
    pub log: Vec<Epoch>,
    #[serde(skip)]
    command: Vec<(String, String)>,
    #[serde(skip)]
    layers: Vec<[String; 3]>,
}

/// How a foreign network fares on the test samples.
#[derive(Serialize)]
pub(crate) struct Adapted {
    pub from: String,
    pub replaced: Vec<String>,
    pub accuracy_original: f64,
    pub agreement_before: f64,
    pub agreement_after: f64,
}

impl Report {
    /// From all there is.
    pub fn of(
        flags: &TrainFlags,
        data: &DataSet,
        job: &Job,
        outcome: &Outcome,
        model: &Model,
        seconds: f64,
        threads: usize,
    ) -> Self {
        let trained: f64 = outcome.log.iter().map(|epoch| epoch.seconds).sum();
        let samples = outcome.log.len() * data.train.labels.len();
        let listed: Vec<String> = flags.activation.iter().map(ToString::to_string).collect();
        let activation = match &flags.last_activation {
            Some(last) => format!("{}, before the last layer {last}", listed.join("; ")),
            None => listed.join("; "),
        };
        let architecture = match (&flags.arch, &flags.from) {
            (Some(arch), _) => arch.to_string(),
            (None, Some(from)) => format!("{}, adapted", from.display()),
            (None, None) => String::new(),
        };
        let schedule = &job.schedule;
        let augmentation = schedule.augmentation;
        let command = vec![
            ("batch".to_owned(), schedule.batch.to_string()),
            ("highest learning rate".to_owned(), schedule.learning_rate.to_string()),
            ("weight decay".to_owned(), schedule.weight_decay.to_string()),
            ("gradient norm at most".to_owned(), schedule.clip.to_string()),
            ("label smoothing".to_owned(), schedule.label_smoothing.to_string()),
            ("dropout".to_owned(), flags.dropout.to_string()),
            ("augmentation".to_owned(), format!("flip {}, shift {}", augmentation.flip, augmentation.shift)),
            ("seed, of the splits".to_owned(), format!("{}, {}", schedule.seed, flags.split_seed)),
        ];
        let shapes = model.shapes().unwrap_or_default();
        let layers = model
            .nodes
            .iter()
            .zip(shapes)
            .map(|(node, shape)| [node.name.clone(), wording(&node.op), shape.to_string()]);
        Report {
            dataset: flags.dataset.to_string(),
            architecture,
            activation,
            epochs: outcome.log.len(),
            resumed_epochs: outcome.resumed,
            best_epoch: outcome.best_epoch,
            accuracy_test: outcome.test.accuracy,
            accuracy_validation: outcome.validation.accuracy,
            balanced_accuracy_test: outcome.test.balanced_accuracy,
            balanced_accuracy_validation: outcome.validation.balanced_accuracy,
            seconds,
            samples_per_second: if trained > 0.0 { samples as f64 / trained } else { 0.0 },
            threads,
            parameters: model.count_parameters(),
            train: data.train.labels.len(),
            validation: data.validation.labels.len(),
            test: data.test.labels.len(),
            out: flags.out.display().to_string(),
            out_bytes: 0,
            ranges: outcome.ranges.clone(),
            adapted: outcome.adapted.as_ref().map(|adapted| Adapted {
                from: flags.from.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
                replaced: adapted.replaced.iter().map(|r| format!("{}: {}", r.layer, r.what)).collect(),
                accuracy_original: adapted.accuracy_original,
                agreement_before: adapted.agreement_before,
                agreement_after: adapted.agreement_after,
            }),
            log: outcome.log.clone(),
            command,
            layers: layers.collect(),
        }
    }

    /// Kept in the ONNX file.
    pub fn metadata(&self) -> Metadata {
        let mut metadata = Metadata::from([
            ("subrosa.dataset".to_owned(), self.dataset.clone()),
            ("subrosa.architecture".to_owned(), self.architecture.clone()),
            ("subrosa.activation".to_owned(), self.activation.clone()),
            ("subrosa.best_epoch".to_owned(), self.best_epoch.to_string()),
            ("subrosa.accuracy_test".to_owned(), format!("{:.4}", self.accuracy_test)),
            ("subrosa.accuracy_validation".to_owned(), format!("{:.4}", self.accuracy_validation)),
        ]);
        if let Some(adapted) = &self.adapted {
            metadata.insert("subrosa.agreement_original".to_owned(), format!("{:.4}", adapted.agreement_after));
        }
        metadata
    }

    /// The epochs as CSV.
    pub fn log_csv(&self) -> String {
        let mut csv =
            String::from("epoch,seconds,learning_rate,loss,accuracy_train,accuracy_validation,accuracy_test\n");
        for e in &self.log {
            let _ = writeln!(
                csv,
                "{},{:.1},{:.6},{:.5},{:.5},{:.5},{:.5}",
                e.epoch, e.seconds, e.learning_rate, e.loss, e.accuracy_train, e.accuracy_validation, e.accuracy_test
            );
        }
        csv
    }

    fn summary(&self) -> Vec<(&'static str, String)> {
        let mut rows = vec![
            (
                "data",
                format!(
                    "{}: {} for training, {} for validation, {} for the test",
                    self.dataset, self.train, self.validation, self.test
                ),
            ),
            ("network", format!("{}, {} parameters", self.architecture, self.parameters)),
            ("activations", self.activation.clone()),
            (
                "accuracy",
                format!(
                    "{} on the test, {} on validation",
                    percent(self.accuracy_test),
                    percent(self.accuracy_validation)
                ),
            ),
            (
                "mean over classes",
                format!(
                    "{} on the test, {} on validation",
                    percent(self.balanced_accuracy_test),
                    percent(self.balanced_accuracy_validation)
                ),
            ),
            ("epochs", format!("{}, of which the {}. was best on validation", self.epochs, self.best_epoch)),
            (
                "time",
                format!(
                    "{}; {:.0} samples a second on {} threads",
                    seconds(self.seconds),
                    self.samples_per_second,
                    self.threads
                ),
            ),
        ];
        if let Some(adapted) = &self.adapted {
            rows.push(("original", format!("{}: {} on the test", adapted.from, percent(adapted.accuracy_original))));
            rows.push((
                "agrees with it",
                format!(
                    "{} before training, {} after",
                    percent(adapted.agreement_before),
                    percent(adapted.agreement_after)
                ),
            ));
        }
        rows
    }

    /// The page.
    pub fn text(&self) -> String {
        let arguments: Vec<String> = std::env::args().skip(1).map(quoted).collect();
        let mut page = format!("# {}\n\n`subrosa train {}`\n\n", self.out, arguments.join(" "));
        let block = |page: &mut String, title: &str, body: &str| {
            let _ = write!(page, "## {title}\n\n```text\n{}\n```\n\n", body.trim_end());
        };
        block(&mut page, "Result", &fields(&self.summary()));
        let options: Vec<[String; 2]> =
            self.command.iter().map(|(name, value)| [name.clone(), value.clone()]).collect();
        block(&mut page, "How it was trained", &table(&options));
        if let Some(adapted) = &self.adapted {
            block(&mut page, "What was replaced", &adapted.replaced.join("\n"));
        }
        block(&mut page, "Layers", &table(&self.layers));
        if !self.ranges.is_empty() {
            let rows: Vec<[String; 3]> = self
                .ranges
                .iter()
                .map(|range| [range.layer.clone(), format!("{:.2}", range.low), format!("{:.2}", range.high)])
                .collect();
            block(&mut page, "What the polynomials' operands range over", &table(&rows));
        }
        let mut rows =
            vec![["epoch", "time", "learning rate", "loss", "training", "validation", "test"].map(str::to_owned)];
        rows.extend(self.log.iter().map(|e| {
            [
                e.epoch.to_string(),
                seconds(e.seconds),
                format!("{:.6}", e.learning_rate),
                format!("{:.4}", e.loss),
                percent(e.accuracy_train),
                percent(e.accuracy_validation),
                percent(e.accuracy_test),
            ]
        }));
        block(&mut page, "Epochs", &table(&rows));
        page
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows = self.summary();
        rows.push(("written", format!("{}, {}", self.out, bytes(self.out_bytes))));
        f.write_str(&fields(&rows))
    }
}

/// An argument as a shell would need it.
fn quoted(argument: String) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:=,+".contains(c);
    if argument.chars().all(plain) && !argument.is_empty() { argument } else { format!("'{argument}'") }
}

fn wording(op: &Op) -> String {
    match op {
        Op::Conv { window, filters, .. } => {
            format!("convolution {} x {}, {filters} filters", window.size[0], window.size[1])
        }
        Op::Dense { units, .. } => format!("fully connected, {units}"),
        Op::BatchNorm { .. } => "batch norm".into(),
        Op::Affine => "fixed scale and shift".into(),
        Op::Activation(Activation::Function(function)) => format!("{function:?}").to_lowercase(),
        Op::Activation(Activation::Polynomial(polynomial)) => polynomial.to_string(),
        Op::Activation(Activation::Learned { degree, .. }) => {
            format!("learned polynomial of degree {degree} for each channel")
        }
        Op::Pool { pooling, window } => {
            format!("{pooling:?} pooling {} x {}", window.size[0], window.size[1]).to_lowercase()
        }
        Op::GlobalMean => "global mean".into(),
        Op::Flatten(_) => "flatten".into(),
        Op::Dropout { rate } => format!("dropout {rate}"),
        Op::Add => "sum".into(),
    }
}
