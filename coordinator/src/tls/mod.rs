//! The ports' certificate: from files, or from an authority of this machine's own; exchanged while it is in use.

mod authority;
pub(crate) mod names;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use syn1_identity::KeyFileError;
use syn1_model::Digest;

use authority::Authority;

/// How the HTTP port is encrypted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Tls {
    /// Not at all.
    #[default]
    Off,
    /// With certificates of an authority of this machine's own.
    Auto {
        /// Where the authority and its certificate are kept.
        folder: PathBuf,
    },
    /// With a certificate that others vouch for.
    Files {
        /// The certificate, and those between it and a root: PEM.
        certificates: PathBuf,
        /// Its key: PEM.
        key: PathBuf,
    },
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read, or holds something else.
    #[error("cannot use {what} in {path}: {cause}", path = path.display())]
    File {
        /// What it should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// The authority cannot be kept.
    #[error(transparent)]
    Keep(#[from] KeyFileError),
    /// A certificate cannot be made.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// Certificate and key do not go together, or TLS does not know their kind.
    #[error("cannot use the certificate: {0}")]
    Use(#[from] rustls::Error),
}

/// A certificate with those that vouch for it, and its key.
struct Chain {
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

/// The certificate that is in use, and where the next one comes from.
pub(crate) struct Certificates {
    source: Source,
    current: Arc<Current>,
    config: Arc<rustls::ServerConfig>,
}

enum Source {
    Authority(Box<Authority>, Vec<String>),
    Files { certificates: PathBuf, key: PathBuf },
}

impl Certificates {
    /// Nothing where there is to be no TLS. `names` are this machine's beside its addresses.
    pub(crate) fn open(tls: &Tls, names: &[String]) -> Result<Option<Self>, TlsError> {
        let source = match tls {
            Tls::Off => return Ok(None),
            Tls::Auto { folder } => Source::Authority(Box::new(Authority::open(folder)?), names.to_vec()),
            Tls::Files { certificates, key } => Source::Files { certificates: certificates.clone(), key: key.clone() },
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let current = Arc::new(Current(RwLock::new(source.next(&provider)?)));
        let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let mut config = config.with_no_client_auth().with_cert_resolver(current.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Some(Self { source, current, config: Arc::new(config) }))
    }

    pub(crate) fn config(&self) -> Arc<rustls::ServerConfig> {
        self.config.clone()
    }

    /// Takes another certificate into use where the addresses, the files or the time ask for it. Open connections keep
    /// theirs.
    pub(crate) fn renew(&self) -> Result<(), TlsError> {
        let next = self.source.next(self.config.crypto_provider())?;
        let mut current = self.current.0.write().unwrap_or_else(PoisonError::into_inner);
        if current.cert != next.cert {
            tracing::info!("the HTTP port has another certificate");
            *current = next;
        }
        Ok(())
    }

    /// The authority's certificate as PEM, which devices are to trust; nothing where others vouch for the coordinator.
    pub(crate) fn authority_pem(&self) -> Option<String> {
        self.authority().map(|authority| authority.pem().to_owned())
    }

    /// The SHA-256 of the authority's certificate.
    pub(crate) fn fingerprint(&self) -> Option<Digest> {
        self.authority().map(|authority| Digest::of(authority.certificate()))
    }

    fn authority(&self) -> Option<&Authority> {
        match &self.source {
            Source::Authority(authority, _) => Some(authority),
            Source::Files { .. } => None,
        }
    }
}

impl Source {
    fn next(&self, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, TlsError> {
        let chain = match self {
            Self::Authority(authority, given) => authority.leaf(&names::all(given))?,
            Self::Files { certificates, key } => Chain {
                certificates: read(certificates, "a certificate", |pem| {
                    let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
                    certificates.map_err(|error| error.to_string()).and_then(|all| {
                        if all.is_empty() { Err("it has no BEGIN CERTIFICATE".into()) } else { Ok(all) }
                    })
                })?,
                key: read(key, "a key", |pem| PrivateKeyDer::from_pem_slice(pem).map_err(|error| error.to_string()))?,
            },
        };
        Ok(Arc::new(CertifiedKey::from_der(chain.certificates, chain.key, provider)?))
    }
}

/// Reads something out of a file.
fn read<T>(path: &Path, what: &'static str, parse: impl FnOnce(&[u8]) -> Result<T, String>) -> Result<T, TlsError> {
    let bytes = std::fs::read(path).map_err(|error: io::Error| error.to_string());
    bytes.and_then(|bytes| parse(&bytes)).map_err(|cause| TlsError::File { what, path: path.to_owned(), cause })
}

/// What the first record of a TLS connection begins with; no HTTP method does, nor any frame of SYN1.
pub(crate) const TLS_HANDSHAKE: u8 = 22;

/// The certificate for the next connection.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_no_certificate_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let (certificates, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        let open = || {
            let tls = Tls::Files { certificates: certificates.clone(), key: key.clone() };
            Certificates::open(&tls, &[]).map(drop).unwrap_err().to_string()
        };
        assert!(open().contains("cert.pem"));
        std::fs::write(&certificates, "hello").unwrap();
        assert!(open().contains("no BEGIN CERTIFICATE"));
    }

    #[test]
    fn files_that_change_are_taken_into_use() {
        let [one, other] = [0, 1].map(|_| rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap());
        let folder = tempfile::tempdir().unwrap();
        let (certificates, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        let write = |pair: &rcgen::CertifiedKey<rcgen::KeyPair>| {
            std::fs::write(&certificates, pair.cert.pem()).unwrap();
            std::fs::write(&key, pair.signing_key.serialize_pem()).unwrap();
        };
        write(&one);
        let tls = Tls::Files { certificates: certificates.clone(), key: key.clone() };
        let certificates = Certificates::open(&tls, &[]).unwrap().unwrap();
        let in_use = || certificates.current.0.read().unwrap().cert[0].clone();
        assert_eq!(in_use(), *one.cert.der());
        write(&other);
        certificates.renew().unwrap();
        assert_eq!(in_use(), *other.cert.der());
        // Half of a change, as when files are copied one by one: the old pair stays.
        std::fs::write(&key, one.signing_key.serialize_pem()).unwrap();
        assert!(certificates.renew().is_err());
        assert_eq!(in_use(), *other.cert.der());
    }
}
