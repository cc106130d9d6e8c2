//! Executing a program on plaintext vectors, slot by slot, exactly or with noise of the forecast size.

use super::{Constant, Entry};
use crate::forecast::Deviations;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use subrosa_fhe::{Complex64, Galois, KeyId, KeyShape};
use subrosa_program::layout::CoefficientRows;
use subrosa_program::{InputLayout, Program, Register, Step};

/// Why a program cannot be simulated.
#[derive(Debug, thiserror::Error)]
#[error("the plan cannot be simulated: {0}")]
pub struct SimulateError(&'static str);

impl SimulateError {
    pub(crate) const OTHER_LENGTH: Self = Self("its input has another length");
}

/// What a simulated evaluation gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Simulation {
    /// The outputs.
    pub outputs: Vec<f64>,
    /// Largest |slot| that was seen on the way.
    pub largest: f64,
}

/// A simulated ciphertext.
#[derive(Clone)]
struct Vector {
    slots: Arc<Vec<Complex64>>,
    level: usize,
    scale: f64,
}

/// A simulated result of the last layer: coefficients by position.
type Rows = Vec<f64>;

struct Machine<'a> {
    program: &'a Program,
    constants: &'a [&'a Constant],
    dev: Deviations,
    shapes: BTreeMap<(KeyId, usize), KeyShape>,
    noise: Option<ChaCha8Rng>,
    vectors: BTreeMap<Register, Vector>,
    rows: BTreeMap<Register, Rows>,
    /// Level and scale of the results of the last layer, before they are divided.
    rows_at: (usize, f64),
    slots: usize,
    largest: f64,
}

/// How exact what a step writes is, on one input.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct StepError {
    /// The values' root mean square.
    pub values: f64,
    /// The errors'.
    pub errors: f64,
}

impl StepError {
    /// log2 of the values over their errors; infinite without an error.
    pub fn bits(&self) -> f64 {
        (self.values / self.errors).log2()
    }
}

/// Highest power of the secret that a result of the last layer has.
const MOST_POWERS: u8 = 3;

/// Runs `program` on one input. With a `seed` noise is added, of the deviations that the engine's model gives.
pub(crate) fn simulate(
    program: &Program,
    constants: &[&Constant],
    input: &[f64],
    seed: Option<u64>,
) -> Result<Simulation, SimulateError> {
    machine(program, constants, seed).run(input)
}

/// Runs `program` with and without noise, and compares what each step writes.
pub(crate) fn step_errors(
    program: &Program,
    constants: &[&Constant],
    input: &[f64],
    seed: u64,
) -> Result<Vec<StepError>, SimulateError> {
    let (mut exact, mut noisy) = (machine(program, constants, None), machine(program, constants, Some(seed)));
    let inputs = (exact.begin(input)?, noisy.begin(input)?);
    let mut errors = Vec::with_capacity(program.steps.len());
    for step in &program.steps {
        exact.step(step, &inputs.0)?;
        noisy.step(step, &inputs.1)?;
        let (mut values, mut differences, mut count) = (0.0, 0.0, 0usize);
        for register in step.results(&program.input.layout) {
            if let (Some(a), Some(b)) = (exact.rows.get(&register), noisy.rows.get(&register)) {
                values += a.iter().map(|a| a * a).sum::<f64>();
                differences += a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
                // Only a few of the coefficients are results.
                count += a.iter().zip(b).filter(|(a, b)| a != b).count();
            } else if let (Some(a), Some(b)) = (exact.vectors.get(&register), noisy.vectors.get(&register)) {
                values += a.slots.iter().map(Complex64::norm_sqr).sum::<f64>();
                differences += a.slots.iter().zip(b.slots.iter()).map(|(a, b)| (a - b).norm_sqr()).sum::<f64>();
                count += a.slots.len();
            }
        }
        let mean = |sum: f64| (sum / count.max(1) as f64).sqrt();
        errors.push(StepError { values: mean(values), errors: mean(differences) });
    }
    Ok(errors)
}

