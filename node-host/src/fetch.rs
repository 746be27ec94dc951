//! The manifest and the pieces over HTTP: resumed after a cut, retried with backoff, verified before use.
//!
//! Blocking on purpose: a transfer runs on a thread of its own, beside the node that answers pings meanwhile.

use std::cell::Cell;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use syn1_model::{Digest, Manifest, ManifestPiece, PieceBytes};
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::cache::{Cache, CacheError, Lookup, Part};

/// A coordinator's shard server.
#[derive(Clone, Debug)]
pub struct Fetcher {
    agent: ureq::Agent,
    base: String,
}

/// What a transfer reports to and obeys.
pub struct Watch<'a> {
    /// Called with the bytes of the piece at hand, those of earlier attempts included.
    pub progress: &'a dyn Fn(u64),
    /// Called with what a person should know although it mends itself.
    pub notice: &'a dyn Fn(String),
    /// Whether a notice has said that another node of this machine is being waited for: once is enough.
    pub waited: Cell<bool>,
    /// Set from outside: the transfer ends at the next chunk.
    pub cancelled: &'a AtomicBool,
}

/// A piece and what it took.
#[derive(Debug)]
pub struct Fetched {
    /// The verified bytes.
    pub bytes: PieceBytes,
    /// Bytes that came over the network for it; 0 when it was in the cache.
    pub network_bytes: u64,
}

/// Why the manifest or a piece could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The cache failed.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The server answered, but not with the bytes.
    #[error("{what}: {url} answered HTTP {status}: {remedy}")]
    Status {
        /// The piece, or "manifest".
        what: String,
        /// Where it was asked for.
        url: String,
        /// The status code.
        status: u16,
        /// What to do.
        remedy: &'static str,
    },
    /// The connection failed again and again without a byte of progress.
    #[error(
        "{what}: {url} failed {attempts} times in a row, last: {cause}; is the coordinator's HTTP port reachable from here?"
    )]
    Cut {
        /// The piece, or "manifest".
        what: String,
        /// Where it was asked for.
        url: String,
        /// Attempts without progress.
        attempts: u32,
        /// The last failure.
        cause: String,
    },
    /// The bytes are not what the coordinator's manifest promises.
    #[error(
        "piece {piece} from {url} has SHA-256 {got}, the manifest says {want}: its file on the coordinator is damaged, \
         split the model again there"
    )]
    Hash {
        /// The piece.
        piece: String,
        /// Where it came from.
        url: String,
        /// The hash of what came.
        got: Digest,
        /// The hash that was promised.
        want: Digest,
    },
    /// The manifest is not the one that the coordinator announced.
    #[error(
        "the manifest from {url} has SHA-256 {got}, the coordinator announced {want}: is another coordinator on that port?"
    )]
    Manifest {
        /// Where it came from.
        url: String,
        /// The hash of what came.
        got: Digest,
        /// The hash that was announced.
        want: Digest,
    },
    /// [`Watch::cancelled`] was set.
    #[error("the transfer was cancelled")]
    Cancelled,
}

impl Fetcher {
    /// A fetcher from `http://{authority}/shards`; `authority` is host and port as in a URL: IPv6 addresses in brackets.
    pub fn plain(authority: &str) -> Self {
        Self { agent: agent(TlsConfig::default()), base: format!("http://{authority}/shards") }
    }

