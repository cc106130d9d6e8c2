//! A linear map between two layouts as products with rotated vectors: which rotations it needs, and what the weights are.
//!
//! An entry w of the matrix, from slot t of an input vector to slot s of a result, belongs to the rotation r = t - s: the result is
//! `sum_r W_r * rot(x, r)` (diagonals: Halevi and Shoup, ePrint 2014/106). With r = g + k for giant steps g and baby steps k it becomes
//! `sum_g rot(sum_k rot(W_{g+k}, -g) * rot(x, k), g)` (2018/244). Where the result repeats more often than the input, its copies can share the
//! work: copy m takes the rotations from m P/F on, and a fold over the F copies adds them up.

use rayon::prelude::*;
use std::collections::BTreeSet;
use std::sync::Arc;
use subrosa_network::SparseMatrix;

/// Where a value of a source is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Column {
    /// Number of the vector among those of the source.
    pub vector: u32,
    pub slot: u32,
    /// Whether it is the imaginary part of the slot: then the result's real part counts.
    pub imaginary: bool,
}

/// Where a value of a result goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    pub ciphertext: u32,
    pub slot: u32,
    pub imaginary: bool,
}

/// A matrix between two layouts.
pub(crate) struct Map<'a> {
    pub matrix: &'a SparseMatrix,
    /// For each column; `None` for values that another one is summed with already.
    pub columns: &'a [Option<Column>],
    /// The vectors repeat with it.
    pub input_period: usize,
    pub rows: &'a [Row],
    pub output_period: usize,
    pub results: usize,
    pub vectors: usize,
}

/// How the rotations are split: `fold` copies of the result share the work, baby steps are the remainders modulo `modulus`; 0: there are
/// no giant steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Split {
    pub fold: usize,
    pub modulus: usize,
}

/// A baby step: the vector, and the amount it is rotated by.
pub(crate) type Baby = (u32, u32);

/// The rotations that each result needs: a bit for each vector and amount modulo the input's period.
pub(crate) struct Rotations {
    input_period: usize,
    output_period: usize,
    of_result: Vec<Vec<bool>>,
    /// For each result a number that those have in common whose weights are equal, whatever vectors they stand before.
    pub likeness: Vec<u64>,
}

/// The baby and giant steps of one result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Steps {
    pub babies: Vec<Baby>,
    pub giants: Vec<u32>,
}

/// What a split takes, counted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SplitCounts {
    pub split: Split,
    pub products: usize,
    /// Rotations of vectors, from so many decompositions, with so many keys.
    pub turned: usize,
    pub vectors: usize,
    pub amounts: usize,
    /// Giant steps of all results, and different ones.
    pub giants: usize,
    pub different_giants: usize,
    pub results: usize,
}

/// A number of the weights: where it stands, and whether it is imaginary.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    slot: u32,
    pub value: f64,
}

const IMAGINARY: u32 = 1 << 31;

impl Entry {
    pub fn new(slot: usize, imaginary: bool, value: f64) -> Self {
        Self { slot: slot as u32 | if imaginary { IMAGINARY } else { 0 }, value }
    }
    pub fn slot(self) -> usize {
        (self.slot & !IMAGINARY) as usize
    }
    pub fn is_imaginary(self) -> bool {
        self.slot & IMAGINARY != 0
    }
}

/// A baby step, the number that equal weights have in common, and the entries before each giant step.
pub(crate) type BabyWeights = (Baby, u64, Vec<Arc<Vec<Entry>>>);

/// The weights of one result: for each baby step those before each giant step, and a number that equal weights have in common.
pub(crate) struct Weights {
    pub of_baby: Vec<BabyWeights>,
}

