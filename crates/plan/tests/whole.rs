//! Plans of whole networks, simulated slot by slot: exactly the circuit's values, and with noise within the forecast.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use rand::{RngExt, SeedableRng, rngs::StdRng};
use subrosa_fhe::security::SecurityLevel;
use subrosa_fhe::{Encoder, Kernel, Parameters};
use subrosa_network::{
    ActivationKind, Circuit, CircuitLayer, LayerActivation, Place, Polynomial, Source, SparseMatrix, Term,
};
use subrosa_plan::{CostModel, InputRange, Plan, PlanError, Prefer, WholeError, WholeRequest, plan_whole};

/// Positions of an image, channel first.
fn image(channels: u32, rows: u32, cols: u32) -> Vec<Place> {
    let at = |i: u32| [i / (rows * cols), i / cols % rows, i % cols];
    (0..channels * rows * cols).map(at).collect()
}

/// What is encrypted.
#[derive(Clone, Copy, PartialEq)]
enum Encrypted {
    Both,
    Weights,
    Input,
}

struct Net {
    rng: StdRng,
    circuit: Circuit,
}

impl Net {
    fn new(seed: u64, input: Vec<Place>) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            circuit: Circuit { input_places: input, layers: Vec::new(), weights: 0 },
        }
    }

    fn places(&self, source: Source) -> &[Place] {
        match source {
            Source::Input => &self.circuit.input_places,
            Source::Layer(i) => &self.circuit.layers[i].places,
        }
    }

    /// A convolution with random kernels of `size` x `size`, zero padding `pad`.
    fn convolution(&mut self, source: Source, to: &[Place], size: i64, stride: i64, pad: i64) -> Term {
        let from = self.places(source).to_vec();
        let count = |places: &[Place]| places.iter().map(|p| p[0] as usize + 1).max().unwrap();
        let (inputs, outputs, taps) = (count(&from), count(to), (size * size) as usize);
        let norm = 1.0 / ((inputs * taps) as f64).sqrt();
        let kernel: Vec<f64> = (0..inputs * outputs * taps).map(|_| norm * self.rng.random_range(-1.0..1.0)).collect();
        let row = |o: &Place| {
            let tap = |(i, p): (usize, &Place)| {
                let along = |axis: usize| i64::from(p[axis]) - (i64::from(o[axis]) * stride - pad);
                let (dy, dx) = (along(1), along(2));
                let inside = (0..size).contains(&dy) && (0..size).contains(&dx);
                let at = (o[0] as usize * inputs + p[0] as usize) * taps + (dy * size + dx) as usize;
                inside.then(|| (i as u32, kernel[at]))
            };
            from.iter().enumerate().filter_map(tap).collect::<Vec<_>>()
        };
        Term { source, matrix: SparseMatrix::from_rows(from.len(), to.iter().map(row).collect::<Vec<_>>()).unwrap() }
    }

    /// Every output from every input.
    fn dense(&mut self, source: Source, outputs: usize) -> Term {
        let inputs = self.places(source).len();
        let norm = 1.0 / (inputs as f64).sqrt();
        let values: Vec<f64> = (0..inputs * outputs).map(|_| norm * self.rng.random_range(-1.0..1.0)).collect();
        Term { source, matrix: SparseMatrix::dense(outputs, inputs, &values) }
    }

    /// The mean of 2 x 2 positions of a layer, as a matrix.
    fn mean_pool(&self, source: Source, to: &[Place]) -> SparseMatrix {
        let from = self.places(source);
        let row = |o: &Place| {
            let inside = |p: &Place| p[0] == o[0] && p[1] / 2 == o[1] && p[2] / 2 == o[2];
            from.iter().enumerate().filter(|(_, p)| inside(p)).map(|(i, _)| (i as u32, 0.25)).collect::<Vec<_>>()
        };
        SparseMatrix::from_rows(from.len(), to.iter().map(row).collect::<Vec<_>>()).unwrap()
    }

    fn layer(&mut self, places: Vec<Place>, terms: Vec<Term>, activation: LayerActivation) -> Source {
        let bias = places.iter().map(|p| 0.1 * f64::from(p[0]) - 0.2).collect();
        let name = format!("layer{}", self.circuit.layers.len());
        self.circuit.layers.push(CircuitLayer { name, places, terms, bias, activation });
        Source::Layer(self.circuit.layers.len() - 1)
    }

    /// A quadratic for each channel.
    fn quadratic(&mut self, places: &[Place]) -> LayerActivation {
        let channels = places.iter().map(|p| p[0] + 1).max().unwrap();
        let polynomials =
            (0..channels).map(|_| Polynomial::new(vec![0.1, 0.5, self.rng.random_range(0.1..0.3)])).collect();
        LayerActivation::Polynomial { polynomials, of: places.iter().map(|p| p[0]).collect() }
    }

    fn samples(&mut self, count: usize) -> Vec<Vec<f64>> {
        let size = self.circuit.input_places.len();
        (0..count).map(|_| (0..size).map(|_| self.rng.random_range(0.0..1.0)).collect()).collect()
    }

    fn plan(&self, samples: &[Vec<f64>], encrypted: Encrypted, memory_limit: Option<u64>) -> Result<Plan, PlanError> {
        self.plan_for(Prefer::Speed, samples, encrypted, memory_limit)
    }

    fn plan_for(
        &self,
        prefer: Prefer,
        samples: &[Vec<f64>],
        encrypted: Encrypted,
        memory_limit: Option<u64>,
    ) -> Result<Plan, PlanError> {
        let costs = CostModel::builtin(Kernel::Avx512Ifma);
        let size = self.circuit.input_places.len() as f64;
        plan_whole(&WholeRequest {
            circuit: &self.circuit,
            input: InputRange { max_abs: 1.0, max_norm: size.sqrt() },
            samples,
            calibrated: true,
            encrypted_input: encrypted != Encrypted::Weights,
            plain_weights: encrypted == Encrypted::Input,
            security: SecurityLevel::Bits128,
            max_error: 1e-2,
            memory_limit,
            prefer,
            below: None,
            costs: &costs,
            kernel: Kernel::Portable,
        })
    }

    /// Plans with everything encrypted, with plain input, and with plain weights; all compute the circuit.
    fn check(&mut self) -> Vec<Plan> {
        let samples = self.samples(10);
        let mut plans = Vec::new();
        for encrypted in [Encrypted::Both, Encrypted::Weights, Encrypted::Input] {
            let plan = self.plan(&samples, encrypted, None).unwrap();
            self.check_plan(&plan);
            plans.push(plan);
        }
        plans
    }

    /// The plan computes the circuit.
    fn check_plan(&mut self, plan: &Plan) {
        plan.program.validate().unwrap();
        for sample in self.samples(3) {
            let expected = self.circuit.eval(&sample);
            let distance = |found: &[f64]| found.iter().zip(&expected).fold(0.0f64, |m, (a, b)| m.max((a - b).abs()));
            let exact = distance(&plan.simulate(&sample, None).unwrap().outputs);
            assert!(exact < 1e-6, "off by {exact} without noise");
            let noisy = distance(&plan.simulate(&sample, Some(3)).unwrap().outputs);
            assert!(noisy > 1e-9 && noisy < plan.forecast.max_abs_error, "{noisy} {:?}", plan.forecast);
        }
    }

    /// Two convolutions and a dense layer.
    fn small(seed: u64) -> Self {
        let mut net = Self::new(seed, image(3, 8, 8));
        let mut layer = Source::Input;
        for channels in [8, 12] {
            let places = image(channels, 8, 8);
            let convolved = net.convolution(layer, &places, 3, 1, 1);
            let quadratic = net.quadratic(&places);
            layer = net.layer(places, vec![convolved], quadratic);
        }
        let scores = net.dense(layer, 4);
        net.layer(image(4, 1, 1), vec![scores], LayerActivation::Identity);
        net
    }
}

