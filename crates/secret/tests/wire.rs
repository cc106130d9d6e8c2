//! Bytes: what was written comes back; nothing else is accepted, and nothing panics.
#![allow(clippy::unwrap_used)] // helpers of tests fail the test

mod common;

use common::{Random, Setup};
use std::collections::BTreeSet;
use subrosa_fhe::{
    Ciphertext, FheError, Galois, Kernel, KeyId, KeyShape, KeySwitchKey, ParameterSpec, Parameters, PublicKey,
    SeededCiphertext, wire,
};

/// Reads bytes of one kind and writes them again.
type Rewrite = fn(&Parameters, &[u8]) -> Result<Vec<u8>, FheError>;

/// One valid example of every kind, with the offset at which residues begin.
fn examples(s: &Setup, random: &Random) -> Vec<(Vec<u8>, usize, Rewrite)> {
    let p = &s.parameters;
    let plaintext = s.encoder.encode(&random.slots(p.slots()), 1e9, 2).unwrap();
    let seeded = s.secret.encrypt(&plaintext).unwrap();
    let c = seeded.expand(p).unwrap();
    let square = s.evaluator.square(&c).unwrap();
    let public = s.secret.public_key(3).unwrap();
    let shape = KeyShape { level: 3, specials: 2, digit: 2 };
    let key = s.secret.switch_key(KeyId::new(random.galois(p.slots()), 2), shape).unwrap();
    let bytes = [c.to_bytes(p), square.to_bytes(p), seeded.to_bytes(p), public.to_bytes(p), key.to_bytes(p)]
        .map(Result::unwrap);
    assert!(Ciphertext::from_bytes(p, &bytes[0]).unwrap() == c);
    assert!(Ciphertext::from_bytes(p, &bytes[1]).unwrap() == square);
    assert!(SeededCiphertext::from_bytes(p, &bytes[2]).unwrap() == seeded);
    assert!(PublicKey::from_bytes(p, &bytes[3]).unwrap() == public);
    assert!(KeySwitchKey::from_bytes(p, &bytes[4]).unwrap() == key);
    let lengths = [
        wire::ciphertext_len(p, 2, 1),
        wire::ciphertext_len(p, 2, 2),
        wire::seeded_len(p, 2),
        wire::public_key_len(p, 3),
        wire::switch_key_len(p, shape),
    ];
    assert_eq!(bytes.each_ref().map(Vec::len), lengths);
    let rewrites: [Rewrite; 5] = [
        |p, b| Ciphertext::from_bytes(p, b)?.to_bytes(p),
        |p, b| Ciphertext::from_bytes(p, b)?.to_bytes(p),
        |p, b| SeededCiphertext::from_bytes(p, b)?.to_bytes(p),
        |p, b| PublicKey::from_bytes(p, b)?.to_bytes(p),
        |p, b| KeySwitchKey::from_bytes(p, b)?.to_bytes(p),
    ];
    bytes.into_iter().zip([16, 16, 48, 40, 48]).zip(rewrites).map(|((b, o), r)| (b, o, r)).collect()
}

