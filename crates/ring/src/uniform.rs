//! Expansion of public seeds into uniform residues.

use crate::Modulus;
use crate::keystream::Keystream;

/// Words fetched at a time. A multiple of 64, so that no keystream byte is lost between fetches whatever the word width.
const WORDS: usize = 512;
/// Bytes of the widest word: primes have at most 50 bits.
const MAX_WIDTH: usize = 7;

/// Fills a limb as documented at [`Ring::uniform`](crate::Ring::uniform). Not constant-time: the result is public.
pub(crate) fn fill_uniform(p: &Modulus, out: &mut [u64], seed: &[u8; 32], stream: u64) {
    let mut keystream = Keystream::new(seed, stream);
    let width = p.bits().div_ceil(8) as usize;
    let mask = (1u64 << p.bits()) - 1;
    // Words are read as eight bytes and masked; the last one reaches past the fetched bytes.
    let mut bytes = [0u8; WORDS * MAX_WIDTH + size_of::<u64>()];
    let mut filled = 0;
    while filled < out.len() {
        keystream.fill(&mut bytes[..WORDS * width]);
        for word in bytes.windows(size_of::<u64>()).step_by(width).take(WORDS) {
            let mut fixed = [0u8; 8];
            fixed.copy_from_slice(word);
            let value = u64::from_le_bytes(fixed) & mask;
            if value < p.value() && filled < out.len() {
                out[filled] = value;
                filled += 1;
            }
        }
    }
}
