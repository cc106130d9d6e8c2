//! From layouts and scales to a program: linear maps by rotated products, squares, polynomials, and the last layer in the coefficients.
//!
//! Levels: one prime is dropped after each linear map but the last, and one after each square (or several after a polynomial); a square
//! that only the last layer reads stays at degree 2. What remains at the bottom holds the last product.

use super::geometry::Geometry;
use super::ladder::Ladder;
use super::linear::rows_of;
use super::map::{Column, Map, Split};
use super::stages::{Post, Stage};
use super::{Choice, Constant, Primes, WholeTask};
use crate::cost::{Arithmetic, KeyWork};
use crate::forecast::Deviations;
use crate::keys::{KeySet, Use};
use crate::plan::declared;
use crate::primes::PrimeChain;
use crate::search::RingContext;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use subrosa_fhe::{Galois, KeyId, ParameterSpec};
use subrosa_network::Source;
use subrosa_program::layout::{CoefficientRows, Tiles};
use subrosa_program::{ConstantGroup, InputLayout, InputSpec, OutputSpec, Program, Register, Step};

/// Most inputs that the edge encrypts (or encodes) ready rotated; beyond, it encrypts each block once and rotates.
const MOST_TILES: usize = 96;

/// A candidate: the program without keys, and what its constants hold.
pub(crate) struct Draft {
    pub program: Program,
    pub constants: Vec<Constant>,
    pub sets: Vec<KeySet>,
    pub primes: PrimeChain,
}

/// What a source's values are carried in.
pub(super) struct Held {
    pub registers: Vec<Register>,
    pub level: usize,
    pub scale: f64,
    pub degree: usize,
    pub period: usize,
    pub columns: Vec<Option<Column>>,
}

pub(crate) struct Draftsman<'a> {
    pub(super) task: &'a WholeTask<'a>,
    pub(super) choice: &'a Choice,
    pub(super) geometry: &'a Geometry,
    log_n: u32,
    pub(super) dev: Deviations,
    pub(super) primes: PrimeChain,
    pub(super) steps: Vec<Step>,
    groups: Vec<ConstantGroup>,
    constants: Vec<Constant>,
    sets: Vec<KeySet>,
    pub(super) registers: Register,
    pub(super) message_scale: f64,
    rows_scale: f64,
    pub(super) held: BTreeMap<Source, Held>,
    input: Option<InputSpec>,
    /// Block and rotation of each input vector.
    pub(super) tiles: Vec<(u32, u32)>,
    /// Whether the constants are made, or only counted.
    pub(super) full: bool,
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
    pub(super) fn slots(&self) -> usize {
        1 << (self.log_n - 1)
    }

    pub(super) fn register(&mut self) -> Register {
        self.registers += 1;
        self.registers - 1
    }

    pub(super) fn group(
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

    pub(super) fn arithmetic(&self) -> Arithmetic<'_> {
        Arithmetic::new(self.task.request.costs, self.log_n, &self.primes.ciphertext, &self.primes.special)
            .with_levels(self.primes.levels.as_deref())
    }

    pub(super) fn galois(&self, rotation: u32) -> Galois {
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

    pub(super) fn rotate(&mut self, src: Register, elements: Vec<Galois>, dst: Register, level: usize) {
        self.keys(elements.iter().map(|g| KeyId::new(*g, 1)), level, KeyWork::hoisted(elements.len()));
        self.steps.push(Step::Rotate { src, elements, dst });
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

pub(super) const CONJUGATE: Galois = Galois { rotation: 0, conjugate: true };