impl Map<'_> {
    /// The rows of each result.
    fn rows_of_results(&self) -> Vec<Vec<u32>> {
        let mut of_result = vec![Vec::new(); self.results];
        for (row, r) in (0u32..).zip(self.rows) {
            if let Some(list) = of_result.get_mut(r.ciphertext as usize) {
                list.push(row);
            }
        }
        of_result
    }

    /// Goes through the entries of some rows: the row, what it reads, whether the weight is imaginary, its value.
    fn for_each(&self, rows: &[u32], mut visit: impl FnMut(&Row, &Column, bool, f64)) {
        for &r in rows {
            let Some(row) = self.rows.get(r as usize) else { continue };
            for (column, value) in self.matrix.row(r as usize) {
                let Some(Some(column)) = self.columns.get(column as usize) else { continue };
                // Zero weights too: the rotations must follow from the network's structure alone.
                // Imaginary inputs: Re((-i w) (i x)) = w x.
                let value = if column.imaginary { -value } else { value };
                visit(row, column, row.imaginary != column.imaginary, value);
            }
        }
    }

    pub fn rotations(&self) -> Rotations {
        let period = self.input_period;
        let of_result = |rows: &Vec<u32>| {
            let (mut bits, mut likeness) = (vec![false; self.vectors * period], 0u64);
            self.for_each(rows, |row, column, imaginary, value| {
                let own = [u64::from(row.slot) << 1 | u64::from(imaginary), rounded(value)];
                likeness = likeness.wrapping_add(fingerprint(own));
                let r = amount(column.slot, row.slot, period);
                if let Some(bit) = bits.get_mut(column.vector as usize * period + r) {
                    *bit = true;
                }
            });
            (bits, likeness)
        };
        let (of_result, likeness) = self.rows_of_results().par_iter().map(of_result).unzip();
        Rotations { input_period: period, output_period: self.output_period, of_result, likeness }
    }

    /// The weights of every result, times its `factor`.
    pub fn weights(&self, split: Split, factor: &(dyn Fn(usize) -> f64 + Sync)) -> Vec<Weights> {
        let steps: Vec<Steps> = self.rotations().steps(split);
        let of_result =
            |(result, (steps, rows)): (usize, (&Steps, &Vec<u32>))| self.weights_of(split, steps, rows, factor(result));
        steps.par_iter().zip(&self.rows_of_results()).enumerate().map(of_result).collect()
    }

    /// Those of one result, which has these steps and rows.
    fn weights_of(&self, split: Split, steps: &Steps, rows: &[u32], factor: f64) -> Weights {
        let places = Places::new(self, split, steps);
        let mut counts = vec![0usize; steps.babies.len() * steps.giants.len()];
        self.place(&places, rows, |list, _, _, _| {
            if let Some(count) = counts.get_mut(list) {
                *count += 1;
            }
        });
        let mut lists: Vec<Vec<Entry>> = counts.into_iter().map(Vec::with_capacity).collect();
        let mut hashes = vec![0u64; steps.babies.len()];
        self.place(&places, rows, |list, giant, entry, imaginary| {
            let entry = Entry { value: entry.value * factor, ..entry };
            let hash = hashes.get_mut(list / steps.giants.len().max(1));
            if let (Some(hash), Some(list)) = (hash, lists.get_mut(list)) {
                let at = u64::from(giant) << 32 | entry.slot() as u64;
                *hash = hash.wrapping_add(fingerprint([at, u64::from(imaginary) << 63 | rounded(entry.value)]));
                list.push(entry);
            }
        });
        let mut lists = lists.into_iter().map(Arc::new);
        let of_baby = |(baby, hash): (&Baby, u64)| (*baby, hash, lists.by_ref().take(steps.giants.len()).collect());
        Weights { of_baby: steps.babies.iter().zip(hashes).map(of_baby).collect() }
    }

    /// Goes through where the entries of some rows go: number of the list (baby steps first), giant step, entry, whether it is imaginary.
    fn place(&self, places: &Places, rows: &[u32], mut visit: impl FnMut(usize, u32, Entry, bool)) {
        let (pi, po, part) = (self.input_period, self.output_period, places.part);
        self.for_each(rows, |row, column, imaginary, value| {
            for copy in 0..copies(part, po) {
                let slot = row.slot as usize + copy * po;
                let r = amount(column.slot, slot as u32, pi);
                let (k, g) = divide(r % part, places.split.modulus, pi, places.period);
                let baby = places.babies.get(column.vector as usize * pi + k as usize).copied();
                let (Some(baby), Some(&giant)) = (baby, places.giants.get(g as usize)) else { continue };
                if baby == usize::MAX || giant == usize::MAX {
                    continue;
                }
                let to = (slot + r / part * part + g as usize) % places.period;
                visit(baby * places.giant_count + giant, g, Entry::new(to, imaginary, value), imaginary);
            }
        });
    }
}

