//! `inspect`: what a network is made of and what of it can be protected.

use crate::failure::{failure, io};
use serde::Serialize;
use std::fmt;
use std::path::Path;
use subrosa_network::{ActivationKind, LayerActivation, LayerInfo, Network, Polynomial, Scope, Substitutions};
use subrosa_terminal::{Failure, Terminal, text};

#[derive(Serialize)]
struct InspectReport {
    input_shape: Vec<usize>,
    outputs: usize,
    parameters: usize,
    layers: Vec<LayerInfo>,
    scopes: Vec<ScopeInfo>,
    /// What `--scope all` would encrypt, layer by layer; empty if it cannot.
    whole: Vec<WholeLayer>,
}

/// A linear map that `--scope all` encrypts, with the activation behind it.
#[derive(Serialize)]
struct WholeLayer {
    name: String,
    /// Values it gives.
    values: usize,
    /// none, a polynomial or a function.
    activation: String,
    /// How the activation is to be replaced, if it must be.
    replace: Option<String>,
}

/// What `protect --scope` would do.
#[derive(Serialize)]
struct ScopeInfo {
    scope: String,
    possible: bool,
    /// Layers that would be encrypted.
    layers: usize,
    /// Their weights and biases.
    weights: usize,
    /// Values that enter the first of them.
    features: usize,
    /// What stands against it.
    why_not: Option<String>,
}

pub(crate) fn inspect(terminal: &mut Terminal, model: &Path) -> Result<(), Failure> {
    let onnx = std::fs::read(model).map_err(io("read", model))?;
    let network = Network::from_onnx(&onnx).map_err(|e| failure(e).at(model.display()))?;
    let mut scopes: Vec<ScopeInfo> =
        [Scope::Last, Scope::Classifier].map(|scope| ScopeInfo::of_chain(&network, &scope)).into();
    let (all, whole) = whole(&network);
    scopes.push(all);
    terminal.report(&InspectReport {
        input_shape: network.input_shape().to_vec(),
        outputs: network.outputs(),
        parameters: network.parameters(),
        layers: network.layers(),
        scopes,
        whole,
    })
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

impl fmt::Display for InspectReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sizes = |shape: &[usize]| shape.iter().map(ToString::to_string).collect::<Vec<_>>().join("x");
        let head = ["layer", "op", "gives", "parameters", "protectable", "note"].map(str::to_owned).to_vec();
        let layers = self.layers.iter().map(|l| {
            let protectable = if l.protectable { "yes" } else { "no" };
            vec![
                l.name.clone(),
                l.op.clone(),
                sizes(&l.shape),
                l.parameters.to_string(),
                protectable.into(),
                l.note.clone(),
            ]
        });
        writeln!(f, "{}", text::table(&std::iter::once(head).chain(layers).collect::<Vec<_>>()))?;
        writeln!(f, "input {}, {} outputs, {} parameters\n", sizes(&self.input_shape), self.outputs, self.parameters)?;
        for s in &self.scopes {
            match &s.why_not {
                None => {
                    let (layers, weights, features) = (s.layers, s.weights, s.features);
                    writeln!(
                        f,
                        "--scope {}: encrypts {layers} layers, {weights} weights; {features} values enter",
                        s.scope
                    )?;
                }
                Some(why) => writeln!(f, "--scope {}: no: {why}", s.scope)?,
            }
        }
        if !self.whole.is_empty() {
            let head = ["with --scope all", "values", "activation", "to be replaced by"].map(str::to_owned).to_vec();
            let rows = self.whole.iter().map(|l| {
                let replace = l.replace.as_ref().map_or_else(String::new, |flag| format!("--activation {flag}"));
                vec![l.name.clone(), l.values.to_string(), shortened(&l.activation), replace]
            });
            write!(f, "\n{}", text::table(&std::iter::once(head).chain(rows).collect::<Vec<_>>()))?;
        }
        Ok(())
    }
}

/// A polynomial as far as a column of a table holds it.
fn shortened(text: &str) -> String {
    const MOST: usize = 40;
    if text.len() <= MOST { text.to_owned() } else { text.chars().take(MOST).chain("…".chars()).collect() }
}
