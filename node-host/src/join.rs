//! Where a coordinator is: `tcp://HOST:PORT` or `tls://HOST:PORT`, or its HTTP port as `ws://`, `wss://` or the link that it
//! prints.

use std::str::FromStr;

/// A coordinator's address as people type it.
#[derive(Clone, PartialEq, Eq)]
pub struct Join {
    way: Way,
    host: String,
    port: u16,
    code: Option<String>,
}

/// How a node reaches a coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// SYN1 over TCP; shards come over plain HTTP.
    Tcp,
    /// SYN1 over TCP with TLS; shards come over HTTPS.
    Tls,
    /// SYN1 over a WebSocket, and shards from the same port.
    Ws,
    /// The same over HTTPS.
    Wss,
}

/// What is wrong with a join address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "cannot join \"{0}\": it should look like tcp://192.168.1.10:7700, or be the link that the coordinator prints, such as \
     https://192.168.1.10:7780/join#CODE"
)]
pub struct JoinError(String);

impl Join {
    /// How the coordinator is reached.
    pub fn way(&self) -> Way {
        self.way
    }

    /// The host as in a URL: IPv6 addresses in brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Host and port as in a URL.
    pub fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// The host and port that a resolver takes.
    pub fn address(&self) -> (&str, u16) {
        (self.host.trim_start_matches('[').trim_end_matches(']'), self.port)
    }

    /// The join code of a link that has one.
    pub fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }
}

impl FromStr for Join {
    type Err = JoinError;

    fn from_str(text: &str) -> Result<Self, JoinError> {
        parse(text).ok_or_else(|| {
            // A code that was typed is no one else's to read.
            let shown = text.split_once('#').map_or(text, |(link, _)| link);
            JoinError(shown.to_owned())
        })
    }
}

fn parse(text: &str) -> Option<Join> {
    let (scheme, rest) = text.split_once("://")?;
    let (way, usual_port) = match scheme {
        "tcp" => (Way::Tcp, None),
        "tls" => (Way::Tls, None),
        "ws" | "http" => (Way::Ws, Some(80)),
        "wss" | "https" => (Way::Wss, Some(443)),
        _ => return None,
    };
    let is_http = matches!(way, Way::Ws | Way::Wss);
    let (rest, code) = match rest.split_once('#') {
        Some((rest, code)) if is_http => (rest, Some(code).filter(|code| !code.is_empty())),
        Some(_) => return None,
        None => (rest, None),
    };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    // What a browser shows while the page is open is as good as the link.
    if !(path.is_empty() || is_http && matches!(path.trim_end_matches('/'), "join" | "node")) {
        return None;
    }
    if code.is_some_and(|code| !code.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')) {
        return None;
    }
    let is_bracketed = |host: &str| host.len() > 2 && host.starts_with('[') && host.ends_with(']');
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !is_bracketed(authority) => (host, port.parse().ok()?),
        _ => (authority, usual_port?),
    };
    let plain = !host.is_empty() && !host.contains(['[', ']', ':', '@', ' ', '?']);
    (port > 0 && (plain || is_bracketed(host))).then(|| Join {
        way,
        host: host.to_owned(),
        port,
        code: code.map(str::to_owned),
    })
}

impl std::fmt::Display for Join {
    /// Without the code, which must not get into a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = match self.way {
            Way::Tcp => "tcp",
            Way::Tls => "tls",
            Way::Ws => "ws",
            Way::Wss => "wss",
        };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

impl std::fmt::Debug for Join {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_both_kinds_of_addresses_parse_and_print_as_typed() {
        for (text, address) in [
            ("tcp://laptop.local:7700", ("laptop.local", 7700)),
            ("tcp://192.168.1.10:1", ("192.168.1.10", 1)),
            ("tcp://[fe80::1]:7700", ("fe80::1", 7700)),
            ("tls://laptop.local:7700", ("laptop.local", 7700)),
            ("ws://[fe80::1]:7780", ("fe80::1", 7780)),
            ("wss://laptop.local:7780", ("laptop.local", 7780)),
        ] {
            let join: Join = text.parse().unwrap();
            assert_eq!(join.address(), address);
            assert_eq!(join.to_string(), text);
        }
    }

    #[test]
    fn the_link_that_a_coordinator_prints_is_an_address_with_a_code() {
        for (text, way, authority, code) in [
            ("https://192.168.1.10:7780/join#K7MP-Q2XR", Way::Wss, "192.168.1.10:7780", Some("K7MP-Q2XR")),
            ("http://192.168.1.10:7780/join", Way::Ws, "192.168.1.10:7780", None),
            ("https://syn1.example.org/join#abcdef", Way::Wss, "syn1.example.org:443", Some("abcdef")),
            ("https://[::1]/#", Way::Wss, "[::1]:443", None),
            ("ws://localhost#K7MPQ2XR", Way::Ws, "localhost:80", Some("K7MPQ2XR")),
        ] {
            let join: Join = text.parse().unwrap();
            assert_eq!((join.way(), join.authority().as_str(), join.code()), (way, authority, code), "{text}");
            assert!(!format!("{join} {join:?}").contains("K7MP"), "a code is not for logs");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_an_example() {
        for text in [
            "",
            "laptop:7700",
            "tcp://laptop",
            "tcp://:7700",
            "tcp://laptop:0",
            "tcp://laptop:70000",
            "tcp://a/b:1",
            "tcp://::1:5",
            "tcp://laptop:7700#K7MPQ2XR",
            "tcp://laptop:7700/join",
            "tls://laptop",
            "tls://laptop:7700#K7MPQ2XR",
            "https://laptop/chat",
            "https://me@laptop",
            "https://laptop/join#K7MP Q2XR",
            "ftp://laptop",
        ] {
            let err = text.parse::<Join>().unwrap_err().to_string();
            assert!(err.contains("tcp://192.168.1.10:7700") && !err.contains("K7MP"), "{text}: {err}");
        }
    }
}
