//! A temporary owner with the real `subrosa` program, and the edge's command line in this process.
#![allow(dead_code)] // each test file uses its part
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

use serde_json::Value;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use subrosa_registry::{Passphrase, Vault};
use tempfile::TempDir;

pub const PASSPHRASE: &str = "correct horse battery staple";
const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/fixtures");

pub fn fixture(name: &str) -> String {
    format!("{FIXTURES}/{name}")
}

/// A directory for files, with the owner's home in it.
pub struct Owner {
    pub directory: TempDir,
}

impl Owner {
    /// A new home whose vault costs little to open.
    pub fn new() -> Self {
        let owner = Self { directory: tempfile::tempdir().unwrap() };
        Vault::create_or_open_for_tests(&owner.home(), &Passphrase::new(PASSPHRASE.to_owned()).unwrap()).unwrap();
        owner
    }

    pub fn home(&self) -> PathBuf {
        self.path("home")
    }

    /// The registry, behind the program's back.
    pub fn database(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.home().join("registry.sqlite")).unwrap()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The program with its home, passphrase and directory set.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_subrosa"));
        command.current_dir(self.directory.path()).args(arguments);
        command.env("SUBROSA_HOME", self.home()).env("SUBROSA_PASSPHRASE", PASSPHRASE);
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).stdin(std::process::Stdio::null()).output().unwrap()
    }

    /// Runs a command with `--json` that must succeed.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["--json"]].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {stderr}");
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert_eq!(stdout.lines().count(), 1, "{arguments:?}: {stdout}");
        serde_json::from_str(&stdout).unwrap()
    }

    pub fn vault(&self) -> Vault {
        Vault::open(&self.home(), &Passphrase::new(PASSPHRASE.to_owned()).unwrap()).unwrap()
    }

    /// Runs the edge's command line with `--json`; it must succeed.
    pub fn edge(&self, arguments: &[&str]) -> Value {
        let mut out = Vec::new();
        let arguments = ["subrosa-edge", "--json"].iter().chain(arguments).map(OsString::from);
        subrosa_edge::run(arguments, &mut out).unwrap_or_else(|failure| panic!("{failure:?}"));
        serde_json::from_slice(&out).unwrap()
    }

    pub fn shown(&self, name: &str) -> String {
        text(&self.path(name))
    }
}

pub fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// The arguments that protect the small tabular fixture with calibration.
pub fn protect_tabular(name: &str, input: &str) -> Vec<String> {
    let (model, data) = (fixture("torch-tabular.onnx"), fixture("torch-tabular.input.npy"));
    ["protect", &model, "--name", name, "--input", input, "--calibrate", &data].map(str::to_owned).into()
}

pub fn borrowed(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// A float32 `.npy` file.
pub fn npy(path: &Path, [rows, columns]: [usize; 2], value: impl Fn(usize) -> f32) {
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((header.len() as u16).to_le_bytes());
    file.extend(header.bytes());
    file.extend((0..rows * columns).flat_map(|i| value(i).to_le_bytes()));
    std::fs::write(path, file).unwrap();
}