/// Where the steps of a result stand in its lists; `usize::MAX` where it has none.
struct Places {
    split: Split,
    part: usize,
    period: usize,
    giant_count: usize,
    /// By vector and amount.
    babies: Vec<usize>,
    giants: Vec<usize>,
}

impl Places {
    fn new(map: &Map<'_>, split: Split, steps: &Steps) -> Self {
        let (pi, period) = (map.input_period, map.input_period.max(map.output_period));
        let (mut babies, mut giants) = (vec![usize::MAX; map.vectors * pi], vec![usize::MAX; period]);
        for (i, (vector, amount)) in steps.babies.iter().enumerate() {
            if let Some(place) = babies.get_mut(*vector as usize * pi + *amount as usize % pi) {
                *place = i;
            }
        }
        for (i, giant) in steps.giants.iter().enumerate() {
            if let Some(place) = giants.get_mut(*giant as usize) {
                *place = i;
            }
        }
        Self { split, part: pi / split.fold, period, giant_count: steps.giants.len(), babies, giants }
    }
}

impl Rotations {
    /// The folds that this map can have: of 1 up to the copies of the result in the input's period.
    pub fn folds(&self) -> Vec<usize> {
        let most = (self.input_period / self.output_period.min(self.input_period)).max(1);
        (0..=most.trailing_zeros()).map(|i| 1 << i).collect()
    }

    /// All splits worth a look.
    pub fn counts(&self) -> Vec<SplitCounts> {
        let mut out = Vec::new();
        for fold in self.folds() {
            let part = self.input_period / fold;
            // Copies that do all the work again are for free only where there are few.
            if copies(part, self.output_period) > MOST_COPIES {
                continue;
            }
            for modulus in (0..=part.trailing_zeros()).map(|i| 1 << i) {
                out.push(self.counts_of(Split { fold, modulus }));
            }
        }
        out
    }

    fn counts_of(&self, split: Split) -> SplitCounts {
        let (pi, po) = (self.input_period, self.output_period);
        let (part, period) = (pi / split.fold, pi.max(po));
        let (mut all_babies, mut all_giants) = (vec![false; self.vectors() * pi], vec![false; period]);
        let (mut products, mut giants) = (0, 0);
        for bits in &self.of_result {
            let (mut own_babies, mut own_giants) = (vec![false; bits.len()], vec![false; period]);
            for (at, _) in bits.iter().enumerate().filter(|(_, bit)| **bit) {
                let (vector, r) = (at / pi, at % pi);
                for copy in 0..copies(part, po) {
                    let own = (r + pi - (copy * po) % pi) % pi % part;
                    let (k, g) = divide(own, split.modulus, pi, period);
                    for (list, at) in [(&mut own_babies, vector * pi + k as usize), (&mut own_giants, g as usize)] {
                        if let Some(bit) = list.get_mut(at) {
                            *bit = true;
                        }
                    }
                }
            }
            let count = |list: &[bool]| list.iter().filter(|b| **b).count();
            products += count(&own_babies) * count(&own_giants);
            giants += count(&own_giants);
            all_babies.iter_mut().zip(&own_babies).for_each(|(a, b)| *a |= b);
            all_giants.iter_mut().zip(&own_giants).for_each(|(a, b)| *a |= b);
        }
        let turned = |v: &[bool]| v.iter().skip(1).filter(|b| **b).count();
        let per_vector: Vec<usize> = all_babies.chunks(pi).map(turned).collect();
        let is_used = |k: &usize| all_babies.chunks(pi).any(|v| v.get(*k).copied().unwrap_or(false));
        SplitCounts {
            split,
            products,
            turned: per_vector.iter().sum(),
            vectors: per_vector.iter().filter(|t| **t > 0).count(),
            amounts: (1..pi).filter(is_used).count(),
            giants,
            different_giants: all_giants.iter().filter(|b| **b).count(),
            results: self.of_result.len(),
        }
    }

