//! A certificate authority of this machine's own, and the certificates that it gives.
//!
//! Phones take no certificate that nobody vouches for, and nobody vouches for addresses of a home network. So the
//! coordinator has an authority of its own, which a person installs once; its certificates come and go with the machine's
//! addresses.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use syn1_identity::{keep, replace};
use syn1_model::Digest;
use time::{Duration, OffsetDateTime};

use super::{Chain, TlsError};

/// An authority, kept in a folder.
pub(super) struct Authority {
    folder: PathBuf,
    certificate: CertificateDer<'static>,
    /// The certificate's part of the kept file.
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// The authority of a folder; made at the first use.
    pub(super) fn open(folder: &Path) -> Result<Self, TlsError> {
        let path = folder.join("coordinator-ca.pem");
        let pem = keep(&path, || Ok::<_, TlsError>(make()?.into_bytes()))?;
        let broken = |error: &dyn std::fmt::Display| TlsError::File {
            what: "the certificate authority",
            path: path.clone(),
            cause: format!("{error}; without that file a new one is made, which every device has to trust anew"),
        };
        let certificate = CertificateDer::from_pem_slice(&pem).map_err(|error| broken(&error))?;
        let secret = PrivatePkcs8KeyDer::from_pem_slice(&pem).map_err(|error| broken(&error))?;
        let key = KeyPair::try_from(secret.secret_pkcs8_der()).map_err(|error| broken(&error))?;
        let issuer = Issuer::new(authority_params(&key), key);
        let text = String::from_utf8_lossy(&pem);
        let (before, _) = text.split_once(KEY_BEGINS).ok_or_else(|| broken(&"its key does not come last"))?;
        Ok(Self { folder: folder.to_owned(), certificate, pem: before.to_owned(), issuer })
    }

    /// The certificate, without the key.
    pub(super) fn pem(&self) -> &str {
        &self.pem
    }

    pub(super) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// A certificate that has all `names` and is good for a while: the one of the last time if it still is, else a new one.
    /// Browsers remember an exception that a person made for one certificate, so it is not changed without need.
    pub(super) fn leaf(&self, names: &BTreeSet<String>) -> Result<Chain, TlsError> {
        let path = self.folder.join("coordinator-leaf.pem");
        let now = OffsetDateTime::now_utc();
        let kept = std::fs::read(&path).ok().and_then(|pem| self.kept(&pem, names, now));
        if let Some(chain) = kept {
            return Ok(chain);
        }
        let until = now + Duration::days(LEAF_DAYS);
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names.iter().cloned().collect::<Vec<_>>())?;
        params.distinguished_name = called("syn1 coordinator");
        (params.not_before, params.not_after) = (now - Duration::days(1), until);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let label = Label { authority: Digest::of(&self.certificate), until: until.unix_timestamp(), names };
        replace(&path, format!("{}\n{}{}", label.line(), certificate.pem(), key.serialize_pem()).as_bytes())?;
        Ok(self.chain(certificate.into(), PrivatePkcs8KeyDer::from(key.serialize_der()).into()))
    }

    /// The certificate in `pem`, if it is this authority's, has all `names` and does not end soon.
    fn kept(&self, pem: &[u8], names: &BTreeSet<String>, now: OffsetDateTime) -> Option<Chain> {
        let line = std::str::from_utf8(pem).ok()?.lines().next()?;
        let soon = now + Duration::days(RENEW_DAYS);
        if !Label::covers(line, Digest::of(&self.certificate), soon.unix_timestamp(), names) {
            return None;
        }
        let certificate = CertificateDer::from_pem_slice(pem).ok()?;
        Some(self.chain(certificate, PrivateKeyDer::from_pem_slice(pem).ok()?))
    }

    /// The authority's own certificate goes with it: a node that knows only its SHA-256 finds it there.
    fn chain(&self, leaf: CertificateDer<'static>, key: PrivateKeyDer<'static>) -> Chain {
        Chain { certificates: vec![leaf, self.certificate.clone()], key }
    }
}

