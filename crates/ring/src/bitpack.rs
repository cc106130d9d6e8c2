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
    let (mut pending, mut pending_bits) = (0u128, 0);
    let mut rest = bytes;
    for value in out {
        let wanted = (bits.saturating_sub(pending_bits)).div_ceil(8) as usize;
        // The length check above guarantees that the bytes are there.
        let (taken, remaining) = rest.split_at(wanted.min(rest.len()));
        rest = remaining;
        let mut padded = [0u8; 16];
        padded[..taken.len()].copy_from_slice(taken);
        pending |= u128::from_le_bytes(padded) << pending_bits;
        pending_bits += 8 * wanted as u32;
        *value = pending as u64 & mask;
        pending >>= bits;
        pending_bits -= bits;
    }
    if pending != 0 {
        return Err(RingError::PackedPadding);
    }
    Ok(())
}
