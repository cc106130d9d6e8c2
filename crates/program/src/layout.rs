//! How matrices and vectors lie in the slots and coefficients of a ring, shared by the owner (who places the weights)
//! and the edge (which places the inputs).
//!
//! Two layouts exist. [`Diagonals`] multiplies a matrix with a vector in the slots by rotated diagonals; its result is
//! periodic, every row appears once in each period. [`CoefficientDot`] and [`CoefficientRows`] compute inner products in
//! the coefficients, without any rotation; they serve the first and only, and the last layer.

use crate::Complex64;
use serde::{Deserialize, Serialize};
use subrosa_fhe::Galois;

/// What a layout cannot hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// More rows than one ciphertext has slots.
    #[error("a layer of {rows} outputs does not fit into {slots} slots")]
    TooManyRows {
        /// Rows of the matrix.
        rows: usize,
        /// Slots of the ring.
        slots: usize,
    },
    /// A matrix without rows or columns, or a ring with fewer than two slots.
    #[error("a layer of {rows} outputs and {cols} inputs cannot be laid out")]
    Empty {
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        cols: usize,
    },
}

/// One input vector of a [`Diagonals`] product: which columns of the matrix it carries and by how many shifts it is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tile {
    /// First packed column in this tile.
    pub first_column: usize,
    /// Number of baby steps, a power of two: shifts `0..babies` of this input are multiplied.
    pub babies: usize,
}

/// A matrix-vector product by diagonals: `out = sum_g rot(sum_{tile,b} W[g,tile,b] * rot(x_tile, b), g * baby_stride)`,
/// followed by a fold over the column groups (and the conjugation, for complex packing).
///
/// Slot `s` belongs to row `s mod row_period` and column group `(s div row_period) mod span`: inputs and weights repeat with
/// `row_period * span`, so that the fold over `span` groups leaves a result that repeats with `row_period`. With complex packing
/// two neighbouring columns share a slot, the weights as `(w_a - i w_b) / 2`, the inputs as `x_a + i x_b`: the fold over the
/// conjugation then takes the real part `w_a x_a + w_b x_b`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagonals {
    /// Slots of the ring, N/2.
    pub slots: usize,
    /// Rows of the matrix (outputs).
    pub rows: usize,
    /// Columns of the matrix (inputs).
    pub cols: usize,
    /// The power of two to which the rows are padded; the period of the result.
    pub row_period: usize,
    /// Column groups, a power of two: the fold sums over as many rotations by multiples of the row period.
    pub span: usize,
    /// Whether two columns share a slot.
    pub complex: bool,
    /// `Some(p)`: the input is a vector that is already periodic with period p in the slots (the result of a layer before).
    pub input_period: Option<usize>,
    /// Number of giant steps.
    pub giants: usize,
    /// Distance of the giant steps: giant g rotates by `g * baby_stride`.
    pub baby_stride: usize,
    /// The inputs; exactly one for a periodic input.
    pub tiles: Vec<Tile>,
}

/// The choices that [`Diagonals::packed`] leaves open; all are rounded to what the shape permits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packing {
    /// Column groups, a power of two up to slots / row period. Fewer mean more products and a shorter fold.
    pub span: usize,
    /// Giant steps, a power of two; 1 for a plain input, whose rotations cost nothing.
    pub giants: usize,
    /// Bounds the number of input vectors where the shape permits.
    pub max_tiles: usize,
    /// Whether two columns share a slot.
    pub complex: bool,
}

impl Diagonals {
    /// The automorphism of a giant step.
    pub fn giant(&self, step: usize) -> Galois {
        Galois::rotation((step * self.baby_stride) as u32)
    }