    fn vectors(&self) -> usize {
        self.of_result.first().map_or(0, |bits| bits.len() / self.input_period)
    }

    pub fn steps(&self, split: Split) -> Vec<Steps> {
        let (pi, po) = (self.input_period, self.output_period);
        let (part, period) = (pi / split.fold, pi.max(po));
        let copies = copies(part, po);
        let steps = |bits: &Vec<bool>| {
            let (mut babies, mut giants) = (BTreeSet::new(), BTreeSet::new());
            for (at, _) in bits.iter().enumerate().filter(|(_, bit)| **bit) {
                let (vector, r) = (at / pi, at % pi);
                for copy in 0..copies {
                    let own = (r + pi - (copy * po) % pi) % pi % part;
                    let (k, g) = divide(own, split.modulus, pi, period);
                    babies.insert((vector as u32, k));
                    giants.insert(g);
                }
            }
            Steps { babies: babies.into_iter().collect(), giants: giants.into_iter().collect() }
        };
        self.of_result.iter().map(steps).collect()
    }
}

/// A value without its last bits, which in a sum depend on its order.
pub(crate) fn rounded(value: f64) -> u64 {
    value.to_bits().wrapping_add(1 << 15) >> 16
}

/// A number that says whether some others are equal; sums of it whether sets of them are (the finisher of SplitMix64 on each).
pub(crate) fn fingerprint<const N: usize>(parts: [u64; N]) -> u64 {
    parts.into_iter().fold(0x9e37_79b9_7f4a_7c15, |state: u64, part| {
        let x = (state ^ part).wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    })
}

/// More copies of a result than this do not each sum everything.
const MOST_COPIES: usize = 8;

/// Copies of a result whose work is not shared.
fn copies(part: usize, output_period: usize) -> usize {
    (part / output_period.min(part)).max(1)
}

/// The rotation that brings slot `from` to slot `to`, modulo the period.
fn amount(from: u32, to: u32, period: usize) -> usize {
    (from as usize + period - to as usize % period) % period
}

