//! The edge side as a library: Data Stream Acquisition and the Processing Agent.
//!
//! A [`Processor`] loads a bundle once and then answers sample after sample: [`Processor::acquire`] reads and preprocesses
//! inputs as the bundle declares, [`Processor::features`] runs the plain part, [`Processor::prepare`] encodes or encrypts the features,
//! [`Processor::infer`] evaluates the protected part blind. Nothing here can decrypt; what comes out goes to the owner in a
//! [`subrosa_program::results`] file.
//!
//! ```no_run
//! # fn main() -> Result<(), subrosa_edge_agent::EdgeError> {
//! use subrosa_edge_agent::{Options, Processor};
//! let processor = Processor::load("digits.srb".as_ref(), &Options::default())?;
//! let images = processor.acquire("digits.npy", None)?;
//! let features = processor.features(images.count, &images.data)?;
//! let mut results = processor.results("answers.srr".as_ref())?;
//! for sample in features.chunks(processor.feature_count()) {
//!     let input = processor.prepare(sample)?;
//!     results.push(processor.parameters(), &processor.infer(&input)?)?;
//! }
//! results.finish()?;
//! # Ok(())
//! # }
//! ```

mod diagonals;
mod error;
mod execute;
mod integers;
mod processor;

pub use error::EdgeError;
pub use processor::{Acquired, Input, Options, Processor, Registers, open_bundle};
