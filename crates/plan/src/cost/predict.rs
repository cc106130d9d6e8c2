//! The predicted time and memory of a program, step by step.

use super::{Arithmetic, CostModel, KeyWork, Work};
use serde::Serialize;
use std::collections::BTreeMap;
use subrosa_fhe::{Galois, KeyId, KeyShape};
use subrosa_program::layout::Diagonals;
use subrosa_program::{InputLayout, Product, Program, Step};

/// What a program will take on one thread.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Prediction {
    /// Encoding the features, and encrypting them if the program says so.
    pub prepare: Work,
    /// The steps, in the program's order.
    pub steps: Vec<StepWork>,
    /// The sum of the steps.
    pub infer: Work,
    /// What the edge keeps in memory: both halves of everything, whole bytes for each residue.
    pub memory: Memory,
    /// What of it stands in the bundle: one half of everything, packed to the bits of its primes; the other is a seed.
    pub bundle: Memory,
}

impl Prediction {
    /// Time of one sample: preparing and evaluating it.
    pub fn seconds(&self) -> f64 {
        self.prepare.seconds + self.infer.seconds
    }
}

/// A step's part.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct StepWork {
    /// Level of what it works on.
    pub level: usize,
    /// Its work.
    #[serde(flatten)]
    pub work: Work,
}

/// Bytes of a program's keys and weights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Public key and evaluation keys.
    pub key_bytes: u64,
    /// Encrypted weights and biases.
    pub weight_bytes: u64,
}

impl Memory {
    /// All of it.
    pub fn bytes(&self) -> u64 {
        self.key_bytes + self.weight_bytes
    }
}

/// Level and degree of a register.
type Held = (usize, usize);

struct Walk<'a> {
    program: &'a Program,
    arithmetic: Arithmetic<'a>,
    shapes: BTreeMap<(KeyId, usize), KeyShape>,
    registers: BTreeMap<usize, Held>,
}

/// Predicts what `program` takes on the machine of `model`, on one thread.
///
/// The program must be well formed ([`Program::validate`]); what a malformed one names and does not have counts as nothing.
pub fn predict(program: &Program, model: &CostModel) -> Prediction {
    let mut walk = walk(program, model);
    let memory = walk.memory();
    walk.arithmetic = walk.arithmetic.with_resident(memory.bytes());
    let prepare = walk.prepare();
    let mut summed = 0..0;
    let mut steps = Vec::with_capacity(program.steps.len());
    for (i, step) in program.steps.iter().enumerate() {
        let work = walk.step(step);
        // Biases that products in the coefficients start with cost nothing of their own.
        steps.push(if summed.contains(&i) { StepWork::nothing(work.level) } else { work });
        if let Some(biases) = program.biases_behind(i) {
            summed = i + 1..i + 1 + biases.len();
        }
    }
    let infer = steps.iter().fold(Work::default(), |sum, s| sum + s.work);
    let bundle = walk.bundle();
    Prediction { prepare, steps, infer, memory, bundle }
}

/// What the edge keeps of `program` in memory.
pub(crate) fn predict_memory(program: &Program, model: &CostModel) -> Memory {
    walk(program, model).memory()
}

fn walk<'a>(program: &'a Program, model: &'a CostModel) -> Walk<'a> {
    let spec = &program.parameters;
    let arithmetic = Arithmetic::new(model, spec.log_n, &spec.ciphertext_primes, &spec.special_primes)
        .with_levels(spec.levels.as_deref());
    let shapes = program.keys.iter().map(|k| ((k.id, k.shape.level), k.shape)).collect();
    Walk { program, arithmetic, shapes, registers: BTreeMap::new() }
}