#[test]
fn every_kind_survives_its_bytes_and_damage_is_refused_or_harmless() {
    let random = Random::new("wire", 31);
    let s = Setup::insecure(4, &[41, 30, 45], &[45, 46]);
    for (bytes, header, rewrite) in examples(&s, &random) {
        assert!(rewrite(&s.parameters, &bytes).unwrap() == bytes);
        for len in 0..bytes.len() {
            assert!(rewrite(&s.parameters, &bytes[..len]).is_err(), "{len} of {} bytes accepted", bytes.len());
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(rewrite(&s.parameters, &longer).is_err());
        // A residue of all ones is above every prime.
        let mut large = bytes.clone();
        large[header..header + 6].fill(0xff);
        assert!(matches!(rewrite(&s.parameters, &large), Err(FheError::Wire { .. })));
        // Magic, version and ring degree.
        for position in 0..6 {
            let mut bad = bytes.clone();
            bad[position] ^= 1 << random.range(0, 7);
            assert!(matches!(rewrite(&s.parameters, &bad), Err(FheError::Wire { .. })));
        }
        // Anything else is refused, or is another valid object that reads as exactly these bytes.
        for _ in 0..3000 {
            let mut bad = bytes.clone();
            for _ in 0..random.range(1, 3) {
                let position =
                    if random.word() & 1 == 0 { random.range(0, header - 1) } else { random.range(0, bad.len() - 1) };
                bad[position] = random.word() as u8;
            }
            if let Ok(again) = rewrite(&s.parameters, &bad) {
                assert!(again == bad);
            }
        }
    }
}

#[test]
fn every_kind_survives_its_bytes_where_primes_are_swapped() {
    let random = Random::new("wire with swapped primes", 34);
    let q = common::distinct_primes(4, &[41, 30, 45, 20], &[]);
    let p = common::distinct_primes(4, &[45, 46], &q);
    let spec = ParameterSpec::insecure_for_tests(4, q, p).with_levels(vec![vec![3], vec![2, 3], vec![1, 0, 2]]);
    let s = Setup::new(Parameters::new(spec, Kernel::active().unwrap()).unwrap());
    for (bytes, header, rewrite) in examples(&s, &random) {
        assert!(rewrite(&s.parameters, &bytes).unwrap() == bytes);
        // Another level has other lengths, or other primes.
        let mut bad = bytes.clone();
        bad[6] = 1;
        assert!(rewrite(&s.parameters, &bad).is_err());
        let mut large = bytes.clone();
        large[header..header + 6].fill(0xff);
        assert!(matches!(rewrite(&s.parameters, &large), Err(FheError::Wire { .. })));
    }
}

#[test]
fn scales_levels_and_shapes_are_checked() {
    let random = Random::new("wire fields", 32);
    let s = Setup::insecure(4, &[41, 30, 45], &[45, 46]);
    let examples = examples(&s, &random);
    for scale in [0.0, -1.0, f64::NAN, f64::INFINITY, -0.0] {
        for (bytes, _, rewrite) in [&examples[0], &examples[2]] {
            let mut bad = bytes.clone();
            bad[8..16].copy_from_slice(&scale.to_le_bytes());
            assert!(matches!(rewrite(&s.parameters, &bad), Err(FheError::Wire { .. })), "scale {scale}");
        }
    }
    for (bytes, _, rewrite) in &examples {
        for level in [0, 4, 64, 255] {
            let mut bad = bytes.clone();
            bad[6] = level;
            assert!(rewrite(&s.parameters, &bad).is_err(), "level {level}");
        }
    }
    let (key, _, rewrite) = &examples[4];
    for (position, value) in [(7, 0), (7, 3), (8, 0), (8, 4), (9, 0), (9, 5), (10, 2), (11, 1), (12, 8), (15, 1)] {
        let mut bad = key.clone();
        bad[position] = value;
        assert!(rewrite(&s.parameters, &bad).is_err(), "byte {position} = {value}");
    }
}

#[test]
fn a_seed_is_unique_and_does_not_determine_the_error() {
    let random = Random::new("seeds", 33);
    let s = Setup::insecure(5, &[45, 45], &[50]);
    let plaintext = s.encoder.encode(&random.slots(16), 1e9, 2).unwrap();
    let mut seeds = BTreeSet::new();
    let mut errors = BTreeSet::new();
    const COUNT: usize = 300;
    for _ in 0..COUNT {
        let seeded = s.secret.encrypt(&plaintext).unwrap();
        // the phase minus the message is the error
        let mut c = seeded.expand(&s.parameters).unwrap();
        s.parameters.ring().sub_assign(&mut c.components[0], &plaintext.poly);
        let error = s.secret.decrypt_phase(&c).unwrap();
        let q = s.parameters.ciphertext_modulus(0).unwrap();
        let error: Vec<i64> = error.limb(0).iter().map(|&x| q.center(x)).collect();
        // a generator seeded with the public seed must not give it
        for stream in 0..4 {
            let mut rng = <chacha20::ChaCha20Rng as rand_core::SeedableRng>::from_seed(seeded.seed);
            rng.set_stream(stream);
            assert!(*subrosa_ring::sampler::gaussian(32, &mut rng) != error);
        }
        assert!(error.iter().all(|e| e.abs() < 45) && error.iter().any(|&e| e != 0));
        seeds.insert(seeded.seed);
        errors.insert(error);
    }
    assert_eq!((seeds.len(), errors.len()), (COUNT, COUNT));
    let shape = KeyShape { level: 2, specials: 1, digit: 1 };
    let key = || *s.secret.switch_key(KeyId::new(Galois::rotation(1), 1), shape).unwrap().seed();
    assert_ne!(key(), key());
}
