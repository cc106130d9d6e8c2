//! The steps the edge executes, and the bundle and results files that carry them.
//!
//! The contract between the two sides: the owner's planner writes a [`Program`] and the encrypted constants it names into a
//! [`bundle`], the edge executes it and sends [`results`] back. Both files are [`container`]s; how numbers lie in
//! ciphertexts is decided in [`layout`].

pub mod bundle;
pub mod container;
mod integers;
mod layers;
pub mod layout;
mod program;
pub mod results;
mod validate;

pub use integers::{Channel, Integers, Packed};
pub use layers::LayerSteps;
pub use program::{
    ConstantGroup, InputLayout, InputSpec, KeyRequirement, OutputSpec, Product, Program, Register, Step,
};
pub use subrosa_fhe::{Complex64, Scheme};
