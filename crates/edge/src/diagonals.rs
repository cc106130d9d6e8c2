//! The product of an encrypted matrix, packed in the order it is read, with plain or encrypted inputs.

use crate::error::EdgeError;
use rayon::prelude::*;
use std::sync::{Mutex, PoisonError};
use subrosa_fhe::{Ciphertext, Parameters, Plaintext, RnsPoly};
use subrosa_program::layout::Diagonals;
use subrosa_ring::WeightStream;

/// Ciphertexts that each thread unpacks before they are put into the stream: they bound the memory of loading.
const UNPACKED_PER_THREAD: usize = 8;

/// The weights of one matrix: ciphertexts, or pairs of plaintexts.
pub(crate) struct Matrix {
    parameters: Parameters,
    stream: WeightStream,
    /// Sums of a product; twice the stream's, or one less, where it holds pairs of plaintexts.
    sums: usize,
    plain: bool,
    scale: f64,
    level: usize,
    /// Results of finished products, for the next ones: fresh memory costs more than the arithmetic done on it.
    free: Mutex<Vec<Vec<Ciphertext>>>,
}

impl Matrix {
    /// Unpacks the weights of `groups` sums of `terms` products, all at one level and scale, on all threads of the pool.
    pub fn load(
        parameters: &Parameters,
        (groups, terms): (usize, usize),
        (level, scale): (usize, f64),
        packed: &[&[u8]],
        unpack: impl Fn(&[u8]) -> Result<Ciphertext, EdgeError> + Sync,
    ) -> Result<Self, EdgeError> {
        let packed = packed.get(..groups * terms).ok_or_else(|| EdgeError::Program("a weight is missing".into()))?;
        let mut stream = {
            let ring = parameters.ring_of(level)?;
            WeightStream::zeroed(ring, ring.limbs(), groups, terms)
        };
        let batch = UNPACKED_PER_THREAD * rayon::current_num_threads();
        for (i, packed) in packed.chunks(batch).enumerate() {
            let weights: Vec<Ciphertext> = packed.par_iter().map(|bytes| unpack(bytes)).collect::<Result<_, _>>()?;
            let weights: Vec<[&RnsPoly; 2]> = weights.iter().map(linear).collect::<Result<_, _>>()?;
            stream.write(i * batch, &weights);
        }
        Ok(Self {
            parameters: parameters.clone(),
            stream,
            sums: groups,
            plain: false,
            scale,
            level,
            free: Mutex::default(),
        })
    }

    /// The same of plaintexts: those of two sums stand in one place.
    pub fn load_plain(
        parameters: &Parameters,
        (sums, terms): (usize, usize),
        (level, scale): (usize, f64),
        packed: &[&[u8]],
        unpack: impl Fn(&[u8]) -> Result<Plaintext, EdgeError> + Sync,
    ) -> Result<Self, EdgeError> {
        let packed = packed.get(..sums * terms).ok_or_else(|| EdgeError::Program("a weight is missing".into()))?;
        let ring = parameters.ring_of(level)?;
        let mut stream = WeightStream::zeroed(ring, ring.limbs(), sums.div_ceil(2), terms);
        let nothing = RnsPoly::zero(ring.n(), ring.limbs());
        let batch = UNPACKED_PER_THREAD * rayon::current_num_threads();
        for (pair, packed) in packed.chunks(2 * terms.max(1)).enumerate() {
            let (first, second) = packed.split_at(terms);
            for (i, first) in first.chunks(batch).enumerate() {
                let second = second.iter().skip(i * batch).take(batch);
                let both: Vec<&[u8]> = first.iter().chain(second).copied().collect();
                let unpacked: Vec<Plaintext> = both.par_iter().map(|bytes| unpack(bytes)).collect::<Result<_, _>>()?;
                let (first, second) = unpacked.split_at(first.len());
                let second = second.iter().map(|p| &p.poly).chain(std::iter::repeat(&nothing));
                let pairs: Vec<[&RnsPoly; 2]> = first.iter().map(|p| &p.poly).zip(second).map(Into::into).collect();
                stream.write(pair * terms + i * batch, &pairs);
            }
        }
        Ok(Self { parameters: parameters.clone(), stream, sums, plain: true, scale, level, free: Mutex::default() })
    }

    /// `sum_t W_t * rot(x_tile, baby)` over all diagonals of the layout.
    pub fn times_plain(&self, layout: &Diagonals, tiles: &[Plaintext]) -> Result<Ciphertext, EdgeError> {
        let scale = tiles.first().map_or(1.0, |t| t.scale);
        let terms = layout.tiles.iter().map(|t| t.babies).sum::<usize>();
        let fits = self.stream.groups() == 1
            && terms == self.stream.terms()
            && tiles.len() == layout.tiles.len()
            && tiles.iter().all(|t| t.level == self.level && self.has_shape(&t.poly) && self.is_close(t.scale, scale));
        if !fits {
            return Err(misfit());
        }
        let inputs: Vec<_> = tiles.iter().zip(&layout.tiles).map(|(x, tile)| (&x.poly, tile.babies)).collect();
        let mut out = [self.zero(), self.zero()];
        self.stream.product_plain(&inputs, out.each_mut());
        Ok(Ciphertext { components: out.into(), scale: self.product_scale(scale), level: self.level })
    }

