//! The release policy: what honest results look like, and attacks that are refused.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers outside #[test] functions fail tests too

mod attacker;
#[path = "../common/mod.rs"]
mod common;

use attacker::Attacker;
use common::{Fixture, Home, digits, fixture};
use subrosa_edge_agent::{Options, Processor};
use subrosa_fhe::Ciphertext;
use subrosa_fleet::{DeviceKey, SampleId, SignedResult, Statement};
use subrosa_network::Scope;
use subrosa_owner::release::{Audience, Budget, LabelCounts, Refusal, ReleaseAgent, ReleasePolicy, Released, Usage};
use subrosa_owner::{ProtectReport, ProtectRequest, Reveal, Silent};
use subrosa_program::container::Signer;

/// Sensor rows of machines, for a network that is encrypted as a whole.
fn machines() -> Fixture {
    let path = |suffix: &str| common::root().join("models/ai4i-mlp").with_extension(suffix);
    let data = subrosa_input::read(path("test.csv").to_str().unwrap(), Some(100)).unwrap();
    Fixture { onnx: std::fs::read(path("onnx")).unwrap(), data, preprocess: "" }
}

/// The owner's own eyes.
fn own(reveal: Reveal) -> ReleasePolicy {
    ReleasePolicy { reveal, audience: Audience::Owner, flooding: None, budget: Budget::UNLIMITED }
}

/// A protected network, its Decryption Agent, and an edge that has its bundle.
struct Deployed {
    home: Home,
    report: ProtectReport,
    agent: ReleaseAgent,
    edge: Processor,
    attacker: Attacker,
    device: DeviceKey,
    _dir: tempfile::TempDir,
}

impl Deployed {
    fn new(f: &Fixture, scope: Scope, encrypted_input: bool, plain_weights: bool) -> Self {
        let home = Home::new();
        let request = ProtectRequest {
            scope,
            encrypted_input,
            plain_weights,
            preprocess: (!f.preprocess.is_empty()).then(|| f.preprocess.parse().unwrap()),
            calibrate: Some(&f.data),
            ..ProtectRequest::new(&f.onnx, "network")
        };
        let report = home.owner.protect(&request, &home.vault, &Silent).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let bundle = dir.path().join("bundle.srb");
        home.owner.deploy(&report.id, &bundle, &home.identity).unwrap();
        let edge =
            Processor::load(&bundle, &Options { trust: Some(home.identity.signer()), ..Options::default() }).unwrap();
        let agent = ReleaseAgent::load(&home.owner, &report.id, &home.vault).unwrap();
        let (attacker, device) = (Attacker::new(&bundle), DeviceKey::generate().unwrap());
        Self { home, report, agent, edge, attacker, device, _dir: dir }
    }

    /// The features of the samples.
    fn features(&self, f: &Fixture) -> Vec<Vec<f32>> {
        let samples = self.edge.preprocess(&f.data).unwrap();
        let features = self.edge.features(samples.count, &samples.data).unwrap();
        features.chunks(self.edge.feature_count()).map(<[f32]>::to_vec).collect()
    }

    fn evaluate(&self, features: &[f32]) -> Vec<Ciphertext> {
        self.edge.infer(&self.edge.prepare(features).unwrap()).unwrap()
    }

    fn sign(&self, sequence: u64, payload: Vec<u8>) -> SignedResult {
        let statement = Statement {
            model: self.report.id.clone(),
            version: self.report.version,
            device: "camera-1".into(),
            sequence,
            origin: "camera-1".into(),
            sample: SampleId::of("test", &sequence.to_string()),
            label: format!("sample {sequence}"),
            taken_at: 0,
            payload_sha256: String::new(),
        };
        SignedResult::sign(&self.device, statement, payload).unwrap()
    }

    /// What becomes of ciphertexts that the device signs.
    fn submit(&self, ciphertexts: &[Ciphertext]) -> Result<Released, Refusal> {
        let result = self.sign(1, self.payload(ciphertexts));
        self.agent.examine(&self.device.public(), &result, &ReleasePolicy::default())
    }