    /// Lays out a `rows` x `cols` matrix for an input that is packed for it. Errors: no rows or columns, more rows than slots.
    pub fn packed(slots: usize, rows: usize, cols: usize, packing: Packing) -> Result<Self, LayoutError> {
        let row_period = padded_rows(slots, rows, cols)?;
        let Packing { span, giants, max_tiles, complex } = packing;
        let span = span.clamp(1, slots / row_period);
        let packed_cols = if complex { cols.div_ceil(2) } else { cols };
        let diagonals = packed_cols.div_ceil(span);
        let giants = giants.min(row_period).min(diagonals.next_power_of_two()).max(1);
        let baby_stride_limit = row_period / giants;
        let mut left = diagonals.div_ceil(giants);
        let mut tiles = Vec::new();
        let mut first_column = 0;
        let mut baby_stride = 1;
        while left > 0 {
            // Largest power of two that fits; the last permitted tile is padded up instead.
            let floor = 1usize << (usize::BITS - 1 - left.leading_zeros());
            let padded = left.next_power_of_two();
            let last = tiles.len() + 1 >= max_tiles;
            let babies = if last { padded } else { floor }.min(baby_stride_limit);
            baby_stride = baby_stride.max(babies);
            tiles.push(Tile { first_column, babies });
            first_column += babies * giants * span;
            left = left.saturating_sub(babies);
        }
        Ok(Self { slots, rows, cols, row_period, span, complex, input_period: None, giants, baby_stride, tiles })
    }

    /// Lays out a `rows` x `cols` matrix for an input that is real and already periodic in the slots with `input_period`
    /// (a power of two, at least `cols`).
    pub fn periodic(
        slots: usize,
        rows: usize,
        cols: usize,
        input_period: usize,
        giants: usize,
    ) -> Result<Self, LayoutError> {
        let row_period = padded_rows(slots, rows, cols)?;
        let diagonals = row_period.min(input_period);
        let giants = giants.min(diagonals).max(1);
        let babies = diagonals / giants;
        Ok(Self {
            slots,
            rows,
            cols,
            row_period,
            span: (input_period / row_period).max(1),
            complex: false,
            input_period: Some(input_period),
            giants,
            baby_stride: babies,
            tiles: vec![Tile { first_column: 0, babies }],
        })
    }

    /// Weight ciphertexts this layout needs: giants x babies over all tiles.
    pub fn products(&self) -> usize {
        self.giants * self.tiles.iter().map(|t| t.babies).sum::<usize>()
    }

    /// Giant step, tile and baby step of a weight ciphertext, which come in this order.
    pub fn place(&self, index: usize) -> (usize, usize, usize) {
        let per_giant = (self.products() / self.giants).max(1);
        let (giant, mut baby) = (index / per_giant, index % per_giant);
        let mut tile = 0;
        while let Some(t) = self.tiles.get(tile).filter(|t| baby >= t.babies) {
            baby -= t.babies;
            tile += 1;
        }
        (giant, tile, baby)
    }

    /// How many times the fold doubles: over the column groups and, with complex packing, the conjugation.
    pub fn fold_doublings(&self) -> u32 {
        self.span.trailing_zeros() + u32::from(self.complex)
    }

    /// The automorphisms of the fold in `count` stages of about equal size (at least one, at most [`fold_doublings`](Self::fold_doublings)):
    /// each stage maps `v` to `v + sum_g sigma_g(v)`; together they sum over the column groups and, with complex packing, over
    /// the conjugation. No stage if there is nothing to sum.
    pub fn fold_stages(&self, count: usize) -> Vec<Vec<Galois>> {
        let mut left = self.fold_doublings();
        let mut stages_left = (count as u32).clamp(1, left.max(1));
        let mut groups = self.span;
        let mut stages = Vec::new();
        while left > 0 {
            let doublings = left.div_ceil(stages_left);
            // The conjugation comes last.
            let conjugate = self.complex && doublings == left;
            let take = 1usize << (doublings - u32::from(conjugate));
            // The largest strides first; what is left are smaller multiples of the row period.
            let stride = self.row_period * (groups / take);
            let mut stage = Vec::new();
            for conj in [false, true] {
                for k in 0..take {
                    let g = Galois { rotation: (k * stride) as u32, conjugate: conj };
                    if (!conj || conjugate) && g != Galois::IDENTITY {
                        stage.push(g);
                    }
                }
            }
            stages.push(stage);
            groups /= take;
            left -= doublings;
            stages_left -= 1;
        }
        stages
    }

