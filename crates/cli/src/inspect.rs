//! `inspect`: what a network is made of and what of it can be protected.

use crate::failure::{failure, io};
use serde::Serialize;
use std::fmt;
use std::path::Path;
use subrosa_network::{LayerInfo, Network, Scope, Substitutions};
use subrosa_terminal::{Failure, Terminal, text};

#[derive(Serialize)]
struct InspectReport {
    input_shape: Vec<usize>,
    outputs: usize,
    parameters: usize,
    layers: Vec<LayerInfo>,
    scopes: Vec<ScopeInfo>,
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
    let scopes = [Scope::Last, Scope::Classifier, Scope::All];
    let scopes = scopes.map(|scope| match network.split(&scope, &Substitutions::none()) {
        Ok(split) => ScopeInfo {
            scope: scope.to_string(),
            possible: true,
            layers: split.chain.layers.len(),
            weights: split.chain.parameters(),
            features: split.features,
            why_not: None,
        },
        Err(e) => {
            let why_not = Some(e.to_string());
            ScopeInfo { scope: scope.to_string(), possible: false, layers: 0, weights: 0, features: 0, why_not }
        }
    });
    terminal.report(&InspectReport {
        input_shape: network.input_shape().to_vec(),
        outputs: network.outputs(),
        parameters: network.parameters(),
        layers: network.layers(),
        scopes: scopes.into(),
    })
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
        Ok(())
    }
}
