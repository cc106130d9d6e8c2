//! The Training Agent.

mod error;
mod model;

pub use error::TrainError;
pub use model::{Activation, Array, Function, Input, Model, Node, Op, Order, Pooling, Shape, Source, Window};

pub mod figures;