    /// Packed column that slot `slot` (any integer, taken modulo the slots) of tile `tile` carries.
    fn packed_column(&self, tile: usize, slot: usize) -> usize {
        let slot = slot % self.slots;
        match (self.input_period, self.tiles.get(tile)) {
            (Some(period), _) => slot % period,
            (None, Some(t)) => {
                let (r, group) = (slot % self.row_period, slot / self.row_period % self.span);
                let within = r % t.babies + t.babies * ((r / self.baby_stride) % self.giants);
                t.first_column + within + t.babies * self.giants * group
            }
            (None, None) => usize::MAX,
        }
    }

    /// Slots of input tile `tile` for the vector `x` (`cols` values; missing ones count as zero).
    pub fn input_slots(&self, tile: usize, x: &[f64]) -> Vec<Complex64> {
        let at = |c: usize| x.get(c).copied().unwrap_or(0.0);
        (0..self.slots)
            .map(|s| {
                let c = self.packed_column(tile, s);
                if self.complex { Complex64::new(at(2 * c), at(2 * c + 1)) } else { Complex64::new(at(c), 0.0) }
            })
            .collect()
    }

    /// Slots of the weights that are multiplied with shift `baby` of tile `tile` before giant step `giant`.
    /// `weight(row, col)` is only asked inside `rows` x `cols`.
    pub fn weight_slots(
        &self,
        giant: usize,
        tile: usize,
        baby: usize,
        weight: &dyn Fn(usize, usize) -> f64,
    ) -> Vec<Complex64> {
        let shift = giant * self.baby_stride;
        let at = |row: usize, col: usize| if row < self.rows && col < self.cols { weight(row, col) } else { 0.0 };
        (0..self.slots)
            .map(|s| {
                // What stands in slot s ends in slot s - shift after the giant step.
                let row = (s + self.slots - shift % self.slots) % self.slots % self.row_period;
                let c = self.packed_column(tile, s + baby);
                if self.complex {
                    Complex64::new(0.5 * at(row, 2 * c), -0.5 * at(row, 2 * c + 1))
                } else {
                    Complex64::new(at(row, c), 0.0)
                }
            })
            .collect()
    }

    /// A vector of one value per row, repeated with the row period over all slots (padding rows are zero).
    pub fn replicate(&self, values: &[f64]) -> Vec<f64> {
        (0..self.slots).map(|s| values.get(s % self.row_period).copied().unwrap_or(0.0)).collect()
    }
}

fn padded_rows(slots: usize, rows: usize, cols: usize) -> Result<usize, LayoutError> {
    if rows == 0 || cols == 0 || slots < 2 {
        return Err(LayoutError::Empty { rows, cols });
    }
    let row_period = rows.next_power_of_two();
    if row_period > slots {
        return Err(LayoutError::TooManyRows { rows, slots });
    }
    Ok(row_period)
}

/// A whole layer as inner products in the coefficients, no rotation and no key: row k of chunk c lies at
/// `X^(stride * k) * sum_i w_i X^i`, the input at `sum_i x_i X^(-i)`; coefficient `stride * k` of the product is the inner product.
/// Columns beyond the ring degree are cut into chunks whose products are summed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoefficientDot {
    /// Ring degree N.
    pub n: usize,
    /// Rows of the matrix.
    pub rows: usize,
    /// Columns of the matrix.
    pub cols: usize,
}

