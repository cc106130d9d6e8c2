//! An S3 server of a test's own: signatures are checked, objects are files.

#![allow(clippy::unwrap_used, clippy::panic, dead_code, reason = "helpers of tests")]

use std::net::SocketAddr;
use std::path::PathBuf;

use hyper_util::rt::TokioIo;
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub const KEY: &str = "owner-key";
pub const SECRET: &str = "owner-secret-of-the-store";
pub const BUCKET: &str = "subrosa-files";

/// Buckets are never made by what is put into them.
struct Buckets(PathBuf);

#[async_trait::async_trait]
impl S3Access for Buckets {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> s3s::S3Result<()> {
        if context.credentials().is_none() {
            return Err(s3s::s3_error!(AccessDenied));
        }
        match context.s3_path().get_bucket_name() {
            Some(bucket) if !self.0.join(bucket).is_dir() => Err(s3s::s3_error!(NoSuchBucket)),
            _ => Ok(()),
        }
    }
}

/// The server, with one bucket.
pub struct S3 {
    directory: tempfile::TempDir,
    address: SocketAddr,
    service: S3Service,
    running: JoinHandle<()>,
}

impl S3 {
    pub async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join(BUCKET)).unwrap();
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(directory.path()).unwrap());
        builder.set_access(Buckets(directory.path().to_owned()));
        builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
        let service = builder.build();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let running = tokio::spawn(serve(listener, service.clone()));
        Self { directory, address, service, running }
    }

    /// Neither listens nor answers any more.
    pub async fn stop(&mut self) {
        self.running.abort();
        let _ = (&mut self.running).await;
    }

    /// Listens again, where it did.
    pub async fn go_on(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.running = tokio::spawn(serve(listener, self.service.clone()));
    }

    /// Where it is, and the secret, as a client's variables.
    pub fn variables(&self, secret: &str) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT", self.endpoint()),
            ("AWS_ALLOW_HTTP", "true".into()),
            ("AWS_REGION", "eu-central-1".into()),
            ("AWS_ACCESS_KEY_ID", KEY.into()),
            ("AWS_SECRET_ACCESS_KEY", secret.into()),
        ]
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Keys of the objects that begin like this.
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        let root = self.directory.path().join(BUCKET);
        let mut found = Vec::new();
        let mut places: Vec<PathBuf> = vec![root.clone()];
        while let Some(place) = places.pop() {
            for entry in std::fs::read_dir(place).unwrap().flatten() {
                let key = entry.path().strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                if entry.path().is_dir() {
                    places.push(entry.path());
                } else if key.starts_with(prefix) {
                    found.push(key);
                }
            }
        }
        found.sort();
        found
    }
}

async fn serve(listener: TcpListener, service: S3Service) {
    // Dropped with the task: then they end too.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let http = hyper::server::conn::http1::Builder::new();
        connections.spawn(http.serve_connection(TokioIo::new(stream), service.clone()));
    }
}
