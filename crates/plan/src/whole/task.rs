//! What all candidates share.

use super::geometry::{Facts, Geometry};
use super::map::{Map, Rotations, Split, SplitCounts, Weights};
use super::stages::{Post, Stage, stages, traces};
use super::{WholeError, WholeRequest};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use subrosa_network::Source;

/// Outputs may be so much larger than on calibration data, and on synthetic inputs.
const CALIBRATED_MARGIN: f64 = 4.0;
const SYNTHETIC_MARGIN: f64 = 16.0;
/// Samples that the ranges are measured on.
const RANGED: usize = 64;
/// Samples whose errors are simulated.
const SIMULATED: usize = 4;

pub(crate) struct WholeTask<'a> {
    pub request: &'a WholeRequest<'a>,
    pub stages: Vec<Stage>,
    pub facts: Facts,
    /// Largest absolute output that is covered.
    pub output_max: f64,
    /// The outputs of the first samples, whose errors are simulated.
    pub outputs: Vec<Vec<f64>>,
}

/// What a geometry's maps need, computed once.
#[derive(Default)]
pub(crate) struct MapCache {
    rotations: Mutex<HashMap<(usize, usize), Arc<Counted>>>,
    weights: Mutex<HashMap<SplitTerm, Arc<Vec<Weights>>>>,
}

/// The rotations of a map, and what their splits take.
type Counted = (Rotations, OnceLock<Vec<SplitCounts>>);
/// Stage, term, and how its rotations are split.
type SplitTerm = (usize, usize, Split);

impl MapCache {
    /// The rotations of term `term` of stage `stage`.
    pub fn rotations(&self, at: (usize, usize), map: &Map<'_>) -> Arc<Counted> {
        let mut cache = self.rotations.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(cache.entry(at).or_insert_with(|| Arc::new((map.rotations(), OnceLock::new()))))
    }

    /// Its weights, split so.
    pub fn weights(
        &self,
        (stage, term): (usize, usize),
        map: &Map<'_>,
        split: Split,
        factor: &(dyn Fn(usize) -> f64 + Sync),
    ) -> Arc<Vec<Weights>> {
        let mut cache = self.weights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = cache.get(&(stage, term, split)) {
            return Arc::clone(found);
        }
        // One split of a term at a time: they are large.
        cache.retain(|at, _| (at.0, at.1) != (stage, term));
        let made = Arc::new(map.weights(split, factor));
        cache.insert((stage, term, split), Arc::clone(&made));
        made
    }
}

impl<'a> WholeTask<'a> {
    pub fn new(request: &'a WholeRequest<'a>) -> Result<Self, WholeError> {
        let samples = request.samples.get(..RANGED.min(request.samples.len())).unwrap_or(request.samples);
        if samples.is_empty() || request.circuit.layers.is_empty() {
            return Err(WholeError::Malformed("there are no layers, or no samples to measure ranges on"));
        }
        let traces = traces(request.circuit, samples);
        let stages = stages(request.circuit, &traces)?;
        // The last layer's values are carried as they are.
        let mut outputs: Vec<Vec<f64>> =
            traces.into_iter().map(|mut t| t.pop().map(|values| values.0).unwrap_or_default()).collect();
        let finite = |m: f64, v: &f64| if v.is_finite() { m.max(v.abs()) } else { f64::INFINITY };
        let largest = outputs.iter().flatten().fold(0.0f64, finite);
        outputs.truncate(SIMULATED);
        if !largest.is_finite() {
            let layer = stages.last().map(|s| s.name.clone()).unwrap_or_default();
            return Err(WholeError::NotFinite { layer });
        }
        let margin = if request.calibrated { CALIBRATED_MARGIN } else { SYNTHETIC_MARGIN };
        let output_max = if largest > 0.0 { margin * largest } else { 1.0 };
        let facts = Facts::new(&stages, &request.circuit.input_places);
        Ok(Self { request, stages, facts, output_max, outputs })
    }

    /// Features that are not encrypted are multiplied by the weights of one map and nothing else.
    pub fn check_input(&self) -> Result<(), WholeError> {
        let readers: Vec<&Stage> = self.readers(Source::Input).filter_map(|i| self.stages.get(i)).collect();
        if self.request.encrypted_input || matches!(readers.as_slice(), [one] if one.terms.len() == 1) {
            return Ok(());
        }
        let names: Vec<String> = readers.iter().map(|s| format!("'{}'", s.name)).collect();
        Err(WholeError::PlainInput { layers: names.join(", ") })
    }

    /// The stages that read a source.
    pub fn readers(&self, source: Source) -> impl Iterator<Item = usize> + '_ {
        let reads = move |s: &Stage| s.terms.iter().any(|(from, _)| *from == source);
        self.stages.iter().enumerate().filter(move |(_, s)| reads(s)).map(|(i, _)| i)
    }

    /// Drops before a source's values are there.
    pub fn depth_of(&self, source: Source, behind: &[usize]) -> usize {
        match source {
            Source::Input => 0,
            Source::Layer(i) => behind.get(i).copied().unwrap_or(0),
        }
    }

    /// Whether a stage's square is read by the last layer only, and by it alone.
    pub fn stays_at_degree_2(&self, index: usize) -> bool {
        let last = self.stages.len() - 1;
        let square = self.stages.get(index).is_some_and(|s| s.post == Post::Square);
        let alone = self.stages.last().is_some_and(|s| s.terms.len() == 1);
        square && alone && self.readers(Source::Layer(index)).eq([last])
    }

    /// Degree of what the last layer reads.
    pub fn degree_before_last(&self) -> usize {
        match self.stages.last().and_then(|s| s.terms.first()) {
            Some((Source::Layer(i), _)) if self.stays_at_degree_2(*i) => 2,
            _ => 1,
        }
    }

    /// The period of what the last layer reads.
    pub fn last_period(&self, geometry: &Geometry) -> Option<usize> {
        match self.stages.last()?.terms.as_slice() {
            [(Source::Input, _)] => Some(geometry.input.period),
            [(Source::Layer(i), _)] => Some(geometry.stages.get(*i)?.layout.period),
            _ => None,
        }
    }
}
