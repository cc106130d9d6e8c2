//! The Processing Agent: a loaded bundle that answers sample after sample.

use crate::diagonals::Matrix;
use crate::error::EdgeError;
use crate::execute;
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use subrosa_fhe::{
    Ciphertext, Encoder, EvaluationKeys, Evaluator, IntegerEncoder, Kernel, Parameters, Plaintext, PublicKey, wire,
};
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

/// What the registers of an evaluation hold.
pub type Registers<'a> = dyn Fn(Register) -> Option<Ciphertext> + 'a;

/// One sample's features, ready for the blind evaluation.
pub enum Input {
    /// Encoded only.
    Plain(Vec<Plaintext>),
    /// Encrypted with the network's public key.
    Encrypted(Vec<Ciphertext>),
    /// Of exact integers, for each plaintext modulus.
    Channels(Vec<Input>),
}

impl Input {
    /// Bytes of the input's ciphertexts in packed form; 0 for a plain input.
    pub fn ciphertext_bytes(&self, parameters: &Parameters) -> usize {
        match self {
            Self::Plain(_) => 0,
            Self::Channels(inputs) => inputs.iter().map(|input| input.ciphertext_bytes(parameters)).sum(),
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
    /// For exact integers.
    integers: Option<IntegerEncoder>,
    keys: Arc<EvaluationKeys>,
    public_key: Option<PublicKey>,
    constants: Vec<Constants>,
    /// For each step, the registers that nothing reads after it.
    dead: Vec<Vec<Register>>,
    front: Option<PlainNetwork>,
    preprocess: Preprocess,
    signer: Signer,
    trusted: bool,
    /// The program modulo each further plaintext modulus.
    further: Vec<Processor>,
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
        let keys = Arc::new(bundle.keys(&parameters)?);
        bundle.release();
        let public_key = bundle.public_key(&parameters)?;
        let threads = if options.threads == 0 { rayon::current_num_threads() } else { options.threads };
        let front = bundle.front()?.map(|onnx| PlainNetwork::load(onnx, threads)).transpose()?;
        let preprocess = bundle.manifest.preprocess.as_deref().map_or(Ok(Preprocess::default()), str::parse)?;
        if bundle.program.input.encrypted && public_key.is_none() {
            return Err(EdgeError::Program("the input is to be encrypted, but there is no public key".into()));
        }
        let encoder = Encoder::new(&parameters);
        let channel = |(i, program): (usize, Program), front| {
            let parameters = Parameters::new(program.parameters.clone(), kernel)?;
            Ok(Self {
                constants: load_constants(&bundle, &parameters, &program, i * program.constants.len())?,
                evaluator: Evaluator::new(&parameters),
                encoder: encoder.clone(),
                integers: parameters.plain().map(|_| IntegerEncoder::new(&parameters)).transpose()?,
                manifest: bundle.manifest.clone(),
                dead: dead_registers(&program),
                program,
                parameters,
                keys: Arc::clone(&keys),
                public_key: public_key.clone(),
                front,
                preprocess: preprocess.clone(),
                signer,
                trusted: options.trust.is_some(),
                further: Vec::new(),
            })
        };
        let mut channels = bundle.program.channels().into_iter().enumerate();
        let first = channels.next().ok_or_else(|| EdgeError::Program("there is no program".into()))?;
        let mut processor: Self = channel(first, front)?;
        processor.further = channels.map(|each| channel(each, None)).collect::<Result<_, EdgeError>>()?;
        Ok(processor)
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
        if self.further.is_empty() {
            return self.encoded(&x);
        }
        let channels = std::iter::once(self).chain(&self.further);
        Ok(Input::Channels(channels.map(|channel| channel.encoded(&x)).collect::<Result<_, _>>()?))
    }

    /// Checked features, encoded, and encrypted if the bundle says so.
    fn encoded(&self, x: &[f64]) -> Result<Input, EdgeError> {
        let spec = &self.program.input;
        let plain = match &self.integers {
            Some(encoder) => self.integer_plaintexts(encoder, x)?,
            None => self.plaintexts(x)?,
        };
        let Some(key) = self.public_key.as_ref().filter(|_| spec.encrypted) else { return Ok(Input::Plain(plain)) };
        let mut rng = os_rng()?;
        let encrypted: Result<_, _> = plain.iter().map(|p| key.encrypt(&self.parameters, p, &mut rng)).collect();
        Ok(Input::Encrypted(encrypted?))
    }

    fn plaintexts(&self, x: &[f64]) -> Result<Vec<Plaintext>, EdgeError> {
        let spec = &self.program.input;
        let mut plain = Vec::with_capacity(spec.layout.polynomials());
        for i in 0..spec.layout.polynomials() {
            plain.push(match &spec.layout {
                InputLayout::Diagonals(d) => self.encoder.encode(&d.input_slots(i, x), spec.scale, spec.level)?,
                InputLayout::Tiles(d) => self.encoder.encode_real(&d.input_slots(i, x), spec.scale, spec.level)?,
                InputLayout::CoefficientDot(d) => {
                    self.encoder.encode_coefficients(&d.input_coefficients(i, x), spec.scale, spec.level)?
                }
            });
        }
        Ok(plain)
    }

    /// The blind evaluation: the result ciphertexts of one sample, for its owner to decrypt; those of a plaintext modulus after those
    /// of the one before.
    pub fn infer(&self, input: &Input) -> Result<Vec<Ciphertext>, EdgeError> {
        self.infer_watched(input, &mut |_, _, _| ())
    }

    /// The same; `after` is told of every step when it is done: the number of the plaintext modulus, of the step, and what the
    /// registers hold. A step that takes no pass of its own (biases that sums start with) is done with the one before.
    pub fn infer_watched(
        &self,
        input: &Input,
        after: &mut dyn FnMut(usize, usize, &Registers<'_>),
    ) -> Result<Vec<Ciphertext>, EdgeError> {
        let channels: Vec<&Self> = std::iter::once(self).chain(&self.further).collect();
        let inputs = match input {
            Input::Channels(inputs) => inputs.as_slice(),
            one => std::slice::from_ref(one),
        };
        if channels.len() != inputs.len() {
            return Err(EdgeError::Program("the input is not for all plaintext moduli of this network".into()));
        }
        let mut results = Vec::new();
        for (i, (channel, input)) in channels.into_iter().zip(inputs).enumerate() {
            results.extend(execute::execute(channel, input, |step, registers| after(i, step, registers))?);
        }
        Ok(results)
    }

    /// The same with the time of every step of the program, in seconds, one after the other.
    pub fn infer_profiled(&self, input: &Input) -> Result<(Vec<Ciphertext>, Vec<f64>), EdgeError> {
        let mut times = vec![0.0; self.program.steps.len()];
        let mut start = Instant::now();
        let result = self.infer_watched(input, &mut |_, step, _| {
            if let Some(time) = times.get_mut(step) {
                *time += start.elapsed().as_secs_f64();
            }
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
            ciphertexts: self.program.output.registers.len() * self.program.channel_count(),
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

/// Unpacks the constants of a channel, which are those from group `first` on, all cores at work; those of products by diagonals are packed
/// again, in the order they are read.
fn load_constants(
    bundle: &Bundle,
    parameters: &Parameters,
    program: &Program,
    first: usize,
) -> Result<Vec<Constants>, EdgeError> {
    // Groups that are read as streams, with the number of their sums and of the products in each.
    let mut matrices = BTreeMap::new();
    // Those that are multiplied with ciphertexts.
    let mut factors = BTreeSet::new();
    let of_layout = |d: &Diagonals| (d.giants, d.tiles.iter().map(|t| t.babies).sum::<usize>());
    for step in &program.steps {
        match (step, &program.input.layout) {
            (Step::DiagonalsPlain { weights, .. }, InputLayout::Diagonals(layout)) => {
                matrices.insert(*weights, of_layout(layout));
            }
            (Step::DiagonalsCipher { weights, layout, .. }, _) => {
                factors.insert(*weights);
                matrices.insert(*weights, of_layout(layout));
            }
            (Step::Linear { products, .. }, _) => {
                factors.extend(products.iter().map(|p| p.weights));
                matrices.extend(products.iter().map(|p| (p.weights, (p.giants.len(), p.terms()))));
            }
            (Step::LinearPlain { weights, inputs, .. }, _) => {
                matrices.insert(*weights, (1, inputs.first().map_or(0, Vec::len)));
            }
            _ => {}
        }
    }
    let evaluator = Evaluator::new(parameters);
    let mut out = Vec::new();
    let own = bundle.constants(parameters)?.into_iter().skip(first).take(program.constants.len());
    for (group, packed) in own.enumerate() {
        let unpack = |bytes: &[u8]| -> Result<Ciphertext, EdgeError> {
            let constant = bundle.constant(parameters, first + group, bytes)?.expand(parameters)?;
            Ok(if factors.contains(&group) { evaluator.factor(&constant)?.into_owned() } else { constant })
        };
        let unpack_plain = |bytes: &[u8]| -> Result<Plaintext, EdgeError> {
            Ok(bundle.plain_constant(parameters, first + group, bytes)?)
        };
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
        bundle.release();
    }
    Ok(out)
}
