//! The command line of the edge machine.
fn main() {}