impl CoefficientDot {
    /// Columns held by one input polynomial, and the distance of two rows.
    pub fn stride(&self) -> usize {
        self.cols.min(self.n)
    }
    /// Input polynomials: `ceil(cols / N)`.
    pub fn chunks(&self) -> usize {
        self.cols.div_ceil(self.n)
    }
    /// Rows that one ciphertext carries.
    pub fn rows_per_ciphertext(&self) -> usize {
        (self.n / self.stride()).min(self.rows)
    }
    /// Result ciphertexts.
    pub fn outputs(&self) -> usize {
        self.rows.div_ceil(self.rows_per_ciphertext())
    }
    /// Where row `row` is found: (result ciphertext, coefficient).
    pub fn position(&self, row: usize) -> (usize, usize) {
        let per = self.rows_per_ciphertext();
        (row / per, (row % per) * self.stride())
    }
    /// Coefficients of input chunk `chunk` for the vector `x`.
    pub fn input_coefficients(&self, chunk: usize, x: &[f64]) -> Vec<f64> {
        let mut out = vec![0.0; self.n];
        let first = chunk * self.stride();
        for (i, v) in x.iter().skip(first).take(self.stride()).enumerate() {
            // X^-i = -X^(N-i)
            match out.get_mut((self.n - i) % self.n) {
                Some(o) => *o = if i == 0 { *v } else { -v },
                None => break,
            }
        }
        out
    }
    /// Coefficients of the weights for result `output` and input chunk `chunk`.
    pub fn weight_coefficients(&self, output: usize, chunk: usize, weight: &dyn Fn(usize, usize) -> f64) -> Vec<f64> {
        let mut out = vec![0.0; self.n];
        let per = self.rows_per_ciphertext();
        let first = chunk * self.stride();
        for k in 0..per.min(self.rows - (output * per).min(self.rows)) {
            for i in 0..self.stride().min(self.cols - first) {
                if let Some(o) = out.get_mut(k * self.stride() + i) {
                    *o = weight(output * per + k, first + i);
                }
            }
        }
        out
    }
}

/// The last layer behind a layer in the slots: its input is real and periodic in the slots with `period`, so it lies in
/// the subring Z[X^gap]; row k is encoded in the same subring and moved to `X^k` (the second half of the rows to `X^(k+N/2)`),
/// where the constant coefficient of its product with the input, the mean over the slots, is the inner product divided by
/// `period`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoefficientRows {
    /// Ring degree N.
    pub n: usize,
    /// Rows of the matrix.
    pub rows: usize,
    /// Columns of the matrix, at most `period`.
    pub cols: usize,
    /// Period of the input in the slots, a power of two up to N/2.
    pub period: usize,
}

impl CoefficientRows {
    /// Exponents of the input are multiples of this.
    pub fn gap(&self) -> usize {
        (self.n / 2 / self.period).max(1)
    }
    /// Rows that one ciphertext carries.
    pub fn rows_per_ciphertext(&self) -> usize {
        2 * self.gap()
    }
    /// Result ciphertexts.
    pub fn outputs(&self) -> usize {
        self.rows.div_ceil(self.rows_per_ciphertext())
    }
    /// Where row `row` is found: (result ciphertext, coefficient); its value there is divided by `period`.
    pub fn position(&self, row: usize) -> (usize, usize) {
        let (output, k) = (row / self.rows_per_ciphertext(), row % self.rows_per_ciphertext());
        (output, if k < self.gap() { k } else { k - self.gap() + self.n / 2 })
    }
    /// Coefficients of the weights for result `output`. `embed` maps N/2 real slots to N coefficients (the inverse
    /// canonical embedding, unscaled).
    pub fn weight_coefficients<E>(
        &self,
        output: usize,
        weight: &dyn Fn(usize, usize) -> f64,
        embed: impl Fn(&[f64]) -> Result<Vec<f64>, E>,
    ) -> Result<Vec<f64>, E> {
        let mut out = vec![0.0; self.n];
        let first = output * self.rows_per_ciphertext();
        for row in first..self.rows.min(first + self.rows_per_ciphertext()) {
            let (_, at) = self.position(row);
            let slots: Vec<f64> = (0..self.n / 2)
                .map(|s| if s % self.period < self.cols { weight(row, s % self.period) } else { 0.0 })
                .collect();
            for (j, c) in embed(&slots)?.iter().enumerate().step_by(self.gap()) {
                let e = j + at;
                let (e, sign) = if e >= self.n { (e - self.n, -1.0) } else { (e, 1.0) };
                if let Some(o) = out.get_mut(e) {
                    *o += sign * c;
                }
            }
        }
        Ok(out)
    }
}

/// Input vectors in the slots, feature by feature: what a linear map over images or other tensors reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tiles {
    /// Slots of the ring, N/2.
    pub slots: usize,
    /// Everything repeats with this period, a power of two up to the slots.
    pub period: usize,
    /// For each input vector, the features it carries; slots that are not named are zero.
    pub tiles: Vec<Vec<Run>>,
}

