//! The space of honest results of a single layer in the coefficients, whose input fills some of them only.
//!
//! With one input polynomial `x` of few coefficients the results are `A_o x`, `o = 1, 2, ...`; in no slot does that say anything if there is one
//! result. But `x` has nothing outside its support, and is no larger than the network was protected for. So random vectors `u` are freed
//! once from everything that such an `x` gives, `u' = u - A z` with the `z` that makes `|u - A z|^2 + eps |z|^2` least (conjugate gradients,
//! preconditioned by the same without support), and a result's products with them tell the length of what is not honest in it: with
//! 32 of them to within a third, and ten times too little with probability below 10^-30. They are drawn anew in each process and never shown.

use rand_core::Rng;
use subrosa_fhe::{Complex64, Encoder, FheError};
use subrosa_ring::sampler;

use super::flooding::gaussian;

/// Random vectors.
const VECTORS: usize = 32;
/// Steps that the search for one may take.
const STEPS: usize = 400;

/// What is honest: weights of each result in the slots, and where the input has coefficients.
pub(super) struct Layer<'a> {
    pub encoder: &'a Encoder,
    /// Slots of the weights, one list for each result.
    pub weights: &'a [Vec<Complex64>],
    /// For each coefficient whether the input may have it.
    pub support: &'a [bool],
    /// Largest Euclidean norm of the input.
    pub max_norm: f64,
    /// Root mean square of the noise that is permitted on a result's coefficients.
    pub permitted: f64,
}

impl Layer<'_> {
    /// Random vectors (coefficients of all results, one after the other) that honest results do not meet; `None` where the search for
    /// them does not end.
    pub fn strangers(&self) -> Result<Option<Vec<Vec<f64>>>, FheError> {
        let n = self.support.len();
        let numbers = (n * self.weights.len()) as f64;
        let ridge = 0.25 * numbers * (self.permitted / self.max_norm).powi(2);
        // What all weights together do to a slot.
        let slots = self.weights.first().map_or(0, Vec::len);
        let gain: Vec<f64> =
            (0..slots).map(|s| self.weights.iter().filter_map(|w| w.get(s)).map(Complex64::norm_sqr).sum()).collect();
        let tolerance = 0.05 * self.permitted * numbers.sqrt() / self.max_norm;
        let mut rng = sampler::os_rng()?;
        let mut out = Vec::with_capacity(VECTORS);
        for _ in 0..VECTORS {
            match self.stranger(&gain, ridge, tolerance, &mut rng)? {
                Some(vector) => out.push(vector),
                None => return Ok(None),
            }
        }
        Ok(Some(out))
    }

    fn stranger(
        &self,
        gain: &[f64],
        ridge: f64,
        tolerance: f64,
        rng: &mut impl Rng,
    ) -> Result<Option<Vec<f64>>, FheError> {
        let n = self.support.len();
        let mut random: Vec<Vec<f64>> = Vec::with_capacity(self.weights.len());
        let mut met = vec![Complex64::default(); gain.len()];
        for weights in self.weights {
            let u: Vec<f64> = (0..n).map(|_| gaussian(rng)).collect();
            let slots = self.encoder.decode(&u)?;
            met.iter_mut().zip(weights.iter().zip(slots)).for_each(|(m, (w, u))| *m += w.conj() * u);
            random.push(u);
        }
        let Some(z) = self.solve(gain, ridge, tolerance, self.supported(&met)?)? else { return Ok(None) };
        let z = self.encoder.decode(&z)?;
        for (u, weights) in random.iter_mut().zip(self.weights) {
            let known: Vec<Complex64> = weights.iter().zip(&z).map(|(w, z)| w * z).collect();
            u.iter_mut().zip(self.encoder.slots_to_coefficients(&known)?).for_each(|(u, k)| *u -= k);
        }
        Ok(Some(random.concat()))
    }

    /// The `z` in the support with `(gain + ridge) z = right` there.
    fn solve(&self, gain: &[f64], ridge: f64, tolerance: f64, right: Vec<f64>) -> Result<Option<Vec<f64>>, FheError> {
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
        let inverse: Vec<f64> = gain.iter().map(|g| 1.0 / (g + ridge)).collect();
        let (mut z, mut residual) = (vec![0.0; right.len()], right);
        let mut better = self.weighted(&inverse, &residual)?;
        let (mut direction, mut product) = (better.clone(), dot(&residual, &better));
        for _ in 0..STEPS {
            if dot(&residual, &residual).sqrt() <= tolerance {
                return Ok(Some(z));
            }
            let mut image = self.weighted(gain, &direction)?;
            image.iter_mut().zip(&direction).for_each(|(i, d)| *i += ridge * d);
            let step = product / dot(&direction, &image);
            z.iter_mut().zip(&direction).for_each(|(z, d)| *z += step * d);
            residual.iter_mut().zip(&image).for_each(|(r, i)| *r -= step * i);
            better = self.weighted(&inverse, &residual)?;
            let next = dot(&residual, &better);
            direction.iter_mut().zip(&better).for_each(|(d, b)| *d = b + next / product * *d);
            product = next;
        }
        Ok(None)
    }

    /// Multiplies every slot by a number, and keeps the support.
    fn weighted(&self, by: &[f64], coefficients: &[f64]) -> Result<Vec<f64>, FheError> {
        let slots = self.encoder.decode(coefficients)?;
        self.supported(&slots.iter().zip(by).map(|(s, b)| s * b).collect::<Vec<_>>())
    }

    fn supported(&self, slots: &[Complex64]) -> Result<Vec<f64>, FheError> {
        let mut coefficients = self.encoder.slots_to_coefficients(slots)?;
        coefficients.iter_mut().zip(self.support).filter(|(_, s)| !**s).for_each(|(c, _)| *c = 0.0);
        Ok(coefficients)
    }
}
