//! The hub's cache on this machine, in the layout of Python's tools, so that each finds what the other fetched.
//!
//! ```text
//! models--ORG--NAME/blobs/HASH              a file, named by its SHA-256 or its git id
//! models--ORG--NAME/snapshots/COMMIT/NAME   a link to it (a hard link or a copy where the system has no symbolic ones)
//! models--ORG--NAME/refs/REV                the commit that a branch or tag was
//! .locks/models--ORG--NAME/HASH.lock        held by whoever fetches the file
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use syn1_model::limits::MAX_INDEX_BYTES;
use syn1_model::weights::{INDEX, SINGLE};

use crate::error::{HubError, failed};
use crate::files::CONFIG;
use crate::limits::POLL;
use crate::meter::Meter;
use crate::repo::{Repo, is_commit};

/// A hub's cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubCache {
    dir: PathBuf,
}

impl HubCache {
    /// The cache in `dir`, which need not be there yet.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The folder of a model that is here, whole: its newest snapshot of that revision. The network is not asked.
    ///
    /// # Errors
    /// [`HubError::NotCached`] with what is missing.
    pub fn find(&self, repo: &Repo) -> Result<PathBuf, HubError> {
        let not_cached = |reason| HubError::NotCached { repo: repo.clone(), cache: self.dir.clone(), reason };
        let base = self.dir.join(repo.folder());
        let revision = repo.revision();
        let commit = match read_start(&base.join("refs").join(revision)) {
            Some(commit) => commit.trim().to_owned(),
            None if is_commit(revision) => revision.to_owned(),
            None if base.is_dir() => return Err(not_cached(format!("no revision {revision} of it was fetched"))),
            None => return Err(not_cached("nothing of it was fetched".into())),
        };
        if !is_commit(&commit) {
            return Err(not_cached(format!("its refs/{revision} holds no commit")));
        }
        let folder = base.join("snapshots").join(commit);
        match missing(&folder) {
            None => Ok(folder),
            Some(file) => Err(not_cached(format!("{file} is missing"))),
        }
    }

    /// Where a file of this hash lies.
    pub(crate) fn blob(&self, repo: &Repo, hash: &str) -> Result<PathBuf, HubError> {
        let blobs = self.dir.join(repo.folder()).join("blobs");
        fs::create_dir_all(&blobs).map_err(failed("create", &blobs))?;
        Ok(blobs.join(hash))
    }

    pub(crate) fn snapshot(&self, repo: &Repo, commit: &str) -> PathBuf {
        self.dir.join(repo.folder()).join("snapshots").join(commit)
    }

    /// Puts a blob into a snapshot under its name.
    pub(crate) fn link(&self, repo: &Repo, commit: &str, name: &str, hash: &str) -> Result<PathBuf, HubError> {
        let folder = self.snapshot(repo, commit);
        fs::create_dir_all(&folder).map_err(failed("create", &folder))?;
        let blob = self.blob(repo, hash)?;
        let link = folder.join(name);
        // A commit's file is always the same: what leads to it may stay, what does not is damaged.
        match (fs::canonicalize(&link), fs::canonicalize(&blob)) {
            (Ok(found), Ok(wanted)) if found == wanted => return Ok(link),
            _ => match fs::remove_file(&link) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed("delete", &link)(error)),
                _ => {}
            },
        }
        let target = Path::new("..").join("..").join("blobs").join(hash);
        symlink(&target, &link)
            .or_else(|_| fs::hard_link(&blob, &link))
            .or_else(|_| fs::copy(&blob, &link).map(drop))
            .map_err(failed("create", &link))?;
        Ok(link)
    }

    /// Notes which commit the revision was. Last of all, so that a revision that is noted is whole.
    pub(crate) fn note(&self, repo: &Repo, commit: &str) -> Result<(), HubError> {
        if repo.revision() == commit {
            return Ok(());
        }
        let path = self.dir.join(repo.folder()).join("refs").join(repo.revision());
        let parent = path.parent().unwrap_or(&path);
        fs::create_dir_all(parent).map_err(failed("create", parent))?;
        fs::write(&path, commit).map_err(failed("write", &path))
    }

    /// Takes the lock that whoever fetches a file holds; waits for it. File systems without locks have none to wait for.
    pub(crate) fn lock(&self, repo: &Repo, hash: &str, name: &str, meter: &Meter<'_>) -> Result<File, HubError> {
        let folder = self.dir.join(".locks").join(repo.folder());
        fs::create_dir_all(&folder).map_err(failed("create", &folder))?;
        let path = folder.join(format!("{hash}.lock"));
        let opened = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = opened.map_err(failed("open", &path))?;
        let mut said = false;
        while matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
            if !said {
                meter.notice(format!("another program is fetching {name}: waiting for it"));
                said = true;
            }
            meter.pause(POLL)?;
        }
        Ok(file)
    }
}

