//! What an honest evaluation leaves in the *whole* of a result, not only where the outputs are declared.
//!
//! The last step of every program multiplies encrypted weights `A` with a vector and adds encrypted biases `b`; whatever
//! happens on the way to the result's level (key switches, divisions) changes nothing but noise. So the decrypted polynomials are
//! `sum_i A_i V_i + b` up to noise, for *some* vectors `V_i`. The owner decrypts its own stored `A` and `b`, with the very noise that
//! every edge multiplies, and asks whether the result lies in that space: in each slot it is a point of as many coordinates as there are result
//! polynomials and slots that share a value, and it must lie in the span of one real direction for each vector (two for a complex value). The
//! root mean square of what does not is compared with the forecast.
//!
//! A single layer alone, in the coefficients, has no slots in common with its input's few coefficients: see [`super::support`].
//!
//! What passes was made by multiplying the network's own encrypted last layer with something. What that something was, nobody
//! can see from the result; SECURITY.md says what this is worth.

use super::support::Layer;
use crate::error::OwnerError;
use subrosa_fhe::{Ciphertext, Complex64, Encoder, Plaintext};
use subrosa_program::bundle::Bundle;
use subrosa_program::{InputLayout, Program, Register, Step};
use subrosa_secret::SecretKey;

/// A direction that is shorter than this part of its weights is none.
const DEPENDENT: f64 = 1e-6;

/// The space of honest results of one network.
pub(super) struct Structure {
    encoder: Encoder,
    /// Coefficients of the bias of each result.
    biases: Vec<Vec<f64>>,
    space: Space,
}

/// How the space is told.
enum Space {
    /// Values in the slots repeat with this period; for each slot of a period an orthonormal basis of what is honest there.
    Spans { period: usize, bases: Vec<Vec<Vec<f64>>> },
    /// Vectors that honest results do not meet, and how many of a result's numbers are free.
    Strangers { vectors: Vec<Vec<f64>>, free: usize },
}

/// One summand of a result: the weights that are multiplied, and the vector they meet.
struct Term {
    result: usize,
    source: Register,
    group: usize,
    index: usize,
}

/// What the end of a program computes.
struct End {
    terms: Vec<Term>,
    /// (result, group, index).
    biases: Vec<(usize, usize, usize)>,
    period: usize,
    /// Whether the vectors are real in the slots.
    real: bool,
}

impl Structure {
    /// Decrypts the last layer of a stored network. `None` for a program whose end is of a form that is not known here.
    /// `permitted`: root mean square of noise on a coefficient.
    pub fn new(stored: &Bundle, secret: &SecretKey, permitted: f64) -> Result<Option<Self>, OwnerError> {
        let (program, parameters) = (&stored.program, secret.parameters());
        let Some(end) = End::of(program) else { return Ok(None) };
        let packed = stored.constants(parameters)?;
        let constant = |group: usize, index: usize| -> Result<Vec<f64>, OwnerError> {
            let missing = || OwnerError::Report("its program names constants that do not exist".into());
            let bytes = packed.get(group).and_then(|g| g.get(index)).ok_or_else(missing)?;
            let ciphertext = if program.constants.get(group).is_some_and(|g| g.plain) {
                let Plaintext { poly, scale, level } = stored.plain_constant(parameters, group, bytes)?;
                Ciphertext { components: vec![poly], scale, level }
            } else {
                stored.constant(parameters, group, bytes)?.expand(parameters)?
            };
            Ok(secret.decrypt_coefficients(&ciphertext)?)
        };
        let encoder = Encoder::new(parameters);
        let results = program.output.registers.len();
        let mut biases = vec![vec![0.0; parameters.n()]; results];
        for &(result, group, index) in &end.biases {
            let values = constant(group, index)?;
            if let Some(bias) = biases.get_mut(result) {
                bias.iter_mut().zip(values).for_each(|(b, v)| *b += v);
            }
        }
        let mut sources: Vec<Register> = end.terms.iter().map(|t| t.source).collect();
        sources.sort_unstable();
        sources.dedup();
        let slots = parameters.slots();
        // For each vector the weights that it meets, in the slots of each result.
        let mut weights = vec![vec![vec![Complex64::default(); slots]; results]; sources.len()];
        for term in &end.terms {
            let values = encoder.decode(&constant(term.group, term.index)?)?;
            let of_source = sources.binary_search(&term.source).ok().and_then(|i| weights.get_mut(i));
            if let Some(sum) = of_source.and_then(|w| w.get_mut(term.result)) {
                sum.iter_mut().zip(values).for_each(|(s, v)| *s += v);
            }
        }
        let space = match (&program.input.layout, weights.as_slice()) {
            (InputLayout::CoefficientDot(layout), [of_input]) if !end.real && layout.cols < layout.n => {
                // x_i stands at X^-i.
                let support: Vec<bool> = (0..layout.n).map(|k| (layout.n - k) % layout.n < layout.cols).collect();
                let max_norm = program.input.max_norm;
                let layer = Layer { encoder: &encoder, weights: of_input, support: &support, max_norm, permitted };
                layer.strangers()?.map(|vectors| Space::Strangers { vectors, free: layout.cols })
            }
            _ => None,
        };
        let space = space.unwrap_or_else(|| Space::spans(&end, &weights));
        Ok(Some(Self { encoder, biases, space }))
    }

