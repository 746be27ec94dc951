//! One request and its redirects. The reader's token goes to the hub and to nobody else.

use std::ops::Range;
use std::time::Duration;

use ureq::http::{HeaderMap, Method, Request, Response, Uri};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body};

use crate::endpoint::{Endpoint, Token, is_http};
use crate::error::HubError;
use crate::limits::{CONNECT_TIMEOUT, FIRST_BACKOFF, MAX_ATTEMPTS, MAX_REDIRECTS, MAX_RETRY_AFTER, STALL_TIMEOUT};
use crate::meter::Meter;
use crate::repo::Repo;

/// Asks one hub, or one web server.
pub(crate) struct Client {
    agent: Agent,
    /// None: a plain web server.
    hub: Option<Hub>,
}

/// What is particular to a hub.
struct Hub {
    site: Site,
    token: Option<Token>,
    /// Where a person accepts the model's licence.
    page: String,
    repo: Repo,
}

/// Scheme, host and port: who gets the token.
#[derive(PartialEq, Eq)]
struct Site(String, String, u16);

/// An answer with a body, or one that says that the range is wrong: HTTP 200, 206 or 416.
pub(crate) struct Answer {
    pub(crate) response: Response<Body>,
    /// The SHA-256 that the hub names before it redirects to the file store.
    pub(crate) linked: Option<String>,
}

/// A failed request.
pub(crate) enum Failure {
    /// Another attempt may mend it; the server may have said when.
    Again { cause: String, wait: Option<Duration> },
    /// Another attempt would fail as well.
    Final(HubError),
}

impl Client {
    /// For the files of one repository.
    pub(crate) fn hub(endpoint: &Endpoint, repo: &Repo) -> Result<Self, HubError> {
        let wrong = |reason| HubError::Address { url: endpoint.base().into(), reason };
        let site = Site::of(endpoint.base()).ok_or_else(|| wrong("it names no host"))?;
        let page = format!("{}/{}", endpoint.base(), repo.id());
        let hub = Hub { site, token: endpoint.token().cloned(), page, repo: repo.clone() };
        Ok(Self { agent: agent(), hub: Some(hub) })
    }

    /// For files of a web server.
    pub(crate) fn plain() -> Self {
        Self { agent: agent(), hub: None }
    }

    /// One request; redirects are followed. `what` is what is asked for, in words.
    pub(crate) fn ask(
        &self,
        method: &Method,
        what: &str,
        url: &str,
        range: Option<Range<u64>>,
    ) -> Result<Answer, Failure> {
        let (mut at, mut linked) = (url.to_owned(), None);
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(method, what, &at, range.clone())?;
            if self.is_hub(&at) {
                linked = mark(response.headers(), "x-linked-etag").or(linked);
            }
            let status = response.status().as_u16();
            match status {
                200 | 206 | 416 => return Ok(Answer { response, linked }),
                301 | 302 | 303 | 307 | 308 => {
                    at = redirected(what, &at, response.headers()).map_err(Failure::Final)?
                }
                _ => return Err(self.refuse(what, &at, status, response.headers())),
            }
        }
        Err(Failure::Final(HubError::Redirects { what: what.into(), url: url.into() }))
    }

    fn send(
        &self,
        method: &Method,
        what: &str,
        url: &str,
        range: Option<Range<u64>>,
    ) -> Result<Response<Body>, Failure> {
        // Compressed, a range would be one of other bytes.
        let mut request = Request::builder().method(method).uri(url).header("accept-encoding", "identity");
        if let Some(range) = range {
            request = request.header("range", format!("bytes={}-{}", range.start, range.end - 1));
        }
        let token = self.hub.as_ref().filter(|_| self.is_hub(url)).and_then(|hub| hub.token.as_ref());
        if let Some(token) = token {
            request = request.header("authorization", token.header());
        }
        let wrong = || Failure::Final(HubError::Address { url: url.into(), reason: "it is not a URL" });
        let untrusted = |cause| Failure::Final(HubError::Tls { what: what.into(), url: url.into(), cause });
        let request = request.body(()).map_err(|_| wrong())?;
        self.agent.run(request).map_err(|error| match error {
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => wrong(),
            ureq::Error::Tls(_) | ureq::Error::Rustls(_) => untrusted(error.to_string()),
            // A certificate that is refused comes as a failed read.
            ureq::Error::Io(ref io) if io.kind() == std::io::ErrorKind::InvalidData => untrusted(error.to_string()),
            error => Failure::Again { cause: error.to_string(), wait: None },
        })
    }

    fn is_hub(&self, url: &str) -> bool {
        self.hub.as_ref().is_some_and(|hub| Site::of(url).is_some_and(|site| site == hub.site))
    }

    /// What a status means.
    fn refuse(&self, what: &str, url: &str, status: u16, headers: &HeaderMap) -> Failure {
        let hub = self.hub.as_ref().filter(|_| self.is_hub(url));
        let (what, url) = (what.to_owned(), unsigned(url).to_owned());
        Failure::Final(match (status, hub) {
            (401 | 403, Some(hub)) => HubError::Refused { what, status, remedy: hub.remedy() },
            // The file store's addresses are signed for a while: the hub gives a fresh one.
            (403, None) if self.hub.is_some() => return Failure::Again { cause: format!("HTTP {status}"), wait: None },
            (404, _) => HubError::NotFound { what, url, remedy: "check the names" },
            (408 | 429 | 500.., _) => {
                let seconds = mark(headers, "retry-after").and_then(|value| value.parse().ok());
                let wait = seconds.map(|seconds| Duration::from_secs(seconds).min(MAX_RETRY_AFTER));
                return Failure::Again { cause: format!("HTTP {status}"), wait };
            }
            _ => HubError::Status { what, url, status },
        })
    }
}

