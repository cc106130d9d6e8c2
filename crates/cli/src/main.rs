//! The command line of the owner.
fn main() {}
