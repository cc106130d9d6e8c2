//! `protect --explain`: a plan for people.

use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use subrosa_fhe::{Kernel, KeyShape, Parameters, wire};
use subrosa_owner::Calibration;
use subrosa_plan::{Forecast, Plan, Ranges};
use subrosa_terminal::{Failure, text};

/// What the edge will execute and what is predicted of it.
#[derive(Serialize)]
pub(crate) struct PlanReport {
    log_n: u32,
    log_qp: f64,
    ciphertext_primes_bits: Vec<u32>,
    special_primes_bits: Vec<u32>,
    features: usize,
    input_level: usize,
    input_polynomials: usize,
    groups: Vec<Group>,
    keys: Vec<Keys>,
    steps: Vec<Value>,
    ranges: Vec<Ranges>,
    forecast: Forecast,
    calibration: Calibration,
}

/// Encrypted constants of one kind.
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

impl PlanReport {
    pub fn new(plan: &Plan, calibration: Calibration) -> Result<Self, Failure> {
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
            bytes: (g.count * wire::seeded_len(&parameters, g.level)) as u64,
        });
        let steps: Result<_, _> = program.steps.iter().map(serde_json::to_value).collect();
        let bits = |primes: &[u64]| primes.iter().map(|q| u64::BITS - q.leading_zeros()).collect();
        Ok(Self {
            log_n: spec.log_n,
            log_qp: plan.log_qp,
            ciphertext_primes_bits: bits(&spec.ciphertext_primes),
            special_primes_bits: bits(&spec.special_primes),
            features: program.input.features,
            input_level: program.input.level,
            input_polynomials: program.input.layout.polynomials(),
            groups: groups.collect(),
            keys: keys.collect(),
            steps: steps.map_err(Failure::failed)?,
            ranges: plan.ranges.clone(),
            forecast: plan.forecast,
            calibration,
        })
    }
}

/// The forecast in a line.
pub(crate) fn forecast(f: &Forecast) -> String {
    format!(
        "largest error {:.1e}, {:.1} bits of budget left, {:.1} bits below the security bound",
        f.max_abs_error, f.remaining_budget_bits, f.table_slack_bits
    )
}

/// A step in a line: its name and its numbers.
fn step(step: &Value) -> String {
    let Some(object) = step.as_object() else { return step.to_string() };
    let name = object.get("op").and_then(Value::as_str).unwrap_or_default();
    let numbers = object.iter().filter(|(_, v)| v.is_number() || v.is_boolean());
    numbers.fold(format!("{name:17}"), |line, (key, value)| format!("{line} {key}={value}"))
}

impl fmt::Display for PlanReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let primes = format!("{:?} bits, special {:?}", self.ciphertext_primes_bits, self.special_primes_bits);
        let source = if self.calibration.synthetic { "synthetic inputs" } else { "samples" };
        f.write_str(&text::fields(&[
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
        writeln!(f, "\nsteps")?;
        let mut rest = self.steps.as_slice();
        while let Some(first) = rest.first() {
            let same = rest.iter().take_while(|s| s.get("op") == first.get("op")).count();
            let more = if same > 1 { format!("  and {} more like it", same - 1) } else { String::new() };
            writeln!(f, "  {}{more}", step(first))?;
            rest = rest.get(same..).unwrap_or_default();
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
