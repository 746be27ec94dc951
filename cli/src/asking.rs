//! Asking a coordinator by its HTTP port, with or without TLS.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use syn1_model::Digest;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use crate::node::fingerprint;

/// Whom to trust to be the coordinator.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct Trusted {
    /// With https: trust the authorities in this file (PEM); a coordinator with --tls auto gives its own at /ca.crt
    /// [default: those of the system]
    #[arg(long, value_name = "FILE", conflicts_with = "tls_fingerprint")]
    tls_ca: Option<PathBuf>,
    /// With https: trust the authority whose certificate has this SHA-256, as the coordinator prints it
    #[arg(long, value_name = "SHA256", value_parser = fingerprint)]
    tls_fingerprint: Option<Digest>,
}

impl Trusted {
    /// What asks the coordinator at `url`, which is `http://HOST:PORT` or `https://HOST:PORT`, and waits so long for an answer.
    pub(crate) fn agent(&self, url: &str, patience: Duration) -> Result<ureq::Agent> {
        let roots = match (url.split_once("://"), &self.tls_ca, self.tls_fingerprint) {
            (Some(("http", _)), None, None) => return Ok(agent(TlsConfig::default(), patience)),
            (Some(("http", _)), ..) => {
                bail!("{url} is asked without TLS: --tls-ca and --tls-fingerprint are for https")
            }
            (Some(("https", _)), None, None) => RootCerts::PlatformVerifier,
            (Some(("https", _)), Some(path), _) => {
                let pem = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
                let found = certificates(&pem).with_context(|| path.display().to_string())?;
                RootCerts::new_with_certs(&found)
            }
            (Some(("https", host)), None, Some(fingerprint)) => {
                RootCerts::new_with_certs(&[authority(host, fingerprint, patience)?])
            }
            _ => bail!("{url} is no address of a coordinator: http://HOST:PORT or https://HOST:PORT is"),
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = TlsConfig::builder().root_certs(roots).unversioned_rustls_crypto_provider(provider).build();
        Ok(agent(tls, patience))
    }
}

fn agent(tls: TlsConfig, patience: Duration) -> ureq::Agent {
    let config = ureq::Agent::config_builder().tls_config(tls).timeout_global(Some(patience));
    config.http_status_as_error(false).build().new_agent()
}

/// The coordinator's own authority, which it gives without TLS to whoever knows its fingerprint.
fn authority(host: &str, fingerprint: Digest, patience: Duration) -> Result<Certificate<'static>> {
    let url = format!("http://{}/ca.crt", host.split('/').next().unwrap_or(host));
    let answer = agent(TlsConfig::default(), patience).get(&url).call();
    let mut answer = answer.with_context(|| format!("no coordinator answers at {url}: is it running?"))?;
    if !answer.status().is_success() {
        bail!("{url} answers HTTP {}: only a coordinator with --tls auto has an authority of its own", answer.status());
    }
    let pem = answer.body_mut().with_config().limit(MAX_PEM_BYTES).read_to_vec()?;
    let found = certificates(&pem).with_context(|| url.clone())?;
    let theirs: Vec<String> = found.iter().map(|found| Digest::of(found.der()).to_string()).collect();
    let matching = found.into_iter().find(|found| Digest::of(found.der()) == fingerprint);
    matching.with_context(|| {
        let theirs = theirs.join(", ");
        format!("the authority at {url} has the SHA-256 {theirs}, not {fingerprint}: is this another coordinator?")
    })
}

fn certificates(pem: &[u8]) -> Result<Vec<Certificate<'static>>> {
    let mut found = Vec::new();
    for item in parse_pem(pem) {
        if let PemItem::Certificate(certificate) = item.context("no certificate")? {
            found.push(certificate);
        }
    }
    if found.is_empty() {
        bail!("it has no BEGIN CERTIFICATE");
    }
    Ok(found)
}

/// Far more than an authority's certificate has.
const MAX_PEM_BYTES: u64 = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str, trusted: &Trusted) -> String {
        format!("{:#}", trusted.agent(url, Duration::from_secs(1)).map(drop).unwrap_err())
    }

    #[test]
    fn addresses_and_authorities_that_cannot_be_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.crt");
        fs::write(&path, "hello").unwrap();
        let trusted = Trusted { tls_ca: Some(path), tls_fingerprint: None };
        assert!(refused("https://127.0.0.1:1", &trusted).contains("ca.crt: it has no BEGIN CERTIFICATE"));
        assert!(refused("http://127.0.0.1:1", &trusted).contains("are for https"));
        assert!(refused("127.0.0.1:1", &Trusted::default()).contains("no address of a coordinator"));
        let trusted = Trusted { tls_ca: None, tls_fingerprint: Some(Digest([7; 32])) };
        assert!(
            refused("https://127.0.0.1:1", &trusted).contains("no coordinator answers at http://127.0.0.1:1/ca.crt")
        );
    }
}
