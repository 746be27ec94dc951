//! What this machine is called from outside: the names that a certificate must have.

use std::collections::BTreeSet;
use std::net::IpAddr;

/// Every name and address of this machine that can stand in an address bar, those of `given` among them.
pub(crate) fn all(given: &[String]) -> BTreeSet<String> {
    // An interface that cannot be listed now is listed at the next look.
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let addresses = interfaces.iter().map(if_addrs::Interface::ip).filter(|ip| !is_link_local(ip));
    let always = ["localhost", "127.0.0.1", "::1"].map(String::from);
    always
        .into_iter()
        .chain(addresses.map(|ip| ip.to_string()))
        .chain(given.iter().flat_map(|name| names(name)))
        .collect()
}

/// A given name as it can stand in a certificate. A host's bare name is also found as `NAME.local`, by multicast DNS.
fn names(given: &str) -> Vec<String> {
    let name = given.to_ascii_lowercase();
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'))
    };
    match name.parse::<IpAddr>() {
        Ok(ip) => vec![ip.to_string()],
        Err(_) if !is_name(&name) => Vec::new(),
        Err(_) if name.contains('.') => vec![name],
        Err(_) => vec![format!("{name}.local"), name],
    }
}

/// Such an address means something on its own link only, and needs a zone that no address bar takes.
fn is_link_local(ip: &IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_and_the_given_names_are_always_there() {
        let names = all(&["Laptop".into(), "192.168.1.10".into(), "syn1.example.org".into(), "not a name".into()]);
        for name in ["localhost", "127.0.0.1", "::1", "laptop", "laptop.local", "192.168.1.10", "syn1.example.org"] {
            assert!(names.contains(name), "{name}: {names:?}");
        }
        assert!(!names.iter().any(|name| name.contains(' ') || name.starts_with("fe80")), "{names:?}");
    }
}