    /// The code of the refusal.
    fn refusal(&self, ciphertexts: &[Ciphertext]) -> &'static str {
        self.submit(ciphertexts).map_or_else(|e| e.code(), |released| panic!("released: {released:?}"))
    }

    fn payload(&self, ciphertexts: &[Ciphertext]) -> Vec<u8> {
        ciphertexts.iter().flat_map(|c| c.to_bytes(self.edge.parameters()).unwrap()).collect()
    }
}

#[test]
fn honest_results_lie_in_the_space_that_their_last_layer_spans() {
    for (name, scope) in [
        ("", Scope::Classifier),
        ("", Scope::Last),
        ("torch-tabular", Scope::Classifier),
        ("torch-mlp-poly", Scope::Classifier),
        ("torch-small-cnn", Scope::Classifier),
        ("torch-mlp-noact", Scope::Classifier),
        ("ai4i", Scope::All),
    ] {
        for (encrypted_input, plain_weights) in [(false, false), (true, false), (true, true)] {
            if plain_weights && scope != Scope::All {
                continue;
            }
            let f = match name {
                "" => digits(20),
                "ai4i" => machines(),
                name => fixture(name),
            };
            let d = Deployed::new(&f, scope.clone(), encrypted_input, plain_weights);
            let (mut most, mut limit) = (0.0f64, 0.0);
            for features in d.features(&f).iter().take(20) {
                let payload = d.payload(&d.evaluate(features));
                let (deviation, permitted) = d.agent.deviation(&payload).unwrap();
                (most, limit) = (most.max(deviation), permitted);
                d.agent.examine_unsigned(&payload, &own(Reveal::Label)).unwrap();
            }
            println!(
                "{name} {scope}, input encrypted {encrypted_input}, weights plain {plain_weights}: N=2^{}, {:.3} of the numbers determined, deviation {most:.2e} of {limit:.2e} \
                 permitted; forecast of an output {:.2e}",
                d.report.log_n,
                d.agent.structure_strength(),
                d.report.forecast.max_abs_error,
            );
            assert!(most <= limit / 2.0 && limit < d.report.forecast.max_abs_error);
            assert!(d.agent.structure_strength() > 0.5);
            assert_eq!(d.agent.warning(), None);
        }
    }
}

/// A network of two encrypted layers with plain input: its edge has weights in the slots, and keys to move them.
fn two_layers() -> (Deployed, Fixture) {
    let f = digits(200);
    (Deployed::new(&f, Scope::Classifier, false, false), f)
}

