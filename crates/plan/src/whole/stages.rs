//! A circuit as the planner sees it: linear maps of carried values, each followed by a square, a polynomial or nothing.
//!
//! A quadratic activation `a z^2 + b z + c` is carried as the square of `t (z + b/2a)`; the factor `a/t^2` and the constant `c - b^2/4a` go into
//! the maps that read it. `t`, one for each channel, brings the values to about 1 on the calibration data, so that all channels lose
//! as little precision as another.

use super::WholeError;
use rayon::prelude::*;
use std::collections::BTreeMap;
use subrosa_network::{Circuit, CircuitLayer, LayerActivation, LayerValues, Place, Source, SparseMatrix, TOGETHER};

/// A slope against whose share a quadratic coefficient counts as missing.
const LINEAR: f64 = 1e-9;

/// What follows a linear map.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Post {
    Identity,
    Square,
    /// Of degree three or more, ascending coefficients.
    Polynomial(Vec<f64>),
}

/// A linear map of carried values.
#[derive(Debug, Clone)]
pub(crate) struct Stage {
    pub name: String,
    pub places: Vec<Place>,
    pub terms: Vec<(Source, SparseMatrix)>,
    pub bias: Vec<f64>,
    pub post: Post,
}

impl Stage {
    pub fn size(&self) -> usize {
        self.bias.len()
    }
}

/// What a layer's values are in terms of what is carried of it: `factor * carried + constant`.
struct Carried {
    factor: Vec<f64>,
    constant: Vec<f64>,
}

/// What a circuit gives for each of some inputs.
pub(crate) fn traces(circuit: &Circuit, samples: &[Vec<f64>]) -> Vec<LayerValues> {
    let of_some = |some: &[Vec<f64>]| circuit.eval_traces(&some.iter().map(Vec::as_slice).collect::<Vec<_>>());
    samples.par_chunks(TOGETHER).flat_map_iter(of_some).collect()
}

/// Rewrites a circuit. `traces` are those of inputs of calibration data (or synthetic ones), at least one.
pub(crate) fn stages(circuit: &Circuit, traces: &[LayerValues]) -> Result<Vec<Stage>, WholeError> {
    let mut carried: Vec<Carried> = Vec::with_capacity(circuit.layers.len());
    let mut out = Vec::with_capacity(circuit.layers.len());
    for (index, layer) in circuit.layers.iter().enumerate() {
        let largest = |shift: &dyn Fn(usize) -> f64| {
            let mut by_channel = BTreeMap::<u32, f64>::new();
            for (i, place) in layer.places.iter().enumerate() {
                let linear = traces.iter().filter_map(|t| t.get(index)?.0.get(i));
                let most = linear.fold(0.0f64, |m, z| m.max((z + shift(i)).abs()));
                let entry = by_channel.entry(place[0]).or_default();
                *entry = entry.max(most);
            }
            by_channel
        };
        let last = index + 1 == circuit.layers.len();
        let (t, shift, post, own) = if last { output(layer) } else { activation(layer, &largest)? };
        let mut bias: Vec<f64> = layer.bias.iter().zip(&shift).map(|(b, s)| b + s).collect();
        let mut terms = Vec::with_capacity(layer.terms.len());
        for term in &layer.terms {
            let matrix = term.matrix.clone();
            let matrix = match term.source {
                Source::Input => matrix,
                Source::Layer(i) => {
                    let source = carried.get(i).ok_or(WholeError::Malformed("a layer reads one behind it"))?;
                    for (b, c) in bias.iter_mut().zip(matrix.apply(&source.constant)) {
                        *b += c;
                    }
                    matrix.scale_columns(&source.factor)
                }
            };
            terms.push((term.source, matrix.scale_rows(&t)));
        }
        bias.iter_mut().zip(&t).for_each(|(b, t)| *b *= t);
        let finite = bias.iter().all(|b| b.is_finite()) && terms.iter().all(|(_, m)| m.is_finite());
        if !finite {
            return Err(WholeError::NotFinite { layer: layer.name.clone() });
        }
        out.push(Stage { name: layer.name.clone(), places: layer.places.clone(), terms, bias, post });
        carried.push(own);
    }
    Ok(out)
}

