//! Whom a node trusts to be its coordinator when it joins with TLS.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme, WantsVerifier,
};
use rustls_platform_verifier::BuilderVerifierExt as _;
use syn1_model::Digest;

/// Whom a node trusts to be its coordinator when it joins with TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// Whoever the system's authorities vouch for.
    #[default]
    System,
    /// Whoever the authorities in this file (PEM) vouch for.
    Authority(PathBuf),
    /// Whoever the authority vouches for whose certificate has this SHA-256. The coordinator sends that certificate along.
    Fingerprint(Digest),
}

/// Why trust cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// The authorities' file cannot be read, or holds none.
    #[error("cannot use the authority's certificate in {path}: {cause}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// The system's authorities cannot be used.
    #[error("cannot use this system's certificate authorities: {0}; --tls-ca or --tls-fingerprint name another one")]
    System(Error),
    /// TLS cannot be set up.
    #[error("cannot set up TLS: {0}")]
    Tls(Error),
}

/// The authorities to trust, once they are known: none for those of the system.
pub(crate) type Roots = Option<Vec<CertificateDer<'static>>>;

impl Trust {
    /// What TLS connections are made with in which one of `protocols` is spoken.
    pub(crate) fn config(&self, protocols: &[&[u8]]) -> Result<ClientConfig, TrustError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone());
        let builder: rustls::ConfigBuilder<_, WantsVerifier> =
            builder.with_safe_default_protocol_versions().map_err(TrustError::Tls)?;
        let mut config = match self {
            Self::System => builder.with_platform_verifier().map_err(TrustError::System)?.with_no_client_auth(),
            Self::Authority(path) => {
                let mut store = RootCertStore::empty();
                for certificate in authorities(path)? {
                    let added = store.add(certificate);
                    added.map_err(|error| TrustError::File { path: path.clone(), cause: error.to_string() })?;
                }
                builder.with_root_certificates(store).with_no_client_auth()
            }
            Self::Fingerprint(fingerprint) => {
                let verifier = Arc::new(ByFingerprint { fingerprint: *fingerprint, provider });
                builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
            }
        };
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(config)
    }

    /// The authorities for further connections to a coordinator that has shown these certificates, and was trusted.
    pub(crate) fn roots(&self, shown: &[CertificateDer<'static>]) -> Result<Roots, TrustError> {
        Ok(match self {
            Self::System => None,
            Self::Authority(path) => Some(authorities(path)?),
            Self::Fingerprint(fingerprint) => {
                Some(shown.iter().filter(|certificate| Digest::of(certificate) == *fingerprint).cloned().collect())
            }
        })
    }
}

fn authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let failed = |cause: String| TrustError::File { path: path.to_owned(), cause };
    let pem = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match all {
        Ok(all) if all.is_empty() => Err(failed("it has no BEGIN CERTIFICATE".into())),
        Ok(all) => Ok(all),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// Trusts the authority with one fingerprint, which is among the certificates that the coordinator shows; everything else is
/// checked as usual.
#[derive(Debug)]
struct ByFingerprint {
    fingerprint: Digest,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ByFingerprint {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let authority = others.iter().find(|certificate| Digest::of(certificate) == self.fingerprint);
        let authority = authority.ok_or(CertificateError::UnknownIssuer)?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone()).build();
        let verifier = verifier.map_err(|error| Error::General(error.to_string()))?;
        verifier.verify_server_cert(leaf, others, name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, leaf, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, leaf, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_an_authority_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.crt");
        let error = || Trust::Authority(path.clone()).config(&[]).map(drop).unwrap_err().to_string();
        assert!(error().contains("ca.crt"));
        std::fs::write(&path, "hello").unwrap();
        assert!(error().contains("no BEGIN CERTIFICATE"));
    }
}
