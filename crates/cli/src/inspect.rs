//! `inspect`: what a network is made of and what of it can be protected.

use crate::arguments::{HomeFlags, InspectFlags};
use crate::failure::{failure, io};
use crate::protect::{Files, nowhere, texts, warn_of_replaced};
use crate::samples::{self, OnBars};
use serde::Serialize;
use std::fmt;
use subrosa_network::{ActivationKind, LayerActivation, LayerInfo, Network, Polynomial, Scope, Substitutions};
use subrosa_owner::{Calibration, OwnerError, Simulated};
use subrosa_plan::Forecast;
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

pub(crate) fn inspect(terminal: &mut Terminal, home: &HomeFlags, wanted: &InspectFlags) -> Result<(), Failure> {
    let model = &wanted.model;
    if wanted.simulate {
        return simulate(terminal, home, wanted);
    }
    if wanted.how.calibrate.is_some() || !wanted.how.activations.is_empty() {
        return Err(Failure::usage(
            "--calibrate and --activation say how the network would be protected: add --simulate to see what that gives",
        ));
    }
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

/// What the protected network will answer, before anything is encrypted.
#[derive(Serialize)]
struct SimulateReport {
    scope: String,
    input: &'static str,
    security_bits: u32,
    log_n: u32,
    log_qp: f64,
    #[serde(flatten)]
    simulated: Simulated,
    forecast: Forecast,
    memory_bytes: u64,
    calibration: Calibration,
}

fn simulate(terminal: &mut Terminal, home: &HomeFlags, wanted: &InspectFlags) -> Result<(), Failure> {
    let how = &wanted.how;
    let files = Files::read(&wanted.model, how, home)?;
    let mut data = match &wanted.samples {
        Some(path) => samples::read(path, None, Some(wanted.limit))?,
        None => files.data().cloned().ok_or_else(|| Failure::usage("--simulate needs --calibrate FILE"))?,
    };
    data.truncate(wanted.limit);
    let (_directory, owner) = nowhere()?;
    let request = files.request("simulated", how);
    let prepared = owner.prepare(&request).map_err(|e| files.blamed(e))?.with_flooding(how.flooding);
    let found = owner.simulate_prepared(&request, prepared, &data, &OnBars(terminal.bars()));
    let (plan, calibration, simulated) = found.map_err(|e| match (&e, &wanted.samples) {
        (OwnerError::Input(_), Some(file)) if files.data().is_some() => failure(e).at(file),
        _ => files.blamed(e),
    })?;
    warn_of_replaced(terminal, &calibration, &texts(&calibration));
    terminal.report(&SimulateReport {
        scope: how.scope.to_string(),
        input: how.input.name(),
        security_bits: how.security.bits(),
        log_n: plan.program.parameters.log_n,
        log_qp: plan.log_qp,
        simulated,
        forecast: plan.forecast,
        memory_bytes: plan.prediction.memory.bytes(),
        calibration,
    })
}

impl fmt::Display for SimulateReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = &self.simulated;
        let accuracy = |a: Option<f64>| a.map_or_else(|| "unknown without labels".to_owned(), text::percent);
        let error = format!(
            "{:.2e} at most, {:.2e} in the root mean square, on outputs up to {:.3} (forecast: at most {:.2e})",
            s.max_abs_error, s.rms_error, s.largest_output, s.forecast_max_abs_error
        );
        let plan = format!(
            "scope {}, {} input, {} bits of security, ring degree 2^{}, log2(QP) {:.0}",
            self.scope, self.input, self.security_bits, self.log_n, self.log_qp
        );
        let edge = format!(
            "{} to prepare, {} to infer on one thread, {} of memory",
            text::seconds(self.forecast.prepare_seconds),
            text::seconds(self.forecast.infer_seconds),
            text::bytes(self.memory_bytes)
        );
        let mut fields = vec![
            ("samples", format!("{}, noise in {}", s.samples, s.noise_in)),
            ("plan", plan),
            ("simulated agrees with approximated", text::percent(s.agreement)),
            ("simulated agrees with original", text::percent(s.agreement_original)),
            ("accuracy, original", accuracy(s.accuracy_original)),
            ("accuracy, approximated", accuracy(s.accuracy_approximated)),
            ("accuracy, simulated", accuracy(s.accuracy_simulated)),
            ("error of an output", error),
            ("forecast", crate::plan::forecast(&self.forecast)),
            ("predicted, each", edge),
            ("time", text::seconds(s.seconds)),
        ];
        if s.out_of_range > 0.0 {
            fields.push(("outputs out of range", text::percent(s.out_of_range)));
        }
        f.write_str(&text::fields(&fields))
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
