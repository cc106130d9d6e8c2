//! Choosing how the values of every layer stand in the slots.

use super::layout::{Grid, SlotLayout, Spacing};
use super::map::{fingerprint, rounded};
use super::stages::Stage;
use super::task::MapCache;
use std::collections::{BTreeMap, HashMap};
use subrosa_network::{Place, Source, SparseMatrix};

/// The layouts of a candidate: of the input, and of every stage but the last.
pub(crate) struct Geometry {
    pub input: SlotLayout,
    pub stages: Vec<Arrangement>,
    pub maps: MapCache,
    /// For people.
    pub name: String,
}

/// A stage's layout, and which of its blocks share a ciphertext or a sum.
#[derive(Debug, Clone)]
pub(crate) struct Arrangement {
    pub layout: SlotLayout,
    /// Blocks of each ciphertext: the real and, if there is one, the imaginary part.
    pub pairs: Vec<(usize, Option<usize>)>,
    /// The class of each block: the stages behind see only the sum of the blocks of a class.
    pub class: Vec<usize>,
    pub classes: usize,
    /// The class of each value that is the first in its class and slot; no other value is read.
    pub read: Vec<Option<usize>>,
    /// Values that nothing reads: their weights are zero.
    pub unused: Vec<bool>,
}

/// Strides of a map along rows and columns; `None` where the result has one position only.
type Strides = (Option<u32>, Option<u32>);

/// What all geometries of a network are made from.
pub(crate) struct Facts {
    /// For each stage, the strides of its maps.
    strides: Vec<Vec<(Source, Strides)>>,
    /// For each stage, a number for the column of each value in all maps that read it, 0 if nothing does.
    hashes: Vec<Vec<u64>>,
}

impl Facts {
    pub fn new(stages: &[Stage], input: &[Place]) -> Self {
        let places = |source: Source| match source {
            Source::Input => input,
            Source::Layer(i) => stages.get(i).map_or(&[][..], |s| s.places.as_slice()),
        };
        let strides_of = |stage: &Stage| -> Vec<(Source, Strides)> {
            let of =
                |(source, matrix): &(Source, SparseMatrix)| (*source, stride(matrix, &stage.places, places(*source)));
            stage.terms.iter().map(of).collect()
        };
        let hashes = |(i, stage): (usize, &Stage)| column_hashes(stages, Source::Layer(i), stage.size());
        Self {
            strides: stages.iter().map(strides_of).collect(),
            hashes: stages.iter().enumerate().map(hashes).collect(),
        }
    }
}

impl Geometry {
    /// Whether all values stand where those of another do.
    pub fn is_like(&self, other: &Self) -> bool {
        let stages = |g: &Self| g.stages.iter().map(|s| s.layout.at.clone()).collect::<Vec<_>>();
        self.input.at == other.input.at && stages(self) == stages(other)
    }

    /// Layouts in which no axis has more than `most_phases` phases; the input with one channel a block if `single`. `None` if a channel
    /// has more positions than there are slots.
    pub fn new(
        stages: &[Stage],
        input: &[Place],
        facts: &Facts,
        slots: usize,
        most_phases: u32,
        single: bool,
    ) -> Option<Self> {
        let (_, hidden) = stages.split_last()?;
        let strides = &facts.strides;
        // Backwards: by how much positions are still thinned out.
        let mut left: HashMap<Source, (u32, u32)> = HashMap::new();
        for (i, of_stage) in strides.iter().enumerate().rev() {
            let own = left.get(&Source::Layer(i)).copied().unwrap_or((1, 1));
            for (source, (rows, cols)) in of_stage {
                let entry = left.entry(*source).or_insert((1, 1));
                entry.0 = entry.0.max(rows.map_or(1, |s| s * own.0));
                entry.1 = entry.1.max(cols.map_or(1, |s| s * own.1));
            }
        }
        let phases = |source: Source| {
            let (rows, cols) = left.get(&source).copied().unwrap_or((1, 1));
            (largest_divisor(rows, most_phases), largest_divisor(cols, most_phases))
        };
        // Forwards: dilations that make every map one between neighbours.
        let mut spacing: HashMap<Source, Spacing> = HashMap::new();
        spacing.insert(Source::Input, Spacing { phases: phases(Source::Input), dilation: (1, 1) });
        for (i, of_stage) in strides.iter().enumerate() {
            let own = phases(Source::Layer(i));
            let mut dilation = (1, 1);
            if let Some((source, (rows, cols))) = of_stage.iter().find(|(_, s)| s.0.is_some() || s.1.is_some()) {
                let before = spacing.get(source).copied().unwrap_or(Spacing::DENSE);
                let next = |d: u32, stride: Option<u32>, own: u32, before: u32| {
                    stride.map(|s| d * s * own).filter(|p| p % before == 0).map_or(1, |p| (p / before).max(1))
                };
                dilation = (
                    next(before.dilation.0, *rows, own.0, before.phases.0),
                    next(before.dilation.1, *cols, own.1, before.phases.1),
                );
            }
            spacing.insert(Source::Layer(i), Spacing { phases: own, dilation });
        }
        let spacing = |source: Source| spacing.get(&source).copied().unwrap_or(Spacing::DENSE);
        let is_flat = |places: &[Place]| places.iter().all(|p| p[1] == 0 && p[2] == 0);
        let mut grid = Grid::POINT;
        let all = hidden.iter().enumerate().map(|(i, s)| (Source::Layer(i), s.places.as_slice()));
        for (source, places) in all.chain([(Source::Input, input)]) {
            if !is_flat(places) {
                grid = grid.joined(Grid::of(places, spacing(source)));
            }
        }
        let layout = |source: Source, places: &[Place], channels: usize| {
            let grid = if is_flat(places) { Grid::POINT } else { grid };
            SlotLayout::new(places, spacing(source), grid, slots, channels)
        };
        let input = layout(Source::Input, input, usize::from(single))?;
        let mut arranged = Vec::with_capacity(hidden.len());
        for (i, (stage, hashes)) in hidden.iter().zip(&facts.hashes).enumerate() {
            arranged.push(Arrangement::new(layout(Source::Layer(i), &stage.places, 0)?, hashes));
        }
        let name = format!("{} phases at most, {} x {} slots a channel", most_phases, grid.rows, grid.cols);
        Some(Self { input, stages: arranged, maps: MapCache::default(), name })
    }
}

