//! Runs a plain ONNX network, or the front part of one, by [rten](https://docs.rs/rten).
//!
//! Used on the edge for the part in front of the cut and at the owner as the plaintext reference.
//! A network here has one float32 input whose first axis is the batch and one float32 output;
//! networks whose batch is fixed to 1 are run one sample at a time.

mod structure;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rten::{
    DataType, Dimension, Model, ModelOptions, NodeId, OpRegistry, RunOptions, ThreadPool, Value, ValueOrView, ValueType,
};
use rten_tensor::prelude::*;
use rten_tensor::{Tensor, TensorView};

pub use structure::check_structure;

/// Elements one tensor of a network's input may have: 2^28 floats are 1 GiB.
const MAX_INPUT_ELEMENTS: usize = 1 << 28;
/// Samples run in one go, so that the memory for intermediate values does not grow with the data.
const CHUNK: usize = 64;

/// What can go wrong when a plain network is loaded or run.
#[derive(Debug, thiserror::Error)]
pub enum PlainError {
    /// The bytes are no well-formed ONNX file.
    #[error("not a readable ONNX file: {0}; check that the file is complete and was exported as ONNX")]
    Malformed(String),
    /// The runtime refuses the network.
    #[error("the ONNX network cannot be loaded: {0}")]
    Load(String),
    /// The network is sound but has inputs or outputs of a kind not handled here.
    #[error("the ONNX network cannot be used: {0}")]
    Unsupported(String),
    /// The data handed over does not have `batch` times the input's elements.
    #[error(
        "{batch} samples of shape {shape:?} take {expected} values, but {given} were given; check the input's shape"
    )]
    WrongLength {
        /// Samples asked for.
        batch: usize,
        /// The network's input shape without the batch.
        shape: Vec<usize>,
        /// Values needed.
        expected: usize,
        /// Values given.
        given: usize,
    },
    /// The runtime failed while it evaluated the network.
    #[error("running the ONNX network failed: {0}")]
    Run(String),
}

/// One tensor that [`PlainNetwork::probe`] saw.
#[derive(Debug, Clone)]
pub struct Probe {
    /// Its shape at batch 1, batch axis included.
    pub shape: Vec<usize>,
    /// Its values, row-major, if it holds float32; `None` for the integers of shape arithmetic.
    pub data: Option<Vec<f32>>,
}

/// An ONNX network ready to run in plaintext.
pub struct PlainNetwork {
    model: Model,
    input: NodeId,
    output: NodeId,
    input_shape: Vec<usize>,
    output_len: usize,
    /// Samples the graph takes in one go.
    chunk: usize,
    pool: Arc<ThreadPool>,
}

impl PlainNetwork {
    /// Loads an ONNX file that holds its weights, to be run on `threads` threads (0 counts as 1).
    ///
    /// Runs the network on zeros once or twice, to learn its output's size and whether it takes
    /// several samples at a time.
    ///
    /// # Errors
    /// Damaged files, operators or data types that rten lacks, several inputs or outputs, an input
    /// that is not float32 with a leading batch axis and otherwise fixed axes.
    pub fn load(onnx: &[u8], threads: usize) -> Result<Self, PlainError> {
        let opened = Opened::open(onnx, threads)?;
        let mut network = PlainNetwork {
            output_len: 0,
            chunk: 1,
            model: opened.model,
            input: opened.input,
            output: opened.output,
            input_shape: opened.input_shape,
            pool: opened.pool,
        };
        let zeros = vec![0.0; 2 * network.input_len()];
        let (shape, one) = network.run_chunk(1, zeros.get(..network.input_len()).unwrap_or_default())?;
        if one.is_empty() || shape.first() != Some(&1) {
            return Err(PlainError::Unsupported(format!(
                "its output for one sample has shape {shape:?}, where the first axis must be the batch of 1; \
                 export it with one row of outputs a sample"
            )));
        }
        network.output_len = one.len();
        if opened.dynamic_batch {
            // A dynamic batch may be declared and yet a fixed 1 be baked into a Reshape.
            if let Ok((shape, two)) = network.run_chunk(2, &zeros)
                && shape.first() == Some(&2)
                && two.len() == 2 * network.output_len
            {
                network.chunk = CHUNK;
            }
        }
        Ok(network)
    }

    /// Shape of one sample, without the batch axis.
    pub fn input_shape(&self) -> &[usize] {
        &self.input_shape
    }

    /// Values of one sample: the product of [`input_shape`](Self::input_shape).
    pub fn input_len(&self) -> usize {
        self.input_shape.iter().product()
    }

    /// Values the network gives for one sample.
    pub fn output_len(&self) -> usize {
        self.output_len
    }

    /// Runs `batch` samples, given row-major, and returns `batch * output_len` values row-major.
    ///
    /// # Errors
    /// `data` is not `batch * input_len` long, or the runtime fails.
    pub fn run(&self, batch: usize, data: &[f32]) -> Result<Vec<f32>, PlainError> {
        let sample = self.input_len();
        if batch.checked_mul(sample) != Some(data.len()) {
            return Err(PlainError::WrongLength {
                batch,
                shape: self.input_shape.clone(),
                expected: batch.saturating_mul(sample),
                given: data.len(),
            });
        }
        let mut outputs = Vec::with_capacity(batch * self.output_len);
        for chunk in data.chunks(self.chunk * sample) {
            let count = chunk.len() / sample;
            let (shape, values) = self.run_chunk(count, chunk)?;
            if values.len() != count * self.output_len {
                return Err(PlainError::Run(format!(
                    "{count} samples gave an output of shape {shape:?}, not {count} rows of {}",
                    self.output_len
                )));
            }
            outputs.extend_from_slice(&values);
        }
        Ok(outputs)
    }

