//! Programs of integers: the layouts and steps of a chain in CKKS, with moduli made for BGV's noise.
//!
//! Levels: one is left behind each product by diagonals and each square that another such product follows, so that noise stays near
//! that of a rounding; what then remains holds the last product, which is relinearised once, and level 1 the result. A level's primes
//! are among those of the level above, and a rescale may drop more than one.

use crate::chain::Stage;
use crate::cost::{Arithmetic, KeyWork};
use crate::forecast::Deviations;
use crate::keys::{KeyChooser, KeySet, Shapes, Use};
use crate::layouts::{Layer, Source, rotations};
use crate::plan::ConstantKind;
use crate::primes::{PrimeChain, split_bits};
use crate::search::{RingContext, Special};
use subrosa_fhe::{ExactNoise, Galois, KeyId, NoiseModel, ParameterSpec, SecurityLevel};
use subrosa_program::layout::{CoefficientDot, CoefficientRows};
use subrosa_program::{
    ConstantGroup, InputLayout, InputSpec, Integers, KeyRequirement, OutputSpec, Program, Register, Step,
};

/// What all candidates share.
pub(super) struct Wanted<'a> {
    pub stages: &'a [Stage],
    pub encrypted: bool,
    pub security: SecurityLevel,
    /// What the program says of input and output; its budget is set later.
    pub integers: Integers,
    pub max_abs: f64,
    pub max_norm: f64,
    pub output_max: f64,
    pub costs: &'a crate::cost::CostModel,
}

/// What a candidate decides.
#[derive(Debug, Clone)]
pub(super) struct Choice {
    /// The largest of the plaintext moduli.
    pub t: u64,
    /// Bits of noise above the least possible that is left by a rescale.
    pub slack: f64,
    pub special: Special,
    pub tolerance: f64,
    /// Bits that the modulus of the last product and that of the result have above what was estimated.
    pub extra: [f64; 2],
    pub layers: Vec<Layer>,
}

/// A program without scales, and what its constants hold.
pub(super) struct Draft {
    pub program: Program,
    pub kinds: Vec<ConstantKind>,
    pub layers: Vec<Layer>,
}

/// Bits of the levels' moduli: of level 1, then what each rescale divides by, the last first.
struct Bits {
    base: f64,
    drops: Vec<f64>,
}

/// Budget that is planned for at every step, before what keys add is known.
const MARGIN_BITS: f64 = 1.0;

/// Sizes of moduli by following the noise, that of keys left out.
fn bits(wanted: &Wanted<'_>, choice: &Choice, model: &NoiseModel) -> Bits {
    let t = choice.t;
    let input = if wanted.encrypted { ExactNoise::fresh_public(model, t) } else { ExactNoise::slots(t) };
    // What a division leaves at least, and what it is let leave.
    let floor = ExactNoise::known(0.0).rescale(model, t, 1.0, 1);
    let kept = |noise: ExactNoise| {
        let drop = (noise.log2_bound(model) - floor.log2_bound(model) - choice.slack).max(0.0);
        (drop, noise.rescale(model, t, drop.exp2(), 1))
    };
    let (mut noise, mut drops) = (input, Vec::new());
    for (i, layer) in choice.layers.iter().enumerate() {
        let (drop, left) = kept(noise.mul_fresh(model, t).sum(layer.layout.products()));
        drops.push(drop);
        noise = left;
        for stage in layer.layout.fold_stages(layer.folds) {
            noise = noise.fold(stage.len() + 1).plus(floor);
        }
        if wanted.stages.get(i).is_some_and(|s| s.post == crate::chain::Post::Square) {
            noise = noise.mul(noise, model);
            if i + 1 < choice.layers.len() {
                let (drop, left) = kept(noise);
                drops.push(drop);
                noise = left;
            }
        }
    }
    let [last, result] = choice.extra;
    let product = noise.mul_fresh(model, t).log2_bound(model) + 1.0 + MARGIN_BITS + last;
    let base = floor.plus(floor).log2_bound(model) + 1.0 + MARGIN_BITS + result;
    drops.push((product - base).max(0.0));
    drops.reverse();
    Bits { base, drops }
}