/// What is added to each value.
type Shift<'a> = &'a dyn Fn(usize) -> f64;
type Rewritten = (Vec<f64>, Vec<f64>, Post, Carried);

/// The last layer: its values as they are; what follows is left to the owner.
fn output(layer: &CircuitLayer) -> Rewritten {
    let n = layer.size();
    (vec![1.0; n], vec![0.0; n], Post::Identity, Carried { factor: vec![1.0; n], constant: vec![0.0; n] })
}

/// Factors and shifts of a layer's rows, what follows, and what is then carried.
fn activation(
    layer: &CircuitLayer,
    largest: &dyn Fn(Shift<'_>) -> BTreeMap<u32, f64>,
) -> Result<Rewritten, WholeError> {
    let n = layer.size();
    let inverse = |m: f64| if m > 0.0 { 1.0 / m } else { 1.0 };
    let by_channel = |sizes: &BTreeMap<u32, f64>| -> Vec<f64> {
        layer.places.iter().map(|p| inverse(sizes.get(&p[0]).copied().unwrap_or(0.0))).collect()
    };
    match &layer.activation {
        LayerActivation::Function(kind) => {
            Err(WholeError::Function { layer: layer.name.clone(), function: kind.to_string() })
        }
        LayerActivation::Identity => {
            let t = by_channel(&largest(&|_| 0.0));
            let factor = t.iter().map(|t| 1.0 / t).collect();
            Ok((t, vec![0.0; n], Post::Identity, Carried { factor, constant: vec![0.0; n] }))
        }
        LayerActivation::Polynomial { polynomials, of } if layer.activation.degree() == 2 => {
            let coefficient = |i: usize, k: usize| {
                let which = of.get(i).and_then(|&w| polynomials.get(w as usize));
                which.and_then(|p| p.coefficients().get(k)).copied().unwrap_or(0.0)
            };
            let mut shift = vec![0.0; n];
            for (i, s) in shift.iter_mut().enumerate() {
                let (b, a) = (coefficient(i, 1), coefficient(i, 2));
                if a.abs() > LINEAR * b.abs() {
                    *s = b / (2.0 * a);
                } else if b != 0.0 {
                    let channel = layer.places.get(i).map_or(0, |p| p[0]);
                    return Err(WholeError::LinearChannel { layer: layer.name.clone(), channel });
                }
            }
            let t = by_channel(&largest(&|i| shift.get(i).copied().unwrap_or(0.0)));
            let factor = t.iter().enumerate().map(|(i, t)| coefficient(i, 2) / (t * t)).collect();
            let constant = (0..n).map(|i| {
                let s = shift.get(i).copied().unwrap_or(0.0);
                coefficient(i, 0) - coefficient(i, 2) * s * s
            });
            let constant = constant.collect();
            Ok((t, shift, Post::Square, Carried { factor, constant }))
        }
        LayerActivation::Polynomial { polynomials, .. } => {
            let [polynomial] = polynomials.as_slice() else {
                return Err(WholeError::MixedDegrees { layer: layer.name.clone() });
            };
            let range = largest(&|_| 0.0).values().fold(0.0f64, |m, v| m.max(*v));
            let range = if range > 0.0 { range } else { 1.0 };
            let scaled: Vec<f64> =
                polynomial.coefficients().iter().enumerate().map(|(k, c)| c * range.powi(k as i32)).collect();
            let size = scaled.iter().map(|c| c.abs()).fold(0.0, f64::max).max(f64::MIN_POSITIVE);
            let constant = vec![scaled.first().copied().unwrap_or(0.0); n];
            let coefficients = std::iter::once(0.0).chain(scaled.iter().skip(1).map(|c| c / size)).collect();
            let carried = Carried { factor: vec![size; n], constant };
            Ok((vec![1.0 / range; n], vec![0.0; n], Post::Polynomial(coefficients), carried))
        }
    }
}
