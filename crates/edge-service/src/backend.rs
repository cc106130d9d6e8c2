//! The backend's HTTP interface, as a device sees it.

use crate::config::Config;
use crate::error::ServiceError;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, RANGE, RETRY_AFTER};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use subrosa_fleet::messages::{Deployment, Enrol, Enrolled, Problem, RESULTS_TYPE, Receipts, Status};

/// Longest answer that is read as text.
const MAX_ANSWER: usize = 4 << 20;

/// Why a request gave no answer of use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackendError {
    /// No answer.
    #[error("the backend does not answer: {0}")]
    Away(String),
    /// An answer that says no.
    #[error("the backend answers {status}: {detail}")]
    Refused { status: u16, detail: String, retry_after: Option<Duration> },
    /// An answer that is not understood.
    #[error("the backend's answer is not understood: {0}")]
    Answer(String),
}

impl BackendError {
    /// The HTTP status, if there was an answer.
    pub fn status(&self) -> Option<u16> {
        if let Self::Refused { status, .. } = self { Some(*status) } else { None }
    }

    /// How long the backend asks to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        if let Self::Refused { retry_after, .. } = self { *retry_after } else { None }
    }
}

impl From<reqwest::Error> for BackendError {
    fn from(error: reqwest::Error) -> Self {
        // The outermost text repeats the address only; the cause says why.
        let mut cause: &dyn std::error::Error = &error;
        let mut text = if error.is_timeout() { "no answer in time".to_owned() } else { error.without_url_text() };
        while let Some(inner) = cause.source() {
            text = format!("{text}: {inner}");
            cause = inner;
        }
        Self::Away(text)
    }
}

trait WithoutUrl {
    fn without_url_text(&self) -> String;
}

impl WithoutUrl for reqwest::Error {
    fn without_url_text(&self) -> String {
        match self {
            e if e.is_connect() => "no connection".into(),
            e if e.is_body() || e.is_decode() => "the connection broke off".into(),
            _ => "the request failed".into(),
        }
    }
}

/// A TLS configuration that trusts exactly the certificates in a PEM file, or nobody without one.
pub(crate) fn tls(key: &'static str, ca: Option<&Path>) -> Result<rustls::ClientConfig, ServiceError> {
    let mut roots = rustls::RootCertStore::empty();
    if let Some(path) = ca {
        let wrong = |what: String| ServiceError::Certificate { key, file: path.display().to_string(), what };
        let pem = std::fs::read(path).map_err(|e| wrong(format!("cannot be read: {e}")))?;
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|e| wrong(format!("is no PEM file of certificates: {e}")))?;
            roots.add(certificate).map_err(|e| wrong(format!("holds a certificate that cannot be used: {e}")))?;
        }
        if roots.is_empty() {
            return Err(wrong("holds no certificate: it must be PEM, with BEGIN CERTIFICATE".into()));
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| ServiceError::System(format!("TLS cannot be set up: {e}")))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// A client of HTTP with this TLS configuration.
pub(crate) fn client(tls: rustls::ClientConfig, timeout: Duration) -> Result<Client, ServiceError> {
    Client::builder()
        .use_preconfigured_tls(tls)
        .user_agent(concat!("subrosa-edge/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(timeout)
        .read_timeout(timeout)
        // A backend never redirects; a credential must not follow one.
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
        .map_err(|e| ServiceError::System(format!("HTTP cannot be set up: {e}")))
}

/// The backend.
#[derive(Clone)]
pub(crate) struct Backend {
    client: Client,
    base: String,
    timeout: Duration,
    bearer: Option<HeaderValue>,
}

impl Backend {
    /// The configured backend, for a device that is not enrolled yet.
    pub fn new(config: &Config) -> Result<Self, ServiceError> {
        let backend = &config.backend;
        let timeout = backend.timeout_seconds.0;
        let tls = tls("backend.ca", backend.ca.as_deref())?;
        let base = format!("{}/api/v1", backend.url.trim_end_matches('/'));
        Ok(Self { client: client(tls, timeout)?, base, timeout, bearer: None })
    }

    /// The same with the device's access token.
    pub fn with_token(mut self, token: &str) -> Result<Self, ServiceError> {
        let mut bearer = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| ServiceError::System("the access token is no word of printable ASCII".into()))?;
        bearer.set_sensitive(true);
        self.bearer = Some(bearer);
        Ok(self)
    }

    fn authorized(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.bearer {
            Some(bearer) => request.header(AUTHORIZATION, bearer),
            None => request,
        }
    }

    /// Takes the device into the fleet.
    pub async fn enrol(&self, enrol: &Enrol) -> Result<Enrolled, BackendError> {
        let request = self.client.post(format!("{}/device/enrol", self.base)).json(enrol).timeout(self.timeout);
        json(good(request.send().await?).await?).await
    }

    /// What the device is to run; `None` if nothing.
    pub async fn deployment(&self) -> Result<Option<Deployment>, BackendError> {
        let request = self.authorized(self.client.get(format!("{}/device/deployment", self.base)));
        let answer = good(request.timeout(self.timeout).send().await?).await?;
        if answer.status() == StatusCode::NO_CONTENT { Ok(None) } else { json(answer).await.map(Some) }
    }

    /// A bundle's bytes from `offset` on, as they come. The answer's status tells whether the offset was understood.
    pub async fn bundle(&self, sha256: &str, offset: u64) -> Result<Response, BackendError> {
        let mut request = self.authorized(self.client.get(format!("{}/device/bundles/{sha256}", self.base)));
        if offset > 0 {
            request = request.header(RANGE, format!("bytes={offset}-"));
        }
        good(request.send().await?).await
    }

    /// Delivers a batch of signed results.
    pub async fn deliver(&self, batch: Vec<u8>) -> Result<Receipts, BackendError> {
        let request = self.authorized(self.client.post(format!("{}/device/results", self.base)));
        let request = request.header(CONTENT_TYPE, RESULTS_TYPE).body(batch);
        json(good(request.send().await?).await?).await
    }

    /// Tells how the device fares.
    pub async fn status(&self, status: &Status) -> Result<(), BackendError> {
        let request = self.authorized(self.client.post(format!("{}/device/status", self.base)));
        good(request.json(status).timeout(self.timeout).send().await?).await.map(drop)
    }
}

/// An answer that says yes.
async fn good(answer: Response) -> Result<Response, BackendError> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let retry_after = answer.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
    let text = limited(answer).await.unwrap_or_default();
    let detail = match serde_json::from_slice::<Problem>(&text) {
        Ok(problem) => problem.detail,
        Err(_) => status.canonical_reason().unwrap_or("no reason given").to_owned(),
    };
    Err(BackendError::Refused { status: status.as_u16(), detail, retry_after: retry_after.map(Duration::from_secs) })
}

async fn json<T: serde::de::DeserializeOwned>(answer: Response) -> Result<T, BackendError> {
    let text = limited(answer).await?;
    serde_json::from_slice(&text).map_err(|e| BackendError::Answer(e.to_string()))
}

/// An answer's body, if it is not too long.
pub(crate) async fn limited(answer: Response) -> Result<Vec<u8>, BackendError> {
    limited_to(answer, MAX_ANSWER).await
}

/// An answer's body of at most so many bytes.
pub(crate) async fn limited_to(mut answer: Response, limit: usize) -> Result<Vec<u8>, BackendError> {
    let mut out = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        if out.len() + chunk.len() > limit {
            return Err(BackendError::Answer(format!("it is longer than {limit} bytes")));
        }
        out.extend_from_slice(&chunk);
    }
    Ok(out)
}
