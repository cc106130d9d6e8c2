//! From layouts and scales to a program: linear maps by rotated products, squares, polynomials, and the last layer in the coefficients.
//!
//! Levels: one prime is dropped after each linear map but the last, and one after each square (or several after a polynomial); a square
//! that only the last layer reads stays at degree 2. What remains at the bottom holds the last product.

use super::geometry::{Arrangement, Geometry};
use super::map::{Baby, Column, Entry, Map, Row, Split, SplitCounts, Steps, Weights, fingerprint};
use super::stages::{Post, Stage};
use super::{Choice, Constant, Primes, WholeTask};
use crate::cost::{Arithmetic, KeyWork};
use crate::forecast::Deviations;
use crate::keys::{KeyChooser, KeySet, Use};
use crate::plan::declared;
use crate::primes::{PrimeChain, min_prime_bits, split_bits};
use crate::search::RingContext;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use subrosa_fhe::{Galois, KeyId, ParameterSpec};
use subrosa_network::Source;
use subrosa_program::layout::{CoefficientRows, Tiles};
use subrosa_program::{ConstantGroup, InputLayout, InputSpec, OutputSpec, Product, Program, Register, Step};

/// Most inputs that the edge encrypts (or encodes) ready rotated; beyond, it encrypts each block once and rotates.
const MOST_TILES: usize = 96;
/// Bits by which a fresh input's scale is above a message's: a public-key encryption has about so much more noise than a rounding.
const INPUT_BITS: u32 = 8;
/// Bits by which the last layer's weights' scale is above the others'.
const LAST_BITS: u32 = 2;
/// log2 of how much larger than on the calibration data values may be before a modulus overflows.
const HEADROOM_BITS: f64 = 3.0;

/// A candidate: the program without keys, and what its constants hold.
pub(crate) struct Draft {
    pub program: Program,
    pub constants: Vec<Constant>,
    pub sets: Vec<KeySet>,
    pub primes: PrimeChain,
}

/// What a source's values are carried in.
struct Held {
    registers: Vec<Register>,
    level: usize,
    scale: f64,
    degree: usize,
    period: usize,
    columns: Vec<Option<Column>>,
}

/// The drops of a program, in order from the top.
pub(crate) struct Ladder {
    /// For each stage, how many drops were made before it.
    depth: Vec<usize>,
    /// Sizes of all primes, index 0 remains last.
    pub bits: Vec<u32>,
    rows_scale: f64,
    input_scale: f64,
}

impl Ladder {
    /// `None` if a prime would be too large.
    pub fn new(task: &WholeTask<'_>, choice: &Choice, log_n: u32, period: usize) -> Option<Self> {
        let least = min_prime_bits(log_n);
        let (message, weight) = (choice.message_bits, choice.weight_bits.max(least));
        let stages = &task.stages;
        let last = stages.len() - 1;
        let mut drops: Vec<u32> = Vec::new();
        let mut behind = vec![0usize; stages.len()];
        let mut depth = vec![0usize; stages.len()];
        for (i, stage) in stages.iter().enumerate() {
            let start = stage.terms.iter().map(|(s, _)| task.depth_of(*s, &behind)).max().unwrap_or(0);
            *depth.get_mut(i)? = start;
            let mut own = Vec::new();
            if i != last {
                let first = start == 0 && task.request.encrypted_input;
                own.push(if first { weight + INPUT_BITS } else { weight });
                match &stage.post {
                    Post::Identity => {}
                    Post::Square if task.stays_at_degree_2(i) => {}
                    Post::Square => own.push(message.max(least)),
                    Post::Polynomial(c) => own.extend(vec![message.max(least); super::polynomial::depth(c)]),
                }
            }
            *behind.get_mut(i)? = start + own.len();
            for (k, bits) in own.into_iter().enumerate() {
                if drops.len() <= start + k {
                    drops.push(bits);
                }
            }
        }
        let depth_of_last = *depth.last()?;
        drops.truncate(depth_of_last);
        let square = task.degree_before_last() == 2;
        let rows_bits = message + LAST_BITS;
        let input = message + if task.request.encrypted_input { INPUT_BITS } else { 0 };
        // Of what the last layer reads.
        let read = match stages.last()?.terms.as_slice() {
            [(Source::Input, _)] => input,
            _ => message * if square { 2 } else { 1 },
        };
        let product = f64::from(rows_bits + read);
        let largest = stages.last()?.bias.iter().fold(task.output_max, |m, b| m.max(b.abs()));
        let result = product + (largest / period as f64).log2();
        let carried = f64::from(read) + 2.0 * HEADROOM_BITS;
        let bottom = result.max(carried).ceil() as u32 + 2;
        let mut bits = split_bits(bottom, log_n);
        bits.extend(drops.iter().rev());
        if bits.iter().any(|b| *b > crate::primes::MAX_PRIME_BITS) {
            return None;
        }
        Some(Self { depth, bits, rows_scale: f64::from(rows_bits).exp2(), input_scale: f64::from(input).exp2() })
    }
}

