//! The protected part of a network: a chain of dense layers at its end, or everything from a tensor on as a circuit.

use crate::error::OwnerError;
use crate::fitting::{self, FittedActivation, Samples};
use crate::protection::Settings;
use rayon::prelude::*;
use subrosa_network::{
    Activation, CircuitLayer, CircuitSplit, LayerActivation, LayerValues, Network, NetworkError, Polynomial, Replaced,
    Scope, Source, Split, Substitutions, TOGETHER,
};

/// The last linear map's result, and what the network gives.
type Outputs = (Vec<f64>, Vec<f64>);

/// A network cut in two, its protected part in the form that suits it.
pub(crate) enum Protected {
    /// Dense layers with one activation for all their values.
    Chain(Split),
    /// Any layers.
    Circuit(Box<Whole>),
}

/// A circuit and the activation that the owner applies after decryption.
pub(crate) struct Whole {
    pub split: CircuitSplit,
    /// What follows the last layer.
    pub output: Option<Polynomial>,
    /// Activations that were fitted here.
    pub fits: Vec<FittedActivation>,
}

/// Where the polynomials of fitted activations come from.
pub(crate) enum Fits<'a> {
    /// They are made from samples, where there are any.
    Made(Option<Samples>),
    /// They are known, by layer.
    Known(&'a [(String, Polynomial)]),
}

/// The form that the protected part is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// A chain of dense layers where that is possible, else a circuit.
    Fitting,
    /// A circuit.
    Circuit,
}