/// Primes for these moduli, the smaller ones among those of the larger.
fn primes(bits: &Bits, choice: &Choice, ring: &mut RingContext) -> Option<PrimeChain> {
    let whole = |b: f64| b.ceil() as u32;
    // A result of full primes may save a limb above.
    let limbs = |base: u32| {
        let first = bits.drops.first().map_or(0.0, |drop| (bits.base + drop - f64::from(base)).max(0.0));
        let sizes = [split_bits(base, ring.log_n), split_bits(whole(first), ring.log_n)];
        (sizes.iter().map(Vec::len).sum::<usize>(), first)
    };
    let least = whole(bits.base);
    let full = (least.div_ceil(50) * 50).max(least);
    let (base, first) = [least, full]
        .map(|base| (base, limbs(base)))
        .into_iter()
        .min_by_key(|(_, (count, _))| *count)
        .map(|(base, (_, first))| (base, first))?;
    let drops = std::iter::once(first).chain(bits.drops.iter().skip(1).copied());
    let groups: Vec<Vec<u32>> =
        std::iter::once(base).chain(drops.map(whole)).map(|b| split_bits(b, ring.log_n)).collect();
    let sizes: Vec<u32> = groups.iter().flatten().copied().collect();
    let special = choice.special.bits(&sizes, ring)?;
    PrimeChain::grouped(&mut ring.primes, &groups, special, ring.bound)
}

fn chooser<'a>(
    wanted: &'a Wanted<'_>,
    choice: &Choice,
    dev: Deviations,
    log_n: u32,
    primes: &'a PrimeChain,
) -> KeyChooser<'a> {
    let arithmetic =
        Arithmetic::new(wanted.costs, log_n, &primes.ciphertext, &primes.special).with_levels(primes.levels.as_deref());
    KeyChooser { primes, arithmetic, dev, tolerance: choice.tolerance, per_byte: 0.0 }
}

fn source(wanted: &Wanted<'_>) -> Source {
    if wanted.encrypted { Source::Encrypted } else { Source::Plain }
}

/// Layouts to begin with; `None` if a layer has too many rows or columns for the ring.
pub(super) fn first_layers(wanted: &Wanted<'_>, slots: usize) -> Option<Vec<Layer>> {
    let (last, hidden) = wanted.stages.split_last()?;
    let mut from = source(wanted);
    let mut layers = Vec::new();
    for stage in hidden {
        let layer = Layer::first_guess(stage, slots, from)?;
        from = Source::Periodic(layer.layout.row_period);
        layers.push(layer);
    }
    (last.cols <= slots).then_some(layers)
}

/// The layouts of least predicted time for the moduli that `choice` leads to.
pub(super) fn cheapest_layers(wanted: &Wanted<'_>, choice: &Choice, ring: &mut RingContext) -> Option<Vec<Layer>> {
    let model = NoiseModel::new(ring.log_n);
    let primes = primes(&bits(wanted, choice, &model), choice, ring)?;
    let keys = chooser(wanted, choice, ring.dev, ring.log_n, &primes);
    let (mut from, mut level) = (source(wanted), primes.levels.as_ref()?.len());
    let mut layers = Vec::new();
    for stage in wanted.stages.split_last()?.1 {
        let layer = Layer::cheapest(stage, ring.slots(), from, level, &keys, None)?;
        from = Source::Periodic(layer.layout.row_period);
        layers.push(layer);
        level = level.saturating_sub(1 + usize::from(stage.post == crate::chain::Post::Square)).max(1);
    }
    Some(layers)
}

/// A program in construction.
struct Draftsman<'a> {
    dev: Deviations,
    primes: &'a PrimeChain,
    steps: Vec<Step>,
    constants: Vec<ConstantGroup>,
    kinds: Vec<ConstantKind>,
    sets: Vec<KeySet>,
    registers: usize,
}

impl Draftsman<'_> {
    fn register(&mut self) -> Register {
        self.registers += 1;
        self.registers - 1
    }

    fn group(&mut self, name: String, count: usize, level: usize, kind: ConstantKind) -> usize {
        self.constants.push(ConstantGroup { name, count, level, scale: 1.0, plain: false });
        self.kinds.push(kind);
        self.constants.len() - 1
    }

    fn key_set(&mut self, ids: impl IntoIterator<Item = KeyId>, used: Use) {
        let needed = |id: &KeyId| id.galois != Galois::IDENTITY || id.power > 1;
        let ids: Vec<KeyId> = ids.into_iter().filter(needed).collect();
        if !ids.is_empty() {
            self.sets.push(KeySet { ids, uses: vec![used] });
        }
    }

    fn rounded_keys(&mut self, ids: impl IntoIterator<Item = KeyId>, level: usize, work: KeyWork) {
        self.key_set(ids, Use::rounded(&self.dev, self.primes, level, work));
    }
}