    /// The same by HTTPS, from whom the authorities `roots` vouch for; those of the system if there are none.
    pub fn tls(authority: &str, roots: Option<&[CertificateDer<'_>]>) -> Self {
        let certificates = |roots: &[CertificateDer<'_>]| -> Vec<Certificate<'static>> {
            roots.iter().map(|root| Certificate::from_der(root).to_owned()).collect()
        };
        let roots = roots.map_or(RootCerts::PlatformVerifier, |roots| RootCerts::new_with_certs(&certificates(roots)));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = TlsConfig::builder().root_certs(roots).unversioned_rustls_crypto_provider(provider).build();
        Self { agent: agent(tls), base: format!("https://{authority}/shards") }
    }

    /// The manifest's bytes, whose SHA-256 is `want`.
    ///
    /// # Errors
    /// As for a piece.
    pub fn manifest(&self, want: Digest, cancelled: &AtomicBool) -> Result<Vec<u8>, FetchError> {
        let url = format!("{}/manifest.json", self.base);
        let mut attempts = Attempts::default();
        loop {
            let cause = match self.agent.get(&url).call() {
                Ok(mut response) if response.status() == 200 => {
                    match response.body_mut().with_config().limit(Manifest::MAX_BYTES + 1).read_to_vec() {
                        Ok(bytes) => return check_manifest(bytes, want, url),
                        Err(err) => err.to_string(),
                    }
                }
                Ok(response) => refuse_final("manifest", &url, response.status().as_u16())?,
                Err(err) => err.to_string(),
            };
            attempts.failed("manifest", &url, cause, cancelled)?;
        }
    }

    /// The bytes of a piece: from the cache, else over the network into the cache.
    ///
    /// # Errors
    /// When the server has no such piece, when it gives other bytes than promised, when the connection fails
    /// several times without progress, when the disk fails, and when it is cancelled.
    pub fn piece(&self, cache: &Cache, piece: &ManifestPiece, watch: &Watch<'_>) -> Result<Fetched, FetchError> {
        let mut part = loop {
            match cache.load(piece.sha256, piece.bytes)? {
                Lookup::Hit(bytes) => {
                    (watch.progress)(piece.bytes);
                    return Ok(Fetched { bytes, network_bytes: 0 });
                }
                Lookup::Corrupt => (watch.notice)(format!(
                    "piece {} in the cache no longer has its SHA-256: deleted, fetching it again",
                    piece.name
                )),
                Lookup::Miss => {}
            }
            match cache.part(piece.sha256)? {
                // Another node of this machine may have finished between the look and the lock.
                Some(part) => match cache.load(piece.sha256, piece.bytes)? {
                    Lookup::Hit(bytes) => return Ok(Fetched { bytes, network_bytes: 0 }),
                    Lookup::Corrupt | Lookup::Miss => break part,
                },
                None => {
                    if !watch.waited.replace(true) {
                        let name = &piece.name;
                        (watch.notice)(format!(
                            "another node of this machine is fetching piece {name}: waiting for it"
                        ));
                    }
                    pause(LOCK_POLL, watch.cancelled)?;
                }
            }
        };
        let url = format!("{}/{}", self.base, piece.sha256);
        let mut network_bytes = 0;
        loop {
            let resumed = !part.is_empty();
            network_bytes += self.download(piece, &url, &mut part, watch)?;
            match part.finish(piece.sha256)? {
                Ok(bytes) => return Ok(Fetched { bytes, network_bytes }),
                // The damage may be in what an earlier attempt left on this disk: once more from the first byte.
                Err(_) if resumed => {
                    (watch.notice)(format!(
                        "piece {} was damaged after a resume: fetching it from its start",
                        piece.name
                    ));
                }
                Err(got) => {
                    return Err(FetchError::Hash { piece: piece.name.clone(), url, got, want: piece.sha256 });
                }
            }
        }
    }

    /// Fills the part up to the piece's length; gives the bytes that came over the network.
    fn download(
        &self,
        piece: &ManifestPiece,
        url: &str,
        part: &mut Part,
        watch: &Watch<'_>,
    ) -> Result<u64, FetchError> {
        let what = format!("piece {}", piece.name);
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut attempts = Attempts::default();
        let mut network_bytes = 0;
        if part.len() > piece.bytes {
            part.reset()?;
        }
        while part.len() < piece.bytes {
            let before = part.len();
            let request = self.agent.get(url);
            let request = if before > 0 { request.header("range", format!("bytes={before}-")) } else { request };
            let cause = match request.call() {
                Ok(mut response) => {
                    let begins_at = match response.status().as_u16() {
                        200 => Some(0),
                        206 => range_start(response.headers().get("content-range")),
                        416 => None,
                        status => {
                            let cause = refuse_final(&what, url, status)?;
                            attempts.failed(&what, url, cause, watch.cancelled)?;
                            continue;
                        }
                    };
                    if begins_at != Some(before) {
                        // The server does not resume: from the start, in this answer if it begins there.
                        part.reset()?;
                    }
                    if begins_at == Some(part.len()) {
                        let mut body = response.body_mut().as_reader();
                        loop {
                            if watch.cancelled.load(Ordering::Relaxed) {
                                return Err(FetchError::Cancelled);
                            }
                            match body.read(&mut chunk) {
                                Ok(0) => break format!("it ended after {} of {} bytes", part.len(), piece.bytes),
                                Ok(n) => {
                                    // Never more than the manifest promises: what is too long has another hash anyway.
                                    let room = usize::try_from(piece.bytes - part.len()).unwrap_or(usize::MAX);
                                    part.append(&chunk[..n.min(room)])?;
                                    network_bytes += n as u64;
                                    (watch.progress)(part.len());
                                    if part.len() == piece.bytes {
                                        return Ok(network_bytes);
                                    }
                                }
                                Err(err) => break err.to_string(),
                            }
                        }
                    } else {
                        "the server did not send the range that was asked for".to_owned()
                    }
                }
                Err(err) => err.to_string(),
            };
            if part.len() > before {
                attempts = Attempts::default();
            }
            attempts.failed(&what, url, cause, watch.cancelled)?;
        }
        Ok(network_bytes)
    }
}

fn agent(tls: TlsConfig) -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        // The coordinator is on the local network: a proxy from the environment would not find it.
        .proxy(None)
        .tls_config(tls)
        .http_status_as_error(false)
        .max_redirects(0)
        .timeout_resolve(Some(CONNECT_TIMEOUT))
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(STALL_TIMEOUT))
        .timeout_per_read(Some(STALL_TIMEOUT))
        .build();
    config.new_agent()
}

