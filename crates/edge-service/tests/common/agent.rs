//! An agent as a process.

use super::Stub;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Waits for something, at most a minute.
pub fn wait_for(what: &str, there: impl FnMut() -> bool) {
    wait_at_most(60, what, there);
}

/// Waits for something, at most so many seconds.
pub fn wait_at_most(seconds: u64, what: &str, mut there: impl FnMut() -> bool) {
    let start = Instant::now();
    while !there() {
        assert!(start.elapsed() < Duration::from_secs(seconds), "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The program with a configuration in a directory of its own.
pub struct Agent {
    pub place: PathBuf,
    program: PathBuf,
    child: Option<Child>,
    /// Length of the log when it was started.
    logged: usize,
}

/// What an agent must know of its backend.
pub struct Backend<'a> {
    pub url: &'a str,
    /// PEM.
    pub certificate: &'a str,
    /// The owner's public key file.
    pub owner: &'a str,
    /// One-time token.
    pub token: &'a str,
}

impl Agent {
    /// An agent of a stub backend; `more` is appended to the configuration.
    pub fn new(program: &str, place: &Path, stub: &Stub, more: &str) -> Self {
        let owner = stub.world().owner.unwrap().to_file_text("");
        let name = place.file_name().unwrap().to_string_lossy();
        let backend = Backend {
            url: &stub.url(),
            certificate: stub.certificate(),
            owner: &owner,
            token: &format!("one-time-{name}"),
        };
        Self::of(program, place, &backend, more)
    }

    /// An agent of a backend; `more` is appended to the configuration.
    pub fn of(program: &str, place: &Path, backend: &Backend<'_>, more: &str) -> Self {
        fs::create_dir_all(place).unwrap();
        for (file, text) in
            [("backend.pem", backend.certificate), ("token", backend.token), ("owner.pub", backend.owner)]
        {
            fs::write(place.join(file), text).unwrap();
        }
        let agent = Self { place: place.into(), program: program.into(), child: None, logged: 0 };
        let name = place.file_name().unwrap().to_string_lossy();
        agent.configure(&format!(
            "name = \"{name}\"\nstate = \"state\"\nthreads = 2\n\n[backend]\nurl = \"{}\"\nca = \"backend.pem\"\n\
             trust = \"owner.pub\"\ntoken_file = \"token\"\npoll_seconds = 0.2\nstatus_seconds = 0.2\n\
             retry_max_seconds = 0.5\n{more}",
            backend.url
        ));
        agent
    }

    pub fn configure(&self, text: &str) {
        fs::write(self.place.join("edge.toml"), text).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.place.join(name)
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.current_dir(&self.place).args(["run", "edge.toml"]).env_remove("RUST_LOG");
        command
    }

    /// Starts it; its log is appended to `log`.
    pub fn start(&mut self) {
        assert!(self.child.is_none());
        self.logged = self.log().len();
        let log = fs::File::options().create(true).append(true).open(self.path("log")).unwrap();
        let out = fs::File::options().create(true).append(true).open(self.path("out")).unwrap();
        let child = self.command().stdin(Stdio::piped()).stdout(out).stderr(log).spawn().unwrap();
        self.child = Some(child);
    }

    /// Writes to its standard input.
    pub fn write(&mut self, bytes: &[u8]) {
        self.child.as_mut().unwrap().stdin.as_mut().unwrap().write_all(bytes).unwrap();
    }

    /// Closes its standard input.
    pub fn close_input(&mut self) {
        drop(self.child.as_mut().unwrap().stdin.take());
    }

    /// Kills it (SIGKILL).
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Sends SIGTERM and waits for its end: the exit code. One that was just started is given the time to be ready for that.
    pub fn terminate(&mut self) -> i32 {
        let start = Instant::now();
        let runs = |log: &str| log.get(self.logged..).is_some_and(|log| log.contains("the agent runs"));
        while !runs(&self.log()) && start.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let id = self.child.as_ref().unwrap().id();
        assert!(Command::new("kill").args(["-TERM", &id.to_string()]).status().unwrap().success());
        self.wait()
    }

    /// Waits for its end: the exit code.
    pub fn wait(&mut self) -> i32 {
        let mut child = self.child.take().unwrap();
        let start = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            if start.elapsed() > Duration::from_secs(60) {
                child.kill().unwrap();
                panic!("the agent does not end: {}", self.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Everything it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Address that it listens on for a key of its configuration, from its log.
    pub fn address(&self, key: &str) -> String {
        let mut found = None;
        wait_for(key, || {
            let log = self.log();
            let line = log.lines().rev().find_map(|l| l.split_once(&format!("{key}: listening on ")));
            found = line.map(|(_, address)| address.trim().to_owned());
            found.is_some()
        });
        found.unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- log of {}\n{}", self.place.display(), self.log());
        }
    }
}
