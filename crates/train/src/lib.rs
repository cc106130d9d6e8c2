//! The Training Agent.

mod adam;
mod adapt;
mod architectures;
mod batches;
mod checkpoint;
mod data;
mod error;
mod model;
mod ops;
mod runner;
mod trainer;

pub use error::TrainError;
pub use model::{Activation, Array, Function, Input, Model, Node, Op, Order, Pooling, Shape, Source, Window};
pub use architectures::*; pub use trainer::*; pub use batches::Augmentation; pub use data::*;
pub fn go(model:&Model, data:&DataSet, s:&Schedule, o:&mut dyn Observer) -> Result<Trained,TrainError> { trainer::train(model,None,data,s,None,&mut |_| Ok(()), o) }
