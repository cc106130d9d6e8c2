//! Every kernel gives the portable kernel's results, bit for bit, on random residues of many sizes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may panic")]

mod common;

use chacha20::ChaCha20Rng;
use common::{below, moduli, residues, rng};
use rand_core::Rng;
use subrosa_ring::{
    AlignedVec, BaseConverter, Galois, Kernel, ModDown, Modulus, NttTable, Ring, RnsPoly, TurnedProduct, WeightStream,
    primes,
};

/// Prime sizes on both sides of every bound in the kernels.
const BITS: [u32; 12] = [17, 18, 20, 28, 30, 32, 40, 46, 47, 48, 49, 50];

/// Tables of the same prime for the portable kernel and for each kernel of this machine.
fn tables(log_n: u32, p: &Modulus) -> (NttTable, Vec<NttTable>) {
    let table = |kernel| NttTable::new(log_n, *p, kernel).unwrap();
    (table(Kernel::Portable), Kernel::all_available().into_iter().map(table).collect())
}

fn assert_canonical(values: &[u64], p: &Modulus) {
    assert!(values.iter().all(|&x| x < p.value()));
}

#[test]
fn transforms() {
    let mut rng = rng(20);
    for log_n in 3..=17 {
        // Sizes that have a prime for this degree; the smallest are 65537 up to N = 2^15.
        for p in BITS.into_iter().filter_map(|bits| primes::find(log_n, bits, 1, &[]).ok()).flatten() {
            let p = Modulus::new(p).unwrap();
            let (portable, others) = tables(log_n, &p);
            let n = portable.n();
            let extremes = [vec![p.value() - 1; n], vec![0; n]];
            for a in [residues(n, &p, &mut rng)].into_iter().chain(extremes) {
                let (mut forward, mut inverse) = (a.clone(), a.clone());
                portable.forward(&mut forward);
                portable.inverse(&mut inverse);
                assert_canonical(&forward, &p);
                assert_canonical(&inverse, &p);
                for table in &others {
                    // An unaligned place in a larger buffer, whose neighbours must stay.
                    let mut buffer = AlignedVec::zeroed(n + 4);
                    buffer.fill(7);
                    buffer[3..n + 3].copy_from_slice(&a);
                    table.forward(&mut buffer[3..n + 3]);
                    assert!(buffer[3..n + 3] == forward, "forward, N = 2^{log_n}, p = {}", p.value());
                    buffer[3..n + 3].copy_from_slice(&a);
                    table.inverse(&mut buffer[3..n + 3]);
                    assert!(buffer[3..n + 3] == inverse, "inverse, N = 2^{log_n}, p = {}", p.value());
                    buffer[3..n + 3].fill(5);
                    table.inverse_into(&a, &mut buffer[3..n + 3]);
                    assert!(buffer[3..n + 3] == inverse, "inverse from a source, N = 2^{log_n}, p = {}", p.value());
                    assert_eq!((buffer[2], buffer[n + 3]), (7, 7));
                }
            }
        }
    }
}

/// Runs one operation on slices of many lengths and starts, with the portable table and the others.
fn check(
    name: &str,
    rng: &mut ChaCha20Rng,
    inputs: impl Fn(&Modulus, usize, &mut ChaCha20Rng) -> [Vec<u64>; 3],
    operation: impl Fn(&NttTable, &mut [u64], &[u64], &[u64]),
) {
    for bits in BITS {
        let p = moduli(6, bits, 1)[0];
        let (portable, others) = tables(6, &p);
        for len in (0..40).chain([64, 100, 255, 1000]) {
            let [out, a, b] = inputs(&p, len, rng);
            let start = below(8, rng).min(len);
            let mut expected = out.clone();
            operation(&portable, &mut expected[start..], &a[start..], &b[start..]);
            assert_canonical(&expected[start..], &p);
            for table in &others {
                let mut found = out.clone();
                operation(table, &mut found[start..], &a[start..], &b[start..]);
                assert_eq!(found, expected, "{name}, {}, p = {}, length {len}", table.kernel(), p.value());
            }
        }
    }
}

fn residue_inputs(p: &Modulus, len: usize, rng: &mut ChaCha20Rng) -> [Vec<u64>; 3] {
    [(); 3].map(|()| residues(len, p, rng))
}

