//! The backend's command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    subrosa_terminal::main(|out| subrosa_server::command::run(std::env::args_os(), out))
}
