//! Two or more protected layers: the first by diagonals in the slots, then activations, further layers by diagonals, and
//! the last by inner products in the coefficients.
//!
//! Levels: one prime is dropped after each linear map but the last, one after each squaring that another diagonal
//! layer follows; the last squaring is not relinearised before the last product. What remains at the bottom holds the last product,
//! is relinearised once and brought down to one prime, so that a result is small.

use crate::chain::{Post, Ranges, Stage, Trace};
use crate::errors::{Errors, sampled_size};
use crate::forecast::{Deviations, quadrature};
use crate::primes::{MAX_PRIME_BITS, PrimeChain, min_prime_bits, split_bits};
use crate::search::{ConstantKind, Draft, PlanRequest, declared};
use std::collections::{BTreeMap, BTreeSet};
use subrosa_fhe::{Galois, KeyId, ParameterSpec, Parameters};
use subrosa_program::layout::{CoefficientRows, Diagonals, Packing};
use subrosa_program::{ConstantGroup, InputLayout, InputSpec, KeyRequirement, OutputSpec, Program, Register, Step};

/// A giant step (two decompositions and a rotation of three parts) costs about this many baby steps (one inner product).
const GIANT_COST: f64 = 2.2;
/// An encrypted input is at most this many ciphertexts where the shape permits.
const MAX_INPUT_CIPHERTEXTS: usize = 2;

/// The vector that is carried from layer to layer.
struct Carried {
    reg: Register,
    level: usize,
    degree: usize,
    scale: f64,
    error: Errors,
}

/// A power of the carried value.
#[derive(Clone, Copy)]
struct Power {
    reg: Register,
    level: usize,
    scale: f64,
    /// Deviation that was added on the way: for any value, and for values like the samples'.
    added: [f64; 2],
}

struct Draftsman<'a> {
    dev: Deviations,
    parameters: Parameters,
    primes: PrimeChain,
    stages: &'a [Stage],
    ranges: &'a [Ranges],
    traces: &'a [Vec<Trace>],
    steps: Vec<Step>,
    constants: Vec<ConstantGroup>,
    kinds: Vec<ConstantKind>,
    /// Keys that are used together, and at which level: they get one shape.
    keys: Vec<(Vec<KeyId>, usize)>,
    registers: usize,
    message_scale: f64,
}

