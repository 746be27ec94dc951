//! Where a coordinator is: `tcp://HOST:PORT`.

use std::str::FromStr;

/// A coordinator's address as people type it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    host: String,
    port: u16,
}

/// What is wrong with a join address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot join \"{0}\": it should look like tcp://192.168.1.10:7700")]
pub struct JoinError(String);

impl Join {
    /// The host as in a URL: IPv6 addresses in brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The host and port that a resolver takes.
    pub fn address(&self) -> (&str, u16) {
        (self.host.trim_start_matches('[').trim_end_matches(']'), self.port)
    }
}

impl FromStr for Join {
    type Err = JoinError;

    fn from_str(text: &str) -> Result<Self, JoinError> {
        let bad = || JoinError(text.to_owned());
        let rest = text.strip_prefix("tcp://").ok_or_else(bad)?;
        let (host, port) = rest.trim_end_matches('/').rsplit_once(':').ok_or_else(bad)?;
        let bracketed = host.len() > 2 && host.starts_with('[') && host.ends_with(']');
        let plain = !host.is_empty() && !host.contains(['[', ']', ':', '/', '@', ' ', '?', '#']);
        match port.parse() {
            Ok(port) if port > 0 && (plain || bracketed) => Ok(Self { host: host.to_owned(), port }),
            _ => Err(bad()),
        }
    }
}

impl std::fmt::Display for Join {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "tcp://{}:{}", self.host, self.port)
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
        ] {
            let join: Join = text.parse().unwrap();
            assert_eq!(join.address(), address);
            assert_eq!(join.to_string(), text);
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
        ] {
            let err = text.parse::<Join>().unwrap_err();
            assert!(err.to_string().contains("tcp://192.168.1.10:7700"), "{text}");
        }
    }
}
