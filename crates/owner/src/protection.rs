//! The Protection Agent: approximates, plans and encrypts a network, and registers it.

use crate::calibration::{self, Calibration};
use crate::error::OwnerError;
use crate::exact::{self, IntegerConstants, IntegerSettings};
use crate::fitting::FittedActivation;
use crate::protected::{Fits, Form, Protected};
use crate::release::{FloodedForecast, Flooding};
use crate::{Owner, Progress, key_generator};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Instant;
use subrosa_fhe::security::SecurityLevel;
use subrosa_fhe::{Encoder, Kernel, Parameters, Scheme};
use subrosa_input::{Dataset, Preprocess};
use subrosa_network::{Circuit, Network, Polynomial, Scope, Substitutions};
use subrosa_plan::{CostModel, FixedPoint, Forecast, Plan, PlanRequest, Prefer, WholeRequest, plan, plan_whole};
use subrosa_program::ConstantGroup;
use subrosa_program::bundle::{Manifest, PackedConstant, ProtectedWriter, packed_len};
use subrosa_registry::{NewModel, Vault};

/// File names in a model's directory.
pub(crate) const PROTECTED_FILE: &str = "protected.srp";
pub(crate) const NETWORK_FILE: &str = "network.onnx";
/// The measured cost model in the owner's home.
pub const COST_MODEL_FILE: &str = "cost-model.json";
/// Most bytes of keys and weights in the edge's memory unless more are permitted.
pub const USUAL_MEMORY: u64 = 20_000_000_000;
/// Ciphertexts that are encrypted before they are written together; bounds the memory of `protect`.
const BATCH: usize = 64;

/// How a network is to be protected.
pub struct ProtectRequest<'a> {
    /// The network, an ONNX file.
    pub onnx: &'a [u8],
    /// Its name in the registry.
    pub name: &'a str,
    /// Which part is encrypted.
    pub scope: Scope,
    /// Whether the edge encrypts the features too.
    pub encrypted_input: bool,
    /// Whether the weights are handed out as they are, and only the input is encrypted: what the owner of the data, not of the
    /// network, asks for. Needs an encrypted input.
    pub plain_weights: bool,
    /// Polynomials for activations inside the protected part.
    pub substitutions: Substitutions,
    /// Preprocessing of pixels; part of the protected network.
    pub preprocess: Option<Preprocess>,
    /// Calibration data.
    pub calibrate: Option<&'a Dataset>,
    /// Level of security.
    pub security: SecurityLevel,
    /// Replace activations even if the cost is not known.
    pub force: bool,
    /// Whether layers without an activation between them are multiplied into one where that saves weights.
    pub fold: bool,
    /// Names of the classes, one for each output; never leave the owner.
    pub classes: Option<Vec<String>>,
    /// Most bytes of keys and weights that the edge may keep in memory; `None` is [`USUAL_MEMORY`].
    pub memory_limit: Option<u64>,
    /// What the plan is to be best in.
    pub prefer: Prefer,
    /// What the engine's work costs on the edge; `None` takes [`cost_model`] of the owner's home.
    pub costs: Option<&'a CostModel>,
    /// The encryption scheme.
    pub scheme: Scheme,
    /// What values are multiplied by before they are rounded to integers; `None` lets the planner find it. Only in BGV.
    pub fixed_point: Option<FixedPoint>,
}

impl<'a> ProtectRequest<'a> {
    /// The usual way: the classifier, weights and input encrypted, 128 bits, for speed.
    pub fn new(onnx: &'a [u8], name: &'a str) -> Self {
        Self {
            onnx,
            name,
            scope: Scope::default(),
            encrypted_input: true,
            plain_weights: false,
            substitutions: Substitutions::none(),
            preprocess: None,
            calibrate: None,
            security: SecurityLevel::Bits128,
            force: false,
            fold: true,
            classes: None,
            memory_limit: None,
            prefer: Prefer::default(),
            costs: None,
            scheme: Scheme::default(),
            fixed_point: None,
        }
    }
}