impl Arrangement {
    /// `hashes`: a number for each value's column in all maps that read it, 0 if nothing does.
    fn new(layout: SlotLayout, hashes: &[u64]) -> Self {
        let mut classes: Vec<BTreeMap<u32, u64>> = Vec::new();
        let mut class = vec![0; layout.blocks];
        let mut of_block = vec![BTreeMap::new(); layout.blocks];
        for ((block, slot), hash) in layout.at.iter().zip(hashes).filter(|(_, h)| **h != 0) {
            if let Some(values) = of_block.get_mut(*block as usize) {
                values.insert(*slot, *hash);
            }
        }
        for (class, values) in class.iter_mut().zip(&of_block) {
            let agrees =
                |c: &BTreeMap<u32, u64>| values.iter().all(|(slot, h)| c.get(slot).is_none_or(|other| other == h));
            match classes.iter_mut().enumerate().find(|(_, c)| agrees(c)) {
                Some((i, found)) => {
                    found.extend(values);
                    *class = i;
                }
                None => {
                    *class = classes.len();
                    classes.push(values.clone());
                }
            }
        }
        let mut order: Vec<usize> = (0..layout.blocks).collect();
        order.sort_by_key(|&b| (class.get(b).copied(), b));
        let pairs = order.chunks(2).filter_map(|pair| Some((*pair.first()?, pair.get(1).copied()))).collect();
        let mut taken = std::collections::HashSet::new();
        let read = layout
            .at
            .iter()
            .zip(hashes)
            .map(|((block, slot), hash)| {
                let class = class.get(*block as usize).copied()?;
                (*hash != 0 && taken.insert((class, *slot))).then_some(class)
            })
            .collect();
        let unused = hashes.iter().map(|h| *h == 0).collect();
        Self { pairs, classes: classes.len(), class, read, unused, layout }
    }
}

/// A number for each column of all maps from `source`, equal for equal columns up to rounding, 0 for empty ones.
fn column_hashes(stages: &[Stage], source: Source, size: usize) -> Vec<u64> {
    let mut out = vec![0u64; size];
    for (index, stage) in stages.iter().enumerate() {
        for (_, matrix) in stage.terms.iter().filter(|(s, _)| *s == source) {
            for row in 0..matrix.rows() {
                for (column, value) in matrix.row(row) {
                    if let Some(hash) = out.get_mut(column as usize) {
                        *hash = hash.wrapping_add(fingerprint([index as u64, row as u64, rounded(value)]) | 1);
                    }
                }
            }
        }
    }
    out
}

/// How far apart the centres are of what two neighbouring results read.
fn stride(matrix: &SparseMatrix, rows: &[Place], columns: &[Place]) -> Strides {
    let along = |axis: usize| {
        let last = rows.iter().map(|p| p[axis]).max()?;
        if last == 0 {
            return None;
        }
        // Away from the borders where there is room.
        let at = |p: u32| {
            let other = 3 - axis;
            let middle = rows.iter().map(|p| p[other]).max()? / 2;
            let index = rows.iter().position(|r| r[0] == 0 && r[axis] == p && r[other] == middle)?;
            let read: Vec<f64> =
                matrix.row(index).filter_map(|(c, _)| Some(f64::from(columns.get(c as usize)?[axis]))).collect();
            (!read.is_empty()).then(|| read.iter().sum::<f64>() / read.len() as f64)
        };
        let (low, high) = if last >= 2 { (last / 2, last / 2 + 1) } else { (0, 1) };
        let distance = (at(high)? - at(low)?).round();
        Some(if distance >= 1.0 { distance as u32 } else { 1 })
    };
    (along(1), along(2))
}

/// The largest divisor of `of` that is at most `most`.
fn largest_divisor(of: u32, most: u32) -> u32 {
    (1..=most.min(of)).rev().find(|d| of.is_multiple_of(*d)).unwrap_or(1)
}
