//! Where the values of a layer stand: blocks of slots, one real number a slot, everything repeated with a period.

use subrosa_network::Place;

/// How positions of an image (or a sequence, or a flat vector: one position) become slots.
///
/// Row `y` is row `y / phases` of the grid, times `dilation`, in the blocks of phase `y mod phases`; columns likewise. A map that takes
/// every other position becomes one between neighbours if its input has twice the phases of its result, or half the dilation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spacing {
    pub phases: (u32, u32),
    pub dilation: (u32, u32),
}

impl Spacing {
    pub const DENSE: Self = Self { phases: (1, 1), dilation: (1, 1) };
}

/// Rows and columns of slots that a channel takes, powers of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grid {
    pub rows: u32,
    pub cols: u32,
}

impl Grid {
    pub const POINT: Self = Self { rows: 1, cols: 1 };

    pub fn slots(self) -> usize {
        self.rows as usize * self.cols as usize
    }

    /// The grid of these positions.
    pub fn of(places: &[Place], spacing: Spacing) -> Self {
        let most = |axis: fn(&Place) -> u32| places.iter().map(axis).max().unwrap_or(0);
        let side = |largest: u32, phases: u32, dilation: u32| ((largest / phases) * dilation + 1).next_power_of_two();
        Self {
            rows: side(most(|p| p[1]), spacing.phases.0, spacing.dilation.0),
            cols: side(most(|p| p[2]), spacing.phases.1, spacing.dilation.1),
        }
    }

    pub fn joined(self, other: Self) -> Self {
        Self { rows: self.rows.max(other.rows), cols: self.cols.max(other.cols) }
    }
}

/// The blocks and slots of a layer's values.
#[derive(Debug, Clone)]
pub(crate) struct SlotLayout {
    pub blocks: usize,
    /// Slots of a block; it repeats with them.
    pub period: usize,
    /// Block and slot of every value.
    pub at: Vec<(u32, u32)>,
}

impl SlotLayout {
    /// Values at `places`, with at most `channels` channels in a block (as many as fit, for 0); `None` if one channel is too large.
    pub fn new(places: &[Place], spacing: Spacing, grid: Grid, slots: usize, channels: usize) -> Option<Self> {
        let all = places.iter().map(|p| p[0] as usize + 1).max()?.next_power_of_two();
        let fitting = slots / grid.slots();
        if fitting == 0 {
            return None;
        }
        let together = if channels == 0 { all } else { channels }.min(fitting).min(all);
        let phases = spacing.phases.0 * spacing.phases.1;
        let at: Vec<(u32, u32)> = places
            .iter()
            .map(|&[c, y, x]| {
                let (high, low) = (c / together as u32, c % together as u32);
                let phase = (y % spacing.phases.0) * spacing.phases.1 + x % spacing.phases.1;
                let row = y / spacing.phases.0 * spacing.dilation.0;
                let col = x / spacing.phases.1 * spacing.dilation.1;
                (high * phases + phase, (low * grid.rows + row) * grid.cols + col)
            })
            .collect();
        let blocks = at.iter().map(|a| a.0 as usize + 1).max()?;
        let period = together * grid.slots();
        let inside = places.iter().all(|p| {
            p[1] / spacing.phases.0 * spacing.dilation.0 < grid.rows
                && p[2] / spacing.phases.1 * spacing.dilation.1 < grid.cols
        });
        inside.then_some(Self { blocks, period, at })
    }
}