#[test]
fn what_is_no_result_of_the_network_is_refused() {
    let (d, f) = two_layers();
    let (a, output) = (&d.attacker, &d.edge.program().output);
    assert!(a.has_keys());
    let features = d.features(&f);
    let honest = d.evaluate(&features[0]);
    let label = d.submit(&honest).unwrap().label;
    assert_eq!(label, f.data.labels.as_ref().unwrap()[0] as usize);

    // Encrypted weights and biases, as they are, and brought into the form of results.
    for group in 0..a.program().constants.len() {
        let weights = a.constant(group, 0);
        let as_they_are: Vec<Ciphertext> = honest.iter().map(|_| weights.clone()).collect();
        assert_eq!(d.refusal(&as_they_are), "form", "group {group}");
        for factor in [1.0, 1e-3, 1e-6, 1e3] {
            let mut formed = a.as_result(weights.clone());
            let value = a.encoder.encode_constant(factor, output.scale.min(2f64.powi(20)), formed.level()).unwrap();
            formed = a.evaluator.mul_plain(&formed, &value).unwrap();
            formed.scale = output.scale;
            let formed: Vec<Ciphertext> = honest.iter().map(|_| formed.clone()).collect();
            assert_eq!(d.refusal(&formed), "slots", "group {group} times {factor}");
        }
    }
    // Constants whose decryption is the key: plain, and summed over automorphisms as if they were a layer.
    for exponent in [0, 10, 20, 30] {
        let key = a.as_result(a.key(1 << exponent, output.level));
        let mut keys = vec![key; honest.len()];
        assert_eq!(d.refusal(&keys), "slots", "2^{exponent}");
        let (level, _) = a.vector();
        let folded = a.as_result(a.fold(a.key(1 << exponent, level)));
        keys.fill(folded);
        assert_eq!(d.refusal(&keys), "slots", "2^{exponent}, folded");
    }
    // An answer invented without any key: (m, 0) with numbers at the declared positions.
    let mut invented = vec![vec![0.0; a.parameters.n()]; honest.len()];
    for (k, &(register, coefficient)) in output.positions.iter().enumerate() {
        invented[register][coefficient] = if k == 3 { 5.0 } else { 0.0 } / output.factor;
    }
    let invented: Vec<Ciphertext> = invented
        .iter()
        .map(|m| {
            let mut zero = a.key(0, output.level);
            zero.scale = output.scale;
            let m = a.encoder.encode_coefficients(m, output.scale, output.level).unwrap();
            a.evaluator.add_plain_assign(&mut zero, &m).unwrap();
            zero
        })
        .collect();
    assert_eq!(d.refusal(&invented), "slots");
    // An honest result with something added to one output, and one that is doubled.
    let mut changed = honest.clone();
    let mut bump = vec![0.0; a.parameters.n()];
    bump[output.positions[0].1] =
        100.0 * d.report.forecast.max_abs_error * (a.parameters.n() as f64).sqrt() / output.factor;
    let bump = a.encoder.encode_coefficients(&bump, output.scale, output.level).unwrap();
    a.evaluator.add_plain_assign(&mut changed[0], &bump).unwrap();
    assert_eq!(d.refusal(&changed), "slots");
    let doubled: Vec<Ciphertext> = honest
        .iter()
        .map(|c| {
            let mut twice = c.clone();
            a.evaluator.add_assign(&mut twice, c).unwrap();
            twice
        })
        .collect();
    assert_eq!(d.refusal(&doubled), "slots", "the biases are doubled too");
    // Another scale, another degree, too many and too few ciphertexts.
    let with = |change: &dyn Fn(&mut Ciphertext)| {
        let mut changed = honest.clone();
        changed.iter_mut().for_each(change);
        d.refusal(&changed)
    };
    assert_eq!(with(&|c| c.scale *= 1.0 + 1e-6), "form");
    assert_eq!(with(&|c| c.components.truncate(1)), "form");
    let another = |c: &mut Ciphertext| c.components.push(c.components[0].clone());
    assert_eq!(with(&another), "form");
    assert_eq!(d.refusal(&[honest.clone(), honest.clone()].concat()), "form");
    assert_eq!(d.refusal(&[]), "form");
    // A result at another level: the vector before the last layer, or one that was not divided to the end.
    let (level, _) = a.vector();
    assert!(level > output.level);
    assert_eq!(d.refusal(&vec![a.key(1, level); honest.len()]), "form");
}

#[test]
fn whose_result_it_is_and_of_which_network_is_signed() {
    let (d, f) = two_layers();
    let policy = ReleasePolicy::default();
    let payload = d.payload(&d.evaluate(&d.features(&f)[1]));
    let honest = d.sign(1, payload.clone());
    let code = |device: &Signer, result: &SignedResult| {
        d.agent.examine(device, result, &policy).map(|r| r.label).map_err(|e| e.code())
    };
    let own = d.device.public();
    assert!(code(&own, &honest).is_ok());
    // Another device's signature, and a result that another device takes for its own.
    let other = DeviceKey::generate().unwrap();
    assert_eq!(code(&other.public(), &honest), Err("signature"));
    // Moved to another network, or to another version of it, by the device itself: anybody else breaks the signature (`subrosa_fleet`
    // flips every byte).
    let moved = |change: &dyn Fn(&mut Statement)| {
        let mut statement = honest.statement.clone();
        change(&mut statement);
        code(&own, &SignedResult::sign(&d.device, statement, payload.clone()).unwrap())
    };
    assert_eq!(moved(&|s| s.model = "0".repeat(32)), Err("model"));
    assert_eq!(moved(&|s| s.version += 1), Err("model"));
    // Bytes behind the ciphertexts, and ciphertexts cut short.
    for bytes in [[payload.as_slice(), &[0]].concat(), payload[..payload.len() - 1].to_vec(), Vec::new()] {
        assert_eq!(code(&own, &d.sign(2, bytes)), Err("form"));
    }
    // Another network's result with its own signature: keys differ.
    let (e, _) = two_layers();
    let foreign = e.payload(&e.evaluate(&e.features(&f)[1]));
    assert_eq!(code(&own, &d.sign(3, foreign)), Err("slots"));
}

