//! How a coordinator's HTTP port meets the world, as options, and the lines that bring a device in.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use syn1_coordinator::code::{Code, CodeError};
use syn1_coordinator::door::JoinCode;
use syn1_coordinator::front::{Front, JoinLink, Origin};
use syn1_coordinator::qr::Qr;
use syn1_coordinator::tls::Tls;

use crate::{keys, machine};

/// Options of a coordinator's HTTP port.
#[derive(clap::Args)]
pub(crate) struct FrontOptions {
    /// Encrypt HTTP: `auto` makes a certificate authority of this machine's own, which phones and nodes are told to trust once,
    /// and a certificate for all its addresses. Phones need this: their browsers give a plain page no GPU
    #[arg(long, value_name = "auto|off", default_value = "off", hide_default_value = true)]
    tls: TlsChoice,
    /// Encrypt HTTP with this certificate (PEM, with those between it and a root); read again when the file changes
    #[arg(long, value_name = "FILE", requires = "tls_key", conflicts_with = "tls")]
    tls_cert: Option<PathBuf>,
    /// The key of --tls-cert (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// What nodes need to know to join: a code made at the start and again when it has expired, none, or one of your own
    /// (6 letters or more). It is carried by WebSockets only: over tcp:// join nodes of this machine and those of --allow
    /// [default: auto where another machine can join and no --allow is given, else none]
    #[arg(long, value_name = "auto|none|CODE")]
    join_code: Option<CodeChoice>,
    /// Hours that a join code lasts; a node that came in by it may come back later
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = clap::value_parser!(u16).range(1..))]
    join_code_hours: u16,
    /// Let pages of this origin open a node's link, beside the coordinator's own: the public name of a proxy before it, say
    #[arg(long, value_name = "https://NAME")]
    origin: Vec<Origin>,
    /// Name or address that others find this machine by [default: its address in the local network]
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum TlsChoice {
    Auto,
    Off,
}

#[derive(Clone, Debug)]
enum CodeChoice {
    Auto,
    None,
    Code(Code),
}

impl FromStr for CodeChoice {
    type Err = CodeError;

    fn from_str(text: &str) -> Result<Self, CodeError> {
        match text {
            "auto" => Ok(Self::Auto),
            "none" => Ok(Self::None),
            code => code.parse().map(Self::Code),
        }
    }
}

impl FrontOptions {
    /// What the options say for a coordinator that listens at `http` and `tcp`; `listed`: whether `--allow` names keys.
    pub(crate) fn front(&self, http: SocketAddr, tcp: SocketAddr, listed: bool) -> Result<Front> {
        let tls = match (&self.tls_cert, &self.tls_key, self.tls) {
            (Some(certificates), Some(key), _) => Tls::Files { certificates: certificates.clone(), key: key.clone() },
            (_, _, TlsChoice::Off) => Tls::Off,
            (_, _, TlsChoice::Auto) => {
                let folder = keys::data_dir().context("no place to keep a certificate authority: set SYN1_DATA")?;
                Tls::Auto { folder }
            }
        };
        let lasts = Duration::from_secs(u64::from(self.join_code_hours) * 3600);
        let is_open = [http, tcp].iter().any(|address| !address.ip().to_canonical().is_loopback());
        let code = match &self.join_code {
            None if is_open && !listed => JoinCode::Auto { lasts },
            None | Some(CodeChoice::None) => JoinCode::None,
            Some(CodeChoice::Auto) => JoinCode::Auto { lasts },
            Some(CodeChoice::Code(code)) => JoinCode::Chosen { code: code.clone(), lasts },
        };
        let host = self.host.clone().or_else(|| machine::reachable_host(http.ip()));
        if let Some(host) = &host
            && host.contains(['/', '#', '?', '@', ' '])
        {
            bail!("--host takes a name or an address such as syn1.example.org, not \"{host}\"");
        }
        let names = [machine::name()].into_iter().chain(self.host.clone()).collect();
        Ok(Front { tls, code, origins: self.origin.clone(), names, host })
    }
}

