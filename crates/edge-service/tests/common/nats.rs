//! A NATS server of a test's own, with JetStream and MQTT, where `nats-server` is installed.

use std::fs;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The server.
pub struct Nats {
    place: PathBuf,
    port: u16,
    mqtt: u16,
    child: Option<Child>,
}

impl Nats {
    /// Starts one, or says that the test is skipped.
    pub fn start(place: &Path) -> Option<Self> {
        let found = Command::new("nats-server").arg("--version").stdout(Stdio::null()).status();
        if !found.is_ok_and(|status| status.success()) {
            // Straight to standard error, so that it shows without --nocapture.
            let _ = writeln!(std::io::stderr(), "SKIPPED: nats-server is not installed (Debian package nats-server)");
            return None;
        }
        fs::create_dir_all(place).unwrap();
        let mut nats = Self { place: place.into(), port: free_port(), mqtt: free_port(), child: None };
        nats.restart();
        Some(nats)
    }

    /// Starts it again after [`Self::kill`].
    pub fn restart(&mut self) {
        let (port, mqtt, store) = (self.port, self.mqtt, self.place.join("store"));
        let config = format!(
            "server_name: test\nhost: 127.0.0.1\nport: {port}\njetstream {{ store_dir: \"{}\" }}\n\
             mqtt {{ host: 127.0.0.1, port: {mqtt} }}\n",
            store.display()
        );
        fs::write(self.place.join("nats.conf"), config).unwrap();
        let log = fs::File::create(self.place.join("log")).unwrap();
        let mut command = Command::new("nats-server");
        command.arg("-c").arg(self.place.join("nats.conf")).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().unwrap());
        super::wait_for("the NATS server", || {
            [port, mqtt].iter().all(|port| TcpStream::connect(("127.0.0.1", *port)).is_ok())
        });
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Port of its MQTT listener.
    pub fn mqtt_port(&self) -> u16 {
        self.mqtt
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.kill();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
