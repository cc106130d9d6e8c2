//! The layout of a layer: column groups, packing, tiles, baby and giant steps, and the stages of its fold, by predicted time.

use crate::chain::Stage;
use crate::cost::KeyWork;
use crate::forecast::Deviations;
use crate::keys::{KeyChooser, Use};
use crate::primes::PrimeChain;
use std::collections::BTreeMap;
use subrosa_program::layout::{Diagonals, Packing};

/// Most input ciphertexts of a product where the shape permits.
const MAX_TILES: usize = 4;
/// Most doublings in one stage of a fold: 7 automorphisms.
const MAX_DOUBLINGS: u32 = 3;

/// A layer in the slots.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Layer {
    pub layout: Diagonals,
    /// Stages of the fold.
    pub folds: usize,
}

/// Where a layer's input comes from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Source {
    /// The edge, as a plaintext.
    Plain,
    /// The edge, encrypted.
    Encrypted,
    /// The layer before, periodic in the slots.
    Periodic(usize),
}

/// Costs that depend on one number of a layout, computed once.
#[derive(Default)]
struct Known {
    babies: BTreeMap<usize, Option<f64>>,
    giants: BTreeMap<usize, Option<f64>>,
    folds: BTreeMap<u32, Option<(usize, f64)>>,
}

impl Layer {
    /// A layout to begin with, before anything is known of primes and costs.
    pub fn first_guess(stage: &Stage, slots: usize, source: Source) -> Option<Self> {
        let layout = match source {
            Source::Periodic(period) => {
                let giants = ((period as f64).sqrt() as usize).next_power_of_two();
                Diagonals::periodic(slots, stage.rows, stage.cols, period, giants)
            }
            _ => {
                let giants = if source == Source::Plain { 1 } else { 8 };
                let packing = Packing { span: usize::MAX, giants, max_tiles: MAX_TILES, complex: true };
                Diagonals::packed(slots, stage.rows, stage.cols, packing)
            }
        };
        let layout = layout.ok()?;
        let folds = layout.fold_doublings().div_ceil(2) as usize;
        Some(Self { layout, folds })
    }

    /// The layout of least predicted cost for a product at `level`, with this many giant steps if given.
    pub fn cheapest(
        stage: &Stage,
        slots: usize,
        source: Source,
        level: usize,
        keys: &KeyChooser<'_>,
        giants: Option<usize>,
    ) -> Option<Self> {
        let mut known = Known::default();
        let mut best: Option<(Self, f64)> = None;
        for layout in layouts(stage, slots, source) {
            if giants.is_some_and(|g| g != layout.giants) {
                continue;
            }
            if let Some((folds, cost)) = known.cost(&layout, source, level, keys)
                && best.as_ref().is_none_or(|(_, least)| cost < *least)
            {
                best = Some((Self { layout, folds }, cost));
            }
        }
        best.map(|(layer, _)| layer)
    }
}

impl Known {
    /// The fold's number of stages, and the predicted cost of the layer with what its input needs.
    fn cost(&mut self, d: &Diagonals, source: Source, level: usize, keys: &KeyChooser<'_>) -> Option<(usize, f64)> {
        let a = &keys.arithmetic;
        let (folds, fold) = (*self
            .folds
            .entry(d.fold_doublings())
            .or_insert_with(|| fold_cost(d, level.saturating_sub(1).max(1), keys)))?;
        let kept = keys.per_byte * (2 * d.products() * a.polynomial_bytes(level, 0)) as f64;
        let tiles = d.tiles.len();
        let product = match source {
            Source::Plain => {
                a.plain_products(level, d.products()) + a.divide(level, 0, true, 2) + a.encode_slots(level, tiles)
            }
            Source::Encrypted => {
                a.cipher_products(level, d.products())
                    + a.buffers(3 * level * d.giants)
                    + a.encode_slots(level, tiles)
                    + a.encrypt(level, tiles)
            }
            Source::Periodic(_) => a.cipher_products(level, d.products()) + a.buffers(3 * level * d.giants),
        };
        let mut cost = product.seconds + kept + fold;
        if source != Source::Plain {
            for tile in &d.tiles {
                let rotated =
                    self.babies.entry(tile.babies).or_insert_with(|| babies_cost(tile.babies, source, level, keys));
                cost += (*rotated)?;
            }
            let giants = self.giants.entry(d.giants).or_insert_with(|| {
                let work = KeyWork::giants(d.giants, true);
                keys.best(&[Use::rounded(&keys.dev, keys.primes, level, work)], work.products).map(|(_, cost)| cost)
            });
            cost += (*giants)?;
        }
        Some((folds, cost))
    }
}

