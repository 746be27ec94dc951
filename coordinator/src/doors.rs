//! Who may ask over HTTP, from which pages, by which names, and how often.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::str::FromStr;

use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::limits::{MAX_API_KEY_BYTES, MIN_API_KEY_BYTES};

/// The rules of the HTTP server. By default everybody may ask, but no web page of another site.
#[derive(Clone, Debug, Default)]
pub struct Doors {
    /// Keys that text is given for; none: it is given to everybody.
    pub users: Vec<ApiKey>,
    /// Keys that open everything. Without one the users' keys do.
    pub admins: Vec<ApiKey>,
    /// Web sites whose pages may ask.
    pub origins: Vec<Origin>,
    /// Names by which this coordinator is asked, besides its addresses and names that only a local network has.
    pub hosts: Vec<String>,
    /// Requests for text in a minute, by one key or from one address; `None` for any number.
    pub per_minute: Option<NonZeroU32>,
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    /// Weights and links for nodes, and what is shown to everybody: state and pages.
    Open,
    /// Text.
    User,
    /// Figures of everybody's use.
    Admin,
}

/// Whose request it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Client {
    /// Whoever has this key.
    Key([u8; 32]),
    /// Somebody at this address; of IPv6 its network, which one household has for itself.
    Address(IpAddr),
}

impl Doors {
    /// Which door a path leads to.
    pub(crate) fn to(path: &str) -> Door {
        match path {
            "/metrics" => Door::Admin,
            "/api/generate" => Door::User,
            _ if path == "/v1" || path.starts_with("/v1/") => Door::User,
            _ => Door::Open,
        }
    }

    /// Whether anybody may ask for text.
    pub fn are_open(&self) -> bool {
        self.users.is_empty() && self.admins.is_empty()
    }

    /// The key behind `Bearer`, if it opens this door. Takes as long for one key as for another.
    pub(crate) fn unlock(&self, door: Door, presented: &str) -> Option<Client> {
        let digest = digest(presented);
        let any = |keys: &[ApiKey]| keys.iter().fold(Choice::from(0), |found, key| found | key.0.ct_eq(&digest));
        let (user, admin) = (any(&self.users), any(&self.admins));
        let opens = match door {
            Door::Admin if !self.admins.is_empty() => admin,
            _ => user | admin,
        };
        bool::from(opens).then_some(Client::Key(digest))
    }

    /// Whether a browser may have been led here under a name that its attacker owns (DNS rebinding): every name does that
    /// the public DNS may have, unless it is said to be this coordinator's.
    pub(crate) fn knows_host(&self, host: &str) -> bool {
        let name = without_port(host).trim_end_matches('.').to_ascii_lowercase();
        let is_address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
        let is_local = !name.contains('.') || LOCAL.iter().any(|suffix| name.ends_with(suffix));
        is_address || is_local || self.hosts.iter().any(|host| host.eq_ignore_ascii_case(&name))
    }

    /// Whether a page of `origin` may ask the server that it calls `host`.
    pub(crate) fn knows_origin(&self, origin: &str, host: Option<&str>) -> bool {
        let same = |host: &str| origin.split_once("://").is_some_and(|(_, its)| its.eq_ignore_ascii_case(host));
        host.is_some_and(same) || self.allows(origin)
    }

    /// Whether `origin` is one of those that were allowed.
    pub(crate) fn allows(&self, origin: &str) -> bool {
        self.origins.iter().any(|known| known.0 == "*" || known.0.eq_ignore_ascii_case(origin))
    }
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

/// A web site: scheme, host and port, as browsers send it; or `*` for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(String);

/// A text that is no origin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no origin: write scheme and host, and the port where it is not the usual one, as in https://chat.example.org"
)]
pub struct OriginError(String);

impl FromStr for Origin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        let is_host = |host: &str| {
            !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte))
        };
        if text == "*" || host.is_some_and(is_host) { Ok(Self(text.into())) } else { Err(OriginError(text.into())) }
    }
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
    fn a_key_opens_its_own_doors_and_an_admins_opens_all() {
        let doors = Doors { users: keys(&[USER]), admins: keys(&[ADMIN]), ..Doors::default() };
        let opens = |door, key| doors.unlock(door, key).is_some();
        assert!(opens(Door::User, USER) && opens(Door::User, ADMIN) && opens(Door::Admin, ADMIN));
        assert!(!opens(Door::Admin, USER) && !opens(Door::User, "user-key-012345678") && !opens(Door::User, ""));
        let doors = Doors { users: keys(&[USER]), ..Doors::default() };
        assert!(doors.unlock(Door::Admin, USER).is_some() && doors.unlock(Door::Admin, ADMIN).is_none());
        assert!(!doors.are_open() && Doors::default().are_open());
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
        let doors = Doors { hosts: vec!["syn1.example.org".into()], ..Doors::default() };
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
            assert!(doors.knows_host(host), "{host}");
        }
        for host in ["evil.example", "127.0.0.1.evil.example:7780", "evil.example:7780", "local.evil.example", "1.2.3"]
        {
            assert!(!doors.knows_host(host), "{host}");
        }
    }

    #[test]
    fn pages_of_other_sites_are_unknown_unless_allowed() {
        let doors = Doors { origins: vec!["https://chat.example.org".parse().unwrap()], ..Doors::default() };
        assert!(doors.knows_origin("http://127.0.0.1:7780", Some("127.0.0.1:7780")));
        assert!(doors.knows_origin("https://chat.example.org", Some("127.0.0.1:7780")));
        for origin in ["http://127.0.0.1:80", "https://evil.example", "null", "https://chat.example.org.evil.example"] {
            assert!(!doors.knows_origin(origin, Some("127.0.0.1:7780")), "{origin}");
        }
        let all = Doors { origins: vec!["*".parse().unwrap()], ..Doors::default() };
        assert!(all.knows_origin("null", None));
        for wrong in ["chat.example.org", "https://", "https://a/b", "ftp://a", ""] {
            assert!(wrong.parse::<Origin>().is_err(), "{wrong}");
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
    fn text_and_figures_have_doors_and_nodes_have_none() {
        assert_eq!(Doors::to("/v1/chat/completions"), Door::User);
        assert_eq!(Doors::to("/api/generate"), Door::User);
        assert_eq!(Doors::to("/metrics"), Door::Admin);
        for path in ["/", "/health", "/ready", "/shards/manifest.json", "/v1x", "/node"] {
            assert_eq!(Doors::to(path), Door::Open, "{path}");
        }
    }
}
