//! Ranges: what the features and outputs of a network look like, from calibration data or from synthetic inputs.

use crate::error::OwnerError;
use crate::fitting::{FITTED_ON, FittedActivation, Samples};
use crate::normalise::{Normalisation, Spread};
use crate::protected::Protected;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use subrosa_input::{Dataset, Preprocess};
use subrosa_network::Network;
use subrosa_plain::PlainNetwork;
use subrosa_plan::InputRange;

/// Features of real data may be this much larger on the edge than on the calibration data.
const CALIBRATED_MARGIN: f64 = 1.5;
/// The same where only synthetic inputs were at hand.
const SYNTHETIC_MARGIN: f64 = 4.0;
/// Synthetic inputs that are tried.
const SYNTHETIC_INPUTS: usize = 64;
/// Wanted error over the largest output that was seen.
const RELATIVE_ERROR: f64 = 1e-3;
/// The same where only synthetic inputs were at hand, whose outputs may be larger than real ones.
const SYNTHETIC_RELATIVE_ERROR: f64 = 2e-4;
/// Feature vectors that are kept to bound the values behind them.
const KEPT_FEATURES: usize = 256;

/// Samples that are evaluated at a time; bounds the memory.
const EVALUATED_TOGETHER: usize = 64;
/// Wanted error of a whole network over the largest output that was seen: it has more layers, whose scales cost more.
const CIRCUIT_RELATIVE_ERROR: f64 = 5e-3;

/// One in so many samples counts as near another class.
pub(crate) const NEAR_SHARE: usize = 20;

/// What calibration found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Calibration {
    /// Samples that were used.
    pub samples: usize,
    /// Whether they were synthetic, for want of `--calibrate`.
    pub synthetic: bool,
    /// Range of the features that the plan covers, margin included.
    #[serde(skip, default = "empty_range")]
    pub input: InputRange,
    /// Some of the feature vectors, for the ranges of the values behind them.
    #[serde(skip)]
    pub features: Vec<Vec<f64>>,
    /// How features of real data are brought to one range, if they need to be.
    #[serde(skip)]
    pub(crate) normalisation: Option<Normalisation>,
    /// Largest absolute output of the approximated network that was seen.
    pub largest_output: f64,
    /// Share of samples for which the approximated network has the original's top class; `None` with synthetic inputs.
    pub agreement_original: Option<f64>,
    /// Top-class accuracy of the original and of the approximated network, if the data has labels.
    pub accuracy: Option<(f64, f64)>,
    /// Activations in whose place polynomials were fitted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fits: Vec<FittedActivation>,
    /// How many samples the approximated network put into each class; empty with synthetic inputs and in reports of earlier versions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<u64>,
    /// A twentieth of the samples had their two best outputs at most so far apart; 0 where there are no [`labels`](Self::labels) or
    /// one output alone.
    #[serde(default)]
    pub near_margin: f64,
}

fn empty_range() -> InputRange {
    InputRange { max_abs: 0.0, max_norm: 0.0 }
}

impl Calibration {
    /// The same for a whole network.
    pub fn wanted_error_of_circuit(&self) -> f64 {
        CIRCUIT_RELATIVE_ERROR * self.largest_output.max(f64::MIN_POSITIVE.sqrt())
    }

    /// The error the planner is asked to stay below.
    pub fn wanted_error(&self) -> f64 {
        let relative = if self.synthetic { SYNTHETIC_RELATIVE_ERROR } else { RELATIVE_ERROR };
        relative * self.largest_output.max(f64::MIN_POSITIVE.sqrt())
    }
}

/// Measures on calibration data.
pub(crate) fn on_data(
    network: &Network,
    protected: &Protected,
    data: &Dataset,
    preprocess: &Preprocess,
) -> Result<Calibration, OwnerError> {
    let inputs = preprocess.apply(data, network.input_shape())?;
    if data.count == 0 {
        return Err(OwnerError::Usage("the calibration data has no samples".into()));
    }
    let mut measured = measure(protected, data.count, &inputs)?;
    let original = PlainNetwork::load(network.onnx(), 0)?;
    let expected = top_classes(&original, data.count, &inputs)?;
    let share = |hits: usize| hits as f64 / data.count as f64;
    let same = measured.labels.iter().zip(&expected).filter(|(a, b)| a == b).count();
    measured.calibration.agreement_original = Some(share(same));
    let mut counts = vec![0; network.outputs()];
    measured.labels.iter().filter_map(|&l| counts.get_mut(l).map(|c| *c += 1)).for_each(drop);
    measured.calibration.labels = counts;
    measured.margins.sort_by(f64::total_cmp);
    // One output alone has no second: its margin is infinite.
    let margin = measured.margins.get(data.count / NEAR_SHARE).copied().filter(|m| m.is_finite());
    measured.calibration.near_margin = margin.unwrap_or(0.0);
    if let Some(labels) = &data.labels {
        let hits = |of: &[usize]| of.iter().zip(labels).filter(|(a, b)| **a == **b as usize).count();
        measured.calibration.accuracy = Some((share(hits(&expected)), share(hits(&measured.labels))));
    }
    Ok(measured.calibration.with_margin(CALIBRATED_MARGIN))
}

