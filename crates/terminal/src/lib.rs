//! What the two command lines share: flags, output, errors and exit codes, progress bars, facts about the machine.
//!
//! A `main` is one call of [`main`]; a command ends in one [`Terminal::report`] or one [`Failure`]. Nothing here knows networks or
//! encryption, so the edge's command line may link it.

mod arguments;
mod failure;
pub mod machine;
mod progress;
mod session;
pub mod text;

pub use arguments::{Flags, GLOBAL, parse};
pub use failure::Failure;
pub use progress::Bars;
pub use session::{Terminal, main};