#[test]
fn elementwise_operations() {
    let mut rng = rng(21);
    let scalar = |b: &[u64]| b.first().copied().unwrap_or(0);
    check("add", &mut rng, residue_inputs, |t, out, a, _| t.add_assign(out, a));
    check("sub", &mut rng, residue_inputs, |t, out, a, _| t.sub_assign(out, a));
    check("neg", &mut rng, residue_inputs, |t, out, _, _| t.neg_assign(out));
    check("mul", &mut rng, residue_inputs, |t, out, a, _| t.mul_assign(out, a));
    check("mul_add", &mut rng, residue_inputs, |t, out, a, b| t.mul_add_assign(out, a, b));
    check("mul_scalar_assign", &mut rng, residue_inputs, |t, out, _, b| t.mul_scalar_assign(out, scalar(b)));
    check("mul_scalar", &mut rng, residue_inputs, |t, out, a, b| t.mul_scalar(out, a, scalar(b)));
    check("mul_scalar_add", &mut rng, residue_inputs, |t, out, a, b| t.mul_scalar_add_assign(out, a, scalar(b)));
}

#[test]
fn elementwise_operations_agree_with_the_modulus() {
    let mut rng = rng(22);
    for bits in BITS {
        let p = moduli(6, bits, 1)[0];
        for table in tables(6, &p).1 {
            let [acc, a, b] = residue_inputs(&p, 77, &mut rng);
            let run = |operation: &dyn Fn(&mut [u64])| {
                let mut out = acc.clone();
                operation(&mut out);
                out
            };
            let expect = |f: &dyn Fn(u64, u64, u64) -> u64| -> Vec<u64> {
                acc.iter().zip(&a).zip(&b).map(|((&acc, &a), &b)| f(acc, a, b)).collect()
            };
            let s = b[0];
            assert_eq!(run(&|x| table.add_assign(x, &a)), expect(&|x, a, _| p.add(x, a)));
            assert_eq!(run(&|x| table.sub_assign(x, &a)), expect(&|x, a, _| p.sub(x, a)));
            assert_eq!(run(&|x| table.neg_assign(x)), expect(&|x, _, _| p.neg(x)));
            assert_eq!(run(&|x| table.mul_assign(x, &a)), expect(&|x, a, _| p.mul(x, a)));
            assert_eq!(run(&|x| table.mul_add_assign(x, &a, &b)), expect(&|x, a, b| p.add(x, p.mul(a, b))));
            assert_eq!(run(&|x| table.mul_scalar_assign(x, s)), expect(&|x, _, _| p.mul(x, s)));
            assert_eq!(run(&|x| table.mul_scalar(x, &a, s)), expect(&|_, a, _| p.mul(a, s)));
            assert_eq!(run(&|x| table.mul_scalar_add_assign(x, &a, s)), expect(&|x, a, _| p.add(x, p.mul(a, s))));
            assert_eq!(run(&|x| table.dot(x, &[(&a, &b), (&b, &b)])), expect(&|_, a, b| p.mul(p.add(a, b), b)));
        }
    }
}

#[test]
fn changes_of_modulus() {
    let mut rng = rng(23);
    let signed = |_: &Modulus, len: usize, rng: &mut ChaCha20Rng| {
        [(); 3].map(|()| (0..len).map(|i| [rng.next_u64(), 0, u64::MAX, 1 << 63][(i % 8).min(3)]).collect())
    };
    check("from_signed", &mut rng, signed, |t, out, a, _| {
        t.from_signed(out, &a.iter().map(|&x| x as i64).collect::<Vec<_>>())
    });
    for from_bits in BITS {
        let from = moduli(7, from_bits, 1)[0];
        let of_other = |_: &Modulus, len: usize, rng: &mut ChaCha20Rng| residue_inputs(&from, len, rng);
        check("lift_centered", &mut rng, of_other, |t, out, a, _| t.lift_centered(out, a, &from));
    }
}

