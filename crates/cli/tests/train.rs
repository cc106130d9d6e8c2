//! `subrosa train` and `subrosa serve` hand over to programs of their own.
#![cfg(unix)]
#![allow(clippy::unwrap_used)] // helpers outside #[test] functions fail tests too

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// One test at a time: a program that a test is still copying cannot be started while the other test's new process has it open.
static ALONE: Mutex<()> = Mutex::new(());

/// A copy of the program in a folder of its own, where nothing else is beside it.
fn installed(folder: &Path) -> PathBuf {
    let program = folder.join("subrosa");
    fs::copy(env!("CARGO_BIN_EXE_subrosa"), &program).unwrap();
    program
}

#[test]
fn without_it_the_error_says_how_to_get_it() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(installed(folder.path())).args(["train", "--help"]).env("PATH", "").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("cargo build --release -p subrosa-train"), "{said}");
    assert_eq!(said.lines().count(), 2, "{said}");
}

#[test]
fn flags_and_exit_code_pass_through() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let agent = folder.path().join("subrosa-train");
    fs::write(&agent, "#!/bin/sh\necho \"$@\"\nexit 7\n").unwrap();
    fs::set_permissions(&agent, fs::Permissions::from_mode(0o755)).unwrap();
    let arguments = ["--json", "--threads", "2", "train", "--dataset", "csv", "--data", "a b", "--help", "-q"];
    let output = Command::new(installed(folder.path())).args(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "--dataset csv --data a b --help -q --json --threads 2\n");
    assert!(output.stderr.is_empty());
}

#[test]
fn the_home_goes_to_the_backend() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let program = installed(folder.path());
    let missing = Command::new(&program).args(["serve", "--help"]).env("PATH", "").output().unwrap();
    assert_eq!(missing.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("cargo build --release -p subrosa-server"));
    let backend = folder.path().join("subrosa-serve");
    fs::write(&backend, "#!/bin/sh\necho \"$@\"\n").unwrap();
    fs::set_permissions(&backend, fs::Permissions::from_mode(0o755)).unwrap();
    let arguments = ["--home", "/h", "--json", "serve", "--listen", "127.0.0.1:0"];
    let output = Command::new(program).args(arguments).env_remove("SUBROSA_HOME").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "--listen 127.0.0.1:0 --home /h --json\n");
}
