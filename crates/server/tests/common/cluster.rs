//! A PostgreSQL of a test's own, where its programs are installed.

#![allow(clippy::unwrap_used, clippy::panic, dead_code, reason = "helpers of tests")]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The server, in a temporary directory.
pub struct Cluster {
    child: Child,
    directory: tempfile::TempDir,
    port: u16,
}

fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    places.extend(versions.map(|version| version.path().join("bin")));
    places.into_iter().map(|place| place.join(name)).find(|file| file.is_file())
}

/// PostgreSQL does not run as root.
fn command(program: &Path, directory: &Path) -> Command {
    let root = Command::new("id").arg("-u").output().is_ok_and(|o| o.stdout == b"0\n");
    if root {
        assert!(Command::new("chown").args(["-R", "nobody"]).arg(directory).status().unwrap().success());
        let mut command = Command::new("setpriv");
        command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"]).arg(program);
        return command;
    }
    Command::new(program)
}

impl Cluster {
    /// Password of its user where it is asked for.
    pub const PASSWORD: &'static str = "throw-away";

    /// Starts one that trusts who reaches its socket, or says that the test is skipped.
    pub fn start() -> Option<Self> {
        Self::start_with(None)
    }

    /// Starts one that answers on a port too, with TLS by this certificate and key (PEM) and a password only.
    pub fn start_tls(certificate: &str, key: &str) -> Option<Self> {
        Self::start_with(Some((certificate, key)))
    }

    fn start_with(tls: Option<(&str, &str)>) -> Option<Self> {
        let (Some(initdb), Some(postgres)) = (program("initdb"), program("postgres")) else {
            // Straight to standard error, so that it shows without --nocapture.
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED: PostgreSQL (initdb, postgres) is not installed (Debian package postgresql)"
            );
            return None;
        };
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path();
        let data = place.join("data");
        fs::create_dir(&data).unwrap();
        fs::write(place.join("password"), Self::PASSWORD).unwrap();
        let made = command(&initdb, place)
            .args(["-A", "trust", "-U", "subrosa", "-E", "UTF8", "--no-sync", "--pwfile"])
            .arg(place.join("password"))
            .arg("-D")
            .arg(&data)
            .output()
            .unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let mut port = 5432;
        let mut more = vec!["listen_addresses=".to_owned()];
        if let Some((certificate, key)) = tls {
            for (name, text) in [("server.crt", certificate), ("server.key", key)] {
                fs::write(data.join(name), text).unwrap();
                fs::set_permissions(data.join(name), fs::Permissions::from_mode(0o600)).unwrap();
            }
            let rules = "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n";
            fs::write(data.join("pg_hba.conf"), rules).unwrap();
            port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            more = vec!["listen_addresses=127.0.0.1".into(), format!("port={port}"), "ssl=on".into()];
        }
        let log = fs::File::create(place.join("log")).unwrap();
        let child = command(&postgres, place)
            .args(["-c", "fsync=off", "-c", "lc_messages=C"])
            .args(more.iter().flat_map(|setting| ["-c", setting]))
            .arg("-k")
            .arg(place)
            .arg("-D")
            .arg(&data)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut cluster = Self { child, directory, port };
        let start = Instant::now();
        while !cluster.log().contains("ready to accept connections") {
            let gone = cluster.child.try_wait().unwrap();
            assert!(gone.is_none() && start.elapsed() < Duration::from_secs(60), "PostgreSQL: {}", cluster.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(cluster)
    }

    /// What it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    /// Its socket's URL.
    pub fn url(&self) -> String {
        format!("postgres://subrosa@/postgres?host={}&port={}", self.directory.path().display(), self.port)
    }

    /// The URL of its port by this name of its host.
    pub fn tls_url(&self, host: &str, parameters: &str) -> String {
        format!("postgres://subrosa:{}@{host}:{}/postgres?{parameters}", Self::PASSWORD, self.port)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // In order, so that it removes its shared memory: a fast shutdown.
        let _ = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
        let start = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && start.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