    /// `sum_t W[t] * x_t` over plain inputs, one a term.
    pub fn sum_plain(&self, inputs: &[&Plaintext]) -> Result<Ciphertext, EdgeError> {
        let scale = inputs.first().map_or(1.0, |x| x.scale);
        let fits = self.stream.groups() == 1
            && inputs.len() == self.stream.terms()
            && inputs.iter().all(|x| x.level == self.level && self.has_shape(&x.poly) && self.is_close(x.scale, scale));
        if !fits {
            return Err(misfit());
        }
        let mut out = [self.zero(), self.zero()];
        let unshifted: Vec<_> = inputs.iter().map(|x| (&x.poly, 1)).collect();
        self.stream.product_plain(&unshifted, out.each_mut());
        Ok(Ciphertext { components: out.into(), scale: self.product_scale(scale), level: self.level })
    }

    /// `sum_t W[g, t] * X[i, t]` for each list i of inputs and each sum g: (list, sum) in order; of degree 2, or 1 if the weights are
    /// plain. Each weight is read once for all lists.
    pub fn times_lists(&self, lists: &[Vec<&Ciphertext>]) -> Result<Vec<Ciphertext>, EdgeError> {
        let scale = lists.first().and_then(|l| l.first()).map_or(1.0, |x| x.scale);
        let mut sets = Vec::with_capacity(lists.len());
        for inputs in lists {
            let components: Vec<[&RnsPoly; 2]> = inputs.iter().map(|x| linear(x)).collect::<Result<_, _>>()?;
            let fits = inputs.len() == self.stream.terms()
                && components.as_flattened().iter().all(|c| self.has_shape(c))
                && inputs.iter().all(|x| x.level == self.level && self.is_close(x.scale, scale));
            if !fits {
                return Err(misfit());
            }
            sets.push(components.into_iter().map(Some).collect());
        }
        let (sums, components) = if self.plain { (2 * self.stream.groups(), 2) } else { (self.sums, 3) };
        let part = || (0..components).map(|_| self.unspecified()).collect();
        let mut parts: Vec<Ciphertext> = (0..lists.len() * sums)
            .map(|_| Ciphertext { components: part(), scale: self.product_scale(scale), level: self.level })
            .collect();
        let mut out: Vec<&mut RnsPoly> = parts.iter_mut().flat_map(|part| &mut part.components).collect();
        if self.plain {
            self.stream.product_paired_plain(&sets, &mut out);
        } else {
            self.stream.product_cipher_shared(&sets, &mut out);
        }
        // A last sum without partner was multiplied with zeros beside it.
        let wanted = parts.into_iter().enumerate().filter(|(i, _)| i % sums < self.sums);
        Ok(wanted.map(|(_, part)| part).collect())
    }

    /// `sum_t W[g, t] * X_t`, of degree 2, for each group g; `finish` gets them in order.
    pub fn times_ciphertexts<R>(
        &self,
        inputs: &[&Ciphertext],
        finish: impl FnOnce(&[Ciphertext]) -> Result<R, EdgeError>,
    ) -> Result<R, EdgeError> {
        let scale = inputs.first().map_or(1.0, |x| x.scale);
        let components: Vec<[&RnsPoly; 2]> = inputs.iter().map(|x| linear(x)).collect::<Result<_, _>>()?;
        let fits = inputs.len() == self.stream.terms()
            && components.as_flattened().iter().all(|c| self.has_shape(c))
            && inputs.iter().all(|x| x.level == self.level && self.is_close(x.scale, scale));
        if !fits {
            return Err(misfit());
        }
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut parts = free.unwrap_or_else(|| {
            let zeros = || vec![self.zero(), self.zero(), self.zero()];
            let part = || Ciphertext { components: zeros(), scale: 1.0, level: self.level };
            (0..self.stream.groups()).map(|_| part()).collect()
        });
        let mut out: Vec<&mut RnsPoly> = parts.iter_mut().flat_map(|part| &mut part.components).collect();
        self.stream.product_cipher(&components, &mut out);
        parts.iter_mut().for_each(|part| part.scale = self.product_scale(scale));
        let result = finish(&parts);
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(parts);
        result
    }

    fn is_close(&self, a: f64, b: f64) -> bool {
        self.parameters.scales_agree(b, a)
    }

    fn product_scale(&self, scale: f64) -> f64 {
        self.parameters.scale_of_product(self.scale, scale)
    }

    fn unspecified(&self) -> RnsPoly {
        RnsPoly::unspecified(self.stream.ring().n(), self.stream.ring().limbs())
    }

    fn zero(&self) -> RnsPoly {
        RnsPoly::zero(self.stream.ring().n(), self.stream.ring().limbs())
    }

    fn has_shape(&self, poly: &RnsPoly) -> bool {
        (poly.n(), poly.limbs()) == (self.stream.ring().n(), self.stream.ring().limbs())
    }
}

fn linear(c: &Ciphertext) -> Result<[&RnsPoly; 2], EdgeError> {
    match c.components.as_slice() {
        [c0, c1] => Ok([c0, c1]),
        _ => Err(EdgeError::Program(format!("a product needs ciphertexts of degree 1, not {}", c.degree()))),
    }
}

fn misfit() -> EdgeError {
    EdgeError::Program("the inputs of a product differ in number, level or scale from what its weights need".into())
}