#[test]
fn a_convolutional_network_with_pooling_strides_and_odd_sizes() {
    for (seed, rows, cols) in [(1, 8, 8), (2, 7, 5), (3, 1, 12)] {
        let mut net = Net::new(seed, image(3, rows, cols));
        let places = image(4, rows, cols);
        let first = net.convolution(Source::Input, &places, 3, 1, 1);
        let quadratic = net.quadratic(&places);
        let layer = net.layer(places, vec![first], quadratic);
        let pooled = image(4, rows.div_ceil(2), cols.div_ceil(2));
        let places = image(6, rows.div_ceil(2), cols.div_ceil(2));
        // The pooling goes into the convolution behind it.
        let pool = net.mean_pool(layer, &pooled);
        net.circuit.layers.push(CircuitLayer {
            name: "pooled".into(),
            places: pooled,
            terms: Vec::new(),
            bias: Vec::new(),
            activation: LayerActivation::Identity,
        });
        let mut second = net.convolution(Source::Layer(1), &places, 3, 1, 1);
        net.circuit.layers.pop();
        second = Term { source: layer, matrix: second.matrix.times(&pool) };
        let quadratic = net.quadratic(&places);
        let layer = net.layer(places, vec![second], quadratic);
        let strided = image(5, rows.div_ceil(4), cols.div_ceil(4));
        let third = net.convolution(layer, &strided, 3, 2, 1);
        let quadratic = net.quadratic(&strided);
        let layer = net.layer(strided, vec![third], quadratic);
        let hidden = net.dense(layer, 9);
        let flat = image(9, 1, 1);
        let quadratic = net.quadratic(&flat);
        let layer = net.layer(flat, vec![hidden], quadratic);
        let scores = net.dense(layer, 4);
        net.layer(image(4, 1, 1), vec![scores], LayerActivation::Identity);
        net.check();
    }
}

