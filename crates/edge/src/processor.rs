//! The Processing Agent: a loaded bundle that answers sample after sample.

use crate::diagonals::Matrix;
use crate::error::EdgeError;
use crate::execute;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;
use subrosa_fhe::{Ciphertext, Encoder, EvaluationKeys, Evaluator, Kernel, Parameters, Plaintext, PublicKey, wire};
use subrosa_input::{Dataset, Preprocess};
use subrosa_plain::PlainNetwork;
use subrosa_program::bundle::{BUNDLE_KIND, Bundle, Manifest};
use subrosa_program::container::Signer;
use subrosa_program::layout::Diagonals;
use subrosa_program::results::{ResultsManifest, ResultsWriter};
use subrosa_program::{InputLayout, Program, Register, Step};
use subrosa_ring::sampler::os_rng;

/// How a bundle is loaded.
#[derive(Default)]
pub struct Options {
    /// The owner whose bundles are accepted; `None` accepts any signed bundle.
    pub trust: Option<Signer>,
    /// Threads of the plain part; 0 means all cores. (Everything else uses rayon's global pool.)
    pub threads: usize,
    /// Arithmetic kernel; `None` takes the best, or what `SUBROSA_KERNEL` names.
    pub kernel: Option<Kernel>,
}

/// Constants as the steps use them.
pub(crate) enum Constants {
    /// In their order.
    Ciphertexts(Vec<Ciphertext>),
    /// Not encrypted, in their order.
    Plaintexts(Vec<Plaintext>),
    /// Packed for products by diagonals.
    Matrix(Matrix),
}

/// One sample's features, ready for the blind evaluation.
pub enum Input {
    /// Encoded only.
    Plain(Vec<Plaintext>),
    /// Encrypted with the network's public key.
    Encrypted(Vec<Ciphertext>),
}

impl Input {
    /// Bytes of the input's ciphertexts in packed form; 0 for a plain input.
    pub fn ciphertext_bytes(&self, parameters: &Parameters) -> usize {
        match self {
            Self::Plain(_) => 0,
            Self::Encrypted(c) => c.iter().map(|c| wire::ciphertext_len(parameters, c.level(), c.degree())).sum(),
        }
    }
}

/// Samples as the whole network takes them.
pub struct Acquired {
    /// Number of samples.
    pub count: usize,
    /// `count` times the network's input, row-major.
    pub data: Vec<f32>,
}

/// A loaded bundle.
pub struct Processor {
    manifest: Manifest,
    program: Program,
    parameters: Parameters,
    evaluator: Evaluator,
    encoder: Encoder,
    keys: EvaluationKeys,
    public_key: Option<PublicKey>,
    constants: Vec<Constants>,
    /// For each step, the registers that nothing reads after it.
    dead: Vec<Vec<Register>>,
    front: Option<PlainNetwork>,
    preprocess: Preprocess,
    signer: Signer,
    trusted: bool,
}

impl Processor {
    /// Loads a bundle: checks its integrity, its signature (against the trusted owner, if one is given) and its program, and
    /// unpacks keys and weights.
    ///
    /// # Errors
    /// A file that is damaged, unsigned, not a bundle or another owner's; a kernel that this machine lacks.
    pub fn load(path: &Path, options: &Options) -> Result<Self, EdgeError> {
        let (bundle, signer) = open_bundle(path, options.trust.as_ref())?;
        let kernel = match options.kernel {
            Some(kernel) => kernel,
            None => Kernel::active()?,
        };
        let parameters = bundle.parameters(kernel)?;
        let keys = bundle.keys(&parameters)?;
        let public_key = bundle.public_key(&parameters)?;
        let constants = load_constants(&bundle, &parameters)?;
        let threads = if options.threads == 0 { rayon::current_num_threads() } else { options.threads };
        let front = bundle.front()?.map(|onnx| PlainNetwork::load(onnx, threads)).transpose()?;
        let preprocess = bundle.manifest.preprocess.as_deref().map_or(Ok(Preprocess::default()), str::parse)?;
        if bundle.program.input.encrypted && public_key.is_none() {
            return Err(EdgeError::Program("the input is to be encrypted, but there is no public key".into()));
        }
        let dead = dead_registers(&bundle.program);
        Ok(Self {
            evaluator: Evaluator::new(&parameters),
            encoder: Encoder::new(&parameters),
            manifest: bundle.manifest,
            program: bundle.program,
            parameters,
            keys,
            public_key,
            constants,
            dead,
            front,
            preprocess,
            signer,
            trusted: options.trust.is_some(),
        })
    }

