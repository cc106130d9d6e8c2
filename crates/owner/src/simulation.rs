//! How accurate a protected network will be, before anything is encrypted; and what it gives in plaintext.

use crate::calibration::{argmax, top_classes};
use crate::error::OwnerError;
use crate::protected::Protected;
use crate::protection::{Prepared, ProtectRequest};
use crate::{Calibration, Owner, Progress};
use rayon::prelude::*;
use serde::Serialize;
use std::time::Instant;
use subrosa_input::Dataset;
use subrosa_plain::PlainNetwork;
use subrosa_plan::Plan;

/// What the simulated evaluations of a plan gave.
#[derive(Debug, Clone, Serialize)]
pub struct Simulated {
    /// Samples.
    pub samples: usize,
    /// `every step` of the plan executed slot by slot with noise of its forecast size, or `outputs`: of a chain of dense layers, the outputs
    /// with all the noise that is forecast for them.
    pub noise_in: &'static str,
    /// Share of samples whose simulated result has the approximated network's top class.
    pub agreement: f64,
    /// The same with the original network's top class.
    pub agreement_original: f64,
    /// Top-class accuracy of the original network, if labels are known.
    pub accuracy_original: Option<f64>,
    /// The same of the approximated network in plaintext.
    pub accuracy_approximated: Option<f64>,
    /// The same of the simulated results.
    pub accuracy_simulated: Option<f64>,
    /// Largest absolute difference of a simulated output from the approximated network's.
    pub max_abs_error: f64,
    /// The root of the mean squared difference.
    pub rms_error: f64,
    /// Largest absolute output of the approximated network.
    pub largest_output: f64,
    /// The planner's bound of the error.
    pub forecast_max_abs_error: f64,
    /// Share of outputs beyond what the plan's last modulus is sure to hold.
    pub out_of_range: f64,
    /// Time it took.
    pub seconds: f64,
}

/// One sample: its simulated outputs and the approximated network's, each before and behind the owner's activation.
struct Answer {
    simulated: Vec<f64>,
    linear: Vec<f64>,
    simulated_class: usize,
    class: usize,
}

impl Owner {
    /// Plans a network's protection and executes the plan on samples in plaintext, with noise; nothing is generated, encrypted or stored.
    ///
    /// # Errors
    /// Networks that cannot be protected so, and samples that do not fit.
    pub fn simulate_prepared(
        &self,
        request: &ProtectRequest,
        prepared: Prepared,
        data: &Dataset,
        progress: &dyn Progress,
    ) -> Result<(Plan, Calibration, Simulated), OwnerError> {
        let preprocess = request.preprocess.clone().unwrap_or_default();
        // Before the plan, which takes longer.
        let inputs = preprocess.apply(data, prepared.network.input_shape())?;
        let plan = self.make_plan(request, &prepared)?;
        let simulated = prepared.simulate(&plan, data, &inputs, progress)?;
        Ok((plan, prepared.calibration, simulated))
    }

    /// What a protected network gives in plaintext, in 64-bit arithmetic, its activations replaced as they are in its protected form.
    ///
    /// # Errors
    /// An unknown network, and samples that it does not take.
    pub fn plain_outputs(&self, id: &str, data: &Dataset) -> Result<Vec<Vec<f64>>, OwnerError> {
        let record = self.registry.get(id)?;
        let settings = self.report(&record)?.settings;
        let network = self.network(&record)?;
        let protected = Protected::again(&network, &settings)?;
        let inputs = settings.preprocess.clone().unwrap_or_default().apply(data, network.input_shape())?;
        let features = features(&protected, data.count, &inputs)?;
        Ok(protected.evaluate(&features).into_iter().map(|(_, output)| output).collect())
    }
}

/// What enters the protected part, sample by sample.
fn features(protected: &Protected, count: usize, inputs: &[f32]) -> Result<Vec<Vec<f64>>, OwnerError> {
    let wide = |values: &[f32]| values.chunks(protected.features().max(1)).map(widened).collect();
    match protected.front() {
        Some(front) => Ok(wide(&PlainNetwork::load(front, 0)?.run(count, inputs)?)),
        None => Ok(wide(inputs)),
    }
}

fn widened(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}

impl Prepared {
    fn simulate(
        &self,
        plan: &Plan,
        data: &Dataset,
        inputs: &[f32],
        progress: &dyn Progress,
    ) -> Result<Simulated, OwnerError> {
        let start = Instant::now();
        let original = top_classes(&PlainNetwork::load(self.network.onnx(), 0)?, data.count, inputs)?;
        let features = features(&self.protected, data.count, inputs)?;
        let activation = self.protected.output_activation();
        let class = |outputs: &[f64]| {
            argmax(outputs.iter().map(|&y| activation.as_ref().map_or(y, |activation| activation.eval(y))))
        };
        progress.begin("simulating", features.len());
        let answer = |(seed, x): (usize, &Vec<f64>)| -> Result<Answer, OwnerError> {
            let simulated = plan.simulate(x, Some(seed as u64)).map_err(|e| OwnerError::Usage(e.to_string()))?.outputs;
            let linear = self.protected.evaluate(std::slice::from_ref(x)).pop().map(|both| both.0).unwrap_or_default();
            progress.advance(1);
            Ok(Answer { simulated_class: class(&simulated), class: class(&linear), simulated, linear })
        };
        let answers: Vec<Answer> = features.par_iter().enumerate().map(answer).collect::<Result<_, _>>()?;
        progress.end();

        let share = |hits: usize| hits as f64 / answers.len().max(1) as f64;
        let labels = data.labels.as_ref().map(|l| l.iter().map(|&x| x as usize).collect::<Vec<_>>());
        let accuracy = |classes: &mut dyn Iterator<Item = usize>| {
            labels.as_ref().map(|labels| share(classes.zip(labels).filter(|(class, label)| class == *label).count()))
        };
        let pairs = || answers.iter().flat_map(|a| a.simulated.iter().zip(&a.linear));
        let outputs = pairs().count().max(1) as f64;
        let limit = plan.program.output.max_abs;
        Ok(Simulated {
            samples: answers.len(),
            noise_in: if plan.is_simulated_by_step() { "every step" } else { "outputs" },
            agreement: share(answers.iter().filter(|a| a.simulated_class == a.class).count()),
            agreement_original: share(answers.iter().zip(&original).filter(|(a, o)| a.simulated_class == **o).count()),
            accuracy_original: accuracy(&mut original.iter().copied()),
            accuracy_approximated: accuracy(&mut answers.iter().map(|a| a.class)),
            accuracy_simulated: accuracy(&mut answers.iter().map(|a| a.simulated_class)),
            max_abs_error: pairs().map(|(s, l)| (s - l).abs()).fold(0.0, f64::max),
            rms_error: (pairs().map(|(s, l)| (s - l) * (s - l)).sum::<f64>() / outputs).sqrt(),
            largest_output: pairs().map(|(_, l)| l.abs()).fold(0.0, f64::max),
            forecast_max_abs_error: plan.forecast.max_abs_error,
            out_of_range: pairs().filter(|(s, _)| s.abs() > limit).count() as f64 / outputs,
            seconds: start.elapsed().as_secs_f64(),
        })
    }
}
