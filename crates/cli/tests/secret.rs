//! No bundle holds the secret key, in any of the forms in which this project could write it.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

mod common;

use common::{Owner, borrowed, protect_tabular};
use memchr::memmem;
use subrosa_fhe::Kernel;
use subrosa_program::bundle::{BUNDLE_KIND, Bundle};
use subrosa_ring::bitpack;
use subrosa_secret::SecretKey;

/// Coefficients from the middle of a form that are looked for, and bytes of each pattern.
const WINDOW: usize = 256;
const PATTERN: usize = 24;

/// Bytes from the middle of `values` packed with `bits` bits each, at every position relative to a byte.
fn packings(values: &[u64], bits: u32) -> Vec<Vec<u8>> {
    let mut packed = Vec::new();
    bitpack::pack(&values[..WINDOW], bits, &mut packed);
    let shifted = (0..8u32).map(|shift| {
        let pairs = packed.windows(2).map(|pair| (u16::from_le_bytes([pair[0], pair[1]]) >> shift) as u8);
        pairs.skip(2).take(PATTERN).collect::<Vec<u8>>()
    });
    shifted.collect()
}

fn words(values: &[u64]) -> Vec<u8> {
    values.iter().skip(2).take(PATTERN / 2).flat_map(|v| v.to_le_bytes()).collect()
}

#[test]
fn no_bundle_holds_the_secret_key_in_any_form() {
    for input in ["plain", "encrypted"] {
        let owner = Owner::new();
        let protected = owner.json(&borrowed(&protect_tabular("tabular", input)));
        owner.json(&["deploy", "tabular", "--out", "net.srb"]);
        let path = owner.path("net.srb");
        let bytes = std::fs::read(&path).unwrap();
        let parameters = Bundle::open(&path, BUNDLE_KIND).unwrap().parameters(Kernel::active().unwrap()).unwrap();
        let ring = parameters.ring();

        let vault = owner.vault();
        let name = format!("model-{}", protected["id"].as_str().unwrap());
        let packed = vault.get(&name).unwrap();
        assert!(SecretKey::from_bytes(&parameters, &packed).is_ok());
        let ternary: Vec<i64> =
            packed.iter().flat_map(|byte| [0, 2, 4, 6].map(|s| i64::from((byte >> s & 3) as i8) << 62 >> 62)).collect();
        assert_eq!(ternary.len(), parameters.n());

        let small: Vec<u64> = ternary.iter().map(|&c| c as u64).collect();
        let mut forms = packings(&small, 2);
        forms.push(ternary.iter().take(PATTERN).map(|&c| c as u8).collect());
        forms.push(words(&small));
        let coefficients = ring.from_signed(&ternary, ring.limbs());
        let mut ntt = coefficients.clone();
        ring.forward(&mut ntt);
        for poly in [&coefficients, &ntt] {
            for limb in 0..ring.limbs() {
                let bits = u64::BITS - ring.modulus(limb).value().leading_zeros();
                forms.extend(packings(poly.limb(limb), bits));
                forms.push(words(poly.limb(limb)));
            }
        }
        // The vault's own names and the signing key, too.
        forms.push(vault.get("signing").unwrap().to_vec());
        assert!(forms.len() > 40, "{}", forms.len());

        for (index, form) in forms.iter().enumerate() {
            assert!(form.len() >= PATTERN, "form {index}");
            assert!(memmem::find(&bytes, form).is_none(), "form {index} of the secret stands in the {input} bundle");
        }
        // The search finds what it looks for: the packed key, and an NTT limb packed as ciphertexts are.
        let mut limb = Vec::new();
        let first = ring.modulus(0).value();
        bitpack::pack(ntt.limb(0), u64::BITS - first.leading_zeros(), &mut limb);
        for planted in [packed.to_vec(), limb] {
            let leaking = [&bytes[..1001], &planted[..], &bytes[1001..]].concat();
            assert!(forms.iter().any(|form| memmem::find(&leaking, form).is_some()));
        }
    }
}