/// How devices join by HTTP, for people; with the QR code where a terminal shows it.
pub(crate) fn lines(link: &JoinLink, http: SocketAddr, with_qr: bool) -> String {
    let url = link.url();
    let trust = link.authority.map_or_else(String::new, |authority| format!(" --tls-fingerprint {authority}"));
    let mut lines = format!("  by HTTP:     syn1 node --join '{url}'{trust}\n");
    if http.ip().to_canonical().is_loopback() {
        return lines;
    }
    lines += &format!("  phones join: {url}\n");
    if let Some((_, left)) = link.code {
        lines += &format!("               (the code after the # lasts {})\n", hours(left));
    }
    match (link.certificate_url(), link.authority) {
        (Some(certificate), Some(authority)) => {
            lines += &format!(
                "  first, once: open {certificate} on the phone and trust it\n               (its SHA-256: {authority})\n"
            );
        }
        _ if link.page.starts_with("http:") => {
            lines += "               (browsers give a plain page no GPU: --tls auto makes it https)\n";
        }
        _ => {}
    }
    if with_qr && let Some(qr) = Qr::of(&url) {
        lines += &qr.terminal();
    }
    lines
}

/// The code of a link that has one.
pub(crate) fn code(link: &JoinLink) -> Option<&Code> {
    link.code.as_ref().map(|(code, _)| code)
}

/// That a code has expired, and what is good now.
pub(crate) fn expired(next: &JoinLink) -> String {
    match next.code {
        Some(_) => format!("the join code has expired; the new link is {}", next.url()),
        None => "the join code has expired: nodes that never joined are not let in any more".into(),
    }
}

fn hours(left: Duration) -> String {
    match left.as_secs().div_ceil(3600) {
        1 => "1 hour".into(),
        hours => format!("{hours} hours"),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Program {
        #[command(flatten)]
        front: FrontOptions,
    }

    fn options(args: &[&str]) -> FrontOptions {
        Program::try_parse_from([&["program"], args].concat()).unwrap().front
    }

    #[test]
    fn a_code_is_made_where_others_can_join_and_nobody_is_listed() {
        let code = |args: &[&str], http: &str, tcp: &str, listed| {
            options(args).front(http.parse().unwrap(), tcp.parse().unwrap(), listed).unwrap().code
        };
        let (here, open, lasts) = ("127.0.0.1:1", "0.0.0.0:1", Duration::from_secs(24 * 3600));
        assert_eq!(code(&[], here, here, false), JoinCode::None);
        assert_eq!(code(&[], open, here, false), JoinCode::Auto { lasts });
        assert_eq!(code(&[], here, open, false), JoinCode::Auto { lasts });
        assert_eq!(code(&[], open, open, true), JoinCode::None);
        assert_eq!(code(&["--join-code", "none"], open, open, false), JoinCode::None);
        assert_eq!(
            code(&["--join-code", "auto", "--join-code-hours", "24"], here, here, true),
            JoinCode::Auto { lasts }
        );
        let chosen = JoinCode::Chosen { code: "abc-def".parse().unwrap(), lasts: Duration::from_secs(3600) };
        assert_eq!(code(&["--join-code", "ABCDEF", "--join-code-hours", "1"], here, here, false), chosen);
    }

    #[test]
    fn options_that_contradict_each_other_are_refused() {
        for args in [
            &["--tls-cert", "a.pem"][..],
            &["--tls-key", "a.pem"],
            &["--tls", "auto", "--tls-cert", "a.pem", "--tls-key", "b.pem"],
            &["--join-code", "abc"],
            &["--join-code-hours", "0"],
            &["--origin", "a.example"],
        ] {
            let args = [&["program"], args].concat();
            assert!(Program::try_parse_from(&args).is_err(), "{args:?}");
        }
        let local = "127.0.0.1:1".parse().unwrap();
        assert!(options(&["--host", "http://a"]).front(local, local, false).is_err());
    }

    #[test]
    fn a_phone_is_told_what_it_needs_and_a_coordinator_of_this_machine_alone_says_less() {
        let (open, here) = ("0.0.0.0:7780".parse().unwrap(), "127.0.0.1:7780".parse().unwrap());
        let page = "https://192.168.1.10:7780/join".into();
        let code = Some(("abcdefgh".parse().unwrap(), Duration::from_secs(86_399)));
        let link = JoinLink { page, code, authority: Some(syn1_node_host::Digest([7; 32])) };
        let told = lines(&link, open, true);
        for part in ["join#ABCD-EFGH'", "--tls-fingerprint 0707", "24 hours", "http://192.168.1.10:7780/ca.crt", "█"]
        {
            assert!(told.contains(part), "{part}: {told}");
        }
        assert!(!lines(&link, here, true).contains("phone"));
        let plain = JoinLink { page: "http://192.168.1.10:7780/join".into(), code: None, authority: None };
        assert!(lines(&plain, open, false).contains("--tls auto"));
    }
}