/// A candidate in the ring 2^log_n with messages at scale 2^precision; `None` if it does not fit.
pub(crate) fn draft(
    stages: &[Stage],
    ranges: &[Ranges],
    traces: &[Vec<Trace>],
    log_n: u32,
    precision: u32,
    request: &PlanRequest,
) -> Option<Draft> {
    let (first, first_range, last, last_range) = (stages.first()?, ranges.first()?, stages.last()?, ranges.last()?);
    let slots = 1usize << (log_n - 1);
    let message_scale = f64::from(precision).exp2();
    let layout = first_layout(first, slots, request.encrypted_input)?;
    let hidden = hidden_layouts(stages, slots, layout.row_period)?;
    let rows = CoefficientRows {
        n: 2 * slots,
        rows: last.rows,
        cols: last.cols,
        period: hidden.last().map_or(layout.row_period, |d| d.row_period),
    };

    let dev = Deviations::new(log_n);

    // The rounding of the first rescale, summed by the fold, sets the error that the other scales are balanced against.
    let parts = (2 * layout.span) as f64;
    let reference = dev.slots(dev.rescale()) * parts.sqrt() / message_scale;
    let weight_noise = dev.slots(dev.fresh()) * 2f64.sqrt() * first_range.input_norm;
    let input_deviation = if request.encrypted_input { dev.fresh_public() } else { dev.encoding() };
    let input_noise = dev.slots(input_deviation) * first.max_row_norm() / 2f64.sqrt();
    let scale_for = |noise: f64, error: f64| (noise / error).max(2.0).log2().round().exp2();
    let weight_scale = scale_for(weight_noise, reference);
    let input_scale = scale_for(input_noise, reference / 2.0);
    let first_drop =
        ((weight_scale * input_scale / message_scale).log2().round() as i64).max(min_prime_bits(log_n).into()) as u32;
    if first_drop > MAX_PRIME_BITS {
        return None;
    }

    // The last product: what its weights' noise may be, and the modulus that holds it.
    let square = stages.iter().rev().nth(1).is_some_and(|s| s.post == Post::Square);
    let before = ranges.iter().rev().nth(1)?;
    let gain = if square { 2.0 * last.max_weight() * before.linear_norm } else { last.max_row_norm() };
    let rms = last_range.input_norm / (rows.period as f64).sqrt();
    let last_scale = scale_for(dev.fresh() * rms * rows.period as f64, reference * gain / 2.0);
    let product_scale = last_scale * if square { message_scale * message_scale } else { message_scale };
    let result_bits = (product_scale * last_range.linear_max / rows.period as f64).log2();
    let message_bits = ranges.iter().map(|r| (message_scale * r.linear_max).log2()).fold(0.0, f64::max);
    let bottom = result_bits.max(message_bits).ceil() as u32 + 2;

    let mut bits = split_bits(bottom, log_n);
    let mut drops = vec![first_drop];
    let (last_post, hidden_posts) = stages.get(..stages.len() - 1)?.split_last()?;
    for stage in hidden_posts {
        drops.extend(post_drops(&stage.post, precision, log_n));
        drops.push(precision.max(min_prime_bits(log_n)));
    }
    if let Post::Polynomial(_) = last_post.post {
        drops.extend(post_drops(&last_post.post, precision, log_n));
    }
    bits.extend(drops.iter().rev());
    let primes = PrimeChain::new(log_n, &bits, true, request.security)?;
    let spec = ParameterSpec::new(log_n, primes.ciphertext.clone(), primes.special.clone(), request.security);
    let parameters = Parameters::new(spec, request.kernel).ok()?;
    let level = bits.len();

    let mut d = Draftsman {
        dev,
        parameters,
        primes,
        stages,
        ranges,
        traces,
        steps: Vec::new(),
        constants: Vec::new(),
        kinds: Vec::new(),
        keys: Vec::new(),
        registers: if request.encrypted_input { layout.tiles.len() } else { 0 },
        message_scale,
    };
    let mut v = if request.encrypted_input {
        d.first_cipher(&layout, level, input_scale)?
    } else {
        d.first_plain(&layout, level, input_scale)?
    };
    for (i, layout) in hidden.iter().enumerate() {
        v = d.activation(i, v, false)?;
        v = d.hidden(i + 1, layout, v)?;
    }
    v = d.activation(stages.len() - 2, v, true)?;
    let (output, error) = d.last(&rows, last_scale, v)?;
    let max_abs_error = error.forecast(&d.dev, last.rows);
    let input = InputSpec {
        features: first.cols,
        encrypted: request.encrypted_input,
        level,
        scale: input_scale,
        layout: InputLayout::Diagonals(layout),
        max_abs: declared(request.input.max_abs),
        max_norm: declared(request.input.max_norm),
    };
    d.finish(log_n, request, input, output, max_abs_error)
}

/// Sizes of the primes that evaluating what follows a linear map (not the last) drops, in order.
fn post_drops(post: &Post, precision: u32, log_n: u32) -> Vec<u32> {
    let count = match post {
        Post::Identity => 0,
        Post::Square => 1,
        Post::Polynomial(c) => polynomial_depth(c.len().saturating_sub(1)),
    };
    vec![precision.max(min_prime_bits(log_n)); count]
}

/// Levels of a polynomial of this degree: its powers by halving, and the products with its coefficients.
fn polynomial_depth(degree: usize) -> usize {
    degree.next_power_of_two().trailing_zeros() as usize + 1
}

fn first_layout(stage: &Stage, slots: usize, encrypted: bool) -> Option<Diagonals> {
    let packed = |giants, max_tiles| {
        let packing = Packing { span: usize::MAX, giants, max_tiles, complex: true };
        Diagonals::packed(slots, stage.rows, stage.cols, packing).ok()
    };
    if !encrypted {
        return packed(1, usize::MAX);
    }
    cheapest(|giants| packed(giants, MAX_INPUT_CIPHERTEXTS))
}