/// What `protect` did; stored with the model.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProtectReport {
    /// Id in the registry.
    pub id: String,
    /// Name.
    pub name: String,
    /// Version of that name.
    pub version: u32,
    /// "ckks" or "bgv".
    pub scheme: String,
    /// 128, 192 or 256.
    pub security_bits: u32,
    /// log2 of the ring degree.
    pub log_n: u32,
    /// Largest log2(QP) in use.
    pub log_qp: f64,
    /// Ciphertext primes.
    pub levels: usize,
    /// Sizes of the ciphertext primes, then of the special primes.
    pub moduli_bits: Vec<u32>,
    /// Which part is encrypted.
    pub scope: String,
    /// "plain" or "encrypted".
    pub input: String,
    /// Whether the weights are encrypted; else only the input is.
    #[serde(default = "always")]
    pub weights_encrypted: bool,
    /// Weights and biases of the protected part (numbers, not ciphertexts).
    pub weights: usize,
    /// Ciphertexts that hold them; 0 where they are not encrypted.
    pub ciphertexts: usize,
    /// Evaluation keys.
    pub evaluation_keys: usize,
    /// Bytes of the encrypted weights.
    pub model_bytes: u64,
    /// Bytes of the public and evaluation keys.
    pub key_bytes: u64,
    /// Time before it: reading the network, calibrating and planning.
    #[serde(default)]
    pub plan_seconds: f64,
    /// Time of key generation.
    pub keygen_seconds: f64,
    /// Time of all of it.
    pub protect_seconds: f64,
    /// What is predicted.
    pub forecast: Forecast,
    /// What is predicted of outputs that leave the owner's process, if the network was protected for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flooded: Option<FloodedForecast>,
    /// Where the ranges come from, and what replaced activations cost.
    pub calibration: Calibration,
    /// Activations that were replaced, for people.
    pub replaced: Vec<String>,
    /// What is needed to repeat the split of the network.
    pub settings: Settings,
}

/// The choices that define the approximated network.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Settings {
    /// Which part is encrypted.
    pub scope: Scope,
    /// Polynomials for activations.
    pub substitutions: Substitutions,
    /// The polynomials that were fitted in the place of activations, by layer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fitted: Vec<(String, Polynomial)>,
    /// Preprocessing of pixels.
    pub preprocess: Option<Preprocess>,
    /// Activation after the last layer, which the owner applies.
    pub output_activation: Option<Polynomial>,
    /// Names of the classes.
    pub classes: Option<Vec<String>>,
    /// What the plan was to be best in.
    #[serde(default)]
    pub prefer: Prefer,
    /// The integer network; none in CKKS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub integers: Option<IntegerSettings>,
}

/// A network that was imported, split and calibrated.
pub struct Prepared {
    pub(crate) network: Network,
    pub(crate) protected: Protected,
    pub(crate) calibration: Calibration,
    flooding: Option<Flooding>,
    started: Instant,
}

impl Prepared {
    /// What calibration found.
    pub fn calibration(&self) -> &Calibration {
        &self.calibration
    }

    /// Plans for outputs that may leave the owner's process, flooded with so much noise: their error must be that much smaller.
    pub fn with_flooding(self, flooding: Option<Flooding>) -> Self {
        Self { flooding, ..self }
    }

    /// The error that the plan may have: `wanted`, or less where outputs are to be flooded.
    fn max_error(&self, wanted: f64) -> f64 {
        let flooded = self.flooding.map(|f| f.error_wanted(self.calibration.largest_output, self.network.outputs()));
        flooded.map_or(wanted, |f| f.min(wanted))
    }

    /// Activations that are replaced, for people.
    pub fn replaced(&self) -> Vec<String> {
        replacements(&self.protected, &self.calibration.fits)
    }