/// A file that the folder lacks to be a model.
fn missing(folder: &Path) -> Option<String> {
    let lacks = |name: &str| !folder.join(name).is_file();
    if lacks(CONFIG) {
        return Some(CONFIG.into());
    }
    if !lacks(SINGLE) {
        return None;
    }
    let index = File::open(folder.join(INDEX)).ok().and_then(|file| {
        let parsed: Option<crate::files::Index> = serde_json::from_reader(file.take(MAX_INDEX_BYTES)).ok();
        parsed
    });
    match index {
        None => Some(SINGLE.into()),
        Some(index) => index.weight_map.into_values().find(|shard| lacks(shard)),
    }
}

/// What a ref says, which is short.
fn read_start(path: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(100).read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}

#[cfg(not(any(unix, windows)))]
fn symlink(_: &Path, _: &Path) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn repo(text: &str) -> Repo {
        text.parse().unwrap()
    }

    /// A snapshot with these files, as Python's tools leave it.
    fn cache(files: &[(&str, &str)]) -> (tempfile::TempDir, HubCache) {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("models--a--b");
        let snapshot = base.join("snapshots").join(COMMIT);
        fs::create_dir_all(&snapshot).unwrap();
        fs::create_dir_all(base.join("refs/refs/pr")).unwrap();
        fs::write(base.join("refs/main"), COMMIT).unwrap();
        fs::write(base.join("refs/refs/pr/1"), COMMIT).unwrap();
        for (name, text) in files {
            fs::write(snapshot.join(name), text).unwrap();
        }
        let cache = HubCache::new(dir.path());
        (dir, cache)
    }

    #[test]
    fn a_snapshot_is_found_by_branch_and_by_commit() {
        let (_dir, cache) = cache(&[("config.json", "{}"), ("model.safetensors", "")]);
        let folder = cache.snapshot(&repo("a/b"), COMMIT);
        for text in ["a/b", "a/b@main", "a/b@refs/pr/1", &format!("a/b@{COMMIT}")] {
            assert_eq!(cache.find(&repo(text)).unwrap(), folder, "{text}");
        }
    }

    #[test]
    fn what_is_missing_is_named_with_the_command_that_fetches_it() {
        let index = r#"{"weight_map": {"x": "one.safetensors", "y": "two.safetensors"}}"#;
        for (files, text, part) in [
            (&[][..], "a/c", "nothing of it"),
            (&[], "a/b@v2", "no revision v2"),
            (&[], "a/b", "config.json"),
            (&[("config.json", "{}")], "a/b", "model.safetensors"),
            (
                &[("config.json", "{}"), ("model.safetensors.index.json", index), ("one.safetensors", "")],
                "a/b",
                "two.safetensors",
            ),
        ] {
            let (_dir, cache) = cache(files);
            let error = cache.find(&repo(text)).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains(&format!("`syn1 pull {text}`")), "{error}");
        }
    }

    #[test]
    fn a_link_leads_to_its_blob_and_one_that_leads_nowhere_is_made_again() {
        let (_dir, cache) = cache(&[("config.json", "not the blob")]);
        let repo = repo("a/b");
        fs::write(cache.blob(&repo, "feed").unwrap(), "the blob").unwrap();
        for _ in 0..2 {
            let link = cache.link(&repo, COMMIT, "config.json", "feed").unwrap();
            assert_eq!(fs::read_to_string(link).unwrap(), "the blob");
        }
        #[cfg(unix)]
        {
            let link = cache.snapshot(&repo, COMMIT).join("config.json");
            assert_eq!(fs::read_link(link).unwrap(), Path::new("../../blobs/feed"));
        }
        cache.note(&repo, &COMMIT.replace('0', "f")).unwrap();
        assert!(cache.find(&repo).is_err(), "the ref leads to another commit now");
    }
}