/// Rescales that a task needs.
pub(crate) fn drops(task: &WholeTask<'_>) -> usize {
    let mut behind = vec![0usize; task.stages.len()];
    for (i, stage) in task.stages.iter().enumerate() {
        let start = stage.terms.iter().map(|(s, _)| task.depth_of(*s, &behind)).max().unwrap_or(0);
        let own = match &stage.post {
            Post::Identity => 1,
            Post::Square => 2,
            Post::Polynomial(c) => 1 + super::polynomial::depth(c),
        };
        if let Some(place) = behind.get_mut(i) {
            *place = start + own;
        }
    }
    behind.into_iter().max().unwrap_or(0)
}

pub(crate) struct Draftsman<'a> {
    task: &'a WholeTask<'a>,
    choice: &'a Choice,
    geometry: &'a Geometry,
    log_n: u32,
    pub(super) dev: Deviations,
    pub(super) primes: PrimeChain,
    pub(super) steps: Vec<Step>,
    groups: Vec<ConstantGroup>,
    constants: Vec<Constant>,
    sets: Vec<KeySet>,
    registers: Register,
    pub(super) message_scale: f64,
    rows_scale: f64,
    held: BTreeMap<Source, Held>,
    input: Option<InputSpec>,
    /// Block and rotation of each input vector.
    tiles: Vec<(u32, u32)>,
    /// Whether the constants are made, or only counted.
    full: bool,
}

/// The parts of a stage's linear map.
struct Part<'a> {
    map: Map<'a>,
    split: Split,
}

/// A baby step with its weights before each giant step, and the number that orders equal weights equally.
type Ordered = (u64, Baby, Vec<Arc<Vec<Entry>>>);

/// What a product of a part needs, for all results that share its weights.
struct Factor {
    /// For each result, the register of each term.
    inputs: Vec<Vec<Register>>,
    terms: usize,
    giants: Vec<u32>,
    /// For each giant step the weights of each term; empty where they are only counted.
    by_giant: Vec<Vec<Arc<Vec<Entry>>>>,
    scale: f64,
    period: usize,
}

/// Drafts a program; without `full` its constants are counted and not made. `None` if it does not fit.
pub(crate) fn draft(
    task: &WholeTask<'_>,
    ring: &mut RingContext,
    choice: &Choice,
    geometry: &Geometry,
    full: bool,
) -> Option<Draft> {
    let last = task.stages.len() - 1;
    let period = task.last_period(geometry)?;
    let ladder = Ladder::new(task, choice, ring.log_n, period)?;
    let primes = match choice.primes {
        Primes::Prefix(special) => {
            let special_bits = special.bits(&ladder.bits, ring)?;
            PrimeChain::new(&mut ring.primes, &ladder.bits, special_bits, ring.bound)?
        }
        Primes::Swapped(largest) => PrimeChain::swapped(&mut ring.primes, &ladder.bits, largest, ring.bound)?,
    };
    let levels = ladder.bits.len();
    let mut d = Draftsman {
        task,
        choice,
        geometry,
        log_n: ring.log_n,
        dev: ring.dev,
        primes,
        steps: Vec::new(),
        groups: Vec::new(),
        constants: Vec::new(),
        sets: Vec::new(),
        registers: 0,
        message_scale: f64::from(choice.message_bits).exp2(),
        rows_scale: ladder.rows_scale,
        held: BTreeMap::new(),
        input: None,
        tiles: Vec::new(),
        full,
    };
    d.place_input(levels, ladder.input_scale)?;
    for (i, stage) in task.stages.iter().enumerate().take(last) {
        let level = levels - ladder.depth.get(i)?;
        d.stage(i, stage, level)?;
    }
    let output = d.last(levels - ladder.depth.get(last)?)?;
    let Draftsman { primes, steps, groups, constants, sets, input, .. } = d;
    let (q, p) = (primes.ciphertext.clone(), primes.special.clone());
    let parameters = ParameterSpec::new(ring.log_n, q, p, task.request.security);
    let parameters = match &primes.levels {
        Some(levels) => parameters.with_levels(levels.clone()),
        None => parameters,
    };
    let program =
        Program { parameters, keys: Vec::new(), input: input?, constants: groups, steps, output, integers: None };
    let largest: Vec<f64> = constants.iter().map(Constant::largest).collect();
    primes.hold(&program, &largest).then_some(Draft { program, constants, sets, primes })
}

impl<'a> Draftsman<'a> {
    fn slots(&self) -> usize {
        1 << (self.log_n - 1)
    }

    pub(super) fn register(&mut self) -> Register {
        self.registers += 1;
        self.registers - 1
    }

    fn group(
        &mut self,
        name: String,
        count: usize,
        level: usize,
        scale: f64,
        constant: impl FnOnce() -> Constant,
    ) -> usize {
        self.groups.push(ConstantGroup { name, count, level, scale, plain: self.task.request.plain_weights });
        self.constants.push(if self.full { constant() } else { Constant::Counted });
        self.groups.len() - 1
    }

