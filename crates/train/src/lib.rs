//! The Training Agent: trains networks that are made to be protected, and adapts foreign ones.
//!
//! [`data::load`] reads a labelled data set, [`build`] makes a network for it (or an import adapts one that is trained
//! already), [`run`] trains it, with a checkpoint after each epoch, and the result is an ONNX file that any runtime reads.
//!
//! Tensors, automatic differentiation and matrix products are candle's: maintained, on a CPU without system libraries, and its
//! custom operators let the layers that cost most be written for it.

mod adam;
mod adapt;
mod agent;
mod architectures;
mod batches;
mod checkpoint;
pub mod data;
mod error;
mod export;
pub mod figures;
mod import;
mod model;
mod ops;
mod runner;
mod trainer;

pub use adapt::{Range, Replacement};
pub use agent::{Adapted, Job, Outcome, forget, label, run};
pub use architectures::{Architecture, Choice, Recipe, build};
pub use batches::Augmentation;
pub use checkpoint::write_whole;
pub use error::TrainError;
pub use export::to_onnx;
pub use import::from_onnx;
pub use model::{Activation, Array, Function, Input, Model, Node, Op, Order, Pooling, Shape, Source, Window};
pub use trainer::{Epoch, Observer, Schedule, Score};
