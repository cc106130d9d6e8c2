//! What goes into files: packed integers and expanded seeds.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may panic")]

mod common;

use common::{moduli, rng};
use rand_core::Rng;
use subrosa_ring::{Kernel, Modulus, Ring, RingError, bitpack};

#[test]
fn packed_values_come_back_for_every_width_and_count() {
    let mut rng = rng(10);
    for bits in 1..=64 {
        for count in [0, 1, 2, 3, 7, 8, 9, 64, 101] {
            let values: Vec<u64> = (0..count).map(|_| rng.next_u64() >> (64 - bits)).collect();
            let mut bytes = vec![0xAA];
            bitpack::pack(&values, bits, &mut bytes);
            assert_eq!(bytes.len(), 1 + bitpack::packed_len(count, bits));
            assert_eq!(bytes[0], 0xAA, "pack appends");
            let mut back = vec![0; count];
            bitpack::unpack(&bytes[1..], bits, &mut back).unwrap();
            assert_eq!(back, values, "{count} values of {bits} bits");
        }
    }
}

#[test]
fn packed_layout_is_little_endian_bits() {
    let mut bytes = Vec::new();
    bitpack::pack(&[0b001, 0b010, 0b111], 3, &mut bytes);
    assert_eq!(bytes, [0b1101_0001, 0b0000_0001]);
}

#[test]
fn damaged_packed_data_are_refused() {
    let mut out = [0; 3];
    let length = |found| RingError::PackedLength { count: 3, bits: 5, expected: 2, found };
    assert_eq!(bitpack::unpack(&[0; 1], 5, &mut out), Err(length(1)));
    assert_eq!(bitpack::unpack(&[0; 3], 5, &mut out), Err(length(3)));
    assert_eq!(bitpack::unpack(&[0xFF, 0x80], 5, &mut out), Err(RingError::PackedPadding));
    assert_eq!(bitpack::unpack(&[0xFF, 0x7F], 5, &mut out), Ok(()));
    assert_eq!(out, [31; 3]);
    for bits in [0, 65] {
        assert_eq!(bitpack::unpack(&[], bits, &mut out), Err(RingError::BitsOutOfRange { bits, min: 1, max: 64 }));
    }
}

fn expansion(kernel: Kernel) -> (Ring, Vec<Vec<u64>>) {
    let mut primes: Vec<u64> = moduli(11, 50, 2).iter().map(Modulus::value).collect();
    primes.push(moduli(11, 33, 1)[0].value());
    let ring = Ring::new(11, &primes, kernel).unwrap();
    let seed: [u8; 32] = std::array::from_fn(|i| i as u8);
    let poly = ring.uniform(3, &seed, 7);
    let limbs = poly.limbs_iter().map(<[u64]>::to_vec).collect();
    (ring, limbs)
}

#[test]
fn uniform_follows_the_documented_stream() {
    for kernel in Kernel::all_available() {
        let (ring, limbs) = expansion(kernel);
        for (i, limb) in limbs.iter().enumerate() {
            let p = ring.modulus(i);
            let mut stream = chacha20_blocks(7 * 64 + i as u64);
            let width = p.bits().div_ceil(8);
            for &value in limb {
                // The next word below the prime.
                let expected = loop {
                    let word = (0..width).fold(0u64, |word, k| word | u64::from(stream.next().unwrap()) << (8 * k));
                    let word = word & ((1 << p.bits()) - 1);
                    if word < p.value() {
                        break word;
                    }
                };
                assert_eq!(value, expected, "limb {i}");
            }
        }
    }
}

#[test]
fn uniform_known_answer() {
    let (ring, limbs) = expansion(Kernel::Portable);
    assert_eq!(ring.primes(), KNOWN_PRIMES);
    let ends: Vec<[u64; 2]> = limbs.iter().map(|limb| [limb[0], limb[2047]]).collect();
    assert_eq!(ends, KNOWN_ENDS);
    // A sum that depends on every position.
    let sums: Vec<u64> = limbs
        .iter()
        .map(|limb| limb.iter().zip(1..).fold(0u64, |sum, (&x, k)| sum.wrapping_add(x.wrapping_mul(k))))
        .collect();
    assert_eq!(sums, KNOWN_SUMS);
}

const KNOWN_PRIMES: [u64; 3] = [1125899906826241, 1125899906732033, 8589905921];
const KNOWN_ENDS: [[u64; 2]; 3] =
    [[1051229664519715, 584676851949348], [629164875351975, 799343836665752], [1816282952, 1878885022]];
const KNOWN_SUMS: [u64; 3] = [474239822837058576, 1903200680793749170, 8860837036611366];

#[test]
fn uniform_differs_between_limbs_domains_and_seeds() {
    let p = moduli(11, 50, 1)[0].value();
    let q = moduli(11, 50, 2)[1].value();
    let ring = Ring::new(11, &[p, q], Kernel::Portable).unwrap();
    let poly = ring.uniform(2, &[1; 32], 0);
    assert!(poly == ring.uniform(2, &[1; 32], 0));
    assert_ne!(poly.limb(0), poly.limb(1));
    assert!(poly != ring.uniform(2, &[2; 32], 0));
    assert!(poly != ring.uniform(2, &[1; 32], 1));
    let mean = poly.limb(0).iter().map(|&x| x as f64).sum::<f64>() / 2048.0 / p as f64;
    assert!((mean - 0.5).abs() < 5.0 / (12.0f64 * 2048.0).sqrt(), "mean {mean}");
}

/// The keystream of ChaCha20 with 64-bit counter and stream number, written from its definition (Bernstein 2008).
fn chacha20_blocks(stream: u64) -> impl Iterator<Item = u8> {
    let key: [u32; 8] = std::array::from_fn(|i| u32::from_le_bytes(std::array::from_fn(|k| (4 * i + k) as u8)));
    (0u64..).flat_map(move |counter| {
        let mut initial = [0u32; 16];
        initial[..4].copy_from_slice(&[0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574]);
        initial[4..12].copy_from_slice(&key);
        initial[12..].copy_from_slice(&[counter as u32, (counter >> 32) as u32, stream as u32, (stream >> 32) as u32]);
        let mut state = initial;
        for _ in 0..10 {
            for i in 0..4 {
                quarter_round(&mut state, [i, 4 + i, 8 + i, 12 + i]);
            }
            for i in 0..4 {
                quarter_round(&mut state, [i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4]);
            }
        }
        std::array::from_fn::<u32, 16, _>(|i| state[i].wrapping_add(initial[i])).into_iter().flat_map(u32::to_le_bytes)
    })
}

fn quarter_round(state: &mut [u32; 16], [a, b, c, d]: [usize; 4]) {
    for (x, y, z, shift) in [(a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)] {
        state[x] = state[x].wrapping_add(state[y]);
        state[z] = (state[z] ^ state[x]).rotate_left(shift);
    }
}
