//! Who may ask over HTTP, from which pages, by which names, and how often.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::str::FromStr;

use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::front::Origin;
use crate::limits::{MAX_API_KEY_BYTES, MIN_API_KEY_BYTES};

/// The rules of the HTTP server. By default everybody may ask, but no web page of another site.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Keys that text and the swarm's state are given for; none: they are given to everybody.
    pub users: Vec<ApiKey>,
    /// Keys that open everything. Without one the users' keys do.
    pub admins: Vec<ApiKey>,
    /// Web sites whose pages may ask.
    pub origins: Vec<Origin>,
    /// Requests for text in a minute, by one key or from one address; `None` for any number.
    pub per_minute: Option<NonZeroU32>,
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Realm {
    /// Weights and links for nodes, pages, and whether there is somebody.
    Open,
    /// The swarm's state: who computes what.
    State,
    /// Text.
    User,
    /// Figures of everybody's use.
    Admin,
}

/// Whose request it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Client {
    /// The program that the coordinator runs in.
    Local,
    /// Whoever has the key with this SHA-256.
    Key([u8; 32]),
    /// Somebody at this address; of IPv6 its network, which one household has for itself.
    Address(IpAddr),
}

impl Access {
    /// What a path is for.
    pub(crate) fn realm(path: &str) -> Realm {
        match path {
            "/metrics" => Realm::Admin,
            _ if path == "/api/admin" || path.starts_with("/api/admin/") => Realm::Admin,
            "/api/generate" => Realm::User,
            "/api/topology" | "/api/plan" | "/api/events" => Realm::State,
            _ if path == "/v1" || path.starts_with("/v1/") => Realm::User,
            _ => Realm::Open,
        }
    }

    /// Whether anybody may ask for text.
    pub fn is_open(&self) -> bool {
        self.users.is_empty() && self.admins.is_empty()
    }

    /// The key behind `Bearer`, if it is good for this. Takes as long for one key as for another.
    pub(crate) fn unlock(&self, realm: Realm, presented: &str) -> Option<Client> {
        let digest = digest(presented);
        let any = |keys: &[ApiKey]| keys.iter().fold(Choice::from(0), |found, key| found | key.0.ct_eq(&digest));
        let (user, admin) = (any(&self.users), any(&self.admins));
        let opens = match realm {
            Realm::Admin if !self.admins.is_empty() => admin,
            _ => user | admin,
        };
        bool::from(opens).then_some(Client::Key(digest))
    }

    /// Whether a page of `origin` may ask the server that it calls `host`: a page of its own, or one of a listed site.
    pub(crate) fn knows_origin(&self, origin: &str, host: Option<&str>) -> bool {
        let same = |host: &str| origin.split_once("://").is_some_and(|(_, its)| its.eq_ignore_ascii_case(host));
        host.is_some_and(same) || self.lists(origin)
    }

    /// Whether `origin` is one of those that are listed.
    pub(crate) fn lists(&self, origin: &str) -> bool {
        origin.parse().is_ok_and(|origin| self.origins.contains(&origin))
    }
}

/// Whether no stranger can have led a browser here under the name `host` (DNS rebinding): it is an address, a name that the
/// public DNS does not have, or one of `names`, which are said to be this coordinator's.
pub(crate) fn is_known_host(host: &str, names: &[String]) -> bool {
    let name = without_port(host).trim_end_matches('.').to_ascii_lowercase();
    let is_address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
    let is_local = !name.contains('.') || LOCAL.iter().any(|suffix| name.ends_with(suffix));
    is_address || is_local || names.iter().any(|own| own.eq_ignore_ascii_case(&name))
}

/// Names that no public DNS has, so that no stranger owns one (RFC 6761, 6762, 8375, and ICANN's `.internal`).
const LOCAL: [&str; 4] = [".localhost", ".local", ".internal", ".home.arpa"];

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.is_empty() => name,
        _ => host,
    }
}

impl Client {
    /// Whoever asks from `address`.
    pub(crate) fn at(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = u128::from(address) >> 64 << 64;
                Self::Address(IpAddr::V6(network.into()))
            }
            address => Self::Address(address),
        }
    }
}

/// A secret that a client sends. Only its SHA-256 is kept.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey([u8; 32]);

/// A text that is no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "an API key has {MIN_API_KEY_BYTES} to {MAX_API_KEY_BYTES} visible ASCII characters and no space, this one has \
     {bytes} bytes{}: make one with `openssl rand -hex 24`",
    if *.visible { "" } else { " and others among them" }
)]
pub struct ApiKeyError {
    /// Its length.
    pub bytes: usize,
    /// Whether all are visible ASCII characters.
    pub visible: bool,
}

