//! `infer --profile`: where the time of an evaluation goes, beside what the owner's planner predicted.

use serde::Serialize;
use std::fmt;
use std::time::Instant;
use subrosa_edge_agent::Processor;
use subrosa_program::{LayerSteps, Program, Step};
use subrosa_terminal::machine::median;
use subrosa_terminal::text;

/// NTTs that this machine is measured by.
const TRANSFORMS: usize = 51;

/// A step of the evaluation and its time.
#[derive(Debug, Clone, Serialize)]
pub struct StepTime {
    /// What it does.
    pub step: &'static str,
    /// What constants it reads, if any: the layer they belong to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub constants: Option<String>,
    /// Median over the samples.
    pub seconds: f64,
    /// What was predicted of one thread of this machine; none if the bundle carries no prediction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicted_seconds: Option<f64>,
}

/// The steps of one layer and their time.
#[derive(Debug, Clone, Serialize)]
pub struct LayerTime {
    /// Its name.
    pub layer: String,
    /// Its steps.
    pub steps: usize,
    /// Sum of their medians.
    pub seconds: f64,
    /// Sum of what was predicted of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicted_seconds: Option<f64>,
}

/// All steps, and the same summed up by layers.
#[derive(Debug, Clone, Serialize)]
pub struct Profile {
    /// The steps of the evaluation.
    pub profile: Vec<StepTime>,
    /// The layers.
    pub profile_layers: Vec<LayerTime>,
    /// Time of an NTT here over that on the machine that the prediction was made for, by which it was multiplied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicted_scale: Option<f64>,
}

impl Profile {
    /// From the times of each step, one for each sample.
    pub(crate) fn new(processor: &Processor, times: &mut [Vec<f64>]) -> Self {
        let program = processor.program();
        let predicted = processor.manifest().predicted.as_ref().filter(|p| p.steps.len() == program.steps.len());
        let scale = predicted.filter(|p| p.ntt > 0).map(|p| transform_seconds(processor) / (1e-9 * p.ntt as f64));
        let predicted_of = |at: usize| Some(1e-9 * *predicted?.steps.get(at)? as f64 * scale?);
        let name = |group: usize| program.constants.get(group).map(|g| g.name.clone());
        let timed = |(at, (step, times)): (usize, (&Step, &mut Vec<f64>))| StepTime {
            step: step.name(),
            constants: step.constants().and_then(name),
            seconds: median(times),
            predicted_seconds: predicted_of(at),
        };
        let profile: Vec<StepTime> = program.steps.iter().zip(times).enumerate().map(timed).collect();
        Self { profile_layers: by_layer(program, &profile), profile, predicted_scale: scale }
    }
}

/// The sums, layer by layer.
fn by_layer(program: &Program, profile: &[StepTime]) -> Vec<LayerTime> {
    let layer = |l: LayerSteps| {
        let own = || l.steps.iter().filter_map(|&at| profile.get(at));
        LayerTime {
            steps: l.steps.len(),
            seconds: own().map(|s| s.seconds).sum(),
            predicted_seconds: own().map(|s| s.predicted_seconds).sum(),
            layer: l.name,
        }
    };
    program.layers().into_iter().map(layer).collect()
}

/// An NTT of one limb in the program's ring, the median of some.
fn transform_seconds(processor: &Processor) -> f64 {
    let table = processor.parameters().ring().table(0);
    let mut limb = vec![1; table.n()];
    let mut both = || {
        let start = Instant::now();
        table.forward(&mut limb);
        table.inverse(&mut limb);
        start.elapsed().as_secs_f64()
    };
    let mut times: Vec<f64> = (0..TRANSFORMS).map(|_| both()).collect();
    median(&mut times) / 2.0
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let predicted = |seconds: Option<f64>| seconds.map_or_else(|| "-".to_owned(), text::seconds);
        if let Some(scale) = self.predicted_scale {
            let told = format!("of one thread of this machine, whose NTT takes {scale:.2} times that of the planner's");
            write!(f, "{}", text::fields(&[("predicted", told)]))?;
        }
        let head = ["layer", "steps", "time", "predicted"].map(str::to_owned);
        let row = |l: &LayerTime| {
            [l.layer.clone(), l.steps.to_string(), text::seconds(l.seconds), predicted(l.predicted_seconds)]
        };
        let rows: Vec<_> = std::iter::once(head).chain(self.profile_layers.iter().map(row)).collect();
        write!(f, "\n{}", text::table(&rows))?;
        let head = ["step", "constants", "time", "predicted"].map(str::to_owned);
        let row = |s: &StepTime| {
            let constants = s.constants.clone().unwrap_or_default();
            [s.step.to_owned(), constants, text::seconds(s.seconds), predicted(s.predicted_seconds)]
        };
        let rows: Vec<_> = std::iter::once(head).chain(self.profile.iter().map(row)).collect();
        write!(f, "\n{}", text::table(&rows))
    }
}