/// `count` features at a constant distance in a constant distance of slots: feature `feature + i * feature_step` stands in slot
/// `slot + i * slot_step` (modulo the period).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// First slot.
    pub slot: u32,
    /// First feature.
    pub feature: u32,
    /// Number of features.
    pub count: u32,
    /// Distance of the slots.
    pub slot_step: u32,
    /// Distance of the features.
    pub feature_step: u32,
}

impl Run {
    /// Whether it stays inside a period and the features.
    pub fn fits(&self, period: usize, features: usize) -> bool {
        let end = |first: u32, step: u32| u64::from(first) + u64::from(self.count.saturating_sub(1)) * u64::from(step);
        self.count > 0
            && end(self.slot, self.slot_step) < period as u64
            && end(self.feature, self.feature_step) < features as u64
    }

    /// (slot, feature) one after the other.
    pub fn places(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let at = |first: u32, step: u32, i: u32| first as usize + i as usize * step as usize;
        (0..self.count).map(move |i| (at(self.slot, self.slot_step, i), at(self.feature, self.feature_step, i)))
    }
}

impl Tiles {
    /// Packs (slot, feature) pairs, ascending in the slots, into runs.
    pub fn runs(places: &[(u32, u32)]) -> Vec<Run> {
        let mut out: Vec<Run> = Vec::new();
        for &(slot, feature) in places {
            if let Some(run) = out.last_mut() {
                let last =
                    (run.slot + (run.count - 1) * run.slot_step, run.feature + (run.count - 1) * run.feature_step);
                let steps = (slot.checked_sub(last.0), feature.checked_sub(last.1));
                match steps {
                    (Some(s), Some(f)) if run.count == 1 => {
                        (run.slot_step, run.feature_step, run.count) = (s, f, 2);
                        continue;
                    }
                    (Some(s), Some(f)) if (s, f) == (run.slot_step, run.feature_step) => {
                        run.count += 1;
                        continue;
                    }
                    _ => {}
                }
            }
            out.push(Run { slot, feature, count: 1, slot_step: 0, feature_step: 0 });
        }
        out
    }

