//! Walks through a program of integers: the scale of every value, which biases must have too, and the noise budget after every step.

use std::collections::BTreeMap;
use subrosa_fhe::{ExactNoise, Galois, KeyId, KeyShape, NoiseModel, Parameters};
use subrosa_program::{InputLayout, Program, Register, Step};

/// A value on the way.
#[derive(Debug, Clone, Copy)]
struct Held {
    level: usize,
    degree: usize,
    scale: f64,
    noise: ExactNoise,
}

/// What a walk finds.
#[derive(Debug, Clone)]
pub(crate) struct Walked {
    /// For each step the least budget of what it writes.
    pub budgets: Vec<f64>,
    /// The least budget anywhere, before divisions too.
    pub least: f64,
    /// The budget of the results.
    pub output: f64,
    /// The scale of each group of constants.
    pub constants: Vec<f64>,
    /// The scale of the results.
    pub scale: f64,
}

struct Walk<'a> {
    program: &'a Program,
    parameters: &'a Parameters,
    model: NoiseModel,
    t: u64,
    registers: BTreeMap<Register, Held>,
    least: f64,
    constants: Vec<f64>,
}

/// The walk through one channel of a program; `None` if it has steps that integers cannot follow. Weights and inputs have scale 1, a
/// bias that of what it is added to.
pub(crate) fn walk(program: &Program, parameters: &Parameters) -> Option<Walked> {
    let t = parameters.plain()?.modulus().value();
    let mut walk = Walk {
        program,
        parameters,
        model: NoiseModel::new(parameters.log_n()),
        t,
        registers: BTreeMap::new(),
        least: f64::INFINITY,
        constants: vec![1.0; program.constants.len()],
    };
    let input = &program.input;
    if input.encrypted {
        let noise = ExactNoise::fresh_public(&walk.model, t);
        for register in 0..input.layout.polynomials() {
            walk.set(register, Held { level: input.level, degree: 1, scale: 1.0, noise });
        }
    }
    let mut budgets = Vec::with_capacity(program.steps.len());
    for step in &program.steps {
        budgets.push(walk.step(step)?);
    }
    let outputs: Option<Vec<&Held>> = program.output.registers.iter().map(|r| walk.registers.get(r)).collect();
    let outputs = outputs?;
    let output = outputs.iter().map(|held| walk.budget(held)).fold(f64::INFINITY, f64::min);
    let scale = outputs.first()?.scale;
    let alike =
        outputs.iter().all(|h| (h.level, h.degree, h.scale) == (program.output.level, program.output.degree, scale));
    alike.then_some(Walked { budgets, least: walk.least.min(output), output, constants: walk.constants, scale })
}

