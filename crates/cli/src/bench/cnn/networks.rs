//! The networks that are measured whole: those of the repository, or one that is given.

use crate::arguments::{CnnFlags, CnnNetwork};
use crate::failure::{failure, io};
use crate::samples;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;
use std::path::{Path, PathBuf};
use subrosa_input::{Dataset, Preprocess, Samples};
use subrosa_network::Network;
use subrosa_terminal::Failure;

/// Random samples, where none are given, come from it.
pub(super) const SEED: u64 = 20_190_501;
/// Samples that ranges are taken from, unless there are fewer than twice as many.
const CALIBRATION: usize = 50;

/// A network of the repository with its samples, as files.
struct BuiltIn {
    name: &'static str,
    onnx: &'static [u8],
    /// Name that the samples' format is known by, and the samples.
    samples: (&'static str, &'static [u8]),
    preprocess: &'static str,
}

const DIGITS: (&str, &[u8]) = ("digits.gz", include_bytes!("../../../../../data/mnist-test-1000-images-idx3-ubyte.gz"));

fn built_in(network: CnnNetwork) -> BuiltIn {
    match network {
        CnnNetwork::Cifar => BuiltIn {
            name: "cifar10-quadratic",
            onnx: include_bytes!("../../../../../models/cifar10-quadratic.onnx"),
            samples: ("images.bin", include_bytes!("../../../../../data/cifar10-test-100.bin")),
            preprocess: "scale=1/255",
        },
        CnnNetwork::Mnist => BuiltIn {
            name: "mnist-quadratic",
            onnx: include_bytes!("../../../../../models/mnist-quadratic.onnx"),
            samples: DIGITS,
            preprocess: "scale=1/255",
        },
        CnnNetwork::Cryptonets => BuiltIn {
            name: "mnist-cryptonets",
            onnx: include_bytes!("../../../../../models/mnist-cryptonets.onnx"),
            samples: DIGITS,
            preprocess: "scale=1/255",
        },
        CnnNetwork::Ai4i => BuiltIn {
            name: "ai4i-mlp",
            onnx: include_bytes!("../../../../../models/ai4i-mlp.onnx"),
            samples: ("rows.csv", include_bytes!("../../../../../models/ai4i-mlp.test.csv")),
            preprocess: "",
        },
    }
}

/// A network to be measured, its files laid out in a directory.
pub(super) struct Subject {
    pub name: String,
    pub file: PathBuf,
    /// Samples for the ranges.
    pub calibration: PathBuf,
    /// Samples to evaluate.
    pub samples: PathBuf,
    /// The same, in memory.
    pub dataset: Dataset,
    /// What `protect` is told besides.
    pub flags: Vec<String>,
}

impl Subject {
    /// Lays out a network of the repository.
    pub fn of_repository(network: CnnNetwork, wanted: &CnnFlags, directory: &Path) -> Result<Self, Failure> {
        let BuiltIn { name, onnx, samples: (file, bytes), preprocess } = built_in(network);
        let path = directory.join(file);
        std::fs::write(&path, bytes).map_err(io("write", &path))?;
        let all = CALIBRATION + usize::from(wanted.runs);
        let data = subrosa_input::read(&path.to_string_lossy(), Some(all)).map_err(failure)?;
        let preprocess: Preprocess = preprocess.parse().map_err(failure)?;
        let shape = Network::from_onnx(onnx).map_err(failure)?.input_shape().to_vec();
        let inputs = preprocess.apply(&data, &shape).map_err(failure)?;
        Self::lay_out(name.to_owned(), onnx, &shape, (inputs, data.count), wanted, directory)
    }

    /// Lays out the network of `--model`.
    pub fn given(model: &Path, wanted: &CnnFlags, directory: &Path) -> Result<Self, Failure> {
        let onnx = std::fs::read(model).map_err(io("read", model))?;
        let shape = Network::from_onnx(&onnx).map_err(|e| failure(e).at(model.display()))?.input_shape().to_vec();
        let inputs = match &wanted.samples {
            Some(file) => {
                let data = samples::read(file, None, None)?;
                let inputs = wanted.preprocess.clone().unwrap_or_default().apply(&data, &shape);
                (inputs.map_err(|e| failure(e).at(file))?, data.count)
            }
            None => {
                let mut rng = ChaCha20Rng::seed_from_u64(SEED);
                let count = CALIBRATION + usize::from(wanted.runs);
                let values = count * shape.iter().product::<usize>();
                ((0..values).map(|_| rng.random_range(0.0..1.0)).collect(), count)
            }
        };
        let name = model.file_stem().unwrap_or(model.as_os_str()).to_string_lossy().into_owned();
        Self::lay_out(name, &onnx, &shape, inputs, wanted, directory)
    }

    /// The first samples are for the ranges, those behind them to evaluate, from the first again if they are too few.
    fn lay_out(
        name: String,
        onnx: &[u8],
        shape: &[usize],
        (inputs, count): (Vec<f32>, usize),
        wanted: &CnnFlags,
        directory: &Path,
    ) -> Result<Self, Failure> {
        let size = shape.iter().product::<usize>().max(1);
        let calibrated = CALIBRATION.min(count.div_ceil(2));
        let place = |file: &str| directory.join(file);
        let (file, calibration, evaluated) = (place("network.onnx"), place("calibration.npy"), place("samples.npy"));
        std::fs::write(&file, onnx).map_err(io("write", &file))?;
        let raw = |data: Vec<f32>| Samples::Raw { shape: shape.to_vec(), data };
        samples::write_npy(&calibration, &raw(inputs.get(..calibrated * size).unwrap_or(&inputs).to_vec()))?;
        let others = inputs.get(calibrated * size..).filter(|rest| !rest.is_empty()).unwrap_or(&inputs);
        let runs = usize::from(wanted.runs);
        let samples = raw(others.chunks(size).cycle().take(runs).flatten().copied().collect());
        samples::write_npy(&evaluated, &samples)?;
        let dataset = Dataset { count: runs, samples, labels: None, names: None };
        let flags = wanted.activations.iter().flat_map(|a| ["--activation".to_owned(), a.to_string()]);
        let limit = wanted.memory_limit.map(|bytes| ["--memory-limit".to_owned(), bytes.to_string()]);
        let flags = flags.chain(limit.into_iter().flatten()).collect();
        Ok(Self { name, file, calibration, samples: evaluated, dataset, flags })
    }
}
