//! Training learns, repeats itself to the bit, goes on where it was stopped, and adapts what others trained.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers outside #[test] functions fail tests too

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use subrosa_network::{Network, Scope, Substitutions};
use subrosa_train::data::{DataSet, Kind, Normalisation, Options, Part, Samples, Scaling, load};
use subrosa_train::{
    Activation, Architecture, Augmentation, Choice, Epoch, Job, Model, Observer, Op, Outcome, Pooling, Recipe,
    Schedule, Shape, TrainError, build, from_onnx, run, to_onnx,
};

struct Nobody;
impl Observer for Nobody {}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

/// The repository's digits: 700 to train and validate on, 300 for the test.
fn digits() -> DataSet {
    let file = |what: &str| {
        repository().join("data").join(format!("mnist-test-1000-{what}-ubyte.gz")).to_str().unwrap().to_owned()
    };
    let images = subrosa_input::read(&file("images-idx3"), None).unwrap();
    let labels = subrosa_input::read_labels(&file("labels-idx1")).unwrap();
    let subrosa_input::Samples::Pixels { data, .. } = images.samples else { panic!("pixels") };
    let part = |from: usize, to: usize| Part {
        samples: Samples::Pixels(data[from * 784..to * 784].to_vec()),
        labels: labels[from..to].to_vec(),
    };
    DataSet {
        shape: Shape::Image { height: 28, width: 28, channels: 1 },
        classes: (0..10).map(|class| class.to_string()).collect(),
        train: part(0, 600),
        validation: part(600, 700),
        test: part(700, 1000),
        normalisation: Normalisation { mean: vec![0.13], deviation: vec![0.31] },
        scaling: Scaling::unit(1),
        columns: None,
        test_rows: None,
    }
}

fn recipe(architecture: &str, activation: &str, pooling: Pooling) -> Recipe {
    Recipe {
        architecture: architecture.parse().unwrap(),
        activations: activation.split(';').map(|a| a.parse().unwrap()).collect(),
        last_activation: None,
        pooling,
        batch_norm: true,
        dropout: 0.0,
        seed: 5,
    }
}

fn network(recipe: &Recipe, data: &DataSet) -> Model {
    build(recipe, data.shape, &data.normalisation.mean, &data.normalisation.deviation, data.classes.len()).unwrap()
}

fn job(model: Model, epochs: usize) -> Job {
    let schedule = Schedule { epochs, batch: 32, learning_rate: 3e-3, ..Schedule::default() };
    Job { model, adapt: None, schedule, checkpoint: None, description: "a test".into() }
}

fn trained(job: &Job, data: &DataSet) -> Outcome {
    run(job, data, &mut Nobody).unwrap()
}

/// Share of the test samples that the exported network gets right in rten.
fn accuracy_of_file(model: &Model, data: &DataSet) -> f64 {
    let onnx = to_onnx(model, &BTreeMap::new()).unwrap();
    let network = subrosa_plain::PlainNetwork::load(&onnx, 1).unwrap();
    let Samples::Pixels(pixels) = &data.test.samples else { panic!("pixels") };
    let right = data.test.labels.iter().zip(pixels.chunks_exact(784)).filter(|(label, pixels)| {
        let input: Vec<f32> = pixels.iter().map(|p| f32::from(*p) / 255.0).collect();
        let scores = network.run(1, &input).unwrap();
        let best = scores.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
        best == **label as usize
    });
    right.count() as f64 / data.test.labels.len() as f64
}

#[test]
fn every_architecture_learns_digits_and_its_file_says_the_same() {
    let data = digits();
    for (architecture, activation, pooling, least) in [
        ("mlp:32", "quadratic", Pooling::Mean, 0.75),
        ("cryptonets", "square", Pooling::Mean, 0.75),
        ("lenet", "quadratic", Pooling::Sum, 0.8),
        ("residual", "quadratic", Pooling::Mean, 0.7),
        ("lenet", "relu", Pooling::Max, 0.8),
        ("lenet", "chebyshev(relu,3,-4,4)", Pooling::Mean, 0.8),
        ("lenet", "relu;quadratic;none;x2+2x", Pooling::Mean, 0.8),
    ] {
        let outcome = trained(&job(network(&recipe(architecture, activation, pooling), &data), 8), &data);
        let accuracy = outcome.test.accuracy;
        assert!(accuracy > least, "{architecture} with {activation}: {accuracy}");
        assert_eq!(outcome.log.len(), 8);
        let file = accuracy_of_file(&outcome.model, &data);
        assert!((file - accuracy).abs() < 0.005, "{architecture}: {file} by rten, {accuracy} here");
    }
}

#[test]
fn the_same_seed_gives_the_same_network_on_any_number_of_threads() {
    let data = digits();
    let mut model = recipe("lenet", "quadratic", Pooling::Mean);
    model.dropout = 0.3;
    let mut job = job(network(&model, &data), 2);
    job.schedule.augmentation = Augmentation { flip: true, shift: 2 };
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| trained(&job, &data))
    };
    let (one, again) = (with(1), with(3));
    assert_eq!(one.model, again.model);
    assert_eq!(one.test, again.test);
    job.schedule.seed += 1;
    assert_ne!(one.model, trained(&job, &data).model);
}