    /// What the network is.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }
    /// What is executed.
    pub fn program(&self) -> &Program {
        &self.program
    }
    /// The ring and its primes.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }
    /// Who signed the bundle, and whether that was checked against a trusted key.
    pub fn signer(&self) -> (&Signer, bool) {
        (&self.signer, self.trusted)
    }
    /// Features that enter the protected part.
    pub fn feature_count(&self) -> usize {
        self.program.input.features
    }
    pub(crate) fn evaluator(&self) -> &Evaluator {
        &self.evaluator
    }
    pub(crate) fn encoder(&self) -> &Encoder {
        &self.encoder
    }
    pub(crate) fn keys(&self) -> &EvaluationKeys {
        &self.keys
    }
    pub(crate) fn constants(&self, group: usize) -> Option<&Constants> {
        self.constants.get(group)
    }

    pub(crate) fn dead_after(&self, step: usize) -> &[Register] {
        self.dead.get(step).map_or(&[], Vec::as_slice)
    }

    /// Data Stream Acquisition: reads a file (or `-`, NDJSON on standard input) and preprocesses it as the bundle declares.
    pub fn acquire(&self, path: &str, limit: Option<usize>) -> Result<Acquired, EdgeError> {
        self.preprocess(&subrosa_input::read(path, limit)?)
    }

    /// Preprocesses samples that were read already.
    pub fn preprocess(&self, samples: &Dataset) -> Result<Acquired, EdgeError> {
        let data = self.preprocess.apply(samples, &self.manifest.input_shape)?;
        Ok(Acquired { count: samples.count, data })
    }

    /// Runs the plain part: `count` samples in, `count` x [`Self::feature_count`] features out.
    pub fn features(&self, count: usize, samples: &[f32]) -> Result<Vec<f32>, EdgeError> {
        let features = match &self.front {
            Some(front) => front.run(count, samples)?,
            None => samples.to_vec(),
        };
        let expected = count * self.feature_count();
        if features.len() != expected {
            return Err(EdgeError::FeatureCount { found: features.len(), expected });
        }
        Ok(features)
    }

    /// Encodes one sample's features, and encrypts them if the bundle says so.
    ///
    /// # Errors
    /// A wrong number of features, NaN or infinity, features outside the range the network was protected for.
    pub fn prepare(&self, features: &[f32]) -> Result<Input, EdgeError> {
        let spec = &self.program.input;
        if features.len() != spec.features {
            return Err(EdgeError::FeatureCount { found: features.len(), expected: spec.features });
        }
        if let Some(index) = features.iter().position(|x| !x.is_finite()) {
            return Err(EdgeError::NotFinite { index });
        }
        let x = spec.normalised(features.iter().map(|&x| f64::from(x)));
        let largest = x.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        let norm = x.iter().map(|v| v * v).sum::<f64>().sqrt();
        for (what, value, limit) in [("largest value", largest, spec.max_abs), ("Euclidean norm", norm, spec.max_norm)]
        {
            if value > limit {
                return Err(EdgeError::OutOfRange { what, value, limit });
            }
        }
        let mut plain = Vec::with_capacity(spec.layout.polynomials());
        for i in 0..spec.layout.polynomials() {
            plain.push(match &spec.layout {
                InputLayout::Diagonals(d) => self.encoder.encode(&d.input_slots(i, &x), spec.scale, spec.level)?,
                InputLayout::Tiles(d) => self.encoder.encode_real(&d.input_slots(i, &x), spec.scale, spec.level)?,
                InputLayout::CoefficientDot(d) => {
                    self.encoder.encode_coefficients(&d.input_coefficients(i, &x), spec.scale, spec.level)?
                }
            });
        }
        let Some(key) = self.public_key.as_ref().filter(|_| spec.encrypted) else { return Ok(Input::Plain(plain)) };
        let mut rng = os_rng()?;
        let encrypted: Result<_, _> = plain.iter().map(|p| key.encrypt(&self.parameters, p, &mut rng)).collect();
        Ok(Input::Encrypted(encrypted?))
    }

    /// The blind evaluation: the result ciphertexts of one sample, for its owner to decrypt.
    pub fn infer(&self, input: &Input) -> Result<Vec<Ciphertext>, EdgeError> {
        execute::execute(self, input, |_| ())
    }

    /// The same with the time of every step of the program, in seconds, one after the other.
    pub fn infer_profiled(&self, input: &Input) -> Result<(Vec<Ciphertext>, Vec<f64>), EdgeError> {
        let mut times = Vec::with_capacity(self.program.steps.len());
        let mut start = Instant::now();
        let result = execute::execute(self, input, |_| {
            times.push(start.elapsed().as_secs_f64());
            start = Instant::now();
        })?;
        Ok((result, times))
    }

