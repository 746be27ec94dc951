//! What this machine is called, where others find it, and what this process takes of it.

use std::net::{IpAddr, SocketAddr, UdpSocket};

/// The host's name where the system tells it, else `laptop`.
pub(crate) fn name() -> String {
    let from_file = std::fs::read_to_string("/etc/hostname").ok();
    let named = from_file.or_else(|| std::env::var("HOSTNAME").ok()).or_else(|| std::env::var("COMPUTERNAME").ok());
    named.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).unwrap_or_else(|| "laptop".into())
}

/// `HOST:PORT` for other machines: `bound` itself, or this machine's address where `bound` stands for all of them.
pub(crate) fn reachable(bound: SocketAddr) -> String {
    match reachable_host(bound.ip()).map(|host| (host.parse::<IpAddr>(), host)) {
        None => bound.to_string(),
        Some((Ok(ip), _)) => SocketAddr::new(ip, bound.port()).to_string(),
        Some((Err(_), host)) => format!("{host}:{}", bound.port()),
    }
}

/// This machine's address or name where `bound` stands for all its addresses; nothing where `bound` is one of them.
pub(crate) fn reachable_host(bound: IpAddr) -> Option<String> {
    bound.is_unspecified().then(|| lan_address().map_or_else(name, |ip| ip.to_string()))
}

/// The address that packets to elsewhere would leave from. Connecting a UDP socket sends nothing.
fn lan_address() -> Option<IpAddr> {
    ROUTES.iter().find_map(|(own, elsewhere)| {
        let socket = UdpSocket::bind(own).ok()?;
        socket.connect(elsewhere).ok()?;
        let ip = socket.local_addr().ok()?.ip();
        (!ip.is_unspecified() && !ip.is_loopback()).then_some(ip)
    })
}

/// Any free port, and an address of those that documentation uses (RFC 5737, RFC 3849): they belong to nobody.
const ROUTES: [(&str, &str); 2] = [("0.0.0.0:0", "192.0.2.1:9"), ("[::]:0", "[2001:db8::1]:9")];

/// The most memory that this process has had at a time, in bytes; none where the system does not tell.
pub(crate) fn peak_memory_bytes() -> Option<u64> {
    peak_of(&std::fs::read_to_string("/proc/self/status").ok()?)
}

/// The peak in the words of Linux: `VmHWM:     1234 kB`, in units of 1024 bytes.
fn peak_of(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_others_can_use_is_printed_as_it_is() {
        for address in ["127.0.0.1:7700", "192.168.1.10:7700", "[fe80::1]:80"] {
            assert_eq!(reachable(address.parse().unwrap()), address);
        }
    }

    #[test]
    fn all_addresses_become_one_that_can_be_joined_at_the_same_port() {
        for bound in ["0.0.0.0:7700", "[::]:7700"] {
            let told = reachable(bound.parse().unwrap());
            assert!(told.ends_with(":7700") && !told.starts_with("0.0.0.0") && !told.starts_with("[::]"), "{told}");
            assert!(format!("tcp://{told}").parse::<syn1_node_host::Join>().is_ok(), "{told}");
        }
    }

    #[test]
    fn the_peak_is_read_where_the_system_tells_it() {
        assert_eq!(peak_of("VmPeak:\t  9 kB\nVmHWM:\t    1234 kB\nVmRSS:\t 5 kB\n"), Some(1234 * 1024));
        assert_eq!(peak_of("VmRSS:\t 5 kB\n"), None);
        assert_eq!(peak_memory_bytes().is_some(), cfg!(target_os = "linux"));
    }
}
