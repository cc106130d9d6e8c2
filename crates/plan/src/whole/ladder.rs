//! Which primes a program drops, one behind the other, and how large they are.

use super::stages::{Post, Stage};
use super::{Choice, WholeTask};
use crate::primes::{min_prime_bits, split_bits};
use subrosa_network::Source;

/// Bits by which a fresh input's scale is above a message's: a public-key encryption has about so much more noise than a rounding.
const INPUT_BITS: u32 = 8;
/// Bits by which the last layer's weights' scale is above the others'.
const LAST_BITS: u32 = 2;
/// log2 of how much larger than on the calibration data values may be before a modulus overflows.
const HEADROOM_BITS: f64 = 3.0;

/// The drops of a program, in order from the top.
pub(crate) struct Ladder {
    /// For each stage, how many drops were made before it.
    pub depth: Vec<usize>,
    /// Sizes of all primes, index 0 remains last.
    pub bits: Vec<u32>,
    /// Scale of the last layer's weights.
    pub rows_scale: f64,
    /// Scale of a fresh input.
    pub input_scale: f64,
}

impl Ladder {
    /// `None` if a prime would be too large.
    pub fn new(task: &WholeTask<'_>, choice: &Choice, log_n: u32, period: usize) -> Option<Self> {
        let least = min_prime_bits(log_n);
        let (message, weight) = (choice.message_bits, choice.weight_bits.max(least));
        let stages = &task.stages;
        let last = stages.len() - 1;
        let mut drops: Vec<u32> = Vec::new();
        let behind_map = |i: usize, stage: &Stage| match &stage.post {
            Post::Identity => 0,
            Post::Square => usize::from(!task.stays_at_degree_2(i)),
            Post::Polynomial(c) => super::polynomial::depth(c),
        };
        let own = |i: usize, stage: &Stage| if i == last { 0 } else { 1 + behind_map(i, stage) };
        let depth = depths(task, own).0;
        for ((i, stage), &start) in stages.iter().enumerate().zip(&depth).take(last) {
            let first = start == 0 && task.request.encrypted_input;
            let map = if first { weight + INPUT_BITS } else { weight };
            let own = [map].into_iter().chain(std::iter::repeat_n(message.max(least), behind_map(i, stage)));
            for (k, bits) in own.enumerate() {
                if drops.len() <= start + k {
                    drops.push(bits);
                }
            }
        }
        let depth_of_last = *depth.last()?;
        drops.truncate(depth_of_last);
        let square = task.degree_before_last() == 2;
        let rows_bits = message + LAST_BITS;
        let input = message + if task.request.encrypted_input { INPUT_BITS } else { 0 };
        // Of what the last layer reads.
        let read = match stages.last()?.terms.as_slice() {
            [(Source::Input, _)] => input,
            _ => message * if square { 2 } else { 1 },
        };
        let product = f64::from(rows_bits + read);
        let largest = stages.last()?.bias.iter().fold(task.output_max, |m, b| m.max(b.abs()));
        let result = product + (largest / period as f64).log2();
        let carried = f64::from(read) + 2.0 * HEADROOM_BITS;
        let bottom = result.max(carried).ceil() as u32 + 2;
        let mut bits = split_bits(bottom, log_n);
        bits.extend(drops.iter().rev());
        if bits.iter().any(|b| *b > crate::primes::MAX_PRIME_BITS) {
            return None;
        }
        Some(Self { depth, bits, rows_scale: f64::from(rows_bits).exp2(), input_scale: f64::from(input).exp2() })
    }
}

/// Rescales that a task needs at most.
pub(crate) fn drops(task: &WholeTask<'_>) -> usize {
    let own = |_: usize, stage: &Stage| match &stage.post {
        Post::Identity => 1,
        Post::Square => 2,
        Post::Polynomial(c) => 1 + super::polynomial::depth(c),
    };
    depths(task, own).1.into_iter().max().unwrap_or(0)
}

/// For each stage, how many drops are made before it and up to its end, if it makes as many as `own` says.
fn depths(task: &WholeTask<'_>, own: impl Fn(usize, &Stage) -> usize) -> (Vec<usize>, Vec<usize>) {
    let (mut before, mut behind) = (Vec::new(), vec![0; task.stages.len()]);
    for (i, stage) in task.stages.iter().enumerate() {
        let start = stage.terms.iter().map(|(s, _)| task.depth_of(*s, &behind)).max().unwrap_or(0);
        before.push(start);
        if let Some(place) = behind.get_mut(i) {
            *place = start + own(i, stage);
        }
    }
    (before, behind)
}
