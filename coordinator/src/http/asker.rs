//! Who asks: the connection that a request came by, and the page that made it.

use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, header};

use crate::front::Origin;
use crate::tls::names;

/// The connection that a request came by; an extension of every request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker {
    pub(super) peer: SocketAddr,
    /// This machine's end.
    pub(super) local: SocketAddr,
    pub(super) tls: bool,
}

impl Asker {
    /// Whether whoever asks sits at this machine and asks for it by a name of its own. A tunnel's or proxy's requests come
    /// from this machine too, but for another name or with a note of whom they are for; and so do those of a foreign page
    /// whose name was made to point here, for that name.
    pub(super) fn is_here(&self, headers: &HeaderMap, names: &[String]) -> bool {
        let (peer, local) = (self.peer.ip().to_canonical(), self.local.ip().to_canonical());
        (peer.is_loopback() || peer == local)
            && !PROXIES.iter().any(|name| headers.contains_key(*name))
            && host_of(headers).is_some_and(|asked| is_own(asked, names))
            && self.is_own_page(headers)
    }

    /// Whether a page of this coordinator asks, or a program.
    fn is_own_page(&self, headers: &HeaderMap) -> bool {
        let Some(origin) = headers.get(header::ORIGIN) else { return true };
        let origin = origin.to_str().ok().and_then(|origin| origin.parse::<Origin>().ok());
        let own = authority_of(headers).and_then(|authority| Origin::of(self.tls, authority));
        origin.is_some() && origin == own
    }

    /// Whether what asks may open a node's link: a program, a page of this coordinator, or one of a listed origin. A page
    /// of another origin could otherwise make a visitor's browser a node, and read what people ask.
    ///
    /// # Errors
    /// Who may not, and what to do.
    pub(super) fn may_link(&self, headers: &HeaderMap, listed: &[Origin], names: &[String]) -> Result<(), String> {
        let Some(value) = headers.get(header::ORIGIN) else { return Ok(()) };
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        if value.parse::<Origin>().is_ok_and(|origin| listed.contains(&origin)) {
            return Ok(());
        }
        if !self.is_own_page(headers) {
            return Err(format!("a page of {value} may not join: `--origin {value}` lists it as one that may"));
        }
        // With TLS the browser has made sure that the name is this coordinator's.
        let asked = host_of(headers).unwrap_or_default();
        if !self.tls && !is_own(asked, names) {
            return Err(format!(
                "\"{asked}\" is no name of this machine: open the page by an address, or list it by `--origin {value}`"
            ));
        }
        Ok(())
    }
}

/// Whether a request is for `localhost` or a loopback address, which browsers trust without TLS.
pub(super) fn is_for_localhost(headers: &HeaderMap) -> bool {
    host_of(headers).is_some_and(|asked| match address(asked) {
        Some(ip) => ip.to_canonical().is_loopback(),
        None => asked.eq_ignore_ascii_case("localhost") || asked.to_ascii_lowercase().ends_with(".localhost"),
    })
}

/// The host and port that are asked for.
pub(super) fn authority_of(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::HOST)?.to_str().ok()
}