    /// Share of a result's real numbers that are not free: 0 if everything is honest.
    pub fn strength(&self) -> f64 {
        let numbers: usize = self.biases.iter().map(Vec::len).sum();
        let free = match &self.space {
            Space::Spans { bases, .. } => bases.iter().map(Vec::len).sum(),
            Space::Strangers { free, .. } => *free,
        };
        1.0 - free as f64 / numbers.max(1) as f64
    }

    /// Root mean square, over all coefficients, of what no honest evaluation leaves.
    pub fn deviation(&self, results: &[Vec<f64>]) -> Result<f64, OwnerError> {
        let without = |(result, bias): (&Vec<f64>, &Vec<f64>)| result.iter().zip(bias).map(|(r, b)| r - b).collect();
        let results: Vec<Vec<f64>> = results.iter().zip(&self.biases).map(without).collect();
        let numbers = results.iter().map(Vec::len).sum::<usize>().max(1) as f64;
        match &self.space {
            Space::Strangers { vectors, .. } => {
                let along = |v: &Vec<f64>| v.iter().zip(results.iter().flatten()).map(|(v, r)| v * r).sum::<f64>();
                let squares: f64 = vectors.iter().map(|v| along(v).powi(2)).sum();
                Ok((squares / vectors.len().max(1) as f64 / numbers).sqrt())
            }
            Space::Spans { period, bases } => {
                let slots = results.iter().map(|r| self.encoder.decode(r)).collect::<Result<Vec<_>, _>>()?;
                let mut sum = 0.0;
                for (slot, basis) in bases.iter().enumerate() {
                    let mut point = point(&slots, slot, *period);
                    basis.iter().for_each(|direction| remove(&mut point, direction));
                    sum += point.iter().map(|x| x * x).sum::<f64>();
                }
                // The squares of all slots are N/2 times those of all coefficients.
                let half = numbers / results.len().max(1) as f64 / 2.0;
                Ok((sum / half / numbers).sqrt())
            }
        }
    }
}

impl Space {
    /// The span of the weights in each slot: one direction for each vector that is real there, two for one that is not.
    fn spans(end: &End, weights: &[Vec<Vec<Complex64>>]) -> Self {
        let basis = |slot| {
            let mut basis = Vec::new();
            for of_source in weights {
                let direction = point(of_source, slot, end.period);
                if !end.real {
                    let turned = direction.chunks_exact(2).flat_map(|z| [-z[1], z[0]]).collect();
                    insert(&mut basis, turned);
                }
                insert(&mut basis, direction);
            }
            basis
        };
        Self::Spans { period: end.period, bases: (0..end.period).map(basis).collect() }
    }
}

/// The coordinates of slot `slot` of a period: those of all its repetitions in all results.
fn point(results: &[Vec<Complex64>], slot: usize, period: usize) -> Vec<f64> {
    results.iter().flat_map(|r| r.iter().skip(slot).step_by(period)).flat_map(|z| [z.re, z.im]).collect()
}