/// A rotation as baby step (modulo the input's period) and giant step (modulo that of the weights).
fn divide(rotation: usize, modulus: usize, input_period: usize, period: usize) -> (u32, u32) {
    if modulus == 0 {
        return ((rotation % input_period) as u32, 0);
    }
    let half = modulus / 2;
    let baby = ((rotation + half) % modulus) as i64 - half as i64;
    let giant = rotation as i64 - baby;
    (baby.rem_euclid(input_period as i64) as u32, giant.rem_euclid(period as i64) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    /// Evaluates the weights in exact slot semantics, with the fold.
    #[test]
    fn any_map_between_any_layouts_is_the_sum_of_its_rotations() {
        let mut rng = StdRng::seed_from_u64(11);
        for trial in 0..300 {
            let slots: usize = 1 << rng.random_range(3..7);
            let (pi, po) = (slots >> rng.random_range(0..3), slots >> rng.random_range(0..4));
            let (vectors, results) = (rng.random_range(1..4), rng.random_range(1..3));
            let complex_input = rng.random_bool(0.3);
            let complex_output = !complex_input && rng.random_bool(0.5);
            let mut columns: Vec<Option<Column>> = (0..vectors as u32)
                .flat_map(|vector| (0..pi as u32).map(move |slot| Column { vector, slot, imaginary: false }))
                .flat_map(|c| [Some(c), complex_input.then_some(Column { imaginary: true, ..c })])
                .filter(|c| c.is_some() && rng.random_bool(0.6))
                .collect();
            columns.push(None);
            let rows: Vec<Row> = (0..results as u32)
                .flat_map(|ciphertext| (0..po as u32).map(move |slot| Row { ciphertext, slot, imaginary: false }))
                .flat_map(|r| [Some(r), complex_output.then_some(Row { imaginary: true, ..r })])
                .flatten()
                .filter(|_| rng.random_bool(0.6))
                .collect();
            let dense: Vec<Vec<(u32, f64)>> = rows
                .iter()
                .map(|_| {
                    let keep = |c: usize| (c as u32, rng.random_range(-1.0..1.0));
                    (0..columns.len()).map(keep).collect()
                })
                .collect();
            let matrix = SparseMatrix::from_rows(columns.len(), dense.clone()).unwrap();
            let map = Map {
                matrix: &matrix,
                columns: &columns,
                input_period: pi,
                rows: &rows,
                output_period: po,
                results,
                vectors,
            };
            let folds = map.rotations().folds();
            let fold = folds[rng.random_range(0..folds.len())];
            let split = Split { fold, modulus: [0, 1 << rng.random_range(0..7)][usize::from(rng.random_bool(0.8))] };
            let values: Vec<f64> = columns.iter().map(|_| rng.random_range(-1.0..1.0)).collect();
            let mut x = vec![vec![(0.0, 0.0); slots]; vectors];
            for (c, v) in columns.iter().zip(&values) {
                let Some(c) = c else { continue };
                for s in (c.slot as usize..slots).step_by(pi) {
                    let place = &mut x[c.vector as usize][s];
                    if c.imaginary { place.1 = *v } else { place.0 = *v }
                }
            }
            let factor = if complex_input { 0.5 } else { 1.0 };
            let all = map.weights(split, &|_| factor);
            for (result, (weights, steps)) in all.iter().zip(map.rotations().steps(split)).enumerate() {
                let mut sum = vec![(0.0, 0.0); slots];
                for ((vector, k), _, by_giant) in &weights.of_baby {
                    for (g, entries) in steps.giants.iter().zip(by_giant) {
                        for e in entries.iter() {
                            for s in (e.slot()..slots).step_by(pi.max(po)) {
                                let (re, im) = x[*vector as usize][(s + *k as usize) % slots];
                                let to = &mut sum[(s + slots - *g as usize % slots) % slots];
                                let (wr, wi) = if e.is_imaginary() { (0.0, e.value) } else { (e.value, 0.0) };
                                to.0 += wr * re - wi * im;
                                to.1 += wr * im + wi * re;
                            }
                        }
                    }
                }
                let folded: Vec<(f64, f64)> = (0..slots)
                    .map(|s| {
                        let parts = (0..fold).map(|m| sum[(s + m * (pi / fold)) % slots]);
                        let (re, im) = parts.fold((0.0, 0.0), |a, p| (a.0 + p.0, a.1 + p.1));
                        if complex_input { (2.0 * re, 0.0) } else { (re, im) }
                    })
                    .collect();
                for (row, entries) in rows.iter().zip(&dense).filter(|(r, _)| r.ciphertext as usize == result) {
                    let seen = |c: &(u32, f64)| columns[c.0 as usize].map_or(0.0, |_| c.1 * values[c.0 as usize]);
                    let expected: f64 = entries.iter().map(seen).sum();
                    for s in (row.slot as usize..slots).step_by(po) {
                        let found = if row.imaginary { folded[s].1 } else { folded[s].0 };
                        assert!((found - expected).abs() < 1e-9, "trial {trial}: {found} is not {expected}");
                    }
                }
            }
        }
    }
}