/// What the first line of a kept certificate says of it, so that nobody has to read it out of the certificate.
struct Label<'a> {
    authority: Digest,
    /// Seconds since 1970.
    until: i64,
    names: &'a BTreeSet<String>,
}

impl Label<'_> {
    fn line(&self) -> String {
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        format!("authority {} until {} names {}", self.authority, self.until, names.join(" "))
    }

    /// Whether a line is of a certificate by `authority` that lasts beyond `soon` and has all `names`.
    fn covers(line: &str, authority: Digest, soon: i64, names: &BTreeSet<String>) -> bool {
        let mut words = line.split(' ');
        let mut after = |label: &str| words.next().filter(|word| *word == label).and_then(|_| words.next());
        let by = after("authority").and_then(|digest| digest.parse().ok()) == Some(authority);
        let lasts = after("until").and_then(|until| until.parse().ok()).is_some_and(|until: i64| until > soon);
        let first = after("names");
        let has: BTreeSet<&str> = first.into_iter().chain(words).collect();
        by && lasts && names.iter().all(|name| has.contains(name.as_str()))
    }
}

/// A new authority: its certificate and its key.
fn make() -> Result<String, rcgen::Error> {
    let key = KeyPair::generate()?;
    let certificate = authority_params(&key).self_signed(&key)?;
    Ok(certificate.pem() + &key.serialize_pem())
}

/// What an authority's certificate says. It follows from the key alone, so that a kept key is enough to go on signing.
fn authority_params(key: &KeyPair) -> CertificateParams {
    let mut params = CertificateParams::default();
    let tag: String = Digest::of(key.public_key_raw()).to_string().chars().take(8).collect();
    params.distinguished_name = called(&format!("syn1 local authority {tag}"));
    (params.not_before, params.not_after) = (date_time_ymd(2026, 1, 1), date_time_ymd(2046, 1, 1));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn called(name: &str) -> DistinguishedName {
    let mut called = DistinguishedName::new();
    called.push(DnType::CommonName, name);
    called
}

/// What the key's part of a kept file begins with.
const KEY_BEGINS: &str = "-----BEGIN PRIVATE KEY-----";

/// Days that a certificate is good for: Apple's devices take 825 at most from an authority that a person installed, and 398
/// from others.
const LEAF_DAYS: i64 = 397;

/// Days before its end from which on a certificate is replaced.
const RENEW_DAYS: i64 = 30;

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn an_authority_is_made_once_and_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let made = Authority::open(folder.path()).unwrap();
        assert_eq!(Authority::open(folder.path()).unwrap().certificate(), made.certificate());
        let other = tempfile::tempdir().unwrap();
        assert_ne!(Authority::open(other.path()).unwrap().certificate(), made.certificate());
    }

    #[test]
    fn a_damaged_authority_is_named_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("coordinator-ca.pem");
        std::fs::write(&path, "not a certificate").unwrap();
        let error = Authority::open(folder.path()).map(drop).unwrap_err().to_string();
        assert!(error.contains("coordinator-ca.pem") && error.contains("trust anew"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"not a certificate");
    }

    #[test]
    fn a_certificate_stays_until_a_name_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::open(folder.path()).unwrap();
        let both = authority.leaf(&names(&["localhost", "192.168.1.10"])).unwrap();
        let one = authority.leaf(&names(&["localhost"])).unwrap();
        assert_eq!(one.certificates, both.certificates, "it has that name as well");
        let other = authority.leaf(&names(&["localhost", "10.0.0.7"])).unwrap();
        assert_ne!(other.certificates, both.certificates);
        assert_eq!(other.certificates[1..], [authority.certificate().clone()]);
    }

    #[test]
    fn a_certificate_of_another_authority_or_near_its_end_is_replaced() {
        let (names, authority) = (names(&["localhost", "::1"]), Digest::of(b"this"));
        let line = Label { authority, until: 1000, names: &names }.line();
        assert!(Label::covers(&line, authority, 999, &names));
        assert!(!Label::covers(&line, authority, 1000, &names));
        assert!(!Label::covers(&line, Digest::of(b"that"), 999, &names));
        assert!(!Label::covers("-----BEGIN CERTIFICATE-----", authority, 0, &names));
    }
}
