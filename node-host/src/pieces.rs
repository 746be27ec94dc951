//! Where a shard's pieces come from: a folder on this machine, or the coordinator by way of the cache.

use std::cell::Cell;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use syn1_model::{
    Digest, FolderError, Manifest, ManifestPiece, ModelFolder, PieceBytes, PieceError, Plan, WeightFormat, load_piece,
};
use syn1_node::Progress;

use crate::cache::Cache;
use crate::fetch::{FetchError, Fetcher, Watch};

/// The folders of this machine with weights in them.
pub(crate) struct Local {
    first: Place,
    others: Vec<PathBuf>,
}

/// What a folder holds.
#[derive(Clone)]
pub(crate) enum Place {
    /// A whole model: a Hugging Face folder or a split folder.
    Model(Arc<ModelFolder>),
    /// Some pieces, named by their SHA-256; the others come from the coordinator.
    Pieces(PathBuf),
}

/// A source of pieces.
#[derive(Clone)]
pub(crate) enum Origin {
    /// A whole model of this machine.
    Folder(Arc<ModelFolder>),
    /// The coordinator, what came from it before, and a folder that is looked into first.
    Coordinator { cache: Cache, fetcher: Fetcher, beside: Option<PathBuf> },
}

/// The pieces of a plan, in its order, each verified.
pub(crate) struct Gathered {
    pub(crate) pieces: Vec<PieceBytes>,
    /// Bytes that came over the network.
    pub(crate) fetched_bytes: u64,
}

/// Why a plan's pieces could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GatherError {
    #[error("the local weights cannot be used: {0}")]
    Folder(#[from] FolderError),
    #[error(
        "the local weights are not what the coordinator serves: {0}; leave the folder out to fetch them from there"
    )]
    Other(PieceError),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("the manifest lists no piece {0}: split the model again on the coordinator")]
    Unlisted(String),
    /// Blocks that were rounded with a text which only the split saw.
    #[error("{} is not split, and the coordinator's weights are calibrated: name its split folder, or none", path.display())]
    Calibrated {
        /// The folder.
        path: std::path::PathBuf,
    },
}

impl Local {
    /// Opens the first folder; the others, with whole models, are looked for when they are needed. Nothing if there are none.
    pub(crate) fn open(paths: &[PathBuf]) -> Result<Option<Self>, FolderError> {
        let Some((first, others)) = paths.split_first() else { return Ok(None) };
        Ok(Some(Self { first: Place::open(first)?, others: others.to_vec() }))
    }

    /// The first folder that has weights of this format; the very first one if none has, which says so when it is used.
    pub(crate) fn having(&self, format: WeightFormat) -> Result<Place, GatherError> {
        let has = |folder: &ModelFolder| folder.manifest().is_none_or(|manifest| manifest.format == format);
        if let Place::Model(first) = &self.first
            && !has(first)
        {
            for path in self.others.iter().filter(|path| path.exists()) {
                let folder = ModelFolder::open(path)?;
                if has(&folder) {
                    return Ok(Place::Model(Arc::new(folder)));
                }
            }
        }
        Ok(self.first.clone())
    }
}

impl Place {
    /// Opens a model's folder, or one that has no model but pieces in it.
    fn open(path: &Path) -> Result<Self, FolderError> {
        match ModelFolder::open(path) {
            Err(FolderError::NoModel { .. }) if has_pieces(path) => Ok(Self::Pieces(path.to_owned())),
            opened => Ok(Self::Model(Arc::new(opened?))),
        }
    }
}

/// Whether a folder has a file that is named as a piece is.
fn has_pieces(path: &Path) -> bool {
    let is_piece = |name: &OsStr| {
        let hash = name.to_str().and_then(|name| name.strip_suffix(".bin"));
        hash.is_some_and(|hash| hash.parse::<Digest>().is_ok())
    };
    std::fs::read_dir(path).is_ok_and(|entries| entries.flatten().any(|entry| is_piece(&entry.file_name())))
}

