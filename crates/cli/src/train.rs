//! Hands over to the Training Agent, a program of its own: it is heavy to build, and only those who train need it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};

use subrosa_terminal::{Failure, Flags};

/// The program's name.
const PROGRAM: &str = "subrosa-train";

/// Runs the Training Agent with these arguments and ends as it ends.
pub(crate) fn hand_over(flags: &Flags, arguments: Vec<OsString>) -> Result<(), Failure> {
    let mut command = Command::new(program(PROGRAM));
    // Behind them, since they may begin with a subcommand.
    command.args(arguments).args(before(flags));
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure::silent(code(status))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Failure::usage(format!(
            "the Training Agent is a program of its own, {PROGRAM}, and it is neither beside subrosa nor in PATH\n\
             build it: cargo build --release -p {PROGRAM} (or cargo install --path crates/train)"
        ))),
        Err(error) => Err(Failure::failed(format!("{PROGRAM} cannot be started: {error}"))),
    }
}

/// The program of this name beside this one, else the one in PATH.
pub(crate) fn program(name: &str) -> PathBuf {
    let name = format!("{name}{}", std::env::consts::EXE_SUFFIX);
    let beside = std::env::current_exe().ok().and_then(|here| here.parent().map(|folder| folder.join(&name)));
    beside.filter(|path| path.is_file()).unwrap_or_else(|| name.into())
}

/// Flags of every command that stood before `train`.
fn before(flags: &Flags) -> Vec<OsString> {
    let mut list: Vec<OsString> = Vec::new();
    for (given, flag) in [(flags.json, "--json"), (flags.quiet, "--quiet"), (flags.verbose, "--verbose")] {
        if given {
            list.push(flag.into());
        }
    }
    if let Some(threads) = flags.threads {
        list.extend(["--threads".into(), threads.to_string().into()]);
    }
    list
}

/// Its exit code; 1 if a signal ended it.
fn code(status: ExitStatus) -> u8 {
    status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}