    /// Share of samples to which the approximated network gives the original's top class, in plaintext.
    ///
    /// # Errors
    /// Samples that the network does not take.
    pub fn agreement_on(&self, data: &Dataset, preprocess: &Preprocess) -> Result<f64, OwnerError> {
        let found = calibration::on_data(&self.network, &self.protected, data, preprocess)?;
        Ok(found.agreement_original.unwrap_or_default())
    }
}

/// A prepared network with the plan of its protection.
pub struct Planned {
    prepared: Prepared,
    plan: Plan,
}

impl Planned {
    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What it was made from.
    pub fn prepared(&self) -> &Prepared {
        &self.prepared
    }
}

impl Owner {
    /// Imports, splits and calibrates a network, which says what replaced activations cost before anything is encrypted.
    ///
    /// # Errors
    /// Networks that cannot be protected so, and replacements whose cost is not known.
    pub fn prepare(&self, request: &ProtectRequest) -> Result<Prepared, OwnerError> {
        prepare(request)
    }

    /// Plans a network's protection without generating or storing anything.
    pub fn plan(&self, request: &ProtectRequest) -> Result<Planned, OwnerError> {
        self.plan_prepared(request, prepare(request)?)
    }

    /// The same of a network that was prepared.
    pub fn plan_prepared(&self, request: &ProtectRequest, prepared: Prepared) -> Result<Planned, OwnerError> {
        Ok(Planned { plan: self.make_plan(request, &prepared)?, prepared })
    }

    /// Prepares a network, plans its protection and protects it, see [`protect_planned`](Self::protect_planned).
    pub fn protect(
        &self,
        request: &ProtectRequest,
        vault: &Vault,
        progress: &dyn Progress,
    ) -> Result<ProtectReport, OwnerError> {
        subrosa_registry::validate_name(request.name)?;
        self.protect_planned(request, self.plan(request)?, vault, progress)
    }

