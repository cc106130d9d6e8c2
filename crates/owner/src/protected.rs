//! The protected part of a network: a chain of dense layers at its end, or everything from a tensor on as a circuit.

use crate::error::OwnerError;
use rayon::prelude::*;
use subrosa_network::{
    Activation, ActivationKind, CircuitSplit, LayerActivation, Network, NetworkError, Polynomial, Replaced, Scope, Split,
    Substitutions,
};

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
}

impl Protected {
    /// Cuts a network: as a chain of dense layers where that is possible, else as a circuit.
    pub fn new(network: &Network, scope: &Scope, substitutions: &Substitutions) -> Result<Self, OwnerError> {
        match network.split(scope, substitutions) {
            Ok(split) => Ok(Self::Chain(split)),
            Err(NetworkError::NotAllDense(_) | NetworkError::NotInChain { .. } | NetworkError::UnknownLayer { .. }) => {
                let split = network.circuit(scope, substitutions)?;
                Ok(Self::Circuit(Box::new(Whole::new(split)?)))
            }
            Err(NetworkError::NoDenseEnd(why)) => match network.circuit(scope, substitutions) {
                Ok(split) if matches!(scope, Scope::All | Scope::From(_)) => {
                    Ok(Self::Circuit(Box::new(Whole::new(split)?)))
                }
                Ok(_) => Err(NetworkError::NoDenseEnd(why).into()),
                Err(error) => Err(error.into()),
            },
            Err(error) => Err(error.into()),
        }
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

    /// Activations (and poolings) in whose place others were put.
    pub fn replaced(&self) -> &[Replaced] {
        match self {
            Self::Chain(split) => &split.replaced,
            Self::Circuit(whole) => &whole.split.replaced,
        }
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
    pub fn evaluate(&self, samples: &[Vec<f64>]) -> Vec<(Vec<f64>, Vec<f64>)> {
        match self {
            Self::Chain(split) => {
                let last = |x: &Vec<f64>| split.chain.eval_trace(x).pop();
                let both = |x| last(x).map(|t| (t.pre_activation, t.output)).unwrap_or_default();
                samples.iter().map(both).collect()
            }
            Self::Circuit(whole) => {
                let circuit = &whole.split.circuit;
                samples.par_iter().map(|x| circuit.eval_trace(x).pop().unwrap_or_default()).collect()
            }
        }
    }
}

impl Whole {
    fn new(mut split: CircuitSplit) -> Result<Self, OwnerError> {
        let functions: Vec<(String, ActivationKind)> =
            split.circuit.functions().map(|(_, name, kind)| (name.to_owned(), kind)).collect();
        if let Some((layer, kind)) = functions.into_iter().next() {
            return Err(NetworkError::NeedsSubstitution { layer, kind }.into());
        }
        let output = match split.circuit.layers.last_mut().map(|l| (l.name.clone(), &l.activation)) {
            Some((name, LayerActivation::Polynomial { polynomials, .. })) => match polynomials.as_slice() {
                [one] => Some(one.clone()),
                _ => return Err(NetworkError::UnevenOutput(name).into()),
            },
            _ => None,
        };
        Ok(Self { split, output })
    }
}
