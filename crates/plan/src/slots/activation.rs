//! What follows a linear map: squares and polynomials.

use super::{Carried, Draftsman};
use crate::chain::Post;
use crate::cost::KeyWork;
use crate::errors::sampled_size;
use crate::forecast::quadrature;
use std::collections::{BTreeMap, BTreeSet};
use subrosa_fhe::{Galois, KeyId};
use subrosa_program::{Register, Step};

/// A power of the carried value.
#[derive(Clone, Copy)]
struct Power {
    reg: Register,
    level: usize,
    scale: f64,
    /// Deviation that was added on the way: for any value, and for values like the samples'.
    added: [f64; 2],
}

impl Draftsman<'_> {
    /// What follows stage `stage`. Before the last product a square stays at degree 2.
    pub(super) fn activation(&mut self, stage: usize, v: Carried, before_last: bool) -> Option<Carried> {
        let bound = self.ranges.get(stage)?.linear_max;
        match &self.stages.get(stage)?.post {
            Post::Identity => Some(v),
            Post::Square => {
                let dst = self.register();
                self.steps.push(Step::Multiply { a: v.reg, b: v.reg, dst });
                let error = v.error.squared(bound, self.traces.get(stage)?);
                let square = Carried { reg: dst, level: v.level, degree: 2, scale: v.scale * v.scale, error };
                if before_last {
                    return Some(square);
                }
                let (level, scale, added) = self.relinearize(dst, v.level, square.scale, bound * bound)?;
                Some(Carried { reg: dst, level, degree: 1, scale, error: square.error.plus(added) })
            }
            Post::Polynomial(coefficients) => self.polynomial(stage, coefficients, bound, v),
        }
    }

    /// Relinearisation with the rescale in the same division: level and scale behind it, and the deviation it adds. `None` if values
    /// up to `largest` would not fit the modulus before it, or nothing is left behind it.
    fn relinearize(&mut self, reg: Register, level: usize, scale: f64, largest: f64) -> Option<(usize, f64, f64)> {
        if (scale * largest).log2() + 1.0 > self.primes.log_q(level) || level < 2 {
            return None;
        }
        let square = KeyId::new(Galois::IDENTITY, 2);
        self.rounded_keys([square], level, KeyWork::relinearize(2, true));
        self.steps.push(Step::Relinearize { reg, rescale: true });
        let scale = scale / self.primes.top(level);
        Some((level - 1, scale, self.switch_rescaled(square, 1, level)? / scale))
    }

    /// sum_k c_k v^k: the powers that are needed by halving, each multiplied at a scale that brings all terms together.
    fn polynomial(&mut self, stage: usize, coefficients: &[f64], bound: f64, v: Carried) -> Option<Carried> {
        let traced = self.traces.get(stage)?;
        // What the steps add is multiplied by powers of the value: of any value, and of values like the samples'.
        let sizes = [bound, sampled_size(traced).map_or(bound, |s| s.min(bound))];
        let mut powers = BTreeMap::from([(1, Power { reg: v.reg, level: v.level, scale: v.scale, added: [0.0; 2] })]);
        for k in needed_powers(coefficients) {
            let (hi, lo) = (k.div_ceil(2), k / 2);
            let (a, b) = (*powers.get(&hi)?, *powers.get(&lo)?);
            let level = a.level.min(b.level);
            let a_reg = self.at_level(a.reg, a.level, level);
            let b_reg = if hi == lo { a_reg } else { self.at_level(b.reg, b.level, level) };
            let reg = self.register();
            self.steps.push(Step::Multiply { a: a_reg, b: b_reg, dst: reg });
            let (level, scale, switched) = self.relinearize(reg, level, a.scale * b.scale, bound.powi(k as i32))?;
            let mut added = [0.0; 2];
            for (i, size) in sizes.iter().enumerate() {
                let (ea, eb) = (a.added.get(i)?, b.added.get(i)?);
                let carried = size.powi(hi as i32) * eb + size.powi(lo as i32) * ea + ea * eb;
                *added.get_mut(i)? = quadrature(&[carried, switched]);
            }
            powers.insert(k, Power { reg, level, scale, added });
        }
        let level = powers.values().map(|p| p.level).min()?;
        let target = self.message_scale * self.primes.top(level);
        let mut sum: Option<Register> = None;
        let mut added = [0.0; 2];
        for (k, c) in coefficients.iter().enumerate().skip(1).filter(|(_, c)| **c != 0.0) {
            let p = *powers.get(&k)?;
            let src = self.at_level(p.reg, p.level, level);
            let dst = self.register();
            self.steps.push(Step::MultiplyScalar { src, value: *c, scale: target / p.scale, dst });
            for ((total, size), own) in added.iter_mut().zip(sizes).zip(p.added) {
                // A coefficient is rounded to a multiple of 1/scale.
                *total += c.abs() * own + 0.5 * p.scale / target * size.powi(k as i32);
            }
            match sum {
                None => sum = Some(dst),
                Some(acc) => self.steps.push(Step::Add { dst: acc, src: dst }),
            }
        }
        let reg = sum?;
        self.steps.push(Step::Rescale { reg });
        let constant = *coefficients.first()?;
        if constant != 0.0 {
            self.steps.push(Step::AddScalar { reg, value: constant });
        }
        let rounding = self.dev.slots(self.dev.rescale()) / self.message_scale;
        let [any, sampled] = added.map(|a| quadrature(&[a, rounding, 1.0 / self.message_scale]));
        let level = level.checked_sub(1).filter(|&l| l > 0)?;
        let error = v.error.mapped(coefficients, bound, self.traces.get(stage)?).plus_each(any, sampled);
        Some(Carried { reg, level, degree: 1, scale: self.message_scale, error })
    }

    fn at_level(&mut self, src: Register, from: usize, to: usize) -> Register {
        if from == to {
            return src;
        }
        let dst = self.register();
        self.steps.push(Step::DropLevel { src, level: to, dst });
        dst
    }
}

/// Powers above the first that a polynomial needs, with those they are multiplied from, ascending.
fn needed_powers(coefficients: &[f64]) -> BTreeSet<usize> {
    let mut open: Vec<usize> = coefficients.iter().enumerate().filter(|(_, c)| **c != 0.0).map(|(k, _)| k).collect();
    let mut needed = BTreeSet::new();
    while let Some(k) = open.pop() {
        if k > 1 && needed.insert(k) {
            open.extend([k.div_ceil(2), k / 2]);
        }
    }
    needed
}