/// Stops after so many epochs, as a kill would.
struct Killer(usize);
impl Observer for Killer {
    fn begin(&mut self, epoch: usize, _: usize) {
        assert!(epoch <= self.0, "killed");
    }
}

#[test]
fn an_interrupted_run_ends_as_an_uninterrupted_one() {
    let data = digits();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.checkpoint");
    let mut job = job(network(&recipe("lenet", "quadratic", Pooling::Mean), &data), 4);
    let whole = trained(&job, &data);
    job.checkpoint = Some((path.clone(), false));
    let interrupted = std::panic::catch_unwind(|| run(&job, &data, &mut Killer(2)));
    assert!(interrupted.is_err());
    let error = run(&job, &data, &mut Nobody).unwrap_err().to_string();
    assert!(error.contains("go on with --resume"), "{error}");

    job.checkpoint = Some((path.clone(), true));
    let mut other = job.clone();
    other.schedule.learning_rate *= 2.0;
    let error = run(&other, &data, &mut Nobody).unwrap_err().to_string();
    assert!(error.contains("of a run with other data, network or options"), "{error}");

    let resumed = trained(&job, &data);
    assert_eq!(resumed.resumed, 2);
    assert_eq!(resumed.model, whole.model);
    let measured = |log: &[Epoch]| log.iter().map(|e| (e.loss, e.accuracy_validation)).collect::<Vec<_>>();
    assert_eq!(measured(&resumed.log), measured(&whole.log));

    let bytes = std::fs::read(&path).unwrap();
    for damaged in [&bytes[..bytes.len() / 2], &bytes[..5], b"not a checkpoint at all"] {
        std::fs::write(&path, damaged).unwrap();
        let error = run(&job, &data, &mut Nobody).unwrap_err().to_string();
        assert!(error.contains("it is damaged; delete it"), "{error}");
    }
}