    /// Generates keys, encrypts every weight and bias of the protected part and registers the result. The vault receives
    /// the network's secret key before the registry names the network; a crash leaves the old or the new state.
    pub fn protect_planned(
        &self,
        request: &ProtectRequest,
        Planned { prepared, plan }: Planned,
        vault: &Vault,
        progress: &dyn Progress,
    ) -> Result<ProtectReport, OwnerError> {
        subrosa_registry::validate_name(request.name)?;
        let plan_seconds = prepared.started.elapsed().as_secs_f64();
        let program = &plan.program;
        let parameters = Parameters::new(program.parameters.clone(), Kernel::active()?)?;

        let keygen = Instant::now();
        progress.begin("generating keys", program.keys.len());
        let keys = key_generator::generate(&parameters, program, &|| progress.advance(1))?;
        progress.end();
        let keygen_seconds = keygen.elapsed().as_secs_f64();

        let staging = self.registry.begin()?;
        let first = prepared.protected.first_layer();
        let front = prepared.protected.front().unwrap_or_default();
        let before = prepared.network.layers().iter().position(|l| Some(l.name.as_str()) == first);
        let layers_plain = if front.is_empty() { 0 } else { before.unwrap_or(0) };
        let manifest = Manifest {
            id: staging.id().to_string(),
            name: request.name.into(),
            version: 0,
            scheme: program.scheme().to_string(),
            security_bits: request.security.bits(),
            scope: request.scope.to_string(),
            input: encrypted_or_plain(request.encrypted_input),
            weights: encrypted_or_plain(!request.plain_weights),
            input_shape: prepared.network.input_shape().to_vec(),
            preprocess: request.preprocess.as_ref().map(ToString::to_string),
            layers_plain,
            layers_encrypted: prepared.protected.layers(),
            outputs: prepared.network.outputs(),
            predicted: Some(plan.predicted_times()),
        };
        let path = staging.dir().join(PROTECTED_FILE);
        let mut file = ProtectedWriter::create(&path, &manifest, program, front, &keys.public, &keys.evaluation)?;
        let task = if request.plain_weights { "encoding weights" } else { "encrypting weights" };
        progress.begin(task, program.constant_count());
        encrypt_constants(&plan, &parameters, &keys.secret, |constant| {
            file.constant(&parameters, &constant)?;
            progress.advance(1);
            Ok(())
        })?;
        file.finish()?;
        progress.end();
        let network_file = staging.dir().join(NETWORK_FILE);
        std::fs::write(&network_file, request.onnx).map_err(|e| OwnerError::io("write", &network_file, e))?;

        let spec = &program.parameters;
        let bits = |q: &u64| u64::BITS - q.leading_zeros();
        let packed = |group: &ConstantGroup| (group.count * packed_len(&parameters, group)) as u64;
        let report = ProtectReport {
            id: manifest.id.clone(),
            name: request.name.into(),
            version: 0,
            scheme: manifest.scheme.clone(),
            security_bits: manifest.security_bits,
            log_n: spec.log_n,
            log_qp: plan.log_qp,
            levels: spec.level_count(),
            moduli_bits: spec.ciphertext_primes.iter().chain(&spec.special_primes).map(bits).collect(),
            scope: manifest.scope.clone(),
            input: manifest.input.clone(),
            weights_encrypted: !request.plain_weights,
            weights: prepared.protected.parameters(),
            ciphertexts: program.ciphertexts(),
            evaluation_keys: program.keys.len(),
            model_bytes: program.groups().iter().map(packed).sum(),
            key_bytes: (keys.public.len() + keys.evaluation.iter().map(Vec::len).sum::<usize>()) as u64,
            plan_seconds,
            keygen_seconds,
            protect_seconds: prepared.started.elapsed().as_secs_f64(),
            forecast: plan.forecast,
            flooded: prepared.flooding.map(|f| f.forecast(plan.forecast.max_abs_error, prepared.network.outputs())),
            replaced: prepared.replaced(),
            calibration: prepared.calibration,
            settings: Settings {
                scope: request.scope.clone(),
                substitutions: request.substitutions.clone(),
                fitted: prepared.protected.fitted(),
                preprocess: request.preprocess.clone(),
                output_activation: prepared.protected.output_activation(),
                classes: request.classes.clone(),
                prefer: request.prefer,
                integers: plan
                    .integer_network()
                    .map(|network| IntegerSettings { fixed_point: network.fixed_point().clone(), fold: request.fold }),
            },
        };
        // The key first: a key without a network is harmless, a network without its key is lost.
        vault.put(&key_name(&manifest.id), &keys.secret.to_bytes())?;
        let record = self.registry.commit(
            staging,
            NewModel {
                name: request.name.into(),
                report: serde_json::to_value(&report).map_err(|e| OwnerError::Report(e.to_string()))?,
                scheme: report.scheme.clone(),
                security_bits: report.security_bits,
                scope: report.scope.clone(),
                input: report.input.clone(),
                log_n: report.log_n,
            },
        );
        match record {
            Ok(record) => Ok(ProtectReport { version: record.version, ..report }),
            Err(e) => {
                // Best effort: the key stays behind unused if this fails too.
                let _ = vault.remove(&key_name(&report.id));
                Err(e.into())
            }
        }
    }
}