    /// Begins a results file for this network.
    pub fn results(&self, path: &Path) -> Result<ResultsWriter, EdgeError> {
        let manifest = ResultsManifest {
            model: self.manifest.id.clone(),
            name: self.manifest.name.clone(),
            version: self.manifest.version,
            count: 0,
            ciphertexts: self.program.output.registers.len(),
        };
        Ok(ResultsWriter::create(path, manifest)?)
    }
}

/// For each step, the registers that are read there for the last time.
fn dead_registers(program: &Program) -> Vec<Vec<Register>> {
    let mut last = BTreeMap::new();
    for (i, step) in program.steps.iter().enumerate() {
        last.extend(step.sources().into_iter().map(|r| (r, i)));
    }
    let mut dead = vec![Vec::new(); program.steps.len()];
    for (register, step) in last {
        if let (Some(list), false) = (dead.get_mut(step), program.output.registers.contains(&register)) {
            list.push(register);
        }
    }
    dead
}

/// Opens a bundle, checks its integrity and program, and its signature: against the trusted owner, if one is given.
///
/// # Errors
/// A file that is damaged, unsigned, not a bundle or another owner's.
pub fn open_bundle(path: &Path, trust: Option<&Signer>) -> Result<(Bundle, Signer), EdgeError> {
    let bundle = Bundle::open(path, BUNDLE_KIND)?;
    let file = || path.display().to_string();
    let signer = *bundle.signer().ok_or_else(|| EdgeError::Unsigned { file: file() })?;
    if let Some(trusted) = trust.filter(|t| **t != signer) {
        let (found, trusted) = (signer.fingerprint(), trusted.fingerprint());
        return Err(EdgeError::ForeignOwner { file: file(), found, trusted });
    }
    Ok((bundle, signer))
}

/// Unpacks the constants, all cores at work; those of products by diagonals are packed again, in the order they are read.
fn load_constants(bundle: &Bundle, parameters: &Parameters) -> Result<Vec<Constants>, EdgeError> {
    let program = &bundle.program;
    // Groups that are read as streams, with the number of their sums and of the products in each.
    let mut matrices = BTreeMap::new();
    let of_layout = |d: &Diagonals| (d.giants, d.tiles.iter().map(|t| t.babies).sum::<usize>());
    for step in &program.steps {
        match (step, &program.input.layout) {
            (Step::DiagonalsPlain { weights, .. }, InputLayout::Diagonals(layout)) => {
                matrices.insert(*weights, of_layout(layout));
            }
            (Step::DiagonalsCipher { weights, layout, .. }, _) => {
                matrices.insert(*weights, of_layout(layout));
            }
            (Step::Linear { products, .. }, _) => {
                matrices.extend(products.iter().map(|p| (p.weights, (p.giants.len(), p.terms()))));
            }
            (Step::LinearPlain { weights, inputs, .. }, _) => {
                matrices.insert(*weights, (1, inputs.first().map_or(0, Vec::len)));
            }
            _ => {}
        }
    }
    let mut out = Vec::new();
    for (group, packed) in bundle.constants(parameters)?.into_iter().enumerate() {
        let unpack = |bytes: &[u8]| -> Result<Ciphertext, EdgeError> {
            Ok(bundle.constant(parameters, group, bytes)?.expand(parameters)?)
        };
        let unpack_plain =
            |bytes: &[u8]| -> Result<Plaintext, EdgeError> { Ok(bundle.plain_constant(parameters, group, bytes)?) };
        out.push(match (matrices.get(&group), program.constants.get(group)) {
            (Some(&sums), Some(shape)) if shape.plain => {
                let at = (shape.level, shape.scale);
                Constants::Matrix(Matrix::load_plain(parameters, sums, at, &packed, unpack_plain)?)
            }
            (None, Some(shape)) if shape.plain => {
                Constants::Plaintexts(packed.par_iter().map(|bytes| unpack_plain(bytes)).collect::<Result<_, _>>()?)
            }
            (Some(&sums), Some(shape)) => {
                Constants::Matrix(Matrix::load(parameters, sums, (shape.level, shape.scale), &packed, unpack)?)
            }
            _ => Constants::Ciphertexts(packed.par_iter().map(|bytes| unpack(bytes)).collect::<Result<_, _>>()?),
        });
    }
    Ok(out)
}
