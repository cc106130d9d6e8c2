//! Scales and sizes of primes of a draft.

use crate::chain::Post;
use crate::primes::{MAX_PRIME_BITS, min_prime_bits, split_bits, split_bytes};
use crate::search::{Choice, RingContext, Task};
use subrosa_program::layout::CoefficientRows;

/// Bits by which the first prime to be dropped may be smaller than the balance of errors asks for, if that saves a byte.
const TRIMMED_BITS: u32 = 2;

/// What the choice of a precision and of layouts leads to.
pub(super) struct Scales {
    /// Of the messages that are carried.
    pub message: f64,
    /// Of the input.
    pub input: f64,
    /// Of the last layer's weights.
    pub last: f64,
    /// The last layer's layout.
    pub rows: CoefficientRows,
    /// Sizes of the primes, index 0 remains last.
    pub bits: Vec<u32>,
    /// Size of the special primes.
    pub special_bits: u32,
}

/// Balances the errors of input, weights and roundings; `None` if a prime would be too large.
pub(super) fn scales(task: &Task<'_>, ring: &RingContext, choice: &Choice) -> Option<Scales> {
    let (stages, ranges, log_n, dev) = (&task.stages, &task.ranges, ring.log_n, ring.dev);
    let (first, first_range, last, last_range) = (stages.first()?, ranges.first()?, stages.last()?, ranges.last()?);
    let message = f64::from(choice.precision).exp2();
    let layout = &choice.layers.first()?.layout;
    let period = choice.layers.last()?.layout.row_period;
    let rows = CoefficientRows { n: 2 * ring.slots(), rows: last.rows, cols: last.cols, period };

    // The rounding of the first rescale, summed by the fold, sets the error that the other scales are balanced against.
    let parts = f64::from(layout.fold_doublings()).exp2();
    let reference = dev.slots(dev.rescale()) * parts.sqrt() / message;
    let weight_noise = dev.slots(dev.fresh()) * 2f64.sqrt() * first_range.input_norm;
    let input_deviation = if task.request.encrypted_input { dev.fresh_public() } else { dev.encoding() };
    let input_noise = dev.slots(input_deviation) * first.max_row_norm / 2f64.sqrt();
    let scale_for = |noise: f64, error: f64| (noise / error).max(2.0).log2().round().exp2();
    let weight_scale = scale_for(weight_noise, reference);
    let input = scale_for(input_noise, reference / 2.0);
    let mut first_drop =
        ((weight_scale * input / message).log2().round() as i64).max(min_prime_bits(log_n).into()) as u32;
    if choice.whole_bytes && first_drop % 8 <= TRIMMED_BITS {
        first_drop = (first_drop / 8 * 8).max(min_prime_bits(log_n));
    }
    if first_drop > MAX_PRIME_BITS {
        return None;
    }

    // The last product: what its weights' noise may be, and the modulus that holds it.
    let square = stages.iter().rev().nth(1).is_some_and(|s| s.post == Post::Square);
    let before = ranges.iter().rev().nth(1)?;
    let gain = if square { 2.0 * last.max_weight * before.linear_norm } else { last.max_row_norm };
    let rms = last_range.input_norm / (rows.period as f64).sqrt();
    let last_scale = scale_for(dev.fresh() * rms * rows.period as f64, reference * gain / 2.0);
    let product_scale = last_scale * if square { message * message } else { message };
    let result_bits = (product_scale * last_range.linear_max.max(last.max_bias()) / rows.period as f64).log2();
    let held = ranges.iter().zip(stages).map(|(r, s)| r.linear_max.max(s.max_bias()));
    let message_bits = held.map(|most| (message * most).log2()).fold(0.0, f64::max);
    let bottom = result_bits.max(message_bits).ceil() as u32 + 2;

    let split = if choice.whole_bytes { split_bytes } else { split_bits };
    let mut bits = split(bottom, log_n);
    let mut drops = vec![first_drop];
    let (last_post, hidden_posts) = stages.get(..stages.len() - 1)?.split_last()?;
    for stage in hidden_posts {
        drops.extend(post_drops(&stage.post, choice.precision, log_n));
        drops.push(choice.precision.max(min_prime_bits(log_n)));
    }
    if let Post::Polynomial(_) = last_post.post {
        drops.extend(post_drops(&last_post.post, choice.precision, log_n));
    }
    bits.extend(drops.iter().rev());
    let special_bits = choice.special.bits(&bits, ring)?;
    Some(Scales { message, input, last: last_scale, rows, bits, special_bits })
}

/// Sizes of the primes that evaluating what follows a linear map (not the last) drops, in order.
pub(super) fn post_drops(post: &Post, precision: u32, log_n: u32) -> Vec<u32> {
    let count = match post {
        Post::Identity => 0,
        Post::Square => 1,
        Post::Polynomial(c) => polynomial_depth(c.len().saturating_sub(1)),
    };
    vec![precision.max(min_prime_bits(log_n)); count]
}

/// Levels of a polynomial of this degree: its powers by halving, and the products with its coefficients.
fn polynomial_depth(degree: usize) -> usize {
    degree.next_power_of_two().trailing_zeros() as usize + 1
}
