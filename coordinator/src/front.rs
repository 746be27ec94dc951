//! How the HTTP port meets the world: its encryption, who may join there, and the link that brings a device in.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use syn1_model::Digest;

use crate::code::Code;
use crate::door::JoinCode;
use crate::tls::Tls;

/// How the HTTP port meets the world. The default is plain HTTP without a join code.
#[derive(Clone, Debug, Default)]
pub struct Front {
    /// Encryption.
    pub tls: Tls,
    /// What nodes need to know to join.
    pub code: JoinCode,
    /// Origins of web pages, beside this coordinator's own, whose pages may open a node's link.
    pub origins: Vec<Origin>,
    /// Names of this machine beside its addresses: what the local authority's certificate has, and what its pages may be
    /// opened by.
    pub names: Vec<String>,
    /// Name or address that others find this machine by; nothing for the address that is bound.
    pub host: Option<String>,
}

/// The link that brings a device in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinLink {
    /// The page to open, without the code.
    pub page: String,
    /// The code, and how long it still lasts.
    pub code: Option<(Code, Duration)>,
    /// The SHA-256 of the local authority's certificate, which devices are to trust.
    pub authority: Option<Digest>,
}

impl JoinLink {
    /// The whole link. The code stands behind a `#`, which no browser sends to any server.
    pub fn url(&self) -> String {
        self.code.as_ref().map_or_else(|| self.page.clone(), |(code, _)| format!("{}#{code}", self.page))
    }

    /// Where a device gets the local authority's certificate before it trusts it: without TLS, since the fingerprint is what
    /// a person compares.
    pub fn certificate_url(&self) -> Option<String> {
        let (_, rest) = self.page.strip_suffix("/join").filter(|_| self.authority.is_some())?.split_once("://")?;
        Some(format!("http://{rest}/ca.crt"))
    }
}

/// The origin of a web page: scheme, host and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(String);

/// A text that is no origin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no origin: it should look like https://syn1.example.org")]
pub struct OriginError(String);

impl Origin {
    /// That of pages at `authority`, a host and perhaps a port.
    pub(crate) fn of(is_tls: bool, authority: &str) -> Option<Self> {
        format!("{}://{authority}", if is_tls { "https" } else { "http" }).parse().ok()
    }
}

impl FromStr for Origin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        let lower = text.trim_end_matches('/').to_ascii_lowercase();
        let (authority, usual) = match lower.split_once("://") {
            Some(("http", authority)) => (authority, ":80"),
            Some(("https", authority)) => (authority, ":443"),
            _ => return Err(OriginError(text.to_owned())),
        };
        let plain = !authority.is_empty() && !authority.contains(['/', '@', '?', '#', ' ', ',']);
        // A port that goes without saying is not said.
        let origin = lower.strip_suffix(usual).filter(|rest| !rest.ends_with(':')).unwrap_or(&lower);
        if plain { Ok(Self(origin.to_owned())) } else { Err(OriginError(text.to_owned())) }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_the_same_with_and_without_its_usual_port() {
        let origin = |text: &str| text.parse::<Origin>().unwrap();
        assert_eq!(origin("https://Syn1.Example.org:443/"), origin("https://syn1.example.org"));
        assert_eq!(origin("http://[::1]:80"), origin("http://[::1]"));
        assert_ne!(origin("http://a.example"), origin("https://a.example"));
        assert_ne!(origin("https://a.example:7780"), origin("https://a.example"));
        assert_eq!(Origin::of(true, "a.example:443"), Some(origin("https://a.example")));
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for text in ["null", "", "a.example", "ftp://a.example", "https://", "https://a.example/path", "https://u@a"] {
            assert!(text.parse::<Origin>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_code_is_behind_the_number_sign() {
        let link = JoinLink { page: "https://a/join".into(), code: None, authority: None };
        assert_eq!(link.url(), "https://a/join");
        let code = Some(("abcdefgh".parse().unwrap(), Duration::ZERO));
        assert_eq!(JoinLink { code, ..link }.url(), "https://a/join#ABCD-EFGH");
    }

    #[test]
    fn the_certificate_is_had_without_tls() {
        let link = JoinLink { page: "https://a:7780/join".into(), code: None, authority: None };
        assert_eq!(link.certificate_url(), None);
        let link = JoinLink { authority: Some(Digest([0; 32])), ..link };
        assert_eq!(link.certificate_url().as_deref(), Some("http://a:7780/ca.crt"));
    }
}