/// Attempts without progress.
#[derive(Default)]
struct Attempts(u32);

impl Attempts {
    /// Counts a failure and waits, longer each time; an error when it was one too many.
    fn failed(&mut self, what: &str, url: &str, cause: String, cancelled: &AtomicBool) -> Result<(), FetchError> {
        self.0 += 1;
        if self.0 >= MAX_ATTEMPTS {
            return Err(FetchError::Cut { what: what.to_owned(), url: url.to_owned(), attempts: self.0, cause });
        }
        tracing::debug!(what, url, cause, "transfer failed, trying again");
        pause(FIRST_BACKOFF * 2u32.pow(self.0 - 1), cancelled)
    }
}

/// Waits, but not longer than until the transfer is cancelled.
fn pause(time: Duration, cancelled: &AtomicBool) -> Result<(), FetchError> {
    let mut left = time;
    while !left.is_zero() {
        if cancelled.load(Ordering::Relaxed) {
            return Err(FetchError::Cancelled);
        }
        let nap = left.min(LOCK_POLL);
        std::thread::sleep(nap);
        left -= nap;
    }
    Ok(())
}

/// An error for a status that another attempt cannot mend; the cause in words for one that it may.
fn refuse_final(what: &str, url: &str, status: u16) -> Result<String, FetchError> {
    let remedy = match status {
        408 | 429 | 500.. => return Ok(format!("HTTP {status}")),
        404 => "the coordinator does not have it; was it restarted with another model?",
        _ => "is that port the HTTP port of a syn1 coordinator?",
    };
    Err(FetchError::Status { what: what.to_owned(), url: url.to_owned(), status, remedy })
}

fn check_manifest(bytes: Vec<u8>, want: Digest, url: String) -> Result<Vec<u8>, FetchError> {
    let got = Digest::of(&bytes);
    if got == want { Ok(bytes) } else { Err(FetchError::Manifest { url, got, want }) }
}

/// The first byte that `content-range: bytes 5-9/10` speaks of.
fn range_start(value: Option<&ureq::http::HeaderValue>) -> Option<u64> {
    value?.to_str().ok()?.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}

/// Attempts without progress before a transfer is given up: with the backoff about three seconds.
const MAX_ATTEMPTS: u32 = 6;
/// Pause after the first failure; doubled after each further one.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
/// A machine on the local network answers within this or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A transfer without a byte for this long is cut and resumed.
const STALL_TIMEOUT: Duration = Duration::from_secs(15);
/// How often a lock that another node holds, or a cancellation, is looked at.
const LOCK_POLL: Duration = Duration::from_millis(50);
/// Bytes read at once.
const CHUNK_BYTES: usize = 256 << 10;

#[cfg(test)]
mod tests;