    /// Evaluates inner tensors of an ONNX file on one sample of zeros, in the order of `names`;
    /// `None` where the file has no such tensor or it holds a sequence.
    ///
    /// The shapes are those at batch 1; values of tensors that do not depend on the input are
    /// the network's constants after folding.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn probe(onnx: &[u8], names: &[&str]) -> Result<Vec<Option<Probe>>, PlainError> {
        let Opened { model, input, input_shape, pool, .. } = Opened::open(onnx, 1)?;
        let mut ids: Vec<NodeId> = names.iter().filter_map(|name| model.find_node(name)).collect();
        ids.sort_unstable();
        ids.dedup();
        let shape: Vec<usize> = [1].iter().chain(&input_shape).copied().collect();
        let zeros = Tensor::<f32>::zeros(&shape);
        let values = guard("run", || {
            let options = RunOptions::default().with_thread_pool(Some(pool));
            model.run(vec![(input, ValueOrView::from(zeros.view()))], &ids, Some(options))
        })
        .map_err(PlainError::Run)?;
        let probes: HashMap<NodeId, Value> = ids.into_iter().zip(values).collect();
        Ok(names
            .iter()
            .map(|name| {
                let value = probes.get(&model.find_node(name)?)?;
                match value {
                    Value::Sequence(_) => None,
                    Value::FloatTensor(tensor) => {
                        Some(Probe { shape: tensor.shape().to_vec(), data: Some(tensor.to_vec()) })
                    }
                    other => Some(Probe { shape: other.shape().to_vec(), data: None }),
                }
            })
            .collect())
    }

    fn run_chunk(&self, batch: usize, data: &[f32]) -> Result<(Vec<usize>, Vec<f32>), PlainError> {
        let shape: Vec<usize> = [batch].iter().chain(&self.input_shape).copied().collect();
        let values = guard("run", || {
            let view = TensorView::from_data(shape.as_slice(), data);
            let options = RunOptions::default().with_thread_pool(Some(self.pool.clone()));
            self.model.run(vec![(self.input, ValueOrView::from(view))], &[self.output], Some(options))
        })
        .map_err(PlainError::Run)?;
        match values.into_iter().next() {
            Some(Value::FloatTensor(tensor)) => Ok((tensor.shape().to_vec(), tensor.to_vec())),
            _ => Err(PlainError::Unsupported(
                "its output does not hold float32 values; export it with the class scores as output".into(),
            )),
        }
    }
}

/// A loaded model whose single input and output have been found and checked.
struct Opened {
    model: Model,
    input: NodeId,
    output: NodeId,
    input_shape: Vec<usize>,
    dynamic_batch: bool,
    pool: Arc<ThreadPool>,
}

impl Opened {
    fn open(onnx: &[u8], threads: usize) -> Result<Self, PlainError> {
        check_structure(onnx).map_err(PlainError::Malformed)?;
        let mut options = ModelOptions::with_ops(OpRegistry::with_all_ops());
        // Fused tensors lose their names, and on the networks measured fusion gained nothing.
        options.enable_optimization(false);
        let model = guard("load", || options.load(onnx.to_vec())).map_err(PlainError::Load)?;
        let (input, output) = match (model.input_ids(), model.output_ids()) {
            (&[input], &[output]) => (input, output),
            (inputs, outputs) => {
                return Err(PlainError::Unsupported(format!(
                    "it has {} inputs and {} outputs, where one of each is needed; export it so",
                    inputs.len(),
                    outputs.len()
                )));
            }
        };
        let info = model.node_info(input);
        match info.as_ref().and_then(|info| info.dtype()) {
            None | Some(ValueType::Tensor(DataType::Float)) => {}
            Some(other) => {
                return Err(PlainError::Unsupported(format!(
                    "its input holds {other:?} values, where float32 is needed; export it with a float32 input"
                )));
            }
        }
        let dimensions = info.and_then(|info| info.shape()).unwrap_or_default();
        let Some((batch, sample)) = dimensions.split_first() else {
            return Err(PlainError::Unsupported(
                "its input declares no shape; export it with the input's shape [batch, …]".into(),
            ));
        };
        let mut input_shape = Vec::with_capacity(sample.len());
        for (axis, dimension) in sample.iter().enumerate() {
            match dimension {
                Dimension::Fixed(size) if *size > 0 => input_shape.push(*size),
                Dimension::Fixed(_) | Dimension::Symbolic(_) => {
                    return Err(PlainError::Unsupported(format!(
                        "axis {} of its input has no fixed size; only the first axis, the batch, may vary",
                        axis + 1
                    )));
                }
            }
        }
        let elements = input_shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
        if elements.is_none_or(|elements| elements > MAX_INPUT_ELEMENTS) {
            return Err(PlainError::Unsupported(format!(
                "its input shape {input_shape:?} has more than {MAX_INPUT_ELEMENTS} elements"
            )));
        }
        let dynamic_batch = match batch {
            Dimension::Symbolic(_) => true,
            Dimension::Fixed(1) => false,
            Dimension::Fixed(size) => {
                return Err(PlainError::Unsupported(format!(
                    "its first axis, the batch, is fixed to {size}; export it with a dynamic batch or a batch of 1"
                )));
            }
        };
        Ok(Opened {
            model,
            input,
            output,
            input_shape,
            dynamic_batch,
            pool: Arc::new(ThreadPool::with_num_threads(threads.max(1))),
        })
    }
}

/// Calls the runtime and turns its errors, and panics a hostile model may provoke, into text.
fn guard<T, E: std::fmt::Display>(what: &str, call: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!(
            "the runtime gave up while it tried to {what} it; the model is damaged or uses an operator in an unusual way"
        )),
    }
}
