//! What a network is made of and what of it can be protected.

use crate::OwnerError;
use serde::Serialize;
use subrosa_network::{ActivationKind, LayerActivation, LayerInfo, Network, Polynomial, Scope, Substitutions};

/// A network's layers, and what each scope would encrypt.
#[derive(Debug, Clone, Serialize)]
pub struct Inspection {
    /// Shape of its input.
    pub input_shape: Vec<usize>,
    /// Values of its output.
    pub outputs: usize,
    /// Its parameters.
    pub parameters: usize,
    /// Its layers.
    pub layers: Vec<LayerInfo>,
    /// What each scope would encrypt.
    pub scopes: Vec<ScopeInfo>,
    /// What `--scope all` would encrypt, layer by layer; empty if it cannot.
    pub whole: Vec<WholeLayer>,
}

/// A linear map that `--scope all` encrypts, with the activation behind it.
#[derive(Debug, Clone, Serialize)]
pub struct WholeLayer {
    /// Its name.
    pub name: String,
    /// Values it gives.
    pub values: usize,
    /// none, a polynomial or a function.
    pub activation: String,
    /// How the activation is to be replaced, if it must be.
    pub replace: Option<String>,
}

/// What `protect --scope` would do.
#[derive(Debug, Clone, Serialize)]
pub struct ScopeInfo {
    /// `last`, `classifier` or `all`.
    pub scope: String,
    /// Whether it can be encrypted as the network is.
    pub possible: bool,
    /// Layers that would be encrypted.
    pub layers: usize,
    /// Their weights and biases.
    pub weights: usize,
    /// Values that enter the first of them.
    pub features: usize,
    /// What stands against it.
    pub why_not: Option<String>,
}

impl Inspection {
    /// Inspects an ONNX file.
    ///
    /// # Errors
    /// A file that is no network known here.
    pub fn of(onnx: &[u8]) -> Result<Self, OwnerError> {
        let network = Network::from_onnx(onnx)?;
        let mut scopes: Vec<ScopeInfo> =
            [Scope::Last, Scope::Classifier].map(|scope| ScopeInfo::of_chain(&network, &scope)).into();
        let (all, whole) = whole(&network);
        scopes.push(all);
        Ok(Self {
            input_shape: network.input_shape().to_vec(),
            outputs: network.outputs(),
            parameters: network.parameters(),
            layers: network.layers(),
            scopes,
            whole,
        })
    }
}

impl ScopeInfo {
    fn of_chain(network: &Network, scope: &Scope) -> Self {
        match network.split(scope, &Substitutions::none()) {
            Ok(split) => ScopeInfo {
                scope: scope.to_string(),
                possible: true,
                layers: split.chain.layers.len(),
                weights: split.chain.parameters(),
                features: split.features,
                why_not: None,
            },
            Err(e) => Self::impossible(scope, &e.to_string()),
        }
    }

    fn impossible(scope: &Scope, why_not: &str) -> Self {
        let why_not = Some(why_not.to_owned());
        ScopeInfo { scope: scope.to_string(), possible: false, layers: 0, weights: 0, features: 0, why_not }
    }
}

/// What `--scope all` would do. MaxPool counts as one of the things to be replaced.
fn whole(network: &Network) -> (ScopeInfo, Vec<WholeLayer>) {
    let mut mean = Substitutions::none();
    mean.insert(ActivationKind::Max, Polynomial::identity());
    let split = match network.circuit(&Scope::All, &mean) {
        Ok(split) => split,
        Err(error) => return (ScopeInfo::impossible(&Scope::All, &error.to_string()), Vec::new()),
    };
    let circuit = &split.circuit;
    let mut flags: Vec<String> = Vec::new();
    if !split.replaced.is_empty() {
        flags.push("max=mean".into());
    }
    let mut layers = Vec::with_capacity(circuit.layers.len());
    for (index, layer) in circuit.layers.iter().enumerate() {
        let known = split.functions.iter().find(|(at, _)| *at == index).map(|(_, function)| *function);
        let (activation, replace) = match &layer.activation {
            LayerActivation::Identity => ("none".to_owned(), None),
            LayerActivation::Polynomial { polynomials, .. } => match polynomials.as_slice() {
                [one] => (one.to_string(), None),
                several => (format!("{} polynomials", several.len()), None),
            },
            LayerActivation::Function(kind) => match known {
                Some(function) => (function.to_string(), Some(format!("{}=auto", function.kind()))),
                None => (kind.to_string(), Some(format!("{kind}=POLYNOMIAL"))),
            },
        };
        flags.extend(replace.clone().filter(|flag| !flags.contains(flag)));
        layers.push(WholeLayer { name: layer.name.clone(), values: layer.size(), activation, replace });
    }
    let calibrate = if flags.iter().any(|flag| flag.ends_with("=auto")) { " --calibrate FILE" } else { "" };
    let why_not = (!flags.is_empty())
        .then(|| format!("some of it must be replaced: give --activation '{}'{calibrate}, see below", flags.join(";")));
    let info = ScopeInfo {
        scope: Scope::All.to_string(),
        possible: why_not.is_none(),
        layers: circuit.layers.len(),
        weights: circuit.parameters(),
        features: split.features,
        why_not,
    };
    (info, layers)
}