impl Walk<'_> {
    fn prepare(&mut self) -> Work {
        let input = &self.program.input;
        let polynomials = input.layout.polynomials();
        let encoded = match &input.layout {
            InputLayout::Diagonals(_) | InputLayout::Tiles(_) => self.arithmetic.encode_slots(input.level, polynomials),
            InputLayout::CoefficientDot(_) => self.arithmetic.encode_coefficients(input.level, polynomials),
        };
        if !input.encrypted {
            return encoded;
        }
        self.registers.extend((0..polynomials).map(|r| (r, (input.level, 1))));
        encoded + self.arithmetic.encrypt(input.level, polynomials)
    }

    fn memory(&self) -> Memory {
        let constants = self.program.constants.iter();
        let components = |plain: bool| if plain { 1 } else { 2 };
        let weights: usize =
            constants.map(|g| components(g.plain) * g.count * self.arithmetic.polynomial_bytes(g.level, 0)).sum();
        let input = &self.program.input;
        let public = if input.encrypted { 2 * self.arithmetic.polynomial_bytes(input.level, 0) } else { 0 };
        let keys: usize = self.shapes.values().map(|&shape| self.arithmetic.key_bytes(shape)).sum();
        Memory { key_bytes: (public + keys) as u64, weight_bytes: weights as u64 }
    }

    fn bundle(&self) -> Memory {
        let spec = &self.program.parameters;
        let n = 1usize << spec.log_n;
        let packed = |prime: &u64| ((u64::BITS - prime.leading_zeros()) as usize * n).div_ceil(8);
        let polynomial = |level: usize, specials: usize| -> usize {
            let own: usize = spec.level_primes(level).iter().map(packed).sum();
            own + spec.special_primes.iter().take(specials).map(packed).sum::<usize>()
        };
        let constants: usize = self.program.constants.iter().map(|g| g.count * polynomial(g.level, 0)).sum();
        let input = &self.program.input;
        let public = if input.encrypted { polynomial(input.level, 0) } else { 0 };
        let digits = |shape: &KeyShape| shape.digits_at(self.arithmetic.limbs(shape.level));
        let keys: usize = self.shapes.values().map(|s| digits(s) * polynomial(s.level, s.specials)).sum();
        Memory { key_bytes: (public + keys) as u64, weight_bytes: constants as u64 }
    }

    fn held(&self, register: usize) -> Held {
        self.registers.get(&register).copied().unwrap_or((1, 1))
    }

    fn is_plain(&self, group: usize) -> bool {
        self.program.constants.get(group).is_some_and(|g| g.plain)
    }

    fn level_of(&self, group: usize) -> usize {
        self.program.constants.get(group).map_or(1, |g| g.level)
    }

    /// Key switching with the key `id`; nothing if the program has none.
    fn switch(&self, work: KeyWork, level: usize, id: KeyId) -> Work {
        let shape = self.shapes.range((id, level)..=(id, usize::MAX)).next();
        shape.map_or(Work::default(), |(_, &shape)| self.arithmetic.switch(work, level, shape))
    }

    fn step(&mut self, step: &Step) -> StepWork {
        let a = self.arithmetic.clone();
        let l = |level: usize| a.limbs(level);
        let (level, work) = match step {
            Step::DiagonalsPlain { weights, dst } => {
                let level = self.level_of(*weights);
                self.registers.insert(*dst, (level, 1));
                let products = match &self.program.input.layout {
                    InputLayout::Diagonals(d) => d.products(),
                    InputLayout::CoefficientDot(_) | InputLayout::Tiles(_) => 0,
                };
                (level, a.plain_products(level, products) + a.buffers(2 * l(level)))
            }
            Step::DiagonalsCipher { layout, weights, rescale, dst, .. } => {
                let level = self.level_of(*weights);
                self.registers.insert(*dst, (level - usize::from(*rescale), 1));
                (level, self.diagonals(layout, level, *rescale))
            }
            Step::Linear { products, rescale, dst } => {
                let level = products.first().map_or(1, |p| self.level_of(p.weights));
                self.registers.extend(dst.iter().map(|d| (*d, (level - usize::from(*rescale), 1))));
                (level, self.linear(products, level, *rescale, dst.len()))
            }
            Step::LinearPlain { weights, inputs, dst } => {
                let level = self.level_of(*weights);
                self.registers.extend(dst.iter().map(|d| (*d, (level, 1))));
                let terms = inputs.first().map_or(0, Vec::len);
                (level, (a.plain_products(level, terms) + a.buffers(2 * l(level))) * dst.len())
            }
            Step::Rotate { src, elements, dst } => {
                let (level, _) = self.held(*src);
                self.registers.extend((0..elements.len()).map(|i| (dst + i, (level, 1))));
                let id = elements.iter().find(|g| **g != Galois::IDENTITY).map(|g| KeyId::new(*g, 1));
                (level, id.map_or(Work::default(), |id| self.switch(KeyWork::hoisted(elements.len()), level, id)))
            }
            Step::Parts { src, re, im } => {
                let (level, _) = self.held(*src);
                self.registers.extend([(*re, (level, 1)), (*im, (level, 1))]);
                let conjugate = KeyId::new(Galois { rotation: 0, conjugate: true }, 1);
                let passes = a.elementwise(2 * 3 * l(level)) + a.buffers(2 * 2 * l(level));
                (level, self.switch(KeyWork::hoisted(1), level, conjugate) + passes)
            }
            Step::Combine { re, dst, .. } => {
                let (level, _) = self.held(*re);
                self.registers.insert(*dst, (level, 1));
                (level, a.elementwise(2 * 2 * l(level)) + a.buffers(2 * l(level)))
            }
            Step::CoefficientDot { weights, dst } => {
                let level = self.level_of(*weights);
                let input = &self.program.input;
                let InputLayout::CoefficientDot(layout) = &input.layout else { return StepWork::nothing(level) };
                let (degree, multiplied) = if input.encrypted { (2, 4) } else { (1, 2) };
                self.registers.extend((0..layout.outputs()).map(|o| (dst + o, (level, degree))));
                let products = layout.outputs() * layout.chunks();
                let weight_bytes = (2 * products * a.polynomial_bytes(level, 0)) as u64;
                // The sums are short: reducing and writing them counts.
                let results = (degree + 1) * layout.outputs() * l(level);
                let work =
                    a.multiply_adds(multiplied * products * l(level)) + a.elementwise(results) + a.buffers(results);
                (level, Work { products, weight_bytes, ..work })
            }
            Step::CoefficientRows { layout, src, weights, dst } => {
                let (level, degree) = self.held(*src);
                let products = layout.outputs();
                let components = if self.is_plain(*weights) { 1 } else { 2 };
                let degree = degree + components - 1;
                self.registers.extend((0..products).map(|o| (dst + o, (level, degree))));
                let weight_bytes = (components * products * a.polynomial_bytes(self.level_of(*weights), 0)) as u64;
                let work = a.multiply_adds(components * (degree + 2 - components) * products * l(level))
                    + a.buffers((degree + 1) * products * l(level));
                (level, Work { products, weight_bytes, ..work })
            }
            Step::AddConstant { reg, .. } => {
                let (level, _) = self.held(*reg);
                (level, a.elementwise(2 * l(level)))
            }
            Step::Fold { reg, stages } => {
                let (level, _) = self.held(*reg);
                let stage = |s: &Vec<Galois>| {
                    s.first().map_or(Work::default(), |&g| {
                        self.switch(KeyWork::fold(s.len()), level, KeyId::new(g, 1)) + a.elementwise(2 * l(level))
                    })
                };
                (level, stages.iter().map(stage).fold(Work::default(), |sum, w| sum + w))
            }
            Step::Multiply { a: x, b: y, dst } => {
                let ((level, dx), (other, dy)) = (self.held(*x), self.held(*y));
                let level = level.min(other);
                self.registers.insert(*dst, (level, dx + dy));
                (level, a.multiply_adds((dx + 1) * (dy + 1) * l(level)) + a.buffers((dx + dy + 1) * l(level)))
            }
            Step::Relinearize { reg, rescale } => {
                let (level, degree) = self.held(*reg);
                self.registers.insert(*reg, (level - usize::from(*rescale && level > 1), 1));
                let work = KeyWork::relinearize(degree, *rescale && level > 1);
                (level, self.switch(work, level, KeyId::new(Galois::IDENTITY, 2)))
            }
            Step::Rescale { reg } => {
                let (level, degree) = self.held(*reg);
                self.registers.insert(*reg, (level.saturating_sub(1).max(1), degree));
                (level, if level > 1 { a.divide(level, 0, true, degree + 1) } else { Work::default() })
            }
            Step::MultiplyScalar { src, dst, .. } => {
                let (level, degree) = self.held(*src);
                self.registers.insert(*dst, (level, degree));
                (
                    level,
                    a.encode_coefficients(level, 1)
                        + a.multiply_adds((degree + 1) * l(level))
                        + a.buffers((degree + 1) * l(level)),
                )
            }
            Step::AddScalar { reg, .. } => {
                let (level, _) = self.held(*reg);
                (level, a.encode_coefficients(level, 1) + a.elementwise(l(level)))
            }
            Step::Add { dst, .. } => {
                let (level, degree) = self.held(*dst);
                (level, a.elementwise((degree + 1) * l(level)))
            }
            Step::DropLevel { src, level, dst } => {
                let (_, degree) = self.held(*src);
                self.registers.insert(*dst, (*level, degree));
                (*level, a.buffers((degree + 1) * l(*level)))
            }
        };
        StepWork { level, work: work + a.step() }
    }

    fn linear(&self, products: &[Product], level: usize, rescale: bool, results: usize) -> Work {
        let degree = if products.iter().any(|p| self.is_plain(p.weights)) { 1 } else { 2 };
        // Two plaintexts take the place of one ciphertext.
        let sums = |p: &Product| if degree == 1 { p.giants.len().div_ceil(2) } else { p.giants.len() };
        let count = products.iter().map(|p| sums(p) * p.terms()).sum::<usize>();
        let mut giants: Vec<Galois> = products.iter().flat_map(|p| p.giants.iter().copied()).collect();
        giants.sort_unstable();
        giants.dedup();
        let switched = degree * giants.len() - usize::from(giants.contains(&Galois::IDENTITY));
        let work = KeyWork { decompositions: switched, products: switched, divisions: 1, rescale };
        let square = KeyId::new(Galois::IDENTITY, 2);
        let id = giants.iter().find(|g| **g != Galois::IDENTITY).map_or(square, |g| KeyId::new(*g, degree as u8));
        let switched =
            if switched > 0 { self.switch(work, level, id) } else { self.arithmetic.divide(level, 0, rescale, 2) };
        (self.arithmetic.cipher_products(level, count)
            + self.arithmetic.buffers((degree + 1) * self.arithmetic.limbs(level) * giants.len())
            + switched)
            * results
    }

    fn diagonals(&self, layout: &Diagonals, level: usize, rescale: bool) -> Work {
        let rotation = KeyId::new(Galois::rotation(1), 1);
        let babies = |b: usize| match b {
            0 | 1 => Work::default(),
            _ => self.switch(KeyWork::hoisted(b - 1), level, rotation),
        };
        let rotated = layout.tiles.iter().map(|t| babies(t.babies)).fold(Work::default(), |sum, w| sum + w);
        let square = KeyId::new(Galois::IDENTITY, 2);
        let giants = self.switch(KeyWork::giants(layout.giants, rescale), level, square);
        rotated
            + self.arithmetic.cipher_products(level, layout.products())
            + self.arithmetic.buffers(3 * self.arithmetic.limbs(level) * layout.giants)
            + giants
    }
}

impl StepWork {
    fn nothing(level: usize) -> Self {
        Self { level, work: Work::default() }
    }
}
