//! Polynomials of degree three and more: powers up to a baby step, and halving in giant steps (Paterson and Stockmeyer, SIAM J. Comput.
//! 2 (1973); its use for CKKS: Han and Ki, ePrint 2019/688).

use super::draft::Draftsman;
use std::collections::BTreeMap;
use subrosa_program::{Register, Step};

/// A power of the value.
#[derive(Debug, Clone, Copy)]
struct Power {
    register: Register,
    level: usize,
    scale: f64,
}

/// How a polynomial is evaluated: `low + high * x^at`, or a sum of multiples of powers.
enum Tree {
    Sum(Vec<f64>),
    Split { at: usize, low: Box<Tree>, high: Box<Tree> },
}

/// Baby steps for so many coefficients: about their square root.
fn baby(coefficients: usize) -> usize {
    let log = coefficients.next_power_of_two().trailing_zeros();
    1 << log.div_ceil(2)
}

impl Tree {
    fn new(coefficients: &[f64], baby: usize) -> Self {
        let used = coefficients.iter().rposition(|c| *c != 0.0).map_or(0, |i| i + 1);
        let coefficients = coefficients.get(..used).unwrap_or(coefficients);
        if coefficients.len() <= baby {
            return Self::Sum(coefficients.to_vec());
        }
        let at = coefficients.len().next_power_of_two() / 2;
        let (low, high) = coefficients.split_at(at);
        Self::Split { at, low: Box::new(Self::new(low, baby)), high: Box::new(Self::new(high, baby)) }
    }

    /// Levels below the value at which the result can stand.
    fn depth(&self) -> usize {
        match self {
            Self::Sum(c) => {
                let highest = c.len().saturating_sub(1);
                log2(highest.max(1)) + 1
            }
            Self::Split { at, low, high } => (high.depth().max(log2(*at)) + 1).max(low.depth()),
        }
    }

    fn powers(&self, out: &mut BTreeMap<usize, Option<Power>>) {
        match self {
            Self::Sum(c) => {
                let used = c.iter().enumerate().skip(1).filter(|(_, c)| **c != 0.0);
                out.extend(used.map(|(k, _)| (k, None)));
            }
            Self::Split { at, low, high } => {
                out.insert(*at, None);
                low.powers(out);
                high.powers(out);
            }
        }
    }
}

fn log2(x: usize) -> usize {
    x.next_power_of_two().trailing_zeros() as usize
}

/// Levels that a polynomial with these (ascending) coefficients takes.
pub(super) fn depth(coefficients: &[f64]) -> usize {
    Tree::new(coefficients, baby(coefficients.len())).depth()
}

impl Draftsman<'_> {
    /// The polynomial of the real vector in `register` at `level`, which has the message scale: register, level, and again the message
    /// scale. `None` if there are not enough levels.
    pub(super) fn polynomial(
        &mut self,
        coefficients: &[f64],
        register: Register,
        level: usize,
    ) -> Option<(Register, usize, f64)> {
        let tree = Tree::new(coefficients, baby(coefficients.len()));
        let target = level.checked_sub(tree.depth()).filter(|l| *l > 0)?;
        let mut wanted = BTreeMap::new();
        tree.powers(&mut wanted);
        let mut powers = BTreeMap::from([(1, Power { register, level, scale: self.message_scale })]);
        for k in wanted.into_keys() {
            self.power(k, &mut powers)?;
        }
        let scale = self.message_scale;
        let register = self.tree(&tree, &powers, target, scale)?;
        Some((register, target, scale))
    }

    /// The power k by halving.
    fn power(&mut self, k: usize, powers: &mut BTreeMap<usize, Power>) -> Option<Power> {
        if let Some(found) = powers.get(&k) {
            return Some(*found);
        }
        let high = k.next_power_of_two() / 2;
        let (a, b) = (self.power(high, powers)?, self.power(k - high, powers)?);
        let level = a.level.min(b.level);
        let register = self.product(a, b, level)?;
        let scale = a.scale * b.scale / self.primes.top(level);
        let power = Power { register, level: level - 1, scale };
        powers.insert(k, power);
        Some(power)
    }

    /// The product of two values brought to `level`, relinearised and rescaled.
    fn product(&mut self, a: Power, b: Power, level: usize) -> Option<Register> {
        let first = self.lowered(a.register, a.level, level);
        let second = if a.register == b.register { first } else { self.lowered(b.register, b.level, level) };
        let dst = self.register();
        self.steps.push(Step::Multiply { a: first, b: second, dst });
        self.relinearize(dst, level)?;
        Some(dst)
    }

    /// Evaluates a tree at exactly this level and scale.
    fn tree(&mut self, tree: &Tree, powers: &BTreeMap<usize, Power>, level: usize, scale: f64) -> Option<Register> {
        match tree {
            Tree::Sum(coefficients) => self.sum(coefficients, powers, level, scale),
            Tree::Split { at, low, high } => {
                let x = *powers.get(at)?;
                let above = level + 1;
                let register = match high.as_ref() {
                    Tree::Sum(c) if c.len() == 1 => {
                        let mut shifted = vec![0.0; *at];
                        shifted.extend(c);
                        self.sum(&shifted, powers, level, scale)?
                    }
                    high => {
                        let own = scale * self.primes.top(above) / x.scale;
                        let factor = Power { register: self.tree(high, powers, above, own)?, level: above, scale: own };
                        self.product(factor, x, above)?
                    }
                };
                match low.as_ref() {
                    Tree::Sum(c) if c.len() <= 1 => {
                        if let Some(&value) = c.first().filter(|c| **c != 0.0) {
                            self.steps.push(Step::AddScalar { reg: register, value });
                        }
                    }
                    low => {
                        let src = self.tree(low, powers, level, scale)?;
                        self.steps.push(Step::Add { dst: register, src });
                    }
                }
                Some(register)
            }
        }
    }

    /// A sum of multiples of powers; at least one above the zeroth.
    fn sum(
        &mut self,
        coefficients: &[f64],
        powers: &BTreeMap<usize, Power>,
        level: usize,
        scale: f64,
    ) -> Option<Register> {
        let above = level + 1;
        let target = scale * self.primes.top(above);
        let mut sum = None;
        for (k, &value) in coefficients.iter().enumerate().skip(1).filter(|(_, c)| **c != 0.0) {
            let power = *powers.get(&k)?;
            let src = self.lowered(power.register, power.level, above);
            let dst = self.register();
            self.steps.push(Step::MultiplyScalar { src, value, scale: target / power.scale, dst });
            match sum {
                None => sum = Some(dst),
                Some(acc) => self.steps.push(Step::Add { dst: acc, src: dst }),
            }
        }
        let reg = sum?;
        self.steps.push(Step::Rescale { reg });
        if let Some(&value) = coefficients.first().filter(|c| **c != 0.0) {
            self.steps.push(Step::AddScalar { reg, value });
        }
        Some(reg)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_polynomial_takes_no_more_levels_than_its_powers_and_coefficients() {
        for degree in 3..=31usize {
            let coefficients = vec![1.0; degree + 1];
            assert!(depth(&coefficients) <= log2(degree + 1) + 1, "degree {degree}: {}", depth(&coefficients));
        }
        // An odd polynomial of degree 7: x, x^3 and x^4 are enough.
        let odd = [0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0];
        let mut powers = BTreeMap::new();
        Tree::new(&odd, baby(odd.len())).powers(&mut powers);
        assert_eq!(powers.into_keys().collect::<Vec<_>>(), [1, 3, 4]);
    }
}
