//! `inspect`: what a network is made of and what of it can be protected.

use crate::arguments::{HomeFlags, InspectFlags};
use crate::failure::{failure, io};
use crate::protect::{Files, nowhere, texts, warn_of_replaced};
use crate::samples::{self, OnBars};
use serde::Serialize;
use std::fmt;
use subrosa_owner::{Calibration, Inspection, OwnerError, Simulated};
use subrosa_plan::Forecast;
use subrosa_terminal::{Failure, Terminal, text};

/// What `inspect` prints.
#[derive(Serialize)]
#[serde(transparent)]
struct InspectReport(Inspection);

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
    let found = Inspection::of(&onnx).map_err(|e| failure(e).at(model.display()))?;
    terminal.report(&InspectReport(found))
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

impl fmt::Display for InspectReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sizes = |shape: &[usize]| shape.iter().map(ToString::to_string).collect::<Vec<_>>().join("x");
        let head = ["layer", "op", "gives", "parameters", "protectable", "note"].map(str::to_owned).to_vec();
        let layers = self.0.layers.iter().map(|l| {
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
        writeln!(
            f,
            "input {}, {} outputs, {} parameters\n",
            sizes(&self.0.input_shape),
            self.0.outputs,
            self.0.parameters
        )?;
        for s in &self.0.scopes {
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
        if !self.0.whole.is_empty() {
            let head = ["with --scope all", "values", "activation", "to be replaced by"].map(str::to_owned).to_vec();
            let rows = self.0.whole.iter().map(|l| {
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