/// Takes the part along a unit vector away.
fn remove(point: &mut [f64], direction: &[f64]) {
    let along: f64 = point.iter().zip(direction).map(|(p, d)| p * d).sum();
    point.iter_mut().zip(direction).for_each(|(p, d)| *p -= along * d);
}

/// Adds a direction to an orthonormal basis (Gram and Schmidt, twice for accuracy), unless it depends on those there.
fn insert(basis: &mut Vec<Vec<f64>>, mut direction: Vec<f64>) {
    let length = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
    let whole = length(&direction);
    for _ in 0..2 {
        basis.iter().for_each(|other| remove(&mut direction, other));
    }
    let left = length(&direction);
    if left > DEPENDENT * whole && left.is_normal() {
        direction.iter_mut().for_each(|x| *x /= left);
        basis.push(direction);
    }
}

impl End {
    /// Walks back from the results to the products they are sums of.
    fn of(program: &Program) -> Option<Self> {
        let slots = 1usize << (program.parameters.log_n - 1);
        let mut open: Vec<(Register, usize)> = program.output.registers.iter().copied().zip(0..).collect();
        let mut end = Self { terms: Vec::new(), biases: Vec::new(), period: 0, real: true };
        for step in program.steps.iter().rev() {
            if open.is_empty() {
                break;
            }
            let of = |open: &[(Register, usize)], reg: Register| -> Vec<usize> {
                open.iter().filter(|(r, _)| *r == reg).map(|(_, result)| *result).collect()
            };
            match step {
                Step::AddConstant { reg, group, index } => {
                    end.biases.extend(of(&open, *reg).into_iter().map(|result| (result, *group, *index)));
                }
                Step::Relinearize { .. } | Step::Rescale { .. } => {}
                Step::Add { dst, src } => {
                    let results = of(&open, *dst);
                    open.extend(results.into_iter().map(|result| (*src, result)));
                }
                Step::DropLevel { src, dst, .. } => {
                    open.iter_mut().filter(|(r, _)| r == dst).for_each(|(r, _)| *r = *src);
                }
                Step::CoefficientRows { layout, src, weights, dst } => {
                    end.products(&mut open, (*dst, layout.outputs()), |_| (*src, *weights, None), layout.period, true)?;
                }
                Step::CoefficientDot { weights, dst } => {
                    let InputLayout::CoefficientDot(layout) = &program.input.layout else { return None };
                    for chunk in 0..layout.chunks() {
                        let last = chunk + 1 == layout.chunks();
                        let mut seen = open.clone();
                        let at = |output: usize| (chunk, *weights, Some(output * layout.chunks() + chunk));
                        end.products(&mut seen, (*dst, layout.outputs()), at, slots, false)?;
                        if last {
                            open = seen;
                        }
                    }
                }
                other => {
                    // Whatever else writes into what a result is made of is not known here.
                    if open.iter().any(|(register, _)| other.writes(*register)) {
                        return None;
                    }
                }
            }
        }
        (open.is_empty() && end.period > 0 && slots.is_multiple_of(end.period)).then_some(end)
    }

    /// Closes the registers `first..first + count` of `open`: each is a product of weights with a vector.
    fn products(
        &mut self,
        open: &mut Vec<(Register, usize)>,
        (first, count): (Register, usize),
        at: impl Fn(usize) -> (Register, usize, Option<usize>),
        period: usize,
        real: bool,
    ) -> Option<()> {
        let (mine, rest): (Vec<_>, Vec<_>) = open.drain(..).partition(|(r, _)| (first..first + count).contains(r));
        *open = rest;
        if mine.is_empty() {
            return Some(());
        }
        if self.period != 0 && (self.period != period || self.real != real) {
            return None;
        }
        (self.period, self.real) = (period, real);
        for (register, result) in mine {
            let (source, group, index) = at(register - first);
            self.terms.push(Term { result, source, group, index: index.unwrap_or(register - first) });
        }
        Some(())
    }
}
