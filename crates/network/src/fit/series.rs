//! Power series of activations around a point: `s[k]` is the k-th derivative there divided by k!.

use crate::activation::ActivationKind;

use super::function::{SELU_ALPHA, SELU_GAMMA, ScalarFunction, normal_distribution, sigmoid, softplus};

/// The series of `function` around `at`, up to the power `order`; around a kink, that of the piece to its right.
pub(super) fn series(function: ScalarFunction, at: f64, order: usize) -> Vec<f64> {
    use ActivationKind::*;
    let a = function.parameter;
    let right = at >= 0.0;
    match function.kind() {
        Relu6 if (0.0..6.0).contains(&at) => line(at, 1.0, order),
        ThresholdedRelu if at >= a => line(at, 1.0, order),
        ThresholdedRelu => line(0.0, 0.0, order),
        Relu | LeakyRelu | Elu | Celu | Abs if right => line(at, 1.0, order),
        LeakyRelu => line(a * at, a, order),
        Abs => line(-at, -1.0, order),
        Elu => shifted_exponential(a, at, 1.0, order),
        Celu => shifted_exponential(a, at, 1.0 / a, order),
        Selu if right => line(SELU_GAMMA * at, SELU_GAMMA, order),
        Selu => shifted_exponential(SELU_GAMMA * SELU_ALPHA, at, 1.0, order),
        Softplus => softplus_series(at, order),
        Softsign => {
            // 1 - 1 / (1 + x) right of 0, 1 / (1 - x) - 1 left of it.
            let (sign, pole) = if right { (1.0, 1.0 + at) } else { (-1.0, 1.0 - at) };
            let mut terms: Vec<f64> = geometric(-sign / pole, pole.recip(), order).iter().map(|t| -sign * t).collect();
            terms[0] = function.eval(at);
            terms
        }
        Sigmoid => sigmoid_series(at, order),
        HardSigmoid if (a * at).abs() < 0.5 => line(function.eval(at), a, order),
        Tanh => tanh_of(&line(at, 1.0, order)),
        Gelu => times_x(at, &normal_series(at, order)),
        Swish => {
            let inner = sigmoid_series(a * at, order);
            let scaled: Vec<f64> = inner.iter().zip(powers(a)).map(|(s, power)| s * power).collect();
            times_x(at, &scaled)
        }
        HardSwish if at.abs() < 3.0 => times_x(at, &line(at / 6.0 + 0.5, 1.0 / 6.0, order)),
        HardSwish if right => line(at, 1.0, order),
        Mish => times_x(at, &tanh_of(&softplus_series(at, order))),
        Exp => exponential(at.exp(), 1.0, order),
        Relu | Relu6 | HardSigmoid | HardSwish => line(function.eval(at), 0.0, order),
        // No `ScalarFunction` has these kinds.
        Prelu | Clip | Max | Other => line(f64::NAN, f64::NAN, order),
    }
}

/// The series of the smooth function that stands in for one of straight pieces, `None` for functions that need none:
/// Softplus, ln(1 + e^x), for max(x, 0) in it.
pub(super) fn smooth_series(function: ScalarFunction, at: f64, order: usize) -> Option<Vec<f64>> {
    // a Softplus(x) + b x - c Softplus(x - 6).
    let (a, b, c) = match function.kind() {
        ActivationKind::Relu => (1.0, 0.0, 0.0),
        ActivationKind::LeakyRelu => (1.0 - function.parameter, function.parameter, 0.0),
        ActivationKind::Relu6 => (1.0, 0.0, 1.0),
        ActivationKind::Abs => (2.0, -1.0, 0.0),
        _ => return None,
    };
    let lower = softplus_series(at, order);
    let upper = softplus_series(at - 6.0, order);
    let straight = line(b * at, b, order);
    Some(
        lower
            .iter()
            .zip(upper.iter().zip(straight))
            .map(|(lower, (upper, straight))| a * lower + straight - c * upper)
            .collect(),
    )
}

fn powers(base: f64) -> impl Iterator<Item = f64> {
    std::iter::successors(Some(1.0), move |power| Some(power * base))
}

fn line(value: f64, slope: f64, order: usize) -> Vec<f64> {
    let mut terms = vec![0.0; order + 1];
    terms[0] = value;
    if let Some(first) = terms.get_mut(1) {
        *first = slope;
    }
    terms
}

