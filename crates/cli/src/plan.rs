//! `protect --explain`: a plan for people.

use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use subrosa_fhe::{Kernel, KeyShape, Parameters, wire};
use subrosa_owner::{Calibration, Planned};
use subrosa_plan::{Alternative, Forecast, Memory, Plan, Prefer, Ranges, StepError, StepWork, Work};
use subrosa_program::bundle::packed_len;
use subrosa_program::{LayerSteps, Step};
use subrosa_terminal::{Failure, text};

/// What the edge will execute and what is predicted of it.
#[derive(Serialize)]
pub(crate) struct PlanReport {
    prefer: Prefer,
    log_n: u32,
    log_qp: f64,
    ciphertext_primes_bits: Vec<u32>,
    special_primes_bits: Vec<u32>,
    features: usize,
    input_level: usize,
    input_polynomials: usize,
    groups: Vec<Group>,
    keys: Vec<Keys>,
    layers: Vec<Layer>,
    steps: Vec<ExplainedStep>,
    ranges: Vec<Ranges>,
    forecast: Forecast,
    predicted: Predicted,
    alternatives: Vec<Alternative>,
    calibration: Calibration,
}

/// Constants of one kind.
#[derive(Serialize)]
struct Group {
    name: String,
    count: usize,
    level: usize,
    scale_bits: f64,
    bytes: u64,
}

/// Evaluation keys of one shape.
#[derive(Serialize)]
struct Keys {
    count: usize,
    level: usize,
    specials: usize,
    digit: usize,
    bytes: u64,
}

/// A step and its part of the prediction.
#[derive(Serialize)]
struct ExplainedStep {
    #[serde(flatten)]
    step: Step,
    predicted: StepWork,
}

/// What the steps of one layer take together.
#[derive(Serialize)]
struct Layer {
    name: String,
    steps: usize,
    /// Highest and lowest level of what its steps work on.
    levels: (usize, usize),
    work: Work,
    /// Bytes of its weights and biases in the bundle.
    bytes: u64,
    /// Precision of its results on a calibration sample, with simulated noise: log2 of their root mean square over that of their errors;
    /// not told for chains of dense layers.
    #[serde(skip_serializing_if = "Option::is_none")]
    precision_bits: Option<f64>,
}

/// Time and memory, and the cost model they are predicted with.
#[derive(Serialize)]
struct Predicted {
    prepare: Work,
    infer: Work,
    memory: Memory,
    bundle: Memory,
    kernel: String,
    machine: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    date: Option<String>,
}

impl PlanReport {
    pub fn new(planned: &Planned, prefer: Prefer) -> Result<Self, Failure> {
        let (plan, calibration) = (planned.plan(), planned.prepared().calibration().clone());
        let program = &plan.program;
        let spec = &program.parameters;
        let engine = |e| crate::failure::failure(subrosa_owner::OwnerError::Engine(e));
        let kernel = Kernel::active().map_err(|e| engine(e.into()))?;
        let parameters = Parameters::new(spec.clone(), kernel).map_err(engine)?;
        let mut shapes: BTreeMap<KeyShape, usize> = BTreeMap::new();
        for key in &program.keys {
            *shapes.entry(key.shape).or_default() += 1;
        }
        let keys = shapes.into_iter().map(|(shape, count)| Keys {
            count,
            level: shape.level,
            specials: shape.specials,
            digit: shape.digit,
            bytes: (count * wire::switch_key_len(&parameters, shape)) as u64,
        });
        let groups = program.constants.iter().map(|g| Group {
            name: g.name.clone(),
            count: g.count,
            level: g.level,
            scale_bits: g.scale.log2(),
            bytes: (g.count * packed_len(&parameters, g)) as u64,
        });
        let groups: Vec<Group> = groups.collect();
        let layers = layers(plan, &calibration, &groups)?;
        let steps = program.steps.iter().zip(&plan.prediction.steps);
        let predicted = Predicted {
            prepare: plan.prediction.prepare,
            infer: plan.prediction.infer,
            memory: plan.prediction.memory,
            bundle: plan.prediction.bundle,
            kernel: plan.costs.kernel.clone(),
            machine: plan.costs.machine.clone(),
            date: plan.costs.date.clone(),
        };
        let bits = |primes: &[u64]| primes.iter().map(|q| u64::BITS - q.leading_zeros()).collect();
        Ok(Self {
            prefer,
            log_n: spec.log_n,
            log_qp: plan.log_qp,
            ciphertext_primes_bits: bits(&spec.ciphertext_primes),
            special_primes_bits: bits(&spec.special_primes),
            features: program.input.features,
            input_level: program.input.level,
            input_polynomials: program.input.layout.polynomials(),
            groups,
            keys: keys.collect(),
            layers,
            steps: steps.map(|(step, &predicted)| ExplainedStep { step: step.clone(), predicted }).collect(),
            ranges: plan.ranges.clone(),
            forecast: plan.forecast,
            predicted,
            alternatives: plan.alternatives.clone(),
            calibration,
        })
    }
}

