//! What `bench paper` prints: our means beside the paper's tables.

use super::published::{self, PLAIN_MB, PLAIN_SECONDS, Published, Step, published};
use super::{Experiment, network};
use crate::arguments::{PaperNetwork, PaperSetting};
use crate::bench::steps::{Run, number};
use crate::bench::{Conditions, ratio};
use serde::Serialize;
use serde_json::Value;
use std::fmt;
use subrosa_fhe::Scheme;
use subrosa_terminal::machine::median;
use subrosa_terminal::{Failure, text};

#[derive(Serialize)]
pub(super) struct PaperReport {
    #[serde(flatten)]
    pub conditions: Conditions,
    pub seed: u64,
    /// Images that each process classifies.
    pub images: usize,
    pub rows: Vec<AnyRow>,
}

/// A network's plaintext reference comes before its steps.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum AnyRow {
    Plain(PlainReference),
    Step(Box<Row>),
}

impl PaperReport {
    /// The steps.
    pub fn steps(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter_map(|row| match row {
            AnyRow::Step(row) => Some(&**row),
            AnyRow::Plain(_) => None,
        })
    }

    fn plain(&self) -> impl Iterator<Item = &PlainReference> {
        self.rows.iter().filter_map(|row| match row {
            AnyRow::Plain(row) => Some(row),
            AnyRow::Step(_) => None,
        })
    }
}

/// The whole network in plaintext, by the runtime that also runs the plain part on the edge.
#[derive(Serialize)]
pub(super) struct PlainReference {
    what: &'static str,
    network: PaperNetwork,
    setting: String,
    /// None: 0.
    security_bits: u32,
    threads: usize,
    kernel: &'static str,
    runs: usize,
    mean_seconds: f64,
    median_seconds: f64,
    peak_rss_bytes: Option<u64>,
    model_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    paper: Option<PublishedPlain>,
}

/// What the paper says of its network in plaintext.
#[derive(Serialize)]
struct PublishedPlain {
    seconds: f64,
    model_bytes: f64,
    /// Its time over ours.
    ratio_seconds: f64,
    ratio_size: f64,
}

/// One step of one setting.
#[derive(Serialize)]
pub(super) struct Row {
    pub what: Step,
    pub network: PaperNetwork,
    pub classifier: PaperSetting,
    pub encrypted_input: bool,
    setting: String,
    pub security_bits: u32,
    pub scheme: Scheme,
    threads: usize,
    kernel: String,
    runs: usize,
    /// Of the runs. `protect`: planning, keys, encryption; `infer`: encoding or encryption of the features and blind
    /// evaluation of one image; `decrypt`: one answer.
    pub mean_seconds: f64,
    median_seconds: f64,
    /// Of an inference: its two parts.
    #[serde(skip_serializing_if = "Option::is_none")]
    prepare_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    evaluate_seconds: Option<f64>,
    /// The process's largest resident memory, mean of the runs.
    peak_rss_bytes: Option<u64>,
    log_n: u64,
    log_qp: f64,
    /// Encrypted weights and biases.
    model_bytes: u64,
    key_bytes: u64,
    bundle_bytes: u64,
    input_ciphertext_bytes: u64,
    result_bytes: u64,
    /// The encrypted weights over the plain network's file.
    expansion: f64,
    /// The same for all that goes to the edge.
    bundle_expansion: f64,
    /// The encrypted weights over the same weights as float32.
    weights_expansion: f64,
    remaining_budget_bits: f64,
    max_abs_error: f64,
    forecast_max_abs_error: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paper: Option<Published>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<Ratios>,
}

/// The paper's figures over ours.
#[derive(Serialize)]
struct Ratios {
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<f64>,
}

const FLOAT_BYTES: f64 = 4.0;

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Mean of the memory of some processes, where the system tells.
fn peak<'a>(reports: impl Iterator<Item = &'a Value>) -> Option<u64> {
    let peaks: Option<Vec<f64>> = reports.map(|r| r.get("peak_rss_bytes")?.as_f64()).collect();
    peaks.map(|peaks| mean(&peaks).round() as u64)
}

impl PlainReference {
    pub fn new(network: PaperNetwork, threads: usize, reports: &[Value]) -> Result<Self, Failure> {
        let mut times = reports.iter().map(|r| number(r, "infer_seconds")).collect::<Result<Vec<_>, _>>()?;
        let model_bytes = reports.first().map_or(Ok(0.0), |r| number(r, "model_bytes"))?;
        let mean_seconds = mean(&times);
        let paper = PublishedPlain {
            seconds: PLAIN_SECONDS,
            model_bytes: published::plain_bytes(),
            ratio_seconds: PLAIN_SECONDS / mean_seconds,
            ratio_size: published::plain_bytes() / model_bytes,
        };
        Ok(Self {
            what: "plain",
            network,
            setting: format!("whole network with classifier {}, in plaintext", shape(network)),
            security_bits: 0,
            threads,
            kernel: "rten",
            runs: reports.len(),
            mean_seconds,
            median_seconds: median(&mut times),
            peak_rss_bytes: peak(reports.iter()),
            model_bytes: model_bytes as u64,
            paper: (network == PaperNetwork::Cifar).then_some(paper),
        })
    }
}

