//! Hands over to programs of their own: they are heavy to build, and only those who train or serve need them.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};

use crate::arguments::HomeFlags;
use subrosa_terminal::{Failure, Flags};

/// A program of its own.
pub(crate) struct Program {
    /// Its name.
    name: &'static str,
    /// What it is, for people.
    what: &'static str,
    /// Its package, and the folder of that.
    package: (&'static str, &'static str),
}

/// The Training Agent.
pub(crate) const TRAIN: Program =
    Program { name: "subrosa-train", what: "the Training Agent", package: ("subrosa-train", "crates/train") };
/// The backend.
pub(crate) const SERVE: Program =
    Program { name: "subrosa-serve", what: "the backend", package: ("subrosa-server", "crates/server") };
/// The edge agent, which the demo of a fleet starts.
pub(crate) const EDGE: Program =
    Program { name: "subrosa-edge", what: "the Processing Agent", package: ("subrosa-edge", "crates/edge-cli") };

impl Program {
    /// Runs it with these arguments and the flags that stood before, and ends as it ends.
    pub fn hand_over(&self, flags: &Flags, home: Option<&HomeFlags>, arguments: Vec<OsString>) -> Result<(), Failure> {
        let Self { name, what, package: (package, folder) } = self;
        let mut command = Command::new(self.place());
        // Behind them, since they may begin with a subcommand.
        command.args(arguments).args(home.map(HomeFlags::given).unwrap_or_default()).args(before(flags));
        match command.status() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(Failure::silent(code(status))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Failure::usage(format!(
                "{what} is a program of its own, {name}, and it is neither beside subrosa nor in PATH\n\
                 build it: cargo build --release -p {package} (or cargo install --path {folder})"
            ))),
            Err(error) => Err(Failure::failed(format!("{name} cannot be started: {error}"))),
        }
    }

    /// The program beside this one, else the one in PATH.
    pub fn place(&self) -> PathBuf {
        let name = format!("{}{}", self.name, std::env::consts::EXE_SUFFIX);
        let beside = std::env::current_exe().ok().and_then(|here| here.parent().map(|folder| folder.join(&name)));
        beside.filter(|path| path.is_file()).unwrap_or_else(|| name.into())
    }
}

/// Flags of every command that stood before the program's name.
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
