//! From a network to a program: packing, levels, ranges, parameters, forecast of error.
//!
//! [`plan`] takes the protected layers of a network and the range of their input, and finds the smallest ring and
//! modulus that are secure at the level asked for and precise enough. Its result says what the edge executes
//! ([`subrosa_program::Program`]) and which plaintext each encrypted constant holds ([`Plan::constant`]).

mod chain;
mod errors;
mod forecast;
mod primes;
mod search;
mod single;
mod slots;

pub use chain::{InputRange, Ranges};
pub use search::{Forecast, Plan, PlanError, PlanRequest, plan};