/// The layers with their parts of the prediction.
fn layers(plan: &Plan, calibration: &Calibration, groups: &[Group]) -> Result<Vec<Layer>, Failure> {
    let errors = match calibration.features.first() {
        Some(sample) => plan.step_errors(sample, 0).map_err(Failure::failed)?,
        None => Vec::new(),
    };
    let layer = |LayerSteps { name, steps }: LayerSteps| {
        let works = || steps.iter().filter_map(|&at| plan.prediction.steps.get(at));
        let levels = works().map(|s| s.level);
        let mut own: Vec<usize> =
            steps.iter().filter_map(|&at| plan.program.steps.get(at)).flat_map(Step::all_constants).collect();
        own.sort_unstable();
        own.dedup();
        Layer {
            name,
            steps: steps.len(),
            levels: (levels.clone().max().unwrap_or(0), levels.min().unwrap_or(0)),
            work: works().fold(Work::default(), |sum, s| sum + s.work),
            bytes: own.iter().filter_map(|&group| groups.get(group)).map(|g| g.bytes).sum(),
            precision_bits: steps.last().and_then(|&at| errors.get(at)).map(StepError::bits).filter(|b| b.is_finite()),
        }
    };
    Ok(plan.program.layers().into_iter().map(layer).collect())
}

impl Layer {
    fn row(&self) -> [String; 9] {
        let levels = match self.levels {
            (high, low) if high == low => high.to_string(),
            (high, low) => format!("{high} to {low}"),
        };
        [
            format!("  {}", self.name),
            self.steps.to_string(),
            levels,
            self.work.products.to_string(),
            self.work.key_products.to_string(),
            text::bytes(self.bytes),
            text::bytes(self.work.key_bytes),
            text::seconds(self.work.seconds),
            self.precision_bits.map_or_else(|| "-".to_owned(), |bits| format!("{bits:.1} bits")),
        ]
    }
}

/// The forecast in a line.
pub(crate) fn forecast(f: &Forecast) -> String {
    format!(
        "largest error {:.1e}, {:.1} bits of budget left, {:.1} bits below the security bound",
        f.max_abs_error, f.remaining_budget_bits, f.table_slack_bits
    )
}

impl Predicted {
    fn line(&self) -> String {
        format!(
            "{} to prepare and {} to infer on one thread, {} of memory, bundle {}",
            text::seconds(self.prepare.seconds),
            text::seconds(self.infer.seconds),
            text::bytes(self.memory.bytes()),
            text::bytes(self.bundle.bytes())
        )
    }

    fn source(&self) -> String {
        let date = self.date.as_ref().map(|d| format!(", {d}")).unwrap_or_default();
        format!("of kernel {} on {}{date}", self.kernel, self.machine)
    }
}

/// Steps of one kind that follow each other, in a row.
fn row(steps: &[ExplainedStep]) -> Option<[String; 8]> {
    let first = steps.first()?;
    let sum = steps.iter().fold(Work::default(), |sum, s| sum + s.predicted.work);
    let count = if steps.len() > 1 { format!(" x {}", steps.len()) } else { String::new() };
    Some(numbers(format!("{}{count}", first.step.name()), first.predicted.level, &sum))
}