    /// Keys that one step uses together, beside whose noise there is the rounding of their division.
    pub(super) fn keys(&mut self, ids: impl IntoIterator<Item = KeyId>, level: usize, work: KeyWork) {
        let used = Use::rounded(&self.dev, &self.primes, level, work);
        let ids: Vec<KeyId> = ids.into_iter().filter(|id| id.galois != Galois::IDENTITY || id.power > 1).collect();
        if !ids.is_empty() {
            self.sets.push(KeySet { ids, uses: vec![used] });
        }
    }

    fn arithmetic(&self) -> Arithmetic<'_> {
        Arithmetic::new(self.task.request.costs, self.log_n, &self.primes.ciphertext, &self.primes.special)
            .with_levels(self.primes.levels.as_deref())
    }

    fn galois(&self, rotation: u32) -> Galois {
        Galois::rotation((rotation as usize % self.slots()) as u32)
    }

    /// The input: every vector that the first maps read, ready rotated, if there are not too many; else each block.
    fn place_input(&mut self, level: usize, scale: f64) -> Option<()> {
        let (task, layout) = (self.task, &self.geometry.input);
        let column = |&(vector, slot): &(u32, u32)| Some(Column { vector, slot, imaginary: false });
        let columns: Vec<Option<Column>> = layout.at.iter().map(column).collect();
        let readers: Vec<usize> = task.readers(Source::Input).collect();
        let mut rotated: Vec<(u32, u32)> = (0..layout.blocks as u32).map(|b| (b, 0)).collect();
        let encrypted = task.request.encrypted_input;
        if let ([reader], false) = (readers.as_slice(), readers.contains(&(task.stages.len() - 1))) {
            let stage = task.stages.get(*reader)?;
            let arrangement = self.geometry.stages.get(*reader)?;
            let term = stage.terms.iter().position(|(s, _)| *s == Source::Input)?;
            let (_, matrix) = stage.terms.get(term)?;
            let rows = rows_of(arrangement);
            let map = Map {
                matrix,
                columns: &columns,
                input_period: layout.period,
                rows: &rows,
                output_period: arrangement.layout.period,
                results: arrangement.pairs.len(),
                vectors: layout.blocks,
            };
            let babies: BTreeSet<(u32, u32)> = self
                .geometry
                .maps
                .rotations((*reader, term), &map)
                .0
                .steps(Split { fold: 1, modulus: 0 })
                .into_iter()
                .flat_map(|s| s.babies)
                .collect();
            if babies.len() <= MOST_TILES || !encrypted {
                rotated = babies.into_iter().collect();
            }
        } else if !encrypted {
            // A plain input is only multiplied where it enters first.
            return None;
        }
        let tiles = rotated.iter().map(|&(block, by)| {
            let mut places: Vec<(u32, u32)> = (layout.at.iter().zip(0u32..))
                .filter(|((b, _), _)| *b == block)
                .map(|((_, slot), feature)| ((slot + layout.period as u32 - by) % layout.period as u32, feature))
                .collect();
            places.sort_unstable();
            Tiles::runs(&places)
        });
        let tiles = Tiles { slots: self.slots(), period: layout.period, tiles: tiles.collect() };
        self.input = Some(InputSpec {
            features: layout.at.len(),
            encrypted,
            level,
            scale,
            layout: InputLayout::Tiles(tiles),
            normalise: Vec::new(),
            max_abs: declared(task.request.input.max_abs),
            max_norm: declared(task.request.input.max_norm),
        });
        if encrypted {
            self.registers = rotated.len();
        }
        self.tiles = rotated;
        let registers = (0..self.tiles.len()).collect();
        self.held.insert(Source::Input, Held { registers, level, scale, degree: 1, period: layout.period, columns });
        Some(())
    }

    /// A stage but the last: its linear map at `level`, what follows it, and what is carried of it.
    fn stage(&mut self, index: usize, stage: &'a Stage, level: usize) -> Option<()> {
        let arrangement = self.geometry.stages.get(index)?;
        let square = stage.post == Post::Square;
        // A pair whose squares are summed anyway stays together; another is taken apart.
        let kept = |p: &(usize, Option<usize>)| match p.1 {
            Some(q) => square && arrangement.class.get(p.0) == arrangement.class.get(q),
            None => true,
        };
        let kept: Vec<bool> = arrangement.pairs.iter().map(kept).collect();
        let results = self.linear(index, stage, arrangement, level, &kept)?;
        let level = level - 1;
        let mut vectors: Vec<Option<(Register, usize)>> = vec![None; arrangement.classes];
        let stays = self.task.stays_at_degree_2(index);
        let mut scale = self.message_scale;
        let mut level_behind = level;
        let mut pending: Vec<(usize, Register)> = Vec::new();
        for ((pair, kept), register) in arrangement.pairs.iter().zip(&kept).zip(results) {
            let class = |block: usize| arrangement.class.get(block).copied();
            match pair.1 {
                Some(_) if *kept => {
                    let (conjugate, dst) = (self.register(), self.register());
                    self.rotate(register, vec![CONJUGATE], conjugate, level);
                    self.steps.push(Step::Multiply { a: register, b: conjugate, dst });
                    pending.push((class(pair.0)?, dst));
                }
                Some(imaginary) => {
                    let (re, im) = (self.register(), self.register());
                    self.steps.push(Step::Parts { src: register, re, im });
                    self.keys([KeyId::new(CONJUGATE, 1)], level, KeyWork::hoisted(1));
                    pending.push((class(pair.0)?, self.squared(square, re)));
                    pending.push((class(imaginary)?, self.squared(square, im)));
                }
                None => pending.push((class(pair.0)?, self.squared(square, register))),
            }
        }
        let degree = if square { 2 } else { 1 };
        for (class, register) in pending {
            let register = match &stage.post {
                Post::Polynomial(coefficients) => {
                    let (register, level, own) = self.polynomial(coefficients, register, level)?;
                    (level_behind, scale) = (level, own);
                    register
                }
                _ => register,
            };
            match vectors.get_mut(class)? {
                Some((sum, _)) => {
                    let dst = *sum;
                    self.steps.push(Step::Add { dst, src: register });
                }
                empty => *empty = Some((register, degree)),
            }
        }
        let mut degree = degree;
        if square {
            scale *= scale;
            if !stays {
                for (register, _) in vectors.iter().flatten().copied().collect::<Vec<_>>() {
                    self.relinearize(register, level)?;
                }
                scale /= self.primes.top(level);
                level_behind = level - 1;
                degree = 1;
            }
        }
        let registers: Vec<Register> = vectors.into_iter().map(|v| v.map(|v| v.0)).collect::<Option<_>>()?;
        let columns = arrangement.layout.at.iter().zip(&arrangement.read).map(|((_, slot), class)| {
            class.map(|class| Column { vector: class as u32, slot: *slot, imaginary: false })
        });
        let columns = columns.collect();
        let period = arrangement.layout.period;
        self.held.insert(Source::Layer(index), Held { registers, level: level_behind, scale, degree, period, columns });
        Some(())
    }

    /// The register at a lower level and the same scale: primes are left out where the lower level has no others, else it is
    /// multiplied by about 1 and divided.
    pub(super) fn lowered(&mut self, mut src: Register, mut from: usize, to: usize) -> Register {
        while from > to {
            let dst = self.register();
            if self.primes.contains(from, to) {
                self.steps.push(Step::DropLevel { src, level: to, dst });
                return dst;
            }
            let factor = self.primes.top(from);
            self.steps.push(Step::MultiplyScalar { src, value: 1.0, scale: factor, dst });
            self.steps.push(Step::Rescale { reg: dst });
            (src, from) = (dst, from - 1);
        }
        src
    }

    fn squared(&mut self, square: bool, register: Register) -> Register {
        if !square {
            return register;
        }
        let dst = self.register();
        self.steps.push(Step::Multiply { a: register, b: register, dst });
        dst
    }

    /// Relinearisation with the rescale in the same division.
    pub(super) fn relinearize(&mut self, reg: Register, level: usize) -> Option<()> {
        self.keys([KeyId::new(Galois::IDENTITY, 2)], level, KeyWork::relinearize(2, true));
        self.steps.push(Step::Relinearize { reg, rescale: true });
        (level > 1).then_some(())
    }

    fn rotate(&mut self, src: Register, elements: Vec<Galois>, dst: Register, level: usize) {
        self.keys(elements.iter().map(|g| KeyId::new(*g, 1)), level, KeyWork::hoisted(elements.len()));
        self.steps.push(Step::Rotate { src, elements, dst });
    }

    /// The linear map of a stage with its bias: one register for each ciphertext of its arrangement, at the level below.
    fn linear(
        &mut self,
        index: usize,
        stage: &'a Stage,
        arrangement: &'a Arrangement,
        level: usize,
        kept: &[bool],
    ) -> Option<Vec<Register>> {
        if level < 2 {
            return None;
        }
        let rows = rows_of(arrangement);
        let results = arrangement.pairs.len();
        // One real result of several vectors: two vectors share a product, the conjugation takes the real part.
        let single = results == 1 && arrangement.pairs.iter().all(|p| p.1.is_none()) && stage.terms.len() == 1;
        let mut combined = false;
        let mut sources = Vec::new();
        for (source, matrix) in &stage.terms {
            let held = self.held.get(source)?;
            let is_input = *source == Source::Input;
            let (mut columns, mut vectors) = (held.columns.clone(), held.registers.len());
            let (mut registers, scale) = (held.registers.clone(), held.scale);
            let (held_level, period, degree) = (held.level, held.period, held.degree);
            if degree != 1 {
                return None;
            }
            if is_input {
                vectors = self.geometry.input.blocks;
            } else {
                for register in &mut registers {
                    *register = self.lowered(*register, held_level, level);
                }
                if single && vectors > 1 {
                    combined = true;
                    let mut pairs = Vec::new();
                    for pair in registers.chunks(2) {
                        match *pair {
                            [re, im] => {
                                let dst = self.register();
                                self.steps.push(Step::Combine { re, im, dst });
                                pairs.push(dst);
                            }
                            _ => pairs.extend(pair),
                        }
                    }
                    registers = pairs;
                    for column in columns.iter_mut().flatten() {
                        *column = Column { vector: column.vector / 2, imaginary: column.vector % 2 == 1, ..*column };
                    }
                    vectors = registers.len();
                }
            }
            sources.push((*source, matrix, columns, vectors, registers, scale, period));
        }
        let ready = self.is_ready(index);
        let mut parts = Vec::new();
        for (term, (source, matrix, columns, vectors, _, _, period)) in sources.iter().enumerate() {
            let map = Map {
                matrix,
                columns,
                input_period: *period,
                rows: &rows,
                output_period: arrangement.layout.period,
                results,
                vectors: *vectors,
            };
            let rotations = self.geometry.maps.rotations((index, term), &map);
            let split = if ready && *source == Source::Input {
                Split { fold: 1, modulus: 0 }
            } else {
                self.cheapest_split(rotations.1.get_or_init(|| rotations.0.counts()), level, sources.len() == 1)?
            };
            parts.push((Part { map, split }, rotations.0.steps(split)));
        }
        let plain = !self.task.request.encrypted_input && sources.iter().any(|s| s.0 == Source::Input);
        if plain && sources.len() > 1 {
            return None;
        }
        let fold = parts.first()?.0.split.fold;
        let dst: Vec<Register> = (0..results).map(|_| self.register()).collect();
        let factor = |ciphertext: usize| {
            let whole = kept.get(ciphertext).copied().unwrap_or(true);
            if whole && !combined { 1.0 } else { 0.5 }
        };
        let inputs = self.rotated(&parts, &sources.iter().map(|s| s.4.as_slice()).collect::<Vec<_>>(), level)?;
        self.products(
            (index, &stage.name),
            &parts,
            &inputs,
            &sources.iter().map(|s| s.5).collect::<Vec<_>>(),
            level,
            &dst,
            &factor,
            plain,
        )?;
        let level = level - 1;
        let mut stages = fold_stages(fold, parts.first()?.0.map.input_period / fold, combined);
        if !stages.is_empty() {
            for elements in &mut stages {
                for g in elements.iter_mut() {
                    g.rotation %= self.slots() as u32;
                }
                self.keys(elements.iter().map(|g| KeyId::new(*g, 1)), level, KeyWork::fold(elements.len()));
            }
            for &reg in &dst {
                self.steps.push(Step::Fold { reg, stages: stages.clone() });
            }
        }
        let bias = |ciphertext: usize| -> Vec<Entry> {
            let own = rows.iter().zip(&stage.bias).filter(|(r, b)| r.ciphertext as usize == ciphertext && **b != 0.0);
            let half = if kept.get(ciphertext).copied().unwrap_or(true) { 1.0 } else { 0.5 };
            own.map(|(r, b)| Entry::new(r.slot as usize, r.imaginary, half * b)).collect()
        };
        let period = arrangement.layout.period;
        let constant = || Constant::Slots { entries: (0..results).map(bias).map(Arc::new).collect(), period };
        let group = self.group(format!("biases of '{}'", stage.name), results, level, self.message_scale, constant);
        for (index, &reg) in dst.iter().enumerate() {
            self.steps.push(Step::AddConstant { reg, group, index });
        }
        Some(dst)
    }

    /// Whether the input's vectors are those that stage `index` multiplies, ready rotated.
    fn is_ready(&self, index: usize) -> bool {
        let only = self.task.readers(Source::Input).eq([index]);
        only && (self.tiles.len() != self.geometry.input.blocks || self.tiles.iter().any(|t| t.1 != 0))
    }

    /// The rotated inputs of each part: the register (or plain input) of each baby step.
    fn rotated(
        &mut self,
        parts: &[(Part<'_>, Vec<Steps>)],
        registers: &[&[Register]],
        level: usize,
    ) -> Option<Vec<BTreeMap<(u32, u32), Register>>> {
        let mut out = Vec::new();
        for ((part, steps), registers) in parts.iter().zip(registers) {
            let babies: BTreeSet<(u32, u32)> = steps.iter().flat_map(|s| s.babies.iter().copied()).collect();
            let mut of_part = BTreeMap::new();
            if part.split.modulus == 0 {
                of_part.extend(self.tiles.iter().copied().zip(0..));
                out.push(of_part);
                continue;
            }
            for (vector, &src) in registers.iter().enumerate() {
                let own: Vec<u32> = babies.iter().filter(|b| b.0 as usize == vector).map(|b| b.1).collect();
                if own.contains(&0) {
                    of_part.insert((vector as u32, 0), src);
                }
                let turned: Vec<u32> = own.into_iter().filter(|k| *k != 0).collect();
                if turned.is_empty() {
                    continue;
                }
                let dst = self.registers;
                self.registers += turned.len();
                let elements = turned.iter().map(|k| self.galois(*k)).collect();
                self.rotate(src, elements, dst, level);
                of_part.extend(turned.iter().map(|k| (vector as u32, *k)).zip(dst..));
            }
            out.push(of_part);
        }
        Some(out)
    }

    /// The products of all parts; results with equal weights share them.
    #[allow(clippy::too_many_arguments)]
    fn products(
        &mut self,
        (index, name): (usize, &str),
        parts: &[(Part<'_>, Vec<Steps>)],
        inputs: &[BTreeMap<(u32, u32), Register>],
        scales: &[f64],
        level: usize,
        dst: &[Register],
        factor: &(dyn Fn(usize) -> f64 + Sync),
        plain: bool,
    ) -> Option<()> {
        let top = self.primes.top(level);
        // For each part and result: its baby steps in the order of a number that equal weights have in common.
        let mut ordered: Vec<Vec<Vec<Ordered>>> = Vec::new();
        let mut periods = Vec::new();
        for (term, (part, steps)) in parts.iter().enumerate() {
            periods.push(part.map.input_period.max(part.map.output_period));
            let mut of_part: Vec<Vec<Ordered>> = if self.full {
                let weights = self.geometry.maps.weights((index, term), &part.map, part.split, factor);
                let of_result = |w: &Weights| w.of_baby.iter().map(|(b, hash, e)| (*hash, *b, e.clone())).collect();
                weights.iter().map(of_result).collect()
            } else {
                steps.iter().map(|s| s.babies.iter().map(|b| (0, *b, Vec::new())).collect()).collect()
            };
            of_part.iter_mut().for_each(|of_result| of_result.sort_by_key(|t| (t.0, t.1)));
            ordered.push(of_part);
        }
        // Without the weights: what all results that share theirs have in common.
        let full = self.full;
        let alike = |term: usize, result: usize| -> Option<u64> {
            let rotations = self.geometry.maps.rotations((index, term), &parts.get(term)?.0.map);
            Some(fingerprint([*rotations.0.likeness.get(result)?, factor(result).to_bits()]))
        };
        let signature = |result: usize| -> Option<Vec<(Vec<u64>, Vec<u32>)>> {
            let of_part = |term: usize| {
                let ordered = ordered.get(term)?.get(result)?;
                let giants = parts.get(term)?.1.get(result)?.giants.clone();
                let weights = if full {
                    ordered.iter().map(|t| t.0).collect()
                } else {
                    vec![ordered.len() as u64, alike(term, result)?]
                };
                Some((weights, giants))
            };
            (0..parts.len()).map(of_part).collect()
        };
        let signatures: Vec<_> = (0..dst.len()).map(signature).collect::<Option<_>>()?;
        let mut shared: Vec<Vec<usize>> = Vec::new();
        for (result, own) in signatures.iter().enumerate() {
            let equal = |s: &&mut Vec<usize>| s.first().and_then(|f| signatures.get(*f)) == Some(own);
            match shared.iter_mut().find(equal) {
                Some(found) => found.push(result),
                None => shared.push(vec![result]),
            }
        }
        for results in shared {
            let first = *results.first()?;
            let own: Vec<Register> = results.iter().filter_map(|r| dst.get(*r).copied()).collect();
            // What each part multiplies: its inputs for every result, the weights of each giant step, their scale and period.
            let mut factors = Vec::new();
            for (i, (_, steps)) in parts.iter().enumerate() {
                let terms = ordered.get(i)?.get(first)?.len();
                if terms == 0 {
                    continue;
                }
                let of_result = |r: &usize| -> Option<Vec<Register>> {
                    let of_term = |t: &Ordered| inputs.get(i)?.get(&t.1).copied();
                    ordered.get(i)?.get(*r)?.iter().map(of_term).collect()
                };
                let inputs: Vec<Vec<Register>> = results.iter().map(of_result).collect::<Option<_>>()?;
                let giants = steps.get(first)?.giants.clone();
                let mut by_giant: Vec<Vec<Arc<Vec<Entry>>>> = vec![Vec::new(); giants.len()];
                for (_, _, of_baby) in std::mem::take(ordered.get_mut(i)?.get_mut(first)?) {
                    by_giant.iter_mut().zip(of_baby).for_each(|(list, entries)| list.push(entries));
                }
                let scale = self.message_scale * top / scales.get(i)?;
                factors.push(Factor { inputs, terms, giants, by_giant, scale, period: *periods.get(i)? });
            }
            let giants: BTreeSet<u32> = factors.iter().flat_map(|f| f.giants.iter().copied()).collect();
            if self.choice.chained && !plain && giants.len() > 1 {
                self.chained(name, factors, &giants, level, own);
                continue;
            }
            let mut products: Vec<Product> = factors.into_iter().map(|f| self.weighted(name, f, level)).collect();
            if plain {
                let product = products.pop()?;
                self.steps.push(Step::LinearPlain {
                    weights: product.weights,
                    inputs: product.inputs,
                    dst: own.clone(),
                });
                self.steps.extend(own.into_iter().map(|reg| Step::Rescale { reg }));
                continue;
            }
            self.switched(products, level, own);
        }
        Some(())
    }

    /// A product with its own group of weights.
    fn weighted(&mut self, name: &str, factor: Factor, level: usize) -> Product {
        let Factor { inputs, terms, giants, by_giant, scale, period } = factor;
        let entries = || Constant::Slots { entries: by_giant.into_iter().flatten().collect(), period };
        let weights = self.group(format!("weights of '{name}'"), giants.len() * terms, level, scale, entries);
        Product { weights, giants: giants.iter().map(|g| self.galois(*g)).collect(), inputs }
    }

    /// The sum of products, turned by their giant steps, switched and divided at once.
    fn switched(&mut self, products: Vec<Product>, level: usize, dst: Vec<Register>) {
        let giants: BTreeSet<Galois> = products.iter().flat_map(|p| p.giants.iter().copied()).collect();
        // Sums of products with ciphertexts are of degree 2, those with plaintexts of degree 1.
        let degree = self.degree_of_products();
        let ids = giants.iter().flat_map(|g| (1..=degree).map(|power| KeyId::new(*g, power as u8)));
        let count = degree * giants.len() - usize::from(giants.contains(&Galois::IDENTITY));
        let work = KeyWork { decompositions: count, products: count, divisions: 1, rescale: true };
        self.keys(ids.collect::<Vec<_>>(), level, work.times(dst.len()));
        self.steps.push(Step::Linear { products, rescale: true, dst });
    }

    /// The same with few keys, as a polynomial is evaluated by Horner's rule: from the last giant step to the first, what is summed up so far
    /// is turned by the distance to the step before, which mostly is the same.
    fn chained(&mut self, name: &str, factors: Vec<Factor>, giants: &BTreeSet<u32>, level: usize, dst: Vec<Register>) {
        let mut sums: Option<Vec<Register>> = None;
        let mut behind = 0;
        for &giant in giants.iter().rev() {
            let of_giant = |f: &Factor| {
                let at = f.giants.iter().position(|g| *g == giant)?;
                let by_giant = f.by_giant.get(at).cloned().into_iter().collect();
                Some(Factor { inputs: f.inputs.clone(), giants: vec![0], by_giant, ..*f })
            };
            let own: Vec<Factor> = factors.iter().filter_map(of_giant).collect();
            let products = own.into_iter().map(|f| self.weighted(name, f, level)).collect();
            let parts: Vec<Register> = dst.iter().map(|_| self.register()).collect();
            self.switched(products, level, parts.clone());
            sums = Some(match sums {
                None => parts,
                Some(sums) => {
                    let turned = self.turned(&sums, behind - giant, level - 1);
                    let both = turned.iter().zip(&parts);
                    self.steps.extend(both.map(|(&dst, &src)| Step::Add { dst, src }));
                    turned
                }
            });
            behind = giant;
        }
        // The results are expected in registers of their own.
        for (sum, dst) in sums.into_iter().flatten().zip(dst) {
            self.rotate(sum, vec![self.galois(behind)], dst, level - 1);
        }
    }

    fn turned(&mut self, registers: &[Register], by: u32, level: usize) -> Vec<Register> {
        let turn = |&src: &Register| {
            let dst = self.register();
            self.rotate(src, vec![self.galois(by)], dst, level);
            dst
        };
        registers.iter().map(turn).collect()
    }

    /// Degree of sums of products of weights with ciphertexts of degree 1.
    fn degree_of_products(&self) -> usize {
        if self.task.request.plain_weights { 1 } else { 2 }
    }

    /// The split of least predicted time.
    fn cheapest_split(&self, counts: &[SplitCounts], level: usize, may_fold: bool) -> Option<Split> {
        let chooser = KeyChooser {
            primes: &self.primes,
            arithmetic: self.arithmetic(),
            dev: self.dev,
            tolerance: self.choice.tolerance,
            per_byte: self.choice.per_byte,
        };
        let memory = chooser.arithmetic.clone().with_resident(LARGE);
        let mut best: Option<(f64, Split)> = None;
        for c in counts.iter().filter(|c| may_fold || c.split.fold == 1) {
            let degree = self.degree_of_products();
            let switched = degree * c.giants - c.results.min(c.giants);
            let folds = (c.split.fold.trailing_zeros() as usize).div_ceil(2);
            let babies = KeyWork { decompositions: c.vectors, products: c.turned, divisions: c.turned, rescale: false };
            let giants = KeyWork { decompositions: switched, products: switched, divisions: c.results, rescale: true };
            let folded = KeyWork { decompositions: folds, products: 3 * folds, divisions: folds, rescale: false };
            let (works, keys) = if self.choice.chained && c.giants > c.results {
                let turned = KeyWork::hoisted(1).times(c.giants);
                let summed = KeyWork::relinearize(2, true).times(if degree > 1 { c.giants } else { 0 });
                (vec![(babies, level), (summed, level), (turned, level - 1), (folded, level)], c.amounts + 3)
            } else {
                let works = vec![(babies, level), (giants, level), (folded, level)];
                (works, c.amounts + degree * c.different_giants)
            };
            let used = works.into_iter().filter(|(w, _)| w.products > 0);
            let used: Vec<Use> = used.map(|(w, level)| Use::rounded(&self.dev, &self.primes, level, w)).collect();
            let switching = if used.is_empty() { 0.0 } else { chooser.best(&used, keys)?.1 };
            // Two plaintexts take the place of one ciphertext.
            let products = if degree == 1 { c.products.div_ceil(2) } else { c.products };
            let bytes = (2 * products * chooser.arithmetic.polynomial_bytes(level, 0)) as f64;
            let cost = switching + memory.cipher_products(level, products).seconds + self.choice.per_byte * bytes;
            if best.as_ref().is_none_or(|(b, _)| cost < *b) {
                best = Some((cost, c.split));
            }
        }
        best.map(|b| b.1)
    }

    /// The last layer, in the coefficients.
    fn last(&mut self, level: usize) -> Option<OutputSpec> {
        let task = self.task;
        let stage = task.stages.last()?;
        let [(source, matrix)] = stage.terms.as_slice() else { return None };
        let held = self.held.get(source)?;
        let (period, degree) = (held.period, held.degree);
        let layout = CoefficientRows { n: 2 * self.slots(), rows: stage.size(), cols: period, period };
        let mut registers = held.registers.clone();
        let (scale, held_level) = (held.scale, held.level);
        let mut by_vector: Vec<Vec<Vec<(u32, f64)>>> = vec![vec![Vec::new(); stage.size()]; registers.len()];
        let columns = held.columns.clone();
        for (row, _) in stage.bias.iter().enumerate() {
            for (column, value) in matrix.row(row) {
                if let Some(Some(c)) = columns.get(column as usize)
                    && let Some(list) = by_vector.get_mut(c.vector as usize).and_then(|v| v.get_mut(row))
                {
                    list.push((c.slot, value));
                }
            }
        }
        for register in &mut registers {
            *register = self.lowered(*register, held_level, level);
        }
        let count = layout.outputs();
        let mut first = None;
        for (src, rows) in registers.into_iter().zip(by_vector) {
            let constant = || Constant::Rows { layout: layout.clone(), rows };
            let weights = self.group(format!("weights of '{}'", stage.name), count, level, self.rows_scale, constant);
            let dst = self.registers;
            self.registers += count;
            self.steps.push(Step::CoefficientRows { layout: layout.clone(), src, weights, dst });
            match first {
                None => first = Some(dst),
                Some(first) => self.steps.extend((0..count).map(|o| Step::Add { dst: first + o, src: dst + o })),
            }
        }
        let dst = first?;
        let mut scale = scale * self.rows_scale;
        let constant = || Constant::RowsBias { layout: layout.clone(), bias: Arc::new(stage.bias.clone()) };
        let biases = self.group(format!("biases of '{}'", stage.name), count, level, scale, constant);
        let degree = degree + usize::from(!task.request.plain_weights);
        let work = KeyWork::relinearize(degree, level > 1).times(count);
        self.keys((2..=degree).map(|power| KeyId::new(Galois::IDENTITY, power as u8)), level, work);
        let mut below = level;
        for o in 0..count {
            self.steps.push(Step::AddConstant { reg: dst + o, group: biases, index: o });
            let mut rescales = level - 1;
            if degree > 1 {
                self.steps.push(Step::Relinearize { reg: dst + o, rescale: level > 1 });
                rescales = rescales.saturating_sub(1);
            }
            self.steps.extend((0..rescales).map(|_| Step::Rescale { reg: dst + o }));
        }
        while below > 1 {
            scale /= self.primes.top(below);
            below -= 1;
        }
        Some(OutputSpec {
            registers: (dst..dst + count).collect(),
            positions: (0..stage.size()).map(|k| layout.position(k)).collect(),
            factor: period as f64,
            level: below,
            degree: 1,
            scale,
            max_abs: declared(task.output_max),
        })
    }
}

/// More bytes than any cache has.
const LARGE: u64 = 1 << 40;

pub(super) const CONJUGATE: Galois = Galois { rotation: 0, conjugate: true };

/// Where each value of an arrangement goes; those that nothing reads go nowhere.
fn rows_of(arrangement: &Arrangement) -> Vec<Row> {
    let mut of_block = vec![(u32::MAX, false); arrangement.layout.blocks];
    for (ciphertext, (real, imaginary)) in (0u32..).zip(&arrangement.pairs) {
        if let Some(place) = of_block.get_mut(*real) {
            *place = (ciphertext, false);
        }
        if let Some(place) = imaginary.and_then(|b| of_block.get_mut(b)) {
            *place = (ciphertext, true);
        }
    }
    let row = |((block, slot), unused): (&(u32, u32), &bool)| {
        let (ciphertext, imaginary) = of_block.get(*block as usize).copied().unwrap_or((u32::MAX, false));
        Row { ciphertext: if *unused { u32::MAX } else { ciphertext }, slot: *slot, imaginary }
    };
    arrangement.layout.at.iter().zip(&arrangement.unused).map(row).collect()
}

/// The stages of a fold over `groups` groups of `stride` slots, and over the conjugation: two doublings each.
fn fold_stages(groups: usize, stride: usize, conjugate: bool) -> Vec<Vec<Galois>> {
    let mut doublings: Vec<Galois> = (0..groups.trailing_zeros())
        .rev()
        .map(|i| Galois { rotation: (stride << i) as u32, conjugate: false })
        .collect();
    if conjugate {
        doublings.push(CONJUGATE);
    }
    let both =
        |a: Galois, b: Galois| Galois { rotation: a.rotation + b.rotation, conjugate: a.conjugate != b.conjugate };
    doublings
        .chunks(2)
        .map(|pair| match *pair {
            [a, b] => vec![a, b, both(a, b)],
            _ => pair.to_vec(),
        })
        .collect()
}