#[test]
fn dot_products_of_any_shape() {
    let mut rng = rng(24);
    for bits in [17, 20, 28, 47, 50] {
        let p = moduli(6, bits, 1)[0];
        let (portable, others) = tables(6, &p);
        for count in [0, 1, 2, 5, 15, 16, 17, 18, 100, 1024] {
            for len in [0, 1, 7, 8, 9, 31, 32, 33, 45, 64] {
                // Random residues, then the largest, at unaligned and unequal starts.
                let random = residues((len + 8) * 8, &p, &mut rng);
                let largest = vec![p.value() - 1; random.len()];
                for pool in [&random, &largest] {
                    let mut slice = || {
                        let start = below(pool.len() - len, &mut rng);
                        &pool[start..start + len]
                    };
                    let pairs: Vec<(&[u64], &[u64])> = (0..count).map(|_| (slice(), slice())).collect();
                    let acc = slice().to_vec();
                    let (mut expected, mut expected_sum) = (acc.clone(), acc.clone());
                    portable.dot(&mut expected, &pairs);
                    portable.dot_add_assign(&mut expected_sum, &pairs);
                    for (i, &sum) in expected.iter().enumerate() {
                        let exact: u128 = pairs.iter().map(|(x, y)| u128::from(x[i]) * u128::from(y[i])).sum();
                        assert_eq!(u128::from(sum), exact % u128::from(p.value()));
                        assert_eq!(expected_sum[i], p.add(sum, acc[i]));
                    }
                    for table in &others {
                        let (mut found, mut found_sum) = (acc.clone(), acc.clone());
                        table.dot(&mut found, &pairs);
                        table.dot_add_assign(&mut found_sum, &pairs);
                        assert_eq!(found, expected, "{count} pairs of length {len}, {bits} bits");
                        assert_eq!(found_sum, expected_sum, "{count} pairs of length {len}, {bits} bits");
                    }
                }
            }
        }
    }
}

#[test]
fn base_conversion() {
    let mut rng = rng(25);
    for (count, bits) in [(1, 50), (1, 17), (2, 17), (2, 20), (7, 28), (3, 45), (14, 50), (15, 50), (16, 50), (40, 50)]
    {
        let from = moduli(6, bits, count);
        let mut to: Vec<Modulus> = BITS.iter().map(|&bits| moduli(8, bits, 1)[0]).collect();
        to.push(from[0]);
        let converter = BaseConverter::new(&from, &to).unwrap();
        for len in [1, 8, 13, 64, 1000, 1024] {
            for largest in [false, true] {
                let columns: Vec<Vec<u64>> = from
                    .iter()
                    .map(|p| if largest { vec![p.value() - 1; len] } else { residues(len, p, &mut rng) })
                    .collect();
                let src: Vec<&[u64]> = columns.iter().map(Vec::as_slice).collect();
                let run = |kernel| {
                    let mut out = vec![vec![u64::MAX; len]; to.len()];
                    converter.convert(&src, &mut out.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>(), kernel);
                    out
                };
                let expected = run(Kernel::Portable);
                for (out, p) in expected.iter().zip(&to) {
                    assert_canonical(out, p);
                }
                for kernel in Kernel::all_available() {
                    assert!(run(kernel) == expected, "{count} primes of {bits} bits, length {len}, kernel {kernel}");
                }
            }
        }
    }
}

#[test]
fn division_by_dropped_primes_and_whole_polynomials() {
    let mut rng = rng(26);
    for log_n in [3, 6, 7, 8, 10, 13] {
        let mut primes: Vec<u64> = Vec::new();
        for bits in [50, 40, 17, 46, 50, 28] {
            primes.extend(primes::find(log_n, bits, 1, &primes).unwrap());
        }
        let rings: Vec<Ring> =
            Kernel::all_available().into_iter().map(|kernel| Ring::new(log_n, &primes, kernel).unwrap()).collect();
        let portable = Ring::new(log_n, &primes, Kernel::Portable).unwrap();
        let mut random = || {
            let mut poly = RnsPoly::zero(portable.n(), primes.len());
            for (i, limb) in poly.limbs_iter_mut().enumerate() {
                limb.copy_from_slice(&residues(limb.len(), portable.modulus(i), &mut rng));
            }
            poly
        };
        let (x, y) = (random(), random());
        let run = |ring: &Ring| {
            let mut product = x.clone();
            ring.mul_assign(&mut product, &y);
            ring.mul_add_assign(&mut product, &x, &x);
            ring.mul_scalars_assign(&mut product, &[3, 5, 7, 11, 13, 17]);
            ring.inverse(&mut product);
            let divided = ModDown::new(ring, &[4, 5, 1], &[0, 3, 2]).unwrap().apply(&product);
            let rescaled = ModDown::new(ring, &[5], &[0, 1, 2, 3, 4]).unwrap().apply(&product);
            // The ring's last primes as those of a polynomial, its first as those to be added.
            let (source, target) = (ring.select(&[5, 2, 3, 4]), ring.select(&[3, 0, 5, 1]));
            let mut part = RnsPoly::zero(ring.n(), 4);
            for (limb, i) in part.limbs_iter_mut().zip([5, 2, 3, 4]) {
                limb.copy_from_slice(product.limb(i));
            }
            let swapped = ModDown::with_added(&source, &[3, 1], &target).unwrap().apply(&part);
            let swapped_one = ModDown::with_added(&source, &[3], &target).unwrap().apply(&part);
            (product, divided, rescaled, swapped, swapped_one)
        };
        let expected = run(&portable);
        for ring in &rings {
            assert!(run(ring) == expected, "N = 2^{log_n}, kernel {}", ring.kernel());
        }
    }
}

