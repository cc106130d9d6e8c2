//! The security table is enforced for ciphertexts and keys, however they come about.
#![allow(clippy::unwrap_used)] // helpers of tests fail the test

mod common;

use common::{Setup, distinct_primes};
use subrosa_fhe::security::max_log_qp;
use subrosa_fhe::{FheError, Galois, Kernel, KeyId, KeyShape, KeySwitchKey, ParameterSpec, Parameters, SecurityLevel};
use subrosa_secret::SecretKey;

/// Sizes of primes that sum up to `bits`, each at least `bits / count` rounded down.
fn sizes(bits: u32, count: u32) -> Vec<u32> {
    (0..count).map(|i| bits / count + u32::from(i < bits % count)).collect()
}

fn parameters(log_n: u32, security: SecurityLevel, q: &[u32], p: &[u32]) -> Result<Parameters, FheError> {
    let q = distinct_primes(log_n, q, &[]);
    let p = distinct_primes(log_n, p, &q);
    Parameters::new(ParameterSpec::new(log_n, q, p, security), Kernel::active().unwrap())
}

#[test]
fn one_bit_above_the_table_is_refused_for_ciphertexts_and_keys() {
    for log_n in 11..=14 {
        for security in SecurityLevel::ALL {
            let bound = max_log_qp(log_n, security).unwrap() as u32;
            let count = bound.div_ceil(40).max(1);
            // the largest primes below 2^b: their product is just below the sum of the sizes
            let fits = parameters(log_n, security, &sizes(bound, count), &[]).unwrap();
            assert!(bound as f64 - fits.log_q(fits.levels()) < 0.1);
            let above = parameters(log_n, security, &sizes(bound + 1, count), &[]);
            assert!(matches!(above, Err(FheError::Insecure { .. })), "2^{log_n} {security}");
        }
    }
    let shape = KeyShape { level: 3, specials: 1, digit: 1 };
    let id = KeyId::new(Galois::rotation(1), 1);
    // 13: 214 bits
    let fits = parameters(13, SecurityLevel::Bits128, &[42, 43, 43, 43], &[43]).unwrap();
    let highest = KeyShape { level: 4, ..shape };
    assert!(fits.check_key(highest).is_ok());
    let key = SecretKey::generate(&fits).unwrap().switch_key(id, highest).unwrap();
    let above = parameters(13, SecurityLevel::Bits128, &[43, 43, 43, 43], &[43]).unwrap();
    let secret = SecretKey::generate(&above).unwrap();
    assert!(matches!(secret.switch_key(id, highest), Err(FheError::Insecure { .. })));
    assert!(secret.switch_key(id, shape).is_ok());
    // neither from bytes
    let bytes = key.to_bytes(&fits).unwrap();
    assert!(matches!(KeySwitchKey::from_bytes(&above, &bytes), Err(FheError::Insecure { .. })));
}