fn babies_cost(babies: usize, source: Source, level: usize, keys: &KeyChooser<'_>) -> Option<f64> {
    match babies {
        0 | 1 => Some(0.0),
        _ => {
            keys.best(&[rotations(babies - 1, source, level, &keys.dev, keys.primes)], babies - 1).map(|(_, cost)| cost)
        }
    }
}

/// Hoisted rotations of a layer's input.
pub(crate) fn rotations(count: usize, source: Source, level: usize, dev: &Deviations, primes: &PrimeChain) -> Use {
    let rounded = Use::rounded(dev, primes, level, KeyWork::hoisted(count));
    if source == Source::Encrypted { Use { floor: dev.fresh_public(), ..rounded } } else { rounded }
}

/// The best number of stages of a fold at `level`, and its cost.
fn fold_cost(d: &Diagonals, level: usize, keys: &KeyChooser<'_>) -> Option<(usize, f64)> {
    let doublings = d.fold_doublings();
    if doublings == 0 {
        return Some((1, 0.0));
    }
    let cost = |count: u32| {
        let stages = d.fold_stages(count as usize);
        let uses: Vec<Use> =
            stages.iter().map(|s| Use::rounded(&keys.dev, keys.primes, level, KeyWork::fold(s.len()))).collect();
        let each: Option<f64> = uses.iter().zip(&stages).map(|(u, s)| Some(keys.best(&[*u], s.len())?.1)).sum();
        Some((count as usize, each?))
    };
    (doublings.div_ceil(MAX_DOUBLINGS)..=doublings).filter_map(cost).min_by(|a, b| a.1.total_cmp(&b.1))
}

/// The layouts that a layer can have.
fn layouts(stage: &Stage, slots: usize, source: Source) -> Vec<Diagonals> {
    let (rows, cols) = (stage.rows, stage.cols);
    let powers = || (0..usize::BITS - slots.leading_zeros()).map(|i| 1usize << i);
    if let Source::Periodic(period) = source {
        let most = rows.next_power_of_two().min(period);
        let layout = |giants| Diagonals::periodic(slots, rows, cols, period, giants).ok();
        return powers().filter(|g| *g <= most).filter_map(layout).collect();
    }
    let groups = slots / rows.next_power_of_two().min(slots);
    let mut out: Vec<Diagonals> = Vec::new();
    for complex in [true, false] {
        let columns = if complex { cols.div_ceil(2) } else { cols };
        for span in powers().filter(|s| *s <= groups.min(columns.next_power_of_two())) {
            let full = span == groups;
            let most = if source == Source::Plain { 1 } else { columns.div_ceil(span).next_power_of_two() };
            for giants in powers().filter(|g| *g <= most) {
                let tiles = if source == Source::Plain { usize::MAX..=usize::MAX } else { 1..=MAX_TILES };
                for max_tiles in tiles {
                    let packing = Packing { span, giants, max_tiles, complex };
                    let Ok(layout) = Diagonals::packed(slots, rows, cols, packing) else { continue };
                    // Few groups can mean very many tiles; with all groups there is no choice.
                    let few = full || source == Source::Plain || layout.tiles.len() <= MAX_TILES;
                    if few && layout.giants == giants && out.last() != Some(&layout) {
                        out.push(layout);
                    }
                }
            }
        }
    }
    out
}
