//! The server's certificate: given, or its own from the first start.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use subrosa_program::container::{Access, AtomicFile};

use crate::config::Transport;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Not what is wanted.
    #[error("{} holds no {what} in PEM form: {detail}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// Certificate or private key.
        what: &'static str,
        /// Why not.
        detail: String,
    },
    /// Certificate and key do not fit, or cannot be used.
    #[error("the certificate cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
    /// A certificate of its own cannot be made.
    #[error("a self-signed certificate cannot be made: {0}")]
    Own(#[from] rcgen::Error),
}

/// The configuration of TLS, and the certificate that edges are to trust where it is the server's own; nothing without TLS.
///
/// # Errors
/// [`TlsError`].
pub(crate) fn configure(
    transport: &Transport,
    home: &Path,
) -> Result<Option<(Arc<rustls::ServerConfig>, Option<PathBuf>)>, TlsError> {
    let (certificate, key, own) = match transport {
        Transport::Plain => return Ok(None),
        Transport::Tls { certificate, key } => (certificate.clone(), key.clone(), None),
        Transport::SelfSigned { names } => {
            let (certificate, key) = own(&home.join("tls"), names)?;
            (certificate.clone(), key, Some(certificate))
        }
    };
    let bad = |path: &Path, what: &'static str| {
        let path = path.to_owned();
        move |e: rustls::pki_types::pem::Error| TlsError::Pem { path, what, detail: e.to_string() }
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(&certificate).and_then(Iterator::collect);
    let chain = chain.map_err(bad(&certificate, "certificate"))?;
    let private = PrivateKeyDer::from_pem_file(&key).map_err(bad(&key, "private key"))?;
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, private)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some((Arc::new(config), own)))
}

/// The server's own certificate and key, made if there are none.
fn own(directory: &Path, names: &[String]) -> Result<(PathBuf, PathBuf), TlsError> {
    let (certificate, key) = (directory.join("cert.pem"), directory.join("key.pem"));
    if certificate.is_file() && key.is_file() {
        return Ok((certificate, key));
    }
    let mut all: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
    all.extend(names.iter().filter(|name| !["localhost", "127.0.0.1", "::1"].contains(&name.as_str())).cloned());
    let mut parameters = rcgen::CertificateParams::new(all)?;
    parameters.distinguished_name.push(rcgen::DnType::CommonName, "Subrosa backend");
    parameters.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let pair = rcgen::KeyPair::generate()?;
    let made = parameters.self_signed(&pair)?;
    std::fs::create_dir_all(directory).map_err(|source| TlsError::File { path: directory.to_owned(), source })?;
    // The key first: a certificate without one would be taken for complete.
    write(&key, &pair.serialize_pem(), Access::Private)?;
    write(&certificate, &made.pem(), Access::Shared)?;
    Ok((certificate, key))
}

fn write(path: &Path, text: &str, access: Access) -> Result<(), TlsError> {
    let written = AtomicFile::begin(path, access).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.replace()
    });
    written.map_err(|source| TlsError::File { path: path.to_owned(), source })
}
