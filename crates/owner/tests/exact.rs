//! Exact integers through all agents: every logit is the integer network's, and the integer network answers like the float one.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers outside #[test] functions fail tests too

mod common;

use common::{Fixture, Home, digits, fixture};
use subrosa_edge_agent::{Options, Processor};
use subrosa_fhe::{Ciphertext, RnsPoly, Scheme, SecurityLevel};
use subrosa_network::Scope;
use subrosa_owner::release::ReleaseAgent;
use subrosa_owner::{Comparison, OwnerError, ProtectReport, ProtectRequest, Silent, VerifyRequest};

fn request<'a>(f: &'a Fixture, scope: &Scope, encrypted_input: bool, security: SecurityLevel) -> ProtectRequest<'a> {
    ProtectRequest {
        scope: scope.clone(),
        encrypted_input,
        preprocess: (!f.preprocess.is_empty()).then(|| f.preprocess.parse().unwrap()),
        calibrate: Some(&f.data),
        security,
        scheme: Scheme::Bgv,
        ..ProtectRequest::new(&f.onnx, "exact")
    }
}

/// Protects, verifies and checks what holds for every exact network.
fn exact(home: &Home, f: &Fixture, what: &str, request: &ProtectRequest) -> (ProtectReport, Comparison) {
    let report = home.owner.protect(request, &home.vault, &Silent).unwrap_or_else(|e| panic!("{what}: {e}"));
    let agent = ReleaseAgent::load(&home.owner, &report.id, &home.vault).unwrap();
    assert_eq!(agent.warning(), None, "{what}: they have checks of their own");
    let verify = VerifyRequest { id: &report.id, data: &f.data, threads: 1 };
    let found = home.owner.verify(&verify, &home.vault, &home.identity, &Silent).unwrap();
    let budget = found.noise_budget_bits.unwrap();
    println!(
        "{what}: N=2^{} {:?}, {}; budget {budget:.1} of {:.1} bits, error {:.1e} of {:.1e}, largest {:.1}, agreement {}, {:.1}+{:.1} ms, {} bytes",
        report.log_n,
        report.moduli_bits,
        report.settings.integers.as_ref().unwrap().fixed_point,
        report.forecast.remaining_budget_bits,
        found.max_abs_error,
        report.forecast.max_abs_error,
        found.largest_output,
        found.agreement,
        1e3 * found.median_prepare_seconds,
        1e3 * found.median_infer_seconds,
        found.bundle_bytes
    );
    assert_eq!(found.integer_differences, Some(0), "{what}");
    assert!(budget >= report.forecast.remaining_budget_bits, "{what}: less budget than was forecast");
    assert!(found.agreement >= 0.995, "{what}: {}", found.agreement);
    (report, found)
}

#[test]
fn every_scope_activation_input_and_security_is_exact() {
    let home = Home::new();
    for (network, activation) in
        [("torch-mlp-noact", "none"), ("torch-small-cnn", "square"), ("keras-small-cnn", "x2+2x")]
    {
        for scope in [Scope::Last, Scope::Classifier] {
            for encrypted_input in [false, true] {
                for security in SecurityLevel::ALL {
                    let what = format!("{network} ({activation}) {scope} encrypted {encrypted_input} {security}");
                    let f = fixture(network);
                    exact(&home, &f, &what, &request(&f, &scope, encrypted_input, security));
                }
            }
        }
    }
}

#[test]
fn the_demo_network_is_exact_and_its_budget_never_below_the_forecast() {
    let home = Home::new();
    let f = digits(50);
    for encrypted_input in [false, true] {
        let wanted = request(&f, &Scope::Classifier, encrypted_input, SecurityLevel::Bits128);
        let (report, _) = exact(&home, &f, "digits", &wanted);
        let verify = VerifyRequest { id: &report.id, data: &f.data, threads: 1 };
        let trace = home.owner.trace_budget(&verify, &home.vault, &home.identity).unwrap();
        assert!(trace.len() > 5);
        for step in trace {
            println!("{step:?}");
            assert!(step.forecast_bits.is_none_or(|forecast| step.budget_bits >= forecast), "{step:?}");
        }
    }
}

#[test]
fn deep_chains_take_several_moduli_and_stay_exact() {
    let home = Home::new();
    for network in ["torch-mlp-poly", "torch-ai4i", "torch-tabular"] {
        let f = fixture(network);
        for encrypted_input in [false, true] {
            let wanted = request(&f, &Scope::Classifier, encrypted_input, SecurityLevel::Bits128);
            exact(&home, &f, network, &wanted);
        }
    }
}