/// The program for a choice with its keys; `None` if it does not fit under the security table.
pub(super) fn draft(wanted: &Wanted<'_>, choice: &Choice, ring: &mut RingContext) -> Option<Draft> {
    if let [only] = wanted.stages {
        return single(only, wanted, choice, ring);
    }
    let model = NoiseModel::new(ring.log_n);
    let primes = primes(&bits(wanted, choice, &model), choice, ring)?;
    let top = primes.levels.as_ref()?.len();
    let (first, last) = (choice.layers.first()?, wanted.stages.last()?);
    let mut d = Draftsman {
        dev: ring.dev,
        primes: &primes,
        steps: Vec::new(),
        constants: Vec::new(),
        kinds: Vec::new(),
        sets: Vec::new(),
        registers: if wanted.encrypted { first.layout.tiles.len() } else { 0 },
    };
    let (mut reg, mut level, mut degree) = (0, top, 1);
    for (i, (stage, layer)) in wanted.stages.iter().zip(&choice.layers).enumerate() {
        let layout = &layer.layout;
        let kind = ConstantKind::Diagonals { stage: i, layout: layout.clone() };
        let weights = d.group(format!("weights of layer {}", i + 1), layout.products(), level, kind);
        let dst = d.register();
        if i == 0 && !wanted.encrypted {
            d.steps.extend([Step::DiagonalsPlain { weights, dst }, Step::Rescale { reg: dst }]);
        } else {
            let (inputs, from) = match i {
                0 => ((0..layout.tiles.len()).collect(), Source::Encrypted),
                _ => (vec![reg], Source::Periodic(layout.input_period?)),
            };
            for tile in layout.tiles.iter().filter(|t| t.babies > 1) {
                let used = rotations(tile.babies - 1, from, level, &d.dev, d.primes);
                d.key_set((1..tile.babies).map(|b| KeyId::new(Galois::rotation(b as u32), 1)), used);
            }
            d.steps.push(Step::DiagonalsCipher { layout: layout.clone(), inputs, weights, rescale: true, dst });
            let giants = (0..layout.giants).map(|g| layout.giant(g));
            let ids = giants.flat_map(|g| [KeyId::new(g, 1), KeyId::new(g, 2)]);
            d.rounded_keys(ids, level, KeyWork::giants(layout.giants, true));
        }
        (reg, level, degree) = (dst, level - 1, 1);
        let stages = layout.fold_stages(layer.folds);
        for fold in &stages {
            d.rounded_keys(fold.iter().map(|g| KeyId::new(*g, 1)), level, KeyWork::fold(fold.len()));
        }
        if !stages.is_empty() {
            d.steps.push(Step::Fold { reg, stages });
        }
        let kind = ConstantKind::SlotBias { stage: i, layout: layout.clone() };
        let group = d.group(format!("biases of layer {}", i + 1), 1, level, kind);
        d.steps.push(Step::AddConstant { reg, group, index: 0 });
        if stage.post == crate::chain::Post::Square {
            let dst = d.register();
            d.steps.push(Step::Multiply { a: reg, b: reg, dst });
            (reg, degree) = (dst, 2);
            if i + 1 < choice.layers.len() {
                d.rounded_keys([KeyId::new(Galois::IDENTITY, 2)], level, KeyWork::relinearize(2, true));
                d.steps.push(Step::Relinearize { reg, rescale: true });
                (level, degree) = (level - 1, 1);
            }
        }
    }
    let rows = CoefficientRows {
        n: 2 * ring.slots(),
        rows: last.rows,
        cols: last.cols,
        period: choice.layers.last()?.layout.row_period,
    };
    let (count, stage) = (rows.outputs(), wanted.stages.len() - 1);
    let kind = ConstantKind::Rows { stage, layout: rows.clone() };
    let weights = d.group(format!("weights of layer {}", stage + 1), count, level, kind);
    let dst = d.registers;
    d.registers += count;
    d.steps.push(Step::CoefficientRows { layout: rows.clone(), src: reg, weights, dst });
    let kind = ConstantKind::RowsBias { stage, layout: rows.clone() };
    let biases = d.group(format!("biases of layer {}", stage + 1), count, level, kind);
    let work = KeyWork::relinearize(degree + 1, true).times(count);
    d.rounded_keys((2..=degree + 1).map(|power| KeyId::new(Galois::IDENTITY, power as u8)), level, work);
    for o in 0..count {
        d.steps.push(Step::AddConstant { reg: dst + o, group: biases, index: o });
        d.steps.push(Step::Relinearize { reg: dst + o, rescale: true });
    }
    let Draftsman { steps, constants, kinds, sets, .. } = d;
    let shapes = chooser(wanted, choice, ring.dev, ring.log_n, &primes).shapes(&sets)?;
    let output = OutputSpec {
        registers: (dst..dst + count).collect(),
        positions: (0..last.rows).map(|k| rows.position(k)).collect(),
        factor: rows.period as f64,
        level: 1,
        degree: 1,
        scale: 1.0,
        max_abs: wanted.output_max,
    };
    let input = input_spec(wanted, top, InputLayout::Diagonals(first.layout.clone()));
    let program = program(wanted, choice.t, ring.log_n, (primes, shapes), input, (constants, steps), output);
    Some(Draft { program, kinds, layers: choice.layers.clone() })
}