/// Asks a device's results for labels and counts.
struct Oracle<'a> {
    d: &'a Deployed,
    budget: Budget,
    usage: Usage,
    counts: LabelCounts,
    /// What each query gave.
    given: Vec<Released>,
    alarm: Option<(usize, String)>,
}

impl Oracle<'_> {
    /// The label of the vector before the last layer, signed as a result.
    fn label(&mut self, vector: &Ciphertext) -> usize {
        self.budget.check(&self.usage).unwrap();
        let sequence = self.given.len() as u64 + 1;
        let result = self.d.sign(sequence, self.d.payload(&self.d.attacker.finish(vector)));
        let released = self.d.agent.examine(&self.d.device.public(), &result, &ReleasePolicy::default()).unwrap();
        self.usage.device_total += 1;
        self.counts.add(&released);
        self.given.push(released.clone());
        if let (None, Some(alarm)) = (&self.alarm, self.counts.alarm(self.d.agent.reference().unwrap())) {
            self.alarm = Some((self.given.len(), alarm.to_string()));
        }
        released.label
    }
}

/// How many queries an enrolled edge that adapts needs, which multiplies the network's own last layer with what it likes and signs the
/// result: the checks cannot tell it from an honest one, each answer is a label. It moves one encrypted weight of the first layer into the
/// vector before the last layer, beside a plain value that puts the answer on the border of two classes, and searches.
#[test]
fn queries_that_an_adaptive_edge_needs_for_a_weight() {
    let (d, f) = two_layers();
    let (first, ..) = d.attacker.layers();
    let (rows, period, span) = (first.rows, first.row_period, first.span);
    let budget = Budget { per_device_total: Some(400), ..Budget::default() };
    let counts = LabelCounts::new(d.agent.classes());
    let mut oracle = Oracle { d: &d, budget, usage: Usage::default(), counts, given: Vec::new(), alarm: None };
    let unit = |row: usize, value: f64| {
        let mut plain = vec![0.0; rows];
        plain[row] = value;
        plain
    };
    // A hidden unit, and a value of it, at which the label changes.
    let base = oracle.label(&d.attacker.plain_in_place(&vec![0.0; rows]));
    let mut found = None;
    for row in 0..rows {
        let mut value = 4.0;
        while value < 100.0 && found.is_none() {
            if oracle.label(&d.attacker.plain_in_place(&unit(row, value))) != base {
                found = Some((row, value));
            }
            value *= 2.0;
        }
        if found.is_some() {
            break;
        }
    }
    let (row, mut above) = found.unwrap();
    let mut below = 0.0;
    for _ in 0..14 {
        let middle = (above + below) / 2.0;
        let same = oracle.label(&d.attacker.plain_in_place(&unit(row, middle))) == base;
        (below, above) = if same { (middle, above) } else { (below, middle) };
    }
    let (border, prepared) = ((above + below) / 2.0, oracle.given.len());
    // Weights are known to lie within a quarter; 8 bits of each.
    const RANGE: f64 = 0.25;
    const BITS: u32 = 8;
    let factor = border / RANGE;
    let secret = d.home.vault.get(&format!("model-{}", d.report.id)).unwrap();
    let secret = subrosa_secret::SecretKey::from_bytes(&d.attacker.parameters, &secret).unwrap();
    let decrypted = secret.decrypt_coefficients(&d.attacker.constant(0, 0)).unwrap();
    let decrypted = d.attacker.encoder.decode(&decrypted).unwrap();
    let weights = span.min(4);
    let mut worst = 0.0f64;
    for group in 0..weights {
        let slot = row + group * period;
        let (mut low, mut high) = (-RANGE, RANGE);
        for _ in 0..BITS {
            let middle = (low + high) / 2.0;
            let vector = d.attacker.weight_in_place(slot, factor, &unit(row, border - factor * middle));
            let above = oracle.label(&vector) != base;
            (low, high) = if above { (middle, high) } else { (low, middle) };
        }
        // Complex packing: the slot holds half of the weight.
        let true_weight = 2.0 * decrypted[slot].re;
        worst = worst.max((true_weight - (low + high) / 2.0).abs());
    }
    let step = 2.0 * RANGE / f64::from(BITS).exp2();
    let (alarm, text) = oracle.alarm.clone().unwrap();
    println!(
        "border found with {prepared} queries, then {BITS} queries a weight of {BITS} bits ({weights} weights, error at most {worst:.1e}, \
         one step is {step:.1e}); no fewer than {:.1} are possible; alarm at query {alarm}: {text}",
        f64::from(BITS) / (d.agent.classes() as f64).log2()
    );
    assert!(worst < step, "the search found another weight: {worst}");
    assert!(alarm <= 100, "{text}");

    // Hidden among honest results it takes longer to notice, and takes longer. What can be noticed at all depends on how many
    // results there are to compare with: 200 of calibration, or ten thousand of other devices.
    let honest: Vec<Released> = d.features(&f).iter().map(|x| d.submit(&d.evaluate(x)).unwrap()).collect();
    let calibration = d.agent.reference().unwrap();
    let mut alone = LabelCounts::new(d.agent.classes());
    honest.iter().for_each(|released| alone.add(released));
    assert_eq!(alone.alarm(calibration), None, "a false alarm");
    let fleet = LabelCounts { labels: alone.labels.iter().map(|n| 50 * n).collect(), near: 50 * alone.near };
    let search = &oracle.given[prepared..];
    let attacks_before_alarm = |reference: &LabelCounts, one_in: usize| {
        let (mut counts, mut attacks) = (LabelCounts::new(d.agent.classes()), 0);
        for all in 0..20_000 {
            if all % one_in == 0 {
                counts.add(&search[attacks % search.len()]);
                attacks += 1;
            } else {
                counts.add(&honest[all % honest.len()]);
            }
            if all % 10 == 9 && counts.alarm(reference).is_some() {
                return Some(attacks);
            }
        }
        None
    };
    for (what, reference) in [("200 of calibration", calibration), ("10,000 of the fleet", &fleet)] {
        for one_in in [1, 4, 16, 64] {
            let attacks = attacks_before_alarm(reference, one_in);
            println!("one query in {one_in}, compared with {what}: alarm after {attacks:?} queries for weights");
        }
    }
    let [all, fourth, sixteenth] = [1, 4, 16].map(|one_in| attacks_before_alarm(&fleet, one_in).unwrap());
    assert!(all <= fourth && fourth <= sixteenth);
}

#[test]
fn a_budget_ends_the_search() {
    let (d, _) = two_layers();
    let counts = LabelCounts::new(d.agent.classes());
    let budget = Budget { per_device_total: Some(7), ..Budget::default() };
    let mut oracle = Oracle { d: &d, budget, usage: Usage::default(), counts, given: Vec::new(), alarm: None };
    let vector = d.attacker.plain_in_place(&[]);
    for _ in 0..7 {
        oracle.label(&vector);
    }
    assert_eq!(budget.check(&oracle.usage).unwrap_err().code(), "budget");
}

/// What the checks do not stop, and SECURITY.md says so: the key in the place of the vector before the last layer. Nothing but labels comes
/// out, and as many as the budget permits.
#[test]
fn the_key_times_the_last_layer_passes_for_a_result() {
    let (d, _) = two_layers();
    let a = &d.attacker;
    let (level, scale) = a.vector();
    let mut vector = a.fold(a.key(1 << 20, level));
    vector.scale = scale;
    let released = d.submit(&a.finish(&vector)).unwrap();
    assert!(released.top.is_none() && released.scores.is_none() && released.label < d.agent.classes());
}
