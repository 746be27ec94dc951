//! Where whole files go: the hub's cache, or a folder.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::cache::HubCache;
use crate::check::Check;
use crate::error::{HubError, failed};
use crate::files::RemoteFile;
use crate::meter::Meter;
use crate::origin::Origin;
use crate::part::{Part, Sink};
use crate::repo::Repo;

/// Where whole files go.
pub(crate) enum Place<'a> {
    /// The snapshot of a commit.
    Cache { cache: &'a HubCache, repo: &'a Repo, commit: &'a str },
    /// A folder. Files that are there and are others are never overwritten.
    Folder(&'a Path),
}

impl Place<'_> {
    /// Its folder.
    pub(crate) fn folder(&self) -> PathBuf {
        match self {
            Self::Cache { cache, repo, commit } => cache.snapshot(repo, commit),
            Self::Folder(dir) => (*dir).to_owned(),
        }
    }

    /// Makes sure that the file is there, whole and checked; gives its path.
    pub(crate) fn put(&self, origin: &Origin, file: &RemoteFile, meter: &Meter<'_>) -> Result<PathBuf, HubError> {
        match self {
            Self::Cache { cache, repo, commit } => {
                let hash = file.check.name().unwrap_or_default();
                let _lock = cache.lock(repo, &hash, &file.name, meter)?;
                let blob = cache.blob(repo, &hash)?;
                if is_there(&blob, file, meter)? == Found::Other {
                    meter.notice(format!("{} in the cache no longer has its hash: fetching it again", file.name));
                    fs::remove_file(&blob).map_err(failed("delete", &blob))?;
                }
                if !blob.exists() {
                    obtain(origin, file, &blob, meter)?;
                }
                cache.link(repo, commit, &file.name, &hash)
            }
            Self::Folder(dir) => {
                fs::create_dir_all(dir).map_err(failed("create", dir))?;
                let path = dir.join(&file.name);
                match is_there(&path, file, meter)? {
                    Found::Same => {}
                    Found::Other => return Err(HubError::Taken { path }),
                    Found::Nothing => obtain(origin, file, &path, meter)?,
                }
                Ok(path)
            }
        }
    }
}

/// What is in a file's place.
#[derive(PartialEq, Eq)]
enum Found {
    Nothing,
    Same,
    Other,
}

fn is_there(path: &Path, file: &RemoteFile, meter: &Meter<'_>) -> Result<Found, HubError> {
    let mut found = match File::open(path) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(failed("open", path)(error)),
    };
    let read = failed("read", path);
    if found.metadata().map_err(&read)?.len() != file.size || !file.check.holds(file.size, &mut found).map_err(&read)? {
        return Ok(Found::Other);
    }
    meter.kept(&file.name, file.size);
    Ok(Found::Same)
}

/// Fetches a file to `target`, with what an earlier attempt left.
fn obtain(origin: &Origin, file: &RemoteFile, target: &Path, meter: &Meter<'_>) -> Result<(), HubError> {
    let mut part = Part::open(target, file.size, &file.check)?;
    if file.check == Check::Length {
        // Nothing tells whether these are bytes of the same file.
        part.cut(0)?;
    }
    meter.kept(&file.name, part.len());
    let mut again = true;
    loop {
        let filled = origin.fetch(file, 0..file.size, &mut part, 0, meter)?;
        let Some((want, got)) = part.mismatch() else {
            return part.finish(target);
        };
        if !(filled.resumed && again) {
            part.remove()?;
            let (name, url) = (file.name.clone(), file.url.clone());
            return Err(HubError::Hash { file: name, url, kind: file.check.kind(), got, want });
        }
        // The damage may be in what an earlier attempt left, or two versions were mixed: once more from the first byte.
        meter.notice(format!("{} was damaged after a resume: fetching it from its start", file.name));
        meter.lost(file.size, filled.kept);
        part.cut(0)?;
        again = false;
    }
}