fn hidden_layouts(stages: &[Stage], slots: usize, first_period: usize) -> Option<Vec<Diagonals>> {
    let mut period = first_period;
    let mut out = Vec::new();
    for stage in stages.iter().take(stages.len() - 1).skip(1) {
        let layout = cheapest(|giants| Diagonals::periodic(slots, stage.rows, stage.cols, period, giants).ok())?;
        period = layout.row_period;
        out.push(layout);
    }
    if stages.last().is_some_and(|s| s.cols > slots) { None } else { Some(out) }
}

/// The split into baby and giant steps that costs least; the products with (padded) weights count a little too.
fn cheapest(layout: impl Fn(usize) -> Option<Diagonals>) -> Option<Diagonals> {
    let cost = |d: &Diagonals| {
        let babies: usize = d.tiles.iter().map(|t| t.babies).sum();
        babies as f64 + GIANT_COST * (d.giants - 1) as f64 + 0.1 * d.products() as f64
    };
    (0..8).filter_map(|g| layout(1 << g)).min_by(|a, b| cost(a).total_cmp(&cost(b)))
}

impl Draftsman<'_> {
    fn register(&mut self) -> Register {
        self.registers += 1;
        self.registers - 1
    }

    fn group(&mut self, name: &str, count: usize, level: usize, scale: f64, kind: ConstantKind) -> usize {
        self.constants.push(ConstantGroup { name: name.into(), count, level, scale });
        self.kinds.push(kind);
        self.constants.len() - 1
    }

    /// Notes keys that one step uses together at `level`.
    fn key_set(&mut self, ids: impl IntoIterator<Item = KeyId>, level: usize) {
        let needed = |id: &KeyId| id.galois != Galois::IDENTITY || id.power > 1;
        self.keys.push((ids.into_iter().filter(needed).collect(), level));
    }

    /// Deviation in the slots of `count` key products in one ModDown at `level`, times the scale.
    fn switch(&self, count: usize, level: usize) -> Option<f64> {
        Some(self.dev.slots(self.dev.key_switch(&self.parameters, self.primes.shape(level)?, level, count)))
    }

    /// The first layer with a plain input.
    fn first_plain(&mut self, layout: &Diagonals, level: usize, input_scale: f64) -> Option<Carried> {
        let dst = self.register();
        let weight_scale = self.message_scale * self.primes.top(level) / input_scale;
        let kind = ConstantKind::Diagonals { stage: 0, layout: layout.clone() };
        let weights = self.group("weights of layer 1", layout.products(), level, weight_scale, kind);
        self.steps.push(Step::DiagonalsPlain { weights, dst });
        self.steps.push(Step::Rescale { reg: dst });
        let error =
            self.product_error(0, weight_scale, &self.fresh_errors(self.dev.slots(self.dev.encoding()) / input_scale))?;
        let rounding = self.dev.slots(self.dev.rescale()) / self.message_scale;
        self.linear(
            0,
            layout,
            Carried { reg: dst, level: level - 1, degree: 1, scale: self.message_scale, error },
            rounding,
        )
    }

    /// The first layer with an encrypted input.
    fn first_cipher(&mut self, layout: &Diagonals, level: usize, input_scale: f64) -> Option<Carried> {
        let babies = layout.tiles.iter().map(|t| t.babies).max()?;
        let fresh = self.dev.slots(self.dev.fresh_public());
        let rotated = if babies > 1 { self.switch(1, level)? } else { 0.0 };
        let inputs = (0..layout.tiles.len()).collect();
        let error = self.fresh_errors(quadrature(&[fresh, rotated]) / input_scale);
        self.diagonals(0, layout, inputs, level, input_scale, &error)
    }

    /// A further layer, whose input is the carried vector.
    fn hidden(&mut self, stage: usize, layout: &Diagonals, v: Carried) -> Option<Carried> {
        let babies = layout.tiles.iter().map(|t| t.babies).max()?;
        let rotated = if babies > 1 { self.switch(1, v.level)? / v.scale } else { 0.0 };
        self.diagonals(stage, layout, vec![v.reg], v.level, v.scale, &v.error.plus(rotated))
    }

    /// Encrypted matrix times encrypted vector, rescaled, folded, with its bias.
    fn diagonals(
        &mut self,
        stage: usize,
        layout: &Diagonals,
        inputs: Vec<Register>,
        level: usize,
        input_scale: f64,
        input_error: &Errors,
    ) -> Option<Carried> {
        let weight_scale = self.message_scale * self.primes.top(level) / input_scale;
        let kind = ConstantKind::Diagonals { stage, layout: layout.clone() };
        let name = format!("weights of layer {}", stage + 1);
        let weights = self.group(&name, layout.products(), level, weight_scale, kind);
        let dst = self.register();
        self.steps.push(Step::DiagonalsCipher { layout: layout.clone(), inputs, weights, rescale: true, dst });
        for tile in &layout.tiles {
            self.key_set((1..tile.babies).map(|b| KeyId::new(Galois::rotation(b as u32), 1)), level);
        }
        let giants = (0..layout.giants).map(|g| Galois::rotation((g * layout.baby_stride) as u32));
        self.key_set(giants.flat_map(|g| [KeyId::new(g, 1), KeyId::new(g, 2)]), level);
        // The key switch happens before the division by the highest prime, its own ModDown is the rescale's rounding.
        let shape = self.primes.shape(level)?;
        let switched = self.dev.key_switch_rescale(&self.parameters, shape, level, 2 * layout.giants);
        let rounding = self.dev.slots(switched) / self.message_scale;
        let error = self.product_error(stage, weight_scale, input_error)?;
        let v = Carried { reg: dst, level: level - 1, degree: 1, scale: self.message_scale, error };
        self.linear(stage, layout, v, rounding)
    }

    /// The same error in every feature.
    fn fresh_errors(&self, deviation: f64) -> Errors {
        Errors::uniform(deviation, self.traces.first().map_or(&[], Vec::as_slice))
    }

    fn product_error(&self, stage: usize, weight_scale: f64, input: &Errors) -> Option<Errors> {
        let weight_error = self.dev.slots(self.dev.fresh()) / weight_scale;
        Some(input.product(self.stages.get(stage)?, self.ranges.get(stage)?, self.traces.get(stage)?, weight_error))
    }

    /// The fold and the bias behind a product; `rounding` is what every part brings before the fold.
    fn linear(&mut self, stage: usize, layout: &Diagonals, mut v: Carried, rounding: f64) -> Option<Carried> {
        let stages = layout.fold_stages(layout.fold_doublings().div_ceil(2) as usize);
        let mut parts = rounding * rounding;
        for fold in &stages {
            self.key_set(fold.iter().map(|g| KeyId::new(*g, 1)), v.level);
            let switched = self.switch(fold.len(), v.level)? / v.scale;
            parts = parts * (fold.len() + 1) as f64 + switched * switched;
        }
        if !stages.is_empty() {
            self.steps.push(Step::Fold { reg: v.reg, stages });
        }
        let bias = self.dev.slots(self.dev.fresh()) / v.scale;
        v.error = v.error.plus(quadrature(&[parts.sqrt(), bias]));
        let kind = ConstantKind::SlotBias { stage, layout: layout.clone() };
        let group = self.group(&format!("biases of layer {}", stage + 1), 1, v.level, v.scale, kind);
        self.steps.push(Step::AddConstant { reg: v.reg, group, index: 0 });
        Some(v)
    }

    /// What follows stage `stage`. Before the last product a square stays at degree 2.
    fn activation(&mut self, stage: usize, v: Carried, before_last: bool) -> Option<Carried> {
        let bound = self.ranges.get(stage)?.linear_max;
        match &self.stages.get(stage)?.post {
            Post::Identity => Some(v),
            Post::Square => {
                let dst = self.register();
                self.steps.push(Step::Multiply { a: v.reg, b: v.reg, dst });
                let error = v.error.squared(bound, self.traces.get(stage)?);
                let square = Carried { reg: dst, level: v.level, degree: 2, scale: v.scale * v.scale, error };
                if before_last {
                    return Some(square);
                }
                let (level, scale, added) = self.relinearize(dst, v.level, square.scale, bound * bound)?;
                Some(Carried { reg: dst, level, degree: 1, scale, error: square.error.plus(added) })
            }
            Post::Polynomial(coefficients) => self.polynomial(stage, coefficients, bound, v),
        }
    }

    /// Relinearisation with the rescale in the same division: level and scale behind it, and the deviation it adds. `None` if values
    /// up to `largest` would not fit the modulus before it, or nothing is left behind it.
    fn relinearize(&mut self, reg: Register, level: usize, scale: f64, largest: f64) -> Option<(usize, f64, f64)> {
        if (scale * largest).log2() + 1.0 > self.parameters.log_q(level) || level < 2 {
            return None;
        }
        self.key_set([KeyId::new(Galois::IDENTITY, 2)], level);
        self.steps.push(Step::Relinearize { reg, rescale: true });
        let scale = scale / self.primes.top(level);
        let switched = self.dev.key_switch_rescale(&self.parameters, self.primes.shape(level)?, level, 1);
        Some((level - 1, scale, self.dev.slots(switched) / scale))
    }

    /// sum_k c_k v^k: the powers that are needed by halving, each multiplied at a scale that brings all terms together.
    fn polynomial(&mut self, stage: usize, coefficients: &[f64], bound: f64, v: Carried) -> Option<Carried> {
        let traced = self.traces.get(stage)?;
        // What the steps add is multiplied by powers of the value: of any value, and of values like the samples'.
        let sizes = [bound, sampled_size(traced).map_or(bound, |s| s.min(bound))];
        let mut powers = BTreeMap::from([(1, Power { reg: v.reg, level: v.level, scale: v.scale, added: [0.0; 2] })]);
        for k in needed_powers(coefficients) {
            let (hi, lo) = (k.div_ceil(2), k / 2);
            let (a, b) = (*powers.get(&hi)?, *powers.get(&lo)?);
            let level = a.level.min(b.level);
            let a_reg = self.at_level(a.reg, a.level, level);
            let b_reg = if hi == lo { a_reg } else { self.at_level(b.reg, b.level, level) };
            let reg = self.register();
            self.steps.push(Step::Multiply { a: a_reg, b: b_reg, dst: reg });
            let (level, scale, switched) = self.relinearize(reg, level, a.scale * b.scale, bound.powi(k as i32))?;
            let mut added = [0.0; 2];
            for (i, size) in sizes.iter().enumerate() {
                let (ea, eb) = (a.added.get(i)?, b.added.get(i)?);
                let carried = size.powi(hi as i32) * eb + size.powi(lo as i32) * ea + ea * eb;
                *added.get_mut(i)? = quadrature(&[carried, switched]);
            }
            powers.insert(k, Power { reg, level, scale, added });
        }
        let level = powers.values().map(|p| p.level).min()?;
        let target = self.message_scale * self.primes.top(level);
        let mut sum: Option<Register> = None;
        let mut added = [0.0; 2];
        for (k, c) in coefficients.iter().enumerate().skip(1).filter(|(_, c)| **c != 0.0) {
            let p = *powers.get(&k)?;
            let src = self.at_level(p.reg, p.level, level);
            let dst = self.register();
            self.steps.push(Step::MultiplyScalar { src, value: *c, scale: target / p.scale, dst });
            for ((total, size), own) in added.iter_mut().zip(sizes).zip(p.added) {
                // A coefficient is rounded to a multiple of 1/scale.
                *total += c.abs() * own + 0.5 * p.scale / target * size.powi(k as i32);
            }
            match sum {
                None => sum = Some(dst),
                Some(acc) => self.steps.push(Step::Add { dst: acc, src: dst }),
            }
        }
        let reg = sum?;
        self.steps.push(Step::Rescale { reg });
        let constant = *coefficients.first()?;
        if constant != 0.0 {
            self.steps.push(Step::AddScalar { reg, value: constant });
        }
        let rounding = self.dev.slots(self.dev.rescale()) / self.message_scale;
        let [any, sampled] = added.map(|a| quadrature(&[a, rounding, 1.0 / self.message_scale]));
        let level = level.checked_sub(1).filter(|&l| l > 0)?;
        let error = v.error.mapped(coefficients, bound, self.traces.get(stage)?).plus_each(any, sampled);
        Some(Carried { reg, level, degree: 1, scale: self.message_scale, error })
    }

    fn at_level(&mut self, src: Register, from: usize, to: usize) -> Register {
        if from == to {
            return src;
        }
        let dst = self.register();
        self.steps.push(Step::DropLevel { src, level: to, dst });
        dst
    }

    /// The last layer, in the coefficients; returns where the outputs are and the deviation of their errors.
    fn last(&mut self, rows: &CoefficientRows, weight_scale: f64, v: Carried) -> Option<(OutputSpec, Errors)> {
        let stage = self.stages.len() - 1;
        let (s, r, traced) = (self.stages.last()?, self.ranges.last()?, self.traces.last()?);
        let count = rows.outputs();
        let kind = ConstantKind::Rows { stage, layout: rows.clone() };
        let weights = self.group(&format!("weights of layer {}", stage + 1), count, v.level, weight_scale, kind);
        let dst = self.registers;
        self.registers += count;
        self.steps.push(Step::CoefficientRows { layout: rows.clone(), src: v.reg, weights, dst });
        let mut scale = v.scale * weight_scale;
        let kind = ConstantKind::RowsBias { stage, layout: rows.clone() };
        let biases = self.group(&format!("biases of layer {}", stage + 1), count, v.level, scale, kind);
        self.key_set((2..=v.degree + 1).map(|power| KeyId::new(Galois::IDENTITY, power as u8)), v.level);
        let period = rows.period as f64;
        let switched = self.dev.key_switch(&self.parameters, self.primes.shape(v.level)?, v.level, v.degree);
        let mut rounding = switched / scale * period;
        let mut level = v.level;
        for o in 0..count {
            self.steps.push(Step::AddConstant { reg: dst + o, group: biases, index: o });
            self.steps.push(Step::Relinearize { reg: dst + o, rescale: level > 1 });
            for _ in 2..level {
                self.steps.push(Step::Rescale { reg: dst + o });
            }
        }
        while level > 1 {
            scale /= self.primes.top(level);
            level -= 1;
            rounding = quadrature(&[rounding, self.dev.rescale() / scale * period]);
        }
        // Noise of the weights in a coefficient: that of all coefficients of the input, whose norm is the slots' root mean
        // square.
        let weight_error = self.dev.fresh() * period.sqrt() / weight_scale;
        let fixed = quadrature(&[rounding, self.dev.fresh() * period / (v.scale * weight_scale)]);
        let error = v.error.inner_product(s, r, traced, weight_error).plus(fixed);
        let output = OutputSpec {
            registers: (dst..dst + count).collect(),
            positions: (0..s.rows).map(|k| rows.position(k)).collect(),
            factor: period,
            level,
            degree: 1,
            scale,
            max_abs: declared(r.linear_max),
        };
        Some((output, error))
    }

    fn finish(
        mut self,
        log_n: u32,
        request: &PlanRequest,
        input: InputSpec,
        output: OutputSpec,
        max_abs_error: f64,
    ) -> Option<Draft> {
        let mut keys = Vec::new();
        for (id, level) in key_levels(&self.keys) {
            keys.push(KeyRequirement { id, shape: self.primes.shape(level)? });
        }
        self.primes.keep_specials(keys.iter().map(|k| k.shape.specials).max().unwrap_or(0));
        let spec = ParameterSpec::new(log_n, self.primes.ciphertext, self.primes.special, request.security);
        let program = Program { parameters: spec, keys, input, constants: self.constants, steps: self.steps, output };
        Some(Draft { program, kinds: self.kinds, max_abs_error })
    }
}

/// The level of every key: the highest at which it, or any key that is used together with it, is needed.
fn key_levels(sets: &[(Vec<KeyId>, usize)]) -> BTreeMap<KeyId, usize> {
    let mut levels = BTreeMap::new();
    loop {
        let mut changed = false;
        for (ids, level) in sets {
            let highest = ids.iter().filter_map(|id| levels.get(id)).copied().max().unwrap_or(0).max(*level);
            for id in ids {
                changed |= levels.insert(*id, highest) != Some(highest);
            }
        }
        if !changed {
            return levels;
        }
    }
}

/// Powers above the first that a polynomial needs, with those they are multiplied from, ascending.
fn needed_powers(coefficients: &[f64]) -> BTreeSet<usize> {
    let mut open: Vec<usize> = coefficients.iter().enumerate().filter(|(_, c)| **c != 0.0).map(|(k, _)| k).collect();
    let mut needed = BTreeSet::new();
    while let Some(k) = open.pop() {
        if k > 1 && needed.insert(k) {
            open.extend([k.div_ceil(2), k / 2]);
        }
    }
    needed
}