/// The host that is asked for, without its port.
pub(super) fn host_of(headers: &HeaderMap) -> Option<&str> {
    let authority = authority_of(headers)?;
    let end = match authority.find(']') {
        Some(bracket) => bracket + 1,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    authority.get(..end)
}

/// Whether a host is this machine by a name that nobody else can point here: an address, or one of its names.
fn is_own(asked: &str, names: &[String]) -> bool {
    let asked = asked.to_ascii_lowercase();
    address(&asked).is_some()
        || asked == "localhost"
        || asked.ends_with(".localhost")
        || names::all(names).contains(&asked)
}

/// The address that a host is, if it is no name.
fn address(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// What proxies and tunnels add to a request that they pass on.
const PROXIES: [&str; 4] = ["forwarded", "x-forwarded-for", "x-real-ip", "via"];

#[cfg(test)]
mod tests {
    use super::*;

    fn asker(peer: &str, tls: bool) -> Asker {
        Asker { peer: format!("{peer}:5000").parse().unwrap(), local: "192.168.1.10:7780".parse().unwrap(), tls }
    }

    fn headers(host: &str, origin: Option<&str>) -> HeaderMap {
        let origin = origin.map(|origin| (header::ORIGIN, origin.parse().unwrap()));
        [(header::HOST, host.parse().unwrap())].into_iter().chain(origin).collect()
    }

    #[test]
    fn programs_own_pages_and_listed_ones_may_open_a_link() {
        let listed = ["https://chat.example.org".parse().unwrap()];
        for (tls, host, origin) in [
            (false, "192.168.1.10:7780", None),
            (false, "anything", None),
            (false, "192.168.1.10:7780", Some("http://192.168.1.10:7780")),
            (false, "localhost:7780", Some("http://localhost:7780")),
            (false, "laptop.local:7780", Some("http://laptop.local:7780")),
            (true, "[fe80::1]:443", Some("https://[fe80::1]")),
            (true, "syn1.example.org", Some("https://syn1.example.org")),
            (false, "127.0.0.1:7780", Some("https://chat.example.org")),
        ] {
            let may = asker("192.168.1.20", tls).may_link(&headers(host, origin), &listed, &["laptop".to_owned()]);
            assert_eq!(may, Ok(()), "{host} {origin:?}");
        }
    }

    #[test]
    fn foreign_pages_and_names_that_were_made_to_point_here_may_not() {
        for (tls, host, origin, word) in [
            (false, "192.168.1.10:7780", "http://evil.example", "--origin http://evil.example"),
            (false, "192.168.1.10:7780", "http://192.168.1.10:8000", "may not join"),
            (true, "192.168.1.10:7780", "http://192.168.1.10:7780", "may not join"),
            (false, "localhost:7780", "null", "may not join"),
            (false, "evil.example:7780", "http://evil.example:7780", "no name of this machine"),
        ] {
            let error = asker("192.168.1.20", tls).may_link(&headers(host, Some(origin)), &[], &["laptop".to_owned()]);
            assert!(error.clone().is_err_and(|error| error.contains(word)), "{host} {origin}: {error:?}");
        }
    }

    #[test]
    fn who_sits_at_the_machine_asks_from_it_by_its_own_name() {
        let is_here =
            |peer: &str, host: &str, origin| asker(peer, false).is_here(&headers(host, origin), &["laptop".to_owned()]);
        assert!(is_here("127.0.0.1", "localhost:7780", None));
        assert!(is_here("192.168.1.10", "192.168.1.10:7780", Some("http://192.168.1.10:7780")));
        assert!(!is_here("192.168.1.20", "192.168.1.10:7780", None), "another machine");
        assert!(!is_here("127.0.0.1", "my-tunnel.example", None), "a tunnel");
        let mut passed_on = headers("localhost:7780", None);
        passed_on.insert("x-forwarded-for", "203.0.113.5".parse().unwrap());
        assert!(!asker("127.0.0.1", false).is_here(&passed_on, &[]), "a tunnel that changes the name");
        assert!(!is_here("127.0.0.1", "evil.example:7780", Some("http://evil.example:7780")), "a rebound name");
        assert!(!is_here("127.0.0.1", "localhost:7780", Some("http://evil.example")), "a foreign page");
    }

    #[test]
    fn a_host_is_found_without_its_port() {
        for (host, local) in [
            ("localhost:1", true),
            ("127.0.0.9", true),
            ("[::1]:80", true),
            ("192.168.1.10:80", false),
            ("evil", false),
        ] {
            assert_eq!(is_for_localhost(&headers(host, None)), local, "{host}");
        }
        assert_eq!(host_of(&headers("[::1]:80", None)), Some("[::1]"));
    }
}
