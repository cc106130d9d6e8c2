//! From a network to a program: packing, levels, ranges, parameters, forecast of error.
//!
//! [`plan`] takes the protected layers of a network and the range of their input, and finds the program that is secure at the
//! level asked for, precise enough, and of least predicted time on the machine of a [`CostModel`]. Its result says what the
//! edge executes ([`subrosa_program::Program`]), which plaintext each encrypted constant holds ([`Plan::constant`]), and
//! what else was considered.

mod chain;
mod cost;
mod errors;
mod exact;
mod forecast;
mod keys;
mod layouts;
mod plan;
mod prefer;
mod primes;
mod search;
mod single;
mod slots;
mod whole;

pub use chain::{InputRange, Ranges};
pub use cost::{CostModel, CostModelError, MeasureError, Memory, Prediction, StepWork, Stream, Work, predict};
pub use exact::{
    ExactError, ExactRequest, FixedPoint, IntegerError, IntegerNetwork, NearestExact, forecast_budgets, plan_exact,
};
pub use plan::{Forecast, Plan};
pub use prefer::Prefer;
pub use search::{Alternative, PlanError, PlanRequest, Verdict, plan};
pub use whole::{Nearest, SimulateError, Simulation, StepError, WholeError, WholeRequest, plan_whole};
