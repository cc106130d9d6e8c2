//! Two or more protected layers: the first by diagonals in the slots, then activations, further layers by diagonals, and
//! the last by inner products in the coefficients.
//!
//! Levels: one prime is dropped after each linear map but the last, one after each squaring that another diagonal
//! layer follows; the last squaring is not relinearised before the last product. What remains at the bottom holds the last product,
//! is relinearised once and brought down to one prime, so that a result is small.

mod activation;
mod scales;

use crate::chain::{Ranges, Stage, Trace};
use crate::cost::{Arithmetic, KeyWork};
use crate::errors::Errors;
use crate::forecast::{Deviations, quadrature};
use crate::keys::{KeyChooser, KeySet, Shapes, Use};
use crate::layouts::{Layer, Source, rotations};
use crate::plan::{ConstantKind, Draft, declared};
use crate::primes::PrimeChain;
use crate::search::{Choice, RingContext, Task};
use scales::{post_drops, scales};
use subrosa_fhe::{Galois, KeyId, ParameterSpec};
use subrosa_program::layout::{CoefficientRows, Diagonals};
use subrosa_program::{ConstantGroup, InputLayout, InputSpec, OutputSpec, Program, Register, Step};

/// The vector that is carried from layer to layer.
struct Carried {
    reg: Register,
    level: usize,
    degree: usize,
    scale: f64,
    error: Errors,
}

struct Draftsman<'a> {
    dev: Deviations,
    primes: PrimeChain,
    stages: &'a [Stage],
    ranges: &'a [Ranges],
    traces: &'a [Vec<Trace>],
    steps: Vec<Step>,
    constants: Vec<ConstantGroup>,
    kinds: Vec<ConstantKind>,
    sets: Vec<KeySet>,
    /// The keys' shapes; without them errors leave out the keys' noise.
    shapes: Option<&'a Shapes>,
    registers: usize,
    message_scale: f64,
}

/// A program for this choice, without its keys; `None` if it does not fit. Given the keys' shapes its error is forecast, else the
/// error is a number without meaning.
pub(crate) fn draft(
    task: &Task<'_>,
    ring: &mut RingContext,
    choice: &Choice,
    shapes: Option<&Shapes>,
) -> Option<Draft> {
    let (first, last) = (task.stages.first()?, task.stages.last()?);
    let (layer, hidden) = choice.layers.split_first()?;
    let scales = scales(task, ring, choice)?;
    let primes = PrimeChain::new(&mut ring.primes, &scales.bits, scales.special_bits, ring.bound)?;
    let (encrypted, level) = (task.request.encrypted_input, scales.bits.len());
    let mut d = Draftsman {
        dev: ring.dev,
        primes,
        stages: &task.stages,
        ranges: &task.ranges,
        traces: if shapes.is_some() { &task.traces } else { &task.untraced },
        steps: Vec::new(),
        constants: Vec::new(),
        kinds: Vec::new(),
        sets: Vec::new(),
        shapes,
        registers: if encrypted { layer.layout.tiles.len() } else { 0 },
        message_scale: scales.message,
    };
    let mut v = if encrypted {
        d.first_cipher(layer, level, scales.input)?
    } else {
        d.first_plain(layer, level, scales.input)?
    };
    for (i, layer) in hidden.iter().enumerate() {
        v = d.activation(i, v, false)?;
        v = d.hidden(i + 1, layer, v)?;
    }
    v = d.activation(task.stages.len() - 2, v, true)?;
    let (output, error) = d.last(&scales.rows, scales.last, v)?;
    let input = InputSpec {
        features: first.cols,
        encrypted,
        level,
        scale: scales.input,
        layout: InputLayout::Diagonals(layer.layout.clone()),
        normalise: Vec::new(),
        max_abs: declared(task.request.input.max_abs),
        max_norm: declared(task.request.input.max_norm),
    };
    let max_abs_error = error.forecast(&d.dev, last.rows);
    let Draftsman { primes, steps, constants, kinds, sets, .. } = d;
    let (q, p) = (primes.ciphertext.clone(), primes.special.clone());
    let parameters = ParameterSpec::new(ring.log_n, q, p, task.request.security);
    let program = Program { parameters, keys: Vec::new(), input, constants, steps, output, integers: None };
    Draft { program, kinds, max_abs_error, sets, primes }.that_fits(&task.stages)
}

/// Layouts to begin with.
pub(crate) fn first_layers(task: &Task<'_>, ring: &RingContext) -> Option<Vec<Layer>> {
    let mut source = first_source(task);
    let mut layers = Vec::new();
    for stage in task.stages.split_last()?.1 {
        let layer = Layer::first_guess(stage, ring.slots(), source)?;
        source = Source::Periodic(layer.layout.row_period);
        layers.push(layer);
    }
    if task.stages.last()?.cols > ring.slots() { None } else { Some(layers) }
}