#[test]
fn a_residual_network_reads_values_of_two_levels() {
    let mut net = Net::new(4, image(2, 6, 6));
    let places = image(4, 6, 6);
    let first = net.convolution(Source::Input, &places, 3, 1, 1);
    let quadratic = net.quadratic(&places);
    let stem = net.layer(places.clone(), vec![first], quadratic);
    let inner = net.convolution(stem, &places, 3, 1, 1);
    let quadratic = net.quadratic(&places);
    let inner = net.layer(places.clone(), vec![inner], quadratic);
    let outer = net.convolution(inner, &places, 3, 1, 1);
    let skip = Term { source: stem, matrix: SparseMatrix::identity(places.len()) };
    let quadratic = net.quadratic(&places);
    let sum = net.layer(places, vec![outer, skip], quadratic);
    let scores = net.dense(sum, 3);
    net.layer(image(3, 1, 1), vec![scores], LayerActivation::Identity);
    net.check();
}

#[test]
fn polynomials_of_higher_degree_and_layers_without_activation() {
    for degree in [3, 5, 7] {
        let mut net = Net::new(5, image(1, 6, 6));
        let places = image(3, 4, 4);
        let first = net.convolution(Source::Input, &places, 3, 1, 0);
        let coefficients: Vec<f64> =
            (0..=degree).map(|k| if k == 4 { 0.0 } else { 0.4 / (1.0 + f64::from(k)) }).collect();
        let activation = LayerActivation::uniform(Polynomial::new(coefficients), places.len()).unwrap();
        let layer = net.layer(places.clone(), vec![first], activation);
        let linear = net.convolution(layer, &places, 3, 1, 1);
        let layer = net.layer(places, vec![linear], LayerActivation::Identity);
        let scores = net.dense(layer, 2);
        net.layer(image(2, 1, 1), vec![scores], LayerActivation::Identity);
        net.check();
    }
}

#[test]
fn what_cannot_be_planned_is_refused_with_its_layer() {
    let mut net = Net::new(7, image(1, 4, 4));
    let places = image(2, 4, 4);
    let first = net.convolution(Source::Input, &places, 3, 1, 1);
    let quadratic = net.quadratic(&places);
    let layer = net.layer(places.clone(), vec![first], quadratic);
    let scores = net.dense(layer, 2);
    net.layer(image(2, 1, 1), vec![scores], LayerActivation::Identity);
    let samples = net.samples(4);
    let limited = net.plan(&samples, Encrypted::Both, Some(1000));
    assert!(matches!(limited, Err(PlanError::Whole(WholeError::Memory { limit: 1000, .. }))));
    let mut linear = Net { rng: StdRng::seed_from_u64(1), circuit: net.circuit.clone() };
    linear.circuit.layers[0].activation = LayerActivation::Polynomial {
        polynomials: vec![Polynomial::new(vec![0.0, 1.0]), Polynomial::new(vec![0.0, 1.0, 0.5])],
        of: places.iter().map(|p| p[0]).collect(),
    };
    let error = linear.plan(&samples, Encrypted::Both, None).err().unwrap().to_string();
    assert!(error.contains("'layer0'") && error.contains("channel 0"), "{error}");
    net.circuit.layers[0].activation = LayerActivation::Function(ActivationKind::Relu);
    let error = net.plan(&samples, Encrypted::Both, None).err().unwrap().to_string();
    assert!(error.contains("'layer0'") && error.contains("--activation"), "{error}");
}