fn machine<'a>(program: &'a Program, constants: &'a [&'a Constant], seed: Option<u64>) -> Machine<'a> {
    let log_n = program.parameters.log_n;
    Machine {
        program,
        constants,
        dev: Deviations::new(log_n),
        shapes: program.keys.iter().map(|k| ((k.id, k.shape.level), k.shape)).collect(),
        noise: seed.map(ChaCha8Rng::seed_from_u64),
        vectors: BTreeMap::new(),
        rows: BTreeMap::new(),
        rows_at: (1, 1.0),
        slots: 1 << (log_n - 1),
        largest: 0.0,
    }
}

/// Variance that each row's coefficient gets from the other rows of its ciphertext. A vector that is real and periodic meets each row in its
/// own coefficient only; what noise adds to it does so in all of them: `(1/S) Re sum_s w_s e_s conj(zeta_s^m)` for a distance of m.
fn leaks<'a, I: Iterator<Item = &'a Complex64>>(
    layout: &CoefficientRows,
    rows: &[Vec<(u32, f64)>],
    copies_of: &impl Fn(u32) -> I,
    slots: usize,
) -> Vec<f64> {
    // For each place of a period, the sum of |e|^2 over its copies.
    let mut energies: BTreeMap<u32, f64> = BTreeMap::new();
    let mut energy = |slot: u32| {
        *energies.entry(slot).or_insert_with(|| {
            let mean = copies_of(slot).map(|x| x.re).sum::<f64>() / copies_of(slot).count().max(1) as f64;
            copies_of(slot).map(|x| (x - mean).norm_sqr()).sum()
        })
    };
    let size = (slots as f64) * (slots as f64);
    let own: Vec<f64> =
        rows.iter().map(|entries| entries.iter().map(|(slot, w)| w * w * energy(*slot) / 2.0 / size).sum()).collect();
    let mut all = vec![0.0; layout.outputs()];
    for (row, own) in own.iter().enumerate() {
        if let Some(sum) = all.get_mut(layout.position(row).0) {
            *sum += own;
        }
    }
    let others = |(row, own): (usize, &f64)| all.get(layout.position(row).0).copied().unwrap_or(0.0) - own;
    own.iter().enumerate().map(others).collect()
}

