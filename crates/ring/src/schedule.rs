//! The order of work of the vector kernels' transforms: rounds of a small radix, most of them two to a pass over the data.

use crate::twiddles::Twiddles;

/// Passes of radix 8 and 4 for `levels` levels (at least 2), in forward order: log2 of the radix of the first round of a pass, and of its second
/// (0 if there is none).
pub(crate) fn passes(levels: u32) -> impl DoubleEndedIterator<Item = (u32, u32)> + ExactSizeIterator + Clone {
    // One or two rounds of radix 4 take what radix 8 leaves over.
    let fours = (3 - levels % 3) % 3;
    let rounds = (levels - 2 * fours) / 3 + fours;
    let log_radix = move |round: u32| if round + fours < rounds { 3 } else { 2 };
    let single = rounds % 2;
    (0..(rounds / 2 + single) as usize).map(move |pass| {
        let pass = pass as u32;
        match (pass, single) {
            (0, 1) => (log_radix(0), 0),
            _ => (log_radix(2 * pass - single), log_radix(2 * pass - single + 1)),
        }
    })
}

/// Reorders the twiddles for a kernel with LANES words to a vector: those that a round needs for one line of nodes become
/// neighbours. `log_radices` are those of the rounds that start with LANES nodes.
///
/// A round at a level with LANES * `lines` nodes needs for line l of them the lines l + `lines` * {1, 2, ..., RADIX - 1} of the
/// tables, counted in LANES words (level by level: one, two, four, eight, as many levels as the radix has). They move to `lines` + l * (RADIX - 1) and
/// following.
pub(crate) fn arrange<const LANES: usize>(twiddles: &mut Twiddles, log_radices: impl Iterator<Item = u32> + Clone) {
    for factors in &mut twiddles.halves {
        for table in [&mut factors.values, &mut factors.quotients] {
            let by_level = table.clone();
            let (by_level, arranged) = (by_level.as_chunks::<LANES>().0, table.as_chunks_mut::<LANES>().0);
            let mut lines = 1;
            for log_radix in log_radices.clone() {
                let group = (1usize << log_radix) - 1;
                for line in 0..lines {
                    for i in 0..group {
                        arranged[lines + line * group + i] = by_level[(i + 1) * lines + line];
                    }
                }
                lines <<= log_radix;
            }
        }
    }
}