/// Samples to choose polynomials on, spread evenly over the calibration data, and how the original answers them.
pub(crate) fn fitting_samples(
    network: &Network,
    front: Option<&[u8]>,
    data: &Dataset,
    preprocess: &Preprocess,
) -> Result<Samples, OwnerError> {
    let inputs = preprocess.apply(data, network.input_shape())?;
    let length: usize = network.input_shape().iter().product();
    let count = data.count.min(FITTED_ON);
    let chosen = (0..count).filter_map(|i| {
        let at = i * data.count / count.max(1);
        inputs.get(at * length..(at + 1) * length)
    });
    let chosen: Vec<f32> = chosen.flatten().copied().collect();
    let original = top_classes(&PlainNetwork::load(network.onnx(), 0)?, count, &chosen)?;
    let features = match front {
        Some(front) => PlainNetwork::load(front, 0)?.run(count, &chosen)?,
        None => chosen,
    };
    let each = (features.len() / count.max(1)).max(1);
    let features = features.chunks(each).map(|x| x.iter().map(|&v| f64::from(v)).collect()).collect();
    Ok(Samples { features, original })
}

/// Measures on synthetic inputs: noise, gradients, blots and flat fields over the declared range of pixels; where none is declared,
/// over -1..1 for the size of the outputs and over -4..4 for the range of the features (standardised data go that far).
pub(crate) fn on_synthetic(
    network: &Network,
    protected: &Protected,
    preprocess: Option<&Preprocess>,
) -> Result<Calibration, OwnerError> {
    let len: usize = network.input_shape().iter().product();
    let over = |low, high| measure(protected, SYNTHETIC_INPUTS, &synthetic(len, low, high)).map(|m| m.calibration);
    let mut found = match preprocess {
        Some(p) => {
            let (low, high) = pixel_range(p);
            over(low, high)?
        }
        None => Calibration { input: over(-4.0, 4.0)?.input, ..over(-1.0, 1.0)? },
    };
    found.synthetic = true;
    found.normalisation = None;
    // What synthetic inputs bring there says nothing.
    found.fits = protected.fits().to_vec();
    Ok(found.with_margin(SYNTHETIC_MARGIN))
}

/// Test patterns with values from `low` to `high`, the same every time.
fn synthetic(len: usize, low: f32, high: f32) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut uniform = || {
        // xorshift64*: reproducible patterns, no randomness needed.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40) as f32 / (1u64 << 24) as f32
    };
    let mut inputs = Vec::with_capacity(SYNTHETIC_INPUTS * len);
    for sample in 0..SYNTHETIC_INPUTS {
        let (contrast, offset) = (uniform(), uniform());
        // Blots of many sizes, as strokes and objects are: what a trained network answers to most.
        let run = 1 << (sample / 4 % 6);
        for i in 0..len {
            let unit = match sample % 4 {
                0 => uniform(),
                1 => (i as f32 / len as f32 + offset).fract(),
                2 => f32::from(u8::from(((i / run) as u32).wrapping_mul(2_654_435_761) >> 31 == 1)),
                _ => 0.5 + (uniform() - 0.5) * contrast,
            };
            inputs.push(low + (high - low) * unit);
        }
    }
    inputs
}

/// Smallest and largest input value that pixels of 0 to 255 give.
fn pixel_range(p: &Preprocess) -> (f32, f32) {
    let scale = p.scale.unwrap_or(1.0);
    let channels = p.mean.len().max(p.std.len()).max(1);
    let pick = |v: &[f32], c: usize, default| v.get(c).or(v.first()).copied().unwrap_or(default);
    let values = (0..channels)
        .flat_map(|c| [0.0, 255.0].map(|pixel| (pixel * scale - pick(&p.mean, c, 0.0)) / pick(&p.std, c, 1.0)));
    values.fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)))
}

