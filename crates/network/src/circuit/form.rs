//! What a tensor is while the graph is traced: a linear form with a curve on each value.

use std::sync::Arc;

use super::sparse::{SparseMatrix, one_or_each};
use super::{Place, Source};
use crate::activation::ActivationKind;
use crate::fit::ScalarFunction;
use crate::polynomial::Polynomial;
use crate::region::{Expression, zip};

/// A linear form in the circuit's sources: the sum of `matrix source` plus `bias`, one row a value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Form {
    /// At most one map from each source, ascending by source.
    pub terms: Vec<(Source, Arc<SparseMatrix>)>,
    pub bias: Vec<f64>,
}

impl Form {
    /// A source itself.
    pub fn identity(source: Source, size: usize) -> Self {
        Form { terms: vec![(source, Arc::new(SparseMatrix::identity(size)))], bias: vec![0.0; size] }
    }

    pub fn size(&self) -> usize {
        self.bias.len()
    }

    /// Entries of all its matrices.
    pub fn nonzeros(&self) -> usize {
        self.terms.iter().map(|(_, matrix)| matrix.nonzeros()).sum()
    }

    /// `a form + b`.
    pub fn affine(&self, a: &[f64], b: &[f64]) -> Self {
        let bias = self.bias.iter().enumerate();
        let bias = bias.map(|(at, bias)| one_or_each(a, at, 1.0) * bias + one_or_each(b, at, 0.0)).collect();
        let scaled = |matrix: &Arc<SparseMatrix>| match a {
            [1.0] => matrix.clone(),
            _ => Arc::new(SparseMatrix::clone(matrix).scale_rows(a)),
        };
        Form { terms: self.terms.iter().map(|(source, matrix)| (*source, scaled(matrix))).collect(), bias }
    }

    /// The sum of two forms of one size.
    pub fn plus(&self, other: &Self) -> Self {
        let mut sum = Form { terms: self.terms.clone(), bias: zip(&self.bias, &other.bias, |a, b| a + b) };
        if self.bias.len() != other.bias.len() {
            sum.bias.truncate(self.bias.len().max(other.bias.len()));
        }
        for (source, matrix) in &other.terms {
            match sum.terms.iter_mut().find(|(own, _)| own == source) {
                Some((_, own)) => *own = Arc::new(own.plus(matrix)),
                None => sum.terms.push((*source, matrix.clone())),
            }
        }
        sum.terms.sort_by_key(|(source, _)| *source);
        sum
    }

    /// The values with these indices, in this order; `None` gives `fill`.
    pub fn gather(&self, rows: &[Option<u32>], fill: f64) -> Self {
        let bias = rows.iter().map(|row| match row {
            Some(row) => self.bias.get(*row as usize).copied().unwrap_or(0.0),
            None => fill,
        });
        let terms = self.terms.iter().map(|(source, matrix)| (*source, Arc::new(matrix.gather_rows(rows))));
        Form { terms: terms.collect(), bias: bias.collect() }
    }
}

/// What is applied to each value of a form.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Curve {
    Polynomial(Expression),
    /// With its parameters, if it is a known function of one number.
    Function(ActivationKind, Option<ScalarFunction>),
}

impl Curve {
    pub fn identity() -> Self {
        Curve::Polynomial(Expression::x())
    }

    /// A polynomial on all values.
    pub fn of(polynomial: &Polynomial) -> Self {
        let c = polynomial.coefficients();
        match c {
            [] => Curve::Polynomial(Expression(vec![vec![0.0]])),
            c => Curve::Polynomial(Expression(c.iter().map(|&c| vec![c]).collect())),
        }
    }

    /// `a` and `b` if it is `a x + b`.
    pub fn as_affine(&self) -> Option<(&[f64], &[f64])> {
        match self {
            Curve::Polynomial(e) if e.degree() <= 1 => Some((e.coefficient(1), e.coefficient(0))),
            _ => None,
        }
    }

    pub fn is_identity(&self) -> bool {
        self.as_affine() == Some((&[1.0], &[0.0]))
    }

    /// `a` and `b` with `self = a other + b`, if `other` is a polynomial of degree 2 or more and there are such.
    pub fn in_terms_of(&self, other: &Curve) -> Option<(Vec<f64>, Vec<f64>)> {
        let (Curve::Polynomial(own), Curve::Polynomial(other)) = (self, other) else {
            return None;
        };
        let top = other.degree();
        if own == other {
            return Some((vec![1.0], vec![0.0]));
        }
        if top < 2 || own.degree() != top || other.coefficient(top).contains(&0.0) {
            return None;
        }
        let a = zip(own.coefficient(top), other.coefficient(top), |own, other| own / other);
        for k in 1..top {
            let expected = zip(&a, other.coefficient(k), |a, c| a * c);
            let near = zip(own.coefficient(k), &expected, |own, expected| {
                f64::from((own - expected).abs() > 1e-12 * own.abs().max(expected.abs()))
            });
            if near.contains(&1.0) {
                return None;
            }
        }
        let scaled = zip(&a, other.coefficient(0), |a, c| a * c);
        let b = zip(own.coefficient(0), &scaled, |own, scaled| own - scaled);
        Some((a, b))
    }
}

/// A traced tensor: `curve(form)` on each value.
#[derive(Debug, Clone)]
pub(crate) struct Value {
    pub form: Arc<Form>,
    pub curve: Arc<Curve>,
    pub places: Arc<Vec<Place>>,
    /// The node that names the layer it becomes; `None` for the input.
    pub origin: Option<usize>,
    /// Whether nothing but the curve reads the form, so that steps of the curve may be folded into it.
    pub sole: bool,
}

impl Value {
    /// A form as it is.
    pub fn linear(form: Form, places: Vec<Place>, origin: Option<usize>) -> Self {
        Value { form: Arc::new(form), curve: Arc::new(Curve::identity()), places: Arc::new(places), origin, sole: true }
    }

    pub fn size(&self) -> usize {
        self.form.size()
    }

    /// Whether both are curves on one form.
    pub fn shares_form(&self, other: &Value) -> bool {
        Arc::ptr_eq(&self.form, &other.form) || self.form == other.form
    }

    /// The curve, if it is a polynomial.
    pub fn polynomial(&self) -> Option<&Expression> {
        match self.curve.as_ref() {
            Curve::Polynomial(expression) => Some(expression),
            Curve::Function(..) => None,
        }
    }
}
