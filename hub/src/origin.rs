//! Where a model comes from: a hub, a web server that has the same file names, or a folder.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use syn1_model::Digest;
use ureq::http::Method;

use crate::check::Check;
use crate::client::{Attempts, Client, Failure, mark};
use crate::endpoint::{Endpoint, is_http};
use crate::error::{HubError, failed};
use crate::files::RemoteFile;
use crate::limits::{CHUNK_BYTES, MAX_LISTING_BYTES};
use crate::meter::{Meter, Watch};
use crate::part::Sink;
use crate::repo::{Repo, is_commit};
use crate::transfer::{Filled, fetch, version};

/// A model elsewhere.
pub struct Origin {
    whose: String,
    place: Place,
}

enum Place {
    Hub { client: Client, commit: String, files: BTreeMap<String, RemoteFile> },
    Web { client: Client, base: String },
    Folder(PathBuf),
}

/// What a hub says about a repository at a revision.
#[derive(Deserialize)]
struct Listing {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Digest,
    size: u64,
}

impl Origin {
    /// A repository of a hub, at the commit that its revision is now.
    ///
    /// # Errors
    /// When the network is forbidden, the hub cannot be reached, knows no such repository or revision, or does not let
    /// the reader in.
    pub fn hub(endpoint: &Endpoint, repo: &Repo, watch: &Watch<'_>) -> Result<Self, HubError> {
        if endpoint.offline() {
            return Err(HubError::Offline { what: repo.to_string() });
        }
        let client = Client::hub(endpoint, repo)?;
        let (base, id) = (endpoint.base(), repo.id());
        let url = format!("{base}/api/models/{id}/revision/{}?blobs=true", repo.revision().replace('/', "%2F"));
        let what = format!("model {id} at revision {}", repo.revision());
        let wrong = |reason: String| HubError::Listing { url: url.clone(), reason };
        let bytes = read_listing(&client, &what, &url, &Meter::new(watch))?;
        let listing: Listing = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
        if !is_commit(&listing.sha) {
            return Err(wrong(format!("its commit '{}' is not a git id", listing.sha)));
        }
        let file = |sibling: Sibling| {
            let (check, size) = sibling.promise()?;
            let url = format!("{base}/{id}/resolve/{}/{}", listing.sha, sibling.rfilename);
            Some((sibling.rfilename.clone(), RemoteFile { name: sibling.rfilename, url, size, check, version: None }))
        };
        let files = listing.siblings.into_iter().filter_map(file).collect();
        Ok(Self { whose: repo.to_string(), place: Place::Hub { client, commit: listing.sha, files } })
    }

    /// A web server where the files lie under `url`: `URL/config.json` and so on. It promises no hashes: what comes is
    /// only checked by its length.
    ///
    /// # Errors
    /// An address that is none.
    pub fn web(url: &str) -> Result<Self, HubError> {
        let base = url.trim_end_matches('/').to_owned();
        if !is_http(&base) {
            let reason = "it must begin with https:// or http:// and have neither '?', '#' nor '@'";
            return Err(HubError::Address { url: url.into(), reason });
        }
        Ok(Self { whose: base.clone(), place: Place::Web { client: Client::plain(), base } })
    }

    /// A model's folder. Where it is a snapshot in a hub's cache, its files' names say their hashes, which are checked.
    pub fn folder(path: &Path) -> Self {
        Self { whose: path.display().to_string(), place: Place::Folder(path.into()) }
    }

    /// The repository, address or folder, for messages.
    pub fn whose(&self) -> &str {
        &self.whose
    }

    /// The commit, of a hub's model.
    pub fn commit(&self) -> Option<&str> {
        match &self.place {
            Place::Hub { commit, .. } => Some(commit),
            Place::Web { .. } | Place::Folder(_) => None,
        }
    }

    /// A file by its name, if the model has it.
    pub(crate) fn find(&self, name: &str, meter: &Meter<'_>) -> Result<Option<RemoteFile>, HubError> {
        match &self.place {
            Place::Hub { files, .. } => Ok(files.get(name).cloned()),
            Place::Web { client, base } => head(client, name, format!("{base}/{name}"), meter),
            Place::Folder(dir) => stat(name, &dir.join(name)),
        }
    }

    /// Appends to `sink` the bytes of `range` that it does not have, behind `base` bytes of other things.
    pub(crate) fn fetch(
        &self,
        file: &RemoteFile,
        range: Range<u64>,
        sink: &mut impl Sink,
        base: u64,
        meter: &Meter<'_>,
    ) -> Result<Filled, HubError> {
        match &self.place {
            Place::Hub { client, .. } | Place::Web { client, .. } => fetch(client, file, range, sink, base, meter),
            Place::Folder(dir) => copy(&dir.join(&file.name), file, range, sink, base, meter),
        }
    }

