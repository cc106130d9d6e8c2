//! What several processes of a backend share: a PostgreSQL, a store, and one address in front of them.

use super::cluster::Cluster;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;

/// Database, store and address.
pub struct Shared {
    cluster: Cluster,
    store: PathBuf,
    pub balancer: Balancer,
}

impl Shared {
    /// Starts a PostgreSQL, or says that the test is skipped.
    pub fn start(place: &Path) -> Option<Self> {
        Some(Self { cluster: Cluster::start()?, store: place.join("store"), balancer: Balancer::start() })
    }

    /// Flags of the processes.
    pub fn flags(&self) -> Vec<String> {
        vec!["--database".into(), self.cluster.url(), "--store".into(), self.store.to_str().unwrap().into()]
    }
}

/// One address for several processes: connections go to them in turn, past those that do not answer. TLS passes through.
pub struct Balancer {
    pub address: SocketAddr,
    targets: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Balancer {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let targets = Arc::<Mutex<Vec<SocketAddr>>>::default();
        let known = Arc::clone(&targets);
        // Ends with the test's process.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let mut targets = known.lock().unwrap();
                let server = targets.iter().find_map(|target| TcpStream::connect(target).ok());
                if !targets.is_empty() {
                    targets.rotate_left(1);
                }
                drop(targets);
                if let Some(server) = server {
                    let _ = join(client, server);
                }
            }
        });
        Self { address, targets }
    }

    /// Connections go to this process too.
    pub fn add(&self, target: SocketAddr) {
        self.targets.lock().unwrap().push(target);
    }
}

/// Passes on what comes, both ways, until both have ended.
fn join(client: TcpStream, server: TcpStream) -> io::Result<()> {
    for (mut from, mut to) in [(client.try_clone()?, server.try_clone()?), (server, client)] {
        thread::spawn(move || {
            // One that was killed ends its connection with an error.
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
    }
    Ok(())
}
