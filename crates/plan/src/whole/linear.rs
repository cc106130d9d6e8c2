//! Linear maps in the slots: sums of products of weights with rotated inputs, turned by giant steps, folded, with their biases.

use super::Constant;
use super::draft::{CONJUGATE, Draftsman};
use super::geometry::Arrangement;
use super::map::{Baby, Column, Entry, Map, Row, Split, SplitCounts, Steps, Weights, fingerprint};
use super::stages::Stage;
use crate::cost::KeyWork;
use crate::keys::{KeyChooser, Use};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use subrosa_fhe::{Galois, KeyId};
use subrosa_network::Source;
use subrosa_program::{Product, Register, Step};

/// More bytes than any cache has.
const LARGE: u64 = 1 << 40;

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

impl<'a> Draftsman<'a> {
    /// The linear map of a stage with its bias: one register for each ciphertext of its arrangement, at the level below.
    pub(super) fn linear(
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
}

/// Where each value of an arrangement goes; those that nothing reads go nowhere.
pub(super) fn rows_of(arrangement: &Arrangement) -> Vec<Row> {
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
