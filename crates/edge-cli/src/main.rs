//! The edge machine's command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    subrosa_terminal::main(|out| subrosa_edge::run(std::env::args_os(), out))
}