impl Calibration {
    fn with_margin(mut self, margin: f64) -> Self {
        self.input.max_abs *= margin;
        self.input.max_norm *= margin;
        self
    }
}

struct Measured {
    calibration: Calibration,
    /// Top class of the approximated network, sample by sample.
    labels: Vec<usize>,
    /// How far its best output was from the second.
    margins: Vec<f64>,
}

fn measure(protected: &Protected, count: usize, inputs: &[f32]) -> Result<Measured, OwnerError> {
    let front = protected.front().map(|onnx| PlainNetwork::load(onnx, 0)).transpose()?;
    let mut input = empty_range();
    let mut largest_output = 0.0f64;
    let (mut labels, mut margins) = (Vec::with_capacity(count), Vec::with_capacity(count));
    let mut kept = Vec::new();
    let mut spread = Spread::new(protected.features());
    let mut fits = protected.fits().to_vec();
    let mut outside: Vec<Option<usize>> = vec![None; fits.len()];
    let features = match &front {
        Some(front) => Cow::Owned(front.run(count, inputs)?),
        None => Cow::Borrowed(inputs),
    };
    for chunk in features.chunks(protected.features().max(1) * EVALUATED_TOGETHER) {
        let samples = chunk.chunks(protected.features().max(1));
        let samples: Vec<Vec<f64>> = samples.map(|x| x.iter().map(|&v| f64::from(v)).collect()).collect();
        for ((linear, output), beyond) in protected.evaluate_within(&samples) {
            for (sum, more) in outside.iter_mut().zip(beyond) {
                *sum = more.map(|more| sum.unwrap_or(0) + more);
            }
            largest_output = linear.iter().fold(largest_output, |m, v| m.max(v.abs()));
            margins.push(margin(&output));
            labels.push(argmax(output.into_iter()));
        }
        for x in samples {
            spread.add(&x);
            input.max_abs = x.iter().fold(input.max_abs, |m, v| m.max(v.abs()));
            input.max_norm = input.max_norm.max(x.iter().map(|v| v * v).sum::<f64>().sqrt());
            if kept.len() < KEPT_FEATURES {
                kept.push(x);
            }
        }
    }
    if !(input.max_norm.is_finite() && largest_output.is_finite()) {
        return Err(OwnerError::Usage("the network gives infinite or undefined values on the calibration data".into()));
    }
    if input.max_norm == 0.0 {
        return Err(OwnerError::Usage(
            "every feature is zero on the calibration data: give data the network answers to (--calibrate FILE)".into(),
        ));
    }
    for (fit, (outside, size)) in fits.iter_mut().zip(outside.into_iter().zip(protected.fitted_sizes())) {
        if let Some(outside) = outside {
            fit.outside = Some(outside as f64 / (count * size).max(1) as f64);
        }
    }
    let all = features.chunks(protected.features().max(1)).map(|x| x.iter().map(|&v| f64::from(v)).collect());
    let calibration = Calibration {
        samples: count,
        synthetic: false,
        input,
        normalisation: Normalisation::new(&spread, all, &kept, |factor| protected.first_row_norm(factor)),
        features: kept,
        largest_output,
        agreement_original: None,
        accuracy: None,
        fits,
        labels: Vec::new(),
        near_margin: 0.0,
    };
    Ok(Measured { calibration, labels, margins })
}

/// The original network's top class of each sample.
pub(crate) fn top_classes(original: &PlainNetwork, count: usize, inputs: &[f32]) -> Result<Vec<usize>, OwnerError> {
    let scores = original.run(count, inputs)?;
    let classes = scores.chunks(original.output_len().max(1)).map(|o| argmax(o.iter().map(|&x| f64::from(x))));
    Ok(classes.collect())
}

/// Index of the largest value, the first of equals.
pub(crate) fn argmax(values: impl Iterator<Item = f64>) -> usize {
    let mut best = (0, f64::NEG_INFINITY);
    for (i, v) in values.enumerate() {
        if v > best.1 {
            best = (i, v);
        }
    }
    best.0
}

/// How far the largest value is from the second; infinite for one value alone.
pub(crate) fn margin(values: &[f64]) -> f64 {
    let mut two = [f64::NEG_INFINITY; 2];
    for &value in values {
        match value {
            v if v > two[0] => two = [v, two[0]],
            v if v > two[1] => two[1] = v,
            _ => {}
        }
    }
    two[0] - two[1]
}
