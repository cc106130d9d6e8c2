//! Large encrypted files by key: on the local disk, or in an S3-compatible store.
//!
//! Keys: `bundles/SHA256`, `results/DAY/ID` (batches of signed results), `uploads/ID`, and where several machines share the store
//! `models/ID/FILE` and `vault/FILE`. Nothing in it can be read without the owner's vault, uploads excepted, which are removed when their job ends.

use axum::http::Uri;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredentialProvider};
use object_store::buffered::BufWriter;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ClientConfigKey, ObjectStore, ObjectStoreExt, PutMode, PutOptions, RetryConfig};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use subrosa_registry::SharedFiles;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Handle;

/// Bytes that are moved at once.
const CHUNK: usize = 1 << 20;
/// The object that every process writes when it starts.
const READY: &str = "ready";
/// How long a request to S3 is repeated: an edge waits 30 seconds for its answer.
const RETRY: RetryConfig = RetryConfig {
    backoff: BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: Duration::from_secs(5), base: 2.0 },
    max_retries: 10,
    retry_timeout: Duration::from_secs(20),
};

/// A store of large files. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<dyn ObjectStore>,
    place: String,
    credentials: Option<AwsCredentialProvider>,
}

/// Why the store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A URL that names no store.
    #[error("'{url}' names no store: use a directory, file:///DIRECTORY or s3://BUCKET/PREFIX ({reason})")]
    Url {
        /// What was given, without what may be secret in it.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// A store that exists but not like this.
    #[error("--store {place}: {reason}")]
    Refused {
        /// Its place.
        place: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// The store's answer.
    #[error("the store of large files: {0}")]
    Store(#[from] object_store::Error),
    /// A file of the disk on its way from or to the store.
    #[error("a file on its way to or from the store: {0}")]
    File(#[from] std::io::Error),
}

impl StoreError {
    /// Whether the store works but has no such object.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Store(object_store::Error::NotFound { .. }))
    }
}

impl Store {
    /// A directory of the local disk, made if need be. What is written is durable when it is answered.
    ///
    /// # Errors
    /// [`StoreError::File`], [`StoreError::Store`].
    pub fn directory(path: &Path) -> Result<Self, StoreError> {
        std::fs::create_dir_all(path)?;
        let inner = LocalFileSystem::new_with_prefix(path)?.with_fsync(true).with_automatic_cleanup(true);
        Ok(Self { inner: Arc::new(inner), place: path.display().to_string(), credentials: None })
    }

    /// `s3://BUCKET/PREFIX` (credentials, region and endpoint from the usual `AWS_*` variables), `file:///DIRECTORY`, or a directory.
    ///
    /// # Errors
    /// [`StoreError::Url`], and those of [`Store::directory`].
    pub fn open(url: &str) -> Result<Self, StoreError> {
        if let Some(path) = url.strip_prefix("file://") {
            return Self::directory(Path::new(path));
        }
        let Some(rest) = url.strip_prefix("s3://") else {
            if url.contains("://") {
                return Err(StoreError::Url { url: plain(url), reason: "an unknown scheme".into() });
            }
            return Self::directory(Path::new(url));
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let wrong = |reason: &dyn std::fmt::Display| StoreError::Url { url: plain(url), reason: reason.to_string() };
        if bucket.is_empty() || bucket.contains('@') {
            return Err(wrong(
                &"no bucket, or credentials in the URL: they belong into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            ));
        }
        if !bucket.bytes().all(|c| c.is_ascii_alphanumeric() || b"._-".contains(&c)) {
            return Err(wrong(&"a bucket's name has letters, digits, '.', '_' and '-'"));
        }
        let s3 = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(RETRY);
        endpoint(&s3).map_err(|e| wrong(&e))?;
        let s3 = s3.build().map_err(|e| wrong(&e))?;
        let prefix = Key::parse(prefix.trim_end_matches('/')).map_err(|e| wrong(&e))?;
        let credentials = Some(Arc::clone(s3.credentials()));
        Ok(Self { inner: Arc::new(PrefixStore::new(s3, prefix)), place: url.to_owned(), credentials })
    }

    /// Any store, for tests.
    pub fn of(inner: Arc<dyn ObjectStore>) -> Self {
        Self { inner, place: "a store".into(), credentials: None }
    }

    /// For messages.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Writes and reads an object, so that a wrong address or credential is known before anything depends on it.
    ///
    /// # Errors
    /// [`StoreError::Refused`], [`StoreError::Store`].
    pub async fn check(&self) -> Result<(), StoreError> {
        let refused = |reason| Err(StoreError::Refused { place: self.place.clone(), reason });
        if let Some(credentials) = &self.credentials
            && credentials.get_credential().await.is_err()
        {
            return refused(
                "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (this machine has no role of its own)",
            );
        }
        let done = match self.put(READY, READY).await {
            Ok(()) => self.answers().await,
            failed => failed,
        };
        match done {
            Err(StoreError::Store(object_store::Error::NotFound { .. })) => {
                refused("there is no such bucket: create it, or correct the name or AWS_ENDPOINT")
            }
            Err(StoreError::Store(
                object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. },
            )) => refused(
                "access is denied: check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION, and that this key may read, write, list and delete in the bucket",
            ),
            done => done,
        }
    }

    /// Whether the store answers: reads what [`Store::check`] wrote.
    ///
    /// # Errors
    /// [`StoreError::Store`].
    pub async fn answers(&self) -> Result<(), StoreError> {
        self.get(READY).await.map(drop)
    }

    /// Stores bytes under a key.
    ///
    /// # Errors
    /// [`StoreError::Store`].
    pub async fn put(&self, key: &str, bytes: impl Into<Bytes>) -> Result<(), StoreError> {
        self.inner.put(&Key::from(key), bytes.into().into()).await?;
        Ok(())
    }

    /// Stores bytes under a key that is not used; says whether it was not.
    ///
    /// # Errors
    /// [`StoreError::Store`].
    pub async fn put_new(&self, key: &str, bytes: impl Into<Bytes>) -> Result<bool, StoreError> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.inner.put_opts(&Key::from(key), bytes.into().into(), options).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Stores a file of the disk under a key, piece by piece.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn put_file(&self, key: &str, file: &Path) -> Result<(), StoreError> {
        let mut from = tokio::fs::File::open(file).await?;
        let mut to = BufWriter::new(Arc::clone(&self.inner), Key::from(key));
        let mut buffer = vec![0; CHUNK];
        loop {
            let count = from.read(&mut buffer).await?;
            let Some(piece) = buffer.get(..count).filter(|piece| !piece.is_empty()) else { break };
            to.write_all(piece).await?;
        }
        to.shutdown().await?;
        Ok(())
    }

    /// All of an object.
    ///
    /// # Errors
    /// [`StoreError::Store`].
    pub async fn get(&self, key: &str) -> Result<Bytes, StoreError> {
        Ok(self.inner.get(&Key::from(key)).await?.bytes().await?)
    }

    /// A part of an object.
    ///
    /// # Errors
    /// [`StoreError::Store`].
    pub async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        Ok(self.inner.get_range(&Key::from(key), range).await?)
    }

    /// A part of an object, piece by piece.
    ///
    /// # Errors
    /// [`StoreError::Store`].
    pub async fn stream(
        &self,
        key: &str,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, object_store::Error>>, StoreError> {
        let options = object_store::GetOptions::new().with_range(Some(range));
        Ok(self.inner.get_opts(&Key::from(key), options).await?.into_stream())
    }

    /// Copies an object to a file of the disk; says whether there was one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn fetch(&self, key: &str, file: &Path) -> Result<bool, StoreError> {
        let found = match self.inner.get(&Key::from(key)).await {
            Err(object_store::Error::NotFound { .. }) => return Ok(false),
            found => found?,
        };
        let mut to = tokio::fs::File::create(file).await?;
        let mut pieces = found.into_stream();
        while let Some(piece) = pieces.next().await {
            to.write_all(&piece?).await?;
        }
        to.sync_all().await?;
        Ok(true)
    }

    /// Names of the objects under a prefix, without it.
    ///
    /// # Errors
    /// [`StoreError::Store`].
    pub async fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let root = Key::from(prefix);
        let mut found = self.inner.list(Some(&root));
        let mut out = Vec::new();
        while let Some(object) = found.next().await {
            if let Some(parts) = object?.location.prefix_match(&root) {
                out.push(parts.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/"));
            }
        }
        Ok(out)
    }

    /// Removes an object; one that is not there is fine.
    ///
    /// # Errors
    /// [`StoreError::Store`].
    pub async fn remove(&self, key: &str) -> Result<(), StoreError> {
        match self.inner.delete(&Key::from(key)).await {
            Err(object_store::Error::NotFound { .. }) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether the endpoint of a client of S3, if it has one, is an address that it may use.
fn endpoint(s3: &AmazonS3Builder) -> Result<(), String> {
    for (key, name) in
        [(AmazonS3ConfigKey::S3Endpoint, "AWS_ENDPOINT_URL_S3"), (AmazonS3ConfigKey::Endpoint, "AWS_ENDPOINT")]
    {
        let Some(text) = s3.get_config_value(&key) else { continue };
        let url = text.parse::<Uri>().ok().filter(|url| url.host().is_some());
        match url.as_ref().and_then(Uri::scheme_str) {
            Some("https") => {}
            Some("http") => {
                let allowed = s3.get_config_value(&AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp));
                if allowed.as_deref() != Some("true") {
                    return Err(format!("{name} is not encrypted: set AWS_ALLOW_HTTP=true if it may be"));
                }
            }
            _ => return Err(format!("{name} is no address: https://HOST or https://HOST:PORT")),
        }
    }
    Ok(())
}

/// A URL without user and password.
pub(crate) fn plain(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://{rest}"),
        _ => url.to_owned(),
    }
}

/// The registry's view of a store: models' files, from threads that may wait.
pub(crate) struct Models {
    pub store: Store,
    pub runtime: Handle,
}

type Failed = Box<dyn std::error::Error + Send + Sync>;

impl SharedFiles for Models {
    fn put(&self, key: &str, file: &Path) -> Result<(), Failed> {
        Ok(self.runtime.block_on(self.store.put_file(key, file))?)
    }

    fn fetch(&self, key: &str, file: &Path) -> Result<bool, Failed> {
        Ok(self.runtime.block_on(self.store.fetch(key, file))?)
    }

    fn remove_all(&self, prefix: &str) -> Result<(), Failed> {
        self.runtime.block_on(async {
            for name in self.store.list(prefix).await? {
                self.store.remove(&format!("{prefix}{name}")).await?;
            }
            Ok(())
        })
    }
}