impl Owner {
    /// The plan that is best in what is preferred; none that takes more than [`USUAL_MEMORY`] unless it is permitted.
    pub(crate) fn make_plan(&self, request: &ProtectRequest, prepared: &Prepared) -> Result<Plan, OwnerError> {
        let memory_limit = Some(request.memory_limit.unwrap_or(USUAL_MEMORY));
        let kernel = Kernel::active()?;
        let costs = request.costs.cloned().unwrap_or_else(|| cost_model(&self.home, kernel));
        let calibration = &prepared.calibration;
        let normal = calibration.normalisation.as_ref();
        let input = normal.map_or(calibration.input, |n| n.input);
        let features = normal.map_or(&calibration.features, |n| &n.features);
        let whole = |circuit: &Circuit, below: Option<f64>| {
            plan_whole(&WholeRequest {
                circuit: &normal.map_or_else(|| circuit.clone(), |n| n.circuit(circuit)),
                input,
                samples: features,
                calibrated: !calibration.synthetic,
                encrypted_input: request.encrypted_input,
                plain_weights: request.plain_weights,
                security: request.security,
                max_error: prepared.max_error(calibration.wanted_error_of_circuit()),
                memory_limit,
                prefer: request.prefer,
                below,
                costs: &costs,
                kernel,
            })
        };
        let made = match &prepared.protected {
            Protected::Chain(split) => {
                let chain = normal.map_or_else(|| split.chain.clone(), |n| n.chain(&split.chain));
                let chain = if request.fold { chain.folded() } else { chain };
                if request.scheme == Scheme::Bgv {
                    let mut exact = exact::plan_chain(request, &chain, (input, features), &costs, kernel)?;
                    if let Some(normal) = normal {
                        exact.program.input.normalise.clone_from(&normal.of_feature);
                    }
                    return Ok(exact);
                }
                let as_chain = plan(&PlanRequest {
                    chain: &chain,
                    input,
                    samples: if calibration.synthetic { &[] } else { features },
                    encrypted_input: request.encrypted_input,
                    security: request.security,
                    max_error: prepared.max_error(calibration.wanted_error()),
                    memory_limit,
                    prefer: request.prefer,
                    costs: &costs,
                    kernel,
                });
                // A whole network of dense layers is a circuit too, whose error is simulated and not bounded: often a smaller ring.
                // One layer alone is planned the same way as either.
                let several = chain.layers.len() > 1;
                let may_be_circuit = several && request.scope == Scope::All && request.fold && !calibration.synthetic;
                let circuit = may_be_circuit.then(|| prepared.network.circuit(&request.scope, &request.substitutions));
                let below = as_chain.as_ref().ok().map(|plan| request.prefer.rank(&plan.prediction));
                let as_circuit = circuit.and_then(Result::ok).and_then(|split| whole(&split.circuit, below).ok());
                as_circuit.map_or(as_chain, Ok)
            }
            Protected::Circuit(protected) if request.scheme == Scheme::Bgv => {
                let layers = protected.split.circuit.layers.len();
                let what = format!(
                    "the {layers} protected linear maps are not such a chain (convolutions or fitted activations)"
                );
                return Err(OwnerError::NotInIntegers { what });
            }
            Protected::Circuit(protected) => whole(&protected.split.circuit, None),
        };
        let mut made = made.map_err(|source| match prepared.flooding {
            Some(_) => OwnerError::NotPreciseEnough { error: prepared.max_error(f64::INFINITY), source },
            None => source.into(),
        })?;
        if let Some(normal) = normal {
            made.program.input.normalise.clone_from(&normal.of_feature);
        }
        Ok(made)
    }
}

fn encrypted_or_plain(encrypted: bool) -> String {
    if encrypted { "encrypted" } else { "plain" }.into()
}

fn always() -> bool {
    true
}

/// Name of a network's secret key in the vault.
pub(crate) fn key_name(id: &str) -> String {
    format!("model-{id}")
}

/// Replaced activations, for people.
fn replacements(protected: &Protected, fits: &[FittedActivation]) -> Vec<String> {
    let replaced = protected.replaced().iter();
    let replaced = replaced.map(|r| format!("{} instead of {} behind layer '{}'", r.to, r.from, r.layer));
    replaced.chain(fits.iter().map(ToString::to_string)).collect()
}