/// All products of `groups * terms` random weights with random inputs, from the stream and by polynomials.
#[test]
fn streamed_products_of_any_shape() {
    let mut rng = rng(27);
    // Every number of bytes to a residue; sums that are narrow, wide, and too long for one reduction at the end.
    let cases: [(u32, &[u32], usize, &[usize]); 10] = [
        (3, &[12, 20, 7], 1, &[4, 1]),
        (4, &[50], 2, &[8]),
        (5, &[8, 16, 24, 32, 40, 48, 50], 1, &[16, 3, 2]),
        (6, &[50, 22, 43], 4, &[5]),
        (5, &[47, 50], 1, &[16; 600]),
        (12, &[50], 1, &[2048, 60]),
        (5, &[48, 50], 2, &[16; 68]),
        (13, &[43, 22], 3, &[16, 2]),
        (9, &[17, 28, 32, 50], 3, &[16, 3]),
        (5, &[28, 29, 24], 1, &[16; 60]),
    ];
    for (log_n, bits, groups, counts) in cases {
        let mut primes: Vec<u64> = Vec::new();
        for &bits in bits {
            primes.extend(primes::find(log_n, bits.max(log_n + 3), 1, &primes).unwrap());
        }
        let portable = Ring::new(log_n, &primes, Kernel::Portable).unwrap();
        let (n, terms) = (portable.n(), counts.iter().sum::<usize>());
        for largest in [false, true] {
            let mut random = || {
                let mut poly = RnsPoly::zero(n, primes.len());
                for (i, limb) in poly.limbs_iter_mut().enumerate() {
                    let p = portable.modulus(i);
                    limb.copy_from_slice(&if largest { vec![p.value() - 1; n] } else { residues(n, p, &mut rng) });
                }
                poly
            };
            let weights: Vec<[RnsPoly; 2]> = (0..groups * terms).map(|_| [random(), random()]).collect();
            let plain: Vec<(RnsPoly, usize)> = counts.iter().map(|&count| (random(), count)).collect();
            let inputs: Vec<[RnsPoly; 2]> = (0..terms).map(|_| [random(), random()]).collect();
            // The products by their definition.
            let zero = || RnsPoly::zero(n, primes.len());
            let mut expected_plain = [zero(), zero()];
            let shifts = plain.iter().flat_map(|(x, count)| (0..*count).map(move |t| (x, t)));
            for (w, (x, t)) in weights.iter().zip(shifts) {
                let x = portable.automorphism(x, Galois::rotation(t as u32));
                expected_plain.iter_mut().zip(w).for_each(|(sum, w)| portable.mul_add_assign(sum, w, &x));
            }
            // All four products of the components, of inputs from one on.
            let mut later: Vec<(usize, Vec<RnsPoly>)> = Vec::new();
            for first in (0..5).map(|set| if set == 4 { terms } else { set * 7 % terms }) {
                let mut expected: Vec<RnsPoly> = (0..4 * groups).map(|_| zero()).collect();
                for (g, weights) in weights.chunks(terms).enumerate() {
                    for (w, x) in weights.iter().zip(&inputs).skip(first) {
                        for (i, j) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                            portable.mul_add_assign(&mut expected[4 * g + 2 * i + j], &w[i], &x[j]);
                        }
                    }
                }
                later.push((first, expected));
            }
            let products = |first: usize| later.iter().find(|(f, _)| *f == first).map(|(_, sums)| &sums[..]).unwrap();
            let ciphertexts = |first: usize| -> Vec<RnsPoly> {
                let merge = |four: &[RnsPoly]| {
                    let mut middle = four[1].clone();
                    portable.add_assign(&mut middle, &four[2]);
                    [four[0].clone(), middle, four[3].clone()]
                };
                products(first).chunks(4).flat_map(merge).collect()
            };
            for kernel in Kernel::all_available() {
                let ring = Ring::new(log_n, &primes, kernel).unwrap();
                let weights: Vec<[&RnsPoly; 2]> = weights.iter().map(|w| w.each_ref()).collect();
                let name = format!("N = 2^{log_n}, primes of {bits:?} bits, {groups} x {terms}, kernel {kernel}");
                for threads in [1, 3] {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    let mut stream = WeightStream::zeroed(&ring, primes.len(), groups, terms);
                    let batch = weights.len().div_ceil(3);
                    for (i, part) in weights.chunks(batch).enumerate() {
                        pool.install(|| stream.write(batch * i, part));
                    }
                    if groups == 1 {
                        let inputs: Vec<(&RnsPoly, usize)> = plain.iter().map(|(x, count)| (x, *count)).collect();
                        // Results replace what was there.
                        let mut found = plain.first().map(|(x, _)| [x.clone(), x.clone()]).unwrap();
                        pool.install(|| stream.product_plain(&inputs, found.each_mut()));
                        assert!(found == expected_plain, "plain, {name}");
                    }
                    let inputs: Vec<[&RnsPoly; 2]> = inputs.iter().map(|x| x.each_ref()).collect();
                    let mut found: Vec<RnsPoly> = (0..3 * groups).map(|_| inputs[0][0].clone()).collect();
                    pool.install(|| stream.product_cipher(&inputs, &mut found.iter_mut().collect::<Vec<_>>()));
                    assert!(found == ciphertexts(0), "cipher, {name}");
                    // Several sets, which are those inputs from some term on and zero before; the last has none.
                    for sets in 1..=if terms > 500 { 2 } else { 5 } {
                        let first = |set: usize| if set == 4 { terms } else { set * 7 % terms };
                        let shared: Vec<Vec<Option<[&RnsPoly; 2]>>> = (0..sets)
                            .map(|set| (0..terms).map(|t| (t >= first(set)).then_some(inputs[t])).collect())
                            .collect();
                        let mut found: Vec<RnsPoly> = (0..3 * groups * sets).map(|_| inputs[0][0].clone()).collect();
                        pool.install(|| {
                            stream.product_cipher_shared(&shared, &mut found.iter_mut().collect::<Vec<_>>());
                        });
                        for (set, found) in found.chunks(3 * groups).enumerate() {
                            assert!(found == ciphertexts(first(set)), "set {set} of {sets}, {name}");
                        }
                        let mut found: Vec<RnsPoly> = (0..4 * groups * sets).map(|_| inputs[0][0].clone()).collect();
                        pool.install(|| {
                            stream.product_paired_plain(&shared, &mut found.iter_mut().collect::<Vec<_>>());
                        });
                        for (set, found) in found.chunks(4 * groups).enumerate() {
                            assert!(found == products(first(set)), "plain pairs, set {set} of {sets}, {name}");
                        }
                    }
                }
            }
        }
    }
}