impl Protected {
    /// Cuts a network into what stays plain and what is protected, in the wanted form. What is to be fitted takes a circuit; `fits` is
    /// asked for the polynomials when the network is cut.
    pub fn new<'a>(
        network: &Network,
        scope: &Scope,
        substitutions: &Substitutions,
        form: Form,
        fits: impl FnOnce(&CircuitSplit) -> Result<Fits<'a>, OwnerError>,
    ) -> Result<Self, OwnerError> {
        let whole = |split: CircuitSplit| Ok(Self::Circuit(Box::new(Whole::new(split, substitutions, fits)?)));
        match network.split(scope, substitutions) {
            Ok(_) if form == Form::Circuit => whole(network.circuit(scope, substitutions)?),
            Ok(split) => Ok(Self::Chain(split)),
            Err(NetworkError::NeedsSubstitution { kind, .. } | NetworkError::FinalActivation { kind, .. })
                if substitutions.choice(kind).is_some() =>
            {
                whole(network.circuit(scope, substitutions)?)
            }
            Err(NetworkError::NotAllDense(_) | NetworkError::NotInChain { .. } | NetworkError::UnknownLayer { .. }) => {
                whole(network.circuit(scope, substitutions)?)
            }
            Err(NetworkError::NoDenseEnd(why)) => match network.circuit(scope, substitutions) {
                Ok(split) if matches!(scope, Scope::All | Scope::From(_)) => whole(split),
                Ok(_) => Err(NetworkError::NoDenseEnd(why).into()),
                Err(error) => Err(error.into()),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// Cuts a network as it was cut when it was protected.
    pub fn again(network: &Network, settings: &Settings) -> Result<Self, OwnerError> {
        let fits = |_: &CircuitSplit| Ok(Fits::Known(&settings.fitted));
        Self::new(network, &settings.scope, &settings.substitutions, Form::Fitting, fits)
    }

    /// ONNX of the plain part, if there is one.
    pub fn front(&self) -> Option<&[u8]> {
        match self {
            Self::Chain(split) => split.front.as_deref(),
            Self::Circuit(whole) => whole.split.front.as_deref(),
        }
    }

    /// Values that enter it.
    pub fn features(&self) -> usize {
        match self {
            Self::Chain(split) => split.features,
            Self::Circuit(whole) => whole.split.features,
        }
    }

    /// Its linear maps.
    pub fn layers(&self) -> usize {
        match self {
            Self::Chain(split) => split.chain.layers.len(),
            Self::Circuit(whole) => whole.split.circuit.layers.len(),
        }
    }

    /// The network's layer that its first linear map comes from.
    pub fn first_layer(&self) -> Option<&str> {
        match self {
            Self::Chain(split) => split.chain.layers.first().map(|l| l.name.as_str()),
            Self::Circuit(whole) => whole.split.circuit.layers.first().map(|l| l.name.as_str()),
        }
    }

    /// Weights and biases in it.
    pub fn parameters(&self) -> usize {
        match self {
            Self::Chain(split) => split.chain.parameters(),
            Self::Circuit(whole) => whole.split.circuit.parameters(),
        }
    }

    /// Largest norm of a row of the linear maps that read the features, each weight multiplied by the number of its feature.
    pub fn first_row_norm(&self, factor: &dyn Fn(usize) -> f64) -> f64 {
        let norm = |row: &mut dyn Iterator<Item = (usize, f64)>| {
            row.map(|(column, weight)| (weight * factor(column)).powi(2)).sum::<f64>().sqrt()
        };
        match self {
            Self::Chain(split) => split.chain.layers.first().map_or(0.0, |layer| {
                let rows = layer.weights.chunks(layer.cols.max(1));
                rows.map(|row| norm(&mut row.iter().copied().enumerate())).fold(0.0, f64::max)
            }),
            Self::Circuit(whole) => {
                let terms = whole.split.circuit.layers.iter().flat_map(|layer| &layer.terms);
                let matrices = terms.filter(|t| t.source == Source::Input).map(|t| &t.matrix);
                let rows = matrices.flat_map(|m| (0..m.rows()).map(move |row| m.row(row)));
                rows.map(|row| norm(&mut row.map(|(c, w)| (c as usize, w)))).fold(0.0, f64::max)
            }
        }
    }

    /// Activations (and poolings) in whose place others were put.
    pub fn replaced(&self) -> &[Replaced] {
        match self {
            Self::Chain(split) => &split.replaced,
            Self::Circuit(whole) => &whole.split.replaced,
        }
    }

    /// Activations that were fitted.
    pub fn fits(&self) -> &[FittedActivation] {
        match self {
            Self::Chain(_) => &[],
            Self::Circuit(whole) => &whole.fits,
        }
    }

    /// The polynomials of fitted activations, by layer.
    pub fn fitted(&self) -> Vec<(String, Polynomial)> {
        self.fits().iter().map(|fit| (fit.layer.clone(), fit.polynomial.clone())).collect()
    }

    /// What the owner applies after decryption.
    pub fn output_activation(&self) -> Option<Polynomial> {
        match self {
            Self::Chain(split) => match split.chain.layers.last().map(|l| &l.activation) {
                Some(Activation::Polynomial(p)) => Some(p.clone()),
                _ => None,
            },
            Self::Circuit(whole) => whole.output.clone(),
        }
    }

    /// For each sample, the last linear map's result and what the network gives, in 64-bit arithmetic.
    pub fn evaluate(&self, samples: &[Vec<f64>]) -> Vec<Outputs> {
        match self {
            Self::Chain(split) => {
                let last = |x: &Vec<f64>| split.chain.eval_trace(x).pop();
                let both = |x| last(x).map(|t| (t.pre_activation, t.output)).unwrap_or_default();
                samples.iter().map(both).collect()
            }
            Self::Circuit(_) => self.evaluate_within(samples).into_iter().map(|(both, _)| both).collect(),
        }
    }

    /// The same, with how many values lie outside the interval of each fitted activation, in the order of
    /// [`fits`](Self::fits); `None` where the fit became part of the weights.
    pub fn evaluate_within(&self, samples: &[Vec<f64>]) -> Vec<(Outputs, Vec<Option<usize>>)> {
        match self {
            Self::Chain(_) => self.evaluate(samples).into_iter().map(|both| (both, Vec::new())).collect(),
            Self::Circuit(whole) => samples.par_chunks(TOGETHER).flat_map_iter(|some| whole.evaluate(some)).collect(),
        }
    }

    /// Values of each fitted activation, for one sample.
    pub fn fitted_sizes(&self) -> Vec<usize> {
        match self {
            Self::Chain(_) => Vec::new(),
            Self::Circuit(whole) => {
                whole.fitted_layers().map(|(_, layer)| layer.map_or(0, |(_, l)| l.size())).collect()
            }
        }
    }
}

impl Whole {
    fn new<'a>(
        mut split: CircuitSplit,
        substitutions: &Substitutions,
        fits: impl FnOnce(&CircuitSplit) -> Result<Fits<'a>, OwnerError>,
    ) -> Result<Self, OwnerError> {
        let open: Vec<(usize, String)> = split.circuit.functions().map(|(at, name, _)| (at, name.to_owned())).collect();
        let mut made = Vec::new();
        if !open.is_empty() {
            fitting::check(&split, substitutions)?;
            match fits(&split)? {
                Fits::Made(samples) => made = fitting::fit_functions(&mut split, substitutions, samples.as_ref())?,
                Fits::Known(known) => {
                    for (at, name) in open {
                        let polynomial = known.iter().find(|(layer, _)| *layer == name).map(|(_, p)| p);
                        let missing = || OwnerError::Report(format!("it has no polynomial for layer '{name}'"));
                        split.circuit.substitute(at, polynomial.ok_or_else(missing)?);
                    }
                }
            }
        }
        let output = match split.circuit.layers.last_mut().map(|l| (l.name.clone(), &l.activation)) {
            Some((name, LayerActivation::Polynomial { polynomials, .. })) => match polynomials.as_slice() {
                [one] => Some(one.clone()),
                _ => return Err(NetworkError::UnevenOutput(name).into()),
            },
            _ => None,
        };
        Ok(Self { split, output, fits: made })
    }

    /// Fitted activations with the layers before them.
    fn fitted_layers(&self) -> impl Iterator<Item = (&FittedActivation, Option<(usize, &CircuitLayer)>)> {
        let layer = |name: &str| self.split.circuit.layers.iter().enumerate().find(|(_, layer)| layer.name == name);
        self.fits.iter().map(move |fit| (fit, layer(&fit.layer)))
    }

    fn evaluate(&self, samples: &[Vec<f64>]) -> Vec<(Outputs, Vec<Option<usize>>)> {
        let samples: Vec<&[f64]> = samples.iter().map(Vec::as_slice).collect();
        let outside = |trace: &LayerValues| -> Vec<Option<usize>> {
            let of_layer = |(fit, layer): (&FittedActivation, Option<(usize, &CircuitLayer)>)| {
                let (index, layer) = layer?;
                let (lo, hi) = fit.interval;
                let (values, _) = trace.get(index)?;
                let fitted = layer.activation != LayerActivation::Identity;
                fitted.then(|| values.iter().filter(|x| !(lo..=hi).contains(*x)).count())
            };
            self.fitted_layers().map(of_layer).collect()
        };
        let with_outputs = |mut trace: LayerValues| {
            let outside = outside(&trace);
            (trace.pop().unwrap_or_default(), outside)
        };
        self.split.circuit.eval_traces(&samples).into_iter().map(with_outputs).collect()
    }
}