/// Imports, splits and calibrates; refuses replacements whose cost is not known.
pub(crate) fn prepare(request: &ProtectRequest) -> Result<Prepared, OwnerError> {
    let started = Instant::now();
    if request.plain_weights && request.scheme == Scheme::Bgv {
        return Err(OwnerError::Usage(
            "--scheme bgv encrypts the weights: leave out --weights plain, or use --scheme ckks".into(),
        ));
    }
    if request.prefer != Prefer::Speed && request.scheme == Scheme::Bgv {
        return Err(OwnerError::Usage("--prefer is for --scheme ckks: integer programs are planned for speed".into()));
    }
    if request.plain_weights && !request.encrypted_input {
        return Err(OwnerError::Usage("plain weights with plain input protect nothing: encrypt one of them".into()));
    }
    let network = Network::from_onnx(request.onnx)?;
    let none = Preprocess::default();
    let preprocess = request.preprocess.as_ref().unwrap_or(&none);
    // Products of plain weights with ciphertexts are planned for circuits.
    let form = if request.plain_weights { Form::Circuit } else { Form::Fitting };
    let protected = Protected::new(&network, &request.scope, &request.substitutions, form, |split| {
        let data = request.calibrate.filter(|data| data.count > 0);
        let samples = data.map(|data| calibration::fitting_samples(&network, split.front.as_deref(), data, preprocess));
        Ok(Fits::Made(samples.transpose()?))
    })?;
    if let Some(names) = request.classes.as_ref().filter(|c| c.len() != network.outputs()) {
        let (given, outputs) = (names.len(), network.outputs());
        return Err(OwnerError::Usage(format!(
            "{given} class names were given, the network has {outputs} outputs: give one a line"
        )));
    }
    let calibration = match request.calibrate {
        Some(data) => calibration::on_data(&network, &protected, data, preprocess)?,
        None if !protected.replaced().is_empty() || !protected.fits().is_empty() => {
            let what = replacements(&protected, protected.fits()).join(", ");
            if !request.force {
                return Err(OwnerError::UnknownCost { what });
            }
            calibration::on_synthetic(&network, &protected, request.preprocess.as_ref())?
        }
        None => calibration::on_synthetic(&network, &protected, request.preprocess.as_ref())?,
    };
    Ok(Prepared { network, protected, calibration, flooding: None, started })
}

/// What the planner reckons with: the model in [`COST_MODEL_FILE`] of this home where it can be read and is for this kernel, else
/// the built-in one.
pub fn cost_model(home: &Path, kernel: Kernel) -> CostModel {
    let measured = CostModel::load(&home.join(COST_MODEL_FILE)).ok().filter(|m| m.is_for(kernel));
    measured.unwrap_or_else(|| CostModel::builtin(kernel))
}

/// Encrypts, or only encodes, all constants of a plan in order, a batch at a time on all cores.
fn encrypt_constants(
    plan: &Plan,
    parameters: &Parameters,
    secret: &subrosa_secret::SecretKey,
    mut sink: impl FnMut(PackedConstant) -> Result<(), OwnerError>,
) -> Result<(), OwnerError> {
    if let Some(integers) = IntegerConstants::new(plan, parameters)? {
        let secrets = exact::secrets(&plan.program, parameters.kernel(), &secret.to_bytes())?;
        for batch in integers.all().chunks(BATCH) {
            integers.encrypt(&secrets, batch)?.into_iter().map(PackedConstant::Encrypted).try_for_each(&mut sink)?;
        }
        return Ok(());
    }
    let encoder = Encoder::new(parameters);
    let groups = plan.program.constants.iter().enumerate();
    let all: Vec<(usize, usize, bool)> =
        groups.flat_map(|(g, spec)| (0..spec.count).map(move |i| (g, i, spec.plain))).collect();
    for batch in all.chunks(BATCH) {
        let encrypted: Result<Vec<_>, OwnerError> = batch
            .par_iter()
            .map(|&(group, index, plain)| {
                let encoded = plan.constant(&encoder, group, index)?;
                Ok(if plain {
                    PackedConstant::Plain(encoded)
                } else {
                    PackedConstant::Encrypted(secret.encrypt(&encoded)?)
                })
            })
            .collect();
        encrypted?.into_iter().try_for_each(&mut sink)?;
    }
    Ok(())
}