impl Walk<'_> {
    fn budget(&self, held: &Held) -> f64 {
        held.noise.budget(&self.model, self.parameters.log_q(held.level))
    }

    /// Keeps a value; returns its budget.
    fn set(&mut self, register: Register, held: Held) -> f64 {
        let budget = self.budget(&held);
        self.least = self.least.min(budget);
        self.registers.insert(register, held);
        budget
    }

    /// A value that exists before a division only.
    fn passed(&mut self, noise: ExactNoise, level: usize) {
        self.least = self.least.min(noise.budget(&self.model, self.parameters.log_q(level)));
    }

    fn get(&self, register: Register) -> Option<Held> {
        self.registers.get(&register).copied()
    }

    fn shape(&self, id: KeyId, level: usize) -> Option<KeyShape> {
        let fits = |k: &&subrosa_program::KeyRequirement| {
            k.id == id && self.parameters.limbs_within(level, k.shape.level).is_some()
        };
        self.program.keys.iter().filter(fits).map(|k| k.shape).min_by_key(|shape| shape.level)
    }

    /// The value behind a sum of `products` key products with a key like `id`, rescaled if wanted.
    fn switched(&mut self, held: Held, id: KeyId, products: usize, rescale: bool) -> Option<Held> {
        let shape = self.shape(id, held.level)?;
        let digits = self.parameters.log_digits(shape, held.level);
        let log_p = self.parameters.log_p(shape.specials);
        if !rescale {
            let noise = held.noise.key_switch(&self.model, self.t, &digits, log_p, products);
            return Some(Held { degree: 1, noise, ..held });
        }
        self.passed(held.noise, held.level);
        let top = self.parameters.rescale_factor(held.level).ok()?.log2();
        let noise = held.noise.key_switch_rescale(&self.model, self.t, (&digits, log_p), top, products);
        let scale = self.parameters.scale_after_rescale(held.level, held.scale).ok()?;
        Some(Held { level: held.level - 1, degree: 1, scale, noise })
    }

    fn level_of(&self, group: usize) -> Option<usize> {
        self.program.constants.get(group).map(|g| g.level)
    }

    fn step(&mut self, step: &Step) -> Option<f64> {
        let model = self.model;
        match step {
            Step::DiagonalsPlain { weights, dst } => {
                let InputLayout::Diagonals(layout) = &self.program.input.layout else { return None };
                let level = self.level_of(*weights)?;
                let noise = ExactNoise::slots(self.t).mul_fresh(&model, self.t).sum(layout.products());
                Some(self.set(*dst, Held { level, degree: 1, scale: 1.0, noise }))
            }
            Step::DiagonalsCipher { layout, inputs, weights, rescale, dst } => {
                let mut input = inputs.iter().map(|&r| self.get(r)).collect::<Option<Vec<_>>>()?.into_iter().next()?;
                if layout.tiles.iter().any(|tile| tile.babies > 1) {
                    input = self.switched(input, KeyId::new(Galois::rotation(1), 1), 1, false)?;
                }
                let level = self.level_of(*weights)?;
                let noise = input.noise.mul_fresh(&model, self.t).sum(layout.products());
                let product = Held { level, degree: 2, scale: input.scale, noise };
                let square = KeyId::new(Galois::IDENTITY, 2);
                let held = self.switched(product, square, 2 * layout.giants - 1, *rescale)?;
                Some(self.set(*dst, held))
            }
            Step::CoefficientDot { weights, dst } => {
                let InputLayout::CoefficientDot(layout) = &self.program.input.layout else { return None };
                let level = self.level_of(*weights)?;
                let (degree, input) = if self.program.input.encrypted {
                    (2, ExactNoise::fresh_public(&model, self.t))
                } else {
                    // The norm of all features, spread over the coefficients of one polynomial a chunk.
                    let integers = self.program.integers.as_ref()?;
                    let features = self.program.input.features as f64;
                    let norm = self.program.input.max_norm * integers.input_unit + 0.5 * features.sqrt();
                    (1, ExactNoise::known(norm / ((layout.n * layout.chunks()) as f64).sqrt()))
                };
                let noise = input.mul_fresh(&model, self.t).sum(layout.chunks());
                let held = Held { level, degree, scale: 1.0, noise };
                (0..layout.outputs()).map(|o| self.set(dst + o, held)).reduce(f64::min)
            }
            Step::CoefficientRows { layout, src, weights, dst } => {
                let (input, level) = (self.get(*src)?, self.level_of(*weights)?);
                let noise = input.noise.mul_fresh(&model, self.t);
                let held = Held { level, degree: input.degree + 1, scale: input.scale, noise };
                (0..layout.outputs()).map(|o| self.set(dst + o, held)).reduce(f64::min)
            }
            Step::AddConstant { reg, group, .. } => {
                let held = self.get(*reg)?;
                *self.constants.get_mut(*group)? = held.scale;
                let noise = held.noise.plus(ExactNoise::fresh_symmetric(&model, self.t));
                Some(self.set(*reg, Held { noise, ..held }))
            }
            Step::Fold { reg, stages } => {
                let mut held = self.get(*reg)?;
                for stage in stages {
                    let folded = Held { noise: held.noise.fold(stage.len() + 1), ..held };
                    held = self.switched(folded, KeyId::new(*stage.first()?, 1), stage.len(), false)?;
                }
                Some(self.set(*reg, held))
            }
            Step::Multiply { a, b, dst } => {
                let (x, y) = (self.get(*a)?, self.get(*b)?);
                let scale = self.parameters.scale_of_product(x.scale, y.scale);
                let noise = x.noise.mul(y.noise, &model);
                Some(self.set(*dst, Held { level: x.level, degree: x.degree + y.degree, scale, noise }))
            }
            Step::Relinearize { reg, rescale } => {
                let held = self.get(*reg)?;
                let products = held.degree.saturating_sub(1);
                let held = self.switched(held, KeyId::new(Galois::IDENTITY, 2), products, *rescale)?;
                Some(self.set(*reg, held))
            }
            Step::Rescale { reg } => {
                let held = self.get(*reg)?;
                let factor = self.parameters.rescale_factor(held.level).ok()?;
                let noise = held.noise.rescale(&model, self.t, factor, held.degree);
                let scale = self.parameters.scale_after_rescale(held.level, held.scale).ok()?;
                Some(self.set(*reg, Held { level: held.level - 1, scale, noise, ..held }))
            }
            _ => None,
        }
    }
}