#[test]
fn a_checkpoint_that_cannot_be_written_keeps_the_one_before() {
    let data = digits();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.checkpoint");
    let mut job = job(network(&recipe("mlp:8", "quadratic", Pooling::Mean), &data), 3);
    job.checkpoint = Some((path.clone(), false));
    assert!(std::panic::catch_unwind(|| run(&job, &data, &mut Killer(1))).is_err());
    let before = std::fs::read(&path).unwrap();
    // Everything written there is refused: the disk is full.
    #[cfg(target_os = "linux")]
    {
        std::os::unix::fs::symlink("/dev/full", folder.path().join("run.checkpoint.part")).unwrap();
        job.checkpoint = Some((path.clone(), true));
        let error = run(&job, &data, &mut Nobody).unwrap_err();
        assert!(matches!(error, TrainError::Unwritten { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("No space left on device") && text.contains("--resume"), "{text}");
    }
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn early_stopping_keeps_the_best_epoch() {
    let data = digits();
    let mut job = job(network(&recipe("mlp:16", "quadratic", Pooling::Mean), &data), 60);
    job.schedule.patience = 3;
    let outcome = trained(&job, &data);
    assert!(outcome.log.len() < 60, "it never stopped");
    assert_eq!(outcome.log.len(), outcome.best_epoch + 3);
    let best = outcome.log.iter().map(|e| e.accuracy_validation).fold(0.0, f64::max);
    assert_eq!(outcome.validation.accuracy, best);
}

#[test]
fn learned_polynomials_keep_their_leading_coefficients_from_zero_and_their_constants_at_zero() {
    let data = digits();
    let mut job = job(network(&recipe("lenet", "quadratic", Pooling::Mean), &data), 3);
    job.schedule.least_coefficient = 0.09;
    let outcome = trained(&job, &data);
    let learned: Vec<_> = outcome.model.parameters.iter().filter(|(name, _)| name.ends_with(".coefficients")).collect();
    assert_eq!(learned.len(), 4);
    for (name, array) in learned {
        let channels = array.shape[1];
        assert!(array.values[..channels].iter().all(|c| *c == 0.0), "{name}: constants");
        assert!(array.values[2 * channels..].iter().all(|c| c.abs() >= 0.09), "{name}: leading coefficients");
    }
}

#[test]
fn the_penalty_keeps_operands_in_range() {
    let data = digits();
    let mut job = job(network(&recipe("lenet", "quadratic", Pooling::Mean), &data), 3);
    let widest = |job: &Job| {
        let ranges = trained(job, &data).ranges;
        assert_eq!(ranges.len(), 4);
        ranges.iter().map(|r| r.high.max(-r.low)).fold(0.0, f64::max)
    };
    job.schedule.penalty = 0.0;
    let free = widest(&job);
    (job.schedule.bound, job.schedule.penalty) = (2.0, 0.01);
    let held = widest(&job);
    assert!(held < 0.8 * free, "{held} with, {free} without");
}

#[test]
fn a_trained_relu_network_is_adapted_with_and_without_labels() {
    let data = digits();
    let original = trained(&job(network(&recipe("lenet", "relu", Pooling::Max), &data), 10), &data);
    // As a foreign file would come.
    let model = from_onnx(&to_onnx(&original.model, &BTreeMap::new()).unwrap()).unwrap();
    for labels in [0.1, 0.0] {
        let mut job = job(model.clone(), 6);
        job.adapt = Some((Choice::Quadratic, Pooling::Mean));
        job.schedule.learning_rate = 1e-3;
        job.schedule.teacher_share = 1.0 - labels;
        let outcome = trained(&job, &data);
        let adapted = outcome.adapted.unwrap();
        assert_eq!(adapted.replaced.len(), 6, "{:?}", adapted.replaced);
        assert!((adapted.accuracy_original - original.test.accuracy).abs() < 1e-9);
        assert!(adapted.agreement_after >= 0.9, "{adapted:?}");
        assert!(adapted.agreement_after >= adapted.agreement_before, "{adapted:?}");
        for node in &outcome.model.nodes {
            assert!(!matches!(
                node.op,
                Op::Activation(Activation::Function(_)) | Op::Pool { pooling: Pooling::Max, .. }
            ));
        }
        let network = Network::from_onnx(&to_onnx(&outcome.model, &BTreeMap::new()).unwrap()).unwrap();
        let split = network.split(&Scope::Classifier, &Substitutions::none()).unwrap();
        assert_eq!(split.chain.layers.len(), 3);
    }
    let error = |choice: &str, pooling| {
        let mut job = job(model.clone(), 1);
        job.adapt = Some((choice.parse().unwrap(), pooling));
        run(&job, &data, &mut Nobody).unwrap_err().to_string()
    };
    assert!(error("relu", Pooling::Mean).contains("an activation that encryption can evaluate"));
    assert!(error("square", Pooling::Max).contains("--pool mean or sum"));
}

#[test]
fn a_table_trains_to_a_network_whose_every_layer_can_be_protected() {
    let options = Options {
        target: Some("Machine failure".into()),
        drop: ["UDI", "Product ID", "TWF", "HDF", "PWF", "OSF", "RNF"].map(str::to_owned).to_vec(),
        categorical: vec!["Type".into()],
        ..Options::default()
    };
    let data = load(Kind::Csv, &repository().join("data/ai4i2020-1000.csv"), &options).unwrap();
    let mut job = job(network(&recipe("mlp:16", "quadratic", Pooling::Mean), &data), 30);
    job.schedule.balance = true;
    let outcome = trained(&job, &data);
    assert!(outcome.test.balanced_accuracy > 0.7, "{}", outcome.test.balanced_accuracy);
    let network = Network::from_onnx(&to_onnx(&outcome.model, &BTreeMap::new()).unwrap()).unwrap();
    let split = network.split(&Scope::All, &Substitutions::none()).unwrap();
    assert!(split.front.is_none());
    assert_eq!(split.chain.layers.len(), 2);
}

#[test]
fn what_does_not_fit_together_is_said() {
    let data = digits();
    let error = |job: &Job| run(job, &data, &mut Nobody).unwrap_err().to_string();
    let table = build(&recipe("mlp:8", "square", Pooling::Mean), Shape::Flat(7), &[0.0; 7], &[1.0; 7], 10).unwrap();
    assert!(error(&job(table, 1)).contains("give the data set it was made for"));
    let three = build(&recipe("mlp:8", "square", Pooling::Mean), data.shape, &[0.0], &[1.0], 3).unwrap();
    assert!(error(&job(three, 1)).contains("3 outputs, the data set 10 classes"));
    let flat = build(&recipe("keras-cnn", "relu", Pooling::Max), Shape::Flat(7), &[0.0; 7], &[1.0; 7], 2);
    assert!(flat.unwrap_err().to_string().contains("use mlp"));
    let tiny = Shape::Image { height: 6, width: 6, channels: 1 };
    let tiny = build(&recipe("keras-cnn", "relu", Pooling::Max), tiny, &[0.0], &[1.0], 2);
    assert!(tiny.unwrap_err().to_string().contains("larger images"));
    let listed = build(&recipe("lenet", "relu;square", Pooling::Max), data.shape, &[0.0], &[1.0], 2);
    assert!(listed.unwrap_err().to_string().contains("lenet has 4 activations, --activation lists 2"));
    assert!("vgg".parse::<Architecture>().unwrap_err().to_string().contains("use keras-cnn, lenet"));
    assert!("rellu".parse::<Choice>().unwrap_err().to_string().contains("is not an activation"));

    let mut diverging = job(network(&recipe("lenet", "x2+2x", Pooling::Sum), &data), 3);
    diverging.schedule.learning_rate = 1e30;
    diverging.schedule.clip = 1e30;
    assert!(matches!(run(&diverging, &data, &mut Nobody), Err(TrainError::Diverged { .. })));
}
