//! Adam with decoupled weight decay (Loshchilov and Hutter 2019). candle's own keeps its moments to itself, so that no
//! checkpoint could hold them.

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};

use crate::error::TrainError;

const BETA1: f32 = 0.9;
const BETA2: f32 = 0.999;
const EPSILON: f32 = 1e-8;

/// Moments of a parameter's gradient.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Moments {
    pub first: Vec<f32>,
    pub second: Vec<f32>,
}

/// The optimiser's state.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Adam {
    /// By the parameter's name.
    pub moments: BTreeMap<String, Moments>,
    /// Steps made.
    pub steps: u64,
}

/// What a step does.
pub(crate) struct Step {
    pub learning_rate: f32,
    /// Share of each weight that is taken off at a learning rate of 1; not of biases, norms and coefficients.
    pub weight_decay: f32,
    /// Gradients of a larger norm, over all parameters, are scaled down to it.
    pub clip: f32,
}

impl Adam {
    /// One step; `prepare` may change a parameter's gradient before, `finish` its values afterwards.
    pub fn step(
        &mut self,
        variables: &BTreeMap<String, Var>,
        gradients: &GradStore,
        step: &Step,
        prepare: impl Fn(&str, &mut [f32]),
        finish: impl Fn(&str, &mut [f32]),
    ) -> Result<(), TrainError> {
        let mut found: Vec<(&String, &Var, Vec<f32>)> = Vec::with_capacity(variables.len());
        for (name, variable) in variables {
            if let Some(gradient) = gradients.get(variable.as_tensor()) {
                let mut gradient: Vec<f32> = gradient.flatten_all()?.to_vec1()?;
                prepare(name, &mut gradient);
                found.push((name, variable, gradient));
            }
        }
        let squares: f64 = found.iter().map(|(_, _, gradient)| square_sum(gradient)).sum();
        let scale = (f64::from(step.clip) / squares.sqrt().max(1e-12)).min(1.0) as f32;
        self.steps += 1;
        let steps = i32::try_from(self.steps).unwrap_or(i32::MAX);
        let (correct1, correct2) = (1.0 - BETA1.powi(steps), 1.0 - BETA2.powi(steps));
        for (name, variable, gradient) in found {
            let moments = self.moments.entry(name.clone()).or_default();
            moments.first.resize(gradient.len(), 0.0);
            moments.second.resize(gradient.len(), 0.0);
            let decay = if name.ends_with(".weight") { 1.0 - step.learning_rate * step.weight_decay } else { 1.0 };
            let mut values: Vec<f32> = variable.flatten_all()?.to_vec1()?;
            let cells = values.iter_mut().zip(&gradient).zip(&mut moments.first).zip(&mut moments.second);
            for (((value, gradient), first), second) in cells {
                let gradient = gradient * scale;
                *first = BETA1 * *first + (1.0 - BETA1) * gradient;
                *second = BETA2 * *second + (1.0 - BETA2) * gradient * gradient;
                let towards = (*first / correct1) / ((*second / correct2).sqrt() + EPSILON);
                *value = *value * decay - step.learning_rate * towards;
            }
            finish(name, &mut values);
            variable.set(&Tensor::from_vec(values, variable.shape(), &Device::Cpu)?)?;
        }
        Ok(())
    }
}

fn square_sum(values: &[f32]) -> f64 {
    values.chunks(4096).map(|piece| f64::from(piece.iter().map(|v| v * v).sum::<f32>())).sum()
}