/// `first` times 1, `ratio`, `ratio`^2, ….
fn geometric(ratio: f64, first: f64, order: usize) -> Vec<f64> {
    powers(ratio).take(order + 1).map(|power| first * power).collect()
}

/// Of `value` e^(rate h).
fn exponential(value: f64, rate: f64, order: usize) -> Vec<f64> {
    let mut terms = vec![value; order + 1];
    for k in 1..=order {
        terms[k] = terms[k - 1] * rate / k as f64;
    }
    terms
}

/// Of a (e^(rate x) - 1).
fn shifted_exponential(a: f64, at: f64, rate: f64, order: usize) -> Vec<f64> {
    let mut terms = exponential(a * (rate * at).exp(), rate, order);
    terms[0] = a * (rate * at).exp_m1();
    terms
}

/// s' = s (1 - s).
fn sigmoid_series(at: f64, order: usize) -> Vec<f64> {
    let mut s = vec![0.0; order + 1];
    s[0] = sigmoid(at);
    for k in 0..order {
        let product = if k == 0 { s[0] * sigmoid(-at) } else { s[k] - square_term(&s, k) };
        s[k + 1] = product / (k + 1) as f64;
    }
    s
}

/// The sigmoid's integral.
fn softplus_series(at: f64, order: usize) -> Vec<f64> {
    integrated(softplus(at), &sigmoid_series(at, order))
}

/// The normal distribution function, the integral of the density g with g' = -x g.
fn normal_series(at: f64, order: usize) -> Vec<f64> {
    let mut g = vec![0.0; order + 1];
    g[0] = (-0.5 * at * at).exp() / (2.0 * std::f64::consts::PI).sqrt();
    for k in 0..order {
        let before = if k == 0 { 0.0 } else { g[k - 1] };
        g[k + 1] = -(at * g[k] + before) / (k + 1) as f64;
    }
    integrated(normal_distribution(at), &g)
}

/// w = tanh(u), by w' = (1 - w^2) u'.
fn tanh_of(u: &[f64]) -> Vec<f64> {
    let mut w = vec![0.0; u.len()];
    // 1 - w^2, as far as w is known.
    let mut rest = vec![0.0; u.len()];
    w[0] = u[0].tanh();
    for k in 0..u.len() - 1 {
        rest[k] = if k == 0 { u[0].cosh().recip().powi(2) } else { -square_term(&w, k) };
        let sum: f64 = (0..=k).map(|i| rest[i] * (k - i + 1) as f64 * u[k - i + 1]).sum();
        w[k + 1] = sum / (k + 1) as f64;
    }
    w
}

/// Term `k` of the square of `s`.
fn square_term(s: &[f64], k: usize) -> f64 {
    (0..=k).map(|i| s[i] * s[k - i]).sum()
}

/// The integral that is `constant` at the point, as far as `s` goes.
fn integrated(constant: f64, s: &[f64]) -> Vec<f64> {
    let mut terms = vec![constant];
    terms.extend(s.iter().take(s.len() - 1).enumerate().map(|(k, term)| term / (k + 1) as f64));
    terms
}

/// Of x times the function.
fn times_x(at: f64, s: &[f64]) -> Vec<f64> {
    (0..s.len()).map(|k| at * s[k] + if k == 0 { 0.0 } else { s[k - 1] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activation::ActivationKind;

    #[test]
    fn series_sum_to_the_function_on_every_piece() {
        for kind in ActivationKind::all() {
            let Ok(usual) = ScalarFunction::try_from(kind) else { continue };
            for function in [Some(usual), ScalarFunction::new(kind, Some(0.7)).ok()].into_iter().flatten() {
                for at in [-7.0, -2.7, -0.5, 0.4, 0.9, 2.7, 6.5] {
                    let terms = series(function, at, 24);
                    for step in [-0.15, 0.0, 0.1] {
                        let sum = terms.iter().rev().fold(0.0, |sum, term| sum * step + term);
                        let value = function.eval(at + step);
                        assert!((sum - value).abs() < 1e-13 * (1.0 + value.abs()), "{function} at {at}: {sum} {value}");
                    }
                }
            }
        }
    }
}