#[test]
fn one_linear_map_is_planned_whatever_is_encrypted() {
    let mut net = Net::new(10, image(2, 6, 6));
    let places = image(3, 3, 3);
    let convolved = net.convolution(Source::Input, &places, 3, 2, 1);
    net.layer(places, vec![convolved], LayerActivation::Identity);
    for plan in net.check() {
        assert!(plan.forecast.remaining_budget_bits > 0.0, "{:?}", plan.forecast);
        // Inner products of encrypted weights need no keys.
        assert!(plan.program.has_plain_weights() || plan.program.keys.is_empty(), "{:?}", plan.program.keys);
    }
    // Its biases far beyond its outputs: a result that nearly cancels them.
    let samples = net.samples(4);
    let largest = samples.iter().flat_map(|x| net.circuit.eval(x)).fold(0.0f64, |m, v| m.max(v.abs()));
    let mut far = Net { rng: StdRng::seed_from_u64(1), circuit: net.circuit.clone() };
    let constant = far.circuit.input_places.len() as u32 - 1;
    far.circuit.layers[0].bias.iter_mut().for_each(|b| *b -= 1e4 * largest);
    let term = &mut far.circuit.layers[0].terms[0].matrix;
    let mut rows: Vec<Vec<(u32, f64)>> =
        (0..term.rows()).map(|r| term.row(r).filter(|w| w.0 != constant).collect()).collect();
    rows.iter_mut().for_each(|row| row.push((constant, 1e4 * largest)));
    *term = SparseMatrix::from_rows(term.cols(), rows).unwrap();
    let mut samples = samples;
    samples.iter_mut().for_each(|x| x[constant as usize] = 1.0);
    for encrypted in [Encrypted::Both, Encrypted::Weights, Encrypted::Input] {
        let plan = far.plan(&samples, encrypted, None).unwrap();
        let parameters = Parameters::new(plan.program.parameters.clone(), Kernel::Portable).unwrap();
        let encoder = Encoder::new(&parameters);
        for (g, group) in plan.program.constants.iter().enumerate() {
            (0..group.count).for_each(|i| drop(plan.constant(&encoder, g, i).unwrap()));
        }
    }
}

#[test]
fn features_in_the_clear_enter_in_one_place() {
    // A skip from the features past the first layer.
    let mut net = Net::new(11, image(6, 1, 1));
    let places = image(6, 1, 1);
    let first = net.dense(Source::Input, 6);
    let quadratic = net.quadratic(&places);
    let inner = net.layer(places.clone(), vec![first], quadratic);
    let (outer, skip) = (net.dense(inner, 6), net.dense(Source::Input, 6));
    let quadratic = net.quadratic(&places);
    let sum = net.layer(places, vec![outer, skip], quadratic);
    let scores = net.dense(sum, 2);
    net.layer(image(2, 1, 1), vec![scores], LayerActivation::Identity);
    let samples = net.samples(6);
    let plan = net.plan(&samples, Encrypted::Both, None).unwrap();
    net.check_plan(&plan);
    let refused = net.plan(&samples, Encrypted::Weights, None).err().unwrap();
    assert!(matches!(refused, PlanError::Whole(WholeError::PlainInput { .. })), "{refused}");
    let text = refused.to_string();
    assert!(text.contains("'layer0', 'layer1'") && text.contains("--input encrypted"), "{text}");
}

#[test]
fn what_is_preferred_is_not_larger_than_with_other_preferences() {
    let mut net = Net::small(8);
    let samples = net.samples(6);
    for encrypted in [Encrypted::Both, Encrypted::Weights, Encrypted::Input] {
        let plan = |prefer| net.plan_for(prefer, &samples, encrypted, None).unwrap();
        let plans = Prefer::ALL.map(plan);
        let [speed, memory, bundle] = &plans;
        for p in &plans {
            println!("{:?} {:?} {:?}", p.prediction.seconds(), p.prediction.memory, p.prediction.bundle);
        }
        let (memory_of, bundle_of) =
            (|p: &Plan| p.prediction.memory.bytes() as f64, |p: &Plan| p.prediction.bundle.bytes() as f64);
        for other in &plans {
            // Of two that differ little, the faster is taken.
            assert!(speed.prediction.seconds() <= 1.01 * other.prediction.seconds());
            assert!(memory_of(memory) <= 1.1 * memory_of(other));
            assert!(bundle_of(bundle) <= 1.1 * bundle_of(other));
        }
        assert!(memory_of(memory) <= memory_of(speed) && bundle_of(bundle) <= bundle_of(speed));
        if encrypted == Encrypted::Both {
            assert!(memory_of(memory) < 0.95 * memory_of(speed) && bundle_of(bundle) < 0.95 * bundle_of(speed));
        }
        plans.iter().for_each(|p| net.check_plan(p));
    }
}

#[test]
fn a_network_that_does_not_fit_is_refused_with_what_would_and_that_does() {
    let mut net = Net::small(9);
    let samples = net.samples(6);
    let least = net.plan_for(Prefer::Memory, &samples, Encrypted::Both, None).unwrap().prediction.memory.bytes();
    let limited = net.plan(&samples, Encrypted::Both, Some(least)).unwrap();
    assert!(limited.prediction.memory.bytes() <= least);
    net.check_plan(&limited);
    let Err(PlanError::Whole(refused)) = net.plan(&samples, Encrypted::Both, Some(least / 3)) else { panic!("fits") };
    let text = refused.to_string();
    let WholeError::Memory { limit, smallest, nearest: _ } = refused else { panic!("{text}") };
    assert_eq!(limit, least / 3);
    assert!(smallest > limit && smallest < 2 * least, "{smallest} {least}");
    assert!(text.contains("--memory-limit") && text.contains("from:layer"), "{text}");
}