impl Row {
    pub fn new(
        experiment: &Experiment,
        step: Step,
        runs: &[Run],
        plain: &PlainReference,
        max_abs_error: f64,
        conditions: &Conditions,
    ) -> Result<Self, Failure> {
        let Experiment { network, setting, encrypted_input, security, scheme } = *experiment;
        let Some(Run { protected, deployed, inferred, decrypted, .. }) = runs.first() else {
            return Err(Failure::failed("the experiment ran not once"));
        };
        let all = |key: &str| runs.iter().map(|r| number(&r.inferred, key)).collect::<Result<Vec<_>, _>>();
        let (prepare, evaluate) = (all("encrypt_seconds")?, all("infer_seconds")?);
        let mut times: Vec<f64> = match step {
            Step::Protect => runs.iter().map(|r| number(&r.protected, "protect_seconds")).collect::<Result<_, _>>()?,
            Step::Infer => prepare.iter().zip(&evaluate).map(|(p, e)| p + e).collect(),
            Step::Decrypt => {
                let each = |r: &Run| Ok(number(&r.decrypted, "seconds")? / number(&r.decrypted, "count")?.max(1.0));
                runs.iter().map(each).collect::<Result<_, Failure>>()?
            }
        };
        let peak_rss_bytes = peak(runs.iter().map(|r| match step {
            Step::Protect => &r.protected,
            Step::Infer => &r.inferred,
            Step::Decrypt => &r.decrypted,
        }));
        let whole = |report: &Value, key: &str| number(report, key).map(|v| v as u64);
        let (model_bytes, bundle_bytes) = (whole(protected, "model_bytes")?, whole(deployed, "bundle_bytes")?);
        let expansion = |bytes: u64| bytes as f64 / (plain.model_bytes as f64).max(1.0);
        let mean_seconds = mean(&times);
        let paper =
            published(step, setting, encrypted_input, security.bits()).filter(|_| network == PaperNetwork::Cifar);
        let ratio = paper.as_ref().map(|paper| Ratios {
            seconds: paper.seconds / mean_seconds,
            memory: peak_rss_bytes.map(|ours| paper.memory_bytes / ours as f64),
            size: paper.model_bytes.map(|theirs| theirs / model_bytes as f64),
        });
        Ok(Self {
            what: step,
            network,
            classifier: setting,
            encrypted_input,
            setting: format!("{}, {} input", name(network, setting), input(encrypted_input)),
            security_bits: security.bits(),
            scheme,
            threads: conditions.threads,
            kernel: conditions.kernel.clone(),
            runs: runs.len(),
            mean_seconds,
            median_seconds: median(&mut times),
            prepare_seconds: (step == Step::Infer).then(|| mean(&prepare)),
            evaluate_seconds: (step == Step::Infer).then(|| mean(&evaluate)),
            peak_rss_bytes,
            log_n: whole(protected, "log_n")?,
            log_qp: number(protected, "log_qp")?,
            model_bytes,
            key_bytes: whole(protected, "key_bytes")?,
            bundle_bytes,
            input_ciphertext_bytes: whole(inferred, "input_ciphertext_bytes")?,
            result_bytes: whole(inferred, "result_bytes")?,
            expansion: expansion(model_bytes),
            bundle_expansion: expansion(bundle_bytes),
            weights_expansion: model_bytes as f64 / (number(protected, "weights")? * FLOAT_BYTES).max(1.0),
            remaining_budget_bits: number(decrypted, "remaining_budget_bits")?,
            max_abs_error,
            forecast_max_abs_error: number(&protected["forecast"], "max_abs_error")?,
            paper,
            ratio,
        })
    }
}

/// `2304-512-10`.
fn shape(network: PaperNetwork) -> String {
    network::classifier(network).map(|n| n.to_string()).join("-")
}

fn name(network: PaperNetwork, setting: PaperSetting) -> String {
    let [_, hidden, classes] = network::classifier(network);
    match setting {
        PaperSetting::Square => format!("{} x^2+2x", shape(network)),
        PaperSetting::None => format!("{} no activation", shape(network)),
        PaperSetting::NoneFolded => format!("{} no activation, folded", shape(network)),
        PaperSetting::Last => format!("last layer {hidden}-{classes}"),
    }
}

fn input(encrypted: bool) -> &'static str {
    if encrypted { "encrypted" } else { "plain" }
}