/// The layouts of least predicted cost for the primes that `choice` leads to; the first layer with so many giant steps, if given.
pub(crate) fn cheapest_layers(
    task: &Task<'_>,
    ring: &mut RingContext,
    choice: &Choice,
    giants: Option<usize>,
) -> Option<Vec<Layer>> {
    let scales = scales(task, ring, choice)?;
    let primes = PrimeChain::new(&mut ring.primes, &scales.bits, scales.special_bits, ring.bound)?;
    let keys = chooser(task, ring, choice, &primes);
    let mut source = first_source(task);
    let mut level = scales.bits.len();
    let mut layers = Vec::new();
    for (i, stage) in task.stages.split_last()?.1.iter().enumerate() {
        let layer = Layer::cheapest(stage, ring.slots(), source, level, &keys, giants.filter(|_| i == 0))?;
        source = Source::Periodic(layer.layout.row_period);
        layers.push(layer);
        level = level
            .checked_sub(1 + post_drops(&stage.post, choice.precision, ring.log_n).len())
            .filter(|&l| l > 0)
            .unwrap_or(1);
    }
    Some(layers)
}

/// What the keys of a draft are chosen by.
pub(crate) fn chooser<'a>(
    task: &'a Task<'_>,
    ring: &RingContext,
    choice: &Choice,
    primes: &'a PrimeChain,
) -> KeyChooser<'a> {
    KeyChooser {
        primes,
        arithmetic: Arithmetic::new(task.request.costs, ring.log_n, &primes.ciphertext, &primes.special),
        dev: ring.dev,
        tolerance: choice.tolerance,
        per_byte: choice.per_byte,
    }
}

fn first_source(task: &Task<'_>) -> Source {
    if task.request.encrypted_input { Source::Encrypted } else { Source::Plain }
}