fn numbers(name: String, level: usize, sum: &Work) -> [String; 8] {
    [
        format!("  {name}"),
        text::seconds(sum.seconds),
        level.to_string(),
        sum.ntts.to_string(),
        sum.products.to_string(),
        sum.key_products.to_string(),
        text::bytes(sum.key_bytes),
        text::bytes(sum.weight_bytes),
    ]
}

/// What was considered, in a row.
fn considered(a: &Alternative) -> [String; 6] {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    [
        format!("  2^{}", a.log_n),
        or_none(a.seconds.map(text::seconds)),
        or_none(a.max_abs_error.map(|e| format!("{e:.1e}"))),
        or_none(a.bytes.map(text::bytes)),
        a.verdict.to_string(),
        a.layout.clone().unwrap_or_default(),
    ]
}

impl fmt::Display for PlanReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let primes = format!("{:?} bits, special {:?}", self.ciphertext_primes_bits, self.special_primes_bits);
        let source = if self.calibration.synthetic { "synthetic inputs" } else { "samples" };
        f.write_str(&text::fields(&[
            ("best in", self.prefer.to_string()),
            ("ring", format!("degree 2^{}, log2(QP) {:.1}", self.log_n, self.log_qp)),
            ("primes", primes),
            (
                "input",
                format!(
                    "{} values in {} polynomials at level {}",
                    self.features, self.input_polynomials, self.input_level
                ),
            ),
            ("ranges", format!("from {} {source}", self.calibration.samples)),
            ("forecast", forecast(&self.forecast)),
            ("predicted", self.predicted.line()),
            ("costs", self.predicted.source()),
        ]))?;
        writeln!(f, "\nencrypted constants")?;
        let groups = self.groups.iter().map(|g| {
            let scale = format!("scale 2^{:.1}", g.scale_bits);
            [format!("  {}", g.name), g.count.to_string(), format!("level {}", g.level), scale, text::bytes(g.bytes)]
        });
        f.write_str(&text::table(&groups.collect::<Vec<_>>()))?;
        writeln!(f, "\nevaluation keys")?;
        let keys = self.keys.iter().map(|k| {
            let shape = format!("level {}, {} special primes, digits of {}", k.level, k.specials, k.digit);
            [format!("  {}", k.count), shape, text::bytes(k.bytes)]
        });
        f.write_str(&text::table(&keys.collect::<Vec<_>>()))?;
        writeln!(f)?;
        let heads =
            ["layers", "steps", "levels", "products", "key switches", "weights", "keys read", "predicted", "precision"];
        let mut rows = vec![heads.map(str::to_owned)];
        rows.extend(self.layers.iter().map(Layer::row));
        f.write_str(&text::table(&rows))?;
        writeln!(f)?;
        let heads = ["steps", "time", "level", "NTTs", "products", "key switches", "keys read", "weights read"];
        let mut steps = vec![heads.map(str::to_owned)];
        steps.push(numbers("prepare".into(), self.input_level, &self.predicted.prepare));
        steps.extend(self.steps.chunk_by(|a, b| a.step.name() == b.step.name()).filter_map(row));
        f.write_str(&text::table(&steps))?;
        writeln!(f)?;
        let heads = ["considered", "time", "error", "memory", "", "layouts"];
        let mut rows = vec![heads.map(str::to_owned)];
        rows.extend(self.alternatives.iter().map(considered));
        f.write_str(&text::table(&rows))?;
        if self.ranges.is_empty() {
            return Ok(());
        }
        writeln!(f, "\nranges of the layers")?;
        let ranges = self.ranges.iter().enumerate().map(|(i, r)| {
            [
                format!("  {i}"),
                format!("in up to {:.3}", r.input_max),
                format!("norm {:.3}", r.input_norm),
                format!("W x + b up to {:.3}", r.linear_max),
            ]
        });
        f.write_str(&text::table(&ranges.collect::<Vec<_>>()))
    }
}