/// A piece of a folder that need not have it. One that is there but damaged is told of and passed over.
fn piece_of(folder: &Path, listed: &ManifestPiece, notice: &dyn Fn(String)) -> Option<PieceBytes> {
    if !folder.join(listed.file_name()).exists() {
        return None;
    }
    match load_piece(folder, listed) {
        Ok(bytes) => Some(bytes),
        Err(err) => {
            notice(format!("{err}; it comes from the coordinator now"));
            None
        }
    }
}

impl Origin {
    /// Gets and verifies the plan's pieces. Blocks for as long as it takes.
    pub(crate) fn gather(
        &self,
        plan: &Plan,
        manifest: &Manifest,
        progress: &dyn Fn(Progress),
        notice: &dyn Fn(String),
        cancelled: &AtomicBool,
    ) -> Result<Gathered, GatherError> {
        if let (Self::Folder(folder), Some(_)) = (self, &manifest.origin.calibration)
            && folder.source().is_some()
        {
            return Err(GatherError::Calibrated { path: folder.path().into() });
        }
        let listed = plan.pieces.iter().map(|&piece| {
            manifest.find(piece).map(|listed| (piece, listed)).ok_or_else(|| GatherError::Unlisted(piece.to_string()))
        });
        let listed = listed.collect::<Result<Vec<_>, _>>()?;
        let total_bytes = listed.iter().map(|(_, listed)| listed.bytes).sum();
        let before = Cell::new(0);
        let tell = |piece_bytes| progress(Progress { done_bytes: before.get() + piece_bytes, total_bytes });
        tell(0);
        let watch = Watch { progress: &tell, notice, waited: Cell::new(false), cancelled };
        let (mut pieces, mut fetched_bytes) = (Vec::with_capacity(listed.len()), 0);
        for &(piece, listed) in &listed {
            if cancelled.load(Ordering::Relaxed) {
                return Err(FetchError::Cancelled.into());
            }
            pieces.push(match self {
                Self::Folder(folder) => {
                    let bytes = folder.piece(piece, manifest.format)?;
                    // A split folder's pieces were verified against its own manifest, which may be another model's.
                    listed.verify(bytes.as_slice(), &folder.path().display()).map_err(GatherError::Other)?;
                    bytes
                }
                Self::Coordinator { cache, fetcher, beside } => {
                    match beside.as_deref().and_then(|folder| piece_of(folder, listed, notice)) {
                        Some(bytes) => bytes,
                        None => {
                            let fetched = fetcher.piece(cache, listed, &watch)?;
                            fetched_bytes += fetched.network_bytes;
                            fetched.bytes
                        }
                    }
                }
            });
            before.set(before.get() + listed.bytes);
            tell(0);
        }
        if let Self::Coordinator { cache, .. } = self {
            let keep: Vec<_> = manifest.pieces.iter().map(|listed| listed.sha256).collect();
            if let Err(err) = cache.evict(&keep) {
                // The pieces are at hand: a cache that grows too large is no reason not to serve.
                notice(err.to_string());
            }
        }
        Ok(Gathered { pieces, fetched_bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_that_has_the_format_is_taken_also_when_it_came_later() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/gpt2");
        let folder = tempfile::tempdir().unwrap();
        let [f16, int8] = ["f16", "int8"].map(|name| folder.path().join(name));
        let split = |out: &Path, format| syn1_model::split(&source, out, format, &mut |_| {}).unwrap();
        split(&f16, WeightFormat::F16);
        let local = Local::open(&[f16.clone(), int8.clone()]).unwrap().unwrap();
        let path = |format| match local.having(format).unwrap() {
            Place::Model(folder) => folder.path().to_owned(),
            Place::Pieces(folder) => folder,
        };
        assert_eq!(path(WeightFormat::Int8), f16, "its error names both formats");
        split(&int8, WeightFormat::Int8);
        assert_eq!(path(WeightFormat::Int8), int8);
        assert_eq!(path(WeightFormat::F16), f16);
        // A Hugging Face folder has every format.
        let local = Local::open(&[source.clone(), int8]).unwrap().unwrap();
        assert!(matches!(local.having(WeightFormat::Int8), Ok(Place::Model(folder)) if folder.path() == source));
        assert!(Local::open(&[]).unwrap().is_none());
        assert!(Local::open(&[folder.path().join("nowhere")]).is_err());
    }
}