/// Sums of products with automorphisms, of streams that have more limbs and terms than are used.
#[test]
fn turned_products_of_any_shape() {
    let mut rng = rng(28);
    // Bits of the kept limbs, of limbs that only the streams have, and of the last limbs; terms used of each stream.
    type Case<'a> = (u32, [&'a [u32]; 3], &'a [usize]);
    let cases: [Case<'_>; 6] = [
        (3, [&[12], &[20], &[14]], &[2]),
        (5, [&[40, 40], &[], &[44, 44]], &[1, 2, 1]),
        (6, [&[20, 30, 48], &[31], &[50]], &[3, 1]),
        (8, [&[50], &[49, 47], &[46, 50]], &[3; 20]),
        (7, [&[50, 50], &[], &[]], &[8; 60]),
        (13, [&[40, 32], &[40], &[45]], &[2, 1]),
    ];
    for (log_n, [kept, between, last], used) in cases {
        let mut primes: Vec<u64> = Vec::new();
        for &bits in kept.iter().chain(between).chain(last) {
            primes.extend(primes::find(log_n, bits, 1, &primes).unwrap());
        }
        let whole = Ring::new(log_n, &primes, Kernel::Portable).unwrap();
        let common: Vec<usize> = (0..kept.len()).chain(kept.len() + between.len()..primes.len()).collect();
        let ring = whole.select(&common);
        let n = whole.n();
        for largest in [false, true] {
            let mut random = |ring: &Ring| {
                let mut poly = RnsPoly::zero(n, ring.limbs());
                for (i, limb) in poly.limbs_iter_mut().enumerate() {
                    let p = ring.modulus(i);
                    limb.copy_from_slice(&if largest { vec![p.value() - 1; n] } else { residues(n, p, &mut rng) });
                }
                poly
            };
            let weights: Vec<Vec<[RnsPoly; 2]>> =
                used.iter().map(|terms| (0..terms + 1).map(|_| [random(&whole), random(&whole)]).collect()).collect();
            let inputs: Vec<Vec<RnsPoly>> =
                used.iter().map(|terms| (0..*terms).map(|_| random(&ring)).collect()).collect();
            let start = [random(&ring), random(&ring)];
            let mut any = common::rng(29);
            let elements: Vec<Galois> = used
                .iter()
                .map(|_| Galois { rotation: below(n / 2, &mut any) as u32, conjugate: below(2, &mut any) == 1 })
                .collect();
            // By definition.
            let mut expected = start.clone();
            for ((weights, inputs), &g) in weights.iter().zip(&inputs).zip(&elements) {
                for (w, x) in weights.iter().zip(inputs) {
                    for (sum, w) in expected.iter_mut().zip(w) {
                        let mut part = RnsPoly::zero(n, common.len());
                        for (i, &limb) in common.iter().enumerate() {
                            part.limb_mut(i).copy_from_slice(w.limb(limb));
                        }
                        ring.mul_add_assign(sum, &part, &ring.automorphism(x, g));
                    }
                }
            }
            for kernel in Kernel::all_available() {
                let whole = Ring::new(log_n, &primes, kernel).unwrap();
                let ring = whole.select(&common);
                // Of each stream one group is used; the other holds the same weights in another order.
                let streams: Vec<WeightStream> = weights
                    .iter()
                    .enumerate()
                    .map(|(i, weights)| {
                        let mut stream = WeightStream::zeroed(&whole, primes.len(), 2, weights.len());
                        let mut weights: Vec<[&RnsPoly; 2]> = weights.iter().map(|w| w.each_ref()).collect();
                        stream.write(i % 2 * weights.len(), &weights);
                        weights.reverse();
                        stream.write((1 - i % 2) * weights.len(), &weights);
                        stream
                    })
                    .collect();
                let inputs: Vec<Vec<Vec<&[u64]>>> =
                    inputs.iter().map(|x| x.iter().map(|x| x.limbs_iter().collect()).collect()).collect();
                let products: Vec<TurnedProduct<'_>> = streams
                    .iter()
                    .zip(&inputs)
                    .zip(&elements)
                    .enumerate()
                    .map(|(i, ((weights, inputs), &galois))| TurnedProduct { weights, group: i % 2, inputs, galois })
                    .collect();
                let mut found = start.clone();
                for limb in 0..ring.limbs() {
                    // The sum of all but the first, in place of what was there; then the first; then what was there.
                    for (initial, products) in [([0; 2], &products[1..]), ([1; 2], &products[..1])] {
                        let out = found.each_mut().map(|poly| poly.limb_mut(limb));
                        WeightStream::sum_turned_products(&ring, limb, products, initial, out);
                    }
                }
                for (found, start) in found.iter_mut().zip(&start) {
                    ring.add_assign(found, start);
                }
                // All in one sum, with the largest residue as factor, -1, of one part and none of the other.
                let mut at_once = start.clone();
                for limb in 0..ring.limbs() {
                    let out = at_once.each_mut().map(|poly| poly.limb_mut(limb));
                    let initial = [ring.modulus(limb).value() - 1, 0];
                    WeightStream::sum_turned_products(&ring, limb, &products, initial, out);
                }
                ring.add_assign(&mut at_once[0], &start[0]);
                ring.add_assign(&mut at_once[0], &start[0]);
                ring.add_assign(&mut at_once[1], &start[1]);
                assert!(at_once == expected, "with a factor: N = 2^{log_n}, {used:?}, {kernel}");
                assert!(found == expected, "N = 2^{log_n}, {kept:?} {between:?} {last:?}, {used:?}, {kernel}");
            }
        }
    }
}

#[test]
fn kernels_are_chosen_by_name() {
    for kernel in Kernel::all_available() {
        assert_eq!(kernel.to_string().parse(), Ok(kernel));
    }
    assert_eq!(Kernel::all_available().last(), Some(&Kernel::Portable));
    assert!("neon".parse::<Kernel>().is_err());
}