    /// Slots of input vector `tile` for the features `x`; missing ones count as zero.
    pub fn input_slots(&self, tile: usize, x: &[f64]) -> Vec<f64> {
        let mut period = vec![0.0; self.period];
        for (slot, feature) in self.tiles.get(tile).into_iter().flatten().flat_map(Run::places) {
            if let (Some(place), Some(value)) = (period.get_mut(slot), x.get(feature)) {
                *place = *value;
            }
        }
        (0..self.slots).map(|s| period.get(s % self.period).copied().unwrap_or(0.0)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    fn rotate(v: &[Complex64], by: usize) -> Vec<Complex64> {
        (0..v.len()).map(|s| v[(s + by) % v.len()]).collect()
    }

    /// Evaluates the layout in exact slot semantics.
    fn evaluate(
        d: &Diagonals,
        stages: usize,
        inputs: &[Vec<Complex64>],
        w: &dyn Fn(usize, usize) -> f64,
    ) -> Vec<Complex64> {
        let mut acc = vec![Complex64::default(); d.slots];
        for g in 0..d.giants {
            let mut part = vec![Complex64::default(); d.slots];
            for (t, tile) in d.tiles.iter().enumerate() {
                for b in 0..tile.babies {
                    let x = rotate(&inputs[t], b);
                    for (p, (a, b)) in part.iter_mut().zip(d.weight_slots(g, t, b, w).iter().zip(&x)) {
                        *p += a * b;
                    }
                }
            }
            for (a, p) in acc.iter_mut().zip(rotate(&part, g * d.baby_stride)) {
                *a += p;
            }
        }
        for stage in d.fold_stages(stages) {
            let v = acc.clone();
            for g in stage {
                let r = rotate(&v, g.rotation as usize);
                for (a, x) in acc.iter_mut().zip(r) {
                    *a += if g.conjugate { x.conj() } else { x };
                }
            }
        }
        acc
    }

    fn matrix(rng: &mut StdRng, rows: usize, cols: usize) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
        let w: Vec<f64> = (0..rows * cols).map(|_| rng.random_range(-1.0..1.0)).collect();
        let x: Vec<f64> = (0..cols).map(|_| rng.random_range(-1.0..1.0)).collect();
        let y = (0..rows).map(|r| (0..cols).map(|c| w[r * cols + c] * x[c]).sum()).collect();
        (w, x, y)
    }

    #[test]
    fn diagonals_compute_the_product_replicated_in_every_period_for_any_shape_span_and_packing() {
        let mut rng = StdRng::seed_from_u64(1);
        for trial in 0..600 {
            let slots = 1 << rng.random_range(3..8);
            let (rows, cols) = (rng.random_range(1..=slots), rng.random_range(1..=5 * slots));
            let (w, x, y) = matrix(&mut rng, rows, cols);
            let packing = Packing {
                span: 1 << rng.random_range(0..8),
                giants: 1 << rng.random_range(0..4),
                max_tiles: rng.random_range(1..5),
                complex: rng.random_bool(0.5),
            };
            let d = Diagonals::packed(slots, rows, cols, packing).unwrap();
            let inputs: Vec<_> = (0..d.tiles.len()).map(|t| d.input_slots(t, &x)).collect();
            let out = evaluate(&d, rng.random_range(1..5), &inputs, &|r, c| w[r * cols + c]);
            for (o, e) in out.iter().zip(d.replicate(&y)) {
                assert!((o - e).norm() < 1e-9, "trial {trial}: {d:?}: {o} is not {e}");
            }
        }
    }

    #[test]
    fn periodic_diagonals_compute_the_product_for_any_shape() {
        let mut rng = StdRng::seed_from_u64(2);
        for _ in 0..300 {
            let slots: usize = 1 << rng.random_range(3..8);
            let (rows, cols) = (rng.random_range(1..=slots), rng.random_range(1..=slots));
            let (w, x, y) = matrix(&mut rng, rows, cols);
            let period = cols.next_power_of_two();
            let d = Diagonals::periodic(slots, rows, cols, period, 1 << rng.random_range(0..4)).unwrap();
            let input: Vec<_> =
                (0..slots).map(|s| Complex64::new(x.get(s % period).copied().unwrap_or(0.0), 0.0)).collect();
            let out = evaluate(&d, rng.random_range(1..5), &[input], &|r, c| w[r * cols + c]);
            for (o, e) in out.iter().zip(d.replicate(&y)) {
                assert!((o - e).norm() < 1e-9, "{d:?}: {o} is not {e}");
            }
        }
    }

    #[test]
    fn papers_classifier_needs_144_ciphertexts_and_two_inputs() {
        let full = |giants, max_tiles| Packing { span: usize::MAX, giants, max_tiles, complex: true };
        let plain = Diagonals::packed(4096, 512, 2304, full(1, usize::MAX)).unwrap();
        assert_eq!((plain.products(), plain.tiles.len(), plain.span), (144, 2, 8));
        let encrypted = Diagonals::packed(4096, 512, 2304, full(8, 2)).unwrap();
        assert_eq!((encrypted.products(), encrypted.tiles.len(), encrypted.baby_stride), (144, 2, 16));
        let sizes = |stages| plain.fold_stages(stages).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!((sizes(1), sizes(2), sizes(4)), (vec![15], vec![3, 3], vec![1; 4]));
    }

    #[test]
    fn a_small_matrix_in_a_large_ring_folds_only_as_many_groups_as_it_needs() {
        let packing = Packing { span: 16, giants: 1, max_tiles: 1, complex: true };
        let d = Diagonals::packed(4096, 16, 30, packing).unwrap();
        assert_eq!((d.products(), d.fold_doublings(), d.fold_stages(2).len()), (1, 5, 2));
    }

    fn negacyclic(a: &[f64], b: &[f64]) -> Vec<f64> {
        let n = a.len();
        let mut out = vec![0.0; n];
        for i in 0..n {
            for j in 0..n {
                let s = if i + j >= n { -1.0 } else { 1.0 };
                out[(i + j) % n] += s * a[i] * b[j];
            }
        }
        out
    }

    #[test]
    fn coefficient_products_compute_inner_products_for_any_shape() {
        let mut rng = StdRng::seed_from_u64(3);
        for _ in 0..100 {
            let n = 1 << rng.random_range(3..8);
            let (rows, cols) = (rng.random_range(1..20), rng.random_range(1..=3 * n));
            let (w, x, y) = matrix(&mut rng, rows, cols);
            let l = CoefficientDot { n, rows, cols };
            let mut out = vec![vec![0.0; n]; l.outputs()];
            for (o, acc) in out.iter_mut().enumerate() {
                for c in 0..l.chunks() {
                    let p =
                        negacyclic(&l.weight_coefficients(o, c, &|r, c| w[r * cols + c]), &l.input_coefficients(c, &x));
                    acc.iter_mut().zip(p).for_each(|(a, b)| *a += b);
                }
            }
            for (row, e) in y.iter().enumerate() {
                let (o, at) = l.position(row);
                assert!((out[o][at] - e).abs() < 1e-9, "{l:?} row {row}");
            }
        }
    }

    #[test]
    fn runs_hold_every_place_once() {
        let mut rng = StdRng::seed_from_u64(5);
        for _ in 0..200 {
            let mut slot = 0;
            let places: Vec<(u32, u32)> = (0..rng.random_range(1..60))
                .map(|_| {
                    slot += if rng.random_bool(0.7) { 1 } else { rng.random_range(1..5) };
                    (slot, if rng.random_bool(0.8) { slot * 3 + 1 } else { rng.random_range(0..900) })
                })
                .collect();
            let runs = Tiles::runs(&places);
            let back: Vec<(u32, u32)> = runs.iter().flat_map(Run::places).map(|(s, f)| (s as u32, f as u32)).collect();
            assert_eq!(places, back);
            assert!(runs.iter().all(|r| r.fits(512, 1000)));
            let tiles = Tiles { slots: 1024, period: 512, tiles: vec![runs] };
            let x: Vec<f64> = (0..1000).map(f64::from).collect();
            let slots = tiles.input_slots(0, &x);
            for (s, f) in places {
                assert_eq!([slots[s as usize], slots[s as usize + 512]], [f64::from(f); 2]);
            }
        }
    }

    /// Slots at psi^(5^j) to coefficients by the definition, O(N^2).
    fn embed(slots: &[f64]) -> Result<Vec<f64>, std::convert::Infallible> {
        let n = 2 * slots.len();
        let mut e = 1usize;
        let mut out = vec![0.0; n];
        for s in slots {
            for (k, o) in out.iter_mut().enumerate() {
                let angle = std::f64::consts::PI * ((e * k) % (2 * n)) as f64 / n as f64;
                *o += 2.0 / n as f64 * s * angle.cos();
            }
            e = e * 5 % (2 * n);
        }
        Ok(out)
    }

    #[test]
    fn coefficient_rows_compute_inner_products_with_a_periodic_input() {
        let mut rng = StdRng::seed_from_u64(4);
        for _ in 0..60 {
            let n: usize = 1 << rng.random_range(3..8);
            let period = 1 << rng.random_range(0..=(n / 2).trailing_zeros());
            let (rows, cols) = (rng.random_range(1..40), rng.random_range(1..=period));
            let (w, x, y) = matrix(&mut rng, rows, cols);
            let l = CoefficientRows { n, rows, cols, period };
            let slots: Vec<f64> = (0..n / 2).map(|s| x.get(s % period).copied().unwrap_or(0.0)).collect();
            let input = embed(&slots).unwrap();
            for (row, e) in y.iter().enumerate() {
                let (o, at) = l.position(row);
                let p = negacyclic(&l.weight_coefficients(o, &|r, c| w[r * cols + c], embed).unwrap(), &input);
                assert!((p[at] * period as f64 - e).abs() < 1e-9, "{l:?} row {row}");
            }
        }
    }
}