impl Draftsman<'_> {
    fn register(&mut self) -> Register {
        self.registers += 1;
        self.registers - 1
    }

    fn group(&mut self, name: &str, count: usize, level: usize, scale: f64, kind: ConstantKind) -> usize {
        self.constants.push(ConstantGroup { name: name.into(), count, level, scale, plain: false });
        self.kinds.push(kind);
        self.constants.len() - 1
    }

    /// Notes keys that one step uses together.
    fn key_set(&mut self, ids: impl IntoIterator<Item = KeyId>, used: Use) {
        let needed = |id: &KeyId| id.galois != Galois::IDENTITY || id.power > 1;
        let ids: Vec<KeyId> = ids.into_iter().filter(needed).collect();
        if !ids.is_empty() {
            self.sets.push(KeySet { ids, uses: vec![used] });
        }
    }

    /// Keys whose division's own rounding is what there is beside their noise.
    fn rounded_keys(&mut self, ids: impl IntoIterator<Item = KeyId>, level: usize, work: KeyWork) {
        let used = Use::rounded(&self.dev, &self.primes, level, work);
        self.key_set(ids, used);
    }

    /// Deviation in the slots of `count` products with keys of the set of `id` in one division at `level`, times the scale.
    fn switch(&self, id: KeyId, count: usize, level: usize) -> Option<f64> {
        Some(self.dev.slots(self.switch_coefficients(id, count, level)?))
    }

    fn switch_coefficients(&self, id: KeyId, count: usize, level: usize) -> Option<f64> {
        let Some(shapes) = self.shapes else { return Some(0.0) };
        let shape = shapes.get(&id)?;
        let digits = self.primes.log_digits(shape.digit, level);
        Some(self.dev.key_switch(&digits, self.primes.log_p(shape.specials), count))
    }

    /// The same with the highest prime dropped in the same division; times the scale behind it.
    fn switch_rescaled(&self, id: KeyId, count: usize, level: usize) -> Option<f64> {
        let Some(shapes) = self.shapes else { return Some(0.0) };
        let shape = shapes.get(&id)?;
        let (digits, log_p) = (self.primes.log_digits(shape.digit, level), self.primes.log_p(shape.specials));
        Some(self.dev.slots(self.dev.key_switch_rescale(&digits, log_p, self.primes.log_top(level), count)))
    }

    /// The first layer with a plain input.
    fn first_plain(&mut self, layer: &Layer, level: usize, input_scale: f64) -> Option<Carried> {
        let (dst, layout) = (self.register(), &layer.layout);
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
            layer,
            Carried { reg: dst, level: level - 1, degree: 1, scale: self.message_scale, error },
            rounding,
        )
    }

    /// The first layer with an encrypted input.
    fn first_cipher(&mut self, layer: &Layer, level: usize, input_scale: f64) -> Option<Carried> {
        let fresh = self.dev.slots(self.dev.fresh_public());
        let rotated = self.rotated(&layer.layout, Source::Encrypted, level)?;
        let inputs = (0..layer.layout.tiles.len()).collect();
        let error = self.fresh_errors(quadrature(&[fresh, rotated]) / input_scale);
        self.diagonals(0, layer, inputs, level, input_scale, &error)
    }

    /// A further layer, whose input is the carried vector.
    fn hidden(&mut self, stage: usize, layer: &Layer, v: Carried) -> Option<Carried> {
        let source = Source::Periodic(layer.layout.input_period?);
        let rotated = self.rotated(&layer.layout, source, v.level)? / v.scale;
        self.diagonals(stage, layer, vec![v.reg], v.level, v.scale, &v.error.plus(rotated))
    }

    /// The keys of the baby steps, and the deviation that they bring, in the slots, times the scale.
    fn rotated(&mut self, layout: &Diagonals, source: Source, level: usize) -> Option<f64> {
        let mut most = 1;
        for tile in layout.tiles.iter().filter(|t| t.babies > 1) {
            let used = rotations(tile.babies - 1, source, level, &self.dev, &self.primes);
            self.key_set((1..tile.babies).map(|b| KeyId::new(Galois::rotation(b as u32), 1)), used);
            most = most.max(tile.babies);
        }
        if most > 1 { self.switch(KeyId::new(Galois::rotation(1), 1), 1, level) } else { Some(0.0) }
    }

    /// Encrypted matrix times encrypted vector, rescaled, folded, with its bias.
    fn diagonals(
        &mut self,
        stage: usize,
        layer: &Layer,
        inputs: Vec<Register>,
        level: usize,
        input_scale: f64,
        input_error: &Errors,
    ) -> Option<Carried> {
        if level < 2 {
            return None;
        }
        let layout = &layer.layout;
        let weight_scale = self.message_scale * self.primes.top(level) / input_scale;
        let kind = ConstantKind::Diagonals { stage, layout: layout.clone() };
        let name = format!("weights of layer {}", stage + 1);
        let weights = self.group(&name, layout.products(), level, weight_scale, kind);
        let dst = self.register();
        self.steps.push(Step::DiagonalsCipher { layout: layout.clone(), inputs, weights, rescale: true, dst });
        let giants = (0..layout.giants).map(|g| layout.giant(g));
        let ids = giants.flat_map(|g| [KeyId::new(g, 1), KeyId::new(g, 2)]);
        self.rounded_keys(ids, level, KeyWork::giants(layout.giants, true));
        // The key switch happens before the division by the highest prime, its own rounding is the rescale's.
        let square = KeyId::new(Galois::IDENTITY, 2);
        let rounding = self.switch_rescaled(square, 2 * layout.giants, level)? / self.message_scale;
        let error = self.product_error(stage, weight_scale, input_error)?;
        let v = Carried { reg: dst, level: level - 1, degree: 1, scale: self.message_scale, error };
        self.linear(stage, layer, v, rounding)
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
    fn linear(&mut self, stage: usize, layer: &Layer, mut v: Carried, rounding: f64) -> Option<Carried> {
        let stages = layer.layout.fold_stages(layer.folds);
        let mut parts = rounding * rounding;
        for fold in &stages {
            self.rounded_keys(fold.iter().map(|g| KeyId::new(*g, 1)), v.level, KeyWork::fold(fold.len()));
            let switched = self.switch(KeyId::new(*fold.first()?, 1), fold.len(), v.level)? / v.scale;
            parts = parts * (fold.len() + 1) as f64 + switched * switched;
        }
        if !stages.is_empty() {
            self.steps.push(Step::Fold { reg: v.reg, stages });
        }
        let bias = self.dev.slots(self.dev.fresh()) / v.scale;
        v.error = v.error.plus(quadrature(&[parts.sqrt(), bias]));
        let kind = ConstantKind::SlotBias { stage, layout: layer.layout.clone() };
        let group = self.group(&format!("biases of layer {}", stage + 1), 1, v.level, v.scale, kind);
        self.steps.push(Step::AddConstant { reg: v.reg, group, index: 0 });
        Some(v)
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
        let work = KeyWork::relinearize(v.degree + 1, v.level > 1).times(count);
        self.rounded_keys((2..=v.degree + 1).map(|power| KeyId::new(Galois::IDENTITY, power as u8)), v.level, work);
        let period = rows.period as f64;
        let switched = self.switch_coefficients(KeyId::new(Galois::IDENTITY, 2), v.degree, v.level)?;
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
}