    /// Bytes of a file, which are few.
    pub(crate) fn read(&self, file: &RemoteFile, range: Range<u64>, meter: &Meter<'_>) -> Result<Vec<u8>, HubError> {
        let mut bytes = Vec::new();
        meter.expect(range.end - range.start);
        self.fetch(file, range, &mut bytes, 0, meter)?;
        Ok(bytes)
    }
}

impl Sibling {
    /// Hash and length; none for an entry that does not say them, which is then as good as absent.
    fn promise(&self) -> Option<(Check, u64)> {
        match (&self.lfs, &self.blob_id, self.size) {
            (Some(lfs), ..) => Some((Check::Sha256(lfs.sha256), lfs.size)),
            (None, Some(id), Some(size)) if is_commit(id) => Some((Check::Git(id.clone()), size)),
            _ => None,
        }
    }
}

fn read_listing(client: &Client, what: &str, url: &str, meter: &Meter<'_>) -> Result<Vec<u8>, HubError> {
    let mut attempts = Attempts::default();
    loop {
        let failure = match client.ask(&Method::GET, what, url, None) {
            Ok(mut answer) => match answer.response.body_mut().with_config().limit(MAX_LISTING_BYTES).read_to_vec() {
                Ok(bytes) => return Ok(bytes),
                Err(ureq::Error::BodyExceedsLimit(limit)) => {
                    let reason = format!("it has more than {limit} bytes");
                    return Err(HubError::Listing { url: url.into(), reason });
                }
                Err(error) => Failure::Again { cause: error.to_string(), wait: None },
            },
            Err(failure) => failure,
        };
        attempts.failed(what, url, failure, meter)?;
    }
}

/// A web server's file, without its bytes.
fn head(client: &Client, name: &str, url: String, meter: &Meter<'_>) -> Result<Option<RemoteFile>, HubError> {
    let mut attempts = Attempts::default();
    loop {
        let failure = match client.ask(&Method::HEAD, name, &url, None) {
            Ok(answer) => {
                let said = mark(answer.response.headers(), "content-length").and_then(|value| value.parse().ok());
                let size = said.ok_or_else(|| HubError::Address {
                    url: url.clone(),
                    reason: "the server does not say how long the file is (content-length)",
                })?;
                let version = version(&answer);
                return Ok(Some(RemoteFile { name: name.into(), url, size, check: Check::Length, version }));
            }
            Err(Failure::Final(HubError::NotFound { .. })) => return Ok(None),
            Err(failure) => failure,
        };
        attempts.failed(name, &url, failure, meter)?;
    }
}

/// A folder's file, without its bytes.
fn stat(name: &str, path: &Path) -> Result<Option<RemoteFile>, HubError> {
    let size = match std::fs::metadata(path) {
        Ok(found) => found.len(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read", path)(error)),
    };
    let url = path.display().to_string();
    Ok(Some(RemoteFile { name: name.into(), url, size, check: named_hash(path), version: None }))
}

/// The hash that a file is named by: a link of a hub cache's snapshot leads to one.
fn named_hash(path: &Path) -> Check {
    let Ok(real) = std::fs::canonicalize(path) else { return Check::Length };
    let in_blobs = real.parent().is_some_and(|parent| parent.ends_with("blobs"));
    let name = real.file_name().and_then(|name| name.to_str()).filter(|_| in_blobs).unwrap_or_default();
    match name.parse() {
        Ok(digest) => Check::Sha256(digest),
        Err(_) if is_commit(name) => Check::Git(name.into()),
        Err(_) => Check::Length,
    }
}

/// [`fetch`] where the file is on this machine.
fn copy(
    path: &Path,
    file: &RemoteFile,
    range: Range<u64>,
    sink: &mut impl Sink,
    base: u64,
    meter: &Meter<'_>,
) -> Result<Filled, HubError> {
    let kept = sink.len() - base;
    let mut source = File::open(path).map_err(failed("open", path))?;
    source.seek(SeekFrom::Start(range.start + kept)).map_err(failed("read", path))?;
    let mut left = range.end - range.start - kept;
    let mut chunk = vec![0; CHUNK_BYTES];
    while left > 0 {
        meter.check()?;
        let room = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        match source.read(&mut chunk[..room]).map_err(failed("read", path))? {
            0 => {
                let (file, url, want) = (file.name.clone(), file.url.clone(), file.size);
                return Err(HubError::Size { file, url, got: range.end - left, want });
            }
            n => {
                sink.append(&chunk[..n])?;
                meter.came(&file.name, n as u64);
                left -= n as u64;
            }
        }
    }
    Ok(Filled { kept, resumed: kept > 0 })
}
