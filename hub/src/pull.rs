//! Whole models: into the hub's cache, or into a folder.

use std::path::{Path, PathBuf};

use syn1_model::limits::MAX_INDEX_BYTES;

use crate::check::Check;
use crate::endpoint::Endpoint;
use crate::error::{HubError, failed};
use crate::files::{Files, Index, RemoteFile, Weights};
use crate::meter::{Meter, Watch};
use crate::origin::Origin;
use crate::place::Place;
use crate::repo::Repo;

/// A model that was fetched.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// Where it is.
    pub folder: PathBuf,
    /// The commit, of a hub's model.
    pub commit: Option<String>,
    /// The names of its files.
    pub files: Vec<String>,
    /// Those of them that no hash was checked of: nobody promises one, or only parts of them came.
    pub unhashed: Vec<String>,
    /// Bytes that came.
    pub fetched_bytes: u64,
    /// Bytes that were here already.
    pub reused_bytes: u64,
}

/// Fetches a model into the endpoint's cache, where Python's tools find it as well. What is there is checked and kept.
///
/// # Errors
/// Those of [`Origin::hub`]; a model without configuration or safetensors; a connection that fails without progress; bytes
/// other than promised; a disk that fails; the cancellation. What came is kept and resumed the next time.
pub fn to_cache(endpoint: &Endpoint, repo: &Repo, watch: &Watch<'_>) -> Result<Pulled, HubError> {
    let origin = Origin::hub(endpoint, repo, watch)?;
    let commit = origin.commit().unwrap_or_default();
    let pulled = pull(&origin, &Place::Cache { cache: endpoint.cache(), repo, commit }, watch)?;
    endpoint.cache().note(repo, commit)?;
    Ok(pulled)
}

/// Fetches or copies a model into a folder. What is there is checked and kept; other files are never overwritten.
///
/// # Errors
/// As for [`to_cache`], and [`HubError::Taken`] for a file that is there and is another one.
pub fn to_folder(origin: &Origin, folder: &Path, watch: &Watch<'_>) -> Result<Pulled, HubError> {
    pull(origin, &Place::Folder(folder), watch)
}

fn pull(origin: &Origin, place: &Place<'_>, watch: &Watch<'_>) -> Result<Pulled, HubError> {
    let meter = Meter::new(watch);
    let Files { small, weights } = Files::find(origin, &meter)?;
    let mut files = small;
    let sharded = match weights {
        Weights::Single(file) => {
            files.push(file);
            None
        }
        Weights::Sharded(index) => {
            check_index(origin, &index)?;
            files.push(index.clone());
            Some(index)
        }
    };
    files.iter().for_each(|file| meter.expect(file.size));
    for file in &files {
        place.put(origin, file, &meter)?;
    }
    if let Some(index) = sharded {
        let path = place.folder().join(&index.name);
        let bytes = std::fs::read(&path).map_err(failed("read", &path))?;
        let shards = Index::parse(&bytes, origin)?.shards(origin, &meter, |_| true)?;
        shards.iter().for_each(|file| meter.expect(file.size));
        for file in &shards {
            place.put(origin, file, &meter)?;
        }
        files.extend(shards);
    }
    let unhashed = files.iter().filter(|file| file.check == Check::Length).map(|file| file.name.clone()).collect();
    let (fetched_bytes, reused_bytes) = meter.sums();
    let files = files.into_iter().map(|file| file.name).collect();
    let commit = origin.commit().map(str::to_owned);
    Ok(Pulled { folder: place.folder(), commit, files, unhashed, fetched_bytes, reused_bytes })
}

/// That an index is short enough to be read into memory.
pub(crate) fn check_index(origin: &Origin, index: &RemoteFile) -> Result<(), HubError> {
    if index.size <= MAX_INDEX_BYTES {
        return Ok(());
    }
    let reason = format!("it has {} bytes, the limit is {MAX_INDEX_BYTES}", index.size);
    Err(HubError::Content { file: index.name.clone(), whose: origin.whose().into(), reason })
}