impl FromStr for ApiKey {
    type Err = ApiKeyError;

    fn from_str(text: &str) -> Result<Self, ApiKeyError> {
        let (bytes, visible) = (text.len(), text.bytes().all(|byte| byte.is_ascii_graphic()));
        if visible && (MIN_API_KEY_BYTES..=MAX_API_KEY_BYTES).contains(&bytes) {
            Ok(Self(digest(text)))
        } else {
            Err(ApiKeyError { bytes, visible })
        }
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(..)")
    }
}

fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: &str = "user-key-0123456789";
    const ADMIN: &str = "admin-key-0123456789";

    fn keys(texts: &[&str]) -> Vec<ApiKey> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_users_key_opens_text_and_an_admins_opens_all() {
        let access = Access { users: keys(&[USER]), admins: keys(&[ADMIN]), ..Access::default() };
        let opens = |realm, key| access.unlock(realm, key).is_some();
        assert!(opens(Realm::User, USER) && opens(Realm::User, ADMIN) && opens(Realm::Admin, ADMIN));
        assert!(!opens(Realm::Admin, USER) && !opens(Realm::User, "user-key-012345678") && !opens(Realm::User, ""));
        let access = Access { users: keys(&[USER]), ..Access::default() };
        assert!(access.unlock(Realm::Admin, USER).is_some() && access.unlock(Realm::Admin, ADMIN).is_none());
        assert!(!access.is_open() && Access::default().is_open());
    }

    #[test]
    fn keys_are_long_visible_and_never_shown() {
        assert_eq!("short".parse::<ApiKey>(), Err(ApiKeyError { bytes: 5, visible: true }));
        let spaced = "with a space in its middle".parse::<ApiKey>().unwrap_err().to_string();
        assert!(spaced.contains("openssl rand"), "{spaced}");
        assert_eq!(format!("{:?}", keys(&[USER])), "[ApiKey(..)]");
    }

    #[test]
    fn only_names_that_a_stranger_can_own_are_unknown() {
        let names = ["syn1.example.org".to_owned()];
        for host in [
            "127.0.0.1:7780",
            "[::1]:7780",
            "[fe80::1]",
            "localhost",
            "laptop:7780",
            "laptop.local",
            "a.LOCALHOST:80",
            "Syn1.Example.org:443",
            "syn1.example.org.",
        ] {
            assert!(is_known_host(host, &names), "{host}");
        }
        for host in ["evil.example", "127.0.0.1.evil.example:7780", "evil.example:7780", "local.evil.example", "1.2.3"]
        {
            assert!(!is_known_host(host, &names), "{host}");
        }
    }

    #[test]
    fn pages_of_other_sites_are_unknown_unless_listed() {
        let access = Access { origins: vec!["https://chat.example.org".parse().unwrap()], ..Access::default() };
        assert!(access.knows_origin("http://127.0.0.1:7780", Some("127.0.0.1:7780")));
        assert!(access.knows_origin("https://chat.example.org", Some("127.0.0.1:7780")));
        for origin in ["http://127.0.0.1:80", "https://evil.example", "null", "https://chat.example.org.evil.example"] {
            assert!(!access.knows_origin(origin, Some("127.0.0.1:7780")), "{origin}");
        }
    }

    #[test]
    fn a_household_is_one_client() {
        let at = |text: &str| Client::at(text.parse().unwrap());
        assert_eq!(at("2001:db8::1"), at("2001:db8::ffff:1"));
        assert_ne!(at("2001:db8::1"), at("2001:db8:0:1::1"));
        assert_eq!(at("::ffff:10.0.0.1"), at("10.0.0.1"));
        assert_ne!(at("10.0.0.1"), at("10.0.0.2"));
    }

    #[test]
    fn text_and_figures_are_kept_apart_from_what_is_open() {
        assert_eq!(Access::realm("/v1/chat/completions"), Realm::User);
        assert_eq!(Access::realm("/api/generate"), Realm::User);
        for path in ["/metrics", "/api/admin", "/api/admin/codes"] {
            assert_eq!(Access::realm(path), Realm::Admin, "{path}");
        }
        assert_eq!(Access::realm("/api/topology"), Realm::State);
        assert_eq!(Access::realm("/api/events"), Realm::State);
        for path in ["/", "/health", "/ready", "/shards/manifest.json", "/v1x", "/node", "/api/join"] {
            assert_eq!(Access::realm(path), Realm::Open, "{path}");
        }
    }
}