/// One layer: inner products in the coefficients, without keys.
fn single(stage: &Stage, wanted: &Wanted<'_>, choice: &Choice, ring: &mut RingContext) -> Option<Draft> {
    let layout = CoefficientDot { n: 1 << ring.log_n, rows: stage.rows, cols: stage.cols };
    let model = NoiseModel::new(ring.log_n);
    let fresh = ExactNoise::fresh_symmetric(&model, choice.t);
    let input = if wanted.encrypted {
        ExactNoise::fresh_public(&model, choice.t)
    } else {
        let norm = wanted.max_norm * wanted.integers.input_unit + 0.5 * (stage.cols as f64).sqrt();
        ExactNoise::known(norm / ((layout.n * layout.chunks()) as f64).sqrt())
    };
    let noise = input.mul_fresh(&model, choice.t).sum(layout.chunks()).plus(fresh);
    let bits = noise.log2_bound(&model) + 1.0 + MARGIN_BITS + choice.extra.iter().sum::<f64>();
    let primes = PrimeChain::grouped(&mut ring.primes, &[split_bits(bits.ceil() as u32, ring.log_n)], 0, ring.bound)?;
    let outputs = layout.outputs();
    let first = if wanted.encrypted { layout.chunks() } else { 0 };
    let group = |name: &str, count| ConstantGroup { name: name.into(), count, level: 1, scale: 1.0, plain: false };
    let constants = vec![group("weights", outputs * layout.chunks()), group("biases", outputs)];
    let mut steps = vec![Step::CoefficientDot { weights: 0, dst: first }];
    steps.extend((0..outputs).map(|o| Step::AddConstant { reg: first + o, group: 1, index: o }));
    let output = OutputSpec {
        registers: (first..first + outputs).collect(),
        positions: (0..stage.rows).map(|r| layout.position(r)).collect(),
        factor: 1.0,
        level: 1,
        degree: if wanted.encrypted { 2 } else { 1 },
        scale: 1.0,
        max_abs: wanted.output_max,
    };
    let kinds = vec![
        ConstantKind::Dot { stage: 0, layout: layout.clone() },
        ConstantKind::DotBias { stage: 0, layout: layout.clone() },
    ];
    let input = input_spec(wanted, 1, InputLayout::CoefficientDot(layout));
    let program = program(wanted, choice.t, ring.log_n, (primes, Shapes::new()), input, (constants, steps), output);
    Some(Draft { program, kinds, layers: Vec::new() })
}

fn input_spec(wanted: &Wanted<'_>, level: usize, layout: InputLayout) -> InputSpec {
    InputSpec {
        features: wanted.stages.first().map_or(0, |s| s.cols),
        encrypted: wanted.encrypted,
        level,
        scale: 1.0,
        layout,
        normalise: Vec::new(),
        max_abs: wanted.max_abs,
        max_norm: wanted.max_norm,
    }
}

fn program(
    wanted: &Wanted<'_>,
    t: u64,
    log_n: u32,
    (mut primes, shapes): (PrimeChain, Shapes),
    input: InputSpec,
    (constants, steps): (Vec<ConstantGroup>, Vec<Step>),
    output: OutputSpec,
) -> Program {
    primes.keep_specials(shapes.values().map(|s| s.specials).max().unwrap_or(0));
    let mut parameters =
        ParameterSpec::new(log_n, primes.ciphertext, primes.special, wanted.security).with_plaintext_modulus(t);
    parameters.levels = primes.levels;
    let keys = shapes.into_iter().map(|(id, shape)| KeyRequirement { id, shape }).collect();
    Program { parameters, keys, input, constants, steps, output, integers: Some(wanted.integers.clone()) }
}
