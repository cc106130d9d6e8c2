//! From the traced layers to a circuit.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::form::{Curve, Form, Value};
use super::sparse::one_or_each;
use super::trace::{Draft, Tracer};
use super::{Circuit, CircuitLayer, LayerActivation, Place, Source, Term};
use crate::error::NetworkError;
use crate::fit::ScalarFunction;
use crate::layers::unique_name;
use crate::polynomial::Polynomial;
use crate::region::Expression;
use crate::split::Replaced;

/// Functions left in layers: index of the layer, and the function.
type Functions = Vec<(usize, ScalarFunction)>;

impl Tracer<'_> {
    /// The circuit that gives `output`, the substitutions made, and the functions left in layers.
    pub(crate) fn finish(
        mut self,
        output: &Value,
        input_places: Vec<Place>,
    ) -> Result<(Circuit, Vec<Replaced>, Functions), NetworkError> {
        let value = self.flat(output.clone());
        let last = match merged(&self.drafts, &value) {
            Some(draft) => draft,
            None => Draft {
                form: value.form.clone(),
                curve: Arc::new(Curve::identity()),
                places: value.places.clone(),
                origin: value.origin,
                value: value.form.clone(),
            },
        };
        drop(value);
        let weights = self.weights();
        let names: Vec<String> = self.drafts.iter().chain([&last]).map(|draft| self.name(draft.origin)).collect();
        let needed = needed(&self.drafts, &last);
        let numbers: HashMap<usize, usize> = needed.iter().enumerate().map(|(new, &old)| (old, new)).collect();
        let end = self.drafts.len();
        self.drafts.push(last);
        let (drafts, replaced) = self.into_parts();
        let mut layers: Vec<CircuitLayer> = Vec::with_capacity(needed.len() + 1);
        let mut functions = Vec::new();
        for (old, (draft, name)) in drafts.into_iter().zip(names).enumerate() {
            if old != end && !numbers.contains_key(&old) {
                continue;
            }
            let name = unique_name(name, |name| layers.iter().any(|layer| layer.name == name));
            let Draft { form, curve, places, value, .. } = draft;
            drop(value);
            let Form { terms, bias } = Arc::unwrap_or_clone(form);
            let terms: Vec<Term> = terms
                .into_iter()
                .map(|(source, matrix)| {
                    let source = match source {
                        Source::Layer(index) => Source::Layer(numbers.get(&index).copied().unwrap_or(index)),
                        Source::Input => Source::Input,
                    };
                    Term { source, matrix: Arc::unwrap_or_clone(matrix) }
                })
                .collect();
            if let Curve::Function(_, Some(function)) = curve.as_ref() {
                functions.push((layers.len(), *function));
            }
            let activation = activation(&curve, bias.len());
            let finite = terms.iter().all(|term| term.matrix.is_finite())
                && bias.iter().all(|value| value.is_finite())
                && is_finite(&activation);
            if !finite {
                return Err(NetworkError::Overflow(name));
            }
            layers.push(CircuitLayer { name, places: Arc::unwrap_or_clone(places), terms, bias, activation });
        }
        Ok((Circuit { input_places, layers, weights }, replaced, functions))
    }
}

fn sources(form: &Form) -> impl Iterator<Item = usize> {
    form.terms.iter().filter_map(|(source, _)| match source {
        Source::Layer(index) => Some(*index),
        Source::Input => None,
    })
}

/// The layers that `last` depends on, ascending.
fn needed(drafts: &[Draft], last: &Draft) -> Vec<usize> {
    let mut found: HashSet<usize> = sources(&last.form).collect();
    for (index, draft) in drafts.iter().enumerate().rev() {
        if found.contains(&index) {
            found.extend(sources(&draft.form));
        }
    }
    let mut found: Vec<usize> = found.into_iter().collect();
    found.sort_unstable();
    found
}

/// The output as one layer with the layer it comes from, if it takes each of its values from one value of that layer and
/// nothing else reads that layer.
fn merged(drafts: &[Draft], output: &Value) -> Option<Draft> {
    let [(Source::Layer(from), matrix)] = output.form.terms.as_slice() else {
        return None;
    };
    let draft = drafts.get(*from)?;
    // What the output needs comes before the layer it reads, so readers of that layer would have to come after it.
    let (rows, factors): (Vec<Option<u32>>, Vec<f64>) =
        matrix.single_entries()?.map(|(column, value)| (Some(column), value)).unzip();
    let plain = factors.iter().all(|&f| f == 1.0) && output.form.bias.iter().all(|&b| b == 0.0);
    let curve = match draft.curve.as_ref() {
        Curve::Function(kind, scalar) => plain.then_some(Curve::Function(*kind, *scalar))?,
        Curve::Polynomial(e) => {
            let picked = |k: usize| -> Vec<f64> {
                let c = e.coefficient(k);
                rows.iter().flatten().map(|&row| one_or_each(c, row as usize, 0.0)).collect()
            };
            let coefficients = (0..=e.degree())
                .map(|k| if e.coefficient(k).len() == 1 && plain { e.coefficient(k).to_vec() } else { picked(k) });
            let moved = Expression(coefficients.collect());
            let shift = Expression::constant(output.form.bias.clone());
            Curve::Polynomial(moved.multiply(&Expression::constant(factors))?.add(&shift, 1.0))
        }
    };
    let identity = matrix.is_identity();
    let form = if identity { draft.form.clone() } else { Arc::new(draft.form.gather(&rows, 0.0)) };
    // A polynomial of degree 1 on every value would be no activation.
    if !curve.is_identity() && curve.as_affine().is_some() {
        return None;
    }
    Some(Draft {
        form,
        curve: Arc::new(curve),
        places: output.places.clone(),
        origin: draft.origin.or(output.origin),
        value: output.form.clone(),
    })
}

fn activation(curve: &Curve, size: usize) -> LayerActivation {
    let expression = match curve {
        Curve::Function(kind, _) => return LayerActivation::Function(*kind),
        Curve::Polynomial(expression) => expression,
    };
    if curve.is_identity() {
        return LayerActivation::Identity;
    }
    let at = |value: usize| -> Vec<f64> {
        (0..=expression.degree()).map(|k| one_or_each(expression.coefficient(k), value, 0.0)).collect()
    };
    if expression.is_uniform() {
        return LayerActivation::Polynomial { polynomials: vec![Polynomial::new(at(0))], of: vec![0; size] };
    }
    let mut known: HashMap<Vec<u64>, u32> = HashMap::new();
    let mut polynomials = Vec::new();
    let of = (0..size).map(|value| {
        let coefficients = at(value);
        let key = coefficients.iter().map(|c| c.to_bits()).collect();
        *known.entry(key).or_insert_with(|| {
            polynomials.push(Polynomial::new(coefficients));
            super::sparse::index(polynomials.len() - 1)
        })
    });
    let of = of.collect();
    LayerActivation::Polynomial { polynomials, of }
}

fn is_finite(activation: &LayerActivation) -> bool {
    match activation {
        LayerActivation::Polynomial { polynomials, .. } => {
            polynomials.iter().flat_map(Polynomial::coefficients).all(|c| c.is_finite())
        }
        _ => true,
    }
}