impl Hub {
    fn remedy(&self) -> String {
        let (page, repo) = (&self.page, &self.repo);
        if self.token.is_none() {
            return format!(
                "if {repo} is gated, accept the licence on {page} and set HF_TOKEN to a token of that account; a model that \
                 is private or does not exist is answered in the same way"
            );
        }
        format!(
            "accept the licence on {page} with the account of the token that was sent (HF_TOKEN, or the file token in \
             HF_HOME), and check that the token is still valid"
        )
    }
}

impl Site {
    fn of(url: &str) -> Option<Self> {
        let url: Uri = url.parse().ok()?;
        let scheme = url.scheme_str()?.to_owned();
        let port = url.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
        Some(Self(scheme, url.host()?.to_ascii_lowercase(), port))
    }
}

/// Attempts without progress.
#[derive(Default)]
pub(crate) struct Attempts(u32);

impl Attempts {
    /// Counts a failure and waits, longer each time; an error when it was one too many, or a final one.
    pub(crate) fn failed(
        &mut self,
        what: &str,
        url: &str,
        failure: Failure,
        meter: &Meter<'_>,
    ) -> Result<(), HubError> {
        let (cause, wait) = match failure {
            Failure::Again { cause, wait } => (cause, wait),
            Failure::Final(error) => return Err(error),
        };
        self.0 += 1;
        if self.0 >= MAX_ATTEMPTS {
            return Err(HubError::Cut { what: what.into(), url: url.into(), attempts: self.0, cause });
        }
        tracing::debug!(what, url, cause, "transfer failed, trying again");
        if let Some(wait) = wait.filter(|wait| *wait > FIRST_BACKOFF * 8) {
            meter.notice(format!("{what}: {cause}; the server asks to wait {} s", wait.as_secs()));
        }
        meter.pause(wait.unwrap_or_default().max(FIRST_BACKOFF * 2_u32.pow(self.0 - 1)))
    }
}

/// A header that marks a version, without the quotes and the prefix of weak ones.
pub(crate) fn mark(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?.trim();
    Some(value.strip_prefix("W/").unwrap_or(value).trim_matches('"').to_owned())
}

/// Where a redirect leads.
fn redirected(what: &str, url: &str, headers: &HeaderMap) -> Result<String, HubError> {
    let target = headers.get("location").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let refused = |reason| {
        let (what, url) = (what.to_owned(), unsigned(url).to_owned());
        let target = unsigned(target).chars().take(200).collect();
        Err(HubError::Redirect { what, url, target, reason })
    };
    let Some(joined) = join(url, target) else { return refused("it is not an address") };
    if url.starts_with("https://") && !joined.starts_with("https://") {
        return refused("it leaves the secure connection");
    }
    Ok(joined)
}

/// An address without its query, for messages: the file store's has a signature there, which is a right to read.
fn unsigned(url: &str) -> &str {
    url.split('?').next().unwrap_or(url)
}

/// `target` as seen from `url`: an address, or a path from the server's root, which is all that hubs send.
fn join(url: &str, target: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let host = rest.split('/').next()?;
    let joined = match target {
        _ if target.starts_with("//") => format!("{scheme}:{target}"),
        _ if target.starts_with('/') => format!("{scheme}://{host}{target}"),
        _ => target.to_owned(),
    };
    let server = joined.split(['?', '#']).next()?;
    is_http(server).then_some(joined)
}

fn agent() -> Agent {
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let tls = TlsConfig::builder()
        // Those of the system, so that a company's own are known, too.
        .root_certs(RootCerts::PlatformVerifier)
        .unversioned_rustls_crypto_provider(provider)
        .build();
    Agent::config_builder()
        .tls_config(tls)
        .http_status_as_error(false)
        .max_redirects(0)
        .user_agent(concat!("syn1/", env!("CARGO_PKG_VERSION")))
        .timeout_resolve(Some(CONNECT_TIMEOUT))
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(STALL_TIMEOUT))
        .timeout_per_read(Some(STALL_TIMEOUT))
        .build()
        .new_agent()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_is_scheme_host_and_port() {
        let same = |a, b| Site::of(a) == Site::of(b);
        assert!(same("https://hub/a", "https://HUB:443/b?c"));
        for other in ["http://hub/", "https://hub:444/", "https://hub.evil/", "https://evil/hub"] {
            assert!(!same("https://hub/", other), "{other}");
        }
    }

    #[test]
    fn redirects_lead_to_addresses_and_never_out_of_a_secure_connection() {
        let to = |target: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("location", target.parse().unwrap());
            redirected("x", "https://hub:1/a/b", &headers)
        };
        assert_eq!(to("/c?d=e").unwrap(), "https://hub:1/c?d=e");
        assert_eq!(to("https://store/c?d=e@f").unwrap(), "https://store/c?d=e@f");
        assert_eq!(to("//store/c").unwrap(), "https://store/c");
        assert!(to("http://store/c").unwrap_err().to_string().contains("secure"));
        for wrong in ["", "c", "file:///etc/passwd", "https://"] {
            assert!(matches!(to(wrong), Err(HubError::Redirect { .. })), "{wrong}");
        }
    }
}
