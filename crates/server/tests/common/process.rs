//! Serve as a process of its own.

#![allow(clippy::unwrap_used, clippy::panic, dead_code, reason = "helpers of tests")]

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::common::{Http, PASSPHRASE, client};
use serde_json::Value;

pub struct Process {
    child: Child,
    pub ready: Value,
    pub log: PathBuf,
}

impl Process {
    /// Starts it on a home; what it says goes to `HOME/log`.
    pub fn start(home: &Path, more: &[&str]) -> Self {
        Self::start_with(home, more, &[])
    }

    /// The same with these variables.
    pub fn start_with(home: &Path, more: &[&str], variables: &[(&str, String)]) -> Self {
        let passphrase = home.join("passphrase");
        std::fs::write(&passphrase, format!("{PASSPHRASE}\n")).unwrap();
        let log = home.join("log");
        let file = File::options().create(true).append(true).open(&log).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_subrosa-serve"))
            .args(["--listen", "127.0.0.1:0", "--json", "--log", "json", "--verbose"])
            .arg("--home")
            .arg(home)
            .arg("--passphrase-file")
            .arg(passphrase)
            .args(more)
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdout(Stdio::piped())
            .stderr(file)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said = || std::fs::read_to_string(&log).unwrap();
        let ready = serde_json::from_str(&line).unwrap_or_else(|_| panic!("it did not start: {line}{}", said()));
        Self { child, ready, log }
    }

    /// The owner's client, with the token of the first start.
    pub fn http(&self, token: &str) -> Http {
        let certificate = self.ready["certificate"].as_str().map(Path::new);
        let url = self.ready["url"].as_str().unwrap().to_owned();
        Http { client: client(certificate), url, token: token.to_owned() }
    }

    /// The token that the first start wrote.
    pub fn token(&self) -> String {
        let file = self.ready["owner_token_file"].as_str().unwrap();
        std::fs::read_to_string(file).unwrap().trim().to_owned()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; gives the exit code.
    pub fn stop(&mut self) -> Option<i32> {
        Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        self.child.wait().unwrap().code()
    }
}

/// Exit code and message of a process that does not start.
pub fn refused(home: &Path, more: &[&str], variables: &[(&str, String)]) -> (Option<i32>, String) {
    // One that does start must not keep the test waiting for ever.
    let mut command = Command::new("timeout");
    command.args(["120", env!("CARGO_BIN_EXE_subrosa-serve"), "--quiet", "--home"]).arg(home).args(more);
    // Whatever the tests' own environment says.
    let own = std::env::vars_os().map(|(name, _)| name).filter(|name| {
        let name = name.to_string_lossy();
        name.starts_with("AWS_") || name.starts_with("PG")
    });
    own.for_each(|name| {
        command.env_remove(name);
    });
    command.env("SUBROSA_PASSPHRASE", PASSPHRASE).envs(variables.iter().map(|(name, value)| (name, value)));
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

impl Drop for Process {
    fn drop(&mut self) {
        // Gone already, as a rule.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