#[test]
fn results_that_no_honest_edge_gives_are_refused() {
    let home = Home::new();
    let f = fixture("torch-small-cnn");
    let wanted = request(&f, &Scope::Classifier, false, SecurityLevel::Bits128);
    let report = home.owner.protect(&wanted, &home.vault, &Silent).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let bundle = dir.path().join("bundle.srb");
    home.owner.deploy(&report.id, &bundle, &home.identity).unwrap();
    let edge = Processor::load(&bundle, &Options::default()).unwrap();
    let samples = edge.preprocess(&f.data).unwrap();
    let features = edge.features(samples.count, &samples.data).unwrap();
    let honest = edge.infer(&edge.prepare(&features[..edge.feature_count()]).unwrap()).unwrap();
    let decrypt = |name: &str, result: &[Ciphertext]| {
        let path = dir.path().join(name);
        let mut out = edge.results(&path).unwrap();
        out.push(edge.parameters(), result).unwrap();
        out.finish().unwrap();
        home.owner.decrypt(&path, "label".parse().unwrap(), &home.vault)
    };
    assert!(decrypt("honest.srr", &honest).is_ok());
    // Noise that grew beyond the modulus: all residues times a large number.
    let ring = edge.parameters().ring_of(honest[0].level()).unwrap();
    let times = |by: u64| {
        let mut faulty = honest.clone();
        for component in faulty.iter_mut().flat_map(|c| &mut c.components) {
            let by: Vec<u64> = (0..ring.limbs()).map(|i| ring.modulus(i).reduce(by)).collect();
            ring.mul_scalars_assign(component, &by);
        }
        faulty
    };
    // An encryption of nothing that is sound but too large, and one that is zero but for a bit of the second component.
    let mut flipped = honest.clone();
    flipped[0].components[1].limb_mut(0)[7] ^= 1;
    let mut random = honest.clone();
    for component in &mut random[0].components {
        *component = RnsPoly::clone(&ring.uniform(ring.limbs(), &[7; 32], 3));
    }
    for (name, faulty) in [("times.srr", times((1 << 45) + 9)), ("flipped.srr", flipped), ("random.srr", random)] {
        let error = decrypt(name, &faulty).map(|d| d.predictions).unwrap_err();
        println!("{name}: {error}");
        assert!(
            matches!(&error, OwnerError::NothingReleased { first, .. } if first.contains("the edge computed")),
            "{name}"
        );
    }
}

#[test]
fn what_integers_cannot_do_is_refused_with_what_would() {
    let home = Home::new();
    let refused = |f: &Fixture, change: &dyn Fn(&mut ProtectRequest)| {
        let mut wanted = request(f, &Scope::Classifier, true, SecurityLevel::Bits128);
        change(&mut wanted);
        home.owner.plan(&wanted).err().map(|e| e.to_string()).unwrap_or_default()
    };
    let tanh = fixture("torch-mlp-tanh");
    let text = refused(&tanh, &|r| r.substitutions = "tanh=poly:0,0.9,0,-0.1".parse().unwrap());
    assert!(text.contains("degree 3") && text.contains("--scheme ckks"), "{text}");
    // Numbers whose scale is squared twice.
    let deep = fixture("torch-mlp-poly");
    let text = refused(&deep, &|r| r.fixed_point = Some("input=1500,weights=1500/1500/1500".parse().unwrap()));
    assert!(text.contains("without --fixed-point there is a plan"), "{text}");
    // And it is so.
    assert_eq!(refused(&deep, &|_| ()), "");
    let cnn = fixture("torch-small-cnn");
    let text = refused(&cnn, &|r| {
        r.scope = Scope::All;
        r.substitutions = "max=mean".parse().unwrap();
        r.substitutions.extend(&"relu=square".parse().unwrap());
    });
    assert!(text.contains("--scope classifier"), "{text}");
    let text = refused(&cnn, &|r| r.fixed_point = Some("input=4096,weights=1".parse().unwrap()));
    assert!(text.contains("one for each") || text.contains("give one"), "{text}");
    let text = refused(&cnn, &|r| r.fixed_point = Some("input=1e12,weights=1e12/1e12".parse().unwrap()));
    assert!(text.contains("--fixed-point"), "{text}");
    assert!(home.owner.registry().list().unwrap().is_empty());
}
