//! Dense packing of fixed-width integers into bytes.
//!
//! Wire format: value i occupies the bits `i*bits` to `(i+1)*bits - 1` of the byte string, least significant bit first, bit k
//! of the string being bit `k % 8` of byte `k / 8`. The unused bits of the last byte are zero.

use crate::RingError;

/// Bytes that `count` values of `bits` bits take, saturating at `usize::MAX`.
pub fn packed_len(count: usize, bits: u32) -> usize {
    let total = count as u128 * u128::from(bits);
    usize::try_from(total.div_ceil(8)).unwrap_or(usize::MAX)
}

/// Appends the low `bits` bits (1 to 64) of each value to `out`.
pub fn pack(values: &[u64], bits: u32, out: &mut Vec<u8>) {
    assert!((1..=64).contains(&bits), "packed values have 1 to 64 bits");
    out.reserve(packed_len(values.len(), bits));
    let mask = u64::MAX >> (64 - bits);
    let (mut pending, mut pending_bits) = (0u128, 0);
    for &value in values {
        pending |= u128::from(value & mask) << pending_bits;
        pending_bits += bits;
        let whole = pending_bits as usize / 8;
        out.extend_from_slice(&pending.to_le_bytes()[..whole]);
        pending >>= 8 * whole;
        pending_bits %= 8;
    }
    if pending_bits > 0 {
        out.push(pending as u8);
    }
}

/// Reads `out.len()` values of `bits` bits (1 to 64) from exactly the bytes they take.
///
/// # Errors
/// [`RingError::BitsOutOfRange`], [`RingError::PackedLength`], [`RingError::PackedPadding`].
pub fn unpack(bytes: &[u8], bits: u32, out: &mut [u64]) -> Result<(), RingError> {
    if !(1..=64).contains(&bits) {
        return Err(RingError::BitsOutOfRange { bits, min: 1, max: 64 });
    }
    let expected = packed_len(out.len(), bits);
    if bytes.len() != expected {
        return Err(RingError::PackedLength { count: out.len(), bits, expected, found: bytes.len() });
    }
    let mask = u64::MAX >> (64 - bits);
    let read = |word: u128, first_bit: usize| (word >> (first_bit % 8)) as u64 & mask;
    // Eight values start at whole bytes; where 16 bytes can be read at each, no length has to be looked at.
    let (eights, rest) = out.as_chunks_mut::<8>();
    let step = bits as usize;
    for (i, values) in eights.iter_mut().enumerate() {
        match bytes.get(i * step..).and_then(|bytes| bytes.get(..step + 16)) {
            Some(bytes) => unpack_eight(bytes, step, mask, values),
            None => (0..8).for_each(|k| values[k] = read(word_at(bytes, (8 * i + k) * step / 8), (8 * i + k) * step)),
        }
    }
    let done = 8 * eights.len();
    for (k, value) in rest.iter_mut().enumerate() {
        *value = read(word_at(bytes, (done + k) * step / 8), (done + k) * step);
    }
    let used = (done + rest.len()) as u128 * u128::from(bits) % 8;
    match bytes.last() {
        Some(last) if used > 0 && last >> used != 0 => Err(RingError::PackedPadding),
        _ => Ok(()),
    }
}

/// Up to 16 bytes from `start` on, missing ones zero.
fn word_at(bytes: &[u8], start: usize) -> u128 {
    let mut word = [0; 16];
    let bytes = bytes.get(start..).unwrap_or_default();
    let len = bytes.len().min(16);
    word[..len].copy_from_slice(&bytes[..len]);
    u128::from_le_bytes(word)
}

/// Eight values of `bits` bits from the start of `bytes`, of which there are at least `bits + 16`.
#[inline]
fn unpack_eight(bytes: &[u8], bits: usize, mask: u64, values: &mut [u64; 8]) {
    for (k, value) in values.iter_mut().enumerate() {
        let (start, shift) = (k * bits / 8, k * bits % 8);
        let (mut low, mut high) = ([0; 8], [0; 8]);
        low.copy_from_slice(&bytes[start..start + 8]);
        *value = u64::from_le_bytes(low) >> shift;
        if bits > 57 {
            high.copy_from_slice(&bytes[start + 8..start + 16]);
            *value |= ((u128::from(u64::from_le_bytes(high)) << 64) >> shift) as u64;
        }
        *value &= mask;
    }
}