/// What stands above each table; `of_paper`: the paper has figures of this network.
fn title(step: Step, encrypted_input: bool, of_paper: bool) -> String {
    let input = input(encrypted_input);
    let (what, machine) = match step {
        Step::Protect => (format!("model encryption for {input} input"), "DGX-1"),
        Step::Infer => (format!("one inference with {input} input"), "Jetson TX2"),
        Step::Decrypt => (format!("decryption of one answer, {input} input"), "DGX-1"),
    };
    match of_paper {
        true => format!("Table {}, {what} (the paper's: {machine})", published::table_number(step, encrypted_input)),
        false => format!("As Table {}, {what}", published::table_number(step, encrypted_input)),
    }
}

impl fmt::Display for PaperReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}seed {}; ours / the paper's (the paper's over ours)", self.conditions, self.seed)?;
        for plain in self.plain() {
            write!(f, "\n{plain}")?;
            let rows: Vec<&Row> = self.steps().filter(|r| r.network == plain.network).collect();
            for step in [Step::Protect, Step::Infer, Step::Decrypt] {
                for encrypted in [false, true] {
                    let rows = rows.iter().filter(|r| r.what == step && r.encrypted_input == encrypted);
                    let lines: Vec<Vec<String>> = rows.map(|r| r.line()).collect();
                    if !lines.is_empty() {
                        writeln!(f, "\n{}", title(step, encrypted, plain.paper.is_some()))?;
                        f.write_str(&text::table(&[vec![header(step)], lines].concat()))?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn header(step: Step) -> Vec<String> {
    let mut titles = vec!["  encrypted", "scheme", "bits", "time", "memory"];
    match step {
        Step::Protect => titles.extend(["encrypted weights", "over the plain model", "bundle"]),
        Step::Infer => titles.extend(["of it encode or encrypt", "budget left, bits", "largest error"]),
        Step::Decrypt => {}
    }
    titles.into_iter().map(str::to_owned).collect()
}

impl Row {
    fn line(&self) -> Vec<String> {
        let paper = self.paper.as_ref();
        let beside = |ours: String, theirs: Option<String>, over: Option<f64>| match (theirs, over) {
            (Some(theirs), Some(over)) => format!("{ours} / {theirs} ({})", ratio(over)),
            (Some(theirs), None) => format!("{ours} / {theirs}"),
            (None, _) => ours,
        };
        let ratios = self.ratio.as_ref();
        let memory = self.peak_rss_bytes.map_or_else(|| "unknown".to_owned(), text::bytes);
        let mut line = vec![
            format!("  {}", name(self.network, self.classifier)),
            self.scheme.to_string(),
            self.security_bits.to_string(),
            beside(
                text::seconds(self.mean_seconds),
                paper.map(|p| text::seconds(p.seconds)),
                ratios.map(|r| r.seconds),
            ),
            beside(memory, paper.map(|p| text::bytes(p.memory_bytes as u64)), ratios.and_then(|r| r.memory)),
        ];
        match self.what {
            Step::Protect => line.extend([
                beside(
                    text::bytes(self.model_bytes),
                    paper.and_then(|p| p.model_bytes).map(|b| text::bytes(b as u64)),
                    ratios.and_then(|r| r.size),
                ),
                beside(ratio(self.expansion), paper.and_then(|p| p.expansion).map(ratio), None),
                text::bytes(self.bundle_bytes),
            ]),
            Step::Infer => line.extend([
                text::seconds(self.prepare_seconds.unwrap_or(0.0)),
                beside(
                    format!("{:.1}", self.remaining_budget_bits),
                    paper.and_then(|p| p.remaining_budget_bits).map(|b| format!("{b:.1}")),
                    None,
                ),
                format!("{:.1e}", self.max_abs_error),
            ]),
            Step::Decrypt => {}
        }
        line
    }
}

impl fmt::Display for PlainReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.network {
            PaperNetwork::Cifar => "CIFAR-10 CNN",
            PaperNetwork::Mnist => "MNIST-sized CNN",
        };
        let runs = if self.runs == 1 { "1 run".to_owned() } else { format!("mean of {} runs", self.runs) };
        writeln!(f, "{name} of random weights, classifier {}, {runs}", shape(self.network))?;
        let memory = self.peak_rss_bytes.map_or_else(|| "unknown".to_owned(), text::bytes);
        let (time, size) = (text::seconds(self.mean_seconds), text::bytes(self.model_bytes));
        let Some(paper) = &self.paper else {
            writeln!(f, "  in plaintext: {time} an image, model {size}, memory {memory}")?;
            return writeln!(
                f,
                "  (the paper doesn't tell its networks apart: its figures stand beside the CIFAR-10 CNN)"
            );
        };
        let (theirs, over) = (text::seconds(paper.seconds), ratio(paper.ratio_seconds));
        let model = format!("{size} / {PLAIN_MB} MB ({})", ratio(paper.ratio_size));
        writeln!(f, "  in plaintext: {time} / {theirs} ({over}) an image, model {model}, memory {memory}")
    }
}