impl Machine<'_> {
    /// The input's vectors, in the registers if the edge encrypts them.
    fn begin(&mut self, input: &[f64]) -> Result<Vec<Vector>, SimulateError> {
        let spec = &self.program.input;
        let InputLayout::Tiles(tiles) = &spec.layout else {
            return Err(SimulateError("its input is not in tiles"));
        };
        let fresh = if spec.encrypted { self.dev.fresh_public() } else { self.dev.encoding() };
        let deviation = self.dev.slots(fresh) / spec.scale;
        let mut plain = Vec::new();
        for tile in 0..tiles.tiles.len() {
            let slots = tiles.input_slots(tile, input).into_iter().map(|x| Complex64::new(x, 0.0)).collect();
            plain.push(self.noisy(slots, deviation, spec.level, spec.scale));
        }
        if spec.encrypted {
            self.vectors.extend(plain.iter().cloned().enumerate());
        }
        Ok(plain)
    }

    fn run(&mut self, input: &[f64]) -> Result<Simulation, SimulateError> {
        let plain = self.begin(input)?;
        for step in &self.program.steps {
            self.step(step, &plain)?;
        }
        let output = &self.program.output;
        let mut outputs = Vec::with_capacity(output.positions.len());
        for (register, coefficient) in &output.positions {
            let rows = output.registers.get(*register).and_then(|r| self.rows.get(r));
            let value = rows.and_then(|r| r.get(*coefficient)).ok_or(SimulateError("an output is missing"))?;
            outputs.push(value * output.factor);
        }
        Ok(Simulation { outputs, largest: self.largest })
    }

    /// A vector with complex Gaussian noise of `E|.|^2 = deviation^2` in each slot.
    fn noisy(&mut self, mut slots: Vec<Complex64>, deviation: f64, level: usize, scale: f64) -> Vector {
        if let Some(rng) = &mut self.noise {
            let each = deviation * std::f64::consts::FRAC_1_SQRT_2;
            for slot in &mut slots {
                let (re, im): (f64, f64) = (rng.sample(StandardNormal), rng.sample(StandardNormal));
                *slot += Complex64::new(each * re, each * im);
            }
        }
        let largest = slots.iter().fold(0.0f64, |m, s| m.max(s.norm_sqr()));
        self.largest = self.largest.max(largest.sqrt());
        Vector { slots: Arc::new(slots), level, scale }
    }

    fn gaussian(&mut self, deviation: f64) -> f64 {
        self.noise.as_mut().map_or(0.0, |rng| deviation * rng.sample::<f64, _>(StandardNormal))
    }

    fn get(&self, register: Register) -> Result<Vector, SimulateError> {
        self.vectors.get(&register).cloned().ok_or(SimulateError("a register is read before it is written"))
    }

    fn log_primes(&self, level: usize) -> Vec<f64> {
        self.program.parameters.level_primes(level).into_iter().map(|q| (q as f64).log2()).collect()
    }

    /// Deviation in the slots of `count` key products with one division, times the scale behind it.
    fn switched(&self, id: KeyId, level: usize, count: usize, rescale: bool) -> f64 {
        self.dev.slots(self.switched_coefficients(id, level, count, rescale))
    }

    /// The same in the coefficients.
    fn switched_coefficients(&self, id: KeyId, level: usize, count: usize, rescale: bool) -> f64 {
        let shape = self.shapes.range((id, level)..=(id, usize::MAX)).next();
        let Some((_, shape)) = shape else { return self.dev.rescale() };
        let logs = self.log_primes(level);
        let digits: Vec<f64> = logs.chunks(shape.digit.max(1)).map(|d| d.iter().sum()).collect();
        let specials = self.program.parameters.special_primes.iter().take(shape.specials);
        let log_p = specials.map(|&p| (p as f64).log2()).sum();
        if rescale {
            self.dev.key_switch_rescale(&digits, log_p, self.top(level).log2(), count)
        } else {
            self.dev.key_switch(&digits, log_p, count)
        }
    }

    /// The noise of the keys in a result of the last layer; that of the divisions behind is already there.
    fn relinearize_rows(&mut self, register: Register, rescale: bool) {
        let (level, scale) = self.rows_at;
        let powers = || (2..=MOST_POWERS).map(|power| KeyId::new(Galois::IDENTITY, power));
        let has = |id: &KeyId| self.shapes.range((*id, level)..=(*id, usize::MAX)).next().is_some();
        let count = powers().filter(has).count().max(1);
        let behind = if rescale { scale / self.top(level) } else { scale };
        let id = KeyId::new(Galois::IDENTITY, 2);
        let deviation = self.switched_coefficients(id, level, count, rescale) / behind;
        if let Some(mut rows) = self.rows.remove(&register) {
            rows.iter_mut().for_each(|value| *value += self.gaussian(deviation));
            self.rows.insert(register, rows);
        }
    }

    /// Deviation in the coefficients of a constant: of its encryption, or of its rounding.
    fn constant_deviation(&self, group: usize) -> f64 {
        let plain = self.program.constants.get(group).is_some_and(|g| g.plain);
        if plain { self.dev.encoding() } else { self.dev.fresh() }
    }

    fn top(&self, level: usize) -> f64 {
        self.program.parameters.rescale_factor(level).unwrap_or(1.0)
    }

    fn entries(&self, group: usize, index: usize) -> Result<(&[Entry], usize), SimulateError> {
        match self.constants.get(group).copied() {
            Some(Constant::Slots { entries, period }) => {
                let entries = entries.get(index).ok_or(SimulateError("a constant is missing"))?;
                Ok((entries, *period))
            }
            _ => Err(SimulateError("a constant is of another kind")),
        }
    }

    fn turned(&self, x: &[Complex64], galois: Galois) -> Vec<Complex64> {
        let by = galois.rotation as usize;
        let turned = x.iter().cycle().skip(by % self.slots).take(self.slots);
        if galois.conjugate { turned.map(Complex64::conj).collect() } else { turned.copied().collect() }
    }

    /// `out[s - giant] += w x[s]`.
    fn accumulate(&self, out: &mut [Complex64], (entries, period): (&[Entry], usize), x: &[Complex64], giant: usize) {
        // The slots are a power of two.
        let mask = self.slots - 1;
        for entry in entries {
            let mut at = entry.slot();
            while at < self.slots {
                let (Some(x), Some(to)) = (x.get(at), out.get_mut((at + self.slots - giant) & mask)) else {
                    break;
                };
                *to += if entry.is_imaginary() { Complex64::new(-x.im, x.re) * entry.value } else { x * entry.value };
                at += period;
            }
        }
    }

    fn step(&mut self, step: &Step, plain: &[Vector]) -> Result<(), SimulateError> {
        let zero = vec![Complex64::default(); self.slots];
        match step {
            Step::Linear { products, rescale, dst } => {
                for (i, &dst) in dst.iter().enumerate() {
                    let mut out = zero.clone();
                    let (mut variance, mut scale, mut level, mut giants, mut degree) = (0.0, 1.0, 1, 0, 2);
                    for product in products {
                        let group =
                            self.program.constants.get(product.weights).ok_or(SimulateError("no such group"))?;
                        let weight_noise = self.dev.slots(self.constant_deviation(product.weights)) / group.scale;
                        let terms = product.terms();
                        degree = if group.plain { 1 } else { 2 };
                        giants += product.giants.len();
                        level = group.level;
                        for (t, register) in product.inputs.get(i).into_iter().flatten().enumerate() {
                            let x = self.get(*register)?;
                            scale = x.scale * group.scale;
                            let energy: f64 = x.slots.iter().map(Complex64::norm_sqr).sum();
                            variance +=
                                product.giants.len() as f64 * weight_noise * weight_noise * energy / self.slots as f64;
                            for (g, giant) in product.giants.iter().enumerate() {
                                let weights = self.entries(product.weights, g * terms + t)?;
                                self.accumulate(&mut out, weights, &x.slots, giant.rotation as usize);
                            }
                        }
                    }
                    let (level_behind, scale) =
                        if *rescale { (level - 1, scale / self.top(level)) } else { (level, scale) };
                    // All keys of a step have one shape.
                    let elements = || products.iter().flat_map(|p| &p.giants);
                    let turned = elements().find(|g| **g != Galois::IDENTITY).unwrap_or(&Galois::IDENTITY);
                    let count = degree * giants - usize::from(elements().any(|g| *g == Galois::IDENTITY));
                    let id = KeyId::new(*turned, degree as u8);
                    let switched = self.switched(id, level, count, *rescale) / scale;
                    let deviation = (variance + switched * switched).sqrt();
                    let made = self.noisy(out, deviation, level_behind, scale);
                    self.vectors.insert(dst, made);
                }
            }
            Step::LinearPlain { weights, inputs, dst } => {
                let group = self.program.constants.get(*weights).ok_or(SimulateError("no such group"))?;
                let weight_noise = self.dev.slots(self.dev.fresh()) / group.scale;
                for (terms, &dst) in inputs.iter().zip(dst) {
                    let (mut out, mut variance, mut scale) = (zero.clone(), 0.0, group.scale);
                    for (t, tile) in terms.iter().enumerate() {
                        let x = plain.get(*tile).ok_or(SimulateError("an input is missing"))?;
                        scale = x.scale * group.scale;
                        let energy: f64 = x.slots.iter().map(Complex64::norm_sqr).sum();
                        variance += weight_noise * weight_noise * energy / self.slots as f64;
                        self.accumulate(&mut out, self.entries(*weights, t)?, &x.slots, 0);
                    }
                    let made = self.noisy(out, variance.sqrt(), group.level, scale);
                    self.vectors.insert(dst, made);
                }
            }
            Step::Rotate { src, elements, dst } => {
                let x = self.get(*src)?;
                for (i, galois) in elements.iter().enumerate() {
                    let slots = self.turned(&x.slots, *galois);
                    let deviation = self.switched(KeyId::new(*galois, 1), x.level, 1, false) / x.scale;
                    let made = self.noisy(slots, deviation, x.level, x.scale);
                    self.vectors.insert(dst + i, made);
                }
            }
            Step::Parts { src, re, im } => {
                let x = self.get(*src)?;
                let conjugate = Galois { rotation: 0, conjugate: true };
                let deviation = self.switched(KeyId::new(conjugate, 1), x.level, 1, false) / x.scale;
                let turned = self.turned(&x.slots, conjugate);
                let turned = self.noisy(turned, deviation, x.level, x.scale);
                let both = x.slots.iter().zip(turned.slots.iter());
                let sum = both.clone().map(|(a, b)| a + b).collect();
                let difference = both.map(|(a, b)| (a - b) * Complex64::new(0.0, -1.0)).collect();
                for (register, slots) in [(*re, sum), (*im, difference)] {
                    let made = self.noisy(slots, 0.0, x.level, x.scale);
                    self.vectors.insert(register, made);
                }
            }
            Step::Combine { re, im, dst } => {
                let (a, b) = (self.get(*re)?, self.get(*im)?);
                let slots = a.slots.iter().zip(b.slots.iter()).map(|(a, b)| a + b * Complex64::i()).collect();
                let made = self.noisy(slots, 0.0, a.level, a.scale);
                self.vectors.insert(*dst, made);
            }
            Step::Fold { reg, stages } => {
                for stage in stages {
                    let x = self.get(*reg)?;
                    let mut sum = x.slots.to_vec();
                    for galois in stage {
                        sum.iter_mut().zip(self.turned(&x.slots, *galois)).for_each(|(s, t)| *s += t);
                    }
                    let id = stage.first().map_or(KeyId::new(Galois::IDENTITY, 2), |g| KeyId::new(*g, 1));
                    let deviation = self.switched(id, x.level, stage.len(), false) / x.scale;
                    let made = self.noisy(sum, deviation, x.level, x.scale);
                    self.vectors.insert(*reg, made);
                }
            }
            Step::AddConstant { reg, group, index } => {
                if let Some(Constant::RowsBias { layout, bias }) = self.constants.get(*group).copied() {
                    let rows = self.rows.get_mut(reg).ok_or(SimulateError("a bias has nothing to be added to"))?;
                    for (row, value) in bias.iter().enumerate() {
                        let (output, at) = layout.position(row);
                        if let (true, Some(place)) = (output == *index, rows.get_mut(at)) {
                            *place += value / layout.period as f64;
                        }
                    }
                    return Ok(());
                }
                let x = self.get(*reg)?;
                let mut slots = x.slots.to_vec();
                let one = vec![Complex64::new(1.0, 0.0); self.slots];
                self.accumulate(&mut slots, self.entries(*group, *index)?, &one, 0);
                let deviation = self.dev.slots(self.constant_deviation(*group)) / x.scale;
                let made = self.noisy(slots, deviation, x.level, x.scale);
                self.vectors.insert(*reg, made);
            }
            Step::Multiply { a, b, dst } => {
                let (a, b) = (self.get(*a)?, self.get(*b)?);
                let slots = a.slots.iter().zip(b.slots.iter()).map(|(a, b)| a * b).collect();
                let made = self.noisy(slots, 0.0, a.level, a.scale * b.scale);
                self.vectors.insert(*dst, made);
            }
            Step::Relinearize { reg, rescale } => {
                if self.rows.contains_key(reg) {
                    self.relinearize_rows(*reg, *rescale);
                    return Ok(());
                }
                let x = self.get(*reg)?;
                let (level, scale) =
                    if *rescale { (x.level - 1, x.scale / self.top(x.level)) } else { (x.level, x.scale) };
                let deviation = self.switched(KeyId::new(Galois::IDENTITY, 2), x.level, 1, *rescale) / scale;
                let made = self.noisy(x.slots.to_vec(), deviation, level, scale);
                self.vectors.insert(*reg, made);
            }
            Step::Rescale { reg } => {
                if self.rows.contains_key(reg) {
                    return Ok(());
                }
                let x = self.get(*reg)?;
                let scale = x.scale / self.top(x.level);
                let deviation = self.dev.slots(self.dev.rescale()) / scale;
                let made = self.noisy(x.slots.to_vec(), deviation, x.level - 1, scale);
                self.vectors.insert(*reg, made);
            }
            Step::MultiplyScalar { src, value, scale, dst } => {
                let x = self.get(*src)?;
                let rounded = (value * scale).round() / scale;
                let slots = x.slots.iter().map(|s| s * rounded).collect();
                let made = self.noisy(slots, 0.0, x.level, x.scale * scale);
                self.vectors.insert(*dst, made);
            }
            Step::AddScalar { reg, value } => {
                let x = self.get(*reg)?;
                let slots = x.slots.iter().map(|s| s + value).collect();
                let made = self.noisy(slots, 0.0, x.level, x.scale);
                self.vectors.insert(*reg, made);
            }
            Step::Add { dst, src } => {
                if let (Some(b), true) = (self.rows.get(src).cloned(), self.rows.contains_key(dst)) {
                    let a = self.rows.entry(*dst).or_default();
                    a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
                    return Ok(());
                }
                let (a, b) = (self.get(*dst)?, self.get(*src)?);
                let slots = a.slots.iter().zip(b.slots.iter()).map(|(a, b)| a + b).collect();
                let made = self.noisy(slots, 0.0, a.level, a.scale);
                self.vectors.insert(*dst, made);
            }
            Step::DropLevel { src, level, dst } => {
                let x = self.get(*src)?;
                self.vectors.insert(*dst, Vector { level: *level, ..x });
            }
            Step::CoefficientRows { layout, src, weights, dst } => {
                let x = self.get(*src)?;
                let Some(Constant::Rows { rows, .. }) = self.constants.get(*weights).copied() else {
                    return Err(SimulateError("a constant is of another kind"));
                };
                let group = self.program.constants.get(*weights).ok_or(SimulateError("no such group"))?;
                let period = layout.period as f64;
                let energy: f64 = x.slots.iter().map(Complex64::norm_sqr).sum::<f64>() / self.slots as f64;
                let output = &self.program.output;
                let bottom = self.dev.rescale() / output.scale;
                let fresh = self.constant_deviation(*weights) / group.scale;
                let deviation = (bottom * bottom + fresh * fresh * energy).sqrt();
                self.rows_at = (x.level, x.scale * group.scale);
                let mut results = vec![vec![0.0; 2 * self.slots]; layout.outputs()];
                // All copies of a period, as the coefficient has them.
                let copies = self.slots / layout.period;
                let copies_of = |slot: u32| x.slots.iter().skip(slot as usize).step_by(layout.period);
                let leaks = self.noise.is_some().then(|| leaks(layout, rows, &copies_of, self.slots));
                for (row, entries) in rows.iter().enumerate() {
                    let total = |slot: u32| copies_of(slot).map(|x| x.re).sum::<f64>();
                    let sum: f64 = entries.iter().map(|(slot, w)| w * total(*slot)).sum();
                    let leak = leaks.as_ref().and_then(|leaks| leaks.get(row)).copied().unwrap_or(0.0);
                    let value = sum / copies as f64 / period + self.gaussian((deviation * deviation + leak).sqrt());
                    let (output, at) = layout.position(row);
                    if let Some(place) = results.get_mut(output).and_then(|r| r.get_mut(at)) {
                        *place = value;
                    }
                }
                for (o, result) in results.into_iter().enumerate() {
                    self.rows.insert(dst + o, result);
                }
            }
            Step::DiagonalsPlain { .. } | Step::DiagonalsCipher { .. } | Step::CoefficientDot { .. } => {
                return Err(SimulateError("it has steps of a chain of dense layers"));
            }
        }
        Ok(())
    }
}