#[test]
fn insecure_parameters_cannot_leave_or_enter_the_process() {
    let insecure = ParameterSpec::insecure_for_tests(4, distinct_primes(4, &[40], &[]), vec![]);
    assert!(serde_json::to_string(&insecure).is_err());
    let q = distinct_primes(11, &[50], &[]);
    let json = |security: &str, log_n: u32| {
        format!(r#"{{"log_n":{log_n},"ciphertext_primes":{q:?},"special_primes":[]{security}}}"#)
    };
    for refused in ["", r#","security":null"#, r#","security":0"#, r#","security":127"#, r#","security":"none""#] {
        assert!(serde_json::from_str::<ParameterSpec>(&json(refused, 11)).is_err(), "{refused}");
    }
    let kernel = Kernel::active().unwrap();
    let secure: ParameterSpec = serde_json::from_str(&json(r#","security":128"#, 11)).unwrap();
    assert_eq!(serde_json::from_str::<ParameterSpec>(&serde_json::to_string(&secure).unwrap()).unwrap(), secure);
    assert!(Parameters::new(secure, kernel).is_ok());
    let weak: ParameterSpec = serde_json::from_str(&json(r#","security":192"#, 11)).unwrap();
    assert!(matches!(Parameters::new(weak, kernel), Err(FheError::Insecure { .. })));
    let small: ParameterSpec = serde_json::from_str(&json(r#","security":128"#, 10)).unwrap();
    assert!(Parameters::new(small, kernel).is_err());
    let large = ParameterSpec::insecure_for_tests(12, distinct_primes(12, &[40], &[]), vec![]);
    assert!(Parameters::new(large, kernel).is_err());
}

#[test]
fn each_level_of_swapped_primes_is_within_the_table_by_itself() {
    let kernel = Kernel::active().unwrap();
    // 2^13: 214 bits. The pool as a whole has more; no level may.
    let q = distinct_primes(13, &[50, 50, 50, 44, 30, 50, 50], &[]);
    let p = distinct_primes(13, &[46], &q);
    let with = |levels: &[&[usize]]| {
        let spec = ParameterSpec::new(13, q.clone(), p.clone(), SecurityLevel::Bits128);
        Parameters::new(spec.with_levels(levels.iter().map(|level| level.to_vec()).collect()), kernel)
    };
    let fits = with(&[&[0], &[0, 4], &[0, 1, 4], &[0, 1, 2, 3]]).unwrap();
    assert_eq!((fits.levels(), fits.pool()), (4, 7));
    assert!(matches!(with(&[&[0], &[0, 1, 2, 5, 4]]), Err(FheError::Insecure { .. })));
    let key = |level| KeyShape { level, specials: 1, digit: 1 };
    assert!(fits.check_key(key(3)).is_ok());
    assert!(matches!(fits.check_key(key(4)), Err(FheError::Insecure { .. })));
    assert!((fits.log_qp(key(3)) - 176.0).abs() < 0.1);
    // What a file could ask for.
    let refused: [&[&[usize]]; 9] = [
        &[],
        &[&[]],
        &[&[0], &[]],
        &[&[7]],
        &[&[0, 0]],
        &[&[0], &[0]],
        &[&[0, 1], &[0, 4]],
        &[&[0, 1], &[0, 1, 2], &[5, 6]],
        &[&[usize::MAX]],
    ];
    for levels in refused {
        assert!(matches!(with(levels), Err(FheError::Parameters { .. })), "{levels:?}");
    }
    assert!(with(&vec![&[0usize][..]; 300]).is_err());
    // It travels as JSON; without levels nothing is written, so that files of chains stay as they were.
    let json = serde_json::to_string(fits.spec()).unwrap();
    assert!(json.contains(r#""levels":[[0],[0,4],[0,1,4],[0,1,2,3]]"#));
    assert_eq!(serde_json::from_str::<ParameterSpec>(&json).unwrap(), *fits.spec());
    let chain = ParameterSpec::new(13, q[..4].to_vec(), p.clone(), SecurityLevel::Bits128);
    assert!(!serde_json::to_string(&chain).unwrap().contains("levels"));
    // The same chain, said in full: the same bits.
    let full = chain.clone().with_levels((1..=4).map(|level| (0..level).collect()).collect());
    let [chain, full] = [chain, full].map(|spec| Parameters::new(spec, kernel).unwrap());
    for level in 1..=4 {
        assert_eq!(chain.level_limbs(level), full.level_limbs(level));
        assert_eq!(chain.log_q(level), full.log_q(level));
        assert_eq!(chain.rescale_factor(level).ok(), full.rescale_factor(level).ok());
    }
    assert_eq!(chain.rescale_factor(4).unwrap(), q[3] as f64);
}

#[test]
fn specifications_that_make_no_ring_are_refused() {
    let kernel = Kernel::active().unwrap();
    let q = distinct_primes(5, &[40, 41], &[]);
    let refused =
        |q: Vec<u64>, p: Vec<u64>| Parameters::new(ParameterSpec::insecure_for_tests(5, q, p), kernel).is_err();
    assert!(refused(vec![], q.clone()));
    assert!(refused(vec![q[0], q[0]], vec![]));
    assert!(refused(q.clone(), vec![q[1]]));
    assert!(refused(vec![q[0] + 2], vec![]));
    assert!(refused(vec![(1 << 40) + 1], vec![]));
    let s = Setup::insecure(5, &[40, 41, 42], &[40, 43]);
    let check = |level, specials, digit| s.parameters.check_key(KeyShape { level, specials, digit });
    assert!(check(3, 2, 2).is_ok());
    // A digit 41 bits larger than the special prime, and one 83 bits larger.
    assert!(check(3, 1, 2).is_ok());
    for (level, specials, digit) in [(0, 1, 1), (4, 1, 1), (3, 0, 1), (3, 3, 1), (3, 1, 0), (3, 1, 4), (3, 1, 3)] {
        assert!(check(level, specials, digit).is_err(), "{level} {specials} {digit}");
    }
}
